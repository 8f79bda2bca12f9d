"""The ramp filter of a back-projection, on lines that are transformed with a period little longer than they are."""

from __future__ import annotations

import numpy as np
from numpy.polynomial import chebyshev

_MOMENTS = 10
"""Of either kind: more change slices by less than the transforms err."""


def periodic_ramp(length: int, n_u: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ramp for transforms of a period, and what takes off again that it brings in from the other periods.

    Parameters
    ----------
    length
        The period, pixels: odd, and at least 1.2 times ``n_u``, lest the ends of a line come near each other round it.
    n_u
        Pixels of a line. It begins with the period, whose last places lie before it and the others behind it.

    Returns
    -------
    ramp
        (length,) in FFT order, cycles per pixel.
    moments, spectra
        (n_u, K), (K, length): ``line @ moments @ spectra`` is the spectrum of what comes from other periods.

    Notes
    -----
    The kernel (Kak and Slaney 1988, eq. 3.61), 1/4 at distance d = 0, −1/(π d)² at odd ones and 0 at even ones, is half
    a smooth one, half one whose signs alternate. Over a whole line so far away a few Chebyshev moments of the line, and
    as many of the line with signs alternating, tell all that either does. Lines twice as far apart, cut once they are
    filtered, take more than twice as long.
    """
    half = (n_u - 1) / 2
    here = np.arange(n_u)
    there = np.arange(length)
    there[there >= n_u + (length - n_u) // 2] -= length

    def kernel(where: np.ndarray, sign: int) -> np.ndarray:
        """(W, length) of −1/(2π² d²) summed over the other periods, each with ``sign`` times that of the one before."""
        x = np.pi * (there - half * (where[:, None] + 1)) / length
        x[np.abs(x) < 1e-3] = 1e-3  # nearer, the two terms would cancel
        return ((1 if sign > 0 else np.cos(x)) / np.sin(x) ** 2 - x**-2) / (-2 * length**2)

    moments, spectra = [], []
    for sign in (1, -1):
        terms = chebyshev.chebinterpolate(kernel, _MOMENTS - 1, (sign,))
        spectra.append(np.fft.fft(sign * terms * sign ** (there % 2)))
        moments.append(chebyshev.chebvander(here / half - 1, _MOMENTS - 1) * sign ** (here[:, None] % 2))
    return np.abs(np.fft.fftfreq(length)), np.concatenate(moments, axis=1), np.concatenate(spectra)
