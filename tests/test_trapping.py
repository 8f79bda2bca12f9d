"""The perfect lattice, displacements from it and misorientation from R_mono, on known cases."""

import numpy as np
import pytest
from test_mesoscale import CELL, film_blocks, rng, table

from mesotomo_utils import lattice
from mesotomo_utils.analysis import dots, statistics, trapping

MONO = lattice.polar_rotation(CELL)


def make(shape=(7, 7, 7), displacement=None, turns_deg=None, cell=CELL, sigma_nm=0.0, sigma_deg=0.0):
    joined = dots.join(*table(shape, cell))
    n = len(joined)
    moved = np.zeros((n, 3)) if displacement is None else displacement
    joined[dots.POSITION] = dots.positions(joined) + moved
    joined[dots.SIGMA] = sigma_nm
    joined["sigma_deg"] = sigma_deg
    turns = np.zeros((n, 3)) if turns_deg is None else np.radians(turns_deg)
    return joined, lattice.polar_rotation(cell) @ lattice.from_rotation_vectors(turns)


def fitted(joined, rotations):
    cell, _, moved = trapping.fit_lattice(dots.positions(joined), joined[dots.INDICES].to_numpy())
    return trapping.dot_table(joined, rotations, MONO, cell, moved)


def test_a_perfect_lattice_has_no_displacement_and_no_misorientation():
    found = fitted(*make())
    assert found.filter(like="displacement").abs().to_numpy().max() < 1e-9
    assert found["misorientation_deg"].max() < 1e-6


def test_stray_dots_do_not_bend_the_lattice():
    random = rng()
    stray = random.random(343) < 0.05
    joined, _ = make(displacement=np.where(stray[:, None], [0.0, 1.0, 3.0], 0.0))
    cell, origin, moved = trapping.fit_lattice(dots.positions(joined), joined[dots.INDICES].to_numpy())
    np.testing.assert_allclose(cell, CELL, atol=1e-9)
    np.testing.assert_allclose(origin, 0, atol=1e-9)
    np.testing.assert_array_equal(np.linalg.norm(moved, axis=1) > 1, stray)


def test_a_noisy_lattice_is_fitted_within_its_error():
    joined, _ = make(displacement=rng().normal(0, 0.3, (343, 3)))
    cell, _, _ = trapping.fit_lattice(dots.positions(joined), joined[dots.INDICES].to_numpy())
    # the slope's standard error is 0.3 / sqrt(343 · 4) = 0.008 nm
    np.testing.assert_allclose(cell, CELL, atol=0.03)


def test_displacements_are_those_along_the_directions_and_without_noise():
    random = rng()
    unit = trapping.directions(CELL)
    moved = random.normal(0, 0.4, (12**3, 1)) * unit[3]
    joined, rotations = make((12, 12, 12), moved + random.normal(0, 0.2, (12**3, 3)), sigma_nm=0.2)
    found, blocks = fitted(joined, rotations), film_blocks(joined)
    sd = {d: trapping.displacement_sd(found, d, blocks, n_resamples=30, rng=random) for d in "abcn"}
    assert sd["n"]["clean"].value == pytest.approx(0.4, rel=0.05)
    assert sd["n"]["raw"].value == pytest.approx(np.hypot(0.4, 0.2), rel=0.05)
    assert sd["c"]["clean"].value == pytest.approx(0.4 * unit[2] @ unit[3], rel=0.05)
    assert sd["a"]["clean"].value < 0.06  # A lies in the film: nothing but the noise is left
    with pytest.raises(ValueError, match="expected one of a, b, c, n, found 'x'"):
        trapping.displacement_sd(found, "x", blocks, rng=random)


def test_a_uniform_roll_is_a_misorientation_of_every_dot():
    turns = np.tile([-4.0 / np.sqrt(5), 8.0 / np.sqrt(5), 0.0], (343, 1))
    joined, rotations = make(turns_deg=turns)
    found = fitted(joined, rotations)
    np.testing.assert_allclose(found["misorientation_deg"], 4.0, atol=1e-6)
    np.testing.assert_allclose(found[["turn_a_deg", "turn_b_deg", "turn_c_deg"]], turns, atol=1e-6)


