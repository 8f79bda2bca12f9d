"""Bragg spots of one dot in three dimensions: found, indexed, and measured against the noise around them.

Nothing is known beforehand but the cubic lattice parameter: not where a dot sits, nor how it is turned. Spatial
frequencies are q = 1/d in nm⁻¹, without 2π; vectors are (x, y, z) in the laboratory frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import fft
from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter

from mesotomo_utils import backend, lattice
from mesotomo_utils.tomography.cutting import cut_cube
from mesotomo_utils.tomography.lattice_lines import FAMILIES
from mesotomo_utils.tomography.resolution import choose_windows

FALSE_SPOTS = 0.01
"""Probability that noise alone lifts one spot or more above a threshold."""
_LARGEST_STRAIN = 0.06
"""The lattice may be off its nominal parameter by this part, as a pixel size may."""
_TRIALS_PER_CELL = 3.0
"""A search between the grid points sees this many independent values in a Fourier cell of the window."""
_PEAKS_TRIED = 12
"""Pairs of so many of the strongest spots are laid on pairs of reflections."""
_POLAR_BANDS = 4
"""Bands of the angle to the tilt axis: back-projection leaves less noise near it."""
_WINDOW_DOTS = 1.3
"""Diameter of a window over that of a dot: the neighbours hardly count."""


@dataclass(frozen=True)
class BraggSpots:
    """The spots of one dot.

    Attributes
    ----------
    table
        One row a reflection, one of each Friedel pair: ``h, k, l, family, qx, qy, qz`` (1/nm, where its spot is
        strongest), ``snr`` (power there over the mean power of the noise around it), ``seen`` (above
        `known_threshold`). Empty where the spots fit no lattice.
    others
        ``qx, qy, qz, snr`` of spots above `blind_threshold` that are no reflection of this lattice: a neighbour's.
    R
        (3, 3) rotation, lab = R crystal, one of 24 equivalent ones; NaN where the spots fit no lattice.
    radii_per_nm
        Nominal |q| of each family that was looked for.
    centre_nm, window_nm
        Centre (x, y, z) and diameter of the window, nm.
    blind_threshold, known_threshold
        What the noise exceeds with the probability :data:`FALSE_SPOTS`: anywhere, and at the reflections' places.
    """

    table: pd.DataFrame
    others: pd.DataFrame
    R: np.ndarray
    radii_per_nm: dict[str, float]
    centre_nm: np.ndarray
    window_nm: float
    blind_threshold: float
    known_threshold: float


def clearest_dot(
    volume: Any, voxel_nm: float, lattice_nm: float, *, diameter_nm: float, max_windows: int = 32
) -> np.ndarray:
    """Centre of a place of a dot's size where the lattice stands out most.

    Parameters
    ----------
    volume
        (Z, Y, X), NumPy or Zarr; a Zarr array is read window by window.
    voxel_nm, lattice_nm, diameter_nm
        Edge of a voxel, cubic lattice parameter, nominal diameter of a dot, nm.
    max_windows
        Number of places tried, spread evenly over the object.

    Returns
    -------
    ndarray
        (3,) x, y, z from the centre of the volume, nm.

    Raises
    ------
    ValueError
        No lattice plane can be seen with these voxels, or the volume is not three-dimensional or is constant.

    Notes
    -----
    A crystal gathers the power of a shell in a few spots: the mean power of the finest shell up to {220} over its
    median says how clear it is. The centre is where the waves of that shell are strongest over a dot's size.
    """
    q = _reflections(lattice_nm, voxel_nm, FAMILIES[:3])["g_per_nm"].max()
    places = choose_windows(volume, voxel_nm, window_nm=_WINDOW_DOTS * diameter_nm, max_windows=max_windows)
    shape = tuple(side.stop - side.start for side in places[0])
    shell = _shell(shape, voxel_nm, q, 1 / diameter_nm)
    z, y, x = (np.hanning(n + 2)[1:-1].astype(np.float32) for n in shape)
    taper = z[:, None, None] * y[:, None] * x
    workers = backend.cpu_count()
    best, clearest = -math.inf, None
    for place in places:
        block = volume[place]
        power = np.abs(fft.rfftn((block - block.mean()) * taper, workers=workers)[shell]) ** 2
        clear = power.mean() / np.median(power)
        if clear > best:
            best, clearest = clear, place
    margin = round(0.5 * diameter_nm / voxel_nm)
    around = tuple(slice(max(0, side.start - margin), side.stop + margin) for side in clearest)
    block = volume[around]
    spectrum = fft.rfftn(block, workers=workers) * _shell(block.shape, voxel_nm, q, 1 / diameter_nm)
    waves = fft.irfftn(spectrum, block.shape, workers=workers)
    # every other voxel: what that aliases is far too fast to pass the Gaussian
    thinned = waves[::2, ::2, ::2] ** 2
    strength = gaussian_filter(thinned, 0.125 * diameter_nm / voxel_nm, mode="constant", truncate=2.5)
    voxel = 2 * np.array(np.unravel_index(np.argmax(strength), strength.shape)) + [side.start for side in around]
    return ((voxel - (np.array(volume.shape) - 1) / 2) * voxel_nm)[::-1]


def bragg_spots(
    volume: Any, voxel_nm: float, centre_nm: np.ndarray, *, lattice_nm: float, diameter_nm: float
) -> BraggSpots:
    """Find, index and measure the Bragg spots of one dot.

    Parameters
    ----------
    volume
        (Z, Y, X), NumPy or Zarr; only the window is read.
    voxel_nm
        Edge of a voxel, nm.
    centre_nm
        (3,) x, y, z from the centre of the volume, nm.
    lattice_nm
        Nominal cubic lattice parameter, nm.
    diameter_nm
        Of the dot, nm; the window is 1.3 times as wide.

    Returns
    -------
    BraggSpots
        Of the families {111}, {200}, {220}, {311} below the Nyquist frequency.

    Raises
    ------
    ValueError
        No lattice plane can be seen with these voxels.

    Notes
    -----
    The window is (1 − r²/R²)², padded to twice its size. The power of noise is exponential, so its mean is the
    median over ln 2, taken in shells and bands of the angle to the tilt axis. Spots that rise from it anywhere are
    found first; pairs of the strongest are laid on pairs of reflections of like lengths and angle, and the rotation
    that explains most of the power is kept and refined. Only then is each reflection looked up, within a Fourier
    cell of its place.
    """
    window_nm = _WINDOW_DOTS * diameter_nm
    spots = _reflections(lattice_nm, voxel_nm, FAMILIES)
    crystal = spots[["h", "k", "l"]].to_numpy(float) / lattice_nm
    low, high = (1 - _LARGEST_STRAIN) * spots["g_per_nm"].min(), (1 + _LARGEST_STRAIN) * spots["g_per_nm"].max()
    cube = cut_cube(volume, voxel_nm, centre_nm, 2 * math.ceil(window_nm / 2 / voxel_nm) + 1)
    spectrum = _spectrum(cube, voxel_nm, window_nm, low, high)
    cell = 6 / math.pi / window_nm**3
    blind = _threshold(2 / 3 * math.pi * (high**3 - low**3) / cell)
    # the flank of a peak of noise beside the ball looked at counts as well: a ball twice as wide, tried on noise
    known = _threshold(len(spots) * 4 / 3 * math.pi * (2 / window_nm) ** 3 / cell)

    radii = dict(zip(spots["family"], spots["g_per_nm"], strict=True))
    q, height = _peaks(spectrum, blind)
    R, scale = _index(q, height, np.vstack([crystal, -crystal]), tolerance=1 / window_nm)
    spots = spots[["h", "k", "l", "family"]].reindex(columns=["h", "k", "l", "family", "qx", "qy", "qz", "snr", "seen"])
    other = np.ones(len(q), bool)
    if np.isnan(scale):
        spots = spots.iloc[:0]
    else:
        for _ in range(2):
            found, power = _look_up(spectrum, scale * crystal @ R.T, 1 / window_nm)
            seen = power > known
            if seen.sum() < 3:
                break
            R, scale = _fit(crystal[seen], found[seen], power[seen])
        spots[["qx", "qy", "qz"]], spots["snr"], spots["seen"] = found, power, seen
        other = _distance(q, np.vstack([found, -found])).min(axis=1) > 1 / window_nm
    return BraggSpots(
        table=spots,
        others=pd.DataFrame(q[other], columns=["qx", "qy", "qz"]).assign(snr=height[other]),
        R=R,
        radii_per_nm=radii,
        centre_nm=np.asarray(centre_nm, float),
        window_nm=window_nm,
        blind_threshold=blind,
        known_threshold=known,
    )


def zone_section(
    volume: Any, voxel_nm: float, spots: BraggSpots, *, lattice_nm: float, edge_nm: float
) -> dict[str, object]:
    """A dot seen along that ⟨001⟩ of its lattice across which the {220} fringes are clearest.

    Parameters
    ----------
    volume
        (Z, Y, X), NumPy or Zarr; only the surroundings of the dot are read.
    voxel_nm, lattice_nm
        Edge of a voxel and nominal lattice parameter, nm.
    spots
        From :func:`bragg_spots`. Where they fit no lattice the dot is seen along the tilt axis.
    edge_nm
        Edge of the section, nm.

    Returns
    -------
    dict
        ``patch`` (N, N), mean over one lattice parameter along the zone axis, over which planes inclined to it
        cancel; ``pixel_nm``, half a voxel; ``transform``, the logarithm of its tapered power spectrum, zero
        frequency in the middle, and ``step_per_nm``, the edge of its pixels; ``zone``, the axis in words;
        ``fringes_per_nm``, (2,) frequency of the strongest {220} across and up the patch, NaN where none is seen.
    """
    axes, zone, fringes = np.eye(3), "the tilt axis", np.full(2, np.nan)
    table = spots.table[spots.table["family"] == "220"]
    if len(spots.table):
        axes, zone = np.roll(spots.R, -1, axis=1), "[100]"
    if table["seen"].any():
        weaker = [table.loc[table[index] == 0, "snr"].min() for index in "hkl"]
        number = int(np.argmax(weaker))
        axes, zone = np.roll(spots.R, -1 - number, axis=1), ("[100]", "[010]", "[001]")[number]
        strongest = table[table["hkl"[number]] == 0].nlargest(1, "snr")
        fringes = (strongest[["qx", "qy", "qz"]].to_numpy(float) @ axes[:, :2])[0]
    pixel_nm = voxel_nm / 2
    n, layers = round(edge_nm / pixel_nm), max(4, round(lattice_nm / voxel_nm))
    flat = (np.arange(n) - (n - 1) / 2) * pixel_nm
    deep = (np.arange(layers) - (layers - 1) / 2) * lattice_nm / layers
    w, v, u = np.meshgrid(deep, flat, flat, indexing="ij")
    places = np.tensordot(axes, np.stack([u, v, w]), axes=1)[::-1] / voxel_nm
    cube = cut_cube(volume, voxel_nm, spots.centre_nm, 2 * math.ceil((0.72 * edge_nm + lattice_nm) / voxel_nm) + 1)
    middle = (len(cube) - 1) / 2
    patch = map_coordinates(cube, places + middle, order=3, mode="nearest").mean(axis=0)
    taper = np.hanning(n)[:, None] * np.hanning(n)
    wide = 4 * n
    transform = np.abs(np.fft.fftshift(np.fft.fft2((patch - patch.mean()) * taper, (wide, wide)))) ** 2
    return {
        "patch": patch,
        "pixel_nm": pixel_nm,
        "transform": np.log10(transform + 1e-6 * transform.max()),
        "step_per_nm": 1 / (wide * pixel_nm),
        "zone": zone,
        "fringes_per_nm": fringes,
    }


def _reflections(lattice_nm: float, voxel_nm: float, families: tuple[tuple[int, int, int], ...]) -> pd.DataFrame:
    """Reflections below the Nyquist frequency, with room for strain."""
    table = lattice.reflections(lattice_nm, families)
    table = table[table["g_per_nm"] * (1 + _LARGEST_STRAIN) < 0.5 / voxel_nm].reset_index(drop=True)
    if table.empty:
        raise ValueError(f"voxels of {voxel_nm:g} nm show no planes of a lattice of {lattice_nm:g} nm")
    return table


def _shell(shape: tuple[int, ...], voxel_nm: float, q: float, width: float) -> np.ndarray:
    """True where the half transform of a block lies in a shell of radius q and half width."""
    frequencies = [*(np.fft.fftfreq(n, voxel_nm) for n in shape[:2]), np.fft.rfftfreq(shape[2], voxel_nm)]
    z, y, x = (f.astype(np.float32) ** 2 for f in frequencies)
    square = z[:, None, None] + y[:, None] + x
    return (square > (q - width) ** 2) & (square < (q + width) ** 2)


def _threshold(cells: float) -> float:
    """Power over noise that the strongest of so many Fourier cells of noise exceeds with little probability."""
    return -math.log(-math.expm1(math.log1p(-FALSE_SPOTS) / (_TRIALS_PER_CELL * cells)))


@dataclass(frozen=True)
class _Spectrum:
    """Power and mean noise power on a cube of frequencies about zero [kz, ky, kx]; the noise is inf off the shells."""

    power: np.ndarray
    noise: np.ndarray
    step_per_nm: float


def _spectrum(cube: np.ndarray, voxel_nm: float, window_nm: float, low: float, high: float) -> _Spectrum:
    place = (np.arange(len(cube)) - len(cube) // 2) * 2 * voxel_nm / window_nm
    square = place**2
    window = np.clip(1 - (square[:, None, None] + square[:, None] + square), 0, None) ** 2
    density = (cube - np.average(cube, weights=window)) * window
    n = fft.next_fast_len(2 * len(cube), real=True)
    step = 1 / (n * voxel_nm)
    reach = min(math.ceil(high / step) + 2, (n - 1) // 2)
    k = np.arange(-reach, reach + 1)
    half = fft.rfftn(density.astype(np.float32), (n, n, n), workers=backend.cpu_count())
    half = half[np.ix_(k, k, k[reach:])]
    power = np.empty((len(k),) * 3, np.float32)
    power[:, :, reach:] = half.real**2 + half.imag**2
    power[:, :, :reach] = power[::-1, ::-1, :reach:-1]
    square = (k * step) ** 2
    radius = np.sqrt(square[:, None, None] + square[:, None] + square)
    inside = (radius > low) & (radius < high)
    polar = np.broadcast_to(np.abs(k * step)[:, None, None], radius.shape)[inside] / radius[inside]
    label = (radius[inside] * window_nm).astype(int) * _POLAR_BANDS
    label += np.minimum((polar * _POLAR_BANDS).astype(int), _POLAR_BANDS - 1)
    values = power[inside]
    median = pd.Series(values[::3]).groupby(label[::3]).median()  # neighbours on the padded grid say the same
    mean = median.reindex(np.arange(label.max() + 1)).to_numpy() / math.log(2)
    # a missing wedge leaves a band empty; nothing there may count as a signal
    mean = np.fmax(mean, 0.05 * np.nanmean(mean))
    noise = np.full_like(power, np.inf)
    noise[inside] = mean[label]
    return _Spectrum(power, noise, step)


def _peaks(spectrum: _Spectrum, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies (M, 3) and heights of the spots above a threshold, one of each Friedel pair, strongest first."""
    start = len(spectrum.power) // 2 - 2
    power = spectrum.power[:, :, start:]
    top = (power > threshold * spectrum.noise[:, :, start:]) & (power == maximum_filter(power, 5))
    q, height = _summits(spectrum, np.argwhere(top[:, :, 2:]) + np.array([0, 0, start + 2]))
    order = np.argsort(-height)
    q, height = q[order], height[order]
    # in the face of the half space both of a pair are found
    twin = np.tril(_distance(q, -q) < 1.5 * spectrum.step_per_nm, -1).any(axis=1)
    return q[~twin], height[~twin]


