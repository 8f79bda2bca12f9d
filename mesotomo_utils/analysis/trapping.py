"""How far the dots are from the perfect lattice: displaced from its sites, turned from R_mono.

The perfect lattice is one triclinic cell fitted robustly to all centres; its dots all have the
orientation R_mono, the co-facial optimum of the mean cell. What a dot lacks to it was trapped
when the superlattice formed (Fig. 5 of the paper).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.analysis import moments, statistics
from mesotomo_utils.analysis.dots import sigma_along
from mesotomo_utils.analysis.statistics import Estimate

DIRECTIONS = ("a", "b", "c", "n")


def fit_lattice(
    xyz_nm: np.ndarray, indices: np.ndarray, *, iterations: int = 30, tuning: float = 4.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit one perfect lattice to all centres so that a few displaced dots do not bend it.

    Parameters
    ----------
    xyz_nm
        (N, 3) centres, lab frame, nm.
    indices
        (N, 3) lattice indices i, j, k.
    iterations, tuning
        Iteratively reweighted least squares with Tukey's weights, which vanish for residuals
        beyond ``tuning`` times the median length of a residual.

    Returns
    -------
    cell (3, 3) with columns A, B, C, nm; origin (3,), nm; displacements (N, 3) from the sites, nm.

    Raises
    ------
    ValueError
        The shapes differ (both are named); a centre is not finite (its row is named); the sites
        lie in one plane, so that no cell can be fitted.
    """
    xyz_nm, indices = np.asarray(xyz_nm, float), np.asarray(indices, float)
    if xyz_nm.shape != indices.shape or xyz_nm.ndim != 2 or xyz_nm.shape[1] != 3:
        raise ValueError(f"xyz_nm and indices must both be (N, 3), found {xyz_nm.shape} and {indices.shape}")
    if not np.isfinite(xyz_nm).all():
        row = int(np.flatnonzero(~np.isfinite(xyz_nm).all(1))[0])
        raise ValueError(f"xyz_nm: row {row} is not finite; leave out dots without a position")
    design = np.column_stack([indices, np.ones(len(indices))])
    if np.linalg.matrix_rank(design) < 4:
        raise ValueError(f"indices: the {len(indices)} sites lie in one plane; a cell needs two layers at least")
    weight = np.ones(len(xyz_nm))
    for _ in range(iterations):
        root = np.sqrt(weight)[:, None]
        fitted = np.linalg.lstsq(design * root, xyz_nm * root, rcond=None)[0]
        residual = xyz_nm - design @ fitted
        length = np.linalg.norm(residual, axis=1)
        scale = tuning * np.median(length)
        if scale < 1e-12:
            break
        updated = np.maximum(1.0 - (length / scale) ** 2, 0.0) ** 2
        if np.abs(updated - weight).max() < 1e-9:
            break
        weight = updated
    return fitted[:3].T, fitted[3], residual


def directions(cell: np.ndarray) -> np.ndarray:
    """(4, 3) unit vectors along A, B, C and the film normal, lab frame."""
    unit = cell / np.linalg.norm(cell, axis=0)
    return np.vstack([unit.T, lattice.film_normal(cell)])


def dot_table(
    dots: pd.DataFrame,
    rotations: np.ndarray,
    mono: np.ndarray,
    cell: np.ndarray,
    displacement_nm: np.ndarray,
) -> pd.DataFrame:
    """Misorientation from R_mono and displacement from the perfect lattice of every dot.

    Parameters
    ----------
    dots
        Table from `dots.join`.
    rotations
        (N, 3, 3) orientations, reduced by symmetry; NaN where not known.
    mono
        (3, 3) R_mono, crystal to lab.
    cell
        (3, 3) cell of the perfect lattice, columns A, B, C, nm.
    displacement_nm
        (N, 3) from `fit_lattice`.

    Returns
    -------
    DataFrame ``qd, layer, at_edge, misorientation_deg, sigma_deg, turn_a_deg, turn_b_deg,
    turn_c_deg`` (rotation vector from R_mono in its crystal frame), ``displacement_a_nm`` …
    ``_b_``, ``_c_``, ``_n_`` (components along A, B, C and the film normal) and ``sigma_a_nm`` …
    ``sigma_n_nm``.
    """
    turn = turn_vectors(rotations, mono)
    table = dots[["qd", "layer", "at_edge"]].reset_index(drop=True)
    table["misorientation_deg"] = np.linalg.norm(turn, axis=1)
    table["sigma_deg"] = dots["sigma_deg"].to_numpy(float)
    table[["turn_a_deg", "turn_b_deg", "turn_c_deg"]] = turn
    unit = directions(cell)
    for name, direction in zip(DIRECTIONS, unit, strict=True):
        table[f"displacement_{name}_nm"] = displacement_nm @ direction
    for name, direction in zip(DIRECTIONS, unit, strict=True):
        table[f"sigma_{name}_nm"] = sigma_along(dots, direction)
    return table


