import assert from "node:assert/strict";
import { test } from "node:test";

import { elapsedTicks, isoText, linearTicks, logTicks, momentOf, momentText, timeTicks } from "./axes.ts";
import { colorMap, paint } from "./colors.ts";
import { columnsOf, joinGaps, UNENDED, type Columns, type Gap } from "./columns.ts";
import { layoutOf, layoutsFile, layoutsOf, linkOf, type Layout } from "./link.ts";
import { LiveColumns } from "./live.ts";
import { Source, type Door, type Listener } from "./source.ts";
import { cover, levelFor, TileCache, tilesOf, tileStart, tileStop } from "./tiles.ts";
import { extremesOf, readingAt, segmentsOf, type Stretch } from "./trace.ts";

/** Numbers that come again in the same order. */
function dice(seed: number): () => number {
  return () => {
    seed = (seed * 1664525 + 1013904223) % 4294967296;
    return seed / 4294967296;
  };
}

function bucketsOf(times: number[], values: number[], step: number, base = 0n, gaps: Gap[] = []): Columns {
  const rows: { t0: number; t1: number; n: number; min: number; max: number; sum: number; last: number }[] = [];
  times.forEach((t, i) => {
    const v = values[i] as number;
    const bucket = rows.at(-1);
    if (bucket && Math.floor(bucket.t0 / step) === Math.floor(t / step)) {
      bucket.t1 = t;
      bucket.n++;
      bucket.min = Math.min(bucket.min, v);
      bucket.max = Math.max(bucket.max, v);
      bucket.sum += v;
      bucket.last = v;
    } else rows.push({ t0: t, t1: t, n: 1, min: v, max: v, sum: v, last: v });
  });
  const all = (pick: (row: (typeof rows)[number]) => number): Float64Array => Float64Array.from(rows, pick);
  return {
    base,
    count: rows.length,
    t0: all((r) => r.t0),
    t1: all((r) => r.t1),
    n: Uint32Array.from(rows, (r) => r.n),
    tracks: new Map([
      ["a", { min: all((r) => r.min), max: all((r) => r.max), mean: all((r) => r.sum / r.n), last: all((r) => r.last) }],
    ]),
    gaps,
    raw: false,
  };
}

const whole = (columns: Columns, span: number): Stretch[] => [{ columns, offset: Number(columns.base), from: 0, to: span }];

// ---- buckets ---------------------------------------------------------------------------------------------------------

test("a view becomes columns, and a raw one has one array for all", () => {
  const channels = [{ name: "a", unit: "V", dtype: "float64", labels: null, shape: [] }];
  const t0 = Float64Array.of(0, 10);
  const raw = columnsOf({ kind: "view", stream: "x/y", base_ns: "5", channels, raw: true }, { t0, "last:0": Float64Array.of(1, 2) });
  assert.equal(raw.tracks.get("a")?.min, raw.tracks.get("a")?.last);
  assert.equal(raw.t1, raw.t0);
  assert.deepEqual([...raw.n], [1, 1]);
  const gaps = [{ start_ns: null, stop_ns: "9", rows: null, reason: "stopped" }];
  const open = columnsOf({ kind: "view", stream: "x/y", base_ns: "0", start_ns: "3", channels, gaps }, { t0 });
  assert.deepEqual(open.gaps, [{ start: 3n, stop: 9n, rows: null, reason: "stopped", open: false }]);
});

test("live frames give what one pass over all rows gives, whatever is sent again", () => {
  const random = dice(1);
  for (let round = 0; round < 30; round++) {
    const times: number[] = [];
    const values: number[] = [];
    for (let t = 0; times.length < 400; t += 1 + Math.floor(random() * 9)) {
      times.push(t);
      values.push(random());
    }
    const store = new LiveColumns(0n);
    const step = 64;
    let sent = 0;
    while (sent < times.length) {
      const more = Math.min(times.length, sent + 1 + Math.floor(random() * 40));
      // From the first row of the newest bucket that was sent, sometimes from further back.
      const grid = Math.floor((times[Math.max(0, sent - 1)] as number) / step) - Math.floor(random() * 3);
      const first = Math.max(0, times.findIndex((t) => t >= grid * step));
      const base = BigInt(Math.floor(random() * 1000));
      const frame = bucketsOf(times.slice(first, more), values.slice(first, more), step);
      store.merge({ ...frame, base, t0: frame.t0.map((t) => t - Number(base)), t1: frame.t1.map((t) => t - Number(base)) });
      sent = more;
    }
    const [got, wanted] = [store.columns(), bucketsOf(times, values, step)];
    const offset = Number(got.base);
    assert.deepEqual([...got.t0].map((t) => t + offset), [...wanted.t0]);
    assert.deepEqual([...got.n], [...wanted.n]);
    assert.deepEqual([...(got.tracks.get("a")?.max ?? [])], [...(wanted.tracks.get("a")?.max ?? [])]);
  }
});

