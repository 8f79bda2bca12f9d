"""From an aligned tilt series to a tomogram, in one call, slab by slab."""

from __future__ import annotations

import hashlib
import math
import re
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mesotomo_utils import backend, distribute
from mesotomo_utils.tomography.engines import ENGINES, check_method
from mesotomo_utils.tomography.projector import BATCH_BYTES
from mesotomo_utils.tomography.stopping import enough_iterations
from mesotomo_utils.tomography.tilt_series import TiltSeries
from mesotomo_utils.tomography.tilt_series_formats import plain_metadata
from mesotomo_utils.tomography.tomogram_writer import CHUNK, TomogramWriter
from mesotomo_utils.tomography.transforms import load_transforms

_SLAB_BYTES = 1e9
"""Working memory of one slab where no limit is given, bytes."""
_FIXED_BYTES = 80e6
"""What the libraries take for themselves once they are at work, bytes."""
_SHALLOW = 16
"""Slabs that go to disk are not cut thinner than this but for want of memory: cubes are read from its chunks."""


def reconstruct(
    series: TiltSeries,
    *,
    method: str = "fbp",
    engine: str = "nufft",
    device: str = "auto",
    iterations: int | None = None,
    nonnegative: bool = True,
    slab: tuple[int, int] | None = None,
    memory: str | float | None = None,
    dask: str | None = None,
    out: str | Path | np.ndarray | None = None,
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
        Number of iterations of SIRT or CGLS. If left out, as many as left-out images ask for, by our engine
        (:func:`~mesotomo_utils.tomography.stopping.enough_iterations`).
    nonnegative
        SIRT sets negative voxels to zero after each iteration; CGLS moves among non-negative slices, at half as
        much time again (``"astra"`` sets negative voxels to zero at the end). FBP is linear and takes no notice.
    slab
        (first, last) slices to reconstruct, last excluded; all if left out.
    memory
        Limit of what this takes beside the series and ``out``, a new array for the tomogram too: bytes, or
        text such as ``"4GB"``. With ``dask`` it is the limit of each worker process. On a GPU it is the
        limit of the host's; of its own memory the GPU uses what is free.
    dask
        Address of a Dask scheduler (``tcp://host:8786``) whose workers take the slabs; None for threads here.
        A path ``out`` must lie on a file system that the workers share.
    out
        OME-Zarr to write into; the tomogram is then never whole in memory. Stopped and called again with the
        same series and settings, it goes on from the slabs that are written. Or an array to fill, (Z, n_u, n_u)
        float32: memory that a machine has given once it need not clear again.
    attributes
        Kept in ``out`` beside method, engine, device, iterations and ``series``: name, pixel, angles and
        metadata of the series, its alignment with them.
    progress
        Text of the progress bar; None shows none.

    Returns
    -------
    ndarray or Path
        (Z, n_u, n_u) float32 ``[z, y, x]``, image value per nm; or ``out``.

    Raises
    ------
    ValueError
        An unknown method or engine or one without the other, a slab outside the series, no iteration, an array
        ``out`` of another shape or type, or a memory limit too small for one pair of slices or for the tomogram.
    RuntimeError
        The engine, the device or the cluster is not there; nothing falls back to another.

    Notes
    -----
    For few or limited tilts take ``"cgls"``, non-negative. SIRT does in 100 iterations what CGLS does in 10 to 15. What
    correlation with the truth they reach is in ``benchmarks/README.md``, by ``benchmarks/few_tilts.py``.

    Slices do not depend on each other, so the slabs a memory limit makes do not change the result. A
    ``slab`` of the caller's that begins at an odd slice pairs slices otherwise in the transforms,
    which shows at their tolerance, 1e-4 of the largest value.
    """
    check_method(method, engine)
    if iterations is not None and method != "fbp" and iterations < 1:
        raise ValueError(f"iterations must be 1 or more, not {iterations}")
    n_tilts, n_z, n_u = series.images.shape
    first, last = (0, n_z) if slab is None else slab
    if not 0 <= first < last <= n_z:
        raise ValueError(f"slab ({first}, {last}) does not lie in the {n_z} slices of the series")
    shape = (last - first, n_u, n_u)
    volume = None if out is None or isinstance(out, (str, Path)) else out
    if volume is not None and (volume.shape, volume.dtype) != (shape, np.float32):
        raise ValueError(f"an array out must be {shape}, float32; it is {volume.shape}, {volume.dtype}")
    to_disk = out is not None and volume is None
    limit = None if memory is None else parse_memory(memory)
    if dask is None:
        resolved, cluster = backend.resolve_device(device), None
        transforms = _transforms_of(resolved)
        # one slab a thread, each with transforms of its own; the other engines take all cores for one slab themselves
        at_once = backend.cpu_count() if engine == "nufft" and resolved == "cpu" else 1
    else:
        with distribute.connect(dask) as client:
            resolved = client.submit(backend.resolve_device, device, pure=False).result()
            transforms = client.submit(_transforms_of, resolved, pure=False).result()
            at_once, cluster = max(client.nthreads().values()), sum(client.nthreads().values())
    # on a GPU the copies that a method makes lie there
    size = {"n_tilts": n_tilts, "n_u": n_u, "method": method if resolved == "cpu" else "fbp"}
    need = partial(slab_bytes, **size, to_disk=to_disk, waits=dask is not None)
    held = _FIXED_BYTES + (4 * math.prod(shape) if out is None and dask is None else 0)
    if not to_disk:  # some slabs for each thread, or at least one
        each = shape[0] / (cluster or at_once)
        enough = max(round(each / 4), min(8, 2 * math.ceil(each / 2)))
    else:
        enough = max(_SHALLOW, shape[0] // 8)
    rows, at_once = _slab_rows(need, limit, held=held, enough=enough, at_once=at_once, fixed=dask is not None)
    if method != "fbp" and iterations is None:
        options = {"device": "cpu" if dask else resolved, "memory": limit and limit - held}
        options["progress"] = progress and f"{progress}: how many iterations"
        iterations = enough_iterations(series, method=method, nonnegative=nonnegative, **options)
    job = _Job(series, engine, resolved, method, iterations or 0, nonnegative)
    # views: a slab's images are copied where it is reconstructed
    slabs = [(start - first, series.images[:, start : min(start + rows, last)]) for start in range(first, last, rows)]
    options = {"workers": at_once, "dask": dask, "progress": progress}
    if not to_disk:
        if volume is None:
            volume = np.empty(shape, np.float32)
        job.volume = volume if dask is None else None
        for (at, images), slices in zip(slabs, distribute.each_item(job, slabs, **options), strict=True):
            if slices is not None:
                volume[at : at + images.shape[1]] = slices
        return volume
    source = {"name": series.name, "pixel_nm": series.pixel_nm, "angles_deg": series.angles_deg.round(6)}
    notes: dict[str, Any] = {"method": method, "engine": engine, "device": resolved, "n_tilts": n_tilts}
    notes["series"] = plain_metadata({**series.metadata, **source})
    if engine == "nufft":
        notes["transforms"] = transforms
    if method != "fbp":
        notes |= {"iterations": iterations, "nonnegative": nonnegative}
    with TomogramWriter(
        out, shape, series.pixel_nm, attributes={**notes, **(attributes or {})}, depth=rows, resume=job.name()
    ) as writer:
        job.writer = writer
        for at, images in slabs:
            if at in writer.finished and writer.finished[at] != _digest(images):
                del writer.finished[at]  # of other images
        left = [slab for slab in slabs if slab[0] not in writer.finished]
        for (at, _), key in zip(left, distribute.each_item(job, left, **options), strict=True):
            writer.finished[at] = key
    return Path(out)


class _Job:
    """Reconstructs one slab after another, here or on a worker; each thread keeps transforms of its own.

    Where it has a volume it puts the slices there, where it has a writer it writes them and returns the slab's key;
    else it returns them.
    """

    def __init__(
        self, series: TiltSeries, engine: str, device: str, method: str, iterations: int, nonnegative: bool
    ) -> None:
        self.geometry = (np.asarray(series.angles_deg, dtype=float), series.images.shape[2], device)
        self.pixel_nm = np.float32(series.pixel_nm)
        self.engine = engine
        self.solve = (method, iterations, nonnegative)
        # one thread a slab, for there are as many slabs at work as threads
        self.options = {"threads": 1} if engine == "nufft" else {}
        self.writer: TomogramWriter | None = None
        self.volume: np.ndarray | None = None
        self._own = threading.local()

    def __getstate__(self) -> dict[str, Any]:
        return {key: item for key, item in self.__dict__.items() if key != "_own"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _own=threading.local())

    def __call__(self, slab: tuple[int, np.ndarray]) -> np.ndarray | str | None:
        first, images = slab
        if not hasattr(self._own, "engine"):
            self._own.engine = ENGINES[self.engine](*self.geometry, **self.options)
        images_per_pixel = images / self.pixel_nm
        if self.volume is not None:
            self._own.engine(images_per_pixel, *self.solve, out=self.volume[first : first + images.shape[1]])
            return None
        slices = self._own.engine(images_per_pixel, *self.solve)
        return slices if self.writer is None else self.writer.write(first, slices, _digest(images))

    def name(self) -> str:
        """All that the voxels follow from but for the images: settings, and the code itself."""
        angles, *rest = self.geometry
        code = hashlib.sha256(angles.tobytes())
        for file in sorted(Path(__file__).parent.glob("*.py")):
            code.update(file.read_bytes())
        return f"{self.engine} {rest} {self.solve} {self.pixel_nm} {code.hexdigest()}"


def _transforms_of(device: str) -> str:
    return load_transforms(device)[0]


def _digest(images: np.ndarray) -> str:
    """Of a slab's images [tilt, z, u], tilt by tilt: they are no copy."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(np.ascontiguousarray(image))
    return digest.hexdigest()


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
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([KMGT])(i?))?B?\s*", memory, re.IGNORECASE)
        if match is None:
            raise ValueError(f"memory must be bytes or a size such as '4GB', not {memory!r}")
        number, unit, binary = match.groups()
        memory = float(number) * (1024 if binary else 1000) ** (" KMGT".index((unit or " ").upper()))
    if not memory > 0:
        raise ValueError(f"memory must be positive, not {memory}")
    return float(memory)


def _slab_rows(
    need: Callable[[int], float], limit: float | None, *, held: float, enough: int, at_once: int, fixed: bool
) -> tuple[int, int]:
    """How many slices make a slab, and how many slabs are at work at once.

    Slabs are 2, 4, 8 … slices: the same slices share a transform however the slabs fall, and on disk a slab is a
    row of chunks.

    Parameters
    ----------
    need
        Memory of a slab of so many slices, bytes.
    limit, held
        Memory in all, None for no limit, and what of it is taken, bytes.
    enough
        Slices beyond which a slab need not grow.
    at_once
        Slabs at work at once, at most; with ``fixed`` it is not ours to say.
    """
    for workers in (at_once,) if fixed else range(at_once, 0, -1):
        each = _SLAB_BYTES if limit is None else (limit - held) / workers
        rows = CHUNK
        while rows > 2 and (rows > enough or need(rows) > each):
            rows //= 2
        if limit is None or need(rows) <= each:
            return rows, workers
    least = (held + (at_once if fixed else 1) * need(2)) / 1e9
    mend = "raise it, or give `out` to write the tomogram slab by slab" if held > _FIXED_BYTES else "raise it"
    raise ValueError(f"memory of {limit / 1e9:.2g} GB is too little, {least:.2g} GB are needed; {mend}")


def slab_bytes(rows: int, *, n_tilts: int, n_u: int, method: str, to_disk: bool, waits: bool) -> float:
    """Peak memory of one slab at work, bytes, as far as its arrays go.

    Parameters
    ----------
    rows, n_tilts, n_u
        Slices of the slab, tilts, and pixels of an image across the axis.
    method
        As of :func:`reconstruct`.
    to_disk
        It is written with its part of the pyramid; else it waits to be copied into the tomogram.
    waits
        Others wait beside it on a worker of a cluster.
    """
    area, line = n_u**2, n_tilts * n_u
    slices, sinograms = {"fbp": (1, 1), "sirt": (2, 3), "cgls": (6, 4)}[method]
    slices += 0.75 if to_disk else 1 + waits
    sinograms += 2 * waits
    pair = 8 * 5.5 * line
    batch = max(pair, min(BATCH_BYTES["gridding"], pair * rows / 2))
    # arrays, a batch of transforms, and what these hold: a grid, and the windows of all points
    held = 13 * area + 76 * 1.35 * line
    return 4 * rows * (slices * area + sinograms * line) + batch + held
