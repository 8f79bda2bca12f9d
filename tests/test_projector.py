"""Laws of the projector: an adjoint pair, linear, turned with its object, right on a disc."""

import sys

import numpy as np
import pytest

from mesotomo_utils.tomography.gridding_gpu import GpuGridding
from mesotomo_utils.tomography.projector import Projector, angular_weights
from mesotomo_utils.tomography.transforms import load_transforms


def disc(size: int, radius: float, centre=(0.0, 0.0), oversampling: int = 8) -> np.ndarray:
    """A disc of value 1 with its edge averaged over each pixel; centre (x, y) from the axis, pixels."""
    fine = (np.arange(size * oversampling) + 0.5) / oversampling - size / 2
    y, x = np.meshgrid(fine, fine, indexing="ij")
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
    return inside.reshape(size, oversampling, size, oversampling).mean(axis=(1, 3)).astype(np.float32)


@pytest.mark.parametrize(("n_u", "size", "n_z"), [(40, 40, 5), (41, 41, 4), (50, 33, 1), (33, 50, 3)])
def test_adjoint(n_u, size, n_z):
    rng = np.random.default_rng(0)
    projector = Projector(np.linspace(-90, 88, 37), n_u, size=size, tolerance=1e-9, dtype="float64")
    slices = rng.normal(size=(n_z, size, size))
    series = rng.normal(size=(37, n_z, n_u))
    left = np.vdot(projector.forward(slices), series)
    right = np.vdot(slices, projector.adjoint(series))
    scale = np.linalg.norm(projector.forward(slices)) * np.linalg.norm(series)
    assert abs(left - right) < 1e-10 * scale


def test_adjoint_in_single_precision():
    rng = np.random.default_rng(1)
    projector = Projector(np.arange(0, 180, 3), 64)
    slices = rng.normal(size=(6, 64, 64)).astype(np.float32)
    series = rng.normal(size=(60, 6, 64)).astype(np.float32)
    forward = projector.forward(slices)
    difference = np.vdot(forward.astype(float), series) - np.vdot(slices, projector.adjoint(series).astype(float))
    assert abs(difference) < 1e-6 * np.linalg.norm(forward) * np.linalg.norm(series)


def test_linear():
    rng = np.random.default_rng(2)
    projector = Projector([-30, 10, 75], 32)
    one, two = rng.normal(size=(2, 3, 32, 32)).astype(np.float32)
    combined = projector.forward(2 * one - 3 * two)
    assert np.allclose(combined, 2 * projector.forward(one) - 3 * projector.forward(two), atol=1e-3)


def test_packed_slices_do_not_mix():
    projector = Projector(np.arange(0, 180, 10), 32)
    slices = np.random.default_rng(3).normal(size=(5, 32, 32)).astype(np.float32)
    together = projector.forward(slices)
    for z in range(5):
        alone = projector.forward(slices[z : z + 1])[:, 0]
        assert np.allclose(together[:, z], alone, atol=2e-4 * np.abs(alone).max())


@pytest.mark.parametrize("size", [32, 33])
def test_right_angles_are_sums_of_pixels(size):
    slices = np.random.default_rng(4).normal(size=(1, size, size)).astype(np.float32)
    images = Projector([0, 90, 180, -90], size, tolerance=1e-8, dtype="float64").forward(slices)[:, 0]
    along_y, along_x = slices[0].sum(axis=0), slices[0].sum(axis=1)
    for image, expected in zip(images, [along_y, along_x, along_y[::-1], along_x[::-1]], strict=True):
        assert np.allclose(image, expected, atol=1e-4)


def test_turned_object_is_a_shifted_tilt():
    slices = np.random.default_rng(5).normal(size=(1, 32, 32)).astype(np.float32)
    turned = np.rot90(slices, axes=(2, 1)).copy()  # x -> y: a point at angle φ goes to φ + 90°
    assert np.allclose(Projector([20.0], 32).forward(slices), Projector([110.0], 32).forward(turned), atol=1e-3)


@pytest.mark.parametrize("size", [64, 65])
def test_point_off_the_axis(size):
    """A blob at (x, y) lands at u = x cos θ + y sin θ."""
    x0, y0 = 9.0, -5.5
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    blob = np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / 8).astype(np.float32)[None]
    angles = np.array([-72.0, -20.0, 0.0, 33.0, 81.0])
    images = Projector(angles, size).forward(blob)[:, 0]
    u = np.arange(size) - (size - 1) / 2
    found = (images * u).sum(axis=1) / images.sum(axis=1)
    t = np.deg2rad(angles)
    assert np.allclose(found, x0 * np.cos(t) + y0 * np.sin(t), atol=2e-3)


