"""The lattices of all dots, read from a tomogram, cleaned of what is mixed in, and drawn as plane waves again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from mesotomo_utils import lattice
from mesotomo_utils.backend import get_array_module, to_device
from mesotomo_utils.distribute import each_item, map_items
from mesotomo_utils.mapping import lattice_signal
from mesotomo_utils.mapping.dot_table import QUATERNION
from mesotomo_utils.mapping.orientation_search import LARGEST_STRAIN, visible_reflections
from mesotomo_utils.tomography.cutting import cube_middle_nm, cut_cube, keeping_chunks, nearest_voxels

# The mean dot is where the mean density is above this part of that of its core.
_BODY_LEVEL = 0.5
# Radius of the core, in windows: 1.5 nm for dots of 5 nm.
_CORE_WINDOWS = 0.23
# Half the edge of the box that holds the mean dot, in windows.
_BOX_WINDOWS = 0.7
# More dots make the mean no better.
_MOST_IN_MEAN = 200
# Of the shortest wave, in the voxels of the model: a little more than the two that it takes.
_SAMPLES_A_PERIOD = 2.02
# Points along a cell at which a cation is looked for: a third of the shortest wave.
_CELL_STEPS = 12
# A reflection weaker than this part of its family's mean is not taken for one that noise or replicas weakened.
_SEEN = 0.3
_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class LatticeModel:
    """The lattices of all dots, as plane waves in the body of the mean dot.

    Attributes
    ----------
    middles_nm
        (N, 3) points x, y, z that the phases count from and the bodies stand at, nm.
    waves_per_nm
        (N, H, 3) reciprocal vectors of one of each Friedel pair, 1/nm.
    amplitudes
        (N, H) complex64, tomogram values.
    body
        (s, s, s) float32, 1 in the mean dot and 0 outside, on the model's grid.
    voxel_nm
        Edge of a voxel of that grid, nm: as coarse as the reflections allow.
    shape
        Of the grid [z, y, x]; its centre is the tomogram's.
    angles_deg, images
        (T,) angles of tilts, degrees, and (T, Z, U) float32, how these see the lattices; None before
        :func:`replicas.project_lattices`.
    """

    middles_nm: np.ndarray
    waves_per_nm: np.ndarray
    amplitudes: np.ndarray
    body: np.ndarray
    voxel_nm: float
    shape: tuple[int, int, int]
    angles_deg: np.ndarray | None = None
    images: np.ndarray | None = None

    @property
    def nearest(self) -> np.ndarray:
        """(N, 3) index z, y, x of the grid point nearest to each middle: the bodies are drawn about it."""
        return nearest_voxels(self.shape, self.voxel_nm, self.middles_nm)


def model_lattices(
    volume: Any,
    voxel_nm: float,
    centres_nm: np.ndarray,
    table: pd.DataFrame,
    *,
    lattice_nm: float,
    window_nm: float,
    superlattice: np.ndarray,
    whole: np.ndarray | None = None,
    workers: int | None = None,
    dask: str | None = None,
) -> LatticeModel:
    """Read amplitude and phase of every reflection of every dot, and the body of the mean dot.

    Parameters
    ----------
    volume, voxel_nm, centres_nm, lattice_nm, window_nm, superlattice, workers, dask
        As for :func:`orientation.orient_dots`.
    table
        Its result; dots without an orientation are left out.
    whole
        (N,) True for the dots whose mean makes the body; all if left out.

    Returns
    -------
    The model.

    Raises
    ------
    ValueError
        The table and the centres differ in length; no dot has an orientation.
    """
    if len(table) != len(centres_nm):
        raise ValueError(f"table has {len(table)} rows for {len(centres_nm)} centres")
    some = np.flatnonzero(table["qw"].notna())
    if not len(some):
        raise ValueError("no dot of the table has an orientation, so there is no lattice to model")
    volume = keeping_chunks(volume)
    centres, shape = np.asarray(centres_nm, float), tuple(volume.shape)
    middles = np.array([cube_middle_nm(shape, voxel_nm, centre) for centre in centres])
    inner = centres if whole is None or not np.any(whole) else centres[np.asarray(whole, bool)]
    body = _mean_body(volume, voxel_nm, inner, np.asarray(superlattice, float), window_nm, workers=workers, dask=dask)

    reflections = visible_reflections(lattice_nm, voxel_nm)
    hkl = reflections[["h", "k", "l"]].to_numpy(float)
    R = lattice.from_quaternions(table[QUATERNION].to_numpy()[some])
    waves = np.einsum("nij,hj->nhi", R / table["lattice_nm"].to_numpy()[some, None, None], hkl)
    outermost = float(reflections["g_per_nm"].max()) * (1 + LARGEST_STRAIN)
    window = lattice_signal.prepare_window(voxel_nm=voxel_nm, window_nm=window_nm, g_max_per_nm=outermost)
    weight = (window.window * _boxed(body, window.n)).sum()

    def amplitudes(row: int) -> np.ndarray:
        cube = cut_cube(volume, voxel_nm, centres[some[row]], window.n)
        return lattice_signal.fourier_sums(window, cube, waves[row]) / weight

    values = np.array(map_items(amplitudes, range(len(some)), workers=workers, dask=dask), np.complex64)
    family = reflections["family"].astype("category").cat.codes.to_numpy()
    values = _of_one_lattice(values, hkl, family)
    coarse = max(voxel_nm, 1 / (_SAMPLES_A_PERIOD * outermost))
    return LatticeModel(
        middles_nm=middles[some],
        waves_per_nm=waves,
        amplitudes=values,
        body=_resampled(body, coarse / voxel_nm),
        voxel_nm=coarse,
        shape=tuple(int(np.ceil(n * voxel_nm / coarse)) for n in shape),
    )


def draw_lattices(model: LatticeModel, first: int, last: int, *, device: str = "cpu") -> np.ndarray:
    """Slices ``first`` to ``last`` (excluded) of the model's lattices, float32 [z, y, x], on a device."""
    shape = np.array(model.shape)
    s, nearest = len(model.body), model.nearest
    # the grid point nearest to a dot is not its middle: the phases count from the middle all the same
    shift_nm = ((nearest - (shape - 1) / 2) * model.voxel_nm)[:, ::-1] - model.middles_nm
    body, slices = to_device(model.body, device), np.zeros((last - first, *model.shape[1:]), np.float32)
    xp, slices = get_array_module(body), to_device(slices, device)
    offset_nm = (xp.arange(s) - s // 2) * model.voxel_nm
    all_waves, amplitudes = to_device(model.waves_per_nm, device), to_device(model.amplitudes, device)
    for dot in np.flatnonzero((nearest[:, 0] + s // 2 >= first) & (nearest[:, 0] - s // 2 < last)):
        low = nearest[dot] - s // 2
        start, stop = np.maximum(low, [first, 0, 0]), np.minimum(low + s, [last, *shape[1:]])
        if np.any(stop <= start):
            continue
        part = tuple(slice(int(a), int(b)) for a, b in zip(start - low, stop - low, strict=True))
        g = all_waves[dot]
        at = (offset_nm[part[2 - axis], None] + float(shift_nm[dot, axis]) for axis in range(3))
        ex, ey, ez = (xp.exp(2j * np.pi * g[:, i] * x).astype(np.complex64) for i, x in enumerate(at))
        plane = (ey[:, None] * ex).reshape(-1, g.shape[0])
        # the real part of a complex product, as one real product: real and imaginary parts side by side
        along = (2 * ez * amplitudes[dot]).conj()
        waves = (along.view(np.float32) @ plane.view(np.float32).T).reshape(len(ez), len(ey), len(ex))
        target = tuple(slice(int(a), int(b)) for a, b in zip(start - [first, 0, 0], stop - [first, 0, 0], strict=True))
        slices[target] += waves * body[part]
    return slices


def _of_one_lattice(amplitudes: np.ndarray, hkl: np.ndarray, family: np.ndarray) -> np.ndarray:
    """(N, H) amplitudes as the lattice of one dot can have them: cleaned of most of what replicas mixed in.

    About a cation rock salt has a centre of inversion, and all of {111}, {200}, {220} have the phase zero there. So
    the phases of a dot are those of one point; and its amplitudes are those of the material times one number, how
    much of the lattice is there. A reflection that is hardly there, in a missing wedge, stays as it was read.
    """
    members = (family[:, None] == np.unique(family)).astype(float)  # (H, families)
    usual = np.abs(amplitudes) @ members / members.sum(axis=0)  # (N, families)
    unit = amplitudes / np.maximum(usual @ members.T, _TINY)
    phase = np.exp(2j * np.pi * _cation(unit, hkl) @ hkl.T)
    real = (amplitudes * phase).real
    seen = np.abs(amplitudes) > _SEEN * usual @ members.T  # whatever their phases
    ratio = np.median((real * seen) @ members / np.maximum(seen @ members, 1), axis=0) @ members.T  # (H,)
    share = (real * seen) @ ratio / np.maximum(seen @ ratio**2, _TINY)
    return np.where(seen, share[:, None] * ratio * phase.conj(), amplitudes).astype(np.complex64)


def _cation(unit: np.ndarray, hkl: np.ndarray) -> np.ndarray:
    """(N, 3) point in fractions of the cubic cell about which the (N, H) amplitudes are most nearly real and positive.

    The density that they make is largest there.
    """
    steps = np.arange(_CELL_STEPS) / _CELL_STEPS
    # shifts by half a face diagonal leave rock salt alone, so half a cell is enough
    grid = np.stack(np.meshgrid(steps[: _CELL_STEPS // 2], steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    waves = np.exp(2j * np.pi * grid @ hkl.T).astype(np.complex64)
    density = unit.real @ waves.real.T - unit.imag @ waves.imag.T
    x = grid[np.argmax(density, axis=1)]
    for _ in range(4):  # Newton's steps up the top of the density
        turned = unit * np.exp(2j * np.pi * x @ hkl.T)
        gradient = -2 * np.pi * turned.imag @ hkl
        bend = 4 * np.pi**2 * np.einsum("nh,hi,hj->nij", np.maximum(turned.real, 0.05), hkl, hkl)
        x = x + np.linalg.solve(bend, gradient[:, :, None])[:, :, 0]
    return x


def _mean_body(
    volume: Any,
    voxel_nm: float,
    centres_nm: np.ndarray,
    superlattice: np.ndarray,
    window_nm: float,
    *,
    workers: int | None,
    dask: str | None,
) -> np.ndarray:
    """(n, n, n) float32 on the tomogram's grid: 1 in the mean dot, 0 outside its cell of the superlattice."""
    half = int(np.ceil(_BOX_WINDOWS * window_nm / voxel_nm))
    n = 2 * half + 1
    chosen = centres_nm[:: -(-len(centres_nm) // _MOST_IN_MEAN)]
    mean = np.zeros((n, n, n))
    cubes = each_item(partial(cut_cube, volume, voxel_nm, n=n), chosen, workers=workers, dask=dask)
    for cube in cubes:
        mean += cube
    x = (np.arange(n) - half) * voxel_nm
    radius = np.sqrt(x[:, None, None] ** 2 + x[:, None] ** 2 + x**2)
    body = mean > _BODY_LEVEL * mean[radius < _CORE_WINDOWS * window_nm].mean()
    for steps in product((-1, 0, 1), repeat=3):
        if any(steps):
            away = superlattice @ np.array(steps)
            body &= x[:, None, None] * away[2] + x[:, None] * away[1] + x * away[0] <= away @ away / 2
    return body.astype(np.float32)


def _boxed(cube: np.ndarray, n: int) -> np.ndarray:
    """The cube cut or padded with zeros to n (odd) voxels about its middle."""
    half = n // 2 - len(cube) // 2
    if half >= 0:
        return np.pad(cube, half)
    return cube[-half:half, -half:half, -half:half]


def _resampled(body: np.ndarray, ratio: float) -> np.ndarray:
    """The body on a grid coarser by a ratio, cut to where it is."""
    half = int(np.abs(np.argwhere(body > 0) - len(body) // 2).max(initial=0) / ratio) + 1
    soft = ndimage.gaussian_filter(body, ratio / 2)
    points = np.full(3, len(body) // 2 - half * ratio)
    return ndimage.affine_transform(soft, np.full(3, ratio), points, output_shape=(2 * half + 1,) * 3, order=1)
