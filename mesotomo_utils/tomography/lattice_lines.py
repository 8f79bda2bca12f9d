"""Lattice lines in the radial spectrum of a tomogram: where they belong, and whether they are there.

Spatial frequencies are q = 1/d in nm⁻¹, without 2π.
"""

from __future__ import annotations

import math
import re
from itertools import permutations

import numpy as np
import pandas as pd

FAMILIES = ((1, 1, 1), (2, 0, 0), (2, 2, 0), (3, 1, 1))
"""The four reflections of lowest frequency that rock salt has."""
FINER = ((2, 2, 2), (4, 0, 0), (3, 3, 1), (4, 2, 0), (4, 2, 2))
"""Those that follow."""
HAADF_EXPONENT = 1.7
"""An atom's HAADF signal goes with the 1.7th power of its number (Krivanek et al., Nature 464, 571, 2010)."""
VISIBLE_SNR = 5.0
"""A line counts as visible where it stands this many standard errors above the background."""
_REACH = 0.97
"""Lines up to this part of the spectrum's last frequency can be seen: a line has a width."""
_BETWEEN = 0.3
"""Shells where the lines reach less than this part of their height count as between the lines."""
_CORRELATED_SHELLS = 2.0
"""Shells that share one independent value: they are half a frequency step wide, and the taper joins steps."""
_SYMBOLS = re.findall(
    "[A-Z][a-z]?",
    "HHeLiBeBCNOFNeNaMgAlSiPSClArKCaScTiVCrMnFeCoNiCuZnGaGeAsSeBrKrRbSrYZrNbMoTcRuRhPdAgCdInSnSbTeIXeCsBa"
    "LaCePrNdPmSmEuGdTbDyHoErTmYbLuHfTaWReOsIrPtAuHgTlPbBiPoAtRnFrRaAcThPaU",
)
"""Symbols of the elements in the order of their numbers."""


def elements(formula: str) -> tuple[int, int]:
    """Atomic numbers of a binary compound, cation first.

    Raises
    ------
    ValueError
        Not two known elements in equal parts.

    Examples
    --------
    >>> elements("PbSe")
    (82, 34)
    """
    symbols = re.fullmatch(r"([A-Z][a-z]?)([A-Z][a-z]?)", formula)
    if symbols is None or any(symbol not in _SYMBOLS for symbol in symbols.groups()):
        raise ValueError(f"material {formula!r}: expected two elements one to one, such as 'PbSe'")
    return tuple(_SYMBOLS.index(symbol) + 1 for symbol in symbols.groups())


def rocksalt_lines(
    lattice_nm: float,
    numbers: tuple[int, int],
    *,
    cation_only: bool = False,
    rms_displacement_nm: float = 0.014,
    probe_fwhm_nm: float = 0.0,
    families: tuple[tuple[int, int, int], ...] = FAMILIES,
) -> pd.DataFrame:
    """Powder lines that a rock-salt crystal puts in the radial spectrum of a HAADF tomogram.

    Parameters
    ----------
    lattice_nm
        Cubic lattice parameter, nm.
    numbers
        Atomic numbers, cation first.
    cation_only
        Leave the anions out.
    rms_displacement_nm
        Thermal displacement of an atom along one direction, nm; 0.014 is B = 1.55 Å², usual for lead salts at
        room temperature.
    probe_fwhm_nm
        Full width at half maximum of the point spread, nm.
    families
        Representatives {hkl}.

    Returns
    -------
    DataFrame
        ``family, d_nm, q_per_nm, multiplicity, intensity``; the intensity is the mean over the shell and relative to
        the strongest line.

    Raises
    ------
    ValueError
        A lattice parameter that is not positive, or mixed indices, which rock salt does not reflect.

    Notes
    -----
    F = 4(f₁ ± f₂), plus where h, k, l are even, minus where odd, with f = Z^1.7. Without the anions both
    kinds have F = 4f₁, which overstates {111} and {311}.
    """
    if lattice_nm <= 0:
        raise ValueError(f"lattice_nm must be positive, not {lattice_nm}")
    cation, anion = (number**HAADF_EXPONENT for number in numbers)
    rows = []
    for hkl in families:
        parity = {index % 2 for index in hkl}
        if len(parity) > 1:
            raise ValueError(f"{hkl}: rock salt has no reflection with mixed indices")
        factor = 4 * (cation + (0 if cation_only else anion * (1 if parity == {0} else -1)))
        q = _frequency(hkl, lattice_nm)
        sigma_probe = probe_fwhm_nm / math.sqrt(8 * math.log(2))
        blur = math.exp(-4 * math.pi**2 * q**2 * (rms_displacement_nm**2 + sigma_probe**2))
        multiplicity = len(set(permutations(hkl))) * 2 ** sum(index != 0 for index in hkl)
        rows.append(
            {
                "family": "".join(map(str, hkl)),
                "d_nm": 1 / q,
                "q_per_nm": q,
                "multiplicity": multiplicity,
                "intensity": multiplicity * factor**2 * blur / q**2,
            }
        )
    lines = pd.DataFrame(rows)
    lines["intensity"] /= lines["intensity"].max()
    return lines


