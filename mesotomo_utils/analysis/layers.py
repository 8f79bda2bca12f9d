"""Mean orientations of the layers: roll, in-plane turn, spread within a layer and over all.

A mean orientation needs orientations that were reduced by symmetry first (`dots.rotations`).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.analysis import moments, statistics
from mesotomo_utils.analysis.statistics import Estimate


def layer_orientations(
    rotations: np.ndarray,
    layer: np.ndarray,
    *,
    frame: np.ndarray,
    sigma_deg: np.ndarray | None = None,
) -> pd.DataFrame:
    """Mean orientation of each layer: how far it is rolled and turned from the mean of all.

    Parameters
    ----------
    rotations
        (N, 3, 3) orientations, crystal to lab, reduced by symmetry; NaN where not known.
    layer
        (N,) layer numbers.
    frame
        (3, 3) film frame, columns.
    sigma_deg
        (N,) errors, degrees, or None.

    Returns
    -------
    DataFrame with ``layer, n_oriented, qw, qx, qy, qz`` of the mean; ``roll_deg`` (about an axis
    in the film plane) and ``turn_deg`` (about the film normal, counterclockwise from above) from
    the mean of all; ``roll_signed_deg``, the part of the roll about the axis common to the layers
    (its largest crystal component positive); ``roll_a, roll_b, roll_c``, the rotation vector in
    the crystal frame in degrees; ``spread_deg``, the rms misorientation within the layer without
    noise; ``c_mean_to_normal_deg``, angle of the layer's mean c axis to the film normal.
    """
    known = np.isfinite(rotations).all((1, 2))
    overall = lattice.mean_rotation(rotations[known]) if known.any() else None
    normal = frame[:, 2]
    table = []
    for number in np.unique(layer):
        rows = np.flatnonzero((layer == number) & known)
        record: dict = {"layer": int(number), "n_oriented": len(rows)}
        if len(rows):
            mean = lattice.mean_rotation(rotations[rows])
            record |= dict(zip(("qw", "qx", "qy", "qz"), lattice.to_quaternions(mean[None])[0], strict=True))
            record |= roll_and_turn(overall, mean, normal)
            record["c_mean_to_normal_deg"] = _angle_deg(mean[:, 2] @ normal)
        if len(rows) > 2:
            noise = np.nan if sigma_deg is None else moments.noise_variance(sigma_deg[rows])
            theta = lattice.rotation_angle_deg(mean.T @ rotations[rows])
            spread = np.sum(theta**2) / (len(rows) - 1) - noise
            record["spread_deg"] = np.sqrt(max(spread, 0.0)) if np.isfinite(spread) else np.nan
        table.append(record)
    names = ["qw", "qx", "qy", "qz", "roll_deg", "turn_deg", "roll_a", "roll_b", "roll_c"]
    names += ["roll_signed_deg"]
    names += ["spread_deg", "c_mean_to_normal_deg"]
    result = pd.DataFrame(table).reindex(columns=["layer", "n_oriented", *names])
    if overall is not None:
        vectors = result[["roll_a", "roll_b", "roll_c"]].to_numpy(float)
        lab = vectors @ overall.T
        flat = lab - np.outer(lab @ normal, normal)
        good = np.isfinite(flat).all(1)
        axis = np.linalg.svd(flat[good])[2][0]
        crystal = overall.T @ axis
        axis = axis * np.sign(crystal[np.argmax(np.abs(crystal))])
        result["roll_signed_deg"] = flat @ axis
    return result


def c_axis_angles(
    rotations: np.ndarray,
    layer: np.ndarray,
    *,
    normal: np.ndarray,
    sigma_deg: np.ndarray,
    blocks: np.ndarray,
    n_resamples: int = 500,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Angle of the c axes of each layer to the film normal.

    Parameters
    ----------
    rotations
        (N, 3, 3) orientations, crystal to lab, reduced by symmetry; NaN where not known.
    layer
        (N,) layer numbers.
    normal
        (3,) film normal.
    sigma_deg
        (N,) errors, degrees; NaN where not known.

    Returns
    -------
    DataFrame ``layer, n_oriented``, and with ``_sigma, _low, _high`` each ``c_to_normal_deg`` (rms angle
    without noise) and ``c_to_normal_raw_deg``.
    """
    tilt = _angle_deg(rotations[:, :, 2] @ normal)
    raws, cleans, counts = [], [], []
    numbers = np.unique(layer)
    for number in numbers:
        rows = np.flatnonzero((layer == number) & np.isfinite(tilt))
        counts.append(len(rows))
        if len(rows) < 3:
            raw = clean = statistics.missing(f"only {len(rows)} orientations", len(rows))
        else:
            square = tilt[rows] ** 2
            replicates = statistics.bootstrap(
                lambda picked, square=square: np.sqrt(square[picked].mean()),
                blocks[rows], n_resamples=n_resamples, rng=rng,
            )  # fmt: skip
            n_blocks = statistics.n_blocks(blocks[rows])
            root = float(np.sqrt(square.mean()))
            raw = statistics.interval(root, replicates, n_blocks=n_blocks, n=len(rows), log=True)
            # an isotropic error of the rotation has two thirds of its mean square across c
            noise = np.sqrt(2 / 3 * moments.noise_variance(sigma_deg[rows]))
            clean = statistics.remove_noise(raw, noise)
        raws.append(raw)
        cleans.append(clean)
    return pd.DataFrame(
        {"layer": numbers.astype(int), "n_oriented": counts}
        | statistics.columns("c_to_normal_deg", cleans)
        | statistics.columns("c_to_normal_raw_deg", raws)
    )


