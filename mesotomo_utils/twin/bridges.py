"""Necks of a twin: which neighbours are joined, and how thickly."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mesotomo_utils.twin import order, shapes
from mesotomo_utils.twin.imposed import TwinParameters

Array = NDArray[np.float64]


def build_necks(
    parameters: TwinParameters,
    ijk: NDArray[np.int64],
    positions_nm: Array,
    R: Array,
    half_nm: Array,
    cut_nm: Array,
    whole: NDArray[np.bool_],
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Join neighbours by round necks along the line between their centres.

    Of the pairs of whole dots exactly ``neck_fraction`` (to the nearest pair) are joined. The
    diameters are normal, uniform up to the layer below ``neck_upper_layer`` and thinner from there
    on, scaled to the standard deviation asked for; none is thicker than the facets let it be.

    Parameters
    ----------
    ijk, positions_nm, R, half_nm, cut_nm, whole
        Of N dots, in the order of the table.

    Returns
    -------
    DataFrame ``qd_1, qd_2, axis, diameter_nm, length_nm``, sorted by ``qd_1, axis``.
    """
    p = parameters
    pairs, axis = order.neighbour_pairs(ijk, np.ones(len(ijk), dtype=bool))
    first, second = pairs.T
    d = positions_nm[second] - positions_nm[first]
    distance = np.linalg.norm(d, axis=1)
    length, limit = distance.copy(), np.full(len(pairs), np.inf)
    for dots in (first, second):
        e = np.einsum("pij,pi->pj", R[dots], d / distance[:, None])
        reach = shapes.exit_nm(e, half_nm[dots], cut_nm[dots])
        length -= reach
        beside = half_nm[dots] - np.abs(e * reach[:, None])  # room left and right of the neck
        beside[np.arange(len(e)), np.argmax(np.abs(e), axis=1)] = np.inf
        limit = np.minimum(limit, 2 * beside.min(axis=1))

    core = whole[pairs].all(axis=1)
    joined = rng.random(len(pairs)) < p.neck_fraction
    chosen = rng.permutation(np.flatnonzero(core))
    joined[core] = False
    joined[chosen[: round(p.neck_fraction * len(chosen))]] = True

    place = ijk[first, 2] + 1 + (axis == 2) * 0.5
    upper = place >= p.neck_upper_layer - 0.5
    centre = imposed_mean_nm(p, place)
    thickness = rng.standard_normal(len(pairs))
    measured = joined & core
    diameter = centre + p.neck_spread_nm * thickness
    scale = p.neck_spread_nm
    for _ in range(40):
        diameter = np.clip(centre + scale * thickness, p.neck_minimum_nm, limit)
        sd = diameter[measured].std(ddof=1) if measured.sum() > 2 else p.neck_spread_nm
        scale *= np.clip(p.neck_spread_nm / sd if sd > 0 else 1.0, 0.8, 1.25)
        lower = measured & ~upper
        if lower.sum() > 2:  # facets leave unlike room in each layer: uniform means no slope as made
            slope = np.polyfit(place[lower], diameter[lower], 1)[0]
            centre = centre - np.where(upper, 0.0, slope * (place - place[lower].mean()))
    necks = pd.DataFrame(
        {
            "qd_1": first,
            "qd_2": second,
            "axis": np.array(list("ABC"))[axis],
            "diameter_nm": np.where(joined, diameter, 0.0),
            "length_nm": length,
        }
    )
    return necks.sort_values(["qd_1", "axis"], ignore_index=True)


def imposed_mean_nm(parameters: TwinParameters, place: Array) -> Array:
    """Mean diameter asked for at each place: the layer, half a layer higher for C pairs."""
    upper = place >= parameters.neck_upper_layer - 0.5
    return parameters.neck_diameter_nm * np.where(upper, parameters.neck_upper_factor, 1.0)
