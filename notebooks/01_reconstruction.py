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
# # 01 · From a tilt series to a tomogram, and what it resolves
#
# **The question.** A microscope recorded projections of a needle at many tilts, each a little off its place. What did
# the needle look like in three dimensions, and how fine a detail of that can be believed? The paper
# answers in SI 1 and in Fig. 1d and 1e.

# %% [markdown]
# **You will learn** how a tilt series is aligned with nothing but its own images, how filtered back-projection
# turns it into a tomogram, and three measures of resolution: lattice lines, Fourier shell
# correlation, Crowther's limit.
#
# **You need** the sample file; notebook 00 puts it into the run folder. **It takes** about a minute
# on two cores for 144 images of 680 × 448 pixels; the half sets, aligned and reconstructed anew, take most. `memory_gb`
# limits the slabs, with `dask` those of each worker. It does not count the libraries, 0.25 GB; the images, which
# lie in memory twice and, while they are aligned, five times over; windows, up to 1 GB at the paper's size; and a tomogram
# that is brought along, which is read whole once.

# %%
import numpy as np
import pandas as pd

from mesotomo_utils import backend
from mesotomo_utils.tomography import (
    alignment,
    bragg_spots,
    distortion,
    distortion_correction,
    lattice_lines,
    resolution,
)
from mesotomo_utils.tomography.cutting import mapping_chunks
from mesotomo_utils.tomography.projector import Projector
from mesotomo_utils.tomography.reconstruction import reconstruct, remove_background
from mesotomo_utils.tomography.tilt_series import load_tilt_series, pixel_positions
from mesotomo_utils.tomography.tomogram import load_tomogram, open_tomogram, tomogram_attributes, write_tomogram
from mesotomo_utils.visualization import distortion_figures, figures, lattice_figures, movies, tomography_figures
from mesotomo_utils.workflow import peers, results
from mesotomo_utils.workflow.sample import load_sample

figures.use_style()

# %% tags=["parameters"]
sample = "runs/small/input/sample.yaml"  # the sample file of the run
run_dir = "runs/small"  # the run folder
device = "auto"  # auto, cpu or cuda
method = "fbp"  # of the tomogram: fbp, sirt or cgls
engine = "nufft"  # nufft, astra or tomopy
iterations = None  # of sirt and cgls; None: as many as left-out images ask for, and 30 in the comparison
comparison_nm = 1.0  # thickness of the central slab that is also reconstructed by SIRT
window_nm = None  # edge of the windows of the spectra; None: 128 voxels
point_spread_nm = 0.1  # point spread of the simulated spectrum
correct_distortion = False  # undo the distortion that all dots share, all but the mean scale
memory_gb = None  # limit of slabs, beside images, windows, libraries; None: 1 GB a core
dask = None  # address of a Dask scheduler whose workers take the slabs; None: the cores of this machine

# %% [markdown]
# ## What goes in

# %%
description = load_sample(sample)
where = backend.resolve_device(device)
has_series = description.enters_as == "tilt_series"
print(f"{description.name}: starts from a {'tilt series' if has_series else 'tomogram'}; runs on {where}")
if has_series:
    series = load_tilt_series(
        description.tilt_series, angles_path=description.tilt_angles, pixel_nm=description.pixel_nm,
        tilt_axis=description.tilt_axis, tilt_sign=description.tilt_sign,
    )
    print(f"{len(series)} images of {series.images.shape[1:]} pixels of {series.pixel_nm:g} nm")
    chosen = [int(np.argmin(np.abs(series.angles_deg - tilt))) for tilt in (-60, 0, 60)]
    fig = tomography_figures.tilt_images(series.images[chosen], series.angles_deg[chosen], series.pixel_nm)
    shown = pd.DataFrame({"image": chosen, "angle_deg": series.angles_deg[chosen]})
    results.save_figure(fig, run_dir, "tilt_images", shown)

