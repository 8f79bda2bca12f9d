"""The truth of a twin's results: what the notebooks themselves find in its tables without errors."""

from __future__ import annotations

import ast
import json
import shutil
import textwrap
from pathlib import Path

import pandas as pd
import pytest

from mesotomo_utils.twin import compare
from mesotomo_utils.workflow import results, true_results

SAMPLE = """\
name: known
twin: {level: table, seed: 31, qd_count: 80, layers: 5}
material: {name: PbSe, lattice_nm: 0.612, structure: rocksalt}
quantum_dot: {diameter_nm: 5.0}
film_bottom: low_z
"""
PROPERTIES = (
    *("theta_mean_deg", "entropy", "twist_a", "nn_axis", "displacement_sd_c_nm", "pearson_mono", "local_slope"),
    *("overlap_fraction", "neck_slope_c1_c6", "c_axis_to_normal_deg", "connectivity", "mono_vs_mean_deg"),
    *("plane_width_100_slope", "vacancy_difference_nm", "in_plane_turn_c7_c9_deg", "grain_count"),
)
NONE = (
    *("theta_mean_raw_deg", "centre_sigma_x_nm", "qd_found_count", "at_edge_count", "entropy_interior_excess_p"),
    *("vacancy_margin_nm", "nn_axis_scatter_deg", "facet_nm", "planarity_fwhm_inner_nm", "entropy_raw"),
)


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory, load_benchmark) -> Path:
    """A twin of tables with errors of measurement, analysed as far as 06."""
    benchmark = load_benchmark("interval_coverage")
    folder = tmp_path_factory.mktemp("twin") / "run"
    benchmark.run_notebooks(SAMPLE, folder, steps=benchmark.QUICK_STEPS, options={"n_resamples": 20})
    return folder


@pytest.fixture(scope="module")
def truth(twin: Path) -> dict:
    return true_results.true_results(twin)


def test_properties_have_a_truth_and_measurements_have_none(truth) -> None:
    named = {name for name, _ in truth}
    assert not named & set(NONE)
    # five layers cannot say how C7 to C9 turn, nor how necks change from C1 to C6
    assert set(PROPERTIES) - named == {"in_plane_turn_c7_c9_deg", "neck_slope_c1_c6"}
    assert truth["grain_count", None] == {"value": 1, "exact": True}
    assert ("entropy", "C3") in truth
    assert ("connectivity", "C2") in truth


def test_it_agrees_with_the_twins_own_account(twin: Path, truth) -> None:
    """Two codes for one definition: by order.csv and by the notebooks."""
    own = compare.true_statements(twin)
    both = set(own) & set(truth)
    expected = {"a_nm", "gamma_deg", "planarity_fwhm_nm", "al_spread_in_plane_deg", "nn_axis_variance"}
    assert expected <= {name for name, _ in both}
    for key in both - {("mono_misorientation_mean_deg", None)}:  # R_mono of the measured cell, not of the generator's
        assert truth[key]["value"] == pytest.approx(own[key]["value"], rel=0.02), key


def test_it_comes_from_the_truth_by_the_parameters_of_the_run(twin: Path, truth, tmp_path: Path) -> None:
    measured = {(row["name"], row["index"]): row["value"] for row in results.read_json(twin, "results.json")}
    assert abs(measured["theta_mean_deg", None] - truth["theta_mean_deg", None]["value"]) > 1e-4
    other = tmp_path / "other"
    shutil.copytree(twin, other)
    necks = pd.read_csv(other / "truth/necks.csv")
    necks["diameter_nm"] *= 1.5
    necks.to_csv(other / "truth/necks.csv", index=False)
    for name in ("centres.csv", "necks.csv", "orientations.csv", "results.json"):
        (other / name).unlink()
    steps = {"04_glyphs": {"parameters": {"facet_nm": 3.0, "sample": "elsewhere", "device": "cuda"}}}
    (other / "manifest.json").write_text(json.dumps({"steps": steps}))
    changed = true_results.true_results(other)
    key = ("neck_diameter_mean_nm", "C2")
    assert changed[key]["value"] == pytest.approx(1.5 * truth[key]["value"])
    assert changed["theta_mean_deg", None] == truth["theta_mean_deg", None]
    key = ("mono_overlap_fraction", None)
    assert changed[key]["value"] < truth[key]["value"] - 0.02  # a smaller facet overlaps less


def test_nothing_of_the_run_is_written(twin: Path, truth) -> None:
    assert not (twin / "trapping.csv").exists()
    assert json.loads((twin / "results.json").read_text())


def test_statements_that_draw_are_left_out_and_no_others() -> None:
    source = """
    from mesotomo_utils.visualization import figures
    from mesotomo_utils.analysis import layers
    if found:
        kept = layers.measure(found)
        fig = figures.draw(kept)
        saved = results.save_figure(fig, run_dir, "a", kept)
    else:
        figures.say("nothing")
    fig = layers.measure(1)
    again = fig + 1
    folder = results.scratch(run_dir, "exports")
    (folder / "a").touch()
    """
    tree = ast.parse(textwrap.dedent(source))
    kept = true_results._undrawn(tree.body, set())
    assert [ast.unparse(line) for line in kept] == [
        "from mesotomo_utils.analysis import layers",
        "if found:\n    kept = layers.measure(found)\nelse:\n    pass",
        "fig = layers.measure(1)",
        "again = fig + 1",
    ]
