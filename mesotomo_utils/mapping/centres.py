"""Where every quantum dot is: the centre of its body, without its necks.

The dots are picked by normalised correlation with a template that is cut from the tomogram itself,
averaged over all picks and refined iteratively. Each centre is then refined on its own, as the
point about which the dot is its own mirror image (centre of inversion): size, shape and
orientation of a dot do not move that point. What is no part of the body, a neck or a neighbour
that comes near, stands on one side only; such voxels lose their weight.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import fft as sfft
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.filters import threshold_otsu

from mesotomo_utils.backend import cpu_count
from mesotomo_utils.distribute import map_items
from mesotomo_utils.lattice import wahba
from mesotomo_utils.mapping.sampling import Sampler, coarsen, offsets_nm, to_nm

#: Width of the low-pass and edge of the voxels, in dot diameters: 0.2 and 0.25 nm for 5 nm.
SIGMA_DIAMETERS = 0.04
STEP_DIAMETERS = 0.05
#: Half the edge of the box of the template: it holds the body and half the way to the neighbours.
BOX_DIAMETERS = 0.75
#: Radius of the mask of the correlation: half the edge of a cube times the root of two.
MASK_DIAMETERS = 0.71
#: Radius of the ball that must fit everywhere into a body; necks are thinner than twice that.
OPENING_DIAMETERS = 0.33
#: Centres nearer than this are two picks of one dot: bodies are rigid and cannot overlap.
SAME_DOT_DIAMETERS = 0.65
#: A pick below this fraction of the median score is no dot.
SCORE_FRACTION = 0.5
#: A dot on the rim with more than this fraction of its core missing is cut by the edge of the needle.
MISSING_CORE = 0.015
#: With more than this missing it is not a dot that could be located.
MISSING_MOST = 0.6
#: Scales of the robust fit of a centre, in body contrasts, from the first step to the last.
INVERSION_SCALES = (0.12, 0.08, 0.06, 0.06, 0.06)
#: A first, coarse fit starts from the pick and from six points this far from it.
START_DIAMETERS = 0.13


@dataclass
class BodyImage:
    """A tomogram as the mapping of whole dots sees it: low-passed, coarse, contrast one.

    Attributes
    ----------
    values
        (nz, ny, nx) float32, 0 in the matrix between the dots and 1 in their bodies.
    step_nm
        Edge of its voxels, nm.
    diameter_nm
        Nominal dot diameter, nm.
    background, contrast
        Grey levels of the tomogram: matrix, and body above matrix.
    """

    values: np.ndarray
    step_nm: float
    diameter_nm: float
    background: float
    contrast: float
    _sampler: Sampler | None = field(default=None, repr=False)

    @property
    def sampler(self) -> Sampler:
        """Cubic-spline interpolation of ``values``, made when first asked for."""
        if self._sampler is None:
            self._sampler = Sampler(self.values, self.step_nm)
        return self._sampler

    @property
    def half_box(self) -> int:
        """Half the edge of the box around a dot, in voxels."""
        return int(np.ceil(BOX_DIAMETERS * self.diameter_nm / self.step_nm))


@dataclass(frozen=True)
class Template:
    """The mean dot, in a box of s voxels.

    Attributes
    ----------
    values
        (s, s, s) float32, 0 matrix, 1 body.
    weights
        (s, s, s) mask of the correlation: the body and what parts it from its neighbours.
    body
        (s, s, s) compact mask of the body and its blurred facets, without necks, fading to 0.
    step_nm
        Edge of the voxels, nm.
    """

    values: np.ndarray
    weights: np.ndarray
    body: np.ndarray
    step_nm: float


def body_image(volume, voxel_nm: float, *, diameter_nm: float) -> BodyImage:
    """Filter the atomic lattice away and bring matrix and bodies to 0 and 1.

    Parameters
    ----------
    volume
        (nz, ny, nx) tomogram, NumPy or Zarr (read in slabs).
    voxel_nm
        Edge of its voxels, nm.
    diameter_nm
        Nominal diameter of the dots, nm.

    Returns
    -------
    The image, with voxels of a twentieth of the diameter.

    Raises
    ------
    ValueError
        The diameter is not positive or under four voxels; the volume holds a value that is not
        finite, or one value only.
    """
    if not diameter_nm > 0 or diameter_nm < 4 * voxel_nm:
        raise ValueError(
            f"diameter_nm: expected at least four voxels of {voxel_nm} nm, found {diameter_nm}; "
            "correct quantum_dot.diameter_nm or the voxel size in the sample file"
        )
    step = max(STEP_DIAMETERS * diameter_nm, voxel_nm)
    values = coarsen(volume, voxel_nm, step_nm=step, sigma_nm=SIGMA_DIAMETERS * diameter_nm)
    if not np.isfinite(values).all():
        raise ValueError("volume: values that are not finite; reconstruct the tomogram again")
    if np.ptp(values) == 0:
        raise ValueError(f"volume: every voxel is {values.flat[0]}; there is nothing to find")
    background, contrast = _levels(values)
    values -= np.float32(background)
    values /= np.float32(contrast)
    return BodyImage(values, step, float(diameter_nm), background, contrast)


def _levels(values: np.ndarray) -> tuple[float, float]:
    """Grey level of the matrix, and how much brighter the bodies are."""
    thin = values[::2, ::2, ::2]
    threshold = threshold_otsu(thin)
    # A second cut within what is brighter than the first keeps clear of vacuum and of rims.
    background = float(np.median(thin[thin < threshold]))
    body = float(np.median(thin[thin > (threshold + thin[thin > threshold].mean()) / 2]))
    return background, body - background


# --- picks -----------------------------------------------------------------------------------


def correlate(image: BodyImage, template: Template) -> np.ndarray:
    """Normalised cross-correlation of the image with a template, at every voxel.

    Returns
    -------
    (nz, ny, nx) float32 between -1 and 1. Where the image is nearly flat (vacuum, carbon) its own
    contrast is replaced by a twentieth of that of a dot, so that noise gets no score.
    """
    mask = template.weights
    total = float(mask.sum())
    mean_template = (mask * template.values).sum() / total
    centred = (template.values - mean_template) * mask
    norm = np.sqrt((mask * (template.values - mean_template) ** 2).sum())
    half = np.asarray(mask.shape) // 2
    shape = [sfft.next_fast_len(n + 2 * h, real=True) for n, h in zip(image.values.shape, half)]
    workers = cpu_count()

    def transform(array):
        return sfft.rfftn(array, shape, workers=workers)

    def correlation(spectrum, kernel):
        product = spectrum * np.conj(transform(kernel.astype(np.float32)))
        full = sfft.irfftn(product, shape, workers=workers)
        full = np.roll(full, half, axis=(0, 1, 2))
        return full[tuple(slice(0, n) for n in image.values.shape)]

    spectrum = transform(image.values)
    top = correlation(spectrum, centred)
    mean = correlation(spectrum, mask)
    variance = correlation(transform(image.values**2), mask) - mean**2 / total
    floor = 0.05 * total
    return (top / (norm * np.sqrt(np.maximum(variance, 0) + floor))).astype(np.float32)


def _ball(image: BodyImage) -> Template:
    """First guess of a dot: a ball of the volume of a cube of the nominal edge, and a shell."""
    radius = np.linalg.norm(offsets_nm(image.half_box, image.step_nm), axis=-1)
    ball = 0.6 * image.diameter_nm
    soft = SIGMA_DIAMETERS * image.diameter_nm * 2
    values = 1 / (1 + np.exp(np.clip((radius - ball) / soft * 2, -50, 50)))
    weights = (radius < BOX_DIAMETERS * image.diameter_nm).astype(np.float32)
    return Template(values.astype(np.float32), weights, weights, image.step_nm)


def _peaks(scores: np.ndarray, image: BodyImage, lowest: float) -> tuple[np.ndarray, np.ndarray]:
    """Maxima of the correlation, best first, none nearer to a better one than a dot allows."""
    top = (scores == ndimage.maximum_filter(scores, size=5, mode="constant")) & (scores > lowest)
    index = np.argwhere(top)
    score = scores[top]
    order = np.argsort(-score, kind="stable")
    index, score = index[order], score[order]
    xyz = to_nm(index + _parabola(scores, index), scores.shape, image.step_nm)
    keep = np.ones(len(xyz), bool)
    if len(xyz):
        tree = cKDTree(xyz)
        near = tree.query_ball_point(xyz, SAME_DOT_DIAMETERS * image.diameter_nm)
        for n, others in enumerate(near):
            if keep[n]:
                keep[[o for o in others if o > n]] = False
    return xyz[keep], score[keep]


def _parabola(scores: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Offset of each maximum from its voxel, in voxels, by a parabola along each axis."""
    inner = np.clip(index, 1, np.asarray(scores.shape) - 2)
    offset = np.zeros(index.shape)
    for axis in range(3):
        step = np.eye(3, dtype=int)[axis]
        low, mid, high = (scores[tuple((inner + s * step).T)] for s in (-1, 0, 1))
        curve = np.minimum(low - 2 * mid + high, -1e-9)
        offset[:, axis] = np.clip(0.5 * (low - high) / curve, -0.5, 0.5)
    return offset


