"""What the notebooks leave: values, tables, figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mesotomo_utils.visualization import figures
from mesotomo_utils.workflow import files, report, report_pdf, results
from mesotomo_utils.workflow.gallery import copy_gallery
from mesotomo_utils.workflow.summary import results_table

mpl.use("agg")


def test_numpy_numbers_become_plain() -> None:
    row = results.value("n", np.int64(3), sigma=np.float32(0.5), interval_95=np.array([2.0, 4.0]), n=np.int32(7))
    assert row == {
        "name": "n",
        "index": None,
        "value": 3,
        "unit": "",
        "sigma": 0.5,
        "interval_95": [2.0, 4.0],
        "n": 7,
    }
    json.dumps(row, allow_nan=False)


def test_nan_needs_a_reason_and_becomes_null() -> None:
    with pytest.raises(ValueError, match="planarity: the value is NaN; give the reason"):
        results.value("planarity", float("nan"))
    row = results.value("planarity", float("nan"), sigma=np.nan, interval_95=[np.nan, np.nan], reason="n < 5")
    assert row["value"] is None
    assert row["sigma"] is None
    assert row["interval_95"] is None
    assert row["reason"] == "n < 5"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "", "value": 1}, "needs a name"),
        ({"name": "a", "value": "many"}, "number or a list of numbers"),
        ({"name": "a", "value": []}, "number or a list of numbers"),
        ({"name": "a", "value": [1.0, None]}, "give the reason"),
        ({"name": "a", "value": 1, "sigma": -0.1}, "sigma must be"),
        ({"name": "a", "value": 1, "interval_95": [2, 1]}, "must rise"),
        ({"name": "a", "value": 1, "interval_95": [2]}, "two ends"),
    ],
)
def test_a_wrong_value_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        results.value(**arguments)


def test_record_joins_the_steps_in_their_order(tmp_path: Path) -> None:
    results.record(tmp_path, "05_mesoscale", [results.value("b", 2.0, "nm", index="C1")])
    table = results.record(tmp_path, "02_centres", [results.value("a", [1, 2])])
    assert list(table["name"]) == ["a"]
    rows = json.loads((tmp_path / "results.json").read_text())
    assert [(row["step"], row["name"], row["index"]) for row in rows] == [
        ("02_centres", "a", None),
        ("05_mesoscale", "b", "C1"),
    ]
    assert list(rows[0]) == [
        *("name", "index", "value", "unit", "sigma", "interval_95", "n", "step"),
        *("paper", "truth", "verdict_paper", "verdict_truth"),
    ]
    kernel = json.loads((tmp_path / "results" / "kernel" / "02_centres.json").read_text())
    assert "mesotomo_utils/workflow/results.py" in kernel["files"]
    assert kernel["peak_memory_mb"] > 10
    if sys.platform == "linux":  # the kernel's own account, in KiB
        lines = Path("/proc/self/status").read_text().splitlines()
        (peak,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        assert kernel["peak_memory_mb"] == pytest.approx(peak * 1024 / 1e6, rel=0.01)


def test_record_refuses_what_is_not_a_result(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no step"):
        results.record(tmp_path, "5", [])
    with pytest.raises(ValueError, match="given twice"):
        results.record(tmp_path, "02_centres", [results.value("a", 1), results.value("a", 2)])
    with pytest.raises(ValueError, match=r"must come from results\.value"):
        results.record(tmp_path, "02_centres", [{"name": "a", "value": 1, "colour": "red"}])
    with pytest.raises(ValueError, match="only 08_report compares"):
        results.record(tmp_path, "02_centres", [], comparison=[])
    assert not (tmp_path / "results.json").exists()


def test_verdicts_come_from_08_and_go_when_the_value_changes(tmp_path: Path) -> None:
    results.record(tmp_path, "02_centres", [results.value("n_dots", 630)])
    compared = {"name": "n_dots", "index": None, "value": 630, "paper": 633, "verdict_paper": "contradicts"}
    results.record(tmp_path, "08_report", [], comparison=pd.DataFrame([compared]))
    assert results.read_results(tmp_path).loc[0, "paper"] == 633
    results.record(tmp_path, "02_centres", [results.value("n_dots", 633)])
    assert json.loads((tmp_path / "results.json").read_text())[0]["verdict_paper"] is None


def test_qds_joins_centres_and_orientations(tmp_path: Path) -> None:
    centres = pd.DataFrame({"qd": [0, 1], "x_nm": [0.5, 1.5], "y_nm": 0.0, "z_nm": 0.0, "layer": [1, 2]})
    results.write_table(tmp_path, "centres.csv", centres.assign(at_edge=[True, False]))
    results.write_table(tmp_path, "orientations.csv", pd.DataFrame({"qd": [1], "qw": [1.0], "sigma_deg": [0.5]}))
    results.record(tmp_path, "03_orientation", [])
    qds = results.read_table(tmp_path, "qds.csv")
    assert tuple(qds.columns) == results.QDS_COLUMNS
    assert np.isnan(qds.loc[0, "qw"])
    assert qds.loc[1, "qw"] == 1.0
    assert qds["at_edge"].tolist() == [True, False]


def test_a_table_comes_back_as_it_was(tmp_path: Path) -> None:
    frame = pd.DataFrame({"i": pd.array([1, None], dtype="Int64"), "x_nm": [1 / 3, np.nan], "ok": [True, False]})
    results.write_table(tmp_path, "layers.csv", frame)
    back = results.read_table(tmp_path, "layers.csv")
    np.testing.assert_allclose(back["x_nm"], [1 / 3, np.nan], rtol=1e-8)
    assert back["i"].isna().tolist() == [False, True]
    assert back["ok"].dtype == bool
    assert not list(tmp_path.glob(".tmp-*"))


def test_a_missing_input_names_the_command_that_makes_it(tmp_path: Path) -> None:
    results.write_json(tmp_path, "manifest.json", {"sample": "tiny"})
    with pytest.raises(results.MissingInput) as error:
        results.read_table(tmp_path, "neighbours.csv")
    assert f"`mesotomo run tiny --out {tmp_path} --from 06 --to 06` makes it" in str(error.value)
    with pytest.raises(results.MissingInput, match="no step of the pipeline makes it"):
        results.path(tmp_path, "whatever.csv")


def test_json_holds_no_nan(tmp_path: Path) -> None:
    results.write_json(tmp_path, "mono.json", {"R": np.eye(2), "bad": np.array([np.nan, 1]), "p": Path("a")})
    assert results.read_json(tmp_path, "mono.json") == {"R": [[1.0, 0.0], [0.0, 1.0]], "bad": [None, 1.0], "p": "a"}
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        results.write_json(tmp_path, "mono.json", {"a": object()})


def test_a_folder_is_gone_at_once_however_its_removal_ends(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "tomogram.ome.zarr"
    (folder / "0").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            files.remove(folder)
    assert not folder.exists()
    (left,) = tmp_path.iterdir()
    assert left.match(".tmp-*")  # which the next run removes
    files.remove(left)
    assert not list(tmp_path.iterdir())


def test_publish_replaces_a_folder(tmp_path: Path) -> None:
    for content in ("old", "new"):
        made = results.scratch(tmp_path, "tomogram.ome.zarr")
        made.mkdir()
        (made / "chunk").write_text(content)
        results.publish(made, tmp_path / "tomogram.ome.zarr")
    assert (tmp_path / "tomogram.ome.zarr" / "chunk").read_text() == "new"
    assert [item.name for item in tmp_path.iterdir()] == ["tomogram.ome.zarr"]


def test_a_figure_is_saved_with_its_numbers_and_twice_the_same(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    numbers = pd.DataFrame({"layer": [1, 2], "fwhm_nm": [0.3, 1.2]})
    for run in ("a", "b"):
        figure = Figure(figsize=(2, 2))
        figure.subplots().plot(numbers["layer"], numbers["fwhm_nm"])
        assert results.save_figure(figure, tmp_path / run, "fig_2d", numbers).suffix == ".png"
        results.save_figure(figure, tmp_path / run, "fig_3", {"a": numbers, "b": numbers})
    names = sorted(file.name for file in (tmp_path / "a" / "figures").iterdir())
    assert names == [
        *("fig_2d.csv", "fig_2d.png", "fig_2d.svg"),
        *("fig_3.png", "fig_3.svg", "fig_3_a.csv", "fig_3_b.csv"),
    ]
    for name in names:
        assert (tmp_path / "a" / "figures" / name).read_bytes() == (tmp_path / "b" / "figures" / name).read_bytes()
    with pytest.raises(ValueError, match="neither suffix nor folder"):
        results.save_figure(figure, tmp_path, "fig.png", numbers)


def test_a_picture_is_saved_as_png_and_csv(tmp_path: Path) -> None:
    picture = np.zeros((4, 5, 3), np.uint8)
    results.save_picture(picture, tmp_path, "scene", pd.DataFrame({"qd": [0]}))
    assert sorted(f.name for f in (tmp_path / "figures").iterdir()) == ["scene.csv", "scene.png"]
    with pytest.raises(ValueError, match="expected an"):
        results.save_picture(picture[..., 0], tmp_path, "scene", pd.DataFrame())


def test_a_film_is_saved_beside_the_figures_and_embedded_in_the_report(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, 16, 16), np.uint8)
    for suffix in (".gif", ".mp4"):  # the second run has FFmpeg: the GIF of the first goes

        def write(path: Path, given: np.ndarray, suffix: str = suffix) -> Path:
            assert given is frames
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_suffix(suffix).write_bytes(b"film")
            return path.with_suffix(suffix)

        film = results.save_film(write, frames, tmp_path, "tilt_series", pd.DataFrame({"tilt": [0, 1, 2]}))
        assert report.film_paths(tmp_path) == [film]
        page = report.html_page("a", [], {}, [], [film])
        assert ("<video" in page) == (suffix == ".mp4")
        assert "ZmlsbQ==" in page
        assert f"<code>tilt_series{suffix}</code>" in page
    assert sorted(f.name for f in film.parent.iterdir()) == ["tilt_series.csv", "tilt_series.mp4"]
    assert "Films" not in report.html_page("a", [], {}, [])
    with pytest.raises(ValueError, match="neither suffix nor folder"):
        results.save_film(write, frames, tmp_path, "a.mp4", pd.DataFrame())


def test_pictures_stand_upright_in_the_pdf(tmp_path: Path) -> None:
    picture = np.zeros((60, 60, 3), np.uint8)
    picture[:20] = 255  # white above, black below
    Image.fromarray(picture).save(tmp_path / "one.png")
    figures.use_style()
    page = report_pdf.figure_page([tmp_path / "one.png"])
    page.canvas.draw()
    pixels = np.asarray(page.canvas.buffer_rgba())[:, :, 0]
    box = page.axes[0].get_window_extent()
    column = pixels[::-1][int(box.y0) + 2 : int(box.y1) - 2, int((box.x0 + box.x1) / 2)]  # upwards
    assert (column[: len(column) // 2] == 0).all()
    assert (column[-len(column) // 4 :] == 255).all()
    plt.close(page)


def test_the_report_shows_claims_layers_and_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [
        results.value("planarity_fwhm_nm", 0.1 * k, "nm", interval_95=[0.05 * k, 0.2 * k], index=f"C{k}")
        for k in range(1, 100)
    ]
    results.record(tmp_path, "05_mesoscale", [results.value("connectivity", 0.9), *layers])
    says = "rows of dots " * 20
    said = {"Claims": pd.DataFrame({"the paper says": [says], "rests on": ["a = 1\nb = 2"]})}
    compared = [{"name": "planarity_fwhm_nm", "index": "C2", "paper": 1.2, "place": "Fig. 2d", "truth": None}]
    written: list[str] = []
    save = report_pdf._save_text

    def note(pdf, lines, opening) -> None:
        written.append("\n".join(lines))
        save(pdf, lines, opening)

    monkeypatch.setattr(report_pdf, "_save_text", note)
    report.write_report(tmp_path, "x", results.join(tmp_path), compared, {}, {}, said)
    page, pdf = (tmp_path / "report.html").read_text(), "\n".join(written)
    assert len(written) >= 3  # 99 layers do not fit a page
    for text in (page, pdf):
        assert text.index("Claims") < text.index("Results")  # what the paper says comes first
        assert text.count("Fig. 2d") == 1
        assert all(f"[C{k}]" in text for k in range(1, 100))
    assert "a = 1<br>b = 2" in page
    assert pdf.count("# Results per layer and axis, continued") >= 1
    assert pdf.split().count("rows") == 20  # a long text is broken, not cut off
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")


def test_pages_of_text_hold_every_row_once_and_fit() -> None:
    table = pd.DataFrame({"n": [f"row{k}" for k in range(150)], "long": ["word " * (k % 60) for k in range(150)]})
    tables = {"One": table, "Two": pd.DataFrame({"n": ["a"], "long": ["b\n" * 200]})}
    pages = report_pdf.text_pages(tables, taken=10)
    lines = [line for page in pages for line in page]
    assert max(map(len, pages)) <= report_pdf._LINES_A_PAGE
    assert len(pages[0]) <= report_pdf._LINES_A_PAGE - 10
    assert max(map(len, lines)) <= report_pdf._LETTERS_A_LINE
    assert [line.split()[0] for line in lines if line.startswith("row")] == table["n"].tolist()
    assert sum(line.split().count("word") for line in lines) == sum(k % 60 for k in range(150))
    assert all(page[0].startswith("# ") or page[1].startswith("# ") for page in pages)


def test_the_summary_shows_value_sigma_paper_and_truth(tmp_path: Path) -> None:
    rows = [results.value("n_dots", 630, sigma=2.0), results.value("gone", None, reason="no lattice")]
    results.record(tmp_path, "02_centres", rows)
    text = results_table(tmp_path)
    assert "630 ± 2" in text
    assert "no lattice" in text
    compared = {"name": "n_dots", "index": None, "paper": 633, "truth": 631}
    results.record(tmp_path, "08_report", [], comparison=[compared])
    text = results_table(tmp_path)
    assert "633" in text
    assert "631" in text
    assert "gone" not in text
    unmeasured = {"name": "gone", "index": None, "paper": 1.0, "truth": None}  # of a sample that nothing is known of
    results.record(tmp_path, "08_report", [], comparison=[unmeasured])
    assert "630 ± 2" in results_table(tmp_path)


def test_the_gallery_copies_what_is_listed_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "run" / "figures").mkdir(parents=True)
    (tmp_path / "run" / "figures" / "a.png").write_bytes(b"a")
    folder = tmp_path / "figures"
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match=r"gallery\.txt is missing"):
        copy_gallery(tmp_path / "run", folder)
    (folder / "gallery.txt").write_text("a  # the first\n")
    assert [file.name for file in copy_gallery(tmp_path / "run", folder)] == ["a.png"]
    (folder / "gallery.txt").write_text("a\nb\n")
    with pytest.raises(FileNotFoundError, match="has no b"):
        copy_gallery(tmp_path / "run", folder)
