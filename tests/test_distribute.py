"""Threads and a Dask cluster give the same; a worker or a whole run that is killed costs time and nothing else."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from pandas.testing import assert_frame_equal
from threadpoolctl import threadpool_info, threadpool_limits

from mesotomo_utils import distribute
from mesotomo_utils.lattice import cell_matrix
from mesotomo_utils.mapping import centre_errors, centre_fits, centres, necks, sampling, superlattice, template
from mesotomo_utils.mapping.model_film import model_film
from mesotomo_utils.tomography import reconstruction
from mesotomo_utils.tomography.reconstruction import reconstruct
from mesotomo_utils.tomography.tilt_series import TiltSeries
from mesotomo_utils.tomography.tomogram import TomogramError, load_tomogram, open_tomogram, write_tomogram

SIZE, SLICES = 40, 56


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes of one thread; one that dies is started again."""
    distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster
        with distributed.Client(cluster, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)  # closed while it starts one again, the oldest versions hang


@pytest.fixture(scope="module")
def address(cluster):
    return cluster.scheduler_address


@pytest.fixture(scope="module")
def series():
    return make_series()


def make_series() -> TiltSeries:
    images = np.random.default_rng(3).random((20, SLICES, SIZE), dtype=np.float32)
    return TiltSeries(images=images, angles_deg=np.arange(-90, 90, 9.0), pixel_nm=0.2, name="noise")


def close(found, wanted) -> bool:
    return np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


# ------------------------------------------------------------------ items


def test_blas_keeps_to_one_thread_while_items_have_a_core_each():
    def limits() -> set[int]:
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    def inner(_):
        distribute.map_items(lambda _: None, range(2), workers=2)  # its end does not lift the limit of the outer
        return limits()

    with threadpool_limits(2, user_api="blas"):
        for workers in (1, 2):
            assert all(found == {1} for found in distribute.map_items(inner, range(3), workers=workers))
        assert limits() == {2}
        with pytest.raises(ZeroDivisionError):
            distribute.map_items(lambda item: 1 / item, [1, 0], workers=2)
        assert limits() == {2}


def test_threads_keep_the_order_and_raise_the_first_failure():
    def late(item):
        time.sleep(0.05 if item == 0 else 0)
        return item**2

    def fails(item):
        if item in (1, 3):
            time.sleep(0.1 if item == 1 else 0)
            raise ValueError(f"item {item}")
        return item

    for workers in (1, 4):
        assert distribute.map_items(late, range(9), workers=workers) == [n**2 for n in range(9)]
        with pytest.raises(ValueError, match="item 1"):
            distribute.map_items(fails, range(9), workers=workers)
    assert distribute.map_items(late, []) == []


def test_only_some_items_are_under_way():
    class Done:
        def __init__(self, item):
            self.item = item
            under_way.add(item)
            most.append(len(under_way))

        def result(self):
            under_way.discard(self.item)
            return self.item

        def cancel(self):
            cancelled.append(self.item)

    under_way, most, cancelled = set(), [], []
    results = distribute._in_order(Done, range(10), 3)
    assert [next(results) for _ in range(5)] == list(range(5))
    assert max(most) == 3
    results.close()  # as an interrupt does
    assert cancelled == [5, 6, 7][: len(cancelled)]
    assert cancelled


def test_a_cluster_gives_the_same_in_order(address, capsys):
    def where(item):
        time.sleep(0.02)
        return item**2, os.getpid()

    squares, processes = zip(*distribute.map_items(where, range(20), dask=address, progress="squares"), strict=True)
    assert list(squares) == [n**2 for n in range(20)]
    assert len(set(processes)) == 2
    assert os.getpid() not in processes
    assert "squares" in capsys.readouterr().out

    def fails(item):
        if item in (1, 3):
            time.sleep(0.2 if item == 1 else 0)
            raise ValueError(f"item {item}")
        return item

    with pytest.raises(ValueError, match="item 1"):
        distribute.map_items(fails, range(9), dask=address)


def test_a_worker_killed_midway_costs_only_time(address, tmp_path):
    def once(item):
        mark = tmp_path / "killed"
        if item == 4 and not mark.exists():
            mark.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return item, os.getpid()

    found, processes = zip(*distribute.map_items(once, range(12), dask=address), strict=True)
    assert list(found) == list(range(12))
    assert int((tmp_path / "killed").read_text()) != processes[4]


