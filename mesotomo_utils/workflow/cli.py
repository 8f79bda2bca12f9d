"""The command ``mesotomo``: run, check, doctor, list.

Exit codes: 0 done (skips included), 1 a step or a check failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Lattice-resolved electron tomography of quantum-dot superlattices.",
)


class _PairsCommand(TyperCommand):
    """``-p KEY VALUE`` takes two words, which typer has no repeatable option for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        joined: list[str] = []
        words = iter(args)
        for word in words:
            if word in ("-p", "--parameter"):
                key = next(words, "")
                joined += ["-p", key if "=" in key else f"{key}={next(words, '')}"]
            else:
                joined.append(word)
        return super().parse_args(ctx, joined)


def _fail(message: object, code: int) -> typer.Exit:
    typer.echo(f"mesotomo: {' '.join(str(message).split())}", err=True)
    return typer.Exit(code)


def _memory_gb(text: str) -> float:
    """Gigabytes; a number by itself is of gigabytes too."""
    from mesotomo_utils.tomography.reconstruction import parse_memory

    try:
        return parse_memory(text if text.strip()[-1:].isalpha() else f"{text}GB") / 1e9
    except ValueError:
        raise _fail(f"--memory {text}: expected a size such as 8GB", EXIT_BAD_INPUT) from None


@app.command("run", cls=_PairsCommand)
def run_command(
    sample: Annotated[str, typer.Argument(metavar="SAMPLE", help="A name in data/ or the path of a YAML file.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The run folder.")],
    first: Annotated[str | None, typer.Option("--from", metavar="STEP", help="First step, by name or number.")] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="STEP", help="Last step, inclusive.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Run the steps even where nothing changed.")] = False,
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", metavar="[STEP.]KEY VALUE", help="A parameter; may be given again."),
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute.")] = "auto",
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            metavar="8GB",
            help="Limit of slabs in 01, with --dask of each worker too; not of its images (the alignment "
            "takes five times their size), windows (up to 1 GB) and libraries, nor of other steps.",
        ),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option(
            "--dask",
            metavar="ADDRESS",
            help="Scheduler of a Dask cluster whose workers take the slabs of 01, the slabs, centres and necks of 02 "
            "and the dots of 03; the rest runs here.",
        ),
    ] = None,
) -> None:
    """Run a sample through the notebooks; what is current is not run again."""
    from mesotomo_utils.workflow import pipeline
    from mesotomo_utils.workflow.inputs import check_inputs, check_settings
    from mesotomo_utils.workflow.sample import SampleError, find_sample, load_sample

    options: dict[str, Any] = {}
    if memory is not None:
        options["memory_gb"] = _memory_gb(memory)
    if dask is not None:
        options["dask"] = dask
    pairs = [tuple(text.split("=", 1)) for text in parameter or ()]
    # a stop from outside ends a run as tidily as Ctrl-C does
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    begun = time.perf_counter()
    try:
        loaded = load_sample(find_sample(sample))
        run = pipeline.prepare(loaded, out, first=first, last=last, parameters=pairs, device=device, options=options)
        run.pixel_nm = check_inputs(loaded)
        if "01_reconstruction" in run.chosen and loaded.enters_as == "tilt_series":
            settings = run.defaults["01_reconstruction"] | run.given["01_reconstruction"]
            check_settings(settings, device=run.device[1], dask=dask)
        say = _Progress(f"sample {loaded.name} into {out}")
        pipeline.execute(run, force=force, say=say)
    except (SampleError, pipeline.BadInput) as error:
        raise _fail(error, EXIT_BAD_INPUT) from None
    except pipeline.StepFailed as error:
        raise _fail(error, EXIT_FAILED) from None
    except KeyboardInterrupt:
        raise _fail("interrupted; the same command goes on from here", EXIT_INTERRUPTED) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _fail(
            f"{error.filename or out}: no space is left there; free some, and the same command goes on from here",
            EXIT_FAILED,
        ) from None
    from mesotomo_utils.workflow.summary import results_table

    typer.echo("\n" + results_table(out))
    typer.echo(f"\nfigures in {out / 'figures'}, notebooks in {out / 'notebooks'}, results in {out / 'results.json'}")
    if (out / "report.html").exists():
        typer.echo(f"the report is {out / 'report.html'}")
    typer.echo(f"{loaded.name}: done in {time.perf_counter() - begun:.0f} s")


class _Progress:
    """Say what the run is about once, then each line as it comes."""

    def __init__(self, title: str) -> None:
        self._title: str | None = title

    def __call__(self, line: str) -> None:
        if self._title:
            typer.echo(self._title)
            self._title = None
        typer.echo(f"  {line}")
        sys.stdout.flush()


@app.command("check")
def check_command(
    run_dir: Annotated[Path, typer.Argument(metavar="DIR", help="The run folder.")],
    record: Annotated[bool, typer.Option("--record", help="Record this run's values as the expected ones.")] = False,
) -> None:
    """Hold a run against its truth, the bounds and the recorded values."""
    from mesotomo_utils.twin import compare
    from mesotomo_utils.workflow import results
    from mesotomo_utils.workflow.sample import repository_root

    if not (run_dir / "manifest.json").exists():
        raise _fail(f"{run_dir}: no run there; `mesotomo run SAMPLE --out {run_dir}` makes one", EXIT_BAD_INPUT)
    name = Path(results.read_json(run_dir, "manifest.json")["sample"]).stem
    recorded = repository_root() / "tests" / "recorded" / f"{name}.json"
    try:
        if record:
            recorded.parent.mkdir(parents=True, exist_ok=True)
            compare.record_values(run_dir, recorded)
            typer.echo(f"recorded in {recorded}; look at the difference before you commit it")
        checks = compare.check_run(run_dir, recorded if recorded.exists() else None)
    except (FileNotFoundError, ValueError) as error:
        raise _fail(error, EXIT_BAD_INPUT) from None
    for check in checks:
        typer.echo(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.message}")
    if not recorded.exists():
        typer.echo(f"no values are recorded for {name}; --record writes {recorded}")
    failed = [check.name for check in checks if not check.ok]
    if failed:
        raise _fail(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}", EXIT_FAILED)
    typer.echo(f"all {len(checks)} checks hold" if checks else "nothing to check: no truth and no recorded values")


@app.command("doctor")
def doctor_command() -> None:
    """Say what this machine has, what it lacks and how to install it."""
    from mesotomo_utils.workflow.doctor import examine

    findings = examine()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        typer.echo(f"{finding.name:<{width}}  {finding.found}" + (f"  →  {finding.mend}" if finding.mend else ""))
    if any(finding.found == "missing" for finding in findings):
        raise typer.Exit(EXIT_FAILED)


@app.command("list")
def list_command() -> None:
    """List the samples in data/ and what each runs."""
    from mesotomo_utils.workflow.sample import SampleError, list_samples, load_sample, steps_of

    for file in list_samples():
        try:
            sample = load_sample(file)
        except SampleError as error:
            typer.echo(f"{file.stem:<20} {error}")
            continue
        numbers = [stem[:2] for stem, reason in steps_of(sample).items() if reason is None]
        typer.echo(f"{file.stem:<20} {sample.source:<12} runs {' '.join(numbers)}")


def main() -> None:
    """Entry point of ``python -m mesotomo_utils.workflow.cli``."""
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    app()


if __name__ == "__main__":
    main()
