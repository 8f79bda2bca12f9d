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
# # 02 · Where every quantum dot is, on which site it stands, and what joins it to its neighbours
#
# **The question.** A tomogram is a cloud of grey levels. Which of it is a quantum dot (QD), where is the centre
# of its body, which site of the superlattice does it hold, and how thick are the necks to its
# neighbours? The paper answers in SI 2 and in Fig. 2; every later figure rests on the answer.

# %% [markdown]
# **You will learn** how a template is cut from the data themselves, why a centre of inversion is a better centre
# than a correlation maximum where necks pull, how indices are grown from neighbour to neighbour, and
# how a neck is measured below one voxel.
#
# **You need** `tomogram.ome.zarr` of notebook 01 (and its two half sets, for the errors), or a table of
# centres. **It takes** half a minute to a minute for 190 dots. With `dask` the workers of a cluster filter the slabs of
# the tomograms, fit the centres and measure the necks. Template, correlation, wedge and indices stay here: a few
# transforms of one small picture and a table, quicker done than sent.

# %%
import numpy as np
import pandas as pd

from mesotomo_utils import lattice
from mesotomo_utils.analysis import necks as neck_tables
from mesotomo_utils.analysis import statistics
from mesotomo_utils.mapping import (
    centre_errors,
    centres,
    dot_size,
    dot_table,
    missing_wedge,
    neck_wedge,
    necks,
    superlattice,
    tilt_errors,
)
from mesotomo_utils.mapping import template as templates
from mesotomo_utils.mapping.model_film import model_film
from mesotomo_utils.tomography.tomogram import open_tomogram
from mesotomo_utils.visualization import figures, mapping_figures
from mesotomo_utils.workflow import results
from mesotomo_utils.workflow.sample import load_sample

figures.use_style()

# %% tags=["parameters"]
sample = "runs/small/input/sample.yaml"  # the sample file of the run
run_dir = "runs/small"  # the run folder
device = "auto"  # auto, cpu or cuda: of the picture of whole dots and all that is read from it
dask = None  # address of a Dask scheduler whose workers take slabs, dots and necks, not template, wedge and indices
whole_lacks = 0.1  # a dot counts as whole if no more than this fraction lies beyond the needle's edge, or is missing
neck_threshold = 0.46  # contour of a neck between the level of the gap beside it and its own
n_resamples = 500  # bootstrap draws for each interval
seed = 2  # of the bootstrap and of the known case

# %% [markdown]
# ## What goes in
#
# A tomogram, or a table that already has centres (`centres:`) or whole dots (`dots:`): then the first half of
# this notebook has nothing to do, and says so.

# %%
description = load_sample(sample)
from_table = description.enters_as in ("centres", "dots")
given = pd.read_csv(getattr(description, description.enters_as)) if from_table else pd.DataFrame()
print(f"{description.name} enters as {description.enters_as}; the film's bottom is at {description.film_bottom}")

# %% [markdown]
# ## Dots without their atoms
#
# For whole dots the atomic lattice is noise. A Gaussian of $\sigma = d/25$ leaves 0.2 % of the {111} fringes of a
# 5 nm dot, on voxels of $d/20$. Grey levels are scaled: 0 is the matrix, 1 a dot.
#
# Where a wedge of tilts is missing, as with ±70°, bodies throw shadows along the missing directions and pull each
# other's centres. But bodies are neither darker than the matrix nor brighter than a dot. Cut to these levels, then
# brought back to what the tilts have shown, a few times by turns, they have their centres half as far off.
#
# ## A template from the tomogram itself
#
# The first picks come from a soft ball. The mean of the better half of the picks is the next template, and so on,
# as the paper does it. The mean is made symmetric under inversion, which keeps it from drifting towards the side
# where the necks happen to be thicker.
#
# The sample gives the diameter $d$ of a dot roughly; what the mean dot holds is the volume that a dot has, and blur
# hardly changes it. If $d$ is not within 6 % of 1.05 times the edge of a cube of that volume, all is done again with
# that diameter, until it settles.

