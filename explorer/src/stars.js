// Stars: what somebody wants to find again. A mark in the run's labels, which run.star() and tacit report know too.

import { h, say, count } from "./dom.js";
import { gallery } from "./items.js";

export const STAR = "tacit:star", STARS = `yours:${STAR}`; // the label, and its column
const SHOWN = 60;

export class Stars {
  constructor(app) { this.app = app; this.values = new Int32Array(app.item.length).fill(-1); this.stamp = ""; }

  has(item) { return this.values[this.app.rowOf(item)] >= 0; }

  items() {
    const found = [];
    for (let row = 0; row < this.values.length; row++) if (this.values[row] >= 0) found.push(this.app.item[row]);
    return found;
  }

  /** stamp: of the labels that are read */
  async refresh(stamp) {
    const { app } = this;
    this.stamp = stamp;
    this.values = (await app.source.given(STAR)).columns.value;
    const n = this.values.reduce((sum, code) => sum + Number(code >= 0), 0);
    if (n) app.colouring.put(STARS, { about: { name: STARS, title: "star", kind: "classes", classes: ["starred"], counts: [n], rest: 0 }, values: this.values });
    else app.colouring.drop(STARS);
    for (const button of document.querySelectorAll("button.star")) this.mark(button);
    app.all?.find((one) => one.id === "starred")?.renew();
  }

  /** a button that turns an item's star; where none can be turned, the star itself */
  button(record, { words = false } = {}) {
    if (this.app.source.still) return this.has(record.item) && h("span.star", { role: "img", "aria-label": "starred", title: "starred" }, "★");
    const button = h("button.star", { "data-star": record.item, "data-words": words, "aria-label": `Star ${record.name}`, title: "Star (*)", onclick: () => this.turn([record.item]) });
    this.mark(button);
    return button;
  }

  mark(button) {
    const on = this.has(Number(button.dataset.star));
    button.setAttribute("aria-pressed", String(on));
    button.textContent = (on ? "★" : "☆") + ("words" in button.dataset ? " Star" : "");
  }

  /** star items, or, where all have one, take their stars away */
  async turn(items) {
    const { app } = this;
    if (app.source.still) return;
    if (!items.length) { say("Open an item or choose some, then star them"); return; }
    const on = !items.every((item) => this.has(item));
    const done = await app.guard(app.source.star(items, on));
    if (!done) return;
    await app.guard(this.refresh(done.stamp));
    say(`${count(items.length, "star")} ${on ? "given" : "taken away"}`);
  }
}

export class StarredView {
  constructor(app) { this.app = app; this.id = "starred"; this.title = "Starred"; this.n = SHOWN; }

  async begin() {
    const { app } = this;
    this.said = h("h2");
    this.list = h("div");
    this.place.append(this.said, this.list);
    await this.show();
  }

  shown() { if (this.items) this.app.guard(this.show()); }
  hidden() { this.app.focusOn(null); }

  /** the stars have changed: what lost its own stays until the view is opened again, so that no button goes while it is used */
  renew() {
    if (!this.items) return;
    const here = new Set(this.items);
    if (this.app.view !== this || this.app.stars.items().some((item) => !here.has(item))) this.app.guard(this.show());
    else this.explain();
  }

  explain() {
    const { app } = this, n = app.stars.items().length;
    this.said.replaceChildren(count(n, "starred item"), h("span.grow"),
      n > 0 && h("button", { onclick: () => app.choose(app.stars.items().map(app.rowOf)) }, "Choose these"),
      n > 0 && h("button", { onclick: () => app.map.show(app.stars.items().map(app.rowOf)) }, "Find"));
  }

  async show() {
    const { app } = this;
    this.items = app.stars.items();
    this.explain();
    if (app.view === this) app.focusOn(this.items.length ? this.items : null);
    const more = this.items.length > this.n && h("button.more", { onclick: () => { this.n += SHOWN; app.guard(this.show()); } }, "More");
    this.list.replaceChildren(await gallery(app, this.items.slice(0, this.n), { empty: "None yet: the ☆ of an item, or the key *, keeps it here." }), more || "");
  }
}
