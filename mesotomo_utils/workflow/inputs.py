"""A look at the data that a sample names, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mesotomo_utils.workflow.sample import Sample, SampleError


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
        is no number, indices that are no lattice's, a neck of no dot, a parameter that the twin does not know.
    """
    source = sample.source
    checks = {"twin": _check_twin, "tilt_series": _check_tilt_series, "tomogram": _check_tomogram}
    try:
        pixel_nm = checks.get(source, _check_table)(sample)
    except SampleError:
        raise
    except (ValueError, OSError, KeyError, TypeError) as error:
        text = " ".join(str(error).split()).removeprefix(f"{source}: ")
        angles = sample.tilt_angles is not None and text.startswith((sample.tilt_angles.name, str(sample.tilt_angles)))
        raise SampleError(f"{sample.path}: {'tilt_angles' if angles else source}: {text}") from None
    _check_dots(sample, pixel_nm)
    return pixel_nm


def check_settings(settings: Mapping[str, Any], *, device: str, dask: str | None = None) -> None:
    """Whether the method and the engine that 01 is asked for are there.

    Raises
    ------
    SampleError
        One is unknown, the two do not go together, or the engine is not installed (that a cluster is left to say).
    """
    from mesotomo_utils.tomography.engines import ENGINES, check_method

    try:
        check_method(settings["method"], settings["engine"])
        if dask is None and settings["engine"] != "nufft":  # ours is always there, and takes seconds to be compiled
            ENGINES[settings["engine"]]([0.0], 8, device)
    except (ValueError, RuntimeError) as error:
        raise SampleError(f"01_reconstruction: {error}") from None


def _check_dots(sample: Sample, pixel_nm: float | None) -> None:
    """What is said of the dots, as far as steps after the first would stumble over it."""
    if sample.material is not None:
        from mesotomo_utils.tomography.lattice_lines import elements

        try:
            elements(sample.material.name)
        except ValueError as error:
            raise SampleError(f"{sample.path}: material.name: {error}") from None
    if sample.quantum_dot is not None and pixel_nm is not None:
        from mesotomo_utils.mapping.template import FEWEST_VOXELS

        if sample.quantum_dot.diameter_nm < FEWEST_VOXELS * pixel_nm:
            raise SampleError(
                f"{sample.path}: quantum_dot.diameter_nm: expected {FEWEST_VOXELS} pixels of {pixel_nm:g} nm or more, "
                f"found {sample.quantum_dot.diameter_nm:g}; mend it, or the pixel size"
            )


def _check_twin(sample: Sample) -> None:
    # the one place where the workflow asks the twin: whether it knows its parameters
    from mesotomo_utils.twin.imposed import twin_parameters

    twin_parameters(sample.twin or {})


def _check_tilt_series(sample: Sample) -> float:
    from mesotomo_utils.tomography.alignment import check_series
    from mesotomo_utils.tomography.tilt_series import load_tilt_series

    assert sample.tilt_series is not None
    series = load_tilt_series(
        sample.tilt_series,
        angles_path=sample.tilt_angles,
        pixel_nm=sample.pixel_nm,
        tilt_axis=sample.tilt_axis,
        tilt_sign=sample.tilt_sign,
    )
    check_series(series)
    return float(series.pixel_nm)


def _check_tomogram(sample: Sample) -> float:
    from mesotomo_utils.tomography.tomogram import load_tomogram

    assert sample.tomogram is not None
    _, voxel_nm = load_tomogram(sample.tomogram, voxel_nm=sample.voxel_nm)
    return float(voxel_nm)


def _check_table(sample: Sample) -> None:
    """Centres or dots, with the lattice indices and the necks that come with them."""
    from mesotomo_utils.mapping import dot_table, superlattice

    file = sample.centres or sample.dots
    assert file is not None
    frame = pd.read_csv(file)
    dots = dot_table.read_centres(frame, name=file.name)
    if dot_table.has_index(frame):
        superlattice.superlattice_from_sites(dots[dot_table.POSITION], frame)
    if sample.necks is not None:
        try:
            dot_table.read_necks(pd.read_csv(sample.necks), frame.get("qd", dots["qd"]), name=sample.necks.name)
        except ValueError as error:
            raise SampleError(f"{sample.path}: necks: {error}") from None