def test_what_is_missing_is_named(monkeypatch):
    distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
    monkeypatch.setattr(distribute, "_CONNECT_S", 0.3)
    monkeypatch.setattr(distribute, "_WORKERS_S", 0.3)
    for nowhere in ("tcp://127.0.0.1:9", "nothing://at.all"):
        with pytest.raises(RuntimeError, match=f"no Dask scheduler answers at '{nowhere}'"):
            distribute.map_items(abs, [1], dask=nowhere)
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=None) as empty,
        pytest.raises(RuntimeError, match="has no worker; start `dask worker"),
    ):
        distribute.map_items(abs, [1], dask=empty.scheduler_address)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(RuntimeError, match=r"pip install 'mesotomo\[dask\]'"):
        distribute.map_items(abs, [1], dask="tcp://127.0.0.1:9")


# ------------------------------------------------------------------ slabs


@pytest.mark.parametrize("method", ["fbp", "cgls"])
def test_slabs_on_a_cluster_have_the_same_voxels(series, address, tmp_path, monkeypatch, method):
    options = {"method": method, "iterations": 4, "device": "cpu"}
    whole = reconstruct(series, **options)
    assert close(reconstruct(series, dask=address, slab=(4, 50), **options), whole[4:50])
    # relative, from another folder than the workers'
    monkeypatch.chdir(tmp_path)
    assert reconstruct(series, dask=address, out="a.ome.zarr", **options) == Path("a.ome.zarr")
    tomogram = open_tomogram("a.ome.zarr")
    assert close(tomogram.load(), whole)
    assert tomogram.attributes["device"] == "cpu"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ome.zarr"]


def test_a_cluster_without_the_engine_says_so(series, address):
    with pytest.raises(RuntimeError, match="'tomopy' is not installed"):
        reconstruct(series, engine="tomopy", device="cpu", dask=address)


def test_a_worker_killed_in_a_reconstruction(series, cluster, address, tmp_path):
    path = tmp_path / "a.ome.zarr"
    options = {"method": "sirt", "iterations": 150, "device": "cpu"}
    found = threading.Thread(target=reconstruct, args=(series,), kwargs={**options, "out": path, "dask": address})
    found.start()
    wait_for_a_slab(path)
    victim = next(iter(cluster.workers.values())).pid
    os.kill(victim, signal.SIGKILL)
    assert not path.exists()
    found.join()
    assert close(open_tomogram(path).load(), reconstruct(series, **options))
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.ome.zarr"]


# ------------------------------------------------------------------ killed and taken up


def wait_for_a_slab(path: Path) -> None:
    """Until a slab has its mark, and the mark its text: that comes a little later."""
    marks = path.with_name(f".{path.name}.partial") / "finished"
    until = time.monotonic() + 60
    while not any(mark.read_text() for mark in marks.glob("[0-9]*")):
        assert time.monotonic() < until
        time.sleep(0.005)


