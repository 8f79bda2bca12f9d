"""What several tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mesotomo_utils import backend

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test that needs a GPU says why it could not run; it never passes without one."""
    if item.get_closest_marker("gpu"):
        try:
            backend.resolve_device("cuda")
        except RuntimeError as error:
            pytest.skip(str(error))


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the repository."""
    return REPOSITORY


@pytest.fixture
def write_sample(tmp_path: Path) -> Callable[..., Path]:
    """Write a sample file, and a table of three centres for it to name."""

    def write(text: str = "name: dots\ncentres: centres.csv\n", name: str = "sample.yaml") -> Path:
        (tmp_path / "centres.csv").write_text("x_nm,y_nm,z_nm\n0,0,0\n6,0,0\n0,6,0\n")
        file = tmp_path / name
        file.write_text(text)
        return file

    return write
