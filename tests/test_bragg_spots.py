"""Bragg spots of dots whose place and orientation are known, and of noise."""

import numpy as np
import pytest

from mesotomo_utils import lattice
from mesotomo_utils.tomography import bragg_spots
from mesotomo_utils.tomography.lattice_lines import FAMILIES

A_NM, VOXEL_NM, DOT_NM = 0.612, 0.088, 5.0
SETTINGS = {"lattice_nm": A_NM, "diameter_nm": DOT_NM}
TURN = lattice.axis_angle([1.0, -2.0, 0.7], np.deg2rad(31.0))
HERE = np.zeros(3)


def dot(R=TURN, *, shape=(81, 81, 81), centre_nm=HERE, families=FAMILIES[:3], noise=1.0, stretch=1.0, seed=0):
    """A ball of a dot's size that carries waves of amplitude 0.3 in white noise."""
    rng = np.random.default_rng(seed)
    z, y, x = (VOXEL_NM * (np.arange(n) - (n - 1) / 2) for n in shape)
    x, y, z = x - centre_nm[0], y[:, None] - centre_nm[1], z[:, None, None] - centre_nm[2]
    body = np.exp(-(((x**2 + y**2 + z**2) / (DOT_NM / 2) ** 2) ** 4))
    waves = np.ones(shape)
    for h, k, m in lattice.reflections(A_NM, families)[["h", "k", "l"]].to_numpy():
        g = R @ [h, k, m] / (A_NM * stretch)
        waves += 0.3 * np.cos(2 * np.pi * (g[0] * x + g[1] * y + g[2] * z))
    return (body * waves + noise * rng.normal(size=shape)).astype(np.float32)


def test_every_reflection_is_found_where_it_lies():
    found = bragg_spots.bragg_spots(dot(), VOXEL_NM, HERE, **SETTINGS)
    table = found.table
    assert table["family"].value_counts().to_dict() == {"220": 6, "111": 4, "200": 3}
    assert table["seen"].all()
    assert lattice.disorientation_deg(found.R, TURN) < 0.1
    placed = table[["h", "k", "l"]].to_numpy() @ found.R.T / A_NM
    measured = table[["qx", "qy", "qz"]].to_numpy()
    assert np.abs(placed - measured).max() < 0.1 / found.window_nm
    assert found.others.empty


def test_power_over_noise_is_that_of_the_wave():
    """|A/2 Σ w|² over σ² Σ w², by hand."""
    found = bragg_spots.bragg_spots(dot(noise=2.0, seed=1), VOXEL_NM, HERE, **SETTINGS)
    r = VOXEL_NM * (np.arange(81) - 40)
    square = r**2 + r[:, None] ** 2 + r[:, None, None] ** 2
    window = np.clip(1 - square / (found.window_nm / 2) ** 2, 0, None) ** 2
    body = np.exp(-((square / (DOT_NM / 2) ** 2) ** 4))
    expected = (0.15 * (window * body).sum()) ** 2 / (4 * (window**2).sum())
    assert found.table["snr"].mean() == pytest.approx(expected, rel=0.1)


def test_a_family_that_is_absent_is_not_seen():
    found = bragg_spots.bragg_spots(dot(families=((2, 0, 0), (2, 2, 0))), VOXEL_NM, HERE, **SETTINGS)
    seen = found.table.groupby("family")["seen"].all()
    assert seen.to_dict() == {"111": False, "200": True, "220": True}
    assert not found.table.loc[found.table["family"] == "111", "seen"].any()


@pytest.mark.parametrize("stretch", [0.97, 1.03])
def test_a_pixel_that_is_off_by_some_percent_does_not_matter(stretch):
    found = bragg_spots.bragg_spots(dot(stretch=stretch), VOXEL_NM, HERE, **SETTINGS)
    assert found.table["seen"].all()
    length = np.linalg.norm(found.table[["qx", "qy", "qz"]], axis=1)
    index = np.linalg.norm(found.table[["h", "k", "l"]], axis=1)
    assert (index / length).mean() == pytest.approx(A_NM * stretch, rel=2e-3)


