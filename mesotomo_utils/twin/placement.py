"""Where the dots of a twin lie and how their atomic lattices are turned.

Both start from random fields on the sites of the superlattice, correlated between neighbours, which
are then scaled until the dots counted have the statistics asked for; dots that would touch are
pushed apart.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from mesotomo_utils import lattice
from mesotomo_utils.twin import order, shapes
from mesotomo_utils.twin.imposed import TwinParameters

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def correlated_field(ijk: NDArray[np.int64], components: int, correlation: float, rng: np.random.Generator) -> Array:
    """(N, components) standard normal fields; ``correlation`` between sites one step apart.

    Falls off as ``correlation ** distance``, the distance counted in steps of the lattice.
    """
    noise = rng.standard_normal((len(ijk), components))
    if correlation == 0:
        return noise
    distance = np.linalg.norm(ijk[:, None, :] - ijk[None, :, :], axis=-1)
    covariance = correlation**distance + 1e-9 * np.eye(len(ijk))
    return np.linalg.cholesky(covariance) @ noise


def first_displacements(parameters: TwinParameters, ijk: NDArray[np.int64], field: Array, looser: Array) -> Array:
    """(N, 3) displacements in the film frame, nm, before they are scaled and kept apart.

    Parameters
    ----------
    field
        (N, 3) correlated normal numbers: in plane, in plane, height.
    looser
        (N,) factor on each dot's displacement.
    """
    layer = ijk[:, 2]
    in_plane = parameters.scatter_profile(parameters.in_plane_surface_factor)
    u = field * looser[:, None]
    u[:, :2] *= 0.22 * in_plane[layer, None]
    u[:, 2] *= (parameters.planarity() / order.FWHM_PER_SD)[layer]
    return u


def place_dots(
    *,
    parameters: TwinParameters,
    ijk: NDArray[np.int64],
    ideal_nm: Array,
    cell: Array,
    R: Array,
    half_nm: Array,
    cut_nm: Array,
    counted: Mask,
    present: Mask,
    displacement_nm: Array,
    rounds: int = 400,
) -> tuple[Array, Array]:
    """Displace the dots: exact planarity and in-plane spread over the dots counted, no overlap.

    Parameters
    ----------
    ijk, ideal_nm, R, half_nm, cut_nm
        (N, 3), (N, 3), (N, 3, 3), (N, 3), (N,) of all sites; ``ijk[:, 2]`` is the layer from 0.
    cell
        (3, 3) lab vectors A, B, C as columns.
    counted, present
        (N,) sites whose statistics count; sites that hold a dot.
    displacement_nm
        (N, 3) to start from, film frame: `first_displacements`, or those of a call before.

    Returns
    -------
    positions, displacements
        (N, 3) each, in the lab and in the film frame, nm.

    Raises
    ------
    ValueError
        Dots still touch after ``rounds`` rounds.
    """
    frame = lattice.film_frame(cell)
    layer = ijk[:, 2]
    target_sd = parameters.planarity() / order.FWHM_PER_SD
    u = displacement_nm.copy()
    xy = (ideal_nm @ frame)[:, :2]
    pairs, axis = order.neighbour_pairs(ijk, counted)
    ab = [pairs[axis == n] for n in (0, 1)]
    every = order.close_pairs(ijk, present)
    mobility = target_sd[layer] ** 2

    beside, beside_axis = order.neighbour_pairs(ijk, present)
    beside = beside[beside_axis < 2]
    wanted = parameters.sl_spread_out_of_plane_deg

    for turn in range(rounds):
        for k in range(parameters.layers):
            rows = layer == k
            u[rows, 2] = order.without_plane(u[rows, 2], xy[rows], counted[rows])
            u[rows, 2] *= target_sd[k] / order.layer_sd(u[rows & counted, 2])
        positions = ideal_nm + u @ frame.T
        vectors = tuple(positions[p[:, 1]] - positions[p[:, 0]] for p in ab)
        width, height = order.spread_deg(vectors, frame)
        scale = np.clip(parameters.sl_spread_in_plane_deg / width, 0.8, 1.25)
        u[:, :2] *= scale
        # heights that are too unlike between neighbours are drawn together, or the reverse;
        # given up after half of the rounds, where planarity and spread contradict each other
        excess = 0.0 if wanted is None or turn > rounds / 2 else height / wanted - 1
        positions = ideal_nm + u @ frame.T

        near = shapes.near_pairs(positions, half_nm, cut_nm, every, margin_nm=parameters.minimum_gap_nm + 0.02)
        share = mobility[near] / mobility[near].sum(axis=1, keepdims=True)
        gap, direction = shapes.face_gaps(positions, R, half_nm, cut_nm, near)
        short = np.maximum(parameters.minimum_gap_nm + 0.02 - gap, 0.0)
        settled = abs(scale - 1) < 0.003 and abs(excess) < 0.01 and gap.min() >= parameters.minimum_gap_nm
        if settled:
            return positions, u
        push = direction * short[:, None] * 0.7
        move = np.zeros_like(positions)
        np.add.at(move, near[:, 0], -push * share[:, :1])
        np.add.at(move, near[:, 1], push * share[:, 1:])
        u += move @ frame
        u[:, 2] += np.clip(0.3 * excess, -0.05, 0.05) * _above_own(u[:, 2], beside)
    raise ValueError(
        f"twin: dots touch, the smallest face gap is {gap.min():.2f} nm instead of "
        f"{parameters.minimum_gap_nm} nm; enlarge the cell, or lessen edge_nm, planarity or spread"
    )


def _above_own(height: Array, pairs: NDArray[np.int64]) -> Array:
    """(N,) mean height of each dot's neighbours (pairs (P, 2)) minus its own; 0 without neighbours."""
    n = len(height)
    first, second = pairs.T
    total = np.bincount(first, height[second] - height[first], n)
    total += np.bincount(second, height[first] - height[second], n)
    return total / np.maximum(np.bincount(pairs.ravel(), minlength=n), 1)


