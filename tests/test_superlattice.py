"""Lattice indices, cells, defects and pairs on lattices whose answer is known."""

import numpy as np
import pandas as pd
import pytest

from mesotomo_utils.lattice import axes_by_rule, axis_angle, cell_matrix, cell_parameters
from mesotomo_utils.mapping import cell_errors, dot_table, indexing, superlattice

CELL = axis_angle([0.1, 0.2, 1.0], 0.5) @ cell_matrix(6.2, 6.0, 5.8, 98, 95, 93)
XYZ = ["x_nm", "y_nm", "z_nm"]


def disc(cell=CELL, *, layers=5, radius_nm=20.0, sd_nm=0.3, seed=0, keep=lambda sites, xyz: True):
    """Sites and centres of a disc-shaped film, bottom layer k = 0."""
    rng = np.random.default_rng(seed)
    sites = np.array([(i, j, k) for i in range(-8, 9) for j in range(-8, 9) for k in range(layers)])
    xyz = sites @ cell.T + rng.normal(0, sd_nm, sites.shape)
    chosen = (np.hypot(xyz[:, 0], xyz[:, 1]) < radius_nm) & keep(sites, xyz)
    return sites[chosen], xyz[chosen]


def agree(lattice, grain, sites):
    """Share of a grain's dots whose index is the true one up to one origin."""
    offset = lattice.index(grain) - sites[lattice.rows(grain)]
    _, counts = np.unique(offset, axis=0, return_counts=True)
    return counts.max() / len(offset)


def test_indices_are_grown_right_and_cell_found():
    sites, xyz = disc()
    lattice = superlattice.index_superlattice(xyz)
    assert len(lattice.vectors) == 1
    assert (lattice.sites["grain"] == 0).mean() > 0.98
    assert agree(lattice, 0, sites) == 1.0
    found, true = cell_parameters(lattice.vectors[0]), cell_parameters(CELL)
    for name in ("a_nm", "b_nm", "c_nm"):
        assert abs(found[name] - true[name]) < 0.05
    for name in ("alpha_deg", "beta_deg", "gamma_deg"):
        assert abs(found[name] - true[name]) < 0.6
    assert lattice.sites["layer"].max() == 5
    assert (lattice.sites["layer"] == lattice.sites["k"] + 1)[lattice.sites["grain"] == 0].all()


def test_order_and_origin_of_the_table_do_not_matter():
    sites, xyz = disc()
    order = np.random.default_rng(1).permutation(len(xyz))
    first = superlattice.index_superlattice(xyz)
    second = superlattice.index_superlattice(xyz[order] + [3.0, -2.0, 7.0])
    back = np.argsort(order)
    both = (first.sites["grain"] == 0).to_numpy() & (second.sites["grain"] == 0).to_numpy()[back]
    shift = (
        second.sites[["i", "j", "k"]].to_numpy(float)[back][both] - first.sites[["i", "j", "k"]].to_numpy(float)[both]
    )
    assert both.mean() > 0.97
    assert (shift == shift[0]).all()


def test_bottom_of_the_film_turns_the_layers_and_keeps_the_hand():
    _, xyz = disc()
    low = superlattice.index_superlattice(xyz)
    high = superlattice.index_superlattice(xyz, film_bottom="high_z")
    inside = (low.sites["grain"] == 0) & (high.sites["grain"] == 0)
    assert (low.sites["layer"] + high.sites["layer"])[inside].eq(6).all()
    for lattice, up in ((low, 1), (high, -1)):
        vectors = lattice.vectors[0]
        assert np.linalg.det(vectors) > 0
        assert up * vectors[2, 2] > 0
        assert cell_parameters(vectors)["alpha_deg"] >= 90


def test_axes_follow_the_rule_from_any_basis():
    rng = np.random.default_rng(0)
    for _ in range(20):
        order = rng.permutation(3)
        basis = CELL[:, order] * rng.choice([-1, 1], 3)
        ruled = basis @ axes_by_rule(basis)
        np.testing.assert_allclose(ruled, CELL, atol=1e-12)


@pytest.mark.parametrize("alpha", [89.8, 90.0, 90.2])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_right_angle_does_not_turn_the_axes_round(alpha, sign):
    cell = cell_matrix(6.6, 6.2, 6.05, alpha, 104, 96) * [sign, sign, 1]
    found = cell_parameters(cell @ axes_by_rule(cell))
    assert (found["alpha_deg"], found["beta_deg"], found["gamma_deg"]) == pytest.approx((alpha, 104, 96))


def test_strain_and_vacancies_do_not_break_the_growth():
    gone = {(0, 0, 2), (1, 0, 2), (-2, 1, 1)}
    sites, xyz = disc(keep=lambda s, _: np.array([tuple(v) not in gone for v in s]), sd_nm=0.2)
    bent = xyz + np.column_stack([np.zeros(len(xyz)), 0.004 * xyz[:, 0] ** 2, np.zeros(len(xyz))])
    lattice = superlattice.index_superlattice(bent)
    assert agree(lattice, 0, sites) == 1.0
    assert (lattice.sites["grain"] == 0).mean() > 0.98


