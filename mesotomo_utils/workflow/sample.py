"""The sample file: one small YAML that says what was measured and where it lies."""

from __future__ import annotations

import csv
import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError

from mesotomo_utils.workflow.steps import STEMS

SOURCES = ("twin", "tilt_series", "tomogram", "centres", "dots")
POSITION_COLUMNS = ("x_nm", "y_nm", "z_nm")
QUATERNION_COLUMNS = ("qw", "qx", "qy", "qz")
NECK_COLUMNS = ("qd_1", "qd_2", "axis", "diameter_nm")
SMALLEST_SPACING_PIXELS = 2.0  # Nyquist: a lattice fringe needs two pixels to be seen


class SampleError(ValueError):
    """Something is wrong with a sample; one line: file, key, what is wrong, the mend."""


def _as_path(item: object) -> object:
    return Path(item) if isinstance(item, str) and item else item


Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Angle = Annotated[float, Field(strict=True, gt=0, lt=180, allow_inf_nan=False)]
File = Annotated[Path, BeforeValidator(_as_path)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)


class Material(_Strict):
    """Atomic lattice of the dots: ``lattice_nm`` is the edge of the cubic cell."""

    name: str
    lattice_nm: Positive
    structure: Literal["rocksalt"] = "rocksalt"


class QuantumDot(_Strict):
    """Rough size of one dot, nm."""

    diameter_nm: Positive


class Superlattice(_Strict):
    """A guess at the unit cell of the superlattice, nm and degrees: shown beside what is found, which needs none."""

    a_nm: Positive
    b_nm: Positive
    c_nm: Positive
    alpha_deg: Angle = 90.0
    beta_deg: Angle = 90.0
    gamma_deg: Angle = 90.0


