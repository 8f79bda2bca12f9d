"""Parallel-beam projection of a stack of slices, and its adjoint, through the Fourier slice theorem.

A projection's Fourier transform is a line through the centre of the slice's transform. The
non-uniform FFT samples those lines straight from the pixels, so one projection of an n × n slice
costs n² log n for all tilts together instead of n² per tilt. It is the one of
:mod:`~mesotomo_utils.tomography.gridding`; on a GPU it is cufinufft's where that can be loaded.

Two slices travel in one complex transform. The projections of a real slice are real, so the real
and the imaginary part come out unmixed; this halves the work at no loss.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np

from mesotomo_utils import backend
from mesotomo_utils.distribute import map_items
from mesotomo_utils.tomography.gridding import pack, unpack
from mesotomo_utils.tomography.ramp import periodic_ramp
from mesotomo_utils.tomography.transforms import load_transforms

_COARSE_GRID_FROM = 3e-5
"""finufft's grid of 1.25 times the pixels takes half the time of that of 2, and reaches 7e-5 for paper-size slices."""
BATCH_BYTES = {"gridding": 16e6, "finufft": 64e6, "cuda": 2e9}
"""Upper bound of the working arrays of one batch of transforms, bytes."""
_BATCH_SHARE = 0.25
"""The same on a GPU, as a share of the memory that it has free."""


