/** Runs as the interface tells them, and what can be done with them. */
import { all, change, get, type Ns, type Scalar } from "./api.ts";

export interface SettingNow {
  value: string;
  unit: string;
  since_ns: Ns;
}

export interface Snapshot {
  t_ns: Ns;
  instruments: Record<string, { driver: string; identity: string; state: string; settings: Record<string, SettingNow> }>;
  left_out: number;
}

export interface Run {
  id: string;
  name: string;
  start_ns: Ns;
  stop_ns: Ns | null;
  streams: string[];
  operator: string;
  sample: string;
  notes: string;
  metadata: Record<string, Scalar>;
  declared: boolean;
  reason: string;
  started: Snapshot | null;
  ended: Snapshot | null;
  resumed_ns: Ns[];
  edited_ns: Ns | null;
  deleted: boolean;
}

export interface Hold {
  id: string;
  run: string | null;
  stream: string | null;
  start_ns: Ns | null;
  stop_ns: Ns | null;
  until_ns: Ns;
  why: string;
  by: string;
  placed_ns: Ns;
  released_ns: Ns | null;
}

export interface Note {
  id: string;
  text: string;
  t_ns: Ns;
  end_ns: Ns | null;
  streams: string[];
  run: string | null;
  by: string;
}

export interface RunWords {
  name: string;
  streams: string[];
  operator: string;
  sample: string;
  notes: string;
  metadata: Record<string, Scalar>;
}

export const running = () => all<Run>("runs", { under_way: true });
export const start = (words: RunWords) => change<Run>("POST", "runs", words);
export const declare = (words: RunWords & { start_ns: Ns; stop_ns: Ns }) => change<Run>("POST", "runs/past", words);
export const stop = (run: string) => change<Run>("POST", `runs/${run}/stop`);
export const one = (run: string) => get<Run>(`runs/${encodeURIComponent(run)}`);

/** What somebody typed as the value of a free key: a number or a truth value where it looks like one. */
export function scalarOf(text: string): Scalar {
  const clean = text.trim();
  if (clean === "true" || clean === "false") return clean === "true";
  if (/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(clean)) {
    const number = Number(clean);
    if (Number.isFinite(number) && (!/^[+-]?\d+$/.test(clean) || Number.isSafeInteger(number))) return number;
  }
  return clean;
}