class Sample(_Strict):
    """A sample file, checked, with its paths made absolute.

    Exactly one of ``twin``, ``tilt_series``, ``tomogram``, ``centres`` and ``dots`` is given.
    The keys of ``twin`` are checked by the twin itself.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    twin: dict[str, Any] | None = None
    tilt_series: File | None = None
    tilt_angles: File | None = None
    pixel_nm: Positive | None = None
    tilt_axis: Literal["vertical", "horizontal"] = "vertical"
    tilt_sign: Literal[1, -1] = 1
    tomogram: File | None = None
    voxel_nm: Positive | None = None
    centres: File | None = None
    dots: File | None = None
    necks: File | None = None
    film_bottom: Literal["low_z", "high_z"] = "low_z"
    material: Material | None = None
    quantum_dot: QuantumDot | None = None
    superlattice: Superlattice | None = None
    parameters: dict[str, dict[str, Any]] = Field(default_factory=dict)

    _path: Path = PrivateAttr(default=Path("sample.yaml"))

    @property
    def path(self) -> Path:
        """The sample file itself."""
        return self._path

    @property
    def source(self) -> str:
        """Which of `SOURCES` gives the data."""
        return next(key for key in SOURCES if getattr(self, key) is not None)

    @property
    def enters_as(self) -> str:
        """Where the analysis starts: a twin is a `tilt_series` or, at table level, `dots`."""
        if self.twin is None:
            return self.source
        return "dots" if self.twin.get("level") == "table" else "tilt_series"

    @property
    def files(self) -> dict[str, Path]:
        """The files it names, by key."""
        keys = ("tilt_series", "tilt_angles", "tomogram", "centres", "dots", "necks")
        return {key: file for key in keys if (file := getattr(self, key)) is not None}


# ------------------------------------------------------------------ finding and reading


def repository_root() -> Path:
    """Folder that holds ``notebooks/`` and ``data/``: the working directory's, or the package's."""
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[2]):
        if (folder / "notebooks").is_dir() and (folder / "data").is_dir():
            return folder
    return here


def find_sample(name_or_path: str | Path) -> Path:
    """Path of a sample: a name in ``data/`` or the path of a YAML file.

    Raises
    ------
    SampleError
        There is neither; the message lists the names there are.
    """
    given = Path(name_or_path)
    if given.is_file():
        return given
    data = repository_root() / "data"
    named = data / f"{name_or_path}.yaml"
    if given.name == str(name_or_path) and named.is_file():
        return named
    names = [file.stem for file in list_samples(data)]
    close = difflib.get_close_matches(str(name_or_path), names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise SampleError(
        f"{name_or_path}: no such sample; {hint}give the path of a YAML file or one of "
        f"{', '.join(names) or '(none in data/)'}"
    )


def list_samples(folder: str | Path | None = None) -> list[Path]:
    """The sample files in `folder`, by default ``data/``: YAML files with ``name`` and a source."""
    folder = repository_root() / "data" if folder is None else Path(folder)
    found = []
    for file in sorted(folder.glob("*.yaml")):
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        if isinstance(content, dict) and "name" in content and any(key in content for key in SOURCES):
            found.append(file)
    return found


def load_sample(path: str | Path) -> Sample:
    """Read and check a sample file; no image is opened.

    Parameters
    ----------
    path
        The YAML file; paths in it are relative to its folder.

    Returns
    -------
    Sample
        With absolute paths.

    Raises
    ------
    SampleError
        One line: a file is missing, a key is unknown, a type is wrong, keys do not go together,
        or a table has not the columns it needs.
    """
    path = Path(path)
    if not path.is_file():
        raise SampleError(f"{path}: no such sample file; give the path of a YAML file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise SampleError(f"{path}: this is no text file; a sample is a YAML file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "cannot be read"
        raise SampleError(f"{path}: {where}not valid YAML: {problem}; mend that line") from None
    if not isinstance(content, dict):
        raise SampleError(
            f"{path}: expected keys and values such as `name: my_needle`, "
            f"found {'nothing' if content is None else type(content).__name__}"
        )
    try:
        sample = Sample.model_validate(content)
    except ValidationError as error:
        raise SampleError(f"{path}: {_explain(error.errors()[0])}") from None
    _check_together(path, sample)
    base = path.resolve().parent
    moved = {key: Path(os.path.normpath(base / given.expanduser())) for key, given in sample.files.items()}
    for key, file in moved.items():
        if not file.exists():
            raise SampleError(
                f"{path}: {key}: {file} does not exist; paths are relative to the folder of the sample file"
            )
    sample = sample.model_copy(update=moved)
    sample._path = path.resolve()
    for key, columns in (
        ("centres", POSITION_COLUMNS),
        ("dots", POSITION_COLUMNS),
        ("necks", NECK_COLUMNS),
    ):
        if (file := getattr(sample, key)) is not None:
            _check_table(path, key, file, columns)
    return sample


def _explain(error: dict[str, Any]) -> str:
    """One line from pydantic's report of one error: key, expected, found, mend."""
    where = [str(part) for part in error["loc"]]
    key, kind, found = ".".join(where), error["type"], error["input"]
    if kind == "extra_forbidden":
        known = _keys_at(where[:-1])
        close = difflib.get_close_matches(where[-1], known, n=1)
        mend = f"did you mean {close[0]!r}?" if close else f"the keys here are {', '.join(known)}"
        return f"{key}: unknown key; {mend}"
    if kind == "missing":
        return f"{key}: missing; add the line `{where[-1]}: …`"
    shown = repr(found) if not isinstance(found, dict | list) else type(found).__name__
    if kind in ("float_type", "float_parsing"):
        return f"{key}: expected a number, found {shown}; write for instance `{where[-1]}: 5.0`"
    if kind == "greater_than":
        return f"{key}: expected more than {error['ctx']['gt']:g}, found {shown}; mend the value"
    if kind == "less_than":
        return f"{key}: expected less than {error['ctx']['lt']:g}, found {shown}; mend the value"
    if kind == "finite_number":
        return f"{key}: expected a finite number, found {shown}; mend the value"
    if kind == "literal_error":
        return f"{key}: expected {error['ctx']['expected']}, found {shown}; mend the value"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"{key}: expected keys and values, found {shown}; write `{where[-1]}: {{key: value}}`"
    if kind == "string_pattern_mismatch":
        return f"{key}: expected letters, digits, '_', '-' and '.', found {shown}; mend the value"
    if kind in ("string_type", "path_type", "is_instance_of"):
        if where[-1] == "[key]":
            return f'{".".join(where[:-1])}: this key must be a text; write "{found}" in quotes'
        return f"{key}: expected a text, found {shown}; write for instance `{where[-1]}: my_name`"
    return f"{key}: {error['msg'][0].lower()}{error['msg'][1:]}, found {shown}; mend the value"


def _keys_at(where: list[str]) -> list[str]:
    model: type[BaseModel] = Sample
    inner = {"material": Material, "quantum_dot": QuantumDot, "superlattice": Superlattice}
    for part in where:
        model = inner.get(part, model)
    return list(model.model_fields)


