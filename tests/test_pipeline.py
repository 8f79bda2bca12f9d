"""The runner, on notebooks of a few lines: what runs, what runs again, what a stop leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from mesotomo_utils import distribute
from mesotomo_utils.workflow import pipeline, results
from mesotomo_utils.workflow.notebooks import NotebookError, declared_parameters, find_notebooks
from mesotomo_utils.workflow.pages import Pages
from mesotomo_utils.workflow.resume import Hashes
from mesotomo_utils.workflow.sample import load_sample
from mesotomo_utils.workflow.steps import STEPS, Step, find_step, maker_of

HEAD = """\
# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% tags=["parameters"]
sample = "x"
run_dir = "x"
device = "auto"
"""

FIRST = """
# %%
import sys
from mesotomo_utils.workflow import results
from mesotomo_utils.workflow.sample import load_sample, write_input_sample
write_input_sample(load_sample(sample), run_dir)

# %%
results.record(run_dir, "00_sample", [])
"""

SECOND = """factor = 2
words = "some"
dask = None

# %%
import os, time
from pathlib import Path
from types import SimpleNamespace
import pandas as pd
from mesotomo_utils.workflow import results
from mesotomo_utils.workflow.sample import load_sample
given = load_sample(sample)
frame = pd.read_csv(given.centres)

# %%
results.write_table(run_dir, "centres.csv", frame * factor)

# %%
stop = Path(run_dir).parent / "stop"
if stop.exists():
    (Path(run_dir).parent / "stopped").write_text(str(os.getpid()))
    time.sleep(60)
assert not (Path(run_dir).parent / "fail").exists(), "asked to fail"

