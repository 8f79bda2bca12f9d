"""Run a sample through the notebooks, and take up a run where it was left.

The steps, what each reads and what each writes stand in `steps.STEPS`; when one is current is
decided in `resume`. All that is known of a run stands in its ``manifest.json``, which is written
after each step.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from mesotomo_utils.workflow import notebooks, results
from mesotomo_utils.workflow.files import remove
from mesotomo_utils.workflow.kernels import Kernels
from mesotomo_utils.workflow.pages import Pages
from mesotomo_utils.workflow.parameters import BadInput, given_parameters
from mesotomo_utils.workflow.resume import Hashes, code_hashes, input_hashes, why_again
from mesotomo_utils.workflow.sample import Sample, load_sample, repository_root, steps_of
from mesotomo_utils.workflow.steps import STEPS, Step, find_step

VERSIONS_OF = ("mesotomo", "numpy", "scipy", "pandas", "scikit-image", "finufft", "zarr", "orix")
LATTICE_HIDDEN = "03 finds the lattice of too few dots: fewer than 20 % lie above the SNR threshold"


class StepFailed(RuntimeError):
    """A notebook failed; one line that names the step, the error and the notebook."""


@dataclass
class Run:
    """A run that has been checked and can start.

    Attributes
    ----------
    sample
        The sample, with absolute paths.
    run_dir
        The run folder.
    root
        Working directory of the kernels, the root of the repository.
    steps
        The steps of the pipeline.
    files
        The notebook of each step.
    defaults
        The parameters each notebook declares.
    given
        The parameters given for each step, by the sample file and the command.
    chosen
        The steps from ``--from`` to ``--to``.
    device
        What was asked for, and what it came to.
    pixel_nm
        Pixel of the images where the sample leaves it to their file.
    manifest
        Of what ran in the folder before.
    """

    sample: Sample
    run_dir: Path
    root: Path
    steps: tuple[Step, ...]
    files: dict[str, Path]
    defaults: dict[str, dict[str, Any]]
    given: dict[str, dict[str, Any]]
    chosen: list[str]
    device: tuple[str, str]
    pixel_nm: float | None = None
    manifest: dict[str, Any] = field(default_factory=dict)


# ------------------------------------------------------------------ before anything is written


def prepare(
    sample: Sample,
    run_dir: str | Path,
    *,
    first: str | None = None,
    last: str | None = None,
    parameters: Iterable[tuple[str, str]] = (),
    device: str = "auto",
    options: Mapping[str, Any] | None = None,
    steps: tuple[Step, ...] = STEPS,
    root: Path | None = None,
    pixel_nm: float | None = None,
) -> Run:
    """Check everything that can be checked; nothing is written.

    Parameters
    ----------
    sample
        The checked sample.
    run_dir
        Where the run goes.
    first, last
        Stem or number of the first and the last step to run; all by default.
    parameters
        Pairs ``[STEP.]KEY, VALUE``; the value is read as YAML.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    options
        Parameters such as ``memory_gb`` and ``dask`` that go to every step that declares them.
    steps, root
        Another pipeline than that of the repository, for tests.
    pixel_nm
        Pixel of the images where the sample leaves it to their file.

    Raises
    ------
    BadInput
        The notebooks are not those of `steps`; a step or a parameter is unknown or of the wrong
        type; the device or the cluster cannot be had; the folder cannot be written; what earlier steps should
        have left is missing.
    """
    from mesotomo_utils import distribute
    from mesotomo_utils.backend import resolve_device

    root = repository_root() if root is None else Path(root)
    run_dir = Path(run_dir)
    files = notebooks.find_notebooks(root / "notebooks")
    stems = [step.stem for step in steps]
    if sorted(files) != stems:
        odd = sorted(set(files) ^ set(stems))
        raise BadInput(f"{root / 'notebooks'}: expected the notebooks {', '.join(stems)}; see {', '.join(odd)}")
    try:
        resolved = resolve_device(device)
        low = stems.index(find_step(first)) if first else 0
        high = stems.index(find_step(last)) if last else len(stems) - 1
        defaults = {stem: notebooks.declared_parameters(file) for stem, file in files.items()}
        if (options or {}).get("dask") is not None:
            with distribute.connect(options["dask"]):
                pass  # it is there
    except (ValueError, RuntimeError) as error:
        raise BadInput(str(error)) from None
    if low > high:
        raise BadInput(f"--from {stems[low]} comes after --to {stems[high]}; swap them")
    given = given_parameters(sample, parameters, options or {}, defaults)
    manifest = _read_manifest(run_dir)
    run = Run(sample, run_dir, root, steps, files, defaults, given, stems[low : high + 1], (device, resolved))
    run.pixel_nm, run.manifest = pixel_nm, manifest
    _check_folder(run_dir, sample)
    if (held := manifest.get("sample", _called(run))) != _called(run):
        raise BadInput(f"{run_dir} holds a run of {held!r}, not of {_called(run)!r}; choose another --out")
    if low:
        _check_earlier(run, low)
    return run


def _called(run: Run) -> str:
    """What the manifest calls the sample: its name, or its file in data/ where that is named otherwise."""
    path, name = run.sample.path, run.sample.name
    return _shown(path, run.root) if path.parent == run.root / "data" and path.stem != name else name


def _check_folder(run_dir: Path, sample: Sample) -> None:
    for file in (sample.path, *sample.files.values()):
        if file.resolve().is_relative_to(run_dir.resolve()):
            raise BadInput(
                f"{file} lies in the run folder {run_dir}, which steps clear; move it, or choose another --out"
            )
    folder = run_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise BadInput(f"{run_dir}: {folder} is not a folder that can be written; choose another --out")


def _check_earlier(run: Run, low: int) -> None:
    """What the steps before the first must have left."""
    reasons = _reasons(run)
    wanted = {
        name
        for step in run.steps
        if step.stem in run.chosen and step.number != "08" and reasons.get(step.stem) is None
        for name in step.reads
    }
    for step in run.steps[:low]:
        for name in step.writes:
            needed = name in wanted or (name == "input" and "input/sample.yaml" in wanted)
            missing = not (run.run_dir / name).exists() and not name.endswith("?")
            if needed and missing and reasons.get(step.stem) is None:
                raise BadInput(
                    f"{run.run_dir / name} is missing; --from {run.chosen[0]} needs it: start with --from {step.number}"
                )


def _reasons(run: Run) -> dict[str, str | None]:
    """Why each step is skipped, or None; after 00 by the sample that 00 has written."""
    left = run.run_dir / "input" / "sample.yaml"
    handed = load_sample(left) if left.exists() else run.sample
    reasons = steps_of(handed, pixel_nm=run.pixel_nm)
    seen = run.run_dir / "results" / "03_orientation.json"
    if reasons["03_orientation"] is None and seen.exists():
        for row in json.loads(seen.read_text(encoding="utf-8"))["values"]:
            if row["name"] == "lattice_visible" and not row["value"]:
                for stem in ("06_neighbours", "07_kinetic_trapping"):
                    reasons[stem] = reasons[stem] or row.get("reason") or LATTICE_HIDDEN
    return reasons


# ------------------------------------------------------------------ running


def execute(run: Run, *, force: bool = False, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run the chosen steps of a run; what is current is left as it is.

    Parameters
    ----------
    run
        What `prepare` returned.
    force
        Run the chosen steps even where they are current.
    say
        What to tell the progress to, line by line.

    Returns
    -------
    dict
        The manifest.

    Raises
    ------
    StepFailed
        A notebook failed; the manifest says so and the notebook holds the error.
    BadInput
        Another run is at work in this folder, or it cannot be written.
    """
    try:
        run.run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{run.run_dir}: cannot be written ({error.strerror}); choose another --out") from None
    # an executed notebook becomes a page while the next one runs
    with _alone(run.run_dir), Pages() as pages, Kernels(run.root) as kernels:
        for pattern in (".tmp-*", "*/.tmp-*", ".*.partial-*"):
            for left in run.run_dir.glob(pattern):
                remove(left)  # by a run that was killed
        hashes = Hashes(run.run_dir / ".hashes.json")
        run.manifest |= {"sample": _called(run), "sample_file": _shown(run.sample.path, run.root)}
        entries = run.manifest.setdefault("steps", {})
        for step in run.steps:
            if step.stem not in run.chosen:
                continue
            reason = _reasons(run)[step.stem]
            if reason is not None:
                _clear(run, step.stem)
                entries[step.stem] = {"status": "skipped", "reason": reason}
                say(f"{step.stem:<22} skipped: {reason}")
            else:
                _one(run, step, force, hashes, say, pages, kernels)
            _write_manifest(run)
            hashes.save()
    return run.manifest


