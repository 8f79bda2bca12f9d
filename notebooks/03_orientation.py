# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
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
# # 03 · How each quantum dot's atomic lattice is turned
#
# **The question.** The tomogram resolves atomic planes inside every quantum dot (QD). Which way do
# the lattice's axes [100], [010], [001] of each dot point? The paper answers it in SI 3 and the inset of
# Fig. 1e; all of its Figs. 2 to 5 rest on the answer.

# %% [markdown]
# **You will learn** how a windowed Fourier transform shows one dot's lattice, how its orientation is found without
# a guess and refined far below a Fourier voxel, when *not* to trust it, and how two half sets of tilts
# give its error.
#
# **You need** `tomogram.ome.zarr` (notebook 01), `centres.csv` and `superlattice.json` (02). **It takes**
# an eighth of a second a dot on two cores, the control and both half sets included: some 25 seconds for 190 dots.

# %%
import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.analysis import orientation_sigma
from mesotomo_utils.mapping import (
    lattice_model,
    lattice_spots,
    model_dot,
    orientation,
    orientation_errors,
    orientation_follow,
    replicas,
    strain,
)
from mesotomo_utils.tomography.tomogram import open_tomogram
from mesotomo_utils.visualization import figures, orientation_figures
from mesotomo_utils.workflow import results
from mesotomo_utils.workflow.sample import load_sample

figures.use_style()

# %% tags=["parameters"]
sample = "runs/small/input/sample.yaml"  # the sample file of the run
run_dir = "runs/small"  # the run folder
device = "auto"  # auto, cpu or cuda
window_nm = None  # diameter of the window; None: 1.3 times the nominal dot
false_accepts = 0.01  # chance that a dot without a lattice is accepted
n_resamples = 200  # bootstrap draws for the interval of σ
seed = 3  # of the noise of the known case, and of the bootstrap
dask = None  # address of a Dask scheduler whose workers take the dots; None: the cores of this machine

# %% [markdown]
# ## What goes in

# %%
description = load_sample(sample)
tomogram = open_tomogram(results.path(run_dir, "tomogram.ome.zarr"))
volume = tomogram.data
voxel_nm = tomogram.voxel_nm
centres = results.read_table(run_dir, "centres.csv")
centres.head()

# %% [markdown]
# The superlattice. And can these voxels carry the atomic lattice at all? {200} needs two voxels a spacing, and a material
# must be named.

# %%
superlattice = results.read_json(run_dir, "superlattice.json")
grain = superlattice["grains"][0]
V = np.column_stack([grain[axis] for axis in "ABC"])
lattice_nm = description.material.lattice_nm if description.material else None
possible, reason = orientation.visible_in_principle(lattice_nm, voxel_nm)
diameter_nm = superlattice["dot_diameter_nm"]  # the sample's, or what 02 found instead
window = window_nm or orientation.default_window_nm(diameter_nm)
print(reason or f"a = {lattice_nm} nm, voxels of {voxel_nm:.4f} nm, window of {window:.2f} nm")
pd.DataFrame(V, index=["x", "y", "z"], columns=["A (nm)", "B (nm)", "C (nm)"]).round(3)

# %% [markdown]
# ## One dot in reciprocal space
#
# A dot is cut out with the bell-shaped window $w = (1 - r^2/R^2)^2$, so that its neighbours, which are
# turned differently, stay out. Its transform
#
# $$ F(\mathbf g) = \sum_{\mathbf r} \rho(\mathbf r)\, w(\mathbf r)\, e^{-2\pi i \mathbf g \cdot \mathbf r} $$
#
# has a spot at $\mathbf g = R\,(hkl)/a$ for each reflection that the lattice shows.

# %%
xyz = centres[["x_nm", "y_nm", "z_nm"]].to_numpy()
settings = {"lattice_nm": lattice_nm, "window_nm": window, "superlattice": V}
at = {"device": device, "dask": dask}
middle = int(np.argmin(np.linalg.norm(xyz - np.median(xyz, axis=0), axis=1)))
if possible:
    R, spots, planes, extent = lattice_spots.inspect_dot(
        volume, voxel_nm, xyz[middle], **settings
    )
    in_planes = lattice_spots.spots_in_planes(R, spots)
    fig = orientation_figures.fourier_planes(planes, extent, in_planes)
    results.save_figure(fig, run_dir, "one_dot_spots", in_planes)

