"""The page on which the scene turns: read back, closed to the network, and drawn where there is a browser."""

import base64
import io
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import matplotlib as mpl
import matplotlib.image
import numpy as np
import pytest

from mesotomo_utils import lattice
from mesotomo_utils.visualization import export, glyph_figures, glyphs, turning

mpl.use("Agg")
CELL = lattice.cell_matrix(6.2, 5.9, 5.7, 98.0, 95.0, 93.0)


def made(shape=(3, 4, 3)):
    """A scene of dots in a box, turned in the lab, with necks of many sizes, one in ten missing."""
    rng = np.random.default_rng(1)
    V = lattice.from_rotation_vectors(np.array([0.05, 0.03, 0.4])) @ CELL
    sites = np.array(list(np.ndindex(*shape)))
    row = {tuple(site): n for n, site in enumerate(sites)}
    pairs = [
        (n, row[tuple(s + step)], axis)
        for n, s in enumerate(sites)
        for axis, step in zip("ABC", np.eye(3, dtype=int), strict=True)
        if tuple(s + step) in row
    ]
    diameters = rng.normal(3, 0.5, len(pairs))
    diameters[::10] = 0.0
    return glyph_figures.GlyphScene(
        centres_nm=(sites - sites.mean(axis=0)) @ V.T + [1.0, -2.0, 3.0],
        R=lattice.from_rotation_vectors(rng.normal(0, 0.2, (len(sites), 3))),
        misorientation_deg=rng.uniform(0, 8, len(sites)),
        sites=sites,
        pairs=np.array([p[:2] for p in pairs]),
        axes=np.array([p[2] for p in pairs]),
        diameters_nm=diameters,
        cell=V,
        frame=lattice.film_frame(V),
        edge_nm=4.0,
    )


def corners(page):
    """Corners (n_dots, 8, 3) of the cubes of a page, nm."""
    turned = np.einsum("nij,kj->nki", page["orientations"], glyphs.CORNERS * page["edge_nm"] / 2)
    return page["centres_nm"][:, None] + turned


def test_the_page_holds_the_scene_that_the_pictures_draw(tmp_path):
    scene = made()
    path = export.write_scene_html(tmp_path / "glyphs.html", turning.page(scene, title="Cubes & sticks"))
    text = path.read_text(encoding="utf-8")
    page, mesh = turning.read_page(text), scene.mesh()
    joined = scene.diameters_nm > 0
    assert (page["n_dots"], page["n_dots_in_all"], page["n_necks"]) == (36, 36, joined.sum())
    assert mesh.edged.sum() == 6 * page["n_dots"]
    np.testing.assert_allclose(corners(page).reshape(-1, 3), mesh.points[: 8 * 36], atol=1e-5)
    np.testing.assert_allclose(page["dot_rgb"], 255 * mesh.colours[: 6 * 36 : 6], atol=0.51)
    # sticks: ends on the axis of the prisms, half as thick as the necks, coloured as they are
    rings = mesh.points[8 * 36 :].reshape(len(page["neck_ends_nm"]), -1, 12, 3)
    np.testing.assert_allclose(page["neck_ends_nm"], rings[:, [0, -1]].mean(axis=2), atol=1e-5)
    np.testing.assert_allclose(page["neck_diameters_nm"], scene.diameters_nm[joined] / 2, atol=1e-6)
    np.testing.assert_allclose(page["neck_rgb"], 255 * mesh.colours[6 * 36 :: 36], atol=0.51)
    np.testing.assert_allclose(np.ptp(page["dot_layer"]), 2)
    assert "<title>Cubes &amp; sticks</title>" in text
    assert f"36 dots and {joined.sum()} necks" in text
    assert "misorientation from R<sub>mono</sub> (°)" in text
    assert list(tmp_path.iterdir()) == [path]


