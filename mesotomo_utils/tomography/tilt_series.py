"""A tilt series: images, tilt angles and pixel size, read from the files microscopes write.

Conventions (DESIGN, "Conventions"): in memory a series is ``[tilt, z, u]``; z is the tilt axis and
grows with the row; at tilt t a point (x, y, z) appears at ``u = x cos t + y sin t``. The origin is the
centre of the image, so pixel i of n sits at ``(i - (n - 1) / 2) * pixel_nm``.

Nothing is aligned here: what was recorded is what comes out, turned so that the axis is vertical, but for borders that
a program filled in (:mod:`.filled_borders`).
"""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mesotomo_utils.tomography.filled_borders import replace_filled_borders

log = logging.getLogger(__name__)

#: RosettaSciIO reader by file extension; zspy is left out, it would need an old zarr.
READERS = {
    ".mrc": "mrc",
    ".ali": "mrc",
    ".rec": "mrc",
    ".st": "mrc",
    ".dm3": "digitalmicrograph",
    ".dm4": "digitalmicrograph",
    ".emd": "emd",
    ".hspy": "hspy",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".ser": "tia",
    ".emi": "tia",
    ".unf": "semper",
    ".npy": "numpy",
}

NM_PER_UNIT = {
    "pm": 1e-3,
    "picometer": 1e-3,
    "å": 0.1,
    "a": 0.1,
    "ang": 0.1,
    "angstrom": 0.1,
    "angstroms": 0.1,
    "nm": 1.0,
    "nanometer": 1.0,
    "nanometers": 1.0,
    "um": 1e3,
    "µm": 1e3,
    "μm": 1e3,
    "micron": 1e3,
    "microns": 1e3,
    "micrometer": 1e3,
    "mm": 1e6,
    "millimeter": 1e6,
    "cm": 1e7,
    "m": 1e9,
    "meter": 1e9,
}
"""Units of length as files name them, in small letters."""
_DEGREES_PER_UNIT = {
    "°": 1.0,
    "deg": 1.0,
    "degree": 1.0,
    "degrees": 1.0,
    "rad": math.degrees(1.0),
    "mrad": math.degrees(1e-3),
}


_IMOD = 1146047817
"""Where an MRC header says so, IMOD wrote the file."""


class TiltSeriesError(ValueError):
    """A tilt series that cannot be used as it is; the message names the file and the mend."""


@dataclass(frozen=True, eq=False)
class TiltSeries:
    """Images of one object at many tilts about the z axis.

    Attributes
    ----------
    images
        (n_tilts, n_z, n_u) float32, any unit proportional to projected mass.
    angles_deg
        (n_tilts,) float64, tilt of each image in degrees, sign included.
    pixel_nm
        Edge of a (square) pixel, nm.
    name
        For titles and file names.
    metadata
        What the file said about itself, its microscope and its recording, and what was done since.

    Raises
    ------
    TiltSeriesError
        Images not three-dimensional, other number of angles than images, a non-finite image or
        angle, or a pixel size that is not positive.
    """

    images: NDArray[np.float32]
    angles_deg: NDArray[np.float64]
    pixel_nm: float
    name: str = "tilt series"
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        images = np.ascontiguousarray(self.images, dtype=np.float32)
        angles = np.asarray(self.angles_deg, dtype=np.float64)
        if images.ndim != 3:
            raise TiltSeriesError(
                f"{self.name}: a tilt series has the axes [tilt, z, u], this array has the shape "
                f"{images.shape}; give one stack of images of equal size"
            )
        if 0 in images.shape:
            raise TiltSeriesError(f"{self.name}: the stack is empty, its shape is {images.shape}")
        if angles.shape != (len(images),):
            few = "fewer" if angles.size < len(images) else "more"
            raise TiltSeriesError(
                f"{self.name}: {angles.size} angles for {len(images)} images, {few} than needed; "
                "give one angle a line, one line an image, in the order of the images"
            )
        bad_angles = np.flatnonzero(~np.isfinite(angles))
        if bad_angles.size:
            raise TiltSeriesError(f"{self.name}: angle {bad_angles[0]} (from 0) is not a number")
        bad = [i for i, image in enumerate(images) if not np.isfinite(image.sum(dtype=np.float64))]
        if bad:
            raise TiltSeriesError(
                f"{self.name}: image {bad[0]} (from 0) holds values that are not finite"
                + (f", as do {len(bad) - 1} more" if len(bad) > 1 else "")
                + "; repair these images or leave them and their angles out"
            )
        pixel = float(self.pixel_nm)
        if not (math.isfinite(pixel) and pixel > 0):
            raise TiltSeriesError(f"{self.name}: pixel_nm must be a positive length in nm, not {self.pixel_nm}")
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "angles_deg", angles)
        object.__setattr__(self, "pixel_nm", pixel)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def z_nm(self) -> NDArray[np.float64]:
        """(n_z,) positions of the rows along the tilt axis, nm."""
        return pixel_positions(self.images.shape[1], self.pixel_nm)

    @property
    def u_nm(self) -> NDArray[np.float64]:
        """(n_u,) positions of the columns across the tilt axis, nm."""
        return pixel_positions(self.images.shape[2], self.pixel_nm)

    def select(self, indices: ArrayLike) -> TiltSeries:
        """The series of some of the tilts (indices, a slice or a boolean mask), in that order."""
        return replace(self, images=self.images[indices], angles_deg=self.angles_deg[indices])

    def bin(self, factor: int) -> TiltSeries:
        """Average ``factor`` x ``factor`` pixels into one.

        The image centre stays the origin; rows or columns that fill no bin are cut off equally at
        both ends, so where an odd number is left over the centre moves by half a recorded pixel.
        Choose image sizes divisible by the factor to avoid it.

        Raises
        ------
        TiltSeriesError
            The factor is not a positive integer or larger than the image.
        """
        n_z, n_u = self.images.shape[1:]
        if factor != int(factor) or not 1 <= factor <= min(n_z, n_u):
            raise TiltSeriesError(f"{self.name}: cannot bin images of {n_z} x {n_u} pixels by {factor}")
        factor = int(factor)
        if factor == 1:
            return self
        z0, u0 = (n_z % factor) // 2, (n_u % factor) // 2
        rows, columns = n_z // factor, n_u // factor
        cut = self.images[:, z0 : z0 + rows * factor, u0 : u0 + columns * factor]
        binned = cut.reshape(len(cut), rows, factor, columns, factor).mean(axis=(2, 4))
        metadata = {**self.metadata, "binning": self.metadata.get("binning", 1) * factor}
        return replace(self, images=binned, pixel_nm=self.pixel_nm * factor, metadata=metadata)


