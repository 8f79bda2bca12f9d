"""Estimates with intervals: spatial bootstrap, noise in quadrature, equivalence.

Neighbouring dots resemble each other, so that a bootstrap that draws single dots believes in more
independent evidence than there is. Here columns of the film are what varies: they run through all
layers, because the layers are what is compared. By their `places` every column counts more or less
by a random number that columns side by side have in common (the dependent wild bootstrap,
doi:10.1198/jasa.2009.tm08744, on the linearised statistic). Whole blocks of columns are drawn where
a statistic is not linear (`column_blocks`): they cut neighbours apart at their rims, and in a needle
most dots stand at a rim.

An error of measurement of a single dot is part of the scatter that the bootstrap sees, so that an
interval holds both; errors that all dots share must be added by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from scipy.spatial.distance import cdist

FWHM_PER_SD = 2.0 * np.sqrt(2.0 * np.log(2.0))
WIDTH_95_PER_SD = 2.0 * stats.norm.ppf(0.975)


@dataclass(frozen=True)
class Estimate:
    """A number, its standard error and its 95 % interval.

    Attributes
    ----------
    value, sigma
        The number and one standard error, in the unit of the name under which it is recorded.
    low, high
        Ends of the 95 % interval; NaN where there are too few blocks.
    n
        Number of dots or pairs behind it.
    reason
        Why the value is NaN; None where it is not.
    """

    value: float
    sigma: float = np.nan
    low: float = np.nan
    high: float = np.nan
    n: int | None = None
    reason: str | None = None

    def as_result(self) -> dict:
        """Return the keyword arguments of ``results.value`` apart from name, unit and index."""
        known = np.isfinite(self.low) and np.isfinite(self.high)
        return {
            "value": float(self.value),
            "sigma": float(self.sigma) if np.isfinite(self.sigma) else None,
            "interval_95": [float(self.low), float(self.high)] if known else None,
            "n": None if self.n is None else int(self.n),
            "reason": self.reason,
        }


def missing(reason: str, n: int | None = None) -> Estimate:
    """Return an estimate without a value that says why."""
    return Estimate(np.nan, n=n, reason=reason)


def column_blocks(xy_nm: np.ndarray, *, spacing_nm: float, dots_per_block: int = 4) -> np.ndarray:
    """Label columns of the film that are resampled as a whole.

    Parameters
    ----------
    xy_nm, spacing_nm
        As for `places`, which it refuses with.
    dots_per_block
        Dots of one layer that a block should hold. Where fewer than eight blocks of this size
        cover the film, single columns of dots are used, so that an interval can be given at all.

    Returns
    -------
    (N,) labels 0 … B-1.
    """
    place = places(xy_nm, spacing_nm=spacing_nm)
    for per_side in (np.sqrt(dots_per_block), 1.0):
        cells = np.floor((place - place.min(0)) / per_side + 0.25).astype(int)
        labels = np.unique(cells, axis=0, return_inverse=True)[1].ravel()
        if labels.max(initial=-1) + 1 >= 8:
            break
    return labels


REACH = 1.5  # spacings over which columns of dots vary together; see `places`
MOST_COLUMNS = 150  # of a wide film several are counted as one: there are enough of them


def places(xy_nm: np.ndarray, *, spacing_nm: float) -> np.ndarray:
    """Positions in the plane of the film, in distances of neighbouring dots: ``blocks`` without rims.

    Parameters
    ----------
    xy_nm
        (N, 2) positions in the plane of the film, nm.
    spacing_nm
        Distance of neighbouring dots in the plane, nm.

    Returns
    -------
    (N, 2) places. Columns of dots at a distance d vary together by exp(-d²/2ρ²), ρ = 1.5: nearly
    fully for next neighbours, which share pairs and walls, and no more at four spacings. Where
    this would leave less than half a dozen independent columns, ρ is smaller.

    Raises
    ------
    ValueError
        The positions are not (N, 2) or not finite; the spacing is not positive.
    """
    xy_nm = np.asarray(xy_nm, float)
    if xy_nm.ndim != 2 or xy_nm.shape[1] != 2:
        raise ValueError(f"xy_nm: expected (N, 2) positions in the film plane, found {xy_nm.shape}")
    if not np.isfinite(xy_nm).all():
        row = int(np.flatnonzero(~np.isfinite(xy_nm).all(1))[0])
        raise ValueError(f"xy_nm: row {row} is not finite; leave out dots without a position")
    if not spacing_nm > 0:
        raise ValueError(f"spacing_nm: expected a positive length, found {spacing_nm}")
    return xy_nm / spacing_nm


def pair_blocks(blocks: np.ndarray, table: pd.DataFrame) -> np.ndarray:
    """Blocks of pairs: the place half-way between the dots ``row_1`` and ``row_2``, or the label of the first."""
    first = blocks[table["row_1"]]
    return first if blocks.ndim == 1 else (first + blocks[table["row_2"]]) / 2


def _columns(blocks: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Rows of each column of dots, and how far each two of them vary together."""
    edge = 1
    while True:
        cells = np.round(blocks / edge).astype(int)
        cells -= cells.min(axis=0)
        label = np.unique(cells @ [cells[:, 1].max() + 1, 1], return_inverse=True)[1]
        size = np.bincount(label)
        if len(size) <= MOST_COLUMNS:
            break
        edge = max(edge + 1, int(edge * np.sqrt(len(size) / MOST_COLUMNS)))
    members = np.split(np.argsort(label, kind="stable"), np.cumsum(size)[:-1])
    centre = np.column_stack([np.bincount(label, c) / size for c in blocks.T])
    # a slim needle has few columns: the reach that leaves half a dozen independent ones
    reach = min(REACH, np.sqrt(len(size) / 30))
    return members, np.exp(-cdist(centre, centre, "sqeuclidean") / (2 * reach**2))


