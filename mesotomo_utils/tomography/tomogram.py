"""Tomograms on disk: OME-Zarr 0.5 written and read, MRC, HDF5 and TIFF read.

Axes are ``[z, y, x]`` and the origin is the centre of the volume: voxel i of n sits at
(i − (n − 1)/2)·voxel. OME-Zarr says where its first voxel sits, so that is the translation in the
files; each level of the pyramid carries its own, and all levels lie on top of each other.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr

from mesotomo_utils.tomography.tilt_series_formats import NM_PER_UNIT
from mesotomo_utils.tomography.tomogram_writer import CHUNK, KEY, TomogramError, TomogramWriter, check_finite

_READERS = {".mrc": "mrc", ".map": "mrc", ".rec": "mrc", ".tif": "tiff", ".tiff": "tiff", ".hspy": "hspy"}
_HDF5 = (".h5", ".hdf5", ".hdf")


@dataclass(frozen=True)
class Tomogram:
    """An OME-Zarr tomogram, opened but not loaded.

    Attributes
    ----------
    path
        The folder.
    group
        The zarr group that holds the levels.
    levels
        Names of the arrays, the full one first.
    voxel_nm
        Edge of a voxel of the full level, nm.
    attributes
        What the writer noted: method, engine, device, and so on.
    """

    path: Path
    group: zarr.Group
    levels: tuple[str, ...]
    voxel_nm: float
    attributes: dict[str, Any]

    @property
    def data(self) -> zarr.Array:
        """The full level, ``[z, y, x]``; slicing reads only what is asked for."""
        return self.group[self.levels[0]]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the full level."""
        return self.data.shape

    @property
    def angles_deg(self) -> list[float]:
        """Tilts that it was reconstructed from, degrees; none where the writer noted none."""
        return self.attributes.get("series", {}).get("angles_deg", [])

    def load(self) -> np.ndarray:
        """The full level in memory, float32."""
        return np.asarray(self.data[:], dtype=np.float32)

    def level(self, k: int) -> tuple[np.ndarray, float]:
        """Level k in memory (float32) and its voxel in nm; each level is coarser by 2.

        Raises
        ------
        IndexError
            There is no level k.
        """
        if not 0 <= k < len(self.levels):
            raise IndexError(f"{self.path.name} has levels 0 to {len(self.levels) - 1}, not {k}")
        return np.asarray(self.group[self.levels[k]][:], dtype=np.float32), self.voxel_nm * 2**k

    def middle(self, k: int) -> np.ndarray:
        """(3,) index [z, y, x] of the origin in level k: not its middle where the full level is no multiple of 2ᵏ."""
        return (np.array(self.shape) / 2**k - 1) / 2


def write_tomogram(
    path: str | Path,
    volume: np.ndarray,
    voxel_nm: float,
    *,
    attributes: Mapping[str, Any] | None = None,
    levels: int | None = None,
) -> Path:
    """Write a volume as OME-Zarr 0.5 with a pyramid; whole or not at all.

    Parameters
    ----------
    path, voxel_nm, attributes, levels
        As of :class:`TomogramWriter`.
    volume
        (Z, Y, X), stored as float32.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    TomogramError
        The volume is not three-dimensional, is empty or constant, or holds a value that is not finite.
    """
    volume = np.asarray(volume)
    check_tomogram(volume, Path(path).name)
    with TomogramWriter(path, volume.shape, voxel_nm, attributes=attributes, levels=levels) as writer:
        for first in range(0, len(volume), 2 * CHUNK):
            writer.write(first, volume[first : first + 2 * CHUNK])
    return Path(path)


