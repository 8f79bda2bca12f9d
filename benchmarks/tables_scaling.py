"""What 04 to 08 take from the tables on, at the paper's 633 dots and at 100,000: seconds and memory of each notebook.

A twin of tables of each size goes through ``mesotomo run``, pictures and the scene of glyphs included, every notebook
in a process of its own; seconds and peak memory are those of the run's manifest. 00 makes the tables, 02 indexes them,
and neither counts in the sums. Half a minute for 633 dots and five minutes for 100,000 on two cores, 4 GB.

    python benchmarks/tables_scaling.py [DOTS]…
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COUNTS = (633, 100_000)
FROM_TABLES = ("04_glyphs", "05_mesoscale", "06_neighbours", "07_kinetic_trapping", "08_report")
SAMPLE = """\
name: tables_{dots}
twin: {{level: table, seed: 12, qd_count: {dots}}}
material: {{name: PbSe, lattice_nm: 0.612, structure: rocksalt}}
quantum_dot: {{diameter_nm: 5.0}}
film_bottom: low_z
"""


def steps_of(dots: int, folder: Path) -> dict[str, dict]:
    """Run a twin of so many dots; the manifest's account of each step."""
    sample, run_dir = folder / "sample.yaml", folder / "run"
    sample.write_text(SAMPLE.format(dots=dots))
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
    for stem in ("00_sample", "02_centres", *FROM_TABLES, "04 to 08"):
        own = FROM_TABLES if stem == "04 to 08" else (stem,)
        cells = []
        for steps in measured.values():
            seconds = sum(steps[name]["seconds"] for name in own)
            cells += [f"{seconds:.1f}", f"{max(steps[name]['peak_memory_mb'] for name in own):,}"]
        lines.append(f"| {stem} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the twins and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dots", nargs="*", type=int, default=list(COUNTS))
    measured = {}
    for dots in parser.parse_args().dots:
        with tempfile.TemporaryDirectory() as folder:
            measured[dots] = steps_of(dots, Path(folder))
    print(table(measured))


if __name__ == "__main__":
    main()
