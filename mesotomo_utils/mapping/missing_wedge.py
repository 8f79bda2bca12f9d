"""What a wedge of missing tilts takes from the picture of bodies: put back as far as it can be, and how far that is.

Where tilts are missing, bodies throw shadows along the missing directions and pull each other's centres: with ±70°
that is the largest error of a centre by far. Half sets know nothing of it, as both miss the same wedge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from mesotomo_utils.backend import get_array_module, to_device, to_numpy
from mesotomo_utils.mapping.centres import refine_centres
from mesotomo_utils.mapping.template import BodyImage, Template
from mesotomo_utils.tomography.projector import Projector

#: A wedge is missing where the widest gap between tilts lacks more than this many median steps.
LEAST_STEPS = 4.0
#: Rounds of :func:`fill_wedge`.
ROUNDS = 3
#: Errors of centres over how far :func:`wedge_sigmas` sees them move, along the middle of the wedge, across it and
#: along the tilt axis: bodies that were filled once hold what shadows left of the wedge's error already. Calibrated on
#: twins, see benchmarks/calibrate_errors.py.
SCALES = (0.85, 1.9, 1.5)


def missing_steps(angles_deg) -> float:
    """How many tilts are missing in the widest gap between (T,) tilts, in steps of the median one.

    Examples
    --------
    >>> missing_steps(np.arange(-70, 71, 2))
    19.0
    """
    steps = _steps(angles_deg)[1]
    return float(steps.max() / np.median(steps)) - 1


def missing_deg(angles_deg) -> float:
    """How much wider the widest gap between (T,) tilts is than the median one, degrees.

    Examples
    --------
    >>> missing_deg(np.arange(-70, 71, 2))
    38.0
    """
    steps = _steps(angles_deg)[1]
    return float(steps.max() - np.median(steps))


def fill_wedge(image: BodyImage, angles_deg, *, rounds: int = ROUNDS) -> BodyImage:
    """Put back what a wedge of missing tilts has taken from bodies, as far as their grey levels tell it.

    Parameters
    ----------
    image
        The tomogram of bodies.
    angles_deg
        (T,) tilts that it was reconstructed from.
    rounds
        How often.

    Returns
    -------
    The image, cut to [0, 1]; as it was given where no wedge wider than :data:`LEAST_STEPS` is missing.

    Notes
    -----
    Bodies are neither darker than the matrix nor brighter than a dot. Cut to these levels, the image is nearer to what
    was there, but no longer what the tilts have shown: what its own projections, reconstructed, lack of that is added,
    and so on. These are projections onto two convex sets, by turns (Youla and Webb, IEEE Trans. Med. Imaging 1, 81,
    1982).
    """
    if not len(angles_deg) or missing_steps(angles_deg) < LEAST_STEPS:
        return image
    seen, again = _as_tilts_show(image, angles_deg)
    return replace(image, values=to_numpy(_filled(seen, again, rounds)))


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
    (3,) nm, one value for all dots; 0 where no wedge wider than :data:`LEAST_STEPS` is missing.

    Notes
    -----
    The filled bodies are projected at the tilts, reconstructed and filled once more. How far their centres move, pooled
    over whole dots by the median, is what the wedge does.
    """
    whole = table.loc[~table["recentred"], ["x_nm", "y_nm", "z_nm"]].to_numpy(float)
    if not (len(whole) and len(angles_deg)) or missing_steps(angles_deg) < LEAST_STEPS:
        return np.zeros(3)
    bodies, again = _as_tilts_show(image, angles_deg)
    once_more = to_numpy(_filled(again(bodies), again, ROUNDS))
    before = refine_centres(image, whole, template, restarts=())
    after = refine_centres(replace(image, values=once_more), before, template, restarts=())
    tilts, steps = _steps(angles_deg)
    middle = np.deg2rad(tilts[steps.argmax()] + steps.max() / 2)  # what shows at this tilt across the axis is missing
    c, s = np.cos(middle), np.sin(middle)
    moves = (after - before) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    along, across, z = np.array(SCALES) * 1.4826 * np.median(np.abs(moves), axis=0)
    return np.array([np.hypot(c * along, s * across), np.hypot(s * along, c * across), z])


def _steps(angles_deg) -> tuple[np.ndarray, np.ndarray]:
    """Tilts from 0 to 180 degrees, sorted, and how far the next one is from each."""
    tilts = np.sort(np.mod(np.asarray(angles_deg, float), 180.0))
    return tilts, np.diff(np.append(tilts, tilts[0] + 180.0))


def _as_tilts_show(image: BodyImage, angles_deg) -> tuple[np.ndarray, Callable]:
    """The image on its device, and how such an image looks after projection at the tilts and reconstruction."""
    n_y, n_x = image.values.shape[1:]
    n = max(n_y, n_x)
    y, x = (n - n_y) // 2, (n - n_x) // 2
    projector = Projector(angles_deg, n, device=image.device)

    def again(bodies: np.ndarray) -> np.ndarray:
        square = get_array_module(bodies).pad(bodies, [(0, 0), (y, n - n_y - y), (x, n - n_x - x)])
        return projector.fbp(projector.forward(square))[:, y : y + n_y, x : x + n_x]

    return to_device(image.values, image.device), again


def _filled(seen: np.ndarray, again: Callable, rounds: int) -> np.ndarray:
    """Bodies within [0, 1] whose reconstruction from the tilts is what was seen."""
    bodies = seen.clip(0, 1)
    for _ in range(rounds):
        bodies = (bodies + seen - again(bodies)).clip(0, 1)
    return bodies
