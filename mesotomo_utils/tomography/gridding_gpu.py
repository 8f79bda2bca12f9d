"""The non-uniform FFT of :mod:`.gridding` for a GPU without cufinufft.

The two steps between grid and points are CUDA kernels of our own with the slices innermost: neighbouring threads
hold neighbouring slices of one point, read one run of memory and share its weights. Points are sorted by the grid point
where their window begins. So the adjoint can *gather*: a grid point adds up the points of the few runs of cells whose
windows reach it. Atomic additions would be a little shorter to write, but each run would then round differently, and
the grid would have to be cleared first. A sparse matrix (cuSPARSE) would do the same sums, but from width² weights and
indices a point in place of two windows: for 180 tilts of 992 pixels 93 MB to read a batch and direction instead of
24 MB, and held twice. The tests hold the kernels to the loops of :mod:`.gridding_cpu`.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from mesotomo_utils import backend
from mesotomo_utils.tomography.gridding import Gridding, pack, unpack

_THREADS = 256
"""Threads of a block."""

KERNELS = r"""
#ifdef __cplusplus
extern "C" {
#endif

/* values[order[p]] = the window of point p times the grid, for each slice */
__global__ void interpolate(int n_points, int n_slices, int edge, const int *order, const int *row,
                            const int *column, const REAL *weight_y, const REAL *weight_x,
                            const REAL *grid, REAL *values)
{
    long long p = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    int slice = threadIdx.x;
    if (p >= n_points) return;
    REAL sum = 0;
    int y = row[p];
    for (int dy = 0; dy < WIDTH; ++dy) {
        const REAL *line = grid + (long long)y * edge * n_slices + slice;
        REAL inner = 0;
        int x = column[p];
        for (int dx = 0; dx < WIDTH; ++dx) {
            inner += weight_x[p * WIDTH + dx] * line[(long long)x * n_slices];
            if (++x == edge) x = 0;
        }
        sum += weight_y[p * WIDTH + dy] * inner;
        if (++y == edge) y = 0;
    }
    values[(long long)order[p] * n_slices + slice] = sum;
}

/* grid[y, x] = every point whose window holds it, times its weight there, for each slice;
   the points whose window begins at cell c = y * edge + x are start[c] ... start[c + 1] - 1 */
__global__ void spread(int edge, int n_slices, const int *start, const int *order, const int *column,
                       const REAL *weight_y, const REAL *weight_x, const REAL *values, REAL *grid)
{
    long long cell = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    int slice = threadIdx.x;
    if (cell >= (long long)edge * edge) return;
    int x = cell % edge;
    int left = x - WIDTH + 1;
    REAL sum = 0;
    for (int dy = 0; dy < WIDTH; ++dy) {
        int y = (int)(cell / edge) - dy;
        if (y < 0) y += edge;
        const int *cells = start + (long long)y * edge;
        /* windows begin in the cells left ... x: two runs where these go round the edge */
        for (int run = 0; run < (left < 0 ? 2 : 1); ++run) {
            int first = run ? left + edge : left < 0 ? 0 : left;
            int last = run ? edge : x + 1;
            for (long long p = cells[first]; p < cells[last]; ++p) {
                int dx = x - column[p];
                if (dx < 0) dx += edge;
                sum += weight_y[p * WIDTH + dy] * weight_x[p * WIDTH + dx]
                       * values[(long long)order[p] * n_slices + slice];
            }
        }
    }
    grid[cell * n_slices + slice] = sum;
}

#ifdef __cplusplus
}
#endif
"""
"""C that is also CUDA, once ``WIDTH`` and ``REAL`` are defined. A complex slice counts as two real ones."""


class GpuGridding(Gridding):
    """As :class:`~mesotomo_utils.tomography.gridding.Gridding`, between CuPy arrays.

    Raises
    ------
    ValueError
        A point lies beyond ±π, or is not finite.
    RuntimeError
        The kernels cannot be compiled.
    """

    FINENESS = 1.5  # with 2 the FFT, with 1.25 the window takes most of the time
    MARGIN = 1.0

    def __init__(self, points: tuple[np.ndarray, np.ndarray], size: int, *, tolerance: float, dtype: str) -> None:
        super().__init__(points, size, tolerance=tolerance, dtype=dtype)
        corner, before = self._corners(points)
        cell = corner[:, 0] * self.edge + corner[:, 1]
        order = np.argsort(cell, kind="stable")
        start = np.zeros(self.edge**2 + 1, np.int32)
        np.cumsum(np.bincount(cell, minlength=self.edge**2), out=start[1:])
        arrays = (start, order.astype(np.int32), *np.ascontiguousarray(corner[order].T))
        self._start, self._order, self._row, self._column = (backend.to_device(array, "cuda") for array in arrays)
        self._weights = [backend.to_device(weights, "cuda") for weights in self._weights_of(before[order])]
        correction = self._correction()
        self._corrections = backend.to_device((correction[:, None] * correction).astype(self.real), "cuda")
        self._kernels = _compile(self.width, "float" if self.real == np.float32 else "double")

    def to_points(self, slices: Any) -> Any:
        """Fourier transform of each pair at the points: the sum of value × exp(−i (q·j)), j counted from −(n // 2).

        Parameters
        ----------
        slices
            (Z, n, n) real; Z is at most 1024, a thread each.

        Returns
        -------
        cupy.ndarray
            (⌈Z/2⌉, M) complex.
        """
        xp = backend.get_array_module(slices)
        pairs = pack(slices, self.dtype)
        pairs *= self._corrections
        grid = xp.zeros((self.edge, self.edge, len(pairs)), self.dtype)
        for inside, outside in self._quadrants():
            grid[outside] = pairs[(slice(None), *inside)].transpose(1, 2, 0)
        grid = backend.fft_module(xp).fft2(grid, axes=(0, 1), overwrite_x=True)
        values = xp.empty((self.n_points, len(pairs)), self.dtype)
        count = 2 * len(pairs)
        numbers = (np.int32(self.n_points), np.int32(count), np.int32(self.edge))
        arrays = (self._order, self._row, self._column, *self._weights, grid, values)
        _launch(self._kernels["interpolate"], self.n_points, count, (*numbers, *arrays))
        return xp.ascontiguousarray(values.T)

    def to_slices(self, values: Any, out: Any) -> None:
        """The exact adjoint: the sum of value × exp(+i (q·j)) over the points, for every pixel j.

        Parameters
        ----------
        values
            (⌈Z/2⌉, M) complex; Z as above.
        out
            (Z, n, n) real, filled with the slices.
        """
        xp = backend.get_array_module(values)
        values = xp.ascontiguousarray(values.T)
        count = 2 * values.shape[1]
        grid = xp.empty((self.edge, self.edge, values.shape[1]), self.dtype)
        arrays = (self._start, self._order, self._column, *self._weights, values, grid)
        _launch(self._kernels["spread"], self.edge**2, count, (np.int32(self.edge), np.int32(count), *arrays))
        # norm="forward": the inverse without its 1 / edge²
        grid = backend.fft_module(xp).ifft2(grid, axes=(0, 1), norm="forward", overwrite_x=True)
        pairs = xp.empty((values.shape[1], self.size, self.size), self.dtype)
        for inside, outside in self._quadrants():
            pairs[(slice(None), *inside)] = grid[outside].transpose(2, 0, 1)
        pairs *= self._corrections
        unpack(out, pairs)

    def _quadrants(self) -> list[tuple[tuple[slice, slice], tuple[slice, slice]]]:
        """Where each quadrant of a slice lies in the grid, whose pixel 0 is the first point."""
        half = self.size // 2
        parts = [
            (slice(0, half), slice(self.edge - half, self.edge)),
            (slice(half, self.size), slice(0, self.size - half)),
        ]
        return [((y[0], x[0]), (y[1], x[1])) for y in parts for x in parts]


def _compile(width: int, real: str) -> dict[str, Any]:
    cupy = importlib.import_module("cupy")
    options = (f"-DWIDTH={width}", f"-DREAL={real}")
    kernels = {name: cupy.RawKernel(KERNELS, name, options) for name in ("interpolate", "spread")}
    try:
        for kernel in kernels.values():
            kernel.compile()
    except (ImportError, OSError, RuntimeError, cupy.cuda.compiler.CompileException) as error:
        raise RuntimeError(
            f"the GPU kernels of the projector cannot be compiled ({error}): install CUDA's NVRTC "
            "(pip install 'cupy-cuda13x[ctk]', of the version that `nvidia-smi` shows) or cufinufft, "
            "or use device='cpu'"
        ) from error
    return kernels


def _launch(kernel: Any, n: int, slices: int, arguments: tuple[Any, ...]) -> None:
    """A thread for each slice of each of n points or grid points, slices innermost."""
    rows = max(1, _THREADS // slices)
    kernel((-(-n // rows),), (slices, rows), arguments)
