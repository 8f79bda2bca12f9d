"""Figure of the co-facial optimum: how sharp it is and how it moves with the cell."""

import pandas as pd
from matplotlib.figure import Figure

from mesotomo_utils.visualization import figures

GREEK = {"alpha": "α", "beta": "β", "gamma": "γ"}


def optimum_figure(profile: pd.DataFrame, by_angle: pd.DataFrame, *, tolerance: float) -> Figure:
    """Overlap about R_mono, and its optimum as the angles of the cell change.

    Parameters
    ----------
    profile
        ``angle_deg, along, across`` (:func:`cofacial.overlap_profile`).
    by_angle
        ``changed, angle_deg, overlap_fraction, from_polar_deg`` (:func:`cofacial.overlap_by_angle`).
    tolerance
        Relative loss of overlap that bounds the shaded band.
    """
    fig, axes = figures.new_figure(1, 3, width_in=figures.DOUBLE_COLUMN, height_in=2.2)
    left, middle, right = axes[0]
    left.plot(profile["angle_deg"], profile["along"], label="along the set")
    left.plot(profile["angle_deg"], profile["across"], ls="--", label="across it")
    best = max(profile["along"].max(), profile["across"].max())
    left.axhspan((1 - tolerance) * best, best, color=figures.GREY, alpha=0.5, lw=0)
    left.set(xlabel=r"turn from $R_\mathrm{mono}$ (°)", ylabel="overlap fraction")
    left.legend(loc="lower center")
    columns = {"overlap_fraction": "overlap fraction at the optimum", "from_polar_deg": "angle to polar rotation (°)"}
    for ax, (column, label) in zip((middle, right), columns.items(), strict=True):
        for (name, letter), marker in zip(GREEK.items(), "os^", strict=True):
            rows = by_angle[by_angle["changed"] == name]
            ax.plot(rows["angle_deg"], rows[column], marker=marker, label=letter)
        own = by_angle.loc[by_angle["changed"] == "none", column]
        if len(own):
            ax.axhline(own.iloc[0], color="black", lw=0.7, ls=":", label="measured cell")
        ax.set(xlabel="one angle of the cell (°)", ylabel=label, xticks=sorted(by_angle["angle_deg"].dropna().unique()))
    middle.legend()
    figures.panel_labels(axes)
    return fig
