"""What this machine has, what it lacks, and the line that installs it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata

PACKAGES = (
    *("mesotomo", "numpy", "scipy", "pandas", "scikit-image", "finufft", "orix", "zarr"),
    *("rosettasciio", "papermill", "jupytext", "pyvista", "vtk", "matplotlib"),
)
EGL_MEND = (
    "apt-get install libegl1 libgl1-mesa-dri (Debian, Ubuntu) or "
    "conda install -c conda-forge mesalib libegl; until then 04 draws with matplotlib"
)
OPTIONAL = {
    "cupy": "pip install 'mesotomo[gpu]' for NVIDIA GPUs",
    "astra": "pip install 'mesotomo[peers]' for the comparison with ASTRA",
    "tomopy": "conda env create -f environment.yml, the one place that has TomoPy",
    "distributed": "pip install 'mesotomo[dask]' for --dask",
    "jupyterlab": "pip install 'mesotomo[lab]' for make lab",
}


@dataclass(frozen=True)
class Finding:
    """One line of ``mesotomo doctor``; `mend` is empty where nothing is missing."""

    name: str
    found: str
    mend: str = ""


def examine() -> list[Finding]:
    """Look at the machine; nothing is changed and nothing is downloaded."""
    from mesotomo_utils.backend import cpu_count

    findings = [_python(), Finding("cores", str(cpu_count())), _memory()]
    findings += [_version(name) for name in PACKAGES]
    findings += [_rendering(), _gpu()]
    for module, mend in OPTIONAL.items():
        here = importlib.util.find_spec(module) is not None
        findings.append(Finding(module, "installed") if here else Finding(module, "optional, absent", mend))
    return findings


def _python() -> Finding:
    version = platform.python_version()
    known = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Finding("python", version, "" if known else "tested with Python 3.11 to 3.13; make setup PYTHON=python3.13")


def _version(name: str) -> Finding:
    try:
        return Finding(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, "missing", "make setup")


def available_memory_gb() -> float | None:
    """Memory that is free for a run, GB; None where the system does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:
            for line in stream:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) / 1e6
    except OSError:
        pass
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    return None


def _memory() -> Finding:
    free = available_memory_gb()
    if free is None:
        return Finding("memory", "unknown")
    return Finding("memory", f"{free:.1f} GB free", "" if free >= 4 else "close other programs; small needs about 4 GB")


def _rendering() -> Finding:
    from mesotomo_utils.visualization.glyphs import rendering_works

    if rendering_works():
        return Finding("3D rendering", "works off screen")
    return Finding("3D rendering", "no EGL", EGL_MEND)


def _gpu() -> Finding:
    if shutil.which("nvidia-smi") is None:
        return Finding("GPU", "none, everything runs on the CPU")
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    asked = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    names = asked.stdout.strip().replace("\n", "; ")
    if not names:
        return Finding("GPU", "nvidia-smi finds none", "check the driver")
    mend = "" if importlib.util.find_spec("cupy") else OPTIONAL["cupy"]
    return Finding("GPU", names, mend)
