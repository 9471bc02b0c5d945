// Ask: by meaning, by a piece of a name or text, by a file that is dropped, by examples; the answer as a gallery with
// scores, and on the map.

import { h, say, count } from "./dom.js";
import { gallery, likeness } from "./items.js";

const HITS = 60, MEANING = 20_000, FRAGMENT = 200; // answers; characters of a question

export class AskView {
  constructor(app) { this.app = app; this.id = "ask"; this.title = "Ask"; this.turn = 0; }

  async begin() {
    const { app, place } = this, { text, file, example } = app.run.asks, live = !app.source.still;
    this.words = h("input", { type: "search", id: "ask-words", autocomplete: "off", enterkeyhint: "search" });
    this.button = h("button.primary", { type: "submit" });
    place.append(h("form.words", { onsubmit: (event) => { event.preventDefault(); this.byWords(); } }, h("label.visually-hidden", { htmlFor: "ask-words" }, "Ask by text"), this.words, this.button));
    if (text && live) {
      const way = (meaning, says) => h("label", h("input", { type: "radio", name: "ask-way", checked: meaning, onchange: () => { this.turnTo(meaning); if (this.words.value.trim()) this.byWords(); } }), says);
      place.append(h("p.ways", { role: "radiogroup", "aria-label": "How words are looked for" }, way(true, "by meaning"), way(false, "in names and texts")));
    }
    this.turnTo(text && live);
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
    this.answer.append(h("p.empty", `Ask in words, or by a piece of a name${example ? "; or click an item on the map and say “more like this”, or “not like this”" : ""}.`));
  }

  hidden() { this.app.focusOn(null); }
  shown() {
    if (this.found) this.app.focusOn(this.found);
    if (!this.warmed && (this.app.run.asks.text || this.app.run.asks.file)) { this.warmed = true; this.app.source.warm(); }
  }
  start() { this.words.focus(); }

  turnTo(meaning) {
    this.meaning = meaning;
    this.words.maxLength = meaning ? MEANING : FRAGMENT;
    this.words.placeholder = !meaning ? "A piece of a name, a path or a text…" : this.app.run.modality === "text" ? "Words, a sentence, a whole text…" : "What a picture shows…";
    this.button.textContent = meaning ? "Ask" : "Find";
  }

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

  byWords() {
    const text = this.words.value.trim(), said = `“${text.length > 60 ? `${text.slice(0, 59)}…` : text}”`;
    if (!text) this.words.focus();
    else if (this.meaning) this.find(said, () => this.app.source.text(text, HITS));
    else this.find(said, () => this.app.source.find(text.slice(0, FRAGMENT)), text);
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

  /** fragment: of names and texts, where it is that which is looked for */
  async find(title, ask, fragment) {
    const { app, answer } = this, turn = ++this.turn;
    answer.replaceChildren(h("p.wait", `Looking for ${title}…`));
    let found;
    try { found = await ask(); } catch (error) {
      if (turn === this.turn) answer.replaceChildren(h("p.trouble", { role: "alert" }, error.message));
      return;
    }
    if (turn !== this.turn) return;
    const items = [...found.columns.item], n = fragment ? found.about.n : items.length, score = fragment ? null : new Map(items.map((item, i) => [item, found.columns.score[i]]));
    const shown = await gallery(app, items, { score, fragment, empty: fragment ? "No name, path or text has it." : "Nothing is like it." });
    if (turn !== this.turn) return;
    answer.replaceChildren(
      h("h2", title, h("small", !fragment ? count(n, "nearest item") : n > items.length ? `the first ${items.length} of ${count(n, "item")}` : count(n, "item"))),
      h("p.actions",
        items.length > 0 && h("button", { onclick: () => app.choose(items.map((item) => app.rowOf(item))) }, "Choose these"),
        items.length > 0 && h("button", { onclick: () => app.map.show(items.map((item) => app.rowOf(item))) }, "Find"),
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
