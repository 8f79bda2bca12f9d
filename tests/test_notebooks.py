"""The shape of the notebooks, and which module may import which."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from mesotomo_utils.workflow.notebooks import declared_parameters, find_notebooks, read_notebook
from mesotomo_utils.workflow.steps import STEMS, STEPS

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOKS = find_notebooks(REPOSITORY / "notebooks")
each = pytest.mark.parametrize("stem", list(NOTEBOOKS))


@cache
def cells(stem: str) -> list:
    return read_notebook(NOTEBOOKS[stem]).cells


def code(stem: str) -> list:
    return [cell for cell in cells(stem) if cell.cell_type == "code"]


def tree(source: str) -> ast.Module:
    # lines for IPython are no Python
    return ast.parse("\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))))


def test_the_notebooks_are_those_of_the_pipeline() -> None:
    assert tuple(NOTEBOOKS) == STEMS


@pytest.mark.parametrize("step", [step for step in STEPS if step.number in ("03", "04", "05", "06", "07")])
def test_a_step_is_said_to_read_what_its_notebook_reads(step) -> None:
    """One file more, and a step runs again that nothing has changed for."""
    left = {name.removesuffix("?") for other in STEPS for name in other.writes} - {"input", "truth"}
    left -= {name.removesuffix("?") for name in step.writes}
    source = "\n".join(cell.source for cell in code(step.stem))
    assert set(re.findall(r"[\w.]+", source)) & left == set(step.reads) - {"input/sample.yaml"}


@each
def test_it_names_its_kernel(stem: str) -> None:
    assert read_notebook(NOTEBOOKS[stem]).metadata["kernelspec"]["name"] == "python3"


@each
def test_the_parameters_begin_with_sample_run_dir_and_device(stem: str) -> None:
    parameters = declared_parameters(NOTEBOOKS[stem])
    assert list(parameters)[:3] == ["sample", "run_dir", "device"]
    expected = "data/small.yaml" if stem == "00_sample" else "runs/small/input/sample.yaml"
    assert parameters["sample"] == expected
    assert parameters["run_dir"] == "runs/small"
    assert parameters["device"] == "auto"


@each
def test_it_has_25_to_45_cells_and_opens_with_a_title(stem: str) -> None:
    assert 25 <= len(cells(stem)) <= 45
    first = cells(stem)[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")


@each
def test_cells_of_code_are_short_and_explained(stem: str) -> None:
    for cell in code(stem):
        if "results.record(" in cell.source:
            continue  # it lists every result
        lines = [line for line in cell.source.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        assert len(lines) <= 25, cell.source


@each
def test_it_defines_nothing_and_catches_nothing_blindly(stem: str) -> None:
    for cell in code(stem):
        for node in ast.walk(tree(cell.source)):
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef), cell.source
            assert not (isinstance(node, ast.ExceptHandler) and node.type is None), cell.source


@each
def test_it_holds_no_absolute_path(stem: str) -> None:
    for cell in cells(stem):
        assert not re.search(r"[\"'`](/(home|root|work|tmp|Users|mnt|data)\b|[A-Z]:\\)", cell.source), cell.source


@each
def test_two_exercises_have_their_answers_in_tagged_cells(stem: str) -> None:
    tagged = [cell for cell in cells(stem) if "solution" in cell.metadata.get("tags", ())]
    assert len(tagged) >= 2
    assert any("exercise" in cell.source.lower() for cell in cells(stem) if cell.cell_type == "markdown")


@each
def test_the_last_cell_of_code_records_the_results(stem: str) -> None:
    last = [cell for cell in code(stem) if "solution" not in cell.metadata.get("tags", ())][-1]
    assert "results.record(" in last.source
    assert f'"{stem}"' in last.source or f"'{stem}'" in last.source


@each
def test_it_ends_with_what_comes_next(stem: str) -> None:
    assert cells(stem)[-1].cell_type == "markdown"


@each
def test_the_analysis_never_looks_at_the_truth(stem: str) -> None:
    if stem[:2] in ("00", "08"):
        return
    for cell in code(stem):
        assert "truth" not in cell.source, cell.source
        for module in imported(tree(cell.source)):
            assert not module.startswith("mesotomo_utils.twin"), cell.source


# ------------------------------------------------------------------ imports run one way

ROOT_FILES = {"backend", "distribute", "lattice"}
PACKAGE = "mesotomo_utils"
MAY_IMPORT = {
    "root": ROOT_FILES,
    "tomography": ROOT_FILES | {"tomography"},
    "mapping": ROOT_FILES | {"mapping", "tomography"},
    "analysis": ROOT_FILES | {"analysis", "mapping", "tomography"},
    "visualization": ROOT_FILES | {"visualization"},
    "twin": ROOT_FILES | {"twin", "tomography.tilt_series"},
    "workflow": {"workflow"},
}
# each with its reason
EXCEPTIONS = {
    # a sample is opened before anything is written, by what will read it, and the twin asked whether it knows its keys
    "workflow.inputs": {"tomography", "mapping", "twin.imposed"},
    # `mesotomo check`, and the memory, the device and the cluster that were asked for
    "workflow.cli": {"twin.compare", "tomography.reconstruction"},
    "workflow.pipeline": {"backend", "distribute"},
    # cores and off-screen rendering
    "workflow.doctor": {"backend", "visualization.glyphs"},
}


def imported(node: ast.AST) -> set[str]:
    found: set[str] = set()
    for item in ast.walk(node):
        if isinstance(item, ast.Import):
            found |= {alias.name for alias in item.names}
        elif isinstance(item, ast.ImportFrom):
            assert item.level == 0, "imports are absolute"
            found |= {f"{item.module}.{alias.name}" for alias in item.names}
    return found


def modules() -> list[Path]:
    return sorted((REPOSITORY / PACKAGE).rglob("*.py"))


@pytest.mark.parametrize("file", modules(), ids=lambda file: file.relative_to(REPOSITORY / PACKAGE).as_posix())
def test_imports_run_one_way(file: Path) -> None:
    parts = file.relative_to(REPOSITORY / PACKAGE).with_suffix("").parts
    if parts[-1] == "__init__":
        assert not imported(ast.parse(file.read_text())), "__init__ files import nothing"
        return
    layer = parts[0] if len(parts) > 1 else "root"
    allowed = MAY_IMPORT[layer] | EXCEPTIONS.get(".".join(parts), set())
    for name in imported(ast.parse(file.read_text())):
        if name.split(".")[0] == PACKAGE:
            inner = name.removeprefix(f"{PACKAGE}.")
            assert any(inner == item or inner.startswith(f"{item}.") for item in allowed), f"{file} imports {name}"


def test_no_module_is_a_drawer_for_everything() -> None:
    names = {file.name for file in modules()}
    assert not names & {"utils.py", "helpers.py"}
