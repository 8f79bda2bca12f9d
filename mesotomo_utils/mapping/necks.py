"""Necks between neighbouring dots: the smallest cross-section of the bridge and its diameter.

Lines parallel to the one that joins two centres are followed through the gap, in the tomogram with
its atomic lattice filtered away, and the lowest value on each is kept. A line that stays inside a
neck all the way across keeps the level of the bodies; the others fall to that of the matrix. That
makes one picture of the gap as seen along the line of centres, also where the gap is oblique, and the
area of the neck is what lies above nearly half of the step between two levels: that of the gap beside
the neck and the neck's own, which is not that of the bodies where it is thin or lacks atoms in its middle.
Pixels at the contour count in part, which makes the area exact below one pixel.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage, optimize
from scipy.spatial import cKDTree

from mesotomo_utils.backend import get_array_module
from mesotomo_utils.distribute import map_items
from mesotomo_utils.mapping.template import SIGMA_DIAMETERS, BodyImage

#: Contour of a neck between the level of the gap beside it (0) and its own (1); calibrated on
#: twins by benchmarks/calibrate_necks.py, which also states where it holds.
THRESHOLD = 0.46
#: First outline, from which both levels are read, between the darkest tenth of the gap (0) and its brightest line (1).
FIRST_OUTLINE = 0.45
#: Pixels that the blurred edge of a neck takes outside its outline, and inside.
EDGE_OUTSIDE, EDGE_INSIDE = 3, 1
#: Where less than this part of a facet is left beside a neck, it fills the gap: the darkest tenth is what there is.
LEAST_BESIDE = 0.05
#: A patch whose highest value stays below this is no neck but two facets that come near.
SMALLEST_PEAK = 0.35
#: A neck thicker than this, in dot diameters, is resolved and must reach the level below.
RESOLVED_DIAMETERS, RESOLVED_PEAK = 0.28, 0.62
#: Half the edge of the picture, in dot diameters: a facet fills it.
HALF_WIDTH_DIAMETERS = 0.6
#: The level beside the neck is read within this distance of the line of centres.
FACET_DIAMETERS = 0.5
#: A neck starts at most this far from the line of centres, in dot diameters.
OFF_AXIS_DIAMETERS = 0.3
#: Lines are followed this far to both sides of the middle of the gap, in dot diameters.
REACH_DIAMETERS = 0.12
#: The gap lies at most this far from the middle between the centres, in dot diameters.
GAP_DIAMETERS = 0.12
#: Edge of the pixels, in dot diameters.
PIXEL_DIAMETERS = 0.03

#: The edge of the mean neck (:func:`edge_width`): so many necks at most, each bin of it seen in so many at least, none
#: wider than this part of a diameter, within this distance of the line of centres, and so far out and in.
MOST_PROFILES, LEAST_PROFILES = 300, 10
WIDEST_PROFILE_DIAMETERS, PROFILE_FACET_DIAMETERS, PROFILE_PIXELS = 0.6, 0.42, 7
#: It is at most so many times as blurred as by the low-pass, and no less than by that.
WIDEST_EDGE = 3.0

#: Error that both halves of the tilts share, in dot diameters: how a neck meets its facets, and its outline as seen
#: through the low-pass. 68 % of the errors lie within 0.020 to 0.024 where another simulator draws prisms, hourglasses
#: and gaps between the lattices (benchmarks/other_twin.py), within 0.0095 for the cylinders of our own twins.
SHARED_DIAMETERS = 0.02
#: Necks that are measured in both halves of the tilts: their spread is then known to 4 %, and enters one σ for all.
MOST_COMPARED = 500
#: Dots whose centres are nearer than this can be joined by a neck, in dot diameters.
NEAR_DIAMETERS = 1.45
#: Where no dot is found this near to where one would face a neighbour, the needle's edge may have left a piece of it.
FACING_DIAMETERS = 0.5
#: Pairs that go to a thread, or to a worker of a cluster, together: each takes a millisecond, sending it as long.
_PAIRS_TOGETHER = 16
#: Pictures of gaps are measured by one thread at a time, while others read theirs: many small calls of NumPy pass the
#: lock of the interpreter to and fro, and sixteen threads at once took longer than one.
_MEASURING = threading.Lock()


def gap_planes(image: BodyImage, first_nm, second_nm) -> tuple[np.ndarray, float]:
    """Planes across the gap between two dots, perpendicular to the line of their centres.

    Parameters
    ----------
    image
        The tomogram of bodies, 0 in the matrix and 1 in the bodies.
    first_nm, second_nm
        (3,) centres, nm.

    Returns
    -------
    (s, m, m) planes from the first to the second dot, the line in their middle, and the step in
    all three directions, nm.

    Raises
    ------
    ValueError
        The two centres are the same point.
    """
    first, second = np.asarray(first_nm, float), np.asarray(second_nm, float)
    distance = np.linalg.norm(second - first)
    if not distance > 0:
        raise ValueError(f"the two centres are the same point {first.tolist()}; drop one of them")
    axis = (second - first) / distance
    u = np.cross(axis, np.eye(3)[np.argmin(np.abs(axis))])
    u /= np.linalg.norm(u)
    v = np.cross(axis, u)
    pixel = PIXEL_DIAMETERS * image.diameter_nm
    half = round(HALF_WIDTH_DIAMETERS / PIXEL_DIAMETERS)
    length = round((REACH_DIAMETERS + GAP_DIAMETERS) / PIXEL_DIAMETERS)
    steps = pixel * np.stack([axis, u, v])
    shape = 2 * length + 1, 2 * half + 1, 2 * half + 1
    return image.sampler.grid((first + second) / 2 - [length, half, half] @ steps, steps, shape), pixel


def gap_picture(planes: np.ndarray) -> np.ndarray:
    """(m, m) lowest value on each line through the gap, as seen along the line of centres."""
    return _around_gap(planes).min(axis=0)


def _around_gap(planes: np.ndarray) -> np.ndarray:
    """Those of the planes that lie within reach of the gap: where they are darkest."""
    reach = round(REACH_DIAMETERS / PIXEL_DIAMETERS)
    middle = reach + int(planes[reach : len(planes) - reach].mean(axis=(1, 2)).argmin())
    return planes[middle - reach : middle + reach + 1]


def gap_length_nm(planes: np.ndarray, pixel_nm: float, *, diameter_nm: float) -> float:
    """Face to face distance of two dots, nm: the median dark length of the lines beside the neck.

    NaN where the neck fills the gap.
    """
    picture = gap_picture(planes)
    beside = (picture < 0.35) & (_radius(picture.shape[0], pixel_nm) < 0.35 * diameter_nm)
    if beside.sum() < 0.05 * (beside.size * 0.3):
        return float("nan")
    lines = planes[:, beside]
    slope = np.maximum(np.abs(np.gradient(lines, axis=0)), 1e-6)
    dark = np.clip(0.5 + (0.5 - lines) / slope, 0, 1).sum(axis=0) * pixel_nm
    return float(np.median(dark))


def _radius(size: int, pixel_nm: float) -> np.ndarray:
    axis = (np.arange(size) - size // 2) * pixel_nm
    return np.hypot(axis[:, None], axis[None])


def neck_area(planes: np.ndarray, pixel_nm: float, *, diameter_nm: float, threshold: float = THRESHOLD) -> float:
    """Area of the neck in the gap between two dots, nm2; 0 where there is none.

    Parameters
    ----------
    planes
        (s, m, m) of :func:`gap_planes`: 0 in the matrix and 1 in the bodies, the line of centres in their middle.
    pixel_nm
        Edge of a pixel, nm.
    diameter_nm
        Nominal dot diameter, nm.
    threshold
        Contour, as a fraction of the step between the level of the gap and that of the neck.

    Notes
    -----
    The level of the gap is the median beside the neck, that of the neck the mean of its core in its darkest plane, at
    most that of the bodies. Neither is an extreme value, which noise would shift.
    """
    return _seen(planes, pixel_nm, diameter_nm, threshold)[0]


def _seen(
    planes: np.ndarray, pixel_nm: float, diameter_nm: float, threshold: float = THRESHOLD
) -> tuple[float, np.ndarray, float, float]:
    """Area of the neck (nm2, 0 for none), the picture of the gap, its level beside the neck, and the neck's own."""
    planes = _around_gap(planes)
    picture = planes.min(axis=0)
    radius = _radius(picture.shape[0], pixel_nm)
    facet, near = radius < FACET_DIAMETERS * diameter_nm, radius <= OFF_AXIS_DIAMETERS * diameter_nm
    gap = np.percentile(picture[facet], 10)
    step = max(1 - gap, 0.2)
    peak = min(1.0, (picture[near].max() - gap) / step)
    none = 0.0, picture, gap, gap
    if peak < SMALLEST_PEAK:
        return none
    slope = np.maximum(np.hypot(*np.gradient(picture)), 1e-6)
    contour = gap + FIRST_OUTLINE * peak * step
    outline, around = _outline(picture, contour, near)
    first = _diameter(_area_nm2(picture - contour, slope, around, pixel_nm))
    if first > RESOLVED_DIAMETERS * diameter_nm and peak < RESOLVED_PEAK:
        return none
    beside = facet & ~around
    if beside.sum() > LEAST_BESIDE * facet.sum():
        gap = np.median(picture[beside])
    core = ndimage.binary_erosion(outline, np.ones((3, 3)), iterations=EDGE_INSIDE)
    neck = min(1.0, planes[:, core if core.any() else outline].mean(axis=1).min())
    contour = gap + threshold * (neck - gap)
    outline, around = _outline(picture, contour, near)
    return _area_nm2(picture - contour, slope, around, pixel_nm), picture, gap, neck


