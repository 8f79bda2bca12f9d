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
# # 05 · The mesoscale: planarity, necks, spread of orientations
#
# **The question.** How good a crystal is the superlattice: how flat are its layers, how even its necks,
# and do the atomic lattices keep better order than the positions of the dots?
#
# It answers for Figs. 2d, 2e and 3 of the paper, Fig. S12, and the numbers of tables S2 and S3 that
# concern layers.

# %% [markdown]
# **You will learn** to measure the flatness of a layer without counting the error of the measurement
# as roughness, and why an interval must not treat neighbouring dots as independent.
#
# **You need** `centres.csv` and `superlattice.json` of step 02; `necks.csv`, `orientations.csv` and
# `defects.csv` where there are any. **It takes** about ten seconds.

# %%
import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.analysis import dots as dot_tables
from mesotomo_utils.analysis import layers as layer_means
from mesotomo_utils.analysis import mesoscale, moments, statistics, trapping
from mesotomo_utils.analysis import necks as neck_tables
from mesotomo_utils.visualization import analysis_figures, figures
from mesotomo_utils.workflow import results

figures.use_style()

# %% tags=["parameters"]
sample = "runs/small/input/sample.yaml"  # the sample file of the run
run_dir = "runs/small"  # the run folder
device = "auto"  # not used here: tables are small
n_resamples = 500  # bootstrap draws for each interval
seed = 5  # of the bootstrap, not of the sample
equivalence_margin_sd = 0.5  # smaller differences count as none, in standard deviations

# %% [markdown]
# ## What there is
#
# The dots of the largest grain, with their lattice indices; their orientations if the atomic lattice
# could be seen.

# %%
orientations, necks, defects = (
    results.read_table(run_dir, name) if results.exists(run_dir, name) else None
    for name in ("orientations.csv", "necks.csv", "defects.csv")
)
dots = dot_tables.join(results.read_table(run_dir, "centres.csv"), orientations)
dots.head()

# %%
cell = dot_tables.mean_cell(results.read_json(run_dir, "superlattice.json"))
necks = neck_tables.none() if necks is None else necks
rotations = dot_tables.rotations(dots, cell)
oriented = int(np.isfinite(rotations).all((1, 2)).sum())
print(
    f"{len(dots)} dots in {dots['layer'].nunique()} layers, {oriented} with an orientation, {len(necks)} neighbour pairs"
)

# %% [markdown]
# ## The frame of the film
#
# Layers are flat about the film normal $n = A \times B / |A \times B|$, which is measured and not
# assumed to be the axis of the needle. The film frame has $\hat A$, $n \times \hat A$ and $n$ as its axes.

# %%
frame = lattice.film_frame(cell)
xyz = dot_tables.positions(dots)
film = xyz @ frame
layer = dots["layer"].to_numpy()
print(f"film normal {frame[:, 2].round(4)}, {lattice.angle_deg(frame[:, 2], [0, 0, 1]):.2f}° from the tilt axis")

# %% [markdown]
# ## Columns for the intervals
#
# A dot that is displaced pulls its neighbours along. Drawing single dots again and again would count each of them as
# new evidence, and blocks cut off neighbours at their rims, where most dots of a needle stand. So every column of dots,
# through all layers, counts more or less by a random number, which columns at a distance of $d$ spacings share by
# $K = e^{-d^2/2\rho^2}$, $\rho = 1.5$, less where there are few columns (the dependent wild bootstrap). We give
# $\hat s \pm t_{B-1}\,\sigma_\mathrm{boot}\sqrt{B/(B-1)}$, where $B = N^2/\sum K$ is the number of independent columns.

# %%
rng = np.random.default_rng(seed)
spacing_nm = np.linalg.norm(cell[:, :2], axis=0).mean()
blocks = statistics.places(film[:, :2], spacing_nm=spacing_nm)
print(f"{len(dots)} dots count like {statistics.n_blocks(blocks):.1f} independent columns")

