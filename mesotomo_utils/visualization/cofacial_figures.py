"""Figures of the co-facial optimum: its sharpness, how it moves with the cell, whether dots follow one of their own."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mesotomo_utils.visualization import figures

GREEK = {"alpha": "α", "beta": "β", "gamma": "γ"}


def optimum_figure(profile: pd.DataFrame, by_angle: pd.DataFrame, *, tolerance: float) -> Figure:
    """Overlap about R_mono, and its optimum as the angles of the cell change.

    Parameters
    ----------
    profile
        ``angle_deg, along, across`` (:func:`cofacial.overlap_profile`).
    by_angle
        ``changed, angle_deg, overlap_fraction, from_polar_deg`` (:func:`cofacial_cells.overlap_by_angle`).
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


MODEL_NAMES = {
    "measured": "measured",
    "mono": r"$R_\mathrm{mono}$",
    "local": r"$\hat R$ local",
    "joint": r"$\hat R$ joint",
    "directions": "directions",
}


def models_figure(matrix: pd.DataFrame, deviations: pd.DataFrame, slopes: dict[str, float]) -> Figure:
    """Fig. S4: which model the measured orientations are nearer to.

    Parameters
    ----------
    matrix
        Pearson's correlations, of each with each (:func:`orientation_models.pearson_matrix`).
    deviations
        From R_mono about their mean, degrees, a row for each dot and component: ``measured`` and a column for each
        model of ``slopes``.
    slopes
        Of measured on predicted deviation, by model.
    """
    fig, axes = figures.new_figure(1, 1 + len(slopes), width_in=figures.DOUBLE_COLUMN, height_in=2.5)
    first, *others = axes[0]
    names = [MODEL_NAMES[name] for name in matrix.columns]
    lower = np.where(np.tri(len(matrix), dtype=bool), matrix, np.nan)
    picture = first.imshow(lower, cmap="cividis", vmax=1.0, origin="upper")
    first.set(xticks=range(len(names)), yticks=range(len(names)), yticklabels=names)
    first.set_xticklabels(names, rotation=45, ha="right")
    low, high = picture.get_clim()
    for (row, column), value in np.ndenumerate(lower):
        if row > column:
            colour = "black" if value > (low + high) / 2 else "white"
            first.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=5.5, color=colour)
    first.spines[:].set_visible(False)
    first.tick_params(length=0)
    limit = 1.05 * np.nanquantile(np.abs(deviations.to_numpy()), 0.995) if len(deviations) else 1.0
    for ax, (name, slope) in zip(others, slopes.items(), strict=True):
        ax.scatter(deviations[name], deviations["measured"], s=2.5, lw=0, alpha=0.5, color="0.5")
        ends = np.array([-limit, limit])
        ax.plot(ends, ends, color=figures.MODEL_COLOURS["local"], ls="--", label="follows its neighbours (1)")
        ax.plot(ends, 0 * ends, color=figures.MODEL_COLOURS["mono"], ls=":", label="mean cell alone (0)")
        if np.isfinite(slope):
            ax.plot(ends, slope * ends, color="black", label=f"slope {slope:.2f}".replace("-", "−"))
        ax.set(xlim=ends, ylim=ends, aspect="equal")
        ax.set(xlabel=f"predicted by {MODEL_NAMES[name]} (°)", ylabel="measured (°)")
        ax.legend(fontsize=5.5, loc="lower right", borderaxespad=0.2, handlelength=1.6)
    figures.panel_labels(axes)
    return fig


def squares_figure(squares: pd.DataFrame, *, facet_nm: float) -> Figure:
    """Facets of neighbours as they face one another, in cells of which one angle changes.

    Parameters
    ----------
    squares
        ``changed, angle_deg, pair, right, up, right_nm, up_nm, overlap`` (:func:`cofacial_cells.facing_squares`).
    facet_nm
        Edge of the facets, nm.
    """
    cases = squares[squares["changed"] != "none"]
    angles = sorted(cases["angle_deg"].unique())
    fig, axes = figures.new_figure(len(GREEK), len(angles), width_in=figures.DOUBLE_COLUMN, height_in=3.1)
    reach = squares[["right_nm", "up_nm"]].abs().to_numpy().max()
    step = 1.25 * facet_nm + 2 * reach
    for row, (name, letter) in zip(axes, GREEK.items(), strict=True):
        for ax, angle in zip(row, angles, strict=True):
            own = cases[(cases["changed"] == name) & (cases["angle_deg"] == angle)]
            for k, pair in enumerate(own.itertuples()):
                _squares(ax, pair, k * step, facet_nm)
            ax.set(xlim=(-reach - 0.2 * facet_nm, 2 * step + facet_nm + reach + 0.2 * facet_nm))
            ax.set(ylim=(-reach - 0.75 * facet_nm, facet_nm + reach + 0.6 * facet_nm))
            ax.set_title(f"{letter} = {angle:g}°: overlap {own['overlap'].mean():.3f}")
            figures.bare(ax)
    return fig


def _squares(ax: Axes, pair: object, left: float, facet_nm: float) -> None:
    """Our facet in grey, the neighbour's as an outline, what they share in the colour of the direction."""
    colour = figures.DIRECTION_COLOURS[pair.pair]
    x, y = pair.right_nm, pair.up_nm
    ax.add_patch(Rectangle((left, 0), facet_nm, facet_nm, fc="0.85", ec="0.4", lw=0.5))
    if pair.overlap > 0:
        corner = (left + max(x, 0), max(y, 0))
        ax.add_patch(Rectangle(corner, facet_nm - abs(x), facet_nm - abs(y), fc=colour, alpha=0.55, lw=0))
    ax.add_patch(Rectangle((left + x, y), facet_nm, facet_nm, fc="none", ec=colour, lw=0.9))
    middle = left + facet_nm / 2
    ax.text(middle, facet_nm / 2, f"{pair.overlap:.2f}", ha="center", va="center", fontsize=6)
    ax.annotate(f"{pair.pair} ({pair.right}, {pair.up})", (middle, min(y, 0)), xytext=(0, -2), ha="center", va="top",
                textcoords="offset points", fontsize=6, color=colour)  # fmt: skip
