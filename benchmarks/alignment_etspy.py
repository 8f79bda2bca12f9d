"""Our alignment beside ETSpy's, on the needle that ETSpy ships and on a phantom of each.

ETSpy runs in an environment of its own, ``.venv-etspy``, made on the first run. Both programs' shifts are then put
through the same steps: moved by our ``apply_alignment`` from the recorded images, laid into one frame, cut to one
field, reconstructed and judged alike. ``--record`` stores the table in ``alignment_etspy.json``, which notebook 01
shows::

    python benchmarks/alignment_etspy.py --record
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from mesotomo_utils.tomography import alignment, leave_out, resolution
from mesotomo_utils.tomography.alignment import Alignment
from mesotomo_utils.tomography.alignment_geometry import image_matrix, move_images, place_on_images
from mesotomo_utils.tomography.projector import Projector
from mesotomo_utils.tomography.reconstruction import reconstruct, remove_background
from mesotomo_utils.tomography.tilt_series import TiltSeries, load_tilt_series
from mesotomo_utils.twin import atoms, microscope, structure
from mesotomo_utils.twin.errors import compare_alignment
from mesotomo_utils.workflow.peers import side_by_side
from mesotomo_utils.workflow.sample import find_sample, load_sample

ROOT = Path(__file__).resolve().parents[1]
THERE = ROOT / ".venv-etspy"
PEER = Path(__file__).with_name("peer_etspy")
STORED = Path(__file__).with_suffix(".json")

ONCE = [f"{first} > CoM 76" for first in ("PC", "StackReg", "COM", "COM-CL")]
ROUTES = [
    *ONCE,
    *(f"{route} > COM-CL > CoM 76" for route in ONCE),
    "COM-CL > CoM 76 > ProjMatch",
]
"""Each registration with ETSpy's tilt axis, once and refined. MaxImage in place of CoM did no better."""
FINALISTS = 2
MARGIN_ROWS, FIELD = 16, 120
"""Rows left out at both ends, into which images are moved from outside; width around the needle, pixels."""
NEEDLE_ROWS, PARTS = 184, 8
"""Of the rows that are left those that show the needle; parts of images or rows that say how sure a measure is."""
Score = tuple[float, list[float]]
"""A measure of all, and of each part."""


def environment() -> Path:
    """Python of ETSpy's environment, which is made where it is not there."""
    python = THERE / "bin" / "python"
    wanted = (PEER / "requirements.txt").read_text(encoding="utf-8")
    ready = THERE / ".ready"
    if not (ready.exists() and ready.read_text(encoding="utf-8") == wanted):
        uv = str(Path(sys.executable).with_name("uv"))
        commands = (
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(THERE)],
            [uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(PEER / "requirements.txt")],
        )
        for command in commands:
            subprocess.run(command, check=True, capture_output=True, text=True)
        ready.write_text(wanted, encoding="utf-8")
    return python


def etspy_alignments(
    series: TiltSeries, routes: list[str], folder: Path
) -> tuple[dict[str, Alignment], dict[str, str]]:
    """ETSpy's alignments of a series by each route, in our terms, and its versions."""
    # ETSpy's axis is horizontal, and its reader makes the least value zero
    images = series.images.transpose(0, 2, 1) - series.images.min()
    np.savez(folder / "in.npz", images=images, angles_deg=series.angles_deg)
    run_there("align", str(folder / "in.npz"), str(folder / "out.npz"), *routes)
    with np.load(folder / "out.npz") as out:
        versions = json.loads(str(out["versions"]))
        found = {
            route: in_our_terms(series, float(out[f"{route}|angle_deg"]), out[f"{route}|moved"])
            for route in routes
            if f"{route}|moved" in out
        }
    return found, versions


def run_there(*arguments: str) -> None:
    subprocess.run([str(environment()), str(PEER / "routes.py"), *arguments], check=True)


def in_our_terms(series: TiltSeries, angle_deg: float, moved: np.ndarray) -> Alignment:
    """ETSpy turns images about pixel n/2, then moves them by (y, x); we say where a feature was before that."""
    c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
    u, z = 0.5 + moved.T  # our centre is (n - 1)/2
    table = pd.DataFrame({"tilt": np.arange(len(series)), "angle_nominal_deg": series.angles_deg})
    table["angle_deg"] = series.angles_deg
    table["shift_z_nm"] = (0.5 - z * c - u * s) * series.pixel_nm
    table["shift_u_nm"] = (0.5 + z * s - u * c) * series.pixel_nm
    table["residual_nm"], table["used"] = np.nan, True
    return Alignment(table=table, axis_tilt_deg=angle_deg, axis_offset_nm=0.0, pixel_nm=series.pixel_nm)


