"""Offline calibration of the contour of a neck: one twin to choose it, another seed to judge it.

Atoms of a small twin are binned into a volume (no microscope) and blurred as a tomogram is, and the
necks between its true centres are measured at several contours::

    python benchmarks/calibrate_necks.py

The contour is a fraction of the step between the level of the gap and that of the bodies, the blur
and all lengths go with the dot's diameter: nothing depends on grey levels or voxels. Valid for necks
thicker than 0.14 diameters (0.7 nm for 5 nm dots) across gaps wider than 0.06 diameters.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from scipy import ndimage

from mesotomo_utils.mapping import necks, template
from mesotomo_utils.twin.atoms import place_atoms
from mesotomo_utils.twin.imposed import TwinParameters
from mesotomo_utils.twin.structure import build_structure

WEIGHTS = np.array([82**1.7, 34**1.7])
XYZ = ["x_nm", "y_nm", "z_nm"]


def atom_volume(positions: np.ndarray, species: np.ndarray, voxel_nm: float, blur_nm: float) -> np.ndarray:
    """Atoms binned into voxels by their weight, blurred, the origin in the middle."""
    half = np.abs(positions).max(axis=0)[::-1] + 1.5
    shape = (2 * np.ceil(half / voxel_nm)).astype(int) + 1
    index = np.round(positions[:, ::-1] / voxel_nm + (shape - 1) / 2).astype(int)
    flat = np.ravel_multi_index(index.T, shape)
    counts = np.bincount(flat, WEIGHTS[species], minlength=shape.prod()).reshape(shape)
    return ndimage.gaussian_filter(counts.astype(np.float32), blur_nm / voxel_nm)


def judge(seed: int, *, voxel_nm: float, edge_nm: float, thresholds: list[float]) -> pd.DataFrame:
    """Bias, rms, false and missed necks of one twin at each contour."""
    scale = edge_nm / 4.5
    parameters = TwinParameters(
        seed=seed, qd_count=30, layers=4, edge_nm=edge_nm, a_nm=6.2 * scale, b_nm=5.9 * scale, c_nm=5.7 * scale
    )
    structure = build_structure(parameters, np.random.default_rng(seed))
    volume = atom_volume(*place_atoms(structure), voxel_nm, blur_nm=0.1)
    image = template.body_image(volume, voxel_nm, diameter_nm=round(2 * edge_nm) / 2 + 0.5)
    whole = structure.dots.set_index("qd")["fraction_inside"] > 0.9
    true = structure.necks[structure.necks["qd_1"].map(whole) & structure.necks["qd_2"].map(whole)]
    rows = []
    for threshold in thresholds:
        found = necks.measure_necks(image, structure.dots[XYZ], true, threshold=threshold)
        d, d_true = found["diameter_nm"].to_numpy(), true["diameter_nm"].to_numpy()
        error = (d - d_true)[(d > 0) & (d_true > 0)]
        rows.append(
            {
                "seed": seed,
                "contour": threshold,
                "pairs": len(true),
                "bias_nm": error.mean(),
                "rms_nm": np.sqrt((error**2).mean()),
                "false": int(((d > 0) & (d_true == 0)).sum()),
                "missed": int(((d == 0) & (d_true > 0)).sum()),
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    """Print the table of one twin for the choice, and of others for the judgement."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12])
    parser.add_argument("--voxel_nm", type=float, default=0.09)
    parser.add_argument("--edge_nm", type=float, default=4.5)
    options = parser.parse_args()
    thresholds = [0.35, 0.4, 0.45, 0.5, 0.55]
    first, *others = options.seeds
    common = {"voxel_nm": options.voxel_nm, "edge_nm": options.edge_nm}
    print("chosen on\n", judge(first, thresholds=thresholds, **common).round(3).to_string(index=False))
    for seed in others:
        table = judge(seed, thresholds=[necks.THRESHOLD], **common)
        print("judged on\n", table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
