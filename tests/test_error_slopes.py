"""Errors made to follow the grid of voxels, or the thicker neck, are found with their size; others have no slope."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from mesotomo_utils import lattice
from mesotomo_utils.twin import compare, error_slopes, errors
from mesotomo_utils.twin.matching import RigidMotion

V = lattice.cell_matrix(6.3, 6.0, 5.8, 98.0, 95.0, 93.0)
VOXEL_NM, SHAPE = 0.09, (401, 500, 500)  # the middle of the volume is the middle of a voxel along z only
NOISE_NM = 0.02
MOTION = RigidMotion(lattice.axis_angle([0.1, 0.3, 1.0], 0.02), np.array([0.11, -0.23, 0.31]))
PULL = {"A": 0.03, "B": 0.0, "C": -0.02}


@pytest.fixture
def dots() -> pd.DataFrame:
    """Rough dots of a lattice in the frame of the truth."""
    rng = np.random.default_rng(8)
    index = np.array([(i, j, k) for k in range(8) for j in range(8) for i in range(8)])
    xyz = (index - 3.5) @ V.T + rng.normal(scale=0.1, size=(len(index), 3))
    return pd.DataFrame(xyz, columns=errors.POSITION).assign(
        qd=range(len(xyz)), i=index[:, 0], j=index[:, 1], k=index[:, 2]
    )


@pytest.fixture
def necks(dots) -> pd.DataFrame:
    rng = np.random.default_rng(9)
    at = {tuple(row): qd for qd, row in zip(dots["qd"], dots[["i", "j", "k"]].to_numpy(), strict=True)}
    rows = [
        (qd, at[tuple(np.add(where, step))], axis, 0.0 if rng.random() < 0.1 else rng.uniform(1.5, 4.0))
        for where, qd in at.items()
        for axis, step in zip("ABC", np.eye(3, dtype=int), strict=True)
        if tuple(np.add(where, step)) in at
    ]
    return pd.DataFrame(rows, columns=["qd_1", "qd_2", "axis", "diameter_nm"])


def matched(dots: pd.DataFrame, error: np.ndarray) -> pd.DataFrame:
    """The table of pairs, errors given in the frame of the truth."""
    table = pd.DataFrame(error, columns=error_slopes.ERROR)
    return table.assign(qd_true=dots["qd"], whole=True)


def noise() -> np.ndarray:
    return np.random.default_rng(10).normal(scale=NOISE_NM, size=(512, 3))


def rounded(dots: pd.DataFrame) -> np.ndarray:
    """Error of centres that are the middles of voxels, in the frame of the truth."""
    seen = (dots[errors.POSITION].to_numpy() - MOTION.shift_nm) @ MOTION.rotation  # where the tomogram has them
    middle = (np.array(SHAPE[::-1]) - 1) / 2
    on_grid = (np.round(seen / VOXEL_NM + middle) - middle) * VOXEL_NM
    return (on_grid - seen) @ MOTION.rotation.T


def pulled(dots: pd.DataFrame, necks: pd.DataFrame) -> np.ndarray:
    """Error of centres that are pulled along A to the thicker neck, and along C to the thinner."""
    error = np.zeros((len(dots), 3))
    for n, axis in enumerate("ABC"):
        own = necks[necks["axis"] == axis]
        for to, sign in (("qd_1", 1), ("qd_2", -1)):
            towards = sign * PULL[axis] * own["diameter_nm"].to_numpy()[:, None] * V[:, n] / np.linalg.norm(V[:, n])
            error[own[to]] += towards
    return error


def beyond(found: dict[str, dict[str, float]]) -> dict[str, float]:
    return {axis: abs(one["value"]) / one["sigma"] for axis, one in found.items()}


def test_centres_on_the_grid_have_a_slope_of_a_voxel(dots):
    table = matched(dots, rounded(dots) + noise())
    found = error_slopes.phase_slopes(table, dots, MOTION, voxel_nm=VOXEL_NM, shape=SHAPE)
    for axis in "xyz":
        assert found[axis]["value"] == pytest.approx(-VOXEL_NM, abs=3 * found[axis]["sigma"])
        assert found[axis]["n"] == 512
    assert min(beyond(found).values()) > 10
    # a grid that is off by half a voxel is another grid
    off = error_slopes.phase_slopes(table, dots, MOTION, voxel_nm=VOXEL_NM, shape=(402, 501, 501))
    assert all(one["value"] > 0 for one in off.values())


def test_noise_has_no_slope_and_its_own_error(dots, necks):
    table = matched(dots, noise())
    phase = error_slopes.phase_slopes(table, dots, MOTION, voxel_nm=VOXEL_NM, shape=SHAPE)
    pull = error_slopes.neck_slopes(table, dots, necks)
    assert max(*beyond(phase).values(), *beyond(pull).values()) < 2.5
    for one in phase.values():  # noise over the spread of an even phase
        assert one["sigma"] == pytest.approx(NOISE_NM * np.sqrt(12 / 512), rel=0.1)


def test_a_pull_of_the_necks_is_found_along_its_axis(dots, necks):
    found = error_slopes.neck_slopes(matched(dots, pulled(dots, necks) + noise()), dots, necks)
    for axis, pull in PULL.items():
        # rough dots share their axes' errors a little
        assert found[axis]["value"] == pytest.approx(pull, abs=3 * found[axis]["sigma"] + 0.003), axis
        assert found[axis]["n"] == 6 * 64
    assert beyond(found)["B"] < 2.5 < 8 < min(beyond(found)["A"], beyond(found)["C"])


def test_cut_dots_and_dots_at_the_end_of_a_row_do_not_count(dots, necks):
    table = matched(dots, noise())
    table["whole"] = dots["k"] > 0
    phase = error_slopes.phase_slopes(table, dots, MOTION, voxel_nm=VOXEL_NM, shape=SHAPE)
    assert {one["n"] for one in phase.values()} == {7 * 64}
    pull = error_slopes.neck_slopes(table, dots, necks)
    assert [pull[axis]["n"] for axis in "ABC"] == [6 * 56, 6 * 56, 6 * 64]


def test_too_little_for_a_line_is_nan():
    assert np.isnan(error_slopes.slope([0.0, 1.0], [1.0, 2.0])["sigma"])
    assert np.isnan(error_slopes.slope([1.0, 1.0, 1.0], [1.0, 2.0, 4.0])["value"])
    line = error_slopes.slope([0.0, 1.0, 2.0, 3.0], [1.0, 3.0, 5.0, 7.0])
    assert line == {"value": pytest.approx(2.0), "sigma": pytest.approx(0.0), "n": 4}


def test_the_standard_error_is_that_of_repeats_where_far_points_scatter_more():
    rng = np.random.default_rng(4)
    x = rng.normal(size=300)
    lines = [error_slopes.slope(x, rng.normal(size=300) * (0.1 + x**2)) for _ in range(300)]
    values, sigmas = (np.array([line[key] for line in lines]) for key in ("value", "sigma"))
    assert np.median(sigmas) == pytest.approx(values.std(), rel=0.15), "an even scatter would give half of it"


def test_the_comparison_of_an_imaged_twin_has_both(dots, necks, tmp_path):
    dots["layer"], dots["fraction_inside"] = dots["k"] + 1, 1.0
    dots.to_csv(tmp_path / "dots.csv", index=False)
    necks.to_csv(tmp_path / "necks.csv", index=False)
    cell = {"grains": [dict(zip("ABC", V.T.tolist(), strict=True))]}
    (tmp_path / "superlattice.json").write_text(json.dumps(cell))
    measured = dots.drop(columns="fraction_inside")
    measured[errors.POSITION] = (dots[errors.POSITION] - MOTION.shift_nm).to_numpy() @ MOTION.rotation
    measured[errors.POSITION] += rounded(dots) @ MOTION.rotation
    comparison, _ = compare.compare_tables(tmp_path, {"qds": measured})
    assert set(comparison["dots"]["neck_pull_nm_per_nm"]) == set("ABC")
    assert "phase_slope_nm_per_voxel" not in comparison["dots"]
    imaged = {"level": "images", "pixel_nm": VOXEL_NM, "image_shape": [401, 500]}
    (tmp_path / "parameters.json").write_text(json.dumps(imaged))
    comparison, _ = compare.compare_tables(tmp_path, {"qds": measured})
    found = comparison["dots"]["phase_slope_nm_per_voxel"]
    for axis in "xyz":
        assert found[axis]["value"] == pytest.approx(-VOXEL_NM, rel=0.15), axis