def centred(series: TiltSeries, found: Alignment) -> tuple[Alignment, tuple[float, float]]:
    """The same alignment with the object moved onto the axis, to be cut out closely; and how far."""
    aligned = remove_background(alignment.apply_alignment(series, found))
    mass = np.maximum(aligned.images[:, MARGIN_ROWS:-MARGIN_ROWS], 0).sum(axis=1)
    centre = mass @ aligned.u_nm / mass.sum(axis=1)
    radians = np.deg2rad(aligned.angles_deg)
    x, y = np.linalg.lstsq(np.stack([np.cos(radians), np.sin(radians)], axis=1), centre, rcond=None)[0]
    return moved_by(found, x, y), (x, y)


def moved_by(found: Alignment, x_nm: float, y_nm: float, z_nm: float = 0.0) -> Alignment:
    """The same alignment of an object whose point (x, y, z) is to lie in the origin; fits all images as before."""
    table = found.table.copy()
    z, u = place_on_images((x_nm, y_nm, z_nm), table["angle_deg"], found.axis_tilt_deg, found.image_shear_deg)
    table["shift_z_nm"] += z
    table["shift_u_nm"] += u
    return replace(found, table=table)


def into_frame(found: Alignment, reference: Alignment) -> Alignment:
    """The same alignment with the object where the reference has it."""
    motion = alignment.rigid_motion_between(found, reference)
    return moved_by(found, -motion.x_nm, -motion.y_nm, -motion.z_nm)


def with_used(found: Alignment, used: np.ndarray) -> Alignment:
    return replace(found, table=found.table.assign(used=used))


def prepared(series: TiltSeries, found: Alignment) -> TiltSeries:
    """Moved images without background, cut to the common field."""
    aligned = remove_background(alignment.apply_alignment(series, found))
    first = (aligned.images.shape[2] - FIELD) // 2
    return replace(aligned, images=aligned.images[:, MARGIN_ROWS:-MARGIN_ROWS, first : first + FIELD])


def scored(judge: Callable[..., dict[str, float]], *whole: np.ndarray, until: int | None = None) -> dict[str, Score]:
    """What a judge says of the whole, and of each of its parts up to a row."""
    parts = zip(*(np.array_split(piece[:until], PARTS) for piece in whole), strict=True)
    of_parts = [judge(*part) for part in parts]
    return {name: (value, [part[name] for part in of_parts]) for name, value in judge(*whole).items()}


def left_out_scores(aligned: TiltSeries) -> dict[str, Score]:
    found = leave_out.left_out_images(aligned)
    return scored(rms_of_left_out, found[["shift_z_px", "shift_u_px", "residual"]].to_numpy())


def rms_of_left_out(found: np.ndarray) -> dict[str, float]:
    z, u, residual = np.sqrt(np.mean(found**2, axis=0))
    names = ["left_out_shift_px", "left_out_shift_z_px", "left_out_shift_u_px", "left_out_residual"]
    return dict(zip(names, map(float, (np.hypot(z, u), z, u, residual)), strict=True))


def misfit_score(aligned: TiltSeries) -> dict[str, Score]:
    return scored(lambda misfit: {"misfit": float(np.sqrt(np.mean(misfit**2)))}, leave_out.misfit(aligned))


def shell_scores(halves: list[TiltSeries], name: str) -> dict[str, Score]:
    """Area under the Fourier shell correlation up to the Nyquist frequency, and where it meets its thresholds."""
    pixel = halves[0].pixel_nm

    def judge(even: np.ndarray, odd: np.ndarray) -> dict[str, float]:
        curve = resolution.fourier_shell_correlation(even, odd, pixel)
        found = {f"{name}_area": float(np.trapezoid(curve["fsc"], curve["q_per_nm"]) / np.ptp(curve["q_per_nm"]))}
        for label, threshold in resolution.FSC_THRESHOLDS.items():
            found[f"{name}_{label}_nm"] = resolution.fsc_resolution(curve, threshold=threshold)["first_nm"]
        return found

    return scored(judge, *(reconstruct(half, device="cpu") for half in halves), until=NEEDLE_ROWS)