def _outline(picture: np.ndarray, contour: float, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mask of the patch above the contour with the most pixels near the line of centres, and the same with its rim."""
    labels, count = ndimage.label(picture > contour)
    inside = np.bincount(labels[near], minlength=count + 1)
    inside[0] = 0
    best = int(inside.argmax())
    outline = (labels == best) & (inside[best] > 0)
    return outline, ndimage.binary_dilation(outline, iterations=EDGE_OUTSIDE)


def _area_nm2(above: np.ndarray, slope: np.ndarray, around: np.ndarray, pixel_nm: float) -> float:
    """Area of a patch: each pixel counts by where the contour passes it, which the slope of the blurred edge says."""
    return float(np.clip(0.5 + above[around] / slope[around], 0, 1).sum() * pixel_nm**2)


def measure_necks(
    image: BodyImage,
    xyz_nm,
    pairs: pd.DataFrame,
    *,
    threshold: float = THRESHOLD,
    dask: str | None = None,
    progress: str | None = None,
) -> pd.DataFrame:
    """Measure the neck of every pair of neighbours.

    Parameters
    ----------
    image
        The tomogram of bodies.
    xyz_nm
        (N, 3) centres, nm.
    pairs
        ``qd_1, qd_2, axis`` from :func:`mesotomo_utils.mapping.superlattice.neighbour_pairs`.
    threshold
        Contour of a neck between the level of the gap and that of the neck.
    dask
        Address of a Dask scheduler whose workers take the pairs; None for threads.
    progress
        Text of the progress bar.

    Returns
    -------
    DataFrame with ``qd_1, qd_2, axis, diameter_nm`` (2 sqrt(area/pi), 0 where there is no neck),
    ``sigma_nm`` (NaN: one tomogram does not tell, see :func:`neck_sigmas`) and ``length_nm``, the gap
    between the facing facets; where the neck fills it, the distance of the centres less what the bodies
    of other pairs along the same axis take on average.

    Raises
    ------
    ValueError
        A pair names a dot that is not there.
    """
    xyz = np.asarray(xyz_nm, float)
    ends = pairs[["qd_1", "qd_2"]].to_numpy(int)
    bad = np.flatnonzero(((ends < 0) | (ends >= len(xyz))).any(axis=1))
    if bad.size:
        raise ValueError(
            f"pairs: row {bad[0]} joins dots {ends[bad[0]].tolist()}, "
            f"but the table of centres has rows 0 to {len(xyz) - 1}"
        )

    def measure(planes: np.ndarray, pixel_nm: float) -> tuple[float, float]:
        area = neck_area(planes, pixel_nm, diameter_nm=image.diameter_nm, threshold=threshold)
        return area, gap_length_nm(planes, pixel_nm, diameter_nm=image.diameter_nm)

    values = _each_gap(measure, image, xyz[ends], dask=dask, progress=progress).reshape(-1, 2)
    table = pairs[["qd_1", "qd_2", "axis"]].copy()
    table["diameter_nm"], table["sigma_nm"], table["length_nm"] = _diameter(values[:, 0]), np.nan, values[:, 1]
    distance = np.linalg.norm(xyz[ends[:, 1]] - xyz[ends[:, 0]], axis=1)
    bodies = (distance - table["length_nm"]).groupby(table["axis"]).transform("mean")
    table["length_nm"] = table["length_nm"].fillna((distance - bodies).clip(lower=0))
    return table


def near_necks(image: BodyImage, xyz_nm, *, of=None, dask: str | None = None) -> pd.DataFrame:
    """Measure the neck of every two dots that are near each other, on whatever lattice they stand, if on any.

    Parameters
    ----------
    image, xyz_nm, dask
        As for :func:`measure_necks`.
    of
        Rows of dots: the necks of others are left out; None for those of all.

    Returns
    -------
    DataFrame with ``qd_1, qd_2, diameter_nm`` as there, of the pairs nearer than :data:`NEAR_DIAMETERS`, and ``away``:
    where it is True, the neck stands on the side of ``qd_1`` that is turned away from ``qd_2``. No dot was found there,
    but the needle's edge can have left a piece of one, too small to be found and joined all the same.
    """
    xyz = np.asarray(xyz_nm, float).reshape(-1, 3)
    ends, away = np.zeros((0, 2), int), np.zeros(0, bool)
    if len(xyz):
        tree = cKDTree(xyz)
        ends = tree.query_pairs(NEAR_DIAMETERS * image.diameter_nm, output_type="ndarray")
        both = np.vstack([ends, ends[:, ::-1]])
        alone = tree.query(2 * xyz[both[:, 0]] - xyz[both[:, 1]])[0] > FACING_DIAMETERS * image.diameter_nm
        away = np.arange(len(ends) + alone.sum()) >= len(ends)
        ends = np.vstack([ends, both[alone]])
    if of is not None:
        named = np.isin(ends, of).any(axis=1)
        ends, away = ends[named], away[named]
    order = np.lexsort([*ends.T[::-1], away])
    ends, away = ends[order], away[order]
    first, second = xyz[ends[:, 0]], xyz[ends[:, 1]]
    second = np.where(away[:, None], 2 * first - second, second)
    measure = partial(neck_area, diameter_nm=image.diameter_nm)
    areas = _each_gap(measure, image, np.stack([first, second], axis=1), dask=dask)
    return pd.DataFrame({"qd_1": ends[:, 0], "qd_2": ends[:, 1], "diameter_nm": _diameter(areas), "away": away})


def _each_gap(
    measure: Callable[[np.ndarray, float], Any],
    image: BodyImage,
    pairs_nm: np.ndarray,
    *,
    dask: str | None,
    progress: str | None = None,
) -> np.ndarray:
    """What ``measure`` makes of the planes across the gap of each of (N, 2, 3) pairs of centres, and of their step."""
    _ = image.sampler  # made once, before the threads or the workers ask for it
    groups = np.split(pairs_nm, range(_PAIRS_TOGETHER, len(pairs_nm), _PAIRS_TOGETHER))

    def of_group(group: np.ndarray) -> list[Any]:
        return _measured_in_turn(measure, [gap_planes(image, *pair) for pair in group])

    measured = map_items(of_group, groups, dask=dask, progress=progress)
    return np.array([values for group in measured for values in group], float)


def _measured_in_turn(measure: Callable[[np.ndarray, float], Any], gaps: list[tuple[np.ndarray, float]]) -> list[Any]:
    with _MEASURING:
        return [measure(*planes) for planes in gaps]


def _diameter(area: np.ndarray) -> np.ndarray:
    """Diameter of the circle of that area."""
    return 2 * np.sqrt(area / np.pi)


def edge_width(image: BodyImage, xyz_nm, necks: pd.DataFrame, *, dask: str | None = None) -> float:
    """How blurred the edge of a neck is about the line of centres: by the low-pass, and by its shape and place.

    Parameters
    ----------
    image, xyz_nm, dask
        As for :func:`measure_necks`.
    necks
        Of :func:`near_necks`.

    Returns
    -------
    Standard deviation, nm, of the blur that makes the edge of a round neck on the line of centres into the mean of
    those seen, each from the level beside it (0) to its own (1), of up to :data:`MOST_PROFILES`: from that of the
    low-pass, also where too few have a facet around them, to :data:`WIDEST_EDGE` times that.
    """
    diameter = image.diameter_nm
    n_bins, low_pass = 2 * PROFILE_PIXELS + 1, SIGMA_DIAMETERS * diameter
    widest = WIDEST_PROFILE_DIAMETERS * diameter
    joined = necks[(necks["diameter_nm"] > 0) & (necks["diameter_nm"] < widest) & ~necks["away"]]
    if len(joined) < LEAST_PROFILES:
        return low_pass
    some = joined.iloc[:: max(1, -(-len(joined) // MOST_PROFILES))]

    def profile(planes: np.ndarray, pixel_nm: float) -> np.ndarray:
        area, picture, gap, neck = _seen(planes, pixel_nm, diameter)
        away = _radius(picture.shape[0], pixel_nm)
        place = PROFILE_PIXELS + np.rint((away - _diameter(area) / 2) / pixel_nm).astype(int)
        near = (place >= 0) & (place < n_bins) & (away < PROFILE_FACET_DIAMETERS * diameter) & (area > 0)
        sums, counts = (np.bincount(place[near], w, n_bins) for w in (picture[near] - gap, None))
        with np.errstate(invalid="ignore"):
            return sums / counts / max(neck - gap, 1e-6)

    xyz = np.asarray(xyz_nm, float).reshape(-1, 3)
    profiles = _each_gap(profile, image, xyz[some[["qd_1", "qd_2"]].to_numpy(int)], dask=dask)
    seen = np.isfinite(profiles).sum(axis=0) >= LEAST_PROFILES
    if seen.sum() < PROFILE_PIXELS:
        return low_pass
    mean = np.nanmedian(profiles[:, seen], axis=0)
    away = (np.flatnonzero(seen) - PROFILE_PIXELS) * PIXEL_DIAMETERS * diameter
    fit = optimize.least_squares(
        lambda p: blurred_edge((away - p[0]) / p[1]) - mean,
        (0.0, 1.5 * low_pass),
        bounds=([-2 * low_pass, low_pass], [2 * low_pass, WIDEST_EDGE * low_pass]),
    )
    return float(fit.x[1])


def blurred_edge(x: np.ndarray) -> np.ndarray:
    """Level at x standard deviations outside an edge of height 1 blurred by a Gaussian (to 0.01)."""
    return 1 / (1 + get_array_module(x).exp(1.702 * x))


def neck_sigmas(
    necks: pd.DataFrame,
    even: BodyImage,
    odd: BodyImage,
    xyz_nm,
    *,
    threshold: float = THRESHOLD,
    dask: str | None = None,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Standard deviation of the neck diameters, from tomograms of the even and the odd tilts.

    Parameters
    ----------
    necks
        From :func:`measure_necks`.
    even, odd
        The tomograms of bodies of the two halves of the tilts.
    xyz_nm
        (N, 3) centres, nm.
    threshold, dask
        As there.

    Returns
    -------
    (N,) sigmas in nm, and a DataFrame ``even_nm, odd_nm`` of both measurements, a row for each pair compared: up
    to :data:`MOST_COMPARED` of the pairs with a neck, evenly taken.

    Notes
    -----
    One model for all necks: half the robust standard deviation of the difference of the halves, over
    the necks that both halves see, and in quadrature what halves cannot show (:data:`SHARED_DIAMETERS`), which
    is the larger part at common doses. Pairs without a neck get the value of the others.
    """
    joined = necks[necks["diameter_nm"] > 0]
    some = joined.iloc[:: max(1, -(-len(joined) // MOST_COMPARED))]
    halves = [
        measure_necks(half, xyz_nm, some, threshold=threshold, dask=dask)["diameter_nm"].to_numpy()
        for half in (even, odd)
    ]
    both = (halves[0] > 0) & (halves[1] > 0)
    sigma = np.nan
    if both.sum() >= 5:
        noise = 1.4826 * np.median(np.abs(halves[0] - halves[1])[both]) / 2
        sigma = np.hypot(noise, SHARED_DIAMETERS * even.diameter_nm)
    return np.full(len(necks), sigma), pd.DataFrame({"even_nm": halves[0], "odd_nm": halves[1]})
