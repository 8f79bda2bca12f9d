"""Errors of the orientations: what two half sets of tilts disagree by, pooled over all dots."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2

from mesotomo_utils import lattice
from mesotomo_utils.mapping.lattice_model import LatticeModel
from mesotomo_utils.mapping.missing_wedge import widest_gap
from mesotomo_utils.mapping.orientation_follow import follow_dots
from mesotomo_utils.mapping.orientation_search import visible_reflections
from mesotomo_utils.mapping.replicas import find_replicas
from mesotomo_utils.mapping.strain import CELL, SIGMA, cell_parameters

#: Noise turns a dot by this over (outermost frequency, window and root of the lattice SNR), degrees: 29 to 31 in white
#: noise on model dots, and 28 by the curvature of the score.
NOISE_DEG = 30.0
#: Replicas turn a dot by much more. A part of that turn is left where they are subtracted. What is left from all tilts
#: goes with their turn, with what halves still differ by, and with the part that this is of what replicas made halves
#: differ by: the geometric mean of the first two times this power of the third, times a factor. Chosen on twins:
#: benchmarks/calibrate_errors.py.
LEFT_SCALE, LEFT_POWER = 0.62, 0.38
#: Where a wedge of tilts is missing, both halves lack the same reflections, and the same replicas go unnoticed: what is
#: left of their turn is larger by up to this part, from a wedge of so many degrees on.
WEDGE_EXCESS, WEDGE_DEG = 0.5, 30.0
#: Where no replicas can be subtracted: what of the error that two half sets show stays when all tilts are there. A half
#: has more replicas, and some of them the other half cancels. Noise alone has 1.
HALF_SET_SHARE = 0.8
#: By how much, as a part of it, σ as a whole was off on seventeen twins, of which six lacked a wedge of tilts (root
#: mean square; 0.05 on the others): what the constants above do not know of another sample. benchmarks/README.md.
LAW_SPREAD = 0.08

TURN = ["turn_x_deg", "turn_y_deg", "turn_z_deg"]
TAKEN = ["taken_x_deg", "taken_y_deg", "taken_z_deg"]
PARTS = [*TAKEN, "replica_turn_deg", "noise_deg"]
"""What σ was made from, for those who make it anew."""


def half_set_turns(even: np.ndarray, odd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn of each dot from one half set to the other, and the turn common to all dots.

    Parameters
    ----------
    even, odd
        (N, 3, 3) rotations found in the half sets (:func:`orientation_follow.follow_dots`).

    Returns
    -------
    turns (N, 3)
        Rotation vectors in the lab frame, degrees, less the common one; NaN where a half has none.
    common (3,)
        Their median, degrees. Each half is aligned on its own, so its frame is free to turn: that
        is no error of a single dot.
    """
    turns = np.full((len(even), 3), np.nan)
    good = np.isfinite(even).all(axis=(1, 2)) & np.isfinite(odd).all(axis=(1, 2))
    if not good.any():
        return turns, np.full(3, np.nan)
    turns[good] = np.rad2deg(lattice.rotation_vectors(odd[good] @ np.swapaxes(even[good], 1, 2)))
    common = np.nanmedian(turns, axis=0)
    return turns - common, common


def noise_model_deg(turns_deg: np.ndarray, lattice_snr: np.ndarray, *, components: int | None = None) -> np.ndarray:
    """Error of every dot's orientation, from all dots' half-set turns together.

    Parameters
    ----------
    turns_deg
        (N, 3) turns between half sets, degrees (:func:`half_set_turns`); NaN where missing. Or (N, 1) of another law.
    lattice_snr
        (N,) lattice SNR from all tilts; NaN gives NaN.
    components
        Of the turns, if not as many as there are columns: 3 for their lengths.

    Returns
    -------
    (N,) sigma: the root-mean-square rotation angle of the error of the result from all tilts,
    degrees. All NaN with fewer than five turns.

    Notes
    -----
    A half set has twice the variance of the whole, and a difference of halves four times: E|turn|^2
    = 4 sigma^2. One dot's turn says little about that dot, so sigma^2 = exp(b0 + b1 ln SNR) is
    fitted to all by a generalised linear model of the gamma family; single turns beyond the 99.9 %
    point of their law count as if they lay at it.
    """
    square = np.sum(np.asarray(turns_deg, float) ** 2, axis=1) / 4
    free = components or np.shape(turns_deg)[1]
    snr = np.asarray(lattice_snr, float)
    if square.shape != snr.shape:
        raise ValueError(f"{len(square)} turns and {len(snr)} lattice SNRs must be equally many")
    good = np.isfinite(square) & (snr > 0) & (square > 0)
    if good.sum() < 5:
        return np.full(len(snr), np.nan)
    logarithm = np.log(np.where(snr > 0, snr, np.nan))
    middle = logarithm[good].mean()
    # Too few dots, or all alike, cannot carry a slope.
    slope = good.sum() >= 20 and logarithm[good].std() > 0.05
    design = np.stack([np.ones(len(snr)), logarithm - middle if slope else 0 * logarithm], axis=1)
    used = design[good][:, : 1 + slope]
    beta = np.zeros(used.shape[1])
    beta[0] = np.log(np.median(square[good]) / (chi2.median(free) / free))
    most = chi2.ppf(0.999, free) / free
    for _ in range(50):
        ratio = np.minimum(square[good] / np.exp(used @ beta), most)
        change = np.linalg.lstsq(used, ratio - 1, rcond=None)[0]
        beta += change
        if np.abs(change).max() < 1e-9:
            break
    return np.exp(0.5 * design[:, : 1 + slope] @ beta)


