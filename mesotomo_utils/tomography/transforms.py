"""Which non-uniform FFT a device has."""

from __future__ import annotations

import importlib
import logging
from typing import Any

from mesotomo_utils.tomography.gridding_cpu import CpuGridding
from mesotomo_utils.tomography.gridding_gpu import GpuGridding

log = logging.getLogger(__name__)

TRANSFORMS = {"cpu": ("gridding", "finufft"), "cuda": ("cufinufft", "gridding")}
"""Non-uniform FFTs of each device, the preferred one first."""
_OURS = {"cpu": CpuGridding, "cuda": GpuGridding}


def load_transforms(device: str, wanted: str | None = None) -> tuple[str, Any]:
    """Load the library of the non-uniform FFT of a device.

    Parameters
    ----------
    device
        ``"cpu"`` or ``"cuda"``.
    wanted
        One of :data:`TRANSFORMS`. If left out it is :mod:`~mesotomo_utils.tomography.gridding`; but on a GPU it is
        cufinufft where that can be loaded, and the log says where not.

    Returns
    -------
    name, library
        The library's module; for ``"gridding"`` the class of the device.

    Raises
    ------
    ValueError
        The device has no such transforms.
    RuntimeError
        They cannot be loaded.
    """
    known = TRANSFORMS[device]
    if wanted is not None and wanted not in known:
        raise ValueError(f"transforms on {device!r} must be one of {', '.join(known)}, not {wanted!r}")
    name = wanted or known[0]
    if name == "gridding":
        return name, _OURS[device]
    try:
        return name, importlib.import_module(name)
    except ImportError as error:
        if wanted is None and device == "cuda":
            log.info("cufinufft cannot be loaded (%s): the transforms run on the GPU kernels of our own", error)
            return "gridding", _OURS[device]
        mend = f"pip install {name}" + (", or leave transforms out" if device == "cuda" else "")
        raise RuntimeError(f"{name} is not installed or cannot be loaded ({error}): {mend}") from error
