"""What the notebooks leave in a run folder: tables, named values and figures.

Every file is written beside its final name and renamed, so that a run that is killed leaves
nothing half-written under a final name.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mesotomo_utils.workflow.files import plain, publish, scratch, write_document, write_text
from mesotomo_utils.workflow.steps import STEMS, maker_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    *("MissingInput", "exists", "join", "path", "publish", "read_json", "read_results", "read_table"),
    *("record", "save_figure", "save_film", "save_picture", "scratch", "value", "write_json", "write_table"),
]

FLOAT_FORMAT = "%.9g"
FIGURE_DPI = 250
SCREEN_DPI = 120
FILMS = (".mp4", ".gif")
"""Suffixes of a film."""

QDS_COLUMNS = (
    *("qd", "x_nm", "y_nm", "z_nm", "sigma_x_nm", "sigma_y_nm", "sigma_z_nm"),
    *("grain", "i", "j", "k", "layer", "qw", "qx", "qy", "qz", "sigma_deg", "lattice_snr"),
    "at_edge",
)
ROW_KEYS = ("name", "index", "value", "unit", "sigma", "interval_95", "n", "step")
COMPARED_KEYS = ("paper", "truth", "verdict_paper", "verdict_truth")


class MissingInput(FileNotFoundError):
    """A file of the run folder is not there; the message says which command makes it."""

    def __str__(self) -> str:
        return str(self.args[0])


# ------------------------------------------------------------------ reading


def path(run_dir: str | Path, name: str) -> Path:
    """Path of the file or folder `name` in `run_dir`.

    Parameters
    ----------
    run_dir
        The run folder.
    name
        Name relative to it, for instance ``"tomogram.ome.zarr"``.

    Raises
    ------
    MissingInput
        It is not there; the message names the command that makes it.
    """
    found = Path(run_dir) / name
    if found.exists():
        return found
    maker = maker_of(name)
    if maker is None:
        raise MissingInput(f"{found} is missing, and no step of the pipeline makes it")
    number = maker[:2]
    raise MissingInput(
        f"{found} is missing; `mesotomo run {_sample_of(run_dir)} --out {run_dir} "
        f"--from {number} --to {number}` makes it"
    )


def exists(run_dir: str | Path, name: str) -> bool:
    """Whether `run_dir` holds the file `name`."""
    return (Path(run_dir) / name).exists()


def read_table(run_dir: str | Path, name: str) -> pd.DataFrame:
    """Read the CSV table `name` of the run folder; empty cells become NaN.

    Raises
    ------
    MissingInput
        It is not there; the message names the command that makes it.
    """
    return pd.read_csv(path(run_dir, name))


def read_json(run_dir: str | Path, name: str) -> Any:
    """Read the JSON file `name` of the run folder; null stays None.

    Raises
    ------
    MissingInput
        It is not there; the message names the command that makes it.
    """
    return json.loads(path(run_dir, name).read_text(encoding="utf-8"))


def _sample_of(run_dir: str | Path) -> str:
    manifest = Path(run_dir) / "manifest.json"
    if not manifest.exists():
        return "SAMPLE"
    return json.loads(manifest.read_text(encoding="utf-8")).get("sample", "SAMPLE")


# ------------------------------------------------------------------ writing


def write_table(run_dir: str | Path, name: str, frame: pd.DataFrame) -> Path:
    """Write `frame` as the CSV file `name`: nine significant digits, NaN as an empty cell."""
    text = frame.to_csv(index=False, float_format=FLOAT_FORMAT, lineterminator="\n")
    return write_text(Path(run_dir) / name, text)


def write_json(run_dir: str | Path, name: str, obj: Any) -> Path:
    """Write `obj`, which may hold NumPy numbers and arrays, as JSON; NaN becomes null."""
    return write_document(Path(run_dir) / name, obj)


# ------------------------------------------------------------------ named values


def value(
    name: str,
    value: float | Iterable[float] | None,
    unit: str = "",
    *,
    sigma: float | None = None,
    interval_95: Iterable[float] | None = None,
    n: int | None = None,
    index: str | None = None,
    reason: str | None = None,
) -> dict[str, Any]:
    """One named result, checked.

    Parameters
    ----------
    name
        What it is, in lower case with underscores, for instance ``"planarity_fwhm"``.
    value
        A number or a list of numbers; NaN or None where there is none.
    unit
        ``"nm"``, ``"deg"``, … or empty for a pure number.
    sigma
        Standard error, in the same unit; NaN counts as unknown.
    interval_95
        Lower and upper end of the 95 % interval; NaN ends count as unknown.
    n
        Number of dots, pairs or tilts it rests on.
    index
        None, ``"C1"``…, ``"A"``, ``"B"``, ``"C"`` or ``"C1/A"``.
    reason
        Why there is no number; needed where `value` is NaN or None, left out of the row where there is one.

    Raises
    ------
    ValueError
        A value is no number, a NaN has no reason, sigma is negative or the interval has not two
        ends in rising order.

    Examples
    --------
    >>> value("neck_connectivity", 0.893, n=1544)["value"]
    0.893
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"a result needs a name, found {name!r}")
    number = plain(value)
    items = number if isinstance(number, list) else [number]
    if not all(item is None or isinstance(item, Real) for item in items) or not items:
        raise ValueError(f"{name}: the value must be a number or a list of numbers, found {value!r}")
    if any(item is None for item in items) and not reason:
        raise ValueError(f"{name}: the value is NaN; give the reason, for instance reason='n < 5'")
    sigma = plain(sigma)
    if sigma is not None and (not isinstance(sigma, Real) or sigma < 0):
        raise ValueError(f"{name}: sigma must be a number of at least 0, found {sigma!r}")
    interval = plain(interval_95)
    if interval is not None:
        if not isinstance(interval, list) or len(interval) != 2:
            raise ValueError(f"{name}: interval_95 must have two ends, found {interval_95!r}")
        if None in interval:
            interval = None
        elif interval[0] > interval[1]:
            raise ValueError(f"{name}: interval_95 must rise, found {interval}")
    row = {
        "name": name,
        "index": None if index is None else str(index),
        "value": number,
        "unit": unit,
        "sigma": sigma,
        "interval_95": interval,
        "n": None if n is None else int(n),
    }
    return row | ({"reason": reason} if None in items else {})


