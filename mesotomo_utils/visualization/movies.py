"""Short films: through the tilt series and through a tomogram."""

import os
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mesotomo_utils.distribute import chunk_depth


def write_movie(path: str | Path, frames: Iterable[np.ndarray], *, frames_per_second: float = 12.0) -> Path:
    """Write frames as GIF or MP4, by the suffix of ``path``; under its final name only once whole.

    Parameters
    ----------
    path
        ``.mp4``, or ``.gif``, ten times as large. Without a suffix it is MP4 where FFmpeg is there, else GIF.
    frames
        (rows, columns) or (rows, columns, 3) uint8 images of one size.
    frames_per_second
        Speed.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ValueError
        Another suffix; no frame.
    """
    path = Path(path)
    if not path.suffix:
        path = path.with_name(path.name + (".mp4" if _has_ffmpeg() else ".gif"))
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
                partial, np.stack(even), fps=frames_per_second, codec="libx264", macro_block_size=2, plugin="FFMPEG",
                # noise is what fills a film: this keeps half a thousand kB of it, in a third of the default's time
                quality=None, output_params=["-preset", "superfast", "-crf", "29"],
            )  # fmt: skip
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _has_ffmpeg() -> bool:
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return False
    return True


def tilt_frames(
    images: np.ndarray,
    angles_deg: np.ndarray,
    *,
    aligned: np.ndarray | None = None,
    used: np.ndarray | None = None,
    size: int = 320,
    every: int = 1,
) -> Iterator[np.ndarray]:
    """Frames of a tilt series, each with its angle in the corner; the aligned images beside the recorded ones.

    Parameters
    ----------
    images
        [tilt, z, u]; z grows upwards in the film.
    angles_deg
        (tilts,) degrees.
    aligned
        [used tilt, z, u], shown at the right; None shows the recorded ones alone.
    used
        (tilts,) True where an image has an aligned one; all by default. The others' place stays black.
    size
        Longer side of an image in the film, pixels.
    every
        Show each n-th tilt.

    Raises
    ------
    ValueError
        There are not as many angles as images, or not as many aligned images as used ones.
    """
    if len(images) != len(angles_deg):
        raise ValueError(f"{len(images)} images but {len(angles_deg)} angles")
    used = np.ones(len(images), bool) if used is None else np.asarray(used, bool)
    if aligned is not None and (len(used) != len(images) or used.sum() != len(aligned)):
        raise ValueError(f"{len(aligned)} aligned images but {used.sum()} of {len(images)} are used")
    chosen = np.argsort(angles_deg, kind="stable")[::every]
    limits = _grey_limits(images[chosen[:: max(1, len(chosen) // 20)]])
    place = np.cumsum(used) - 1
    if aligned is not None:
        limits_aligned = _grey_limits(aligned[:: max(1, len(aligned) // 20)])
    for tilt in chosen:
        frame = _frame(images[tilt], *limits, size, f"{angles_deg[tilt]:+.1f}°")
        if aligned is not None:
            beside = _frame(aligned[place[tilt]], *limits_aligned, size, "aligned") if used[tilt] else 0 * frame
            frame = np.hstack([frame, np.full((len(frame), 4), 255, np.uint8), beside])
        yield frame


def slice_frames(
    volume: np.ndarray,
    voxel_nm: float,
    *,
    axis: str = "z",
    box: tuple[slice, slice, slice] | None = None,
    size: int = 320,
    n_frames: int = 60,
) -> Iterator[np.ndarray]:
    """Frames of sections through a tomogram along z, y or x, each with its place in the corner.

    Parameters
    ----------
    volume
        [z, y, x], NumPy or Zarr; sections that share the chunks of a Zarr array are read together.
    voxel_nm
        Side of a voxel.
    axis
        ``z``, ``y`` or ``x``.
    box
        Part of the volume to show, along z, y, x; all of it by default.
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
    box = (slice(None),) * 3 if box is None else box
    places = section_places(n, part=box[number], n_frames=n_frames)

    middle = places[len(places) // 4 : 3 * len(places) // 4 + 1 : 4]
    low, high = _grey_limits(np.stack(list(_sections(volume, number, middle, box))))
    for place, section in zip(places, _sections(volume, number, places, box), strict=True):
        at = (place - (n - 1) / 2) * voxel_nm
        yield _frame(section, low, high, size, f"{axis} = {at:+.1f} nm")


def _sections(volume: Any, number: int, places: np.ndarray, box: tuple[slice, ...]) -> Iterator[np.ndarray]:
    """Sections across an axis, in order; those in one layer of chunks of a Zarr array share one reading."""
    depth = chunk_depth(volume, number)
    for _, layer in groupby(places.tolist(), key=lambda place: place // depth):
        layer = list(layer)
        where = [*box[:number], slice(layer[0], layer[-1] + 1), *box[number + 1 :]]
        block = np.moveaxis(np.asarray(volume[tuple(where)]), number, 0)
        for place in layer:
            yield block[place - layer[0]]


def section_places(n: int, *, part: slice = slice(None), n_frames: int = 60) -> np.ndarray:
    """Which of n sections a film shows: so many at most, evenly spaced over a part of them.

    >>> section_places(9, n_frames=3).tolist()
    [0, 4, 8]
    """
    shown = range(n)[part]
    return np.unique(np.linspace(shown[0], shown[-1], min(len(shown), n_frames)).round().astype(int))


def _grey_limits(images: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(images[:, ::2, ::2], (0.5, 99.8))
    return float(low), float(max(high, low + 1e-12))


def _frame(image: np.ndarray, low: float, high: float, size: int, text: str) -> np.ndarray:
    grey = (np.asarray(image, np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    picture = Image.fromarray(np.rint(np.clip(grey[::-1], 0, 255)).astype(np.uint8))
    factor = size / max(picture.size)
    picture = picture.resize(tuple(max(2, round(side * factor)) for side in picture.size), Image.Resampling.HAMMING)
    font = ImageFont.load_default(size=max(10, size // 22))
    ImageDraw.Draw(picture).text((6, 4), text, fill=255, font=font, stroke_width=2, stroke_fill=0)
    return np.asarray(picture)
