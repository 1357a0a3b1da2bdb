/**
 * What to fetch for a window, and what to draw until it is there. Time is cut into tiles: at level L a pixel is 2^L
 * nanoseconds and a tile 1,024 of them, so that each tile is two of the level below and moving about asks for little anew.
 */

export const TILE_BITS = 10;
export const MOST_LEVEL = 52;

export interface TileKey {
  level: number;
  index: number;
}

/** A stretch to be drawn from a tile. */
export interface Part<T> {
  value: T;
  start: bigint;
  stop: bigint;
  /** Whether it is as fine as it has to be. */
  fine: boolean;
}

/** The level of a window of `span` nanoseconds that is `pixels` wide: at least one bucket for each pixel. */
export function levelFor(span: number, pixels: number): number {
  const level = Math.floor(Math.log2(Math.max(1, span) / Math.max(1, pixels)));
  return Math.min(MOST_LEVEL, Math.max(0, level));
}

export function tileStart(tile: TileKey): bigint {
  return BigInt(tile.index) << BigInt(tile.level + TILE_BITS);
}

export function tileStop(tile: TileKey): bigint {
  return BigInt(tile.index + 1) << BigInt(tile.level + TILE_BITS);
}

/** The tiles of a level that have a part of the range. */
export function tilesOf(level: number, start: bigint, stop: bigint): TileKey[] {
  const shift = BigInt(level + TILE_BITS);
  if (stop <= start) return [];
  const last = Number((stop - 1n) >> shift);
  const out: TileKey[] = [];
  for (let index = Number(start >> shift); index <= last; index++) out.push({ level, index });
  return out;
}

/** Tiles, the least recently used let go where they take more than `most` bytes. */
export class TileCache<T> {
  #tiles = new Map<string, { value: T; bytes: number }>();
  bytes = 0;

  constructor(readonly most: number) {}

  get size(): number {
    return this.#tiles.size;
  }

  get(level: number, index: number): T | undefined {
    const key = `${level}/${index}`;
    const tile = this.#tiles.get(key);
    if (!tile) return undefined;
    this.#tiles.delete(key);
    this.#tiles.set(key, tile);
    return tile.value;
  }

  put(level: number, index: number, value: T, bytes: number): void {
    const key = `${level}/${index}`;
    this.bytes += bytes - (this.#tiles.get(key)?.bytes ?? 0);
    this.#tiles.delete(key);
    this.#tiles.set(key, { value, bytes });
    for (const [old, tile] of this.#tiles) {
      if (this.bytes <= this.most || old === key) break;
      this.#tiles.delete(old);
      this.bytes -= tile.bytes;
    }
  }

  clear(): void {
    this.#tiles.clear();
    this.bytes = 0;
  }
}

export interface Cover<T> {
  parts: Part<T>[];
  /** What has to be fetched, from the middle of the range outwards. */
  missing: TileKey[];
}

const COARSER = 12;
const FINER = 4;

/**
 * Draws a range from the tiles that are there: the level that is asked for, else a coarser one (stretched), else finer
 * ones. `whole` says of a tile whether it has every row, so that nothing finer can be known.
 */
export function cover<T>(
  cache: TileCache<T>,
  level: number,
  start: bigint,
  stop: bigint,
  whole: (value: T) => boolean,
): Cover<T> {
  const parts: Part<T>[] = [];
  const missing: TileKey[] = [];
  for (const tile of tilesOf(level, start, stop)) {
    const found = drawTile(cache, tile, whole, true);
    parts.push(...found);
    if (!found.length || found.some((part) => !part.fine)) missing.push(tile);
  }
  const middle = (start + stop) / 2n;
  const away = (tile: TileKey): bigint => {
    const centre = (tileStart(tile) + tileStop(tile)) / 2n - middle;
    return centre < 0n ? -centre : centre;
  };
  missing.sort((a, b) => (away(a) < away(b) ? -1 : 1));
  return { parts: clip(parts, start, stop), missing };
}

function drawTile<T>(cache: TileCache<T>, tile: TileKey, whole: (value: T) => boolean, up: boolean): Part<T>[] {
  const [start, stop] = [tileStart(tile), tileStop(tile)];
  const own = cache.get(tile.level, tile.index);
  if (own !== undefined) return [{ value: own, start, stop, fine: true }];
  const halves = [2 * tile.index, 2 * tile.index + 1].map((index) => cache.get(tile.level - 1, index));
  if (halves[0] !== undefined && halves[1] !== undefined) {
    const middle = (start + stop) / 2n;
    return [
      { value: halves[0], start, stop: middle, fine: true },
      { value: halves[1], start: middle, stop, fine: true },
    ];
  }
  for (let rise = 1; up && rise <= COARSER && tile.level + rise <= MOST_LEVEL; rise++) {
    const value = cache.get(tile.level + rise, Math.floor(tile.index / 2 ** rise));
    if (value !== undefined) return [{ value, start, stop, fine: whole(value) }];
  }
  return finer(cache, tile, FINER);
}

function finer<T>(cache: TileCache<T>, tile: TileKey, depth: number): Part<T>[] {
  if (depth === 0 || tile.level === 0) return [];
  return [2 * tile.index, 2 * tile.index + 1].flatMap((index) => {
    const half = { level: tile.level - 1, index };
    const value = cache.get(half.level, half.index);
    if (value === undefined) return finer(cache, half, depth - 1);
    return [{ value, start: tileStart(half), stop: tileStop(half), fine: false }];
  });
}

function clip<T>(parts: Part<T>[], start: bigint, stop: bigint): Part<T>[] {
  const out: Part<T>[] = [];
  for (const part of parts) {
    const from = part.start < start ? start : part.start;
    const to = part.stop > stop ? stop : part.stop;
    const before = out.at(-1);
    // A coarse tile that serves several fine ones is one stretch.
    if (before && before.value === part.value && before.stop === from) before.stop = to;
    else if (from < to) out.push({ ...part, start: from, stop: to });
  }
  return out;
}
