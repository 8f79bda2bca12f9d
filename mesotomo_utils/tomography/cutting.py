"""Parts of a tomogram, cut out around a point given in nm."""

from __future__ import annotations

from typing import Any

import numpy as np


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
    shape = np.array(volume.shape)
    low = _nearest(shape, voxel_nm, centre_nm) - n // 2
    inside_low, inside_high = np.clip(low, 0, shape), np.clip(low + n, 0, shape)
    cube = np.zeros((n, n, n), dtype=np.float32)
    if np.all(inside_high > inside_low):
        source = tuple(slice(a, b) for a, b in zip(inside_low, inside_high, strict=True))
        target = tuple(slice(a, b) for a, b in zip(inside_low - low, inside_high - low, strict=True))
        cube[target] = volume[source]
    return cube


def cube_middle_nm(shape: tuple[int, int, int], voxel_nm: float, centre_nm: np.ndarray) -> np.ndarray:
    """(3,) x, y, z, nm, of the voxel that :func:`cut_cube` puts in the middle, in a volume of a shape [z, y, x]."""
    size = np.array(shape)
    return ((_nearest(size, voxel_nm, centre_nm) - (size - 1) / 2) * voxel_nm)[::-1]


def _nearest(shape: np.ndarray, voxel_nm: float, centre_nm: np.ndarray) -> np.ndarray:
    """(3,) index z, y, x of the voxel nearest to a point."""
    return np.rint(np.asarray(centre_nm, float)[::-1] / voxel_nm + (shape - 1) / 2).astype(int)
