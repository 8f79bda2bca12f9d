"""The twin: what is imposed is there, atoms and images obey their laws, nothing depends on chance."""

from functools import cache

import numpy as np
import pytest
from scipy.spatial import cKDTree

from mesotomo_utils import lattice
from mesotomo_utils.mapping.superlattice import index_superlattice
from mesotomo_utils.twin import atoms, microscope, order, shapes, tables
from mesotomo_utils.twin.account import order_table
from mesotomo_utils.twin.placement import correlated_field, local_rotations, mono_rotation
from mesotomo_utils.twin.structure import build_structure, lab_cell, twin_parameters

NO_CARBON = {"carbon_atoms_per_nm3": 0.0, "background": 0.0}
SMOOTH = {"pixel_nm": 0.1, "blur_nm": 0.12, **NO_CARBON}  # no ringing, so that centroids are exact


@cache
def built(**changes):
    settings = {"qd_count": 60, "layers": 5, "seed": 2, **changes}
    parameters = twin_parameters(settings)
    return build_structure(parameters, np.random.default_rng(parameters.seed))


@cache
def tiny_atoms():
    structure = built(qd_count=12, layers=2, point_defect_fraction=0.0)
    return structure, *atoms.place_atoms(structure)


def made(structure):
    return order_table(structure).set_index(["name", "index"])["made"]


# ------------------------------------------------------------------ parameters


def test_every_parameter_has_a_default_and_unknown_keys_are_named():
    assert twin_parameters(None).qd_count == 633
    with pytest.raises(ValueError, match="unknown key 'qd_cuont'"):
        twin_parameters({"qd_cuont": 5})
    with pytest.raises(ValueError, match=r"twin: pixel_nm.*'small'"):
        twin_parameters({"pixel_nm": "small"})
    with pytest.raises(ValueError, match="2 values for 9 layers"):
        twin_parameters({"planarity_fwhm_nm": [1.0, 2.0]})


def test_roll_of_nine_layers():
    roll = twin_parameters({}).roll()
    np.testing.assert_allclose(roll, np.array([0, 0, 2.1, 4.2, 6.3, 8.4, 5.6, 2.8, 0]))


# ------------------------------------------------------------------ shapes


def test_gap_of_two_cubes_face_to_face():
    centres = np.array([[0.0, 0, 0], [6.0, 0.5, 0]])
    R = np.broadcast_to(np.eye(3), (2, 3, 3))
    gap, direction = shapes.face_gaps(centres, R, np.full((2, 3), 2.25), np.array([0.9, 0.9]), np.array([[0, 1]]))
    assert gap[0] == pytest.approx(1.5)
    np.testing.assert_allclose(direction[0], [1, 0, 0])


def test_gap_never_exceeds_the_distance_of_the_bodies():
    rng = np.random.default_rng(0)
    R = lattice.from_rotation_vectors(rng.normal(0, 0.15, (2, 3)))
    half, cut = np.array([[2.1, 2.3, 2.2], [2.2, 2.0, 2.4]]), np.array([0.8, 0.9])
    centres = np.array([[0.0, 0, 0], [5.3, 0.7, -0.4]])
    gap, _ = shapes.face_gaps(centres, R, half, cut, np.array([[0, 1]]))
    clouds = []
    for n in range(2):
        points = rng.uniform(-2.5, 2.5, (60000, 3))
        points = points[shapes.contains(points, half[n], cut[n])]
        clouds.append(points @ R[n].T + centres[n])
    nearest = cKDTree(clouds[0]).query(clouds[1])[0].min()
    assert 0 < gap[0] <= nearest
    assert nearest - gap[0] < 0.6


def test_exit_and_support_of_a_cube():
    half, cut = np.array([2.0, 2.0, 2.0]), np.array(0.5)
    x, diagonal = np.array([1.0, 0, 0]), np.ones(3) / np.sqrt(3)
    assert shapes.exit_nm(x, half, cut) == pytest.approx(2.0)
    # the {111} plane x + y + z = 6 - 0.5
    assert shapes.exit_nm(diagonal, half, cut) == pytest.approx(5.5 / np.sqrt(3))
    assert shapes.support_nm(diagonal, half, cut) == pytest.approx(5.5 / np.sqrt(3))


# ------------------------------------------------------------------ structure


