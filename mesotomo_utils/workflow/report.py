"""The report of a run as one HTML page and one PDF: results, paper, truth, and every figure.

Composes what the steps left in the run folder; measures nothing.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mesotomo_utils.workflow import results
from mesotomo_utils.workflow.captions import caption
from mesotomo_utils.workflow.report_pdf import write_pdf
from mesotomo_utils.workflow.report_tables import VERDICTS, interval_text, label, number
from mesotomo_utils.workflow.steps import STEMS

WHAT_A_TWIN_PROVES = (
    "This sample is a digital twin: atoms placed by the numbers of the paper, as far as the twin's parameters impose "
    "them, and a model of their measurement. Agreement shows that the method recovers what was put in. It is no "
    "evidence for the paper's physics."
)
WHAT_A_TWIN_LACKS = (
    "Not imposed, so that the paper may be contradicted: the twist of the necks and the mean misorientation from "
    "R_mono, which follow from the common axis, the roll and the spread; the least angle of the c axes to the film "
    "normal in C1 and C9; the layer of the largest entropy; the overlap of the facets. Imposed against Fig. S12: in "
    "the bottom and the top layer the rows of dots are narrower than inside."
)

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 13px; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
table.words td, table.words th { text-align: left; vertical-align: top; }
figure { display: inline-block; margin: .6rem; vertical-align: top; max-width: 32rem; }
figure img, figure video { max-width: 100%; border: 1px solid #eee; }
figcaption { font-size: 12px; color: #333; }
figcaption code { color: #888; }
.note { background: #f4f4ec; padding: .6rem 1rem; border-left: 4px solid #999; }
"""


def results_table(rows: Sequence[Mapping[str, Any]], *, indexed: bool = False) -> pd.DataFrame:
    """The joined results as a table of texts to read.

    Parameters
    ----------
    rows
        Rows of ``results.json``.
    indexed
        Also the rows per layer and per axis, not only those of the whole sample.

    Returns
    -------
    DataFrame ``result, value, 95 % interval, unit, paper, place, truth, against paper, against truth, why none``; a
    column that is empty in all rows is left out.
    """
    table = []
    for row in rows:
        if row["index"] is not None and not indexed:
            continue
        table.append(
            {
                "result": label(row),
                "value": number(row["value"], row.get("sigma")),
                "95 % interval": interval_text(row),
                "unit": row["unit"] or "",
                "paper": number(row["paper"]) if row.get("paper") is not None else "",
                "place": row.get("place") or "",
                "truth": number(row["truth"]) if row.get("truth") is not None else "",
                "against paper": VERDICTS.get(row.get("verdict_paper") or "", ""),
                "against truth": VERDICTS.get(row.get("verdict_truth") or "", ""),
                "why none": row.get("reason") or "",
            }
        )
    frame = pd.DataFrame(table)
    empty = [column for column in frame if (frame[column] == "").all()]
    return frame.drop(columns=[column for column in empty if column != "value"])


def step_table(run_dir: str | Path) -> pd.DataFrame:
    """Which steps ran, which were skipped and why, and which have not run yet.

    Returns
    -------
    DataFrame ``step, status, reason``.
    """
    run_dir = Path(run_dir)
    manifest = run_dir / "manifest.json"
    steps = json.loads(manifest.read_text()).get("steps", {}) if manifest.exists() else {}
    table = []
    for stem in STEMS[:-1]:
        entry = steps.get(stem, {})
        ran = results.exists(run_dir, f"results/{stem}.json")
        status = entry.get("status") or ("done" if ran else "has not run")
        reason = entry.get("reason") or ""
        if status == "has not run":
            reason = f"`mesotomo run SAMPLE --out {run_dir} --from {stem[:2]}` runs it"
        table.append({"step": stem, "status": status, "reason": reason})
    return pd.DataFrame(table)