class Projector:
    """Projects slices ``[z, y, x]`` to a tilt series ``[tilt, z, u]``, and back.

    A point at (x, y) appears at u = x cos θ + y sin θ. Pixel i of n sits at i − (n − 1)/2, along u as
    along x and y: the rotation axis is the exact centre of both. Lengths are in pixels and the
    pixels of image and slice are equal, so a projection is a plain sum over pixels; multiply by the
    pixel in nm for a line integral.

    Parameters
    ----------
    angles_deg
        (T,) tilt angles, degrees.
    n_u
        Number of pixels of an image across the tilt axis.
    size
        Edge of the square slices, pixels; ``n_u`` if left out.
    device
        ``"cpu"``, ``"cuda"`` or ``"auto"``.
    tolerance
        Relative accuracy asked of the non-uniform FFT. Single precision reaches 1e-6; below that ask
        for ``dtype="float64"`` too.
    dtype
        ``"float32"`` or ``"float64"``: the precision of the transforms and of what they return.
    threads
        Number of threads; if left out all CPUs allowed to this process, but 1 for small slices.
    transforms
        Which non-uniform FFT, as of :func:`~mesotomo_utils.tomography.transforms.load_transforms`. The attribute
        of this name says which it is.

    Raises
    ------
    ValueError
        No angle, an angle is not finite, a size below 2, an unknown dtype, or transforms that are
        not of the device.
    RuntimeError
        A GPU is asked for and CuPy is absent, the transforms asked for cannot be loaded, or on a GPU there is
        neither cufinufft nor a compiler for our own kernels.

    Notes
    -----
    Pixels count as points, limited to the band of the pixel grid: there is no footprint of a
    square pixel as in ASTRA's ``linear`` and ``strip`` models. The two agree on any object
    that its pixels resolve. The transform is longer than the image, so that the corners of a slice
    do not fold back into the field; its length is odd, because the one unpaired frequency of an
    even length would mix the two packed slices.

    A library keeps buffers with its plans: use such a projector from one thread at a time.

    Examples
    --------
    A point 2 pixels along y appears in the middle at 0° and 2 pixels to the right at 90°.

    >>> slices = np.zeros((1, 9, 9), np.float32)
    >>> slices[0, 6, 4] = 1
    >>> Projector([0, 90], 9).forward(slices)[:, 0].argmax(axis=1).tolist()
    [4, 6]
    """

    def __init__(
        self,
        angles_deg: np.ndarray,
        n_u: int,
        *,
        size: int | None = None,
        device: str = "cpu",
        tolerance: float = 5e-5,
        dtype: str = "float32",
        threads: int | None = None,
        transforms: str | None = None,
    ) -> None:
        angles = np.atleast_1d(np.asarray(angles_deg, dtype=np.float64))
        if angles.ndim != 1 or angles.size == 0:
            raise ValueError(f"angles_deg needs one angle or more in one dimension; its shape is {angles.shape}")
        if not np.isfinite(angles).all():
            raise ValueError(f"angles_deg[{int(np.flatnonzero(~np.isfinite(angles))[0])}] is not finite")
        if n_u < 2 or (size is not None and size < 2):
            raise ValueError(f"n_u and size must be at least 2 pixels; they are {n_u} and {size}")
        if dtype not in ("float32", "float64"):
            raise ValueError(f"dtype must be 'float32' or 'float64', not {dtype!r}")
        self.angles_deg = angles
        self.n_u = int(n_u)
        self.size = int(size) if size is not None else self.n_u
        self.device = backend.resolve_device(device)
        self.tolerance = float(tolerance)
        self.dtype = np.dtype(dtype)
        # a small transform takes less time than its threads take to meet
        small = self.size**2 + 2 * self.n_u * angles.size < 1e5
        self.threads = int(threads) if threads else 1 if small else backend.cpu_count()
        self._complex = np.dtype("complex64" if dtype == "float32" else "complex128")
        self.transforms, self._library = load_transforms(self.device, transforms)
        self._plans: dict[tuple[int, int], Any] = {}

        # Corners reach to size/√2 from the axis; what lies beyond the period's half must not fold into the field. Nor
        # may one end of a field come near the other, round the period: see periodic_ramp.
        reach = int(np.ceil(1.02 * (self.n_u + np.sqrt(2) * self.size) / 2)) + 8
        self.length = _odd_fast_length(max(reach, int(np.ceil(1.2 * self.n_u))))
        frequency = 2 * np.pi * np.fft.fftfreq(self.length)
        radians = np.deg2rad(angles)[:, None]
        points = [(frequency * trig(radians)).ravel() for trig in (np.sin, np.cos)]
        if self.transforms == "gridding":
            options = {"tolerance": self.tolerance, "dtype": self._complex.name}
            self._gridding = self._library((points[0], points[1]), self.size, **options)
        else:
            self._points = [self._array(values.astype(self.dtype)) for values in points]
        # the transform counts pixels from −(n // 2), the FFT from 0: the phase moves both origins to the exact centre
        half = self.size // 2 - (self.size - 1) / 2
        offset = half * (np.cos(radians) + np.sin(radians)) + (self.n_u - 1) / 2
        phase = np.exp(-1j * frequency * offset)
        self._phase = self._array(phase.astype(self._complex))
        self._phase_back = self._array((phase.conj() / self.length).astype(self._complex))
        self._pairs, self.batch_bytes = self._batch()

    @property
    def n_tilts(self) -> int:
        """Number of tilts."""
        return self.angles_deg.size

    def forward(self, slices: np.ndarray) -> np.ndarray:
        """Project slices.

        Parameters
        ----------
        slices
            (Z, size, size) real, ``[z, y, x]``.

        Returns
        -------
        ndarray
            (T, Z, n_u) real, ``[tilt, z, u]``: sums along the beam, in units of value × pixel.

        Raises
        ------
        ValueError
            The slices are not (Z, size, size).
        """
        if slices.ndim != 3 or slices.shape[1:] != (self.size, self.size):
            raise ValueError(f"slices must be (Z, {self.size}, {self.size}); they are {slices.shape}")
        out = backend.get_array_module(slices).empty((self.n_tilts, slices.shape[0], self.n_u), self.dtype)
        images = out.transpose(1, 0, 2)

        def project(some: slice) -> None:
            lines = self._to_points(slices[some]).reshape(-1, self.n_tilts, self.length)
            lines *= self._phase
            unpack(images[some], self._transform("ifft", lines)[..., : self.n_u])

        self._each_batch(project, len(slices))
        return out

    def adjoint(self, sinogram: np.ndarray) -> np.ndarray:
        """Back-project a tilt series without a filter: the exact adjoint of :meth:`forward`.

        Parameters
        ----------
        sinogram
            (T, Z, n_u) real, ``[tilt, z, u]``.

        Returns
        -------
        ndarray
            (Z, size, size) real, ``[z, y, x]``, with ⟨forward(f), p⟩ = ⟨f, adjoint(p)⟩.

        Raises
        ------
        ValueError
            The series is not (T, Z, n_u).
        """
        self._check_sinogram(sinogram)
        out = backend.get_array_module(sinogram).empty((sinogram.shape[1], self.size, self.size), self.dtype)

        def back_project(some: slice) -> None:
            self._smear(self._transform("fft", self._lines(sinogram, some)), out[some])

        self._each_batch(back_project, len(out))
        return out

    def fbp(self, sinogram: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
        """Filtered back-projection.

        Parameters
        ----------
        sinogram
            (T, Z, n_u) real, ``[tilt, z, u]``; what lies outside the field counts as zero.
        out
            (Z, size, size) of the projector's dtype, filled with the result and returned; a new one if left out.

        Returns
        -------
        ndarray
            (Z, size, size) real, ``[z, y, x]``: density per pixel volume, so that
            ``forward(fbp(p))`` is p where the tilts are dense and complete.

        Raises
        ------
        ValueError
            The series is not (T, Z, n_u).

        Notes
        -----
        The ramp is that of Kak and Slaney 1988, eq. 3.61, band-limited, with no apodisation, and spreads beyond the
        image as if the transform had no period, which sets the DC term right. Each tilt counts by
        :func:`angular_weights`.
        """
        self._check_sinogram(sinogram)
        ramp, weights, moments, spectra = self._filter
        if out is None:
            out = backend.get_array_module(sinogram).empty((sinogram.shape[1], self.size, self.size), self.dtype)

        def back_project(some: slice) -> None:
            lines = self._lines(sinogram, some)
            beyond = (lines[..., : self.n_u] @ moments * weights) @ spectra
            spectrum = self._transform("fft", lines)
            spectrum *= ramp
            spectrum -= beyond
            self._smear(spectrum, out[some])

        self._each_batch(back_project, len(out))
        return out

    @cached_property
    def _filter(self) -> tuple[np.ndarray, ...]:
        """Ramp (T, length) and weights (T, 1) of the tilts; moments and spectra of :func:`periodic_ramp`."""
        weights = angular_weights(self.angles_deg)[:, None]
        ramp, *from_beyond = periodic_ramp(self.length, self.n_u)
        real = (part.astype(self.dtype) for part in (ramp * weights, weights))
        return tuple(self._array(part) for part in (*real, *(part.astype(self._complex) for part in from_beyond)))

    def _lines(self, sinogram: np.ndarray, some: slice) -> np.ndarray:
        """(P, T, length) pairs of slices, zero beyond the field."""
        return pack(sinogram[:, some].transpose(1, 0, 2), self._complex, self.length)

    def _smear(self, spectrum: np.ndarray, out: np.ndarray) -> None:
        """Back-project lines by their (P, T, length) spectra, overwriting these, into (Z, size, size) slices."""
        spectrum *= self._phase_back
        self._to_slices(spectrum.reshape(spectrum.shape[0], -1), out)

    def _to_points(self, slices: np.ndarray) -> np.ndarray:
        """(P, T · length) spectra of pairs of slices."""
        if self.transforms == "gridding":
            return self._gridding.to_points(slices)
        return self._execute(2, pack(slices, self._complex))

    def _to_slices(self, spectra: np.ndarray, out: np.ndarray) -> None:
        """The adjoint, into the slices."""
        if self.transforms == "gridding":
            self._gridding.to_slices(spectra, out)
        else:
            unpack(out, self._execute(1, spectra).reshape(-1, self.size, self.size))

    def _execute(self, kind: int, data: np.ndarray) -> np.ndarray:
        """One batch through the library's plan of its size; plans are kept."""
        xp = backend.get_array_module(data)
        n = data.shape[0]
        if (kind, n) not in self._plans:
            options: dict[str, Any] = {"eps": self.tolerance}
            if self.device == "cuda":
                # one point more of window, so that GPU and CPU together stay within twice the tolerance
                options["eps"] = self.tolerance / 5
            else:
                options["nthreads"] = self.threads
                if self.tolerance >= _COARSE_GRID_FROM:
                    options["upsampfac"] = 1.25
            plan = self._library.Plan(
                kind,
                (self.size, self.size),
                n_trans=n,
                isign=1 if kind == 1 else -1,
                dtype=self._complex.name,
                **options,
            )
            plan.setpts(*self._points)
            self._plans[kind, n] = plan
        if n == 1:
            data = data[0]
        return self._plans[kind, n].execute(xp.ascontiguousarray(data)).reshape(n, -1)

    def release(self) -> None:
        """Give back the memory that plans hold until they are needed again."""
        self._plans.clear()

    def _batch(self) -> tuple[int, float]:
        """How many pairs of slices to transform at once, and the bytes at work then."""
        points = 4 * self.n_tilts * self.length
        if not self._side_by_side:
            points += 2 * self.size**2
        if self.device == "cuda":  # what the FFT works in, and a grid: cufinufft has one for either direction
            points += 3 * self._gridding.edge**2 if self.transforms == "gridding" else 4 * (2 * self.size) ** 2
        per_pair = self._complex.itemsize * points
        if self.device == "cuda":
            limit = min(BATCH_BYTES["cuda"], _BATCH_SHARE * backend.free_memory())
        else:
            limit = BATCH_BYTES[self.transforms]
        pairs = int(np.clip(limit // per_pair, 1, 16))
        return pairs, pairs * per_pair

    @property
    def _side_by_side(self) -> bool:
        """Each thread has batches of its own; a library shares each batch out and has one set of buffers."""
        return (self.transforms, self.device) == ("gridding", "cpu")

    def _each_batch(self, work: Callable[[slice], None], n_z: int) -> None:
        """Slices in batches whose transforms fit the working memory; each begins at an even slice."""
        workers = self.threads if self._side_by_side else 1
        step = 2 * min(self._pairs, -(-n_z // (2 * workers)))
        batches = [slice(first, min(first + step, n_z)) for first in range(0, n_z, max(step, 1))]
        map_items(work, batches, workers=workers)

    def _transform(self, name: str, lines: np.ndarray) -> np.ndarray:
        """``"fft"`` or ``"ifft"`` of lines, which it overwrites."""
        function = getattr(backend.fft_module(backend.get_array_module(lines)), name)
        options = {"workers": 1 if self._side_by_side else self.threads} if self.device == "cpu" else {}
        return function(lines, axis=-1, overwrite_x=True, **options)

    def _array(self, array: np.ndarray) -> np.ndarray:
        return backend.to_device(array, self.device)

    def _check_sinogram(self, sinogram: np.ndarray) -> None:
        if sinogram.ndim != 3 or (sinogram.shape[0], sinogram.shape[2]) != (self.n_tilts, self.n_u):
            raise ValueError(f"the series must be ({self.n_tilts}, Z, {self.n_u}); it is {sinogram.shape}")


def angular_weights(angles_deg: np.ndarray) -> np.ndarray:
    """Share of the half circle, in radians, that each tilt stands for in a back-projection.

    Parameters
    ----------
    angles_deg
        (T,) tilt angles, degrees, in any order.

    Returns
    -------
    ndarray
        (T,) weights, radians. They sum to π for complete tilts.

    Raises
    ------
    ValueError
        An angle is not finite.

    Notes
    -----
    A tilt stands for half the gap to its neighbour on either side, angles counted modulo 180°. A gap
    over 3.5 times the median is a missing wedge, not a coarse step: its two edges count as if the
    median gap followed.

    Examples
    --------
    >>> np.rad2deg(angular_weights([0, 60, 120])).round(6).tolist()
    [60.0, 60.0, 60.0]
    """
    angles = np.asarray(angles_deg, dtype=np.float64)
    order, gaps, usual = angular_gaps(angles)
    if angles.size == 1:
        return np.array([np.pi])
    gaps = np.where(gaps > 3.5 * usual, usual, gaps)
    weights = np.empty(angles.size)
    weights[order] = (gaps + np.roll(gaps, 1)) / 2
    return np.deg2rad(weights)


def angular_gaps(angles_deg: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Gaps between tilts, counted modulo 180°.

    Parameters
    ----------
    angles_deg
        (T,) tilt angles, degrees, in any order.

    Returns
    -------
    order (T,)
        Places of the tilts, from 0 to 180°.
    gaps (T,)
        From each of them to the next, the last one to the first, degrees.
    usual
        Their median, degrees.

    Raises
    ------
    ValueError
        An angle is not finite.
    """
    angles = np.asarray(angles_deg, dtype=np.float64)
    if not np.isfinite(angles).all():
        raise ValueError(f"angles_deg[{int(np.flatnonzero(~np.isfinite(angles))[0])}] is not finite")
    folded = np.mod(angles, 180.0)
    order = np.argsort(folded, kind="stable")
    gaps = np.diff(folded[order], append=folded[order][0] + 180.0)
    # −90° and 90° are one direction: their gap of zero says nothing of the usual step
    return order, gaps, float(np.median(gaps[gaps > 1e-3]))


def _odd_fast_length(minimum: int) -> int:
    """Smallest odd length from ``minimum`` on with no prime factor above 7."""
    length = minimum | 1
    while True:
        rest = length
        for prime in (3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 2
