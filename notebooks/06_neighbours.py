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
# # 06 · Neighbours: about which axis, how far, and how much disorder
#
# **The question.** How is each dot turned against its neighbours? Is there an axis that all of them share, do the
# necks bend or twist, and which layers are the least ordered?
#
# It answers for Fig. 4 of the paper (its SI 7 and 8).

# %% [markdown]
# **You will learn** why noise must be taken off second moments and never off single angles, and how to
# compute the entropy of ten thousand orientations from a matrix of nine by nine.
#
# **You need** `centres.csv`, `orientations.csv`, `superlattice.json`, and `layers.csv` of step 05. **It
# takes** about ten seconds.

# %%
import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.analysis import dots as dot_tables
from mesotomo_utils.analysis import entropy, mesoscale, moments, neighbours, statistics
from mesotomo_utils.visualization import analysis_figures, figures
from mesotomo_utils.workflow import results

figures.use_style()

# %% tags=["parameters"]
sample = "runs/small/input/sample.yaml"  # the sample file of the run
run_dir = "runs/small"  # the run folder
device = "auto"  # not used here: tables are small
n_resamples = 300  # bootstrap draws for each interval
seed = 6  # of the bootstrap, not of the sample

# %% [markdown]
# ## What there is
#
# The dots of the largest grain and their orientations, of the 24 equivalents the one that follows the
# superlattice.

# %%
dots = dot_tables.join(results.read_table(run_dir, "centres.csv"), results.read_table(run_dir, "orientations.csv"))
cell = dot_tables.mean_cell(results.read_json(run_dir, "superlattice.json"))
planarity = results.read_table(run_dir, "layers.csv")
rotations = dot_tables.rotations(dots, cell)
dots[["qd", "i", "j", "k", "layer", "sigma_deg"]].describe().loc[["count", "min", "max"]]

# %%
frame = lattice.film_frame(cell)
film = dot_tables.positions(dots) @ frame
rng = np.random.default_rng(seed)
blocks = statistics.places(film[:, :2], spacing_nm=np.linalg.norm(cell[:, :2], axis=0).mean())
options = {"n_resamples": n_resamples, "rng": rng}

# %% [markdown]
# ## Pairs
#
# For the dot $i$ and its $+A$, $+B$ or $+C$ neighbour $j$,
#
# $$ \delta_{ij} = \theta_{ij}\,\xi_{ij} \quad\text{is the rotation vector of}\quad R_i^T R_j $$
#
# in the crystal frame of $i$. The twist is $|\mathbf a\cdot\xi|$ for A pairs, $|\mathbf b\cdot\xi|$ for B, $|\mathbf c\cdot\xi|$ for C: zero where the
# rotation bends the neck, one where it twists it, one half on average for axes at random.

# %%
all_pairs = dot_tables.neighbour_pairs(dots)
pairs = neighbours.pair_table(rotations, all_pairs, dots["sigma_deg"].to_numpy(float))
print(f"{len(pairs)} of {len(all_pairs)} neighbour pairs have two orientations")
pairs.drop(columns=["row_1", "row_2", "layer"]).head().round(3)

# %% [markdown]
# ## How far: noise comes off the second moment
#
# Errors of the two orientations add $\sigma_i^2+\sigma_j^2$ to $\theta^2$ on average. The rms is corrected by that; the mean
# is moved by what the same noise does to normally distributed $\delta$ with the measured moments.

# %%
angles = {"all": neighbours.mean_angle(pairs, blocks, **options)}
for name, axes in (("in the layer", ["A", "B"]), ("to the next layer", ["C"])):
    angles[name] = neighbours.mean_angle(pairs[pairs["axis"].isin(axes)], blocks, **options)
pd.DataFrame({name: {k: e.value for k, e in found.items()} for name, found in angles.items()}).round(3)

# %% [markdown]
# **A case whose answer is known.** Orientations turned about one axis only, by 2° rms, and measured with errors of
# 0 to 3°: raw, the axis seems to carry less and less of the variance; corrected, it carries all.

