"""What a tomogram resolves: its radial spectrum, Fourier shell correlation, Crowther's limit.

Spatial frequencies are q = 1/d in nm⁻¹, without 2π. Spectra are taken in windows inside the object, and
averaged: every dot has its own orientation, so only the radius is common to all. The lattice lines in a
spectrum are read by :mod:`~mesotomo_utils.tomography.lattice_lines`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby, product
from typing import Any

import numpy as np
import pandas as pd
from scipy import fft
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from mesotomo_utils import backend
from mesotomo_utils.distribute import chunk_depth
from mesotomo_utils.tomography.cutting import mapping_chunks

Window = tuple[slice, slice, slice]
FSC_THRESHOLDS = {"0.143": 0.143, "0.5": 0.5}
"""1/7: Rosenthal and Henderson, J. Mol. Biol. 333, 721 (2003); 1/2: the stricter, older convention."""


def choose_windows(
    volume: Any, voxel_nm: float, *, window_nm: float | None = None, max_windows: int = 24
) -> list[Window]:
    """Boxes inside the object, all of one size.

    Parameters
    ----------
    volume
        (Z, Y, X), NumPy or Zarr; a quarter of the slices of one row of windows is read at a time.
    voxel_nm
        Edge of a voxel, nm.
    window_nm
        Edge of a window, nm; 128 voxels if left out. Nowhere larger than the volume.
    max_windows
        Number of windows at most.

    Returns
    -------
    list of tuple of slice
        Windows that overlap by half and hold more mass than the mean of the emptiest and the fullest, thinned evenly.

    Raises
    ------
    ValueError
        The volume is not three-dimensional or is constant.
    """
    _check(volume)
    edge = 128 if window_nm is None else max(8, round(window_nm / voxel_nm))
    shape = [min(fft.next_fast_len(edge, real=True), n) for n in volume.shape]
    starts = []
    for n, width in zip(volume.shape, shape, strict=True):
        count = 1 + math.ceil((n - width) / (width / 2))
        starts.append(np.unique(np.linspace(0, n - width, count).astype(int)))
    sides = [[slice(int(s), int(s) + width) for s in first] for first, width in zip(starts, shape, strict=True)]
    places = list(product(*sides))
    mass = np.array([m for z in sides[0] for m in _row_masses(volume, z, sides[1], sides[2])])
    level = (mass.min() + mass.max()) / 2
    kept = [place for place, m in zip(places, mass, strict=True) if m >= level]
    chosen = np.unique(np.linspace(0, len(kept) - 1, min(max_windows, len(kept))).round().astype(int))
    return [kept[i] for i in chosen]


def _row_masses(volume: Any, z: slice, sides_y: list[slice], sides_x: list[slice]) -> list[float]:
    """Mean of each window of a row; every fourth voxel is enough to weigh it."""
    thin = volume[z.start : z.stop : 4]
    # doubles: the sum is then the same however the voxels lie in memory
    return [thin[:, y, x][:, ::4, ::4].mean(dtype=np.float64) for y, x in product(sides_y, sides_x)]


def radial_power(volume: Any, voxel_nm: float, *, windows: Sequence[Window] | None = None) -> pd.DataFrame:
    """Radial power spectrum of windows inside the object.

    Parameters
    ----------
    volume
        (Z, Y, X), NumPy or Zarr; windows that share their slices are read together.
    voxel_nm
        Edge of a voxel, nm.
    windows
        From :func:`choose_windows`, which chooses them if they are left out.

    Returns
    -------
    DataFrame
        ``q_per_nm, power, n``: mean power in each shell up to the Nyquist frequency (normalised so that white
        noise of variance 1 has power 1), and the number of Fourier voxels in it.

    Raises
    ------
    ValueError
        The volume is not three-dimensional or is constant.

    Notes
    -----
    Each window loses its mean and is tapered by a Hann window, against the streaks of its faces. Shells are
    half as wide as a window's frequency step.
    """
    windows = choose_windows(volume, voxel_nm) if windows is None else windows
    shells = _Shells(_size(windows[0]), voxel_nm, width=0.5)
    power = 0.0
    for block in _blocks(volume, windows):
        power = power + _power(shells.transform(block))
    mean = shells.sum(power) / np.maximum(shells.n, 1) / len(windows)
    return shells.table(power=mean, n=shells.n * len(windows))


def fourier_shell_correlation(
    half_even: Any,
    half_odd: Any,
    voxel_nm: float,
    *,
    windows: Sequence[Window] | None = None,
) -> pd.DataFrame:
    """Correlation, shell by shell, of two tomograms from independent halves of the tilts.

    Parameters
    ----------
    half_even, half_odd
        (Z, Y, X) each, in one frame, NumPy or Zarr.
    voxel_nm
        Edge of a voxel, nm.
    windows
        From :func:`choose_windows`; if left out, chosen on the first half.

    Returns
    -------
    DataFrame
        ``q_per_nm, fsc, sigma, n``; ``sigma`` is the scatter expected of two pure noises.

    Raises
    ------
    ValueError
        The shapes differ (both are named), or a volume is not three-dimensional or constant.

    Notes
    -----
    Re Σ F₁ F₂* / √(Σ|F₁|² Σ|F₂|²) over a shell one frequency step of the window thick (Harauz and van Heel,
    Optik 73, 146, 1986): every second of thinner ones would miss the tilt axis, where the halves agree best. A
    distortion that both halves share does not show.
    """
    if half_even.shape != half_odd.shape:
        raise ValueError(f"the halves differ in shape: {half_even.shape} and {half_odd.shape}")
    windows = choose_windows(half_even, voxel_nm) if windows is None else windows
    shells = _Shells(_size(windows[0]), voxel_nm, width=1.0)
    products = np.zeros((3, *shells.shape))  # summed over the windows first: binning costs more than a transform
    for first, second in zip(_blocks(half_even, windows), _blocks(half_odd, windows), strict=True):
        f, g = shells.transform(first), shells.transform(second)
        products[0] += f.real * g.real + f.imag * g.imag
        products[1] += _power(f)
        products[2] += _power(g)
    cross, even, odd = map(shells.sum, products)
    count = len(windows)
    norm = np.sqrt(even * odd)
    fsc = np.divide(cross, norm, out=np.full_like(norm, np.nan), where=norm > 0)
    # measured on noise: the taper leaves 0.28 of a shell's values independent; half-overlapping tapered
    # windows hardly share any
    sigma = 1 / np.sqrt(np.maximum(0.28 * shells.n * (1 + 0.85 * (count - 1)), 1))
    return shells.table(fsc=fsc, sigma=sigma, n=shells.n * count)


def fsc_resolution(curve: pd.DataFrame, *, threshold: float = 0.143) -> dict[str, float]:
    """Where a Fourier shell correlation meets its threshold.

    Parameters
    ----------
    curve
        From :func:`fourier_shell_correlation`.
    threshold
        0.143 or 0.5 by custom.

    Returns
    -------
    dict
        ``first_nm``: 1/q where the curve first falls below the threshold, interpolated; NaN where it begins below
        it. ``last_nm``: 1/q of the last shell above the threshold by 3 sigma, for a crystal, whose
        signal lies in lines beyond a gap; NaN where there is none. Either is about twice the voxel where the
        curve stays above.

    Raises
    ------
    ValueError
        The threshold is not between 0 and 1.

    Examples
    --------
    >>> curve = pd.DataFrame({"q_per_nm": [0.5, 1.0, 1.5], "fsc": [0.9, 0.7, 0.3], "sigma": 0.01})
    >>> round(fsc_resolution(curve, threshold=0.5)["first_nm"], 3)
    0.8
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must lie between 0 and 1, not {threshold}")
    curve = curve.dropna(subset=["fsc"])
    q, fsc = curve["q_per_nm"].to_numpy(), curve["fsc"].to_numpy()
    below = np.flatnonzero(fsc < threshold)
    if below.size == 0:
        first = 1 / q[-1]
    elif below[0] == 0:
        first = math.nan
    else:
        i = below[0]
        first = 1 / np.interp(threshold, [fsc[i], fsc[i - 1]], [q[i], q[i - 1]])
    above = np.flatnonzero(fsc > threshold + 3 * curve["sigma"].to_numpy())
    return {"first_nm": float(first), "last_nm": float(1 / q[above[-1]]) if above.size else math.nan}