test("late buckets find their place", () => {
  const store = new LiveColumns(0n);
  store.merge(bucketsOf([0, 10, 40], [1, 2, 5], 10));
  store.merge(bucketsOf([20, 30], [3, 4], 10));
  assert.deepEqual([...store.columns().t0], [0, 10, 20, 30, 40]);
  assert.deepEqual([...(store.columns().tracks.get("a")?.last ?? [])], [1, 2, 3, 4, 5]);
});

test("an hour of frames does not grow the memory", () => {
  const store = new LiveColumns(0n);
  for (let i = 0; i < 108_000; i++) {
    store.merge(bucketsOf([i * 33, i * 33 + 20], [i, i], 64));
    store.trim(BigInt(Math.max(0, i * 33 - 60_000)));
  }
  assert.ok(store.count < 3700, `${store.count} buckets`);
  assert.ok(store.capacity <= 4096, `room for ${store.capacity}`);
  const full = new LiveColumns(0n, 1000);
  for (let i = 0; i < 5000; i++) full.merge(bucketsOf([i * 100], [i], 100));
  assert.equal(full.count, 1000);
  assert.equal(full.from, 400_000n);
});

test("gaps are told once, and an open one becomes what it was in the end", () => {
  const open: Gap = { start: 5n, stop: 9n, rows: null, reason: "disconnect", open: true };
  const final: Gap = { ...open, rows: 4, open: false };
  const under: Gap = { ...open, stop: UNENDED };
  assert.deepEqual(joinGaps([[under], [final], [under]]), [final]);
  assert.deepEqual(joinGaps([[open], [final], [{ ...open, start: 1n, open: false }]]).map((g) => [g.start, g.rows]), [
    [1n, null],
    [5n, 4],
  ]);
});

// ---- tiles -----------------------------------------------------------------------------------------------------------

test("a window is cut into few tiles with a bucket for each pixel", () => {
  for (const span of [1e3, 7e6, 60e9, 86400e9, 2.6e15]) {
    const level = levelFor(span, 1400);
    assert.ok(2 ** level <= span / 1400 + 1);
    const tiles = tilesOf(level, 1_764_100_000_000_000_123n, 1_764_100_000_000_000_123n + BigInt(span));
    assert.ok(tiles.length <= 4, `${tiles.length} tiles for ${span}`);
    for (const [i, tile] of tiles.entries()) if (i) assert.equal(tileStart(tile), tileStop(tiles[i - 1] as never));
  }
});

test("until a tile is there, a coarser one is drawn in its place, without holes", () => {
  const cache = new TileCache<string>(1e6);
  cache.put(8, 3, "coarse", 1);
  const [start, stop] = [tileStart({ level: 8, index: 3 }), tileStop({ level: 8, index: 3 })];
  const first = cover(cache, 5, start + 10n, stop - 10n, () => false);
  assert.deepEqual(first.parts, [{ value: "coarse", start: start + 10n, stop: stop - 10n, fine: false }]);
  assert.equal(first.missing.length, 8);
  assert.equal(cover(cache, 5, start, stop, () => true).missing.length, 0, "nothing finer than every row");
  const middle = first.missing[0] as { level: number; index: number };
  cache.put(middle.level, middle.index, "fine", 1);
  const second = cover(cache, 5, start, stop, () => false);
  assert.deepEqual(second.parts.map((p) => p.value), ["coarse", "fine", "coarse"]);
  for (const [i, part] of second.parts.entries()) if (i) assert.equal(part.start, second.parts[i - 1]?.stop);
  assert.equal(second.missing.length, 7);
});

