"""Judging an alignment by images that the tomogram has not seen: leave some out, reproject, compare.

It needs no truth and takes no side: any program's aligned images can be given.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.signal.windows import tukey
from skimage.registration import phase_cross_correlation

from mesotomo_utils.tomography.projector import Projector
from mesotomo_utils.tomography.reconstruction import reconstruct
from mesotomo_utils.tomography.tilt_series import TiltSeries

_UPSAMPLING = 100
"""Displacements are read to 1/100 pixel."""


def left_out_images(
    aligned: TiltSeries,
    *,
    folds: int = 4,
    detail_px: float = 5.0,
    rows: slice = slice(None),
    device: str = "cpu",
) -> pd.DataFrame:
    """How far each image lies from, and how much it differs from, the reprojection of a tomogram made without it.

    Parameters
    ----------
    aligned
        Aligned series, vacuum at zero, its images in the order of their tilts.
    folds
        Every ``folds``-th image is left out at a time, in turn; the first and the last image never, as nothing beyond
        them tells what they should show.
    detail_px
        Image and reprojection lose what is broader than this (standard deviation of a Gaussian, pixels) before they are
        laid over each other: a missing wedge bends the broad features of a reprojection, which would read as a shift.
    rows
        Rows to reconstruct and compare, such as those that lie in the field in every image.
    device
        Where projections are computed.

    Returns
    -------
    DataFrame
        ``image, angle_deg, shift_z_px, shift_u_px`` (image minus reprojection, pixels) and ``residual``, the
        root-mean-square difference relative to the image, after the reprojection's brightness is fitted.

    Raises
    ------
    ValueError
        Fewer than two folds, fewer images than folds + 2, tilts out of order, no rows, or ``detail_px`` not positive.

    Notes
    -----
    The tomogram is a filtered back-projection; displacements are the peak of the cross-correlation, not normalised
    (Guizar-Sicairos et al., Opt. Lett. 33, 156, 2008). Tilts close to each other share most of what they show, so an
    error that changes slowly with the tilt hardly shows, least of all where the field is much wider than the object:
    cut the images close around it. :func:`misfit` sees such errors.
    """
    n, angles = len(aligned), aligned.angles_deg
    if folds < 2 or n < folds + 2:
        raise ValueError(f"expected two folds or more and {folds + 2} images or more; found {folds} and {n}")
    step = np.diff(angles)
    if not ((step > 0).all() or (step < 0).all()):
        raise ValueError(f"{aligned.name}: expected images in the order of their tilts; sort them first")
    if not detail_px > 0:
        raise ValueError(f"detail_px must be positive, not {detail_px}")
    first, last = _bounds(rows, aligned)
    # cut edges would lie on each other, however the image moved
    taper = tukey(last - first, min(1.0, 6 * detail_px / (last - first)))[:, None].astype(np.float32)
    found = []
    for fold in range(folds):
        left = np.arange(n)[1:-1][fold::folds]
        rest = np.delete(np.arange(n), left)
        volume = reconstruct(aligned.select(rest), slab=(first, last), device=device)
        projector = Projector(angles[left], aligned.images.shape[2], device=device)
        for i, reprojection in zip(left, projector.forward(volume) * np.float32(aligned.pixel_nm), strict=True):
            image = aligned.images[i, first:last]
            fine, expected = (taper * (part - gaussian_filter(part, detail_px)) for part in (image, reprojection))
            shift, *_ = phase_cross_correlation(fine, expected, upsample_factor=_UPSAMPLING, normalization=None)
            found.append((i, angles[i], float(shift[0]), float(shift[1]), _difference(image, reprojection)))
    columns = ["image", "angle_deg", "shift_z_px", "shift_u_px", "residual"]
    return pd.DataFrame(found, columns=columns).sort_values("image", ignore_index=True)


def misfit(
    aligned: TiltSeries, *, iterations: int = 30, rows: slice = slice(None), device: str = "cpu"
) -> NDArray[np.float64]:
    """What the best object without negative density leaves unexplained in each image.

    Parameters
    ----------
    aligned
        Aligned series, vacuum at zero.
    iterations
        Of SIRT. Compare alignments at the same number.
    rows
        Rows to reconstruct and compare.
    device
        Where projections are computed.

    Returns
    -------
    ndarray
        (T,) root-mean-square difference of image and reprojection, relative to the image, after the reprojection's
        brightness is fitted.

    Raises
    ------
    ValueError
        No rows.

    Notes
    -----
    No density below zero and none outside the field: images moved inconsistently, an axis off its place among them,
    are then fitted by no object.
    """
    first, last = _bounds(rows, aligned)
    options = {"method": "sirt", "iterations": iterations, "slab": (first, last), "device": device}
    volume = reconstruct(aligned, **options)
    projector = Projector(aligned.angles_deg, aligned.images.shape[2], device=device)
    reprojections = projector.forward(volume) * np.float32(aligned.pixel_nm)
    pairs = zip(aligned.images[:, first:last], reprojections, strict=True)
    return np.array([_difference(image, reprojection) for image, reprojection in pairs])


def _bounds(rows: slice, series: TiltSeries) -> tuple[int, int]:
    first, last, _ = rows.indices(series.images.shape[1])
    if last <= first:
        raise ValueError(f"{rows} holds none of the {series.images.shape[1]} rows")
    return first, last


def _difference(image: NDArray[np.float32], reprojection: NDArray[np.float32]) -> float:
    scale = float(np.vdot(reprojection, image) / np.vdot(reprojection, reprojection))
    return float(np.linalg.norm(image - scale * reprojection) / np.linalg.norm(image))
