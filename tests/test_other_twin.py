"""The simulator of another hand: its conventions are those of DESIGN, and its truth stays out of what is analysed."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from mesotomo_utils import lattice
from mesotomo_utils.tomography.tilt_series import load_tilt_series

pytestmark = pytest.mark.slow  # numba compiles the projection


@pytest.fixture(scope="module")
def other_twin(load_benchmark):
    return load_benchmark("other_twin")


def test_an_atom_appears_where_the_conventions_say(other_twin):
    x, y, z, pixel = 1.0, -0.5, 0.7, 0.1
    angles, shifts = np.array([0.0, 0.5, 1.2]), np.array([[0.0, 0.0], [0.1, -0.2], [0.0, 0.3]])
    images = np.zeros((3, 61, 71), np.float32)
    blur = np.ones((other_twin.PHASES, 1), np.float32)
    other_twin.project(np.array([[x, y, z]]), np.ones(1), angles, 0.0, shifts, blur, images, pixel)
    for image, angle, (down, across) in zip(images, angles, shifts, strict=True):
        row, column = np.argwhere(image)[0]
        assert abs((row - 30) * pixel - (z + down)) <= pixel / 2
        assert abs((column - 35) * pixel - (x * np.cos(angle) + y * np.sin(angle) + across)) <= pixel / 2


def test_its_cells_are_named_by_the_rule(other_twin):
    for sample in other_twin.SAMPLES.values():  # that of q6 was asked for with alpha = 85 degrees
        sites = other_twin.make_sites(np.random.default_rng(1), other_twin.USUAL | sample, 3, 12.0)
        np.testing.assert_array_equal(lattice.axes_by_rule(sites["V"]), np.eye(3))


def test_a_small_twin_keeps_its_truth_apart(other_twin, tmp_path):
    other_twin.simulate("q4", tmp_path, dots=16, layers=2)
    given = yaml.safe_load((tmp_path / "input" / "sample.yaml").read_text())
    assert {file.name for file in (tmp_path / "input").iterdir()} == {"sample.yaml", "series.mrc", "series.rawtlt"}
    assert not {"twin", "superlattice"} & set(given)
    series, angles = (tmp_path / "input" / given[key] for key in ("tilt_series", "tilt_angles"))
    series = load_tilt_series(series, angles_path=angles, pixel_nm=given["pixel_nm"])
    aligned = pd.read_csv(tmp_path / "truth" / "alignment.csv")
    np.testing.assert_array_equal(series.angles_deg, aligned["angle_nominal_deg"])
    assert 0.05 < (aligned["angle_deg"] - aligned["angle_nominal_deg"]).std() < 0.15
    assert json.loads((tmp_path / "truth" / "parameters.json").read_text())["image_shape"] == [*series.images.shape[1:]]
    dots = pd.read_csv(tmp_path / "truth" / "dots.csv")
    assert 8 <= (dots["fraction_inside"] > 0.9).sum() <= 24
    # what is bright lies where the dots do: within the field, and nearer its middle than its rim
    assert dots["z_nm"].abs().max() < series.images.shape[1] * series.pixel_nm / 2
    mean = series.images.mean(axis=(0, 1))
    assert mean[len(mean) // 4 : -len(mean) // 4].mean() > 3 * mean[:10].mean()
