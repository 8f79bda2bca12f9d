"""Journal style for every figure: sizes, colours, labels, scale bars.

Nothing is computed here: arrays that are ready to be shown come in, marks on paper come out. Every
colour map and palette stays legible for readers with any of the common colour-vision deficiencies,
and text in SVG files stays text.

Figures are made through pyplot, so a notebook shows one when its cell ends. Write
``fig = ...`` there, not a bare call: a figure that is also the value of its cell is shown twice.
"""

from collections.abc import Iterable, Sequence
from string import ascii_lowercase

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.offsetbox import AnchoredText
from matplotlib.patheffects import Stroke, withStroke

SINGLE_COLUMN = 3.5
"""Width of a single-column figure, inches (89 mm)."""

DOUBLE_COLUMN = 7.2
"""Width of a double-column figure, inches (183 mm)."""

PALETTE: tuple[str, ...] = tuple(sns.color_palette("colorblind", 8).as_hex())
"""Eight colours for unordered categories (seaborn's ``colorblind``)."""

DIRECTION_COLOURS: dict[str, str] = {"A": "#D55E00", "B": "#0072B2", "C": "#009E73"}
"""One colour for each superlattice direction (Okabe and Ito)."""

MODEL_COLOURS: dict[str, str] = {
    "measured": "#333333",
    "mono": "#0072B2",
    "local": "#E69F00",
    "truth": "#CC79A7",
}
"""Measured values, the two models of orientation, and a twin's truth (Okabe and Ito)."""

GREY = "0.72"
"""What could not be measured, or is only context."""

IMAGE_MAP = "gray"
"""Micrographs and slices of a tomogram."""

ANGLE_MAP = "viridis"
"""Misorientation, from none (dark) to large (light)."""

NECK_MAP = "flare"
"""Neck diameter, from thin (light orange) to thick (dark purple); seaborn's map for lines on white."""


def use_style() -> None:
    """Set the journal style for all figures that follow.

    Text of 7 points in a font that ships with matplotlib, so that a figure looks the same on every
    machine; thin lines; no top or right spine; text in SVG and PDF files kept as text.

    Examples
    --------
    >>> use_style()
    >>> mpl.rcParams["svg.fonttype"]
    'none'
    """
    sns.set_theme(context="paper", style="ticks", palette=list(PALETTE))
    mpl.rcParams.update(
        {
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],
            "mathtext.fontset": "dejavusans",
            "font.size": 7,
            "axes.labelsize": 7,
            "axes.titlesize": 7,
            "axes.titleweight": "normal",
            "axes.titlepad": 4,
            "axes.labelpad": 2.5,
            "xtick.labelsize": 6.5,
            "ytick.labelsize": 6.5,
            "legend.fontsize": 6.5,
            "legend.title_fontsize": 6.5,
            "legend.frameon": False,
            "legend.handlelength": 1.4,
            "axes.linewidth": 0.6,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "xtick.minor.width": 0.4,
            "ytick.minor.width": 0.4,
            "xtick.major.size": 2.5,
            "ytick.major.size": 2.5,
            "xtick.minor.size": 1.5,
            "ytick.minor.size": 1.5,
            "xtick.major.pad": 2,
            "ytick.major.pad": 2,
            "lines.linewidth": 1.0,
            "lines.markersize": 3.5,
            "lines.markeredgewidth": 0.5,
            "patch.linewidth": 0.5,
            "errorbar.capsize": 1.5,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": False,
            "image.cmap": IMAGE_MAP,
            "image.interpolation": "nearest",
            "image.origin": "lower",
            "figure.figsize": (SINGLE_COLUMN, 2.6),
            "figure.constrained_layout.use": True,
            "figure.dpi": 160,
            "figure.max_open_warning": 0,
            "savefig.dpi": 450,
            "savefig.facecolor": "white",
            "svg.fonttype": "none",
            "svg.hashsalt": "mesotomo",  # the same figure gives the same bytes
            "pdf.fonttype": 42,
        }
    )


def layer_colours(n: int) -> list[str]:
    """Colours of the layers from C1 (dark) to Cn (light), as hexadecimal strings.

    An ordered map, because layers are ordered; its brightest end is left out, so that a line still
    shows on white.

    Parameters
    ----------
    n
        Number of layers, at least 1.

    Raises
    ------
    ValueError
        ``n`` is below 1.

    Examples
    --------
    >>> layer_colours(9)[0] == layer_colours(5)[0]
    True
    """
    if n < 1:
        raise ValueError(f"the number of layers must be 1 or more, not {n}")
    return [mpl.colors.to_hex(c) for c in mpl.colormaps["viridis"](np.linspace(0.0, 0.9, n))]


