/** Numbers, times, what is typed, frames and strips: what needs no page. */
import assert from "node:assert/strict";
import { test } from "node:test";

import { parse, type Parameter, stringify } from "./api.ts";
import { ago, bytes, count, duration, eng, fromInput, inputTime, quantity, unitText, valueText } from "./format.ts";
import { decode, type Frame, type FrameChannel, timeNs, type ViewHeader } from "./frames.ts";
import { channelLink } from "./links.ts";
import { allowed, parseQuantity, valueOf } from "./quantity.ts";
import { scalarOf } from "./runs.ts";
import { Strip } from "./strip.ts";

/** With an ordinary space, as it is easier to read here. */
const plain = (text: string) => text.replace(/\u202f/g, " ");

test("numbers are in engineering notation", () => {
  const seen: [number, string, string][] = [
    [0.0123, "V", "12.300 mV"],
    [-0.0123, "V", "−12.300 mV"],
    [999.9996, "V", "1.0000 kV"],
    [1e-12, "A", "1.0000 pA"],
    [4.7e3, "Ohm", "4.7000 kΩ"],
    [23.5, "Cel", "23.500 °C"],
    [1e8, "Cel", "1·10⁸ °C"],
    [15_034_000, "1", "15.034 M"],
    [123_456, "1", "123 456"],
    [0, "V", "0 V"],
    [NaN, "V", "– V"],
    [Infinity, "Hz", "∞ Hz"],
    [1e-40, "V", "1e−10 qV"],
  ];
  for (const [value, unit, text] of seen) assert.equal(plain(eng(value, unit)), text, String(value));
  assert.equal(plain(eng(0.0002, "s", 9, true)), "200 µs");
  assert.equal(plain(valueText(50, "1", 10)), "50");
  assert.equal(valueText(true), "on");
  assert.equal(valueText([1, 2]), "2 values");
  assert.deepEqual(quantity(null, "V"), { number: "–", unit: "V" });
});

test("no number is shown as one that is a thousand times another", () => {
  for (let exponent = -20; exponent < 20; exponent += 1) {
    for (const digits of [1, 1.5, 9.99999, 5.4321]) {
      const value = digits * 10 ** exponent;
      const { number, unit } = quantity(value, "V");
      const factor = 10 ** (3 * ("qryzafpnµm kMGTPEZYRQ".indexOf(unit.length > 1 ? (unit[0] as string) : " ") - 10));
      assert.ok(Math.abs((Number(number) * factor) / value - 1) < 1e-4, `${value}: ${number} ${unit}`);
    }
  }
});

test("lengths of time and sizes are short", () => {
  assert.equal(plain(duration(0.02)), "20.0 ms");
  assert.equal(plain(duration(5)), "5.0 s");
  assert.equal(plain(duration(200)), "3 min 20 s");
  assert.equal(plain(duration(90_000)), "1 d 1 h");
  assert.equal(plain(bytes(40_145_485_824)), "40.1 GB");
  assert.equal(plain(count(1234567)), "1 234 567");
  assert.equal(ago("0"), "never");
  assert.equal(plain(ago("1000000000000", 1_090_000)), "1 min 30 s ago");
});

test("times go into fields and come back to the second", () => {
  const ns = "1764100000000000000";
  assert.equal(fromInput(inputTime(ns)), ns);
  assert.equal(fromInput("no time"), null);
});

test("units are as people write them", () => {
  assert.deepEqual(["Ohm", "Cel", "1", "m/s2", "By/s"].map(unitText), ["Ω", "°C", "", "m/s²", "B/s"]);
});

test("what is typed is understood, or refused in words", () => {
  const typed: [string, string, number][] = [["2 ms", "s", 0.002], ["2m", "s", 0.002], ["2e-3", "s", 0.002], ["2,5 kOhm", "Ohm", 2500], ["−3 V", "V", -3], ["4.7kΩ", "Ohm", 4700], ["5", "1", 5], [" .5 µs", "s", 5e-7], ["3 mm", "mm", 3]];
  for (const [text, unit, value] of typed) assert.equal(parseQuantity(text, unit), value, text);
  for (const [text, unit] of [["much", "V"], ["2 A", "V"], ["", "V"], ["1 2", "V"], ["5 x", "1"], ["NaN", "V"]] as const) assert.throws(() => parseQuantity(text, unit), Error, text);
});

