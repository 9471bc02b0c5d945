// The page: what is known of the run, what is chosen, and the parts that show it.

import { open } from "./source.js";
import { Items, Pictures, gallery, likeness } from "./items.js";
import { ScatterMap, SHOWN, FADED, CHOSEN } from "./map.js";
import { Colouring } from "./colouring.js";
import { h, say, whisper, count } from "./dom.js";
import { css } from "./colour.js";
import { ClustersView, DuplicatesView, OutliersView, SkippedView } from "./review.js";
import { AskView } from "./ask.js";
import { LabelView } from "./label.js";
import { FilterView } from "./filter.js";
import { Stars, StarredView } from "./stars.js";
import { PapersView } from "./papers.js";
import { listenToKeys } from "./keys.js";
import { player } from "./player.js";

const find = (id) => document.getElementById(id);

class App {
  constructor() {
    this.source = open();
    this.items = new Items(this.source);
    this.chosen = new Set(); // rows
    this.focus = null; // rows that an answer is about, or null
    this.mask = null; // (n,) 1 for what passes the filter, or null
    this.pinned = null;
    this.like = [];
    this.unlike = [];
  }

  async start() {
    this.map = new ScatterMap(find("stage"), {
      hover: (row, x, y) => this.hover(row, x, y),
      pick: (row, event) => this.pick(row, event),
      lasso: (rows, event) => this.choose(rows, event.ctrlKey || event.metaKey),
      moved: () => this.pictures?.on && this.map.redraw(),
    });
    const [run, points] = await Promise.all([this.source.run(), this.source.points()]);
    this.run = run;
    this.item = points.columns.item;
    this.cluster = points.columns.cluster;
    this.rowOf = (item) => { // item numbers rise
      let low = 0, high = this.item.length - 1;
      while (low <= high) { const middle = (low + high) >> 1; if (this.item[middle] === item) return middle; if (this.item[middle] < item) low = middle + 1; else high = middle - 1; }
      return -1;
    };
    this.map.pictures = this.pictures = new Pictures(this);
    this.map.setPoints(points.columns.x, points.columns.y);
    this.colouring = new Colouring(this);
    this.stars = new Stars(this);
    this.explain();
    await this.colouring.begin(points);
    this.map.resize();
    find("veil").hidden = this.run.placed > 0;
    if (!this.run.placed) find("veil").firstElementChild.textContent = "This run has no map: none of its items has a place. Asking, labelling and the lists work all the same.";
    if (this.source.still) await this.stars.refresh(""); // else when the server is first asked for its state
    performance.mark("painted");
    document.documentElement.dataset.ready = "1";
    this.views();
    this.buttons();
    listenToKeys(this);
    if (!this.source.still) this.watch();
    const first = await this.items.get([...this.item.subarray(0, 8)]);
    const urls = first.filter((one) => one.url);
    this.pictured = urls.length * 2 >= first.length && urls.length > 0;
    if (this.pictured) {
      const image = new Image();
      image.src = urls[0].url;
      await image.decode().catch(() => {});
      this.aspect = Math.min(Math.max(image.naturalWidth / (image.naturalHeight || 1), 0.5), 3);
      this.wide = this.aspect > 1.5;
    }
    find("pictures").hidden = !this.pictured;
    this.map.redraw();
  }

  explain() {
    const { run } = this;
    document.title = `${run.title} · tacit`;
    find("title").textContent = run.title;
    find("facts").textContent = [run.all > run.n ? `${run.n.toLocaleString("en")} of ${count(run.all, run.noun, run.nouns)}` : count(run.n, run.noun, run.nouns), run.method, run.health.word].filter(Boolean).join(" · ");
    find("facts").title = run.health.reason;
  }

