"""Cubic B-splines read on the CPU, compiled by numba.

NumPy takes a pass through memory for each of the four weights along each axis, and ``ndimage.map_coordinates`` works
out every point by itself in general code: they take five and six times as long as these loops, which hold one dot's box
in cache, and half of the time that centres and necks took was theirs. A GPU has memory fast enough for the passes
(:meth:`.sampling.Sampler.patches`).

The compiled code is kept by no cache: two processes that write one at once can leave it broken (numba#10128).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


def cubic_weights(t: Any) -> tuple[Any, Any, Any, Any]:
    """Weights of the cubic B-spline for the fractional offset t in [0, 1) from the second of four coefficients."""
    return (1 - t) ** 3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (-3 * t**3 + 3 * t**2 + 3 * t + 1) / 6, t**3 / 6


_weights = numba.njit(nogil=True)(cubic_weights)


@numba.njit(nogil=True)
def read_points(coefficients: np.ndarray, index: np.ndarray, out: np.ndarray) -> None:
    """Values at single points.

    Parameters
    ----------
    coefficients
        (nz, ny, nx) float32, each edge at least four; beyond its outermost voxel but one it goes on as there.
    index
        (N, 3) z, y, x in voxels.
    out
        (N,) float32, filled with the values.
    """
    weights, first = np.empty((3, 4), np.float32), np.empty(3, np.int64)
    for point in range(len(index)):
        for axis in range(3):
            at, last = index[point, axis], coefficients.shape[axis] - 3.0
            at = min(at, last) if at > 1 else 1.0  # NaN too: nothing is read beyond the array
            first[axis] = int(at) - 1
            for tap, weight in enumerate(_weights(at - int(at))):
                weights[axis, tap] = weight
        value = np.float32(0)
        w, (z, y, x) = weights[2], first
        for i in range(4):
            for j in range(4):
                row = coefficients[z + i, y + j, x : x + 4]
                along_x = w[0] * row[0] + w[1] * row[1] + w[2] * row[2] + w[3] * row[3]
                value += weights[0, i] * weights[1, j] * along_x
        out[point] = value


@numba.njit(nogil=True)
def read_boxes(coefficients: np.ndarray, corner: np.ndarray, fraction: np.ndarray, out: np.ndarray) -> None:
    """Values on the voxels of cubes that lie between those of the volume.

    Parameters
    ----------
    coefficients
        (nz, ny, nx) float32.
    corner
        (N, 3) index z, y, x of the first coefficient that a cube of s voxels needs; it needs s + 3 along each axis.
    fraction
        (N, 3) offset of the cube's first voxel from the second coefficient, in [0, 1).
    out
        (N, s, s, s) float32, filled with the values.
    """
    size = out.shape[1]
    along_x = np.empty((size + 3, size), np.float32)
    along_y = np.empty((size + 3, size, size), np.float32)
    weights = np.empty((3, 4), np.float32)
    for box in range(len(out)):
        for axis in range(3):
            for tap, weight in enumerate(_weights(fraction[box, axis])):
                weights[axis, tap] = weight
        first_z, first_y, first_x = corner[box]
        w = weights[2]
        for z in range(size + 3):
            for y in range(size + 3):
                row = coefficients[first_z + z, first_y + y, first_x : first_x + size + 3]
                for x in range(size):
                    along_x[y, x] = w[0] * row[x] + w[1] * row[x + 1] + w[2] * row[x + 2] + w[3] * row[x + 3]
            _combine(along_x, weights[1], along_y[z])
        _combine(along_y.reshape(size + 3, -1), weights[0], out[box].reshape(size, -1))


@numba.njit(nogil=True)
def _combine(rows: np.ndarray, w: np.ndarray, out: np.ndarray) -> None:
    """(s, n) weighted sums of each four rows of (s + 3, n) that follow one another."""
    for k in range(len(out)):
        first, second, third, fourth = rows[k], rows[k + 1], rows[k + 2], rows[k + 3]
        for n in range(out.shape[1]):
            out[k, n] = w[0] * first[n] + w[1] * second[n] + w[2] * third[n] + w[3] * fourth[n]
