"""The table of dots as the analysis uses it: joined, indexed, oriented, in the film frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mesotomo_utils import lattice

INDICES = ["i", "j", "k"]
POSITION = ["x_nm", "y_nm", "z_nm"]
SIGMA = ["sigma_x_nm", "sigma_y_nm", "sigma_z_nm"]
QUATERNION = ["qw", "qx", "qy", "qz"]


def require(table: pd.DataFrame, columns: Sequence[str], name: str) -> None:
    """Raise a ValueError that names the table and the columns it lacks."""
    absent = [column for column in columns if column not in table.columns]
    if absent:
        raise ValueError(f"{name}: column {', '.join(absent)} is missing; it has {', '.join(map(str, table.columns))}")


def join(centres: pd.DataFrame, orientations: pd.DataFrame | None = None) -> pd.DataFrame:
    """Dots of the largest grain with their lattice indices, and their orientations if known.

    Parameters
    ----------
    centres
        Table with ``qd, x_nm, y_nm, z_nm, i, j, k`` and, where known, ``sigma_*_nm, grain, layer,
        at_edge``.
    orientations
        Table with ``qd, qw, qx, qy, qz`` and, where known, ``sigma_deg``; None if there is none.

    Returns
    -------
    DataFrame with a row for every indexed dot, sorted by ``qd``; what is not known is NaN;
    ``layer`` = k + 1.

    Raises
    ------
    ValueError
        A column is missing; no dot has indices; two dots share a lattice site (both are named).
    """
    require(centres, ["qd", *POSITION, *INDICES], "centres.csv")
    dots = centres.copy()
    if "grain" not in dots:
        dots["grain"] = np.where(dots[INDICES].notna().all(axis=1), 0, -1)
    indexed = dots[INDICES].notna().all(axis=1) & (dots["grain"] >= 0)
    dots = dots[indexed]
    if dots.empty:
        raise ValueError("centres.csv: no dot has lattice indices i, j, k; run step 02 first")
    dots = dots[dots["grain"] == dots["grain"].value_counts().idxmax()].sort_values("qd")
    dots = dots.astype(dict.fromkeys([*INDICES, "qd", "grain"], int)).reset_index(drop=True)
    twice = dots[dots.duplicated(INDICES, keep=False)]
    if len(twice):
        raise ValueError(
            f"centres.csv: dots {twice['qd'].tolist()[:4]} share lattice sites "
            f"{twice[INDICES].drop_duplicates().values.tolist()[:2]}; a site holds one dot"
        )
    dots["layer"] = dots["k"] + 1
    edge = dots["at_edge"] if "at_edge" in dots else pd.Series(False, index=dots.index)
    dots["at_edge"] = edge.map(lambda flag: str(flag).lower() in ("true", "1", "1.0"))
    if orientations is not None:
        require(orientations, ["qd", *QUATERNION], "orientations.csv")
        keep = ["qd", *QUATERNION, *[c for c in ("sigma_deg", "lattice_snr") if c in orientations]]
        dots = dots.drop(columns=[c for c in keep[1:] if c in dots])
        dots = dots.merge(orientations[keep], on="qd", how="left")
    for column in [*SIGMA, *QUATERNION, "sigma_deg"]:
        if column not in dots:
            dots[column] = np.nan
    return dots


def rotations(dots: pd.DataFrame, cell: np.ndarray) -> np.ndarray:
    """Orientation matrices, each the equivalent nearest to the superlattice directions.

    Parameters
    ----------
    dots
        Table with ``qw, qx, qy, qz``.
    cell
        (3, 3) mean cell, columns A, B, C, lab frame, nm.

    Returns
    -------
    (N, 3, 3) with the lab directions of [100], [010], [001] as columns; NaN where not known.
    """
    quaternions = dots[QUATERNION].to_numpy(float)
    known = np.isfinite(quaternions).all(1)
    matrices = np.full((len(dots), 3, 3), np.nan)
    if known.any():
        given = lattice.from_quaternions(quaternions[known])
        matrices[known] = lattice.nearest_equivalent(given, cell)
    return matrices


def mean_cell(superlattice: dict) -> np.ndarray:
    """(3, 3) cell of the largest grain, columns A, B, C in the lab frame, nm.

    Parameters
    ----------
    superlattice
        Content of ``superlattice.json``.

    Raises
    ------
    ValueError
        There is no grain.
    """
    grains = superlattice.get("grains", [])
    if not grains:
        raise ValueError("superlattice.json: it has no grain; step 02 could not index the dots")
    largest = max(grains, key=lambda grain: grain["n_dots"])
    return np.column_stack([np.array(largest[name], float) for name in "ABC"])


def positions(dots: pd.DataFrame) -> np.ndarray:
    """(N, 3) positions in the lab frame, nm."""
    return dots[POSITION].to_numpy(float)


def sigma_along(dots: pd.DataFrame, direction: np.ndarray) -> np.ndarray:
    """(N,) error of the positions along a lab direction, nm; NaN where not known."""
    unit = np.asarray(direction, float) / np.linalg.norm(direction)
    return np.sqrt((dots[SIGMA].to_numpy(float) ** 2) @ unit**2)


def neighbour_pairs(dots: pd.DataFrame) -> pd.DataFrame:
    """Every pair of dots that are neighbours on the superlattice.

    Parameters
    ----------
    dots
        Table from `join`, one grain.

    Returns
    -------
    DataFrame with ``row_1, row_2`` (rows of ``dots``), ``qd_1, qd_2, axis`` (A, B or C),
    ``layer`` (of the first dot); ``qd_2`` is the + neighbour of ``qd_1``.
    """
    require(dots, ["qd", *INDICES], "dots")
    sites = dots[INDICES].to_numpy(int)
    sites = sites - sites.min(0) + 1
    size = sites.max(0) + 2
    key = np.ravel_multi_index(sites.T, size)
    order = np.argsort(key)
    found = []
    for number, axis in enumerate("ABC"):
        step = np.eye(3, dtype=int)[number]
        wanted = np.ravel_multi_index((sites + step).T, size)
        place = np.minimum(np.searchsorted(key[order], wanted), len(order) - 1)
        hit = key[order][place] == wanted
        first, second = np.flatnonzero(hit), order[place[hit]]
        found.append(pd.DataFrame({"row_1": first, "row_2": second, "axis": axis}))
    pairs = pd.concat(found, ignore_index=True)
    qd, layer = dots["qd"].to_numpy(), sites[:, 2] + dots["k"].min()
    pairs.insert(2, "qd_1", qd[pairs["row_1"]])
    pairs.insert(3, "qd_2", qd[pairs["row_2"]])
    pairs["layer"] = layer[pairs["row_1"]]
    return pairs


def beside_vacancy(dots: pd.DataFrame, defects: pd.DataFrame) -> np.ndarray:
    """Mark the dots that have a vacancy as one of their six neighbours.

    Parameters
    ----------
    dots
        Table from `join`.
    defects
        Table with ``kind, grain, i, j, k``.

    Returns
    -------
    (N,) bool.
    """
    require(defects, ["kind", *INDICES], "defects.csv")
    empty = defects[(defects["kind"] == "vacancy") & defects[INDICES].notna().all(axis=1)]
    if "grain" in empty and len(dots):
        empty = empty[empty["grain"] == dots["grain"].iloc[0]]
    steps = np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
    sites = (empty[INDICES].to_numpy(int)[:, None] + steps).reshape(-1, 3)
    near = pd.MultiIndex.from_arrays(sites.T) if len(sites) else pd.MultiIndex.from_arrays([[]] * 3)
    return pd.MultiIndex.from_frame(dots[INDICES]).isin(near)


def neighbour_count(dots: pd.DataFrame, pairs: pd.DataFrame) -> np.ndarray:
    """(N,) number of superlattice neighbours that each dot has, 0 to 6."""
    rows = np.concatenate([pairs["row_1"], pairs["row_2"]])
    return np.bincount(rows, minlength=len(dots))
