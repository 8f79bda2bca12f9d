"""Tomograms come back as they were written, say where they lie, and are whole or not there."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import h5py
import mrcfile
import numpy as np
import pytest
import tifffile
import zarr
from ome_zarr_models.v05 import Image
from scipy import ndimage

from mesotomo_utils.tomography.cutting import KeptChunks, MappedChunks, cut_cube, keeping_chunks, mapping_chunks
from mesotomo_utils.tomography.tomogram import (
    TomogramError,
    TomogramWriter,
    load_tomogram,
    open_tomogram,
    write_tomogram,
)


@pytest.fixture
def volume():
    return np.random.default_rng(0).normal(size=(70, 33, 52)).astype(np.float32)


def test_round_trip(tmp_path, volume):
    path = write_tomogram(tmp_path / "a.ome.zarr", volume, 0.07, attributes={"method": "fbp", "seconds": 1.5})
    tomogram = open_tomogram(path)
    assert np.array_equal(tomogram.load(), volume)
    assert tomogram.voxel_nm == 0.07
    assert tomogram.attributes == {"method": "fbp", "seconds": 1.5}
    again, voxel = load_tomogram(path)
    assert np.array_equal(again, volume)
    assert voxel == 0.07
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.ome.zarr"]


def some_parts(shape: tuple[int, ...]) -> list[tuple[slice, ...]]:
    rng = np.random.default_rng(0)
    ends = [[np.sort(rng.choice(n + 1, 2, replace=False)) for n in shape] for _ in range(20)]
    return [tuple(slice(int(a), int(b)) for a, b in each) for each in ends]


def test_parts_from_kept_chunks_are_those_of_the_file(tmp_path, volume):
    data = open_tomogram(write_tomogram(tmp_path / "a.ome.zarr", volume, 0.07)).data
    chunk_bytes = np.prod(data.chunks) * 4
    kept = KeptChunks(data, kept_bytes=1.5 * chunk_bytes)
    for part in some_parts(volume.shape):
        assert np.array_equal(kept[part], volume[part])
        assert len(kept._kept) == 1
    elsewhere = pickle.loads(pickle.dumps(kept))
    assert not elsewhere._kept
    assert np.array_equal(elsewhere[part], volume[part])


def test_plain_chunks_are_mapped(tmp_path, volume):
    data = zarr.create_array(tmp_path / "plain.zarr", data=volume, chunks=(5, 6, 7), compressors=None)
    mapped = MappedChunks(data, kept_bytes=3.5 * 5 * 6 * 7 * 4)
    assert isinstance(keeping_chunks(data), MappedChunks)
    assert not hasattr(mapped, "chunks")  # what asks in which order to read need not
    for part in some_parts(volume.shape):
        assert np.array_equal(mapped[part], volume[part])
        assert len(mapped._kept) <= 3
    for part in (np.s_[3:5], np.s_[4], np.s_[:, -2], np.s_[2:9:4, 1, ::3], np.s_[-3:, 40:, :2]):
        assert np.array_equal(mapped[part], volume[part])
    assert mapped[:, 4:4].shape == (volume.shape[0], 0, volume.shape[2])
    again = pickle.loads(pickle.dumps(mapped))
    assert np.array_equal(again[part], volume[part])
    # a chunk of nothing but the fill value has no file
    (tmp_path / "plain.zarr" / "c" / "0" / "0" / "0").unlink()
    assert np.array_equal(keeping_chunks(data)[:, :, :], data[:])
    assert not keeping_chunks(data)[:5, :6, :7].any()
    # our own tomograms are such
    own = open_tomogram(write_tomogram(tmp_path / "a.ome.zarr", volume, 0.07)).data
    assert isinstance(mapping_chunks(own), MappedChunks)
    centre = np.array([0.9, -0.4, 2.2])
    assert np.array_equal(cut_cube(keeping_chunks(own), 0.07, centre, 9), cut_cube(volume, 0.07, centre, 9))


@pytest.mark.parametrize(
    "options", [{}, {"compressors": None, "shards": (8, 8, 8)}, {"compressors": None, "zarr_format": 2}, {"big": True}]
)
def test_other_chunks_are_read(tmp_path, volume, options: dict):
    small = volume[:8, :8, :8].astype(">f4" if options.pop("big", False) else "<f4")
    packed = zarr.create_array(tmp_path / "packed.zarr", data=small, chunks=(4, 4, 4), **options)
    assert mapping_chunks(packed) is packed
    kept = keeping_chunks(packed)
    assert type(kept) is KeptChunks
    assert np.array_equal(kept[1:7, 2:8, :5], packed[1:7, 2:8, :5])  # Zarr 3.1.1 reads nothing from shards
    in_memory = zarr.create_array({}, data=small, chunks=(4, 4, 4), compressors=None)
    assert mapping_chunks(in_memory) is in_memory
    assert keeping_chunks(volume) is volume


def test_threads_wait_for_their_own_chunks_only():
    class Slow:
        """Chunks of 4; the first waits to be let go, and fails while the disk is gone."""

        shape, chunks, dtype = (4, 4, 8), (4, 4, 4), np.dtype("float32")
        begun, go, gone = Event(), Event(), True

        def __getitem__(self, part):
            if part[2].start == 0:
                self.begun.set()
                assert self.go.wait(20)
                if self.gone:
                    raise OSError("disk gone")
            return np.full([s.stop - s.start for s in part], part[2].start, np.float32)

    kept = KeptChunks(slow := Slow())
    every, first, second = slice(0, 4), slice(0, 4), slice(4, 8)
    with ThreadPoolExecutor(3) as pool:
        reading = pool.submit(kept.__getitem__, (every, every, first))
        assert slow.begun.wait(20)
        waiting = pool.submit(kept.__getitem__, (every, every, slice(2, 8)))
        assert (pool.submit(kept.__getitem__, (every, every, second)).result(timeout=20) == 4).all()
        slow.go.set()
        for failed in (reading, waiting):
            with pytest.raises(OSError, match="disk gone"):
                failed.result(timeout=20)
    slow.gone = False
    assert (kept[every, every, first] == 0).all()  # a chunk that could not be read is not kept


def test_valid_ome_zarr_with_its_origin_in_the_centre(tmp_path, volume):
    path = write_tomogram(tmp_path / "a.ome.zarr", volume, 0.5, levels=3)
    image = Image.from_zarr(zarr.open_group(path, mode="r"))
    scales, corners = [], []
    for level, dataset in enumerate(image.ome_attributes.multiscales[0].datasets):
        scale, translation = (t for t in dataset.coordinateTransformations)
        shape = zarr.open_group(path, mode="r")[str(level)].shape
        scales.append(scale.scale[0])
        # outer corner of the first voxel: the same point of space on each level
        corners.append(np.array(translation.translation) - np.array(scale.scale) / 2)
        assert shape == tuple(-(-n // 2**level) for n in volume.shape)
    assert scales == [0.5, 1.0, 2.0]
    assert np.allclose(corners, corners[0])
    assert np.allclose(corners[0], -np.array(volume.shape) * 0.5 / 2)


def test_pyramid_averages_by_two(tmp_path, volume):
    even = volume[:, :32, :]
    tomogram = open_tomogram(write_tomogram(tmp_path / "a.ome.zarr", even, 0.5, levels=2))
    level, voxel = tomogram.level(1)
    assert voxel == 1.0
    assert np.allclose(level, even.reshape(35, 2, 16, 2, 26, 2).mean(axis=(1, 3, 5)), atol=1e-6)
    with pytest.raises(IndexError, match="levels 0 to 1"):
        tomogram.level(2)


def test_a_bead_in_the_origin_lies_in_the_middle_of_each_level(tmp_path):
    z, y, x = np.ogrid[-20:21, -21:22, -22:23]  # no multiples of two
    bead = np.exp(-(z**2 + y**2 + x**2) / 50).astype(np.float32)
    tomogram = open_tomogram(write_tomogram(tmp_path / "a.ome.zarr", bead, 0.5, levels=3))
    for k in range(3):
        np.testing.assert_allclose(ndimage.center_of_mass(tomogram.level(k)[0]), tomogram.middle(k), atol=0.02)


def test_written_in_slabs(tmp_path, volume):
    with TomogramWriter(tmp_path / "a.ome.zarr", volume.shape, 0.1) as writer:
        writer.write(64, volume[64:])
        writer.write(0, volume[:64])
    assert np.array_equal(open_tomogram(tmp_path / "a.ome.zarr").load(), volume)


@pytest.mark.parametrize("depth", [1, 2, 8, 32])
def test_thin_slabs_make_the_same_pyramid(tmp_path, volume, depth):
    whole = open_tomogram(write_tomogram(tmp_path / "a.ome.zarr", volume, 0.1, levels=4))
    with TomogramWriter(tmp_path / "b.ome.zarr", volume.shape, 0.1, levels=4, depth=depth) as writer:
        for first in reversed(range(0, len(volume), depth)):
            # as it reaches another process
            pickle.loads(pickle.dumps(writer)).write(first, volume[first : first + depth], "key")
            writer.finished[first] = "key"
    thin = open_tomogram(tmp_path / "b.ome.zarr")
    assert thin.data.chunks[0] == depth
    for level in range(4):
        assert np.allclose(thin.level(level)[0], whole.level(level)[0], atol=1e-6)


def test_no_two_slabs_share_a_chunk(tmp_path, volume):
    with TomogramWriter(tmp_path / "a.ome.zarr", volume.shape, 0.1, levels=4, depth=8) as writer:
        writer.write(0, volume)
    for level, rows in enumerate((8, 4, 2, 1)):
        assert open_tomogram(tmp_path / "a.ome.zarr").group[str(level)].chunks[0] == rows
    with TomogramWriter(tmp_path / "b.ome.zarr", volume.shape, 0.1, depth=8) as writer:
        for first, last in ((4, 12), (8, 12)):
            with pytest.raises(TomogramError, match=f"from slice {first} to {last} shares a chunk"):
                writer.write(first, volume[first:last])
        writer.write(0, volume)


def test_a_writer_left_behind_does_not_write_into_what_came_after_it(tmp_path, volume):
    old = TomogramWriter(tmp_path / "a.ome.zarr", volume.shape, 0.1, resume="fbp").__enter__()
    old.write(0, volume[:64], "these images")
    with TomogramWriter(tmp_path / "a.ome.zarr", volume.shape, 0.1, resume="sirt") as writer:
        assert not writer.finished
        with pytest.raises(TomogramError, match="begun anew"):
            old.write(64, volume[64:])
        writer.write(0, 2 * volume)
    assert np.array_equal(open_tomogram(tmp_path / "a.ome.zarr").load(), 2 * volume)
    with pytest.raises(TomogramError, match="not see the file system"):
        old.write(64, volume[64:])


def test_a_tomogram_is_whole_or_not_there(tmp_path, volume):
    path = tmp_path / "a.ome.zarr"
    with pytest.raises(TomogramError, match="6 of 70 slices were never written, the first is 64"):  # noqa: SIM117
        with TomogramWriter(path, volume.shape, 0.1) as writer:
            writer.write(0, volume[:64])

    def interrupted():
        with TomogramWriter(path, volume.shape, 0.1) as writer:
            writer.write(0, volume)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_a_half_written_folder_is_refused(tmp_path, volume):
    group = zarr.open_group(tmp_path / "half.ome.zarr", mode="w")
    group.create_array("0", data=volume)
    with pytest.raises(TomogramError, match="half-written"):
        open_tomogram(tmp_path / "half.ome.zarr")
    path = write_tomogram(tmp_path / "b.ome.zarr", volume, 0.1)
    (path / "0" / "zarr.json").unlink()
    with pytest.raises(TomogramError, match="level '0' is missing"):
        open_tomogram(path)


def test_a_failed_write_leaves_the_old_one(tmp_path, volume):
    path = write_tomogram(tmp_path / "a.ome.zarr", volume, 0.1)
    broken = volume.copy()
    broken[5, 0, 0] = np.nan
    with pytest.raises(TomogramError, match="slice 5"):
        write_tomogram(path, broken, 0.1)
    assert np.array_equal(open_tomogram(path).load(), volume)
    write_tomogram(path, 2 * volume, 0.1)
    assert np.array_equal(open_tomogram(path).load(), 2 * volume)


def test_mrc(tmp_path, volume):
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(volume)
        file.voxel_size = 0.7
    loaded, voxel = load_tomogram(tmp_path / "a.mrc")
    assert np.array_equal(loaded, volume)
    assert voxel == pytest.approx(0.07)
    assert load_tomogram(tmp_path / "a.mrc", 0.2)[1] == 0.2
    with mrcfile.open(tmp_path / "a.mrc", "r+") as file:
        file.voxel_size = (0.7, 0.8, 0.7)
    with pytest.raises(TomogramError, match="not cubes; resample the volume, or give `voxel_nm`"):
        load_tomogram(tmp_path / "a.mrc")
    assert load_tomogram(tmp_path / "a.mrc", 0.2)[1] == 0.2


def test_tiff_and_hdf5(tmp_path, volume):
    tifffile.imwrite(tmp_path / "a.tif", volume)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["deep/volume"] = volume
        file["deep/volume"].attrs["voxel_nm"] = 0.3
    loaded, voxel = load_tomogram(tmp_path / "a.tif", 0.25)
    assert np.array_equal(loaded, volume)
    assert voxel == 0.25
    loaded, voxel = load_tomogram(tmp_path / "a.h5")
    assert np.array_equal(loaded, volume)
    assert voxel == 0.3
    with pytest.raises(TomogramError, match=r"a\.tif carries no voxel size"):
        load_tomogram(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4), np.float32), "axes \\[z, y, x\\]"),
        (np.zeros((0, 4, 4), np.float32), "empty"),
        (np.full((3, 4, 4), 2.0, np.float32), "constant, every voxel is 2"),
        (np.full((3, 4, 4), np.inf, np.float32), "slice 0 .* not finite"),
    ],
)
def test_refuses_what_is_no_tomogram(tmp_path, array, message):
    with pytest.raises(TomogramError, match=message):
        write_tomogram(tmp_path / "a.ome.zarr", array, 0.1)
    if array.size and array.ndim == 3:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["volume"] = array
        with pytest.raises(TomogramError, match=message):
            load_tomogram(tmp_path / "a.h5", 0.1)


def test_refuses_wrong_files(tmp_path, volume):
    with pytest.raises(TomogramError, match="missing"):
        load_tomogram(tmp_path / "absent.mrc")
    with pytest.raises(TomogramError, match="missing"):
        open_tomogram(tmp_path / "absent.ome.zarr")
    (tmp_path / "a.txt").write_text("no volume")
    with pytest.raises(TomogramError, match=r"no reader for \.txt"):
        load_tomogram(tmp_path / "a.txt")
    (tmp_path / "a.mrc").write_text("no volume")
    with pytest.raises(TomogramError, match="cannot be read as mrc"):
        load_tomogram(tmp_path / "a.mrc")
    (tmp_path / "b.h5").write_text("no volume")
    with pytest.raises(TomogramError, match="cannot be read as HDF5"):
        load_tomogram(tmp_path / "b.h5")
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["one"], file["two"] = volume, volume
    with pytest.raises(TomogramError, match="found 2 \\(one, two\\)"):
        load_tomogram(tmp_path / "two.h5")
    (tmp_path / "plain").mkdir()
    with pytest.raises(TomogramError, match="no zarr group"):
        open_tomogram(tmp_path / "plain")


def test_refuses_other_axes_and_voxels(tmp_path, volume):
    path = write_tomogram(tmp_path / "a.ome.zarr", volume, 0.1)
    group = zarr.open_group(path, mode="r+")
    good = dict(group.attrs)

    def spoil(change):
        import copy

        attributes = copy.deepcopy(good)
        change(attributes["ome"]["multiscales"][0])
        group.attrs.put(attributes)
        return open_tomogram(path)

    with pytest.raises(TomogramError, match="expected z, y, x"):
        spoil(lambda image: image["axes"].reverse())
    with pytest.raises(TomogramError, match="no common unit"):
        spoil(lambda image: [axis.pop("unit") for axis in image["axes"]])
    with pytest.raises(TomogramError, match="not cubes"):
        spoil(lambda image: image["datasets"][0]["coordinateTransformations"][0].update(scale=[0.1, 0.1, 0.2]))
    assert open_tomogram(path, voxel_nm=0.5).voxel_nm == 0.5  # as the message says
    with pytest.raises(TomogramError, match="three axes"):
        TomogramWriter(path, (3, 0, 3), 0.1)
    for depth in (0, 3, 128):
        with pytest.raises(TomogramError, match="power of 2 up to 64"):
            TomogramWriter(path, (3, 3, 3), 0.1, depth=depth)
    with pytest.raises(TomogramError, match="positive length"):
        TomogramWriter(path, (3, 3, 3), 0)
    with pytest.raises(TomogramError, match="does not fit"):  # noqa: SIM117
        with TomogramWriter(tmp_path / "c.ome.zarr", (3, 3, 3), 1) as writer:
            writer.write(2, np.zeros((2, 3, 3)))