def open_tomogram(path: str | Path, voxel_nm: float | None = None) -> Tomogram:
    """Open an OME-Zarr tomogram (0.5, or 0.4) without loading it.

    Parameters
    ----------
    path
        Folder of the group with the ``multiscales``.
    voxel_nm
        Edge of a voxel, nm; given here it wins over the file's.

    Returns
    -------
    Tomogram
        The opened tomogram.

    Raises
    ------
    TomogramError
        Missing, no OME-Zarr or one left half-written, not three space axes z, y, x, a unit that is no length,
        or voxels that are not cubes.
    """
    path = Path(path)
    if not path.is_dir():
        raise TomogramError(f"{path} is missing; expected the folder of an OME-Zarr tomogram")
    try:
        # absolute, because a worker elsewhere that reads from it has another working folder
        group = zarr.open_group(path.absolute(), mode="r")
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise TomogramError(f"{path.name} is no zarr group ({error})") from error
    attributes = dict(group.attrs)
    multiscales = attributes.get("ome", attributes).get("multiscales")
    if not multiscales:
        raise TomogramError(
            f"{path.name} has no OME-Zarr multiscales: it was left half-written or is another kind of zarr; "
            "remove it and write it again"
        )
    image = multiscales[0]
    names = [axis["name"] for axis in image["axes"]]
    if names != ["z", "y", "x"]:
        raise TomogramError(f"{path.name} has the axes {names}; expected z, y, x")
    levels = tuple(dataset["path"] for dataset in image["datasets"])
    absent = [level for level in levels if level not in group]
    if absent:
        raise TomogramError(f"{path.name}: level {absent[0]!r} is missing, the tomogram is damaged; write it again")
    own = attributes.get(KEY, {})
    edge = _voxel_of(image, path.name) if voxel_nm is None else float(voxel_nm)
    return Tomogram(path, group, levels, edge, dict(own.get("attributes", {})))


def _voxel_of(image: dict[str, Any], name: str) -> float:
    """Edge of a voxel by the ``multiscales``, nm."""
    scale = np.ones(3)
    for transform in [*image["datasets"][0]["coordinateTransformations"], *image.get("coordinateTransformations", [])]:
        if transform["type"] == "scale":
            scale *= transform["scale"]
    units = {axis.get("unit", "") for axis in image["axes"]}
    unit = units.pop().lower() if len(units) == 1 else ""
    if unit not in NM_PER_UNIT:
        raise TomogramError(f"{name}: its axes carry no common unit of length; expected nanometer")
    return _cubic(scale * NM_PER_UNIT[unit], name)


def load_tomogram(path: str | Path, voxel_nm: float | None = None) -> tuple[np.ndarray, float]:
    """Load a tomogram from OME-Zarr, MRC, HDF5 (also HSPY) or TIFF.

    Parameters
    ----------
    path
        File, or folder of an OME-Zarr. An HDF5 file holds one three-dimensional data set.
    voxel_nm
        Edge of a voxel, nm; given here it wins over the file's.

    Returns
    -------
    volume
        (Z, Y, X) float32.
    voxel_nm
        Edge of a voxel, nm.

    Raises
    ------
    TomogramError
        Missing, an unknown format, not three-dimensional, no voxel size, voxels that are not cubes; or the
        volume is empty, constant or not finite.
    """
    path = Path(path)
    if not path.exists():
        raise TomogramError(f"{path} is missing; `tomogram:` must name a file that exists")
    suffix = path.suffix.lower()
    if path.is_dir():
        tomogram = open_tomogram(path, voxel_nm)
        volume, voxel = tomogram.load(), tomogram.voxel_nm
    elif suffix in _HDF5:
        volume, voxel = _load_hdf5(path, voxel_nm)
    elif suffix in _READERS:
        volume, voxel = _load_rosettasciio(path, _READERS[suffix], voxel_nm)
    else:
        known = ", ".join([".ome.zarr", *_HDF5, *_READERS])
        raise TomogramError(f"{path.name}: no reader for {suffix or 'a file without ending'}; known are {known}")
    if voxel is None:
        raise TomogramError(f"{path.name} carries no voxel size; give `voxel_nm` in the sample file")
    volume = np.ascontiguousarray(volume, dtype=np.float32)
    check_tomogram(volume, path.name)
    return volume, float(voxel)


