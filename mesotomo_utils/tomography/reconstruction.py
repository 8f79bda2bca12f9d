"""From an aligned tilt series to a tomogram, in one call, slab by slab."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mesotomo_utils import backend, distribute
from mesotomo_utils.tomography.engines import ENGINES, METHODS
from mesotomo_utils.tomography.tilt_series import TiltSeries
from mesotomo_utils.tomography.tomogram import CHUNK, TomogramWriter

_WORK_BYTES = 600e6
"""Working memory of one slab where no limit is given, bytes."""
_TRANSFORM_BYTES = 300e6
"""What the transforms of one batch take beside that, bytes."""
_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def reconstruct(
    series: TiltSeries,
    *,
    method: str = "fbp",
    engine: str = "nufft",
    device: str = "auto",
    iterations: int = 30,
    nonnegative: bool = True,
    slab: tuple[int, int] | None = None,
    memory: str | float | None = None,
    out: str | Path | None = None,
    attributes: Mapping[str, Any] | None = None,
    progress: str | None = None,
) -> np.ndarray | Path:
    """Reconstruct a tomogram from an aligned tilt series.

    Parameters
    ----------
    series
        Aligned: the tilt axis is the vertical through the centre of every image, at the angles
        given, and vacuum is zero.
    method
        ``"fbp"``, filtered back-projection; ``"sirt"``; ``"cgls"``.
    engine
        ``"nufft"`` (ours), ``"astra"`` or ``"tomopy"`` (gridrec for ``"fbp"``, no ``"cgls"``).
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    iterations
        Number of iterations of SIRT or CGLS.
    nonnegative
        SIRT sets negative voxels to zero after each iteration; CGLS moves among non-negative slices, at half as
        much time again (``"astra"`` sets negative voxels to zero at the end). FBP is linear and takes no notice.
    slab
        (first, last) slices to reconstruct, last excluded; all if left out.
    memory
        Limit of the working memory and, where there is no ``out``, of the tomogram: bytes, or text
        such as ``"4GB"``.
    out
        OME-Zarr to write into; the tomogram is then never whole in memory.
    attributes
        Kept in ``out`` beside method, engine, device and iterations.
    progress
        Text of the progress bar; None shows none.

    Returns
    -------
    ndarray or Path
        (Z, n_u, n_u) float32 ``[z, y, x]``, image value per nm; or ``out``.

    Raises
    ------
    ValueError
        An unknown method or engine or one without the other, a slab outside the series, no iteration, or a
        memory limit too small for one pair of slices or for the tomogram.
    RuntimeError
        The engine or the device is not there; nothing falls back to another.

    Notes
    -----
    For few or limited tilts take ``"cgls"``, non-negative: 30 iterations where noise is below 1 % of the
    largest image value, 10 at 3 %, 100 where there is none. More fit the noise. SIRT does
    in 100 what CGLS does in 15 to 30; ``benchmarks/few_tilts.py`` prints both.

    Slices do not depend on each other, so the slabs a memory limit makes do not change the result. A
    ``slab`` of the caller's that begins at an odd slice pairs slices otherwise in the transforms,
    which shows at their tolerance, 1e-4 of the largest value.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, not {engine!r}")
    if engine == "tomopy" and method == "cgls":
        raise ValueError("TomoPy has no CGLS; use engine='nufft' or 'astra', or method='sirt'")
    if method != "fbp" and iterations < 1:
        raise ValueError(f"iterations must be 1 or more, not {iterations}")
    n_tilts, n_z, n_u = series.images.shape
    first, last = (0, n_z) if slab is None else slab
    if not 0 <= first < last <= n_z:
        raise ValueError(f"slab ({first}, {last}) does not lie in the {n_z} slices of the series")
    shape = (last - first, n_u, n_u)
    limit = None if memory is None else parse_memory(memory)
    rows = _slab_rows(n_tilts, n_u, method, limit, held=0 if out is not None else 4 * math.prod(shape))
    if out is not None and rows >= CHUNK:
        rows -= rows % CHUNK
    resolved = backend.resolve_device(device)
    own = threading.local()
    # one slab a thread, each with transforms of its own: no thread waits for another. The other engines
    # take all cores for one slab themselves
    workers = backend.cpu_count() if engine == "nufft" and resolved == "cpu" else 1
    rows = min(rows, max(2, 2 * math.ceil(shape[0] / workers / 2))) if out is None else rows
    options = {"threads": 1} if workers > 1 else {}

    def run(block: np.ndarray) -> np.ndarray:
        if not hasattr(own, "engine"):
            own.engine = ENGINES[engine](series.angles_deg, n_u, resolved, **options)
        return own.engine(block, method, iterations, nonnegative)

    def one(start: int) -> tuple[int, np.ndarray]:
        block = series.images[:, start : min(start + rows, last)] / np.float32(series.pixel_nm)
        return start - first, run(block)

    starts = range(first, last, rows)
    if out is None:
        volume = np.empty(shape, np.float32)

        def keep(start: int) -> None:
            at, slices = one(start)
            volume[at : at + len(slices)] = slices

        distribute.map_items(keep, starts, workers=workers, progress=progress)
        return volume
    notes: dict[str, Any] = {"method": method, "engine": engine, "device": resolved, "n_tilts": n_tilts}
    if method != "fbp":
        notes |= {"iterations": iterations, "nonnegative": nonnegative}
    with TomogramWriter(out, shape, series.pixel_nm, attributes={**notes, **(attributes or {})}) as writer:
        distribute.map_items(lambda start: writer.write(*one(start)), starts, workers=workers, progress=progress)
    return Path(out)


