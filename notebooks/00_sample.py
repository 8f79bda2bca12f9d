# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 00 · The sample
#
# **The question.** What do we have: which images, taken at which tilts, of what?
#
# Fig. 1a–c of the paper shows the superlattice by scanning electron microscopy, the needle that was cut
# from it, and projections from the tilt series. The SEM panels are photographs of that one sample
# and cannot be re-created; the projections and the structure can.

# %% [markdown]
# **You will learn** what a sample file holds, how a digital twin is made from the paper's findings, and
# what a microscope does to it before the analysis sees anything.
#
# **You need** a sample file: a name in `data/` or a path of your own. **It takes** ten seconds for
# `tiny`, half a minute for `small`, some three minutes for `paper`, and a moment for your own data.

# %%
import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.tomography import tilt_series
from mesotomo_utils.tomography.tomogram import load_tomogram
from mesotomo_utils.twin import account, atoms, microscope, structure, tables
from mesotomo_utils.visualization import figures, sample_figures
from mesotomo_utils.workflow import results
from mesotomo_utils.workflow.sample import find_sample, load_sample, write_input_sample

figures.use_style()

# %% tags=["parameters"]
sample = "data/small.yaml"  # a sample file: of data/, or your own
run_dir = "runs/small"  # where everything of this run goes
device = "auto"  # not used here: a twin is imaged on the CPU
shown_tilts_deg = [-90.0, -45.0, 0.0, 45.0]  # projections to show, the nearest there are

# %% [markdown]
# ## The sample file
#
# It names exactly one source of data: `twin`, `tilt_series`, `tomogram`, `centres` or `dots`. The
# analysis starts where the data start.

# %%
given = load_sample(find_sample(sample))
described = given.model_dump(exclude_none=True, exclude={"twin", "parameters"})
print(f"{given.name}: the source is `{given.source}`, the analysis enters as `{given.enters_as}`")
pd.Series({key: str(value) for key, value in described.items()}, name=given.name).to_frame()

# %% [markdown]
# ## The twin
#
# The paper's raw data are not public. In their place stands a structure into which the paper's
# findings are built, each as a parameter with its source (`mesotomo_utils/twin/imposed.py`). It shows
# whether the analysis gets out what was put in. It is no evidence for the paper's physics.
#
# The cells of this part do nothing for real data.

# %%
is_twin = given.source == "twin"
imposed = structure.twin_parameters({**given.twin, "film_bottom": given.film_bottom}) if is_twin else None
rng = np.random.default_rng(imposed.seed) if is_twin else None
fields = type(imposed).model_fields if is_twin else {}
pd.DataFrame(
    [(k, getattr(imposed, k), f.description) for k, f in fields.items()], columns=["parameter", "value", "source"]
)

# %% [markdown]
# Dots sit on the sites of a triclinic lattice, displaced by random fields that neighbours share in
# part. Their atomic lattices start from the one rotation that faces all neighbours as squarely as the
# mean cell allows, roll from layer to layer about [-1 2 0], and scatter about the same axis. The
# needle is a cylinder about z through the tilted film; it cuts the dots at its surface. Its
# radius is the one that leaves exactly the number of dots asked for at least 90 % whole.

# %%
built = structure.build_structure(imposed, rng) if is_twin else None
if is_twin:
    print(f"{built.whole.sum()} whole dots, {(~built.whole).sum()} cut by the surface of the needle")
    print(
        f"{len(built.defects)} vacancies; needle {2 * built.radius_nm:.1f} nm wide; smallest gap {built.smallest_gap_nm:.2f} nm"
    )

# %% [markdown]
# Asked for and made, over the whole dots. Planarity is scaled to be exact in each layer. **Not everything
# can hold at once.** What gives way is the mean misorientation to the perfect lattice (a roll of 8.4°
# alone makes 2.5°, and the out-of-plane spread of 11.3° needs scatter on top of it), the in-plane turn of C7 to C9
# (the paper's several degrees have no room in its in-plane spread of 3.7°), the twists of the necks (they follow from
# axis, variance and spread), and the correlation of neighbours' displacements, which planarity and the out-of-plane
# spread of the superlattice determine between them. Layers of few dots leave room for less, and vacancies come in whole
# numbers. What gave way here is no failure of the analysis later: the report compares with what was *made*.

# %%
order = account.order_table(built) if is_twin else pd.DataFrame(columns=account.COLUMNS)
order.drop(columns="gave_way_to").round(3)

# %%
off = account.gave_way(order) if is_twin else order
print("gave way by more than 3 %, and to what:" if len(off) else "nothing gave way by more than 3 %")
off[["name", "index", "asked", "made", "unit", "gave_way_to"]].style.hide(axis="index").format(precision=3)

# %% [markdown]
# The structure, whole dots only: from above and from the side. Layers C1 (dark) at the bottom to the top.

