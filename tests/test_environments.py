"""What the Makefile does so that processes of one environment can work at once, and a crash of them is not missed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("target", "environment"), [("setup", ".venv"), ("test-oldest", ".venv-oldest"), ("bench", ".venv-bench")]
)
def test_one_process_compiles_orix_before_the_environment_is_ready(
    target: str, environment: str, make_would_run: Callable[[str], list[str]]
) -> None:
    lines = make_would_run(target)
    compiled, ready, installed = (
        max(n for n, line in enumerate(lines) if f"{environment}/" in line and text in line)
        for text in ("orix", ".ready", "-e .")
    )
    assert installed < compiled < ready


def test_everything_is_compiled_that_orix_leaves_in_a_cache_two_processes_could_spoil(
    make_would_run: Callable[[str], list[str]],
) -> None:
    _, program = next(line for line in make_would_run("setup") if "orix" in line).split(" -c ")
    environment = os.environ | {"NUMBA_DEBUG_CACHE": "1"}  # numba names what it takes from its cache or puts there
    command = [sys.executable, "-c", program.strip("'")]
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    from orix.quaternion import quaternion

    universal = {name for name in vars(quaternion) if name.endswith("_gufunc")}
    cached = set(re.findall(r"data (?:loaded from|saved to) .*guf-quaternion\.(\w+)", done.stdout))
    assert universal
    assert cached == universal


def test_what_python_compiles_is_kept(repository: Path, tmp_path: Path) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    probe = tmp_path / "Makefile"
    probe.write_text(f"include {repository / 'Makefile'}\nprobe: ; @{sys.executable} -c 'import probed'\n")
    (tmp_path / "probed.py").touch()
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tmp_path)}
    subprocess.run(["make", "probe"], check=True, env=environment, cwd=tmp_path, capture_output=True)
    assert list((tmp_path / "__pycache__").glob("probed*.pyc"))


@pytest.mark.slow
def test_a_worker_that_crashes_before_its_tests_is_a_failure(repository: Path, tmp_path: Path) -> None:
    pytest.importorskip("xdist")
    shutil.copy(repository / "tests" / "conftest.py", tmp_path)
    # one of two workers gets through its collection: of that xdist makes a success, by pytest-xdist#814
    (tmp_path / "test_crash.py").write_text(
        "import os\nif os.environ['PYTEST_XDIST_WORKER'] != 'gw0':\n    os._exit(1)\ndef test_passes(): pass\n"
    )
    environment = os.environ | {"PYTHONPATH": str(repository / "tests")}
    environment.pop("PYTEST_XDIST_WORKER", None)
    run = [sys.executable, "-m", "pytest", "-n", "2", "--max-worker-restart", "1", "--rootdir", str(tmp_path)]
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "no tests ran" in done.stdout
    assert done.returncode != 0, done.stdout
