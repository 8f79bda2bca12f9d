"""Distortion that all dots share, read off the crystal lattice: unequal scales and shears of a tomogram.

A tomogram that is the affine image x' = M x of an object shows its reciprocal lattice vectors q as q', where
Mᵀ q' = q. Dots are turned every way, but a cubic lattice of known parameter fixes the length of each vector whatever
the orientation, so

    q'ᵀ (M Mᵀ) q' = |q|² ,

linear in the six numbers of S = M Mᵀ, which many spots overdetermine. S holds all that lengths can tell: M up to a
rotation of the object. Frequencies are q = 1/d in nm⁻¹, without 2π; vectors are x, y, z.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import fft, stats
from scipy.ndimage import gaussian_filter
from skimage.feature import peak_local_max

from mesotomo_utils import lattice
from mesotomo_utils.distribute import map_items
from mesotomo_utils.tomography.resolution import Window

Array = NDArray[np.float64]

FAMILIES = ((1, 1, 1), (2, 0, 0), (2, 2, 0), (3, 1, 1))
LARGEST_STRAIN = 0.07
"""Spots are looked for within this of their place in the undistorted lattice, relative."""
WINDOW_PER_GRAIN = 1.2
"""Edge of a window over the diameter of a dot: the taper then leaves its neighbours out."""
_PADDING = 2.0
"""Length of a transform over the window: a spot is then a smooth hill several steps wide."""
_ABOVE_NOISE = 15.0
"""Power of a spot over the noise, at least; the strongest of a few thousand values of noise reaches 8."""
_BELOW_STRONGEST = 0.1
"""Power of a spot over the strongest of its family and window, at least: below are the skirts of that one."""
_APART_DEG = 30.0
"""Spots of one family nearer than this are one; the least angle between two is 35° for {311}, 60° for the others."""
_BRIGHTEST = 4.0
"""A spot counts by its power, up to this many times the mean of its family."""
_TUKEY = 4.685
"""Tukey's constant, in standard deviations: 95 % efficient on Gaussian errors."""
_FEWEST_WINDOWS = 8
_FLOOR = np.diag([6e-4] * 3 + [5e-4] * 3) ** 2
"""What does not average out: 0.03 % in a length, 0.03° in a right angle, from undistorted twins of several seeds."""
_ORDER = ((0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2))
"""Rows and columns of xx, yy, zz, xy, xz, yz."""
_OFFSETS = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)


