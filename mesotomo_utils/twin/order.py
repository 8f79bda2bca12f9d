"""Statistics of a structure as it was made: planarity, spreads, neighbours.

These follow the definitions of DESIGN and are what the twin is built by; the analysis has its own
code for the same quantities, so that agreement of the two means something.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mesotomo_utils import lattice

FWHM_PER_SD = 2.0 * np.sqrt(2.0 * np.log(2.0))
Array = NDArray[np.float64]


def without_plane(heights_nm: Array, xy_nm: Array, fit: NDArray[np.bool_]) -> Array:
    """(N,) heights of one layer minus the plane through the dots of ``fit`` (N,)."""
    design = np.column_stack([np.ones(len(xy_nm)), xy_nm])
    used = design if fit.sum() >= 4 else design[:, :1]
    coefficients, *_ = np.linalg.lstsq(used[fit], heights_nm[fit], rcond=None)
    return heights_nm - used @ coefficients


def layer_sd(flat_heights_nm: Array, fitted: int = 3) -> float:
    """Standard deviation of heights after a plane of ``fitted`` numbers was removed, nm."""
    n = len(flat_heights_nm)
    free = n - fitted if n >= 4 else max(n - 1, 1)
    return float(np.sqrt(np.sum(flat_heights_nm**2) / free))


def angles_to_film(vectors: Array, frame: Array) -> tuple[Array, Array]:
    """Azimuth about the film normal and elevation above the film of vectors (N, 3), degrees.

    ``frame`` (3, 3): columns film x, film y, film normal (`lattice.film_frame`).
    """
    x, y, z = (vectors @ frame).T
    return np.rad2deg(np.arctan2(y, x)), np.rad2deg(np.arctan2(z, np.hypot(x, y)))


def spread_deg(directions: tuple[Array, Array], frame: Array) -> tuple[float, float]:
    """In-plane and out-of-plane spread of two sets of directions, degrees.

    The central 95 % width of azimuth and of elevation, each set about its own mean, both sets
    pooled (DESIGN, "Spread").
    """
    azimuths, elevations = [], []
    for vectors in directions:
        azimuth, elevation = angles_to_film(vectors, frame)
        phase = np.deg2rad(azimuth)
        middle = np.rad2deg(np.arctan2(np.sin(phase).mean(), np.cos(phase).mean()))
        azimuths.append((azimuth - middle + 180.0) % 360.0 - 180.0)
        elevations.append(elevation - elevation.mean())
    widths = [np.subtract(*np.percentile(np.concatenate(a), [97.5, 2.5])) for a in (azimuths, elevations)]
    return float(widths[0]), float(widths[1])


def neighbour_turns(R: Array, pairs: NDArray[np.int64]) -> Array:
    """(P, 3) rotation vectors from the first to the second of each pair, crystal frame of the first, degrees."""
    first, second = pairs.T
    return np.rad2deg(lattice.rotation_vectors(np.swapaxes(R[first], 1, 2) @ R[second]))


def neighbour_second_moment(R: Array, pairs: NDArray[np.int64]) -> Array:
    """(3, 3) mean of the outer products of neighbours' rotation vectors, crystal frame, degrees^2."""
    delta = neighbour_turns(R, pairs)
    return delta.T @ delta / len(delta)


def neighbour_correlation(u: Array, ijk: NDArray[np.int64], counted: NDArray[np.bool_]) -> float:
    """Correlation of neighbours' displacements u (N, 3), each component scaled to 1 within a layer."""
    scaled = np.zeros_like(u)
    for k in np.unique(ijk[counted, 2]):
        rows = counted & (ijk[:, 2] == k)
        scaled[rows] = u[rows] / np.sqrt(np.mean(u[rows] ** 2, axis=0))
    pairs, _ = neighbour_pairs(ijk, counted)
    return float(np.mean(scaled[pairs[:, 0]] * scaled[pairs[:, 1]]))


def neighbour_pairs(ijk: NDArray[np.int64], present: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Pairs of sites that are + neighbours along A, B or C.

    Parameters
    ----------
    ijk
        (N, 3) indices of the sites, each once.
    present
        (N,) sites that hold a dot.

    Returns
    -------
    pairs, axis
        (P, 2) rows and (P,) 0, 1, 2 for A, B, C.
    """
    pairs = [_shifted(ijk, present, step) for step in np.eye(3, dtype=int)]
    axis = np.concatenate([np.full(len(p), n) for n, p in enumerate(pairs)])
    return np.concatenate(pairs), axis


def close_pairs(ijk: NDArray[np.int64], present: NDArray[np.bool_]) -> Array:
    """(P, 2) pairs of sites that touch along an edge vector or a diagonal of the cell, each once."""
    steps = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    half = [step for step in steps if tuple(step) > (0, 0, 0)]
    return np.concatenate([_shifted(ijk, present, step) for step in half])


def _shifted(ijk: NDArray[np.int64], present: NDArray[np.bool_], step: Array) -> Array:
    low = ijk.min(axis=0) - 1
    table = np.full(ijk.max(axis=0) - low + 2, -1)
    rows = np.flatnonzero(present)
    table[tuple((ijk[rows] - low).T)] = rows
    other = table[tuple((ijk[rows] - low + step).T)]
    return np.column_stack([rows, other])[other >= 0]
