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
# # 07 · Kinetic trapping: how far from the perfect lattice
#
# **The question.** If the superlattice had had all the time it needed, every dot would sit on a site of one
# lattice with one orientation. How far is each dot from there, and in which layers and directions most?
#
# It answers for Fig. 5 of the paper.

# %% [markdown]
# **You will learn** to fit a lattice that a few stray dots cannot bend, and to carry the uncertainty of a
# reference orientation into everything that is measured from it; and to ask of two models which one the data are nearer
# to, when one of them is noisy.
#
# **You need** `centres.csv`, `orientations.csv`, `superlattice.json` and `mono.json` of step 04. **It takes**
# about ten seconds.

# %%
import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.analysis import dots as dot_tables
from mesotomo_utils.analysis import moments, orientation_models, statistics, trapping
from mesotomo_utils.visualization import analysis_figures, cofacial_figures, figures
from mesotomo_utils.workflow import results

figures.use_style()

# %% tags=["parameters"]
sample = "runs/small/input/sample.yaml"  # the sample file of the run
run_dir = "runs/small"  # the run folder
device = "auto"  # not used here: tables are small
n_resamples = 300  # bootstrap draws for each interval
seed = 7  # of the bootstrap, not of the sample
n_references = 40  # orientations near the optimum of R_mono that enter the intervals

# %% [markdown]
# ## What there is

# %%
dots = dot_tables.join(results.read_table(run_dir, "centres.csv"), results.read_table(run_dir, "orientations.csv"))
mean_cell = dot_tables.mean_cell(results.read_json(run_dir, "superlattice.json"))
rotations = dot_tables.rotations(dots, mean_cell)
mono_file = results.read_json(run_dir, "mono.json")
mono = np.array(mono_file["R_mono"], float)
print(
    f"{len(dots)} dots; R_mono: facets of {mono_file['facet_nm']:.2f} nm overlap by {100 * mono_file['overlap_fraction']:.1f} %"
)

# %% [markdown]
# ## The perfect lattice
#
# One cell and one origin for all dots, $x \approx o + V\,(i, j, k)^T$. Tukey's weights give no say to dots that lie more
# than four median distances from their site, so that the lattice is that of the many.

# %%
xyz = dot_tables.positions(dots)
cell, origin, displacement = trapping.fit_lattice(xyz, dots[dot_tables.INDICES].to_numpy())
pd.DataFrame({"robust": lattice.cell_parameters(cell), "step 02": lattice.cell_parameters(mean_cell)}).T.round(3)

# %% [markdown]
# **A case whose answer is known.** A perfect lattice of which one dot in twenty is moved by 3 nm: the fit still
# finds the exact cell, and the dots that were moved.

# %%
rng = np.random.default_rng(seed)
sites = np.stack(np.meshgrid(*[np.arange(6)] * 3, indexing="ij"), -1).reshape(-1, 3)
moved = rng.random(len(sites)) < 0.05
test = sites @ cell.T + np.where(moved[:, None], [0.0, 0.0, 3.0], 0.0)
found, _, residual = trapping.fit_lattice(test, sites)
print(
    f"largest error of the cell {np.abs(found - cell).max():.1e} nm; found {np.sum(np.linalg.norm(residual, axis=1) > 1)} of {moved.sum()} moved dots"
)

# %%
table = trapping.dot_table(dots, rotations, mono, cell, displacement)
results.write_table(run_dir, "trapping.csv", table)
table.head().round(3)

# %% [markdown]
# ## Columns for the intervals
#
# As in step 05: columns of dots side by side vary together, because neighbours resemble each other.

# %%
film = xyz @ lattice.film_frame(cell)
blocks = statistics.places(film[:, :2], spacing_nm=np.linalg.norm(cell[:, :2], axis=0).mean())
options = {"n_resamples": n_resamples, "rng": rng}

# %% [markdown]
# ## Misorientation from R_mono
#
# $\theta_i$ is the angle of $R_\mathrm{mono}^T R_i$ modulo the cube's symmetry. Noise adds $\sigma_i^2$ to its square on average, and
# that is where it comes off.

# %%
turn = trapping.turn_vectors(rotations, mono)
sigma_deg = dots["sigma_deg"].to_numpy(float)
layer = dots["layer"].to_numpy()
fixed = trapping.misorientation(turn, layer, sigma_deg, blocks, **options)
pd.DataFrame({name: e.as_result() for name, e in fixed.items()})

# %% [markdown]
# ## R_mono is not known well
#
# Orientations that lose less than 1 % of the overlap are all as good as the optimum, and they lie up to several
# degrees from it. The same mean from each of them:

# %%
near = lattice.from_quaternions(np.array(mono_file["near_optimum"], float).reshape(-1, 4))
near = near[np.unique(np.linspace(0, len(near) - 1, min(n_references, len(near))).astype(int))] if len(near) else near
oriented = np.isfinite(rotations).all((1, 2))
noise = moments.noise_variance(sigma_deg[oriented])
from_near = np.array([moments.mean_length(trapping.turn_vectors(rotations[oriented], m), noise) for m in near])
misorientation = trapping.widen_by_reference(fixed["mean"], from_near)
pd.DataFrame({"R_mono fixed": fixed["mean"].as_result(), "R_mono uncertain": misorientation.as_result()})

