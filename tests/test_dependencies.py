"""The three lists of dependencies agree, and hold no address."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parents[1]

# what conda-forge calls by another name, or has as packages where PyPI has extras
CONDA_NAMES = {"rosettasciio": "rosettasciio-base", "matplotlib": "matplotlib-base"}
CONDA_EXTRAS = {"rosettasciio": {"h5py", "tifffile", "imagecodecs"}, "imageio": {"imageio-ffmpeg"}}
CONDA_ONLY = {"python", "pip", "tomopy"}
# by the extra of the package that names them
EXTRA = dict.fromkeys(("hatchling", "editables", "pytest", "pytest-xdist"), "dev") | {
    "jupyterlab": "lab",
    "dask": "dask",
}
# the recipe of TomoPy 1.15.3
TOMOPY = ("numpy>=2", "scikit-image<0.26", "tifffile<2025.2.18", "scipy<2")


def project() -> dict:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def required() -> dict[str, Requirement]:
    found = [Requirement(text) for text in project()["dependencies"]]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def environment() -> dict[str, SpecifierSet]:
    lines = yaml.safe_load((REPOSITORY / "environment.yml").read_text())["dependencies"]
    found = {}
    for line in lines:
        name, _, bound = line.partition(" ")
        exact = re.fullmatch(r"=(\S+)", bound)
        found[name] = SpecifierSet(f"=={exact[1]}" if exact else bound)
    return found


def lowest(specifier: SpecifierSet) -> Version | None:
    bounds = [Version(item.version) for item in specifier if item.operator == ">="]
    return max(bounds, default=None)


def test_environment_and_package_name_the_same_dependencies() -> None:
    expected = {CONDA_NAMES.get(name, name) for name in required()}
    expected |= {extra for name in required() for extra in CONDA_EXTRAS.get(name, ())}
    assert set(environment()) - CONDA_ONLY - set(EXTRA) == expected


def test_environment_and_package_have_the_same_lower_bounds() -> None:
    conda = environment()
    for name, requirement in required().items():
        assert lowest(conda[CONDA_NAMES.get(name, name)]) == lowest(requirement.specifier), name
    assert lowest(conda["python"]) == lowest(SpecifierSet(project()["requires-python"]))
    for name, extra in EXTRA.items():
        named = [Requirement(text) for text in project()["optional-dependencies"][extra]]
        assert [lowest(conda[name])] == [lowest(one.specifier) for one in named if one.name == name], name


def test_the_environment_keeps_the_bounds_of_tomopy_and_the_package_allows_them() -> None:
    conda = environment()
    assert conda["tomopy"] == SpecifierSet("==1.15.3")
    assert not conda["scikit-image"].contains("0.26.0")
    assert not conda["tifffile"].contains("2025.2.18")
    assert not conda["scipy"].contains("2.0")
    assert required()["scikit-image"].specifier.contains("0.25.2")
    assert required()["scikit-image"].specifier.contains("0.26.0")


def test_rosettasciio_comes_without_its_zspy_extra() -> None:
    assert required()["rosettasciio"].extras == {"hdf5", "tiff"}


def lock() -> dict[str, str]:
    text = (REPOSITORY / "requirements.lock").read_text()
    return {
        canonicalize_name(name): version for name, version in re.findall(r"^([\w.\[\],-]+?)==([^\s;]+)", text, re.M)
    }


def test_the_lock_pins_every_dependency_with_hashes_and_holds_no_address() -> None:
    text = (REPOSITORY / "requirements.lock").read_text()
    assert "://" not in text
    assert "--index-url" not in text
    assert "--find-links" not in text
    entries = re.split(r"\n(?=\S)", text.strip())
    for entry in entries:
        assert re.match(r"[\w.\[\],-]+==\S+", entry), entry[:80]
        assert "--hash=sha256:" in entry, entry[:80]
    pinned = {name.split("[")[0]: version for name, version in lock().items()}
    extras = project()["optional-dependencies"]
    wanted = [*project()["dependencies"], *extras["lab"], *extras["dask"], *extras["dev"]]
    for requirement in map(Requirement, wanted):
        name = canonicalize_name(requirement.name)
        assert requirement.specifier.contains(pinned[name]), requirement


def tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("this is no git checkout: the files of the tree are not known")
    return [REPOSITORY / name for name in listed.stdout.splitlines()]


def test_no_file_names_a_host_of_packages() -> None:
    # put together here, so that this file does not name them either
    hosts = [
        f"{a}.{b}" for a, b in (("pypi", "org"), ("pythonhosted", "org"), ("anaconda", "org"), ("conda", "anaconda"))
    ]
    for file in tracked():
        if file.is_file() and file.stat().st_size < 2_000_000:
            text = file.read_bytes().decode("utf-8", errors="ignore")
            assert not [host for host in hosts if host in text], file


def uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if not found:
        pytest.skip("uv is not installed: the resolution was not tried")
    return found


@pytest.mark.slow
def test_the_dependencies_resolve_under_the_bounds_of_tomopy(tmp_path: Path) -> None:
    wanted = tmp_path / "wanted.in"
    wanted.write_text("\n".join([*project()["dependencies"], *TOMOPY]) + "\n")
    command = [
        uv(),
        "pip",
        "compile",
        "--quiet",
        "--no-header",
        "--no-annotate",
        "--python-version",
        "3.11",
        str(wanted),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    offline = ("dns error", "error sending request", "Failed to fetch", "Could not connect", "offline")
    if done.returncode and any(sign in done.stderr for sign in offline):
        pytest.skip("no package index is reached: the resolution was not tried")
    assert done.returncode == 0, done.stderr
    resolved = dict(re.findall(r"^([\w.-]+)(?:\[[^\]]*\])?==(\S+)", done.stdout, re.M))
    for name, requirement in required().items():
        assert requirement.specifier.contains(resolved[name]), name
    for bound in map(Requirement, TOMOPY):
        assert bound.specifier.contains(resolved[bound.name]), bound
