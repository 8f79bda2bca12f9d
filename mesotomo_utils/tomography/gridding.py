"""A non-uniform FFT in two dimensions for a GPU without cufinufft.

Pixels, divided by the transform of a Kaiser–Bessel window, go through an FFT onto a grid 1.5 times as fine;
the window then interpolates at the points (Fessler and Sutton 2003, IEEE Trans. Signal Process. 51, 560;
Beatty et al. 2005, IEEE Trans. Med. Imaging 24, 799). The adjoint runs the same steps backwards with
the same weights.

The two steps between grid and points are CUDA kernels of our own with the slices innermost: neighbouring threads
hold neighbouring slices of one point, read one run of memory and share its weights, which depend on the points
alone and are made once. Points are sorted by the grid point where their window begins. So the adjoint can
*gather*: a grid point adds up the points of the few runs of cells whose windows reach it. Atomic additions
would be a little shorter to write, but each run would then round differently, and the grid would have to be cleared
first. A sparse matrix (cuSPARSE) would do the same sums, but from width² weights and indices a point in place
of two windows: for 180 tilts of 992 pixels 93 MB to read a batch and direction instead of 24 MB, and held twice.

On numpy arrays the two steps are a sparse matrix and its transpose: the plain statement of what the kernels do.
The tests hold the kernels to it, and it to finufft; a reconstruction on the CPU uses finufft.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np
from scipy import sparse
from scipy.fft import next_fast_len
from scipy.special import i0e

from mesotomo_utils import backend

_FINENESS = 1.5
"""Points of the grid for each pixel: with 2 the FFT, with 1.25 the window takes most of the time."""
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


class Gridding:
    """Transforms between square images and the values of their Fourier transform at fixed points.

    Parameters
    ----------
    points
        Two arrays (M,) of frequencies along the first and the second axis, radians per pixel, from −π to π.
    size
        Edge n of the images, pixels.
    tolerance
        Relative accuracy; the window grows by a grid point for each factor of 6.
    dtype
        ``"complex64"`` or ``"complex128"``.
    device
        ``"cuda"`` for the kernels, ``"cpu"`` for the sparse matrix.

    Raises
    ------
    ValueError
        A point lies beyond ±π, or is not finite.
    RuntimeError
        The kernels cannot be compiled.

    Examples
    --------
    >>> zero = np.zeros(1)
    >>> transform = Gridding((zero, zero), 4, tolerance=1e-9, dtype="complex128", device="cpu")
    >>> transform.to_points(np.ones((1, 4, 4), complex)).real.round(6).tolist()
    [[16.0]]
    """

    def __init__(
        self, points: tuple[np.ndarray, np.ndarray], size: int, *, tolerance: float, dtype: str, device: str
    ) -> None:
        for axis, values in enumerate(points):
            wrong = np.flatnonzero(~(np.abs(values) <= np.pi * (1 + 1e-9)))
            if wrong.size:
                raise ValueError(f"points[{axis}][{wrong[0]}] must lie within ±π; it is {values[wrong[0]]}")
        self.size = int(size)
        self.dtype = np.dtype(dtype)
        self.width = window_width(tolerance)
        self.edge = grid_edge(size, tolerance)
        real = np.empty(0, self.dtype).real.dtype
        self._n_points = len(points[0])
        (row, weight_y), (column, weight_x) = (self._windows(np.asarray(values, float)) for values in points)
        shape = self._shape_of_window()
        self._correction = backend.to_device((1 / (shape[:, None] * shape)).astype(real), device)
        if device == "cpu":
            self._matrix = self._sparse(row, column, weight_y.astype(real), weight_x.astype(real))
            return
        cell = row * self.edge + column
        order = np.argsort(cell, kind="stable")
        start = np.zeros(self.edge**2 + 1, np.int32)
        np.cumsum(np.bincount(cell, minlength=self.edge**2), out=start[1:])
        self._start = backend.to_device(start, device)
        self._order, self._row, self._column = (
            backend.to_device(array.astype(np.int32), device) for array in (order, row[order], column[order])
        )
        self._weights = [backend.to_device(w[order].astype(real), device) for w in (weight_y, weight_x)]
        self._kernels = _compile(self.width, "float" if real == np.float32 else "double")

    def to_points(self, images: np.ndarray) -> np.ndarray:
        """Fourier transform at the points: the sum of image × exp(−i (q·j)), j counted from −(n // 2).

        Parameters
        ----------
        images
            (P, n, n) complex; on a GPU P is at most 512, two threads each.

        Returns
        -------
        ndarray
            (P, M) complex, on the device of the images.
        """
        xp = backend.get_array_module(images)
        images = images * self._correction
        grid = xp.zeros((self.edge, self.edge, len(images)), self.dtype)
        for inside, outside in self._quadrants():
            grid[outside] = images[(slice(None), *inside)].transpose(1, 2, 0)
        grid = backend.fft_module(xp).fft2(grid, axes=(0, 1), overwrite_x=True)
        return xp.ascontiguousarray(self._interpolate(xp, grid).T)

    def to_images(self, values: np.ndarray) -> np.ndarray:
        """The exact adjoint: the sum of value × exp(+i (q·j)) over the points, for every pixel j.

        Parameters
        ----------
        values
            (P, M) complex; P as above.

        Returns
        -------
        ndarray
            (P, n, n) complex, on the device of the values.
        """
        xp = backend.get_array_module(values)
        grid = self._spread(xp, xp.ascontiguousarray(values.T))
        # norm="forward": the inverse without its 1 / edge²
        grid = backend.fft_module(xp).ifft2(grid, axes=(0, 1), norm="forward", overwrite_x=True)
        images = xp.empty((len(values), self.size, self.size), self.dtype)
        for inside, outside in self._quadrants():
            images[(slice(None), *inside)] = grid[outside].transpose(2, 0, 1)
        images *= self._correction
        return images

    def _interpolate(self, xp: ModuleType, grid: np.ndarray) -> np.ndarray:
        """(edge, edge, P) grid to (M, P) values."""
        if xp is np:
            return _as_complex(self._matrix @ _as_real(grid).reshape(self.edge**2, -1))
        values = xp.empty((self._n_points, grid.shape[2]), self.dtype)
        slices = 2 * grid.shape[2]
        arguments = (np.int32(self._n_points), np.int32(slices), np.int32(self.edge))
        arrays = (self._order, self._row, self._column, *self._weights, grid, values)
        _launch(self._kernels["interpolate"], self._n_points, slices, (*arguments, *arrays))
        return values

    def _spread(self, xp: ModuleType, values: np.ndarray) -> np.ndarray:
        """(M, P) values to (edge, edge, P) grid: the transpose of :meth:`_interpolate`."""
        shape = (self.edge, self.edge, values.shape[1])
        if xp is np:
            return _as_complex(self._matrix.T @ _as_real(values)).reshape(shape)
        grid = xp.empty(shape, self.dtype)
        slices = 2 * values.shape[1]
        arrays = (self._start, self._order, self._column, *self._weights, values, grid)
        _launch(self._kernels["spread"], self.edge**2, slices, (np.int32(self.edge), np.int32(slices), *arrays))
        return grid

    def _windows(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First grid point (M,) of each point's window along one axis, and its weights (M, width)."""
        position = points * (self.edge / (2 * np.pi))
        first = np.ceil(position - self.width / 2).astype(np.int64)
        distance = first[:, None] + np.arange(self.width) - position[:, None]
        inside = np.maximum(1 - (2 * distance / self.width) ** 2, 0)
        argument = self._beta * np.sqrt(inside)
        return first % self.edge, i0e(argument) * np.exp(argument - self._beta)

    def _shape_of_window(self) -> np.ndarray:
        """(size,) Fourier transform of the window at the pixels."""
        pixel = np.arange(self.size) - self.size // 2
        argument = np.sqrt(self._beta**2 - (np.pi * self.width * pixel / self.edge) ** 2)
        return self.width * (np.exp(argument - self._beta) - np.exp(-argument - self._beta)) / (2 * argument)

    @property
    def _beta(self) -> float:
        """Shape of the Kaiser–Bessel window (Beatty et al. 2005, eq. 5)."""
        fineness = self.edge / self.size
        return float(np.pi * np.sqrt((self.width / fineness) ** 2 * (fineness - 0.5) ** 2 - 0.8))

    def _sparse(self, row: np.ndarray, column: np.ndarray, weight_y: np.ndarray, weight_x: np.ndarray) -> Any:
        """(M, edge²) matrix of all weights."""
        steps = np.arange(self.width)
        y, x = (row[:, None] + steps) % self.edge, (column[:, None] + steps) % self.edge
        cells = y[:, :, None] * self.edge + x[:, None, :]
        weights = weight_y[:, :, None] * weight_x[:, None, :]
        ends = np.arange(self._n_points + 1) * self.width**2
        return sparse.csr_array((weights.ravel(), cells.ravel(), ends), (self._n_points, self.edge**2))

    def _quadrants(self) -> list[tuple[tuple[slice, slice], tuple[slice, slice]]]:
        """Where each quadrant of an image lies in the grid, whose pixel 0 is the first point."""
        half = self.size // 2
        parts = [
            (slice(0, half), slice(self.edge - half, self.edge)),
            (slice(half, self.size), slice(0, self.size - half)),
        ]
        return [((y[0], x[0]), (y[1], x[1])) for y in parts for x in parts]


def window_width(tolerance: float) -> int:
    """Grid points of a window whose error is below ``tolerance`` (4 to 16)."""
    decay = np.pi * np.sqrt(1 - 1 / _FINENESS)
    return int(np.clip(np.ceil(-np.log(tolerance) / decay) + 1, 4, 16))


def grid_edge(size: int, tolerance: float) -> int:
    """Edge of the grid for images of an edge: a product of 2, 3 and 5, which every FFT library does fast."""
    return next_fast_len(max(int(np.ceil(_FINENESS * size)), 2 * window_width(tolerance)), real=True)


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


def _as_real(array: np.ndarray) -> np.ndarray:
    return array.view(array.real.dtype)


def _as_complex(array: np.ndarray) -> np.ndarray:
    return array.view(np.result_type(array.dtype, np.complex64))
