"""Figures of the analysis: they show what is reported."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mesotomo_utils.visualization import analysis_figures

mpl.use("Agg")


@pytest.mark.parametrize("known", [True, False])
def test_figure_4_shows_the_twist_that_is_reported_and_the_axis_above_its_references(known):
    rng = np.random.default_rng(0)
    pairs = pd.DataFrame({"axis": np.repeat(list("ABC"), 20), "theta_deg": rng.uniform(0, 5, 60)})
    pairs[["twist", "x", "y"]] = rng.uniform(0, 0.5, (60, 3))
    layers = pd.DataFrame({"layer": [1, 2, 3], "theta_deg": [1.0, 2.0, 1.5], "entropy": [0.01, 0.02, 0.015]})
    for name in ("theta_deg", "entropy"):
        layers[f"{name}_low"], layers[f"{name}_high"] = 0.9 * layers[name], 1.1 * layers[name]
    axes = pd.DataFrame([["common axis", -0.45, 0.9], ["[-1 2 0]", -0.45, 0.89], ["[1 1 0]", 0.7, 0.7]])
    axes.columns = ["name", "x", "y"]
    twist = pd.DataFrame({"axis": list("ABC"), "twist_raw": [0.5, 0.7, 0.3], "twist": [0.45, 0.75, 0.25]})
    if not known:
        twist["twist"] = np.nan
    for rows in (axes, axes.iloc[1:]):  # the axis may not be known
        fig = analysis_figures.neighbours(pairs, layers, rows, twist)
        projection, panel = fig.axes[1], fig.axes[2]
        dashed = [line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == "--" and len(line.get_xdata())]
        assert dashed == twist["twist" if known else "twist_raw"].tolist()
        said = [text.get_text() for text in panel.get_legend().get_texts()]
        assert said == ["random axis", "mean, noise off" if known else "mean, raw"]
        marks = {m.get_label(): m.get_zorder() for m in projection.collections if m.get_label() in set(axes["name"])}
        assert set(marks) == set(rows["name"])
        assert max(marks, key=marks.get) == rows["name"].iloc[0]
        plt.close(fig)
