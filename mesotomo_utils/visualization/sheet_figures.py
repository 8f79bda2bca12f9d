"""Every layer from above, every sheet from the side: the whole superlattice plane by plane, after SI 4.

All planes of one kind are moved side by side and drawn as one picture: parallel projection does not mind.
"""

from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mesotomo_utils.visualization import figures, glyph_figures, glyphs

MOST_PLANES, MOST_DOTS = 25, 20_000
"""Planes and dots of one kind in a figure; of more, as many planes as that allows are taken at equal steps."""
PIXELS_WIDE = 1600


@dataclass(frozen=True)
class Sheet:
    """Planes of dots side by side.

    Attributes
    ----------
    mesh
        The dots of the planes drawn, at their places in the picture, and the necks within a plane.
    frame
        (3, 3) rows right, up, towards the viewer.
    edge_nm
        Edge of a dot.
    width_nm, height_nm
        Size of the picture; its lower left corner is the origin of (right, up).
    names
        Name of each plane and the place (right, up) of its upper left corner, nm.
    left_out
        What to say of the planes that are not drawn; empty where all are.
    """

    mesh: glyphs.Mesh
    frame: np.ndarray
    edge_nm: float
    width_nm: float
    height_nm: float
    names: dict[str, tuple[float, float]]
    left_out: str


def layers_figure(scene: glyph_figures.GlyphScene, *, renderer: str = "auto") -> tuple[Figure, str]:
    """Every layer alone, seen along the film normal from above, A to the right.

    Parameters
    ----------
    scene
        What to draw.
    renderer
        As for :func:`glyphs.render`.

    Returns
    -------
    The figure and the renderer that drew it.
    """
    width, height = figures.DOUBLE_COLUMN, 7.2
    frame = glyphs.view_frame(scene.frame[:, 2], scene.frame[:, 1])
    sheet = side_by_side(scene, scene.layers, frame, "C{}", width / height)
    height = min(height, width * sheet.height_nm / sheet.width_nm) + 0.2
    fig = plt.figure(figsize=(width, height + 0.6), layout="constrained")
    top, bottom = fig.subfigures(2, 1, height_ratios=[height, 0.6])
    ax = top.subplots()
    name = _draw(ax, sheet, {"A": scene.cell[:, 0], "B": scene.cell[:, 1]}, renderer)
    ax.set_title(f"layers from above{sheet.left_out}", loc="left")
    glyph_figures.colour_bars(bottom, scene)
    return fig, name


def sheets_figure(scene: glyph_figures.GlyphScene, *, renderer: str = "auto") -> tuple[Figure, str]:
    """Every (100) sheet, the dots of one i, and every (010) sheet, of one j, from the side; C1 at the bottom.

    Parameters
    ----------
    scene
        What to draw.
    renderer
        As for :func:`glyphs.render`.

    Returns
    -------
    The figure and the renderer that drew it.
    """
    width, half = figures.DOUBLE_COLUMN, 3.9
    kinds = (("(100)", "B", 0, "i = {}"), ("(010)", "A", 1, "j = {}"))
    sheets = [
        side_by_side(scene, scene.sites[:, column], glyph_figures.side_frame(scene, axis), label, width / half)
        for _, axis, column, label in kinds
    ]
    heights = [min(half, width * sheet.height_nm / sheet.width_nm) + 0.2 for sheet in sheets]
    fig = plt.figure(figsize=(width, sum(heights) + 0.6), layout="constrained")
    *panels, bottom = fig.subfigures(3, 1, height_ratios=[*heights, 0.6])
    name = ""
    for panel, sheet, (plane, axis, *_) in zip(panels, sheets, kinds, strict=True):
        ax = panel.subplots()
        name = _draw(ax, sheet, {axis: scene.cell[:, "AB".index(axis)], "C": scene.cell[:, 2]}, renderer)
        ax.set_title(f"{plane} sheets{sheet.left_out}", loc="left")
    glyph_figures.colour_bars(bottom, scene)
    return fig, name


