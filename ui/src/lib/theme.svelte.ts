/** Light or dark: what the system says, until somebody says otherwise. */

export type Choice = "system" | "light" | "dark";

const KEY = "scidaq.theme";
const system = matchMedia("(prefers-color-scheme: dark)");

function stored(): Choice {
  try {
    const said = localStorage.getItem(KEY);
    return said === "light" || said === "dark" ? said : "system";
  } catch {
    return "system"; // storage may be forbidden
  }
}

class Theme {
  choice = $state<Choice>(stored());
  private systemDark = $state(system.matches);
  /** What is shown; canvases draw anew when it changes. */
  readonly shown = $derived<"light" | "dark">(this.choice === "system" ? (this.systemDark ? "dark" : "light") : this.choice);

  start(): void {
    system.addEventListener("change", (event) => {
      this.systemDark = event.matches;
      this.apply();
    });
    this.apply();
  }

  choose(choice: Choice): void {
    this.choice = choice;
    try {
      localStorage.setItem(KEY, choice);
    } catch {
      // it holds for this page only
    }
    this.apply();
  }

  private apply(): void {
    document.documentElement.dataset["theme"] = this.shown;
  }
}

export const theme = new Theme();

/** The value of a token, for canvases. */
export function token(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}