def turn_vectors(rotations: np.ndarray, mono: np.ndarray) -> np.ndarray:
    """(N, 3) rotation vectors from R_mono, degrees, of the equivalent nearest to it; NaN where
    unknown.
    """
    known = np.isfinite(rotations).all((1, 2))
    turn = np.full((len(rotations), 3), np.nan)
    if known.any():
        # the equivalent with the largest trace is the one with the smallest angle
        relative = np.asarray(mono).T @ rotations[known]
        symmetry = lattice.cubic_rotations()
        best = np.argmax(np.einsum("nij,eji->ne", relative, symmetry), axis=1)
        turn[known] = np.degrees(lattice.rotation_vectors(relative @ symmetry[best]))
    return turn


def misorientation(
    turn_deg: np.ndarray,
    layer: np.ndarray,
    sigma_deg: np.ndarray,
    blocks: np.ndarray,
    *,
    n_resamples: int = 200,
    rng: np.random.Generator,
) -> dict[str, Estimate]:
    """Mean and rms misorientation from R_mono, raw and without noise.

    Parameters
    ----------
    turn_deg
        (N, 3) from `turn_vectors`; NaN where unknown.
    layer
        (N,) layers: the noise is taken off within each, because their means differ.
    sigma_deg
        (N,) errors, degrees; NaN where unknown.
    blocks
        (N, 2) `statistics.places` of the dots, or (N,) labels.

    Returns
    -------
    dict ``mean_raw, mean, rms_raw, rms`` of `Estimate`, degrees, for the R_mono given.
    """
    known = np.flatnonzero(np.isfinite(turn_deg).all(1))
    if len(known) < 5:
        gone = statistics.missing(f"only {len(known)} dots with an orientation", len(known))
        return dict.fromkeys(("mean_raw", "mean", "rms_raw", "rms"), gone)
    turn, own = turn_deg[known], blocks[known]
    noise = moments.noise_variance(sigma_deg[known])
    theta = np.linalg.norm(turn, axis=1)
    group = np.unique(layer[known], return_inverse=True)[1]

    def angles(rows: np.ndarray) -> np.ndarray:
        square = np.mean(theta[rows] ** 2)
        total = 0.0
        for number in range(group.max() + 1):
            part = rows[group[rows] == number]
            if len(part) >= 4:
                total += len(part) * moments.mean_length(turn[part], noise)
            else:  # too few for their own moments: shrink them like the rest
                total += np.sum(theta[part]) * np.sqrt(max(1 - noise / square, 0.0)) if len(part) else 0.0
        rms = np.sqrt(max(square - noise, 0.0)) if np.isfinite(noise) else np.nan
        return np.array([theta[rows].mean(), total / len(rows), np.sqrt(square), rms])

    everything = angles(np.arange(len(known)))
    replicates = statistics.bootstrap(angles, own, n_resamples=n_resamples, rng=rng)
    return {
        name: statistics.interval(
            everything[c], replicates[:, c], n_blocks=statistics.n_blocks(own), n=len(known),
            bounds=(0.0, 180.0), reason="the errors of the orientations are unknown",
        )
        for c, name in enumerate(("mean_raw", "mean", "rms_raw", "rms"))
    }  # fmt: skip


