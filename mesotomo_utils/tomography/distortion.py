"""Distortion that all dots share, read off the crystal lattice: unequal scales and shears of a tomogram.

A tomogram that is the affine image x' = M x of an object shows its reciprocal lattice vectors q as q', where
Mᵀ q' = q. Dots are turned every way, but a cubic lattice of known parameter fixes the length of each vector whatever
the orientation, so

    q'ᵀ (M Mᵀ) q' = |q|² ,

linear in the six numbers of S = M Mᵀ, which many spots overdetermine. S holds all that lengths can tell: M up to a
rotation of the object. Frequencies are q = 1/d in nm⁻¹, without 2π; vectors are x, y, z.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from mesotomo_utils.tomography.distortion_spots import DistortionUnknown, grain_spots, grain_windows
from mesotomo_utils.tomography.lattice_lines import FAMILIES

Array = NDArray[np.float64]

_BRIGHTEST = 4.0
"""A spot counts by its power, up to this many times the mean of its family."""
_TUKEY = 4.685
"""Tukey's constant, in standard deviations: 95 % efficient on Gaussian errors."""
_BANDS = (0.35, 0.85)
"""Sine of the angle to the slices: spots along the tilt axis scatter a tenth as much as those across it."""
_LEAST_SCATTER = 2e-4
"""Of a spot's squared length: below it no spot is trusted more."""
_FEWEST_WINDOWS = 8
_FLOOR = np.diag([1e-3, 1e-3, 4e-4, 1e-3, 4e-4, 4e-4]) ** 2
"""What does not average out, from seven twins: 0.05 % in a length across the tilt axis and 0.02 % along it, 0.06° in
the angle between x and y and 0.02° in the others. Within a slice, tilts that are few lay a weak copy of one dot over
another: for tilts 1.8° apart, {220} of a dot 6.9 nm away."""
_ORDER = ((0, 1, 2, 0, 0, 1), (0, 1, 2, 1, 2, 2))
"""Rows and columns of xx, yy, zz, xy, xz, yz."""
_NEAR_PLANE_DEG = 30.0
_BIN_DEG = 15.0
_VECTOR = ["qx_per_nm", "qy_per_nm", "qz_per_nm"]


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
        values = sigma = np.full(7, np.nan)
        if self.n_spots:
            steps = 1e-6 * np.eye(6)
            values = _in_words(numbers)
            slopes = np.stack([(_in_words(numbers + step) - _in_words(numbers - step)) / 2e-6 for step in steps])
            sigma = np.sqrt(np.einsum("ji,jk,ki->i", slopes, self.covariance, slopes))
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


UNKNOWN = Distortion(np.full((3, 3), np.nan), np.full((6, 6), np.nan), 0, 0)
"""A distortion of which nothing is known: all of its table is NaN."""


def measure_distortion(
    volume: Any,
    voxel_nm: float,
    lattice_nm: float,
    *,
    grain_nm: float,
    families: Sequence[tuple[int, int, int]] = FAMILIES,
) -> tuple[Distortion, pd.DataFrame]:
    """The distortion of a tomogram, and the Bragg spots that it is read from.

    Parameters
    ----------
    volume
        (Z, Y, X); a Zarr array will do.
    voxel_nm
        Edge of a voxel, nm.
    lattice_nm
        Cubic lattice parameter, nm.
    grain_nm
        Diameter of a grain, a dot for instance, nm.
    families
        Representatives {hkl} that the tomogram shows.

    Returns
    -------
    Distortion
        From :func:`fit_distortion`.
    DataFrame
        From :func:`~.distortion_spots.grain_spots`.

    Raises
    ------
    DistortionUnknown
        The tomogram is smaller than a grain, its voxels cannot show the lattice, or too few spots are found.
    ValueError
        The volume is not three-dimensional or is constant; the lattice parameter is not positive.
    """
    windows = grain_windows(volume, voxel_nm, grain_nm=grain_nm)
    spots = grain_spots(volume, voxel_nm, lattice_nm, windows=windows, families=families)
    return fit_distortion(spots), spots


