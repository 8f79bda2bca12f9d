"""What limited tilts cost: six twins of other seeds and cells, with a wedge of tilts missing, run blindly.

    python benchmarks/limited_tilts.py [FOLDER]

Each is run as far as the orientations and compared with its truth; a FOLDER keeps the runs, and a second call goes on
from what is there. `calibrate_errors.py` tells more of the errors of finished runs, and says on which of the six its
constants were chosen. Two to four minutes a twin on two cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mesotomo_utils.twin import compare

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = """\
name: {name}
twin:
  seed: {seed}
  qd_count: {dots}
  a_nm: {cell[0]}
  b_nm: {cell[1]}
  c_nm: {cell[2]}
  alpha_deg: {cell[3]}
  beta_deg: {cell[4]}
  gamma_deg: {cell[5]}
  pixel_nm: 0.09
  dose_electrons: {electrons}
  first_tilt_deg: {first}
  n_tilts: {tilts}
  tilt_step_deg: {step}
material: {{name: PbSe, lattice_nm: 0.612, structure: rocksalt}}
quantum_dot: {{diameter_nm: 5.0}}
film_bottom: low_z
"""
TWINS: dict[str, dict[str, Any]] = {
    "w5": {"seed": 35, "dots": 120, "cell": (6.5, 6.2, 5.7, 97, 91, 90), "first": -67.5, "tilts": 91, "step": 1.5},
    "w3": {"seed": 33, "dots": 110, "cell": (5.9, 5.7, 5.6, 101, 93, 95), "first": -68.75, "tilts": 111, "step": 1.25},
    "w1": {"seed": 31, "dots": 100, "cell": (6.2, 6.0, 5.8, 98, 95, 93), "first": -70, "tilts": 113, "step": 1.25},
    "w4": {"seed": 34, "dots": 100, "cell": (6.1, 5.9, 6.0, 95, 99, 101), "first": -70, "tilts": 141, "step": 1.0},
    "w2": {"seed": 32, "dots": 90, "cell": (6.4, 6.3, 5.9, 92, 97, 88), "first": -75, "tilts": 151, "step": 1.0},
    "w6": {"seed": 36, "dots": 100, "cell": (6.1, 5.9, 6.0, 95, 99, 101), "first": -80, "tilts": 129, "step": 1.25},
}
"""In the order of the table; those of 250 electrons in :data:`ELECTRONS`, the others have 400."""
ELECTRONS = {"w3": 250}
HEAD = (
    *("tilts", "electrons", "centres, median (95 %) (nm)", "within σ along x, y, z"),
    *("orientations, median (°)", "error / σ", "necks told", "bias, rms (nm)", "within σ"),
)


def run(name: str, folder: Path) -> Path:
    """Run a twin as far as the orientations; its run folder."""
    sample, run_dir = folder / f"{name}.yaml", folder / f"r_{name}"
    folder.mkdir(parents=True, exist_ok=True)
    sample.write_text(SAMPLE.format(name=name, electrons=ELECTRONS.get(name, 400), **TWINS[name]))
    command = [sys.executable, "-m", "mesotomo_utils.workflow.cli", "run", sample, "--out", run_dir, "--to", "03"]
    subprocess.run(command, check=True, stdout=sys.stderr, cwd=ROOT)
    return run_dir


def row(name: str, run_dir: Path) -> str:
    """What the README's table says of a finished run, in Markdown."""
    twin, comparison = TWINS[name], compare.compare_run(run_dir)
    dots = comparison["dots"]

    def of_necks(name: str) -> float:
        return comparison["necks"].get(f"neck_{name}", float("nan"))

    centre = dots["centre_error_nm"]
    within = ", ".join(f"{100 * share:.0f}" for share in dots["centre_within_sigma"])
    last = twin["first"] + (twin["tilts"] - 1) * twin["step"]
    cells = (
        f"{twin['first']:g} to {last:g}° by {twin['step']:g}°",
        ELECTRONS.get(name, 400),
        f"{centre['median']:.3f} ({centre['p95']:.2f})",
        f"{within} %",
        f"{dots['orientation_error_deg']['median']:.2f}",
        f"{dots['orientation_error_over_sigma']:.2f}",
        f"{100 * (1 - of_necks('pairs_untold_fraction')):.0f} %",
        f"{of_necks('diameter_bias_nm'):.2f}, {of_necks('diameter_rms_nm'):.2f}",
        f"{100 * of_necks('error_within_sigma'):.0f} %",
    )
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Run the six and print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="where the runs are kept; by default they are not")
    options = parser.parse_args()
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    with tempfile.TemporaryDirectory() as unkept:
        folder = (options.folder or Path(unkept)).resolve()
        for name in TWINS:
            print(row(name, run(name, folder)), flush=True)


if __name__ == "__main__":
    main()
