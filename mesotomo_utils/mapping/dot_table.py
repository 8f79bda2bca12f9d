"""Tables of dots: what a user brings in, and what the pipeline passes on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mesotomo_utils.mapping.superlattice import Superlattice

POSITION = ["x_nm", "y_nm", "z_nm"]
SIGMA = ["sigma_x_nm", "sigma_y_nm", "sigma_z_nm"]
QUATERNION = ["qw", "qx", "qy", "qz"]
INDEX = ["i", "j", "k"]
CENTRES = ["qd", *POSITION, *SIGMA, "grain", *INDEX, "layer", "at_edge"]
NECKS = ["qd_1", "qd_2", "axis", "diameter_nm", "sigma_nm", "length_nm"]


def read_centres(frame: pd.DataFrame, *, name: str) -> pd.DataFrame:
    """Bring a table of dots into our columns.

    Parameters
    ----------
    frame
        As read from the CSV; ``x_nm, y_nm, z_nm`` are needed, the other columns of ``qds.csv`` welcome.
    name
        Name of the file, for messages.

    Returns
    -------
    DataFrame with ``qd`` (0 to N - 1, the order of the rows), ``x_nm, y_nm, z_nm``, ``sigma_x_nm``
    … (NaN where unknown) and ``at_edge`` (False where unknown).

    Raises
    ------
    ValueError
        A column is missing or holds no number, a position is not finite, or there is no row.
    """
    absent = [column for column in POSITION if column not in frame]
    if absent:
        raise ValueError(
            f"{name}: column {absent[0]} is missing, found {', '.join(map(str, frame.columns))}; "
            "centres are given as x_nm, y_nm, z_nm"
        )
    if frame.empty:
        raise ValueError(f"{name}: no row; a table of centres has one a dot")
    table = pd.DataFrame({"qd": np.arange(len(frame))})
    for column in [*POSITION, *SIGMA]:
        given = frame[column] if column in frame else pd.Series(np.nan, frame.index)
        numbers = pd.to_numeric(given, errors="coerce").to_numpy(float)
        if column in POSITION and not np.isfinite(numbers).all():
            row = int(np.flatnonzero(~np.isfinite(numbers))[0])
            found = given.iloc[row]
            raise ValueError(f"{name}, line {row + 2}: {column} must be a number, found {found!r}; mend or remove it")
        table[column] = numbers
    edge = frame["at_edge"] if "at_edge" in frame else pd.Series(False, frame.index)
    table["at_edge"] = edge.astype(str).str.lower().isin(["true", "1", "1.0"]).to_numpy()
    return table


def has_index(frame: pd.DataFrame) -> bool:
    """Whether a table brings lattice indices along: ``i, j, k`` for half of its dots at least."""
    return set(INDEX) <= set(frame) and bool(frame[INDEX].notna().all(axis=1).mean() >= 0.5)


def centres_table(dots: pd.DataFrame, lattice: Superlattice) -> pd.DataFrame:
    """Positions, errors and lattice sites in the columns of ``centres.csv``."""
    table = dots.reset_index(drop=True)
    table = table.assign(qd=np.arange(len(table)), **lattice.sites.reset_index(drop=True))
    return table.reindex(columns=CENTRES)


def read_necks(frame: pd.DataFrame, qd, *, name: str) -> pd.DataFrame:
    """Bring a table of necks into our columns, its dots renumbered by their rows.

    Parameters
    ----------
    frame
        As read: ``qd_1, qd_2, axis, diameter_nm``; ``sigma_nm, length_nm`` where known.
    qd
        (N,) names of the dots in the table of dots, by row.
    name
        Name of the file, for messages.

    Raises
    ------
    ValueError
        A column is missing, or a neck joins a dot that the table of dots does not have.
    """
    absent = [column for column in NECKS[:4] if column not in frame]
    if absent:
        raise ValueError(f"{name}: column {absent[0]} is missing; necks are {', '.join(NECKS)}")
    row_of = {int(value): row for row, value in enumerate(qd)}
    table = frame.reindex(columns=NECKS).copy()
    for column in ("qd_1", "qd_2"):
        rows = table[column].map(row_of)
        if rows.isna().any():
            bad = int(np.flatnonzero(rows.isna())[0])
            raise ValueError(f"{name}, line {bad + 2}: {column} {frame[column].iloc[bad]} is no qd of the dots")
        table[column] = rows.astype(int)
    return table.sort_values(["qd_1", "axis"], ignore_index=True)


def read_orientations(frame: pd.DataFrame) -> pd.DataFrame:
    """The orientations of a table of dots in the columns of ``orientations.csv``; NaN where unknown."""
    table = frame.reindex(columns=["qd", *QUATERNION, "sigma_deg", "lattice_snr"]).copy()
    table["qd"] = np.arange(len(frame))
    return table.reset_index(drop=True)


def layer_defect_fractions(centres: pd.DataFrame, defects: pd.DataFrame) -> pd.DataFrame:
    """Point defects of each layer of the largest grain, as a fraction of its sites.

    Returns
    -------
    DataFrame ``layer, n_sites, n_defects, fraction``; an interstitial counts in the layer of the
    nearest heights, a site is a dot or a vacancy.
    """
    inside = centres[centres["grain"] == 0]
    own = defects[defects["grain"] == 0]
    heights = inside.groupby("layer")["z_nm"].mean()
    rows = []
    for layer in range(1, int(inside["layer"].max()) + 1):
        vacancies = own[(own["kind"] == "vacancy") & (own["k"] + 1 == layer)]
        loose = own[own["kind"] == "interstitial"]
        here = sum((heights - z).abs().idxmin() == layer for z in loose["z_nm"])
        sites = int((inside["layer"] == layer).sum()) + len(vacancies)
        count = len(vacancies) + here
        rows.append((layer, sites, count, count / sites if sites else np.nan))
    return pd.DataFrame(rows, columns=["layer", "n_sites", "n_defects", "fraction"])
