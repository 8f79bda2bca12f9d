"""The report of a run as PDF: its tables as text over as many pages as they need, then its figures."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from mesotomo_utils.workflow import results
from mesotomo_utils.workflow.captions import caption

if TYPE_CHECKING:
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

_PAGE_IN = (11.7, 8.3)  # A4, landscape
_FONT_PT = 7.0
_LINES_A_PAGE = 56
_LETTERS_A_LINE = 180  # of the fixed-width font at this size
_WIDEST = 88  # letters of a column
_FIGURES_A_PAGE = 6
_LETTERS_A_CAPTION = 76  # of a line as wide as a picture


def write_pdf(
    path: str | Path,
    title: str,
    notes: Sequence[str],
    tables: Mapping[str, pd.DataFrame],
    figures: Sequence[Path],
) -> Path:
    """The report as PDF: pages of tables, then the figures.

    Parameters
    ----------
    path
        File to write; it appears under this name only when it is whole.
    title, notes
        Heading and sentences of the first page.
    tables
        Heading and table of texts, in order; long cells run over several lines.
    figures
        PNG files.
    """
    import matplotlib.pyplot as plt
    from matplotlib.backends.backend_pdf import PdfPages

    path = Path(path)
    temporary = results.scratch(path.parent, path.name)
    # no date in the file: two runs give the same report; pages are laid out by hand
    plain = plt.rc_context({"figure.constrained_layout.use": False, "pdf.fonttype": 3})
    with plain, PdfPages(temporary, metadata={"CreationDate": None, "ModDate": None}) as pdf:
        wrapped = [line for note in notes for line in textwrap.wrap(note, 170)]
        first = [[title, *wrapped]]
        for page in text_pages(tables, taken=len(wrapped) + 3):
            _save_text(pdf, page, first.pop() if first else None)
        for start in range(0, len(figures), _FIGURES_A_PAGE):
            page = figure_page(figures[start : start + _FIGURES_A_PAGE])
            pdf.savefig(page, dpi=200)
            plt.close(page)
    return results.publish(temporary, path)


def text_pages(tables: Mapping[str, pd.DataFrame], *, taken: int = 0) -> list[list[str]]:
    """The tables as lines, page by page.

    Parameters
    ----------
    tables
        Heading and table of texts, in order.
    taken
        Lines of the first page that are not free.

    Returns
    -------
    Lines of each page. A heading starts with ``# ``, the names of the columns are repeated on each page, and a row is
    not parted unless it is longer than a page.
    """
    pages: list[list[str]] = [[]]
    free = _LINES_A_PAGE - taken
    for heading, table in tables.items():
        names, *rows = table_lines(table)
        names = [*names, "─" * max(len(line) for row in (names, *rows) for line in row)]
        if any(len(row) > 1 for row in rows):
            rows = [[*row, ""] for row in rows]  # long rows stand apart
        top = ["", f"# {heading}", *names]
        for part in [part for row in rows for part in _parts(row, _LINES_A_PAGE - len(top))]:
            if len(top) + len(part) > free and pages[-1]:
                pages.append([])
                free = _LINES_A_PAGE
                top = [f"# {heading}" + ("" if top and top[0] == "" else ", continued"), *names]
            pages[-1] += [*top, *part]
            free -= len(top) + len(part)
            top = []
    return pages


def _parts(lines: list[str], most: int) -> list[list[str]]:
    return [lines[first : first + most] for first in range(0, len(lines), most)]


def table_lines(table: pd.DataFrame) -> list[list[str]]:
    """A table of texts in columns, the names first; each row as the lines that its longest cell needs.

    The widest columns are narrowed until a row fits the page; what is longer is broken, never cut off.
    """
    rows = [list(map(str, table.columns)), *table.astype(str).to_numpy().tolist()]
    widths = [max(len(line) for text in column for line in text.split("\n")) for column in zip(*rows, strict=True)]
    widths = [min(width, _WIDEST) for width in widths]
    while sum(widths) + 2 * (len(widths) - 1) > _LETTERS_A_LINE:
        widths[widths.index(max(widths))] -= 1
    found = []
    for row in rows:
        cells = [
            [part for line in text.split("\n") for part in textwrap.wrap(line, width, subsequent_indent=" ") or [""]]
            for text, width in zip(row, widths, strict=True)
        ]
        height = max(map(len, cells))
        lines = zip(*(cell + [""] * (height - len(cell)) for cell in cells), strict=True)
        found.append(["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines])
    return found


def _save_text(pdf: PdfPages, lines: Sequence[str], opening: Sequence[str] | None) -> None:
    """A page of lines, the first one under title and notes."""
    import matplotlib.pyplot as plt

    page = plt.figure(figsize=_PAGE_IN, layout="none")
    step = 0.925 / _LINES_A_PAGE
    top = 0.965
    if opening is not None:
        page.text(0.035, top, opening[0], fontsize=13, weight="bold", va="top")
        page.text(0.035, top - 2 * step, "\n".join(opening[1:]), fontsize=8, va="top", linespacing=1.3)
        top -= (len(opening) + 2) * step
    for place, line in enumerate(lines):
        head = line.startswith("# ")
        style = {"fontsize": 9.5, "weight": "bold"} if head else {"fontsize": _FONT_PT, "family": "monospace"}
        page.text(0.035, top - place * step, line.removeprefix("# "), va="top", **style)
    pdf.savefig(page)
    plt.close(page)


def figure_page(figures: Sequence[Path]) -> Figure:
    """A page with up to six pictures under their captions.

    Parameters
    ----------
    figures
        PNG files.
    """
    import matplotlib.pyplot as plt
    from PIL import Image

    def shrink(picture: Path) -> Image.Image:
        """As many pixels as the page shows; the full figure lies beside the report."""
        with Image.open(picture) as image:
            image = image.convert("RGB")
            image.thumbnail((720, 720), reducing_gap=2.0)
            return image

    page = plt.figure(figsize=(11.7, 8.3), layout="none")
    with ThreadPoolExecutor() as readers:
        images = list(readers.map(shrink, figures))
    for place, (picture, image) in enumerate(zip(figures, images, strict=True)):
        left, bottom = 0.02 + 0.325 * (place % 3), 0.5 - 0.48 * (place // 3)
        ax = page.add_axes((left, bottom, 0.31, 0.39), xticks=[], yticks=[], frame_on=False)
        ax.imshow(image, origin="upper", interpolation="none")
        ax.set_anchor("N")  # below its caption
        lines = textwrap.fill(caption(picture.stem), _LETTERS_A_CAPTION)
        page.text(left, bottom + 0.398, lines, fontsize=6.5, va="bottom", linespacing=1.2)
    return page
