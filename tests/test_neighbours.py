"""Neighbours, twist and entropy on cases whose answer is known."""

import numpy as np
import pandas as pd
import pytest
from test_mesoscale import CELL, FRAME, film_blocks, rng, table

from mesotomo_utils import lattice
from mesotomo_utils.analysis import dots, entropy, neighbours, statistics

AXIS = np.array([-1.0, 2.0, 0.0]) / np.sqrt(5)


def lattice_of(turns_deg, shape=(6, 6, 5)):
    """Dots on a perfect lattice whose orientations are given by rotation vectors (N, 3)."""
    joined = dots.join(*table(shape))
    turns = np.radians(turns_deg) * np.ones((len(joined), 1))
    return joined, lattice.polar_rotation(CELL) @ lattice.from_rotation_vectors(turns)


def pairs_of(joined, rotations, sigma_deg=0.0):
    sigma = np.full(len(joined), sigma_deg)
    return neighbours.pair_table(rotations, dots.neighbour_pairs(joined), sigma)


def random_turns(n, random, rms_deg=3.0, share=0.89):
    along = random.normal(0, rms_deg * np.sqrt(share), (n, 1)) * AXIS
    across = random.normal(0, rms_deg * np.sqrt((1 - share) / 2), (n, 3))
    return along + across - (across @ AXIS)[:, None] * AXIS


def noisy(rotations, sigma_deg, random):
    error = random.normal(0, np.radians(sigma_deg) / np.sqrt(3), (len(rotations), 3))
    return rotations @ lattice.from_rotation_vectors(error)


# ------------------------------------------------------------------ pairs


def test_equal_orientations_and_a_uniform_roll_have_no_misorientation():
    for turn in ([0, 0, 0], [-4.0, 8.0, 0]):  # every dot turned by the same: δ is zero
        found = pairs_of(*lattice_of(turn))
        assert found["theta_deg"].max() < 1e-6
        blocks = film_blocks(dots.join(*table()))
        assert np.isnan(neighbours.axis_and_variance(found, blocks, n_resamples=20, rng=rng())["variance"].value)


def test_a_layer_turned_against_the_next_is_a_pure_twist_of_the_c_pairs():
    joined = dots.join(*table())
    turns = np.zeros((len(joined), 3))
    turns[:, 2] = 3.0 * joined["k"]
    found = pairs_of(*lattice_of(turns))
    up = found["axis"] == "C"
    np.testing.assert_allclose(found.loc[up, "theta_deg"], 3.0, atol=1e-9)
    np.testing.assert_allclose(found.loc[up, "twist"], 1.0, atol=1e-9)
    np.testing.assert_allclose(found.loc[~up, "theta_deg"], 0.0, atol=1e-6)


def test_two_grains_differ_only_across_their_boundary():
    joined = dots.join(*table())
    turns = np.where((joined["i"] >= 3).to_numpy()[:, None], [0, 5.0, 0], 0.0)
    found = pairs_of(*lattice_of(turns))
    across = found["theta_deg"] > 1e-6
    assert across.sum() == 30
    assert (found.loc[across, "axis"] == "A").all()
    np.testing.assert_allclose(found.loc[across, neighbours.DELTA], np.tile([0, 5.0, 0], (30, 1)), atol=1e-9)
    np.testing.assert_allclose(found.loc[across, "twist"], 0.0, atol=1e-9)


def test_random_orientations_have_no_axis_and_half_a_twist():
    random = rng()
    joined, rotations = lattice_of(random.normal(0, 2.0, (12 * 12 * 12, 3)), (12, 12, 12))
    found, blocks = pairs_of(joined, rotations), film_blocks(joined)
    common = neighbours.axis_and_variance(found, blocks, n_resamples=20, rng=random)
    # the largest of three equal eigenvalues lies above their mean by about 1 / sqrt(1728)
    assert common["variance"].value == pytest.approx(1 / 3, abs=0.035)
    for axis in "ABC":
        twist = neighbours.twist(found, axis, blocks, n_resamples=20, rng=random)
        assert twist["clean"].value == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("sigma_deg", [0.0, 1.0, 2.0, 3.0])
