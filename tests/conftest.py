"""What several tests share."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cupy_on_cpu
import pytest

from mesotomo_utils import backend

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest goes first: begun in the middle, it leaves the other worker idle at the end."""
    items.sort(key=lambda item: item.path.name != "test_full_run.py")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that needs a GPU says why it could not run; it never passes without one."""
    if item.get_closest_marker("gpu"):
        try:
            backend.resolve_device("cuda")
        except RuntimeError as error:
            pytest.skip(str(error))


CRASHED = pytest.StashKey[bool]()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object, error: object) -> None:
    """Remember that a worker of pytest-xdist has crashed."""
    if error:
        node.config.stash[CRASHED] = True


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where workers crashed before their tests began: xdist reports success then (pytest-xdist#814)."""
    if session.config.stash.get(CRASHED, False) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def make_would_run(repository: Path) -> Callable[[str], list[str]]:
    """What make says that it would run for a target, line by line, as if nothing had been made yet."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")

    def dry_run(target: str) -> list[str]:
        command = ["make", "-nB", "--no-print-directory", target]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=repository).stdout.splitlines()

    return dry_run


@pytest.fixture
def write_sample(tmp_path: Path) -> Callable[..., Path]:
    """Write a sample file, and a table of three centres for it to name."""

    def write(text: str = "name: dots\ncentres: centres.csv\n", name: str = "sample.yaml") -> Path:
        (tmp_path / "centres.csv").write_text("x_nm,y_nm,z_nm\n0,0,0\n6,0,0\n0,6,0\n")
        file = tmp_path / name
        file.write_text(text)
        return file

    return write


@pytest.fixture(scope="session")
def load_benchmark(repository: Path) -> Callable[[str], ModuleType]:
    """Import a program of benchmarks/ by its name, without running it."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, repository / "benchmarks" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(params=["gridding", "cufinufft"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """CuPy on the CPU in place of CuPy, with cufinufft and without."""
    if request.param == "gridding" and cupy_on_cpu.COMPILER is None:
        pytest.skip("no C compiler (cc) is installed")
    for name, module in cupy_on_cpu.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    library = SimpleNamespace(Plan=cupy_on_cpu.CufinufftPlan) if request.param == "cufinufft" else None
    monkeypatch.setitem(sys.modules, "cufinufft", library)
    cupy = sys.modules["cupy"]
    cupy.state.transforms = request.param
    return cupy


@pytest.fixture(params=["gridding", "cufinufft"])
def real_gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """CuPy itself, with cufinufft and without."""
    if request.param == "cufinufft":
        pytest.importorskip("cufinufft", reason="cufinufft cannot be loaded", exc_type=ImportError)
    else:
        monkeypatch.setitem(sys.modules, "cufinufft", None)
    return pytest.importorskip("cupy")
