"""Glyph-stick scenes: cuboids with {100} faces for the dots, sticks for the necks.

A scene is one :class:`Mesh` of quadrilaterals with a colour each. :func:`render` draws it with
parallel projection, so that a picture has one scale in nm and lies exactly over a slice of the
tomogram. Two renderers give the same view: VTK (through pyvista, off screen) and matplotlib, which
needs no graphics library; off-screen VTK without EGL ends the process by a segmentation fault, so
:func:`rendering_works` tries it in a process of its own first.
"""

import functools
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

RENDERERS = ("pyvista", "matplotlib")
INSTALL_LINE = (
    "off-screen 3D rendering needs EGL: `apt-get install libegl1 libgl1-mesa-dri` (Debian, Ubuntu) "
    "or `conda install -c conda-forge mesalib libegl`"
)
CORNERS = np.array([[x, y, z] for z in (-1, 1) for y in (-1, 1) for x in (-1, 1)], dtype=float)
# Outward, anticlockwise; two faces for each of a, b, c.
FACES = np.array([[0, 4, 6, 2], [1, 3, 7, 5], [0, 1, 5, 4], [2, 6, 7, 3], [0, 2, 3, 1], [4, 5, 7, 6]])
EDGE_COLOUR = (0.12, 0.12, 0.12)
GLYPH_SCALE, STICK_SCALE = 0.75, 0.5  # size as drawn to true size of dots and necks
# VTK alone, which starts faster than pyvista and fails in the same way.
_PROBE = """
import vtkmodules.vtkRenderingOpenGL2
from vtkmodules.vtkFiltersSources import vtkCubeSource
from vtkmodules.vtkRenderingCore import vtkActor, vtkPolyDataMapper, vtkRenderer, vtkRenderWindow
from vtkmodules.vtkRenderingCore import vtkWindowToImageFilter
cube, mapper, actor = vtkCubeSource(), vtkPolyDataMapper(), vtkActor()
mapper.SetInputConnection(cube.GetOutputPort())
actor.SetMapper(mapper)
scene, window, picture = vtkRenderer(), vtkRenderWindow(), vtkWindowToImageFilter()
scene.AddActor(actor)
window.SetOffScreenRendering(1)
window.SetSize(32, 32)
window.AddRenderer(scene)
window.Render()
picture.SetInput(window)
picture.Update()
assert picture.GetOutput().GetScalarRange()[1] > 0
print("drawn")
"""


@dataclass(frozen=True)
class Mesh:
    """Quadrilaterals in space.

    Attributes
    ----------
    points
        (P, 3) corners, nm.
    faces
        (M, 4) rows of ``points``, anticlockwise seen from outside.
    colours
        (M, 3) red, green, blue from 0 to 1.
    edged
        (M,) whether the outline of the face is drawn.
    """

    points: np.ndarray
    faces: np.ndarray
    colours: np.ndarray
    edged: np.ndarray

    def __add__(self, other: "Mesh") -> "Mesh":
        """Both meshes as one."""
        return Mesh(
            np.vstack([self.points, other.points]),
            np.vstack([self.faces, other.faces + len(self.points)]),
            np.vstack([self.colours, other.colours]),
            np.concatenate([self.edged, other.edged]),
        )

    def moved(self, shift_nm: np.ndarray) -> "Mesh":
        """The mesh shifted by (3,) nm."""
        return Mesh(self.points + np.asarray(shift_nm), self.faces, self.colours, self.edged)


@dataclass(frozen=True)
class Picture:
    """A rendered scene.

    Attributes
    ----------
    image
        (rows, columns, 4) uint8, transparent where nothing is drawn; row 0 is the top.
    extent_nm
        (left, right, bottom, top) of the image in the (right, up) coordinates of :func:`project`.
    renderer
        Which of `RENDERERS` drew it.
    """

    image: np.ndarray
    extent_nm: tuple[float, float, float, float]
    renderer: str


def cube_mesh(centres_nm: np.ndarray, R: np.ndarray, *, edge_nm: float, colours: np.ndarray) -> Mesh:
    """One cube for each dot, its faces the (100) planes of the atomic lattice.

    Parameters
    ----------
    centres_nm
        (N, 3) centres, nm.
    R
        (N, 3, 3) orientations, columns the lab directions of a, b, c; rows with NaN are not drawn.
    edge_nm
        Edge of the cubes as drawn.
    colours
        (N, 3) red, green, blue from 0 to 1.

    Examples
    --------
    >>> cube_mesh(np.zeros((2, 3)), np.stack([np.eye(3)] * 2), edge_nm=2.0, colours=np.ones((2, 3))).faces.shape
    (12, 4)
    """
    R = np.asarray(R, float).reshape(-1, 3, 3)
    keep = np.isfinite(R).all(axis=(1, 2))
    centres, R, colours = np.asarray(centres_nm, float)[keep], R[keep], np.asarray(colours, float)[keep]
    points = centres[:, None] + np.einsum("nij,kj->nki", R, CORNERS * edge_nm / 2)
    faces = FACES[None] + 8 * np.arange(len(centres))[:, None, None]
    return Mesh(
        points.reshape(-1, 3),
        faces.reshape(-1, 4),
        np.repeat(colours, 6, axis=0),
        np.ones(6 * len(centres), dtype=bool),
    )