@pytest.mark.parametrize("sigma_deg", [0.0, 1.0, 2.0, 3.0])
def test_the_mean_misorientation_is_free_of_noise(sigma_deg):
    random = np.random.default_rng(3)
    turns = random.normal(0, [1.0, 2.0, 0.5], (12**3, 3))
    turns[:, 1] += np.repeat(np.arange(12)[None], 144, 0).ravel() * 0.3
    joined, clean = make((12, 12, 12), turns_deg=turns, sigma_deg=sigma_deg)
    error = random.normal(0, np.radians(sigma_deg) / np.sqrt(3), (12**3, 3))
    measured = clean @ lattice.from_rotation_vectors(error)
    found = trapping.misorientation(
        trapping.turn_vectors(measured, MONO), joined["layer"].to_numpy(),
        joined["sigma_deg"].to_numpy(), film_blocks(joined), n_resamples=20, rng=random,
    )  # fmt: skip
    assert found["mean"].value == pytest.approx(np.linalg.norm(turns, axis=1).mean(), rel=0.04)
    assert found["rms"].value == pytest.approx(np.sqrt((turns**2).sum(1).mean()), rel=0.04)


def test_noise_alone_is_no_misorientation():
    random = rng()
    error = random.normal(0, 1.0, (343, 3))
    joined, rotations = make(turns_deg=error, sigma_deg=np.sqrt(3.0))
    found = trapping.misorientation(
        trapping.turn_vectors(rotations, MONO), joined["layer"].to_numpy(),
        joined["sigma_deg"].to_numpy(), film_blocks(joined), n_resamples=20, rng=random,
    )  # fmt: skip
    assert found["mean_raw"].value > 1.4
    assert found["rms"].value < 0.4


# ------------------------------------------------------------------ laws


def test_nothing_depends_on_the_lab_frame():
    random = rng()
    joined, rotations = make(displacement=random.normal(0, 0.3, (343, 3)), turns_deg=random.normal(0, 2, (343, 3)))
    turn = lattice.axis_angle(np.array([1.0, -2.0, 0.7]), 0.9)
    first = fitted(joined, rotations)
    moved = joined.copy()
    moved[dots.POSITION] = dots.positions(joined) @ turn.T + [3.0, -5.0, 11.0]
    cell, _, residual = trapping.fit_lattice(dots.positions(moved), moved[dots.INDICES].to_numpy())
    second = trapping.dot_table(moved, turn @ rotations, turn @ MONO, cell, residual)
    for name in first.filter(regex="displacement|turn|misorientation"):
        np.testing.assert_allclose(first[name], second[name], atol=1e-9, err_msg=name)


def test_equivalents_of_mono_and_of_the_dots_change_no_angle():
    random = rng()
    _, rotations = make(turns_deg=random.normal(0, 2, (343, 3)))
    symmetry = lattice.cubic_rotations()
    angles = [
        np.linalg.norm(trapping.turn_vectors(r, m), axis=1)
        for r, m in ((rotations, MONO), (rotations @ symmetry[random.integers(24, size=343)], MONO @ symmetry[7]))
    ]
    np.testing.assert_allclose(*angles, atol=1e-9)


def test_relabelled_dots_have_the_same_lattice():
    joined, _ = make(displacement=rng().normal(0, 0.3, (343, 3)))
    shuffled = joined.sample(frac=1, random_state=1)
    cells = [trapping.fit_lattice(dots.positions(t), t[dots.INDICES].to_numpy())[0] for t in (joined, shuffled)]
    np.testing.assert_allclose(*cells, atol=1e-9)


# ------------------------------------------------------------------ layers and references