@dataclass(frozen=True, eq=False)
class Distortion:
    """A homogeneous distortion of a tomogram.

    Attributes
    ----------
    square
        (3, 3) S = M Mᵀ.
    covariance
        (6, 6) of the numbers xx, yy, zz, xy, xz, yz of S.
    n_spots, n_windows
        What it rests on.
    """

    square: Array
    covariance: Array
    n_spots: int
    n_windows: int

    @property
    def stretch(self) -> Array:
        """(3, 3) symmetric V = (M Mᵀ)^½: the tomogram is the object, turned somehow, then stretched by V."""
        values, axes = np.linalg.eigh(self.square)
        return (axes * np.sqrt(values)) @ axes.T

    @property
    def mean_scale(self) -> float:
        """Cube root of the change of volume, det(M)^⅓."""
        return float(np.linalg.det(self.square) ** (1 / 6))

    def matrix(self, *, with_mean_scale: bool = False) -> Array:
        """M as an upper triangle with a positive diagonal: it keeps the x axis, and slices stay slices.

        Parameters
        ----------
        with_mean_scale
            Keep the mean scale in M, which otherwise leaves volumes as they are.

        Returns
        -------
        (3, 3) with M Mᵀ = S, of x, y, z.
        """
        flipped = np.linalg.cholesky(self.square[::-1, ::-1])[::-1, ::-1]
        return flipped if with_mean_scale else flipped / self.mean_scale

    def table(self) -> pd.DataFrame:
        """The distortion in words.

        Returns
        -------
        DataFrame
            ``name, value, sigma, unit, none``: ``mean_scale``; ``scale_x, scale_y, scale_z``, lengths along an axis
            relative to the mean scale; ``shear_xy_deg, shear_xz_deg, shear_yz_deg``, by how much the right angle
            between two axes has closed. ``none`` is the value without distortion.
        """
        numbers = self.square[_ORDER]
        values, jacobian = _in_words(numbers), np.empty((7, 6))
        for i, step in enumerate(1e-6 * np.eye(6)):
            jacobian[:, i] = (_in_words(numbers + step) - _in_words(numbers - step)) / 2e-6
        sigma = np.sqrt(np.einsum("ij,jk,ik->i", jacobian, self.covariance, jacobian))
        names = ["mean_scale", *(f"scale_{a}" for a in "xyz"), *(f"shear_{a}_deg" for a in ("xy", "xz", "yz"))]
        units, none = [""] * 4 + ["deg"] * 3, [1.0] * 4 + [0.0] * 3
        return pd.DataFrame({"name": names, "value": values, "sigma": sigma, "unit": units, "none": none})

    @property
    def p_value(self) -> float:
        """How often an undistorted tomogram would show as much by chance; the mean scale does not count.

        Hotelling's test of the five numbers besides the mean scale.
        """
        relative = np.eye(6)
        relative[:3, :3] -= 1 / 3
        relative = relative[[0, 1, 3, 4, 5]]
        part = relative @ self.square[_ORDER]
        chi2 = part @ np.linalg.solve(relative @ self.covariance @ relative.T, part)
        freedom = self.n_windows - 5
        return float(stats.f.sf(chi2 * freedom / (5 * (self.n_windows - 1)), 5, freedom))

    def spacing_along(self, directions: Array) -> Array:
        """Apparent over true spacing of lattice planes by the direction of their normals in the tomogram.

        Parameters
        ----------
        directions
            (..., 3) of any length.

        Returns
        -------
        (...) ratios |q|/|q'|.
        """
        n = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
        return np.sqrt(np.einsum("...i,ij,...j->...", n, self.square, n))


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
        Edge of a window, nm; 1.2 times the grain if left out.
    max_windows
        Number of windows at most; the list is thinned evenly.

    Returns
    -------
    list of tuple of slice
        All of one size, wholly inside the volume.

    Raises
    ------
    ValueError
        The volume is not three-dimensional, smaller than a window or constant.

    Notes
    -----
    A window with one dot in its middle shows one sharp spot for each reflection. In one that holds parts of several
    they interfere, and their tops are off by several times as much.
    """
    if len(volume.shape) != 3:
        raise ValueError(f"a tomogram has the axes [z, y, x]; this array has the shape {volume.shape}")
    width = fft.next_fast_len(max(8, round((window_nm or WINDOW_PER_GRAIN * grain_nm) / voxel_nm)), real=True)
    if min(volume.shape) < width:
        raise ValueError(f"a window of {width} voxels does not fit in a tomogram of {volume.shape}")
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


def bragg_spots(
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
    ValueError
        No window, the lattice parameter is not positive, or its first family lies beyond the Nyquist frequency.

    Notes
    -----
    A parabola through the logarithm of the power at 27 points gives the top. Blur and thermal motion, whose factor
    falls with q, draw the spots of a small crystal inwards, all by the same part of q: 0.03 % on the twin.
    """
    if not windows:
        raise ValueError("there is no window to look for Bragg spots in")
    table = lattice.reflections(lattice_nm, tuple(families)).groupby("family", sort=False)["g_per_nm"]
    shape = tuple(side.stop - side.start for side in windows[0])
    room = 0.5 / voxel_nm - 2 / (_PADDING * min(shape) * voxel_nm)
    wanted = [(name, float(g.iloc[0]), len(g)) for name, g in table if g.iloc[0] * (1 + LARGEST_STRAIN) < room]
    if not wanted:
        raise ValueError(
            f"voxels of {voxel_nm:g} nm cannot show the planes asked for (Nyquist frequency {0.5 / voxel_nm:.2f} nm⁻¹)"
        )
    reader = _Reader(shape, voxel_nm, wanted)
    found = map_items(lambda window: reader.tops(np.asarray(volume[window])), windows, progress=progress)
    rows = [(w, *spot) for w, spots in enumerate(found) for spot in spots]
    columns = ["window", "family", "q_per_nm", "qx_per_nm", "qy_per_nm", "qz_per_nm", "power"]
    return pd.DataFrame(rows, columns=columns)


