"""Plane sections of a tomogram along any direction, for showing."""

import numpy as np
from scipy.ndimage import map_coordinates

SLAB = 64
"""Rows of the volume read at a time, a multiple of the usual Zarr chunk."""


def plane_image(
    volume: np.ndarray,
    voxel_nm: float,
    frame: np.ndarray,
    *,
    depth_nm: float,
    extent_nm: tuple[float, float, float, float],
    pixel_nm: float | None = None,
    middle: np.ndarray | None = None,
) -> np.ndarray:
    """Section through a volume in the plane of a picture, by trilinear interpolation.

    Parameters
    ----------
    volume
        [z, y, x] array or Zarr array; only the rows, columns and
        layers that the section crosses are read, a slab at a time.
    voxel_nm
        Side of a voxel.
    frame
        (3, 3) rows right, up, towards the viewer (:func:`glyphs.view_frame`).
    depth_nm
        Distance of the plane from the origin, towards the viewer.
    extent_nm
        (left, right, bottom, top) of the section in the (right, up) coordinates.
    pixel_nm
        Side of a pixel; None takes the voxel.
    middle
        (3,) index [z, y, x] of the origin; None takes the middle of the volume.

    Returns
    -------
    (rows, columns) float32, row 0 at the bottom; NaN outside the volume.

    Raises
    ------
    ValueError
        The volume is not three-dimensional.

    Examples
    --------
    A volume that grows with x, seen along z with x to the right:

    >>> x = np.broadcast_to(np.arange(5.0) - 2, (5, 5, 5))
    >>> plane_image(x, 1.0, np.eye(3), depth_nm=0.0, extent_nm=(-1.5, 1.5, -0.5, 0.5))
    array([[-1.,  0.,  1.]], dtype=float32)
    """
    if len(volume.shape) != 3:
        raise ValueError(f"the volume must be [z, y, x], not of shape {tuple(volume.shape)}")
    left, right, bottom, top = extent_nm
    pixel = voxel_nm if pixel_nm is None else pixel_nm
    columns, rows = (max(1, round(side / pixel)) for side in (right - left, top - bottom))
    across = left + (np.arange(columns) + 0.5) * (right - left) / columns
    upward = bottom + (np.arange(rows) + 0.5) * (top - bottom) / rows
    grid = np.stack(np.broadcast_arrays(across[None, :], upward[:, None], depth_nm), axis=-1)
    shape = np.array(volume.shape)
    # (x, y, z) in nm to an index [z, y, x]
    middle = (shape - 1) / 2 if middle is None else np.asarray(middle, float)
    index = (grid.reshape(-1, 3) @ np.asarray(frame, float))[:, ::-1] / voxel_nm + middle
    image = np.full(len(index), np.nan, dtype=np.float32)
    inside = ((index >= 0) & (index <= shape - 1)).all(axis=1)
    slab = np.floor(index[:, 0] / SLAB).astype(int)
    for number in np.unique(slab[inside]):
        here = inside & (slab == number)
        first = np.floor(index[here].min(axis=0)).astype(int)
        last = np.minimum(np.ceil(index[here].max(axis=0)).astype(int) + 1, shape)
        box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        part = np.asarray(volume[box], dtype=np.float32)
        image[here] = map_coordinates(part, (index[here] - first).T, order=1, mode="nearest")
    return image.reshape(rows, columns)
