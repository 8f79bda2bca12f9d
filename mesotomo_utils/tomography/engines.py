"""Reconstruction of a slab by each engine: our Fourier-slice one, ASTRA, TomoPy.

Each takes a slab of aligned images ``[tilt, z, u]`` and returns slices ``[z, y, x]`` in image value per pixel, in
``out`` where that is given, with the conventions of :mod:`~mesotomo_utils.tomography.projector`. None falls back to
another: what is absent is an error that names the mend.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from itertools import islice
from types import ModuleType
from typing import Any

import numpy as np
from scipy.fft import irfft, rfft

from mesotomo_utils import backend
from mesotomo_utils.tomography.projector import Projector

log = logging.getLogger(__name__)

METHODS = ("fbp", "sirt", "cgls")
_COPIES = {"fbp": 1.5, "sirt": 3.5, "cgls": 5.5}
"""How many times slices and images lie on a GPU at the height of each method."""
_SHARE = 0.8
"""How much of a GPU's free memory to count on."""
_TINY = np.finfo(np.float32).tiny
"""Keeps an empty slice, which has nothing to gain, from spreading 0/0."""


class NufftEngine:
    """FBP, SIRT and CGLS on the Fourier-slice projector.

    Parameters
    ----------
    angles_deg
        (T,) tilt angles, degrees.
    n_u
        Pixels of an image across the axis; slices are n_u × n_u.
    device
        ``"cpu"`` or ``"cuda"``.
    threads
        Threads of the transforms; all CPUs if left out.

    Notes
    -----
    On a GPU the slab goes over in parts that fit the memory free there, in halves of those where it does not
    suffice after all. Slices do not depend on each other and parts begin at even ones: the result is the same.
    """

    def __init__(self, angles_deg: np.ndarray, n_u: int, device: str, threads: int | None = None) -> None:
        self.device = device
        self.projector = Projector(angles_deg, n_u, device=device, threads=threads)
        self._weights: tuple[np.ndarray, np.ndarray] | None = None
        self._most: dict[str, int] = {}

    def __call__(
        self, slab: np.ndarray, method: str, iterations: int, nonnegative: bool, *, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Reconstruct a slab ``[tilt, z, u]`` to ``[z, y, x]`` numpy, value per pixel.

        Raises
        ------
        MemoryError
            The GPU's memory does not hold two slices and what their method needs.
        """
        if self.device == "cpu":
            return self._reconstruct(slab, method, iterations, nonnegative, out)
        if method not in self._most:
            self._most[method] = self._fitting(method)
        n_z, n = slab.shape[1], self.projector.size
        if out is None:
            out = np.empty((n_z, n, n), np.float32)
        first = 0
        while first < n_z:
            last = min(first + self._most[method], n_z)
            try:
                out[first:last] = self._on_gpu(slab[:, first:last], method, iterations, nonnegative)
            except (MemoryError, RuntimeError) as error:
                if not backend.is_memory_short(error):
                    raise
                if last - first <= 2:
                    raise MemoryError(
                        f"the GPU's memory is too small for {method} of two slices of {n} × {n} from "
                        f"{slab.shape[0]} tilts ({error}); free some (`nvidia-smi` shows who holds it), or use "
                        "device='cpu'"
                    ) from error
                fits = -(-(last - first) // 4) * 2
            else:
                first = last
                continue
            # only here, where the error no longer refers to the arrays, can they be given back
            log.warning("GPU memory is short: %d slices at once do not fit, trying %d", last - first, fits)
            self._most[method] = fits
            self.projector.release()
            backend.release_memory()
        return out

    def _on_gpu(self, slab: np.ndarray, method: str, iterations: int, nonnegative: bool) -> np.ndarray:
        images = backend.to_device(slab, self.device)
        return backend.to_numpy(self._reconstruct(images, method, iterations, nonnegative))

    def _fitting(self, method: str) -> int:
        """How many slices the GPU's memory holds at once: even, at least 2."""
        n, n_tilts = self.projector.size, self.projector.n_tilts
        per_slice = 4 * _COPIES[method] * (n**2 + n_tilts * self.projector.n_u)
        slices = int((_SHARE * backend.free_memory() - self.projector.batch_bytes) / per_slice)
        return max(2, slices - slices % 2)

    def _reconstruct(
        self, images: np.ndarray, method: str, iterations: int, nonnegative: bool, out: np.ndarray | None = None
    ) -> np.ndarray:
        if method == "fbp":
            return self.projector.fbp(images, out=out)
        return _into(out, next(islice(self.iterates(images, method, nonnegative), iterations - 1, None)))

    def iterates(self, images: np.ndarray, method: str, nonnegative: bool) -> Iterator[np.ndarray]:
        """The slices after each iteration of SIRT or CGLS, without end, in one array that goes on changing.

        Parameters
        ----------
        images
            (T, Z, n_u) on the device.
        method, nonnegative
            As of :func:`~mesotomo_utils.tomography.reconstruction.reconstruct`.

        Yields
        ------
        ndarray
            (Z, n_u, n_u), on the device.
        """
        if method == "sirt":
            return self._sirt(images, nonnegative)
        return self._bounded_cgls(images) if nonnegative else self._cgls(images)

    def _sirt(self, images: np.ndarray, nonnegative: bool) -> Iterator[np.ndarray]:
        """Iterate x ← x + C Aᵀ R (p − A x), C and R the inverse column and row sums (Gregor and Benson 2008)."""
        xp = backend.get_array_module(images)
        rows, columns = self._sums(xp)
        slices = xp.zeros((images.shape[1], self.projector.size, self.projector.size), np.float32)
        while True:
            residual = self.projector.forward(slices)
            xp.subtract(images, residual, out=residual)
            residual /= rows
            step = self.projector.adjoint(residual)
            step /= columns
            slices += step
            if nonnegative:
                xp.maximum(slices, 0, out=slices)
            yield slices

    def _sums(self, xp: ModuleType) -> tuple[np.ndarray, np.ndarray]:
        """Row and column sums of the projection; both well away from 0 in the field."""
        if self._weights is None:
            n = self.projector.size
            rows = self.projector.forward(xp.ones((1, n, n), np.float32))
            columns = self.projector.adjoint(xp.ones_like(rows))
            self._weights = (xp.maximum(rows, 1.0), xp.maximum(columns, 0.1 * self.projector.n_tilts))
        return self._weights

    def _cgls(self, images: np.ndarray) -> Iterator[np.ndarray]:
        """Conjugate gradients on the normal equations, each slice with its own step lengths."""
        xp = backend.get_array_module(images)
        slices = xp.zeros((images.shape[1], self.projector.size, self.projector.size), np.float32)
        residual = images.copy()
        gradient = self.projector.adjoint(residual)
        direction = gradient.copy()
        norm = _dot(xp, gradient, gradient)
        while True:
            projected = self.projector.forward(direction)
            step = norm / xp.maximum(_dot(xp, projected, projected, along="tzu"), _TINY)
            slices += step[:, None, None] * direction
            yield slices
            residual -= step[None, :, None] * projected
            gradient = self.projector.adjoint(residual)
            previous, norm = norm, _dot(xp, gradient, gradient)
            direction *= (norm / xp.maximum(previous, _TINY))[:, None, None]
            direction += gradient

    def _bounded_cgls(self, images: np.ndarray) -> Iterator[np.ndarray]:
        """Conjugate gradients among non-negative slices.

        Each step moves only the voxels that are free: positive, or at zero and drawn upwards. It ends at the
        least squares along its line; what went below zero is then set to zero and the residual is taken anew.
        Clipping changes the free voxels, so successive directions are made conjugate by Polak and Ribière's
        formula, which falls back on the gradient by itself where they are not.
        """
        xp = backend.get_array_module(images)
        slices = xp.zeros((images.shape[1], self.projector.size, self.projector.size), np.float32)
        residual = images
        direction = previous = norm = None
        while True:
            gradient = self.projector.adjoint(residual)
            free = slices > 0
            gradient *= free | (gradient > 0)
            last, norm = norm, _dot(xp, gradient, gradient)
            if direction is None:
                direction = gradient.copy()
            else:
                keep = (norm - _dot(xp, gradient, previous)) / xp.maximum(last, _TINY)
                direction *= xp.maximum(keep, 0)[:, None, None]
                direction += gradient
                direction *= free | (direction > 0)
            previous = gradient
            projected = self.projector.forward(direction)
            along = _dot(xp, projected, residual, along="tzu")
            step = along / xp.maximum(_dot(xp, projected, projected, along="tzu"), _TINY)
            slices += step[:, None, None] * direction
            xp.maximum(slices, 0, out=slices)
            yield slices
            residual = self.projector.forward(slices)
            xp.subtract(images, residual, out=residual)


class AstraEngine:
    """The same through ASTRA's two-dimensional algorithms, slice by slice.

    Parameters
    ----------
    angles_deg, n_u
        As of :class:`NufftEngine`.
    device
        ``"cuda"`` takes ASTRA's CUDA algorithms.

    Raises
    ------
    RuntimeError
        ASTRA is not installed, or ``"cuda"`` is asked for and ASTRA finds no GPU.

    Notes
    -----
    The ``linear`` projector on the CPU. ASTRA's FBP gives every tilt the same weight; ours weighs
    uneven tilts.
    """

    def __init__(self, angles_deg: np.ndarray, n_u: int, device: str) -> None:
        self._astra = _library("astra", "pip install astra-toolbox, or engine='nufft'")
        # ASTRA ends the process when its CUDA code runs without a GPU: ask before
        if device == "cuda" and not self._astra.use_cuda():
            raise RuntimeError("ASTRA finds no GPU (astra.use_cuda() is False); use device='cpu'")
        self._suffix = "_CUDA" if device == "cuda" else ""
        self._volume = self._astra.create_vol_geom(n_u, n_u)
        # its y axis runs against the rows, so its angles turn the other way round
        radians = -np.deg2rad(np.asarray(angles_deg, dtype=float))
        self._geometry = self._astra.create_proj_geom("parallel", 1.0, n_u, radians)

    def __call__(
        self, slab: np.ndarray, method: str, iterations: int, nonnegative: bool, *, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Reconstruct a slab ``[tilt, z, u]`` to ``[z, y, x]``, value per pixel."""
        slices = [
            self._slice(np.ascontiguousarray(slab[:, z]), method, iterations, nonnegative) for z in range(slab.shape[1])
        ]
        # its CGLS knows no bound
        return _into(out, np.maximum(slices, 0) if method == "cgls" and nonnegative else np.stack(slices))

    def _slice(self, sinogram: np.ndarray, method: str, iterations: int, nonnegative: bool) -> np.ndarray:
        astra = self._astra
        projector = astra.create_projector("cuda" if self._suffix else "linear", self._geometry, self._volume)
        data = astra.data2d.create("-sino", self._geometry, sinogram)
        target = astra.data2d.create("-vol", self._volume)
        configuration = astra.astra_dict(method.upper() + self._suffix)
        configuration["ProjectorId"] = projector
        configuration["ProjectionDataId"] = data
        configuration["ReconstructionDataId"] = target
        if method == "sirt" and nonnegative:
            configuration["option"] = {"MinConstraint": 0.0}
        algorithm = astra.algorithm.create(configuration)
        try:
            astra.algorithm.run(algorithm, 1 if method == "fbp" else iterations)
            return astra.data2d.get(target).astype(np.float32)
        finally:
            astra.algorithm.delete(algorithm)
            astra.data2d.delete([data, target])
            astra.projector.delete(projector)


class TomopyEngine:
    """Gridrec and SIRT through TomoPy.

    Parameters
    ----------
    angles_deg, n_u
        As of :class:`NufftEngine`.
    device
        ``"cpu"`` only.

    Raises
    ------
    RuntimeError
        TomoPy is not installed, or ``"cuda"`` is asked for.

    Notes
    -----
    Gridrec wraps what its filter spreads beyond the field, puts the axis on pixel n/2 in x and n/2 − 1 in y,
    and is 1.12 times too high (in TomoPy 1.15). So the images are padded to three times their width and
    moved to have the axis in the centre, and the scale is measured on a Gaussian: 1 % is left. TomoPy's
    SIRT has the axis where ours is if told that it lies at n/2.
    """

    def __init__(self, angles_deg: np.ndarray, n_u: int, device: str) -> None:
        self._tomopy = _library(
            "tomopy", "it comes from conda-forge (conda env create -f environment.yml), or use engine='nufft'"
        )
        if device == "cuda":
            raise RuntimeError("engine 'tomopy' runs on the CPU here; use device='cpu'")
        # TomoPy's detector axis is x cos θ − y sin θ
        self._radians = -np.deg2rad(np.asarray(angles_deg, dtype=float))
        self._n_u = n_u
        self._scale: float | None = None

    def __call__(
        self, slab: np.ndarray, method: str, iterations: int, nonnegative: bool, *, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Reconstruct a slab ``[tilt, z, u]`` to ``[z, y, x]``, value per pixel."""
        if method == "fbp":
            return _into(out, self._gridrec(slab) * np.float32(self._gridrec_scale()))
        if not nonnegative:
            return _into(out, self._sirt(slab, iterations, None))
        slices = None
        for _ in range(iterations):  # each iteration depends on the slices alone
            slices = np.maximum(self._sirt(slab, 1, slices), 0)
        return _into(out, slices)

    def _sirt(self, slab: np.ndarray, iterations: int, start: np.ndarray | None) -> np.ndarray:
        return self._tomopy.recon(
            slab, self._radians, center=self._n_u / 2, algorithm="sirt", num_iter=iterations, init_recon=start
        )

    def _gridrec(self, slab: np.ndarray) -> np.ndarray:
        n = self._n_u
        width = 3 * n + n % 2
        spectrum = rfft(np.pad(slab, ((0, 0), (0, 0), (n, width - 2 * n))))
        if n % 2 == 0:  # half a pixel back along x and on along y
            shift = -0.5 * (np.cos(self._radians) + np.sin(self._radians))[:, None, None]
            spectrum *= np.exp(-2j * np.pi * np.fft.rfftfreq(width) * shift).astype(np.complex64)
        moved = irfft(spectrum, width)
        slices = self._tomopy.recon(
            moved, self._radians, center=n + (n - 1) / 2, algorithm="gridrec", filter_name="ramlak"
        )
        row, column = width // 2 - (n + 1) // 2, width // 2 - n // 2
        return slices[:, row : row + n, column : column + n]

    def _gridrec_scale(self) -> float:
        """What gridrec's slices must be multiplied by: of a Gaussian of height 1, by least squares."""
        if self._scale is None:
            sigma = self._n_u / 16
            u = np.arange(self._n_u) - (self._n_u - 1) / 2
            profile = np.exp(-(u**2) / (2 * sigma**2))
            images = np.tile((sigma * np.sqrt(2 * np.pi) * profile).astype(np.float32), (len(self._radians), 1, 1))
            found, truth = self._gridrec(images)[0], np.outer(profile, profile)
            self._scale = float((found * truth).sum() / (found**2).sum())
        return self._scale


ENGINES: dict[str, Any] = {"nufft": NufftEngine, "astra": AstraEngine, "tomopy": TomopyEngine}


def _dot(xp: ModuleType, one: np.ndarray, other: np.ndarray, along: str = "zyx") -> np.ndarray:
    """Scalar product of each slice of two volumes (``"zyx"``) or two series (``"tzu"``)."""
    return xp.einsum(f"{along},{along}->z", one, other)


def _into(out: np.ndarray | None, slices: np.ndarray) -> np.ndarray:
    """The slices, in ``out`` where there is one."""
    if out is None:
        return slices
    out[:] = slices
    return out


def check_method(method: str, engine: str) -> None:
    """Refuse a method or an engine that is not known, and one without the other.

    Raises
    ------
    ValueError
        Names what is known.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}")
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, not {engine!r}")
    if engine == "tomopy" and method == "cgls":
        raise ValueError("TomoPy has no CGLS; use engine='nufft' or 'astra', or method='sirt'")


def _library(name: str, mend: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RuntimeError(f"engine {name!r} is not installed: {mend}") from error