def remove_background(series: TiltSeries, *, margin: float = 0.04) -> TiltSeries:
    """Take the vacuum level off each image.

    Parameters
    ----------
    series
        Tilt series.
    margin
        Width of the strips at the left and right edge that count as vacuum, as a part of the image width.

    Returns
    -------
    TiltSeries
        Images less the lower of the two strips' medians, each image its own.

    Raises
    ------
    ValueError
        The margin is not between 0 and 0.5.

    Notes
    -----
    A constant left in the images becomes a disc in each slice. The median of the darker strip
    is the vacuum even where the object reaches one edge.
    """
    if not 0 < margin < 0.5:
        raise ValueError(f"margin must lie between 0 and 0.5, not {margin}")
    width = max(1, round(margin * series.images.shape[2]))
    level = np.minimum(
        np.median(series.images[:, :, :width], axis=(1, 2)), np.median(series.images[:, :, -width:], axis=(1, 2))
    )
    metadata = {**series.metadata, "background_removed": True}
    return TiltSeries(
        images=series.images - level[:, None, None].astype(np.float32),
        angles_deg=series.angles_deg,
        pixel_nm=series.pixel_nm,
        name=series.name,
        metadata=metadata,
    )


def parse_memory(memory: str | float) -> float:
    """Bytes from a number or from text such as ``"4GB"``.

    Raises
    ------
    ValueError
        The text is no size, or the size is not positive.

    Examples
    --------
    >>> parse_memory("1.5GB")
    1500000000.0
    """
    if isinstance(memory, str):
        match = re.fullmatch(r"\s*([\d.]+)\s*([KMGT]?)i?B?\s*", memory, re.IGNORECASE)
        if match is None:
            raise ValueError(f"memory must be bytes or a size such as '4GB', not {memory!r}")
        memory = float(match[1]) * _UNITS[match[2].upper()]
    if not memory > 0:
        raise ValueError(f"memory must be positive, not {memory}")
    return float(memory)


def _slab_rows(n_tilts: int, n_u: int, method: str, limit: float | None, *, held: float) -> int:
    """How many slices make a slab: even, so that the same slices share a transform however the slabs fall."""
    # a slice, its images, and their copies at work; the iterations hold several of each
    copies = 1 if method == "fbp" else 4
    per_slice = 4 * copies * (n_u**2 + 2 * n_tilts * n_u)
    available = _WORK_BYTES if limit is None else limit - held - _TRANSFORM_BYTES
    rows = int(available / backend.cpu_count() // per_slice)
    if rows < 2:
        need = (held + _TRANSFORM_BYTES + 2 * per_slice * backend.cpu_count()) / 1e9
        mend = "raise it, or give `out` to write the tomogram slab by slab" if held else "raise it"
        raise ValueError(f"memory of {(limit or 0) / 1e9:.2g} GB is too little, {need:.2g} GB are needed; {mend}")
    return min(rows - rows % 2, CHUNK)
