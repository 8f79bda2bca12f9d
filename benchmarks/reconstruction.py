"""Reconstruction at the paper's size: speed, error, residual and memory, beside the peers that are installed.

One run prints all ratios. Peers: TomoPy (conda-forge, or built from source), ASTRA on the CPU
(``pip install 'mesotomo[peers]'``) and scikit-image's ``iradon``, which is always there; one that is absent is
named. Besides the time on the clock stands that of the processor, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from skimage.transform import iradon

from mesotomo_utils.backend import cpu_count
from mesotomo_utils.tomography.projector import Projector
from mesotomo_utils.tomography.reconstruction import reconstruct
from mesotomo_utils.tomography.tilt_series import TiltSeries
from mesotomo_utils.tomography.tomogram import open_tomogram

ANGLES_DEG = np.arange(-90.0, 90.0, 1.0)
PAPER = (800, 992)
"""Slices, and their edge in pixels."""
ITERATIONS, ITERATED = 30, 512
"""Iterations beside ASTRA, and the edge of the slice: it takes a minute there where ours takes one second."""


class Blobs:
    """Gaussian blobs in a slice of n × n pixels, whose projections are known."""

    def __init__(self, n: int) -> None:
        rng = np.random.default_rng(0)
        self.n = n
        radius, turn = 0.42 * n * np.sqrt(rng.random(60)), rng.uniform(0, 2 * np.pi, 60)
        self.x, self.y = radius * np.cos(turn), radius * np.sin(turn)
        self.height, self.sigma = rng.uniform(0.5, 2, 60), rng.uniform(2, 12, 60)

    def series(self, slices: int, *, noise: float = 0.0) -> TiltSeries:
        """The same slice many times, each with its own height; noise as a part of the largest value."""
        t = np.deg2rad(ANGLES_DEG)[:, None]
        u = np.arange(self.n) - (self.n - 1) / 2
        image = np.zeros((len(t), self.n), np.float32)
        for x, y, height, sigma in zip(self.x, self.y, self.height, self.sigma, strict=True):
            profile = np.exp(-((u - x * np.cos(t) - y * np.sin(t)) ** 2) / (2 * sigma**2))
            image += (height * sigma * np.sqrt(2 * np.pi) * profile).astype(np.float32)
        images = image[:, None] * self.heights(slices)[:, None]
        if noise:
            images += noise * image.max() * np.random.default_rng(1).standard_normal(images.shape, np.float32)
        return TiltSeries(images=images, angles_deg=ANGLES_DEG, pixel_nm=1.0, name="blobs")

    def heights(self, slices: int) -> np.ndarray:
        """(slices,) what each slice is multiplied by."""
        return np.linspace(1, 2, slices, dtype=np.float32)

    def truth(self, axis: tuple[float, float] | None = None) -> np.ndarray:
        """(n, n) values, with the rotation axis at (row, column): the exact centre if left out."""
        row, column = axis or ((self.n - 1) / 2, (self.n - 1) / 2)
        y, x = np.arange(self.n)[:, None] - row, np.arange(self.n) - column
        blobs = zip(self.x, self.y, self.height, self.sigma, strict=True)
        return sum(h * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * s**2)) for x0, y0, h, s in blobs)


def taken(function: Callable[[], np.ndarray], slices: int, *, repeats: int = 5) -> tuple[float, float, np.ndarray]:
    """Median seconds for a slice, on the clock and of the processor, and the last result."""
    result = function()  # not counted
    seconds = []
    for _ in range(repeats):
        clock, processor = time.perf_counter(), time.process_time()
        result = function()
        seconds.append(((time.perf_counter() - clock) / slices, (time.process_time() - processor) / slices))
    return median(s[0] for s in seconds), median(s[1] for s in seconds), result


def present(name: str) -> bool:
    """Whether a peer is installed; says so where it is not."""
    if importlib.util.find_spec(name) is None:
        print(f"  {name} is not installed and is left out")
        return False
    return True


def back_projection() -> None:
    """FBP: seconds a slice and relative error."""
    n, slices = PAPER[1], 64
    blobs = Blobs(n)
    series = blobs.series(slices)
    few = TiltSeries(images=series.images[:, :2], angles_deg=ANGLES_DEG, pixel_nm=1.0, name="blobs")
    truth = blobs.truth()
    heights = blobs.heights(slices)
    print(f"FBP of {n} x {n} from {len(ANGLES_DEG)} tilts, {cpu_count()} cores")
    print("                               s a slice     ratio   core s a slice    ratio    error")
    ours = None

    def report(name: str, clock: float, processor: float, error: float | None) -> None:
        nonlocal ours
        ours = ours or (clock, processor)
        ratios = f"{clock:9.4f} {clock / ours[0]:8.1f} x   {processor:9.4f} {processor / ours[1]:9.1f} x"
        print(f"  {name:<28} {ratios}   {'' if error is None else f'{error:7.4f}'}", flush=True)

    clock, processor, found = taken(lambda: reconstruct(series, device="cpu"), slices)
    report("mesotomo, NUFFT", clock, processor, relative(found[0] / heights[0], truth))
    if present("tomopy"):
        import tomopy

        options = {"center": (n - 1) / 2, "algorithm": "gridrec", "filter_name": "ramlak"}
        radians = -np.deg2rad(ANGLES_DEG)
        clock, processor, found = taken(lambda: tomopy.recon(series.images, radians, **options), slices)
        # judged about the axis that it has, and by the best scale and the best constant
        its = blobs.truth((n // 2 - 1, n // 2))
        level = np.stack([found[0].ravel(), np.ones(n * n)], axis=1)
        best = level @ np.linalg.lstsq(level, its.ravel(), rcond=None)[0]
        report("TomoPy gridrec", clock, processor, relative(best, its.ravel()))
        clock, processor, found = taken(lambda: reconstruct(few, engine="tomopy", device="cpu"), 2, repeats=1)
        report("the same, padded", clock, processor, relative(found[0] / heights[0], truth))
    if present("astra"):
        clock, processor, found = taken(lambda: reconstruct(few, engine="astra", device="cpu"), 2, repeats=1)
        report("ASTRA", clock, processor, relative(found[0] / heights[0], truth))
    image = series.images[:, 0].T
    report("scikit-image iradon", *taken(lambda: iradon(image, theta=ANGLES_DEG, circle=True), 1, repeats=1)[:2], None)


def iterations() -> None:
    """SIRT and CGLS: seconds a slice and the residual, each by its own projector."""
    n, slices = ITERATED, 16
    series = Blobs(n).series(slices, noise=0.01)
    one = TiltSeries(images=series.images[:, :1], angles_deg=ANGLES_DEG, pixel_nm=1.0, name="blobs")
    print(f"{ITERATIONS} iterations, {n} x {n} from {len(ANGLES_DEG)} tilts with 1 % noise, no bound on the slices")
    has_astra, has_tomopy = present("astra"), present("tomopy")
    for method in ("sirt", "cgls"):
        options = {"method": method, "nonnegative": False, "device": "cpu"}
        clock, processor, found = once(reconstruct, series, iterations=ITERATIONS, **options)
        clock, processor = clock / slices, processor / slices
        residual = relative(Projector(ANGLES_DEG, n).forward(found[:1]), one.images)
        ours = f"{clock:8.3f} s a slice ({processor:.3f} core s), residual {residual:.5f}"
        print(f"  {method}  mesotomo {ours}", flush=True)
        if has_astra:
            theirs = once(reconstruct, one, engine="astra", iterations=ITERATIONS, **options)
            their_residual = relative(astra_forward(theirs[2][0]), one.images[:, 0])
            print(
                f"        ASTRA    {theirs[0]:8.3f} s a slice ({theirs[1]:.3f} core s), residual {their_residual:.5f}: "
                f"{theirs[0] / clock:.0f} x the time ({theirs[1] / processor:.0f} x core s); our residual is "
                f"{100 * (residual / their_residual - 1):+.2f} % of it off",
                flush=True,
            )
        if has_tomopy and method == "sirt":
            theirs = once(reconstruct, one, engine="tomopy", iterations=3, **options)
            seconds, core_seconds = (ITERATIONS / 3 * value for value in theirs[:2])
            print(
                f"        TomoPy   {seconds:8.3f} s a slice ({core_seconds:.3f} core s), from 3 iterations: "
                f"{seconds / clock:.0f} x the time ({core_seconds / processor:.0f} x core s)",
                flush=True,
            )


def once(function: Callable[..., np.ndarray], *arguments: object, **options: object) -> tuple[float, float, np.ndarray]:
    """Seconds on the clock and of the processor, and the result, of what takes too long to repeat."""
    clock, processor = time.perf_counter(), time.process_time()
    result = function(*arguments, **options)
    return time.perf_counter() - clock, time.process_time() - processor, result


def astra_forward(slices: np.ndarray) -> np.ndarray:
    """(T, n) projections of one slice by ASTRA's ``linear`` projector."""
    import astra

    n = len(slices)
    geometry = astra.create_proj_geom("parallel", 1.0, n, -np.deg2rad(ANGLES_DEG))
    projector = astra.create_projector("linear", geometry, astra.create_vol_geom(n, n))
    identity, series = astra.create_sino(slices, projector)
    astra.data2d.delete(identity)
    astra.projector.delete(projector)
    return series


