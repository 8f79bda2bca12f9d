"""FFTs of lines side by side in vectors, and of the grid that they make up: against NumPy's."""

import numba
import numpy as np
import pytest

from mesotomo_utils.tomography.fft_vectors import LANES, WIDE, factors_of, line_transform, radices_of
from mesotomo_utils.tomography.grid_fft import GridFft


@numba.njit
def run(transform, source, step, target, jump, near, there, factors):
    transform(source, 0, step, target, 0, jump, near, there, factors)


def parts(numbers: np.ndarray) -> np.ndarray:
    """Complex numbers as real and imaginary parts beside each other, in one dimension."""
    return np.ascontiguousarray(numbers).view(numbers.real.dtype).ravel()


@pytest.mark.parametrize(("length", "radices"), [(16, (8, 2)), (240, (8, 5, 3, 2)), (32, (8, 4)), (5, (5,))])
def test_lines_are_transformed(length, radices):
    assert radices_of(length) == radices
    rng = np.random.default_rng(length)
    lines = rng.normal(size=(length, LANES, 2)).view(complex)[..., 0]
    apart = np.zeros((length, 3, LANES), complex)  # with something else between one place and the next
    apart[:, 0] = lines
    there, work = np.zeros((length, 2, LANES), complex), np.zeros((2, WIDE * length))
    target = parts(there)
    run(line_transform(radices), parts(apart), 3 * WIDE, target, 2 * WIDE, *work, factors_of(length, float).ravel())
    found = target.view(complex).reshape(there.shape)
    assert np.allclose(found[:, 0], np.fft.fft(lines, axis=0), atol=1e-13 * length)
    assert not found[:, 1].any()


def test_a_length_of_another_prime_is_refused():
    with pytest.raises(ValueError, match="product of 2, 3 and 5; one of its factors is 7"):
        radices_of(56)


@pytest.mark.parametrize(("size", "edge"), [(24, 32), (37, 48), (5, 16)])
@pytest.mark.parametrize("count", [1, 2])
def test_slices_and_grid(size, edge, count):
    """Both ways in turn: neither leaves anything to the other."""
    rng = np.random.default_rng(size)
    corrections = rng.uniform(1, 2, size)
    transform = GridFft(edge, 4, corrections)
    inside = slice(edge // 2 - size // 2, edge // 2 - size // 2 + size)
    weights = np.outer(corrections, corrections)
    for _ in range(2):
        slices = rng.normal(size=(count, size, 2 * size))[:, :, ::2]  # not in one piece
        whole = np.zeros((edge, edge), complex)
        whole[inside, inside] = weights * (slices[0] + 1j * (slices[1] if count == 2 else 0))
        transform.grid[:] = np.nan
        transform.onto_grid(slices)
        found = transform.grid.view(complex)[:edge, :edge]
        assert np.allclose(found.T, np.fft.fft2(whole), atol=1e-11)

        grid = rng.normal(size=(edge, edge, 2)).view(complex)[..., 0]
        transform.grid.view(complex)[:edge, :edge] = (grid.imag + 1j * grid.real).T
        expected = np.fft.ifft2(grid, norm="forward")[inside, inside] * weights
        room = np.full((count, size, size), np.nan)
        transform.from_grid(room)
        assert np.allclose(room[0], expected.real, atol=1e-11)
        assert count == 1 or np.allclose(room[1], expected.imag, atol=1e-11)


def test_slices_of_another_type_are_converted():
    transform = GridFft(16, 4, np.ones(9))
    room = np.ones((2, 9, 9), np.float32)
    transform.onto_grid(room)
    transform.grid[:] = transform.grid[:, np.arange(transform.grid.shape[1]) ^ 1]  # parts exchanged
    assert transform.grid[0, 1] == pytest.approx(81)
    transform.from_grid(room)
    assert np.allclose(room, 16**2)
