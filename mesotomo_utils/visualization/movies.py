"""Short films: through the tilt series and through a tomogram."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from PIL import Image, ImageDraw, ImageFont


def write_movie(path: str | Path, frames: Iterable[np.ndarray], *, frames_per_second: float = 12.0) -> Path:
    """Write frames as GIF or MP4, by the suffix of ``path``; under its final name only once whole.

    Parameters
    ----------
    path
        ``.gif`` (shows everywhere) or ``.mp4`` (a tenth of the size).
    frames
        (rows, columns) or (rows, columns, 3) uint8 images of one size.
    frames_per_second
        Speed.

    Raises
    ------
    ValueError
        Another suffix; no frame.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".gif", ".mp4"):
        raise ValueError(f"{path.name}: a film is .gif or .mp4")
    pictures = [np.asarray(frame, dtype=np.uint8) for frame in frames]
    if not pictures:
        raise ValueError(f"{path.name}: there is no frame to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        if suffix == ".gif":
            imageio.imwrite(partial, np.stack(pictures), duration=1000 / frames_per_second, loop=0)
        else:
            colour = [p if p.ndim == 3 else np.repeat(p[..., None], 3, axis=2) for p in pictures]
            # H.264 wants even sides; what is cut off is one row or column.
            even = [c[: c.shape[0] // 2 * 2, : c.shape[1] // 2 * 2] for c in colour]
            imageio.imwrite(
                partial, np.stack(even), fps=frames_per_second, codec="libx264", macro_block_size=2, plugin="FFMPEG"
            )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def tilt_frames(images: np.ndarray, angles_deg: np.ndarray, *, size: int = 320, every: int = 1) -> Iterator[np.ndarray]:
    """Frames of a tilt series, each with its angle in the corner.

    Parameters
    ----------
    images
        [tilt, z, u]; z grows upwards in the film.
    angles_deg
        (tilts,) degrees.
    size
        Longer side of a frame, pixels.
    every
        Show each n-th tilt.

    Raises
    ------
    ValueError
        There are not as many angles as images.
    """
    if len(images) != len(angles_deg):
        raise ValueError(f"{len(images)} images but {len(angles_deg)} angles")
    chosen = np.argsort(angles_deg, kind="stable")[::every]
    low, high = _grey_limits(images[chosen[:: max(1, len(chosen) // 20)]])
    for tilt in chosen:
        yield _frame(images[tilt], low, high, size, f"{angles_deg[tilt]:+.1f}°")


def slice_frames(
    volume: np.ndarray, voxel_nm: float, *, axis: str = "z", size: int = 320, n_frames: int = 60
) -> Iterator[np.ndarray]:
    """Frames of sections through a tomogram along z, y or x, each with its place in the corner.

    Parameters
    ----------
    volume
        [z, y, x] array or Zarr array; one section is read at a time.
    voxel_nm
        Side of a voxel.
    axis
        ``z``, ``y`` or ``x``.
    size
        Longer side of a frame, pixels.
    n_frames
        Number of sections, evenly spaced.

    Raises
    ------
    ValueError
        The axis is none of z, y, x.
    """
    if axis not in ("z", "y", "x"):
        raise ValueError(f"axis must be z, y or x, not {axis!r}")
    number = "zyx".index(axis)
    n = volume.shape[number]
    places = np.unique(np.linspace(0, n - 1, min(n, n_frames)).round().astype(int))

    def section(place: int) -> np.ndarray:
        where = [slice(None)] * 3
        where[number] = int(place)
        return np.asarray(volume[tuple(where)])

    middle = [section(place) for place in places[len(places) // 4 : 3 * len(places) // 4 + 1 : 4]]
    low, high = _grey_limits(np.stack(middle))
    for place in places:
        at = (place - (n - 1) / 2) * voxel_nm
        yield _frame(section(place), low, high, size, f"{axis} = {at:+.1f} nm")


def _grey_limits(images: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(images, (0.5, 99.8))
    return float(low), float(max(high, low + 1e-12))


def _frame(image: np.ndarray, low: float, high: float, size: int, text: str) -> np.ndarray:
    grey = np.clip((np.asarray(image, dtype=float) - low) / (high - low), 0, 1)
    picture = Image.fromarray(np.round(255 * grey[::-1]).astype(np.uint8))
    factor = size / max(picture.size)
    picture = picture.resize(tuple(max(2, round(side * factor)) for side in picture.size), Image.Resampling.LANCZOS)
    font = ImageFont.load_default(size=max(10, size // 22))
    ImageDraw.Draw(picture).text((6, 4), text, fill=255, font=font, stroke_width=2, stroke_fill=0)
    return np.asarray(picture)
