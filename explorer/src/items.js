// Items as they are shown: fetched in few requests, kept, and made into tiles.

import { h, figure, marked } from "./dom.js";

const PAGE = 200, KEPT = 6000;

export class Items {
  constructor(source) { this.source = source; this.kept = new Map(); this.wanted = new Map(); }

  /** records of items, in the order asked for */
  async get(items) {
    const missing = items.filter((item) => !this.kept.has(item) && !this.wanted.has(item));
    for (let i = 0; i < missing.length; i += PAGE) {
      const some = missing.slice(i, i + PAGE);
      const job = this.load(some).finally(() => some.forEach((item) => this.wanted.delete(item)));
      some.forEach((item) => this.wanted.set(item, job));
    }
    await Promise.all(new Set(items.map((item) => this.wanted.get(item)).filter(Boolean)));
    return items.map((item) => this.kept.get(item)).filter(Boolean);
  }

  async load(items) {
    const { columns, length } = await this.source.items(items);
    for (let i = 0; i < length; i++) {
      const record = Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, values[i]]));
      const bytes = record.picture;
      record.labels = JSON.parse(record.labels);
      record.url = bytes?.length ? URL.createObjectURL(new Blob([bytes], { type: bytes[0] === 0x89 ? "image/png" : "image/jpeg" })) : null;
      record.picture = null;
      this.kept.set(record.item, record);
    }
    while (this.kept.size > KEPT) {
      const [item, record] = this.kept.entries().next().value;
      if (record.url) URL.revokeObjectURL(record.url);
      record.bitmap?.close?.();
      this.kept.delete(item);
    }
  }
}

/** the picture of an item, or its text, or its name */
export function likeness(record, { big = false, fragment } = {}) {
  if (record.url) return h("img", { src: record.url, alt: record.name, loading: "lazy", draggable: false });
  return h(`span.words${big ? ".big" : ""}`, { dir: "auto" }, marked(record.text || record.name, fragment));
}

/** tiles of items; score, note: item -> what is written under it; fragment: of names and texts, that is marked in them */
export async function gallery(app, items, { score, note, fragment, empty = "Nothing here.", marks = true } = {}) {
  if (!items.length) return h("p.empty", empty);
  const records = await app.items.get(items);
  const texts = records.filter((one) => !one.url).length > records.length / 2;
  const tiles = records.map((record) => {
    const said = score?.get(record.item), told = note?.get(record.item);
    const open = h("button.open", {
      onclick: () => app.pin(record.item), onmouseenter: () => app.point(record.item), onmouseleave: () => app.point(null), onfocus: () => app.point(record.item), onblur: () => app.point(null),
      title: record.uri,
      "aria-label": `${record.name}${said !== undefined ? `, ${figure(said)}` : ""}`,
    }, likeness(record, { fragment }));
    const name = !fragment || record.name.toLowerCase().includes(fragment.toLowerCase()) ? record.name : record.uri;
    return h("li.tile", { "data-item": record.item }, open,
      (said !== undefined || told || texts || fragment) && h("p.under", h("span", texts || fragment ? marked(name, fragment) : ""), h("b", told ?? (said === undefined ? "" : figure(said)))),
      marks && app.stars.button(record),
      marks && app.run.asks.example && h("span.marks",
        h("button", { title: "More like this (M)", "aria-label": `more like ${record.name}`, onclick: () => app.example(record.item, 1) }, "+"),
        h("button", { title: "Not like this (X)", "aria-label": `not like ${record.name}`, onclick: () => app.example(record.item, -1) }, "−")));
  });
  return h(`ul.gallery${texts ? ".texts" : ""}${app.wide ? ".wide" : ""}`, tiles);
}

/** pictures of some points, drawn on the map where none lies yet */
export class Pictures {
  constructor(app) { this.app = app; this.on = true; this.bitmaps = new Map(); }

  draw(map, pen) {
    if (!this.on || !this.app.pictured || !this.app.item) return [];
    const closer = map.view.scale / map.whole, step = 2 ** (Math.round(Math.log2(closer) * 3) / 3);
    const narrow = map.width < 560, side = Math.min(72, (narrow ? 26 : 36) * Math.max(1, step ** 0.3));
    const shape = Math.sqrt(this.app.aspect ?? 1), w = side * shape, h2 = side / shape, gap = (side + 9) / (map.whole * step);
    const wide = gap * shape, tall = gap / shape, taken = new Map(), found = [], missing = [];
    const most = narrow ? 60 : 170, looked = Math.min(map.m, 60_000);
    for (let j = 0; j < looked && found.length < most; j++) {
      const row = map.row[j], px = map.toX(j), py = map.toY(j);
      if (px < -w || py < -h2 || px > map.width + w || py > map.height + h2 || map.state[row] === 1) continue;
      const c = Math.floor(map.x[j] / wide), r = Math.floor(map.y[j] / tall);
      if (near(taken, c, r, map.x[j], map.y[j], wide, tall)) continue;
      taken.set(c * 1000003 + r, [map.x[j], map.y[j]]);
      const item = this.app.item[row], bitmap = this.bitmaps.get(item);
      if (!bitmap) { missing.push(item); continue; }
      if (!bitmap.width) continue;
      const fit = Math.min(w / bitmap.width, h2 / bitmap.height), bw = bitmap.width * fit, bh = bitmap.height * fit;
      const left = px - bw / 2, top = py - bh / 2;
      pen.fillStyle = this.app.colourOf(row);
      pen.fillRect(left - 2, top - 2, bw + 4, bh + 4);
      pen.drawImage(bitmap, left, top, bw, bh);
      found.push({ row, left, top, w: bw, h: bh });
    }
    if (missing.length && !map.moving) this.fetch(missing.slice(0, 180));
    return found;
  }

  async fetch(items) {
    if (this.busy) return;
    this.busy = true;
    try {
      const records = await this.app.items.get(items);
      await Promise.all(records.map(async (record) => {
        if (!record.url) { this.bitmaps.set(record.item, { width: 0 }); return; }
        const image = new Image();
        image.src = record.url;
        try { await image.decode(); this.bitmaps.set(record.item, await createImageBitmap(image)); } catch { this.bitmaps.set(record.item, { width: 0 }); }
      }));
      while (this.bitmaps.size > 3000) { const [item, bitmap] = this.bitmaps.entries().next().value; bitmap.close?.(); this.bitmaps.delete(item); }
    } catch { /* the map does without them */ } finally {
      this.busy = false;
      this.app.map.redraw();
    }
  }
}

function near(taken, c, r, x, y, wide, tall) {
  for (let dc = -1; dc <= 1; dc++) {
    for (let dr = -1; dr <= 1; dr++) {
      const other = taken.get((c + dc) * 1000003 + r + dr);
      if (other && Math.abs(x - other[0]) < wide && Math.abs(y - other[1]) < tall) return true;
    }
  }
  return false;
}
