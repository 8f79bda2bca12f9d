"""Executed notebooks as pages, written by a process of their own while the next notebook runs.

In a thread of the runner it would hold up the messages between runner and kernel. This file is also that process's
program: the names of the notebooks come in on its standard input, a line of JSON each, and it ends where that ends.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Self

from mesotomo_utils.workflow.files import write_text


class Pages:
    """Writes pages in the background; on leaving the context all are there."""

    def __init__(self) -> None:
        self._writer: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            with contextlib.suppress(BrokenPipeError):
                self._writer.stdin.close()
            self._writer.wait()

    def submit(self, notebook: Path) -> None:
        """Have a notebook written as a page beside it; a page that cannot be written costs no result."""
        if self._writer is None:
            command = [sys.executable, "-P", "-m", "mesotomo_utils.workflow.pages"]
            # ^C is for the runner: what has been asked for is still written
            self._writer = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
        with contextlib.suppress(BrokenPipeError):
            self._writer.stdin.write(json.dumps(str(notebook.resolve())) + "\n")
            self._writer.stdin.flush()


def write_page(file: Path) -> Path:
    """Write an executed notebook as a page beside it."""
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter().from_filename(str(file))
    return write_text(file.with_suffix(".html"), body)


def main() -> None:
    """Write pages until standard input is closed."""
    for line in sys.stdin:
        file = Path(json.loads(line))
        try:
            if file.exists():  # not where a run was stopped before its first cell
                write_page(file)
        except (OSError, ValueError) as error:
            print(f"{file}: not written as a page: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
