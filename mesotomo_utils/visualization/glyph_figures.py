"""Figures of the glyph-stick scene: exploded layers, plan views, side views."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from mesotomo_utils.visualization import figures, glyphs, slices

UNMEASURED = (0.75, 0.75, 0.75)
CUBES_UNMEASURED = "cubes: orientation not measured"
STICKS_UNMEASURED = "sticks: neighbours, necks not measured"
PICTURE_PIXELS = 1200
"""Width of a rendered picture: half a page in print."""
THIN_STICK = 0.12
"""Diameter of a stick whose neck was not measured, as a fraction of the edge of a dot."""


@dataclass(frozen=True)
class GlyphScene:
    """Everything a glyph-stick picture shows, in the lab frame.

    Attributes
    ----------
    centres_nm
        (N, 3) centres of the dots.
    R
        (N, 3, 3) orientations; NaN where unknown: such a cube is grey and not turned.
    misorientation_deg
        (N,) colour of the cubes, angle from R_mono; NaN where unknown.
    sites
        (N, 3) lattice indices i, j, k of the dots.
    pairs, axes
        (M, 2) rows of the dots that are neighbours, and (M,) the letters A, B or C.
    diameters_nm
        (M,) neck diameters; 0 where there is no neck, NaN where none was measured.
    cell
        (3, 3) mean cell, columns A, B, C.
    frame
        (3, 3) film frame, columns x (along A), y, n.
    edge_nm
        Edge of a dot.
    """

    centres_nm: np.ndarray
    R: np.ndarray
    misorientation_deg: np.ndarray
    sites: np.ndarray
    pairs: np.ndarray
    axes: np.ndarray
    diameters_nm: np.ndarray
    cell: np.ndarray
    frame: np.ndarray
    edge_nm: float

    @property
    def layers(self) -> np.ndarray:
        """Layer numbers (N,), 1 at the bottom."""
        return self.sites[:, 2].astype(int) + 1

    @property
    def angle_norm(self) -> Normalize:
        """Colour scale of the cubes, 0 to a round angle that all but the largest 2 % stay below."""
        known = self.misorientation_deg[np.isfinite(self.misorientation_deg)]
        return Normalize(0.0, float(np.ceil(np.percentile(known, 98))) if len(known) else 1.0)

    @property
    def neck_norm(self) -> Normalize:
        """Colour scale of the sticks, round numbers about all but the extreme 1 %."""
        known = self.diameters_nm[self.diameters_nm > 0]
        if len(known) == 0:
            return Normalize(0.0, 1.0)
        low, high = np.percentile(known, (1, 99))
        return Normalize(float(np.floor(2 * low) / 2), float(np.ceil(2 * high) / 2))

    @property
    def turned(self) -> np.ndarray:
        """Orientations (N, 3, 3) as drawn: along the film where none is known."""
        known = np.isfinite(self.R).all(axis=(1, 2))
        return np.where(known[:, None, None], self.R, self.frame)

    @property
    def cube_colours(self) -> np.ndarray:
        """Red, green, blue (N, 3) of the cubes, from 0 to 1; grey where the angle is unknown."""
        colours = mpl.colormaps[figures.ANGLE_MAP](self.angle_norm(np.nan_to_num(self.misorientation_deg)))[:, :3]
        return np.where(np.isfinite(self.misorientation_deg)[:, None], colours, UNMEASURED)

    @property
    def stick_colours(self) -> np.ndarray:
        """Red, green, blue (M, 3) of the sticks, from 0 to 1; grey where no neck was measured."""
        colours = mpl.colormaps[figures.NECK_MAP](self.neck_norm(np.nan_to_num(self.diameters_nm)))[:, :3]
        return np.where(np.isfinite(self.diameters_nm)[:, None], colours, UNMEASURED)

    @property
    def sticks_label(self) -> str:
        """What their colours say."""
        return "sticks: neck diameter (nm)" + ("; grey: not told" if np.isnan(self.diameters_nm).any() else "")

    @property
    def stick_diameters_nm(self) -> np.ndarray:
        """Diameters (M,) before they are drawn smaller: thin where no neck was measured."""
        return np.where(np.isfinite(self.diameters_nm), self.diameters_nm, 2 * THIN_STICK * self.edge_nm)

    def mesh(self, shown: np.ndarray | None = None, *, shift_nm: np.ndarray | None = None) -> glyphs.Mesh:
        """Cubes and sticks of the dots ``shown`` (N,), each dot moved by ``shift_nm`` (N, 3)."""
        return glyphs.glyph_mesh(
            self.centres_nm if shift_nm is None else self.centres_nm + shift_nm,
            self.turned,
            self.pairs,
            edge_nm=self.edge_nm,
            glyph_colours=self.cube_colours,
            diameters_nm=self.stick_diameters_nm,
            stick_colours=self.stick_colours,
            shown=shown,
        )


def make_scene(
    dots: pd.DataFrame,
    pairs: pd.DataFrame,
    *,
    R: np.ndarray,
    misorientation_deg: np.ndarray,
    cell: np.ndarray,
    frame: np.ndarray,
    edge_nm: float,
) -> GlyphScene:
    """Put the tables of the run together as a scene.

    Parameters
    ----------
    dots
        N rows of ``x_nm, y_nm, z_nm, i, j, k``.
    pairs
        ``row_1, row_2`` (rows of ``dots``), ``axis`` and ``diameter_nm``.
    R, misorientation_deg
        (N, 3, 3) orientations and (N,) angles from R_mono; NaN where unknown.
    cell, frame
        (3, 3) mean cell and film frame (:func:`lattice.film_frame`).
    edge_nm
        Edge of a dot.
    """
    return GlyphScene(
        centres_nm=dots[["x_nm", "y_nm", "z_nm"]].to_numpy(float),
        R=np.asarray(R, float),
        misorientation_deg=np.asarray(misorientation_deg, float),
        sites=dots[["i", "j", "k"]].to_numpy(int),
        pairs=pairs[["row_1", "row_2"]].to_numpy(int),
        axes=pairs["axis"].to_numpy(str),
        diameters_nm=pairs["diameter_nm"].to_numpy(float),
        cell=np.asarray(cell, float),
        frame=np.asarray(frame, float),
        edge_nm=float(edge_nm),
    )


def layer_centre(scene: GlyphScene, layer: int) -> np.ndarray:
    """Mean place (3,) of the dots of a layer, nm."""
    return scene.centres_nm[scene.layers == layer].mean(axis=0)


def exploded_figure(
    scene: GlyphScene,
    *,
    layers: Sequence[int] | None = None,
    azimuth_deg: float = -62.0,
    elevation_deg: float = 24.0,
    renderer: str = "auto",
) -> tuple[Figure, str]:
    """Fig. 2a: the whole superlattice, and its odd layers pulled apart along the film normal.

    Parameters
    ----------
    scene
        What to draw.
    layers
        Layers to pull apart; None takes the odd ones.
    azimuth_deg, elevation_deg
        Direction of view, from the film's x axis and above the film.
    renderer
        As for :func:`glyphs.render`.

    Returns
    -------
    The figure and the renderer that drew it.
    """
    present = np.unique(scene.layers)
    layers = list(present[present % 2 == 1]) if layers is None else list(layers)
    view = glyphs.turntable(scene.frame, azimuth_deg=azimuth_deg, elevation_deg=elevation_deg)
    # Each layer is as high on paper as its depth in the film plane; the shift clears just that.
    places = glyphs.project(scene.centres_nm, view)
    shown = np.isin(scene.layers, layers)
    highest = max(np.ptp(places[scene.layers == layer, 1]) for layer in layers)
    spacing = (highest + 1.6 * scene.edge_nm) / np.cos(np.deg2rad(elevation_deg))
    n = scene.frame[:, 2]
    shift = np.zeros_like(scene.centres_nm)
    for number, layer in enumerate(layers):
        move = (number * spacing - (layer_centre(scene, layer) - layer_centre(scene, layers[0])) @ n) * n
        shift[scene.layers == layer] = move
    meshes = [scene.mesh(), scene.mesh(shown, shift_nm=shift)]
    extents = [glyphs.picture_extent(mesh.points, view) for mesh in meshes]
    widths, heights = np.array([(right - left, top - bottom) for left, right, bottom, top in extents]).T
    high = max(heights[1], heights[0] + 0.32 * widths[0])  # room above the left one for bar and axes
    # Both pictures at one scale, side by side, the taller one decides the height.
    room = 0.09 * widths.sum()
    width_in = figures.DOUBLE_COLUMN
    height_in = min(7.6, width_in * 0.97 * high / (widths.sum() + room) + 0.75)
    fig = plt.figure(figsize=(width_in, height_in), layout="constrained")
    top, bottom = fig.subfigures(2, 1, height_ratios=[height_in - 0.6, 0.6])
    panels = top.subplots(1, 2, width_ratios=[widths[0], widths[1] + room])
    name = ""
    for ax, mesh, extent in zip(panels, meshes, extents, strict=True):
        picture = glyphs.render(mesh, view, extent_nm=extent, pixels_wide=PICTURE_PIXELS, renderer=renderer)
        name = picture.renderer
        paste(ax, picture)
    for ax, (_, _, low, _) in zip(panels, extents, strict=True):
        ax.set_ylim(low, low + high)
        ax.set_anchor("S")
    left, right, *_ = extents[1]
    panels[1].set_xlim(left, right + room)
    for layer in layers:
        moved = glyphs.project((scene.centres_nm + shift)[scene.layers == layer], view)
        panels[1].text(right + 0.2 * room, moved[:, 1].mean(), f"C{layer}", ha="left", va="center", fontsize=8)
    figures.scale_bar(panels[0], colour="black", location="upper left")
    _triad(panels[0], scene, view, extents[0], high)
    colour_bars(bottom, scene)
    return fig, name


def overlay_figure(
    scene: GlyphScene,
    views: Sequence["SectionView"],
    *,
    titles: tuple[str, str] = ("tomogram", "dots and necks"),
    renderer: str = "auto",
) -> tuple[Figure, str]:
    """Fig. 2b, c: sections of the tomogram, each alone and under its dots and necks.

    Parameters
    ----------
    scene
        What to draw.
    views
        One row of panels each, from :func:`plan_view` or :func:`side_view`, with ``image`` filled
        in where there is a tomogram.
    titles
        Headings of the two columns; without any image there is one column.
    renderer
        As for :func:`glyphs.render`.

    Returns
    -------
    The figure and the renderer that drew it.
    """
    with_image = any(view.image is not None for view in views)
    # a section may end within its panel: marks in white need dark ground there too
    gray = plt.get_cmap("gray").with_extremes(bad="0.1")
    # Without a tomogram the views stand side by side; with one, each has a row of two panels.
    rows, columns = (len(views), 2) if with_image else (1, len(views))
    aspect = max((v.extent_nm[3] - v.extent_nm[2]) / (v.extent_nm[1] - v.extent_nm[0]) for v in views)
    height = min(8.0, rows * aspect * (figures.DOUBLE_COLUMN - 0.3) / columns + 0.9)
    fig = plt.figure(figsize=(figures.DOUBLE_COLUMN, height), layout="constrained")
    top, bottom = fig.subfigures(2, 1, height_ratios=[height - 0.6, 0.6])
    axes = top.subplots(rows, columns, squeeze=False)
    name, bar_nm = "", None  # one length of the bar for all
    for row, view in enumerate(views):
        panels = axes[row] if with_image else [axes[0, row]]
        for ax in panels:
            if view.image is not None:
                low, high = np.nanpercentile(view.image, (1.0, 99.8))
                ax.imshow(
                    view.image, origin="lower", extent=view.extent_nm, cmap=gray, vmin=low, vmax=high,
                    interpolation="antialiased",
                )  # fmt: skip
            left, right, low, high = view.extent_nm
            ax.set(xlim=(left, right), ylim=(low, high))
            figures.bare(ax)
        picture = glyphs.render(
            scene.mesh(view.shown), view.frame, extent_nm=view.extent_nm, pixels_wide=PICTURE_PIXELS, renderer=renderer
        )
        name = picture.renderer
        paste(panels[-1], picture, alpha=1.0 if view.image is None else 0.92)
        figures.corner_text(panels[0], view.label, box=view.image is not None)
        light = "black" if view.image is None else "white"
        bar_nm = figures.scale_bar(panels[0], bar_nm, colour=light, location="lower right")
        _arrows(panels[-1], view, light)
        for text, height in view.marks.items():
            place = panels[-1].get_yaxis_transform()
            panels[-1].text(1.02, height, text, transform=place, ha="left", va="center", fontsize=6.5)
    if with_image:
        for ax, title in zip(axes[0], titles, strict=True):
            ax.set_title(title)
    colour_bars(bottom, scene)
    return fig, name


@dataclass(frozen=True)
class SectionView:
    """A plane section with the dots that lie in it.

    Attributes
    ----------
    label
        Short name for the corner of the panel.
    shown
        (N,) dots drawn.
    frame
        (3, 3) rows right, up, towards the viewer.
    depth_nm
        Distance of the section from the origin, towards the viewer.
    extent_nm
        (left, right, bottom, top) of the panel.
    arrows
        Letters and directions (3,) of the superlattice vectors shown.
    marks
        Names of the layers and their heights at the right edge of the panel, nm; may be empty.
    image
        (rows, columns) section of the tomogram over the extent, row 0 at the bottom; None if none.
    """

    label: str
    shown: np.ndarray
    frame: np.ndarray
    depth_nm: float
    extent_nm: tuple[float, float, float, float]
    arrows: dict[str, np.ndarray]
    marks: dict[str, float]
    image: np.ndarray | None = None


def plan_view(scene: GlyphScene, layer: int) -> SectionView:
    """Layer seen along the film normal from above, A to the right."""
    shown = scene.layers == layer
    if not shown.any():
        raise ValueError(f"the scene has no layer C{layer}; it has {sorted(set(scene.layers.tolist()))}")
    frame = glyphs.view_frame(scene.frame[:, 2], scene.frame[:, 1])
    return _section(scene, f"C{layer}, plan", shown, frame, {"A": scene.cell[:, 0], "B": scene.cell[:, 1]})


def side_view(scene: GlyphScene, axis: str, *, row: int | None = None) -> SectionView:
    """One sheet of dots seen edge-on to the film: ``A`` the plane of A and C, ``B`` of B and C.

    Parameters
    ----------
    scene
        What to draw.
    axis
        In-plane vector of the sheet, drawn to the right.
    row
        Index of the sheet (j for ``A``, i for ``B``); None takes the one with most dots.
    """
    column, other = {"A": (0, 1), "B": (1, 0)}[axis]
    index = scene.sites[:, other].astype(int)
    if row is None:
        values, counts = np.unique(index, return_counts=True)
        row = int(values[np.argmax(counts)])
    right, up = scene.cell[:, column], scene.cell[:, 2]
    frame = side_frame(scene, axis)
    label = f"{'ij'[other]} = {row}, side"
    shown = index == row
    # Layers slope where the film is tilted: the name stands beside the last dot of its layer.
    places = glyphs.project(scene.centres_nm, frame)
    marks = {}
    for layer in np.unique(scene.layers[shown]):
        mine = np.flatnonzero(shown & (scene.layers == layer))
        marks[f"C{layer}"] = float(places[mine[np.argmax(places[mine, 0])], 1])
    return _section(scene, label, shown, frame, {axis: right, "C": up}, marks)


def side_frame(scene: GlyphScene, axis: str) -> np.ndarray:
    """View frame (3, 3) of the plane of C and of ``axis``, A or B, which is drawn to the right."""
    right, up = scene.cell[:, "AB".index(axis)], scene.cell[:, 2]
    return glyphs.view_frame(np.cross(right, up), up - right * (up @ right) / (right @ right))


def same_size(views: Sequence[SectionView]) -> list[SectionView]:
    """The views with panels of one width and height, so that all are printed at one scale."""
    sizes = [(right - left, top - bottom) for left, right, bottom, top in (view.extent_nm for view in views)]
    wide, tall = np.max(sizes, axis=0)
    grown = []
    for view, (width, height) in zip(views, sizes, strict=True):
        left, _, bottom, _ = view.extent_nm
        left, bottom = left - (wide - width) / 2, bottom - (tall - height) / 2
        grown.append(replace(view, extent_nm=(left, left + float(wide), bottom, bottom + float(tall))))
    return grown


def with_section(
    view: SectionView, volume: np.ndarray | None, voxel_nm: float | None, middle: np.ndarray | None = None
) -> SectionView:
    """The view with its section through a tomogram [z, y, x], as of :func:`.slices.plane_image`; unchanged where there
    is none.
    """
    if volume is None:
        return view
    at = {"depth_nm": view.depth_nm, "extent_nm": view.extent_nm, "middle": middle}
    image = slices.plane_image(volume, voxel_nm, view.frame, **at)
    return replace(view, image=image)


def _section(
    scene: GlyphScene,
    label: str,
    shown: np.ndarray,
    frame: np.ndarray,
    arrows: dict[str, np.ndarray],
    marks: dict[str, float] | None = None,
) -> SectionView:
    places = scene.centres_nm[shown] @ frame.T
    low, high = places.min(axis=0), places.max(axis=0)
    pad = 1.2 * scene.edge_nm
    # More room below, for the scale bar and the arrows, and above, for the label.
    extent = (low[0] - pad, high[0] + pad, low[1] - 2.1 * pad, high[1] + 1.5 * pad)
    depth = float(places[:, 2].mean())
    return SectionView(label, shown, frame, depth, tuple(map(float, extent)), arrows, marks or {})


def colour_bars(place: Figure, scene: GlyphScene) -> None:
    """Colour bars of cubes and sticks side by side in ``place``, a figure or subfigure."""
    left, right = place.subplots(1, 2)
    bars = (
        (left, figures.ANGLE_MAP, scene.angle_norm, r"cubes: misorientation from $R_\mathrm{mono}$ (°)",
         np.isfinite(scene.misorientation_deg).any(), CUBES_UNMEASURED, "max"),
        (right, figures.NECK_MAP, scene.neck_norm, scene.sticks_label,
         bool((scene.diameters_nm > 0).any()), STICKS_UNMEASURED, "both"),
    )  # fmt: skip
    for ax, cmap, norm, label, known, otherwise, extend in bars:
        if known:
            bar = place.colorbar(
                ScalarMappable(norm, cmap), cax=ax, orientation="horizontal", label=label, extend=extend
            )
            bar.outline.set_linewidth(0.5)
            ax.set_box_aspect(0.045)
        else:
            ax.axis("off")
            ax.text(0.5, 0.5, otherwise + " (grey)", ha="center", va="center", transform=ax.transAxes)


def paste(ax: Axes, picture: glyphs.Picture, *, alpha: float = 1.0) -> None:
    """Put a rendered scene into bare axes, at its place in nm."""
    ax.imshow(
        picture.image, origin="upper", extent=picture.extent_nm, interpolation="antialiased", alpha=alpha, zorder=2
    )
    left, right, bottom, top = picture.extent_nm
    ax.set(xlim=(left, right), ylim=(bottom, top))
    figures.bare(ax)


def arrow(ax: Axes, start: np.ndarray, end: np.ndarray, letter: str, colour: str) -> None:
    """Draw an arrow from one place to another, with its letter beyond the tip."""
    style = {"arrowstyle": "-|>", "color": colour, "lw": 1.0, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 6}
    ax.annotate("", end, start, zorder=7, arrowprops=style)
    beyond = end + 0.22 * (end - start)
    ax.text(*beyond, letter, color=colour, ha="center", va="center", fontsize=7, fontweight="bold", zorder=7)


def _triad(ax: Axes, scene: GlyphScene, view: np.ndarray, extent: tuple, height_nm: float) -> None:
    """Directions of A, B and C above the picture, to the right."""
    left, right, bottom, _ = extent
    length = 0.16 * (right - left)
    start = np.array([right - 0.32 * (right - left), bottom + height_nm - 1.55 * length])
    for letter, vector in zip("ABC", scene.cell.T, strict=True):
        end = start + length * glyphs.project(vector / np.linalg.norm(vector), view)
        arrow(ax, start, end, letter, figures.DIRECTION_COLOURS[letter])


def _arrows(ax: Axes, view: SectionView, colour: str) -> None:
    """Directions of two superlattice vectors at the lower left of a panel."""
    left, right, bottom, top = view.extent_nm
    length = 0.11 * min(right - left, top - bottom)
    start = np.array([left + 0.5 * length, bottom + 0.5 * length])
    for letter, vector in view.arrows.items():
        end = start + length * glyphs.project(vector / np.linalg.norm(vector), view.frame)
        arrow(ax, start, end, letter, colour)