class Attributes(HTMLParser):
    """All tags and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found += [(tag, *pair) for pair in attrs] or [(tag, None, None)]


LOADS = re.compile(
    r"https?:|//[\w.-]+\.\w|@import|url\(|fetch\(|XMLHttpRequest|import\(|import |WebSocket|EventSource|sendBeacon"
)


def loads(text):
    """What of a page, its numbers taken out, asks for another file."""
    bare = re.sub(r'(id="scene">).*?(</script>)', r"\1\2", text, flags=re.S)
    named = [(t, a) for t, a, _ in Attributes(bare).found if a in ("src", "href", "srcset", "data", "poster", "action")]
    tags = [t for t, *_ in Attributes(bare).found if t in ("link", "img", "iframe", "object", "embed", "base", "video")]
    return [*named, *tags, *LOADS.findall(bare)]


def test_the_page_asks_nobody_for_anything():
    text = turning.page(made(), title="closed")
    assert loads(text) == []
    [policy] = [v for t, a, v in Attributes(text).found if t == "meta" and a == "content"]
    assert policy == "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"
    for guest in ('<script src="x.js"></script>', "<script>fetch('x')</script>", '<link rel="stylesheet">'):
        assert loads(text.replace("</body>", guest + "</body>"))


def test_a_large_scene_is_cut_to_the_middle_of_all_layers_and_says_so():
    scene = made((6, 6, 3))
    text = turning.page(scene, title="cut", most_dots=27)
    page = turning.read_page(text)
    assert (page["n_dots"], page["n_dots_in_all"]) == (27, 108)
    assert "27 dots" in text
    assert "of all layers nearest to the film's middle, of 108 in all" in text
    in_plane = (page["centres_nm"] - scene.centres_nm.mean(axis=0)) @ scene.frame[:, :2]
    everyone = np.linalg.norm((scene.centres_nm - scene.centres_nm.mean(axis=0)) @ scene.frame[:, :2], axis=1)
    assert np.linalg.norm(in_plane, axis=1).max() == pytest.approx(np.sort(everyone)[26], abs=1e-5)
    assert len(np.unique(page["dot_layer"])) == 3
    # no stick hangs in the air
    ends = page["neck_ends_nm"].reshape(-1, 3)
    away = np.linalg.norm(ends[:, None] - page["centres_nm"], axis=2).min(axis=1)
    assert away.max() < page["edge_nm"] / 2
    with pytest.raises(ValueError, match="most_dots = 0"):
        turning.page(scene, title="none", most_dots=0)


def test_a_hundred_thousand_dots_make_a_page_of_bounded_size():
    small, n = made(), 100_000
    scene = replace(
        small,
        centres_nm=np.random.default_rng(0).normal(0, 100, (n, 3)),
        R=np.broadcast_to(np.eye(3), (n, 3, 3)),
        misorientation_deg=np.zeros(n),
        sites=np.zeros((n, 3), int),
    )
    text = turning.page(scene, title="many")
    assert len(text) < 3e6
    assert turning.read_page(text)["n_dots"] == turning.MOST_DOTS < n


def test_unknown_orientations_and_necks_are_grey_and_named():
    scene = made()
    blank = replace(
        scene,
        R=np.full_like(scene.R, np.nan),
        misorientation_deg=np.full(36, np.nan),
        diameters_nm=np.full(len(scene.pairs), np.nan),
    )
    text = turning.page(blank, title="centres only")
    page = turning.read_page(text)
    np.testing.assert_allclose(page["orientations"], np.broadcast_to(scene.frame, (36, 3, 3)), atol=1e-6)
    assert (page["dot_rgb"] == page["dot_rgb"][0, 0]).all()
    assert page["n_necks"] == len(scene.pairs)
    assert glyph_figures.CUBES_UNMEASURED in text
    assert glyph_figures.STICKS_UNMEASURED in text


def test_a_page_cut_short_is_refused():
    text = turning.page(made(), title="whole")
    with pytest.raises(ValueError, match="holds no scene"):
        turning.read_page("<html></html>")
    with pytest.raises(ValueError, match="centres_nm has 108 numbers"):
        turning.read_page(text.replace('"n_dots": 36', '"n_dots": 37'))


def test_a_notebook_gets_the_page_and_a_still_picture():
    view = turning.interactive(made(), title="both", renderer="matplotlib")
    bundle = view._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    inside = unescape(re.search(r'srcdoc="([^"]*)"', bundle["text/html"]).group(1))
    assert inside == view.page
    assert 'sandbox="allow-scripts"' in bundle["text/html"]
    picture = mpl.image.imread(io.BytesIO(view.still), format="png")
    assert picture.shape[1] == turning.STILL_PIXELS
    assert 0.1 < (picture[..., 3] > 0).mean() < 0.95  # something is drawn, and not everywhere


READ_BACK = """<script>setTimeout(function read() {
  if (!perNm) { setTimeout(read, 100); return; }
  const w = canvas.width, h = canvas.height, pixels = new Uint8Array(4 * w * h);
  gl.readPixels(0, 0, w, h, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  let text = "";
  for (let k = 0; k < 4 * w * h; k += 4) text += String.fromCharCode(pixels[k], pixels[k + 1], pixels[k + 2]);
  Object.assign(document.body.dataset, {size: `${w} ${h} ${perNm}`, picture: btoa(text)});
}, 500)</script></body>"""


def test_a_browser_draws_what_the_pictures_show(tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    if browser is None:
        pytest.skip("no browser here: the page was read but not drawn")
    scene = made()
    text = turning.page(scene, title="drawn").replace("</body>", READ_BACK)
    path = export.write_scene_html(tmp_path / "glyphs.html", text)
    options = ["--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000", "--dump-dom"]
    command = [browser, *options, "--window-size=800,900", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    if 'id="note">This browser has no WebGL' in done.stdout:
        pytest.skip("the browser here has no WebGL: the page was read but not drawn")
    triangles = 12 * 36 + 20 * int((scene.diameters_nm > 0).sum())
    assert f'data-drawn="{triangles} triangles"' in done.stdout
    wide, high, per_nm = map(float, re.search(r'data-size="([^"]+)"', done.stdout).group(1).split())
    seen = np.frombuffer(base64.b64decode(re.search(r'data-picture="([^"]+)"', done.stdout).group(1)), np.uint8)
    seen = seen.reshape(int(high), int(wide), 3)[::-1].astype(int)
    # the same view by the other renderer, to the same scale
    view, reach = turning.start_view(scene), np.array([wide, high]) / 2 / per_nm
    low, top = (glyphs.project(np.array(turning.read_page(text)["middle_nm"]), view) + s * reach for s in (-1, 1))
    extent = (low[0], top[0], low[1], top[1])
    picture = glyphs.render(scene.mesh(), view, extent_nm=extent, pixels_wide=int(wide), renderer="matplotlib").image
    opaque = picture[..., 3:] / 255
    expected = picture[..., :3] * opaque + 255 * (1 - opaque)
    drawn = opaque[..., 0] > 0.5
    assert 0.05 < drawn.mean() < 0.9
    off = np.abs(seen - expected).max(axis=2) > 40
    assert off[drawn].mean() < 0.15  # outlines and the rounding of sticks
    assert off[~drawn].mean() < 0.02
