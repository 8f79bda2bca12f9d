"""The fits of a centre: where a dot is its own mirror image, or where the mean dot lies over what is left of it.

The dots are shared out in small groups. Which fit a dot needs, :mod:`~mesotomo_utils.mapping.centres` decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mesotomo_utils.distribute import map_items
from mesotomo_utils.mapping.inversion import BARE_MARGIN_DIAMETERS, Inversion
from mesotomo_utils.mapping.necks import edge_width
from mesotomo_utils.mapping.overlay import Overlay
from mesotomo_utils.mapping.sampling import coarsen
from mesotomo_utils.mapping.template import BodyImage, Template, mean_dot

#: Scales of the robust fit of a centre, in body contrasts, from the first step to the last.
INVERSION_SCALES = (0.12, 0.08, 0.06, 0.06, 0.06)
#: The same once the necks are left out: with nothing to pull, the whole facets count.
BESIDE_NECKS_SCALES = (0.1, 0.1, 0.1)
#: At last the scale is this multiple of what the facets of the sample's dots differ from their mirror images
#: (:func:`last_fit_beside_necks`), within bounds: what a lopsided dot has on one side only, an island on a facet or a
#: corner, is no outlier where most dots have such, and its centre of mass is meant.
LAST_SCALE_SHARE = 4.0
LAST_SCALES = (0.15, 0.5)
#: Above the least scale the flanks of the necks count as well, and are taken off: this part at the largest, less at
#: smaller scales, whose weights take more of them out themselves, and none at the second number.
LARGEST_FLANK_SHARE, FLANKLESS_SCALE = 0.72, 0.05
#: And the fit goes on for so many steps: what is seen of a lopsided dot beside its necks leads it slowly.
LOOSE_STEPS = 8
#: From there, scales that let the one side count hardly and wholly: a lopsided dot has its centre elsewhere for each.
TIGHT_SCALES, LOOSE_SCALES = (0.1,) * 3, (0.3, 1.0, 1.0)
#: Where a dot is not its own mirror image, voxels up to this far from it lose their weight too: the blurred flank of
#: a neck is too faint to stand out itself and pulls all the more.
FLANK_DIAMETERS = 0.05
#: The fit is tried again from points this far off along x, y, z, since a thick neck holds it in a second optimum.
RESTART_DIAMETERS = (0.05, 0.02, 0.02, 0.02, 0.02)
#: After the second round, only where the last one led farther than this.
RESTART_GAIN_DIAMETERS = 0.004
#: Scales of the fit of the mean dot, in body contrasts, from the first step to the last.
OVERLAY_SCALES = (0.4, 0.3, 0.2, 0.15, 0.15, 0.15)
#: A fit that leads farther than this has left its dot.
LOST_DIAMETERS = 1 / 3
#: A first, coarse fit starts from the pick and from six points this far from it.
START_DIAMETERS = 0.13
#: Dots at a time.
_CHUNK = {"cpu": 32, "cuda": 256}
#: Of a cut dot, the part farther out than this from its centre is left out of the fit.
OUTER_DIAMETERS = 0.2
#: So many whole dots at least tell how far off the mean dot lies on cut ones.
LEAST_AS_IF_CUT = 60


def refine_centres(
    image: BodyImage,
    xyz_nm,
    template: Template,
    *,
    scales: tuple[float, ...] = INVERSION_SCALES,
    restarts: Sequence[float] = RESTART_DIAMETERS,
    dask: str | None = None,
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
    restarts
        How far from its result the fit is tried again, in dot diameters, six points a round; the end about which
        most of the facets are their own mirror image is taken. Empty where the picks are good already.
    dask
        Address of a Dask scheduler whose workers take the dots; None for threads.

    Returns
    -------
    (N, 3) centres, nm. A dot that would move by more than a third of a diameter stays where it is.

    Notes
    -----
    How, says :mod:`.inversion`. Where one side has a neck or a neighbour and the other has none, the odd part is large
    and the weight (Geman-McClure) vanishes, and with it that of the voxels around (a minimum filter). That keeps a
    thin neck from pulling. One nearly as thick as its facet leaves a second optimum, in which dot and neck are one
    body; :func:`centres_beside_necks` makes an end of most of these.
    """
    start = np.asarray(xyz_nm, float).reshape(-1, 3)
    inversion = _sharp_inversion(image, template)
    around = image.diameter_nm * np.vstack([np.eye(3), -np.eye(3)])

    def refine(first: np.ndarray) -> np.ndarray:
        at = inversion.follow(first, scales)
        support, left = inversion.support(at, scales[-1]), np.arange(len(at))
        for number, distance in enumerate(restarts, start=1):
            ends = [inversion.follow(at[left] + distance * offset, scales[-2:]) for offset in around]
            tried = np.stack([support[left]] + [inversion.support(end, scales[-1]) for end in ends])
            best, rows = tried.argmax(axis=0), np.arange(len(left))
            end = np.stack([at[left], *ends])[best, rows]
            far = np.linalg.norm(end - at[left], axis=1) > RESTART_GAIN_DIAMETERS * image.diameter_nm
            at[left], support[left] = end, tried[best, rows]
            if number > 1:
                left = left[far]
            if not left.size:
                break
        return inversion.follow(at, scales[-1:]) if restarts else at

    return _unless_lost(in_chunks(refine, start, image=image, dask=dask), start, image)


