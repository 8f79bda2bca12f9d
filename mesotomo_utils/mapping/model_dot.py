"""A dot whose orientation is known: rock-salt atoms in a truncated cube, as smooth blobs.

It is no model of a microscope, only the plainest density with the right lattice: a known answer
for the notebook and the tests.
"""

from __future__ import annotations

import numpy as np

from mesotomo_utils.lattice import ROCKSALT_ANION, ROCKSALT_CATION


def rocksalt_dot(*, lattice_nm: float, edge_nm: float, truncation: float = 0.75) -> tuple[np.ndarray, np.ndarray]:
    """Atoms of a truncated cube in its own frame, a cation at the centre.

    Parameters
    ----------
    lattice_nm
        Cubic lattice parameter, nm.
    edge_nm
        Distance of opposite {100} faces, nm.
    truncation
        The {111} faces cut the cube's body diagonal at this fraction; 1 leaves the cube whole.

    Returns
    -------
    positions (N, 3), nm, and a boolean (N,), True for cations.
    """
    reach = int(np.ceil(edge_nm / 2 / lattice_nm)) + 1
    cells = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3, indexing="ij"), axis=-1)
    basis = np.concatenate([ROCKSALT_CATION, ROCKSALT_ANION])
    positions = (cells.reshape(-1, 1, 3) + basis).reshape(-1, 3) * lattice_nm
    cation = np.tile(np.arange(len(basis)) < len(ROCKSALT_CATION), cells.size // 3)
    size = np.abs(positions)
    inside = (size <= edge_nm / 2).all(axis=1) & (size.sum(axis=1) <= 1.5 * edge_nm * truncation)
    return positions[inside], cation[inside]


def blobs(
    positions_nm: np.ndarray,
    weights: np.ndarray,
    *,
    shape: tuple[int, int, int],
    voxel_nm: float,
    sigma_nm: float,
) -> np.ndarray:
    """Density of atoms as Gaussian blobs.

    Parameters
    ----------
    positions_nm
        (N, 3) x, y, z, nm, from the centre of the volume; atoms outside are left out.
    weights
        (N,) height of each blob.
    shape
        Of the volume [z, y, x], voxels.
    voxel_nm, sigma_nm
        Edge of a voxel and standard deviation of a blob, nm.

    Returns
    -------
    float32 [z, y, x].
    """
    volume = np.zeros(shape, dtype=np.float32)
    reach = int(np.ceil(4 * sigma_nm / voxel_nm))
    index = positions_nm[:, ::-1] / voxel_nm + (np.array(shape) - 1) / 2
    nearest = np.rint(index).astype(int)
    inside = ((nearest >= reach) & (nearest < np.array(shape) - reach)).all(axis=1)
    index, nearest, weights = index[inside], nearest[inside], np.asarray(weights)[inside]
    near = nearest[:, :, None] + np.arange(-reach, reach + 1)
    profile = np.exp(-0.5 * ((near - index[:, :, None]) * voxel_nm / sigma_nm) ** 2)
    pieces = np.array_split(np.arange(len(index)), max(1, len(index) // 5000))
    for piece in pieces:
        z, y, x = (profile[piece, axis] for axis in range(3))
        stamp = weights[piece, None, None, None] * (z[:, :, None, None] * y[:, None, :, None] * x[:, None, None])
        iz, iy, ix = (near[piece, axis] for axis in range(3))
        at = (iz[:, :, None, None], iy[:, None, :, None], ix[:, None, None])
        np.add.at(volume, at, stamp.astype(np.float32))
    return volume


def turned_dot(
    R: np.ndarray,
    *,
    lattice_nm: float,
    voxel_nm: float,
    edge_nm: float,
    noise: float = 0.0,
    stretch: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Volume with one dot of a known orientation at its centre.

    Parameters
    ----------
    R
        (3, 3) rotation, lab = R crystal.
    lattice_nm, voxel_nm, edge_nm
        Lattice parameter, edge of a voxel, distance of the dot's faces, nm.
    noise
        Standard deviation of white noise, in units of the density's own.
    stretch
        (3,) factors on the lattice along a, b, c.
    rng
        For the noise.

    Returns
    -------
    float32 [z, y, x], a cube 1.9 face distances wide.

    Raises
    ------
    ValueError
        Noise is asked for without ``rng``.
    """
    if noise > 0 and rng is None:
        raise ValueError("noise needs rng, a numpy random generator")
    positions, cation = rocksalt_dot(lattice_nm=lattice_nm, edge_nm=edge_nm)
    if stretch is not None:
        positions = positions * np.asarray(stretch)
    # HAADF weights Z^1.7 of lead and selenium; the ratio is what matters.
    weights = np.where(cation, 82.0**1.7, 34.0**1.7) / 82.0**1.7
    n = int(np.ceil(1.9 * edge_nm / voxel_nm)) | 1
    # One voxel is the narrowest blob whose aliases stay below the noise of a test.
    volume = blobs(
        positions @ np.asarray(R).T,
        weights,
        shape=(n, n, n),
        voxel_nm=voxel_nm,
        sigma_nm=max(0.06, voxel_nm),
    )
    if noise > 0:
        volume += (noise * volume.std() * rng.standard_normal(volume.shape)).astype(np.float32)
    return volume
