"""The picture of whole dots, and the mean dot that is cut from it.

The mapping looks at a tomogram from which the atomic lattice is filtered away, with grey levels of
0 in the matrix and 1 in the dots. The template is averaged over picks of the tomogram itself and
refined with its own picks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
from scipy import fft as sfft
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.filters import threshold_otsu

from mesotomo_utils.backend import cpu_count, fft_module, get_array_module, resolve_device, to_device, to_numpy
from mesotomo_utils.distribute import map_items
from mesotomo_utils.mapping.needle_edge import NeedleEdge, find_needle_edge
from mesotomo_utils.mapping.sampling import Sampler, coarsen, offsets_nm, to_nm

#: Voxels that a dot must be wide to be told from its neighbours.
FEWEST_VOXELS = 4
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
#: Voxels that are transformed at a time, without what overlaps: 0.4 GB of transforms.
_SLAB_VOXELS = 50_000_000
#: Dots whose boxes are averaged at a time.
_PATCHES = 32
#: Where the image is flatter than this variance, in contrasts squared, noise would get a score.
FLAT = 0.05
#: A pick below this fraction of the median score is no dot.
SCORE_FRACTION = 0.5


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
    device
        ``"cpu"`` or ``"cuda"``: where it is correlated and read.
    """

    values: np.ndarray
    step_nm: float
    diameter_nm: float
    background: float
    contrast: float
    device: str = "cpu"
    # of these values: an image with others begins without
    _sampler: Sampler | None = field(default=None, init=False, repr=False)
    _edge: tuple[NeedleEdge | None] | None = field(default=None, init=False, repr=False)
    _correlator: _Correlator | None = field(default=None, init=False, repr=False)

    def __getstate__(self) -> dict[str, object]:
        # a worker elsewhere reads patches; the transforms of the correlation are several times as large
        return {**self.__dict__, "_correlator": None}

    @property
    def sampler(self) -> Sampler:
        """Cubic-spline interpolation of ``values``, made when first asked for."""
        if self._sampler is None:
            self._sampler = Sampler(self.values, self.step_nm, device=self.device)
        return self._sampler

    @property
    def edge(self) -> NeedleEdge | None:
        """The surface of the needle, if the bodies show one, looked for when first asked for."""
        if self._edge is None:
            self._edge = (find_needle_edge(self.values, self.step_nm, self.diameter_nm),)
        return self._edge[0]

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

    @property
    def edge_nm(self) -> float:
        """Edge of the cube that what is in the body would fill, nm: blur hardly changes it."""
        return float(((self.body * self.values.clip(0, 1)).sum() * self.step_nm**3) ** (1 / 3))

    @property
    def facet_width_nm(self) -> float:
        """How far the blurred facets reach: the body's contrast over the steepest slope, nm; √(2π) times the standard
        deviation of a Gaussian blur. One slope in a thousand may be steeper, by noise.
        """
        slope = np.linalg.norm(np.gradient(self.values, self.step_nm), axis=0)
        return float(1 / np.quantile(slope, 0.999))


def body_image(
    volume, voxel_nm: float, *, diameter_nm: float, device: str = "cpu", dask: str | None = None
) -> BodyImage:
    """Filter the atomic lattice away and bring matrix and bodies to 0 and 1.

    Parameters
    ----------
    volume
        (nz, ny, nx) tomogram, NumPy or Zarr (read in slabs).
    voxel_nm
        Edge of its voxels, nm.
    diameter_nm
        Nominal diameter of the dots, nm.
    device
        ``"cpu"``, ``"cuda"`` or ``"auto"``: where it is filtered, and later correlated and read.
    dask
        Address of a Dask scheduler whose workers read and filter it, as in :func:`.sampling.coarsen`.

    Returns
    -------
    The image, with voxels of a twentieth of the diameter.

    Raises
    ------
    ValueError
        The diameter is not positive or under four voxels; the volume holds a value that is not
        finite, or one value only.
    """
    if not diameter_nm > 0 or diameter_nm < FEWEST_VOXELS * voxel_nm:
        raise ValueError(
            f"diameter_nm: expected at least {FEWEST_VOXELS} voxels of {voxel_nm} nm, found {diameter_nm}; "
            "correct quantum_dot.diameter_nm or the voxel size in the sample file"
        )
    step = max(STEP_DIAMETERS * diameter_nm, voxel_nm)
    where = resolve_device(device)
    values = coarsen(volume, voxel_nm, step_nm=step, sigma_nm=SIGMA_DIAMETERS * diameter_nm, device=where, dask=dask)
    if not np.isfinite(values).all():
        raise ValueError("volume: values that are not finite; reconstruct the tomogram again")
    if np.ptp(values) == 0:
        raise ValueError(f"volume: every voxel is {values.flat[0]}; there is nothing to find")
    return levelled(values, step, diameter_nm=diameter_nm, device=where)