def crowther_nm(diameter_nm: float, n_tilts: int, *, range_deg: float = 180.0) -> float:
    """Crowther's limit: the smallest period that N tilts sample without a gap.

    Parameters
    ----------
    diameter_nm
        Of the object, nm.
    n_tilts
        Number of tilts, evenly spaced.
    range_deg
        Range they cover, degrees.

    Returns
    -------
    float
        π D / N for the half circle, nm.

    Raises
    ------
    ValueError
        A value is not positive.

    Notes
    -----
    Crowther, DeRosier and Klug, Proc. R. Soc. A 317, 319 (1970). The rim of the object must be sampled
    for its whole diameter to count; one dot of a superlattice needs its own diameter only.

    Examples
    --------
    >>> round(crowther_nm(60.0, 180), 3)
    1.047
    """
    if min(diameter_nm, n_tilts, range_deg) <= 0:
        raise ValueError(f"diameter, tilts and range must be positive: {diameter_nm}, {n_tilts}, {range_deg}")
    return diameter_nm * math.radians(range_deg) / n_tilts


def object_diameter_nm(volume: np.ndarray, voxel_nm: float) -> float:
    """Diameter across the tilt axis of the disc with the area of the object.

    Parameters
    ----------
    volume
        (Z, Y, X).
    voxel_nm
        Edge of a voxel, nm.

    Returns
    -------
    float
        2 √(area/π), nm, where the area is that of the smoothed mean slice above the middle between its border and
        its 95th percentile.

    Raises
    ------
    ValueError
        The volume is not three-dimensional or is constant.
    """
    return float(2 * math.sqrt(np.count_nonzero(_footprint(volume)) / math.pi) * voxel_nm)


