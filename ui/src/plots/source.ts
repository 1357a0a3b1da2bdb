/**
 * One stream as the plots need it: tiles of its history that are fetched when a window shows them, the live frames that
 * follow, and both as one stretch of buckets. What a window no longer shows is not waited for.
 */

import { bytesOf, joinGaps, type Columns, type Gap } from "./columns.ts";
import { LiveColumns } from "./live.ts";
import { cover, levelFor, TILE_BITS, TileCache, tilesOf, tileStart, tileStop, type TileKey } from "./tiles.ts";
import { windowStop, type Stretch, type Window } from "./trace.ts";

/** How plots reach the station. */
export interface Door {
  view(
    stream: string,
    channels: readonly string[],
    start: bigint,
    stop: bigint,
    width: number,
    signal: AbortSignal,
  ): Promise<Columns>;
  /** Live frames from `since` on, on a grid of `step` nanoseconds; gives what ends it. */
  subscribe(stream: string, channels: readonly string[], step: bigint, since: bigint, listener: Listener): () => void;
  /** Time of the station. */
  now(): bigint;
}

export interface Listener {
  frame(columns: Columns): void;
  /** Frames were left out: what lies between has to be fetched. */
  skipped(from: bigint, to: bigint): void;
  failed(reason: string): void;
}

export interface SourceState {
  /** Finer buckets are on their way. */
  loading: boolean;
  /** Why there are none; empty while there are. */
  error: string;
  /** Frames that came too fast for this page. */
  skipped: number;
}

interface Tile {
  columns: Columns;
  /** Time of the station when it was asked for: what came later is not in it. */
  asked: bigint;
}

const CACHE_BYTES = 24 << 20;
const WIDTH = 1 << TILE_BITS;
const AT_ONCE = 3;
/** A tile that reaches into the present is fetched again after so long. */
const FRESH_NS = 2_000_000_000n;
const RETRY_MS = 2000;
const SETTLE_MS = 40;
const BACKDROP = 5;

export class Source {
  readonly state: SourceState = { loading: false, error: "", skipped: 0 };
  /** When the first row of the stream is, as far as it is known; nothing before is asked for. */
  first: bigint | null = null;
  #tiles = new TileCache<Tile>(CACHE_BYTES);
  #fetching = new Map<string, AbortController>();
  #wanted: TileKey[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;
  #settling: ReturnType<typeof setTimeout> | undefined;
  #retryAt = 0;
  #lastPlan = 0;
  #live: LiveColumns | null = null;
  #pending: LiveColumns | null = null;
  #liveLevel = -1;
  #unsubscribe: (() => void) | null = null;
  #window: Window = { start: 0n, span: 1 };
  #pixels = 1000;
  #level = 0;
  #changedAt = 0;
  #closed = false;

  constructor(
    readonly door: Door,
    readonly stream: string,
    readonly channels: readonly string[],
    readonly changed: () => void,
    /** What was shown with other channels, until there is something of these. */
    private before?: Source | undefined,
  ) {
    if (before) before.#leave();
  }

