"""Parts of a tomogram, cut out around a point given in nm."""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future
from itertools import product
from threading import Lock
from typing import Any

import numpy as np

# Chunks that are kept, bytes: the layers of chunks that the dots of one layer lie in, at paper size.
_KEPT_BYTES = 1e9


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
        self._edges = tuple(array.chunks)
        self._room = max(1, int(kept_bytes / (np.prod(self._edges) * array.dtype.itemsize)))
        self._kept: OrderedDict[tuple[int, ...], Future[np.ndarray]] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[type, tuple[Any]]:
        return KeptChunks, (self.array,)  # to another process it goes empty

    def __getitem__(self, part: tuple[slice, slice, slice]) -> np.ndarray:
        """The part between three plain slices, start and stop within the array."""
        values = np.empty([s.stop - s.start for s in part], self.array.dtype)
        reached = [range(s.start // edge, -(-s.stop // edge)) for s, edge in zip(part, self._edges, strict=True)]
        for index in product(*reached):
            begins = [i * edge for i, edge in zip(index, self._edges, strict=True)]
            chunk = self._chunk(index, begins)
            ends = [b + n for b, n in zip(begins, chunk.shape, strict=True)]
            overlap = [(max(s.start, b), min(s.stop, e)) for s, b, e in zip(part, begins, ends, strict=True)]
            target = tuple(slice(a - s.start, z - s.start) for (a, z), s in zip(overlap, part, strict=True))
            source = tuple(slice(a - b, z - b) for (a, z), b in zip(overlap, begins, strict=True))
            values[target] = chunk[source]
        return values

    def _chunk(self, index: tuple[int, ...], begins: list[int]) -> np.ndarray:
        with self._lock:
            is_new = index not in self._kept
            chunk = self._kept.setdefault(index, Future())
            self._kept.move_to_end(index)
            if len(self._kept) > self._room:
                self._kept.popitem(last=False)
        if is_new:
            try:
                where = tuple(slice(b, b + edge) for b, edge in zip(begins, self._edges, strict=True))
                chunk.set_result(np.asarray(self.array[where]))
            except BaseException as error:
                with self._lock:
                    self._kept.pop(index, None)
                chunk.set_exception(error)  # for those who wait
                raise
        return chunk.result()  # where it is not new another thread may still be reading it


def keeping_chunks(volume: Any, *, kept_bytes: float = _KEPT_BYTES) -> Any:
    """A Zarr array that keeps its chunks (:class:`KeptChunks`); anything else as it is."""
    return KeptChunks(volume, kept_bytes=kept_bytes) if hasattr(volume, "chunks") else volume


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
        low = _nearest(shape, voxel_nm, centre_nm) - n // 2
        inside_low, inside_high = np.clip(low, 0, shape), np.clip(low + n, 0, shape)
        if np.all(inside_high > inside_low):
            source = tuple(slice(a, b) for a, b in zip(inside_low, inside_high, strict=True))
            target = tuple(slice(a, b) for a, b in zip(inside_low - low, inside_high - low, strict=True))
            cube[target] = volume[source]
    return cubes


def cube_middle_nm(shape: tuple[int, int, int], voxel_nm: float, centre_nm: np.ndarray) -> np.ndarray:
    """(3,) x, y, z, nm, of the voxel that :func:`cut_cube` puts in the middle, in a volume of a shape [z, y, x]."""
    size = np.array(shape)
    return ((_nearest(size, voxel_nm, centre_nm) - (size - 1) / 2) * voxel_nm)[::-1]


def _nearest(shape: np.ndarray, voxel_nm: float, centre_nm: np.ndarray) -> np.ndarray:
    """(3,) index z, y, x of the voxel nearest to a point."""
    return np.rint(np.asarray(centre_nm, float)[::-1] / voxel_nm + (shape - 1) / 2).astype(int)
