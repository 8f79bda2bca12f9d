"""Figures of notebook 01: tilt series, alignment, slices, Fourier shell correlation.

Arrays and tables that are ready to be shown come in; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D

from mesotomo_utils.visualization.figures import (
    DOUBLE_COLUMN,
    PALETTE,
    SINGLE_COLUMN,
    bare,
    corner_text,
    new_figure,
    panel_labels,
    scale_bar,
    show_image,
)


def tilt_images(images: Sequence[np.ndarray], angles_deg: Sequence[float], pixel_nm: float) -> Figure:
    """Show a few images of a tilt series, the tilt axis upright.

    Parameters
    ----------
    images
        Each (Z, U).
    angles_deg
        Their tilts, degrees.
    pixel_nm
        Edge of a pixel, nm.
    """
    rows, columns = images[0].shape
    height = min(5.5, DOUBLE_COLUMN / len(images) * rows / columns + 0.25)
    fig, axes = new_figure(1, len(images), width_in=DOUBLE_COLUMN, height_in=height)
    for i, (ax, image, angle) in enumerate(zip(axes.ravel(), images, angles_deg, strict=True)):
        show_image(ax, image, pixel_nm=pixel_nm, with_bar=i == 0)
        ax.set_title(f"{angle:.0f}°")
    return fig


def sinograms(recorded: np.ndarray, aligned: np.ndarray, pixel_nm: float) -> Figure:
    """Show one row of the images against the tilt, before and after the alignment.

    Parameters
    ----------
    recorded, aligned
        (T, U) each.
    pixel_nm
        Edge of a pixel, nm.
    """
    fig, axes = new_figure(1, 2, width_in=DOUBLE_COLUMN, height_in=2.6, sharey=True)
    for ax, sinogram, title in zip(axes.ravel(), (recorded, aligned), ("as recorded", "aligned"), strict=True):
        half = sinogram.shape[1] * pixel_nm / 2
        low, high = np.percentile(sinogram, (0.5, 99.8))
        extent = (-half, half, -0.5, len(sinogram) - 0.5)
        ax.imshow(sinogram, aspect="auto", origin="lower", extent=extent, vmin=low, vmax=high)
        ax.set(title=title, xlabel="u (nm)")
    axes[0, 0].set_ylabel("image")
    return fig


def alignment(table: pd.DataFrame) -> Figure:
    """Draw the shifts, the angles and the residual of each image.

    Parameters
    ----------
    table
        Columns ``angle_nominal_deg, shift_z_nm, shift_u_nm, angle_difference_deg, residual_nm, used``.
    """
    fig, axes = new_figure(1, 3, width_in=DOUBLE_COLUMN, height_in=2.0)
    left, middle, right = axes.ravel()
    used, tilt = table["used"].astype(bool), table["angle_nominal_deg"]
    for column, label, colour in (("shift_z_nm", "along z", PALETTE[0]), ("shift_u_nm", "along u", PALETTE[1])):
        left.plot(tilt[used], table.loc[used, column], ".", ms=3, color=colour, label=label)
    left.set(ylabel="shift (nm)")
    left.legend(loc="best", handletextpad=0.1)
    middle.plot(tilt[used], table.loc[used, "angle_difference_deg"], ".", ms=3, color=PALETTE[2])
    middle.set(ylabel="angle − nominal angle (°)")
    right.plot(tilt[used], table.loc[used, "residual_nm"], ".", ms=3, color="0.3")
    right.set(ylabel="residual (nm)")
    right.set_ylim(bottom=0)
    for ax in axes.ravel():
        ax.set_xlabel("nominal tilt (°)")
        ax.set_xticks(np.arange(-90, 91, 45))
        for left_out in tilt[~used]:
            ax.axvline(left_out, color="crimson", lw=0.6, zorder=0)
    panel_labels(axes.ravel(), offset_pt=(-22, 3))
    return fig


def orthogonal_slices(
    xy: np.ndarray, xz: np.ndarray, yz: np.ndarray, voxel_nm: float, *, limits: tuple[float, float] | None = None
) -> Figure:
    """Show the three central slices of a tomogram.

    Parameters
    ----------
    xy, xz, yz
        (Y, X), (Z, X) and (Z, Y).
    voxel_nm
        Edge of a voxel, nm.
    limits
        Grey levels of black and white.
    """
    ratio = xz.shape[0] / xy.shape[0]
    height = min(5.5, DOUBLE_COLUMN / 3 * max(1.0, ratio) + 0.3)
    fig, axes = new_figure(1, 3, width_in=DOUBLE_COLUMN, height_in=height)
    panels = ((xy, "x", "y", "across the tilt axis"), (xz, "x", "z", "along it"), (yz, "y", "z", "along it"))
    for i, (ax, (image, across, up, note)) in enumerate(zip(axes.ravel(), panels, strict=True)):
        show_image(ax, image, pixel_nm=voxel_nm, limits=limits, with_bar=i == 0)
        ax.set_title(f"{up} against {across}, {note}")
    panel_labels(axes.ravel(), offset_pt=(0, 3))
    return fig


def cut_block(
    top: np.ndarray, front: np.ndarray, side: np.ndarray, voxel_nm: float, *, limits: tuple[float, float]
) -> Figure:
    """Draw three slices as the faces of a block that is cut out of the tomogram, in oblique perspective.

    Parameters
    ----------
    top
        (Y, X) slice at the upper end of the block, y away from the viewer.
    front
        (Z, X) slice at its front.
    side
        (Z, Y) slice at its right.
    voxel_nm
        Edge of a voxel, nm.
    limits
        Grey levels of black and white.
    """
    depth_x, depth_y = 0.5, 0.32
    z_nm, x_nm, y_nm = front.shape[0] * voxel_nm, front.shape[1] * voxel_nm, side.shape[1] * voxel_nm
    width, height = x_nm + depth_x * y_nm, z_nm + depth_y * y_nm
    size = SINGLE_COLUMN
    fig, axes = new_figure(1, 1, width_in=size, height_in=min(1.6 * size, size * height / width))
    ax = axes[0, 0]
    faces = (
        (front, (0, x_nm, 0, z_nm), Affine2D(), 0.92),
        (top, (0, x_nm, 0, y_nm), Affine2D(np.array([[1, depth_x, 0], [0, depth_y, z_nm], [0, 0, 1]])), 1.0),
        (side, (0, y_nm, 0, z_nm), Affine2D(np.array([[depth_x, 0, x_nm], [depth_y, 1, 0], [0, 0, 1]])), 0.75),
    )
    low, high = limits
    for image, extent, transform, brightness in faces:
        shown = low + (np.asarray(image) - low) * brightness  # faces turned from the light are darker
        options = {"vmin": low, "vmax": high, "extent": extent, "interpolation": "hanning"}  # no blocks, no moiré
        artist = ax.imshow(shown, origin="lower", cmap="gray", **options)
        artist.set_transform(transform + ax.transData)
    edges = [
        [(0, 0), (x_nm, 0), (x_nm, z_nm), (0, z_nm), (0, 0)],
        [(0, z_nm), (depth_x * y_nm, z_nm + depth_y * y_nm), (width, height), (x_nm, z_nm)],
        [(width, height), (width, depth_y * y_nm), (x_nm, 0)],
    ]
    for edge in edges:
        ax.plot(*np.transpose(edge), color="0.25", lw=0.6)
    ax.set(xlim=(-0.01 * width, 1.01 * width), ylim=(-0.01 * height, 1.01 * height))
    bare(ax)
    scale_bar(ax, location="lower left")
    gap = 0.02 * width
    ax.text(-gap, z_nm / 2, "z, tilt axis", ha="right", va="center", rotation=90)
    ax.text(x_nm / 2, -gap, "x", ha="center", va="top")
    ax.text(x_nm + depth_x * y_nm / 2 + gap, depth_y * y_nm / 2 - gap, "y", ha="left", va="top")
    return fig


def two_methods(images: Mapping[str, np.ndarray], voxel_nm: float) -> Figure:
    """Show the same slice by several methods, each in grey levels of its own.

    Parameters
    ----------
    images
        Title to (Y, X) slice.
    voxel_nm
        Edge of a voxel, nm.
    """
    fig, axes = new_figure(1, len(images), width_in=DOUBLE_COLUMN, height_in=DOUBLE_COLUMN / len(images) + 0.2)
    for i, (ax, (title, image)) in enumerate(zip(axes.ravel(), images.items(), strict=True)):
        show_image(ax, image, pixel_nm=voxel_nm, with_bar=i == 0)
        ax.set_title(title)
    panel_labels(axes.ravel(), offset_pt=(0, 3))
    return fig


def plain_spectrum(spectrum: pd.DataFrame) -> Figure:
    """Draw a radial power spectrum alone.

    Parameters
    ----------
    spectrum
        Columns ``q_per_nm, power``.
    """
    fig, axes = new_figure(1, 1)
    ax = axes[0, 0]
    ax.semilogy(spectrum["q_per_nm"], spectrum["power"], color="0.2")
    ax.set(xlabel="spatial frequency (nm$^{-1}$)", ylabel="power (noise of variance 1)")
    return fig


def shell_correlation(curve: pd.DataFrame, marks: Mapping[str, tuple[float, float]]) -> Figure:
    """Draw a Fourier shell correlation with its thresholds.

    Parameters
    ----------
    curve
        Columns ``q_per_nm, fsc, sigma``.
    marks
        Name of a threshold to its value and the resolution it gives, nm (NaN: none).
    """
    fig, axes = new_figure(1, 1)
    ax = axes[0, 0]
    ax.fill_between(curve["q_per_nm"], -3 * curve["sigma"], 3 * curve["sigma"], color="0.88", lw=0, label="noise, 3σ")
    ax.plot(curve["q_per_nm"], curve["fsc"], color="0.2", label="even against odd tilts")
    for (name, (threshold, found)), colour in zip(marks.items(), PALETTE, strict=False):
        label = f"threshold {name}: {found:.2f} nm" if np.isfinite(found) else f"threshold {name}"
        ax.axhline(threshold, color=colour, lw=0.7, ls="--", label=label)
        if np.isfinite(found):
            ax.plot(1 / found, threshold, "o", color=colour, ms=3)
    ax.axhline(0, color="black", lw=0.4)
    ax.set(xlabel="spatial frequency (nm$^{-1}$)", ylabel="Fourier shell correlation", ylim=(-0.15, 1.05))
    ax.legend(loc="upper right")
    return fig


def known_case(truth: np.ndarray, found: np.ndarray, *, pixel_nm: float, text: str) -> Figure:
    """Show a phantom beside its reconstruction.

    Parameters
    ----------
    truth, found
        (Y, X) each.
    pixel_nm
        Edge of a pixel, nm.
    text
        What to say of the comparison.
    """
    fig, axes = new_figure(1, 2, width_in=SINGLE_COLUMN, height_in=1.95)
    limits = (float(truth.min()), float(truth.max()))
    for i, (ax, image, title) in enumerate(zip(axes.ravel(), (truth, found), ("made", "found"), strict=True)):
        show_image(ax, image, pixel_nm=pixel_nm, limits=limits, with_bar=i == 0)
        ax.set_title(title)
    corner_text(axes[0, 1], text, colour="white")
    return fig
