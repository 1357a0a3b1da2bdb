/**
 * The one live socket of a page: views and events, whatever happens to the connection.
 *
 * A lost connection is made again by itself, at first at once, then after longer and longer pauses; every view goes on from
 * the newest bucket that it has seen, so that nothing is missing in between.
 */
import { type Ns, get, Problem } from "./api.ts";
import { decode, type Frame, timeNs, type ViewHeader } from "./frames.ts";

export type LiveState = "connecting" | "open" | "lost";

export interface ViewWanted {
  stream: string;
  /** Channels or elements (`adc.left`); null for all that can be drawn as lines. */
  channels?: string[] | null;
  kind?: "lines" | "arrays";
  step_ns?: Ns;
  fps?: number;
  since_ns?: Ns | null;
}

export interface Subscribed {
  view: string | null;
  step_ns: Ns | null;
  fps: number | null;
  channels: { name: string; unit: string; labels: string[] | null; shape: number[]; dtype: string }[] | null;
  live_from_ns: Ns | null;
}

export interface Skipped {
  frames: number;
  from_ns: Ns;
  to_ns: Ns;
}

export interface ViewListener {
  frame(frame: Frame<ViewHeader>): void;
  subscribed?(answer: Subscribed): void;
  /** The browser or the server was too slow: this stretch is to be asked for over HTTP. */
  skipped?(stretch: Skipped): void;
  error?(kind: string, detail: string): void;
}

export type EventKind = "instrument" | "gap" | "run" | "note" | "health" | "log";

/** Something that happened; what else is there depends on `event` (see `docs/reference/live.md`). */
export interface LiveEvent {
  event: EventKind;
  at_ns: Ns;
  [fact: string]: unknown;
}

export interface EventsWanted {
  events: EventKind[];
  level?: "debug" | "info" | "warning" | "error" | "critical";
  recent?: number;
}

interface Subscription {
  id: number;
  ask(resumed: boolean): Record<string, unknown>;
  listener: ViewListener | null;
  told: ((event: LiveEvent) => void) | null;
  view: string | null;
  newest: bigint | null;
}

const PAUSES_MS = [0, 300, 700, 1500, 3000, 5000];
const ALIVE_MS = 15_000;

export class Live {
  state: LiveState = "connecting";
  /** By how much the station's clock is ahead of this machine's, in milliseconds: for what is drawn up to now. */
  aheadMs = 0;
  private socket: WebSocket | null = null;
  private readonly subscriptions = new Map<number, Subscription>();
  private readonly watchers = new Set<(state: LiveState) => void>();
  private next = 1;
  private failures = 0;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private wanted = false;
  private heardMs = 0;
  private pinged = 0;

