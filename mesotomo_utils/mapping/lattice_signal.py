"""The atomic lattice of one dot in reciprocal space: a windowed Fourier transform, read anywhere.

A dot is cut out with a smooth spherical window and its transform is taken once, on a grid finer
than the window needs. Between the grid points it is not interpolated by guess: the window was
divided by the transform of a narrow Gaussian beforehand, so that a sum of the neighbouring grid
points with that Gaussian gives the transform itself, and the Gaussian's derivatives give its
gradient and its curvature (a non-uniform Fourier transform of type 2). Spots can then be followed
below one Fourier voxel, at the price of one transform a dot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

# Grid points per Fourier voxel of the window, and the neighbours a direction that a reading takes.
# With a Gaussian of one grid step the power near a spot is right to 1e-4 of the spot and its
# gradient to 3e-4; eight neighbours allow no more, and a finer grid only costs time.
OVERSAMPLING = 1.4
TAPS = 8
_REACH = TAPS // 2
_OFFSETS = np.arange(1 - _REACH, _REACH + 1)


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


def prepare_window(
    *, voxel_nm: float, window_nm: float, g_max_per_nm: float, step_per_nm: float | None = None
) -> DotWindow:
    """Prepare the window (1 - r^2/R^2)^2 and the grid of its Fourier transform.

    Parameters
    ----------
    voxel_nm
        Edge of a voxel, nm.
    window_nm
        Diameter 2R of the window, nm; its half width is 0.54 of that.
    g_max_per_nm
        Largest spatial frequency that will be read, 1/nm.
    step_per_nm
        That of the window of another voxel size, for transforms on one grid.

    Raises
    ------
    ValueError
        The window is smaller than eight voxels; the frequency lies above Nyquist; the step asked for
        is not that of a whole number of voxels.
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
    if step_per_nm is None:
        box = fft.next_fast_len(int(np.ceil(OVERSAMPLING * window_nm / voxel_nm)), real=True)
    else:
        box = round(1 / (step_per_nm * voxel_nm))
        if abs(box * voxel_nm * step_per_nm - 1) > 1e-6:
            raise ValueError(f"{1 / step_per_nm:.3f} nm, the inverse of step_per_nm, is no multiple of {voxel_nm} nm")
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


def coarsest_voxel_nm(window: DotWindow, g_max_per_nm: float) -> float:
    """Edge of the largest voxels, nm, that carry a frequency and share the frequency grid of a window."""
    period_nm = 1 / window.step_per_nm
    box = fft.next_fast_len(int(np.ceil(2.1 * g_max_per_nm * period_nm)), real=True)
    return period_nm / min(box, window._box)


def transform(window: DotWindow, cube: np.ndarray) -> np.ndarray:
    """Fourier transform of a windowed cube on the grid of the window.

    Parameters
    ----------
    window
        From :func:`prepare_window`.
    cube
        (n, n, n) densities [z, y, x].

    Returns
    -------
    complex64 [kz, ky, kx] of ``window.grid_shape``: the sum over voxels of (rho - mean) weights
    exp(-2 pi i k.r), r from the middle of the cube. Along each axis only the frequencies up to the
    last reflection are kept, which halves the work. SciPy's transform stays in its thread, so that
    dots can be spread over threads.
    """
    box, k_max = window._box, window.k_max
    density = _less_mean(window, cube) * window.weights
    k = np.arange(-k_max, k_max + 1) % box
    kx = np.arange(-_REACH, k_max + 1) % box
    # The density is real: what a real transform leaves out is the conjugate of what it gives.
    left_out = kx > box // 2
    along_x = fft.rfft(density, box, axis=2)[:, :, np.where(left_out, box - kx, kx)]
    along_x[:, :, left_out] = along_x[:, :, left_out].conj()
    along_y = fft.fft(along_x, box, axis=1, overwrite_x=True)[:, k]
    return fft.fft(along_y, box, axis=0, overwrite_x=True)[k] * window._phase


