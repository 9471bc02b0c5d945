// Filter: what has a value in a range, or one of some values. All other points fade, whatever the map is coloured by;
// several filters at once keep what passes each.

import { h, count, day, spoken, whisper } from "./dom.js";
import { css, ofClass } from "./colour.js";

const LISTED = 50, BARS = 48, STEPS = 200;

export class FilterView {
  constructor(app) { this.app = app; this.id = "filter"; this.title = "Filter"; this.filters = new Map(); } // column -> filter

  begin() {
    this.said = h("div.said-of");
    this.list = h("div.filters");
    this.place.append(this.said, this.list);
    this.explain();
    return null;
  }

  /** one part for each column; those of labels come while somebody labels */
  shown() {
    for (const { name, title } of this.app.colouring.choices()) {
      if (this.list.querySelector(`[data-column="${CSS.escape(name)}"]`)) continue;
      const body = h("div.body"), part = h("details", { "data-column": name }, h("summary", h("span", { dir: "auto" }, title), h("b")), body);
      part.addEventListener("toggle", () => part.open && !this.filters.has(name) && this.app.guard(this.make(name, part, body)));
      this.list.append(part);
    }
  }

  start() { this.list.querySelector("summary")?.focus(); }

  async make(name, part, body) {
    body.replaceChildren(h("p.wait", "Reading…"));
    const column = await this.app.colouring.get(name), Kind = column.about.kind === "number" ? Range : Choice;
    const filter = new Kind(column, this.app.item.length, () => { this.tell(name); this.later(); });
    this.filters.set(name, filter);
    this.tell(name);
    body.replaceChildren(...filter.parts());
  }

  /** what a column's summary says of its filter */
  tell(name) { this.list.querySelector(`[data-column="${CSS.escape(name)}"] summary b`).textContent = this.filters.get(name).words(); }

  /** labels have changed, or went */
  renew(name, column) {
    const part = this.list?.querySelector(`[data-column="${CSS.escape(name)}"]`), filter = this.filters.get(name);
    if (!part) return;
    if (!column) { this.filters.delete(name); part.remove(); this.apply(); return; }
    if (!filter) return;
    filter.renew(column);
    part.querySelector(".body").replaceChildren(...filter.parts());
    if (filter.active) this.apply();
  }

  later() { this.asked ||= requestAnimationFrame(() => { this.asked = 0; this.apply(); }); }

  apply() {
    const active = [...this.filters.values()].filter((one) => one.active), { app } = this;
    let mask = null;
    if (active.length) {
      mask = new Uint8Array(app.item.length).fill(1);
      for (const filter of active) filter.strike(mask);
    }
    app.filtered(mask, mask ? mask.reduce((sum, one) => sum + one, 0) : app.item.length);
    this.explain();
    whisper(`${count(app.left, "item")} left`);
  }

  clear() {
    for (const [name, filter] of this.filters) {
      filter.reset();
      this.tell(name);
      this.list.querySelector(`[data-column="${CSS.escape(name)}"] .body`).replaceChildren(...filter.parts());
    }
    this.apply();
    if (this.app.view === this) this.start(); // the button that was pressed is gone
  }

  rows() {
    const found = [], { mask } = this.app;
    for (let row = 0; row < mask.length; row++) if (mask[row]) found.push(row);
    return found;
  }

  explain() {
    const { app } = this, { mask, left } = app;
    if (!this.said) return;
    if (!mask) { this.said.replaceChildren(h("h2", "Show a part of the items")); return; }
    this.said.replaceChildren(h("h2", `${left.toLocaleString("en")} of ${count(app.item.length, "item")}`), h("p.actions",
      left > 0 && h("button", { onclick: () => app.choose(this.rows()) }, "Choose these"),
      left > 0 && h("button", { onclick: () => app.map.show(this.rows()) }, "Find"),
      h("button", { onclick: () => this.clear() }, "Clear")));
  }
}

/** from low to high, both included; in whole days where the numbers are dates */
class Range {
  constructor(column, n, changed) { this.changed = changed; this.renew(column); }

  renew({ about, values }) {
    const narrowed = this.span && this.active;
    this.about = about;
    this.values = values;
    this.span = about.span ?? [0, 0];
    this.whole = about.dates || values.every((value) => !(value % 1));
    this.known = values.reduce((sum, value) => sum + !Number.isNaN(value), 0);
    if (!narrowed) this.reset();
  }

  reset() { [this.low, this.high] = this.span; }

  get active() { return this.low > this.span[0] || this.high < this.span[1]; }

  strike(mask) {
    const { values, low, high } = this;
    for (let row = 0; row < mask.length; row++) if (!(values[row] >= low && values[row] <= high)) mask[row] = 0;
  }

  words() { return this.active ? `${spoken(this.about, this.low)} to ${spoken(this.about, this.high)}` : ""; }

