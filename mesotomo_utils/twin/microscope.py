"""A model HAADF microscope: atoms in, a tilt series as recorded out, with its true alignment.

The image of a tilt is the band-limited sum over atoms of Z^1.7, blurred by the probe and by thermal
motion, plus carbon and a uniform background, read at the pixel centres, with Poisson noise.

Geometry, the package's convention (`mesotomo_utils.tomography.alignment_geometry`): at tilt t a point
(x, y, z) is ideally seen at (z, u) with ``u = x cos t + y sin t``; the recorded image is the ideal
one, turned about the image centre by the axis tilt a (from +u towards +z) and moved:

    z' = z cos a + u sin a + shift_z
    u' = u cos a - z sin a + axis_offset + shift_u

Shifts are observed minus ideal positions. A scan that is not true to scale distorts what it sees about the
place of the shift; before the shift is added,

    z' -> (1 + image_stretch_z) z'
    u' -> (1 + image_stretch_u) u' + z' tan(image_shear)

and a specimen that drifts along its own x while the scan proceeds along z shows, at every tilt, what a sheared
one would: x -> x + z tan(specimen_shear), hence u + z tan(specimen_shear) cos t. All four are 0 by default.

Everything comes from `rng`; each tilt has its own stream,
so the images do not depend on how many threads make them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import finufft
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import fft, special

from mesotomo_utils.distribute import map_items
from mesotomo_utils.tomography.tilt_series import TiltSeries
from mesotomo_utils.twin.imposed import TwinParameters

Z_CARBON = 6
Z_SPECIES = (82, 34)  # Pb, Se: the species 0 and 1 of `twin.atoms`
FWHM_PER_SD = 2.0 * np.sqrt(2.0 * np.log(2.0))
BRIGHT_FRACTION = 0.01
TOLERANCE = 1e-4
"""Of the non-uniform transform; two orders below the counting noise of one pixel."""

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Recording:
    """A recorded series and what was done to it.

    Attributes
    ----------
    series
        Detected electrons ``[tilt, z, u]`` with the nominal angles.
    alignment
        ``tilt, angle_nominal_deg, angle_deg, shift_z_nm, shift_u_nm``: the true values.
    truth
        ``axis_tilt_deg, axis_offset_nm, electrons_per_weight, background_electrons``.
    """

    series: TiltSeries
    alignment: pd.DataFrame
    truth: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Specimen:
    """What the beam sees.

    Attributes
    ----------
    positions_nm, species
        (N, 3) float32 atoms and (N,) their species, 0 Pb, 1 Se.
    radius_nm
        Of the needle; carbon reaches ``carbon_shell_nm`` further.
    """

    positions_nm: NDArray[np.float32]
    species: NDArray[np.int8]
    radius_nm: float

    @property
    def half_height_nm(self) -> float:
        """Largest distance of an atom from the middle along the axis."""
        return float(np.abs(self.positions_nm[:, 2]).max()) if len(self.positions_nm) else 0.0


def true_alignment(parameters: TwinParameters, rng: np.random.Generator) -> pd.DataFrame:
    """Shifts and angles of every tilt: a drift walk with its mean removed, jitter, angle errors.

    Returns
    -------
    DataFrame ``tilt, angle_nominal_deg, angle_deg, shift_z_nm, shift_u_nm``.
    """
    p = parameters
    n = p.n_tilts
    nominal = p.first_tilt_deg + p.tilt_step_deg * np.arange(n)
    drift = np.cumsum(rng.normal(0.0, p.drift_px, (n, 2)), axis=0)
    shift = drift - drift.mean(axis=0) + rng.normal(0.0, p.jitter_px, (n, 2))
    return pd.DataFrame(
        {
            "tilt": np.arange(n),
            "angle_nominal_deg": nominal,
            "angle_deg": nominal + rng.normal(0.0, p.angle_error_deg, n),
            "shift_z_nm": shift[:, 0] * p.pixel_nm,
            "shift_u_nm": shift[:, 1] * p.pixel_nm,
        }
    )


def image_shape(parameters: TwinParameters, specimen: Specimen, alignment: pd.DataFrame) -> tuple[int, int]:
    """Rows and columns, multiples of 8, that hold the needle at every tilt with a margin."""
    p = parameters
    if p.image_shape is not None:
        return p.image_shape
    half_u = specimen.radius_nm + p.carbon_shell_nm
    half_z = specimen.half_height_nm + p.carbon_shell_nm
    turn = abs(np.sin(np.deg2rad(p.axis_tilt_deg)))
    half_z, half_u = half_z + turn * half_u, half_u + turn * half_z
    shear = np.abs(np.tan(np.deg2rad([p.image_shear_deg, p.specimen_shear_deg]))).sum()
    half_z, half_u = half_z * (1 + p.image_stretch_z), half_u * (1 + p.image_stretch_u) + shear * half_z
    half_z += alignment["shift_z_nm"].abs().max() + p.margin_nm
    half_u += (alignment["shift_u_nm"] + p.axis_offset_px * p.pixel_nm).abs().max() + p.margin_nm
    rows, columns = (int(8 * np.ceil(2 * half / p.pixel_nm / 8)) for half in (half_z, half_u))
    return rows, columns


def record_series(
    specimen: Specimen,
    parameters: TwinParameters,
    rng: np.random.Generator,
    *,
    name: str = "twin",
    workers: int | None = None,
    progress: str | None = "imaging",
) -> Recording:
    """Image a specimen at every tilt.

    Parameters
    ----------
    specimen
        Atoms and the needle's radius.
    parameters
        Geometry, errors, optics and dose.
    rng
        The only source of randomness.
    name
        Of the series.
    workers
        Threads over tilts; the result does not depend on it.
    progress
        Text of the progress bar; None shows none.

    Returns
    -------
    Recording
        Counts are whole numbers. The mean of the brightest hundredth of the noise-free image
        nearest to 0 degrees is ``dose_electrons``.
    """
    p = parameters
    alignment = true_alignment(p, rng)
    shape = image_shape(p, specimen, alignment)
    grains = carbon_grains(specimen, p, rng)
    streams = rng.spawn(p.n_tilts)

    def weights(tilt: int) -> NDArray[np.float32]:
        return project(specimen, p, shape, grains=grains, **_geometry(p, alignment, tilt))

    middle = int(np.argmin(np.abs(alignment["angle_nominal_deg"])))
    bright = brightest(weights(middle))
    # the background belongs to the dose: together they make the brightest hundredth
    background = p.dose_electrons * p.background / (1 + p.background)
    gain = (p.dose_electrons - background) / bright
    images = np.empty((p.n_tilts, *shape), dtype=np.float32)

    def record(tilt: int) -> None:
        expected = np.maximum(gain * weights(tilt) + background, 0.0)
        # a stream for each row: where another processor's last digit decides a draw, only what follows in the row moves
        for row, (stream, mean) in enumerate(zip(streams[tilt].spawn(len(expected)), expected, strict=True)):
            images[tilt, row] = stream.poisson(mean)

    map_items(record, range(p.n_tilts), workers=workers, progress=progress)
    series = TiltSeries(
        images=images,
        angles_deg=alignment["angle_nominal_deg"].to_numpy(),
        pixel_nm=p.pixel_nm,
        name=name,
        metadata={"unit": "detected electrons"},
    )
    truth = {
        "axis_tilt_deg": p.axis_tilt_deg,
        "axis_offset_nm": p.axis_offset_px * p.pixel_nm,
        "electrons_per_weight": float(gain),
        "background_electrons": float(background),
    }
    return Recording(series, alignment, truth)


def brightest(image: NDArray[np.float32]) -> float:
    """Mean of the brightest hundredth of the pixels."""
    n = max(round(BRIGHT_FRACTION * image.size), 1)
    return float(np.partition(image.ravel(), -n)[-n:].mean(dtype=np.float64))


def _geometry(p: TwinParameters, alignment: pd.DataFrame, tilt: int) -> dict[str, float]:
    row = alignment.iloc[tilt]
    return {
        "angle_deg": float(row["angle_deg"]),
        "axis_tilt_deg": p.axis_tilt_deg,
        "shift_z_nm": float(row["shift_z_nm"]),
        "shift_u_nm": float(row["shift_u_nm"]) + p.axis_offset_px * p.pixel_nm,
    }


def recorded_place(p: TwinParameters, *, angle_deg: float, axis_tilt_deg: float = 0.0) -> Array:
    """Linear part of the way from the specimen to its recorded image.

    Parameters
    ----------
    p
        Stretch and shear of image and specimen.
    angle_deg, axis_tilt_deg
        Tilt and tilt of the axis.

    Returns
    -------
    (2, 3) matrix that takes (x, y, z) to (z', u'), without the shift.
    """
    t, a = np.deg2rad([angle_deg, axis_tilt_deg])
    specimen = np.eye(3)
    specimen[0, 2] = np.tan(np.deg2rad(p.specimen_shear_deg))
    projection = np.array([[0.0, 0.0, 1.0], [np.cos(t), np.sin(t), 0.0]])
    turn = np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    scan = np.array([[1 + p.image_stretch_z, 0.0], [np.tan(np.deg2rad(p.image_shear_deg)), 1 + p.image_stretch_u]])
    return scan @ turn @ projection @ specimen


def carbon_grains(specimen: Specimen, parameters: TwinParameters, rng: np.random.Generator) -> NDArray[np.float32]:
    """(N, 3) points spread evenly over the carbon, whose blurred sum is its granularity."""
    p = parameters
    radius = specimen.radius_nm + p.carbon_shell_nm
    half = specimen.half_height_nm + p.carbon_shell_nm
    n = int(2 * half * np.pi * radius**2 / p.carbon_grain_nm**3 * 0.5)
    r = radius * np.sqrt(rng.random(n))
    turn = 2 * np.pi * rng.random(n)
    z = half * (2 * rng.random(n) - 1)
    return np.column_stack([r * np.cos(turn), r * np.sin(turn), z]).astype(np.float32)


def project(
    specimen: Specimen,
    parameters: TwinParameters,
    shape: tuple[int, int],
    *,
    angle_deg: float,
    axis_tilt_deg: float = 0.0,
    shift_z_nm: float = 0.0,
    shift_u_nm: float = 0.0,
    grains: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Noise-free image (rows z, columns u) of one tilt, in units of Z^1.7 a pixel.

    The sum over the image is the sum of the atoms' weights. ``shift_u_nm`` includes the axis offset.
    """
    p = parameters
    matrix = recorded_place(p, angle_deg=angle_deg, axis_tilt_deg=axis_tilt_deg)
    place = {"matrix": matrix, "shift": np.array([shift_z_nm, shift_u_nm])}
    probe = np.hypot(p.probe_fwhm_nm / FWHM_PER_SD, p.blur_nm)
    # Pb as real and Se as imaginary masses go through one transform; symmetry tells them apart
    charges = np.array(Z_SPECIES, dtype=float) ** p.z_exponent
    masses = (charges * [1, 1j]).astype(np.complex64)[specimen.species]
    lead, selenium = _split(_transform(specimen.positions_nm, masses, shape, p.pixel_nm, **place))
    spectrum = lead * _gaussian(shape, p.pixel_nm, np.hypot(probe, p.thermal_pb_nm))
    spectrum += selenium * _gaussian(shape, p.pixel_nm, np.hypot(probe, p.thermal_se_nm))
    carbon = _carbon_weight(specimen, p)
    if grains is not None and len(grains) and carbon > 0:
        blur = _gaussian(shape, p.pixel_nm, np.hypot(probe, p.carbon_grain_nm / FWHM_PER_SD))
        masses = np.full(len(grains), carbon * p.carbon_grain_fraction / len(grains), dtype=np.complex64)
        spectrum += blur * _split(_transform(grains, masses, shape, p.pixel_nm, **place))[0]
    image = fft.irfft2(spectrum, s=shape, workers=1).astype(np.float32)
    if carbon > 0:
        smooth = 1.0 if grains is None else 1.0 - p.carbon_grain_fraction
        image += smooth * _carbon_image(specimen, p, shape, **place)
    return image


