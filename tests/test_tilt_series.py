"""The tilt series reader: units, axes, angles, and one failure per error it promises."""

import json
from fractions import Fraction

import h5py
import mrcfile
import numpy as np
import pytest
from rsciio import tiff

from mesotomo_utils.tomography.tilt_series import (
    TiltSeries,
    TiltSeriesError,
    load_tilt_series,
    read_angles,
    save_tilt_series,
)
from mesotomo_utils.tomography.tilt_series_formats import plain_metadata

NEEDLE = {"angles_path": "data/needle/HAADF.rawtlt", "pixel_nm": 3.36, "tilt_axis": "horizontal"}


def write_hspy(path, data, axes, microscope=None):
    """A HyperSpy file of one signal, written by hand: RosettaSciIO's writer wants HyperSpy's own dictionary."""
    with h5py.File(path, "w") as file:
        file.attrs["file_format"], file.attrs["file_format_version"] = "HyperSpy", "3.3"
        signal = file.create_group("Experiments/__unnamed__")
        signal["data"] = data
        for n, axis in enumerate(axes):
            group = signal.create_group(f"axis-{n}")
            group.attrs.update({**axis, "_type": "UniformDataAxis", "index_in_array": n, "is_binned": False})
        for name in ("metadata", "original_metadata", "learning_results"):
            signal.create_group(name)
        signal["metadata"].create_group("General")
        signal["metadata"].create_group("Signal").attrs["signal_type"] = ""
        signal["metadata/General"].attrs.update({"title": "needle 7", "date": "2020-02-20"})
        if microscope:
            signal["metadata"].create_group("Acquisition_instrument/TEM").attrs.update(microscope)


@pytest.fixture
def counts():
    return np.random.default_rng(3).poisson(20, (5, 6, 8)).astype(np.float32)


@pytest.fixture
def saved(tmp_path, counts):
    series = TiltSeries(counts, np.linspace(-60, 60, 5), 0.07)
    return save_tilt_series(tmp_path / "series.mrc", series)


def test_what_is_saved_comes_back(saved, counts):
    back = load_tilt_series(saved[0], angles_path=saved[1])
    np.testing.assert_array_equal(back.images, counts)
    np.testing.assert_allclose(back.angles_deg, np.linspace(-60, 60, 5))
    assert back.pixel_nm == pytest.approx(0.07)
    assert back.images.dtype == np.float32
    assert back.metadata["recorded_dtype"] == "uint16"


@pytest.mark.parametrize(("images", "dtype"), [(np.arange(24.0) - 12, "int16"), (np.arange(24.0) / 7, "float32")])
def test_dtype_follows_the_values(tmp_path, images, dtype):
    path, angles = save_tilt_series(tmp_path / "a.mrc", TiltSeries(images.reshape(2, 3, 4), np.array([0.0, 1.0]), 1.0))
    back = load_tilt_series(path, angles_path=angles)
    assert back.metadata["recorded_dtype"] == dtype
    np.testing.assert_allclose(back.images.ravel(), images, rtol=1e-6)


def test_horizontal_axis_exchanges_rows_and_columns(saved, counts):
    turned = load_tilt_series(saved[0], angles_path=saved[1], tilt_axis="horizontal")
    np.testing.assert_array_equal(turned.images, counts.transpose(0, 2, 1))


def test_tilt_sign_turns_the_angles_around(saved):
    back = load_tilt_series(saved[0], angles_path=saved[1], tilt_sign=-1)
    np.testing.assert_allclose(back.angles_deg, -np.linspace(-60, 60, 5))


def test_given_pixel_wins(saved):
    assert load_tilt_series(saved[0], angles_path=saved[1], pixel_nm=2.5).pixel_nm == 2.5


def test_the_real_needle():
    series = load_tilt_series("data/needle/HAADF.mrc", **NEEDLE)
    assert series.images.shape == (77, 256, 256)
    np.testing.assert_allclose(series.angles_deg, np.arange(-76, 77, 2))
    # the tilt axis runs along the needle: at every height it is brightest near the middle columns
    profile = (series.images - series.images.min()).mean(axis=0)
    assert profile.mean(axis=0).argmax() == pytest.approx(128, abs=30)


@pytest.mark.parametrize(
    ("unit", "scale", "expected"), [("nm", 0.5, 0.5), ("µm", 0.002, 2.0), ("Å", 7.0, 0.7), ("m", 1e-9, 1.0)]
)
def test_units_and_angles_of_an_hspy_file(tmp_path, counts, unit, scale, expected):
    axes = [
        {"name": "tilt", "size": 5, "scale": 2.0, "offset": -4.0, "units": "°", "navigate": True},
        {"name": "y", "size": 6, "scale": scale, "offset": 0.0, "units": unit, "navigate": False},
        {"name": "x", "size": 8, "scale": scale, "offset": 0.0, "units": unit, "navigate": False},
    ]
    write_hspy(tmp_path / "a.hspy", counts, axes)
    series = load_tilt_series(tmp_path / "a.hspy")
    assert series.pixel_nm == pytest.approx(expected)
    np.testing.assert_allclose(series.angles_deg, [-4, -2, 0, 2, 4])
    np.testing.assert_array_equal(series.images, counts)


