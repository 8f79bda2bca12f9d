"""Short vectors in code that numba compiles, written in LLVM's own terms.

numba leaves loops over a few numbers in single numbers, which takes three to five times as long. A vector written here
LLVM cuts to what the processor has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numba
from llvmlite import ir
from numba.core import types

LANE, INDEX = ir.IntType(32), ir.IntType(64)
_CONTRACT = ("contract",)  # a product and a sum may become one instruction

compiled_within = numba.njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
"""As ``njit``, for what only compiled code calls: without what Python needs to call it, it compiles in two thirds."""


class Vector:
    """A vector of real numbers while code for it is written; complex ones have their parts beside each other."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def __len__(self) -> int:
        return self.value.type.count

    def __add__(self, other: Vector) -> Vector:
        return Vector(self.builder, self.builder.fadd(self.value, other.value, flags=_CONTRACT))

    def __sub__(self, other: Vector) -> Vector:
        return Vector(self.builder, self.builder.fsub(self.value, other.value, flags=_CONTRACT))

    def __mul__(self, other: Vector) -> Vector:
        return Vector(self.builder, self.builder.fmul(self.value, other.value, flags=_CONTRACT))

    def scaled(self, real: float, imaginary: float | None = None) -> Vector:
        """Real parts times one number, imaginary parts times another or the same."""
        pair = [float(real), float(real if imaginary is None else imaginary)]
        return self * Vector(self.builder, ir.Constant(self.value.type, pair * (len(self) // 2)))

    def swapped(self) -> Vector:
        """Imaginary parts in place of real ones, and the other way round."""
        return self.picked(k ^ 1 for k in range(len(self)))

    def picked(self, numbers: Iterable[int], other: Vector | None = None) -> Vector:
        """Some of the numbers, by their places; behind them lie those of another vector, or as many zeros."""
        second = ir.Constant(self.value.type, None) if other is None else other.value
        places = list(numbers)
        lanes = ir.Constant(ir.VectorType(LANE, len(places)), places)
        return Vector(self.builder, self.builder.shuffle_vector(self.value, second, lanes))


class Places:
    """Loads and stores while code is written; arrays are one-dimensional, contiguous and of one real type."""

    def __init__(self, context: Any, builder: Any, kind: Any) -> None:
        self.builder, self.real, self.align = builder, context.get_data_type(kind), kind.bitwidth // 8

    def steps(self, start: Any, step: Any, count: int) -> list[Any]:
        """start, start + step, … as indices."""
        places = [start]
        while len(places) < count:
            places.append(self.builder.add(places[-1], step))
        return places

    def load(self, array: Any, at: Any, count: int) -> Vector:
        """So many numbers of an array from a place on."""
        return Vector(self.builder, self.builder.load(self._place(array, at, count), align=self.align))

    def store(self, vector: Vector, array: Any, at: Any) -> None:
        """A vector into an array from a place on."""
        self.builder.store(vector.value, self._place(array, at, len(vector)), align=self.align)

    def filled(self, number: Any, count: int) -> Vector:
        """A number again and again."""
        one = self.builder.insert_element(ir.Constant(ir.VectorType(self.real, 1), None), number, LANE(0))
        return Vector(self.builder, one).picked([0] * count)

    def zeros(self, count: int) -> Vector:
        """So many zeros."""
        return Vector(self.builder, ir.Constant(ir.VectorType(self.real, count), None))

    def _place(self, array: Any, at: Any, count: int) -> Any:
        return self.builder.bitcast(self.builder.gep(array, [at]), ir.VectorType(self.real, count).as_pointer())


def vector_code(write: Callable[..., None], *kinds: Any) -> tuple[Any, Callable[..., Any]]:
    """What an intrinsic of numba returns for arguments of these kinds, the first one an array.

    ``write`` gets :class:`Places` and the arguments, of an array where its numbers begin.
    """

    def code(context, builder, signature, given):
        given = [
            context.make_array(kind)(context, builder, item).data if isinstance(kind, types.Array) else item
            for kind, item in zip(kinds, given, strict=True)
        ]
        write(Places(context, builder, kinds[0].dtype), *given)
        return context.get_dummy_value()

    return types.void(*kinds), code