def record(
    run_dir: str | Path,
    step: str,
    values: Iterable[Mapping[str, Any]],
    *,
    facts: Mapping[str, Any] | None = None,
    comparison: pd.DataFrame | Iterable[Mapping[str, Any]] | None = None,
) -> pd.DataFrame:
    """Write the results of a step and join those of all steps; the last cell of a notebook.

    Writes ``results/<step>.json``, ``results/kernel/<step>.json`` (the package's files this
    kernel has imported and its peak memory: the runner resumes by the first), ``results.json``
    and, where there are centres, ``qds.csv``.

    Parameters
    ----------
    run_dir
        The run folder.
    step
        Stem of the notebook, for instance ``"05_mesoscale"``.
    values
        What `value` returned, one for each result.
    facts
        ``engine`` and ``device`` that did the work, for the manifest.
    comparison
        Only from 08: rows with ``name, index`` and ``paper, truth, verdict_paper,
        verdict_truth``, to be filled into the joined results.

    Returns
    -------
    DataFrame
        The values of this step, to look at.

    Raises
    ------
    ValueError
        The step is unknown, a row is not as `value` makes it, two rows have the same name and
        index, or a comparison comes from another step than 08.
    """
    if step not in STEMS:
        raise ValueError(f"there is no step {step!r}; the steps are {', '.join(STEMS)}")
    if comparison is not None and step != "08_report":
        raise ValueError(f"only 08_report compares with the paper and the truth, not {step}")
    rows: list[dict[str, Any]] = []
    seen: set[tuple[str, str | None]] = set()
    for row in values:
        try:
            checked = value(**row)
        except TypeError as error:
            raise ValueError(f"{step}: a result must come from results.value: {error}") from error
        key = (checked["name"], checked["index"])
        if key in seen:
            raise ValueError(f"{step}: the result {key} is given twice")
        seen.add(key)
        rows.append(checked | {"step": step})
    document: dict[str, Any] = {"step": step, "values": rows}
    if comparison is not None:
        if isinstance(comparison, pd.DataFrame):
            comparison = comparison.to_dict("records")
        document["comparison"] = list(comparison)
    write_json(run_dir, f"results/kernel/{step}.json", kernel_facts() | dict(facts or {}))
    write_json(run_dir, f"results/{step}.json", document)
    join(run_dir)
    return pd.DataFrame(rows, columns=[*ROW_KEYS[:-1], "reason"])


