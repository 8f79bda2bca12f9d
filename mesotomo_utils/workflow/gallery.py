"""Copy the figures that the README shows from a run: ``make gallery``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

LIST = "gallery.txt"


def copy_gallery(run_dir: str | Path, folder: str | Path) -> list[Path]:
    """Copy the figures named in ``gallery.txt`` of `folder` from a run to `folder`.

    Parameters
    ----------
    run_dir
        A finished run.
    folder
        Where the gallery lies; its ``gallery.txt`` names one figure a line, # begins a comment.

    Returns
    -------
    list of Path
        The PNG files written.

    Raises
    ------
    FileNotFoundError
        The list or a figure is missing; nothing has been copied then.
    """
    folder, figures = Path(folder), Path(run_dir) / "figures"
    listed = folder / LIST
    if not listed.exists():
        raise FileNotFoundError(f"{listed} is missing; it names the figures of the gallery, one a line")
    names = [line.split("#")[0].strip() for line in listed.read_text(encoding="utf-8").splitlines()]
    names = [name for name in names if name]
    absent = [name for name in names if not (figures / f"{name}.png").exists()]
    if absent:
        raise FileNotFoundError(f"{figures} has no {', '.join(absent)}; run the sample, or mend {listed}")
    return [Path(shutil.copy(figures / f"{name}.png", folder / f"{name}.png")) for name in names]


if __name__ == "__main__":
    try:
        for file in copy_gallery(*sys.argv[1:3]):
            print(file)
    except FileNotFoundError as error:
        sys.exit(str(error))
