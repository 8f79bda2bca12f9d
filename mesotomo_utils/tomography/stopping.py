"""When an iterative reconstruction has enough iterations: when images that it has not seen are predicted no better."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np

from mesotomo_utils import backend, distribute
from mesotomo_utils.tomography.engines import NufftEngine
from mesotomo_utils.tomography.projector import Projector, angular_gaps
from mesotomo_utils.tomography.tilt_series import TiltSeries

log = logging.getLogger(__name__)

MOST = 200
"""Iterations at most."""
USUAL = 30
"""Iterations where there are too few images to leave any out."""
_EVERY, _FEWEST = 5, 10
"""One image in so many is left out; there must be so many."""
_AS_GOOD = 0.01
"""What is left of the images may be larger than the least by this part: fewer iterations, and less noise."""
_SLICES, _BYTES = 16, 1e9
"""Slices that are asked, evenly over the series, at most, and the memory that they may take."""


def enough_iterations(
    series: TiltSeries,
    *,
    method: str,
    nonnegative: bool = True,
    device: str = "cpu",
    memory: float | None = None,
    progress: str | None = None,
) -> int:
    """The fewest iterations of SIRT or CGLS that predict left-out images as well as any number does.

    Parameters
    ----------
    series
        Aligned series, vacuum at zero.
    method, nonnegative
        As of :func:`~mesotomo_utils.tomography.reconstruction.reconstruct`.
    device
        ``"cpu"``, ``"cuda"`` or ``"auto"``.
    memory
        Bytes that it may take, a gigabyte if left out; two slices are the least.
    progress
        Text of the progress bar, which ends where the iterations do; None shows none.

    Returns
    -------
    int
        1 to :data:`MOST`, or :data:`USUAL` for fewer than ten images.

    Notes
    -----
    Iterations first bring out the object, the coarse before the fine, and then fit the noise, of which a left-out
    image knows nothing (cross-validation). Each fifth image is left out; 16 slices, or as many as there is memory
    for, are reconstructed from the others. What is left of the images counts with its frequency across the tilt
    axis, as it does in the voxels; within a hundredth of the least is as good.
    """
    order, *_ = angular_gaps(series.angles_deg)
    if len(order) < _FEWEST:
        return USUAL
    left = np.sort(order[_EVERY // 2 : -1 : _EVERY])
    seen = np.setdiff1d(order, left)
    n_z, n_u = series.images.shape[1:]
    each = 4 * (8 * n_u**2 + 6 * len(order) * n_u)  # slices and images that a method holds at once
    asked = int(np.clip((memory or _BYTES) / each, 2, min(n_z, _SLICES)))
    rows = np.unique(np.linspace(0, n_z - 1, asked).round().astype(int))
    device = backend.resolve_device(device)
    n_pairs = -(-len(rows) // 2)  # of slices, which share a transform
    n_parts = min(backend.cpu_count(), n_pairs) if device == "cpu" else 1
    parts = np.split(rows, 2 * np.linspace(0, n_pairs, n_parts + 1).astype(int)[1:-1])
    asked_of = [_misfits(series, seen, left, part, method, nonnegative, device) for part in parts]

    def iterate(_: int) -> list[float]:
        return distribute.map_items(next, asked_of)

    misfits: list[float] = []
    for found in distribute.each_item(iterate, range(MOST), workers=1, progress=progress):
        misfits.append(sum(found))
        if len(misfits) > 1.5 * (np.argmin(misfits) + 1) + 5:
            break
    enough = 1 + int(np.argmax(np.array(misfits) <= (1 + _AS_GOOD) * min(misfits)))
    log.info("%d iterations of %s predict left-out images as well as any number", enough, method.upper())
    return enough


def _misfits(
    series: TiltSeries,
    seen: np.ndarray,
    left: np.ndarray,
    rows: np.ndarray,
    method: str,
    nonnegative: bool,
    device: str,
) -> Iterator[float]:
    """What is left of some rows of the images left out, after each iteration on those seen."""
    n_u = series.images.shape[2]
    given, wanted = (backend.to_device(series.images[np.ix_(tilts, rows)], device) for tilts in (seen, left))
    engine = NufftEngine(series.angles_deg[seen], n_u, device, threads=1)
    project = Projector(series.angles_deg[left], n_u, device=device, threads=1).forward
    weight = backend.to_device(np.fft.rfftfreq(n_u).astype(np.float32), device)
    rfft = backend.fft_module(backend.get_array_module(wanted)).rfft
    for slices in engine.iterates(given, method, nonnegative):
        yield float((weight * abs(rfft(project(slices) - wanted, axis=-1)) ** 2).sum())
