"""Resolution measures on volumes whose answer is known."""

import math

import numpy as np
import pandas as pd
import pytest

from mesotomo_utils import lattice
from mesotomo_utils.tomography import lattice_lines, resolution
from mesotomo_utils.tomography.reconstruction import reconstruct
from mesotomo_utils.tomography.tilt_series import TiltSeries

LATTICE_NM, VOXEL_NM = 0.6, 0.08


def crystal(size: int, families, *, amplitude: float, noise: float, seed: int = 0) -> np.ndarray:
    """Plane waves of a few families in one odd orientation, in white noise of given deviation."""
    rng = np.random.default_rng(seed)
    R = lattice.from_rotation_vectors(np.array([[0.3, -0.5, 0.2]]))[0]
    axis = (np.arange(size) - (size - 1) / 2) * VOXEL_NM
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    volume = rng.normal(0, noise, (size,) * 3)
    for _, row in lattice.reflections(LATTICE_NM, families).iterrows():
        g = R @ np.array([row.h, row.k, row.l]) / LATTICE_NM
        volume += amplitude * np.cos(2 * np.pi * (g[0] * x + g[1] * y + g[2] * z) + 1.0)
    return (10 + volume).astype(np.float32)


def test_white_noise_has_a_flat_spectrum():
    volume = np.random.default_rng(1).normal(0, 2, (64, 64, 64)).astype(np.float32)
    spectrum = resolution.radial_power(volume, 0.1)
    assert spectrum["power"].mean() == pytest.approx(4, rel=0.02)
    assert spectrum["q_per_nm"].max() == pytest.approx(5, rel=0.02)
    assert spectrum["n"].sum() > 0.4 * 64**3


def test_a_wave_peaks_at_its_frequency():
    z = np.arange(90) * VOXEL_NM
    volume = np.cos(2 * np.pi * 3.0 * z)[:, None, None] + np.zeros((90, 70, 80))
    volume += np.random.default_rng(0).normal(0, 0.1, volume.shape)
    spectrum = resolution.radial_power(volume.astype(np.float32), VOXEL_NM)
    step = np.diff(spectrum["q_per_nm"]).max()
    assert spectrum["q_per_nm"][spectrum["power"].idxmax()] == pytest.approx(3.0, abs=step)


def test_lines_that_are_there_and_only_those():
    volume = crystal(96, ((1, 1, 1), (2, 2, 0)), amplitude=0.3, noise=1.0)
    spectrum = resolution.radial_power(volume, VOXEL_NM)
    lines, background = lattice_lines.visible_lines(spectrum, LATTICE_NM)
    assert lines.set_index("family")["visible"].to_dict() == {"111": True, "200": False, "220": True, "311": False}
    assert background["background"].mean() == pytest.approx(1.0, rel=0.1)
    stated = lattice_lines.lattice_resolution(lines)
    assert stated["resolution_nm"] == pytest.approx(LATTICE_NM / math.sqrt(8))
    assert stated["next_family"] == "311"


def test_noise_shows_no_line():
    for seed in range(3):
        spectrum = resolution.radial_power(crystal(80, (), amplitude=0, noise=1.0, seed=seed), VOXEL_NM)
        lines, _ = lattice_lines.visible_lines(spectrum, LATTICE_NM)
        assert not lines["visible"].any()
        assert math.isnan(lattice_lines.lattice_resolution(lines)["resolution_nm"])


def test_lines_beyond_nyquist_are_unknown():
    volume = crystal(80, ((1, 1, 1),), amplitude=0.3, noise=1.0)
    spectrum = resolution.radial_power(volume, VOXEL_NM)
    lines, _ = lattice_lines.visible_lines(spectrum[spectrum["q_per_nm"] < 4], LATTICE_NM)
    assert lines["snr"].isna().tolist() == [False, False, True, True]
    with pytest.raises(ValueError, match="too large to show the lattice"):
        lattice_lines.visible_lines(spectrum[spectrum["q_per_nm"] < 2], LATTICE_NM)
    with pytest.raises(ValueError, match="larger window_nm"):
        lattice_lines.visible_lines(spectrum[::6], LATTICE_NM)


