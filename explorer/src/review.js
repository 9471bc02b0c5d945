// Lists to look through: clusters with their most typical items, near-duplicates, outliers, and what was not read.

import { h, count, percent, say, figure } from "./dom.js";
import { gallery, likeness } from "./items.js";
import { css, ofClass } from "./colour.js";

/** makes something when it comes into view */
function whenSeen(element, make) {
  const seen = new IntersectionObserver((entries) => { if (entries.some((one) => one.isIntersecting)) { seen.disconnect(); make(); } }, { rootMargin: "300px" });
  seen.observe(element);
}

export class ClustersView {
  constructor(app) { this.app = app; this.id = "clusters"; this.title = "Clusters"; }

  async begin() {
    const { app, place } = this, { clusters, one_cloud: cloud } = app.run;
    if (!clusters.length) { place.append(h("p.empty", "This run has no clusters.")); return; }
    place.append(h("p.intro", cloud ? `No groups stand apart; the one cloud is cut into ${clusters.length} parts to be looked at. The most typical items of each:` : `${count(clusters.length, "cluster")}, each with its most typical items.`));
    for (const one of clusters) {
      const body = h("div.body");
      const section = h("section.cluster",
        h("h2", h("i", { style: { background: css(ofClass(one.cluster)) } }), h("span", { dir: "auto" }, one.name), h("small", one.size.toLocaleString("en")),
          h("span.grow"),
          h("button", { "aria-label": `Choose ${one.name}`, onclick: () => app.chooseCluster(one.cluster) }, "Choose"),
          h("button", { "aria-label": `Find ${one.name} on the map`, onclick: () => { app.chooseCluster(one.cluster); app.map.show(app.chosen); } }, "Find")),
        one.stability !== null && h("p.stable", { title: "How alike this cluster is over repeated clusterings" }, h("span.bar", h("i", { style: { width: percent(Math.max(0, one.stability)).replace(" ", "") } })), ` stability ${figure(one.stability)}`),
        body);
      place.append(section);
      whenSeen(section, () => app.guard(gallery(app, one.typical.slice(0, app.pictured === false ? 4 : 18)).then((made) => body.append(made))));
    }
  }
}

export class DuplicatesView {
  constructor(app) { this.app = app; this.id = "duplicates"; this.title = "Duplicates"; }

  async begin() {
    const { app, place } = this, found = await app.source.duplicates();
    this.verdicts = new Map(Object.entries(found.verdicts).map(([item, verdict]) => [Number(item), verdict]));
    this.total = h("p.intro");
    place.append(this.total);
    if (!app.source.still) {
      place.append(h("p.actions",
        h("button", { onclick: () => this.rest(found.groups) }, "Keep the first of each, discard the others"),
        h("button", { onclick: () => app.guard(app.source.export({ format: "csv", items: [...this.verdicts.keys()].sort((a, b) => a - b) }).then(({ n }) => say(`${count(n, "row")} written`))) }, "Download the list")));
    }
    for (const group of found.groups.slice(0, 500)) place.append(this.group(group));
    if (found.groups.length > 500) place.append(h("p.more", `and ${(found.groups.length - 500).toLocaleString("en")} more groups`));
    this.groups = found.groups;
    this.count();
  }

  group(group) {
    const { app } = this, list = h("ul.gallery.twins");
    const section = h("section.group", h("h2", group.exact ? "equal" : `${percent(group.similarity ?? 0)} alike`, h("small", count(group.items.length, app.run.noun, app.run.nouns))), list);
    whenSeen(section, () => app.guard(app.items.get(group.items.slice(0, 60)).then((records) => {
      if (!records.some((one) => one.url)) list.classList.add("texts");
      list.append(...records.map((record) => this.tile(record)));
    })));
    return section;
  }

