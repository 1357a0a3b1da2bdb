/** The newest minute of a stream, for small pictures and last values: a few hundred buckets, whatever the rate. */
import type { Frame, FrameChannel, ViewHeader } from "./frames.ts";
import { timeNs } from "./frames.ts";

export interface StripChannel {
  name: string;
  unit: string;
  min: number[];
  max: number[];
  last: number[];
  mean: number[];
}

export class Strip {
  /** Time of the first row of each bucket, in milliseconds since 1970, ascending. */
  t: number[] = [];
  /** Time of its last row. */
  end: number[] = [];
  channels: StripChannel[] = [];
  gaps: { from: number; to: number }[] = [];
  /** Length of a bucket in milliseconds; 0 while unknown. */
  stepMs = 0;

  constructor(readonly lengthMs = 60_000) {}

  /** Take what changed. */
  add({ header, buffers }: Frame<ViewHeader>): void {
    this.shape(header.channels);
    if (header.step_ns) this.stepMs = Math.max(this.stepMs, Number(header.step_ns) / 1e6);
    const t0 = buffers["t0"] ?? [];
    const t1 = buffers["t1"] ?? t0;
    for (let row = 0; row < t0.length; row++) {
      const at = this.place(Number(timeNs(header, t0[row] ?? 0) / 1000n) / 1000);
      this.end[at] = Number(timeNs(header, t1[row] ?? 0) / 1000n) / 1000;
      this.channels.forEach((channel, i) => {
        const last = buffers[`last:${i}`]?.[row] ?? NaN;
        channel.last[at] = last;
        channel.min[at] = buffers[`min:${i}`]?.[row] ?? last;
        channel.max[at] = buffers[`max:${i}`]?.[row] ?? last;
        channel.mean[at] = buffers[`mean:${i}`]?.[row] ?? last;
      });
    }
    for (const gap of header.gaps) {
      if (gap.start_ns && gap.stop_ns) this.gaps.push({ from: Number(BigInt(gap.start_ns) / 1_000_000n), to: Number(BigInt(gap.stop_ns) / 1_000_000n) });
    }
    this.trim();
  }

  /** Index of the bucket that begins then: the one that is there, or a new one. */
  private place(time: number): number {
    let at = this.t.length;
    while (at > 0 && (this.t[at - 1] ?? 0) > time + 0.0005) at--;
    if (at > 0 && Math.abs((this.t[at - 1] ?? 0) - time) <= 0.0005) return at - 1;
    this.t.splice(at, 0, time);
    this.end.splice(at, 0, time);
    for (const channel of this.channels) {
      channel.min.splice(at, 0, NaN);
      channel.max.splice(at, 0, NaN);
      channel.last.splice(at, 0, NaN);
      channel.mean.splice(at, 0, NaN);
    }
    return at;
  }

  private shape(channels: FrameChannel[]): void {
    if (channels.length === this.channels.length && channels.every((one, i) => one.name === this.channels[i]?.name)) return;
    this.t = [];
    this.end = [];
    this.channels = channels.map(({ name, unit }) => ({ name, unit, min: [], max: [], last: [], mean: [] }));
  }

  private trim(): void {
    const newest = this.t[this.t.length - 1] ?? 0;
    let old = 0;
    while ((this.t[old] ?? Infinity) < newest - this.lengthMs - 2000) old++;
    if (old > 16) {
      this.t.splice(0, old);
      this.end.splice(0, old);
      for (const channel of this.channels) {
        channel.min.splice(0, old);
        channel.max.splice(0, old);
        channel.last.splice(0, old);
        channel.mean.splice(0, old);
      }
    }
    this.gaps = this.gaps.filter((gap) => gap.to > newest - this.lengthMs).slice(-50);
  }
}