def centres_beside_necks(
    image: BodyImage,
    xyz_nm,
    template: Template,
    necks: pd.DataFrame,
    *,
    last: LastFit | None = None,
    of=slice(None),
    dask: str | None = None,
) -> np.ndarray:
    """Centre of inversion of each dot with nothing in a neck or beyond the needle's edge, nor opposite, looked at.

    Parameters
    ----------
    image, xyz_nm, template, dask
        As for :func:`refine_centres`; the centres that it found.
    necks
        ``qd_1, qd_2`` (rows of ``xyz_nm``), ``diameter_nm`` and ``away``, from :func:`.necks.near_necks`.
    last
        Of :func:`last_fit_beside_necks`: where dots are lopsided, how the fit ends.
    of
        Rows of dots, by default all: the others stay where they are.

    Returns
    -------
    As there.
    """
    start = np.asarray(xyz_nm, float).reshape(-1, 3)
    inversion = _sharp_inversion(image, template)

    def refine(first: np.ndarray, joints: np.ndarray) -> np.ndarray:
        clear = inversion.beside(joints, first)
        at = inversion.follow(first, BESIDE_NECKS_SCALES, clear)
        if last is None:
            return inversion.follow(at, LAST_SCALES[:1] * len(BESIDE_NECKS_SCALES), clear)
        bare, flanks = inversion.beside(joints, at, BARE_MARGIN_DIAMETERS), inversion.flanks(joints, last.edge_nm)
        return inversion.follow(at, (last.scale,) * LOOSE_STEPS, bare, last.flank_share * flanks)

    found = start.copy()
    found[of] = _with_necks(refine, start, necks, of, image=image, dask=dask)
    return _unless_lost(found, start, image)


@dataclass(frozen=True)
class LastFit:
    """How the fit ends where dots are lopsided.

    Attributes
    ----------
    scale
        Of the robust fit, body contrasts.
    edge_nm
        Blur of a neck's edge, nm.
    unevenness
        How far facets are from being their own mirror images, the median over the dots, body contrasts.
    """

    scale: float
    edge_nm: float
    unevenness: float

    @property
    def flank_share(self) -> float:
        """Part of the flanks of necks of the usual length that is taken off (:data:`.inversion.FLANK_GROWTH`)."""
        return LARGEST_FLANK_SHARE * (self.scale - FLANKLESS_SCALE) / (LAST_SCALES[1] - FLANKLESS_SCALE)

    @property
    def lopsidedness(self) -> float:
        """From 0 for dots as even as need not be told to 1 for the largest scale."""
        least, most = LAST_SCALES
        return (self.scale - least) / (most - least)


