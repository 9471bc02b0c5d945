// Colours of classes and shades of numbers, as the report has them: hues turn by the golden angle in OKLCH.

const clamp = (v) => Math.min(Math.max(v, 0), 1);
const gamma = (v) => (v <= 0.0031308 ? 12.92 * v : 1.055 * v ** (1 / 2.4) - 0.055);

/** OKLab to sRGB (Ottosson, 2020): [r, g, b] of 0 to 255 */
function rgb(lightness, a, b) {
  const long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const short = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
    -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
    -0.0041960863 * long - 0.7034186147 * medium + 1.707614701 * short,
  ].map((v) => Math.round(255 * gamma(clamp(v))));
}

const KINDS = [[0.64, 0.15], [0.74, 0.125], [0.56, 0.13]];

/** colour of class i, distinct from its neighbours in number */
export function ofClass(i) {
  const hue = ((28 + 137.508 * i) % 360) * Math.PI / 180, [lightness, chroma] = KINDS[i % 3];
  return rgb(lightness, chroma * Math.cos(hue), chroma * Math.sin(hue));
}

/** from deep blue by teal to warm yellow, lighter all the way; share in [0, 1] */
export function ofShare(share) {
  const mix = (a, b, c) => (share < 0.5 ? a + (b - a) * 2 * share : b + (c - b) * (2 * share - 1));
  return rgb(mix(0.45, 0.66, 0.84), mix(0, -0.09, 0), mix(-0.14, 0, 0.15));
}

export const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;
export const pack = ([r, g, b]) => (255 << 24 | b << 16 | g << 8 | r) >>> 0;
export const parse = (text) => {
  const hex = text.trim().replace("#", "");
  return [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16));
};
/** a over b */
export const blend = (a, b, share) => a.map((v, i) => Math.round(v * share + b[i] * (1 - share)));