# %%
test_axis = np.array([-1.0, 2.0, 0.0]) / np.sqrt(5)
table = []
for error_deg in (0.0, 1.0, 2.0, 3.0):
    turns = rng.normal(0, 2.0, (4000, 1)) * test_axis
    noisy = turns + rng.normal(0, error_deg / np.sqrt(3), (4000, 3))
    table.append(
        [error_deg] + [neighbours.common_axis(neighbours.second_moment(noisy, n))[1] for n in (0, error_deg**2)]
    )
pd.DataFrame(table, columns=["error (°)", "raw", "corrected"]).round(3)

# %% [markdown]
# ## About which axis
#
# The second moment $M = \langle\delta\delta^T\rangle - \tfrac13\langle\sigma_i^2+\sigma_j^2\rangle\,\mathbb 1$ has the common axis as the eigenvector of its largest
# eigenvalue; the share of the trace is the variance it explains (one third for no axis at all). The axis has no
# sign. It is compared with $[\bar 1 2 0]$, which the paper names, with $[110]$, and with the whole family
# $\langle 120\rangle$, since which member it is depends on the choice of equivalent.

# %%
common = neighbours.axis_and_variance(pairs, blocks, **options)
print(
    f"axis {common['axis'].round(3)} (raw {common['axis_raw'].round(3)}), 95 % of resamples within {common['axis_scatter_deg']:.1f}°"
)
pd.DataFrame({k: common[k].as_result() for k in ("variance", "variance_raw", "angle_120", "angle_110", "angle_family")})

# %% [markdown]
# ## Bend or twist
#
# A purely bent neck has twist zero. If all dots turn about $[\bar 1 2 0]$, A pairs have $1/\sqrt5 = 0.45$, B pairs
# $2/\sqrt5 = 0.89$ and C pairs 0.

# %%
twists = {axis: neighbours.twist(pairs, axis, blocks, **options) for axis in "ABC"}
twist_table = pd.DataFrame(
    [
        {
            "axis": a,
            "twist_raw": t["raw"].value,
            "twist": t["clean"].value,
            "low": t["clean"].low,
            "high": t["clean"].high,
        }
        for a, t in twists.items()
    ]
)
twist_table.round(3)

# %% [markdown]
# ## Entropy of the layers
#
# The von Neumann entropy (arXiv:2106.05379) of the orientations of a layer is
#
# $$ S = -\mathrm{Tr}\,\rho\ln\rho, \qquad \rho = K/n, \qquad K_{ij} = \tfrac13\,\mathrm{tr}(R_i^T R_j). $$
#
# $K = XX^T$ with the nine components of $R_i/\sqrt3$ as rows of $X$, so its eigenvalues are those of the 9 × 9 matrix
# $X^TX$. This form does not depend on any frame. The literal reading of the paper, the Pearson
# correlation of the nine components, depends on the frame in which they are written; here the film's.

# %%
same = entropy.entropy(np.broadcast_to(np.eye(3), (50, 3, 3)))
two = entropy.entropy(np.concatenate([np.tile(np.eye(3), (50, 1, 1)), np.tile(np.diag([1.0, -1, -1]), (50, 1, 1))]))
print(f"all alike: {abs(same):.3f};  two grains turned by 180°, tr/3 = −1/3: {two:.3f} = −(2/3)ln(2/3) − (1/3)ln(1/3)")

# %% [markdown]
# A larger layer has, on average, a larger entropy, so the same number of dots is drawn from each; noise is removed
# from the moment itself, part by part, before its eigenvalues are taken.

# %%
disorder = entropy.layer_disorder(pairs, rotations, dots, frame=frame, blocks=blocks, **options)
columns = [
    "layer",
    "n",
    "n_equal",
    "n_pairs",
    "theta_deg",
    "theta_c_deg",
    "spread_deg",
    "entropy",
    "entropy_raw",
    "entropy_pearson",
]
disorder[columns].round(4)

