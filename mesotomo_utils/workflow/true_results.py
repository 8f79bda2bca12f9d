"""What the notebooks would find in a twin, were nothing measured: their own cells on the tables of its truth.

A definition has one implementation, so the truth of a result comes from the very code that measures it: 02 and 04 to
07 run once more, cell by cell, in a folder of their own, on the true dots and necks as a table without errors. Only
08 asks for it. What these steps draw is left out.
"""

from __future__ import annotations

import ast
import io
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from mesotomo_utils.workflow import results
from mesotomo_utils.workflow.notebooks import find_notebooks, read_notebook

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
STEPS = ("02_centres", "04_glyphs", "05_mesoscale", "06_neighbours", "07_kinetic_trapping")
WHOLE = 0.9
"""A dot is whole where so much of it lies inside the needle: those are the twin's own sample."""
WITHOUT_ERRORS = {"sigma_x_nm": 1e-6, "sigma_y_nm": 1e-6, "sigma_z_nm": 1e-6, "sigma_deg": 1e-4, "lattice_snr": 10.0}
"""Not zero: a table without errors is one whose errors are not known."""
OF_THE_MEASUREMENT = (
    *("_raw", "_sigma_", "_count", "_p", "_margin_", "_scatter_", "_difference_90_"),
    *("_inner_", "facet_nm", "mono_misorientation_range_deg"),
)
"""Parts of names of results that are no property of the sample: what noise adds to, errors, numbers of dots found,
dots flagged at the edge, probabilities, margins, choices. They have no truth."""
EXACT = ("grain_count",)


def true_results(run_dir: str | Path) -> dict[tuple[str, str | None], dict[str, Any]]:
    """What is true of a twin's sample, by ``(name, index)`` of the results, as the analysis defines it.

    Parameters
    ----------
    run_dir
        Run folder with ``truth/dots.csv``, ``truth/necks.csv`` and ``input/sample.yaml``; the parameters of its steps
        are those of its manifest.

    Returns
    -------
    dict
        Statements as :func:`verdicts.verdict` takes them. Results that are no property of the sample are left out
        (:data:`OF_THE_MEASUREMENT`), as are those without a value.

    Notes
    -----
    The sample is its whole dots, as in ``truth/order.csv``.
    """
    with tempfile.TemporaryDirectory(prefix="mesotomo-truth-") as folder:
        sample = _without_errors(Path(run_dir), Path(folder))
        run_cells(sample, Path(folder), _parameters(Path(run_dir)))
        found = json.loads((Path(folder) / "results.json").read_text(encoding="utf-8"))
    return {
        (row["name"], row["index"]): {"value": row["value"]} | ({"exact": True} if row["name"] in EXACT else {})
        for row in found
        if row["value"] is not None and not row.get("reason")
        if row["name"] in EXACT or not any(_is_part(part, row["name"]) for part in OF_THE_MEASUREMENT)
    }


def _is_part(part: str, name: str) -> bool:
    return name.endswith(part) if part == "_p" else part in name


def _without_errors(run_dir: Path, folder: Path) -> Path:
    """Tables of the whole dots and their necks, as a sample to start from; its file."""
    dots, necks = (pd.read_csv(run_dir / "truth" / name) for name in ("dots.csv", "necks.csv"))
    dots = dots[dots["fraction_inside"] >= WHOLE]
    necks = necks[necks[["qd_1", "qd_2"]].isin(set(dots["qd"])).all(axis=1)]
    places = ["qd", "x_nm", "y_nm", "z_nm", "i", "j", "k", "qw", "qx", "qy", "qz"]
    results.write_table(folder, "dots.csv", dots[places].assign(**WITHOUT_ERRORS))
    results.write_table(folder, "necks.csv", necks.assign(sigma_nm=1e-6))
    given = yaml.safe_load((run_dir / "input" / "sample.yaml").read_text(encoding="utf-8"))
    kept = {key: given[key] for key in ("name", "material", "quantum_dot", "film_bottom") if key in given}
    text = yaml.safe_dump(kept | {"dots": "dots.csv", "necks": "necks.csv"})
    return results.write_text(folder / "sample.yaml", text)


def _parameters(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Parameters of the steps of a run, by step; those of its folders are not among them."""
    manifest = run_dir / "manifest.json"
    steps = json.loads(manifest.read_text(encoding="utf-8"))["steps"] if manifest.exists() else {}
    own = ("sample", "run_dir", "device")
    return {
        step: {key: value for key, value in entry.get("parameters", {}).items() if key not in own}
        for step, entry in steps.items()
    }


def run_cells(sample: Path, run_dir: Path, parameters: Mapping[str, Mapping[str, Any]]) -> None:
    """Run :data:`STEPS` in this process, without what they draw and print.

    Parameters
    ----------
    sample
        Sample file of tables of dots.
    run_dir
        Folder for what the steps write.
    parameters
        By step, instead of the notebooks' own.
    """
    notebooks = find_notebooks(NOTEBOOKS)
    for step in STEPS:
        names: dict[str, Any] = {"__name__": step}
        for code, are_parameters in cells_that_measure(notebooks[step]):
            with redirect_stdout(io.StringIO()):
                exec(code, names)
            if are_parameters:
                names |= dict(parameters.get(step, {}))
                names |= {"sample": str(sample), "run_dir": str(run_dir), "device": "cpu"}


def cells_that_measure(notebook: Path) -> Iterator[tuple[Any, bool]]:
    """Compiled cells of a notebook, without exercises and drawings; whether it is the cell of parameters.

    A statement draws where it reads a name that comes from ``visualization``, or from a statement that draws, and
    where it asks for a scratch folder: exports are written there.
    """
    drawn: set[str] = set()
    for cell in read_notebook(notebook).cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type != "code" or "solution" in tags:
            continue
        tree = ast.parse(cell.source)
        tree.body = _undrawn(tree.body, drawn)
        code = compile(ast.fix_missing_locations(tree), f"{notebook.stem}: {cell.source[:40]!r}", "exec")
        yield code, "parameters" in tags


def _undrawn(statements: list[ast.stmt], drawn: set[str]) -> list[ast.stmt]:
    """The statements that do not draw; `drawn` follows which names come from such as do."""
    kept = []
    for statement in statements:
        bodies = [name for name in ("body", "orelse") if getattr(statement, name, None)]
        head = [child for child in ast.iter_child_nodes(statement) if not isinstance(child, ast.stmt)]
        nodes = [node for part in head for node in ast.walk(part)]
        names = [node for node in nodes if isinstance(node, ast.Name)]
        if isinstance(statement, ast.ImportFrom):
            stored = {alias.asname or alias.name for alias in statement.names}
            draws = "visualization" in (statement.module or "")
        else:
            stored = {node.id for node in names if isinstance(node.ctx, ast.Store)}
            draws = any(node.id in drawn for node in names if isinstance(node.ctx, ast.Load))
            draws |= any(isinstance(node, ast.Attribute) and node.attr == "scratch" for node in nodes)
        if draws:
            drawn |= stored
            continue
        drawn -= stored
        for name in bodies:
            setattr(statement, name, _undrawn(getattr(statement, name), drawn) or [ast.Pass()])
        kept.append(statement)
    return kept
