/** What somebody types as a value: `0.002`, `2e-3`, `2 m`, `2 ms`, `2,5 mV` - and why it is not allowed, in words. */
import type { Parameter, Scalar } from "./api.ts";
import { eng, unitText } from "./format.ts";

const FACTORS: Record<string, number> = { p: 1e-12, n: 1e-9, u: 1e-6, µ: 1e-6, μ: 1e-6, m: 1e-3, k: 1e3, M: 1e6, G: 1e9, T: 1e12 };

/** A number in the unit that is given. Throws an `Error` that says what was not understood. */
export function parseQuantity(text: string, unit: string): number {
  const found = /^\s*([+\-−]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:e[+\-−]?\d+)?)\s*(.*?)\s*$/i.exec(text);
  if (!found) throw new Error(`“${text.trim()}” is no number.`);
  const number = Number((found[1] ?? "").replace(/−/g, "-").replace(",", "."));
  const suffix = (found[2] ?? "").replace(/μ/g, "µ");
  const shown = unitText(unit);
  if (!suffix || suffix === shown || suffix === unit) return number;
  for (const end of [shown, unit === "1" ? "" : unit, ""]) {
    if (!suffix.endsWith(end)) continue;
    const factor = FACTORS[suffix.slice(0, suffix.length - end.length)];
    // Through the text, so that 2 m is 0.002 and not 0.0020000000000000001.
    if (factor !== undefined) return Number((number * factor).toPrecision(15));
  }
  throw new Error(shown ? `“${suffix}” is not understood: the unit is ${shown}.` : `“${suffix}” is not understood: there is no unit.`);
}

/** The value that a text stands for. Throws an `Error` in words for what the parameter does not allow. */
export function valueOf(text: string, parameter: Parameter): Scalar {
  if (parameter.dtype === "text") return text;
  if (parameter.dtype === "bool") return text === "true";
  if (!text.trim()) throw new Error("A number is needed.");
  const value = parseQuantity(text, parameter.unit);
  if (parameter.dtype === "int64" && !Number.isSafeInteger(value)) throw new Error(`${eng(value, parameter.unit, 9, true)} is no whole number.`);
  const [least, most] = parameter.limits ?? [-Infinity, Infinity];
  if (value < least) throw new Error(`${eng(value, parameter.unit, 9, true)} is below the lowest that is allowed, ${eng(least, parameter.unit, 9, true)}.`);
  if (value > most) throw new Error(`${eng(value, parameter.unit, 9, true)} is above the highest that is allowed, ${eng(most, parameter.unit, 9, true)}.`);
  return value;
}

/** What is allowed, in a few words. */
export function allowed(parameter: Parameter): string {
  const { limits, unit, resolution } = parameter;
  const parts = [];
  if (limits) parts.push(`${eng(limits[0], unit, 6, true)} … ${eng(limits[1], unit, 6, true)}`);
  if (resolution > 0) parts.push(`in steps of ${eng(resolution, unit, 6, true)}`);
  return parts.join(", ");
}