def object_box(volume: np.ndarray) -> Window:
    """Smallest box that holds the object.

    Parameters
    ----------
    volume
        (Z, Y, X); a coarse level of a pyramid will do, and is smoother.

    Returns
    -------
    tuple of slice
        Along z, y, x: across the tilt axis the bounds of the smoothed mean slice above its half level, along it those
        of the profile of mass.

    Raises
    ------
    ValueError
        The volume is not three-dimensional or is constant.
    """
    footprint = _footprint(volume)
    profile = gaussian_filter1d(volume[:, footprint].mean(axis=1).astype(float), len(volume) / 60)
    along = profile > np.percentile(profile, 95) / 2
    bounds = []
    for occupied in (along, footprint.any(axis=1), footprint.any(axis=0)):
        where = np.flatnonzero(occupied)
        bounds.append(slice(int(where[0]), int(where[-1]) + 1) if where.size else slice(0, len(occupied)))
    return tuple(bounds)


def _footprint(volume: np.ndarray) -> np.ndarray:
    """(Y, X) True where the smoothed mean slice holds object."""
    _check(volume)
    mean = gaussian_filter(volume.mean(axis=0, dtype=np.float64), max(volume.shape) / 60)
    border = np.concatenate([mean[0], mean[-1], mean[:, 0], mean[:, -1]])
    return mean > (np.median(border) + np.percentile(mean, 95)) / 2


class _Shells:
    """Radial bins of the Fourier transform of windows of one shape; their width in its frequency steps."""

    def __init__(self, shape: tuple[int, ...], voxel_nm: float, *, width: float) -> None:
        self._workers = backend.cpu_count()
        tapers = [np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in shape]
        taper = tapers[0][:, None, None] * tapers[1][:, None] * tapers[2]
        self._taper = (taper / np.sqrt((taper**2).sum())).astype(np.float32)
        frequencies = [
            np.fft.fftfreq(shape[0], voxel_nm),
            np.fft.fftfreq(shape[1], voxel_nm),
            np.fft.rfftfreq(shape[2], voxel_nm),
        ]
        radius = np.sqrt(frequencies[0][:, None, None] ** 2 + frequencies[1][:, None] ** 2 + frequencies[2] ** 2)
        self.shape = radius.shape
        self._step = width / (min(shape) * voxel_nm)
        self._first = math.ceil(1.5 / width)
        self._count = int(0.5 / voxel_nm / self._step)
        index = np.rint(radius / self._step).astype(np.int32)
        self._index = np.minimum(index, self._count + 1).ravel()
        # the half transform leaves out the Friedel mates of all but its first and last plane
        mates = np.full(frequencies[2].size, 2.0)
        mates[0] = 1.0
        if shape[2] % 2 == 0:
            mates[-1] = 1.0
        self._mates = np.broadcast_to(mates, radius.shape).ravel()
        self.n = self._bin(np.ones(self._index.size))
        self._radius = self._bin(radius.ravel()) / np.maximum(self.n, 1)

    def transform(self, block: np.ndarray) -> np.ndarray:
        block = (block - np.float32(block.mean(dtype=np.float64))) * self._taper
        return fft.rfftn(block, workers=self._workers, overwrite_x=True)

    def sum(self, values: np.ndarray) -> np.ndarray:
        return self._bin(values.ravel())

    def _bin(self, values: np.ndarray) -> np.ndarray:
        return np.bincount(self._index, values * self._mates, minlength=self._count + 2)[: self._count + 1]

    def table(self, **columns: np.ndarray) -> pd.DataFrame:
        table = pd.DataFrame({"q_per_nm": self._radius, **columns})
        # the taper spreads the mean that was taken out over the first frequency step and a half
        return table[(self.n > 0) & (np.arange(self.n.size) >= self._first)].reset_index(drop=True)


def _blocks(volume: Any, windows: Sequence[Window]) -> Iterator[np.ndarray]:
    """The windows of a volume one by one; windows beside each other share one reading of a Zarr array."""
    volume = mapping_chunks(volume)
    for z, row in groupby(windows, key=lambda window: window[0]):
        row = list(row)
        y0, x0 = (min(window[axis].start for window in row) for axis in (1, 2))
        y1, x1 = (max(window[axis].stop for window in row) for axis in (1, 2))
        band = volume[z, y0:y1, x0:x1]
        for _, y, x in row:
            yield band[:, y.start - y0 : y.stop - y0, x.start - x0 : x.stop - x0]


def _power(spectrum: np.ndarray) -> np.ndarray:
    return spectrum.real**2 + spectrum.imag**2


def _size(window: Window) -> tuple[int, ...]:
    return tuple(axis.stop - axis.start for axis in window)


def _check(volume: Any) -> None:
    if len(volume.shape) != 3:
        raise ValueError(f"a tomogram has the axes [z, y, x]; this array has the shape {volume.shape}")
    depth = chunk_depth(volume)  # up to the first voxel that differs: of most tomograms one slab is read
    first = np.asarray(volume[:1, :1, :1]).flat[0]
    if all(np.all(volume[z : z + depth] == first) for z in range(0, volume.shape[0], depth)):
        raise ValueError(f"the tomogram is constant, every voxel is {first:g}")
