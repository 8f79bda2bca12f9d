"""Fine alignment: every image against what all images together say it should be.

Aligned images are projections of one object; what is left of them after the best object has been
projected and taken off says how each must still move. This is reprojection matching (Guizar-Sicairos et al.
2011, Opt. Express 19, 21345; Odstrčil et al. 2019, Opt. Express 27, 36637) with one change. The
reprojection contains the very image it is compared with, and its neighbours with it, so an error
shared by many tilts (axis offset, axis tilt, a slow drift) hardly shows and plain matching needs
hundreds of rounds for it. Here the object is eliminated from the least-squares problem instead
(variable projection, Golub and Pereyra 1973; derivative after Kaufman 1975): with P the projection on what
an object can explain, r = (1 − P) data and J the derivative images, one step solves

    Jᵀ (1 − P) J · step = Jᵀ r

for all shifts, angles and the axis tilt together, by conjugate gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from mesotomo_utils.backend import cpu_count, get_array_module, to_device, to_numpy
from mesotomo_utils.distribute import map_items
from mesotomo_utils.tomography.alignment_coarse import sums_of_stretches
from mesotomo_utils.tomography.alignment_geometry import move_images, place_on_images
from mesotomo_utils.tomography.projector import Projector, angular_weights

_ANGLE_STEP_DEG = 0.2
"""Step of the numerical derivative with the tilt angle: well below the Crowther limit of any series."""
_SKETCHED_ROWS = 16
"""Random mixtures of rows that stand for all rows in the curvature (not in the gradient)."""
_ROUNDS = 4
"""Corrections of the filtered back-projection towards the least-squares object, linear in the images."""
_FIT_ROUNDS = 30
"""Most conjugate-gradient steps towards it where the rest counts: what they leave over reads as misalignment."""
_FIT_TOLERANCE = 1e-6
"""They end when the squared gradient has fallen by this factor: after eleven or so for complete tilts."""
_RADIUS = 0.4
"""Radius of the circle that holds the object, as a share of the images with their margin.

A little more than the field: a smaller one cuts what the filter carries outwards, a larger one can explain more
errors away.
"""
_CONJUGATE_STEPS = 12
_SLOWEST = 0.1
"""Width of the Gaussian whose smooth part is taken off the images, as a share of the field along u."""
_CAUTION = 60.0
"""How much more than white noise of its size what is left of the images counts against what is known beforehand.

It is not white: the filter and neighbouring tilts correlate it. On twins the gradient at the true pose scatters by 10
to 200 times what white noise would do. A thousand holds true angle errors back, 1 lets slow patterns wander by 0.1°.

For the angles it is more where :func:`_doubt`, in the same unit, is more. Twins of 36 to 180 tilts have 6 to 19;
phantoms of blobs 33 to 58, and up to 96 with contrast that is not mass; a recorded needle has 480 and projections of
its tomogram with errors like its own 110 to 190: there the angles of a step are no nearer to the truth than the nominal
ones, be those off by 0.03 or by 0.2°.
"""
_STRETCHES = 8
_AGREEMENT_ROWS, _LEAST_AGREEMENT = 16, 0.3
"""Rows, about, on which derivatives are compared; halves that agree less than that have too few tilts to tell."""
_SLOW_TURNS, _SLOW_POWER = 12, 4
"""A pattern of angle errors with k periods in 360° counts (12 / k)⁴ times as much again against what is known.

