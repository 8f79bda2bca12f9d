"""Offline calibration of the contour of a neck: one twin to choose it, others to judge it.

Atoms of a small twin are binned into a volume (no microscope) and blurred as a tomogram is, and the
necks between its true centres are measured at several contours, then at the chosen one on twins of other seeds, dots,
voxels and materials and in noise, which stands for fewer electrons: each varied alone, beside the first of its list::

    python benchmarks/calibrate_necks.py --seeds 11 12 13 --edges_nm 4.5 3.5 6 --noises 0 8

The contour is a fraction of the step between the level of the gap and that of the neck, the blur
and all lengths go with the dot's diameter: nothing depends on grey levels or voxels. Valid for necks
thicker than 0.14 diameters (0.7 nm for 5 nm dots) across gaps wider than 0.06 diameters, for dots of 4 nm and more,
voxels up to 0.04 diameters and noise up to 8, where twins of the default dose have about 5. Two minutes on two cores.
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

#: Lattice constant, nm, and atomic numbers of cation and anion.
MATERIALS = {"PbSe": (0.612, 82, 34), "PbS": (0.594, 82, 16), "PbTe": (0.646, 82, 52), "SnTe": (0.633, 50, 52)}
Z_EXPONENT = 1.7
#: Thickness of the necks that bias and rms speak of, in nominal diameters: 1.5 to 4.5 nm for 5 nm dots.
THICK_DIAMETERS = (0.3, 0.9)
XYZ = ["x_nm", "y_nm", "z_nm"]


def atom_volume(
    positions: np.ndarray, species: np.ndarray, voxel_nm: float, blur_nm: float, weights: np.ndarray
) -> np.ndarray:
    """Atoms binned into voxels by their weight, blurred, the origin in the middle."""
    half = np.abs(positions).max(axis=0)[::-1] + 1.5
    shape = (2 * np.ceil(half / voxel_nm)).astype(int) + 1
    index = np.round(positions[:, ::-1] / voxel_nm + (shape - 1) / 2).astype(int)
    flat = np.ravel_multi_index(index.T, shape)
    counts = np.bincount(flat, weights[species], minlength=shape.prod()).reshape(shape)
    return ndimage.gaussian_filter(counts.astype(np.float32), blur_nm / voxel_nm)


def judge(
    seed: int,
    *,
    voxel_nm: float = 0.09,
    edge_nm: float = 4.5,
    material: str = "PbSe",
    noise: float = 0.0,
    thresholds: list[float],
) -> pd.DataFrame:
    """Bias, rms, false and missed necks of one twin at each contour.

    ``noise`` is that of a voxel of 0.09 nm, in units of the standard deviation of the density; other voxels have as
    much a volume.
    """
    scale = edge_nm / 4.5
    lattice_nm, *numbers = MATERIALS[material]
    lengths = {"a_nm": 6.2, "b_nm": 5.9, "c_nm": 5.7, "neck_diameter_nm": 2.5, "neck_spread_nm": 0.9}
    lengths |= {"neck_minimum_nm": 0.7, "planarity_next_nm": 1.15, "planarity_interior_nm": 0.75}
    scaled = {name: scale * value for name, value in lengths.items()}
    parameters = TwinParameters(seed=seed, qd_count=30, layers=4, edge_nm=edge_nm, lattice_nm=lattice_nm, **scaled)
    structure = build_structure(parameters, np.random.default_rng(seed))
    weights = np.array(numbers) ** Z_EXPONENT
    volume = atom_volume(*place_atoms(structure), voxel_nm, 0.1, weights)
    sd = noise * volume.std() * (0.09 / voxel_nm) ** 1.5
    volume += (sd * np.random.default_rng([seed, 1]).standard_normal(volume.shape)).astype(np.float32)
    diameter_nm = round(2 * edge_nm) / 2 + 0.5
    image = template.body_image(volume, voxel_nm, diameter_nm=diameter_nm)
    whole = structure.dots.set_index("qd")["fraction_inside"] > 0.9
    true = structure.necks[structure.necks["qd_1"].map(whole) & structure.necks["qd_2"].map(whole)]
    d_true = true["diameter_nm"].to_numpy()
    thick = (d_true >= THICK_DIAMETERS[0] * diameter_nm) & (d_true <= THICK_DIAMETERS[1] * diameter_nm)
    rows = []
    for threshold in thresholds:
        d = necks.measure_necks(image, structure.dots[XYZ], true, threshold=threshold)["diameter_nm"].to_numpy()
        error = (d - d_true)[(d > 0) & thick]
        rows.append(
            {
                "seed": seed,
                "edge (nm)": edge_nm,
                "voxel (nm)": voxel_nm,
                "material": material,
                "noise": noise,
                "contour": threshold,
                "pairs": len(true),
                "bias (nm)": error.mean(),
                "rms (nm)": np.sqrt((error**2).mean()),
                "false": int(((d > 0) & (d_true == 0)).sum()),
                "missed": int(((d == 0) & (d_true > 0)).sum()),
            }
        )
    return pd.DataFrame(rows)


def one_at_a_time(lists: dict[str, list]) -> list[dict]:
    """Every value of every list, the others at the first of theirs; the first of all once."""
    first = {name: values[0] for name, values in lists.items()}
    return [first] + [first | {name: value} for name, values in lists.items() for value in values[1:]]


def pooled(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of all seeds of a case as one."""
    table = table.assign(seed=1, **{"rms (nm)": table["rms (nm)"] ** 2}).rename(columns={"seed": "seeds"})
    counts = ("seeds", "pairs", "false", "missed")
    case = [name for name in table if name not in (*counts, "bias (nm)", "rms (nm)")]
    how = {name: "sum" if name in counts else "mean" for name in table if name not in case}
    found = table.groupby(case, sort=False, as_index=False).agg(how)
    return found.assign(**{"rms (nm)": np.sqrt(found["rms (nm)"])})


def markdown(table: pd.DataFrame) -> str:
    """The table with its bias and rms to a thousandth of a nanometre."""
    cells = table.assign(**{name: table[name].map("{:.3f}".format) for name in ("bias (nm)", "rms (nm)")}).astype(str)
    rows = [list(cells), ["---"] * len(cells.columns), *cells.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Print the table of one twin for the choice, and of others for the judgement."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14], help="the first is chosen on")
    parser.add_argument("--edges_nm", type=float, nargs="+", default=[4.5, 2.5, 3.5, 6.5, 8.5])
    parser.add_argument("--voxels_nm", type=float, nargs="+", default=[0.09, 0.07, 0.12, 0.2])
    parser.add_argument("--materials", nargs="+", choices=MATERIALS, default=list(MATERIALS))
    parser.add_argument("--noises", type=float, nargs="+", default=[0.0, 2.0, 4.0, 8.0, 12.0])
    options = parser.parse_args()
    chosen_on, *seeds = options.seeds
    lists = {"edge_nm": options.edges_nm, "voxel_nm": options.voxels_nm}
    lists |= {"material": options.materials, "noise": options.noises}
    first, *others = one_at_a_time(lists)
    print(f"chosen on\n{markdown(judge(chosen_on, thresholds=[0.4, 0.43, 0.46, 0.49, 0.52], **first))}\njudged on")
    cases = [(seed, first) for seed in seeds] + [(seed, case) for case in others for seed in seeds[:2]]
    print(markdown(pooled(pd.concat([judge(seed, thresholds=[necks.THRESHOLD], **case) for seed, case in cases]))))


if __name__ == "__main__":
    main()
