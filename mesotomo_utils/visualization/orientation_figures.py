"""Figures of the orientations: one dot's spots, the axes of all dots, and how far to trust them.

Nothing is computed here but the bins of a histogram.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from mesotomo_utils.visualization import figures

FAMILY_COLOURS = {"111": "#E69F00", "200": "#56B4E9", "220": "#CC79A7"}
_PLANE_AXES = {"(001)": ("[100]", "[010]"), "(-110)": ("[110]", "[001]")}


def index_label(h: int, k: int, l: int) -> str:  # noqa: E741 - the crystallographer's l
    """Miller indices with bars above the negative ones, as matplotlib math text.

    Examples
    --------
    >>> index_label(2, 0, 0)
    '$200$'
    """
    return "$" + "".join(str(v) if v >= 0 else rf"\bar{{{-v}}}" for v in (h, k, l)) + "$"


def fourier_planes(planes: Mapping[str, np.ndarray], extent_per_nm: float, spots: pd.DataFrame) -> Figure:
    """Two planes of one dot's Fourier transform with its indexed spots.

    Parameters
    ----------
    planes
        Name of the plane to the logarithm of its power (rows along the second axis).
    extent_per_nm
        The pictures run from minus to plus this, 1/nm.
    spots
        ``plane, h, k, l, family, u_per_nm, v_per_nm``.
    """
    fig, axes = figures.new_figure(1, len(planes), width_in=figures.DOUBLE_COLUMN, height_in=3.5)
    limits = (-extent_per_nm, extent_per_nm)
    top = max(np.nanpercentile(picture, 99.9) for picture in planes.values())
    for ax, (name, picture) in zip(axes[0], planes.items(), strict=True):
        shown = ax.imshow(picture, extent=(*limits, *limits), cmap="gray", vmin=0, vmax=max(top, 1.0))
        ax.set_facecolor("0.25")  # labels of the outermost spots reach over the edge: no outline shows on white
        for spot in spots[spots["plane"] == name].itertuples():
            colour = FAMILY_COLOURS[spot.family]
            ax.plot(spot.u_per_nm, spot.v_per_nm, "o", ms=9, mfc="none", mec=colour, mew=0.8)
            ax.annotate(
                index_label(spot.h, spot.k, spot.l),
                (spot.u_per_nm, spot.v_per_nm),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                va="bottom",
                color=colour,
                path_effects=figures.outlined(),
            )
        first, second = _PLANE_AXES.get(name, ("first axis", "second axis"))
        ax.set(xlabel=f"g along {first} (1/nm)", ylabel=f"g along {second} (1/nm)")
        ax.set_title(f"{name.replace('-', '−')} plane")
        room = (1.15 * limits[0], 1.15 * limits[1])
        ax.set(xlim=room, ylim=room, aspect="equal")
    figures.colour_bar(shown, axes, "log$_{10}$ of power over noise")
    figures.panel_labels(axes)
    return fig


def replicas(drawn: np.ndarray, again: np.ndarray, voxel_nm: float, turns_deg: np.ndarray) -> Figure:
    """One dot's fringes and their replicas, and how far every dot turns when those are removed.

    Parameters
    ----------
    drawn, again
        (Y, X) strength of the fringes (:func:`replicas.fringes_of_one`).
    voxel_nm
        Edge of a pixel of them, nm.
    turns_deg
        (N,) turn of each dot, degrees; NaN left out.
    """
    fig, axes = figures.new_figure(1, 3, width_in=figures.DOUBLE_COLUMN, height_in=2.4)
    half = np.array(drawn.shape)[::-1] * voxel_nm / 2
    extent = (-half[0], half[0], -half[1], half[1])
    for ax, picture, title in zip(axes[0], (drawn, again), ("one dot's fringes", "after the tilts"), strict=False):
        shown = ax.imshow(picture, extent=extent, origin="lower", cmap="magma", vmin=0, vmax=1)
        ax.set(xlabel="x (nm)", ylabel="y (nm)", title=title)
    figures.colour_bar(shown, axes[:, :2], "strength of fringes")
    turns = np.asarray(turns_deg, float)
    turns = turns[np.isfinite(turns)]
    # a few dots at the rim turn far and would squeeze the others into one bar
    last = np.quantile(turns, 0.98)
    axes[0, 2].hist(np.minimum(turns, last), bins=np.linspace(0, last, 25), color=figures.PALETTE[0])
    axes[0, 2].set(xlabel="turn by the removal (°)", ylabel="dots")
    figures.panel_labels(axes)
    return fig


def pole_figure(
    axes_xy: Mapping[str, np.ndarray],
    superlattice_xy: np.ndarray,
    deviations_deg: Mapping[str, np.ndarray],
) -> Figure:
    """Atomic axes of all dots: stereographic projection, and a close view of each.

    Parameters
    ----------
    axes_xy
        ``a``, ``b``, ``c`` to the (N, 2) projections of the dots' [100], [010], [001].
    superlattice_xy
        (3, 2) projections of A, B, C.
    deviations_deg
        ``a``, ``b``, ``c`` to (N, 2) angles from the mean axis, degrees.
    """
    fig, grid = figures.new_figure(1, 4, width_in=figures.DOUBLE_COLUMN, height_in=2.2, width_ratios=(1.25, 1, 1, 1))
    stereogram, *close = grid[0]
    stereogram.add_patch(Circle((0, 0), 1, fill=False, lw=0.6, ec="0.3"))
    stereogram.plot([-1, 1], [0, 0], [0, 0], [-1, 1], color=figures.GREY, lw=0.4, zorder=0)
    for (name, xy), direction in zip(axes_xy.items(), "ABC", strict=True):
        colour = figures.DIRECTION_COLOURS[direction]
        stereogram.plot(*np.asarray(xy).T, ".", ms=2.5, color=colour, label=name)
    stereogram.plot(*np.asarray(superlattice_xy).T, "k+", ms=6, mew=0.9, label="A, B, C")
    stereogram.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4, handletextpad=0.1, columnspacing=0.8)
    stereogram.set(xlim=(-1.06, 1.06), ylim=(-1.06, 1.06))
    figures.bare(stereogram)
    reach = 1.1 * max(np.abs(d).max() for d in deviations_deg.values())
    for ax, (name, xy), direction in zip(close, deviations_deg.items(), "ABC", strict=True):
        ax.axhline(0, color=figures.GREY, lw=0.4, zorder=0)
        ax.axvline(0, color=figures.GREY, lw=0.4, zorder=0)
        ax.plot(*np.asarray(xy).T, ".", ms=2.5, color=figures.DIRECTION_COLOURS[direction])
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=f"{name} axis")
        ax.set_xlabel("deviation (°)")
    close[0].set_ylabel("deviation (°)")
    figures.panel_labels(grid)
    return fig


def _histogram(ax: Axes, values: np.ndarray, bins: np.ndarray | int, **options: object) -> None:
    values = np.asarray(values, float)
    ax.hist(values[np.isfinite(values)], bins=bins, histtype="stepfilled", **options)


def trust(lattice_snr: np.ndarray, control_snr: np.ndarray, threshold: float, sigma_deg: np.ndarray) -> Figure:
    """Which dots show a lattice, and how well their orientations are known.

    Parameters
    ----------
    lattice_snr, control_snr
        (N,) lattice SNR of the dots, and of the control lattice that is not there.
    threshold
        Lattice SNR below which an orientation is not trusted.
    sigma_deg
        (N,) error of the orientations, degrees; all NaN without half sets.
    """
    fig, axes = figures.new_figure(1, 2, width_in=figures.DOUBLE_COLUMN, height_in=2.2)
    left, right = axes[0]
    finite = np.concatenate([lattice_snr, control_snr])
    finite = finite[np.isfinite(finite) & (finite > 0)]
    bins = np.geomspace(min(finite.min(), threshold) / 1.1, finite.max() * 1.1, 45)
    _histogram(left, control_snr, bins, color=figures.GREY, label="control")
    _histogram(left, lattice_snr, bins, color=figures.PALETTE[0], alpha=0.8, label="rock salt")
    left.axvline(threshold, color="k", lw=0.8, ls="--")
    left.set(xscale="log", xlabel="lattice SNR", ylabel="dots")
    left.legend()
    if np.isfinite(sigma_deg).any():
        _histogram(right, sigma_deg, 25, color=figures.PALETTE[0])
        right.set(xlabel="σ of the orientation (°)", ylabel="dots")
    else:
        figures.corner_text(right, "no half sets: σ is unknown")
        figures.bare(right)
    figures.panel_labels(axes)
    return fig


def half_set_turns(turns_deg: np.ndarray, lattice_snr: np.ndarray, sigma_deg: np.ndarray) -> Figure:
    """Turns between the half sets: their components, and their size against the lattice SNR.

    Parameters
    ----------
    turns_deg
        (N, 3) rotation vectors from the even to the odd tilts, x, y, z, degrees.
    lattice_snr
        (N,) lattice SNR.
    sigma_deg
        (N,) fitted standard deviation of the mean of two halves, which differ by twice that.
    """
    fig, axes = figures.new_figure(1, 2, width_in=figures.DOUBLE_COLUMN, height_in=2.2)
    left, right = axes[0]
    reach = np.nanmax(np.abs(turns_deg))
    bins = np.linspace(-reach, reach, 41)
    for component, name, colour in zip(turns_deg.T, "xyz", figures.PALETTE, strict=False):
        values = component[np.isfinite(component)]
        left.hist(values, bins=bins, histtype="step", color=colour, label=f"about {name}")
    left.set(xlabel="turn between halves (°)", ylabel="dots")
    left.legend()
    order = np.argsort(lattice_snr)
    right.plot(lattice_snr, np.linalg.norm(turns_deg, axis=1), ".", ms=2.5, color=figures.GREY)
    right.plot(lattice_snr[order], 2 * sigma_deg[order], color="k", label="root mean square, fitted to all")
    # Within a decade or little more the labels of a logarithmic axis would run into each other.
    span = np.nanmax(lattice_snr) / np.nanmin(lattice_snr)
    right.set(xscale="linear" if span < 10 else "log", yscale="log")
    if 10 <= span < 100:
        _sparse_log_labels(right.xaxis)
    right.set(xlabel="lattice SNR", ylabel="turn between halves (°)")
    right.legend()
    figures.panel_labels(axes)
    return fig


def lattice_parameters(table: pd.DataFrame, nominal_nm: float) -> Figure:
    """Histograms of the three lattice parameters of every dot.

    Parameters
    ----------
    table
        ``a_nm, b_nm, c_nm``, one row a dot.
    nominal_nm
        The sample's lattice parameter, drawn as a line.
    """
    fig, axes = figures.new_figure(width_in=figures.SINGLE_COLUMN, height_in=2.2)
    ax = axes[0, 0]
    values = table[["a_nm", "b_nm", "c_nm"]].to_numpy()
    bins = np.histogram_bin_edges(values[np.isfinite(values)], 35)
    for name, direction in zip("abc", "ABC", strict=True):
        column = table[f"{name}_nm"].dropna()
        colour = figures.DIRECTION_COLOURS[direction]
        ax.hist(column, bins=bins, histtype="step", color=colour, label=name)
    ax.axvline(nominal_nm, color="k", lw=0.8, ls="--", label="nominal")
    ax.set(xlabel="lattice parameter (nm)", ylabel="dots")
    ax.legend()
    return fig


def _sparse_log_labels(axis: Axis) -> None:
    """Label 1, 2, 5, 10, … of a logarithmic axis and nothing between."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def sigma_maps(dots: pd.DataFrame) -> Figure:
    """Errors of all dots at their places: of the position above, of the orientation below; plan and side view.

    Parameters
    ----------
    dots
        ``x_nm, y_nm, z_nm, sigma_nm, sigma_deg``. Colours go with the logarithm: the position of a cut dot is some
        thirty times as uncertain as a whole one's. A dot whose σ is unknown, or 0, is an open grey ring; where dots
        hide one another the largest σ lies on top.
    """
    spans = np.ptp(dots[["x_nm", "y_nm", "z_nm"]].to_numpy(), axis=0)
    height = min(7.5, 2 * (0.85 * figures.DOUBLE_COLUMN / 2 * spans[1:].max() / spans[0] + 0.3))
    fig, axes = figures.new_figure(2, 2, width_in=figures.DOUBLE_COLUMN, height_in=height)
    labels = {"sigma_nm": "σ of the position (nm)", "sigma_deg": "σ of the orientation (°)"}
    for row, (column, label) in zip(axes, labels.items(), strict=True):
        unknown = dots[~(dots[column] > 0)]
        known = dots[dots[column] > 0].sort_values(column, kind="stable")
        norm = LogNorm(*np.percentile(known[column], (2, 98)) if len(known) else (0.1, 1.0))
        for ax, vertical in zip(row, ("y_nm", "z_nm"), strict=True):
            ax.scatter(unknown["x_nm"], unknown[vertical], s=14, fc="none", ec=figures.GREY, lw=0.6)
            points = ax.scatter(
                known["x_nm"], known[vertical], s=14, c=known[column], lw=0, norm=norm,
                cmap=figures.ANGLE_MAP,
            )  # fmt: skip
            ax.set(xlabel="x (nm)", ylabel=f"{vertical[0]} (nm)", aspect="equal")
        if len(known):
            _sparse_log_labels(figures.colour_bar(points, list(row), label, extend="both").ax.yaxis)
        else:
            figures.corner_text(row[0], f"{label.split(' (')[0]} is unknown")
    figures.panel_labels(axes)
    return fig
