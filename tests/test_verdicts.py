"""Verdicts on stated values, each case decidable by hand."""

from __future__ import annotations

import pytest

from mesotomo_utils.analysis.verdicts import compared_rows, statements, verdict


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


def test_rows_carry_both_sides():
    rows = [
        {"name": "a", "index": None, "value": 1.0, "interval_95": [0.9, 1.1]},
        {"name": "b", "index": "C1", "value": None, "interval_95": None},
        {"name": "c", "index": None, "value": 3.0, "interval_95": None},
    ]
    document = {"values": [{"name": "a", "less_than": 1.5}, {"name": "b", "index": "C1", "value": 2}]}
    paper = statements(document)
    first, second = compared_rows(rows, paper, {("a", None): {"value": 2.0}})
    assert (first["paper"], first["verdict_paper"]) == ("< 1.5", "supports")
    assert (first["truth"], first["verdict_truth"]) == (2.0, "contradicts")
    assert second["verdict_paper"] == "cannot_tell"
    assert second["verdict_truth"] is None


def test_a_statement_stands_once():
    row = {"name": "a", "value": 1}
    with pytest.raises(ValueError, match="stated twice"):
        statements({"values": [row, row]})
