"""Borders that a program filled in are told from vacuum, and what lies beside them takes their place."""

import numpy as np
import pytest

from mesotomo_utils.tomography.filled_borders import replace_filled_borders


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).poisson(20, (3, 40, 48)).astype(np.float32)


@pytest.mark.parametrize("value", ["mean", 0.0, 500.0])
def test_filled_strips_are_replaced_by_what_lies_beside_them(images, value):
    filled = images.copy()
    value = images[1].mean() if value == "mean" else value
    filled[1, :3], filled[1, -1:], filled[1, :, -5:] = value, value, value
    found, widths = replace_filled_borders(filled)
    np.testing.assert_array_equal(widths, [[0] * 4, [3, 1, 0, 5], [0] * 4])
    np.testing.assert_array_equal(found[[0, 2]], images[[0, 2]])
    np.testing.assert_array_equal(found[1, 3:-1, :-5], images[1, 3:-1, :-5])
    np.testing.assert_array_equal(found[1, :3, :-5], np.broadcast_to(images[1, 3, :-5], (3, 43)))
    np.testing.assert_array_equal(found[1, 3:-1, -5:], np.broadcast_to(images[1, 3:-1, -6:-5], (36, 5)))
    assert (filled[1, :3] == value).all()  # the caller's array stays


def test_vacuum_without_noise_stays(images):
    dark = np.random.default_rng(1).poisson(0.05, images.shape).astype(np.float32)  # nearly every pixel is zero
    dark[:, :, 10:30] += images[:, :, 10:30]
    dark[:, :2] = dark[:, :, :4] = 0
    wide = images.copy()
    wide[:, :, :20] = 0
    black = np.zeros_like(images)
    for given in (images, dark, wide, black):
        found, widths = replace_filled_borders(given)
        assert found is given
        assert not widths.any()
