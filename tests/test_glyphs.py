"""Scenes: geometry, both renderers, sections under them, and life without a graphics library."""

from dataclasses import replace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from mesotomo_utils import lattice
from mesotomo_utils.visualization import figures, glyph_figures, glyphs, sheet_figures, slices

mpl.use("Agg")
CELL = lattice.cell_matrix(6.2, 5.9, 5.7, 98.0, 95.0, 93.0)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def scene():
    rng = np.random.default_rng(0)
    turn = lattice.from_rotation_vectors(np.array([0.05, 0.03, 0.4]))
    V = turn @ CELL
    sites = np.array(list(np.ndindex(3, 3, 4)))
    row = {tuple(site): n for n, site in enumerate(sites)}
    pairs = [
        (n, row[tuple(s + step)], axis)
        for n, s in enumerate(sites)
        for axis, step in zip("ABC", np.eye(3, dtype=int), strict=True)
        if tuple(s + step) in row
    ]
    R = turn @ lattice.from_rotation_vectors(rng.normal(0, 0.05, (len(sites), 3)))
    return glyph_figures.GlyphScene(
        centres_nm=(sites - sites.mean(axis=0)) @ V.T,
        R=R,
        misorientation_deg=rng.uniform(0, 8, len(sites)),
        sites=sites,
        pairs=np.array([p[:2] for p in pairs]),
        axes=np.array([p[2] for p in pairs]),
        diameters_nm=np.where(rng.random(len(pairs)) < 0.1, 0.0, rng.normal(3, 0.5, len(pairs))),
        cell=V,
        frame=lattice.film_frame(V),
        edge_nm=4.0,
    )


def enclosed_volume(mesh):
    """Volume from outward faces, by the divergence theorem over triangles."""
    a, b, c, d = np.moveaxis(mesh.points[mesh.faces], 1, 0)
    return sum(np.einsum("ni,ni->n", p, np.cross(q, r)).sum() for p, q, r in ((a, b, c), (a, c, d))) / 6


def test_cubes_are_closed_turned_outward_and_true_to_size():
    R = lattice.from_rotation_vectors(np.random.default_rng(2).normal(size=(5, 3)))
    centres = 10.0 * np.arange(15).reshape(5, 3)
    mesh = glyphs.cube_mesh(centres, R, edge_nm=3.0, colours=np.ones((5, 3)))
    assert enclosed_volume(mesh) == pytest.approx(5 * 27.0)
    np.testing.assert_allclose(mesh.points.reshape(5, 8, 3).mean(axis=1), centres, atol=1e-9)
    # The faces are the (100) planes: their centres lie half an edge along a, b, c.
    face_centres = mesh.points[mesh.faces].mean(axis=1).reshape(5, 6, 3) - centres[:, None]
    along = np.einsum("nfi,nij->nfj", face_centres, R)
    np.testing.assert_allclose(np.abs(along).sum(axis=2), 1.5, atol=1e-9)


def test_unknown_orientations_are_left_out():
    R = np.stack([np.eye(3), np.full((3, 3), np.nan)])
    assert len(glyphs.cube_mesh(np.zeros((2, 3)), R, edge_nm=1.0, colours=np.ones((2, 3))).faces) == 6


def test_sticks_have_the_diameter_asked_for():
    ends = np.array([[0.0, 0.0, 5.0], [4.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    mesh = glyphs.stick_mesh(
        np.zeros((3, 3)), ends, diameters_nm=np.array([2.0, 1.0, 0.0]), colours=np.ones((3, 3)), sides=64
    )
    quads = mesh.points[mesh.faces]
    area = np.linalg.norm(np.cross(quads[:, 1] - quads[:, 0], quads[:, 3] - quads[:, 0]), axis=1)
    assert area.sum() == pytest.approx(np.pi * (2.0 * 5.0 + 1.0 * 4.0), rel=1e-2)  # the third has none
    middle = quads.mean(axis=1)
    normal = np.cross(quads[:, 1] - quads[:, 0], quads[:, 3] - quads[:, 0])
    first = slice(0, 3 * 64)
    assert (np.einsum("ni,ni->n", normal[first, :2], middle[first, :2]) > 0).all()  # outward


def test_view_frames_are_right_handed():
    frame = glyphs.turntable(np.eye(3), azimuth_deg=-60.0, elevation_deg=25.0)
    np.testing.assert_allclose(frame @ frame.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(frame) == pytest.approx(1.0)
    assert frame[1, 2] > 0.9  # the film normal points up
    with pytest.raises(ValueError, match="up must not be parallel"):
        glyphs.view_frame([0, 0, 1], [0, 0, 1])


def asymmetric():
    """A red cube to the right, a blue one up, a green one towards the viewer, for a view along −z."""
    centres = np.array([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0], [0.0, 0.0, 0.0]])
    colours = np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0], [1, 1, 1]], dtype=float)
    R = np.repeat(np.eye(3)[None], 4, axis=0)
    return glyphs.cube_mesh(centres, R, edge_nm=2.0, colours=colours)


