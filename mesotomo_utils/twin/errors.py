"""Errors of dots, necks, cell and alignment against the truth of a twin, a summary each.

Errors are taken after one rigid motion fitted to all matched dots (its size is reported): no tilt
series can tell where the laboratory's origin is. Tilt angles are compared after removing a
constant, shifts after removing what that rigid motion does to them, orientations modulo the 24
cubic rotations except where the choice of the equivalent is itself tested.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.lattice import CELL
from mesotomo_utils.twin.matching import RigidMotion, match_dots

# A dot counts as whole when at least this fraction of it lies inside the needle.
WHOLE = 0.9
POSITION = ["x_nm", "y_nm", "z_nm"]
QUATERNION = ["qw", "qx", "qy", "qz"]


def _quantiles(values: np.ndarray) -> dict[str, float]:
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if not len(values):
        return {"n": 0, "median": np.nan, "p95": np.nan, "rms": np.nan}
    return {
        "n": len(values),
        "median": float(np.median(values)),
        "p95": float(np.quantile(values, 0.95)),
        "rms": float(np.sqrt(np.mean(values**2))),
    }


def _scale_error(measured: np.ndarray, true: np.ndarray) -> float:
    """Relative error of the scale: ratio of the spreads about the centre of mass, less one."""
    if len(true) < 2:
        return np.nan
    spread = [np.linalg.norm(points - points.mean(axis=0)) for points in (measured, true)]
    return float(abs(spread[0] / spread[1] - 1.0))


def compare_dots(
    measured: pd.DataFrame, truth: pd.DataFrame, *, radius_nm: float
) -> tuple[dict[str, Any], pd.DataFrame, RigidMotion]:
    """Recall, spurious picks, position and orientation errors of the dots.

    Parameters
    ----------
    measured
        ``qds.csv`` of a run (quaternions and indices optional).
    truth
        ``truth/dots.csv``: positions, indices, quaternions, ``fraction_inside``.
    radius_nm
        Matching radius, nm.

    Returns
    -------
    Summary, the matched table (a row per pair: ``qd, qd_true``, errors), and the rigid motion.
    Dots less than 90 % inside the needle are *cut*: a pick on one that is flagged ``at_edge`` is
    neither missed nor spurious, one that is not flagged is spurious.
    """
    rows, cols, motion = match_dots(measured[POSITION].to_numpy(), truth[POSITION].to_numpy(), radius_nm=radius_nm)
    inside = truth["fraction_inside"].to_numpy() >= WHOLE
    flagged = measured["at_edge"].to_numpy(dtype=bool) if "at_edge" in measured else np.zeros(len(measured), bool)
    matched_true = np.zeros(len(truth), bool)
    matched_true[cols] = True
    on_cut = np.zeros(len(measured), bool)
    on_cut[rows] = ~inside[cols]
    paired = np.zeros(len(measured), bool)
    paired[rows] = True
    spurious = ~flagged & (~paired | on_cut)

    error = motion(measured[POSITION].to_numpy()[rows]) - truth[POSITION].to_numpy()[cols]
    table = pd.DataFrame(
        {
            "qd": measured["qd"].to_numpy()[rows],
            "qd_true": truth["qd"].to_numpy()[cols],
            "layer_true": truth["layer"].to_numpy()[cols],
            "whole": inside[cols],
            "error_x_nm": error[:, 0],
            "error_y_nm": error[:, 1],
            "error_z_nm": error[:, 2],
            "error_nm": np.linalg.norm(error, axis=1),
        }
    )
    for axis in "xyz":
        if f"sigma_{axis}_nm" in measured:
            table[f"sigma_{axis}_nm"] = measured[f"sigma_{axis}_nm"].to_numpy(float)[rows]
    whole = table["whole"].to_numpy()
    summary: dict[str, Any] = {
        "dots_true": int(inside.sum()),
        "dots_cut": int((~inside).sum()),
        "dots_measured": len(measured),
        "missed": int((inside & ~matched_true).sum()),
        "missed_fraction": float((inside & ~matched_true).sum() / max(inside.sum(), 1)),
        "spurious": int(spurious.sum()),
        "unmatched": int((~paired).sum()),
        "whole_flagged_at_edge": int((flagged & paired & ~on_cut).sum()),
        "rigid_rotation_deg": motion.angle_deg,
        "rigid_shift_nm": float(np.linalg.norm(motion.shift_nm)),
        "centre_error_nm": _quantiles(table["error_nm"][whole]),
        "layer_bias_nm": float(
            table[whole].groupby("layer_true")[["error_x_nm", "error_y_nm", "error_z_nm"]].mean().abs().max().max()
        ),
        "scale_error": _scale_error(
            measured[POSITION].to_numpy()[rows[whole]], truth[POSITION].to_numpy()[cols[whole]]
        ),
    }
    summary["centre_within_sigma"] = within_sigma(table[whole])
    summary |= _compare_indices(measured, truth, rows, cols)
    if set(QUATERNION) <= set(measured) and np.isfinite(measured["qw"]).any():
        summary |= _compare_orientations(measured, truth, rows, cols, table)
    return summary, table, motion


def within_sigma(dots: pd.DataFrame) -> list[float]:
    """Part of the errors of some centres that is at most their σ, along x, y and z.

    Parameters
    ----------
    dots
        Rows of the table of :func:`compare_dots`.

    Returns
    -------
    A number an axis; none for an axis without σ.
    """
    return [
        float((dots[f"error_{axis}_nm"].abs() <= dots[f"sigma_{axis}_nm"]).mean())
        for axis in "xyz"
        if f"sigma_{axis}_nm" in dots and np.isfinite(dots[f"sigma_{axis}_nm"]).any()
    ]


def _compare_indices(
    measured: pd.DataFrame, truth: pd.DataFrame, rows: np.ndarray, cols: np.ndarray
) -> dict[str, float]:
    """Fraction of dots whose index is right up to the one origin that all share."""
    if not set("ijk") <= set(measured):
        return {}
    found = measured[list("ijk")].to_numpy(float)[rows]
    offset = found - truth[list("ijk")].to_numpy(float)[cols]
    good = np.isfinite(offset).all(axis=1)
    if not good.any():
        return {"index_right_fraction": 0.0, "layer_right_fraction": 0.0}
    origins, counts = np.unique(np.round(offset[good]).astype(int), axis=0, return_counts=True)
    layer = measured["layer"].to_numpy(float)[rows] == truth["layer"].to_numpy(float)[cols]
    return {
        "index_right_fraction": float(counts.max() / len(rows)),
        "index_origin": [int(v) for v in origins[np.argmax(counts)]],
        "layer_right_fraction": float(layer.mean()),
    }


def _compare_orientations(
    measured: pd.DataFrame,
    truth: pd.DataFrame,
    rows: np.ndarray,
    cols: np.ndarray,
    table: pd.DataFrame,
) -> dict[str, Any]:
    """Errors of the orientations, and of the choice among the 24 equivalents; adds to the table.

    A turn about the tilt axis that all lattices share is no error of a dot: no series can tell it. It is taken from
    the lattices, since a missing wedge shears the centres (by a degree at ±70°) and not them.
    """
    R = lattice.from_quaternions(measured[QUATERNION].to_numpy(float)[rows])
    R_true = lattice.from_quaternions(truth[QUATERNION].to_numpy(float)[cols])
    seen = np.isfinite(R).all(axis=(1, 2))
    nearest = R[seen, None] @ lattice.cubic_rotations()
    best = np.argmax(np.einsum("neij,nij->ne", nearest, R_true[seen]), axis=1)
    turns = lattice.rotation_vectors(nearest[np.arange(len(best)), best] @ np.swapaxes(R_true[seen], -1, -2))
    about_axis = float(np.median(turns[:, 2])) if len(turns) else 0.0
    R = lattice.from_rotation_vectors(np.array([0.0, 0.0, -about_axis])) @ R
    error, plain = np.full((2, len(rows)), np.nan)
    error[seen] = lattice.disorientation_deg(R[seen], R_true[seen])
    plain[seen] = lattice.rotation_angle_deg(np.swapaxes(R_true[seen], -1, -2) @ R[seen])
    table["orientation_error_deg"] = error
    whole = table["whole"].to_numpy()
    sigma = measured["sigma_deg"].to_numpy(float)[rows] if "sigma_deg" in measured else None
    if sigma is not None:
        table["sigma_deg"] = sigma
    both = whole & seen
    summary = {
        "orientation_error_deg": _quantiles(error[whole]),
        "turn_about_axis_deg": float(np.rad2deg(about_axis)),
        "oriented_fraction": float(seen[whole].mean()) if whole.any() else np.nan,
        "equivalent_right_fraction": float(np.mean(plain[both] < error[both] + 1e-6)) if both.any() else np.nan,
    }
    if sigma is not None and np.isfinite(sigma[both]).any():
        summary["orientation_error_over_sigma"] = float(np.nanmedian(error[both] / sigma[both]))
    return summary


def compare_necks(
    measured: pd.DataFrame,
    truth: pd.DataFrame,
    dots: pd.DataFrame,
    table: pd.DataFrame,
) -> dict[str, Any]:
    """Connectivity and diameters over the neighbour pairs of whole dots that both tables hold.

    Parameters
    ----------
    measured, truth
        ``necks.csv`` of the run and of the truth: ``qd_1, qd_2, axis, diameter_nm`` (0: no neck); of the
        run also ``sigma_nm``.
    dots
        True dots, whose ``fraction_inside`` says which pairs are whole.
    table
        The matched table of :func:`compare_dots`.
    """
    if measured.empty or measured["diameter_nm"].isna().all():
        return {}
    if "sigma_nm" not in measured:
        measured = measured.assign(sigma_nm=np.nan)
    to_true = dict(zip(table["qd"], table["qd_true"], strict=True))
    whole = set(dots.loc[dots["fraction_inside"] >= WHOLE, "qd"])
    pairs = {
        frozenset((row.qd_1, row.qd_2)): row.diameter_nm
        for row in truth.itertuples()
        if row.qd_1 in whole and row.qd_2 in whole
    }
    found = {
        frozenset((to_true.get(row.qd_1, -1), to_true.get(row.qd_2, -2))): (row.diameter_nm, row.sigma_nm)
        for row in measured.itertuples()
    }
    there = [pair for pair in pairs if pair in found]
    common = [pair for pair in there if np.isfinite(found[pair][0])]
    d_true = np.array([pairs[pair] for pair in common])
    d, sigma = np.array([found[pair] for pair in common]).reshape(-1, 2).T
    if not len(common):
        return {"neck_pairs_compared": 0}
    both = (d > 0) & (d_true > 0)
    error, sigma = d[both] - d_true[both], sigma[both]
    told = np.isfinite(sigma)
    return {
        "neck_pairs_compared": len(common),
        "neck_pairs_missed_fraction": 1.0 - len(there) / max(len(pairs), 1),
        "neck_pairs_untold_fraction": 1.0 - len(common) / len(there),
        "connectivity_true": float((d_true > 0).mean()),
        "connectivity_measured": float((d > 0).mean()),
        "connectivity_error": float(abs((d > 0).mean() - (d_true > 0).mean())),
        "neck_false_fraction": float(((d > 0) & (d_true == 0)).sum() / max((d > 0).sum(), 1)),
        "neck_missed_fraction": float(((d == 0) & (d_true > 0)).sum() / max((d_true > 0).sum(), 1)),
        "neck_diameter_bias_nm": float(error.mean()) if len(error) else np.nan,
        "neck_diameter_rms_nm": float(np.sqrt(np.mean(error**2))) if len(error) else np.nan,
        "neck_error_within_sigma": float((np.abs(error) <= sigma)[told].mean()) if told.any() else np.nan,
    }


def sample_cell(dots: pd.DataFrame) -> dict[str, float]:
    """Unit cell of the sample as made: least squares of whole true dots on their true indices."""
    whole = dots[dots["fraction_inside"] >= WHOLE]
    index = np.column_stack([whole[list("ijk")].to_numpy(float), np.ones(len(whole))])
    vectors, *_ = np.linalg.lstsq(index, whole[POSITION].to_numpy(float), rcond=None)
    return lattice.cell_parameters(vectors[:3].T)


def compare_cell(measured: dict[str, Any], dots: pd.DataFrame) -> dict[str, Any]:
    """Unit cell of the largest grain of ``superlattice.json`` against the sample's own."""
    if not measured.get("grains"):
        return {}
    grain = max(measured["grains"], key=lambda g: g["n_dots"])
    true = sample_cell(dots)
    error = {name: float(grain[name]["value"] - true[name]) for name in CELL}
    return {
        "cell_true": true,
        "cell_error": error,
        "cell_length_error_nm": max(abs(error[n]) for n in CELL[:3]),
        "cell_angle_error_deg": max(abs(error[n]) for n in CELL[3:]),
    }


