"""The non-uniform FFT of :mod:`.gridding` on a CPU, in loops that numba compiles.

A pair of slices has a grid of its own, so that a slice comes out the same, to the last bit, whichever slices it travels
with. Points are visited square by square of the grid, for the sake of the cache. The grid begins at its middle, not at
pixel 0, and so holds the slices in one piece: weights change their sign from grid point to grid point. Beyond its edges
lies a margin for the windows that cross them.

The compiled code is kept by no cache, as that of :mod:`mesotomo_utils.mapping.splines`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import numba
import numpy as np

from mesotomo_utils.tomography.grid_fft import GridFft
from mesotomo_utils.tomography.gridding import Gridding
from mesotomo_utils.tomography.window_vectors import window_functions

_SQUARE = 32
"""Edge of the squares of the grid whose points follow one another."""
_APART = 16
"""Points of a line between one and the next in a square: windows that overlap would wait for each other's sums."""


class CpuGridding(Gridding):
    """As :class:`~mesotomo_utils.tomography.gridding.Gridding`, between numpy arrays.

    Parameters
    ----------
    points, size, tolerance, dtype
        As there.

    Notes
    -----
    Several threads may use one at once.

    Examples
    --------
    >>> zero = np.zeros(1)
    >>> transform = CpuGridding((zero, zero), 4, tolerance=1e-9, dtype="complex128")
    >>> transform.to_points(np.ones((1, 4, 4))).real.round(6).tolist()
    [[16.0]]
    """

    FINENESS = 1.25  # on a coarser grid the window, which is wider there, takes what the FFT gains
    MARGIN = 0.4

    def __init__(self, points: tuple[np.ndarray, np.ndarray], size: int, *, tolerance: float, dtype: str) -> None:
        super().__init__(points, size, tolerance=tolerance, dtype=dtype)
        corner, before = self._corners(points[::-1])
        squares = corner // _SQUARE
        place = (squares[:, 0] * -(-self.edge // _SQUARE) + squares[:, 1]) * _APART + np.arange(len(corner)) % _APART
        order = np.argsort(place.astype(np.min_scalar_type(place.max(initial=0))), kind="stable")
        corner = corner[order].T.astype(np.uint32)
        weights = self._weights_of(before[order])
        for axis, first in zip(weights, corner, strict=True):
            axis *= np.where(first % 2, -1, 1).astype(self.real)[:, None]
            axis[:, 1::2] *= -1
        self._points = (order.astype(np.uint32), *corner, *weights.reshape(2, -1))
        self._spread, self._interpolate = _kernels(self.width)
        self._corrections = self._correction().astype(self.real)
        self._grids: list[GridFft] = []  # that no thread is at work on

    def to_points(self, slices: np.ndarray) -> np.ndarray:
        """Fourier transform of each pair at the points: the sum of value × exp(−i (q·j)), j counted from −(n // 2).

        Parameters
        ----------
        slices
            (Z, n, n) real.

        Returns
        -------
        ndarray
            (⌈Z/2⌉, M) complex.
        """
        values = np.empty(((len(slices) + 1) // 2, self.n_points), self.dtype)
        with self._grid() as grid:
            for pair, found in enumerate(values):
                grid.onto_grid(slices[2 * pair : 2 * pair + 2])
                self._interpolate(grid.grid, self.edge, *self._points, _real(found))
        return values

    def to_slices(self, values: np.ndarray, out: np.ndarray) -> None:
        """The exact adjoint: the sum of value × exp(+i (q·j)) over the points, for every pixel j.

        Parameters
        ----------
        values
            (⌈Z/2⌉, M) complex.
        out
            (Z, n, n) real, filled with the slices.
        """
        values = np.ascontiguousarray(values, self.dtype)
        with self._grid() as grid:
            for pair, given in enumerate(values):
                self._spread(_real(given), *self._points, grid.grid, self.edge)
                grid.from_grid(out[2 * pair : 2 * pair + 2])

    @contextmanager
    def _grid(self) -> Iterator[GridFft]:
        """A grid for the calling thread alone."""
        try:
            grid = self._grids.pop()
        except IndexError:
            grid = GridFft(self.edge, self.width, self._corrections)
        yield grid
        self._grids.append(grid)


def _real(array: np.ndarray) -> np.ndarray:
    """Real and imaginary parts beside each other, along the last axis."""
    return array.view(array.real.dtype)


_compiled = numba.njit(nogil=True)


@cache
def _kernels(width: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """The window's way onto the grid, and its transpose, for one width."""
    spread_one, interpolate_one = window_functions(width)

    @_compiled
    def spread(values, order, x, y, weight_x, weight_y, grid, edge):
        """Grid: every value whose window holds the grid point, times its weight there."""
        grid[:] = 0
        flat, row = grid.ravel(), grid.shape[1]
        for m in range(len(order)):
            spread_one(values, 2 * order[m], weight_x, weight_y, width * m, flat, row * x[m] + 2 * y[m], row)
        # what lies in the margin belongs at the other end
        for j in range(width):
            for k in range(grid.shape[1]):
                grid[j, k] += grid[edge + j, k]
        for j in range(edge):
            for k in range(2 * width):
                grid[j, k] += grid[j, 2 * edge + k]

    @_compiled
    def interpolate(grid, edge, order, x, y, weight_x, weight_y, values):
        """Values: the window times the grid."""
        for j in range(edge):
            for k in range(2 * width):
                grid[j, 2 * edge + k] = grid[j, k]
        for j in range(width):
            for k in range(grid.shape[1]):
                grid[edge + j, k] = grid[j, k]
        flat, row = grid.ravel(), grid.shape[1]
        for m in range(len(order)):
            interpolate_one(values, 2 * order[m], weight_x, weight_y, width * m, flat, row * x[m] + 2 * y[m], row)

    return spread, interpolate
