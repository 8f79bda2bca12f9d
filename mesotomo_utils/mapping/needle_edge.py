"""Where the needle ends: the surface that was milled through its outermost dots.

Of a dot that it cuts nothing is seen beyond, and what mirrors that tells nothing of its centre either. The surface is
smooth and round, and the dots that it cuts all end on it: that is how it is told from facets, which lie farther in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from scipy import ndimage

from mesotomo_utils.distribute import map_items

#: Slices count with this part of the bodies that the fuller ones have: those of the film.
FILM_BODIES = 0.2
#: Rays outwards, so far apart on the edge, in dot diameters.
RAY_DIAMETERS = 0.1
#: How the edge's distance from the axis varies: up to this power of the height, this harmonic of the direction.
HEIGHT_POWER, HARMONICS = 2, 3
#: Rays that end farther in than this, in dot diameters, are left out, step by step: they end on facets, or in gaps.
FARTHER_IN = (0.5, 0.25, 0.15, 0.1, 0.08)
#: And at last those that end this far from the edge on either side, in steps of Tukey's weights.
TUKEY_DIAMETERS = (0.06, 0.05, 0.04, 0.04, 0.04)
#: There is an edge where this part of the rays ends so near to it, in dot diameters: 0.38 to 0.5 in needles, whose
#: other rays end on facets, and less than 0.1 in pieces of a film.
LEAST_SHARE, NEAR_DIAMETERS = 0.2, 0.02


@dataclass(frozen=True)
class NeedleEdge:
    """The surface of a needle whose axis runs nearly along z.

    Attributes
    ----------
    axis_nm
        (2,) x, y of a line along z from which distances are taken, nm.
    heights_nm
        (2,) lowest and highest z at which it was seen, nm.
    coefficients
        Of powers of the height, -1 to 1 between those, each with harmonics of the direction: distances, nm.
    share
        Part of the rays outwards that end on it.
    """

    axis_nm: np.ndarray
    heights_nm: np.ndarray
    coefficients: np.ndarray
    share: float

    def distance_nm(self, z_nm, angle) -> np.ndarray:
        """(N,) distances of the edge from the axis, nm, at heights z, nm, in directions from x towards y, radians."""
        z, angle = np.broadcast_arrays(np.asarray(z_nm, float), np.asarray(angle, float))
        return _terms(z, angle, self.heights_nm) @ self.coefficients

    def outline(self) -> list[pd.DataFrame]:
        """Two lines ``u_nm, v_nm``: x and z of the edge, nm, on either side of the axis."""
        z = np.linspace(*self.heights_nm)
        left, right = -self.distance_nm(z, np.pi), self.distance_nm(z, 0.0)
        return [pd.DataFrame({"u_nm": self.axis_nm[0] + u, "v_nm": z}) for u in (left, right)]

    def around(self, xyz_nm) -> np.ndarray:
        """(N, 3) for points: x and y from the axis, and the distance of the edge from it in their direction, nm."""
        xyz = np.asarray(xyz_nm, float).reshape(-1, 3)
        away = xyz[:, :2] - self.axis_nm
        return np.column_stack([away, self.distance_nm(xyz[:, 2], np.arctan2(away[:, 1], away[:, 0]))])


def find_needle_edge(values: np.ndarray, step_nm: float, diameter_nm: float) -> NeedleEdge | None:
    """The edge of a needle, from the bodies of its dots.

    Parameters
    ----------
    values
        (nz, ny, nx) picture of the bodies, 0 in the matrix and 1 in them, the needle's axis nearly along z.
    step_nm
        Edge of its voxels, nm.
    diameter_nm
        Nominal dot diameter, nm.

    Returns
    -------
    None where too few of the bodies end on any such surface (:data:`LEAST_SHARE`), as of a piece of a film, or where it
    is hardly wider than a dot.
    """
    body = values > 0.5
    bodies = body.sum(axis=(1, 2))
    film = np.flatnonzero(bodies > FILM_BODIES * np.quantile(bodies, 0.9))
    if not film.size:
        return None
    film = slice(film[0], film[-1] + 1)
    middle = (np.array(values.shape) - 1) / 2
    seen = np.argwhere(body[film].any(axis=0))
    axis = seen.mean(axis=0)
    reach = np.sqrt(((seen - axis) ** 2).sum(axis=1).max()) + 2
    n_rays = int(np.ceil(2 * np.pi * reach * step_nm / (RAY_DIAMETERS * diameter_nm)))
    angles = np.arange(n_rays) * (2 * np.pi / n_rays)
    ends = step_nm * np.stack(map_items(partial(_outermost, axis=axis, angles=angles, reach=reach), values[film]))
    heights = (np.arange(film.start, film.stop) - middle[0]) * step_nm
    limits = heights[[0, -1]] + np.array([-step_nm, step_nm]) / 2
    z, angle = (grid.ravel() for grid in np.meshgrid(heights, angles, indexing="ij"))
    there = np.isfinite(ends.ravel())
    terms, ends = _terms(z[there], angle[there], limits), ends.ravel()[there]
    if len(ends) < 4 * terms.shape[1]:
        return None
    fit = _solve(terms, ends, np.ones(len(ends)))
    for limit in FARTHER_IN:
        fit = _solve(terms, ends, ends - terms @ fit > -limit * diameter_nm)
    for scale in TUKEY_DIAMETERS:
        off = (ends - terms @ fit) / (scale * diameter_nm)
        fit = _solve(terms, ends, np.where(np.abs(off) < 1, (1 - off**2) ** 2, 0))
    share = float((np.abs(ends - terms @ fit) < NEAR_DIAMETERS * diameter_nm).mean())
    if share < LEAST_SHARE or fit[0] < diameter_nm:
        return None
    return NeedleEdge((axis - middle[1:])[::-1] * step_nm, limits, fit, share)


def _outermost(plane: np.ndarray, axis: np.ndarray, angles: np.ndarray, reach: float) -> np.ndarray:
    """How far from the axis (y, x) the last body ends on each ray, in voxels; NaN where there is none."""
    radii = np.arange(0, reach, 0.5)
    at = np.stack([axis[0] + radii * np.sin(angles)[:, None], axis[1] + radii * np.cos(angles)[:, None]])
    along = ndimage.map_coordinates(plane, at, order=1)
    body = along[:, :-1] > 0.5
    last = body.shape[1] - 1 - body[:, ::-1].argmax(axis=1)
    ray = np.arange(len(angles))
    inner, outer = along[ray, last], along[ray, last + 1]
    part = np.clip((inner - 0.5) / np.maximum(inner - outer, 1e-6), 0, 1)
    return np.where(body.any(axis=1), radii[last] + 0.5 * part, np.nan)


def _terms(z: np.ndarray, angle: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """(N, t) powers of the height times harmonics of the direction; beyond the limits as at them."""
    height = np.clip((2 * z - limits.sum()) / np.ptp(limits), -1, 1)

    def harmonics() -> Iterator[np.ndarray]:
        yield np.ones_like(angle)
        for n in range(1, HARMONICS + 1):
            yield np.cos(n * angle)
            yield np.sin(n * angle)

    return np.stack([height**power * wave for power in range(HEIGHT_POWER + 1) for wave in harmonics()], axis=1)


def _solve(terms: np.ndarray, ends: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted least squares; what no ray tells is as small as can be."""
    weighted = terms * weights[:, None]
    return np.linalg.lstsq(weighted.T @ terms, weighted.T @ ends, rcond=1e-9)[0]
