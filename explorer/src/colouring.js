// What colours the points: clusters, labels, numbers, and what a person and a probe have said. With its legend.

import { h, count, percent, spoken } from "./dom.js";
import { ofClass, ofShare, css, blend } from "./colour.js";
import { STARS } from "./stars.js";

const SHADES = 32, LEVELS = 8, NAMED = 60;

export class Colouring {
  constructor(app) {
    this.app = app;
    this.columns = new Map(); // name -> { about, values }
    this.alone = null;
    this.chooser = document.getElementById("colour-by");
    this.legend = document.getElementById("legend");
    this.chooser.addEventListener("change", () => app.guard(this.by(this.chooser.value)));
  }

  /** the first colouring needs no further request */
  async begin(points) {
    const { run } = this.app, clusters = run.clusters, most = Math.max(-1, ...clusters.map((one) => one.cluster));
    if (run.columns.some((one) => one.name === "cluster")) {
      const classes = Array.from({ length: most + 1 }, (_, k) => `cluster ${k}`), counts = new Array(most + 1).fill(0);
      for (const one of clusters) { classes[one.cluster] = one.name; counts[one.cluster] = one.size; }
      this.columns.set("cluster", { about: { name: "cluster", title: "cluster", kind: "classes", classes, counts, rest: 0 }, values: points.columns.cluster });
    }
    this.options();
    await this.by(run.columns[0]?.name ?? "");
  }

  /** the columns that there are: the run's, and those of labels given here */
  choices() {
    const yours = [...this.columns.keys()].filter((name) => /^(yours|doubt):/.test(name)).map((name) => ({ name, title: this.columns.get(name).about.title }));
    return [...this.app.run.columns, ...yours];
  }

  options() {
    const now = this.now ?? this.app.run.columns[0]?.name ?? "";
    this.chooser.replaceChildren(...[...this.choices(), { name: "", title: "nothing" }].map(({ name, title }) => h("option", { value: name, selected: name === now }, title)));
  }

  async get(name) {
    if (!this.columns.has(name)) {
      const { columns, about } = await this.app.source.column(name);
      this.columns.set(name, { about, values: columns.value });
    }
    return this.columns.get(name);
  }

  /** a column that the page made itself: yours:NAME, doubt:NAME */
  put(name, column) {
    const fresh = !this.columns.has(name);
    this.columns.set(name, column);
    if (fresh) this.options();
    if (this.now === name) this.paint();
    this.app.filter?.renew(name, column);
  }

  drop(name) {
    if (!this.columns.delete(name)) return;
    if (this.now === name) this.app.guard(this.by(this.app.run.columns[0]?.name ?? ""));
    this.options();
    this.app.filter?.renew(name, null);
  }

  async by(name) {
    this.now = name;
    this.chooser.value = name;
    this.alone = null;
    if (name) await this.get(name);
    if (this.now === name) this.paint();
  }

  paint() {
    const column = this.columns.get(this.now);
    const { map, item } = this.app, n = item.length;
    this.column = column;
    if (!column) { this.codes = new Int32Array(n); this.palette = [[74, 143, 140]]; } else if (column.about.kind === "number") this.shaded(column, n);
    else if (column.told) this.doubted(column, n);
    else { this.codes = column.values; this.palette = column.about.classes.map((_, i) => this.classColour(i)); }
    map.setColours(this.codes, this.palette);
    map.setNames(this.names());
    this.explain();
    this.app.restate();
  }

  /** the same class has the same colour, whatever the column's own order */
  classColour(i) { return ofClass(i); }

  shaded({ values, about }, n) {
    const [low, high] = about.span ?? [0, 1];
    this.codes = new Int32Array(n);
    for (let row = 0; row < n; row++) this.codes[row] = Number.isFinite(values[row]) ? Math.round((values[row] - low) / (high - low || 1) * (SHADES - 1)) : -1;
    this.palette = Array.from({ length: SHADES }, (_, i) => ofShare(i / (SHADES - 1)));
  }

  /** given labels in full colour, predicted ones the paler the less sure */
  doubted({ values, told, about }, n) {
    const grey = this.app.map.grey;
    const least = 1 / Math.max(about.classes.length, 2);
    this.palette = about.classes.flatMap((_, i) => Array.from({ length: LEVELS + 1 }, (_, level) => blend(this.classColour(i), grey, level === LEVELS ? 1 : 0.12 + 0.68 * level / (LEVELS - 1))));
    this.codes = new Int32Array(n);
    for (let row = 0; row < n; row++) {
      if (values[row] >= 0) this.codes[row] = values[row] * (LEVELS + 1) + LEVELS;
      else if (told.values[row] >= 0) this.codes[row] = told.values[row] * (LEVELS + 1) + Math.min(LEVELS - 1, Math.max(0, Math.floor((told.probability[row] - least) / (1 - least) * LEVELS)));
      else this.codes[row] = -1;
    }
  }

