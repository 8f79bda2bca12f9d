"""What notebook 01 reads off a tomogram is the same whether it lies in memory or on disk."""

import math
import re
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import zarr
from pandas.testing import assert_frame_equal

from mesotomo_utils import lattice
from mesotomo_utils.tomography import bragg_spots, distortion, resolution
from mesotomo_utils.tomography.cutting import mapping_chunks
from mesotomo_utils.tomography.distortion_spots import grain_windows
from mesotomo_utils.tomography.tomogram import Tomogram, open_tomogram, write_tomogram
from mesotomo_utils.visualization import movies

LATTICE_NM, VOXEL_NM, DOT_NM = 0.6, 0.09, 3.0
SHAPE = (150, 139, 133)  # neither chunks nor windows nor thinned cubes fill it


@pytest.fixture(scope="module")
def tomogram(tmp_path_factory: pytest.TempPathFactory) -> Tomogram:
    """Crystal balls, each turned its own way, in noise."""
    rng = np.random.default_rng(5)
    axes = [((np.arange(n) - (n - 1) / 2) * VOXEL_NM).astype(np.float32) for n in SHAPE]
    volume = rng.normal(0, 0.1, SHAPE).astype(np.float32)
    hkl = lattice.reflections(LATTICE_NM, ((1, 1, 1), (2, 0, 0)))[["h", "k", "l"]].to_numpy(float)
    for place in product((-3.8, 0.0, 3.8), repeat=3):
        box = np.ix_(*[np.flatnonzero(np.abs(a - at) < DOT_NM / 2) for a, at in zip(axes, place, strict=True)])
        dz, dy, dx = (a[side] - at for a, side, at in zip(axes, box, place, strict=True))
        ball = dz**2 + dy**2 + dx**2 < (DOT_NM / 2) ** 2
        turned = lattice.from_rotation_vectors(rng.normal(0, 0.5, (1, 3)))[0]
        waves = sum(np.cos(2 * np.pi * (g[0] * dx + g[1] * dy + g[2] * dz)) for g in hkl @ turned.T / LATTICE_NM)
        volume[box] += ball * (1 + 0.1 * waves)
    return open_tomogram(write_tomogram(tmp_path_factory.mktemp("disk") / "t.ome.zarr", volume, VOXEL_NM))


class Watched:
    """A Zarr array that counts the chunks read from it, and the most voxels asked for at a time."""

    def __init__(self, array: zarr.Array) -> None:
        self.array, self.shape, self.chunks, self.most, self.read = array, array.shape, array.chunks, 0, 0

    def __getitem__(self, part) -> np.ndarray:
        block = self.array[part]
        sides = [*(part if isinstance(part, tuple) else (part,)), *[slice(None)] * 3][:3]
        bounds = [side.indices(n)[:2] for side, n in zip(sides, self.shape, strict=True)]
        pairs = zip(bounds, self.chunks, strict=True)
        self.read += math.prod((last - 1) // edge - first // edge + 1 for (first, last), edge in pairs)
        self.most = max(self.most, block.size)
        return block


READINGS = {
    "film": lambda v: {axis: np.stack(list(movies.slice_frames(v, VOXEL_NM, axis=axis))) for axis in "zyx"},
    "windows": lambda v: resolution.choose_windows(v, VOXEL_NM, window_nm=4.0),
    "spectrum": lambda v: resolution.radial_power(v, VOXEL_NM, windows=resolution.choose_windows(v, VOXEL_NM)),
    "clearest": lambda v: bragg_spots.clearest_dot(v, VOXEL_NM, LATTICE_NM, diameter_nm=DOT_NM),
    "grains": lambda v: grain_windows(v, VOXEL_NM, grain_nm=DOT_NM),
    "distortion": lambda v: distortion.measure_distortion(v, VOXEL_NM, LATTICE_NM, grain_nm=DOT_NM),
}


@pytest.mark.parametrize("from_disk", [lambda array: array, mapping_chunks], ids=["read", "mapped"])
@pytest.mark.parametrize("name", READINGS)
def test_the_same_from_memory_and_from_disk(tomogram: Tomogram, name: str, from_disk: Callable) -> None:
    there, here = READINGS[name](from_disk(tomogram.data)), READINGS[name](tomogram.load())
    if name == "film":
        assert all(np.array_equal(there[axis], here[axis]) for axis in "zyx")
    elif name == "spectrum":
        assert_frame_equal(there, here, check_exact=True)
    elif name == "distortion":
        assert here[0].n_windows >= 8
        assert_frame_equal(there[0].table(), here[0].table(), check_exact=True)
        assert_frame_equal(there[1], here[1], check_exact=True)
    else:
        assert np.array_equal(there, here)


# the film along three axes, with its limits of grey first; windows that overlap by half
@pytest.mark.parametrize(("name", "times"), [("film", 6), ("windows", 5), ("grains", 2)])
def test_disk_is_read_a_layer_at_a_time_and_not_over_and_over(tomogram: Tomogram, name: str, times: float) -> None:
    watched = Watched(tomogram.data)
    READINGS[name](watched)
    chunk = tomogram.data.chunks
    assert chunk == (64, 128, 128)
    layer = max(edge * math.prod(SHAPE) / n for edge, n in zip(chunk, SHAPE, strict=True))  # of chunks, across any axis
    assert watched.most <= 1.1 * layer
    assert watched.read <= times * math.prod(-(-n // edge) for edge, n in zip(chunk, SHAPE, strict=True))


def test_one_dot_is_the_same_from_disk(tomogram: Tomogram) -> None:
    options = {"lattice_nm": LATTICE_NM, "diameter_nm": DOT_NM}
    volumes = tomogram.data, tomogram.load()
    there, here = (bragg_spots.bragg_spots(v, VOXEL_NM, np.zeros(3), **options) for v in volumes)
    assert len(here.table)
    assert_frame_equal(there.table, here.table, check_exact=True)
    options = {"lattice_nm": LATTICE_NM, "edge_nm": 4.0}
    patches = [bragg_spots.zone_section(v, VOXEL_NM, here, **options)["patch"] for v in volumes]
    assert np.array_equal(*patches)


def test_a_constant_tomogram_on_disk_is_refused(tmp_path) -> None:
    group = zarr.open_group(tmp_path / "flat.zarr", mode="w")
    flat = group.create_array("0", shape=(70, 40, 40), chunks=(64, 40, 40), dtype="float32", fill_value=2.5)
    with pytest.raises(ValueError, match=re.escape("constant, every voxel is 2.5")):
        resolution.choose_windows(flat, 0.1)
    flat[69, 39, 39] = 3.0  # the last voxel
    assert resolution.choose_windows(flat, 0.1)