def test_noise_has_no_spots():
    """One cube in a hundred may have one: two or more of twenty have with a chance of 2 %."""
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(20):
        found = bragg_spots.bragg_spots(rng.normal(size=(61,) * 3), 0.11, HERE, **SETTINGS)
        wrong += len(found.others)
        assert found.table.empty
        assert np.isnan(found.R).all()
    assert wrong < 2


def test_a_second_lattice_is_told_apart():
    other = lattice.axis_angle([0, 0, 1], np.deg2rad(20.0)) @ TURN
    both = dot() + dot(other, noise=0.0, families=((2, 0, 0),))
    found = bragg_spots.bragg_spots(both, VOXEL_NM, HERE, **SETTINGS)
    assert lattice.disorientation_deg(found.R, TURN) < 0.3
    expected = lattice.reflections(A_NM, ((2, 0, 0),))[["h", "k", "l"]].to_numpy() @ other.T / A_NM
    measured = found.others[["qx", "qy", "qz"]].to_numpy()
    distance = np.linalg.norm(measured[:, None] - np.vstack([expected, -expected]), axis=2).min(axis=1)
    assert len(measured) == 3
    assert distance.max() < 0.2 / found.window_nm


def test_turning_the_dot_turns_its_spots():
    turn = lattice.axis_angle([0, 0, 1], np.pi / 2)
    volume = dot(noise=0.5)
    turned = np.rot90(volume, 1, axes=(2, 1))  # x to y
    one = bragg_spots.bragg_spots(volume, VOXEL_NM, HERE, **SETTINGS)
    two = bragg_spots.bragg_spots(turned, VOXEL_NM, HERE, **SETTINGS)
    assert lattice.disorientation_deg(two.R, turn @ one.R) < 0.01


def test_the_clearest_dot_is_found_where_it_sits():
    centre = np.array([3.0, -2.5, 4.0])
    volume = dot(shape=(180, 150, 160), centre_nm=centre, noise=0.8)
    amorphous = dot(shape=volume.shape, centre_nm=-centre, noise=0.0, families=()) * 2
    found = bragg_spots.clearest_dot(volume + amorphous, VOXEL_NM, A_NM, diameter_nm=DOT_NM)
    assert np.linalg.norm(found - centre) < 0.2 * DOT_NM


def test_a_section_along_a_zone_axis():
    volume = dot(noise=0.3)
    spots = bragg_spots.bragg_spots(volume, VOXEL_NM, HERE, **SETTINGS)
    section = bragg_spots.zone_section(volume, VOXEL_NM, spots, lattice_nm=A_NM, edge_nm=5.0)
    assert section["patch"].shape == (114, 114)
    assert np.abs(section["fringes_per_nm"]) == pytest.approx([2 / A_NM, 2 / A_NM], rel=0.02)
    # {111}, inclined to the zone axis, leaves nothing at half the frequency of {220}; {200} and {220} stay
    half = (np.arange(len(section["transform"])) - len(section["transform"]) // 2) * section["step_per_nm"]

    def strength(u, v):
        return section["transform"][np.abs(half - v).argmin(), np.abs(half - u).argmin()]

    expected = 1 / A_NM
    assert strength(2 * expected, 0) - strength(expected, expected) > 2
    assert strength(2 * expected, -2 * expected) - strength(expected, expected) > 2


def test_a_section_without_a_lattice_is_seen_along_the_tilt_axis():
    volume = np.random.default_rng(0).normal(size=(75,) * 3)
    spots = bragg_spots.bragg_spots(volume, VOXEL_NM, HERE, **SETTINGS)
    section = bragg_spots.zone_section(volume, VOXEL_NM, spots, lattice_nm=A_NM, edge_nm=5.0)
    assert section["zone"] == "the tilt axis"
    assert np.isnan(section["fringes_per_nm"]).all()


def test_voxels_too_large_for_any_plane_are_refused():
    for call in (
        lambda: bragg_spots.clearest_dot(dot(noise=0), 0.2, A_NM, diameter_nm=DOT_NM),
        lambda: bragg_spots.bragg_spots(dot(noise=0), 0.2, HERE, **SETTINGS),
    ):
        with pytest.raises(ValueError, match=r"voxels of 0.2 nm show no planes of a lattice of 0.612 nm"):
            call()
