"""FFTs of eight lines side by side, in vectors: each vector holds one place of all of them.

They take half the time of SciPy's, whose wheels hold to the short vectors that every processor has, and leave what is
done with a line before and after to those who have it at hand (:mod:`.grid_fft`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba.extending import intrinsic

from mesotomo_utils.tomography.vectors import INDEX, Places, Vector, compiled_within, vector_code

LANES = 8
"""Lines side by side: of single precision they fill a line of the processor's cache."""
WIDE = 2 * LANES
"""Real numbers in a vector."""
_RADICES = (8, 5, 4, 3, 2)


def radices_of(length: int) -> tuple[int, ...]:
    """Radices of the passes that an FFT of a length takes, in their order.

    Raises
    ------
    ValueError
        Another prime number than 2, 3 and 5 divides the length.
    """
    if length == 1:
        return ()
    radix = next((radix for radix in _RADICES if length % radix == 0), None)
    if radix is None:
        raise ValueError(f"the length of an FFT must be a product of 2, 3 and 5; one of its factors is {length}")
    return (radix, *radices_of(length // radix))


def factors_of(length: int, dtype: np.dtype) -> np.ndarray:
    """(F, 4) what each pass multiplies by, block by block, place by place but the first of each block.

    Twice the real part, less the imaginary part, and that: of exp(−2πi × block × place / length left).
    """
    factors = []
    for radix in radices_of(length):
        blocks = length // radix
        turn = np.exp(-2j * np.pi / length * np.outer(np.arange(blocks), np.arange(1, radix)).ravel())
        factors.append(np.stack([turn.real, turn.real, -turn.imag, turn.imag], axis=1))
        length = blocks
    return np.concatenate(factors).astype(dtype)


@cache
def line_transform(radices: tuple[int, ...]) -> Callable[..., None]:
    """Function for compiled code: the FFT of eight lines, Σ value × exp(−2πi jk / length).

    Its arguments are ``source``, ``at``, ``step``: the places of the lines lie at ``source[at + step * k]``, a vector
    each; ``target``, ``to``, ``jump``: where they are put likewise, and may have been; ``near``, ``there``: WIDE ×
    length numbers each to work in; ``factors``, of :func:`factors_of`, flat. Arrays are one-dimensional and of one real
    type; nothing is checked.
    """
    return _from_pass(radices, 1, 0)


def _from_pass(radices: tuple[int, ...], beside: int, first: int) -> Callable[..., None]:
    """The passes from one on: each cuts what is left into blocks and has ``beside`` places of earlier ones together."""
    radix, *rest = radices
    blocks = math.prod(rest)
    one_pass = _pass(radix, turns=bool(rest))
    if not rest:

        @compiled_within
        def last(source, at, step, target, to, jump, near, there, factors):
            one_pass(source, at, step, target, to, jump, blocks, beside, factors, first)

        return last
    others = _from_pass(tuple(rest), beside * radix, first + 4 * (radix - 1) * blocks)

    @compiled_within
    def all_from_here(source, at, step, target, to, jump, near, there, factors):
        one_pass(source, at, step, near, 0, WIDE, blocks, beside, factors, first)
        others(near, 0, WIDE, target, to, jump, there, near, factors)

    return all_from_here


@cache
def _pass(radix: int, *, turns: bool) -> Callable[..., None]:
    """A pass of Stockham's algorithm, which leaves the frequencies in their order; the last one turns nothing."""

    def write(places, source, at, step, target, to, jump, factors, first):
        found = _butterfly([places.load(source, place, WIDE) for place in places.steps(at, step, radix)])
        if turns:
            pairs = [_pair(places, factors, place) for place in places.steps(first, INDEX(2), 2 * (radix - 1))]
            for k, (real, imaginary) in enumerate(zip(pairs[::2], pairs[1::2], strict=True), 1):
                found[k] = found[k] * real + found[k].swapped() * imaginary
        for vector, place in zip(found, places.steps(to, jump, radix), strict=True):
            places.store(vector, target, place)

    @intrinsic
    def butterfly(typing_context, source, at, step, target, to, jump, factors, first):
        return vector_code(write, source, at, step, target, to, jump, factors, first)

    @compiled_within
    def one_pass(source, at, step, target, to, jump, blocks, beside, factors, first):
        for block in range(blocks):
            for place in range(beside):
                butterfly(
                    source,
                    at + step * (place + beside * block),
                    step * beside * blocks,
                    target,
                    to + jump * (place + beside * radix * block),
                    jump * beside,
                    factors,
                    first + 4 * (radix - 1) * block,
                )

    return one_pass


def _pair(places: Places, array: Any, at: Any) -> Vector:
    """Two numbers of an array for each line."""
    return places.load(array, at, 2).picked([0, 1] * LANES)


def _butterfly(a: list[Vector]) -> list[Vector]:
    """Discrete Fourier transform of 2, 3, 4, 5 or 8 vectors."""
    if len(a) == 2:
        return [a[0] + a[1], a[0] - a[1]]
    if len(a) == 3:
        both = a[1] + a[2]
        one, two = _less_and_plus_i(a[0] + both.scaled(-0.5), (a[1] - a[2]).scaled(np.sqrt(0.75)))
        return [a[0] + both, one, two]
    if len(a) == 5:
        (c1, c2), (s1, s2) = (function(0.4 * np.pi * np.array([1, 2])) for function in (np.cos, np.sin))
        outer, inner, outer_less, inner_less = a[1] + a[4], a[2] + a[3], a[1] - a[4], a[2] - a[3]
        one, four = _less_and_plus_i(
            a[0] + outer.scaled(c1) + inner.scaled(c2), outer_less.scaled(s1) + inner_less.scaled(s2)
        )
        two, three = _less_and_plus_i(
            a[0] + outer.scaled(c2) + inner.scaled(c1), outer_less.scaled(s2) - inner_less.scaled(s1)
        )
        return [a[0] + outer + inner, one, two, three, four]
    even, odd = _butterfly(a[::2]), _butterfly(a[1::2])
    if len(a) == 8:
        half = np.sqrt(0.5)
        odd[1] = odd[1].scaled(half) + odd[1].swapped().scaled(half, -half)
        odd[3] = odd[3].swapped().scaled(half, -half) - odd[3].scaled(half)
    middle = len(odd) // 2
    odd[middle] = odd[middle].swapped().scaled(1, -1)
    return [x + y for x, y in zip(even, odd, strict=True)] + [x - y for x, y in zip(even, odd, strict=True)]


def _less_and_plus_i(mean: Vector, other: Vector) -> tuple[Vector, Vector]:
    """One vector less i times another, and plus it."""
    less_i = other.swapped().scaled(1, -1)
    return mean + less_i, mean - less_i