def learn_template(image: BodyImage, *, rounds: int = 3) -> tuple[Template, np.ndarray, np.ndarray]:
    """The mean dot, cut from the tomogram and refined with its own picks.

    Parameters
    ----------
    image
        The tomogram of bodies.
    rounds
        How often picks and template refine each other.

    Returns
    -------
    template, (N, 3) picks in nm, (N,) scores: every maximum of the last correlation, best first.

    Raises
    ------
    ValueError
        Nothing in the tomogram looks like a dot of that size.

    Notes
    -----
    The template is averaged with its inversion, which keeps it from drifting towards the side with
    the thicker necks, and its mask is compact: it ends just outside the body.
    """
    template = _ball(image)
    for _ in range(rounds + 1):
        xyz, score = _peaks(correlate(image, template), image, lowest=0.2)
        good = _good(score)
        if not good.any():
            raise ValueError(
                f"no dots of about {image.diameter_nm} nm found in the tomogram; check "
                "quantum_dot.diameter_nm and the voxel size in the sample file"
            )
        best = score >= np.median(score[good])
        template = _average(image, xyz[best])
    return template, xyz, score


def _good(score: np.ndarray) -> np.ndarray:
    """Which picks are dots, by the score of the better half of all that could be."""
    if score.size == 0:
        return np.zeros(0, bool)
    likely = score[score > 0.5 * score.max()]
    return score > SCORE_FRACTION * np.median(likely)


