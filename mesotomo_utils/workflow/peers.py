"""Stored figures of other programs on the same data, as the benchmarks recorded them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from mesotomo_utils.workflow.sample import repository_root

ALIGNMENT = Path("benchmarks/alignment_etspy.json")


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """Ours beside the best of another program's routes, chosen anew for each measure.

    Parameters
    ----------
    table
        ``series, program, route, measure, value, parts``, one row of the program ``"mesotomo"`` for each series and
        measure; ``parts`` has the measure of each part of the data, where there are any.

    Returns
    -------
    DataFrame
        ``series, measure, mesotomo, other, route, as_good, apart_by``: the other program's best value, the route it
        comes from, whether ours is at least as good, and by how many standard errors of the difference it is better
        (negative: worse; NaN without parts). An area (``*_area``) is better large, all else is better small.

    Notes
    -----
    The standard error is that of the mean of the parts' differences: what both programs find hard does not count.
    """
    rows = []
    for (series, measure), group in table.groupby(["series", "measure"], sort=False):
        (ours,) = group[group["program"] == "mesotomo"].to_dict("records")
        others = group[group["program"] != "mesotomo"]
        large = measure.endswith("_area")
        best = others.loc[others["value"].idxmax() if large else others["value"].idxmin()]
        better = (ours["value"] - best["value"]) * (1 if large else -1)
        apart = np.subtract(ours["parts"], best["parts"])
        error = apart.std(ddof=1) / np.sqrt(len(apart)) if len(apart) > 1 else np.nan
        rows.append((series, measure, ours["value"], best["value"], best["route"], bool(better >= 0), better / error))
    columns = ["series", "measure", "mesotomo", "other", "route", "as_good", "apart_by"]
    return pd.DataFrame(rows, columns=columns).round({"apart_by": 1})


def alignment_beside_etspy(path: str | Path | None = None) -> tuple[pd.DataFrame, str]:
    """Our alignment beside ETSpy's on the needle and on phantoms, from the stored table.

    Parameters
    ----------
    path
        What ``benchmarks/alignment_etspy.py --record`` wrote; the repository's if left out.

    Returns
    -------
    DataFrame
        As :func:`side_by_side`.
    str
        When it was measured and with which versions.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    """
    path = repository_root() / ALIGNMENT if path is None else Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; `python benchmarks/alignment_etspy.py --record` makes it")
    stored = json.loads(path.read_text(encoding="utf-8"))
    versions = ", ".join(f"{package} {version}" for package, version in stored["versions"].items())
    return side_by_side(pd.DataFrame(stored["table"])), f"measured {stored['date']} with {versions}"