def layer_names(n: int) -> list[str]:
    """Return ``['C1', 'C2', …]`` for n layers, bottom first."""
    return [f"C{layer}" for layer in range(1, n + 1)]


def new_figure(
    rows: int = 1,
    columns: int = 1,
    *,
    width_in: float = SINGLE_COLUMN,
    height_in: float | None = None,
    **subplot_options: object,
) -> tuple[Figure, np.ndarray]:
    """Open a figure of journal width with a grid of axes.

    Parameters
    ----------
    rows, columns
        Shape of the grid.
    width_in
        `SINGLE_COLUMN` or `DOUBLE_COLUMN`, inches.
    height_in
        Height in inches; None makes every panel three quarters as high as wide.
    subplot_options
        Handed to :func:`matplotlib.pyplot.subplots`.

    Returns
    -------
    Figure and an object array (rows, columns) of axes.
    """
    if height_in is None:
        height_in = 0.75 * width_in / columns * rows
    options = {"squeeze": False, "layout": "constrained"} | subplot_options
    return plt.subplots(rows, columns, figsize=(width_in, height_in), **options)


def panel_labels(
    axes: Axes | Iterable[Axes],
    labels: Sequence[str] | None = None,
    *,
    x: float = 0.0,
    y: float = 1.0,
    offset_pt: tuple[float, float] = (-14.0, 3.0),
) -> None:
    """Write bold a, b, c … at the upper left of each panel.

    Parameters
    ----------
    axes
        One axes, an array of them, or any iterable, in reading order.
    labels
        Texts; None gives a, b, c ….
    x, y
        Anchor in fractions of the axes.
    offset_pt
        Shift from the anchor, points; the default leaves room for tick labels.
    """
    panels = [axes] if isinstance(axes, Axes) else list(np.ravel(np.asarray(axes, dtype=object)))
    for ax, label in zip(panels, labels or ascii_lowercase, strict=False):
        ax.annotate(
            label,
            (x, y),
            xycoords="axes fraction",
            xytext=offset_pt,
            textcoords="offset points",
            fontsize=9,
            fontweight="bold",
            ha="left",
            va="bottom",
            annotation_clip=False,
        )


def nice_length(extent: float, *, fraction: float = 0.25) -> float:
    """Round length (1, 2 or 5 times a power of ten) near a fraction of an extent.

    Examples
    --------
    >>> nice_length(60.0)
    10.0
    """
    wanted = fraction * float(extent)
    power = 10.0 ** np.floor(np.log10(wanted))
    return float(max(step for step in (1.0, 2.0, 5.0) if step * power <= wanted * (1 + 1e-9)) * power)


def scale_bar(
    ax: Axes,
    length_nm: float | None = None,
    *,
    location: str = "lower left",
    colour: str = "white",
    background: str | None = None,
    outline: str | None = None,
    unit: str = "nm",
) -> float:
    """Draw a labelled bar of true length; the axes' data unit must be nm.

    Parameters
    ----------
    ax
        Axes whose x axis is in nm and whose limits are already set.
    length_nm
        Length of the bar; None takes a round length near a quarter of the width.
    location
        ``lower|upper left|right``.
    colour
        Of bar and text: white on a micrograph, black on paper.
    background
        A colour for a box behind the bar, None for no box.
    outline
        A colour around bar and text, for a ground that is both dark and light; None for none.

    Returns
    -------
    The length drawn, nm.
    """
    x0, x1 = sorted(ax.get_xlim())
    y0, y1 = sorted(ax.get_ylim())
    ax.autoscale(False)  # the bar must not change what is shown
    length = nice_length(x1 - x0) if length_nm is None else float(length_nm)
    vertical, horizontal = location.split()
    left = x0 + 0.05 * (x1 - x0) if horizontal == "left" else x1 - 0.05 * (x1 - x0) - length
    # An image drawn from the top down has its y axis turned: "lower" means lower on paper.
    low_on_paper = (vertical == "lower") != ax.yaxis_inverted()
    y = y0 + 0.05 * (y1 - y0) if low_on_paper else y1 - 0.05 * (y1 - y0)
    effects = [] if outline is None else [withStroke(linewidth=3.2, foreground=outline)]
    ax.plot(
        [left, left + length], [y, y], color=colour, lw=2.0, solid_capstyle="butt", zorder=6, path_effects=effects
    )  # fmt: skip
    ax.annotate(
        f"{length:g} {unit}",
        (left + length / 2, y),
        xytext=(0, 2.5 if vertical == "lower" else -2.5),
        textcoords="offset points",
        ha="center",
        va="bottom" if vertical == "lower" else "top",
        color=colour,
        fontsize=7,
        zorder=6,
        path_effects=[] if outline is None else outlined(outline),
        bbox=None if background is None else {"fc": background, "ec": "none", "pad": 1, "alpha": 0.7},
    )
    return length


