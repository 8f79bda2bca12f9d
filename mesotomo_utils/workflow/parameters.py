"""Parameters of the steps, as the sample file and the command give them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from mesotomo_utils.workflow.resume import PLACES
from mesotomo_utils.workflow.sample import Sample
from mesotomo_utils.workflow.steps import find_step

SETTINGS = (*PLACES, "device")


class BadInput(ValueError):
    """What was asked for cannot be run; one line, and nothing has been written."""


def given_parameters(
    sample: Sample,
    pairs: Iterable[tuple[str, str]],
    options: Mapping[str, Any],
    defaults: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """The parameters given for each step; the command's go before the sample's.

    papermill takes an unknown parameter with a warning and goes on with the default, so they are
    all checked here.

    Parameters
    ----------
    sample
        The sample, whose ``parameters:`` are by step.
    pairs
        ``[STEP.]KEY, VALUE`` as given to the command; the value is read as YAML. A bare key goes to
        every step that declares it.
    options
        Parameters that go to every step that declares them.
    defaults
        The parameters each notebook declares, with their defaults.

    Raises
    ------
    BadInput
        No step declares a parameter, or the value is of another type than the default.
    """
    given: dict[str, dict[str, Any]] = {stem: {} for stem in defaults}
    for stem, values in sample.parameters.items():
        for key, item in values.items():
            _set(given, defaults, [stem] if stem in defaults else [], key, item, f"{sample.path}: parameters.{stem}")
    for key, item in options.items():
        for stem in defaults:
            if key in defaults[stem]:
                given[stem][key] = item
    for name, text in pairs:
        step, dot, key = name.rpartition(".")
        try:
            targets = [find_step(step)] if dot else list(defaults)
            item = yaml.safe_load(text)
        except (ValueError, yaml.YAMLError) as error:
            raise BadInput(f"-p {name} {text}: {' '.join(str(error).split())}") from None
        if not dot:
            targets = [stem for stem in targets if key in defaults[stem]] or targets
        _set(given, defaults, targets, key, item, "-p")
    return given


def _set(
    given: dict[str, dict[str, Any]],
    defaults: Mapping[str, Mapping[str, Any]],
    targets: list[str],
    key: str,
    item: Any,
    where: str,
) -> None:
    if key in SETTINGS:
        mend = f"use --{key}" if key in ("device", "dask") else "it is set by the command"
        raise BadInput(f"{where}: {key} is no parameter of a step; {mend}")
    for stem in targets:
        known = [name for name in defaults[stem] if name not in SETTINGS]
        if key not in known:
            known = known if len(targets) == 1 else sorted({k for d in defaults.values() for k in d} - {*SETTINGS})
            close = difflib.get_close_matches(key, known, n=1)
            mend = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known) or 'none'}"
            who = stem if len(targets) == 1 else "no step"
            verb = "has no" if len(targets) == 1 else "has the"
            raise BadInput(f"{where}: {who} {verb} parameter {key!r}; {mend}")
        default = defaults[stem][key]
        expected = _type_of(default)
        if isinstance(default, str) and isinstance(item, int | float):
            item = str(item)
        if expected and item is not None and _type_of(item) != expected:
            raise BadInput(f"{where}: {stem}.{key}: expected a {expected} such as {default!r}, found {item!r}")
        given[stem][key] = item


def _type_of(item: Any) -> str | None:
    if isinstance(item, bool):
        return "true or false"
    kinds = {int: "number", float: "number", str: "text", list: "list", tuple: "list", dict: "dictionary"}
    return kinds.get(type(item))