test("two halves are as good as a whole, and finer tiles are shown while moving out", () => {
  const cache = new TileCache<number>(1e6);
  cache.put(4, 0, 0, 1);
  assert.deepEqual(cover(cache, 5, 0n, 1n << 15n, () => false).missing, [{ level: 5, index: 0 }]);
  cache.put(4, 1, 1, 1);
  assert.deepEqual(cover(cache, 5, 0n, 1n << 15n, () => false).missing, []);
  const out = cover(cache, 7, 0n, 1n << 17n, () => false);
  assert.deepEqual(out.parts.map((p) => p.value), [0, 1]);
  assert.equal(out.missing.length, 1);
});

test("tiles that were not used for long are let go", () => {
  const cache = new TileCache<number>(100);
  for (let i = 0; i < 50; i++) {
    cache.put(0, i, i, 10);
    cache.get(0, 0);
  }
  assert.equal(cache.bytes, 100);
  assert.equal(cache.size, 10);
  assert.equal(cache.get(0, 0), 0);
  assert.equal(cache.get(0, 5), undefined);
});

// ---- source ----------------------------------------------------------------------------------------------------------

class MockDoor implements Door {
  asked: { start: bigint; stop: bigint; signal: AbortSignal; answer: (c: Columns) => void; fail: (e: Error) => void }[] = [];
  subscribed: { step: bigint; since: bigint; listener: Listener; ended: boolean }[] = [];
  time = 1_000_000_000_000n;
  now(): bigint {
    return this.time;
  }
  view(_s: string, _c: readonly string[], start: bigint, stop: bigint, _w: number, signal: AbortSignal): Promise<Columns> {
    return new Promise((answer, fail) => this.asked.push({ start, stop, signal, answer, fail }));
  }
  subscribe(_s: string, _c: readonly string[], step: bigint, since: bigint, listener: Listener): () => void {
    const one = { step, since, listener, ended: false };
    this.subscribed.push(one);
    return () => (one.ended = true);
  }
}

const pause = (ms: number): Promise<void> => new Promise((done) => setTimeout(done, ms));

test("a window asks for its tiles, and what it has left behind is not waited for", async () => {
  const door = new MockDoor();
  const source = new Source(door, "x/y", ["a"], () => undefined);
  source.look({ start: 500_000_000_000n, span: 1e9 }, 1000, false);
  await pause(60);
  const early = door.asked.length;
  assert.ok(early >= 1 && early <= 3, `${early} at once`);
  assert.equal(source.state.loading, true);
  source.look({ start: 100_000_000_000n, span: 1e9 }, 1000, false);
  await pause(120);
  assert.ok(door.asked.slice(0, early).every((one) => one.signal.aborted));
  for (let done = early; done < door.asked.length; done++) {
    const one = door.asked[done] as (typeof door.asked)[number];
    one.answer(bucketsOf([1, 2e9], [1, 2], 1e6, one.start));
    await pause(5);
  }
  assert.equal(source.state.loading, false);
  assert.ok(source.stretches().length >= 1);
  assert.equal(source.stretches()[0]?.from, 0);
  assert.equal(source.stretches().at(-1)?.to, 1e9);
  source.close();
});

test("an answer that fails is told, and asked for again", async () => {
  const door = new MockDoor();
  const source = new Source(door, "x/y", ["a"], () => undefined);
  source.look({ start: 500_000_000_000n, span: 1e9 }, 1000, false);
  await pause(60);
  door.asked[0]?.fail(new Error("the disk is on fire"));
  await pause(5);
  assert.equal(source.state.error, "the disk is on fire");
  source.close();
});

test("live frames join the history without a hole or a double", async () => {
  const door = new MockDoor();
  const source = new Source(door, "x/y", ["a"], () => undefined);
  const window = { start: door.time - 1_000_000_000n, span: 1e9 };
  source.look(window, 1000, true);
  const live = door.subscribed[0];
  assert.ok(live && live.since <= window.start && live.since > window.start - live.step);
  live.listener.frame(bucketsOf([1, 2, 3], [1, 2, 3], 1, live.since));
  let drawn = source.stretches();
  assert.equal(drawn.length, 1, "one subscription brings all that the window shows");
  assert.deepEqual([drawn[0]?.from, drawn[0]?.to], [0, 1e9]);
  // Further out: what was live stays until the coarser frames are there.
  await pause(130);
  const wider = { start: door.time - 8_000_000_000n, span: 8e9 };
  source.look(wider, 1000, true);
  await pause(130);
  source.look(wider, 1000, true);
  assert.equal(door.subscribed.length, 2);
  assert.equal(live.ended, true);
  drawn = source.stretches(wider);
  assert.equal(drawn.at(-1)?.columns.count, 3);
  door.subscribed[1]?.listener.frame(bucketsOf([7], [7], 1, live.since));
  drawn = source.stretches(wider);
  assert.equal(drawn.at(-1)?.columns.count, 1);
  source.close();
});

