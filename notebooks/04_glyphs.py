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
# # 04 · Glyphs: the superlattice as cubes and sticks
#
# **The question.** Every quantum dot has a place, an orientation and necks. What does the whole look
# like, and which single orientation would suit all dots best?
#
# It answers for Fig. 2a–c and SI 4 of the paper: the glyph–stick scene, and the reference
# orientation $R_\mathrm{mono}$ that colours it.
#
# **You will learn** to compute the co-facial optimum of a triclinic cell and to see how sharp it is, and
# to lay a 3D scene exactly over a section of a tomogram.
#
# **You need** what step 02 left (centres, cell; necks where there are images) and, where the lattice
# was measured, the orientations of 03. **It takes** twenty to forty seconds, most of it for the pictures.

# %%
import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.analysis import cofacial, cofacial_cells, statistics
from mesotomo_utils.analysis import dots as dot_tables
from mesotomo_utils.tomography.tomogram import open_tomogram
from mesotomo_utils.visualization import (
    cofacial_figures,
    export,
    figures,
    glyph_figures,
    glyphs,
    sheet_figures,
    turning,
)
from mesotomo_utils.workflow import results
from mesotomo_utils.workflow.sample import load_sample

figures.use_style()

# %% tags=["parameters"]
sample = "runs/small/input/sample.yaml"  # the sample file of the run
run_dir = "runs/small"  # the run folder
device = "auto"  # not used here: nothing is computed on large arrays
facet_nm = None  # edge of the {100} facets, nm; None derives it from the size of a dot
tolerance = 0.01  # relative loss of overlap that still counts as near the optimum
n_resamples = 200  # bootstrap resamples for the error of the mean orientation
seed = 4  # of the bootstrap
renderer = "auto"  # auto, pyvista or matplotlib

# %% [markdown]
# ## What the earlier steps left
#
# One row for each dot that has a place on the superlattice. A sample that begins with bare centres has
# no orientations and no necks; its cubes are then grey and not turned.

# %%
given = load_sample(sample)
centres = results.read_table(run_dir, "centres.csv")
lattice_seen = given.material is not None and given.enters_as in ("tilt_series", "tomogram")
has_orientations = lattice_seen or results.exists(run_dir, "orientations.csv")
oriented = results.read_table(run_dir, "orientations.csv") if has_orientations else None
dots = dot_tables.join(centres, oriented)
dots.head()

# %% [markdown]
# The mean cell, lab vectors **A**, **B**, **C** of the grain that these dots belong to; and the neck between each two
# neighbours: diameter 0 where none was found, empty where none was looked for or could be told.

# %%
superlattice = results.read_json(run_dir, "superlattice.json")
grain = next(g for g in superlattice["grains"] if g["grain"] == dots["grain"].iloc[0])
cell = np.column_stack([grain[axis] for axis in "ABC"])
print({name: round(value, 3) for name, value in lattice.cell_parameters(cell).items()})
pairs = dot_tables.neighbour_pairs(dots)
if results.exists(run_dir, "necks.csv"):
    necks = results.read_table(run_dir, "necks.csv")[["qd_1", "qd_2", "diameter_nm"]]
    pairs = pairs.merge(necks, how="left", on=["qd_1", "qd_2"])
else:
    pairs["diameter_nm"] = np.nan
pairs.groupby("axis")["diameter_nm"].describe().round(2)

# %% [markdown]
# ## The orientation that suits all dots
#
# Let every dot be a cube of edge $f$, all turned alike by $R = (\mathbf a\ \mathbf b\ \mathbf c)$. The neighbour at **A**
# turns the same facet to us, displaced sideways by $\mathbf A\cdot\mathbf b$ and $\mathbf A\cdot\mathbf c$. Two such
# squares share
#
# $$ o_A = \frac{(f - |\mathbf A\cdot\mathbf b|)_+\,(f - |\mathbf A\cdot\mathbf c|)_+}{f^2}, $$
#
# likewise $o_B$ and $o_C$. $R_\mathrm{mono}$ maximises $(o_A + o_B + o_C)/3$ over all rotations. The paper's SI is not
# public, so this reading of it is ours.
#
# **The facet.** Where the sample gives the diameter $d$ of a dot, or step 02 has found another, $f = (\pi/6)^{1/3} d$:
# the edge of the cube that has the volume of a ball of that diameter. Where not, $d$ is the shortest distance between
# neighbours: balls that touch. Below, other facets are tried; the edge that step 02 measures, `dot_edge_nm`, can be given
# as `facet_nm`.

# %%
known_size = superlattice["dot_diameter_nm"] is not None
diameter_nm = superlattice["dot_diameter_nm"] if known_size else np.linalg.norm(cell, axis=0).min()
facet = facet_nm or cofacial.facet_edge(diameter_nm)
print(f"dot {diameter_nm:.2f} nm ({'given or found by 02' if known_size else 'from the cell'}), facet {facet:.2f} nm")

