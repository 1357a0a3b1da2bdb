/**
 * What is looked at: panes with their traces and axes, and the window of time; and the same as the query of a link, from
 * which a browser shows it again. A link is `live=60s` or `from=..&to=..`, and `p=` for each pane:
 * `wave/wave/a,dmm/readings/voltage~c3;V=log,0.001..10`.
 */

import { isoText, momentOf } from "./axes.ts";

export interface AxisOptions {
  log?: boolean;
  /** Where it is fixed; without, it follows what is shown. */
  min?: number;
  max?: number;
}

export type PaneKind = "trace" | "spectrum" | "waterfall" | "image";

export interface Trace {
  stream: string;
  channel: string;
  /** Number of a colour. */
  color?: number;
  hidden?: boolean;
  /** Id of the run at whose start its time begins, where runs are compared. */
  run?: string;
}

export interface Pane {
  kind: PaneKind;
  traces: Trace[];
  /** By unit. Of a waterfall or an image: that of its intensity. */
  axes: Record<string, AxisOptions>;
}

/** The newest `span` nanoseconds, or a range. Where runs are compared, a range is nanoseconds after their starts. */
export type Span = { live: number } | { from: bigint; to: bigint };

export interface Layout {
  span: Span;
  panes: Pane[];
}

export const DEFAULT_SPAN = 60e9;
export const MOST_PANES = 24;
export const MOST_TRACES = 64;
export const LEAST_SPAN = 20;
export const MOST_SPAN = 3.2e18;

const UNITS: [string, number][] = [
  ["d", 86400e9],
  ["h", 3600e9],
  ["m", 60e9],
  ["s", 1e9],
  ["ms", 1e6],
  ["us", 1e3],
  ["ns", 1],
];

function durationText(ns: number): string {
  for (const [name, size] of UNITS) if (ns % size === 0 && ns >= size) return `${ns / size}${name}`;
  return `${Math.round(ns)}ns`;
}

function durationOf(text: string): number | null {
  const match = /^(\d+(?:\.\d+)?)(d|h|m|s|ms|us|ns)$/.exec(text);
  if (!match) return null;
  const ns = Number(match[1]) * ((UNITS.find(([name]) => name === match[2]) as [string, number])[1] as number);
  return ns >= LEAST_SPAN && ns <= MOST_SPAN ? ns : null;
}

/** As `encodeURIComponent`, with the marks of our own grammar too. */
const coded = (text: string): string => encodeURIComponent(text).replace(/[~!]/g, (c) => (c === "~" ? "%7E" : "%21"));

function decoded(text: string): string | null {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}

function traceText(trace: Trace): string {
  const stream = trace.stream.split("/").map(coded).join("/");
  const color = trace.color === undefined ? "" : `~c${trace.color}`;
  const run = trace.run === undefined ? "" : `~r${coded(trace.run)}`;
  return `${stream}/${coded(trace.channel)}${color}${trace.hidden ? "~h" : ""}${run}`;
}

function traceOf(text: string): Trace | null {
  const [name, ...options] = text.split("~");
  const parts = (name as string).split("/").map(decoded);
  const [instrument, stream, channel] = parts;
  if (parts.length !== 3 || !instrument || !stream || !channel) return null;
  const trace: Trace = { stream: `${instrument}/${stream}`, channel };
  for (const option of options) {
    if (option === "h") trace.hidden = true;
    else if (/^c\d{1,2}$/.test(option)) trace.color = Number(option.slice(1));
    else if (option.startsWith("r")) {
      const run = decoded(option.slice(1));
      if (run) trace.run = run;
    }
  }
  return trace;
}

function axisText(unit: string, axis: AxisOptions): string | null {
  const said = [
    ...(axis.log ? ["log"] : []),
    ...(axis.min !== undefined && axis.max !== undefined ? [`${axis.min}..${axis.max}`] : []),
  ];
  return said.length ? `;${coded(unit)}=${said.join(",")}` : null;
}