def test_an_imposed_axis_is_recovered_under_noise(sigma_deg):
    random = np.random.default_rng(4)
    joined, clean = lattice_of(random_turns(12**3, random), (12, 12, 12))
    exact = pairs_of(joined, clean)
    found = pairs_of(joined, noisy(clean, sigma_deg, random), sigma_deg)
    blocks = film_blocks(joined)
    common = neighbours.axis_and_variance(found, blocks, n_resamples=20, rng=random)
    true_axis, true_share = neighbours.common_axis(neighbours.second_moment(exact[neighbours.DELTA].to_numpy()))
    assert common["variance"].value == pytest.approx(true_share, abs=0.03)
    assert lattice.direction_angle_deg(common["axis"], true_axis) < 2.5
    angle = neighbours.mean_angle(found, blocks, n_resamples=20, rng=random)
    assert angle["mean"].value == pytest.approx(exact["theta_deg"].mean(), rel=0.04)
    assert angle["rms"].value == pytest.approx(np.sqrt((exact["theta_deg"] ** 2).mean()), rel=0.04)
    for axis in "ABC":
        twist = neighbours.twist(found, axis, blocks, n_resamples=20, rng=random)["clean"].value
        assert twist == pytest.approx(exact.loc[exact["axis"] == axis, "twist"].mean(), abs=0.03)


def test_at_one_degree_a_true_089_reads_068_raw():
    # DESIGN's example: neighbours 2.0° rms apart, each measured to 1°
    moment = 1.7**2 * (0.89 * np.outer(AXIS, AXIS) + 0.055 * (np.eye(3) - np.outer(AXIS, AXIS)))
    raw = neighbours.common_axis(moment + np.eye(3) * 2 / 3)[1]
    assert raw == pytest.approx(0.68, abs=0.03)
    assert neighbours.common_axis(moment)[1] == pytest.approx(0.89)


def test_angles_of_known_axes():
    angles = neighbours.axis_angles(np.array([1.0, -2.0, 0.0]))
    assert angles["[-1 2 0]"] == pytest.approx(0.0, abs=1e-6)
    assert angles["<120>"] == pytest.approx(0.0, abs=1e-6)
    assert angles["[1 1 0]"] == pytest.approx(np.degrees(np.arccos(1 / np.sqrt(10))))
    assert neighbours.axis_angles(np.array([0, 1.0, 2.0]))["<120>"] == pytest.approx(0, abs=1e-6)


def test_twist_of_a_pure_axis():
    for axis, expected in zip(range(3), np.abs(AXIS), strict=True):
        assert neighbours.model_twist(np.outer(AXIS, AXIS), axis) == pytest.approx(expected)
    assert np.isnan(neighbours.model_twist(np.zeros((3, 3)), 0))


# ------------------------------------------------------------------ laws


def test_nothing_depends_on_the_lab_frame_or_on_labels():
    random = rng()
    joined, rotations = lattice_of(random_turns(180, random))
    turned = lattice.axis_angle(np.array([3.0, -1.0, 2.0]), 1.1) @ rotations
    np.testing.assert_allclose(
        pairs_of(joined, turned)[neighbours.DELTA], pairs_of(joined, rotations)[neighbours.DELTA], atol=1e-9
    )
    assert entropy.entropy(turned) == pytest.approx(entropy.entropy(rotations), abs=1e-9)
    shuffle = random.permutation(180)
    assert entropy.entropy(rotations[shuffle]) == pytest.approx(entropy.entropy(rotations), abs=1e-12)
    other = joined.iloc[shuffle].reset_index(drop=True)
    first = pairs_of(joined, rotations).sort_values(["qd_1", "axis"])
    second = pairs_of(other, rotations[shuffle]).sort_values(["qd_1", "axis"])
    np.testing.assert_allclose(first[neighbours.DELTA], second[neighbours.DELTA], atol=1e-9)


def test_the_pearson_entropy_is_the_form_that_depends_on_the_frame():
    _, rotations = lattice_of(random_turns(180, rng()))
    frames = [np.eye(3), lattice.axis_angle(np.array([3.0, -1.0, 2.0]), 1.1)]
    values = [entropy.pearson_entropy(rotations, frame) for frame in frames]
    assert abs(values[0] - values[1]) > 1e-4


def test_a_mirror_keeps_angles_entropy_and_twist():
    joined, rotations = lattice_of(random_turns(180, rng()))
    mirror = np.diag([1.0, 1.0, -1.0])
    mirrored = mirror @ rotations @ mirror
    first, second = pairs_of(joined, rotations), pairs_of(joined, mirrored)
    np.testing.assert_allclose(first["theta_deg"], second["theta_deg"], atol=1e-9)
    np.testing.assert_allclose(first["twist"], second["twist"], atol=1e-9)
    assert entropy.entropy(mirrored) == pytest.approx(entropy.entropy(rotations), abs=1e-9)


