"""Find and refine the orientations of dots from the power at their rock-salt reflections.

The score of an orientation is the mean, over one of each Friedel pair of {111}, {200} and {220},
of the power at the reflection in units of the noise around it. Amplitudes and phases are left free
(each reflection its own), so with Gaussian noise this is the logarithm of the likelihood. All
orientations of a grid are scored first, so nothing about the superlattice is assumed; the best few
then climb by Newton steps on the exact transform.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from mesotomo_utils import lattice
from mesotomo_utils.backend import get_array_module, to_device, to_numpy
from mesotomo_utils.mapping import lattice_signal
from mesotomo_utils.mapping.lattice_signal import DotWindow

# Radii, in units of 1/a, where rock salt has nothing: between {200} (2) and {220} (2.83). The
# directions of the reflections at these radii make the control that has no lattice in it.
OFF_BRAGG_RADII = {"111": 2.28, "200": 2.42, "220": 2.56}
# Bands of |cos| of the angle to the tilt axis in which the noise of a shell is read.
_POLAR_BANDS = 8
# The part of a band's power, from below, whose mean tells the noise: the few spots of the shell lie above.
_TRIM = 0.8
_CANDIDATES = 6
# Step of the grid of orientations, in units of the turn that moves the outermost reflection by a Fourier voxel.
_GRID_STEP = 1.4
# A real lattice lies within this of the nominal one; a climb that leaves it has lost its spots.
LARGEST_STRAIN = 0.06
# Sine of the angle to the tilt axis over which a window smears the noise of {111}.
_SMEARED = 0.07
# Scores no farther apart than this part are equal: in single precision a sum depends on how many dots share it.
_ROUNDING = 1e-6
_TRIMMED_MEAN_OF_EXPONENTIAL = 1 + (1 - _TRIM) * np.log(1 - _TRIM) / _TRIM
_GENERATORS = np.zeros((3, 3, 3))
for _i, _j, _k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
    _GENERATORS[_i, _k, _j], _GENERATORS[_i, _j, _k] = 1.0, -1.0
_SIMILARITY = np.concatenate([_GENERATORS, np.eye(3)[None]])
_LINEAR = np.eye(9).reshape(9, 3, 3)


@cache
def rotation_grid(resolution_deg: float) -> np.ndarray:
    """Even grid of rotations over the fundamental zone of the cube.

    Parameters
    ----------
    resolution_deg
        Edge of the cube of orientation space that one grid point stands for, degrees.

    Returns
    -------
    (N, 3, 3) rotations, kept and so read-only; N is about pi^2 / 3 over the cube of the resolution in radians.

    Notes
    -----
    The super-Fibonacci spiral on the three-sphere (Alexa, CVPR 2022), cut to the zone of the
    rotation group 432 in Rodrigues space: |r_i| <= sqrt(2) - 1 and |r_1| + |r_2| + |r_3| <= 1.
    """
    count = int(np.ceil(8 * np.pi**2 / np.deg2rad(resolution_deg) ** 3))
    s = np.arange(count) + 0.5
    golden, psi = np.sqrt(2.0), 1.533751168755204288118041
    r, big_r = np.sqrt(s / count), np.sqrt(1 - s / count)
    alpha, beta = 2 * np.pi * s / golden, 2 * np.pi * s / psi
    q = np.stack([r * np.sin(alpha), r * np.cos(alpha), big_r * np.sin(beta), big_r * np.cos(beta)], axis=1)
    rodrigues = np.abs(q[:, 1:]) / np.maximum(np.abs(q[:, :1]), 1e-12)
    inside = (rodrigues <= np.sqrt(2) - 1).all(axis=1) & (rodrigues.sum(axis=1) <= 1)
    grid = lattice.from_quaternions(q[inside])
    grid.setflags(write=False)
    return grid


@dataclass(frozen=True)
class ShellSearch:
    """Grid of orientations looked up on the grid of a window, for one set of reflections.

    Attributes
    ----------
    crystal
        (H, 3) reflections in the crystal frame, 1/nm.
    rotations
        (N, 3, 3) orientations tried.
    family
        (H,) index of the family of each reflection.
    resolution_deg
        Step of the grid, degrees.
    """

    crystal: np.ndarray
    rotations: np.ndarray
    family: np.ndarray
    resolution_deg: float
    _points: np.ndarray
    _points_family: np.ndarray
    _points_across: np.ndarray
    _members: list[np.ndarray]
    _across: np.ndarray
    _lookup: np.ndarray

    def on(self, device: str) -> ShellSearch:
        """The same search for transforms on a device."""
        return replace(self, **{name: to_device(getattr(self, name), device) for name in ("_points", "_lookup")})

    def power(self, window: DotWindow, spectra: np.ndarray) -> np.ndarray:
        """Power of dots' transforms (D, ...) at the shells' P grid points, as it would be between them: (D, P)."""
        return to_numpy(abs(spectra.reshape(len(spectra), -1)[:, self._points]) ** 2) * window.reading_gain

    def noise(self, power: np.ndarray) -> np.ndarray:
        """Noise of each family (families, 2) of one dot, from its (P,) power at the grid points: see :func:`_noise_at`.

        Filtered back-projection leaves noise in proportion to the frequency across the tilt axis, other noise may be
        white: a sum of the two is fitted to the bands.
        """
        means = np.array([_trimmed_mean(power[m]) if len(m) else np.nan for m in self._members])
        fits = []
        for found, across in zip(means.reshape(-1, _POLAR_BANDS), self._across.reshape(-1, _POLAR_BANDS), strict=True):
            there = found > 0
            if not there.any():
                fits.append([np.finfo(np.float32).tiny, 0.0])
                continue
            design = np.stack([np.ones(there.sum()), across[there]], axis=1) / found[there, None]
            fits.append(nnls(design, np.ones(there.sum()))[0])
        return np.array(fits)

    def noise_at_reflections(self, noise: np.ndarray, matrices: np.ndarray) -> np.ndarray:
        """(K, H) noise power at the reflections of (K, 3, 3) orientations.

        ``noise`` is what :meth:`noise` gives, (families, 2) for all of them or (K, families, 2).
        """
        g = np.einsum("kij,hj->khi", matrices, self.crystal)
        return _noise_at(noise, self.family, _across(g))


def _trimmed_mean(power: np.ndarray) -> float:
    """Mean of what follows an exponential law, from its lower part."""
    count = max(1, int(_TRIM * len(power)))
    return float(np.partition(power, count - 1)[:count].mean()) / _TRIMMED_MEAN_OF_EXPONENTIAL


def _noise_at(noise: np.ndarray, family: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Mean noise power at points (..., P); (..., families, 2): coefficients of 1 and of the sine to the tilt axis."""
    return noise[..., family, 0] + noise[..., family, 1] * across