// ---- drawing ---------------------------------------------------------------------------------------------------------

test("what is drawn has the extremes of the rows, for any zoom and any gaps", () => {
  const random = dice(7);
  for (let round = 0; round < 60; round++) {
    const times: number[] = [];
    const values: number[] = [];
    const gaps: Gap[] = [];
    for (let t = Math.floor(random() * 5); times.length < 300; ) {
      times.push(t);
      values.push(random() < 0.02 ? 1000 * random() - 500 : random());
      const next = t + 1 + Math.floor(random() * 4);
      if (random() < 0.03) {
        gaps.push({ start: BigInt(t), stop: BigInt(next + 50), rows: 3, reason: "overflow", open: false });
        t = next + 50;
      } else t = next;
    }
    const span = (times.at(-1) as number) + 1;
    // A bucket does not span a gap.
    const pieces: Columns[] = [];
    let from = 0;
    for (let i = 1; i <= times.length; i++)
      if (i === times.length || gaps.some((g) => g.start === BigInt(times[i - 1] as number))) {
        pieces.push(bucketsOf(times.slice(from, i), values.slice(from, i), 1 + Math.floor(random() * 20)));
        from = i;
      }
    const stretches = pieces.map((columns, i): Stretch => {
      const next = pieces[i + 1];
      return { columns, offset: 0, from: i ? (columns.t0[0] as number) : 0, to: next ? (next.t0[0] as number) : span };
    });
    const segments = segmentsOf(stretches, "a", gaps, { start: 0n, span }, 50 + Math.floor(random() * 500));
    const drawn = segments.flatMap((s) => [...s.low, ...s.high]);
    assert.equal(Math.min(...drawn), Math.min(...values));
    assert.equal(Math.max(...drawn), Math.max(...values));
    assert.equal(segments.length, gaps.length + (gaps.at(-1)?.start === BigInt(times.at(-1) as number) ? 0 : 1));
    const extremes = extremesOf(stretches, "a");
    assert.deepEqual([extremes.min, extremes.max], [Math.min(...values), Math.max(...values)]);
  }
});

test("a spike of one row is drawn where it is, a pixel wide", () => {
  const times = Array.from({ length: 100_000 }, (_, i) => i);
  const values = times.map((t) => (t === 73_456 ? 9 : Math.sin(t)));
  const [segment] = segmentsOf(whole(bucketsOf(times, values, 50), 1e5), "a", [], { start: 0n, span: 1e5 }, 1000);
  assert.ok(segment);
  const at = segment.high.indexOf(9);
  assert.ok(Math.abs((segment.x[at] as number) - 734.56) < 1);
  assert.equal(segment.high.filter((v) => v > 1.01).length, 1);
});

test("a value that is missing ends the line", () => {
  const columns = bucketsOf([0, 10, 20, 30, 40], [1, 2, NaN, 4, 5], 10);
  const segments = segmentsOf(whole(columns, 50), "a", [], { start: 0n, span: 50 }, 500);
  assert.deepEqual(segments.map((s) => s.last), [
    [1, 2],
    [4, 5],
  ]);
});

test("what a window does not show is left out, but for one bucket at either end", () => {
  const times = Array.from({ length: 100 }, (_, i) => i * 10);
  const columns = bucketsOf(times, times, 10);
  const stretch: Stretch = { columns, offset: -500, from: 0, to: 100 };
  const [segment] = segmentsOf([stretch], "a", [], { start: 500n, span: 100 }, 1000);
  assert.deepEqual(segment?.last, [490, 500, 510, 520, 530, 540, 550, 560, 570, 580, 590, 600]);
});