# %% [markdown]
# The same without the dots at the edge:

# %%
inner = entropy.layer_disorder(
    pairs, rotations, dots, frame=frame, blocks=blocks, inner_only=True, n_resamples=20, rng=rng
)
disorder = disorder.merge(inner[["layer", "theta_deg", "entropy"]], on="layer", how="left", suffixes=("", "_inner"))
disorder[["layer", "theta_deg", "theta_deg_inner", "entropy", "entropy_inner"]].round(4)

# %% [markdown]
# Entropy is nearly a function of the rms misorientation within the layer, and it should not be read as
# independent evidence:

# %%
correlation = entropy.correlation(disorder["theta_deg"], disorder["entropy"])
with_spread = entropy.correlation(disorder["spread_deg"], disorder["entropy"])
print(
    f"entropy with mean θ of the layer: {correlation.value:.3f};  with its rms misorientation: {with_spread.value:.3f}"
)

# %% [markdown]
# ## Is the maximum inside, and is the change gradual?
#
# If layers were exchangeable, how often would the two surface layers be as much more ordered than the
# interior as they are? All permutations are counted; with nine layers p cannot be below 1/36. The layer of the maximum
# is no number with a standard error: instead of one, all layers are named that may hold it at 95 % (Gupta's subset).

# %%
profile = disorder["entropy"].to_numpy(float)
measured = bool(np.isfinite(profile).all()) and len(profile) >= 3
inside = entropy.interior_maximum(profile) if measured else {"excess": np.nan, "p": np.nan}
most = int(disorder["layer"].iloc[int(np.argmax(profile))]) if measured else None
reach = (disorder["entropy_high"] - disorder["entropy_low"]).to_numpy(float) / 2
rows = entropy.layers_of_maximum(profile, reach, rng=np.random.default_rng([seed, 1]))
may_be = disorder["layer"].to_numpy()[rows].tolist()
inside | {"layer of the maximum": most, "may be": may_be}

# %% [markdown]
# Planarity jumps at the surfaces if the first step inwards covers its whole range (share 1); a profile
# that rises evenly to the middle covers a quarter (nine layers). The claim of the paper is that
# planarity does the one and orientation the other: a positive difference.

# %%
flat = planarity.set_index("layer").loc[disorder["layer"]]
steps = entropy.abrupt_against_gradual(
    flat["fwhm_nm"].to_numpy(float),
    flat["fwhm_nm_sigma"].to_numpy(float),
    disorder["theta_deg"].to_numpy(float),
    disorder["theta_deg_sigma"].to_numpy(float),
    rng=rng,
)
pd.DataFrame({name: e.as_result() for name, e in steps.items()})

# %% [markdown]
# ## Figure 4

# %%
points = mesoscale.stereographic(pairs[neighbours.DELTA].to_numpy(float))
plotted = pairs.assign(x=points[:, 0], y=points[:, 1])[["qd_1", "qd_2", "axis", "theta_deg", "twist", "x", "y"]]
marks = {"common axis": common["axis"]} | {n: np.array(v) for n, v in neighbours.REFERENCE_AXES.items()}
marked = pd.DataFrame(
    [[name, *mesoscale.stereographic(axis)[0]] for name, axis in marks.items() if np.isfinite(axis).all()],
    columns=["name", "x", "y"],
)

# %%
fig = analysis_figures.neighbours(plotted, disorder, marked, twist_table)
saved = results.save_figure(
    fig, run_dir, "fig_4_neighbours", {"pairs": plotted, "layers": disorder, "axes": marked, "twist": twist_table}
)
# %% [markdown]
# ## Exercises
#
# 1. Turn the whole sample by any rotation. Which numbers of this notebook change?