def _across(g: np.ndarray) -> np.ndarray:
    """Sine of the angle of frequencies (..., 3) to the tilt axis, not quite zero on it: the window smears the noise."""
    return np.sqrt((g[..., 0] ** 2 + g[..., 1] ** 2) / np.sum(g**2, axis=-1) + _SMEARED**2)


def _band(g: np.ndarray) -> np.ndarray:
    """Polar band of frequencies (..., 3), 0 at the equator."""
    cosine = np.abs(g[..., 2]) / np.linalg.norm(g, axis=-1)
    return np.minimum((cosine * _POLAR_BANDS).astype(int), _POLAR_BANDS - 1)


def visible_reflections(lattice_nm: float, voxel_nm: float) -> pd.DataFrame:
    """Reflections {111}, {200}, {220} of rock salt that a voxel size can carry.

    Parameters
    ----------
    lattice_nm, voxel_nm
        Cubic lattice parameter and edge of a voxel, nm.

    Returns
    -------
    Rows of :func:`lattice.reflections`: those below Nyquist, with room for :data:`LARGEST_STRAIN`.
    """
    table = lattice.reflections(lattice_nm)
    return table[table["g_per_nm"] * (1 + LARGEST_STRAIN) < 0.5 / voxel_nm].reset_index(drop=True)


def off_bragg_reflections(reflections: pd.DataFrame) -> pd.DataFrame:
    """Move reflections, direction by direction, to radii where the lattice has none: the control.

    Parameters
    ----------
    reflections
        As :func:`visible_reflections` returns them.

    Returns
    -------
    The same columns; h, k, l are no longer integers.
    """
    moved = reflections.copy()
    hkl = reflections[["h", "k", "l"]].to_numpy(float)
    length = np.linalg.norm(hkl, axis=1)
    radii = reflections["family"].map(OFF_BRAGG_RADII).to_numpy(float)
    moved[["h", "k", "l"]] = hkl * (radii / length)[:, None]
    moved["g_per_nm"] *= radii / length
    moved["d_nm"] = 1 / moved["g_per_nm"]
    return moved


