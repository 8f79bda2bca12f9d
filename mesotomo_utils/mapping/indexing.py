"""Lattice indices of the dots, grown from neighbour to neighbour, grain by grain.

Only centres are needed. Three basis vectors are read from the difference vectors around a seed dot
(the autocorrelation of the centres near it); then sites are filled outwards, the surest first. Each
prediction uses the dots around the empty site alone, so that the indices follow strain, and
reach across vacancies; every dot must find most of its own neighbours where the lattice expects them,
so that a grain does not grow into the next one, and of two picks of one dot one is left out.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

#: A dot may lie this far from where its neighbours expect it, in spacings.
TOLERANCE = 0.38
#: A neighbour counts as there when it lies this near to where it is expected, in spacings.
NEIGHBOUR_TOLERANCE = 0.33
#: A grain has at least this many dots.
SMALLEST_GRAIN = 8

_STEPS = np.vstack([np.eye(3, dtype=int), -np.eye(3, dtype=int)])


@dataclass(frozen=True)
class Grain:
    """Dots of one grain: (n,) ``rows`` of the table, their (n, 3) ``index``, (3, 3) ``vectors``.

    The columns of ``vectors`` are the three basis vectors, nm, in no particular order or sense.
    """

    rows: np.ndarray
    index: np.ndarray
    vectors: np.ndarray


def spacing_nm(xyz_nm) -> float:
    """Typical distance of nearest neighbours, nm; double picks do not count.

    The distances to the six nearest dots are looked at: the median of the third shortest is a
    spacing also where every dot of a few has been picked twice.
    """
    xyz = np.asarray(xyz_nm, float)
    count = min(7, len(xyz))
    distances, _ = cKDTree(xyz).query(xyz, k=count)
    return float(np.median(distances[:, min(3, count - 1)]))


def grow_grains(xyz_nm, *, smallest: int = SMALLEST_GRAIN) -> list[Grain]:
    """Index all grains of a film.

    Parameters
    ----------
    xyz_nm
        (N, 3) centres, nm.
    smallest
        Fewest dots that make a grain.

    Returns
    -------
    Grains, the largest first. Dots of none are interstitials, double picks or fragments.

    Raises
    ------
    ValueError
        A centre is not finite (its row is named), or there are fewer than ``smallest`` dots.
    """
    xyz = np.asarray(xyz_nm, float)
    bad = np.flatnonzero(~np.isfinite(xyz).all(axis=1))
    if bad.size:
        raise ValueError(f"centres: row {bad[0]} is not finite: {xyz[bad[0]]}")
    if len(xyz) < smallest:
        raise ValueError(f"centres: a lattice needs at least {smallest} dots, found {len(xyz)}")
    spacing = spacing_nm(xyz)
    free = np.ones(len(xyz), bool)
    tried = np.zeros(len(xyz), bool)
    grains: list[Grain] = []
    while (free & ~tried).sum() >= smallest:
        seed, vectors = _best_seed(xyz, free & ~tried, free, spacing)
        if vectors is None:
            break
        grain = _grow(xyz, seed, vectors, free, smallest)
        tried[seed] = True
        if grain is None:
            continue
        free[grain.rows] = False
        # What stands on a site that is taken is a second pick of the same dot.
        near = cKDTree(xyz[grain.rows]).query(xyz[free], distance_upper_bound=0.4 * spacing)[0]
        tried[np.flatnonzero(free)[np.isfinite(near)]] = True
        grains.append(grain)
    return sorted(grains, key=lambda grain: -len(grain.rows))


def local_basis(xyz_nm, at_nm, spacing: float) -> np.ndarray | None:
    """Three shortest independent vectors of the lattice around a point.

    Parameters
    ----------
    xyz_nm
        (N, 3) centres, nm.
    at_nm
        (3,) the point.
    spacing
        Typical distance of neighbours, nm.

    Returns
    -------
    (3, 3) matrix with the vectors as columns, or None where the dots near show no lattice.

    Notes
    -----
    All differences of the dots within 2.3 spacings are gathered up to sign; maxima of their
    density, smoothed by a sixth of a spacing, are candidate vectors. A candidate that joins fewer than
    0.35 times as many pairs as the best is no lattice vector (double picks, other grains).
    """
    near = xyz_nm[np.linalg.norm(xyz_nm - at_nm, axis=1) < 2.3 * spacing]
    if len(near) < 5:
        return None
    first, second = np.nonzero(~np.eye(len(near), dtype=bool))
    vectors = near[second] - near[first]
    length = np.linalg.norm(vectors, axis=1)
    vectors = vectors[(length > 0.6 * spacing) & (length < 1.45 * spacing)]
    if len(vectors) < 6:
        return None
    tree = cKDTree(vectors)
    width = spacing / 6
    for _ in range(4):
        # Mean shift: each vector moves to the middle of those around it.
        groups = cKDTree(vectors).query_ball_tree(tree, 2 * width)
        vectors = np.array([tree.data[g].mean(axis=0) for g in groups])
    votes = np.array([len(g) for g in cKDTree(vectors).query_ball_tree(tree, 2 * width)])
    chosen: list[np.ndarray] = []
    order = np.argsort(-votes, kind="stable")
    for n in order:
        if votes[n] < 0.35 * votes[order[0]]:
            break
        if all(min(np.linalg.norm(vectors[n] - v), np.linalg.norm(vectors[n] + v)) > 2 * width for v in chosen):
            chosen.append(vectors[n])
    chosen.sort(key=np.linalg.norm)
    basis: list[np.ndarray] = []
    for vector in chosen:
        trial = np.array([v / np.linalg.norm(v) for v in [*basis, vector]])
        # Volume of the unit vectors: 1 at right angles, 0 in one plane.
        if np.sqrt(max(np.linalg.det(trial @ trial.T), 0)) > 0.5:
            basis.append(vector)
        if len(basis) == 3:
            return np.column_stack(basis)
    return None


def _best_seed(xyz, may_seed, free, spacing):
    """The free dot with most of its six neighbours in place, and its basis."""
    candidates = np.flatnonzero(may_seed)
    pool = xyz[free]
    tree = cKDTree(pool)
    near = tree.query_ball_point(xyz[candidates], 1.45 * spacing)
    # Dots whose surroundings are their own mirror image stand inside a grain.
    score = np.zeros(len(candidates))
    for n, (row, others) in enumerate(zip(candidates, near, strict=True)):
        vectors = pool[others] - xyz[row]
        vectors = vectors[np.linalg.norm(vectors, axis=1) > 0.5 * spacing]
        if len(vectors):
            gap, _ = cKDTree(vectors).query(-vectors)
            score[n] = np.sum(np.exp(-((gap / (0.15 * spacing)) ** 2)))
    for n in np.argsort(-score, kind="stable")[:30]:
        vectors = local_basis(pool, xyz[candidates[n]], spacing)
        if vectors is not None:
            return candidates[n], vectors
    return candidates[0], None


class _Growth:
    """Sites of one grain while it grows."""

    def __init__(self, seed: int, xyz: np.ndarray, vectors: np.ndarray):
        self.xyz, self.vectors = xyz, vectors
        self.site_of = {(0, 0, 0): seed}
        self.row_site = {seed: (0, 0, 0)}

    def around(self, site) -> tuple[np.ndarray, np.ndarray]:
        """Indices and positions of the filled sites within two steps of a site."""
        found = [(s, self.site_of[s]) for d in _AROUND if (s := tuple(np.add(site, d))) in self.site_of]
        index = np.array([s for s, _ in found], float)
        return index, self.xyz[[row for _, row in found]]

    def expect(self, site) -> np.ndarray:
        """Where the dots around an empty site say that its dot should be."""
        index, position = self.around(site)
        weights = 1 / (np.sum((index - site) ** 2, axis=1) + 0.25)
        weights /= weights.sum()
        middle = weights @ index
        centre = weights @ position
        from_middle = index - middle
        vectors = self.vectors
        if len(index) >= 4:
            # Ridge: what the few dots around cannot tell is taken from the whole grain.
            left = position - centre - from_middle @ vectors.T
            moment = (weights[:, None] * from_middle).T @ from_middle + 0.3 * np.eye(3)
            vectors = vectors + np.linalg.solve(moment, (weights[:, None] * from_middle).T @ left).T
        return centre + vectors @ (site - middle)


_AROUND = np.array([d for d in np.ndindex(5, 5, 5) if 0 < np.sum((np.array(d) - 2) ** 2) <= 4], int) - 2


def _grow(xyz, seed, vectors, free, smallest) -> Grain | None:
    spacing = float(np.mean(np.linalg.norm(vectors, axis=0)))
    rows = np.flatnonzero(free)
    tree = cKDTree(xyz[rows])
    growth = _Growth(seed, xyz, vectors)
    heap: list[tuple[float, tuple[int, ...], int]] = []

    def support(row: int) -> int:
        distance, _ = tree.query(xyz[row] + _STEPS @ growth.vectors.T)
        return int((distance < NEIGHBOUR_TOLERANCE * spacing).sum())

    def offer(site) -> None:
        for step in _STEPS:
            new = tuple(int(v) for v in np.add(site, step))
            if new in growth.site_of:
                continue
            where = growth.expect(new)
            distance, nearest = tree.query(where, k=2, distance_upper_bound=TOLERANCE * spacing)
            for d, n in zip(distance, nearest, strict=True):
                if np.isfinite(d) and int(rows[n]) not in growth.row_site:
                    # Sites with more neighbours that vouch for them come first.
                    vouch = len(growth.around(new)[0])
                    heapq.heappush(heap, (d / spacing - 0.02 * vouch, new, int(rows[n])))
                    break

    refit = 32
    # First the dots that have three neighbours where they should be; then those on corners, which
    # have fewer and must fit better.
    for needed, tolerance in ((3, TOLERANCE), (2, 0.7 * TOLERANCE)):
        for site in list(growth.site_of):
            offer(site)
        while heap:
            _, site, row = heapq.heappop(heap)
            if site in growth.site_of or row in growth.row_site:
                continue
            if np.linalg.norm(xyz[row] - growth.expect(site)) > tolerance * spacing:
                continue
            if support(row) < needed:
                continue
            growth.site_of[site] = row
            growth.row_site[row] = site
            if len(growth.site_of) == refit:
                growth.vectors = fit_vectors(np.array(list(growth.site_of)), xyz[list(growth.site_of.values())])[0]
                refit *= 2
            offer(site)
    return _finish(growth, spacing, smallest)


def _finish(growth: _Growth, spacing: float, smallest: int) -> Grain | None:
    """The grain without the dots that its other dots do not expect where they are."""
    for site, row in list(growth.site_of.items()):
        index, _ = growth.around(site)
        if len(index) == 0 or np.linalg.norm(growth.xyz[row] - growth.expect(site)) > 0.5 * spacing:
            del growth.site_of[site]
    if len(growth.site_of) < smallest:
        return None
    index = np.array(list(growth.site_of))
    rows = np.array(list(growth.site_of.values()))
    if np.linalg.matrix_rank(index - index.mean(axis=0)) < 3:
        return None
    vectors, _ = fit_vectors(index, growth.xyz[rows])
    order = np.argsort(rows)
    return Grain(rows[order], index[order], vectors)


def fit_vectors(index, xyz_nm, *, steps: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Robust least squares of positions on lattice indices.

    Parameters
    ----------
    index
        (N, 3) indices.
    xyz_nm
        (N, 3) positions, nm.
    steps
        Times the weights are renewed (Huber's, at 1.5 times the median length of a residual).

    Returns
    -------
    (3, 3) matrix whose columns are the lattice vectors, and the (3,) position of site (0, 0, 0), nm.

    Raises
    ------
    ValueError
        The sites lie in one plane.
    """
    index, xyz = np.asarray(index, float), np.asarray(xyz_nm, float)
    design = np.column_stack([index, np.ones(len(index))])
    if np.linalg.matrix_rank(design) < 4:
        raise ValueError(f"index: {len(index)} sites in one plane fix no cell; more dots are needed")
    weights = np.ones(len(index))
    for _ in range(steps):
        root = np.sqrt(weights)[:, None]
        solution = np.linalg.lstsq(design * root, xyz * root, rcond=None)[0]
        left = np.linalg.norm(xyz - design @ solution, axis=1)
        scale = 1.5 * np.median(left) + 1e-12
        weights = np.minimum(1, scale / np.maximum(left, 1e-12))
    return solution[:3].T, solution[3]
