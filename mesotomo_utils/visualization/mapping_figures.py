"""Figures of centres, lattice sites and necks.

Nothing is computed here but the bins of a histogram.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mesotomo_utils.visualization import figures

#: By ``at_edge``.
_FLAG = {False: "not flagged", True: "flagged at_edge"}


def template_sections(template: np.ndarray, body: np.ndarray, step_nm: float) -> Figure:
    """Three sections through the mean dot, with the outline of the mask of its body.

    Parameters
    ----------
    template, body
        (s, s, s) values and weights of the mask.
    step_nm
        Edge of the voxels, nm.
    """
    fig, axes = figures.new_figure(1, 3, width_in=figures.DOUBLE_COLUMN, height_in=2.5)
    middle = template.shape[0] // 2
    half = template.shape[0] * step_nm / 2
    sections = {"xy": (template[middle], body[middle]), "xz": (template[:, middle], body[:, middle]),
                "yz": (template[:, :, middle], body[:, :, middle])}  # fmt: skip
    for n, (ax, (plane, (values, mask))) in enumerate(zip(axes[0], sections.items(), strict=True)):
        shown = figures.show_image(ax, values, pixel_nm=step_nm, limits=(0, 1.05), with_bar=n == 0)
        ax.contour(mask, levels=[0.5], extent=(-half, half, -half, half), colors=[figures.PALETTE[1]], linewidths=1.0)
        ax.set_title(f"{plane} plane")
    figures.colour_bar(shown, axes, "grey level (matrix 0, body 1)")
    figures.panel_labels(axes)
    return fig


def picks_on_slice(
    image: np.ndarray,
    scores: np.ndarray,
    picks: pd.DataFrame,
    *,
    step_nm: float,
    labels: tuple[str, str],
    edges: Sequence[pd.DataFrame] = (),
) -> Figure:
    """A slice of the tomogram and of its correlation with the template, with the picks near it.

    Parameters
    ----------
    image, scores
        (rows, columns) slices; the second label runs along the rows upwards.
    picks
        ``u_nm, v_nm`` in the slice and ``at_edge``.
    step_nm
        Edge of the pixels, nm.
    labels
        Names of the two axes of the slice.
    edges
        Lines ``u_nm, v_nm`` where the needle ends in it.
    """
    fig, axes = figures.new_figure(1, 2, width_in=figures.DOUBLE_COLUMN, height_in=3.6)
    figures.show_image(axes[0, 0], image, pixel_nm=step_nm, limits=(-0.1, 1.1))
    shown = figures.show_image(axes[0, 1], scores, pixel_nm=step_nm, limits=(-0.3, 0.8), cmap="viridis", with_bar=False)
    for ax in axes[0]:
        for edge, colour in ((False, figures.PALETTE[1]), (True, figures.PALETTE[4])):
            some = picks[picks["at_edge"] == edge]
            ax.plot(some["u_nm"], some["v_nm"], "o", mfc="none", mec=colour, mew=1.0, ms=5,
                    label=_FLAG[edge])  # fmt: skip
        for n, line in enumerate(edges):
            ax.plot(line["u_nm"], line["v_nm"], "--", color=figures.PALETTE[2], lw=0.8,
                    label=None if n else "needle's edge")  # fmt: skip
    axes[0, 0].set_title(f"tomogram without its lattice, {labels[0]}{labels[1]} slice")
    axes[0, 1].set_title("normalised correlation with the template")
    axes[0, 0].legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=3)
    figures.colour_bar(shown, axes[0, 1], "correlation")
    figures.panel_labels(axes)
    return fig


def scores_and_cuts(centres: pd.DataFrame) -> Figure:
    """Correlation of every pick and what is missing of its core, by ``score, missing, at_edge``."""
    fig, axes = figures.new_figure(1, 2, width_in=figures.DOUBLE_COLUMN, height_in=2.3)
    edge = centres["at_edge"].to_numpy(bool)
    colours = {False: figures.PALETTE[0], True: figures.PALETTE[4]}
    by_flag = [centres["score"][edge == flag] for flag in _FLAG]
    bins = np.linspace(0, 1, 41)
    axes[0, 0].hist(by_flag, bins, stacked=True, color=list(colours.values()), label=list(_FLAG.values()))
    axes[0, 0].yaxis.get_major_locator().set_params(integer=True)
    for flag, colour in colours.items():
        rows = edge == flag
        radius = np.hypot(centres["x_nm"], centres["y_nm"])[rows]
        axes[0, 1].plot(radius, 100 * centres["missing"][rows], "o", ms=3, color=colour)
    axes[0, 0].set(xlabel="correlation with the template", ylabel="dots")
    axes[0, 0].legend()
    axes[0, 1].set(xlabel="distance from the tilt axis (nm)", ylabel="missing of the core (%)")
    figures.panel_labels(axes)
    return fig


def half_set_differences(differences: pd.DataFrame) -> Figure:
    """Even minus odd centres along each axis, with one robust standard deviation of it as lines.

    Differences beyond the ends are counted in the last bins.

    Parameters
    ----------
    differences
        ``dx_nm, dy_nm, dz_nm``.
    """
    deviation = 1.4826 * differences.abs().median()
    fig, axes = figures.new_figure(1, 3, width_in=figures.DOUBLE_COLUMN, height_in=2.0, sharey=True)
    reach = 3 * max(deviation.max(), 2e-4)
    bins = np.linspace(-reach, reach, 31)
    for ax, axis in zip(axes[0], "xyz", strict=True):
        ax.hist(np.clip(differences[f"d{axis}_nm"], -reach, reach), bins, color=figures.GREY)
        for side in (-1, 1):
            ax.axvline(side * deviation[f"d{axis}_nm"], color=figures.PALETTE[3], lw=0.8)
        ax.set(xlabel=f"even − odd along {axis} (nm)")
        ax.locator_params(axis="x", nbins=4)  # labels of thousandths are wide
    axes[0, 0].set_ylabel("dots")
    figures.panel_labels(axes)
    return fig


def site_map(table: pd.DataFrame, defects: pd.DataFrame) -> Figure:
    """Dots by layer, from above and from the side, and the point defects.

    Parameters
    ----------
    table
        ``x_nm, y_nm, z_nm, grain, layer``.
    defects
        ``kind, x_nm, y_nm, z_nm``.
    """
    fig, axes = figures.new_figure(1, 2, width_in=figures.DOUBLE_COLUMN, height_in=3.6)
    inside = table["grain"] >= 0
    layers = int(table["layer"].max()) if inside.any() else 1
    colours = figures.layer_colours(layers)
    for ax, second in zip(axes[0], ("y_nm", "z_nm"), strict=True):
        for layer in range(1, layers + 1):
            rows = inside & (table["layer"] == layer)
            ax.plot(table["x_nm"][rows], table[second][rows], "o", ms=3, color=colours[layer - 1])
        ax.plot(table["x_nm"][~inside], table[second][~inside], "x", color=figures.PALETTE[3], ms=4)
        for kind, mark in (("vacancy", "s"), ("interstitial", "D")):
            rows = defects["kind"] == kind
            ax.plot(defects["x_nm"][rows], defects[second][rows], mark, mfc="none", mec="black", ms=6, ls="none")
        ax.set(xlabel="x (nm)", ylabel=f"{second[0]} (nm)", aspect="equal")
    figures.layer_legend(axes[0, 1], layers, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figures.panel_labels(axes)
    return fig


def neighbour_vectors(vectors: Mapping[str, np.ndarray], mean: Mapping[str, np.ndarray]) -> Figure:
    """Ends of the vectors to the +A, +B, +C neighbours, and the mean cell.

    Parameters
    ----------
    vectors
        Axis to (n, 3) vectors, nm.
    mean
        Axis to the (3,) mean vector, nm.
    """
    fig, axes = figures.new_figure(1, 2, width_in=figures.DOUBLE_COLUMN, height_in=3.4)
    for ax, (u, v) in zip(axes[0], ((0, 1), (0, 2)), strict=True):
        for axis, ends in vectors.items():
            colour = figures.DIRECTION_COLOURS[axis]
            ax.plot(ends[:, u], ends[:, v], ".", ms=2.5, color=colour, alpha=0.6)
            ax.annotate(
                "", (mean[axis][u], mean[axis][v]), (0, 0),
                arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.2, "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip
            ax.plot([], [], ".", color=colour, label=f"+{axis}")
        ax.set(xlabel=f"{'xyz'[u]} (nm)", ylabel=f"{'xyz'[v]} (nm)", aspect="equal")
    axes[0, 0].legend(loc="best")
    figures.panel_labels(axes)
    return fig


def gap_pictures(pictures: Mapping[str, np.ndarray], pixel_nm: float, outlines: Mapping[str, float]) -> Figure:
    """Gaps as seen along the line of centres, with a circle of the area that was found.

    Parameters
    ----------
    pictures
        Title to (m, m) values.
    pixel_nm
        Edge of a pixel, nm.
    outlines
        The same titles to the diameter of the neck, nm; 0 draws none.
    """
    fig, axes = figures.new_figure(1, len(pictures), width_in=figures.DOUBLE_COLUMN, height_in=2.1)
    angle = np.linspace(0, 2 * np.pi, 100)
    for n, (ax, (title, picture)) in enumerate(zip(axes[0], pictures.items(), strict=True)):
        shown = figures.show_image(ax, picture, pixel_nm=pixel_nm, limits=(0, 1.05), with_bar=n == 0)
        radius = outlines[title] / 2
        if radius > 0:
            ax.plot(radius * np.cos(angle), radius * np.sin(angle), color=figures.PALETTE[1], lw=0.8, ls="--")
        ax.set_title(title)
    figures.colour_bar(shown, axes, "lowest grey level on the line")
    figures.panel_labels(axes)
    return fig


def neck_histogram(necks: pd.DataFrame) -> Figure:
    """Diameters of the necks by axis, and the share of pairs that have one; none along an axis where all are NaN."""
    fig, axes = figures.new_figure(1, 2, width_in=figures.DOUBLE_COLUMN, height_in=2.3, width_ratios=[2, 1])
    joined = necks[necks["diameter_nm"] > 0]
    top = max(joined["diameter_nm"].max(), 1.0) if len(joined) else 1.0
    bins = np.arange(0, top + 0.3, 0.25)
    parts = [joined["diameter_nm"][joined["axis"] == axis] for axis in "ABC"]
    colours = [figures.DIRECTION_COLOURS[axis] for axis in "ABC"]
    axes[0, 0].hist(parts, bins, stacked=True, color=colours, label=list("ABC"))
    axes[0, 0].set(xlabel="neck diameter (nm)", ylabel="necks")
    axes[0, 0].legend(title="along")
    every = [necks["diameter_nm"][necks["axis"] == axis] for axis in "ABC"]
    axes[0, 1].bar(list("ABC"), [100 * (diameters.dropna() > 0).mean() for diameters in every], color=colours)
    for n, diameters in enumerate(every):
        if len(diameters) and diameters.isna().all():
            axes[0, 1].text(n, 4, "not told", rotation=90, ha="center", va="bottom")
    axes[0, 1].set(xlabel="axis", ylabel="pairs with a neck (%)", ylim=(0, 100))
    figures.panel_labels(axes)
    return fig
