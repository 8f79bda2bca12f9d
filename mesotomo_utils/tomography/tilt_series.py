"""A tilt series: images, tilt angles and pixel size, read from the files microscopes write.

Conventions (DESIGN, "Conventions"): in memory a series is ``[tilt, z, u]``; z is the tilt axis and
grows with the row; at tilt t a point (x, y, z) appears at ``u = x cos t + y sin t``. The origin is the
centre of the image, so pixel i of n sits at ``(i - (n - 1) / 2) * pixel_nm``.

Nothing is aligned here: what was recorded is what comes out, turned so that the axis is vertical, but for borders that
a program filled in (:mod:`.filled_borders`).
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mesotomo_utils.tomography.filled_borders import replace_filled_borders
from mesotomo_utils.tomography.tilt_series_formats import (
    TiltSeriesError,
    acquisition,
    angles_from_file,
    pixel_from_file,
    read_stack,
)

log = logging.getLogger(__name__)


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
    """Read a tilt series from any format of :data:`.tilt_series_formats.READERS` and turn its tilt axis upright.

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
    signal = read_stack(path)
    axes = sorted(signal["axes"], key=lambda axis: axis.get("index_in_array", 0))
    n_images = signal["data"].shape[0]

    if pixel_nm is None:
        pixel_nm = pixel_from_file(path, axes)
    if angles_path is not None:
        angles = read_angles(angles_path)
        source = Path(angles_path).name
    else:
        angles = angles_from_file(path, axes, signal, n_images)
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
        **acquisition(signal),
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