# %% [markdown]
# ## Planarity (Fig. 2d)
#
# In each layer the plane $h = p + q\,x + r\,y$ is fitted and removed. A Gaussian is fitted to what
# remains, by maximum likelihood, so that no bins are chosen. The error of the heights themselves
# is removed in quadrature, as far as the half sets see it; the errors that both halves share (notebook 02)
# stay in the width:
#
# $$ \mathrm{FWHM}^2 = 8\ln 2\,\Big(\frac{\sum_i h_i^2}{N-3} - \langle\sigma_h^2\rangle\Big). $$

# %%
sigma_height = dot_tables.sigma_along(dots, frame[:, 2])
options = {"n_resamples": n_resamples, "rng": rng}
planarity = mesoscale.layer_widths(film[:, 2], film[:, :2], layer, sigma_nm=sigma_height, blocks=blocks, **options)
planarity.round(3)

# %%
# The dots at the edge were cut when the needle was made; the same widths without them.
inner = ~dots["at_edge"].to_numpy(bool)
planarity_inner = mesoscale.layer_widths(
    film[inner, 2],
    film[inner, :2],
    layer[inner],
    sigma_nm=sigma_height[inner],
    blocks=blocks[inner],
    **options,
)
widths = planarity.merge(planarity_inner[["layer", "fwhm_nm"]].rename(columns={"fwhm_nm": "fwhm_inner_nm"}), how="left")

# %% [markdown]
# **A case whose answer is known.** Two thousand heights of 1.00 nm FWHM on a tilted plane, measured with an
# error of 0.3 nm: raw the layer looks 1.22 nm thick, and 1.00 nm when the error is taken off.

# %%
xy = rng.uniform(-30, 30, (2000, 2))
heights = rng.normal(0, 1 / statistics.FWHM_PER_SD, 2000) + xy @ [0.03, -0.02] + rng.normal(0, 0.3, 2000)
known = mesoscale.layer_widths(
    heights, xy, np.ones(2000, int), sigma_nm=np.full(2000, 0.3), blocks=np.arange(2000) // 4, **options
)
known[["fwhm_raw_nm", "fwhm_nm", "fwhm_nm_low", "fwhm_nm_high"]].round(3)

# %%
height_table = pd.DataFrame({"qd": dots["qd"], "layer": layer})
for number in np.unique(layer):
    rows = layer == number
    height_table.loc[rows, "height_nm"] = film[rows, 2] - mesoscale.plane_values(film[rows, 2], film[rows, :2])
fig = analysis_figures.planarity(height_table, widths)
saved = results.save_figure(fig, run_dir, "fig_2d_planarity", {"heights": height_table, "layers": widths})
# %% [markdown]
# Rings: raw widths; where they surround the dots, noise adds next to nothing. Diamonds: without the dots at the edge.
#
# Another choice: the line through the probability plot of the heights, which a few outliers do not
# move. Where it is much narrower than the maximum-likelihood width, a layer has stragglers.

# %%
variants = height_table.groupby("layer")["height_nm"].agg(quantiles=mesoscale.quantile_fwhm)
flatness = trapping.interior_contrast(planarity, "fwhm_nm")
print(f"interior layers less C1 and the top layer: {flatness.value:.3f} nm, [{flatness.low:.3f}, {flatness.high:.3f}]")
variants.join(widths.set_index("layer")[["fwhm_raw_nm"]]).round(3)

# %% [markdown]
# ## Widths of the (100) and (010) planes (Fig. S12)
#
# The same, across the rows of dots within a layer: the position along the normal of (100), less a linear
# function of the indices. The slope over the layers says whether the width changes through the film. A change that is
# alike at both surfaces has no slope: for that the mean of the interior layers less that of bottom and top, without noise.