def widen_by_reference(found: Estimate, values: np.ndarray, *, lowest: float = 0.0) -> Estimate:
    """Let the uncertainty of the reference orientation enter an interval.

    Parameters
    ----------
    found
        Estimate for the best reference.
    values
        The same quantity for every other reference that is as good (orientations near R_mono's
        optimum).
    lowest
        Smallest possible value.

    Returns
    -------
    Estimate whose interval covers the sample's interval about the value of every reference.
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if not np.isfinite(found.value) or values.size == 0 or not np.isfinite(found.low):
        return found
    low = min(found.low, found.low + values.min() - found.value)
    high = max(found.high, found.high + values.max() - found.value)
    sigma = float(np.hypot(found.sigma, np.sqrt(np.mean((values - found.value) ** 2))))
    return Estimate(found.value, sigma, max(low, lowest), high, found.n)


def displacement_sd(
    table: pd.DataFrame,
    direction: str,
    blocks: np.ndarray,
    *,
    fitted: int = 4,
    n_resamples: int = 300,
    rng: np.random.Generator,
) -> dict[str, Estimate]:
    """Standard deviation of the displacements along one direction, raw and without noise.

    Parameters
    ----------
    table
        From `dot_table`, all dots or one layer's.
    direction
        a, b, c or n.
    blocks
        Labels of the rows of ``table``.
    fitted
        Parameters per coordinate that were fitted to these dots: 4 for the lattice, 1 for a
        layer's mean, which is removed in any case.

    Returns
    -------
    dict ``raw`` and ``clean`` (`Estimate`), nm.

    Raises
    ------
    ValueError
        The direction is none of the four.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction: expected one of {', '.join(DIRECTIONS)}, found {direction!r}")
    value = table[f"displacement_{direction}_nm"].to_numpy(float)
    if len(value) < max(5, fitted + 2):
        gone = statistics.missing(f"only {len(value)} dots", len(value))
        return {"raw": gone, "clean": gone}
    square = (value - value.mean()) ** 2 * len(value) / (len(value) - fitted)
    replicates = statistics.bootstrap(
        lambda rows: np.sqrt(square[rows].mean()), blocks, n_resamples=n_resamples, rng=rng
    )
    raw = statistics.interval(
        np.sqrt(square.mean()), replicates, n_blocks=statistics.n_blocks(blocks), n=len(value), log=True
    )
    noise = np.sqrt(moments.noise_variance(table[f"sigma_{direction}_nm"]))
    return {"raw": raw, "clean": statistics.remove_noise(raw, noise)}