def prepare_shells(window: DotWindow, reflections: pd.DataFrame, *, resolution_deg: float | None = None) -> ShellSearch:
    """Prepare the search over all orientations for one set of reflections.

    Parameters
    ----------
    window
        From :func:`lattice_signal.prepare_window`.
    reflections
        From :func:`visible_reflections` or :func:`off_bragg_reflections`.
    resolution_deg
        Step of the grid of orientations, degrees; if left out the turn that moves the outermost reflection by 1.4
        Fourier voxels of the window: half of it is then well within a spot.
    """
    if resolution_deg is None:
        resolution_deg = float(np.rad2deg(_GRID_STEP / (reflections["g_per_nm"].max() * window.window_nm)))
    names = list(dict.fromkeys(reflections["family"]))
    family = reflections["family"].map(names.index).to_numpy()
    hkl = reflections[["h", "k", "l"]].to_numpy(float)
    scale = reflections["g_per_nm"].to_numpy() / np.linalg.norm(hkl, axis=1)
    crystal = hkl * scale[:, None]
    rotations = rotation_grid(resolution_deg)
    g = np.einsum("nij,hj->nhi", rotations, crystal)
    index = lattice_signal.grid_index(window, g.reshape(-1, 3)).reshape(g.shape[:2])
    # Points of one family are labelled apart from those of another that share a grid point.
    size = int(np.prod(window.grid_shape))
    unique, lookup = np.unique(index + family * size, return_inverse=True)
    points = unique % size
    where = lattice_signal.grid_points(window, points)
    label, across = (unique // size) * _POLAR_BANDS + _band(where), _across(where)
    members = [np.flatnonzero(label == m) for m in range(len(names) * _POLAR_BANDS)]
    return ShellSearch(
        crystal=crystal,
        rotations=rotations,
        family=family,
        resolution_deg=resolution_deg,
        _points=points,
        _points_family=unique // size,
        _points_across=across,
        _members=members,
        _across=np.array([across[m].mean() if len(m) else np.nan for m in members]),
        _lookup=lookup.reshape(index.shape).astype(np.int32),
    )


def _candidates(shells: ShellSearch, score: np.ndarray) -> np.ndarray:
    """The best orientations of the grid, none within six degrees of a better one, (K, 3, 3)."""
    best = np.argsort(score)[: -40 * _CANDIDATES - 1 : -1]
    pool, kept = shells.rotations[best], []
    cosine = 1 + 2 * np.cos(np.deg2rad(6.0))
    while len(pool) and len(kept) < _CANDIDATES:
        kept.append(pool[0])
        pool = pool[np.einsum("nij,ij->n", pool, pool[0]) < cosine]
    return np.array(kept)


@dataclass(frozen=True)
class Orientations:
    """The answer for D dots.

    Attributes
    ----------
    R
        (D, 3, 3) rotations, lab = R crystal.
    snr
        (D,) mean power at the reflections over the noise around them.
    scale
        (D,) length of the reciprocal lattice over the nominal one.
    reciprocal
        (D, 3, 3) matrices that turn crystal reflections (1/nm) into the measured ones, lab: R times the
        inverse transpose of the deformation.
    """

    R: np.ndarray
    snr: np.ndarray
    scale: np.ndarray
    reciprocal: np.ndarray


def climb(
    read_power: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]],
    start: np.ndarray,
    *,
    crystal: np.ndarray,
    weights: np.ndarray,
    window_nm: float,
    linear: bool = False,
    steps: int = 12,
) -> tuple[np.ndarray, np.ndarray]:
    """Maximise the weighted power at the reflections, from several starts at once.

    Parameters
    ----------
    read_power
        The power (L, H) at the frequencies (L, H, 3) of some of the starts, whose index (L,) is its second argument,
        with its derivatives, as :func:`lattice_signal.read_power` returns it.
    start
        (K, 3, 3) matrices that turn crystal reflections into lab ones (rotation times scale).
    crystal
        (H, 3) reflections in the crystal frame, 1/nm.
    weights
        (K, H) inverse noise power of each reflection.
    window_nm
        Diameter of the window, nm.
    linear
        Free all nine elements of the matrix instead of a rotation and a scale.
    steps
        Most Newton steps.

    Returns
    -------
    matrices (K, 3, 3) and scores (K,), the weighted mean power.

    Notes
    -----
    Newton with the exact gradient and curvature; directions that curve upwards are followed
    uphill all the same, and a step that lowers the score, by more than rounding does, is taken back and shortened.
    """
    basis = _LINEAR if linear else _SIMILARITY
    matrix = np.array(start, float)
    # A third of the half width of a spot at the outermost reflection; radians and relative scale.
    radius = np.full(len(matrix), 0.25 / window_nm / np.linalg.norm(crystal, axis=1).max())
    smallest = 1e-6

    def derivatives(m: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        g = np.einsum("kij,hj->khi", m, crystal)
        p, d, c = read_power(g, rows)
        w = weights[rows] / weights.shape[1]
        arm = np.einsum("bij,khj->khbi", basis, g)
        weighed = w[..., None, None] * arm
        gradient = np.einsum("khbi,khi->kb", weighed, d)
        curvature = np.einsum("khai,khbi->kab", weighed, np.einsum("khij,khbj->khbi", c, arm))
        return (w * p).sum(axis=1), gradient, curvature

    rows = np.arange(len(matrix))  # those that still move
    score, gradient, curvature = derivatives(matrix, rows)
    for _ in range(steps):
        values, axes = np.linalg.eigh(curvature[rows])
        uphill = np.einsum("kba,kb->ka", axes, gradient[rows])
        floor = 1e-3 * np.abs(values).max(axis=1, keepdims=True) + np.finfo(float).tiny
        step = np.einsum("kba,ka->kb", axes, uphill / np.maximum(np.abs(values), floor))
        length = np.linalg.norm(step, axis=1)
        moves = np.minimum(length, radius[rows]) > smallest
        rows, step, length = rows[moves], step[moves], length[moves]
        if not len(rows):
            break
        step *= np.minimum(1, radius[rows] / np.maximum(length, 1e-30))[:, None]
        if linear:
            change = np.eye(3) + np.einsum("kb,bij->kij", step, basis)
        else:
            change = (1 + step[:, 3, None, None]) * lattice.from_rotation_vectors(step[:, :3])
        trial = change @ matrix[rows]
        stretch = np.linalg.svd(trial, compute_uv=False)
        allowed = (np.abs(stretch - 1) < LARGEST_STRAIN).all(axis=1)
        trial[~allowed] = matrix[rows[~allowed]]
        new = derivatives(trial, rows)
        better = (new[0] > (1 - _ROUNDING) * score[rows]) & allowed
        radius[rows] = np.where(better, radius[rows] * 2, np.minimum(length, radius[rows]) / 4)
        for old, fresh in zip((matrix, score, gradient, curvature), (trial, *new), strict=True):
            old[rows[better]] = fresh[better]
    return matrix, score


def _evidence(power: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(K,) mean logarithm of power over noise (K, H) at the reflections, to choose between candidates.

    The mean power itself can be largest where a few strong spots, a neighbour's among them, are hit
    and the others missed: a lattice turned by 60 degrees about [111] shares a {111} and three {220}
    pairs with the true one. The logarithm asks for all of them.
    """
    return np.log1p(np.maximum(power * weights, 0)).mean(axis=1)


def _grid_starts(shells: ShellSearch, power: np.ndarray, noise: np.ndarray) -> list[np.ndarray]:
    """For each dot the best orientations of the grid (:func:`_candidates`), by :func:`_evidence`."""
    white = np.log1p(power / _noise_at(noise, shells._points_family, shells._points_across))
    xp = get_array_module(shells._lookup)
    white = xp.asarray(white.astype(np.float32))
    return [_candidates(shells, to_numpy(one[shells._lookup].sum(axis=1))) for one in white]


def find_orientations(
    window: DotWindow,
    spectra: np.ndarray,
    shells: ShellSearch,
    *,
    strain: bool = True,
) -> Orientations:
    """Orientations of dots from their transforms.

    Parameters
    ----------
    window
        From :func:`lattice_signal.prepare_window`.
    spectra
        (D, ...) from :func:`lattice_signal.transform`.
    shells
        From :func:`prepare_shells`, on the device of the transforms.
    strain
        Also free all nine elements of the reciprocal matrices.

    Returns
    -------
    :class:`Orientations`; which of the 24 equivalents is not decided here.
    """
    power = shells.power(window, spectra)
    noise = np.array([shells.noise(one) for one in power])
    starts = _grid_starts(shells, power, noise)
    dot = np.repeat(np.arange(len(starts)), [len(some) for some in starts])
    matrices = np.concatenate(starts)
    weights = 1 / shells.noise_at_reflections(noise[dot], matrices)
    options = {"crystal": shells.crystal, "window_nm": window.window_nm}

    def read_power(g: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return lattice_signal.read_power(window, spectra, g, dot[rows])

    # A few steps tell the candidates apart; only the best goes on to the top.
    matrices, _ = climb(read_power, matrices, weights=weights, steps=4, **options)
    here = np.einsum("kij,hj->khi", matrices, shells.crystal)
    evidence = _evidence(read_power(here, np.arange(len(dot)))[0], weights)
    best = pd.Series(evidence).groupby(dot).idxmax().to_numpy()
    matrices, weights, dot = matrices[best], weights[best], dot[best]
    matrices, scores = climb(read_power, matrices, weights=weights, **options)
    scale = np.cbrt(np.linalg.det(matrices))
    reciprocal = np.full(matrices.shape, np.nan)
    if strain:
        reciprocal, _ = climb(read_power, matrices, weights=weights, linear=True, steps=5, **options)
    return Orientations(matrices / scale[:, None, None], scores, scale, reciprocal)
