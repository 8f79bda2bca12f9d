"""When a step is current: its parameters, its inputs, its code and its outputs are as they were."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mesotomo_utils.workflow.files import write_text
from mesotomo_utils.workflow.sample import Sample

# set by the command for every step; what they point to is compared by content instead, and a cluster changes nothing
PLACES = ("sample", "run_dir", "dask")


class Hashes:
    """Content hashes of files and folders; one whose size and time are unchanged is not read again.

    Parameters
    ----------
    store
        The JSON file that keeps them from one run to the next.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._known: dict[str, list[str]] = {}
        if store.exists():
            self._known = json.loads(store.read_text(encoding="utf-8"))

    def of(self, target: Path) -> str | None:
        """Hash of a file, or of all files below a folder with their names; None where absent."""
        if not target.exists():
            return None
        files = [target] if target.is_file() else sorted(p for p in target.rglob("*") if p.is_file())
        files = [file for file in files if not file.name.startswith(".tmp-")]
        names = [file.relative_to(target).as_posix() for file in files]
        seen = hashlib.sha256()
        for name, file in zip(names, files, strict=True):
            status = file.stat()
            seen.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
        key, state = str(target.resolve()), seen.hexdigest()
        if self._known.get(key, [None])[0] != state:
            content = hashlib.sha256()
            with ThreadPoolExecutor() as readers:
                for name, digest in zip(names, readers.map(_digest, files), strict=True):
                    content.update(f"{name} {digest}\n".encode())
            self._known[key] = [state, content.hexdigest()]
        return self._known[key][1]

    def save(self) -> None:
        """Keep the hashes for the next run."""
        write_text(self._store, json.dumps(self._known, indent=0))


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def input_hashes(
    reads: Iterable[str],
    run_dir: Path,
    root: Path,
    sample: Sample,
    done: Mapping[str, Mapping[str, Any]],
    stem: str,
    hashes: Hashes,
) -> dict[str, str | None]:
    """Hash of everything a step reads, by name; None where there is no such file.

    Parameters
    ----------
    reads
        Names as in `steps.STEPS`.
    run_dir, root
        The run folder and the root of the repository.
    sample
        The sample the step is handed.
    done
        Manifest entries of the steps.
    stem
        The step itself, whose own results and figures do not count.
    hashes
        The store of hashes.
    """
    found: dict[str, str | None] = {}
    for name in reads:
        if name == "sample:self":
            content = sample.model_dump_json(exclude={"parameters"})
            found[name] = hashlib.sha256(content.encode()).hexdigest()
        elif name.startswith("root:"):
            found[name] = hashes.of(root / name.removeprefix("root:"))
        elif name.startswith("sample:"):
            file = getattr(sample, name.removeprefix("sample:"))
            found[name] = None if file is None else hashes.of(file)
        elif name in ("results", "figures"):
            for other, entry in done.items():
                for output in entry.get("outputs", ()) if other < stem else ():
                    if Path(output).parent.as_posix() == name:
                        found[output] = hashes.of(run_dir / output)
        else:
            found[name] = hashes.of(run_dir / name)
    return found


def code_hashes(notebook: Path, files: Iterable[str], package: Path, hashes: Hashes) -> dict[str, Any]:
    """Hash of the notebook and of the package's files that its kernel had imported.

    `files` are relative to the folder that holds the package, `package`.
    """
    code = {f"notebooks/{notebook.name}": hashes.of(notebook)}
    return code | {name: hashes.of(package / name) for name in sorted(files)}


def why_again(
    entry: Mapping[str, Any] | None,
    parameters: Mapping[str, Any],
    inputs: Mapping[str, str | None],
    notebook: Path,
    package: Path,
    run_dir: Path,
    hashes: Hashes,
) -> str | None:
    """Why a step has to run (again), in words; None where what it left is current.

    `entry` is what the manifest says of its last run; `parameters` and `inputs` are those of this
    run; `package` is the folder that holds the package.
    """
    status = (entry or {}).get("status")
    if not entry or status != "done":
        ended = {"running": "was cut off", "failed": "failed", "skipped": "was skipped"}
        return f"it {ended.get(status, 'has not run')}"
    before = {key: item for key, item in entry["parameters"].items() if key not in PLACES}
    now = {key: item for key, item in parameters.items() if key not in PLACES}
    for what, old, new in (
        ("parameter", before, now),
        ("input", entry["inputs"], inputs),
        ("code", entry["code"], code_hashes(notebook, list(entry["code"])[1:], package, hashes)),
        ("output", entry["outputs"], {n: hashes.of(run_dir / n) for n in entry["outputs"]}),
    ):
        # through JSON, because a tuple comes back from the manifest as a list
        new = json.loads(json.dumps(new))
        changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        if changed:
            return f"{what} {changed[0]} changed"
    return None
