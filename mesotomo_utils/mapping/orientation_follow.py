"""Orientations that are known, followed into another tomogram of the same dots: into half sets of tilts.

The spots have moved by a fraction of a Fourier voxel, so nothing has to be searched: the transform is summed near the
known reflections only, which takes a quarter of the time of all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.distribute import map_items
from mesotomo_utils.mapping import lattice_signal
from mesotomo_utils.mapping.dot_table import QUATERNION
from mesotomo_utils.mapping.lattice_signal import LocalTransform
from mesotomo_utils.mapping.orientation_search import LARGEST_STRAIN, climb, prepare_shells, visible_reflections
from mesotomo_utils.mapping.replicas import Replicas
from mesotomo_utils.tomography.cutting import cube_middle_nm, cut_cube, keeping_chunks

# Dots whose noise is read: its law is common to all, and only its course from spot to spot matters.
_MOST_FOR_NOISE = 12
# Sums are taken anew where a spot has moved by more than this part of a Fourier voxel: within it the power that they
# give is right to 0.2 % and its slope to 3 %.
_NEAR = 0.25
_ROUNDS = 5
# Farther than this many Fourier voxels away it is not the same spot: what little is there of a cut dot was lost.
_FAR = 1.0


def follow_dots(
    volume: Any,
    voxel_nm: float,
    centres_nm: np.ndarray,
    table: pd.DataFrame,
    *,
    lattice_nm: float,
    window_nm: float,
    replicas: Replicas | None = None,
    workers: int | None = None,
    dask: str | None = None,
    progress: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Orientations of dots in one tomogram from those in another.

    Parameters
    ----------
    volume, voxel_nm, centres_nm, lattice_nm, window_nm, replicas, workers, dask, progress
        As for :func:`orientation.orient_dots`.
    table
        Its result on the other tomogram.

    Returns
    -------
    rotations
        (N, 3, 3); NaN where the table has none, where nothing is in the volume, and where the nearest lattice lies more
        than a Fourier voxel away.
    taken_deg
        (N, 3) turns, lab rotation vectors, that the replicas had made before they were subtracted; zero without.
    """
    volume = keeping_chunks(volume)
    centres = np.asarray(centres_nm, float)
    reflections = visible_reflections(lattice_nm, voxel_nm)
    crystal = reflections[["h", "k", "l"]].to_numpy(float) / lattice_nm
    outermost = float(reflections["g_per_nm"].max()) * (1 + LARGEST_STRAIN)
    window = lattice_signal.prepare_window(voxel_nm=voxel_nm, window_nm=window_nm, g_max_per_nm=outermost)
    coarse = None
    if replicas is not None:
        coarse = lattice_signal.prepare_window(
            voxel_nm=replicas.voxel_nm, window_nm=window_nm, g_max_per_nm=outermost, step_per_nm=window.step_per_nm
        )
    start = lattice.from_quaternions(table[QUATERNION].to_numpy())
    start = start * (lattice_nm / table["lattice_nm"].to_numpy())[:, None, None]
    known = np.isfinite(start).all(axis=(1, 2))
    shells = prepare_shells(window, reflections)

    def noise_of(row: int) -> np.ndarray:
        cube = cut_cube(volume, voxel_nm, centres[row], window.n)
        return shells.noise(shells.power(window, lattice_signal.transform(window, cube)))

    some = np.flatnonzero(known)[:: max(1, known.sum() // _MOST_FOR_NOISE)]
    noise = np.median(map_items(noise_of, some, workers=workers, dask=dask), axis=0) if len(some) else None

    def settled(first: np.ndarray, near: Callable[[np.ndarray], LocalTransform], here: LocalTransform) -> np.ndarray:
        matrix = first[None]
        for _ in range(_ROUNDS):
            weights = 1 / shells.noise_at_reflections(noise, matrix)
            matrix, _ = climb(here.read_power, matrix, crystal=crystal, weights=weights, window_nm=window_nm)
            g = crystal @ matrix[0].T
            if np.linalg.norm(g - here.g_per_nm, axis=1).max() * window_nm < _NEAR:
                break
            here = near(g)
        return matrix[0]

    def one(row: int) -> tuple[np.ndarray, np.ndarray]:
        cube = cut_cube(volume, voxel_nm, centres[row], window.n)
        if not known[row] or not cube.any():
            return np.full((3, 3), np.nan), np.full((3, 3), np.nan)
        near = partial(lattice_signal.local_transform, window, cube)
        here = near(crystal @ start[row].T)
        as_seen = settled(start[row], near, here)
        if coarse is None:
            return as_seen, as_seen
        other = cut_cube(replicas.values, replicas.voxel_nm, centres[row], coarse.n)
        grids = (replicas.values.shape, replicas.voxel_nm), (volume.shape, voxel_nm)
        away = np.subtract(*(cube_middle_nm(*grid, centres[row]) for grid in grids))

        def less_replicas(seen: LocalTransform) -> LocalTransform:
            taken = lattice_signal.local_transform(coarse, other, seen.g_per_nm, middle_nm=away)
            # sums over voxels: larger ones count for more
            return seen.less(taken, (replicas.voxel_nm / voxel_nm) ** 3)

        return settled(start[row], lambda g: less_replicas(near(g)), less_replicas(here)), as_seen

    found = map_items(one, range(len(centres)), workers=workers, dask=dask, progress=progress)
    matrices = np.array(found).reshape(-1, 2, 3, 3)
    moved = np.linalg.norm((matrices[:, 0] - start) @ crystal.T, axis=1).max(axis=1)
    matrices[~(moved * window_nm < _FAR)] = np.nan
    there = np.isfinite(matrices).all(axis=(1, 2, 3))
    matrices[there] /= np.cbrt(np.linalg.det(matrices[there]))[..., None, None]
    taken = np.full((len(matrices), 3), np.nan)
    R, as_seen = matrices[there, 0], matrices[there, 1]
    taken[there] = np.rad2deg(lattice.rotation_vectors(as_seen @ np.swapaxes(R, 1, 2)))
    return matrices[:, 0], taken
