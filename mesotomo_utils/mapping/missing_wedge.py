"""What a wedge of missing tilts takes from the picture of bodies: put back as far as it can be, and how far that is.

Where tilts are missing, bodies throw shadows along the missing directions and pull each other's centres: with ±70°
that is the largest error of a centre by far. Half sets know nothing of it, as both miss the same wedge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from mesotomo_utils.backend import get_array_module, to_device, to_numpy
from mesotomo_utils.mapping.centre_fits import refine_centres
from mesotomo_utils.mapping.template import BodyImage, Template
from mesotomo_utils.tomography.projector import Projector, angular_gaps

#: A wedge is missing where the widest gap between tilts lacks this many.
LEAST_TILTS = 4.0
#: How often :func:`fill_wedge` goes round.
ROUNDS = 3
#: Errors of centres over how far :func:`wedge_sigmas` sees them move, along the middle of the wedge, across it and
#: along the tilt axis: bodies that were filled once hold what shadows left of the wedge's error already. Calibrated on
#: twins, see benchmarks/calibrate_errors.py.
SCALES = (1.1, 2.4, 1.6)


class Wedge(NamedTuple):
    """The widest gap between tilts.

    Attributes
    ----------
    middle_deg
        The tilt in its middle.
    missing_deg
        How much wider it is than the usual step, degrees.
    missing_tilts
        How many steps that is.
    """

    middle_deg: float
    missing_deg: float
    missing_tilts: float


def widest_gap(angles_deg) -> Wedge:
    """The widest gap between (T,) tilts, counted modulo 180°.

    Examples
    --------
    >>> widest_gap(np.arange(-70, 71, 2))
    Wedge(middle_deg=90.0, missing_deg=38.0, missing_tilts=19.0)
    """
    order, gaps, usual = angular_gaps(angles_deg)
    widest = float(gaps.max())
    begin = float(np.mod(angles_deg, 180.0)[order[gaps.argmax()]])
    return Wedge(begin + widest / 2, widest - usual, widest / usual - 1)


def is_missing(angles_deg) -> bool:
    """Whether (T,) tilts lack a wedge wider than :data:`LEAST_TILTS`; of no tilts nothing is known."""
    return len(angles_deg) > 0 and widest_gap(angles_deg).missing_tilts >= LEAST_TILTS


def fill_wedge(image: BodyImage, angles_deg) -> BodyImage:
    """Put back what a wedge of missing tilts has taken from bodies, as far as their grey levels tell it.

    Parameters
    ----------
    image
        The tomogram of bodies.
    angles_deg
        (T,) tilts that it was reconstructed from.

    Returns
    -------
    The image, cut to [0, 1]; as it was given where no wedge wider than :data:`LEAST_TILTS` is missing.

    Notes
    -----
    Bodies are neither darker than the matrix nor brighter than a dot. Cut to these levels, the image is nearer to what
    was there, but no longer what the tilts have shown: what its own projections, reconstructed, lack of that is added,
    and so on. These are projections onto two convex sets, by turns (Youla and Webb, IEEE Trans. Med. Imaging 1, 81,
    1982).
    """
    if not is_missing(angles_deg):
        return image
    seen, again = as_tilts_show(image, angles_deg)
    return replace(image, values=to_numpy(_filled(seen, again)))


def wedge_sigmas(table: pd.DataFrame, image: BodyImage, template: Template, angles_deg) -> np.ndarray:
    """Error along x, y, z that a wedge of missing tilts leaves in a centre, alike in both half sets.

    Parameters
    ----------
    table
        Centres from :func:`~mesotomo_utils.mapping.centres.find_centres`.
    image
        The tomogram of bodies, filled by :func:`fill_wedge`.
    template
        The mean dot.
    angles_deg
        (T,) tilts that the tomogram was reconstructed from.

    Returns
    -------
    (3,) nm, one value for all dots; 0 where no wedge wider than :data:`LEAST_TILTS` is missing.

    Notes
    -----
    The filled bodies are projected at the tilts, reconstructed and filled once more. How far their centres move, pooled
    over whole dots by the median, is what the wedge does.
    """
    whole = table.loc[~table["recentred"], ["x_nm", "y_nm", "z_nm"]].to_numpy(float)
    if not len(whole) or not is_missing(angles_deg):
        return np.zeros(3)
    bodies, again = as_tilts_show(image, angles_deg)
    once_more = to_numpy(_filled(again(bodies), again))
    before = refine_centres(image, whole, template, restarts=())
    after = refine_centres(replace(image, values=once_more), before, template, restarts=())
    middle = np.deg2rad(widest_gap(angles_deg).middle_deg)  # what shows at this tilt across the axis is missing
    c, s = np.cos(middle), np.sin(middle)
    moves = (after - before) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    along, across, z = np.array(SCALES) * 1.4826 * np.median(np.abs(moves), axis=0)
    return np.array([np.hypot(c * along, s * across), np.hypot(s * along, c * across), z])


def as_tilts_show(image: BodyImage, angles_deg) -> tuple[np.ndarray, Callable]:
    """The image on its device, and how such an image looks after projection at the tilts and reconstruction."""
    n_y, n_x = image.values.shape[1:]
    n = max(n_y, n_x)
    y, x = (n - n_y) // 2, (n - n_x) // 2
    projector = Projector(angles_deg, n, device=image.device)

    def again(bodies: np.ndarray) -> np.ndarray:
        square = get_array_module(bodies).pad(bodies, [(0, 0), (y, n - n_y - y), (x, n - n_x - x)])
        return projector.fbp(projector.forward(square))[:, y : y + n_y, x : x + n_x]

    return to_device(image.values, image.device), again


def _filled(seen: np.ndarray, again: Callable) -> np.ndarray:
    """Bodies within [0, 1] whose reconstruction from the tilts is what was seen."""
    bodies = seen.clip(0, 1)
    for _ in range(ROUNDS):
        bodies = (bodies + seen - again(bodies)).clip(0, 1)
    return bodies