def last_fit_beside_necks(
    image: BodyImage, xyz_nm, template: Template, necks: pd.DataFrame, *, of=slice(None), dask: str | None = None
) -> LastFit | None:
    """How :func:`centres_beside_necks` should end, from the dots themselves.

    Parameters are those of that function, the centres those that it found with nothing said of that.

    Returns
    -------
    The scale is how far the dots' facets are from being their own mirror images, the median over the dots, times
    :data:`LAST_SCALE_SHARE`, at most the larger of :data:`LAST_SCALES`. None where it is below the least of these, or
    there is no dot: the fit ends with that one then.
    """

    def measure(inversion: Inversion, points: np.ndarray, beside: np.ndarray) -> np.ndarray:
        return inversion.unevenness(points, beside)

    uneven = _inverted(measure, image, xyz_nm, template, necks, of, dask=dask)
    usual = float(np.median(uneven)) if len(uneven) else 0.0
    scale = LAST_SCALE_SHARE * usual
    if scale <= LAST_SCALES[0]:
        return None
    return LastFit(min(scale, LAST_SCALES[1]), edge_width(image, xyz_nm, necks, dask=dask), usual)


def lopsided_beside_necks(
    image: BodyImage, xyz_nm, template: Template, necks: pd.DataFrame, *, of=slice(None), dask: str | None = None
) -> np.ndarray:
    """How far a dot's centre moves when what it has on one side only counts wholly and no longer hardly.

    Parameters are those of :func:`centres_beside_necks`, the centres those that it found.

    Returns
    -------
    (N, 3) nm along x, y, z; only the rows of ``of``. Nothing for a dot that is its own mirror image.
    """

    def measure(inversion: Inversion, points: np.ndarray, beside: np.ndarray) -> np.ndarray:
        tight, loose = (inversion.follow(points, scales, beside) for scales in (TIGHT_SCALES, LOOSE_SCALES))
        return loose - tight

    return _inverted(measure, image, xyz_nm, template, necks, of, dask=dask)


def vagueness_beside_necks(
    image: BodyImage, xyz_nm, template: Template, necks: pd.DataFrame, *, of=slice(None), dask: str | None = None
) -> np.ndarray:
    """How much less a dot tells of its centre than one without necks and neighbours would.

    Parameters are those of :func:`centres_beside_necks`, the centres those that it found.

    Returns
    -------
    (N, 3) factors of the standard deviation along x, y, z (:meth:`.Inversion.vagueness`); only the rows of ``of``.
    """

    def measure(inversion: Inversion, points: np.ndarray, beside: np.ndarray) -> np.ndarray:
        # the scale that the constants of σ were chosen with
        return inversion.vagueness(points, TIGHT_SCALES[-1], beside)

    return _inverted(measure, image, xyz_nm, template, necks, of, dask=dask)


