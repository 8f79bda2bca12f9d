"""What a twin leaves in a run folder: the truth, and at table level what a measurement would give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.twin.account import order_table
from mesotomo_utils.twin.microscope import Recording
from mesotomo_utils.twin.placement import mono_rotation
from mesotomo_utils.twin.structure import POSITION, QUATERNION, Structure

MEASURED_SNR = 10.0
"""Stated lattice signal of the dots of a table: well above any threshold, since nothing is imaged."""


def truth_tables(structure: Structure, recording: Recording | None = None) -> dict[str, pd.DataFrame]:
    """Tables of ``truth/`` by file name; ``alignment.csv`` only where the twin was imaged."""
    tables = {
        "dots.csv": structure.dots,
        "necks.csv": structure.necks,
        "defects.csv": structure.defects,
        "order.csv": order_table(structure),
    }
    if recording is not None:
        tables["alignment.csv"] = recording.alignment
    return tables


def truth_superlattice(structure: Structure) -> dict[str, Any]:
    """``truth/superlattice.json``: the generator's cell, and the cell fitted to the dots as made.

    ``grains`` has the exact cell in the layout of the measured file; ``sample`` the least-squares
    cell of the whole dots, which differs from it by the displacements.
    """
    whole = structure.dots[structure.whole]
    fitted, _ = fit_cell(whole[POSITION].to_numpy(), whole[list("ijk")].to_numpy())
    exact = {
        key: {"value": value, "sigma": 0.0, "spread": None}
        for key, value in lattice.cell_parameters(structure.cell).items()
    }
    grain = {"grain": 0, "n_dots": len(whole), **exact, **_vectors(structure.cell)}
    mono = mono_rotation(structure.cell)
    return {
        "grains": [grain],
        "layers": structure.parameters.layers,
        "film_bottom": structure.parameters.film_bottom,
        "sample": {**lattice.cell_parameters(fitted), **_vectors(fitted)},
        "R_mono": mono.tolist(),
        "R_mono_quaternion": lattice.to_quaternions(mono[None])[0].tolist(),
        "needle_radius_nm": structure.radius_nm,
        "smallest_gap_nm": structure.smallest_gap_nm,
    }


def truth_parameters(structure: Structure, recording: Recording | None = None) -> dict[str, Any]:
    """``truth/parameters.json``: every parameter of the twin, and what its imaging came to."""
    parameters = structure.parameters.model_dump(mode="json")
    if recording is None:
        return parameters
    return {**parameters, **recording.truth, "image_shape": list(recording.series.images.shape[1:])}


def fit_cell(positions_nm: np.ndarray, ijk: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least-squares lattice of indexed positions: cell (3, 3) with columns A, B, C, and origin (3,)."""
    design = np.column_stack([ijk, np.ones(len(ijk))])
    solution, *_ = np.linalg.lstsq(design, positions_nm, rcond=None)
    return solution[:3].T, solution[3]


def measured_tables(structure: Structure, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables of dots and necks with errors of known size: what a run starts from at table level.

    Only the whole dots are in them. Centres are off by ``centre_sigma_nm`` along each axis,
    orientations by ``orientation_sigma_deg`` (root-mean-square angle, no preferred axis), the
    diameters of necks by ``neck_sigma_nm``; pairs without a neck stay without.
    Indices are left out, so that the lattice has to be found.

    Returns
    -------
    dots
        ``qd, x_nm, y_nm, z_nm, sigma_x_nm, sigma_y_nm, sigma_z_nm, qw, qx, qy, qz, sigma_deg,
        lattice_snr``.
    necks
        ``qd_1, qd_2, axis, diameter_nm, sigma_nm, length_nm``.
    """
    p = structure.parameters
    whole = structure.whole
    true = structure.dots[whole]
    number = np.full(len(structure.dots), -1)
    number[whole] = np.arange(len(true))

    dots = pd.DataFrame({"qd": np.arange(len(true))})
    dots[POSITION] = true[POSITION].to_numpy() + rng.normal(0.0, p.centre_sigma_nm, (len(true), 3))
    dots[["sigma_x_nm", "sigma_y_nm", "sigma_z_nm"]] = p.centre_sigma_nm
    # a root-mean-square angle s is s/sqrt(3) about each of three axes
    error = rng.normal(0.0, np.deg2rad(p.orientation_sigma_deg) / np.sqrt(3), (len(true), 3))
    R = structure.R[whole] @ lattice.from_rotation_vectors(error)
    dots[QUATERNION] = lattice.to_quaternions(R)
    dots["sigma_deg"] = p.orientation_sigma_deg
    dots["lattice_snr"] = MEASURED_SNR

    pairs = number[structure.necks[["qd_1", "qd_2"]].to_numpy()]
    kept = (pairs >= 0).all(axis=1)
    necks = structure.necks[kept].reset_index(drop=True)
    necks[["qd_1", "qd_2"]] = pairs[kept]
    noise = rng.normal(0.0, p.neck_sigma_nm, len(necks))
    diameter = necks["diameter_nm"].to_numpy()
    necks["diameter_nm"] = np.where(diameter > 0, np.maximum(diameter + noise, 0.1), 0.0)
    necks["sigma_nm"] = p.neck_sigma_nm
    columns = ["qd_1", "qd_2", "axis", "diameter_nm", "sigma_nm", "length_nm"]
    return dots, necks[columns]


def _vectors(cell: np.ndarray) -> dict[str, list[float]]:
    A, B, C = cell.T.tolist()
    return {"A": A, "B": B, "C": C, "n": lattice.film_normal(cell).tolist()}
