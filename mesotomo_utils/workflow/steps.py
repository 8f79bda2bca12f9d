"""The nine steps of the analysis: what each reads and what each writes.

This is the one table that the runner resumes by and that the messages about missing files are made from. Names are
relative to the run folder; ``sample:key`` is the file that this key of the sample names, ``sample:self`` the sample
file; ``root:file`` a file of the repository; a folder such as ``input`` stands for all files below it. ``results`` and
``figures`` are those of the earlier steps.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One notebook of the pipeline.

    Attributes
    ----------
    stem
        Name of the notebook without its suffix, for instance ``"02_centres"``.
    reads
        Files the notebook reads; a file that is absent counts as such, since many are optional.
    writes
        Files the notebook leaves; those marked with ``?`` depend on the kind of sample.
    """

    stem: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()

    @property
    def number(self) -> str:
        """The two digits in front of the name."""
        return self.stem[:2]


_SAMPLE = ("input/sample.yaml",)
_LATTICE = (*_SAMPLE, "centres.csv", "superlattice.json")

STEPS: tuple[Step, ...] = (
    Step(
        "00_sample",
        (
            "sample:self",
            "sample:tilt_series",
            "sample:tilt_angles",
            "sample:tomogram",
            "sample:centres",
            "sample:dots",
            "sample:necks",
        ),
        ("input", "truth?"),
    ),
    Step(
        "01_reconstruction",
        (*_SAMPLE, "sample:tilt_series", "sample:tilt_angles", "sample:tomogram"),
        (
            "tomogram.ome.zarr",
            "half_even.ome.zarr?",
            "half_odd.ome.zarr?",
            "alignment.csv?",
            "resolution.csv?",
        ),
    ),
    Step(
        "02_centres",
        (
            *_SAMPLE,
            "tomogram.ome.zarr",
            "half_even.ome.zarr",
            "half_odd.ome.zarr",
            "alignment.csv",
            "sample:centres",
            "sample:dots",
            "sample:necks",
        ),
        ("centres.csv", "necks.csv?", "defects.csv?", "superlattice.json", "orientations.csv?"),
    ),
    Step(
        "03_orientation",
        (*_LATTICE, "tomogram.ome.zarr", "half_even.ome.zarr", "half_odd.ome.zarr"),
        ("orientations.csv",),
    ),
    Step(
        "04_glyphs",
        (*_LATTICE, "necks.csv", "orientations.csv", "tomogram.ome.zarr"),
        ("mono.json?", "scenes?", "exports?"),
    ),
    Step(
        "05_mesoscale",
        (*_LATTICE, "necks.csv", "defects.csv", "orientations.csv"),
        ("layers.csv",),
    ),
    Step(
        "06_neighbours",
        (*_LATTICE, "orientations.csv", "layers.csv"),
        ("neighbours.csv", "layer_disorder.csv?"),
    ),
    Step(
        "07_kinetic_trapping",
        (*_LATTICE, "orientations.csv", "mono.json"),
        ("trapping.csv", "layer_trapping.csv?"),
    ),
    Step(
        "08_report",
        (
            *_LATTICE,
            "root:data/paper_values.yaml",
            "results",
            "figures",
            "truth",
            "necks.csv",
            "defects.csv",
            "orientations.csv",
            "mono.json",
            "layers.csv",
            "neighbours.csv",
            "layer_disorder.csv",
            "trapping.csv",
            "layer_trapping.csv",
            "alignment.csv",
            "resolution.csv",
        ),
        ("comparison.json", "report.html", "report.pdf?"),
    ),
)

STEMS: tuple[str, ...] = tuple(step.stem for step in STEPS)


def find_step(name: str) -> str:
    """Stem of the step that `name`, a stem or a number, stands for.

    Parameters
    ----------
    name
        ``"05_mesoscale"``, ``"05"`` or ``"5"``.

    Raises
    ------
    ValueError
        There is no such step; the message lists them all.
    """
    for stem in STEMS:
        if name == stem or (name.isdigit() and f"{int(name):02d}" == stem[:2]):
            return stem
    raise ValueError(f"there is no step {name!r}; the steps are {', '.join(STEMS)}")


def maker_of(name: str) -> str | None:
    """Stem of the first step that writes the file `name`, or None where no step does."""
    for step in STEPS:
        if name in step.writes or f"{name}?" in step.writes or name.split("/")[0] in step.writes:
            return step.stem
    if name.startswith("results/"):
        return name.removeprefix("results/").removesuffix(".json")
    return None