def compare_alignment(
    measured: pd.DataFrame,
    truth: pd.DataFrame,
    *,
    axis_tilt_deg: tuple[float, float] | None = None,
    axis_offset_nm: tuple[float, float] = (0.0, 0.0),
    pixel_nm: float | None = None,
) -> dict[str, float]:
    """Residual shifts and angles once the motion that no series can tell is removed.

    A rigid motion of the object moves ``shift_z`` by a constant and ``shift_u`` by
    ``c + p cos(angle) + q sin(angle)`` (the constant c is the axis offset, which only the absolute
    position of the axis in the field tells apart); a turn about z is a constant of all angles. Axis
    tilt and offset come as pairs, measured and true. Given the pixel, shifts are told in pixels too.
    """
    both = measured[measured["used"].astype(bool)].merge(truth, on="tilt", suffixes=("", "_true"))
    angle = np.deg2rad(both["angle_deg_true"].to_numpy())
    design = np.column_stack([np.ones_like(angle), np.cos(angle), np.sin(angle)])
    du = (both["shift_u_nm"] - both["shift_u_nm_true"]).to_numpy()
    dz = (both["shift_z_nm"] - both["shift_z_nm_true"]).to_numpy()
    da = (both["angle_deg"] - both["angle_deg_true"]).to_numpy()
    coefficients, *_ = np.linalg.lstsq(design, du, rcond=None)
    summary = {
        "shift_u_rms_nm": float(np.sqrt(np.mean((du - design @ coefficients) ** 2))),
        "shift_z_rms_nm": float(np.std(dz)),
        "angle_rms_deg": float(np.std(da)),
        "axis_offset_error_nm": float(coefficients[0] + axis_offset_nm[0] - axis_offset_nm[1]),
        "images_left_out": int(len(measured) - len(both)),
    }
    if pixel_nm is not None:
        summary |= {f"shift_{axis}_rms_px": summary[f"shift_{axis}_rms_nm"] / pixel_nm for axis in "uz"}
    if axis_tilt_deg is not None:
        summary["axis_tilt_error_deg"] = float(axis_tilt_deg[0] - axis_tilt_deg[1])
    return summary