def join(run_dir: str | Path) -> list[dict[str, Any]]:
    """Join the steps' results into ``results.json`` and the steps' tables into ``qds.csv``.

    Returns
    -------
    list of dict
        The rows of ``results.json``, in the order of the steps.
    """
    rows: list[dict[str, Any]] = []
    compared: dict[tuple[Any, Any], dict[str, Any]] = {}
    for step in STEMS:
        if exists(run_dir, f"results/{step}.json"):
            document = read_json(run_dir, f"results/{step}.json")
            rows += document["values"]
            for row in document.get("comparison", ()):
                compared[row["name"], row.get("index")] = row
    joined = []
    for row in rows:
        other = compared.get((row["name"], row["index"]), {})
        if "value" in other and other["value"] != row["value"]:
            other = {}  # the step ran again after the report: its old verdict no longer holds
        full = {key: row.get(key) for key in ROW_KEYS} | {k: other.get(k) for k in COMPARED_KEYS}
        joined.append(full | ({"reason": row["reason"]} if row.get("reason") else {}))
    write_json(run_dir, "results.json", joined)
    if exists(run_dir, "centres.csv"):
        write_table(run_dir, "qds.csv", _join_dots(run_dir))
    return joined


def _join_dots(run_dir: str | Path) -> pd.DataFrame:
    """Centres with the orientations beside them, in the columns of ``qds.csv``."""
    dots = read_table(run_dir, "centres.csv")
    if exists(run_dir, "orientations.csv"):
        turned = read_table(run_dir, "orientations.csv")
        new = [name for name in turned if name not in dots]
        dots = dots.merge(turned[["qd", *new]], on="qd", how="left", validate="one_to_one")
    return dots.reindex(columns=list(QDS_COLUMNS))


def read_results(run_dir: str | Path, step: str | None = None) -> pd.DataFrame:
    """Rows of ``results.json``, of all steps or of one, as a table."""
    frame = pd.DataFrame(read_json(run_dir, "results.json"))
    if frame.empty:
        return pd.DataFrame(columns=[*ROW_KEYS, *COMPARED_KEYS])
    return frame if step is None else frame[frame["step"] == step].reset_index(drop=True)


def kernel_facts() -> dict[str, Any]:
    """The package's files this process has imported, and its peak memory in MB."""
    package = Path(__file__).resolve().parents[1]
    files = set()
    for module in list(sys.modules.values()):
        origin = getattr(module, "__file__", None)
        if origin and Path(origin).resolve().is_relative_to(package):
            files.add(Path(origin).resolve().relative_to(package.parent).as_posix())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes
    return {
        "files": sorted(files),
        "peak_memory_mb": peak * (1 if sys.platform == "darwin" else 1024) / 1e6,
    }


# ------------------------------------------------------------------ figures


