"""Filtered back-projection of a few paper-size slices: ours beside the peers that are installed.

Prints the median of several repeats and the ratio to each peer, all in one run. Peers:
scikit-image's ``iradon`` (always there) and ASTRA's CPU projector (``pip install 'mesotomo[peers]'``).
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from statistics import median

import numpy as np
from skimage.transform import iradon

from mesotomo_utils.tomography.reconstruction import reconstruct
from mesotomo_utils.tomography.tilt_series import TiltSeries

SIZE, SLICES, REPEATS = 992, 8, 5
ANGLES_DEG = np.arange(-90.0, 90.0, 1.0)


def seconds_a_slice(function: Callable[[], object], slices: int) -> float:
    """Median wall-clock seconds for one slice; one run first that is not counted."""
    function()
    taken = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        function()
        taken.append((time.perf_counter() - begun) / slices)
    return median(taken)


def main() -> None:
    """Time all engines on the same random sinograms and print a table."""
    rng = np.random.default_rng(0)
    images = rng.random((len(ANGLES_DEG), SLICES, SIZE), dtype=np.float32)
    series = TiltSeries(images=images, angles_deg=ANGLES_DEG, pixel_nm=0.07, name="noise")
    runs = {"mesotomo, NUFFT": (lambda: reconstruct(series), SLICES)}
    if importlib.util.find_spec("astra"):
        few = series.images[:, :2]
        astra = TiltSeries(images=few, angles_deg=ANGLES_DEG, pixel_nm=0.07, name="noise")
        runs["ASTRA, CPU"] = (lambda: reconstruct(astra, engine="astra", device="cpu"), 2)
    else:
        print("ASTRA is not installed and is left out")
    runs["scikit-image iradon"] = (lambda: iradon(images[:, 0].T, theta=ANGLES_DEG, circle=True), 1)

    ours = None
    print(f"FBP of {SIZE} x {SIZE} from {len(ANGLES_DEG)} tilts, median of {REPEATS}")
    for name, (function, slices) in runs.items():
        taken = seconds_a_slice(function, slices)
        ours = taken if ours is None else ours
        print(f"  {name:<22} {taken:8.4f} s a slice   {taken / ours:6.1f} x ours")


if __name__ == "__main__":
    main()