def test_the_numbers_asked_for_are_made():
    structure = built()
    table = order_table(structure).set_index("name")
    assert structure.whole.sum() == 60
    flat = table.loc["planarity_fwhm"]
    np.testing.assert_allclose(flat["made"].astype(float), flat["asked"].astype(float), rtol=0.02)
    for name, tolerance in (
        ("sl_spread_in_plane", 0.1), ("al_spread_out_of_plane", 0.3), ("al_spread_in_plane", 0.3),
        ("explained_variance", 0.03), ("neck_fraction", 0.01), ("neck_sd", 0.03),
    ):  # fmt: skip
        assert table.loc[name, "made"] == pytest.approx(table.loc[name, "asked"], abs=tolerance), name
    assert table.loc["common_axis_off", "made"] < 6
    assert table.loc["smallest_gap", "made"] >= 0.3


def test_layer_means_roll_about_the_common_axis():
    structure = built(layers=9, qd_count=90)
    layer, R = structure.dots["layer"], structure.R
    whole = structure.whole
    low, high = (lattice.mean_rotation(R[whole & (layer == k)]) for k in (2, 6))
    turned = np.rad2deg(lattice.rotation_vectors((low.T @ high)[None]))[0]
    assert np.linalg.norm(turned) == pytest.approx(8.4, abs=0.1)
    assert lattice.direction_angle_deg(turned, [-1, 2, 0]) < 1


def test_vacancies_lie_in_interior_layers_and_have_no_dot():
    structure = built(qd_count=90, point_defect_fraction=0.05)
    assert len(structure.defects) == round(90 * 0.05 / 0.95)
    assert structure.defects["k"].between(1, 3).all()
    taken = set(map(tuple, structure.dots[list("ijk")].to_numpy()))
    assert not taken & set(map(tuple, structure.defects[list("ijk")].to_numpy()))


def test_film_is_tilted_by_what_was_asked_and_bottom_is_where_asked():
    for bottom, sign in (("low_z", 1), ("high_z", -1)):
        structure = built(film_tilt_deg=5.0, film_bottom=bottom)
        n = lattice.film_normal(structure.cell)
        assert lattice.angle_deg(n, [0, 0, sign]) == pytest.approx(5.0)
        assert np.linalg.det(structure.cell) > 0
        mean = structure.dots.groupby("layer")["z_nm"].mean()
        assert np.all(np.sign(np.diff(mean)) == sign)


def test_fraction_inside_is_that_of_the_atoms():
    structure, xyz, _ = tiny_atoms()
    assert np.hypot(*xyz[:, :2].T).max() <= structure.radius_nm
    edge = structure.dots[structure.dots["fraction_inside"].between(0.3, 0.7)].iloc[0]
    n = int(edge["qd"])
    body = (xyz - structure.positions_nm[n]) @ structure.R[n]
    count = shapes.contains(body, structure.half_nm[n], structure.cut_nm[n]).sum()
    volume = 8 * structure.half_nm[n].prod() - 4 / 3 * structure.cut_nm[n] ** 3
    full = volume * 8 / structure.parameters.lattice_nm**3
    assert count / full == pytest.approx(edge["fraction_inside"], abs=0.06)


def test_same_seed_same_structure_other_seed_other():
    first, again = built(), build_structure(built().parameters, np.random.default_rng(2))
    np.testing.assert_array_equal(first.positions_nm, again.positions_nm)
    np.testing.assert_array_equal(first.R, again.R)
    assert not np.allclose(first.positions_nm[:20], built(seed=3).positions_nm[:20])


@pytest.mark.parametrize(
    ("changes", "name", "low", "high"),
    [
        ({"explained_variance": 1 / 3, "roll_deg": 0.0, "turn_top_deg": 0.0, "al_spread_in_plane_deg": None,
          "al_spread_out_of_plane_deg": None}, "explained_variance", 0.33, 0.5),
        ({"common_axis": (1.0, 1.0, 0.0)}, "common_axis_off", 0.0, 6.0),
    ],
)  # fmt: skip
def test_nulls_lack_the_finding(changes, name, low, high):
    value = order_table(built(qd_count=120, **changes)).set_index("name").loc[name, "made"]
    assert low <= value <= high