function axisOf(text: string): [string, AxisOptions] | null {
  const at = text.indexOf("=");
  const unit = decoded(at < 0 ? text : text.slice(0, at));
  if (unit === null || at < 0) return null;
  const axis: AxisOptions = {};
  for (const word of text.slice(at + 1).split(",")) {
    const ends = word.split("..").map(Number);
    if (word === "log") axis.log = true;
    else if (ends.length === 2 && ends.every(Number.isFinite) && (ends[0] as number) < (ends[1] as number))
      [axis.min, axis.max] = ends as [number, number];
  }
  return [unit, axis];
}

function paneText(pane: Pane): string {
  const kind = pane.kind === "trace" ? "" : `${pane.kind}!`;
  const axes = Object.entries(pane.axes).map(([unit, axis]) => axisText(unit, axis) ?? "");
  return kind + pane.traces.map(traceText).join(",") + axes.join("");
}

function paneOf(text: string): Pane | null {
  const marked = /^(spectrum|waterfall|image)!/.exec(text);
  const kind = (marked?.[1] ?? "trace") as PaneKind;
  const [traces, ...axes] = text.slice(marked ? marked[0].length : 0).split(";");
  const found = (traces as string).split(",").map(traceOf).filter((t): t is Trace => t !== null);
  if (!found.length) return null;
  const pane: Pane = { kind, traces: found.slice(0, MOST_TRACES), axes: {} };
  for (const axis of axes) {
    const one = axisOf(axis);
    if (one) pane.axes[one[0]] = one[1];
  }
  return pane;
}

/** The query of a link, without the question mark. */
export function linkOf(layout: Layout, relative = false): string {
  const { span } = layout;
  const moment = relative ? String : isoText;
  const window = "live" in span ? `live=${durationText(span.live)}` : `from=${moment(span.from)}&to=${moment(span.to)}`;
  return [window, ...layout.panes.map((pane) => `p=${paneText(pane)}`)].join("&");
}

/** What a query says; what it cannot be understood to say is left out. */
export function layoutOf(query: string): Layout {
  let span: Span | null = null;
  let [from, to]: [bigint | null, bigint | null] = [null, null];
  const panes: Pane[] = [];
  for (const word of query.replace(/^\?/, "").split("&")) {
    const at = word.indexOf("=");
    const [key, value] = [word.slice(0, at), word.slice(at + 1)];
    if (key === "live") {
      const live = durationOf(value);
      if (live !== null) span = { live };
    } else if (key === "c" && panes.length < MOST_PANES) {
      // `stream:channel`, as other pages say what they want to see.
      const [stream, channel] = (decoded(value) ?? "").split(/:(.*)/s);
      const pane = paneOf(`${stream}/${coded(channel ?? "")}`);
      if (pane) panes.push(pane);
    } else if (key === "from") from = momentOf(decoded(value) ?? "");
    else if (key === "to") to = momentOf(decoded(value) ?? "");
    else if (key === "p" && panes.length < MOST_PANES) {
      const pane = paneOf(value);
      if (pane) panes.push(pane);
    }
  }
  if (from !== null && to !== null && from < to) span = { from, to };
  return { span: span ?? { live: DEFAULT_SPAN }, panes };
}

// ---- saved layouts ----------------------------------------------------------------------------------------------------

const KIND = "scidaq-layouts";

/** Saved layouts (queries by name) as a file that another browser takes. */
export function layoutsFile(layouts: Readonly<Record<string, string>>): string {
  return JSON.stringify({ kind: KIND, version: 1, layouts }, null, 2) + "\n";
}

/** What such a file holds. Throws an `Error` that says in words what is wrong with it. */
export function layoutsOf(text: string): Record<string, string> {
  let file: unknown;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("This is no file of saved layouts: it is no JSON.");
  }
  const said = file as { kind?: unknown; version?: unknown; layouts?: unknown } | null;
  if (!said || said.kind !== KIND || typeof said.layouts !== "object" || said.layouts === null)
    throw new Error("This is no file of saved layouts: choose one that was made by “Save to a file”.");
  if (said.version !== 1) throw new Error("This file was made by a newer scidaq; open it there.");
  const out: Record<string, string> = {};
  for (const [name, query] of Object.entries(said.layouts))
    if (typeof query === "string" && name.length <= 200 && layoutOf(query).panes.length) out[name] = query;
  return out;
}
