// Label: name what is chosen or open, take back, be told what to label next, and see what a probe makes of the rest.

import { h, say, count, percent, debounce, whisper } from "./dom.js";
import { likeness } from "./items.js";
import { css, ofClass } from "./colour.js";
import { STAR } from "./stars.js";

const BATCH = 24;

export class LabelView {
  constructor(app) {
    this.app = app; this.id = "label"; this.title = "Label";
    this.classes = []; this.queue = []; this.values = {};
    this.learn = debounce(() => this.teach(), 900);
  }

  async begin() {
    const { app, place } = this;
    this.name = h("input", { id: "label-name", value: "label", maxLength: 100, autocomplete: "off", spellcheck: false, list: "label-names", onchange: () => this.rename() });
    this.name.setAttribute("list", "label-names");
    this.names = h("datalist", { id: "label-names" });
    this.target = h("p.target");
    this.chips = h("ul.chips", { "aria-label": "Labels" });
    this.fresh = h("input", { id: "label-new", placeholder: "New label, then Enter", maxLength: 100, autocomplete: "off" });
    this.next = h("div.next");
    this.learned = h("div.learned", { "aria-live": "polite" });
    const format = h("select", { id: "label-format" }, ["csv", "parquet", "jsonl", ...(app.run.modality === "image" ? ["imagefolder"] : [])].map((one) => h("option", one)));
    const predicted = h("input", { type: "checkbox", id: "label-predicted", checked: true });
    this.part = h("input", { type: "checkbox", id: "label-part" });
    this.parts = h("label", this.part, " only what is chosen");
    place.append(
      h("p.name", h("label", { htmlFor: "label-name" }, "What is labelled"), this.name, this.names),
      this.target, this.chips,
      h("form.fresh", { onsubmit: (event) => { event.preventDefault(); this.add(this.fresh.value); } }, h("label.visually-hidden", { htmlFor: "label-new" }, "New label"), this.fresh, h("button", { type: "submit" }, "Add")),
      h("p.actions", h("button", { onclick: () => this.undo(), title: "U" }, "Take back"), h("button", { onclick: () => this.redo(), title: "Ctrl Shift Z" }, "Do again"), h("button", { onclick: () => this.give(null) }, "Remove label")),
      h("section.suggest", h("h2", "What to label next", h("span.grow"), h("button.primary", { onclick: () => this.suggest(), title: "N" }, "Suggest")), this.next),
      h("section", h("h2", "What a probe makes of the rest"), this.learned),
      h("section.export", h("h2", "Take it with you"), h("p", h("label", { htmlFor: "label-format" }, "Format"), " ", format, " ", h("label", predicted, " with predicted labels"), " ", this.parts, " ", h("button", { onclick: () => this.export(format.value, predicted.checked) }, "Download"))));
    this.next.append(h("p.empty", "Items whose labels would teach the most. Label them with the keys 1 to 9."));
    this.showLearned();
    await this.refresh(true);
    this.chose();
  }

  shown() { this.chose(); }

  // what there is

  async refresh(first = false) {
    const { labels, stamp } = await this.app.source.labels();
    this.stamp = stamp;
    if (first && labels.length && !labels.some((one) => one.name === this.name.value)) this.name.value = labels[0].name;
    this.names.replaceChildren(...labels.map((one) => h("option", { value: one.name })));
    this.values = labels.find((one) => one.name === this.name.value.trim())?.values ?? {};
    const known = Object.keys(this.values);
    this.classes = [...this.classes.filter((one) => known.includes(one) || this.made?.has(one)), ...known.filter((one) => !this.classes.includes(one))];
    if (Object.keys(this.values).length) await this.recolour();
    this.showChips();
    if (first && Object.keys(this.values).length) this.learn();
  }

  async rename() { this.made = new Set(); this.classes = []; this.told = null; this.showLearned(); await this.app.guard(this.refresh()); this.learn(); }

  async recolour() {
    const name = this.name.value.trim(), { columns, about } = await this.app.source.given(name);
    // the order of chips is the order of colours
    const order = about.classes.map((one) => { if (!this.classes.includes(one)) this.classes.push(one); return this.classes.indexOf(one); });
    const values = columns.value.map((code) => (code >= 0 ? order[code] : -1)), counts = this.classes.map((one) => this.values[one] ?? 0);
    const told = this.told && this.told.about.classes.every((one) => this.classes.includes(one)) ? this.toldColumn() : null;
    this.app.colouring.put(`yours:${name}`, { about: { ...about, title: `${name} (yours)`, classes: [...this.classes], counts }, values, told });
  }

