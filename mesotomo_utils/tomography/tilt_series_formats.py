"""What the files of microscopes hold, as RosettaSciIO reads them: images, pixel size, tilts, and what else is known."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from numpy.typing import NDArray

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


def read_stack(path: Path) -> dict[str, Any]:
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
            if plugin == "mrc" and signal["data"].dtype.itemsize == 1:  # which the reader takes for one or the other
                signal["data"] = np.asarray(signal["data"]).view(np.int8 if _has_signed_bytes(path) else np.uint8)
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
    stamp, flags = np.frombuffer(header.extra2.tobytes()[40:48], header.nx.dtype)
    return bool(flags & 1) if stamp == _IMOD else int(header.nversion) >= 20140


def pixel_from_file(path: Path, axes: Sequence[dict[str, Any]]) -> float:
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


def angles_from_file(
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


def acquisition(signal: Mapping[str, Any]) -> dict[str, Any]:
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
