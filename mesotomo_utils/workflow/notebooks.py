"""Notebooks as files: their parameters, and running one to an ``.ipynb`` and a page."""

from __future__ import annotations

import ast
import asyncio
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mesotomo_utils.workflow.kernels import KERNEL, Kernels

SAVED_EVERY_S = 10.0
"""How old the file of a running notebook may be."""


class NotebookError(ValueError):
    """A notebook is not shaped as the runner needs it; the message names the notebook."""


class NotebookFailed(RuntimeError):
    """A cell of a notebook raised; the message is one line."""


def find_notebooks(folder: str | Path) -> dict[str, Path]:
    """The numbered notebooks ``NN_name.py`` in `folder`, by their stem, in order."""
    return {file.stem: file for file in sorted(Path(folder).glob("[0-9][0-9]_*.py"))}


def read_notebook(file: str | Path) -> Any:
    """Read a notebook in jupytext's py:percent as a notebook node."""
    with _without_iri_grammar():
        import jupytext

    return jupytext.read(Path(file), fmt="py:percent")


@contextmanager
def _without_iri_grammar() -> Iterator[None]:
    """Let jsonschema be imported without its check of IRIs, which no notebook needs.

    Its grammar is built at import and takes three quarters of the time of ``import nbformat``.
    """
    hidden = "rfc3987_syntax"
    hide = hidden not in sys.modules and "jsonschema" not in sys.modules
    if hide:
        sys.modules[hidden] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hide:
            del sys.modules[hidden]


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


def _register_engine() -> str:
    """Papermill's own engine, but for a kernel that is there already; it ends with the notebook."""
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines

    class KernelThere(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, *, kernel: Any, **_: Any) -> Any:
            _save_seldom(nb_man)
            options = {"km": kernel, "kernel_name": kernel_name, "timeout": None, "shutdown_kernel": "immediate"}
            return PapermillNotebookClient(nb_man, **options).execute(cleanup_kc=True)

    papermill_engines.register("kernel_there", KernelThere)
    return "kernel_there"


def _save_seldom(nb_man: Any) -> None:
    """Keep papermill from writing the whole notebook before and after every cell; it writes it at the end anyway."""
    save, saved = nb_man.save, time.monotonic()

    def save_if_old(**changed: Any) -> None:
        nonlocal saved
        if time.monotonic() - saved >= SAVED_EVERY_S or nb_man.end_time is not None:
            save(**changed)
            saved = time.monotonic()

    nb_man.save = save_if_old


def execute(source: Path, target: Path, parameters: Mapping[str, Any], *, kernels: Kernels, last: bool = False) -> None:
    """Execute a notebook in a kernel of its own and leave it as ``.ipynb``.

    Parameters
    ----------
    source
        The notebook in py:percent.
    target
        The executed ``.ipynb``; it is left when a cell fails, too.
    parameters
        What replaces the defaults of the parameters cell.
    kernels
        Where the kernel comes from.
    last
        No other notebook follows.

    Raises
    ------
    NotebookFailed
        A cell raised or the kernel died.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            read_notebook(source),
            str(target),
            parameters=dict(parameters),
            kernel_name=KERNEL,
            language="python",
            cwd=str(kernels.cwd),
            progress_bar=False,
            log_output=False,
            engine_name=_register_engine(),
            kernel=kernels.take(last=last),
        )
    except PapermillExecutionError as error:
        text = " ".join(str(error.evalue).split())
        raise NotebookFailed(f"{error.ename}: {text}" if text else error.ename) from None
    except DeadKernelError:
        raise NotebookFailed("its kernel died; where memory ran out, --memory or a smaller sample helps") from None
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