def simulated_spectrum(lines: pd.DataFrame, q_per_nm: np.ndarray, *, width_per_nm: float) -> np.ndarray:
    """Sum of Gaussian lines.

    Parameters
    ----------
    lines
        From :func:`rocksalt_lines`.
    q_per_nm
        (N,) frequencies, nm⁻¹.
    width_per_nm
        Full width at half maximum of a line, nm⁻¹: about 0.9 over the dot's diameter (Scherrer).

    Returns
    -------
    ndarray
        (N,) relative intensity.
    """
    distance = (q_per_nm[:, None] - lines["q_per_nm"].to_numpy()) / width_per_nm
    return np.exp(-4 * math.log(2) * distance**2) @ lines["intensity"].to_numpy()


def families_to_try(spectrum: pd.DataFrame, lattice_nm: float) -> tuple[tuple[int, int, int], ...]:
    """All families that a spectrum may show, and the first that it cannot.

    Parameters
    ----------
    spectrum, lattice_nm
        As for :func:`visible_lines`.

    Returns
    -------
    tuple
        :data:`FAMILIES`, and of :data:`FINER` those up to the first beyond the Nyquist frequency: so there is always a
        line that is not seen. The {222} leans on the {311}: left out of a fit that reaches so far, it would make all
        lines too broad.
    """
    reach = _REACH * spectrum["q_per_nm"].to_numpy()[-1]
    within = [_frequency(hkl, lattice_nm) < reach for hkl in (*FAMILIES[-1:], *FINER)]
    return FAMILIES + FINER[: sum(within)]