  classOf(row) {
    if (!this.column) return 0;
    if (this.column.about.kind === "number") return this.codes[row];
    const { values, told } = this.column;
    return values[row] >= 0 ? values[row] : told?.values[row] ?? -1;
  }

  rgb(row) { const code = this.codes[row]; return code >= 0 ? this.palette[code] : this.app.map.grey; }

  /** where the names of classes are written: in the middle of each */
  names() {
    const { about } = this.column ?? {};
    if (!about || about.kind !== "classes" || about.classes.length > NAMED || this.now === STARS) return [];
    const { map } = this.app, xs = about.classes.map(() => []), ys = about.classes.map(() => []), step = Math.max(1, Math.floor(map.m / 60_000));
    for (let j = 0; j < map.m; j += step) {
      const k = this.column.told ? this.column.values[map.row[j]] : this.classOf(map.row[j]); // of labels, where they were given
      if (k >= 0) { xs[k].push(map.x[j]); ys[k].push(map.y[j]); }
    }
    const middle = (values) => values.sort((a, b) => a - b)[values.length >> 1];
    return about.classes.map((text, k) => ({ text, k, bare: text === `cluster ${k}`, weight: xs[k].length / Math.max(map.m / step, 1), x: middle(xs[k]), y: middle(ys[k]) })).filter((one) => one.weight > 0);
  }

  explain() {
    const { legend, column } = this;
    if (!column) { legend.replaceChildren(); return; }
    const { about } = column;
    if (about.kind === "number") {
      const ramp = h("div.ramp", { style: { background: `linear-gradient(90deg, ${this.palette.map(css).join(",")})` } });
      legend.replaceChildren(ramp, h("p.ends", h("span", spoken(about, about.span?.[0])), h("span", spoken(about, about.span?.[1]))));
      return;
    }
    if (!about.classes.length) { legend.replaceChildren(h("p.more", "nothing labelled yet")); return; }
    legend.replaceChildren(
      ...about.classes.map((_, i) => h("button.kind", { "aria-pressed": String(this.alone === i), title: "Show alone; with Shift: choose all", onclick: (event) => (event.shiftKey ? this.choose(i) : this.only(i)) },
        h("i", { style: { background: css(this.classColour(i)) } }), h("span", { dir: "auto" }, about.classes[i]), h("small", (about.counts[i] ?? 0).toLocaleString("en")))),
      about.rest ? h("p.more", `and ${count(about.rest, "rarer one")}, in grey`) : "",
      column.told ? h("p.more", "predicted ones are the paler, the less sure") : "",
      this.alone !== null ? h("button.all", { onclick: () => this.choose(this.alone) }, `Choose all of ${about.classes[this.alone]}`) : "");
  }

  only(i) {
    this.alone = this.alone === i ? null : i;
    this.explain();
    this.legend.querySelectorAll(".kind")[i]?.focus();
    this.app.restate();
  }

  choose(i) {
    const rows = [];
    for (let row = 0; row < this.app.item.length; row++) if (this.classOf(row) === i && this.app.remains(row)) rows.push(row);
    this.alone = null;
    this.explain();
    this.app.choose(rows);
  }

  /** what is known of an item, as [name, value] */
  lines(row, record) {
    const found = [];
    for (const [name, { about, values, told }] of this.columns) {
      if (name === STARS) continue; // the star itself is shown
      if (about.kind === "classes" && values[row] >= 0) found.push([about.title, about.classes[values[row]]]);
      else if (told && told.values[row] >= 0) found.push([about.title, `${about.classes[told.values[row]]}? ${percent(told.probability[row])}`]);
      else if (about.kind === "number" && Number.isFinite(values[row]) && !name.startsWith("doubt:")) found.push([about.title, spoken(about, values[row])]);
    }
    const said = new Set(found.map(([key]) => key));
    for (const [key, value] of Object.entries(record.labels)) if (!said.has(key)) found.push([key, value]);
    return found.map(([key, value]) => (String(value).startsWith(`${key} `) ? ["", value] : [key, value]));
  }
}
