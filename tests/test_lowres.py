"""A twin blurred to the resolution of the earlier sample: dots, cell and necks are found, and that no lattice is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from mesotomo_utils.twin import compare

pytestmark = pytest.mark.slow

SIZE = ("qd_count", "layers", "n_tilts", "tilt_step_deg", "planarity_fwhm_nm", "turn_deg")
NEED_THE_LATTICE = (
    *("orientation_sigma_deg", "replica_turn_deg"),
    *(f"atomic_lattice_{name}_nm" for name in "abc"),
)


@pytest.fixture(scope="module")
def lowres(tmp_path_factory, repository) -> Path:
    """The sample ``lowres`` made as small as ``tiny``, run as far as the orientations."""
    folder = tmp_path_factory.mktemp("lowres")
    blurred, tiny = (yaml.safe_load((repository / "data" / f"{n}.yaml").read_text()) for n in ("lowres", "tiny"))
    blurred["twin"] |= {key: tiny["twin"][key] for key in SIZE}
    (folder / "lowres.yaml").write_text(yaml.safe_dump(blurred))
    words = ["run", folder / "lowres.yaml", "--out", folder / "run", "--to", "03"]
    command = [sys.executable, "-m", "mesotomo_utils.workflow.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return folder / "run"


def test_dots_cell_and_necks_are_found(lowres):
    comparison = compare.compare_run(lowres)
    dots, cell, necks = (comparison[key] for key in ("dots", "cell", "necks"))
    assert dots["missed"] == dots["spurious"] == 0
    assert dots["centre_error_nm"]["n"] == dots["dots_true"] == 40
    assert dots["centre_error_nm"]["median"] < 0.1
    assert dots["centre_error_nm"]["p95"] < 0.25
    assert dots["layer_right_fraction"] == 1.0
    # the cell of forty rough dots: cut ones bear on the measured one, not on the true one
    assert cell["cell_length_error_nm"] < 0.1
    assert cell["cell_angle_error_deg"] < 1.0
    assert necks["neck_pairs_missed_fraction"] == 0.0
    assert necks["neck_false_fraction"] <= 0.02
    assert necks["connectivity_error"] <= 0.03
    assert necks["neck_diameter_rms_nm"] < 0.4
    assert abs(necks["neck_diameter_bias_nm"]) < 0.2  # the blur makes thin ones thicker
    told = [check for check in compare.check_run(lowres) if not check.ok]
    assert told == []


def test_it_says_that_the_lattice_cannot_be_seen(lowres):
    rows = {row["name"]: row for row in json.loads((lowres / "results.json").read_text()) if row["index"] is None}
    assert rows["lattice_visible"]["value"] == 0
    assert rows["lattice_snr_median"]["value"] < rows["lattice_snr_threshold"]["value"]
    for name in NEED_THE_LATTICE:
        assert rows[name]["value"] is None, name
        assert "20% are needed" in rows[name]["reason"], name
    for table in ("orientations.csv", "qds.csv"):
        orientation = pd.read_csv(lowres / table)[["qw", "qx", "qy", "qz", "sigma_deg"]]
        assert len(orientation) >= 40, table
        assert orientation.isna().all(axis=None), table
    assert "orientation_error_deg" not in compare.compare_run(lowres)["dots"]
