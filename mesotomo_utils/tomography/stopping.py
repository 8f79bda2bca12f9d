"""When an iterative reconstruction has enough iterations: when images that it has not seen are predicted no better."""

from __future__ import annotations

import logging
from itertools import islice

import numpy as np

from mesotomo_utils import backend
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
    series: TiltSeries, *, method: str, nonnegative: bool = True, device: str = "cpu", memory: float | None = None
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
    given, wanted = (backend.to_device(series.images[np.ix_(tilts, rows)], device) for tilts in (seen, left))
    engine = NufftEngine(series.angles_deg[seen], n_u, device)
    project = Projector(series.angles_deg[left], n_u, device=device).forward
    weight = backend.to_device(np.fft.rfftfreq(n_u).astype(np.float32), device)
    rfft = backend.fft_module(backend.get_array_module(wanted)).rfft
    misfits: list[float] = []
    for count, slices in enumerate(islice(engine.iterates(given, method, nonnegative), MOST), 1):
        misfits.append(float((weight * abs(rfft(project(slices) - wanted, axis=-1)) ** 2).sum()))
        if count > 1.5 * (np.argmin(misfits) + 1) + 5:
            break
    enough = 1 + int(np.argmax(np.array(misfits) <= (1 + _AS_GOOD) * min(misfits)))
    log.info("%d iterations of %s predict left-out images as well as any number", enough, method.upper())
    return enough
