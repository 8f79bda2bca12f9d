"""Verdicts on stated values, each case decidable by hand."""

from __future__ import annotations

import pytest

from mesotomo_utils.analysis.verdicts import compared_rows, stated_rows, statements, verdict
from mesotomo_utils.workflow.report_tables import stated_table


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
        ([0.1, 1.2], {"value": 1.0, "null": [-1.0, 0.2]}, "cannot_tell"),
        ([0.3, 1.2], {"value": 1.0, "null": [-1.0, 0.2]}, "supports"),
        ([0.1, 0.5], {"other_than": 0.0, "approximate": 0.2}, "supports"),
        ([-0.1, 0.5], {"other_than": 0.0, "approximate": 0.2}, "cannot_tell"),
        ([-0.1, 0.1], {"other_than": 0.0, "approximate": 0.2}, "contradicts"),
        ([0.1, 0.15], {"other_than": 0.0, "approximate": 0.2}, "contradicts"),
        ([-0.1, 0.1], {"other_than": 0.0}, "cannot_tell"),
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


def test_an_exact_count_is_right_or_wrong():
    rows = [{"name": "layers", "index": None, "value": 9, "interval_95": None}]

    def said(**statement):
        paper = statements({"values": [{"name": "layers", **statement}]})
        return compared_rows(rows, paper, {})[0]["verdict_paper"]

    assert said(value=9, exact=True) == "supports"
    assert said(value=8, exact=True) == "contradicts"
    assert said(value=9) == "cannot_tell"  # a count that is not exact needs an interval
    rows[0]["value"] = None
    assert said(value=9, exact=True) == "cannot_tell"


def test_every_statement_has_a_row_with_its_place():
    document = {
        "values": [
            {"name": "a", "value": 1.0, "unit": "nm", "place": "Fig. 1", "approximate": 0.1},
            {"name": "b", "index": "C1", "range": [0, 1], "unit": "", "place": "Fig. 2"},
            {"name": "c", "less_than": 1.0, "unit": "", "place": "Fig. 3"},
        ]
    }
    rows = [
        {"name": "a", "index": None, "value": 1.2, "interval_95": [1.05, 1.3]},
        {"name": "c", "index": None, "value": None, "interval_95": None, "reason": "no lattice"},
    ]
    first, second, third = found = stated_rows(rows, statements(document))
    assert (first["verdict"], first["reason"], first["value"]) == ("supports", None, 1.2)
    assert (second["verdict"], second["reason"]) == ("cannot_tell", "not measured")
    assert (third["verdict"], third["reason"]) == ("cannot_tell", "no lattice")
    table = stated_table(found)
    assert table["place"].tolist() == ["Fig. 1", "Fig. 2", "Fig. 3"]
    assert table["paper"].tolist() == ["1 ± 0.1", "[0, 1]", "< 1"]
    compared = compared_rows(rows, statements(document), {("a", None): {"value": 1.0}})
    assert [row["place"] for row in compared] == ["Fig. 1", "Fig. 3"]


def test_a_statement_stands_once():
    row = {"name": "a", "value": 1}
    with pytest.raises(ValueError, match="stated twice"):
        statements({"values": [row, row]})
    claim = {"says": "so", "place": "Fig. 1", "tests": [row, {"name": "b"}]}
    assert list(statements({"values": [], "claims": [claim]})) == [("a", None)]
    with pytest.raises(ValueError, match="stated twice"):
        statements({"values": [row], "claims": [claim]})