# %% [markdown]
# The tilt axis stands upright; z grows upwards along it. A point at $(x, y)$ of a slice appears at
#
# $$ u = x \cos\theta + y \sin\theta , $$
#
# so each row of the images, followed through the tilts, belongs to one slice and to no other. That is the
# *sinogram* of the slice.
#
# ## Alignment
#
# Nothing outside the images says where each one lies. Three facts about one rigid object do: the mass in each
# row does not change with the tilt, which gives the shifts along z; the centre of mass moves on a
# sinusoid, which gives them along u, as far as all parts of the object agree on it; and a tomogram of all images must
# reproduce each image, which refines both and the tilt of the axis and tells by how much each angle is off. A stretch
# of the specimen across the axis looks like an error of the angles in step with twice the tilt; that one no series
# tells, and it stays at nominal. The others stay the nearer to nominal, the less two halves of the tilts agree on how the
# images change with the angle: a needle full of dots tells its angles, one without inner detail hardly does.

# %%
if has_series:
    measured = alignment.align_series(series, device=where)
    table = measured.table
    print(f"axis tilted by {measured.axis_tilt_deg:.3f}°, {measured.axis_offset_nm:.3f} nm off the centre; "
          f"images and reprojections differ by {measured.misfit:.1%} (where it is above {alignment.DOUBTFUL_MISFIT:.0%}, "
          "see that angles, images and axis belong together)")  # fmt: skip
    difference = table["angle_deg"] - table["angle_nominal_deg"]
    drawn = table.assign(angle_difference_deg=difference)
    fig = tomography_figures.alignment(drawn)
    results.save_figure(fig, run_dir, "alignment", drawn)

# %% [markdown]
# The shifts (a) are observed minus ideal position: the stage's drift with the scatter of each image on top. The angles
# (b) are refined minus nominal ones: an error of 0.1° moves the surface of a needle of 30 nm by 0.03 nm, less than a
# pixel, but every image sees it in all that lies off the axis. The residual (c) is how far each image, matched alone,
# still lies from the reprojection of all, itself among them: it shows that the steps have ended and which image is odd,
# and is no error of the shifts (images left out of the tomogram lie farther off, see below for the needle). Red
# lines mark images that were left out.

# %%
if has_series:
    results.write_table(run_dir, "alignment.csv", table)
    aligned = remove_background(alignment.apply_alignment(series, measured))
    left_out = int((~table["used"]).sum())
    print(f"{len(aligned)} images used, {left_out} left out; each moved once, by a phase in Fourier space")
    row = series.images.shape[1] // 2
    before, after = series.images[:, row], aligned.images[:, row]
    fig = tomography_figures.sinograms(before, after, series.pixel_nm)
    rows = {"recorded": pd.DataFrame(before[::4, ::4]), "aligned": pd.DataFrame(after[::4, ::4])}
    results.save_figure(fig, run_dir, "sinogram", rows)
    frames = movies.tilt_frames(series.images, series.angles_deg, aligned=aligned.images, used=measured.used, size=240)
    results.save_film(movies.write_movie, frames, run_dir, "tilt_series", table.sort_values("angle_nominal_deg"))

# %% [markdown]
# One row of the images against the tilt, and the whole series as a film, recorded beside aligned; the place of an image
# that was left out stays black.
#
# **How this compares with another program.** ETSpy, NIST's tomography suite, on the needle that it ships, on copies of it
# with known motions and on a phantom of each program; both sets of shifts went through the same steps, and for each measure
# the best of ETSpy's routes counts. Left-out: image against the reprojection of a tomogram made without it. `apart_by`: by
# how many standard errors of the difference ours is better; below two it is no difference. These are stored figures;
# `make bench` measures them anew.

# %%
compared, measured_with = peers.alignment_beside_etspy()
print(measured_with)
compared

# %% [markdown]
# ## A case whose answer is known
#
# The Fourier transform of a projection is a line through the transform of the slice. Fill the plane
# with such lines, weigh each point by the area it stands for (the ramp $|q|$), transform back: filtered
# back-projection. On a phantom, two discs of value 1 and 2:

# %%
grid = np.arange(128) - 63.5
x, y = np.meshgrid(grid, grid)
phantom = 1.0 * (np.hypot(x - 10, y + 15) < 30) + 2.0 * (np.hypot(x + 25, y - 30) < 12)
small = Projector(np.arange(0.0, 180.0), 128)
back = small.fbp(small.forward(phantom[None].astype(np.float32)))[0]
inside = np.hypot(x - 10, y + 15) < 25, np.hypot(x + 25, y - 30) < 8
found = [float(back[disc].mean()) for disc in inside]
fig = tomography_figures.known_case(phantom, back, pixel_nm=1.0, text=f"{found[0]:.3f}, {found[1]:.3f}")
saved = results.save_figure(fig, run_dir, "known_case", pd.DataFrame({"made": [1.0, 2.0], "found": found}))