# %% [markdown]
# And from two references that know nothing of facets: the rotation nearest to the directions of A, B and C (polar), and
# the mean of the dots themselves, about which their scatter is smallest.

# %%
references = {"R_mono": mono, "polar": np.array(mono_file["polar"], float)}
if oriented.any():
    references["mean of the dots"] = lattice.mean_rotation(rotations[oriented])
by_reference = pd.DataFrame(
    {
        name: {
            "mean misorientation (°)": moments.mean_length(trapping.turn_vectors(rotations[oriented], R), noise),
            "angle to R_mono (°)": float(lattice.disorientation_deg(R, mono)),
        }
        for name, R in references.items()
    }
)
by_reference.round(3)

# %% [markdown]
# ## The mean cell, or its own neighbours?
#
# A dot that still could turn when its neighbours had come to rest would face *them*. Four predictions for every dot
# with five or six neighbours: $R_\mathrm{mono}$; $\hat R_i$, which maximises the overlap with its neighbours where they
# are and as they are turned (*held*); the same with all dots turned together, which knows the centres alone (*joint*); and
# $R_\mathrm{mono}$ turned as the *directions* to its neighbours are turned against the mean cell.

# %%
alone = np.random.default_rng([seed, 1])  # of this section: the others keep their draws
facet = mono_file["facet_nm"]
predicted = orientation_models.predict(dots, rotations, mono, mean_cell, facet_nm=facet, rng=alone)
frame = lattice.film_frame(mean_cell)
pearson = orientation_models.pearson_matrix(predicted, frame)
print(f"{len(predicted.rows)} of {len(dots)} dots")
pearson.round(4)

# %% [markdown]
# Pearson's correlation (the paper's way) punishes any prediction that varies in vain, and $\hat R$ is as ill-conditioned as
# $R_\mathrm{mono}$: errors of the centres alone turn it by degrees, a neighbour that is missing by ten. So the deviation from $R_\mathrm{mono}$ is also
# regressed on the predicted one, that noise taken off: slope 0 where lattices know the mean cell alone, 1 where they
# follow. *Held* has no slope to read: what neighbours share, a roll of the layer say, is in its prediction.

# %%
options_alone = {"n_resamples": n_resamples, "rng": alone}
models = orientation_models.compare(predicted, frame, mono, near, blocks, **options_alone)
pd.DataFrame({name: e.as_result() for name, e in models.items()}).T

# %% [markdown]
# **Fig. S4, right.** (a) The matrix. (b, c) Each dot's deviation, component by component, about the mean. Which line do the
# dots follow?

# %%
deviations = orientation_models.deviations(predicted, mono)
slopes = {model: models[name].value for model, name in orientation_models.REGRESSED.items()}
fig = cofacial_figures.models_figure(pearson, deviations, slopes)
plotted = {"pearson": pearson.reset_index(names="of"), "deviations": deviations}
saved = results.save_figure(fig, run_dir, "fig_s4_models", plotted)

# %% [markdown]
# And do the facets meet where the film meets the world? The overlap of the dots as they are, with their neighbours in
# the plane, layer by layer:

# %%
overlaps, overlap_excess = orientation_models.layer_overlap(dots, rotations, blocks, facet_nm=facet, **options_alone)
print(
    f"bottom and top less interior: {overlap_excess.value:.3f} ({overlap_excess.low:.3f} to {overlap_excess.high:.3f})"
)
overlaps.round(3)

# %% [markdown]
# ## Displacements
#
# Along A, B, C, which are (100), (010), (001) of the superlattice, and along the film normal. The error of the
# centres is removed in quadrature; the fit of the lattice has used up four parameters a coordinate.

# %%
spread = {d: trapping.displacement_sd(table, d, blocks, **options) for d in trapping.DIRECTIONS}
pd.DataFrame({d: {"raw": s["raw"].value, **s["clean"].as_result()} for d, s in spread.items()})

# %% [markdown]
# ## Layer by layer (Fig. 5)

# %%
layers = trapping.layer_table(table, near, rotations, blocks, **options)
inner = ~table["at_edge"].to_numpy(bool)
layers_inner = trapping.layer_table(table[inner], near[:0], rotations[inner], blocks[inner], n_resamples=20, rng=rng)
names = ["misorientation_deg", *[f"displacement_sd_{d}_nm" for d in trapping.DIRECTIONS]]
layers = layers.merge(layers_inner[["layer", *names]], on="layer", how="left", suffixes=("", "_inner"))
results.write_table(run_dir, "layer_trapping.csv", layers)
layers[["layer", "n", *names]].round(3)