LONG = {"method": "sirt", "iterations": 200, "device": "cpu"}
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import test_distribute as here
here.reconstruct(here.make_series(), out=sys.argv[2], **here.LONG)
"""


@pytest.fixture
def killed(tmp_path):
    """A reconstruction over an older tomogram, killed when its first slab was written."""
    path = write_tomogram(tmp_path / "a.ome.zarr", np.arange(27.0).reshape(3, 3, 3), 1.0)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(path)])
    wait_for_a_slab(path)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    return path


def test_a_killed_run_leaves_the_old_tomogram_and_goes_on(series, killed, monkeypatch):
    assert np.array_equal(load_tomogram(killed)[0], np.arange(27.0).reshape(3, 3, 3))
    partial = killed.with_name(f".{killed.name}.partial")
    for read in (open_tomogram, load_tomogram):
        with pytest.raises(TomogramError, match="half-written"):
            read(partial)
    # a mark that the kill has cut off, empty, counts for nothing
    kept = {int(mark.name) for mark in (partial / "finished").glob("[0-9]*") if mark.read_text()}

    done, run = [], reconstruction._Job.__call__
    monkeypatch.setattr(reconstruction._Job, "__call__", lambda job, slab: (done.append(slab[0]), run(job, slab))[1])
    reconstruct(series, out=killed, **LONG)
    assert kept
    assert kept | set(done) == set(range(0, SLICES, 16))
    assert not kept & set(done)
    assert close(open_tomogram(killed).load(), reconstruct(series, **LONG))
    assert [entry.name for entry in killed.parent.iterdir()] == ["a.ome.zarr"]


def test_slabs_of_other_images_or_settings_are_not_taken_up(series, killed, monkeypatch):
    images = series.images.copy()
    images[3, :, 20] += 1  # in every slab
    other = TiltSeries(images=images, angles_deg=series.angles_deg, pixel_nm=series.pixel_nm, name="other")
    reconstruct(other, out=killed, **LONG)
    assert close(open_tomogram(killed).load(), reconstruct(other, **LONG))

    def stop(*_):
        raise KeyboardInterrupt

    few = {**LONG, "iterations": 2}
    monkeypatch.setattr(reconstruction.backend, "cpu_count", lambda: 1)
    with monkeypatch.context() as patch:
        run = reconstruction._Job.__call__
        patch.setattr(reconstruction._Job, "__call__", lambda job, slab: run(job, slab) if slab[0] < 32 else stop())
        with pytest.raises(KeyboardInterrupt):
            reconstruct(series, out=killed, **few)
    assert killed.with_name(f".{killed.name}.partial").exists()
    reconstruct(series, out=killed, **{**few, "iterations": 3})
    assert close(open_tomogram(killed).load(), reconstruct(series, **{**few, "iterations": 3}))


# ------------------------------------------------------------------ dots and necks


def test_a_cluster_finds_the_centres_and_necks_that_threads_find(address, tmp_path, monkeypatch):
    rng = np.random.default_rng(4)
    film = model_film(cell_matrix(6.2, 6.0, 5.8, 98, 95, 93), (3, 3, 2), edge_nm=4.9, voxel_nm=0.25, rng=rng)
    outside = np.arange(film.volume.shape[2]) > film.volume.shape[2] * 0.84
    film.volume[:, :, outside] = 0.0  # the needle's edge: some dots are recentred
    files = []
    for name in ("whole", "even", "odd"):
        noisy = film.volume + rng.normal(0, 0.05, film.volume.shape).astype(np.float32)
        files.append(open_tomogram(write_tomogram(tmp_path / f"{name}.ome.zarr", noisy, film.voxel_nm)))
    asked = []
    for module, name in ((centre_fits, "map_items"), (necks, "map_items"), (sampling, "each_item")):
        mapped = getattr(module, name)

        def spy(*args, _mapped=mapped, _module=module, **options):
            asked.append((_module, options.get("dask")))
            return _mapped(*args, **options)

        monkeypatch.setattr(module, name, spy)

    def measured(dask):
        images = [template.body_image(f.data, f.voxel_nm, diameter_nm=5.0, dask=dask) for f in files]
        table, mean = centres.find_centres(images[0], dask=dask)
        sigmas, _ = centre_errors.half_set_sigmas(table, *images[1:], mean, dask=dask)
        xyz = table[["x_nm", "y_nm", "z_nm"]].to_numpy()
        pairs = superlattice.neighbour_pairs(superlattice.index_superlattice(xyz))
        joints = necks.measure_necks(images[0], xyz, pairs, dask=dask)
        joints["sigma_nm"], _ = necks.neck_sigmas(joints, *images[1:], xyz, dask=dask)
        return table.join(sigmas), joints

    here = measured(None)
    assert here[0]["recentred"].any()
    assert len(here[1]) > 20
    assert {dask for _, dask in asked} == {None}
    asked.clear()
    there = measured(address)
    assert {dask for module, dask in asked if module is not sampling} == {address}, "all dots and pairs"
    assert asked.count((sampling, address)) == 3, "slabs of the three tomograms, not of what is in memory here"
    for ours, theirs in zip(here, there, strict=True):
        assert_frame_equal(theirs, ours, check_exact=False, rtol=0, atol=1e-6)


# ------------------------------------------------------------------ memory

# not ru_maxrss, which begins at the size of the process that started this one
MEASURE = """
import re, sys
from pathlib import Path
import finufft, scipy.fft, zarr
import numpy as np
from mesotomo_utils import backend
from mesotomo_utils.tomography.reconstruction import reconstruct
from mesotomo_utils.tomography.tilt_series import TiltSeries
def kilobytes(what):
    return int(re.search(rf"{what}:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
backend.cpu_count = lambda: 2
images = np.random.default_rng(0).random((60, 64, 512), dtype=np.float32)
series = TiltSeries(images=images, angles_deg=np.arange(0, 180, 3.0), pixel_nm=1.0, name="noise")
before = kilobytes("VmRSS")
reconstruct(series, method="cgls", iterations=2, device="cpu", memory=sys.argv[2] or None, out=sys.argv[1])
print(1024 * (kilobytes("VmHWM") - before))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_bounded_as_asked(tmp_path):
    taken, volumes = {}, {}
    for limit in ("", "170MB"):
        path = tmp_path / f"{limit}.ome.zarr"
        answer = subprocess.run(
            [sys.executable, "-c", MEASURE, str(path), limit], capture_output=True, text=True, check=True
        )
        taken[limit], volumes[limit] = int(answer.stdout), open_tomogram(path).load()
    assert taken["170MB"] < 170e6 < taken[""]
    assert close(volumes["170MB"], volumes[""])