def made_spectrum(heights: dict[str, float], *, nyquist: float, width: float = 0.11) -> pd.DataFrame:
    """Lines of known height over a flat background with little noise, as of a twin of the paper."""
    q = np.arange(0.3, nyquist, 0.056)
    power = 1.0 + np.random.default_rng(3).normal(0, 0.02, q.size)
    for family, height in heights.items():
        line = math.sqrt(sum(int(index) ** 2 for index in family)) / LATTICE_NM
        power += height * np.exp(-((q - line) ** 2) / (2 * width**2))
    return pd.DataFrame({"q_per_nm": q, "power": power})


HEIGHTS = {"111": 12.0, "200": 16.0, "220": 11.0, "311": 5.0, "222": 4.0}


@pytest.mark.parametrize(
    ("nyquist", "finest", "bracket"),
    [
        (5.5, None, ("220", "311")),  # {311} itself lies beyond: nothing finer is tried
        (5.85, "222", ("311", "222")),
        (7.3, "331", ("222", "400")),
    ],
)
def test_there_is_always_a_line_that_is_not_seen(nyquist, finest, bracket):
    spectrum = made_spectrum(HEIGHTS, nyquist=nyquist)
    families = lattice_lines.families_to_try(spectrum, LATTICE_NM)
    assert families[:4] == lattice_lines.FAMILIES
    assert "".join(map(str, families[-1])) == (finest or "311")
    lines, _ = lattice_lines.visible_lines(spectrum, LATTICE_NM, families=families)
    stated = lattice_lines.lattice_resolution(lines)
    assert (stated["family"], stated["next_family"]) == bracket
    assert stated["next_nm"] < stated["resolution_nm"]


def test_finer_lines_follow_in_order_and_rock_salt_has_them_all():
    table = lattice_lines.rocksalt_lines(0.612, (82, 34), families=lattice_lines.FAMILIES + lattice_lines.FINER)
    assert table["q_per_nm"].is_monotonic_increasing
    squares = {i * i + j * j + k * k for i in range(5) for j in range(5) for k in range(5) if i % 2 == j % 2 == k % 2}
    assert [round((q * 0.612) ** 2) for q in table["q_per_nm"]] == sorted(squares)[1 : len(table) + 1]


def test_a_line_left_out_of_the_fit_spoils_the_others():
    spectrum = made_spectrum(HEIGHTS, nyquist=7.3)
    few, _ = lattice_lines.visible_lines(spectrum, LATTICE_NM)
    families = lattice_lines.families_to_try(spectrum, LATTICE_NM)
    all_, _ = lattice_lines.visible_lines(spectrum, LATTICE_NM, families=families)
    made = np.array(list(HEIGHTS.values()))
    np.testing.assert_allclose(all_["excess"][:5], made, rtol=0.08)
    assert np.abs(few["excess"] / made[:4] - 1).max() > 0.15
    assert all_["snr"][1] > 3 * few["snr"][1]


def test_curves_drawn_beside_each_other_meet_at_200():
    spectrum = made_spectrum(HEIGHTS, nyquist=7.3)
    _, background = lattice_lines.visible_lines(spectrum, LATTICE_NM)  # whose fit stops short of the tops
    simulated = {
        name: lattice_lines.rocksalt_lines(LATTICE_NM, (82, 34), cation_only=only)
        for name, only in (("both", False), ("cation", True))
    }
    drawn = lattice_lines.spectra_beside(spectrum, background, simulated, LATTICE_NM, width_per_nm=0.26)
    assert list(drawn) == ["q_per_nm", "lines", "both", "cation"]
    for name in ("lines", "both", "cation"):
        assert np.interp(2 / LATTICE_NM, drawn["q_per_nm"], drawn[name]) == pytest.approx(1.0)
    assert np.interp(math.sqrt(8) / LATTICE_NM, drawn["q_per_nm"], drawn["lines"]) == pytest.approx(11 / 16, rel=0.05)
    # a spectrum that ends before {200} has nothing to be laid on
    short = background[background["q_per_nm"] < 3.1]
    none = lattice_lines.spectra_beside(spectrum, short, simulated, LATTICE_NM, width_per_nm=0.26)
    assert none[["lines", "both", "cation"]].isna().to_numpy().all()


