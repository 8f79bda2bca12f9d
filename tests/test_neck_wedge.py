"""What a wedge of missing tilts does to the necks of model dots, and what is said of it."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

from mesotomo_utils.analysis import necks as neck_tables
from mesotomo_utils.lattice import cell_matrix, from_rotation_vectors
from mesotomo_utils.mapping import neck_wedge, necks, template
from mesotomo_utils.mapping.missing_wedge import as_tilts_show, fill_wedge
from mesotomo_utils.mapping.model_film import cube_axes, draw_dots
from mesotomo_utils.visualization.mapping_figures import neck_histogram

ALONG = cell_matrix(6.2, 6.0, 5.8, 98, 95, 93)  # B lies in the middle of the wedge
CELLS = {0: from_rotation_vectors(np.deg2rad([0, 0, -21])) @ ALONG, 1: ALONG}
TILTS = np.arange(-70, 71, 1.5)
COUNTS, STEP_NM = (4, 4, 3), 0.2


@dataclass
class Film:
    """Two grains, one above the other, and their picture."""

    xyz: np.ndarray
    grain: np.ndarray
    necks: pd.DataFrame
    whole: template.BodyImage
    mean_dot: template.Template

    @property
    def grain_of_neck(self) -> np.ndarray:
        return self.grain[self.necks["qd_1"]]


@pytest.fixture(scope="module")
def film() -> Film:
    """Its necks are of other diameters than the models', and there are more of them."""
    rng = np.random.default_rng(11)
    sites = np.array(list(np.ndindex(COUNTS)))
    row = np.arange(len(sites)).reshape(COUNTS)
    ends = [(row.take(range(n - 1), axis=k), row.take(range(1, n), axis=k)) for k, n in enumerate(COUNTS)]
    xyz, turns, pairs = [], [], []
    for grain, cell in CELLS.items():
        places = (sites - (np.array(COUNTS) - 1) / 2) @ cell.T + [0, 0, 21 * grain - 10.5]
        xyz.append(places + rng.normal(0, 0.15, places.shape))
        turns.append(from_rotation_vectors(rng.normal(0, 0.03, places.shape)) @ cube_axes(cell))
        for axis, (first, second) in zip("ABC", ends, strict=True):
            both = {"qd_1": first.ravel(), "qd_2": second.ravel()}
            pairs.append(pd.DataFrame(both).add(grain * len(sites)).assign(axis=axis))
    xyz, turns, pairs = np.concatenate(xyz), np.concatenate(turns), pd.concat(pairs, ignore_index=True)
    joined = rng.random(len(pairs)) < 0.85
    pairs["diameter_nm"] = joined * rng.uniform(1.5, 3.5, len(pairs))
    edges = rng.normal(4.8, 0.1, len(xyz))
    volume = draw_dots((220, 190, 190), STEP_NM, xyz, turns, edges, pairs, blur_nm=0.1)
    whole = template.body_image(volume, STEP_NM, diameter_nm=5.0)
    return Film(xyz, np.repeat([0, 1], len(sites)), pairs, whole, template.learn_template(whole)[0])


@pytest.fixture(scope="module")
def measured(film):
    """The film's necks, measured where the wedge is missing, with the σ that half sets would give."""
    values, again = as_tilts_show(film.whole, TILTS)
    seen = fill_wedge(template.levelled(again(values), film.whole.step_nm, diameter_nm=5.0), TILTS)
    return necks.measure_necks(seen, film.xyz, film.necks).assign(sigma_nm=0.1)


def wedge_of(film, tilts, rng):
    return neck_wedge.wedge_of_necks(film.whole, film.mean_dot, film.xyz, film.grain, CELLS, film.necks, tilts, rng=rng)


@pytest.fixture(scope="module")
def wedge(film):
    return wedge_of(film, TILTS, np.random.default_rng(0))


def errors_nm(film, found, axis):
    """Errors and σ of the necks along an axis of the first grain."""
    true = film.necks["diameter_nm"]
    both = (film.grain_of_neck == 0) & (true > 0) & (film.necks["axis"] == axis) & (found["diameter_nm"] > 0)
    return (found["diameter_nm"] - true)[both], found["sigma_nm"][both]