def n_blocks(blocks: np.ndarray) -> float:
    """Number of independent blocks: of labels, or what places come to.

    For places N² / Σ K, K the common variation of all pairs of rows: the number of independent values
    whose mean has the variance that the mean of all has.
    """
    blocks = np.asarray(blocks)
    if blocks.ndim == 1 or not len(blocks):
        return np.unique(blocks).size
    members, common = _columns(blocks)
    size = np.array([len(rows) for rows in members])
    return float(len(blocks) ** 2 / (size @ common @ size))


def resample_blocks(blocks: np.ndarray, *, n_resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Draw as many blocks as there are, with replacement, and yield the rows they hold.

    Parameters
    ----------
    blocks
        (N,) labels of the rows.
    n_resamples
        Number of draws.
    rng
        Source of randomness.

    Yields
    ------
    Row numbers of one resample, with repetitions.
    """
    _, index = np.unique(blocks, return_inverse=True)
    order = np.argsort(index, kind="stable")
    size = np.bincount(index)
    start = np.cumsum(size) - size
    for _ in range(n_resamples):
        drawn = rng.integers(len(size), size=len(size))
        length = size[drawn]
        # the rows of each drawn block, one block after the other
        within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        yield order[np.repeat(start[drawn], length) + within]


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray],
    blocks: np.ndarray,
    *,
    n_resamples: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Evaluate a statistic on resampled blocks.

    Parameters
    ----------
    statistic
        Takes row numbers, returns a number or an array of fixed shape.
    blocks
        (N, 2) `places` of the rows, or their (N,) labels.

    Returns
    -------
    (n_resamples, …) values. With places they are linear in the weights of the columns: the effect
    of each is what counting its rows twice does. Where a number is at its bound, 0, it is not linear:
    then `column_blocks` are drawn.
    """
    if np.ndim(blocks) == 2:
        everything, total = np.arange(len(blocks)), len(blocks)
        value = np.asarray(statistic(everything), float)
        if value.all():
            members, common = _columns(np.asarray(blocks))
            effect = [(statistic(np.append(everything, rows)) - value) * (1 + len(rows) / total) for rows in members]
            size, axes = np.linalg.eigh(common)
            root = axes * np.sqrt(np.maximum(size, 0.0))
            return value + np.tensordot(rng.standard_normal((n_resamples, len(members))) @ root.T, effect, 1)
        blocks = column_blocks(blocks, spacing_nm=1.0)
    draws = resample_blocks(blocks, n_resamples=n_resamples, rng=rng)
    return np.array([statistic(rows) for rows in draws])


def quantile_pulls(values: np.ndarray, p: float) -> np.ndarray:
    """How far each value pulls the p-quantile: what `bootstrap` needs of a number that is a quantile.

    A quantile is one of the values, or lies between two. It stays or leaps where some are counted twice, and
    the error found so is that of one gap between neighbouring values: from sample to sample it varies by half
    of itself. Here the quantile is a mean of the sorted values, with the weights of Harrell and Davis (1982,
    doi:10.1093/biomet/69.3.635), and its error varies half as much.

    Parameters
    ----------
    values
        (n,) finite values.
    p
        Between 0 and 1.

    Returns
    -------
    (n,) the influence of each value, in its unit; their mean is 0. Where rows are counted anew, the quantile
    moves by the mean of theirs.
    """
    order = np.argsort(values)
    n, ordered = len(order), np.asarray(values, float)[order]
    share = np.arange(1, n) / n
    gaps = np.diff(ordered) * stats.beta.pdf(share, (n + 1) * p, (n + 1) * (1 - p))
    pulls = np.empty(n)
    # counted once more, a value lowers the quantile by the gaps above it; all count less for it: their mean goes off
    pulls[order] = np.sum(share * gaps) - np.append(np.cumsum(gaps[::-1])[::-1], 0.0)
    return pulls


def interval(
    value: float,
    replicates: np.ndarray,
    *,
    n_blocks: float,
    n: int | None = None,
    log: bool = False,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    reason: str | None = None,
) -> Estimate:
    """Turn a value and its replicates into an estimate.

    Parameters
    ----------
    value
        The statistic of the sample itself.
    replicates
        (n_resamples,) bootstrap values.
    n_blocks
        Number of independent blocks.
    log
        For widths and other positive scales: the interval is symmetric in the logarithm.
    bounds
        Smallest and largest possible value.

    Notes
    -----
    Centred on the value, with the standard deviation of the replicates, enlarged by B/(B-1) in the
    variance and with Student's t for B-1 degrees of freedom. Percentiles would be too narrow
    with few blocks, and off centre for statistics that repeated dots make smaller.
    """
    if not np.isfinite(value):
        return Estimate(np.nan, n=n, reason=reason or "not defined for this sample")
    replicates = np.asarray(replicates, float)
    replicates = replicates[np.isfinite(replicates)]
    if n_blocks < 3 or replicates.size < 20:
        return Estimate(float(value), n=n)
    widen = np.sqrt(n_blocks / (n_blocks - 1.0))
    student = stats.t.ppf(0.975, n_blocks - 1)
    sigma = widen * replicates.std(ddof=1)
    if log and value > 0:
        relative = widen * np.log(replicates).std(ddof=1) if (replicates > 0).all() else sigma / value
        factor = np.exp(student * relative)
        low, high = value / factor, value * factor
    else:
        low, high = value - student * sigma, value + student * sigma
    low, high = (float(np.clip(end, *bounds)) for end in (low, high))
    return Estimate(float(value), float(sigma), low, high, n)


def at_least_binomial(found: Estimate) -> Estimate:
    """Widen the interval of a share to what independent counts would give (Wilson's interval).

    Where all pairs of a small sample are joined, every resample is the same, and the bootstrap would
    be certain of what it has not seen.
    """
    if found.n is None or found.n == 0 or not np.isfinite(found.low):
        return found
    z2 = stats.norm.ppf(0.975) ** 2
    centre = (found.value + z2 / (2 * found.n)) / (1 + z2 / found.n)
    spread = found.value * (1 - found.value) / found.n + z2 / (4 * found.n**2)
    half = np.sqrt(z2 * spread) / (1 + z2 / found.n)
    low, high = max(centre - half, 0.0), min(centre + half, 1.0)
    sigma = max(found.sigma, half / np.sqrt(z2))
    return Estimate(found.value, sigma, min(found.low, low), max(found.high, high), found.n)


def remove_noise(raw: Estimate, noise: float) -> Estimate:
    """Take the width that noise alone would have off a width, in quadrature.

    Parameters
    ----------
    raw
        Measured width with its interval.
    noise
        Width of the noise in the same measure (FWHM with FWHM, 95 % with 95 %); NaN if unknown.

    Returns
    -------
    Estimate whose value is 0 where the noise explains all that was measured.
    """
    if not np.isfinite(raw.value):
        return raw
    if not np.isfinite(noise):
        return missing("the errors of measurement are unknown (no sigma columns)", raw.n)
    ends = np.maximum([raw.value, raw.low, raw.high], 0.0)
    ends = np.sqrt(np.maximum(ends**2 - noise**2, 0.0))
    slope = raw.value / ends[0] if ends[0] > 0 else 1.0
    return Estimate(ends[0], raw.sigma * slope, ends[1], ends[2], raw.n)


def equivalence(
    value: np.ndarray,
    marked: np.ndarray,
    group: np.ndarray,
    blocks: np.ndarray,
    *,
    margin: float,
    n_resamples: int,
    rng: np.random.Generator,
) -> dict:
    """Test whether marked dots are the same as the others of their group, within a margin.

    Parameters
    ----------
    value
        (N,) quantity to compare; rows that are not finite are left out.
    marked
        (N,) bool, the dots to compare with the unmarked.
    group
        (N,) labels; only dots of one group (a layer) are compared with each other.
    blocks
        (N, 2) `places`, or (N,) labels.
    margin
        Largest difference that counts as the same, in the unit of ``value``.

    Returns
    -------
    dict with ``difference`` (`Estimate`; marked minus unmarked), ``low_90``, ``high_90``,
    ``margin``, ``n_marked`` and ``verdict``: same (the 90 % interval lies within ± margin: two
    one-sided tests at 5 %), different (the 95 % interval excludes zero), cannot_tell.
    """
    value, marked = np.asarray(value, float), np.asarray(marked, bool)
    group = np.unique(np.asarray(group), return_inverse=True)[1]

    def difference(rows: np.ndarray) -> float:
        rows = rows[np.isfinite(value[rows])]
        size = group.max() + 1
        n1 = np.bincount(group[rows], marked[rows], size)
        n0 = np.bincount(group[rows], ~marked[rows], size)
        both = (n1 > 0) & (n0 > 0)
        if not both.any():
            return np.nan
        mean1 = np.bincount(group[rows], marked[rows] * value[rows], size)[both] / n1[both]
        mean0 = np.bincount(group[rows], ~marked[rows] * value[rows], size)[both] / n0[both]
        weight = n1[both] * n0[both] / (n1[both] + n0[both])
        return float(np.sum(weight * (mean1 - mean0)) / weight.sum())

    everything = np.arange(value.size)
    n_marked = int(np.sum(marked & np.isfinite(value)))
    # the evidence lies in the blocks that hold a marked dot
    independent = n_blocks(blocks[marked & np.isfinite(value)])
    replicates = bootstrap(difference, blocks, n_resamples=n_resamples, rng=rng)
    found = interval(
        difference(everything), replicates, n_blocks=independent, n=n_marked,
        reason="no layer holds both kinds of dots",
    )  # fmt: skip
    half = np.nan if independent < 3 else stats.t.ppf(0.95, independent - 1) * found.sigma
    low, high = found.value - half, found.value + half
    ends_95 = (found.low, found.high) if np.isfinite(half) else None
    verdict = same_or_different(ends_95, (low, high), margin)
    return {
        "difference": found, "low_90": low, "high_90": high, "margin": margin,
        "n_marked": n_marked, "verdict": verdict,
    }  # fmt: skip


def same_or_different(
    interval_95: tuple[float, float] | None, interval_90: tuple[float, float] | None, margin: float | None
) -> str:
    """Verdict of two one-sided tests at 5 %.

    Parameters
    ----------
    interval_95, interval_90
        Ends of the intervals of a difference; None where there is none.
    margin
        Largest difference that counts as the same.

    Returns
    -------
    ``"same"`` (the 90 % interval lies within ± margin), ``"different"`` (it does not, and the 95 % interval
    excludes zero) or ``"cannot_tell"``.

    Examples
    --------
    >>> same_or_different((-0.2, 0.3), (-0.1, 0.2), 0.5), same_or_different((0.1, 0.9), (0.2, 0.8), 0.5)
    ('same', 'different')
    """
    if interval_95 is None or interval_90 is None or margin is None:
        return "cannot_tell"
    if -margin < interval_90[0] and interval_90[1] < margin:
        return "same"
    return "different" if interval_95[0] > 0 or interval_95[1] < 0 else "cannot_tell"


def share(count: int, n: int) -> Estimate:
    """Share of n independent cases, with the interval of Clopper and Pearson.

    Parameters
    ----------
    count, n
        How many of how many.

    Returns
    -------
    Estimate without a standard error: near 0 and 1 the interval is far from symmetric. It holds the true share in at
    least 95 % of samples; where none is seen, it ends at 1 − 0.025^(1/n). NaN where there are no cases.

    Raises
    ------
    ValueError
        The count is negative or larger than n.

    Examples
    --------
    >>> found = share(0, 30)
    >>> found.value, found.low, round(found.high, 4)
    (0.0, 0.0, 0.1157)
    """
    count, n = int(count), int(n)
    if not 0 <= count <= n:
        raise ValueError(f"a share needs 0 ≤ count ≤ n, found {count} of {n}")
    if n == 0:
        return missing("there is nothing to count", 0)
    ends = stats.binomtest(count, n).proportion_ci(0.95, method="exact")
    return Estimate(count / n, low=float(ends.low), high=float(ends.high), n=n)


def columns(name: str, estimates: list[Estimate]) -> dict[str, list[float]]:
    """Lay estimates out as the four columns ``name``, ``name_sigma``, ``name_low``,
    ``name_high``.
    """
    return {
        name: [e.value for e in estimates],
        f"{name}_sigma": [e.sigma for e in estimates],
        f"{name}_low": [e.low for e in estimates],
        f"{name}_high": [e.high for e in estimates],
    }


def layer_estimates(table: pd.DataFrame, name: str) -> Iterator[tuple[str, Estimate]]:
    """Yield ``("C1", Estimate)`` … from a table with the columns that `columns` lays out."""
    for row in table.to_dict("records"):
        reason = row.get("reason") or "not measurable in this layer"
        found = Estimate(
            row[name], row[f"{name}_sigma"], row[f"{name}_low"], row[f"{name}_high"],
            row.get("n"), None if np.isfinite(row[name]) else reason,
        )  # fmt: skip
        yield f"C{int(row['layer'])}", found


def row_estimate(row: dict, name: str, count: str = "n", *, reason: str) -> Estimate:
    """Estimate from a table's row: ``name`` and, where there are, ``name_sigma, name_low,
    name_high``.

    Parameters
    ----------
    row
        A row as a dictionary.
    name, count
        Columns of the value and of the number behind it.
    reason
        Why the value is NaN, if it is.
    """
    number = row.get(count, np.nan)
    ends = [row.get(f"{name}_{end}", np.nan) for end in ("sigma", "low", "high")]
    why = None if np.isfinite(row[name]) else reason
    return Estimate(row[name], *ends, int(number) if np.isfinite(number) else None, why)


def weighted_slope(x: np.ndarray, y: np.ndarray, sigma: np.ndarray) -> Estimate:
    """Slope of a straight line through values with known errors.

    Parameters
    ----------
    x, y, sigma
        (n,) positions, values and standard errors; points without an error are left out.

    Returns
    -------
    Estimate with a 95 % interval by Student's t for n - 2 degrees of freedom, never narrower than
    the errors ask for; NaN with its reason for fewer than three points.
    """
    x, y, sigma = (np.asarray(v, float) for v in (x, y, sigma))
    good = np.isfinite(y) & (sigma > 0)
    n = int(good.sum())
    if n < 3:
        return missing(f"only {n} layers with a value and its error", n)
    x, y, weight = x[good], y[good], sigma[good] ** -2
    x = x - np.average(x, weights=weight)
    slope = np.sum(weight * x * y) / np.sum(weight * x * x)
    rest = y - np.average(y, weights=weight) - slope * x
    scatter = max(1.0, np.sum(weight * rest**2) / (n - 2))
    error = np.sqrt(scatter / np.sum(weight * x * x))
    half = stats.t.ppf(0.975, n - 2) * error
    return Estimate(float(slope), float(error), float(slope - half), float(slope + half), n)
