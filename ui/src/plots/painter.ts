/**
 * One pane of traces on a canvas. uPlot keeps the canvas, its axes, the cursor and the selection; both of its scales go
 * from 0 to 1, a part of the window, so that a window of a nanosecond is as exact as one of a year. What is drawn
 * between the axes is drawn here.
 */

import uPlot from "uplot";

import { elapsedTicks, linearTicks, logTicks, timeTicks, type Ticks, type TimeTicks } from "./axes.ts";
import type { Gap } from "./columns.ts";
import type { AxisOptions } from "./link.ts";
import {
  drawSegments,
  extremesOf,
  NO_EXTREMES,
  segmentsOf,
  type Extremes,
  type Stretch,
  type Vertical,
  type Window,
} from "./trace.ts";

export const GUTTER = 72;
const LABEL = 16;
const RIGHT = 14;
const TIME_AXIS = 38;
const FONT = "11px ui-sans-serif, system-ui, sans-serif";
const FONT_BOLD = "600 " + FONT;

export interface Drawn {
  channel: string;
  unit: string;
  steps: boolean;
  color: string;
  /** Stream and run, whose gaps are drawn once. */
  key: string;
  stretches: Stretch[];
  gaps: Gap[];
  /** What is to be added to the window to get the times of the gaps. */
  shift: bigint;
}

export interface Line {
  at: bigint;
  color: string;
  dashed: boolean;
}

export interface Ink {
  text: string;
  dim: string;
  grid: string;
  surface: string;
  gap: string;
  accent: string;
  /** Of traces, the first few. */
  traces: string[];
}

/** What a pane shows, asked anew for each picture. */
export interface Scene {
  window(): Window;
  drawn(): Drawn[];
  units(): string[];
  axis(unit: string): AxisOptions;
  lines(): Line[];
  ink(): Ink;
  utc(): boolean;
  /** Whether time is counted from the start of a run. */
  relative(): boolean;
  /** Whether the marks of time are written below. */
  timed(): boolean;
  /** Axes on the right side that some pane has: all are equally wide. */
  rights(): number;
}

export interface Hooks {
  select(from: number, to: number): void;
  /** The cursor is at a part of the window, or gone. */
  cursor(at: number | null): void;
  reset(): void;
}

export interface YAxis {
  unit: string;
  log: boolean;
  low: number;
  high: number;
  extremes: Extremes;
}

export const NO_TICKS: Ticks = { at: [], labels: [], title: "" };

/** Marks of time across a window, as parts of it, with what is written below them. */
export function windowTicks(
  window: Window,
  width: number,
  utc: boolean,
  relative: boolean,
): { at: number[]; labels: string[] } {
  const most = Math.max(2, Math.floor(width / (window.span < 1e9 ? 120 : 96)));
  const ticks: TimeTicks = relative
    ? elapsedTicks(window.start, window.span, most)
    : timeTicks(window.start, window.span, most, utc);
  // What would be cut off at the right edge is left out.
  const room = 1 - 34 / Math.max(100, width);
  const zone = ticks.title && !relative ? ` ${ticks.title}` : "";
  return {
    at: ticks.at.map((at) => at / window.span),
    labels: ticks.labels.map((label, i) => {
      const under = ticks.under[i];
      if ((ticks.at[i] as number) / window.span > room) return "";
      return under ? `${label}\n${under}${zone}` : label;
    }),
  };
}

/** The range of an axis: fixed, or what is shown with a margin; as it was while that fits well enough. */
export function rangeOf(options: AxisOptions, extremes: Extremes, before: YAxis | undefined): [number, number] {
  const log = options.log === true;
  if (options.min !== undefined && options.max !== undefined) {
    if (!log) return [options.min, options.max];
    if (options.max > 0) {
      const high = Math.log10(options.max);
      return [options.min > 0 ? Math.log10(options.min) : high - 6, high];
    }
  }
  let [low, high] = [extremes.min, extremes.max];
  if (log) [low, high] = [Math.log10(extremes.positive), Math.log10(high > 0 ? high : NaN)];
  if (!(low <= high) || !Number.isFinite(low) || !Number.isFinite(high))
    return before && before.log === log ? [before.low, before.high] : log ? [-1, 1] : [0, 1];
  if (before && before.log === log && low >= before.low && high <= before.high) {
    const room = before.high - before.low;
    if (high - low > 0.72 * room || (high === low && room <= 4 * flat(low, log))) return [before.low, before.high];
  }
  const margin = high > low ? 0.07 * (high - low) : flat(low, log);
  return [low - margin, high + margin];
}

const flat = (value: number, log: boolean): number => (log ? 0.5 : value === 0 ? 1 : Math.abs(value) * 0.02);

