"""A second opinion: blind tilt series of a simulator that shares nothing with our own twin's generator.

    python benchmarks/other_twin.py q1 q2 --out FOLDER [--simulate-only] [--dots 60 --layers 4]

Writes ``input/`` (series, nominal angles, sample file) and ``truth/``, runs the analysis on the input alone as far as
the orientations, lays the truth beside what came out and prints a row of a table for each sample. With one sample all
lies in FOLDER, with several in a folder each. Simulating takes two minutes and 2 GB on two cores, the rest ten or more;
the tomograms, 11 GB, are not kept.

What it has and our twin has not: cubes of unequal edges, corners and edges cut to unequal depth, outermost planes that
are islands, lattices that begin anywhere in a dot, necks of three shapes beside the line of centres, an amorphous base,
cap, shell and filling, Pt grains, a background that slopes, a detector that saturates. Its dots are lopsided: a true
centre is the centre of mass of the body (Z^1.7) as grown, without necks and before the needle was cut; ``dots.csv`` has
the middle between the outermost planes as well.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pandas as pd
from scipy.spatial.transform import Rotation

from mesotomo_utils import lattice
from mesotomo_utils.tomography.tilt_series import TiltSeries, save_tilt_series
from mesotomo_utils.twin import compare, errors

Array, Rng = np.ndarray, np.random.Generator
SAMPLES: dict[str, dict[str, Any]] = {
    "q1": {"seed": 7101, "dots": 540, "cell": (6.32, 5.98, 5.70, 96, 98, 95), "base": "Si", "cap": "Pt"},
    "q2": {"seed": 7102, "dots": 590, "cell": (5.97, 5.75, 5.76, 92, 89, 100), "base": "C", "cap": "C"},
    "q3": {"seed": 7103, "dots": 560, "cell": (6.10, 5.80, 6.45, 103, 87, 93), "base": "C", "cap": "Pt"},
    "q4": {"seed": 7104, "dots": 570, "cell": (6.25, 6.05, 5.85, 95, 94, 99), "base": "C", "cap": "C", "even": True},
    "q5": {"seed": 7105, "dots": 560, "cell": (6.60, 5.55, 5.50, 105, 86, 104), "base": "Si", "cap": "Pt", "even": True}
    | {"gap": 0.55, "given": 4.4},
    "q6": {"seed": 7106, "dots": 600, "cell": (6.05, 5.50, 6.60, 85, 94, 86), "base": "C", "cap": "Pt", "even": True}
    | {"gap": 0.55, "given": 5.8},
    "q7": {"seed": 7107, "dots": 480, "cell": (6.45, 6.15, 5.65, 98, 101, 92), "base": "C", "cap": "C", "even": True}
    | {"gap": 0.55, "anion": "S", "lattice_nm": 0.5936, "pixel_nm": 0.09, "electrons": 100.0},
    "q8": {"seed": 7108, "dots": 420, "cell": (5.85, 5.60, 5.70, 94, 97, 101), "base": "Si", "cap": "Pt", "even": True}
    | {"gap": 0.55, "anion": "Te", "lattice_nm": 0.646, "pixel_nm": 0.055, "tilts": 120, "edges_nm": (3.8, 4.8)},
    "q9": {"seed": 7109, "dots": 600, "cell": (6.40, 5.60, 5.90, 91, 103, 88), "base": "C", "cap": "Pt", "even": True}
    | {"gap": 0.5, "given": 5.2, "electrons": 200.0},
    "q10": {"seed": 7110, "dots": 560, "cell": (6.50, 6.20, 6.05, 99, 88, 97), "base": "C", "cap": "C"}
    | {"gap": 0.45, "given": 5.4, "edges_nm": (4.7, 5.7), "electrons": 250.0},
    "q11": {"seed": 7111, "dots": 580, "cell": (5.65, 6.30, 5.90, 87, 104, 102), "base": "Si", "cap": "Pt"}
    | {"gap": 0.4, "given": 4.8, "edges_nm": (4.2, 5.2), "anion": "S", "lattice_nm": 0.5936, "electrons": 300.0},
    "q12": {"seed": 7112, "dots": 610, "cell": (6.20, 5.80, 6.30, 93, 97, 86), "base": "C", "cap": "Pt"}
    | {"given": 5.3, "edges_nm": (4.4, 5.4), "electrons": 200.0},
    "q13": {"seed": 7113, "dots": 550, "cell": (5.90, 6.40, 5.60, 101, 92, 96), "base": "Si", "cap": "C", "even": True}
    | {"gap": 0.45, "given": 4.7, "pixel_nm": 0.075, "electrons": 250.0},
    "q14": {"seed": 7114, "dots": 590, "cell": (6.40, 6.10, 5.70, 88, 102, 97), "base": "Si", "cap": "Pt"}
    | {"gap": 0.5, "given": 5.1, "pixel_nm": 0.08, "electrons": 300.0},
    "q15": {"seed": 7115, "dots": 520, "cell": (5.60, 6.20, 6.50, 99, 86, 91), "base": "C", "cap": "C", "even": True}
    | {"gap": 0.4, "given": 5.5, "anion": "Te", "lattice_nm": 0.646, "electrons": 350.0},
    "q16": {"seed": 7116, "dots": 560, "cell": (6.55, 6.30, 5.95, 94, 86, 103), "base": "Si", "cap": "C"}
    | {"gap": 0.4, "given": 5.6, "edges_nm": (4.6, 5.8), "pixel_nm": 0.065, "electrons": 100.0, "tilts": 150},
    "q17": {"seed": 7117, "dots": 580, "cell": (5.55, 6.60, 6.10, 104, 95, 85), "base": "Si", "cap": "Pt", "even": True}
    | {"gap": 0.45, "given": 5.0, "pixel_nm": 0.06, "electrons": 150.0, "tilts": 140},
    "q18": {"seed": 7118, "dots": 600, "cell": (6.00, 5.70, 5.60, 90, 99, 94), "base": "C", "cap": "C"}
    | {"gap": 0.4, "given": 4.6, "edges_nm": (4.1, 5.1), "pixel_nm": 0.085, "electrons": 250.0},
    "q19": {"seed": 7119, "dots": 570, "cell": (6.15, 6.45, 5.75, 97, 105, 89), "base": "Si", "cap": "C"}
    | {"gap": 0.45, "given": 5.3, "pixel_nm": 0.075, "electrons": 200.0, "tilts": 160},
    "q20": {"seed": 7120, "dots": 590, "cell": (5.70, 5.95, 6.35, 86, 91, 105), "base": "C", "cap": "Pt", "even": True}
    | {"gap": 0.4, "given": 4.9, "anion": "S", "lattice_nm": 0.594, "pixel_nm": 0.065, "electrons": 200.0},
    "q21": {"seed": 7121, "dots": 600, "cell": (5.80, 6.05, 6.20, 95, 85, 98), "base": "C", "cap": "Pt", "even": True}
    | {"gap": 0.45},
    "q22": {"seed": 7122, "dots": 560, "cell": (6.60, 6.35, 6.50, 102, 93, 87), "base": "Si", "cap": "C", "even": True}
    | {"gap": 0.5, "given": 5.7, "edges_nm": (4.8, 6.0), "anion": "Te", "lattice_nm": 0.646}
    | {"pixel_nm": 0.08, "electrons": 120.0, "tilts": 160},
    "q23": {"seed": 7123, "dots": 620, "cell": (5.50, 5.60, 5.55, 86, 104, 96), "base": "C", "cap": "C"}
    | {"gap": 0.4, "given": 4.5, "edges_nm": (3.9, 4.9), "pixel_nm": 0.06, "tilts": 170},
    "q24": {"seed": 7124, "dots": 590, "cell": (6.30, 5.70, 6.05, 100, 97, 91), "base": "Si", "cap": "Pt"}
    | {"gap": 0.45, "given": 5.1},
    "q25": {"seed": 7125, "dots": 600, "cell": (6.45, 6.00, 5.95, 92, 101, 99), "base": "C", "cap": "Pt"}
    | {"gap": 0.4, "given": 5.2, "edges_nm": (4.6, 5.6), "electrons": 300.0},
    "q26": {"seed": 7126, "dots": 610, "cell": (5.75, 5.65, 5.90, 95, 88, 103), "base": "Si", "cap": "C"}
    | {"gap": 0.4, "given": 4.7, "edges_nm": (4.0, 5.0), "electrons": 250.0},
    "q27": {"seed": 7127, "dots": 570, "cell": (6.20, 6.60, 6.05, 104, 90, 96), "base": "C", "cap": "C", "even": True}
    | {"gap": 0.45, "given": 5.4, "anion": "Te", "lattice_nm": 0.646, "electrons": 150.0},
    "q28": {"seed": 7128, "dots": 580, "cell": (6.25, 6.10, 5.80, 97, 94, 92), "base": "Si", "cap": "Pt"}
    | {"gap": 0.45, "last_deg": 70.0, "tilts": 141},
    "q29": {"seed": 7129, "dots": 560, "cell": (5.90, 6.35, 6.00, 93, 99, 101), "base": "C", "cap": "C", "even": True}
    | {"gap": 0.5, "given": 5.2, "electrons": 300.0, "last_deg": 72.0, "tilts": 97},
}
USUAL = {"even": False, "gap": 0.35, "given": 5.0, "anion": "Se", "lattice_nm": 0.612, "edges_nm": (4.3, 5.5)}
USUAL |= {"pixel_nm": 0.07, "electrons": 400.0, "tilts": 180, "last_deg": None}
"""``even``: corners and edges cut alike, whole facets; only the planes of atoms make such dots a little lopsided.
``gap``: least between the faces of two neighbours, nm: where they would be nearer, both give way. At 0.35 they are
hardly farther apart than planes of atoms, 0.31, and as good as touch. ``given``: the sample file's diameter, nm.
``electrons``: of a pixel of dots; ``tilts``: over 180 degrees, or as far as ``last_deg`` either way."""
PT_NM, GAIN = 0.392, 30.0
WEIGHT = {name: z**1.7 for name, z in {"Pb": 82, "S": 16, "Se": 34, "Te": 52, "Pt": 78, "C": 6, "Si": 14}.items()}
PER_NM3 = {"C": 100.0, "Si": 50.0, "points": 12.0, "filling": 25.0}
NORMALS = np.array([n for n in product((-1, 0, 1), repeat=3) if any(n)])
KIND = np.abs(NORMALS).sum(axis=1)  # 1: faces, 2: edges, 3: corners, and how deep they are cut
DEPTHS_NM = np.array([(0.0, 0.0), (0.1, 0.6), (0.3, 1.2)])
STEPS = np.stack(np.meshgrid(*[np.arange(-14, 15)] * 3, indexing="ij"), -1).reshape(-1, 3)
TAPS, PHASES, UNIT = 7, 256, np.eye(3, dtype=int)
ALIGNED = ["angle_nominal_deg", "angle_deg", "shift_z_nm", "shift_u_nm"]
XYZ, PLANES, ERROR = ([name.format(a) for a in "xyz"] for name in ("{}_nm", "planes_{}_nm", "error_{}_nm"))
SAMPLE = """\
name: {name}
tilt_series: series.mrc
tilt_angles: series.rawtlt
pixel_nm: {pixel_nm}
tilt_axis: vertical
film_bottom: low_z
material: {{name: Pb{anion}, lattice_nm: {lattice_nm}, structure: rocksalt}}
quantum_dot: {{diameter_nm: {given}}}
"""


def smooth(rng: Rng, place: Array) -> Array:
    """(N, 3) three smooth functions of (N, 3) places: waves of some 45 nm, of zero mean and unit rms."""
    waves = rng.normal(0, 0.08, (8, 3))
    field = np.cos(place @ waves.T + rng.uniform(0, 2 * np.pi, 8)) @ rng.normal(size=(8, 3))
    return (field - field.mean(axis=0)) / field.std(axis=0)


def make_sites(rng: Rng, sample: dict[str, Any], layers: int, reach_nm: float) -> dict[str, Any]:
    """Indices, places (nm), orientations (columns: [100], [010], [001] in the lab) and neighbours of all dots.

    None is farther than ``reach_nm`` from the tilt axis. ``half`` (N, 3, 2) has the distances of a dot's faces
    from its place, along its axes to either side, nm.
    """
    cell = sample["cell"]
    azimuth = Rotation.from_rotvec([0, 0, rng.uniform(0, 2 * np.pi)])
    film = (Rotation.from_rotvec([*np.deg2rad(rng.normal(0, 2, 2)), 0]) * azimuth).as_matrix()
    alpha, beta, gamma = np.cos(np.deg2rad(cell[3:]))
    V = film @ np.linalg.cholesky([[1, gamma, beta], [gamma, 1, alpha], [beta, alpha, 1]]).T * np.array(cell[:3])
    V = V @ lattice.axes_by_rule(V)
    index = np.stack(np.meshgrid(*[np.arange(-14, 15)] * 2, np.arange(layers), indexing="ij"), -1).reshape(-1, 3)
    place = (index - [0, 0, (layers - 1) / 2] + [*rng.uniform(size=2), 0]) @ V.T
    kept = (np.hypot(*place[:, :2].T) < reach_nm) & (rng.random(len(place)) > 0.015)  # the others: vacancies
    index, place = index[kept], place[kept]
    # a part is strain that neighbours share: it looks like another cell, or like a bent layer
    rms, shared = rng.uniform(0.15, 0.25), rng.uniform(0.4, 0.7)
    place += rms * (np.sqrt(shared) * smooth(rng, place) + np.sqrt(1 - shared) * rng.normal(size=place.shape))
    U, _, Wt = np.linalg.svd(V / np.linalg.norm(V, axis=0))
    turns = (index[:, 2:] / (layers - 1) - 0.5) * [*rng.normal(0, 6, 2), 0] + smooth(rng, place)
    turns += rng.normal(size=place.shape) * rng.uniform(2, 3) / np.sqrt(3)
    R = Rotation.from_rotvec(np.deg2rad(turns)).as_matrix() @ (U @ Wt)
    number = {tuple(ijk): n for n, ijk in enumerate(index)}
    steps = [(n, number.get(tuple(index[n] + step)), axis) for n in range(len(index)) for axis, step in enumerate(UNIT)]
    one, other, axis = pairs = np.array([step for step in steps if step[1] is not None]).T
    half = np.repeat(rng.uniform(*sample["edges_nm"], (len(place), 3, 1)) / 2, 2, axis=2)
    apart = place[other] - place[one]
    along = np.minimum(*(np.einsum("ni,ni->n", apart, R[n, :, axis]) for n in (one, other)))
    lacking = np.maximum(sample["gap"] + half[one, axis, 1] + half[other, axis, 0] - along, 0)
    half[one, axis, 1] -= lacking / 2
    half[other, axis, 0] -= lacking / 2
    return {"index": index, "place": place, "R": R, "pairs": pairs.T, "half": half, "V": V, "normal": film[:, 2]}


def make_necks(rng: Rng, sites: dict[str, Any]) -> pd.DataFrame:
    """A row a pair of neighbours; ``diameter_nm`` of the smallest cross-section, 0 where there is no neck.

    The other columns are its shape: ``middle``, ``along`` and ``side`` (vectors in the lab), half its ``free`` length,
    how much wider it is at the facets (``flare``) and the ``shape`` of its cross-section.
    """
    rows, place, half = [], sites["place"], sites["half"]
    for one, other, axis in sites["pairs"]:
        length = np.linalg.norm(place[other] - place[one])
        along = (place[other] - place[one]) / length
        free = (length - half[one, axis, 1] - half[other, axis, 0]) / 2
        shape, offset, side = rng.choice(["cylinder", "hourglass", "square"]), *rng.normal(size=(2, 3))
        offset, side = (v - v @ along * along for v in (offset, side))
        offset *= 0.3 * np.sqrt(rng.random()) / np.linalg.norm(offset)
        flare = rng.uniform(0.1, 0.3) if shape == "hourglass" else 0.0
        facet = np.delete(half[[one, other]], axis, axis=1).sum(axis=2).min()
        diameter = min(1.5 + 3 * rng.beta(2, 2.5), (facet - 0.6) / (1 + flare))  # no wider than what it stands on
        diameter *= rng.random() < (0.5 if axis == 2 else 0.75)
        middle = place[one] + (half[one, axis, 1] + free) * along + offset
        rows.append((one, other, "ABC"[axis], diameter, middle, along, side / np.linalg.norm(side), free, flare, shape))
    columns = "qd_1 qd_2 axis diameter_nm middle along side free flare shape"
    return pd.DataFrame(rows, columns=columns.split())


def in_neck(neck: Any, at: Array, side: int) -> Array:
    """Which places (N, 3) lie in a neck, on the side of its first (-1) or of its second dot (1)."""
    t = (at - neck.middle) @ neck.along
    across = at - neck.middle - t[:, None] * neck.along
    reach = neck.diameter_nm / 2 * (1 + neck.flare * np.minimum(np.abs(t) / neck.free, 1) ** 2)
    wide = np.linalg.norm(across, axis=1)
    if neck.shape == "square":  # of the same area
        wide = np.maximum(*np.abs([across @ neck.side, across @ np.cross(neck.along, neck.side)])) * 2 / np.sqrt(np.pi)
    # the two lattices do not touch; a neck is rooted in the body, below the islands
    return (wide <= reach) & (side * t > 0.05) & (side * t < neck.free + 1.2)


def grow_body(rng: Rng, sample: dict[str, Any], at: Array, half: Array) -> Array:
    """Which atoms (N, 3), nm in the crystal's frame, are of the body with faces at ``half`` (3, 2)."""
    even = sample["even"]
    depths = DEPTHS_NM[KIND - 1].T
    depth = (depths.mean(axis=0) if even else rng.uniform(*depths)) * np.sqrt(KIND)
    limit = np.where(NORMALS > 0, half[:, 1], np.where(NORMALS < 0, half[:, 0], 0)).sum(axis=1) - depth
    body = (at @ NORMALS.T <= limit).all(axis=1)
    for axis, sign in () if even else product(range(3), (-1, 1)):
        height = sign * at[:, axis]
        top = np.flatnonzero(body & (height > height[body].max() - sample["lattice_nm"] / 4))
        flat, middle = np.delete(at[top], axis, axis=1), rng.uniform(-2, 2, 2)
        # an island, or a terrace with a straight step
        rank = np.linalg.norm(flat - middle, axis=1) if rng.random() < 0.5 else flat @ middle
        body[top[rank > np.quantile(rank, rng.uniform(0.3, 0.7))]] = False
    return body