def moved(window: DotWindow, spectrum: np.ndarray, by_nm: np.ndarray) -> np.ndarray:
    """Transform of what a cube holds, counted from a point that lies (3,) x, y, z nm before its middle."""
    k = np.arange(-window.k_max, window.k_max + 1)
    x, y, z = -2j * np.pi * window.step_per_nm * np.asarray(by_nm, float)
    phase = np.exp(z * k)[:, None, None] * (np.exp(y * k)[:, None] * np.exp(x * k[k >= -_REACH]))
    return spectrum * phase.astype(np.complex64)


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
    density = _less_mean(window, cube) * window.window
    along_x = density @ ex.real + 1j * (density @ ex.imag)
    return np.einsum("zyg,yg,zg->g", along_x, ey, ez, optimize=True)


@dataclass(frozen=True)
class LocalTransform:
    """The transform of a windowed cube near a few frequencies: a Taylor series of second order about each.

    Half a Fourier voxel away it is right to a twentieth of the spot, a tenth away to a thousandth.

    Attributes
    ----------
    g_per_nm
        (M, 3) frequencies x, y, z, 1/nm.
    value, slope, bend
        (M,), (M, 3) and (M, 3, 3) complex: the transform there, its gradient and its second derivatives.
    """

    g_per_nm: np.ndarray
    value: np.ndarray
    slope: np.ndarray
    bend: np.ndarray

    def less(self, other: LocalTransform, factor: float) -> LocalTransform:
        """The difference to another times a factor, about the same frequencies."""
        pairs = ((self.value, other.value), (self.slope, other.slope), (self.bend, other.bend))
        return LocalTransform(self.g_per_nm, *(mine - factor * theirs for mine, theirs in pairs))

    def read_power(self, g_per_nm: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As :func:`read_power`, for (K M, 3) frequencies: K near each of the M, M varying fastest."""
        away = np.asarray(g_per_nm, float).reshape(-1, *self.g_per_nm.shape) - self.g_per_nm
        bent = np.einsum("mij,kmj->kmi", self.bend, away)
        value = self.value + np.einsum("kmi,mi->km", away, self.slope) + np.einsum("kmi,kmi->km", away, bent) / 2
        slope = self.slope + bent
        gradient = 2 * (value.conj()[..., None] * slope).real
        products = slope.conj()[..., :, None] * slope[..., None, :] + value.conj()[..., None, None] * self.bend
        return (np.abs(value) ** 2).ravel(), gradient.reshape(-1, 3), 2 * products.real.reshape(-1, 3, 3)


def local_transform(
    window: DotWindow, cube: np.ndarray, g_per_nm: np.ndarray, *, middle_nm: np.ndarray | None = None
) -> LocalTransform:
    """The transform of a windowed cube near a few frequencies, summed directly: cheaper than all of it.

    Parameters
    ----------
    window, cube
        As for :func:`transform`; the plain window weighs here.
    g_per_nm
        (M, 3) frequencies x, y, z, 1/nm.
    middle_nm
        (3,) x, y, z of the middle of the cube, from the point that the phases count from; that point itself if
        left out.

    Returns
    -------
    :class:`LocalTransform`.
    """
    x_nm = (np.arange(window.n) - window.n // 2) * window.voxel_nm
    axes = x_nm + np.zeros((3, 1)) if middle_nm is None else x_nm + np.asarray(middle_nm, float)[:, None]
    # each axis: (M, n, 3), the wave and its first and second derivative by the frequency
    powers = (-2j * np.pi * axes[..., None]) ** np.arange(3)
    waves = np.exp(-2j * np.pi * g_per_nm.T[:, :, None] * axes[:, None])
    ex, ey, ez = (waves[..., None] * powers[:, None]).astype(np.complex64)
    m, n = len(g_per_nm), window.n
    density = (_less_mean(window, cube) * window.window).reshape(n * n, n)
    columns = ex.transpose(1, 0, 2).reshape(n, 3 * m)
    along_x = np.empty((n * n, 3 * m), np.complex64)
    along_x.real, along_x.imag = density @ columns.real, density @ columns.imag
    # (M, order along x, z, y), then y and z
    planes = along_x.reshape(n, n, m, 3).transpose(2, 3, 0, 1)
    sums = np.matmul(np.matmul(planes, ey[:, None]).swapaxes(2, 3), ez[:, None])  # (M, order x, order y, order z)
    order = np.eye(3, dtype=int)
    return LocalTransform(
        g_per_nm=np.asarray(g_per_nm, float),
        value=sums[:, 0, 0, 0],
        slope=np.stack([sums[:, a, b, c] for a, b, c in order], axis=1),
        bend=np.stack([np.stack([sums[(slice(None), *(p + q))] for q in order], axis=1) for p in order], axis=1),
    )


def _less_mean(window: DotWindow, cube: np.ndarray) -> np.ndarray:
    """The cube less its mean over the window, whose tails would lie under the first reflections."""
    if cube.shape != window.window.shape:
        raise ValueError(f"cube has the shape {cube.shape}, the window wants {window.window.shape}")
    mean = np.einsum("zyx,zyx->", cube, window.window) / window.window.sum()
    return cube - np.float32(mean)


def _half_space(g_per_nm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fold frequencies (M, 3) to g_x >= 0, where the grid holds them; and their signs (M,)."""
    sign = np.where(g_per_nm[:, 0] < 0, -1.0, 1.0)
    return g_per_nm * sign[:, None], sign


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
    window: DotWindow, spectrum: np.ndarray, g_per_nm: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Power of the transform at any frequency, with its gradient and its curvature.

    Parameters
    ----------
    window, spectrum
        From :func:`prepare_window` and :func:`transform`.
    g_per_nm
        (M, 3) frequencies x, y, z, 1/nm, within the grid.

    Returns
    -------
    power (M,), gradient (M, 3) per 1/nm, curvature (M, 3, 3) per (1/nm)^2.
    """
    folded, sign = _half_space(np.asarray(g_per_nm, float))
    kappa = folded[:, ::-1] / window.step_per_nm
    first = np.floor(kappa)
    neighbours = first[:, :, None] + _OFFSETS
    t = kappa[:, :, None] - neighbours
    value = np.exp(-0.5 * t**2)
    # (M, axis z y x, order of the derivative, tap)
    read = np.stack([value, -t * value, (t**2 - 1) * value], axis=2).astype(np.float32)
    index = neighbours.astype(np.int64) + np.array([window.k_max, window.k_max, _REACH])[:, None]
    _, ny, nx = window.grid_shape
    iz, iy, ix = index[:, 0, :, None, None], index[:, 1, None, :, None], index[:, 2, None, None]
    flat = (iz * ny + iy) * nx + ix
    block = spectrum.reshape(-1)[flat]
    moments = np.einsum("mzyx,mcx->mzyc", block, read[:, 2], optimize=False)
    moments = np.einsum("mzyc,mby->mzbc", moments, read[:, 1], optimize=False)
    moments = np.einsum("mzbc,maz->mabc", moments, read[:, 0], optimize=False)
    F = moments[:, 0, 0, 0]
    order = np.eye(3, dtype=int)[::-1]  # x, y, z as orders along (z, y, x)
    dF = np.stack([moments[:, a, b, c] for a, b, c in order], axis=1)
    ddF = np.stack([np.stack([moments[(slice(None), *(p + q))] for q in order], axis=1) for p in order], axis=1)
    power = np.abs(F) ** 2
    gradient = 2 * (F.conj()[:, None] * dF).real * sign[:, None] / window.step_per_nm
    curvature = 2 * (dF.conj()[:, :, None] * dF[:, None] + F.conj()[:, None, None] * ddF).real
    return power.astype(float), gradient, curvature / window.step_per_nm**2