# %%
results.write_json(run_dir, "superlattice.json", {"factor": factor})
results.record(run_dir, "02_centres", [results.value("n_dots", len(frame))])
"""

FIFTH = """
# %%
from mesotomo_utils.workflow import results
table = results.read_table(run_dir, "centres.csv")
results.write_table(run_dir, "layers.csv", table.describe().reset_index())
results.record(run_dir, "05_mesoscale", [results.value("x_mean", table.x_nm.mean(), "nm")])
"""

FEW = (
    Step("00_sample", ("sample:self", "sample:centres"), ("input",)),
    Step("02_centres", ("input/sample.yaml", "sample:centres"), ("centres.csv", "superlattice.json", "layers.csv?")),
    Step("05_mesoscale", ("input/sample.yaml", "centres.csv"), ("layers.csv",)),
)


@dataclass
class Bench:
    """A repository of three small notebooks, and a sample."""

    root: Path
    sample: Path

    @property
    def run_dir(self) -> Path:
        return self.root / "run"

    def prepare(self, **options) -> pipeline.Run:
        return pipeline.prepare(load_sample(self.sample), self.run_dir, steps=FEW, root=self.root, **options)

    def run(self, *, force: bool = False, **options) -> list[str]:
        """Steps that ran."""
        lines: list[str] = []
        pipeline.execute(self.prepare(**options), force=force, say=lines.append)
        return [line.split()[0] for line in lines if " done in " in line]

    def notebook(self, stem: str) -> Path:
        return self.root / "notebooks" / f"{stem}.py"

    def manifest(self) -> dict:
        return json.loads((self.run_dir / "manifest.json").read_text())


@pytest.fixture
def empty_bench(tmp_path: Path, write_sample) -> Bench:
    """The bench before its first run."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "data").mkdir()
    for stem, body in (("00_sample", FIRST), ("02_centres", SECOND), ("05_mesoscale", FIFTH)):
        (tmp_path / "notebooks" / f"{stem}.py").write_text(HEAD + body)
    return Bench(tmp_path, write_sample())


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Run folder of a bench that has run once; copied for each test, because a run costs seconds."""
    root = tmp_path_factory.mktemp("bench")
    (root / "notebooks").mkdir()
    (root / "data").mkdir()
    for stem, body in (("00_sample", FIRST), ("02_centres", SECOND), ("05_mesoscale", FIFTH)):
        (root / "notebooks" / f"{stem}.py").write_text(HEAD + body)
    (root / "centres.csv").write_text("x_nm,y_nm,z_nm\n0,0,0\n6,0,0\n0,6,0\n")
    (root / "sample.yaml").write_text("name: dots\ncentres: centres.csv\n")
    bench = Bench(root, root / "sample.yaml")
    assert bench.run() == ["00_sample", "02_centres", "05_mesoscale"]
    return root


@pytest.fixture
def bench(finished: Path, tmp_path: Path) -> Bench:
    """The finished bench; its sample names the table by an absolute path, so it is moved in place."""
    kept = tmp_path / "kept"
    shutil.copytree(finished, kept, symlinks=True)
    yield Bench(finished, finished / "sample.yaml")
    for item in finished.iterdir():
        shutil.rmtree(item) if item.is_dir() else item.unlink()
    shutil.copytree(kept, finished, dirs_exist_ok=True)


def tables(run_dir: Path) -> dict[str, bytes]:
    names = ("centres.csv", "layers.csv", "superlattice.json", "qds.csv", "results.json")
    return {name: (run_dir / name).read_bytes() for name in names}


# ------------------------------------------------------------------ the shape of a run


def test_a_run_leaves_notebooks_pages_results_and_a_manifest(bench: Bench) -> None:
    for step in FEW:
        assert (bench.run_dir / "notebooks" / f"{step.stem}.ipynb").exists()
        assert (bench.run_dir / "notebooks" / f"{step.stem}.html").exists()
        entry = bench.manifest()["steps"][step.stem]
        assert entry["status"] == "done"
        assert entry["seconds"] > 0
        assert entry["peak_memory_mb"] > 10
        assert entry["device"] == "cpu"
        assert {"python", "numpy"} <= set(entry["versions"])
        assert "mesotomo_utils/workflow/results.py" in entry["code"]
    executed = json.loads((bench.run_dir / "notebooks" / "02_centres.ipynb").read_text())
    injected = [c for c in executed["cells"] if "injected-parameters" in c["metadata"].get("tags", ())]
    assert len(injected) == 1
    assert "run/input/sample.yaml" in "".join(injected[0]["source"])
    assert not list(bench.run_dir.rglob(".tmp-*"))


def test_what_a_later_step_wrote_is_not_taken_for_an_earlier_ones(bench: Bench) -> None:
    """02 may write the file of 05 (as it does where a sample brings it), and here does not."""
    assert bench.run(parameters=[("02.factor", "3")]) == ["02_centres", "05_mesoscale"]
    assert "layers.csv" not in bench.manifest()["steps"]["02_centres"]["outputs"]
    assert bench.run(parameters=[("02.factor", "3")]) == []


def test_the_list_of_steps_is_in_order_and_has_one_writer_a_file() -> None:
    stems = [step.stem for step in STEPS]
    assert stems == sorted(stems)
    assert len({step.number for step in STEPS}) == len(stems)
    written = [name for step in STEPS for name in step.writes if name != "orientations.csv?"]
    assert len(written) == len(set(written))
    assert maker_of("mono.json") == "04_glyphs"
    assert maker_of("input/sample.yaml") == "00_sample"
    assert maker_of("nothing.csv") is None


@pytest.mark.parametrize("name", ["05", "5", "05_mesoscale"])
def test_a_step_is_named_by_stem_or_number(name: str) -> None:
    assert find_step(name) == "05_mesoscale"


def test_an_unknown_step_lists_the_steps() -> None:
    with pytest.raises(ValueError, match="08_report"):
        find_step("9")


# ------------------------------------------------------------------ resuming


def test_nothing_runs_again_without_a_change(bench: Bench) -> None:
    before = tables(bench.run_dir)
    assert bench.run() == []
    assert tables(bench.run_dir) == before


def test_a_changed_parameter_reruns_its_step_and_what_reads_from_it(bench: Bench) -> None:
    assert bench.run(parameters=[("02_centres.factor", "3")]) == ["02_centres", "05_mesoscale"]
    assert json.loads((bench.run_dir / "superlattice.json").read_text()) == {"factor": 3}
    rows = results.read_results(bench.run_dir).set_index("name")
    assert rows.loc["x_mean", "value"] == pytest.approx(6.0)


def test_a_parameter_without_effect_on_the_tables_stops_there(bench: Bench) -> None:
    assert bench.run(parameters=[("words", "other")]) == ["02_centres"]


def test_a_cluster_goes_to_the_steps_that_take_one_and_changes_nothing(bench: Bench, monkeypatch) -> None:
    monkeypatch.setattr(distribute, "connect", nullcontext)
    options = {"dask": "tcp://a:8786"}
    given = bench.prepare(options=options).given
    assert given["02_centres"] == options
    assert given["05_mesoscale"] == {}
    assert bench.run(options=options) == []


def test_a_cluster_that_does_not_answer_is_bad_input(empty_bench: Bench) -> None:
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    with pytest.raises(pipeline.BadInput, match="no Dask scheduler answers at 'nothing:"):
        empty_bench.prepare(options={"dask": "nothing://at.all"})
    assert not empty_bench.run_dir.exists()


def test_a_changed_input_file_reruns_what_reads_it(bench: Bench) -> None:
    (bench.root / "centres.csv").write_text("x_nm,y_nm,z_nm\n0,0,0\n6,0,0\n")
    assert bench.run() == ["00_sample", "02_centres", "05_mesoscale"]
    assert results.read_results(bench.run_dir).set_index("name").loc["n_dots", "value"] == 2


def test_a_touched_file_reruns_nothing(bench: Bench) -> None:
    os.utime(bench.root / "centres.csv", (1, 1))
    assert bench.run() == []


def test_a_changed_notebook_reruns_its_step(bench: Bench) -> None:
    file = bench.notebook("05_mesoscale")
    file.write_text(file.read_text() + "\n# %%\n1 + 1\n")
    assert bench.run() == ["05_mesoscale"]


def test_a_changed_file_of_the_package_reruns_the_steps_that_import_it(bench: Bench) -> None:
    manifest = bench.manifest()
    manifest["steps"]["05_mesoscale"]["code"]["mesotomo_utils/workflow/results.py"] = "older"
    results.write_json(bench.run_dir, "manifest.json", manifest)
    assert bench.run() == ["05_mesoscale"]


@pytest.mark.parametrize("harm", ["removed", "altered"])
def test_a_lost_or_altered_output_is_made_again(bench: Bench, harm: str) -> None:
    before = tables(bench.run_dir)
    if harm == "removed":
        (bench.run_dir / "layers.csv").unlink()
    else:
        (bench.run_dir / "layers.csv").write_text("index,x_nm\n")
    assert bench.run() == ["05_mesoscale"]
    assert tables(bench.run_dir) == before


def test_force_runs_the_chosen_steps(bench: Bench) -> None:
    assert bench.run(first="05", force=True) == ["05_mesoscale"]


def test_the_hash_of_a_folder_sees_names_and_content(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("1")
    hashes = Hashes(tmp_path / "store.json")
    first = hashes.of(folder)
    (folder / "a").rename(folder / "b")
    second = hashes.of(folder)
    (folder / "b").write_text("2")
    third = hashes.of(folder)
    assert len({first, second, third}) == 3
    hashes.save()
    assert Hashes(tmp_path / "store.json").of(folder) == third
    assert hashes.of(tmp_path / "absent") is None


# ------------------------------------------------------------------ stops


def test_kernels_started_ahead_are_new_and_none_is_left(bench: Bench) -> None:
    """A notebook sees no name of the one before it nor of the imports made ahead; the spare kernel ends. No kernel that
    waits has a port that another program may have taken by then.
    """
    pids = bench.root / "pids"
    asking = """
