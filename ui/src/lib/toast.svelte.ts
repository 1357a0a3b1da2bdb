/** Short words about what was just done, said to screen readers too; what went wrong stays until it is dismissed. */
import { told } from "./api.ts";

export interface Toast {
  id: number;
  text: string;
  bad: boolean;
}

class Toasts {
  shown = $state<Toast[]>([]);
  private next = 1;

  say(text: string, bad = false): void {
    const id = this.next++;
    this.shown = [...this.shown.slice(-2), { id, text, bad }];
    if (!bad) setTimeout(() => this.dismiss(id), 4000);
  }

  fail(error: unknown): void {
    this.say(told(error), true);
  }

  dismiss(id: number): void {
    this.shown = this.shown.filter((one) => one.id !== id);
  }
}

export const toasts = new Toasts();