def _average(image: BodyImage, xyz_nm: np.ndarray) -> Template:
    patches = image.sampler.patches(xyz_nm, image.half_box)
    mean = patches.mean(axis=0)
    mean = (mean + mean[::-1, ::-1, ::-1]) / 2
    radius = np.linalg.norm(offsets_nm(image.half_box, image.step_nm), axis=-1)
    centre = mean[tuple(slice(n // 2 - 2, n // 2 + 3) for n in mean.shape)].mean()
    filled = (mean > centre / 2) & (radius < BOX_DIAMETERS * image.diameter_nm)
    # What a ball of a third of a dot's edge in radius cannot enter is a neck or a neighbour.
    depth = ndimage.distance_transform_edt(filled) * image.step_nm
    ball = OPENING_DIAMETERS * image.diameter_nm
    labels, _ = ndimage.label(depth > ball)
    core = labels == labels[tuple(n // 2 for n in mean.shape)]
    body = ndimage.distance_transform_edt(~core) * image.step_nm <= ball
    outside = ndimage.distance_transform_edt(~body) * image.step_nm
    # Full weight in the body, fading over the blurred facet: it ends before the next dot begins.
    body = np.clip(1 - (outside - image.step_nm) / (0.06 * image.diameter_nm), 0, 1)
    weights = (radius < MASK_DIAMETERS * image.diameter_nm).astype(np.float32)
    return Template(mean.astype(np.float32), weights, body.astype(np.float32), image.step_nm)


# --- centres ---------------------------------------------------------------------------------


def refine_centres(
    image: BodyImage,
    xyz_nm,
    template: Template,
    *,
    scales: tuple[float, ...] = INVERSION_SCALES,
) -> np.ndarray:
    """Centre of inversion of each dot.

    Parameters
    ----------
    image
        The tomogram of bodies.
    xyz_nm
        (N, 3) picks, nm, good to about half a nanometre.
    template
        The mean dot.
    scales
        Scale of the robust weights in body contrasts, one a step.

    Returns
    -------
    (N, 3) centres, nm. A dot that would move by more than a third of a diameter stays where it is.

    Notes
    -----
    With the dot at c + s, the odd part of the image about c is O(r) = -s . grad E(r), E the even
    part. The template's gradient is the instrument that measures s, free of this dot's own noise.
    All weights are even in r, so nothing symmetric moves the centre. Where one side has a neck or
    a neighbour and the other has none, |O| is large and the weight (Geman-McClure) vanishes.
    """
    start = np.asarray(xyz_nm, float).reshape(-1, 3)
    inversion = _Inversion(image, template)

    def refine(first: np.ndarray) -> np.ndarray:
        at = first.copy()
        for scale in scales:
            at += inversion.shift(at, scale)
        return at

    refined = _in_chunks(refine, start)
    lost = np.linalg.norm(refined - start, axis=1) > image.diameter_nm / 3
    refined[lost] = start[lost]
    return refined


def rough_centres(image: BodyImage, xyz_nm, template: Template) -> np.ndarray:
    """Best of seven coarse fits of each centre of inversion, started around its pick.

    A pick can lie up to a nanometre off where necks are thick on one side, too far for
    :func:`refine_centres`, which is as sharp as the facets are. Parameters and return as there.
    """
    start = np.asarray(xyz_nm, float).reshape(-1, 3)
    diameter = image.diameter_nm
    values = coarsen(
        image.values, image.step_nm, step_nm=0.08 * diameter, sigma_nm=0.045 * diameter
    )
    coarse = BodyImage(values, 0.08 * diameter, diameter, image.background, image.contrast)
    inversion = _Inversion(coarse, _average(coarse, start[: max(1, len(start) // 2)]))
    offsets = START_DIAMETERS * diameter * np.vstack([np.zeros(3), np.eye(3), -np.eye(3)])

    def refine(first: np.ndarray) -> np.ndarray:
        ends, costs = [], []
        for offset in offsets:
            at = first + offset
            for scale in (0.2, 0.12, 0.08, 0.08):
                at += inversion.shift(at, scale)
            ends.append(at)
            costs.append(inversion.asymmetry(at, 0.08))
        costs = np.array(costs)
        costs[np.linalg.norm(np.array(ends) - first, axis=2) > diameter / 3] = np.inf
        best = costs.argmin(axis=0)
        chosen = np.array(ends)[best, np.arange(len(first))]
        return np.where(np.isfinite(costs.min(axis=0))[:, None], chosen, first)

    return _in_chunks(refine, start)


def _in_chunks(function, points: np.ndarray, size: int = 32) -> np.ndarray:
    """Apply a function of (n, 3) points to small groups of them, on all cores."""
    if len(points) == 0:
        return points.copy()
    chunks = np.array_split(points, int(np.ceil(len(points) / size)))
    return np.concatenate(map_items(function, chunks))


class _Inversion:
    """How far dots are from being their own mirror image about a point, and which shift mends it."""

    def __init__(self, image: BodyImage, template: Template):
        self._sampler = image.sampler
        self._half = template.values.shape[0] // 2
        self._inside = template.body.ravel() > 0
        # Half of the box is enough: the odd part of the other half is its negative.
        self._inside[self._inside.size // 2 :] = False
        gradient = np.stack(np.gradient(template.values, template.step_nm)[::-1]).reshape(3, -1)
        self._gradient = gradient[:, self._inside]
        self._body = template.body.ravel()[self._inside]

    def _odd(self, at: np.ndarray) -> np.ndarray:
        patches = self._sampler.patches(at, self._half).reshape(len(at), -1)
        return (patches[:, self._inside] - patches[:, ::-1][:, self._inside]) / 2

    def asymmetry(self, at: np.ndarray, scale: float) -> np.ndarray:
        """(N,) fraction of the body that is not its own mirror image about the (N, 3) points."""
        square = (self._odd(at) / scale) ** 2
        return (self._body * square / (1 + square)).sum(axis=1) / self._body.sum()

    def shift(self, at: np.ndarray, scale: float) -> np.ndarray:
        """(N, 3) shifts, nm, towards the centres of inversion."""
        return _shift(self._odd(at), self._gradient, self._body, scale)


def _shift(odd: np.ndarray, gradient: np.ndarray, body: np.ndarray, scale: float) -> np.ndarray:
    """(N, 3) shifts from the (N, v) odd parts, by least squares reweighted twice."""
    shift = np.zeros((len(odd), 3))
    for _ in range(2):
        left = odd + shift.astype(np.float32) @ gradient
        weights = body / (1 + (left / scale) ** 2) ** 2
        matrix = np.einsum("nv,av,bv->nab", weights, gradient, gradient, optimize=True)
        matrix += 1e-9 * np.eye(3)
        right = np.einsum("nv,av,nv->na", weights, gradient, odd, optimize=True)
        shift = -np.linalg.solve(matrix, right[..., None])[..., 0]
    return np.clip(shift, -0.5, 0.5)


def missing_core(image: BodyImage, xyz_nm, template: Template) -> np.ndarray:
    """Fraction of each dot's core that is not there: cut away by the edge of the needle.

    The core is the template's body less a rim of 0.06 diameters, so that small dots fill it too.

    Returns
    -------
    (N,) fractions between 0 and 1, of the contrast that the middle of the same dot has.
    """
    xyz = np.asarray(xyz_nm, float).reshape(-1, 3)
    half = template.values.shape[0] // 2
    whole = (template.body > 0.99) & (template.values > 0.5)
    depth = ndimage.distance_transform_edt(whole) * template.step_nm
    core = (depth > 0.06 * image.diameter_nm).ravel()
    middle = (depth > 0.5 * depth.max()).ravel()

    def measure(points: np.ndarray) -> np.ndarray:
        patches = image.sampler.patches(points, half).reshape(len(points), -1)
        level = np.maximum(np.median(patches[:, middle], axis=1), 0.5)
        # The blurred facet of a whole dot counts as there: seven tenths of the level do.
        return (1 - np.clip(patches[:, core] / (0.7 * level[:, None]), 0, 1)).mean(axis=1)

    return _in_chunks(measure, xyz) if len(xyz) else np.zeros(0)


def on_rim(xyz_nm, diameter_nm: float) -> np.ndarray:
    """Which dots have no neighbour on one side, seen along the needle's axis z.

    Parameters
    ----------
    xyz_nm
        (N, 3) centres, nm.
    diameter_nm
        Nominal dot diameter, nm.

    Returns
    -------
    (N,) bool: True where no dot within 1.9 diameters stands in a sector of 120 degrees. A single
    vacancy leaves sectors of 90 degrees. Only such dots can be cut by the needle's edge.
    """
    xyz = np.asarray(xyz_nm, float).reshape(-1, 3)
    rim = np.ones(len(xyz), bool)
    if len(xyz) == 0:
        return rim
    for n, others in enumerate(cKDTree(xyz).query_ball_point(xyz, 1.9 * diameter_nm)):
        away = xyz[[o for o in others if o != n]] - xyz[n]
        flat = np.hypot(away[:, 0], away[:, 1]) > 0.7 * np.linalg.norm(away, axis=1)
        angle = np.sort(np.degrees(np.arctan2(away[flat, 1], away[flat, 0])))
        if angle.size > 1:
            rim[n] = np.diff(np.append(angle, angle[0] + 360)).max() > 120
    return rim


def find_centres(
    image: BodyImage, *, template: Template | None = None
) -> tuple[pd.DataFrame, Template]:
    """Find every dot of a tomogram and the centre of its body.

    Parameters
    ----------
    image
        The tomogram of bodies, from :func:`body_image`.
    template
        The mean dot; learned from the tomogram where None.

    Returns
    -------
    DataFrame with ``x_nm, y_nm, z_nm``, ``score`` (normalised correlation, 1 = the template),
    ``missing`` (fraction of the core that is not there) and ``at_edge`` (cut by the needle's
    edge), ordered by z, y, x; and the template.

    Raises
    ------
    ValueError
        Nothing in the tomogram looks like a dot of that size.
    """
    if template is None:
        template, xyz, score = learn_template(image)
    else:
        xyz, score = _peaks(correlate(image, template), image, lowest=0.2)
    good = _good(score)
    xyz, score = rough_centres(image, xyz[good], template), score[good]
    xyz = refine_centres(image, xyz, template)
    missing = missing_core(image, xyz, template)
    keep = _distinct(xyz, missing, SAME_DOT_DIAMETERS * image.diameter_nm)
    keep &= missing < MISSING_MOST
    table = pd.DataFrame(xyz, columns=["x_nm", "y_nm", "z_nm"])
    table["score"] = score
    table["missing"] = missing
    table = table[keep].sort_values(["z_nm", "y_nm", "x_nm"], kind="stable")
    rim = on_rim(table[["x_nm", "y_nm", "z_nm"]], image.diameter_nm)
    table["at_edge"] = rim & (table["missing"].to_numpy() > MISSING_CORE)
    return table.reset_index(drop=True), template


def _distinct(xyz: np.ndarray, missing: np.ndarray, distance_nm: float) -> np.ndarray:
    """Of centres nearer than the distance, keep the one whose dot is most complete."""
    keep = np.ones(len(xyz), bool)
    for first, second in sorted(cKDTree(xyz).query_pairs(distance_nm)) if len(xyz) else []:
        if keep[first] and keep[second]:
            keep[second if missing[first] <= missing[second] else first] = False
    return keep


# --- uncertainty -----------------------------------------------------------------------------


def half_set_sigmas(
    table: pd.DataFrame, even: BodyImage, odd: BodyImage, template: Template
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Standard deviation of every centre, from tomograms of the even and of the odd tilts.

    Parameters
    ----------
    table
        Centres with ``x_nm, y_nm, z_nm, at_edge``.
    even, odd
        The tomograms of bodies of the two halves of the tilts.
    template
        The mean dot.

    Returns
    -------
    sigmas
        DataFrame with ``sigma_x_nm, sigma_y_nm, sigma_z_nm``, a row a dot.
    differences
        DataFrame with ``dx_nm, dy_nm, dz_nm``: even minus odd, after one rigid motion between the
        two halves is taken off (the halves are aligned separately).

    Notes
    -----
    Noise model: along each axis one standard deviation for whole dots and one for cut dots,
    pooled over all of them by the median absolute difference; the mean of two halves has half the
    standard deviation of their difference. What both halves share (a neighbour that pulls) is
    not in it.
    """
    start = table[["x_nm", "y_nm", "z_nm"]].to_numpy(float)
    ends = [refine_centres(half, start, template) for half in (even, odd)]
    rotation, shift = rigid_motion(ends[1], ends[0])
    difference = ends[0] - (ends[1] @ rotation.T + shift)
    edge = table["at_edge"].to_numpy(bool)
    sigma = np.full(start.shape, np.nan)
    for group in (edge, ~edge):
        # Too few of one kind say nothing: they share the value of all.
        pool = difference[group] if group.sum() >= 10 else difference
        if group.any() and len(pool) >= 3:
            sigma[group] = 1.4826 * np.median(np.abs(pool), axis=0) / 2
    return (
        pd.DataFrame(sigma, columns=["sigma_x_nm", "sigma_y_nm", "sigma_z_nm"]),
        pd.DataFrame(difference, columns=["dx_nm", "dy_nm", "dz_nm"]),
    )


def rigid_motion(source, target) -> tuple[np.ndarray, np.ndarray]:
    """Rotation (3, 3) and shift (3,) that carry (N, 3) points onto others, outliers set aside."""
    source, target = np.asarray(source, float), np.asarray(target, float)
    keep = np.ones(len(source), bool)
    rotation, shift = np.eye(3), np.zeros(3)
    for _ in range(3):
        if keep.sum() < 4:
            break
        middle = source[keep].mean(axis=0), target[keep].mean(axis=0)
        rotation = wahba(source[keep] - middle[0], target[keep] - middle[1])
        shift = middle[1] - rotation @ middle[0]
        left = np.linalg.norm(target - source @ rotation.T - shift, axis=1)
        keep = left <= 3 * np.median(left) + 1e-12
    return rotation, shift
