"""Misorientation of neighbours: common axis, explained variance, twist, mean angle.

δ = θ ξ is the rotation vector of R_iᵀ R_j in the crystal frame of dot i, where j is its +A, +B or
+C neighbour. Every second moment is corrected for the errors of measurement, which add
isotropically: ⟨δ δᵀ⟩ − (σ_i² + σ_j²)/3 · 1. Single angles are never corrected.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.analysis import moments, statistics
from mesotomo_utils.analysis.statistics import Estimate

DELTA = ["delta_a_deg", "delta_b_deg", "delta_c_deg"]
# The axes that the paper's finding is held against; signs have no meaning.
REFERENCE_AXES = {"[-1 2 0]": (-1.0, 2.0, 0.0), "[1 1 0]": (1.0, 1.0, 0.0)}


def relative_rotations(rotations: np.ndarray, pairs: pd.DataFrame) -> np.ndarray:
    """(P, 3) rotation vectors δ of R_iᵀ R_j, degrees, crystal frame of i; NaN where one is
    unknown.

    Parameters
    ----------
    rotations
        (N, 3, 3) orientations, reduced by symmetry; NaN where not known.
    pairs
        Table with ``row_1, row_2``.
    """
    first, second = pairs["row_1"].to_numpy(int), pairs["row_2"].to_numpy(int)
    relative = np.swapaxes(rotations[first], 1, 2) @ rotations[second]
    known = np.isfinite(relative).all((1, 2))
    vectors = np.full((len(pairs), 3), np.nan)
    if known.any():
        vectors[known] = np.degrees(lattice.rotation_vectors(relative[known]))
    return vectors


def pair_table(rotations: np.ndarray, pairs: pd.DataFrame, sigma_deg: np.ndarray) -> pd.DataFrame:
    """Misorientation of every neighbour pair whose two orientations are known.

    Parameters
    ----------
    rotations
        (N, 3, 3) orientations, crystal to lab, reduced by symmetry.
    pairs
        From `dots.neighbour_pairs`.
    sigma_deg
        (N,) rms error of each orientation, degrees; NaN where not known.

    Returns
    -------
    DataFrame ``qd_1, qd_2, axis, theta_deg, sigma_deg, delta_a_deg, delta_b_deg, delta_c_deg,
    twist, row_1, row_2, layer``. Twist is |a·ξ| for A pairs, |b·ξ| for B, |c·ξ| for C: 0 where
    the turn tilts the neck, 1 where it twists it; NaN where θ = 0.

    Raises
    ------
    ValueError
        Orientations and errors differ in number (both are named).
    """
    if len(rotations) != len(sigma_deg):
        raise ValueError(f"rotations and sigma_deg have different lengths: {len(rotations)} and {len(sigma_deg)}")
    delta = relative_rotations(rotations, pairs)
    known = np.isfinite(delta).all(1)
    table = pairs[known].reset_index(drop=True)
    delta = delta[known]
    theta = np.linalg.norm(delta, axis=1)
    along = np.abs(delta[np.arange(len(delta)), table["axis"].map({"A": 0, "B": 1, "C": 2})])
    twist = np.divide(along, theta, out=np.full(len(theta), np.nan), where=theta > 1e-9)
    sigma = np.asarray(sigma_deg, float)[table[["row_1", "row_2"]].to_numpy(int)]
    table["theta_deg"], table["sigma_deg"] = theta, np.sqrt(np.sum(sigma**2, axis=1))
    table[DELTA] = delta
    table["twist"] = twist
    order = [
        "qd_1",
        "qd_2",
        "axis",
        "theta_deg",
        "sigma_deg",
        *DELTA,
        "twist",
        "row_1",
        "row_2",
        "layer",
    ]
    return table[order]


def second_moment(delta: np.ndarray, noise: float = 0.0) -> np.ndarray:
    """(3, 3) mean of δ δᵀ less an isotropic noise of mean square ``noise``."""
    return delta.T @ delta / len(delta) - np.eye(3) * noise / 3.0


def common_axis(moment: np.ndarray) -> tuple[np.ndarray, float]:
    """Axis that carries most of a second moment, and the share it carries.

    Parameters
    ----------
    moment
        (3, 3) symmetric, from `second_moment`.

    Returns
    -------
    unit axis (3,), its largest component positive because the sign means nothing, and the share of
    the trace; NaN where the trace is not positive.
    """
    values, axes = np.linalg.eigh(moment)
    axis = axes[:, -1]
    axis = axis * np.sign(axis[np.argmax(np.abs(axis))])
    trace = values.sum()
    if trace <= 1e-12:
        return np.full(3, np.nan), np.nan
    return axis, float(min(values[-1] / trace, 1.0))


def axis_angles(axis: np.ndarray) -> dict[str, float]:
    """Angles of a sign-free axis to [-1 2 0], to [1 1 0] and to the nearest of the ⟨120⟩ family,
    degrees.
    """
    family = [
        np.array(p, float)
        for a, b, c in ((1, 2, 0), (2, 1, 0), (0, 1, 2), (0, 2, 1), (1, 0, 2), (2, 0, 1))
        for p in ((a, b, c), (-a, b, c) if a else (a, -b, c))
    ]
    angles = {
        name: float(lattice.direction_angle_deg(np.asarray(axis), np.array(reference)))
        for name, reference in REFERENCE_AXES.items()
    }
    return angles | {"<120>": min(float(lattice.direction_angle_deg(np.asarray(axis), f)) for f in family)}


def axis_and_variance(
    table: pd.DataFrame, blocks: np.ndarray, *, n_resamples: int = 500, rng: np.random.Generator
) -> dict:
    """Common axis of the neighbours' misorientation and the variance it explains, raw and
    corrected.

    Parameters
    ----------
    table
        From `pair_table`.
    blocks
        (N, 2) `statistics.places` of the dots, or (N,) labels.

    Returns
    -------
    dict with ``axis`` (corrected; raw where errors are unknown), ``axis_raw``,
    ``axis_scatter_deg`` (95 % of the bootstrap axes lie within this angle), ``variance``,
    ``variance_raw`` and ``angle_120`` (to [-1 2 0]), ``angle_110``, ``angle_family`` (`Estimate`).
    """
    delta = table[DELTA].to_numpy(float)
    if len(delta) < 10:
        gone = statistics.missing(f"only {len(delta)} pairs with two orientations", len(delta))
        none = np.full(3, np.nan)
        return {"axis": none, "axis_raw": none, "axis_scatter_deg": np.nan} | dict.fromkeys(
            ("variance", "variance_raw", "angle_120", "angle_110", "angle_family"), gone
        )
    noise = moments.noise_variance(table["sigma_deg"])
    own = statistics.pair_blocks(blocks, table)
    products = np.einsum("pi,pj->pij", delta, delta)
    off = np.eye(3) * (noise if np.isfinite(noise) else 0.0) / 3.0

    main = common_axis(products.mean(0) - off)[0]

    def describe(rows: np.ndarray) -> np.ndarray:
        moment = products[rows].mean(0)
        axis, share = common_axis(moment - off)
        axis = axis if axis @ main >= 0 else -axis  # the sign means nothing, and must not jump
        return np.array([share, common_axis(moment)[1], *axis_angles(axis).values(), *axis])

    everything = describe(np.arange(len(delta)))
    replicates = statistics.bootstrap(describe, own, n_resamples=n_resamples, rng=rng)
    n_blocks = statistics.n_blocks(own)
    bounds = [(1 / 3, 1.0)] * 2 + [(0.0, 90.0)] * 3
    found = [
        statistics.interval(
            everything[c], replicates[:, c], n_blocks=n_blocks, n=len(delta), bounds=b,
            reason="no misorientation beyond the noise",
        )
        for c, b in enumerate(bounds)
    ]  # fmt: skip
    if not np.isfinite(noise):
        found[0] = statistics.missing("the errors of the orientations are unknown", len(delta))
    axis = everything[5:]
    swing = lattice.direction_angle_deg(replicates[:, 5:], axis[None])
    scatter = float(np.nanquantile(swing, 0.95)) if np.isfinite(axis).all() else np.nan
    names = ("variance", "variance_raw", "angle_120", "angle_110", "angle_family")
    result = {"axis": axis, "axis_raw": common_axis(products.mean(0))[0]}
    return result | {"axis_scatter_deg": scatter} | dict(zip(names, found, strict=True))


def model_twist(moment: np.ndarray, axis: int) -> float:
    """Mean |ξ·e| of normally distributed δ with a given second moment, e the axis numbered 0 to
    2.
    """
    vectors = moments.normal_vectors(moment)
    lengths = np.linalg.norm(vectors, axis=1)
    if lengths.max() < 1e-9:
        return np.nan
    return float(np.mean(np.abs(vectors[:, axis]) / np.maximum(lengths, 1e-12)))


def twist(
    table: pd.DataFrame,
    axis: str,
    blocks: np.ndarray,
    *,
    n_resamples: int = 200,
    rng: np.random.Generator,
) -> dict[str, Estimate]:
    """Mean twist of the pairs along one direction, raw and without noise.

    Parameters
    ----------
    table
        From `pair_table`.
    axis
        A, B or C.

    Returns
    -------
    dict with ``raw`` and ``clean`` (`Estimate`). Noise draws the twist to 0.5. It is corrected
    through the second moments: the measured mean is moved by what the noise changes for normally
    distributed δ with the measured moments.
    """
    chosen = table[table["axis"] == axis]
    if len(chosen) < 10:
        gone = statistics.missing(f"only {len(chosen)} {axis} pairs with two orientations", len(chosen))
        return {"raw": gone, "clean": gone}
    delta, value = chosen[DELTA].to_numpy(float), chosen["twist"].to_numpy(float)
    noise = moments.noise_variance(chosen["sigma_deg"])
    own, number = statistics.pair_blocks(blocks, chosen), "ABC".index(axis)

    def mean_twist(rows: np.ndarray) -> np.ndarray:
        raw = np.nanmean(value[rows]) if np.isfinite(value[rows]).any() else np.nan
        if not np.isfinite(noise):
            return np.array([raw, np.nan])
        if noise == 0.0:
            return np.array([raw, raw])
        moment = second_moment(delta[rows])
        without = model_twist(moment - np.eye(3) * noise / 3, number)
        return np.array([raw, raw + without - model_twist(moment, number)])

    everything = mean_twist(np.arange(len(delta)))
    replicates = statistics.bootstrap(mean_twist, own, n_resamples=n_resamples, rng=rng)
    common = {"n_blocks": statistics.n_blocks(own), "n": len(delta), "bounds": (0.0, 1.0)}
    reason = "no misorientation" if np.isfinite(noise) else "the errors of the orientations are unknown"
    return {
        "raw": statistics.interval(everything[0], replicates[:, 0], reason="no misorientation", **common),
        "clean": statistics.interval(np.clip(everything[1], 0, 1), replicates[:, 1], reason=reason, **common),
    }


def mean_angle(
    table: pd.DataFrame, blocks: np.ndarray, *, n_resamples: int = 200, rng: np.random.Generator
) -> dict[str, Estimate]:
    """Mean and rms misorientation of pairs, raw and without noise, degrees.

    Parameters
    ----------
    table
        From `pair_table`, all or a selection of rows.

    Returns
    -------
    dict with ``mean_raw, mean, rms_raw, rms``.
    """
    delta = table[DELTA].to_numpy(float)
    if len(delta) < 5:
        gone = statistics.missing(f"only {len(delta)} pairs with two orientations", len(delta))
        return dict.fromkeys(("mean_raw", "mean", "rms_raw", "rms"), gone)
    noise = moments.noise_variance(table["sigma_deg"])
    theta, own = table["theta_deg"].to_numpy(float), statistics.pair_blocks(blocks, table)

    def angles(rows: np.ndarray) -> np.ndarray:
        square = np.mean(theta[rows] ** 2)
        # δ has no preferred sign, so that only its second moment enters the model
        clean = _mean_without_noise(delta[rows], theta[rows].mean(), noise)
        return np.array([theta[rows].mean(), clean, np.sqrt(square), np.sqrt(np.maximum(square - noise, 0))])

    everything = angles(np.arange(len(delta)))
    replicates = statistics.bootstrap(angles, own, n_resamples=n_resamples, rng=rng)
    n_blocks = statistics.n_blocks(own)
    return {
        name: statistics.interval(
            everything[c], replicates[:, c], n_blocks=n_blocks, n=len(delta), bounds=(0.0, 180.0),
            reason="the errors of the orientations are unknown",
        )
        for c, name in enumerate(("mean_raw", "mean", "rms_raw", "rms"))
    }  # fmt: skip


def _mean_without_noise(delta: np.ndarray, measured: float, noise: float) -> float:
    if not np.isfinite(noise):
        return np.nan
    moment = second_moment(delta)
    with_noise = np.linalg.norm(moments.normal_vectors(moment), axis=1).mean()
    clean = moments.normal_vectors(moment - np.eye(3) * noise / 3)
    return measured * np.linalg.norm(clean, axis=1).mean() / with_noise if with_noise > 1e-12 else 0.0