# %%
names = sorted(set(globals()) & {"kept", "numpy", "pandas", "np", "matplotlib", "seaborn"})
assert not names, names
import os
import sys
from ipykernel.connect import get_connection_info
assert get_connection_info(unpack=True)["transport"] == "ipc" or sys.platform != "linux"
kept = 1
with open(PIDS, "a") as stream:
    print(os.getpid(), file=stream)
""".replace("PIDS", repr(str(pids)))
    for step in FEW:
        file = bench.notebook(step.stem)
        file.write_text(file.read_text() + asking)
    assert bench.run(last="02") == ["00_sample", "02_centres"]
    found = [int(line) for line in pids.read_text().splitlines()]
    assert len(set(found)) == 2
    (bench.root / "fail").touch()
    with pytest.raises(pipeline.StepFailed):
        bench.run(force=True, first="02")  # 05 was to follow: its kernel waits
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    if children.exists():  # Linux
        files = [Path(f"/proc/{pid}/cmdline") for pid in children.read_text().split()]
        commands = [file.read_bytes() for file in files if file.exists()]
        assert not [c for c in commands if b"ipykernel" in c or b"kernel_nursery" in c]


def test_kernels_end_with_their_runner(tmp_path: Path) -> None:
    """Those that were forked ahead too, however it ends; and each is a process of its own."""
    runner = """
