/** Links into the plots, as `plots/link.ts` reads them. */
import type { Ns } from "./api.ts";

const part = (text: string) => encodeURIComponent(text).replace(/[~!]/g, (mark) => (mark === "~" ? "%7E" : "%21"));

/** To one channel: its newest minute, or, of an array, its newest row. */
export function channelLink(stream: string, channel: string, array = false): string {
  return `#/plots?p=${array ? "spectrum!" : ""}${stream.split("/").map(part).join("/")}/${part(channel)}`;
}

/** To a stretch of time. */
export function rangeLink(start: Ns, stop: Ns): string {
  return `#/plots?from=${start}&to=${stop}`;
}
