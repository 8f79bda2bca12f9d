"""Reconstruction at the paper's size: speed, error, residual and memory, beside the peers that are installed.

One run prints all ratios. Peers: TomoPy (conda-forge, or built from source), ASTRA on the CPU
(``pip install 'mesotomo[peers]'``) and scikit-image's ``iradon``, which is always there; one that is absent is
named. Besides the time on the clock stands that of the processor, which other work on the machine changes less.
``--record`` stores the table in ``reconstruction.json``. A row more has finufft in place of our own transforms.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np
from skimage.transform import iradon

from mesotomo_utils.backend import cpu_count
from mesotomo_utils.tomography.projector import Projector
from mesotomo_utils.tomography.reconstruction import reconstruct
from mesotomo_utils.tomography.tilt_series import TiltSeries
from mesotomo_utils.tomography.tomogram import open_tomogram
from mesotomo_utils.tomography.transforms import TRANSFORMS

ANGLES_DEG = np.arange(-90.0, 90.0, 1.0)
STORED = Path(__file__).with_suffix(".json")
COLUMNS = ("seconds", "core_seconds", "error")
"""Of a slice, on the clock and of the processor; relative error of FBP, relative residual of SIRT and CGLS."""
PAPER = (800, 992)
"""Slices, and their edge in pixels."""
OTHER_SIZES, PROJECTED = (864, 1024, 1200), 200
"""Other edges, beside gridrec alone, and how many slices are timed."""
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
        """The same slice many times, from once to twice as high; noise as a part of the largest value."""
        t = np.deg2rad(ANGLES_DEG)[:, None]
        u = np.arange(self.n) - (self.n - 1) / 2
        image = np.zeros((len(t), self.n), np.float32)
        for x, y, height, sigma in zip(self.x, self.y, self.height, self.sigma, strict=True):
            profile = np.exp(-((u - x * np.cos(t) - y * np.sin(t)) ** 2) / (2 * sigma**2))
            image += (height * sigma * np.sqrt(2 * np.pi) * profile).astype(np.float32)
        images = image[:, None] * np.linspace(1, 2, slices, dtype=np.float32)[:, None]
        if noise:
            images += noise * image.max() * np.random.default_rng(1).standard_normal(images.shape, np.float32)
        return TiltSeries(images=images, angles_deg=ANGLES_DEG, pixel_nm=1.0, name="blobs")

    def truth(self, axis: tuple[float, float] | None = None) -> np.ndarray:
        """(n, n) values of the first, with the rotation axis at (row, column): the exact centre if left out."""
        row, column = axis or ((self.n - 1) / 2, (self.n - 1) / 2)
        y, x = np.arange(self.n)[:, None] - row, np.arange(self.n) - column
        blobs = zip(self.x, self.y, self.height, self.sigma, strict=True)
        return sum(h * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * s**2)) for x0, y0, h, s in blobs)


def taken(function: Callable[[], np.ndarray], slices: int, *, repeats: int = 5) -> tuple[float, float, np.ndarray]:
    """Median seconds for a slice, on the clock and of the processor, and the last result."""
    if repeats > 1:
        function()  # not counted
    seconds = []
    for _ in range(repeats):
        result = None  # its memory, which the machine has given already, serves the next one
        clock, processor, result = once(function)
        seconds.append((clock / slices, processor / slices))
    return median(s[0] for s in seconds), median(s[1] for s in seconds), result


def once(function: Callable[..., np.ndarray], *arguments: object, **options: object) -> tuple[float, float, np.ndarray]:
    """Seconds on the clock and of the processor, and the result."""
    clock, processor = time.perf_counter(), time.process_time()
    result = function(*arguments, **options)
    return time.perf_counter() - clock, time.process_time() - processor, result


def present(name: str) -> bool:
    """Whether a peer is installed; says so where it is not."""
    if importlib.util.find_spec(name) is None:
        print(f"{name} is not installed and is left out")
        return False
    return True


class Table:
    """Rows beside the first of their task, printed in Markdown as they come."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []
        print("| | | s a slice | ratio | core s a slice | ratio | error or residual |\n|---|---|---|---|---|---|---|")

    def add(self, task: str, program: str, clock: float, processor: float, error: float | None) -> None:
        """A row of a task, of which the first is ours; its error or its residual."""
        rounded = [None if value is None else float(f"{value:.4g}") for value in (clock, processor, error)]
        row = {"task": task, "program": program} | dict(zip(COLUMNS, rounded, strict=True))
        self.rows.append(row)
        ours = next(first for first in self.rows if first["task"] == task)
        times = [f"{row[name]:.4f} | {row[name] / ours[name]:.1f}" for name in COLUMNS[:2]]
        cells = (task if row is ours else "", program, *times, "" if error is None else f"{error:.5f}")
        print(f"| {' | '.join(cells)} |", flush=True)


