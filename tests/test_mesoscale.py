"""Planarity, spreads, layer means, necks, vacancies and the bootstrap, on cases known by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mesotomo_utils import lattice
from mesotomo_utils.analysis import dots, layers, mesoscale, moments, necks, statistics, trapping

CELL = lattice.cell_matrix(6.3, 6.0, 5.8, 98, 95, 93)
FRAME = lattice.film_frame(CELL)


def table(shape=(6, 6, 5), cell=CELL):
    """A perfect lattice as centres.csv and orientations.csv."""
    ijk = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    centres = pd.DataFrame({"qd": np.arange(len(ijk))})
    centres[dots.POSITION] = ijk @ cell.T
    centres[dots.SIGMA] = 0.0
    centres["grain"] = 0
    centres[dots.INDICES] = ijk
    centres["at_edge"] = False
    turned = pd.DataFrame({"qd": centres["qd"], "sigma_deg": 0.0})
    q = lattice.to_quaternions(lattice.polar_rotation(cell)[None])
    turned[dots.QUATERNION] = np.repeat(q, len(ijk), 0)
    return centres, turned


def film_blocks(joined):
    return statistics.places((dots.positions(joined) @ FRAME)[:, :2], spacing_nm=6.1)


def rng():
    return np.random.default_rng(1)


def planarity(joined, **options):
    film = dots.positions(joined) @ FRAME
    return mesoscale.layer_widths(
        film[:, 2], film[:, :2], joined["layer"].to_numpy(), blocks=film_blocks(joined),
        n_resamples=50, rng=rng(), **options,
    )  # fmt: skip


# ------------------------------------------------------------------ the table of dots


def test_join_keeps_the_largest_grain_and_marks_layers():
    centres, turned = table()
    centres.loc[:9, "grain"] = -1
    joined = dots.join(centres, turned)
    assert len(joined) == len(centres) - 10
    assert (joined["layer"] == joined["k"] + 1).all()
    assert dots.rotations(joined, CELL).shape == (len(joined), 3, 3)


def test_join_without_orientations_gives_nan():
    joined = dots.join(table()[0])
    assert np.isnan(dots.rotations(joined, CELL)).all()


def test_join_names_what_is_wrong():
    centres, turned = table()
    with pytest.raises(ValueError, match=r"centres.csv: column x_nm is missing"):
        dots.join(centres.drop(columns="x_nm"))
    with pytest.raises(ValueError, match=r"orientations.csv: column qw is missing"):
        dots.join(centres, turned.drop(columns="qw"))
    with pytest.raises(ValueError, match="no dot has lattice indices"):
        dots.join(centres.assign(i=np.nan))
    with pytest.raises(ValueError, match=r"dots \[0, 1\] share lattice sites"):
        dots.join(centres.assign(k=np.where(centres.index == 1, 0, centres["k"])))
    with pytest.raises(ValueError, match="it has no grain"):
        dots.mean_cell({"grains": []})


def test_every_neighbour_pair_is_found_once():
    joined = dots.join(table((3, 4, 5))[0])
    pairs = dots.neighbour_pairs(joined)
    assert pairs["axis"].value_counts().to_dict() == {"A": 2 * 20, "B": 3 * 15, "C": 4 * 12}
    step = dots.positions(joined)[pairs["row_2"]] - dots.positions(joined)[pairs["row_1"]]
    np.testing.assert_allclose(step[pairs["axis"] == "B"], np.tile(CELL[:, 1], (45, 1)), atol=1e-9)
    assert dots.neighbour_count(joined, pairs).max() == 6


def test_relabelled_dots_have_the_same_pairs():
    centres = table((3, 3, 3))[0]
    shuffled = centres.sample(frac=1, random_state=0)
    first, second = (dots.neighbour_pairs(dots.join(c)) for c in (centres, shuffled))
    pd.testing.assert_frame_equal(first, second)


def test_the_dots_beside_a_vacancy():
    centres = table((5, 5, 5))[0]
    gone = (centres[dots.INDICES] == 2).all(axis=1)
    joined = dots.join(centres[~gone])
    defects = pd.DataFrame({"kind": ["vacancy"], "grain": [0], "i": [2], "j": [2], "k": [2]})
    assert dots.beside_vacancy(joined, defects).sum() == 6
    assert not dots.beside_vacancy(joined, defects.assign(kind="interstitial")).any()


# ------------------------------------------------------------------ planarity


def test_a_perfect_lattice_is_flat():
    found = planarity(dots.join(table()[0]), sigma_nm=np.zeros(180))
    assert found["fwhm_raw_nm"].max() < 1e-9
    assert found["fwhm_nm"].max() < 1e-9


def test_planarity_finds_a_known_width_under_noise():
    random = rng()
    xy = random.uniform(-50, 50, (4000, 2))
    height = random.normal(0, 0.8 / 2.35482, 4000) + random.normal(0, 0.2, 4000) + xy @ [0.05, -0.02]
    found = mesoscale.layer_widths(
        height, xy, np.ones(4000, int), sigma_nm=np.full(4000, 0.2), blocks=np.arange(4000) // 4,
        n_resamples=200, rng=random,
    ).iloc[0]  # fmt: skip
    assert found["fwhm_nm"] == pytest.approx(0.8, abs=0.03)
    assert found["fwhm_raw_nm"] == pytest.approx(np.hypot(0.8, 0.2 * 2.35482), abs=0.03)
    assert found["fwhm_nm_low"] < 0.8 < found["fwhm_nm_high"]


def test_planarity_does_not_depend_on_the_film_tilt_or_a_shift():
    centres = table()[0]
    centres["z_nm"] += rng().normal(0, 0.3, len(centres))
    turn = lattice.axis_angle(np.array([1.0, 2.0, 0.5]), 0.2)
    moved = centres.copy()
    moved[dots.POSITION] = centres[dots.POSITION].to_numpy() @ turn.T + 7.0
    first = planarity(dots.join(centres))
    film = dots.positions(dots.join(moved)) @ lattice.film_frame(turn @ CELL)
    joined = dots.join(moved)
    second = mesoscale.layer_widths(
        film[:, 2], film[:, :2], joined["layer"].to_numpy(), blocks=film_blocks(dots.join(centres)),
        n_resamples=50, rng=rng(),
    )  # fmt: skip
    np.testing.assert_allclose(first["fwhm_raw_nm"], second["fwhm_raw_nm"], rtol=1e-9)


def test_planarity_without_errors_or_with_too_few_dots_says_why():
    found = planarity(dots.join(table()[0]))
    assert found["fwhm_nm"].isna().all()
    assert found["fwhm_raw_nm"].notna().all()
    assert "errors of measurement are unknown" in found["reason"].iloc[0]
    few = mesoscale.layer_widths(np.zeros(4), np.eye(4)[:, :2], np.ones(4), blocks=np.arange(4), rng=rng())
    assert few["reason"].iloc[0] == "only 4 dots in the layer"


def test_planarity_refuses_bad_input():
    with pytest.raises(ValueError, match=r"different lengths: \[5, 4, 5, 5\]"):
        mesoscale.layer_widths(np.zeros(5), np.zeros((4, 2)), np.ones(5), blocks=np.ones(5), rng=rng())
    with pytest.raises(ValueError, match="row 2 is not finite"):
        mesoscale.layer_widths(
            np.array([0, 0, np.nan, 0, 0]), np.zeros((5, 2)), np.ones(5), blocks=np.ones(5), rng=rng()
        )


def test_the_quantile_width_ignores_a_straggler():
    heights = rng().normal(0, 1 / 2.35482, 2000)
    assert mesoscale.quantile_fwhm(heights) == pytest.approx(1.0, abs=0.05)
    assert mesoscale.quantile_fwhm(np.append(heights, 50.0)) == pytest.approx(1.0, abs=0.05)


# ------------------------------------------------------------------ directions


def test_angles_of_known_directions():
    tilt = np.radians([-2.0, 0.0, 2.0])
    vectors = np.column_stack([np.cos(tilt), np.zeros(3), np.sin(tilt)])
    angles = mesoscale.direction_angles(vectors, np.eye(3))
    np.testing.assert_allclose(angles, np.column_stack([np.zeros(3), [-2, 0, 2]]), atol=1e-9)


def test_the_azimuth_is_taken_across_the_cut_at_180_degrees():
    turn = np.radians([178.0, 180.0, -178.0])
    vectors = np.column_stack([np.cos(turn), np.sin(turn), np.zeros(3)])
    angles = mesoscale.direction_angles(vectors, np.eye(3))
    np.testing.assert_allclose(angles[:, 0], [-2, 0, 2], atol=1e-9)


def test_stereographic_projection_of_known_directions():
    points = mesoscale.stereographic(np.array([[0, 0, 2], [1, 0, 0], [0, -1, -1]]))
    np.testing.assert_allclose(points, [[0, 0], [1, 0], [0, np.tan(np.pi / 8)]], atol=1e-12)


def test_spread_of_a_gaussian_under_noise():
    random = rng()
    n = 6000
    angle = np.radians(random.normal(0, [[2.0, 3.0]], (2, n, 2)) + random.normal(0, 1.0, (2, n, 2)))
    vectors = [
        np.column_stack([np.cos(p[:, 1]) * np.cos(p[:, 0]), np.cos(p[:, 1]) * np.sin(p[:, 0]), np.sin(p[:, 1])])
        for p in angle
    ]
    directions = mesoscale.direction_table(*vectors, frame=np.eye(3), layer=np.ones(n))
    spread = mesoscale.direction_spread(directions, noise_deg=1.0, blocks=np.arange(n) // 4, n_resamples=50, rng=random)
    assert spread["in_plane"]["clean"].value == pytest.approx(3.92 * 2, rel=0.03)
    assert spread["out_of_plane"]["clean"].value == pytest.approx(3.92 * 3, rel=0.03)
    # of the difference of two quantiles of 2n independent Gaussian angles
    error = np.sqrt(2 * 0.025 * 0.95 / (2 * n)) / stats.norm.pdf(1.96) * np.sqrt(2.0**2 + 1.0**2)
    assert spread["in_plane"]["raw"].sigma == pytest.approx(error, rel=0.25)
    ratio = mesoscale.spread_ratio(spread, spread)
    assert ratio.value == pytest.approx(1.0)
    assert len(mesoscale.spread_summary({"AL": spread})) == 2


def test_directions_to_neighbours():
    joined = dots.join(table((3, 3, 3))[0])
    vectors = mesoscale.neighbour_directions(dots.positions(joined), dots.neighbour_pairs(joined), "A")
    known = np.isfinite(vectors).all(1)
    assert known.sum() == 18
    np.testing.assert_allclose(vectors[known], np.tile(CELL[:, 0] / 6.3, (18, 1)), atol=1e-9)


def test_a_change_alike_at_both_surfaces_has_no_slope_but_a_contrast():
    random = rng()
    joined = dots.join(*table((20, 20, 9)))
    sd = np.where(np.isin(joined["k"], [0, 8]), 0.2, 0.3)
    values = random.normal(0, np.hypot(sd, 0.1))
    found = mesoscale.layer_widths(
        values, joined[["i", "j"]].to_numpy(float), joined["layer"].to_numpy(), sigma_nm=np.full(len(joined), 0.1),
        blocks=film_blocks(joined), n_resamples=100, rng=random,
    )  # fmt: skip
    slope = statistics.weighted_slope(found["layer"], found["fwhm_raw_nm"], found["fwhm_raw_nm_sigma"])
    assert slope.low < 0 < slope.high
    excess = trapping.interior_contrast(found, "fwhm_nm")
    assert excess.low < 0.1 * statistics.FWHM_PER_SD < excess.high
    assert excess.low > 0
    inverted = trapping.interior_contrast(found.assign(fwhm_nm=-found["fwhm_nm"]), "fwhm_nm")
    assert inverted.value == pytest.approx(-excess.value)


# ------------------------------------------------------------------ layers


def rolled(angle_by_layer, axis=(-1.0, 2.0, 0.0)):
    joined = dots.join(*table())
    axis = np.array(axis) / np.linalg.norm(axis)
    turns = np.radians(np.asarray(angle_by_layer)[joined["k"]])[:, None] * axis
    base = np.eye(3)
    return joined, base @ lattice.from_rotation_vectors(turns)


def test_the_roll_of_layers_is_recovered():
    joined, rotations = rolled([0, 0, 2, 4, 6])
    found = layers.layer_roll(
        rotations, joined["layer"].to_numpy(), [2], [5], normal=np.array([0, 0, 1.0]),
        blocks=film_blocks(joined), n_resamples=30, rng=rng(),
    )  # fmt: skip
    assert found["roll"].value == pytest.approx(6.0, abs=1e-9)
    assert found["turn"].value == pytest.approx(0.0, abs=1e-9)
    assert lattice.direction_angle_deg(found["axis"], np.array([-1.0, 2, 0])) < 1e-6


def test_the_turn_about_the_normal_has_a_sign():
    parts = layers.roll_and_turn(
        np.eye(3), lattice.axis_angle(np.array([0, 0, 1.0]), np.radians(3)), np.array([0, 0, 1.0])
    )
    assert parts["turn_deg"] == pytest.approx(3.0)
    assert parts["roll_deg"] == pytest.approx(0.0, abs=1e-9)


def test_a_layer_that_is_not_there_is_named():
    joined, rotations = rolled([0, 0, 0, 0, 0])
    found = layers.layer_roll(
        rotations, joined["layer"].to_numpy(), [2], [6], normal=np.array([0, 0, 1.0]),
        blocks=film_blocks(joined), rng=rng(),
    )  # fmt: skip
    assert np.isnan(found["roll"].value)
    assert found["roll"].reason == "the sample has no layer C6 with orientations"


def test_layer_means_of_a_rolled_lattice():
    joined, rotations = rolled([0, 0, 2, 4, 6], axis=(1.0, 0.0, 0.0))
    found = layers.layer_orientations(
        rotations, joined["layer"].to_numpy(), frame=np.eye(3), sigma_deg=np.zeros(len(joined))
    )
    np.testing.assert_allclose(found["c_mean_to_normal_deg"], [0, 0, 2, 4, 6], atol=1e-9)
    np.testing.assert_allclose(found["spread_deg"], 0, atol=1e-9)
    c_axes = layers.c_axis_angles(
        rotations, joined["layer"].to_numpy(), normal=np.array([0, 0, 1.0]),
        sigma_deg=np.zeros(len(joined)), blocks=film_blocks(joined), n_resamples=25, rng=rng(),
    )  # fmt: skip
    np.testing.assert_allclose(c_axes["c_to_normal_deg"], [0, 0, 2, 4, 6], atol=1e-9)
    assert trapping.interior_contrast(c_axes, "c_to_normal_deg").value == pytest.approx(2 - 3)  # less (0 + 6)/2
    np.testing.assert_allclose(np.diff(found["roll_signed_deg"]), [0, 2, 2, 2], atol=1e-6)
    np.testing.assert_allclose(layers.from_layer_mean(rotations, joined["layer"]), 0, atol=1e-5)


def test_within_to_global_is_zero_for_layers_of_one_orientation_each():
    joined, rotations = rolled([0, 1, 2, 3, 4])
    ratio = layers.within_to_global(
        rotations, joined["layer"].to_numpy(), sigma_deg=np.zeros(len(joined)),
        blocks=film_blocks(joined), n_resamples=30, rng=rng(),
    )  # fmt: skip
    assert ratio.value == pytest.approx(0.0, abs=1e-6)


# ------------------------------------------------------------------ necks


def neck_table(joined, diameter):
    pairs = dots.neighbour_pairs(joined)
    frame = pairs[["qd_1", "qd_2", "axis"]].copy()
    frame["diameter_nm"] = diameter(pairs)
    frame["sigma_nm"] = 0.0
    return necks.place(frame, joined)


def test_connectivity_counts_pairs_without_a_neck():
    joined = dots.join(table()[0])
    placed = neck_table(joined, lambda p: np.where(np.arange(len(p)) % 4 == 0, 0.0, 2.0))
    found = necks.connectivity(placed, film_blocks(joined), n_resamples=50, rng=rng())
    assert found.value == pytest.approx(0.75, abs=0.01)
    width = necks.diameters(placed, film_blocks(joined), n_resamples=50, rng=rng())
    assert width["mean"].value == pytest.approx(2.0)
    assert width["sd"].value == pytest.approx(0.0, abs=1e-12)


def test_a_small_sample_without_a_gap_is_not_certain():
    joined = dots.join(table((3, 3, 2))[0])
    placed = neck_table(joined, lambda p: np.full(len(p), 2.0))
    found = necks.connectivity(placed, np.arange(len(joined)), n_resamples=50, rng=rng())
    assert found.value == found.high == 1.0
    assert found.low == pytest.approx(33 / (33 + 1.96**2), abs=1e-3)  # Wilson's lower end


def test_the_slope_of_the_diameters_is_exact_and_layers_are_checked():
    joined = dots.join(table((5, 5, 7))[0])
    height = lambda p: p["layer"] + 0.5 * (p["axis"] == "C") + (p["axis"] == "B")  # noqa: E731
    placed = neck_table(joined, lambda p: 5 - 0.3 * (height(p) - 1.0))
    blocks = film_blocks(joined)
    found = necks.slope(placed, 1, 6, blocks, n_resamples=50, rng=rng())
    assert found.value == pytest.approx(-0.3, abs=1e-9)
    assert necks.slope(placed, 6, 9, blocks, rng=rng()).reason.startswith("the sample has no necks")
    summary = necks.by_layer_and_axis(placed, blocks, n_resamples=30, rng=rng())
    assert len(summary) == 7 * 4
    assert summary["n_pairs"].sum() == 2 * len(placed)


def test_no_necks_and_a_wrong_axis():
    joined = dots.join(table()[0])
    empty = necks.place(necks.none(), joined)
    assert necks.connectivity(empty, film_blocks(joined), rng=rng()).reason == "no neighbour pairs"
    assert necks.by_layer_and_axis(empty, film_blocks(joined), rng=rng()).empty
    wrong = pd.DataFrame({"qd_1": [0], "qd_2": [1], "axis": ["D"], "diameter_nm": [1.0]})
    with pytest.raises(ValueError, match="row 0 has axis 'D'"):
        necks.place(wrong, joined)
    with pytest.raises(ValueError, match="column axis is missing"):
        necks.place(wrong.drop(columns="axis"), joined)


# ------------------------------------------------------------------ statistics


def test_blocks_hold_whole_columns():
    joined = dots.join(table()[0])
    straight = joined[dots.INDICES].to_numpy()[:, :2] * 6.0
    blocks = statistics.column_blocks(straight, spacing_nm=6.0)
    assert blocks.max() + 1 in (9, 16)
    for _, own in joined.groupby(["i", "j"]):
        assert np.unique(blocks[own.index]).size == 1


@pytest.mark.parametrize("blocks", [statistics.column_blocks, statistics.places])
def test_blocks_refuse_bad_input(blocks):
    with pytest.raises(ValueError, match=r"found \(3, 3\)"):
        blocks(np.zeros((3, 3)), spacing_nm=1)
    with pytest.raises(ValueError, match="row 1 is not finite"):
        blocks(np.array([[0, 0], [np.nan, 0]]), spacing_nm=1)
    with pytest.raises(ValueError, match="positive length"):
        blocks(np.zeros((3, 2)), spacing_nm=0)


def test_a_resample_holds_whole_blocks():
    labels = np.array([2, 0, 1, 1, 0, 2, 2])
    for rows in statistics.resample_blocks(labels, n_resamples=20, rng=rng()):
        times = np.bincount(rows, minlength=7)
        for block in range(3):
            assert np.unique(times[labels == block]).size == 1
        assert sum(times[np.flatnonzero(labels == b)[0]] for b in range(3)) == 3


def test_a_block_bootstrap_sees_the_correlation_that_a_plain_one_misses():
    random = rng()
    blocks = np.repeat(np.arange(60), 10)
    values = random.normal(0, 1, 60)[blocks]
    spread = [
        statistics.bootstrap(lambda r: values[r].mean(), b, n_resamples=300, rng=random).std()
        for b in (blocks, np.arange(600))
    ]
    assert spread[0] == pytest.approx(1 / np.sqrt(60), rel=0.3)
    assert spread[0] > 2 * spread[1]


def test_columns_that_vary_together_widen_the_interval():
    x, y = np.meshgrid(np.arange(12), np.arange(12), indexing="ij")
    xy_nm = 6.0 * np.column_stack([x.ravel(), y.ravel()])
    places = statistics.places(xy_nm, spacing_nm=6.0)
    square = np.sum((places[:, None] - places) ** 2, axis=2)
    # what next neighbours share, they share with nobody farther off
    common = np.exp(-square / (2 * 0.7**2))
    values = np.random.default_rng(1).multivariate_normal(np.zeros(144), common, size=300, method="eigh")
    settings = {"n_resamples": 200, "rng": np.random.default_rng(2)}
    found = [statistics.bootstrap(lambda rows, v=v: v[rows].mean(), places, **settings).std() for v in values[:12]]
    b = statistics.n_blocks(places)
    assert b == pytest.approx(1 / np.exp(-square / (2 * statistics.REACH**2)).mean())
    sigma = np.sqrt(np.mean(np.square(found)) * b / (b - 1))
    assert sigma == pytest.approx(values.mean(axis=1).std(), rel=0.2)
    assert sigma > 1.5 / 12  # single columns would tell 1 / 12


def test_a_number_at_its_bound_is_not_certain():
    x, y = np.meshgrid(np.arange(10), np.arange(10), indexing="ij")
    places = np.column_stack([x.ravel(), y.ravel()]).astype(float)
    value = np.random.default_rng(1).normal(size=100)
    value -= value.mean() + 0.02

    def clipped(rows):
        return max(value[rows].mean(), 0.0)

    assert clipped(np.arange(100)) == 0
    draws = statistics.bootstrap(clipped, places, n_resamples=200, rng=np.random.default_rng(2))
    assert 0 < draws.std() < 0.2
    # a width stays positive, also where draws of it do not
    wide = statistics.interval(1.0, 1 + 0.6 * np.random.default_rng(3).normal(size=500), n_blocks=9, log=True)
    assert wide.low > 0
    assert statistics.remove_noise(statistics.Estimate(0.2, 0.3, -0.5, 0.9, 9), 0.1).low == 0


def test_the_error_of_a_quantile_is_steady_and_that_of_the_theory():
    random, p, n = np.random.default_rng(8), 0.025, 800
    samples = random.standard_normal((60, n))
    pulls = np.array([statistics.quantile_pulls(sample, p) for sample in samples])
    np.testing.assert_allclose(pulls.mean(axis=1), 0.0, atol=1e-12)
    # what lies below pulls down, what lies above up, all of it alike
    low = np.argsort(samples, axis=1)
    ordered = np.take_along_axis(pulls, low, axis=1)
    assert (np.diff(ordered, axis=1) >= -1e-12).all()
    assert np.allclose(ordered[:, 200:], ordered[:, -1:], atol=1e-6)
    found = pulls.std(axis=1) / np.sqrt(n)
    expected = np.sqrt(p * (1 - p) / n) / stats.norm.pdf(stats.norm.ppf(p))
    assert found.mean() == pytest.approx(expected, rel=0.1)
    assert found.std() < 0.3 * found.mean()  # of one gap between neighbours: half of it and more


def test_a_wide_film_takes_a_bounded_number_of_columns():
    x, y = np.meshgrid(np.arange(60), np.arange(50), indexing="ij")
    places = np.column_stack([x.ravel(), y.ravel()]).astype(float)
    value = np.random.default_rng(1).normal(size=3000)
    calls = []

    def mean(rows):
        calls.append(len(rows))
        return value[rows].mean()

    draws = statistics.bootstrap(mean, places, n_resamples=500, rng=np.random.default_rng(2))
    assert len(calls) <= statistics.MOST_COLUMNS + 1
    assert 0.75 < draws.std() * np.sqrt(3000) < 1.6  # the values are independent


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    random, inside = rng(), 0
    for _ in range(150):
        values = random.normal(0, 1, 40)
        reps = statistics.bootstrap(lambda r, v=values: v[r].mean(), np.arange(40), n_resamples=100, rng=random)
        found = statistics.interval(values.mean(), reps, n_blocks=40)
        inside += found.low < 0 < found.high
    assert 0.89 <= inside / 150 <= 1.0


def test_two_runs_with_one_seed_agree():
    values = rng().normal(size=50)
    first, second = (
        statistics.bootstrap(lambda r: values[r].mean(), np.arange(50), n_resamples=20, rng=rng()) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "same"), (1.5, "different")])
def test_equivalence_tells_same_from_different(shift, verdict):
    random = rng()
    marked = np.arange(900) % 3 == 0
    values = random.normal(0, 1, 900) + shift * marked
    found = statistics.equivalence(
        values, marked, np.arange(900) // 100, np.arange(900) // 5, margin=0.5, n_resamples=200, rng=random
    )
    assert found["verdict"] == verdict
    assert found["difference"].value == pytest.approx(shift, abs=0.3)


def test_equivalence_cannot_tell_without_marked_dots():
    found = statistics.equivalence(
        np.zeros(20), np.zeros(20, bool), np.zeros(20), np.arange(20), margin=1, n_resamples=20, rng=rng()
    )
    assert found["verdict"] == "cannot_tell"
    assert found["difference"].reason == "no layer holds both kinds of dots"


def test_a_share_has_the_interval_of_clopper_and_pearson():
    for count, n in ((0, 30), (3, 30), (30, 30)):
        found = statistics.share(count, n)
        assert (found.value, found.n) == (count / n, n)
        # by their definition: as many or more, as few or fewer are seen in 2.5 %
        if count:
            assert stats.binom.sf(count - 1, n, found.low) == pytest.approx(0.025, rel=1e-6)
        if count < n:
            assert stats.binom.cdf(count, n, found.high) == pytest.approx(0.025, rel=1e-6)
    assert statistics.share(0, 30).low == 0
    assert statistics.share(30, 30).high == 1
    assert statistics.share(0, 0).reason == "there is nothing to count"
    with pytest.raises(ValueError, match="31 of 30"):
        statistics.share(31, 30)


def test_a_weighted_slope_with_outlying_errors():
    x = np.arange(9.0)
    found = statistics.weighted_slope(x, 2 + 0.5 * x, np.full(9, 0.1))
    assert found.value == pytest.approx(0.5)
    assert found.low < 0.5 < found.high
    assert statistics.weighted_slope(x[:2], x[:2], np.ones(2)).reason.startswith("only 2 layers")


def test_moments_remove_what_noise_adds_to_a_length():
    random = rng()
    clean = random.normal([1.0, 0, 0], [2.0, 1.0, 0.3], (8000, 3))
    noisy = clean + random.normal(0, 2 / np.sqrt(3), clean.shape)
    expected = np.linalg.norm(clean, axis=1).mean()
    assert moments.mean_length(noisy, 4.0) == pytest.approx(expected, rel=0.03)
    assert np.linalg.norm(noisy, axis=1).mean() > 1.1 * expected
    assert np.isnan(moments.noise_variance(np.array([1.0, np.nan, np.nan])))


def test_estimates_survive_the_way_through_a_table():
    estimate = statistics.Estimate(1.0, 0.1, 0.8, 1.2, 7)
    frame = pd.DataFrame({"layer": [1], "n": [7]} | statistics.columns("w", [estimate]))
    assert list(statistics.layer_estimates(frame, "w")) == [("C1", estimate)]
    row = frame.to_dict("records")[0]
    assert statistics.row_estimate(row, "w", reason="none") == estimate
    assert statistics.row_estimate({"w": np.nan}, "w", reason="none").reason == "none"
