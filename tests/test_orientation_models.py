"""Which model orientations are nearer to, on lattices where it is known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mesotomo_utils import lattice
from mesotomo_utils.analysis import cofacial, cofacial_local, orientation_models, statistics

CELL = lattice.cell_matrix(6.2, 5.9, 5.7, 98.0, 95.0, 93.0)
FACET = 4.0
MONO = cofacial.optimal_orientation(CELL, facet_nm=FACET)
FRAME = lattice.film_frame(CELL)


def film(shift_nm=0.3, *, sigma_nm=0.0, shape=(6, 6, 5), seed=1):
    """A table of dots that are displaced, and measured with errors."""
    rng = np.random.default_rng(seed)
    ijk = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    xyz = ijk @ CELL.T + rng.normal(0, shift_nm, ijk.shape) + rng.normal(0, sigma_nm, ijk.shape)
    dots = pd.DataFrame(xyz, columns=["x_nm", "y_nm", "z_nm"]).assign(qd=range(len(xyz)), layer=ijk[:, 2] + 1)
    dots[["i", "j", "k"]] = ijk
    dots[["sigma_x_nm", "sigma_y_nm", "sigma_z_nm"]] = sigma_nm
    return dots


def predict(dots, rotations, **options):
    options = {"facet_nm": FACET, "rng": np.random.default_rng(2)} | options
    return orientation_models.predict(dots, rotations, MONO.R, CELL, **options)


def compare(dots, rotations, references=()):
    place = statistics.places((dots[["x_nm", "y_nm", "z_nm"]].to_numpy() @ FRAME)[:, :2], spacing_nm=6.0)
    options = {"n_resamples": 60, "rng": np.random.default_rng(3)}
    return orientation_models.compare(predict(dots, rotations), FRAME, MONO.R, references, place, **options)


@pytest.fixture(scope="module")
def displaced():
    """Displaced dots and what their centres predict of all of them; the others' rows as R_mono."""
    dots = film()
    found = predict(dots, np.tile(MONO.R, (len(dots), 1, 1)))
    models = {name: np.tile(MONO.R, (len(dots), 1, 1)) for name in orientation_models.MODELS}
    for name, R in models.items():
        R[found.rows] = found.models[name]
    scatter = lattice.from_rotation_vectors(np.random.default_rng(4).normal(0, 0.02, (len(dots), 3)))
    return SimpleNamespace(dots=dots, models=models, scatter=scatter)


def test_in_a_perfect_lattice_the_models_are_r_mono():
    dots = film(0.0)
    found = predict(dots, np.tile(MONO.R, (len(dots), 1, 1)))
    at_rims = (dots[["i", "j", "k"]] == 0).sum(axis=1) + (dots[["i", "j", "k"]] == [5, 5, 4]).sum(axis=1)
    assert found.rows.tolist() == np.flatnonzero(at_rims <= 1).tolist()
    turned = {name: np.linalg.norm(orientation_models.turns_deg(R, MONO.R), axis=1) for name, R in found.models.items()}
    inner = at_rims[found.rows] == 0
    assert turned["directions"].max() < 1e-5
    assert turned["local"][inner].max() < 0.1
    assert turned["joint"][inner].max() < 1.5
    assert turned["local"][~inner].max() > 5.0  # without a neighbour above, those below have a pull of their own


@pytest.mark.parametrize(("followed", "slope"), [("joint", "local_slope"), ("directions", "directions_slope")])
def test_dots_that_follow_a_model_have_slope_one(displaced, followed, slope):
    found = compare(displaced.dots, displaced.models[followed] @ displaced.scatter)
    assert found[slope].value == pytest.approx(1.0, abs=0.05)
    assert found[slope].low > 0.5
    assert found[f"pearson_mono_minus_{followed}"].high < 0


def test_dots_that_know_the_mean_cell_alone_have_slope_zero(displaced):
    found = compare(displaced.dots, displaced.models["mono"] @ displaced.scatter)
    for name in ("local_slope", "directions_slope"):
        assert found[name].low < 0 < found[name].high < 0.5
    for name in ("local", "joint", "directions"):
        assert found[f"pearson_mono_minus_{name}"].low > 0
        assert found[f"pearson_mono_minus_{name}"].value == found["pearson_mono"].value - found[f"pearson_{name}"].value


@pytest.fixture
def unsearched(monkeypatch):
    """Directions alone: the co-facial optima are not searched for."""
    for name in ("local_optimum", "joint_optimum"):
        alike = lambda centres, *_, start, **__: (np.tile(start, (len(centres), 1, 1)), None)  # noqa: E731
        monkeypatch.setattr(cofacial_local, name, alike)


