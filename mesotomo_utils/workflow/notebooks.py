"""Notebooks as files: their parameters, and running one to an ``.ipynb`` and a page."""

from __future__ import annotations

import ast
import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KERNEL = "python3"


class NotebookError(ValueError):
    """A notebook is not shaped as the runner needs it; the message names the notebook."""


class NotebookFailed(RuntimeError):
    """A cell of a notebook raised; the message is one line."""


def find_notebooks(folder: str | Path) -> dict[str, Path]:
    """The numbered notebooks ``NN_name.py`` in `folder`, by their stem, in order."""
    return {file.stem: file for file in sorted(Path(folder).glob("[0-9][0-9]_*.py"))}


def read_notebook(file: str | Path) -> Any:
    """Read a notebook in jupytext's py:percent as a notebook node."""
    import jupytext

    return jupytext.read(Path(file), fmt="py:percent")


def declared_parameters(file: str | Path) -> dict[str, Any]:
    """The parameters a notebook declares, with their defaults.

    Parameters
    ----------
    file
        A notebook in py:percent.

    Returns
    -------
    dict
        Name and literal, in the order of the cell.

    Raises
    ------
    NotebookError
        There is not exactly one cell tagged ``parameters``, or it holds something else than
        names set to literals.
    """
    cells = [
        cell
        for cell in read_notebook(file).cells
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", ())
    ]
    if len(cells) != 1:
        raise NotebookError(f"{file}: expected one cell tagged parameters, found {len(cells)}")
    found: dict[str, Any] = {}
    for line in ast.parse(cells[0].source).body:
        if not (isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name)):
            raise NotebookError(
                f"{file}: the parameters cell may only set names to literals; found {ast.unparse(line)!r}"
            )
        try:
            found[line.targets[0].id] = ast.literal_eval(line.value)
        except ValueError:
            raise NotebookError(
                f"{file}: the parameter {line.targets[0].id} is no literal: "
                f"{ast.unparse(line.value)!r}; derive it in a later cell"
            ) from None
    return found


def execute(source: Path, target: Path, parameters: Mapping[str, Any], *, cwd: Path) -> None:
    """Execute a notebook in a kernel of its own; leave it as ``.ipynb`` and as ``.html``.

    Parameters
    ----------
    source
        The notebook in py:percent.
    target
        The executed ``.ipynb``; the page lies beside it. Both are left when a cell fails, too.
    parameters
        What replaces the defaults of the parameters cell.
    cwd
        Working directory of the kernel.

    Raises
    ------
    NotebookFailed
        A cell raised or the kernel died.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    # a notebook draws inline, whatever backend the shell has chosen
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    # the kernel of this environment, not one of the same name in the home folder
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            read_notebook(source),
            str(target),
            parameters=dict(parameters),
            kernel_name=KERNEL,
            language="python",
            cwd=str(cwd),
            progress_bar=False,
            log_output=False,
            extra_arguments=["--IPKernelApp.log_level=40"],
        )
    except PapermillExecutionError as error:
        write_page(target)
        text = " ".join(str(error.evalue).split())
        raise NotebookFailed(f"{error.ename}: {text}" if text else error.ename) from None
    except DeadKernelError:
        raise NotebookFailed("its kernel died; where memory ran out, --memory or a smaller sample helps") from None
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    write_page(target)


def write_page(file: Path) -> Path:
    """Write an executed notebook as a page beside it."""
    from nbconvert import HTMLExporter

    from mesotomo_utils.workflow.files import write_text

    body, _ = HTMLExporter().from_filename(str(file))
    return write_text(file.with_suffix(".html"), body)
