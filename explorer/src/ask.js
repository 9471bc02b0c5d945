// Ask: by words, by a file that is dropped, by examples; the answer as a gallery with scores, and on the map.

import { h, say, count } from "./dom.js";
import { gallery, likeness } from "./items.js";

const HITS = 60;

export class AskView {
  constructor(app) { this.app = app; this.id = "ask"; this.title = "Ask"; this.turn = 0; }

  async begin() {
    const { app, place } = this, { text, file, example } = app.run.asks, live = !app.source.still;
    if (text && live) {
      this.words = h("input", { type: "search", id: "ask-words", placeholder: app.run.modality === "text" ? "Words, a sentence, a whole text…" : "What a picture shows…", autocomplete: "off", enterkeyhint: "search" });
      place.append(h("form.words", { onsubmit: (event) => { event.preventDefault(); this.byText(); } }, h("label.visually-hidden", { htmlFor: "ask-words" }, "Ask by text"), this.words, h("button.primary", { type: "submit" }, "Ask")));
    }
    if (file && live) {
      const pick = h("input", { type: "file", id: "ask-file", accept: { image: "image/*", audio: "audio/*,.flac", text: "text/*,.md" }[app.run.modality], onchange: () => pick.files[0] && this.byFile(pick.files[0]) });
      place.append(h("label.drop", { htmlFor: "ask-file" }, h("span", h("b", `Drop ${{ image: "a picture", audio: "a sound", text: "a text file" }[app.run.modality]} here`), " or choose one"), pick));
      this.listenToDrops();
    }
    this.trays = h("div.trays");
    if (example) place.append(this.trays);
    this.answer = h("div.answer", { "aria-live": "polite" });
    place.append(this.answer);
    this.showTrays();
    this.answer.append(h("p.empty", example ? `Click an item on the map and say “more like this”, or “not like this”${text && live ? "; or ask in words" : ""}.` : "Ask in words."));
  }

  hidden() { this.app.focusOn(null); }
  shown() {
    if (this.found) this.app.focusOn(this.found);
    if (!this.warmed && (this.app.run.asks.text || this.app.run.asks.file)) { this.warmed = true; this.app.source.warm(); }
  }
  start() { (this.words ?? this.place.querySelector("button, input"))?.focus(); }

  listenToDrops() {
    const over = (event) => { if ([...event.dataTransfer?.types ?? []].includes("Files")) { event.preventDefault(); document.body.classList.add("dropping"); } };
    addEventListener("dragover", over);
    addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
    addEventListener("drop", (event) => {
      document.body.classList.remove("dropping");
      const file = event.dataTransfer?.files?.[0];
      if (!file) return;
      event.preventDefault();
      this.app.open("ask");
      this.byFile(file);
    });
    addEventListener("paste", (event) => { const file = event.clipboardData?.files?.[0]; if (file) { this.app.open("ask"); this.byFile(file); } });
  }

  byText() {
    const text = this.words.value.trim();
    if (!text) { this.words.focus(); return; }
    this.find(`“${text.length > 60 ? `${text.slice(0, 59)}…` : text}”`, () => this.app.source.text(text, HITS));
  }

  byFile(file) {
    if (file.size > 64 * 2 ** 20) { say("The file is too large: expected at most 64 MB", "bad"); return; }
    this.find(file.name || "what was pasted", () => this.app.source.file(file, HITS));
  }

  byExample() {
    this.showTrays();
    const { like, unlike } = this.app;
    if (!like.length && !unlike.length) { this.clear(); return; }
    this.find(like.length ? `like ${count(like.length, "item")}${unlike.length ? `, unlike ${unlike.length}` : ""}` : `unlike ${count(unlike.length, "item")}`, () => this.app.source.near(like, unlike, HITS));
  }

  async find(title, ask) {
    const { app, answer } = this, turn = ++this.turn;
    answer.replaceChildren(h("p.wait", `Looking for ${title}…`));
    let found;
    try { found = await ask(); } catch (error) {
      if (turn === this.turn) answer.replaceChildren(h("p.trouble", { role: "alert" }, error.message));
      return;
    }
    if (turn !== this.turn) return;
    const items = [...found.columns.item], score = new Map(items.map((item, i) => [item, found.columns.score[i]]));
    const shown = await gallery(app, items, { score, empty: "Nothing is like it." });
    if (turn !== this.turn) return;
    answer.replaceChildren(
      h("h2", title, h("small", count(items.length, "nearest item")), h("span.grow"),
        h("button", { onclick: () => app.choose(items.map((item) => app.rowOf(item))) }, "Choose these"),
        h("button", { onclick: () => app.map.show(items.map((item) => app.rowOf(item))) }, "Find"),
        h("button", { onclick: () => this.clear() }, "Clear")), shown);
    this.found = [...items, ...app.like];
    if (app.view === this) app.focusOn(this.found);
  }

  clear() {
    this.turn++;
    this.app.like = []; this.app.unlike = [];
    this.showTrays();
    this.answer.replaceChildren();
    this.found = null;
    this.app.focusOn(null);
  }

  async showTrays() {
    const { app, trays } = this;
    const tray = async (name, items, title) => {
      const records = await app.items.get(items);
      return h(`div.tray.${name}`, h("h3", title), h("ul", records.map((record) => h("li", likeness(record), h("button", { "aria-label": `Remove ${record.name}`, onclick: () => { app[name] = app[name].filter((one) => one !== record.item); this.byExample(); } }, "×")))));
    };
    if (!app.like.length && !app.unlike.length) { trays.replaceChildren(); return; }
    trays.replaceChildren(...await Promise.all([app.like.length && tray("like", app.like.slice(0, 60), "More like"), app.unlike.length && tray("unlike", app.unlike, "Not like")].filter(Boolean)));
  }
}