test("logarithms leave out what is not positive, and say so", () => {
  const extremes = extremesOf(whole(bucketsOf([0, 10, 20], [-1, 0, 0.5], 10), 30), "a");
  assert.deepEqual([extremes.positive, extremes.nonPositive], [0.5, true]);
});

test("a cursor reads the bucket in which it is, or the nearest", () => {
  const stretches = whole(bucketsOf([0, 5, 100, 105], [1, 3, 7, 9], 10), 200);
  assert.deepEqual(readingAt(stretches, "a", 3), { t0: 0, t1: 5, rows: 2, min: 1, max: 3, mean: 2 });
  assert.equal(readingAt(stretches, "a", 60)?.t0, 100);
  assert.equal(readingAt(stretches, "a", 40)?.t0, 0);
  assert.equal(readingAt(stretches, "b", 40), null);
});

test("colours rise evenly and what is no number is left out", () => {
  const map = colorMap("evening");
  const light = (pixel: number): number => 0.2 * (pixel & 255) + 0.7 * ((pixel >> 8) & 255) + 0.1 * ((pixel >> 16) & 255);
  for (let i = 8; i < 256; i += 8) assert.ok(light(map[i] as number) > light(map[i - 8] as number));
  const pixels = new Uint32Array(4);
  paint(pixels, [0, 1, NaN, 5], 0, 1, false, map);
  assert.deepEqual([...pixels], [map[0], map[255], 0, map[255]]);
});

// ---- axes ------------------------------------------------------------------------------------------------------------

test("numbers have their unit once, with a prefix", () => {
  assert.deepEqual(linearTicks(0, 0.004, 4, "V").labels, ["0", "1", "2", "3", "4"]);
  assert.equal(linearTicks(0, 0.004, 4, "V").title, "mV");
  assert.deepEqual(linearTicks(-1, 1, 4, "V").labels, ["−1.0", "−0.5", "0.0", "0.5", "1.0"]);
  assert.equal(linearTicks(0, 30, 4, "Cel").title, "°C");
  assert.equal(linearTicks(0, 4e7, 4, "Cel").title, "×10⁶ °C");
  assert.equal(linearTicks(0, 4000, 4, "Ohm").title, "kΩ");
  const fine = linearTicks(10.000001, 10.000003, 4, "V");
  assert.equal(fine.title, "µV from 10.0000020000\u202fV");
  assert.deepEqual(fine.labels, ["−1.0", "−0.5", "0", "+0.5", "+1.0"]);
  assert.deepEqual(linearTicks(3, 3, 4, "V").at, []);
});

test("powers of ten", () => {
  assert.deepEqual(logTicks(-3, 2, 6, "A").labels, ["10⁻³", "10⁻²", "10⁻¹", "10⁰", "10¹", "10²"]);
  assert.deepEqual(logTicks(0, 1, 6, "A").labels, ["10⁰", "2·10⁰", "5·10⁰", "10¹"]);
});

test("time from years to nanoseconds", () => {
  const start = momentOf("2026-11-25T12:34:56.123456789Z") as bigint;
  const year = timeTicks(start, 3e17, 6, true);
  assert.ok(year.labels.every((l) => /^\d{4}$/.test(l)), year.labels.join());
  assert.deepEqual(timeTicks(start, 86400e9 * 90, 6, true).labels.slice(0, 2), ["Dec", "Jan"]);
  assert.deepEqual(timeTicks(start, 86400e9 * 3, 6, true).labels.slice(0, 2), ["00:00", "12:00"]);
  assert.deepEqual(timeTicks(start, 60e9, 6, true).labels.slice(0, 2), ["12:35:00", "12:35:10"]);
  assert.equal(timeTicks(start, 60e9, 6, true).under[0], "Wed 25 Nov 2026");
  assert.deepEqual(timeTicks(start, 50e6, 5, true).labels.slice(0, 2), ["12:34:56.13", "12:34:56.14"]);
  const fine = timeTicks(start, 500e3, 5, true);
  assert.deepEqual(fine.labels.slice(0, 2), ["+500 µs", "+600 µs"]);
  assert.equal(fine.under[0], "12:34:56.123, Wed 25 Nov 2026");
  assert.deepEqual(timeTicks(start, 100, 5, true).labels.slice(0, 2), ["+800 ns", "+820 ns"]);
  for (let span = 20; span < 3e18; span *= 1.7) {
    const ticks = timeTicks(start, span, 7);
    assert.ok(ticks.at.length >= 1 && ticks.at.length <= 9, `${ticks.at.length} marks at ${span}`);
    assert.ok(ticks.at.every((at, i) => at >= 0 && at <= span && (i === 0 || at > (ticks.at[i - 1] as number))));
  }
  assert.deepEqual(elapsedTicks(0n, 10e9, 5).labels, ["0 s", "2 s", "4 s", "6 s", "8 s", "10 s"]);
  assert.deepEqual(elapsedTicks(0n, 7200e9, 4).labels, ["0:00:00", "0:30:00", "1:00:00", "1:30:00", "2:00:00"]);
});