# %% [markdown]
# **A case whose answer is known.** In a cubic cell the cubes stand along the axes, face to face.

# %%
cubic = cofacial.optimal_orientation(6.0 * np.eye(3), facet_nm=facet)
assert np.allclose(cubic.R, np.eye(3), atol=1e-6)
assert np.isclose(cubic.overlap_fraction, 1.0)
print(f"cubic cell: overlap {cubic.overlap_fraction:.3f}, turned by {lattice.rotation_angle_deg(cubic.R):.4f}°")

# %% [markdown]
# Now the measured cell. The table: the angle of each facet normal to its superlattice vector, and the
# overlap of that pair of facets.
#
# **How sharp is it?** Not very. Orientations that lose no more than 1 % of the overlap reach
# several degrees away, and the polar rotation of the cell, which knows no facets, is another answer
# again. Whatever is measured from $R_\mathrm{mono}$ inherits this.

# %%
mono = cofacial.optimal_orientation(cell, facet_nm=facet, tolerance=tolerance)
mismatch = lattice.angle_deg(mono.R.T, cell.T)
from_polar_deg = float(lattice.rotation_angle_deg(mono.polar.T @ mono.R))
print(f"overlap {mono.overlap_fraction:.3f} (mean of three pairs)")
print(f"orientations within {100 * tolerance:g} % reach {mono.largest_angle_deg:.1f}° away")
print(f"polar rotation of the cell: {from_polar_deg:.1f}° away")
pd.DataFrame({"pair": list("ABC"), "facet_to_vector_deg": mismatch, "overlap": mono.overlap}).round(3)

# %% [markdown]
# ## Other facets, other cells
#
# Does another choice of facet move the optimum (`from_reference_deg`)? Often it does not: the overlap has kinks where
# an offset is zero, and the optimum sits where three of them meet. A larger facet overlaps more and cares less.

# %%
facets_nm = {"used": facet, "diameter": diameter_nm, "touching cubes": np.linalg.norm(cell, axis=0).min()}
cofacial.overlap_by_facet(cell, facets_nm=facets_nm, reference=mono.R).round(3)

# %% [markdown]
# After table S3: one angle of the cell changes, the others stay. The more the cell leans, the more
# facets must miss one another, and the optimum sacrifices one pair for the others. `turn_x`, `_y`, `_n`: the
# rotation vector that takes a, b, c from the film's axes (x along A, n the normal) to $R_\mathrm{mono}$. In the
# pictures, grey is our facet, the outline the neighbour's, colour what they share; in brackets the edges across and up.

# %%
table_s3 = cofacial_cells.overlap_by_angle(cell, facet_nm=facet)
squares = cofacial_cells.facing_squares(cell, table_s3, facet_nm=facet)
fig = cofacial_figures.squares_figure(squares, facet_nm=facet)
saved = results.save_figure(fig, run_dir, "table_s3", {"optimum": table_s3, "squares": squares})
table_s3.round(2)

# %% [markdown]
# **Fig. S4.** Left: all dots turn away from $R_\mathrm{mono}$ about the axis of the longest reach of the set, and
# about one at right angles to it; the band is 1 % wide. Look for a gentle slope one way and a ridge the
# other. Middle and right: table S3.

# %%
profile = cofacial.overlap_profile(mono, cell)
fig = cofacial_figures.optimum_figure(profile, table_s3, tolerance=tolerance)
saved = results.save_figure(fig, run_dir, "fig_s4_cofacial", {"profile": profile, "table_s3": table_s3})

# %% [markdown]
# ## The measured orientations beside it
#
# Each orientation is first brought to the one of its 24 equivalents that follows the superlattice; then
# they can be averaged.

# %%
R = dot_tables.rotations(dots, cell)
measured = np.isfinite(R).all(axis=(1, 2))
misorientation_deg = np.full(len(dots), np.nan)
misorientation_deg[measured] = lattice.disorientation_deg(R[measured], mono.R)
print(f"{measured.sum()} of {len(dots)} dots have an orientation")

# %% [markdown]
# How far is the mean of the dots from $R_\mathrm{mono}$? In its error columns of dots side by side vary
# together, since neighbours resemble one another; the interval reaches over the whole near-optimum set, whose
# members the cell alone cannot tell apart. So ask also how near the mean comes to any of them.

