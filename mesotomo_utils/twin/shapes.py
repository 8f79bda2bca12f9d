"""Truncated cubes: gaps between them, and how much of each lies inside a round needle.

A dot is a box with half edges h (nm, three of them, because each edge holds a whole number of atomic
planes) whose corners are cut by {111} planes that take the length c off each edge. It is symmetric
about its centre, so everything follows from its support function.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CORNERS = np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1]]) / np.sqrt(3)
Array = NDArray[np.float64]


def support_nm(directions: Array, half_nm: Array, cut_nm: Array) -> Array:
    """Distance from the centre to the tangent plane across each direction.

    Parameters
    ----------
    directions
        (..., 3) unit vectors in the crystal frame of the dot.
    half_nm
        (..., 3) half edges.
    cut_nm
        (...) length that a corner takes off each edge.
    """
    size = np.abs(directions)
    return np.sum(size * half_nm, axis=-1) - cut_nm * size.min(axis=-1)


def exit_nm(directions: Array, half_nm: Array, cut_nm: Array) -> Array:
    """Distance from the centre to the surface along each direction (arguments as `support_nm`)."""
    size = np.maximum(np.abs(directions), 1e-12)
    faces = np.min(half_nm / size, axis=-1)
    corners = (half_nm.sum(axis=-1) - cut_nm) / size.sum(axis=-1)
    return np.minimum(faces, corners)


def contains(points: Array, half_nm: Array, cut_nm: float) -> NDArray[np.bool_]:
    """Whether points (N, 3), crystal frame and from the centre, lie in one dot (surface included)."""
    size = np.abs(points)
    tolerance = 1e-9
    inside = np.all(size <= half_nm + tolerance, axis=-1)
    return inside & (size.sum(axis=-1) <= half_nm.sum() - cut_nm + tolerance)


def face_gaps(
    centres_nm: Array, R: Array, half_nm: Array, cut_nm: Array, pairs: NDArray[np.int64]
) -> tuple[Array, Array]:
    """Separation of pairs of dots along their best separating face normal.

    Parameters
    ----------
    centres_nm, R, half_nm, cut_nm
        (N, 3), (N, 3, 3), (N, 3), (N,) of all dots.
    pairs
        (P, 2) rows of dots.

    Returns
    -------
    gap_nm
        (P,) positive where a plane parallel to a face ({100} or {111}) of either dot separates
        them: then it is the distance between the two bodies, or a little less. Negative: overlap,
        or an edge against an edge.
    direction
        (P, 3) unit normal of that plane, from the first dot to the second.
    """
    first, second = pairs.T
    d = centres_nm[second] - centres_nm[first]
    faces = np.concatenate([np.eye(3), _CORNERS])
    normals = np.concatenate(
        [np.einsum("pij,fj->pfi", R[first], faces), np.einsum("pij,fj->pfi", R[second], faces)],
        axis=1,
    )
    along = np.einsum("pfi,pi->pf", normals, d)
    gap = np.abs(along)
    for dots in (first, second):
        own = np.einsum("pfi,pij->pfj", normals, R[dots])
        gap = gap - support_nm(own, half_nm[dots, None], cut_nm[dots, None])
    best = np.argmax(gap, axis=1)
    rows = np.arange(len(gap))
    direction = normals[rows, best] * np.sign(along[rows, best])[:, None]
    return gap[rows, best], direction


def near_pairs(
    centres_nm: Array, half_nm: Array, cut_nm: Array, pairs: NDArray[np.int64], *, margin_nm: float
) -> NDArray[np.int64]:
    """Those of ``pairs`` (P, 2) that could be nearer than ``margin_nm`` in some orientation."""
    shortest = half_nm.min(axis=1)
    # the farthest points of a dot are the corners of its cut corners, next to its shortest edge
    reach = np.sqrt(np.sum(half_nm**2, axis=1) - shortest**2 + (shortest - cut_nm) ** 2)
    distance = np.linalg.norm(centres_nm[pairs[:, 1]] - centres_nm[pairs[:, 0]], axis=1)
    return pairs[distance < reach[pairs].sum(axis=1) + margin_nm]


def enclosing_radius_nm(centres_nm: Array, R: Array, half_nm: Array, cut_nm: Array, samples: int = 11) -> Array:
    """(N, M) sorted distances from the z axis of M points spread evenly over each dot, nm.

    The fraction of a dot inside a needle of radius r about z is the fraction of its row below r;
    the radius that takes a fraction f in is the row's quantile f.
    """
    grid = (np.arange(samples) - (samples - 1) / 2) * 2 / samples
    unit = np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), axis=-1).reshape(-1, 3)
    mean_half = half_nm.mean(axis=0)
    unit = unit[contains(unit * mean_half, mean_half, float(cut_nm.mean()))]
    radii = np.empty((len(centres_nm), len(unit)))
    for n, (centre, rotation, half) in enumerate(zip(centres_nm, R, half_nm, strict=True)):
        points = (unit * half) @ rotation.T[:, :2] + centre[:2]
        radii[n] = np.hypot(*points.T)
    radii.sort(axis=1)
    return radii
