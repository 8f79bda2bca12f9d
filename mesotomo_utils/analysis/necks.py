"""Necks along the layers and the three directions: connectivity, diameters, slopes."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mesotomo_utils.analysis import moments, statistics
from mesotomo_utils.analysis.dots import require
from mesotomo_utils.analysis.statistics import Estimate

COLUMNS = ["qd_1", "qd_2", "axis", "diameter_nm", "sigma_nm", "length_nm"]
ENDS = ("", "_sigma", "_low", "_high")


def none() -> pd.DataFrame:
    """Return a table of necks without rows, for samples whose necks were not measured."""
    return pd.DataFrame({name: pd.Series(dtype=float) for name in COLUMNS})


def place(necks: pd.DataFrame, dots: pd.DataFrame) -> pd.DataFrame:
    """Give every pair the layer and the row of its first dot.

    Parameters
    ----------
    necks
        Table ``qd_1, qd_2, axis, diameter_nm`` and, where known, ``sigma_nm, length_nm``.
    dots
        Table from `dots.join`.

    Returns
    -------
    DataFrame of the pairs whose two dots are in ``dots`` and that are :func:`told`, with ``row, layer, height`` (number
    of the layer, with a half for C pairs, which lie between two), ``joined`` and ``at_edge`` (of either dot).

    Raises
    ------
    ValueError
        A column is missing; an axis is not A, B or C (its row is named).
    """
    require(necks, ["qd_1", "qd_2", "axis", "diameter_nm"], "necks.csv")
    odd = ~necks["axis"].isin(list("ABC"))
    if odd.any():
        row = int(np.flatnonzero(odd)[0])
        raise ValueError(f"necks.csv: row {row} has axis {necks['axis'].iloc[row]!r}; expected A, B or C")
    row_of, necks = pd.Series(np.arange(len(dots)), index=dots["qd"]), necks.reset_index(drop=True)
    first, second = necks["qd_1"].map(row_of), necks["qd_2"].map(row_of)
    both = (first.notna() & second.notna()).to_numpy(bool)
    pairs = told(necks[both])
    rows = np.column_stack([first[pairs.index], second[pairs.index]]).astype(int)
    pairs = pairs.reset_index(drop=True)
    layer, edge = dots["layer"].to_numpy(), dots["at_edge"].to_numpy(bool)
    pairs["row"] = rows[:, 0]
    pairs["layer"] = layer[rows].min(1)
    pairs["height"] = layer[rows].mean(1)
    pairs["joined"] = pairs["diameter_nm"] > 0
    pairs["at_edge"] = edge[rows].any(1)
    if "sigma_nm" not in pairs:
        pairs["sigma_nm"] = np.nan
    return pairs


def told(pairs: pd.DataFrame) -> pd.DataFrame:
    """Pairs without those of unknown diameter (NaN); but along an axis where none is known all are kept."""
    known = pairs["diameter_nm"].notna()
    return pairs[known | ~known.groupby(pairs["axis"]).transform("any")]


def untold(pairs: pd.DataFrame) -> str | None:
    """Why pairs say nothing of all their directions together: along some the diameters are not told (NaN)."""
    lost = ", ".join(sorted(pairs["axis"][pairs["diameter_nm"].isna()].unique()))
    return f"necks along {lost} are not told" if lost else None


def connectivity(pairs: pd.DataFrame, blocks: np.ndarray, *, n_resamples: int = 500, rng) -> Estimate:
    """Share of the neighbour pairs that a neck joins.

    Parameters
    ----------
    pairs
        From `place`, all or a selection.
    blocks
        (N, 2) `statistics.places` of the dots, or (N,) labels; a pair goes with its first dot.

    Returns
    -------
    Estimate; NaN with the reason where the necks along some direction are not told.
    """
    if pairs.empty:
        return statistics.missing("no neighbour pairs", 0)
    if lost := untold(pairs):
        return statistics.missing(lost, 0)
    joined, own = pairs["joined"].to_numpy(float), blocks[pairs["row"]]
    replicates = statistics.bootstrap(lambda rows: joined[rows].mean(), own, n_resamples=n_resamples, rng=rng)
    found = statistics.interval(
        joined.mean(), replicates, n_blocks=statistics.n_blocks(own), n=len(pairs), bounds=(0.0, 1.0)
    )
    return statistics.at_least_binomial(found)


def diameters(pairs: pd.DataFrame, blocks: np.ndarray, *, n_resamples: int = 500, rng) -> dict[str, Estimate]:
    """Mean and standard deviation of the diameters of the necks that exist.

    Returns
    -------
    dict with ``mean``, ``sd_raw`` and ``sd`` (without the errors of measurement), nm; NaN with the reason where there
    are fewer than two, or those along some direction are not told.
    """
    joined, lost = pairs[pairs["joined"]], untold(pairs)
    if len(joined) < 2 or lost:
        gone = statistics.missing(lost or "fewer than two necks", len(joined))
        return {"mean": gone, "sd_raw": gone, "sd": gone}
    value, own = joined["diameter_nm"].to_numpy(float), blocks[joined["row"]]
    replicates = statistics.bootstrap(
        lambda rows: np.array([value[rows].mean(), value[rows].std(ddof=1)]),
        own, n_resamples=n_resamples, rng=rng,
    )  # fmt: skip
    n_blocks = statistics.n_blocks(own)
    mean = statistics.interval(value.mean(), replicates[:, 0], n_blocks=n_blocks, n=len(value))
    raw = statistics.interval(value.std(ddof=1), replicates[:, 1], n_blocks=n_blocks, n=len(value), log=True)
    noise = np.sqrt(moments.noise_variance(joined["sigma_nm"]))
    return {"mean": mean, "sd_raw": raw, "sd": statistics.remove_noise(raw, noise)}


def by_layer_and_axis(pairs: pd.DataFrame, blocks: np.ndarray, *, n_resamples: int = 200, rng) -> pd.DataFrame:
    """Connectivity and diameters for every layer and direction, and for every layer as a whole.

    Returns
    -------
    DataFrame ``layer, axis`` (A, B, C or all), ``n_pairs, n_necks, connectivity, diameter_mean_nm,
    diameter_sd_nm`` (raw), the first and the second of these with ``_sigma, _low, _high``.
    C pairs join a layer to the one above and are listed with the lower of the two.
    """
    names = [f"{n}{end}" for n in ("connectivity", "diameter_mean_nm") for end in ENDS]
    names = ["layer", "axis", "n_pairs", "n_necks", *names, "diameter_sd_nm"]
    records = []
    for number in np.unique(pairs["layer"]):
        for axis in ("A", "B", "C", "all"):
            chosen = pairs[pairs["layer"] == number]
            if axis != "all":
                chosen = chosen[chosen["axis"] == axis]
            share = connectivity(chosen, blocks, n_resamples=n_resamples, rng=rng)
            width = diameters(chosen, blocks, n_resamples=n_resamples, rng=rng)
            record = {"layer": int(number), "axis": axis, "n_pairs": len(chosen)}
            record["n_necks"] = int(chosen["joined"].sum())
            for name, found in (("connectivity", share), ("diameter_mean_nm", width["mean"])):
                record |= {key: value[0] for key, value in statistics.columns(name, [found]).items()}
            record["diameter_sd_nm"] = width["sd_raw"].value
            records.append(record)
    return pd.DataFrame(records, columns=names)


def slope(pairs: pd.DataFrame, first: int, last: int, blocks: np.ndarray, *, n_resamples: int = 500, rng) -> Estimate:
    """Change of the neck diameter from layer to layer, nm per layer.

    Parameters
    ----------
    first, last
        Layers between which a straight line is fitted to all necks, each direction about its own
        mean, because the directions differ; C pairs count at the height between their layers. Directions that are
        not told are left out.

    Returns
    -------
    Estimate; NaN with the reason where the sample has not these layers.
    """
    chosen = pairs[pairs["joined"] & pairs["height"].between(first, last)]
    if pairs.empty or pairs["height"].max() < last - 0.5 or chosen["height"].nunique() < 3:
        return statistics.missing(f"the sample has no necks from C{first} to C{last}", len(chosen))
    axis = np.unique(chosen["axis"], return_inverse=True)[1]
    height, value = chosen["height"].to_numpy(), chosen["diameter_nm"].to_numpy(float)
    own = blocks[chosen["row"]]

    def fitted(rows: np.ndarray) -> float:
        kind, x, y = axis[rows], height[rows], value[rows]
        count = np.maximum(np.bincount(kind, minlength=3), 1)
        x = x - (np.bincount(kind, x, 3) / count)[kind]
        y = y - (np.bincount(kind, y, 3) / count)[kind]
        return float(x @ y / (x @ x)) if x @ x > 0 else np.nan

    replicates = statistics.bootstrap(fitted, own, n_resamples=n_resamples, rng=rng)
    n_blocks = statistics.n_blocks(own)
    return statistics.interval(fitted(np.arange(len(value))), replicates, n_blocks=n_blocks, n=len(value))
