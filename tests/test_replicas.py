"""Replicas of lattices between tilts: where they stand, and that the dots are right once they are gone."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from mesotomo_utils import lattice
from mesotomo_utils.mapping import (
    lattice_model,
    lattice_signal,
    model_dot,
    orientation,
    orientation_errors,
    orientation_follow,
    orientation_search,
    replicas,
    strain,
)
from mesotomo_utils.mapping.missing_wedge import Wedge
from mesotomo_utils.mapping.orientation import QUATERNION
from mesotomo_utils.tomography.cutting import cube_middle_nm, cut_cube
from mesotomo_utils.tomography.projector import Projector

A_NM, VOXEL_NM, WINDOW_NM, SPACING_NM = 0.612, 0.1, 6.5, 6.0
SUPERLATTICE = SPACING_NM * np.eye(3)
SETTINGS = {"lattice_nm": A_NM, "window_nm": WINDOW_NM, "superlattice": SUPERLATTICE}
ANGLES_DEG = np.arange(-90, 90, 1.25)


def median_error_deg(table: pd.DataFrame, turns: np.ndarray) -> float:
    R = lattice.from_quaternions(table[QUATERNION].to_numpy())
    return float(np.median(lattice.rotation_angle_deg(R @ np.swapaxes(turns, 1, 2))))


@pytest.fixture(scope="module")
def layer() -> dict:
    """Twenty-five dots side by side, each turned on its own, as 144 tilts without noise give them back."""
    rng = np.random.default_rng(2)
    sites = np.array([(i, j, 0) for i in range(-2, 3) for j in range(-2, 3)]) @ SUPERLATTICE
    centres = sites + rng.uniform(-0.3, 0.3, sites.shape) * [1, 1, 0]
    turns = lattice.from_rotation_vectors(np.deg2rad(rng.normal(scale=2.0, size=sites.shape)))
    positions, cation = model_dot.rocksalt_dot(lattice_nm=A_NM, edge_nm=5.0)
    atoms = np.concatenate([positions @ R.T + at for R, at in zip(turns, centres, strict=True)])
    density = model_dot.blobs(
        atoms, np.tile(np.where(cation, 4.5, 1.0), len(sites)), shape=(66, 320, 320), voxel_nm=VOXEL_NM, sigma_nm=0.1
    )
    made = {"centres": centres, "turns": turns, "density": density}
    for name, angles in {"all": ANGLES_DEG, "even": ANGLES_DEG[::2], "odd": ANGLES_DEG[1::2]}.items():
        projector = Projector(angles, density.shape[2], device="cpu")
        made[name] = projector.fbp(projector.forward(density))
    return made


@pytest.fixture(scope="module")
def found(layer: dict) -> pd.DataFrame:
    return orientation.orient_dots(layer["all"], VOXEL_NM, layer["centres"], **SETTINGS)


@pytest.fixture(scope="module")
def model(layer: dict, found: pd.DataFrame) -> lattice_model.LatticeModel:
    made = lattice_model.model_lattices(layer["all"], VOXEL_NM, layer["centres"], found, **SETTINGS)
    return replicas.project_lattices(made, ANGLES_DEG)


def test_dots_are_nearer_the_truth_without_replicas(
    layer: dict, found: pd.DataFrame, model: lattice_model.LatticeModel
):
    [removed] = replicas.find_replicas(model, [ANGLES_DEG])
    reading = {"lattice_nm": A_NM, "window_nm": WINDOW_NM}
    table, turn = orientation_follow.without_replicas(
        layer["all"], VOXEL_NM, layer["centres"], found, removed, **reading
    )
    before, after = median_error_deg(found, layer["turns"]), median_error_deg(table, layer["turns"])
    assert after < 0.6 * before
    R = [lattice.from_quaternions(t[QUATERNION].to_numpy()) for t in (found, table)]
    turned = lattice.rotation_angle_deg(R[0] @ np.swapaxes(R[1], 1, 2))
    assert np.median(turn) == pytest.approx(np.median(turned), rel=0.2)
    # the same in any thread and slab
    [again] = replicas.find_replicas(model, [ANGLES_DEG], workers=1)
    assert np.array_equal(again.values, removed.values)
    # and of half of the tilts as if they had been projected alone, angles a little off
    projected = replicas.project_lattices(model, ANGLES_DEG[::2])
    [alone] = replicas.find_replicas(projected, [ANGLES_DEG[::2]])
    half, moved = replicas.find_replicas(model, [ANGLES_DEG[::2], ANGLES_DEG[::2] + 1e-3])
    assert np.allclose(half.values, alone.values, atol=1e-4 * np.abs(alone.values).max())
    assert np.allclose(moved.values, alone.values, atol=0.03 * np.abs(alone.values).max())

    halves = {"model": model, "angles_deg": (ANGLES_DEG[::2], ANGLES_DEG[1::2]), "replica_turn_deg": turn}
    even_odd = layer["even"], layer["odd"], VOXEL_NM, layer["centres"], table
    with_replicas, _ = orientation_errors.half_set_sigmas(*even_odd, **reading)
    without, _ = orientation_errors.half_set_sigmas(*even_odd, **halves, **reading)
    assert without["half_set_deg"].median() < 0.8 * with_replicas["half_set_deg"].median()
    # there is no noise here: σ is what is left of the replicas, by what the halves and the truth say
    true = lattice.rotation_angle_deg(R[1] @ np.swapaxes(layer["turns"], 1, 2))
    assert 0.6 < np.median(true / without["sigma_deg"]) < 1.3
    # halves that lack the same wedge say less of what is left
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(orientation_errors, "widest_gap", lambda _: Wedge(90.0, missing_deg=15.0, missing_tilts=15.0))
        wedge, _ = orientation_errors.half_set_sigmas(*even_odd, **halves, **reading)
    share = np.median(wedge["sigma_deg"] / without["sigma_deg"])
    assert share == pytest.approx(1 + orientation_errors.WEDGE_EXCESS / 2, rel=0.02)
    with pytest.raises(ValueError, match="replica_turn_deg"):
        orientation_errors.half_set_sigmas(*even_odd, model=model, **reading)


def test_fringes_return_along_the_beam_where_the_steps_say(model: lattice_model.LatticeModel):
    g = 4.62
    one = replace(
        model,
        middles_nm=np.zeros((1, 3)),
        waves_per_nm=np.array([[[g, 0.0, 0.0]]]),
        amplitudes=np.ones((1, 1), np.complex64),
    )
    drawn, again = replicas.fringes_of_one(one, 0, ANGLES_DEG)
    beside = again[:, again.shape[1] // 2].copy()  # fringes along x are seen by tilts whose beam runs along y
    y_nm = (np.arange(len(beside)) - (len(beside) - 1) / 2) * one.voxel_nm
    distance = replicas.replica_distance_nm(ANGLES_DEG, g)
    assert distance == pytest.approx(1 / (g * np.deg2rad(1.25)))
    near = np.abs(np.abs(y_nm) - distance) < 1.0
    between = np.abs(np.abs(y_nm) - distance / 2) < 1.0
    assert beside[near].mean() > 5 * beside[between].mean()
    assert drawn[np.abs(y_nm) > 6].max() < 1e-3
    # finer tilts leave none in the field
    fine = replicas.fringes_of_one(one, 0, np.arange(-90, 90, 0.6))[1]
    assert fine[near, fine.shape[1] // 2].mean() < 0.2 * beside[near].mean()


def test_a_lattice_is_drawn_alike_in_any_slab(model: lattice_model.LatticeModel):
    whole = lattice_model.draw_lattices(model, 0, model.shape[0])
    bounds = [*range(0, model.shape[0], 7), model.shape[0]]
    parts = [lattice_model.draw_lattices(model, *pair) for pair in pairwise(bounds)]
    assert np.allclose(np.concatenate(parts), whole, atol=1e-4 * np.abs(whole).max())
    assert np.abs(whole).max() > 0


def test_what_is_drawn_is_nearer_the_dots_than_what_was_read(layer: dict, model: lattice_model.LatticeModel):
    drawn = lattice_model.draw_lattices(model, 0, model.shape[0])

    def sums(volume: np.ndarray, voxel_nm: float, dot: int) -> np.ndarray:
        window = lattice_signal.prepare_window(voxel_nm=voxel_nm, window_nm=WINDOW_NM, g_max_per_nm=4.9)
        cube = cut_cube(volume, voxel_nm, model.middles_nm[dot], window.n)
        away = cube_middle_nm(volume.shape, voxel_nm, model.middles_nm[dot]) - model.middles_nm[dot]
        waves = model.waves_per_nm[dot]
        return voxel_nm**3 * np.exp(-2j * np.pi * waves @ away) * lattice_signal.fourier_sums(window, cube, waves)

    inner = [6, 7, 8, 11, 12, 13, 16, 17, 18]
    true = np.array([sums(layer["density"], VOXEL_NM, dot) for dot in inner])
    read = np.array([sums(layer["all"], VOXEL_NM, dot) for dot in inner]) - true
    again = np.array([sums(drawn, model.voxel_nm, dot) for dot in inner]) - true
    size = np.sqrt(np.mean(np.abs(true) ** 2))
    assert np.sqrt(np.mean(np.abs(again) ** 2)) < 0.25 * size
    assert np.sqrt(np.mean(np.abs(again) ** 2)) < 0.7 * np.sqrt(np.mean(np.abs(read) ** 2))


def test_amplitudes_become_those_of_one_lattice():
    rng = np.random.default_rng(1)
    reflections = orientation_search.visible_reflections(A_NM, VOXEL_NM)
    hkl = reflections[["h", "k", "l"]].to_numpy(float)
    family = reflections["family"].map({"111": 0, "200": 1, "220": 2}).to_numpy()
    cation = rng.uniform(size=(40, 3))
    true = np.array([0.6, 1.0, 0.8])[family] * np.exp(-2j * np.pi * cation @ hkl.T)
    foreign = 0.4 * np.exp(2j * np.pi * rng.uniform(size=true.shape))
    cleaned = lattice_model._of_one_lattice((true + foreign).astype(np.complex64), hkl, family)
    assert np.sqrt(np.mean(np.abs(cleaned - true) ** 2)) < 0.6 * 0.4
    assert lattice_model._of_one_lattice(true, hkl, family) == pytest.approx(true, abs=1e-4)
    # in a missing wedge there is nothing, and nothing is put there
    true[:, 4] = 0.0
    assert np.abs(lattice_model._of_one_lattice(true, hkl, family)[:, 4]).max() == 0


def test_direct_sums_equal_the_transform(layer: dict):
    window = lattice_signal.prepare_window(voxel_nm=VOXEL_NM, window_nm=4.0, g_max_per_nm=4.9)
    middle = np.array(layer["all"].shape) // 2
    part = tuple(slice(m - window.n // 2, m + window.n // 2 + 1) for m in middle)
    g = np.array([[1.2, 2.0, -0.3], [-2.2, 0.4, 2.5], [0.0, 3.2, 0.1]])
    sums = lattice_signal.fourier_sums(window, layer["all"][part], g)
    power = lattice_signal.read_power(window, lattice_signal.transform(window, layer["all"][part]), g)[0]
    assert np.abs(sums) ** 2 == pytest.approx(power, rel=2e-3, abs=1e-6 * power.max())


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"method": "fbp", "series": {"angles_deg": ANGLES_DEG.tolist()}}, ""),
        ({"method": "fbp", "series": {"angles_deg": ANGLES_DEG[::3].tolist()}}, "nearer than the next dots"),
        ({"method": "cgls", "series": {"angles_deg": ANGLES_DEG.tolist()}}, "does not say"),
        ({"method": "fbp", "series": {}}, "does not say"),
        ({}, "does not say"),
    ],
)
def test_removal_is_refused_where_it_cannot_work(attributes: dict, message: str):
    answer, reason = replicas.can_be_removed(attributes, SUPERLATTICE, lattice_nm=A_NM)
    assert answer == (not message)
    assert message in reason


def test_wrong_input_is_named(layer: dict, found: pd.DataFrame):
    call = (layer["all"], VOXEL_NM, layer["centres"])
    with pytest.raises(ValueError, match="table has 3 rows for 25 centres"):
        lattice_model.model_lattices(*call, found[:3], **SETTINGS)
    with pytest.raises(ValueError, match="no dot of the table has an orientation"):
        lattice_model.model_lattices(*call, found.assign(qw=np.nan), **SETTINGS)
    model = lattice_model.model_lattices(*call, found, **SETTINGS)
    with pytest.raises(ValueError, match="project_lattices makes them"):
        replicas.find_replicas(model, [ANGLES_DEG])
    model = replicas.project_lattices(model, ANGLES_DEG[:20])
    with pytest.raises(ValueError, match=f"not projected near {ANGLES_DEG[20]:.2f} degrees"):
        replicas.find_replicas(model, [ANGLES_DEG[::2]])


def orientations_on(device: str, layer: dict, start: pd.DataFrame) -> list[pd.DataFrame]:
    """The way of notebook 03: all orientations tried in some dots, replicas taken off, half sets."""
    options = {"device": device, "workers": 2}
    some, rest = layer["centres"][:3], dict(SETTINGS)
    searched = orientation.orient_dots(layer["all"], VOXEL_NM, some, control=np.arange(3) > 0, **options, **rest)
    model = lattice_model.model_lattices(layer["all"], VOXEL_NM, layer["centres"], start, **rest)
    model = replicas.project_lattices(model, ANGLES_DEG, **options)
    [removed] = replicas.find_replicas(model, [ANGLES_DEG], **options)
    options |= {"lattice_nm": A_NM, "window_nm": WINDOW_NM}
    table, turn = orientation_follow.without_replicas(
        layer["all"], VOXEL_NM, layer["centres"], start, removed, **options
    )
    halves = {"model": model, "angles_deg": (ANGLES_DEG[::2], ANGLES_DEG[1::2]), "replica_turn_deg": np.ones(len(turn))}
    errors, _ = orientation_errors.half_set_sigmas(
        layer["even"], layer["odd"], VOXEL_NM, layer["centres"], table, **halves, **options
    )
    return [searched, table, errors]


def assert_same_tables(layer: dict, found: pd.DataFrame) -> None:
    """Rotations to 0.002°, SNR and σ to a thousandth, cells to 1e-5."""
    for here, there in zip(*(orientations_on(name, layer, found) for name in ("cpu", "cuda")), strict=True):
        assert np.array_equal(here.isna(), there.isna())
        for name in here:
            if name in orientation_errors.TAKEN:  # before the removal a dot may hang between two places
                assert np.nanmedian(np.abs(here[name] - there[name])) < 1e-4, name  # medians are all that is read
                continue
            tolerance = {"atol": 0.002} if name.startswith("turn_") else {"rtol": 1e-3}
            if name in strain.SIGMA:
                tolerance = {"rtol": 0.05}  # a difference of halves, each to 1e-5
            if name in (*QUATERNION, "lattice_nm", "a_nm", "b_nm", "c_nm"):
                tolerance = {"atol": 1.5e-5}
            assert np.allclose(here[name], there[name], equal_nan=True, **tolerance), name


@pytest.mark.parametrize("gpu", ["gridding"], indirect=True)
def test_a_gpu_gives_the_same_orientations(gpu, layer: dict, found: pd.DataFrame):
    assert_same_tables(layer, found)


@pytest.mark.gpu
@pytest.mark.parametrize("real_gpu", ["gridding"], indirect=True)
def test_a_real_gpu_gives_the_same_orientations(real_gpu, layer: dict, found: pd.DataFrame):
    assert_same_tables(layer, found)