def true_distortion(conditions: dict[str, float]) -> dict[str, float]:
    """Distortion that an aligned series cannot be rid of, in the words of the results.

    Parameters
    ----------
    conditions
        ``image_stretch_z, image_stretch_u`` (relative) and ``specimen_shear_deg`` of the microscope; 0 where left out.
        A shear that all images have in common is an axis offset that changes along z: it distorts no tomogram
        whose alignment follows it, and does not count.

    Returns
    -------
    dict
        ``distortion_mean_scale``, ``distortion_scale_x`` … (relative to it), ``distortion_shear_xy_deg`` …: lengths
        of the images of the axes and the angles between them, from M Mᵀ.
    """
    z, u = (1.0 + conditions.get(f"image_stretch_{axis}", 0.0) for axis in "zu")
    lean = np.tan(np.deg2rad(conditions.get("specimen_shear_deg", 0.0)))
    M = np.diag([u, u, z]) @ [[1.0, 0.0, lean], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    square = M @ M.T
    mean, length = np.linalg.det(M) ** (1 / 3), np.sqrt(np.diag(square))
    found = {"distortion_mean_scale": float(mean)}
    found |= {f"distortion_scale_{a}": float(length[i] / mean) for i, a in enumerate("xyz")}
    for i, j in ((0, 1), (0, 2), (1, 2)):
        angle = np.rad2deg(np.arcsin(square[i, j] / (length[i] * length[j])))
        found[f"distortion_shear_{'xyz'[i]}{'xyz'[j]}_deg"] = float(angle)
    return found
