"""What 04 to 08 take from the tables on, at the paper's 633 dots and at 100,000: seconds and memory of each notebook.

Tables of each size go through ``mesotomo run`` as ``dots:`` and ``necks:``, pictures and the scene of glyphs included,
every notebook in a process of its own; seconds and peak memory are those of the run's manifest. 02 indexes the dots
and does not count in the sums. The tables are a disc of nine layers whose dots are displaced, rolled and turned
about as the paper's, each on its own: a twin, whose dots know of their neighbours, cannot be made of 100,000. A minute
for 633 dots and eight for 100,000 on two cores, 4 GB.

    python benchmarks/tables_scaling.py [DOTS]…
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from mesotomo_utils import lattice

ROOT = Path(__file__).resolve().parents[1]
COUNTS = (633, 100_000)
FROM_TABLES = ("04_glyphs", "05_mesoscale", "06_neighbours", "07_kinetic_trapping", "08_report")
CELL = lattice.cell_matrix(6.2, 5.9, 5.7, 98.0, 95.0, 93.0)
LAYERS = 9
HEIGHT_NM = np.array([0.1, *[0.35] * (LAYERS - 2), 0.1])
"""Standard deviation of the heights in each layer."""
ROLL_DEG = 8.4 * (1 - np.abs(np.linspace(-1, 1, LAYERS)))
"""Of each layer about [-1 2 0]."""
SAMPLE = """\
name: tables_{dots}
dots: dots.csv
necks: necks.csv
material: {{name: PbSe, lattice_nm: 0.612, structure: rocksalt}}
quantum_dot: {{diameter_nm: 5.0}}
film_bottom: low_z
"""


def made_tables(dots: int, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """So many dots, nearest to the axis of a disc, with errors as measured ones have them; and their necks."""
    reach = int(np.sqrt(dots / LAYERS)) + 5
    row = np.arange(-reach, reach + 1)
    index = np.stack(np.meshgrid(row, row, np.arange(LAYERS), indexing="ij"), -1).reshape(-1, 3)
    from_middle = index - [0, 0, (LAYERS - 1) / 2]
    radius = np.hypot(*(from_middle @ CELL.T)[:, :2].T)
    kept = np.sort(np.argsort(radius, kind="stable")[:dots])
    index, layer = index[kept], index[kept, 2]
    displaced = rng.normal(scale=0.3, size=(dots, 3))
    displaced[:, 2] = rng.normal(scale=HEIGHT_NM[layer])
    xyz = from_middle[kept] @ CELL.T + displaced + rng.normal(scale=0.1, size=(dots, 3))
    axis = np.array([-1.0, 2.0, 0.0]) / np.sqrt(5)
    turns = (ROLL_DEG[layer] + rng.normal(scale=2.0, size=dots))[:, None] * axis + rng.normal(scale=0.6, size=(dots, 3))
    R = lattice.polar_rotation(CELL) @ lattice.from_rotation_vectors(np.deg2rad(turns))
    table = pd.DataFrame(xyz, columns=["x_nm", "y_nm", "z_nm"]).assign(qd=np.arange(dots), sigma_deg=0.5)
    table[["sigma_x_nm", "sigma_y_nm", "sigma_z_nm"]] = 0.1
    table[["qw", "qx", "qy", "qz"]] = lattice.to_quaternions(R)
    table["at_edge"] = radius[kept] > radius[kept].max() - 6.0
    return table, made_necks(index, rng)


def made_necks(index: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Every pair of neighbours, nine in ten with a neck."""
    at = pd.Series(np.arange(len(index)), pd.MultiIndex.from_arrays(index.T))
    parts = []
    for axis, step in zip("ABC", np.eye(3, dtype=int), strict=True):
        second = at.reindex(pd.MultiIndex.from_arrays((index + step).T)).to_numpy()
        first = np.flatnonzero(np.isfinite(second))
        parts.append(pd.DataFrame({"qd_1": first, "qd_2": second[first].astype(int), "axis": axis}))
    necks = pd.concat(parts, ignore_index=True)
    diameter = np.clip(rng.normal(2.5, 0.9, len(necks)), 0.7, None)
    return necks.assign(diameter_nm=np.where(rng.random(len(necks)) < 0.893, diameter, 0.0), sigma_nm=0.2)


def steps_of(dots: int, folder: Path) -> dict[str, dict]:
    """Run tables of so many dots; the manifest's account of each step."""
    sample, run_dir = folder / "sample.yaml", folder / "run"
    sample.write_text(SAMPLE.format(dots=dots))
    for name, made in zip(("dots", "necks"), made_tables(dots, np.random.default_rng(12)), strict=True):
        made.to_csv(folder / f"{name}.csv", index=False)
    command = [sys.executable, "-m", "mesotomo_utils.workflow.cli", "run", sample, "--out", run_dir, "--device", "cpu"]
    subprocess.run(command, check=True, stdout=sys.stderr, cwd=ROOT)
    return json.loads((run_dir / "manifest.json").read_text())["steps"]


def table(measured: dict[int, dict[str, dict]]) -> str:
    """Markdown: a row a notebook, and of 04 to 08 the sum of the seconds and the largest of the memories.

    Parameters
    ----------
    measured
        By the number of dots, of :func:`steps_of`.

    Raises
    ------
    ValueError
        A notebook was skipped or failed: the sum would leave it out.
    """
    for dots, steps in measured.items():
        if left_out := [stem for stem in FROM_TABLES if steps[stem]["status"] != "done"]:
            raise ValueError(f"{dots} dots: {', '.join(left_out)} did not run to the end")
    heads = [f"{dots:,} dots ({unit})" for dots in measured for unit in ("s", "MB")]
    lines = [f"| | {' | '.join(heads)} |", "|" + "---|" * (1 + len(heads))]
    for stem in ("02_centres", *FROM_TABLES, "04 to 08"):
        own = FROM_TABLES if stem == "04 to 08" else (stem,)
        cells = []
        for steps in measured.values():
            seconds = sum(steps[name]["seconds"] for name in own)
            cells += [f"{seconds:.1f}", f"{max(steps[name]['peak_memory_mb'] for name in own):,}"]
        lines.append(f"| {stem} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the tables and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dots", nargs="*", type=int, default=list(COUNTS))
    measured = {}
    for dots in parser.parse_args().dots:
        with tempfile.TemporaryDirectory() as folder:
            measured[dots] = steps_of(dots, Path(folder))
    print(table(measured))


if __name__ == "__main__":
    main()