def pick(picture, right_nm, up_nm):
    """RGBA of a picture at a place."""
    left, right, bottom, top = picture.extent_nm
    rows, columns = picture.image.shape[:2]
    column = int((right_nm - left) / (right - left) * columns)
    row = int((top - up_nm) / (top - bottom) * rows)
    return picture.image[row, column].astype(int)


def needs(renderer):
    if renderer == "pyvista" and not glyphs.rendering_works():
        pytest.skip(f"no off-screen rendering here: {glyphs.INSTALL_LINE}")


@pytest.mark.parametrize("renderer", glyphs.RENDERERS)
def test_things_are_drawn_where_they_are(renderer):
    needs(renderer)
    frame = glyphs.view_frame([0, 0, 1], [0, 1, 0])
    picture = glyphs.render(asymmetric(), frame, extent_nm=(-8, 8, -6, 6), pixels_wide=320, renderer=renderer)
    assert picture.image.shape == (240, 320, 4)
    assert picture.renderer == renderer
    assert pick(picture, 4.0, 0.0)[:3].argmax() == 0  # red, right
    assert pick(picture, 0.0, 4.0)[:3].argmax() == 2  # blue, up
    assert pick(picture, 0.0, 0.0)[:3].argmax() == 1  # green hides white behind it
    assert pick(picture, -4.0, 0.0)[3] == 0  # transparent where nothing is
    assert pick(picture, 4.9, 0.0)[3] == 255  # one scale in nm
    assert pick(picture, 5.2, 0.0)[3] == 0


def test_both_renderers_draw_the_same(scene):
    needs("pyvista")
    view = glyphs.turntable(scene.frame, azimuth_deg=-60.0, elevation_deg=25.0)
    ours, theirs = (glyphs.render(scene.mesh(), view, pixels_wide=500, renderer=r).image for r in glyphs.RENDERERS)
    covered = np.stack([ours[..., 3] > 128, theirs[..., 3] > 128])
    assert covered.all(axis=0).sum() / covered.any(axis=0).sum() > 0.97
    both = covered.all(axis=0)
    assert np.abs(ours[both][:, :3].astype(int) - theirs[both][:, :3]).mean() < 12