def _check_together(path: Path, sample: Sample) -> None:
    """Keys that need or exclude one another."""
    given = [key for key in SOURCES if getattr(sample, key) is not None]
    if not given:
        raise SampleError(f"{path}: no data; add one of the keys {', '.join(SOURCES)}")
    if len(given) > 1:
        raise SampleError(f"{path}: {' and '.join(given)} are both given; keep one of them")
    source = given[0]
    for key, needs in (
        ("tilt_angles", "tilt_series"),
        ("pixel_nm", "tilt_series"),
        ("voxel_nm", "tomogram"),
        ("necks", "dots"),
    ):
        if getattr(sample, key) is not None and source != needs:
            raise SampleError(f"{path}: {key}: goes with `{needs}:`, not with `{source}:`; remove it")
    for name, values in sample.parameters.items():
        if name not in STEMS:
            close = difflib.get_close_matches(name, STEMS, n=1)
            mend = f"did you mean {close[0]!r}?" if close else f"the steps are {', '.join(STEMS)}"
            raise SampleError(f"{path}: parameters.{name}: no such step; {mend}")
        for reserved in ("sample", "run_dir", "device"):
            if reserved in values:
                raise SampleError(f"{path}: parameters.{name}.{reserved}: set by the command; remove it")


def _check_table(path: Path, key: str, file: Path, columns: tuple[str, ...]) -> None:
    """Whether a CSV file has rows and the columns it needs."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.reader(stream)
            header = [name.strip() for name in next(rows, [])]
            first = next(rows, None)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SampleError(f"{path}: {key}: {file} cannot be read as a CSV table: {error}") from None
    absent = [name for name in columns if name not in header]
    if absent:
        raise SampleError(
            f"{path}: {key}: {file} has no column {', '.join(absent)}; it needs "
            f"{', '.join(columns)}, found {', '.join(header) or 'nothing'}"
        )
    if first is None:
        raise SampleError(f"{path}: {key}: {file} has no rows; give at least one dot or pair")


def table_columns(file: str | Path) -> list[str]:
    """Names in the first line of a CSV file."""
    with Path(file).open(newline="", encoding="utf-8-sig") as stream:
        return [name.strip() for name in next(csv.reader(stream), [])]


# ------------------------------------------------------------------ what it runs


def steps_of(sample: Sample, *, pixel_nm: float | None = None) -> dict[str, str | None]:
    """Which steps a sample runs.

    Parameters
    ----------
    sample
        A checked sample.
    pixel_nm
        Pixel of the images or voxel of the tomogram where the sample leaves it to the file.

    Returns
    -------
    dict
        For every step None where it runs, or the reason why it is skipped.
    """
    reasons: dict[str, str | None] = dict.fromkeys(STEMS)

    def skip(numbers: str, reason: str) -> None:
        for stem in STEMS:
            if stem[:2] in numbers.split() and reasons[stem] is None:
                reasons[stem] = reason

    enters = sample.enters_as
    if enters == "centres":
        skip("01 03", "the sample gives the centres of the dots: there are no images")
        skip("06 07", "the sample gives no orientations of the dots")
    elif enters == "dots":
        skip("01 03", "the sample gives a table of dots: there are no images")
        if sample.dots is not None and not set(QUATERNION_COLUMNS) <= set(table_columns(sample.dots)):
            skip("06 07", "the table of dots has no orientations (qw, qx, qy, qz)")
    elif sample.twin is None:
        if sample.quantum_dot is None:
            skip("02 03 04 05 06 07", "the sample names no quantum_dot: there are no dots to find")
        pixel = sample.pixel_nm or sample.voxel_nm or pixel_nm
        if sample.material is None:
            skip("03 06 07", "the sample names no material: its lattice cannot be looked for")
        elif pixel is not None and sample.material.lattice_nm / 2 < SMALLEST_SPACING_PIXELS * pixel:
            skip(
                "03 06 07",
                f"the {{200}} spacing of {sample.material.lattice_nm / 2:.3f} nm is under "
                f"{SMALLEST_SPACING_PIXELS:g} pixels of {pixel:g} nm: the lattice cannot be seen",
            )
    return reasons


def write_input_sample(sample: Sample, run_dir: str | Path, **changes: Any) -> Path:
    """Write ``input/sample.yaml``, the sample that steps 01 to 08 are handed.

    It has the ordinary keys only: neither ``twin`` nor ``parameters``, and of a twin no guess at the cell. A key
    given in `changes` replaces the sample's; None leaves it out. Files outside the input folder keep their absolute
    path, files in it are named relative to it.

    Returns
    -------
    Path
        The file written.
    """
    from mesotomo_utils.workflow.files import write_text

    folder = (Path(run_dir) / "input").resolve()
    hidden = {"twin", "parameters"} | ({"superlattice"} if sample.twin is not None else set())
    content = sample.model_dump(mode="python", exclude=hidden, exclude_none=True)
    content = {key: item for key, item in (content | changes).items() if item is not None}
    for key, item in content.items():
        if isinstance(item, Path):
            inside = item.is_absolute() and item.is_relative_to(folder)
            content[key] = str(item.relative_to(folder) if inside else item)
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return write_text(folder / "sample.yaml", text)
