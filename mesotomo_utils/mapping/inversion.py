"""How far a dot is from being its own mirror image about a point, and which shift mends it.

With the dot at c + s, the odd part of its image about c is O(r) = -s . grad E(r), E the even part. The gradient of the
mean dot is the instrument that measures s, free of this dot's own noise. All weights are even in r, so nothing
symmetric moves the centre.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mesotomo_utils.backend import get_array_module, to_device, to_numpy
from mesotomo_utils.mapping.necks import blurred_edge
from mesotomo_utils.mapping.sampling import offsets_nm
from mesotomo_utils.mapping.template import BodyImage, Template

#: Nearer to the centre than this a dot has no facets: what is no mirror image there is noise.
CORE_DIAMETERS = 0.25
#: A neck begins this far from the centre of its dot, in dot diameters: well inside the facet.
NECK_START_DIAMETERS = 0.3
#: So much is left out around it, for its blurred flank; and where the flank is taken off.
NECK_MARGIN_DIAMETERS, BARE_MARGIN_DIAMETERS = 0.05, 0.02
#: The flanks of a short neck add less than its cross-section says: beside those of a neck of so many dot diameters so
#: much more a diameter, within these bounds; from pictures of atoms with necks and without (benchmarks/neck_pull.py).
USUAL_LENGTH_DIAMETERS, FLANK_GROWTH, FLANK_BOUNDS = 0.25, 2.5, (0.3, 1.3)
#: What is seen of a dot nearer to the needle's edge than this, in dot diameters, is blurred by it.
EDGE_MARGIN_DIAMETERS = 0.04
#: Of all that a dot can tell of its centre, so much is taken to be known along any axis: normal equations of float32
#: weights would be singular where nothing is.
_LEAST_KNOWN = 1e-6


class Inversion:
    """Odd parts, weights and shifts of dots of one image.

    Parameters
    ----------
    image
        The tomogram of bodies.
    template
        The mean dot.
    flank
        Voxels: this far around one that is not its own mirror image the others lose their weight too.
    """

    def __init__(self, image: BodyImage, template: Template, *, flank: int = 0):
        self._image, self._width_nm = image, template.edge_nm
        middle = template.values.shape[0] // 2
        self._half = int(np.abs(np.argwhere(template.body > 0) - middle).max())  # the body fits in a smaller box
        self._flank = flank
        inner = (slice(middle - self._half, middle + self._half + 1),) * 3
        inside = template.body[inner].ravel() > 0
        # Half of the box is enough: the odd part of the other half is its negative.
        inside = np.flatnonzero(inside[: inside.size // 2])
        gradient = np.stack([part[inner] for part in np.gradient(template.values, template.step_nm)[::-1]])
        mirrored = (2 * self._half + 1) ** 3 - 1 - inside
        gradient, body = gradient.reshape(3, -1)[:, inside], template.body[inner].ravel()[inside]
        values = template.values[inner].ravel().clip(0, 1)
        arrays = inside, mirrored, gradient, body, values[inside] + values[mirrored]
        self._inside, self._mirrored, self._gradient, self._body, self._dot = (
            to_device(array, image.device) for array in arrays
        )
        self._facets = self._body * (self._gradient**2).sum(axis=0)
        self._xp = get_array_module(self._body)
        offsets = offsets_nm(self._half, template.step_nm).reshape(-1, 3)[inside]
        self._offsets = to_device(offsets.T.astype(np.float32), image.device)
        self._core = (self._offsets**2).sum(axis=0) < (CORE_DIAMETERS * image.diameter_nm) ** 2

    def beside(self, necks: np.ndarray, at: np.ndarray, margin: float = NECK_MARGIN_DIAMETERS) -> np.ndarray:
        """Which voxels of each body stand clear of its necks, of the needle's edge, and of what mirrors them.

        Parameters
        ----------
        necks
            (N, k, 5) unit vectors to the neighbours, radii of the necks, 0 where there is none, and distances of these
            neighbours, nm.
        at
            (N, 3) centres, nm.
        margin
            So much is left out around a neck, in dot diameters.

        Returns
        -------
        (N, v) float32 on the device, 0 in a neck or beyond the edge, and 1 elsewhere, one voxel between.
        """
        clear = clear_of_necks(self._offsets, necks, self._image, opposite=True, margin=margin)
        for offsets in (self._offsets, -self._offsets):
            clear *= clear_of_edge(offsets, at, self._image)
        return clear

    def beyond_edge(self, at: np.ndarray) -> np.ndarray:
        """(N,) part of the mean dot, at (N, 3) points, that lies beyond the needle's edge."""
        inside = [clear_of_edge(offsets, at, self._image, margin=0) for offsets in (self._offsets, -self._offsets)]
        return np.maximum(1 - to_numpy(sum(inside) @ self._dot / (2 * self._dot.sum())), 0)

    def flanks(self, necks: np.ndarray, edge_nm: float) -> np.ndarray:
        """What the blurred flanks of necks add to the odd part, where nothing of the body is.

        Parameters
        ----------
        necks
            As for :meth:`beside`.
        edge_nm
            Standard deviation of the blur of their edges, nm (:func:`.necks.edge_width`).

        Returns
        -------
        (N, v) float32 on the device; times 1 - E, E the even part of the image, it is what they add.

        Notes
        -----
        A neck adds atoms where the body has none: with a body B(r) = B(-r) and necks N the image is B + (1 - B) N. Its
        odd part is (1 - E) (N(r) - N(-r)) / (2 - N(r) - N(-r)). N is less than one in a neck shorter than most, and
        more in a longer one (:data:`FLANK_GROWTH`).
        """
        xp, start = self._xp, NECK_START_DIAMETERS * self._image.diameter_nm
        sides = xp.zeros((2, len(necks), self._offsets.shape[1]), np.float32)
        for along, across, radius, distance in _from_each_neck(self._offsets, necks):
            length = (distance - self._width_nm) / self._image.diameter_nm
            grown = xp.clip(1 + FLANK_GROWTH * (length - USUAL_LENGTH_DIAMETERS), *FLANK_BOUNDS)
            neck = xp.where(radius > 0, grown * blurred_edge((across - radius) / edge_nm), 0)
            for side, height in zip(sides, (along, -along), strict=True):
                xp.maximum(side, neck * (height > start), out=side)
        return (sides[0] - sides[1]) / xp.maximum(2 - sides[0] - sides[1], 0.5)

    def _parts(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, v) odd and even part of half of each body; the other half mirrors it."""
        patches = self._image.sampler.patches(at, self._half).reshape(len(at), -1)
        here, there = patches[:, self._inside], patches[:, self._mirrored]
        return (here - there) / 2, (here + there) / 2

    def _odd(self, at: np.ndarray) -> np.ndarray:
        return self._parts(at)[0]

    def _weights(self, left: np.ndarray, scale: float) -> np.ndarray:
        """(N, v) Geman-McClure weights of residuals, the least in reach of a flank."""
        weights = 1 / (1 + (left / scale) ** 2) ** 2
        if self._flank:
            size = 2 * self._half + 1
            box = self._xp.ones((len(left), size**3), np.float32)
            box[:, self._inside] = weights
            box[:, self._mirrored] = weights
            weights = _lowest_around(box.reshape(-1, size, size, size), self._flank)
            weights = weights.reshape(len(left), -1)[:, self._inside]
        return weights

    def asymmetry(self, at: np.ndarray, scale: float) -> np.ndarray:
        """(N,) fraction of the body that is not its own mirror image about the (N, 3) points."""
        square = (self._odd(at) / scale) ** 2
        return to_numpy((self._body * square / (1 + square)).sum(axis=1) / self._body.sum())

    def support(self, at: np.ndarray, scale: float) -> np.ndarray:
        """(N,) fraction of the facets, squared gradients, that are their own mirror image about the (N, 3) points."""
        return to_numpy(self._weights(self._odd(at), scale) @ self._facets / self._facets.sum())

    def unevenness(self, at: np.ndarray, clear: np.ndarray) -> np.ndarray:
        """(N,) root mean square of the odd part over the facets, squared gradients, for (N, 3) points, without noise.

        In body contrasts; ``clear`` of :meth:`beside`. The noise is what the odd part has in the core of the body.
        """
        facets, square = self._facets * clear, self._odd(at) ** 2
        uneven = (facets * square).sum(axis=1) / self._xp.maximum(facets.sum(axis=1), 1e-12)
        return to_numpy(self._xp.sqrt(self._xp.maximum(uneven - square[:, self._core].mean(axis=1), 0)))

    def vagueness(self, at: np.ndarray, scale: float, clear: np.ndarray | None = None) -> np.ndarray:
        """How much less is known of the centres at (N, 3) points than of a dot that is all its own mirror image.

        Parameters
        ----------
        at, scale
            As for :meth:`support`.
        clear
            Weights of :meth:`beside`.

        Returns
        -------
        (N, 3) factors of the standard deviation along x, y, z, from the weights that the facets have left; 1 or more.
        """
        body = self._body if clear is None else self._body * clear
        most = _normal_matrices(self._body[None], self._gradient)[0]
        known = _normal_matrices(body * self._weights(self._odd(at), scale), self._gradient)
        known += _LEAST_KNOWN * np.trace(most) * np.eye(3)
        variance, least = (np.diagonal(np.linalg.inv(matrix), axis1=-2, axis2=-1) for matrix in (known, most))
        return np.sqrt(np.maximum(variance / least, 1))

    def follow(
        self,
        at: np.ndarray,
        scales: Sequence[float],
        clear: np.ndarray | None = None,
        flanks: np.ndarray | None = None,
    ) -> np.ndarray:
        """(N, 3) points after a step towards the centres of inversion with each scale.

        ``clear`` of :meth:`beside`; ``flanks`` of :meth:`flanks`, or the part of them that is taken off the odd part.
        The weights are those of the odd part as it is: a voxel that a neck reaches is not to be trusted more for that.
        """
        body = self._body if clear is None else self._body * clear
        for scale in scales:
            odd, even = self._parts(at)
            flank = 0 if flanks is None else flanks * (1 - even)
            shift = robust_shift(
                odd - flank, self._gradient, lambda left, s=scale, f=flank: body * self._weights(left + f, s)
            )
            at = at + np.clip(shift, -0.5, 0.5)
        return at


def clear_of_necks(
    offsets: np.ndarray,
    necks: np.ndarray,
    image: BodyImage,
    *,
    opposite: bool = False,
    margin: float = NECK_MARGIN_DIAMETERS,
) -> np.ndarray:
    """Weights that leave the necks of dots out.

    Parameters
    ----------
    offsets
        (3, v) voxels from the centre of a dot, nm, on the device.
    necks
        (N, k, 5) as :meth:`Inversion.beside` has them.
    image
        The tomogram of bodies.
    opposite
        Whether what lies opposite a neck is left out as well.
    margin
        So much is left out around a neck, in dot diameters.

    Returns
    -------
    (N, v) float32 on the device, 0 in a neck and 1 beside it, one voxel between.
    """
    xp = get_array_module(offsets)
    clear = xp.ones((len(necks), offsets.shape[1]), np.float32)
    margin_nm, start = margin * image.diameter_nm, NECK_START_DIAMETERS * image.diameter_nm
    for along, across, radius, _ in _from_each_neck(offsets, necks):
        height = xp.abs(along) if opposite else along
        within = xp.clip(0.5 + (radius + margin_nm - across) / image.step_nm, 0, 1)
        within *= xp.clip(0.5 + (height - start) / image.step_nm, 0, 1)
        clear *= 1 - xp.where(radius > 0, within, 0)
    return clear


def clear_of_edge(
    offsets: np.ndarray, at: np.ndarray, image: BodyImage, *, margin: float = EDGE_MARGIN_DIAMETERS
) -> np.ndarray:
    """Weights that leave out what lies beyond the needle's edge.

    Parameters
    ----------
    offsets, image
        As for :func:`clear_of_necks`.
    at
        (N, 3) centres of dots, nm.
    margin
        So much is left out within it, in dot diameters.

    Returns
    -------
    (N, v) float32 on the device, 0 beyond the edge and 1 within it, one voxel between; 1 where there is no edge.
    """
    xp = get_array_module(offsets)
    if image.edge is None:
        return xp.ones((len(at), offsets.shape[1]), np.float32)
    around = xp.asarray(image.edge.around(at).astype(np.float32))
    away = xp.hypot(around[:, :1] + offsets[0], around[:, 1:2] + offsets[1])
    return xp.clip(0.5 + (around[:, 2:] - margin * image.diameter_nm - away) / image.step_nm, 0, 1)


def _from_each_neck(offsets: np.ndarray, necks: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Of one neck of each dot after the other, heights of the voxels along it and distances from its line, (N, v), and
    its radius and its neighbour's distance, (N, 1); parameters of :func:`clear_of_necks`.
    """
    xp = get_array_module(offsets)
    necks = xp.asarray(np.asarray(necks, np.float32))
    square = (offsets**2).sum(axis=0)
    for n in range(necks.shape[1]):
        along = necks[:, n, :3] @ offsets
        yield along, xp.sqrt(xp.maximum(square - along**2, 0)), necks[:, n, 3:4], necks[:, n, 4:]