def relative(found: np.ndarray, truth: np.ndarray) -> float:
    """Norm of the difference as a part of the truth's."""
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


def paper_size() -> None:
    """FBP of the whole paper-size series, in memory and with a limit into Zarr, each in a process of its own."""
    slices, n = PAPER
    print(f"FBP of {len(ANGLES_DEG)} x {slices} x {n} to {slices} x {n} x {n}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tomogram.ome.zarr"
        for name, limit in (("memory='4GB', into Zarr", "4GB"), ("in memory", "")):
            command = [sys.executable, __file__, "--child", str(path), "--limit", limit]
            answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(
                f"  {name:<24} {answer['seconds']:6.1f} s ({answer['core_seconds']:.1f} core s), peak "
                f"{answer['peak'] / 1e9:.2f} GB = {answer['peak'] / answer['data']:.2f} x (series + tomogram)",
                flush=True,
            )
        print(f"  the two differ by {answer['difference']:.1e} of the largest value")


def child(path: Path, limit: str) -> None:
    """One run of the paper's size; prints JSON."""
    slices, n = PAPER
    series = Blobs(n).series(slices)
    options = {"memory": limit, "out": path} if limit else {}
    clock, processor, found = once(reconstruct, series, device="cpu", **options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    data = 4 * (series.images.size + slices * n * n)
    answer = {"seconds": clock, "core_seconds": processor, "peak": peak, "data": data}
    if not limit:
        tomogram = open_tomogram(path)
        parts = range(0, slices, 50)
        differences = [np.abs(np.asarray(tomogram.data[z : z + 50]) - found[z : z + 50]).max() for z in parts]
        answer["difference"] = float(max(differences) / np.abs(found).max())
    print(json.dumps(answer))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--limit", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.limit)
    else:
        back_projection()
        iterations()
        paper_size()
