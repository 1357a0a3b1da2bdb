/**
 * Buckets of one stream over a stretch of time, as views and live frames bring them: time of the first and the last row
 * of each, how many rows, and least, greatest, mean and last value of each channel. Times are nanoseconds after `base`,
 * exact as long as a stretch is shorter than 104 days.
 */

/** The end of a gap behind which nothing has come yet. */
export const UNENDED = 1n << 62n;

export interface Gap {
  start: bigint;
  stop: bigint;
  /** How many rows are missing; null when nobody can know. */
  rows: number | null;
  reason: string;
  /** Whether the rows may still come. */
  open: boolean;
}

export interface Track {
  min: Float64Array;
  max: Float64Array;
  mean: Float64Array;
  last: Float64Array;
}

export interface ChannelInfo {
  name: string;
  unit: string;
  dtype: string;
  labels: string[] | null;
  shape: number[];
}

export interface Columns {
  base: bigint;
  count: number;
  t0: Float64Array;
  t1: Float64Array;
  n: Uint32Array;
  tracks: ReadonlyMap<string, Track>;
  gaps: readonly Gap[];
  /** Each bucket is one row. */
  raw: boolean;
}

/** Whole arrays (spectra, images) of a few rows. */
export interface ArrayRows {
  base: bigint;
  count: number;
  t0: Float64Array;
  /** Of one row. */
  shape: number[];
  /** All rows, one behind the other. */
  data: Float32Array;
}

export interface ViewHeader {
  kind: string;
  stream: string;
  base_ns: string;
  start_ns?: string;
  stop_ns?: string;
  step_ns?: string | null;
  exact?: boolean;
  raw?: boolean;
  channels: ChannelInfo[];
  gaps?: { start_ns: string | null; stop_ns: string | null; rows: number | null; reason: string; open?: boolean }[];
}

export type Buffers = Readonly<Record<string, ArrayLike<number> | undefined>>;

const doubles = (a: ArrayLike<number> | undefined, count: number): Float64Array =>
  a instanceof Float64Array ? a : a ? Float64Array.from(a) : new Float64Array(count).fill(NaN);

export function columnsOf(header: ViewHeader, buffers: Buffers): Columns {
  const t0 = doubles(buffers["t0"], 0);
  const count = t0.length;
  const raw = header.raw === true;
  const tracks = new Map<string, Track>();
  header.channels.forEach((channel, i) => {
    const last = doubles(buffers[`last:${i}`], count);
    tracks.set(
      channel.name,
      raw
        ? { min: last, max: last, mean: last, last }
        : {
            min: doubles(buffers[`min:${i}`], count),
            max: doubles(buffers[`max:${i}`], count),
            mean: doubles(buffers[`mean:${i}`], count),
            last,
          },
    );
  });
  const n = buffers["n"];
  return {
    base: BigInt(header.base_ns),
    count,
    t0,
    t1: buffers["t1"] ? doubles(buffers["t1"], count) : t0,
    n: n instanceof Uint32Array ? n : n ? Uint32Array.from(n) : new Uint32Array(count).fill(1),
    tracks,
    gaps: gapsOf(header),
    raw,
  };
}

function gapsOf(header: ViewHeader): Gap[] {
  const gaps: Gap[] = [];
  for (const gap of header.gaps ?? []) {
    // Before the first row it begins with the range; behind the newest nobody knows yet where it ends.
    const start = gap.start_ns ?? header.start_ns;
    if (start == null) continue;
    const stop = gap.stop_ns == null ? UNENDED : BigInt(gap.stop_ns);
    gaps.push({ start: BigInt(start), stop, rows: gap.rows, reason: gap.reason, open: gap.open === true });
  }
  return gaps.sort((a, b) => (a.start < b.start ? -1 : a.start > b.start ? 1 : 0));
}

export function arraysOf(header: ViewHeader, buffers: Buffers, name?: string): ArrayRows {
  const i = name == null ? 0 : Math.max(0, header.channels.findIndex((c) => c.name === name));
  const t0 = doubles(buffers["t0"], 0);
  const found = buffers[`array:${i}`];
  const data = found instanceof Float32Array ? found : Float32Array.from(found ?? []);
  return { base: BigInt(header.base_ns), count: t0.length, t0, shape: header.channels[i]?.shape ?? [], data };
}

export function bytesOf(columns: Columns): number {
  return columns.count * (20 + (columns.raw ? 8 : 32) * columns.tracks.size) + columns.gaps.length * 64 + 200;
}

/** Index of the first of `count` ascending values that is at least `value`. */
export function lowerBound(values: ArrayLike<number>, value: number, count = values.length, from = 0): number {
  let low = from;
  let high = count;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if ((values[middle] as number) < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** Gaps of several stretches, each once, by their start. A gap that was open is replaced by what became of it. */
export function joinGaps(lists: Iterable<readonly Gap[]>): Gap[] {
  const found = new Map<bigint, Gap>();
  for (const list of lists)
    for (const gap of list) {
      const known = found.get(gap.start);
      const better = gap.stop !== UNENDED && (known?.open || known?.stop === UNENDED || (known && known.stop < gap.stop));
      if (!known || better) found.set(gap.start, gap);
    }
  return [...found.values()].sort((a, b) => (a.start < b.start ? -1 : a.start > b.start ? 1 : 0));
}
