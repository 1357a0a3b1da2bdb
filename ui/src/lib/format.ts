/** Numbers in engineering notation with their units, times in the local zone with UTC at hand. Text only, no markup. */
import type { Ns } from "./api.ts";

/** Between a number and its unit, and between groups of digits: it does not break. */
export const THIN = "\u202f";
const MINUS = "\u2212";
const PREFIXES = ["q", "r", "y", "z", "a", "f", "p", "n", "µ", "m", "", "k", "M", "G", "T", "P", "E", "Z", "Y", "R", "Q"];
const NEUTRAL = 10;

/** UCUM, as it is stored, to what people read. */
const UNITS: Record<string, string> = {
  "1": "",
  "": "",
  Ohm: "Ω",
  kOhm: "kΩ",
  Cel: "°C",
  "[degF]": "°F",
  deg: "°",
  "'": "′",
  By: "B",
  "By/s": "B/s",
  "[g]": "g₀",
  Ao: "Å",
  u: "u",
};
/** Units that take no prefix: those that have one, and those of which nobody says milli. */
const UNPREFIXED = /^(|%|°C|°F|°|′|dB.*|[a-zµ]{1,2}[A-ZΩ].*|kg|mm|cm|km|µm|nm|ms|µs|ns|min|h|d|a|mol|bar|mbar|count|counts|1\/.*)$/;

/** How a unit is shown. */
export function unitText(unit: string): string {
  return UNITS[unit] ?? unit.replace(/\bOhm\b/g, "Ω").replace(/\./g, "·").replace(/([A-Za-z])2\b/g, "$1²").replace(/([A-Za-z])3\b/g, "$1³");
}

/** A number and its unit apart, for columns that line up. */
export interface Quantity {
  number: string;
  unit: string;
}

function digitsOf(value: number, digits: number): string {
  const text = value.toPrecision(Math.max(1, digits));
  return (text.includes("e") ? String(Number(text)) : text).replace("-", MINUS);
}

/** In engineering notation: three digits at most before the point, `digits` that count. */
export function quantity(value: number | null | undefined, unit = "", digits = 5): Quantity {
  const shown = unitText(unit);
  if (value === null || value === undefined || Number.isNaN(value)) return { number: "–", unit: shown };
  if (!Number.isFinite(value)) return { number: value > 0 ? "∞" : `${MINUS}∞`, unit: shown };
  if (value === 0) return { number: "0", unit: shown };
  const size = Math.abs(value);
  if (UNPREFIXED.test(shown) && (shown !== "" || size < 1e6)) {
    if (size >= 1e-3 && size < 1e7) {
      // Whole digits are never rounded away.
      const whole = Math.max(digits, Math.floor(Math.log10(size)) + 1);
      const text = digitsOf(value, Math.min(whole, 15));
      // A value that is seen to change keeps its digits, so that it does not jump about.
      return { number: grouped(Number.isInteger(value) ? trimmed(text) : text), unit: shown };
    }
    const [mantissa = "", exponent = "0"] = value.toExponential(digits - 1).split("e");
    return { number: `${trimmed(mantissa).replace("-", MINUS)}·10${raised(Number(exponent))}`, unit: shown };
  }
  let third = Math.floor(Math.log10(size) / 3);
  if (Number((size / 1000 ** third).toPrecision(digits)) >= 1000) third += 1;
  third = Math.max(-NEUTRAL, Math.min(PREFIXES.length - 1 - NEUTRAL, third));
  return { number: digitsOf(value / 1000 ** third, digits), unit: `${PREFIXES[third + NEUTRAL] ?? ""}${shown}` };
}

/** The same in one piece: `12.3 mV`; `neat` leaves out zeros at the end, which a setting has no need of. */
export function eng(value: number | null | undefined, unit = "", digits = 5, neat = false): string {
  const { number: full, unit: shown } = quantity(value, unit, digits);
  const number = neat ? trimmed(full) : full;
  return shown ? `${number}${shown === "°" || shown === "′" ? "" : THIN}${shown}` : number;
}

function trimmed(text: string): string {
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

function raised(exponent: number): string {
  return String(exponent).replace(/[-0-9]/g, (c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(c)] ?? ""));
}

