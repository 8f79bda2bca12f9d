"""How sure the centres of the dots are: their σ along x, y and z, from half sets of the tilts.

Half sets tell what noise and missing tilts do. What both halves share is read off the dots themselves where it can be:
how vaguely each is seen, how lopsided the dots of the sample are, and how far off the mean dot lies where as much is
left out of a whole dot as the needle's edge hides of a cut one. Little is left to constants.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.mapping.centre_fits import (
    LOST_DIAMETERS,
    centres_beside_necks,
    last_fit_beside_necks,
    lopsided_beside_necks,
    missed_as_if_cut,
    recentre_cut,
    vagueness_beside_necks,
)
from mesotomo_utils.mapping.centres import some_of
from mesotomo_utils.mapping.necks import near_necks
from mesotomo_utils.mapping.sampling import to_index
from mesotomo_utils.mapping.template import BodyImage, Template, mean_dot
from mesotomo_utils.mapping.tilt_errors import without_strain

#: σ of recentred dots is what this part of whole ones is missed by at most, cut like them.
ONE_SIGMA = 0.683
#: What of a half-set error stays when all tilts are there, noise aside. Half as many tilts leave streaks from dot to
#: dot that the other half cancels. Calibrated on twins by benchmarks/calibrate_errors.py, as are the constants below.
HALF_SET_SHARE = 0.2
#: Error that the noise of the tomogram leaves, which no other half cancels, in a dot all of which is seen: along x, y,
#: z, in dot diameters over the noise in contrasts, as :func:`noise_contrast` measures it.
NOISE_DIAMETERS = (0.0033, 0.0033, 0.0028)
#: The errors of whole dots grow with this power of :func:`~.centre_fits.vagueness_beside_necks`: a little faster than
#: what is left of their facets goes, since what is left is the part beside the necks.
VAGUENESS_POWER = 1.2
#: And what they have of being lopsided with this one: the fewer facets are seen, the fewer lopsided ones even out.
LOPSIDED_POWER = 0.85
#: So much more they have at the largest scale of the last fit: the flanks taken off are not quite what was assumed.
FLANK_ERROR = 0.12
#: Nor less than facets are uneven by, in contrasts, times this part of the width over which they are blurred: so far
#: does such a contrast move a facet. What is cut deep off a small dot hardly shows in how far its centre moves.
UNEVEN_WIDTHS = 0.39
#: Error that both halves share, along x, y, z, in dot diameters: of a centre of inversion, where the facets are blurred
#: over SHARP_DIAMETERS; it grows with this power of their width, since a blurred neck or neighbour reaches farther.
SHARED_DIAMETERS = (0.00042, 0.00042, 0.0003)
SHARP_DIAMETERS = 0.129
BLUR_POWER = 4.0
#: Dots that are their own mirror images move up to so many diameters, for streaks and necks: that much is taken off.
LOPSIDED_LEAST_DIAMETERS = 0.0008


def half_set_sigmas(
    table: pd.DataFrame,
    even: BodyImage,
    odd: BodyImage,
    template: Template,
    *,
    lopsided: bool = True,
    dask: str | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Standard deviation of every centre, from tomograms of the even and of the odd tilts.

    Parameters
    ----------
    table
        Centres from :func:`~.centres.find_centres`.
    even, odd
        The tomograms of bodies of the two halves of the tilts.
    template
        The mean dot.
    lopsided
        As in :func:`~.centres.find_centres`.
    dask
        As in :func:`~.centre_fits.refine_centres`.

    Returns
    -------
    sigmas
        DataFrame with ``sigma_x_nm, sigma_y_nm, sigma_z_nm``, a row a dot.
    differences
        DataFrame with ``dx_nm, dy_nm, dz_nm``: even minus odd, after one rigid motion and one strain across the tilt
        axis between the two halves are taken off (the halves are aligned separately, each with its own tilt errors).

    Notes
    -----
    Noise model, along each axis: one standard deviation for recentred dots, and one for whole dots, times a factor for
    what necks, neighbours and noise hide of each dot's facets (:func:`~.centre_fits.vagueness_beside_necks`). Both are
    pooled over all dots by the median absolute difference; the mean of two halves has half the standard deviation of
    their difference, of which :data:`HALF_SET_SHARE` is an error of the whole: that holds for streaks of missing tilts.

    Of whole dots, what the noise of the whole leaves is added (:data:`NOISE_DIAMETERS`), its strength read off the
    difference of the halves around the dots (:func:`noise_contrast`). What both halves share (a neighbour that pulls,
    the more so the more the facets are blurred) does not show in the difference; it is added as measured on twins. Nor
    does it show that a dot is no mirror image of itself, with more atoms on one side. That moves its centre with the
    weight that these have in the fit, in both halves alike: how far it does, over the dots and axes, is about how far
    the centre that is found is off for that (:func:`~.centre_fits.lopsided_beside_necks`), but no less than the
    unevenness of the facets comes to (:data:`UNEVEN_WIDTHS`). It is added, more where less of a dot is seen.

    Of recentred dots, what dots differ in size and shape by is added: how far the mean dot lies from the centres of
    whole dots when as much of these is left out as the edge hides of the cut ones
    (:func:`~.centre_fits.missed_as_if_cut`), outwards, across and along the needle's axis.

    No σ exceeds :data:`~.centre_fits.LOST_DIAMETERS`, for no fit leads farther. For a wedge of missing tilts see
    :func:`mesotomo_utils.mapping.missing_wedge.wedge_sigmas`, for errors of the tilts themselves
    :func:`mesotomo_utils.mapping.tilt_errors.tilt_sigmas`.
    """
    start = table[["x_nm", "y_nm", "z_nm"]].to_numpy(float)
    cut = table["recentred"].to_numpy(bool)
    whole, axis = np.flatnonzero(~cut), np.median(start[:, :2], axis=0)
    tell = whole if table["at_edge"].all() else np.flatnonzero(~table["at_edge"])
    necks = near_necks(even, start, dask=dask)  # where they are, one half tells well enough for both
    some = some_of(whole)
    last = last_fit_beside_necks(even, start, template, necks, of=some, dask=dask) if lopsided else None
    ends, known, missed = [], [], []
    for half in (even, odd):
        end = centres_beside_necks(half, start, template, necks, last=last, dask=dask)
        known.append(vagueness_beside_necks(half, end, template, necks, of=whole, dask=dask) ** -2)
        if cut.any() and len(whole):
            mean, end[cut] = mean_dot(half, end[whole]), start[cut]
            of = np.flatnonzero(cut)
            end = recentre_cut(half, end, mean, necks, axis, of=of, dask=dask)
            miss, like = missed_as_if_cut(half, end, mean, necks, axis, whole=tell, cut=of, dask=dask)
            missed.append(miss)
        ends.append(end)
    vagueness = np.ones(start.shape)
    vagueness[whole] = np.mean(known, axis=0) ** -0.5
    vague = vagueness**VAGUENESS_POWER
    rotation, shift = lattice.rigid_motion(ends[1], ends[0])
    difference = without_strain(start, ends[0] - (ends[1] @ rotation.T + shift))
    diameter = even.diameter_nm
    of_noise = noise_contrast(even, odd, start) * np.array(NOISE_DIAMETERS) * vague
    blur = (template.facet_width_nm / (SHARP_DIAMETERS * diameter)) ** BLUR_POWER
    shared = np.hypot(blur * np.array(SHARED_DIAMETERS), of_noise) * diameter
    one_sided = _lopsided(even, odd, ends, template, necks, some, dask=dask)
    if last is not None:
        one_sided *= 1 + FLANK_ERROR * last.lopsidedness
        one_sided = max(one_sided, UNEVEN_WIDTHS * last.unevenness * template.facet_width_nm)
    usual = np.median(vagueness[whole] if len(whole) else 1)
    shared = np.hypot(shared, one_sided * (vagueness / usual) ** LOPSIDED_POWER)
    if missed:
        away = start[:, :2] - axis
        shared[cut] = _along_axes(np.mean(missed, axis=0), away[like], away[cut])
    elif cut.any():
        shared[cut] = np.inf  # there is no whole dot to tell
    sigma = np.minimum(np.hypot(_of_half_sets(difference, vague, cut), shared), LOST_DIAMETERS * diameter)
    return (
        pd.DataFrame(sigma, columns=["sigma_x_nm", "sigma_y_nm", "sigma_z_nm"]),
        pd.DataFrame(difference, columns=["dx_nm", "dy_nm", "dz_nm"]),
    )


