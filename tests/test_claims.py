"""Claims are judged by their tests, and the earlier sample by its numbers; each case decidable by hand."""

from __future__ import annotations

import pytest

from mesotomo_utils.analysis.claims import claim_rows, earlier_rows
from mesotomo_utils.analysis.verdicts import statements
from mesotomo_utils.workflow import report_tables


def row(name, value, interval=None, index=None, **more):
    return {"name": name, "index": index, "value": value, "sigma": None, "unit": "nm", "interval_95": interval} | more


WIDTHS = [row("width", 1.0, [0.9, 1.1], "C1"), row("width", 2.0, [1.5, 2.5], "C2")]


def judge(rows, *tests, **more):
    document = {
        "values": [{"name": "width", "index": "C1", "range": [0.5, 1.0]}],
        "claims": [{"says": "so", "place": "Fig. 9", "tests": list(tests)} | more],
    }
    return claim_rows(rows, document["claims"], statements(document))[0]


def above(bound, name="width", index="C2"):
    return {"name": name, "index": index, "greater_than": bound}


@pytest.mark.parametrize(
    ("tests", "verdict"),
    [
        ([{"name": "width", "index": "C1"}], "supports"),  # by what `values` states
        ([{"name": "width", "index": "C1"}, above(1.0)], "supports"),
        ([{"name": "width", "index": "C1"}, above(2.0)], "cannot_tell"),
        ([{"name": "width", "index": "C1"}, above(3.0)], "contradicts"),
        ([above(3.0), above(0.0, "height", None)], "contradicts"),  # one contradicts, though another is open
        ([above(1.0), above(0.0, "height", None)], "cannot_tell"),
    ],
)
def test_a_claim_needs_all_its_tests_and_falls_by_one(tests, verdict):
    assert judge(WIDTHS, *tests)["verdict"] == verdict


def test_an_open_claim_says_why():
    found = judge(
        [*WIDTHS, row("gone", None, reason="no lattice"), row("bare", 1.0)],
        above(0, "height", None), above(0, "gone", None), above(0, "bare", None), above(2.0),
    )  # fmt: skip
    assert found["reason"] == (
        "height: not measured; gone: no lattice; bare: no interval; width [C2]: the interval allows the opposite too"
    )
    assert judge(WIDTHS, above(1.0))["reason"] is None


def test_a_claim_lists_what_it_rests_on():
    rows = [*WIDTHS, row("sd", 1.0, [0, 2]), row("sd", 3.0, None, "C1")]
    found = judge(rows, above(1.0), rests_on=["sd", "width"])
    listed = [(each["name"], each["index"], each["asked"], each["verdict"]) for each in found["rests_on"]]
    assert listed == [
        ("width", "C2", "> 1", "supports"),
        ("sd", None, None, None),  # of the whole sample, where there is one
        ("width", "C1", None, None),
        ("width", "C2", None, None),
    ]
    text = report_tables.claims_table([found])
    assert text.loc[0, "place"] == "Fig. 9"
    assert text.loc[0, "verdict"] == "✓ supports"
    assert text.loc[0, "rests on"].splitlines()[0] == "width [C2] = 2 nm (1.5 … 2.5); asked: > 1; ✓ supports"


@pytest.mark.parametrize(
    ("interval", "ends", "verdict"),
    [
        ([-0.3, 0.4], [-0.2, 0.3], "supports"),
        ([0.1, 0.4], [0.2, 0.3], "supports"),  # a difference, but smaller than the margin
        ([0.1, 0.9], [0.2, 0.8], "contradicts"),
        ([-0.1, 0.9], [0.0, 0.8], "cannot_tell"),  # p > 0.05 is no evidence of sameness
        (None, None, "cannot_tell"),
    ],
)
def test_sameness_is_an_equivalence_test(interval, ends, verdict):
    rows = [row("difference", 0.1, interval), row("margin", 0.5), row("ends", ends)]
    test = {"name": "difference", "within": "margin", "ends_90": "ends"}
    assert judge(rows, test)["verdict"] == verdict
    assert judge(rows[:1], test)["verdict"] == "cannot_tell"


def test_a_test_that_asks_nothing_is_refused():
    with pytest.raises(KeyError):
        judge(WIDTHS, {"name": "width", "index": "C2"})


@pytest.mark.parametrize(
    ("interval", "verdict", "reason"),
    [
        ([0.8, 0.9], "higher", None),
        ([0.5, 0.7], "lower", None),
        ([0.7, 0.8], "cannot_tell", "the interval holds the earlier value"),
        (None, "cannot_tell", "no interval"),
    ],
)
def test_the_earlier_sample(interval, verdict, reason):
    earlier = [{"name": "joined", "value": 0.75, "unit": "", "place": "reference 40"}]
    found = earlier_rows([row("joined", 0.8, interval)], earlier)[0]
    assert (found["verdict"], found["reason"]) == (verdict, reason)
    assert earlier_rows([], earlier)[0]["reason"] == "not measured"
    assert report_tables.earlier_table([found]).loc[0, "earlier sample"] == "0.75"