def fit_distortion(spots: pd.DataFrame) -> Distortion:
    """The distortion that makes the spots of all windows fit the lattice best.

    Parameters
    ----------
    spots
        From :func:`~.distortion_spots.grain_spots`.

    Returns
    -------
    Distortion

    Raises
    ------
    DistortionUnknown
        Spots in fewer than 8 windows, or in directions too few to tell six numbers apart: {200} of one
        orientation alone, for instance.

    Notes
    -----
    Least squares of q'ᵀ S q'/|q|² = 1, weighted by power and by the scatter of spots of one family and like angle
    to the axis, with Tukey's weights against outliers. The covariance is the jackknife's, a window left out at
    a time (one step of Newton each), so errors that the spots of a window have in common are in it. To it comes what
    does not average out, up to 0.05 % and 0.06°.

    The lattice parameter sets the mean scale: a lattice longer by 0.1 %, a pixel smaller by 0.1 % and a tomogram
    stretched by 0.1 % are the same. Errors of the tilt angles turn spots about the axis without changing
    their length, and are not seen.
    """
    windows, group = np.unique(spots["window"].to_numpy(), return_inverse=True)
    if len(windows) < _FEWEST_WINDOWS:
        raise DistortionUnknown(f"Bragg spots in {len(windows)} windows; an error takes {_FEWEST_WINDOWS} or more")
    q = spots[_VECTOR].to_numpy() / spots["q_per_nm"].to_numpy()[:, None]
    design = q[:, _ORDER[0]] * q[:, _ORDER[1]] * [1, 1, 1, 2, 2, 2]
    mean_power = spots.groupby("family")["power"].transform("mean")
    bright = np.minimum(spots["power"] / mean_power, _BRIGHTEST).to_numpy()
    elevation = np.abs(q[:, 2]) / np.linalg.norm(q, axis=1)
    alike = spots["family"] + np.digitize(elevation, _BANDS).astype(str)
    numbers = np.array([1.0, 1, 1, 0, 0, 0])
    for _ in range(30):
        residual = design @ numbers - 1
        scatter = pd.Series(np.abs(residual) * np.sqrt(bright)).groupby(alike.to_numpy()).transform("median")
        sigma = np.maximum(1.4826 * scatter.to_numpy(), _LEAST_SCATTER) / np.sqrt(bright)
        tukey = np.clip(1 - (residual / sigma / _TUKEY) ** 2, 0, None)
        weight = tukey**2 / sigma**2
        normal = (design * weight[:, None]).T @ design
        least = np.linalg.eigvalsh(normal)[0] / weight.sum()
        if least < 1e-3:
            raise DistortionUnknown(
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


def spacing_sections(found: Distortion, spots: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Apparent spacing of the lattice planes by direction, in the three planes of the axes: for a figure.

    Parameters
    ----------
    found, spots
        From :func:`measure_distortion`.

    Returns
    -------
    measured
        ``plane, angle_deg, spacing, sigma, n``: apparent over true spacing, median of the spots within 30° of the
        plane ``xy``, ``xz`` or ``yz`` in steps of 15° from its first axis, carried to the middle of the step by the
        fit. Steps with fewer than five spots are left out.
    fitted
        ``plane, angle_deg, spacing`` of the fit, 0° to 180°.
    """
    q = spots[_VECTOR].to_numpy()
    beside_fit = spots["q_per_nm"].to_numpy() / np.linalg.norm(q, axis=1) - found.spacing_along(q)
    rows, curves = [], []
    for name, (first, second) in {"xy": (0, 1), "xz": (0, 2), "yz": (1, 2)}.items():
        degrees = np.arange(0.0, 181.0, 3.0)
        curve = found.spacing_along(_circle(degrees, first, second))
        curves.append(pd.DataFrame({"plane": name, "angle_deg": degrees, "spacing": curve}))
        elevation = np.rad2deg(np.arctan2(np.abs(q[:, 3 - first - second]), np.hypot(q[:, first], q[:, second])))
        angle = np.rad2deg(np.arctan2(q[:, second], q[:, first])) % 180
        step = np.rint(angle / _BIN_DEG).astype(int) % round(180 / _BIN_DEG)
        for k in np.unique(step):
            near = beside_fit[(step == k) & (elevation < _NEAR_PLANE_DEG)]
            if len(near) < 5:
                continue
            fit = float(found.spacing_along(_circle(k * _BIN_DEG, first, second)))
            middle = np.median(near)
            # 1.25: a median's error over a mean's; 1.48: a standard deviation over a median deviation
            sigma = 1.2533 * 1.4826 * np.median(np.abs(near - middle)) / np.sqrt(len(near))
            rows.append((name, k * _BIN_DEG, fit + middle, sigma, len(near)))
    measured = pd.DataFrame(rows, columns=["plane", "angle_deg", "spacing", "sigma", "n"])
    return measured, pd.concat(curves, ignore_index=True)


def _circle(degrees: Array | float, first: int, second: int) -> Array:
    """(..., 3) unit vectors at angles from one axis towards another."""
    radians = np.deg2rad(degrees)
    vectors = np.zeros((*np.shape(radians), 3))
    vectors[..., first], vectors[..., second] = np.cos(radians), np.sin(radians)
    return vectors


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