def half_set_sigmas(
    half_even: Any,
    half_odd: Any,
    voxel_nm: float,
    centres_nm: np.ndarray,
    table: pd.DataFrame,
    *,
    lattice_nm: float,
    window_nm: float,
    model: LatticeModel | None = None,
    angles_deg: tuple[np.ndarray, np.ndarray] | None = None,
    replica_turn_deg: np.ndarray | None = None,
    device: str = "cpu",
    workers: int | None = None,
    dask: str | None = None,
    progress: str | None = None,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Errors of the orientations from the tomograms of the even and the odd tilts.

    Parameters
    ----------
    half_even, half_odd
        Tomograms [z, y, x] in the frame of the whole one.
    voxel_nm, centres_nm, lattice_nm, window_nm, device, workers, dask, progress
        As for :func:`orientation.orient_dots`.
    table
        Its result from all tilts, which is followed into the halves.
    model, angles_deg, replica_turn_deg
        The lattices found from all tilts and projected (:func:`replicas.project_lattices`), the angles of the even and
        of the odd ones, and by how much each dot of the table turned when replicas were subtracted, (N,), all degrees:
        they are subtracted from each half as well. None where the table was made without.

    Returns
    -------
    frame
        ``sigma_deg`` (NaN where the dot has no orientation), ``half_set_deg``, what it would be if halves differed by
        noise alone (:func:`noise_model_deg`), ``turn_x_deg, turn_y_deg, turn_z_deg``, the turn from even to odd,
        ``taken_x_deg`` …, ``replica_turn_deg, noise_deg``, what else σ was made from (:func:`dot_sigmas`), and
        ``sigma_a_nm`` … ``sigma_gamma_deg``, errors of the free cell (:func:`cell_sigmas`).
    common_deg
        (3,) turn common to all dots, degrees.

    Raises
    ------
    ValueError
        The table and the centres differ in length; a model comes without the angles and turns that belong to it.
    """
    if len(table) != len(centres_nm):
        raise ValueError(f"table has {len(table)} rows for {len(centres_nm)} centres")
    if model is not None and (angles_deg is None or replica_turn_deg is None):
        raise ValueError("model needs angles_deg of both halves and replica_turn_deg of each dot beside it")
    options: dict[str, Any] = {"device": device, "workers": workers, "dask": dask}
    removed = (None, None) if model is None else find_replicas(model, angles_deg, **options)
    halves = []
    for half, name, replicas in zip((half_even, half_odd), ("even", "odd"), removed, strict=True):
        text = None if progress is None else f"{progress}, {name} tilts"
        settings = {"lattice_nm": lattice_nm, "window_nm": window_nm, "replicas": replicas, "progress": text}
        halves.append(follow_dots(half, voxel_nm, centres_nm, table, **settings, **options))
    even, odd = halves
    turns, common = half_set_turns(even.R, odd.R)
    snr = table["lattice_snr"].to_numpy()
    noise, taken, replica_turn = np.full(len(snr), np.nan), np.full_like(turns, np.nan), np.full(len(snr), np.nan)
    if model is not None:
        outermost = visible_reflections(lattice_nm, voxel_nm)["g_per_nm"].max()
        noise = NOISE_DEG / (outermost * window_nm * np.sqrt(np.where(snr > 0, snr, np.nan)))
        taken, replica_turn = even.taken_deg - odd.taken_deg, np.asarray(replica_turn_deg, float)
    half_set = noise_model_deg(turns, snr)
    parts = {"turns_deg": turns, "taken_deg": taken, "replica_turn_deg": replica_turn, "noise_deg": noise}
    wedge = 1.0 if angles_deg is None else wedge_factor(np.concatenate(angles_deg))
    sigma = dot_sigmas(**parts, lattice_snr=snr, wedge=wedge)
    frame = pd.DataFrame(turns, columns=TURN)
    frame.insert(0, "half_set_deg", half_set)
    frame.insert(0, "sigma_deg", np.where(table["qw"].notna(), sigma, np.nan))
    frame[TAKEN] = taken
    frame["replica_turn_deg"], frame["noise_deg"] = replica_turn, noise
    return pd.concat([frame, cell_sigmas(even.cells_nm, odd.cells_nm, snr)], axis=1), common


def dot_sigmas(
    *,
    turns_deg: np.ndarray,
    taken_deg: np.ndarray,
    replica_turn_deg: np.ndarray,
    noise_deg: np.ndarray,
    lattice_snr: np.ndarray,
    wedge: float,
) -> np.ndarray:
    """Error of every dot's orientation, from what all dots' half sets and replicas did.

    Parameters
    ----------
    turns_deg, taken_deg
        (N, 3) turns between the halves, and by how much more they differed with replicas, degrees.
    replica_turn_deg
        (N,) turn that the removal of replicas made with all tilts, degrees; all NaN where none were removed.
    noise_deg
        (N,) error that noise makes with all tilts, degrees.
    lattice_snr
        (N,) lattice SNR from all tilts.
    wedge
        Of :func:`wedge_factor`.

    Returns
    -------
    (N,) root-mean-square angle of the error, degrees; NaN where it cannot be told.

    Notes
    -----
    Noise, and in square what replicas leave. That is told twice: by what the halves still differ by, and by how far the
    removal of replicas turned the dots with all tilts. Either is off by some part from sample to sample, and the
    geometric mean of both is nearer to the truth of twins than either.
    """
    half_set = noise_model_deg(turns_deg, lattice_snr)
    if np.isnan(replica_turn_deg).all():
        return HALF_SET_SHARE * half_set
    differ = np.sqrt(np.maximum(half_set**2 - noise_deg**2, 0))
    turned = noise_model_deg(2 * replica_turn_deg[:, None], lattice_snr, components=3)
    left = wedge * LEFT_SCALE * part_left(turns_deg, taken_deg, noise_deg) ** LEFT_POWER
    return np.hypot(noise_deg, left * np.sqrt(differ * turned))


def typical_sigma(errors: pd.DataFrame, lattice_snr: np.ndarray, rows: np.ndarray, *, wedge: float = 1.0) -> float:
    """Median error of the orientations, degrees, learnt anew from some of the dots, as a bootstrap asks for.

    Parameters
    ----------
    errors
        Of :func:`half_set_sigmas`.
    lattice_snr
        (N,) of its dots, from all tilts.
    rows
        Which of them, with repetitions.
    wedge
        Of :func:`wedge_factor`.
    """
    some = errors.iloc[rows]
    sigma = dot_sigmas(
        turns_deg=some[TURN].to_numpy(),
        taken_deg=some[TAKEN].to_numpy(),
        replica_turn_deg=some["replica_turn_deg"].to_numpy(),
        noise_deg=some["noise_deg"].to_numpy(),
        lattice_snr=np.asarray(lattice_snr, float)[rows],
        wedge=wedge,
    )
    return float(pd.Series(np.where(some["sigma_deg"].notna(), sigma, np.nan)).median())


def cell_sigmas(even_nm: np.ndarray, odd_nm: np.ndarray, lattice_snr: np.ndarray) -> pd.DataFrame:
    """Errors of every dot's lattice parameters and angles, from all dots' half sets together.

    Parameters
    ----------
    even_nm, odd_nm
        (N, 3, 3) cells found in the half sets, a, b, c as columns, nm; NaN where none is.
    lattice_snr
        (N,) lattice SNR from all tilts.

    Returns
    -------
    DataFrame ``sigma_a_nm, sigma_b_nm, sigma_c_nm, sigma_alpha_deg, sigma_beta_deg, sigma_gamma_deg``; NaN
    where a half has no cell, and everywhere with fewer than five dots.

    Notes
    -----
    Half of what the halves differ by, as a law in the lattice SNR fitted to all dots
    (:func:`noise_model_deg`); a difference common to all dots is the halves' own alignment, and taken
    out. So it is the scatter of single dots; an error that all share, as of the pixel, is not in it.
    Under replicas it errs on the large side, for halves have more of them than all tilts together: on eleven twins 68 %
    of the deviations lie within 0.82 σ (0.65 to 1.04), on three with a wedge of tilts missing within 0.5 to 1.3.
    """
    there = np.isfinite(even_nm).all(axis=(1, 2)) & np.isfinite(odd_nm).all(axis=(1, 2))
    sigmas = pd.DataFrame(np.nan, index=np.arange(len(there)), columns=list(SIGMA))
    if not there.any():
        return sigmas
    even, odd = (cell_parameters(cells[there]) for cells in (even_nm, odd_nm))
    apart = np.full((len(there), len(CELL)), np.nan)
    apart[there] = odd - even - np.median(odd - even, axis=0)
    for column, name in enumerate(SIGMA):
        sigmas[name] = np.where(there, noise_model_deg(apart[:, [column]], lattice_snr), np.nan)
    return sigmas


def wedge_factor(angles_deg: np.ndarray) -> float:
    """How much more of the replicas' turns is left where a wedge is missing between (T,) tilts, degrees.

    Examples
    --------
    >>> wedge_factor(np.arange(-90, 90, 1.5)), round(wedge_factor(np.arange(-70, 71, 2)), 3)
    (1.0, 1.5)
    """
    return 1 + WEDGE_EXCESS * min(widest_gap(angles_deg).missing_deg / WEDGE_DEG, 1.0)


def part_left(turns_deg: np.ndarray, taken_deg: np.ndarray, noise_deg: np.ndarray) -> float:
    """How much of the turns that replicas make in half sets is left when they are subtracted.

    Parameters
    ----------
    turns_deg
        (N, 3) turns between the halves without replicas, degrees.
    taken_deg
        (N, 3) by how much more they differed with them, degrees.
    noise_deg
        (N,) error that noise makes with all tilts; halves differ by twice as much.

    Returns
    -------
    Ratio of the root mean squares, by medians, noise taken off; at most 1.
    """

    def middle(vectors: np.ndarray) -> float:
        return float(np.nanmedian(np.sum(vectors**2, axis=1)))

    left = middle(turns_deg) - 0.789 * float(np.nanmedian(4 * noise_deg**2))  # the median of chi^2 over its mean
    return float(np.sqrt(np.clip(left / middle(taken_deg - np.nanmedian(taken_deg, axis=0)), 0, 1)))


def summary(table: pd.DataFrame, errors: pd.DataFrame, common_deg: np.ndarray) -> dict[str, Any]:
    """Numbers that stand for all dots.

    Parameters
    ----------
    table
        Of :func:`orientation.orient_dots`, or of :func:`orientation.without_lattice`.
    errors, common_deg
        Of :func:`half_set_sigmas`; a column ``sigma_deg`` of NaN where there are no half sets.

    Returns
    -------
    dict with ``n`` (dots accepted), ``accepted_fraction``, ``snr`` (median), ``sigma_deg`` (median),
    ``sigma_xyz_deg`` (error about x, y, z, list of 3), ``common_deg`` (list of 3), and ``a_nm, b_nm,
    c_nm``, each (mean, standard error). NaN where there is nothing to count.
    """
    accepted = table["qw"].notna().to_numpy()
    found: dict[str, Any] = {"n": int(accepted.sum()), "accepted_fraction": np.nan}
    if len(table):
        found["accepted_fraction"] = float(accepted.mean())
    found["snr"] = float(table["lattice_snr"].median())
    found["sigma_deg"] = float(errors["sigma_deg"].median())
    about = np.full(3, np.nan)
    if set(TURN) <= set(errors.columns):
        turns = errors[TURN]
        # which axis is worse the halves say, by how much σ does
        about = turns.abs().median().to_numpy()
        about = about / np.linalg.norm(about) * found["sigma_deg"]
    found["sigma_xyz_deg"] = about.tolist()
    found["common_deg"] = np.asarray(common_deg, float).tolist()
    for name in ("a_nm", "b_nm", "c_nm"):
        values = table[name].dropna() if name in table else pd.Series(dtype=float)
        error = values.std() / np.sqrt(len(values)) if len(values) > 1 else np.nan
        found[name] = (float(values.mean()), float(error))
    return found