# %%
if is_twin:
    whole = built.dots[built.whole]
    fig = sample_figures.dots(whole, whole["layer"].to_numpy())
    results.save_figure(fig, run_dir, "fig1_structure", whole[["qd", "layer", "x_nm", "y_nm", "z_nm"]])

# %% [markdown]
# ### Atoms
#
# Rock-salt PbSe fills the truncated cubes, a whole number of atomic planes along each edge, so that the
# centre of the atoms is the centre of the dot. Necks hold the lattice of one dot up to the middle of the
# gap and that of the other beyond it. At table level no atoms are made: centres, orientations and
# necks are given errors of known size instead.

# %%
imaged = is_twin and imposed.level == "images"
if imaged:
    positions, species = atoms.place_atoms(built)
    specimen = microscope.Specimen(positions, species, built.radius_nm)
    print(f"{len(positions):,} atoms, {np.mean(species == atoms.PB):.1%} of them Pb")

# %% [markdown]
# ### The microscope
#
# Every atom scatters as $Z^{1.7}$, blurred by probe and thermal motion. The sum over atoms is evaluated
# exactly up to the highest frequency that the pixels carry (a non-uniform Fourier transform), so
# that no pixel grid is imposed on the atoms. Carbon, background, Poisson noise, drift, jitter, wrong
# angles and a tilted, displaced axis make it a measurement.

# %%
errors = [
    "jitter_px",
    "drift_px",
    "axis_offset_px",
    "axis_tilt_deg",
    "angle_error_deg",
    "film_tilt_deg",
    "dose_electrons",
]
pd.Series({key: getattr(imposed, key) for key in errors} if imaged else {}, name="never eased", dtype=object).to_frame()

# %%
recording = microscope.record_series(specimen, imposed, rng, name=given.name) if imaged else None
if imaged:
    fig = sample_figures.shifts(recording.alignment)
    results.save_figure(fig, run_dir, "true_alignment", recording.alignment)

# %% [markdown]
# ## What the analysis may read
#
# `input/` gets the series with its *nominal* angles and a sample file of ordinary keys only: no twin, no
# seed, no guess at the cell. `truth/` gets everything else; the report alone opens it.

# %%
changes = {}
if imaged:
    mrc, rawtlt = tilt_series.save_tilt_series(results.scratch(run_dir, "input/tilt_series.mrc"), recording.series)
    changes = {
        "tilt_series": results.publish(mrc, f"{run_dir}/input/tilt_series.mrc").resolve(),
        "tilt_angles": results.publish(rawtlt, f"{run_dir}/input/tilt_series.rawtlt").resolve(),
        "pixel_nm": imposed.pixel_nm,
    }

# %%
if is_twin and not imaged:
    measured_dots, measured_necks = tables.measured_tables(built, rng)
    changes = {
        "dots": results.write_table(run_dir, "input/dots.csv", measured_dots).resolve(),
        "necks": results.write_table(run_dir, "input/necks.csv", measured_necks).resolve(),
    }

# %%
input_sample = write_input_sample(given, run_dir, **changes)
print(input_sample.read_text())

# %%
if is_twin:
    for name, table in tables.truth_tables(built, recording).items():
        results.write_table(run_dir, f"truth/{name}", table)
    results.write_json(run_dir, "truth/superlattice.json", tables.truth_superlattice(built))
    results.write_json(run_dir, "truth/parameters.json", tables.truth_parameters(built, recording))

# %% [markdown]
# ## What there is to see
#
# From here on the data are read back from the files, like anybody's.

# %%
ready = load_sample(input_sample)
values = []
if ready.source == "tilt_series":
    series = tilt_series.load_tilt_series(
        ready.tilt_series,
        angles_path=ready.tilt_angles,
        pixel_nm=ready.pixel_nm,
        tilt_axis=ready.tilt_axis,
        tilt_sign=ready.tilt_sign,
    )
    low, high = series.angles_deg.min(), series.angles_deg.max()
    print(
        f"{len(series)} images of {series.images.shape[1]} × {series.images.shape[2]} pixels of {series.pixel_nm} nm, {low:g}° to {high:g}°"
    )

# %% [markdown]
# **Fig. 1c: projections.** The tilt axis z points up.

# %%
if ready.source == "tilt_series":
    shown = [int(np.argmin(np.abs(series.angles_deg - tilt))) for tilt in shown_tilts_deg]
    titles = [f"{series.angles_deg[n]:g}°" for n in shown]
    fig = sample_figures.images([series.images[n] for n in shown], titles, series.pixel_nm, unit="recorded signal")
    data = pd.DataFrame({"image": shown, "angle_deg": series.angles_deg[shown]})
    results.save_figure(fig, run_dir, "fig1_projections", data)

# %% [markdown]
# A whole object has the same mass at every tilt. Where the sum of the images, above the detector's dark
# level, changes, something moved in or out of the field, or the detector is not linear.