def test_rocksalt_structure_factors():
    both = lattice_lines.rocksalt_lines(0.612, (82, 34), rms_displacement_nm=0).set_index("family")
    lead = lattice_lines.rocksalt_lines(0.612, (82, 34), rms_displacement_nm=0, cation_only=True).set_index("family")
    assert both["multiplicity"].to_dict() == {"111": 8, "200": 6, "220": 12, "311": 24}
    assert both["d_nm"].round(4).to_dict() == {"111": 0.3533, "200": 0.306, "220": 0.2164, "311": 0.1845}
    # by hand: (Pb − Se)² / (Pb + Se)² of the odd lines, relative to Pb alone
    ratio = (82**1.7 - 34**1.7) ** 2 / (82**1.7 + 34**1.7) ** 2
    even, odd = both.loc["200", "intensity"], both.loc["111", "intensity"]
    assert odd / even == pytest.approx(ratio * lead.loc["111", "intensity"] / lead.loc["200", "intensity"])
    assert lead.loc["111", "intensity"] / lead.loc["200", "intensity"] == pytest.approx(8 / 3 * 4 / 6)
    equal = lattice_lines.rocksalt_lines(0.612, (34, 34)).set_index("family")
    assert equal.loc["111", "intensity"] == 0
    blurred = lattice_lines.rocksalt_lines(0.612, (82, 34), probe_fwhm_nm=0.1).set_index("family")
    assert blurred.loc["220", "intensity"] < both.loc["220", "intensity"] * 0.9 / both["intensity"].max()
    curve = lattice_lines.simulated_spectrum(both.reset_index(), both["q_per_nm"].to_numpy(), width_per_nm=0.05)
    assert np.allclose(curve, both["intensity"], rtol=1e-3)


def test_fsc_of_signal_in_noise():
    """Two copies of white signal in white noise correlate by S / (S + N) in every shell."""
    rng = np.random.default_rng(2)
    signal = rng.normal(0, 1, (80, 80, 80))
    halves = [(signal + rng.normal(0, 0.5, signal.shape)).astype(np.float32) for _ in range(2)]
    curve = resolution.fourier_shell_correlation(*halves, 0.1)
    assert np.average(curve["fsc"], weights=curve["n"]) == pytest.approx(1 / 1.25, abs=0.01)
    assert resolution.fsc_resolution(curve)["first_nm"] == pytest.approx(0.2, rel=0.05)
    same = resolution.fourier_shell_correlation(halves[0], 3 * halves[0] + 1, 0.1)
    assert np.allclose(same["fsc"], 1, atol=1e-6)


def test_fsc_of_noise_keeps_to_its_sigma():
    rng = np.random.default_rng(3)
    one, two = rng.normal(size=(2, 96, 96, 96)).astype(np.float32)
    curve = resolution.fourier_shell_correlation(one, two, 0.1)
    pulls = curve["fsc"] / curve["sigma"]
    assert 0.6 < pulls.std() < 1.4
    assert abs(pulls.mean()) < 0.5
    found = resolution.fsc_resolution(curve)
    assert math.isnan(found["first_nm"])


def noise_halves(seed: int) -> list[np.ndarray]:
    """Even and odd halves of a tilt series of pure noise, each reconstructed on its own."""
    angles = np.arange(-90, 90, 3.0)
    images = np.random.default_rng(seed).normal(size=(len(angles), 64, 64)).astype(np.float32)
    series = TiltSeries(images, angles, 0.1)
    return [reconstruct(series.select(slice(half, None, 2)), device="cpu") for half in (0, 1)]


@pytest.mark.parametrize("seed", range(4))
def test_noise_from_the_tilts_on_crosses_no_threshold(seed):
    """Not above either threshold in any shell that could tell, so no resolution is stated."""
    curve = resolution.fourier_shell_correlation(*noise_halves(seed), 0.1)
    telling = curve[3 * curve["sigma"] < 0.143]
    assert len(telling) > 0.6 * len(curve)
    assert telling["fsc"].max() < 0.143
    for threshold in resolution.FSC_THRESHOLDS.values():
        found = resolution.fsc_resolution(curve, threshold=threshold)
        assert math.isnan(found["last_nm"])


def test_halves_that_share_images_are_caught():
    """The check above can fail. Ten images stand in both halves; each counts with the angle that it stands for."""
    angles = np.arange(-90, 90, 3.0)
    images = np.random.default_rng(0).normal(size=(len(angles), 64, 64)).astype(np.float32)
    series = TiltSeries(images, angles, 0.1)
    even, odd = np.arange(0, 60, 2), np.sort(np.append(np.arange(1, 60, 2), np.arange(0, 60, 6)))
    halves = [reconstruct(series.select(chosen), device="cpu") for chosen in (even, odd)]
    curve = resolution.fourier_shell_correlation(*halves, 0.1)
    # 6° each; the shared 3°, their 20 neighbours 4.5°, ten others 6°
    expected = 10 * 6 * 3 / math.sqrt(30 * 6**2 * (10 * 3**2 + 20 * 4.5**2 + 10 * 6**2))
    assert curve["fsc"].tail(15).mean() == pytest.approx(expected, abs=0.04)


