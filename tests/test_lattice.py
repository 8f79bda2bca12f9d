"""Cells, rotations and cubic symmetry: known answers, laws, and agreement with orix."""

import numpy as np
import pytest
from orix.quaternion import Orientation, Rotation
from orix.quaternion.symmetry import O
from orix.vector import Vector3d

from mesotomo_utils import lattice

CELL = {"a_nm": 6.1, "b_nm": 5.9, "c_nm": 5.7, "alpha_deg": 98, "beta_deg": 95, "gamma_deg": 93}


def random_rotations(n: int, seed: int = 0) -> np.ndarray:
    q = np.random.default_rng(seed).normal(size=(n, 4))
    return lattice.from_quaternions(q / np.linalg.norm(q, axis=1, keepdims=True))


# ------------------------------------------------------------------ cells


def test_a_cell_gives_back_its_parameters():
    found = lattice.cell_parameters(lattice.cell_matrix(**CELL))
    assert found == pytest.approx(CELL)


def test_a_cell_lies_in_the_film_frame():
    V = lattice.cell_matrix(**CELL)
    assert V[1:, 0] == pytest.approx([0, 0])
    assert V[2, 1] == pytest.approx(0)
    assert np.linalg.det(V) > 0
    assert lattice.film_normal(V) == pytest.approx([0, 0, 1])
    assert lattice.film_frame(V) == pytest.approx(np.eye(3))


def test_turning_a_cell_turns_its_normal_and_leaves_its_parameters():
    V, (Q,) = lattice.cell_matrix(**CELL), random_rotations(1, seed=4)
    assert lattice.film_normal(Q @ V) == pytest.approx(Q[:, 2])
    assert lattice.film_frame(Q @ V) == pytest.approx(Q)
    assert lattice.cell_parameters(Q @ V) == pytest.approx(CELL)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"a_nm": -1}, "positive"), ({"alpha_deg": 30, "beta_deg": 30, "gamma_deg": 120}, "no cell")],
)
def test_impossible_cells_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        lattice.cell_matrix(**(CELL | change))


# ------------------------------------------------------------------ rotations


def test_axis_angle_turns_by_the_right_hand():
    R = lattice.axis_angle([0, 0, 2], np.pi / 2)
    assert pytest.approx([0, 1, 0]) == R @ [1, 0, 0]
    assert lattice.rotation_angle_deg(R) == pytest.approx(90)


def test_quaternions_rotation_vectors_and_matrices_agree():
    R = random_rotations(50)
    q = lattice.to_quaternions(R)
    assert (q[:, 0] >= 0).all()
    assert lattice.from_quaternions(q) == pytest.approx(R)
    assert lattice.from_quaternions(-q) == pytest.approx(R)
    assert lattice.from_rotation_vectors(lattice.rotation_vectors(R)) == pytest.approx(R)


def test_missing_quaternions_stay_missing():
    R = lattice.from_quaternions([[np.nan] * 4, [1, 0, 0, 0]])
    assert np.isnan(R[0]).all()
    assert R[1] == pytest.approx(np.eye(3))


def test_wahba_finds_a_rotation_and_never_a_mirror():
    (R,) = random_rotations(1, seed=7)
    crystal = np.random.default_rng(1).normal(size=(9, 3))
    assert lattice.wahba(crystal, crystal @ R.T) == pytest.approx(R)
    mirrored = crystal * [-1, 1, 1]
    assert np.linalg.det(lattice.wahba(crystal, mirrored)) == pytest.approx(1)


def test_wahba_follows_the_weights():
    crystal = np.eye(3)
    lab = np.array([[0, 1, 0], [-1, 0, 0], [0.3, 0, 1.0]])  # the third is wrong
    R = lattice.wahba(crystal, lab, [1, 1, 1e-9])
    assert pytest.approx(lattice.axis_angle([0, 0, 1], np.pi / 2), abs=1e-6) == R


def test_the_mean_of_a_symmetric_cloud_is_its_centre():
    (centre,) = random_rotations(1, seed=3)
    v = np.random.default_rng(2).normal(scale=0.1, size=(40, 3))
    cloud = lattice.from_rotation_vectors(np.concatenate([v, -v])) @ centre
    assert lattice.mean_rotation(cloud) == pytest.approx(centre, abs=1e-6)


