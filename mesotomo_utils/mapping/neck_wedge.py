"""What a wedge of missing tilts does to necks: model dots with known ones, seen from the same tilts, tell.

Along the missing directions a gap between two dots is hardly seen, and what is left of it passes for a part of the
neck. Both half sets miss the same wedge, so their difference knows nothing of it. How much it is depends on the gaps,
on how they lie in the wedge, and on all that stands around them, which no constant could hold for: facets that lie a
few degrees within the wedge are a nanometre worse than those a few degrees outside.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mesotomo_utils.backend import to_numpy
from mesotomo_utils.lattice import from_rotation_vectors
from mesotomo_utils.mapping.missing_wedge import as_tilts_show, fill_wedge, is_missing
from mesotomo_utils.mapping.model_film import cube_axes, draw_dots
from mesotomo_utils.mapping.necks import THRESHOLD, measure_necks
from mesotomo_utils.mapping.template import BodyImage, Template, body_image, levelled

#: As many models are drawn as give this many pairs, up to so many.
PAIRS, MOST_MODELS = 600, 8
#: Share of the pairs that have a neck, and the diameters of these, evenly, in edges of a dot.
NECK_FRACTION, NECK_EDGES = 0.5, (0.2, 0.85)
#: Standard deviations of the cubes' turns and of their edges, as a part; and of the blur of their surfaces before the
#: low-pass, in dot diameters.
TURN_DEG, EDGE_SPREAD, BLUR_DIAMETERS = 2.0, 0.02, 0.02
#: Where more than this share of the model's gaps without a neck look joined, necks are not told along that axis. Of
#: five twins (benchmarks/limited_tilts.py, w1 to w5) axes with 0.16 and less had 2 of 90 such gaps joined, three with
#: 0.28, 0.59 and 0.70 had 17 of 25.
CLOSED_FRACTION = 0.2
#: Nor are they where fewer than this many of the model's necks are found.
FEWEST_NECKS = 20
#: How much of what the factor changes counts as error: facets and gaps are not quite the model's. Of the mean errors of
#: w1 to w5 along B and C it left 0.1 to 0.6.
MODEL_ERROR = 0.5


def model_necks(
    image: BodyImage,
    template: Template,
    xyz_nm,
    turns: np.ndarray,
    pairs: pd.DataFrame,
    angles_deg,
    *,
    rng: np.random.Generator,
    threshold: float = THRESHOLD,
) -> pd.DataFrame:
    """Necks of cubes in the places of the dots, measured from their picture and from what tilts show of it.

    Parameters
    ----------
    image, template
        The tomogram of bodies and its mean dot, whose field, voxels and edge the model has.
    xyz_nm, turns
        (N, 3) centres and (N, 3, 3) whose columns are the axes of a cube.
    pairs
        ``qd_1, qd_2, axis`` from :func:`.superlattice.neighbour_pairs`.
    angles_deg
        (T,) tilts, degrees.
    rng
        For the turns and sizes of the cubes and for the necks.
    threshold
        As of :func:`.necks.measure_necks`.

    Returns
    -------
    DataFrame ``whole_nm, seen_nm``, a row for each pair, 0 where no neck is found.
    """
    xyz, edge_nm = np.asarray(xyz_nm, float), template.edge_nm
    turns = from_rotation_vectors(rng.normal(0, np.deg2rad(TURN_DEG), xyz.shape)) @ turns
    edges = edge_nm * (1 + rng.normal(0, EDGE_SPREAD, len(xyz)))
    joined = rng.random(len(pairs)) < NECK_FRACTION
    drawn = pairs.assign(diameter_nm=joined * edge_nm * rng.uniform(*NECK_EDGES, len(pairs)))
    size = {"diameter_nm": image.diameter_nm, "device": image.device}
    blur_nm = BLUR_DIAMETERS * image.diameter_nm
    volume = draw_dots(image.values.shape, image.step_nm, xyz, turns, edges, drawn, blur_nm=blur_nm)
    whole = body_image(volume, image.step_nm, **size)
    values, again = as_tilts_show(whole, angles_deg)
    seen = fill_wedge(levelled(to_numpy(again(values)), image.step_nm, **size), angles_deg)
    found = [measure_necks(picture, xyz, pairs, threshold=threshold)["diameter_nm"] for picture in (whole, seen)]
    return pd.DataFrame({"whole_nm": found[0].to_numpy(), "seen_nm": found[1].to_numpy()})


def wedge_of_necks(
    image: BodyImage,
    template: Template,
    xyz_nm,
    grain,
    cells: Mapping[int, np.ndarray],
    pairs: pd.DataFrame,
    angles_deg,
    **options,
) -> pd.DataFrame:
    """How far necks can be trusted along each axis of each grain where a wedge of tilts is missing.

    Parameters
    ----------
    grain
        (N,) the grain of each dot.
    cells
        The cell of each grain, (3, 3) with columns A, B, C, nm. Its cubes follow it; those of no grain the first.
    image, template, xyz_nm, pairs, angles_deg, options
        As of :func:`model_necks`.

    Returns
    -------
    DataFrame with a row for each ``grain`` and ``axis``: ``scale``, by which a measured diameter is multiplied;
    ``left_nm``, within which 68 % of the errors of the model's necks lie after that; ``closed``, the share of its gaps
    without a neck that look joined; and ``told``, False where that is more than :data:`CLOSED_FRACTION`. Scale 1 and
    no error where no wedge is missing, or no pair is there.
    """
    index = pd.MultiIndex.from_product([list(cells), list("ABC")], names=["grain", "axis"])
    if pairs.empty or not is_missing(angles_deg):
        return pd.DataFrame({"scale": 1.0, "left_nm": 0.0, "closed": 0.0, "told": True}, index=index)
    grain, axes = np.asarray(grain), {number: cube_axes(cell) for number, cell in cells.items()}
    turns = np.array([axes.get(number, next(iter(axes.values()))) for number in grain])
    args = image, template, xyz_nm, turns, pairs, angles_deg
    models = [model_necks(*args, **options) for _ in range(min(-(-PAIRS // len(pairs)), MOST_MODELS))]
    models = [model.assign(grain=grain[pairs["qd_1"]], axis=pairs["axis"].to_numpy()) for model in models]
    rows = {key: _along_an_axis(model) for key, model in pd.concat(models).groupby(["grain", "axis"])}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["scale", "left_nm", "closed", "told"]).reindex(index)


def _along_an_axis(model: pd.DataFrame) -> tuple[float, float, float, bool]:
    """``scale, left_nm, closed, told`` of the model's necks along one axis."""
    whole, seen = model["whole_nm"].to_numpy(), model["seen_nm"].to_numpy()
    both, none = (whole > 0) & (seen > 0), whole == 0
    closed = float((seen > 0)[none].mean()) if none.any() else 1.0
    if closed > CLOSED_FRACTION or both.sum() < FEWEST_NECKS:
        return np.nan, np.nan, closed, False
    scale = float(np.median(whole[both] / seen[both]))
    return scale, float(np.quantile(np.abs(scale * seen - whole)[both], 0.68)), closed, True


def allow_for_wedge(necks: pd.DataFrame, grain, wedge: pd.DataFrame) -> pd.DataFrame:
    """Necks without what the wedge does to them on average, and with the rest of it in their σ.

    Parameters
    ----------
    necks
        From :func:`.necks.measure_necks`, with ``sigma_nm``.
    grain
        (N,) the grain of each pair.
    wedge
        From :func:`wedge_of_necks`.

    Returns
    -------
    The table with other ``diameter_nm`` and ``sigma_nm``; both NaN where necks are not told.

    Notes
    -----
    Half of what is taken off, :data:`MODEL_ERROR`, is in the σ of each neck, but an error that all along an axis share:
    it does not grow less in their mean.
    """
    of_pair = wedge.reindex(pd.MultiIndex.from_arrays([grain, necks["axis"]])).set_index(necks.index)
    diameter = of_pair["scale"] * necks["diameter_nm"]  # NaN where not told
    doubt = MODEL_ERROR * (diameter - necks["diameter_nm"])
    sigma = np.sqrt(necks["sigma_nm"] ** 2 + of_pair["left_nm"] ** 2 + doubt**2)
    return necks.assign(diameter_nm=diameter, sigma_nm=sigma)