# Errors against the truth that are recorded as results of 08: where they stand in the comparison.
ERRORS = (
    ("dots", "missed_fraction", ""),
    ("dots", "spurious", ""),
    ("dots", "rigid_rotation_deg", "deg"),
    ("dots", "rigid_shift_nm", "nm"),
    ("dots", "scale_error", ""),
    ("dots", "layer_bias_nm", "nm"),
    ("dots", "turn_about_axis_deg", "deg"),
    ("dots", "oriented_fraction", ""),
    ("dots", "equivalent_right_fraction", ""),
    ("dots", "orientation_error_over_sigma", ""),
    ("necks", "connectivity_error", ""),
    ("necks", "neck_diameter_bias_nm", "nm"),
    ("necks", "neck_diameter_rms_nm", "nm"),
    ("necks", "neck_error_within_sigma", ""),
    ("cell", "cell_length_error_nm", "nm"),
    ("cell", "cell_angle_error_deg", "deg"),
    ("alignment", "shift_z_rms_nm", "nm"),
    ("alignment", "shift_u_rms_nm", "nm"),
    ("alignment", "angle_rms_deg", "deg"),
    ("alignment", "axis_tilt_error_deg", "deg"),
)
SPREAD_ERRORS = (("centre_error_nm", "nm"), ("orientation_error_deg", "deg"))
SLOPES = (("phase_slope_nm_per_voxel", "nm per voxel"), ("neck_pull_nm_per_nm", "nm per nm"))


