"""As much of CuPy as projector and mapping use, on the CPU, for tests on machines without a GPU.

Arrays are numpy's under another name that, like CuPy's, refuse to meet a plain numpy array. ``RawKernel`` has the C
compiler build the very source a GPU would get, and runs its threads one after the other. It shows that indices,
weights, the order of arguments and the way of the arrays are right, and nothing about races, speed or the driver.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import finufft
import numpy as np
import scipy.fft

from mesotomo_utils.tomography.gridding_cpu import CpuGridding
from mesotomo_utils.tomography.gridding_gpu import GpuGridding

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")

SHIM = """
struct index { unsigned x, y, z; };
static struct index blockIdx, threadIdx, blockDim;
#define __global__ static
"""


class DeviceArray(np.ndarray):
    """An array "on the GPU"."""

    __module__ = "cupy"

    def get(self):
        return np.array(self.view(np.ndarray))

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        if out is not None:
            options["out"] = tuple(_host(array) for array in out)
        result = getattr(ufunc, method)(*(_host(value) for value in inputs), **options)
        return out[0] if out is not None else _device(result)

    def __array_function__(self, function, types, args, options):
        return _wrap(function)(*args, **options)

    def __getitem__(self, key):
        return super().__getitem__(_host(key))

    def __setitem__(self, key, value):
        super().__setitem__(_host(key), _host(value))

    @property
    def real(self):
        return self.view(np.ndarray).real.view(DeviceArray)

    @real.setter
    def real(self, value):
        self.view(np.ndarray).real = _host(value)

    @property
    def imag(self):
        return self.view(np.ndarray).imag.view(DeviceArray)

    @imag.setter
    def imag(self, value):
        self.view(np.ndarray).imag = _host(value)


class OutOfMemoryError(MemoryError):
    """As ``cupy.cuda.memory.OutOfMemoryError``."""


class CUDARuntimeError(RuntimeError):
    """As ``cupy.cuda.runtime.CUDARuntimeError``."""


class CompileException(Exception):
    """As ``cupy.cuda.compiler.CompileException``."""


class RawKernel:
    """As ``cupy.RawKernel``, through the C compiler."""

    def __init__(self, code: str, name: str, options: tuple[str, ...] = ()) -> None:
        self.code, self.name, self.options = code, name, options

    def compile(self) -> None:
        self._run, self._parameters = _compiled(self.code, self.name, self.options)

    def __call__(self, grid, block, arguments) -> None:
        if not hasattr(self, "_run"):
            self.compile()
        assert np.prod(block) <= 1024
        assert len(arguments) == len(self._parameters)
        values = []
        for parameter, argument in zip(self._parameters, arguments, strict=True):
            if "*" in parameter:
                expected = np.int32 if "int" in parameter else None
                assert type(argument) is DeviceArray
                assert argument.flags.c_contiguous
                assert expected is None or argument.dtype == expected
                values.append(ctypes.c_void_p(argument.ctypes.data))
            else:
                assert type(argument) is np.int32  # a Python int would be passed as 8 bytes
                values.append(ctypes.c_int(int(argument)))
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        self._run(grid[0], *block, pointers)


@functools.cache
def _compiled(code: str, name: str, options: tuple[str, ...]):
    """The kernel as a C function that runs a whole launch, and the C types of its parameters."""
    signature = re.search(rf"__global__ void {name}\(([^)]*)\)", code)[1]
    parameters = [" ".join(text.split()[:-1]) + "*" * text.count("*") for text in signature.split(",")]
    casts = [f"*({'void *' if '*' in text else 'int'} *)a[{i}]" for i, text in enumerate(parameters)]
    driver = f"""
