"""Notebooks as files: their parameters, and running one to an ``.ipynb`` and a page."""

from __future__ import annotations

import ast
import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

KERNEL = "python3"
IMPORTED_AHEAD = ("numpy", "pandas", "matplotlib.pyplot", "seaborn", "scipy.ndimage", "scipy.spatial")
"""What nearly every notebook imports: a waiting kernel has it ready."""


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


class Kernels:
    """Kernels for one notebook after another, each started while the notebook before it runs.

    A kernel takes two seconds to start and to import the libraries that every notebook uses; a
    notebook leaves a core idle for longer than that. No name is left in its namespace.

    Parameters
    ----------
    cwd
        Working directory of the kernels.

    Examples
    --------
    ::

        with Kernels(root) as kernels:
            execute(first, "first.ipynb", {}, kernels=kernels)
            execute(second, "second.ipynb", {}, kernels=kernels, last=True)
    """

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd
        self._waiting: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._waiting is not None:
            asyncio.run(self._waiting.shutdown_kernel(now=True))

    def take(self, *, last: bool) -> Any:
        """A kernel for a notebook; unless it is the last one, another is started for the next."""
        kernel = self._waiting or self._start()
        self._waiting = None if last else self._start()
        return kernel

    def _start(self) -> Any:
        from jupyter_client.manager import AsyncKernelManager

        # a notebook draws inline, whatever backend the shell has chosen
        os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
        os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
        # the kernel of this environment, not one of the same name in the home folder
        os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
        kernel = AsyncKernelManager(kernel_name=KERNEL)
        arguments = [
            "--IPKernelApp.log_level=40",
            "--HistoryManager.hist_file=:memory:",
            # figures are laid out to their edges: cropping them would draw each once more
            "--InlineBackend.print_figure_kwargs={'bbox_inches': None}",
            f"--IPKernelApp.exec_lines={[f'__import__({name!r});' for name in IMPORTED_AHEAD]}",
        ]
        asyncio.run(kernel.start_kernel(extra_arguments=arguments, cwd=str(self.cwd)))
        return kernel


def _register_engine() -> str:
    """Papermill's own engine, but for a kernel that is there already; it ends with the notebook."""
    from papermill.clientwrap import PapermillNotebookClient
    from papermill.engines import NBClientEngine, papermill_engines

    class KernelThere(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, *, kernel: Any, **_: Any) -> Any:
            options = {"km": kernel, "kernel_name": kernel_name, "timeout": None, "shutdown_kernel": "immediate"}
            return PapermillNotebookClient(nb_man, **options).execute(cleanup_kc=True)

    papermill_engines.register("kernel_there", KernelThere)
    return "kernel_there"


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


def write_page(file: Path) -> Path:
    """Write an executed notebook as a page beside it."""
    from nbconvert import HTMLExporter

    from mesotomo_utils.workflow.files import write_text

    body, _ = HTMLExporter().from_filename(str(file))
    return write_text(file.with_suffix(".html"), body)
