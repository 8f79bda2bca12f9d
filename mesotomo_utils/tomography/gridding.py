"""A non-uniform FFT in two dimensions: what its two makes, for CPU and GPU, have in common.

Two slices travel in one complex transform, as its real and its imaginary part: this halves the work at no loss.

Pixels, divided by the transform of a Kaiser–Bessel window, go through an FFT onto a grid somewhat finer than they are;
the window then interpolates at the points (Fessler and Sutton 2003, IEEE Trans. Signal Process. 51, 560;
Beatty et al. 2005, IEEE Trans. Med. Imaging 24, 799). The adjoint runs the same steps backwards with the same weights.

A library's plan serves any points. Here points, and with them all weights, stay for hundreds of slices, so they are
made once; and only those lines and columns go through the FFT that hold pixels. On the CPU FBP takes 40 % of its time
by finufft (:mod:`.gridding_cpu`), and on a GPU without cufinufft it is there at all (:mod:`.gridding_gpu`).
"""

from __future__ import annotations

from typing import ClassVar

import numba
import numpy as np
from numpy.polynomial import chebyshev
from scipy.fft import next_fast_len
from scipy.special import i0e

from mesotomo_utils import backend

_FINER_BELOW = {"complex64": 1e-5, "complex128": 1e-9}
_FINER = (2.0, 0.7)
"""For an accuracy beyond that of its precision the grid has this fineness, and its windows this margin.

On a coarser one the window would have to be so wide that it makes more of the rounding than it gains.
"""


class Gridding:
    """Transforms between square slices, in pairs, and the values of their Fourier transform at fixed points.

    Parameters
    ----------
    points
        Two arrays (M,) of frequencies along the first and the second axis, radians per pixel, from −π to π.
    size
        Edge n of the slices, pixels.
    tolerance
        Relative accuracy of values and slices; the window grows with it, and below 1e-5 (in double precision 1e-9)
        the grid too.
    dtype
        ``"complex64"`` or ``"complex128"``, of a pair.

    Raises
    ------
    ValueError
        A point lies beyond ±π, or is not finite.
    """

    FINENESS: ClassVar[float]
    """Points of the grid for each pixel: the more, the longer the FFT takes, and the less the window."""
    MARGIN: ClassVar[float]
    """What the window has beyond the width that its decay asks for, grid points."""

    def __init__(self, points: tuple[np.ndarray, np.ndarray], size: int, *, tolerance: float, dtype: str) -> None:
        for axis, values in enumerate(points):
            wrong = np.flatnonzero(~(np.abs(values) <= np.pi * (1 + 1e-9)))
            if wrong.size:
                raise ValueError(f"points[{axis}][{wrong[0]}] must lie within ±π; it is {values[wrong[0]]}")
        self.size = int(size)
        self.dtype = np.dtype(dtype)
        self.real = np.empty(0, self.dtype).real.dtype
        self.n_points = len(points[0])
        fineness, margin = _FINER if tolerance < _FINER_BELOW[self.dtype.name] else (self.FINENESS, self.MARGIN)
        decay = np.pi * np.sqrt(1 - 1 / fineness)
        self.width = int(np.clip(np.ceil(-np.log(tolerance) / decay + margin), 4, 16))
        edge = max(int(np.ceil(fineness * size)), 2 * self.width)
        # FFTs are fast where it is a product of 2, 3 and 5, and most so of 16; the CPU's take eight lines at once
        self.edge = 16 * next_fast_len(-(-edge // 16), real=True)

    def _corners(self, points: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Each window's first grid point, from 0 to edge − 1, and how far before it the window begins: (M, 2) both."""
        begin = np.stack(points, axis=1) * (self.edge / (2 * np.pi)) - self.width / 2
        first = np.ceil(begin)
        return first.astype(np.int32) % self.edge, first - begin

    def _weights_of(self, before: np.ndarray) -> np.ndarray:
        """(2, M, width) of windows that begin so far, (M, 2), before a grid point."""
        weights = np.empty((2, len(before), self.width), self.real)
        polynomials = self._polynomials()
        for axis in range(2):
            _evaluate(polynomials, 2 * before[:, axis] - 1, weights[axis])
        return weights

    def _polynomials(self) -> np.ndarray:
        """(degree + 1, width): each weight against where between two grid points the window begins, from −1 to 1."""

        def window(where: np.ndarray) -> np.ndarray:
            distance = (where[:, None] + 1 - self.width) / 2 + np.arange(self.width)
            argument = self._beta * np.sqrt(np.maximum(1 - (2 * distance / self.width) ** 2, 0))
            return i0e(argument) * np.exp(argument - self._beta)

        of_chebyshev = chebyshev.chebinterpolate(window, self.width + 4)
        return np.stack([chebyshev.cheb2poly(column) for column in of_chebyshev.T], axis=1)[::-1].copy()

    def _correction(self) -> np.ndarray:
        """(size,) one over the Fourier transform of the window at the pixels, counted from −(n // 2)."""
        pixel = np.arange(self.size) - self.size // 2
        argument = np.sqrt(self._beta**2 - (np.pi * self.width * pixel / self.edge) ** 2)
        return 2 * argument / (self.width * (np.exp(argument - self._beta) - np.exp(-argument - self._beta)))

    @property
    def _beta(self) -> float:
        """Shape of the Kaiser–Bessel window (Beatty et al. 2005, eq. 5)."""
        fineness = self.edge / self.size
        return float(np.pi * np.sqrt((self.width / fineness) ** 2 * (fineness - 0.5) ** 2 - 0.8))


def pack(stack: np.ndarray, dtype: np.dtype, length: int | None = None) -> np.ndarray:
    """(Z, …) real to (⌈Z/2⌉, …) complex: even ones real, odd ones imaginary. The last axis goes on in zeros."""
    shape = ((stack.shape[0] + 1) // 2, *stack.shape[1:-1], length or stack.shape[-1])
    packed = backend.get_array_module(stack).zeros(shape, dtype)
    within = packed[..., : stack.shape[-1]]
    within.real = stack[::2]
    within.imag[: stack.shape[0] // 2] = stack[1::2]
    return packed


def unpack(out: np.ndarray, packed: np.ndarray) -> None:
    """Inverse of :func:`pack`, into ``out``."""
    out[::2] = packed.real
    out[1::2] = packed.imag[: out.shape[0] // 2]


@numba.njit(nogil=True)
def _evaluate(polynomials: np.ndarray, where: np.ndarray, out: np.ndarray) -> None:
    """out[m, k] = polynomial k, its highest power first, at where[m]."""
    value = np.empty(polynomials.shape[1])
    for m in range(len(where)):
        value[:] = 0
        for power in range(len(polynomials)):
            for k in range(len(value)):
                value[k] = value[k] * where[m] + polynomials[power, k]
        for k in range(len(value)):
            out[m, k] = value[k]