def pixel_positions(n: int, pixel_nm: float) -> NDArray[np.float64]:
    """(n,) positions of n pixels with the origin at their centre, nm.

    >>> pixel_positions(3, 0.5).tolist()
    [-0.5, 0.0, 0.5]
    """
    return (np.arange(n) - (n - 1) / 2) * pixel_nm


def load_tilt_series(
    path: str | Path,
    *,
    angles_path: str | Path | None = None,
    pixel_nm: float | None = None,
    tilt_axis: str = "vertical",
    tilt_sign: int = 1,
) -> TiltSeries:
    """Read a tilt series from any format in `READERS` and turn its tilt axis upright.

    Parameters
    ----------
    path
        MRC, DM3, DM4, EMD, HSPY, TIFF ... with one stack of images.
    angles_path
        Text file of tilts in degrees, one a line, in the order of the images. Left out where the
        file carries them (an axis in degrees, or the tilts of an FEI MRC header).
    pixel_nm
        Pixel size, nm. Given here it wins over the file's.
    tilt_axis
        Direction of the tilt axis in the images: ``vertical`` (z grows with the row) or
        ``horizontal`` (z grows with the column; rows and columns are exchanged on reading).
    tilt_sign
        1 or -1, multiplies the angles. The wrong one makes the mirror image of the specimen.

    Returns
    -------
    TiltSeries
        ``[tilt, z, u]`` float32.

    Raises
    ------
    TiltSeriesError
        Missing file, unknown format, other number of angles than images (both are named), an
        image that is not finite (its index is named), pixel size or angles that are in no file.

    Notes
    -----
    Borders that one value was filled into, as programs do that move images, are replaced by what lies beside them;
    ``metadata["filled_borders"]`` says in how many images and how wide.
    """
    path = Path(path)
    if tilt_axis not in ("vertical", "horizontal"):
        raise TiltSeriesError(f"tilt_axis must be vertical or horizontal, not {tilt_axis!r}")
    if tilt_sign not in (1, -1):
        raise TiltSeriesError(f"tilt_sign must be 1 or -1, not {tilt_sign!r}")
    signal = _read_stack(path)
    axes = sorted(signal["axes"], key=lambda axis: axis.get("index_in_array", 0))
    n_images = signal["data"].shape[0]

    if pixel_nm is None:
        pixel_nm = _pixel_from_file(path, axes)
    if angles_path is not None:
        angles = read_angles(angles_path)
        source = Path(angles_path).name
    else:
        angles = _angles_from_file(path, axes, signal, n_images)
        source = path.name
    if len(angles) != n_images:
        raise TiltSeriesError(
            f"{path.name} has {n_images} images but {source} has {len(angles)} angles; "
            "there must be one angle, on one line, for each image in the same order"
        )

    images = signal["data"]
    if tilt_axis == "horizontal":
        images = images.transpose(0, 2, 1)
    metadata = {
        "file": path.name,
        "angles_from": source,
        "tilt_axis_in_file": tilt_axis,
        "tilt_sign": tilt_sign,
        "recorded_dtype": str(signal["data"].dtype),
        **_acquisition(signal),
    }
    series = TiltSeries(
        images=np.asarray(images),
        angles_deg=tilt_sign * angles,
        pixel_nm=pixel_nm,
        name=path.name,
        metadata=metadata,
    )
    images, filled = replace_filled_borders(series.images)
    if not filled.any():
        return series
    found = {"images": int(filled.any(axis=1).sum()), "widest_px": int(filled.max())}
    log.warning(
        "%s: one value fills borders of %d images, up to %d pixels wide; what lies beside them is put there",
        path.name, *found.values(),
    )  # fmt: skip
    return replace(series, images=images, metadata={**metadata, "filled_borders": found})