# %%
normals = np.linalg.inv(cell)[:2] / np.linalg.norm(np.linalg.inv(cell)[:2], axis=1, keepdims=True)
planes = pd.concat(
    [
        mesoscale.layer_widths(
            xyz @ normal,
            dots[["i", "j"]].to_numpy(float),
            layer,
            sigma_nm=dot_tables.sigma_along(dots, normal),
            blocks=blocks,
            **options,
        ).assign(plane=name)
        for name, normal in zip(("100", "010"), normals)
    ]
)
fig = analysis_figures.plane_widths(planes)
saved = results.save_figure(fig, run_dir, "fig_s12_plane_widths", planes)
# %%
plane_slopes = {
    name: statistics.weighted_slope(own["layer"], own["fwhm_raw_nm"], own["fwhm_raw_nm_sigma"])
    for name, own in planes.groupby("plane")
}
plane_contrast = {name: trapping.interior_contrast(own, "fwhm_nm") for name, own in planes.groupby("plane")}
pd.DataFrame(
    {f"({name}) slope": s.as_result() for name, s in plane_slopes.items()}
    | {f"({name}) interior less surface": c.as_result() for name, c in plane_contrast.items()}
)

# %% [markdown]
# ## Necks (Fig. 2e)
#
# A pair of neighbours counts as joined where step 02 found a neck of any diameter. C pairs join a
# layer to the one above and are drawn between the two.

# %%
pairs = neck_tables.place(necks, dots)
neck_layers = neck_tables.by_layer_and_axis(pairs, blocks, **options)
connectivity = neck_tables.connectivity(pairs, blocks, **options)
diameter = neck_tables.diameters(pairs, blocks, **options)
neck_layers.round(3).head(8)

# %%
fig = analysis_figures.neck_diameters(neck_layers)
saved = results.save_figure(fig, run_dir, "fig_2e_necks", neck_layers)
# %% [markdown]
# The paper finds even diameters from C1 to C6 and thinner necks above. A straight line, each direction
# about its own mean, over the lower and over the upper layers:

# %%
slopes = {ends: neck_tables.slope(pairs, *ends, blocks, **options) for ends in ((1, 6), (6, 9))}
pd.DataFrame({f"C{a} to C{b}": s.as_result() for (a, b), s in slopes.items()})

# %% [markdown]
# ## Spread of the orientations (Fig. 3)
#
# The paper gives spreads (3.7°, 11.3°, 9.4°, 14.2°) without saying what a spread is. Ours: azimuth (in
# the film plane) and elevation (out of it) of **a** and **b**, each about its own mean direction, pooled; the
# width that holds the central 95 %. For the superlattice the directions to the +A and +B neighbours.

# %%
neighbour_pairs = dot_tables.neighbour_pairs(dots)
sl = [mesoscale.neighbour_directions(xyz, neighbour_pairs, axis) for axis in "AB"]
tables = {
    "AL": mesoscale.direction_table(rotations[:, :, 0], rotations[:, :, 1], frame=frame, layer=layer),
    "SL": mesoscale.direction_table(*sl, frame=frame, layer=layer),
}
directions = pd.concat([table.assign(kind=kind) for kind, table in tables.items()], ignore_index=True)
fig = analysis_figures.orientation_spread(directions)
saved = results.save_figure(fig, run_dir, "fig_3_spread", directions)
# %% [markdown]
# Errors of measurement widen both. A rotation error of σ (rms) gives each angle σ/√3; an error of the two
# centres of a pair gives √2 σ/d. Their widths are taken off in quadrature, which is exact for Gaussians.

# %%
noise_al = np.sqrt(moments.noise_variance(dots["sigma_deg"]) / 3)
noise_nm = np.sqrt(moments.noise_variance(dots[dot_tables.SIGMA].to_numpy().ravel()))
noise = {"AL": noise_al, "SL": np.degrees(np.sqrt(2) * noise_nm / spacing_nm)}
spread = {
    kind: mesoscale.direction_spread(table, noise_deg=noise[kind], blocks=blocks, **options)
    for kind, table in tables.items()
}
spread_table = mesoscale.spread_summary(spread)
spread_table.round(2)

# %% [markdown]
# Is the order of the atomic lattices better than that of the positions, and better within a layer than over
# all? Both ratios are below one if so. The noise that the half sets see is off numerator and denominator.

