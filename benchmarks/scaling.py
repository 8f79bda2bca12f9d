"""What a tomogram larger than one machine takes, from costs measured here: time, memory, workers, disk.

Times a few slices of each size, with as many tilts for their width as the paper's series has (180 for 992
pixels), each core with a slab of its own as in a run; writes slabs into a Zarr; and works out what 2048³ and
4096³ come to. Times are those the cores were at work, so that other work on the machine tells little.
Under three minutes on two cores, 3 GB.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from mesotomo_utils import backend
from mesotomo_utils.tomography.reconstruction import reconstruct, slab_bytes
from mesotomo_utils.tomography.tilt_series import TiltSeries
from mesotomo_utils.tomography.tomogram_writer import CHUNK, TomogramWriter

SLICES_PER_CORE = {512: 32, 992: 16, 2048: 4, 4096: 2}
LARGE, MINUTES, SLABS = (2048, 4096), 10, (64, 16)


def tilts(n: int) -> int:
    """As many for the width as the paper's series has: the same angle between neighbours at the rim."""
    return round(180 * n / 992)


def series(n: int, slices: int) -> TiltSeries:
    images = np.random.default_rng(0).random((tilts(n), slices, n), dtype=np.float32)
    return TiltSeries(images=images, angles_deg=np.linspace(-90, 90, tilts(n), False), pixel_nm=1.0, name="noise")


def core_seconds(function: Callable[[], object]) -> float:
    """The shorter of two."""
    taken = []
    for _ in range(2):
        begun = time.process_time()
        function()
        taken.append(time.process_time() - begun)
    return min(taken)


def core_seconds_a_slice(n: int, **options: object) -> float:
    """What each slice more takes, without what is made once for all of them, and into memory that is there."""
    slices = SLICES_PER_CORE[n] * backend.cpu_count()
    made = series(n, 2 * slices)
    room = np.zeros((2 * slices, n, n), np.float32)
    run = partial(reconstruct, made, device="cpu", **options)
    half, whole = (core_seconds(partial(run, slab=(0, z), out=room[:z])) for z in (slices, 2 * slices))
    return (whole - half) / slices


def core_seconds_a_gigabyte(n: int = 992) -> tuple[float, float]:
    """Of writing slabs with their part of the pyramid, all cores at it; and bytes on disk per byte of voxels."""
    slab = reconstruct(series(n, 8), device="cpu")
    slab = np.tile(slab, (CHUNK // 8, 1, 1))
    cores = backend.cpu_count()

    def write(folder: str) -> None:
        shape = (cores * CHUNK, n, n)
        with (
            TomogramWriter(Path(folder) / "a.ome.zarr", shape, 1.0) as writer,
            ThreadPoolExecutor(cores) as pool,
        ):
            list(pool.map(lambda core: writer.write(core * CHUNK, slab), range(cores)))

    with tempfile.TemporaryDirectory() as folder:
        taken = core_seconds(lambda: write(folder))
        stored = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    return taken / (cores * slab.nbytes / 1e9), stored / (cores * slab.nbytes)


def main() -> None:
    """Measure and print both tables."""
    cores = backend.cpu_count()
    print(f"{cores} cores; core-seconds of one slice by FBP")
    cost = {}
    for n in SLICES_PER_CORE:
        cost[n] = core_seconds_a_slice(n)
        print(f"  {n:5} x {n:<5} from {tilts(n):4} tilts  {cost[n]:8.3f} s")
    sirt = core_seconds_a_slice(992, method="sirt", iterations=3) / 3 * 30 / cost[992]
    print(f"  30 iterations of SIRT take {sirt:.0f} times as long")
    writing, stored = core_seconds_a_gigabyte()
    print(f"  writing 1 GB of voxels and its pyramid: {writing:.2f} core-seconds; {stored:.2f} GB on disk")

    for n in LARGE:
        gigabytes = 4e-9 * n**3
        total = n * cost[n] + writing * gigabytes
        print(f"{n}³ from {tilts(n)} tilts by FBP")
        images = 4e-9 * tilts(n) * n**2
        print(f"  images {images:.0f} GB, voxels {gigabytes:.0f} GB, on disk {stored * gigabytes:.0f} GB")
        print(f"  {total / 3600:.2f} core-hours, {total / 3600 / 2:.2f} h on two cores")
        print(f"  {math.ceil(total / (60 * MINUTES))} cores for {MINUTES} minutes")
        for rows in SLABS:
            each = slab_bytes(rows, n_tilts=tilts(n), n_u=n, method="fbp", to_disk=True, waits=True)
            print(f"  memory of a worker: {each / 1e9:.1f} GB a core with slabs of {rows} slices")


if __name__ == "__main__":
    main()
