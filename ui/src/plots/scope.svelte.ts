/**
 * The plots of a page: one window of time for all panes, live or somewhere in history, the streams that they show, and
 * the loop that draws them. A picture is drawn when something has changed, and not more often than the screen shows it.
 */

import { arraysOf, type ArrayRows, type Buffers, type ViewHeader } from "./columns.ts";
import { Known } from "./known.svelte.ts";
import {
  DEFAULT_SPAN,
  LEAST_SPAN,
  linkOf,
  MOST_PANES,
  MOST_SPAN,
  MOST_TRACES,
  type AxisOptions,
  type Layout,
  type Pane,
  type PaneKind,
  type Trace,
} from "./link.ts";
import { Source, type Door } from "./source.ts";
import { windowStop, type Window } from "./trace.ts";

export interface RunMark {
  id: string;
  name: string;
  start: bigint;
  stop: bigint | null;
}

export interface NoteMark {
  id: string;
  text: string;
  by: string;
  at: bigint;
  end: bigint | null;
  streams: string[];
}

/** A change of an instrument's state. */
export interface EventMark {
  at: bigint;
  text: string;
  bad: boolean;
}

export interface Happened {
  event: string;
  at_ns: string;
  [fact: string]: unknown;
}

/** What the page is given to reach the station. */
export interface Station extends Door {
  get(path: string): Promise<unknown>;
  post(path: string, body: unknown): Promise<unknown>;
  remove(path: string): Promise<unknown>;
  frame(path: string, signal?: AbortSignal): Promise<{ header: ViewHeader; buffers: Buffers }>;
  /** Calls when an event of a kind happens, until what it gives is called. */
  events(kinds: string[], recent: number, listener: (event: Happened) => void): () => void;
}

interface PageOf<T> {
  items: T[];
  next: string | null;
}
interface RunJson {
  id: string;
  name: string;
  start_ns: string | number;
  stop_ns: string | number | null;
}
interface NoteJson {
  id: string;
  text: string;
  by: string;
  t_ns: string | number;
  end_ns: string | number | null;
  streams: string[];
}

const FRAME_MS = 30;
const SHOWN_MS = 250;
const MARKS_MS = 10_000;
const MOST_UNDO = 50;
const MOST_EVENTS = 200;

const clamp = (span: number): number => Math.min(MOST_SPAN, Math.max(LEAST_SPAN, span));
export const viewPath = (
  stream: string,
  channels: readonly string[],
  start: bigint,
  stop: bigint,
  more: Record<string, string | number>,
): string => {
  const query = new URLSearchParams({ start: String(start), stop: String(stop), channels: channels.join(",") });
  for (const [key, value] of Object.entries(more)) query.set(key, String(value));
  return `/api/v1/streams/${stream}/view?${query.toString()}`;
};

export class Scope {
  panes = $state<Pane[]>([]);
  /** Whether the window follows the present. */
  live = $state(true);
  utc = $state(false);
  /** The window for what is written about it; it lags a little. */
  shown = $state.raw<Window>({ start: 0n, span: DEFAULT_SPAN });
  loading = $state(false);
  /** Why something is not drawn; empty while all is. */
  trouble = $state("");
  skipped = $state(0);
  /** Where the cursor is, a part of the window. */
  cursor = $state<number | null>(null);
  /** Counts up a few times a second while values change. */
  beat = $state(0);
  runs = $state.raw<RunMark[]>([]);
  notes = $state.raw<NoteMark[]>([]);
  events = $state.raw<EventMark[]>([]);
  readonly known: Known;
  /** Runs whose traces are shown from their start on. */
  compared = $state.raw<RunMark[]>([]);
  relative = $derived(this.panes.some((pane) => pane.traces.some((trace) => trace.run !== undefined)));

  #window: Window = { start: 0n, span: DEFAULT_SPAN };
  #home: Layout["span"] = { live: DEFAULT_SPAN };
  #undo: { window: Window; live: boolean }[] = [];
  #undoAt = 0;
  #sources = new Map<string, Source>();
  #painters = new Set<{ paint(): void; pixels(): number }>();
  #dirty = true;
  #raf = 0;
  #paintedAt = 0;
  #shownAt = 0;
  #marksAt = -Infinity;
  #marksFor: Window | null = null;
  #closed = false;
  #unlisten: () => void;
  frames = 0;

