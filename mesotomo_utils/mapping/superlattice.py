"""The superlattice: layers and columns of the dots, unit cell, point defects, neighbour pairs.

Axes follow one rule: C is the basis vector nearest to the needle's axis z, from the bottom of the
film upwards; A and B lie in the film, A, B, C are right-handed, A is not shorter than B, and of the two
signs left the one with alpha (between B and C) of at least 90 degrees is taken, or with such a beta where alpha is a
right angle as far as can be told.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from mesotomo_utils.lattice import CELL, angle_deg, axes_by_rule, cell_parameters, film_normal
from mesotomo_utils.mapping.cell_errors import cell_errors
from mesotomo_utils.mapping.centres import on_rim
from mesotomo_utils.mapping.indexing import (
    SMALLEST_GRAIN,
    fit_vectors,
    grow_grains,
    spacing_nm,
)

AXES = ("A", "B", "C")
FILM_BOTTOMS = ("low_z", "high_z")
_XYZ = ["x_nm", "y_nm", "z_nm"]
_IJK = ["i", "j", "k"]


@dataclass(frozen=True)
class Superlattice:
    """Dots on lattice sites.

    Attributes
    ----------
    sites
        DataFrame, a row a dot in the order of the centres: ``grain`` (0 the largest, -1 none),
        ``i, j, k, layer`` (nullable integers, empty where grain is -1). In each grain i, j and k
        begin at 0; k = 0 is its bottom layer and layer = k + 1.
    vectors
        (3, 3) matrix a grain, columns A, B, C in the lab frame, nm.
    origins
        (3,) position of site (0, 0, 0) a grain, nm.
    """

    sites: pd.DataFrame
    vectors: list[np.ndarray]
    origins: list[np.ndarray]

    def rows(self, grain: int) -> np.ndarray:
        """Rows of the dots of a grain."""
        return np.flatnonzero(self.sites["grain"].to_numpy() == grain)

    def index(self, grain: int) -> np.ndarray:
        """(n, 3) integer indices of the dots of a grain."""
        return self.sites.loc[self.rows(grain), _IJK].to_numpy(dtype=int)


def index_superlattice(
    xyz_nm, *, film_bottom: str = "low_z", at_edge=None, smallest: int = SMALLEST_GRAIN
) -> Superlattice:
    """Give every dot its grain and its lattice indices.

    Parameters
    ----------
    xyz_nm
        (N, 3) centres, nm. Nothing else is needed: no cell, no guess of the spacing.
    film_bottom
        ``"low_z"`` or ``"high_z"``: the side of the first layer.
    at_edge
        (N,) bool, dots that are cut: they are indexed, but the middle of what is left of them does
        not move the cell. None where nothing is known.
    smallest
        Fewest dots that make a grain.

    Returns
    -------
    The superlattice.

    Raises
    ------
    ValueError
        ``film_bottom`` is neither of the two; a centre is not finite; no grain was found.
    """
    if film_bottom not in FILM_BOTTOMS:
        raise ValueError(f"film_bottom must be low_z or high_z, found {film_bottom!r}")
    xyz = np.asarray(xyz_nm, float)
    grains = grow_grains(xyz, smallest=smallest)
    if not grains:
        raise ValueError(
            f"no lattice found in {len(xyz)} centres {spacing_nm(xyz):.2f} nm apart; are they "
            "centres of the dots of a superlattice, in nm?"
        )
    grain_of = np.full(len(xyz), -1)
    index = np.zeros((len(xyz), 3), int)
    vectors, origins = [], []
    for number, grain in enumerate(grains):
        change = axes_by_rule(grain.vectors, film_bottom=film_bottom)
        new = grain.index @ np.round(np.linalg.inv(change)).astype(int).T
        rows, new = _without_stray_layers(grain.rows, new)
        new -= new.min(axis=0)
        use = _whole(rows, at_edge, new)
        cell, origin = fit_vectors(new[use], xyz[rows[use]])
        grain_of[rows], index[rows] = number, new
        vectors.append(cell)
        origins.append(origin)
    return Superlattice(_site_table(grain_of, index), vectors, origins)


def _whole(rows: np.ndarray, at_edge, index: np.ndarray) -> np.ndarray:
    """Which dots of a grain are whole; all of them where the whole ones fix no cell."""
    if at_edge is None:
        return np.ones(len(rows), bool)
    use = ~np.asarray(at_edge, bool)[rows]
    spans = use.sum() >= 8 and np.linalg.matrix_rank(index[use] - index[use].mean(axis=0)) == 3
    return use if spans else np.ones(len(rows), bool)


def superlattice_from_sites(xyz_nm, sites: pd.DataFrame, *, at_edge=None) -> Superlattice:
    """Take indices that are known and fit the cells.

    Parameters
    ----------
    xyz_nm
        (N, 3) centres, nm.
    sites
        (N,) rows with ``i, j, k``, from any number on, and ``grain`` where there is more than one, by any numbers;
        negative or empty where a dot belongs to none.
    at_edge
        As of :func:`index_superlattice`.

    Raises
    ------
    ValueError
        An index is no whole number, two dots share a site, or a grain has too few dots, dots in one plane only or
        left-handed indices.
    """
    xyz = np.asarray(xyz_nm, float)
    named = sites["grain"].fillna(-1) if "grain" in sites else pd.Series(0, sites.index)
    known = (sites[_IJK].notna().all(axis=1) & (named >= 0)).to_numpy()
    given = sites[_IJK].fillna(0).to_numpy(dtype=float)
    index = np.rint(given).astype(int)
    if (index != given).any():
        raise ValueError(f"row {int(np.flatnonzero((index != given).any(axis=1))[0])} (from 0): i, j, k must be whole")
    grain_of = np.full(len(xyz), -1)
    vectors, origins = [], []
    sizes = named[known].value_counts().sort_index().sort_values(ascending=False, kind="stable")
    for number, name in enumerate(sizes.index):
        rows = np.flatnonzero(known & (named == name).to_numpy())
        index[rows] -= index[rows].min(axis=0)
        if len(rows) < 4:
            raise ValueError(f"grain {name:g}: {len(rows)} indexed dots fix no cell, four are needed")
        twice = pd.DataFrame(index[rows]).duplicated(keep=False).to_numpy()
        if twice.any():
            raise ValueError(f"grain {name:g}: dots {rows[twice][:4].tolist()} (from 0) share sites; one holds one dot")
        use = _whole(rows, at_edge, index[rows])
        cell, origin = fit_vectors(index[rows[use]], xyz[rows[use]])
        if np.linalg.det(cell) < 0:
            raise ValueError(
                f"grain {name:g}: its indices are left-handed; exchange the columns i and j, or leave i, j, k out to "
                "have them found"
            )
        grain_of[rows] = number
        vectors.append(cell)
        origins.append(origin)
    return Superlattice(_site_table(grain_of, index), vectors, origins)


def _site_table(grain_of: np.ndarray, index: np.ndarray) -> pd.DataFrame:
    table = pd.DataFrame({"grain": grain_of})
    for n, name in enumerate(_IJK):
        table[name] = pd.array(index[:, n], dtype="Int64")
    table["layer"] = table["k"] + 1
    table.loc[grain_of < 0, [*_IJK, "layer"]] = pd.NA
    return table


def _without_stray_layers(rows: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take off outermost layers of a dot or two: debris on the film, not a layer of it."""
    while True:
        layers, counts = np.unique(index[:, 2], return_counts=True)
        few = 0.1 * np.median(counts)
        if len(layers) > 2 and counts[0] <= few:
            keep = index[:, 2] > layers[0]
        elif len(layers) > 2 and counts[-1] <= few:
            keep = index[:, 2] < layers[-1]
        else:
            return rows, index
        rows, index = rows[keep], index[keep]


