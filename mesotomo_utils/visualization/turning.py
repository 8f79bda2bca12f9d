"""The glyph-stick scene as one HTML page that turns with the mouse, on its own or in a notebook.

The page holds all it needs and asks nobody for more: it opens without a network, years later. It
carries places, orientations and colours, 60 bytes a dot and 40 a neck, and the browser makes the triangles.
"""

import base64
import html
import io
import json
from dataclasses import dataclass

import matplotlib as mpl
import matplotlib.image
import numpy as np
from matplotlib.colors import Normalize, to_hex

from mesotomo_utils.visualization import figures, glyph_figures, glyphs, turning_page

MOST_DOTS = 10_000
"""Dots of a page at most: with their necks two million triangles, which a laptop still turns."""
STILL_PIXELS = 900
FLOATS = ("centres_nm", "orientations", "dot_layer", "neck_ends_nm", "neck_diameters_nm", "neck_layers")


@dataclass(frozen=True)
class TurningScene:
    """A scene that a notebook shows turning where its front end draws HTML, and still where it does not.

    Attributes
    ----------
    page
        The whole page (:func:`page`).
    still
        The same scene as a PNG file.
    """

    page: str
    still: bytes

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        frame = (
            f'<iframe srcdoc="{html.escape(self.page, quote=True)}" sandbox="allow-scripts" '
            'style="box-sizing: border-box; width: 100%; height: 560px; border: 1px solid #ccc"></iframe>'
        )
        picture = base64.b64encode(self.still).decode()
        return {"text/html": frame, "image/png": picture, "text/plain": "the scene, which turns in scenes/glyphs.html"}


def interactive(
    scene: glyph_figures.GlyphScene, *, title: str, most_dots: int = MOST_DOTS, renderer: str = "auto"
) -> TurningScene:
    """Show a scene in a notebook: turning in JupyterLab, a still picture where nothing can turn.

    Parameters
    ----------
    scene
        What to draw.
    title, most_dots
        As for :func:`page`.
    renderer
        Of the still picture, as for :func:`glyphs.render`.
    """
    view = start_view(scene)
    picture = glyphs.render(scene.mesh(shown(scene, most_dots)), view, pixels_wide=STILL_PIXELS, renderer=renderer)
    file = io.BytesIO()
    mpl.image.imsave(file, picture.image, format="png", metadata={"Software": None})
    return TurningScene(page(scene, title=title, most_dots=most_dots), file.getvalue())


def start_view(scene: glyph_figures.GlyphScene) -> np.ndarray:
    """View frame (3, 3) in which the scene is first seen, that of Fig. 2a."""
    return glyphs.turntable(scene.frame, azimuth_deg=-62.0, elevation_deg=24.0)


def shown(scene: glyph_figures.GlyphScene, most_dots: int) -> np.ndarray:
    """Dots (N,) of a page: all, or those of all layers that stand nearest to the film's middle.

    Raises
    ------
    ValueError
        ``most_dots`` is below 1.
    """
    if most_dots < 1:
        raise ValueError(f"a page needs at least one dot, not most_dots = {most_dots}")
    in_plane = scene.centres_nm @ scene.frame[:, :2]
    distance = np.linalg.norm(in_plane - in_plane.mean(axis=0), axis=1)
    chosen = np.zeros(len(distance), dtype=bool)
    chosen[np.argsort(distance, kind="stable")[:most_dots]] = True
    return chosen