def test_angles_between_axes_forget_the_sign():
    assert lattice.direction_angle_deg([1, 0, 0], [-1, 0, 0]) == pytest.approx(0)
    assert lattice.direction_angle_deg([1, 0, 0], [-1, -1, 0]) == pytest.approx(45)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lattice.from_quaternions(np.zeros((2, 3))), r"\(N, 4\)"),
        (lambda: lattice.wahba(np.eye(3), np.ones((2, 3))), r"\(N, 3\)"),
        (lambda: lattice.mean_rotation(np.empty((0, 3, 3))), "no rotation"),
        (lambda: lattice.rotation_vectors(np.eye(4)), r"\(4, 4\)"),
        (lambda: lattice.reflections(0.0), "lattice_nm"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ------------------------------------------------------------------ cubic symmetry


def test_the_24_rotations_form_the_group_of_the_cube():
    group = lattice.cubic_rotations()
    assert group.shape == (24, 3, 3)
    assert group[0] == pytest.approx(np.eye(3))
    assert np.linalg.det(group) == pytest.approx(np.ones(24))
    keys = {tuple(m.ravel().astype(int)) for m in group}
    products = {tuple((p @ q).ravel().astype(int)) for p in group for q in group}
    assert len(keys) == 24
    assert products == keys


def test_the_group_is_that_of_orix():
    theirs = np.sort(np.abs(O.data), axis=None)
    ours = np.sort(np.abs(lattice.to_quaternions(lattice.cubic_rotations())), axis=None)
    assert ours == pytest.approx(theirs, abs=1e-7)


def test_nearest_equivalent_undoes_any_symmetry_and_follows_the_cell():
    V = lattice.cell_matrix(**CELL)
    R = lattice.from_rotation_vectors(np.random.default_rng(0).normal(scale=0.1, size=(20, 3)))
    for operation in lattice.cubic_rotations():
        assert lattice.nearest_equivalent(R @ operation, V) == pytest.approx(R)
    (Q,) = random_rotations(1, seed=9)
    assert lattice.nearest_equivalent(Q @ R, Q @ V) == pytest.approx(Q @ R)


def test_disorientation_is_the_angle_modulo_symmetry():
    R = random_rotations(30, seed=2)
    small = lattice.axis_angle([1, 2, 3], np.deg2rad(7.0))
    for operation in lattice.cubic_rotations()[::5]:
        assert lattice.disorientation_deg(R, R @ small @ operation) == pytest.approx(7.0 * np.ones(30))


def test_disorientation_agrees_with_orix():
    R1, R2 = random_rotations(40, seed=5), random_rotations(40, seed=6)
    # orix turns lab vectors into crystal ones: the inverse of ours.
    first, second = (Orientation(lattice.to_quaternions(np.swapaxes(R, 1, 2)), symmetry=O) for R in (R1, R2))
    theirs = np.rad2deg(first.angle_with(second))
    assert lattice.disorientation_deg(R1, R2) == pytest.approx(theirs, abs=1e-4)


def test_orix_stores_the_inverse():
    (R,) = random_rotations(1, seed=8)
    ours = Rotation(lattice.to_quaternions(R[None]))
    crystal = np.array([0.3, -0.5, 0.8])
    # A quaternion of ours, applied by orix, turns a crystal vector into the lab vector R v ...
    assert (ours * Vector3d(crystal)).data[0] == pytest.approx(R @ crystal)
    # ... and the Orientation that orix means is its inverse: lab to crystal.
    orientation = Orientation((~ours).data, symmetry=O)
    assert (orientation * Vector3d(R @ crystal)).data[0] == pytest.approx(crystal)


# ------------------------------------------------------------------ reflections


def test_reflections_are_half_of_each_family():
    table = lattice.reflections(0.612)
    assert table["family"].value_counts().to_dict() == {"220": 6, "111": 4, "200": 3}
    hkl = {tuple(row) for row in table[["h", "k", "l"]].to_numpy()}
    assert not any((-h, -k, -m) in hkl for h, k, m in hkl)
    spacing = table.groupby("family")["d_nm"].first()
    # The paper: 3.52, 3.05 and 2.16 angstrom, read off its resolution plot.
    assert spacing["111"] == pytest.approx(0.3533, abs=1e-4)
    assert spacing["200"] == pytest.approx(0.3060, abs=1e-4)
    assert spacing["220"] == pytest.approx(0.2164, abs=1e-4)


def test_rock_salt_scatters_as_its_structure_factor_says():
    def amplitude(hkl, cation, anion):
        positions = np.concatenate([lattice.ROCKSALT_CATION, lattice.ROCKSALT_ANION])
        weights = np.repeat([cation, anion], 4)
        return abs(np.sum(weights * np.exp(2j * np.pi * positions @ hkl)))

    assert amplitude([1, 1, 1], 3, 1) == pytest.approx(4 * (3 - 1))
    assert amplitude([2, 0, 0], 3, 1) == pytest.approx(4 * (3 + 1))
    assert amplitude([2, 2, 0], 3, 1) == pytest.approx(4 * (3 + 1))
    assert amplitude([1, 0, 0], 3, 1) == pytest.approx(0, abs=1e-9)
    assert amplitude([2, 1, 0], 3, 1) == pytest.approx(0, abs=1e-9)