def save_figure(
    fig: Figure,
    run_dir: str | Path,
    name: str,
    data: pd.DataFrame | Mapping[str, pd.DataFrame],
) -> Path:
    """Save a figure as PNG and SVG together with the numbers it plots; a notebook shows the PNG.

    Parameters
    ----------
    fig
        The figure. A notebook closes it, for what it shows is the file that was saved.
    run_dir
        The run folder; the files go to ``figures/``.
    name
        Name without suffix, for instance ``"fig_2d_planarity"``.
    data
        The plotted numbers, saved as ``<name>.csv``; a dictionary saves each table as
        ``<name>_<key>.csv``.

    Returns
    -------
    Path
        The PNG file.

    Raises
    ------
    ValueError
        The name has a suffix or a folder in it.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    base = _figure_base(run_dir, name)
    # savefig would draw each file twice, once for the layout: one serves both
    fig.dpi = FIGURE_DPI
    layout = fig.get_layout_engine()
    if layout is not None:
        layout.execute(fig)
        fig.set_layout_engine("none")
    picture, vectors = (base.parent / f"{base.name}{suffix}" for suffix in (".png", ".svg"))
    temporary = scratch(base.parent, picture.name)
    # zlib's third level takes half the time of its sixth, which is usual, for 5 % more bytes
    FigureCanvasAgg(fig).print_png(temporary, pil_kwargs={"compress_level": 3})
    publish(temporary, picture)
    temporary = scratch(base.parent, vectors.name)
    # without a date and with a fixed salt two runs write the same SVG
    with mpl.rc_context({"svg.hashsalt": name}):
        FigureCanvasSVG(fig).print_svg(temporary, metadata={"Date": None})
    publish(temporary, vectors)
    _save_plotted(base, data)
    _show(fig, picture)
    return picture


def _show(fig: Figure, picture: Path) -> None:
    """Show a saved figure in a notebook, instead of drawing it once more."""
    from IPython import get_ipython

    if get_ipython() is None:
        return
    import matplotlib.pyplot as plt
    from IPython.display import Image, display

    plt.close(fig)
    display(Image(picture, width=round(fig.get_figwidth() * SCREEN_DPI)))


def save_picture(
    array_rgb: np.ndarray,
    run_dir: str | Path,
    name: str,
    data: pd.DataFrame | Mapping[str, pd.DataFrame],
) -> Path:
    """Save a rendered scene, an (h, w, 3 or 4) array of bytes, as PNG with its numbers as CSV.

    Returns
    -------
    Path
        The PNG file.

    Raises
    ------
    ValueError
        The array has not three dimensions with 3 or 4 channels.
    """
    from matplotlib import image

    array = np.asarray(array_rgb)
    if array.ndim != 3 or array.shape[2] not in (3, 4):
        raise ValueError(f"figure {name}: expected an (h, w, 3 or 4) array, found {array.shape}")
    base = _figure_base(run_dir, name)
    temporary = scratch(base.parent, f"{base.name}.png")
    image.imsave(temporary, np.ascontiguousarray(array))
    _save_plotted(base, data)
    return publish(temporary, base.parent / f"{base.name}.png")


def save_film(
    write: Callable[[Path, Iterable[np.ndarray]], Path],
    frames: Iterable[np.ndarray],
    run_dir: str | Path,
    name: str,
    data: pd.DataFrame,
) -> Path:
    """Save a film beside the figures, with what its frames show as CSV; a notebook shows it.

    Parameters
    ----------
    write
        Writes the frames to a path without a suffix and returns the file: ``movies.write_movie``.
    frames
        Images of one size.
    run_dir
        The run folder; the files go to ``figures/``.
    name
        Name without suffix, for instance ``"tilt_series"``.
    data
        One row a frame, for instance its tilt.

    Returns
    -------
    Path
        The film, :data:`FILMS`.

    Raises
    ------
    ValueError
        The name has a suffix or a folder in it.
    """
    base = _figure_base(run_dir, name)
    film = write(base, frames)
    for suffix in FILMS:  # of an earlier run, where the other kind was written
        if suffix != film.suffix:
            base.with_suffix(suffix).unlink(missing_ok=True)
    _save_plotted(base, data)
    from IPython import get_ipython

    if get_ipython() is not None:
        from IPython.display import Image, Video, display

        attributes = "controls loop muted playsinline"
        display(Image(film) if film.suffix == ".gif" else Video(film, embed=True, html_attributes=attributes))
    return film


def _figure_base(run_dir: str | Path, name: str) -> Path:
    if "/" in name or "." in name or not name:
        raise ValueError(f"a figure's name has neither suffix nor folder, found {name!r}")
    return Path(run_dir) / "figures" / name


def _save_plotted(base: Path, data: pd.DataFrame | Mapping[str, pd.DataFrame]) -> None:
    if isinstance(data, pd.DataFrame):
        write_table(base.parent, f"{base.name}.csv", data)
        return
    for suffix, frame in data.items():
        write_table(base.parent, f"{base.name}_{suffix}.csv", frame)
