"""Figures of notebook 08: errors against the truth; measured values beside stated ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mesotomo_utils.visualization import figures


def error_histograms(table: pd.DataFrame) -> Figure:
    """Distance and orientation errors of the whole dots.

    Parameters
    ----------
    table
        Matched dots with ``whole, error_nm`` and, where the lattice was measured,
        ``orientation_error_deg``.
    """
    whole = table[table["whole"].astype(bool)]
    columns = [("error_nm", "centre", " nm", "nm")]
    if "orientation_error_deg" in whole and whole["orientation_error_deg"].notna().any():
        columns.append(("orientation_error_deg", "orientation", "°", "°"))
    fig, axes = figures.new_figure(1, len(columns), width_in=figures.DOUBLE_COLUMN * len(columns) / 2, height_in=2.4)
    for ax, (column, what, after, unit) in zip(axes.flat, columns, strict=True):
        values = whole[column].dropna()
        median = float(values.median())
        ax.hist(values, bins=30, range=(0, max(values.quantile(0.99), 1e-9)), color=figures.PALETTE[0])
        ax.axvline(median, color="black", lw=0.8)
        figures.corner_text(ax, f"median {median:.2g}{after}", location="upper right")
        ax.set(xlabel=f"Error of the {what} ({unit})", ylabel="Dots")
    if len(columns) > 1:
        figures.panel_labels(axes)
    return fig


_WIDEST = 2.0  # times the paper's value


def stated_and_measured(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Measured values with their 95 % intervals as multiples of the paper's (1 = the paper's); arrows: beyond twice it.

    Parameters
    ----------
    rows
        Rows with ``name, value, interval_95, paper, truth``; those without a number on both sides
        are left out.
    """
    shown = [
        row
        for row in rows
        if isinstance(row["value"], int | float) and isinstance(row["paper"], int | float) and row["paper"]
    ]
    fig, ax = figures.new_figure(1, 1, width_in=4.6, height_in=0.8 + 0.17 * max(len(shown), 3))
    ax = ax[0, 0]
    for place, row in enumerate(shown):
        scale = row["paper"]
        if row.get("interval_95"):
            low, high = np.array(row["interval_95"]) / scale
            ax.plot([low, high], [place, place], color=figures.PALETTE[0], lw=2.2, alpha=0.6)
            if high > _WIDEST:
                ax.plot(_WIDEST, place, ">", ms=5, color=figures.PALETTE[0], clip_on=False)
        ax.plot(row["value"] / scale, place, "o", ms=4, color=figures.PALETTE[0])
        if isinstance(row.get("truth"), int | float):
            ax.plot(row["truth"] / scale, place, "|", ms=9, color=figures.PALETTE[1], mew=1.6)
    ax.axvline(1.0, color="black", lw=0.8)
    ax.set_yticks(range(len(shown)), [_label(row) for row in shown])
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.set_xlim(0, _WIDEST)
    ax.set_xlabel("Value / value of the paper")
    ax.plot([], [], "o-", ms=4, color=figures.PALETTE[0], label="measured, 95 %")
    ax.plot([], [], "|", ms=9, mew=1.6, color=figures.PALETTE[1], label="truth of the twin")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    ax.set_ylim(len(shown) - 0.4, -1.8)
    return fig


def _label(row: Mapping[str, Any]) -> str:
    return row["name"] if row["index"] is None else f"{row['name']} {row['index']}"