def test_vacancies_and_interstitials_are_named():
    gone = {(0, 0, 2), (1, 0, 2), (-1, 1, 1)}
    sites, xyz = disc(keep=lambda s, _: np.array([tuple(v) not in gone for v in s]), sd_nm=0.15)
    extra = np.array([1.5, 1.5, 1.5]) @ CELL.T
    xyz = np.vstack([xyz, extra])
    lattice = superlattice.index_superlattice(xyz)
    defects = superlattice.point_defects(lattice, xyz)
    assert defects["kind"].tolist() == ["vacancy"] * 3 + ["interstitial"]
    found = defects[XYZ].to_numpy()
    for site in gone:
        assert np.linalg.norm(found[:3] - np.array(site) @ CELL.T, axis=1).min() < 0.4
    np.testing.assert_allclose(found[3], extra)
    assert defects["i"].isna().tolist() == [False] * 3 + [True]


def test_double_picks_are_left_out():
    sites, xyz = disc(layers=6, radius_nm=22.0)
    rng = np.random.default_rng(4)
    twice = rng.choice(len(xyz), len(xyz) // 20, replace=False)
    both = np.vstack([xyz, xyz[twice] + rng.normal(0, 0.3, (len(twice), 3))])
    lattice = superlattice.index_superlattice(both)
    used = lattice.sites["grain"] == 0
    assert not lattice.sites[used].duplicated(["i", "j", "k"]).any()
    assert agree(lattice, 0, np.vstack([sites, sites[twice]])) == 1.0
    assert used.sum() > 0.97 * len(xyz)
    assert (superlattice.point_defects(lattice, both)["kind"] != "interstitial").all()


def test_grains_of_a_polycrystal_are_told_apart():
    turned = axis_angle([0, 0, 1], np.deg2rad(33)) @ CELL
    sites_1, first = disc(keep=lambda _, x: x[:, 0] < -2.8)
    sites_2, second = disc(turned, keep=lambda _, x: x[:, 0] > 2.8, seed=1)
    xyz = np.vstack([first, second])
    truth = np.repeat([0, 1], [len(first), len(second)])
    lattice = superlattice.index_superlattice(xyz)
    assert len(lattice.vectors) == 2
    for grain in (0, 1):
        assert np.bincount(truth[lattice.rows(grain)]).max() / len(lattice.rows(grain)) > 0.95
    assert (lattice.sites["grain"] >= 0).mean() > 0.95
    assert (np.diff([len(lattice.rows(g)) for g in (0, 1)]) <= 0).all()


def test_cell_has_honest_errors_and_spread():
    _, xyz = disc(layers=6, radius_nm=25.0, sd_nm=0.3)
    lattice = superlattice.index_superlattice(xyz)
    cell = superlattice.fit_cell(lattice.index(0), xyz[lattice.rows(0)])
    true = cell_parameters(CELL)
    for name in superlattice.CELL:
        assert abs(cell[name]["value"] - true[name]) < 4 * cell[name]["sigma"]
    # The difference of two positions that each scatter by 0.3 nm.
    assert abs(cell["a_nm"]["spread"] - 0.3 * np.sqrt(2)) < 0.08


def test_pairs_name_the_plus_neighbour():
    _, xyz = disc(layers=2, radius_nm=13.0, sd_nm=0.0)
    lattice = superlattice.index_superlattice(xyz)
    pairs = superlattice.neighbour_pairs(lattice)
    step = xyz[pairs["qd_2"]] - xyz[pairs["qd_1"]]
    for n, axis in enumerate("ABC"):
        some = step[pairs["axis"] == axis]
        np.testing.assert_allclose(some, np.broadcast_to(lattice.vectors[0][:, n], some.shape), atol=1e-9)
    assert not pairs.duplicated(["qd_1", "axis"]).any()


def test_errors_of_a_cell_from_neighbours_that_move_together(monkeypatch):
    sites = np.array(list(np.ndindex(7, 7, 7)))
    ideal = sites @ CELL.T
    distance = np.linalg.norm(ideal[:, None] - ideal, axis=2)
    fitted, found = [], []
    rng = np.random.default_rng(4)
    root = np.linalg.cholesky(np.exp(-distance / 12.0) + 1e-9 * np.eye(len(ideal)))
    for _ in range(30):
        xyz = ideal + 0.3 * root @ rng.normal(size=ideal.shape)
        fitted.append(np.linalg.lstsq(np.column_stack([sites, np.ones(len(sites))]), xyz, rcond=None)[0][:3].T)
        found.append(cell_errors.cell_errors(sites, xyz, fitted[-1]))
    scatter = np.std([list(cell_parameters(cell).values()) for cell in fitted], axis=0)
    assert np.median(found, axis=0) == pytest.approx(scatter, rel=0.35)
    # from some of the rows of the covariance it is the same
    whole = cell_errors.cell_errors(sites, xyz, fitted[-1])
    monkeypatch.setattr(cell_errors, "MOST_ROWS", 120)
    assert cell_errors.cell_errors(sites, xyz, fitted[-1]) == pytest.approx(whole, rel=0.1)


def test_known_indices_are_kept():
    sites, xyz = disc(layers=3, radius_nm=13.0)
    frame = pd.DataFrame(sites, columns=["i", "j", "k"])
    lattice = superlattice.superlattice_from_sites(xyz, frame)
    np.testing.assert_array_equal(lattice.index(0), sites - sites.min(axis=0))
    summary = superlattice.describe(lattice, xyz, film_bottom="low_z")
    assert summary["layers"] == 3
    assert np.linalg.norm(summary["grains"][0]["n"]) == pytest.approx(1)


def test_known_indices_begin_anywhere_and_grains_have_any_number():
    sites, xyz = disc(layers=3, radius_nm=13.0)
    grain = np.where(sites[:, 0] < np.quantile(sites[:, 0], 0.7), 7, 4)
    frame = pd.DataFrame(sites + np.array([3, -2, 1]), columns=["i", "j", "k"]).assign(grain=grain)
    frame.loc[0, "grain"] = np.nan
    lattice = superlattice.superlattice_from_sites(xyz, frame)
    assert lattice.sites.loc[0, "grain"] == -1
    assert lattice.sites.loc[0, ["i", "j", "k", "layer"]].isna().all()
    for number, name in enumerate((7, 4)):  # the largest first
        rows = np.flatnonzero(frame["grain"] == name)
        np.testing.assert_array_equal(lattice.rows(number), rows)
        np.testing.assert_array_equal(lattice.index(number), sites[rows] - sites[rows].min(axis=0))
    assert set(lattice.sites["layer"].dropna()) == {1, 2, 3}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.assign(i=frame["j"], j=frame["i"]), "grain 0: its indices are left-handed; exchange"),
        (lambda frame: frame.assign(k=frame["k"] + 0.5), r"row 0 \(from 0\): i, j, k must be whole"),
        (lambda frame: frame.drop(index=5).reindex(range(9), method="ffill"), r"\[4, 5\] \(from 0\) share sites"),
    ],
)
def test_known_indices_of_no_lattice_are_refused(change, message):
    sites, xyz = disc(layers=3, radius_nm=13.0)
    with pytest.raises(ValueError, match=message):
        superlattice.superlattice_from_sites(xyz, change(pd.DataFrame(sites, columns=["i", "j", "k"])))


