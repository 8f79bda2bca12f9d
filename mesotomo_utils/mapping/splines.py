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
    before = 1 - t
    first, last = before * before * before / 6, t * t * t / 6
    second = 2 / 3 - t * t * (1 - t / 2)
    return first, second, 1 - first - second - last, last


_weights = numba.njit(nogil=True)(cubic_weights)
# unsigned, as all of an index must be then: numba need not see whether it counts from the end, a third of the time
_ONE, _TWO, _THREE = np.uint64(1), np.uint64(2), np.uint64(3)


@numba.njit(nogil=True)
def _read(coefficients: np.ndarray, z: float, y: float, x: float) -> np.float32:
    """Value at one point, in voxels; beyond the outermost voxel but one it goes on as there, and so for NaN."""
    depth, height, width = coefficients.shape
    z, y, x = _within(z, depth), _within(y, height), _within(x, width)
    i, j, k = np.uint64(z), np.uint64(y), np.uint64(x)
    over_z, over_y, over_x = _single(_weights(z - i)), _single(_weights(y - j)), _single(_weights(x - k))
    i, j, k = i - _ONE, j - _ONE, k - _ONE
    value = np.float32(0)
    for tap_z in range(4):
        plane = np.float32(0)
        for tap_y in range(4):
            a, b = i + np.uint64(tap_z), j + np.uint64(tap_y)
            row = over_x[0] * coefficients[a, b, k] + over_x[1] * coefficients[a, b, k + _ONE]
            row += over_x[2] * coefficients[a, b, k + _TWO] + over_x[3] * coefficients[a, b, k + _THREE]
            plane += over_y[tap_y] * row
        value += over_z[tap_z] * plane
    return value


@numba.njit(nogil=True)
def _single(w: tuple[float, float, float, float]) -> tuple[np.float32, np.float32, np.float32, np.float32]:
    return np.float32(w[0]), np.float32(w[1]), np.float32(w[2]), np.float32(w[3])


@numba.njit(nogil=True)
def _within(at: float, edge: int) -> float:
    return min(at, edge - 3.0) if at > 1 else 1.0


@numba.njit(nogil=True)
def read_grid(coefficients: np.ndarray, origin: np.ndarray, steps: np.ndarray, out: np.ndarray) -> None:
    """Values on a grid that is turned against the voxels.

    Parameters
    ----------
    coefficients
        (nz, ny, nx) float32, each edge at least four; beyond its outermost voxel but one it goes on as there.
    origin
        (3,) z, y, x of the grid's first point, in voxels.
    steps
        (3, 3), a row the step z, y, x along one of the grid's axes, in voxels.
    out
        (l, m, n) float32, filled with the values.
    """
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            z, y, x = origin + i * steps[0] + j * steps[1]
            for k in range(out.shape[2]):
                out[i, j, k] = _read(coefficients, z + k * steps[2, 0], y + k * steps[2, 1], x + k * steps[2, 2])


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
