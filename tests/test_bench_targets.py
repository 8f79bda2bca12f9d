"""What `make bench` and `make calibrate` run, by what make says that it would do."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="module")
def commands(make_would_run: Callable[[str], list[str]]) -> dict[str, str]:
    """By target, the commands of a dry run."""
    return {target: "\n".join(make_would_run(target)) for target in ("bench", "calibrate")}


def programs(commands: str) -> list[str]:
    """Those of benchmarks/, in their order."""
    return re.findall(r"(?<!\w)(\w+)\.py\b", commands)


def test_every_program_is_run_by_one_target(commands: dict[str, str], repository: Path) -> None:
    found = [name for text in commands.values() for name in programs(text)]
    assert sorted(found) == sorted(file.stem for file in (repository / "benchmarks").glob("*.py"))


class Parsed(Exception):
    """What a program was given has been understood."""


def test_every_program_understands_what_make_gives_it(
    commands: dict[str, str],
    load_benchmark: Callable[[str], ModuleType],
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(repository / "benchmarks")  # where Python looks when it runs one of them
    loop = re.search(r"for run in (.*?);", commands["bench"].replace("\\\n", " "), re.DOTALL)[1]
    lines = [*shlex.split(loop), *re.findall(r"benchmarks/(\w+\.py.*)", "\n".join(commands.values()))]
    understand = argparse.ArgumentParser.parse_args

    def parse(*given: Any) -> None:
        understand(*given)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    understood = []
    for line in lines:
        program, *arguments = shlex.split(line, comments=True)
        module = load_benchmark(program.removesuffix(".py"))
        if not hasattr(module, "argparse"):
            continue  # it takes none
        monkeypatch.setattr(sys, "argv", [program, *arguments])
        with pytest.raises(Parsed):
            module.main()
        understood.append(module.__name__)
    assert {"alignment_twins", "other_twin", "reconstruction", "centres_peers"} <= set(understood)


def test_bench_calibrates_nothing_and_ends_with_the_intervals(commands: dict[str, str]) -> None:
    timed = programs(commands["bench"])
    assert not any(name.startswith("calibrate") for name in timed)
    assert timed[-1] == "interval_coverage"
    # what issues ask to be beside its peers, and flat in the number of dots
    assert {"reconstruction", "alignment_etspy", "centres_peers", "dots_scaling"} <= set(timed)


def test_the_peers_are_installed_beside_the_pinned_versions_in_their_own_environment(commands: dict[str, str]) -> None:
    lines = commands["bench"].splitlines()
    pinned, peers = (
        next(n for n, line in enumerate(lines) if text in line)
        for text in ("--python .venv-bench/bin/python --require-hashes -r requirements.lock", "--extra peers")
    )
    assert pinned < peers
    assert "--python .venv-bench/bin/python" in lines[peers]
    assert ".venv-bench/bin/python benchmarks/$run" in lines[-1]
    assert "peers" not in commands["calibrate"]


def test_centres_are_found_in_a_run_that_bench_has_made(commands: dict[str, str]) -> None:
    made = re.search(r"mesotomo run small --out (\S+) --to 01", commands["bench"])
    assert f'"centres_peers.py {made[1]}"' in commands["bench"]
