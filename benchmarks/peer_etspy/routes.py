"""ETSpy's side of benchmarks/alignment_etspy.py; runs in ETSpy's own environment, without ours.

``routes.py align IN.npz OUT.npz ROUTE...`` aligns the series ``images`` [tilt, y, x] (the tilt axis is x, as ETSpy has
it) at ``angles_deg`` by each route and writes where each puts its images; ``routes.py phantom OUT.npz SEED`` writes
ETSpy's own catalyst phantom, misaligned by ETSpy, with the truth.

A route is a chain of steps, ``"COM > CoM 76 > ProjMatch"``: stack registrations (PC, StackReg, COM, COM-CL), tilt
axes (CoM with its number of slices, MaxImage) and projection matching.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import logging
import time

import numpy as np

logging.disable(logging.WARNING)

import etspy.api as etspy  # noqa: E402
from etspy import datasets  # noqa: E402
from etspy.projmatch import ProjMatch  # noqa: E402

PACKAGES = ("etspy", "hyperspy", "scikit-image", "numpy", "astra-toolbox", "pystackreg")
REGISTRATIONS = ("PC", "StackReg", "COM", "COM-CL")


def step(stack: etspy.TomoStack, name: str) -> etspy.TomoStack:
    """One step of a route."""
    kind, *options = name.split()
    if kind in REGISTRATIONS:
        # by default COM-CL puts the mass into the row that has the number of the middle image
        reference = {"com_ref_index": stack.data.shape[1] // 2} if kind == "COM-CL" else {}
        return stack.stack_register(kind, **reference)
    if kind == "CoM":
        return stack.tilt_align("CoM", nslices=int(options[0])) if options else stack.tilt_align("CoM")
    if kind == "MaxImage":
        return stack.tilt_align("MaxImage")
    if kind == "ProjMatch":
        match = ProjMatch(stack, cuda=False)
        match.calculate_shifts()
        return match.apply_shifts()
    raise SystemExit(f"unknown step {name!r} of a route")


def place(stack: etspy.TomoStack) -> tuple[np.ndarray, np.ndarray]:
    """(T, 2) shifts (y, x) given to the images, and (angle, y, x) that all images were turned and moved by."""
    common = stack.metadata.Tomography
    return np.array(stack.shifts.data, float), np.array([common.tiltaxis, common.yshift, common.xshift], float)


def follow(stack: etspy.TomoStack, route: str, done: dict) -> tuple[etspy.TomoStack, float, np.ndarray]:
    """The stack aligned by a route; features went from p (y, x) to c + R(angle) (p - c) + moved, c half the size."""
    steps = [part.strip() for part in route.split(">")]
    angle, moved = 0.0, np.zeros((len(stack.data), 2))
    for i, name in enumerate(steps):
        key = tuple(steps[: i + 1])
        if key not in done:
            (shifts, common), aligned = place(stack), step(stack, name)
            new_shifts, new_common = place(aligned)
            turn, y, x = new_common - common
            c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
            # a tilt axis turns what the registrations before it moved; a registration moves what is turned
            moved = moved @ np.array([[c, -s], [s, c]]) + [-y, x] + (new_shifts - shifts)
            done[key] = aligned, angle + turn, moved
        stack, angle, moved = done[key]
    return stack, angle, moved


def align(arguments: argparse.Namespace) -> None:
    """Follow all routes and write them; the images too where asked."""
    given = np.load(arguments.input)
    images, angles = given["images"], given["angles_deg"]
    start = etspy.TomoStack(images.astype(np.float32), angles)
    done: dict = {}
    out: dict[str, np.ndarray] = {}
    for route in arguments.routes:
        begun = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()):
            try:
                stack, angle, moved = follow(start, route, done)
            except Exception as error:  # noqa: BLE001  a route that fails is told, the others go on
                print(f"  {route}: {type(error).__name__}: {error}", flush=True)
                continue
        out[f"{route}|angle_deg"], out[f"{route}|moved"] = np.array(angle), moved
        out[f"{route}|seconds"] = np.array(time.perf_counter() - begun)
        if arguments.images:
            out[f"{route}|images"] = stack.data.astype(np.float32)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    np.savez(arguments.output, versions=json.dumps(versions), **out)


def phantom(arguments: argparse.Namespace) -> None:
    """ETSpy's catalyst, jittered by up to 5 pixels, at half size as in ETSpy's own demonstration."""
    np.random.seed(arguments.seed)  # noqa: NPY002  ETSpy draws from the global generator
    stack = datasets.get_catalyst_data(misalign=True)
    images = stack.data.reshape(len(stack.data), 300, 2, 300, 2).mean(axis=(2, 4), dtype=np.float32)
    np.savez(arguments.output, images=images, angles_deg=stack.tilts.data.squeeze(), shifts=stack.shifts.data / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    aligning = commands.add_parser("align")
    aligning.add_argument("input")
    aligning.add_argument("output")
    aligning.add_argument("routes", nargs="+")
    aligning.add_argument("--images", action="store_true")
    aligning.set_defaults(run=align)
    making = commands.add_parser("phantom")
    making.add_argument("output")
    making.add_argument("seed", type=int)
    making.set_defaults(run=phantom)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
