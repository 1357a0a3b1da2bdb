/** Where the marks of an axis stand and what is written beside them: numbers, powers of ten, and time to the nanosecond. */

import { eng, unitText } from "../lib/format.ts";

export interface Ticks {
  at: number[];
  labels: string[];
  /** What belongs to all labels: the unit with its prefix, or what they are counted from. */
  title: string;
}

const PREFIXES: Record<number, string> = {
  "-15": "f",
  "-12": "p",
  "-9": "n",
  "-6": "µ",
  "-3": "m",
  0: "",
  3: "k",
  6: "M",
  9: "G",
  12: "T",
};
/** Units that nobody writes with a prefix. */
const PLAIN = /^(|1|%|Cel|\[degF\]|deg|d|h|min|\[.*|d?B.*|[pnumkMG][A-Za-z].*|.*[/.*^0-9].*)$/;

const SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹";
export const power = (exponent: number): string =>
  "10" + String(exponent).replace(/[-\d]/g, (c) => (c === "-" ? "⁻" : (SUPERSCRIPT[Number(c)] as string)));

const minus = (text: string): string => text.replace("-", "−");

/** The unit with the prefix of a power of 1,000, or with that power where the unit takes none. */
function scaled(unit: string, exponent: number): string {
  const prefix = PREFIXES[exponent];
  if (exponent === 0) return unitText(unit);
  if (prefix !== undefined && !PLAIN.test(unit)) return prefix + unitText(unit);
  return `×${power(exponent)}${unit && unit !== "1" ? " " + unitText(unit) : ""}`;
}

function thousands(value: number, unit: string): number {
  if (!(value > 0) || !Number.isFinite(value)) return 0;
  const exponent = Math.floor(Math.log10(value) / 3 + 1e-12) * 3;
  if (PLAIN.test(unit)) return exponent >= 6 || exponent <= -6 ? exponent : 0;
  return Math.min(12, Math.max(-15, exponent));
}

/** The nice step that cuts a span into at most `most` parts. */
export function niceStep(span: number, most: number): number {
  const rough = span / Math.max(1, most);
  const decade = 10 ** Math.floor(Math.log10(rough));
  for (const factor of [1, 2, 2.5, 5, 10]) if (rough <= factor * decade * (1 + 1e-9)) return factor * decade;
  return 10 * decade;
}

function decimals(step: number): number {
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  // A step of 2.5 has one more.
  return Math.min(15, Math.abs(Number((step * 10 ** digits).toFixed(6)) % 1) > 1e-6 ? digits + 1 : digits);
}

export function linearTicks(min: number, max: number, most: number, unit: string): Ticks {
  const span = max - min;
  if (!(span > 0) || !Number.isFinite(span)) return { at: [], labels: [], title: unitText(unit) };
  const step = niceStep(span, most);
  const at: number[] = [];
  for (let i = Math.ceil(min / step - 1e-9); i * step <= max + step * 1e-9; i++) at.push(i * step);
  const greatest = Math.max(Math.abs(min), Math.abs(max));
  if (greatest / step > 1e5) {
    // Every label would be the same in its first digits: they are said once.
    const from = at[Math.floor(at.length / 2)] ?? min;
    const exponent = thousands(span, unit);
    const factor = 10 ** exponent;
    const places = decimals(step / factor);
    const labels = at.map((v) => {
      const off = Math.round((v - from) / step) * step;
      return off === 0 ? "0" : (off > 0 ? "+" : "") + minus((off / factor).toFixed(places));
    });
    return { at, labels, title: `${scaled(unit, exponent)} from ${eng(from, unit, 12)}` };
  }
  const exponent = thousands(greatest, unit);
  const factor = 10 ** exponent;
  const places = decimals(step / factor);
  return {
    at,
    labels: at.map((v) => minus((Math.abs(v) < step * 1e-6 ? 0 : v / factor).toFixed(places))),
    title: scaled(unit, exponent),
  };
}

/** Marks of an axis of powers of ten; `low` and `high` are exponents, and so is where the marks stand. */
export function logTicks(low: number, high: number, most: number, unit: string): Ticks {
  const at: number[] = [];
  const labels: string[] = [];
  const span = high - low;
  if (!(span > 0) || !Number.isFinite(span)) return { at, labels, title: unitText(unit) };
  if (span < 0.5) {
    const linear = linearTicks(10 ** low, 10 ** high, most, unit);
    return { ...linear, at: linear.at.map((v) => Math.log10(v)) };
  }
  const every = Math.max(1, Math.ceil(span / Math.max(1, most)));
  const within = span <= 2 ? [1, 2, 5] : [1];
  for (let decade = Math.floor(low); decade <= Math.ceil(high); decade++) {
    if (decade % every !== 0) continue;
    for (const factor of within) {
      const position = decade + Math.log10(factor);
      if (position < low - 1e-9 || position > high + 1e-9) continue;
      at.push(position);
      labels.push(factor === 1 ? power(decade) : `${factor}·${power(decade)}`);
    }
  }
  return { at, labels, title: unitText(unit) };
}

// ---- time ------------------------------------------------------------------------------------------------------------

const [US, MS, S] = [1e3, 1e6, 1e9];
const [MINUTE, HOUR, DAY] = [60 * S, 3600 * S, 86400 * S];
const STEPS = [
  ...[1, 10, 100].flatMap((d) => [d, 2 * d, 5 * d]),
  ...[1, 10, 100].flatMap((d) => [d * US, 2 * d * US, 5 * d * US]),
  ...[1, 10, 100].flatMap((d) => [d * MS, 2 * d * MS, 5 * d * MS]),
  ...[1, 2, 5, 10, 15, 30].map((s) => s * S),
  ...[1, 2, 5, 10, 15, 30].map((m) => m * MINUTE),
  ...[1, 2, 3, 6, 12].map((h) => h * HOUR),
  ...[1, 2, 7].map((d) => d * DAY),
];
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const WEEKDAYS = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
const two = (n: number): string => String(n).padStart(2, "0");

interface Fields {
  year: number;
  month: number;
  day: number;
  weekday: number;
  hour: number;
  minute: number;
  second: number;
}

function fields(ms: number, utc: boolean): Fields {
  const d = new Date(ms);
  return utc
    ? {
        year: d.getUTCFullYear(),
        month: d.getUTCMonth(),
        day: d.getUTCDate(),
        weekday: d.getUTCDay(),
        hour: d.getUTCHours(),
        minute: d.getUTCMinutes(),
        second: d.getUTCSeconds(),
      }
    : {
        year: d.getFullYear(),
        month: d.getMonth(),
        day: d.getDate(),
        weekday: d.getDay(),
        hour: d.getHours(),
        minute: d.getMinutes(),
        second: d.getSeconds(),
      };
}

const moment = (utc: boolean, year: number, month: number, day = 1, hour = 0): number =>
  utc ? Date.UTC(year, month, day, hour) : new Date(year, month, day, hour).getTime();

/** Floor division, also below zero. */
export function floorDiv(a: bigint, b: bigint): bigint {
  const quotient = a / b;
  return a % b !== 0n && a < 0n !== b < 0n ? quotient - 1n : quotient;
}

export interface TimeTicks extends Ticks {
  /** Beside the first mark and where a day begins: the date, or what fine labels are counted from. */
  under: string[];
}

const dateText = (f: Fields): string => `${WEEKDAYS[f.weekday]} ${f.day} ${MONTHS[f.month]} ${f.year}`;

/** Marks of a time axis; positions are nanoseconds after `start`. */
export function timeTicks(start: bigint, span: number, most: number, utc = false): TimeTicks {
  const rough = span / Math.max(1, most);
  const step = STEPS.find((one) => one >= rough);
  const none: TimeTicks = { at: [], labels: [], under: [], title: utc ? "UTC" : "" };
  if (!(span > 0) || !Number.isFinite(span)) return none;
  if (step === undefined || step >= DAY) return calendarTicks(start, span, rough, utc);
  const at = step >= HOUR ? hourTicks(start, span, step / HOUR, utc) : evenTicks(start, span, step);
  if (step < MS) return { ...fineTicks(start, at, step, utc), title: none.title };
  const labels: string[] = [];
  const under: string[] = [];
  let day = "";
  for (const position of at) {
    const ns = start + BigInt(Math.round(position));
    const f = fields(Number(floorDiv(ns, 1_000_000n)), utc);
    const clock = `${two(f.hour)}:${two(f.minute)}`;
    if (step >= MINUTE) labels.push(clock);
    else if (step >= S) labels.push(`${clock}:${two(f.second)}`);
    else {
      const places = decimals(step / S);
      const below = Number(((ns % 1_000_000_000n) + 1_000_000_000n) % 1_000_000_000n);
      labels.push(`${clock}:${two(f.second)}.${String(Math.round(below / 10 ** (9 - places))).padStart(places, "0")}`);
    }
    const date = dateText(f);
    under.push(date === day ? "" : date);
    day = date;
  }
  return { at, labels, under, title: none.title };
}

function evenTicks(start: bigint, span: number, step: number): number[] {
  const every = BigInt(step);
  const first = Number(floorDiv(start + every - 1n, every) * every - start);
  const at: number[] = [];
  for (let position = first; position <= span; position += step) at.push(position);
  return at;
}

function hourTicks(start: bigint, span: number, hours: number, utc: boolean): number[] {
  const ms = Number(floorDiv(start, 1_000_000n));
  const f = fields(ms, utc);
  const at: number[] = [];
  for (let hour = f.hour - (f.hour % hours); ; hour += hours) {
    const position = Number(BigInt(moment(utc, f.year, f.month, f.day, hour)) * 1_000_000n - start);
    if (position > span) return at;
    if (position >= 0 && position !== at.at(-1)) at.push(position);
  }
}

function fineTicks(start: bigint, at: number[], step: number, utc: boolean): Omit<TimeTicks, "title"> {
  // Counted from the last whole millisecond before the first mark (or microsecond, where they stand that close).
  const whole = step < US ? 1_000n : 1_000_000n;
  const first = start + BigInt(Math.round(at[0] ?? 0));
  const from = floorDiv(first, whole) * whole;
  const f = fields(Number(floorDiv(from, 1_000_000n)), utc);
  const below = String(((from % 1_000_000_000n) + 1_000_000_000n) % 1_000_000_000n).padStart(9, "0");
  const [factor, unit] = step < US ? [1, "ns"] : [US, "µs"];
  const labels = at.map((position) => {
    const off = Number(start + BigInt(Math.round(position)) - from) / factor;
    return `+${off.toFixed(0)} ${unit}`;
  });
  const reference = `${two(f.hour)}:${two(f.minute)}:${two(f.second)}.${below.slice(0, step < US ? 6 : 3)}`;
  return { at, labels, under: at.map((_, i) => (i ? "" : `${reference}, ${dateText(f)}`)) };
}

function calendarTicks(start: bigint, span: number, rough: number, utc: boolean): TimeTicks {
  const at: number[] = [];
  const labels: string[] = [];
  const under: string[] = [];
  const startMs = Number(floorDiv(start, 1_000_000n));
  const f = fields(startMs, utc);
  let year = 0;
  const mark = (ms: number, label: (f: Fields) => string): boolean => {
    const position = Number(BigInt(ms) * 1_000_000n - start);
    if (position > span) return false;
    if (position >= 0) {
      const g = fields(ms, utc);
      at.push(position);
      labels.push(label(g));
      under.push(g.year === year ? "" : String(g.year));
      year = g.year;
    }
    return true;
  };
  const days = [1, 2, 7, 14].find((d) => d * DAY >= rough);
  const months = [1, 3, 6].find((m) => m * 30 * DAY >= rough);
  if (days !== undefined) {
    // Days of a month, so that the marks stay where they are while the window moves.
    for (let month = f.month; ; month++) {
      const length = fields(moment(true, f.year, month + 1, 0), true).day;
      for (let day = 1; day <= length - (days > 1 ? days / 2 : 0); day += days)
        if (!mark(moment(utc, f.year, month, day), (g) => `${g.day} ${MONTHS[g.month]}`))
          return { at, labels, under, title: utc ? "UTC" : "" };
    }
  }
  if (months !== undefined) {
    for (let month = f.month - (f.month % months); ; month += months)
      if (!mark(moment(utc, f.year, month), (g) => MONTHS[g.month] as string)) break;
  } else {
    const years = niceStep((rough * 4) / (365.25 * DAY), 4) < 1 ? 1 : Math.ceil(niceStep(rough / (365.25 * DAY), 1));
    for (let y = f.year - (f.year % years); y < 10_000; y += years) if (!mark(moment(utc, y, 0), (g) => `${g.year}`)) break;
    under.fill("");
  }
  return { at, labels, under, title: utc ? "UTC" : "" };
}

/** Marks of an axis of time since a beginning; `start` and positions are nanoseconds, positions after `start`. */
export function elapsedTicks(start: bigint, span: number, most: number): TimeTicks {
  const rough = span / Math.max(1, most);
  const step = STEPS.find((one) => one >= rough) ?? Math.ceil(niceStep(rough / DAY, 1)) * DAY;
  const at = evenTicks(start, span, step);
  const labels = at.map((position) => elapsedText(Number(start) + position, step));
  return { at, labels, under: at.map(() => ""), title: "since the start" };
}

/** Time since a beginning, as fine as `step`. */
export function elapsedText(ns: number, step: number): string {
  const sign = ns < -step / 1e6 ? "−" : "";
  const size = Math.abs(ns);
  if (step < US) return `${sign}${(size / US).toFixed(3)} µs`;
  if (step < MS) return `${sign}${(size / MS).toFixed(3)} ms`;
  const seconds = Math.round(size / Math.min(step, S)) / (S / Math.min(step, S));
  if (seconds < 60 && step < MINUTE) return `${sign}${seconds.toFixed(decimals(Math.min(1, step / S)))} s`;
  const [days, rest] = [Math.floor(seconds / 86400), seconds % 86400];
  const [h, m, s] = [Math.floor(rest / 3600), Math.floor((rest % 3600) / 60), rest % 60];
  const fraction = step < S ? decimals(step / S) : 0;
  const clock = `${h}:${two(m)}:${fraction ? s.toFixed(fraction).padStart(3 + fraction, "0") : two(Math.floor(s))}`;
  return `${sign}${days ? `${days} d ` : ""}${clock}`;
}

/** A length of time, short: `1.5 h`, `20 ms`. */
export function spanText(ns: number): string {
  const scales: [number, string][] = [
    [365.25 * DAY, "y"],
    [DAY, "d"],
    [HOUR, "h"],
    [MINUTE, "min"],
    [S, "s"],
    [MS, "ms"],
    [US, "µs"],
  ];
  for (const [size, name] of scales) if (ns >= size * 0.9995) return `${Number((ns / size).toPrecision(4))} ${name}`;
  return `${Math.round(ns)} ns`;
}

/** A moment with as many digits as a window of `span` needs: `2026-11-25 12:34:56.789`. */
export function momentText(ns: bigint, span: number, utc = false): string {
  const f = fields(Number(floorDiv(ns, 1_000_000n)), utc);
  const below = String(((ns % 1_000_000_000n) + 1_000_000_000n) % 1_000_000_000n).padStart(9, "0");
  const places = span > HOUR ? 0 : span > S ? 3 : span > MS ? 6 : 9;
  const clock = `${two(f.hour)}:${two(f.minute)}:${two(f.second)}${places ? "." + below.slice(0, places) : ""}`;
  return `${f.year}-${two(f.month + 1)}-${two(f.day)} ${clock}`;
}

/** A moment as the interface writes and takes it: ISO 8601 in UTC, to the nanosecond. */
export function isoText(ns: bigint): string {
  const seconds = floorDiv(ns, 1_000_000_000n);
  const below = String(ns - seconds * 1_000_000_000n).padStart(9, "0").replace(/0+$/, "");
  const whole = new Date(Number(seconds) * 1000).toISOString().slice(0, 19);
  return `${whole}${below ? "." + below : ""}Z`;
}

/** The moment that an ISO 8601 text with a zone, or nanoseconds since 1970, name; null for anything else. */
export function momentOf(text: string): bigint | null {
  if (/^-?\d{1,19}$/.test(text)) return BigInt(text);
  const match = /^(\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)$/.exec(text);
  if (!match) return null;
  const ms = Date.parse(`${match[1]}${match[3]}`);
  if (Number.isNaN(ms)) return null;
  return BigInt(ms) * 1_000_000n + BigInt((match[2] ?? "").padEnd(9, "0"));
}
