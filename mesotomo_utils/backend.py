"""One array module: numpy on the CPU, CuPy on the GPU.

Numerical functions ask their own arrays where they live (:func:`get_array_module`); only the edges
of a pipeline move data, with :func:`to_device` and :func:`to_numpy`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType
from typing import Any

import numpy as np

DEVICES = ("auto", "cpu", "cuda")


def _cuda_problem() -> str | None:
    """Why CUDA cannot be used here, or None where it can."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed; `pip install 'mesotomo[gpu]'` adds it"
    cupy = importlib.import_module("cupy")
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"CuPy finds no usable GPU ({error}); check `nvidia-smi`"
    return None if count else "CuPy finds no GPU; check `nvidia-smi`"


def resolve_device(device: str = "auto") -> str:
    """Turn a requested device into the one that will be used.

    Parameters
    ----------
    device
        ``"cpu"``, ``"cuda"``, or ``"auto"`` (CUDA where it works, else the CPU).

    Returns
    -------
    ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    ValueError
        The name is none of the three.
    RuntimeError
        ``"cuda"`` was asked for and cannot be had: nothing falls back without a word.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(DEVICES)}, not {device!r}")
    if device == "cpu":
        return "cpu"
    problem = _cuda_problem()
    if problem is None:
        return "cuda"
    if device == "cuda":
        raise RuntimeError(f"device 'cuda' was asked for, but {problem}; or use device 'cpu'")
    return "cpu"


def get_array_module(*arrays: Any) -> ModuleType:
    """Return the module that owns the arrays: ``cupy`` if any is a CuPy array, else ``numpy``."""
    if any(type(array).__module__.partition(".")[0] == "cupy" for array in arrays):
        return importlib.import_module("cupy")
    return np


def to_device(array: Any, device: str) -> Any:
    """Return the array on the device (``"cpu"`` or ``"cuda"``); no copy where it is there."""
    if resolve_device(device) == "cuda":
        return importlib.import_module("cupy").asarray(array)
    return to_numpy(array)


def to_numpy(array: Any) -> np.ndarray:
    """Return the array as numpy, copied from the GPU where it lives there."""
    return array.get() if get_array_module(array) is not np else np.asarray(array)


def fft_module(xp: ModuleType) -> ModuleType:
    """Return the FFT module of an array module: ``scipy.fft`` or ``cupyx.scipy.fft``."""
    return importlib.import_module("scipy.fft" if xp is np else "cupyx.scipy.fft")


def free_memory() -> int:
    """Bytes that arrays on the GPU can still take: free on the device or in CuPy's pool, within the pool's limit."""
    cupy = importlib.import_module("cupy")
    pool = cupy.get_default_memory_pool()
    free = cupy.cuda.runtime.memGetInfo()[0] + pool.free_bytes()
    limit = pool.get_limit()
    return min(free, limit - pool.used_bytes()) if limit else free


def is_memory_short(error: Exception) -> bool:
    """Whether an error says that memory ran out: CuPy's and cuFFT's do, cufinufft's only name the step that failed."""
    steps = ("CUFFT_ALLOC_FAILED", "Error creating plan", "Error setting non-uniform points", "Error executing plan")
    return isinstance(error, MemoryError) or any(step in str(error) for step in steps)


def release_memory() -> None:
    """Return to the GPU what CuPy holds without need: kept plans of transforms and unused blocks of its pool."""
    cupy = importlib.import_module("cupy")
    cupy.fft.config.get_plan_cache().clear()
    cupy.get_default_memory_pool().free_all_blocks()


def cpu_count() -> int:
    """Return the number of cores this process may run on (not those of the whole machine)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
