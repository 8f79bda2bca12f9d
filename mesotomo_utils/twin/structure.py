"""A superlattice of quantum dots with the paper's statistics built in, milled to a needle.

Frames and conventions are DESIGN's: lab frame x, y, z with z the needle's and the tilt axis and the
origin in the middle; lattice vectors A, B, C; layer = k + 1 from the bottom of the film.

Not everything the paper reports can hold at once. `account.order_table` puts what was asked for beside
what the structure has. What gives way, and why:

* the mean misorientation to the perfect lattice (2.5 degrees): a roll of 8.4 degrees alone gives
  2.5, and the spread of 11.3 degrees out of plane needs scatter on top, so it comes out at about 3.7;
* the in-plane turn of C7 to C9 ("several degrees"): it shares the in-plane spread of 3.7 degrees with the
  scatter. The spread is a 95 % width and each layer holds a ninth of the dots, so that the width cannot be
  less than the turn of the top layer: from 3.5 degrees on the spread would be exceeded whatever the scatter
  is. 2.6 degrees leave room for both; the paper's several degrees gave way to its spread;
* the correlation of neighbours' displacements: planarity and the out-of-plane spread of the
  superlattice (14.2 degrees) are both made exact, and what neighbours then share is 0.3 to 0.5;
* the twists of the necks (0.44, 0.78, 0.23): they follow from the common axis, the variance it explains and
  the in-plane spread. Turns about [-1 2 0] alone would give 0.45, 0.89 and 0; with what lies across it they
  come out at about 0.5, 0.73 and 0.24;
* the outermost tails of the displacements: dots that would touch are pushed apart.

There are no interstitials: a second dot does not fit between cubes in a cell of this size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mesotomo_utils import lattice
from mesotomo_utils.twin import order, shapes
from mesotomo_utils.twin.bridges import build_necks
from mesotomo_utils.twin.imposed import TwinParameters, twin_parameters
from mesotomo_utils.twin.placement import correlated_field, first_displacements, orient_dots, place_dots

__all__ = ["Structure", "TwinParameters", "build_structure", "twin_parameters"]

WHOLE = 0.9
"""Part of a dot inside the needle from which on it counts as a dot (DESIGN)."""
GONE = 0.1
"""Part below which a dot was milled away and nothing of it is left."""

Array = NDArray[np.float64]
QUATERNION = ["qw", "qx", "qy", "qz"]
POSITION = ["x_nm", "y_nm", "z_nm"]


@dataclass(frozen=True, eq=False)
class Structure:
    """A twin before it is imaged.

    Attributes
    ----------
    dots
        ``qd, x_nm, y_nm, z_nm, i, j, k, layer, qw, qx, qy, qz, edge_nm, fraction_inside, at_edge,
        planes_a, planes_b, planes_c``; whole dots first, then those the needle's surface cuts.
        ``planes_*`` are the atomic planes along each edge, ``edge_nm`` the mean edge.
    necks
        ``qd_1, qd_2, axis, diameter_nm, length_nm`` of every neighbour pair, diameter 0 where
        there is no neck; ``length_nm`` is the gap along the line between the centres.
    defects
        ``kind, grain, i, j, k, x_nm, y_nm, z_nm``.
    cell
        (3, 3) exact lab vectors A, B, C as columns, nm.
    radius_nm
        Radius of the needle, whose axis is z.
    smallest_gap_nm
        Between the facets of any two dots.
    parameters
        What it was built from.
    """

    dots: pd.DataFrame
    necks: pd.DataFrame
    defects: pd.DataFrame
    cell: Array
    radius_nm: float
    smallest_gap_nm: float
    parameters: TwinParameters

    @property
    def R(self) -> Array:
        """(N, 3, 3) rotations of the atomic lattices, lab = R crystal."""
        return lattice.from_quaternions(self.dots[QUATERNION].to_numpy())

    @property
    def positions_nm(self) -> Array:
        """(N, 3) centres, lab frame."""
        return self.dots[POSITION].to_numpy()

    @property
    def half_nm(self) -> Array:
        """(N, 3) half edges of the dots along their own a, b, c."""
        planes = self.dots[["planes_a", "planes_b", "planes_c"]].to_numpy()
        return planes * self.parameters.lattice_nm / 4

    @property
    def cut_nm(self) -> Array:
        """(N,) length that each {111} corner takes off an edge."""
        return self.parameters.truncation * 2 * self.half_nm.mean(axis=1)

    @property
    def whole(self) -> NDArray[np.bool_]:
        """(N,) dots that count, at least 90 % inside."""
        return self.dots["fraction_inside"].to_numpy() >= WHOLE


def build_structure(parameters: TwinParameters, rng: np.random.Generator) -> Structure:
    """Build a twin.

    Parameters
    ----------
    parameters
        Everything that is imposed; ``qd_count`` dots are whole, which sets the needle's radius.
    rng
        The only source of randomness.

    Raises
    ------
    ValueError
        The dots cannot be kept apart, or no site is left for the vacancies.
    """
    p = parameters
    cell = lab_cell(p)
    ijk, ideal = _sites(p, cell)
    radius = np.hypot(ideal[:, 0], ideal[:, 1])
    n_vacant = round(p.qd_count * p.point_defect_fraction / (1 - p.point_defect_fraction))
    core = np.zeros(len(ijk), dtype=bool)
    core[np.argsort(radius, kind="stable")[: p.qd_count + n_vacant]] = True
    vacant = _vacancies(p, ijk, radius, core, n_vacant, rng)

    site_field = correlated_field(ijk, 3, p.displacement_correlation, rng)
    turn_field = correlated_field(ijk, 3, p.orientation_correlation, rng)
    planes = np.rint(rng.normal(p.edge_nm, p.edge_spread * p.edge_nm, (len(ijk), 3)) / (p.lattice_nm / 2)).astype(int)
    half = planes * p.lattice_nm / 4
    cut = p.truncation * 2 * half.mean(axis=1)
    looser = np.where(_beside(ijk, vacant), p.looser_beside_vacancies, 1.0)

    present = ~vacant
    counted, positions = core & present, ideal
    moved = first_displacements(p, ijk, site_field, looser)
    for turn in range(12):
        turned = {
            "parameters": p,
            "ijk": ijk,
            "cell": cell,
            "counted": counted,
            "present": present,
        }
        R = orient_dots(positions_nm=positions, field=turn_field, looser=looser, **turned)
        positions, moved = place_dots(ideal_nm=ideal, R=R, half_nm=half, cut_nm=cut, displacement_nm=moved, **turned)
        radii = shapes.enclosing_radius_nm(positions, R, half, cut)
        needle, inside = _needle(radii, present, p.qd_count)
        before, counted = counted, present & (inside >= WHOLE)
        # lattices that follow their neighbours need the positions of the round before
        if np.array_equal(before, counted) and (p.follow_local == 0 or turn > 2):
            break
        if turn > 2:  # two dots on the surface take turns in counting: move the newcomer out
            newcomer = counted & ~before
            outward = positions[newcomer] * [1, 1, 0] / np.hypot(*positions[newcomer, :2].T)[:, None]
            moved[newcomer, :2] += 0.1 * (outward @ lattice.film_frame(cell))[:, :2]
            counted = before

    keep = np.flatnonzero(present & (inside > GONE))
    keep = keep[np.lexsort((ijk[keep, 0], ijk[keep, 1], ijk[keep, 2], inside[keep] < WHOLE))]
    near = order.close_pairs(ijk, present)
    near = shapes.near_pairs(positions, half, cut, near, margin_nm=p.minimum_gap_nm)
    gap, _ = shapes.face_gaps(positions, R, half, cut, near)
    if gap.min() < p.minimum_gap_nm - 1e-6:
        raise ValueError(f"twin: the smallest face gap is {gap.min():.3f} nm: two dots touch")
    dots = _dot_table(p, ijk, positions, R, planes, inside, counted | vacant, keep)
    necks = build_necks(p, ijk[keep], positions[keep], R[keep], half[keep], cut[keep],
                        inside[keep] >= WHOLE, rng)  # fmt: skip
    defects = pd.DataFrame(ijk[vacant], columns=list("ijk"))
    defects[POSITION] = ideal[vacant]
    defects.insert(0, "kind", "vacancy")
    defects.insert(1, "grain", 0)
    return Structure(dots, necks, defects, cell, needle, float(gap.min()), p)


def lab_cell(p: TwinParameters) -> Array:
    """(3, 3) lab vectors A, B, C: the cell turned about z, then tilted with the film.

    A and B are named and signed by the rule (|A| ≥ |B|, α ≥ 90°), whichever description of the lattice was given: the
    truth has the names that a measurement finds.
    """
    V = lattice.cell_matrix(p.a_nm, p.b_nm, p.c_nm, p.alpha_deg, p.beta_deg, p.gamma_deg)
    V = V @ lattice.axes_by_rule(V)
    if p.film_bottom == "high_z":
        V = np.diag([1.0, -1.0, -1.0]) @ V
    azimuth = np.deg2rad(p.film_tilt_azimuth_deg)
    tilt = lattice.axis_angle([np.cos(azimuth), np.sin(azimuth), 0.0], np.deg2rad(p.film_tilt_deg))
    return tilt @ lattice.axis_angle([0.0, 0.0, 1.0], np.deg2rad(p.film_azimuth_deg)) @ V


def _sites(p: TwinParameters, cell: Array) -> tuple[NDArray[np.int64], Array]:
    """Sites that the needle may hold, and somewhat more: (N, 3) indices and ideal positions."""
    area = np.linalg.norm(np.cross(cell[:, 0], cell[:, 1]))
    reach = np.sqrt(p.qd_count / p.layers * area / np.pi) + 1.5 * max(p.a_nm, p.b_nm)
    n = int(np.ceil((reach + p.layers * 2.0) / min(p.a_nm, p.b_nm))) + 2
    grid = np.arange(-n, n + 1)
    ijk = np.stack(np.meshgrid(grid, grid, np.arange(p.layers), indexing="ij"), -1).reshape(-1, 3)
    offset = lattice.film_frame(cell)[:, :2] @ np.asarray(p.needle_offset_nm)
    ideal = (ijk - [0, 0, (p.layers - 1) / 2]) @ cell.T + offset
    near = np.hypot(ideal[:, 0], ideal[:, 1]) < reach
    return ijk[near], ideal[near]


def _beside(ijk: NDArray[np.int64], chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N,) sites with one of the six nearest sites among the chosen."""
    steps = np.abs(ijk[:, None] - ijk[None, chosen]).sum(axis=-1)
    return (steps == 1).any(axis=1)


