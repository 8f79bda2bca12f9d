"""Von Neumann entropy of the orientations of a layer, and how it changes from layer to layer.

S = −Tr ρ ln ρ with ρ = K/n, a similarity matrix K with ones on its diagonal (arXiv:2106.05379). K
is never built: with K = X Xᵀ its eigenvalues other than zero are those of the 9 × 9 matrix Xᵀ X.
"""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from mesotomo_utils.analysis import layers, moments, neighbours, statistics
from mesotomo_utils.analysis.statistics import Estimate


def spectrum_entropy(density: np.ndarray) -> float:
    """−Σ λ ln λ of a symmetric matrix; negative eigenvalues count as zero, the rest add to one."""
    values = np.maximum(np.linalg.eigvalsh(density), 0.0)
    values = values[values > 1e-14]
    values = values / values.sum()
    return float(max(-(values * np.log(values)).sum(), 0.0))


def orientation_moment(rotations: np.ndarray) -> np.ndarray:
    """(3, 3, 3, 3) mean of R_pa R_qb / 3, indices p, a, q, b; its trace over (pa, qb) is 1."""
    flat = rotations.reshape(len(rotations), 9)
    return (flat.T @ flat / (3.0 * len(flat))).reshape(3, 3, 3, 3)


def without_noise(moment: np.ndarray, sigma_deg: np.ndarray) -> np.ndarray:
    """Undo what isotropic errors of the orientations did to the moment.

    Parameters
    ----------
    moment
        (3, 3, 3, 3) from `orientation_moment`.
    sigma_deg
        (n,) rms rotation angle of each error, degrees.

    Notes
    -----
    An error turns R into R E. Averaged over isotropic E, the part of the moment that transforms
    with angular momentum l in the crystal indices a, b shrinks by ⟨exp(−l(l+1)σ²/6)⟩, for l = 0,
    1, 2: trace, antisymmetric and symmetric traceless part. Dividing by it is exact in the mean.
    """
    variance = np.radians(np.asarray(sigma_deg, float)) ** 2
    variance = variance[np.isfinite(variance)]
    shrink = [float(np.mean(np.exp(-degree * (degree + 1) * variance / 6))) for degree in (1, 2)]
    turned = np.transpose(moment, (0, 2, 1, 3))
    trace = np.einsum("pqaa->pq", turned)[..., None, None] * np.eye(3) / 3
    odd = (turned - np.swapaxes(turned, 2, 3)) / 2
    even = (turned + np.swapaxes(turned, 2, 3)) / 2 - trace
    return np.transpose(trace + odd / shrink[0] + even / shrink[1], (0, 2, 1, 3))


def entropy(rotations: np.ndarray, sigma_deg: np.ndarray | None = None) -> float:
    """Von Neumann entropy with K_ij = tr(R_iᵀ R_j)/3.

    Parameters
    ----------
    rotations
        (n, 3, 3) orientations. Neither the lab frame nor a common crystal frame matters.
    sigma_deg
        (n,) rms errors, degrees; None: no correction.

    Returns
    -------
    0 for equal orientations; at most ln 9.

    Raises
    ------
    ValueError
        No orientations; an orientation is not finite (its row is named).
    """
    rotations = np.asarray(rotations, float)
    if len(rotations) == 0:
        raise ValueError("rotations: expected at least one orientation, found none")
    if not np.isfinite(rotations).all():
        row = int(np.flatnonzero(~np.isfinite(rotations).all((1, 2)))[0])
        raise ValueError(f"rotations: row {row} is not finite; leave out dots without an orientation")
    moment = orientation_moment(rotations)
    if sigma_deg is not None:
        moment = without_noise(moment, sigma_deg)
    return spectrum_entropy(moment.reshape(9, 9))


