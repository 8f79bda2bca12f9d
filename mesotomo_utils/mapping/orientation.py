"""Orientation of the atomic lattice of every dot, and how well it is known.

The steps for a few dots are in :mod:`lattice_signal` (windowed transform) and
:mod:`orientation_search` (all orientations tried, the best refined); this module maps them over
the dots and says which dots show a lattice at all. Errors are in :mod:`orientation_errors`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import gamma

from mesotomo_utils import lattice
from mesotomo_utils.backend import resolve_device, to_device
from mesotomo_utils.distribute import map_dots
from mesotomo_utils.mapping import lattice_signal
from mesotomo_utils.mapping.dot_table import QUATERNION
from mesotomo_utils.mapping.orientation_search import (
    LARGEST_STRAIN,
    find_orientations,
    off_bragg_reflections,
    prepare_shells,
    visible_reflections,
)
from mesotomo_utils.mapping.strain import CELL, cell_parameters
from mesotomo_utils.tomography.cutting import cut_cubes, keeping_chunks

# A continuous search finds somewhat more than one independent trial a Fourier voxel: on white noise (150 cubes a
# window, windows of 4 to 7 nm) the 99 % point agrees with three. Noise after filtered back-projection lies on the lines
# of the tilts, unevenly, and reaches higher: on the twin `lowres`, whose lattice is blurred away, 1 % of the dots pass
# at forty.
_TRIALS_PER_VOXEL = 40.0


def default_window_nm(diameter_nm: float) -> float:
    """Diameter of the window for dots of a nominal diameter, nm.

    1.3 diameters: the window's bell falls to a half at 0.35 diameters from the centre and to a
    tenth at 0.54, so the neighbours, which begin one neck beyond the dot's faces, hardly count.

    Raises
    ------
    ValueError
        The diameter is not positive.
    """
    if not diameter_nm > 0:
        raise ValueError(f"diameter_nm must be positive, found {diameter_nm}")
    return 1.3 * diameter_nm


def visible_in_principle(lattice_nm: float | None, voxel_nm: float) -> tuple[bool, str]:
    """Can the voxels of a tomogram carry the lattice?

    Parameters
    ----------
    lattice_nm
        Cubic lattice parameter, nm; None where the sample names no material.
    voxel_nm
        Edge of a voxel, nm.

    Returns
    -------
    (answer, reason); the reason is empty where the answer is yes. No where there is no material,
    or where the spacing of {200} is under two voxels.
    """
    if lattice_nm is None:
        return False, "the sample names no material, so no lattice can be looked for"
    spacing = lattice_nm / 2
    if spacing < 2 * voxel_nm:
        return False, (f"the {{200}} spacing, {spacing:.3f} nm, is under two voxels of {voxel_nm:.3f} nm")
    return True, ""


def snr_threshold(*, lattice_nm: float, window_nm: float, voxel_nm: float, false_accepts: float = 0.01) -> float:
    """Lattice SNR that the best orientation of pure noise exceeds with a given probability.

    Parameters
    ----------
    lattice_nm, window_nm, voxel_nm
        Lattice parameter, diameter of the window, edge of a voxel, nm.
    false_accepts
        Probability for one dot without a lattice.

    Returns
    -------
    The threshold, dimensionless; about 3.5 for PbSe and a window of 6.5 nm.

    Notes
    -----
    The power of noise at one frequency, over its mean, is exponential; the mean over the
    reflections follows a gamma law. The search takes the best of M orientations: the volume of the
    fundamental zone, pi^2 / 3, over the cube of the turn that moves the outermost reflection by one
    Fourier voxel, times a constant found on noise. So 1 - (1 - p)^M is set to the
    probability asked for.
    """
    table = visible_reflections(lattice_nm, voxel_nm)
    count = len(table)
    trials = _TRIALS_PER_VOXEL * np.pi**2 / 3 * (table["g_per_nm"].max() * window_nm) ** 3
    return float(gamma.isf(-np.expm1(np.log1p(-false_accepts) / trials), count) / count)


def orient_dots(
    volume: Any,
    voxel_nm: float,
    centres_nm: np.ndarray,
    *,
    lattice_nm: float,
    window_nm: float,
    superlattice: np.ndarray | None = None,
    strain: bool = True,
    control: bool | np.ndarray = False,
    false_accepts: float = 0.01,
    device: str = "cpu",
    workers: int | None = None,
    dask: str | None = None,
    progress: str | None = None,
) -> pd.DataFrame:
    """Orientation and lattice parameters of every dot.

    Parameters
    ----------
    volume
        Tomogram [z, y, x], numpy or Zarr; only the cubes about the centres are read.
    voxel_nm
        Edge of a voxel, nm.
    centres_nm
        (N, 3) centres x, y, z, nm, from the centre of the volume.
    lattice_nm
        Cubic (rock-salt) lattice parameter, nm.
    window_nm
        Diameter of the spherical window, nm (:func:`default_window_nm`).
    superlattice
        (3, 3) superlattice vectors A, B, C as columns; the equivalent nearest to them is taken
        (:func:`lattice.nearest_equivalent`). None: nearest to x, y, z.
    strain
        Also fit the free triclinic cell; else its columns are NaN.
    control
        Also search, in all dots or in those where an (N,) array is True, a lattice whose reflections lie where
        rock salt has none.
    false_accepts
        See :func:`snr_threshold`; dots under the threshold get NaN.
    device
        ``"cpu"``, ``"cuda"`` or ``"auto"``: where transforms and readings are made.
    workers, dask, progress
        See :func:`distribute.map_items`.

    Returns
    -------
    DataFrame, one row a dot in the order given: ``qw, qx, qy, qz`` (crystal to lab; orix stores the
    inverse), ``lattice_snr``, ``lattice_nm`` (one cubic parameter), ``a_nm, b_nm, c_nm, alpha_deg,
    beta_deg, gamma_deg`` (the free triclinic cell) and, with ``control``, ``control_snr`` (NaN where not asked for
    or where the voxels leave no room for it).

    Raises
    ------
    ValueError
        The volume is not three-dimensional; the centres are not (N, 3) or not finite (the row is
        named); the lattice cannot be seen with these voxels.
    """
    if len(volume.shape) != 3:
        raise ValueError(f"volume must be [z, y, x], found the shape {tuple(volume.shape)}")
    centres = np.asarray(centres_nm, dtype=float)
    if centres.ndim != 2 or centres.shape[1] != 3:
        raise ValueError(f"centres_nm must be (N, 3), found {centres.shape}")
    bad = np.flatnonzero(~np.isfinite(centres).all(axis=1))
    if len(bad):
        raise ValueError(f"centres_nm row {bad[0]} is not finite: {centres[bad[0]]}")
    seen, reason = visible_in_principle(lattice_nm, voxel_nm)
    if not seen:
        raise ValueError(f"no orientations: {reason}")

    volume = keeping_chunks(volume)
    reflections = visible_reflections(lattice_nm, voxel_nm)
    outermost = float(reflections["g_per_nm"].max())
    window = lattice_signal.prepare_window(
        voxel_nm=voxel_nm, window_nm=window_nm, g_max_per_nm=outermost * (1 + LARGEST_STRAIN)
    )
    bragg = prepare_shells(window, reflections)
    off_bragg = None
    controlled = np.broadcast_to(np.asarray(control, bool), len(centres))
    if controlled.any():
        nothing_there = off_bragg_reflections(reflections)
        # coarse voxels end before the radii at which rock salt has nothing
        nothing_there = nothing_there[nothing_there["g_per_nm"] <= outermost]
        if len(nothing_there):
            off_bragg = prepare_shells(window, nothing_there, resolution_deg=bragg.resolution_deg)
    where = resolve_device(device)
    fine, lattices, nothing = (made if made is None else made.on(where) for made in (window, bragg, off_bragg))

    def some(rows: np.ndarray) -> tuple[np.ndarray, ...]:
        R, reciprocal = np.full((2, len(rows), 3, 3), np.nan)
        snr, cubic, empty = np.full((3, len(rows)), np.nan)
        cubes = cut_cubes(volume, voxel_nm, centres[rows], window.n)
        filled = np.flatnonzero(cubes.any(axis=(1, 2, 3)))
        # Nothing at all may be there: no noise to measure a signal by.
        snr[:] = empty[:] = 0.0
        if len(filled):
            if len(filled) < len(rows):
                cubes = cubes[filled]
            spectra = lattice_signal.transform(fine, to_device(cubes, where))
            found = find_orientations(fine, spectra, lattices, strain=strain)
            R[filled], reciprocal[filled] = found.R, found.reciprocal
            snr[filled], cubic[filled] = found.snr, lattice_nm / found.scale
            empty[filled] = np.nan
            held = np.flatnonzero(controlled[rows[filled]])
            if nothing is not None and len(held):
                held_spectra = spectra[to_device(held, where)]
                empty[filled[held]] = find_orientations(fine, held_spectra, nothing, strain=False).snr
        return R, reciprocal, snr, cubic, empty

    options = {"device": where, "workers": workers, "dask": dask, "progress": progress}
    R, reciprocal, snr, cubic, empty = map_dots(some, len(centres), **options)
    accepted = snr > snr_threshold(
        lattice_nm=lattice_nm,
        window_nm=window_nm,
        voxel_nm=voxel_nm,
        false_accepts=false_accepts,
    )
    V = np.eye(3) if superlattice is None else np.asarray(superlattice, float)
    table = _as_table(R, reciprocal, accepted, lattice_nm, V)
    table.insert(4, "lattice_snr", snr)
    table.insert(5, "lattice_nm", np.where(accepted, cubic, np.nan))
    if controlled.any():
        table["control_snr"] = empty
    return table


def _as_table(
    R: np.ndarray, reciprocal: np.ndarray, accepted: np.ndarray, lattice_nm: float, V: np.ndarray
) -> pd.DataFrame:
    """Quaternions and cells of the equivalents that follow the superlattice, else NaN."""
    table = pd.DataFrame(np.nan, index=np.arange(len(R)), columns=[*QUATERNION, *CELL])
    cells_nm = np.full(R.shape, np.nan)
    if accepted.any():
        chosen = lattice.nearest_equivalent(R[accepted], V)
        table.loc[accepted, QUATERNION] = lattice.to_quaternions(chosen)
    for row in np.flatnonzero(accepted & np.isfinite(reciprocal).all(axis=(1, 2))):
        # Columns of the direct cell are the inverse transpose of the reciprocal one; the symmetry
        # operation that chose the equivalent permutes them.
        direct = lattice_nm * np.linalg.inv(reciprocal[row]).T
        operation = np.rint(R[row].T @ lattice.nearest_equivalent(R[row], V))
        cells_nm[row] = direct @ operation
    table[list(CELL)] = cell_parameters(cells_nm)
    return table


def lattice_visible(table: pd.DataFrame, *, least_fraction: float = 0.2) -> tuple[bool, str]:
    """Do enough dots show a lattice for orientations to be spoken of?

    Parameters
    ----------
    table
        With ``qw`` (NaN where the lattice is not trusted), as :func:`orient_dots` returns it.
    least_fraction
        Fraction of the dots that must be accepted.

    Returns
    -------
    (answer, reason); the reason is empty where the answer is yes.
    """
    accepted = int(table["qw"].notna().sum())
    if len(table) and accepted >= least_fraction * len(table):
        return True, ""
    return False, (f"{accepted} of {len(table)} dots show a lattice above the noise; {least_fraction:.0%} are needed")


def without_lattice(n: int) -> pd.DataFrame:
    """Table of :func:`orient_dots` for n dots whose lattice cannot be seen: all NaN."""
    return pd.DataFrame(np.nan, index=np.arange(n), columns=[*QUATERNION, "lattice_snr"])


def stereographic(directions: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Stereographic projection of directions, both hemispheres laid over each other.

    Parameters
    ----------
    directions
        (N, 3) lab vectors of any length.
    frame
        (3, 3) rotation whose columns are the directions drawn to the right, up, and at the centre.

    Returns
    -------
    (N, 2); the circle of radius 1 holds the directions in the plane of the first two columns. A
    direction just below that plane stays beside its neighbours just above it.

    Examples
    --------
    >>> stereographic(np.array([[0.0, 0.0, -2.0], [1.0, 0.0, -0.0]]), np.eye(3)).round(3) + 0.0
    array([[0., 0.],
           [1., 0.]])
    """
    local = np.asarray(directions, float) @ frame
    local = local / np.linalg.norm(local, axis=1, keepdims=True)
    return local[:, :2] / (1 + np.abs(local[:, 2:]))


def axis_deviations_deg(R: np.ndarray) -> dict[str, np.ndarray]:
    """How far the axes of each dot lean away from the mean axes.

    Parameters
    ----------
    R
        (N, 3, 3) rotations already reduced by symmetry.

    Returns
    -------
    ``a``, ``b``, ``c`` to (N, 2) angles, degrees, towards the two other mean axes in cyclic order:
    a towards b and c, b towards c and a, c towards a and b.
    """
    local = lattice.mean_rotation(R).T @ R
    deviations = {}
    for k, name in enumerate("abc"):
        along, first, second = (local[:, (k + shift) % 3, k] for shift in range(3))
        tilt = np.stack([np.arctan2(first, along), np.arctan2(second, along)], axis=1)
        deviations[name] = np.rad2deg(tilt)
    return deviations