# %% tags=["solution"]
turned = lattice.axis_angle(np.array([1.0, 2.0, 3.0]), 0.7) @ rotations
again = neighbours.pair_table(turned, all_pairs, dots["sigma_deg"].to_numpy(float))
change = np.abs(again[neighbours.DELTA] - pairs[neighbours.DELTA]).to_numpy().max()
print(
    f"δ changes by at most {change:.1e}°: θ, axis, twist and entropy do not depend on the lab frame, the Pearson entropy does"
)

# %% [markdown]
# 2. Were the error of every orientation 1.9°, as the paper gives, and were it an rms error, what mean
#    misorientation would perfectly aligned neighbours show?

# %% tags=["solution"]
sigma = 1.9 * np.sqrt(2)
length = np.linalg.norm(moments.normal_vectors(np.eye(3) * sigma**2 / 3), axis=1).mean()
print(
    f"{length:.2f}° between neighbours; {length / np.sqrt(2):.2f}° from a perfect lattice, of the 2.5° that the paper gives"
)

# %% [markdown]
# ## What is kept

# %%
results.write_table(run_dir, "neighbours.csv", pairs.drop(columns=["row_1", "row_2", "layer"]))
results.write_table(run_dir, "layer_disorder.csv", disorder)
no_axis = common["variance"].reason or "no misorientation beyond the noise"
values = [
    results.value(
        "nn_axis", common["axis"], n=len(pairs), reason=None if np.isfinite(common["axis"]).all() else no_axis
    ),
    results.value(
        "nn_axis_scatter_deg",
        common["axis_scatter_deg"],
        "deg",
        n=len(pairs),
        reason=no_axis if np.isnan(common["axis_scatter_deg"]) else None,
    ),
    results.value("nn_axis_to_120_deg", unit="deg", **common["angle_120"].as_result()),
    results.value("nn_axis_to_110_deg", unit="deg", **common["angle_110"].as_result()),
    results.value("nn_axis_to_120_family_deg", unit="deg", **common["angle_family"].as_result()),
    results.value("nn_axis_variance", **common["variance"].as_result()),
    results.value("nn_axis_variance_raw", **common["variance_raw"].as_result()),
    results.value("theta_mean_deg", unit="deg", **angles["all"]["mean"].as_result()),
    results.value("theta_mean_raw_deg", unit="deg", **angles["all"]["mean_raw"].as_result()),
    results.value("theta_rms_deg", unit="deg", **angles["all"]["rms"].as_result()),
    results.value("theta_mean_in_layer_deg", unit="deg", **angles["in the layer"]["mean"].as_result()),
    results.value("theta_mean_c_deg", unit="deg", **angles["to the next layer"]["mean"].as_result()),
    results.value("entropy_theta_correlation", **correlation.as_result()),
    results.value(
        "entropy_max_layer",
        most,
        interval_95=[min(may_be), max(may_be)] if most and may_be else None,
        n=len(profile),
        reason=None if most else "a layer has no entropy",
    ),
    results.value(
        "entropy_interior_excess_p", inside["p"], n=len(profile), reason=None if most else "a layer has no entropy"
    ),
    results.value("abrupt_minus_gradual", **steps["difference"].as_result()),
]
for axis, found in twists.items():
    values.append(results.value(f"twist_{axis.lower()}", **found["clean"].as_result()))
    values.append(results.value(f"twist_{axis.lower()}_raw", **found["raw"].as_result()))
for name, column, unit in (
    ("theta_mean_deg", "theta_deg", "deg"),
    ("theta_mean_c_deg", "theta_c_deg", "deg"),
    ("entropy", "entropy", ""),
    ("entropy_raw", "entropy_raw", ""),
    ("entropy_pearson", "entropy_pearson", ""),
):
    for index, found in statistics.layer_estimates(disorder, column):
        values.append(results.value(name, unit=unit, index=index, **found.as_result()))
results.record(run_dir, "06_neighbours", values)

# %% [markdown]
# **Next:** [07_kinetic_trapping](07_kinetic_trapping.ipynb) measures how far every dot is from the perfect
# lattice.
