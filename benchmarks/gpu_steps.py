"""What 01 to 03 take of a twin on the GPU, beside the CPU of the same machine, and how far their tables differ.

The calls of the notebooks, without their figures and files: the twin is imaged on the CPU, aligned and reconstructed
with both its half sets on either device, and the tomograms that the CPU made are mapped on either. Prints the seconds
of each, and how far the tables are apart. Without a GPU it says so and ends.

    python benchmarks/gpu_steps.py [paper] [--devices cpu cuda]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from mesotomo_utils import backend, lattice
from mesotomo_utils.mapping import (
    centre_errors,
    centres,
    dot_size,
    dot_table,
    lattice_model,
    missing_wedge,
    necks,
    orientation,
    orientation_errors,
    orientation_follow,
    replicas,
    superlattice,
    template,
)
from mesotomo_utils.tomography import alignment
from mesotomo_utils.tomography.reconstruction import reconstruct, remove_background
from mesotomo_utils.tomography.tilt_series import TiltSeries
from mesotomo_utils.twin import atoms, microscope, structure
from mesotomo_utils.workflow.sample import find_sample, load_sample

HALVES = ("even", "odd")


class Clock:
    """Seconds of named calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a function, add what it takes to what the name took before, and return its result."""
        begun = time.perf_counter()
        result = function(*args, **options)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun
        print(f"  {name}: {time.perf_counter() - begun:.1f} s", flush=True)
        return result


def record(name: str) -> TiltSeries:
    """The tilt series of a twin of data/, as the analysis may read it."""
    given = load_sample(find_sample(name))
    imposed = structure.twin_parameters({**given.twin, "film_bottom": given.film_bottom})
    rng = np.random.default_rng(imposed.seed)
    built = structure.build_structure(imposed, rng)
    specimen = microscope.Specimen(*atoms.place_atoms(built), built.radius_nm)
    return microscope.record_series(specimen, imposed, rng, name=given.name).series


def tomograms(
    series: TiltSeries, device: str, clock: Clock
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], pd.DataFrame]:
    """01: the tomogram and both half sets, the angles that each was made from, and the whole's table of tilts."""
    poses = {"whole": clock("01: alignment", alignment.align_series, series, device=device)}
    for which in HALVES:
        given = series, which, poses["whole"]
        poses[which] = clock("01: alignment of halves", alignment.align_half, *given, device=device)
    volumes, angles = {}, {}
    for which, pose in poses.items():
        moved = remove_background(alignment.apply_alignment(series, pose))
        volumes[which] = clock("01: three FBPs", reconstruct, moved, device=device)
        angles[which] = moved.angles_deg
    return volumes, angles, poses["whole"].table


def map_dots(
    volumes: dict[str, np.ndarray], angles: dict[str, np.ndarray], voxel_nm: float, nominal_nm: float,
    device: str, clock: Clock,
) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray, float]:  # fmt: skip
    """02: dots with σ, necks with σ, the lattice's vectors as columns, and the dots' diameter."""
    image, mean_dot = clock(
        "02: picture of whole dots", dot_size.image_of_dots, volumes["whole"], voxel_nm, diameter_nm=nominal_nm,
        angles_deg=angles["whole"], device=device,
    )  # fmt: skip
    lopsided = not missing_wedge.is_missing(angles["whole"])
    found, _ = clock("02: centres", centres.find_centres, image, template=mean_dot, lopsided=lopsided)

    def half(which: str) -> template.BodyImage:
        picture = template.body_image(volumes[which], voxel_nm, diameter_nm=image.diameter_nm, device=device)
        return missing_wedge.fill_wedge(picture, angles[which])

    pair = [clock("02: pictures of the halves", half, which) for which in HALVES]
    sigmas, _ = clock("02: σ of centres", centre_errors.half_set_sigmas, found, *pair, mean_dot, lopsided=lopsided)
    found = found.assign(**sigmas)
    xyz = found[dot_table.POSITION].to_numpy(float)
    grown = clock("02: indices", superlattice.index_superlattice, xyz)
    joints = clock("02: necks", necks.measure_necks, image, xyz, superlattice.neighbour_pairs(grown))
    joints["sigma_nm"], _ = clock("02: σ of necks", necks.neck_sigmas, joints, *pair, xyz)
    [cell, *_] = superlattice.describe(grown, xyz, film_bottom="low_z")["grains"]
    return found, joints, np.column_stack([cell[axis] for axis in "ABC"]), image.diameter_nm


