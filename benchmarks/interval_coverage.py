"""Do the 95 % intervals of all results hold the truth in 95 % of samples? On 200 twins of tables, with other seeds.

Each twin goes through the notebooks themselves, cell by cell and without their pictures, from its tables to
``results.json``. The truth of a sample is what the same notebooks find in its tables without errors of measurement;
the truth of the generator is the mean of that over samples. An interval is meant for the second: another sample from
the same process would give another value. So it holds the first more often. Half an hour to an hour on two cores.

    python benchmarks/interval_coverage.py [TWINS] [--record]

``--record`` writes the table to interval_coverage.json with a hash of the code it came from.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, redirect_stdout
from functools import cache
from pathlib import Path
from types import CodeType
from unittest import mock

import numpy as np
import pandas as pd
from nbformat import NotebookNode
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from mesotomo_utils.twin.placement import mono_rotation
from mesotomo_utils.workflow.notebooks import find_notebooks, read_notebook

ROOT = Path(__file__).resolve().parents[1]
RECORDED = Path(__file__).with_suffix(".json")
STEPS = ("00_sample", "02_centres", "04_glyphs", "05_mesoscale", "06_neighbours", "07_kinetic_trapping")
QUICK_STEPS = tuple(step for step in STEPS if step not in ("04_glyphs", "07_kinetic_trapping"))  # without R_mono
SAMPLE = """\
name: coverage
twin: {{level: table, seed: {seed}, qd_count: {dots}{errors}}}
material: {{name: PbSe, lattice_nm: 0.612, structure: rocksalt}}
quantum_dot: {{diameter_nm: 5.0}}
film_bottom: low_z
"""
NO_ERRORS = ", centre_sigma_nm: 1e-6, orientation_sigma_deg: 1e-4, neck_sigma_nm: 1e-6"
FIRST_SEED = 5000  # no sample of the repository has one as high


@cache
def _solved(cell: tuple[float, ...]) -> np.ndarray:
    return mono_rotation(np.reshape(cell, (3, 3)))


def _mono_rotation(cell: np.ndarray) -> np.ndarray:
    """R_mono by the twin's slow search, once for all twins of one cell."""
    return _solved(tuple(np.ravel(cell)))


def _own_cells(step: str) -> list[NotebookNode]:
    """The code cells that belong to the analysis of a sample of tables."""
    own = []
    for cell in read_notebook(find_notebooks(ROOT / "notebooks")[step]).cells:
        # in 04 what draws and exports speaks of the scene, what measures does not; the case whose
        # answer is known of 02 is no part of the sample
        other = "solution" in cell.metadata.get("tags", []) or any(w in cell.source for w in ("scene", "known_image"))
        if cell.cell_type == "code" and not other:
            own.append(cell)
    return own


@cache
def _cells(step: str) -> list[tuple[CodeType, list[str]]]:
    """The same, compiled, and their tags."""
    return [
        (compile(cell.source, f"{step}, {cell.source[:40]!r}", "exec"), cell.metadata.get("tags", []))
        for cell in _own_cells(step)
    ]


def run_notebooks(
    sample_file: str,
    run_dir: Path,
    *,
    steps: tuple[str, ...] = STEPS,
    options: dict | None = None,
) -> None:
    """Run the cells of the notebooks in this process, without pictures, scenes and exercises.

    ``sample_file`` is its text, of a twin of tables; ``options`` are parameters for the notebooks that have them.
    """
    from mesotomo_utils import visualization
    from mesotomo_utils.twin import account, placement, tables
    from mesotomo_utils.visualization import (
        analysis_figures,
        cofacial_figures,
        figures,
        glyph_figures,
        mapping_figures,
        sample_figures,
    )
    from mesotomo_utils.workflow import results

    run_dir.mkdir(parents=True)
    (run_dir / "sample.yaml").write_text(sample_file)
    drawing = analysis_figures, cofacial_figures, figures, glyph_figures, mapping_figures, sample_figures
    with ExitStack() as patched, redirect_stdout(io.StringIO()):
        for module in drawing:
            name = module.__name__.rpartition(".")[2]
            patched.enter_context(mock.patch.object(visualization, name, mock.MagicMock()))
        patched.enter_context(mock.patch.object(results, "save_figure"))
        patched.enter_context(mock.patch.object(results, "kernel_facts", dict))
        for module in (account, placement, tables):
            patched.enter_context(mock.patch.object(module, "mono_rotation", _mono_rotation))
        for step in steps:
            sample = run_dir / ("sample.yaml" if step == STEPS[0] else "input/sample.yaml")
            names = {"display": lambda *_: None}
            for code, tags in _cells(step):
                exec(code, names)
                if "parameters" in tags:
                    names |= {"sample": str(sample), "run_dir": str(run_dir), "device": "cpu"}
                    names |= {key: value for key, value in (options or {}).items() if key in names}


