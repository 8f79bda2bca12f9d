"""Centres on films of model dots whose centres are known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage
from scipy.spatial import cKDTree

from mesotomo_utils.lattice import axis_angle, cell_matrix, rigid_motion
from mesotomo_utils.mapping import centre_errors, centre_fits, centres, sampling, template
from mesotomo_utils.mapping.inversion import Inversion
from mesotomo_utils.mapping.model_film import model_film
from mesotomo_utils.mapping.necks import near_necks

CELL = cell_matrix(6.2, 6.0, 5.8, 98, 95, 93)
XYZ = ["x_nm", "y_nm", "z_nm"]


def film_of(seed=1, cell=CELL, counts=(3, 3, 3), edge_nm=4.9, voxel_nm=0.25, **options):
    return model_film(cell, counts, edge_nm=edge_nm, voxel_nm=voxel_nm, rng=np.random.default_rng(seed), **options)


def cut_through(film):
    """The volume of a film, its outer dots along x cut 1.2 nm beyond their centres."""
    volume = film.volume.copy()
    outer = film.dots[(film.dots["i"] == 2)]["x_nm"].mean()
    x = (np.arange(volume.shape[2]) - (volume.shape[2] - 1) / 2) * film.voxel_nm
    volume[:, :, x > outer + 1.2] = 0.06
    return volume


@pytest.fixture(scope="module")
def found():
    film = film_of()
    image = template.body_image(film.volume, film.voxel_nm, diameter_nm=5.0)
    table, mean = centres.find_centres(image)
    return film, image, table, mean


def errors_nm(table, film):
    distance, row = cKDTree(film.dots[XYZ]).query(table[XYZ])
    assert sorted(row) == list(range(len(film.dots)))
    return distance


def test_every_dot_is_found_once_within_a_twentieth_of_a_voxel(found):
    film, _, table, _ = found
    assert len(table) == 27
    error = errors_nm(table, film)
    assert np.median(error) < 0.006
    assert error.max() < 0.02
    middle = np.linalg.norm(table[XYZ], axis=1).argmin()
    assert not table["at_edge"][middle], "a dot with neighbours all around cannot be cut"


def test_necks_do_not_pull_the_centres(found):
    film, _, table, _ = found
    near, row = cKDTree(table[XYZ]).query(film.dots[XYZ])
    error = table[XYZ].to_numpy()[row] - film.dots[XYZ].to_numpy()
    pull = np.zeros_like(error)
    for neck in film.necks.itertuples():
        away = film.dots[XYZ].to_numpy()[neck.qd_2] - film.dots[XYZ].to_numpy()[neck.qd_1]
        away /= np.linalg.norm(away)
        pull[neck.qd_1] += neck.diameter_nm**2 * away
        pull[neck.qd_2] -= neck.diameter_nm**2 * away
    slope = (pull * error).sum() / (pull**2).sum()
    assert abs(slope * 9) < 0.003, "a 3 nm neck moves a centre by this much, nm"


def test_a_neck_nearly_as_thick_as_its_facet_is_no_part_of_the_dot():
    film = film_of(seed=8, neck_nm=(3.8, 4.4), neck_fraction=0.4)
    table, _ = centres.find_centres(template.body_image(film.volume, film.voxel_nm, diameter_nm=5.0))
    assert errors_nm(table, film).max() < 0.02, "three dots and their necks were taken for longer dots, 1 nm off"


def test_a_dot_and_a_neck_as_thick_as_its_facet_are_not_taken_for_a_longer_dot():
    film = film_of(seed=5, neck_nm=(4.4, 4.9), neck_fraction=0.4)
    table, _ = centres.find_centres(template.body_image(film.volume, film.voxel_nm, diameter_nm=5.0))
    assert errors_nm(table, film).max() < 0.03, "three are their own mirror images about points 0.16 to 1.5 nm off too"


def test_a_centre_far_from_where_the_mean_dot_lies_is_left_even_for_one_that_is_vaguer():
    film = film_of(seed=3, neck_nm=(4.4, 4.9), neck_fraction=0.4)
    table, _ = centres.find_centres(template.body_image(film.volume, film.voxel_nm, diameter_nm=5.0))
    distance, row = cKDTree(film.dots[XYZ]).query(table[XYZ])
    assert len(set(row)) == len(row) == 26, "two dots with a neck as thick as they are stay one"
    assert np.sort(distance)[-2] < 0.1, "it was 0.7 nm"


def test_a_mirrored_tomogram_gives_mirrored_centres(found):
    film, _, table, _ = found
    image = template.body_image(film.volume[:, :, ::-1], film.voxel_nm, diameter_nm=5.0)
    mirrored, _ = centres.find_centres(image)
    distance, _ = cKDTree(table[XYZ] * [-1, 1, 1]).query(mirrored[XYZ])
    assert distance.max() < 0.02


def test_grey_levels_do_not_matter(found):
    film, _, table, _ = found
    image = template.body_image(7.0 * film.volume - 3.0, film.voxel_nm, diameter_nm=5.0)
    again, _ = centres.find_centres(image)
    np.testing.assert_allclose(again[XYZ], table[XYZ], atol=1e-3)


def test_finer_voxels_and_other_dots():
    cell = axis_angle([0, 0, 1], 0.4) @ cell_matrix(5.6, 5.5, 5.5, 103, 88, 87)
    film = film_of(seed=3, cell=cell, counts=(3, 3, 2), edge_nm=4.4, voxel_nm=0.16)
    image = template.body_image(film.volume, film.voxel_nm, diameter_nm=4.5)
    table, _ = centres.find_centres(image)
    assert np.median(errors_nm(table, film)) < 0.03


def test_a_cut_dot_is_flagged_and_put_where_it_was(found):
    film, _, _, _ = found
    table, _ = centres.find_centres(template.body_image(cut_through(film), film.voxel_nm, diameter_nm=5.0))
    distance, row = cKDTree(film.dots[XYZ]).query(table[XYZ])
    cut = film.dots["i"].to_numpy()[row] == 2
    assert table["at_edge"][cut].all()
    assert table["missing"][cut].min() > table["missing"][~cut].max()
    assert np.median(distance[cut]) < 0.2, "what is left of them has its middle 0.6 nm further in"


def test_necks_do_not_pull_what_is_left_of_a_cut_dot():
    film = film_of(seed=6, neck_nm=(3.0, 4.2))
    table, _ = centres.find_centres(template.body_image(cut_through(film), film.voxel_nm, diameter_nm=5.0))
    distance, row = cKDTree(film.dots[XYZ]).query(table[XYZ])
    cut = film.dots["i"].to_numpy()[row] == 2
    assert table["recentred"][cut].sum() > 5
    assert distance[cut].max() < 0.25, "it was 0.37 nm"


@pytest.fixture(scope="module")
def noisy():
    """Of three films in noise: errors that it makes of the centres, their σ and the differences of the halves."""
    errors, sigmas, differences = [], [], []
    for seed in (5, 6, 7):
        film = film_of(seed=seed, noise=0.0)
        rng = np.random.default_rng(seed)
        volumes = [film.volume + rng.normal(0, 0.4, film.volume.shape).astype(np.float32) for _ in "ab"]
        clean, full, *halves = (
            template.body_image(volume, film.voxel_nm, diameter_nm=5.0)
            for volume in (film.volume, sum(volumes) / 2, *volumes)
        )
        table, mean = centres.find_centres(full)
        without, _ = centres.find_centres(clean, template=mean)
        row = cKDTree(without[XYZ]).query(table[XYZ])[1]
        assert sorted(row) == list(range(27))
        errors.append(table[XYZ].to_numpy() - without[XYZ].to_numpy()[row])
        sigma, difference = centre_errors.half_set_sigmas(table, *halves, mean)
        sigmas.append(sigma.to_numpy())
        differences.append(difference.to_numpy())
    return np.array(errors), np.array(sigmas), np.array(differences)


def test_half_sets_give_the_error_of_noise(noisy):
    errors, sigmas, differences = noisy
    assert errors.shape == sigmas.shape == differences.shape == (3, 27, 3)
    assert 0.5 < (np.abs(errors) <= sigmas).mean() < 0.85


def test_what_is_seen_of_a_dot_tells_how_far_its_halves_differ(noisy):
    _, sigmas, differences = noisy
    relative = (sigmas / np.median(sigmas, axis=1, keepdims=True)).ravel()
    apart = (np.abs(differences) / np.median(np.abs(differences), axis=1, keepdims=True)).ravel()
    order = np.argsort(relative)
    fifth = len(order) // 5
    little, much = order[:fifth], order[-fifth:]
    assert np.median(relative[much]) > 1.4 * np.median(relative[little])
    assert np.median(apart[much]) > 1.4 * np.median(apart[little])


def test_the_centre_of_a_dot_is_vaguer_along_the_axis_whose_facets_lie_in_necks(found):
    film, image, table, mean = found
    pairs = film.necks.assign(diameter_nm=0.0, away=False)
    row = cKDTree(table[XYZ]).query(film.dots[XYZ])[1]
    pairs[["qd_1", "qd_2"]] = row[pairs[["qd_1", "qd_2"]].to_numpy()]
    open_ = centre_fits.vagueness_beside_necks(image, table[XYZ], mean, pairs)
    assert open_.min() >= 1
    one = pairs.index[pairs["axis"] == "C"][4]
    pairs.loc[one, "diameter_nm"] = 4.0
    dots = pairs.loc[one, ["qd_1", "qd_2"]].to_numpy(int)
    growth = centre_fits.vagueness_beside_necks(image, table[XYZ], mean, pairs) / open_
    assert growth[dots, 2].min() > 1.5
    assert growth[dots, :2].max() < 1.3
    np.testing.assert_allclose(np.delete(growth, dots, axis=0), 1)


def test_what_both_halves_share_grows_with_the_blur_of_the_facets():
    widths, sigmas = [], []
    for blur_nm in (0.15, 0.35):
        image = template.body_image(film_of(blur_nm=blur_nm, noise=0.0).volume, 0.25, diameter_nm=5.0)
        table, mean = centres.find_centres(image)
        sigma, difference = centre_errors.half_set_sigmas(table, image, image, mean)
        np.testing.assert_allclose(difference, 0, atol=1e-6)
        widths.append(mean.facet_width_nm / 5)
        sigmas.append(sigma.to_numpy())
    assert widths[1] > 1.15 * widths[0]
    assert np.median(sigmas[1]) > 1.7 * np.median(sigmas[0])
    for width, sigma in zip(widths, sigmas, strict=True):
        expected = (
            5
            * np.array(centre_errors.SHARED_DIAMETERS)
            * (width / centre_errors.SHARP_DIAMETERS) ** centre_errors.BLUR_POWER
        )
        np.testing.assert_allclose(sigma, np.broadcast_to(expected, sigma.shape), rtol=0.02)


def lopsided_cubes(rng, *, coverage, thick=3):
    """(image, centres of mass x, y, z): 27 cubes with an island on one of each two opposite facets, free of noise."""
    fine_nm, edge, pitch, box, size = 0.1, 48, 70, 64, 250  # the others, and how thick islands are, in fine voxels
    volume = np.zeros((size,) * 3, np.float32)
    middles = []
    for cell in np.ndindex(3, 3, 3):
        corner = np.array(cell) * pitch + 23 + rng.integers(-3, 4, 3)
        dot = np.zeros((box,) * 3, np.float32)
        dot[8 : 8 + edge, 8 : 8 + edge, 8 : 8 + edge] = 1
        for axis in range(3):
            half = round(edge * np.sqrt(rng.uniform(0, coverage)) / 2)
            island = [slice(8 + edge // 2 - half, 8 + edge // 2 + half)] * 3
            island[axis] = slice(8 - thick, 8) if rng.integers(2) else slice(8 + edge, 8 + edge + thick)
            dot[tuple(island)] = 1
        volume[tuple(slice(c, c + box) for c in corner)] += dot
        middles.append(ndimage.center_of_mass(dot) + corner)
    image = template.body_image(ndimage.gaussian_filter(volume, 1.5), fine_nm, diameter_nm=5.0)
    return image, (np.array(middles) - (size - 1) / 2)[:, ::-1] * fine_nm


def test_a_lopsided_dot_is_as_far_off_as_is_said():
    told = []
    for coverage in (0.0, 0.9):
        image, middles = lopsided_cubes(np.random.default_rng(4), coverage=coverage)
        table, mean = centres.find_centres(image)
        distance, row = cKDTree(middles).query(table[XYZ])
        assert sorted(row) == list(range(27))
        error = table[XYZ].to_numpy() - middles[row]
        sigma, _ = centre_errors.half_set_sigmas(table, image, image, mean)
        told.append(np.median(sigma))
        if coverage:
            assert np.median(distance) < 0.075, "with hardly anything on one side counted, 0.086"
            assert 0.55 < (np.abs(error) <= sigma.to_numpy()).mean() < 0.8
    assert told[1] > 4 * told[0]


def test_the_less_is_seen_of_a_lopsided_dot_the_farther_off_it_can_be(found, monkeypatch):
    _, image, table, mean = found
    variances = []
    for lopsided_nm in (0.0, 0.05):
        monkeypatch.setattr(centre_errors, "_lopsided", lambda *a, nm=lopsided_nm, **k: nm)
        variances.append(centre_errors.half_set_sigmas(table, image, image, mean)[0].to_numpy() ** 2)
    whole = ~table["recentred"].to_numpy()
    added = np.sqrt(variances[1] - variances[0])[whole]
    vague = centre_fits.vagueness_beside_necks(image, table[XYZ], mean, near_necks(image, table[XYZ]))[whole]
    assert np.median(added) == pytest.approx(0.05, rel=0.05)
    assert np.corrcoef(np.log(added).ravel(), np.log(vague).ravel())[0, 1] > 0.99
    assert added.max() > 1.5 * added.min()


def test_uneven_facets_are_told_where_centres_hardly_move_for_them(found, monkeypatch):
    _, image, table, mean = found
    monkeypatch.setattr(centre_errors, "_lopsided", lambda *a, **k: 0.001)
    sigmas = []
    for unevenness in (0.0, 0.1):
        last = centre_fits.LastFit(0.3, 0.3, unevenness)
        monkeypatch.setattr(centre_errors, "last_fit_beside_necks", lambda *a, last=last, **k: last)
        sigmas.append(centre_errors.half_set_sigmas(table, image, image, mean)[0].to_numpy())
    whole = ~table["recentred"].to_numpy()
    added = np.median(np.sqrt(sigmas[1] ** 2 - sigmas[0] ** 2)[whole])
    assert added == pytest.approx(centre_errors.UNEVEN_WIDTHS * 0.1 * mean.facet_width_nm, rel=0.05)


def test_the_more_lopsided_all_dots_are_the_more_their_one_side_counts(monkeypatch):
    lasts, last_fit = [], centres.last_fit_beside_necks
    monkeypatch.setattr(centres, "last_fit_beside_necks", lambda *a, **k: lasts.append(last_fit(*a, **k)) or lasts[-1])
    errors = []
    image, middles = lopsided_cubes(np.random.default_rng(7), coverage=0.9, thick=6)
    for share in (0.0, centre_fits.LAST_SCALE_SHARE):
        monkeypatch.setattr(centre_fits, "LAST_SCALE_SHARE", share)
        table, _ = centres.find_centres(image)
        errors.append(np.median(cKDTree(middles).query(table[XYZ])[0]))
        assert table.attrs["last_fit"] is lasts[-1], "the table says so"
    assert lasts[0] is None
    assert lasts[1].scale > 0.3
    assert errors[1] < 0.8 * errors[0]
    even, _ = lopsided_cubes(np.random.default_rng(7), coverage=0.0)
    centres.find_centres(even)
    assert lasts[2] is None
    centres.find_centres(image, lopsided=False)
    assert len(lasts) == 3, "not asked where a wedge is missing"


def test_the_flank_of_a_neck_is_what_it_adds_to_the_odd_part():
    fine_nm, sigma_nm, radius_nm = 0.125, 0.2, 1.3
    z, y, x = np.meshgrid(*[(np.arange(81) - 40) * fine_nm] * 3, indexing="ij")
    body = np.maximum.reduce([np.abs(x), np.abs(y), np.abs(z)]) < 2.3
    neck = (np.hypot(y, z) < radius_nm) & (x > 0)
    blurred = [ndimage.gaussian_filter(drawn.astype(np.float32), sigma_nm / fine_nm) for drawn in (body, body | neck)]
    bare, joined = (template.BodyImage(values[::2, ::2, ::2], 0.25, 5.0, 0.0, 1.0) for values in blurred)
    mean = template.mean_dot(bare, np.zeros((1, 3)))
    inversion = Inversion(joined, mean)
    at, joint = np.zeros((1, 3)), np.array([[[1.0, 0.0, 0.0, radius_nm, mean.edge_nm + 0.25 * 5.0]]])
    clear, flanks = inversion.beside(joint, at, 0.02), inversion.flanks(joint, sigma_nm)
    odd, even = inversion._parts(at)
    left = odd - flanks * (1 - even)
    seen = (clear > 0.3) & (inversion._body > 0)
    assert np.abs(odd[seen]).max() > 0.1
    assert np.abs(left[seen]).max() < 0.02
    pull, pull_left = (inversion.follow(at, (0.5,) * 8, clear, part)[0, 0] for part in (None, flanks))
    assert 0.004 < pull < 0.02
    assert abs(pull_left) < 0.3 * pull
    shorter = inversion.flanks(joint - [0, 0, 0, 0, 0.5], sigma_nm)
    assert 0.6 < np.abs(shorter).sum() / np.abs(flanks).sum() < 0.9, "a short neck's add less"


def test_noise_does_not_make_facets_uneven(found):
    _, even, table, mean = found
    necks = near_necks(even, table[XYZ])
    assert centre_fits.last_fit_beside_necks(even, table[XYZ], mean, necks) is None
    lopsided, middles = lopsided_cubes(np.random.default_rng(7), coverage=0.9)
    scales = []
    for image, at in ((even, table[XYZ].to_numpy()), (lopsided, middles)):
        noise = ndimage.gaussian_filter(np.random.default_rng(1).normal(0, 0.5, image.values.shape), 0.8)
        noisy = replace(image, values=(image.values + noise).astype(np.float32))
        assert np.std(noise) > 0.05
        scales += [centre_fits.last_fit_beside_necks(each, at, mean, necks) for each in (image, noisy)]
    assert scales[1] is None
    assert scales[3].scale == pytest.approx(scales[2].scale, rel=0.1)


def test_dots_that_lack_what_others_lack_inside_are_not_cut():
    rng = np.random.default_rng(2)
    rim, missing = np.arange(60) < 20, rng.uniform(0, 0.02, 60)
    assert centres._missing_of_cut(rim, missing) == centres.MISSING_RECENTRE
    missing[30:] = rng.uniform(0.05, 0.1, 30)
    assert 0.09 < centres._missing_of_cut(rim, missing) < 0.1


def test_two_picks_that_end_in_one_dot_are_one(monkeypatch):
    without_necks = centres._without_necks

    def one_strays(*args, **options):
        clear, *others = without_necks(*args, **options)
        clear[3] = clear[4] + 0.05
        return clear, *others

    image, _ = lopsided_cubes(np.random.default_rng(4), coverage=0.0)
    assert len(centres.find_centres(image)[0]) == 27
    monkeypatch.setattr(centres, "_without_necks", one_strays)
    table, _ = centres.find_centres(image)
    assert len(table) == 26
    assert cKDTree(table[XYZ]).query(table[XYZ], k=2)[0][:, 1].min() > 4


def test_the_width_of_facets_is_that_of_their_blur():
    values = np.zeros((61, 61, 61), np.float32)
    values[15:46, 15:46, 15:46] = 1
    blurred = ndimage.gaussian_filter(values, 3.0)
    width_nm = template.Template(blurred, blurred, blurred, step_nm=0.1).facet_width_nm
    assert width_nm == pytest.approx(np.sqrt(2 * np.pi) * 0.3, rel=0.05)


def test_nothing_seen_of_a_dot_is_no_division_by_zero(found):
    _, image, table, mean = found
    nowhere = np.array([[0.0, 0.0, image.values.shape[0] * image.step_nm]])
    no_necks = pd.DataFrame({"qd_1": [], "qd_2": [], "diameter_nm": [], "away": []})
    vague = centre_fits.vagueness_beside_necks(image, nowhere, mean, no_necks)
    assert np.isfinite(vague).all()
    assert vague.min() >= 1


def test_the_correlation_is_that_of_its_definition(found):
    _, image, _, mean = found
    fresh = template.BodyImage(image.values, image.step_nm, image.diameter_nm, 0.0, 1.0)
    inner = template.Template(mean.values, mean.body, mean.body, mean.step_nm)
    half = mean.values.shape[0] // 2
    z, y, x = at = np.array(image.values.shape) // 2 + [1, -2, 3]
    box = image.values[z - half : z + half + 1, y - half : y + half + 1, x - half : x + half + 1].astype(float)
    # one mask after another, and the first again: what is kept between them must not be mixed up
    for shape in (mean, inner, mean):
        mask = shape.weights.astype(float)
        parts = [values - (mask * values).sum() / mask.sum() for values in (box, shape.values.astype(float))]
        floor = template.FLAT * mask.sum()
        norm = np.sqrt(((mask * parts[0] ** 2).sum() + floor) * (mask * parts[1] ** 2).sum())
        score = template.correlate(fresh, shape)[tuple(at)]
        assert score == pytest.approx((mask * parts[0] * parts[1]).sum() / norm, abs=1e-4)


def test_the_smaller_the_scale_the_less_of_the_flanks_is_taken_off():
    least, most = (centre_fits.LastFit(scale, 0.3, 0.1) for scale in centre_fits.LAST_SCALES)
    assert (least.lopsidedness, most.lopsidedness) == (0, 1)
    assert most.flank_share == centre_fits.LARGEST_FLANK_SHARE
    # at the least the weights do not take all of them out
    assert 0.1 < least.flank_share < 0.3 * most.flank_share


def test_slabs_give_the_same_table_as_one_piece(found, monkeypatch):
    _, image, table, _ = found
    whole = template.correlate(image, found[3])
    rows, _, _ = image.values.shape
    monkeypatch.setattr(template, "_SLAB_VOXELS", image.values[0].size * (rows // 5))
    again = template.BodyImage(image.values, image.step_nm, image.diameter_nm, 0.0, 1.0)
    assert template.correlate(again, found[3]) == pytest.approx(whole, abs=1e-5)
    in_slabs, _ = centres.find_centres(again)
    assert in_slabs[XYZ].to_numpy() == pytest.approx(table[XYZ].to_numpy(), abs=1e-5)
    assert in_slabs["at_edge"].equals(table["at_edge"])


def test_coarsening_keeps_the_centre_and_removes_the_lattice():
    n = np.arange(120)
    fringes = 1 + np.cos(2 * np.pi * n * 0.09 / 0.353)
    volume = np.broadcast_to(fringes, (40, 40, 120)).astype(np.float32)
    coarse = sampling.coarsen(volume, 0.09, step_nm=0.25, sigma_nm=0.2)
    assert np.ptp(coarse[:, :, 4:-4]) < 0.02
    blob = np.zeros((60, 50, 41), np.float32)
    blob[20:31, 15:22, 8:19] = 1
    coarse = sampling.coarsen(blob, 0.1, step_nm=0.23, sigma_nm=0.2)
    weight = coarse / coarse.sum()
    mass = [(np.indices(coarse.shape)[a] * weight).sum() for a in range(3)]
    at = sampling.to_nm(np.array([mass]), coarse.shape, 0.23)[0]
    truth = sampling.to_nm(np.array([[25, 18, 13]]), blob.shape, 0.1)[0]
    np.testing.assert_allclose(at, truth, atol=0.01)


def test_what_is_shared_out_among_threads_is_that_of_one_piece(monkeypatch: pytest.MonkeyPatch):
    """Slabs of the low-pass, lines of the spline filter, and maxima found by their nearest neighbours first."""
    rng = np.random.default_rng(4)
    values = ndimage.gaussian_filter(rng.normal(size=(40, 41, 42)), 1.2).astype(np.float32)
    sampler = sampling.Sampler(values, 0.25)
    whole = ndimage.spline_filter(np.pad(values, 24, mode="edge"), order=3, output=np.float32)
    assert np.allclose(sampler._coefficients, whole, atol=1e-6)

    coarse = sampling.coarsen(values, 0.1, step_nm=0.23, sigma_nm=0.2)
    monkeypatch.setattr(sampling, "_SLAB_VALUES", 7 * 41 * 42)
    assert np.allclose(sampling.coarsen(values, 0.1, step_nm=0.23, sigma_nm=0.2), coarse, atol=1e-6)

    lowest = 0.3 * values.max()
    top = (values == ndimage.maximum_filter(values, size=5, mode="constant")) & (values > lowest)
    inner = np.argwhere(top[1:-1, 1:-1, 1:-1]) + 1
    assert len(inner) > 10
    assert np.array_equal(template._maxima(values, lowest), inner)


def test_splines_are_read_as_scipy_reads_them_beyond_the_volume_too():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(20, 21, 22)).astype(np.float32)
    sampler = sampling.Sampler(values, 0.25)
    origin, steps, shape = np.array([-9.0, -8, -7]), rng.normal(0, 1.5, (3, 3)), (7, 8, 9)
    points = origin + np.moveaxis(np.indices(shape), 0, -1).reshape(-1, 3) @ steps
    index = sampling.to_index(points, values.shape, 0.25)
    expected = ndimage.map_coordinates(np.pad(values, 24, mode="edge"), index.T + 24, order=3, mode="nearest")
    np.testing.assert_allclose(sampler.grid(origin, steps, shape).ravel(), expected, atol=1e-5)
    beyond = sampler.grid([np.nan, np.inf, -np.inf], np.eye(3), (2, 2, 2))
    assert np.isfinite(beyond).all(), "nothing is read beyond the array"


def test_patches_equal_a_grid_that_is_not_turned():
    rng = np.random.default_rng(0)
    sampler = sampling.Sampler(rng.normal(size=(20, 21, 22)).astype(np.float32), 0.25)
    centres = np.array([[0.31, -0.17, 0.05], [2.7, -2.5, 2.4]])  # in the middle, and in a corner
    patches = sampler.patches(centres, 11)
    steps = 0.25 * np.eye(3)[::-1]  # z, y, x
    for patch, centre in zip(patches, centres, strict=True):
        np.testing.assert_allclose(patch, sampler.grid(centre - 11 * 0.25, steps, patch.shape), atol=1e-5)


def test_rigid_motion_sets_outliers_aside():
    rng = np.random.default_rng(0)
    points = rng.normal(0, 10, (40, 3))
    turn = axis_angle([1, 2, 3], 0.01)
    target = points @ turn.T + [0.5, -0.2, 0.1]
    target[3] += 5
    rotation, shift = rigid_motion(points, target)
    np.testing.assert_allclose(rotation, turn, atol=1e-9)
    np.testing.assert_allclose(shift, [0.5, -0.2, 0.1], atol=1e-8)


@pytest.mark.parametrize(
    ("volume", "diameter", "message"),
    [
        (np.zeros((30, 30, 30)), 5.0, "nothing to find"),
        (np.full((30, 30, 30), np.nan), 5.0, "not finite"),
        (np.ones((30, 30, 30)), 0.5, "diameter_nm"),
        (np.ones((30, 30)), 5.0, "three dimensions"),
    ],
)
def test_bad_volumes_are_refused(volume, diameter, message):
    with pytest.raises(ValueError, match=message):
        template.body_image(volume.astype(np.float32), 0.25, diameter_nm=diameter)


def test_an_empty_image_holds_no_dots():
    empty = template.BodyImage(np.zeros((60, 60, 60), np.float32), 0.25, 5.0, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"no dots of about 5\.0 nm"):
        template.learn_template(empty)


def assert_same_centres(film, table):
    """To 1e-4 nm: a thousandth of what is asked of a centre."""
    image = template.body_image(film.volume, film.voxel_nm, diameter_nm=5.0, device="cuda")
    there, _ = centres.find_centres(image)
    assert len(there) == len(table)
    assert np.abs(there[XYZ] - table[XYZ]).to_numpy().max() < 1e-4
    assert np.abs(there[["score", "missing"]] - table[["score", "missing"]]).to_numpy().max() < 1e-4


@pytest.mark.parametrize("gpu", ["gridding"], indirect=True)
def test_a_gpu_finds_the_same_centres(gpu, found):
    assert_same_centres(found[0], found[2])


@pytest.mark.gpu
@pytest.mark.parametrize("real_gpu", ["gridding"], indirect=True)
def test_a_real_gpu_finds_the_same_centres(real_gpu, found):
    assert_same_centres(found[0], found[2])


@pytest.mark.parametrize("gpu", ["gridding"], indirect=True)
def test_a_gpu_tells_cut_dots_and_errors_the_same(gpu, found):
    film, _, _, _ = found
    rng = np.random.default_rng(3)
    volumes = [cut_through(film) + rng.normal(0, 0.2, film.volume.shape).astype(np.float32) for _ in "ab"]
    tables = []
    for device in ("cpu", "cuda"):
        full, *halves = (
            template.body_image(volume, film.voxel_nm, diameter_nm=5.0, device=device)
            for volume in (sum(volumes) / 2, *volumes)
        )
        table, mean = centres.find_centres(full)
        tables.append(table.join(centre_errors.half_set_sigmas(table, *halves, mean)[0]))
    assert tables[0]["recentred"].sum() >= 5
    pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=1e-3, atol=1e-4)
