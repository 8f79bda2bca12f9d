"""R_mono and each dot's own optimum: known answers, laws, and slower independent versions."""

import numpy as np
import pandas as pd
import pytest
import shapely

from mesotomo_utils import lattice
from mesotomo_utils.analysis import cofacial, cofacial_cells, cofacial_local, statistics

CELL = lattice.cell_matrix(6.2, 5.9, 5.7, 98.0, 95.0, 93.0)
FACET = 4.0


def overlap(R, V=CELL, facet=FACET):
    return cofacial.cofacial_overlap(R, V, facet_nm=facet).mean(axis=-1)


def perfect(V, R, shape=(4, 4, 3)):
    """Centres, orientations and neighbour pairs of a perfect lattice."""
    sites = np.array(list(np.ndindex(shape)))
    row = {tuple(site): n for n, site in enumerate(sites)}
    pairs = [
        (n, row[tuple(site + step)], axis)
        for n, site in enumerate(sites)
        for axis, step in zip("ABC", np.eye(3, dtype=int), strict=True)
        if tuple(site + step) in row
    ]
    table = pd.DataFrame(pairs, columns=["qd_1", "qd_2", "axis"])
    return sites @ V.T, np.repeat(R[None], len(sites), axis=0), table


def test_overlap_of_displaced_squares_by_hand():
    # The neighbour at A is 1 nm aside of 4 nm: 3/4; the one at B 1 and 2 nm aside: 3/4 times 2/4.
    V = np.array([[6.0, 1.0, 0.0], [1.0, 6.0, 0.0], [0.0, 2.0, 6.0]])
    np.testing.assert_allclose(cofacial.cofacial_overlap(np.eye(3), V, facet_nm=4.0), [0.75, 0.375, 1.0])


def test_squares_that_miss_do_not_overlap_negatively():
    V = np.array([[6.0, 0.0, 5.0], [0.0, 6.0, 5.0], [0.0, 0.0, 6.0]])
    assert cofacial.cofacial_overlap(np.eye(3), V, facet_nm=4.0)[2] == 0.0


def test_cubic_cell_stands_along_its_axes():
    mono = cofacial.optimal_orientation(6.0 * np.eye(3), facet_nm=FACET)
    np.testing.assert_allclose(mono.R, np.eye(3), atol=1e-9)
    assert mono.overlap_fraction == pytest.approx(1.0, abs=1e-12)
    # All six kinks meet here: 1 % of the overlap is lost within a degree.
    assert mono.largest_angle_deg < 1.0


@pytest.mark.parametrize("height", [5.0, 7.0])
def test_leaning_cell_by_hand(height):
    """C leans by 0.6 nm along x; turning about y helps C at 1/f per nm of C and costs A as much of A."""
    V = np.array([[6.0, 0.0, 0.6], [0.0, 6.0, 0.0], [0.0, 0.0, height]])
    mono = cofacial.optimal_orientation(V, facet_nm=FACET)
    if height < 6.0:  # A is longer: it wins, C keeps its shift
        expected, angle = np.array([1.0, 1.0, 1 - 0.6 / FACET]), 0.0
    else:  # C is longer: it is followed exactly, A is shifted instead
        turn = np.arctan2(0.6, height)
        expected, angle = np.array([1 - 6.0 * np.sin(turn) / FACET, 1.0, 1.0]), np.rad2deg(turn)
    np.testing.assert_allclose(mono.overlap, expected, atol=1e-7)
    assert lattice.rotation_angle_deg(mono.R) == pytest.approx(angle, abs=1e-5)


@pytest.mark.parametrize("facet", [2.5, 4.0, 5.5])
def test_optimum_against_brute_force(facet):
    mono = cofacial.optimal_orientation(CELL, facet_nm=facet)
    line = np.deg2rad(np.arange(-18, 18.1, 1.2))
    grid = np.stack(np.meshgrid(line, line, line), axis=-1).reshape(-1, 3)
    brute = overlap(mono.polar @ lattice.from_rotation_vectors(grid), facet=facet)
    assert mono.overlap_fraction >= brute.max()
    assert mono.overlap_fraction - brute.max() < 0.03  # a step of 1.2 degrees cannot miss more
    fine = mono.R @ lattice.from_rotation_vectors(np.random.default_rng(0).normal(0, 0.01, (20_000, 3)))
    assert mono.overlap_fraction >= overlap(fine, facet=facet).max() - 1e-9