def test_the_microscope_and_the_recording_are_kept(tmp_path, counts):
    axes = [
        {"name": "tilt", "size": 5, "scale": 2.0, "offset": -4.0, "units": "°", "navigate": True},
        {"name": "y", "size": 6, "scale": 0.5, "offset": 0.0, "units": "nm", "navigate": False},
        {"name": "x", "size": 8, "scale": 0.5, "offset": 0.0, "units": "nm", "navigate": False},
    ]
    microscope = {"beam_energy": np.float64(300), "microscope": "TEAM I", "camera_length": np.nan}
    write_hspy(tmp_path / "a.hspy", counts, axes, microscope)
    metadata = load_tilt_series(tmp_path / "a.hspy").metadata
    assert metadata["microscope"] == {"TEM": {"beam_energy": 300.0, "microscope": "TEAM I", "camera_length": None}}
    assert (metadata["title"], metadata["date"]) == ("needle 7", "2020-02-20")
    json.dumps(metadata, allow_nan=False)


def test_the_names_of_a_maker_become_the_common_ones():
    """The extended header of an FEI file, with the stage's tilt of every image."""
    tem = load_tilt_series("data/needle/HAADF.mrc", **NEEDLE).metadata["microscope"]["TEM"]
    assert tem["magnification"] == 115000
    np.testing.assert_allclose(tem["Stage"]["tilt_alpha"], np.arange(-76, 77, 2))


def test_metadata_becomes_what_a_file_can_hold():
    odd = {1: np.int16(3), "b": b"text", "t": (1.5, np.inf), "o": {"p": Fraction(1, 2)}, "n": None, "y": True}
    assert plain_metadata(odd) == {"1": 3, "b": "text", "t": [1.5, None], "o": {"p": "1/2"}, "n": None, "y": True}


def test_tiff_needs_a_pixel_size(tmp_path, counts, saved):
    axes = [{"name": n, "size": s, "scale": 1.0, "offset": 0.0, "units": "", "navigate": False}
            for n, s in zip("zyx", counts.shape, strict=True)]  # fmt: skip
    tiff.file_writer(str(tmp_path / "a.tif"), {"data": counts, "axes": axes, "metadata": {}})
    with pytest.raises(TiltSeriesError, match=r"pixel size.*pixel_nm"):
        load_tilt_series(tmp_path / "a.tif", angles_path=saved[1])
    series = load_tilt_series(tmp_path / "a.tif", angles_path=saved[1], pixel_nm=0.1)
    np.testing.assert_array_equal(series.images, counts)


def test_binning_keeps_the_mean_and_the_centre():
    images = np.zeros((1, 8, 8), np.float32)
    images[0, 3:5, 3:5] = 4.0
    binned = TiltSeries(images[:, :, :], np.array([0.0]), 0.5).bin(2)
    assert binned.pixel_nm == 1.0
    assert binned.images.mean() == pytest.approx(images.mean())
    assert (binned.images[0] * binned.u_nm).sum() == pytest.approx(0)


def test_select():
    series = TiltSeries(np.arange(24.0).reshape(4, 2, 3), np.arange(4.0), 1.0)
    assert series.select(slice(None, None, 2)).angles_deg.tolist() == [0, 2]
    assert len(series.select(np.array([True, False, False, False]))) == 1


# ------------------------------------------------------------------ failures, one each


def bytes_file(path, values, *, imod: int | None = None, version: int = 20141):
    """An MRC file of bytes, mode 0; with IMOD's stamp and flags where these are given."""
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(values)
        file.voxel_size = 7.0
        file.header.nversion = version
        if imod is not None:
            extra = bytearray(file.header.extra2.tobytes())
            extra[40:48] = np.array([1146047817, imod], "<i4").tobytes()
            file.header.extra2 = np.void(bytes(extra))
    return path


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # mrcfile warns of an old version
def test_bytes_of_an_mrc_file_are_signed_where_it_says_so(tmp_path, saved):
    values = np.random.default_rng(0).integers(-100, 100, (5, 6, 8)).astype(np.int8)
    for options, expected in (
        ({}, values),
        ({"imod": 1}, values),
        ({"imod": 0}, values.view(np.uint8)),
        ({"version": 0}, values.view(np.uint8)),
    ):
        path = bytes_file(tmp_path / "bytes.mrc", values, **options)
        found = load_tilt_series(path, angles_path=saved[1]).images
        np.testing.assert_array_equal(found, expected.astype(np.float32), err_msg=str(options))


def test_what_is_no_grey_level_is_refused(tmp_path, saved):
    with mrcfile.new(tmp_path / "complex.mrc") as file:
        file.set_data(np.ones((5, 6, 8), np.complex64))
    with pytest.raises(TiltSeriesError, match=r"complex.mrc holds pixels of type complex64; expected grey levels"):
        load_tilt_series(tmp_path / "complex.mrc", angles_path=saved[1], pixel_nm=1.0)


