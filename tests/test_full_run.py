"""The whole pipeline on the smallest twin: truth first, then recorded values, then what must not matter.

Slow: every test here runs notebooks. `pytest -m "not slow"` leaves them out.
"""

from __future__ import annotations

import html
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pandas as pd
import pytest
import yaml
import zarr

from mesotomo_utils.tomography.tomogram import open_tomogram, write_tomogram
from mesotomo_utils.twin import compare
from mesotomo_utils.twin.imposed import TwinParameters
from mesotomo_utils.workflow.captions import CAPTIONS

pytestmark = pytest.mark.slow

TABLES = (
    *("alignment.csv", "centres.csv", "necks.csv", "defects.csv", "orientations.csv"),
    *("layers.csv", "neighbours.csv", "trapping.csv", "qds.csv"),
)


def mesotomo(*words: object, **options: object) -> subprocess.CompletedProcess:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "mesotomo_utils.workflow.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def run(*words: object, **options: object) -> None:
    done = mesotomo("run", *words, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def failed(run_dir: Path, recorded: Path | None = None) -> set[str]:
    return {check.name for check in compare.check_run(run_dir, recorded) if not check.ok}


def assert_same_tables(one: Path, other: Path) -> None:
    """Integers and labels equal, floats within 1e-6 of the largest magnitude of their column."""
    names = [name for name in TABLES if (one / name).exists()]
    assert len(names) >= 6
    for name in names:
        a, b = pd.read_csv(one / name), pd.read_csv(other / name)
        assert (list(a), len(a)) == (list(b), len(b)), name
        for column in a:
            if a[column].dtype.kind == "f":
                scale = max(a[column].abs().max(), 1e-12)
                np.testing.assert_allclose(a[column], b[column], rtol=0, atol=1e-6 * scale, err_msg=f"{name}: {column}")
            else:
                assert a[column].equals(b[column]), f"{name}: {column}"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """One full run of the sample tiny."""
    folder = tmp_path_factory.mktemp("full") / "tiny"
    run("tiny", "--out", folder)
    return folder


def numbers(item):
    """All numbers within lists and dictionaries."""
    if isinstance(item, dict | list):
        return [found for part in (item.values() if isinstance(item, dict) else item) for found in numbers(part)]
    return [item] if isinstance(item, int | float) else []


def copied(tiny: Path, folder: Path) -> Path:
    """A copy of a run, to break."""
    return Path(shutil.copytree(tiny, folder))


def test_truth_and_recorded_values(tiny, repository):
    recorded = repository / "tests" / "recorded" / "tiny.json"
    assert recorded.exists()
    checks = compare.check_run(tiny, recorded)
    assert {check.name for check in checks} >= set(compare.BOUNDS | compare.TARGETS)
    assert [check for check in checks if not check.ok] == []


def test_everything_is_there(tiny):
    manifest = json.loads((tiny / "manifest.json").read_text())
    assert {step["status"] for step in manifest["steps"].values()} == {"done"}
    for name in (*TABLES, "results.json", "mono.json", "report.html", "report.pdf", "comparison.json"):
        assert (tiny / name).stat().st_size > 0, name
    for picture in (tiny / "figures").glob("*.png"):
        assert list(picture.parent.glob(f"{picture.stem}*.csv")), f"{picture.name} has no numbers"
    report = (tiny / "report.html").read_text()
    for file in [*(tiny / "figures").glob("*.png"), *(tiny / "figures").glob("*.mp4")]:
        assert f"{html.escape(CAPTIONS[file.stem])} <code>{file.name}</code>" in report
    for name in ("tilt_series", "tomogram"):
        film = tiny / "figures" / f"{name}.mp4"
        frames = imageio.imread(film, plugin="FFMPEG")
        assert len(frames) == len(pd.read_csv(film.with_suffix(".csv")))
        assert 240 <= max(frames.shape[1:3]) <= 500
        assert frames.std() > 5
        assert film.stat().st_size < 1e6
    assert report.count("<video") == 2
    assert not list(tiny.rglob(".tmp-*"))


def test_the_tomograms_know_their_series(tiny):
    aligned = pd.read_csv(tiny / "alignment.csv")
    for name, half in (("tomogram", None), ("half_even", "even"), ("half_odd", "odd")):
        known = open_tomogram(tiny / f"{name}.ome.zarr").attributes
        assert known["sample"] == "tiny"
        assert known.get("half") == half
        assert known["series"]["name"] == "tilt_series.mrc"
        assert known["n_tilts"] == len(known["series"]["angles_deg"])
        if half is None:
            used = aligned.loc[aligned["used"], "angle_deg"]
            np.testing.assert_allclose(known["series"]["angles_deg"], used, atol=1e-5)
            values = {row["name"]: row["value"] for row in json.loads((tiny / "results.json").read_text())}
            assert known["series"]["alignment"]["axis_tilt_deg"] == pytest.approx(values["axis_tilt_deg"])


def test_results_hold_no_bare_nan(tiny):
    for row in json.loads((tiny / "results.json").read_text()):
        values = row["value"] if isinstance(row["value"], list) else [row["value"]]
        assert all(value is not None for value in values) or row["reason"], row["name"]


def test_steps_get_neither_seed_nor_cell(tiny):
    steps = json.loads((tiny / "manifest.json").read_text())["steps"]
    handed = yaml.safe_load((tiny / "input" / "sample.yaml").read_text())
    assert set(handed) <= {
        *("name", "tilt_series", "tilt_angles", "pixel_nm", "tilt_axis", "tilt_sign"),
        *("film_bottom", "material", "quantum_dot"),
    }
    secret = set(TwinParameters.model_fields) - {"pixel_nm", "seed"}
    for stem, step in steps.items():
        if "01" <= stem[:2] <= "07":
            assert not secret & set(step["parameters"]), stem
            assert not any("truth" in name for name in step["inputs"]), stem
    # nor is its cell handed over under another name
    truth = json.loads((tiny / "truth" / "parameters.json").read_text())
    known = {truth[name] for name in ("a_nm", "b_nm", "c_nm", "alpha_deg", "beta_deg", "gamma_deg")}
    assert not known & set(numbers([handed, [step["parameters"] for stem, step in steps.items() if stem[:2] > "00"]]))


def test_truth_is_not_read_and_a_killed_run_ends_the_same(tiny, tmp_path):
    """Truth deleted before 01; killed in the middle; the next run ends with the same tables.

    That one has no graphics library: the scenes are drawn by matplotlib, and it succeeds.
    """
    folder = tmp_path / "again"
    run("tiny", "--out", folder, "--to", "00")
    shutil.rmtree(folder / "truth")
    words = ["run", "tiny", "--out", str(folder), "--from", "01", "--to", "07"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mesotomo_utils.workflow.cli", *words],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while not (folder / "alignment.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (folder / "qds.csv").exists(), "it was meant to die before 02 was done"
    run(*words[1:], env=os.environ | {"MESOTOMO_RENDERER": "matplotlib"})
    assert "matplotlib" in (folder / "scenes" / "scene.json").read_text()
    assert_same_tables(tiny, folder)


def test_another_twin_keeps_the_bounds(tmp_path):
    """Another seed, cell, needle width and film tilt."""
    sample = tmp_path / "other.yaml"
    twin = yaml.safe_load(Path("data/tiny.yaml").read_text())
    twin["name"] = "other"
    twin["twin"] |= {
        **{"seed": 77, "qd_count": 48, "film_tilt_deg": 2.0, "film_tilt_azimuth_deg": 200.0},
        **{"a_nm": 6.4, "b_nm": 6.1, "c_nm": 5.9, "alpha_deg": 94.0, "beta_deg": 97.0},
        **{"gamma_deg": 90.5, "film_azimuth_deg": -25.0},
    }
    sample.write_text(yaml.safe_dump(twin))
    run(sample, "--out", tmp_path / "run", "--to", "03")
    comparison = compare.compare_run(tmp_path / "run")
    assert set(comparison["bounds"]) == set(compare.BOUNDS | compare.TARGETS)
    assert failed(tmp_path / "run") == set()


@pytest.mark.parametrize("damage", ["mirror", "swap", "scale", "zero"])
def test_a_damaged_tomogram_turns_the_check_red(tiny, tmp_path, repository, damage):
    folder = copied(tiny, tmp_path / damage)
    tomogram = open_tomogram(folder / "tomogram.ome.zarr")
    volume, voxel = tomogram.load(), tomogram.voxel_nm
    if damage == "zero":  # behind the writer's back, which would refuse it
        for _, level in zarr.open_group(folder / "tomogram.ome.zarr", mode="r+").arrays():
            level[:] = 0
    else:
        damaged = {
            "mirror": (volume[:, :, ::-1], voxel),
            "swap": (volume.transpose(0, 2, 1), voxel),
            "scale": (volume, voxel * 1.01),
        }[damage]
        shutil.rmtree(folder / "tomogram.ome.zarr")
        write_tomogram(folder / "tomogram.ome.zarr", *damaged)
    for half in ("half_even.ome.zarr", "half_odd.ome.zarr"):
        shutil.rmtree(folder / half)
    done = mesotomo("run", "tiny", "--out", folder, "--from", "02", "--to", "02")
    if damage == "zero":
        assert done.returncode == 1
        assert "02_centres" in done.stderr
        return
    assert done.returncode == 0, done.stderr[-3000:]
    assert failed(folder, repository / "tests" / "recorded" / "tiny.json") & set(compare.BOUNDS)


def test_a_run_starts_at_a_tomogram(tiny, tmp_path):
    sample = tmp_path / "tomogram.yaml"
    sample.write_text(
        f"name: from_tomogram\ntomogram: {tiny / 'tomogram.ome.zarr'}\n"
        "material: {name: PbSe, lattice_nm: 0.612, structure: rocksalt}\n"
        "quantum_dot: {diameter_nm: 5.0}\n"
    )
    run(sample, "--out", tmp_path / "run", "--to", "03")
    for table, columns, sigma in (
        ("centres", ["x_nm", "y_nm", "z_nm"], "sigma_x_nm"),
        ("orientations", ["qw", "qx", "qy", "qz"], "sigma_deg"),
    ):
        one, other = (pd.read_csv(folder / f"{table}.csv") for folder in (tiny, tmp_path / "run"))
        np.testing.assert_allclose(one[columns], other[columns], atol=1e-6)
        assert other[sigma].isna().all()


def test_a_run_starts_at_centres(tiny, tmp_path):
    pd.read_csv(tiny / "centres.csv")[["x_nm", "y_nm", "z_nm"]].to_csv(tmp_path / "c.csv", index=False)
    sample = tmp_path / "centres.yaml"
    sample.write_text("name: from_centres\ncentres: c.csv\n")
    run(sample, "--out", tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())["steps"]
    status = {stem[:2]: step["status"] for stem, step in manifest.items()}
    assert [number for number, s in status.items() if s == "skipped"] == ["01", "03", "06", "07"]
    assert set(status.values()) == {"done", "skipped"}
    one, other = (pd.read_csv(folder / "centres.csv") for folder in (tiny, tmp_path / "run"))
    assert (one["layer"].fillna(0) == other["layer"].fillna(0)).mean() > 0.99


def test_the_example_tables_run_and_killed_at_any_step_end_the_same(tmp_path):
    """By the command; then killed in the middle of every step, one after the other."""
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    run("example", "--out", whole)
    steps = json.loads((whole / "manifest.json").read_text())["steps"]
    done = [stem for stem, step in steps.items() if step["status"] == "done"]
    assert [stem[:2] for stem in done] == ["00", "02", "04", "05", "06", "07", "08"]
    command = [sys.executable, "-u", "-m", "mesotomo_utils.workflow.cli", "run", "example", "--out", str(folder)]
    for stem in done:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        for line in process.stdout:
            if stem in line and "runs" in line:
                break
        time.sleep(1.0)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        finished = (
            json.loads((folder / "manifest.json").read_text())["steps"] if (folder / "manifest.json").exists() else {}
        )
        assert finished.get(stem, {}).get("status") != "done", "it was meant to die in this step"
    run("example", "--out", folder)
    assert_same_tables(whole, folder)


def test_a_notebook_runs_under_plain_papermill(tiny, tmp_path, repository):
    """After `make notebooks`, without our command."""
    folder = copied(tiny, tmp_path / "run")
    notebook = tmp_path / "05_mesoscale.ipynb"
    source = repository / "notebooks" / "05_mesoscale.py"
    subprocess.run([sys.executable, "-m", "jupytext", "--to", "ipynb", "-o", notebook, source], check=True)
    parameters = ["-p", "run_dir", str(folder), "-p", "sample", str(folder / "input" / "sample.yaml")]
    words = [str(notebook), str(tmp_path / "out.ipynb"), "--cwd", str(repository), *parameters]
    done = subprocess.run([sys.executable, "-m", "papermill", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same_tables(tiny, folder)