def test_optimum_turns_with_the_laboratory():
    turn = lattice.from_rotation_vectors(np.array([0.4, -1.0, 0.7]))
    here, there = (cofacial.optimal_orientation(V, facet_nm=FACET) for V in (CELL, turn @ CELL))
    np.testing.assert_allclose(there.R, turn @ here.R, atol=1e-6)
    assert there.overlap_fraction == pytest.approx(here.overlap_fraction, abs=1e-9)
    assert there.largest_angle_deg == pytest.approx(here.largest_angle_deg, abs=1e-2)


def test_optimum_scales_with_the_cell():
    here, there = (cofacial.optimal_orientation(s * CELL, facet_nm=s * FACET) for s in (1.0, 3.0))
    np.testing.assert_allclose(there.R, here.R, atol=1e-6)


def test_optimum_follows_the_superlattice():
    mono = cofacial.optimal_orientation(CELL, facet_nm=FACET)
    np.testing.assert_allclose(lattice.nearest_equivalent(mono.R, CELL), mono.R)
    assert np.linalg.det(mono.R) == pytest.approx(1.0)


def test_near_optimum_set_is_what_it_says():
    mono = cofacial.optimal_orientation(CELL, facet_nm=FACET, tolerance=0.01)
    values = overlap(mono.near_optimum)
    assert values.min() >= 0.99 * mono.overlap_fraction - 1e-9
    angles = lattice.rotation_angle_deg(mono.R.T @ mono.near_optimum)
    assert angles.max() == pytest.approx(mono.largest_angle_deg, abs=1e-3)
    assert 3.0 < mono.largest_angle_deg < 15.0  # ill-conditioned, as it must be reported
    assert len(mono.near_optimum) > 30
    # No orientation of a random search within the loss lies further away.
    tries = mono.R @ lattice.from_rotation_vectors(np.random.default_rng(1).normal(0, 0.1, (200_000, 3)))
    good = overlap(tries) >= 0.99 * mono.overlap_fraction
    assert lattice.rotation_angle_deg(mono.R.T @ tries[good]).max() <= mono.largest_angle_deg + 0.05


def test_facet_edge_keeps_the_volume():
    assert cofacial.facet_edge(5.0) ** 3 == pytest.approx(np.pi / 6 * 5.0**3)


def test_tables():
    by_angle = cofacial_cells.overlap_by_angle(CELL, facet_nm=FACET, angles_deg=(90.0, 98.0))
    assert by_angle["changed"].tolist() == ["none", *np.repeat(["alpha", "beta", "gamma"], 2)]
    same = by_angle[(by_angle["changed"] == "alpha") & (by_angle["angle_deg"] == 98.0)].iloc[0]
    assert same["overlap_fraction"] == pytest.approx(by_angle["overlap_fraction"].iloc[0])
    mono = cofacial.optimal_orientation(CELL, facet_nm=FACET)
    profile = cofacial.overlap_profile(mono, CELL)
    assert profile["along"].max() == pytest.approx(mono.overlap_fraction)
    by_facet = cofacial.overlap_by_facet(CELL, facets_nm={"same": FACET}, reference=mono.R)
    assert by_facet["from_reference_deg"].iloc[0] == pytest.approx(0.0, abs=1e-5)