def from_layer_mean(rotations: np.ndarray, layer: np.ndarray) -> np.ndarray:
    """(N,) angle of each orientation to the mean of its layer, degrees; NaN where not known."""
    angle = np.full(len(rotations), np.nan)
    known = np.isfinite(rotations).all((1, 2))
    for number in np.unique(layer[known]):
        rows = np.flatnonzero((layer == number) & known)
        mean = lattice.mean_rotation(rotations[rows])
        angle[rows] = lattice.rotation_angle_deg(mean.T @ rotations[rows])
    return angle


def _angle_deg(cosine):
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def roll_and_turn(start: np.ndarray, end: np.ndarray, normal: np.ndarray) -> dict[str, float]:
    """Split the rotation from one orientation to another into roll and in-plane turn.

    Parameters
    ----------
    start, end
        (3, 3) orientations, crystal to lab.
    normal
        (3,) film normal.

    Returns
    -------
    dict with ``roll_deg``, ``turn_deg`` and the rotation vector ``roll_a, roll_b, roll_c`` in the
    crystal frame of ``start``, degrees.
    """
    crystal = np.degrees(lattice.rotation_vectors((start.T @ end)[None])[0])
    lab = start @ crystal
    turn = float(lab @ normal)
    roll = float(np.linalg.norm(lab - turn * np.asarray(normal)))
    return {"roll_deg": roll, "turn_deg": turn} | dict(
        zip(("roll_a", "roll_b", "roll_c"), crystal.tolist(), strict=True)
    )


def layer_roll(
    rotations: np.ndarray,
    layer: np.ndarray,
    start: list[int],
    end: list[int],
    *,
    normal: np.ndarray,
    blocks: np.ndarray,
    n_resamples: int = 500,
    rng: np.random.Generator,
) -> dict:
    """Roll and in-plane turn of the mean orientation from some layers to others.

    Parameters
    ----------
    start, end
        Layer numbers to average over; layers that the sample lacks give NaN with the reason.

    Returns
    -------
    dict with ``roll`` and ``turn`` (`Estimate`, degrees) and ``axis`` ((3,) unit vector in the
    crystal frame).
    """
    known = np.isfinite(rotations).all((1, 2))
    absent = sorted((set(start) | set(end)) - set(np.unique(layer[known]).tolist()))
    if absent:
        gone = statistics.missing(f"the sample has no layer C{absent[0]} with orientations")
        return {"roll": gone, "turn": gone, "axis": np.full(3, np.nan)}
    groups = [np.isin(layer, start) & known, np.isin(layer, end) & known]

    def roll(rows: np.ndarray) -> np.ndarray:
        picked = [rows[group[rows]] for group in groups]
        if min(map(len, picked)) == 0:
            return np.full(5, np.nan)
        parts = roll_and_turn(*(lattice.mean_rotation(rotations[p]) for p in picked), normal)
        return np.array(list(parts.values()))

    used = np.flatnonzero(groups[0] | groups[1])
    found = roll(used)
    n_blocks = statistics.n_blocks(blocks[used])
    replicates = statistics.bootstrap(lambda rows: roll(used[rows]), blocks[used], n_resamples=n_resamples, rng=rng)
    estimates = [
        statistics.interval(found[c], replicates[:, c], n_blocks=n_blocks, n=len(used), bounds=bounds)
        for c, bounds in ((0, (0.0, 180.0)), (1, (-180.0, 180.0)))
    ]
    return {
        "roll": estimates[0],
        "turn": estimates[1],
        "axis": found[2:] / np.linalg.norm(found[2:]),
    }


def within_to_global(
    rotations: np.ndarray,
    layer: np.ndarray,
    *,
    sigma_deg: np.ndarray,
    blocks: np.ndarray,
    n_resamples: int = 500,
    rng: np.random.Generator,
) -> Estimate:
    """Rms misorientation within the layers divided by that of the whole sample, without noise.

    Parameters
    ----------
    rotations
        (N, 3, 3) orientations, reduced; NaN where not known.
    sigma_deg
        (N,) errors, degrees; unknown ones give NaN with the reason.
    """
    known = np.flatnonzero(np.isfinite(rotations).all((1, 2)))
    numbers, group = np.unique(layer[known], return_inverse=True)
    if len(known) < 5 or len(known) <= len(numbers):
        return statistics.missing("too few dots with an orientation", len(known))
    noise = moments.noise_variance(sigma_deg[known])
    if not np.isfinite(noise):
        return statistics.missing("the errors of the orientations are unknown", len(known))
    matrices = rotations[known]
    overall = lattice.mean_rotation(matrices)
    means = np.stack([lattice.mean_rotation(matrices[group == g]) for g in range(len(numbers))])
    own = np.swapaxes(means[group], 1, 2) @ matrices
    within = lattice.rotation_angle_deg(own) ** 2 * len(known) / (len(known) - len(numbers))
    around = lattice.rotation_angle_deg(overall.T @ matrices) ** 2 * len(known) / (len(known) - 1)

    def ratio(rows: np.ndarray) -> float:
        top, bottom = within[rows].mean() - noise, around[rows].mean() - noise
        return np.sqrt(max(top, 0.0) / bottom) if bottom > 0 else np.nan

    replicates = statistics.bootstrap(ratio, blocks[known], n_resamples=n_resamples, rng=rng)
    return statistics.interval(
        ratio(np.arange(len(known))), replicates, n_blocks=statistics.n_blocks(blocks[known]),
        n=len(known), bounds=(0.0, np.inf), reason="no misorientation beyond the noise",
    )  # fmt: skip
