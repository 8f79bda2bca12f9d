"""FFTs between pairs of slices and the finer grid of their frequencies, in vectors of eight lines.

A grid is turned over against its slices: then lines along the first axis of either lie side by side in memory, where
their FFT begins. Weights of the pixels and the edges of the slices are seen to where lines are at hand.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numba
import numpy as np
from numba.extending import intrinsic

from mesotomo_utils.tomography.fft_vectors import LANES, WIDE, factors_of, line_transform, radices_of
from mesotomo_utils.tomography.vectors import Vector, vector_code

_TOGETHER = 4
"""Vectors of a row of a slice that go to memory together: parts of its lines take longer than they."""

_compiled = numba.njit(nogil=True)


class GridFft:
    """A grid, and its FFTs from and to pairs of slices; for one thread at a time.

    Parameters
    ----------
    edge
        Of the grid, points: even, and a product of 8 with others of 2, 3 and 5.
    margin
        Rows and columns that lie beyond its edges.
    corrections
        (n,) what pixels are multiplied by, once for their row and once for their column; of the real type of all.

    Attributes
    ----------
    grid
        (edge + margin, at least 2 · (edge + margin)): ``[x, y]``, real and imaginary parts beside each other.

    Notes
    -----
    The first pixel lies at edge // 2 − n // 2. One slice is the real part, the other the imaginary part.
    """

    def __init__(self, edge: int, margin: int, corrections: np.ndarray) -> None:
        real, size = corrections.dtype, len(corrections)
        corrections = np.append(corrections, np.zeros(max(LANES - size, 0), real))
        self._onto, self._from = _kernels(radices_of(edge))
        # an odd number of vectors, lest the places of a line share theirs in the processor's cache
        row = WIDE * (-(-(edge + margin) // LANES) | 1)
        self.grid = _aligned((edge + margin, row), real)
        lines = (_aligned(count * edge * WIDE, real) for count in (_TOGETHER, 1, 1, 1))
        self._work = (*lines, factors_of(edge, real).ravel(), corrections)
        self._shape = (edge, row, edge // 2 - size // 2)

    def onto_grid(self, slices: np.ndarray) -> None:
        """Fill the grid, but not its margin: Σ value × exp(−2πi (q·j) / edge).

        Parameters
        ----------
        slices
            One or two, n × n.
        """
        pair = self._pair_of(slices)
        if pair is not slices:
            pair[: len(slices), : slices.shape[1], : slices.shape[2]] = slices
        self._onto(pair.ravel(), self.grid.ravel(), *self._work, *self._shape)

    def from_grid(self, slices: np.ndarray) -> None:
        """The adjoint, into one or two slices, of a grid whose real and imaginary parts have been exchanged.

        That is to say the conjugate of a grid times i: so it needs the same FFT. It takes the grid for its work.
        """
        pair = self._pair_of(slices)
        self._from(self.grid.ravel(), pair.reshape(-1), *self._work, *self._shape)
        if pair is not slices:
            slices[:] = pair[: len(slices), : slices.shape[1], : slices.shape[2]]

    def _pair_of(self, slices: np.ndarray) -> np.ndarray:
        """The slices themselves where they are two in one piece, of eight pixels or more, else room for such."""
        fit = len(slices) == 2 and slices.shape[1] >= LANES and slices.dtype == self.grid.dtype
        if fit and slices.flags.c_contiguous:
            return slices
        return np.zeros((2, *np.maximum(slices.shape[1:], LANES)), self.grid.dtype)


def _aligned(shape: int | tuple[int, ...], real: np.dtype) -> np.ndarray:
    """Zeros that begin with a line of the processor's cache."""
    size = int(np.prod(shape))
    numbers = np.empty(size + 64, real)  # not cleared: for this NumPy asks for large pages of memory
    numbers[:] = 0
    first = (-numbers.ctypes.data % 64) // real.itemsize
    return numbers[first : first + size].reshape(shape)