def test_equivalent_orientations_give_the_same_table():
    joined, rotations = lattice_of(random_turns(180, rng()))
    swapped = rotations @ lattice.cubic_rotations()[rng().integers(24, size=180)]
    chosen = joined.copy()
    chosen[dots.QUATERNION] = lattice.to_quaternions(swapped)
    np.testing.assert_allclose(dots.rotations(chosen, CELL), rotations, atol=1e-9)


# ------------------------------------------------------------------ entropy


def test_entropy_of_equal_and_of_uniformly_random_orientations():
    assert entropy.entropy(np.broadcast_to(np.eye(3), (40, 3, 3))) == pytest.approx(0, abs=1e-12)
    quaternions = rng().normal(size=(40000, 4))
    uniform = lattice.from_quaternions(quaternions / np.linalg.norm(quaternions, axis=1)[:, None])
    assert entropy.entropy(uniform) == pytest.approx(np.log(9), abs=0.002)


def test_entropy_of_two_grains():
    grains = np.concatenate([np.tile(np.eye(3), (30, 1, 1)), np.tile(np.diag([1.0, -1, -1]), (30, 1, 1))])
    expected = -(2 / 3 * np.log(2 / 3) + 1 / 3 * np.log(1 / 3))  # overlap −1/3
    assert entropy.entropy(grains) == pytest.approx(expected)


def test_entropy_agrees_with_the_full_matrix():
    _, rotations = lattice_of(random_turns(180, rng(), rms_deg=20))
    kernel = np.einsum("nij,mij->nm", rotations, rotations) / 3
    values = np.linalg.eigvalsh(kernel / len(kernel))
    values = values[values > 1e-14]
    assert entropy.entropy(rotations) == pytest.approx(-(values * np.log(values)).sum(), abs=1e-9)
    flat = (FRAME.T @ rotations).reshape(-1, 9)
    values = np.linalg.eigvalsh(np.corrcoef(flat) / len(flat))
    values = values[values > 1e-14]
    assert entropy.pearson_entropy(rotations, FRAME) == pytest.approx(-(values * np.log(values)).sum(), abs=1e-9)


@pytest.mark.parametrize("sigma_deg", [0.0, 1.0, 2.0, 3.0])
def test_entropy_without_noise_is_that_of_the_clean_orientations(sigma_deg):
    random = rng()
    clean = lattice.from_rotation_vectors(np.radians(random_turns(6000, random)))
    measured = noisy(clean, sigma_deg, random)
    found = entropy.entropy(measured, np.full(6000, sigma_deg))
    assert found == pytest.approx(entropy.entropy(clean), rel=0.04)
    if sigma_deg >= 2:
        assert entropy.entropy(measured) > 1.2 * entropy.entropy(clean)


def test_entropy_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match="at least one orientation"):
        entropy.entropy(np.empty((0, 3, 3)))
    with pytest.raises(ValueError, match="row 1 is not finite"):
        entropy.entropy(np.stack([np.eye(3), np.full((3, 3), np.nan)]))
    with pytest.raises(ValueError, match="rotations and sigma_deg"):
        neighbours.pair_table(np.zeros((3, 3, 3)), pd.DataFrame(), np.zeros(2))


# ------------------------------------------------------------------ layers


def test_the_most_disordered_layer_is_found():
    random = np.random.default_rng(2)
    joined = dots.join(*table((8, 8, 9)))
    scale = 1 + 2 * (1 - np.abs(np.arange(9) - 4) / 4)
    turns = random_turns(len(joined), random, rms_deg=1.0) * scale[joined["k"]][:, None]
    joined, rotations = lattice_of(turns, (8, 8, 9))
    joined["sigma_deg"] = 0.5
    measured = noisy(rotations, 0.5, random)
    found = entropy.layer_disorder(
        pairs_of(joined, measured, 0.5), measured, joined, frame=FRAME, blocks=film_blocks(joined),
        n_resamples=25, rng=random,
    )  # fmt: skip
    assert abs(found["layer"].iloc[found["entropy"].argmax()] - 5) <= 1
    assert entropy.interior_maximum(found["entropy"])["p"] == pytest.approx(1 / 36)
    assert entropy.correlation(found["theta_deg"], found["entropy"]).value > 0.8
    assert (found["n_equal"] == 64).all()


