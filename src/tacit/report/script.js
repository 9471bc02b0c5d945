"use strict";

// Commands can be copied.
for (const command of document.querySelectorAll(".command")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    const code = command.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Press Ctrl+C";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
  });
  command.append(button);
}

// The section in view is marked in the navigation.
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const inView = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    for (const [id, link] of links) link.classList.toggle("here", id === entry.target.id);
    const link = links.get(entry.target.id);
    link.parentElement.scrollTo({ left: link.offsetLeft - 80 });
  }
}, { rootMargin: "-20% 0px -70% 0px" });
for (const section of document.querySelectorAll("main > section")) inView.observe(section);

const source = document.getElementById("map-data");
if (source) drawMap(JSON.parse(source.textContent));

function unpack(text, Kind) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new Kind(bytes.buffer);
}

function drawMap(data) {
  const find = (id) => document.getElementById(id);
  const canvas = find("canvas"), pen = canvas.getContext("2d"), card = find("card"), spoken = find("spoken");
  const ring = make("i", "ring");
  ring.hidden = true;
  canvas.after(ring);
  const { n, cell: [across, down] } = data; // of a picture on the sheets, in pixels
  const wide = Math.sqrt(across / down) || 1, high = 1 / wide; // its sides, of an area of one
  const x = unpack(data.x, Uint16Array), y = unpack(data.y, Uint16Array), item = unpack(data.item, Int32Array);
  const sprite = unpack(data.sprite, Uint32Array), spriteOf = new Map();
  sprite.forEach((point, i) => spriteOf.set(point, i));
  const spread = scattered(sprite.length); // the order in which pictures get their place, the same each time
  const colours = data.colours.map((given) => ({ ...given, values: unpack(given.values, Uint8Array) }));
  colours.push({ name: "nothing", kind: "plain", classes: [{ name: "all", n, colour: "#4a8f8c" }], values: new Uint8Array(n) });
  const sheets = data.sheets.map((uri) => {
    const sheet = new Image();
    sheet.onload = redraw;
    sheet.src = uri;
    return sheet;
  });

  const plate = card.children[0]; // what a picture is shown on while the pointer rests on its point
  if (across) [plate.width, plate.height] = [2 * across, 2 * down];

  let width = 0, height = 0, shade = colours[0], alone = -1, shown = [], asked = false;
  let buckets = bucketed(shade);
  const bounds = extent();
  const view = { x: 0, y: 0, scale: 1 }, whole = { scale: 1 };

  function extent() {
    let [left, right, low, high] = [65535, 0, 65535, 0];
    for (let i = 0; i < n; i++) {
      left = Math.min(left, x[i]); right = Math.max(right, x[i]);
      low = Math.min(low, y[i]); high = Math.max(high, y[i]);
    }
    return { left, right, low, high };
  }

  function scattered(length) {
    const order = Array.from({ length }, (_, i) => i);
    for (let i = length - 1, seed = 1; i > 0; i--) {
      seed = (seed * 48271) % 2147483647;
      const j = seed % (i + 1);
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }

  function bucketed({ classes, values }) {
    const found = Array.from({ length: classes.length + 1 }, () => []);
    for (let i = 0; i < n; i++) found[Math.min(values[i], classes.length)].push(i);
    return found;
  }

  function fit() {
    const broad = Math.max(bounds.right - bounds.left, 1), up = Math.max(bounds.high - bounds.low, 1);
    const edge = width < 520 ? 36 : 70; // room for pictures at the rim
    whole.scale = Math.min((width - edge) / broad, (height - edge) / up);
    Object.assign(view, { x: (bounds.left + bounds.right) / 2, y: (bounds.low + bounds.high) / 2, scale: whole.scale });
  }

  const toX = (i) => (x[i] - view.x) * view.scale + width / 2;
  const toY = (i) => height / 2 - (y[i] - view.y) * view.scale;
  const seen = (px, py, edge) => px > -edge && py > -edge && px < width + edge && py < height + edge;
  const colourOf = (i) => shade.classes[shade.values[i]]?.colour ?? shade.none;
  const hidden = (i) => alone >= 0 && shade.values[i] !== alone;

  function redraw() {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; draw(); });
  }

  function draw() {
    const pixels = devicePixelRatio || 1;
    pen.setTransform(pixels, 0, 0, pixels, 0, 0);
    pen.clearRect(0, 0, width, height);
    const closer = view.scale / whole.scale;
    const grey = getComputedStyle(document.documentElement).getPropertyValue("--other");
    const size = Math.min(9, Math.max(1.1, 52 / Math.sqrt(n) + 1) * Math.max(1, closer ** 0.35));
    buckets.forEach((bucket, group) => {
      const faded = alone >= 0 && group !== alone;
      pen.fillStyle = faded ? grey : shade.classes[group]?.colour ?? shade.none;
      pen.globalAlpha = faded ? 0.35 : 0.85;
      for (const i of bucket) dot(toX(i), toY(i), size);
    });
    pen.globalAlpha = 1;
    shown = [];
    if (find("pictures").checked) drawPictures(closer);
  }

  function dot(px, py, size) {
    if (!seen(px, py, size)) return;
    if (n > 8000 && size < 3) {
      pen.fillRect(px - size, py - size, 2 * size, 2 * size);
    } else {
      pen.beginPath();
      pen.arc(px, py, size, 0, 7);
      pen.fill();
    }
  }

  // Pictures take their places one after another, each where none lies yet. Places hang on the map and on the step of the
  // zoom alone, so that nothing flickers while it moves.
  function drawPictures(closer) {
    const step = 2 ** (Math.round(Math.log2(closer) * 3) / 3);
    const size = Math.min(76, (width < 520 ? 24 : 34) * Math.max(1, step ** 0.3));
    const w = size * wide, h = size * high, taken = new Map();
    const gaps = [w, h].map((side) => (side + 7) / (whole.scale * step));
    for (const k of spread) {
      const i = sprite[k];
      if (hidden(i) || !takePlace(taken, gaps, i)) continue;
      const left = toX(i) - w / 2, top = toY(i) - h / 2;
      if (!seen(left, top, w)) continue;
      pen.fillStyle = colourOf(i);
      pen.fillRect(left - 2, top - 2, w + 4, h + 4);
      if (drawSprite(pen, k, left, top, w, h)) shown.push({ i, left, top, w, h });
    }
  }

  function takePlace(taken, [gapX, gapY], i) {
    const column = Math.floor(x[i] / gapX), row = Math.floor(y[i] / gapY);
    for (let c = column - 1; c <= column + 1; c++) {
      for (let r = row - 1; r <= row + 1; r++) {
        const other = taken.get(c * 1000003 + r);
        if (other !== undefined && Math.abs(x[i] - x[other]) < gapX && Math.abs(y[i] - y[other]) < gapY) return false;
      }
    }
    taken.set(column * 1000003 + row, i);
    return true;
  }

  function drawSprite(target, k, left, top, w, h) {
    const sheet = sheets[Math.floor(k / 1024)], at = k % 1024;
    if (!sheet?.complete || !sheet.naturalWidth) return false;
    target.drawImage(sheet, (at % 32) * across, Math.floor(at / 32) * down, across, down, left, top, w, h);
    return true;
  }

  function nearest(px, py, reach) {
    for (let j = shown.length - 1; j >= 0; j--) {
      const { i, left, top, w, h } = shown[j];
      if (px >= left && py >= top && px <= left + w && py <= top + h) return i;
    }
    let best = -1, least = reach * reach;
    for (let i = 0; i < n; i++) {
      const away = (toX(i) - px) ** 2 + (toY(i) - py) ** 2;
      if (away < least && !hidden(i)) { least = away; best = i; }
    }
    return best;
  }

  function describe(i) {
    const lines = [data.names ? data.names[i] : `item ${item[i]}`];
    for (const { name, kind, classes, values } of colours) {
      if (kind === "classes" && values[i] < classes.length) {
        lines.push(classes[values[i]].name.startsWith(name) ? classes[values[i]].name : `${name}: ${classes[values[i]].name}`);
      }
    }
    const text = data.texts?.[i];
    if (text && text !== lines[0]) lines.push(text);
    return lines;
  }

  function show(i, px, py) {
    card.hidden = ring.hidden = i < 0;
    if (i < 0) return;
    ring.style.translate = `${toX(i)}px ${toY(i)}px`;
    const [picture, text] = card.children, k = spriteOf.get(i);
    picture.hidden = k === undefined || !drawSprite(picture.getContext("2d"), k, 0, 0, picture.width, picture.height);
    text.replaceChildren(...describe(i).map((line, row) => {
      const part = document.createElement(row ? "span" : "b");
      part.dir = "auto";
      part.textContent = line;
      return part;
    }));
    card.classList.toggle("broad", Boolean(data.texts?.[i].length > 60) || wide > 1.2);
    const { offsetWidth: w, offsetHeight: h } = card;
    card.style.left = `${px + 18 + w > width ? Math.max(4, px - w - 18) : px + 18}px`;
    card.style.top = `${Math.min(Math.max(4, py - h / 3), Math.max(4, height - h - 4))}px`;
  }

  function zoom(factor, px = width / 2, py = height / 2) {
    const scale = Math.min(Math.max(view.scale * factor, whole.scale * 0.5), whole.scale * 400);
    const atX = view.x + (px - width / 2) / view.scale, atY = view.y - (py - height / 2) / view.scale;
    view.scale = scale;
    view.x = atX - (px - width / 2) / scale;
    view.y = atY + (py - height / 2) / scale;
    card.hidden = ring.hidden = true;
    redraw();
  }

  function move(dx, dy) {
    view.x -= dx / view.scale;
    view.y += dy / view.scale;
    card.hidden = ring.hidden = true;
    redraw();
  }

  // Wheel and touch belong to the page until the map is clicked.
  const active = () => document.activeElement === canvas;
  const held = new Map();
  const spot = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  canvas.addEventListener("focus", () => { canvas.classList.add("active"); find("hint").textContent = "Scroll to zoom, drag to move, Esc to let go"; });
  canvas.addEventListener("blur", () => { canvas.classList.remove("active"); card.hidden = ring.hidden = true; find("hint").textContent = "Click the map, then scroll to zoom, drag to move"; });
  canvas.addEventListener("wheel", (event) => {
    if (!active() && !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016) * (event.ctrlKey ? 4 : 1)), ...spot(event));
  }, { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    held.set(event.pointerId, spot(event));
    canvas.setPointerCapture(event.pointerId);
    canvas.classList.add("moving");
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = spot(event), before = held.get(event.pointerId);
    if (!before) { const i = nearest(...now, 14); show(i, ...now); return; }
    if (held.size === 2) {
      const other = [...held].find(([id]) => id !== event.pointerId)[1];
      const gap = (a) => Math.hypot(a[0] - other[0], a[1] - other[1]) || 1;
      zoom(gap(now) / gap(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    } else if (now[0] !== before[0] || now[1] !== before[1]) {
      move(now[0] - before[0], now[1] - before[1]);
    }
    held.set(event.pointerId, now);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, (event) => {
      held.delete(event.pointerId);
      canvas.classList.remove("moving");
      if (name === "pointerup") { const at = spot(event); show(nearest(...at, 18), ...at); }
    });
  }
  canvas.addEventListener("pointerleave", () => { if (!held.size) card.hidden = ring.hidden = true; });
  canvas.addEventListener("dblclick", (event) => zoom(2, ...spot(event)));
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (moves[event.key]) move(...moves[event.key]);
    else if (event.key === "+" || event.key === "=") zoom(1.4);
    else if (event.key === "-") zoom(1 / 1.4);
    else if (event.key === "0") { fit(); redraw(); }
    else if (event.key === "Escape") { canvas.blur(); return; }
    else return;
    event.preventDefault();
    requestAnimationFrame(() => requestAnimationFrame(() => {
      const i = nearest(width / 2, height / 2, Infinity);
      if (i < 0) return;
      show(i, toX(i), toY(i));
      spoken.textContent = describe(i).join(", ");
    }));
  });
  find("zoom-in").addEventListener("click", () => zoom(1.6));
  find("zoom-out").addEventListener("click", () => zoom(1 / 1.6));
  find("zoom-all").addEventListener("click", () => { fit(); redraw(); });

  // Colours and their legend.
  const chooser = find("colour-by"), legend = find("legend");
  colours.forEach(({ name }, i) => chooser.add(new Option(name, i)));
  chooser.addEventListener("change", () => { shade = colours[chooser.value]; alone = -1; buckets = bucketed(shade); explain(); redraw(); });
  find("pictures-label").hidden = !sheets.length;
  find("pictures").addEventListener("change", redraw);

  function explain() {
    legend.replaceChildren();
    if (shade.kind === "plain") return;
    if (shade.kind === "ramp") {
      const ramp = make("div", "ramp"), ends = make("p", "ends");
      ramp.style.background = `linear-gradient(90deg, ${shade.classes.map((c) => c.colour).join(",")})`;
      ends.append(make("span", "", shade.low), make("span", "", shade.high));
      legend.append(ramp, ends);
      return;
    }
    shade.classes.forEach((kind, i) => {
      const button = make("button", ""), swatch = make("i", "");
      button.type = "button";
      button.setAttribute("aria-pressed", "false");
      swatch.style.background = kind.colour;
      button.append(swatch, make("span", "", kind.name), make("small", "", kind.n.toLocaleString("en")));
      button.addEventListener("click", () => {
        alone = alone === i ? -1 : i;
        [...legend.querySelectorAll("button")].forEach((other, j) => other.setAttribute("aria-pressed", String(j === alone)));
        redraw();
      });
      legend.append(button);
    });
    if (shade.rest) legend.append(make("p", "", `and ${shade.rest.toLocaleString("en")} rarer ones, in grey`));
  }

  function make(kind, name, text = "") {
    const made = document.createElement(kind);
    if (name) made.className = name;
    made.textContent = text;
    return made;
  }

  function resize() {
    const box = canvas.getBoundingClientRect(), pixels = devicePixelRatio || 1, first = !width;
    const moved = width ? view.scale / whole.scale : 1, at = { x: view.x, y: view.y };
    [width, height] = [box.width, box.height];
    canvas.width = Math.round(width * pixels);
    canvas.height = Math.round(height * pixels);
    fit();
    if (!first) Object.assign(view, at, { scale: whole.scale * moved });
    draw(); // at once: a canvas that was resized is blank
  }

  explain();
  new ResizeObserver(resize).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}