def _transform(
    points: NDArray[np.float32],
    masses: NDArray[np.complex64],
    shape: tuple[int, int],
    pixel_nm: float,
    *,
    matrix: Array,
    shift: Array,
) -> NDArray[np.complex64]:
    """Full spectrum, as of fft2, of point masses; the image's origin is at its centre."""
    if len(points) == 0:
        return np.zeros(shape, dtype=np.complex64)
    phases = []
    for row, offset, n in zip(matrix.astype(np.float32), shift.astype(np.float32), shape, strict=True):
        turns = (points @ row + offset) / np.float32(n * pixel_nm) + np.float32((n - 1) / (2 * n))
        phases.append(np.float32(2 * np.pi) * (turns - np.floor(turns)))
    options = {"eps": TOLERANCE, "isign": -1, "modeord": 1, "nthreads": 1}
    return finufft.nufft2d1(*phases, masses, shape, **options)


def _split(spectrum: NDArray[np.complex64]) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """Half spectra, as of rfft2, of the real and the imaginary part of what was transformed."""
    half = spectrum.shape[1] // 2 + 1
    columns = -np.arange(half) % spectrum.shape[1]
    mirrored = np.conj(np.roll(spectrum[::-1], 1, axis=0)[:, columns])
    direct = spectrum[:, :half]
    return (direct + mirrored) / 2, (direct - mirrored) / np.complex64(2j)