def recorded_needle() -> TiltSeries:
    given = load_sample(find_sample("needle"))
    return load_tilt_series(
        given.tilt_series,
        angles_path=given.tilt_angles,
        pixel_nm=given.pixel_nm,
        tilt_axis=given.tilt_axis,
        tilt_sign=given.tilt_sign,
    )


def needle(series: TiltSeries, recorded: Alignment, folder: Path) -> tuple[list[dict], dict[str, str]]:
    """Both programs on the needle: what is left out, what is left over, and how halves agree."""
    ours, to_axis = centred(series, recorded)
    used = ours.used
    masks = {which: alignment.half_mask(series.angles_deg, which) & used for which in ("even", "odd")}
    found, versions = etspy_alignments(series, ROUTES, folder)
    theirs = {route: into_frame(with_used(one, used), ours) for route, one in found.items()}
    scores = {"ours": left_out_scores(prepared(series, ours))}
    for route, one in theirs.items():
        scores[route] = left_out_scores(prepared(series, one))
        print(f"  {route:<44}{scores[route]['left_out_shift_px'][0]:.3f} px", flush=True)
    best = sorted(theirs, key=lambda route: scores[route]["left_out_shift_px"][0])[:FINALISTS]
    halves = {which: etspy_alignments(series.select(mask), best, folder)[0] for which, mask in masks.items()}
    for name in ("ours", *best):
        full = ours if name == "ours" else theirs[name]
        scores[name] |= misfit_score(prepared(series, full))
        scores[name] |= shell_scores([prepared(series, with_used(full, mask)) for mask in masks.values()], "fsc_shared")
        alone = []
        for which, mask in masks.items():
            if name == "ours":
                own = moved_by(alignment.align_half(series, which, recorded), *to_axis)
            else:
                own = into_frame(spread(halves[which][name], mask, full), full)
            alone.append(prepared(series, own))
        scores[name] |= shell_scores(alone, "fsc_separate")
    return rows_of("needle", scores), versions


def spread(half: Alignment, mask: np.ndarray, full: Alignment) -> Alignment:
    """The alignment of half the images as a table of all."""
    table = full.table.assign(used=mask)
    table.loc[mask, ["shift_z_nm", "shift_u_nm"]] = half.table[["shift_z_nm", "shift_u_nm"]].to_numpy()
    return replace(half, table=table)


def phantom(series: TiltSeries, truth: pd.DataFrame, routes: list[str], folder: Path, name: str) -> list[dict]:
    """Errors of both programs, rms in pixels, where the truth is known."""
    found = {"ours": alignment.align_series(series), **etspy_alignments(series, routes, folder)[0]}
    scores = {}
    for route, one in found.items():
        errors = compare_alignment(one.table, truth)
        scores[route] = {f"error_{axis}_px": (errors[f"shift_{axis}_rms_nm"] / series.pixel_nm, []) for axis in "zu"}
    return rows_of(name, scores)


def copy_of_needle(series: TiltSeries, found: Alignment, rng: np.random.Generator) -> tuple[TiltSeries, pd.DataFrame]:
    """The needle with motions that are known: 2 pixels rms in every image, tilts off by 0.1° rms.

    Its images are projections of a tomogram of the needle; with what these miss of the recorded images, as far as it
    changes slowly with the tilt (HAADF is not quite proportional to thickness, and a wedge is missing); and with new
    noise of the size and the spectrum of the rest. It lies where it does in ``found``: beside the axis an error of the
    tilt moves it, too, which no shift tells from its own.
    """
    aligned = remove_background(alignment.apply_alignment(series, found))
    volume = reconstruct(aligned, method="sirt", iterations=40, device="cpu")
    n_t, n_z, n_u = aligned.images.shape
    missed = aligned.images - pixel_sums(aligned.angles_deg, volume, series.pixel_nm)
    # of three even neighbours in tilt the middle one less the mean of the others has 1.5 times the variance of each
    noise = (missed[1:-1] - (missed[:-2] + missed[2:]) / 2)[[0, *range(n_t - 2), -1]] / np.sqrt(1.5)
    size = gaussian_filter(np.sqrt(gaussian_filter1d(noise**2, 4, axis=0)), (0, 3, 3))
    spectrum = np.sqrt(np.mean(np.abs(np.fft.rfft2(noise)) ** 2, axis=0))
    drawn = np.fft.irfft2(np.fft.rfft2(rng.normal(size=noise.shape)) * spectrum, s=(n_z, n_u))
    nominal = series.angles_deg[found.used]
    truth = pd.DataFrame({"tilt": np.arange(n_t), "angle_deg": nominal + rng.normal(0, 0.1, n_t)})
    moved = rng.normal(0, 2.0, (2, n_t))
    truth[["shift_z_nm", "shift_u_nm"]] = moved.T * series.pixel_nm
    images = pixel_sums(truth["angle_deg"].to_numpy(), volume, series.pixel_nm) + gaussian_filter1d(missed, 1.5, axis=0)
    images += (size * drawn / drawn.std()).astype(np.float32)
    turn = -found.axis_tilt_deg  # the inverse of what brings recorded images into place
    images = move_images(images, *(-image_matrix(turn) @ moved), turn)
    return replace(series, images=np.maximum(images, 0), angles_deg=nominal, name="copy of the needle"), truth