def visible_lines(
    spectrum: pd.DataFrame, lattice_nm: float, *, families: tuple[tuple[int, int, int], ...] = FAMILIES
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Which lattice lines stand above the noise, and by how much.

    Parameters
    ----------
    spectrum
        From :func:`radial_power`.
    lattice_nm
        Cubic lattice parameter, nm.
    families
        Representatives {hkl}.

    Returns
    -------
    lines
        ``family, d_nm, q_per_nm, excess, sigma, snr, visible``: height of the line relative to the background beneath
        it, the error it would have were there no line, their ratio, and whether that exceeds 5. NaN beyond
        the Nyquist frequency.
    background
        ``q_per_nm, background, fit``: the fitted power with and without the lines.

    Raises
    ------
    ValueError
        The spectrum ends below the first line, or has too few shells for a fit.

    Notes
    -----
    power = background × (1 + Σ excess × Gaussian): the logarithm of the background is a cubic in q, the lines
    sit where the lattice puts them and share one width, found by trial. The scatter of the shells
    between the lines is the noise; it includes what a cubic cannot follow.
    """
    q_lines = np.array([_frequency(hkl, lattice_nm) for hkl in families])
    q, power = spectrum["q_per_nm"].to_numpy(), spectrum["power"].to_numpy()
    reach = _REACH * q[-1]
    if q_lines[0] > reach:
        raise ValueError(
            f"the spectrum ends at {q[-1]:.2f} nm⁻¹, below the first lattice line at {q_lines[0]:.2f} nm⁻¹; "
            "the voxels are too large to show the lattice"
        )
    seen = q_lines < reach
    inside = (q > 0.75 * q_lines[0]) & (q < min(1.12 * q_lines[seen][-1], q[-1])) & (power > 0)
    q, power = q[inside], power[inside]
    step = float(np.median(np.diff(q))) if q.size > 1 else math.inf
    if q.size < 5 + 2 * np.count_nonzero(seen):
        raise ValueError(f"only {q.size} shells between the lines; give a larger window_nm")
    best: tuple[float, tuple[np.ndarray, ...]] | None = None
    # from what the taper leaves of a perfect crystal to lines that begin to merge
    for width in np.geomspace(1.5 * step, max(1.6 * step, 0.06 * q_lines[0]), 8):
        shapes = np.exp(-((q[:, None] - q_lines[seen]) ** 2) / (2 * width**2))
        result = _fit_lines(q, power, shapes)
        if best is None or result[0] < best[0]:
            best = (result[0], (*result[1:], shapes))
    excess, background, shapes = best[1]
    # the noise is read between the lines, where the shape of a strong line cannot be mistaken for it
    between = shapes.sum(axis=1) < _BETWEEN
    residual = (power / background - 1 - shapes @ excess)[between]
    freedom = max(1.0, residual.size / _CORRELATED_SHELLS - 4)
    # lines and background are fitted to the same shells: what one could take from the other is in the error
    jacobian = np.column_stack([shapes, _powers(q)])
    covariance = np.linalg.pinv(jacobian.T @ jacobian) * (residual**2).sum() / freedom
    lines = pd.DataFrame(
        {
            "family": ["".join(map(str, hkl)) for hkl in families],
            "d_nm": 1 / q_lines,
            "q_per_nm": q_lines,
            "excess": np.nan,
            "sigma": np.nan,
        }
    )
    lines.loc[seen, "excess"] = excess
    lines.loc[seen, "sigma"] = np.sqrt(np.diag(covariance))[: shapes.shape[1]]
    lines["snr"] = lines["excess"] / lines["sigma"]
    lines["visible"] = lines["snr"] > VISIBLE_SNR
    fit = background * (1 + shapes @ excess)
    return lines, pd.DataFrame({"q_per_nm": q, "background": background, "fit": fit})


def spectra_beside(
    spectrum: pd.DataFrame,
    background: pd.DataFrame,
    simulated: dict[str, pd.DataFrame],
    lattice_nm: float,
    *,
    width_per_nm: float,
) -> pd.DataFrame:
    """The lines of a tomogram and simulated ones as curves, each relative to its own height at {200}.

    Parameters
    ----------
    spectrum, background
        Of :func:`radial_power` and :func:`visible_lines`.
    simulated
        From :func:`rocksalt_lines`, by name.
    lattice_nm
        Cubic lattice parameter, nm.
    width_per_nm
        Full width at half maximum of a simulated line, nm⁻¹.

    Returns
    -------
    DataFrame
        ``q_per_nm, lines`` (power above the background) and a column for each simulation; NaN where a curve does not
        rise above zero at {200}.

    Notes
    -----
    What is drawn sets the scale, tails of the neighbouring lines included, and not the height of a fitted line: all
    fitted lines share one width, and where that is wrong they stop short of the tops.
    """
    q = background["q_per_nm"].to_numpy()
    power = np.interp(q, spectrum["q_per_nm"], spectrum["power"])
    curves = {"lines": power - background["background"].to_numpy()}
    curves |= {name: simulated_spectrum(lines, q, width_per_nm=width_per_nm) for name, lines in simulated.items()}
    at_200 = 2 / lattice_nm
    heights = {name: float(np.interp(at_200, q, curve, right=np.nan)) for name, curve in curves.items()}
    laid = {name: curve / heights[name] if heights[name] > 0 else np.nan * q for name, curve in curves.items()}
    return pd.DataFrame({"q_per_nm": q, **laid})


def lattice_resolution(lines: pd.DataFrame) -> dict[str, float | str]:
    """Resolution as microscopists state it: the finest lattice spacing seen, and the next that is not.

    Parameters
    ----------
    lines
        From :func:`visible_lines`.

    Returns
    -------
    dict
        ``resolution_nm`` and ``family`` of the finest visible line (NaN and ``""`` where none is visible);
        ``next_nm`` and ``next_family``, the first one beyond it (NaN and ``""`` where there is none).

    Examples
    --------
    >>> lines = pd.DataFrame({"family": ["200", "220"], "d_nm": [0.306, 0.216], "visible": [True, False]})
    >>> lattice_resolution(lines)["resolution_nm"]
    0.306
    """
    seen = np.flatnonzero(lines["visible"].to_numpy())
    after = seen[-1] + 1 if seen.size else 0
    has_next = after < len(lines)
    return {
        "resolution_nm": float(lines["d_nm"].iloc[seen[-1]]) if seen.size else math.nan,
        "family": str(lines["family"].iloc[seen[-1]]) if seen.size else "",
        "next_nm": float(lines["d_nm"].iloc[after]) if has_next else math.nan,
        "next_family": str(lines["family"].iloc[after]) if has_next else "",
    }


def _powers(q: np.ndarray) -> np.ndarray:
    """(N, 4) design of a cubic in q."""
    return np.vander((q - q.mean()) / np.ptp(q), 4)


def _fit_lines(q: np.ndarray, power: np.ndarray, shapes: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Background and line heights in turn; returns sum of squares, heights, background."""
    powers = _powers(q)
    excess = np.zeros(shapes.shape[1])
    for _ in range(30):
        ground = np.log(power / np.maximum(1 + shapes @ excess, 0.05))
        # shells on a line say little of the background
        weight = 1 / (1 + shapes.sum(axis=1) * np.maximum(1, np.abs(excess).max()))
        coefficients = np.linalg.lstsq(powers * weight[:, None], ground * weight, rcond=None)[0]
        background = np.exp(powers @ coefficients)
        excess = np.linalg.lstsq(shapes, power / background - 1, rcond=None)[0]
    model = 1 + shapes @ excess
    return float((((power / background - model) / np.maximum(model, 1)) ** 2).sum()), excess, background


def _frequency(hkl: tuple[int, int, int], lattice_nm: float) -> float:
    """Of a family of planes in a cubic lattice, nm⁻¹."""
    return math.sqrt(sum(index * index for index in hkl)) / lattice_nm