  toldColumn() {
    const { columns, about } = this.told, order = about.classes.map((one) => this.classes.indexOf(one));
    return { values: columns.value.map((code) => order[code]), probability: columns.probability };
  }

  showChips() {
    this.chips.replaceChildren(...this.classes.map((one, i) => h("li", h("button.chip", { onclick: () => this.give(one), "aria-keyshortcuts": i < 9 ? String(i + 1) : null },
      i < 9 && h("kbd", String(i + 1)), h("i", { style: { background: css(ofClass(i)) } }), h("span", { dir: "auto" }, one), h("small", (this.values[one] ?? 0).toLocaleString("en"))))));
    if (!this.classes.length) this.chips.append(h("li.empty", "No labels yet: type the first below."));
  }

  chose() {
    if (!this.target) return;
    const { chosen, pinned } = this.app;
    this.parts.hidden = !chosen.size;
    this.part.checked = chosen.size > 0;
    this.target.textContent = chosen.size ? `A label goes to the ${count(chosen.size, "chosen item")}.` : pinned !== null ? "A label goes to the open item." : this.queue.length ? "A label goes to the suggestion." : "Choose items on the map, open one, or ask for suggestions.";
  }
  pinned() { this.chose(); }

  // giving

  targets() {
    const { chosen, pinned } = this.app;
    if (chosen.size) return this.app.chosenItems();
    if (pinned !== null) return [pinned];
    return this.queue.length ? [this.queue[0].item] : [];
  }

  async add(text) {
    const value = text.trim();
    if (!value) return;
    this.made = (this.made ?? new Set()).add(value);
    if (!this.classes.includes(value)) this.classes.push(value);
    this.fresh.value = "";
    this.showChips();
    if (!this.targets().length) return;
    document.activeElement?.blur?.(); // at once: the next key is a command, not the next label's first letter
    await this.give(value);
  }

  byNumber(number) {
    const value = this.classes[number - 1];
    if (value === undefined) return false;
    if (!this.targets().length) { say("Choose items first: on the map, or by suggestion (N)"); return true; }
    this.give(value);
    return true;
  }

  async give(value) {
    const items = this.targets(), { app } = this;
    if (!items.length) { say("Choose items first: on the map, or by suggestion (N)"); return; }
    const name = this.name.value.trim() || "label";
    const done = await app.guard(app.source.label({ name, value, items }));
    if (!done) return;
    say(value === null ? `${count(items.length, "label")} removed` : `${count(items.length, "item")}: ${value}`);
    const given = new Set(items);
    this.queue = this.queue.filter((one) => !given.has(one.item));
    if (app.chosen.size) { app.chosen.clear(); app.chose(); } else if (app.pinned !== null && this.queue.length) app.pin(null);
    await this.after(name);
  }

  async after(name) {
    await this.app.guard(this.refresh());
    if (this.app.colouring.now !== `yours:${name}` && Object.keys(this.values).length) await this.app.colouring.by(`yours:${name}`);
    this.showNext();
    this.chose();
    this.learn();
  }

  async undo() { await this.step("undo", "taken back"); }
  async redo() { await this.step("redo", "done again"); }
  async step(which, words) {
    const done = await this.app.guard(this.app.source[which]());
    if (!done) return;
    if (!done.name) { say(which === "undo" ? "Nothing to take back" : "Nothing to do again"); return; }
    say(`${count(done.n, done.name === STAR ? "star" : "label")} ${words}`);
    if (done.name === STAR) { await this.app.guard(this.app.stars.refresh(done.stamp)); return; }
    if (!this.place) { await this.app.open("label"); return; }
    if (done.name !== this.name.value) this.name.value = done.name;
    await this.after(done.name);
  }

  // suggestions

  async suggest() {
    const { app } = this;
    this.next.replaceChildren(h("p.wait", "Choosing what would teach the most…"));
    const found = await app.guard(app.source.suggest(Object.keys(this.values).length ? this.name.value.trim() : "", BATCH));
    this.queue = found?.items ?? [];
    if (!this.queue.length) { this.next.replaceChildren(h("p.empty", found ? "All items are labelled." : "No suggestion could be made.")); return; }
    app.chosen.clear(); app.chose(); app.pin(null);
    this.showNext();
    this.chose();
  }

