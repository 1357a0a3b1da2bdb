/** How the plots reach the station: views over HTTP, live frames and events over the page's one socket. */

import { change, get, getBytes } from "../lib/api.ts";
import { decode, MEDIA_TYPE, type ViewHeader as FrameHeader } from "../lib/frames.ts";
import { live, type EventKind } from "../lib/live.ts";
import { columnsOf, type Columns } from "./columns.ts";
import { viewPath, type Station } from "./scope.svelte.ts";
import type { Listener } from "./source.ts";

const FPS = 30;

/** Time of the station, by the clock of this machine and what is known of their difference. */
function now(): bigint {
  return BigInt(Math.round(Date.now() + live.aheadMs)) * 1_000_000n;
}

export const station: Station = {
  now,
  get: (path) => get<unknown>(path),
  post: (path, body) => change("POST", path, body),
  remove: (path) => change("DELETE", path),
  async frame(path, signal) {
    const { header, buffers } = decode<FrameHeader>(await getBytes(path, {}, MEDIA_TYPE, signal));
    return { header, buffers };
  },
  async view(stream, channels, start, stop, width, signal): Promise<Columns> {
    const { header, buffers } = await station.frame(viewPath(stream, channels, start, stop, { width }), signal);
    return columnsOf(header, buffers);
  },
  subscribe(stream, channels, step, since, listener: Listener) {
    return live.view(
      { stream, channels: [...channels], step_ns: String(step), since_ns: String(since), fps: FPS },
      {
        frame: ({ header, buffers }) => listener.frame(columnsOf(header, buffers)),
        skipped: ({ from_ns, to_ns }) => listener.skipped(BigInt(from_ns), BigInt(to_ns) + 1n),
        error: (_kind, detail) => listener.failed(detail),
      },
    );
  },
  events: (kinds, recent, listener) =>
    live.events({ events: kinds as EventKind[], ...(recent ? { recent } : {}) }, listener),
};