def test_table_s3_gives_the_orientation_that_has_its_overlap_and_mismatch():
    turned = lattice.from_rotation_vectors(np.array([0.3, -0.2, 0.5])) @ CELL
    table = cofacial_cells.overlap_by_angle(turned, facet_nm=FACET, angles_deg=(90.0, 100.0))
    squares = cofacial_cells.facing_squares(turned, table, facet_nm=FACET)
    for row in table.itertuples():
        angles = dict(zip(("alpha", "beta", "gamma"), (98.0, 95.0, 93.0), strict=True))
        if row.changed != "none":
            angles[row.changed] = row.angle_deg
        V = lattice.cell_matrix(6.2, 5.9, 5.7, *angles.values())
        R = lattice.from_rotation_vectors(np.deg2rad([row.turn_x_deg, row.turn_y_deg, row.turn_n_deg]))
        assert overlap(R, V) == pytest.approx(row.overlap_fraction, abs=1e-9)
        mismatch = lattice.angle_deg(R.T, V.T)
        np.testing.assert_allclose(mismatch, [row.a_to_A_deg, row.b_to_B_deg, row.c_to_C_deg], atol=1e-6)
        away = lattice.rotation_angle_deg(lattice.polar_rotation(V).T @ R)
        assert away == pytest.approx(row.from_polar_deg, abs=1e-6)
        # the pictures show squares that share what the formula says, by polygons
        drawn = squares[(squares["changed"] == row.changed) & squares["angle_deg"].isin([row.angle_deg])]  # NaN too
        assert sorted(drawn["pair"]) == ["A", "B", "C"]
        for pair in drawn.itertuples():
            ours = shapely.box(0, 0, FACET, FACET)
            theirs = shapely.box(pair.right_nm, pair.up_nm, pair.right_nm + FACET, pair.up_nm + FACET)
            assert ours.intersection(theirs).area / FACET**2 == pytest.approx(pair.overlap, abs=1e-9)
            right, up = (R[:, "abc".index(edge)] for edge in (pair.right, pair.up))
            neighbour = V[:, "ABC".index(pair.pair)]
            np.testing.assert_allclose([pair.right_nm, pair.up_nm], [neighbour @ right, neighbour @ up], atol=1e-9)


def test_in_a_cell_with_one_shear_one_of_the_two_pairs_stands_square():
    """The overlap has its kinks there: the turn is nought (on A, or B) or the whole shear, about one axis alone."""
    table = cofacial_cells.overlap_by_angle(6.0 * np.eye(3), facet_nm=4.0, angles_deg=(96.0,)).set_index("changed")
    for changed, axis, others in (
        ("gamma", "turn_n_deg", ["turn_x_deg", "turn_y_deg"]),
        ("alpha", "turn_x_deg", ["turn_y_deg", "turn_n_deg"]),
    ):
        turn = table.loc[changed, axis]
        assert min(abs(turn), abs(turn - 6.0)) < 1e-4
        np.testing.assert_allclose(table.loc[changed, others].to_numpy(float), 0, atol=1e-4)


def test_angle_to_mean_of_known_orientations():
    mono = cofacial.optimal_orientation(CELL, facet_nm=FACET)
    R = np.repeat((mono.R @ lattice.axis_angle([0, 0, 1], np.deg2rad(3.0)))[None], 40, axis=0)
    R[7] = np.nan
    blocks = np.arange(40) // 4
    estimate, nearest = cofacial.angle_to_mean(R, mono, blocks, n_resamples=30, rng=np.random.default_rng(0))
    assert estimate.value == pytest.approx(3.0)
    assert (estimate.n, estimate.sigma) == (39, pytest.approx(0.0, abs=1e-9))
    assert nearest <= 3.0
    assert estimate.low <= 3.0 <= estimate.high
    none, _ = cofacial.angle_to_mean(R * np.nan, mono, blocks, n_resamples=30, rng=np.random.default_rng(0))
    assert isinstance(none, statistics.Estimate)
    assert none.reason


