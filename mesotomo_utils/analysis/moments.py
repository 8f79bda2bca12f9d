"""Second moments of noisy vectors: what noise adds, and means of lengths without it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import stats
from scipy.stats import qmc


def noise_variance(sigma: np.ndarray) -> float:
    """Mean square of the given errors; NaN where fewer than half of them are known."""
    sigma = np.asarray(sigma, float)
    known = np.isfinite(sigma)
    if sigma.size == 0 or known.mean() < 0.5:
        return np.nan
    return float(np.mean(sigma[known] ** 2))


@lru_cache(maxsize=1)
def _normal_points() -> np.ndarray:
    """1024 quasi-random standard normal vectors and their opposites, (2048, 3)."""
    sobol = qmc.Sobol(3, scramble=True, rng=np.random.default_rng(0)).random(1024)
    points = stats.norm.ppf(np.clip(sobol, 1e-9, 1 - 1e-9))
    points -= points.mean(0)
    white = np.linalg.inv(np.linalg.cholesky(points.T @ points / len(points))).T
    return np.vstack([points @ white, -points @ white])


def normal_vectors(covariance: np.ndarray, mean: np.ndarray | None = None) -> np.ndarray:
    """Fixed, evenly spread vectors with a given mean and covariance, for integrals.

    Parameters
    ----------
    covariance
        (3, 3); negative eigenvalues, as a noise correction can leave them, count as zero.
    mean
        (3,), zero by default.

    Returns
    -------
    (2048, 3) vectors.
    """
    values, axes = np.linalg.eigh(np.asarray(covariance, float))
    root = axes * np.sqrt(np.maximum(values, 0.0))
    return _normal_points() @ root.T + (0.0 if mean is None else np.asarray(mean, float))


def mean_length(vectors: np.ndarray, noise_variance: float) -> float:
    """Mean length of noisy vectors without the length that noise adds.

    Parameters
    ----------
    vectors
        (n, 3) vectors, for example rotation vectors in degrees.
    noise_variance
        Mean square length of the noise, isotropic; NaN gives NaN.

    Returns
    -------
    Mean length. It is the measured mean, moved by what the noise adds to normally distributed
    vectors with the measured first two moments: lengths cannot be corrected one by one, moments
    can.
    """
    if len(vectors) < 4 or not np.isfinite(noise_variance):
        return np.nan
    centre = vectors.mean(0)
    covariance = np.cov(vectors.T)
    clean = covariance - np.eye(3) * noise_variance / 3.0
    with_noise = np.linalg.norm(normal_vectors(covariance, centre), axis=1).mean()
    without = np.linalg.norm(normal_vectors(clean, centre), axis=1).mean()
    measured = np.linalg.norm(vectors, axis=1).mean()
    return float(measured * without / with_noise) if with_noise > 0 else 0.0
