"""What the benchmarks that take minutes make of their runs, without the runs."""

import numpy as np
import pytest
import yaml

from mesotomo_utils.twin.imposed import TwinParameters


def manifest(tables_scaling, seconds: float, **status: str) -> dict[str, dict]:
    stems = ("02_centres", *tables_scaling.FROM_TABLES)
    return {
        stem: {"status": status.get(stem, "done"), "seconds": seconds, "peak_memory_mb": 100 * n}
        for n, stem in enumerate(stems)
    }


def test_04_to_08_are_summed_and_the_tables_are_not(load_benchmark):
    module = load_benchmark("tables_scaling")
    lines = module.table({633: manifest(module, 2.0), 100_000: manifest(module, 30.5)}).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[0] == "| | 633 dots (s) | 633 dots (MB) | 100,000 dots (s) | 100,000 dots (MB) |"
    assert lines[-1] == "| 04 to 08 | 10.0 | 500 | 152.5 | 500 |"


def test_a_notebook_that_did_not_run_is_no_fast_one(load_benchmark):
    module = load_benchmark("tables_scaling")
    skipped = manifest(module, 2.0, **{"07_kinetic_trapping": "skipped"})
    with pytest.raises(ValueError, match="633 dots: 07_kinetic_trapping"):
        module.table({633: skipped})


def test_the_twins_of_limited_tilts_are_six_with_a_wedge_missing(load_benchmark):
    module = load_benchmark("limited_tilts")
    made = [
        yaml.safe_load(module.SAMPLE.format(name=name, electrons=400, **twin)) for name, twin in module.TWINS.items()
    ]
    twins = [TwinParameters(**sample["twin"]) for sample in made]
    assert len({twin.seed for twin in twins}) == 6
    for twin in twins:
        assert twin.first_tilt_deg == pytest.approx(-(twin.n_tilts - 1) * twin.tilt_step_deg / 2)
        assert 20 <= 180 - (twin.n_tilts - 1) * twin.tilt_step_deg <= 45


def test_the_tables_made_are_those_of_a_superlattice(load_benchmark):
    module = load_benchmark("tables_scaling")
    dots, necks = module.made_tables(633, np.random.default_rng(1))
    assert len(dots) == 633
    assert dots["qd"].is_unique
    # a disc of 70 sites a layer: most have all six neighbours
    assert 2.4 * 633 < len(necks) < 3 * 633
    assert set(necks["axis"]) == set("ABC")
    steps = dots[["x_nm", "y_nm", "z_nm"]].to_numpy()
    for n, axis in enumerate("ABC"):
        own = necks[necks["axis"] == axis]
        mean = (steps[own["qd_2"]] - steps[own["qd_1"]]).mean(axis=0)
        assert mean == pytest.approx(module.CELL[:, n], abs=0.1), axis
    assert np.linalg.norm(dots[["qw", "qx", "qy", "qz"]], axis=1) == pytest.approx(1.0)
