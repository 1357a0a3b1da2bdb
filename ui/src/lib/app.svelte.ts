/** What every page knows: who is logged in, how the socket is, which page is shown, and the time. */
import { untrack } from "svelte";

import { change, get, type Health, Problem, type ScopeName, type Session, type Status, told, whenLoggedOut } from "./api.ts";
import { live, type LiveState } from "./live.ts";

/** Where the link points: `#/runs/abc?x=1` is path `["runs", "abc"]` and query `x=1`. */
export interface Route {
  path: string[];
  query: URLSearchParams;
}

function routeOf(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?");
  return { path: path.split("/").filter(Boolean).map(decodeURIComponent), query: new URLSearchParams(query) };
}

class App {
  session = $state.raw<Session | null>(null);
  /** Whether it is known yet who asks. */
  asked = $state(false);
  link = $state<LiveState>("connecting");
  route = $state.raw<Route>(routeOf(location.hash));
  status = $state.raw<Status | null>(null);
  health = $state.raw<Health | null>(null);
  /** The station's time, once a second, in milliseconds. */
  nowMs = $state(Date.now());
  /** Why the station could not be asked; empty while it answers. */
  unreachable = $state("");

  may(scope: ScopeName): boolean {
    return this.session?.scopes.includes(scope) ?? false;
  }

  /** Whether changes are offered. */
  get operates(): boolean {
    return this.may("operate");
  }

  start(): void {
    addEventListener("hashchange", () => (this.route = routeOf(location.hash)));
    setInterval(() => (this.nowMs = Date.now() + live.aheadMs), 1000);
    live.watch((state) => {
      const back = state === "open" && this.link === "lost";
      this.link = state;
      if (back) void this.refresh();
    });
    whenLoggedOut(() => this.enter(null));
    // A one-time link is `/login#token`: it must not stay in the history.
    const token = location.pathname === "/login" ? location.hash.slice(1) : "";
    if (location.pathname !== "/") {
      history.replaceState(null, "", "/#/");
      this.route = routeOf(location.hash);
    }
    void (/^[\w-]{20,}$/.test(token) ? this.follow(token) : this.identify());
  }

  /** Why a one-time link did not log in; empty where none was followed. */
  linkFault = $state("");

  private async follow(link: string): Promise<void> {
    try {
      this.enter(await change<Session>("POST", "session", { link }));
    } catch (error) {
      this.linkFault = told(error);
      await this.identify();
    }
  }

  /** Ask who is logged in, and go on asking while nobody answers. */
  async identify(): Promise<void> {
    try {
      this.enter(await get<Session>("session"));
    } catch (error) {
      if (error instanceof Problem && error.offline) {
        this.unreachable = error.detail;
        setTimeout(() => void this.identify(), 2000);
        return;
      }
      this.enter(null);
    }
    this.unreachable = "";
  }

  /** Somebody is logged in, or nobody any more. */
  enter(session: Session | null): void {
    this.session = session;
    this.asked = true;
    if (session) {
      live.open();
      void this.refresh();
    } else live.close();
  }

  private refreshing = false;

  /** How the station is; asked by the shell every few seconds, and by pages after a change. */
  async refresh(): Promise<void> {
    if (!this.session || this.refreshing) return;
    this.refreshing = true;
    try {
      const [status, health] = await Promise.all([get<Status>("status"), healthNow()]);
      this.status = status;
      this.health = health;
      this.unreachable = "";
    } catch (error) {
      if (error instanceof Problem && error.offline) this.unreachable = error.detail;
    } finally {
      this.refreshing = false;
    }
  }
}

/** The health report, which comes with status 503 when something critical is unhealthy. */
async function healthNow(): Promise<Health> {
  const answer = await fetch("/health", { credentials: "same-origin" });
  if (answer.status !== 200 && answer.status !== 503) throw new Problem("failed", answer.status, "health is not told");
  return (await answer.json()) as Health;
}

export const app = new App();

/** Go to a page. */
export function go(hash: string): void {
  location.hash = hash;
}

/** Say `work` again every `everyMs` while the page is seen, and at once when it is seen again; gives what ends it. */
export function repeat(everyMs: number, work: () => unknown): () => void {
  const run = () => document.visibilityState === "visible" && app.session && void work();
  const timer = setInterval(run, everyMs);
  document.addEventListener("visibilitychange", run);
  untrack(() => void work()); // what it reads is no reason to begin anew
  return () => {
    clearInterval(timer);
    document.removeEventListener("visibilitychange", run);
  };
}