def pearson_entropy(rotations: np.ndarray, frame: np.ndarray) -> float:
    """Von Neumann entropy with K_ij the Pearson correlation of the nine components of R_i and R_j.

    Parameters
    ----------
    rotations
        (n, 3, 3) orientations.
    frame
        (3, 3) film frame, columns; unlike `entropy`, this form depends on the frame.
    """
    flat = (frame.T @ rotations).reshape(len(rotations), 9)
    flat = flat - flat.mean(1, keepdims=True)
    flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    return spectrum_entropy(flat.T @ flat / len(flat))


def layer_entropy(
    rotations: np.ndarray,
    sigma_deg: np.ndarray,
    *,
    frame: np.ndarray,
    blocks: np.ndarray,
    n_equal: int,
    n_resamples: int = 200,
    n_subsamples: int = 50,
    rng: np.random.Generator,
) -> dict[str, Estimate]:
    """Entropy of one layer in its forms, for the same number of dots in every layer.

    Parameters
    ----------
    rotations
        (n, 3, 3) orientations of the layer's dots, all finite.
    sigma_deg
        (n,) errors, degrees; NaN where not known.
    n_equal
        Number of dots of the smallest layer: a larger sample has a larger entropy. Means over
        ``n_subsamples`` draws without replacement.

    Returns
    -------
    dict ``clean`` (without noise), ``raw``, ``pearson`` (raw).
    """
    n = len(rotations)
    if n < 5 or n_equal < 2:
        return dict.fromkeys(("clean", "raw", "pearson"), statistics.missing(f"only {n} dots with an orientation", n))
    known = np.isfinite(moments.noise_variance(sigma_deg))

    def forms(rows: np.ndarray) -> np.ndarray:
        picked = rotations[rows]
        clean = entropy(picked, sigma_deg[rows]) if known else np.nan
        return np.array([clean, entropy(picked), pearson_entropy(picked, frame)])

    draws = 1 if n_equal >= n else n_subsamples
    found = np.mean([forms(rng.permutation(n)[:n_equal]) for _ in range(draws)], axis=0)
    replicates = statistics.bootstrap(forms, blocks, n_resamples=n_resamples, rng=rng)
    return {
        name: statistics.interval(
            found[c], replicates[:, c], n_blocks=statistics.n_blocks(blocks), n=n,
            bounds=(0.0, np.log(9)), reason="the errors of the orientations are unknown",
        )
        for c, name in enumerate(("clean", "raw", "pearson"))
    }  # fmt: skip


def interior_maximum(profile: np.ndarray) -> dict:
    """Test whether a profile over the layers is larger inside than at the two surfaces.

    Parameters
    ----------
    profile
        (L,) one value for each layer, bottom to top.

    Returns
    -------
    dict with ``excess`` (mean of the interior less mean of the two surfaces) and ``p``, the share
    of all permutations of the layers that have at least this excess. With L layers p is at least
    2/(L(L-1)).

    Raises
    ------
    ValueError
        Fewer than three layers; a value is not finite.
    """
    profile = np.asarray(profile, float)
    if len(profile) < 3:
        raise ValueError(f"profile: expected at least three layers, found {len(profile)}")
    if not np.isfinite(profile).all():
        raise ValueError(f"profile: layer {int(np.flatnonzero(~np.isfinite(profile))[0]) + 1} has no value")
    # only which two layers lie at the surface matters
    pairs = np.array(list(itertools.combinations(range(len(profile)), 2)))
    surface = profile[pairs].mean(1)
    excess = (profile.sum() - 2 * surface) / (len(profile) - 2) - surface
    seen = excess[np.flatnonzero((pairs == [0, len(profile) - 1]).all(1))[0]]
    return {"excess": float(seen), "p": float(np.mean(excess >= seen - 1e-12))}


