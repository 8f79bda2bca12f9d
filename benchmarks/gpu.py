"""A tomogram of the paper's size on the GPU: FBP and 30 iterations of SIRT, beside the CPU.

Prints a table in Markdown: seconds for all slices and how far the voxels are from the CPU's. The CPU does a
few slices, and its time is scaled up. Our own kernels are timed, and cufinufft where it can be loaded. Without a GPU
it says so and ends.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time

import numpy as np

from mesotomo_utils import backend
from mesotomo_utils.tomography.projector import Projector
from mesotomo_utils.tomography.reconstruction import reconstruct
from mesotomo_utils.tomography.tilt_series import TiltSeries
from mesotomo_utils.tomography.transforms import load_transforms

SIZE, ANGLES_DEG = 992, np.arange(-90.0, 90.0, 1.0)
METHODS = {"FBP": {"method": "fbp"}, "SIRT, 30 iterations": {"method": "sirt", "iterations": 30}}


def noisy_dots(n_z: int) -> TiltSeries:
    """Random grains within the field, projected, with noise; 16 different slices, again and again."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    slices = (rng.random((16, SIZE, SIZE)) < 0.02) * (np.hypot(x, y) < 0.45 * SIZE)
    images = Projector(ANGLES_DEG, SIZE).forward(slices.astype(np.float32))
    images += rng.normal(0, 0.02 * images.max(), images.shape).astype(np.float32)
    return TiltSeries(
        images=np.take(images, np.arange(n_z) % 16, axis=1), angles_deg=ANGLES_DEG, pixel_nm=0.07, name="grains"
    )


def timed(series: TiltSeries, **options: object) -> tuple[float, np.ndarray]:
    """Seconds of a reconstruction, and the tomogram."""
    begun = time.perf_counter()
    volume = reconstruct(series, **options)
    return time.perf_counter() - begun, volume


def row(name: str, seconds: list[float], differences: list[str]) -> str:
    """A line of the table."""
    cells = [f"{second:.1f} s | {difference}" for second, difference in zip(seconds, differences, strict=True)]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Time both methods on the CPU and on the GPU and print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--slices", type=int, default=800, help="slices that the GPU reconstructs")
    parser.add_argument("--cpu-slices", type=int, default=16, help="slices that the CPU reconstructs")
    options = parser.parse_args()
    try:
        backend.resolve_device("cuda")
    except RuntimeError as error:
        print(f"not timed: {error}")
        return
    cupy = importlib.import_module("cupy")
    series = noisy_dots(options.slices)
    few = min(options.cpu_slices, options.slices)
    print(f"{options.slices} slices of {SIZE} x {SIZE} from {len(ANGLES_DEG)} tilts")
    print("| | " + " | ".join(f"{name} | to the CPU" for name in METHODS) + " |")
    print("|---" * (1 + 2 * len(METHODS)) + "|")
    on_cpu = [timed(series, device="cpu", slab=(0, few), **method) for method in METHODS.values()]
    scaled = [seconds * options.slices / few for seconds, _ in on_cpu]
    print(row(f"CPU, {backend.cpu_count()} cores, from {few} slices", scaled, ["0"] * len(METHODS)))
    gpu = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    for wanted in ("cufinufft", "gridding"):
        if wanted == "gridding":
            sys.modules["cufinufft"] = None  # as if it were not installed
        elif load_transforms("cuda")[0] != wanted:
            print("cufinufft cannot be loaded and is left out", file=sys.stderr)
            continue
        reconstruct(series, device="cuda", slab=(0, min(64, options.slices)))  # compiles and plans
        seconds, differences = [], []
        for method, (_, expected) in zip(METHODS.values(), on_cpu, strict=True):
            second, volume = timed(series, device="cuda", **method)
            seconds.append(second)
            differences.append(f"{np.linalg.norm(volume[:few] - expected) / np.linalg.norm(expected):.1e}")
        print(row(f"{gpu}, {wanted}", seconds, differences))


if __name__ == "__main__":
    main()
