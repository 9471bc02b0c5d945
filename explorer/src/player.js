// The file of an item itself: a picture in its own size, or a sound with its player.

import { h } from "./dom.js";

let last = null;

export function player(file, record, place) {
  if (last) URL.revokeObjectURL(last);
  last = URL.createObjectURL(file);
  if (file.type.startsWith("audio/")) {
    const sound = h("audio", { controls: true, src: last, preload: "auto", "aria-label": `Play ${record.name}` });
    place.append(sound);
  } else if (file.type.startsWith("image/")) {
    const image = h("img", { alt: record.name });
    image.src = last;
    image.decode().then(() => { const old = place.querySelector("img"); if (old) old.replaceWith(image); else place.prepend(image); }).catch(() => {});
  }
}