test("moments to the nanosecond, there and back", () => {
  const random = dice(3);
  for (let i = 0; i < 200; i++) {
    const ns = BigInt(Math.floor(random() * 2e9)) * 1_000_000_000n + BigInt(Math.floor(random() * 1e9));
    assert.equal(momentOf(isoText(ns)), ns);
  }
  assert.equal(momentOf("2026-11-25T13:00:00+01:00"), momentOf("2026-11-25T12:00:00Z"));
  for (const text of ["", "yesterday", "2026-11-25", "2026-99-99T00:00:00Z", "1e9"]) assert.equal(momentOf(text), null);
  assert.equal(momentText(1_764_074_096_123_456_789n, 1e5, true), "2025-11-25 12:34:56.123456789");
});

// ---- links -----------------------------------------------------------------------------------------------------------

test("a link restores what was seen, whatever the names are", () => {
  const random = dice(11);
  const letters = "abZ0.:-_ ~!,;/|=&?#%+µ\"'漢";
  const word = (): string => Array.from({ length: 1 + Math.floor(random() * 6) }, () => letters[Math.floor(random() * letters.length)]).join("");
  for (let round = 0; round < 300; round++) {
    const layout: Layout = {
      span: random() < 0.5 ? { live: 1e6 * (1 + Math.floor(random() * 1e6)) } : { from: 5n, to: 1_764_074_096_123_456_789n },
      panes: Array.from({ length: 1 + Math.floor(random() * 3) }, () => ({
        kind: "trace" as const,
        traces: Array.from({ length: 1 + Math.floor(random() * 3) }, () => ({
          stream: `${word()}x/y`.replace(/\/(?!y$)/g, ""),
          channel: word(),
          ...(random() < 0.5 ? { color: Math.floor(random() * 8) } : {}),
          ...(random() < 0.3 ? { hidden: true } : {}),
          ...(random() < 0.3 ? { run: word() } : {}),
        })),
        axes: random() < 0.5 ? {} : { [word()]: { log: true, min: 1e-3, max: 12.5 } },
      })),
    };
    const link = linkOf(layout);
    assert.deepEqual(layoutOf(link), layout, link);
    assert.equal(decodeURI(encodeURI(link)), link);
  }
  assert.equal(
    linkOf({ span: { live: 60e9 }, panes: [{ kind: "trace", traces: [{ stream: "dmm/readings", channel: "voltage" }], axes: {} }] }),
    "live=1m&p=dmm/readings/voltage",
  );
});

test("a link that is no link shows nothing, and throws nothing", () => {
  for (const query of ["", "?", "p=", "p=a", "p=%E0%A4%A/b/c", "live=-5s", "live=1e9y", "from=x&to=y", "p=a/b/c;V", "from=9&to=3"])
    assert.ok(layoutOf(query).span);
  assert.deepEqual(layoutOf("c=wave%2Fwave%3Aa.b&c=x&c=").panes.map((p) => p.traces), [[{ stream: "wave/wave", channel: "a.b" }]]);
  assert.deepEqual(layoutOf("p=%E0%A4%A/b/c").panes, []);
  assert.deepEqual(layoutOf("p=a/b/c;V=5..1,log").panes[0]?.axes, { V: { log: true } });
});

test("saved layouts go to a file and come back; another file is refused in words", () => {
  const layouts = { mine: "live=1m&p=a/b/c" };
  assert.deepEqual(layoutsOf(layoutsFile(layouts)), layouts);
  for (const text of ["{", "{}", "[]", "null", '{"kind":"scidaq-layouts","version":2,"layouts":{}}'])
    assert.throws(() => layoutsOf(text), /file/);
});
