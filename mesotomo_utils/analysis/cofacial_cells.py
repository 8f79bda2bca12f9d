"""How R_mono follows the angles of the cell, after table S3 of the paper.

The SI is not public: which cells the table holds, and how it gives an orientation, are ours.
"""

import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.analysis.cofacial import EDGES, cofacial_overlap, optimal_orientation

TURN = ("turn_x_deg", "turn_y_deg", "turn_n_deg")


def overlap_by_angle(
    V: np.ndarray, *, facet_nm: float, angles_deg: tuple[float, ...] = (90.0, 94.0, 98.0, 102.0)
) -> pd.DataFrame:
    """R_mono while one angle of the cell changes and the others stay.

    Parameters
    ----------
    V
        (3, 3) cell, columns A, B, C, nm.
    facet_nm
        Edge of the facets, nm.
    angles_deg
        Values that α, β and γ take in turn, degrees.

    Returns
    -------
    DataFrame ``changed, angle_deg, overlap_fraction, a_to_A_deg, b_to_B_deg, c_to_C_deg,
    from_polar_deg, within_1pct_deg, turn_x_deg, turn_y_deg, turn_n_deg``: the residual mismatch of
    each facet normal with its superlattice vector, the angle of R_mono to the polar rotation, how far
    the orientations within 1 % of the optimum reach, and R_mono itself: the rotation vector (axis
    times angle) that turns a, b, c from the film's axes x (along A), y and n, in which it is given, to
    where they stand. The first row is the cell itself.

    Examples
    --------
    In a cubic cell nothing turns and nothing is lost:

    >>> overlap_by_angle(6.0 * np.eye(3), facet_nm=4.0, angles_deg=())[["overlap_fraction", *TURN]].round(6).abs()
       overlap_fraction  turn_x_deg  turn_y_deg  turn_n_deg
    0               1.0         0.0         0.0         0.0
    """
    rows = []
    for changed, angle in [("none", np.nan)] + [(n, v) for n in ("alpha", "beta", "gamma") for v in angles_deg]:
        cell = changed_cell(V, changed, angle)
        mono = optimal_orientation(cell, facet_nm=facet_nm, n_starts=3)
        mismatch = lattice.angle_deg(mono.R.T, cell.T)
        from_polar = lattice.rotation_angle_deg(mono.polar.T @ mono.R)
        # the cell is built in the film's frame
        turn = np.rad2deg(lattice.rotation_vectors(mono.R)).round(9) + 0.0  # and no -0
        rows.append((changed, angle, mono.overlap_fraction, *mismatch, from_polar, mono.largest_angle_deg, *turn))
    names = "changed angle_deg overlap_fraction a_to_A_deg b_to_B_deg c_to_C_deg from_polar_deg within_1pct_deg"
    return pd.DataFrame(rows, columns=[*names.split(), *TURN])


def changed_cell(V: np.ndarray, changed: str, angle_deg: float) -> np.ndarray:
    """Cell (3, 3) in the film frame with one angle (alpha, beta or gamma; none: no angle) set anew."""
    parameters = lattice.cell_parameters(V)
    return lattice.cell_matrix(**(parameters if changed == "none" else parameters | {f"{changed}_deg": angle_deg}))


def facing_squares(V: np.ndarray, by_angle: pd.DataFrame, *, facet_nm: float) -> pd.DataFrame:
    """Where the facets of neighbours stand, seen along their normals, in the cells of a table.

    Parameters
    ----------
    V
        (3, 3) the cell that the table was made of, nm.
    by_angle
        From :func:`overlap_by_angle`.
    facet_nm
        Edge of the facets, nm.

    Returns
    -------
    DataFrame ``changed, angle_deg, pair`` (A, B or C), ``right, up`` (the axes of the atomic lattice
    along the edges of the square), ``right_nm, up_nm`` (the neighbour's facet from ours) and
    ``overlap``, the part of the square that both share.
    """
    rows = []
    for case in by_angle.itertuples():
        cell = changed_cell(V, case.changed, case.angle_deg)
        R = lattice.from_rotation_vectors(np.deg2rad([getattr(case, name) for name in TURN]))
        sideways = (cell.T @ R)[np.arange(3)[:, None], EDGES]
        shared = cofacial_overlap(R, cell, facet_nm=facet_nm)
        for k, pair in enumerate("ABC"):
            edges = ["abc"[edge] for edge in EDGES[k]]
            rows.append((case.changed, case.angle_deg, pair, *edges, *sideways[k], shared[k]))
    names = "changed angle_deg pair right up right_nm up_nm overlap"
    return pd.DataFrame(rows, columns=names.split())