def one_twin(seed: int, dots: int = 633, *, exact: bool = False, **how) -> pd.DataFrame:
    """Rows ``seed, name, index, value, low, high`` of every number that has an interval and is corrected for noise.

    ``how`` goes to :func:`run_notebooks`.
    """
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        run_notebooks(SAMPLE.format(seed=seed, dots=dots, errors=NO_ERRORS if exact else ""), run_dir, **how)
        found = json.loads((run_dir / "results.json").read_text())
    rows = [
        (seed, row["name"], row["index"] or "", row["value"], *row["interval_95"])
        for row in found
        if row.get("interval_95") is not None and isinstance(row["value"], int | float)
        if "_raw" not in row["name"]  # what noise adds to them is no error of theirs
    ]
    return pd.DataFrame(rows, columns=["seed", "name", "index", "value", "low", "high"])


def coverage(measured: pd.DataFrame, exact: pd.DataFrame) -> pd.DataFrame:
    """How often the intervals hold the truths, and how wide they are.

    Parameters
    ----------
    measured, exact
        Of :func:`one_twin`, many seeds; and the same without errors of measurement, some of these seeds.

    Returns
    -------
    A row for each name, and ``all``: number of intervals; shares that hold the generator's and the sample's truth;
    width, in units of the spread of the values from sample to sample (3.92 expected); median distance of the values
    from the sample's truth in the same units.
    """
    key = ["name", "index"]
    true = exact.groupby(key)["value"].mean().rename("generator").reset_index()
    own = exact[["seed", *key, "value"]].rename(columns={"value": "sample"})
    rows = measured.merge(true, on=key).merge(own, on=["seed", *key], how="left")
    rows["spread"] = rows.groupby(key)["value"].transform("std")
    for truth in ("generator", "sample"):
        holds = (rows["low"] <= rows[truth]) & (rows[truth] <= rows["high"])
        rows[f"holds_{truth}"] = holds.where(rows[truth].notna()).astype(float)
    rows["width"] = (rows["high"] - rows["low"]) / rows["spread"]
    rows["off"] = (rows["value"] - rows["sample"]) / rows["spread"]

    def summary(group: pd.DataFrame) -> pd.Series:
        means = group[["holds_generator", "holds_sample"]].mean()
        return pd.Series({"n": len(group), **means, **group[["width", "off"]].median()})

    table = rows.groupby("name").apply(summary, include_groups=False)
    table.loc["all"] = summary(rows)
    return table


def code_hash() -> str:
    """Of the analysis, the twin of tables and the cells that are run, not of prose: the table is theirs."""
    folders = [ROOT / "mesotomo_utils" / name for name in ("analysis", "twin")]
    files = [file for folder in folders for file in sorted(folder.glob("*.py"))]
    mapping = ROOT / "mesotomo_utils" / "mapping"
    files += [mapping / f"{name}.py" for name in ("cell_errors", "indexing", "superlattice")]
    code = [file.read_text() for file in files] + [cell.source for step in STEPS for cell in _own_cells(step)]
    return hashlib.sha256("".join(code).encode()).hexdigest()[:16]


def main() -> None:
    """Run the twins and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("twins", nargs="?", type=int, default=200)
    parser.add_argument("--exact", type=int, default=50, help="how many of them are run without errors as well")
    parser.add_argument("--keep", help="begin of the names of two CSV files for all intervals")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + options.twins)
    tasks = [(seed, False) for seed in seeds] + [(seed, True) for seed in seeds[: options.exact]]
    with ProcessPoolExecutor(initializer=threadpool_limits, initargs=(1,)) as pool:
        done = [pool.submit(one_twin, seed, exact=exact) for seed, exact in tasks]
        tables = [task.result() for task in tqdm(done, mininterval=15)]
    measured, exact = pd.concat(tables[: options.twins]), pd.concat(tables[options.twins :])
    if options.keep:
        measured.to_csv(f"{options.keep}_measured.csv", index=False)
        exact.to_csv(f"{options.keep}_exact.csv", index=False)
    table = coverage(measured, exact)
    print(table.round(3).to_string())
    if options.record:
        rows = json.loads(table.reset_index().round(4).to_json(orient="records"))
        kept = {"twins": options.twins, "exact": options.exact, "code": code_hash(), "table": rows}
        RECORDED.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