def levelled(values: np.ndarray, step_nm: float, *, diameter_nm: float, device: str = "cpu") -> BodyImage:
    """The picture of whole dots from grey levels without an atomic lattice, which are overwritten."""
    background, contrast = _levels(values)
    values -= np.float32(background)
    values /= np.float32(contrast)
    return BodyImage(values, step_nm, float(diameter_nm), background, contrast, device)


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
    if image._correlator is None:
        image._correlator = _Correlator(to_device(image.values, image.device))
    mask = template.weights
    deviation = template.values - (mask * template.values).sum() / mask.sum()
    centred = mask * deviation
    norm = np.sqrt((centred * deviation).sum())
    return to_numpy(image._correlator.with_kernel(centred) / (norm * image._correlator.contrast(mask)))


class _Correlator:
    """Correlations of one image with one kernel after another, slab by slab where the image is large.

    The transform of an image of one slab is taken once, and what stands under a mask once as long as the mask is the
    same: the rounds of :func:`learn_template` change the template and not its mask.
    """

    def __init__(self, values: np.ndarray) -> None:
        self._values = values
        self._spectra: dict[tuple[int, ...], np.ndarray] = {}
        self._mask = np.zeros(0, np.float32)
        self._contrast = np.zeros(0, np.float32)

    def with_kernel(self, kernel: np.ndarray) -> np.ndarray:
        """Sum of the image times the kernel (odd edges) about every voxel, float32."""
        return self._correlation(kernel, square=False)

    def contrast(self, mask: np.ndarray) -> np.ndarray:
        """Root of the sum of squared deviations of the image under a mask about every voxel, float32."""
        if not np.array_equal(mask, self._mask):
            total = np.float32(mask.sum())
            variance = self._correlation(mask, square=True) - self._correlation(mask, square=False) ** 2 / total
            xp = get_array_module(variance)
            self._mask, self._contrast = mask, xp.sqrt(xp.maximum(variance, 0) + np.float32(FLAT) * total)
        return self._contrast

    def _correlation(self, kernel: np.ndarray, *, square: bool) -> np.ndarray:
        n, half = len(self._values), [edge // 2 for edge in kernel.shape]
        rows = max(1, int(_SLAB_VOXELS // self._values[0].size))
        xp = get_array_module(self._values)
        out = xp.empty_like(self._values)
        for first in range(0, n, rows):
            last = min(first + rows, n)
            low, high = max(first - half[0], 0), min(last + half[0], n)
            slab = self._values[low:high]
            shape = [sfft.next_fast_len(m + k - 1, real=True) for m, k in zip(slab.shape, kernel.shape, strict=True)]
            if square or rows < n:
                spectrum = _transform(slab**2 if square else slab, shape)
            else:
                if tuple(shape) not in self._spectra:
                    self._spectra = {tuple(shape): _transform(slab, shape)}
                spectrum = self._spectra[tuple(shape)]
            product = spectrum * xp.conj(_transform(xp.asarray(kernel.astype(np.float32)), shape))
            full = fft_module(xp).irfftn(product, shape, overwrite_x=True, **_threads(xp))
            full = xp.roll(full, half, axis=(0, 1, 2))
            out[first:last] = full[first - low : last - low, : slab.shape[1], : slab.shape[2]]
        return out


def _transform(values: np.ndarray, shape: list[int]) -> np.ndarray:
    xp = get_array_module(values)
    return fft_module(xp).rfftn(values, shape, **_threads(xp))


def _threads(xp: ModuleType) -> dict[str, int]:
    """SciPy's transforms are told how many threads to take, those of a GPU are not."""
    return {"workers": cpu_count()} if xp is np else {}


def _ball(image: BodyImage) -> Template:
    """First guess of a dot: a ball of the volume of a cube of the nominal edge, and a shell."""
    radius = np.linalg.norm(offsets_nm(image.half_box, image.step_nm), axis=-1)
    ball = 0.6 * image.diameter_nm
    soft = SIGMA_DIAMETERS * image.diameter_nm * 2
    values = 1 / (1 + np.exp(np.clip((radius - ball) / soft * 2, -50, 50)))
    weights = (radius < BOX_DIAMETERS * image.diameter_nm).astype(np.float32)
    return Template(values.astype(np.float32), weights, weights, image.step_nm)


def peaks(scores: np.ndarray, image: BodyImage, lowest: float) -> tuple[np.ndarray, np.ndarray]:
    """Maxima of the correlation, best first, none nearer to a better one than a dot allows."""
    index = _maxima(scores, lowest)
    score = scores[tuple(index.T)]
    order = np.argsort(-score, kind="stable")
    index, score = index[order], score[order]
    xyz = to_nm(index + _parabola(scores, index), scores.shape, image.step_nm)
    keep = apart(xyz, -score, SAME_DOT_DIAMETERS * image.diameter_nm)
    return xyz[keep], score[keep]


def apart(xyz_nm: np.ndarray, badness: np.ndarray, distance_nm: float) -> np.ndarray:
    """Which centres are kept where some are too near to each other: from the best on, each that is near none kept.

    Parameters
    ----------
    xyz_nm
        (N, 3) centres.
    badness
        (N,) what tells the better from the worse, the less the better.
    distance_nm
        Least distance of two that are kept.

    Returns
    -------
    (N,) bool.

    Examples
    --------
    >>> apart(np.array([[0.0, 0, 0], [3, 0, 0], [6, 0, 0]]), np.array([0.0, 0.1, 0.2]), 4.0).tolist()
    [True, False, True]
    """
    keep = np.ones(len(xyz_nm), bool)
    if len(xyz_nm):
        near = cKDTree(xyz_nm).query_ball_point(xyz_nm, distance_nm)
        for n in np.argsort(badness, kind="stable"):
            if keep[n]:
                keep[[other for other in near[n] if other != n]] = False
    return keep


def _maxima(scores: np.ndarray, lowest: float) -> np.ndarray:
    """(N, 3) voxels above `lowest` (0 or more) that none of the 124 around them exceeds."""
    inner = (slice(1, -1),) * 3
    top = scores[inner] > lowest
    for axis in range(3):  # most fail by a neighbour: the rest is few
        for start in (0, 2):
            beside = (*inner[:axis], slice(start, scores.shape[axis] - 2 + start), *inner[axis + 1 :])
            top &= scores[inner] >= scores[beside]
    index = np.argwhere(top) + 1
    around = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    near = np.clip(index + around, 0, np.asarray(scores.shape) - 1)
    return index[scores[tuple(index.T)] >= scores[tuple(near.transpose(2, 0, 1))].max(axis=0)]


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
        xyz, score = peaks(correlate(image, template), image, lowest=0.2)
        good = likely_dots(score)
        if not good.any():
            raise ValueError(
                f"no dots of about {round(image.diameter_nm, 2)} nm found in the tomogram; check "
                "quantum_dot.diameter_nm and the voxel size in the sample file"
            )
        best = score >= np.median(score[good])
        template = mean_dot(image, xyz[best])
    return template, xyz, score


def likely_dots(score: np.ndarray) -> np.ndarray:
    """Which picks are dots, by the median score of all that have half of the best one or more."""
    if score.size == 0:
        return np.zeros(0, bool)
    likely = score[score > 0.5 * score.max()]
    return score > SCORE_FRACTION * np.median(likely)


def mean_dot(image: BodyImage, xyz_nm: np.ndarray) -> Template:
    """Mean of the dots at (N, 3) centres, averaged with its inversion, and its masks."""
    read = image.sampler.patches
    parts = np.array_split(np.asarray(xyz_nm, float), max(1, -(-len(xyz_nm) // _PATCHES)))
    sums = map_items(lambda part: to_numpy(read(part, image.half_box).sum(axis=0)), parts)
    mean = np.sum(sums, axis=0) / len(xyz_nm)
    mean = (mean + mean[::-1, ::-1, ::-1]) / 2
    radius = np.linalg.norm(offsets_nm(image.half_box, image.step_nm), axis=-1)
    centre = mean[tuple(slice(n // 2 - 2, n // 2 + 3) for n in mean.shape)].mean()
    filled = (mean > centre / 2) & (radius < BOX_DIAMETERS * image.diameter_nm)
    # What a ball of a third of the diameter in radius cannot enter is a neck or a neighbour. Where the diameter is far
    # too large no such ball fits into the dot: then nearly the largest that does.
    depth = ndimage.distance_transform_edt(filled) * image.step_nm
    middle = tuple(n // 2 for n in mean.shape)
    ball = min(OPENING_DIAMETERS * image.diameter_nm, 0.9 * depth[middle])
    labels, _ = ndimage.label(depth > ball)
    core = labels == labels[middle]
    body = ndimage.distance_transform_edt(~core) * image.step_nm <= ball
    outside = ndimage.distance_transform_edt(~body) * image.step_nm
    # Full weight in the body, fading over the blurred facet: it ends before the next dot begins.
    body = np.clip(1 - (outside - image.step_nm) / (0.06 * image.diameter_nm), 0, 1)
    weights = (radius < MASK_DIAMETERS * image.diameter_nm).astype(np.float32)
    return Template(mean.astype(np.float32), weights, body.astype(np.float32), image.step_nm)
