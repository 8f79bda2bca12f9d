"""First guess of an alignment: mass profile along the axis, centre of mass across it.

Both use that HAADF intensity is projected mass. The mass in one slice across the tilt axis does
not depend on the tilt, so the profile of mass along z only moves; the centre of mass moves across
the axis on a sinusoid, as that of a point does (Scott et al. 2012, Nature 483, 444).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mesotomo_utils.tomography.alignment_geometry import move_images

_CONTRAST_LIMIT = 8.0
"""Distance from the other images, in robust standard deviations, from which an image is an outlier."""

_SPIKE = 3.0
"""Times as bright as the object's brightest thousandth, and as the median around it, a pixel is none of the object."""

_LEAST_SIGMA = 0.02
"""Pixels that the noise of the images alone moves a centre of mass by, on the best of twins."""

_STRETCHES = 4
"""Parts of an object along the axis that have a centre of mass each: slices close to each other err alike."""

_OUTSIDE = 0.005
"""Share of the mass of an image that may lie beyond either side of its object."""
_ROOM = 0.2
"""Room left on either side of the object, as a share of the columns that it takes up."""
_NARROWER = 0.9
"""Columns follow an object beside the axis where this share of those that stay is enough: they take from its angles
what the centre of mass says of them there."""


def without_background(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Images less their background, a plane of its own in each, and without single pixels that outshine all others.

    Parameters
    ----------
    images
        (T, Z, U) images.

    Returns
    -------
    ndarray
        (T, Z, U) float32.

    Notes
    -----
    Level and slope along z are those of the darker of the two borders along u, where the object may reach over the
    other. The slope along u joins the borders if in most images it goes on within them: an object that the field
    cuts off falls far more steeply there. A pixel that the detector or a cosmic ray made far brighter than the
    object and than the pixels around it would be what all images are matched by, and takes the median of these.
    """
    n_t, n_z, n_u = images.shape
    width = _border(n_u)
    z, u = np.arange(n_z) - (n_z - 1) / 2, np.arange(n_u) - (n_u - 1) / 2
    line, even = np.stack([np.ones(n_z), z], axis=1), np.ones(n_z)
    level, slope, rise, at, within = np.zeros((5, n_t))
    for t, image in enumerate(images):
        strips = image[:, :width], image[:, -width:]
        left, right = (_robust_fit(line, strip.mean(axis=1, dtype=np.float64), even) for strip in strips)
        level[t], slope[t] = min(left, right, key=lambda fit: fit[0])
        rise[t] = (right[0] - left[0]) / (n_u - width)
        at[t] = u[width // 2 if level[t] == left[0] else -1 - width // 2]
        within[t] = max(abs(np.polyfit(u[:width], strip.mean(axis=0, dtype=np.float64), 1)[0]) for strip in strips)
    if np.median(within) > 3 * np.median(np.abs(rise)):
        rise[:] = 0.0
    out = np.empty(images.shape, np.float32)
    for t, image in enumerate(images):
        out[t] = image - ((level[t] + slope[t] * z)[:, None] + rise[t] * (u - at[t]))
        _take_off_spikes(out[t])
    return out


def _take_off_spikes(image: NDArray[np.float32]) -> None:
    """In place: the median of the 3 × 3 pixels about it for a pixel that is far above both these and the object."""
    far = _SPIKE * np.quantile(image[1::3, 1::3], 0.999)
    rows, columns = np.nonzero(image > max(far, 0))
    if not len(rows):
        return
    n_z, n_u = image.shape
    steps = np.arange(-1, 2)
    around = image[
        np.clip(rows[:, None, None] + steps[:, None], 0, n_z - 1), np.clip(columns[:, None, None] + steps, 0, n_u - 1)
    ]
    usual = np.median(around, axis=(1, 2))
    alone = image[rows, columns] > _SPIKE * np.maximum(usual, 0)
    image[rows[alone], columns[alone]] = usual[alone]


def at_both_borders(images: NDArray[np.float32]) -> float:
    """How strong images are at the weaker of their two borders along u, as a share of the whole; the median of all.

    Near 0 for an object that lies within the field, or leaves it on one side; above a half for one that goes on beyond
    both, as a film does, or a needle wider than the field.

    Parameters
    ----------
    images
        (T, Z, U) images less their background.
    """
    width, n_z = _border(images.shape[2]), images.shape[1] // 2 * 2

    def strength(part: NDArray[np.float32]) -> float:
        """Root mean product of rows beside each other, whose noise is not shared."""
        return np.sqrt(max(np.mean(part[0:n_z:2] * part[1:n_z:2], dtype=np.float64), 0.0))

    shares = [
        min(strength(image[:, :width]), strength(image[:, -width:])) / max(strength(image), 1e-30) for image in images
    ]
    return float(np.median(shares))


def _border(n_u: int) -> int:
    """Columns of either border, from which the background is taken, of images n_u pixels wide."""
    return max(2, n_u // 40)


def profile_shifts(
    images: NDArray[np.float32], *, rounds: int = 4, reach: int | None = None
) -> tuple[NDArray, NDArray]:
    """Shift of every image along z from its mass profile.

    Parameters
    ----------
    images
        (T, Z, U) images less their background.
    rounds
        How often the mean profile is rebuilt from the aligned ones.
    reach
        Largest shift looked for, pixels; a quarter of the field if left out.

    Returns
    -------
    shift
        (T,) observed minus ideal position, pixels, with mean zero over the images that are like most.
    likeness
        (T,) correlation of the profile with the mean one, 1 = equal.

    Notes
    -----
    Normalised cross-correlation over the overlap, with a parabola through the best three. The first
    reference is the profile most like all others, so one bad image cannot lead the rest astray.
    """
    profiles = images.sum(axis=2, dtype=np.float64)
    n = profiles.shape[1]
    reach = max(2, n // 4) if reach is None else reach
    centred = profiles - profiles.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    centred /= np.where(length > 0, length, 1.0)
    start = int(np.argmax(np.median(centred @ centred.T, axis=1)))
    reference = profiles[start]
    rows = np.arange(n)
    for _ in range(rounds):
        found = [_best_lag(profile, reference, reach) for profile in profiles]
        shift = np.array([lag for lag, _ in found])
        likeness = np.array([value for _, value in found])
        trusted = likeness >= np.median(likeness) - 3 * _robust_sigma(likeness)
        shift -= np.median(shift[trusted])
        moved = [np.interp(rows + s, rows, p / (p.mean() or 1.0)) for s, p in zip(shift, profiles, strict=True)]
        reference = np.mean([p for p, keep in zip(moved, trusted, strict=True) if keep], axis=0)
    return shift - shift[trusted].mean(), likeness


def _best_lag(profile: NDArray, reference: NDArray, reach: int) -> tuple[float, float]:
    """Sub-pixel lag of a profile behind a reference, and the correlation there."""
    n = len(profile)
    lags = np.arange(-reach, reach + 1)
    # sums over the overlap at every lag: profile[lag:] on reference[:n - lag], and the other way round
    starts, counts = np.maximum(0, lags), n - np.abs(lags)
    mean, power = np.empty((2, len(lags))), np.empty((2, len(lags)))
    for i, (values, first) in enumerate(((profile, starts), (reference, starts - lags))):
        for out, sums in ((mean, values), (power, values**2)):
            total = np.concatenate([[0.0], np.cumsum(sums)])
            out[i] = total[first + counts] - total[first]
    product = np.correlate(profile, reference, mode="full")[lags + n - 1]
    power -= mean**2 / counts
    norm = np.sqrt(np.maximum(power[0] * power[1], 0.0))
    score = np.divide(product - mean[0] * mean[1] / counts, norm, out=np.zeros(len(lags)), where=norm > 0)
    best = int(np.argmax(score))
    if not 0 < best < len(lags) - 1:
        return float(lags[best]), float(score[best])
    below, here, above = score[best - 1 : best + 2]
    curvature = below - 2 * here + above
    step = 0.5 * (below - above) / curvature if curvature < 0 else 0.0
    return float(lags[best] + step), float(here)


def centre_of_mass_shifts(
    images: NDArray[np.float32], angles_deg: NDArray[np.float64], shift_z: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Shift of every image across the axis from its centre of mass.

    Parameters
    ----------
    images
        (T, Z, U) images less their background.
    angles_deg
        (T,) tilts, degrees.
    shift_z
        (T,) shifts along z, pixels: only rows that all images show are counted.

    Returns
    -------
    ndarray
        (T,) observed minus ideal position, pixels, axis offset included. The ideal one is the
        sinusoid x cos t + y sin t that fits robustly.
    """
    n_z, n_u = images.shape[1:]
    u = np.arange(n_u) - (n_u - 1) / 2
    low = int(np.ceil(-shift_z.min())) + 1
    high = n_z - int(np.ceil(shift_z.max())) - 1
    if high - low < n_z // 4:
        low, high = n_z // 4, n_z - n_z // 4
    centre = np.empty(len(images))
    for t, image in enumerate(images):
        first = int(np.clip(round(low + shift_z[t]), 0, n_z - 2))
        last = int(np.clip(round(high + shift_z[t]), first + 1, n_z))
        mass = image[first:last].sum(axis=0, dtype=np.float64)
        total = mass.sum()
        centre[t] = mass @ u / total if total > 0 else 0.0
    radians = np.deg2rad(angles_deg)
    design = np.stack([np.ones_like(radians), np.cos(radians), np.sin(radians)], axis=1)
    fit = _robust_fit(design, centre, np.ones(len(centre)))
    return centre - design[:, 1:] @ fit[1:]


def refine_by_slices(
    images: NDArray[np.float32],
    angles_deg: NDArray[np.float64],
    shift_z: NDArray[np.float64],
    shift_u: NDArray[np.float64],
    *,
    rounds: int = 15,
    tolerance_deg: float = 0.002,
) -> tuple[NDArray[np.float64], NDArray[np.float64], float, float]:
    """Axis tilt, and better shifts, from the centre of mass of every slice.

    Parameters
    ----------
    images
        (T, Z, U) images less their background.
    angles_deg
        (T,) tilts, degrees.
    shift_z, shift_u
        (T,) first guess, pixels.
    rounds, tolerance_deg
        The images are moved and measured again until the axis tilt changes less than this.

    Returns
    -------
    shift_z, shift_u
        (T,) observed minus ideal position, pixels.
    axis_tilt_deg
        Rotation of the axis from +u towards +z, degrees.
    sigma_u
        Standard error of a shift along u, pixels, from how differently the parts of the object move from tilt to tilt;
        NaN where the centres do not follow and all is as it was given. What moves all slices alike does not show in it:
        of twins the errors are 1.0 to 1.5 times as large, of a copy of a real needle 0.4 to 1.8 times.

    Notes
    -----
    Each slice has a sinusoid of its own about the axis, and where the axis is tilted by a its offset changes
    by −tan a from row to row. A tilted axis also mixes slices, most at the ends of the sinusoid and where layers begin
    and end: to first order the centre of a row of mass m moves by a (z + (d(m<u²>)/dz − <u> d(m<u>)/dz) / m). In an
    object as wide as it is high the two parts cancel on the whole, though not in any row. Slices count by their mass.
    """
    n_t, n_z, n_u = images.shape
    radians = np.deg2rad(angles_deg)
    design = np.stack([np.ones(n_t), np.cos(radians), np.sin(radians)], axis=1)
    u = np.arange(n_u, dtype=np.float32) - (n_u - 1) / 2
    z = np.arange(n_z) - (n_z - 1) / 2
    start = shift_z, shift_u, 0.0, float("nan")
    tilt, changes = 0.0, []
    for _ in range(rounds):
        moved = move_images(images, shift_z, shift_u, tilt)
        margin = int(np.ceil(np.abs(shift_z).max() + np.sin(np.deg2rad(1 + abs(tilt))) * n_u / 2))
        rows = slice(min(margin, n_z // 4), n_z - min(margin, n_z // 4))
        mass = moved.sum(axis=2, dtype=np.float64)[:, rows]
        usual = np.median(mass, axis=0)
        solid = usual > 0.5 * np.percentile(usual, 75)
        mass, weight = mass[:, solid], usual[solid]
        first = moved @ u
        centre = first[:, rows][:, solid] / np.where(mass > 0, mass, np.inf)
        fit = np.linalg.lstsq(design, centre, rcond=None)[0]
        wider, leaning = (np.gradient(moment, axis=1)[:, rows][:, solid] for moment in (moved @ u**2, first))
        mixed = (wider - centre * leaning) / np.where(mass > 0, mass, np.inf)
        height = z[rows][solid] + np.linalg.lstsq(design, mixed, rcond=None)[0][0]
        # a metal cap outweighs the needle, and is cut by the edge of the field
        line = np.stack([np.ones(len(weight)), height], axis=1)
        offset, slope = _robust_fit(line, fit[0], np.minimum(weight, np.median(weight)))
        change = -np.rad2deg(np.arctan(slope))
        changes.append(abs(change))
        if len(changes) > 1 and changes[-1] > 0.9 * changes[0]:
            return start  # the centres do not follow: the field cuts the object off
        tilt += change
        apart = centre - design @ fit
        shift_u = shift_u + offset + apart @ weight / weight.sum()
        shift_z = shift_z + profile_shifts(moved, rounds=2, reach=4)[0]
        if abs(change) < tolerance_deg:
            break
    parts = sums_of_stretches(apart * weight, _STRETCHES) / sums_of_stretches(weight, _STRETCHES)
    sigma_u = np.sqrt(np.mean(parts.var(axis=1, ddof=1)) / _STRETCHES)
    return shift_z, shift_u, float(tilt), float(sigma_u)


def sums_of_stretches(values: NDArray, count: int) -> NDArray[np.float64]:
    """(…, count) sums over even stretches of the last axis, whose scatter tells the error of the whole sum.

    Values close to each other err alike, so that their own scatter does not.
    """
    return np.add.reduceat(values, values.shape[-1] * np.arange(count) // count, axis=-1, dtype=np.float64)


def moment_sigmas(
    images: NDArray[np.float32], shift_z: NDArray[np.float64], sigma_slices: float = float("nan")
) -> tuple[float, float]:
    """How far shifts along z by the profile, and along u by the centre of mass, may be off, pixels.

    Mass that leaves the field on one side, a share v of it, moves the centre of mass by up to v times half the
    width. It shows as a change of the mass from tilt to tilt, but so does the gain of the detector. Across the axis
    there must also be mass at the edges, in the strips that the background is taken from: on twins, whole or cut, the
    error is 0.4 to 1.1 times the mass that nine tenths of the images have there, times the width. The smaller counts,
    but no less than what slices disagree by.

    Parameters
    ----------
    images
        (T, Z, U) images less their background.
    shift_z
        (T,) shifts along z, pixels: only rows that all images show are counted.
    sigma_slices
        Of :func:`refine_by_slices`, in pixels of these images; NaN says nothing.

    Returns
    -------
    One standard deviation along z and along u.
    """
    n_z = images.shape[1]
    low = min(int(np.ceil(max(0.0, -shift_z.min()))) + 1, n_z // 4)
    high = max(n_z - int(np.ceil(max(0.0, shift_z.max()))) - 1, n_z - n_z // 4)
    rows = np.arange(n_z)
    inner = np.arange(low, high)
    profiles = [np.interp(inner + s, rows, image.sum(axis=1, dtype=np.float64)) for image, s in zip(images, shift_z)]
    mass = np.sum(profiles, axis=1)
    changes = _robust_sigma(mass) / max(abs(np.median(mass)), 1e-30)
    width = _border(images.shape[2])
    across = images.sum(axis=1, dtype=np.float64)
    strips = np.abs(across[:, :width]).sum(axis=1) + np.abs(across[:, -width:]).sum(axis=1)
    at_edges = 2 * np.quantile(strips, 0.9) / max(abs(np.median(across.sum(axis=1))), 1e-30)
    sigma_z, sigma_u = (float(share) * images.shape[2] / 2 for share in (changes, min(changes, at_edges)))
    return max(sigma_z, _LEAST_SIGMA), float(np.fmax(max(sigma_u, _LEAST_SIGMA), sigma_slices))


def column_mass(images: NDArray[np.float32]) -> NDArray[np.float64]:
    """(T, U) mass in each column of (T, Z, U) images less their background."""
    return np.maximum(images.sum(axis=1, dtype=np.float64), 0.0)


def object_place(
    mass: NDArray[np.float64], angles_deg: NDArray[np.float64], shift_u: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Where the centre of mass of the object lies beside the axis.

    Parameters
    ----------
    mass
        (T, U), of :func:`column_mass`.
    angles_deg
        (T,) tilts, degrees.
    shift_u
        (T,) shifts along u, the axis offset with them, pixels.

    Returns
    -------
    ndarray
        (2,) x and y, pixels.
    """
    u = np.arange(mass.shape[1]) - (mass.shape[1] - 1) / 2
    centre = mass @ u / np.maximum(mass.sum(axis=1), 1e-30) - shift_u
    radians = np.deg2rad(angles_deg)
    return np.linalg.lstsq(np.stack([np.cos(radians), np.sin(radians)], axis=1), centre, rcond=None)[0]


def object_columns(mass: NDArray[np.float64], path: NDArray[np.float64]) -> tuple[NDArray[np.int64], int]:
    """Columns that hold the object in every image, with room on either side.

    Empty columns are worse than no use to reprojection: an object as wide as the field could explain away more of
    what is amiss, and leaves the images less detail in common (Crowther's limit). So they follow an object that lies
    beside the axis.

    Parameters
    ----------
    mass
        (T, U), of :func:`column_mass`.
    path
        (T,) where the object is across the axis, pixels.

    Returns
    -------
    first
        (T,) first column of each image; the same of all where columns that follow would be little narrower, or the
        field has no room for them.
    width
        Their number.
    """
    share = np.cumsum(mass, axis=1) / np.maximum(mass.sum(axis=1, keepdims=True), 1e-30)
    first, last = (share < _OUTSIDE).sum(axis=1), (share < 1 - _OUTSIDE).sum(axis=1) + 1
    n_u, moved = mass.shape[1], np.round(path).astype(int)

    def with_room(first: NDArray[np.int64], last: NDArray[np.int64]) -> tuple[int, int]:
        start, stop = int(first.min()), int(last.max())
        room = int(np.ceil(_ROOM * (stop - start)))
        return start - room, stop + room

    start, stop = with_room(first, last)
    start, stop = max(0, start), min(n_u, stop)
    low, high = with_room(first - moved, last - moved)
    if high - low < _NARROWER * (stop - start) and low + moved.min() >= 0 and high + moved.max() <= n_u:
        return low + moved, high - low
    return np.full(len(mass), start), stop - start


def odd_images(
    images: NDArray[np.float32], likeness: NDArray[np.float64], angles_deg: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Images that cannot be of the same specimen: another mass, or another profile along z.

    Parameters
    ----------
    images
        (T, Z, U) images less their background.
    likeness
        (T,) correlation of the mass profile with the mean one.
    angles_deg
        (T,) tilts, degrees.

    Returns
    -------
    ndarray
        (T,) True for an outlier.

    Notes
    -----
    Mass is compared with the running median over nine tilts, since a needle in a wide matrix
    gains mass with tilt.
    """
    mass = images.sum(axis=(1, 2), dtype=np.float64)
    order = np.argsort(angles_deg, kind="stable")
    usual = np.empty(len(mass))
    usual[order] = [np.median(mass[order[max(0, n - 4) : n + 5]]) for n in range(len(mass))]
    change = mass / np.where(usual > 0, usual, 1.0) - 1.0
    sigma = max(_robust_sigma(change), 0.03)
    strange = np.abs(change) > _CONTRAST_LIMIT * sigma
    unlike = 1 - likeness
    strange |= unlike > np.median(unlike) + _CONTRAST_LIMIT * max(_robust_sigma(unlike), 0.02)
    return strange


def _robust_fit(design: NDArray, values: NDArray, weight: NDArray) -> NDArray[np.float64]:
    """Least squares, in which what lies beyond three robust standard deviations counts less the farther it lies."""
    huber = np.ones(len(values))
    for _ in range(8):
        root = np.sqrt(weight * huber)
        fit = np.linalg.lstsq(design * root[:, None], values * root, rcond=None)[0]
        residual = values - design @ fit
        huber = np.minimum(1.0, 3 * _robust_sigma(residual) / np.maximum(np.abs(residual), 1e-9))
    return fit


def _robust_sigma(values: NDArray[np.float64]) -> float:
    """Standard deviation from the median absolute deviation, never zero."""
    return float(1.4826 * np.median(np.abs(values - np.median(values)))) + 1e-12