def pixel_sums(angles_deg: np.ndarray, volume: np.ndarray, pixel_nm: float) -> np.ndarray:
    """Projections of a tomogram in the units of the images that it was made from."""
    projector = Projector(angles_deg, volume.shape[2], device="cpu")
    return projector.forward(volume) * np.float32(pixel_nm)


def catalyst(folder: Path) -> tuple[TiltSeries, pd.DataFrame]:
    """ETSpy's phantom."""
    run_there("phantom", str(folder / "phantom.npz"), "1")
    with np.load(folder / "phantom.npz") as made:
        images, angles, shifts = made["images"].transpose(0, 2, 1), made["angles_deg"], made["shifts"]
    truth = pd.DataFrame({"tilt": np.arange(len(angles)), "angle_deg": angles})
    truth[["shift_u_nm", "shift_z_nm"]] = shifts
    return TiltSeries(images=images, angles_deg=angles, pixel_nm=1.0, name="catalyst"), truth


def twin() -> tuple[TiltSeries, pd.DataFrame]:
    """Ours: the twin of the tests, its axis turned and off the centre as by default, without its background."""
    given = load_sample(find_sample("tiny"))
    imposed = structure.twin_parameters({**given.twin, "film_bottom": given.film_bottom})
    rng = np.random.default_rng(imposed.seed)
    built = structure.build_structure(imposed, rng)
    specimen = microscope.Specimen(*atoms.place_atoms(built), built.radius_nm)
    recording = microscope.record_series(specimen, imposed, rng, name="tiny")
    return remove_background(recording.series), recording.alignment


def rows_of(series: str, scores: dict[str, dict[str, Score]]) -> list[dict]:
    def short(value: float) -> float:
        return float(f"{value:.6g}")

    return [
        {"series": series, "program": "mesotomo" if route == "ours" else "ETSpy", "route": route, "measure": measure}
        | {"value": short(value), "parts": [short(part) for part in parts]}
        for route, measures in scores.items()
        for measure, (value, parts) in measures.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help=f"store the table in {STORED.name}")
    arguments = parser.parse_args()
    try:
        environment()
    except (OSError, subprocess.CalledProcessError) as error:
        told = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
        print(f"ETSpy cannot be installed here and is left out: {told[-1] if told else error}")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        series = recorded_needle()
        ours = alignment.align_series(series)
        table, versions = needle(series, ours, folder)
        for copied, lies in {"copy of the needle": ours, "copy on the axis": centred(series, ours)[0]}.items():
            table += phantom(*copy_of_needle(series, lies, np.random.default_rng(1)), ROUTES, folder, copied)
        table += phantom(*catalyst(folder), ["COM-CL", "COM", "StackReg", "PC"], folder, "ETSpy's catalyst")
        table += phantom(*twin(), ROUTES, folder, "twin tiny")
    versions["mesotomo"] = importlib.metadata.version("mesotomo")
    print(", ".join(f"{package} {version}" for package, version in versions.items()))
    print(side_by_side(pd.DataFrame(table)).to_string(index=False))
    if arguments.record:
        stored = {"date": datetime.date.today().isoformat(), "versions": versions, "table": table}
        lines = ",\n  ".join(json.dumps(row) for row in table)
        head = json.dumps({key: stored[key] for key in ("date", "versions")}, indent=1)[:-2]
        STORED.write_text(f'{head},\n "table": [\n  {lines}\n ]\n}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
