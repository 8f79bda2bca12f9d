"""Borders of images that nothing was recorded in: what a program that moved them filled in, or lines without a beam.

A needle goes through the upper and the lower border of each image. What is filled in there looks like its end, moves
with the shift that was taken off, and is the sharpest feature of the mass profile.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_WIDEST = 0.25
"""Share of an image that a filled strip may be wide: what is constant farther is vacuum."""
_AS_VACUUM = 0.25
"""Where so many pixels of the line beside a strip have its very value, it is vacuum, recorded without noise."""


def replace_filled_borders(images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int_]]:
    """Put the nearest recorded row or column in the place of borders that one value was filled into.

    Parameters
    ----------
    images
        (T, Z, U).

    Returns
    -------
    images
        (T, Z, U); the same array where nothing was filled in, else a copy.
    widths
        (T, 4) pixels that were, at the first and last row and the first and last column.
    """
    n_z, n_u = images.shape[1:]
    widths = np.zeros((len(images), 4), int)
    for t, image in enumerate(images):
        widths[t, :2] = _strip(image), _strip(image[::-1])
        columns = image[widths[t, 0] : n_z - widths[t, 1]].T
        widths[t, 2:] = _strip(columns), _strip(columns[::-1])
    if widths.any():
        images = images.copy()
    for t in np.flatnonzero(widths.any(axis=1)):
        top, bottom, left, right = widths[t]
        inner = images[t, top : n_z - bottom, left : n_u - right].copy()
        images[t] = np.pad(inner, ((top, bottom), (left, right)), mode="edge")
    return images, widths


def _strip(lines: NDArray[np.float32]) -> int:
    """How many of (N, M) lines, from the first on, are filled with one value."""
    value = lines[0, 0]
    for width, line in enumerate(lines[: int(_WIDEST * len(lines)) + 1]):
        if not (line == value).all():
            return width if np.mean(line == value) < _AS_VACUUM else 0
    return 0