The slower, the better the object takes it up, and what moves it then is no noise that tilts average: on a twin of 590
dots a fit without this put 0.059° where four periods had 0.016°. From about twelve periods on it finds what is there.
"""
_SHEAR_SEEN_DEG = 0.1
"""Image shear from which it is solved for: freed where there is none, it takes precision from the axis tilt."""
_HELD_DEG = 1e-6
"""Standard deviation of an angle that is held at what is known beforehand."""
_EDGE = 0.08
"""Strip at the edges of the field over which images count less and less, as a share of their width."""
_MARGIN = 0.25
"""Empty margin on either side of the images, as a share of their width."""


@dataclass(frozen=True)
class Pose:
    """How N images lie, in pixels of the images it goes with.

    Attributes
    ----------
    shift_z, shift_u
        (N,) observed minus ideal position, pixels; the axis offset is in shift_u.
    angle_deg
        (N,) tilts, degrees.
    axis_tilt_deg
        Rotation of the tilt axis in the image plane, degrees.
    image_shear_deg
        Shear that the recording added, degrees.
    """

    shift_z: NDArray[np.float64]
    shift_u: NDArray[np.float64]
    angle_deg: NDArray[np.float64]
    axis_tilt_deg: float
    image_shear_deg: float = 0.0

    def scaled(self, factor: float) -> Pose:
        """The same pose in pixels ``1 / factor`` times as large."""
        return replace(self, shift_z=self.shift_z * factor, shift_u=self.shift_u * factor)

    def of_object_at(self, x: float, y: float) -> Pose:
        """The same pose in terms of an object whose point (x, y), in pixels, is brought onto the axis."""
        z, u = place_on_images((x, y, 0.0), self.angle_deg, self.axis_tilt_deg, self.image_shear_deg)
        return replace(self, shift_z=self.shift_z + z, shift_u=self.shift_u + u)

    def plus(self, step: Pose) -> Pose:
        """The pose after a step."""
        return Pose(
            self.shift_z + step.shift_z,
            self.shift_u + step.shift_u,
            self.angle_deg + step.angle_deg,
            self.axis_tilt_deg + step.axis_tilt_deg,
            self.image_shear_deg + step.image_shear_deg,
        )


@dataclass(frozen=True)
class Fit:
    """A pose and how well the images agree under it.

    Attributes
    ----------
    pose
        The refined pose.
    mismatch
        (N,) distance of each image from its reprojection when matched alone, pixels.
    misfit
        (N,) root-mean-square residual of each image relative to the image, both filtered.
    rms_steps
        Size of each step, pixels root mean square.
    """

    pose: Pose
    mismatch: NDArray[np.float64]
    misfit: NDArray[np.float64]
    rms_steps: tuple[float, ...]


def refine(
    images: NDArray[np.float32],
    pose: Pose,
    anchor: Pose,
    *,
    steps: int,
    shift_sigma: tuple[float, float] = (np.inf, np.inf),
    angle_sigma_deg: float = 0.1,
    axis_sigma_deg: float = np.inf,
    tolerance: float = 0.01,
    gain: float = 1e-5,
    device: str = "cpu",
) -> Fit:
    """Refine the pose of images by reprojection.

    Parameters
    ----------
    images
        (N, Z, U) recorded images less their background.
    pose
        Where to begin.
    anchor
        What is known beforehand: the shifts by mass and centre of mass, the axis tilt by that of every slice, the
        nominal tilts.
    steps
        Most Gauss–Newton steps.
    shift_sigma
        How far a shift along z and along u may be from the anchor's, one standard deviation, pixels.
    angle_sigma_deg
        How far a tilt may be from the anchor's, one standard deviation, degrees.
    axis_sigma_deg
        How far the axis tilt may be from the anchor's, as long as there is no image shear: slices cannot tell the two.
    tolerance
        Stop when a step is smaller than this, pixels root mean square; a turn counts as what it moves
        a point halfway to the edge by.
    gain
        Stop, without the last step, when it lowers the misfit by less than this fraction.
    device
        Where the projector runs.

    Returns
    -------
    Fit
        The best pose met; ``rms_steps`` is empty where the first step was no gain.

    Notes
    -----
    Frequencies along u beyond Crowther's 1/(D Δθ) belong to one image alone and say nothing of the
    others: they are filtered out. So are those as high along z, which would cost the angles more (up to a fifth, on
    twins) than they would give the shifts along z; the slowest, against uneven
    backgrounds and because the iteration explains them only in part, and those where noise
    outweighs the signal.
    """
    width = images.shape[2]
    crowther = 1 / (width * np.median(angular_weights(pose.angle_deg)))
    slowest = _SLOWEST * width
    # a filter carries the needle beyond the field, where no object could explain it
    margin = round(_MARGIN * width)
    images = np.pad(images, ((0, 0), (0, 0), (margin, margin)), mode="linear_ramp")
    n_z, n_u = images.shape[1:]
    k_z, k_u = fft.fftfreq(n_z)[:, None], fft.rfftfreq(n_u)[None]
    band = 1 - np.exp(-2 * (np.pi * slowest) ** 2 * (k_z**2 + k_u**2))
    band = band / np.sqrt(1 + (2 / crowther) ** 4 * (k_z**2 + k_u**2) ** 2)
    band = (band * _wiener(images)).astype(np.float32)
    sizes: list[float] = []
    residual = _residual(images, pose, band, width, device)
    angle_sigma, axis_sigma, shear = angle_sigma_deg, axis_sigma_deg, False
    agreement = _agreement(residual)  # from step to step it changes by 0.01

    def next_step() -> tuple[Pose, NDArray]:
        sigma = (*shift_sigma, angle_sigma, axis_sigma)
        return _gauss_newton(residual, pose, anchor, sigma=sigma, agreement=agreement, shear=shear)

    step, mismatch = next_step()
    last = step
    while True:
        short, step = step, _farther(step, last)
        turned = [np.deg2rad(turn) * width / 4 for turn in (step.angle_deg, step.axis_tilt_deg, step.image_shear_deg)]
        size = float(np.sqrt(np.mean(step.shift_z**2 + step.shift_u**2 + sum(np.square(turn) for turn in turned))))
        gained = False
        if len(sizes) < steps and size >= tolerance:
            tried = _residual(images, pose.plus(step), band, width, device)
            gained = _rms(tried.misfit) <= (1 - gain) * _rms(residual.misfit)
            if not gained and step is not short:
                step = short
                tried = _residual(images, pose.plus(step), band, width, device)
                gained = _rms(tried.misfit) <= (1 - gain) * _rms(residual.misfit)
        last = short
        if gained:
            pose, residual, angle_sigma = pose.plus(step), tried, angle_sigma_deg
            sizes.append(size)
        elif size >= tolerance and angle_sigma > _HELD_DEG and not sizes:
            angle_sigma = _HELD_DEG  # a bad start may lead the angles astray: shifts first
        elif shear:
            break
        else:  # the axis tilt has done what it can: is there a shear beside it?
            # it moves the centres of slices as an axis tilt does: then they are no witness of either
            shear, angle_sigma, axis_sigma, steps = True, angle_sigma_deg, np.inf, len(sizes) + steps
        step, mismatch = next_step()
        if shear and pose.image_shear_deg == 0 and abs(step.image_shear_deg) < _SHEAR_SEEN_DEG:
            break
    return Fit(pose, mismatch, residual.misfit, tuple(sizes))


def _farther(step: Pose, last: Pose) -> Pose:
    """The step, with axis tilt and shear taken to where steps that shrink evenly would lead (Aitken).

    The curvature is that of an object not fully fitted, which makes steps of what all images share too short.
    """
    ahead = {}
    for name in ("axis_tilt_deg", "image_shear_deg"):
        now, before = getattr(step, name), getattr(last, name)
        if before and 0.3 < now / before < 0.9:
            ahead[name] = now / (1 - now / before)
    return replace(step, **ahead) if ahead else step


def _rms(values: NDArray[np.float64]) -> float:
    """Of the better nine tenths, so that an outlier does not decide."""
    return float(np.sqrt(np.mean(np.sort(values)[: max(1, int(0.9 * len(values)))] ** 2)))


def _field(pose: Pose, n_u: int, width: int) -> NDArray[np.float32]:
    """(n_u,) 1 where all images show the object, falling to 0 towards the edges of the field.

    Beyond it the object is free. The filtered images are not true near their edges where the object reaches over them.
    """
    u = np.arange(n_u) - (n_u - 1) / 2
    low, high = -width / 2 - pose.shift_u.min(), width / 2 - pose.shift_u.max()
    inner = np.clip(np.minimum(u - low, high - u) / (_EDGE * width), 0, 1)
    return (np.sin(np.pi / 2 * inner) ** 2).astype(np.float32)


def _ramp(angles_deg: NDArray, n_u: int) -> NDArray[np.float64]:
    """(N, n_u // 2 + 1) filter of each tilt: the area of Fourier space that a point of its line stands for, 1/pixel.

    Lines count where they lie closer than an object of n_u pixels can tell apart. For even tilts it is the ramp, which
    stops growing at Crowther's frequency, because beyond it every line fills its neighbourhood alone; beside a gap
    or a missing wedge it is steeper.
    """
    k = fft.rfftfreq(n_u)
    radians = np.deg2rad(angles_deg)
    apart = np.sin(radians[:, None] - radians) ** 2
    # a Gaussian in the place of the transform of the object's disc, equal to it along a single line
    return 1 / n_u / np.stack([np.exp(-np.pi * (q * n_u) ** 2 * apart).sum(axis=1) for q in k], axis=1)


def _wiener(images: NDArray[np.float32]) -> NDArray[np.float64]:
    """(Z, U // 2 + 1) share of signal in the power of the images at each frequency.

    The power of a few images is averaged over rings; the corner of the spectrum is noise.
    """
    n_z, n_u = images.shape[1:]
    radius = np.hypot(fft.fftfreq(n_z)[:, None], fft.rfftfreq(n_u)[None])
    rings = np.minimum((radius * min(n_z, n_u)).astype(int), min(n_z, n_u) // 2)
    taper = np.hanning(n_z)[:, None] * np.hanning(n_u)[None]
    chosen = images[:: max(1, len(images) // 16)]
    power = np.mean([np.abs(fft.rfft2(image * taper)) ** 2 for image in chosen], axis=0)
    ring = np.bincount(rings.ravel(), power.ravel()) / np.bincount(rings.ravel())
    share = np.clip(1 - 2 * ring[-1] / ring, 0, 1)
    return share[rings]


class _Explained:
    """What an object within a circle can explain of a sinogram.

    A is the projector, R the ramp of :func:`_ramp` between two masks of the field: ``A Aᵀ R`` is nearly the projection
    P on what an object explains, and (1 − A Aᵀ R)ⁿ tends to 1 − P. An even n keeps the curvature positive where the
    circle's rim makes A Aᵀ R exceed 1. The operator is symmetric in the metric of R (:meth:`weigh`).
    """

    def __init__(self, angles_deg: NDArray, mask: NDArray[np.float32], device: str) -> None:
        n_u = len(mask)
        self.angles_deg = angles_deg
        self.mask = mask
        self.size = 2 * int(np.ceil(_RADIUS * n_u)) + 1  # the square about the circle
        # each core has a part of the rows: transforms as small as these gain nothing by threads of their own
        self.projector = Projector(angles_deg, n_u, size=self.size, device=device, threads=1)
        self.n_u = n_u
        self.device = device
        ramp = _ramp(angles_deg, n_u)
        self.weight = np.float32(ramp.max())
        self.ramp = (ramp / ramp.max()).astype(np.float32)
        x = np.arange(self.size) - (self.size - 1) / 2
        self.inside = to_device((np.hypot(x, x[:, None]) < _RADIUS * n_u).astype(np.float32), device)

    @cached_property
    def ahead(self) -> Projector:
        """The projector with each tilt a step further, for derivatives with the angle."""
        return Projector(self.angles_deg + _ANGLE_STEP_DEG, self.n_u, size=self.size, device=self.device)

    def weigh(self, sinogram: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, …, U) images under mask and ramp, the metric in which the curvature is symmetric."""
        ramp = self.ramp.reshape(len(self.ramp), *[1] * (sinogram.ndim - 2), -1)
        spectrum = fft.rfft(sinogram * self.mask, axis=-1, workers=cpu_count()) * ramp
        return fft.irfft(spectrum, n=self.n_u, axis=-1, workers=cpu_count()) * self.mask

    def split(self, sinogram: NDArray[np.float32]) -> tuple[NDArray, NDArray[np.float32]]:
        """The object (on the device) and what of the sinogram it leaves unexplained."""
        slices, rest = 0.0, sinogram
        for _ in range(_ROUNDS):
            correction = self._back(self.weigh(rest))
            slices = slices + correction
            rest = rest - self._forward(correction)
        return slices, rest

    def fit(self, sinogram: NDArray[np.float32]) -> tuple[NDArray, NDArray[np.float32]]:
        """The same by conjugate gradients, closer to the least-squares object but not linear in the sinogram.

        They always start at nothing: one that took up another's object would go on to fit it better, which reads
        as a better pose.
        """
        rest = sinogram.copy()
        gradient = self._back(self.weigh(rest))
        slices, direction = 0.0, gradient
        size = first = float((gradient * gradient).sum())
        for _ in range(_FIT_ROUNDS):
            if size <= _FIT_TOLERANCE * first:
                break
            image = self._forward(direction)
            bend = float(np.vdot(image, self.weigh(image))) * float(self.weight)
            if bend <= 0:
                break
            slices = slices + (size / bend) * direction
            rest -= np.float32(size / bend) * image
            gradient = self._back(self.weigh(rest))
            size, last = float((gradient * gradient).sum()), size
            direction = gradient + (size / last) * direction
        return slices, rest

    def _back(self, weighed: NDArray[np.float32]) -> NDArray:
        """Back-projection of weighed images into the circle, on the device."""
        parts = self._parts(weighed * self.weight, axis=1)
        back = map_items(lambda part: self.projector.adjoint(to_device(part, self.device)) * self.inside, parts)
        return get_array_module(*back).concatenate(back)

    def _forward(self, slices: NDArray) -> NDArray[np.float32]:
        parts = self._parts(slices, axis=0)
        return np.concatenate(map_items(lambda part: to_numpy(self.projector.forward(part)), parts), axis=1)

    def _parts(self, stack: NDArray, *, axis: int) -> list[NDArray]:
        """The rows, shared out among the cores; each part begins at an even one, as pairs share a transform."""
        n_z, n = stack.shape[axis], cpu_count() if self.device == "cpu" else 1
        bounds = [2 * (n_z * i // (2 * n)) for i in range(n)] + [n_z]
        return [stack[(slice(None),) * axis + (slice(*pair),)] for pair in pairwise(bounds) if pair[0] < pair[1]]


@dataclass(frozen=True)
class _Residual:
    """What the object that explains the images best leaves unexplained, in the band that is matched.

    ``data, rest`` and ``pull`` (the rest in the metric of :class:`_Explained`) are (N, Z, U), ``slices`` the
    object on the device; ``rows`` those that every image shows, ``misfit`` (N,) is taken over them.
    """

    data: NDArray[np.float32]
    slices: NDArray[np.float32]
    rest: NDArray[np.float32]
    pull: NDArray[np.float32]
    rows: slice
    misfit: NDArray[np.float64]
    explained: _Explained


def _residual(images: NDArray[np.float32], pose: Pose, band: NDArray[np.float32], width: int, device: str) -> _Residual:
    """Bring the images to a pose and take off what one object explains of them."""
    n_z, n_u = images.shape[1:]
    options = {"image_shear_deg": pose.image_shear_deg}
    aligned = move_images(images, pose.shift_z, pose.shift_u, pose.axis_tilt_deg, **options)
    data = np.stack(map_items(lambda image: fft.irfft2(fft.rfft2(image) * band, s=(n_z, n_u)), list(aligned)))
    explained = _Explained(pose.angle_deg, _field(pose, n_u, width), device)
    slices, rest = explained.fit(data)
    # rows that a shift or the rotation takes out of some image are no data
    lost = np.abs(pose.shift_z).max() + np.sin(np.deg2rad(abs(pose.axis_tilt_deg))) * n_u / 2
    margin = min(int(np.ceil(lost)) + 2, n_z // 4)
    rows = slice(margin, n_z - margin)
    pull = explained.weigh(rest)
    energy = np.einsum("tij,tij->t", data[:, rows], explained.weigh(data)[:, rows])
    misfit = np.sqrt(np.einsum("tij,tij->t", rest[:, rows], pull[:, rows]) / np.maximum(energy, 1e-30))
    return _Residual(data, slices, rest, pull, rows, misfit, explained)


def _gauss_newton(
    residual: _Residual,
    pose: Pose,
    anchor: Pose,
    *,
    sigma: tuple[float, float, float, float],
    agreement: float,
    shear: bool,
) -> tuple[Pose, NDArray]:
    """One step for all parameters, the image shear only where it is asked for, and the mismatch of each image."""
    data, rest, pull, rows = residual.data, residual.rest, residual.pull, residual.rows
    explained = residual.explained
    n_t, n_z, n_u = data.shape
    turned = to_numpy(explained.ahead.forward(residual.slices))
    n_rows = rows.stop - rows.start
    mix = np.eye(n_rows, dtype=np.float32)
    if n_rows > _SKETCHED_ROWS:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (_SKETCHED_ROWS, n_rows))
        mix = (signs / np.sqrt(_SKETCHED_ROWS)).astype(np.float32)
    z = (np.arange(n_z, dtype=np.float32) - (n_z - 1) / 2)[:, None]
    u = (np.arange(n_u, dtype=np.float32) - (n_u - 1) / 2)[None]
    along_z = (2j * np.pi * fft.fftfreq(n_z))[:, None].astype(np.complex64)
    along_u = (2j * np.pi * fft.rfftfreq(n_u))[None].astype(np.complex64)
    arm = n_u / 2  # angles count as the pixels they move the edge of the image by

    def derivatives(t: int) -> tuple[NDArray, NDArray, NDArray]:
        model = data[t] - rest[t]
        spectrum = fft.rfft2(model)
        by_z = fft.irfft2(spectrum * along_z, s=(n_z, n_u))
        by_u = fft.irfft2(spectrum * along_u, s=(n_z, n_u))
        by_angle = (turned[t] - model) / (np.deg2rad(_ANGLE_STEP_DEG) * arm)
        # a shift s still in the image shows it as ideal(z − s), hence the signs
        common = [(z * by_u - u * by_z) / arm] + [-z * by_u / arm] * shear
        stack = np.stack([-by_z, -by_u, by_angle, *common])[:, rows]
        seen = pull[t][rows]
        return np.matmul(mix, stack), np.einsum("cij,ij->c", stack, seen), np.einsum("ij,ij->i", stack[0], seen)

    # [tilt, (z, u, angle, axis, shear), mixture, u]; [tilt, (z, …)]; [tilt, row]
    columns, gradient, pull_z = map(np.stack, zip(*map_items(derivatives, range(n_t)), strict=True))
    gradient = gradient.astype(np.float64)
    curvature = float(np.vdot(columns[:, 0], explained.weigh(columns[:, 0]))) / n_t
    noise = _CAUTION * float(np.mean(rest[:, rows] * pull[:, rows], dtype=np.float64))
    angle_noise = max(noise, _doubt(pull_z, curvature, agreement))
    prior = np.array([noise, noise, angle_noise]) / np.array([sigma[0], sigma[1], np.deg2rad(sigma[2]) * arm]) ** 2
    turned_by = np.deg2rad(pose.angle_deg - anchor.angle_deg) * arm
    departure = np.stack([pose.shift_z - anchor.shift_z, pose.shift_u - anchor.shift_u, turned_by], axis=1)
    patterns = slow_angle_patterns(pose.angle_deg)
    of_axis = np.deg2rad(pose.axis_tilt_deg - anchor.axis_tilt_deg) * arm, noise / (np.deg2rad(sigma[3]) * arm) ** 2
    known_common = [np.array([number] + [0.0] * shear) for number in of_axis]
    local, common, mismatch = _solve(columns, gradient, explained, patterns, (departure, prior), known_common)
    turned = np.rad2deg(local[:, 2] / arm)
    return Pose(local[:, 0], local[:, 1], turned, *np.rad2deg(common / arm).tolist()), mismatch


def _agreement(residual: _Residual) -> float:
    """Correlation of the derivatives with the tilt angle that one half of the tilts gives and the other."""
    explained = residual.explained
    order = np.argsort(explained.angles_deg, kind="stable")
    rows = np.arange(residual.rows.start, residual.rows.stop)
    rows = rows[:: max(1, len(rows) // _AGREEMENT_ROWS)]

    def derivative(half: NDArray) -> NDArray[np.float32]:
        of_half = _Explained(explained.angles_deg[half], explained.mask, explained.device)
        slices, _ = of_half.fit(residual.data[np.ix_(half, rows)])
        return to_numpy(explained.ahead.forward(slices) - explained.projector.forward(slices))

    even, odd = derivative(order[::2]), derivative(order[1::2])
    weighed = explained.weigh(odd)
    power = float(np.vdot(even, explained.weigh(even))) * float(np.vdot(odd, weighed))
    return max(float(np.vdot(even, weighed)) / max(np.sqrt(power), 1e-30), _LEAST_AGREEMENT)


def _doubt(pull_z: NDArray[np.float32], curvature: float, agreement: float) -> float:
    """How much noise the errors of the model amount to, white and in the units of what is left of the images.

    They make the (N, rows) pull scatter between stretches of rows, whose sum would do so by ``curvature`` for white
    noise of unit power. Along z, where an error of the axis or of the angles hardly shows. And they make the derivative
    with the angle look steeper than it is, the more so the less two halves of the tilts agree on it.
    """
    scatter = _STRETCHES * float(sums_of_stretches(pull_z, _STRETCHES).var(axis=1, ddof=1).mean())
    return scatter / max(curvature, 1e-30) / agreement**2


def slow_angle_patterns(angles_deg: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Orthonormal patterns of angle errors that are slow in the tilt, and how much of each a step may take.

    Parameters
    ----------
    angles_deg
        (N,) tilts.

    Returns
    -------
    (N, 3) that the object can take up, a turn and a stretch across the axis: none; (N, m) that it nearly can, and (m,)
    how much more these count against what is known beforehand.
    """
    radians = np.deg2rad(angles_deg)
    turns = [k for k in range(2, 2 * _SLOW_TURNS + 1, 2) if k <= max(2, len(radians) // 4)]
    waves = [wave(k * radians) for k in turns for wave in (np.cos, np.sin)]
    patterns = np.linalg.qr(np.stack([np.ones_like(radians), *waves], axis=1))[0]
    return patterns[:, :3], patterns[:, 3:], np.repeat((_SLOW_TURNS / np.array(turns[1:])) ** _SLOW_POWER, 2)


def _solve(
    columns: NDArray[np.float32],
    gradient: NDArray[np.float64],
    explained: _Explained,
    patterns: tuple[NDArray, NDArray, NDArray],
    known: tuple[NDArray, NDArray],
    known_common: list[NDArray],
) -> tuple[NDArray, NDArray, NDArray]:
    """Conjugate gradients on the reduced normal equations: local (N, 3), common to all (1 or 2,), mismatch (N,).

    ``patterns`` are of :func:`slow_angle_patterns`; ``known`` is how far each image is from where it was expected
    (N, 3) and what that costs (3,), ``known_common`` the same of what is common.
    """
    (departure, prior), (common_departure, common_prior) = known, known_common
    n_t, n_c = departure.shape
    free, slow, caution = patterns
    scale = np.sqrt(np.einsum("tcij,tcij->c", columns, columns, dtype=np.float64) / n_t)
    scale = np.where(scale > 0, scale, 1.0)
    columns = columns / scale[:, None, None].astype(np.float32)
    gradient = gradient / scale
    trust, common_trust = prior / scale[:n_c] ** 2, common_prior / scale[n_c:] ** 2
    blocks = np.einsum("tcij,tdij->tcd", columns[:, :n_c], explained.weigh(columns[:, :n_c])) + 1e-3 * np.eye(n_c)
    single = np.linalg.inv(blocks)
    blocks = blocks + np.diag(trust)
    inverse = np.linalg.inv(blocks)
    common_weight = np.maximum(np.einsum("tcij,tcij->c", columns[:, n_c:], columns[:, n_c:]), 1e-3) + common_trust

    def held(local: NDArray) -> NDArray:
        """What it costs to be this far from what is known beforehand."""
        cost = trust * local
        cost[:, 2] += trust[2] * (slow @ (caution * (slow.T @ local[:, 2])))
        return cost

    def joined(local: NDArray, common: NDArray) -> NDArray:
        local = local.copy()
        local[:, 2] -= free @ (free.T @ local[:, 2])
        return np.concatenate([local.ravel(), common])

    def parted(x: NDArray) -> tuple[NDArray, NDArray]:
        return x[: n_t * n_c].reshape(n_t, n_c), x[n_t * n_c :]

    def curvature(x: NDArray) -> NDArray:
        local, common = parted(x)
        weights = np.concatenate([local, np.broadcast_to(common, (n_t, len(common)))], axis=1, dtype=np.float32)
        rest = explained.weigh(explained.split(np.einsum("tc,tcij->tij", weights, columns))[1])
        products = np.einsum("tcij,tij->tc", columns, rest)
        pulled = products[:, n_c:].sum(axis=0) + common_trust * common
        return joined(products[:, :n_c] + held(local), pulled) + 1e-4 * x

    # half of what the patterns add to the curvature of angles, on either side of the inverse of the images' own
    shrink = 1 - 1 / np.sqrt(1 + trust[2] * caution / blocks[:, 2, 2].mean())

    def eased(local: NDArray) -> NDArray:
        local = local.copy()
        local[:, 2] -= slow @ (shrink * (slow.T @ local[:, 2]))
        return local

    def precondition(x: NDArray) -> NDArray:
        local, common = parted(x)
        return joined(eased(np.einsum("tcd,td->tc", inverse, eased(local))), common / common_weight)

    own = gradient[:, :n_c]
    right = joined(
        own - held(departure * scale[:n_c]),
        gradient[:, n_c:].sum(axis=0) - common_trust * common_departure * scale[n_c:],
    )
    local, common = parted(_conjugate_gradients(curvature, right, precondition))
    alone = np.einsum("tcd,td->tc", single, own) / scale[:n_c]
    return local / scale[:n_c], common / scale[n_c:], np.hypot(alone[:, 0], alone[:, 1])


def _conjugate_gradients(
    curvature: Callable[[NDArray], NDArray], right: NDArray, precondition: Callable[[NDArray], NDArray]
) -> NDArray:
    """A few preconditioned steps; stops where rounding makes the curvature negative."""
    x, residual = np.zeros_like(right), right.copy()
    direction = precondition(residual)
    size = first = residual @ direction
    for _ in range(_CONJUGATE_STEPS):
        if size <= 1e-4 * first:
            break
        image = curvature(direction)
        bend = direction @ image
        if bend <= 0:
            break
        x += size / bend * direction
        residual -= size / bend * image
        better = precondition(residual)
        size, last = residual @ better, size
        direction = better + size / last * direction
    return x