def test_disc_against_its_chords():
    size, radius, centre = 128, 30.0, (10.0, -6.0)
    angles = np.arange(-90, 90, 7.0)
    images = Projector(angles, size).forward(disc(size, radius, centre)[None])[:, 0]
    t = np.deg2rad(angles)[:, None]
    fine = (np.arange(size * 8) + 0.5) / 8 - size / 2
    distance = fine - (centre[0] * np.cos(t) + centre[1] * np.sin(t))
    chords = 2 * np.sqrt(np.maximum(radius**2 - distance**2, 0)).reshape(len(angles), size, 8)
    difference = images - chords.mean(axis=2)
    assert np.sqrt((difference**2).mean()) < 0.01 * 2 * radius


@pytest.mark.parametrize("size", [48, 49])
def test_parseval(size):
    """The energy of a projection is that of its line through the slice's transform, summed pixel by pixel."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    blob = np.exp(-((x - 3) ** 2 / 20 + (y + 2) ** 2 / 9))
    angles = [0.0, 27.0, -63.0, 90.0]
    images = Projector(angles, size).forward(blob[None].astype(np.float32))[:, 0]
    for image, t in zip(images, np.deg2rad(angles), strict=True):
        k = 2 * np.pi * np.fft.fftfreq(size)
        line = np.exp(-1j * k[:, None, None] * (x * np.cos(t) + y * np.sin(t))).reshape(size, -1) @ blob.ravel()
        assert np.isclose((image**2).sum(), (np.abs(line) ** 2).sum() / size, rtol=1e-5)


@pytest.mark.parametrize("n_u", [96, 97])
def test_fbp_recovers_the_value_of_a_disc(n_u):
    angles = np.arange(0, 180, 1.0)
    projector = Projector(angles, n_u)
    truth = np.stack([disc(n_u, 30, (5, -8)), 2.5 * disc(n_u, 12, (-20, 4)), disc(n_u, 20)])
    volume = projector.fbp(projector.forward(truth))
    for z, (centre, value) in enumerate([((5, -8), 1.0), ((-20, 4), 2.5), ((0, 0), 1.0)]):
        y, x = np.mgrid[:n_u, :n_u] - (n_u - 1) / 2
        distance = np.hypot(x - centre[0], y - centre[1])
        assert volume[z][distance < 8].mean() == pytest.approx(value, rel=3e-3)
    assert abs(volume[2][np.hypot(y, x) > 26].mean()) < 5e-3


@pytest.mark.parametrize(("n_u", "size"), [(64, 64), (65, 65), (40, 60), (60, 12), (3, 3)])
def test_the_ramp_spreads_as_if_it_had_no_period(n_u, size):
    """Filtered in space, line by line, by the kernel itself, and then summed frequency by frequency."""
    angles = np.arange(0, 180, 12.0)
    images = np.random.default_rng(8).normal(size=(len(angles), 2, n_u)) + 2
    projector = Projector(angles, n_u, size=size, tolerance=1e-9, dtype="float64")
    length = projector.length
    to = np.arange(length) - (length - n_u + 1) // 2
    distance = to[:, None] - np.arange(n_u)
    odd = distance % 2 == 1
    kernel = np.where(odd, -1 / (np.pi * np.where(odd, distance, 1)) ** 2, np.where(distance == 0, 0.25, 0))
    k = 2 * np.pi * np.fft.fftfreq(length)
    spectra = (images @ kernel.T) @ np.exp(-1j * k * (to[:, None] - (n_u - 1) / 2)) / length
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    expected = np.zeros((2, size, size))
    for t, spectrum in zip(np.deg2rad(angles), spectra, strict=True):
        waves = np.exp(1j * k * (x * np.cos(t) + y * np.sin(t))[..., None])
        expected += np.pi / len(angles) * np.moveaxis((waves @ spectrum.T).real, -1, 0)
    assert np.abs(projector.fbp(images) - expected).max() < 1e-5 * np.abs(expected).max()


def test_slices_are_the_same_however_many_threads_there_are():
    rng, angles = np.random.default_rng(9), np.arange(0, 180, 2.0)
    series = rng.normal(size=(90, 41, 128)).astype(np.float32)
    slices = rng.normal(size=(41, 128, 128)).astype(np.float32)
    one, three = (Projector(angles, 128, threads=n) for n in (1, 3))
    for name, given in (("fbp", series), ("adjoint", series), ("forward", slices)):
        assert np.array_equal(getattr(one, name)(given), getattr(three, name)(given)), name


def test_fbp_with_uneven_angles():
    """Steps of 1° and of 3° in the two halves, jittered: with equal weights the blob would be drawn out."""
    angles = np.concatenate([np.arange(0, 90, 1.0), np.arange(90, 180, 3.0)])
    angles += np.random.default_rng(6).uniform(-0.2, 0.2, angles.size)
    y, x = np.mgrid[:64, :64] - 31.5
    blob = np.exp(-((x - 6) ** 2) / 18 - (y + 4) ** 2 / 50).astype(np.float32)[None]
    projector = Projector(angles, 64)
    volume = projector.fbp(projector.forward(blob))
    assert np.linalg.norm(volume - blob) < 0.01 * np.linalg.norm(blob)


def test_angular_weights():
    assert angular_weights(np.arange(-90, 90, 2.0)).sum() == pytest.approx(np.pi)
    both_ends = angular_weights(np.arange(-90, 91, 2.0))
    assert both_ends.sum() == pytest.approx(np.pi)
    assert both_ends[0] == pytest.approx(both_ends[5] / 2)
    wedge = np.rad2deg(angular_weights(np.arange(-60, 61, 2.0)))
    assert wedge == pytest.approx(np.full(61, 2.0))
    assert np.rad2deg(angular_weights([10.0])) == pytest.approx([180.0])


def test_agrees_with_astra():
    astra = pytest.importorskip("astra", reason="astra-toolbox is not installed")
    size, angles = 96, np.arange(0, 180, 5.0)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    smooth = np.exp(-((x - 12) ** 2 + y**2) / 60) + 2 * np.exp(-((x + 9) ** 2 + (y - 17) ** 2) / 90)
    smooth = smooth.astype(np.float32)
    ours = Projector(angles, size).forward(smooth[None])[:, 0]
    volume_geometry = astra.create_vol_geom(size, size)
    # ASTRA's y grows upwards in the array, and its angles turn the other way round
    geometry = astra.create_proj_geom("parallel", 1.0, size, -np.deg2rad(angles))
    projector_id = astra.create_projector("linear", geometry, volume_geometry)
    sinogram_id, theirs = astra.create_sino(smooth, projector_id)
    astra.data2d.delete(sinogram_id)
    astra.projector.delete(projector_id)
    assert np.abs(ours - theirs).max() < 3e-3 * theirs.max()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 8), "one angle or more"),
        (([0.0, np.nan], 8), r"angles_deg\[1\] is not finite"),
        (([0.0], 1), "at least 2 pixels"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        Projector(*arguments)


def test_refuses_wrong_shapes_and_types():
    projector = Projector([0.0, 10.0], 8)
    with pytest.raises(ValueError, match=r"slices must be \(Z, 8, 8\)"):
        projector.forward(np.zeros((2, 8, 9), np.float32))
    with pytest.raises(ValueError, match=r"series must be \(2, Z, 8\)"):
        projector.adjoint(np.zeros((3, 2, 8), np.float32))
    with pytest.raises(ValueError, match=r"series must be \(2, Z, 8\)"):
        projector.fbp(np.zeros((2, 2, 9), np.float32))
    with pytest.raises(ValueError, match="float32"):
        Projector([0.0], 8, dtype="int8")
    with pytest.raises(ValueError, match=r"angles_deg\[0\]"):
        angular_weights([np.inf, 1.0])


def test_names_its_transforms(monkeypatch, caplog):
    assert Projector([0.0], 8).transforms == "gridding"
    assert Projector([0.0], 8, transforms="finufft").transforms == "finufft"
    with pytest.raises(ValueError, match="transforms on 'cpu' must be one of gridding, finufft, not 'cufinufft'"):
        Projector([0.0], 8, transforms="cufinufft")
    monkeypatch.setitem(sys.modules, "cufinufft", None)
    with caplog.at_level("INFO"):
        assert load_transforms("cuda") == ("gridding", GpuGridding)
    assert "cufinufft cannot be loaded" in caplog.text
    # asked for by name it is not replaced
    with pytest.raises(RuntimeError, match=r"cufinufft is not installed.*pip install cufinufft, or leave"):
        load_transforms("cuda", "cufinufft")
    monkeypatch.setitem(sys.modules, "finufft", None)
    with pytest.raises(RuntimeError, match=r"finufft is not installed.*pip install finufft$"):
        Projector([0.0], 8, transforms="finufft")


@pytest.mark.parametrize("n_u", [48, 49])
def test_gridding_projects_as_finufft_does(n_u):
    rng = np.random.default_rng(8)
    angles = np.arange(0, 180, 4.0)
    ours, theirs = (Projector(angles, n_u, transforms=name) for name in ("gridding", "finufft"))
    slices = rng.normal(size=(5, n_u, n_u)).astype(np.float32)
    series = rng.normal(size=(45, 5, n_u)).astype(np.float32)
    for name, given in (("forward", slices), ("adjoint", series), ("fbp", series)):
        expected = getattr(theirs, name)(given)
        assert np.linalg.norm(getattr(ours, name)(given) - expected) < 1e-4 * np.linalg.norm(expected)