def grow_dots(
    rng: Rng, sample: dict[str, Any], sites: dict[str, Any], necks: pd.DataFrame, needle: Array
) -> tuple[Array, Array, pd.DataFrame]:
    """Atoms of dots and necks within the needle (its axis x, y and its radius, nm): places and weights; true dots."""
    own: list[list[tuple[Any, int]]] = [[] for _ in sites["place"]]
    for neck in necks[necks["diameter_nm"] > 0].itertuples():
        own[neck.qd_1].append((neck, -1))
        own[neck.qd_2].append((neck, 1))
    weight, step_nm = np.where(STEPS.sum(axis=1) % 2, WEIGHT[sample["anion"]], WEIGHT["Pb"]), sample["lattice_nm"] / 2
    places, weights, rows = [], [], []
    for n, (site, R, ijk) in enumerate(zip(sites["place"], sites["R"], sites["index"], strict=True)):
        crystal = STEPS * step_nm + rng.uniform(-step_nm, step_nm, 3)
        body, lab = grow_body(rng, sample, crystal, sites["half"][n]), site + crystal @ R.T
        kept = np.hypot(*(lab[:, :2] - needle[:2]).T) <= needle[2]
        centre = np.average(lab[body], axis=0, weights=weight[body])
        planes = site + R @ (crystal[body].min(axis=0) + crystal[body].max(axis=0)) / 2
        x, y, z, w = Rotation.from_matrix(R).as_quat(canonical=True)
        inside = weight[body & kept].sum() / weight[body].sum()
        rows.append((n, *centre, *ijk, ijk[2] + 1, w, x, y, z, inside, *planes))
        atoms = kept & np.any([body, *(in_neck(neck, lab, side) for neck, side in own[n])], axis=0)
        places.append(lab[atoms])
        weights.append(weight[atoms])
    columns = ["qd", *XYZ, "i", "j", "k", "layer", "qw", "qx", "qy", "qz", "fraction_inside", *PLANES]
    return np.concatenate(places), np.concatenate(weights), pd.DataFrame(rows, columns=columns)