# %%
frame = lattice.film_frame(cell)
in_plane_nm = (dot_tables.positions(dots) @ frame)[:, :2]
blocks = statistics.places(in_plane_nm, spacing_nm=float(np.linalg.norm(cell[:, 0])))
rng = np.random.default_rng(seed)
mono_vs_mean, nearest_deg = cofacial.angle_to_mean(R, mono, blocks, n_resamples=n_resamples, rng=rng)
print(f"mean orientation to R_mono {mono_vs_mean.value:.2f}°, to the nearest near-optimum one {nearest_deg:.2f}°")
pd.Series(mono_vs_mean.as_result(), name="mean to R_mono (°)", dtype=object).to_frame()

# %% [markdown]
# ## The scene
#
# Cuboids whose faces are the {100} planes of each dot, coloured by their angle to $R_\mathrm{mono}$; sticks as thick
# as the necks. Both are drawn smaller than life, cubes at three quarters and sticks at half, so that one
# sees between them.

# %%
scene = glyph_figures.make_scene(
    dots, pairs, R=R, misorientation_deg=misorientation_deg, cell=cell, frame=frame, edge_nm=facet
)
drawn_by = glyphs.choose_renderer(renderer)
print(f"drawn by {drawn_by}")
if drawn_by == "matplotlib":
    print("the same scene without VTK:", "as asked" if glyphs.renderer_forced(renderer) else glyphs.INSTALL_LINE)
if not measured.any():
    print("no orientations: the cubes are grey and not turned")

# %% [markdown]
# **Fig. 2a.** The superlattice, and its odd layers pulled apart along the film normal. Look for colours that
# change from layer to layer, and for layers where they vary most.

# %%
shown = dots[["qd", "x_nm", "y_nm", "z_nm", "layer"]].assign(misorientation_deg=misorientation_deg)
plotted = {"dots": shown, "necks": pairs[["qd_1", "qd_2", "axis", "diameter_nm"]]}
fig, _ = glyph_figures.exploded_figure(scene, renderer=drawn_by)
saved = results.save_figure(fig, run_dir, "fig_2a", plotted)

# %% [markdown]
# **The same scene turns** where this page is alive, in JupyterLab or a browser: drag it, and pull its layers apart.
# A very large scene is cut to the middle of all layers there, and says so. Where nothing can turn, it stands still.

# %%
turning_scene = turning.interactive(scene, title=f"{given.name}: dots and necks", renderer=drawn_by)
turning_scene

# %% [markdown]
# **All layers, from above** (after SI 4). Look from C1 to Cn: where do the colours change, where do the cubes turn, and
# do thin necks stand together?

# %%
located = shown.assign(i=dots["i"], j=dots["j"], k=dots["k"])
in_planes = plotted | {"dots": located}
fig, _ = sheet_figures.layers_figure(scene, renderer=drawn_by)
saved = results.save_figure(fig, run_dir, "fig_s4_layers", in_planes)

# %% [markdown]
# **All sheets from the side**, C1 at the bottom: the (100) sheets, each of one i, and the (010) sheets, each of one j.
# Look for colours that run along a layer rather than up a column.

# %%
fig, _ = sheet_figures.sheets_figure(scene, renderer=drawn_by)
saved = results.save_figure(fig, run_dir, "fig_s4_sheets", in_planes)

# %% [markdown]
# ## Over the tomogram
#
# The pictures use parallel projection, so one scale in nm holds for scene and section alike. A layer of a
# tilted film is cut along its own plane, through the mean of its dots.
#
# **Fig. 2b.** The bottom layer and the middle one from above. Does every cube sit on a bright body? Do its
# sides follow the lattice fringes? Broad stripes in a dot are no density waves: a section that is nearly parallel
# to a set of atomic planes runs through them here and between them there.

# %%
volume, voxel_nm, origin = None, None, None
if results.exists(run_dir, "tomogram.ome.zarr"):
    tomogram = open_tomogram(results.path(run_dir, "tomogram.ome.zarr"))
    # a level of the pyramid coarse enough to show the dots' bodies and not a moiré of their lattices
    level = int(np.log2(np.linalg.norm(cell, axis=0).min() / 16 / tomogram.voxel_nm))
    level = int(np.clip(level, 0, len(tomogram.levels) - 1))
    (volume, voxel_nm), origin = tomogram.level(level), tomogram.middle(level)
if volume is None:
    print("no tomogram: the views are drawn on white")
