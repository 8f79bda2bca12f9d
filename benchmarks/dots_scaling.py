"""Seconds a dot of 02 and 03, from 60 to 600 to 6,000 dots.

One tile of eight dots, each a lattice of atoms turned on its own, in noise, is repeated to a tomogram that is never
held as a whole (6,000 dots of 5 nm take 7 GB of voxels of 0.09 nm). Timed are the picture of whole dots, centres,
indices and necks (02), and the search of all orientations (03): medians of ten and of four runs, half of them before
and half after the largest, which takes minutes and is timed once: the speed of a machine drifts. What the tilts repeat
of the lattices is not in it: that goes with the voxels, not with the dots. Eight to fifteen minutes on two cores, 5 GB.

    python benchmarks/dots_scaling.py [60] [600] [6000] [--device cuda]
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.mapping import centres, model_dot, necks, orientation, superlattice, template

VOXEL_NM, LATTICE_NM, DIAMETER_NM = 0.09, 0.612, 5.0
PITCH = 66  # voxels from dot to dot
COUNTS = {60: (4, 4, 4), 600: (9, 8, 8), 6000: (19, 18, 18)}
REPEATS = {60: 5, 600: 2, 6000: 1}
TIMES = ("02 (ms a dot)", "03 (ms a dot)")


class Tiled:
    """A tile repeated along z, y, x, and vacuum around it; gives NumPy arrays for slices, as a Zarr array does."""

    def __init__(self, tile: np.ndarray, cells: tuple[int, int, int], margin: int) -> None:
        self.tile, self.margin = tile, margin
        self.inner = tuple(n * PITCH for n in cells)
        self.shape = tuple(n + 2 * margin for n in self.inner)
        self.dtype = tile.dtype

    def __getitem__(self, part: slice | tuple[slice, ...]) -> np.ndarray:
        parts = part if isinstance(part, tuple) else (part,)
        parts += (slice(None),) * (3 - len(parts))
        index = [np.arange(*s.indices(n)) - self.margin for s, n in zip(parts, self.shape, strict=True)]
        values = self.tile[np.ix_(*(i % n for i, n in zip(index, self.tile.shape, strict=True)))]
        for axis, (i, n) in enumerate(zip(index, self.inner, strict=True)):
            values[(slice(None),) * axis + ((i < 0) | (i >= n),)] = 0
        return values


def eight_dots(rng: np.random.Generator) -> np.ndarray:
    """A tile of 2 x 2 x 2 dots, each turned by a few degrees, in noise of twice the density's own deviation."""
    positions, cation = model_dot.rocksalt_dot(lattice_nm=LATTICE_NM, edge_nm=DIAMETER_NM)
    turns = lattice.from_rotation_vectors(np.deg2rad(rng.normal(scale=4.0, size=(8, 3))))
    sites = (np.array(list(np.ndindex(2, 2, 2))) - 0.5) * PITCH * VOXEL_NM
    atoms = np.concatenate([positions @ R.T + at for R, at in zip(turns, sites, strict=True)])
    weights = np.tile(np.where(cation, 4.5, 1.0), 8)
    tile = model_dot.blobs(atoms, weights, shape=(2 * PITCH,) * 3, voxel_nm=VOXEL_NM, sigma_nm=0.1)
    return tile + (2 * tile.std() * rng.standard_normal(tile.shape)).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("counts", nargs="*", type=int, default=list(COUNTS), help="60, 600 or 6000")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    tile = eight_dots(np.random.default_rng(0))
    if not set(options.counts) <= set(COUNTS):
        parser.error(f"counts are among {', '.join(map(str, COUNTS))}, not {options.counts}")
    timed(tile, COUNTS[60], options.device)  # imports and plans of transforms are made once, whatever the dots
    counts = sorted(options.counts)
    runs: dict[int, list[dict[str, float]]] = {n: [] for n in counts}
    for n in counts + counts[-2::-1]:
        runs[n] += [timed(tile, COUNTS[n], options.device) for _ in range(REPEATS[n])]
    found = [runs[n][0] | {name: median(run[name] for run in runs[n]) for name in TIMES} for n in counts]
    table = pd.DataFrame(found)
    print(table.round(1).to_string(index=False))
    ratios = ", ".join(f"{name[:2]} {table[name].max() / table[name].min():.2f}" for name in TIMES)
    print(f"dearest dot by cheapest: {ratios}")


def timed(tile: np.ndarray, cells: tuple[int, int, int], device: str) -> dict[str, float]:
    """What is found in so many cells, and the time that a dot takes."""
    volume = Tiled(tile, cells, margin=30)
    begun = time.perf_counter()
    image = template.body_image(volume, VOXEL_NM, diameter_nm=DIAMETER_NM, device=device)
    xyz = centres.find_centres(image)[0][["x_nm", "y_nm", "z_nm"]].to_numpy()
    grown = superlattice.index_superlattice(xyz)
    joints = necks.measure_necks(image, xyz, superlattice.neighbour_pairs(grown))
    middle = time.perf_counter()
    window = orientation.default_window_nm(DIAMETER_NM)
    settings = {"lattice_nm": LATTICE_NM, "window_nm": window, "strain": False, "device": device}
    table = orientation.orient_dots(volume, VOXEL_NM, xyz, **settings)
    end = time.perf_counter()
    each = dict(zip(TIMES, (1e3 * (middle - begun) / len(xyz), 1e3 * (end - middle) / len(xyz)), strict=True))
    found = {"put in": int(np.prod(cells)), "found": len(xyz), "pairs": len(joints), "oriented": table["qw"].count()}
    return found | each


if __name__ == "__main__":
    main()
