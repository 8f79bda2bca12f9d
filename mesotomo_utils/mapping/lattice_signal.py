"""The atomic lattice of one dot in reciprocal space: a windowed Fourier transform, read anywhere.

A dot is cut out with a smooth spherical window and its transform is taken once, on a grid finer
than the window needs. Between the grid points it is not interpolated by guess: the window was
divided by the transform of a narrow Gaussian beforehand, so that a sum of the neighbouring grid
points with that Gaussian gives the transform itself, and the Gaussian's derivatives give its
gradient and its curvature (a non-uniform Fourier transform of type 2). Spots can then be followed
below one Fourier voxel, at the price of one transform a dot.

Several dots are transformed and read together, on the GPU where their cubes lie there. What is read comes back as
numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from scipy import fft

from mesotomo_utils.backend import fft_module, get_array_module, to_device, to_numpy

# Grid points per Fourier voxel of the window, and the neighbours a direction that a reading takes.
# With a Gaussian of one grid step the power near a spot is right to 1e-4 of the spot and its
# gradient to 3e-4; eight neighbours allow no more, and a finer grid only costs time.
OVERSAMPLING = 1.4
TAPS = 8
_REACH = TAPS // 2
_OFFSETS = np.arange(1 - _REACH, _REACH + 1)
# Of the Taylor series of a transform: the value and three derivatives.
_ORDERS = 4


@dataclass(frozen=True)
class DotWindow:
    """A spherical window and its Fourier transform, prepared once for all dots of a volume.

    Attributes
    ----------
    voxel_nm, window_nm
        Voxel and diameter of the window, nm.
    weights
        (n, n, n) float32: the window divided by the transform of the reading Gaussian.
    window
        (n, n, n) float32: the window alone; 1 at the centre, 0 from half its diameter on.
    step_per_nm
        Distance of the grid points in reciprocal space, 1/nm.
    k_max
        The grid runs from -k_max to k_max along z and y, and from the reach of a reading below
        zero to k_max along x (the other half holds the same values).
    reading_gain
        Mean power of noise read between the grid points over its mean power at them.
    """

    voxel_nm: float
    window_nm: float
    weights: np.ndarray
    window: np.ndarray
    step_per_nm: float
    k_max: int
    reading_gain: float
    _box: int
    _phase: np.ndarray

    @property
    def n(self) -> int:
        """Edge of the cube that is cut out, voxels (odd)."""
        return self.weights.shape[0]

    @property
    def grid_shape(self) -> tuple[int, int, int]:
        """Shape of the transform, [kz, ky, kx]."""
        return (2 * self.k_max + 1, 2 * self.k_max + 1, self.k_max + 1 + _REACH)

    def on(self, device: str) -> DotWindow:
        """The same window for cubes on a device."""
        arrays = {name: to_device(getattr(self, name), device) for name in ("weights", "window", "_phase")}
        return replace(self, **arrays)


def prepare_window(*, voxel_nm: float, window_nm: float, g_max_per_nm: float) -> DotWindow:
    """Prepare the window (1 - r^2/R^2)^2 and the grid of its Fourier transform.

    Parameters
    ----------
    voxel_nm
        Edge of a voxel, nm.
    window_nm
        Diameter 2R of the window, nm; its half width is 0.54 of that.
    g_max_per_nm
        Largest spatial frequency that will be read, 1/nm.

    Raises
    ------
    ValueError
        The window is smaller than eight voxels; the frequency lies above Nyquist.
    """
    if not window_nm >= 8 * voxel_nm:
        raise ValueError(f"window_nm = {window_nm} is under eight voxels of {voxel_nm} nm")
    if not 0 < g_max_per_nm < 0.5 / voxel_nm:
        raise ValueError(
            f"a frequency of {g_max_per_nm:.2f}/nm cannot be seen with voxels of {voxel_nm} nm "
            f"(Nyquist {0.5 / voxel_nm:.2f}/nm)"
        )
    half = int(np.ceil(window_nm / 2 / voxel_nm))
    x_nm = np.arange(-half, half + 1) * voxel_nm
    square = (2 * x_nm / window_nm) ** 2
    window = np.clip(1 - (square[:, None, None] + square[:, None] + square), 0, None) ** 2
    box = fft.next_fast_len(int(np.ceil(OVERSAMPLING * window_nm / voxel_nm)), real=True)
    step = 1 / (box * voxel_nm)
    # The transform of exp(-t^2/2), t in grid steps, at the position x: it is divided out here and
    # comes back when the grid is read with that Gaussian.
    gaussian = np.sqrt(2 * np.pi) * np.exp(-2 * (np.pi * x_nm * step) ** 2)
    weights = window / (gaussian[:, None, None] * gaussian[:, None] * gaussian)
    k_max = int(np.ceil(g_max_per_nm / step)) + _REACH
    k = np.arange(-k_max, k_max + 1)
    # The Fourier transform counts from the corner of the cube; these turn it to count from its middle,
    # so that it varies slowly from one grid point to the next and can be read in between.
    phase = np.exp(2j * np.pi * k * half / box)
    phases = phase[:, None, None] * phase[:, None] * phase[k >= -_REACH]
    return DotWindow(
        voxel_nm=voxel_nm,
        window_nm=window_nm,
        weights=weights.astype(np.float32),
        window=window.astype(np.float32),
        step_per_nm=step,
        k_max=k_max,
        reading_gain=float((window**2).sum() / (weights**2).sum()),
        _box=box,
        _phase=phases.astype(np.complex64),
    )


def transform(window: DotWindow, cubes: np.ndarray) -> np.ndarray:
    """Fourier transforms of windowed cubes on the grid of the window.

    Parameters
    ----------
    window
        From :func:`prepare_window`, on the device of the cubes.
    cubes
        (..., n, n, n) densities [z, y, x].

    Returns
    -------
    complex64 (..., kz, ky, kx) of ``window.grid_shape``: the sum over voxels of (rho - mean) weights
    exp(-2 pi i k.r), r from the middle of the cube. Along each axis only the frequencies up to the
    last reflection are kept, which halves the work. SciPy's transform stays in its thread, so that
    dots can be spread over threads.
    """
    if get_array_module(cubes) is not np:
        return _transform(window, cubes)
    spectra = np.empty((*cubes.shape[:-3], *window.grid_shape), np.complex64)
    for one in np.ndindex(cubes.shape[:-3]):  # one after the other: what one needs at a time fits into a core's cache
        _transform(window, cubes[one], out=spectra[one])
    return spectra


def _transform(window: DotWindow, cubes: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    box, k_max = window._box, window.k_max
    xp = get_array_module(cubes)
    transforms = fft_module(xp)
    density = _windowed(window, cubes, window.weights)
    k = np.arange(-k_max, k_max + 1) % box
    kx = np.arange(-_REACH, k_max + 1) % box
    # The density is real: what a real transform leaves out is the conjugate of what it gives.
    left_out = kx > box // 2
    k, kx, left_out = (xp.asarray(index) for index in (k, np.where(left_out, box - kx, kx), np.flatnonzero(left_out)))
    along_x = transforms.rfft(density, box, axis=-1)[..., kx]
    along_x[..., left_out] = along_x[..., left_out].conj()
    along_y = transforms.fft(along_x, box, axis=-2, overwrite_x=True)[..., k, :]
    along_z = transforms.fft(along_y, box, axis=-3, overwrite_x=True)[..., k, :, :]
    return xp.multiply(along_z, window._phase, out=out)


def fourier_sums(window: DotWindow, cube: np.ndarray, g_per_nm: np.ndarray) -> np.ndarray:
    """The transform of a windowed cube at a few frequencies, summed directly.

    Parameters
    ----------
    window, cube
        As for :func:`transform`; the plain window weighs here.
    g_per_nm
        (M, 3) frequencies x, y, z, 1/nm.

    Returns
    -------
    (M,) complex64.
    """
    x_nm = (np.arange(window.n) - window.n // 2) * window.voxel_nm
    ex, ey, ez = np.exp(-2j * np.pi * g_per_nm.T[:, None] * x_nm[:, None]).astype(np.complex64)
    density = _windowed(window, cube, window.window)
    along_x = _times_waves(density, ex)
    return np.einsum("zyg,yg,zg->g", along_x, ey, ez, optimize=True)


@dataclass(frozen=True)
class LocalTransform:
    """The transforms of windowed cubes near a few frequencies: a Taylor series of third order about each.

    A quarter of a Fourier voxel away its power is right to a thousandth of the spot, half of one away to a fiftieth.

    Attributes
    ----------
    g_per_nm
        (D, M, 3) frequencies x, y, z of each of D cubes, 1/nm.
    value, slope, bend, third
        (D, M), (D, M, 3), (D, M, 3, 3) and (D, M, 3, 3, 3) complex: the transform there and its derivatives.
    """

    g_per_nm: np.ndarray
    value: np.ndarray
    slope: np.ndarray
    bend: np.ndarray
    third: np.ndarray

    def less(self, other: LocalTransform, factor: float) -> LocalTransform:
        """The difference to another times a factor, about the same frequencies."""
        less = (mine - factor * theirs for mine, theirs in zip(self.parts, other.parts, strict=True))
        return LocalTransform(self.g_per_nm.copy(), *less)

    def put(self, rows: np.ndarray, other: LocalTransform) -> None:
        """Take the place of some cubes by others, summed anew about other frequencies."""
        for mine, theirs in zip((self.g_per_nm, *self.parts), (other.g_per_nm, *other.parts), strict=True):
            mine[rows] = theirs

    @property
    def parts(self) -> tuple[np.ndarray, ...]:
        """The transform and its derivatives."""
        return self.value, self.slope, self.bend, self.third

    def read_power(self, g_per_nm: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As :func:`read_power`, for frequencies (K, M, 3) near those of the cubes ``rows`` (K,)."""
        away = g_per_nm - self.g_per_nm[rows]
        slope, bend = self.slope[rows], self.bend[rows]
        twisted = np.einsum("kmijl,kml->kmij", self.third[rows], away)
        bent, curled = (np.einsum("kmij,kmj->kmi", second, away) for second in (bend, twisted))
        value = self.value[rows] + np.einsum("kmi,kmi->km", away, slope + bent / 2 + curled / 6)
        slope = slope + bent + curled / 2
        bend = bend + twisted
        gradient = 2 * (value.conj()[..., None] * slope).real
        products = slope.conj()[..., :, None] * slope[..., None, :] + value.conj()[..., None, None] * bend
        return np.abs(value) ** 2, gradient, 2 * products.real


