"""Figures 2d, 2e, 3, 4 and 5 of the paper, drawn from the tables of steps 05 to 07.

Every function takes tables that are ready to be shown and returns a figure; nothing is computed
here but where a mark goes. Bars are 95 % intervals. Colours: one for each direction of the
superlattice, one for each layer, both legible with any common colour-vision deficiency.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mesotomo_utils.visualization import figures

FILLED, RAW, INNER = "0.1", "0.55", "#D55E00"
ORIENTATION_COLOURS = {"AL": "#0072B2", "SL": "#D55E00"}
AXIS_NAMES = {"a": "A", "b": "B", "c": "C"}


def planarity(heights: pd.DataFrame, layers: pd.DataFrame) -> Figure:
    """Fig. 2d: heights of the dots about their layer's plane, and the width of each layer.

    Parameters
    ----------
    heights
        Columns ``layer, height_nm`` (plane removed).
    layers
        Columns ``layer, fwhm_nm`` with ``_low, _high``, ``fwhm_raw_nm``, and ``fwhm_inner_nm``
        where known.
    """
    fig, axes = figures.new_figure(2, 1, height_in=3.6, sharex=True)
    top, bottom = axes[:, 0]
    strips(top, heights["layer"], heights["height_nm"])
    top.axhline(0, color="0.6", lw=0.6, zorder=0)
    top.set_ylabel("Height above plane (nm)")
    with_intervals(bottom, layers, "fwhm_nm", colour=FILLED, label="without noise")
    x = layers["layer"]
    bottom.plot(x, layers["fwhm_raw_nm"], "o", mfc="none", mec=RAW, ms=6.5, label="raw", zorder=1)
    if "fwhm_inner_nm" in layers:
        bottom.plot(x + 0.2, layers["fwhm_inner_nm"], "D", color=INNER, ms=2.8, label="without edge")
    bottom.set_ylim(bottom=0)
    bottom.set_ylabel("Planarity, FWHM (nm)")
    bottom.set_xlabel("Layer")
    bottom.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1)
    figures.layer_axis(bottom, sorted(set(x)))
    figures.panel_labels([top, bottom])
    return fig


def neck_diameters(table: pd.DataFrame) -> Figure:
    """Fig. 2e: connectivity and mean neck diameter of each layer and direction.

    Parameters
    ----------
    table
        Columns ``layer, axis, connectivity, diameter_mean_nm``, each with ``_low, _high``. C
        pairs join a layer to the one above and are drawn between the two.
    """
    fig, axes = figures.new_figure(2, 1, height_in=3.4, sharex=True)
    for ax, name, label in (
        (axes[0, 0], "connectivity", "Pairs joined (%)"),
        (axes[1, 0], "diameter_mean_nm", "Mean neck diameter (nm)"),
    ):
        scale = 100.0 if name == "connectivity" else 1.0
        for axis, shift in (("A", -0.12), ("B", 0.12), ("C", 0.5)):
            own = table[table["axis"] == axis]
            with_intervals(
                ax, own, name, colour=figures.DIRECTION_COLOURS[axis], label=axis, shift=shift,
                scale=scale,
            )  # fmt: skip
        ax.set_ylabel(label)
    axes[0, 0].set_ylim(0, 104)
    axes[1, 0].set_ylim(bottom=0)
    axes[1, 0].set_xlabel("Layer")
    if table.empty:
        axes[0, 0].text(0.5, 0.5, "not measured", transform=axes[0, 0].transAxes, ha="center")
        return fig
    axes[0, 0].legend(ncols=3, loc="lower left", bbox_to_anchor=(0.3, 1), title=None)
    figures.layer_axis(axes[1, 0], sorted(set(table["layer"])))
    axes[1, 0].set_xlim(right=table["layer"].max() + 1)
    figures.panel_labels(axes)
    return fig


def plane_widths(table: pd.DataFrame) -> Figure:
    """Fig. S12: widths of the (100) and (010) planes of dots in each layer.

    Parameters
    ----------
    table
        Columns ``layer, plane`` ("100" or "010"), ``fwhm_raw_nm`` with ``_low, _high``.
    """
    fig, axes = figures.new_figure(height_in=2.1)
    ax = axes[0, 0]
    for plane, axis, shift in (("100", "A", -0.1), ("010", "B", 0.1)):
        own = table[table["plane"].astype(str).str.zfill(3) == plane]
        with_intervals(ax, own, "fwhm_raw_nm", colour=figures.DIRECTION_COLOURS[axis], label=f"({plane})", shift=shift)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("Layer")
    ax.set_ylabel("Width of the planes, FWHM (nm)")
    ax.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1)  # the bars reach to the top
    figures.layer_axis(ax, sorted(set(table["layer"])))
    return fig


def orientation_spread(directions: pd.DataFrame) -> Figure:
    """Fig. 3: directions of the atomic lattices (AL) and of the superlattice (SL).

    Parameters
    ----------
    directions
        Columns ``kind`` (AL or SL), ``layer, azimuth_deg, elevation_deg, x, y`` (stereographic
        projection along the film normal; the circle is the film plane).
    """
    fig, axes = figures.new_figure(1, 4, width_in=figures.DOUBLE_COLUMN, height_in=2.05)
    numbers = sorted(set(directions["layer"]))
    colours = dict(zip(numbers, figures.layer_colours(len(numbers)), strict=True))
    names = {"AL": "AL: a and b", "SL": "SL: to +A and +B"}
    for ax, kind in zip(axes[0, :2], ("AL", "SL"), strict=True):
        own = directions[directions["kind"] == kind]
        circle(ax)
        ax.scatter(own["x"], own["y"], s=3, c=own["layer"].map(colours), lw=0, alpha=0.8)
        ax.set_title(names[kind], pad=10)
        if own.empty:
            ax.text(0, 0.2, "not measured", ha="center")
    labels = {"azimuth_deg": "In plane (°)", "elevation_deg": "Out of plane (°)"}
    for ax, (column, label) in zip(axes[0, 2:], labels.items(), strict=True):
        limit = max(1.0, np.nanquantile(np.abs(directions[column]), 0.995) * 1.1)
        for kind, colour in ORIENTATION_COLOURS.items():
            own = directions.loc[directions["kind"] == kind, column]
            if len(own):
                ax.hist(
                    own, bins=np.linspace(-limit, limit, 31), density=True, histtype="stepfilled",
                    color=colour, alpha=0.35, ec=colour, lw=1.0, label=kind,
                )  # fmt: skip
        ax.set_xlabel(f"{label[:-4]} from the mean (°)")
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.set_xlim(-limit, limit)
    axes[0, 2].set_ylabel("Share of the directions")
    axes[0, 3].legend(loc="upper right", borderaxespad=0.0)
    handles = [("o", colours[n], f"C{n}") for n in (numbers[0], numbers[len(numbers) // 2], numbers[-1])]
    for marker, colour, name in handles:
        axes[0, 0].plot([], [], marker, color=colour, label=name)
    axes[0, 0].legend(loc="center", fontsize=6, handletextpad=0.1, ncols=1, title="layer", borderaxespad=0)
    figures.panel_labels(axes)
    return fig


def layer_orientation(layers: pd.DataFrame) -> Figure:
    """Fig. 3, layer by layer: roll, in-plane turn, and the c axes against the film normal.

    Parameters
    ----------
    layers
        Columns ``layer, roll_signed_deg, turn_deg, c_to_normal_deg, c_to_normal_raw_deg,
        c_mean_to_normal_deg``.
    """
    fig, axes = figures.new_figure(1, 2, width_in=figures.DOUBLE_COLUMN, height_in=2.1)
    first, second = axes[0]
    x = layers["layer"]
    first.plot(x, layers["roll_signed_deg"], "o-", color="#0072B2", label="roll (axis in the plane)")
    first.plot(x, layers["turn_deg"], "s-", color="#D55E00", label="turn (about the normal)")
    first.axhline(0, color="0.6", lw=0.6, zorder=0)
    first.set_ylabel("Layer mean against all (°)")
    second.plot(x, layers["c_to_normal_raw_deg"], "o", mfc="none", mec=RAW, ms=6.5, label="rms, raw")
    with_intervals(second, layers, "c_to_normal_deg", colour=FILLED, label="rms, without noise", line=True)
    second.plot(x, layers["c_mean_to_normal_deg"], "^-", color="#009E73", label="of the mean c")
    second.set_ylabel("c axes to film normal (°)")
    second.set_ylim(bottom=0)
    for ax in (first, second):
        ax.set_xlabel("Layer")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, columnspacing=0.8)
        figures.layer_axis(ax, sorted(set(x)))
    figures.panel_labels(axes, offset_pt=(-20, 10))
    return fig


def neighbours(pairs: pd.DataFrame, layers: pd.DataFrame, axes_table: pd.DataFrame, twist: pd.DataFrame) -> Figure:
    """Fig. 4: misorientation of neighbours, its axis, twist, and disorder of the layers.

    Parameters
    ----------
    pairs
        Columns ``axis, theta_deg, twist``, and ``x, y``: the axis of rotation in the crystal
        frame, stereographic along [001].
    layers
        Columns ``layer, theta_deg, entropy``, each with ``_low, _high``.
    axes_table
        Columns ``name, x, y``: axes to mark in the projection; ``common axis`` is the one measured.
    twist
        Columns ``axis, twist, twist_raw``: the mean of each direction, without noise and, drawn where none is known
        without, as it is.
    """
    fig, axes = figures.new_figure(2, 3, width_in=figures.DOUBLE_COLUMN, height_in=4.2)
    top, low = axes
    limit = np.quantile(pairs["theta_deg"], 0.995) * 1.1
    clean = "twist" if twist["twist"].notna().any() else "twist_raw"
    for axis, colour in figures.DIRECTION_COLOURS.items():
        own = pairs[pairs["axis"] == axis]
        if own.empty:
            continue
        bins = np.linspace(0, limit, 25)
        top[0].hist(own["theta_deg"], bins=bins, histtype="step", color=colour, lw=1.1, label=axis)
        bins = np.linspace(0, 1, 16)
        top[2].hist(own["twist"], bins=bins, histtype="step", color=colour, lw=1.1, density=True)
        for mean in twist.loc[twist["axis"] == axis, clean].dropna():
            top[2].axvline(mean, color=colour, lw=0.9, ls="--")
    top[0].set(xlabel="Misorientation of neighbours θ (°)", ylabel="Pairs")
    top[0].legend(title="along")
    top[2].axvline(0.5, color="0.6", lw=0.7, ls=":", label="random axis")
    top[2].plot([], [], color="black", lw=0.9, ls="--", label=f"mean, {'noise off' if clean == 'twist' else 'raw'}")
    options = {"borderaxespad": 0.2, "columnspacing": 0.8, "handlelength": 1.3}
    top[2].legend(loc="lower right", bbox_to_anchor=(1.03, 1), ncols=2, **options)
    top[2].set(xlabel="Twist (0 bend, 1 twist)", ylabel="Density of pairs", xlim=(0, 1))
    circle(top[1], names=("[100]", "[010]"))
    size = 1 + 12 * np.minimum(pairs["theta_deg"] / limit, 1)
    colours = pairs["axis"].map(figures.DIRECTION_COLOURS)
    top[1].scatter(pairs["x"], pairs["y"], s=size, c=colours, lw=0, alpha=0.45)
    # the axis measured lies, dark and small, on the axes it is compared with
    others = iter("XPDs")
    for row in axes_table.itertuples():
        if row.name == "common axis":
            look = {"marker": "*", "s": 50, "c": "black", "ec": "white", "lw": 0.6, "zorder": 5}
        else:
            look = {"marker": next(others), "s": 80, "c": "white", "ec": "black", "lw": 0.8, "zorder": 4}
        top[1].scatter([row.x, -row.x], [row.y, -row.y], label=row.name, clip_on=False, **look)
    top[1].legend(loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=3, handletextpad=0.25, columnspacing=0.6)
    for ax, name, label in (
        (low[0], "theta_deg", "Mean θ in the layer (°)"),
        (low[1], "entropy", "Entropy S (nat)"),
    ):
        with_intervals(ax, layers, name, colour=FILLED, line=True)
        ax.set(xlabel="Layer", ylabel=label)
        ax.set_ylim(bottom=0)
        figures.layer_axis(ax, sorted(set(layers["layer"])))
    numbers = sorted(set(layers["layer"]))
    colours = figures.layer_colours(len(numbers))
    low[2].scatter(layers["theta_deg"], layers["entropy"], c=colours, s=16, zorder=3)
    # A name stands where it is pushed to by the other points: layers are often much alike.
    points = layers[["theta_deg", "entropy"]].to_numpy()
    span = np.ptp(points, axis=0)
    apart = (points[:, None] - points) / np.where(span > 0, span, 1)
    push = (apart / np.maximum(np.linalg.norm(apart, axis=2, keepdims=True), 1e-3) ** 3).sum(axis=1)
    strength = np.linalg.norm(push, axis=1, keepdims=True)
    offsets_pt = 8 * np.where(strength > 0, push / np.maximum(strength, 1e-9), [0, 1])
    for layer, point, offset in zip(layers["layer"], points, offsets_pt, strict=True):
        low[2].annotate(
            f"C{layer}", point, xytext=offset, textcoords="offset points", ha="center", va="center", fontsize=6
        )
    low[2].margins(0.12)
    low[2].set(xlabel="Mean θ in the layer (°)", ylabel="Entropy S (nat)")
    figures.panel_labels(axes)
    return fig


def trapping(dots: pd.DataFrame, layers: pd.DataFrame) -> Figure:
    """Fig. 5: distance of the dots from the perfect lattice with the one orientation R_mono.

    Parameters
    ----------
    dots
        Columns ``layer, misorientation_deg, displacement_a_nm`` … ``_c_nm``.
    layers
        Columns ``layer``; with ``_low, _high`` ``misorientation_raw_deg``,
        ``displacement_sd_a_nm`` … ``_n_nm``.
    """
    fig, axes = figures.new_figure(1, 3, width_in=figures.DOUBLE_COLUMN, height_in=2.3)
    first, second, third = axes[0]
    strips(first, dots["layer"], dots["misorientation_deg"])
    with_intervals(first, layers, "misorientation_raw_deg", colour="black", marker="_", label="mean")
    first.set(xlabel="Layer", ylabel=r"Misorientation from $R_\mathrm{mono}$ (°)")
    first.set_ylim(bottom=0)
    names = [f"displacement_{d}_nm" for d in "abc"]
    limit = np.nanquantile(np.abs(dots[names].to_numpy()), 0.997) * 1.1
    for direction, axis in AXIS_NAMES.items():
        colour = figures.DIRECTION_COLOURS[axis]
        second.hist(
            dots[f"displacement_{direction}_nm"], bins=np.linspace(-limit, limit, 31), histtype="step",
            color=colour, lw=1.1, label=axis,
        )  # fmt: skip
        with_intervals(
            third, layers, f"displacement_sd_{direction}_nm", colour=colour, label=axis, line=True,
            shift={"a": -0.15, "b": 0.0, "c": 0.15}[direction],
        )  # fmt: skip
    second.set(xlabel="Displacement from the site (nm)", ylabel="Dots")
    second.legend(title="along")
    third.set(xlabel="Layer", ylabel="sd of the displacement (nm)")
    third.set_ylim(bottom=0)
    for ax in (first, third):
        figures.layer_axis(ax, sorted(set(layers["layer"])))
    figures.panel_labels(axes)
    return fig


def strips(ax: Axes, layer: pd.Series, values: pd.Series) -> None:
    """Draw every dot's value above its layer, coloured by layer, spread sideways in a fixed
    pattern.
    """
    layer, values = np.asarray(layer), np.asarray(values, float)
    numbers = np.unique(layer)
    for number, colour in zip(numbers, figures.layer_colours(len(numbers)), strict=True):
        own = values[layer == number]
        # golden-ratio steps fill the strip evenly and are the same in every run
        side = (np.arange(len(own)) * 0.618034) % 1.0 - 0.5
        ax.scatter(number + 0.5 * side, own, s=3.5, color=colour, lw=0, alpha=0.75)


def with_intervals(
    ax: Axes,
    table: pd.DataFrame,
    name: str,
    *,
    colour: str,
    label: str | None = None,
    shift: float = 0.0,
    scale: float = 1.0,
    marker: str = "o",
    line: bool = False,
) -> None:
    """Draw a column against the layer with its 95 % interval, where it has one."""
    known = table[np.isfinite(table[name].astype(float))]
    if known.empty:
        return
    value = scale * known[name].to_numpy(float)
    ends = scale * known[[f"{name}_low", f"{name}_high"]].to_numpy(float)
    bars = np.nan_to_num(np.abs(ends.T - value))
    ax.errorbar(
        known["layer"] + shift, value, yerr=bars, fmt=marker + ("-" if line else ""), color=colour,
        label=label, elinewidth=0.8, zorder=3,
    )  # fmt: skip


def circle(ax: Axes, names: tuple[str, str] | None = ("A", "n×A")) -> None:
    """Draw the unit circle of a stereographic projection and name its two axes."""
    angle = np.linspace(0, 2 * np.pi, 361)
    ax.plot(np.cos(angle), np.sin(angle), color="black", lw=0.7)
    ax.plot([-1, 1], [0, 0], color="0.85", lw=0.5, zorder=0)
    ax.plot([0, 0], [-1, 1], color="0.85", lw=0.5, zorder=0)
    if names:
        ax.text(1.04, 0, names[0], ha="left", va="center", fontsize=6.5)
        ax.text(0, 1.04, names[1], ha="center", va="bottom", fontsize=6.5)
    figures.bare(ax)
    ax.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1))
