"""The command: exit codes, one clear line, nothing written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mesotomo_utils.workflow import cli, pipeline
from mesotomo_utils.workflow.doctor import examine


def call(*words: object):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def test_help_names_the_commands() -> None:
    assert call("--help").exit_code == 0
    for name in ("run", "check", "doctor", "list"):
        assert call(name, "--help").exit_code == 0


@pytest.mark.parametrize(
    ("text", "options", "part"),
    [
        ("name: a\ncentres: absent.csv\n", [], "absent.csv does not exist"),
        ("name: a\ncentres: centres.csv\nnme: 1\n", [], "unknown key; did you mean 'name'"),
        ("name: a\ncentres: centres.csv\n", ["--from", "9"], "there is no step '9'"),
        ("name: a\ncentres: centres.csv\n", ["-p", "nothing_nm", "5"], "no step has the parameter 'nothing_nm'"),
        ("name: a\ncentres: centres.csv\n", ["--device", "tpu"], "device must be one of"),
        ("name: a\ncentres: centres.csv\n", ["--memory", "lots"], "expected a size such as 8GB"),
        ("name: a\ncentres: centres.csv\n", ["--from", "05"], "needs it: start with --from 00"),
        ("name: a\ntwin: {sed: 1}\n", [], "sed"),
    ],
)
def test_bad_input_ends_with_2_one_line_and_nothing_written(tmp_path, write_sample, text, options, part) -> None:
    file = write_sample(text)
    answer = call("run", file, "--out", tmp_path / "run", *options)
    assert answer.exit_code == 2
    assert len(answer.stderr.strip().splitlines()) == 1
    assert part in answer.stderr
    assert not (tmp_path / "run").exists()


def test_an_unknown_sample_and_a_missing_option_end_with_2(tmp_path: Path) -> None:
    answer = call("run", "no_such_sample", "--out", tmp_path / "run")
    assert answer.exit_code == 2
    assert "no such sample" in answer.stderr
    assert call("run", "small").exit_code == 2


def test_a_folder_that_cannot_be_written_ends_with_2(tmp_path: Path, write_sample) -> None:
    (tmp_path / "file").write_text("")
    answer = call("run", write_sample(), "--out", tmp_path / "file" / "run")
    assert answer.exit_code == 2
    assert "choose another --out" in answer.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_ends_with_2(tmp_path: Path, write_sample) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    answer = call("run", write_sample(), "--out", locked / "run")
    assert answer.exit_code == 2
    assert "choose another --out" in answer.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (pipeline.StepFailed("02_centres failed: a\nb"), 1),
        (pipeline.BadInput("no"), 2),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_how_a_run_ends_is_its_exit_code(tmp_path, write_sample, monkeypatch, error, code) -> None:
    def end(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pipeline, "execute", end)
    answer = call("run", write_sample(), "--out", tmp_path / "run")
    assert answer.exit_code == code
    assert len(answer.stderr.strip().splitlines()) == 1


def test_pairs_of_parameters_may_be_given_again_and_hold_negative_numbers(tmp_path, write_sample, monkeypatch) -> None:
    seen = {}

    def prepare(*_: object, parameters, **__: object) -> None:
        seen["pairs"] = list(parameters)
        raise pipeline.BadInput("enough")

    monkeypatch.setattr(pipeline, "prepare", prepare)
    call("run", write_sample(), "--out", tmp_path, "-p", "a_nm", "-1.5", "-p", "05.b", "[1, 2]", "-p", "c=d")
    assert seen["pairs"] == [("a_nm", "-1.5"), ("05.b", "[1, 2]"), ("c", "d")]


@pytest.mark.parametrize(
    ("text", "size"), [("8GB", 8.0), ("500MB", 0.5), ("2.5 g", 2.5), ("4", 4.0), ("1 GiB", 1.073741824)]
)
def test_memory_is_read_with_its_unit(text: str, size: float) -> None:
    assert cli._memory_gb(text) == pytest.approx(size)


def test_no_memory_is_refused(tmp_path: Path, write_sample) -> None:
    for text in ("0GB", "much", "", "-1"):
        answer = call("run", write_sample(), "--out", tmp_path / "run", f"--memory={text}")
        assert answer.exit_code == 2
        assert "expected a size such as 8GB" in answer.stderr


def test_check_wants_a_run(tmp_path: Path) -> None:
    answer = call("check", tmp_path)
    assert answer.exit_code == 2
    assert "makes one" in answer.stderr


def test_check_ends_with_1_where_a_check_fails(tmp_path: Path, monkeypatch) -> None:
    from mesotomo_utils.twin import compare

    (tmp_path / "manifest.json").write_text(json.dumps({"sample": "nobody"}))
    checks = [compare.Check("centres", True, "fine"), compare.Check("scale", False, "1 % too large")]
    monkeypatch.setattr(compare, "check_run", lambda *_: checks)
    answer = call("check", tmp_path)
    assert answer.exit_code == 1
    assert "FAIL  scale: 1 % too large" in answer.stdout
    assert "1 of 2 checks failed: scale" in answer.stderr
    monkeypatch.setattr(compare, "check_run", lambda *_: checks[:1])
    assert call("check", tmp_path).exit_code == 0


def test_list_shows_the_samples() -> None:
    answer = call("list")
    assert answer.exit_code == 0
    lines = {line.split()[0]: line for line in answer.stdout.splitlines()}
    assert lines["needle"].endswith("runs 00 01 08")
    assert "00 01 02 03 04 05 06 07 08" in lines["small"]


def test_doctor_names_what_is_missing_and_the_line_that_installs_it() -> None:
    answer = call("doctor")
    assert answer.exit_code == 0
    names = [finding.name for finding in examine()]
    assert {"python", "cores", "memory", "3D rendering", "GPU", "numpy"} <= set(names)
    for finding in examine():
        if "absent" in finding.found or "missing" in finding.found:
            assert finding.mend
