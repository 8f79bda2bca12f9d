"""Orientations that are known, followed into another tomogram of the same dots: into half sets of tilts.

The spots have moved by a fraction of a Fourier voxel, so nothing has to be searched: the transform is summed near the
known reflections only, which takes a third of the time of all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.backend import resolve_device, to_device
from mesotomo_utils.distribute import map_dots, map_items
from mesotomo_utils.mapping import lattice_signal
from mesotomo_utils.mapping.dot_table import QUATERNION
from mesotomo_utils.mapping.lattice_signal import LocalTransform
from mesotomo_utils.mapping.orientation_search import LARGEST_STRAIN, climb, prepare_shells, visible_reflections
from mesotomo_utils.mapping.replicas import Replicas
from mesotomo_utils.tomography.cutting import cut_cube, cut_cubes, keeping_chunks

# Dots whose noise is read: its law is common to all, and only its course from spot to spot matters.
_MOST_FOR_NOISE = 12
# Sums are taken anew where a spot has moved by more than this part of a Fourier voxel: within it the power that they
# give is right to 0.1 % and its slope to 2 %. Of the half sets of a twin no dot ends farther than 0.004 degrees off.
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
    device: str = "cpu",
    workers: int | None = None,
    dask: str | None = None,
    progress: str | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Orientations and cells of dots in one tomogram from those in another.

    Parameters
    ----------
    volume, voxel_nm, centres_nm, lattice_nm, window_nm, replicas, device, workers, dask, progress
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
    cells_nm
        (N, 3, 3) the free triclinic cell, lab directions of a, b, c as columns, nm; NaN as above.
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
        return shells.noise(shells.power(window, lattice_signal.transform(window, cube)[None])[0])

    some = np.flatnonzero(known)[:: max(1, known.sum() // _MOST_FOR_NOISE)]
    noise = np.median(map_items(noise_of, some, workers=workers, dask=dask), axis=0) if len(some) else None

    def settled(
        first: np.ndarray, near: Callable[[np.ndarray, np.ndarray], LocalTransform], here: LocalTransform
    ) -> np.ndarray:
        """Rotations at the top of the power, from ``first``; ``here`` is summed anew where that lies farther off."""
        matrices, rows = first.copy(), np.arange(len(first))
        for _ in range(_ROUNDS):
            matrices[rows] = climbed(matrices[rows], here, rows)
            g = crystal @ np.swapaxes(matrices[rows], 1, 2)
            far = np.linalg.norm(g - here.g_per_nm[rows], axis=2).max(axis=1) * window_nm >= _NEAR
            if not far.any():
                break
            rows = rows[far]
            here.put(rows, near(g[far], rows))
        return matrices

    def climbed(matrices: np.ndarray, here: LocalTransform, rows: np.ndarray, **options: Any) -> np.ndarray:
        weights = 1 / shells.noise_at_reflections(noise, matrices)
        options = {"crystal": crystal, "weights": weights, "window_nm": window_nm, **options}
        return climb(lambda g, some: here.read_power(g, rows[some]), matrices, **options)[0]

    where = resolve_device(device)
    fine, rough = (made if made is None else made.on(where) for made in (window, coarse))

    def follow(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with_replicas, as_seen, free = np.full((3, len(rows), 3, 3), np.nan)
        asked = np.flatnonzero(known[rows])
        cubes = cut_cubes(volume, voxel_nm, centres[rows[asked]], window.n)
        filled = cubes.any(axis=(1, 2, 3))
        asked, cubes = asked[filled], to_device(cubes[filled], where)
        if not len(asked):
            return with_replicas, as_seen, free
        rows = rows[asked]

        def near(g: np.ndarray, some: np.ndarray) -> LocalTransform:
            return lattice_signal.local_transform(fine, cubes[to_device(some, where)], g)

        every = np.arange(len(rows))
        here = near(crystal @ np.swapaxes(start[rows], 1, 2), every)
        if replicas is None:
            as_seen[asked] = settled(start[rows], near, here)
            free[asked] = climbed(as_seen[asked], here, every, linear=True, steps=5)
            return as_seen, as_seen, free
        others, away, factor = replicas.cubes(volume, voxel_nm, centres[rows], rough.n)
        others = to_device(others, where)

        def less_replicas(seen: LocalTransform, some: np.ndarray) -> LocalTransform:
            there = others[to_device(some, where)]
            taken = lattice_signal.local_transform(rough, there, seen.g_per_nm, middles_nm=away[some])
            return seen.less(taken, factor)

        def near_less(g: np.ndarray, some: np.ndarray) -> LocalTransform:
            return less_replicas(near(g, some), some)

        less = less_replicas(here, every)  # before ``here`` is moved after the replicas
        as_seen[asked] = settled(start[rows], near, here)
        with_replicas[asked] = settled(start[rows], near_less, less)
        free[asked] = climbed(with_replicas[asked], less, every, linear=True, steps=5)
        return with_replicas, as_seen, free

    options = {"device": where, "workers": workers, "dask": dask, "progress": progress}
    *matrices, free = map_dots(follow, len(centres), **options)
    matrices = np.stack(matrices, axis=1)
    moved = np.linalg.norm((matrices[:, 0] - start) @ crystal.T, axis=1).max(axis=1)
    matrices[~(moved * window_nm < _FAR)] = np.nan
    there = np.isfinite(matrices).all(axis=(1, 2, 3))
    matrices[there] /= np.cbrt(np.linalg.det(matrices[there]))[..., None, None]
    taken = np.full((len(matrices), 3), np.nan)
    R, as_seen = matrices[there, 0], matrices[there, 1]
    taken[there] = np.rad2deg(lattice.rotation_vectors(as_seen @ np.swapaxes(R, 1, 2)))
    cells = np.full(free.shape, np.nan)
    there &= np.isfinite(free).all(axis=(1, 2))
    cells[there] = np.swapaxes(np.linalg.inv(free[there]), 1, 2) * lattice_nm
    return matrices[:, 0], taken, cells