# %% [markdown]
# Two planes through the origin of one dot near the middle of the sample. The circles are the spots, each
# refined alone. A window of diameter $2R$ smears a spot over a *Fourier voxel* of $1/2R$, and yet the spot's
# top is found to a small fraction of that (`offset_voxels`: its distance from where the joint fit puts it).

# %%
spots.round(3) if possible else reason

# %% [markdown]
# ## From spots to a rotation
#
# The paper fits a triad to the spots (Kabsch). We climb, for all reflections at once, the summed power over
# noise,
#
# $$ S(R, s) = \frac1{13} \sum_{hkl} \frac{|F(s R\,\mathbf g_{hkl})|^2}{N(\mathbf g)}, $$
#
# which uses also the spots that are too weak to be found one by one. $s$ is a free scale, $N$ the power of the noise
# there, which filtered back-projection makes grow with the frequency across the tilt axis. Before that, *every*
# orientation on a grid is tried, so that nothing about the superlattice goes in. The two ways agree:

# %%
if possible:
    kabsch = lattice_spots.triad_from_spots(spots)
    print(f"joint fit against Kabsch: {lattice.disorientation_deg(R, kabsch):.3f}° apart")

# %% [markdown]
# ## A case whose answer is known
#
# A lattice of bare atoms, turned by a known rotation, in noise, with the c axis stretched
# by 1 %. (PbSe stands in where the sample names no material.)

# %%
rng = np.random.default_rng(seed)
known = lattice.axis_angle([1.0, 2.0, 3.0], np.deg2rad(25.0))
known_voxel_nm, known_lattice_nm = 0.09, 0.612
known_volume = model_dot.turned_dot(
    known, lattice_nm=known_lattice_nm, voxel_nm=known_voxel_nm, edge_nm=5.0,
    noise=2.0, stretch=[1, 1, 1.01], rng=rng,
)

# %%
known_table = orientation.orient_dots(
    known_volume, known_voxel_nm, np.zeros((1, 3)), lattice_nm=known_lattice_nm, window_nm=6.0,
    superlattice=known,
)
known_R = lattice.from_quaternions(known_table[orientation.QUATERNION].to_numpy())
known_error_deg = float(lattice.rotation_angle_deg(known_R @ known.T)[0])
assert known_error_deg < 0.15
known_table.T.rename(columns={0: f"off by {known_error_deg:.3f}°"}).round(4)

# %% [markdown]
# ## Every dot
#
# Of the 24 equivalent descriptions of a cubic lattice, the one that follows the superlattice is taken:
# the largest $\mathbf a\cdot\hat A + \mathbf b\cdot\hat B + \mathbf c\cdot\hat C$. Quaternions are scalar
# first and turn crystal vectors into laboratory vectors (orix stores the inverse).