import sys, time
from mesotomo_utils.workflow.kernels import Kernels
with Kernels(sys.argv[1]) as kernels:
    first = kernels.take(last=False)
    second = kernels.take(last=True)
    print(first.provisioner.pid, second.provisioner.pid, flush=True)
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", runner, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(set(pids)) == 2
    assert all(_runs(pid) for pid in pids)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30  # kernels look for their parent every second
    while any(_runs(pid) for pid in pids):
        assert time.monotonic() < deadline, "a kernel outlives its runner"
        time.sleep(0.2)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_kernel_that_dies_is_told_from_an_error(bench: Bench) -> None:
    file = bench.notebook("02_centres")
    file.write_text(file.read_text() + "\n# %%\nimport os\nos._exit(3)\n")
    with pytest.raises(pipeline.StepFailed, match="its kernel died"):
        bench.run(first="02", last="02")


def test_a_page_that_a_killed_run_did_not_write_is_written_by_the_next(bench: Bench) -> None:
    page = bench.run_dir / "notebooks" / "02_centres.html"
    page.unlink()
    assert bench.run() == []
    assert "<html" in page.read_text()


def test_a_failure_names_step_and_notebook_and_the_next_run_goes_on(bench: Bench) -> None:
    before = tables(bench.run_dir)
    (bench.root / "fail").touch()
    with pytest.raises(pipeline.StepFailed, match="02_centres failed: AssertionError: asked to fail") as error:
        bench.run(force=True, first="02")
    assert "\n" not in str(error.value)
    assert str(bench.run_dir / "notebooks" / "02_centres.ipynb") in str(error.value)
    executed = (bench.run_dir / "notebooks" / "02_centres.ipynb").read_text()
    assert "asked to fail" in executed
    assert (bench.run_dir / "notebooks" / "02_centres.html").exists()
    assert bench.manifest()["steps"]["02_centres"]["status"] == "failed"
    assert not (bench.run_dir / "superlattice.json").exists()
    assert not list(bench.run_dir.rglob(".tmp-*"))
    (bench.root / "fail").unlink()
    assert bench.run()[0] == "02_centres"
    assert tables(bench.run_dir) == before


SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has it ignored in what it starts in the background
sys.path.insert(0, {tests!r})
from pathlib import Path
from types import SimpleNamespace
from test_pipeline import Bench
Bench(Path({root!r}), Path({root!r}) / "sample.yaml").run(force=True, first="02")
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_stopped_goes_on_to_the_same_tables(bench: Bench, how: signal.Signals) -> None:
    before = tables(bench.run_dir)
    (bench.root / "stop").touch()
    script = SCRIPT.format(tests=str(Path(__file__).parent), root=str(bench.root))
    child = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    stopped = bench.root / "stopped"
    for _ in range(600):
        if stopped.exists() or child.poll() is not None:
            break
        time.sleep(0.05)
    assert stopped.exists(), child.communicate()
    with pytest.raises(pipeline.BadInput, match="another run is at work"):
        bench.run()
    child.send_signal(how)
    child.wait(timeout=30)
    kernel = int(stopped.read_text())
    child.communicate()
    for _ in range(200):
        if not Path(f"/proc/{kernel}").exists():
            break
        time.sleep(0.05)
    else:
        pytest.fail("the kernel outlived the run")
    assert not (bench.run_dir / "superlattice.json").exists()
    stopped.unlink()
    (bench.root / "stop").unlink()
    assert bench.run() == ["02_centres", "05_mesoscale"] or bench.run() == []
    assert tables(bench.run_dir) == before


# ------------------------------------------------------------------ what does not run


def test_a_step_that_the_sample_skips_says_why_and_keeps_nothing(bench: Bench) -> None:
    # 05 is skipped for images without dots; here the plan is told so after it has run
    run = bench.prepare()
    pipeline._clear_step = None
    entry = run.manifest["steps"]["05_mesoscale"]
    assert "layers.csv" in entry["outputs"]
    pipeline._clear(run, "05_mesoscale")
    assert not (bench.run_dir / "layers.csv").exists()
    assert "x_mean" not in set(results.read_results(bench.run_dir)["name"])


def test_06_and_07_are_skipped_where_03_saw_no_lattice(tmp_path: Path, write_sample) -> None:
    file = write_sample(
        "name: a\ntilt_series: centres.csv\npixel_nm: 0.1\nquantum_dot: {diameter_nm: 5}\n"
        "material: {name: PbSe, lattice_nm: 0.612}\n"
    )
    run_dir = tmp_path / "run"
    run = pipeline.Run(load_sample(file), run_dir, tmp_path, STEPS, {}, {}, {}, [], ("cpu", "cpu"))
    assert set(pipeline._reasons(run).values()) == {None}
    rows = [results.value("lattice_visible", 0)]
    results.record(run_dir, "03_orientation", rows)
    skipped = {stem[:2]: reason for stem, reason in pipeline._reasons(run).items() if reason}
    assert set(skipped) == {"06", "07"}
    assert all("20 %" in reason for reason in skipped.values())


