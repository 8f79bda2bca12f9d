"""The one error that stands for all orientations, and how well it is known."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.analysis import statistics
from mesotomo_utils.mapping import orientation_errors


def typical_error(
    errors: pd.DataFrame,
    table: pd.DataFrame,
    xyz_nm: np.ndarray,
    cell: np.ndarray,
    *,
    wedge: float,
    n_resamples: int,
    rng: np.random.Generator,
) -> statistics.Estimate:
    """Median error of the orientations, degrees, with its interval.

    Parameters
    ----------
    errors
        Of :func:`orientation_errors.half_set_sigmas`, or a column ``sigma_deg`` of NaN where there are no half sets.
    table
        Of :func:`orientation.orient_dots`, the same dots from all tilts.
    xyz_nm
        (N, 3) centres, nm.
    cell
        (3, 3) cell of the superlattice, columns A, B, C, nm.
    wedge
        Of :func:`orientation_errors.wedge_factor`.
    n_resamples, rng
        Draws of the bootstrap, and where they come from.

    Returns
    -------
    Estimate
        In degrees; NaN, without an interval, where no dot has an error.

    Notes
    -----
    Columns of dots side by side vary together (:func:`statistics.places`), and the laws of noise and replicas are
    fitted anew to each resample. That the constants of those laws are not exact either,
    :data:`orientation_errors.LAW_SPREAD`, no resample knows; it is drawn beside.
    """
    value, n = float(errors["sigma_deg"].median()), int(table["qw"].notna().sum())
    if not np.isfinite(value):
        return statistics.Estimate(value, n=n)
    in_plane_nm = (xyz_nm @ lattice.film_frame(cell))[:, :2]
    blocks = statistics.places(in_plane_nm, spacing_nm=np.linalg.norm(cell[:, :2], axis=0).mean())
    snr = table["lattice_snr"].to_numpy()
    draws = statistics.bootstrap(
        lambda rows: orientation_errors.typical_sigma(errors, snr, rows, wedge=wedge),
        blocks,
        n_resamples=n_resamples,
        rng=rng,
    )
    draws = draws * np.exp(orientation_errors.LAW_SPREAD * rng.standard_normal(len(draws)))
    return statistics.interval(value, draws, n_blocks=statistics.n_blocks(blocks), n=n, log=True)
