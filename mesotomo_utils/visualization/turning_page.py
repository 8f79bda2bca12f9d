"""The text of the page on which a scene turns: no library, nothing loaded; the browser's own WebGL draws.

``turning.page`` fills in ``@TITLE@``, ``@NOTE@``, ``@BARS@`` and ``@SCENE@``.
"""

PAGE = r"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<title>@TITLE@</title>
<style>
html, body { margin: 0; height: 100%; overflow: hidden; background: #fff; color: #222; font: 13px/1.35 sans-serif; }
body { display: flex; flex-direction: column; }
header, footer { padding: 6px 12px; }
h1 { font-size: 15px; margin: 0; }
main { flex: 1; position: relative; min-height: 0; }
canvas { position: absolute; width: 100%; height: 100%; cursor: grab; touch-action: none; }
svg { position: absolute; right: 6px; top: 0; pointer-events: none; }
#scale { position: absolute; left: 14px; bottom: 8px; border-top: 3px solid #222; text-align: center; }
footer { display: flex; flex-wrap: wrap; gap: 6px 28px; align-items: flex-start; }
.bar { width: 250px; }
.bar i { display: block; height: 10px; }
.bar div { display: flex; justify-content: space-between; }
</style>
</head>
<body>
<header><h1>@TITLE@</h1><div id="note">@NOTE@</div></header>
<main>
<canvas></canvas>
<svg width="120" height="120" viewBox="-60 -60 120 120" font-size="14" font-weight="bold" text-anchor="middle">
<g stroke="#D55E00" fill="#D55E00"><line stroke-width="2.5"/><text stroke="none" dy="5">A</text></g>
<g stroke="#0072B2" fill="#0072B2"><line stroke-width="2.5"/><text stroke="none" dy="5">B</text></g>
<g stroke="#009E73" fill="#009E73"><line stroke-width="2.5"/><text stroke="none" dy="5">C</text></g>
</svg>
<div id="scale"></div>
</main>
<footer>@BARS@<label>layers apart <input id="apart" type="range" min="0" max="1" step="0.01" value="0"></label>
<span>drag: turn · shift and drag: move · wheel: nearer · double click: back</span></footer>
<script type="application/json" id="scene">@SCENE@</script>
<script>
"use strict";
const scene = JSON.parse(document.getElementById("scene").textContent);
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer;
const floats = name => new Float32Array(bytes(scene[name]));
const colours = name => new Uint8Array(bytes(scene[name]));
const canvas = document.querySelector("canvas");
const gl = canvas.getContext("webgl", {antialias: true, preserveDrawingBuffer: true});
if (!gl) document.getElementById("note").textContent = "This browser has no WebGL: the scene cannot be drawn.";

// ---- cubes and sticks to triangles: place, normal, place on the face, colour, layer
const nCubes = scene.n_dots, nSticks = scene.n_necks, SIDES = 10;
const vertices = 36 * nCubes + 6 * SIDES * nSticks;
const place = new Float32Array(3 * vertices), normal = new Float32Array(3 * vertices);
const face = new Int8Array(2 * vertices), colour = new Uint8Array(3 * vertices), layer = new Float32Array(vertices);
let at = 0;
function put(p, n, u, v, c, k, l) {
  place.set(p, 3 * at); normal.set(n, 3 * at);
  face[2 * at] = u; face[2 * at + 1] = v;
  colour[3 * at] = c[3 * k]; colour[3 * at + 1] = c[3 * k + 1]; colour[3 * at + 2] = c[3 * k + 2];
  layer[at++] = l;
}
const quad = [[-1, -1], [1, -1], [1, 1], [-1, -1], [1, 1], [-1, 1]];
{
  const centres = floats("centres_nm"), R = floats("orientations"), c = colours("dot_rgb"), l = floats("dot_layer");
  const half = scene.edge_nm / 2;
  for (let k = 0; k < nCubes; k++) {
    const axis = j => [R[9 * k + j], R[9 * k + 3 + j], R[9 * k + 6 + j]];  // columns: a, b, c
    for (let j = 0; j < 3; j++) for (const side of [-1, 1]) {
      const n = axis(j).map(x => side * x), s = axis((j + 1) % 3), t = axis((j + 2) % 3);
      for (const [u, v] of quad)
        put([0, 1, 2].map(i => centres[3 * k + i] + half * (n[i] + u * s[i] + v * t[i])), n,
            127 * u, 127 * v, c, k, l[k]);
    }
  }
}
{
  const ends = floats("neck_ends_nm"), d = floats("neck_diameters_nm");
  const c = colours("neck_rgb"), l = floats("neck_layers");
  const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  const unit = a => { const q = Math.hypot(...a); return a.map(x => x / q); };
  for (let k = 0; k < nSticks; k++) {
    const p = [0, 1, 2].map(i => ends[6 * k + i]), q = [0, 1, 2].map(i => ends[6 * k + 3 + i]);
    const along = unit(q.map((x, i) => x - p[i]));
    const u = unit(cross(along, Math.abs(along[2]) < 0.9 ? [0, 0, 1] : [1, 0, 0])), v = cross(along, u);
    const step = 2 * Math.PI / SIDES, round = m => u.map((x, i) => Math.cos(step * m) * x + Math.sin(step * m) * v[i]);
    for (let m = 0; m < SIDES; m++) for (const [s, t] of quad) {
      const n = round(m + (s + 1) / 2), far = t > 0;
      put([0, 1, 2].map(i => (far ? q : p)[i] + d[k] / 2 * n[i]), n, 0, 0, c, k, l[2 * k + (far ? 1 : 0)]);
    }
  }
}

// ---- the program: parallel projection, a light over the viewer's left shoulder, dark outlines of the cubes
const shader = (type, text) => {
  const s = gl.createShader(type);
  gl.shaderSource(s, text); gl.compileShader(s);
  if (!gl.getShaderParameter(s, gl.COMPILE_STATUS)) throw gl.getShaderInfoLog(s);
  gl.attachShader(program, s);
};
const program = gl.createProgram();
shader(gl.VERTEX_SHADER, `
  attribute vec3 place, normal, colour; attribute vec2 face; attribute float layer;
  uniform mat3 view; uniform vec3 middle, lift; uniform vec2 scale, shift; uniform float apart, depth;
  varying vec3 tint; varying vec2 side;
  void main() {
    vec3 p = view * (place + apart * layer * lift - middle);
    float light = max(dot(normalize(view * normal), normalize(vec3(-0.4, 0.6, 1.0))), 0.0);
    tint = min(colour * (0.45 + 0.6 * light), 1.0); side = face;
    gl_Position = vec4((p.xy + shift) * scale, -p.z / depth, 1.0);
  }`);
shader(gl.FRAGMENT_SHADER, `
  precision mediump float; varying vec3 tint; varying vec2 side;
  void main() {
    float border = max(abs(side.x), abs(side.y));
    gl_FragColor = vec4(border > 0.95 ? vec3(0.12) : tint, 1.0);
  }`);
gl.linkProgram(program); gl.useProgram(program);
const attribute = (name, data, size, type, scaled) => {
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
  const where = gl.getAttribLocation(program, name);
  gl.enableVertexAttribArray(where); gl.vertexAttribPointer(where, size, type, scaled, 0, 0);
};
attribute("place", place, 3, gl.FLOAT, false); attribute("normal", normal, 3, gl.FLOAT, false);
attribute("face", face, 2, gl.BYTE, true); attribute("colour", colour, 3, gl.UNSIGNED_BYTE, true);
attribute("layer", layer, 1, gl.FLOAT, false);
const uniform = name => gl.getUniformLocation(program, name);
gl.enable(gl.DEPTH_TEST); gl.clearColor(1, 1, 1, 1);

// ---- the view: rows right, up and towards the viewer
const start = scene.view.map(row => row.slice());
let view, shift, zoom;
const reset = () => { view = start.map(row => row.slice()); shift = [0, 0]; zoom = 1; };
const apart = document.getElementById("apart");
function turn(right, up) {  // about the picture's own axes
  const mix = (i, j, angle) => {
    const c = Math.cos(angle), s = Math.sin(angle), a = view[i], b = view[j];
    view[i] = a.map((x, k) => c * x + s * b[k]); view[j] = b.map((x, k) => c * x - s * a[k]);
  };
  mix(0, 2, right); mix(1, 2, up);
}
let perNm;
function draw() {
  const ratio = window.devicePixelRatio || 1, w = canvas.clientWidth, h = canvas.clientHeight;
  if (!w || !h) return;  // not laid out yet
  canvas.width = w * ratio; canvas.height = h * ratio;
  gl.viewport(0, 0, canvas.width, canvas.height);
  const tall = scene.radius_nm + Number(apart.value) * scene.lift_reach_nm;
  perNm = zoom * Math.min(w, h) / (2.1 * tall);
  gl.uniformMatrix3fv(uniform("view"), false, [0, 1, 2].flatMap(k => view.map(row => row[k])));
  gl.uniform3fv(uniform("middle"), scene.middle_nm); gl.uniform3fv(uniform("lift"), scene.lift_nm);
  gl.uniform2f(uniform("scale"), 2 * perNm / w, 2 * perNm / h); gl.uniform2fv(uniform("shift"), shift);
  gl.uniform1f(uniform("apart"), Number(apart.value)); gl.uniform1f(uniform("depth"), 1.5 * tall);
  gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  gl.drawArrays(gl.TRIANGLES, 0, vertices);
  document.querySelectorAll("svg g").forEach((g, k) => {
    const [x, y] = view.slice(0, 2).map(row => row.reduce((sum, r, i) => sum + r * scene.axes[k][i], 0));
    const line = g.querySelector("line"), text = g.querySelector("text");
    line.setAttribute("x2", 38 * x); line.setAttribute("y2", -38 * y);
    text.setAttribute("x", 50 * x); text.setAttribute("y", -50 * y);
  });
  const wanted = 110 / perNm, power = 10 ** Math.floor(Math.log10(wanted));
  const length = Math.max(...[1, 2, 5].map(s => s * power).filter(x => x <= wanted));
  const bar = document.getElementById("scale");
  document.body.dataset.drawn = vertices / 3 + " triangles";  // for tests
  bar.style.width = length * perNm + "px"; bar.textContent = Number(length.toPrecision(3)) + " nm";
}
let held = null;
canvas.onpointerdown = e => { held = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); };
canvas.onpointerup = canvas.onpointercancel = () => { held = null; };
canvas.onpointermove = e => {
  if (!held) return;
  const x = e.clientX - held[0], y = e.clientY - held[1];
  held = [e.clientX, e.clientY];
  if (e.shiftKey) shift = [shift[0] + x / perNm, shift[1] - y / perNm]; else turn(0.008 * x, -0.008 * y);
  draw();
};
canvas.onwheel = e => {
  e.preventDefault();
  zoom = Math.min(40, Math.max(0.2, zoom * Math.exp(-0.0015 * e.deltaY)));
  draw();
};
canvas.ondblclick = () => { reset(); apart.value = 0; draw(); };
apart.oninput = draw;
reset(); draw();
new ResizeObserver(draw).observe(canvas);  // in a frame the canvas gets its size later
</script>
</body>
</html>
"""
