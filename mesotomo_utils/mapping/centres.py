"""Where every quantum dot is: the centre of its body, without its necks.

The dots are picked by normalised correlation with a template that is cut from the tomogram itself
(:mod:`mesotomo_utils.mapping.template`). Each centre is then found on its own, as the point about
which the dot is its own mirror image (centre of inversion): size, shape and orientation of a dot do
not move that point. What is no part of the body, a neck or a neighbour that comes near, stands on
one side only; such voxels lose their weight, and so do those beside them. Once the necks are measured, what lies in one
loses its weight altogether, on both sides. A dot that the needle's edge has cut is no mirror image any more: the inner
side of the mean dot is fitted to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial import cKDTree

from mesotomo_utils import lattice
from mesotomo_utils.backend import to_numpy
from mesotomo_utils.distribute import map_items
from mesotomo_utils.mapping.inversion import Inversion, robust_shift
from mesotomo_utils.mapping.necks import near_necks
from mesotomo_utils.mapping.sampling import coarsen, offsets_nm, to_index
from mesotomo_utils.mapping.template import (
    SAME_DOT_DIAMETERS,
    BodyImage,
    Template,
    correlate,
    learn_template,
    likely_dots,
    mean_dot,
    peaks,
)

#: A dot on the rim with more than this fraction of its core missing is cut by the needle's edge.
MISSING_CORE = 0.015
#: With more than this missing the centre is that of the mean dot laid over what is left.
MISSING_RECENTRE = 0.04
#: With more than this missing it is not a dot that could be located.
MISSING_MOST = 0.6
#: Scales of the robust fit of a centre, in body contrasts, from the first step to the last.
INVERSION_SCALES = (0.12, 0.08, 0.06, 0.06, 0.06)
#: The same once the necks are left out: with nothing to pull, the whole facets count.
BESIDE_NECKS_SCALES = (0.1,) * 6
#: Where a dot is not its own mirror image, voxels up to this far from it lose their weight too: the blurred flank of
#: a neck is too faint to stand out itself and pulls all the more.
FLANK_DIAMETERS = 0.05
#: The fit is tried again from points this far off along x, y, z, since a thick neck holds it in a second optimum.
RESTART_DIAMETERS = (0.05, 0.02, 0.02, 0.02, 0.02)
#: After the second round, only where the last one led farther than this.
RESTART_GAIN_DIAMETERS = 0.004
#: A dot that leaving out its necks moves farther than this has them measured once more.
MOVED_DIAMETERS = 0.01
#: A first, coarse fit starts from the pick and from six points this far from it.
START_DIAMETERS = 0.13
#: What of a half-set error stays when all tilts are there, noise aside. Half as many tilts leave streaks from dot to
#: dot that the other half cancels. Calibrated on twins by benchmarks/calibrate_errors.py, as are the four below.
HALF_SET_SHARE = 0.2
#: Error that the noise of the tomogram leaves, which no other half cancels: along x, y, z, in dot diameters over the
#: noise in contrasts, as :func:`noise_contrast` measures it.
NOISE_DIAMETERS = (0.0215, 0.0215, 0.0122)
#: Error that both halves share, in dot diameters: of a centre of inversion; of a recentred dot along x, y, z.
SHARED_DIAMETERS = 0.0003
RECENTRED_DIAMETERS = (0.024, 0.024, 0.0135)
#: Dots at a time.
_CHUNK = {"cpu": 32, "cuda": 256}
#: Of a cut dot, the part farther out than this from its centre is left out of the fit.
OUTER_DIAMETERS = 0.2


# --- centres ---------------------------------------------------------------------------------


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
    body; :func:`centres_beside_necks` makes an end of it.
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

    return _unless_lost(_in_chunks(refine, start, image=image, dask=dask), start, image)


def centres_beside_necks(
    image: BodyImage, xyz_nm, template: Template, necks: pd.DataFrame, *, dask: str | None = None
) -> np.ndarray:
    """Centre of inversion of each dot with nothing in a neck, nor opposite it, looked at.

    Parameters
    ----------
    image, xyz_nm, template, dask
        As for :func:`refine_centres`; the centres that it found.
    necks
        ``qd_1, qd_2`` (rows of ``xyz_nm``) and ``diameter_nm``, from :func:`.necks.near_necks`.

    Returns
    -------
    As there.
    """
    start = np.asarray(xyz_nm, float).reshape(-1, 3)
    inversion = _sharp_inversion(image, template)

    def refine(first: np.ndarray, joints: np.ndarray) -> np.ndarray:
        return inversion.follow(first, BESIDE_NECKS_SCALES, inversion.beside(joints))

    found = _in_chunks(refine, start, _necks_of_dots(necks, start), image=image, dask=dask)
    return _unless_lost(found, start, image)


def _sharp_inversion(image: BodyImage, template: Template) -> Inversion:
    return Inversion(image, template, flank=max(1, round(FLANK_DIAMETERS * image.diameter_nm / image.step_nm)))


def _unless_lost(found: np.ndarray, start: np.ndarray, image: BodyImage) -> np.ndarray:
    """What was found, but the start where that is more than a third of a diameter away."""
    lost = np.linalg.norm(found - start, axis=1) > image.diameter_nm / 3
    return np.where(lost[:, None], start, found)


def _necks_of_dots(necks: pd.DataFrame, xyz: np.ndarray) -> np.ndarray:
    """(N, k, 4) unit vectors and radii of the necks of each dot, nm, zeros where it has fewer than k."""
    joined = necks[necks["diameter_nm"] > 0]
    if not len(joined):
        return np.zeros((len(xyz), 0, 4))
    ends = joined[["qd_1", "qd_2"]].to_numpy(int)
    dots = ends.T.ravel()
    along = xyz[ends[:, 1]] - xyz[ends[:, 0]]
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    rows = np.column_stack([np.vstack([along, -along]), np.tile(joined["diameter_nm"] / 2, 2)])
    place = pd.Series(dots).groupby(dots).cumcount().to_numpy()
    found = np.zeros((len(xyz), place.max() + 1, 4))
    found[dots, place] = rows
    return found


def rough_centres(image: BodyImage, xyz_nm, template: Template, *, dask: str | None = None) -> np.ndarray:
    """Best of seven coarse fits of each centre of inversion, started around its pick.

    A pick can lie up to a nanometre off where necks are thick on one side, too far for
    :func:`refine_centres`, which is as sharp as the facets are. Parameters and return as there.
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
        costs[np.linalg.norm(np.array(ends) - first, axis=2) > diameter / 3] = np.inf
        best = costs.argmin(axis=0)
        chosen = np.array(ends)[best, np.arange(len(first))]
        return np.where(np.isfinite(costs.min(axis=0))[:, None], chosen, first)

    return _in_chunks(refine, start, image=image, dask=dask)