def _lowest_around(boxes: np.ndarray, reach: int) -> np.ndarray:
    """Minimum filter of (N, s, s, s) boxes, their outermost voxels only among themselves."""
    xp = get_array_module(boxes)
    other = xp.empty_like(boxes)
    for axis in (1, 2, 3):
        at = [(slice(None),) * axis + (s,) for s in (slice(1, None), slice(None, -1), slice(1, -1))]
        first, last = (slice(None),) * axis + (0,), (slice(None),) * axis + (-1,)
        for _ in range(reach):
            # of each voxel and the one before it, then of two such pairs
            pairs = xp.minimum(boxes[at[0]], boxes[at[1]], out=other[at[0]])
            xp.minimum(pairs[at[0]], pairs[at[1]], out=boxes[at[2]])
            boxes[first], boxes[last] = pairs[first], pairs[last]
    return boxes


def robust_shift(residual: np.ndarray, gradient: np.ndarray, weigh: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(N, 3) shifts that explain (N, v) residuals, by least squares reweighted twice.

    Parameters
    ----------
    residual
        (N, v) residuals, on the device.
    gradient
        (3, v) what a shift of one nm along x, y, z makes of them, with the sign turned.
    weigh
        From (N, v) residuals to their weights.
    """
    shift = np.zeros((len(residual), 3))
    xp = get_array_module(residual)
    for _ in range(2):
        weights = weigh(residual + xp.asarray(shift.astype(np.float32)) @ gradient)
        matrix = _normal_matrices(weights, gradient) + 1e-9 * np.eye(3)
        right = to_numpy((weights * residual) @ gradient.T)
        shift = -np.linalg.solve(matrix, right[..., None])[..., 0]
    return shift


def _normal_matrices(weights: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """(N, 3, 3) normal matrices of shifts, from (N, v) weights and the (3, v) gradient."""
    products = (gradient[:, None] * gradient).reshape(9, -1)
    return to_numpy(weights @ products.T).reshape(-1, 3, 3).astype(float)
