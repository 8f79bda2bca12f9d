"""A twin's own account of itself: what was asked of its structure beside what it has, and what gave way.

Taken over the whole dots and free of any error of measurement. Names that the analysis also uses mean the same here, so
that these numbers are the truth of a run (`compare.true_statements`).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mesotomo_utils import lattice
from mesotomo_utils.twin import bridges, order
from mesotomo_utils.twin.placement import mono_rotation
from mesotomo_utils.twin.structure import Structure

__all__ = ["COLUMNS", "gave_way", "order_table"]

COLUMNS = ["name", "index", "asked", "made", "unit", "source", "gave_way_to"]
PART, NOUGHT = 0.03, 0.1
"""Off by more than this part of what was asked, or where 0 was asked by more than this in its own unit: it gave way."""

Array = NDArray[np.float64]
Row = tuple[str, str | None, float | None, float, str, str, str]


def order_table(structure: Structure) -> pd.DataFrame:
    """What was asked for beside what the structure has, over its whole dots.

    Returns
    -------
    DataFrame of `COLUMNS`. ``asked`` is NaN where nothing was; ``source`` says whose the number asked for is;
    ``gave_way_to`` names what the structure keeps at its expense where both cannot hold, and is empty where nothing
    stands against it.
    """
    rows = [*_position_rows(structure), *_orientation_rows(structure), *_neck_rows(structure), *_size_rows(structure)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.astype({"asked": float, "made": float})


def gave_way(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of an `order_table` that are off by more than 3 % of what was asked for, or by 0.1 where 0 was asked for."""
    asked = table["asked"].abs()
    off = (table["made"] - table["asked"]).abs() > np.where(asked > 0, PART * asked, NOUGHT)
    enough = (table["name"] == "smallest_gap") & (table["made"] >= table["asked"])  # asked for as the least
    return table[off & ~enough]


def _position_rows(structure: Structure) -> list[Row]:
    p, whole = structure.parameters, structure.whole
    positions, ijk = structure.positions_nm, structure.dots[list("ijk")].to_numpy()
    frame = lattice.film_frame(structure.cell)
    rows: list[Row] = []
    heights = positions @ frame
    for k, asked in enumerate(p.planarity()):
        layer = whole & (ijk[:, 2] == k)
        flat = order.without_plane(heights[layer, 2], heights[layer, :2], np.ones(layer.sum(), bool))
        made = order.FWHM_PER_SD * order.layer_sd(flat)
        rows.append(("planarity_fwhm", f"C{k + 1}", asked, made, "nm", "paper, Fig. 2d", ""))
    pairs, axis = order.neighbour_pairs(ijk, whole)
    vectors = tuple(np.subtract(*positions[pairs[axis == n][:, ::-1]].swapaxes(0, 1)) for n in (0, 1))
    in_plane, out_of_plane = order.spread_deg(vectors, frame)
    rows.append(("sl_spread_in_plane", None, p.sl_spread_in_plane_deg, in_plane, "deg", "paper, Fig. 3", ""))
    rows.append(("sl_spread_out_of_plane", None, p.sl_spread_out_of_plane_deg, out_of_plane, "deg", "paper, Fig. 3",
                 "planarity, where few dots share too little height"))  # fmt: skip
    moved = positions - ijk @ structure.cell.T
    moved = (moved - moved[whole].mean(axis=0)) @ frame
    correlation = order.neighbour_correlation(moved, ijk, whole)
    rows.append(("displacement_correlation", None, p.displacement_correlation, correlation, "", "ours",
                 "planarity and the out-of-plane spread, which set what neighbours share"))  # fmt: skip
    index = np.column_stack([ijk[whole], np.ones(whole.sum())])
    fitted = lattice.cell_parameters(np.linalg.lstsq(index, positions[whole], rcond=None)[0][:3].T)
    for name, asked in lattice.cell_parameters(structure.cell).items():
        unit = name.rpartition("_")[2]
        rows.append((name, None, asked, fitted[name], unit, "ours, near the paper's", "the displacements, by chance"))
    sites = whole.sum() + len(structure.defects)
    rows.append(("point_defects", None, p.point_defect_fraction, len(structure.defects) / sites, "", "paper",
                 "whole numbers of vacancies"))  # fmt: skip
    outside = float(structure.defects["k"].isin([0, p.layers - 1]).sum())
    rows.append(("point_defects_in_surface_layers", None, 0.0, outside, "", "paper", ""))
    return rows