def surround(rng: Rng, sample: dict[str, Any], needle: Array, normal: Array, dots: Array) -> tuple[Array, Array]:
    """All that is no dot, places and weights: base, cap, shell, filling; given the atoms of the dots and the film.

    The amorphous is a cloud of points that each stand for several atoms: one by one they would be ten million.
    """
    shell = rng.uniform(0.5, 1.5)
    low, high = dots[:, 2].min() - 4, dots[:, 2].max() + 4
    size = np.array([*[2 * (needle[2] + shell)] * 2, high - low])
    cloud = (rng.random((int(PER_NM3["points"] * size.prod()), 3)) - [0.5, 0.5, 0]) * size + [*needle[:2], low]
    outwards, height = np.hypot(*(cloud[:, :2] - needle[:2]).T), cloud @ normal
    bottom, top = (dots @ normal).min() - 0.1, (dots @ normal).max() + 0.3
    density = np.where((outwards > needle[2]) | (height > top), PER_NM3["C"], PER_NM3["filling"]) * WEIGHT["C"]
    density[(height < bottom) & (outwards <= needle[2])] = PER_NM3[sample["base"]] * WEIGHT[sample["base"]]
    kept = outwards <= needle[2] + shell
    places, weights = [cloud[kept]], [density[kept] / PER_NM3["points"]]
    fcc = STEPS[STEPS.sum(axis=1) % 2 == 0] * PT_NM / 2
    for _ in range(40 if sample["cap"] == "Pt" else 0):
        grain = fcc[np.linalg.norm(fcc, axis=1) < rng.uniform(0.6, 1.3)]
        middle = np.array([*needle[:2] + rng.uniform(-0.7, 0.7, 2) * needle[2], 0.0])
        middle[2] = (top + rng.uniform(1.5, 3.5) - middle @ normal) / normal[2]
        places.append(Rotation.from_rotvec(rng.normal(0, 2, 3)).apply(grain) + middle)
        weights.append(np.full(len(grain), WEIGHT["Pt"]))
    return np.concatenate(places), np.concatenate(weights)


