"""A look at the data that a sample names, before anything is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mesotomo_utils.workflow.sample import POSITION_COLUMNS, Sample, SampleError


def check_inputs(sample: Sample) -> float | None:
    """Open what the sample names and say what is wrong with it.

    Parameters
    ----------
    sample
        A checked sample file.

    Returns
    -------
    float or None
        Pixel or voxel size in nm, from the sample or its file; None for tables and twins.

    Raises
    ------
    SampleError
        One line with the file, the key, what is wrong and the mend: angles that are fewer than
        the images, an image that is not finite, no pixel size, an empty tomogram, a position that
        is no number, a parameter that the twin does not know.
    """
    source = sample.source
    try:
        if source == "twin":
            _check_twin(sample)
            return None
        if source == "tilt_series":
            return _check_tilt_series(sample)
        if source == "tomogram":
            return _check_tomogram(sample)
    except SampleError:
        raise
    except (ValueError, OSError, KeyError, TypeError) as error:
        text = " ".join(str(error).split()).removeprefix(f"{source}: ")
        raise SampleError(f"{sample.path}: {source}: {text}") from None
    _check_positions(sample.path, source, getattr(sample, source))
    return None


def _check_twin(sample: Sample) -> None:
    # the one place where the workflow asks the twin: whether it knows its parameters
    from mesotomo_utils.twin.imposed import twin_parameters

    twin_parameters(sample.twin or {})


def _check_tilt_series(sample: Sample) -> float:
    from mesotomo_utils.tomography.tilt_series import load_tilt_series

    assert sample.tilt_series is not None
    series = load_tilt_series(
        sample.tilt_series,
        angles_path=sample.tilt_angles,
        pixel_nm=sample.pixel_nm,
        tilt_axis=sample.tilt_axis,
        tilt_sign=sample.tilt_sign,
    )
    return float(series.pixel_nm)


def _check_tomogram(sample: Sample) -> float:
    from mesotomo_utils.tomography.tomogram import load_tomogram

    assert sample.tomogram is not None
    _, voxel_nm = load_tomogram(sample.tomogram, voxel_nm=sample.voxel_nm)
    return float(voxel_nm)


def _check_positions(path: Path, key: str, file: Path) -> None:
    frame = pd.read_csv(file)
    for column in POSITION_COLUMNS:
        numbers = pd.to_numeric(frame[column], errors="coerce")
        bad = np.flatnonzero(~np.isfinite(numbers.to_numpy(float)))
        if bad.size:
            found = frame[column].iloc[bad[0]]
            raise SampleError(
                f"{path}: {key}: {file.name}, line {bad[0] + 2}: {column} must be a number, "
                f"found {found!r}; mend or remove that line"
            )
