"""One window of :mod:`.gridding_cpu` on its grid, in vectors: one of each of its lines."""

from __future__ import annotations

from collections.abc import Callable

from numba.extending import intrinsic

from mesotomo_utils.tomography.vectors import Vector, vector_code


def window_functions(width: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Functions for compiled code that bring one value onto the grid by its window, and that take it from there.

    Parameters
    ----------
    width
        Of the window, grid points.

    Returns
    -------
    spread, interpolate
        Of ``values``, ``at``, ``weights_x``, ``weights_y``, ``first``, ``grid``, ``corner``, ``row``: the value lies at
        ``values[at : at + 2]``, real and imaginary part; its weights begin at ``first``; the window begins at
        ``grid[corner]``, where again real and imaginary parts lie beside each other, and its lines ``row`` apart. The
        first adds the value, its parts exchanged, times its window, to the grid; the second sets the value to the
        window times the grid, its parts as they are. Arrays are one-dimensional and of one real type; nothing is
        checked.
    """

    def write_spread(places, values, at, weights_x, weights_y, first, grid, corner, row):
        value = places.load(values, at, 2).picked([1, 0] * width)
        line = value * _twice(places.load(weights_y, first, width))
        weights = places.load(weights_x, first, width)
        for k, place in enumerate(places.steps(corner, row, width)):
            places.store(places.load(grid, place, 2 * width) + weights.picked([k] * (2 * width)) * line, grid, place)

    def write_interpolate(places, values, at, weights_x, weights_y, first, grid, corner, row):
        weights = places.load(weights_x, first, width)
        total = places.zeros(2 * width)
        for k, place in enumerate(places.steps(corner, row, width)):
            total = total + weights.picked([k] * (2 * width)) * places.load(grid, place, 2 * width)
        places.store(_sum_of_pairs(total * _twice(places.load(weights_y, first, width))), values, at)

    @intrinsic
    def spread(typing_context, values, at, weights_x, weights_y, first, grid, corner, row):
        return vector_code(write_spread, values, at, weights_x, weights_y, first, grid, corner, row)

    @intrinsic
    def interpolate(typing_context, values, at, weights_x, weights_y, first, grid, corner, row):
        return vector_code(write_interpolate, values, at, weights_x, weights_y, first, grid, corner, row)

    return spread, interpolate


def _twice(weights: Vector) -> Vector:
    """Each for a real and an imaginary part."""
    return weights.picked(k // 2 for k in range(2 * len(weights)))


def _sum_of_pairs(pairs: Vector) -> Vector:
    """Sum of real parts and of imaginary parts, the upper half onto the lower until one is left."""
    while (count := len(pairs)) > 2:
        kept = 2 * ((count // 2 + 1) // 2)
        upper = pairs.picked(min(k, count) for k in range(kept, 2 * kept))  # from ``count`` on lie zeros
        pairs = pairs.picked(range(kept)) + upper
    return pairs