def _one(
    run: Run,
    step: Step,
    force: bool,
    hashes: Hashes,
    say: Callable[[str], None],
    pages: Pages,
    kernels: Kernels,
) -> None:
    """Run one step, unless it is current."""
    entries, notebook = run.manifest["steps"], run.files[step.stem]
    package = Path(__file__).resolve().parents[2]
    left = run.run_dir / "input" / "sample.yaml"
    handed = run.sample if step.number == "00" or not left.exists() else load_sample(left)
    parameters = run.defaults[step.stem] | {
        "sample": _shown(handed.path, run.root),
        "run_dir": _shown(run.run_dir, run.root),
        "device": run.device[0],
    }
    parameters |= run.given[step.stem]
    inputs = input_hashes(step.reads, run.run_dir, run.root, handed, entries, step.stem, hashes)
    why = why_again(entries.get(step.stem), parameters, inputs, notebook, package, run.run_dir, hashes) or (
        "--force" if force else None
    )
    target = run.run_dir / "notebooks" / f"{step.stem}.ipynb"
    if why is None:
        say(f"{step.stem:<22} current")
        if target.exists() and not target.with_suffix(".html").exists():
            pages.submit(target)  # the run was killed before it was written
        return
    say(f"{step.stem:<22} runs, because {why}" if step.stem in entries else f"{step.stem:<22} runs")
    _clear(run, step.stem)
    remove(target.with_suffix(".html"))
    entries[step.stem] = entry = {"status": "running", "parameters": parameters}
    _write_manifest(run)
    before = _times(run.run_dir)
    entry |= {"inputs": inputs, "device": run.device[1], "started": datetime.now(UTC).isoformat("T", "seconds")}
    begun = time.perf_counter()
    try:
        notebooks.execute(notebook, target, parameters, kernels=kernels, last=step.stem == run.chosen[-1])
        _check_left(run, step)
    except (notebooks.NotebookFailed, results.MissingInput) as error:
        entry |= {"status": "failed", "error": str(error), "seconds": round(time.perf_counter() - begun, 2)}
        _write_manifest(run)
        raise StepFailed(f"{step.stem} failed: {error}; see {target}") from None
    finally:
        pages.submit(target)
    facts = results.read_json(run.run_dir, f"results/kernel/{step.stem}.json")
    entry |= {
        "status": "done",
        "outputs": {name: hashes.of(run.run_dir / name) for name in _left(run, step, before)},
        "code": code_hashes(notebook, facts["files"], package, hashes),
        "versions": _versions(),
        "engine": facts.get("engine"),
        "device": facts.get("device", run.device[1]),
        "seconds": round(time.perf_counter() - begun, 2),
        "peak_memory_mb": round(facts["peak_memory_mb"]),
    }
    say(f"{step.stem:<22} done in {entry['seconds']:.1f} s, {entry['peak_memory_mb']} MB")