def _gaussian(shape: tuple[int, int], pixel_nm: float, sd_nm: float) -> NDArray[np.float32]:
    """Transfer function of a Gaussian blur, on the half spectrum."""
    g2 = np.add.outer(fft.fftfreq(shape[0], pixel_nm) ** 2, fft.rfftfreq(shape[1], pixel_nm) ** 2)
    return np.exp(-2 * np.pi**2 * sd_nm**2 * g2).astype(np.float32)


def _carbon_weight(specimen: Specimen, p: TwinParameters) -> float:
    """Sum of Z^1.7 of all carbon: a round bar through the needle, as if the dots were not there."""
    radius = specimen.radius_nm + p.carbon_shell_nm
    height = 2 * (specimen.half_height_nm + p.carbon_shell_nm)
    return p.carbon_atoms_per_nm3 * np.pi * radius**2 * height * Z_CARBON**p.z_exponent


def _carbon_image(
    specimen: Specimen, p: TwinParameters, shape: tuple[int, int], *, matrix: Array, shift: Array
) -> NDArray[np.float32]:
    """Projected bar: its chord, with ends softened over a pixel or two, sampled at the pixels.

    A bar about z looks the same at every tilt, but for a shear of the specimen.
    """
    radius = specimen.radius_nm + p.carbon_shell_nm
    half = specimen.half_height_nm + p.carbon_shell_nm
    z = (np.arange(shape[0]) - (shape[0] - 1) / 2) * p.pixel_nm - shift[0]
    u = (np.arange(shape[1]) - (shape[1] - 1) / 2) * p.pixel_nm - shift[1]
    # the bar seen by its axis and by one direction across it, which are columns of the recorded place
    across = matrix[:, :2] @ matrix[1, :2] / np.linalg.norm(matrix[1, :2])
    back = np.linalg.inv(np.column_stack([matrix[:, 2], across]))
    ideal_z = back[0, 0] * z[:, None] + back[0, 1] * u
    ideal_u = back[1, 0] * z[:, None] + back[1, 1] * u
    chord = 2 * np.sqrt(np.maximum(radius**2 - ideal_u**2, 0.0))
    ends = 0.5 * (1 - special.erf((np.abs(ideal_z) - half) / (2 * p.pixel_nm)))
    weight = p.carbon_atoms_per_nm3 * Z_CARBON**p.z_exponent * p.pixel_nm**2 * abs(np.linalg.det(back))
    return (weight * chord * ends).astype(np.float32)
