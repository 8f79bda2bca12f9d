"""What the step of the tilts does to the heights of the lattice lines: the twin `tiny` without noise or carbon.

Prints a table in Markdown: power of each line against {200}, over the line and not at its top, of tomograms from ever
finer tilts, and as simulated for a crystal with the twin's probe. A minute on two cores.

    python benchmarks/lines_and_tilts.py
"""

from __future__ import annotations

import numpy as np

from mesotomo_utils.tomography import lattice_lines, resolution
from mesotomo_utils.tomography.projector import Projector
from mesotomo_utils.twin import atoms, microscope, structure
from mesotomo_utils.workflow.sample import find_sample, load_sample

STEPS_DEG = (1.8, 0.9, 0.45)
ROWS = 128
HALF_LINE_PER_NM = 0.35


def power_of_lines(spectrum, background, q_lines: np.ndarray) -> np.ndarray:
    """Power above the background, summed over each line, relative to the second."""
    q = background["q_per_nm"].to_numpy()
    above = np.interp(q, spectrum["q_per_nm"], spectrum["power"]) - background["background"].to_numpy()
    sums = [np.trapezoid(above[near], q[near]) for near in np.abs(q - q_lines[:, None]) < HALF_LINE_PER_NM]
    return np.array(sums) / sums[1]


def main() -> None:
    """Print the table."""
    given = load_sample(find_sample("tiny"))
    imposed = structure.twin_parameters(
        {**given.twin, "film_bottom": given.film_bottom, "carbon_atoms_per_nm3": 0.0}
    )
    built = structure.build_structure(imposed, np.random.default_rng(imposed.seed))
    specimen = microscope.Specimen(*atoms.place_atoms(built), built.radius_nm)
    pixel_nm, lattice_nm = imposed.pixel_nm, imposed.lattice_nm
    columns = int(8 * np.ceil(2 * (specimen.radius_nm + 1.0) / pixel_nm / 8))
    model = lattice_lines.rocksalt_lines(lattice_nm, (82, 34), probe_fwhm_nm=imposed.probe_fwhm_nm)[:3]
    q_lines = model["q_per_nm"].to_numpy()
    print("| tilts | " + " | ".join(f"{{{family}}}" for family in model["family"]) + " | replicas in the needle |")
    print("|---" * 5 + "|")
    for step in STEPS_DEG:
        angles = np.arange(-90.0, 90.0 - 1e-9, step)
        images = [microscope.project(specimen, imposed, (ROWS, columns), angle_deg=float(angle)) for angle in angles]
        volume = Projector(angles, columns).fbp(np.stack(images))
        spectrum = resolution.radial_power(volume, pixel_nm)
        _, background = lattice_lines.visible_lines(spectrum, lattice_nm)
        found = power_of_lines(spectrum, background, q_lines)
        replicas = 2 * specimen.radius_nm * q_lines * np.deg2rad(step)
        cells = [f"{value:.2f}" for value in found] + [", ".join(f"{value:.1f}" for value in replicas)]
        print(f"| {step}° | " + " | ".join(cells) + " |", flush=True)
    cells = [f"{value:.2f}" for value in model["intensity"] / model["intensity"][1]]
    print("| simulated | " + " | ".join(cells) + " | |")


if __name__ == "__main__":
    main()
