"""How far the errors of centres and orientations on twins are from what half sets of tilts say.

    python benchmarks/calibrate_errors.py runs/paper runs/small

Takes finished runs of twins (by default all in runs/) and prints, along each axis, where 68 % of the true errors
lie, σ, and the share of the errors within σ: for whole and for recentred dots, which `centres.HALF_SET_SHARE`,
`SHARED_DIAMETERS` and `RECENTRED_DIAMETERS` were chosen by on the twin `paper`; and the median of error over σ of
the orientations, for `orientation_errors.HALF_SET_SHARE`. A Gaussian error would give 68 % and 0.89. Valid for tilts
in steps of 1 to 2 degrees at 100 to 400 electrons in the brightest pixels: where noise outweighs the streaks of
the missing tilts, the shares rise towards 1 and σ is too small by up to a factor of two.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.mapping.centres import rigid_motion
from mesotomo_utils.mapping.orientation import QUATERNION
from mesotomo_utils.twin.matching import match_dots

XYZ = ["x_nm", "y_nm", "z_nm"]
SIGMA = ["sigma_x_nm", "sigma_y_nm", "sigma_z_nm"]


def judge(run_dir: Path) -> pd.DataFrame:
    """One row a kind of dot: numbers of one run."""
    true, dots = (pd.read_csv(run_dir / name) for name in ("truth/dots.csv", "qds.csv"))
    mine, theirs, _ = match_dots(dots[XYZ], true[XYZ], radius_nm=2.5)
    true, dots = true.iloc[theirs].reset_index(drop=True), dots.iloc[mine].reset_index(drop=True)
    rotation, shift = rigid_motion(dots[XYZ], true[XYZ])
    error = np.abs(dots[XYZ] @ rotation.T + shift - true[XYZ].to_numpy()).to_numpy()
    sigma = dots[SIGMA].to_numpy()
    R, R_true = (lattice.from_quaternions(table[QUATERNION].to_numpy()) for table in (dots, true))
    turn = np.min(
        lattice.rotation_angle_deg((rotation @ R)[:, None] @ lattice.cubic_rotations() @ R_true.mT[:, None]), 1
    )
    recentred = sigma[:, 0] > 2 * np.nanmedian(sigma[:, 0])
    rows = []
    for kind, chosen in {"at least 90 % inside": true["fraction_inside"] >= 0.9, "recentred": recentred}.items():
        if not chosen.any():
            continue
        row = {"run": run_dir.name, "dots": kind, "n": int(chosen.sum())}
        for axis, name in enumerate("xyz"):
            row[f"68 % {name} (nm)"] = np.quantile(error[chosen, axis], 0.68)
            row[f"σ {name} (nm)"] = np.median(sigma[chosen, axis])
            row[f"within {name}"] = (error[chosen, axis] <= sigma[chosen, axis]).mean()
        row["turn (°)"] = np.nanmedian(turn[chosen])
        row["turn / σ"] = np.nanmedian(turn[chosen] / dots["sigma_deg"].to_numpy()[chosen])
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    found = [Path(name) for name in sys.argv[1:]] or sorted(
        path.parents[1] for path in Path("runs").glob("*/truth/dots.csv")
    )
    runs = [run for run in found if (run / "qds.csv").exists() and (run / "orientations.csv").exists()]
    if not runs:
        print("there is no finished run of a twin: make run, or name its folder")
        return
    table = pd.concat([judge(run) for run in runs], ignore_index=True)
    print(table.round(4).to_string(index=False))


if __name__ == "__main__":
    main()
