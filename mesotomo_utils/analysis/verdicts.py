"""Does an interval support a stated value, contradict it, or leave it open?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Key = tuple[str, str | None]
SUPPORTS, CONTRADICTS, CANNOT_TELL = "supports", "contradicts", "cannot_tell"
STATEMENTS = ("value", "range", "less_than", "greater_than", "other_than")


def verdict(interval_95: Sequence[Any] | None, statement: Mapping[str, Any]) -> str:
    """Judge one statement by a 95 % interval.

    Parameters
    ----------
    interval_95
        ``[low, high]`` in the unit of the statement; for a statement about a vector a list of such
        pairs, one a component; None where there is no interval.
    statement
        One of ``value`` (a number or a list), ``range`` (``[low, high]``), ``less_than``,
        ``greater_than``, ``other_than``; and optionally ``null``, the value or the values that would mean "no
        effect", and ``approximate``, half the width by which a value stated with "about" may be off.

    Returns
    -------
    ``"supports"`` (the interval holds the value), ``"contradicts"`` (it excludes it), or
    ``"cannot_tell"`` (no interval, or it also holds the null value). Of ``other_than``: supports where the interval
    excludes the value, contradicts where it lies within ± ``approximate`` of it.

    Raises
    ------
    ValueError
        The statement has none, or more than one, of the five forms.
    """
    forms = [form for form in STATEMENTS if form in statement]
    if len(forms) != 1:
        raise ValueError(f"a statement needs exactly one of {', '.join(STATEMENTS)}, found {forms}")
    if interval_95 is None:
        return CANNOT_TELL
    form = forms[0]
    if form == "value" and isinstance(statement["value"], Sequence):
        parts = [verdict(pair, {"value": value}) for pair, value in zip(interval_95, statement["value"], strict=True)]
        return SUPPORTS if all(part == SUPPORTS for part in parts) else CONTRADICTS
    low, high = interval_95
    if form in ("less_than", "greater_than"):
        bound = statement[form]
        if low <= bound <= high:
            return CANNOT_TELL
        return SUPPORTS if (high < bound) == (form == "less_than") else CONTRADICTS
    about = float(statement.get("approximate") or 0.0)
    if form == "range":
        first, last = statement["range"]
    else:
        first, last = statement[form] - about, statement[form] + about
    if form == "other_than":
        if first <= low and high <= last:
            return CONTRADICTS
        return CANNOT_TELL if low <= statement[form] <= high else SUPPORTS
    if high < first or low > last:
        return CONTRADICTS
    null = statement.get("null", ())
    nulls = null if isinstance(null, Sequence) else [null]
    return CANNOT_TELL if any(low <= value <= high for value in nulls) else SUPPORTS


def statements(document: Mapping[str, Any]) -> dict[Key, dict[str, Any]]:
    """Statements of a file such as ``data/paper_values.yaml`` by ``(name, index)``.

    Parameters
    ----------
    document
        ``values``, and optionally ``claims``: what their ``tests`` ask of a single number is a statement as well, in
        the place of the claim.

    Raises
    ------
    ValueError
        Two statements have the same name and index.
    """
    tests = [
        {**test, "place": claim["place"]}
        for claim in document.get("claims", ())
        for test in claim["tests"]
        if any(form in test for form in STATEMENTS)
    ]
    found: dict[Key, dict[str, Any]] = {}
    for row in [*document["values"], *tests]:
        key = (row["name"], row.get("index"))
        if key in found:
            raise ValueError(f"{key[0]} with index {key[1]} is stated twice; keep one")
        found[key] = dict(row)
    return found


def stated(statement: Mapping[str, Any]) -> float | list[float] | str | None:
    """What a statement says, for a table: a number, a range, or ``"< 1"``."""
    for form, sign in (("less_than", "<"), ("greater_than", ">"), ("other_than", "≠")):
        if form in statement:
            return f"{sign} {statement[form]:g}"
    return statement.get("value", statement.get("range"))


def known_interval(row: Mapping[str, Any], statement: Mapping[str, Any]) -> Sequence[Any] | None:
    """The interval by which a result is judged; None where there is none.

    An exact count (``exact`` in the statement) is known without an error: its interval is the count itself, so that
    it supports the same count and contradicts any other.
    """
    if row.get("value") is None:
        return None
    interval = row.get("interval_95")
    return [row["value"]] * 2 if interval is None and statement.get("exact") else interval


def stated_rows(rows: Sequence[Mapping[str, Any]], paper: Mapping[Key, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every statement of the paper with the result beside it, also where there is none.

    Parameters
    ----------
    rows
        Rows of ``results.json``.
    paper
        From :func:`statements`.

    Returns
    -------
    A row per statement: ``name, index, paper, about`` (half the width by which it may be off, or None), ``place,
    unit, value, sigma, interval_95, verdict, reason``; the reason says why it cannot tell, and is None where it can.
    """
    found = {(row["name"], row["index"]): row for row in rows}
    table = []
    for key, statement in paper.items():
        row = found.get(key, {})
        said = verdict(known_interval(row, statement), statement)
        table.append(
            {"name": key[0], "index": key[1], "paper": stated(statement), "about": statement.get("approximate")}
            | {"place": statement.get("place", ""), "unit": statement.get("unit", ""), "verdict": said}
            | {name: row.get(name) for name in ("value", "sigma", "interval_95")}
            | {"reason": why_open(row) if said == CANNOT_TELL else None}
        )
    return table


def why_open(row: Mapping[str, Any]) -> str:
    """Why a result does not decide; an empty row is one that was not measured."""
    if not row:
        return "not measured"
    if row.get("value") is None:
        return row.get("reason") or "no value"
    return "no interval" if row.get("interval_95") is None else "the interval allows the opposite too"


def compared_rows(
    rows: Sequence[Mapping[str, Any]],
    paper: Mapping[Key, Mapping[str, Any]],
    truth: Mapping[Key, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Set the paper's and the twin's statements beside the results, each with its verdict.

    Parameters
    ----------
    rows
        Rows of ``results.json``.
    paper, truth
        Statements by ``(name, index)``, as :func:`verdict` takes them.

    Returns
    -------
    A row per result that anything is known of: ``name, index, value, interval_95, paper, place, truth,
    verdict_paper, verdict_truth``; the place is the paper's.
    """
    compared = []
    for row in rows:
        key = (row["name"], row["index"])
        found = {"paper": paper.get(key), "truth": truth.get(key)}
        if not any(found.values()):
            continue
        new = {name: row.get(name) for name in ("name", "index", "value", "interval_95")}
        for side, statement in found.items():
            new[side] = None if statement is None else stated(statement)
            new[f"verdict_{side}"] = None
            if statement is not None:
                new[f"verdict_{side}"] = verdict(known_interval(row, statement), statement)
        new["place"] = (found["paper"] or {}).get("place", "")
        compared.append(new)
    return compared
