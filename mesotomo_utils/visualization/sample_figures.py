"""Figures of a sample before it is analysed: its images, its alignment errors, its structure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mesotomo_utils.visualization import figures


def images(panels: Sequence[np.ndarray], titles: Sequence[str], pixel_nm: float, *, unit: str = "") -> Figure:
    """Show images (rows, columns) of one pixel size side by side with the same grey levels.

    Parameters
    ----------
    panels
        Images; row 0 is drawn at the bottom.
    titles
        One a panel.
    pixel_nm
        Side of a pixel.
    unit
        Of the grey levels; empty draws no colour bar.
    """
    columns = len(panels)
    aspect = panels[0].shape[0] / panels[0].shape[1]
    fig, axes = figures.new_figure(
        1, columns, width_in=figures.DOUBLE_COLUMN, height_in=figures.DOUBLE_COLUMN / columns * aspect + 0.3
    )
    limits = tuple(np.percentile(np.concatenate([panel.ravel() for panel in panels]), (0.5, 99.8)))
    for n, (ax, panel, title) in enumerate(zip(axes[0], panels, titles, strict=True)):
        artist = figures.show_image(ax, panel, pixel_nm=pixel_nm, limits=limits, with_bar=n == 0)
        ax.set_title(title)
    if unit:
        figures.colour_bar(artist, list(axes[0]), unit)
    return fig


def brightness(angles_deg: np.ndarray, total: np.ndarray) -> Figure:
    """Draw the sum of each image against its tilt: a whole object gives the same sum at every tilt."""
    fig, axes = figures.new_figure(height_in=1.8)
    axes[0, 0].plot(angles_deg, total / np.mean(total), ".", ms=3)
    axes[0, 0].set(xlabel="tilt (°)", ylabel="sum of the image / mean")
    return fig


def shifts(alignment: pd.DataFrame) -> Figure:
    """Draw shifts and angle errors of every tilt (columns of ``alignment.csv``)."""
    fig, axes = figures.new_figure(1, 2, width_in=figures.DOUBLE_COLUMN, height_in=2.0)
    left, right = axes[0]
    angle = alignment["angle_nominal_deg"]
    for column, label in (("shift_z_nm", "along the axis, z"), ("shift_u_nm", "across the axis, u")):
        left.plot(angle, alignment[column], ".-", lw=0.5, ms=2.5, label=label)
    left.set(xlabel="nominal tilt (°)", ylabel="shift (nm)")
    left.legend()
    right.plot(angle, alignment["angle_deg"] - angle, ".", ms=2.5, color=figures.PALETTE[2])
    right.set(xlabel="nominal tilt (°)", ylabel="true − nominal tilt (°)")
    figures.panel_labels(axes)
    return fig


def dots(table: pd.DataFrame, groups: np.ndarray) -> Figure:
    """Plan (x, y) and side (x, z) view of dots as points, coloured by group, bottom group dark.

    Parameters
    ----------
    table
        ``x_nm, y_nm, z_nm``.
    groups
        (N,) whole numbers from 1, such as layers.
    """
    fig, axes = figures.new_figure(1, 2, width_in=figures.DOUBLE_COLUMN, height_in=3.4)
    names = np.unique(groups)
    colours = dict(zip(names, figures.layer_colours(len(names)), strict=True))
    for ax, vertical in zip(axes[0], ("y_nm", "z_nm"), strict=True):
        ax.scatter(table["x_nm"], table[vertical], s=7, c=[colours[g] for g in groups], lw=0)
        ax.set(xlabel="x (nm)", ylabel=f"{vertical[0]} (nm)", aspect="equal")
    figures.panel_labels(axes)
    return fig


def spectrum(amplitude: np.ndarray, nyquist_per_nm: float, spacings_nm: dict[str, float]) -> Figure:
    """Show the amplitude of an image's Fourier transform (centred) with rings at lattice spacings."""
    fig, axes = figures.new_figure(height_in=3.3)
    ax = axes[0, 0]
    span = nyquist_per_nm
    ax.imshow(
        np.log(amplitude + np.median(amplitude)),
        extent=(-span, span, -span, span),
        cmap="magma",
        interpolation="antialiased",
    )
    turn = np.linspace(0, 2 * np.pi, 361)
    for number, (name, spacing) in enumerate(spacings_nm.items()):
        if 1 / spacing < span:
            at = np.deg2rad(35 + 20 * number)  # neighbouring rings are named at different places
            ax.plot(np.cos(turn) / spacing, np.sin(turn) / spacing, color="white", lw=0.4, ls=":")
            ax.annotate(
                name, (np.cos(at) / spacing, np.sin(at) / spacing), color="white", fontsize=6, ha="center",
                va="center", path_effects=figures.outlined(),
            )  # fmt: skip
    ax.set(xlabel="u frequency (1/nm)", ylabel="z frequency (1/nm)", xlim=(-span, span), ylim=(-span, span))
    return fig