def test_polygon_overlap_against_shapely():
    rng = np.random.default_rng(3)
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=float)
    angle = rng.uniform(0, 2 * np.pi, (500, 2))
    turned = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=-1).reshape(500, 2, 2, 2)
    turned = turned @ (np.eye(2) + 0.2 * rng.normal(size=(500, 2, 2, 2)))
    P, Q = np.moveaxis(square @ np.swapaxes(turned, -1, -2) + rng.normal(0, 0.7, (500, 2, 1, 2)), 1, 0)
    exact = shapely.area(shapely.intersection(shapely.polygons(P), shapely.polygons(Q)))
    np.testing.assert_allclose(cofacial_local.overlap_area(P, Q), exact, atol=1e-12)
    np.testing.assert_allclose(cofacial_local.overlap_area(P, P), shapely.area(shapely.polygons(P)), atol=1e-12)


def test_pair_overlap_of_equal_dots_is_the_lattice_overlap():
    R = cofacial.optimal_orientation(CELL, facet_nm=FACET).R @ lattice.axis_angle([1, 2, 3], 0.05)
    centres, turned, pairs = perfect(CELL, R)
    found = cofacial_local.pair_overlap(centres, turned, pairs, facet_nm=FACET)
    expected = dict(zip("ABC", cofacial.cofacial_overlap(R, CELL, facet_nm=FACET), strict=True))
    np.testing.assert_allclose(found, pairs["axis"].map(expected), atol=1e-12)


def test_pair_overlap_laws():
    rng = np.random.default_rng(5)
    centres, R, pairs = perfect(CELL, np.eye(3))
    centres = centres + rng.normal(0, 0.3, centres.shape)
    R = R @ lattice.from_rotation_vectors(rng.normal(0, 0.08, centres.shape))
    plain = cofacial_local.pair_overlap(centres, R, pairs, facet_nm=FACET)
    turn = lattice.from_rotation_vectors(np.array([0.3, 0.5, -1.0]))
    np.testing.assert_allclose(
        cofacial_local.pair_overlap(centres @ turn.T + 7.0, turn @ R, pairs, facet_nm=FACET), plain, atol=1e-9
    )
    new = rng.permutation(len(centres))  # dot n becomes dot new[n]
    moved_centres, moved_R = np.empty_like(centres), np.empty_like(R)
    moved_centres[new], moved_R[new] = centres, R
    renamed = pairs.assign(qd_1=new[pairs["qd_1"]], qd_2=new[pairs["qd_2"]])
    np.testing.assert_allclose(
        cofacial_local.pair_overlap(moved_centres, moved_R, renamed, facet_nm=FACET), plain, atol=1e-12
    )


def test_a_turned_dot_in_a_cubic_lattice_turns_back():
    centres, R, pairs = perfect(6.0 * np.eye(3), np.eye(3))
    R[21] = lattice.axis_angle([1, -2, 0.5], np.deg2rad(6.0))
    R_hat, table = cofacial_local.local_optimum(centres, R, pairs, facet_nm=FACET, start=R[21])
    neighbours = set(pairs.loc[pairs["qd_1"] == 21, "qd_2"]) | set(pairs.loc[pairs["qd_2"] == 21, "qd_1"])
    far = [n for n in range(len(R)) if n not in neighbours]  # whose neighbours all stand straight
    assert lattice.rotation_angle_deg(R_hat[far]).max() < 0.05
    assert table.loc[far, "overlap_fraction"].min() > 0.999
    assert table.loc[21, "n_neighbours"] == len(neighbours)


def test_local_optimum_beats_what_was_measured_and_many_trials():
    rng = np.random.default_rng(8)
    mono = cofacial.optimal_orientation(CELL, facet_nm=FACET)
    centres, R, pairs = perfect(CELL, mono.R, shape=(3, 3, 3))
    centres = centres + rng.normal(0, 0.3, centres.shape)
    R = R @ lattice.from_rotation_vectors(rng.normal(0, 0.05, centres.shape))
    R_hat, table = cofacial_local.local_optimum(centres, R, pairs, facet_nm=FACET, start=mono.R)
    dot = 13  # the one in the middle
    mine = pairs[(pairs["qd_1"] == dot) | (pairs["qd_2"] == dot)]
    assert len(mine) == 6

    def mean_overlap(turned):
        trial = R.copy()
        trial[dot] = turned
        return cofacial_local.pair_overlap(centres, trial, mine, facet_nm=FACET).mean()

    assert table.loc[dot, "overlap_fraction"] == pytest.approx(mean_overlap(R_hat[dot]))
    around = [mono.R, R[dot], *(R_hat[dot] @ lattice.from_rotation_vectors(rng.normal(0, 0.05, (300, 3))))]
    assert mean_overlap(R_hat[dot]) >= max(map(mean_overlap, around)) - 1e-4


