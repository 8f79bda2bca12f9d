"""What the paper says in words, and of an earlier sample, judged by the results that it rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mesotomo_utils.analysis import statistics
from mesotomo_utils.analysis.verdicts import (
    CANNOT_TELL,
    CONTRADICTS,
    SUPPORTS,
    Key,
    known_interval,
    stated,
    verdict,
    why_open,
)

_TAKEN = ("value", "unit", "sigma", "interval_95")


def claim_rows(
    rows: Sequence[Mapping[str, Any]],
    claims: Sequence[Mapping[str, Any]],
    paper: Mapping[Key, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Judge each claim by its tests.

    Parameters
    ----------
    rows
        Rows of ``results.json``.
    claims
        Of ``data/paper_values.yaml``, each ``says, place, tests`` and optionally ``rests_on``, names of results to
        look at: that of the whole sample or, where there is none, those of the layers.
    paper
        From :func:`verdicts.statements`, for tests that say nothing of their own.

    Returns
    -------
    A row per claim: ``says, place``; ``verdict``: supports where all tests do, contradicts where one does, else
    cannot_tell; ``reason`` why it cannot tell, or None; ``rests_on``, the results behind it, each with ``name, index,
    value, unit, sigma, interval_95, asked`` (what the claim asks of it), ``verdict, reason``; the last three None
    where it is only to look at.

    Raises
    ------
    KeyError
        A test asks nothing, and the paper states nothing of its result.
    """
    found: dict[Key, Mapping[str, Any]] = {(row["name"], row["index"]): row for row in rows}
    judged = []
    for claim in claims:
        tests = [_judge(test, found, paper) for test in claim["tests"]]
        also = [
            _beside(row) | {"asked": None, "verdict": None, "reason": None}
            for name in claim.get("rests_on", ())
            for row in rows
            if row["name"] == name and (row["index"] is None or (name, None) not in found)
        ]
        said = together([test["verdict"] for test in tests])
        open_tests = [test for test in tests if test["verdict"] == CANNOT_TELL]
        reason = "; ".join(f"{_label(test)}: {test['reason']}" for test in open_tests) if said == CANNOT_TELL else None
        judged.append(
            {"says": claim["says"], "place": claim["place"], "verdict": said, "reason": reason}
            | {"rests_on": tests + also}
        )
    return judged


def together(verdicts: Sequence[str]) -> str:
    """Verdict of several tests: supports where all do, contradicts where one does, else cannot_tell.

    Examples
    --------
    >>> together(["supports", "cannot_tell"]), together(["cannot_tell", "contradicts"])
    ('cannot_tell', 'contradicts')
    """
    if CONTRADICTS in verdicts:
        return CONTRADICTS
    return SUPPORTS if verdicts and set(verdicts) == {SUPPORTS} else CANNOT_TELL


def earlier_rows(rows: Sequence[Mapping[str, Any]], earlier: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Is this sample different from an earlier one?

    Parameters
    ----------
    rows
        Rows of ``results.json``.
    earlier
        Values of the earlier sample, given without an error: ``name, value, unit, place``.

    Returns
    -------
    A row per value: ``name, value, sigma, interval_95, unit, earlier, place``; ``verdict``: higher or lower where the
    95 % interval excludes the earlier value, else cannot_tell; ``reason`` why it cannot tell, or None.
    """
    found = {(row["name"], row["index"]): row for row in rows}
    table = []
    for statement in earlier:
        row = found.get((statement["name"], statement.get("index")), {})
        interval = known_interval(row, statement)
        said, reason = CANNOT_TELL, why_open(row)
        if interval is not None and not interval[0] <= statement["value"] <= interval[1]:
            said, reason = "higher" if interval[0] > statement["value"] else "lower", None
        elif interval is not None:
            reason = "the interval holds the earlier value"
        table.append(
            {"name": statement["name"], "unit": statement["unit"]}
            | {key: row.get(key) for key in ("value", "sigma", "interval_95")}
            | {"earlier": statement["value"], "place": statement["place"], "verdict": said, "reason": reason}
        )
    return table


def _judge(test: Mapping[str, Any], found: Mapping[Key, Mapping[str, Any]], paper: Mapping[Key, Mapping]) -> dict:
    """One test of a claim as a row of ``rests_on``."""
    key = (test["name"], test.get("index"))
    row = found.get(key, {})
    new = _beside(row or {"name": key[0], "index": key[1], "unit": test.get("unit", "")})
    if "within" in test:
        margin, ends = (found.get((test[name], None), {}).get("value") for name in ("within", "ends_90"))
        ends = None if ends is None or None in ends else ends
        said = statistics.same_or_different(row.get("interval_95"), ends, margin)
        said = {"same": SUPPORTS, "different": CONTRADICTS}.get(said, CANNOT_TELL)
        size = test["within"] if margin is None else f"{margin:.3g}"
        reason = why_open(row) if not row.get("interval_95") else "neither the same nor different"
        return new | {"asked": f"within ± {size}", "verdict": said, "reason": reason if said == CANNOT_TELL else None}
    statement = paper[key]
    said = verdict(known_interval(row, statement), statement)
    return new | {
        "asked": _asked(statement),
        "verdict": said,
        "reason": why_open(row) if said == CANNOT_TELL else None,
    }


def _asked(statement: Mapping[str, Any]) -> str:
    """What a statement asks of a result, in words for a table."""
    said = stated(statement)
    if isinstance(said, str):
        return said
    if "range" in statement:
        return f"{said[0]:g} … {said[1]:g}"
    about = f" ± {statement['approximate']:g}" if statement.get("approximate") else ""
    return f"{said:g}{about}"


def _beside(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": row["name"], "index": row["index"]} | {key: row.get(key) for key in _TAKEN}


def _label(row: Mapping[str, Any]) -> str:
    return row["name"] if row["index"] is None else f"{row['name']} [{row['index']}]"