def fit_distortion(spots: pd.DataFrame) -> Distortion:
    """The distortion that makes the spots of all windows fit the lattice best.

    Parameters
    ----------
    spots
        From :func:`bragg_spots`.

    Returns
    -------
    Distortion

    Raises
    ------
    ValueError
        Spots in fewer than 8 windows, or in directions too few to tell six numbers apart: {200} of one
        orientation alone, for instance.

    Notes
    -----
    Least squares of q'ᵀ S q'/|q|² = 1, weighted by power and by the scatter of each family, with Tukey's weights
    against outliers. The covariance is the jackknife's, a window left out at a time (one step of Newton each): errors that
    the spots of a window have in common are in it. To it comes what shapes and shared orientation of the dots
    leave over on undistorted twins, 0.03 % and 0.03°.

    The lattice parameter sets the mean scale: a lattice longer by 0.1 %, a pixel smaller by 0.1 % and a tomogram
    stretched by 0.1 % are the same. Errors of the tilt angles turn spots about the axis without changing
    their length, and are not seen.
    """
    windows, group = np.unique(spots["window"].to_numpy(), return_inverse=True)
    if len(windows) < _FEWEST_WINDOWS:
        raise ValueError(f"Bragg spots in {len(windows)} windows; {_FEWEST_WINDOWS} or more are needed for an error")
    q = spots[["qx_per_nm", "qy_per_nm", "qz_per_nm"]].to_numpy() / spots["q_per_nm"].to_numpy()[:, None]
    design = q[:, _ORDER[0]] * q[:, _ORDER[1]] * [1, 1, 1, 2, 2, 2]
    family = spots["family"]
    bright = np.minimum(spots["power"] / family.map(spots.groupby("family")["power"].mean()), _BRIGHTEST).to_numpy()
    numbers = np.array([1.0, 1, 1, 0, 0, 0])
    for _ in range(30):
        residual = design @ numbers - 1
        scatter = pd.Series(np.abs(residual) * np.sqrt(bright)).groupby(family.to_numpy()).median() * 1.4826
        sigma = np.maximum(family.map(scatter).to_numpy(), 1e-9) / np.sqrt(bright)
        tukey = np.clip(1 - (residual / sigma / _TUKEY) ** 2, 0, None)
        weight = tukey**2 / sigma**2
        normal = (design * weight[:, None]).T @ design
        least = np.linalg.eigvalsh(normal)[0] / weight.sum()
        if least < 1e-3:
            raise ValueError(
                f"the {len(spots)} Bragg spots point in too few directions to tell scales from shears; "
                "more families or grains of other orientations are needed"
            )
        last, numbers = numbers, np.linalg.solve(normal, design.T @ weight)
        if np.abs(numbers - last).max() < 1e-9:
            break
    # slope of Tukey's function: what a small change of the numbers does to the equations
    slope = tukey * (1 - 5 * (residual / sigma / _TUKEY) ** 2) / sigma**2
    members = [np.flatnonzero(group == g) for g in range(len(windows))]
    slopes = np.stack([(design[m] * slope[m, None]).T @ design[m] for m in members])
    pulls = np.stack([design[m].T @ (weight[m] * residual[m]) for m in members])
    change = np.linalg.solve(slopes.sum(axis=0) - slopes, pulls[..., None])[..., 0]
    covariance = change.T @ change * (len(windows) - 1) / len(windows) + _FLOOR
    return Distortion(_symmetric(numbers), covariance, len(spots), len(windows))


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
        squares = o[:, _ORDER[0]] * o[:, _ORDER[1]]
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
            curvature[:, _ORDER[0], _ORDER[1]] = curvature[:, _ORDER[1], _ORDER[0]] = coefficients[:, 4:]
            curvature += curvature * np.eye(3)
            kept: list[Array] = []
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
    for i in range(n_z):
        slab = np.asarray(volume[i * factor : (i + 1) * factor, : n_y * factor, : n_x * factor])
        out[i] = slab.reshape(factor, n_y, factor, n_x, factor).mean(axis=(0, 2, 4))
    return out


def _in_words(numbers: Array) -> Array:
    """(7,) mean scale, scales along x, y, z relative to it, shears xy, xz, yz in degrees, from the numbers of S."""
    square = _symmetric(numbers)
    mean = np.linalg.det(square) ** (1 / 6)
    # S = V V holds the products of the columns of V, which are where V takes the axes
    lengths = np.sqrt(np.diag(square))
    cosines = (square / np.outer(lengths, lengths))[_ORDER][3:]
    return np.array([mean, *(lengths / mean), *np.rad2deg(np.arcsin(cosines))])


def _symmetric(numbers: Array) -> Array:
    square = np.empty((3, 3))
    square[_ORDER] = square[_ORDER[::-1]] = numbers
    return square
