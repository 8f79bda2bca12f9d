"""The sample file: what it may say, what it runs, and how it complains."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from mesotomo_utils.tomography.tilt_series import TiltSeries, save_tilt_series
from mesotomo_utils.workflow.inputs import check_inputs, check_settings
from mesotomo_utils.workflow.sample import (
    SampleError,
    find_sample,
    list_samples,
    load_sample,
    steps_of,
    write_input_sample,
)

FULL = """
name: my_needle
tilt_series: needle.mrc
tilt_angles: needle.rawtlt
pixel_nm: 0.07
tilt_axis: horizontal
tilt_sign: -1
film_bottom: high_z
material: {name: PbSe, lattice_nm: 0.612, structure: rocksalt}
quantum_dot: {diameter_nm: 5}
superlattice: {a_nm: 6.0, b_nm: 6.0, c_nm: 5.7, alpha_deg: 98, beta_deg: 95, gamma_deg: 93}
parameters: {03_orientation: {window_nm: 5.0}}
"""


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """A folder with a small tilt series, its angles and some tables."""
    rng = np.random.default_rng(1)
    images = rng.random((9, 10, 8)).astype(np.float32)
    made = TiltSeries(images=images, angles_deg=np.linspace(-60, 60, 9), pixel_nm=0.07, name="needle")
    save_tilt_series(tmp_path / "needle.mrc", made)
    assert (tmp_path / "needle.rawtlt").exists()
    (tmp_path / "good.csv").write_text("x_nm,y_nm,z_nm\n0,0,0\n6,0,0\n")
    (tmp_path / "turned.csv").write_text("qd,x_nm,y_nm,z_nm,qw,qx,qy,qz\n0,0,0,0,1,0,0,0\n")
    (tmp_path / "short.csv").write_text("x_nm,y_nm\n0,0\n")
    (tmp_path / "empty.csv").write_text("x_nm,y_nm,z_nm\n")
    (tmp_path / "words.csv").write_text("x_nm,y_nm,z_nm\n0,0,0\n0,many,0\n")
    (tmp_path / "necks.csv").write_text("qd_1,qd_2,axis,diameter_nm\n0,7,A,2.0\n")
    (tmp_path / "joints.csv").write_text("qd_1,qd_2,diameter_nm\n0,1,2.0\n")
    (tmp_path / "indexed.csv").write_text("x_nm,y_nm,z_nm,i,j,k\n0,0,0,0,0,0\n6,0,0,1,0,0\n")
    return tmp_path


def load(folder: Path, text: str):
    (folder / "sample.yaml").write_text(text)
    return load_sample(folder / "sample.yaml")


def test_the_whole_file_of_the_design_is_read(series: Path) -> None:
    sample = load(series, FULL)
    assert sample.tilt_series == series / "needle.mrc"
    assert sample.tilt_angles.is_absolute()
    assert sample.path == series / "sample.yaml"
    assert sample.source == sample.enters_as == "tilt_series"
    assert sample.material.lattice_nm == 0.612
    assert sample.superlattice.gamma_deg == 93
    assert sample.parameters == {"03_orientation": {"window_nm": 5.0}}
    assert check_inputs(sample) == pytest.approx(0.07)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["expected keys and values", "found nothing"]),
        ("a: [", ["line 1", "not valid YAML"]),
        ("name: a\n", ["no data", "tilt_series"]),
        ("name: a\ntwin: {}\ncentres: good.csv\n", ["twin and centres are both given"]),
        ("name: a\npixl_nm: 1\ntilt_series: needle.mrc\n", ["pixl_nm: unknown key", "'pixel_nm'"]),
        ("name: a\ntilt_series: needle.mrc\npixel_nm: big\n", ["pixel_nm: expected a number", "'big'"]),
        ("name: a\ntilt_series: needle.mrc\npixel_nm: true\n", ["pixel_nm: expected a number"]),
        ("name: a\ntilt_series: needle.mrc\npixel_nm: -1\n", ["pixel_nm: expected more than 0"]),
        ("name: a\ntilt_series: needle.mrc\ntilt_sign: 2\n", ["tilt_sign: expected 1 or -1"]),
        ("name: a\ntilt_series: needle.mrc\ntilt_axis: up\n", ["tilt_axis: expected 'vertical' or"]),
        ("name: a\ntilt_series: needle.mrc\nmaterial: PbSe\n", ["material: expected keys and values"]),
        ("name: a\ntilt_series: needle.mrc\nquantum_dot: {}\n", ["quantum_dot.diameter_nm: missing"]),
        ("name: a\ntilt_series: needle.mrc\nquantum_dot: {radius_nm: 2}\n", ["quantum_dot"]),
        ("name: a b\ntilt_series: needle.mrc\n", ["name: expected letters"]),
        ("name: 5\ntilt_series: needle.mrc\n", ["name: expected a text"]),
        ("name: a\ntilt_series: absent.mrc\n", ["tilt_series:", "absent.mrc does not exist"]),
        ("name: a\ncentres: good.csv\npixel_nm: 1.0\n", ["pixel_nm: goes with `tilt_series:`"]),
        ("name: a\ncentres: short.csv\n", ["centres:", "short.csv has no column z_nm"]),
        ("name: a\ndots: empty.csv\n", ["dots:", "empty.csv has no rows"]),
        ("name: a\ndots: good.csv\nnecks: good.csv\n", ["necks:", "has no column qd_1"]),
        ("name: a\ndots: good.csv\nnecks: joints.csv\n", ["necks:", "has no column axis"]),
        ("name: a\ntwin: {}\nparameters: {05_mesoscal: {}}\n", ["05_mesoscal: no such step", "'05_mesoscale'"]),
        ("name: a\ntwin: {}\nparameters: {05_mesoscale: {device: cpu}}\n", ["device: set by the command"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(series: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(SampleError) as error:
        load(series, text)
    message = str(error.value)
    assert message.startswith(f"{series / 'sample.yaml'}: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


def rewrite(folder: Path, change) -> None:
    import mrcfile

    with mrcfile.open(folder / "needle.mrc", mode="r+") as file:
        change(file)


def zero_pixel(file) -> None:
    file.voxel_size = 0.0


def bad_pixel(file) -> None:
    file.data[3, 1, 1] = np.nan


NEEDLE = "tilt_series: needle.mrc\ntilt_angles: needle.rawtlt\n"


@pytest.mark.parametrize(
    ("text", "harm", "parts"),
    [
        ("tilt_series: needle.mrc\ntilt_angles: few.txt\n", None, ["tilt_series", "9 images", "3 angles"]),
        ("tilt_series: needle.mrc\ntilt_angles: needle.rawtlt\n", bad_pixel, ["tilt_series", "3"]),
        ("tilt_series: needle.mrc\ntilt_angles: needle.rawtlt\n", zero_pixel, ["pixel"]),
        ("tilt_series: needle.mrc\ntilt_angles: small.txt\n", None, ["tilt_series", "span 2.1°", "(degrees"]),
        (
            "tilt_series: needle.mrc\ntilt_angles: comma.txt\n",
            None,
            ["tilt_angles: comma.txt, line 1", "decimal point"],
        ),
        ("tilt_series: good.csv\npixel_nm: 1.0\n", None, ["tilt_series", "good.csv"]),
        ("dots: good.csv\nnecks: necks.csv\n", None, ["necks", "necks.csv, line 2: qd_2 7 is no qd of the dots"]),
        ("dots: indexed.csv\n", None, ["dots", "2 indexed dots fix no cell"]),
        ("centres: words.csv\n", None, ["centres", "line 3", "y_nm must be a number", "'many'"]),
        (
            NEEDLE + "material: {name: Foo, lattice_nm: 0.6}\n",
            None,
            ["material.name: material 'Foo'", "such as 'PbSe'"],
        ),
        (NEEDLE + "quantum_dot: {diameter_nm: 0.2}\n", None, ["quantum_dot.diameter_nm: expected 4 pixels of 0.07 nm"]),
        ("tomogram: flat.npy.mrc\nvoxel_nm: 1.0\n", None, ["tomogram", "flat.npy.mrc"]),
        ("twin: {sed: 3}\n", None, ["twin", "sed"]),
    ],
)
def test_the_data_are_looked_at_before_anything_is_written(series: Path, text: str, harm, parts) -> None:
    import mrcfile

    (series / "few.txt").write_text("-1\n0\n1\n")
    (series / "small.txt").write_text("".join(f"{angle:.3f}\n" for angle in np.linspace(-1.047, 1.047, 9)))  # radians
    (series / "comma.txt").write_text("-60,0\n" * 9)
    mrcfile.write(series / "flat.npy.mrc", np.zeros((4, 4, 4), np.float32))
    if harm is not None:
        rewrite(series, harm)
    before = sorted(series.rglob("*"))
    sample = load(series, "name: a\n" + text)
    with pytest.raises(SampleError) as error:
        check_inputs(sample)
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{series / 'sample.yaml'}: ")
    for part in parts:
        assert part in message
    assert sorted(series.rglob("*")) == sorted([*before, series / "sample.yaml"])


DOT = "quantum_dot: {diameter_nm: 5}\n"
PBSE = "material: {name: PbSe, lattice_nm: 0.612}\n"


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("twin: {}\n", "00 01 02 03 04 05 06 07 08"),
        ("twin: {level: table}\n", "00 02 04 05 06 07 08"),
        ("tilt_series: needle.mrc\npixel_nm: 0.07\n" + DOT + PBSE, "00 01 02 03 04 05 06 07 08"),
        ("tilt_series: needle.mrc\npixel_nm: 0.07\n" + PBSE, "00 01 08"),
        ("tilt_series: needle.mrc\npixel_nm: 0.07\n" + DOT, "00 01 02 04 05 08"),
        ("tilt_series: needle.mrc\npixel_nm: 0.2\n" + DOT + PBSE, "00 01 02 04 05 08"),
        ("tomogram: needle.mrc\nvoxel_nm: 0.07\n" + DOT + PBSE, "00 01 02 03 04 05 06 07 08"),
        ("centres: good.csv\n", "00 02 04 05 08"),
        ("dots: turned.csv\n", "00 02 04 05 06 07 08"),
        ("dots: good.csv\n", "00 02 04 05 08"),
    ],
)
def test_the_data_decide_which_steps_run(series: Path, text: str, runs: str) -> None:
    reasons = steps_of(load(series, "name: a\n" + text))
    assert " ".join(stem[:2] for stem, reason in reasons.items() if reason is None) == runs
    assert all(reason is None or len(reason) > 20 for reason in reasons.values())


def test_the_pixel_of_the_file_decides_where_the_sample_has_none(series: Path) -> None:
    sample = load(series, "name: a\ntilt_series: needle.mrc\n" + DOT + PBSE)
    assert steps_of(sample, pixel_nm=0.15)["06_neighbours"] is None
    assert "{200} spacing" in steps_of(sample, pixel_nm=0.16)["06_neighbours"]


def test_the_analysis_is_handed_ordinary_keys_only(series: Path) -> None:
    file = write_input_sample(load(series, FULL), series / "run")
    text = file.read_text()
    assert file == series / "run" / "input" / "sample.yaml"
    assert "parameters" not in text
    assert load_sample(file).superlattice.a_nm == 6.0
    twin = load(series, "name: a\ntwin: {seed: 7}\nsuperlattice: {a_nm: 6.0, b_nm: 6.0, c_nm: 5.7}\n" + DOT + PBSE)
    (series / "run" / "input" / "s.mrc").write_bytes(b"")
    text = write_input_sample(twin, series / "run", tilt_series=series / "run" / "input" / "s.mrc").read_text()
    for hidden in ("seed", "twin", "superlattice"):
        assert hidden not in text
    assert "tilt_series: s.mrc" in text


def test_samples_are_found_by_name_or_path(repository: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(repository)
    assert find_sample("small") == repository / "data" / "small.yaml"
    assert find_sample("data/small.yaml") == Path("data/small.yaml")
    with pytest.raises(SampleError, match="did you mean 'small'"):
        find_sample("smal")
    monkeypatch.chdir(tmp_path)
    assert find_sample("small") == repository / "data" / "small.yaml"


def test_every_sample_of_the_repository_is_sound(repository: Path) -> None:
    files = list_samples(repository / "data")
    assert {"tiny", "small", "paper", "needle", "example"} <= {file.stem for file in files}
    for file in files:
        sample = load_sample(file)
        assert sample.name == file.stem
        check_inputs(sample)


@pytest.mark.parametrize(
    ("method", "engine", "message"),
    [
        ("wbp", "nufft", "01_reconstruction: method must be one of fbp, sirt, cgls, not 'wbp'"),
        ("cgls", "tomopy", "01_reconstruction: TomoPy has no CGLS"),
        ("fbp", "astra", "01_reconstruction: engine 'astra' is not installed: pip install astra-toolbox"),
    ],
)
def test_an_engine_that_is_not_there_is_told_before_anything_is_written(monkeypatch, method, engine, message) -> None:
    monkeypatch.setitem(sys.modules, "astra", None)
    with pytest.raises(SampleError, match=re.escape(message)):
        check_settings({"method": method, "engine": engine}, device="cpu")
    check_settings({"method": "sirt", "engine": "nufft"}, device="cpu")
    check_settings({"method": "fbp", "engine": "astra"}, device="cpu", dask="tcp://there:8786")