# --- unit cell -------------------------------------------------------------------------------


def fit_cell(index, xyz_nm) -> dict[str, dict[str, float]]:
    """Unit cell of a grain, with standard errors and spread.

    Parameters
    ----------
    index
        (N, 3) lattice indices.
    xyz_nm
        (N, 3) centres, nm.

    Returns
    -------
    ``a_nm, b_nm, c_nm, alpha_deg, beta_deg, gamma_deg``, each a dict of ``value`` (robust least
    squares over all dots), ``sigma`` (its standard error, from :func:`cell_errors.cell_errors`: the
    displacements of neighbours are correlated) and ``spread`` (the standard deviation of the same
    length or angle from dot to dot, measurement error included).

    Raises
    ------
    ValueError
        The sites lie in one plane.
    """
    index, xyz = np.asarray(index, int), np.asarray(xyz_nm, float)
    vectors = fit_vectors(index, xyz)[0]
    value = cell_parameters(vectors)
    # four dots fix a cell and leave nothing to judge it by
    sigma = cell_errors(index, xyz, vectors) if len(xyz) > 4 else np.full(6, np.nan)
    spread = _local_spread(index, xyz)
    return {
        name: {"value": float(value[name]), "sigma": float(sigma[n]), "spread": spread[name]}
        for n, name in enumerate(CELL)
    }