@numba.njit(parallel=True)
def project(points, weights, angles, turn, shifts, blur, images, pixel):
    """Add atoms (N, 3), nm, to images [tilt, z, u]: each a Gaussian, at its own place between the pixels.

    ``angles`` and ``turn`` (of the axis in the image) in radians, ``shifts`` (tilts, 2) along z and u in nm; ``blur``
    has a row of weights for each of many places within a pixel, so that no image is ever resampled.
    """
    phases, taps = blur.shape
    half, rows, columns = taps // 2, images.shape[1], images.shape[2]
    for n in numba.prange(len(angles)):
        c, s, ct, st = np.cos(angles[n]), np.sin(angles[n]), np.cos(turn), np.sin(turn)
        for m in range(len(points)):
            u, z = points[m, 0] * c + points[m, 1] * s, points[m, 2]
            row = (z * ct + u * st + shifts[n, 0]) / pixel + (rows - 1) / 2
            column = (u * ct - z * st + shifts[n, 1]) / pixel + (columns - 1) / 2
            r, q = int(np.floor(row + 0.5)), int(np.floor(column + 0.5))
            if half <= r < rows - half and half <= q < columns - half:
                down, across = blur[int((row - r + 0.5) * phases)], blur[int((column - q + 0.5) * phases)]
                for i in range(taps):
                    for j in range(taps):
                        images[n, r - half + i, q - half + j] += weights[m] * down[i] * across[j]


