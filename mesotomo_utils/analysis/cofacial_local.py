"""Each dot's own co-facial optimum, at its measured place: R̂_i.

The facets are those of :mod:`mesotomo_utils.analysis.cofacial`; here dots stand where they were
measured and are turned as they are, so that two facing squares are neither parallel nor aligned and
their overlap is that of two polygons.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.analysis import cofacial


def pair_overlap(centres_nm: np.ndarray, R: np.ndarray, pairs: pd.DataFrame, *, facet_nm: float) -> np.ndarray:
    """Exact overlap of the facing squares of each pair of dots, each turned as given.

    The two facets are seen along the mean of their outward normals; each is a square on its own
    cube, at half an edge from the dot's centre. Where both dots are turned alike this is
    :func:`cofacial.cofacial_overlap`.

    Parameters
    ----------
    centres_nm
        (N, 3) centres, nm.
    R
        (N, 3, 3) orientations; NaN where unknown.
    pairs
        ``qd_1, qd_2, axis``: rows of ``centres_nm``, and A, B or C where the second is the +
        neighbour of the first.
    facet_nm
        Edge of the facets, nm.

    Returns
    -------
    (len(pairs),) fractions of f²; NaN where an orientation is unknown.

    Raises
    ------
    ValueError
        ``pairs`` lacks a column, names a dot that is not there, or an axis other than A, B, C.
    """
    first, second, axis = _pair_columns(pairs, len(centres_nm))
    lateral = np.asarray(centres_nm, float)[second] - np.asarray(centres_nm, float)[first]
    return _overlap(np.asarray(R)[first], np.asarray(R)[second], lateral, axis, facet_nm)


def local_optimum(
    centres_nm: np.ndarray,
    R: np.ndarray,
    pairs: pd.DataFrame,
    *,
    facet_nm: float,
    start: np.ndarray,
    finest_deg: float = 0.02,
) -> tuple[np.ndarray, pd.DataFrame]:
    """R̂_i: each dot turned to maximise the overlap with its neighbours, which are held as measured.

    All dots are searched at once, each on its own: from the best of ``start`` and the mean of its
    neighbours, 26 directions turned afresh at every step, the step halved where none is better.

    Parameters
    ----------
    centres_nm
        (N, 3) measured centres, nm; they stay.
    R
        (N, 3, 3) measured orientations, reduced by :func:`lattice.nearest_equivalent`; NaN rows are
        dots that nobody sees as a neighbour.
    pairs
        As for :func:`pair_overlap`.
    facet_nm
        Edge of the facets, nm.
    start
        (3, 3) an orientation to start from, e.g. R_mono.
    finest_deg
        Step at which the search ends, degrees.

    Returns
    -------
    R_hat
        (N, 3, 3); NaN for a dot without an oriented neighbour.
    table
        DataFrame ``qd, n_neighbours, overlap_fraction`` at the optimum, mean over the neighbours.

    Raises
    ------
    ValueError
        As for :func:`pair_overlap`.
    """
    centres, R = np.asarray(centres_nm, float), np.asarray(R, float)
    first, second, axis = _pair_columns(pairs, len(centres))
    # Both ends of every pair, seen from the dot that turns: ``toward`` is +1 for the + neighbour.
    dot, other = np.concatenate([first, second]), np.concatenate([second, first])
    axis = np.concatenate([axis, axis])
    toward = np.concatenate([np.ones(len(first)), -np.ones(len(first))])
    seen = np.isfinite(R[other]).all(axis=(1, 2))
    dot, other, axis, toward = dot[seen], other[seen], axis[seen], toward[seen]
    count = np.bincount(dot, minlength=len(centres))
    has = count > 0

    def score(trial: np.ndarray) -> np.ndarray:
        """Mean overlap (T, N) of trial orientations (T, N, 3, 3), the neighbours held."""
        held = np.broadcast_to(R[other], (len(trial), len(other), 3, 3))
        between = toward[:, None] * (centres[other] - centres[dot])
        forward = (toward > 0)[:, None, None]
        mine = trial[:, dot]
        low, high = np.where(forward, mine, held), np.where(forward, held, mine)
        shape = low.shape[:2]
        area = _overlap(
            low.reshape(-1, 3, 3),
            high.reshape(-1, 3, 3),
            np.broadcast_to(between, (*shape, 3)).reshape(-1, 3),
            np.broadcast_to(axis, shape).ravel(),
            facet_nm,
        ).reshape(shape)
        total = np.stack([np.bincount(dot, row, minlength=len(centres)) for row in area])
        return total / np.maximum(count, 1)

    neighbours = np.zeros_like(R)
    np.add.at(neighbours, dot, R[other])
    neighbours[~has] = np.eye(3)
    starts = np.stack([np.broadcast_to(np.asarray(start, float), R.shape), _project(neighbours)])
    best, value = _climb(starts, score, first_deg=4.0, finest_deg=finest_deg)
    best[~has] = np.nan
    value = np.where(has, value, np.nan)
    table = pd.DataFrame({"qd": np.arange(len(R)), "n_neighbours": count, "overlap_fraction": value})
    return best, table


def _pair_columns(pairs: pd.DataFrame, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the first and second dot and the index 0, 1, 2 of the axis of each pair."""
    missing = [c for c in ("qd_1", "qd_2", "axis") if c not in pairs]
    if missing:
        raise ValueError(f"pairs lacks the column(s) {missing}; it has {list(pairs.columns)}")
    ends = pairs[["qd_1", "qd_2"]].to_numpy(dtype=int)
    if ends.size and (ends.min() < 0 or ends.max() >= n):
        raise ValueError(f"pairs names dots from {ends.min()} to {ends.max()}, but there are {n} centres")
    axis = pairs["axis"].map({"A": 0, "B": 1, "C": 2})
    if axis.isna().any():
        raise ValueError(f"axis must be A, B or C, found {sorted(set(pairs['axis'][axis.isna()].astype(str)))}")
    return ends[:, 0], ends[:, 1], axis.to_numpy(dtype=int)


