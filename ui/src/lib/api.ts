/**
 * What the station is asked over HTTP, and how it says no.
 *
 * Times are nanoseconds since 1970 and larger than what a number holds exactly: every field whose name ends with `_ns` is
 * text here (`Ns`), and is written as an integer again on the way out.
 */

/** UTC nanoseconds since 1970, in digits. */
export type Ns = string;

/** What the station, or the way to it, refused: `detail` is a sentence for people. */
export class Problem extends Error {
  constructor(
    readonly kind: string,
    readonly status: number,
    readonly detail: string,
    /** Under which the log tells more. */
    readonly request = "",
  ) {
    super(detail);
  }
  /** Whether nobody answered: trying again may help. */
  get offline(): boolean {
    return this.status === 0;
  }
}

/** A sentence for people, whatever was thrown. */
export function told(error: unknown): string {
  if (error instanceof Problem) return error.detail;
  return error instanceof Error ? error.message : String(error);
}

const BIG = /_ns":\s*(-?\d+)/g;

/** JSON with exact times. A text that looks like a field has its quotes escaped, so it is none. */
export function parse<T>(text: string): T {
  return JSON.parse(text.replace(BIG, '_ns":"$1"')) as T;
}

/** The other way; fields whose name ends with `_ns` become integers. */
export function stringify(content: unknown): string {
  return JSON.stringify(content).replace(/_ns":"(-?\d+)"/g, '_ns":$1');
}

const refusals = new Set<() => void>();

/** Be told when a request was refused because nobody is logged in (any more). */
export function whenLoggedOut(listener: () => void): void {
  refusals.add(listener);
}

async function problemOf(answer: Response): Promise<Problem> {
  let said: { type?: string; detail?: string; request_id?: string } = {};
  try {
    said = (await answer.json()) as typeof said;
  } catch {
    // not one of ours: a proxy in between, or an answer that broke off
  }
  const kind = (said.type ?? "").replace("urn:scidaq:", "") || "failed";
  return new Problem(kind, answer.status, said.detail ?? `the station answered ${answer.status}`, said.request_id);
}

async function ask(path: string, init: RequestInit): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(path, { ...init, credentials: "same-origin" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Problem("offline", 0, "The station does not answer.");
  }
  if (answer.ok || answer.status === 304) return answer;
  const problem = await problemOf(answer);
  if (answer.status === 401 && !path.startsWith("/api/v1/session")) refusals.forEach((listener) => listener());
  throw problem;
}

function address(path: string, query: Query = {}): string {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const asked = given.map(([name, value]) => `${name}=${encodeURIComponent(String(value))}`).join("&");
  const full = path.startsWith("/") ? path : `/api/v1/${path}`;
  return asked ? `${full}?${asked}` : full;
}

export type Query = Record<string, string | number | boolean | null | undefined>;

/** Read something below `/api/v1/` (or from `/`). Throws `Problem`; a `signal` that is aborted throws `AbortError`. */
export async function get<T>(path: string, query: Query = {}, signal?: AbortSignal): Promise<T> {
  const answer = await ask(address(path, query), { headers: { Accept: "application/json" }, signal: signal ?? null });
  return parse<T>(await answer.text());
}

/** The same as bytes: a frame, say. */
export async function getBytes(path: string, query: Query = {}, accept = "*/*", signal?: AbortSignal): Promise<ArrayBuffer> {
  const answer = await ask(address(path, query), { headers: { Accept: accept }, signal: signal ?? null });
  return answer.arrayBuffer();
}

/** All pages of a list, at most `most` items. */
export async function all<T>(path: string, query: Query = {}, most = 1000): Promise<T[]> {
  const items: T[] = [];
  let cursor: string | null | undefined;
  do {
    const page: { items: T[]; next: string | null } = await get(path, { ...query, cursor });
    items.push(...page.items);
    cursor = page.next;
  } while (cursor && items.length < most);
  return items;
}

/** Change something. Sent again once, under the same key, when the connection broke: it is made once whatever happens. */
export async function change<T = void>(
  method: "POST" | "PUT" | "PATCH" | "DELETE",
  path: string,
  content?: unknown,
  headers: Record<string, string> = {},
): Promise<T> {
  const sent: Record<string, string> = { ...headers, "Idempotency-Key": crypto.randomUUID?.() ?? randomId() };
  if (content !== undefined) sent["Content-Type"] = "application/json";
  const init: RequestInit = { method, headers: sent, body: content === undefined ? null : stringify(content) };
  let answer: Response;
  try {
    answer = await ask(address(path), init);
  } catch (error) {
    if (!(error instanceof Problem && error.offline)) throw error;
    await new Promise((resolve) => setTimeout(resolve, 400));
    answer = await ask(address(path), init);
  }
  const text = await answer.text();
  return (text ? parse(text) : undefined) as T;
}

/** `randomUUID` is there in secure contexts only, and a laboratory's network is often none. */
export function randomId(): string {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The newest row of a stream, values calibrated. */
export interface NewestRow {
  stream: string;
  t_ns: Ns;
  values: Record<string, { value: unknown; unit: string }>;
}

export interface Lease {
  holder: string;
  seconds_left: number;
}

export type InstrumentState = "connecting" | "ready" | "acquiring" | "degraded" | "failed" | "stopped";

export interface Instrument {
  id: string;
  driver: string;
  identity: string;
  state: InstrumentState;
  wanted: "disconnected" | "ready" | "acquiring";
  since_ns: Ns;
  reason: string;
  streams: string[];
  rows: number;
  errors: number;
  reconnects: number;
  last_row_ns: Ns;
  lease: Lease | null;
}

export interface Failure {
  kind: string;
  message: string;
  advice: string;
  first_ns: Ns;
  last_ns: Ns;
  count: number;
}

export type Scalar = string | number | boolean;

export interface Parameter {
  name: string;
  unit: string;
  dtype: "float64" | "int64" | "bool" | "text";
  limits: [number, number] | null;
  choices: Scalar[];
  settable: boolean;
  resolution: number;
  description: string;
  value: Scalar | null;
  read_ns: Ns | null;
}

export interface Channel {
  name: string;
  dtype: string;
  unit: string;
  shape: number[];
  labels: string[];
  description: string;
}

export interface Stream {
  id: string;
  live: boolean;
  rows: number;
  durable_rows: number;
  gap_rows: number;
  first_ns: Ns | null;
  last_ns: Ns | null;
  bytes: number;
}

export interface Epoch {
  epoch: number;
  rows: number;
  durable_rows: number;
  gap_rows: number;
  first_ns: Ns | null;
  last_ns: Ns | null;
  bytes: number;
  rate_hz: number | null;
  channels: Channel[];
}

export interface StreamDetail extends Stream {
  epochs: Epoch[];
}

export interface Status {
  name: string;
  uuid: string;
  version: string;
  started_ns: Ns;
  now_ns: Ns;
  ready: boolean;
  why_not: string;
  instruments: Record<string, InstrumentState>;
  streams: number;
  rows: number;
  durable_rows: number;
  free_bytes: number;
}

export type HealthStatus = "healthy" | "degraded" | "unhealthy";

export interface Component {
  status: HealthStatus;
  reason?: string;
  since?: string;
  critical?: boolean;
  [fact: string]: unknown;
}

export interface Health {
  status: HealthStatus;
  components: Record<string, Component>;
}

export type ScopeName = "metrics" | "read" | "operate" | "admin";

export interface Session {
  name: string;
  scopes: ScopeName[];
  via: string;
}