def back_projection(table: Table, astra: bool, tomopy: bool) -> None:
    """FBP: seconds a slice and relative error."""
    n = PAPER[1]
    blobs = Blobs(n)
    series = blobs.series(PROJECTED)
    few = TiltSeries(images=series.images[:, :8], angles_deg=ANGLES_DEG, pixel_nm=1.0, name="blobs")
    truth = blobs.truth()
    add = partial(table.add, f"FBP, {n}² from {len(ANGLES_DEG)} tilts")
    add("mesotomo", *fbp(series, truth))
    with mock.patch.dict(TRANSFORMS, cpu=("finufft",)):
        add("mesotomo, by finufft", *fbp(series, truth))
    if tomopy:
        add("TomoPy gridrec", *gridrec(blobs, series.images))
        # it wraps what its filter spreads beyond the field: padded by a half it does so no longer
        add("TomoPy gridrec, padded by a half", *gridrec(blobs, series.images[:, :16], padding=n // 4))
        add("TomoPy gridrec, as our engine", *fbp(few, truth, engine="tomopy", repeats=3))
    if astra:
        add("ASTRA", *fbp(few, truth, engine="astra", repeats=1))
    image = series.images[:, 0].T
    add("scikit-image iradon", *taken(lambda: iradon(image, theta=ANGLES_DEG, circle=True), 1, repeats=3)[:2], None)
    if tomopy:
        for n in OTHER_SIZES:  # gridrec pads to a power of two
            blobs = Blobs(n)
            series = blobs.series(PROJECTED)
            add = partial(table.add, f"FBP, {n}² from {len(ANGLES_DEG)} tilts")
            add("mesotomo", *fbp(series, blobs.truth()))
            add("TomoPy gridrec", *gridrec(blobs, series.images))


def fbp(
    series: TiltSeries, truth: np.ndarray, *, engine: str = "nufft", repeats: int = 5
) -> tuple[float, float, float]:
    """One of our engines: seconds a slice, on the clock and of the processor, and relative error of the first slice."""
    run = partial(reconstruct, series, engine=engine, device="cpu", out=room(series.images))
    clock, processor, found = taken(run, series.images.shape[1], repeats=repeats)
    return clock, processor, relative(found[0], truth)


def gridrec(blobs: Blobs, images: np.ndarray, *, padding: int = 0) -> tuple[float, float, float]:
    """TomoPy's gridrec: the same."""
    n = blobs.n
    images = np.pad(images, ((0, 0), (0, 0), (padding, padding)))
    run = gridrec_of(images, padding + (n - 1) / 2, init_recon=room(images))
    clock, processor, found = taken(run, images.shape[1], repeats=3)
    # judged about the axis that it has, and by the best scale and the best constant
    its = blobs.truth((n // 2 - 1, n // 2)).ravel()
    inside = found[0, padding : padding + n, padding : padding + n].ravel()
    level = np.stack([inside, np.ones(n * n)], axis=1)
    best = level @ np.linalg.lstsq(level, its, rcond=None)[0]
    return clock, processor, relative(best, its)


def gridrec_of(images: np.ndarray, centre: float, **options: object) -> Callable[[], np.ndarray]:
    """TomoPy's gridrec of images [tilt, z, u], ready to run."""
    import tomopy as peer

    options |= {"center": centre, "algorithm": "gridrec", "filter_name": "ramlak"}
    return partial(peer.recon, images, -np.deg2rad(ANGLES_DEG), **options)


def room(images: np.ndarray) -> np.ndarray:
    """For the slices: both programs fill what they are given, time and again.

    A machine may need longer to give new memory than they to fill it. The runs of the paper's size begin with none.
    """
    return np.zeros((images.shape[1], images.shape[2], images.shape[2]), np.float32)


def iterations(table: Table, astra: bool, tomopy: bool) -> None:
    """SIRT and CGLS: seconds a slice and the residual, each by its own projector."""
    n, slices = ITERATED, 16
    series = Blobs(n).series(slices, noise=0.01)
    one = TiltSeries(images=series.images[:, :1], angles_deg=ANGLES_DEG, pixel_nm=1.0, name="blobs")
    for method in ("sirt", "cgls"):
        add = partial(table.add, f"{method.upper()}, {ITERATIONS} iterations, {n}²")
        options = {"method": method, "nonnegative": False, "device": "cpu"}
        run = partial(reconstruct, series, iterations=ITERATIONS, **options)
        clock, processor, found = taken(run, slices, repeats=3)
        residual = relative(Projector(ANGLES_DEG, n).forward(found[:1]), one.images)
        add("mesotomo", clock, processor, residual)
        with mock.patch.dict(TRANSFORMS, cpu=("finufft",)):
            clock, processor, found = taken(run, slices, repeats=3)
        residual = relative(Projector(ANGLES_DEG, n).forward(found[:1]), one.images)
        add("mesotomo, by finufft", clock, processor, residual)
        if astra:
            run = partial(reconstruct, one, engine="astra", iterations=ITERATIONS, **options)
            clock, processor, found = taken(run, 1, repeats=1)
            add("ASTRA", clock, processor, relative(astra_forward(found[0]), one.images[:, 0]))
        if tomopy and method == "sirt":
            # its iterations take all the same time, half a minute each ten
            run = partial(reconstruct, one, engine="tomopy", iterations=3, **options)
            clock, processor, _ = taken(run, 1, repeats=1)
            add("TomoPy, from 3", ITERATIONS / 3 * clock, ITERATIONS / 3 * processor, None)


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


def paper_size(tomopy: bool) -> list[dict[str, object]]:
    """FBP of the whole paper-size series, in memory and with a limit into Zarr, each in a process of its own."""
    slices, n = PAPER
    print(f"FBP of {len(ANGLES_DEG)} x {slices} x {n} to {slices} x {n} x {n}")
    programs = {"mesotomo, memory='4GB', into Zarr": "4GB", "mesotomo, in memory": ""}
    if tomopy:
        programs["TomoPy gridrec"] = "gridrec"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tomogram.ome.zarr"
        for program, how in programs.items():
            # a virtual machine gets its own memory first, and each of them finds it as the others do
            touch = f"import numpy; numpy.ones({1.3 * slices * n * n:.0f}, numpy.float32)"
            subprocess.run([sys.executable, "-c", touch], check=True)
            command = [sys.executable, __file__, "--child", str(path), "--how", how]
            answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            row = {"task": f"FBP, {slices} slices of {n}²", "program": program}
            row |= {key: round(answer[key], 1) for key in ("seconds", "core_seconds")}
            rows.append(row | {"peak_gb": round(answer["peak"] / 1e9, 2), "data_gb": round(answer["data"] / 1e9, 2)})
            print(
                f"  {program:<34} {answer['seconds']:6.1f} s ({answer['core_seconds']:.1f} core s), peak "
                f"{answer['peak'] / 1e9:.2f} GB = {answer['peak'] / answer['data']:.2f} x (series + tomogram)",
                flush=True,
            )
            if "difference" in answer:
                print(f"  ours in memory and in Zarr differ by {answer['difference']:.1e} of the largest value")
    return rows


def child(path: Path, how: str) -> None:
    """One run of the paper's size, by ``"gridrec"``, by us, or by us into Zarr with a memory limit; prints JSON."""
    slices, n = PAPER
    series = Blobs(n).series(slices)
    if how == "gridrec":
        run = gridrec_of(series.images, (n - 1) / 2)
    else:
        run = partial(reconstruct, series, device="cpu", **({"memory": how, "out": path} if how else {}))
    clock, processor, found = once(run)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    data = 4 * (series.images.size + slices * n * n)
    answer = {"seconds": clock, "core_seconds": processor, "peak": peak, "data": data}
    if not how:
        tomogram = open_tomogram(path)
        parts = range(0, slices, 50)
        differences = [np.abs(np.asarray(tomogram.data[z : z + 50]) - found[z : z + 50]).max() for z in parts]
        answer["difference"] = float(max(differences) / np.abs(found).max())
    print(json.dumps(answer))


def main() -> None:
    """Print all ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help=f"store the table in {STORED.name}")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--how", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.how)
        return
    # what else the machine is at, before we begin: above 0.5 or so the clock tells of that too
    load = os.getloadavg()[0]
    peers = {name: present(name) for name in ("astra", "tomopy")}
    packages = ["mesotomo", "numpy", "finufft", "scikit-image"]
    packages += [package for name, package in (("astra", "astra-toolbox"), ("tomopy", "tomopy")) if peers[name]]
    versions = {package: importlib.metadata.version(package) for package in packages}
    print(", ".join(f"{package} {version}" for package, version in versions.items()))
    print(f"{cpu_count()} cores, load {load:.1f} before\n")
    table = Table()
    back_projection(table, **peers)
    iterations(table, **peers)
    rows = table.rows + paper_size(peers["tomopy"])
    if arguments.record:
        head = {"date": datetime.date.today().isoformat(), "versions": versions, "cores": cpu_count()}
        head = json.dumps(head | {"load_before": round(load, 1)}, indent=1)[:-2]
        lines = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in rows)
        STORED.write_text(f'{head},\n "table": [\n  {lines}\n ]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
