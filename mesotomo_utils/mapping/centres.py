"""Where every quantum dot is: the centre of its body, without its necks.

The dots are picked by normalised correlation with a template that is cut from the tomogram itself
(:mod:`mesotomo_utils.mapping.template`). Each centre is then found on its own, as the point about which the dot is
its own mirror image (centre of inversion): size and orientation of a dot do not move that point, nor does its shape
as long as opposite facets are alike. What is no part of the body, a neck or a neighbour that comes near, stands on
one side only; such voxels lose their weight, and so do those beside them. Once the necks are measured, what lies in
one loses its weight altogether, on both sides, and more counts of what a lopsided dot has on one side only; what the
flanks of the necks add there, as blurred as the edge of the mean neck, is taken off. The mean dot, laid over each dot,
tells which centres are doubtful: it lies elsewhere, they are looked for from there as well, and the one that is seen
better is kept. What lies beyond the needle's edge (:mod:`mesotomo_utils.mapping.needle_edge`) is left out as a neck
is; where that is much of a dot, the inner side of the mean dot is fitted to it. The fits are those of
:mod:`mesotomo_utils.mapping.centre_fits`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.spatial import cKDTree

from mesotomo_utils.backend import to_numpy
from mesotomo_utils.mapping.centre_fits import (
    LastFit,
    beyond_edge,
    centres_beside_necks,
    in_chunks,
    last_fit_beside_necks,
    mean_dot_beside_necks,
    missed_as_if_cut,
    recentre_cut,
    refine_centres,
    rough_centres,
    vagueness_beside_necks,
)
from mesotomo_utils.mapping.necks import near_necks
from mesotomo_utils.mapping.template import (
    SAME_DOT_DIAMETERS,
    BodyImage,
    Template,
    apart,
    correlate,
    learn_template,
    likely_dots,
    mean_dot,
    peaks,
)

#: A dot with more than this fraction beyond the needle's edge is cut by it.
BEYOND_EDGE = 0.01
#: With more than this beyond it, or where hardly more than one of two opposite facets is left
#: (:func:`~.centre_fits.vagueness_beside_necks`), or where the mean dot laid over what is left lies so many times as
#: far off as half of the whole ones are missed by, cut like them, that is taken for its centre.
BEYOND_RECENTRE, VAGUE_RECENTRE, FAR_RECENTRE = 0.2, 20.0, 5.0
#: Where the bodies show no edge, the same of a dot on the rim with more than this fraction of its core missing,
MISSING_CORE = 0.01
#: and with more than this, and more than this share of the dots off the rim lack by their shape.
MISSING_RECENTRE, MISSING_BY_SHAPE = 0.05, 0.99
#: With more than this missing it is not a dot that could be located.
MISSING_MOST = 0.6
#: Bodies are rigid: in 22 runs no two dots ended nearer than 0.9 diameters. Of two nearer than this, one is a shadow of
#: a missing wedge between dots, or of a cut one.
APART_DIAMETERS = 0.75
#: A centre farther than this from where the mean dot lies is doubtful: it is looked for from there as well.
DOUBTFUL_DIAMETERS = 0.03
#: One farther than this is wrong, if another is found: no dot of four twins with a good centre was that far off and had
#: a second one.
ASTRAY_DIAMETERS = 0.065
#: And farther than so many times what half of the dots lie from there: a wedge of missing tilts moves it for all.
ASTRAY_MEDIANS = 4.0
#: A dot that leaving out its necks moves farther than this has them measured once more.
MOVED_DIAMETERS = 0.01
#: So many dots, or up to twice as many, tell how lopsided all are.
SOME_DOTS = 200


def missing_core(image: BodyImage, xyz_nm, template: Template, *, dask: str | None = None) -> np.ndarray:
    """Fraction of each dot's core that is not there: cut away by the edge of the needle.

    Parameters are those of :func:`~.centre_fits.refine_centres`.

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

    return in_chunks(measure, xyz, image=image, dask=dask) if len(xyz) else np.zeros(0)


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
    image: BodyImage, *, template: Template | None = None, lopsided: bool = True, dask: str | None = None
) -> tuple[pd.DataFrame, Template]:
    """Find every dot of a tomogram and the centre of its body.

    Parameters
    ----------
    image
        The tomogram of bodies, from :func:`body_image`.
    template
        The mean dot; learned from the tomogram where None.
    lopsided
        Whether dots that are not their own mirror images are taken to be so. Not where a wedge of tilts is missing: its
        shadows are no mirror images either, and no part of a dot.
    dask
        Address of a Dask scheduler whose workers fit the centres; None for threads. Template and correlation, a few
        transforms of the whole picture, are made here.

    Returns
    -------
    DataFrame with ``x_nm, y_nm, z_nm``, ``score`` (normalised correlation, 1 = the template), ``missing`` (fraction of
    the core that is not there), ``beyond`` (fraction of the mean dot, put there, that lies beyond the needle's edge;
    NaN where the bodies show none), ``at_edge`` (cut by the needle's edge) and ``recentred`` (cut so far that the mean
    dot was laid over what is left), ordered by z, y, x; and the template. ``attrs["last_fit"]`` of the table says how
    the fits ended: a :class:`~.centre_fits.LastFit` where the dots were found to be lopsided, else None.

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
    xyz, score = rough_centres(image, xyz[good], dask=dask), score[good]
    xyz = refine_centres(image, xyz, template, dask=dask)
    missing = missing_core(image, xyz, template, dask=dask)
    keep = apart(xyz, missing, SAME_DOT_DIAMETERS * image.diameter_nm) & (missing < MISSING_MOST)
    xyz, score = xyz[keep], score[keep]
    with_necks = xyz
    xyz, necks, last = _without_necks(image, xyz, template, lopsided, dask=dask)
    rim = on_rim(xyz, image.diameter_nm)
    missing = missing_core(image, xyz, template, dask=dask)
    inner = _inner(rim, missing)
    if inner.any():
        xyz = _brought_back(image, xyz, template, inner, necks, last, dask=dask)
        missing = missing_core(image, xyz, template, dask=dask)
    beyond = beyond_edge(image, xyz, template)
    xyz, cut = _cut_in_their_places(image, xyz, with_necks, template, missing, beyond, necks, dask=dask)
    if cut.any():
        missing, beyond = missing_core(image, xyz, template, dask=dask), beyond_edge(image, xyz, template)
    at_edge = cut | (rim & (missing > MISSING_CORE) if beyond is None else beyond > BEYOND_EDGE)
    table = pd.DataFrame({"score": score, "at_edge": at_edge, "recentred": cut, "missing": missing})
    table["beyond"] = np.nan if beyond is None else beyond
    table[["x_nm", "y_nm", "z_nm"]] = xyz
    # a pick beside a dot can end in it, or near it, only when necks are left out or the mean dot is laid over it
    table = table[apart(xyz, missing + cut, APART_DIAMETERS * image.diameter_nm)]
    columns = ["x_nm", "y_nm", "z_nm", "score", "missing", "beyond", "at_edge", "recentred"]
    table = table[columns].sort_values(["z_nm", "y_nm", "x_nm"], kind="stable")
    table = table.reset_index(drop=True)
    table.attrs["last_fit"] = last
    return table, template


def _cut_in_their_places(
    image: BodyImage,
    xyz: np.ndarray,
    with_necks: np.ndarray,
    template: Template,
    missing: np.ndarray,
    beyond: np.ndarray | None,
    necks: pd.DataFrame,
    *,
    dask: str | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Centres, those of the dots of which too much is cut where the mean dot lies; and which these are."""
    rim = on_rim(xyz, image.diameter_nm)
    cut = rim & (missing > _missing_of_cut(rim, missing))
    if beyond is not None:
        cut |= beyond > BEYOND_EDGE  # what is left of one that lacks much can have been taken for a dot of its own
    laid = np.where(cut[:, None], with_necks, xyz)  # too little can be left of one to do without what a neck hides
    if cut.any() and not cut.all():
        mean, of = mean_dot(image, xyz[_inner(rim, missing)]), np.flatnonzero(cut)
        axis = np.median(laid[:, :2], axis=0)
        laid = _recentred(image, laid, mean, of, axis, dask=dask)
        if beyond is not None:
            vague = vagueness_beside_necks(image, xyz, template, necks, of=of, dask=dask).max(axis=1)
            missed, _ = missed_as_if_cut(image, laid, mean, necks, axis, whole=np.flatnonzero(~cut), cut=of, dask=dask)
            usual = np.median(np.linalg.norm(missed, axis=1))
            far = np.linalg.norm((laid - xyz)[of], axis=1) > FAR_RECENTRE * usual
            cut[of] = (beyond[of] > BEYOND_RECENTRE) | (vague > VAGUE_RECENTRE) | far
    return np.where(cut[:, None], laid, xyz), cut


