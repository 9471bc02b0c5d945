// Papers: which of tacit's methods is for this, with its paper, what it needs, and how it did here.

import { h, debounce } from "./dom.js";

const TONES = { holds: "good", mixed: "calm", unclear: "calm", stale: "calm", fails: "bad" };

export class PapersView {
  constructor(app) { this.app = app; this.id = "papers"; this.title = "Papers"; this.turn = 0; }

  async begin() {
    const { app, place } = this;
    this.query = h("input", { type: "search", id: "papers-query", placeholder: "few labels, noisy labels, no negatives…", autocomplete: "off", oninput: debounce(() => app.guard(this.look()), 300) });
    this.here = h("input", { type: "checkbox", id: "papers-here", checked: true, onchange: () => app.guard(this.look()) });
    this.list = h("div", { "aria-live": "polite" });
    place.append(h("p.intro", "Methods that tacit has, each with its paper and how its claim did when it was tested again."),
      h("form.words", { onsubmit: (event) => { event.preventDefault(); app.guard(this.look()); } }, h("label.visually-hidden", { htmlFor: "papers-query" }, "Find a method"), this.query),
      h("p", h("label", this.here, ` for ${app.run.modality} data only`)), this.list);
    await this.look();
  }

  async look() {
    const turn = ++this.turn;
    this.list.replaceChildren(h("p.wait", "Looking…"));
    const { papers } = await this.app.source.papers(this.query.value, this.here.checked ? { modality: this.app.run.modality } : {});
    if (turn !== this.turn) return;
    this.list.replaceChildren(papers.length ? h("ul.papers", papers.map((one) => this.paper(one))) : h("p.empty", "No method fits. Use fewer words, or take the filter away."));
  }

  paper(one) {
    const safe = /^https:\/\//.test(one.link ?? "") ? one.link : null;
    return h("li",
      h("h3", one.name ?? one.id, h("small", one.area), h("span.grow"), one.verdict && h(`span.verdict-word.${TONES[one.verdict] ?? ""}`, one.verdict)),
      one.summary && h("p", one.summary),
      h("p.cite", safe ? h("a", { href: safe, target: "_blank", rel: "noreferrer noopener" }, one.title || "paper") : one.title, one.cited ? ` · ${one.cited}` : one.year ? ` · ${one.year}` : "", one.level ? ` · ${one.level}` : ""),
      one.needs?.length ? h("p.more", `needs ${one.needs.join(", ")}`) : "",
      one.command && h("pre", { tabIndex: 0 }, h("code", one.command)));
  }
}