  parts() {
    const { span: [least, most], about, values } = this, width = most - least || 1, heights = new Uint32Array(BARS);
    if (!this.known || least === most) return [h("p.empty", this.known ? `All are ${spoken(about, least)}.` : "No item has a value.")];
    for (let row = 0; row < values.length; row++) if (values[row] >= least) heights[Math.min(BARS - 1, Math.floor((values[row] - least) / width * BARS))]++;
    const tallest = heights.reduce((one, other) => Math.max(one, other), 1);
    this.bars = Array.from(heights, (tall) => h("i", { style: { height: `${tall ? Math.max(3, 100 * tall / tallest) : 0}%` } }));
    const step = this.whole ? Math.max(1, Math.round(width / STEPS)) : 10 ** Math.floor(Math.log10(width / 100));
    const slide = (end, says) => h("input", { type: "range", min: 0, max: STEPS, step: "any", "aria-label": `${says} ${about.title}`, oninput: (event) => this.set(end, this.at(Number(event.target.value) / STEPS)) });
    const write = (end, says) => h("input", { type: about.dates ? "date" : "number", step: about.dates ? null : String(step), "aria-label": `${says} ${about.title}, exactly`, onchange: (event) => this.set(end, this.read(event.target, end)) });
    this.inputs = { low: [slide("low", "Least"), write("low", "Least")], high: [slide("high", "Greatest"), write("high", "Greatest")] };
    // the arrow keys of a slider without steps would move it by a pixel
    for (const end of ["low", "high"]) this.inputs[end][0].addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key];
      if (!by) return;
      event.preventDefault();
      this.set(end, this[end] + by * (this.whole ? step : width / STEPS));
    });
    this.show();
    const absent = values.length - this.known;
    return [h("div.bars", { "aria-hidden": "true" }, this.bars), h("div.slides", this.inputs.low[0], this.inputs.high[0]),
      h("p.ends", this.inputs.low[1], "to", this.inputs.high[1]), absent ? h("p.more", `${count(absent, "item")} without a value`) : ""];
  }

  at(share) {
    const [least, most] = this.span, value = least + share * (most - least);
    return share <= 0 ? least : share >= 1 ? most : this.whole ? Math.round(value) : value;
  }

  read(input, end) {
    const value = this.about.dates ? input.valueAsNumber / 864e5 : input.valueAsNumber;
    return Number.isNaN(value) ? this.span[end === "low" ? 0 : 1] : value;
  }

  set(end, value) {
    const [least, most] = this.span, single = Math.fround(value); // as the values are
    if (end === "low") this.low = Math.min(Math.max(single, least), this.high); else this.high = Math.max(Math.min(single, most), this.low);
    this.show();
    this.changed();
  }

  show() {
    const [least, most] = this.span, width = most - least || 1;
    for (const end of ["low", "high"]) {
      const [slide, write] = this.inputs[end];
      slide.value = STEPS * (this[end] - least) / width;
      slide.setAttribute("aria-valuetext", spoken(this.about, this[end]));
      write.value = this.about.dates ? day(this[end]) : String(this.whole ? this[end] : Number(this[end].toPrecision(5)));
    }
    this.bars.forEach((bar, i) => bar.classList.toggle("in", least + (i + 1) / BARS * width > this.low && least + i / BARS * width <= this.high));
  }
}

/** one of the values that are ticked; with none, all */
class Choice {
  constructor(column, n, changed) { this.changed = changed; this.n = n; this.ticked = new Set(); this.renew(column); }

  renew({ about, values }) {
    this.ticked = new Set([...this.ticked].map((code) => (code < 0 ? -1 : about.classes.indexOf(this.about.classes[code]))));
    this.about = about;
    this.values = values;
  }

  reset() { this.ticked.clear(); }

  get active() { return this.ticked.size > 0; }

  strike(mask) {
    const keep = Uint8Array.from({ length: this.about.classes.length + 1 }, (_, i) => Number(this.ticked.has(i - 1))); // -1: no value
    for (let row = 0; row < mask.length; row++) mask[row] &= keep[this.values[row] + 1];
  }

  words() { return this.ticked.size > 1 ? `${this.ticked.size} values` : [...this.ticked].map((code) => this.about.classes[code] ?? "no value").join(""); }

  parts() {
    const { classes, counts, rest } = this.about, none = this.n - counts.reduce((sum, one) => sum + one, 0);
    if (classes.length + rest > LISTED) return [h("p.empty", `It has ${count(classes.length + rest, "value")}, too many to list. Colour the map by it, and its legend shows one alone.`)];
    if (!classes.length) return [h("p.empty", "No item has a value.")];
    const tick = (code, text, colour, n) => h("label", h("input", { type: "checkbox", checked: this.ticked.has(code), onchange: (event) => { if (event.target.checked) this.ticked.add(code); else this.ticked.delete(code); this.changed(); } }),
      h("i", { style: { background: colour } }), h("span", { dir: "auto" }, text), h("small", n.toLocaleString("en")));
    return [...classes.map((one, i) => tick(i, one, css(ofClass(i)), counts[i])), none > 0 ? tick(-1, "no value", "var(--other)", none) : ""];
  }
}