void run(unsigned grid, unsigned x, unsigned y, void **a) {{
    blockDim.x = x; blockDim.y = y;
    for (blockIdx.x = 0; blockIdx.x < grid; ++blockIdx.x)
        for (threadIdx.y = 0; threadIdx.y < y; ++threadIdx.y)
            for (threadIdx.x = 0; threadIdx.x < x; ++threadIdx.x) {name}({", ".join(casts)});
}}
"""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "kernel.c"), Path(folder, "kernel.so")
        source.write_text(SHIM + code + driver)
        command = [COMPILER, "-O2", "-w", "-shared", "-fPIC", *options, "-o", str(library), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CompileException(done.stderr)
        return ctypes.CDLL(str(library)).run, parameters


def modules() -> dict[str, ModuleType]:
    """What belongs into ``sys.modules``.

    ``cupy.state`` says how many bytes the GPU calls free and the largest array that it makes; it counts the
    arrays refused and the times that memory was given back.
    """
    state = SimpleNamespace(free=10**9, largest=10**9, refused=0, released=0)

    def allocated(function):
        def allocate(*args, **options):
            result = np.asarray(function(*args, **options))
            if result.nbytes > state.largest:
                state.refused += 1
                raise OutOfMemoryError(f"Out of memory allocating {result.nbytes} bytes")
            return result.view(DeviceArray)

        return allocate

    def released():
        state.released += 1

    class CuPy(ModuleType):
        def __getattr__(self, name):
            return _wrap(getattr(np, name))

    cupy = CuPy("cupy")
    cupy.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
    cupy.state = state
    cupy.RawKernel = RawKernel
    for name in ("asarray", "empty", "zeros", "ones"):
        setattr(cupy, name, allocated(getattr(np, name)))
    pool = SimpleNamespace(free_bytes=lambda: 0, used_bytes=lambda: 0, get_limit=lambda: 0, free_all_blocks=released)
    cupy.get_default_memory_pool = lambda: pool
    cupy.fft = SimpleNamespace(config=SimpleNamespace(get_plan_cache=lambda: SimpleNamespace(clear=released)))
    cupy.cuda = SimpleNamespace(
        compiler=SimpleNamespace(CompileException=CompileException),
        runtime=SimpleNamespace(
            getDeviceCount=lambda: 1,
            memGetInfo=lambda: (state.free, state.free),
            CUDARuntimeError=CUDARuntimeError,
        ),
    )
    transforms = ModuleType("cupyx.scipy.fft")
    for name in ("fft", "ifft", "rfft", "fft2", "ifft2", "rfftn", "irfftn"):
        setattr(transforms, name, _transform(getattr(scipy.fft, name)))
    found = {"cupy": cupy, "cupyx.scipy.fft": transforms}
    return {**found, **{name: ModuleType(name) for name in ("cupyx", "cupyx.scipy")}}


class PlainGridding(CpuGridding):
    """The CPU's loops with the grid and the windows of the GPU's kernels."""

    FINENESS, MARGIN = GpuGridding.FINENESS, GpuGridding.MARGIN


class CufinufftPlan:
    """As ``cufinufft.Plan``: finufft for arrays of the device, without the CPU's options."""

    def __init__(self, nufft_type, n_modes, n_trans=1, eps=1e-6, isign=None, dtype="complex64"):
        self._dtype = np.dtype(dtype)
        self._plan = finufft.Plan(nufft_type, n_modes, n_trans, eps, isign, dtype=dtype, nthreads=1)

    def setpts(self, x, y):
        for points in (x, y):
            assert type(points) is DeviceArray
            assert points.dtype == np.empty(0, self._dtype).real.dtype
        self._plan.setpts(x.view(np.ndarray), y.view(np.ndarray))

    def execute(self, data):
        assert type(data) is DeviceArray
        assert data.dtype == self._dtype
        return self._plan.execute(data.view(np.ndarray)).view(DeviceArray)


def _transform(function):
    # the arguments of cupyx.scipy.fft, which knows no workers
    def transform(x, n=None, axis=None, norm=None, overwrite_x=False, *, axes=None, plan=None):
        assert type(x) is DeviceArray
        options = {"n": n, "axis": axis} if axes is None else {"axes": axes}
        if function.__name__.endswith("n"):
            options = {"s": n, "axes": axes}
        return function(x.view(np.ndarray), norm=norm, overwrite_x=overwrite_x, **options).view(DeviceArray)

    return transform


def _wrap(function):
    if not callable(function) or isinstance(function, type):
        return function

    def call(*args, **options):
        given = options.pop("out", None)
        if given is not None:
            options["out"] = _host(given)
        result = function(*(_host(value) for value in args), **options)
        return given if given is not None else _device(result)

    return call


def _host(value):
    """What the device may see, as numpy: its own arrays and scalars."""
    if isinstance(value, list | tuple):
        return type(value)(_host(item) for item in value)
    if isinstance(value, DeviceArray):
        return value.view(np.ndarray)
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    return value


def _device(value):
    return np.asarray(value).view(DeviceArray) if isinstance(value, np.ndarray | np.generic) else value
