"""Does an interval support a stated value, contradict it, or leave it open?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Key = tuple[str, str | None]
SUPPORTS, CONTRADICTS, CANNOT_TELL = "supports", "contradicts", "cannot_tell"
STATEMENTS = ("value", "range", "less_than", "greater_than")


def verdict(interval_95: Sequence[Any] | None, statement: Mapping[str, Any]) -> str:
    """Judge one statement by a 95 % interval.

    Parameters
    ----------
    interval_95
        ``[low, high]`` in the unit of the statement; for a statement about a vector a list of such
        pairs, one a component; None where there is no interval.
    statement
        One of ``value`` (a number or a list), ``range`` (``[low, high]``), ``less_than``,
        ``greater_than``; and optionally ``null``, the value that would mean "no effect", and
        ``approximate``, half the width by which a value stated with "about" may be off.

    Returns
    -------
    ``"supports"`` (the interval holds the value), ``"contradicts"`` (it excludes it), or
    ``"cannot_tell"`` (no interval, or it also holds the null value).

    Raises
    ------
    ValueError
        The statement has none, or more than one, of the four forms.
    """
    forms = [form for form in STATEMENTS if form in statement]
    if len(forms) != 1:
        raise ValueError(f"a statement needs exactly one of {', '.join(STATEMENTS)}, found {forms}")
    if interval_95 is None:
        return CANNOT_TELL
    form = forms[0]
    if form == "value" and isinstance(statement["value"], Sequence):
        parts = [
            verdict(pair, {"value": value})
            for pair, value in zip(interval_95, statement["value"], strict=True)
        ]
        return SUPPORTS if all(part == SUPPORTS for part in parts) else CONTRADICTS
    low, high = interval_95
    if form in ("less_than", "greater_than"):
        bound = statement[form]
        if low <= bound <= high:
            return CANNOT_TELL
        return SUPPORTS if (high < bound) == (form == "less_than") else CONTRADICTS
    if form == "value":
        about = float(statement.get("approximate") or 0.0)
        first, last = statement["value"] - about, statement["value"] + about
    else:
        first, last = statement["range"]
    if high < first or low > last:
        return CONTRADICTS
    null = statement.get("null")
    return CANNOT_TELL if null is not None and low <= null <= high else SUPPORTS


def statements(document: Mapping[str, Any]) -> dict[Key, dict[str, Any]]:
    """Statements of a file such as ``data/paper_values.yaml`` by ``(name, index)``.

    Raises
    ------
    ValueError
        Two statements have the same name and index.
    """
    found: dict[Key, dict[str, Any]] = {}
    for row in document["values"]:
        key = (row["name"], row.get("index"))
        if key in found:
            raise ValueError(f"values: {key[0]} with index {key[1]} is stated twice; keep one")
        found[key] = dict(row)
    return found


def stated(statement: Mapping[str, Any]) -> float | list[float] | str | None:
    """What a statement says, for a table: a number, a range, or ``"< 1"``."""
    if "less_than" in statement:
        return f"< {statement['less_than']:g}"
    if "greater_than" in statement:
        return f"> {statement['greater_than']:g}"
    return statement.get("value", statement.get("range"))


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
    A row per result that anything is known of: ``name, index, value, interval_95, paper, truth,
    verdict_paper, verdict_truth``.
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
                interval = row.get("interval_95") if row.get("value") is not None else None
                new[f"verdict_{side}"] = verdict(interval, statement)
        compared.append(new)
    return compared