# ------------------------------------------------------------------ what cannot run


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameters": [("fator", "2")]}, "no step has the parameter 'fator'; did you mean 'factor'"),
        ({"parameters": [("05.factor", "2")]}, "05_mesoscale has no parameter 'factor'"),
        ({"parameters": [("factor", "big")]}, "expected a number such as 2, found 'big'"),
        ({"parameters": [("device", "cpu")]}, "use --device"),
        ({"parameters": [("dask", "tcp://a:8786")]}, "use --dask"),
        ({"parameters": [("09.factor", "1")]}, "there is no step '09'"),
        ({"device": "gpu"}, "device must be one of"),
        ({"first": "11"}, "there is no step '11'"),
        ({"first": "05", "last": "02"}, "swap them"),
        ({"first": "05"}, "input is missing; --from 05_mesoscale needs it: start with --from 00"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(empty_bench: Bench, options: dict, message: str) -> None:
    with pytest.raises(pipeline.BadInput) as error:
        empty_bench.prepare(**options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not empty_bench.run_dir.exists()


def test_parameters_of_the_sample_are_checked_too(empty_bench: Bench) -> None:
    text = empty_bench.sample.read_text()
    empty_bench.sample.write_text(text + "parameters: {02_centres: {factr: 3}}\n")
    with pytest.raises(pipeline.BadInput, match="02_centres has no parameter 'factr'; did you mean 'factor'"):
        empty_bench.prepare()
    empty_bench.sample.write_text(text + "parameters: {02_centres: {factor: 3}}\n")
    assert empty_bench.prepare().given["02_centres"] == {"factor": 3}
    assert empty_bench.prepare(parameters=[("factor", "4")]).given["02_centres"] == {"factor": 4}


def test_a_folder_below_a_file_is_refused(empty_bench: Bench) -> None:
    with pytest.raises(pipeline.BadInput, match="choose another --out"):
        pipeline.prepare(load_sample(empty_bench.sample), empty_bench.sample / "run", steps=FEW, root=empty_bench.root)


def test_another_sample_is_not_mixed_into_a_run(bench: Bench) -> None:
    other = bench.root / "other.yaml"
    other.write_text("name: other\ncentres: centres.csv\n")
    for first in (None, "02"):
        with pytest.raises(pipeline.BadInput, match="holds a run of 'dots', not of 'other'"):
            Bench(bench.root, other).prepare(first=first)


def test_what_the_sample_names_may_not_lie_where_steps_clear(bench: Bench) -> None:
    kept = bench.run_dir / "input" / "mine.csv"
    kept.write_bytes((bench.root / "centres.csv").read_bytes())
    bench.sample.write_text("name: dots\ncentres: run/input/mine.csv\n")
    with pytest.raises(pipeline.BadInput, match=r"mine\.csv lies in the run folder .*run, which steps clear; move it"):
        bench.prepare()
    assert kept.exists()


def test_a_notebook_too_many_is_refused(empty_bench: Bench) -> None:
    empty_bench.notebook("09_more").write_text(HEAD)
    with pytest.raises(pipeline.BadInput, match="09_more"):
        empty_bench.prepare()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("# %%\na = 1\n", "found 0"),
        ('# %% tags=["parameters"]\na = 1\n\n# %% tags=["parameters"]\nb = 1\n', "found 2"),
        ('# %% tags=["parameters"]\na = 1\nb = a * 2\n', "derive it in a later cell"),
        ('# %% tags=["parameters"]\nimport os\n', "may only set names"),
    ],
)
def test_the_parameters_cell_holds_literals_only(tmp_path: Path, body: str, message: str) -> None:
    file = tmp_path / "05_x.py"
    file.write_text(textwrap.dedent(body))
    assert find_notebooks(tmp_path) == {"05_x": file}
    with pytest.raises(NotebookError, match=message):
        declared_parameters(file)


def test_a_film_counts_as_left_and_goes_with_its_step(tmp_path: Path) -> None:
    step = next(step for step in STEPS if step.number == "01")
    figures = tmp_path / "figures"
    figures.mkdir()
    (figures / "fig1_structure.png").touch()  # of another step
    before = pipeline._times(tmp_path)
    (figures / "tilt_series.mp4").write_bytes(b"film")
    run = SimpleNamespace(run_dir=tmp_path, steps=STEPS, manifest={"steps": {}})
    left = pipeline._left(run, step, before)
    assert left == ["figures/tilt_series.mp4"]
    run.manifest["steps"][step.stem] = {"status": "done", "outputs": dict.fromkeys(left)}
    pipeline._clear(run, step.stem)
    assert [file.name for file in figures.iterdir()] == ["fig1_structure.png"]


# ------------------------------------------------------------------ pages


def test_pages_are_there_when_their_writer_is_left_and_a_broken_notebook_costs_no_other(tmp_path, capfd):
    whole, broken = tmp_path / "whole.ipynb", tmp_path / "broken.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Of this notebook")])
    nbformat.write(notebook, whole)
    broken.write_text("{")
    with Pages() as pages:
        for file in (tmp_path / "never_written.ipynb", broken, whole):
            pages.submit(file)
    assert "Of this notebook" in whole.with_suffix(".html").read_text()
    assert [file.name for file in tmp_path.glob("*.html")] == ["whole.html"]
    said = capfd.readouterr().err
    assert "broken.ipynb: not written as a page" in said
    assert "never_written" not in said
