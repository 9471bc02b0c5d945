// The keyboard: what each key does, and the page that says so.

import { h, isTyping } from "./dom.js";

const KEYS = [
  ["Map", [["← ↑ ↓ →", "move; with Shift a little"], ["+ −", "zoom"], ["0", "show all"], ["Enter", "open the item in the middle"], ["Space", "choose the item in the middle"], ["L", "lasso on or off"], ["P", "pictures on or off"]]],
  ["Items", [["M", "more like the open item"], ["X", "not like it"], ["C", "choose its cluster"], ["A", "find it on the map"], ["*", "star or unstar it, or what is chosen"], ["Esc", "let go: close, clear, show all"]]],
  ["Label", [["1 … 9", "give a label to what is chosen, or to the open item"], ["N", "suggest what to label next"], ["S", "skip a suggestion"], ["U or Ctrl Z", "take back"], ["Ctrl Shift Z", "do again"]]],
  ["Everywhere", [["/", "ask, or find a name"], ["F", "filter"], ["G", "back to the map"], ["[ ]", "view before, next view"], ["?", "this page"]]],
];

export function listenToKeys(app) {
  const dialog = document.getElementById("keys");
  dialog.replaceChildren(
    h("form", { method: "dialog" }, h("button.close.plain", { "aria-label": "Close" }, "×")),
    h("h2", { id: "keys-title" }, "Keys"),
    h("div.groups", KEYS.map(([title, keys]) => h("section", h("h3", title), h("dl", keys.flatMap(([key, what]) => [h("dt", h("kbd", key)), h("dd", what)]))))));

  const label = () => app.all.find((one) => one.id === "label");
  const tile = () => { const on = document.activeElement?.closest("[data-item]"); return on && [Number(on.dataset.item)]; };
  const actions = {
    l: () => app.toggleLasso(), p: () => app.togglePictures(), "?": () => dialog.showModal(),
    m: () => app.pinned !== null && app.example(app.pinned, 1), x: () => app.pinned !== null && app.example(app.pinned, -1),
    c: () => app.pinned !== null && app.cluster[app.rowOf(app.pinned)] >= 0 && app.chooseCluster(app.cluster[app.rowOf(app.pinned)]),
    a: () => app.pinned !== null && app.map.show([app.rowOf(app.pinned)]),
    "*": () => app.stars.turn(tile() ?? label()?.targets() ?? []), f: () => app.open("filter").then((view) => view.start()),
    g: () => document.getElementById("marks").focus(),
    u: () => label()?.undo(), n: () => label() && app.open("label").then((view) => view.suggest()), s: () => label()?.skip(),
    "/": () => app.open("ask").then((view) => view?.start()),
    "[": () => step(-1), "]": () => step(1),
    Escape: () => letGo(app),
  };
  const step = (by) => app.open(app.all[(app.all.indexOf(app.view) + by + app.all.length) % app.all.length].id);

  document.addEventListener("keydown", (event) => {
    if (dialog.open) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if ((event.ctrlKey || event.metaKey) && key === "z" && !isTyping(event.target)) {
      event.preventDefault();
      if (event.shiftKey) label()?.redo(); else label()?.undo();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (isTyping(event.target)) { if (key === "Escape") event.target.blur(); return; }
    if (/^[1-9]$/.test(key)) { if (label()?.byNumber(Number(key))) event.preventDefault(); return; }
    if (!actions[key]) return;
    event.preventDefault();
    actions[key]();
  });
}

function letGo(app) {
  if (app.map.path) { app.map.path = null; app.map.redraw(); } else if (app.pinned !== null) app.pin(null);
  else if (app.chosen.size) { app.chosen.clear(); app.chose(); } else if (app.focus) app.focusOn(null);
  else if (app.colouring.alone !== null) app.colouring.only(app.colouring.alone);
  else { app.map.fit(); app.map.moved(); }
}