def orient(
    volumes: dict[str, np.ndarray], angles: dict[str, np.ndarray], voxel_nm: float, lattice_nm: float,
    found: pd.DataFrame, V: np.ndarray, window_nm: float, device: str, clock: Clock,
) -> pd.DataFrame:  # fmt: skip
    """03: orientations with σ, replicas taken off the whole and off both half sets."""
    volume, xyz = volumes["whole"], found[dot_table.POSITION].to_numpy(float)
    settings = {"lattice_nm": lattice_nm, "window_nm": window_nm}
    some = np.arange(len(xyz)) % max(1, len(xyz) // 150) == 0
    table = clock(
        "03: orientations", orientation.orient_dots, volume, voxel_nm, xyz, control=some, strain=False,
        superlattice=V, device=device, **settings,
    )  # fmt: skip
    whole = ~found["at_edge"].to_numpy(bool)
    model = clock(
        "03: lattices and their replicas", lattice_model.model_lattices, volume, voxel_nm, xyz, table, whole=whole,
        superlattice=V, **settings,
    )  # fmt: skip
    model = clock("03: lattices and their replicas", replicas.project_lattices, model, angles["whole"], device=device)
    [remove] = clock("03: lattices and their replicas", replicas.find_replicas, model, [angles["whole"]], device=device)
    table, turn_deg = clock(
        "03: orientations without replicas", orientation_follow.without_replicas, volume, voxel_nm, xyz, table, remove,
        device=device, **settings,
    )  # fmt: skip
    errors, _ = clock(
        "03: half sets", orientation_errors.half_set_sigmas, *(volumes[which] for which in HALVES), voxel_nm, xyz,
        table, model=model, angles_deg=[angles[which] for which in HALVES], replica_turn_deg=turn_deg, device=device,
        **settings,
    )  # fmt: skip
    return table.assign(sigma_deg=errors["sigma_deg"])


def worst(one: pd.DataFrame, other: pd.DataFrame, columns: list[str], relative: bool = False) -> float:
    """The largest difference of some columns; relative to the one's value if asked."""
    scale = one[columns].to_numpy(float) if relative else 1.0
    return float(np.nanmax(np.abs((other[columns] - one[columns]).to_numpy(float) / scale)))


def differences(results: dict[str, dict[str, Any]]) -> list[str]:
    """How far the devices' tables are apart."""
    here, there = results["cpu"], results["cuda"]

    def apart(table: str, *columns: str, relative: bool = False) -> str:
        return f"{worst(here[table], there[table], list(columns), relative):.1e}"

    voxels = [
        f"{which} {np.linalg.norm(there['volumes'][which] - volume) / np.linalg.norm(volume):.1e}"
        for which, volume in here["volumes"].items()
    ]
    R = [lattice.from_quaternions(part["orientations"][orientation.QUATERNION].to_numpy()) for part in (here, there)]
    turned_deg = lattice.rotation_angle_deg(R[0].transpose(0, 2, 1) @ R[1])
    return [
        f"shifts {apart('tilts', 'shift_z_nm', 'shift_u_nm')} nm, angles {apart('tilts', 'angle_deg')}°",
        f"voxels, each from its own alignment: {', '.join(voxels)}",
        f"dots {len(here['dots'])}, {len(there['dots'])}; centres {apart('dots', *dot_table.POSITION)} nm; "
        f"σ {apart('dots', *dot_table.SIGMA, relative=True)} of itself",
        f"necks {len(here['necks'])}, {len(there['necks'])}; diameters {apart('necks', 'diameter_nm')} nm",
        f"orientations {np.nanmax(turned_deg):.1e}°, half of them {np.nanmedian(turned_deg):.1e}°; "
        f"SNR {apart('orientations', 'lattice_snr', relative=True)}, "
        f"σ {apart('orientations', 'sigma_deg', relative=True)} of themselves",
    ]


def main() -> None:
    """Time the steps on both devices and print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("sample", nargs="?", default="paper", help="a twin of data/")
    parser.add_argument("--devices", nargs="+", default=["cpu", "cuda"])
    options = parser.parse_args()
    try:
        for device in options.devices:
            backend.resolve_device(device)
    except RuntimeError as error:
        print(f"not timed: {error}")
        return
    given = load_sample(find_sample(options.sample))
    nominal_nm = given.quantum_dot.diameter_nm
    making = Clock()
    series = making("imaged", record, options.sample)
    results: dict[str, dict[str, Any]] = {}
    clocks = {device: Clock() for device in options.devices}
    for device, clock in clocks.items():
        print(device, flush=True)
        volumes, angles, tilts = tomograms(series, device, clock)
        results[device] = {"volumes": volumes, "tilts": tilts}
        if device == options.devices[0]:
            mapped = volumes, angles
        dots, joints, V, diameter_nm = map_dots(*mapped, series.pixel_nm, nominal_nm, device, clock)
        window_nm = orientation.default_window_nm(diameter_nm)
        oriented = orient(*mapped, series.pixel_nm, given.material.lattice_nm, dots, V, window_nm, device, clock)
        results[device] |= {"dots": dots, "necks": joints, "orientations": oriented}
    table = pd.DataFrame({device: clock.seconds for device, clock in clocks.items()})
    for step in ("01", "02", "03"):
        table.loc[f"{step}, all"] = table[table.index.str.startswith(f"{step}: ")].sum()
    print(f"{given.name}: {len(series)} images of {series.images.shape[1:]} pixels; {backend.cpu_count()} cores")
    print(table.round(1).sort_index().to_string())
    if set(results) == {"cpu", "cuda"}:
        print("\n".join(differences(results)))


if __name__ == "__main__":
    main()
