"""Atoms of a twin: rock salt in every dot, and in the necks the lattices of the two dots they join."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from mesotomo_utils.twin import shapes
from mesotomo_utils.twin.structure import Structure

PB, SE = 0, 1
CLOSEST_NM = 0.2
"""No two atoms are nearer than this; in PbSe neighbours are 0.306 nm apart."""

Array = NDArray[np.float64]


def place_atoms(structure: Structure) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Fill dots and necks with atoms and mill the needle.

    A dot holds a whole number of atomic planes along each edge, centred, so that the centre of its
    atoms is its centre. A neck is a cylinder along the line between two centres, filled with the
    lattice of the one dot up to the middle of the gap and of the other beyond it; where the two
    lattices meet closer than `CLOSEST_NM` the atom of the second is left out. Atoms outside the
    needle are removed.

    Parameters
    ----------
    structure
        Dots, necks and the needle's radius.

    Returns
    -------
    positions_nm, species
        (N, 3) float32 lab positions and (N,) int8, 0 for Pb and 1 for Se.
    """
    centres, R = structure.positions_nm, structure.R
    half, cut = structure.half_nm, structure.cut_nm
    step = structure.parameters.lattice_nm / 2
    planes = structure.dots[["planes_a", "planes_b", "planes_c"]].to_numpy()
    bridges = _half_necks(structure)

    positions, species, seams, owners = [], [], [], []
    for dot in range(len(centres)):
        own = bridges.get(dot, ())
        reach = max([m for *_, m in own], default=0.0) + structure.parameters.lattice_nm
        axes = [_line(n, max(reach, half[dot].max()), step) for n in planes[dot]]
        index = np.stack(np.meshgrid(*[a[1] for a in axes], indexing="ij"), -1).reshape(-1, 3)
        points = np.stack(np.meshgrid(*[a[0] for a in axes], indexing="ij"), -1).reshape(-1, 3)
        keep = shapes.contains(points, half[dot], cut[dot])
        seam = np.zeros(len(points), dtype=bool)
        for e, radius, middle in own:
            along = points @ e
            across2 = np.einsum("ni,ni->n", points, points) - along**2
            keep |= (along > 0) & (along <= middle) & (across2 <= radius**2)
            # a facet may lean over the middle beside the neck: look a little wider
            seam |= (along > middle - 3 * CLOSEST_NM) & (across2 <= (radius + CLOSEST_NM) ** 2)
        lab = points[keep] @ R[dot].T + centres[dot]
        positions.append(lab)
        species.append(index[keep].sum(axis=1) % 2)
        seams.append(seam[keep])
        owners.append(np.full(len(lab), dot))

    xyz = np.concatenate(positions)
    kind = np.concatenate(species)
    stay = np.hypot(xyz[:, 0], xyz[:, 1]) < structure.radius_nm
    stay[_doubled(xyz, np.concatenate(seams), np.concatenate(owners))] = False
    return xyz[stay].astype(np.float32), kind[stay].astype(np.int8)


def _half_necks(structure: Structure) -> dict[int, list[tuple[Array, float, float]]]:
    """Of each dot its halves of necks: direction in the crystal frame, radius, end of its half, nm."""
    centres, R = structure.positions_nm, structure.R
    necks = structure.necks[structure.necks["diameter_nm"] > 0]
    halves: dict[int, list[tuple[Array, float, float]]] = {}
    for first, second, diameter in necks[["qd_1", "qd_2", "diameter_nm"]].itertuples(index=False):
        d = centres[second] - centres[first]
        distance = np.linalg.norm(d)
        out = R[first].T @ (d / distance)
        back = -R[second].T @ (d / distance)
        from_first = float(shapes.exit_nm(out, structure.half_nm[first], structure.cut_nm[first]))
        to_second = float(shapes.exit_nm(back, structure.half_nm[second], structure.cut_nm[second]))
        middle = (from_first + distance - to_second) / 2
        halves.setdefault(first, []).append((out, diameter / 2, middle))
        halves.setdefault(second, []).append((back, diameter / 2, distance - middle))
    return halves


def _line(n_planes: int, reach: float, step: float) -> tuple[Array, NDArray[np.int64]]:
    """Positions and numbers of the planes along one edge, as far as ``reach``; n are the dot's."""
    index = np.arange(-int(reach / step) - 1, n_planes + int(reach / step) + 2)
    position = (index - (n_planes - 1) / 2) * step
    near = np.abs(position) <= reach
    return position[near], index[near]


def _doubled(xyz: Array, seam: NDArray[np.bool_], owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of atoms that sit on one of another dot where two half necks meet."""
    rows = np.flatnonzero(seam)
    if len(rows) == 0:
        return rows
    close = cKDTree(xyz[rows]).query_pairs(CLOSEST_NM, output_type="ndarray")
    first, second = rows[close].T
    other = owner[first] != owner[second]
    return np.unique(np.maximum(first, second)[other])