# %% [markdown]
# The discs come back where they were put, with their values.
#
# ## The tomogram
#
# Parallel rays keep to their slice, so all slices are independent. They are computed a slab at a time and
# go straight to disk.

# %%
making = {
    "method": method, "engine": engine, "device": where, "iterations": iterations,
    "memory": None if memory_gb is None else 1e9 * memory_gb, "dask": dask, "attributes": {"sample": description.name},
}
if has_series:
    reconstruct(aligned, out=f"{run_dir}/tomogram.ome.zarr", **making)
else:
    known = tomogram_attributes(description.tomogram) | making["attributes"]
    given = description.tomogram, description.voxel_nm
    write_tomogram(f"{run_dir}/tomogram.ome.zarr", *load_tomogram(*given), attributes=known)
tomogram = open_tomogram(results.path(run_dir, "tomogram.ome.zarr"))
voxel_nm = tomogram.voxel_nm
print(f"{tomogram.shape} voxels of {voxel_nm:g} nm, {len(tomogram.levels)} levels")
if has_series and method != "fbp":
    making["iterations"] = tomogram.attributes["iterations"]  # its halves have as many
    print(f"{making['iterations']} iterations of {method.upper()}")

# %%
coarse, coarse_nm = tomogram.level(min(1, len(tomogram.levels) - 1))
zoom = round(coarse_nm / voxel_nm)
box = [slice(zoom * side.start, min(zoom * side.stop, n)) for side, n in zip(resolution.object_box(coarse), tomogram.shape)]
middle_z, middle_y, middle_x = [(side.start + side.stop) // 2 for side in box]
xy, xz, yz = tomogram.data[middle_z], tomogram.data[:, middle_y], tomogram.data[:, :, middle_x]
limits = tuple(np.percentile(xz, (1.0, 99.7)))
fig = tomography_figures.orthogonal_slices(xy, xz, yz, voxel_nm, limits=limits)
saved = results.save_figure(fig, run_dir, "slices", {"xy": pd.DataFrame(xy[::4, ::4]), "xz": pd.DataFrame(xz[::4, ::4])})

# %% [markdown]
# **Fig. 1d** of the paper: the needle cut open. The upper face lies across the tilt axis.

# %%
(bottom, top), (near, far), (left, right) = [(side.start, side.stop) for side in box]
front_y, side_x, top_z = near + (far - near) // 3, right - (right - left) // 3, top - (top - bottom) // 4
faces = {
    "top": tomogram.data[top_z, front_y:far, left:side_x],
    "front": tomogram.data[bottom:top_z, front_y, left:side_x],
    "side": tomogram.data[bottom:top_z, front_y:far, side_x],
}
fig = tomography_figures.cut_block(**faces, voxel_nm=voxel_nm, limits=limits)
saved = results.save_figure(fig, run_dir, "fig_1d_tomogram", {k: pd.DataFrame(v[::4, ::4]) for k, v in faces.items()})

# %% [markdown]
# ## Another method on the same data
#
# SIRT does not invert the projection but approaches the slices whose projections fit, here with no negative
# density. It is slower, and smooths noise as long as it is stopped early; the fringes must be in both. Judge by eye:
# the correlation printed is over all voxels of the slice, the noise that back-projection keeps and the empty rim too.
#
# For a particle seen from few tilts (less than about one for each pixel across it), or with a wedge of them missing,
# take `method = "cgls"` for the tomogram: what no image shows, the bound at zero fills in part. Too many iterations fit
# the noise; each fifth image is left out to see when. `benchmarks/README.md` has the correlations with known particles.
# The corrections that 02 and 03 make for limited tilts were chosen on filtered back-projections.

# %%
if has_series:
    half_slab = max(1, round(comparison_nm / voxel_nm / 2))
    middle = max(0, middle_z - half_slab), min(tomogram.shape[0], middle_z + half_slab)
    options = {key: making[key] for key in ("device", "memory", "dask")}
    sirt_iterations = iterations or 30
    slab = reconstruct(aligned, method="sirt", iterations=sirt_iterations, slab=middle, **options)
    sirt = slab[middle_z - middle[0]]
    correlation = np.corrcoef(xy.ravel(), sirt.ravel())[0, 1]
    print(f"correlation of the two slices: {correlation:.3f}")
    pair = {f"tomogram ({method.upper()})": xy, f"SIRT, {sirt_iterations} iterations": sirt}
    fig = tomography_figures.two_methods(pair, voxel_nm)
    tables = {"tomogram": pd.DataFrame(xy[::4, ::4]), "sirt": pd.DataFrame(sirt[::4, ::4])}
    results.save_figure(fig, run_dir, "methods", tables)

# %% [markdown]
# ## Two halves
#
# Even and odd tilts, each half aligned on its own from the recorded images, then moved as rigid bodies into the
# tomogram's frame. What the two tomograms have in common is signal, where they differ is noise: the later
# notebooks take their errors from them.

# %%
halves, alignments = {}, {}
if has_series:
    alignments["tomogram"] = measured, making["attributes"]
    for which in ("even", "odd"):
        own = alignment.align_half(series, which, measured, device=where)
        moved = remove_background(alignment.apply_alignment(series, own))
        notes = making["attributes"] | {"half": which}
        made = reconstruct(moved, out=f"{run_dir}/half_{which}.ome.zarr", **making | {"attributes": notes})
        halves[which], alignments[f"half_{which}"] = open_tomogram(made), (own, notes)
    del moved

# %% [markdown]
# ## Resolution 1: which lattice lines stand above the noise
#
# Spectra are taken in windows inside the needle and averaged over directions, because each dot has its own
# orientation. Rock salt reflects with $F = 4(f_1 \pm f_2)$, plus for even and minus for odd indices, and in HAADF
# $f \sim Z^{1.7}$. The paper simulates with lead alone, which overstates {111} and {311}; both are drawn. The tomogram
# is not loaded: windows and slices are read from its file as they are needed. First a film is made of it, slice by slice
# along the tilt axis.

# %%
volume = mapping_chunks(tomogram.data)
planes = movies.section_places(tomogram.shape[0], part=box[0])
frames = movies.slice_frames(volume, voxel_nm, box=tuple(box))
heights = pd.DataFrame({"slice": planes, "z_nm": pixel_positions(tomogram.shape[0], voxel_nm)[planes]})
results.save_film(movies.write_movie, frames, run_dir, "tomogram", heights)
windows = resolution.choose_windows(volume, voxel_nm, window_nm=window_nm)
spectrum = resolution.radial_power(volume, voxel_nm, windows=windows)
fig = tomography_figures.plain_spectrum(spectrum)
saved = results.save_figure(fig, run_dir, "power_spectrum", spectrum)

# %%
material = description.material
no_lattice = None if material else "the sample names no material"
if material and material.lattice_nm / np.sqrt(3) < 2.1 * voxel_nm:
    no_lattice = f"voxels of {voxel_nm:g} nm cannot show the {{111}} planes"
stated = {"resolution_nm": np.nan, "family": "", "next_nm": np.nan, "next_family": ""}
if no_lattice is None:
    tried = lattice_lines.families_to_try(spectrum, material.lattice_nm)
    lines, background = lattice_lines.visible_lines(spectrum, material.lattice_nm, families=tried)
    stated = lattice_lines.lattice_resolution(lines)
lines.round(4) if no_lattice is None else no_lattice

# %% [markdown]
# `excess` is the height of a line over the background beneath it, `snr` that height over the error it would have were there
# no line; above 5 it counts as visible. The resolution, as the paper states it, is the finest visible
# spacing, in a bracket with the first one that is not. The paper sees {220} and misses {311}. All lines up to the first
# beyond the Nyquist frequency are tried, so there is always one that is not seen. A twin may show finer lines than the
# paper: a model microscope knows no beam damage, contamination or scan distortion, so its resolution is no measure of the
# paper's. A line says that fringes are there; that they lie where the atoms were takes a good alignment, which the next
# measure tests.
#
# The lines are sums over all directions. In three dimensions the lattice of one dot is a set of *Bragg spots*. They
# are looked for where the lattice is clearest, anywhere between the first and the last family, and only then indexed:
# a rotation that puts them on {111}, {200}, {220} can be no accident. Noise alone exceeds the dashed line once in a
# hundred dots; grey spots are those of neighbours and the tails of strong ones.

# %%
if no_lattice is None:
    dot_nm = description.quantum_dot.diameter_nm if description.quantum_dot else 10 * material.lattice_nm
    place = bragg_spots.clearest_dot(volume, voxel_nm, material.lattice_nm, diameter_nm=dot_nm)
    spots = bragg_spots.bragg_spots(volume, voxel_nm, place, lattice_nm=material.lattice_nm, diameter_nm=dot_nm)
    fig = lattice_figures.bragg_spots(spots.table, spots.others, spots.radii_per_nm, spots.known_threshold)
    tables = {"reflections": spots.table, "others": spots.others}
    results.save_figure(fig, run_dir, "bragg_spots", tables)

# %% [markdown]
# **Fig. 1e** of the paper: that dot seen along a cube axis of its own lattice, over one lattice parameter, with its
# {220} fringes; and the lines beside the simulated ones, all curves relative to their {200}, with what each line stands
# above the noise, in standard errors.
#
# Heights are not those of a crystal alone. Tilts $\Delta\theta$ apart repeat the fringes of every dot
# $1/(q\,\Delta\theta)$ away (notebook 03), so that about $D\,q\,\Delta\theta$ of them stand in a needle of diameter
# $D$: where that is more than one, power grows with $q$, and against {200} the {220} stands up to √2 higher and the
# {111} lower by 0.87. And the simulation has the point spread of `point_spread_nm`, which with thermal motion damps
# {220} to 0.43 of {200}; a microscope has its own. On the twin `tiny` without noise {220} has 0.65 of the power of
# {200} with its tilts of 1.8°, and 0.47 with tilts of 0.45°, whose replicas fall outside; simulated with the twin's
# probe it is 0.50 (`benchmarks/lines_and_tilts.py`).

# %%
if no_lattice is None:
    numbers = lattice_lines.elements(material.name)
    options = {"families": tried, "probe_fwhm_nm": point_spread_nm}
    simulated = {
        name: lattice_lines.rocksalt_lines(material.lattice_nm, numbers, cation_only=only, **options)
        for name, only in (("both", False), ("cation", True))
    }
    options = {"width_per_nm": 1.3 / dot_nm}
    drawn = lattice_lines.spectra_beside(spectrum, background, simulated, material.lattice_nm, **options)
    options = {"lattice_nm": material.lattice_nm, "edge_nm": 1.4 * dot_nm}
    section = bragg_spots.zone_section(volume, voxel_nm, spots, **options)
    fig = lattice_figures.fringes_and_spectrum(section, drawn, lines)
    tables = {"spectrum": drawn, "lines": lines, "dot": pd.DataFrame(section["patch"])}
    results.save_figure(fig, run_dir, "fig_1e_lattice", tables)

# %% [markdown]
# ## A distortion that all dots share
#
# Both halves would agree on it: a drift of 1 nm while the scan of 70 nm proceeds shears everything by 0.8°. But all
# dots share their lattice too, and it is cubic. A tomogram that is the image $x' = Mx$ of the object has its Bragg spots
# at $q'$, with
#
# $$ q'^{\mathsf T} (M M^{\mathsf T})\, q' = |q|^2 , $$
#
# whatever the orientation of a dot; $|q|$ is known from the lattice parameter. Six numbers from hundreds of spots, read
# in windows about single dots: scales along x, y, z and three shears. The mean scale is apart: an error of
# the pixel, of the lattice parameter, or a stretch alike in all directions cannot be told from each other, so it is a
# check of the pixel and is never corrected here. Errors of the angles turn spots about the axis without changing their
# length, and do not show. Drawn is by how much lattice planes seem further apart than they are, by the direction of
# their normals. With `correct_distortion` each image is moved to where the undistorted object would have put it, and the
# tomogram and its halves are made anew; the figures and the lattice lines above keep the distortion, all below is
# without.

# %%
shared, not_told = distortion.UNKNOWN, no_lattice or "no line stands 5 standard errors above the background"
if no_lattice is None and lines["visible"].any():
    # finer lines than these four lie so near each other that the spots of one pass for the other's
    seen = [family for family, visible in zip(lattice_lines.FAMILIES, lines["visible"]) if visible]
    options = {"grain_nm": dot_nm, "families": seen}
    try:
        shared, tops = distortion.measure_distortion(volume, voxel_nm, material.lattice_nm, **options)
        drawn = distortion.spacing_sections(shared, tops)
        fig = distortion_figures.spacings(*drawn)
        results.save_figure(fig, run_dir, "distortion", dict(zip(("measured", "fit"), drawn, strict=True)))
    except distortion.DistortionUnknown as error:
        not_told = str(error)
told = shared.table()
if correct_distortion and has_series and shared.n_spots:
    matrix, volume = shared.matrix(), None  # its file is made anew
    for name, (poses, notes) in alignments.items():
        moved = remove_background(alignment.apply_alignment(series, poses))
        mended = distortion_correction.correct_distortion(moved, matrix)
        made = making | {"attributes": notes | {"distortion_corrected": matrix.tolist()}}
        reconstruct(mended, out=f"{run_dir}/{name}.ome.zarr", **made)
    tomogram, *both = [open_tomogram(f"{run_dir}/{name}.ome.zarr") for name in alignments]
    volume, halves = mapping_chunks(tomogram.data), dict(zip(halves, both, strict=True))
    told["corrected"] = distortion.measure_distortion(volume, voxel_nm, material.lattice_nm, **options)[0].table()["value"]
elif correct_distortion:
    print("nothing is corrected: no distortion is known, or there are no images to correct")
told.round(5) if shared.n_spots else not_told

# %% [markdown]
# ## Resolution 2: Fourier shell correlation
#
# $$ \mathrm{FSC}(q) = \frac{\mathrm{Re}\sum F_1 F_2^*}{\sqrt{\sum |F_1|^2 \sum |F_2|^2}} $$
#
# over the shell of radius q. It knows nothing of lattices. A crystal correlates at low frequencies and again in its
# lines; the first crossing of the threshold stops at the gap between them, so the last shell above it is given
# too. Two cautions: a distortion that both halves share stays invisible; and each half has only every other
# tilt, so at high frequencies the two sample different directions, and the whole tomogram is better than the FSC says.
# Here the halves are compared in the windows of the spectrum, inside the needle; over the whole field, as in the table
# above of the needle beside another program, they agree to finer detail, because the edge of an object in empty space
# correlates well.

# %%
crossings = {name: {"first_nm": np.nan, "last_nm": np.nan} for name in resolution.FSC_THRESHOLDS}
if halves:
    fsc = resolution.fourier_shell_correlation(halves["even"].data, halves["odd"].data, voxel_nm, windows=windows)
    for name, threshold in resolution.FSC_THRESHOLDS.items():
        crossings[name] = resolution.fsc_resolution(fsc, threshold=threshold)
    marks = {name: (resolution.FSC_THRESHOLDS[name], found["first_nm"]) for name, found in crossings.items()}
    fig = tomography_figures.shell_correlation(fsc, marks)
    results.save_figure(fig, run_dir, "fourier_shell_correlation", fsc)

# %% [markdown]
# ## Resolution 3: Crowther's limit
#
# N tilts over 180° sample an object of diameter D without gaps down to $d = \pi D / N$. For the whole disc that is
# the strict limit; but the lattice of one dot, wherever it lies, needs to be sampled only finely enough for
# a dot's own diameter.

# %%
disc_nm = resolution.object_diameter_nm(coarse, coarse_nm)
crowther_disc = crowther_dot = np.nan
if has_series:
    step_deg = float(np.median(np.diff(np.sort(aligned.angles_deg))))
    crowther_disc = resolution.crowther_nm(disc_nm, 1, range_deg=step_deg)
    if description.quantum_dot:
        crowther_dot = resolution.crowther_nm(description.quantum_dot.diameter_nm, 1, range_deg=step_deg)
limits = {"the whole disc": crowther_disc, "one dot": crowther_dot}
told_nm = [f"{name}: {value:.2f} nm" for name, value in limits.items() if np.isfinite(value)]
print(f"diameter {disc_nm:.1f} nm; Crowther's limit for", "; for ".join(told_nm) or "none: the tilts are not known")

# %% [markdown]
# ## The answer

# %%
nothing = no_lattice or "no line stands 5 standard errors above the background"
no_halves = "the correlation begins below the threshold" if halves else "there are no halves of a tilt series"
no_tilts = "a tomogram does not say from which tilts it was made"
no_dot = no_tilts if not has_series else "the sample names no quantum_dot"
bracket = [stated["next_nm"], stated["resolution_nm"]]  # the limit lies between what is not seen and what is
bracket = bracket if np.isfinite(bracket).all() else None
values = [
    results.value("resolution_nm", stated["resolution_nm"], "nm", reason=nothing, interval_95=bracket),
    results.value("fsc_resolution_nm", crossings["0.143"]["first_nm"], "nm", reason=no_halves),
    results.value("fsc_half_resolution_nm", crossings["0.5"]["first_nm"], "nm", reason=no_halves),
    results.value("fsc_last_shell_nm", crossings["0.143"]["last_nm"], "nm", reason=no_halves),
    results.value("crowther_disc_nm", crowther_disc, "nm", reason=no_tilts),
    results.value("crowther_dot_nm", crowther_dot, "nm", reason=no_dot),
    results.value("object_diameter_nm", disc_nm, "nm"),
]
if no_lattice is None:
    beyond = "beyond the Nyquist frequency"
    values += [results.value("line_snr", row.snr, index=row.family, reason=beyond) for row in lines.itertuples()]
    for family in spots.radii_per_nm:
        rows, options = spots.table.query("family == @family"), {"index": family, "reason": "the spots fit no lattice"}
        values.append(results.value("bragg_snr", rows["snr"].mean(), sigma=rows["snr"].sem(), n=len(rows), **options))
        values.append(results.value("bragg_seen", rows["seen"].mean(), n=len(rows), **options))

# %%
for row in told.itertuples():
    interval = [row.value - 1.96 * row.sigma, row.value + 1.96 * row.sigma]
    options = {"sigma": row.sigma, "interval_95": interval, "n": shared.n_spots, "reason": not_told}
    values.append(results.value(f"distortion_{row.name}", row.value, row.unit, **options))
values.append(results.value("distortion_p_value", shared.p_value, n=shared.n_spots, reason=not_told))
if has_series:
    residual = table.loc[table["used"], "residual_nm"]
    values += [
        results.value("axis_tilt_deg", measured.axis_tilt_deg, "deg", n=len(aligned)),
        results.value("image_shear_deg", measured.image_shear_deg, "deg", n=len(aligned)),
        results.value("axis_offset_nm", measured.axis_offset_nm, "nm", n=len(aligned)),
        results.value("alignment_residual_nm", residual.mean(), "nm", n=len(aligned)),
        results.value("alignment_misfit", measured.misfit, n=len(aligned)),
        results.value("images_left_out", left_out, n=len(table)),
        results.value("sirt_correlation", correlation),
    ]

# %%
summary = pd.DataFrame(values).reindex(columns=["name", "index", "value", "unit", "reason"])
results.write_table(run_dir, "resolution.csv", summary)
summary

# %% [markdown]
# ## Exercises
#
# 1. How much coarser would the tomogram be with every third tilt left out? Ask Crowther for one dot, then the data.
# 2. Lead alone overstates {111}. By what factor, relative to {200}?

# %% tags=["solution"]
if has_series and no_lattice is None:
    kept = aligned.select(np.arange(len(aligned)) % 3 > 0)
    first, last, step = windows[0][0].start, windows[0][0].stop, 16
    slabs = [(z, min(z + step, last)) for z in range(first, last, step)]  # of whole slices one window is kept
    options = {"device": where, "memory": making["memory"]}
    block = np.concatenate([reconstruct(kept, slab=slab, **options)[:, *windows[0][1:]] for slab in slabs])
    thinned = resolution.radial_power(block, voxel_nm, windows=[tuple(slice(0, n) for n in block.shape)])
    fewer, _ = lattice_lines.visible_lines(thinned, material.lattice_nm)
    print(f"Crowther for one dot: {crowther_dot:.3f} nm becomes {1.5 * crowther_dot:.3f} nm")
    print(fewer[["family", "excess", "snr"]].round(2))

# %% tags=["solution"]
both = lattice_lines.rocksalt_lines(0.612, (82, 34)).intensity
lead = lattice_lines.rocksalt_lines(0.612, (82, 34), cation_only=True).intensity
print(f"{(lead[0] / lead[1]) / (both[0] / both[1]):.1f} times")

# %%
results.record(run_dir, "01_reconstruction", values, facts={"engine": engine, "device": where})

# %% [markdown]
# **What comes next.** [02_centres](02_centres.ipynb) finds every dot in `tomogram.ome.zarr`, and compares the two halves.
