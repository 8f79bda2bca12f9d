"""The dots and the scene in the formats of other programs.

ParaView (``.vtp``), OVITO (extended XYZ with shape and quaternion), orix (``CrystalMap`` in HDF5), a browser
(one HTML page) and plain CSV. Every file is written beside its final name and then renamed. Quaternions of the tables
are scalar first and turn crystal vectors into lab vectors; each writer says what its format wants.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.visualization import glyphs

if TYPE_CHECKING:
    from orix.crystal_map import CrystalMap

POSITION = ("x_nm", "y_nm", "z_nm")
QUATERNION = ("qw", "qx", "qy", "qz")


def write_csv(path: str | Path, dots: pd.DataFrame) -> Path:
    """Write the table of dots as CSV, UTF-8, empty cells where a value is unknown."""
    return _whole(path, lambda file: dots.to_csv(file, index=False, lineterminator="\n"))


def write_scene_vtp(path: str | Path, mesh: glyphs.Mesh) -> Path:
    """Write a glyph-stick mesh for ParaView: quadrilaterals in nm, their colours as cell array ``rgb``.

    In ParaView colour by ``rgb`` and switch *Map Scalars* off.
    """
    data = glyphs.to_polydata(mesh)
    return _whole(path, lambda file: data.save(file))


def write_scene_html(path: str | Path, page: str) -> Path:
    """Write a page of :func:`turning.page`, on which the scene turns in any browser."""
    return _whole(path, lambda file: file.write_text(page, encoding="utf-8"))


def write_dots_vtp(path: str | Path, dots: pd.DataFrame, pairs: pd.DataFrame) -> Path:
    """Write dots as points and necks as lines for ParaView.

    Parameters
    ----------
    path
        Ends in ``.vtp``.
    dots
        ``x_nm, y_nm, z_nm`` and any numeric columns, which become point arrays; with ``qw … qz``
        also ``quaternion`` (scalar first) and the lab directions ``a``, ``b``, ``c`` of the lattice.
    pairs
        ``row_1, row_2`` (rows of ``dots``) and numeric columns, which become cell arrays on the
        lines; the cells of the points themselves hold NaN there.

    Raises
    ------
    ValueError
        A position column is missing.
    """
    _require(dots, POSITION)
    pyvista = glyphs.quiet_pyvista()
    n = len(dots)
    lines = np.column_stack([np.full(len(pairs), 2), pairs[["row_1", "row_2"]].to_numpy(int)])
    data = pyvista.PolyData(
        dots[list(POSITION)].to_numpy(float),
        verts=np.column_stack([np.ones(n, int), np.arange(n)]).ravel(),
        lines=lines.ravel() if len(pairs) else None,
    )
    for name in dots.select_dtypes(["number", "bool"]).columns:
        data.point_data[name] = dots[name].to_numpy(float)
    if set(QUATERNION) <= set(dots):
        quaternions = dots[list(QUATERNION)].to_numpy(float)
        data.point_data["quaternion"] = quaternions
        for letter, direction in zip("abc", np.moveaxis(lattice.from_quaternions(quaternions), 2, 0), strict=True):
            data.point_data[letter] = direction
    for name in pairs.select_dtypes(["number", "bool"]).columns:
        data.cell_data[name] = np.concatenate([np.full(n, np.nan), pairs[name].to_numpy(float)])
    return _whole(path, lambda file: data.save(file))


def write_extended_xyz(path: str | Path, dots: pd.DataFrame, *, edge_nm: float, name: str = "QD") -> Path:
    """Write cubes for OVITO: extended XYZ with position, orientation and half-axes.

    OVITO wants the quaternion as x, y, z, w, turning the particle into the lab, and the half-edges of
    a box as ``aspherical_shape``; choose the particle shape *Box* there. A dot of unknown
    orientation is not turned and has ``measured`` 0. Lengths are nm.

    Parameters
    ----------
    path
        Ends in ``.xyz``.
    dots
        ``x_nm, y_nm, z_nm``; ``qw … qz``, ``qd``, ``layer`` and ``misorientation_deg`` where known.
    edge_nm
        Edge of the cubes.
    name
        Species name, one word.

    Raises
    ------
    ValueError
        A position column is missing, or ``name`` holds a space.
    """
    _require(dots, POSITION)
    if len(name.split()) != 1:
        raise ValueError(f"the species name must be one word, not {name!r}")
    n = len(dots)
    wxyz = dots.reindex(columns=list(QUATERNION)).to_numpy(float)
    measured = np.isfinite(wxyz).all(axis=1)
    wxyz = np.where(measured[:, None], wxyz, [1.0, 0.0, 0.0, 0.0])
    integers = dots.reindex(columns=["qd", "layer"]).fillna(-1).to_numpy(int)
    angle = dots.reindex(columns=["misorientation_deg"]).to_numpy(float)[:, 0]
    half = edge_nm / 2
    header = (
        'Properties="species:S:1:pos:R:3:orientation:R:4:aspherical_shape:R:3:'
        'qd:I:1:layer:I:1:measured:I:1:misorientation_deg:R:1" unit="nm" pbc="F F F"'
    )
    rows = [
        f"{name} {p[0]:.6f} {p[1]:.6f} {p[2]:.6f} {q[1]:.9f} {q[2]:.9f} {q[3]:.9f} {q[0]:.9f} "
        f"{half:.6f} {half:.6f} {half:.6f} {qd} {layer} {int(known)} {turn:.6f}"
        for p, q, (qd, layer), known, turn in zip(
            dots[list(POSITION)].to_numpy(float), wxyz, integers, measured, np.nan_to_num(angle, nan=-1.0), strict=True
        )
    ]
    text = "\n".join([str(n), header, *rows]) + "\n"
    return _whole(path, lambda file: Path(file).write_text(text, encoding="utf-8"))


def read_extended_xyz(path: str | Path) -> pd.DataFrame:
    """Read a file of :func:`write_extended_xyz` back as a table, the quaternion scalar first."""
    with open(path, encoding="utf-8") as file:
        count, header = int(file.readline()), file.readline()
        specification = header.split('Properties="')[1].split('"')[0].split(":")
        names: list[str] = []
        for name, _, width in zip(specification[::3], specification[1::3], specification[2::3], strict=True):
            names += [name] if width == "1" else [f"{name}_{k}" for k in range(int(width))]
        table = pd.read_csv(file, sep=r"\s+", names=names)
    if len(table) != count:
        raise ValueError(f"{path}: {len(table)} rows, but its first line says {count}")
    renamed = dict(zip([f"orientation_{k}" for k in (3, 0, 1, 2)], QUATERNION, strict=True))
    return table.rename(columns=renamed | {f"pos_{k}": POSITION[k] for k in range(3)})


def crystal_map(dots: pd.DataFrame, *, lattice_nm: float, name: str = "PbSe") -> CrystalMap:
    """Orientations as an orix ``CrystalMap``; dots without one are left out.

    Parameters
    ----------
    dots
        ``x_nm, y_nm, z_nm, qw, qx, qy, qz`` and, where known, ``qd, layer, misorientation_deg, lattice_snr``.
    lattice_nm
        Cubic lattice parameter of the material, nm.
    name
        Name of the material.

    Raises
    ------
    ValueError
        A column is missing, or no dot has an orientation.

    Notes
    -----
    orix turns lab vectors into crystal vectors, the inverse of our tables; a ``CrystalMap`` has two coordinates, so z
    goes with the properties, as do the other columns.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm misses ipywidgets
        from diffpy.structure import Lattice, Structure
        from orix.crystal_map import CrystalMap, Phase, PhaseList
        from orix.quaternion import Rotation

    _require(dots, (*POSITION, *QUATERNION))
    known = dots[np.isfinite(dots[list(QUATERNION)].to_numpy(float)).all(axis=1)]
    if known.empty:
        raise ValueError("no dot has an orientation: there is no CrystalMap to write")
    edge = 10 * lattice_nm  # diffpy and orix use ångström
    phase = Phase(name=name, space_group=225, structure=Structure(lattice=Lattice(edge, edge, edge, 90, 90, 90)))
    extra = [c for c in ("z_nm", "qd", "layer", "misorientation_deg", "lattice_snr") if c in known]
    return CrystalMap(
        rotations=~Rotation(known[list(QUATERNION)].to_numpy(float)),
        phase_id=np.zeros(len(known), dtype=int),
        x=known["x_nm"].to_numpy(float),
        y=known["y_nm"].to_numpy(float),
        phase_list=PhaseList(phase),
        prop={column: known[column].to_numpy(float) for column in extra},
        scan_unit="nm",
    )


def write_crystal_map(path: str | Path, dots: pd.DataFrame, *, lattice_nm: float, name: str = "PbSe") -> Path:
    """Write the :func:`crystal_map` of the dots as HDF5; ``path`` ends in ``.h5``."""
    found = crystal_map(dots, lattice_nm=lattice_nm, name=name)
    from orix.io import save

    return _whole(path, lambda file: save(str(file), found, overwrite=True))


def _require(table: pd.DataFrame, columns: tuple[str, ...]) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise ValueError(f"the table of dots lacks {', '.join(missing)}; it has {', '.join(map(str, table.columns))}")


def _whole(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Write to a hidden sibling of the same suffix, then rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path