def page(scene: glyph_figures.GlyphScene, *, title: str, most_dots: int = MOST_DOTS) -> str:
    """One self-contained HTML page with the scene, its colour bars, axes and a bar of length.

    Parameters
    ----------
    scene
        What to draw.
    title
        Heading of the page.
    most_dots
        Larger scenes are cut to so many dots, those of all layers nearest to the film's middle; the page says so.

    Returns
    -------
    Text that :func:`read_page` reads back.

    Raises
    ------
    ValueError
        ``most_dots`` is below 1.
    """
    chosen = shown(scene, most_dots)
    drawn = chosen[scene.pairs].all(axis=1) & (scene.stick_diameters_nm > 0)
    centres, edge_nm = scene.centres_nm[chosen], glyphs.GLYPH_SCALE * scene.edge_nm
    middle = (centres.min(axis=0) + centres.max(axis=0)) / 2
    layers = scene.layers - np.mean([scene.layers[chosen].min(), scene.layers[chosen].max()])
    reach = float(np.linalg.norm(centres - middle, axis=1).max() + edge_nm)
    lift = scene.frame[:, 2] * np.linalg.norm(scene.cell[:, 2]) * 2
    numbers = {
        "centres_nm": centres,
        "orientations": scene.turned[chosen],
        "dot_layer": layers[chosen],
        "neck_ends_nm": np.hstack(glyphs.stick_ends(scene.centres_nm, scene.pairs[drawn], edge_nm)),
        "neck_diameters_nm": glyphs.STICK_SCALE * scene.stick_diameters_nm[drawn],
        "neck_layers": layers[scene.pairs[drawn]],
    }
    colours = {"dot_rgb": scene.cube_colours[chosen], "neck_rgb": scene.stick_colours[drawn]}
    data = {
        "n_dots": int(chosen.sum()),
        "n_dots_in_all": len(chosen),
        "n_necks": int(drawn.sum()),
        "edge_nm": edge_nm,
        "middle_nm": middle.tolist(),
        "radius_nm": reach,
        "lift_nm": lift.tolist(),
        "lift_reach_nm": float(np.linalg.norm(lift) * np.ptp(layers[chosen]) / 2),
        "view": start_view(scene).tolist(),
        "axes": (scene.cell / np.linalg.norm(scene.cell, axis=0)).T.tolist(),
        **{name: _packed(values.astype("<f4")) for name, values in numbers.items()},
        **{name: _packed(np.round(255 * values).astype(np.uint8)) for name, values in colours.items()},
    }
    filled = {
        "@TITLE@": html.escape(title),
        "@NOTE@": _note(data),
        "@BARS@": _bars(scene),
        "@SCENE@": json.dumps(data),  # numbers and base64: nothing in it can end the script
    }
    text = turning_page.PAGE
    for place, content in filled.items():
        text = text.replace(place, content)
    return text


def read_page(text: str) -> dict:
    """Read the scene of a :func:`page` back.

    Returns
    -------
    ``n_dots, n_dots_in_all, n_necks, edge_nm, …`` and as arrays ``centres_nm`` (n_dots, 3), ``orientations``
    (n_dots, 3, 3), ``dot_rgb`` (n_dots, 3) uint8, ``dot_layer``, ``neck_ends_nm`` (n_necks, 2, 3),
    ``neck_diameters_nm``, ``neck_rgb`` (n_necks, 3), ``neck_layers`` (n_necks, 2); sizes as drawn.

    Raises
    ------
    ValueError
        The text holds no scene, or one cut short.
    """
    start = '<script type="application/json" id="scene">'
    if start not in text:
        raise ValueError("the page holds no scene")
    data = json.loads(text.split(start)[1].split("</script>")[0])
    shapes = {
        "centres_nm": (data["n_dots"], 3), "orientations": (data["n_dots"], 3, 3), "dot_layer": (data["n_dots"],),
        "dot_rgb": (data["n_dots"], 3), "neck_ends_nm": (data["n_necks"], 2, 3),
        "neck_diameters_nm": (data["n_necks"],), "neck_rgb": (data["n_necks"], 3), "neck_layers": (data["n_necks"], 2),
    }  # fmt: skip
    for name, shape in shapes.items():
        values = np.frombuffer(base64.b64decode(data[name]), dtype="<f4" if name in FLOATS else np.uint8)
        if values.size != np.prod(shape):
            raise ValueError(f"{name} has {values.size} numbers, but the page says {shape}")
        data[name] = values.reshape(shape)
    return data


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _note(data: dict) -> str:
    drawn = f"{data['n_dots']:,} dots and {data['n_necks']:,} necks, drawn smaller than life."
    if data["n_dots"] == data["n_dots_in_all"]:
        return drawn
    return (
        f"{drawn} These are the dots of all layers nearest to the film's middle, of {data['n_dots_in_all']:,} in all."
    )


def _bars(scene: glyph_figures.GlyphScene) -> str:
    """Colour bars of cubes and sticks, or what is grey instead."""
    known = np.isfinite(scene.misorientation_deg).any()
    cubes = _bar("cubes: misorientation from R<sub>mono</sub> (°)", figures.ANGLE_MAP, scene.angle_norm, "0", "≥ {}")
    necks = _bar(scene.sticks_label, figures.NECK_MAP, scene.neck_norm, "≤ {}", "≥ {}")
    parts = [
        cubes if known else f"<span>{glyph_figures.CUBES_UNMEASURED} (grey)</span>",
        necks if (scene.diameters_nm > 0).any() else f"<span>{glyph_figures.STICKS_UNMEASURED} (grey)</span>",
    ]
    return "\n".join(parts) + "\n"


def _bar(label: str, colours: str, norm: Normalize, low: str, high: str) -> str:
    stops = ", ".join(to_hex(c) for c in mpl.colormaps[colours](np.linspace(0, 1, 17)))
    ends = f"<span>{low.format(f'{norm.vmin:g}')}</span><span>{high.format(f'{norm.vmax:g}')}</span>"
    return (
        f'<div class="bar">{label}<i style="background: linear-gradient(to right, {stops})"></i><div>{ends}</div></div>'
    )