# %%
image, template = None, None
diameter_nm = description.quantum_dot.diameter_nm if description.quantum_dot else None
if not from_table:
    tomogram = open_tomogram(results.path(run_dir, "tomogram.ome.zarr"))
    at = {"device": device, "dask": dask}
    image, template = dot_size.image_of_dots(
        tomogram.data, tomogram.voxel_nm, diameter_nm=diameter_nm, angles_deg=tomogram.angles_deg, **at
    )
    print(f"{tomogram.shape} voxels of {tomogram.voxel_nm:.4f} nm → {image.values.shape} of {image.step_nm:.3f} nm")
    print(f"the mean dot fills a cube of {template.edge_nm:.2f} nm; the sample says {diameter_nm} nm, "
          f"{image.diameter_nm:.2f} nm are taken")  # fmt: skip
    diameter_nm = image.diameter_nm

# %%
if image is not None:
    fig = mapping_figures.template_sections(template.values, template.body, image.step_nm)
    along_x = template.values[template.values.shape[0] // 2, template.values.shape[1] // 2]
    results.save_figure(fig, run_dir, "template", pd.DataFrame({"grey_level": along_x}))

# %% [markdown]
# The orange line is the mask of the body: what a ball of a third of a diameter in radius can fill, so
# that no neck and no neighbour belongs to it.
#
# ## Picks, and then centres
#
# Normalised correlation says where dots are: in each window $W$ with mask $m$,
#
# $$ c = \frac{\sum m\,(T-\bar T)\,(W-\bar W)}{\sqrt{\sum m\,(T-\bar T)^2\;\sum m\,(W-\bar W)^2}} . $$
#
# Its maximum is pulled by whatever stands nearer on one side. So each centre is found again as the
# point $\mathbf c$ about which the body is its own mirror image: with the odd part $O(\mathbf r) = \frac12[\rho(\mathbf
# c+\mathbf r) - \rho(\mathbf c-\mathbf r)]$,
#
# $$ \mathbf s = -\Big(\sum w\,\nabla T\,\nabla T^\top\Big)^{-1} \sum w\,\nabla T\;O , \qquad
#    w = \frac{m}{\big(1 + O^2/\kappa^2\big)^2} . $$
#
# Size, orientation and all that is even of the shape of a dot drop out. A neck on one side only makes $|O|$ large and
# loses its weight, and the voxels around it lose theirs too: the blurred flank of a neck is too faint to stand out
# itself, yet it pulls (on the twin `small` by 0.03 nm, five times the noise). A neck nearly as thick as its facet
# makes a second, wrong optimum, in which dot and neck are one longer body; so the fit is tried again from points around
# its end, and the end about which most of the facets are symmetric is kept. From these centres the necks can be
# measured (below), and the centres are found a last time with nothing in a neck, nor opposite it, looked at. With nothing
# left to pull, $\kappa$ may be larger then, the more so the more lopsided the dots of this tomogram are: what most dots
# have on one side only, half a layer on a facet or a corner, is no outlier, and belongs to the centre of mass.
#
# But a large $\kappa$ lets the flank of a neck count as well, that is the blurred edge of it beside what is left out.
# There a neck adds to the image what the body lacks: with the edge of the mean neck, which the gaps show, and the dot's own
# even part, it is worked out for each voxel and taken off the odd part, less of it the shorter the neck. Without that,
# lopsided dots were drawn to the thicker neck by up to a hundredth of its diameter.
#
# **The rim.** The needle was milled through its outermost dots, and all that it cut end on one smooth surface: along rays
# from the axis nearly half of the last bodies do, within a tenth of a nanometre, while facets lie farther in at
# random. So the surface can be found. What lies beyond it is left out, and what mirrors that. Of a neighbour the edge may
# leave a piece that is too small to be found, yet joined to the dot; it would pull like a neck, and is treated as
# one: the gap is looked at opposite each neighbour where no dot faces it.
#
# A neck as thick as its facet can still hold a fit: dot and neck together are their own mirror image about a point up to
# a nanometre off. So the mean dot is laid over each dot, without its necks. It takes all dots to be of one size and is
# no better than a tenth of a nanometre; but a centre that lies farther from it is doubtful. It is looked for from there
# as well, and of the two the one about which more is symmetric is kept; where the mean dot lies more than twice as far
# off, the new one.

# %%
if image is not None:
    lopsided = not missing_wedge.is_missing(tomogram.angles_deg)  # a wedge's shadows would pass for lopsided dots
    found, _ = centres.find_centres(image, template=template, lopsided=lopsided, dask=dask)
    last = found.attrs["last_fit"]
    print("the dots are taken to be even" if last is None else
          f"the dots are lopsided: κ is {last.scale:.2f} of a dot's contrast at last, "
          f"and {last.flank_share:.0%} of the flanks of a neck of the usual length, {last.edge_nm:.2f} nm wide, "
          "are taken off")  # fmt: skip
    print("the bodies show no edge of a needle" if image.edge is None else
          f"{image.edge.share:.0%} of the rays outwards end on the edge of a needle, "
          f"{2 * image.edge.coefficients[0]:.1f} nm wide")  # fmt: skip
    print(f"of {found['recentred'].sum()} cut dots the centre is that of the mean dot laid over what is left")
else:
    found = dot_table.read_centres(given, name=getattr(description, description.enters_as).name)
print(f"{len(found)} dots found, {found['at_edge'].sum()} of them flagged at_edge")
found.head().round(3)

# %%
if image is not None:
    scores = templates.correlate(image, template)
    middle = image.values.shape[1] // 2
    near = found[found["y_nm"].abs() < diameter_nm / 2].rename(columns={"x_nm": "u_nm", "z_nm": "v_nm"})
    edges = image.edge.outline() if image.edge is not None else ()
    fig = mapping_figures.picks_on_slice(
        image.values[:, middle], scores[:, middle], near, step_nm=image.step_nm, labels=("x", "z"), edges=edges
    )
    results.save_figure(fig, run_dir, "correlation_picks", near[["u_nm", "v_nm", "score", "at_edge"]])

# %% [markdown]
# A dot is flagged `at_edge` where more than 1 % of the mean dot, put there, lies beyond. As *whole* we count dots with at
# most a tenth beyond (`whole_lacks`).
# Where there is no such edge, as in a piece of a film, what is missing of a dot's core tells instead, the core being the
# mask less 0.06 diameters: more than 1 % of a dot on the rim, and a tenth. That is more liberal, for noise and size alone
# leave up to 4 % missing deep inside (panel b).
#
# Of a dot that is cut a little, enough pairs of opposite facets are left to be its own mirror image. What is left of one
# with more than a fifth beyond the edge has its middle further in than the dot had, and one that lost a whole facet is its
# own mirror image about wherever it is looked for: over these the inner side of the mean dot is laid by robust
# least squares, which gives the centre before the cut. From there its necks are measured, and it is done again without them.
# Without an edge to go by, that is done where more than 5 % of the core is gone, and more than all but one in a hundred of
# the dots off the rim lack by their shape.

# %%
if image is not None:
    fig = mapping_figures.scores_and_cuts(found)
    results.save_figure(fig, run_dir, "scores", found[["score", "missing", "beyond", "at_edge"]])

# %%
lacks = found["beyond"].fillna(found["missing"]) if "missing" in found else pd.Series(0.0, index=found.index)
whole = lacks <= whole_lacks
counted = f"at least {100 * (1 - whole_lacks):.0f} % there" if image is not None else "whole: a table does not say"
print(f"{whole.sum()} of {len(found)} dots count as {counted}")

# %% [markdown]
# ## How well a centre is known
#
# The tomograms of the even and of the odd tilts have independent noise. Each centre is found again in both. The
# mean of two halves has half the standard deviation of their difference, pooled over all dots: one dot's
# difference says little about that dot.
#
# Not all dots are seen equally well: necks, neighbours and noise hide facets, and of a centre only what is left of two
# opposite ones tells. How much less that is than all of a dot gives each dot a factor along each axis. The half-set
# differences, pooled over all dots by their median, are shared out in proportion to a power of these factors.
#
# Three corrections follow, all measured on twins (`benchmarks/calibrate_errors.py`). Half as many tilts leave streaks
# from dot to dot that the other half cancels: a fifth of that standard deviation is an error of the whole. Noise
# is not cancelled by the other half: what it leaves in a centre is added, in proportion to its strength around the dots.
# And what both halves share does not show in their difference: little for whole dots of sharp facets, more where these
# are blurred.
#
# Where the mean dot was laid over what the needle's edge has left of one, its centre is off by as much as the dots differ
# from their mean. How much that is the whole dots tell: as much is left out of them as the edge hides of the cut ones, and the
# mean dot is laid over the rest. By how far it misses their centres, outwards, across and along the needle's axis, is σ.
#
# A dot need not be its own mirror image: half a layer of atoms on one facet, a corner cut deeper than the one opposite.
# Then its centre of mass is not quite where it is most symmetric, and both halves agree on the wrong place. How lopsided
# the dots of this tomogram are shows when $\kappa$ is made small and large: how far their centres move then, in both halves
# alike, is about how far they are off. Deep cuts of small dots hardly move them; so it is not taken to be less than what
# the unevenness of the facets comes to over the width that they are blurred by. It is added, more where less of a dot is
# seen.
#
# Of a wedge of missing tilts the halves know nothing either, and with ±70° it is still the largest error by far. So the
# bodies are projected at the tilts, reconstructed and filled once more; how far their centres move tells what the wedge
# does.
#
# And no alignment sees an error of the angles in step with twice the tilt: it is a stretch of the object across the tilt
# axis, and slow patterns like it are hardly better seen. A stage that errs at each tilt anew has as much of them as of
# the others, so the angles that were found tell how much: with an rms $s$ over $N$ complete tilts, a strain of about
# $0.7\,s\sqrt{2/N}$, which moves all dots together, the farther out the more. The halves have strains of their own:
# what all dots share is taken off their differences first.

# %%
halves, differences = (), pd.DataFrame(columns=["dx_nm", "dy_nm", "dz_nm"], dtype=float)
if image is not None and all(results.exists(run_dir, f"half_{name}.ome.zarr") for name in ("even", "odd")):
    files = [open_tomogram(results.path(run_dir, f"half_{name}.ome.zarr")) for name in ("even", "odd")]
    halves = [templates.body_image(file.data, file.voxel_nm, diameter_nm=diameter_nm, **at) for file in files]
    halves = [missing_wedge.fill_wedge(half, file.angles_deg) for half, file in zip(halves, files, strict=True)]
    sigmas, differences = centre_errors.half_set_sigmas(found, *halves, template, lopsided=lopsided, dask=dask)
    wedge_nm = missing_wedge.wedge_sigmas(found, image, template, tomogram.angles_deg)
    unseen_deg = tilt_errors.unseen_error_deg(results.read_table(run_dir, "alignment.csv"))
    tilts_nm = tilt_errors.tilt_sigmas(found[dot_table.POSITION], tomogram.angles_deg, unseen_deg)
    found = found.assign(**np.hypot(np.hypot(sigmas, wedge_nm), tilts_nm))
    added = f"{wedge_nm.round(3)} nm along x, y, z" if wedge_nm.any() else "nothing, none is missing"
    print("σ, median, of dots that have their own centre, and of those that the mean dot places:")
    print(sigmas.groupby(found["recentred"]).median().round(3).to_string())
    print(f"added to σ for a wedge of missing tilts: {added}")
    print(f"and for errors of the tilts, {unseen_deg:.3f}° rms, that no alignment sees: up to {tilts_nm.max():.4f} nm, at the rim")
found.reindex(columns=list(dot_table.SIGMA)).astype(float).describe().T.round(4)  # NaN without halves

# %%
if halves:
    fig = mapping_figures.half_set_differences(differences)
    results.save_figure(fig, run_dir, "centre_half_sets", differences)

# %% [markdown]
# Even minus odd, without the motion and the strain that all dots share; lines: one standard deviation of the
# difference. The outermost bars hold all that lies beyond.
#
# ## The lattice, grown from neighbour to neighbour
#
# The difference vectors of the dots around a seed cluster at the vectors of the lattice; the three shortest
# that are independent are its basis. Sites are then filled outwards, the surest first, each expected from
# the dots around it alone. A dot must find its own neighbours in place too, so that a grain ends where
# the next begins. C is the vector nearest to the tilt axis, upwards from the film's bottom; $|A| \ge |B|$;
# $\alpha \ge 90°$, or $\beta \ge 90°$ where $\alpha$ is a right angle as far as can be told.

# %%
xyz = found[dot_table.POSITION].to_numpy(float)
edge = found["at_edge"].to_numpy(bool)
left_out = edge if from_table else None  # of a brought-in table we do not know how cut dots were located
if from_table and dot_table.has_index(given):
    grown = superlattice.superlattice_from_sites(xyz, given, at_edge=left_out)
else:
    grown = superlattice.index_superlattice(xyz, film_bottom=description.film_bottom, at_edge=left_out)
table = dot_table.centres_table(found, grown)
table.groupby("grain").size().rename("dots").to_frame()

# %%
defects = superlattice.point_defects(grown, xyz)
fig = mapping_figures.site_map(table, defects)
results.save_figure(fig, run_dir, "lattice_sites", table[["qd", *dot_table.POSITION, "grain", "layer"]])
defects.round(3)

# %% [markdown]
# Squares are vacancies: empty sites whose neighbours are there. Diamonds are interstitials; crosses belong to no
# grain.
#
# ## The unit cell
#
# Positions are fitted on indices by robust least squares. Neighbours are displaced together. How far that reaches the
# residuals tell: we look for the correlation length that would leave, after the same fit, those that are found, and
# take the standard error from it. The spread is the standard deviation of the same length or angle from dot to dot.

# %%
summary = superlattice.describe(
    grown, xyz, film_bottom=description.film_bottom, at_edge=left_out, dot_diameter_nm=diameter_nm
)
main = summary["grains"][0]
cell = pd.DataFrame({name: main[name] for name in superlattice.CELL}).T
if description.superlattice is not None:
    cell["guess in the sample file"] = pd.Series(description.superlattice.model_dump())
cell.round(4)

# %%
rows, index = grown.rows(0), grown.index(0)
steps = superlattice.neighbour_vectors(index, xyz[rows])
ends = {axis: steps[np.isfinite(steps[:, n, 0]), n] for n, axis in enumerate("ABC")}
fig = mapping_figures.neighbour_vectors(ends, {axis: np.array(main[axis]) for axis in "ABC"})
drawn = pd.concat([pd.DataFrame(v, columns=dot_table.POSITION).assign(axis=a) for a, v in ends.items()])
saved = results.save_figure(fig, run_dir, "neighbour_vectors", drawn)

# %% [markdown]
# ## Necks
#
# Lines parallel to the line of centres are followed through the gap, and the lowest grey level on each is kept. A
# line that stays inside a neck all the way keeps the neck's level. Its smallest cross-section is what lies above a contour
# nearly half-way from the level of the gap beside it to its own, the mean in its darkest plane: two lattices that do not
# quite meet, or a thin neck, are not as bright as a body. The diameter is $2\sqrt{\mathrm{area}/\pi}$; twins say how far
# that holds (`benchmarks/calibrate_necks.py`). Its σ is what the halves of the tilts differ by and, mostly, what they
# share: how a neck meets the facets, as measured on twins.

# %%
pairs = superlattice.neighbour_pairs(grown)
if image is not None:
    options = {"threshold": neck_threshold, "dask": dask}
    joints = necks.measure_necks(image, xyz, pairs, **options)
    if halves:
        joints["sigma_nm"], _ = necks.neck_sigmas(joints, *halves, xyz, **options)
elif description.necks is not None:
    brought = pd.read_csv(description.necks)
    joints = dot_table.read_necks(brought, given.get("qd", found["qd"]), name=description.necks.name)
else:
    joints = pairs.assign(diameter_nm=np.nan, sigma_nm=np.nan, length_nm=np.nan)
measured = bool(joints["diameter_nm"].notna().any())
sizes = joints.drop(columns=["qd_1", "qd_2"]).describe().T.round(3)
sizes if measured else "no tomogram and no table of necks: nothing to measure"

# %% [markdown]
# Four gaps, from none to the thickest, as measured. The dashed circle has the area that was found. A thick neck is not
# evenly bright: its halves belong to two lattices, and where the planes of one do not meet those of the other, atoms are
# missing.

# %%
if image is not None:
    by_size = joints.sort_values("diameter_nm")
    shown = by_size.iloc[np.linspace(0, len(by_size) - 1, 4).round().astype(int)]
    pictures, outlines = {}, {}
    for row in shown.itertuples():
        planes, pixel_nm = necks.gap_planes(image, xyz[row.qd_1], xyz[row.qd_2])
        title = f"QD {row.qd_1} – {row.qd_2}: {row.diameter_nm:.1f} nm"
        pictures[title], outlines[title] = necks.gap_picture(planes), row.diameter_nm
    fig = mapping_figures.gap_pictures(pictures, pixel_nm, outlines)
    results.save_figure(fig, run_dir, "gaps", shown)

# %% [markdown]
# A wedge of missing tilts closes gaps: along the directions that it takes, what parts two dots is hardly seen, and what is
# left of it passes for neck. The halves of the tilts do not show it, for both lack the same wedge. So cubes of this size, in
# the places of the dots, with necks that are known, are projected at these tilts, reconstructed and measured in the same
# way, from all of their picture and from what these tilts show of it. By the factor between the two (`scale`) our diameters
# are multiplied; σ counts what is left of the model's errors (`left_nm`) and half of what the factor changes. Where more than
# a fifth of the model's gaps without a neck look joined (`closed`), necks are not told along that axis.

# %%
if image is not None:
    grain = table["grain"].to_numpy()
    cells = {each["grain"]: np.column_stack([each[axis] for axis in "ABC"]) for each in summary["grains"]}
    wedge = neck_wedge.wedge_of_necks(image, template, xyz, grain, cells, pairs, tomogram.angles_deg,
                                      rng=np.random.default_rng(seed), threshold=neck_threshold)  # fmt: skip
    joints = neck_wedge.allow_for_wedge(joints, grain[joints["qd_1"]], wedge)
    print(wedge.round(3).to_string() if missing_wedge.is_missing(tomogram.angles_deg) else "no wedge is missing")
if measured:
    fig = mapping_figures.neck_histogram(joints)
    results.save_figure(fig, run_dir, "necks", joints)

# %% [markdown]
# ## A case whose answer is known
#
# Smooth truncated cubes on a triclinic lattice with known necks and one vacancy, in noise, through the same
# functions.

# %%
known_cell = lattice.cell_matrix(6.2, 6.0, 5.8, 98, 95, 93)
film = model_film(known_cell, (3, 3, 3), edge_nm=4.9, voxel_nm=0.25, rng=np.random.default_rng(seed),
                  displacement_nm=0.1, vacancies=((1, 1, 1),))  # fmt: skip
known_image = templates.body_image(film.volume, film.voxel_nm, diameter_nm=5.0)
known_found, _ = centres.find_centres(known_image)
known_xyz = known_found[dot_table.POSITION].to_numpy()
known_error = np.linalg.norm(known_xyz[:, None] - film.dots[dot_table.POSITION].to_numpy(), axis=2)
known_lattice = superlattice.index_superlattice(known_xyz)
known_defects = superlattice.point_defects(known_lattice, known_xyz)
assert len(known_found) == 26
assert np.median(known_error.min(axis=1)) < 0.05
assert known_defects["kind"].tolist() == ["vacancy"]
print(f"26 of 26 dots, median error {np.median(known_error.min(axis=1)):.3f} nm, the vacancy found")

# %%
known_necks = necks.measure_necks(known_image, known_xyz, superlattice.neighbour_pairs(known_lattice))
known_names = known_error.argmin(axis=1)
true_necks = {frozenset((row.qd_1, row.qd_2)): row.diameter_nm for row in film.necks.itertuples()}
true_nm = np.array([true_necks[frozenset((known_names[a], known_names[b]))]
                    for a, b in known_necks[["qd_1", "qd_2"]].to_numpy()])  # fmt: skip
assert ((known_necks["diameter_nm"] > 0) == (true_nm > 0)).all()
print(f"necks: {np.abs(known_necks['diameter_nm'] - true_nm).max():.2f} nm off at most, none false, none missed")

# %% [markdown]
# ## Exercises
#
# 1. How far do the centres move if the robust weights are switched off ($\kappa \to \infty$)?
# 2. How much does the connectivity depend on the contour of the necks?
# 3. Which way, and how far, would the dots with the thickest necks be pulled if necks were looked at?

# %% tags=["solution"]
from mesotomo_utils.mapping.centre_fits import refine_centres

if image is not None:
    some = xyz[:: max(1, len(xyz) // 100)]
    plain = refine_centres(image, some, template, scales=(1e3,) * 5, restarts=())
    print(f"moved by {np.median(np.linalg.norm(plain - some, axis=1)):.2f} nm, towards the thicker necks")

# %% tags=["solution"]
if image is not None:
    some = pairs.sample(min(len(pairs), 150), random_state=0)
    # not at all: whether there is a neck its brightest line tells, the contour how thick it is
    for threshold in (0.36, 0.46, 0.56):
        other = necks.measure_necks(image, xyz, some, threshold=threshold)["diameter_nm"]
        print(f"contour {threshold}: {(other > 0).mean():.3f} joined, {other[other > 0].mean():.2f} nm")

# %% tags=["solution"]
if image is not None:
    whole_pairs = joints[~edge[joints["qd_1"]] & ~edge[joints["qd_2"]]]
    thick = whole_pairs.dropna(subset="diameter_nm").nlargest(12, "diameter_nm")
    to_neck = xyz[thick["qd_2"]] - xyz[thick["qd_1"]]
    to_neck /= np.linalg.norm(to_neck, axis=1, keepdims=True)
    pulled = refine_centres(image, xyz[thick["qd_1"]], template) - xyz[thick["qd_1"]]
    along = (pulled * to_neck).sum(axis=1)
    thinnest = thick["diameter_nm"].min()
    print(f"dots with necks of {thinnest:.1f} nm or more, towards the neck: {np.sort(along).round(3)[::-1]} nm")

# %% [markdown]
# ## What the other notebooks get
#
# `qd_count` counts the whole dots, as one would count a sample; `qd_found_count` every pick, cut ones too. The share
# of point defects is over whole dots and vacancies: a site on the rim that is empty cannot be told from one cut away.
# Its interval is Clopper and Pearson's, as if each site were spoilt on its own.

# %%
results.write_table(run_dir, "centres.csv", table)
results.write_table(run_dir, "necks.csv", joints[dot_table.NECKS])
results.write_table(run_dir, "defects.csv", defects)
results.write_json(run_dir, "superlattice.json", summary)
if description.enters_as == "dots":
    results.write_table(run_dir, "orientations.csv", dot_table.read_orientations(given))

# %%
share = dot_table.layer_defect_fractions(table[whole.to_numpy()], defects)
values = [
    results.value("qd_count", int(whole.sum())),
    results.value("qd_found_count", len(table)),
    results.value("layer_count", summary["layers"]),
    results.value("grain_count", len(summary["grains"])),
    results.value("at_edge_count", int(edge.sum())),
    results.value(
        "point_defect_fraction",
        **statistics.share(share["n_defects"].sum(), share["n_sites"].sum()).as_result(),
    ),
]
for row in share.itertuples():
    found_share = statistics.share(min(row.n_defects, row.n_sites), row.n_sites).as_result()
    values.append(results.value("point_defect_fraction", index=f"C{row.layer}", **found_share))

# %%
for name in superlattice.CELL:
    found_cell, unit = main[name], name.rsplit("_", 1)[1]
    ends_95 = [found_cell["value"] + side * 1.96 * found_cell["sigma"] for side in (-1, 1)]
    values.append(
        results.value(name, found_cell["value"], unit, sigma=found_cell["sigma"], interval_95=ends_95, n=main["n_dots"])
    )
edge_nm = None if template is None else template.edge_nm
values.append(results.value("dot_edge_nm", edge_nm, "nm", reason="no tomogram"))
for axis in "xyz":
    typical = table[f"sigma_{axis}_nm"].median()
    values.append(results.value(f"centre_sigma_{axis}_nm", typical, "nm", n=len(table), reason="no half sets"))

# %% [markdown]
# Pairs that share a dot are not independent: for the interval of the connectivity, columns of dots that stand side by
# side vary together (notebook 05). Where tilts are missing, `neck_scale` is what diameters were multiplied by; its error is
# shared by all necks along an axis, so that it is as large, in proportion, in their mean.

# %%
rng = np.random.default_rng(seed)
blocks = statistics.places(xyz[:, :2], spacing_nm=(main["a_nm"]["value"] + main["b_nm"]["value"]) / 2)
for axis in (None, "A", "B", "C"):
    some = neck_tables.told(joints if axis is None else joints[joints["axis"] == axis])
    lost = "no necks were measured" if not measured or some.empty else neck_tables.untold(some)
    if lost:
        values.append(results.value("connectivity", None, index=axis, reason=lost))
        continue
    joined, own = (some["diameter_nm"] > 0).to_numpy(float), blocks[some["qd_1"]]
    draws = statistics.bootstrap(lambda rows, j=joined: j[rows].mean(), own, n_resamples=n_resamples, rng=rng)
    share_joined = statistics.interval(joined.mean(), draws, n_blocks=statistics.n_blocks(own), n=len(some), bounds=(0, 1))
    values.append(results.value("connectivity", index=axis, **share_joined.as_result()))
if image is not None and missing_wedge.is_missing(tomogram.angles_deg):
    for axis, row in wedge.loc[main["grain"]].iterrows():
        shared = neck_wedge.MODEL_ERROR * abs(1 - row["scale"])
        values.append(results.value("neck_scale", row["scale"], index=axis, sigma=shared, reason="necks are not told"))

# %%
results.record(run_dir, "02_centres", values)

# %% [markdown]
# **Next:** [03_orientation](03_orientation.ipynb) asks how the atomic lattice of each of these dots is turned.
