"""Low-passed copies of a tomogram and sub-voxel patches of it.

The mapping looks at whole quantum dots, some twenty voxels wide, not at atoms: it works on a copy
from which the atomic lattice is filtered away. Positions are (x, y, z) in nm from the centre of the
volume, which is the same point in the tomogram and in its copy.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy import ndimage

from mesotomo_utils.backend import cpu_count, get_array_module, resolve_device, to_device, to_numpy
from mesotomo_utils.distribute import chunk_depth, each_item, map_items
from mesotomo_utils.mapping import splines
from mesotomo_utils.tomography.cutting import mapping_chunks

#: A Gaussian is cut off where it has fallen to 3e-4 of its height.
_CUT_SIGMAS = 4.0
#: Outputs handled by one banded matrix product.
_BLOCK = 32
#: Voxels around a volume to read from: more than half the box of any dot.
_PAD = 24
#: Rows of the tomogram (along z) read at a time, in voxels of it: about this many values, of 4 bytes. From 32 MB on
#: allocators ask the system for new memory each time, which takes longer than the filtering.
_SLAB_VALUES = 6_000_000


def coarsen(
    volume, voxel_nm: float, *, step_nm: float, sigma_nm: float, device: str = "cpu", dask: str | None = None
) -> np.ndarray:
    """Gaussian low-pass of a volume, sampled on a coarser grid with the same centre.

    Parameters
    ----------
    volume
        (nz, ny, nx) array, or anything with ``shape`` that gives a NumPy array for ``volume[a:b]``
        (a Zarr array); it is read slab by slab along z and never held as a whole.
    voxel_nm
        Edge of its voxels, nm.
    step_nm
        Edge of the voxels of the copy, nm; need not be a multiple of ``voxel_nm``.
    sigma_nm
        Standard deviation of the Gaussian, nm. {111} planes 0.35 nm apart keep 0.2 % of their
        contrast at 0.2 nm.
    device
        ``"cpu"``, ``"cuda"`` or ``"auto"``: where it is filtered.
    dask
        Address of a Dask scheduler whose workers read and filter the slabs; a Zarr array then lies on a file system
        that they share.

    Returns
    -------
    (mz, my, mx) float32: voxel i of m sits at (i - (m - 1)/2) step_nm.

    Raises
    ------
    ValueError
        The volume has not three dimensions, or is smaller than one step along one of them.
    """
    shape = tuple(volume.shape)
    if len(shape) != 3:
        raise ValueError(f"volume: expected three dimensions [z, y, x], found shape {shape}")
    if min(shape) * voxel_nm < step_nm:
        raise ValueError(
            f"volume: shape {shape} at {voxel_nm} nm is thinner than one step of {step_nm} nm; "
            "give a larger volume or a smaller step"
        )
    sigma = max(sigma_nm, voxel_nm / 2) / voxel_nm
    z_bands, y_bands, x_bands = (_bands(n, step_nm / voxel_nm, sigma) for n in shape)
    sizes = [bands[-1][1] for bands in (z_bands, y_bands, x_bands)]
    out = np.zeros(sizes, np.float32)
    z_matrix = np.zeros((sizes[0], shape[0]), np.float32)
    for start, stop, first, last, weights in z_bands:
        z_matrix[start:stop, first:last] = weights
    volume = mapping_chunks(volume)
    depth = chunk_depth(volume)
    rows = -(-max(1, int(_SLAB_VALUES // (shape[1] * shape[2]))) // depth) * depth  # no chunk is read twice

    where = resolve_device(device)
    z_matrix_there = to_device(z_matrix, where)
    x_bands, y_bands = ([(*ends, to_device(w, where)) for *ends, w in bands] for bands in (x_bands, y_bands))

    def filtered(first: int) -> tuple[slice, np.ndarray]:
        last = min(first + rows, shape[0])
        slab = to_device(np.ascontiguousarray(volume[first:last], dtype=np.float32), where)
        xp = get_array_module(slab)
        along_x = xp.empty((last - first, shape[1], sizes[2]), np.float32)
        for start, stop, low, high, weights in x_bands:
            xp.matmul(slab[:, :, low:high], weights.T, out=along_x[:, :, start:stop])
        along_y = xp.empty((last - first, sizes[1], sizes[2]), np.float32)
        for start, stop, low, high, weights in y_bands:
            xp.matmul(weights, along_x[:, low:high], out=along_y[:, start:stop])
        touched = np.flatnonzero(z_matrix[:, first:last].any(axis=1))
        part = slice(int(touched[0]), int(touched[-1]) + 1) if touched.size else slice(0, 0)
        return part, to_numpy(xp.tensordot(z_matrix_there[part, first:last], along_y, axes=1))

    # two at a time: one is read while another is filtered
    for part, values in each_item(filtered, range(0, shape[0], rows), workers=min(2, cpu_count()), dask=dask):
        out[part] += values
    return out


def _bands(n: int, ratio: float, sigma: float):
    """Blocks (start, stop, first, last, weights) of the banded matrix that filters and samples."""
    m = max(1, int(np.floor(n / ratio + 1e-9)))
    at = (np.arange(m) - (m - 1) / 2) * ratio + (n - 1) / 2
    reach = _CUT_SIGMAS * sigma
    blocks = []
    for start in range(0, m, _BLOCK):
        stop = min(start + _BLOCK, m)
        first = max(0, int(np.floor(at[start] - reach)))
        last = min(n, int(np.ceil(at[stop - 1] + reach)) + 1)
        distance = (np.arange(first, last)[None] - at[start:stop, None]) / sigma
        weights = np.exp(-0.5 * distance**2) * (np.abs(distance) <= _CUT_SIGMAS)
        weights /= weights.sum(axis=1, keepdims=True)
        blocks.append((start, stop, first, last, weights.astype(np.float32)))
    return blocks


def to_index(xyz_nm, shape, step_nm: float) -> np.ndarray:
    """(N, 3) points x, y, z in nm as (N, 3) indices z, y, x into a volume of that shape."""
    centre = (np.asarray(shape) - 1) / 2
    return np.ascontiguousarray(np.asarray(xyz_nm, float)[:, ::-1] / step_nm + centre)  # numba compiles for each order


def to_nm(index, shape, step_nm: float) -> np.ndarray:
    """(N, 3) indices z, y, x into a volume of that shape as (N, 3) points x, y, z in nm."""
    centre = (np.asarray(shape) - 1) / 2
    return ((np.asarray(index, float) - centre) * step_nm)[:, ::-1]


class Sampler:
    """Cubic-spline interpolation of one volume, on patches around points or on a turned grid.

    Parameters
    ----------
    volume
        (nz, ny, nx) float32.
    step_nm
        Edge of its voxels, nm.
    device
        Where patches are read and stay; a grid is read on the CPU.

    Notes
    -----
    Outside the volume it reads the value of the nearest voxel.
    """

    def __init__(self, volume: np.ndarray, step_nm: float, *, device: str = "cpu"):
        self.shape = volume.shape
        self.step_nm = float(step_nm)
        padded = np.pad(np.asarray(volume, np.float32), _PAD, mode="edge")
        self._coefficients = _spline_coefficients(padded)
        self._there = to_device(self._coefficients, device)

    def patches(self, xyz_nm, half: int) -> np.ndarray:
        """(N, 2 half + 1, ..., ...) float32 values on the grid of steps centred on each point, on the device."""
        index = to_index(xyz_nm, self.shape, self.step_nm) + _PAD
        size = 2 * half + 1
        base = np.floor(index).astype(int)
        fraction = index - base
        limit = np.asarray(self._coefficients.shape) - (size + 3)
        corner = np.clip(base - half - 1, 0, limit)
        xp = get_array_module(self._there)
        if xp is np:
            boxes = np.empty((len(index), size, size, size), np.float32)
            splines.read_boxes(self._there, corner, fraction, boxes)
            return boxes
        blocks = xp.empty((len(index), size + 3, size + 3, size + 3), np.float32)
        for n, (z, y, x) in enumerate(corner.tolist()):
            blocks[n] = self._there[z : z + size + 3, y : y + size + 3, x : x + size + 3]
        for axis in range(3):
            weights = splines.cubic_weights(fraction[:, axis].astype(np.float32))
            weights = xp.asarray(np.stack(weights)[:, :, None, None, None])
            parts = [blocks[(slice(None),) * (axis + 1) + (slice(s, s + size),)] for s in range(4)]
            blocks = weights[0] * parts[0]
            term = xp.empty_like(blocks)
            for weight, part in zip(weights[1:], parts[1:], strict=True):
                blocks += xp.multiply(weight, part, out=term)
        return blocks

    def grid(self, origin_nm, steps_nm, shape: tuple[int, int, int]) -> np.ndarray:
        """(l, m, n) float32 values on a turned grid: ``origin_nm`` is x, y, z of its first point, nm, and row i of the
        (3, 3) ``steps_nm`` the step x, y, z along its axis i.
        """
        values = np.empty(shape, np.float32)
        [origin] = to_index(np.asarray(origin_nm)[None], self.shape, self.step_nm) + _PAD
        steps = np.ascontiguousarray(np.asarray(steps_nm, float)[:, ::-1] / self.step_nm)
        splines.read_grid(self._coefficients, origin, steps, values)
        return values


def _spline_coefficients(values: np.ndarray) -> np.ndarray:
    """As ``ndimage.spline_filter``, spread over threads."""

    def along(axis: int, part: np.ndarray) -> None:
        part[...] = ndimage.spline_filter1d(part, order=3, axis=axis, output=np.float32)

    for axis in range(3):
        parts = np.array_split(values, cpu_count(), axis=1 if axis == 0 else 0)
        map_items(partial(along, axis), parts)
    return values


def offsets_nm(half: int, step_nm: float) -> np.ndarray:
    """(size, size, size, 3) offsets x, y, z in nm of the voxels of a patch."""
    axis = (np.arange(2 * half + 1) - half) * step_nm
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    return np.stack([x, y, z], axis=-1)
