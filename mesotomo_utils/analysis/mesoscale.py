"""Shape of the superlattice: planarity, widths of planes, spread of directions.

Directions are split in the film frame (`lattice.film_frame`) into azimuth (in plane) and
elevation (out of plane). Definitions where the paper gives none are ours; each says so.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import norm

from mesotomo_utils.analysis import moments, statistics
from mesotomo_utils.analysis.statistics import FWHM_PER_SD, WIDTH_95_PER_SD, Estimate

SMALLEST_LAYER = 5


def layer_widths(
    values_nm: np.ndarray,
    design: np.ndarray,
    layer: np.ndarray,
    *,
    sigma_nm: np.ndarray | None = None,
    blocks: np.ndarray,
    n_resamples: int = 500,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Full width at half maximum of each layer's values about a linear function.

    Parameters
    ----------
    values_nm
        (N,) heights, or positions across a family of planes, nm.
    design
        (N, p) what is fitted and removed in each layer, beside a constant: x and y for a layer's
        plane; i and j for the rows of dots.
    layer
        (N,) layer numbers, 1 = C1.
    sigma_nm
        (N,) error of each value, nm; its mean square is taken off. None or NaN: not known.
    blocks
        (N, 2) `statistics.places` of the dots, or (N,) labels.
    n_resamples, rng
        Bootstrap draws and their source.

    Returns
    -------
    DataFrame with ``layer, n, fwhm_raw_nm, fwhm_nm``, each with ``_sigma, _low, _high``, and
    ``reason``. NaN with its reason where a layer has fewer than five dots or, for ``fwhm_nm``,
    without errors.

    Raises
    ------
    ValueError
        Lengths differ (all are named); a value is not finite (its row is named).

    Notes
    -----
    Fig. 2d of the paper. The Gaussian is fitted by maximum likelihood, which needs no bins: FWHM =
    2.355 sd, with as many degrees of freedom as remain after the fit.
    """
    values_nm, design = np.asarray(values_nm, float), np.asarray(design, float)
    layer, blocks = np.asarray(layer), np.asarray(blocks)
    lengths = [len(values_nm), len(design), len(layer), len(blocks)]
    if len(set(lengths)) > 1:
        raise ValueError(f"values, design, layer and blocks have different lengths: {lengths}")
    if not np.isfinite(values_nm).all():
        row = int(np.flatnonzero(~np.isfinite(values_nm))[0])
        raise ValueError(f"values_nm: row {row} is not finite; leave out dots without a position")
    sigma_nm = np.full(len(values_nm), np.nan) if sigma_nm is None else np.asarray(sigma_nm, float)
    numbers, counts, raws, cleans, reasons = np.unique(layer), [], [], [], []
    for number in numbers:
        rows = np.flatnonzero(layer == number)
        n, spare = len(rows), len(rows) - design.shape[1] - 1
        if n < SMALLEST_LAYER or spare < 2:
            raw = clean = statistics.missing(f"only {n} dots in the layer", n)
        else:
            residual = values_nm[rows] - plane_values(values_nm[rows], design[rows])
            noise = np.sqrt(moments.noise_variance(sigma_nm[rows])) * FWHM_PER_SD
            raw = _width(residual, spare, blocks[rows], n_resamples, rng)
            clean = statistics.remove_noise(raw, noise)
        counts.append(n)
        raws.append(raw)
        cleans.append(clean)
        reasons.append(clean.reason)
    return pd.DataFrame(
        {"layer": numbers.astype(int), "n": counts}
        | statistics.columns("fwhm_raw_nm", raws)
        | statistics.columns("fwhm_nm", cleans)
        | {"reason": reasons}
    )


def plane_values(values: np.ndarray, design: np.ndarray) -> np.ndarray:
    """Values of the least-squares fit of a constant and the columns of ``design``, (n,)."""
    full = np.column_stack([np.ones(len(values)), design - design.mean(0)])
    return full @ np.linalg.lstsq(full, values, rcond=None)[0]


def _width(residual, spare, blocks, n_resamples, rng) -> Estimate:
    """FWHM of residuals whose mean was fitted; the fit is kept while columns are weighed."""

    def width(rows: np.ndarray) -> float:
        return FWHM_PER_SD * np.sqrt(np.mean(residual[rows] ** 2) * len(residual) / spare)

    replicates = statistics.bootstrap(width, blocks, n_resamples=n_resamples, rng=rng)
    return statistics.interval(
        width(np.arange(len(residual))), replicates,
        n_blocks=statistics.n_blocks(blocks), n=len(residual), log=True,
    )  # fmt: skip