def layers_of_maximum(
    profile: np.ndarray, reach: np.ndarray, *, n_draws: int = 20000, rng: np.random.Generator
) -> np.ndarray:
    """Which layers may hold the maximum of a profile, at 95 %.

    Parameters
    ----------
    profile
        (L,) one value for each layer, bottom to top.
    reach
        (L,) half the width of each layer's 95 % interval; larger than 0.

    Returns
    -------
    Rows of the profile, rising; the largest is among them. Empty where a value or a reach is not known.

    Notes
    -----
    Gupta's subset: a layer stays while no other exceeds it by more than the errors of the two, taken as normal and
    independent, allow for the best of all others at 95 %. Then the layer that truly is the largest is among those that
    stay in at least 95 % of samples, whatever the profile.
    """
    profile, sd = np.asarray(profile, float), np.asarray(reach, float) / 1.96
    if not (np.isfinite(profile).all() and np.isfinite(sd).all() and (sd > 0).all()):
        return np.empty(0, int)
    drawn = rng.normal(0.0, sd, (n_draws, len(sd)))
    kept = []
    for layer in range(len(profile)):
        others = np.arange(len(profile)) != layer
        error = np.hypot(sd[others], sd[layer])
        allowed = np.quantile(((drawn[:, others] - drawn[:, [layer]]) / error).max(1), 0.95) if others.any() else 0.0
        if np.all((profile[others] - profile[layer]) / error <= allowed):
            kept.append(layer)
    return np.array(kept, int)


def step_share(profile: np.ndarray) -> np.ndarray:
    """Share of a profile's range that is passed in the first step inwards from the surfaces.

    Parameters
    ----------
    profile
        (..., L) values of the layers, bottom to top, L ≥ 4.

    Returns
    -------
    Mean rise of the two outermost steps over the range: 1 for a profile that jumps at the
    surfaces and is flat inside, 2/(L−1) for one that rises evenly to the middle; NaN for a flat
    one.

    Raises
    ------
    ValueError
        Fewer than four layers.
    """
    profile = np.asarray(profile, float)
    if profile.shape[-1] < 4:
        raise ValueError(f"profile: expected at least four layers, found {profile.shape[-1]}")
    rise = (profile[..., 1] - profile[..., 0] + profile[..., -2] - profile[..., -1]) / 2
    extent = np.ptp(profile, axis=-1)
    return np.divide(rise, extent, out=np.full(rise.shape, np.nan), where=extent > 0)


def abrupt_against_gradual(
    abrupt: np.ndarray,
    abrupt_sigma: np.ndarray,
    gradual: np.ndarray,
    gradual_sigma: np.ndarray,
    *,
    n_draws: int = 4000,
    rng: np.random.Generator,
) -> dict[str, Estimate]:
    """Compare how abruptly two profiles change at the surfaces.

    Parameters
    ----------
    abrupt, abrupt_sigma, gradual, gradual_sigma
        (L,) values and standard errors of the layers: planarity, and orientational disorder.

    Returns
    -------
    dict with the `step_share` of each and their ``difference`` (`Estimate`): positive where the
    first is the more abrupt. The intervals are percentiles over draws of the layers from their
    errors.
    """
    if len(abrupt) < 4 or not all(map(np.all, map(np.isfinite, (abrupt, abrupt_sigma, gradual, gradual_sigma)))):
        gone = statistics.missing("needs at least four layers with a value and an error each", len(abrupt))
        return {"abrupt": gone, "gradual": gone, "difference": gone}
    shares = {}
    for name, value, sigma in (
        ("abrupt", abrupt, abrupt_sigma),
        ("gradual", gradual, gradual_sigma),
    ):
        drawn = step_share(rng.normal(value, sigma, (n_draws, len(value))))
        shares[name] = (float(step_share(np.asarray(value))), drawn)
    shares["difference"] = tuple(x - y for x, y in zip(shares["abrupt"], shares["gradual"], strict=True))
    return {
        name: Estimate(value, float(np.nanstd(drawn)), *np.nanquantile(drawn, [0.025, 0.975]), len(abrupt))
        for name, (value, drawn) in shares.items()
    }