def detect(rng: Rng, images: Array, dose: float) -> None:
    """Turn projected weight into counts, in place: electrons, a background that slopes, saturation, an offset."""
    some = images[::30]
    images *= dose / some[some > np.quantile(some, 0.99)].mean()
    slopes, loss, offset = rng.uniform(-0.4, 0.4, 2), rng.uniform(0.01, 0.02) / images.max(), rng.uniform(100, 300)
    down, across = (np.linspace(-1, 1, n) for n in images.shape[1:])
    background = 0.02 * dose * (1 + slopes[0] * down[:, None] + slopes[1] * across)
    for image in images:
        electrons = rng.poisson(image + background)
        image[:] = np.rint(offset + GAIN * electrons * (1 - loss * electrons))


def simulate(name: str, folder: Path, *, dots: int, layers: int) -> None:
    """Write ``input/`` and ``truth/`` of a sample, in a needle wide enough for about so many whole dots."""
    sample, rng = USUAL | SAMPLES[name], np.random.default_rng(SAMPLES[name]["seed"])
    pixel, tilts = sample["pixel_nm"], sample["tilts"]
    area = np.prod(sample["cell"][:2]) * np.sin(np.deg2rad(sample["cell"][5]))
    radius = np.sqrt(dots * area / (0.985 * layers * np.pi)) + 1.6
    needle = np.array([*rng.normal(0, 0.7, 2), radius])
    sites = make_sites(rng, sample, layers, radius + 5)
    necks = make_necks(rng, sites)
    places, weights, true = grow_dots(rng, sample, sites, necks, needle)
    around, faint = surround(rng, sample, needle, sites["normal"], places)
    low, high = places[:, 2].min() - 1.5, places[:, 2].max() + 1.0  # base and cap go on beyond the field
    true[["z_nm", "planes_z_nm"]] -= (low + high) / 2
    points = np.concatenate([places, around]) - [0, 0, (low + high) / 2]
    rows, columns = (8 * int(np.ceil(length / pixel / 8)) for length in (high - low, 2 * radius + 10))
    last = sample["last_deg"]
    nominal = np.linspace(-last, last, tilts) if last else np.arange(tilts) * 180 / tilts - 90
    angles = nominal + rng.normal(0, 0.1, tilts)
    shifts = pixel * (rng.normal(0, 2, (tilts, 2)) + np.cumsum(rng.normal(0, 0.3, (tilts, 2)), axis=0))
    offset, tilt = np.array([0, pixel * rng.uniform(-8, 8)]), rng.uniform(-1, 1)
    sigma = np.hypot(rng.uniform(0.085, 0.1) / np.sqrt(8 * np.log(2)), rng.uniform(0.008, 0.01)) / pixel
    away = (np.arange(TAPS) - TAPS // 2 + 0.5 - (np.arange(PHASES)[:, None] + 0.5) / PHASES) / sigma
    blur = np.exp(-(away**2) / 2) / (sigma * np.sqrt(2 * np.pi))
    images = np.zeros((tilts, rows + 2 * TAPS, columns + 2 * TAPS), np.float32)  # the rim would lack atoms beyond it
    single = (array.astype(np.float32) for array in (points, np.concatenate([weights, faint])))
    project(*single, np.deg2rad(angles), np.deg2rad(tilt), shifts + offset, blur, images, pixel)
    detect(rng, images := np.ascontiguousarray(images[:, TAPS:-TAPS, TAPS:-TAPS]), sample["electrons"])
    for each in (given := folder / "input", truth := folder / "truth"):
        each.mkdir(parents=True, exist_ok=True)
    save_tilt_series(given / "series.mrc", TiltSeries(images, nominal, pixel, name=name))
    (given / "sample.yaml").write_text(SAMPLE.format(name=name, **sample))
    true = true[true["fraction_inside"] > 0]
    true.to_csv(truth / "dots.csv", index=False)
    there = necks[["qd_1", "qd_2"]].isin(set(true["qd"])).all(axis=1)
    necks.loc[there, ["qd_1", "qd_2", "axis", "diameter_nm"]].to_csv(truth / "necks.csv", index=False)
    (truth / "superlattice.json").write_text(json.dumps(dict(zip("ABC", sites["V"].T.tolist(), strict=True))))
    imaging = {"level": "images", "pixel_nm": pixel, "image_shape": [rows, columns]}
    (truth / "parameters.json").write_text(json.dumps(imaging | {"axis_tilt_deg": tilt, "axis_offset_nm": offset[1]}))
    aligned = np.column_stack([nominal, angles, shifts])
    pd.DataFrame(aligned, columns=ALIGNED).to_csv(truth / "alignment.csv", index_label="tilt")


def row(name: str, run_dir: Path) -> dict[str, str]:
    """What a finished run and its truth say of each other, by the heads of the table's columns."""
    found, table = compare.compare_if_twin(run_dir)
    dots, necks, cell, aligned = (found[key] for key in ("dots", "necks", "cell", "alignment"))
    whole, cut = table[table["whole"]], table[~table["whole"]]
    true = pd.read_csv(run_dir / "truth" / "dots.csv").set_index("qd").loc[whole["qd_true"]]
    middle = np.linalg.norm(whole[ERROR].to_numpy() + true[XYZ].to_numpy() - true[PLANES].to_numpy(), axis=1)
    axes = np.column_stack(list(json.loads((run_dir / "truth" / "superlattice.json").read_text()).values()))
    layers = whole.groupby("layer_true")[ERROR].mean().to_numpy() @ (axes / np.linalg.norm(axes, axis=0))
    slopes = dots["neck_pull_nm_per_nm"].values()
    tilts = [aligned[key] for key in ("shift_z_rms_px", "shift_u_rms_px", "angle_rms_deg", "axis_tilt_error_deg")]
    columns: dict[str, tuple[int, Any]] = {
        "whole dots, missed, spurious": (0, [dots[key] for key in ("dots_true", "missed", "spurious")]),
        "centres, median, 95 % (nm)": (3, [dots["centre_error_nm"][key] for key in ("median", "p95")]),
        "from the middle of planes": (3, np.quantile(middle, (0.5, 0.95))),
        "within σ along x, y, z (%)": (0, 100 * np.array(dots["centre_within_sigma"])),
        "of cut dots (%)": (0, 100 * np.array(errors.within_sigma(cut))),
        "worst layer along A, B, C (nm)": (3, np.abs(layers).max(axis=0)),
        "slope on necks / σ, A, B, C": (1, [slope["value"] / slope["sigma"] for slope in slopes]),
        "cell (nm, °)": (3, [cell["cell_length_error_nm"], cell["cell_angle_error_deg"]]),
        "necks, bias, rms (nm)": (3, [necks.get(f"neck_diameter_{kind}_nm", np.nan) for kind in ("bias", "rms")]),
        "false, missed (%)": (1, [100 * necks.get(f"neck_{kind}_fraction", np.nan) for kind in ("false", "missed")]),
        "orientations, median, 95 % (°)": (3, [dots["orientation_error_deg"][key] for key in ("median", "p95")]),
        "error / σ": (2, [dots["orientation_error_over_sigma"]]),
        "shifts z, u (px), angles, axis (°)": (4, tilts),
    }
    return {"twin": name} | {h: ", ".join(f"{v:.{digits}f}" for v in vs) for h, (digits, vs) in columns.items()}


def main() -> None:
    """Simulate blind series, run the analysis on them and print how its findings and the truth differ."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("samples", nargs="+", choices=SAMPLES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dots", type=int, help="whole dots, about")
    parser.add_argument("--layers", type=int, default=9)
    parser.add_argument("--simulate-only", action="store_true")
    asked = parser.parse_args()
    rows = []
    for name in asked.samples:
        folder = (asked.out if len(asked.samples) == 1 else asked.out / name).resolve()
        simulate(name, folder, dots=asked.dots or SAMPLES[name]["dots"], layers=asked.layers)
        if not asked.simulate_only:
            shutil.rmtree(folder / "run" / "truth", ignore_errors=True)  # of a call before: the analysis never sees it
            command = [sys.executable, "-m", "mesotomo_utils.workflow.cli", "run", "input/sample.yaml", "--out", "run"]
            subprocess.run([*command, "--to", "03"], check=True, stdout=sys.stderr, cwd=folder)
            shutil.copytree(folder / "truth", folder / "run" / "truth")
            rows.append(row(name, folder / "run"))
            for tomogram in (folder / "run").glob("*.zarr"):
                shutil.rmtree(tomogram)
    if rows:
        lines = [rows[0], ["---"] * len(rows[0]), *(each.values() for each in rows)]
        print("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines))


if __name__ == "__main__":
    main()
