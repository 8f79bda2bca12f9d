"""Distortion of a tomogram from its lattice, and its correction, on objects whose answer is known."""

from functools import cache
from itertools import product

import numpy as np
import pandas as pd
import pytest

from mesotomo_utils import lattice
from mesotomo_utils.tomography import alignment, distortion, distortion_spots
from mesotomo_utils.tomography.distortion_correction import correct_distortion
from mesotomo_utils.tomography.reconstruction import reconstruct, remove_background
from mesotomo_utils.tomography.tilt_series import TiltSeries
from mesotomo_utils.twin import atoms, errors, microscope
from mesotomo_utils.twin.structure import build_structure, twin_parameters

LATTICE_NM, VOXEL_NM, SPACING_NM = 0.612, 0.09, 5.4
FAMILIES = ((1, 1, 1), (2, 0, 0), (2, 2, 0))
STRAIGHT = np.eye(3).tobytes()
BENT = ((1.006, 0.009, 0.014), (0.0, 0.995, -0.007), (0.0, 0.0, 1.01))


def turned(n: int, rng: np.random.Generator) -> np.ndarray:
    return lattice.from_rotation_vectors(rng.normal(0, 2, (n, 3)))


@cache
def grains(M=STRAIGHT, noise: float = 0.5, seed: int = 0) -> np.ndarray:
    """27 round crystals, each turned at random, imaged by M, in white noise."""
    rng = np.random.default_rng(seed)
    M = np.frombuffer(M).reshape(3, 3)
    size, half = round(3.6 * SPACING_NM / VOXEL_NM), 31
    volume = rng.normal(0, noise, (size,) * 3).astype(np.float32)
    hkl = lattice.reflections(LATTICE_NM, FAMILIES)[["h", "k", "l"]].to_numpy() / LATTICE_NM
    axis = np.arange(-half, half + 1) * VOXEL_NM
    body = np.exp(-(axis**2) / 2 / 1.1**2)
    corners = product(*[np.rint((np.arange(3) - 1) * SPACING_NM / VOXEL_NM + size / 2).astype(int)] * 3)
    for centre, R in zip(corners, turned(27, rng), strict=True):
        waves = np.zeros((axis.size,) * 3, np.float32)
        for x, y, z in hkl @ R.T @ np.linalg.inv(M):  # rows q' = M^-T R hkl
            turns = (np.exp(2j * np.pi * g * axis) for g in (z, y, x))
            start = np.exp(2j * np.pi * rng.random())
            waves += (start * np.einsum("i,j,k->ijk", *turns)).real
        place = tuple(slice(c - half, c + half + 1) for c in centre)
        volume[place] += np.einsum("i,j,k->ijk", body, body, body) * (waves + 6)
    return volume


def measured(volume: np.ndarray) -> distortion.Distortion:
    return distortion.measure_distortion(volume, VOXEL_NM, LATTICE_NM, grain_nm=5.0, families=FAMILIES)[0]


def pulls(found: distortion.Distortion, true: dict[str, float] | None = None) -> np.ndarray:
    table = found.table().set_index("name")
    wanted = table["none"] if true is None else pd.Series(true).rename(lambda name: name.removeprefix("distortion_"))
    return ((table["value"] - wanted) / table["sigma"]).to_numpy()


# ------------------------------------------------------------------ measured


def test_windows_lie_about_the_grains():
    volume = grains()
    windows = distortion_spots.grain_windows(volume, VOXEL_NM, grain_nm=5.0)
    centres = np.array([[(side.start + side.stop) / 2 for side in window] for window in windows])
    true = (np.arange(3) - 1) * SPACING_NM / VOXEL_NM + volume.shape[0] / 2
    assert len(windows) == 27
    assert np.abs(centres[:, :, None] - true).min(axis=2).max() * VOXEL_NM < 0.4
    assert len({tuple(side.stop - side.start for side in window) for window in windows}) == 1
    assert len(distortion_spots.grain_windows(volume, VOXEL_NM, grain_nm=5.0, max_windows=10)) == 10


def test_spots_of_a_crystal_are_where_the_lattice_has_them():
    hkl = lattice.reflections(LATTICE_NM, FAMILIES)[["h", "k", "l"]].to_numpy()
    volume = grains(noise=0.1)
    windows = distortion_spots.grain_windows(volume, VOXEL_NM, grain_nm=5.0)
    spots = distortion_spots.grain_spots(volume, VOXEL_NM, LATTICE_NM, windows=windows, families=FAMILIES)
    rng = np.random.default_rng(0)
    rng.normal(0, 0.1, volume.shape)
    true = hkl @ turned(27, rng)[0].T / LATTICE_NM
    found = spots.loc[spots["window"] == 0, ["qx_per_nm", "qy_per_nm", "qz_per_nm"]].to_numpy()
    assert len(found) == 13
    off = np.linalg.norm(found[:, None] - np.concatenate([true, -true]), axis=2).min(axis=1)
    assert off.max() < 0.02  # of a spot 0.2 nm⁻¹ wide


