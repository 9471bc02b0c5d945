// The map: all points in one picture, drawn by the processor into memory and put on the canvas at once.
//
// A browser without a graphics card draws WebGL in software, point by point through a whole pipeline: 100,000 points took
// 120 ms and more that way, 3 to 8 ms this way (docs/decisions/explorer.md). While the map moves, no more points are drawn
// than fit into a frame: since they lie in shuffled order, the first m are an even sample.

import { css, pack, parse, blend } from "./colour.js";

const FRAME = 16; // milliseconds for points while the map moves
const SMOOTH = 30_000; // of more points, rims are drawn hard while the map moves
export const SHOWN = 0, FADED = 1, CHOSEN = 2;

export class ScatterMap {
  /** stage: the element that holds it; on: { hover, pick, lasso, moved } */
  constructor(stage, on) {
    this.stage = stage;
    this.on = on;
    this.base = stage.querySelector("#points");
    this.over = stage.querySelector("#marks");
    this.pen = this.base.getContext("2d", { alpha: false });
    this.mark = this.over.getContext("2d");
    this.n = 0;
    this.view = { x: 0, y: 0, scale: 1 };
    this.whole = 1;
    this.names = [];
    this.pictures = null;
    this.tool = "move";
    this.perPoint = 6e-5; // milliseconds a point, learned while drawing
    this.hovered = -1;
    this.pinned = -1;
    this.path = null;
    this.listen();
    new ResizeObserver(() => this.resize()).observe(stage);
    const renewed = () => { this.inks(); this.redraw(); };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", renewed);
    this.renewed = renewed;
  }

  /** x, y: Float32Array (n,), NaN where a point has no place */
  setPoints(x, y) {
    this.n = x.length;
    const placed = [];
    let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
    for (let i = 0; i < x.length; i++) {
      if (!(Math.abs(x[i]) < 1e30 && Math.abs(y[i]) < 1e30)) continue;
      placed.push(i);
      if (x[i] < left) left = x[i];
      if (x[i] > right) right = x[i];
      if (y[i] < low) low = y[i];
      if (y[i] > high) high = y[i];
    }
    this.bounds = placed.length ? { left, right, low, high } : { left: 0, right: 1, low: 0, high: 1 };
    this.row = shuffled(Uint32Array.from(placed)); // place in the drawing order -> row
    this.m = placed.length;
    this.x = new Float32Array(this.m);
    this.y = new Float32Array(this.m);
    for (let j = 0; j < this.m; j++) { this.x[j] = x[this.row[j]]; this.y[j] = y[this.row[j]]; }
    this.at = new Int32Array(this.n).fill(-1); // row -> place in the drawing order
    for (let j = 0; j < this.m; j++) this.at[this.row[j]] = j;
    this.ink = new Uint32Array(this.m);
    this.state = new Uint8Array(this.n);
    this.grid = null;
    this.fit();
  }

  /** codes: (n,) class of each row, or -1; palette: [[r, g, b]...] */
  setColours(codes, palette, none) {
    this.codes = codes;
    this.palette = palette;
    this.none = none;
    this.inks();
    this.redraw();
  }

