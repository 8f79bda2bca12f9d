"""A film of smooth model dots whose centres and necks are known: the yardstick of the mapping.

Truncated cubes on a lattice, joined by cylinders, drawn straight into a volume. No atoms and no
microscope: for those there is the twin. Notebook 02 shows a known case with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mesotomo_utils.lattice import from_rotation_vectors
from mesotomo_utils.mapping.sampling import to_index


@dataclass(frozen=True)
class ModelFilm:
    """What was drawn.

    Attributes
    ----------
    volume
        (nz, ny, nx) float32, 1 in the dots, ``matrix`` in the needle, 0 outside.
    voxel_nm
        Edge of its voxels, nm.
    dots
        DataFrame ``x_nm, y_nm, z_nm, i, j, k``.
    necks
        DataFrame ``qd_1, qd_2, axis, diameter_nm, length_nm`` of all neighbour pairs.
    """

    volume: np.ndarray
    voxel_nm: float
    dots: pd.DataFrame
    necks: pd.DataFrame


def model_film(
    cell,
    counts: tuple[int, int, int],
    *,
    edge_nm: float,
    voxel_nm: float,
    rng: np.random.Generator,
    displacement_nm: float = 0.15,
    turn_deg: float = 2.0,
    edge_spread: float = 0.02,
    neck_nm: tuple[float, float] = (1.5, 3.5),
    neck_fraction: float = 0.85,
    blur_nm: float = 0.15,
    matrix: float = 0.06,
    noise: float = 0.03,
    vacancies: tuple[tuple[int, int, int], ...] = (),
) -> ModelFilm:
    """Draw a film of truncated cubes with necks.

    Parameters
    ----------
    cell
        (3, 3) matrix whose columns are A, B, C, nm. The cubes' axes follow it as nearly as they can.
    counts
        Dots along A, B, C.
    edge_nm
        Edge of the cubes, nm; corners are cut at 0.8 of the way to the vertex.
    voxel_nm
        Edge of the voxels, nm.
    rng
        For displacements, turns, sizes, necks and noise.
    displacement_nm, turn_deg, edge_spread
        Standard deviations: of the centres along each axis, of the cubes' turns about each axis, and of
        their edges as a fraction.
    neck_nm
        Smallest and largest diameter of a neck, nm.
    neck_fraction
        Share of the pairs that have one.
    blur_nm
        Standard deviation of the blur of every surface, nm.
    matrix, noise
        Grey level around the dots and standard deviation of white noise; a dot is 1.
    vacancies
        Sites (i, j, k) left empty.

    Returns
    -------
    The film, centred in its volume.
    """
    cell = np.asarray(cell, float)
    sites = np.array([s for s in np.ndindex(*counts) if s not in set(vacancies)])
    xyz = (sites - (np.array(counts) - 1) / 2) @ cell.T
    xyz = xyz + rng.normal(0, displacement_nm, xyz.shape)
    turns = from_rotation_vectors(rng.normal(0, np.deg2rad(turn_deg), xyz.shape)) @ cube_axes(cell)
    edges = edge_nm * (1 + rng.normal(0, edge_spread, len(xyz)))
    half_nm = np.abs(xyz).max(axis=0) + edge_nm
    shape = tuple(int(n) for n in np.ceil(2 * half_nm[::-1] / voxel_nm))
    row_of = {tuple(site): n for n, site in enumerate(sites)}
    necks = []
    for site, first in row_of.items():
        for axis in range(3):
            second = row_of.get(tuple(np.add(site, np.eye(3, dtype=int)[axis])))
            if second is None:
                continue
            diameter = rng.uniform(*neck_nm) if rng.random() < neck_fraction else 0.0
            away = xyz[second] - xyz[first]
            distance = np.linalg.norm(away)
            direction = away / distance
            reach = sum(edges[n] / 2 / np.abs(direction @ turns[n]).max() for n in (first, second))
            necks.append((first, second, "ABC"[axis], diameter, distance - reach))
    necks = pd.DataFrame(necks, columns=["qd_1", "qd_2", "axis", "diameter_nm", "length_nm"])
    volume = draw_dots(shape, voxel_nm, xyz, turns, edges, necks, blur_nm=blur_nm, matrix=matrix)
    volume += rng.normal(0, noise, shape).astype(np.float32)
    dots = pd.DataFrame(np.hstack([xyz, sites]), columns=["x_nm", "y_nm", "z_nm", "i", "j", "k"])
    return ModelFilm(volume, voxel_nm, dots.astype({"i": int, "j": int, "k": int}), necks)


def draw_dots(
    shape: tuple[int, int, int],
    voxel_nm: float,
    xyz_nm: np.ndarray,
    turns: np.ndarray,
    edges_nm: np.ndarray,
    necks: pd.DataFrame,
    *,
    blur_nm: float,
    matrix: float = 0.0,
) -> np.ndarray:
    """Draw truncated cubes and the cylinders that join them.

    Parameters
    ----------
    shape, voxel_nm
        Of the volume [z, y, x], and the edge of its voxels, nm.
    xyz_nm, turns, edges_nm
        (N, 3) centres, (N, 3, 3) whose columns are the axes of a cube, and (N,) edges; corners are cut at 0.8 of the
        way to the vertex.
    necks
        ``qd_1, qd_2`` (rows of dots) and ``diameter_nm``, 0 for none.
    blur_nm
        Standard deviation of the blur of every surface, nm.
    matrix
        Grey level around the dots; a dot is 1.

    Returns
    -------
    (nz, ny, nx) float32.
    """
    volume = np.full(shape, matrix, np.float32)
    for centre, turn, edge in zip(xyz_nm, turns, edges_nm, strict=True):
        box, points = _box(shape, voxel_nm, centre, 0.9 * edge)
        own = np.abs((points - centre) @ turn)
        depth = np.minimum(edge / 2 - own.max(axis=-1), (1.2 * edge - own.sum(axis=-1)) / np.sqrt(3))
        volume[box] = np.maximum(volume[box], _soft(depth, blur_nm))
    for neck in necks[necks["diameter_nm"] > 0].itertuples():
        first, second = xyz_nm[neck.qd_1], xyz_nm[neck.qd_2]
        distance = np.linalg.norm(second - first)
        direction = (second - first) / distance
        box, points = _box(shape, voxel_nm, (first + second) / 2, 0.6 * distance)
        from_first = points - first
        along = from_first @ direction
        across = np.linalg.norm(from_first - along[..., None] * direction, axis=-1)
        inside = np.minimum(neck.diameter_nm / 2 - across, distance / 2 - np.abs(along - distance / 2))
        volume[box] = np.maximum(volume[box], _soft(inside, blur_nm))
    return volume


def cube_axes(cell) -> np.ndarray:
    """(3, 3) axes of a cube that follows a cell, (3, 3) with columns A, B, C, as nearly as it can."""
    u, _, vt = np.linalg.svd(np.asarray(cell, float))
    return u @ vt


def _soft(depth_nm: np.ndarray, blur_nm: float) -> np.ndarray:
    """Blurred step at depth 0: 0 outside, 1 inside."""
    return (1 / (1 + np.exp(np.clip(-1.7 * depth_nm / blur_nm, -50, 50)))).astype(np.float32)


def _box(shape, voxel_nm: float, centre_nm: np.ndarray, half_nm: float):
    """Slices of a cube of a volume, and its (…, 3) points x, y, z in nm."""
    middle = to_index(centre_nm[None], shape, voxel_nm)[0]
    low = np.maximum(np.floor(middle - half_nm / voxel_nm), 0).astype(int)
    high = np.minimum(np.ceil(middle + half_nm / voxel_nm) + 1, shape).astype(int)
    axes = [(np.arange(a, b) - (n - 1) / 2) * voxel_nm for a, b, n in zip(low, high, shape, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return tuple(slice(a, b) for a, b in zip(low, high, strict=True)), np.stack([x, y, z], axis=-1)
