"""The mean dot laid over other dots, by robust least squares.

A centre of inversion needs both of two opposite facets; the mean dot is laid over whatever is seen of them. But it
takes every dot for as large as the mean: a dot seen on one side only is half its difference in size off. So this tells
where the centre is to a tenth of a nanometre, of a dot that is cut, or whose facets lie in necks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mesotomo_utils.backend import get_array_module, to_device, to_numpy
from mesotomo_utils.mapping.inversion import clear_of_edge, clear_of_necks, robust_shift
from mesotomo_utils.mapping.sampling import offsets_nm
from mesotomo_utils.mapping.template import BodyImage, Template


class Overlay:
    """Residuals of the dots of one image from the mean dot, and the shifts that mend them.

    Parameters
    ----------
    image
        The tomogram of bodies.
    mean
        The mean dot.
    """

    def __init__(self, image: BodyImage, mean: Template):
        self._image, self._half = image, mean.values.shape[0] // 2
        inside = np.flatnonzero(mean.body.ravel() > 0)
        gradient = np.stack(np.gradient(mean.values, mean.step_nm)[::-1]).reshape(3, -1)[:, inside]
        offsets = offsets_nm(self._half, mean.step_nm).reshape(-1, 3)[inside].T.astype(np.float32)
        arrays = inside, mean.values.ravel()[inside], mean.body.ravel()[inside], gradient, offsets
        self._inside, self._values, self._body, self._gradient, self._offsets = (
            to_device(array, image.device) for array in arrays
        )
        self._xp = get_array_module(self._body)

    def beside(self, necks: np.ndarray, at: np.ndarray) -> np.ndarray:
        """(N, v) weights, on the device: the body at (N, 3) points less what lies beyond the needle's edge and its
        (N, k, 5) necks, as :meth:`.Inversion.beside` has them.
        """
        clear = clear_of_necks(self._offsets, necks, self._image) * clear_of_edge(self._offsets, at, self._image)
        return self._body * clear

    def within(self, directions: np.ndarray, limit_nm: float) -> np.ndarray:
        """(N, v) factors, on the device: 1 up to a height along (N, 3) unit vectors, nm, and 0 beyond."""
        height = self._xp.asarray(np.asarray(directions, np.float32)) @ self._offsets
        return self._xp.clip(0.5 - (height - limit_nm) / (2 * self._image.step_nm), 0, 1)

    def _residual(self, at: np.ndarray) -> np.ndarray:
        return self._image.sampler.patches(at, self._half).reshape(len(at), -1)[:, self._inside] - self._values

    def follow(self, at: np.ndarray, scales: Sequence[float], weights: np.ndarray) -> np.ndarray:
        """(N, 3) points after a step with each scale, in body contrasts, and (N, v) weights."""
        for scale in scales:
            step = robust_shift(
                self._residual(at), self._gradient, lambda left, s=scale: weights / (1 + (left / s) ** 2) ** 2
            )
            at = at + np.clip(step, -0.3, 0.3)
        return at

    def misfit(self, at: np.ndarray, scale: float, weights: np.ndarray) -> np.ndarray:
        """(N,) fraction of the weights where the dot at each of (N, 3) points is not the mean dot; 1 of no weights."""
        alike = weights / (1 + (self._residual(at) / scale) ** 2)
        return 1 - to_numpy(alike.sum(axis=1) / self._xp.maximum(weights.sum(axis=1), 1e-9))
