"""How well twins are aligned blindly: shifts, axis tilt and angles, under worse and worse conditions.

Prints a table in Markdown. Errors are root mean squares over the images after the rigid motion that no series can tell.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from mesotomo_utils.tomography.alignment import align_series
from mesotomo_utils.twin import atoms, microscope, structure
from mesotomo_utils.twin.errors import compare_alignment
from mesotomo_utils.workflow.sample import find_sample, load_sample

CONDITIONS = {
    "default": {},
    "axis 8 px off, tilted by 1°": {"axis_offset_px": 8.0, "axis_tilt_deg": 1.0},
    "the same, a quarter of the dose": {"axis_offset_px": 8.0, "axis_tilt_deg": 1.0, "dose_electrons": 100.0},
}
SEEDS = {"small": 101, "paper": 102}


def aligned(sample: str, changes: dict[str, float]) -> tuple[float, dict[str, float]]:
    """Seconds of an alignment of a sample with changed conditions, and its errors in pixels and degrees."""
    given = load_sample(find_sample(sample))
    imposed = structure.twin_parameters(
        {**given.twin, "film_bottom": given.film_bottom, "seed": SEEDS[sample], **changes}
    )
    rng = np.random.default_rng(imposed.seed)
    built = structure.build_structure(imposed, rng)
    specimen = microscope.Specimen(*atoms.place_atoms(built), built.radius_nm)
    recording = microscope.record_series(specimen, imposed, rng, name=sample)
    begun = time.perf_counter()
    found = align_series(recording.series)
    seconds = time.perf_counter() - begun
    errors = compare_alignment(
        found.table, recording.alignment, axis_tilt_deg=(found.axis_tilt_deg, imposed.axis_tilt_deg)
    )
    pixel = recording.series.pixel_nm
    return seconds, {
        "z": errors["shift_z_rms_nm"] / pixel,
        "u": errors["shift_u_rms_nm"] / pixel,
        "axis": errors["axis_tilt_error_deg"],
        "angles": errors["angle_rms_deg"],
    }


def main() -> None:
    """Align every sample under every condition and print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("samples", nargs="+", choices=SEEDS)
    samples = parser.parse_args().samples
    print("| twin | conditions | z, u (px) | axis tilt (°) | angles (°) | seconds |\n|---|---|---|---|---|---|")
    for sample in samples:
        for name, changes in CONDITIONS.items():
            seconds, error = aligned(sample, changes)
            shifts = f"{error['z']:.3f}, {error['u']:.3f}"
            cells = [sample, name, shifts, f"{error['axis']:.4f}", f"{error['angles']:.3f}", f"{seconds:.0f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