def _of_half_sets(difference: np.ndarray, vague: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """(N, 3) σ that (N, 3) half-set differences tell of, in proportion to how vaguely each dot is seen."""
    each, sigma = difference / vague, np.full(difference.shape, np.nan)
    for group in (cut, ~cut):
        # Too few of one kind say nothing: they share the value of all.
        pool = each[group] if group.sum() >= 10 else each
        if group.any() and len(pool) >= 3:
            sigma[group] = HALF_SET_SHARE * 1.4826 * np.median(np.abs(pool), axis=0) / 2 * vague[group]
    return sigma


def _along_axes(missed: np.ndarray, away: np.ndarray, of: np.ndarray) -> np.ndarray:
    """(m, 3) σ along x, y, z of dots that lie in (m, 2) directions from the needle's axis, from how far others, in
    (n, 2) directions, were (n, 3) missed: outwards, across and along that axis alike for all.
    """
    c, s = _cos_sin(away)
    turned = missed[:, 0] * c + missed[:, 1] * s, missed[:, 1] * c - missed[:, 0] * s, missed[:, 2]
    outwards, across, along = (np.quantile(np.abs(part), ONE_SIGMA) for part in turned)
    c, s = _cos_sin(of)
    x, y = np.hypot(outwards * c, across * s), np.hypot(outwards * s, across * c)
    return np.column_stack([x, y, np.full(len(of), along)])


def _cos_sin(away: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    angle = np.arctan2(away[:, 1], away[:, 0])
    return np.cos(angle), np.sin(angle)


def _lopsided(
    even: BodyImage,
    odd: BodyImage,
    ends: list[np.ndarray],
    template: Template,
    necks: pd.DataFrame,
    some: np.ndarray,
    *,
    dask: str | None,
) -> float:
    """How far whole dots, some of which are given, are off along any axis for not being their own mirror images, nm."""
    if not len(some):
        return 0.0
    first, second = (
        lopsided_beside_necks(half, at, template, necks, of=some, dask=dask)
        for half, at in zip((even, odd), ends, strict=True)
    )
    # what both halves agree in: noise moves each its own way
    both, noise = (1.4826 * float(np.median(np.abs(part))) / 2 for part in (first + second, first - second))
    least = LOPSIDED_LEAST_DIAMETERS * even.diameter_nm
    return max(both**2 - noise**2 - least**2, 0.0) ** 0.5


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
