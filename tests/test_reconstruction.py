"""Reconstructions of phantoms whose value is known, by each method and engine."""

import numpy as np
import pytest
from scipy.optimize import nnls

from mesotomo_utils.tomography import engines, reconstruction
from mesotomo_utils.tomography.projector import Projector
from mesotomo_utils.tomography.reconstruction import parse_memory, reconstruct, remove_background
from mesotomo_utils.tomography.tilt_series import TiltSeries
from mesotomo_utils.tomography.tomogram import open_tomogram

SIZE, PIXEL_NM = 48, 0.5


def phantom(n_z: int) -> np.ndarray:
    """Gaussian blobs, another arrangement in each slice, no symmetry; value per nm³ of mass."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    slices = np.zeros((n_z, SIZE, SIZE))
    for z in range(n_z):
        for _ in range(4):
            x0, y0 = rng.uniform(-11, 11, 2)
            slices[z] += rng.uniform(1, 2) * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / rng.uniform(12, 30))
    return slices.astype(np.float32)


def make_series(volume: np.ndarray, angles=None) -> TiltSeries:
    angles = np.arange(-90, 90, 2.0) if angles is None else angles
    images = Projector(angles, SIZE, tolerance=1e-9, dtype="float64").forward(volume) * PIXEL_NM
    return TiltSeries(images=images.astype(np.float32), angles_deg=angles, pixel_nm=PIXEL_NM, name="phantom")


@pytest.fixture(scope="module")
def volume():
    return phantom(6)


@pytest.fixture(scope="module")
def series(volume):
    return make_series(volume)


def error(found, truth):
    return np.linalg.norm(found - truth) / np.linalg.norm(truth)


@pytest.mark.parametrize(("method", "bound"), [("fbp", 0.002), ("sirt", 0.1), ("cgls", 0.01)])
def test_recovers_the_phantom_in_its_own_units(series, volume, method, bound):
    found = reconstruct(series, method=method, iterations=40, device="cpu")
    assert found.dtype == np.float32
    assert error(found, volume) < bound


def test_nonnegative(series):
    noisy = TiltSeries(
        images=series.images + np.random.default_rng(0).normal(0, 1, series.images.shape),
        angles_deg=series.angles_deg,
        pixel_nm=PIXEL_NM,
        name="noisy",
    )
    for method in ("sirt", "cgls"):
        free = reconstruct(noisy, method=method, iterations=15, nonnegative=False, device="cpu")
        bound = reconstruct(noisy, method=method, iterations=15, device="cpu")
        assert free.min() < -0.01
        assert bound.min() == 0


def test_missing_wedge_is_better_served_by_iterations(volume):
    wedge = make_series(volume, np.arange(-60, 61, 4.0))
    sirt = reconstruct(wedge, method="sirt", iterations=60, device="cpu")
    assert error(sirt, volume) < 0.7 * error(reconstruct(wedge, device="cpu"), volume)


LIMITED, FEW = (64, np.linspace(-70, 70, 41)), (60, np.arange(0, 180, 3.0))


def atoms(n: int, angles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian atoms at random in a disc of an n × n slice, and their analytic projections."""
    rng = np.random.default_rng(11)
    centres = rng.uniform(-0.36 * n, 0.36 * n, (90, 2))
    centres = centres[np.linalg.norm(centres, axis=1) < 0.36 * n]
    height, sigma = rng.choice([0.6, 1.0], len(centres)), 1.4
    u = np.arange(n) - (n - 1) / 2
    y, x = (np.exp(-((u - centres[:, i, None]) ** 2) / (2 * sigma**2)) for i in (0, 1))
    t = np.deg2rad(angles)[:, None]
    across = centres[:, 1] * np.cos(t) + centres[:, 0] * np.sin(t)
    profiles = np.exp(-((u - across[..., None]) ** 2) / (2 * sigma**2)) * height[:, None]
    images = sigma * np.sqrt(2 * np.pi) * profiles.sum(axis=1)[:, None]
    return (y.T @ (height[:, None] * x))[None], images.astype(np.float32)


