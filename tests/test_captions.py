"""Every figure and film has a caption, every caption a figure; the report shows them."""

from __future__ import annotations

import ast
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from mesotomo_utils.workflow import report, report_pdf
from mesotomo_utils.workflow.captions import CAPTIONS, caption
from mesotomo_utils.workflow.notebooks import find_notebooks, read_notebook

SAVING = {"save_figure": 2, "save_picture": 2, "save_film": 3}  # the place of the name among the arguments


def saved_names(repository: Path) -> set[str]:
    """Names under which the notebooks save figures and films, read from their code."""
    names = []
    for file in find_notebooks(repository / "notebooks").values():
        source = "\n".join(cell.source for cell in read_notebook(file).cells if cell.cell_type == "code")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SAVING:
                names.append(ast.literal_eval(node.args[SAVING[node.func.attr]]))
    assert len(names) == len(set(names)), "two figures of one name: the second overwrites the first"
    return set(names)


def test_every_figure_has_a_caption_and_every_caption_a_figure(repository: Path) -> None:
    assert set(CAPTIONS) == saved_names(repository)


def test_captions_are_sentences_and_name_the_figure_of_the_paper() -> None:
    for name, text in CAPTIONS.items():
        assert 40 <= len(text) <= 240, name
        assert text[0].isupper(), name
        assert text.endswith("."), name
    for name in ("fig_1d_tomogram", "fig_2a", "fig_3_spread", "fig_4_neighbours", "fig_5_trapping"):
        number = name.split("_")[1]
        assert f"Fig. {number}" in CAPTIONS[name], name


def test_the_report_shows_them(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.png" for name in ("fig_2a", "of_my_own")]
    for file in files:
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(file)
    page = report.html_page("a", [], {}, files)
    assert CAPTIONS["fig_2a"].split("{")[0] in page
    assert "of_my_own" in page
    sheet = report_pdf.figure_page(files)
    written = [" ".join(text.get_text().split()) for text in sheet.texts]
    assert written == [caption("fig_2a"), "of_my_own"]
    plt.close(sheet)


def test_the_longest_caption_stays_on_the_page_and_off_its_neighbours(tmp_path: Path) -> None:
    longest = max(CAPTIONS, key=lambda name: len(CAPTIONS[name]))
    files = []
    for folder in "abcdef":
        (tmp_path / folder).mkdir()
        files.append(tmp_path / folder / f"{longest}.png")
        Image.fromarray(np.zeros((60, 40, 3), np.uint8)).save(files[-1])
    sheet = report_pdf.figure_page(files)
    sheet.canvas.draw()
    boxes = [text.get_window_extent() for text in sheet.texts] + [ax.get_window_extent() for ax in sheet.axes]
    inside = sheet.bbox
    for number, box in enumerate(boxes):
        assert inside.x0 <= box.x0 < box.x1 <= inside.x1
        assert inside.y0 <= box.y0 < box.y1 <= inside.y1
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
    plt.close(sheet)