# %%
removable, why_left = False, reason
if possible:
    removable, why_left = replicas.can_be_removed(tomogram.attributes, V, lattice_nm=lattice_nm)
    some = np.arange(len(xyz)) % max(1, len(xyz) // 150) == 0  # the control costs a search of its own
    table = orientation.orient_dots(
        volume, voxel_nm, xyz, control=some, strain=not removable, false_accepts=false_accepts,
        progress="orientations", **at, **settings,
    )
else:
    table = orientation.without_lattice(len(xyz))
table.describe().T.dropna(subset=["mean"]).round(4)  # the free cells follow, where replicas are taken off first

# %% [markdown]
# ## Which dots to trust
#
# The *lattice SNR* is $S$ at its top: the mean power of the reflections over the noise around them. Pure noise
# gives more than 1, because the search takes the best of many orientations; how much more follows from the
# gamma law of noise and the number of orientations that a window can tell apart. The control
# looks, in up to three hundred of the dots, for a lattice whose reflections lie where rock salt has none. Where the lattice
# is strong, the control stands on the tails of its spots: above the noise, and still far below the lattice.

# %%
threshold = np.nan
if possible:
    threshold = orientation.snr_threshold(
        lattice_nm=lattice_nm, window_nm=window, voxel_nm=voxel_nm, false_accepts=false_accepts
    )
    ratio = (table.lattice_snr / table.control_snr).median()
    print(f"threshold {threshold:.2f}; the lattice stands {ratio:.3g} times above the control")

# %%
visible, why_not = orientation.lattice_visible(table) if possible else (False, reason)
accepted = table["qw"].notna().to_numpy()
print(why_not or f"{accepted.sum()} of {len(table)} dots show their lattice")

# %% [markdown]
# Steps 06 and 07 are skipped where under a fifth of the dots do.
#
# ## What the tilts repeat
#
# Tilts in steps of $\Delta\theta$ cut the plane of frequencies along lines $g\,\Delta\theta$ apart. What is sampled
# in one space repeats in the other: the fringes of every dot come back beside it, $1/(g\,\Delta\theta)$ away along
# the beam of the tilts that see them, and stand in other dots' windows at almost the same $\mathbf g$. That is
# no noise, and more than noise turns the spots it meets.
#
# But it can be foretold. The lattices found above are drawn as plane waves in the mean dot's body, projected at
# the angles of the series and reconstructed; what comes back beyond what was drawn is taken off, and each
# orientation is refined once more, from where it was. Its lattice SNR changes as the power of its spots does; the noise is
# not read again. The waves of one dot take the phases that a cation at one point gives them all: read one by one, they
# would carry the replicas on.

# %%
if not visible:
    removable, why_left = False, why_not
    table[orientation.QUATERNION] = np.nan  # the few that pass do so by chance
model, turn_deg = None, np.full(len(table), np.nan)
if removable:
    angles_deg = tomogram.angles_deg
    whole = ~centres["at_edge"].to_numpy(bool)
    model = lattice_model.model_lattices(volume, voxel_nm, xyz, table, whole=whole, dask=dask, **settings)
    model = replicas.project_lattices(model, angles_deg, progress="lattices projected", **at)
    [to_remove] = replicas.find_replicas(model, [angles_deg], progress="replicas", **at)

# %%
if removable:
    table, turn_deg = orientation_follow.without_replicas(
        volume, voxel_nm, xyz, table, to_remove, lattice_nm=lattice_nm, window_nm=window,
        false_accepts=false_accepts, progress="orientations without replicas", **at,
    )
    accepted = table["qw"].notna().to_numpy()
replica_turn_deg = float(np.nanmedian(turn_deg)) if removable else np.nan
print(why_left or f"half of the dots turn by more than {replica_turn_deg:.2f}°")

# %% [markdown]
# A dot near the middle, as drawn and as the tilts give it back, in the slice through it across the tilt axis. Beside it
# how far the dots turn when the others' replicas are gone; the last bar holds the few that turn farther.

# %%
if removable:
    nearest = int(np.argmin(np.linalg.norm(model.middles_nm - xyz[middle], axis=1)))
    drawn, again = replicas.fringes_of_one(model, nearest, angles_deg)
    fig = orientation_figures.replicas(drawn, again, model.voxel_nm, turn_deg)
    results.save_figure(fig, run_dir, "lattice_replicas", pd.DataFrame({"qd": centres["qd"], "turn_deg": turn_deg}))

# %% [markdown]
# ## How well an orientation is known
#
# The tomograms of the even and of the odd tilts have independent noise. A dot's turn from one to the other has
# four times the variance of the result from all tilts, and noise moves an orientation by only $30° / (g w
# \sqrt{\mathrm{SNR}})$, $w$ the window: a hundredth of a degree. The halves differ by far more. A half samples every other
# direction, so its replicas stand at half the distance, among the nearest dots. They are taken off each half as well, and
# how much of the turns that they made is left tells how well the model foretells them.
#
# So $\sigma^2 = \sigma_\mathrm{noise}^2 + \rho^2$, $\rho$ what replicas leave. Two things tell of it: $\delta$, the turn that
# their removal made with all tilts, and $\eta$, half of what the halves still differ by, less noise; both as laws in the
# lattice SNR fitted to all dots (one turn says little of its own dot). On twins $\rho = 0.62\,f_h^{0.38} \sqrt{\delta \eta}$,
# $f_h$ the part of the replicas' turns that is left in the halves, and up to 1.5 times that where both lack the same
# wedge of tilts (`benchmarks/calibrate_errors.py`). A turn common to all dots is the halves' own alignment, and taken
# out. A scale of tilts that is wrong throughout shows in neither.

# %%
to_remove, half_angles_deg = None, None  # room for the replicas of the halves
halves = ("half_even.ome.zarr", "half_odd.ome.zarr")
errors, common_deg = pd.DataFrame({"sigma_deg": np.full(len(table), np.nan)}), np.full(3, np.nan)
if visible and all(results.exists(run_dir, name) for name in halves):
    even, odd = (open_tomogram(results.path(run_dir, name)) for name in halves)
    half_angles_deg = [half.angles_deg for half in (even, odd)] if removable else None
    errors, common_deg = orientation_errors.half_set_sigmas(
        even.data, odd.data, voxel_nm, xyz, table, model=model, angles_deg=half_angles_deg, replica_turn_deg=turn_deg,
        lattice_nm=lattice_nm, window_nm=window, progress="half sets", **at,
    )
errors.drop(columns=orientation_errors.PARTS, errors="ignore").describe().T.round(4)

# %%
if errors["sigma_deg"].notna().any():
    turns = errors[["turn_x_deg", "turn_y_deg", "turn_z_deg"]].to_numpy()
    snr, sigma = table["lattice_snr"].to_numpy(), errors["sigma_deg"].to_numpy()
    fig = orientation_figures.half_set_turns(turns, snr, errors["half_set_deg"].to_numpy())
    results.save_figure(fig, run_dir, "orientation_half_sets", errors.assign(lattice_snr=snr))

# %% [markdown]
# The tilt axis is z. Where the error about one axis stands out, the tomogram is worse in the plane
# that this axis turns: a missing wedge does that, and about z the coarse sampling of the directions across the axis.

# %%
if possible:
    sigma = errors["sigma_deg"].to_numpy()
    fig = orientation_figures.trust(table.lattice_snr, table.control_snr, threshold, sigma)
    numbers = table[["lattice_snr", "control_snr"]].assign(sigma_deg=sigma)
    results.save_figure(fig, run_dir, "orientation_trust", numbers)

# %% [markdown]
# **Where the errors are.** σ of each dot's position (from 02: $\sqrt{\sigma_x^2 + \sigma_y^2 + \sigma_z^2}$) and of its
# orientation, at its place: across the tilt axis and along it. Look for a rim: a dot that the needle's edge cuts is known
# less well, its position (02 lays the mean dot over what is left) some thirty times less. One half-set difference says
# little of its own dot: 02 pools them, and shares the noise out by what necks and neighbours leave of each whole dot to
# be seen. The colours go with the logarithm; open rings are dots without a σ.

# %%
position_nm = np.sqrt((centres[["sigma_x_nm", "sigma_y_nm", "sigma_z_nm"]] ** 2).sum(axis=1, skipna=False))
places = centres[["qd", "x_nm", "y_nm", "z_nm"]].assign(sigma_nm=position_nm, sigma_deg=errors["sigma_deg"])
if places[["sigma_nm", "sigma_deg"]].notna().to_numpy().any():
    fig = orientation_figures.sigma_maps(places)
    results.save_figure(fig, run_dir, "sigma_maps", places)

# %% [markdown]
# ## The axes of all dots
#
# Stereographic projection with the film's normal at the centre and A to the right; the crosses are A, B, C.
# Beside it each axis about its own mean.

# %%
if visible:
    R_all = lattice.from_quaternions(table.loc[accepted, orientation.QUATERNION].to_numpy())
    frame = lattice.film_frame(V)
    poles = {k: orientation.stereographic(R_all[:, :, i], frame) for i, k in enumerate("abc")}
    deviations = orientation.axis_deviations_deg(R_all)
    cross = orientation.stereographic(V.T, frame)
    fig = orientation_figures.pole_figure(poles, cross, deviations)
    drawn = {f"{name}_deviation": pd.DataFrame(xy) for name, xy in deviations.items()}
    results.save_figure(fig, run_dir, "atomic_axes", drawn | {"poles": pd.DataFrame(np.hstack([*poles.values()]))})

# %% [markdown]
# ## The lattice parameters of each dot
#
# With all nine elements of the reciprocal cell free, the same spots give three lattice parameters
# and three angles for each dot. Their mean calibrates the pixel; what differs between a, b and c is
# strain, or a tomogram that is stretched. So the strain is taken against the dots' own mean cubic lattice $a_0$:
# $E = (M^\mathsf{T} M / a_0^2 - 1) / 2$ in the axes of the lattice, $M$ the dot's cell. `lattice_parameters.csv` beside the
# figure has all of it for every dot, by its number `qd`. σ is half of what the half sets differ by, pooled over all dots:
# a fifth too large on twins, for a half has more replicas; with a wedge of tilts missing, as much too small for some
# angles. A strain below two of its σ may be none.

# %%
if visible:
    fig = orientation_figures.lattice_parameters(table, lattice_nm)
    cells = pd.concat([table[list(strain.CELL)], errors.reindex(columns=strain.SIGMA)], axis=1)
    strained = pd.concat([centres["qd"], cells, strain.dot_strains(cells)], axis=1)
    results.save_figure(fig, run_dir, "lattice_parameters", strained)

# %% [markdown]
# ## Exercises
#
# 1. Which window makes the lattice SNR of the dot in the middle largest: 0.8, 1, 1.3 or 1.8 nominal diameters?
# 2. How far, in degrees, does a turn by half a Fourier voxel at {220} reach, and what fraction of it is
#    the median σ?

# %% tags=["solution"]
if possible:
    one = {"lattice_nm": lattice_nm, "superlattice": V}
    trial = [0.8 * diameter_nm, diameter_nm, 1.3 * diameter_nm, 1.8 * diameter_nm]
    snr_of = {
        f"{w:.1f} nm": orientation.orient_dots(
            tomogram.data, voxel_nm, xyz[[middle]], window_nm=w, **one
        ).lattice_snr[0]
        for w in trial
    }
    print({width: round(float(snr)) for width, snr in snr_of.items()})  # larger windows gain until they reach into the neighbours

# %% tags=["solution"]
if possible:
    half_voxel_deg = np.rad2deg(0.5 / window * lattice_nm / np.sqrt(8))
    print(f"half a Fourier voxel: {half_voxel_deg:.2f}°; median σ {np.nanmedian(sigma):.3f}°")

# %% [markdown]
# ## The record
#
# What stands for all dots is the median of their σ. Its interval: columns of dots side by side vary together, as in
# notebook 05, and the laws of noise and replicas are fitted anew to each resample; and the constants of those laws were
# off by 8 % on twins, which no resample knows.

# %%
orientations = pd.concat([centres[["qd"]], table[orientation.QUATERNION], errors["sigma_deg"]], axis=1)
orientations["lattice_snr"] = table["lattice_snr"]
results.write_table(run_dir, "orientations.csv", orientations)
summary = orientation_errors.summary(table, errors, common_deg)
wedge = orientation_errors.wedge_factor(np.concatenate(half_angles_deg)) if half_angles_deg else 1.0
options = {"wedge": wedge, "n_resamples": n_resamples, "rng": np.random.default_rng([seed, 1])}
typical = orientation_sigma.typical_error(errors, table, xyz, V, **options)
pd.Series(typical.as_result(), name="orientation_sigma_deg", dtype=object).to_frame()

# %%
no_sigma = None
if not np.isfinite(summary["sigma_deg"]):
    no_sigma = why_not or "there are no half sets of tilts"
values = [
    results.value("lattice_visible", int(visible), reason=why_not or None),
    results.value("lattice_accepted_fraction", summary["accepted_fraction"], n=len(table)),
    results.value("lattice_snr_median", summary["snr"], n=len(table), reason=reason or None),
    results.value("lattice_snr_threshold", threshold, reason=reason or None),
    results.value("orientation_sigma_deg", unit="deg", **typical.as_result() | {"reason": no_sigma}),
    results.value("replica_turn_deg", replica_turn_deg, "deg", reason=why_left or None),
    results.value("orientation_sigma_xyz_deg", summary["sigma_xyz_deg"], "deg", n=summary["n"], reason=no_sigma),
    results.value("half_set_common_turn_deg", summary["common_deg"], "deg", reason=no_sigma),
]
for name in ("a_nm", "b_nm", "c_nm"):
    mean, error = summary[name]
    values.append(
        results.value(f"atomic_lattice_{name}", mean, "nm", sigma=error, n=summary["n"], reason=why_not or None)
    )
results.record(run_dir, "03_orientation", values)

# %% [markdown]
# **What comes next.** [04_glyphs](04_glyphs.ipynb) draws every dot in its place, turned as measured here;
# 05 to 07 ask how orientations depend on layer and neighbour.