def _inner(rim: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """(N,) bool, the dots whose mean is the mean dot: off the rim, or uncut where too few are."""
    return ~rim if (~rim).sum() >= 5 else ~(rim & (missing > MISSING_RECENTRE))


def _missing_of_cut(rim: np.ndarray, missing: np.ndarray) -> float:
    """With more than this missing a dot on the rim is recentred: small or lopsided dots lack some of the mean dot."""
    inner = missing[~rim]
    return max(MISSING_RECENTRE, np.quantile(inner, MISSING_BY_SHAPE) if inner.size >= 20 else 0)


def _without_necks(
    image: BodyImage, xyz: np.ndarray, template: Template, lopsided: bool, *, dask: str | None
) -> tuple[np.ndarray, pd.DataFrame, LastFit | None]:
    """Centres found again with the necks left out, and once more where one came from far, its necks with it, or where
    the dots are lopsided; these necks, and how the fit ends.
    """
    necks = near_necks(image, xyz, dask=dask)
    clear = centres_beside_necks(image, xyz, template, necks, dask=dask)
    inner = _inner(on_rim(clear, image.diameter_nm), np.zeros(len(clear)))
    some = some_of(np.flatnonzero(inner))
    last = last_fit_beside_necks(image, clear, template, necks, of=some, dask=dask) if lopsided else None
    far = np.flatnonzero(np.linalg.norm(clear - xyz, axis=1) > MOVED_DIAMETERS * image.diameter_nm)
    if far.size:
        necks = _measured_again(necks, image, clear, far, dask=dask)
    if far.size or last is not None:
        clear = centres_beside_necks(image, clear, template, necks, last=last, dask=dask)
    return clear, necks, last


def some_of(rows: np.ndarray) -> np.ndarray:
    """Of many rows of dots as many as tell what all are like."""
    return rows[:: max(1, len(rows) // SOME_DOTS)]


def _measured_again(necks: pd.DataFrame, image: BodyImage, xyz: np.ndarray, of: np.ndarray, *, dask) -> pd.DataFrame:
    """The necks, those of some dots measured anew."""
    others = necks[~necks[["qd_1", "qd_2"]].isin(of).any(axis=1)]
    return pd.concat([others, near_necks(image, xyz, of=of, dask=dask)])


def _brought_back(
    image: BodyImage,
    xyz: np.ndarray,
    template: Template,
    inner: np.ndarray,
    necks: pd.DataFrame,
    last: LastFit | None,
    *,
    dask: str | None,
) -> np.ndarray:
    """Centres found again from where the mean of the inner dots lies, of those that lie far from there: a dot with a
    neck as thick as its facet is its own mirror image about a second point as well, up to a nanometre off. Fewer of its
    facets are mirror images about that one, so that it is the vaguer of the two.
    """
    laid = mean_dot_beside_necks(image, xyz, mean_dot(image, xyz[inner]), necks, dask=dask)
    away = np.linalg.norm(laid - xyz, axis=1)
    doubtful = np.flatnonzero(away > DOUBTFUL_DIAMETERS * image.diameter_nm)
    if not doubtful.size:
        return xyz
    found = xyz.copy()
    found[doubtful] = laid[doubtful]
    anew = _measured_again(necks, image, found, doubtful, dask=dask)
    found = centres_beside_necks(image, found, template, anew, last=last, of=doubtful, dask=dask)
    vague, vague_anew = (
        vagueness_beside_necks(image, at, template, joints, of=doubtful, dask=dask).max(axis=1)
        for at, joints in ((xyz, necks), (found, anew))
    )
    astray = away[doubtful] > max(ASTRAY_DIAMETERS * image.diameter_nm, ASTRAY_MEDIANS * np.median(away[inner]))
    lost = np.linalg.norm((found - xyz)[doubtful], axis=1) > image.diameter_nm / 2  # out of its own body
    stay = doubtful[~(astray | (vague_anew < vague)) | lost]
    found[stay] = xyz[stay]
    return found


def _recentred(
    image: BodyImage, xyz: np.ndarray, mean: Template, cut: np.ndarray, axis: np.ndarray, *, dask: str | None
) -> np.ndarray:
    """Centres with those of the cut dots before they were cut: only from there their necks can be measured, and left
    out.
    """
    none = pd.DataFrame({"qd_1": [], "qd_2": [], "diameter_nm": [], "away": []})
    xyz = recentre_cut(image, xyz, mean, none, axis, of=cut, dask=dask)
    return recentre_cut(image, xyz, mean, near_necks(image, xyz, of=cut, dask=dask), axis, of=cut, dask=dask)