def layer_table(
    table: pd.DataFrame,
    references: np.ndarray,
    rotations: np.ndarray,
    blocks: np.ndarray,
    *,
    n_resamples: int = 200,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Misorientation and displacements of every layer.

    Parameters
    ----------
    table
        From `dot_table`.
    references
        (M, 3, 3) orientations near the optimum of R_mono; M may be 0.
    rotations
        (N, 3, 3) orientations of the rows of ``table``.
    blocks
        (N, 2) `statistics.places` of the dots, or (N,) labels.

    Returns
    -------
    DataFrame ``layer, n``; with ``_sigma, _low, _high`` each ``misorientation_deg`` (mean,
    without noise, R_mono's own uncertainty in the interval), ``misorientation_raw_deg``,
    ``displacement_sd_a_nm`` … ``_n_nm`` (without noise, about the layer's mean);
    ``low_deg``, ``high_deg`` (central 95 % of the dots, raw);
    ``displacement_sd_raw_*_nm`` and ``displacement_mean_n_nm``.
    """
    turn = table[["turn_a_deg", "turn_b_deg", "turn_c_deg"]].to_numpy(float)
    records = []
    for number in np.unique(table["layer"]):
        rows = np.flatnonzero(table["layer"] == number)
        part, own = table.iloc[rows], blocks[rows]
        layer, sigma = part["layer"].to_numpy(), part["sigma_deg"].to_numpy()
        angle = misorientation(turn[rows], layer, sigma, own, n_resamples=n_resamples, rng=rng)
        known = rows[np.isfinite(turn[rows]).all(1)]
        noise = moments.noise_variance(table["sigma_deg"].to_numpy()[known])
        others = [moments.mean_length(turn_vectors(rotations[known], m), noise) for m in references]
        found = {
            "misorientation_deg": widen_by_reference(angle["mean"], np.array(others)),
            "misorientation_raw_deg": angle["mean_raw"],
        }
        record: dict = {"layer": int(number), "n": len(rows), "reason": angle["mean"].reason}
        for direction in DIRECTIONS:
            sd = displacement_sd(part, direction, own, fitted=1, n_resamples=n_resamples, rng=rng)
            found[f"displacement_sd_{direction}_nm"] = sd["clean"]
            record[f"displacement_sd_raw_{direction}_nm"] = sd["raw"].value
        record["displacement_mean_n_nm"] = part["displacement_n_nm"].mean()
        record["low_deg"] = record["high_deg"] = np.nan
        if len(known) >= 5:
            ends = np.quantile(table["misorientation_deg"].to_numpy()[known], [0.025, 0.975])
            record["low_deg"], record["high_deg"] = ends
        for name, estimate in found.items():
            record |= {key: value[0] for key, value in statistics.columns(name, [estimate]).items()}
        records.append(record)
    return pd.DataFrame(records)


def interior_contrast(layers: pd.DataFrame, name: str) -> Estimate:
    """Mean of the interior layers less the mean of the bottom and the top layer.

    Parameters
    ----------
    layers
        From `layer_table`, one row for each layer, bottom to top.
    name
        A column with ``_sigma, _low, _high``.

    Returns
    -------
    Estimate; the errors of the layers count as independent, and their intervals, wider where a layer has few
    independent columns, are added in quadrature. NaN for fewer than three layers.
    """
    value = layers[name].to_numpy(float)
    sigma = layers[f"{name}_sigma"].to_numpy(float)
    half = (layers[f"{name}_high"] - layers[f"{name}_low"]).to_numpy(float) / 2
    n = len(value)
    if n < 3 or not np.isfinite(value).all():
        return statistics.missing("a layer has no value, or there are fewer than three layers", n)
    weight = np.full(n, 1.0 / (n - 2))
    weight[[0, -1]] = -0.5
    error, reach = (float(np.sqrt(np.sum((weight * each) ** 2))) for each in (sigma, half))
    difference = float(weight @ value)
    return Estimate(difference, error, difference - reach, difference + reach, n)


def displacement_difference(
    table: pd.DataFrame,
    directions: tuple[str, str],
    blocks: np.ndarray,
    *,
    fitted: int = 4,
    n_resamples: int = 300,
    rng: np.random.Generator,
) -> Estimate:
    """Standard deviation of the displacements along one direction less that along another, without noise.

    Parameters
    ----------
    table, blocks, fitted
        As for `displacement_sd`.
    directions
        Two of a, b, c, n.

    Returns
    -------
    Estimate, nm; both are resampled together, because the dots are the same.
    """
    if len(table) < max(5, fitted + 2):
        return statistics.missing(f"only {len(table)} dots", len(table))
    value = table[[f"displacement_{d}_nm" for d in directions]].to_numpy(float)
    square = (value - value.mean(axis=0)) ** 2 * len(value) / (len(value) - fitted)
    noise = np.array([moments.noise_variance(table[f"sigma_{d}_nm"]) for d in directions])

    def difference(rows: np.ndarray) -> float:
        first, second = np.sqrt(np.maximum(square[rows].mean(axis=0) - noise, 0.0))
        return first - second

    replicates = statistics.bootstrap(difference, blocks, n_resamples=n_resamples, rng=rng)
    return statistics.interval(
        difference(np.arange(len(value))), replicates, n_blocks=statistics.n_blocks(blocks), n=len(value),
        reason="the errors of the centres are unknown",
    )  # fmt: skip


def width_contrast(
    table: pd.DataFrame, blocks: np.ndarray, *, n_resamples: int = 300, rng: np.random.Generator
) -> Estimate:
    """How much wider the misorientation is spread within interior layers than within the bottom and the top one.

    Parameters
    ----------
    table
        From `dot_table`.
    blocks
        (N, 2) `statistics.places` of the dots, or (N,) labels.

    Returns
    -------
    Estimate, degrees: of the widths that hold the central 95 % of a Gaussian, raw, the mean over the interior layers
    less that of the two others. NaN for fewer than three layers, or fewer than five orientations in one of them.
    """
    known = np.flatnonzero(np.isfinite(table["misorientation_deg"]))
    angle, own = table["misorientation_deg"].to_numpy(float)[known], np.asarray(blocks)[known]
    group = np.unique(table["layer"], return_inverse=True)[1]
    n_layers, group = int(group.max(initial=-1)) + 1, group[known]
    count = np.bincount(group, minlength=n_layers)
    if n_layers < 3 or count.min() < 5:
        return statistics.missing("fewer than three layers, or a layer with fewer than five orientations", len(known))

    def difference(rows: np.ndarray) -> float:
        size = np.bincount(group[rows], minlength=n_layers)
        mean = np.bincount(group[rows], angle[rows], n_layers) / size
        width = np.sqrt(np.bincount(group[rows], (angle[rows] - mean[group[rows]]) ** 2, n_layers) / (size - 1))
        return float(statistics.WIDTH_95_PER_SD * (width[1:-1].mean() - width[[0, -1]].mean()))

    replicates = statistics.bootstrap(difference, own, n_resamples=n_resamples, rng=rng)
    return statistics.interval(
        difference(np.arange(len(known))), replicates, n_blocks=statistics.n_blocks(own), n=len(known)
    )
