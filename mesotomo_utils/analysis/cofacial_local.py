"""Each dot's own co-facial optimum, at its measured place: R̂_i.

The facets are those of :mod:`mesotomo_utils.analysis.cofacial`; here dots stand where they were
measured and are turned as they are, so that two facing squares are neither parallel nor aligned and
their overlap is that of two polygons.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.analysis import cofacial

_POLYGONS = 20_000
"""Pairs of squares that are cut at once: few enough for the cache of a processor."""
_VISIT = 4
"""Steps a dot takes before its neighbours have their turn. More are lost when these move: 60 take twice the time."""


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
    R = np.asarray(R, float)
    ends = _Ends.of_pairs(centres_nm, pairs, seen=np.isfinite(R).all(axis=(1, 2)))
    rows = np.flatnonzero(ends.count)
    neighbours = np.zeros_like(R)
    np.add.at(neighbours, ends.dot, R[ends.other])
    starts = np.stack([np.broadcast_to(np.asarray(start, float), (len(rows), 3, 3)), _project(neighbours[rows])])
    best, value = np.full(R.shape, np.nan), np.full(len(R), np.nan)
    best[rows], value[rows] = _climb(
        starts, lambda trial, some: ends.overlap(trial, rows[some], R, facet_nm), first_deg=4.0, finest_deg=finest_deg
    )
    return best, pd.DataFrame({"qd": np.arange(len(R)), "n_neighbours": ends.count, "overlap_fraction": value})


def joint_optimum(
    centres_nm: np.ndarray,
    sites: np.ndarray,
    pairs: pd.DataFrame,
    *,
    facet_nm: float,
    start: np.ndarray,
    finest_deg: float = 0.1,
    gain: float = 1e-4,
) -> tuple[np.ndarray, pd.DataFrame]:
    """R̂ of all dots together: turned until no dot can overlap more with its neighbours.

    It knows the centres alone, no measured orientation. Neighbours differ by one in i + j + k: dots where that is even
    are turned with the others held, then the others, and so on, so that the overlap of all never falls.

    Parameters
    ----------
    centres_nm
        (N, 3) measured centres, nm; they stay.
    sites
        (N, 3) indices i, j, k.
    pairs, facet_nm, finest_deg
        As for :func:`local_optimum`.
    start
        (3, 3) where every dot begins, R_mono: the optimum where nothing is displaced.
    gain
        The search ends when a round adds less than this to the mean overlap.

    Returns
    -------
    As :func:`local_optimum`; NaN for a dot without a neighbour.

    Raises
    ------
    ValueError
        As for :func:`pair_overlap`.
    """
    ends = _Ends.of_pairs(centres_nm, pairs, seen=np.ones(len(centres_nm), bool))
    R = np.tile(np.asarray(start, float), (len(ends.count), 1, 1))
    value = np.full(len(R), np.nan)
    even = np.asarray(sites, int).sum(axis=1) % 2 == 0
    halves = [np.flatnonzero(ends.count.astype(bool) & mine) for mine in (even, ~even)]
    before = -1.0
    for turn in range(30):
        for rows in halves:
            R[rows], value[rows] = _climb(
                R[None, rows],
                lambda trial, some, rows=rows: ends.overlap(trial, rows[some], R, facet_nm),
                first_deg=max(4.0 / 2**turn, 2 * finest_deg),
                finest_deg=finest_deg,
                most=_VISIT,
            )
        now = np.nanmean(value) if ends.count.any() else before
        if now - before < gain:
            break
        before = now
    every = np.flatnonzero(ends.count)
    value[every] = ends.overlap(R[None, every], every, R, facet_nm)[0]
    R[ends.count == 0] = np.nan
    return R, pd.DataFrame({"qd": np.arange(len(R)), "n_neighbours": ends.count, "overlap_fraction": value})


@dataclass(frozen=True)
class _Ends:
    """Both ends of every pair, seen from the dot that turns, ordered by it; ``toward`` is +1 for the + neighbour."""

    centres: np.ndarray
    dot: np.ndarray
    other: np.ndarray
    axis: np.ndarray
    toward: np.ndarray
    count: np.ndarray  # ends of each dot

    @classmethod
    def of_pairs(cls, centres_nm: np.ndarray, pairs: pd.DataFrame, *, seen: np.ndarray) -> Self:
        """The ends whose other dot is ``seen`` (N,)."""
        centres = np.asarray(centres_nm, float)
        first, second, axis = _pair_columns(pairs, len(centres))
        dot, other = np.concatenate([first, second]), np.concatenate([second, first])
        toward = np.repeat([1.0, -1.0], len(first))
        order = np.argsort(dot, kind="stable")
        order = order[seen[other[order]]]
        count = np.bincount(dot[order], minlength=len(centres))
        return cls(centres, dot[order], other[order], np.concatenate([axis, axis])[order], toward[order], count)

    def overlap(self, trial: np.ndarray, rows: np.ndarray, R: np.ndarray, facet_nm: float) -> np.ndarray:
        """Mean overlap (T, M) of some dots with their neighbours, held at R, in trial orientations (T, M, 3, 3)."""
        size = self.count[rows]
        mine = np.repeat(np.arange(len(rows)), size)
        begin = np.cumsum(self.count) - self.count
        end = np.arange(len(mine)) + np.repeat(begin[rows] - (np.cumsum(size) - size), size)
        toward, other = self.toward[end], self.other[end]
        between = toward[:, None] * (self.centres[other] - self.centres[self.dot[end]])
        held, forward = R[other], (toward > 0)[:, None, None]
        total = []
        together = max(1, _POLYGONS // max(1, len(mine)))
        for some in np.array_split(trial, range(together, len(trial), together)):
            turned = some[:, mine]
            low, high = np.where(forward, turned, held), np.where(forward, held, turned)
            every = [np.concatenate([part] * len(some)) for part in (between, self.axis[end])]
            area = _overlap(low.reshape(-1, 3, 3), high.reshape(-1, 3, 3), *every, facet_nm)
            total += [np.bincount(mine, row, minlength=len(rows)) for row in area.reshape(len(some), -1)]
        return np.stack(total) / np.maximum(size, 1)


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
    starts: np.ndarray,
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
    *,
    first_deg: float,
    finest_deg: float,
    most: int = 60,
) -> tuple[np.ndarray, np.ndarray]:
    """Pattern search of many independent orientations at once, each until its own step is fine enough.

    ``score`` maps (T, M, 3, 3) and the M rows that they are meant for to (T, M).
    """
    row = np.arange(starts.shape[1])
    values = score(starts, row)
    choice = np.argmax(values, axis=0)
    best, value = starts[choice, row].copy(), values[choice, row]
    step = np.full(len(row), np.deg2rad(first_deg))
    pattern = cofacial.sphere(26)
    for turn in range(most):
        row = np.flatnonzero(step >= np.deg2rad(finest_deg))
        if not row.size:
            break
        # Turned by an irrational angle each time: no ridge hides between the directions for long.
        tilt = lattice.axis_angle(np.array([1.0, 2.0, 3.0]), 2.399963 * turn)
        moves = lattice.from_rotation_vectors((pattern @ tilt.T)[:, None] * step[row, None])
        trial = best[row] @ moves
        values = score(trial, row)
        choice = np.argmax(values, axis=0)
        found = values[choice, np.arange(len(row))]
        better = found > value[row] + 1e-12
        best[row[better]], value[row[better]] = trial[choice, np.arange(len(row))][better], found[better]
        step[row[~better]] /= 2
    return best, value
