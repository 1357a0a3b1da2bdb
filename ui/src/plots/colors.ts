/** Colours: of traces, in both themes equally far apart in hue, and maps of intensity whose lightness rises evenly. */

const HUES = [250, 50, 150, 5, 300, 200, 100, 335];

/** The colour of a trace: one of the page's, and behind these the same hues lighter or darker. */
export function traceColor(number: number, dark: boolean, palette: readonly string[] = []): string {
  const own = palette[number];
  if (own) return own;
  const round = Math.floor(number / HUES.length) % 3;
  const lightness = dark ? 0.77 - 0.1 * round : 0.55 + 0.1 * round;
  return `oklch(${lightness.toFixed(2)} ${dark ? 0.14 : 0.16} ${HUES[number % HUES.length]})`;
}

/** sRGB of a colour given in OKLab (B. Ottosson, 2020). */
function rgbOf(lightness: number, chroma: number, hue: number): [number, number, number] {
  const a = chroma * Math.cos((hue * Math.PI) / 180);
  const b = chroma * Math.sin((hue * Math.PI) / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  return linear.map((v) => {
    const inside = Math.min(1, Math.max(0, v));
    return Math.round(255 * (inside <= 0.0031308 ? 12.92 * inside : 1.055 * inside ** (1 / 2.4) - 0.055));
  }) as [number, number, number];
}

export type MapName = "evening" | "ember" | "grey";
export const MAPS: readonly MapName[] = ["evening", "ember", "grey"];

const made = new Map<MapName, Uint32Array>();

/** 256 pixels (as ImageData has them) from the least intensity to the greatest. */
export function colorMap(name: MapName): Uint32Array {
  const known = made.get(name);
  if (known) return known;
  const pixels = new Uint32Array(256);
  const bytes = new Uint8ClampedArray(pixels.buffer);
  for (let i = 0; i < 256; i++) {
    const part = i / 255;
    const lightness = 0.2 + 0.74 * part;
    const bell = Math.sin(Math.PI * (0.12 + 0.8 * part));
    const [r, g, b] =
      name === "grey"
        ? rgbOf(0.12 + 0.86 * part, 0, 0)
        : name === "evening"
          ? rgbOf(lightness, 0.07 + 0.09 * bell, 305 - 205 * part)
          : rgbOf(lightness, 0.05 + 0.15 * bell, 300 + 150 * part);
    bytes.set([r, g, b, 255], 4 * i);
  }
  made.set(name, pixels);
  return pixels;
}

/**
 * Paints intensities as pixels. `source(i)` is the index in `data` of pixel i; what is no number (or, with `log`, not
 * positive) stays transparent.
 */
export function paint(
  pixels: Uint32Array,
  data: ArrayLike<number>,
  low: number,
  high: number,
  log: boolean,
  map: Uint32Array,
): void {
  const [a, b] = log ? [Math.log10(low), Math.log10(high)] : [low, high];
  const factor = b > a ? 255 / (b - a) : 0;
  for (let i = 0; i < pixels.length; i++) {
    const value = data[i] as number;
    const f = log ? Math.log10(value) : value;
    if (Number.isNaN(f) || f === -Infinity) {
      pixels[i] = 0;
      continue;
    }
    const at = (f - a) * factor;
    pixels[i] = map[at <= 0 ? 0 : at >= 255 ? 255 : at | 0] as number;
  }
}
