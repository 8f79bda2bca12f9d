"""What the paper says beside what was measured, as tables of texts for notebook 08 and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

VERDICTS = {
    "supports": "✓ supports",
    "contradicts": "✗ contradicts",
    "cannot_tell": "– cannot tell",
    "higher": "↑ higher",
    "lower": "↓ lower",
}


def number(value: Any, sigma: float | None = None) -> str:
    """A value as text, with its standard error to two digits and the value to the same place.

    Examples
    --------
    >>> number(2.4967, 0.031)
    '2.497 ± 0.031'
    """
    if value is None:
        return "—"
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return "[" + ", ".join(number(item) for item in value) + "]"
    if sigma and math.isfinite(sigma):
        places = max(0, 1 - math.floor(math.log10(sigma)))
        return f"{value:.{places}f} ± {sigma:.{places}f}"
    return f"{value:.4g}" if abs(value) < 1e4 or value % 1 else f"{value:.0f}"


def interval_text(row: Mapping[str, Any]) -> str:
    """The 95 % interval of a result, empty where it has none."""
    ends = row.get("interval_95")
    return f"{number(ends[0])} … {number(ends[1])}" if ends else ""


def label(row: Mapping[str, Any]) -> str:
    """Name of a result, with its index."""
    return row["name"] if row["index"] is None else f"{row['name']} [{row['index']}]"


def claims_table(claims: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """What the paper says in words, with the verdict and the numbers it rests on.

    Parameters
    ----------
    claims
        From ``claims.claim_rows``.

    Returns
    -------
    DataFrame ``the paper says, place, verdict, rests on``; each number on a line of its own, with its interval, what
    the claim asks of it and what it says to that, or why it says nothing.
    """
    table = [
        {
            "the paper says": claim["says"],
            "place": claim["place"],
            "verdict": VERDICTS[claim["verdict"]],
            "rests on": "\n".join(_evidence(row) for row in claim["rests_on"]),
        }
        for claim in claims
    ]
    return pd.DataFrame(table, columns=["the paper says", "place", "verdict", "rests on"])


def _evidence(row: Mapping[str, Any]) -> str:
    """One result that a claim rests on, as a line."""
    text = label(row)
    if row["value"] is not None:
        unit = f" {row['unit']}" if row["unit"] else ""
        ends = f" ({interval_text(row)})" if row["interval_95"] else ""
        text += f" = {number(row['value'], row['sigma'])}{unit}{ends}"
    if row["asked"] is None:
        return text
    why = f", {row['reason']}" if row["reason"] else ""
    return f"{text}; asked: {row['asked']}; {VERDICTS[row['verdict']]}{why}"


def stated_table(stated: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """What the paper states in numbers, each with its place, the result and the verdict.

    Parameters
    ----------
    stated
        From ``verdicts.stated_rows``.
    """
    table = [
        {
            "result": label(row),
            "paper": number(row["paper"]) + (f" ± {row['about']:g}" if row["about"] else ""),
            "place": row["place"],
            "measured": number(row["value"], row["sigma"]),
            "95 % interval": interval_text(row),
            "unit": row["unit"],
            "verdict": VERDICTS[row["verdict"]],
            "why open": row["reason"] or "",
        }
        for row in stated
    ]
    return pd.DataFrame(table)


def earlier_table(earlier: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The sample beside the earlier one of the paper.

    Parameters
    ----------
    earlier
        From ``claims.earlier_rows``.
    """
    table = [
        {
            "result": row["name"],
            "earlier sample": number(row["earlier"]),
            "place": row["place"],
            "measured": number(row["value"], row["sigma"]),
            "95 % interval": interval_text(row),
            "unit": row["unit"],
            "this sample is": VERDICTS[row["verdict"]],
            "why open": row["reason"] or "",
        }
        for row in earlier
    ]
    return pd.DataFrame(table)
