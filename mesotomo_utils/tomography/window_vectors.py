"""One window of :mod:`.gridding_cpu` on its grid, in vectors.

numba leaves such short loops in single numbers, which takes three to five times as long. What is written here is LLVM's
own code, with a vector of one line of the window, that LLVM cuts to what the processor has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_INDEX, _LANE = ir.IntType(64), ir.IntType(32)
_CONTRACT = ("contract",)  # a product and a sum may become one instruction


def window_functions(width: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Functions for compiled code that bring one value onto the grid by its window, and that take it from there.

    Parameters
    ----------
    width
        Of the window, grid points.

    Returns
    -------
    spread, interpolate
        Of ``values``, ``at``, ``weight_y``, ``weight_x``, ``m``, ``grid``, ``row``, ``column``: the value lies at
        ``values[at : at + 2]``, real and imaginary part; its weights at ``[m, :width]``; the window begins at
        ``grid[row, column]``, where again real and imaginary parts lie beside each other. The first adds the value,
        times its window, to the grid; the second, its transpose, sets the value. All arrays are contiguous and of one
        real type, indices are unsigned, and none is checked.
    """

    def function(write: Callable[[_Window], None]) -> Callable[..., None]:
        @intrinsic
        def of_one(typing_context, values, at, weight_y, weight_x, m, grid, row, column):
            def code(context, builder, signature, given):
                write(_Window(width, context, builder, signature, given))
                return context.get_dummy_value()

            return types.void(values, at, weight_y, weight_x, m, grid, row, column), code

        return of_one

    return function(_Window.spread), function(_Window.interpolate)


class _Window:
    """One window while the code for it is written."""

    def __init__(self, width: int, context: Any, builder: Any, signature: Any, given: Any) -> None:
        self.width, self.context, self.builder = width, context, builder
        self.types, self.given = signature.args, given
        self.real = context.get_data_type(self.types[0].dtype)
        self.align = self.types[0].dtype.bitwidth // 8

    def spread(self) -> None:
        value = self.shuffle(self.load(self.value(), 2), [0, 1] * self.width)
        line = self.builder.fmul(value, self.weight_x())
        for place, weight in zip(self.lines(), self.weights_y(), strict=True):
            added = self.builder.fmul(weight, line, flags=_CONTRACT)
            self.store(self.builder.fadd(self.load(place, 2 * self.width), added, flags=_CONTRACT), place)

    def interpolate(self) -> None:
        total = ir.Constant(self.vector(2 * self.width), None)
        for place, weight in zip(self.lines(), self.weights_y(), strict=True):
            part = self.builder.fmul(weight, self.load(place, 2 * self.width), flags=_CONTRACT)
            total = self.builder.fadd(total, part, flags=_CONTRACT)
        self.store(self.sum_pairs(self.builder.fmul(total, self.weight_x())), self.value())

    def value(self) -> ir.Value:
        return self._place(0, self.given[1])

    def weight_x(self) -> ir.Value:
        """Each weight along a line twice, for real and imaginary part."""
        weights = self.load(self._place(3, self.given[4], _INDEX(0)), self.width)
        return self.shuffle(weights, [k // 2 for k in range(2 * self.width)])

    def weights_y(self) -> list[ir.Value]:
        """The weight of each line, filling a vector."""
        weights = self.load(self._place(2, self.given[4], _INDEX(0)), self.width)
        return [self.shuffle(weights, [j] * (2 * self.width)) for j in range(self.width)]

    def lines(self) -> list[ir.Value]:
        """Where each line of the window begins."""
        rows = [self.builder.add(self.given[6], _INDEX(j)) for j in range(self.width)]
        return [self._place(5, row, self.given[7]) for row in rows]

    def sum_pairs(self, pairs: ir.Value) -> ir.Value:
        """Sum of real parts and of imaginary parts, the upper half onto the lower until one is left."""
        count = self.width
        while count > 1:
            kept = (count + 1) // 2
            upper = [k if k < 2 * count else 2 * count for k in range(2 * kept, 4 * kept)]  # 2 · count: a zero
            upper = self.builder.shuffle_vector(pairs, ir.Constant(pairs.type, None), _lanes(upper))
            pairs = self.builder.fadd(self.shuffle(pairs, list(range(2 * kept))), upper)
            count = kept
        return pairs

    def vector(self, count: int) -> ir.VectorType:
        return ir.VectorType(self.real, count)

    def load(self, place: ir.Value, count: int) -> ir.Value:
        return self.builder.load(self.builder.bitcast(place, self.vector(count).as_pointer()), align=self.align)

    def store(self, vector: ir.Value, place: ir.Value) -> None:
        self.builder.store(vector, self.builder.bitcast(place, vector.type.as_pointer()), align=self.align)

    def shuffle(self, vector: ir.Value, lanes: list[int]) -> ir.Value:
        return self.builder.shuffle_vector(vector, vector, _lanes(lanes))

    def _place(self, argument: int, *index: ir.Value) -> ir.Value:
        """Address of an element of one of the arrays given."""
        kind = self.types[argument]
        array = self.context.make_array(kind)(self.context, self.builder, self.given[argument])
        return cgutils.get_item_pointer(self.context, self.builder, kind, array, index, wraparound=False)


def _lanes(numbers: list[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(_LANE, len(numbers)), numbers)