@pytest.mark.parametrize("noise", [0.5, 3.0])
def test_no_distortion_is_found_where_there_is_none(noise):
    found = measured(grains(noise=noise))
    assert np.abs(pulls(found)).max() < 3
    assert found.p_value > 0.01
    assert found.table()["sigma"].max() < 0.1


def test_a_known_distortion_is_found():
    M = np.array(BENT)
    found = measured(grains(M.tobytes()))
    np.testing.assert_allclose(found.square, M @ M.T, atol=1e-3)
    np.testing.assert_allclose(found.matrix(with_mean_scale=True), M, atol=1e-3)
    np.testing.assert_allclose(found.stretch @ found.stretch, found.square, atol=1e-12)
    assert found.mean_scale == pytest.approx(np.linalg.det(M) ** (1 / 3), abs=5e-4)
    assert np.linalg.det(found.matrix()) == pytest.approx(1)
    assert found.p_value < 1e-6


def test_a_larger_pixel_is_a_mean_scale_and_no_distortion():
    found = measured(grains((1.004 * np.eye(3)).tobytes()))
    assert found.mean_scale == pytest.approx(1.004, abs=5e-4)
    assert found.p_value > 0.01


def test_the_tensor_turns_with_the_volume():
    M = np.array(BENT)
    S = measured(grains(M.tobytes())).square
    turned_volume = grains(M.tobytes()).transpose(2, 0, 1)  # z of the new one is x of the old, x is y, y is z
    P = np.eye(3)[[1, 2, 0]]
    np.testing.assert_allclose(measured(turned_volume).square, P @ S @ P.T, atol=1e-4)