def mono_rotation(cell: Array, *, facet_fraction: float = 0.75) -> Array:
    """Rotation (3, 3) of equal cubes in the mean cell that overlap most, facet on facet.

    Two parallel squares of edge f, displaced sideways by (s, t), share (f - |s|)(f - |t|); summed
    over the neighbours along A, B and C. Found by a simplex from the polar rotation of the cell and
    from turns about it: the kinks at s = 0 rule a gradient out. Deliberately not the analysis' code.

    Parameters
    ----------
    cell
        (3, 3) columns A, B, C, nm.
    facet_fraction
        Edge f of the facets as a fraction of the shortest of A, B, C.
    """
    start = lattice.polar_rotation(cell)
    facet = facet_fraction * np.linalg.norm(cell, axis=0).min()
    beside = np.array([[1, 2], [0, 2], [0, 1]])

    def lost(turn: Array) -> float:
        sideways = np.abs(cell.T @ start @ lattice.from_rotation_vectors(turn))
        return -np.prod(np.clip(facet - np.take_along_axis(sideways, beside, 1), 0, None), axis=1).sum()

    options = {"xatol": 1e-7, "fatol": 1e-10, "maxiter": 4000}
    turns = [np.zeros(3), *(0.07 * sign * unit for unit in np.eye(3) for sign in (1, -1))]
    found = [minimize(lost, turn, method="Nelder-Mead", options=options) for turn in turns]
    return start @ lattice.from_rotation_vectors(min(found, key=lambda one: one.fun).x)