def test_joint_optimum_of_a_cubic_lattice_is_straight_and_elsewhere_gains():
    cubic, straight, pairs = perfect(6.0 * np.eye(3), np.eye(3))
    found, _ = cofacial_local.joint_optimum(
        cubic, np.rint(cubic / 6).astype(int), pairs, facet_nm=FACET, start=np.eye(3)
    )
    assert lattice.rotation_angle_deg(found).max() < 1e-9
    mono = cofacial.optimal_orientation(CELL, facet_nm=FACET)
    centres, R, pairs = perfect(CELL, mono.R)
    sites = np.rint(centres @ np.linalg.inv(CELL).T).astype(int)
    options = {"facet_nm": FACET, "start": mono.R}
    moved = centres + np.random.default_rng(2).normal(0, 0.3, centres.shape)
    found, table = cofacial_local.joint_optimum(moved, sites, pairs, **options)
    before = cofacial_local.pair_overlap(moved, R, pairs, facet_nm=FACET)
    after = cofacial_local.pair_overlap(moved, found, pairs, facet_nm=FACET)
    assert after.mean() > before.mean() + 0.02
    ends = pairs.melt(value_vars=["qd_1", "qd_2"], value_name="qd", ignore_index=False)
    mine = pd.Series(after[ends.index]).groupby(ends["qd"].to_numpy()).mean()
    np.testing.assert_allclose(table["overlap_fraction"], mine, atol=1e-12)
    # no dot by itself finds better: its neighbours are where they should be
    again, better = cofacial_local.local_optimum(moved, found, pairs, facet_nm=FACET, start=mono.R)
    assert (better["overlap_fraction"] - table["overlap_fraction"]).mean() < 5e-3


def test_local_optimum_without_neighbours_is_nan():
    centres, R, pairs = perfect(CELL, np.eye(3), shape=(2, 1, 1))
    R[1] = np.nan
    R_hat, table = cofacial_local.local_optimum(centres, R, pairs, facet_nm=FACET, start=np.eye(3))
    assert np.isnan(R_hat[0]).all()  # its only neighbour has no orientation
    assert np.isfinite(R_hat[1]).all()  # but it can be turned towards the first
    assert table["n_neighbours"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cofacial.facet_edge(0.0), "diameter_nm must be positive"),
        (lambda: cofacial.cofacial_overlap(np.eye(2), CELL, facet_nm=4.0), "R must be"),
        (lambda: cofacial.cofacial_overlap(np.eye(3), CELL, facet_nm=-1.0), "facet_nm must be positive"),
        (lambda: cofacial.optimal_orientation(-CELL, facet_nm=4.0), "right-handed"),
        (lambda: cofacial.optimal_orientation(CELL, facet_nm=1e-6), "never overlap"),
        (lambda: cofacial_local.pair_overlap(*perfect(CELL, np.eye(3))[:2], pd.DataFrame({"qd_1": []}), facet_nm=4.0),
         "lacks the column"),
        (lambda: cofacial_local.pair_overlap(*perfect(CELL, np.eye(3))[:2],
                                       pd.DataFrame({"qd_1": [0], "qd_2": [99], "axis": ["A"]}), facet_nm=4.0),
         "names dots from 0 to 99"),
        (lambda: cofacial_local.pair_overlap(*perfect(CELL, np.eye(3))[:2],
                                       pd.DataFrame({"qd_1": [0], "qd_2": [1], "axis": ["D"]}), facet_nm=4.0),
         "axis must be A, B or C"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