def test_without_a_graphics_library_matplotlib_draws(monkeypatch, scene):
    """The process that tries VTK dies by a segmentation fault; ours goes on."""
    monkeypatch.delenv("MESOTOMO_RENDERER", raising=False)
    monkeypatch.setattr(glyphs, "_PROBE", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    glyphs.rendering_works.cache_clear()
    try:
        assert not glyphs.rendering_works()
        fig, drawn_by = glyph_figures.exploded_figure(scene)
    finally:
        glyphs.rendering_works.cache_clear()
    assert drawn_by == "matplotlib"
    assert {"C1", "C3"} <= {text.get_text() for ax in fig.axes for text in ax.texts}


def test_the_environment_chooses_the_renderer(monkeypatch):
    monkeypatch.setenv("MESOTOMO_RENDERER", "matplotlib")
    assert glyphs.choose_renderer() == "matplotlib"
    assert glyphs.renderer_forced()
    monkeypatch.setenv("MESOTOMO_RENDERER", "povray")
    with pytest.raises(ValueError, match="MESOTOMO_RENDERER"):
        glyphs.choose_renderer()


def test_an_empty_scene_is_refused():
    empty = glyphs.cube_mesh(np.zeros((0, 3)), np.zeros((0, 3, 3)), edge_nm=1.0, colours=np.zeros((0, 3)))
    with pytest.raises(ValueError, match="no faces"):
        glyphs.render(empty, np.eye(3), renderer="matplotlib")


def test_a_section_shows_a_bead_where_it_is():
    """A bead at (x, y, z) = (3, −2, 1) nm in an asymmetric volume, seen along an arbitrary direction."""
    voxel, shape = 0.25, (70, 60, 80)
    z, y, x = ((np.arange(n) - (n - 1) / 2) * voxel for n in shape)
    bead = np.array([3.0, -2.0, 1.0])
    r2 = (x - bead[0]) ** 2 + ((y - bead[1]) ** 2)[:, None] + ((z - bead[2]) ** 2)[:, None, None]
    volume = np.exp(-r2 / 0.5).astype(np.float32)
    frame = glyphs.view_frame([0.3, -0.2, 1.0], [0.1, 1.0, 0.0])
    place = frame @ bead
    extent = (-6.0, 6.0, -5.0, 5.0)
    image = slices.plane_image(volume, voxel, frame, depth_nm=place[2], extent_nm=extent, pixel_nm=0.1)
    assert image.shape == (100, 120)
    row, column = np.unravel_index(np.nanargmax(image), image.shape)
    assert extent[0] + (column + 0.5) * 0.1 == pytest.approx(place[0], abs=0.15)
    assert extent[2] + (row + 0.5) * 0.1 == pytest.approx(place[1], abs=0.15)
    assert np.nanmax(image) > 0.85  # trilinear interpolation flattens the peak
    away = slices.plane_image(volume, voxel, frame, depth_nm=place[2] + 3.0, extent_nm=extent, pixel_nm=0.1)
    assert np.nanmax(away) < 1e-3
    with pytest.raises(ValueError, match=r"\[z, y, x\]"):
        slices.plane_image(volume[0], voxel, frame, depth_nm=0.0, extent_nm=extent)


def test_figures_with_and_without_tomogram(scene):
    figures.use_style()
    volume = np.random.default_rng(1).random((80, 80, 80), dtype=np.float32)
    views = [glyph_figures.plan_view(scene, 1), glyph_figures.side_view(scene, "A")]
    plain, drawn_by = glyph_figures.overlay_figure(scene, views, renderer="matplotlib")
    filled = [glyph_figures.with_section(view, volume, 0.5) for view in views]
    over, _ = glyph_figures.overlay_figure(scene, filled, renderer="matplotlib")
    assert drawn_by == "matplotlib"
    assert (len(plain.axes), len(over.axes)) == (4, 6)  # panels and two colour bars
    labels = [bar.get_xlabel() for bar in over.axes[-2:]]
    assert "°" in labels[0]
    assert "nm" in labels[1]
    with pytest.raises(ValueError, match="no layer C9"):
        glyph_figures.plan_view(scene, 9)


def test_a_scene_without_orientations_and_necks_is_grey(scene):
    bare = replace(
        scene,
        R=np.full_like(scene.R, np.nan),
        misorientation_deg=np.full(len(scene.R), np.nan),
        diameters_nm=np.full(len(scene.pairs), np.nan),
    )
    mesh = bare.mesh()
    np.testing.assert_allclose(mesh.colours, glyph_figures.UNMEASURED[0])
    assert mesh.edged.sum() == 6 * len(scene.R)
    fig, _ = glyph_figures.exploded_figure(bare, renderer="matplotlib")
    texts = " ".join(text.get_text() for ax in fig.axes for text in ax.texts)
    assert "orientation not measured" in texts


def test_side_view_looks_along_the_sheet(scene):
    view = glyph_figures.side_view(scene, "B", row=1)
    assert set(scene.sites[view.shown, 0]) == {1}
    assert (view.frame @ scene.cell[:, 1])[0] == pytest.approx(np.linalg.norm(scene.cell[:, 1]))  # B to the right
    assert (view.frame @ scene.cell[:, 2])[1] > 0  # C upwards
    heights = list(view.marks.values())
    assert list(view.marks) == ["C1", "C2", "C3", "C4"]
    assert heights == sorted(heights)


def test_style_keeps_text_and_colours_apart():
    figures.use_style()
    assert mpl.rcParams["svg.fonttype"] == "none"
    assert len(set(figures.layer_colours(9))) == 9
    with pytest.raises(ValueError, match="number of layers"):
        figures.layer_colours(0)


def test_scale_bar_is_true_and_changes_nothing():
    _, ax = plt.subplots()
    figures.show_image(ax, np.eye(200, 300), pixel_nm=0.2, bar_nm=10.0)
    before = ax.get_xlim(), ax.get_ylim()
    assert before == ((-30.0, 30.0), (-20.0, 20.0))
    assert np.ptp(ax.lines[-1].get_xdata()) == pytest.approx(10.0)
    assert [t.get_text() for t in ax.texts] == ["10 nm"]


@pytest.mark.parametrize("name", ["layers", "A", "B"])
def test_planes_stand_side_by_side_with_their_own_dots_and_necks(scene, name):
    if name == "layers":
        plane, frame = scene.layers, glyphs.view_frame(scene.frame[:, 2], scene.frame[:, 1])
    else:
        plane, frame = scene.sites[:, 1 - "AB".index(name)], glyph_figures.side_frame(scene, name)
    sheet = sheet_figures.side_by_side(scene, plane, frame, "plane {}", 1.5)
    present = np.unique(plane)
    assert list(sheet.names) == [f"plane {p}" for p in present]
    assert sheet.left_out == ""
    places = glyphs.project(sheet.mesh.points, frame)
    assert (places > 0).all()
    assert (places < [sheet.width_nm, sheet.height_nm]).all()
    # every plane's cubes as in the scene but for one shift, and under its own name
    cubes = places[: 8 * len(plane)].reshape(-1, 8, 2).mean(axis=1)
    before = glyphs.project(scene.centres_nm, frame)
    for p in present:
        shift = (cubes - before)[plane == p]
        np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-9)
        x, y = sheet.names[f"plane {p}"]
        assert (cubes[plane == p, 0] > x).all()
        assert (cubes[plane == p, 1] < y).all()
    gaps = np.linalg.norm(cubes[:, None] - cubes, axis=2)
    assert gaps[plane[:, None] != plane].min() > scene.edge_nm
    within = (plane[scene.pairs[:, 0]] == plane[scene.pairs[:, 1]]) & (scene.diameters_nm > 0)
    assert (~sheet.mesh.edged).sum() == 36 * within.sum()
    # the colours are those of the whole scene, whose bars stand below
    np.testing.assert_allclose(sheet.mesh.colours[: 6 * len(plane) : 6], scene.cube_colours)