# %%
if ready.source == "tilt_series":
    middle = int(np.argmin(np.abs(series.angles_deg)))
    dark = np.percentile(series.images[shown], 1)
    total = series.images.sum(axis=(1, 2), dtype=float) - dark * series.images[0].size
    fig = sample_figures.brightness(series.angles_deg, total)
    results.save_figure(fig, run_dir, "brightness", pd.DataFrame({"angle_deg": series.angles_deg, "sum": total}))
    values += [
        results.value("n_images", len(series)),
        results.value("pixel", series.pixel_nm, "nm"),
        results.value("tilt_range", [low, high], "deg"),
        results.value("brightest_hundredth", microscope.brightest(series.images[middle]), "signal"),
        results.value("mass_variation", total.std() / total.mean()),
    ]

# %% [markdown]
# **Is the atomic lattice there?** Spots in the Fourier transform of one projection lie on the rings of PbSe where
# the beam ran along lattice planes; spots outside the last ring belong to finer planes, {311} first. Faint spots off
# the rings are cuts through the streaks that the facets of so small a crystal draw out of each reflection. Without a `material` there are no rings to draw.

# %%
if ready.source == "tilt_series":
    image = series.images[middle]
    side = min(image.shape)
    square = image[(image.shape[0] - side) // 2 :, (image.shape[1] - side) // 2 :][:side, :side]
    window = np.outer(np.hanning(side), np.hanning(side))
    amplitude = np.abs(np.fft.fftshift(np.fft.fft2((square - square.mean()) * window)))
    families = lattice.reflections(ready.material.lattice_nm) if ready.material else None
    rings = {f"{{{f}}}": d for f, d in zip(families["family"], families["d_nm"], strict=True)} if ready.material else {}
    fig = sample_figures.spectrum(amplitude, 0.5 / series.pixel_nm, rings)
    results.save_figure(fig, run_dir, "spectrum", pd.DataFrame({"family": list(rings), "d_nm": list(rings.values())}))

# %% [markdown]
# A run that starts from a tomogram or a table shows that instead.

# %%
if ready.source == "tomogram":
    volume, voxel_nm = load_tomogram(ready.tomogram, voxel_nm=ready.voxel_nm)
    middle = [volume[volume.shape[0] // 2], volume[:, volume.shape[1] // 2]]
    fig = sample_figures.images(middle, ["z = 0", "y = 0"], voxel_nm)
    results.save_figure(fig, run_dir, "fig1_slices", pd.DataFrame({"voxel_nm": [voxel_nm]}))
    values.append(results.value("voxel", voxel_nm, "nm"))

# %%
if ready.source in ("centres", "dots"):
    dots = pd.read_csv(ready.dots or ready.centres)
    fig = sample_figures.dots(dots, np.ones(len(dots), int))
    results.save_figure(fig, run_dir, "fig1_dots", dots[["x_nm", "y_nm", "z_nm"]])
    values.append(results.value("n_dots_given", len(dots)))

# %% [markdown]
# ## A case whose answer is known
#
# One atom at x = 3 nm, y = −1 nm, z = 2 nm. Since $u = x\cos\theta + y\sin\theta$ it must appear at
# $u = 3$ at 0° and at $u = -1$ at 90°, always at $z = 2$. Were x and y swapped, or the sense of
# rotation wrong, everything that follows would be a mirror image.

# %%
bare = structure.twin_parameters({"pixel_nm": 0.1, "carbon_atoms_per_nm3": 0.0})
atom = microscope.Specimen(np.array([[3.0, -1.0, 2.0]], np.float32), np.zeros(1, np.int8), radius_nm=5.0)
for angle, expected in ((0.0, 3.0), (90.0, -1.0)):
    image = microscope.project(atom, bare, (101, 101), angle_deg=angle)
    row, column = np.unravel_index(image.argmax(), image.shape)
    z, u = (row - 50) * 0.1, (column - 50) * 0.1
    np.testing.assert_allclose([u, z], [expected, 2.0], atol=0.06)
    print(f"at {angle:g}° the atom is seen at u = {u:.1f} nm, z = {z:.1f} nm")

# %% [markdown]
# ## Exercises
#
# **1.** The brightest hundredth of the 0° image of a twin holds 400 electrons a pixel. How many standard
# deviations of the counting noise is a lattice fringe that changes the signal by 15 %? And after
# averaging over the 40 or so pixels of its length?

# %% tags=["solution"]
single = 0.15 * 400 / np.sqrt(400)
print(f"{single:.1f} in one pixel, {single * np.sqrt(40):.0f} along the fringe")

# %% [markdown]
# **2.** The angle errors are 0.1° rms. How far does one move a dot at the needle's surface, 15 nm from
# the axis, and is that more or less than a pixel of 0.088 nm?

# %% tags=["solution"]
print(f"{15 * np.deg2rad(0.1):.3f} nm: a third of a pixel")

# %% [markdown]
# ## What comes next

# %%
results.record(run_dir, "00_sample", values)

# %% [markdown]
# [01 · Reconstruction](01_reconstruction.ipynb) finds the shifts and angles that this notebook hid, and makes a
# tomogram of the images.