def _vacancies(
    p: TwinParameters,
    ijk: NDArray[np.int64],
    radius: Array,
    core: NDArray[np.bool_],
    n_vacant: int,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """(N,) vacant sites: interior layers, all six neighbours in the needle, none side by side."""
    vacant = np.zeros(len(ijk), dtype=bool)
    interior = core & (ijk[:, 2] > 0) & (ijk[:, 2] < p.layers - 1)
    pairs, _ = order.neighbour_pairs(ijk, core)
    surrounded = np.bincount(pairs.ravel(), minlength=len(ijk)) == 6
    candidates = list(rng.permutation(np.flatnonzero(interior & surrounded)))
    rest = np.flatnonzero(interior & ~surrounded)
    candidates += list(rest[np.argsort(radius[rest], kind="stable")])
    for site in candidates:
        if vacant.sum() == n_vacant:
            break
        if not vacant[np.abs(ijk - ijk[site]).max(axis=1) <= 1].any():
            vacant[site] = True
    if vacant.sum() < n_vacant:
        raise ValueError(
            f"twin: {n_vacant} vacancies do not fit into the interior layers of a needle of "
            f"{p.qd_count} dots; lessen point_defect_fraction"
        )
    return vacant


def _needle(radii: Array, present: NDArray[np.bool_], count: int) -> tuple[float, Array]:
    """Radius that takes in exactly ``count`` dots to 90 %, and the fraction of each dot inside."""
    enough = radii[:, int(np.ceil(WHOLE * radii.shape[1])) - 1]
    sorted_ = np.sort(enough[present])
    if len(sorted_) <= count:
        raise ValueError(f"twin: only {len(sorted_)} sites for {count} dots")
    needle = float((sorted_[count - 1] + sorted_[count]) / 2)
    return needle, (radii < needle).mean(axis=1)


def _dot_table(
    p: TwinParameters,
    ijk: NDArray[np.int64],
    positions: Array,
    R: Array,
    planes: NDArray[np.int64],
    inside: Array,
    filled: NDArray[np.bool_],
    keep: NDArray[np.int64],
) -> pd.DataFrame:
    """Truth table of the dots of ``keep``; a dot whose ring of in-plane sites has a gap is at_edge."""
    pairs, axis = order.neighbour_pairs(ijk, filled)
    around = np.bincount(pairs[axis < 2].ravel(), minlength=len(ijk))
    dots = pd.DataFrame({"qd": np.arange(len(keep))})
    dots[POSITION] = positions[keep]
    dots[list("ijk")] = ijk[keep]
    dots["layer"] = ijk[keep, 2] + 1
    dots[QUATERNION] = lattice.to_quaternions(R[keep])
    dots["edge_nm"] = planes[keep].mean(axis=1) * p.lattice_nm / 2
    dots["fraction_inside"] = inside[keep]
    dots["at_edge"] = (around[keep] < 4) | ~filled[keep]
    dots[["planes_a", "planes_b", "planes_c"]] = planes[keep]
    return dots
