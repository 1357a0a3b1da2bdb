/** How fast the station records, seen from one look to the next, and how long the disk lasts if it goes on so. */
import { get, type Ns } from "./api.ts";

interface Stats {
  now_ns: Ns;
  started_ns: Ns;
  free_bytes: number;
  recorder: {
    streams: { rows: number }[];
    writing: { written_bytes: number; last_sync_s: number };
    space: { low_bytes: number };
  };
}

interface Look {
  s: number;
  rows: number;
  bytes: number;
}

const WINDOW_S = 30;

export class Pace {
  rowsPerS = $state<number | null>(null);
  bytesPerS = $state<number | null>(null);
  syncS = $state<number | null>(null);
  daysLeft = $state<number | null>(null);
  private looks: Look[] = [];

  async look(): Promise<void> {
    let stats: Stats;
    try {
      stats = await get<Stats>("stats");
    } catch {
      return; // the shell says that nobody answers
    }
    const { streams, writing, space } = stats.recorder;
    const now: Look = { s: Number(BigInt(stats.now_ns) / 1000n) / 1e6, rows: streams.reduce((sum, one) => sum + one.rows, 0), bytes: writing.written_bytes };
    const last = this.looks[this.looks.length - 1];
    if (last && (now.bytes < last.bytes || now.s <= last.s)) this.looks = []; // the station was started anew
    this.looks = [...this.looks.filter((one) => one.s > now.s - WINDOW_S), now];
    const first = this.looks[0] ?? now;
    const upS = now.s - Number(BigInt(stats.started_ns) / 1000n) / 1e6;
    if (now.s > first.s) {
      this.rowsPerS = Math.max(0, now.rows - first.rows) / (now.s - first.s);
      this.bytesPerS = (now.bytes - first.bytes) / (now.s - first.s);
    }
    this.syncS = writing.last_sync_s;
    // Over all of its life: what goes through the journal comes in waves. Nothing is claimed before a minute.
    const pace = upS > 60 ? now.bytes / upS : (this.bytesPerS ?? 0);
    this.daysLeft = pace > 0 ? Math.max(0, stats.free_bytes - space.low_bytes) / pace / 86400 : null;
  }
}
