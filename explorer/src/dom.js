// Elements in a few words: h("button.primary", { onclick, title }, "text", child...)

export function h(kind, ...parts) {
  const [, tag, classes] = kind.match(/^([a-z0-9]*)(.*)$/i);
  const made = document.createElement(tag || "div");
  if (classes) made.className = classes.split(".").filter(Boolean).join(" ");
  for (const part of parts.flat()) {
    if (part === null || part === undefined || part === false) continue;
    if (typeof part === "object" && !(part instanceof Node)) set(made, part);
    else made.append(part);
  }
  return made;
}

function set(element, given) {
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else if (name in element && !name.startsWith("aria") && name !== "list") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
}

export const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
export const percent = (share) => `${share > 0.99 && share < 1 ? (100 * share).toFixed(1) : Math.round(100 * share)} %`;
export const figure = (value) => {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  return size >= 1000 ? Math.round(value).toLocaleString("en") : value.toPrecision(size && size < 0.01 ? 2 : 3).replace(/\.?0+$/, "");
};

/** a day by its number since 1970 */
export const day = (number) => new Date(Math.round(number) * 864e5).toISOString().slice(0, 10);
/** a number of a column as a person reads it */
export const spoken = (about, value) => (about.dates && Number.isFinite(value) ? day(value) : figure(value));

/** a text with a fragment of it marked; of what comes long before, nothing is left */
export function marked(text, fragment = "") {
  const at = fragment ? text.toLowerCase().indexOf(fragment.toLowerCase()) : -1;
  if (at < 0) return [text];
  const from = at > 60 ? at - 30 : 0, end = at + fragment.length;
  return [(from ? "…" : "") + text.slice(from, at), h("mark", text.slice(at, end)), text.slice(end)];
}

let region;
/** says something to those who listen, and shows it for a moment to those who look */
export function say(text, tone = "") {
  region ??= document.getElementById("said");
  const note = h(`p.note.${tone || "plain"}`, text);
  region.replaceChildren(note);
  clearTimeout(region.timer);
  region.timer = setTimeout(() => note.remove(), tone === "bad" ? 9000 : 4200);
}
/** to those who listen only */
export function whisper(text) { document.getElementById("whispered").textContent = text; }

export const isTyping = (target) => target?.closest?.("input, textarea, select, [contenteditable]");
export function debounce(act, wait) {
  let timer;
  return (...given) => { clearTimeout(timer); timer = setTimeout(() => act(...given), wait); };
}