def test_layers_and_their_contrast():
    random = rng()
    wide = np.where(np.isin(np.arange(7), [0, 6]), 0.1, 0.4)
    base = dots.join(*table((7, 7, 7)))
    moved = random.normal(0, 1, (343, 1)) * wide[base["k"]][:, None] * trapping.directions(CELL)[3]
    joined, rotations = make(displacement=moved)
    found = trapping.layer_table(
        fitted(joined, rotations), np.stack([MONO]), rotations, film_blocks(joined), n_resamples=30, rng=random
    )
    np.testing.assert_allclose(found["displacement_sd_n_nm"], wide, rtol=0.3)
    excess = trapping.interior_contrast(found, "displacement_sd_n_nm")
    assert excess.low > 0.15
    assert trapping.interior_contrast(found.iloc[:2], "displacement_sd_n_nm").reason
    assert (found["n"] == 49).all()


def test_an_uncertain_reference_widens_the_interval():
    found = statistics.Estimate(2.5, 0.1, 2.3, 2.7, 100)
    wider = trapping.widen_by_reference(found, np.array([2.0, 2.5, 4.0]))
    assert (wider.low, wider.high) == pytest.approx((1.8, 4.2))
    assert wider.sigma > 0.8
    assert trapping.widen_by_reference(found, np.array([])) == found


def test_displacements_larger_along_c_and_widths_larger_inside_are_found():
    random, shape = rng(), (7, 7, 7)
    inside = np.isin(make(shape)[0]["layer"], range(2, 7))
    moved = random.normal(0, 0.3, (343, 3)) * [1.0, 1.0, 2.0] @ (CELL / np.linalg.norm(CELL, axis=0)).T
    axis = random.normal(0, 1, (343, 1)) * np.where(inside, 3.0, 1.0)[:, None]
    joined, rotations = make(shape, displacement=moved, turns_deg=np.abs(axis) * [0.0, 0.0, 1.0])
    found, blocks = fitted(joined, rotations), film_blocks(joined)
    for other in "ab":
        more = trapping.displacement_difference(found, ("c", other), blocks, rng=rng())
        assert more.low < 0.3 < more.high
        assert more.low > 0
    same = trapping.displacement_difference(found, ("a", "b"), blocks, rng=rng())
    assert same.low < 0 < same.high
    wider = trapping.width_contrast(found, blocks, rng=rng())
    half_normal = statistics.WIDTH_95_PER_SD * np.sqrt(1 - 2 / np.pi)
    assert wider.low < 2 * half_normal < wider.high
    assert wider.low > 0
    assert np.isnan(trapping.width_contrast(found[found["layer"] < 3], blocks[found["layer"] < 3], rng=rng()).value)


def test_missing_orientations_give_reasons_and_leave_displacements():
    joined, rotations = make((4, 4, 3))
    rotations = np.full_like(rotations, np.nan)
    found = fitted(joined, rotations)
    assert found["misorientation_deg"].isna().all()
    layers = trapping.layer_table(found, np.empty((0, 3, 3)), rotations, film_blocks(joined), n_resamples=20, rng=rng())
    assert layers["misorientation_deg"].isna().all()
    assert layers["reason"].str.startswith("only 0 dots").all()
    assert layers["displacement_sd_n_nm"].notna().all()


def test_the_fit_refuses_bad_input():
    sites = np.stack(np.meshgrid(*[np.arange(3)] * 3, indexing="ij"), -1).reshape(-1, 3)
    with pytest.raises(ValueError, match=r"both be \(N, 3\), found \(27, 3\) and \(26, 3\)"):
        trapping.fit_lattice(sites * 6.0, sites[:-1])
    broken = sites * 6.0
    broken[4, 1] = np.nan
    with pytest.raises(ValueError, match="row 4 is not finite"):
        trapping.fit_lattice(broken, sites)
    with pytest.raises(ValueError, match="the 9 sites lie in one plane"):
        trapping.fit_lattice(sites[sites[:, 2] == 0] * 6.0, sites[sites[:, 2] == 0])