@pytest.mark.parametrize(("limit", "most"), [("MOST_PLANES", 2), ("MOST_DOTS", 24)])
def test_of_many_planes_some_are_drawn_and_the_figure_says_so(scene, monkeypatch, limit, most):
    monkeypatch.setattr(sheet_figures, limit, most)
    fig, _ = sheet_figures.layers_figure(scene, renderer="matplotlib")
    assert "layers from above, 2 of 4" in [ax.get_title(loc="left") for ax in fig.axes]
    names = [text.get_text() for ax in fig.axes for text in ax.texts]
    assert {"C1", "C4", "A", "B"} <= set(names)
    assert "C2" not in names
    fig, name = sheet_figures.sheets_figure(scene, renderer="matplotlib")
    assert name == "matplotlib"
    assert {"(100) sheets, 2 of 3", "(010) sheets, 2 of 3"} <= {ax.get_title(loc="left") for ax in fig.axes}


def test_views_of_one_figure_have_one_scale(scene):
    views = [glyph_figures.plan_view(scene, 1), glyph_figures.side_view(scene, "A")]
    grown = glyph_figures.same_size(views)
    sizes = [np.ptp(np.reshape(view.extent_nm, (2, 2)), axis=1) for view in grown]
    np.testing.assert_allclose(sizes[0], sizes[1])
    for before, after in zip(views, grown, strict=True):
        old, new = (np.reshape(view.extent_nm, (2, 2)) for view in (before, after))
        np.testing.assert_allclose(old.mean(axis=1), new.mean(axis=1))
        assert (new[:, 0] <= old[:, 0] + 1e-9).all()
    fig, _ = glyph_figures.overlay_figure(scene, grown, renderer="matplotlib")
    fig.canvas.draw()
    panels = [ax for ax in fig.axes if ax.get_images()]
    scales = [ax.get_window_extent().width / np.ptp(ax.get_xlim()) for ax in panels]
    assert scales == pytest.approx([scales[0]] * len(panels), rel=1e-3)