def _summits(spectrum: _Spectrum, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place (M, 3) and height over noise of the parabolas through the logarithm of the power about grid points."""
    edge = len(spectrum.power) - 2
    index = np.clip(index, 1, edge)
    around = [index + offset * np.eye(3, dtype=int)[axis] for axis in range(3) for offset in (-1, 1)]
    log = np.log(np.maximum([spectrum.power[tuple(place.T)] for place in [index, *around]], 1e-30))
    before, here, after = log[1::2].T, log[0], log[2::2].T
    bend = np.minimum(before - 2 * here[:, None] + after, -1e-6)
    shift = np.clip(0.5 * (before - after) / bend, -1, 1)
    height = np.exp(here - (0.25 * (before - after) * shift).sum(axis=1)) / spectrum.noise[tuple(index.T)]
    return ((index - len(spectrum.power) // 2 + shift) * spectrum.step_per_nm)[:, ::-1], height


def _look_up(spectrum: _Spectrum, q: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """The strongest place within reach of each frequency (M, 3), and its height over noise."""
    width = math.ceil(reach / spectrum.step_per_nm)
    offsets = np.stack(np.meshgrid(*[np.arange(-width, width + 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    centre = q[:, ::-1] / spectrum.step_per_nm + len(spectrum.power) // 2
    points = np.clip(np.rint(centre)[:, None].astype(int) + offsets, 0, len(spectrum.power) - 1)
    near = np.linalg.norm(points - centre[:, None], axis=2) * spectrum.step_per_nm <= reach
    values = np.where(near, spectrum.power[tuple(np.moveaxis(points, -1, 0))], -1)
    return _summits(spectrum, points[np.arange(len(q)), values.argmax(axis=1)])


def _index(q: np.ndarray, height: np.ndarray, members: np.ndarray, *, tolerance: float) -> tuple[np.ndarray, float]:
    """Rotation (3, 3) and scale that lay most of the spots on reflections (both of each pair); NaN for under three."""
    best, answer = -math.inf, (np.full((3, 3), np.nan), math.nan)
    length = np.linalg.norm(members, axis=1)
    strain = np.abs(np.linalg.norm(q, axis=1)[:, None] / length - 1) < _LARGEST_STRAIN
    _, first_of_family = np.unique(length.round(6), return_index=True)
    for i, j in combinations(range(min(len(q), _PEAKS_TRIED)), 2):
        between = lattice.angle_deg(q[i], q[j])
        if not 10 < between < 170:
            continue
        for a in first_of_family[strain[i, first_of_family]]:
            like = strain[j] & (np.abs(lattice.angle_deg(members[a], members) - between) < 4)
            for b in np.flatnonzero(like):
                R = lattice.wahba(members[[a, b]], q[[i, j]])
                distance = _distance(q, members @ R.T)
                on = distance.min(axis=1) < tolerance
                score = np.log(height[on]).sum()
                if on.sum() >= 3 and score > best:
                    best = score
                    answer = _fit(members[distance.argmin(axis=1)[on]], q[on], height[on])
    return answer


def _fit(crystal: np.ndarray, found: np.ndarray, power: np.ndarray) -> tuple[np.ndarray, float]:
    """Rotation and scale from reflections and spots (M, 3) each, weighted by power."""
    R = lattice.wahba(crystal, found, power)
    return R, float(np.linalg.norm(found, axis=1).sum() / np.linalg.norm(crystal, axis=1).sum())


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(M, N) distances between points (M, 3) and (N, 3)."""
    return np.linalg.norm(a[:, None] - b, axis=2)
