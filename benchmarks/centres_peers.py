"""Centres of dots by our route and by three others, from the same picture of a twin's tomogram.

    python benchmarks/centres_peers.py runs/small

Takes a finished run of a twin (runs/small by default). All routes start from the tomogram with its atomic lattice
filtered away, on voxels of a twentieth of a diameter: normalised correlation with our own mean dot by
`skimage.feature.match_template`, its maxima refined by a parabola; trackpy's 3D `locate`, whose centroids weigh bright
voxels, with the most exact of 24 settings on the twin `small` (features of 21 voxels instead of 25 miss 3 dots there
and not 14, at 0.49 nm); and `skimage.feature.blob_log`, at one scale. Prints, for the dots at least 90 % inside the
needle, how many each missed, how far off their centres are after one rigid motion fitted to all, and the largest mean
of a layer; picks that stand on no dot at all; and seconds, the picture itself not counted. `pip install trackpy` brings
the second.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from skimage.feature import blob_log, match_template, peak_local_max

from mesotomo_utils.mapping import centres, template
from mesotomo_utils.mapping.sampling import to_nm
from mesotomo_utils.mapping.template import BodyImage
from mesotomo_utils.tomography.tomogram import open_tomogram
from mesotomo_utils.twin.errors import compare_dots
from mesotomo_utils.workflow.sample import load_sample

# Nearer than this, in diameters, are no two dots: for every route.
APART = template.SAME_DOT_DIAMETERS


def ours(image: BodyImage) -> pd.DataFrame:
    return centres.find_centres(image)[0]


def by_match_template(image: BodyImage) -> np.ndarray:
    mean = template.learn_template(image)[0].values
    scores = match_template(image.values, mean, pad_input=True, mode="edge")
    index = peak_local_max(scores, min_distance=round(APART * image.diameter_nm / image.step_nm / 2), threshold_abs=0.4)
    return to_nm(index + template._parabola(scores, index), scores.shape, image.step_nm)


def by_trackpy(image: BodyImage) -> np.ndarray:
    import trackpy

    trackpy.quiet()
    size = round(1.25 * image.diameter_nm / image.step_nm) // 2 * 2 + 1
    apart = APART * image.diameter_nm / image.step_nm
    found = trackpy.locate(np.clip(image.values, 0, None), size, separation=apart, engine="python")
    body = found["mass"] > 0.4 * found["mass"].quantile(0.9)  # half a dot is a dot
    return to_nm(found.loc[body, ["z", "y", "x"]].to_numpy(), image.values.shape, image.step_nm)


def by_blobs(image: BodyImage) -> np.ndarray:
    # a ball of radius r answers most at a scale of r over the root of three
    sigma = 0.6 * image.diameter_nm / image.step_nm / np.sqrt(3)
    found = blob_log(image.values, min_sigma=sigma, max_sigma=sigma, num_sigma=1, threshold=0.2, overlap=0.5)
    return to_nm(found[:, :3], image.values.shape, image.step_nm)


ROUTES: dict[str, Callable[[BodyImage], pd.DataFrame | np.ndarray]] = {
    "mesotomo": ours,
    "match_template": by_match_template,
    "trackpy.locate": by_trackpy,
    "blob_log": by_blobs,
}


def judge(route: Callable[[BodyImage], pd.DataFrame | np.ndarray], image: BodyImage, truth: pd.DataFrame) -> dict:
    """Missed dots, errors and seconds of one route."""
    begun = time.perf_counter()
    found = route(image)
    seconds = time.perf_counter() - begun
    if not isinstance(found, pd.DataFrame):
        found = pd.DataFrame(found, columns=["x_nm", "y_nm", "z_nm"])
    found = found.assign(qd=range(len(found)))
    summary, _, _ = compare_dots(found, truth, radius_nm=APART * image.diameter_nm / 2)
    error = summary["centre_error_nm"]
    return {
        "dots": summary["dots_true"],
        "missed": summary["missed"],
        "on no dot": summary["unmatched"],
        "median (nm)": error["median"],
        "95 % (nm)": error["p95"],
        "layer mean (nm)": summary["layer_bias_nm"],
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("run_dir", nargs="?", type=Path, default=Path("runs/small"), help="a finished run of a twin")
    run_dir = parser.parse_args().run_dir
    truth_file = run_dir / "truth" / "dots.csv"
    if not truth_file.exists():
        print(f"{truth_file} is missing: make run, or name the folder of a finished run of a twin")
        return
    tomogram = open_tomogram(run_dir / "tomogram.ome.zarr")
    diameter = load_sample(run_dir / "input" / "sample.yaml").quantum_dot.diameter_nm
    rows = {}
    for name, route in ROUTES.items():
        # a fresh picture for each: what one route has computed of it must not help the next
        image = template.body_image(tomogram.data, tomogram.voxel_nm, diameter_nm=diameter)
        try:
            rows[name] = judge(route, image, pd.read_csv(truth_file))
        except ImportError as error:
            print(f"{name} is left out: {error}; pip install 'mesotomo[peers]'")
    print(pd.DataFrame(rows).T.round(3).to_string())


if __name__ == "__main__":
    main()