# %%
fig = analysis_figures.trapping(table, layers)
saved = results.save_figure(fig, run_dir, "fig_5_trapping", {"dots": table, "layers": layers})
# %% [markdown]
# (a) Every dot, and the raw mean of its layer with its 95 % interval. (b) Displacements of all dots. (c) Their sd in each
# layer, the noise that the half sets see taken off. Without the dots at the edge:

# %%
layers[["layer", *[f"{name}_inner" for name in names]]].round(3)

# %% [markdown]
# Are the surface layers the narrowest? The mean sd of the interior layers less that of the bottom and the top layer,
# each direction with its interval:

# %%
contrast = {d: trapping.interior_contrast(layers, f"displacement_sd_{d}_nm") for d in trapping.DIRECTIONS}
contrast["misorientation"] = trapping.interior_contrast(layers, "misorientation_raw_deg")
pd.DataFrame({d: e.as_result() for d, e in contrast.items()})

# %% [markdown]
# Is the displacement largest along C? Is the misorientation not larger inside, but wider? Its width in a layer is that of
# the central 95 % of a Gaussian, 3.92 sd.

# %%
wider = trapping.width_contrast(table, blocks, **options_alone)
along_c = {d: trapping.displacement_difference(table, ("c", d), blocks, **options_alone) for d in "ab"}
further = {"c less a (nm)": along_c["a"], "c less b (nm)": along_c["b"], "width inside less outside (°)": wider}
pd.DataFrame({name: e.as_result() for name, e in further.items()})

# %% [markdown]
# ## Exercises
#
# 1. Fit the lattice by plain least squares, without the weights. Does any sd change?

# %% tags=["solution"]
plain_cell, _, plain = trapping.fit_lattice(xyz, dots[dot_tables.INDICES].to_numpy(), iterations=1)
plain_table = trapping.dot_table(dots, rotations, mono, plain_cell, plain)
pd.DataFrame(
    {"robust": table.filter(like="displacement_").std(), "plain": plain_table.filter(like="displacement_").std()}
).round(4)

# %% [markdown]
# 2. Is a dot that is far from its site also far from $R_\mathrm{mono}$?

# %% tags=["solution"]
far = np.linalg.norm(displacement, axis=1)
both = np.isfinite(table["misorientation_deg"])
print(
    f"correlation of distance and misorientation: {np.corrcoef(far[both], table['misorientation_deg'][both])[0, 1]:.2f}"
)

# %% [markdown]
# ## What is kept

# %%
values = [
    results.value("mono_misorientation_mean_deg", unit="deg", **misorientation.as_result()),
    results.value("mono_misorientation_fixed_deg", unit="deg", **fixed["mean"].as_result()),
    results.value("mono_misorientation_raw_deg", unit="deg", **fixed["mean_raw"].as_result()),
    results.value("mono_misorientation_rms_deg", unit="deg", **fixed["rms"].as_result()),
]
for direction, found in spread.items():
    values.append(results.value(f"displacement_sd_{direction}_nm", unit="nm", **found["clean"].as_result()))
    values.append(results.value(f"displacement_sd_raw_{direction}_nm", unit="nm", **found["raw"].as_result()))
    values.append(
        results.value(f"displacement_interior_excess_{direction}_nm", unit="nm", **contrast[direction].as_result())
    )
values.append(
    results.value("mono_misorientation_interior_excess_deg", unit="deg", **contrast["misorientation"].as_result())
)
values += [
    results.value(f"displacement_c_minus_{d}_nm", unit="nm", **found.as_result()) for d, found in along_c.items()
]
values.append(results.value("mono_misorientation_width_interior_excess_deg", unit="deg", **wider.as_result()))
for name in (
    *("pearson_mono", "pearson_local", "pearson_joint", "pearson_directions", "pearson_mono_minus_local"),
    *("pearson_mono_minus_joint", "pearson_mono_minus_directions", "local_slope", "directions_slope"),
):
    values.append(results.value(name, unit="", **models[name].as_result()))
values.append(results.value("overlap_in_plane_surface_excess", unit="", **overlap_excess.as_result()))
for index, found in statistics.layer_estimates(overlaps, "overlap_fraction"):
    values.append(results.value("overlap_fraction", unit="", index=index, **found.as_result()))
for name, column, unit in (
    ("mono_misorientation_mean_deg", "misorientation_deg", "deg"),
    *[(f"displacement_sd_{d}_nm", f"displacement_sd_{d}_nm", "nm") for d in trapping.DIRECTIONS],
):
    for index, found in statistics.layer_estimates(layers, column):
        values.append(results.value(name, unit=unit, index=index, **found.as_result()))
for row in layers.to_dict("records"):
    ends = [row["low_deg"], row["high_deg"]]
    reason = None if np.isfinite(ends).all() else "too few orientations"
    values.append(
        results.value("mono_misorientation_range_deg", ends, "deg", index=f"C{row['layer']}", n=row["n"], reason=reason)
    )
results.record(run_dir, "07_kinetic_trapping", values)

# %% [markdown]
# **Next:** [08_report](08_report.ipynb) sets every result beside the paper, and beside the truth where there is one.