def orient_dots(
    *,
    parameters: TwinParameters,
    ijk: NDArray[np.int64],
    cell: Array,
    positions_nm: Array,
    counted: Mask,
    present: Mask,
    field: Array,
    looser: Array,
    rounds: int = 60,
) -> Array:
    """Turn the atomic lattices: roll and turn of the layers, scatter about the common axis.

    The scatter about the common axis, about the axis across it in the plane, and about the third
    are scaled until the spreads out of plane and in plane and the explained variance of the counted
    dots are those asked for, as far as roll and turn leave room.

    Parameters
    ----------
    field
        (N, 3) correlated normal numbers, along the common axis, across it, and the third.
    positions_nm
        (N, 3), used where the lattices follow their neighbours (``follow_local``).

    Returns
    -------
    (N, 3, 3) rotations, lab = R crystal.
    """
    p = parameters
    frame = lattice.film_frame(cell)
    layer = ijk[:, 2]
    axes = crystal_axes(p.common_axis)
    pairs, _ = order.neighbour_pairs(ijk, counted)
    roll = p.roll() - np.average(p.roll()[layer[counted]])
    turn = p.turn() - np.average(p.turn()[layer[counted]])
    mono = mono_rotation(cell)
    base = np.broadcast_to(mono, (len(ijk), 3, 3))
    if p.follow_local > 0:
        local = local_rotations(ijk, positions_nm, present, cell)
        base = mono @ lattice.from_rotation_vectors(p.follow_local * lattice.rotation_vectors(mono.T @ local))
    base = base @ lattice.axis_angle(axes[:, 0], np.deg2rad(roll))[layer]
    base = lattice.axis_angle(frame[:, 2], np.deg2rad(turn))[layer] @ base

    shape = field * looser[:, None] * p.scatter_profile(p.scatter_surface_factor)[layer, None]
    for k in range(p.layers):
        rows = layer == k
        if np.any(rows & counted):  # so that each layer's mean is the one asked for
            shape[rows] -= shape[rows & counted].mean(axis=0)

    isotropic = p.al_spread_in_plane_deg is None
    sd = np.full(3, p.scatter_deg)
    sd[1:] *= 0.25
    for _ in range(rounds):
        R = base @ lattice.from_rotation_vectors(np.deg2rad(shape * sd) @ axes.T)
        in_plane, out_of_plane = order.spread_deg((R[counted, :, 0], R[counted, :, 1]), frame)
        moment = axes.T @ order.neighbour_second_moment(R, pairs) @ axes
        if p.al_spread_out_of_plane_deg is not None:
            sd[0] *= np.clip(p.al_spread_out_of_plane_deg / out_of_plane, 0.7, 1.4)
        if not isotropic:
            sd[2] *= np.clip(p.al_spread_in_plane_deg / in_plane, 0.7, 1.4)
        sd[2] = np.clip(sd[2], 0.05 * sd[0], 2 * sd[0])
        wanted = moment[0, 0] * (1 / p.explained_variance - 1)
        rest = moment[1, 1] + (moment[2, 2] if isotropic else 0.0)
        room = wanted - (0.0 if isotropic else moment[2, 2])
        sd[1] *= np.clip(np.sqrt(max(room, 0.0) / rest), 0.7, 1.4)
        sd[1] = np.clip(sd[1], 0.05 * sd[0], 2 * sd[0])
        if isotropic:
            sd[2] = sd[1]
    return R


def crystal_axes(common: tuple[float, float, float]) -> Array:
    """(3, 3) columns: the common axis, the one across it in the (001) plane, the third; unit."""
    first = np.asarray(common, dtype=float) / np.linalg.norm(common)
    across = np.cross([0.0, 0.0, 1.0], first)
    if np.linalg.norm(across) < 1e-9:
        across = np.array([1.0, 0.0, 0.0])
    across /= np.linalg.norm(across)
    return np.column_stack([first, across, np.cross(first, across)])


def local_rotations(ijk: NDArray[np.int64], positions_nm: Array, present: Mask, cell: Array) -> Array:
    """(N, 3, 3) polar rotations of each dot's own neighbour vectors.

    Along A, B and C the mean of the unit vectors from the - neighbour and to the + neighbour;
    where both are missing the mean cell's.
    """
    unit = cell / np.linalg.norm(cell, axis=0)
    total = np.zeros((len(ijk), 3, 3))
    pairs, axis = order.neighbour_pairs(ijk, present)
    vectors = positions_nm[pairs[:, 1]] - positions_nm[pairs[:, 0]]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for column in range(2):
        np.add.at(total, (pairs[:, column], slice(None), axis), vectors)
    norm = np.linalg.norm(total, axis=1, keepdims=True)
    total = np.where(norm > 1e-6, total / np.maximum(norm, 1e-6), unit)
    return np.array([lattice.mean_rotation(m[None]) for m in total])
