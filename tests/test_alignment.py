"""Alignment recovers how an asymmetric phantom was moved, and says which image is none of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mesotomo_utils.tomography import alignment as alignment_module
from mesotomo_utils.tomography import alignment_coarse, alignment_fine
from mesotomo_utils.tomography.alignment import (
    Alignment,
    _alignment,
    _bin,
    _coarse,
    _fine_bin,
    align_half,
    align_series,
    apply_alignment,
    half_mask,
    rigid_motion_between,
    to_frame_of,
)
from mesotomo_utils.tomography.alignment_fine import Fit, Pose, refine, slow_angle_patterns
from mesotomo_utils.tomography.alignment_geometry import (
    image_matrix,
    move_images,
    place_on_images,
    remove_rigid_motion,
)
from mesotomo_utils.tomography.tilt_series import TiltSeries, TiltSeriesError, load_tilt_series

PIXEL_NM = 0.3


@dataclass(frozen=True)
class Truth:
    """How the phantom's images were moved, nm and degrees."""

    angle_deg: np.ndarray
    shift_z_nm: np.ndarray
    shift_u_nm: np.ndarray
    axis_offset_nm: float
    axis_tilt_deg: float


def phantom(
    *,
    seed: int = 0,
    n: int = 128,
    angles_deg: np.ndarray | None = None,
    axis_offset_px: float = 5.0,
    axis_tilt_deg: float = 0.5,
    image_shear_deg: float = 0.0,
    height: float = 1.0,
    still: bool = False,
) -> tuple[TiltSeries, Truth]:
    """Blobs in an elliptic needle off the axis, in carbon, moved and counted like a recorded series.

    Gaussian blobs have exact projections at every tilt, so nothing here is shared with the projector.
    """
    rng = np.random.default_rng(seed)
    nominal = np.arange(-90.0, 90.0, 3.0) if angles_deg is None else angles_deg
    n_t = len(nominal)
    count = 200
    radius, turn = 0.27 * n * np.sqrt(rng.random(count)), rng.uniform(0, 2 * np.pi, count)
    x, y = radius * np.cos(turn), 0.8 * radius * np.sin(turn) + 4
    z = rng.uniform(-0.4, 0.45, count) * n * height
    width, weight = rng.uniform(1.2, 3, count), rng.uniform(0.5, 1, count)
    weight[x > 0] *= 1.5  # asymmetric: a mirrored or swapped answer fits nothing
    jitter = 0.0 if still else 2.0
    truth = Truth(
        nominal + (0.0 if still else rng.normal(0, 0.1, n_t)),
        PIXEL_NM * (rng.normal(0, 1, n_t) * jitter + 0.25 * jitter * rng.normal(0, 1, n_t).cumsum()),
        PIXEL_NM * (rng.normal(0, 1, n_t) * jitter + 0.25 * jitter * rng.normal(0, 1, n_t).cumsum()),
        axis_offset_px * PIXEL_NM,
        axis_tilt_deg,
    )
    t, a = np.deg2rad(truth.angle_deg), np.deg2rad(axis_tilt_deg)
    pixels = np.arange(n) - (n - 1) / 2
    images = np.empty((n_t, n, n))
    for i in range(n_t):
        u = x * np.cos(t[i]) + y * np.sin(t[i])
        seen_z, seen_u = z * np.cos(a) + u * np.sin(a), u * np.cos(a) - z * np.sin(a)
        seen_u = seen_u + np.tan(np.deg2rad(image_shear_deg)) * seen_z
        seen_z = seen_z + truth.shift_z_nm[i] / PIXEL_NM
        seen_u = seen_u + axis_offset_px + truth.shift_u_nm[i] / PIXEL_NM
        by_z = np.exp(-(((pixels - seen_z[:, None]) / width[:, None]) ** 2) / 2)
        by_u = np.exp(-(((pixels - seen_u[:, None]) / width[:, None]) ** 2) / 2)
        images[i] = (by_z * weight[:, None]).T @ by_u
    images *= 400 / np.quantile(images[n_t // 2], 0.99)
    if not still:
        images = rng.poisson(images + 5)
    series = TiltSeries(
        images=images, angles_deg=nominal, pixel_nm=PIXEL_NM, name="phantom", metadata={"operator": "nobody"}
    )
    return series, truth


def errors(alignment: Alignment, truth: Truth) -> dict[str, float]:
    """Errors in pixels and degrees after the rigid motion that no series can tell."""
    used = alignment.used
    table = alignment.table[used]
    z, u, angle, _ = remove_rigid_motion(
        table["shift_z_nm"] - truth.shift_z_nm[used],
        alignment.total_shift_u_nm[used] - truth.shift_u_nm[used] - truth.axis_offset_nm,
        truth.angle_deg[used],
        table["angle_deg"] - truth.angle_deg[used],
    )
    return {
        "z_px": float(np.sqrt(np.mean(z**2))) / PIXEL_NM,
        "u_px": float(np.sqrt(np.mean(u**2))) / PIXEL_NM,
        "angle_deg": float(np.sqrt(np.mean(angle**2))),
        "axis_deg": abs(alignment.axis_tilt_deg - truth.axis_tilt_deg),
    }


@pytest.fixture(scope="module")
def aligned() -> tuple[TiltSeries, Truth, Alignment]:
    """A phantom and its blind alignment."""
    series, truth = phantom()
    return series, truth, align_series(series)


def test_blind_alignment_is_below_a_pixel(aligned: tuple[TiltSeries, Truth, Alignment]) -> None:
    _, truth, alignment = aligned
    found = errors(alignment, truth)
    assert found["z_px"] < 0.15
    assert found["u_px"] < 0.15
    assert found["axis_deg"] < 0.06
    assert found["angle_deg"] < 0.08 < np.std(truth.angle_deg - alignment.table["angle_nominal_deg"])
    assert alignment.used.all()
    assert np.isfinite(alignment.table.drop(columns="used")).all(axis=None)


def test_axis_far_off_and_tilted_the_other_way_with_missing_tilts() -> None:
    series, truth = phantom(seed=2, angles_deg=np.arange(-76.0, 77.0, 3.0), axis_offset_px=-8.0, axis_tilt_deg=-1.0)
    found = errors(align_series(series), truth)
    assert found["z_px"] < 0.2
    assert found["u_px"] < 0.2
    assert found["axis_deg"] < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("seed", [4, 7])
def test_the_axis_of_a_film_as_wide_as_it_is_high_in_a_missing_wedge(seed: int) -> None:
    # its slices lean as much one way by the tilt of the axis as the other by what they mix
    series, truth = phantom(seed=seed, height=0.55, angles_deg=np.arange(-70.0, 71.0, 2.0))
    pose, *_ = _coarse(alignment_coarse.without_background(series.images), series.angles_deg)
    assert abs(pose.axis_tilt_deg - truth.axis_tilt_deg) < 0.05  # of 70 rows; without the mixing off by 0.15 and 0.23
    assert abs(align_series(series).axis_tilt_deg - truth.axis_tilt_deg) < 0.05


@pytest.mark.slow
def test_gaps_between_tilts_leave_the_angles_below_their_nominal_errors() -> None:
    rng = np.random.default_rng(7)
    angles = np.arange(-90.0, 90.0, 2.0)
    angles = angles[(rng.random(90) > 0.08) & ~((angles > -50) & (angles < -40))]
    series, truth = phantom(seed=7, angles_deg=angles)
    alignment = align_series(series)
    found = errors(alignment, truth)
    assert found["u_px"] < 0.15
    assert found["angle_deg"] < 0.8 * np.std(truth.angle_deg - angles)
    assert alignment.used.all()


def test_the_slower_a_pattern_of_angle_errors_the_more_it_counts_against_what_is_known() -> None:
    angles = np.arange(-90.0, 90.0)
    free, slow, caution = slow_angle_patterns(angles)
    patterns, t = np.hstack([free, slow]), np.deg2rad(angles)
    assert patterns.T @ patterns == pytest.approx(np.eye(patterns.shape[1]), abs=1e-12)
    for taken_up in (np.ones_like(t), np.cos(2 * t), np.sin(2 * t)):
        assert free @ (free.T @ taken_up) == pytest.approx(taken_up)
    for n, periods in enumerate((4, 6, 8)):
        pair = slow[:, 2 * n : 2 * n + 2]
        assert pair @ (pair.T @ np.cos(periods * t)) == pytest.approx(np.cos(periods * t))
    assert caution[0] == pytest.approx(81)  # a fit that trusted four periods left 0.05° at the paper's size
    assert (np.diff(caution[::2]) < 0).all()
    assert caution[-1] < 0.1
    assert slow_angle_patterns(angles[::6])[1].shape == (30, 4), "thirty tilts tell no pattern beyond seven periods"


def test_a_background_that_slopes_differently_in_each_image() -> None:
    series, truth = phantom(seed=8)
    n = series.images.shape[1]
    ramp = np.linspace(-1, 1, n)
    turn = np.arange(len(series)) / 15
    slopes = 20 * (np.cos(turn)[:, None, None] * ramp[:, None] + np.sin(turn)[:, None, None] * ramp)
    found = errors(align_series(replace(series, images=series.images + 40 + slopes.astype(np.float32))), truth)
    assert found["z_px"] < 0.15
    assert found["u_px"] < 0.15
    assert found["axis_deg"] < 0.06


def test_a_metal_cap_cut_by_the_edge_of_the_field() -> None:
    series, truth = phantom(seed=9)
    n = series.images.shape[1]
    pixels = np.arange(n) - (n - 1) / 2
    t, a = np.deg2rad(truth.angle_deg), np.deg2rad(truth.axis_tilt_deg)
    images = series.images.astype(float)
    for x, y, z in ((8.0, -5.0, n / 2), (-6.0, 3.0, n / 2 - 4), (1.0, 9.0, n / 2 + 2)):
        u = x * np.cos(t) + y * np.sin(t)
        seen_z = z * np.cos(a) + u * np.sin(a) + truth.shift_z_nm / PIXEL_NM
        seen_u = u * np.cos(a) - z * np.sin(a) + (truth.axis_offset_nm + truth.shift_u_nm) / PIXEL_NM
        by_z = np.exp(-(((pixels - seen_z[:, None]) / 7) ** 2) / 2)
        by_u = np.exp(-(((pixels - seen_u[:, None]) / 7) ** 2) / 2)
        images += 2000 * by_z[:, :, None] * by_u[:, None]
    found = errors(align_series(replace(series, images=images)), truth)
    assert found["z_px"] < 0.15
    assert found["u_px"] < 0.05
    assert found["axis_deg"] < 0.03


@pytest.mark.slow
def test_an_object_that_the_field_cuts_off() -> None:
    series, truth = phantom(seed=10, axis_offset_px=0.0)
    found = errors(align_series(replace(series, images=series.images[:, :, 32:-32])), truth)
    assert found["z_px"] < 0.15
    assert found["u_px"] < 0.5
    assert found["axis_deg"] < 0.1


def test_an_empty_field_beside_the_object_costs_nothing(aligned: tuple[TiltSeries, Truth, Alignment]) -> None:
    series, truth, alignment = aligned
    n_t, n_z, n_u = series.images.shape
    left, right = 60, 140
    images = np.random.default_rng(1).poisson(5.0, (n_t, n_z, left + n_u + right)).astype(np.float32)
    images[:, :, left : left + n_u] = series.images
    still = np.zeros(n_t)
    first, width = alignment_coarse.object_columns(column_mass(images), still)
    assert np.ptp(first) == 0
    assert left <= first[0] < first[0] + width <= left + n_u
    moved = replace(truth, axis_offset_nm=truth.axis_offset_nm + (left - right) / 2 * PIXEL_NM)
    found, narrow = errors(align_series(replace(series, images=images)), moved), errors(alignment, truth)
    assert found["angle_deg"] < 1.1 * narrow["angle_deg"]  # 1.6 times where all columns count
    assert found["z_px"] < 0.05
    assert found["u_px"] < 0.05


def column_mass(images: np.ndarray) -> np.ndarray:
    return alignment_coarse.column_mass(alignment_coarse.without_background(images))


def test_columns_follow_an_object_beside_the_axis(aligned: tuple[TiltSeries, Truth, Alignment]) -> None:
    series, truth, alignment = aligned
    n_t, n_z, n_u = series.images.shape
    # the same recording about an axis that lies 30 pixels beside the needle's middle
    x, y = 24, -18
    radians = np.deg2rad(series.angles_deg)
    path = x * np.cos(radians) + y * np.sin(radians)
    images = np.random.default_rng(1).poisson(5.0, (n_t, n_z, n_u + 120)).astype(np.float32)
    for image, given, by in zip(images, series.images, np.round(path).astype(int), strict=True):
        image[:, 60 + by : 60 + by + n_u] = given
    # what moving by whole pixels along u leaves of a path across a tilted axis is a shift
    by_z, by_u = image_matrix(truth.axis_tilt_deg) @ [np.zeros(n_t), path]
    shifts = {"shift_z_nm": truth.shift_z_nm - by_z * PIXEL_NM}
    shifts["shift_u_nm"] = truth.shift_u_nm - (by_u - np.round(path)) * PIXEL_NM
    moved = replace(truth, **shifts)
    shift_u = (truth.shift_u_nm + truth.axis_offset_nm) / PIXEL_NM
    mass, narrow_mass = column_mass(images), column_mass(series.images)
    place, before = (alignment_coarse.object_place(given, series.angles_deg, shift_u) for given in (mass, narrow_mass))
    np.testing.assert_allclose(place - before, (x, y), atol=0.5)
    first, width = alignment_coarse.object_columns(mass, path)
    _, still = alignment_coarse.object_columns(mass, np.zeros(n_t))
    assert np.ptp(first) > 40
    assert width < 0.8 * still
    assert np.ptp(alignment_coarse.object_columns(narrow_mass, path / 10)[0]) == 0  # hardly narrower
    assert np.ptp(alignment_coarse.object_columns(mass[:, 50:-50], path)[0]) == 0  # no room
    found, narrow = errors(align_series(replace(series, images=images)), moved), errors(alignment, truth)
    assert found["angle_deg"] < 1.1 * narrow["angle_deg"]
    assert found["z_px"] < 0.05
    assert found["u_px"] < 0.05
    assert found["axis_deg"] < 0.03


def test_columns_of_an_object_that_fills_the_field_are_all() -> None:
    series, _ = phantom(seed=10, axis_offset_px=0.0)
    cut = column_mass(series.images[:, :, 32:-32])
    first, width = alignment_coarse.object_columns(cut, np.linspace(-9, 9, len(cut)))
    assert width == cut.shape[1]
    assert not first.any()


def test_images_are_binned_to_what_crowthers_limit_needs_where_they_are_many() -> None:
    tilts = np.arange(-90.0, 90.0)  # 115 pixels show all that they share
    assert _fine_bin((800, 992), tilts) == 8
    assert _fine_bin((800, 900), tilts) == 6  # not 4
    assert _fine_bin((680, 432), tilts) == 3  # not 2
    assert _fine_bin((200, 432), tilts) == 2  # few rows
    assert _fine_bin((100, 2000), tilts) == 3  # 33 of them are kept


def test_how_far_a_centre_of_mass_is_trusted() -> None:
    series, _ = phantom(seed=10, axis_offset_px=0.0)
    shift_z = np.zeros(len(series))

    def sigmas(images: np.ndarray) -> tuple[float, float]:
        return alignment_coarse.moment_sigmas(alignment_coarse.without_background(images), shift_z)

    whole, gain = sigmas(series.images), np.random.default_rng(0).normal(1, 0.02, len(series))
    assert whole[1] < 0.05
    # a detector whose gain wanders changes the mass and moves no centre
    wandering = sigmas(series.images * gain[:, None, None].astype(np.float32))
    assert wandering[0] > 2 * whole[0]
    assert wandering[1] < 1.5 * whole[1]
    # 32 pixels off either side leave centres that are wrong by 0.9 pixel
    assert 0.4 < sigmas(series.images[:, :, 32:-32])[1] < 2.5


def leaning(series: TiltSeries, strength: float) -> TiltSeries:
    """The series with contrast that is not mass: in each image each layer leans to one side or the other."""
    n_t, n_z, n_u = series.images.shape
    lean = np.repeat(np.random.default_rng(3).normal(0, strength, (n_t, 16)), n_z // 16, axis=1)
    u = np.linspace(-1, 1, n_u)
    return replace(series, images=(series.images * (1 + lean[:, :, None] * u)).astype(np.float32))


def test_the_scatter_of_slices_says_how_far_off_a_centre_of_mass_is() -> None:
    series, truth = phantom(seed=10)
    right = (truth.shift_u_nm + truth.axis_offset_nm) / PIXEL_NM
    sigmas, apart = [], []
    for strength in (0.0, 0.05, 0.1):
        images = alignment_coarse.without_background(leaning(series, strength).images)
        pose, _, sigma = _coarse(images, series.angles_deg)
        *_, u, _, _ = remove_rigid_motion(np.zeros_like(right), pose.shift_u - right, truth.angle_deg)
        sigmas.append(sigma)
        apart.append(np.std(u))
    assert sigmas[0] < 0.05
    assert sigmas[2] == pytest.approx(2 * sigmas[1], rel=0.2)
    assert sigmas[1:] == pytest.approx(apart[1:], rel=0.4)


def test_centres_of_mass_that_slices_do_not_agree_on_give_way_to_reprojection(monkeypatch: pytest.MonkeyPatch) -> None:
    series, truth = phantom(seed=10)
    series = leaning(series, 0.1)
    found = errors(align_series(series), truth)
    slices = alignment_coarse.refine_by_slices
    monkeypatch.setattr(alignment_coarse, "refine_by_slices", lambda *given: (*slices(*given)[:3], float("nan")))
    held = errors(align_series(series), truth)
    assert found["u_px"] < 0.75 * held["u_px"]
    assert found["angle_deg"] < 0.9 * held["angle_deg"]


def test_where_centres_do_not_follow_nothing_is_said_of_their_scatter() -> None:
    series, _ = phantom(seed=10, axis_offset_px=0.0)
    cut = alignment_coarse.without_background(series.images[:, :, 40:-40])
    zero = np.zeros(len(series))
    *same, tilt, sigma = alignment_coarse.refine_by_slices(cut, series.angles_deg, zero, zero)
    assert tilt == 0
    assert np.isnan(sigma)
    assert all(shift is zero for shift in same)


def test_doubt_is_the_scatter_between_stretches_of_rows_over_the_agreement() -> None:
    rng = np.random.default_rng(0)
    white = rng.normal(size=(400, 96)).astype(np.float32)
    assert alignment_fine._doubt(white, 96.0, 1.0) == pytest.approx(1, rel=0.1)
    assert alignment_fine._doubt(white, 96.0, 0.5) == pytest.approx(4, rel=0.1)
    # rows that err alike in sixes add up to six times as much; what all rows share is no scatter
    alike = np.repeat(white[:, :16], 6, axis=1) + 3
    assert alignment_fine._doubt(alike, 96.0, 1.0) == pytest.approx(6, rel=0.1)


@pytest.mark.parametrize("order", [slice(None), np.random.default_rng(1).permutation(60)], ids=["sorted", "mixed"])
def test_halves_agree_on_how_an_object_turns_and_not_on_noise(order: slice | np.ndarray) -> None:
    series, _ = phantom(seed=10, axis_offset_px=0.0, axis_tilt_deg=0.0, still=True)
    images = alignment_coarse.without_background(series.images)[order]
    angles, zero = series.angles_deg[order], np.zeros(len(images))
    band = np.ones((images.shape[1], images.shape[2] // 2 + 1), dtype=np.float32)

    def agreement(images: np.ndarray) -> float:
        residual = alignment_fine._residual(images, Pose(zero, zero, angles, 0.0), band, images.shape[2], "cpu")
        return alignment_fine._agreement(residual)

    noise = np.random.default_rng(0).normal(0, 1, images.shape).astype(np.float32) * images.std()
    assert agreement(images) > 0.5
    assert agreement(images + 3 * noise) < 0.4
    assert agreement(noise) == alignment_fine._LEAST_AGREEMENT


@pytest.mark.slow
def test_where_the_model_is_in_doubt_nominal_angles_count_more(
    aligned: tuple[TiltSeries, Truth, Alignment], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series, _, clean = aligned
    data = repository / "data" / "needle"
    needle = load_tilt_series(
        data / "HAADF.mrc", angles_path=data / "HAADF.rawtlt", pixel_nm=3.36, tilt_axis="horizontal"
    )
    wary = align_series(needle)
    monkeypatch.setattr(alignment_fine, "_doubt", lambda *_: 0.0)
    assert np.std(found_turns(wary)) < 0.5 * np.std(found_turns(align_series(needle)))
    assert np.std(align_series(series).table["angle_deg"] - clean.table["angle_deg"]) < 0.01


def found_turns(alignment: Alignment) -> pd.Series:
    return alignment.table["angle_deg"] - alignment.table["angle_nominal_deg"]


def test_alignment_does_not_depend_on_units_of_intensity(aligned: tuple[TiltSeries, Truth, Alignment]) -> None:
    series, _, alignment = aligned
    other = align_series(replace(series, images=series.images * 7 - 31000))
    np.testing.assert_allclose(other.total_shift_u_nm, alignment.total_shift_u_nm, atol=0.01 * PIXEL_NM)
    np.testing.assert_allclose(other.table["shift_z_nm"], alignment.table["shift_z_nm"], atol=0.01 * PIXEL_NM)


def test_same_twice(aligned: tuple[TiltSeries, Truth, Alignment]) -> None:
    series, _, alignment = aligned
    np.testing.assert_allclose(align_series(series).table.to_numpy(float), alignment.table.to_numpy(float), atol=1e-6)


@pytest.mark.slow
def test_reprojection_mends_a_bad_start() -> None:
    series, truth = phantom(seed=3)
    rng = np.random.default_rng(1)
    images = alignment_coarse.without_background(series.images)
    right_u = (truth.shift_u_nm + truth.axis_offset_nm) / PIXEL_NM
    right_z = truth.shift_z_nm / PIXEL_NM
    start = Pose(
        right_z + rng.normal(0, 0.5, len(series)),
        right_u + rng.normal(0, 0.5, len(series)),
        series.angles_deg,
        truth.axis_tilt_deg + 0.2,
    )
    pose = refine(images, start, start, steps=5).pose
    z, u, _, _ = remove_rigid_motion(pose.shift_z - right_z, pose.shift_u - right_u, truth.angle_deg)
    assert np.std(z) < 0.12
    assert np.std(u) < 0.2
    assert abs(pose.axis_tilt_deg - truth.axis_tilt_deg) < 0.1


def test_thinned_images_keep_no_moire_of_the_atomic_lattice() -> None:
    """The mean of 4 pixels would turn fringes of 3.3 pixels into others of 19 with a fifth of their contrast."""
    z, u = np.mgrid[:96, :128]
    fringes = np.cos(2 * np.pi * u / 3.3) + np.cos(2 * np.pi * (z + u) / 4.5)
    thinned, _ = _bin((10 + fringes)[None].astype(np.float32), 4)
    assert np.abs(thinned[0, 4:-4, 4:-4] - 10).max() < 0.02


def test_thinned_images_lie_where_they_are_said_to() -> None:
    z, u = np.mgrid[:90, :131] - np.array([89 / 2, 130 / 2])[:, None, None]
    blob = np.exp(-((z - 7.3) ** 2 + (u + 11.6) ** 2) / (2 * 8.0**2)).astype(np.float32)
    for factor in (1, 2, 4, 8):
        small, (z0, u0) = _bin(blob[None], factor)
        rows, columns = np.indices(small.shape[1:])
        at_z = ((rows - (small.shape[1] - 1) / 2) * small[0]).sum() / small.sum() * factor + z0
        at_u = ((columns - (small.shape[2] - 1) / 2) * small[0]).sum() / small.sum() * factor + u0
        assert (at_z, at_u) == pytest.approx((7.3, -11.6), abs=0.02)


def test_outliers_are_named_and_left_out() -> None:
    series, truth = phantom(seed=4)
    images = series.images.copy()
    images[20] = images[3, ::-1, ::-1]
    images[40] = 0
    images[50] = np.random.default_rng(0).poisson(100, images[50].shape)
    alignment = align_series(replace(series, images=images))
    assert alignment.table.loc[~alignment.table["used"], "tilt"].tolist() == [20, 40, 50]
    assert alignment.table.loc[20, ["shift_z_nm", "shift_u_nm", "residual_nm"]].isna().all()
    assert errors(alignment, truth)["u_px"] < 0.15
    moved = apply_alignment(replace(series, images=images), alignment)
    assert len(moved) == len(series) - 3
    assert moved.metadata["alignment"]["images_left_out"] == [20, 40, 50]


def test_applied_alignment_gives_the_ideal_images_and_keeps_metadata() -> None:
    recorded, truth = phantom(seed=5, axis_tilt_deg=1.0, axis_offset_px=3.3, still=True)
    ideal, _ = phantom(seed=5, axis_tilt_deg=0.0, axis_offset_px=0.0, still=True)
    table = align_series(recorded).table
    table[["shift_z_nm", "shift_u_nm"]] = 0.0
    table["angle_deg"] = truth.angle_deg
    moved = apply_alignment(recorded, Alignment(table, 1.0, 3.3 * PIXEL_NM, PIXEL_NM))
    inner = (slice(None), slice(8, -8), slice(8, -8))
    worst = np.abs(moved.images[inner] - ideal.images[inner]).max() / ideal.images.max()
    assert worst < 2e-3
    assert moved.pixel_nm == recorded.pixel_nm
    assert moved.name == recorded.name
    assert moved.metadata["operator"] == "nobody"
    np.testing.assert_allclose(moved.angles_deg, truth.angle_deg)


@pytest.mark.slow
def test_images_that_the_scan_has_sheared() -> None:
    """Most of the shear is found on blobs of a few pixels; a twin's dots tell it to a few hundredths of a degree."""
    series, truth = phantom(seed=11, image_shear_deg=0.6)
    alignment = align_series(series)
    found = errors(alignment, truth)
    assert alignment.image_shear_deg == pytest.approx(0.6, abs=0.25)
    assert found["axis_deg"] < 0.25
    assert found["u_px"] < 0.1
    assert apply_alignment(series, alignment).metadata["alignment"]["image_shear_deg"] == alignment.image_shear_deg


def test_no_shear_is_found_where_there_is_none(aligned: tuple[TiltSeries, Truth, Alignment]) -> None:
    assert aligned[2].image_shear_deg == 0.0


def test_moving_undoes_rotation_and_shear_as_recorded() -> None:
    """A blob comes back to where the matrix says it came from, whatever is combined."""
    rows, columns = np.indices((96, 112))
    ideal, shift = np.array([11.0, -17.0]), np.array([2.3, -1.6])
    at = image_matrix(2.0, 3.0) @ ideal + shift + [95 / 2, 111 / 2]
    blob = np.exp(-((rows - at[0]) ** 2 + (columns - at[1]) ** 2) / 18).astype(np.float32)
    moved = move_images(blob[None], shift[:1], shift[1:], 2.0, image_shear_deg=3.0)[0]
    centre = np.array([(moved * rows).sum(), (moved * columns).sum()]) / moved.sum()
    np.testing.assert_allclose(centre - [95 / 2, 111 / 2], ideal, atol=0.02)


def test_moving_keeps_fine_fringes() -> None:
    """A lattice of 2.4 pixels comes back after half a pixel, where a cubic spline would lose a fifth."""
    z = np.arange(96)
    fringe = np.cos(2 * np.pi * z / 2.4)[:, None] * np.hanning(96)[:, None] * np.hanning(96)[None]
    shifted = np.cos(2 * np.pi * (z - 0.5) / 2.4)[:, None] * np.interp(z - 0.5, z, np.hanning(96))[:, None]
    images = (shifted * np.hanning(96)[None]).astype(np.float32)[None]
    moved = move_images(images, [0.5], [0.0])
    np.testing.assert_allclose(moved[0], fringe, atol=2e-3)


def test_halves_lie_over_the_whole(aligned: tuple[TiltSeries, Truth, Alignment]) -> None:
    series, _, alignment = aligned
    for which, other in (("even", slice(1, None, 2)), ("odd", slice(0, None, 2))):
        half = align_half(series, which, alignment)
        assert not half.used[other].any()
        used = half.used
        du = (half.total_shift_u_nm - alignment.total_shift_u_nm)[used]
        dz = (half.table["shift_z_nm"] - alignment.table["shift_z_nm"])[used]
        assert np.sqrt(np.mean(du**2)) < 0.2 * PIXEL_NM
        assert np.sqrt(np.mean(dz**2)) < 0.1 * PIXEL_NM
        assert len(apply_alignment(series, half)) == used.sum()


def test_halves_are_every_other_tilt_in_whatever_order_they_were_recorded() -> None:
    recorded = np.array([0.0, 3, -3, 6, -6, 9, -9, 12, -12, 15, -15])  # dose-symmetric
    even, odd = (half_mask(recorded, which) for which in ("even", "odd"))
    np.testing.assert_array_equal(np.sort(recorded[even]), np.arange(-15.0, 16, 6))
    np.testing.assert_array_equal(even, ~odd)
    with pytest.raises(ValueError, match="a half is 'even' or 'odd', not 'first'"):
        half_mask(recorded, "first")


def test_an_object_off_the_axis_of_images_that_lie_askew_leaves_no_shift(
    aligned: tuple[TiltSeries, Truth, Alignment],
) -> None:
    series = aligned[0]
    z, u = place_on_images((3.0, -2.0, 0.0), series.angles_deg, 3.0, 1.0)
    nothing = np.zeros(len(series))
    fit = Fit(Pose(z, u + 5.0, series.angles_deg, 3.0, 1.0), nothing, nothing, ())
    found = _alignment(series, fit, np.ones(len(series), bool), "by hand")
    assert found.axis_offset_nm == pytest.approx(5.0 * PIXEL_NM)
    np.testing.assert_allclose(found.table[["shift_z_nm", "shift_u_nm"]], 0, atol=1e-9)


def test_frame_is_carried_over_exactly(aligned: tuple[TiltSeries, Truth, Alignment]) -> None:
    """A specimen that moves across a tilted axis moves on the images along both edges."""
    alignment = replace(aligned[2], axis_tilt_deg=-3.0)
    table = alignment.table.copy()
    t, a = np.deg2rad(table["angle_deg"]), np.deg2rad(alignment.axis_tilt_deg)
    u = 0.7 * np.cos(t) - 0.4 * np.sin(t)
    table["shift_z_nm"] += 1.3 * np.cos(a) + u * np.sin(a)
    table["shift_u_nm"] += u * np.cos(a) - 1.3 * np.sin(a)
    elsewhere = replace(alignment, table=table)
    motion = rigid_motion_between(elsewhere, alignment)
    assert (motion.x_nm, motion.y_nm, motion.z_nm) == pytest.approx((0.7, -0.4, 1.3))
    back = to_frame_of(elsewhere, alignment)
    np.testing.assert_allclose(back.total_shift_u_nm, alignment.total_shift_u_nm, atol=1e-9)
    np.testing.assert_allclose(back.table["shift_z_nm"], alignment.table["shift_z_nm"], atol=1e-9)


def test_rigid_motion_keeps_an_axis_offset() -> None:
    t = np.arange(-90.0, 90.0, 5.0)
    _, u, angle, motion = remove_rigid_motion(np.ones_like(t), np.full_like(t, 2.0), t, np.full_like(t, 0.3))
    assert np.sqrt(np.mean(u**2)) > 0.5  # a constant is an error of the axis, no motion
    np.testing.assert_allclose(angle, 0, atol=1e-12)
    assert motion.angle_deg == pytest.approx(0.3)


def test_angles_of_other_images_are_told(
    aligned: tuple[TiltSeries, Truth, Alignment], caplog: pytest.LogCaptureFixture
) -> None:
    series = aligned[0]
    assert aligned[2].misfit < 0.1
    mixed = np.random.default_rng(0).permutation(series.angles_deg)
    assert align_series(replace(series, angles_deg=mixed)).misfit > alignment_module.DOUBTFUL_MISFIT
    assert "phantom: no one object explains the images" in caplog.text


def test_an_object_beyond_both_sides_of_the_field_is_told(
    aligned: tuple[TiltSeries, Truth, Alignment], caplog: pytest.LogCaptureFixture
) -> None:
    series, cut = aligned[0], aligned[0].images.shape[2] // 3
    assert "beyond both sides" not in caplog.text
    for images, told in ((series.images[:, :, cut:], False), (series.images[:, :, cut:-cut], True)):
        caplog.clear()
        align_series(replace(series, images=images))
        assert ("phantom: the object goes on beyond both sides of the field" in caplog.text) is told


def test_noise_is_no_object_at_the_borders(aligned: tuple[TiltSeries, Truth, Alignment]) -> None:
    images = alignment_coarse.without_background(aligned[0].images)
    noise = np.random.default_rng(0).normal(0, images.max(), images.shape).astype(np.float32)
    assert alignment_coarse.at_both_borders(images + noise) < 0.2


def test_the_usual_mass_is_that_of_the_tilts_beside_whatever_the_order(
    aligned: tuple[TiltSeries, Truth, Alignment],
) -> None:
    """A needle in a matrix has more mass the farther it is tilted."""
    series = aligned[0]
    order = np.random.default_rng(0).permutation(len(series))
    angles = series.angles_deg[order]
    heavier = series.images[order] / np.maximum(np.cos(np.deg2rad(angles)), 0.3)[:, None, None]
    likeness = np.ones(len(series))
    assert not alignment_coarse.odd_images(heavier, likeness, angles).any()
    heavier[7] *= 1.5
    assert np.flatnonzero(alignment_coarse.odd_images(heavier, likeness, angles)).tolist() == [7]


def test_pixels_that_outshine_the_object_do_not_lead(aligned: tuple[TiltSeries, Truth, Alignment]) -> None:
    series, truth, alignment = aligned
    rng = np.random.default_rng(3)
    bright = series.images.copy()
    bright[:, 40, 90] = 20 * bright.max()  # one of the detector's, in each image, and two of each image's own
    for image in bright:
        image[rng.integers(128, size=2), rng.integers(128, size=2)] = 60000
    found, before = errors(align_series(replace(series, images=bright)), truth), errors(alignment, truth)
    assert found["z_px"] < before["z_px"] + 0.02
    assert found["u_px"] < before["u_px"] + 0.02


def test_bad_input_is_named(aligned: tuple[TiltSeries, Truth, Alignment]) -> None:
    series, _, alignment = aligned
    with pytest.raises(TiltSeriesError, match=r"expected 8 usable images or more, found 5"):
        align_series(series.select(slice(0, 5)))
    with pytest.raises(TiltSeriesError, match=r"span 27\.0°"):
        align_series(series.select(slice(0, 10)))
    with pytest.raises(TiltSeriesError, match="are constant"):
        align_series(replace(series, images=np.ones_like(series.images)))
    with pytest.raises(TiltSeriesError, match=r"images of 1 × 128 pixels; 8 or more"):
        align_series(replace(series, images=series.images[:, :1]))
    with pytest.raises(TiltSeriesError, match=r"darker than what surrounds it; .* invert their contrast"):
        align_series(replace(series, images=1000 - series.images))
    with pytest.raises(ValueError, match=r"60 images with 0\.3 nm pixels; phantom has 60 with 0\.5 nm"):
        apply_alignment(replace(series, pixel_nm=0.5), alignment)
    with pytest.raises(ValueError, match="'even' or 'odd'"):
        align_half(series, "left", alignment)
    with pytest.raises(ValueError, match="one series"):
        to_frame_of(alignment, replace(alignment, table=alignment.table.iloc[:-1]))
    with pytest.raises(ValueError, match=r"delta_u_nm\[1\] is not finite"):
        remove_rigid_motion([0, 0, 0], [0, np.nan, 0], [0, 10, 20])
    with pytest.raises(ValueError, match="three tilts or more"):
        remove_rigid_motion([0, 0], [0, 0], [0, 10])
    with pytest.raises(ValueError, match="one shift for each of 60 images"):
        move_images(series.images, [0.0], [0.0])
