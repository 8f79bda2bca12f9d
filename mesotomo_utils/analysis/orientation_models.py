"""What do the atomic lattices follow: the mean cell, or each dot's own neighbours?

Four predictions of a dot's orientation stand beside the measured one: *mono*, R_mono, alike for all; *local*, R̂, the
dot's own co-facial optimum with its neighbours as measured; *joint*, R̂ of all dots together; and *directions*, R_mono
turned as the directions to the dot's neighbours are turned against the mean cell, which knows no facets and is far
better conditioned. The paper compares them by Pearson's correlation (SI 4). As a prediction that varies in vain
correlates less than a constant one, the measured deviation from R_mono is also regressed on the predicted one: slope 0
where the lattices know the mean cell alone, 1 where they follow the prediction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.analysis import cofacial_local, statistics, trapping
from mesotomo_utils.analysis.dots import INDICES, SIGMA, neighbour_pairs, positions
from mesotomo_utils.analysis.statistics import Estimate

MODELS = ("mono", "local", "joint", "directions")
REGRESSED = {"joint": "local_slope", "directions": "directions_slope"}
"""Models that know the centres alone, and the names of their slopes. In *local* is what a dot shares with its
neighbours, a roll of its layer say: no slope could tell that from following them."""
FEWEST_NEIGHBOURS = 5
"""Of six: with fewer an axis may lack both, and what the neighbours ask for is open."""
MOST_DOTS = 1500
"""Of a wider film the dots about its middle are compared: they tell the correlation to 0.1 %."""


@dataclass(frozen=True)
class Predictions:
    """Measured and predicted orientations of the dots that have neighbours enough.

    Attributes
    ----------
    rows
        (M,) rows of the table of dots.
    measured
        (M, 3, 3) orientations.
    models
        (M, 3, 3) by name of `MODELS`.
    noise_deg2
        Of `REGRESSED`, by name: the mean square that the errors of the centres give a component of the
        predicted deviation, degrees²; NaN where these errors are unknown.
    """

    rows: np.ndarray
    measured: np.ndarray
    models: dict[str, np.ndarray]
    noise_deg2: dict[str, float]


def predict(
    dots: pd.DataFrame,
    rotations: np.ndarray,
    mono: np.ndarray,
    cell: np.ndarray,
    *,
    facet_nm: float,
    rng: np.random.Generator,
) -> Predictions:
    """Predict the orientation of every dot with five or six neighbours by each of the `MODELS`.

    Parameters
    ----------
    dots
        Table from `dots.join`, one grain.
    rotations
        (N, 3, 3) measured orientations, reduced by symmetry; NaN where not known.
    mono
        (3, 3) R_mono, crystal to lab.
    cell
        (3, 3) mean cell, columns A, B, C, lab frame, nm.
    facet_nm
        Edge of the facets, nm.
    rng
        For centres moved by their errors: what predictions change by then is their noise.

    Returns
    -------
    Predictions, of no dot where none has an orientation and neighbours enough.
    """
    if len(dots) > MOST_DOTS:
        near = _about_the_middle(positions(dots) @ lattice.film_frame(cell))
        dots, rotations = dots.iloc[near].reset_index(drop=True), rotations[near]
    else:
        near = np.arange(len(dots))
    xyz, sigma = positions(dots), dots[SIGMA].to_numpy(float)
    pairs = neighbour_pairs(dots)
    pairs = pairs.assign(qd_1=pairs["row_1"], qd_2=pairs["row_2"])

    options = {"facet_nm": facet_nm, "start": mono}

    def of_centres(centres: np.ndarray) -> dict[str, np.ndarray]:
        joint, _ = cofacial_local.joint_optimum(centres, dots[INDICES].to_numpy(), pairs, **options)
        return {"joint": joint, "directions": neighbour_turns(centres, pairs, cell) @ mono}

    held, _ = cofacial_local.local_optimum(xyz, rotations, pairs, **options)
    found = {"mono": np.broadcast_to(mono, rotations.shape), "local": held, **of_centres(xyz)}
    count = np.bincount(pairs[["row_1", "row_2"]].to_numpy().ravel(), minlength=len(dots))
    rows = np.flatnonzero(
        (count >= FEWEST_NEIGHBOURS)
        & np.all([np.isfinite(R).all((1, 2)) for R in (rotations, *found.values())], axis=0)
    )
    noise = dict.fromkeys(REGRESSED, np.nan)
    if len(rows) and np.isfinite(sigma).all():
        again = of_centres(xyz + sigma * rng.standard_normal(xyz.shape))
        for name in REGRESSED:
            change = turns_deg(again[name][rows], mono) - turns_deg(found[name][rows], mono)
            noise[name] = float(np.nanmean(change**2))
    return Predictions(near[rows], rotations[rows], {name: found[name][rows] for name in MODELS}, noise)


def neighbour_turns(centres_nm: np.ndarray, pairs: pd.DataFrame, cell: np.ndarray) -> np.ndarray:
    """How the directions to each dot's neighbours are turned against the mean cell.

    Parameters
    ----------
    centres_nm
        (N, 3) centres, nm.
    pairs
        ``qd_1, qd_2, axis``: rows of ``centres_nm``, the second the + neighbour of the first along A, B or C.
    cell
        (3, 3) mean cell, columns A, B, C, nm.

    Returns
    -------
    (N, 3, 3) rotations, lab frame: nearest to the matrix that takes A, B, C to the mean vectors to the dot's
    neighbours on both sides. NaN for a dot without a neighbour along each of the three.
    """
    first, second = pairs["qd_1"].to_numpy(int), pairs["qd_2"].to_numpy(int)
    axis = pairs["axis"].map({"A": 0, "B": 1, "C": 2}).to_numpy(int)
    vector = np.asarray(centres_nm, float)[second] - np.asarray(centres_nm, float)[first]
    total, count = np.zeros((len(centres_nm), 3, 3)), np.zeros((len(centres_nm), 3))
    for end in (first, second):
        np.add.at(total, (end, slice(None), axis), vector)
        np.add.at(count, (end, axis), 1)
    turns = np.full(total.shape, np.nan)
    whole = (count > 0).all(axis=1)
    own = total[whole] / count[whole, None]
    U, _, Wt = np.linalg.svd(own @ np.linalg.inv(cell))
    turns[whole] = U @ Wt
    return turns


def turns_deg(R: np.ndarray, mono: np.ndarray) -> np.ndarray:
    """(M, 3) rotation vectors, lab frame, that take R_mono to orientations (M, 3, 3), degrees."""
    return np.degrees(lattice.rotation_vectors(R @ mono.T))


def pearson_matrix(found: Predictions, frame: np.ndarray) -> pd.DataFrame:
    """Pearson's correlation of measured and predicted orientations, of each with each.

    Of the nine components in the film's frame, all dots together; they depend on that frame, as
    the paper's do.

    Parameters
    ----------
    found
        From `predict`.
    frame
        (3, 3) the film's frame in the lab, columns.

    Returns
    -------
    DataFrame, rows and columns ``measured`` and `MODELS`.
    """
    names = ["measured", *MODELS]
    parts = [(frame.T @ R).ravel() for R in (found.measured, *(found.models[name] for name in MODELS))]
    return pd.DataFrame(np.corrcoef(parts) if len(found.rows) else np.nan, index=names, columns=names)


def compare(
    found: Predictions,
    frame: np.ndarray,
    mono: np.ndarray,
    references: np.ndarray,
    blocks: np.ndarray,
    *,
    n_resamples: int,
    rng: np.random.Generator,
) -> dict[str, Estimate]:
    """Correlations and slopes that say which model the measured orientations are nearer to.

    Parameters
    ----------
    found
        From `predict`.
    frame
        (3, 3) the film's frame in the lab, columns.
    mono
        (3, 3) R_mono.
    references
        (M, 3, 3) orientations as good as R_mono: the intervals reach over all of them.
    blocks
        (N, 2) `statistics.places` of all dots, or (N,) labels.

    Returns
    -------
    dict of `Estimate`: ``pearson_`` and a name of `MODELS`; ``pearson_mono_minus_`` and the other three;
    ``local_slope, directions_slope``, of the measured deviation from R_mono on the predicted one, components
    pooled about their means, the noise of the prediction taken off.
    """
    names = [*(f"pearson_{name}" for name in MODELS), *(f"pearson_mono_minus_{name}" for name in MODELS[1:])]
    names += REGRESSED.values()
    if len(found.rows) < 5:
        gone = statistics.missing(f"only {len(found.rows)} dots with an orientation and enough neighbours")
        return dict.fromkeys(names, gone)

    def numbers(rows: np.ndarray, reference: np.ndarray = mono) -> np.ndarray:
        models = {**found.models, "mono": np.broadcast_to(reference, found.measured.shape)}
        measured = (frame.T @ found.measured[rows]).ravel()
        r = np.array([np.corrcoef(measured, (frame.T @ models[name][rows]).ravel())[0, 1] for name in MODELS])
        slopes = [_slope(turned["measured"][rows], turned[name][rows], found.noise_deg2[name]) for name in REGRESSED]
        return np.concatenate([r, r[0] - r[1:], slopes])

    turned = {name: turns_deg(R, mono) for name, R in {"measured": found.measured, **found.models}.items()}
    every, own = np.arange(len(found.rows)), np.asarray(blocks)[found.rows]
    value = numbers(every)
    replicates = statistics.bootstrap(numbers, own, n_resamples=n_resamples, rng=rng)
    others = np.array([numbers(every, reference) for reference in references]).reshape(-1, len(value))
    widened = {}
    for column, name in enumerate(names):
        one = statistics.interval(
            value[column],
            replicates[:, column],
            n_blocks=statistics.n_blocks(own),
            n=len(every),
            reason="the errors of the centres are unknown, or all that is predicted",
        )
        widened[name] = trapping.widen_by_reference(one, others[:, column], lowest=-np.inf)
    return widened


def deviations(found: Predictions, mono: np.ndarray) -> pd.DataFrame:
    """Turns from R_mono about their mean, degrees: a row for each dot and component, ``measured`` and `REGRESSED`."""
    every = {"measured": found.measured, **{name: found.models[name] for name in REGRESSED}}
    turned = {name: turns_deg(R, mono) for name, R in every.items()}
    return pd.DataFrame({name: (turn - turn.mean(axis=0)).ravel() for name, turn in turned.items()})


def _slope(measured: np.ndarray, predicted: np.ndarray, noise: float) -> float:
    """Of (M, 3) on (M, 3), components pooled about their means; ``noise`` is the mean square of a component."""
    measured, predicted = measured - measured.mean(axis=0), predicted - predicted.mean(axis=0)
    spread = np.mean(predicted**2) - noise
    return float(np.mean(measured * predicted) / spread) if spread > 0 else np.nan


def layer_overlap(
    dots: pd.DataFrame,
    rotations: np.ndarray,
    blocks: np.ndarray,
    *,
    facet_nm: float,
    n_resamples: int,
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, Estimate]:
    """Co-facial overlap of the dots as they are, with their neighbours in the plane, layer by layer.

    Parameters
    ----------
    dots, rotations, facet_nm
        As for `predict`.
    blocks
        (N, 2) `statistics.places` of the dots, or (N,) labels.

    Returns
    -------
    DataFrame ``layer, n`` and ``overlap_fraction`` with ``_sigma, _low, _high``: the mean over the A and B pairs of the
    layer; and the mean of the bottom and the top layer less that of the layers between.
    """
    pairs = neighbour_pairs(dots)
    area = cofacial_local.pair_overlap(
        positions(dots), rotations, pairs.assign(qd_1=pairs["row_1"], qd_2=pairs["row_2"]), facet_nm=facet_nm
    )
    keep = (pairs["axis"] != "C").to_numpy() & np.isfinite(area)
    pairs, area = pairs[keep].reset_index(drop=True), area[keep]
    own, layer = statistics.pair_blocks(np.asarray(blocks), pairs), pairs["layer"].to_numpy()
    numbers = np.unique(dots["layer"])

    def means(rows: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            each = np.array([area[rows[layer[rows] == k]].sum() / np.sum(layer[rows] == k) for k in numbers])
        return np.append(each, np.mean(each[[0, -1]]) - np.mean(each[1:-1]) if len(each) > 2 else np.nan)

    value = means(np.arange(len(area)))
    options = {"n_resamples": n_resamples, "rng": rng}
    replicates = statistics.bootstrap(means, own, **options) if len(area) else np.empty((0, len(value)))
    count = [int(np.sum(layer == k)) for k in numbers] + [len(area)]
    blocks_of = [statistics.n_blocks(own[layer == k]) for k in numbers] + [statistics.n_blocks(own)]
    found = [
        statistics.interval(v, replicates[:, c], n_blocks=blocks_of[c], n=count[c], reason="no pair with orientations")
        for c, v in enumerate(value)
    ]
    table = pd.DataFrame({"layer": numbers, "n": count[:-1], **statistics.columns("overlap_fraction", found[:-1])})
    return table, found[-1]


def _about_the_middle(film_nm: np.ndarray) -> np.ndarray:
    """Rows of whole columns of dots about the middle of the film, `MOST_DOTS` in all, in their order."""
    distance = np.linalg.norm(film_nm[:, :2] - np.median(film_nm[:, :2], axis=0), axis=1)
    return np.sort(np.argsort(distance, kind="stable")[:MOST_DOTS])
