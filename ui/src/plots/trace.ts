/**
 * From buckets to what is drawn: a band from least to greatest and a line of means, in pixels across and values upwards.
 * Buckets that share a pixel are joined so that no extreme is lost; a line ends where a gap is.
 */

import { lowerBound, type Columns, type Gap } from "./columns.ts";

/** The window of time that is shown: from `start` for `span` nanoseconds. */
export interface Window {
  start: bigint;
  span: number;
}

/** A stretch of buckets to be drawn; times are nanoseconds after the start of the window. */
export interface Stretch {
  columns: Columns;
  /** What is to be added to the times of the columns. */
  offset: number;
  from: number;
  to: number;
}

/** An unbroken piece of a trace: for each point where it is, and what there is in it. */
export interface Segment {
  x: number[];
  low: number[];
  high: number[];
  mean: number[];
  last: number[];
  /** Whether each point is a single row. */
  single: boolean;
}

export function windowStop(window: Window): bigint {
  return window.start + BigInt(Math.ceil(window.span));
}

const newSegment = (): Segment => ({ x: [], low: [], high: [], mean: [], last: [], single: true });

/** Draws across `width` pixels. `gaps` are in order. */
export function segmentsOf(
  stretches: readonly Stretch[],
  channel: string,
  gaps: readonly Gap[],
  window: Window,
  width: number,
): Segment[] {
  const out: Segment[] = [];
  const starts = gaps.map((gap) => Number(gap.start - window.start));
  const stops = gaps.map((gap) => Number(gap.stop - window.start));
  const scale = width / window.span;
  let segment = newSegment();
  let [column, weight, before] = [NaN, 0, NaN];
  let gap = 0;
  const end = (): void => {
    if (segment.x.length) out.push(segment);
    segment = newSegment();
    column = NaN;
  };
  stretches.forEach((stretch, k) => {
    const { columns, offset } = stretch;
    const track = columns.tracks.get(channel);
    if (!track) return end();
    const { t0, t1, count } = columns;
    // One bucket more at either end, so that lines go on to the edge.
    let first = lowerBound(t1, stretch.from - offset, count);
    if (k === 0 && first > 0) first--;
    const final = k === stretches.length - 1;
    let beyond = 0;
    for (let i = first; i < count; i++) {
      let [a, b] = [(t0[i] as number) + offset, (t1[i] as number) + offset];
      if (a >= stretch.to) {
        if (!final || beyond++) break;
      } else {
        if (b >= stretch.to) b = Math.max(a, stretch.to);
        if (a < stretch.from && b >= stretch.from) a = stretch.from;
      }
      if (a < before) a = before;
      if (b < a) continue;
      // Whether a gap lies between the bucket before and this one.
      while (gap < starts.length && (stops[gap] as number) <= before) gap++;
      if (!Number.isNaN(before))
        for (let g = gap; g < starts.length && (starts[g] as number) < a; g++)
          if ((stops[g] as number) > before) {
            end();
            break;
          }
      before = b;
      const [low, high, mean, last] = [track.min[i], track.max[i], track.mean[i], track.last[i]] as number[];
      if (Number.isNaN(low) || low === undefined) {
        end();
        continue;
      }
      const n = columns.raw ? 1 : (columns.n[i] as number);
      const [x0, x1] = [a * scale, b * scale];
      if (n > 1) segment.single = false;
      if (x1 - x0 > 1) {
        push(segment, x0, low, high as number, mean as number, last as number);
        push(segment, x1, low, high as number, mean as number, last as number);
        [column, weight] = [NaN, 0];
        continue;
      }
      const x = (x0 + x1) / 2;
      const at = segment.x.length - 1;
      // A bucket that was cut short (where live begins, and at the end) has a mean of few rows, which says little by itself.
      const near = x - (segment.x[at] ?? -Infinity) < 1.7 && (4 * n < weight || 4 * weight < n);
      if (Math.floor(x) === column || (near && weight > 0)) {
        segment.low[at] = Math.min(segment.low[at] as number, low);
        segment.high[at] = Math.max(segment.high[at] as number, high as number);
        segment.mean[at] = ((segment.mean[at] as number) * weight + (mean as number) * n) / (weight + n);
        segment.last[at] = last as number;
        segment.single = false;
        if (n > weight) [segment.x[at], column] = [x, Math.floor(x)];
        weight += n;
      } else {
        push(segment, x, low, high as number, mean as number, last as number);
        [column, weight] = [Math.floor(x), n];
      }
    }
  });
  end();
  return out;
}

function push(segment: Segment, x: number, low: number, high: number, mean: number, last: number): void {
  segment.x.push(x);
  segment.low.push(low);
  segment.high.push(high);
  segment.mean.push(mean);
  segment.last.push(last);
}

export interface Extremes {
  min: number;
  max: number;
  /** The least that is more than nothing, for axes of powers. */
  positive: number;
  /** Whether something is zero or less. */
  nonPositive: boolean;
}

export const NO_EXTREMES: Extremes = { min: Infinity, max: -Infinity, positive: Infinity, nonPositive: false };