@pytest.mark.usefixtures("unsearched")
def test_errors_of_the_centres_do_not_shrink_a_slope():
    exact = film(0.15, shape=(7, 7, 6))
    rotations = np.tile(MONO.R, (len(exact), 1, 1))
    found = predict(exact, rotations)
    rotations[found.rows] = found.models["directions"]
    measured = film(0.15, shape=(7, 7, 6))
    measured[["x_nm", "y_nm", "z_nm"]] += np.random.default_rng(9).normal(0, 0.08, (len(measured), 3))
    shrunk = compare(measured, rotations)["directions_slope"].value
    measured[["sigma_x_nm", "sigma_y_nm", "sigma_z_nm"]] = 0.08
    assert shrunk < 0.88
    assert compare(measured, rotations)["directions_slope"].value == pytest.approx(1.0, abs=0.1)


@pytest.mark.usefixtures("unsearched")
def test_the_uncertainty_of_r_mono_enters_the_correlation(displaced):
    rotations = displaced.models["mono"] @ displaced.scatter
    turned = lattice.axis_angle(np.array([0.0, 0.0, 1.0]), np.deg2rad(4.0)) @ MONO.R
    fixed, free = (compare(displaced.dots, rotations, refs)["pearson_mono"] for refs in ((), turned[None]))
    assert free.value == fixed.value
    assert free.low < fixed.low - 1e-3


def test_the_matrix_does_not_depend_on_the_lab_nor_on_the_order():
    dots = film(shape=(4, 4, 3))
    rotations = MONO.R @ lattice.from_rotation_vectors(np.random.default_rng(4).normal(0, 0.02, (len(dots), 3)))
    plain = orientation_models.pearson_matrix(predict(dots, rotations), FRAME)
    assert np.allclose(np.diag(plain), 1.0)
    turn = lattice.from_rotation_vectors(np.array([0.3, -1.0, 0.5]))
    moved = dots.copy()
    moved[["x_nm", "y_nm", "z_nm"]] = dots[["x_nm", "y_nm", "z_nm"]].to_numpy() @ turn.T
    found = orientation_models.predict(
        moved, turn @ rotations, turn @ MONO.R, turn @ CELL, facet_nm=FACET, rng=np.random.default_rng(2)
    )
    np.testing.assert_allclose(orientation_models.pearson_matrix(found, turn @ FRAME), plain, atol=1e-9)
    order = np.random.default_rng(6).permutation(len(dots))
    shuffled = predict(dots.iloc[order].reset_index(drop=True), rotations[order])
    np.testing.assert_allclose(orientation_models.pearson_matrix(shuffled, FRAME), plain, atol=1e-9)


@pytest.mark.usefixtures("unsearched")
def test_of_a_wide_film_the_middle_is_taken(monkeypatch, displaced):
    monkeypatch.setattr(orientation_models, "MOST_DOTS", 100)
    found = predict(displaced.dots, displaced.models["mono"])
    assert 10 < len(found.rows) < 100
    assert np.abs(displaced.dots.loc[found.rows, ["i", "j"]] - 2.5).to_numpy().max() < 2


def test_without_orientations_nothing_is_said():
    dots = film(0.1, shape=(4, 4, 3))
    found = compare(dots, np.full((len(dots), 3, 3), np.nan))
    assert all(np.isnan(e.value) and "only 0 dots" in e.reason for e in found.values())
    _, excess = orientation_models.layer_overlap(
        dots, np.full((len(dots), 3, 3), np.nan), np.arange(len(dots)), facet_nm=FACET, n_resamples=30,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert np.isnan(excess.value)
    assert excess.reason


def test_overlap_of_layers_of_a_perfect_lattice_and_with_turned_interior_dots():
    dots = film(0.0)
    place = statistics.places((dots[["x_nm", "y_nm", "z_nm"]].to_numpy() @ FRAME)[:, :2], spacing_nm=6.0)
    options = {"facet_nm": FACET, "n_resamples": 60}
    rotations = np.tile(MONO.R, (len(dots), 1, 1))
    table, excess = orientation_models.layer_overlap(dots, rotations, place, rng=np.random.default_rng(0), **options)
    n = 5 * 6  # pairs along A in a layer, and along B
    assert table["n"].tolist() == [2 * n] * 5
    assert np.allclose(table["overlap_fraction"], MONO.overlap[:2].mean())
    assert excess.value == pytest.approx(0.0, abs=1e-12)
    inside = dots["layer"].between(2, 4).to_numpy()
    turns = np.random.default_rng(5).normal(0, 0.15, (len(dots), 3)) * inside[:, None]
    turned = rotations @ lattice.from_rotation_vectors(turns)
    table, excess = orientation_models.layer_overlap(dots, turned, place, rng=np.random.default_rng(0), **options)
    assert excess.low > 0
    assert table["overlap_fraction"].iloc[[0, -1]].min() > table["overlap_fraction"].iloc[1:-1].max()
