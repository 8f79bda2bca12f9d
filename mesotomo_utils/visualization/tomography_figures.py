"""Figures of notebook 01: tilt series, alignment, slices, spectra, Fourier shell correlation.

Arrays and tables that are ready to be shown come in; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D

from mesotomo_utils.visualization.figures import (
    DOUBLE_COLUMN,
    PALETTE,
    SINGLE_COLUMN,
    bare,
    corner_text,
    new_figure,
    outlined,
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
        artist = ax.imshow(shown, origin="lower", cmap="gray", vmin=low, vmax=high, extent=extent)
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


def fringes_and_spectrum(
    patch: np.ndarray,
    transform: np.ndarray,
    voxel_nm: float,
    spectrum: pd.DataFrame,
    lines: pd.DataFrame,
    *,
    transform_step_per_nm: float,
    plane: str,
) -> Figure:
    """Draw one dot, its Fourier transform and the radial spectrum of the tomogram: Fig. 1e of the paper.

    Parameters
    ----------
    patch
        (N, N) part of a slice with one dot.
    transform
        (M, M) its power spectrum, zero frequency in the middle, in logarithm.
    voxel_nm
        Edge of a voxel, nm.
    spectrum
        Columns ``q_per_nm, lines, both, cation``: power above the background, and simulated, relative to {200}.
    lines
        Columns ``family, q_per_nm, snr, visible``.
    transform_step_per_nm
        Edge of a pixel of the transform, nm⁻¹.
    plane
        Which plane the slice lies in, e.g. ``"z against x"``.
    """
    fig, axes = new_figure(1, 3, width_in=DOUBLE_COLUMN, height_in=2.2, gridspec_kw={"width_ratios": [1, 1, 1.7]})
    left, middle, right = axes.ravel()
    show_image(left, patch, pixel_nm=voxel_nm)
    left.set_title(f"one dot, {plane}")
    half = transform.shape[0] / 2 * transform_step_per_nm
    low, high = np.percentile(transform, (30, 99.95))
    middle.imshow(transform, extent=(-half, half, -half, half), vmin=low, vmax=high, origin="lower", cmap="magma")
    turn = np.linspace(0, 2 * np.pi, 200)
    reach = 1.15 * lines["q_per_nm"].iloc[-2:].min()
    for i, line in enumerate(lines.itertuples()):
        if line.q_per_nm < reach:
            x, y = line.q_per_nm * np.cos(turn), line.q_per_nm * np.sin(turn)
            middle.plot(x, y, ":", lw=0.5, color="white", alpha=0.7)
            at = (line.q_per_nm * np.cos(0.3 + 0.5 * i), line.q_per_nm * np.sin(0.3 + 0.5 * i))
            middle.annotate(
                f"{{{line.family}}}", at, color="white", fontsize=5.5, ha="center", va="center",
                path_effects=outlined(),
            )  # fmt: skip
    middle.set(xlim=(-reach, reach), ylim=(-reach, reach), title="its power spectrum")
    bare(middle)
    scale_bar(middle, 2.0, unit="nm$^{-1}$", outline="black")
    spectrum_lines(right, spectrum, lines)
    panel_labels(axes.ravel(), offset_pt=(-2, 3))
    return fig


def spectrum_lines(ax: Axes, spectrum: pd.DataFrame, lines: pd.DataFrame) -> None:
    """Draw the lattice lines of a radial spectrum beside the simulated ones."""
    ax.plot(spectrum["q_per_nm"], spectrum["lines"], "-", color="0.2", lw=0.9, label="tomogram")
    for column, colour, label in (("both", PALETTE[0], "both sublattices"), ("cation", PALETTE[1], "cations alone")):
        ax.plot(spectrum["q_per_nm"], spectrum[column], "--", lw=0.8, color=colour, label=f"simulated, {label}")
    top = ax.get_ylim()[1]
    ax.set_ylim(top=1.15 * top)
    for line in lines.itertuples():
        colour = "black" if line.visible else "0.55"
        ax.axvline(line.q_per_nm, color=colour, lw=0.5, ls="-" if line.visible else ":", zorder=0, ymax=0.86)
        at = (line.q_per_nm, 1.02 * top)
        ax.annotate(f"{{{line.family}}}", at, color=colour, fontsize=6, ha="center", va="bottom")
    ax.set(xlabel="spatial frequency (nm$^{-1}$)", ylabel="power above background / {200}")
    ax.legend(loc="upper center", fontsize=5.5, bbox_to_anchor=(0.5, -0.2), ncols=3, columnspacing=0.8)


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