@pytest.mark.parametrize(
    ("given", "same_as"),
    [
        ({"a_nm": 6.5, "b_nm": 5.65, "c_nm": 6.2, "alpha_deg": 87.0, "beta_deg": 103.0, "gamma_deg": 86.5},
         (6.5, 5.65, 6.2, 93.0, 77.0, 86.5)),
        ({"a_nm": 5.8, "b_nm": 6.1, "c_nm": 5.7, "alpha_deg": 97.0, "beta_deg": 95.0, "gamma_deg": 93.0},
         (6.1, 5.8, 5.7, 95.0, 83.0, 87.0)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("bottom", ["low_z", "high_z"])
def test_whichever_cell_describes_the_lattice_its_axes_are_named_by_the_rule(given, same_as, bottom):
    cell = lab_cell(twin_parameters({**given, "film_bottom": bottom}))
    assert np.linalg.det(cell) > 0
    np.testing.assert_allclose(list(lattice.cell_parameters(cell).values())[:6], same_as)
    truth = built(qd_count=60, **given)
    found = index_superlattice(truth.positions_nm).vectors[0]
    np.testing.assert_allclose(found, truth.cell, atol=0.35)


def test_lattices_that_follow_their_neighbours():
    settings = {"roll_deg": 0.0, "turn_top_deg": 0.0, "al_spread_in_plane_deg": None,
                "al_spread_out_of_plane_deg": None, "scatter_deg": 0.01}  # fmt: skip
    follows = built(follow_local=1.0, **settings)
    ijk = follows.dots[list("ijk")].to_numpy()
    everywhere = np.ones(len(ijk), bool)
    local = local_rotations(ijk, follows.positions_nm, everywhere, follows.cell)
    pairs, _ = order.neighbour_pairs(ijk, everywhere)
    surrounded = np.bincount(pairs.ravel(), minlength=len(ijk)) == 6
    off = lattice.rotation_angle_deg(np.swapaxes(local, 1, 2) @ follows.R)[surrounded]
    turned = lattice.rotation_angle_deg(mono_rotation(follows.cell).T @ follows.R)[surrounded]
    assert np.median(off) < 0.1
    assert np.median(turned) > 1.0
    assert made(built(follow_local=0.0, **settings))["mean_misorientation", None] < 0.1


def test_correlated_field():
    ijk = np.stack(np.meshgrid(*[np.arange(10)] * 3, indexing="ij"), -1).reshape(-1, 3)
    field = correlated_field(ijk, 30, 0.4, np.random.default_rng(1))
    pairs, _ = order.neighbour_pairs(ijk, np.ones(len(ijk), bool))
    assert field.std() == pytest.approx(1, abs=0.03)
    assert (field[pairs[:, 0]] * field[pairs[:, 1]]).mean() == pytest.approx(0.4, abs=0.02)


# ------------------------------------------------------------------ atoms


def test_no_atom_is_there_twice_and_the_salt_is_neutral():
    _, xyz, species = tiny_atoms()
    assert cKDTree(xyz).query(xyz, k=2)[0][:, 1].min() > atoms.CLOSEST_NM - 1e-4
    assert np.mean(species == atoms.PB) == pytest.approx(0.5, abs=0.01)


def test_a_dots_atoms_are_rock_salt_about_its_centre():
    structure, xyz, species = tiny_atoms()
    n = int(np.argmax(structure.dots["fraction_inside"]))
    body = (xyz - structure.positions_nm[n]) @ structure.R[n]
    inside = shapes.contains(body, structure.half_nm[n] - 0.01, structure.cut_nm[n])
    np.testing.assert_allclose(body[inside].mean(axis=0), 0, atol=0.02)
    # {200} of PbSe: every plane scatters in phase; {100}: neighbouring planes cancel
    a = structure.parameters.lattice_nm
    for h, expected in ((2, 1.0), (1, 0.0)):
        phase = np.exp(2j * np.pi * h / a * body[inside, 0])
        assert abs(phase.mean()) == pytest.approx(expected, abs=0.08)
    # {111}: Pb against Se
    phase = np.exp(2j * np.pi / a * body[inside].sum(axis=1)) * np.where(species[inside] == 0, 1, -1)
    assert abs(phase.mean()) > 0.95


def test_a_neck_is_as_thick_as_stated():
    structure, xyz, _ = tiny_atoms()
    inside = structure.dots["fraction_inside"] > 0.999
    necks = structure.necks
    good = inside[necks["qd_1"]].to_numpy() & inside[necks["qd_2"]].to_numpy() & (necks["diameter_nm"] > 2)
    neck = necks[good.to_numpy() if hasattr(good, "to_numpy") else good].iloc[0]
    first, second = (structure.positions_nm[int(neck[q])] for q in ("qd_1", "qd_2"))
    e = (second - first) / np.linalg.norm(second - first)
    along = (xyz - first) @ e
    across = np.linalg.norm((xyz - first) - along[:, None] * e, axis=1)
    middle = np.abs(along - np.linalg.norm(second - first) / 2) < neck["length_nm"] / 4
    radius = across[middle & (across < 3.0)].max()
    assert radius == pytest.approx(neck["diameter_nm"] / 2, abs=0.25)


# ------------------------------------------------------------------ microscope


def specimen(points, species=None, radius=6.0):
    points = np.asarray(points, np.float32)
    kinds = np.zeros(len(points), np.int8) if species is None else np.asarray(species, np.int8)
    return microscope.Specimen(points, kinds, radius)


def centroid(image, pixel):
    z = (np.arange(image.shape[0]) - (image.shape[0] - 1) / 2) * pixel
    u = (np.arange(image.shape[1]) - (image.shape[1] - 1) / 2) * pixel
    total = image.sum()
    return (image.sum(1) @ z) / total, (image.sum(0) @ u) / total


@pytest.mark.parametrize("shape", [(96, 80), (95, 81)])
@pytest.mark.parametrize("angle", [0.0, 37.0, 90.0])
def test_mass_and_place_of_an_asymmetric_object(shape, angle):
    points, kinds = [[1.5, 0.3, 1.0], [-0.4, 1.8, -1.2], [0.2, -0.9, 0.5]], [0, 0, 1]
    p = twin_parameters(SMOOTH)
    image = microscope.project(specimen(points, kinds), p, shape, angle_deg=angle)
    weight = np.array(microscope.Z_SPECIES)[kinds] ** 1.7
    assert image.sum() == pytest.approx(weight.sum(), rel=1e-3)
    x, y, z = weight @ np.array(points) / weight.sum()
    t = np.deg2rad(angle)
    expected = z, x * np.cos(t) + y * np.sin(t)
    np.testing.assert_allclose(centroid(image, 0.1), expected, atol=0.005)


def test_handedness_at_zero_and_ninety_degrees():
    p = twin_parameters(SMOOTH)
    atom = specimen([[2.0, -1.0, 1.5]])
    for angle, u in ((0.0, 2.0), (90.0, -1.0)):
        image = microscope.project(atom, p, (81, 81), angle_deg=angle)
        np.testing.assert_allclose(centroid(image, 0.1), (1.5, u), atol=0.003)


def test_recorded_place_follows_the_stated_convention():
    p = twin_parameters(SMOOTH)
    image = microscope.project(
        specimen([[2.0, -1.0, 1.5]]), p, (101, 101),
        angle_deg=0.0, axis_tilt_deg=10.0, shift_z_nm=0.4, shift_u_nm=-0.7,
    )  # fmt: skip
    c, s = np.cos(np.deg2rad(10)), np.sin(np.deg2rad(10))
    expected = 1.5 * c + 2.0 * s + 0.4, 2.0 * c - 1.5 * s - 0.7
    np.testing.assert_allclose(centroid(image, 0.1), expected, atol=0.003)


@pytest.mark.parametrize("angle", [0.0, 50.0, -90.0])
def test_a_distorted_scan_puts_an_atom_where_its_formula_says(angle):
    changes = {"image_stretch_z": 0.02, "image_stretch_u": -0.01, "image_shear_deg": 3.0, "specimen_shear_deg": 4.0}
    p = twin_parameters({**SMOOTH, **changes})
    x, y, z = 2.0, -1.0, 1.5
    image = microscope.project(
        specimen([[x, y, z]]), p, (101, 121), angle_deg=angle, axis_tilt_deg=2.0, shift_z_nm=0.4, shift_u_nm=-0.3
    )
    t, a = np.deg2rad([angle, 2.0])
    u = (x + z * np.tan(np.deg2rad(4))) * np.cos(t) + y * np.sin(t)
    z, u = z * np.cos(a) + u * np.sin(a), u * np.cos(a) - z * np.sin(a)
    expected = 1.02 * z + 0.4, 0.99 * u + z * np.tan(np.deg2rad(3)) - 0.3
    np.testing.assert_allclose(centroid(image, 0.1), expected, atol=0.003)


def test_carbon_is_distorted_with_the_atoms():
    changes = {"image_stretch_z": 0.05, "image_stretch_u": 0.03, "image_shear_deg": 6.0, "specimen_shear_deg": 5.0}
    thing = specimen([[0.0, 0, 2.0], [0, 0, -2.0]], radius=2.0)
    plain, bent = twin_parameters({"pixel_nm": 0.1}), twin_parameters({"pixel_nm": 0.1, **changes})
    place = {"shape": (140, 140), "angle_deg": 30.0}
    atoms_only = [microscope.project(thing, twin_parameters({"pixel_nm": 0.1, **NO_CARBON}), **place).sum()] * 2
    carbon = [microscope.project(thing, p, **place) for p in (plain, bent)]
    mass = [image.sum(dtype=float) - atoms for image, atoms in zip(carbon, atoms_only, strict=True)]
    assert mass[1] == pytest.approx(mass[0], rel=0.01)
    # the middle of each row follows the sheared axis of the bar; rows near the ends see the atoms too
    u = (np.arange(140) - 69.5) * 0.1
    lean = np.tan(np.deg2rad(5)) * np.cos(np.deg2rad(30)) * 1.03 / 1.05 + np.tan(np.deg2rad(6)) / 1.05
    for row in (60, 69, 80):
        z = (row - 69.5) * 0.1
        assert carbon[1][row] @ u / carbon[1][row].sum() == pytest.approx(lean * z, abs=0.02)


def test_moving_the_image_back_gives_the_ideal_one():
    p = twin_parameters(SMOOTH)
    rng = np.random.default_rng(5)
    thing = specimen(rng.uniform(-2, 2, (30, 3)))
    ideal = microscope.project(thing, p, (96, 96), angle_deg=20.0)
    moved = microscope.project(thing, p, (96, 96), angle_deg=20.0, shift_z_nm=0.3, shift_u_nm=-0.2)
    back = np.roll(moved, (-3, 2), axis=(0, 1))
    np.testing.assert_allclose(back, ideal, atol=2e-3 * ideal.max())


def test_bragg_spots_of_an_aligned_crystal():
    a, n = 0.612, 16
    grid = np.arange(n) - (n - 1) / 2
    index = np.stack(np.meshgrid(*[np.arange(n)] * 3, indexing="ij"), -1).reshape(-1, 3)
    points = grid[index] * a / 2
    p = twin_parameters({"pixel_nm": 0.08, **NO_CARBON})
    image = microscope.project(specimen(points, index.sum(1) % 2), p, (250, 250), angle_deg=0.0)
    amplitude = np.abs(np.fft.rfft2(image, s=(1024, 1024)))
    g = np.fft.rfftfreq(1024, 0.08)
    near = (g > 2.5) & (g < 4.0)
    assert g[near][amplitude[0, near].argmax()] == pytest.approx(2 / a, abs=0.02)
    # seen along [010] the {111} rows are absent, {100} is forbidden by the face centring
    at = np.abs(g - 1 / a).argmin()
    assert amplitude[0, at] < 0.1 * amplitude[0, near].max()


def test_carbon_is_a_bar_with_the_mass_of_its_volume():
    p = twin_parameters({"pixel_nm": 0.1})
    thing = specimen([[0.0, 0, 2.0], [0, 0, -2.0]], radius=2.0)
    grains = microscope.carbon_grains(thing, p, np.random.default_rng(0))
    carbon = microscope.project(thing, p, (120, 120), angle_deg=30.0, grains=grains).sum(dtype=float)
    carbon -= 2 * 82**1.7
    volume = np.pi * 3.0**2 * 6.0
    assert carbon == pytest.approx(volume * 100 * 6**1.7, rel=0.02)


def test_series_has_the_dose_and_the_errors_stated():
    p = twin_parameters({"pixel_nm": 0.12, "n_tilts": 61, "tilt_step_deg": 3.0, "seed": 1})
    rng = np.random.default_rng(8)
    thing = specimen(rng.uniform(-3, 3, (4000, 3)), rng.integers(0, 2, 4000), radius=4.5)
    recording = microscope.record_series(thing, p, np.random.default_rng(1), progress=None)
    images, alignment = recording.series.images, recording.alignment
    middle = int(np.argmin(np.abs(alignment["angle_nominal_deg"])))
    assert microscope.brightest(images[middle]) == pytest.approx(400, rel=0.08)
    np.testing.assert_array_equal(images, np.rint(images))
    assert (alignment["angle_deg"] - alignment["angle_nominal_deg"]).std() == pytest.approx(0.1, rel=0.3)
    assert recording.truth["axis_offset_nm"] == pytest.approx(0.6)
    # the needle stays in the field: nothing but background along the border
    border = np.concatenate([images[:, 0], images[:, -1]], axis=1)
    assert border.mean() == pytest.approx(recording.truth["background_electrons"], rel=0.1)


def test_a_distorted_needle_stays_in_the_field():
    changes = {"image_stretch_z": 0.1, "image_shear_deg": 8.0, "specimen_shear_deg": 8.0}
    p = twin_parameters({"pixel_nm": 0.12, "n_tilts": 3, "tilt_step_deg": 60.0, **changes})
    thing = specimen(np.random.default_rng(8).uniform(-3, 3, (4000, 3)), radius=4.5)
    recording = microscope.record_series(thing, p, np.random.default_rng(1), progress=None)
    images = recording.series.images
    border = np.concatenate([images[:, 0].ravel(), images[:, -1].ravel(), images[:, :, 0].ravel()])
    assert border.mean() == pytest.approx(recording.truth["background_electrons"], rel=0.1)


def test_images_do_not_depend_on_the_number_of_threads():
    p = twin_parameters({"pixel_nm": 0.15, "n_tilts": 5, "tilt_step_deg": 30.0})
    thing = specimen(np.random.default_rng(0).uniform(-2, 2, (500, 3)), radius=3.0)
    one, two = (microscope.record_series(thing, p, np.random.default_rng(4), progress=None, workers=n) for n in (1, 3))
    np.testing.assert_array_equal(one.series.images, two.series.images)


# ------------------------------------------------------------------ tables


def test_measured_tables_are_off_by_what_they_state():
    structure = built(qd_count=120)
    dots, necks = tables.measured_tables(structure, np.random.default_rng(0))
    true = structure.dots[structure.whole]
    off = dots[["x_nm", "y_nm", "z_nm"]].to_numpy() - true[["x_nm", "y_nm", "z_nm"]].to_numpy()
    assert off.std() == pytest.approx(0.1, rel=0.15)
    R = lattice.from_quaternions(dots[["qw", "qx", "qy", "qz"]].to_numpy())
    angle = lattice.disorientation_deg(R, structure.R[structure.whole])
    assert np.sqrt(np.mean(angle**2)) == pytest.approx(0.5, rel=0.2)
    assert necks[["qd_1", "qd_2"]].to_numpy().max() < len(dots)
    assert not {"i", "j", "k", "layer", "fraction_inside"} & set(dots)


def test_truth_holds_the_exact_cell():
    structure = built()
    truth = tables.truth_superlattice(structure)
    V = np.column_stack([truth["grains"][0][axis] for axis in "ABC"])
    np.testing.assert_allclose(V, structure.cell)
    found = lattice.cell_parameters(V)
    assert found["a_nm"] == pytest.approx(structure.parameters.a_nm)
    assert found["alpha_deg"] == pytest.approx(structure.parameters.alpha_deg)
    assert truth["sample"]["a_nm"] == pytest.approx(found["a_nm"], abs=0.1)
    assert set(tables.truth_tables(structure)) == {"dots.csv", "necks.csv", "defects.csv", "order.csv"}


def test_noise_hardly_depends_on_the_last_digits_of_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poisson numbers are drawn by rejection: one draw decided otherwise must not move all that follow."""
    parameters = twin_parameters({"n_tilts": 2, "pixel_nm": 0.2, "image_shape": (96, 128)})
    atoms = np.random.default_rng(0).uniform(-5, 5, (20000, 3)).astype(np.float32)
    specimen = microscope.Specimen(atoms, np.zeros(len(atoms), np.int8), 6.0)
    first = microscope.record_series(specimen, parameters, np.random.default_rng(1), progress=None)
    project, digits = microscope.project, np.random.default_rng(2)

    def elsewhere(*args, **kwargs):
        image = project(*args, **kwargs)
        return image * (1 + 1e-3 * digits.normal(size=image.shape)).astype(np.float32)

    monkeypatch.setattr(microscope, "project", elsewhere)
    second = microscope.record_series(specimen, parameters, np.random.default_rng(1), workers=1, progress=None)
    assert np.mean(first.series.images != second.series.images) < 0.2