@pytest.mark.parametrize(
    ("tilts", "noise", "iterations", "bound"),
    [(LIMITED, 0, 30, 0.988), (LIMITED, 0.03, 10, 0.95), (FEW, 0, 30, 0.9995), (FEW, 0.01, 10, 0.9965)],
)
def test_few_tilts_of_atoms(tilts, noise, iterations, bound):
    """By the correlation with the truth that is published for such particles, 0.97 and 0.999."""
    n, angles = tilts
    truth, images = atoms(n, angles)
    images = images + np.random.default_rng(0).normal(0, noise * images.max(), images.shape).astype(np.float32)
    series = TiltSeries(images=images, angles_deg=angles, pixel_nm=1.0, name="atoms")

    def correlation(**options) -> float:
        slices = reconstruct(series, iterations=iterations, device="cpu", **options)
        return np.corrcoef(slices.ravel(), truth.ravel())[0, 1]

    cgls = correlation(method="cgls")
    assert cgls > bound
    assert cgls > correlation(method="sirt")
    # 60 tilts without noise leave nothing open: back-projection is as good
    assert cgls > correlation(method="fbp") - 5e-4


def test_nonnegative_cgls_finds_the_least_squares():
    """The same as an active-set solver that is given the matrix."""
    n, angles = 10, np.arange(0, 180, 20.0)
    engine = engines.NufftEngine(angles, n, "cpu")
    pixels = np.eye(n * n, dtype=np.float32).reshape(-1, n, n)
    matrix = engine.projector.forward(pixels).transpose(0, 2, 1).reshape(-1, n * n).astype(float)
    series = np.random.default_rng(3).normal(0.5, 1, (len(angles), 2, n)).astype(np.float32)
    found = engine(series, "cgls", 300, True)
    for z in range(2):
        slices, residual = nnls(matrix, series[:, z].ravel().astype(float))
        assert (slices == 0).sum() > 20  # so that the bound matters
        ours = np.linalg.norm(matrix @ found[z].ravel() - series[:, z].ravel())
        assert ours == pytest.approx(residual, rel=1e-4)
        assert np.linalg.norm(found[z].ravel() - slices) < 0.05 * np.linalg.norm(slices)


def test_residual_falls(series, volume):
    projector = Projector(series.angles_deg, SIZE)
    residuals = []
    for iterations in (1, 4, 16):
        for method in ("sirt", "cgls"):
            found = reconstruct(series, method=method, iterations=iterations, nonnegative=False, device="cpu")
            residuals.append(np.linalg.norm(projector.forward(found) * PIXEL_NM - series.images))
    assert residuals[0] > residuals[2] > residuals[4]
    assert residuals[1] > residuals[3] > residuals[5]


@pytest.mark.parametrize("method", ["fbp", "sirt", "cgls"])
def test_slabs_change_nothing(series, method, monkeypatch, tmp_path):
    whole = reconstruct(series, method=method, iterations=5, device="cpu")
    monkeypatch.setattr(reconstruction.backend, "cpu_count", lambda: 2)
    monkeypatch.setattr(reconstruction, "_SLAB_BYTES", 1.0)  # slabs as thin as they get
    scale = np.abs(whole).max()
    parts = reconstruct(series, method=method, iterations=5, device="cpu")
    assert np.abs(parts - whole).max() < 1e-5 * scale
    middle = reconstruct(series, method=method, iterations=5, device="cpu", slab=(2, 6))
    assert np.abs(middle - whole[2:6]).max() < 1e-5 * scale
    path = reconstruct(
        series, method=method, iterations=5, device="cpu", out=tmp_path / "a.ome.zarr", attributes={"note": 1}
    )
    tomogram = open_tomogram(path)
    assert np.abs(tomogram.load() - whole).max() < 1e-5 * scale
    assert tomogram.voxel_nm == PIXEL_NM
    assert tomogram.attributes["engine"] == "nufft"
    assert tomogram.attributes["device"] == "cpu"
    assert tomogram.attributes["note"] == 1


def test_fills_an_array(series):
    whole = reconstruct(series, device="cpu")
    room = np.full_like(whole, np.nan)
    assert reconstruct(series, device="cpu", out=room) is room
    assert np.array_equal(room, whole)
    for wrong, found in ((room[1:], rf"\({len(room) - 1}, .* float32"), (room.astype(float), ".*float64")):
        with pytest.raises(ValueError, match=rf"must be \({len(room)}, {SIZE}, {SIZE}\), float32; it is {found}"):
            reconstruct(series, device="cpu", out=wrong)