def read_angles(path: str | Path) -> NDArray[np.float64]:
    """Tilt angles in degrees from a text file, one a line; empty lines and # comments are skipped.

    Raises
    ------
    TiltSeriesError
        The file is missing or empty, or a line is no number (the line is named).
    """
    path = Path(path)
    if not path.is_file():
        raise TiltSeriesError(f"{path} is no file; tilt_angles must name a text file of degrees")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise TiltSeriesError(f"{path.name} is no text in UTF-8; save it as plain text, one angle a line") from None
    angles = []
    for number, line in enumerate(lines, start=1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        try:
            angles.append(float(text))
        except ValueError:
            raise TiltSeriesError(
                f"{path.name}, line {number}: expected one angle in degrees, with a decimal point, found {text!r}"
            ) from None
    if not angles:
        raise TiltSeriesError(f"{path.name} holds no angles; write one a line, in degrees")
    return np.asarray(angles)


def save_tilt_series(path: str | Path, series: TiltSeries) -> tuple[Path, Path]:
    """Write a series as MRC and, beside it, its angles as ``.rawtlt``.

    Whole numbers that fit are stored as unsigned or signed 16-bit integers (detector counts),
    anything else as float32. The pixel size goes into the header in angstrom, as MRC asks.

    Parameters
    ----------
    path
        ``something.mrc``.
    series
        Written with its tilt axis vertical.

    Returns
    -------
    tuple of Path
        The MRC file and the angles file.
    """
    path = Path(path)
    angles_path = path.with_suffix(".rawtlt")
    images = series.images
    low, high = float(images.min()), float(images.max())
    whole = all(np.array_equal(image, np.rint(image)) for image in images)
    dtype: type = np.float32
    if whole and low >= 0 and high <= np.iinfo(np.uint16).max:
        dtype = np.uint16
    elif whole and low >= np.iinfo(np.int16).min and high <= np.iinfo(np.int16).max:
        dtype = np.int16
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(images.astype(dtype))
        file.set_image_stack()
        file.voxel_size = series.pixel_nm * 10
        # in place of mrcfile's own, which has the time: the same series gives the same bytes
        file.header.label[0] = "mesotomo tilt series [tilt, z, u]"
    lines = "".join(f"{angle:.4f}\n" for angle in series.angles_deg)
    angles_path.write_text(lines, encoding="utf-8")
    return path, angles_path


def _read_stack(path: Path) -> dict[str, Any]:
    """The first three-dimensional signal of a file, as RosettaSciIO's dictionary."""
    if not path.is_file():
        raise TiltSeriesError(f"{path} is no file; tilt_series must name one")
    plugin = READERS.get(path.suffix.lower())
    if plugin is None:
        raise TiltSeriesError(
            f"{path.name}: no reader for {path.suffix or 'a file without extension'}; "
            f"known are {', '.join(sorted(READERS))}"
        )
    reader = importlib.import_module(f"rsciio.{plugin}").file_reader
    try:
        signals: Sequence[dict[str, Any]] = reader(str(path))
    except Exception as error:  # readers of damaged files raise anything from KeyError to OSError
        raise TiltSeriesError(f"{path.name} cannot be read as {plugin}: {type(error).__name__}: {error}") from error
    for signal in signals:
        if signal["data"].ndim == 3:
            if signal["data"].dtype.kind not in "buif":
                found = signal["data"].dtype
                raise TiltSeriesError(
                    f"{path.name} holds pixels of type {found}; expected grey levels, one number each"
                )
            if plugin == "mrc" and signal["data"].dtype == np.uint8 and _has_signed_bytes(path):
                signal["data"] = np.asarray(signal["data"]).view(np.int8)
            return signal
    shapes = ", ".join(str(signal["data"].shape) for signal in signals[:3]) or "nothing"
    more = f" and {len(signals) - 3} more" if len(signals) > 3 else ""
    raise TiltSeriesError(
        f"{path.name} holds {shapes}{more}; expected one stack of images with the axes [tilt, row, column]; save it so"
    )


def _has_signed_bytes(path: Path) -> bool:
    """Whether an MRC file of bytes means signed ones: as MRC2014 has it, or as IMOD says of its own files."""
    with mrcfile.open(path, header_only=True, permissive=True) as file:
        header = file.header
    stamp, flags = np.frombuffer(header.extra2.tobytes()[40:48], header.nx.dtype.newbyteorder("="))
    return bool(flags & 1) if stamp == _IMOD else int(header.nversion) >= 20140


def _pixel_from_file(path: Path, axes: Sequence[dict[str, Any]]) -> float:
    """Pixel size in nm as the file gives it; refuses to guess."""
    mend = "give it as pixel_nm in the sample file"
    sizes = []
    for axis in axes[1:3]:
        unit = _unit(axis)
        scale = abs(float(axis.get("scale", 0) or 0))
        if unit not in NM_PER_UNIT or scale == 0 or not math.isfinite(scale):
            found = f"{scale:g} {unit}" if unit else "no length unit"
            raise TiltSeriesError(f"{path.name} carries no pixel size ({found}); {mend}")
        sizes.append(scale * NM_PER_UNIT[unit])
    if not math.isclose(sizes[0], sizes[1], rel_tol=1e-3):
        raise TiltSeriesError(
            f"{path.name}: pixels of {sizes[0]:g} x {sizes[1]:g} nm are not square; resample the images, or {mend}"
        )
    return float(f"{sizes[0]:.7g}")  # headers are float32: 0.07 comes back as 0.0700000003


def _angles_from_file(
    path: Path, axes: Sequence[dict[str, Any]], signal: dict[str, Any], n_images: int
) -> NDArray[np.float64]:
    """Angles in degrees from a stack axis in degrees or an FEI extended header."""
    axis = axes[0]
    unit = _unit(axis)
    if unit in _DEGREES_PER_UNIT:
        values = np.asarray(axis.get("axis", axis.get("offset", 0.0) + axis.get("scale", 1.0) * np.arange(n_images)))
        return values.astype(np.float64) * _DEGREES_PER_UNIT[unit]
    header = signal.get("original_metadata", {}).get("fei_header")
    tilts = None if header is None else np.ravel(np.asarray(header.get("a_tilt", [])))
    if tilts is not None and tilts.size >= n_images and np.ptp(tilts[:n_images]) > 0:
        return tilts[:n_images].astype(np.float64)
    raise TiltSeriesError(
        f"{path.name} carries no tilt angles; give a text file of degrees, one a line, "
        "as tilt_angles in the sample file"
    )


def _acquisition(signal: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of its recording: ``microscope``, named as HyperSpy does, and ``title, date, time, authors``."""
    metadata = signal.get("metadata", {})
    microscope = plain_metadata(metadata.get("Acquisition_instrument", {}))
    # formats of makers leave their own names, and say how HyperSpy would call them
    for source, (target, convert) in (signal.get("mapping") or {}).items():
        first, *groups, name = target.split(".")
        value = reduce(lambda item, key: item.get(key) if hasattr(item, "get") else None, source.split("."),
                       signal.get("original_metadata", {}))  # fmt: skip
        if first != "Acquisition_instrument" or value is None:
            continue
        try:
            value = value if convert is None else convert(value)
        except (TypeError, ValueError, LookupError):
            continue  # not of the kind that its format promises
        each = plain_metadata(value)
        if isinstance(each, list):  # one an image; an FEI header has room for 1024
            each = each[: len(signal["data"])]
        constant = isinstance(each, list) and each and all(item == each[0] for item in each)
        reduce(lambda group, key: group.setdefault(key, {}), groups, microscope)[name] = each[0] if constant else each
    general = metadata.get("General", {})
    found = {key: plain_metadata(general[key]) for key in ("title", "date", "time", "authors") if general.get(key)}
    return found | ({"microscope": microscope} if microscope else {})


def plain_metadata(value: Any) -> Any:
    """Metadata in the types JSON has, so that it can stand in a file; what has no counterpart becomes text.

    >>> plain_metadata({"voltage_kV": np.float32(300), "tilts": np.array([0, 1]), "path": Path("a")})
    {'voltage_kV': 300.0, 'tilts': [0, 1], 'path': 'a'}
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain_metadata(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_metadata(item) for item in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _unit(axis: dict[str, Any]) -> str:
    unit = axis.get("units")
    return unit.strip().lower() if isinstance(unit, str) else ""