# %%
al_to_sl = mesoscale.spread_ratio(spread["AL"], spread["SL"])
sigma_deg = dots["sigma_deg"].to_numpy(float)
within = layer_means.within_to_global(rotations, layer, sigma_deg=sigma_deg, blocks=blocks, **options)
pd.DataFrame({"AL / SL": al_to_sl.as_result(), "within layer / all": within.as_result()})

# %% [markdown]
# ## The layers roll and turn
#
# The rotation from the mean of all dots to the mean of a layer, split into a roll about an axis in the film
# plane and a turn about the film normal. And the angle of the dots' c axes to the film normal, rms without noise: the
# paper finds it least in C1 and C9, so the interior layers less these two would be above zero.

# %%
means = layer_means.layer_orientations(rotations, layer, frame=frame, sigma_deg=sigma_deg)
c_axes = layer_means.c_axis_angles(rotations, layer, normal=frame[:, 2], sigma_deg=sigma_deg, blocks=blocks, **options)
means = means.merge(c_axes.drop(columns="n_oriented"), on="layer")
fig = analysis_figures.layer_orientation(means)
results.save_figure(fig, run_dir, "fig_3_layers", means)
normal = frame[:, 2]
roll = layer_means.layer_roll(rotations, layer, [2], [6], normal=normal, blocks=blocks, **options)
turn = layer_means.layer_roll(rotations, layer, [2, 3, 4, 5, 6], [7, 8, 9], normal=normal, blocks=blocks, **options)
print(f"axis of the roll in the crystal: {roll['axis'].round(3)}")
c_contrast = trapping.interior_contrast(means, "c_to_normal_deg")
pd.DataFrame(
    {
        "roll, C2 to C6": roll["roll"].as_result(),
        "turn, C2–C6 to C7–C9": turn["turn"].as_result(),
        "c axes to n, interior less surface": c_contrast.as_result(),
    }
)

# %% [markdown]
# ## Are dots beside a vacancy looser?
#
# Dots beside a vacancy are compared with dots that have six neighbours, within each layer. That a difference is
# not significant does not make two groups the same. So we ask whether the 90 % interval of the difference lies
# within a margin that we call no difference: two one-sided tests at 5 %.

# %%
beside = dot_tables.beside_vacancy(dots, defects) if defects is not None else np.zeros(len(dots), bool)
six = dot_tables.neighbour_count(dots, neighbour_pairs) == 6
displacement = np.linalg.norm(trapping.fit_lattice(xyz, dots[dot_tables.INDICES].to_numpy())[2], axis=1)
looseness = {"deg": layer_means.from_layer_mean(rotations, layer), "nm": displacement}
vacancy = {
    unit: statistics.equivalence(
        np.where(beside | six, values, np.nan),
        beside,
        layer,
        blocks,
        margin=equivalence_margin_sd * float(np.nanstd(values)) if np.isfinite(values).any() else np.nan,
        **options,
    )
    for unit, values in looseness.items()
}
pd.DataFrame(vacancy).T[["n_marked", "low_90", "high_90", "margin", "verdict"]]

# %% [markdown]
# ## Exercises
#
# 1. How much smaller would the σ of the planarity be, were every dot its own column? (Neighbours share their heights
#    only in part and the squares of them less: by a tenth on average over the layers of `paper`. In a slim needle there
#    are few columns, and the answer scatters about 1.)

# %% tags=["solution"]
single = mesoscale.layer_widths(
    film[:, 2], film[:, :2], layer, sigma_nm=sigma_height, blocks=np.arange(len(dots)), **options
)
(planarity["fwhm_raw_nm_sigma"] / single["fwhm_raw_nm_sigma"]).round(2).rename("columns / single dots")

# %% [markdown]
# 2. The spread as standard deviation instead of central 95 % width: does the ratio AL / SL change?

# %% tags=["solution"]
by_sd = spread_table.pivot(index="kind", columns="direction", values="sd_deg")
(by_sd.loc["AL"] / by_sd.loc["SL"]).round(3)

# %% [markdown]
# ## What is kept
#
# `layers.csv` has one row for each layer. A value that this sample cannot give is null, with its reason.