def _orientation_rows(structure: Structure) -> list[Row]:
    p, whole, R = structure.parameters, structure.whole, structure.R
    ijk, frame = structure.dots[list("ijk")].to_numpy(), lattice.film_frame(structure.cell)
    k, normal = ijk[:, 2], frame[:, 2]
    mono = mono_rotation(structure.cell)
    rows: list[Row] = []
    in_plane, out_of_plane = order.spread_deg((R[whole, :, 0], R[whole, :, 1]), frame)
    rows.append(("al_spread_in_plane", None, p.al_spread_in_plane_deg, in_plane, "deg", "paper, Fig. 3",
                 "the turn of the top layers, where that is larger than about 3.5 degrees"))  # fmt: skip
    rows.append(("al_spread_out_of_plane", None, p.al_spread_out_of_plane_deg, out_of_plane, "deg", "paper, Fig. 3",
                 "the roll, where that alone is wider"))  # fmt: skip
    off = lattice.rotation_angle_deg(mono.T @ lattice.mean_rotation(R[whole]))
    rows.append(("mean_off_mono", None, 0.0, float(off), "deg", "paper, SI 4", ""))
    angle = lattice.rotation_angle_deg(mono.T @ R[whole])
    rows.append(("mean_misorientation", None, p.mean_misorientation_deg, angle.mean(), "deg", "paper, Fig. 5",
                 "the roll, which alone gives 2.5 degrees, and the out-of-plane spread on top"))  # fmt: skip

    def mean(layers: NDArray[np.bool_]) -> Array:
        return lattice.mean_rotation(R[whole & layers[k]])

    numbers = np.arange(p.layers)
    unit = np.asarray(p.common_axis) / np.linalg.norm(p.common_axis)
    low, high = min(1, p.layers - 1), int(np.argmax(p.model_copy(update={"roll_deg": 1.0}).roll()))
    for end in dict.fromkeys((high, p.layers - 1)):
        turned = _turned_deg(mean(numbers == low), mean(numbers == end))
        asked = float(p.roll()[end] - p.roll()[low])
        rows.append(("roll", f"C{low + 1}-C{end + 1}", asked, float(turned @ unit), "deg", "paper, Fig. 3", ""))

    turn = p.turn() - p.turn()[0]
    unturned = mean(turn == 0)

    def turned_in_plane(start: Array, end: Array) -> float:
        return float(start @ _turned_deg(start, end) @ normal)

    made = {n: turned_in_plane(unturned, mean(numbers == n)) for n in numbers[-3:] if n}
    for n, value in made.items():
        rows.append(("turn", f"C{n + 1}", float(turn[n]), value, "deg", "ours, for the paper's several degrees", ""))
    several = None if p.turn_several_deg is None else max(p.turn_several_deg, turn[-1]) if turn[-1] else 0.0
    rows.append(("turn_top", f"C{p.layers}", several, made[numbers[-1]], "deg", "paper: several degrees in C7-C9",
                 "the in-plane spread: a 95 % width is never less than the turn of a layer that holds more than 2.5 % "
                 "of the dots, and 3.7 degrees leave room for no more beside the scatter"))  # fmt: skip
    if p.layers >= 9:
        start, end = (numbers >= 1) & (numbers <= 5), (numbers >= 6) & (numbers <= 8)
        whole_layers = np.bincount(k[whole], minlength=p.layers)
        asked = float(np.subtract(*(np.average(turn[on], weights=whole_layers[on]) for on in (end, start))))
        value = turned_in_plane(mean(start), mean(end))
        rows.append(("in_plane_turn_c7_c9_deg", None, asked, value, "deg", "ours, for the paper's several degrees", ""))

    surface = np.isin(k, [0, p.layers - 1])
    inner, outer = whole & ~surface, whole & surface
    if inner.any():
        own = np.stack([mean(numbers == n) for n in numbers])[k]
        square = lattice.rotation_angle_deg(np.swapaxes(own, 1, 2) @ R) ** 2
        ratio = np.sqrt(square[inner].mean() / square[outer].mean()) if square[outer].mean() > 0 else np.nan
        rows.append(("scatter_interior_to_surface", None, 1 / p.scatter_surface_factor, float(ratio), "",
                     "ours, for the paper's Fig. 4", "chance: layers of few dots"))  # fmt: skip
    return rows + _neighbour_rows(structure)