  tile(record) {
    const { app } = this;
    const tile = h("li.tile", { "data-item": record.item },
      h("button.open", { title: record.uri, "aria-label": record.name, onclick: () => app.pin(record.item), onmouseenter: () => app.point(record.item), onmouseleave: () => app.point(null) }, likeness(record)),
      h("p.under", h("span", record.name)));
    if (!app.source.still) {
      const choice = (verdict, text) => h("button", { "data-verdict": verdict, "aria-label": `${text} ${record.name}`, onclick: () => this.decide([record.item], this.verdicts.get(record.item) === verdict ? null : verdict) }, text);
      tile.append(h("p.verdict", choice("keep", "keep"), choice("discard", "discard")));
      this.mark(tile, record.item);
    }
    return tile;
  }

  mark(tile, item) {
    const verdict = this.verdicts.get(item);
    tile.dataset.verdict = verdict ?? "";
    for (const button of tile.querySelectorAll(".verdict button")) button.setAttribute("aria-pressed", String(button.dataset.verdict === verdict));
  }

  async decide(items, verdict) {
    const found = await this.app.guard(this.app.source.verdict(items, verdict));
    if (!found) return;
    this.verdicts = new Map(Object.entries(found.verdicts).map(([item, one]) => [Number(item), one]));
    for (const tile of this.place.querySelectorAll(".tile")) this.mark(tile, Number(tile.dataset.item));
    this.count();
  }

  async rest(groups) {
    await this.decide(groups.map((group) => group.items[0]), "keep");
    await this.decide(groups.flatMap((group) => group.items.slice(1)), "discard");
  }

  count() {
    const discarded = [...this.verdicts.values()].filter((one) => one === "discard").length;
    this.total.textContent = `${count(this.groups.length, "group")} of equal or nearly equal items. ` + (this.app.source.still ? "" : `${discarded ? `${discarded.toLocaleString("en")} to be discarded. ` : ""}Verdicts are notes: no file is touched.`);
  }
}

export class OutliersView {
  constructor(app) { this.app = app; this.id = "outliers"; this.title = "Outliers"; this.n = 60; }

  async begin() {
    const { app, place } = this, { values } = await app.colouring.get("outlier");
    const order = Array.from(values.keys()).filter((row) => Number.isFinite(values[row])).sort((a, b) => values[b] - values[a]);
    const items = order.slice(0, 400).map((row) => app.item[row]), score = new Map(order.slice(0, 400).map((row) => [app.item[row], values[row]]));
    const list = h("div");
    place.append(h("p.intro", "The least typical first: what is unlike all others, by its nearest neighbours. Rare things, mistakes, broken files."),
      h("p.actions", h("button", { onclick: () => app.guard(app.colouring.by("outlier")) }, "Colour the map by it"), h("button", { onclick: () => app.choose(order.slice(0, this.n).map(Number)) }, "Choose these")), list);
    const more = async () => { list.replaceChildren(await gallery(app, items.slice(0, this.n), { score }), this.n < items.length ? h("button.more", { onclick: () => { this.n += 60; app.guard(more()); } }, "More") : ""); };
    await more();
  }
}

export class SkippedView {
  constructor(app) { this.app = app; this.id = "skipped"; this.title = "Skipped"; }

  async begin() {
    const { n, reasons, rows } = await this.app.source.skipped();
    this.place.append(h("p.intro", `${count(n, "file")} could not be read, and ${n === 1 ? "is" : "are"} not among the items.`),
      h("ul.reasons", reasons.map(([reason, times]) => h("li", h("b", times.toLocaleString("en")), " ", reason))),
      h("div.scroll", { tabIndex: 0, role: "region", "aria-label": "Skipped files" }, h("table", h("thead", h("tr", h("th", { scope: "col" }, "Name"), h("th", { scope: "col" }, "Reason"))), h("tbody", rows.map(({ name, reason }) => h("tr", h("td", { dir: "auto" }, name), h("td", reason)))))),
      n > rows.length ? h("p.more", `and ${(n - rows.length).toLocaleString("en")} more in skipped.csv`) : "");
  }
}