def tomogram_attributes(path: str | Path) -> dict[str, Any]:
    """What the writer of an OME-Zarr of ours noted (nothing for other files), and the file's name as ``source``.

    Raises
    ------
    TomogramError
        A folder that is no tomogram.
    """
    path = Path(path)
    return (open_tomogram(path).attributes if path.is_dir() else {}) | {"source": path.name}


def check_tomogram(volume: np.ndarray, name: str) -> None:
    """Refuse what cannot be a tomogram.

    Parameters
    ----------
    volume
        (Z, Y, X).
    name
        What to call it in the message.

    Raises
    ------
    TomogramError
        Not three-dimensional, empty, constant, or not finite (the slice is named).
    """
    if volume.ndim != 3:
        raise TomogramError(f"{name}: a tomogram has the axes [z, y, x]; this array has the shape {volume.shape}")
    if volume.size == 0:
        raise TomogramError(f"{name}: the tomogram is empty, its shape is {volume.shape}")
    check_finite(volume, name, 0)
    first = volume.flat[0]
    if all(np.all(section == first) for section in volume):
        raise TomogramError(f"{name}: the tomogram is constant, every voxel is {first:g}; nothing is in it")


def _cubic(voxel: np.ndarray, name: str) -> float:
    """One voxel edge from three; headers are float32, so 7 digits."""
    if not np.allclose(voxel, voxel[0], rtol=1e-3) or voxel[0] <= 0:
        sizes = " × ".join(f"{edge:g}" for edge in voxel)
        raise TomogramError(f"{name}: voxels of {sizes} nm are not cubes; resample the volume, or give `voxel_nm`")
    return float(f"{voxel[0]:.7g}")


def _load_hdf5(path: Path, voxel_nm: float | None) -> tuple[np.ndarray, float | None]:
    """The one three-dimensional data set of a file, and the voxel given, or else its ``voxel_nm`` attribute if any."""
    try:
        with h5py.File(path, "r") as file:
            found: list[str] = []
            file.visititems(lambda key, item: found.append(key) if getattr(item, "ndim", 0) == 3 else None)
            if len(found) != 1:
                names = ", ".join(found) or "none"
                raise TomogramError(
                    f"{path.name}: expected one three-dimensional data set, found {len(found)} ({names}); "
                    "keep the tomogram alone in the file"
                )
            data = file[found[0]]
            if voxel_nm is None:
                voxel_nm = data.attrs.get("voxel_nm", file.attrs.get("voxel_nm"))
            return data[:], None if voxel_nm is None else float(voxel_nm)
    except OSError as error:
        raise TomogramError(f"{path.name} cannot be read as HDF5: {error}") from error


def _load_rosettasciio(path: Path, plugin: str, voxel_nm: float | None) -> tuple[np.ndarray, float | None]:
    reader = importlib.import_module(f"rsciio.{plugin}").file_reader
    try:
        signals = reader(str(path))
    except Exception as error:  # readers of damaged files raise anything from KeyError to OSError
        raise TomogramError(f"{path.name} cannot be read as {plugin}: {type(error).__name__}: {error}") from error
    volumes = [signal for signal in signals if np.squeeze(signal["data"]).ndim == 3]
    if not volumes:
        shapes = ", ".join(str(signal["data"].shape) for signal in signals) or "nothing"
        raise TomogramError(f"{path.name} holds {shapes}; expected one volume with the axes [z, y, x]")
    volume = np.squeeze(volumes[0]["data"])
    if voxel_nm is not None:
        return volume, float(voxel_nm)
    axes = sorted(volumes[0]["axes"], key=lambda axis: axis.get("index_in_array", 0))[-3:]
    units = [str(axis.get("units", "")).lower() for axis in axes]
    scales = np.array([abs(float(axis.get("scale", 0) or 0)) for axis in axes])
    # an MRC stack of pages leaves z without a length: the two others are enough where they agree
    known = [i for i in range(3) if units[i] in NM_PER_UNIT and scales[i] > 0]
    if len(known) < 2:
        return volume, None
    return volume, _cubic(np.array([scales[i] * NM_PER_UNIT[units[i]] for i in known]), path.name)