def _neighbour_rows(structure: Structure) -> list[Row]:
    p, R = structure.parameters, structure.R
    pairs, axis = order.neighbour_pairs(structure.dots[list("ijk")].to_numpy(), structure.whole)
    values, axes = np.linalg.eigh(order.neighbour_second_moment(R, pairs))
    off = lattice.direction_angle_deg(axes[:, -1], np.asarray(p.common_axis))
    share = values[-1] / values.sum()
    rows: list[Row] = [
        ("explained_variance", None, p.explained_variance, share, "", "paper, Fig. 4", "the in-plane spread"),
        ("common_axis_off", None, 0.0, float(off), "deg", "paper, Fig. 4", "the turn, which is about another axis"),
    ]
    delta = order.neighbour_turns(R, pairs)
    theta = np.linalg.norm(delta, axis=1)
    for n, name in enumerate("abc"):
        own = (axis == n) & (theta > 0)
        made = float(np.mean(np.abs(delta[own, n]) / theta[own])) if own.any() else np.nan
        asked = None if p.twists is None else p.twists[n]
        rows.append((f"twist_{name}", None, asked, made, "", "paper, Fig. 4",
                     "the common axis, the variance it explains and the in-plane spread, which set it"))  # fmt: skip
    return rows


def _neck_rows(structure: Structure) -> list[Row]:
    p = structure.parameters
    necks = structure.necks[structure.whole[structure.necks[["qd_1", "qd_2"]].to_numpy()].all(axis=1)]
    joined = necks[necks["diameter_nm"] > 0]
    diameter = joined["diameter_nm"].to_numpy()
    share = len(joined) / len(necks)
    rows: list[Row] = [
        ("neck_fraction", None, p.neck_fraction, share, "", "paper, Fig. 2", "whole numbers of necks"),
        ("neck_sd", None, p.neck_spread_nm, joined["diameter_nm"].std(), "nm", "paper, Fig. 2", ""),
        ("neck_mean", None, None, diameter.mean(), "nm", "", ""),
    ]
    axis = joined["axis"].map({"A": 0, "B": 1, "C": 2}).to_numpy()
    height = structure.dots["layer"].to_numpy()[joined["qd_1"].to_numpy()] + np.where(axis == 2, 0.5, 0.0)
    imposed = bridges.imposed_mean_nm(p, height)
    for first, last, source, reason in (
        (1, 6, "paper, Fig. 2e: none", ""),
        (6, 9, "ours, for the paper's thinner (Fig. 2e)", "chance, and facets that leave no room for the thickest"),
    ):
        used = (height >= first) & (height <= last)
        if p.layers >= last and len(np.unique(height[used])) > 2:
            asked, made = (_slope(height[used], of[used], axis[used]) for of in (imposed, diameter))
            rows.append((f"neck_slope_c{first}_c{last}", None, asked, made, "nm per layer", source, reason))
    return rows


def _size_rows(structure: Structure) -> list[Row]:
    p, dots = structure.parameters, structure.dots[structure.whole]
    edges = dots[["planes_a", "planes_b", "planes_c"]].to_numpy()
    return [
        ("edge_spread", None, p.edge_spread, edges.std(ddof=1) / edges.mean(), "", "ours, for a few per cent",
         "whole atomic planes, whose rounding adds to it"),
        ("edge_relative_sd", None, None, dots["edge_nm"].std() / dots["edge_nm"].mean(), "", "", ""),
        ("smallest_gap", None, p.minimum_gap_nm, structure.smallest_gap_nm, "nm", "ours, at least", ""),
        ("needle_diameter", None, None, 2 * structure.radius_nm, "nm", "", ""),
        ("layers", None, p.layers, dots["layer"].nunique(), "", "paper", ""),
        ("whole_dots", None, p.qd_count, len(dots), "", "paper", ""),
    ]  # fmt: skip


def _turned_deg(start: Array, end: Array) -> Array:
    """(3,) rotation vector from one orientation to another in the crystal frame of the first, degrees."""
    return np.rad2deg(lattice.rotation_vectors(start.T @ end))


def _slope(height: Array, value: Array, kind: NDArray[np.int64]) -> float:
    """Slope of one straight line through values of several kinds, each kind about its own mean."""
    x, y = height.astype(float), value.astype(float)
    for one in np.unique(kind):
        x[kind == one] -= x[kind == one].mean()
        y[kind == one] -= y[kind == one].mean()
    return float(x @ y / (x @ x))