def test_the_curve_does_not_saw():
    """A wave along the tilt axis counts in each shell that its frequency lies in, not in every second one."""
    rng = np.random.default_rng(4)
    signal = np.cumsum(rng.normal(size=96))[:, None, None] + np.zeros((96, 96, 96))
    halves = [(signal + rng.normal(size=signal.shape)).astype(np.float32) for _ in range(2)]
    curve = resolution.fourier_shell_correlation(*halves, 0.1)
    steps = np.diff(curve["q_per_nm"])
    assert steps.max() < 1.5 * steps.min()
    assert np.median(steps) == pytest.approx(1 / 9.6, rel=0.02)


def test_fsc_meets_its_threshold():
    q = np.arange(1, 11) / 10
    curve = pd.DataFrame({"q_per_nm": q, "fsc": [1, 0.9, 0.8, 0.6, 0.4, 0.1, 0, 0.6, 0, 0], "sigma": 0.02})
    assert resolution.fsc_resolution(curve, threshold=0.5)["first_nm"] == pytest.approx(1 / 0.45)
    assert resolution.fsc_resolution(curve, threshold=0.5)["last_nm"] == pytest.approx(1 / 0.8)
    with pytest.raises(ValueError, match="between 0 and 1"):
        resolution.fsc_resolution(curve, threshold=1.5)


def test_windows_are_cut_where_the_object_is():
    volume = np.zeros((40, 200, 200), np.float32)
    volume[:, 20:70, 120:180] = np.random.default_rng(0).normal(5, 1, (40, 50, 60))
    windows = resolution.choose_windows(volume, 1.0, window_nm=40)
    assert (slice(0, 40), slice(20, 60), slice(120, 160)) in windows
    assert all(volume[window].mean() > 2 for window in windows)
    windows = [(slice(0, 40), slice(20, 60), slice(120, 160))]
    spectrum = resolution.radial_power(volume, 1.0, windows=windows)
    assert spectrum["power"].tail(20).mean() == pytest.approx(1, rel=0.1)


def test_diameter_of_a_disc():
    y, x = np.mgrid[:100, :120]
    volume = np.broadcast_to(3.0 * (np.hypot(y - 45, x - 60) < 30) + 1, (4, 100, 120))
    assert resolution.object_diameter_nm(volume, 0.5) == pytest.approx(30, rel=0.02)


def test_box_of_an_object():
    volume = np.random.default_rng(0).normal(0, 0.3, (80, 90, 100))
    volume[30:60, 20:50, 40:90] += 1
    box = resolution.object_box(volume)
    for found, expected in zip(box, ((30, 60), (20, 50), (40, 90)), strict=True):
        assert (found.start, found.stop) == pytest.approx(expected, abs=2)


def test_crowther():
    assert resolution.crowther_nm(5, 180) == pytest.approx(math.pi * 5 / 180)
    assert resolution.crowther_nm(5, 91, range_deg=91) == pytest.approx(resolution.crowther_nm(5, 180))
    with pytest.raises(ValueError, match="positive"):
        resolution.crowther_nm(0, 180)


def test_refuses():
    flat, square = np.ones((9, 9, 9)), np.ones((9, 9))
    for function in (lambda v: resolution.radial_power(v, 1), lambda v: resolution.object_diameter_nm(v, 1)):
        with pytest.raises(ValueError, match="constant"):
            function(flat)
        with pytest.raises(ValueError, match=r"\[z, y, x\]"):
            function(square)
    with pytest.raises(ValueError, match="differ in shape"):
        resolution.fourier_shell_correlation(flat, flat[1:], 1)
    for formula in ("Pb", "PbSe2", "XxSe", "lead"):
        with pytest.raises(ValueError, match="two elements"):
            lattice_lines.elements(formula)
    with pytest.raises(ValueError, match="mixed indices"):
        lattice_lines.rocksalt_lines(0.6, (82, 34), families=((2, 1, 0),))
    with pytest.raises(ValueError, match="positive"):
        lattice_lines.rocksalt_lines(0, (82, 34))