def test_what_the_wedge_adds_is_taken_off_and_the_rest_is_in_sigma(film, measured, wedge):
    allowed = neck_wedge.allow_for_wedge(measured, film.grain_of_neck, wedge)
    for axis in "BC":  # thicker, B more than C
        before, too_small = errors_nm(film, measured, axis)
        after, sigma = errors_nm(film, allowed, axis)
        assert before.mean() > 0.1
        assert abs(after.mean()) < 0.5 * before.mean()
        assert (before.abs() <= too_small).mean() < 0.5
        assert (after.abs() <= sigma).mean() > 0.6
        assert sigma.median() > 1.2 * too_small.median()
    assert np.abs(errors_nm(film, allowed, "A")[0].mean()) < 0.06


def test_where_no_wedge_is_missing_nothing_is_done(film, measured):
    none = wedge_of(film, np.arange(-90, 90, 1.5), None)
    assert wedge_of(replace(film, necks=film.necks[:0]), TILTS, None).equals(none)  # nor where there is no pair
    pd.testing.assert_frame_equal(neck_wedge.allow_for_wedge(measured, film.grain_of_neck, none), measured)


def test_where_gaps_look_closed_necks_are_not_told(film, measured, wedge):
    assert wedge["told"].tolist() == [True, True, True, True, False, True]
    allowed = neck_wedge.allow_for_wedge(measured, film.grain_of_neck, wedge)
    lost = (allowed["axis"] == "B") & (film.grain_of_neck == 1)
    assert (allowed[["diameter_nm", "sigma_nm"]].isna().all(axis=1) == lost).all()
    assert (allowed[["diameter_nm", "sigma_nm"]].isna().any(axis=1) == lost).all()


def test_cubes_follow_the_cell_of_their_grain(film, monkeypatch):
    seen = {}

    def model_necks(image, template, xyz_nm, turns, pairs, angles_deg):
        seen["turns"] = turns
        return pd.DataFrame({"whole_nm": np.ones(len(pairs)), "seen_nm": 1.25})

    monkeypatch.setattr(neck_wedge, "model_necks", model_necks)
    grain = np.where(np.arange(len(film.grain)) == 5, -1, film.grain)  # one of no grain
    wedge = neck_wedge.wedge_of_necks(film.whole, film.mean_dot, film.xyz, grain, CELLS, film.necks, TILTS)
    for number, cell in {0: CELLS[0], 1: CELLS[1], -1: CELLS[0]}.items():
        assert np.allclose(seen["turns"][grain == number], cube_axes(cell))
    assert not wedge["told"].any()  # none of the models' gaps was empty


def test_the_histogram_says_what_is_not_told(measured):
    shown = neck_histogram(measured.assign(diameter_nm=measured["diameter_nm"].where(measured["axis"] != "B"))).axes[1]
    assert [text.get_position()[0] for text in shown.texts if text.get_text() == "not told"] == [1]


def test_of_all_directions_nothing_is_said_where_one_is_not_told():
    pairs = pd.DataFrame({"axis": list("AAAABB"), "diameter_nm": [2.0, 3.0, 0.0, 0.0, np.nan, np.nan], "sigma_nm": 0.1})
    pairs = pairs.assign(joined=pairs["diameter_nm"] > 0, row=range(6))
    rng, blocks = np.random.default_rng(0), np.arange(6)
    for every in (
        neck_tables.connectivity(pairs, blocks, rng=rng), neck_tables.diameters(pairs, blocks, rng=rng)["mean"]
    ):  # fmt: skip
        assert np.isnan(every.value)
        assert every.reason == "necks along B are not told"
    along_a = pairs[pairs["axis"] == "A"]
    assert neck_tables.connectivity(along_a, blocks, rng=rng).value == 0.5
    assert neck_tables.diameters(along_a, blocks, rng=rng)["mean"].value == 2.5


def test_single_pairs_that_are_not_told_are_left_out():
    dots = pd.DataFrame({"qd": range(6), "layer": 1, "at_edge": False})
    necks_csv = pd.DataFrame({"qd_1": range(5), "qd_2": range(1, 6), "axis": list("AAABB")})
    diameters = [2.0, 0.0, np.nan, np.nan, np.nan]
    other_grain = pd.DataFrame({"qd_1": [7], "qd_2": [8], "axis": ["B"], "diameter_nm": [1.0]})
    necks_csv = pd.concat([other_grain, necks_csv.assign(diameter_nm=diameters)])
    pairs = neck_tables.place(necks_csv, dots)
    assert pairs["row"].tolist() == [0, 1, 3, 4]
    assert neck_tables.untold(pairs) == "necks along B are not told"
    assert neck_tables.untold(pairs[pairs["axis"] == "A"]) is None