layers = np.unique(scene.layers)
views = [glyph_figures.plan_view(scene, layer) for layer in (layers[0], layers[(len(layers) - 1) // 2])]
sections = [glyph_figures.with_section(view, volume, voxel_nm, origin) for view in glyph_figures.same_size(views)]
fig, _ = glyph_figures.overlay_figure(scene, sections, renderer=drawn_by)
saved = results.save_figure(fig, run_dir, "fig_2b", plotted)

# %% [markdown]
# **Fig. 2c.** Two sheets of dots from the side, C1 at the bottom. The sheets with most dots are taken.

# %%
views = [glyph_figures.side_view(scene, axis) for axis in "AB"]
sections = [glyph_figures.with_section(view, volume, voxel_nm, origin) for view in glyph_figures.same_size(views)]
fig, _ = glyph_figures.overlay_figure(scene, sections, renderer=drawn_by)
saved = results.save_figure(fig, run_dir, "fig_2c", plotted)

# %% [markdown]
# ## Open it elsewhere
#
# | file | opens in |
# |---|---|
# | `scenes/glyphs.html` | any browser, without a network: the scene turns |
# | `scenes/glyphs.vtp` | ParaView: the scene as drawn; colour by `rgb`, *Map Scalars* off |
# | `exports/dots.vtp` | ParaView: points and necks with all their numbers |
# | `exports/dots.xyz` | OVITO: choose the particle shape *Box* |
# | `exports/dots.h5` | orix: `orix.io.load` |
# | `exports/dots.csv` | anything |

# %%
table = located.copy()
table[["qw", "qx", "qy", "qz"]] = np.nan
table.loc[measured, ["qw", "qx", "qy", "qz"]] = lattice.to_quaternions(R[measured]) if measured.any() else np.nan
folder = results.scratch(run_dir, "exports")
export.write_csv(folder / "dots.csv", table)
export.write_extended_xyz(folder / "dots.xyz", table, edge_nm=facet)
export.write_dots_vtp(folder / "dots.vtp", table, pairs)
if measured.any() and given.material is not None:
    material = {"lattice_nm": given.material.lattice_nm, "name": given.material.name}
    export.write_crystal_map(folder / "dots.h5", table, **material)
exports = results.publish(folder, f"{run_dir}/exports")

folder = results.scratch(run_dir, "scenes")
export.write_scene_vtp(folder / "glyphs.vtp", scene.mesh())
export.write_scene_html(folder / "glyphs.html", turning_scene.page)
results.write_json(folder, "scene.json", {"renderer": drawn_by, "edge_nm": facet, "n_dots": len(dots)})
scenes = results.publish(folder, f"{run_dir}/scenes")
sorted(file.name for file in [*exports.iterdir(), *scenes.iterdir()])

# %% [markdown]
# ## Exercises
#
# 1. How much overlap do the dots lose if all of them take the polar rotation of the cell instead of
#    $R_\mathrm{mono}$?
# 2. Turn all dots by 5° about the film normal. Which pair of facets, A, B or C, loses most, and why?

# %% tags=["solution"]
lost = mono.overlap_fraction - cofacial.cofacial_overlap(mono.polar, cell, facet_nm=facet).mean()
print(f"{lost:.3f} of {mono.overlap_fraction:.3f}")

# %% tags=["solution"]
turned = lattice.axis_angle(lattice.film_normal(cell), np.deg2rad(5.0)) @ mono.R
before, after = mono.overlap, cofacial.cofacial_overlap(turned, cell, facet_nm=facet)
# A and B lie in the film: turning about its normal slides their facets past one another, and the pair that stood
# squarest loses most; the other may even gain, as this turn may undo its offset. C's facets only spin in place.
pd.DataFrame({"pair": list("ABC"), "before": before, "after": after}).round(3)

# %% [markdown]
# ## What this step found
#
# `mono.json` hands $R_\mathrm{mono}$ and its set to the steps that follow.

# %%
saved = results.write_json(
    run_dir,
    "mono.json",
    {
        "R_mono": mono.R,
        "quaternion": lattice.to_quaternions(mono.R[None])[0],
        "overlap_fraction": mono.overlap_fraction,
        "overlap": mono.overlap,
        "facet_nm": facet,
        "near_optimum": lattice.to_quaternions(mono.near_optimum),
        "polar": mono.polar,
        "largest_angle_within_1pct_deg": mono.largest_angle_deg,
        "tolerance": tolerance,
    },
)
values = [
    results.value("mono_vs_mean_deg", unit="deg", **mono_vs_mean.as_result()),
    results.value("mono_nearest_vs_mean_deg", nearest_deg, "deg", reason=mono_vs_mean.reason),
    results.value("mono_overlap_fraction", mono.overlap_fraction, n=len(dots)),
    *(results.value("mono_overlap_fraction", mono.overlap[k], index="ABC"[k]) for k in range(3)),
    results.value("mono_near_optimum_deg", mono.largest_angle_deg, "deg"),
    results.value("mono_from_polar_deg", from_polar_deg, "deg"),
    results.value("facet_nm", facet, "nm"),
]
results.record(run_dir, "04_glyphs", values)

# %% [markdown]
# **Next:** [05_mesoscale](05_mesoscale.ipynb) turns the picture into numbers: planarity, necks and orientation,
# layer by layer.