# %%
whole = neck_layers[neck_layers["axis"] == "all"].drop(columns=["axis", "diameter_sd_nm"])
layers = widths.merge(means, on="layer").merge(whole, on="layer", how="left")
results.write_table(run_dir, "layers.csv", layers)
values = [
    results.value("al_to_sl_spread", **al_to_sl.as_result()),
    results.value("within_layer_to_global_spread", **within.as_result()),
    results.value("layer_tilt_c2_c6_deg", unit="deg", **roll["roll"].as_result()),
    results.value("in_plane_turn_c7_c9_deg", unit="deg", **turn["turn"].as_result()),
    results.value("neck_slope_c1_c6", unit="nm per layer", **slopes[1, 6].as_result()),
    results.value("neck_slope_c6_c9", unit="nm per layer", **slopes[6, 9].as_result()),
    results.value("neck_diameter_mean_nm", unit="nm", **diameter["mean"].as_result()),
    results.value("neck_diameter_sd_nm", unit="nm", **diameter["sd"].as_result()),
    results.value("neck_diameter_sd_raw_nm", unit="nm", **diameter["sd_raw"].as_result()),
]
for kind, part in [(kind, part) for kind in spread for part in ("in_plane", "out_of_plane")]:
    name = f"{kind.lower()}_spread_{part}"
    values.append(results.value(f"{name}_deg", unit="deg", **spread[kind][part]["clean"].as_result()))
    values.append(results.value(f"{name}_raw_deg", unit="deg", **spread[kind][part]["raw"].as_result()))
for unit, found in vacancy.items():
    values.append(results.value(f"vacancy_difference_{unit}", unit=unit, **found["difference"].as_result()))
    ends, why = [found["low_90"], found["high_90"]], "too few dots beside a vacancy"
    values.append(results.value(f"vacancy_difference_90_{unit}", ends, unit, n=found["n_marked"], reason=why))
    values.append(results.value(f"vacancy_margin_{unit}", found["margin"], unit, reason="no orientations"))
for name, slope in plane_slopes.items():
    values.append(results.value(f"plane_width_{name}_slope", unit="nm per layer", **slope.as_result()))
    values.append(
        results.value(f"plane_width_{name}_interior_excess_nm", unit="nm", **plane_contrast[name].as_result())
    )
values.append(results.value("planarity_interior_excess_nm", unit="nm", **flatness.as_result()))
values.append(results.value("c_axis_interior_excess_deg", unit="deg", **c_contrast.as_result()))
for name, table, column, unit in (
    ("planarity_fwhm_nm", planarity, "fwhm_nm", "nm"),
    ("planarity_fwhm_raw_nm", planarity, "fwhm_raw_nm", "nm"),
    ("planarity_fwhm_inner_nm", planarity_inner, "fwhm_nm", "nm"),
    ("connectivity", whole, "connectivity", ""),
    ("neck_diameter_mean_nm", whole, "diameter_mean_nm", "nm"),
):
    for index, found in statistics.layer_estimates(table, column):
        values.append(results.value(name, unit=unit, index=index, **found.as_result()))
for row in neck_layers[neck_layers["axis"] != "all"].to_dict("records"):
    lost = neck_tables.untold(pairs[pairs["axis"] == row["axis"]]) or "fewer than two necks"
    found = statistics.row_estimate(row, "diameter_mean_nm", "n_necks", reason=lost)
    index = f"C{row['layer']}/{row['axis']}"
    values.append(results.value("neck_diameter_mean_nm", unit="nm", index=index, **found.as_result()))
for row in means.to_dict("records"):
    found = statistics.row_estimate(row, "c_to_normal_deg", "n_oriented", reason="no orientations or no errors")
    values.append(results.value("c_axis_to_normal_deg", unit="deg", index=f"C{row['layer']}", **found.as_result()))
results.record(run_dir, "05_mesoscale", values)

# %% [markdown]
# **Next:** [06_neighbours](06_neighbours.ipynb) asks how each dot is turned against its neighbours, and about
# which axis.
