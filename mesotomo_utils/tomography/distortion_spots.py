"""Bragg spots of single grains in a tomogram: windows about the grains, and the tops of the spots in each.

Frequencies are q = 1/d in nm⁻¹, without 2π; vectors are x, y, z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import gaussian_filter
from skimage.feature import peak_local_max

from mesotomo_utils import lattice
from mesotomo_utils.distribute import chunk_depth, map_items
from mesotomo_utils.tomography.lattice_lines import FAMILIES
from mesotomo_utils.tomography.resolution import Window

LARGEST_STRAIN = 0.07
"""Spots are looked for within this of their place in the undistorted lattice, relative."""
WINDOW_PER_GRAIN = 1.0
"""Edge of a window over the diameter of a dot: the taper leaves its neighbours out."""
_PADDING = 2.0
"""Length of a transform over the window: a spot is then a smooth hill several steps wide."""
_ABOVE_NOISE = 15.0
"""Power of a spot over the noise, at least; the strongest of a few thousand values of noise reaches 8."""
_BELOW_STRONGEST = 0.1
"""Power of a spot over the strongest of its family and window, at least: below are the skirts of that one."""
_APART_DEG = 30.0
"""Spots of one family nearer than this are one; the least angle between two is 35° for {311}, 60° for the others."""
_SQUARES = ((0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2))
_OFFSETS = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)


class DistortionUnknown(ValueError):
    """The tomogram does not show enough of a lattice to tell its distortion; the message says what is lacking."""


def grain_windows(
    volume: Any, voxel_nm: float, *, grain_nm: float, window_nm: float | None = None, max_windows: int = 200
) -> list[Window]:
    """Boxes about single grains: where the smoothed tomogram is densest.

    Parameters
    ----------
    volume
        (Z, Y, X); a Zarr array will do.
    voxel_nm
        Edge of a voxel, nm.
    grain_nm
        Diameter of a grain, a dot for instance, nm.
    window_nm
        Edge of a window, nm; that of the grain if left out.
    max_windows
        Number of windows at most; the list is thinned evenly.

    Returns
    -------
    list of tuple of slice
        All of one size, wholly inside the volume.

    Raises
    ------
    DistortionUnknown
        The volume is smaller than a window.
    ValueError
        It is not three-dimensional, or constant.

    Notes
    -----
    A window with one dot in its middle shows one sharp spot for each reflection. In one that holds parts of several
    they interfere, and their tops are off by several times as much.
    """
    if len(volume.shape) != 3:
        raise ValueError(f"a tomogram has the axes [z, y, x]; this array has the shape {volume.shape}")
    width = fft.next_fast_len(max(8, round((window_nm or WINDOW_PER_GRAIN * grain_nm) / voxel_nm)), real=True)
    if min(volume.shape) < width:
        raise DistortionUnknown(f"a window of {width} voxels does not fit in a tomogram of {volume.shape}")
    factor = max(1, round(grain_nm / 12 / voxel_nm))
    coarse = gaussian_filter(_thinned(volume, factor), 0.25 * grain_nm / (factor * voxel_nm))
    low, high = coarse.min(), np.percentile(coarse, 99)
    if not high > low:
        raise ValueError("the tomogram is constant: there is nothing to cut windows about")
    apart = max(1, round(0.6 * grain_nm / (factor * voxel_nm)))
    tops = peak_local_max(coarse, min_distance=apart, threshold_abs=(low + high) / 2, exclude_border=False)
    starts = np.rint((tops + 0.5) * factor - width / 2).astype(int)
    starts = starts[(starts >= 0).all(axis=1) & (starts + width <= volume.shape).all(axis=1)]
    starts = starts[np.lexsort(starts.T[::-1])]
    chosen = np.unique(np.linspace(0, len(starts) - 1, min(max_windows, len(starts))).round().astype(int))
    return [tuple(slice(int(s), int(s) + width) for s in starts[i]) for i in chosen]


def grain_spots(
    volume: Any,
    voxel_nm: float,
    lattice_nm: float,
    *,
    windows: Sequence[Window],
    families: Sequence[tuple[int, int, int]] = FAMILIES,
    progress: str | None = None,
) -> pd.DataFrame:
    """The Bragg spots of each window, their tops found below one step of the Fourier transform.

    Parameters
    ----------
    volume
        (Z, Y, X); a Zarr array will do.
    voxel_nm
        Edge of a voxel, nm.
    lattice_nm
        Cubic lattice parameter, nm.
    windows
        Of one size, from :func:`grain_windows`.
    families
        Representatives {hkl} to look for, those that the tomogram shows; what lies beyond the Nyquist frequency
        is passed over.
    progress
        Text of the progress bar; None shows none.

    Returns
    -------
    DataFrame
        One row a spot, one of each Friedel pair: ``window, family, q_per_nm`` (length in the undistorted lattice),
        ``qx_per_nm, qy_per_nm, qz_per_nm`` (measured), ``power``.

    Raises
    ------
    DistortionUnknown
        No window, or the first family lies beyond the Nyquist frequency.
    ValueError
        The lattice parameter is not positive.

    Notes
    -----
    A parabola through the logarithm of the power at 27 points gives the top. Blur and thermal motion, whose factor
    falls with q, draw the spots of a small crystal inwards, all by the same part of q: 0.02 % on the twin.
    """
    if not windows:
        raise DistortionUnknown("there is no window to look for Bragg spots in")
    table = lattice.reflections(lattice_nm, tuple(families)).groupby("family", sort=False)["g_per_nm"]
    shape = tuple(side.stop - side.start for side in windows[0])
    room = 0.5 / voxel_nm - 2 / (_PADDING * min(shape) * voxel_nm)
    wanted = [(name, float(g.iloc[0]), len(g)) for name, g in table if g.iloc[0] * (1 + LARGEST_STRAIN) < room]
    if not wanted:
        raise DistortionUnknown(
            f"voxels of {voxel_nm:g} nm cannot show the planes asked for (Nyquist frequency {0.5 / voxel_nm:.2f} nm⁻¹)"
        )
    reader = _Reader(shape, voxel_nm, wanted)
    found = map_items(lambda window: reader.tops(np.asarray(volume[window])), windows, progress=progress)
    rows = [(w, *spot) for w, spots in enumerate(found) for spot in spots]
    columns = ["window", "family", "q_per_nm", "qx_per_nm", "qy_per_nm", "qz_per_nm", "power"]
    return pd.DataFrame(rows, columns=columns)


class _Reader:
    """Finds the tops of the spots in windows of one shape."""

    def __init__(self, shape: tuple[int, ...], voxel_nm: float, wanted: Sequence[tuple[str, float, int]]) -> None:
        tapers = [np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in shape]
        self._taper = (tapers[0][:, None, None] * tapers[1][:, None] * tapers[2]).astype(np.float32)
        self._length = [fft.next_fast_len(math.ceil(_PADDING * n), real=True) for n in shape]
        self._step = np.array([1 / (n * voxel_nm) for n in self._length])
        reach = [math.ceil(wanted[-1][1] * (1 + LARGEST_STRAIN) / step) + 1 for step in self._step]
        # z and y both ways; x from −1, for the neighbours of spots at 0
        self._k = [np.arange(-reach[0], reach[0] + 1), np.arange(-reach[1], reach[1] + 1), np.arange(-1, reach[2] + 1)]
        z, y, x = (k * step for k, step in zip(self._k, self._step, strict=True))
        radius = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
        inner = np.zeros(radius.shape, bool)
        inner[1:-1, 1:-1, 1:-1] = True
        self._shells = [
            (name, length, count, np.flatnonzero(inner & (np.abs(radius / length - 1) < LARGEST_STRAIN)))
            for name, length, count in wanted
        ]
        o = _OFFSETS.astype(float)
        squares = o[:, _SQUARES[0]] * o[:, _SQUARES[1]]
        self._parabola = np.linalg.pinv(np.column_stack([np.ones(27), o, squares]))

    def tops(self, block: np.ndarray) -> list[tuple[str, float, float, float, float, float]]:
        """Family, ideal length, x, y, z and power of the spots."""
        power = self._power(block)
        spots = []
        for name, length, count, shell in self._shells:
            values = power.reshape(-1)[shell]
            # median of the exponential law that the power of noise follows
            noise = np.median(values) / math.log(2)
            bright = shell[values > max(_ABOVE_NOISE * noise, _BELOW_STRONGEST * values.max())]
            index = np.stack(np.unravel_index(bright, power.shape), axis=-1)
            around = power[tuple(np.moveaxis(index[:, None] + _OFFSETS, -1, 0))]
            top = around[:, 13] == around.max(axis=1)
            index, around = index[top], around[top]
            coefficients = np.log(around) @ self._parabola.T
            curvature = np.empty((len(index), 3, 3))
            curvature[:, _SQUARES[0], _SQUARES[1]] = curvature[:, _SQUARES[1], _SQUARES[0]] = coefficients[:, 4:]
            curvature += curvature * np.eye(3)
            kept: list[NDArray] = []
            for i in np.argsort(-around[:, 13]):
                if len(kept) == count or np.linalg.eigvalsh(curvature[i])[-1] >= 0:
                    continue
                offset = -np.linalg.solve(curvature[i], coefficients[i, 1:4])
                q = (np.array([k[j] for k, j in zip(self._k, index[i], strict=True)]) + offset) * self._step
                direction = q / np.linalg.norm(q)
                if np.abs(offset).max() > 1 or any(
                    abs(direction @ other) > math.cos(math.radians(_APART_DEG)) for other in kept
                ):
                    continue
                kept.append(direction)
                spots.append((name, length, *q[::-1], float(around[i, 13])))
        return spots

    def _power(self, block: np.ndarray) -> np.ndarray:
        """Power of the transform of a window, at the frequencies that hold spots only."""
        density = (block - np.float32(block.mean(dtype=np.float64))) * self._taper
        (n_z, n_y, n_x), (k_z, k_y, k_x) = self._length, self._k
        along_x = fft.rfft(density, n_x, axis=2)[:, :, np.abs(k_x)]
        along_x[:, :, 0] = along_x[:, :, 0].conj()
        along_y = fft.fft(along_x, n_y, axis=1, overwrite_x=True)[:, k_y % n_y]
        spectrum = fft.fft(along_y, n_z, axis=0, overwrite_x=True)[k_z % n_z]
        return spectrum.real**2 + spectrum.imag**2


def _thinned(volume: Any, factor: int) -> np.ndarray:
    """Mean of cubes of ``factor`` voxels, read slab by slab; what fills no cube is left out."""
    n_z, n_y, n_x = (n // factor for n in volume.shape)
    out = np.empty((n_z, n_y, n_x), np.float32)
    together = math.ceil(chunk_depth(volume) / factor)
    for first in range(0, n_z, together):
        last = min(first + together, n_z)
        slabs = np.asarray(volume[first * factor : last * factor, : n_y * factor, : n_x * factor])
        for i, slab in enumerate(slabs.reshape(-1, factor, n_y, factor, n_x, factor), start=first):
            out[i] = slab.mean(axis=(0, 2, 4))
    return out