def test_words_for_a_sheared_and_stretched_specimen():
    M = np.array([[1.0, 0.0, np.tan(np.deg2rad(2.0))], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    found = distortion.Distortion(M @ M.T, 1e-8 * np.eye(6), 100, 20)
    table = found.table().set_index("name")
    assert table.loc["shear_xz_deg", "value"] == pytest.approx(2.0)
    assert table.loc["shear_xz_deg", "sigma"] == pytest.approx(np.rad2deg(1e-4), rel=0.01)
    assert table.loc["shear_xy_deg", "value"] == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(found.matrix(with_mean_scale=True), M, atol=1e-12)
    longer = distortion.Distortion(np.diag([1.0, 1.0, 1.02]) ** 2, np.zeros((6, 6)), 100, 20)
    table = longer.table().set_index("name")["value"]
    assert table["scale_z"] / table["scale_x"] == pytest.approx(1.02)
    np.testing.assert_allclose(longer.spacing_along(np.array([[0, 0, 3.0], [1, 1, 0]])), [1.02, 1.0])


def scattered(rng: np.random.Generator, n_windows: int = 25) -> pd.DataFrame:
    """Spots of crystals turned at random, each off by 0.04 nm⁻¹."""
    hkl = lattice.reflections(LATTICE_NM, FAMILIES)
    q = np.einsum("nij,hj->nhi", turned(n_windows, rng), hkl[["h", "k", "l"]].to_numpy() / LATTICE_NM)
    q += rng.normal(0, 0.04, q.shape)
    spots = pd.DataFrame(q.reshape(-1, 3), columns=["qx_per_nm", "qy_per_nm", "qz_per_nm"])
    columns = {"q_per_nm": np.tile(hkl["g_per_nm"], n_windows), "family": np.tile(hkl["family"], n_windows)}
    return spots.assign(window=np.repeat(np.arange(n_windows), len(hkl)), power=1.0, **columns)


def test_errors_are_as_large_as_stated():
    rng = np.random.default_rng(1)
    rows = [pulls(distortion.fit_distortion(scattered(rng))) for _ in range(40)]
    assert 0.75 < np.std(rows) < 1.25


def test_outliers_do_not_count():
    spots = scattered(np.random.default_rng(1))
    clean = distortion.fit_distortion(spots)
    spots.loc[::15, ["qx_per_nm", "qy_per_nm", "qz_per_nm"]] *= 1.07  # least squares would take it for 1 % in S
    found = distortion.fit_distortion(spots)
    np.testing.assert_allclose(found.square, clean.square, atol=4e-3)


def test_measuring_refuses():
    volume = np.random.default_rng(0).normal(size=(80, 80, 80)).astype(np.float32)
    window = [(slice(0, 72),) * 3]
    with pytest.raises(ValueError, match=r"\[z, y, x\]"):
        distortion_spots.grain_windows(volume[0], 0.09, grain_nm=5)
    unknown = distortion_spots.DistortionUnknown
    with pytest.raises(unknown, match=r"does not fit in a tomogram of \(80, 80, 80\)"):
        distortion_spots.grain_windows(volume, 0.05, grain_nm=5)
    with pytest.raises(ValueError, match="constant"):
        distortion_spots.grain_windows(np.ones((80, 80, 80)), 0.09, grain_nm=5)
    with pytest.raises(unknown, match="no window"):
        distortion_spots.grain_spots(volume, 0.09, 0.612, windows=[])
    with pytest.raises(ValueError, match="positive"):
        distortion_spots.grain_spots(volume, 0.09, 0.0, windows=window)
    with pytest.raises(unknown, match="cannot show"):
        distortion_spots.grain_spots(volume, 0.3, 0.612, windows=window)
    spots = distortion_spots.grain_spots(volume, 0.09, 0.612, windows=window, families=FAMILIES)
    with pytest.raises(unknown, match=r"in 0 windows.*8 or more"):
        distortion.fit_distortion(spots)
    few = pd.DataFrame({"window": np.repeat(np.arange(9), 3), "family": "200", "q_per_nm": 1.0, "power": 1.0})
    few[["qx_per_nm", "qy_per_nm", "qz_per_nm"]] = np.tile(np.eye(3), (9, 1))
    with pytest.raises(unknown, match="too few directions"):
        distortion.fit_distortion(few)


def test_sections_show_the_spacings_of_a_stretched_lattice():
    M = np.array(BENT)
    found, spots = distortion.measure_distortion(
        grains(M.tobytes()), VOXEL_NM, LATTICE_NM, grain_nm=5.0, families=FAMILIES
    )
    measured_, fitted = distortion.spacing_sections(found, spots)
    assert set(measured_["plane"]) == {"xy", "xz", "yz"}
    for plane, (first, second) in {"xy": (0, 1), "xz": (0, 2), "yz": (1, 2)}.items():
        rows = measured_[measured_["plane"] == plane]
        n = np.zeros((len(rows), 3))
        n[:, first], n[:, second] = np.cos(np.deg2rad(rows["angle_deg"])), np.sin(np.deg2rad(rows["angle_deg"]))
        # planes with the normal n are further apart by the length of Mᵀ n
        true = np.linalg.norm(n @ M, axis=1)
        assert np.ptp(true) > 0.008
        np.testing.assert_allclose(rows["spacing"], true, atol=1.2e-3)
    at = fitted[(fitted["plane"] == "xz") & (fitted["angle_deg"] == 90.0)]["spacing"].item()
    assert at == pytest.approx(np.sqrt(found.square[2, 2]))


def test_nothing_known_is_nan():
    table = distortion.UNKNOWN.table()
    assert table["value"].isna().all()
    assert table["sigma"].isna().all()
    assert np.isnan(distortion.UNKNOWN.p_value)


# ------------------------------------------------------------------ corrected


def blobs(angles_deg: np.ndarray, M: np.ndarray, *, shape=(90, 110), pixel_nm=0.1, wave=0.0) -> np.ndarray:
    """Projections of round Gaussian blobs imaged by M, exactly."""
    rng = np.random.default_rng(4)
    points, mass = rng.uniform(-2, 2, (9, 3)), rng.uniform(1, 2, 9)
    z = (np.arange(shape[0]) - (shape[0] - 1) / 2)[:, None] * pixel_nm
    u = (np.arange(shape[1]) - (shape[1] - 1) / 2) * pixel_nm
    images = []
    for t in np.deg2rad(angles_deg):
        to_image = np.array([[0, 0, 1], [np.cos(t), np.sin(t), 0]]) @ M
        covariance = 0.25**2 * to_image @ to_image.T
        inverse, norm = np.linalg.inv(covariance), np.sqrt(np.linalg.det(covariance)) * 2 * np.pi
        image = np.zeros(shape)
        for place, m in zip(points @ to_image.T, mass, strict=True):
            dz, du = z - place[0], u - place[1]
            form = inverse[0, 0] * dz**2 + 2 * inverse[0, 1] * dz * du + inverse[1, 1] * du**2
            # the density of a stretched object stays, so its mass grows by det M
            image += m * np.linalg.det(M) * np.exp(-form / 2) / norm
        images.append(image)
    return np.array(images)


def test_corrected_images_are_those_of_the_true_object():
    M = np.array([[1.03, 0.04, 0.06], [0.0, 0.98, -0.05], [0.0, 0.0, 0.97]])
    angles = np.array([-90.0, -40.0, 0.0, 35.0, 120.0, 270.0])
    series = TiltSeries(blobs(angles, M), angles, 0.1, name="blobs", metadata={"file": "a.mrc"})
    corrected = correct_distortion(series, M)
    assert np.abs(corrected.angles_deg - angles).max() < 4
    true = blobs(corrected.angles_deg, np.eye(3))
    assert np.abs(corrected.images - true).max() < 2e-3 * true.max()
    assert np.abs(series.images - blobs(angles, np.eye(3))).max() > 0.1 * true.max()
    assert (corrected.name, corrected.pixel_nm, corrected.metadata["file"]) == ("blobs", 0.1, "a.mrc")
    assert corrected.metadata["distortion_corrected"] == M.tolist()


def test_correcting_keeps_the_finest_fringes():
    """A wave of 0.43 cycles a pixel, of which a cubic spline would lose a tenth, keeps its amplitude."""
    n = 201
    at = np.arange(n) - (n - 1) / 2
    z, u = np.meshgrid(at, at, indexing="ij")
    envelope = np.exp(-(z**4 + u**4) / 60**4)
    series = TiltSeries((envelope * np.cos(2 * np.pi * (0.3 * z + 0.31 * u)))[None], [0.0], 1.0)
    M = np.array([[1.0, 0.0, 0.01], [0.0, 1.0, 0.0], [0.0, 0.0, 0.99]])
    moved_z, moved_u = 0.99 * z, u + 0.01 * z
    envelope = np.exp(-(moved_z**4 + moved_u**4) / 60**4)
    true = envelope * np.cos(2 * np.pi * (0.3 * moved_z + 0.31 * moved_u))
    assert np.abs(correct_distortion(series, M).images[0] - true).max() < 2e-3


def test_what_lies_beyond_the_field_does_not_come_in_from_the_other_side():
    image = np.zeros((1, 60, 80), np.float32)
    image[:, :, 2:5] = 1.0
    corrected = correct_distortion(TiltSeries(image, [0.0], 1.0), np.diag([1.6, 1.6, 1.0])).images[0]
    assert corrected[:, -8:].max() < 0.3
    assert correct_distortion(TiltSeries(image, [0.0], 1.0), np.eye(3)).images[0] == pytest.approx(image[0], abs=1e-4)


def test_correcting_refuses():
    series = TiltSeries(np.zeros((1, 8, 8)), [0.0], 1.0)
    for M in (np.ones((3, 3)), np.eye(2), np.diag([1.0, 1.0, -1.0]), np.diag([1.0, np.nan, 1.0])):
        with pytest.raises(ValueError, match="upper triangle"):
            correct_distortion(series, M)


# ------------------------------------------------------------------ a twin, blind


@pytest.mark.slow
def test_a_twin_that_is_stretched_and_sheared_is_measured_and_mended():
    settings = {"qd_count": 40, "layers": 4, "seed": 71, "pixel_nm": 0.092, "n_tilts": 100, "tilt_step_deg": 1.8}
    p = twin_parameters(settings | {"image_stretch_z": 0.01, "specimen_shear_deg": 0.8})
    rng = np.random.default_rng(p.seed)
    structure = build_structure(p, rng)
    specimen = microscope.Specimen(*atoms.place_atoms(structure), structure.radius_nm)
    series = microscope.record_series(specimen, p, rng, progress=None).series
    aligned = remove_background(alignment.apply_alignment(series, alignment.align_series(series)))

    def found(series):
        volume = reconstruct(series, device="cpu")
        options = {"grain_nm": 5.0, "families": FAMILIES}
        return distortion.measure_distortion(volume, p.pixel_nm, p.lattice_nm, **options)[0]

    before = found(aligned)
    assert np.abs(pulls(before, errors.true_distortion(p.model_dump()))).max() < 3
    assert before.table()["sigma"].iloc[:4].max() < 0.001
    assert before.table()["sigma"].iloc[4:].max() < 0.1
    assert before.p_value < 1e-6
    after = found(correct_distortion(aligned, before.matrix()))
    assert np.abs(pulls(after)[1:]).max() < 3
    assert after.mean_scale == pytest.approx(before.mean_scale, abs=5e-4)