  views() {
    const { asks } = this.run, live = !this.source.still;
    this.all = [
      new ClustersView(this),
      new AskView(this),
      live && new LabelView(this),
      this.filter = this.run.columns.length > 0 || live ? new FilterView(this) : null,
      (live || this.stars.items().length > 0) && new StarredView(this),
      this.run.duplicates > 0 && new DuplicatesView(this),
      this.run.columns.some((one) => one.name === "outlier") && new OutliersView(this),
      this.run.skipped > 0 && new SkippedView(this),
      this.run.papers && new PapersView(this),
    ].filter(Boolean);
    const tabs = find("tabs");
    tabs.replaceChildren(...this.all.map((view) => h("button.tab", { id: `tab-${view.id}`, role: "tab", "aria-selected": "false", "aria-controls": "view", tabIndex: -1, onclick: () => this.open(view.id) }, view.title)));
    tabs.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = (this.all.indexOf(this.view) + step + this.all.length) % this.all.length;
      this.open(this.all[next].id);
      find(`tab-${this.all[next].id}`).focus();
    });
    this.open(this.all[0].id);
  }

  async open(id) {
    const view = this.all.find((one) => one.id === id);
    if (!view) return null;
    if (this.view !== view) { this.view?.hidden?.(); this.point(null); } // its tiles go, and are left by no pointer
    this.view = view;
    for (const tab of find("tabs").children) {
      const here = tab.id === `tab-${id}`;
      tab.setAttribute("aria-selected", String(here));
      tab.tabIndex = here ? 0 : -1;
      if (here) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
    }
    const place = find("view");
    place.setAttribute("aria-labelledby", `tab-${id}`);
    if (!view.place) {
      view.place = h(`div.of-${id}`);
      this.guard(view.begin());
    }
    place.replaceChildren(view.place);
    place.scrollTop = 0;
    view.shown?.();
    return view;
  }

  /** shows what goes wrong, in words */
  async guard(job) {
    try { return await job; } catch (error) {
      say(error.message || String(error), "bad");
      if (!error.status && error.name !== "Refused") console.error(error);
      return undefined;
    }
  }

  // the map

  hover(row, x, y) {
    const card = find("card");
    this.hovering = row;
    if (row < 0) { card.hidden = true; return; }
    this.guard(this.items.get([this.item[row]]).then(([record]) => {
      if (this.hovering !== row || !record) return;
      card.replaceChildren(...this.described(record));
      card.classList.toggle("broad", !record.url || this.wide || record.text.length > 80);
      card.hidden = false;
      const { offsetWidth: w, offsetHeight: tall } = card, { width, height } = this.map;
      card.style.left = `${x + 20 + w > width ? Math.max(6, x - w - 20) : x + 20}px`;
      card.style.top = `${Math.min(Math.max(6, y - tall / 3), Math.max(6, height - tall - 6))}px`;
      if (this.map.crosshair) whisper(card.innerText);
    }));
  }

  described(record) {
    const row = this.rowOf(record.item);
    return [
      record.url && likeness(record),
      h("div", h("b", { dir: "auto" }, this.stars.has(record.item) ? `★ ${record.name}` : record.name),
        ...this.colouring.lines(row, record).map(([key, value]) => h("span.fact", h("i", key), " ", value)),
        record.text && record.text !== record.name && h("span.text", { dir: "auto" }, record.text.length > 220 ? `${record.text.slice(0, 219)}…` : record.text)),
    ].filter(Boolean);
  }

  pick(row, event) {
    if (row < 0) { if (!event.shiftKey) { this.pin(null); } return; }
    if (event.shiftKey || event.ctrlKey || event.metaKey) {
      if (this.chosen.has(row)) this.chosen.delete(row); else this.chosen.add(row);
      this.chose();
    } else this.pin(this.item[row]);
  }

  /** an item that is looked at elsewhere is marked on the map */
  point(item) {
    this.map.hovered = item === null ? -1 : this.rowOf(item);
    this.map.redraw();
  }

  colourOf(row) { return css(this.colouring.rgb(row)); }

  choose(rows, add = false) {
    if (!add) this.chosen.clear();
    for (const row of rows) this.chosen.add(row);
    this.chose();
    whisper(`${count(this.chosen.size, "item")} chosen`);
  }

  chose() { this.restate(); this.showChosen(); this.view?.chose?.(); }

  chosenItems() { return [...this.chosen].sort((a, b) => a - b).map((row) => this.item[row]); }

  /** focus the map on some rows: all others fade; null lets go */
  focusOn(items) {
    this.focus = items ? new Set(items.map((item) => this.rowOf(item))) : null;
    this.restate();
  }

  /** only what passes a filter keeps its colour; mask: (n,) of 1 and 0, or null */
  filtered(mask, left) {
    [this.mask, this.left] = [mask, left];
    this.restate();
    this.map.moved(); // while it is narrowed, as many points as there is time for
    const place = find("filtered");
    place.hidden = !mask;
    if (mask) place.replaceChildren(h("button.plain", { onclick: () => this.open("filter"), title: "Open the filter (F)" }, `${left.toLocaleString("en")} of ${count(mask.length, "item")}`), h("button.plain", { "aria-label": "Clear the filter", onclick: () => this.filter.clear() }, "×"));
  }

  remains(row) { return !this.mask || this.mask[row] === 1; }

  restate() {
    const state = new Uint8Array(this.item.length), { alone, codes } = this.colouring;
    if (this.focus) { state.fill(FADED); for (const row of this.focus) if (row >= 0) state[row] = SHOWN; } // as the list beside it
    else if (this.mask) for (let row = 0; row < state.length; row++) if (!this.mask[row]) state[row] = FADED;
    if (alone !== null) for (let row = 0; row < state.length; row++) if (this.colouring.classOf(row) !== alone) state[row] = FADED;
    for (const row of this.chosen) state[row] = CHOSEN;
    this.map.setState(state);
    return codes;
  }

  // the item that is looked at

  async pin(item) {
    const place = find("pinned");
    this.pinned = item;
    this.map.pinned = item === null ? -1 : this.rowOf(item);
    this.map.redraw();
    if (item === null) { place.hidden = true; place.replaceChildren(); this.view?.pinned?.(null); return; }
    await this.guard((async () => {
      const [record] = await this.items.get([item]);
      if (this.pinned !== item) return;
      const row = this.rowOf(item), facts = this.colouring.lines(row, record);
      const figure1 = h("div.portrait", likeness(record, { big: true }));
      const actions = h("p.actions", this.stars.button(record, { words: true }),
        this.run.asks.example && h("button", { onclick: () => this.example(item, 1), title: "M" }, "More like this"),
        this.run.asks.example && h("button", { onclick: () => this.example(item, -1), title: "X" }, "Not like this"),
        this.cluster[row] >= 0 && h("button", { onclick: () => this.chooseCluster(this.cluster[row]), title: "C" }, "Choose its cluster"),
        this.map.at[row] >= 0 && h("button", { onclick: () => this.map.show([row]), title: "A" }, "Find"));
      place.replaceChildren(
        h("button.close.plain", { "aria-label": "Close", onclick: () => this.pin(null) }, "×"),
        figure1,
        h("div.about", h("h2", { dir: "auto" }, record.name), record.uri !== record.name && h("p.uri", { dir: "auto" }, record.uri),
          record.url && record.text && h("p.text", { dir: "auto" }, record.text),
          h("dl.facts", facts.flatMap(([key, value]) => [h("dt", key), h("dd", value)])), actions));
      place.hidden = false;
      this.view?.pinned?.(item);
      if (record.file && ["image", "audio"].includes(this.run.modality)) {
        const file = await this.source.original(item);
        if (file && this.pinned === item) player(file, record, figure1);
      }
    })());
  }

  chooseCluster(cluster) {
    const rows = [];
    for (let row = 0; row < this.cluster.length; row++) if (this.cluster[row] === cluster && this.remains(row)) rows.push(row);
    this.choose(rows);
  }

  showChosen() {
    const place = find("chosen"), n = this.chosen.size;
    place.hidden = !n;
    if (!n) { place.replaceChildren(); return; }
    const strip = h("div.strip");
    place.replaceChildren(
      h("p", h("b", count(n, "item")), " chosen", h("span.grow"),
        this.all?.some((one) => one.id === "label") && h("button", { onclick: () => this.open("label").then((view) => view.name.focus()) }, "Label"),
        this.run.asks.example && n <= 500 && h("button", { onclick: () => this.ask(this.chosenItems()) }, "More like these"),
        h("button", { onclick: () => this.map.show(this.chosen) }, "Find"),
        h("button", { onclick: () => { this.chosen.clear(); this.chose(); } }, "Clear")), strip);
    const some = this.chosenItems().slice(0, 40);
    this.guard(gallery(this, some, { marks: false }).then((made) => { strip.replaceChildren(made, n > 40 ? h("p.more", `and ${(n - 40).toLocaleString("en")} more`) : ""); }));
  }

  // asking

  ask(like, unlike = []) {
    this.like = [...like];
    this.unlike = [...unlike];
    this.open("ask").then((view) => view?.byExample());
  }

  example(item, sign) {
    const [own, other] = sign > 0 ? ["like", "unlike"] : ["unlike", "like"];
    this[other] = this[other].filter((one) => one !== item);
    if (!this[own].includes(item)) this[own] = [...this[own], item];
    this.open("ask").then((view) => view?.byExample());
  }

  // buttons of the map, and what changes by itself

  buttons() {
    find("zoom-in").onclick = () => this.map.zoom(1.6);
    find("zoom-out").onclick = () => this.map.zoom(1 / 1.6);
    find("zoom-all").onclick = () => { this.map.fit(); this.map.moved(); };
    find("lasso").onclick = () => this.toggleLasso();
    find("pictures").onclick = () => this.togglePictures();
    find("fold").onclick = () => this.fold();
    find("help").onclick = () => find("keys").showModal();
    find("theme").onclick = () => {
      const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      document.documentElement.dataset.theme = dark ? "light" : "dark";
      this.map.renewed();
    };
    if (find("stage").clientWidth < 560) this.fold();
  }

  fold() {
    const button = find("fold"), shown = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!shown));
    button.textContent = shown ? "▸" : "▾";
    find("legend").hidden = shown;
  }

  toggleLasso() {
    this.map.tool = this.map.tool === "lasso" ? "move" : "lasso";
    find("lasso").setAttribute("aria-pressed", String(this.map.tool === "lasso"));
    find("stage").classList.toggle("drawing", this.map.tool === "lasso");
    find("hint").textContent = this.map.tool === "lasso" ? "Draw around items to choose them · Ctrl adds · L to stop" : "Scroll to zoom · drag to move · Shift and draw to choose";
  }

  togglePictures() {
    this.pictures.on = !this.pictures.on;
    find("pictures").setAttribute("aria-pressed", String(this.pictures.on));
    this.map.redraw();
  }

  /** labels from another window, and a run that was added to */
  watch() {
    const look = async () => {
      if (!document.hidden) {
        try {
          const state = await this.source.state();
          if (state.stamp !== this.run.stamp && !this.changed) {
            this.changed = true;
            find("said").replaceChildren(h("p.note.plain", "The run has changed. ", h("button", { onclick: () => location.reload() }, "Show it as it is now")));
          }
          if (state.labels !== this.stars.stamp) await this.stars.refresh(state.labels);
          await this.all.find((one) => one.id === "label")?.state(state);
          this.lost = false;
        } catch (error) {
          if (!this.lost) say(error.message, "bad");
          this.lost = true;
        }
      }
      setTimeout(look, this.teaching ? 700 : 3000);
    };
    setTimeout(look, 1200);
  }
}

const app = new App();
globalThis.tacit = app; // for tests and the curious
app.start().catch((error) => {
  document.documentElement.dataset.ready = "failed";
  find("title").textContent = "This run cannot be shown";
  find("veil").firstElementChild.replaceChildren(h("b", "This run cannot be shown."), h("br"), error.message || String(error));
  if (error.name !== "Refused" && !error.status) console.error(error);
});
