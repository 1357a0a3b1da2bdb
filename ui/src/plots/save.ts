/** What is seen, as files: the rows as CSV, the picture as PNG. */

import { isoText } from "./axes.ts";

/** Rows that are written at most; for more there is the export of the station. */
export const MOST_CSV_ROWS = 2_000_000;

export interface TextPage {
  text: string;
  /** Where it goes on, or null. */
  next: string | null;
}

export function nextOf(link: string | null): string | null {
  const match = /<([^>]*)>;\s*rel="?next"?/.exec(link ?? "");
  return match?.[1] ?? null;
}

/** All rows of a range as the station writes them: its pages one behind the other, with one header. */
export async function csvOf(
  get: (path: string) => Promise<TextPage>,
  stream: string,
  channels: readonly string[],
  start: bigint,
  stop: bigint,
): Promise<{ parts: string[]; rows: number; whole: boolean }> {
  const query = new URLSearchParams({
    start: String(start),
    stop: String(stop),
    channels: channels.join(","),
    format: "csv",
  });
  let path: string | null = `/api/v1/streams/${stream}/data?${query.toString()}`;
  const parts: string[] = [];
  let header = "";
  let rows = 0;
  while (path) {
    const page: TextPage = await get(path);
    const end = page.text.indexOf("\n") + 1;
    const own = page.text.slice(0, end);
    // A page with other channels than the one before says which.
    if (own !== header) parts.push(own);
    header = own;
    const body = page.text.slice(end);
    if (body) parts.push(body);
    for (let i = body.indexOf("\n"); i >= 0; i = body.indexOf("\n", i + 1)) rows++;
    path = page.next;
    if (rows >= MOST_CSV_ROWS) return { parts, rows, whole: path === null };
  }
  return { parts, rows, whole: true };
}

export function fileName(what: string, start: bigint, kind: string): string {
  const moment = isoText(start).slice(0, 19).replaceAll(":", "").replace("T", "_");
  return `${what.replace(/[^A-Za-z0-9_-]+/g, "_")}_${moment}.${kind}`;
}

/** Gives a file to the browser's downloads. */
export function download(name: string, parts: BlobPart[], type: string): void {
  const url = URL.createObjectURL(new Blob(parts, { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

export interface Picture {
  canvas: HTMLCanvasElement;
  /** Name and colour of each trace. */
  names: { text: string; color: string }[];
}

/** The panes below each other, with their names and a line about what it is. */
export function picture(
  panes: readonly Picture[],
  title: string,
  ink: { text: string; dim: string; surface: string },
): HTMLCanvasElement {
  const ratio = devicePixelRatio;
  const [head, name] = [34 * ratio, 24 * ratio];
  const out = document.createElement("canvas");
  out.width = Math.max(1, ...panes.map((pane) => pane.canvas.width));
  out.height = head + panes.reduce((sum, pane) => sum + pane.canvas.height + name, 0);
  const context = out.getContext("2d") as CanvasRenderingContext2D;
  context.fillStyle = ink.surface;
  context.fillRect(0, 0, out.width, out.height);
  context.textBaseline = "middle";
  context.font = `${12 * ratio}px ui-sans-serif, system-ui, sans-serif`;
  context.fillStyle = ink.dim;
  context.fillText(title, 16 * ratio, head / 2);
  let top = head;
  for (const pane of panes) {
    let left = 16 * ratio;
    for (const { text, color } of pane.names) {
      context.fillStyle = color;
      context.fillRect(left, top + name / 2 - 1.5 * ratio, 14 * ratio, 3 * ratio);
      context.fillStyle = ink.text;
      context.fillText(text, left + 20 * ratio, top + name / 2);
      left += 36 * ratio + context.measureText(text).width;
    }
    context.drawImage(pane.canvas, 0, top + name);
    top += name + pane.canvas.height;
  }
  return out;
}