def error_values(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Errors against the truth as named results; an empty list for a real sample."""
    values = []
    for part, key, unit in ERRORS:
        value = comparison.get(part, {}).get(key)
        if value is not None:
            name = key if "error" in key or part == "dots" else f"{key.removesuffix('_' + unit)}_error"
            values.append(results.value(f"twin_{name}", value, unit, reason="not measured"))
    for key, unit in SPREAD_ERRORS:
        for statistic, value in comparison.get("dots", {}).get(key, {}).items():
            if statistic != "n":
                name = f"twin_{key.removesuffix('_' + unit)}_{statistic}_{unit}"
                values.append(results.value(name, value, unit, reason="not measured"))
    for key, unit in SLOPES:
        for axis, found in comparison.get("dots", {}).get(key, {}).items():
            known = {"sigma": found["sigma"], "n": found["n"], "reason": "not measured"}
            values.append(results.value(f"twin_{key}_{axis}", found["value"], unit, **known))
    return values


def error_table(comparison: Mapping[str, Any]) -> pd.DataFrame:
    """The same errors as a table to read: ``error, value, unit``."""
    rows = [
        (
            row["name"],
            number(row["value"]) + ("" if row["sigma"] is None else f" ± {number(row['sigma'])}"),
            row["unit"],
        )
        for row in error_values(comparison)
    ]
    return pd.DataFrame(rows, columns=["error against the truth", "value", "unit"])


def bounds_table(comparison: Mapping[str, Any]) -> pd.DataFrame:
    """What must hold for every twin, and whether it does."""
    rows = [
        (
            bound["what"],
            number(bound["value"]),
            number(bound["bound"]),
            "yes" if bound["holds"] else "NO",
        )
        for bound in comparison.get("bounds", {}).values()
    ]
    return pd.DataFrame(rows, columns=["bound", "value", "at most", "holds"])


def write_report(
    run_dir: str | Path,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    compared: Sequence[Mapping[str, Any]],
    comparison: Mapping[str, Any],
    conditions: Mapping[str, Any],
    said: Mapping[str, pd.DataFrame],
) -> list[Path]:
    """Write ``report.html`` and ``report.pdf`` into the run folder.

    Parameters
    ----------
    run_dir, name
        Run folder and the sample's name.
    rows
        Rows of ``results.json``.
    compared
        Rows with ``paper, truth`` and the verdicts.
    comparison
        Errors against the truth; empty for a real sample.
    conditions
        How the twin was imaged; empty for a real sample.
    said
        Heading and table of what the paper says (`report_tables`); they come first.

    Returns
    -------
    The two files.
    """
    beside = {(row["name"], row["index"]): row for row in compared}
    sides = ("paper", "place", "truth", "verdict_paper", "verdict_truth")
    filled = [dict(row) | {k: beside.get((row["name"], row["index"]), {}).get(k) for k in sides} for row in rows]
    title = f"mesotomo: report of {name}"
    notes = ["A real sample: measured values and their intervals."]
    if comparison:
        notes = [WHAT_A_TWIN_PROVES, WHAT_A_TWIN_LACKS]
    tables = {**said, "Results": results_table(filled)}
    by_layer = results_table([row for row in filled if row["index"]], indexed=True)
    if len(by_layer):
        tables["Results per layer and axis"] = by_layer
    tables["Steps"] = step_table(run_dir)
    if comparison:
        tables["Bounds that every twin must keep"] = bounds_table(comparison)
        tables["Errors against the truth"] = error_table(comparison)
        tables["Imaging conditions of the twin"] = pd.DataFrame(
            [(key, number(value)) for key, value in conditions.items()],
            columns=["condition", "value"],
        )
    pictures, films = figure_paths(run_dir), film_paths(run_dir)
    page = results.write_text(Path(run_dir) / "report.html", html_page(title, notes, tables, pictures, films))
    if films:
        notes.append("Films in figures/: " + ", ".join(film.name for film in films) + ".")
    return [page, write_pdf(Path(run_dir) / "report.pdf", title, notes, tables, pictures)]


def figure_paths(run_dir: str | Path) -> list[Path]:
    """PNG figures of the run: those of the paper first, then the others, by name."""
    found = (Path(run_dir) / "figures").glob("*.png")
    return sorted(found, key=lambda path: (not path.name.startswith("fig"), path.name))


def film_paths(run_dir: str | Path) -> list[Path]:
    """Films of the run, by name."""
    return sorted(path for path in (Path(run_dir) / "figures").glob("*") if path.suffix in results.FILMS)


def _caption(path: Path) -> str:
    """What a figure shows, and the file that holds it at full size."""
    return f"{html.escape(caption(path.stem))} <code>{html.escape(path.name)}</code>"


def html_page(
    title: str,
    notes: Sequence[str],
    tables: Mapping[str, pd.DataFrame],
    figures: Sequence[Path],
    films: Sequence[Path] = (),
) -> str:
    """One self-contained HTML page.

    Parameters
    ----------
    title
        Heading.
    notes
        Plain sentences above the tables.
    tables
        Heading and table, in order.
    figures, films
        PNG, and MP4 or GIF files; embedded.
    """
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f'<p class="note">{html.escape(note)}</p>' for note in notes]
    for heading, table in tables.items():
        words = "words" if table.astype(str).map(lambda text: "\n" in text).to_numpy().any() else None
        lines = table.to_html(index=False, na_rep="—", classes=words).replace("\\n", "<br>")
        parts += [f"<h2>{html.escape(heading)}</h2>", lines]
    parts.append("<h2>Figures</h2>")
    for path in figures:
        data = base64.b64encode(path.read_bytes()).decode()
        parts.append(
            f'<figure><img alt="{path.stem}" src="data:image/png;base64,{data}">'
            f"<figcaption>{_caption(path)}</figcaption></figure>"
        )
    parts += ["<h2>Films</h2>"] if films else []
    for path in films:
        data = base64.b64encode(path.read_bytes()).decode()
        shown = f'<video controls loop muted src="data:video/mp4;base64,{data}"></video>'
        if path.suffix == ".gif":
            shown = f'<img alt="{path.stem}" src="data:image/gif;base64,{data}">'
        parts.append(f"<figure>{shown}<figcaption>{_caption(path)}</figcaption></figure>")
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body>{body}</body></html>\n"
    )