def test_interior_maximum_of_a_flat_profile():
    assert entropy.interior_maximum(np.ones(9))["p"] == 1.0
    with pytest.raises(ValueError, match="at least three layers"):
        entropy.interior_maximum(np.ones(2))
    with pytest.raises(ValueError, match="layer 2 has no value"):
        entropy.interior_maximum(np.array([1, np.nan, 1]))


def test_the_layers_that_may_hold_the_maximum():
    profile = np.array([0.0, 1.0, 5.0, 4.9, 0.0])
    assert entropy.layers_of_maximum(profile, np.full(5, 0.3), rng=rng()).tolist() == [2, 3]
    assert entropy.layers_of_maximum(profile, np.full(5, 0.01), rng=rng()).tolist() == [2]
    assert entropy.layers_of_maximum(profile, np.full(5, 20.0), rng=rng()).tolist() == [0, 1, 2, 3, 4]
    flipped = entropy.layers_of_maximum(profile[::-1], np.full(5, 0.3), rng=rng())
    assert flipped.tolist() == [1, 2]
    assert entropy.layers_of_maximum(np.array([1.0, np.nan]), np.ones(2), rng=rng()).size == 0
    assert entropy.layers_of_maximum(np.ones(2), np.array([0.1, np.nan]), rng=rng()).size == 0


def test_the_true_maximum_is_among_them_in_95_percent():
    random = rng()
    true, reach = np.array([0.0, 0.5, 1.0, 0.9, 1.0, 0.2]), 1.96 * np.array([0.3, 0.2, 0.3, 0.4, 0.2, 0.3])
    kept = [
        entropy.layers_of_maximum(random.normal(true, reach / 1.96), reach, n_draws=2000, rng=random)
        for _ in range(300)
    ]
    held = np.mean([2 in rows for rows in kept])
    assert 0.92 < held <= 1.0  # 0.95 - 2.4 standard errors
    equal = np.mean([0 in entropy.layers_of_maximum(random.normal(0, reach / 1.96), reach, n_draws=2000, rng=random)
                     for _ in range(300)])  # fmt: skip
    assert 0.92 < equal < 0.98  # where all layers are alike, no layer is kept more often than it must be
    assert np.mean([len(rows) for rows in kept]) < 5.0


def test_abrupt_and_gradual_profiles_are_told_apart():
    jump = np.array([0.2] + [1.0] * 7 + [0.2])
    ramp = 1 - np.abs(np.arange(9) - 4) / 4
    assert entropy.step_share(jump) == pytest.approx(1.0)
    assert entropy.step_share(ramp) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="at least four layers"):
        entropy.step_share(np.ones(3))
    found = entropy.abrupt_against_gradual(jump, np.full(9, 0.03), ramp, np.full(9, 0.03), rng=rng())
    assert found["difference"].low > 0
    null = entropy.abrupt_against_gradual(ramp, np.full(9, 0.03), ramp, np.full(9, 0.03), rng=rng())
    assert null["difference"].low < 0 < null["difference"].high
    short = entropy.abrupt_against_gradual(*[np.ones(3)] * 4, rng=rng())
    assert short["difference"].reason.startswith("needs at least four layers")


def test_few_pairs_give_reasons_not_numbers():
    joined, rotations = lattice_of([0, 0, 0], (2, 2, 1))
    found, blocks = pairs_of(joined, rotations), np.arange(4)
    assert neighbours.axis_and_variance(found, blocks, rng=rng())["variance"].reason.startswith("only 4 pairs")
    assert neighbours.twist(found, "C", blocks, rng=rng())["clean"].reason.startswith("only 0 C pairs")
    assert neighbours.mean_angle(found, blocks, rng=rng())["mean"].reason.startswith("only 4 pairs")


def test_unknown_errors_leave_only_raw_values():
    random = rng()
    joined, rotations = lattice_of(random_turns(180, random))
    found, blocks = pairs_of(joined, rotations, np.nan), film_blocks(joined)
    common = neighbours.axis_and_variance(found, blocks, n_resamples=20, rng=random)
    assert common["variance"].reason == "the errors of the orientations are unknown"
    assert common["variance_raw"].value > 0.8
    assert np.isnan(neighbours.mean_angle(found, blocks, n_resamples=20, rng=random)["mean"].value)
    assert isinstance(common["angle_120"], statistics.Estimate)