def rough_centres(image: BodyImage, xyz_nm, *, dask: str | None = None) -> np.ndarray:
    """Best of seven coarse fits of each centre of inversion, started around its pick.

    A pick can lie up to a nanometre off where necks are thick on one side, too far for
    :func:`refine_centres`, which is as sharp as the facets are. Parameters and return as there, the mean dot is that of
    the picks.
    """
    start = np.asarray(xyz_nm, float).reshape(-1, 3)
    diameter = image.diameter_nm
    values = coarsen(
        image.values, image.step_nm, step_nm=0.08 * diameter, sigma_nm=0.045 * diameter, device=image.device
    )
    coarse = BodyImage(values, 0.08 * diameter, diameter, image.background, image.contrast, image.device)
    inversion = Inversion(coarse, mean_dot(coarse, start[: max(1, len(start) // 2)]))
    offsets = START_DIAMETERS * diameter * np.vstack([np.zeros(3), np.eye(3), -np.eye(3)])

    def refine(first: np.ndarray) -> np.ndarray:
        ends, costs = [], []
        for offset in offsets:
            at = inversion.follow(first + offset, (0.2, 0.12, 0.08, 0.08))
            ends.append(at)
            costs.append(inversion.asymmetry(at, 0.08))
        costs = np.array(costs)
        costs[np.linalg.norm(np.array(ends) - first, axis=2) > LOST_DIAMETERS * diameter] = np.inf
        best = costs.argmin(axis=0)
        chosen = np.array(ends)[best, np.arange(len(first))]
        return np.where(np.isfinite(costs.min(axis=0))[:, None], chosen, first)

    return in_chunks(refine, start, image=image, dask=dask)


def beyond_edge(image: BodyImage, xyz_nm, template: Template) -> np.ndarray | None:
    """Fraction of the mean dot that lies beyond the needle's edge, laid over each dot.

    Parameters are those of :func:`refine_centres`.

    Returns
    -------
    (N,) fractions between 0 and 1; None where the bodies show no edge.
    """
    if image.edge is None:
        return None
    inversion = _sharp_inversion(image, template)
    return in_chunks(inversion.beyond_edge, np.asarray(xyz_nm, float).reshape(-1, 3), image=image, dask=None)


def recentre_cut(
    image: BodyImage, xyz_nm, mean: Template, necks: pd.DataFrame, axis_xy_nm, *, of, dask: str | None = None
) -> np.ndarray:
    """Centres that dots had before the needle's edge cut them.

    Parameters
    ----------
    image, xyz_nm, necks, dask
        As for :func:`centres_beside_necks`; of a cut dot the centre of what is left.
    mean
        The mean of the whole dots.
    axis_xy_nm
        (2,) where the needle's axis meets the xy plane, nm: away from it is outwards.
    of
        Rows of the cut dots; the others stay where they are.

    Returns
    -------
    (N, 3) centres, nm.

    Notes
    -----
    The mean dot is laid over the inner side of the cut one, its necks left out, by robust least squares, from four
    starts outwards; the best fit is taken.
    """
    found = np.array(xyz_nm, float).reshape(-1, 3)
    found[of] = _laid_inside(image, found, mean, necks, axis_xy_nm, of, of, dask=dask)
    return found


def missed_as_if_cut(
    image: BodyImage, xyz_nm, mean: Template, necks: pd.DataFrame, axis_xy_nm, *, whole, cut, dask: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """How far :func:`recentre_cut` would miss the centres of whole dots, were they cut as others are.

    Parameters
    ----------
    image, xyz_nm, mean, necks, axis_xy_nm, dask
        As there.
    whole, cut
        Rows of whole dots, and of cut ones.

    Returns
    -------
    missed
        (n, 3) nm, along x, y, z, of at least :data:`LEAST_AS_IF_CUT` whole dots from all over the sample.
    like
        (n,) the row of the cut dot that each was taken to be cut like, every one of them at least once: as much is
        left out as the needle's edge hides of that one.
    """
    xyz, whole, cut = np.asarray(xyz_nm, float).reshape(-1, 3), np.asarray(whole), np.asarray(cut)
    like = np.resize(cut, max(len(cut), LEAST_AS_IF_CUT))
    of = whole[np.linspace(0, len(whole) - 1, len(like)).round().astype(int)]
    return _laid_inside(image, xyz, mean, necks, axis_xy_nm, of, like, dask=dask) - xyz[of], like


def _laid_inside(
    image: BodyImage, xyz: np.ndarray, mean: Template, necks: pd.DataFrame, axis_xy_nm, of, like, *, dask: str | None
) -> np.ndarray:
    """Where the mean dot lies over the inner side of dots, all left out that the edge hides of a dot like each."""
    overlay = Overlay(image, mean)

    def lay(first: np.ndarray, joints: np.ndarray, moved: np.ndarray) -> np.ndarray:
        outwards = (first + moved) * [1, 1, 0] - [*axis_xy_nm, 0]
        outwards /= np.maximum(np.linalg.norm(outwards, axis=1, keepdims=True), 1e-9)
        within = overlay.within(outwards, OUTER_DIAMETERS * image.diameter_nm)

        def clear(at: np.ndarray) -> np.ndarray:
            return within * overlay.beside(joints, at + moved)

        starts = [first + distance * image.diameter_nm * outwards for distance in (0.0, 0.1, 0.2, 0.3)]
        ends = np.array([overlay.follow(at, OVERLAY_SCALES, clear(at)) for at in starts])
        left = [overlay.misfit(end, OVERLAY_SCALES[-1], clear(end)) for end in ends]
        return ends[np.argmin(left, axis=0), np.arange(len(first))]

    return _with_necks(lay, xyz, necks, of, xyz[like] - xyz[of], image=image, dask=dask)


def mean_dot_beside_necks(
    image: BodyImage, xyz_nm, mean: Template, necks: pd.DataFrame, *, dask: str | None = None
) -> np.ndarray:
    """Where the mean dot lies over each dot, its necks left out.

    Parameters
    ----------
    image, xyz_nm, necks, dask
        As for :func:`centres_beside_necks`.
    mean
        The mean of the whole dots, from their centres.

    Returns
    -------
    (N, 3) points, nm; the given one where the fit left the dot.
    """
    start = np.asarray(xyz_nm, float).reshape(-1, 3)
    overlay = Overlay(image, mean)

    def lay(first: np.ndarray, joints: np.ndarray) -> np.ndarray:
        return overlay.follow(first, OVERLAY_SCALES, overlay.beside(joints, first))

    return _unless_lost(_with_necks(lay, start, necks, image=image, dask=dask), start, image)


def _sharp_inversion(image: BodyImage, template: Template) -> Inversion:
    return Inversion(image, template, flank=max(1, round(FLANK_DIAMETERS * image.diameter_nm / image.step_nm)))


def _inverted(function, image: BodyImage, xyz_nm, template: Template, necks: pd.DataFrame, of, *, dask: str | None):
    """A function of the sharp inversion, points and weights beside their necks, applied to some rows of the dots."""
    inversion = _sharp_inversion(image, template)

    def one(points: np.ndarray, joints: np.ndarray) -> np.ndarray:
        return function(inversion, points, inversion.beside(joints, points))

    return _with_necks(one, np.asarray(xyz_nm, float).reshape(-1, 3), necks, of, image=image, dask=dask)


def _unless_lost(found: np.ndarray, start: np.ndarray, image: BodyImage) -> np.ndarray:
    """What was found, but the start where that is farther than :data:`LOST_DIAMETERS` away."""
    lost = np.linalg.norm(found - start, axis=1) > LOST_DIAMETERS * image.diameter_nm
    return np.where(lost[:, None], start, found)


def _with_necks(
    function, xyz: np.ndarray, necks: pd.DataFrame, of=slice(None), *others, image: BodyImage, dask: str | None
) -> np.ndarray:
    """A function of points, their necks and more of each, applied to some rows of the dots by :func:`in_chunks`."""
    _ = image.edge  # looked for once, as the sampler is
    return in_chunks(function, xyz[of], _necks_of_dots(necks, xyz)[of], *others, image=image, dask=dask)


def _necks_of_dots(necks: pd.DataFrame, xyz: np.ndarray) -> np.ndarray:
    """(N, k, 5) unit vectors to the neighbours of each dot, radii of the necks and distances of these neighbours, nm;
    zeros where it has fewer than k.
    """
    joined = necks[necks["diameter_nm"] > 0]
    if not len(joined):
        return np.zeros((len(xyz), 0, 5))
    ends, away = joined[["qd_1", "qd_2"]].to_numpy(int), joined["away"].to_numpy(bool)
    along = xyz[ends[:, 1]] - xyz[ends[:, 0]]
    distance = np.linalg.norm(along, axis=1, keepdims=True)
    joints = np.hstack([along / distance, joined[["diameter_nm"]] / 2, distance])
    back, turned = joints * [-1, -1, -1, 1, 1], away[:, None]
    dots = np.concatenate([ends[:, 0], ends[~away, 1]])
    place = pd.Series(dots).groupby(dots).cumcount().to_numpy()
    found = np.zeros((len(xyz), place.max() + 1, 5))
    found[dots, place] = np.vstack([np.where(turned, back, joints), back[~away]])
    return found


def in_chunks(function, points: np.ndarray, *others: np.ndarray, image: BodyImage, dask: str | None) -> np.ndarray:
    """Apply a function of points to groups of them, small ones on all cores or on a cluster, larger ones on a GPU.

    Parameters
    ----------
    function
        Of (n, 3) points and n rows of each of the others; gives n rows.
    points
        (N, 3) points, nm.
    others
        Arrays of N rows.
    image
        What the function looks at: its device says how many points go together.
    dask
        As in :func:`refine_centres`.

    Returns
    -------
    N rows; the points as they are where there is none.
    """
    if len(points) == 0:
        return points.copy()
    _ = image.sampler  # made once, before the threads or the workers ask for it
    n_chunks = int(np.ceil(len(points) / _CHUNK[image.device]))
    chunks = list(zip(*(np.array_split(array, n_chunks) for array in (points, *others)), strict=True))
    workers = 1 if image.device == "cuda" else None
    return np.concatenate(map_items(lambda chunk: function(*chunk), chunks, workers=workers, dask=dask))
