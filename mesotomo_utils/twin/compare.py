"""Measured against truth: the only place where a run of a twin meets what it was made of.

Used by notebook 08, ``mesotomo check`` and the tests; by nothing that measures. How each error is
defined stands in :mod:`mesotomo_utils.twin.errors`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.twin import error_slopes, errors
from mesotomo_utils.twin.imposed import TwinParameters

# Bounds that every imaged twin must keep, whatever its seed.
BOUNDS: dict[str, tuple[float, str]] = {
    "missed_fraction": (0.02, "dots missed, fraction"),
    "spurious": (0, "spurious dots"),
    "centre_error_median_nm": (0.3, "median error of the centres, nm"),
    "orientation_error_median_deg": (1.0, "median error of the orientations, degrees"),
    "scale_error": (0.005, "error of the scale, fraction"),
    "connectivity_error": (0.03, "error of the connectivity"),
    "cell_length_error_nm": (0.1, "largest error of a, b, c, nm"),
    "cell_angle_error_deg": (1.0, "largest error of alpha, beta, gamma, degrees"),
    "layer_wrong_fraction": (0.02, "dots given the wrong layer, fraction"),
    "equivalent_wrong_fraction": (0.02, "dots given the wrong cubic equivalent, fraction"),
}
# What is asked where the tilts go all the way round and nothing of the imaging is worse than by default. Alignment does
# not depend on the number of dots: twins of 40 have 0.02 pixels and 0.03° to 0.04° as well.
TARGETS: dict[str, tuple[float, str]] = {
    "missed_fraction": (0.005, BOUNDS["missed_fraction"][1]),
    "centre_error_median_nm": (0.10, BOUNDS["centre_error_median_nm"][1]),
    "orientation_error_median_deg": (0.2, BOUNDS["orientation_error_median_deg"][1]),
    "orientation_error_p95_deg": (0.5, "95 % of the orientations' errors, degrees"),
    "neck_diameter_bias_nm": (0.1, "mean error of the necks' diameters, nm"),
    "neck_diameter_rms_nm": (0.4, "rms error of the necks' diameters, nm"),
    "shift_z_rms_px": (0.15, "rms error of the images' shifts along the axis, pixels"),
    "shift_u_rms_px": (0.15, "rms error of the images' shifts across the axis, pixels"),
    "axis_tilt_error_deg": (0.02, "error of the tilt of the axis, degrees"),
    "angle_rms_deg": (0.05, "rms error of the tilt angles, degrees"),
}
# What is asked of many dots only. Of the forty of `tiny` the two worst centres are 5 %, one neck too few or too many is
# 1.5 % of the necks, one dot 0.3 nm off moves its layer by 0.03 nm, the median of error over σ scatters by 0.08, and
# the dots that the needle's surface cuts, which bear on the measured cell and not on the true one, are as many.
TARGETS_OF_MANY: dict[str, tuple[float, str]] = {
    "centre_error_p95_nm": (0.25, "95 % of the centres' errors, nm"),
    "layer_bias_nm": (0.03, "largest mean error of a layer along an axis, nm"),
    "orientation_sigma_off": (0.15, "median error over σ of the orientations, from 0.90"),
    "connectivity_error": (0.01, BOUNDS["connectivity_error"][1]),
    "cell_length_error_nm": (0.02, BOUNDS["cell_length_error_nm"][1]),
    "cell_angle_error_deg": (0.2, BOUNDS["cell_angle_error_deg"][1]),
    "neck_false_fraction": (0.02, "necks where there are none, fraction of those found"),
    "neck_missed_fraction": (0.02, "necks not found, fraction"),
}
MANY = 500
COARSEST = {"pixel_nm": 0.1, "tilt_step_deg": 2.0}
HARDER = (
    *("probe_fwhm_nm", "blur_nm", "thermal_pb_nm", "thermal_se_nm", "carbon_shell_nm", "carbon_atoms_per_nm3"),
    *("carbon_grain_fraction", "background", "jitter_px", "drift_px", "axis_offset_px", "axis_tilt_deg"),
    *("angle_error_deg", "image_shear_deg", "image_stretch_z", "image_stretch_u", "specimen_shear_deg"),
)


def bounds_for(imaging: dict[str, Any], dots: int) -> dict[str, tuple[float, str]]:
    """The bounds a twin is held to: :data:`BOUNDS`, tightened and added to where the targets can be asked for.

    Parameters
    ----------
    imaging
        How the twin was imaged (``truth/parameters.json``); empty for a table.
    dots
        Number of whole dots.

    Returns
    -------
    dict
        Largest value allowed, and what it is of, by name. With a wedge of tilts missing, fewer electrons, coarser
        pixels or tilts, or anything of the microscope or the sample worse than by default, :data:`BOUNDS` alone;
        :data:`TARGETS_OF_MANY` from :data:`MANY` dots on.
    """
    default = {name: field.default for name, field in TwinParameters.model_fields.items()}
    as_good = (
        bool(imaging)
        and all(abs(imaging.get(name, default[name])) <= abs(default[name]) for name in HARDER)
        and all(imaging.get(name, default[name]) <= coarsest for name, coarsest in COARSEST.items())
        and imaging.get("dose_electrons", 0.0) >= default["dose_electrons"]
        and imaging.get("n_tilts", 0) * imaging.get("tilt_step_deg", 0.0) >= 179.0
    )
    if not as_good:
        return BOUNDS
    return BOUNDS | TARGETS | (TARGETS_OF_MANY if dots >= MANY else {})


AXIS = ("axis_tilt_deg", "axis_offset_nm")


def bounded_values(comparison: dict[str, Any]) -> dict[str, float]:
    """Values that :func:`bounds_for` speaks of, from a comparison; stages not run are absent."""
    dots, necks, cell, aligned = (comparison.get(key, {}) for key in ("dots", "necks", "cell", "alignment"))
    values = {key: dots.get(key) for key in ("missed_fraction", "spurious", "scale_error", "layer_bias_nm")}
    for part in ("median", "p95"):
        values[f"centre_error_{part}_nm"] = dots.get("centre_error_nm", {}).get(part)
        values[f"orientation_error_{part}_deg"] = dots.get("orientation_error_deg", {}).get(part)
    for key in ("layer", "equivalent"):
        if dots.get(f"{key}_right_fraction") is not None:
            values[f"{key}_wrong_fraction"] = 1.0 - dots[f"{key}_right_fraction"]
    if dots.get("orientation_error_over_sigma") is not None:
        values["orientation_sigma_off"] = abs(dots["orientation_error_over_sigma"] - 0.90)
    for key in ("connectivity_error", "neck_diameter_rms_nm", "neck_false_fraction", "neck_missed_fraction"):
        values[key] = necks.get(key)
    if necks.get("neck_diameter_bias_nm") is not None:
        values["neck_diameter_bias_nm"] = abs(necks["neck_diameter_bias_nm"])
    for key in ("cell_length_error_nm", "cell_angle_error_deg"):
        values[key] = cell.get(key)
    for key in ("shift_z_rms_px", "shift_u_rms_px", "angle_rms_deg"):
        values[key] = aligned.get(key)
    if aligned.get("axis_tilt_error_deg") is not None:
        values["axis_tilt_error_deg"] = abs(aligned["axis_tilt_error_deg"])
    return {key: value for key, value in values.items() if value is not None}


def compare_tables(truth_dir: Path, tables: dict[str, Any]) -> tuple[dict[str, Any], pd.DataFrame]:
    """Compare what a run measured with a ``truth/`` folder.

    Parameters
    ----------
    truth_dir
        Folder with ``dots.csv, necks.csv`` and, for an imaged twin, ``alignment.csv`` and
        ``parameters.json``.
    tables
        ``qds`` (DataFrame) and, where the run has them, ``necks`` and ``alignment`` (DataFrames),
        ``superlattice`` (dict), ``axis_tilt_deg`` and ``axis_offset_nm`` (floats).

    Returns
    -------
    The comparison (dict of summaries: ``dots, necks, cell, alignment``) and the matched dots.
    """
    dots = pd.read_csv(truth_dir / "dots.csv")
    qds = tables["qds"]
    spacing = min(lattice.cell_parameters(_true_vectors(truth_dir))[name] for name in errors.CELL[:3])
    imaging = _imaging(truth_dir)
    necks = pd.read_csv(truth_dir / "necks.csv")
    summary, table, motion = errors.compare_dots(qds, dots, radius_nm=0.4 * spacing)
    summary["neck_pull_nm_per_nm"] = error_slopes.neck_slopes(table, dots, necks)
    if imaging.get("image_shape"):
        rows, columns = imaging["image_shape"]
        grid = {"voxel_nm": imaging["pixel_nm"], "shape": (rows, columns, columns)}
        summary["phase_slope_nm_per_voxel"] = error_slopes.phase_slopes(table, dots, motion, **grid)
    comparison: dict[str, Any] = {"dots": summary}
    if tables.get("necks") is not None:
        comparison["necks"] = errors.compare_necks(tables["necks"], necks, dots, table)
    if tables.get("superlattice") is not None:
        comparison["cell"] = errors.compare_cell(tables["superlattice"], dots)
    if tables.get("alignment") is not None and (truth_dir / "alignment.csv").exists():
        true = json.loads((truth_dir / "parameters.json").read_text())
        axis = {name: (tables[name], true[name]) for name in AXIS if tables.get(name) is not None}
        comparison["alignment"] = errors.compare_alignment(
            tables["alignment"], pd.read_csv(truth_dir / "alignment.csv"), pixel_nm=true["pixel_nm"], **axis
        )
    bounds = bounds_for(imaging, summary["dots_true"])
    comparison["bounds"] = {
        key: {
            "value": value,
            "bound": bounds[key][0],
            "holds": bool(value <= bounds[key][0]),
            "what": bounds[key][1],
        }
        for key, value in bounded_values(comparison).items()
        if key in bounds
    }
    return comparison, table


def _true_vectors(truth_dir: Path) -> np.ndarray:
    cell = json.loads((truth_dir / "superlattice.json").read_text())
    grain = cell["grains"][0] if "grains" in cell else cell
    return np.column_stack([grain[axis] for axis in "ABC"])


@dataclass(frozen=True)
class Check:
    """One line of ``mesotomo check``: what was looked at, whether it holds, and the figures."""

    name: str
    ok: bool
    message: str


def run_tables(run_dir: Path) -> dict[str, Any]:
    """Read what a run measured for :func:`compare_tables`; stages that did not run are None."""

    def table(name: str) -> pd.DataFrame | None:
        return pd.read_csv(run_dir / name) if (run_dir / name).exists() else None

    cell = run_dir / "superlattice.json"
    return {
        "qds": table("qds.csv"),
        "necks": table("necks.csv"),
        "alignment": table("alignment.csv"),
        "superlattice": json.loads(cell.read_text()) if cell.exists() else None,
    } | {name: _result(run_dir, name) for name in AXIS}


def _results(run_dir: Path) -> list[dict[str, Any]]:
    path = run_dir / "results.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; `mesotomo run SAMPLE --out {run_dir}` makes it")
    return json.loads(path.read_text())


def _result(run_dir: Path, name: str) -> Any:
    if not (run_dir / "results.json").exists():
        return None
    rows = [row for row in _results(run_dir) if row["name"] == name and row["index"] is None]
    return rows[0]["value"] if rows else None


def compare_run(run_dir: str | Path) -> dict[str, Any]:
    """Compare a run of a twin with its own ``truth/`` folder.

    Parameters
    ----------
    run_dir
        Run folder with ``truth/`` and ``qds.csv``.

    Returns
    -------
    Summaries ``dots, necks, cell, alignment`` as far as the run went, and ``bounds`` of :func:`bounds_for`.

    Raises
    ------
    FileNotFoundError
        The folder holds no truth (a real sample), or no dots yet.
    """
    run_dir = Path(run_dir)
    for name, mend in (("truth/dots.csv", "only twins have one"), ("qds.csv", "run step 02 first")):
        if not (run_dir / name).exists():
            raise FileNotFoundError(f"{run_dir / name} is missing: {mend}")
    return compare_tables(run_dir / "truth", run_tables(run_dir))[0]


def compare_if_twin(run_dir: str | Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """Comparison and matched dots of a run; both empty for a real sample or before step 02."""
    run_dir = Path(run_dir)
    if not ((run_dir / "truth/dots.csv").exists() and (run_dir / "qds.csv").exists()):
        return {}, pd.DataFrame()
    return compare_tables(run_dir / "truth", run_tables(run_dir))


# Names in ``truth/order.csv`` and in ``results.json`` of the same quantity.
TRUE_NAMES = {
    "whole_dots": "qd_count",
    "point_defects": "point_defect_fraction",
    "neck_fraction": "connectivity",
    "neck_mean": "neck_diameter_mean_nm",
    "neck_sd": "neck_diameter_sd_nm",
    "planarity_fwhm": "planarity_fwhm_nm",
    "sl_spread_in_plane": "sl_spread_in_plane_deg",
    "sl_spread_out_of_plane": "sl_spread_out_of_plane_deg",
    "al_spread_in_plane": "al_spread_in_plane_deg",
    "al_spread_out_of_plane": "al_spread_out_of_plane_deg",
    "explained_variance": "nn_axis_variance",
    "mean_misorientation": "mono_misorientation_mean_deg",
}
DISTORTIONS = ("image_stretch_z", "image_stretch_u", "image_shear_deg", "specimen_shear_deg")
CONDITIONS = (
    *("jitter_px", "drift_px", "axis_offset_px", "axis_tilt_deg", "angle_error_deg"),
    *("film_tilt_deg", "dose_electrons", "pixel_nm", "n_tilts", "seed"),
    *DISTORTIONS,
)


def true_statements(run_dir: str | Path) -> dict[tuple[str, str | None], dict[str, float]]:
    """What is true of the sample as made, by the ``(name, index)`` of the results.

    The values come from the twin's own account of what it made (``truth/order.csv``), the cell from
    a fit to the true centres, the distortion from how it was imaged: an interval of this run is meant
    to hold these, not the parameters of the generator.
    """
    truth = Path(run_dir) / "truth"
    found: dict[tuple[str, str | None], dict[str, float]] = {}
    if (truth / "order.csv").exists():
        for row in pd.read_csv(truth / "order.csv").rename(columns={"index": "index_"}).itertuples(index=False):
            index = None if pd.isna(row.index_) else str(row.index_)
            name = TRUE_NAMES.get(row.name, row.name)
            made = row.made
            if row.name == "roll":  # a roll has a sense, the tilt of a layer has none
                name, index, made = f"layer_tilt_{str(index).lower().replace('-', '_')}_deg", None, abs(made)
            if np.isfinite(made):
                found[name, index] = {"value": float(made)}
    dots = pd.read_csv(truth / "dots.csv")
    found |= {(name, None): {"value": v} for name, v in errors.sample_cell(dots).items()}
    found["layer_count", None] = {"value": int(dots["layer"].max()), "exact": True}
    if parameters := _imaging(truth):
        found |= {(name, None): {"value": v} for name, v in errors.true_distortion(parameters).items()}
        told = {"axis_tilt_deg": parameters.get("axis_tilt_deg")}
        if not any(parameters.get(name) for name in DISTORTIONS):  # else a lattice is stretched as it is turned
            told |= {f"atomic_lattice_{axis}_nm": parameters.get("lattice_nm") for axis in "abc"}
        found |= {(name, None): {"value": float(value)} for name, value in told.items() if value is not None}
    return found


def imaging_conditions(run_dir: str | Path) -> dict[str, float]:
    """How a twin was imaged (``truth/parameters.json``); empty for a real sample or a table."""
    parameters = _imaging(Path(run_dir) / "truth")
    return {name: parameters[name] for name in CONDITIONS if name in parameters}


def _imaging(truth_dir: Path) -> dict[str, Any]:
    path = truth_dir / "parameters.json"
    parameters = json.loads(path.read_text()) if path.exists() else {}
    return parameters if parameters.get("level") == "images" else {}


def record_values(run_dir: str | Path, path: str | Path) -> None:
    """Write the results of a run as the recorded values, each with the tolerance it is held to.

    Counts, whole numbers without unit and standard error, are exact. Everything else may move by a
    quarter of its own standard error, or by 2 % where it has none: library versions change last
    digits and, rarely, one dot's neck. Errors against the truth (``twin_…``) are not recorded: they have bounds.
    """
    recorded = {}
    for row in _results(Path(run_dir)):
        value = row["value"]
        if not isinstance(value, int | float) or isinstance(value, bool) or row["name"].startswith("twin_"):
            continue
        sigma = row.get("sigma")
        if float(value).is_integer() and row["unit"] in ("", None) and not sigma:
            tolerance = 0.0
        else:
            tolerance = 0.25 * sigma if sigma else 0.02 * abs(value)
        recorded[_key(row)] = {"value": value, "tolerance": float(f"{tolerance:.3g}")}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(recorded, indent=1) + "\n")


def _key(row: dict[str, Any]) -> str:
    return row["name"] if row["index"] is None else f"{row['name']}[{row['index']}]"


def check_run(run_dir: str | Path, recorded: str | Path | None = None) -> list[Check]:
    """Check a run: its truth within the bounds first, then the recorded values.

    Parameters
    ----------
    run_dir
        Run folder.
    recorded
        JSON of :func:`record_values`; None or a missing file checks the bounds only.

    Returns
    -------
    A :class:`Check` per bound and per recorded value.

    Raises
    ------
    FileNotFoundError
        The folder holds no ``results.json``.
    """
    run_dir = Path(run_dir)
    rows = {_key(row): row for row in _results(run_dir)}
    checks = []
    if (run_dir / "truth" / "dots.csv").exists():
        comparison = compare_run(run_dir)
        for name, bound in comparison["bounds"].items():
            checks.append(
                Check(
                    name,
                    bound["holds"],
                    f"{bound['what']}: {bound['value']:.4g} (at most {bound['bound']:g})",
                )
            )
    if recorded is not None and Path(recorded).exists():
        for key, kept in json.loads(Path(recorded).read_text()).items():
            value = rows.get(key, {}).get("value")
            ok = isinstance(value, int | float) and abs(value - kept["value"]) <= kept["tolerance"]
            checks.append(
                Check(
                    key,
                    ok,
                    f"{value} (recorded {kept['value']:.6g} within {kept['tolerance']:.2g})",
                )
            )
    return checks
