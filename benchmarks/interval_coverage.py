"""Do the 95 % intervals of all results hold the truth in 95 % of samples? On 200 twins of tables, with other seeds.

Each twin goes through the notebooks themselves, cell by cell and without their pictures, from its tables to
``results.json``. Two truths are asked for: the sample's, which the twin counts as it is made, and the generator's
parameter, of which the sample is one draw. Some twenty minutes on two cores.

    python benchmarks/interval_coverage.py [TWINS] [--record]

``--record`` writes the table to interval_coverage.json with a hash of the code it came from.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
RECORDED = Path(__file__).with_suffix(".json")
STEPS = ("00_sample", "02_centres", "04_glyphs", "05_mesoscale", "06_neighbours", "07_kinetic_trapping")
SAMPLE = """\
name: coverage
twin: {{level: table, seed: {seed}, qd_count: {dots}}}
material: {{name: PbSe, lattice_nm: 0.612, structure: rocksalt}}
quantum_dot: {{diameter_nm: 5.0}}
film_bottom: low_z
"""
FIRST_SEED = 5000  # no sample of the repository has one as high


def run_notebooks(seed: int, dots: int, run_dir: Path) -> None:
    """Run the cells of the notebooks in this process, without pictures, scenes and exercises."""
    from mesotomo_utils import visualization
    from mesotomo_utils.visualization import (
        analysis_figures,
        cofacial_figures,
        figures,
        glyph_figures,
        mapping_figures,
        sample_figures,
    )
    from mesotomo_utils.workflow import results
    from mesotomo_utils.workflow.notebooks import find_notebooks, read_notebook

    run_dir.mkdir(parents=True)
    (run_dir / "sample.yaml").write_text(SAMPLE.format(seed=seed, dots=dots))
    drawing = analysis_figures, cofacial_figures, figures, glyph_figures, mapping_figures, sample_figures
    notebooks = find_notebooks(ROOT / "notebooks")
    with ExitStack() as patched, redirect_stdout(io.StringIO()):
        for module in drawing:
            name = module.__name__.rpartition(".")[2]
            patched.enter_context(mock.patch.object(visualization, name, mock.MagicMock()))
        patched.enter_context(mock.patch.object(results, "save_figure"))
        for step in STEPS:
            sample = run_dir / ("sample.yaml" if step == STEPS[0] else "input/sample.yaml")
            names = {"display": lambda *_: None}
            for cell in read_notebook(notebooks[step]).cells:
                tags = cell.metadata.get("tags", ())
                if cell.cell_type == "code" and "scene" not in cell.source and "solution" not in tags:
                    exec(compile(cell.source, f"{step}, {cell.source[:40]!r}", "exec"), names)
                if "parameters" in tags:
                    names |= {"sample": str(sample), "run_dir": str(run_dir), "device": "cpu"}


def truths(run_dir: Path) -> Iterator[tuple[str, tuple[str, str | None], float]]:
    """Kind of truth, name and index of the result, and the value."""
    from mesotomo_utils.twin import compare

    for key, known in compare.true_statements(run_dir).items():
        yield "sample", key, known["value"]
    for row in pd.read_csv(run_dir / "truth/order.csv").rename(columns={"index": "at"}).itertuples(index=False):
        name, index = compare.TRUE_NAMES.get(row.name, row.name), None if pd.isna(row.at) else str(row.at)
        if row.name == "roll":
            name, index = f"layer_tilt_{str(index).lower().replace('-', '_')}_deg", None
        if np.isfinite(row.asked):
            yield "generator", (name, index), row.asked


def one_twin(seed: int, dots: int = 633) -> pd.DataFrame:
    """Rows ``seed, truth, name, index, holds, width, sigma_off`` of every result that has an interval and a truth."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        run_notebooks(seed, dots, run_dir)
        measured = {
            (row["name"], row["index"]): row
            for row in json.loads((run_dir / "results.json").read_text())
            if row.get("interval_95") is not None and np.ndim(row["value"]) == 0
        }
        rows = []
        for kind, key, true in truths(run_dir):
            if key in measured:
                low, high = measured[key]["interval_95"]
                rows.append((seed, kind, *key, low <= true <= high, high - low, measured[key]["value"] - true))
    return pd.DataFrame(rows, columns=["seed", "truth", "name", "index", "holds", "width", "error"])


def coverage(rows: pd.DataFrame) -> pd.DataFrame:
    """Share of the intervals that hold the truth, and their median width, for each result and pooled."""
    grouped = rows.groupby(["truth", "name"])
    columns = {"n": ("holds", "size"), "holds": ("holds", "mean")}
    table = grouped.agg(**columns, width=("width", "median"), bias=("error", "median"))
    pooled = rows.groupby("truth").agg(**columns)
    pooled.index = pd.MultiIndex.from_product([pooled.index, ["all"]], names=table.index.names)
    return pd.concat([table, pooled])


def code_hash() -> str:
    """Of the analysis, the twin of tables and the notebooks: the table is theirs."""
    folders = [ROOT / "mesotomo_utils" / name for name in ("analysis", "twin")]
    files = [file for folder in folders for file in sorted(folder.glob("*.py"))]
    files += [ROOT / "notebooks" / f"{step}.py" for step in STEPS]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def main() -> None:
    """Run the twins and print the table."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # a process each
    from concurrent.futures import ProcessPoolExecutor

    from tqdm import tqdm

    parser = argparse.ArgumentParser()
    parser.add_argument("twins", nargs="?", type=int, default=200)
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + options.twins)
    with ProcessPoolExecutor() as pool:
        rows = pd.concat(list(tqdm(pool.map(one_twin, seeds), total=len(seeds), mininterval=15)))
    table = coverage(rows)
    print(table.round(3).to_string())
    if options.record:
        kept = {"twins": options.twins, "dots": 633, "code": code_hash(), "table": []}
        kept["table"] = json.loads(table.reset_index().round(4).to_json(orient="records"))
        RECORDED.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
