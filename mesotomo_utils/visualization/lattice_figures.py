"""Figures of the atomic lattice in a tomogram: one dot, its Bragg spots, the lines of the radial spectrum.

Arrays and tables that are ready to be shown come in; nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mesotomo_utils.visualization.figures import (
    DOUBLE_COLUMN,
    PALETTE,
    bare,
    new_figure,
    outlined,
    panel_labels,
    scale_bar,
    show_image,
)

FAMILY_COLOURS = {"111": PALETTE[1], "200": PALETTE[0], "220": PALETTE[2], "311": PALETTE[4]}
_LABEL_PER_NM = 0.6
"""Lines nearer to each other have their labels at two heights."""
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def fringes_and_spectrum(section: Mapping[str, object], spectrum: pd.DataFrame, lines: pd.DataFrame) -> Figure:
    """Draw one dot, its Fourier transform and the radial spectrum of the tomogram: Fig. 1e of the paper.

    Parameters
    ----------
    section
        ``patch`` (N, N) with one dot, its ``pixel_nm`` and its ``zone``; ``transform`` (M, M), its power spectrum in
        logarithm, zero frequency in the middle, ``step_per_nm`` its pixel; ``fringes_per_nm`` (2,) the frequency of
        the fringes to mark, NaN for none.
    spectrum
        Columns ``q_per_nm, lines, both, cation``: power above the background, and simulated, relative to {200}.
    lines
        Columns ``family, q_per_nm, snr, visible``.
    """
    fig, axes = new_figure(1, 3, width_in=DOUBLE_COLUMN, height_in=2.2, gridspec_kw={"width_ratios": [1, 1, 1.7]})
    left, middle, right = axes.ravel()
    show_image(left, section["patch"], pixel_nm=section["pixel_nm"])
    left.set_title(f"one dot along {section['zone']}")
    _mark_fringes(left, np.asarray(section["fringes_per_nm"]))
    transform = section["transform"]
    half = len(transform) / 2 * section["step_per_nm"]
    reach = 1.2 * lines["q_per_nm"].iloc[:3].max()
    inside = transform[np.abs(np.linspace(-half, half, len(transform))) < reach]
    low, high = np.percentile(inside, (60, 99.95))
    middle.imshow(transform, extent=(-half, half, -half, half), vmin=low, vmax=high, origin="lower", cmap="magma")
    turn = np.linspace(0, 2 * np.pi, 200)
    for line, angle in zip(lines.itertuples(), np.deg2rad([112.5, 67.5, 67.5, 67.5]), strict=False):
        if line.q_per_nm < reach:
            circle = line.q_per_nm * np.cos(turn), line.q_per_nm * np.sin(turn)
            middle.plot(*circle, ":", lw=0.5, color="white", alpha=0.7)
            at = (line.q_per_nm * np.cos(angle), line.q_per_nm * np.sin(angle))
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


def _mark_fringes(ax: Axes, q: np.ndarray, *, periods: int = 5) -> None:
    """Draw a ruler across fringes of frequency q (2,), one tick a period, in the upper right corner."""
    if not np.isfinite(q).all():
        return
    spacing = 1 / np.linalg.norm(q)
    along = q * spacing
    across = np.array([-along[1], along[0]])
    edge = ax.get_xlim()[1]
    middle = np.array([0.62, 0.62]) * edge
    ticks = middle + (np.arange(periods + 1) - periods / 2)[:, None] * spacing * along
    effects = outlined()
    ax.plot(*ticks[[0, -1]].T, color="#F0E442", lw=0.9, path_effects=effects)
    for tick in ticks:
        ax.plot(*np.transpose([tick, tick + 0.05 * edge * across]), color="#F0E442", lw=0.9, path_effects=effects)
    ax.annotate(
        f"{{220}}: {periods} × {spacing:.3f} nm", (0.97 * edge, 0.97 * edge), color="#F0E442", fontsize=5.5,
        ha="right", va="top", path_effects=effects,
    )  # fmt: skip


def spectrum_lines(ax: Axes, spectrum: pd.DataFrame, lines: pd.DataFrame) -> None:
    """Draw the lattice lines of a radial spectrum beside the simulated ones."""
    ax.plot(spectrum["q_per_nm"], spectrum["lines"], "-", color="0.2", lw=0.9, label="tomogram")
    for column, colour, label in (("both", PALETTE[0], "both sublattices"), ("cation", PALETTE[1], "cations alone")):
        ax.plot(spectrum["q_per_nm"], spectrum[column], "--", lw=0.8, color=colour, label=f"simulated, {label}")
    top = ax.get_ylim()[1]
    ax.set_ylim(top=1.45 * top)
    apart = np.diff(lines["q_per_nm"], prepend=-np.inf)
    raised = False
    for line, step in zip(lines.itertuples(), apart, strict=True):
        raised = step < _LABEL_PER_NM and not raised  # beside a label that stands close before it
        colour = "black" if line.visible else "0.55"
        ax.axvline(line.q_per_nm, color=colour, lw=0.5, ls="-" if line.visible else ":", zorder=0, ymax=0.68)
        height = f"{line.snr:.0f} σ" if np.isfinite(line.snr) else "beyond Nyquist"
        at = (line.q_per_nm, (1.22 if raised else 1.0) * top)
        ax.annotate(f"{{{line.family}}}\n{height}", at, color=colour, fontsize=6, ha="center", va="bottom")
    ax.set(xlabel="spatial frequency (nm$^{-1}$)", ylabel="power above background / {200}")
    ax.legend(loc="upper center", fontsize=5.5, bbox_to_anchor=(0.5, -0.2), ncols=3, columnspacing=0.8)


def bragg_spots(
    table: pd.DataFrame, others: pd.DataFrame, radii_per_nm: Mapping[str, float], threshold: float
) -> Figure:
    """Draw the Bragg spots of one dot in reciprocal space, and their power over noise.

    Parameters
    ----------
    table
        Columns ``family, qx, qy, qz, snr, seen``, one row a Friedel pair; both of it are drawn.
    others
        Columns ``qx, qy, qz, snr`` of spots that belong to another lattice.
    radii_per_nm
        Radius of the shell of each family, nm⁻¹.
    threshold
        Above it a spot counts as seen.
    """
    fig = plt.figure(figsize=(DOUBLE_COLUMN, 3.1), layout="none")
    space = fig.add_axes((0.01, 0.02, 0.46, 0.94), projection="3d", computed_zorder=False)
    plot = fig.add_axes((0.58, 0.16, 0.40, 0.72))
    turn = np.linspace(0, 2 * np.pi, 120)
    circle = np.stack([np.cos(turn), np.sin(turn), 0 * turn])
    circles = np.hstack([np.c_[np.roll(circle, roll, axis=0), np.full(3, np.nan)] for roll in range(3)])
    for family, radius in radii_per_nm.items():
        space.plot(*(radius * circles), color=FAMILY_COLOURS[family], lw=0.5, alpha=0.5)
        plot.axvline(radius, color=FAMILY_COLOURS[family], lw=0.5, ls=":", zorder=0)
    place, height = others[["qx", "qy", "qz"]].to_numpy(float), others["snr"]
    space.plot(*np.vstack([place, -place]).T, ".", ms=2.5, color="0.6")
    plot.plot(np.linalg.norm(place, axis=1), height, ".", ms=3, color="0.6", label="others")
    for family, rows in table.groupby("family"):
        place, colour = rows[["qx", "qy", "qz"]].to_numpy(float), FAMILY_COLOURS[family]
        for seen, face in ((True, colour), (False, "white")):
            some = rows["seen"].to_numpy(bool) == seen
            pair = np.stack([place[some], -place[some]], axis=1)
            apart = np.concatenate([pair, np.full_like(pair[:, :1], np.nan)], axis=1)  # a line through each pair
            space.plot(*apart.reshape(-1, 3).T, "-", color=colour, lw=0.4, alpha=0.4)
            space.plot(*pair.reshape(-1, 3).T, "o", ms=4, mfc=face, mec=colour, mew=0.7)
            plot.plot(
                np.linalg.norm(place[some], axis=1), rows["snr"][some], "o", ms=4, mfc=face, mec=colour, mew=0.8,
                label=f"{{{family}}}, {some.sum()} of {len(rows)} seen" if seen else None,
            )  # fmt: skip
    reach = 1.02 * max(radii_per_nm.values())
    for axis in "xyz":
        space.set(**{f"{axis}lim": (-reach, reach), f"{axis}ticks": np.arange(-(reach // 2) * 2, reach, 2)})
        getattr(space, f"set_{axis}label")(f"{axis} frequency (nm⁻¹)", labelpad=-5)
        getattr(space, f"{axis}axis").pane.set(facecolor="white", edgecolor="0.8")
    space.tick_params(pad=-2, labelsize=6)
    space.set_box_aspect((1, 1, 1), zoom=0.92)
    space.view_init(elev=18, azim=-52)
    space.grid(False)
    plot.axhline(threshold, color="black", lw=0.6, ls="--", label=f"seen: above {threshold:.1f}")
    plot.set(yscale="log", xlabel="spatial frequency (nm⁻¹)", ylabel="power / noise")
    # no mathematical text: it would take most of the figure's time
    plot.yaxis.set_major_formatter(lambda y, _: "10" + str(round(np.log10(y))).translate(_RAISED))
    plot.yaxis.set_minor_formatter("")
    drawn = [threshold, *table["snr"], *others["snr"]]
    plot.set_ylim(bottom=min(1.0, 0.8 * min(drawn)), top=30 * max(drawn))
    plot.legend(
        loc="upper left", fontsize=5.5, ncols=2, columnspacing=0.8, handletextpad=0.3,
        frameon=True, framealpha=1.0, edgecolor="none",
    )  # fmt: skip
    for number, x in (("a", 0.01), ("b", 0.51)):
        fig.text(x, 0.94, number, weight="bold", fontsize=9)
    return fig
