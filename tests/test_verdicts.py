"""Verdicts on stated values, each case decidable by hand."""

from __future__ import annotations

import pytest

from mesotomo_utils.analysis.verdicts import verdict


@pytest.mark.parametrize(
    ("interval", "statement", "expected"),
    [
        (None, {"value": 1.0}, "cannot_tell"),
        ([0.8, 1.2], {"value": 1.0}, "supports"),
        ([1.1, 1.2], {"value": 1.0}, "contradicts"),
        ([-0.1, 1.2], {"value": 1.0, "null": 0.0}, "cannot_tell"),
        ([0.1, 1.2], {"value": 1.0, "null": 0.0}, "supports"),
        ([1.1, 1.2], {"value": 1.0, "approximate": 0.15}, "supports"),
        ([0.5, 0.6], {"range": [0.1, 0.4]}, "contradicts"),
        ([0.3, 0.6], {"range": [0.1, 0.4]}, "supports"),
        ([0.3, 0.6], {"less_than": 1.0}, "supports"),
        ([0.3, 1.6], {"less_than": 1.0}, "cannot_tell"),
        ([1.3, 1.6], {"less_than": 1.0}, "contradicts"),
        ([1.3, 1.6], {"greater_than": 1.0}, "supports"),
        ([[-1, 0], [0, 1]], {"value": [-0.5, 0.5]}, "supports"),
        ([[-1, 0], [0, 1]], {"value": [-0.5, 1.5]}, "contradicts"),
    ],
)
def test_verdict(interval, statement, expected):
    assert verdict(interval, statement) == expected


@pytest.mark.parametrize("statement", [{}, {"value": 1, "range": [0, 1]}])
def test_statement_must_be_one_of_the_forms(statement):
    with pytest.raises(ValueError, match="exactly one"):
        verdict([0, 1], statement)