def correlation(x: np.ndarray, y: np.ndarray) -> Estimate:
    """Pearson correlation over the layers, with Fisher's interval.

    Parameters
    ----------
    x, y
        (L,) values of the layers; layers where either is NaN are left out.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    both = np.isfinite(x) & np.isfinite(y)
    n = int(both.sum())
    if n < 3 or np.ptp(x[both]) == 0 or np.ptp(y[both]) == 0:
        return statistics.missing(f"only {n} layers with both values, or no difference between them", n)
    r = float(np.corrcoef(x[both], y[both])[0, 1])
    if n < 4:
        return Estimate(r, n=n)
    half = 1.96 / np.sqrt(n - 3)
    z = np.arctanh(np.clip(r, -0.999999, 0.999999))
    return Estimate(r, float((1 - r**2) / np.sqrt(n - 3)), *np.tanh([z - half, z + half]), n)


def layer_disorder(
    table: pd.DataFrame,
    rotations: np.ndarray,
    dots: pd.DataFrame,
    *,
    frame: np.ndarray,
    blocks: np.ndarray,
    inner_only: bool = False,
    n_resamples: int = 200,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Misorientation of neighbours and entropy of every layer.

    Parameters
    ----------
    table
        From `neighbours.pair_table`.
    rotations
        (N, 3, 3) orientations of ``dots``, NaN where not known.
    dots
        Table from `dots.join`.
    frame
        (3, 3) film frame, columns.
    blocks
        (N, 2) `statistics.places` of the dots, or (N,) labels.
    inner_only
        Leave out the dots at the edge.

    Returns
    -------
    DataFrame ``layer, n, n_equal, n_pairs``, and with ``_sigma, _low, _high`` each: ``theta_deg``
    (mean misorientation of the pairs in the layer), ``theta_rms_deg``, ``theta_c_deg`` (of the
    pairs to the layer above), ``entropy, entropy_raw, entropy_pearson``; ``theta_raw_deg``;
    ``spread_deg``, the rms misorientation about the layer's mean.
    """
    use = np.isfinite(rotations).all((1, 2))
    if inner_only:
        use &= ~dots["at_edge"].to_numpy(bool)
    layer, sigma = dots["layer"].to_numpy(), dots["sigma_deg"].to_numpy(float)
    table = table[use[table["row_1"]] & use[table["row_2"]]]
    numbers = np.unique(layer)
    members = [np.flatnonzero((layer == number) & use) for number in numbers]
    n_equal = min(map(len, members))
    spread = layers.layer_orientations(rotations, layer, frame=frame, sigma_deg=sigma)
    found: dict[str, list[Estimate]] = {}
    records = []
    for number, rows in zip(numbers, members, strict=True):
        own = table[table["layer"] == number]
        flat, up = own[own["axis"] != "C"], own[own["axis"] == "C"]
        angle = neighbours.mean_angle(flat, blocks, n_resamples=n_resamples, rng=rng)
        above = neighbours.mean_angle(up, blocks, n_resamples=n_resamples, rng=rng)
        forms = layer_entropy(
            rotations[rows], sigma[rows], frame=frame, blocks=blocks[rows], n_equal=n_equal,
            n_resamples=n_resamples, rng=rng,
        )  # fmt: skip
        for name, value in (
            ("theta_deg", angle["mean"]), ("theta_raw_deg", angle["mean_raw"]),
            ("theta_rms_deg", angle["rms"]), ("theta_c_deg", above["mean"]),
            ("entropy", forms["clean"]), ("entropy_raw", forms["raw"]),
            ("entropy_pearson", forms["pearson"]),
        ):  # fmt: skip
            found.setdefault(name, []).append(value)
        reason = next((f.reason for f in (angle["mean"], forms["clean"]) if f.reason), None)
        records.append(
            {
                "layer": int(number),
                "n": len(rows),
                "n_equal": n_equal,
                "n_pairs": len(flat),
                "reason": reason,
            }
        )
    result = pd.DataFrame(records)
    for name, estimates in found.items():
        result = result.assign(**statistics.columns(name, estimates))
    return result.merge(spread[["layer", *[c for c in ("spread_deg",) if c in spread]]], on="layer")
