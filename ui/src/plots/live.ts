/**
 * What live frames have brought of one stream, in memory that does not grow: a frame overwrites the buckets that it
 * has anew (the newest, unfinished one comes again and again), adds what is behind, and what has left the window is let go.
 */

import { lowerBound, type Columns, type Gap, type Track } from "./columns.ts";

/** Buckets that are kept at most, whatever the window asks for. */
export const MOST_BUCKETS = 8192;
const MOST_GAPS = 2000;

const KINDS = ["min", "max", "mean", "last"] as const;

export class LiveColumns {
  #base: bigint | null = null;
  #head = 0;
  #end = 0;
  #t0 = new Float64Array(256);
  #t1 = new Float64Array(256);
  #n = new Uint32Array(256);
  #tracks = new Map<string, Track>();
  #gaps: Gap[] = [];
  #shown: Columns | null = null;
  /** Where it begins: everything from here on is in it. */
  from: bigint;
  /** Time of the newest row, or null before the first. */
  newest: bigint | null = null;

  constructor(
    from: bigint,
    readonly most = MOST_BUCKETS,
  ) {
    this.from = from;
  }

  get count(): number {
    return this.#end - this.#head;
  }

  get capacity(): number {
    return this.#t0.length;
  }

  /** Takes over a frame. */
  merge(frame: Columns): void {
    this.#shown = null;
    this.#mergeGaps(frame.gaps);
    if (frame.count === 0) return;
    if (this.#base === null) this.#base = frame.base;
    const offset = Number(frame.base - this.#base);
    for (const name of frame.tracks.keys()) this.#track(name);
    // What lies before the frame stays where it is; behind, usually nothing or the bucket that it overwrites.
    const cut = lowerBound(this.#t0, (frame.t0[0] as number) + offset, this.#end, this.#head);
    const tail = this.#copy(cut, this.#end);
    this.#end = cut;
    let j = 0;
    for (let i = 0; i < frame.count; i++) {
      const t0 = (frame.t0[i] as number) + offset;
      const t1 = (frame.t1[i] as number) + offset;
      for (; j < tail.count && (tail.t0[j] as number) < t0; j++) this.#push(tail, j, 0);
      while (j < tail.count && (tail.t0[j] as number) <= t1) j++;
      this.#push(frame, i, offset);
    }
    for (; j < tail.count; j++) this.#push(tail, j, 0);
    const newest = this.#base + BigInt(Math.round(this.#t1[this.#end - 1] as number));
    if (this.newest === null || newest > this.newest) this.newest = newest;
    if (this.count > this.most) this.#drop(this.#end - this.most);
  }

  /** Lets go what ends before a moment. */
  trim(before: bigint): void {
    if (before > this.from) this.from = before;
    if (this.#base !== null) {
      const keep = lowerBound(this.#t1, Number(before - this.#base), this.#end, this.#head);
      if (keep > this.#head) this.#drop(keep);
    }
    if (this.#gaps.length && (this.#gaps[0] as Gap).stop < before) {
      this.#gaps = this.#gaps.filter((gap) => gap.stop >= before);
      this.#shown = null;
    }
  }

  /** As it is now; what comes later does not change how many there are in it. */
  columns(): Columns {
    if (this.#shown) return this.#shown;
    const [head, end] = [this.#head, this.#end];
    const tracks = new Map<string, Track>();
    for (const [name, track] of this.#tracks)
      tracks.set(name, {
        min: track.min.subarray(head, end),
        max: track.max.subarray(head, end),
        mean: track.mean.subarray(head, end),
        last: track.last.subarray(head, end),
      });
    this.#shown = {
      base: this.#base ?? this.from,
      count: end - head,
      t0: this.#t0.subarray(head, end),
      t1: this.#t1.subarray(head, end),
      n: this.#n.subarray(head, end),
      tracks,
      gaps: this.#gaps,
      raw: false,
    };
    return this.#shown;
  }

  #track(name: string): Track {
    let track = this.#tracks.get(name);
    if (!track) {
      const empty = () => new Float64Array(this.capacity).fill(NaN);
      track = { min: empty(), max: empty(), mean: empty(), last: empty() };
      this.#tracks.set(name, track);
    }
    return track;
  }

  #push(from: Columns, i: number, offset: number): void {
    if (this.#end === this.capacity) this.#makeRoom();
    const at = this.#end++;
    this.#t0[at] = (from.t0[i] as number) + offset;
    this.#t1[at] = (from.t1[i] as number) + offset;
    this.#n[at] = from.n[i] as number;
    for (const [name, track] of this.#tracks) {
      const source = from.tracks.get(name);
      for (const kind of KINDS) track[kind][at] = source ? (source[kind][i] as number) : NaN;
    }
  }

  #copy(from: number, to: number): Columns {
    const tracks = new Map<string, Track>();
    for (const [name, track] of this.#tracks)
      tracks.set(name, {
        min: track.min.slice(from, to),
        max: track.max.slice(from, to),
        mean: track.mean.slice(from, to),
        last: track.last.slice(from, to),
      });
    const [t0, t1, n] = [this.#t0.slice(from, to), this.#t1.slice(from, to), this.#n.slice(from, to)];
    return { base: this.#base ?? 0n, count: to - from, t0, t1, n, tracks, gaps: [], raw: false };
  }

  #makeRoom(): void {
    const count = this.#end - this.#head;
    const size = count * 4 > this.capacity * 3 ? this.capacity * 2 : this.capacity;
    const doubles = (old: Float64Array) => {
      const made = new Float64Array(size);
      made.set(old.subarray(this.#head, this.#end));
      return made;
    };
    this.#t0 = doubles(this.#t0);
    this.#t1 = doubles(this.#t1);
    const n = new Uint32Array(size);
    n.set(this.#n.subarray(this.#head, this.#end));
    this.#n = n;
    for (const track of this.#tracks.values()) for (const kind of KINDS) track[kind] = doubles(track[kind]);
    this.#head = 0;
    this.#end = count;
  }

  #drop(keep: number): void {
    this.#head = keep;
    this.#shown = null;
    if (this.#base === null || keep >= this.#end) return;
    const first = this.#base + BigInt(Math.floor(this.#t0[keep] as number));
    if (first > this.from) this.from = first;
  }

  #mergeGaps(gaps: readonly Gap[]): void {
    for (const gap of gaps) {
      const known = this.#gaps.findIndex((one) => one.start === gap.start);
      if (known >= 0) this.#gaps = this.#gaps.map((one, i) => (i === known ? gap : one));
      else this.#gaps = [...this.#gaps, gap].sort((a, b) => (a.start < b.start ? -1 : 1));
    }
    if (this.#gaps.length > MOST_GAPS) this.#gaps = this.#gaps.slice(-MOST_GAPS);
  }
}
