// Where the page has its data from: a server, or what lies in the page itself (`tacit explore RUN --static out.html`).

import { readArrow } from "./arrow.js";

export class Refused extends Error {}

export class Live {
  constructor() { this.token = new URLSearchParams(location.search).get("token") ?? ""; this.still = false; }

  async fetch(path, { json, body } = {}) {
    const headers = { "X-Tacit-Token": this.token };
    const given = json !== undefined ? { method: "POST", body: JSON.stringify(json) } : body !== undefined ? { method: "POST", body } : {};
    if (json !== undefined) headers["Content-Type"] = "application/json";
    let answer;
    try {
      answer = await fetch(path, { ...given, headers, credentials: "omit" });
    } catch {
      throw new Refused("The explorer does not answer any more. Start it again with tacit explore, and open its new link.");
    }
    if (answer.ok) return answer;
    const text = await answer.text();
    let said = text.trim();
    try { said = JSON.parse(text).error ?? said; } catch { /* it is plain */ }
    const refused = new Refused(said || `The explorer answered ${answer.status}.`);
    refused.status = answer.status;
    throw refused;
  }

  async json(path, json) { return (await this.fetch(path, { json })).json(); }
  async arrow(path, given) { return readArrow(await (await this.fetch(path, given)).arrayBuffer()); }

  run() { return this.json("/api/run"); }
  points() { return this.arrow("/api/points"); }
  column(name) { return this.arrow(`/api/column?name=${encodeURIComponent(name)}`); }
  items(items) { return this.arrow("/api/items", { json: { items } }); }
  near(like, unlike, k) { return this.arrow("/api/near", { json: { like, unlike, k } }); }
  text(text, k) { return this.arrow("/api/ask/text", { json: { text, k } }); }
  find(text) { return this.arrow("/api/find", { json: { text } }); }
  file(file, k) {
    const ending = encodeURIComponent(file.name?.split(".").pop() ?? file.type.split("/").pop() ?? "");
    return this.arrow(`/api/ask/file?ending=${ending}&k=${k}`, { body: file });
  }
  warm() { return this.json("/api/warm", {}).catch(() => {}); }
  async original(item) {
    try { return await (await this.fetch(`/api/file/${item}`)).blob(); } catch { return null; }
  }
  duplicates() { return this.json("/api/duplicates"); }
  verdict(items, verdict) { return this.json("/api/verdict", { items, verdict }); }
  skipped() { return this.json("/api/skipped"); }
  state() { return this.json("/api/state"); }
  labels() { return this.json("/api/labels"); }
  given(name) { return this.arrow(`/api/given?name=${encodeURIComponent(name)}`); }
  label(given) { return this.json("/api/label", given); }
  star(items, on) { return this.json("/api/star", { items, on }); }
  undo() { return this.json("/api/undo", {}); }
  redo() { return this.json("/api/redo", {}); }
  teach(name) { return this.json("/api/teach", { name }); }
  told(name) { return this.arrow(`/api/told?name=${encodeURIComponent(name)}`); }
  suggest(name, n) { return this.json("/api/suggest", { name, n }); }
  async export(given) {
    const { url, n, name } = await this.json("/api/export", given);
    location.assign(url);
    return { n, name };
  }
  papers(query, filters) { return this.json(`/api/papers?${new URLSearchParams({ query, ...filters })}`); }
}

const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;

export class Still {
  constructor(held) { this.held = held; this.token = ""; this.still = true; }
  async run() { return this.held.run; }
  async points() { return readArrow(bytesOf(this.held.points)); }
  async column(name) { return readArrow(bytesOf(this.held.columns[name])); }
  async given() { return readArrow(bytesOf(this.held.stars)); }
  everything() { return this.all ??= readArrow(bytesOf(this.held.items)); }
  async items(items) {
    this.everything();
    this.row ??= new Map([...this.all.columns.item].map((item, row) => [item, row]));
    const rows = items.map((item) => this.row.get(item)).filter((row) => row !== undefined);
    const columns = Object.fromEntries(Object.entries(this.all.columns).map(([name, values]) => [name, rows.map((row) => values[row])]));
    return { columns, length: rows.length };
  }
  /** by the vectors' leading directions, kept in 8 bits */
  async near(like, unlike, k) {
    const { dim, n } = this.held.vectors, items = (await this.points()).columns.item;
    this.vectors ??= new Int8Array(bytesOf(this.held.vectors.values));
    const place = new Map([...items].map((item, row) => [item, row])), wanted = new Float32Array(dim);
    const add = (some, weight) => some.forEach((item) => { for (let d = 0; d < dim; d++) wanted[d] += weight * this.vectors[place.get(item) * dim + d] / some.length; });
    add(like, 1); add(unlike, -0.5);
    const size = Math.hypot(...wanted) || 1, scores = new Float32Array(n);
    for (let row = 0; row < n; row++) {
      let dot = 0, square = 0;
      for (let d = 0; d < dim; d++) { const v = this.vectors[row * dim + d]; dot += v * wanted[d]; square += v * v; }
      scores[row] = dot / (size * Math.sqrt(square || 1));
    }
    const asked = new Set([...like, ...unlike]);
    const best = Array.from({ length: n }, (_, row) => row).filter((row) => !asked.has(items[row])).sort((a, b) => scores[b] - scores[a]).slice(0, k);
    return { columns: { item: Int32Array.from(best, (row) => items[row]), score: Float32Array.from(best, (row) => scores[row]) }, length: best.length };
  }
  async find(text) {
    const { item, uri, text: said } = this.everything().columns, wanted = text.toLowerCase(), has = (one) => one.toLowerCase().includes(wanted);
    const named = [], others = [];
    for (let row = 0; row < item.length; row++) if (has(uri[row]) || String(item[row]) === wanted) named.push(item[row]); else if (has(said[row])) others.push(item[row]);
    return { columns: { item: Int32Array.from([...named, ...others].slice(0, 200)) }, about: { n: named.length + others.length } };
  }
  async warm() {}
  async original() { return null; }
  async duplicates() { return this.held.duplicates; }
  async skipped() { return this.held.skipped; }
  async state() { return null; }
  async labels() { return { labels: [] }; }
}

export function open() {
  const held = document.getElementById("held");
  return held ? new Still(JSON.parse(held.textContent)) : new Live();
}
