"""Write a tomogram as OME-Zarr 0.5 slab by slab, from threads or from several machines.

A slab is a row of chunks in every level of the pyramid that it can make alone, so no two writers share
a chunk. The folder has a hidden name until all slabs are there, and what makes it a tomogram to a
reader is written last.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import zarr
from ome_zarr_models.v05 import Image

CHUNK = 64
"""Slices of a chunk, which is twice as wide; where slabs are thinner, chunks are as thin and wider."""
KEY = "mesotomo"
"""Our own attributes, beside those of OME-Zarr."""
_SMALLEST_LEVEL = 128
"""The pyramid ends where the longest edge is no longer than this, voxels."""
_FINISHED = "finished"
"""Folder that says, while the tomogram is made, which slabs are written."""


class TomogramError(ValueError):
    """A tomogram that cannot be used as it is; the message names the file and the mend."""


class TomogramWriter:
    """Writes a tomogram slab by slab; under its final name only once it is whole.

    Parameters
    ----------
    path
        Folder to make, by custom ``something.ome.zarr``. One that exists is replaced at the end.
    shape
        (Z, Y, X).
    voxel_nm
        Edge of a voxel, nm.
    attributes
        Kept with the tomogram: anything JSON can hold.
    levels
        Number of levels of the pyramid; None goes down to an edge of 128 voxels.
    depth
        Slices of a slab, a power of 2 up to :data:`CHUNK`: each slab begins at a multiple of it.
    resume
        Text that names all that the voxels follow from, but for what the key of each slab names. Slabs written
        for the same text by a writer that was stopped are kept and are listed in ``finished``.

    Attributes
    ----------
    finished
        First slices of the slabs that are written, and their keys.

    Raises
    ------
    TomogramError
        At once: shape or voxel are not positive, the depth is no power of 2. On leaving: slices were not
        written.

    Examples
    --------
    ::

        with TomogramWriter("a.ome.zarr", (128, 100, 100), 0.5) as writer:
            writer.write(0, lower)  # slices 0 to 63
            writer.write(64, upper)
    """

    def __init__(
        self,
        path: str | Path,
        shape: tuple[int, int, int],
        voxel_nm: float,
        *,
        attributes: Mapping[str, Any] | None = None,
        levels: int | None = None,
        depth: int = CHUNK,
        resume: str | None = None,
    ) -> None:
        # a worker elsewhere has another working folder
        self.path = Path(path).absolute()
        if len(shape) != 3 or min(shape) < 1:
            raise TomogramError(f"{self.path.name}: a tomogram has three axes, none empty; the shape is {shape}")
        if not (math.isfinite(voxel_nm) and voxel_nm > 0):
            raise TomogramError(f"{self.path.name}: voxel_nm must be a positive length, not {voxel_nm}")
        if not 1 <= depth <= CHUNK or depth & (depth - 1):
            raise TomogramError(f"{self.path.name}: depth must be a power of 2 up to {CHUNK}, not {depth}")
        self.shape = tuple(int(n) for n in shape)
        self.voxel_nm = float(voxel_nm)
        self.attributes = dict(attributes or {})
        if levels is None:
            levels = 1 + max(0, math.ceil(math.log2(max(self.shape) / _SMALLEST_LEVEL)))
        self.levels = levels
        self.depth = depth
        self.finished: dict[int, str] = {}
        self._from_slab = min(levels, depth.bit_length())
        self._job = None if resume is None else f"{resume} {self.shape} depth {depth} levels {levels}"
        ending = "partial" if resume is not None else f"partial-{os.getpid()}"
        self._partial = self.path.with_name(f".{self.path.name}.{ending}")

    def __enter__(self) -> Self:
        marks = self._partial / _FINISHED
        if self._job is not None and self._found_job() == self._job:
            self.finished = {int(mark.name): mark.read_text() for mark in marks.iterdir() if mark.name.isdigit()}
            return self
        shutil.rmtree(self._partial, ignore_errors=True)
        group = zarr.open_group(self._partial, mode="w", zarr_format=3)
        for level in range(self.levels):
            self._create(group, level)
        marks.mkdir()
        if self._job is not None:
            (marks / "job").write_text(self._job)
        return self

    def write(self, first: int, slab: np.ndarray, key: str = "") -> str:
        """Write slices from ``first`` on; threads, processes and machines may write side by side.

        Parameters
        ----------
        first
            Number of the slab's first slice, a multiple of the depth.
        slab
            (n, Y, X), n a multiple of the depth but for the last slab.
        key
            Kept in ``finished``: what this slab was made from. A copy of the writer in another process
            has a ``finished`` of its own; put the key into that of the first.

        Returns
        -------
        str
            The key.

        Raises
        ------
        TomogramError
            The slab does not fit, holds a value that is not finite (its slice is named), or the unfinished
            tomogram is not there.
        """
        slab = np.asarray(slab, dtype=np.float32)
        last = first + len(slab)
        if slab.shape[1:] != self.shape[1:] or first < 0 or last > self.shape[0]:
            raise TomogramError(
                f"{self.path.name}: a slab of {slab.shape} at slice {first} does not fit a tomogram of {self.shape}"
            )
        if first % self.depth or (last % self.depth and last < self.shape[0]):
            raise TomogramError(
                f"{self.path.name}: a slab from slice {first} to {last} shares a chunk with the next; slabs begin "
                f"and end at multiples of {self.depth}"
            )
        check_finite(slab, self.path.name, first)
        # a worker that was given up must not write into what came after it
        if self._job is not None and self._found_job() != self._job:
            raise TomogramError(
                f"{self._partial} is not there or was begun anew: is another run writing it, or does this machine "
                "not see the file system it lies on?"
            )
        marks = [self._partial / _FINISHED / str(row) for row in range(first, last, self.depth)]
        for mark in marks:
            mark.unlink(missing_ok=True)
        group = zarr.open_group(self._partial, mode="r+")
        for level in range(self._from_slab):
            at = first >> level
            group[str(level)][at : at + len(slab)] = slab
            if level + 1 < self._from_slab:
                slab = _halve(slab)
        for mark in marks:
            mark.write_text(key)
            self.finished[int(mark.name)] = key
        return key

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        missing = [row for row in range(0, self.shape[0], self.depth) if row not in self.finished]
        if kind is not None or missing:
            if self._job is None or not self.finished:
                shutil.rmtree(self._partial, ignore_errors=True)
            if kind is None:
                count = sum(min(self.depth, self.shape[0] - row) for row in missing)
                raise TomogramError(
                    f"{self.path.name}: {count} of {self.shape[0]} slices were never written, the first is {missing[0]}"
                )
            return
        group = zarr.open_group(self._partial, mode="r+")
        for level in range(self._from_slab, self.levels):
            self._coarsen(group, level)
        for cut_off in self._partial.rglob("*.partial"):
            cut_off.unlink()  # a chunk that zarr had not yet given its name when a worker died
        # last of all: without these attributes no reader takes the folder for a tomogram
        group.attrs.put(
            {
                "ome": {"version": "0.5", "multiscales": [self._multiscale()]},
                KEY: {"attributes": self.attributes, "origin": "centre of the volume"},
            }
        )
        Image.from_zarr(group)
        shutil.rmtree(self._partial / _FINISHED)
        _replace(self._partial, self.path)

    def _found_job(self) -> str | None:
        try:
            return (self._partial / _FINISHED / "job").read_text()
        except OSError:
            return None

    def _create(self, group: zarr.Group, level: int) -> zarr.Array:
        depth = self._chunk_depth(level)
        # as many voxels as four cubes of CHUNK, or half that: each chunk costs Zarr a millisecond beside its bytes
        edge = 2 * CHUNK * 2 ** math.floor(math.log2(CHUNK / depth) / 2)
        shape = tuple(-(-n // 2**level) for n in self.shape)
        return group.create_array(
            str(level),
            shape=shape,
            chunks=tuple(min(size, n) for size, n in zip((depth, edge, edge), shape, strict=True)),
            dtype="float32",
            compressors=None,  # float32 noise shrinks by nothing, and costs half the time of reading
            dimension_names=["z", "y", "x"],
        )

    def _chunk_depth(self, level: int) -> int:
        if level < self._from_slab:
            return self.depth >> level
        # the two rows of chunks above it are no larger than one slab
        return max(1, min(CHUNK, self.depth * 4 ** (level - 1) // 2))

    def _coarsen(self, group: zarr.Group, level: int) -> None:
        """Make a level that is too coarse for one slab from the level above."""
        fine, coarse, depth = group[str(level - 1)], group[str(level)], self._chunk_depth(level)
        for first in range(0, coarse.shape[0], depth):
            coarse[first : first + depth] = _halve(fine[2 * first : 2 * (first + depth)])

    def _multiscale(self) -> dict[str, Any]:
        datasets = []
        for level in range(self.levels):
            # voxel 0 of a level is the mean of 2^level voxels of the full one, and sits in their middle
            shift = (2**level - 1) / 2
            translation = [(shift - (n - 1) / 2) * self.voxel_nm for n in self.shape]
            datasets.append(
                {
                    "path": str(level),
                    "coordinateTransformations": [
                        {"type": "scale", "scale": [self.voxel_nm * 2**level] * 3},
                        {"type": "translation", "translation": translation},
                    ],
                }
            )
        return {
            "name": self.path.name.removesuffix(".ome.zarr"),
            "axes": [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"],
            "datasets": datasets,
            "type": "mean",
        }


def check_finite(slab: np.ndarray, name: str, first: int) -> None:
    """Refuse a slab (n, Y, X) with a value that is not finite.

    Raises
    ------
    TomogramError
        There is one; the message names the tomogram and the slice, counted from ``first``.
    """
    for z, section in enumerate(slab):
        if not np.isfinite(section.sum(dtype=np.float64)):
            raise TomogramError(f"{name}: slice {first + z} (from 0) holds values that are not finite")


def _halve(block: np.ndarray) -> np.ndarray:
    """Average 2 × 2 × 2 voxels; odd edges are repeated."""
    if any(n % 2 for n in block.shape):
        block = np.pad(block, [(0, n % 2) for n in block.shape], mode="edge")
    block = (block[::2] + block[1::2]) / 2
    block = (block[:, ::2] + block[:, 1::2]) / 2
    return (block[:, :, ::2] + block[:, :, 1::2]) / 2


def _replace(partial: Path, final: Path) -> None:
    """Move a whole folder to its name; an older one there goes once the new one stands."""
    old = final.with_name(f".{final.name}.partial-{os.getpid()}-old")
    if final.exists():
        final.rename(old)
    partial.rename(final)
    shutil.rmtree(old, ignore_errors=True)
