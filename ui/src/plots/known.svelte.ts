/** What can be plotted: the streams of the station with their channels, elements of small arrays one by one. */

import { SvelteMap } from "svelte/reactivity";

import type { PaneKind } from "./link.ts";

export interface Plottable {
  /** As a view calls it: `name`, or `name.label` and `name[3]` for an element. */
  name: string;
  /** Of the channel that it is a part of. */
  of: string;
  unit: string;
  dtype: string;
  description: string;
  /** As what it is drawn. */
  kind: PaneKind;
}

export interface KnownStream {
  id: string;
  live: boolean;
  rows: number;
  first: bigint | null;
  last: bigint | null;
  rate: number | null;
  /** Null before it was asked. */
  channels: Plottable[] | null;
}

interface ChannelJson {
  name: string;
  dtype: string;
  unit: string;
  shape: number[];
  labels: string[];
  description: string;
}

export interface StreamJson {
  id: string;
  live: boolean;
  rows: number;
  first_ns: string | number | null;
  last_ns: string | number | null;
  epochs?: { rate_hz: number | null; channels: ChannelJson[] }[];
}

/** Elements up to so many are offered one by one; more are a spectrum. */
const MOST_ELEMENTS = 32;

export function plottableOf(channel: ChannelJson): Plottable[] {
  const { name, unit, dtype, shape, labels, description } = channel;
  if (dtype === "text") return [];
  const one = { of: name, unit, dtype, description };
  if (shape.length === 0) return [{ ...one, name, kind: "trace" }];
  if (shape.length === 2) return [{ ...one, name, kind: "image" }];
  if (shape.length !== 1) return [];
  const count = shape[0] as number;
  if (labels.length) return labels.map((label) => ({ ...one, name: `${name}.${label}`, kind: "trace" }));
  if (count <= MOST_ELEMENTS)
    return Array.from({ length: count }, (_, i) => ({ ...one, name: `${name}[${i}]`, kind: "trace" }));
  return [{ ...one, name, kind: "waterfall" }];
}

const ns = (value: string | number | null): bigint | null => (value === null ? null : BigInt(value));

export function knownOf(json: StreamJson): KnownStream {
  const newest = [...(json.epochs ?? [])].reverse().find((epoch) => epoch.channels.length > 0);
  return {
    id: json.id,
    live: json.live,
    rows: json.rows,
    first: ns(json.first_ns),
    last: ns(json.last_ns),
    rate: newest?.rate_hz ?? null,
    channels: json.epochs ? (newest?.channels ?? []).flatMap(plottableOf) : null,
  };
}

/** Streams by id, as far as they were asked for. */
export class Known {
  readonly streams = new SvelteMap<string, KnownStream>();
  listed = $state(false);
  error = $state("");

  constructor(private readonly get: (path: string) => Promise<unknown>) {}

  /** Asks what is recorded, and of few streams at once which channels they have. */
  async list(): Promise<void> {
    try {
      let cursor: string | null = "";
      do {
        const page = (await this.get(`/api/v1/streams?limit=1000${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ""}`)) as {
          items: StreamJson[];
          next: string | null;
        };
        for (const item of page.items) {
          const before = this.streams.get(item.id);
          this.streams.set(item.id, { ...knownOf(item), channels: before?.channels ?? null, rate: before?.rate ?? null });
        }
        cursor = page.next;
      } while (cursor);
      this.error = "";
      this.listed = true;
      const unknown = [...this.streams.values()].filter((one) => one.channels === null).slice(0, 60);
      await Promise.all(unknown.map((one) => this.detail(one.id)));
    } catch (error) {
      this.error = error instanceof Error ? error.message : String(error);
    }
  }

  /** Asks for one stream. Gives null where there is none. */
  async detail(id: string): Promise<KnownStream | null> {
    try {
      const known = knownOf((await this.get(`/api/v1/streams/${id}`)) as StreamJson);
      this.streams.set(id, known);
      return known;
    } catch {
      return null;
    }
  }

  find(stream: string, name: string): Plottable | undefined {
    return this.streams.get(stream)?.channels?.find((one) => one.name === name);
  }
}
