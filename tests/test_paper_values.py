"""The paper's statements: complete, well formed, and none made up."""

import ast
import re

import pytest
import yaml

from mesotomo_utils.analysis import claims, verdicts
from mesotomo_utils.workflow.notebooks import find_notebooks, read_notebook

FORMS = {"value", "range", "less_than", "greater_than"}
KEYS = FORMS | {"name", "index", "unit", "place", "approximate", "null", "exact"}
TESTS = FORMS | {"other_than", "within"}


@pytest.fixture(scope="module")
def document(repository):
    return yaml.safe_load((repository / "data" / "paper_values.yaml").read_text(encoding="utf-8"))


def test_every_statement_is_well_formed(document):
    for row in document["values"] + document["earlier_sample"]:
        assert len(FORMS & set(row)) == 1, row
        assert {"name", "unit", "place"} <= set(row) <= KEYS, row
        assert re.fullmatch(r"[a-z][a-z0-9_]*", row["name"]), row
        assert row.get("index") is None or re.fullmatch(r"C[1-9]|[ABC]|C[1-9]/[ABC]", row["index"])
        if "range" in row:
            assert row["range"][0] < row["range"][1]


def test_no_statement_is_made_twice_and_each_gives_a_verdict(document):
    statements = verdicts.statements(document)
    assert set(statements) >= {(row["name"], row.get("index")) for row in document["values"]}
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


def test_claims_say_what_they_claim_and_are_tested(document):
    stated = verdicts.statements(document)
    for claim in document["claims"]:
        assert {"says", "place", "tests"} <= set(claim) <= {"says", "place", "tests", "rests_on"}
        assert claim["tests"], claim["says"]
        for test in claim["tests"]:
            asked = TESTS & set(test)
            assert len(asked) == 1 or (not asked and (test["name"], test.get("index")) in stated), test
            assert ("within" in test) == ("ends_90" in test)


@pytest.mark.parametrize(
    ("name", "form", "bound"),
    [
        ("planarity_interior_excess_nm", "greater_than", 0),  # rough inside
        ("plane_width_100_interior_excess_nm", "value", 0),  # as wide inside as outside
        ("c_axis_interior_excess_deg", "greater_than", 0),  # least in C1 and C9
        ("in_plane_turn_c7_c9_deg", "other_than", 0),
        ("mono_vs_mean_deg", "less_than", 1.9),
        ("pearson_mono_minus_local", "greater_than", 0),
        ("overlap_in_plane_surface_excess", "greater_than", 0),
        ("abrupt_minus_gradual", "greater_than", 0),  # planarity is the abrupt one
        ("displacement_c_minus_a_nm", "greater_than", 0),  # largest along C
        ("displacement_c_minus_b_nm", "greater_than", 0),
        *[(f"displacement_interior_excess_{axis}_nm", "greater_than", 0) for axis in "abc"],  # narrowest outside
        ("mono_misorientation_width_interior_excess_deg", "greater_than", 0),  # wider inside
    ],
)
def test_what_the_claims_ask(document, name, form, bound):
    assert verdicts.statements(document)[name, None][form] == bound


def made_up(document, shift):
    """Rows that agree with every test of every claim, or that are off by a shift."""
    rows = []
    for key, statement in verdicts.statements(document).items():
        form = next(form for form in verdicts.STATEMENTS if form in statement)
        step = {"less_than": -10, "greater_than": 10, "other_than": 10}.get(form, 0)
        value = statement["range"][0] if form == "range" else statement[form]
        rows.append((*key, value + step * (1 if shift == 0 else -1) + shift))
    vacancies = []
    for unit in ("deg", "nm"):
        vacancies += [(f"vacancy_difference_{unit}", None, float(shift)), (f"vacancy_margin_{unit}", None, 0.5)]
    made = [
        {"name": name, "index": index, "value": value, "unit": "", "interval_95": [value - 1e-3, value + 1e-3]}
        for name, index, value in rows + vacancies
    ]
    ends = [
        {"name": f"vacancy_difference_90_{unit}", "index": None, "value": [shift - 1e-3, shift + 1e-3]}
        for unit in ("deg", "nm")
    ]
    return made + ends


def test_each_claim_can_be_supported_contradicted_and_open(document):
    paper = verdicts.statements(document)
    for rows, expected in ((made_up(document, 0), "supports"), ([], "cannot_tell")):
        found = claims.claim_rows(rows, document["claims"], paper)
        assert [(row["says"], row["verdict"]) for row in found if row["verdict"] != expected] == []
    # everything is off; the turn of the layers is then none at all
    wrong = [
        row | ({"value": 0.0, "interval_95": [-0.1, 0.1]} if row["name"] == "in_plane_turn_c7_c9_deg" else {})
        for row in made_up(document, 5.0)
    ]
    found = claims.claim_rows(wrong, document["claims"], paper)
    assert [(row["says"], row["verdict"]) for row in found if row["verdict"] != "contradicts"] == []


# ------------------------------------------------------------------ each is measured by some notebook


def recorded_names(repository):
    """Patterns of all texts in the code of the notebooks that could be the name of a result.

    In a formatted text each part that is filled in stands for one or more words.
    """
    patterns = set()
    for path in find_notebooks(repository / "notebooks").values():
        for cell in read_notebook(path).cells:
            if cell.cell_type != "code" or "solution" in cell.metadata.get("tags", ()):
                continue
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    patterns.add(re.escape(node.value))
                elif isinstance(node, ast.JoinedStr):
                    parts = [str(part.value) if isinstance(part, ast.Constant) else None for part in node.values]
                    if len("".join(filter(None, parts))) > 5:  # f"{name}_deg" would be any name
                        patterns.add("".join("[a-z0-9_]+" if part is None else re.escape(part) for part in parts))
    return patterns


def names_in(document):
    rows = document["values"] + document["earlier_sample"]
    rows = rows + [test for claim in document["claims"] for test in claim["tests"]]
    others = [test[key] for test in rows for key in ("within", "ends_90") if key in test]
    beside = [name for claim in document["claims"] for name in claim.get("rests_on", ())]
    return {row["name"] for row in rows} | set(others) | set(beside)


def test_every_name_is_recorded_by_some_notebook(document, repository):
    patterns = recorded_names(repository)
    missing = {name for name in names_in(document) if not any(re.fullmatch(each, name) for each in patterns)}
    assert missing == set()
    for wrong in ("plane_widths_100_slope", "twst_a", "planarity_fwhm", "neck_slope_c1_c7"):
        assert not any(re.fullmatch(each, wrong) for each in patterns), wrong