def outlined(colour: str = "black", width_pt: float = 1.1) -> list[Stroke]:
    """Path effects of a line or a text that must be seen on dark and on light ground."""
    return [withStroke(linewidth=width_pt, foreground=colour)]


def show_image(
    ax: Axes,
    image: np.ndarray,
    *,
    pixel_nm: float,
    limits: tuple[float, float] | None = None,
    cmap: str = IMAGE_MAP,
    bar_nm: float | None = None,
    with_bar: bool = True,
    bar_colour: str = "white",
) -> AxesImage:
    """Show a slice or a projection in nm about its centre, with a scale bar and no axes.

    Parameters
    ----------
    ax
        Where to draw.
    image
        (rows, columns); row 0 is drawn at the bottom, so that z and y grow upwards.
    pixel_nm
        Side of a pixel.
    limits
        Grey levels shown as black and white; None uses the 0.5 and 99.8 percentiles.
    bar_nm
        Length of the scale bar; None takes a round one.
    with_bar
        False leaves the bar out, for all but one of several equal panels.
    bar_colour
        Colour of bar and label.

    Returns
    -------
    The image artist, for a colour bar.
    """
    image = np.asarray(image)
    rows, columns = image.shape
    half_x, half_y = columns * pixel_nm / 2, rows * pixel_nm / 2
    low, high = np.nanpercentile(image, (0.5, 99.8)) if limits is None else limits
    artist = ax.imshow(
        image,
        origin="lower",
        cmap=cmap,
        vmin=low,
        vmax=high,
        extent=(-half_x, half_x, -half_y, half_y),
        interpolation="antialiased",
    )
    bare(ax)
    if with_bar:
        scale_bar(ax, bar_nm, colour=bar_colour)
    return artist


def bare(ax: Axes) -> None:
    """Take ticks and spines away, keep the aspect equal."""
    ax.set(xticks=[], yticks=[], aspect="equal")
    for spine in ax.spines.values():
        spine.set_visible(False)


def corner_text(ax: Axes, text: str, *, location: str = "upper left", colour: str = "black", box: bool = False) -> None:
    """Write a short text inside a corner of a panel, on a white box where asked."""
    note = AnchoredText(text, loc=location, frameon=box, pad=0.25, borderpad=0.4, prop={"size": 7, "color": colour})
    note.patch.set(edgecolor="none", facecolor="white", alpha=0.8)
    ax.add_artist(note)


def colour_bar(mappable: object, ax: Axes | Sequence[Axes], label: str, **options: object) -> Colorbar:
    """Thin colour bar beside ``ax``, labelled with its quantity and unit.

    Parameters
    ----------
    mappable
        The coloured artist, or a :class:`matplotlib.cm.ScalarMappable`.
    ax
        Axes, or several that share the bar.
    label
        Quantity with its unit, e.g. ``"misorientation (°)"``.
    options
        Handed to :meth:`matplotlib.figure.Figure.colorbar`.
    """
    first = ax if isinstance(ax, Axes) else np.ravel(np.asarray(ax, dtype=object))[0]
    settings = {"shrink": 0.85, "aspect": 25, "pad": 0.02} | options
    bar = first.figure.colorbar(mappable, ax=ax, label=label, **settings)
    bar.outline.set_linewidth(0.5)
    return bar


def layer_axis(ax: Axes, layers: Sequence[int], *, axis: str = "x") -> None:
    """Label an axis with the layers C1 … Cn at the positions 1 … n."""
    layers = [int(layer) for layer in layers]
    names = [f"C{layer}" for layer in layers]
    if axis == "x":
        ax.set_xticks(layers, names)
        ax.set_xlim(min(layers) - 0.6, max(layers) + 0.6)
    else:
        ax.set_yticks(layers, names)
        ax.set_ylim(min(layers) - 0.6, max(layers) + 0.6)


def layer_legend(ax: Axes, n: int, **options: object) -> None:
    """Legend of the layer colours, bottom layer first."""
    handles = [
        mpl.lines.Line2D([], [], marker="o", ls="", color=colour, label=name)
        for colour, name in zip(layer_colours(n), layer_names(n), strict=True)
    ]
    settings = {"handletextpad": 0.2, "columnspacing": 0.8, "borderaxespad": 0.2} | options
    ax.legend(handles=handles, **settings)