def side_by_side(
    scene: glyph_figures.GlyphScene, plane: np.ndarray, frame: np.ndarray, label: str, aspect: float
) -> Sheet:
    """Move planes of dots apart in the picture, in reading order.

    Parameters
    ----------
    scene
        What to draw.
    plane
        (N,) number of the plane of each dot.
    frame
        (3, 3) rows right, up, towards the viewer.
    label
        Name of a plane, with ``{}`` for its number.
    aspect
        Width over height of the page, which the number of columns is chosen to fill best.
    """
    present = np.unique(plane)
    most = max(2, min(len(present), MOST_PLANES, MOST_DOTS * len(present) // len(plane)))
    kept = present[np.unique(np.linspace(0, len(present) - 1, min(len(present), most)).round().astype(int))]
    places = glyphs.project(scene.centres_nm, frame)
    low, high = (np.array([end(places[plane == p], axis=0) for p in kept]) for end in (np.min, np.max))
    largest = (high - low).max(axis=0)
    name_nm = max(1.6 * scene.edge_nm, 0.07 * largest.max())  # room for the name, also above many small dots
    wide, tall = largest + 1.6 * scene.edge_nm + [0, name_nm]
    rows_of = {columns: -(-len(kept) // columns) for columns in range(1, len(kept) + 1)}
    columns = max(rows_of, key=lambda n: (min(aspect / (n * wide), 1 / (rows_of[n] * tall)), -n))
    rows = rows_of[columns]
    place = {p: ((n % columns) * wide, (rows - 1 - n // columns) * tall) for n, p in enumerate(kept)}
    shift = np.zeros_like(scene.centres_nm)
    for p, start, end in zip(kept, low, high, strict=True):
        own = plane == p
        to = np.array(place[p]) + np.array([wide, tall - name_nm]) / 2 - (start + end) / 2
        shift[own] = to @ frame[:2] - (scene.centres_nm[own] @ frame[2]).mean() * frame[2]
    within = plane[scene.pairs[:, 0]] == plane[scene.pairs[:, 1]]
    mesh = glyphs.glyph_mesh(
        scene.centres_nm + shift,
        scene.turned,
        scene.pairs[within],
        edge_nm=scene.edge_nm,
        glyph_colours=scene.cube_colours,
        diameters_nm=scene.stick_diameters_nm[within],
        stick_colours=scene.stick_colours[within],
        shown=np.isin(plane, kept),
    )
    names = {label.format(p): (x, y + tall) for p, (x, y) in place.items()}
    left_out = "" if len(kept) == len(present) else f", {len(kept)} of {len(present)}"
    return Sheet(mesh, frame, scene.edge_nm, columns * wide, rows * tall, names, left_out)


def _draw(ax: Axes, sheet: Sheet, arrows: dict[str, np.ndarray], renderer: str) -> str:
    """Picture of the planes with their names, and below it directions and a bar of length; names the renderer."""
    strip = max(2.6 * sheet.edge_nm, 0.08 * sheet.height_nm)
    extent = (0.0, sheet.width_nm, 0.0, sheet.height_nm)
    picture = glyphs.render(sheet.mesh, sheet.frame, extent_nm=extent, pixels_wide=PIXELS_WIDE, renderer=renderer)
    glyph_figures.paste(ax, picture)
    for name, (x, y) in sheet.names.items():
        ax.annotate(name, (x, y), xytext=(3, -2), textcoords="offset points", va="top", ha="left", fontsize=7)
    ax.set_ylim(-strip, sheet.height_nm)
    start = np.array([0.15, -0.8]) * strip
    for letter, vector in arrows.items():
        end = start + 0.6 * strip * glyphs.project(vector / np.linalg.norm(vector), sheet.frame)
        glyph_figures.arrow(ax, start, end, letter, "black")
    figures.scale_bar(ax, figures.nice_length(sheet.width_nm, fraction=0.1), colour="black", location="lower right")
    return picture.renderer