function joined(a: Extremes, b: Extremes): Extremes {
  return {
    min: Math.min(a.min, b.min),
    max: Math.max(a.max, b.max),
    positive: Math.min(a.positive, b.positive),
    nonPositive: a.nonPositive || b.nonPositive,
  };
}

export class Painter {
  readonly plot: uPlot;
  /** Axes as they were drawn last, by unit. */
  readonly axes = new Map<string, YAxis>();
  /** How many points were drawn last: for those who watch what a picture costs. */
  points = 0;
  #ticks = new Map<string, Ticks>();
  #time: { at: number[]; labels: string[] } = { at: [], labels: [] };
  #hatches = new Map<string, CanvasPattern | null>();

  constructor(
    root: HTMLElement,
    width: number,
    height: number,
    readonly scene: Scene,
    readonly hooks: Hooks,
    group: string,
  ) {
    const units = scene.units();
    const own = Math.max(0, units.length - 1);
    const right = RIGHT + (scene.rights() - own) * GUTTER;
    const stroke = (): string => scene.ink().dim;
    const grid = { stroke: () => scene.ink().grid, width: 1 };
    const ticks = { stroke: () => scene.ink().grid, width: 1, size: 4 };
    const vertical = (unit: string, i: number): uPlot.Axis => ({
      scale: `y${i}`,
      side: i === 0 ? 3 : 1,
      size: GUTTER - LABEL,
      gap: 4,
      space: 1,
      font: FONT,
      stroke,
      grid: i === 0 ? grid : { show: false },
      ticks,
      label: " ",
      labelSize: LABEL,
      labelGap: 0,
      labelFont: FONT_BOLD,
      splits: () => this.#tick(unit).at,
      values: () => this.#tick(unit).labels,
    });
    const scale = { time: false, range: [0, 1] as [number, number], auto: false };
    const options: uPlot.Options = {
      width,
      height,
      pxAlign: 0,
      legend: { show: false },
      scales: { x: scale, ...Object.fromEntries(units.map((_, i) => [`y${i}`, { ...scale }])) },
      series: [{}, ...units.map((_, i) => ({ scale: `y${i}`, paths: () => null, points: { show: false } }))],
      axes: [
        {
          size: scene.timed() ? TIME_AXIS : 8,
          gap: 4,
          space: 1,
          font: FONT,
          stroke,
          grid,
          ticks: { ...ticks, show: scene.timed() },
          splits: () => this.#time.at,
          values: () => (scene.timed() ? this.#time.labels : this.#time.labels.map(() => "")),
        },
        ...units.map(vertical),
      ],
      padding: [8, right, 0, units.length ? 0 : GUTTER],
      cursor: {
        sync: { key: group, setSeries: false, scales: ["x", null] },
        drag: { x: true, y: false, setScale: false, dist: 5 },
        points: { show: false },
        y: false,
        bind: {
          mousedown: (_u, _t, handler) => (event) => {
            if (event.button === 0 && !event.shiftKey) handler(event);
            return null;
          },
          dblclick: () => () => {
            this.hooks.reset();
            return null;
          },
        },
      },
      hooks: {
        drawClear: [() => this.#under()],
        draw: [() => this.#over()],
        setCursor: [
          (u) => {
            const { left } = u.cursor;
            const inside = left !== undefined && left !== null && left >= 0;
            this.hooks.cursor(inside ? left / (u.bbox.width / devicePixelRatio) : null);
          },
        ],
        setSelect: [
          (u) => {
            const { left, width: wide } = u.select;
            if (wide < 3) return;
            const full = u.bbox.width / devicePixelRatio;
            u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
            this.hooks.select(left / full, (left + wide) / full);
          },
        ],
      },
    };
    const data = [[0, 1], ...units.map(() => [null, null])] as unknown as uPlot.AlignedData;
    this.plot = new uPlot(options, data, root);
  }

  /** Width of what lies between the axes, in CSS pixels. */
  get width(): number {
    return this.plot.bbox.width / devicePixelRatio;
  }

  resize(width: number, height: number): void {
    if (width !== this.plot.width || height !== this.plot.height) this.plot.setSize({ width, height });
  }

  /** Draws what the scene shows now. */
  paint(): void {
    const { scene, plot } = this;
    const drawn = scene.drawn();
    const window = scene.window();
    this.#drawn = drawn;
    const height = plot.bbox.height / devicePixelRatio;
    scene.units().forEach((unit, i) => {
      const options = scene.axis(unit);
      let extremes = NO_EXTREMES;
      for (const one of drawn) if (one.unit === unit) extremes = joined(extremes, extremesOf(one.stretches, one.channel));
      const [low, high] = rangeOf(options, extremes, this.axes.get(unit));
      const log = options.log === true;
      this.axes.set(unit, { unit, log, low, high, extremes });
      const most = Math.max(2, Math.floor(height / 34));
      const ticks = log ? logTicks(low, high, most, unit) : linearTicks(low, high, most, unit);
      this.#ticks.set(unit, { ...ticks, at: ticks.at.map((at) => (at - low) / (high - low)) });
      const axis = plot.axes[i + 1];
      if (axis) axis.label = ticks.title || " ";
    });
    this.#time = windowTicks(window, this.width, scene.utc(), scene.relative());
    plot.batch(() => plot.redraw(false, true));
  }

  destroy(): void {
    this.plot.destroy();
  }

  /** The gap at a part of the window, within some pixels. */
  gapAt(at: number): { gap: Gap; key: string } | null {
    const { start, span } = this.scene.window();
    const slack = (4 / Math.max(1, this.width)) * span;
    for (const one of this.#drawn)
      for (const gap of one.gaps) {
        const [from, to] = [Number(gap.start - start - one.shift), Number(gap.stop - start - one.shift)];
        if (at * span >= from - slack && at * span <= to + slack) return { gap, key: one.key };
      }
    return null;
  }

  #drawn: Drawn[] = [];

  #tick(unit: string): Ticks {
    return this.#ticks.get(unit) ?? NO_TICKS;
  }

  #hatch(color: string): CanvasPattern | string {
    let pattern = this.#hatches.get(color);
    if (pattern === undefined) {
      const size = Math.round(7 * devicePixelRatio);
      const tile = document.createElement("canvas");
      tile.width = tile.height = size;
      const context = tile.getContext("2d") as CanvasRenderingContext2D;
      context.strokeStyle = color;
      context.lineWidth = devicePixelRatio;
      context.beginPath();
      for (const shift of [-size, 0, size]) {
        context.moveTo(shift, size);
        context.lineTo(shift + size, 0);
      }
      context.stroke();
      pattern = context.createPattern(tile, "repeat");
      this.#hatches.set(color, pattern);
    }
    return pattern ?? color;
  }

  /** Gaps and lines, below the traces. */
  #under(): void {
    const { ctx, bbox } = this.plot;
    const { start, span } = this.scene.window();
    const ink = this.scene.ink();
    const scale = bbox.width / span;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    const seen = new Set<string>();
    for (const one of this.#drawn) {
      if (seen.has(one.key)) continue;
      seen.add(one.key);
      let after = -Infinity;
      for (const gap of one.gaps) {
        const from = Number(gap.start - start - one.shift) * scale;
        const to = Math.max(Number(gap.stop - start - one.shift) * scale, from + 2 * devicePixelRatio);
        if (to < 0 || from > bbox.width || to < after + 1) continue;
        after = to;
        const [left, right] = [Math.max(0, from), Math.min(bbox.width, to)];
        ctx.globalAlpha = 0.1;
        ctx.fillStyle = ink.gap;
        ctx.fillRect(bbox.left + left, bbox.top, right - left, bbox.height);
        ctx.globalAlpha = 0.4;
        if (right - left > 4) ctx.fillStyle = this.#hatch(ink.gap);
        ctx.fillRect(bbox.left + left, bbox.top, right - left, bbox.height);
        ctx.globalAlpha = 0.9;
        ctx.fillStyle = ink.gap;
        ctx.fillRect(bbox.left + left, bbox.top, right - left, 3 * devicePixelRatio);
      }
    }
    ctx.globalAlpha = 0.75;
    ctx.lineWidth = devicePixelRatio;
    for (const line of this.scene.lines()) {
      const x = Number(line.at - start) * scale;
      if (x < 0 || x > bbox.width) continue;
      ctx.strokeStyle = line.color;
      ctx.setLineDash(line.dashed ? [4 * devicePixelRatio, 3 * devicePixelRatio] : []);
      ctx.beginPath();
      ctx.moveTo(bbox.left + x, bbox.top);
      ctx.lineTo(bbox.left + x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  #over(): void {
    const { ctx, bbox } = this.plot;
    const window = this.scene.window();
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    this.points = 0;
    for (const one of this.#drawn) {
      const axis = this.axes.get(one.unit);
      if (!axis) continue;
      const gaps = one.shift ? one.gaps.map((g) => ({ ...g, start: g.start - one.shift, stop: g.stop - one.shift })) : one.gaps;
      const segments = segmentsOf(one.stretches, one.channel, gaps, window, bbox.width);
      for (const segment of segments) this.points += segment.x.length;
      const vertical: Vertical = { log: axis.log, low: axis.low, high: axis.high, top: bbox.top, height: bbox.height };
      const pen = { color: one.color, width: 1.4 * devicePixelRatio, steps: one.steps, dots: true };
      drawSegments(ctx, segments, bbox.left, vertical, pen);
    }
    ctx.restore();
  }
}
