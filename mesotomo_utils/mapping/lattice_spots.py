"""One dot's spots, one by one: what the joint fit of :mod:`orientation_search` rests on.

Each spot is refined alone, and the triad is fitted to them by Kabsch's method: the paper's way. It
serves to look at a dot and to check the joint fit, which uses the weak spots better.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.mapping import lattice_signal
from mesotomo_utils.mapping.lattice_signal import DotWindow
from mesotomo_utils.mapping.orientation_search import (
    LARGEST_STRAIN,
    find_orientations,
    prepare_shells,
    visible_reflections,
)
from mesotomo_utils.tomography.cutting import cut_cube

# Planes of reciprocal space to look at, as their two axes in the crystal frame: the first holds
# {200} and {220}, the second {111} as well.
PLANES = {
    "(001)": np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]),
    "(-110)": np.array([[0.5**0.5, 0.5**0.5, 0.0], [0.0, 0.0, 1.0]]),
}


def refine_spots(
    window: DotWindow, spectrum: np.ndarray, g_per_nm: np.ndarray, *, steps: int = 10
) -> tuple[np.ndarray, np.ndarray]:
    """Climb from each frequency to the top of the spot next to it.

    Parameters
    ----------
    window, spectrum
        From :mod:`lattice_signal`.
    g_per_nm
        (M, 3) frequencies to start from, x, y, z, 1/nm.
    steps
        Newton steps.

    Returns
    -------
    g (M, 3), 1/nm, and power (M,). No spot moves by more than one Fourier voxel of the window.
    """
    start = np.asarray(g_per_nm, float)
    best = start.copy()
    power, gradient, curvature = lattice_signal.read_power(window, spectrum, best)
    radius = np.full(len(best), 0.25 / window.window_nm)
    for _ in range(steps):
        values, axes = np.linalg.eigh(curvature)
        uphill = np.einsum("mba,mb->ma", axes, gradient)
        size = np.maximum(np.abs(values), 1e-3 * np.abs(values).max(axis=1, keepdims=True))
        step = np.einsum("mba,ma->mb", axes, uphill / np.maximum(size, np.finfo(float).tiny))
        length = np.linalg.norm(step, axis=1)
        step *= np.minimum(1, radius / np.maximum(length, 1e-30))[:, None]
        trial = best + step
        new = lattice_signal.read_power(window, spectrum, trial)
        near = np.linalg.norm(trial - start, axis=1) < 1 / window.window_nm
        better = (new[0] > power) & near
        radius = np.where(better, 2 * radius, np.minimum(length, radius) / 4)
        for old, fresh in zip((best, power, gradient, curvature), (trial, *new), strict=True):
            old[better] = fresh[better]
    return best, power


def inspect_dot(
    volume: Any,
    voxel_nm: float,
    centre_nm: np.ndarray,
    *,
    lattice_nm: float,
    window_nm: float,
    superlattice: np.ndarray | None = None,
    points: int = 181,
) -> tuple[np.ndarray, pd.DataFrame, dict[str, np.ndarray], float]:
    """Orient one dot and show what its orientation rests on.

    Parameters
    ----------
    volume, voxel_nm, lattice_nm, window_nm, superlattice
        As for :func:`orientation.orient_dots`.
    centre_nm
        (3,) centre of the dot, nm.
    points
        Edge of the pictures.

    Returns
    -------
    R
        (3, 3) rotation, lab = R crystal, of the joint fit; not blanked where the lattice is weak.
    spots
        One row a reflection, one of each Friedel pair: ``h, k, l, family, gx_per_nm, gy_per_nm,
        gz_per_nm`` (refined alone), ``power`` (over the noise around it), ``offset_voxels`` (distance
        from where the joint fit puts it, in Fourier voxels of the window).
    planes
        For each of :data:`PLANES` the logarithm (base 10) of power over noise, (points, points), row
        by row along the second axis; NaN beyond the transform.
    extent_per_nm
        The pictures run from minus to plus this, 1/nm.
    """
    reflections = visible_reflections(lattice_nm, voxel_nm)
    g_max = float(reflections["g_per_nm"].max()) * (1 + LARGEST_STRAIN)
    window = lattice_signal.prepare_window(voxel_nm=voxel_nm, window_nm=window_nm, g_max_per_nm=g_max)
    shells = prepare_shells(window, reflections)
    cube = cut_cube(volume, voxel_nm, centre_nm, window.n)
    spectrum = lattice_signal.transform(window, cube)
    found = find_orientations(window, spectrum[None], shells, strain=False)
    V = np.eye(3) if superlattice is None else superlattice
    R = lattice.nearest_equivalent(found.R[0], V)

    noise = shells.noise(shells.power(window, spectrum[None])[0]).mean(axis=1)
    predicted = (shells.crystal * found.scale[0]) @ R.T
    measured, power = refine_spots(window, spectrum, predicted)
    spots = reflections[["h", "k", "l", "family"]].copy()
    spots[["gx_per_nm", "gy_per_nm", "gz_per_nm"]] = measured
    spots["power"] = power / noise[shells.family]
    spots["offset_voxels"] = np.linalg.norm(measured - predicted, axis=1) * window_nm

    axis = np.linspace(-g_max, g_max, points)
    v, u = np.meshgrid(axis, axis, indexing="ij")
    inside = np.hypot(u, v) < g_max
    planes = {}
    for name, (first, second) in PLANES.items():
        g = (u[inside][:, None] * first + v[inside][:, None] * second) @ R.T
        picture = np.full(u.shape, np.nan)
        # In pieces: a reading gathers 512 neighbours a point.
        pieces = np.array_split(g, max(1, len(g) // 2000))
        values = [lattice_signal.read_power(window, spectrum, piece)[0] for piece in pieces]
        picture[inside] = np.log10(np.concatenate(values) / noise.mean() + 1e-3)
        planes[name] = picture
    return R, spots, planes, g_max


def triad_from_spots(spots: pd.DataFrame) -> np.ndarray:
    """Rotation (3, 3) from the spots of :func:`inspect_dot` alone, by Kabsch's method.

    A spot's place is known the better the stronger it is: each is weighted by its power over noise.
    """
    crystal = spots[["h", "k", "l"]].to_numpy(float)
    lab = spots[["gx_per_nm", "gy_per_nm", "gz_per_nm"]].to_numpy(float)
    return lattice.wahba(crystal, lab, spots["power"].to_numpy(float))


def spots_in_planes(R: np.ndarray, spots: pd.DataFrame) -> pd.DataFrame:
    """Where the refined spots fall in the pictures of :func:`inspect_dot`.

    Parameters
    ----------
    R, spots
        From :func:`inspect_dot`.

    Returns
    -------
    DataFrame ``plane, h, k, l, family, u_per_nm, v_per_nm``, both members of each Friedel pair.
    """
    crystal = spots[["h", "k", "l"]].to_numpy(float)
    measured = spots[["gx_per_nm", "gy_per_nm", "gz_per_nm"]].to_numpy(float) @ R
    rows = []
    for name, axes in PLANES.items():
        normal = np.cross(*axes)
        for index in np.flatnonzero(np.abs(crystal @ normal) < 1e-6):
            place = axes @ measured[index]
            family = spots["family"].iloc[index]
            for sign in (1, -1):
                hkl = (int(sign * value) for value in crystal[index])
                rows.append((name, *hkl, family, *(sign * place)))
    columns = ["plane", "h", "k", "l", "family", "u_per_nm", "v_per_nm"]
    return pd.DataFrame(rows, columns=columns)