def _in_chunks(function, points: np.ndarray, *others: np.ndarray, image: BodyImage, dask: str | None) -> np.ndarray:
    """Apply a function of (n, 3) points to groups of them, small ones on all cores or on a cluster, larger on a GPU.

    ``others``, as long as the points, are handed over in the same groups.
    """
    if len(points) == 0:
        return points.copy()
    _ = image.sampler  # made once, before the threads or the workers ask for it
    n_chunks = int(np.ceil(len(points) / _CHUNK[image.device]))
    chunks = list(zip(*(np.array_split(array, n_chunks) for array in (points, *others)), strict=True))
    workers = 1 if image.device == "cuda" else None
    return np.concatenate(map_items(lambda chunk: function(*chunk), chunks, workers=workers, dask=dask))


def missing_core(image: BodyImage, xyz_nm, template: Template, *, dask: str | None = None) -> np.ndarray:
    """Fraction of each dot's core that is not there: cut away by the edge of the needle.

    Parameters are those of :func:`refine_centres`.

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
        patches = to_numpy(image.sampler.patches(points, half)).reshape(len(points), -1)
        level = np.maximum(np.median(patches[:, middle], axis=1), 0.5)
        # The blurred facet of a whole dot counts as there: seven tenths of the level do.
        return (1 - np.clip(patches[:, core] / (0.7 * level[:, None]), 0, 1)).mean(axis=1)

    return _in_chunks(measure, xyz, image=image, dask=dask) if len(xyz) else np.zeros(0)


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


def recentre_cut(image: BodyImage, xyz_nm, template: Template, axis_xy_nm, *, dask: str | None = None) -> np.ndarray:
    """Centres that dots had before the needle's edge cut them.

    Parameters
    ----------
    image
        The tomogram of bodies.
    xyz_nm
        (N, 3) centres of what is left of them, nm.
    template
        The mean of the whole dots.
    axis_xy_nm
        (2,) where the needle's axis meets the xy plane, nm: away from it is outwards.
    dask
        As in :func:`refine_centres`.

    Returns
    -------
    (N, 3) centres, nm.

    Notes
    -----
    The mean dot is laid over the inner side of the cut one by robust least squares, from four starts
    outwards; the best fit is taken.
    """
    start = np.asarray(xyz_nm, float).reshape(-1, 3)
    half = template.values.shape[0] // 2
    inside = template.body.ravel() > 0
    values, body = template.values.ravel()[inside], template.body.ravel()[inside]
    gradient = np.stack(np.gradient(template.values, template.step_nm)[::-1]).reshape(3, -1)[:, inside]
    offsets = offsets_nm(half, template.step_nm).reshape(-1, 3)[inside].astype(np.float32)

    def refine(first: np.ndarray) -> np.ndarray:
        outwards = first * [1, 1, 0] - [*axis_xy_nm, 0]
        outwards /= np.maximum(np.linalg.norm(outwards, axis=1, keepdims=True), 1e-9)
        height = outwards.astype(np.float32) @ offsets.T
        limit = OUTER_DIAMETERS * image.diameter_nm
        weights = body * np.clip(0.5 - (height - limit) / (2 * template.step_nm), 0, 1)
        ends, costs = [], []
        for distance in (0.0, 0.1, 0.2, 0.3):
            at = first + distance * image.diameter_nm * outwards
            for scale in (0.4, 0.3, 0.2, 0.15, 0.15, 0.15):
                left = to_numpy(image.sampler.patches(at, half)).reshape(len(at), -1)[:, inside] - values
                step = robust_shift(left, gradient, lambda rest, scale=scale: weights / (1 + (rest / scale) ** 2) ** 2)
                at = at + np.clip(step, -0.3, 0.3)
            left = to_numpy(image.sampler.patches(at, half)).reshape(len(at), -1)[:, inside] - values
            square = (left / 0.15) ** 2
            ends.append(at)
            costs.append((weights * square / (1 + square)).sum(axis=1) / weights.sum(axis=1))
        best = np.argmin(costs, axis=0)
        return np.array(ends)[best, np.arange(len(first))]

    return _in_chunks(refine, start, image=image, dask=dask)


def find_centres(
    image: BodyImage, *, template: Template | None = None, dask: str | None = None
) -> tuple[pd.DataFrame, Template]:
    """Find every dot of a tomogram and the centre of its body.

    Parameters
    ----------
    image
        The tomogram of bodies, from :func:`body_image`.
    template
        The mean dot; learned from the tomogram where None.
    dask
        Address of a Dask scheduler whose workers fit the centres; None for threads. Template and correlation, a few
        transforms of the whole picture, are made here.

    Returns
    -------
    DataFrame with ``x_nm, y_nm, z_nm``, ``score`` (normalised correlation, 1 = the template),
    ``missing`` (fraction of the core that is not there), ``at_edge`` (cut by the needle's edge) and
    ``recentred`` (cut so far that the mean dot was laid over what is left), ordered by z, y, x; and
    the template.

    Raises
    ------
    ValueError
        Nothing in the tomogram looks like a dot of that size.
    """
    if template is None:
        template, xyz, score = learn_template(image)
    else:
        xyz, score = peaks(correlate(image, template), image, lowest=0.2)
    good = likely_dots(score)
    xyz, score = rough_centres(image, xyz[good], template, dask=dask), score[good]
    xyz = refine_centres(image, xyz, template, dask=dask)
    missing = missing_core(image, xyz, template, dask=dask)
    keep = _distinct(xyz, missing, SAME_DOT_DIAMETERS * image.diameter_nm) & (missing < MISSING_MOST)
    xyz, score = xyz[keep], score[keep]
    with_necks, xyz = xyz, _clear_of_necks(image, xyz, template, dask=dask)
    missing = missing_core(image, xyz, template, dask=dask)
    rim = on_rim(xyz, image.diameter_nm)
    cut = rim & (missing > MISSING_RECENTRE)
    xyz[cut] = with_necks[cut]  # too little is left of a cut dot to do without what a neck hides
    table = pd.DataFrame({"score": score, "at_edge": rim & (missing > MISSING_CORE), "recentred": cut})
    if cut.any() and not cut.all():
        sharp = mean_dot(image, xyz[~rim] if (~rim).sum() >= 5 else xyz[~cut])
        axis = np.median(xyz[:, :2], axis=0)
        xyz[cut] = recentre_cut(image, xyz[cut], sharp, axis, dask=dask)
        missing = missing_core(image, xyz, template, dask=dask)
    table["missing"] = missing
    table[["x_nm", "y_nm", "z_nm"]] = xyz
    columns = ["x_nm", "y_nm", "z_nm", "score", "missing", "at_edge", "recentred"]
    table = table[columns].sort_values(["z_nm", "y_nm", "x_nm"], kind="stable")
    return table.reset_index(drop=True), template


def _clear_of_necks(image: BodyImage, xyz: np.ndarray, template: Template, *, dask: str | None) -> np.ndarray:
    """Centres found again with the necks left out; and once more where one came from far, its necks with it."""
    necks = near_necks(image, xyz, dask=dask)
    clear = centres_beside_necks(image, xyz, template, necks, dask=dask)
    far = np.linalg.norm(clear - xyz, axis=1) > MOVED_DIAMETERS * image.diameter_nm
    if not far.any():
        return clear
    others = necks[~far[necks["qd_1"]] & ~far[necks["qd_2"]]]
    again = near_necks(image, clear, of=np.flatnonzero(far), dask=dask)
    return centres_beside_necks(image, clear, template, pd.concat([others, again]), dask=dask)


def _distinct(xyz: np.ndarray, missing: np.ndarray, distance_nm: float) -> np.ndarray:
    """Of centres nearer than the distance, keep the one whose dot is most complete."""
    keep = np.ones(len(xyz), bool)
    for first, second in sorted(cKDTree(xyz).query_pairs(distance_nm)) if len(xyz) else []:
        if keep[first] and keep[second]:
            keep[second if missing[first] <= missing[second] else first] = False
    return keep


# --- uncertainty -----------------------------------------------------------------------------


def half_set_sigmas(
    table: pd.DataFrame, even: BodyImage, odd: BodyImage, template: Template, *, dask: str | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Standard deviation of every centre, from tomograms of the even and of the odd tilts.

    Parameters
    ----------
    table
        Centres from :func:`find_centres`.
    even, odd
        The tomograms of bodies of the two halves of the tilts.
    template
        The mean dot.
    dask
        As in :func:`refine_centres`.

    Returns
    -------
    sigmas
        DataFrame with ``sigma_x_nm, sigma_y_nm, sigma_z_nm``, a row a dot.
    differences
        DataFrame with ``dx_nm, dy_nm, dz_nm``: even minus odd, after one rigid motion between the
        two halves is taken off (the halves are aligned separately).

    Notes
    -----
    Noise model: along each axis one standard deviation for whole dots and one for recentred dots,
    pooled over all of them by the median absolute difference; the mean of two halves has half the
    standard deviation of their difference, of which :data:`HALF_SET_SHARE` is an error of the whole: that holds for
    streaks of missing tilts. What the noise of the whole leaves in whole dots is added (:data:`NOISE_DIAMETERS`), its
    strength read off the difference of the halves around the dots (:func:`noise_contrast`). What both halves share (the
    size of a cut dot, a neighbour that pulls) does not show in the difference; it is added as measured on twins. For a
    wedge of missing tilts see :func:`mesotomo_utils.mapping.missing_wedge.wedge_sigmas`.
    """
    start = table[["x_nm", "y_nm", "z_nm"]].to_numpy(float)
    cut = table["recentred"].to_numpy(bool)
    axis = np.median(start[:, :2], axis=0)
    necks = near_necks(even, start, dask=dask)  # where they are, one half tells well enough for both
    ends = []
    for half in (even, odd):
        end = centres_beside_necks(half, start, template, necks, dask=dask)
        if cut.any() and not cut.all():
            end[cut] = recentre_cut(half, start[cut], mean_dot(half, end[~cut]), axis, dask=dask)
        ends.append(end)
    rotation, shift = lattice.rigid_motion(ends[1], ends[0])
    difference = ends[0] - (ends[1] @ rotation.T + shift)
    sigma = np.full(start.shape, np.nan)
    for group in (cut, ~cut):
        # Too few of one kind say nothing: they share the value of all.
        pool = difference[group] if group.sum() >= 10 else difference
        if group.any() and len(pool) >= 3:
            sigma[group] = HALF_SET_SHARE * 1.4826 * np.median(np.abs(pool), axis=0) / 2
    of_noise = noise_contrast(even, odd, start) * np.array(NOISE_DIAMETERS)
    shared = np.where(cut[:, None], RECENTRED_DIAMETERS, np.hypot(SHARED_DIAMETERS, of_noise)) * even.diameter_nm
    sigma = np.hypot(sigma, shared)
    return (
        pd.DataFrame(sigma, columns=["sigma_x_nm", "sigma_y_nm", "sigma_z_nm"]),
        pd.DataFrame(difference, columns=["dx_nm", "dy_nm", "dz_nm"]),
    )


def noise_contrast(even: BodyImage, odd: BodyImage, xyz_nm) -> float:
    """Noise of the tomogram of all tilts around the dots, in units of their contrast.

    Parameters
    ----------
    even, odd
        The tomograms of bodies of the two halves of the tilts.
    xyz_nm
        (N, 3) centres of dots, nm.

    Returns
    -------
    1.48 times the median absolute second difference along z of half the difference of the halves, in a cube around
    each dot. Along the tilt axis neighbouring voxels differ by noise alone: streaks run across it.
    """
    difference = (even.values - odd.values) / 2
    near = np.zeros(difference.shape, bool)
    half = even.half_box * 4 // 5
    for z, y, x in np.rint(to_index(xyz_nm, difference.shape, even.step_nm)).astype(int):
        near[max(z - half, 0) : z + half + 1, max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1] = True
    bend = np.diff(difference, n=2, axis=0)[near[1:-1]]
    return float(1.4826 * np.median(np.abs(bend)))
