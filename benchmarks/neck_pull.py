"""What necks pull centres by, in pictures of the atoms of the other simulator's twins: no tomography, no noise.

    python benchmarks/neck_pull.py q1 q3 q10 q11 q16

Each sample's dots are drawn with their necks and without, and low-passed as 02 does it. Whatever necks do to a centre
is then the difference of the two fits, dot by dot: how lopsided a dot happens to be cancels. Prints the slopes of that
over how much thicker the neck ahead is, along A, B and C, with the flanks of the necks left in, with all of them taken
off alike, and as the package does it; and how the slope grows with the length of the necks. Half a minute a sample.
"""

from __future__ import annotations

import argparse
from unittest import mock

import numpy as np
import pandas as pd
from other_twin import SAMPLES, USUAL, XYZ, grow_dots, make_necks, make_sites

from mesotomo_utils.mapping import centre_fits, inversion
from mesotomo_utils.mapping.dot_size import DIAMETER_OVER_EDGE
from mesotomo_utils.mapping.necks import near_necks
from mesotomo_utils.mapping.template import BodyImage, body_image, mean_dot
from mesotomo_utils.twin.error_slopes import slope, slopes

VOXEL_NM, REACH_NM, LAYERS = 0.125, 26.0, 6
FAR_NM = 0.3
"""A fit that necks move farther has left its dot."""
WAYS = {"left in": (0.0, 0.0), "off alike": (None, 0.0), "off by length": (None, None)}
"""Largest share of the flanks that is taken off, and how it grows with the length; None: the package's own."""


def draw(places: np.ndarray, weights: np.ndarray, box: np.ndarray, diameter_nm: float) -> BodyImage:
    """The picture of whole dots of (N, 3) atoms; the box is its middle and its edges, nm."""
    shape = 2 * np.ceil(box[1, ::-1] / VOXEL_NM / 2).astype(int)
    voxel = np.rint((places - box[0])[:, ::-1] / VOXEL_NM + (shape - 1) / 2).astype(int)
    volume = np.bincount(np.ravel_multi_index(voxel.T, shape), weights, shape.prod()).reshape(shape)
    return body_image(volume.astype(np.float32), VOXEL_NM, diameter_nm=diameter_nm)


def neck_pulls(name: str) -> pd.DataFrame:
    """A row for each dot with all six neighbours and each axis: what the necks move it by, nm, in each way.

    ``thicker``: how much thicker the neck ahead is, nm; ``longer``: each neck's thickness times how much longer it is
    than the usual one, in dot diameters, ahead less behind.
    """
    sample = USUAL | SAMPLES[name]
    drawn = []
    for there in (1.0, 0.0):
        rng = np.random.default_rng(sample["seed"])
        sites = make_sites(rng, sample, LAYERS, REACH_NM)
        necks = make_necks(rng, sites)
        as_drawn = necks.assign(diameter_nm=there * necks["diameter_nm"])
        drawn.append(grow_dots(rng, sample, sites, as_drawn, np.array([0, 0, np.inf])))
    diameter_nm = DIAMETER_OVER_EDGE * float(np.mean(sample["edges_nm"]))
    low, high = drawn[0][0].min(axis=0), drawn[0][0].max(axis=0)
    box = np.array([(low + high) / 2, high - low + 4])
    joined, bare = (draw(places, weights, box, diameter_nm) for places, weights, _ in drawn)
    xyz = drawn[0][2][XYZ].to_numpy(float) - box[0]
    mean, near = mean_dot(joined, xyz), near_necks(joined, xyz)
    last = centre_fits.last_fit_beside_necks(joined, xyz, mean, near)
    if last is None:
        raise SystemExit(f"{name}: its dots are taken to be even, and no flank is taken off")

    def centres(image: BodyImage, share: float | None, growth: float | None) -> np.ndarray:
        share = centre_fits.LARGEST_FLANK_SHARE if share is None else share
        growth = inversion.FLANK_GROWTH if growth is None else growth
        with (
            mock.patch.object(centre_fits, "LARGEST_FLANK_SHARE", share),
            mock.patch.object(inversion, "FLANK_GROWTH", growth),
        ):
            return centre_fits.centres_beside_necks(image, xyz, mean, near, last=last)

    alone = centres(bare, 0.0, 0.0)
    moved = {way: centres(joined, *settings) - alone for way, settings in WAYS.items()}
    ahead = necks.set_index(["axis", "qd_1"])[["qd_2", "diameter_nm"]]
    behind = necks.set_index(["axis", "qd_2"])[["qd_1", "diameter_nm"]]
    inner = [n for n in range(len(xyz)) if all((a, n) in ahead.index and (a, n) in behind.index for a in "ABC")]
    rows = []
    for axis in "ABC":
        for n in inner:
            (front, thick), (back, other) = ahead.loc[(axis, n)], behind.loc[(axis, n)]
            to_front, to_back = xyz[int(front)] - xyz[n], xyz[int(back)] - xyz[n]
            along = (to_front - to_back) / np.linalg.norm(to_front - to_back)
            lengths = (np.linalg.norm([to_front, to_back], axis=1) - mean.edge_nm) / diameter_nm
            over = lengths - inversion.USUAL_LENGTH_DIAMETERS
            row = {"twin": name, "axis": axis, "length": lengths.mean() * diameter_nm, "thicker": thick - other}
            row["longer"] = thick * over[0] - other * over[1]
            rows.append(row | {way: moves[n] @ along for way, moves in moved.items()})
    return pd.DataFrame(rows)


def main() -> None:
    """Print the table of the samples that are asked for."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("samples", nargs="+", choices=SAMPLES)
    table = pd.concat([neck_pulls(name) for name in parser.parse_args().samples])
    table = table[(table[list(WAYS)].abs() < FAR_NM).all(axis=1)]
    print(f"| nm a nm | length (nm) | {' | '.join(WAYS)} |\n|---|---|{'---|' * len(WAYS)}")
    squares = dict.fromkeys(WAYS, 0.0)
    for (name, axis), own in table.groupby(["twin", "axis"]):
        found = {way: slope(own["thicker"], own[way]) for way in WAYS}
        squares = {way: squares[way] + (line["value"] / line["sigma"]) ** 2 for way, line in found.items()}
        cells = " | ".join(f"{line['value']:.4f} ± {line['sigma']:.4f}" for line in found.values())
        print(f"| {name}, {axis} | {own['length'].mean():.2f} | {cells} |")
    over = table[["thicker", "longer"]].to_numpy()
    both = {way: np.column_stack(slopes(over, table[way].to_numpy())) for way in WAYS}
    for row, what in enumerate(("all, at the usual length", "for a diameter of length more")):
        print(f"| {what} | | {' | '.join('{:.4f} ± {:.4f}'.format(*both[way][row]) for way in WAYS)} |")
    print(f"| sum of (slope / error)² | | {' | '.join(f'{square:.1f}' for square in squares.values())} |")


if __name__ == "__main__":
    main()