@pytest.mark.parametrize(("method", "bound"), [("fbp", 0.05), ("sirt", 0.02), ("cgls", 0.02)])
def test_astra_gives_the_same(series, volume, method, bound):
    """Within the error of ASTRA's linear interpolation, which ours does not share."""
    pytest.importorskip("astra", reason="astra-toolbox is not installed")
    options = {"method": method, "iterations": 12, "nonnegative": method == "sirt", "device": "cpu"}
    ours = reconstruct(series, **options)
    theirs = reconstruct(series, engine="astra", **options)
    assert error(theirs, ours) < bound
    assert error(ours, volume) < error(theirs, volume)


def test_astra_leaves_nothing_negative(series):
    pytest.importorskip("astra", reason="astra-toolbox is not installed")
    for method in ("sirt", "cgls"):
        found = reconstruct(series, method=method, engine="astra", iterations=3, device="cpu")
        assert found.min() == 0


def test_astra_without_a_gpu_is_an_error(monkeypatch):
    astra = pytest.importorskip("astra", reason="astra-toolbox is not installed")
    monkeypatch.setattr(astra, "use_cuda", lambda: False)
    with pytest.raises(RuntimeError, match="no GPU"):
        engines.AstraEngine([0.0], 8, "cuda")


@pytest.mark.parametrize("width", [48, 49])
@pytest.mark.parametrize(
    ("method", "nonnegative", "bound"), [("fbp", False, 0.012), ("sirt", True, 0.04), ("sirt", False, 0.05)]
)
def test_tomopy_gives_the_same(volume, width, method, nonnegative, bound):
    """Its own error is 0.008 by gridrec and, by rays through square pixels, up to 0.03 by SIRT."""
    pytest.importorskip("tomopy", reason="TomoPy is not installed (conda-forge only)")
    tall = np.pad(volume, ((0, 0), (0, width - SIZE), (0, width - SIZE)))
    angles = np.arange(-90, 90, 2.0)
    images = Projector(angles, width).forward(tall)
    series = TiltSeries(images=images, angles_deg=angles, pixel_nm=1.0, name="phantom")
    options = {"method": method, "iterations": 12, "nonnegative": nonnegative, "device": "cpu"}
    ours = reconstruct(series, **options)
    theirs = reconstruct(series, engine="tomopy", **options)
    assert error(theirs, ours) < bound
    if nonnegative:
        assert theirs.min() == 0


def test_an_absent_engine_is_named(series, monkeypatch):
    for name in ("tomopy", "astra"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
        with pytest.raises(RuntimeError, match=f"'{name}' is not installed"):
            reconstruct(series, engine=name, device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "wbp"}, "method must be one of fbp, sirt, cgls, not 'wbp'"),
        ({"engine": "imod"}, "engine must be one of"),
        ({"engine": "tomopy", "method": "cgls"}, "TomoPy has no CGLS"),
        ({"method": "sirt", "iterations": 0}, "1 or more"),
        ({"slab": (4, 9)}, r"slab \(4, 9\)"),
        ({"memory": "1kB"}, "too little"),
        ({"memory": "much"}, "such as '4GB'"),
        ({"memory": 0}, "positive"),
    ],
)
def test_refuses(series, options, message):
    with pytest.raises(ValueError, match=message):
        reconstruct(series, device="cpu", **options)


def test_memory_as_text():
    assert parse_memory("4GB") == 4e9
    assert parse_memory("500 MiB") == 500 * 1024**2
    assert parse_memory("0.5kB") == 500
    assert parse_memory(1000) == 1000


def test_background(series):
    lifted = TiltSeries(
        images=series.images + np.linspace(1, 5, 90)[:, None, None],
        angles_deg=series.angles_deg,
        pixel_nm=PIXEL_NM,
        name="lifted",
        metadata={"microscope": "one"},
    )
    mended = remove_background(lifted)
    assert np.abs(mended.images - series.images).max() < 0.01
    assert mended.metadata["microscope"] == "one"
    with pytest.raises(ValueError, match="margin"):
        remove_background(series, margin=0)
