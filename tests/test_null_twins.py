"""A twin made without one of the paper's findings gives the opposite verdict about it, and only about what is gone.

Every quantity is written so that the finding, or its absence, is a matter of its sign: the 95 % interval lies above
zero, below it, or holds it. Beside the sign the null twin's interval must not touch that of the default twin, so that
a wide interval alone passes nowhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import yaml

from mesotomo_utils.analysis import trapping, verdicts

pytestmark = pytest.mark.slow

DEFAULT = "table"
NEEDS_MONO = (DEFAULT, "null_surface", "null_local")  # the others need neither 04 nor 07
HALF_THE_ROLL_DEG = 4.2
LAYERS = [f"C{number}" for number in range(1, 10)]
Interval = tuple[float, float]


class Results:
    """``results.json`` of one run, by name and index."""

    def __init__(self, rows: list[dict]) -> None:
        self.rows = {(row["name"], row["index"]): row for row in rows}

    def interval(self, name: str, index: str | None = None) -> Interval:
        return tuple(self.rows[name, index]["interval_95"])

    def value(self, name: str) -> float:
        return self.rows[name, None]["value"]

    def interior_excess(self, name: str) -> Interval:
        """Mean of the interior layers less that of the bottom and the top one."""
        rows = [self.rows[name, index] for index in LAYERS]
        layers = pd.DataFrame([[row["value"], row["sigma"], *row["interval_95"]] for row in rows])
        layers.columns = [name, f"{name}_sigma", f"{name}_low", f"{name}_high"]
        found = trapping.interior_contrast(layers, name)
        return found.low, found.high

    def paper_verdict(self, name: str, index: str | None, paper: dict) -> str:
        return verdicts.verdict(self.interval(name, index), paper[name, index])


def result(name: str, *, less: float = 0.0) -> Callable[[Results], Interval]:
    return lambda found: tuple(np.subtract(found.interval(name), less))


def interior_excess(name: str) -> Callable[[Results], Interval]:
    return lambda found: found.interior_excess(name)


def axis_farther_from_110(found: Results) -> Interval:
    """Angle of the common axis to [1 1 0] less that to [-1 2 0]: the ends that are farthest apart."""
    (low_120, high_120), (low_110, high_110) = (found.interval(f"nn_axis_to_{n}_deg") for n in (120, 110))
    return low_110 - high_120, high_110 - low_120


def sign(interval: Interval) -> int:
    low, high = interval
    return 1 if low > 0 else -1 if high < 0 else 0


# null twin, quantity, its signs on the default twin (the paper's verdict), its sign without the finding
CLAIMS = {
    "layers inside are rougher": ("null_flat", interior_excess("planarity_fwhm_nm"), {1}, 0),
    "surface layers are flatter": ("null_surface", interior_excess("planarity_fwhm_nm"), {1}, 0),
    "surface layers are nearer their sites": ("null_surface", result("displacement_interior_excess_c_nm"), {1}, 0),
    "surface layers are turned more alike": ("null_surface", interior_excess("theta_mean_deg"), {1}, 0),
    "lattices do not follow their neighbours": ("null_local", result("directions_slope", less=0.5), {-1}, 1),
    "dots beside vacancies are no farther off": ("null_vacancies", result("vacancy_difference_nm"), {0, -1}, 1),
    "dots beside vacancies are turned no more": ("null_vacancies", result("vacancy_difference_deg"), {0, -1}, 1),
    "the common axis is [-1 2 0]": ("null_axis", axis_farther_from_110, {1}, -1),
    "there is a common axis": ("null_isotropic", result("nn_axis_variance", less=1 / 3), {1}, 0),
    "entropy is largest inside": ("null_entropy", interior_excess("entropy"), {1}, 0),
    "necks are thinner above C6": ("null_necks", result("neck_slope_c6_c9"), {-1}, 0),
    "the layers roll from C2 to C6": ("null_roll", result("layer_tilt_c2_c6_deg"), {1}, 0),  # cannot be below zero
    "the top layers are turned in the plane": ("null_turn", result("in_plane_turn_c7_c9_deg"), {1}, 0),
}

# null twins whose finding 300 dots show too faintly: the default twin beside them has as many dots as they have
AS_MANY_DOTS = ("null_necks",)

# statements of the paper that the null twin contradicts and the default twin supports, but for the axis: 300 dots leave
# open whether it lies within the 3.56 degrees that the name [-1 2 0] asks for
STATED = {
    "null_flat": [("planarity_fwhm_nm", index) for index in LAYERS[1:-1]],
    "null_surface": [("planarity_fwhm_nm", index) for index in (LAYERS[0], LAYERS[-1])],
    "null_axis": [("nn_axis_to_120_deg", None)],
    "null_isotropic": [("nn_axis_variance", None)],
    "null_roll": [("layer_tilt_c2_c6_deg", None)],
    "null_turn": [("in_plane_turn_c7_c9_deg", None)],
}


@pytest.fixture(scope="module")
def run_twin(load_benchmark, repository, tmp_path_factory) -> Callable[..., Results]:
    """Results of a sample of ``data/``, each run once; ``like`` another one: with as many dots as that has."""
    module = load_benchmark("interval_coverage")
    folder, done = tmp_path_factory.mktemp("nulls"), {}

    def text_of(name: str) -> str:
        return (repository / "data" / f"{name}.yaml").read_text()

    def run(name: str, *, like: str | None = None) -> Results:
        key, text = name, text_of(name)
        if like is not None:
            key, dots = f"{name}_like_{like}", yaml.safe_load(text_of(like))["twin"]["qd_count"]
            text, changed = re.subn(r"qd_count: \d+", f"qd_count: {dots}", text)
            assert changed == 1
        if key not in done:
            steps = module.STEPS if key in NEEDS_MONO else module.QUICK_STEPS
            module.run_notebooks(text, folder / key, steps=steps)
            done[key] = Results(json.loads((folder / key / "results.json").read_text()))
        return done[key]

    return run


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_null_twin_gives_the_opposite_verdict(run_twin, claim):
    null, quantity, with_it, without = CLAIMS[claim]
    default, found = quantity(run_twin(DEFAULT, like=null if null in AS_MANY_DOTS else None)), quantity(run_twin(null))
    assert sign(default) in with_it, default
    assert sign(found) == without, found
    assert found[1] < default[0] or default[1] < found[0], (default, found)


@pytest.mark.parametrize("null", STATED)
def test_a_null_twin_contradicts_what_the_paper_states(run_twin, repository, null):
    paper = verdicts.statements(yaml.safe_load((repository / "data" / "paper_values.yaml").read_text()))
    for name, index in STATED[null]:
        assert run_twin(null).paper_verdict(name, index, paper) == verdicts.CONTRADICTS, (name, index)
        default = run_twin(DEFAULT).paper_verdict(name, index, paper)
        assert default == verdicts.SUPPORTS or (null == "null_axis" and default == verdicts.CANNOT_TELL), (name, index)


def test_the_maximum_of_the_entropy_is_no_more_inside_than_by_chance(run_twin):
    p = {name: run_twin(name).value("entropy_interior_excess_p") for name in (DEFAULT, "null_entropy", "null_surface")}
    assert p[DEFAULT] < 0.05 < min(p["null_entropy"], p["null_surface"]), p


def test_what_is_not_gone_is_still_found(run_twin):
    """Each null twin lacks what it is named for and no more."""
    for null in {null for null, *_ in CLAIMS.values()}:
        if null not in ("null_axis", "null_isotropic", "null_local"):
            assert sign(axis_farther_from_110(run_twin(null))) == 1, null
        if null not in ("null_roll", "null_isotropic", "null_local"):
            assert run_twin(null).interval("layer_tilt_c2_c6_deg")[0] > HALF_THE_ROLL_DEG, null
        if null not in ("null_turn", "null_isotropic", "null_local"):
            assert sign(run_twin(null).interval("in_plane_turn_c7_c9_deg")) == 1, null
        if null not in ("null_flat", "null_surface"):
            assert sign(run_twin(null).interior_excess("planarity_fwhm_nm")) == 1, null
        if null not in ("null_entropy", "null_surface"):
            assert sign(run_twin(null).interior_excess("entropy")) == 1, null


def test_every_null_twin_has_a_claim(repository):
    assert {null for null, *_ in CLAIMS.values()} == {file.stem for file in (repository / "data").glob("null_*.yaml")}
