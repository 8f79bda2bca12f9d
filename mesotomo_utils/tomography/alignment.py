"""Blind alignment of a tilt series: coarse by mass, fine by reprojection; and of its halves.

`align_series` measures, `apply_alignment` moves the images (once), `align_half` measures half the
tilts on their own and `to_frame_of` takes the result into the frame of the whole series. The sign
conventions are in :mod:`mesotomo_utils.tomography.alignment_geometry`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.signal import resample_poly

from mesotomo_utils.distribute import map_items
from mesotomo_utils.tomography import alignment_coarse as coarse
from mesotomo_utils.tomography.alignment_fine import Fit, Pose, refine
from mesotomo_utils.tomography.alignment_geometry import (
    RigidMotion,
    image_matrix,
    move_images,
    place_on_images,
    remove_rigid_motion,
)
from mesotomo_utils.tomography.projector import angular_weights
from mesotomo_utils.tomography.tilt_series import TiltSeries, TiltSeriesError

log = logging.getLogger(__name__)

_FEWEST_TILTS = 8
_FEWEST_PIXELS = 8
_COARSE_PIXELS = 160
"""Size to which images are binned for the coarse alignment, pixels."""
_FINE_PIXELS = 4e6
"""Pixels of all binned images from which the fine alignment takes no more than it needs: a minute on two cores."""
_STEPS = 12
"""Most Gauss–Newton steps."""
_TOLERANCE = 0.02
"""Steps end when they move the images by less than this, pixels."""
DOUBTFUL_MISFIT = 0.25
"""Misfit of a whole series from which its images are hardly of one object. The needle has 0.03, twins have up to 0.08,
and angles in another order than the images 0.5."""
_FILLED_FIELD = 0.57
"""Share of :func:`.alignment_coarse.at_both_borders` from which shifts along u are in doubt. A twin has none; cut to
0.64 of its width it has 0.52, and angles still to 0.03°; cut to 0.56 it has 0.66, and 0.15°. A film of dots three times
as wide as the field has 0.61, and shifts that are pixels off."""
_MISFIT_LIMIT = 8.0
"""Misfit above the other images', in robust standard deviations, from which an image is an outlier."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """How the images of a series lie.

    Attributes
    ----------
    table
        One row an image: ``tilt`` (index from 0), ``angle_nominal_deg, angle_deg, shift_z_nm, shift_u_nm``
        (observed minus ideal position; NaN for an image left out), ``residual_nm`` (distance of the image
        from its reprojection when matched alone; the image is in the reprojection, so that this says whether
        the steps have ended and not how large the errors are), ``used``.
    axis_tilt_deg
        Rotation of the tilt axis in the image plane, from +u towards +z, degrees.
    axis_offset_nm
        Distance of the tilt axis from the image centre along u, nm. It adds to ``shift_u_nm``.
    pixel_nm
        Pixel of the images that were aligned, nm.
    misfit
        Root-mean-square difference of images and reprojections relative to the images, within the
        band of frequencies that was matched.
    engine
        Levels of binning and steps taken, for the record.
    image_shear_deg
        Shear of the recorded images, along u with z, degrees; 0 where none above 0.1° is seen.
    """

    table: pd.DataFrame
    axis_tilt_deg: float
    axis_offset_nm: float
    pixel_nm: float
    misfit: float = float("nan")
    engine: str = ""
    image_shear_deg: float = 0.0

    @property
    def used(self) -> NDArray[np.bool_]:
        """(N,) images that count."""
        return self.table["used"].to_numpy(dtype=bool)

    @property
    def total_shift_u_nm(self) -> NDArray[np.float64]:
        """(N,) shift along u with the axis offset, nm."""
        return self.table["shift_u_nm"].to_numpy() + self.axis_offset_nm


def align_series(series: TiltSeries, *, device: str = "cpu", progress: bool = False) -> Alignment:
    """Measure shift and tilt of every image, the axis offset and the axis tilt, from the images alone.

    Parameters
    ----------
    series
        Recorded images with nominal angles, in any order of tilts, spread over 60° or more.
    device
        Where projections are computed.
    progress
        Print a line at the end.

    Returns
    -------
    Alignment

    Raises
    ------
    TiltSeriesError
        Fewer than 8 usable tilts, a range below 60°, images without contrast or of an object darker than its
        surroundings.

    Notes
    -----
    1. A plane through the borders of an image is its background.
    2. Mass profile for z, centre of mass for u (:mod:`.alignment_coarse`). Images of another mass
       or profile are outliers.
    3. Reprojection (:mod:`.alignment_fine`), on the columns that the object takes up, which follow one that lies beside
       the axis where the field has room for that; low-passed and thinned out to what Crowther's limit asks for: finer
       detail is not shared by images. It refines shifts, axis tilt and angles together. For a needle that lies wholly
       within the field, which shows in a constant mass or empty edges, the shifts and the axis tilt are held near those
       of step 2, as near as its slices agree on them; and the angles nearer to the nominal ones the more doubt there is
       in the model that would move them.
    4. An image that still fits far worse than the others is left out and step 3 repeated.
    5. What no series can tell is fixed by convention: mean shift along z zero, no cosine or sine of the
       tilt in the shift along u, mean of the angle errors zero, and no error
       of the angle in step with twice the tilt, which a stretched object explains as well.
    """
    check_series(series)
    images = coarse.without_background(series.images)
    if np.median(images.sum(axis=(1, 2))) < 0:
        raise TiltSeriesError(
            f"{series.name}: the object is darker than what surrounds it; expected HAADF images, bright where there is "
            "mass; if these are bright-field images, invert their contrast"
        )
    if coarse.at_both_borders(images) > _FILLED_FIELD:
        log.warning(
            "%s: the object goes on beyond both sides of the field across the axis, where alignment takes it to end: "
            "shifts may be pixels off, angles no better than nominal; a needle, or a wider field, can be aligned",
            series.name,
        )  # fmt: skip
    used = np.ones(len(series), dtype=bool)
    known, odd, scatter = _coarse(images, series.angles_deg)
    if odd.any():
        used &= ~odd
        _check_count(series, used)
        images = images[used]
        known, _, scatter = _coarse(images, series.angles_deg[used])
    sigma = coarse.moment_sigmas(images, known.shift_z, scatter)
    fit, factor = _refined(images, known, device, known, sigma)
    bad = _misfits(fit.misfit, known.angle_deg)
    if bad.any():
        used[np.flatnonzero(used)[bad]] = False
        _check_count(series, used)
        fit, factor = _refined(images[~bad], _select(fit.pose, ~bad), device, _select(known, ~bad), sigma)
    engine = f"bin {factor}: {len(fit.rms_steps)} steps, misfit {np.sqrt(np.mean(fit.misfit**2)):.4f}"
    if progress:
        print(f"alignment, {engine}")
    found = _alignment(series, fit, used, engine)
    if found.misfit > DOUBTFUL_MISFIT:
        log.warning(
            "%s: no one object explains the images (misfit %.2f, %g or less is usual); check the order of the angles, "
            "tilt_axis, and whether the object stays in the field",
            series.name, found.misfit, DOUBTFUL_MISFIT / 2.5,
        )  # fmt: skip
    return found


def apply_alignment(series: TiltSeries, alignment: Alignment, *, progress: bool = False) -> TiltSeries:
    """Bring the images to where an ideal microscope would have recorded them.

    Parameters
    ----------
    series
        The series as recorded.
    alignment
        Its alignment, from `align_series` or `align_half`.
    progress
        Show a progress bar.

    Returns
    -------
    TiltSeries
        The used images, moved by one interpolation in Fourier space, with refined angles; the tilt
        axis is the vertical centre line. Name, pixel and metadata are kept, and
        ``metadata["alignment"]`` says what was done.

    Raises
    ------
    ValueError
        The alignment is of another number of images or another pixel (both are named).
    """
    table = alignment.table
    if len(table) != len(series) or not np.isclose(alignment.pixel_nm, series.pixel_nm, rtol=1e-6):
        raise ValueError(
            f"the alignment is of {len(table)} images with {alignment.pixel_nm:g} nm pixels; {series.name} has "
            f"{len(series)} with {series.pixel_nm:g} nm: apply it to the series that it was measured on"
        )
    used = alignment.used
    moved = move_images(
        series.images[used] if not used.all() else series.images,
        table["shift_z_nm"].to_numpy()[used] / series.pixel_nm,
        alignment.total_shift_u_nm[used] / series.pixel_nm,
        alignment.axis_tilt_deg,
        image_shear_deg=alignment.image_shear_deg,
        progress="moving images" if progress else None,
    )
    done = {
        "axis_tilt_deg": alignment.axis_tilt_deg,
        "image_shear_deg": alignment.image_shear_deg,
        "axis_offset_nm": alignment.axis_offset_nm,
        "misfit": alignment.misfit,
        "engine": alignment.engine,
        "images_left_out": table["tilt"].to_numpy()[~used].tolist(),
    }
    return replace(
        series,
        images=moved,
        angles_deg=table["angle_deg"].to_numpy()[used],
        metadata={**series.metadata, "alignment": done},
    )


def half_mask(angles_deg: NDArray[np.float64], which: str) -> NDArray[np.bool_]:
    """(N,) True for the tilts of a half: every other one in the order of their angles, in whatever order they were
    recorded; ``"even"`` begins with the least.

    Raises
    ------
    ValueError
        Another name.
    """
    if which not in ("even", "odd"):
        raise ValueError(f"a half is 'even' or 'odd', not {which!r}")
    place = np.argsort(np.argsort(angles_deg, kind="stable"))
    return place % 2 == (which == "odd")


def align_half(
    series: TiltSeries, which: str, full: Alignment, *, device: str = "cpu", progress: bool = False
) -> Alignment:
    """Align every other tilt on its own and carry the result into the frame of the whole series.

    Parameters
    ----------
    series
        The series as recorded, all tilts.
    which
        ``"even"`` or ``"odd"``, counted in the order of the nominal angles.
    full
        Alignment of all tilts.
    device, progress
        As in `align_series`.

    Returns
    -------
    Alignment
        A table of all tilts with ``used`` False for the other half.

    Raises
    ------
    ValueError
        Unknown half.
    TiltSeriesError
        As `align_series`.

    Notes
    -----
    The half starts from its raw images and solves everything itself, axis tilt and offset included. It shares
    with the whole only which images are outliers, and at the end a rigid motion (four numbers).
    """
    wanted = half_mask(series.angles_deg, which) & full.used
    alone = align_series(series.select(wanted), device=device, progress=progress)
    table = full.table.copy()
    measured = ["angle_deg", "shift_z_nm", "shift_u_nm", "residual_nm"]
    table[["shift_z_nm", "shift_u_nm", "residual_nm"]] = np.nan
    table["angle_deg"] = table["angle_nominal_deg"]
    table["used"] = False
    rows = table.index[wanted]
    table.loc[rows, measured] = alone.table[measured].to_numpy()
    table.loc[rows, "used"] = alone.used
    return to_frame_of(replace(alone, table=table), full)


def to_frame_of(alignment: Alignment, reference: Alignment) -> Alignment:
    """The same alignment after the rigid motion that lays its tomogram over the reference's.

    Parameters
    ----------
    alignment, reference
        Two alignments of one series. Images that both use are compared.

    Returns
    -------
    Alignment
        Equal to the first but for a move of the specimen along x, y and z and a turn about the tilt axis, which
        change how no image fits.

    Raises
    ------
    ValueError
        Tables of different lengths, or fewer than three tilts in common.
    """
    if len(alignment.table) != len(reference.table):
        raise ValueError(
            f"expected two alignments of one series; one has {len(alignment.table)} images, "
            f"the other {len(reference.table)}"
        )
    motion = rigid_motion_between(alignment, reference)
    table = alignment.table.copy()
    table["angle_deg"] -= np.where(alignment.used, motion.angle_deg, 0.0)
    lies = alignment.axis_tilt_deg, alignment.image_shear_deg
    move = place_on_images((motion.x_nm, motion.y_nm, motion.z_nm), table["angle_deg"], *lies)
    table["shift_z_nm"] -= move[0]
    table["shift_u_nm"] -= move[1]
    return replace(alignment, table=table)


def rigid_motion_between(alignment: Alignment, reference: Alignment) -> RigidMotion:
    """The rigid motion of the specimen that one alignment sees relative to another."""
    both = alignment.used & reference.used
    if both.sum() < 3:
        raise ValueError(f"expected three or more tilts used by both alignments; found {int(both.sum())}")
    mine, other = alignment.table[both], reference.table[both]
    *_, motion = remove_rigid_motion(
        mine["shift_z_nm"] - other["shift_z_nm"],
        (alignment.total_shift_u_nm - reference.total_shift_u_nm)[both],
        other["angle_deg"],
        mine["angle_deg"] - other["angle_deg"],
        axis_tilt_deg=alignment.axis_tilt_deg,
        image_shear_deg=alignment.image_shear_deg,
    )
    return motion


def _coarse(images: NDArray[np.float32], angles_deg: NDArray) -> tuple[Pose, NDArray[np.bool_], float]:
    """Coarse pose, images that do not belong, and the standard error of a shift along u; all in full pixels."""
    factor = max(1, int(np.ceil(max(images.shape[1:]) / _COARSE_PIXELS)))
    small, (z0, u0) = _bin(images, factor)
    shift_z, likeness = coarse.profile_shifts(small)
    shift_u = coarse.centre_of_mass_shifts(small, angles_deg, shift_z)
    odd = coarse.odd_images(small, likeness, angles_deg)
    tilt, sigma_u = 0.0, float("nan")
    if not odd.any():
        shift_z, shift_u, tilt, sigma_u = coarse.refine_by_slices(small, angles_deg, shift_z, shift_u)
    return Pose(shift_z * factor + z0, shift_u * factor + u0, angles_deg.copy(), tilt), odd, sigma_u * factor


def _refined(
    images: NDArray[np.float32], pose: Pose, device: str, known: Pose, sigma: tuple[float, float]
) -> tuple[Fit, int]:
    """Refine on the columns that the object takes up, binned by a factor; poses and sigma in full pixels."""
    mass = coarse.column_mass(images)
    at = coarse.object_place(mass, known.angle_deg, known.shift_u)
    first, width = coarse.object_columns(mass, place_on_images((*at, 0.0), known.angle_deg)[1])
    u0 = first + (width - images.shape[2]) / 2
    if np.ptp(first):
        images = np.stack([image[:, start : start + width] for image, start in zip(images, first, strict=True)])
    else:
        images, at = images[:, :, first[0] : first[0] + width], np.zeros(2)
    factor = _fine_bin(images.shape[1:], known.angle_deg)
    small, (z0, beside) = _bin(images, factor)
    u0 += beside

    def binned(full: Pose) -> Pose:
        full = full.of_object_at(*at)
        return replace(full, shift_z=(full.shift_z - z0) / factor, shift_u=(full.shift_u - u0) / factor)

    options = {"steps": _STEPS, "tolerance": _TOLERANCE / factor, "device": device}
    options["shift_sigma"] = (sigma[0] / factor, sigma[1] / factor)
    if known.axis_tilt_deg != 0:  # the slices told it
        options["axis_sigma_deg"] = np.rad2deg(sigma[1] * np.sqrt(12) / images.shape[1])
    fit = refine(small, binned(pose), binned(known), **options)
    found = fit.pose.scaled(factor)
    found = replace(found, shift_z=found.shift_z + z0, shift_u=found.shift_u + u0).of_object_at(*-at)
    return replace(fit, pose=found, mismatch=fit.mismatch * factor), factor


def _bin(images: NDArray[np.float32], factor: int) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Images on a grid coarser by a factor, and where its centre lies in the full ones, pixels from their centre.

    Low-passed before they are thinned out: the mean of a few pixels would leave atomic fringes behind as
    a moiré of another period, which no object explains.
    """
    if factor == 1:
        return images, (0.0, 0.0)
    n_z, n_u = images.shape[1:]
    rows, columns = (n_z - 1) // factor + 1, (n_u - 1) // factor + 1
    z0, u0 = (n_z - 1) % factor // 2, (n_u - 1) % factor // 2

    def thin(image: NDArray[np.float32]) -> NDArray[np.float32]:
        image = resample_poly(image[z0:, u0:], 1, factor, axis=0, padtype="edge")
        return resample_poly(image, 1, factor, axis=1, padtype="edge").astype(np.float32)

    binned = np.stack(map_items(thin, list(images)))
    return binned, (z0 + (rows - 1) * factor / 2 - (n_z - 1) / 2, u0 + (columns - 1) * factor / 2 - (n_u - 1) / 2)