/** The extremes of what the window shows of a channel. */
export function extremesOf(stretches: readonly Stretch[], channel: string): Extremes {
  const out = { ...NO_EXTREMES };
  for (const { columns, offset, from, to } of stretches) {
    const track = columns.tracks.get(channel);
    if (!track) continue;
    const first = lowerBound(columns.t1, from - offset, columns.count);
    for (let i = first; i < columns.count && (columns.t0[i] as number) + offset <= to; i++) {
      const [low, high] = [track.min[i] as number, track.max[i] as number];
      if (low < out.min) out.min = low;
      if (high > out.max) out.max = high;
      if (low > 0) {
        if (low < out.positive) out.positive = low;
      } else {
        if (low <= 0) out.nonPositive = true;
        if (high > 0 && high < out.positive) out.positive = high;
      }
    }
  }
  return out;
}

export interface Reading {
  /** Of its first and its last row, after the start of the window. */
  t0: number;
  t1: number;
  rows: number;
  min: number;
  max: number;
  mean: number;
}

/** What stands under a cursor: the bucket in which a moment lies, or else the nearest one that is shown. */
export function readingAt(stretches: readonly Stretch[], channel: string, at: number): Reading | null {
  let best: Reading | null = null;
  let distance = Infinity;
  for (const { columns, offset, from, to } of stretches) {
    const track = columns.tracks.get(channel);
    if (!track || !columns.count) continue;
    const next = lowerBound(columns.t1, at - offset, columns.count);
    for (const i of [next - 1, next]) {
      if (i < 0 || i >= columns.count) continue;
      const [t0, t1] = [(columns.t0[i] as number) + offset, (columns.t1[i] as number) + offset];
      if (t1 < from || t0 > to) continue;
      const away = at < t0 ? t0 - at : at > t1 ? at - t1 : 0;
      if (away >= distance) continue;
      distance = away;
      const rows = columns.raw ? 1 : (columns.n[i] as number);
      best = { t0, t1, rows, min: track.min[i] as number, max: track.max[i] as number, mean: track.mean[i] as number };
    }
  }
  return best;
}

// ---- on a canvas -------------------------------------------------------------------------------------------------------

/** How values become pixels: `y = zero + f(value) * factor`, f being the logarithm where the axis is one of powers. */
export interface Vertical {
  log: boolean;
  low: number;
  high: number;
  top: number;
  height: number;
}

export function pixelOf(vertical: Vertical): (value: number) => number {
  const { log, low, high, top, height } = vertical;
  const factor = height / (high - low);
  const [roof, floor] = [top - 4 * height - 1e4, top + 5 * height + 1e4];
  const place = (f: number): number => Math.min(floor, Math.max(roof, top + (high - f) * factor));
  // What is no logarithm lies below everything.
  return log ? (v) => (v > 0 ? place(Math.log10(v)) : top + height + 2) : place;
}

export interface Pen {
  color: string;
  /** In pixels of the canvas. */
  width: number;
  steps: boolean;
  dots: boolean;
}

export function drawSegments(
  context: CanvasRenderingContext2D,
  segments: readonly Segment[],
  left: number,
  vertical: Vertical,
  pen: Pen,
): void {
  const y = pixelOf(vertical);
  const { log } = vertical;
  context.save();
  context.lineJoin = "round";
  context.fillStyle = context.strokeStyle = pen.color;
  for (const { x, low, high, mean, last, single } of segments) {
    const count = x.length;
    const line = pen.steps ? last : mean;
    if (!single) {
      context.beginPath();
      for (let i = 0; i < count; i++) context.lineTo(left + (x[i] as number), y(high[i] as number));
      for (let i = count - 1; i >= 0; i--) context.lineTo(left + (x[i] as number), y(low[i] as number));
      context.closePath();
      context.globalAlpha = 0.28;
      context.fill();
      // Its edge, so that an extreme of a single row is seen whatever is beside it.
      context.globalAlpha = 0.55;
      context.lineWidth = Math.max(1, pen.width * 0.6);
      context.stroke();
    }
    context.globalAlpha = 1;
    context.lineWidth = pen.width;
    context.beginPath();
    let down = false;
    let previous = 0;
    for (let i = 0; i < count; i++) {
      const value = line[i] as number;
      if (log && !(value > 0)) {
        down = false;
        continue;
      }
      const [px, py] = [left + (x[i] as number), y(value)];
      if (!down) context.moveTo(px, py);
      else {
        if (pen.steps) context.lineTo(px, previous);
        context.lineTo(px, py);
      }
      [down, previous] = [true, py];
    }
    context.stroke();
    const sparse = count > 1 && ((x[count - 1] as number) - (x[0] as number)) / (count - 1) > 9 * pen.width;
    if (count === 1 || (single && pen.dots && sparse)) {
      context.beginPath();
      for (let i = 0; i < count; i++) {
        const value = line[i] as number;
        if (log && !(value > 0)) continue;
        context.moveTo(left + (x[i] as number), y(value));
        context.arc(left + (x[i] as number), y(value), pen.width * 1.6, 0, 7);
      }
      context.fill();
    }
  }
  context.restore();
}