def quantile_fwhm(values: np.ndarray) -> float:
    """FWHM of the Gaussian whose quantiles fit the sorted values best; a variant to compare with.

    Parameters
    ----------
    values
        (n,) heights with the layer's plane removed.

    Notes
    -----
    A straight line through the probability plot. Unlike the maximum-likelihood width it follows
    the bulk of the heights where a few dots lie far off.
    """
    ordered = np.sort(np.asarray(values, float))
    expected = norm.ppf((np.arange(len(ordered)) + 0.5) / len(ordered))
    bulk = np.abs(expected) < norm.ppf(0.9)
    return float(FWHM_PER_SD * np.polyfit(expected[bulk], ordered[bulk], 1)[0])


def direction_angles(vectors: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Azimuth and elevation of directions about their own mean direction.

    Parameters
    ----------
    vectors
        (n, 3) lab directions, any length.
    frame
        (3, 3) film frame, columns, from `lattice.film_frame`.

    Returns
    -------
    (n, 2) degrees: in the film plane, and out of it. NaN rows stay NaN.
    """
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    film = unit @ np.asarray(frame)
    centre = np.nanmean(film, axis=0)
    azimuth = np.arctan2(film[:, 1], film[:, 0]) - np.arctan2(centre[1], centre[0])
    elevation = np.arcsin(np.clip(film[:, 2], -1, 1))
    mean_elevation = np.arcsin(centre[2] / np.linalg.norm(centre))
    azimuth = np.mod(azimuth + np.pi, 2 * np.pi) - np.pi
    return np.degrees(np.column_stack([azimuth, elevation - mean_elevation]))


def direction_table(first: np.ndarray, second: np.ndarray, *, frame: np.ndarray, layer: np.ndarray) -> pd.DataFrame:
    """Azimuth and elevation of two directions of every dot, and their stereographic projection.

    Parameters
    ----------
    first, second
        (N, 3) lab directions: a and b of the atomic lattice, or to the +A and +B neighbours; NaN
        where a dot has none.
    frame
        (3, 3) film frame, columns.
    layer
        (N,) layer numbers.

    Returns
    -------
    DataFrame with ``row, layer, direction`` (1 or 2), ``azimuth_deg, elevation_deg`` (each about
    the direction's own mean) and ``x, y`` of the stereographic projection along the film normal,
    where the circle of radius 1 is the film plane.
    """
    parts = []
    for number, vectors in enumerate((first, second), start=1):
        known = np.flatnonzero(np.isfinite(vectors).all(1))
        angles = direction_angles(vectors[known], frame) if known.size else np.empty((0, 2))
        projected = stereographic(vectors[known] @ np.asarray(frame))
        parts.append(pd.DataFrame({
            "row": known, "layer": np.asarray(layer)[known], "direction": number,
            "azimuth_deg": angles[:, 0], "elevation_deg": angles[:, 1],
            "x": projected[:, 0], "y": projected[:, 1],
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def stereographic(vectors: np.ndarray) -> np.ndarray:
    """Stereographic projection of directions along the third axis, upper hemisphere.

    Parameters
    ----------
    vectors
        (n, 3) directions; of v and -v the one with the third component ≥ 0 is drawn.

    Returns
    -------
    (n, 2) points within the unit circle.
    """
    vectors = np.asarray(vectors, float).reshape(-1, 3)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.where(unit[:, 2:] < 0, -unit, unit)
    return unit[:, :2] / (1 + unit[:, 2:])


def widths(angles_deg: np.ndarray) -> dict[str, float]:
    """Four measures of the spread of angles: central 95 % width, sd, FWHM and range, degrees.

    Notes
    -----
    The paper does not define its spread; ``width_95_deg`` is ours. FWHM is that of a Gaussian of
    the same standard deviation.
    """
    angles_deg = np.asarray(angles_deg, float)
    if angles_deg.size < 2:
        return dict.fromkeys(("width_95_deg", "sd_deg", "fwhm_deg", "range_deg"), np.nan)
    low, high = np.quantile(angles_deg, [0.025, 0.975])
    sd = float(np.sqrt(np.mean(angles_deg**2)))
    return {
        "width_95_deg": float(high - low), "sd_deg": sd, "fwhm_deg": float(FWHM_PER_SD * sd),
        "range_deg": float(np.ptp(angles_deg)),
    }  # fmt: skip


def direction_spread(
    table: pd.DataFrame,
    *,
    noise_deg: float,
    blocks: np.ndarray,
    n_resamples: int = 500,
    rng: np.random.Generator,
) -> dict[str, dict]:
    """Spread of two directions in and out of the film plane, pooled over both.

    Parameters
    ----------
    table
        From `direction_table`.
    noise_deg
        Standard deviation that errors of measurement give to each angle; NaN if not known.
    blocks
        (N, 2) `statistics.places` of the dots, or (N,) labels, by ``row`` of the table.

    Returns
    -------
    dict ``in_plane``, ``out_of_plane``, each with ``raw`` and ``clean`` (`Estimate`: central 95 %
    width, the noise's own width taken off in quadrature, which is exact for Gaussians) and
    `widths`' measures.
    """
    labels = np.asarray(blocks)[table["row"].to_numpy(int)]
    result = {}
    for name, column in (("in_plane", "azimuth_deg"), ("out_of_plane", "elevation_deg")):
        angles = table[column].to_numpy()
        if angles.size < 2 * SMALLEST_LAYER:
            gone = statistics.missing(f"only {angles.size} directions are known", angles.size)
            result[name] = {"raw": gone, "clean": gone} | widths(np.empty(0))
            continue

        measures = widths(angles)
        width = measures["width_95_deg"]
        pulls = statistics.quantile_pulls(angles, 0.975) - statistics.quantile_pulls(angles, 0.025)

        def widened(rows: np.ndarray, width=width, pulls=pulls) -> float:
            return width + pulls[rows].mean()

        replicates = statistics.bootstrap(widened, labels, n_resamples=n_resamples, rng=rng)
        raw = statistics.interval(
            width, replicates,
            n_blocks=statistics.n_blocks(labels), n=angles.size, log=True,
        )  # fmt: skip
        clean = statistics.remove_noise(raw, noise_deg * WIDTH_95_PER_SD)
        result[name] = {"raw": raw, "clean": clean} | measures
    return result


def neighbour_directions(xyz_nm: np.ndarray, pairs: pd.DataFrame, axis: str) -> np.ndarray:
    """(N, 3) unit vectors to the + neighbour along an axis; NaN where a dot has none."""
    chosen = pairs[pairs["axis"] == axis]
    first, second = chosen["row_1"].to_numpy(), chosen["row_2"].to_numpy()
    result = np.full((len(xyz_nm), 3), np.nan)
    steps = xyz_nm[second] - xyz_nm[first]
    result[first] = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    return result


def spread_summary(spread: dict[str, dict]) -> pd.DataFrame:
    """Lay the spreads of `direction_spread` out as a table.

    Parameters
    ----------
    spread
        What `direction_spread` returned, by kind (AL, SL).

    Returns
    -------
    DataFrame ``kind, direction, width_95_clean_deg`` and the four measures of `widths`, which are
    raw.
    """
    records = []
    for kind, parts in spread.items():
        for direction, part in parts.items():
            measures = {name: value for name, value in part.items() if name not in ("raw", "clean")}
            clean = {"width_95_clean_deg": part["clean"].value}
            records.append({"kind": kind, "direction": direction} | clean | measures)
    return pd.DataFrame(records)


def spread_ratio(first: dict, second: dict) -> Estimate:
    """Ratio of two total spreads, each the root of the squares in and out of the plane.

    Parameters
    ----------
    first, second
        What `direction_spread` returned.

    Returns
    -------
    Estimate; errors of the parts are propagated in the logarithm.
    """
    totals, relative = [], []
    for spread in (first, second):
        parts = [spread[name]["clean"] for name in ("in_plane", "out_of_plane")]
        gone = next((part for part in parts if not np.isfinite(part.value)), None)
        if gone is not None:
            return gone
        total = np.hypot(parts[0].value, parts[1].value)
        if total == 0:
            return statistics.missing("no spread beyond the noise", parts[0].n)
        error = np.hypot(*(part.value * part.sigma / total**2 for part in parts))
        totals.append(total)
        relative.append(error)
    ratio, error = totals[0] / totals[1], np.hypot(*relative)
    factor = np.exp(1.96 * error)
    n = parts[0].n
    return Estimate(float(ratio), float(ratio * error), float(ratio / factor), float(ratio * factor), n)
