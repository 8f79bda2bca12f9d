"""What is known of a series is known of its tomogram: nothing is lost from stage to stage."""

import numpy as np
import pandas as pd
import pytest

from mesotomo_utils.tomography.alignment import Alignment, apply_alignment, half_mask
from mesotomo_utils.tomography.reconstruction import reconstruct, remove_background
from mesotomo_utils.tomography.tilt_series import TiltSeries, load_tilt_series
from mesotomo_utils.tomography.tomogram import (
    load_tomogram,
    open_tomogram,
    tomogram_attributes,
    write_tomogram,
)


@pytest.fixture(scope="module")
def recorded() -> TiltSeries:
    """The real needle, thinned out and binned: its header knows the microscope."""
    whole = load_tilt_series("data/needle/HAADF.mrc", angles_path="data/needle/HAADF.rawtlt",
                             pixel_nm=3.36, tilt_axis="horizontal")  # fmt: skip
    return whole.select(slice(None, None, 6)).bin(8)


def an_alignment(series: TiltSeries, used: np.ndarray) -> Alignment:
    n = len(series)
    table = pd.DataFrame(
        {
            "tilt": np.arange(n),
            "angle_nominal_deg": series.angles_deg,
            "angle_deg": series.angles_deg + 0.05,
            "shift_z_nm": np.where(used, 1.0, np.nan),
            "shift_u_nm": np.where(used, -2.0, np.nan),
            "residual_nm": 0.1,
            "used": used,
        }
    )
    return Alignment(table, 0.4, 5.5, series.pixel_nm, misfit=np.nan, engine="by hand")


def test_from_the_file_to_the_tomogram_and_its_halves(recorded, tmp_path):
    used = np.arange(len(recorded)) != 3
    measured = an_alignment(recorded, used)
    stages = {"loaded": recorded, "moved": apply_alignment(recorded, measured)}
    stages["finished"] = remove_background(stages["moved"])
    halves = {}
    for which in ("even", "odd"):
        half = an_alignment(recorded, used & half_mask(recorded.angles_deg, which))
        halves[which] = remove_background(apply_alignment(recorded, half))
    for stage in (*stages.values(), *halves.values()):
        assert stage.name == "HAADF.mrc"
        assert stage.pixel_nm == pytest.approx(8 * 3.36)
        assert stage.metadata.items() >= recorded.metadata.items()
    assert recorded.metadata["binning"] == 8
    assert recorded.metadata["angles_from"] == "HAADF.rawtlt"

    path = reconstruct(stages["finished"], out=tmp_path / "a.ome.zarr", attributes={"sample": "needle"})
    tomogram = open_tomogram(path)
    assert tomogram.voxel_nm == pytest.approx(8 * 3.36)
    assert tomogram.attributes["sample"] == "needle"
    series = tomogram.attributes["series"]
    assert series["name"] == "HAADF.mrc"
    assert series["pixel_nm"] == pytest.approx(8 * 3.36)
    np.testing.assert_allclose(series["angles_deg"], recorded.angles_deg[used] + 0.05)
    assert series["microscope"]["TEM"]["magnification"] == 115000
    assert series["background_removed"] is True
    done = series["alignment"]
    assert (done["axis_tilt_deg"], done["axis_offset_nm"], done["engine"]) == (0.4, 5.5, "by hand")
    assert done["images_left_out"] == [3]

    half = open_tomogram(reconstruct(halves["odd"], out=tmp_path / "b.ome.zarr", attributes={"half": "odd"}))
    assert half.attributes["half"] == "odd"
    assert half.attributes["n_tilts"] == len(halves["odd"]) == 5
    assert half.attributes["series"]["microscope"] == series["microscope"]


def test_from_a_tomogram_to_the_next(recorded, tmp_path):
    first = reconstruct(recorded, out=tmp_path / "first.ome.zarr")
    known = tomogram_attributes(first)
    assert known["source"] == "first.ome.zarr"
    second = write_tomogram(tmp_path / "second.ome.zarr", *load_tomogram(first), attributes=known)
    assert open_tomogram(second).attributes["series"]["name"] == "HAADF.mrc"
    assert tomogram_attributes(tmp_path / "other.mrc") == {"source": "other.mrc"}