def _fine_bin(shape: tuple[int, int], angles_deg: NDArray) -> int:
    """Largest power of two that keeps 32 rows, 48 pixels along u, and what Crowther's limit needs there.

    Where that leaves many pixels, whatever factor keeps a little more than the limit.
    """
    needed = max(48.0, 2 / np.median(angular_weights(angles_deg)))
    factor = 1
    while min(shape[1] / needed, shape[0] / 32) >= 2 * factor:
        factor *= 2
    most = int(min(shape[1] / (1.05 * needed), shape[0] / 32))
    while factor < most and len(angles_deg) * shape[0] * shape[1] > _FINE_PIXELS * factor**2:
        factor += 1
    return factor


def _misfits(misfit: NDArray[np.float64], angles_deg: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Images far worse than all others and than the tilts beside them: a missing wedge spoils its edges too."""
    middle = np.median(misfit)
    sigma = 1.4826 * np.median(np.abs(misfit - middle))
    order = np.argsort(angles_deg, kind="stable")
    beside = np.empty_like(misfit)
    for place, t in enumerate(order):
        near = order[max(0, place - 2) : place + 3]
        beside[t] = misfit[near[near != t]].max()
    return (misfit > middle + _MISFIT_LIMIT * max(sigma, 0.25 * middle)) & (misfit > 1.5 * beside)


def _select(pose: Pose, keep: NDArray[np.bool_]) -> Pose:
    return replace(pose, shift_z=pose.shift_z[keep], shift_u=pose.shift_u[keep], angle_deg=pose.angle_deg[keep])


def _alignment(series: TiltSeries, fit: Fit, used: NDArray[np.bool_], engine: str) -> Alignment:
    """Fix what no series can tell, and make the table."""
    pose, nominal = fit.pose, series.angles_deg[used]
    turn = float(np.mean(pose.angle_deg - nominal))
    angles = pose.angle_deg - turn
    radians = np.deg2rad(angles)
    design = np.stack([np.ones_like(radians), np.cos(radians), np.sin(radians)], axis=1)
    offset, x, y = np.linalg.lstsq(design, pose.shift_u, rcond=None)[0]
    across = design[:, 1:] @ [x, y]  # on the images; where they lie askew, a specimen that moves so moves along z too
    askew = image_matrix(pose.axis_tilt_deg, pose.image_shear_deg)[:, 1]
    shift_z = pose.shift_z - across * askew[0] / askew[1]
    table = pd.DataFrame({"tilt": np.arange(len(series)), "angle_nominal_deg": series.angles_deg})
    table["angle_deg"] = series.angles_deg
    table[["shift_z_nm", "shift_u_nm", "residual_nm"]] = np.nan
    table["used"] = used
    table.loc[used, "angle_deg"] = angles
    table.loc[used, "shift_z_nm"] = (shift_z - shift_z.mean()) * series.pixel_nm
    table.loc[used, "shift_u_nm"] = (pose.shift_u - offset - across) * series.pixel_nm
    table.loc[used, "residual_nm"] = fit.mismatch * series.pixel_nm
    if not used.all():
        log.warning("images left out of the alignment: %s", np.flatnonzero(~used).tolist())
    return Alignment(
        table=table,
        axis_tilt_deg=pose.axis_tilt_deg,
        image_shear_deg=pose.image_shear_deg,
        axis_offset_nm=float(offset * series.pixel_nm),
        pixel_nm=series.pixel_nm,
        misfit=float(np.sqrt(np.mean(fit.misfit**2))),
        engine=engine,
    )


def check_series(series: TiltSeries) -> None:
    """Refuse a series that cannot be aligned.

    Raises
    ------
    TiltSeriesError
        Fewer than 8 images with contrast, fewer than 8 pixels along an edge, or tilts that span less than 60°.
    """
    _check_count(series, np.ones(len(series), dtype=bool))
    if min(series.images.shape[1:]) < _FEWEST_PIXELS:
        found = " × ".join(map(str, series.images.shape[1:]))
        raise TiltSeriesError(
            f"{series.name}: images of {found} pixels; {_FEWEST_PIXELS} or more are needed either way"
        )
    span = float(np.ptp(series.angles_deg))
    if span < 60:
        raise TiltSeriesError(
            f"{series.name}: the tilts span {span:.1f}°, alignment by reprojection needs 60° or more; "
            "check the angles (degrees, one a line)"
        )
    flat = [i for i, image in enumerate(series.images) if float(np.ptp(image)) == 0.0]
    if len(flat) > len(series) - _FEWEST_TILTS:
        raise TiltSeriesError(
            f"{series.name}: {len(flat)} of {len(series)} images are constant (first: image {flat[0]}); "
            f"{_FEWEST_TILTS} with contrast are needed, check what was exported"
        )


def _check_count(series: TiltSeries, used: NDArray[Any]) -> None:
    if used.sum() < _FEWEST_TILTS:
        raise TiltSeriesError(
            f"{series.name}: expected {_FEWEST_TILTS} usable images or more, found {int(used.sum())} of "
            f"{len(series)}; record more tilts, or leave out the images that spoil the rest"
        )