  constructor(readonly station: Station) {
    this.known = new Known((path) => station.get(path));
    const ends = [
      station.events(["run", "note"], 0, () => {
        this.#marksAt = -Infinity;
        this.touch();
      }),
      station.events(["instrument"], MOST_EVENTS, (event) => this.#happened(event)),
    ];
    this.#unlisten = () => ends.forEach((end) => end());
  }

  #happened(event: Happened): void {
    const reason = event["reason"] ? `: ${String(event["reason"])}` : "";
    const text = `${String(event["instrument"])} ${String(event["state"])}${reason}`;
    const bad = event["state"] === "failed" || event["state"] === "degraded";
    const at = BigInt(event.at_ns);
    // After a lost connection some are told again.
    if (this.events.some((one) => one.at === at && one.text === text)) return;
    this.events = [...this.events.slice(1 - MOST_EVENTS), { at, text, bad }];
    this.touch();
  }

  // ---- window --------------------------------------------------------------------------------------------------------

  get window(): Window {
    return this.#window;
  }

  /** Shows what a link says. */
  open(layout: Layout): void {
    this.panes = [];
    for (const pane of layout.panes) {
      this.panes.push({ ...pane, traces: [] });
      const shown = this.panes.at(-1) as Pane;
      for (const trace of pane.traces) shown.traces.push({ ...trace, color: trace.color ?? this.#freeColor(shown) });
    }
    this.#home = layout.span;
    this.#undo = [];
    this.home(false);
    this.sync();
  }

  home(remember = true): void {
    if (remember) this.#remember(true);
    const span = this.#home;
    if ("live" in span) {
      this.live = !this.relative;
      this.#window = { start: this.station.now() - BigInt(Math.round(span.live)), span: span.live };
    } else {
      this.live = false;
      this.#window = { start: span.from, span: Number(span.to - span.from) };
    }
    this.#moved();
  }

  follow(on = !this.live): void {
    if (this.relative) return;
    this.#remember(true);
    this.live = on;
    if (on && this.#window.span > 1e9 * 86400 * 400) this.#window = { ...this.#window, span: DEFAULT_SPAN };
    this.#moved();
  }

  /** Follows the present with the newest `span` nanoseconds. */
  followFor(span: number): void {
    this.#remember(true);
    if (this.relative) this.#window = { start: 0n, span: clamp(span) };
    else {
      const middle = this.#window.start + BigInt(Math.round(this.#window.span / 2));
      if (!this.live) this.#window = { start: middle - BigInt(Math.round(span / 2)), span: clamp(span) };
      else this.#window = { start: 0n, span: clamp(span) };
    }
    this.#moved();
  }

  show(start: bigint, stop: bigint): void {
    if (stop <= start) return;
    this.#remember(true);
    this.live = false;
    const span = clamp(Number(stop - start));
    this.#window = { start, span };
    this.#moved();
  }

  zoom(factor: number, at: number): void {
    this.#remember(false);
    const { start, span } = this.#window;
    const now = clamp(span * factor);
    if (this.live && at > 0.5 && at <= 1) this.#window = { start, span: now };
    else {
      this.live = false;
      this.#window = { start: start + BigInt(Math.round((span - now) * at)), span: now };
    }
    this.#moved();
  }

  pan(by: number): void {
    this.#remember(false);
    const { start, span } = this.#window;
    this.live = false;
    this.#window = { start: start + BigInt(Math.round(by * span)), span };
    this.#moved();
  }

  select(from: number, to: number): void {
    const { start, span } = this.#window;
    const [a, b] = [start + BigInt(Math.round(from * span)), start + BigInt(Math.round(to * span))];
    this.show(a, b - a < BigInt(LEAST_SPAN) ? a + BigInt(LEAST_SPAN) : b);
  }

  /** All that there is of the streams that are shown. */
  async everything(): Promise<void> {
    let [first, last]: [bigint | null, bigint | null] = [null, null];
    for (const pane of this.panes)
      for (const trace of pane.traces) {
        const run = this.runOf(trace);
        if (run) {
          const length = (run.stop ?? this.station.now()) - run.start;
          [first, last] = [0n, last === null || length > last ? length : last];
          continue;
        }
        const known = await this.known.detail(trace.stream);
        if (known?.first != null && (first === null || known.first < first)) first = known.first;
        if (known?.last != null && (last === null || known.last > last)) last = known.last;
      }
    if (first !== null && last !== null && last > first) {
      const margin = (last - first) / 50n + 1n;
      this.show(first - margin, last + margin);
    }
  }

  back(): void {
    const before = this.#undo.pop();
    if (!before) return;
    this.live = before.live;
    this.#window = before.window;
    this.#undoAt = 0;
    this.#moved();
  }

  /** Moves of one gesture are one step back. */
  #remember(always: boolean): void {
    const now = performance.now();
    if (always || now - this.#undoAt > 700) {
      this.#undo.push({ window: this.#window, live: this.live });
      if (this.#undo.length > MOST_UNDO) this.#undo.shift();
    }
    this.#undoAt = always ? 0 : now;
  }

  #moved(): void {
    this.#shownAt = 0;
    this.touch();
  }

  momentAt(part: number): bigint {
    return this.#window.start + BigInt(Math.round(part * this.#window.span));
  }

  layout(): Layout {
    const window = this.#window;
    return {
      span: this.live ? { live: window.span } : { from: window.start, to: windowStop(window) },
      panes: $state.snapshot(this.panes),
    };
  }

  link(): string {
    return linkOf(this.layout(), this.relative);
  }

  // ---- panes ---------------------------------------------------------------------------------------------------------

  /** Shows a channel: in a pane that is given, beside others of its stream and unit, or in a new one. */
  add(stream: string, channel: string, target: number | "new" | "fit" = "fit", run?: string): void {
    const found = this.known.find(stream, channel);
    const kind: PaneKind = found?.kind ?? "trace";
    const trace: Trace = { stream, channel, ...(run ? { run } : {}) };
    const same = (one: Trace): boolean => one.stream === stream && one.channel === channel && one.run === run;
    if (kind !== "trace") {
      if (this.panes.length < MOST_PANES) this.panes.push({ kind, traces: [trace], axes: {} });
      return this.sync();
    }
    let index = typeof target === "number" ? target : -1;
    if (target === "fit") {
      if (this.panes.some((pane) => pane.traces.some(same))) return;
      index = this.panes.findIndex(
        (pane) =>
          pane.kind === "trace" &&
          pane.traces.length < 8 &&
          pane.traces.some((one) => one.stream === stream && this.unitOf(one) === found?.unit),
      );
    }
    const pane = this.panes[index];
    trace.color = this.#freeColor(pane);
    if (!pane || pane.kind !== "trace") {
      if (this.panes.length < MOST_PANES) this.panes.push({ kind: "trace", traces: [trace], axes: {} });
    } else if (pane.traces.length < MOST_TRACES && !pane.traces.some(same)) pane.traces.push(trace);
    this.sync();
  }

  #freeColor(pane: Pane | undefined): number {
    const taken = (traces: readonly Trace[]): Set<number> => new Set(traces.map((one) => one.color ?? 0));
    // Another one than all on the page while there are enough, and else than all in the pane.
    const [everywhere, here] = [taken(this.panes.flatMap((one) => one.traces)), taken(pane?.traces ?? [])];
    for (let i = 0; i < 8; i++) if (!everywhere.has(i)) return i;
    for (let i = 0; i < 24; i++) if (!here.has(i)) return i;
    return 0;
  }

  removeTrace(pane: number, trace: number): void {
    this.panes[pane]?.traces.splice(trace, 1);
    if (!this.panes[pane]?.traces.length) this.panes.splice(pane, 1);
    this.sync();
  }

  remove(stream: string, channel: string): void {
    for (let i = this.panes.length - 1; i >= 0; i--) {
      const pane = this.panes[i] as Pane;
      pane.traces = pane.traces.filter((one) => one.stream !== stream || one.channel !== channel);
      if (!pane.traces.length) this.panes.splice(i, 1);
    }
    this.sync();
  }

  removePane(index: number): void {
    this.panes.splice(index, 1);
    this.sync();
  }

  movePane(index: number, by: number): void {
    const to = index + by;
    if (to < 0 || to >= this.panes.length) return;
    const [pane] = this.panes.splice(index, 1);
    if (pane) this.panes.splice(to, 0, pane);
    this.touch();
  }

  /** Each trace in a pane of its own, or all of a unit in one. */
  arrange(how: "stack" | "overlay"): void {
    const traces = this.panes.filter((pane) => pane.kind === "trace").flatMap((pane) => pane.traces);
    const others = this.panes.filter((pane) => pane.kind !== "trace");
    const axes = Object.assign({}, ...this.panes.map((pane) => pane.axes)) as Record<string, AxisOptions>;
    const made: Pane[] = [];
    for (const trace of traces) {
      const unit = this.unitOf(trace);
      const fit =
        how === "overlay"
          ? made.find((pane) => this.unitsOf(pane).includes(unit))
          : made.find((pane) => pane.traces.some((one) => one.run !== trace.run && one.channel === trace.channel));
      if (fit) fit.traces.push(trace);
      else if (made.length < MOST_PANES) made.push({ kind: "trace", traces: [trace], axes: axes[unit] ? { [unit]: { ...axes[unit] } } : {} });
    }
    for (const pane of made) {
      const seen = new Set<number>();
      for (const trace of pane.traces) {
        if (trace.color === undefined || seen.has(trace.color)) {
          let free = 0;
          while (seen.has(free)) free++;
          trace.color = free;
        }
        seen.add(trace.color);
      }
    }
    this.panes = [...made, ...others];
    this.sync();
  }

  unitOf(trace: Trace): string {
    return this.known.find(trace.stream, trace.channel)?.unit ?? "";
  }

  unitsOf(pane: Pane): string[] {
    return [...new Set(pane.traces.map((trace) => this.unitOf(trace)))];
  }

  runOf(trace: Trace): RunMark | undefined {
    return trace.run === undefined ? undefined : this.compared.find((run) => run.id === trace.run);
  }

  // ---- streams -------------------------------------------------------------------------------------------------------

  sourceOf(trace: Trace): Source | undefined {
    return this.#sources.get(`${trace.stream}|${trace.run ?? ""}`);
  }

  /** Keeps one source for each stream that is shown, with its channels. */
  sync(): void {
    const wanted = new Map<string, { trace: Trace; channels: Set<string> }>();
    for (const pane of this.panes)
      if (pane.kind === "trace")
        for (const trace of pane.traces) {
          const key = `${trace.stream}|${trace.run ?? ""}`;
          const one = wanted.get(key) ?? { trace, channels: new Set<string>() };
          one.channels.add(trace.channel);
          wanted.set(key, one);
          if (!this.known.streams.get(trace.stream)?.channels) void this.known.detail(trace.stream).then(() => this.touch());
          if (trace.run !== undefined && !this.runOf(trace)) void this.#askRun(trace.run);
        }
    for (const [key, source] of this.#sources)
      if (!wanted.has(key)) {
        source.close();
        this.#sources.delete(key);
      }
    for (const [key, { trace, channels }] of wanted) {
      const names = [...channels].sort();
      const before = this.#sources.get(key);
      if (before && names.join() === before.channels.join()) continue;
      this.#sources.set(key, new Source(this.station, trace.stream, names, () => this.touch(), before));
    }
    this.touch();
  }

  #asking = new Set<string>();

  async #askRun(id: string): Promise<void> {
    if (this.#asking.has(id)) return;
    this.#asking.add(id);
    try {
      const run = markOf((await this.station.get(`/api/v1/runs/${encodeURIComponent(id)}`)) as RunJson);
      this.compared = [...this.compared.filter((one) => one.id !== id), { ...run, id }];
      this.sync();
    } catch (error) {
      this.trouble = `Run ${id} cannot be shown: ${error instanceof Error ? error.message : String(error)}`;
    }
  }

  /** Shows what runs have in common from their starts on. */
  async compare(ids: string[]): Promise<void> {
    await this.known.list();
    const runs = await Promise.all(
      ids.map(async (id) => {
        const json = (await this.station.get(`/api/v1/runs/${encodeURIComponent(id)}`)) as RunJson & { streams: string[] };
        return { ...markOf(json), streams: json.streams };
      }),
    );
    this.compared = runs;
    const has = (run: { streams: string[] }, stream: string): boolean =>
      !run.streams.length || run.streams.some((one) => one === stream || one === `${stream.split("/")[0]}/*`);
    const panes: Pane[] = [];
    for (const stream of [...this.known.streams.values()].sort((a, b) => (a.id < b.id ? -1 : 1))) {
      const within = runs.filter((run) => has(run, stream.id) && overlaps(run, stream.first, stream.last));
      if (within.length < Math.min(2, runs.length)) continue;
      for (const channel of stream.channels ?? [])
        if (channel.kind === "trace" && panes.length < 4) {
          const traces = within.map((run) => ({ stream: stream.id, channel: channel.name, run: run.id, color: runs.indexOf(run) }));
          panes.push({ kind: "trace", traces, axes: {} });
        }
    }
    const longest = runs.reduce((most, run) => {
      const length = (run.stop ?? this.station.now()) - run.start;
      return length > most ? length : most;
    }, 1n);
    this.open({ span: { from: -longest / 40n, to: longest + longest / 40n }, panes });
  }

  async arrays(trace: Trace, start: bigint, stop: bigint, rows: number, signal: AbortSignal): Promise<ArrayRows> {
    const path = viewPath(trace.stream, [trace.channel], start, stop, { kind: "arrays", rows });
    const { header, buffers } = await this.station.frame(path, signal);
    return arraysOf(header, buffers, trace.channel);
  }

  // ---- marks ---------------------------------------------------------------------------------------------------------

  async #fetchMarks(window: Window): Promise<void> {
    const margin = BigInt(Math.round(window.span / 4));
    const [start, stop] = [window.start - margin, windowStop(window) + margin];
    if (start < 0n) return;
    const range = `start=${start}&stop=${stop}&limit=200`;
    try {
      const [runs, notes] = (await Promise.all([
        this.station.get(`/api/v1/runs?${range}`),
        this.station.get(`/api/v1/notes?${range}`),
      ])) as [PageOf<RunJson>, PageOf<NoteJson>];
      this.runs = runs.items.map(markOf);
      this.notes = notes.items.map((note) => ({
        id: note.id,
        text: note.text,
        by: note.by,
        at: BigInt(note.t_ns),
        end: note.end_ns === null ? null : BigInt(note.end_ns),
        streams: note.streams,
      }));
      this.touch();
    } catch {
      // They come with the next look; what is missing otherwise is told by the traces.
    }
  }

  async comment(text: string, at: bigint, end: bigint | null, streams: string[]): Promise<void> {
    const until = end === null ? {} : { end_ns: String(end) };
    await this.station.post("/api/v1/notes", { text, t_ns: String(at), ...until, streams });
    this.#marksAt = -Infinity;
    this.touch();
  }

  async removeNote(id: string): Promise<void> {
    await this.station.remove(`/api/v1/notes/${encodeURIComponent(id)}`);
    this.notes = this.notes.filter((note) => note.id !== id);
    this.touch();
  }

  // ---- drawing -------------------------------------------------------------------------------------------------------

  attach(painter: { paint(): void; pixels(): number }): () => void {
    this.#painters.add(painter);
    this.touch();
    return () => this.#painters.delete(painter);
  }

  /** Something is different: draw again. */
  touch(): void {
    this.#dirty = true;
    if (!this.#raf && !this.#closed) this.#raf = requestAnimationFrame((time) => this.#tick(time));
  }

  #tick(time: number): void {
    this.#raf = 0;
    if (this.#closed) return;
    if (time - this.#paintedAt < FRAME_MS && this.live) return this.#again();
    const now = this.station.now();
    if (this.live) {
      const start = now - BigInt(Math.round(this.#window.span));
      const width = Math.max(1, ...[...this.#painters].map((one) => one.pixels()));
      const moved = Number(start - this.#window.start) / this.#window.span;
      if (!this.#dirty && Math.abs(moved) * width * devicePixelRatio < 0.5) return this.#again();
      this.#window = { start, span: this.#window.span };
    }
    this.#dirty = false;
    this.#paintedAt = time;
    this.#look(now);
    for (const painter of this.#painters) painter.paint();
    this.frames++;
    if (time - this.#shownAt > SHOWN_MS) this.#say(time);
    if (this.live) this.#again();
    else if (this.shown !== this.#window) setTimeout(() => this.#say(performance.now()), SHOWN_MS);
  }

  #again(): void {
    if (!this.#raf && !this.#closed) this.#raf = requestAnimationFrame((time) => this.#tick(time));
  }

  #look(now: bigint): void {
    const pixels = Math.max(100, ...[...this.#painters].map((one) => one.pixels()));
    const present = !this.relative && windowStop(this.#window) >= now - BigInt(Math.round(this.#window.span / 8));
    let [loading, trouble, skipped] = [false, "", 0];
    for (const [key, source] of this.#sources) {
      const id = key.slice(key.indexOf("|") + 1);
      const run = id ? this.compared.find((one) => one.id === id) : undefined;
      if (id && !run) continue;
      const shift = run?.start ?? 0n;
      source.first = this.known.streams.get(source.stream)?.first ?? null;
      source.look({ start: this.#window.start + shift, span: this.#window.span }, pixels, present);
      loading ||= source.state.loading;
      if (source.state.error) trouble ||= `${source.stream}: ${source.state.error}`;
      skipped += source.state.skipped;
    }
    if (loading !== this.loading) this.loading = loading;
    if (trouble !== this.trouble) this.trouble = trouble;
    if (skipped !== this.skipped) this.skipped = skipped;
    const wide = this.#marksFor;
    const away = wide
      ? Math.abs(Number(this.#window.start - wide.start)) / wide.span + Math.abs(this.#window.span / wide.span - 1)
      : Infinity;
    const wait = away > 0.2 ? 400 : MARKS_MS;
    if (!this.relative && performance.now() - this.#marksAt > wait) {
      this.#marksAt = performance.now();
      this.#marksFor = this.#window;
      void this.#fetchMarks(this.#window);
    }
  }

  #say(time: number): void {
    this.#shownAt = time;
    if (this.#closed) return;
    this.shown = this.#window;
    this.beat++;
  }

  /** Whether all that the window shows is drawn. */
  get idle(): boolean {
    return !this.#dirty && this.#sources.size > 0 && [...this.#sources.values()].every((source) => source.idle);
  }

  /** How much is kept, for those who watch that it does not grow. */
  get kept(): { sources: number; tiles: number; bytes: number; buckets: number; frames: number } {
    const all = [...this.#sources.values()].map((source) => source.kept);
    const sum = (pick: (one: (typeof all)[number]) => number): number => all.reduce((total, one) => total + pick(one), 0);
    return {
      sources: all.length,
      tiles: sum((one) => one.tiles),
      bytes: sum((one) => one.bytes),
      buckets: sum((one) => one.buckets),
      frames: this.frames,
    };
  }

  close(): void {
    this.#closed = true;
    cancelAnimationFrame(this.#raf);
    this.#unlisten();
    for (const source of this.#sources.values()) source.close();
    this.#sources.clear();
  }
}

const markOf = (run: RunJson): RunMark => ({
  id: run.id,
  name: run.name,
  start: BigInt(run.start_ns),
  stop: run.stop_ns === null ? null : BigInt(run.stop_ns),
});

function overlaps(run: RunMark, first: bigint | null, last: bigint | null): boolean {
  return first !== null && last !== null && last >= run.start && (run.stop === null || first < run.stop);
}