@cache
def _kernels(radices: tuple[int, ...]) -> tuple[Callable[..., None], Callable[..., None]]:
    """From a pair of slices onto the grid, and back."""
    transform = line_transform(radices)

    # eight lines at a time, the last ones some of them again

    @_compiled
    def onto_grid(pair, grid, done, lines, near, there, factors, corrections, edge, row, middle):
        size = len(corrections)
        grid[: row * middle] = 0
        lines[:] = 0
        for first in range(0, size, LANES):
            column = min(first, size - LANES)
            for i in range(size):
                at, to = i * size + column, WIDE * (middle + i)
                _join(pair, at, at + size * size, corrections, column, corrections[i], lines, to)
            transform(lines, 0, WIDE, done, 0, WIDE, near, there, factors)
            for place in range(0, edge, LANES):
                _turn(done, WIDE * place, WIDE, grid, row * (middle + column) + 2 * place, row)
        grid[row * (middle + size) :] = 0
        for column in range(0, edge, LANES):
            transform(grid, 2 * column, row, grid, 2 * column, row, near, there, factors)

    @_compiled
    def from_grid(grid, pair, done, lines, near, there, factors, corrections, edge, row, middle):
        size = len(corrections)
        for column in range(0, edge, LANES):
            transform(grid, 2 * column, row, grid, 2 * column, row, near, there, factors)
        for first in range(0, size, _TOGETHER * LANES):
            for k in range(_TOGETHER):
                column = min(first + LANES * k, size - LANES)
                for place in range(0, edge, LANES):
                    _turn(grid, row * (middle + column) + 2 * place, row, lines, WIDE * place, WIDE)
                transform(lines, 0, WIDE, done, WIDE * edge * k, WIDE, near, there, factors)
            for i in range(size):
                for k in range(_TOGETHER):
                    column = min(first + LANES * k, size - LANES)
                    at, to = WIDE * (edge * k + middle + i), i * size + column
                    _part(done, at, corrections, column, corrections[i], pair, to, to + size * size)

    return onto_grid, from_grid


@intrinsic
def _join(typing_context, pair, at, second, corrections, column, correction, lines, to):
    """A vector from eight pixels of either slice."""

    def write(places, pair, at, second, corrections, column, correction, lines, to):
        weights = places.load(corrections, column, LANES) * places.filled(correction, LANES)
        one, two = (places.load(pair, place, LANES) * weights for place in (at, second))
        places.store(one.picked((k // 2 + LANES * (k % 2) for k in range(WIDE)), two), lines, to)

    return vector_code(write, pair, at, second, corrections, column, correction, lines, to)


@intrinsic
def _part(typing_context, lines, at, corrections, column, correction, pair, to, second):
    """Eight pixels of either slice from a vector, whose imaginary parts are the first one's."""

    def write(places, lines, at, corrections, column, correction, pair, to, second):
        weights = places.load(corrections, column, LANES) * places.filled(correction, LANES)
        vector = places.load(lines, at, WIDE)
        for part, place in ((1, to), (0, second)):
            places.store(vector.picked(range(part, WIDE, 2)) * weights, pair, place)

    return vector_code(write, lines, at, corrections, column, correction, pair, to, second)


@intrinsic
def _turn(typing_context, lines, at, step, turned, to, jump):
    """Eight places of eight lines, turned over."""

    def write(places, lines, at, step, turned, to, jump):
        vectors = [places.load(lines, place, WIDE) for place in places.steps(at, step, LANES)]
        width = LANES // 2
        while width:  # exchange blocks off the diagonal, ever smaller ones
            for k in range(LANES):
                if not k & width:
                    vectors[k], vectors[k + width] = _exchanged(vectors[k], vectors[k + width], width)
            width //= 2
        for vector, place in zip(vectors, places.steps(to, jump, LANES), strict=True):
            places.store(vector, turned, place)

    return vector_code(write, lines, at, step, turned, to, jump)


def _exchanged(one: Vector, other: Vector, width: int) -> tuple[Vector, ...]:
    """Two vectors whose upper and lower halves of each 2 · width lanes have changed places with one another."""
    here = [lane if not lane & width else LANES + lane - width for lane in range(LANES)]
    there = [lane + width if not lane & width else LANES + lane for lane in range(LANES)]
    return tuple(one.picked([2 * lane + part for lane in lanes for part in (0, 1)], other) for lanes in (here, there))
