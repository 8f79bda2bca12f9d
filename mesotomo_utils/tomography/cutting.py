"""Parts of a tomogram, cut out around a point given in nm."""

from __future__ import annotations

import sys
from collections import OrderedDict
from concurrent.futures import Future
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

# Chunks that are kept, bytes: the layers of chunks that the dots of one layer lie in, at paper size.
_KEPT_BYTES = 1e9
# Chunks that are mapped, bytes. To map one again costs a tenth of a millisecond.
_MAPPED_BYTES = 0.1e9
# The codecs of a Zarr array (version 3) whose chunks are written as they lie in memory.
_PLAIN = ({"name": "bytes", "configuration": {"endian": sys.byteorder}},)


def _by_chunk(places: range, edge: int) -> list[tuple[int, slice, slice]]:
    """Which chunks some places along an axis lie in, where in them, and where these stand among the places."""
    found = []
    for index in range(places.start // edge, (places[-1] // edge + 1) if len(places) else 0):
        first = max(0, -(-(index * edge - places.start) // places.step))  # of the places, from this chunk's start on
        last = min(len(places), -(-((index + 1) * edge - places.start) // places.step))
        if first < last:
            source = slice(places[first] - index * edge, places[last - 1] - index * edge + 1, places.step)
            found.append((index, source, slice(first, last)))
    return found


class KeptChunks:
    """A Zarr array that keeps the chunks it read last, for many small parts that share them.

    Cubes about neighbouring dots overlap, and each reaches into seven chunks that hold nine times as much. Parts asked
    for in the order of their place find most of their chunks here; threads wait for the chunks that they need only.

    Parameters
    ----------
    array
        Zarr array of three dimensions.
    kept_bytes
        Upper bound of the chunks kept.
    """

    def __init__(self, array: Any, *, kept_bytes: float = _KEPT_BYTES) -> None:
        self.array = array
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype = np.dtype(array.dtype)
        self._edges = tuple(array.chunks)
        self._room = max(1, int(kept_bytes / (np.prod(self._edges) * self.dtype.itemsize)))
        self._kept: OrderedDict[tuple[int, ...], Future[np.ndarray]] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type, tuple[Any]]:
        return type(self), (self.array,)  # to another process it goes empty

    def __getitem__(self, part: int | slice | tuple[int | slice, ...]) -> np.ndarray:
        """As of a NumPy array, for whole numbers and slices with positive steps."""
        given = part if isinstance(part, tuple) else (part,)
        given += (slice(None),) * (3 - len(given))
        wanted = [range(n)[p] for p, n in zip(given, self.shape, strict=True)]
        alone = tuple(axis for axis, places in enumerate(wanted) if isinstance(places, int))
        along = [range(p, p + 1) if isinstance(p, int) else p for p in wanted]
        values = np.empty([len(places) for places in along], self.dtype)
        reached = [_by_chunk(places, edge) for places, edge in zip(along, self._edges, strict=True)]
        for chunks in product(*reached):
            index, source, target = zip(*chunks, strict=True)
            values[target] = self._chunk(index)[source]
        return values.squeeze(axis=alone)

    def _chunk(self, index: tuple[int, ...]) -> np.ndarray:
        with self._lock:
            is_new = index not in self._kept
            chunk = self._kept.setdefault(index, Future())
            self._kept.move_to_end(index)
            if len(self._kept) > self._room:
                self._kept.popitem(last=False)
        if is_new:
            try:
                chunk.set_result(self._read(index))
            except BaseException as error:
                with self._lock:
                    self._kept.pop(index, None)
                chunk.set_exception(error)  # for those who wait
                raise
        return chunk.result()  # where it is not new another thread may still be reading it

    def _read(self, index: tuple[int, ...]) -> np.ndarray:
        where = tuple(slice(i * edge, (i + 1) * edge) for i, edge in zip(index, self._edges, strict=True))
        return np.asarray(self.array[where])


class MappedChunks(KeptChunks):
    """A Zarr array whose chunks are files of plain values, as ours are: mapped into memory, they need not be read.

    Zarr reads a chunk into memory of its own and copies it from there, at a sixth of the speed. What is mapped counts
    as memory of the process, though any other can have it: so it is not much at a time.

    Parameters
    ----------
    array
        For which :func:`chunk_folder` names a folder.
    kept_bytes
        Upper bound of the chunks mapped.
    """

    def __init__(self, array: Any, *, kept_bytes: float = _MAPPED_BYTES) -> None:
        super().__init__(array, kept_bytes=kept_bytes)
        self._folder = chunk_folder(array)

    def _read(self, index: tuple[int, ...]) -> np.ndarray:
        path = self._folder / self.array.metadata.encode_chunk_key(index)
        try:
            return np.memmap(path, self.dtype, mode="r", shape=self._edges)
        except FileNotFoundError:  # nothing but the fill value
            return np.broadcast_to(np.asarray(self.array.fill_value, self.dtype), self._edges)


def chunk_folder(array: Any) -> Path | None:
    """Folder of a Zarr array on a disk of this machine that is neither packed nor sharded; None of any other array."""
    place, metadata = getattr(array, "store_path", None), getattr(array, "metadata", None)
    root = getattr(getattr(place, "store", None), "root", None)
    if root is None or getattr(metadata, "zarr_format", None) != 3 or metadata.to_dict()["codecs"] != _PLAIN:
        return None
    return Path(root) / place.path


def mapping_chunks(volume: Any) -> Any:
    """A Zarr array with its chunks mapped (:class:`MappedChunks`) where they can be; anything else as it is."""
    return volume if chunk_folder(volume) is None else MappedChunks(volume)


def keeping_chunks(volume: Any) -> Any:
    """A Zarr array for many small parts, its chunks mapped or else kept (:class:`KeptChunks`); others as they are."""
    mapped = mapping_chunks(volume)
    return KeptChunks(mapped) if hasattr(mapped, "chunks") else mapped


def cut_cube(volume: Any, voxel_nm: float, centre_nm: np.ndarray, n: int) -> np.ndarray:
    """Cut a cube of n voxels about the voxel nearest to a point; zero where the volume ends.

    The cube is not shifted to the point itself: half a voxel is a hundredth of a window, and the
    modulus of a Fourier transform does not depend on where the lattice sits.

    Parameters
    ----------
    volume
        [z, y, x] array, numpy or Zarr; a Zarr array is read only where the cube lies.
    voxel_nm
        Edge of a voxel, nm.
    centre_nm
        (3,) x, y, z, nm, from the centre of the volume.
    n
        Edge of the cube, voxels (odd).

    Returns
    -------
    (n, n, n) float32.
    """
    return cut_cubes(volume, voxel_nm, np.asarray(centre_nm, float)[None], n)[0]


def cut_cubes(volume: Any, voxel_nm: float, centres_nm: np.ndarray, n: int) -> np.ndarray:
    """As :func:`cut_cube` about (D, 3) points: (D, n, n, n) float32."""
    shape = np.array(volume.shape)
    cubes = np.zeros((len(centres_nm), n, n, n), dtype=np.float32)
    for cube, centre_nm in zip(cubes, centres_nm, strict=True):
        low = nearest_voxels(shape, voxel_nm, centre_nm) - n // 2
        inside_low, inside_high = np.clip(low, 0, shape), np.clip(low + n, 0, shape)
        if np.all(inside_high > inside_low):
            source = tuple(slice(a, b) for a, b in zip(inside_low, inside_high, strict=True))
            target = tuple(slice(a, b) for a, b in zip(inside_low - low, inside_high - low, strict=True))
            cube[target] = volume[source]
    return cubes


def cube_middle_nm(shape: tuple[int, int, int], voxel_nm: float, centre_nm: np.ndarray) -> np.ndarray:
    """(3,) x, y, z, nm, of the voxel that :func:`cut_cube` puts in the middle, in a volume of a shape [z, y, x]."""
    size = np.array(shape)
    return ((nearest_voxels(size, voxel_nm, centre_nm) - (size - 1) / 2) * voxel_nm)[::-1]


def nearest_voxels(shape: tuple[int, int, int] | np.ndarray, voxel_nm: float, points_nm: np.ndarray) -> np.ndarray:
    """(..., 3) index z, y, x of the voxels nearest to points (..., 3) x, y, z, nm, in a volume of a shape [z, y, x]."""
    return np.rint(np.asarray(points_nm, float)[..., ::-1] / voxel_nm + (np.asarray(shape) - 1) / 2).astype(int)
