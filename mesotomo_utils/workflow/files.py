"""Files written beside their final name and renamed: a killed run leaves nothing half-written."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


def scratch(run_dir: str | Path, name: str) -> Path:
    """Temporary sibling of `name` to write something large into; `publish` gives it its name.

    A file or folder that an earlier, killed run left there is removed.
    """
    final = Path(run_dir) / name
    final.parent.mkdir(parents=True, exist_ok=True)
    # the suffixes stay, because writers choose their format by them
    temporary = final.with_name(f".tmp-{os.getpid()}-{final.name}")
    remove(temporary)
    return temporary


def publish(temporary: str | Path, final: str | Path) -> Path:
    """Give a finished file or folder its final name, in place of what had it before."""
    temporary, final = Path(temporary), Path(final)
    if temporary.is_dir() and final.exists():
        # a folder cannot be renamed onto another: step aside, then rename
        aside = final.with_name(f".tmp-{os.getpid()}-old-{final.name}")
        remove(aside)
        os.replace(final, aside)
        os.replace(temporary, final)
        remove(aside)
    else:
        os.replace(temporary, final)
    return final


def remove(target: str | Path) -> None:
    """Remove a file or a whole folder; nothing happens where there is none."""
    target = Path(target)
    if target.is_dir() and not target.is_symlink():
        # a kill halfway must not leave half a folder under a name that is read
        if not target.name.startswith("."):
            target = target.rename(target.with_name(f".tmp-{os.getpid()}-gone-{target.name}"))
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def write_text(file: str | Path, text: str) -> Path:
    """Write `text` to `file` as UTF-8 in one rename."""
    file = Path(file)
    temporary = scratch(file.parent, file.name)
    temporary.write_text(text, encoding="utf-8")
    return publish(temporary, file)


def write_document(file: str | Path, obj: Any) -> Path:
    """Write `obj`, which may hold NumPy numbers and arrays, as JSON; NaN becomes null."""
    text = json.dumps(plain(obj), indent=1, allow_nan=False, ensure_ascii=False)
    return write_text(file, text + "\n")


def plain(obj: Any) -> Any:
    """`obj` in types that JSON has; NaN and infinity become None.

    Raises
    ------
    TypeError
        It is of a type that has no counterpart; the type is named.
    """
    if obj is None or obj is pd.NA or isinstance(obj, str):
        return None if obj is pd.NA else obj
    if isinstance(obj, bool | np.bool_):
        return bool(obj)
    if isinstance(obj, Integral):
        return int(obj)
    if isinstance(obj, Real):
        return float(obj) if math.isfinite(obj) else None
    if isinstance(obj, np.ndarray | pd.Series):
        return [plain(item) for item in obj.tolist()]
    if isinstance(obj, pd.DataFrame):
        return [plain(row) for row in obj.to_dict("records")]
    if isinstance(obj, Mapping):
        return {str(key): plain(item) for key, item in obj.items()}
    if isinstance(obj, Path):
        return str(obj)
    if isinstance(obj, Iterable):
        return [plain(item) for item in obj]
    raise TypeError(
        f"{type(obj).__name__} cannot be written as JSON; give numbers, texts, lists, dictionaries, arrays or tables"
    )