test("limits refuse", () => {
  const level: Parameter = { name: "level", unit: "V", dtype: "float64", limits: [0, 10], choices: [], settable: true, resolution: 0.5, description: "", value: 1, read_ns: null };
  assert.equal(valueOf("2500 mV", level), 2.5);
  assert.throws(() => valueOf("11", level), /above the highest that is allowed, 10.V/);
  assert.throws(() => valueOf("-1 mV", level), /below the lowest/);
  assert.throws(() => valueOf("  ", level), /A number is needed/);
  assert.throws(() => valueOf("1.5", { ...level, dtype: "int64" }), /no whole number/);
  assert.equal(valueOf("POS", { ...level, dtype: "text" }), "POS");
  assert.equal(plain(allowed(level)), "0 V … 10 V, in steps of 500 mV");
});

test("times of JSON keep every nanosecond, and texts stay texts", () => {
  const said = '{"t_ns":1764100000000000001,"text":"a \\"b_ns\\":12 c","list":[{"end_ns":null,"start_ns": 7}]}';
  const heard = parse<{ t_ns: string; text: string; list: { start_ns: string; end_ns: null }[] }>(said);
  assert.equal(heard.t_ns, "1764100000000000001");
  assert.equal(heard.text, 'a "b_ns":12 c');
  assert.equal(heard.list[0]?.start_ns, "7");
  assert.equal(stringify({ start_ns: heard.t_ns, text: heard.text }), '{"start_ns":1764100000000000001,"text":"a \\"b_ns\\":12 c"}');
});

test("free keys have the type that they look like", () => {
  assert.deepEqual(["50", "4.2", "true", "1e3", "Nb 17", "12345678901234567890", "", "0x10"].map(scalarOf), [50, 4.2, true, 1000, "Nb 17", "12345678901234567890", "", "0x10"]);
});

test("links name one channel", () => {
  assert.equal(channelLink("scope/traces", "ch~1", true), "#/plots?p=spectrum!scope/traces/ch%7E1");
});

function framed(header: object, buffers: Record<string, Float64Array>): ArrayBuffer {
  const described: Record<string, object> = {};
  let offset = 0;
  for (const [name, array] of Object.entries(buffers)) {
    described[name] = { dtype: "f8", offset, shape: [array.length] };
    offset += array.byteLength;
  }
  const head = new TextEncoder().encode(JSON.stringify({ ...header, buffers: described }));
  const begin = Math.ceil((4 + head.length) / 8) * 8;
  const out = new ArrayBuffer(begin + offset);
  new DataView(out).setUint32(0, head.length, true);
  new Uint8Array(out).set(head, 4);
  let at = begin;
  for (const array of Object.values(buffers)) {
    new Float64Array(out, at, array.length).set(array);
    at += array.byteLength;
  }
  return out;
}

test("a frame is read without a copy, and what is none is refused", () => {
  const { header, buffers } = decode<{ kind: string; base_ns: string }>(framed({ kind: "view", base_ns: "1764100000000000001" }, { t0: Float64Array.of(0, 5) }));
  assert.equal(header.kind, "view");
  assert.deepEqual([...(buffers["t0"] ?? [])], [0, 5]);
  assert.equal(timeNs(header, 5), 1764100000000000006n);
  assert.throws(() => decode(new ArrayBuffer(2)), /no frame/);
  assert.throws(() => decode(Uint8Array.of(255, 255, 255, 255, 0).buffer), /no frame/);
});

const CHANNEL: FrameChannel = { name: "a", unit: "V", labels: null, shape: [], dtype: "float64" };

function view(times: number[], values: number[]): Frame<ViewHeader> {
  const all = Float64Array.from(values);
  return {
    header: { kind: "view", stream: "x/x", base_ns: "1764100000000000000", step_ns: "500000000", channels: [CHANNEL], gaps: [] },
    buffers: { t0: Float64Array.from(times.map((s) => s * 1e9)), t1: Float64Array.from(times.map((s) => s * 1e9 + 4e8)), "min:0": all, "max:0": all, "mean:0": all, "last:0": all },
    shapes: {},
  };
}

test("a strip is in order, takes a newer bucket for an older one, and does not grow", () => {
  const strip = new Strip(10_000);
  strip.add(view([1, 2], [1, 2]));
  strip.add(view([2, 3], [20, 3]));
  strip.add(view([1.5], [15]));
  assert.deepEqual(strip.channels[0]?.last, [1, 15, 20, 3]);
  for (let s = 4; s < 4000; s += 0.5) strip.add(view([s], [s]));
  assert.ok(strip.t.length < 60, String(strip.t.length));
  assert.equal(strip.channels[0]?.last.at(-1), 3999.5);
  assert.equal(strip.channels[0]?.mean.length, strip.t.length);
});
