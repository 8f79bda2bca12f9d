"""The comparison with the truth, and the checker itself: a broken table must turn it red."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from mesotomo_utils import lattice
from mesotomo_utils.twin import compare, errors
from mesotomo_utils.twin.imposed import TwinParameters
from mesotomo_utils.twin.matching import fit_rigid_motion, match_dots

V = lattice.cell_matrix(6.3, 6.0, 5.8, 98.0, 95.0, 93.0)


@pytest.fixture
def truth() -> dict[str, pd.DataFrame]:
    """A small perfect lattice with rough dots, two cut dots, and necks of known diameters."""
    rng = np.random.default_rng(5)
    index = np.array([(i, j, k) for k in range(4) for j in range(4) for i in range(3)])
    xyz = index @ V.T + rng.normal(scale=0.15, size=(len(index), 3))
    R = lattice.polar_rotation(V) @ lattice.from_rotation_vectors(rng.normal(scale=0.03, size=(len(index), 3)))
    dots = pd.DataFrame(xyz, columns=errors.POSITION)
    dots.insert(0, "qd", np.arange(len(dots)))
    dots[list("ijk")] = index
    dots["layer"] = index[:, 2] + 1
    dots[errors.QUATERNION] = lattice.to_quaternions(R)
    dots["fraction_inside"] = np.where(dots["qd"] < 2, 0.5, 1.0)
    lookup = {tuple(v): n for n, v in enumerate(index)}
    necks = [
        (n, lookup[tuple(v + step)], axis, 0.0 if rng.random() < 0.1 else rng.uniform(2, 4))
        for n, v in enumerate(index)
        for axis, step in zip("ABC", np.eye(3, dtype=int), strict=True)
        if tuple(v + step) in lookup
    ]
    return {
        "dots": dots,
        "necks": pd.DataFrame(necks, columns=["qd_1", "qd_2", "axis", "diameter_nm"]),
    }


@pytest.fixture
def run(tmp_path, truth):
    """A run folder whose measurement is the truth, moved rigidly, with small errors."""
    (tmp_path / "truth").mkdir()
    truth["dots"].to_csv(tmp_path / "truth/dots.csv", index=False)
    truth["necks"].to_csv(tmp_path / "truth/necks.csv", index=False)
    cell = {"grains": [dict(zip("ABC", V.T.tolist(), strict=True))]}
    (tmp_path / "truth/superlattice.json").write_text(json.dumps(cell))

    rng = np.random.default_rng(6)
    turn = lattice.axis_angle([0, 0, 1], np.deg2rad(0.7))
    dots = truth["dots"]
    qds = dots.drop(columns="fraction_inside").copy()
    noise = rng.normal(scale=0.05, size=(len(dots), 3))
    qds[errors.POSITION] = (dots[errors.POSITION] + noise + [0.4, -0.2, 0.3]).to_numpy() @ turn.T
    R = turn @ lattice.from_quaternions(dots[errors.QUATERNION].to_numpy())
    R = R @ lattice.from_rotation_vectors(rng.normal(scale=0.003, size=(len(dots), 3)))
    qds[errors.QUATERNION] = lattice.to_quaternions(R)
    qds["sigma_deg"] = np.rad2deg(0.003 * np.sqrt(3))
    for axis in "xyz":
        qds[f"sigma_{axis}_nm"] = 0.05
    qds["at_edge"] = dots["fraction_inside"] < errors.WHOLE
    qds["i"] += 3
    qds.to_csv(tmp_path / "qds.csv", index=False)
    truth["necks"].to_csv(tmp_path / "necks.csv", index=False)
    write_cell(tmp_path)
    return tmp_path


def write_cell(run_dir) -> None:
    """Measure the cell from ``qds.csv`` as step 02 would, and record it among the results."""
    qds = pd.read_csv(run_dir / "qds.csv").assign(fraction_inside=1.0)
    cell = errors.sample_cell(qds)
    grain = {"n_dots": len(qds)} | {name: {"value": value} for name, value in cell.items()}
    (run_dir / "superlattice.json").write_text(json.dumps({"grains": [grain]}))
    rows = [
        {"name": n, "index": None, "value": v, "unit": "nm", "sigma": 0.01 if "nm" in n else 0.1}
        for n, v in cell.items()
    ]
    rows.append({"name": "qd_count", "index": None, "value": len(qds), "unit": "", "sigma": None})
    (run_dir / "results.json").write_text(json.dumps(rows))


def failed(run_dir, recorded=None) -> set[str]:
    return {check.name for check in compare.check_run(run_dir, recorded) if not check.ok}


def test_true_run_is_green(run):
    comparison = compare.compare_run(run)
    dots = comparison["dots"]
    assert dots["missed"] == 0
    assert dots["spurious"] == 0
    assert 0.03 < dots["centre_error_nm"]["median"] < 0.15
    assert dots["rigid_rotation_deg"] == pytest.approx(0.7, abs=0.3)
    assert dots["turn_about_axis_deg"] == pytest.approx(0.7, abs=0.15)
    assert 0.1 < dots["orientation_error_deg"]["median"] < 0.45
    assert 0.6 < np.mean(dots["centre_within_sigma"]) < 0.76
    assert 0.6 < dots["orientation_error_over_sigma"] < 1.2
    assert dots["index_right_fraction"] == 1.0
    assert dots["index_origin"] == [3, 0, 0]
    assert comparison["necks"]["neck_diameter_bias_nm"] == pytest.approx(0.0, abs=1e-9)
    assert comparison["necks"]["connectivity_error"] == 0.0
    assert failed(run) == set()


def change(run_dir, edit) -> None:
    qds = edit(pd.read_csv(run_dir / "qds.csv"))
    qds.to_csv(run_dir / "qds.csv", index=False)
    write_cell(run_dir)


def swap(qds):
    return qds.rename(columns={"x_nm": "y_nm", "y_nm": "x_nm"})


def mirror(qds):
    return qds.assign(x_nm=-qds["x_nm"])


def zero(qds):
    return qds.assign(x_nm=0.0, y_nm=0.0, z_nm=0.0)


@pytest.mark.parametrize("edit", [swap, mirror, zero])
def test_broken_positions_are_red(run, edit):
    qds = edit(pd.read_csv(run / "qds.csv"))
    qds.to_csv(run / "qds.csv", index=False)
    assert failed(run) & {"missed_fraction", "centre_error_median_nm"}


def test_scale_of_one_per_cent_is_red(run, tmp_path):
    recorded = tmp_path / "recorded.json"
    compare.record_values(run, recorded)
    assert failed(run, recorded) == set()
    change(run, lambda q: q.assign(**{c: q[c] * 1.01 for c in errors.POSITION}))
    assert {"scale_error", "a_nm", "b_nm", "c_nm"} <= failed(run, recorded)


def test_lost_value_and_lost_dot_are_red(run, tmp_path):
    recorded = tmp_path / "recorded.json"
    compare.record_values(run, recorded)
    change(run, lambda q: q.iloc[:-3])
    assert {"missed_fraction", "qd_count"} <= failed(run, recorded)
    (run / "results.json").write_text("[]")
    assert "a_nm" in failed(run, recorded)


def test_a_whole_number_is_a_count_only_without_a_standard_error(tmp_path):
    row = {"index": None, "unit": None}
    rows = [row | {"name": "bragg_snr", "value": 8359.0, "sigma": 840.0}, row | {"name": "qd_count", "value": 57}]
    (tmp_path / "results.json").write_text(json.dumps(rows))
    compare.record_values(tmp_path, tmp_path / "recorded.json")
    recorded = json.loads((tmp_path / "recorded.json").read_text())
    assert {name: kept["tolerance"] for name, kept in recorded.items()} == {"bragg_snr": 210.0, "qd_count": 0.0}


def test_wrong_equivalent_is_seen_though_the_error_is_not(run):
    def turn(qds):
        R = lattice.from_quaternions(qds[errors.QUATERNION].to_numpy())
        qds[errors.QUATERNION] = lattice.to_quaternions(R @ lattice.cubic_rotations()[5])
        return qds

    change(run, turn)
    assert failed(run) == {"equivalent_wrong_fraction"}


def test_pick_on_cut_dot(run):
    change(run, lambda q: q.assign(at_edge=False))
    assert compare.compare_run(run)["dots"]["spurious"] == 2
    change(run, lambda q: q.drop(index=[0, 1]))
    assert compare.compare_run(run)["dots"]["missed"] == 0


def test_matching_survives_motion_and_noise():
    rng = np.random.default_rng(1)
    true = rng.uniform(0, 40, size=(60, 3))
    turn = lattice.axis_angle([0.2, -0.1, 1], 0.03)
    measured = (true - [1.0, 0.5, -0.7]) @ turn + rng.normal(scale=0.01, size=true.shape)
    order = rng.permutation(60)
    rows, cols, motion = match_dots(measured[order], true, radius_nm=3.0)
    assert len(rows) >= 58
    assert np.array_equal(order[rows], cols)
    assert np.allclose(motion(measured), true, atol=0.05)


def test_shifts_that_a_rigid_motion_makes_cost_nothing():
    tilt = np.arange(30)
    angle = np.linspace(-80, 80, 30)
    truth = pd.DataFrame({"tilt": tilt, "angle_deg": angle, "shift_z_nm": 0.0, "shift_u_nm": 0.0, "used": True})
    moved = truth.assign(
        shift_z_nm=0.3,
        shift_u_nm=0.2 + 0.5 * np.cos(np.deg2rad(angle)) - 0.1 * np.sin(np.deg2rad(angle)),
        angle_deg=angle + 0.4,
    )
    summary = errors.compare_alignment(moved, truth)
    assert max(summary[k] for k in ("shift_u_rms_nm", "shift_z_rms_nm", "angle_rms_deg")) < 1e-9
    assert summary["axis_offset_error_nm"] == pytest.approx(0.2)


def write_alignment(run_dir, *, shift_z_px: float, shift_u_px: float, angle_deg: float, axis_tilt_deg: float) -> None:
    """The alignment of an imaged twin, off by so much from image to image, and of the axis."""
    imaged(run_dir)
    n = 180
    up_and_down = (-1.0) ** np.arange(n)  # no rigid motion makes it
    truth = pd.DataFrame({"tilt": np.arange(n), "angle_deg": np.arange(n) - 90.0, "used": True})
    truth[["shift_z_nm", "shift_u_nm"]] = 0.0
    truth.drop(columns="used").to_csv(run_dir / "truth/alignment.csv", index=False)
    truth["shift_z_nm"] = shift_z_px * DEFAULT["pixel_nm"] * up_and_down
    truth["shift_u_nm"] = shift_u_px * DEFAULT["pixel_nm"] * up_and_down
    truth["angle_deg"] += angle_deg * up_and_down
    truth.to_csv(run_dir / "alignment.csv", index=False)
    parameters = json.loads((run_dir / "truth/parameters.json").read_text()) | {"axis_offset_nm": 0.0}
    (run_dir / "truth/parameters.json").write_text(json.dumps(parameters))
    rows = json.loads((run_dir / "results.json").read_text())
    rows.append({"name": "axis_tilt_deg", "index": None, "value": parameters["axis_tilt_deg"] + axis_tilt_deg})
    (run_dir / "results.json").write_text(json.dumps(rows))


@pytest.mark.parametrize(
    ("name", "worse"),
    [
        (None, {}),
        ("shift_z_rms_px", {"shift_z_px": 0.16}),
        ("shift_u_rms_px", {"shift_u_px": -0.16}),
        ("angle_rms_deg", {"angle_deg": 0.052}),
        ("axis_tilt_error_deg", {"axis_tilt_deg": -0.021}),
    ],
)
def test_a_worse_alignment_is_red_of_a_twin_imaged_no_worse_than_by_default(run, name, worse):
    off = {"shift_z_px": 0.14, "shift_u_px": -0.14, "angle_deg": 0.048, "axis_tilt_deg": -0.019}
    write_alignment(run, **off | worse)
    alignment = {key for key in compare.TARGETS if key.startswith(("shift", "angle", "axis"))}
    assert len(alignment) == 4
    assert failed(run) & alignment == ({name} if name else set())
    if name:
        harder = DEFAULT | {"dose_electrons": 100.0, "axis_offset_nm": 0.0}
        (run / "truth/parameters.json").write_text(json.dumps(harder))
        assert not failed(run) & alignment


def test_errors_name_what_is_wrong(run):
    with pytest.raises(ValueError, match=r"\(3, 3\).*\(4, 3\)"):
        fit_rigid_motion(np.zeros((3, 3)), np.zeros((4, 3)))
    (run / "qds.csv").unlink()
    with pytest.raises(FileNotFoundError, match="run step 02"):
        compare.compare_run(run)
    (run / "results.json").unlink()
    with pytest.raises(FileNotFoundError, match="mesotomo run"):
        compare.check_run(run)


def test_true_distortion_of_a_microscope():
    plain = errors.true_distortion({})
    assert {name: round(v, 12) for name, v in plain.items() if "scale" in name} == {
        f"distortion_{name}": 1.0 for name in ("mean_scale", "scale_x", "scale_y", "scale_z")
    }
    assert all(plain[f"distortion_shear_{pair}_deg"] == 0.0 for pair in ("xy", "xz", "yz"))
    bent = errors.true_distortion({"image_stretch_z": 0.02, "image_stretch_u": -0.01, "specimen_shear_deg": 1.5})
    assert bent["distortion_scale_z"] / bent["distortion_scale_y"] == pytest.approx(1.02 / 0.99)
    assert bent["distortion_mean_scale"] == pytest.approx((0.99**2 * 1.02) ** (1 / 3))
    assert bent["distortion_shear_xz_deg"] == pytest.approx(1.5)
    assert abs(bent["distortion_shear_yz_deg"]) < 1e-9
    # what the alignment takes for an axis offset is no distortion
    assert errors.true_distortion({"image_shear_deg": 3.0}) == plain


def test_the_distortion_is_true_of_an_imaged_twin_only(run):
    assert ("distortion_scale_z", None) not in compare.true_statements(run)
    (run / "truth/parameters.json").write_text(json.dumps({"level": "images", "image_stretch_z": 0.01}))
    stated = compare.true_statements(run)["distortion_scale_z", None]["value"]
    assert stated == pytest.approx(1.01 ** (2 / 3))
    assert compare.imaging_conditions(run) == {"image_stretch_z": 0.01}


def test_axis_and_atomic_lattice_are_true_where_nothing_stretches_them(run):
    imaged = {"level": "images", "axis_tilt_deg": 0.5, "lattice_nm": 0.612, "image_shear_deg": 0.0}
    (run / "truth/parameters.json").write_text(json.dumps(imaged))
    stated = compare.true_statements(run)
    assert stated["axis_tilt_deg", None] == {"value": 0.5}
    assert stated["atomic_lattice_b_nm", None] == {"value": 0.612}
    (run / "truth/parameters.json").write_text(json.dumps(imaged | {"specimen_shear_deg": 0.3}))
    assert not any(name.startswith("atomic") for name, _ in compare.true_statements(run))


DEFAULT = TwinParameters().model_dump()


def test_the_targets_hold_for_what_is_imaged_no_worse_than_by_default():
    assert compare.bounds_for({}, 633) == compare.BOUNDS
    small, many = (compare.bounds_for(DEFAULT, dots) for dots in (compare.MANY - 1, compare.MANY))
    assert set(small) == set(compare.BOUNDS | compare.TARGETS)
    assert set(many) == set(compare.BOUNDS | compare.TARGETS | compare.TARGETS_OF_MANY)
    for name, (bound, _) in compare.BOUNDS.items():
        assert many[name][0] <= small[name][0] <= bound, name
    assert many["cell_angle_error_deg"][0] < small["cell_angle_error_deg"][0]


@pytest.mark.parametrize(
    "worse",
    [
        {"n_tilts": 141, "first_tilt_deg": -70.0},
        {"dose_electrons": 200.0},
        {"blur_nm": 0.31},
        {"pixel_nm": 0.14},
        {"n_tilts": 60, "tilt_step_deg": 3.0},
        {"image_stretch_z": -0.01},
        {"axis_tilt_deg": -1.0},
    ],
)
def test_the_targets_are_not_asked_of_a_harder_twin(worse):
    assert compare.bounds_for(DEFAULT | worse, 633) == compare.BOUNDS
    assert compare.bounds_for(DEFAULT | {"axis_tilt_deg": -0.3, "dose_electrons": 800.0}, 633) != compare.BOUNDS


def imaged(run_dir) -> None:
    (run_dir / "truth/parameters.json").write_text(json.dumps(DEFAULT))


def test_errors_between_the_bounds_and_the_targets_are_red_for_an_imaged_twin_only(run, monkeypatch):
    monkeypatch.setattr(compare, "MANY", 40)
    rng = np.random.default_rng(7)
    qds = pd.read_csv(run / "qds.csv")
    qds[errors.POSITION] += rng.normal(scale=0.13, size=(len(qds), 3))
    R = lattice.from_quaternions(qds[errors.QUATERNION].to_numpy())
    R = R @ lattice.from_rotation_vectors(np.deg2rad(rng.normal(scale=0.4, size=(len(qds), 3))))
    qds[errors.QUATERNION] = lattice.to_quaternions(R)
    qds.to_csv(run / "qds.csv", index=False)
    necks = pd.read_csv(run / "necks.csv")
    necks["diameter_nm"] = np.where(necks["diameter_nm"] > 0, necks["diameter_nm"] + 0.5, 0.0)
    there, gone = (necks.index[own] for own in (necks["diameter_nm"] > 0, necks["diameter_nm"] == 0))
    necks.loc[there[-3:], "diameter_nm"], necks.loc[gone[-3:], "diameter_nm"] = 0.0, 2.0
    necks.to_csv(run / "necks.csv", index=False)
    assert failed(run) == set()
    imaged(run)
    assert failed(run) == {
        *("centre_error_median_nm", "centre_error_p95_nm", "layer_bias_nm"),
        *("orientation_error_median_deg", "orientation_error_p95_deg", "orientation_sigma_off"),
        *("neck_diameter_bias_nm", "neck_diameter_rms_nm", "neck_false_fraction", "neck_missed_fraction"),
    }


def test_a_sigma_too_large_is_as_wrong_as_one_too_small(run, monkeypatch):
    monkeypatch.setattr(compare, "MANY", 40)
    imaged(run)
    good = pd.read_csv(run / "qds.csv")
    ratio = compare.compare_run(run)["dots"]["orientation_error_over_sigma"]
    for aim, red in ((0.7, True), (0.8, False), (1.0, False), (1.1, True)):
        good.assign(sigma_deg=good["sigma_deg"] * ratio / aim).to_csv(run / "qds.csv", index=False)
        assert ("orientation_sigma_off" in failed(run)) == red, aim