  skip() { if (this.queue.length) { this.queue.push(this.queue.shift()); this.showNext(); } }

  async showNext() {
    const { app, queue } = this;
    if (!queue.length) { if (this.hadQueue) this.next.replaceChildren(h("p.empty", "That was the last of these suggestions.")); app.point(null); this.hadQueue = false; return; }
    this.hadQueue = true;
    const [record] = await app.items.get([queue[0].item]);
    if (!record || queue[0] !== this.queue[0]) return;
    app.items.get(queue.slice(1, 6).map((one) => one.item));
    const view = h("div.suggestion", { tabIndex: -1 }, h("button.open", { "aria-label": `Open ${record.name}`, onclick: () => app.pin(record.item) }, likeness(record, { big: true })), h("div", h("h3", { dir: "auto" }, record.name), record.url && record.text && h("p.text", { dir: "auto" }, record.text), h("p.why", queue[0].reason), h("p.actions", h("button", { onclick: () => this.skip(), title: "S" }, "Skip"), h("span", `${queue.length} left`))));
    this.next.replaceChildren(view);
    app.point(record.item);
    whisper(`Next: ${record.name}. ${queue[0].reason}`);
  }

  // learning from them

  async teach() {
    const enough = Object.values(this.values).filter((n) => n > 1).length > 1;
    if (!enough) { this.told = null; this.showLearned(); return; }
    this.app.teaching = true;
    await this.app.guard(this.app.source.teach(this.name.value.trim()));
    this.showLearned();
  }

  /** called again and again with the server's state */
  async state(state) {
    const { app } = this, was = app.teaching, name = this.name?.value.trim();
    app.teaching = state.teaching !== null;
    if (!this.place) return;
    if (state.labels !== this.stamp) await this.refresh();
    this.error = state.errors[name];
    const round = state.told[name];
    if (round !== undefined && round !== this.round) {
      this.told = await app.source.told(name);
      this.round = round;
      const { columns } = this.told;
      await this.recolour();
      app.colouring.put(`doubt:${name}`, { about: { name: `doubt:${name}`, title: `${name}: doubt`, kind: "number", span: [0, Math.max(0.01, columns.probability.reduce((most, p) => Math.max(most, 1 - p), 0))], classes: [] }, values: columns.probability.map((p) => 1 - p) });
      this.showLearned();
    } else if (was !== app.teaching || this.error) this.showLearned();
  }

  showLearned() {
    const { learned, app } = this, busy = app.teaching ? h("p.wait", "Learning from the labels so far…") : "";
    if (!this.told) {
      learned.replaceChildren(busy || h(this.error ? "p.trouble" : "p.empty", this.error ?? "With two labels on two items each, a probe starts to learn in the background, and colours the rest of the map: the paler, the less sure."));
      return;
    }
    const { accuracy, commonest, probe, n, left_out: left } = this.told.about, name = this.name.value.trim();
    learned.replaceChildren(
      h("p", h("b.big", percent(accuracy.value)), ` right on items like the labelled ones (${percent(accuracy.low)} to ${percent(accuracy.high)}); the commonest label alone gets ${percent(commonest)}.`),
      h("p.more", `By ${probe}, from ${count(n, "label")}.${left.length ? ` Not learned yet, with one item only: ${left.join(", ")}.` : ""}`),
      h("p.actions", h("button", { onclick: () => app.guard(app.colouring.by(`yours:${name}`)) }, "Colour by labels"), h("button", { onclick: () => app.guard(app.colouring.by(`doubt:${name}`)) }, "Colour by doubt"), h("button", { onclick: () => this.doubtful() }, "Choose the 24 most doubtful")), busy);
  }

  doubtful() {
    const { probability } = this.told.columns;
    const rows = Array.from(probability.keys()).sort((a, b) => probability[a] - probability[b]).slice(0, 24);
    this.app.choose(rows);
  }

  async export(format, predicted) {
    const found = await this.app.guard(this.app.source.export({ format, predicted, name: Object.keys(this.values).length ? this.name.value.trim() : "", items: this.part.checked ? this.app.chosenItems() : null }));
    if (found) say(`${found.name}: ${count(found.n, "item")}`);
  }
}