  constructor(private readonly url = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/api/v1/live`) {
    addEventListener("online", () => this.hurry());
    document.addEventListener("visibilitychange", () => {
      if (document.visibilityState === "visible") this.hurry();
    });
  }

  /** Connect, and stay connected until `close`. */
  open(): void {
    if (this.wanted) return;
    this.wanted = true;
    this.connect();
  }

  /** Let go; subscriptions stay and go on with the next `open`. */
  close(): void {
    this.wanted = false;
    clearTimeout(this.timer);
    const socket = this.socket;
    this.socket = null;
    socket?.close();
    this.become("connecting");
  }

  /** Be told of the state, now and whenever it changes; gives what ends that. */
  watch(listener: (state: LiveState) => void): () => void {
    this.watchers.add(listener);
    listener(this.state);
    return () => this.watchers.delete(listener);
  }

  /** See a stream; gives what ends it. */
  view(wanted: ViewWanted, listener: ViewListener): () => void {
    const subscription = this.add(listener, null, (resumed) => {
      const since = resumed && subscription.newest !== null ? String(subscription.newest) : (wanted.since_ns ?? null);
      return { channels: null, kind: "lines", ...wanted, since_ns: since };
    });
    return this.begin(subscription);
  }

  /** Be told of events; gives what ends it. */
  events(wanted: EventsWanted, told: (event: LiveEvent) => void): () => void {
    return this.begin(this.add(null, told, () => ({ ...wanted })));
  }

  private add(
    listener: ViewListener | null,
    told: ((event: LiveEvent) => void) | null,
    ask: (resumed: boolean) => Record<string, unknown>,
  ): Subscription {
    const subscription: Subscription = { id: this.next++, ask, listener, told, view: null, newest: null };
    this.subscriptions.set(subscription.id, subscription);
    return subscription;
  }

  private begin(subscription: Subscription): () => void {
    this.send({ op: "subscribe", id: subscription.id, ...subscription.ask(false) });
    return () => {
      if (this.subscriptions.delete(subscription.id)) this.send({ op: "unsubscribe", id: subscription.id });
    };
  }

  private send(message: Record<string, unknown>): void {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  private become(state: LiveState): void {
    if (state === this.state) return;
    this.state = state;
    this.watchers.forEach((listener) => listener(state));
  }

  private hurry(): void {
    if (!this.wanted || this.socket) return;
    this.failures = 0;
    clearTimeout(this.timer);
    this.connect();
  }

  private connect(): void {
    const socket = new WebSocket(this.url);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    let watch: ReturnType<typeof setInterval> | undefined;
    socket.onopen = () => {
      this.failures = 0;
      this.heardMs = performance.now();
      this.become("open");
      for (const one of this.subscriptions.values()) this.send({ op: "subscribe", id: one.id, ...one.ask(true) });
      this.ping();
      // A connection whose other end has gone without a word would look open for many minutes.
      watch = setInterval(() => {
        if (performance.now() - this.heardMs > ALIVE_MS) socket.close();
        else this.ping();
      }, ALIVE_MS / 3);
    };
    socket.onmessage = (message: MessageEvent<string | ArrayBuffer>) => {
      this.heardMs = performance.now();
      if (typeof message.data === "string") this.hear(JSON.parse(message.data) as Record<string, unknown>);
      else this.see(message.data);
    };
    socket.onclose = () => {
      clearInterval(watch);
      if (this.socket !== socket) return;
      this.socket = null;
      if (!this.wanted) return;
      this.become("lost");
      for (const one of this.subscriptions.values()) one.view = null;
      const pause = PAUSES_MS[Math.min(this.failures, PAUSES_MS.length - 1)] ?? 0;
      this.failures += 1;
      // A browser does not tell why a handshake was refused: an answer to an ordinary request does (and shows the login).
      if (this.failures > 1) void get("status").catch((error: unknown) => error instanceof Problem);
      this.timer = setTimeout(() => this.wanted && this.connect(), pause);
    };
  }

  private ping(): void {
    this.pinged = Date.now();
    this.send({ op: "ping" });
  }

  private hear(said: Record<string, unknown>): void {
    if (said["op"] === "pong") {
      const now = Date.now();
      this.aheadMs = Number(BigInt(said["now_ns"] as string) / 1_000_000n) - (this.pinged + now) / 2;
      return;
    }
    const one = this.subscriptions.get(said["id"] as number);
    if (!one) return;
    if (said["op"] === "subscribed") {
      one.view = (said["view"] as string | null) ?? null;
      one.listener?.subscribed?.(said as unknown as Subscribed);
    } else if (said["op"] === "event") one.told?.(said as unknown as LiveEvent);
    else if (said["op"] === "skipped") one.listener?.skipped?.(said as unknown as Skipped);
    else if (said["op"] === "error") one.listener?.error?.(said["kind"] as string, said["detail"] as string);
  }

  private see(message: ArrayBuffer): void {
    const frame = decode<ViewHeader & { id?: number }>(message);
    for (const one of this.subscriptions.values()) {
      if (!one.listener || (frame.header.id !== undefined ? frame.header.id !== one.id : one.view !== frame.header.view)) continue;
      const times = frame.buffers["t0"];
      if (times?.length) {
        const newest = timeNs(frame.header, times[times.length - 1] ?? 0);
        if (one.newest === null || newest > one.newest) one.newest = newest;
      }
      one.listener.frame(frame);
    }
  }
}

/** The page's one. */
export const live = new Live();