def _local_spread(index: np.ndarray, xyz: np.ndarray) -> dict[str, float]:
    vectors = neighbour_vectors(index, xyz)
    lengths = np.linalg.norm(vectors, axis=2)
    spread = {}
    for n, name in enumerate(CELL[:3]):
        spread[name] = _sd(lengths[:, n])
    for (first, second), name in zip(((1, 2), (0, 2), (0, 1)), CELL[3:], strict=True):
        spread[name] = _sd(angle_deg(vectors[:, first], vectors[:, second]))
    return spread


def _sd(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(np.std(values, ddof=1)) if values.size > 1 else float("nan")


def neighbour_vectors(index, xyz_nm) -> np.ndarray:
    """(N, 3, 3) vectors from each dot to its +A, +B, +C neighbours, nm; NaN where there is none."""
    index, xyz = np.asarray(index, int), np.asarray(xyz_nm, float)
    row_of = {tuple(site): n for n, site in enumerate(index)}
    vectors = np.full((len(index), 3, 3), np.nan)
    for n, site in enumerate(index):
        for axis in range(3):
            other = row_of.get(tuple(site + np.eye(3, dtype=int)[axis]))
            if other is not None:
                vectors[n, axis] = xyz[other] - xyz[n]
    return vectors


def describe(
    lattice: Superlattice,
    xyz_nm,
    *,
    film_bottom: str,
    at_edge=None,
    dot_diameter_nm: float | None = None,
) -> dict:
    """Everything that ``superlattice.json`` holds.

    Returns
    -------
    ``{"grains": [{"grain", "n_dots", a_nm … gamma_deg as from :func:`fit_cell`, "A", "B", "C", "n"
    (lab vectors, nm; n a unit vector)}], "layers": of the largest grain, "film_bottom", "dot_diameter_nm"}``, the first
    and the last as given; the diameter, nm, may be None.
    """
    xyz = np.asarray(xyz_nm, float)
    grains = []
    for number, vectors in enumerate(lattice.vectors):
        rows, index = lattice.rows(number), lattice.index(number)
        use = _whole(rows, at_edge, index)
        cell = fit_cell(index[use], xyz[rows[use]])
        lab = {name: vectors[:, n].tolist() for n, name in enumerate(AXES)}
        normal = film_normal(vectors).tolist()
        grains.append({"grain": number, "n_dots": len(rows), **cell, **lab, "n": normal})
    layers = int(lattice.index(0)[:, 2].max()) + 1 if lattice.vectors else 0
    return {"grains": grains, "layers": layers, "film_bottom": film_bottom, "dot_diameter_nm": dot_diameter_nm}


# --- pairs and defects -----------------------------------------------------------------------


def neighbour_pairs(lattice: Superlattice) -> pd.DataFrame:
    """Every pair of nearest neighbours on the lattice.

    Returns
    -------
    DataFrame with ``qd_1, qd_2, axis``: rows of the table of centres, ``qd_2`` the + neighbour of
    ``qd_1`` along ``axis`` (A, B or C); ordered by ``qd_1`` and axis.
    """
    pairs = []
    for grain in range(len(lattice.vectors)):
        rows, index = lattice.rows(grain), lattice.index(grain)
        row_of = dict(zip(map(tuple, index), rows, strict=True))
        for site, row in row_of.items():
            for axis, name in enumerate(AXES):
                other = row_of.get(tuple(np.add(site, np.eye(3, dtype=int)[axis])))
                if other is not None:
                    pairs.append((row, other, name))
    table = pd.DataFrame(pairs, columns=["qd_1", "qd_2", "axis"])
    return table.sort_values(["qd_1", "axis"], ignore_index=True)


def point_defects(lattice: Superlattice, xyz_nm) -> pd.DataFrame:
    """Vacancies and interstitials.

    Parameters
    ----------
    lattice
        The indexed dots.
    xyz_nm
        (N, 3) centres of all dots, nm, indexed or not.

    Returns
    -------
    DataFrame with ``kind`` (vacancy, interstitial), ``grain, i, j, k`` (empty for interstitials)
    and ``x_nm, y_nm, z_nm``.

    Notes
    -----
    A vacancy is an empty site with all its neighbour sites filled but one at most (so that two side
    by side are both seen), not at the rim of the needle, where a dot may have been cut away.
    An interstitial is a dot on no site, farther than half a spacing from every dot that has one (a
    nearer one is a second pick of the same dot), and not at the rim either.
    """
    xyz = np.asarray(xyz_nm, float)
    spacing = spacing_nm(xyz)
    # Nearest neighbours stand 1.2 diameters apart, about: the rim wants a diameter.
    diameter = spacing / 1.2
    rows_out = []
    for grain, vectors in enumerate(lattice.vectors):
        rows, index = lattice.rows(grain), lattice.index(grain)
        row_of = dict(zip(map(tuple, index), rows, strict=True))
        highest = index[:, 2].max()
        empty = {
            site
            for filled in row_of
            for step in _SIX
            if (site := tuple(int(v) for v in np.add(filled, step))) not in row_of and 0 <= site[2] <= highest
        }
        for site in sorted(empty):
            around = [tuple(int(v) for v in np.add(site, step)) for step in _SIX]
            around = [s for s in around if 0 <= s[2] <= highest]
            filled = [row_of[s] for s in around if s in row_of]
            if len(filled) < len(around) - 1:
                continue
            offsets = np.array([s for s in around if s in row_of]) - np.array(site)
            where = (xyz[filled] - offsets @ vectors.T).mean(axis=0)
            if not _rim_at(xyz, where, diameter):
                rows_out.append(("vacancy", grain, *site, *where))
    sites = np.flatnonzero(lattice.sites["grain"].to_numpy() >= 0)
    others = np.flatnonzero(lattice.sites["grain"].to_numpy() < 0)
    if len(others):
        distance, nearest = cKDTree(xyz[sites]).query(xyz[others])
        rim = on_rim(xyz, diameter)
        for row, d, n in zip(others, distance, nearest, strict=True):
            if 0.5 * spacing < d < spacing and not rim[row]:
                grain = int(lattice.sites["grain"].iloc[sites[n]])
                rows_out.append(("interstitial", grain, pd.NA, pd.NA, pd.NA, *xyz[row]))
    table = pd.DataFrame(rows_out, columns=["kind", "grain", *_IJK, *_XYZ])
    return table.astype({"grain": int, **dict.fromkeys(_IJK, "Int64")})


_SIX = np.vstack([np.eye(3, dtype=int), -np.eye(3, dtype=int)])


def _rim_at(xyz: np.ndarray, where: np.ndarray, diameter: float) -> bool:
    """Whether a dot at that place would stand on the rim."""
    near = xyz[np.linalg.norm(xyz - where, axis=1) < 2 * diameter]
    return bool(on_rim(np.vstack([where, near]), diameter)[0])