  inks() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => parse(style.getPropertyValue(name));
    this.paper = colour("--wash");
    this.text = colour("--ink");
    this.grey = blend(colour("--other"), this.paper, 0.75);
    if (!this.codes) return;
    const packed = Uint32Array.from(this.palette, pack), none = pack(this.none ?? this.grey);
    for (let j = 0; j < this.m; j++) { const code = this.codes[this.row[j]]; this.ink[j] = code >= 0 ? packed[code] : none; }
  }

  /** names: [{ x, y, text, colour, weight }] written on the map, the heaviest first */
  setNames(names) { this.names = [...names].sort((a, b) => b.weight - a.weight); this.redraw(); }

  fit() {
    const { left, right, low, high } = this.bounds;
    const edge = Math.min(this.width, this.height) < 420 ? 44 : 96, aside = this.width > 760 && !this.stage.querySelector("#legend").hidden ? Math.min(240, 0.25 * this.width) : 0;
    this.whole = Math.min((this.width - edge - aside) / Math.max(right - left, 1e-9), (this.height - edge) / Math.max(high - low, 1e-9));
    this.whole = Math.max(this.whole, 1e-9) || 1;
    this.view = { x: (left + right) / 2 - aside / 2 / this.whole, y: (low + high) / 2, scale: this.whole };
    this.redraw();
  }

  /** bring some rows into view */
  show(rows) {
    let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const row of rows) {
      const j = this.at[row];
      if (j < 0) continue;
      left = Math.min(left, this.x[j]); right = Math.max(right, this.x[j]);
      low = Math.min(low, this.y[j]); high = Math.max(high, this.y[j]);
    }
    if (left > right) return;
    const scale = Math.min(0.7 * this.width / Math.max(right - left, 1e-9), 0.7 * this.height / Math.max(high - low, 1e-9));
    this.glide({ x: (left + right) / 2, y: (low + high) / 2, scale: Math.min(scale, this.whole * 12) });
  }

  glide(target) {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) { this.view = target; this.moved(); return; }
    const from = { ...this.view }, began = performance.now();
    const step = (now) => {
      const t = Math.min((now - began) / 380, 1), ease = 1 - (1 - t) ** 3;
      const scale = from.scale * (target.scale / from.scale) ** ease;
      this.view = { x: from.x + (target.x - from.x) * ease, y: from.y + (target.y - from.y) * ease, scale };
      this.moved();
      if (t < 1) this.gliding = requestAnimationFrame(step);
    };
    cancelAnimationFrame(this.gliding);
    this.gliding = requestAnimationFrame(step);
  }

  toX(j) { return (this.x[j] - this.view.x) * this.view.scale + this.width / 2; }
  toY(j) { return this.height / 2 - (this.y[j] - this.view.y) * this.view.scale; }
  placeOf(row) { const j = this.at[row]; return j < 0 ? null : [this.toX(j), this.toY(j)]; }

  get radius() {
    const closer = this.view.scale / this.whole;
    return Math.min(9, Math.max(1.1, 52 / Math.sqrt(this.m || 1) + 1) * Math.max(1, closer ** 0.35));
  }

  resize() {
    const box = this.stage.getBoundingClientRect(), first = !this.width;
    if (!box.width || !box.height) return;
    const closer = first ? 1 : this.view.scale / this.whole, { x, y } = this.view;
    [this.width, this.height] = [box.width, box.height];
    this.pixels = Math.min(devicePixelRatio || 1, 2);
    const [w, h] = [Math.round(this.width * this.pixels), Math.round(this.height * this.pixels)];
    for (const canvas of [this.base, this.over]) { canvas.width = w; canvas.height = h; }
    this.image = new ImageData(w, h);
    this.raster = new Uint32Array(this.image.data.buffer);
    if (!this.m) return;
    this.fit();
    if (!first) this.view = { x, y, scale: this.whole * closer };
    cancelAnimationFrame(this.asked);
    this.asked = 0;
    this.draw(); // at once: a canvas that was resized is blank
  }

  /** the view changed: draw soon, all points once it rests */
  moved() {
    this.moving = true;
    clearTimeout(this.resting);
    this.resting = setTimeout(() => { this.moving = false; this.redraw(); this.on.moved?.(); }, 130);
    this.redraw();
  }

  redraw() { this.asked ||= requestAnimationFrame(() => { this.asked = 0; this.draw(); }); }

  draw() {
    if (!this.m || !this.image) return;
    const began = performance.now();
    const budget = this.moving ? Math.max(20_000, Math.floor(FRAME / this.perPoint)) : this.m;
    const drawn = Math.min(budget, this.m);
    this.drawPoints(drawn);
    this.pen.putImageData(this.image, 0, 0);
    const spent = performance.now() - began;
    if (drawn > 5000 && this.moving) this.perPoint = 0.7 * this.perPoint + 0.3 * (spent / drawn);
    this.drawMarks();
    this.frames = (this.frames ?? 0) + 1;
    this.lastDraw = { spent, drawn };
  }

  drawPoints(m) {
    const { raster, x, y, ink, row, state, pixels } = this, w = this.base.width, h = this.base.height;
    const scale = this.view.scale * pixels, cx = w / 2 - this.view.x * scale, cy = h / 2 + this.view.y * scale;
    raster.fill(pack(this.paper));
    const disc = stencil(this.radius * pixels, this.moving && this.m > SMOOTH), big = stencil(this.radius * pixels + 1.5 * pixels), faint = stencil(this.radius * pixels * 0.8);
    const grey = pack(this.grey), some = this.anyState;
    const put = ({ cells, reach, edges }, left, top, colour) => {
      if (left < reach || top < reach || left >= w - reach || top >= h - reach) return;
      const spot = top * w + left;
      for (let c = 0; c < cells.length; c++) raster[spot + cells[c][0] + cells[c][1] * w] = colour;
      for (let c = 0; c < edges.length; c++) {
        const o = spot + edges[c][0] + edges[c][1] * w, s = edges[c][2], under = raster[o];
        const rb = (((under & 0xff00ff) * (256 - s) + (colour & 0xff00ff) * s) >>> 8) & 0xff00ff;
        const g = (((under & 0xff00) * (256 - s) + (colour & 0xff00) * s) >>> 8) & 0xff00;
        raster[o] = 0xff000000 | rb | g;
      }
    };
    if (!some) {
      const { flat, flatEdges } = flatten(disc, w), reach = disc.reach, right = w - reach, low = h - reach;
      const nFlat = flat.length, nEdges = flatEdges.length;
      for (let j = 0; j < m; j++) {
        const left = (x[j] * scale + cx) | 0, top = (cy - y[j] * scale) | 0;
        if (left < reach || top < reach || left >= right || top >= low) continue;
        const spot = top * w + left, colour = ink[j];
        for (let c = 0; c < nFlat; c++) raster[spot + flat[c]] = colour;
        const crb = colour & 0xff00ff, cg = colour & 0xff00;
        for (let c = 0; c < nEdges; c += 2) {
          const o = spot + flatEdges[c], s = flatEdges[c + 1], under = raster[o];
          raster[o] = 0xff000000 | ((((under & 0xff00ff) * (256 - s) + crb * s) >>> 8) & 0xff00ff) | ((((under & 0xff00) * (256 - s) + cg * s) >>> 8) & 0xff00);
        }
      }
      return;
    }
    for (const [pass, kind] of [[FADED, faint], [SHOWN, disc], [CHOSEN, big]]) {
      for (let j = 0; j < m; j++) {
        const own = state[row[j]];
        if (own !== pass) continue;
        const left = (x[j] * scale + cx) | 0, top = (cy - y[j] * scale) | 0;
        if (pass === CHOSEN) put(big, left, top, pack(this.text));
        put(pass === CHOSEN ? disc : kind, left, top, pass === FADED ? grey : ink[j]);
      }
    }
  }

  /** state: (n,) of SHOWN, FADED, CHOSEN */
  setState(state) {
    this.state = state;
    this.anyState = state.some((one) => one !== SHOWN);
    this.redraw();
  }

  drawMarks() {
    const { mark, pixels } = this;
    mark.setTransform(pixels, 0, 0, pixels, 0, 0);
    mark.clearRect(0, 0, this.width, this.height);
    this.placed = this.pictures?.draw(this, mark) ?? [];
    this.drawNames(mark);
    for (const [row, size] of [[this.pinned, 9], [this.hovered, 7]]) {
      const place = row >= 0 && this.placeOf(row);
      if (!place) continue;
      mark.beginPath();
      mark.arc(...place, Math.max(size, this.radius + 3), 0, 7);
      mark.lineWidth = 4.5; mark.strokeStyle = css(this.paper); mark.stroke();
      mark.lineWidth = 2; mark.strokeStyle = css(this.text); mark.stroke();
    }
    if (this.path?.length > 1) {
      mark.beginPath();
      this.path.forEach(([px, py], i) => (i ? mark.lineTo(px, py) : mark.moveTo(px, py)));
      mark.closePath();
      mark.fillStyle = "rgb(12 107 107 / .12)"; mark.fill();
      mark.setLineDash([5, 4]); mark.lineWidth = 1.5; mark.strokeStyle = css(this.text); mark.stroke(); mark.setLineDash([]);
    }
    if (this.crosshair) {
      const [px, py] = [this.width / 2, this.height / 2];
      mark.beginPath();
      for (const [dx, dy] of [[-1, 0], [1, 0], [0, -1], [0, 1]]) { mark.moveTo(px + 5 * dx, py + 5 * dy); mark.lineTo(px + 13 * dx, py + 13 * dy); }
      mark.lineWidth = 3.5; mark.strokeStyle = css(this.paper); mark.stroke();
      mark.lineWidth = 1.5; mark.strokeStyle = css(this.text); mark.stroke();
    }
  }

  drawNames(mark) {
    const taken = [];
    const narrow = this.width < 560;
    mark.textAlign = "center"; mark.textBaseline = "middle"; mark.lineJoin = "round";
    let written = 0;
    for (const { x, y, text, weight, bare } of this.names) {
      if (bare && this.placed.length) continue; // a mere number says less than the pictures that it would hide
      if (written >= (narrow ? 10 : 40)) break;
      const px = (x - this.view.x) * this.view.scale + this.width / 2, py = this.height / 2 - (y - this.view.y) * this.view.scale;
      if (px < 0 || py < 0 || px > this.width || py > this.height) continue;
      const size = Math.round(Math.min(17, 12 + 9 * Math.sqrt(weight)) * (narrow ? 0.85 : 1));
      mark.font = `600 ${size}px ${getComputedStyle(this.stage).getPropertyValue("--serif")}`;
      const words = narrow && text.length > 22 ? `${text.slice(0, 21)}…` : text.length > 34 ? `${text.slice(0, 33)}…` : text;
      const half = mark.measureText(words).width / 2 + 6, tall = size * 0.7;
      const at = Math.min(Math.max(px, half), this.width - half);
      if (taken.some(([a, b, c, d]) => Math.abs(at - a) < half + c && Math.abs(py - b) < tall + d)) continue;
      taken.push([at, py, half, tall]);
      mark.lineWidth = 4; mark.strokeStyle = css([...this.paper]); mark.globalAlpha = 0.88; mark.strokeText(words, at, py);
      mark.globalAlpha = 1; mark.fillStyle = css(this.text); mark.fillText(words, at, py);
      written++;
    }
  }

  /** the row nearest to a spot of the stage, within reach, and not faded; -1 where there is none */
  nearest(px, py, reach) {
    for (let k = (this.placed?.length ?? 0) - 1; k >= 0; k--) {
      const { row, left, top, w, h } = this.placed[k];
      if (px >= left && py >= top && px <= left + w && py <= top + h) return row;
    }
    this.grid ??= buckets(this.x, this.y, this.bounds, this.m);
    const atX = this.view.x + (px - this.width / 2) / this.view.scale, atY = this.view.y - (py - this.height / 2) / this.view.scale;
    const { size, columns, rows, starts, order } = this.grid, far = reach / this.view.scale;
    const bucket = (v, low, most) => Math.min(Math.max(Math.floor((v - low) / size), 0), most - 1);
    const { left, low } = this.bounds;
    let best = -1, least = far * far;
    for (let r = bucket(atY - far, low, rows); r <= bucket(atY + far, low, rows); r++) {
      for (let c = bucket(atX - far, left, columns); c <= bucket(atX + far, left, columns); c++) {
        for (let k = starts[r * columns + c]; k < starts[r * columns + c + 1]; k++) {
          const j = order[k], away = (this.x[j] - atX) ** 2 + (this.y[j] - atY) ** 2;
          if (away < least && this.state[this.row[j]] !== FADED) { least = away; best = this.row[j]; }
        }
      }
    }
    return best;
  }

  /** rows inside a polygon on the stage */
  inside(path) {
    const xs = path.map((p) => p[0]), ys = path.map((p) => p[1]);
    const [left, right, top, low] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const found = [];
    for (let j = 0; j < this.m; j++) {
      const px = this.toX(j), py = this.toY(j);
      if (px < left || px > right || py < top || py > low || this.state[this.row[j]] === FADED) continue;
      let odd = false;
      for (let a = 0, b = path.length - 1; a < path.length; b = a++) {
        if ((ys[a] > py) !== (ys[b] > py) && px < (xs[b] - xs[a]) * (py - ys[a]) / (ys[b] - ys[a]) + xs[a]) odd = !odd;
      }
      if (odd) found.push(this.row[j]);
    }
    return found;
  }

  zoom(factor, px = this.width / 2, py = this.height / 2) {
    cancelAnimationFrame(this.gliding);
    const { view } = this, scale = Math.min(Math.max(view.scale * factor, this.whole * 0.4), this.whole * 2000);
    const atX = view.x + (px - this.width / 2) / view.scale, atY = view.y - (py - this.height / 2) / view.scale;
    this.view = { scale, x: atX - (px - this.width / 2) / scale, y: atY + (py - this.height / 2) / scale };
    this.moved();
  }

  pan(dx, dy) {
    cancelAnimationFrame(this.gliding);
    this.view.x -= dx / this.view.scale;
    this.view.y += dy / this.view.scale;
    this.moved();
  }

  hover(row, px, py) {
    if (row !== this.hovered) { this.hovered = row; this.redraw(); }
    this.on.hover(row, px, py);
  }

  listen() {
    const canvas = this.over, held = new Map();
    const spot = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
    let began = null, far = false;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016) * (event.ctrlKey ? 4 : 1)), ...spot(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button > 0) return;
      const at = spot(event);
      held.set(event.pointerId, at);
      canvas.setPointerCapture(event.pointerId);
      began = at; far = false;
      if (held.size === 1 && (event.shiftKey || this.tool === "lasso")) this.path = [at];
      this.crosshair = false;
    });
    canvas.addEventListener("pointermove", (event) => {
      const now = spot(event), before = held.get(event.pointerId);
      if (!before) { if (event.pointerType !== "touch") this.hover(this.nearest(...now, 14), ...now); return; }
      if (Math.hypot(now[0] - began[0], now[1] - began[1]) > 4) far = true;
      if (this.path) {
        const last = this.path[this.path.length - 1];
        if (Math.hypot(now[0] - last[0], now[1] - last[1]) > 3) { this.path.push(now); this.redraw(); }
      } else if (held.size === 2) {
        const other = [...held].find(([id]) => id !== event.pointerId)[1];
        const gap = (a) => Math.hypot(a[0] - other[0], a[1] - other[1]) || 1;
        this.zoom(gap(now) / gap(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
      } else if (far) {
        this.hover(-1);
        canvas.classList.add("moving");
        this.pan(now[0] - before[0], now[1] - before[1]);
      }
      held.set(event.pointerId, now);
    });
    const ended = (event) => {
      if (!held.delete(event.pointerId)) return;
      canvas.classList.remove("moving");
      const at = spot(event), path = this.path;
      if (path) {
        this.path = null;
        this.redraw();
        if (event.type === "pointerup" && path.length > 2) this.on.lasso(this.inside(path), event);
        else if (event.type === "pointerup") this.on.pick(this.nearest(...at, 18), event);
      } else if (!far && event.type === "pointerup") this.on.pick(this.nearest(...at, 18), event);
    };
    canvas.addEventListener("pointerup", ended);
    canvas.addEventListener("pointercancel", ended);
    canvas.addEventListener("pointerleave", () => { if (!held.size) this.hover(-1); });
    canvas.addEventListener("dblclick", (event) => this.zoom(2, ...spot(event)));
    canvas.addEventListener("blur", () => { this.crosshair = false; this.redraw(); });
    canvas.addEventListener("keydown", (event) => this.pressed(event));
  }

  /** keys that move the map; the crosshair shows what is in the middle */
  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey ? 12 : 60;
    const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    if (moves[event.key]) this.pan(...moves[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoom(1.4);
    else if (event.key === "-") this.zoom(1 / 1.4);
    else if (event.key === "0") { this.fit(); this.moved(); }
    else if (event.key === "Enter" || event.key === " ") {
      const row = this.nearest(this.width / 2, this.height / 2, Math.max(this.width, this.height) / 2);
      if (event.key === "Enter") this.on.pick(row, event); else this.on.pick(row, { shiftKey: true });
    } else return;
    event.preventDefault();
    this.crosshair = true;
    const row = this.nearest(this.width / 2, this.height / 2, Math.max(this.width, this.height) / 2);
    const place = row >= 0 && this.placeOf(row);
    if (place) this.hover(row, ...place);
    this.redraw();
  }
}

/** in an order that is the same each time */
function shuffled(order) {
  for (let i = order.length - 1, seed = 1; i > 0; i--) {
    seed = (seed * 48271) % 2147483647;
    const j = seed % (i + 1), kept = order[i];
    order[i] = order[j];
    order[j] = kept;
  }
  return order;
}

const stencils = new Map();
/** the pixels of a disc: cells wholly inside, edges with the share that is, in 256ths; hard: no edges, half is whole */
function stencil(radius, hard = false) {
  const r = Math.max(0.6, Math.round(radius * 4) / 4), key = hard ? -r : r;
  if (stencils.has(key)) return stencils.get(key);
  const reach = Math.ceil(r) + 1, cells = [], edges = [];
  for (let dy = -reach; dy <= reach; dy++) {
    for (let dx = -reach; dx <= reach; dx++) {
      const share = Math.min(Math.max(r + 0.5 - Math.hypot(dx, dy), 0), 1);
      if (share > (hard ? 0.5 : 0.95)) cells.push([dx, dy]);
      else if (share > 0.08 && !hard) edges.push([dx, dy, Math.round(share * 256)]);
    }
  }
  const made = { cells, edges, reach };
  stencils.set(key, made);
  return made;
}

function flatten({ cells, edges }, w) {
  return { flat: Int32Array.from(cells, ([dx, dy]) => dx + dy * w), flatEdges: Int32Array.from(edges.flatMap(([dx, dy, s]) => [dx + dy * w, s])) };
}

/** points by squares of the map, about four in each */
function buckets(x, y, { left, right, low, high }, m) {
  const size = Math.max(Math.sqrt(Math.max((right - left) * (high - low), 1e-12) / Math.max(m / 4, 1)), Math.max(right - left, high - low, 1e-9) / 2000);
  const columns = Math.floor((right - left) / size) + 1, rows = Math.floor((high - low) / size) + 1;
  const starts = new Uint32Array(columns * rows + 1), of = new Uint32Array(m), order = new Uint32Array(m);
  for (let j = 0; j < m; j++) {
    of[j] = Math.min(Math.floor((y[j] - low) / size), rows - 1) * columns + Math.min(Math.floor((x[j] - left) / size), columns - 1);
    starts[of[j] + 1]++;
  }
  for (let k = 0; k < columns * rows; k++) starts[k + 1] += starts[k];
  const next = starts.slice();
  for (let j = 0; j < m; j++) order[next[of[j]]++] = j;
  return { size, columns, rows, starts, order };
}
