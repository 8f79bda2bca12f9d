"""Figures of the lattice: what they say, also where there is nothing to show."""

from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from mesotomo_utils import lattice
from mesotomo_utils.visualization import figures, lattice_figures, mapping_figures, orientation_figures

mpl.use("agg")
RADII = {"111": 2.83, "200": 3.27, "220": 4.62}


@pytest.fixture
def spots() -> pd.DataFrame:
    table = lattice.reflections(0.612)
    table[["qx", "qy", "qz"]] = table[["h", "k", "l"]] / 0.612
    return table.assign(snr=100.0, seen=table["family"] != "111")


def texts(fig) -> list[str]:
    fig.canvas.draw()
    return [text.get_text() for text in fig.findobj(mpl.text.Text)]


@pytest.mark.filterwarnings("error")
def test_each_family_says_how_many_of_it_are_seen(spots):
    others = pd.DataFrame({"qx": [1.0], "qy": [2.0], "qz": [3.0], "snr": [40.0]})
    fig = lattice_figures.bragg_spots(spots, others, RADII, 10.5)
    said = texts(fig)
    for text in ("{111}, 0 of 4 seen", "{200}, 3 of 3 seen", "{220}, 6 of 6 seen", "seen: above 10.5"):
        assert text in said
    assert [f"{axis} frequency (nm⁻¹)" in said for axis in "xyz"] == [True] * 3
    # both of each Friedel pair stand in space
    dots = [line for line in fig.axes[0].lines if line.get_marker() == "o"]
    assert sum(len(line.get_data_3d()[0]) for line in dots) == 2 * len(spots)


@pytest.mark.filterwarnings("error")
def test_a_dot_without_a_lattice_can_be_drawn(spots):
    none = pd.DataFrame(columns=["qx", "qy", "qz", "snr"], dtype=float)
    fig = lattice_figures.bragg_spots(spots.iloc[:0], none, RADII, 10.5)
    assert "seen: above 10.5" in texts(fig)
    low, high = fig.axes[1].get_ylim()
    assert low < 10.5 < high


@pytest.mark.parametrize("fringes", [[3.27, 3.27], [np.nan, np.nan]])
def test_the_fringes_are_measured_on_the_dot(fringes):
    section = {
        "patch": np.random.default_rng(0).random((40, 40)),
        "pixel_nm": 0.1,
        "zone": "[001]",
        "transform": np.random.default_rng(1).random((160, 160)),
        "step_per_nm": 0.1,
        "fringes_per_nm": np.array(fringes),
    }
    q = np.linspace(2, 5, 40)
    spectrum = pd.DataFrame({"q_per_nm": q, "lines": 0 * q, "both": 0 * q + 1, "cation": 0 * q})
    lines = pd.DataFrame({"family": ["111", "200", "220"], "q_per_nm": RADII.values(), "snr": [41.2, 3.0, np.nan]})
    fig = lattice_figures.fringes_and_spectrum(section, spectrum, lines.assign(visible=[True, False, False]))
    said = texts(fig)
    assert ("{220}: 5 × 0.216 nm" in said) == np.isfinite(fringes[0])
    assert {"{111}\n41 σ", "{200}\n3 σ", "{220}\nbeyond Nyquist", "one dot along [001]"} <= set(said)


def test_labels_of_lines_near_each_other_stand_at_two_heights():
    q = np.linspace(2.5, 7.1, 80)
    spectrum = pd.DataFrame({"q_per_nm": q, "lines": np.exp(-((q - 3.3) ** 2)), "both": 0 * q + 1, "cation": 0 * q})
    lines = pd.DataFrame(
        {
            "family": ["111", "200", "220", "311", "222", "400", "331"],
            "q_per_nm": np.sqrt([3, 4, 8, 11, 12, 16, 19]) / 0.612,
            "snr": [39.0, 48.0, 52.0, 24.0, 14.0, 2.8, np.nan],
        }
    ).assign(visible=[True] * 5 + [False] * 2)
    shares = {"gridspec_kw": {"width_ratios": [1, 1, 1.7]}}
    fig, axes = figures.new_figure(1, 3, width_in=figures.DOUBLE_COLUMN, height_in=2.2, **shares)
    ax = axes.ravel()[2]
    lattice_figures.spectrum_lines(ax, spectrum, lines)
    fig.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == 7
    assert not any(box.overlaps(other) for n, box in enumerate(boxes) for other in boxes[n + 1 :])


def test_sigma_maps_colour_every_dot_by_its_own_error():
    rng = np.random.default_rng(0)
    dots = pd.DataFrame(rng.normal(0, 10, (30, 3)), columns=["x_nm", "y_nm", "z_nm"])
    dots["sigma_nm"] = rng.uniform(0.01, 0.1, 30)
    dots["sigma_deg"] = rng.uniform(0.05, 0.3, 30)
    dots.loc[:4, "sigma_deg"] = np.nan
    fig = orientation_figures.sigma_maps(dots)
    for ax, column, vertical in zip(
        fig.axes[:4], ["sigma_nm"] * 2 + ["sigma_deg"] * 2, ["y_nm", "z_nm"] * 2, strict=True
    ):
        rings, points = ax.collections
        known = dots.dropna(subset=[column])
        drawn = np.column_stack([points.get_offsets(), points.get_array()])
        expected = known[["x_nm", vertical, column]].sort_values(column).to_numpy()
        np.testing.assert_allclose(drawn, expected)
        assert len(rings.get_offsets()) == 30 - len(known)
        assert points.norm(known[column].min() * 2) - points.norm(known[column].min()) == pytest.approx(
            points.norm(0.2) - points.norm(0.1)
        ), "twice as large is as far everywhere"
        assert ax.get_xlabel() == "x (nm)"
    assert {ax.get_ylabel() for ax in fig.axes[4:]} == {"σ of the position (nm)", "σ of the orientation (°)"}
    exact = orientation_figures.sigma_maps(dots.assign(sigma_nm=0.0))
    assert len(exact.axes[0].collections[0].get_offsets()) == 30, "no logarithm: drawn as unknown"
    blank = orientation_figures.sigma_maps(dots.assign(sigma_deg=np.nan))
    assert len(blank.axes) == 5  # one colour bar


@pytest.mark.parametrize("deviation_nm", [0.0007, 0.007, 0.0225, 0.9])
def test_the_ticks_of_half_set_differences_do_not_run_into_each_other(deviation_nm):
    figures.use_style()
    drawn = np.random.default_rng(0).normal(0, deviation_nm, (200, 3))
    fig = mapping_figures.half_set_differences(pd.DataFrame(drawn, columns=["dx_nm", "dy_nm", "dz_nm"]))
    fig.canvas.draw()
    for ax in fig.axes:
        boxes = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_text()]
        assert len(boxes) >= 3
        assert not any(box.overlaps(other) for box, other in pairwise(boxes))