def _check_left(run: Run, step: Step) -> None:
    for name in (*(n for n in step.writes if not n.endswith("?")), f"results/{step.stem}.json"):
        if not (run.run_dir / name).exists():
            raise results.MissingInput(f"the notebook came to its end without writing {name}")


def _times(run_dir: Path) -> dict[str, int]:
    return {f"figures/{p.name}": p.stat().st_mtime_ns for p in (run_dir / "figures").glob("*")}


def _left(run: Run, step: Step, before: Mapping[str, int]) -> list[str]:
    """What a step has left: its files, its results and its figures; not what another step wrote in its stead."""
    others = _of_others(run, step.stem)
    names = [name.rstrip("?") for name in step.writes if name.rstrip("?") not in others or not name.endswith("?")]
    names += [f"results/{step.stem}.json", f"results/kernel/{step.stem}.json"]
    names += [name for name, moment in _times(run.run_dir).items() if before.get(name) != moment]
    return sorted(name for name in names if (run.run_dir / name).exists())


def _of_others(run: Run, stem: str) -> set[str]:
    """What the other steps have left."""
    entries = run.manifest["steps"]
    return {name for other, entry in entries.items() if other != stem for name in entry.get("outputs", ())}


def _clear(run: Run, stem: str) -> None:
    """Remove what a step left last time, so that nothing of it outlives its reason."""
    others = _of_others(run, stem)
    entry = run.manifest["steps"].get(stem, {})
    old = list(entry.get("outputs", ()))
    if entry.get("status") in ("running", "failed"):
        writes = next(step.writes for step in run.steps if step.stem == stem)
        old += [*(name.rstrip("?") for name in writes), f"results/{stem}.json"]
    for name in old:
        if name not in others:
            remove(run.run_dir / name)
    if f"results/{stem}.json" in old and (run.run_dir / "results").exists():
        results.join(run.run_dir)


def _read_manifest(run_dir: Path) -> dict[str, Any]:
    file = run_dir / "manifest.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _write_manifest(run: Run) -> None:
    results.write_json(run.run_dir, "manifest.json", run.manifest)


def _shown(path: Path, root: Path) -> str:
    """`path` relative to the root where it lies below it: readable, and true on another machine."""
    path = Path(os.path.abspath(path))
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in VERSIONS_OF:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@contextmanager
def _alone(run_dir: Path) -> Iterator[None]:
    """Hold the folder; the lock ends with the process, however that ends."""
    with (run_dir / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"{run_dir}: another run is at work there; wait for it or choose another --out") from None
        yield
