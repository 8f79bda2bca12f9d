"""Figure of a tomogram's distortion: how far apart the lattice planes appear, by direction."""

import pandas as pd
from matplotlib.figure import Figure

from mesotomo_utils.visualization.figures import DOUBLE_COLUMN, PALETTE, new_figure, panel_labels


def spacings(measured: pd.DataFrame, fitted: pd.DataFrame) -> Figure:
    """Draw the apparent spacing of lattice planes against the direction of their normals.

    Parameters
    ----------
    measured
        Columns ``plane, angle_deg, spacing, sigma``: plane ``xy``, ``xz`` or ``yz``, angle from its first axis, spacing
        over the true one.
    fitted
        Columns ``plane, angle_deg, spacing``.
    """
    fig, axes = new_figure(1, 3, width_in=DOUBLE_COLUMN, height_in=2.1, sharey=True)
    for ax, (plane, curve) in zip(axes.ravel(), fitted.groupby("plane"), strict=True):
        rows = measured[measured["plane"] == plane]
        ax.axhline(0, color="black", lw=0.4)
        ax.plot(curve["angle_deg"], 100 * (curve["spacing"] - 1), color=PALETTE[0], label="fit, six numbers")
        ax.errorbar(
            rows["angle_deg"], 100 * (rows["spacing"] - 1), 100 * rows["sigma"],
            fmt="o", ms=2.5, lw=0.7, color="0.2", label="Bragg spots",
        )  # fmt: skip
        ax.set(xlabel=f"angle from {plane[0]} to {plane[1]} (°)", xticks=range(0, 181, 45), xlim=(-8, 188))
    axes[0, 0].set_ylabel("apparent spacing, excess (%)")
    low, high = axes[0, 0].get_ylim()
    # noise alone is not drawn large
    axes[0, 0].set_ylim(min(low, -0.25), max(high, 0.25))
    axes[0, 2].legend(loc="best")
    panel_labels(axes.ravel(), offset_pt=(-4, 3))
    return fig
