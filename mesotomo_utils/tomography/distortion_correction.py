"""A distortion undone: each image of an aligned tilt series moved to where the undistorted object puts it.

Of all matrices with the same M Mᵀ the upper triangle keeps slices slices: with

    x' = mxx x + mxy y + mxz z,   y' = myy y + myz z,   z' = mzz z

an image of the distorted object at tilt t is one of the true object at a tilt φ, scaled along u and z and sheared:

    k cos φ = mxx cos t,   k sin φ = mxy cos t + myy sin t
    z' = mzz z,   u' = k u + (mxz cos t + myz sin t) z .
"""

from __future__ import annotations

from dataclasses import replace

import finufft
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft

from mesotomo_utils.distribute import map_items
from mesotomo_utils.tomography.tilt_series import TiltSeries

TOLERANCE = 1e-5
"""Of the non-uniform transform, relative; far below the noise of a pixel."""
_BLEND = 16
"""Least width, pixels, over which opposite edges are joined to make an image periodic."""


def correct_distortion(series: TiltSeries, matrix: ArrayLike, *, progress: str | None = None) -> TiltSeries:
    """Images and tilts of the object as it is, from those of an object distorted by M.

    Parameters
    ----------
    series
        Aligned, with the vacuum at zero.
    matrix
        (3, 3) M of x, y, z, an upper triangle with a positive diagonal, from :meth:`~.distortion.Distortion.matrix`:
        it takes a point of the object to where the tomogram of the series shows it.
    progress
        Text of the progress bar; None shows none.

    Returns
    -------
    TiltSeries
        As many images of the same shape and pixel; name and metadata are kept, and
        ``metadata["distortion_corrected"]`` holds M.

    Raises
    ------
    ValueError
        M is not an upper triangle of shape (3, 3) with a positive diagonal.

    Notes
    -----
    Sums along the beam change by the factor k/(mxx myy), so that the density of the tomogram stays. Columns, then
    rows are read off their Fourier series at the new places (non-uniform FFT), which keeps all frequencies: of the
    {220} fringes of PbSe a cubic spline would lose 8 % at 0.07 nm pixels. What comes in from outside the field is a
    smooth bridge between opposite edges, not data.
    """
    m = np.asarray(matrix, dtype=float)
    if m.shape != (3, 3) or not np.isfinite(m).all() or np.tril(m, -1).any() or (np.diag(m) <= 0).any():
        raise ValueError(f"M must be a (3, 3) upper triangle with a positive diagonal; found {m.tolist()}")
    radians = np.deg2rad(series.angles_deg)
    cosine, sine = np.cos(radians), np.sin(radians)
    across = np.stack([m[0, 0] * cosine, m[0, 1] * cosine + m[1, 1] * sine])
    scale = np.hypot(*across)
    # the turn from t to φ, which is small: angles beyond ±180° stay what they are
    turn = np.arctan2(across[1] * cosine - across[0] * sine, across[0] * cosine + across[1] * sine)
    lean = m[0, 2] * cosine + m[1, 2] * sine
    gain = scale / (m[0, 0] * m[1, 1])
    n_z, n_u = series.images.shape[1:]
    z, u = np.arange(n_z) - (n_z - 1) / 2, np.arange(n_u) - (n_u - 1) / 2
    images = np.empty_like(series.images)

    def one(t: int) -> None:
        image = _read_rows(series.images[t].T, m[2, 2] * z, np.zeros(n_u)).T
        images[t] = gain[t] * _read_rows(image, scale[t] * u, lean[t] * z)

    map_items(one, range(len(series)), progress=progress)
    metadata = {**series.metadata, "distortion_corrected": m.tolist()}
    angles = series.angles_deg + np.rad2deg(turn)
    return replace(series, images=images, angles_deg=angles, metadata=metadata)


def _read_rows(image: NDArray, at: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.float32]:
    """Row i of the image (R, N) at the places at (N,) + shift[i], pixels from its centre."""
    n = image.shape[1]
    reach = np.abs(at).max() + np.abs(shift).max() - (n - 1) / 2
    # a bridge as wide beyond each edge as the places reach, so that none meets the opposite edge
    padded = _bridged(image, _BLEND + 2 * max(0, int(reach) + 1))
    length = padded.shape[1]
    spectrum = fft.rfft(padded, axis=1) * np.exp(2j * np.pi * shift[:, None] * fft.rfftfreq(length))
    # the frequencies below zero are the conjugates: twice the real part of the others, but for the mean
    spectrum[:, 1:] *= 2
    count = spectrum.shape[1]
    turns = 2 * np.pi / length * (at + (n - 1) / 2)
    spectrum = np.ascontiguousarray(spectrum, np.complex64)
    values = finufft.nufft1d2(turns.astype(np.float32), spectrum, eps=TOLERANCE, isign=1, nthreads=1)
    # the transform counts its frequencies from -(count // 2)
    return (values * np.exp(1j * (count // 2) * turns)).real.astype(np.float32) / np.float32(length)


def _bridged(image: NDArray, width: int) -> NDArray[np.float32]:
    """Rows continued smoothly from their last pixel to their first, by ``width`` pixels or a few more."""
    n = image.shape[1]
    # odd: no unpaired frequency
    length = next(m for m in range(n + width, 2 * (n + width)) if m % 2 and fft.next_fast_len(m) == m)
    ramp = (0.5 - 0.5 * np.cos(np.pi * (np.arange(length - n) + 0.5) / (length - n))).astype(np.float32)
    # the mean of a few pixels: the noise of one would draw a streak
    end, start = image[:, -4:].mean(axis=1)[:, None], image[:, :4].mean(axis=1)[:, None]
    return np.concatenate([image, end + (start - end) * ramp], axis=1)
