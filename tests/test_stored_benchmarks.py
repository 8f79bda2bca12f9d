"""The stored tables of reconstruction: whole, as good as published, and those that the README shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from mesotomo_utils.tomography.projector import Projector


def stored(repository: Path, name: str) -> dict:
    return json.loads((repository / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


def test_few_tilts_reach_what_is_published(repository, load_benchmark):
    module, table = load_benchmark("few_tilts"), pd.DataFrame(stored(repository, "few_tilts")["table"])
    runs = {module.label(*run) for run in module.RUNS}
    cases = len(module.PARTICLES) * len(module.SEEDS) * len(module.GEOMETRIES) * len(module.NOISE)
    assert len(table) == cases * len(runs)
    assert set(table["run"]) == runs
    by_default = table[(table["run"] == "cgls chosen") & (table["noise"] == 0)]
    for tilts, published in module.PUBLISHED.items():
        assert by_default.loc[by_default["tilts"] == tilts, "correlation"].min() > published


def test_the_readme_shows_the_stored_correlations(repository, load_benchmark):
    module, table = load_benchmark("few_tilts"), pd.DataFrame(stored(repository, "few_tilts")["table"])
    assert module.markdown(table) in (repository / "benchmarks/README.md").read_text(encoding="utf-8")


def test_the_particles_are_seen_as_they_are(load_benchmark):
    """Images hold as much as the particle, and so does each row of them, and they are its projections."""
    module = load_benchmark("few_tilts")
    angles = np.array([0.0, 37.0, 90.0])
    truth, images = module.particle("atoms resolved", 1, 60, angles)
    np.testing.assert_allclose(images.sum(axis=2), np.tile(truth.sum(axis=(1, 2)), (3, 1)), rtol=1e-3, atol=1e-3)
    projected = Projector(angles, 60).forward(truth.astype(np.float32))
    assert np.abs(projected - images).max() < 0.01 * images.max()


def test_reconstruction_beside_its_peers_is_whole(repository):
    kept = stored(repository, "reconstruction")
    table = pd.DataFrame(kept["table"])
    assert {"mesotomo", "astra-toolbox", "tomopy", "finufft"} <= set(kept["versions"])
    for task, rows in table[~table["task"].str.contains("slices")].groupby("task"):
        assert rows["program"].iloc[0] == "mesotomo", task
        assert len(rows) > 1, task
        assert (rows[["seconds", "core_seconds"]] > 0).all(axis=None), task
    iterated = table[table["task"].str.contains("iterations") & table["error"].notna()]
    for task, rows in iterated.groupby("task"):
        ours, astra = (rows.loc[rows["program"] == name].iloc[0] for name in ("mesotomo", "ASTRA"))
        # at the same residual within 1 % or less, and twenty times faster
        assert ours["error"] < 1.01 * astra["error"], task
        assert astra["core_seconds"] > 20 * ours["core_seconds"], task


def test_ratios_are_those_to_the_first_of_the_task(load_benchmark, capsys):
    table = load_benchmark("reconstruction").Table()
    for task in ("one", "two"):
        table.add(task, "mesotomo", 0.5, 0.25, 0.1)
        table.add(task, "other", 2.0, 0.5, None)
    lines = capsys.readouterr().out.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| one | mesotomo | 0.5000 | 1.0 | 0.2500 | 1.0 | 0.10000 |"
    assert lines[-1] == "|  | other | 2.0000 | 4.0 | 0.5000 | 2.0 |  |"