def local_transform(
    window: DotWindow, cubes: np.ndarray, g_per_nm: np.ndarray, *, middles_nm: np.ndarray | None = None
) -> LocalTransform:
    """The transforms of windowed cubes near a few frequencies, summed directly: cheaper than all of them.

    Parameters
    ----------
    window
        As for :func:`transform`; the plain window weighs here.
    cubes
        (D, n, n, n) densities [z, y, x].
    g_per_nm
        (D, M, 3) frequencies x, y, z, 1/nm.
    middles_nm
        (D, 3) x, y, z of the middle of each cube, from the point that its phases count from; that point itself if
        left out.

    Returns
    -------
    :class:`LocalTransform`.
    """
    x_nm = (np.arange(window.n) - window.n // 2) * window.voxel_nm
    axes = x_nm + np.zeros((len(cubes), 3, 1)) if middles_nm is None else x_nm + np.asarray(middles_nm)[..., None]
    # each axis: (D, M, n, orders), the wave and its derivatives by the frequency
    powers = (-2j * np.pi * axes[..., None]) ** np.arange(_ORDERS)
    waves = np.exp(-2j * np.pi * g_per_nm[..., None] * axes[:, None])[..., None]  # (D, M, axis, n, 1)
    xp = get_array_module(cubes)
    waves = tuple(xp.asarray((waves[:, :, i] * powers[:, None, i]).astype(np.complex64)) for i in range(3))
    if xp is np:
        # one after the other: what one needs at a time fits into a core's cache
        each = [(cubes[d : d + 1], *(wave[d : d + 1] for wave in waves)) for d in range(len(cubes))]
        sums = np.concatenate([_sums(window, *one) for one in each])
    else:
        sums = to_numpy(_sums(window, cubes, *waves))
    parts = []
    for order in range(_ORDERS):
        # how often it is derived by x, y, z, for each element of the tensor
        times = np.array([np.bincount(axes, minlength=3) for axes in product(range(3), repeat=order)], int)
        parts.append(sums[(..., *times.T)].reshape(*sums.shape[:2], *(3,) * order))
    return LocalTransform(np.array(g_per_nm, float), *parts)


def _sums(window: DotWindow, cubes: np.ndarray, ex: np.ndarray, ey: np.ndarray, ez: np.ndarray) -> np.ndarray:
    """Sums of windowed cubes times waves (D, M, n, orders): (D, M, order along x, order along y, order along z)."""
    d, m, n = ex.shape[:3]
    density = _windowed(window, cubes, window.window).reshape(d, n * n, n)
    along_x = _times_waves(density, ex.transpose(0, 2, 1, 3).reshape(d, n, _ORDERS * m))
    # (D, M, order along x, z, y), then y and z
    planes = along_x.reshape(d, n, n, m, _ORDERS).transpose(0, 3, 4, 1, 2)
    return (planes @ ey[:, :, None]).swapaxes(3, 4) @ ez[:, :, None]


def _times_waves(density: np.ndarray, waves: np.ndarray) -> np.ndarray:
    """Matrix product of float32 and complex64, as one of real matrices: real and imaginary parts side by side."""
    columns = get_array_module(density).ascontiguousarray(waves).view(np.float32)
    return (density @ columns).view(np.complex64)


def _windowed(window: DotWindow, cubes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Cubes less their means over the window, whose tails would lie under the first reflections, times weights."""
    if cubes.shape[-3:] != window.window.shape:
        raise ValueError(f"a cube has the shape {cubes.shape[-3:]}, the window wants {window.window.shape}")
    mean = get_array_module(cubes).einsum("...zyx,zyx->...", cubes, window.window) / window.window.sum()
    density = cubes - mean[..., None, None, None].astype(np.float32)
    density *= weights
    return density


def _half_space(g_per_nm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fold frequencies (..., 3) to g_x >= 0, where the grid holds them; and their signs (...)."""
    sign = np.where(g_per_nm[..., 0] < 0, -1.0, 1.0)
    return g_per_nm * sign[..., None], sign


def grid_index(window: DotWindow, g_per_nm: np.ndarray) -> np.ndarray:
    """Flat index (M,) of the grid point nearest to each frequency (M, 3), x, y, z in 1/nm."""
    folded, _ = _half_space(g_per_nm)
    k = np.rint(folded[:, ::-1] / window.step_per_nm).astype(np.int64)
    k += [window.k_max, window.k_max, _REACH]
    return np.ravel_multi_index(tuple(k.T), window.grid_shape)


def grid_points(window: DotWindow, index: np.ndarray) -> np.ndarray:
    """Frequencies (M, 3), x, y, z in 1/nm, of grid points given by their flat index (M,)."""
    k = np.stack(np.unravel_index(index, window.grid_shape), axis=-1)
    k -= [window.k_max, window.k_max, _REACH]
    return k[:, ::-1] * window.step_per_nm


def read_power(
    window: DotWindow, spectra: np.ndarray, g_per_nm: np.ndarray, rows: np.ndarray | int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Power of transforms at any frequency, with its gradient and its curvature.

    Parameters
    ----------
    window, spectra
        From :func:`prepare_window` and :func:`transform`; (D, ...) or the transform of one dot.
    g_per_nm
        (M, 3) or (K, M, 3) frequencies x, y, z, 1/nm, within the grid.
    rows
        (K,) index of the transform that each is read from.

    Returns
    -------
    power (..., M), gradient (..., M, 3) per 1/nm, curvature (..., M, 3, 3) per (1/nm)^2, in numpy.
    """
    given = np.asarray(g_per_nm, float)
    points, sign = _half_space(given.reshape(-1, 3))
    kappa = points[:, ::-1] / window.step_per_nm
    first = np.floor(kappa)
    neighbours = first[:, :, None] + _OFFSETS
    t = kappa[:, :, None] - neighbours
    value = np.exp(-0.5 * t**2)
    # (points, axis z y x, order of the derivative, tap)
    read = np.stack([value, -t * value, (t**2 - 1) * value], axis=2).astype(np.float32)
    index = neighbours.astype(np.int64) + np.array([window.k_max, window.k_max, _REACH])[:, None]
    index[:, 0] += (window.grid_shape[0] * np.broadcast_to(rows, given.shape[-3:-2]).repeat(given.shape[-2]))[:, None]
    xp = get_array_module(spectra)
    index, read = xp.asarray(index), xp.asarray(read)
    _, ny, nx = window.grid_shape
    iz, iy, ix = index[:, 0, :, None, None], index[:, 1, None, :, None], index[:, 2, None, None]
    block = spectra.reshape(-1)[(iz * ny + iy) * nx + ix]
    moments = xp.einsum("mzyx,mcx->mzyc", block, read[:, 2])
    moments = xp.einsum("mzyc,mby->mzbc", moments, read[:, 1])
    moments = to_numpy(xp.einsum("mzbc,maz->mabc", moments, read[:, 0]))
    F = moments[:, 0, 0, 0]
    order = np.eye(3, dtype=int)[::-1]  # x, y, z as orders along (z, y, x)
    dF = np.stack([moments[:, a, b, c] for a, b, c in order], axis=1)
    ddF = np.stack([np.stack([moments[(slice(None), *(p + q))] for q in order], axis=1) for p in order], axis=1)
    power = np.abs(F) ** 2
    gradient = 2 * (F.conj()[:, None] * dF).real * sign[:, None] / window.step_per_nm
    curvature = 2 * (dF.conj()[:, :, None] * dF[:, None] + F.conj()[:, None, None] * ddF).real
    shape = given.shape
    curvature = curvature / window.step_per_nm**2
    return power.astype(float).reshape(shape[:-1]), gradient.reshape(shape), curvature.reshape(*shape, 3)