def _overlap(R1: np.ndarray, R2: np.ndarray, between_nm: np.ndarray, axis: np.ndarray, facet_nm: float) -> np.ndarray:
    """Overlap fractions (P,) of the + facet of dot 1 and the − facet of dot 2 at ``between_nm``."""
    row = np.arange(len(axis))
    normal1, normal2 = R1[row, :, axis], R2[row, :, axis]
    u1, v1 = R1[row, :, cofacial.EDGES[axis, 0]], R1[row, :, cofacial.EDGES[axis, 1]]
    u2, v2 = R2[row, :, cofacial.EDGES[axis, 0]], R2[row, :, cofacial.EDGES[axis, 1]]
    view = cofacial.unit(normal1 + normal2)
    right = cofacial.unit(u1 - _dot(u1, view)[:, None] * view)
    up = np.cross(view, right)
    # In units of half an edge, with the origin at the centre of facet 1.
    gap = (2.0 / facet_nm) * between_nm - normal1 - normal2
    flat = np.stack([right, up], axis=1)  # (P, 2, 3)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=float)
    square1 = corners @ np.einsum("pij,pkj->pki", flat, np.stack([u1, v1], axis=1))
    square2 = corners @ np.einsum("pij,pkj->pki", flat, np.stack([u2, v2], axis=1))
    square2 += np.einsum("pij,pj->pi", flat, gap)[:, None]
    return overlap_area(square1, square2) / 4.0


def overlap_area(P: np.ndarray, Q: np.ndarray) -> np.ndarray:
    """Area shared by convex polygons and parallelograms, exact and for many pairs at once.

    In the coordinates in which Q is the square from -1 to 1, the shared area is the contour integral
    of y dx around P with both coordinates clamped to that square: what lies outside is pressed flat
    onto its sides and encloses nothing. Along each side of P the integral has a closed form.

    Parameters
    ----------
    P
        (N, p, 2) corners of convex polygons, in order.
    Q
        (N, 4, 2) corners of parallelograms, in order.

    Returns
    -------
    (N,) areas; NaN where a corner is NaN.

    Examples
    --------
    >>> square = np.array([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])
    >>> overlap_area(square, square + [0.25, 0.5])
    array([0.375])
    """
    centre = Q.mean(axis=1, keepdims=True)
    u, v = (Q[:, 1] - Q[:, 0]) / 2, (Q[:, 3] - Q[:, 0]) / 2
    det = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    d = P - centre
    x = (d[..., 0] * v[:, None, 1] - d[..., 1] * v[:, None, 0]) / det[:, None]
    y = (d[..., 1] * u[:, None, 0] - d[..., 0] * u[:, None, 1]) / det[:, None]
    dx, dy = np.roll(x, -1, axis=1) - x, np.roll(y, -1, axis=1) - y
    # The part of each side with x inside, and y at its two ends.
    x0, x1 = np.clip(x, -1, 1), np.clip(x + dx, -1, 1)
    slope = dy / np.where(dx == 0, 1.0, dx)
    y0, y1 = y + (x0 - x) * slope, y + (x1 - x) * slope
    # Mean of the clamped y along that part: 1 above, -1 below, the mean of the ends between.
    low, high = np.minimum(y0, y1), np.maximum(y0, y1)
    length = np.where(high > low, high - low, 1.0)
    above = np.where(low >= 1, 1.0, np.clip(high - 1, 0, None) / length)
    below = np.where(high <= -1, 1.0, np.clip(-1 - low, 0, None) / length)
    between = (np.clip(y0, -1, 1) + np.clip(y1, -1, 1)) / 2
    mean = above - below + (1 - above - below) * between
    return np.abs(np.sum(mean * (x1 - x0), axis=1) * det)


def _dot(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.einsum("...i,...i->...", u, v)


def _project(M: np.ndarray) -> np.ndarray:
    """Nearest proper rotations (N, 3, 3) of matrices (N, 3, 3)."""
    U, _, Wt = np.linalg.svd(M)
    U[..., 2] *= np.linalg.det(U @ Wt)[..., None]
    return U @ Wt


def _climb(
    starts: np.ndarray, score: Callable[[np.ndarray], np.ndarray], *, first_deg: float, finest_deg: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pattern search of many independent orientations at once; ``score`` maps (T, N, 3, 3) to (T, N)."""
    row = np.arange(starts.shape[1])
    values = score(starts)
    choice = np.argmax(values, axis=0)
    best, value = starts[choice, row].copy(), values[choice, row]
    step = np.full(len(row), np.deg2rad(first_deg))
    pattern = cofacial.sphere(26)
    for turn in range(60):
        if step.max() < np.deg2rad(finest_deg):
            break
        # Turned by an irrational angle each time: no ridge hides between the directions for long.
        tilt = lattice.axis_angle(np.array([1.0, 2.0, 3.0]), 2.399963 * turn)
        moves = lattice.from_rotation_vectors((pattern @ tilt.T)[:, None] * step[:, None])
        trial = best @ moves
        values = score(trial)
        choice = np.argmax(values, axis=0)
        better = values[choice, row] > value + 1e-12
        best[better], value = trial[choice, row][better], np.where(better, values[choice, row], value)
        step = np.where(better, step, step / 2)
    return best, value
