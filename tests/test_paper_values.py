"""The paper's statements: complete, well formed, and none made up."""

import re

import pytest
import yaml

from mesotomo_utils.analysis import verdicts

FORMS = {"value", "range", "less_than", "greater_than"}
KEYS = FORMS | {"name", "index", "unit", "place", "approximate", "null"}


@pytest.fixture(scope="module")
def document(repository):
    return yaml.safe_load((repository / "data" / "paper_values.yaml").read_text(encoding="utf-8"))


def test_every_statement_is_well_formed(document):
    for row in document["values"] + document["earlier_sample"] + document["bracket"]:
        assert len(FORMS & set(row)) == 1, row
        assert {"name", "unit", "place"} <= set(row) <= KEYS, row
        assert re.fullmatch(r"[a-z][a-z0-9_]*", row["name"]), row
        assert row.get("index") is None or re.fullmatch(r"C[1-9]|[ABC]|C[1-9]/[ABC]", row["index"])
        if "range" in row:
            assert row["range"][0] < row["range"][1]


def test_no_statement_is_made_twice_and_each_gives_a_verdict(document):
    statements = verdicts.statements(document)
    assert len(statements) == len(document["values"])
    for statement in statements.values():
        number = statement.get("value", statement.get("range", [0.5])[0] if "range" in statement else 0.5)
        interval = [number - 1e-3, number + 1e-3]
        assert verdicts.verdict(interval, statement) in ("supports", "contradicts", "cannot_tell")


@pytest.mark.parametrize(
    ("name", "index", "value"),
    [
        ("qd_count", None, 633), ("layer_count", None, 9), ("grain_count", None, 1),
        ("point_defect_fraction", None, 0.022), ("connectivity", None, 0.893),
        ("neck_diameter_sd_nm", None, 0.9), ("orientation_sigma_deg", None, 1.9),
        ("planarity_fwhm_nm", "C2", 1.2), ("al_spread_in_plane_deg", None, 3.7),
        ("al_spread_out_of_plane_deg", None, 11.3), ("sl_spread_in_plane_deg", None, 9.4),
        ("sl_spread_out_of_plane_deg", None, 14.2), ("layer_tilt_c2_c6_deg", None, 8.4),
        ("nn_axis_variance", None, 0.89), ("twist_a", None, 0.44), ("twist_b", None, 0.78),
        ("twist_c", None, 0.23), ("mono_misorientation_mean_deg", None, 2.5),
    ],
)  # fmt: skip
def test_the_numbers_of_the_paper(document, name, index, value):
    assert verdicts.statements(document)[name, index]["value"] == value


def test_ranges_of_the_paper(document):
    statements = verdicts.statements(document)
    assert statements["planarity_fwhm_nm", "C1"]["range"] == [0.1, 0.4]
    assert statements["planarity_fwhm_nm", "C5"]["range"] == [0.7, 1.0]
    assert statements["resolution_nm", None]["range"] == [0.185, 0.216]


def test_claims_without_a_number_say_what_they_claim(document):
    for claim in document["claims"]:
        assert set(claim) == {"name", "says", "place"}
