/** Frames: a JSON header and arrays, which share the memory of the message. The twin of `scidaq.web.frames`. */

export const MEDIA_TYPE = "application/vnd.scidaq.frame";

const KINDS = { f4: Float32Array, f8: Float64Array, i4: Int32Array, u1: Uint8Array, u4: Uint32Array } as const;

export type Numbers = Float32Array | Float64Array | Int32Array | Uint8Array | Uint32Array;

interface Described {
  dtype: keyof typeof KINDS;
  offset: number;
  shape: number[];
}

export interface Frame<Header = Record<string, unknown>> {
  header: Header;
  buffers: Record<string, Numbers>;
  shapes: Record<string, number[]>;
}

export interface FrameChannel {
  name: string;
  unit: string;
  labels: string[] | null;
  shape: number[];
  dtype: string;
}

export interface FrameGap {
  start_ns: string | null;
  stop_ns: string | null;
  rows: number | null;
  reason: string;
  open: boolean;
}

/** What the header of a view says (`docs/reference/live.md`). */
export interface ViewHeader {
  kind: "view";
  view?: string;
  seq?: number;
  history?: boolean;
  stream: string;
  base_ns: string;
  start_ns?: string;
  stop_ns?: string;
  step_ns: string | null;
  exact?: boolean;
  raw?: boolean;
  channels: FrameChannel[];
  gaps: FrameGap[];
}

/** Throws an `Error` for what is no frame. */
export function decode<Header = Record<string, unknown>>(message: ArrayBuffer): Frame<Header> {
  const size = message.byteLength < 4 ? Infinity : new DataView(message).getUint32(0, true);
  if (size > message.byteLength - 4) throw new Error(`${message.byteLength} bytes are no frame`);
  const { buffers: described, ...header } = JSON.parse(new TextDecoder().decode(new Uint8Array(message, 4, size))) as Record<string, unknown> & {
    buffers: Record<string, Described>;
  };
  const begin = Math.ceil((4 + size) / 8) * 8;
  const buffers: Record<string, Numbers> = {};
  const shapes: Record<string, number[]> = {};
  for (const [name, { dtype, offset, shape }] of Object.entries(described)) {
    const count = shape.reduce((product, length) => product * length, 1);
    buffers[name] = count ? new KINDS[dtype](message, begin + offset, count) : new KINDS[dtype](0);
    shapes[name] = shape;
  }
  return { header: header as Header, buffers, shapes };
}

/** UTC nanoseconds of bucket `i`, exact: `t0[i]` counts from the header's `base_ns`. */
export function timeNs(header: Pick<ViewHeader, "base_ns">, offset: number): bigint {
  return BigInt(header.base_ns) + BigInt(Math.round(offset));
}