def test_borders_that_were_filled_in_are_replaced_and_said(tmp_path, caplog):
    images = np.random.default_rng(0).poisson(30, (5, 40, 32)).astype(np.float32)
    images[2, :3] = images[3, :, -2:] = 17.25
    paths = save_tilt_series(tmp_path / "moved.mrc", TiltSeries(images, np.arange(5.0), 0.5))
    found = load_tilt_series(paths[0], angles_path=paths[1])
    assert found.metadata["filled_borders"] == {"images": 2, "widest_px": 3}
    assert "borders of 2 images, up to 3 pixels wide" in caplog.text
    assert not (found.images == 17.25).any()


def test_angles_as_editors_save_them(tmp_path):
    (tmp_path / "bom.txt").write_text("-1.5\n0\n", encoding="utf-8-sig")
    assert read_angles(tmp_path / "bom.txt").tolist() == [-1.5, 0.0]
    (tmp_path / "wide.txt").write_text("-1.5\n0\n", encoding="utf-16")
    with pytest.raises(TiltSeriesError, match=r"wide.txt is no text in UTF-8; save it as plain text"):
        read_angles(tmp_path / "wide.txt")


def test_missing_file(tmp_path):
    with pytest.raises(TiltSeriesError, match=r"none.mrc is no file"):
        load_tilt_series(tmp_path / "none.mrc")


def test_missing_angles_file(tmp_path, saved):
    with pytest.raises(TiltSeriesError, match=r"none.rawtlt is no file"):
        load_tilt_series(saved[0], angles_path=tmp_path / "none.rawtlt")


def test_unknown_format(tmp_path):
    (tmp_path / "a.xyz").write_text("x")
    with pytest.raises(TiltSeriesError, match=r"no reader for .xyz"):
        load_tilt_series(tmp_path / "a.xyz")


def test_damaged_file(tmp_path):
    (tmp_path / "a.dm3").write_text("not an image")
    with pytest.raises(TiltSeriesError, match="cannot be read"):
        load_tilt_series(tmp_path / "a.dm3")


@pytest.mark.parametrize("n", [4, 6])
def test_other_number_of_angles(saved, n):
    saved[1].write_text("\n".join("1.0" for _ in range(n)))
    with pytest.raises(TiltSeriesError, match=f"5 images .* {n} angles"):
        load_tilt_series(saved[0], angles_path=saved[1])


def test_angle_that_is_no_number(saved):
    saved[1].write_text("1\n2\nthree\n4\n5\n")
    with pytest.raises(TiltSeriesError, match=r"line 3.*'three'"):
        read_angles(saved[1])


def test_no_angles_at_all(saved):
    with pytest.raises(TiltSeriesError, match="carries no tilt angles"):
        load_tilt_series(saved[0])
    saved[1].write_text("# nothing\n")
    with pytest.raises(TiltSeriesError, match="holds no angles"):
        read_angles(saved[1])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # mrcfile warns of what is being tested
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_image_that_is_not_finite(tmp_path, counts, saved, bad):
    counts[3, 2, 2] = bad
    with mrcfile.new(tmp_path / "bad.mrc") as file:
        file.set_data(counts)
        file.voxel_size = 1.0
    with pytest.raises(TiltSeriesError, match="image 3"):
        load_tilt_series(tmp_path / "bad.mrc", angles_path=saved[1])


def test_no_pixel_size(tmp_path, counts, saved):
    with mrcfile.new(tmp_path / "bad.mrc") as file:
        file.set_data(counts)
    with pytest.raises(TiltSeriesError, match=r"no pixel size.*pixel_nm"):
        load_tilt_series(tmp_path / "bad.mrc", angles_path=saved[1])


def test_wrong_pixel_axis_and_sign(saved):
    with pytest.raises(TiltSeriesError, match="pixel_nm must be a positive"):
        load_tilt_series(saved[0], angles_path=saved[1], pixel_nm=-1)
    with pytest.raises(TiltSeriesError, match="vertical or horizontal"):
        load_tilt_series(saved[0], tilt_axis="diagonal")
    with pytest.raises(TiltSeriesError, match="1 or -1"):
        load_tilt_series(saved[0], tilt_sign=0)


def test_no_stack(tmp_path):
    with h5py.File(tmp_path / "empty.hspy", "w") as file:
        file.create_group("Experiments")
    with pytest.raises(TiltSeriesError, match=r"empty\.hspy"):
        load_tilt_series(tmp_path / "empty.hspy")
    with pytest.raises(TiltSeriesError, match=r"\[tilt, z, u\]"):
        TiltSeries(np.zeros((3, 3)), np.zeros(3), 1.0)


def test_bin_too_coarse(saved):
    with pytest.raises(TiltSeriesError, match="cannot bin"):
        load_tilt_series(saved[0], angles_path=saved[1]).bin(7)
