"""Stored figures of other programs on the same data, as the benchmarks recorded them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from mesotomo_utils.workflow.sample import repository_root

ALIGNMENT = Path("benchmarks/alignment_etspy.json")


def side_by_side(table: pd.DataFrame) -> pd.DataFrame:
    """Ours beside the best of another program's routes, chosen anew for each measure.

    Parameters
    ----------
    table
        ``series, program, route, measure, value``, one row of the program ``"mesotomo"`` for each series and measure.

    Returns
    -------
    DataFrame
        ``series, measure, mesotomo, other, route, as_good``: the other program's best value, the route it comes from,
        and whether ours is at least as good. An area (``*_area``) is better large, all else is better small.
    """
    rows = []
    for (series, measure), group in table.groupby(["series", "measure"], sort=False):
        ours = group.loc[group["program"] == "mesotomo", "value"].item()
        others = group[group["program"] != "mesotomo"]
        large = measure.endswith("_area")
        best = others.loc[others["value"].idxmax() if large else others["value"].idxmin()]
        as_good = ours >= best["value"] if large else ours <= best["value"]
        rows.append((series, measure, ours, best["value"], best["route"], bool(as_good)))
    return pd.DataFrame(rows, columns=["series", "measure", "mesotomo", "other", "route", "as_good"])


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