def stick_mesh(
    starts_nm: np.ndarray,
    ends_nm: np.ndarray,
    *,
    diameters_nm: np.ndarray,
    colours: np.ndarray,
    sides: int = 12,
    pieces: int = 3,
) -> Mesh:
    """One prism for each neck; sticks without a positive diameter are left out.

    Parameters
    ----------
    starts_nm, ends_nm
        (N, 3) ends of the sticks, nm.
    diameters_nm
        (N,) diameters as drawn.
    colours
        (N, 3) red, green, blue from 0 to 1.
    sides
        Faces around a stick.
    pieces
        Faces along a stick; several, so that sorting faces by depth works.
    """
    diameters = np.asarray(diameters_nm, float)
    keep = diameters > 0
    starts, ends = np.asarray(starts_nm, float)[keep], np.asarray(ends_nm, float)[keep]
    along = ends - starts
    axis = along / np.linalg.norm(along, axis=1, keepdims=True)
    helper = np.where(np.abs(axis[:, 2:]) < 0.9, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    u = np.cross(axis, helper)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    v = np.cross(axis, u)
    angle = 2 * np.pi * np.arange(sides) / sides
    ring = np.cos(angle)[:, None] * u[:, None] + np.sin(angle)[:, None] * v[:, None]
    ring = ring * diameters[keep][:, None, None] / 2
    steps = np.linspace(0.0, 1.0, pieces + 1)
    points = (starts[:, None] + steps[:, None] * along[:, None])[:, :, None] + ring[:, None]
    k, level = np.meshgrid(np.arange(sides), np.arange(pieces), indexing="xy")
    here, there = level * sides + k, level * sides + (k + 1) % sides
    quads = np.stack([here, there, there + sides, here + sides], axis=-1).reshape(-1, 4)
    faces = quads[None] + (pieces + 1) * sides * np.arange(len(starts))[:, None, None]
    return Mesh(
        points.reshape(-1, 3),
        faces.reshape(-1, 4),
        np.repeat(np.asarray(colours, float)[keep], len(quads), axis=0),
        np.zeros(len(quads) * len(starts), dtype=bool),
    )


def glyph_mesh(
    centres_nm: np.ndarray,
    R: np.ndarray,
    pairs: np.ndarray,
    *,
    edge_nm: float,
    glyph_colours: np.ndarray,
    diameters_nm: np.ndarray,
    stick_colours: np.ndarray,
    shown: np.ndarray | None = None,
    glyph_scale: float = GLYPH_SCALE,
    stick_scale: float = STICK_SCALE,
) -> Mesh:
    """Cubes and sticks of a superlattice, drawn smaller than life so that both are seen.

    Parameters
    ----------
    centres_nm
        (N, 3) centres, nm.
    R
        (N, 3, 3) orientations.
    pairs
        (M, 2) rows of ``centres_nm`` that a neck joins.
    edge_nm
        Edge of a dot, nm.
    glyph_colours, stick_colours
        (N, 3) and (M, 3) red, green, blue from 0 to 1.
    diameters_nm
        (M,) neck diameters, nm; 0 or NaN draws no stick.
    shown
        (N,) dots to draw, with the sticks between two of them; None draws all.
    glyph_scale, stick_scale
        Size as drawn relative to ``edge_nm`` and ``diameters_nm``.
    """
    centres, R = np.asarray(centres_nm, float), np.asarray(R, float)
    shown = np.ones(len(centres), dtype=bool) if shown is None else np.asarray(shown, bool)
    pairs = np.asarray(pairs, dtype=int).reshape(-1, 2)
    edge = glyph_scale * edge_nm
    cubes = cube_mesh(centres[shown], R[shown], edge_nm=edge, colours=np.asarray(glyph_colours)[shown])
    both = shown[pairs].all(axis=1)
    sticks = stick_mesh(
        *stick_ends(centres, pairs[both], edge),
        diameters_nm=stick_scale * np.asarray(diameters_nm, float)[both],
        colours=np.asarray(stick_colours, float).reshape(-1, 3)[both],
    )
    return cubes + sticks


def stick_ends(centres_nm: np.ndarray, pairs: np.ndarray, edge_nm: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends (M, 3) and (M, 3) of sticks, from just inside one cube to just inside the other: deeper is never seen."""
    first, second = centres_nm[pairs[:, 0]], centres_nm[pairs[:, 1]]
    inset = 0.4 * edge_nm * (second - first) / np.linalg.norm(second - first, axis=1, keepdims=True)
    return first + inset, second - inset


def view_frame(view: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Rows right, up and towards the viewer (3, 3) of a view from direction ``view``.

    Examples
    --------
    >>> view_frame([0, 0, 1], [0, 1, 0])[0]
    array([1., 0., 0.])
    """
    towards = np.asarray(view, float) / np.linalg.norm(view)
    right = np.cross(up, towards)
    if np.linalg.norm(right) < 1e-9:
        raise ValueError("up must not be parallel to the direction of view")
    right = right / np.linalg.norm(right)
    return np.stack([right, np.cross(towards, right), towards])


def project(points_nm: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """Places (N, 2) of points (N, 3) in a picture, right and up, nm."""
    return np.asarray(points_nm, float) @ np.asarray(frame)[:2].T


def turntable(frame: np.ndarray, *, azimuth_deg: float, elevation_deg: float) -> np.ndarray:
    """View frame from an azimuth (from the film's x axis) and an elevation above the film.

    ``frame`` (3, 3) has the film's x, y and normal as columns.
    """
    azimuth, elevation = np.deg2rad([azimuth_deg, elevation_deg])
    view = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    return view_frame(frame @ view, frame[:, 2])


@functools.cache
def rendering_works(*, timeout_s: float = 60.0) -> bool:
    """Whether VTK can draw off screen here, tried once in a process of its own.

    Without EGL, or with a broken driver, VTK ends the process that asks; so a child asks.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (subprocess.TimeoutExpired, OSError):
        return False
    return done.returncode == 0 and "drawn" in done.stdout


def choose_renderer(renderer: str = "auto") -> str:
    """Name of the renderer to use.

    ``auto`` takes the environment's ``MESOTOMO_RENDERER`` where it is set, else pyvista where
    :func:`rendering_works`, else matplotlib.

    Raises
    ------
    ValueError
        The name is none of `RENDERERS`.
    """
    if renderer == "auto":
        renderer = os.environ.get("MESOTOMO_RENDERER") or "auto"
    if renderer == "auto":
        return "pyvista" if rendering_works() else "matplotlib"
    if renderer not in RENDERERS:
        raise ValueError(f"renderer (MESOTOMO_RENDERER) must be auto, pyvista or matplotlib, not {renderer!r}")
    return renderer


def renderer_forced(renderer: str = "auto") -> bool:
    """Whether the renderer was asked for by name, by the argument or by ``MESOTOMO_RENDERER``."""
    return renderer != "auto" or os.environ.get("MESOTOMO_RENDERER", "auto") not in ("", "auto")


def picture_extent(points_nm: np.ndarray, frame: np.ndarray, *, margin: float = 0.04) -> tuple:
    """(left, right, bottom, top) in nm that hold all points, with a margin."""
    places = project(points_nm, frame)
    low, high = places.min(axis=0), places.max(axis=0)
    pad = margin * (high - low).max()
    return float(low[0] - pad), float(high[0] + pad), float(low[1] - pad), float(high[1] + pad)


def render(
    mesh: Mesh,
    frame: np.ndarray,
    *,
    extent_nm: tuple[float, float, float, float] | None = None,
    pixels_wide: int = 1800,
    renderer: str = "auto",
) -> Picture:
    """Draw a mesh with parallel projection on a transparent background.

    Parameters
    ----------
    mesh
        What to draw.
    frame
        (3, 3) rows right, up, towards the viewer (:func:`view_frame`, :func:`turntable`).
    extent_nm
        Part of the plane to draw (left, right, bottom, top); None holds the whole mesh.
    pixels_wide
        Columns of the picture.
    renderer
        ``auto``, ``pyvista`` or ``matplotlib`` (:func:`choose_renderer`).

    Raises
    ------
    ValueError
        The mesh is empty, or the renderer has an unknown name.
    """
    if len(mesh.faces) == 0:
        raise ValueError("the mesh has no faces: there is nothing to draw")
    frame = np.asarray(frame, float)
    extent = picture_extent(mesh.points, frame) if extent_nm is None else tuple(extent_nm)
    left, right, bottom, top = extent
    pixels_high = max(1, round(pixels_wide * (top - bottom) / (right - left)))
    chosen = choose_renderer(renderer)
    draw = _render_pyvista if chosen == "pyvista" else _render_matplotlib
    return Picture(draw(mesh, frame, extent, (pixels_wide, pixels_high)), extent, chosen)


def to_polydata(mesh: Mesh):
    """The mesh as :class:`pyvista.PolyData` with the colours as cell array ``rgb`` (uint8)."""
    pyvista = quiet_pyvista()
    faces = np.insert(mesh.faces, 0, 4, axis=1)
    data = pyvista.PolyData(mesh.points, faces=faces.ravel())
    data.cell_data["rgb"] = np.round(255 * mesh.colours).astype(np.uint8)
    return data


def quiet_pyvista() -> ModuleType:
    """Import pyvista, quietly; it takes a second, and the other renderer never needs it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm misses ipywidgets
        import pyvista
    from vtkmodules.vtkCommonCore import vtkLogger

    # VTK first looks for an X display and warns on stderr before it turns to EGL.
    vtkLogger.SetStderrVerbosity(vtkLogger.VERBOSITY_ERROR)
    return pyvista


def _part(mesh: Mesh, chosen: np.ndarray) -> Mesh:
    return Mesh(mesh.points, mesh.faces[chosen], mesh.colours[chosen], mesh.edged[chosen])


def _render_pyvista(mesh: Mesh, frame: np.ndarray, extent: tuple, size: tuple[int, int]) -> np.ndarray:
    pyvista = quiet_pyvista()
    left, right, bottom, top = extent
    plotter = pyvista.Plotter(off_screen=True, window_size=size, lighting="none")
    # Pictures are drawn larger than they are printed: that smooths edges more cheaply.
    plotter.disable_anti_aliasing()
    for edged in (True, False):
        chosen = mesh.edged == edged
        if chosen.any():
            plotter.add_mesh(
                to_polydata(_part(mesh, chosen)),
                scalars="rgb",
                rgb=True,
                show_edges=edged,
                edge_color=EDGE_COLOUR,
                line_width=max(1.0, size[0] / 1000),
                lighting=True,
                ambient=0.45,
                diffuse=0.6,
                specular=0.0,
                smooth_shading=False,
            )
    light = pyvista.Light(light_type="camera light", position=(-0.4, 0.6, 1.0), intensity=1.0)
    plotter.add_light(light)
    centre = frame[0] * (left + right) / 2 + frame[1] * (bottom + top) / 2
    depth = mesh.points @ frame[2]
    reach = 2 * (np.ptp(depth) + (top - bottom) + 1.0)
    camera = plotter.camera
    camera.focal_point = centre + frame[2] * depth.mean()
    camera.position = centre + frame[2] * (depth.mean() + reach)
    camera.up = frame[1]
    camera.parallel_projection = True
    camera.parallel_scale = (top - bottom) / 2
    camera.clipping_range = (1e-3 * reach, 2 * reach)
    image = plotter.screenshot(transparent_background=True, return_img=True)
    plotter.close()
    return np.asarray(image, dtype=np.uint8)


def _render_matplotlib(mesh: Mesh, frame: np.ndarray, extent: tuple, size: tuple[int, int]) -> np.ndarray:
    """Faces turned to the viewer, painted from far to near, shaded as the other renderer does."""
    corners = mesh.points[mesh.faces] @ frame.T  # (M, 4, 3) right, up, towards
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 3] - corners[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    order = np.argsort(corners[:, :, 2].mean(axis=1), kind="stable")
    order = order[normal[order, 2] > 0]
    light = np.array([-0.4, 0.6, 1.0]) / np.linalg.norm([-0.4, 0.6, 1.0])
    shade = 0.45 + 0.6 * np.clip(normal @ light, 0, None)
    colours = np.clip(mesh.colours * shade[:, None], 0, 1)
    dpi = 100.0
    figure = Figure(figsize=(size[0] / dpi, size[1] / dpi), dpi=dpi, layout="none")
    canvas = FigureCanvasAgg(figure)
    figure.patch.set_alpha(0.0)
    ax = figure.add_axes((0, 0, 1, 1))
    width = 0.72 * max(1.0, size[0] / 1000)
    outlines = np.where(mesh.edged[:, None], np.array(EDGE_COLOUR), colours)
    ax.add_collection(
        PolyCollection(
            corners[order][:, :, :2],
            facecolors=colours[order],
            edgecolors=outlines[order],
            linewidths=np.where(mesh.edged[order], width, 0.3),
            antialiaseds=True,
        ),
        autolim=False,
    )
    left, right, bottom, top = extent
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="auto")
    ax.axis("off")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()).copy()