def test_what_cannot_be_indexed_is_refused():
    _, xyz = disc()
    with pytest.raises(ValueError, match="film_bottom"):
        superlattice.index_superlattice(xyz, film_bottom="down")
    with pytest.raises(ValueError, match="row 2 is not finite"):
        superlattice.index_superlattice(np.vstack([xyz[:2], [[np.nan, 0, 0]], xyz[2:]]))
    with pytest.raises(ValueError, match="at least 8 dots"):
        superlattice.index_superlattice(xyz[:5])
    flat = np.random.default_rng(0).uniform(-20, 20, (30, 3)) * [1, 1, 0]
    with pytest.raises(ValueError, match="no lattice found"):
        superlattice.index_superlattice(flat)
    with pytest.raises(ValueError, match="one plane"):
        indexing.fit_vectors(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]]), np.zeros((4, 3)))
    frame = pd.DataFrame([[0, 0, 0], [1, 0, 0]], columns=["i", "j", "k"])
    with pytest.raises(ValueError, match="four are needed"):
        superlattice.superlattice_from_sites(np.zeros((2, 3)), frame)


def test_tables_are_read_and_refused_with_their_name():
    good = pd.DataFrame({"x_nm": [0.0, 1.0], "y_nm": 0.0, "z_nm": 0.0, "at_edge": ["True", "False"]})
    table = dot_table.read_centres(good, name="mine.csv")
    assert table["at_edge"].tolist() == [True, False]
    assert table["sigma_x_nm"].isna().all()
    with pytest.raises(ValueError, match=r"mine\.csv: column z_nm is missing"):
        dot_table.read_centres(good.drop(columns="z_nm"), name="mine.csv")
    with pytest.raises(ValueError, match=r"mine\.csv, line 3: x_nm must be a number"):
        dot_table.read_centres(good.assign(x_nm=["1", "one"]), name="mine.csv")
    with pytest.raises(ValueError, match="no row"):
        dot_table.read_centres(good.iloc[:0], name="mine.csv")


def test_necks_of_a_table_are_renumbered():
    necks = pd.DataFrame({"qd_1": [10], "qd_2": [30], "axis": ["A"], "diameter_nm": [2.0]})
    table = dot_table.read_necks(necks, [10, 20, 30], name="necks.csv")
    assert table[["qd_1", "qd_2"]].to_numpy().tolist() == [[0, 2]]
    with pytest.raises(ValueError, match="no qd of the dots"):
        dot_table.read_necks(necks, [10, 20], name="necks.csv")
    with pytest.raises(ValueError, match="axis is missing"):
        dot_table.read_necks(necks.drop(columns="axis"), [10, 30], name="necks.csv")
