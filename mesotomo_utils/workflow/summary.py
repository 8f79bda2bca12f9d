"""The results of a run as lines of text, for the end of the command."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mesotomo_utils.workflow import results


def results_table(run_dir: str | Path) -> str:
    """Name, value ± sigma, paper and truth of the results of a run, one a line.

    Single numbers of the whole sample are shown; where 08 has compared any that was measured, those it has compared.

    Parameters
    ----------
    run_dir
        The run folder.

    Returns
    -------
    str
        The table, without a closing newline.
    """
    rows = results.read_json(run_dir, "results.json") if results.exists(run_dir, "results.json") else []
    single = [row for row in rows if not isinstance(row["value"], list)]
    shown = [row for row in single if row["paper"] is not None or row["truth"] is not None]
    if not any(row["value"] is not None for row in shown):  # nothing is known of the sample beforehand
        shown = [row for row in single if row["index"] is None]
    lines = [("result", "value", "unit", "paper", "truth")]
    for row in shown:
        name = row["name"] if row["index"] is None else f"{row['name']} {row['index']}"
        spread = "" if row["sigma"] is None else f" ± {row['sigma']:.2g}"
        found = row.get("reason", "none") if row["value"] is None else f"{_number(row['value'])}{spread}"
        lines.append((name, found, row["unit"], _number(row["paper"]), _number(row["truth"])))
    return "\n".join(in_columns(lines))


def in_columns(rows: Sequence[Sequence[str]], widest: int = 48) -> list[str]:
    """Rows of texts as lines, the columns below each other; a text longer than the widest column pushes the rest on."""
    widths = [min(max(map(len, column)), widest) for column in zip(*rows, strict=True)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _number(item: Any) -> str:
    if item is None:
        return ""
    if isinstance(item, bool | str):
        return str(item)
    if isinstance(item, list):
        return ", ".join(_number(part) for part in item)
    return f"{item:.4g}" if isinstance(item, float) else str(item)


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        print(f"\n{folder}: figures in {folder}/figures, report {folder}/report.html")
        print(results_table(folder))