  /** Shows a window that is `pixels` wide. With `live`, frames come for it. */
  look(window: Window, pixels: number, live: boolean): void {
    if (this.#closed) return;
    const level = levelFor(window.span, pixels);
    if (level !== this.#level) this.#changedAt = performance.now();
    this.#window = window;
    this.#level = level;
    this.#pixels = pixels;
    if (live) this.#follow();
    else if (this.#unsubscribe) this.#leave();
    this.#live?.trim(window.start - BigInt(Math.ceil(window.span / 2)));
    if (this.#timer === undefined) {
      const wait = performance.now() - this.#lastPlan > 4 * SETTLE_MS ? 0 : SETTLE_MS;
      this.#timer = setTimeout(() => this.#plan(), wait);
    }
  }

  /** What there is to be drawn of a window, in order of time. */
  stretches(window: Window = this.#window): Stretch[] {
    const stop = windowStop(window);
    const out: Stretch[] = [];
    const add = (columns: Columns, from: bigint, to: bigint): void => {
      if (from < to)
        out.push({
          columns,
          offset: Number(columns.base - window.start),
          from: Number(from - window.start),
          to: Number(to - window.start),
        });
    };
    const liveFrom = this.#liveFrom();
    const edge = liveFrom === null ? stop : liveFrom < window.start ? window.start : liveFrom;
    if (edge > window.start) {
      const until = edge < stop ? edge : stop;
      const { parts } = cover(this.#tiles, levelFor(window.span, this.#pixels), window.start, until, (tile) => tile.columns.raw);
      // What was live until just now stands in for what has not been fetched.
      const old = this.#unsubscribe ? null : this.#live;
      if (old && old.count && !parts.some((part) => part.fine && part.stop >= until)) {
        const from = old.from > window.start ? old.from : window.start;
        for (const part of parts) add(part.value.columns, part.start, part.stop < from ? part.stop : from);
        add(old.columns(), from, until);
      } else for (const part of parts) add(part.value.columns, part.start, part.stop);
    }
    if (liveFrom !== null && this.#live && edge < stop) add(this.#live.columns(), edge, stop);
    if (!this.before) return out;
    if (!out.length) return this.before.stretches(window);
    this.before.close();
    this.before = undefined;
    return out;
  }

  gaps(stretches: readonly Stretch[] = this.stretches()): Gap[] {
    return joinGaps(stretches.map((one) => one.columns.gaps));
  }

  /** Time of the newest live row. */
  get newest(): bigint | null {
    return this.#live?.newest ?? null;
  }

  /** Whether all that the window shows is there. */
  get idle(): boolean {
    return this.#lastPlan > 0 && this.#timer === undefined && this.#fetching.size === 0 && !this.state.error;
  }

  /** How much is kept, for those who watch that it does not grow. */
  get kept(): { tiles: number; bytes: number; buckets: number } {
    return { tiles: this.#tiles.size, bytes: this.#tiles.bytes, buckets: this.#live?.count ?? 0 };
  }

  close(): void {
    this.#closed = true;
    this.before?.close();
    clearTimeout(this.#timer);
    clearTimeout(this.#settling);
    this.#unsubscribe?.();
    this.#unsubscribe = null;
    for (const one of this.#fetching.values()) one.abort();
    this.#fetching.clear();
    this.#tiles.clear();
    this.#live = this.#pending = null;
  }

  // ---- history -------------------------------------------------------------------------------------------------------

  #plan(): void {
    this.#timer = undefined;
    if (this.#closed) return;
    this.#lastPlan = performance.now();
    const now = this.door.now();
    let start = this.#window.start;
    let stop = windowStop(this.#window);
    if (this.first !== null && start < this.first) start = this.first;
    if (stop > now) stop = now;
    const liveFrom = this.#liveFrom();
    if (liveFrom !== null && stop > liveFrom) stop = liveFrom;
    const wanted: TileKey[] = [];
    let blank = false;
    if (start < stop) {
      const { parts, missing } = cover(this.#tiles, this.#level, start, stop, (tile) => tile.columns.raw);
      blank = parts.length === 0;
      wanted.push(...missing);
      for (const tile of tilesOf(this.#level, start, stop)) {
        const known = this.#tiles.get(tile.level, tile.index);
        if (known && tileStop(tile) > known.asked - FRESH_NS && now - known.asked > FRESH_NS) wanted.push(tile);
      }
    }
    const fine = wanted.length;
    // Something coarse, so that moving out shows at once what is there.
    const rise = this.#level + BACKDROP;
    const middle = this.#window.start + BigInt(Math.floor(this.#window.span / 2));
    const backdrop = tilesOf(rise, middle, middle + 1n)[0];
    if (backdrop && rise <= 50 && !this.#tiles.get(rise, backdrop.index) && tileStart(backdrop) < now)
      if (blank) wanted.unshift(backdrop);
      else wanted.push(backdrop);
    this.#wanted = wanted;
    const loading = fine > 0 && !this.state.error;
    if (loading !== this.state.loading) {
      this.state.loading = loading;
      this.changed(); // nothing else may draw until something has come
    }
    const keys = new Set(wanted.map((tile) => `${tile.level}/${tile.index}`));
    for (const [key, control] of this.#fetching)
      if (!keys.has(key)) {
        control.abort();
        this.#fetching.delete(key);
      }
    this.#pump();
  }

  #pump(): void {
    if (this.#closed) return;
    const wait = this.#retryAt - performance.now();
    if (wait > 0) {
      this.#timer ??= setTimeout(() => this.#plan(), wait);
      return;
    }
    for (const tile of this.#wanted) {
      if (this.#fetching.size >= AT_ONCE) return;
      const key = `${tile.level}/${tile.index}`;
      if (!this.#fetching.has(key)) void this.#fetch(tile, key);
    }
  }

  async #fetch(tile: TileKey, key: string): Promise<void> {
    const control = new AbortController();
    this.#fetching.set(key, control);
    const asked = this.door.now();
    try {
      const columns = await this.door.view(
        this.stream,
        this.channels,
        tileStart(tile),
        tileStop(tile),
        WIDTH,
        control.signal,
      );
      if (control.signal.aborted) return;
      this.#tiles.put(tile.level, tile.index, { columns, asked }, bytesOf(columns));
      this.state.error = "";
    } catch (error) {
      if (control.signal.aborted) return;
      this.state.error = error instanceof Error ? error.message : String(error);
      this.#retryAt = performance.now() + RETRY_MS;
    } finally {
      if (this.#fetching.get(key) === control) this.#fetching.delete(key);
    }
    if (this.#closed) return;
    this.#wanted = this.#wanted.filter((one) => one.level !== tile.level || one.index !== tile.index);
    if (!this.#wanted.length && this.#timer === undefined) this.#plan();
    else this.#pump();
    this.changed();
  }

  // ---- live ----------------------------------------------------------------------------------------------------------

  #liveFrom(): bigint | null {
    return this.#unsubscribe && this.#live ? this.#live.from : null;
  }

  #follow(): void {
    const off = this.#liveLevel - this.#level;
    if (this.#unsubscribe && off <= 0 && off >= -1) return;
    if (this.#unsubscribe && performance.now() - this.#changedAt < 3 * SETTLE_MS) {
      this.#settling ??= setTimeout(() => {
        this.#settling = undefined;
        this.changed();
      }, 3 * SETTLE_MS);
      return;
    }
    this.#unsubscribe?.();
    const level = (this.#liveLevel = this.#level);
    const grid = BigInt(level);
    const since = (this.#window.start >> grid) << grid;
    const store = (this.#pending = new LiveColumns(since));
    this.#unsubscribe = this.door.subscribe(this.stream, this.channels, 1n << grid, since, {
      frame: (columns) => {
        if (this.#closed) return;
        store.merge(columns);
        if (this.#pending === store) {
          this.#live = store;
          this.#pending = null;
        }
        this.changed();
      },
      skipped: (from, to) => {
        this.state.skipped++;
        void this.#refill(store, from, to, level);
      },
      failed: (reason) => {
        this.state.error = reason;
        this.changed();
      },
    });
    // Until the first frame is there, what was live stays; nothing newer comes to it.
  }

  #leave(): void {
    this.#unsubscribe?.();
    this.#unsubscribe = null;
    this.#pending = null;
    this.#liveLevel = -1;
  }

  async #refill(store: LiveColumns, from: bigint, to: bigint, level: number): Promise<void> {
    const width = Math.min(4096, Math.max(1, Number((to - from) >> BigInt(level))));
    try {
      const control = new AbortController();
      store.merge(await this.door.view(this.stream, this.channels, from, to, width, control.signal));
      this.changed();
    } catch {
      // It stays a line across: the tiles have it as soon as this part is history.
    }
  }
}