function grouped(text: string): string {
  const [whole = "", rest] = text.split(".");
  const spaced = whole.replace(/\B(?=(\d{3})+$)/g, THIN);
  return whole.length <= 4 ? text : rest === undefined ? spaced : `${spaced}.${rest}`;
}

/** A count, in groups of three digits. */
export function count(value: number): string {
  return Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, THIN);
}

/** Bytes in powers of 1000, as disks are sold. */
export function bytes(value: number): string {
  return value < 1000 ? `${value}${THIN}B` : eng(value, "By", 3);
}

/** A value of a channel or parameter, whatever it is. */
export function valueText(value: unknown, unit = "", digits = 6): string {
  if (typeof value === "number") return Number.isInteger(value) && UNPREFIXED.test(unitText(unit)) ? `${grouped(String(value)).replace("-", MINUS)}${unit && unit !== "1" ? THIN + unitText(unit) : ""}` : eng(value, unit, digits, true);
  if (typeof value === "boolean") return value ? "on" : "off";
  if (value === null || value === undefined) return "–";
  return Array.isArray(value) ? `${value.length} values` : String(value);
}

// ---- times ----------------------------------------------------------------------------------------------------------

/** As milliseconds, for `Date`; what is below is in `Ns`. */
export function ms(ns: Ns | bigint): number {
  return Number(BigInt(ns) / 1_000_000n);
}

export function nsOf(milliseconds: number): Ns {
  return String(BigInt(Math.round(milliseconds)) * 1_000_000n);
}

const two = (value: number) => String(value).padStart(2, "0");

/** `14:03:59`, in the local zone. */
export function clock(at: Date): string {
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
}

/** `2026-11-25`, in the local zone. */
export function day(at: Date): string {
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
}

/** Local time; the day only where it is not today. */
export function local(ns: Ns | null | undefined, now = new Date()): string {
  if (!ns || ns === "0") return "–";
  const at = new Date(ms(ns));
  return day(at) === day(now) ? clock(at) : `${day(at)} ${clock(at)}`;
}

/** Local time with its day, always. */
export function localFull(ns: Ns | null | undefined): string {
  if (!ns || ns === "0") return "–";
  const at = new Date(ms(ns));
  return `${day(at)} ${clock(at)}`;
}

/** `2026-11-25 20:03:59.123 UTC`, for titles beside local times. */
export function utc(ns: Ns | null | undefined): string {
  if (!ns || ns === "0") return "";
  return `${new Date(ms(ns)).toISOString().replace("T", " ").replace("Z", "")} UTC`;
}

/** A length of time in its two largest units: `2 d 4 h`, `3 min 20 s`, `850 ms`. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "–";
  const size = Math.abs(seconds);
  if (size < 1) return eng(seconds, "s", 3);
  const steps: [string, number][] = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const from = steps.findIndex(([, length]) => size >= length);
  if (from === 3) return `${size < 10 ? size.toFixed(1) : Math.round(size)}${THIN}s`;
  const [unit, length] = steps[from] ?? ["s", 1];
  const [below, part] = steps[from + 1] ?? ["s", 1];
  const whole = Math.floor(size / length);
  const rest = Math.floor((size - whole * length) / part);
  return `${whole}${THIN}${unit}${rest ? ` ${rest}${THIN}${below}` : ""}`;
}

/** How long ago, or how far ahead: `12 s ago`. */
export function ago(ns: Ns | null | undefined, nowMs = Date.now()): string {
  if (!ns || ns === "0") return "never";
  const seconds = (nowMs - ms(ns)) / 1000;
  if (seconds < 1.5 && seconds > -1.5) return "now";
  return seconds < 0 ? `in ${duration(-seconds)}` : `${duration(Math.round(seconds))} ago`;
}

/** What an `<input type="datetime-local" step="1">` holds, for a time. */
export function inputTime(ns: Ns): string {
  const at = new Date(ms(ns));
  return `${day(at)}T${clock(at)}`;
}

/** The other way; null for what is no time. */
export function fromInput(text: string): Ns | null {
  const at = new Date(text).getTime();
  return Number.isNaN(at) ? null : nsOf(at);
}
