"""Orientations that are known, followed to where they are without replicas, and into half sets of tilts.

The spots have moved by a fraction of a Fourier voxel, so nothing has to be searched: the transform is summed near the
known reflections only, which takes a third of the time of all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.backend import resolve_device, to_device
from mesotomo_utils.distribute import map_dots, map_items
from mesotomo_utils.mapping import lattice_signal
from mesotomo_utils.mapping.dot_table import QUATERNION
from mesotomo_utils.mapping.lattice_signal import LocalTransform
from mesotomo_utils.mapping.orientation import snr_threshold
from mesotomo_utils.mapping.orientation_search import LARGEST_STRAIN, climb, prepare_shells, visible_reflections
from mesotomo_utils.mapping.replicas import Replicas
from mesotomo_utils.mapping.strain import CELL, cell_parameters
from mesotomo_utils.tomography.cutting import cut_cube, cut_cubes, keeping_chunks

# Dots whose noise is read: its law is common to all, and only its course from spot to spot matters.
_MOST_FOR_NOISE = 12
# Sums are taken anew where a spot has moved by more than this part of a Fourier voxel: within it the power that they
# give is right to 0.1 % and its slope to 2 %. Of the half sets of a twin no dot ends farther than 0.004 degrees off.
_NEAR = 0.25
# What lies farther off than this the series do not tell: a climb that leads there ends at this distance.
_REACH = 0.5
_ROUNDS = 10
# In a half set, farther than this many Fourier voxels away it is not the same spot: what little is there of a cut dot
# was lost. Where replicas are taken off it may be: of eight such dots seven were right there, 2 to 5 degrees away.
_FAR = 1.0


@dataclass(frozen=True)
class Followed:
    """What became of N dots: NaN where the table has no orientation, where nothing is in the volume, and where the
    nearest lattice lies too far away.

    Attributes
    ----------
    R
        (N, 3, 3) rotations, lab = R crystal.
    lattice_nm
        (N,) cubic lattice parameter, nm.
    cells_nm
        (N, 3, 3) the free triclinic cell, lab directions of a, b, c as columns, nm.
    taken_deg
        (N, 3) turns, lab rotation vectors, that the replicas had made before they were subtracted; zero without.
    power
        (N,) mean power at the reflections over what it was before; 1 without replicas.
    """

    R: np.ndarray
    lattice_nm: np.ndarray
    cells_nm: np.ndarray
    taken_deg: np.ndarray
    power: np.ndarray


def follow_dots(
    volume: Any,
    voxel_nm: float,
    centres_nm: np.ndarray,
    table: pd.DataFrame,
    *,
    lattice_nm: float,
    window_nm: float,
    replicas: Replicas | None = None,
    farthest: float = _FAR,
    device: str = "cpu",
    workers: int | None = None,
    dask: str | None = None,
    progress: str | None = None,
) -> Followed:
    """Orientations and cells of dots in one tomogram from those in another, or in the same with replicas.

    Parameters
    ----------
    volume, voxel_nm, centres_nm, lattice_nm, window_nm, device, workers, dask, progress
        As for :func:`orientation.orient_dots`.
    table
        Its result on the other tomogram.
    replicas
        What other dots' lattices leave here for want of tilts, to be subtracted (:func:`replicas.find_replicas`).
    farthest
        How far a spot may move, in Fourier voxels of the window.

    Returns
    -------
    :class:`Followed`.
    """
    volume = keeping_chunks(volume)
    centres = np.asarray(centres_nm, float)
    reflections = visible_reflections(lattice_nm, voxel_nm)
    crystal = reflections[["h", "k", "l"]].to_numpy(float) / lattice_nm
    outermost = float(reflections["g_per_nm"].max()) * (1 + LARGEST_STRAIN)
    window = lattice_signal.prepare_window(voxel_nm=voxel_nm, window_nm=window_nm, g_max_per_nm=outermost)
    coarse = None
    if replicas is not None:
        coarse = lattice_signal.prepare_window(voxel_nm=replicas.voxel_nm, window_nm=window_nm, g_max_per_nm=outermost)
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
    ) -> tuple[np.ndarray, np.ndarray]:
        """Matrices at the top of the power, and that, from ``first``; ``here`` is summed anew where it lies far off."""
        matrices, powers, rows = first.copy(), np.empty(len(first)), np.arange(len(first))
        for _ in range(_ROUNDS):
            ends, powers[rows] = climbed(matrices[rows], here, rows)
            away = crystal @ np.swapaxes(ends, 1, 2) - here.g_per_nm[rows]
            moved = np.linalg.norm(away, axis=2).max(axis=1) * window_nm
            matrices[rows] = _part_of_the_way(matrices[rows], ends, np.minimum(1, _REACH / np.maximum(moved, _REACH)))
            rows = rows[moved >= _NEAR]
            if not len(rows):
                break
            here.put(rows, near(crystal @ np.swapaxes(matrices[rows], 1, 2), rows))
        return matrices, powers

    def climbed(
        matrices: np.ndarray, here: LocalTransform, rows: np.ndarray, **options: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        weights = 1 / shells.noise_at_reflections(noise, matrices)
        options = {"crystal": crystal, "weights": weights, "window_nm": window_nm, **options}
        return climb(lambda g, some: here.read_power(g, rows[some]), matrices, **options)

    where = resolve_device(device)
    fine, rough = (made if made is None else made.on(where) for made in (window, coarse))

    def follow(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        less, as_seen, free = np.full((3, len(rows), 3, 3), np.nan)
        power = np.full(len(rows), np.nan)
        asked = np.flatnonzero(known[rows])
        cubes = cut_cubes(volume, voxel_nm, centres[rows[asked]], window.n)
        filled = cubes.any(axis=(1, 2, 3))
        if not filled.any():
            return less, as_seen, free, power
        if not filled.all():
            asked, cubes = asked[filled], cubes[filled]
        cubes = to_device(cubes, where)
        rows = rows[asked]

        def near(g: np.ndarray, some: np.ndarray) -> LocalTransform:
            return lattice_signal.local_transform(fine, cubes[to_device(some, where)], g)

        every = np.arange(len(rows))
        here = near(crystal @ np.swapaxes(start[rows], 1, 2), every)
        there, near_there = here, near
        if replicas is not None:
            others, away, factor = replicas.cubes(volume, voxel_nm, centres[rows], rough.n)
            others = to_device(others, where)

            def less_replicas(seen: LocalTransform, some: np.ndarray) -> LocalTransform:
                among = others[to_device(some, where)]
                taken = lattice_signal.local_transform(rough, among, seen.g_per_nm, middles_nm=away[some])
                return seen.less(taken, factor)

            def near_there(g: np.ndarray, some: np.ndarray) -> LocalTransform:
                return less_replicas(near(g, some), some)

            there = less_replicas(here, every)  # before ``here`` is moved after the replicas
        as_seen[asked], before = settled(start[rows], near, here)
        less[asked], after = (as_seen[asked], before) if replicas is None else settled(start[rows], near_there, there)
        power[asked] = after / before
        free[asked], _ = climbed(less[asked], there, every, linear=True, steps=5)
        return less, as_seen, free, power

    options = {"device": where, "workers": workers, "dask": dask, "progress": progress}
    less, as_seen, free, power = map_dots(follow, len(centres), **options)
    moved = np.linalg.norm((less - start) @ crystal.T, axis=1).max(axis=1)
    lost = ~(moved * window_nm < farthest)
    less[lost] = as_seen[lost] = free[lost] = power[lost] = np.nan
    there = ~lost & np.isfinite(as_seen).all(axis=(1, 2))
    R, lengths, taken, cells = less.copy(), np.full(len(less), np.nan), np.full((len(less), 3), np.nan), free.copy()
    lengths[there] = np.cbrt(np.linalg.det(less[there]))
    R /= lengths[:, None, None]
    before = as_seen[there] / np.cbrt(np.linalg.det(as_seen[there]))[:, None, None]
    taken[there] = np.rad2deg(lattice.rotation_vectors(before @ np.swapaxes(R[there], 1, 2)))
    there &= np.isfinite(free).all(axis=(1, 2))
    cells[there] = np.swapaxes(np.linalg.inv(free[there]), 1, 2) * lattice_nm
    return Followed(R, lattice_nm / lengths, cells, taken, power)


def _part_of_the_way(start: np.ndarray, end: np.ndarray, part: np.ndarray) -> np.ndarray:
    """(N, 3, 3) rotations times scales so far from one to another, which is not far off."""
    between = start + part[:, None, None] * (end - start)
    U, stretch, Vt = np.linalg.svd(between)
    return np.cbrt(stretch.prod(axis=1))[:, None, None] * (U @ Vt)


def without_replicas(
    volume: Any,
    voxel_nm: float,
    centres_nm: np.ndarray,
    table: pd.DataFrame,
    replicas: Replicas,
    *,
    lattice_nm: float,
    window_nm: float,
    false_accepts: float = 0.01,
    **options: Any,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Orientations and lattice parameters of every dot, what other dots' lattices leave in it taken off.

    Parameters
    ----------
    volume, voxel_nm, centres_nm, lattice_nm, window_nm, false_accepts
        As for :func:`orientation.orient_dots`.
    table
        Its result on the same volume.
    replicas
        To be subtracted (:func:`replicas.find_replicas`).
    **options
        ``device, workers, dask, progress``, as there.

    Returns
    -------
    table
        With the same columns. A dot whose lattice was others' rather than its own, so that it falls under the
        threshold, has no orientation any more.
    turn_deg
        (N,) by how much each dot has turned, degrees; NaN without an orientation.

    Notes
    -----
    The lattice SNR changes as the power at the reflections does; the noise around them is that of before.
    """
    reading = {"lattice_nm": lattice_nm, "window_nm": window_nm}
    options |= {"replicas": replicas, "farthest": np.inf}
    found = follow_dots(volume, voxel_nm, centres_nm, table, **reading, **options)
    less = table.copy()
    less["lattice_snr"] *= np.where(np.isnan(found.power), 1.0, found.power)
    threshold = snr_threshold(voxel_nm=voxel_nm, false_accepts=false_accepts, **reading)
    kept = np.isfinite(found.R).all(axis=(1, 2)) & (less["lattice_snr"].to_numpy() > threshold)
    less[[*QUATERNION, "lattice_nm", *CELL]] = np.nan
    if kept.any():
        less.loc[kept, QUATERNION] = lattice.to_quaternions(found.R[kept])
    less.loc[kept, "lattice_nm"] = found.lattice_nm[kept]
    less.loc[kept, list(CELL)] = cell_parameters(found.cells_nm[kept])
    return less, np.where(kept, np.linalg.norm(found.taken_deg, axis=1), np.nan)
