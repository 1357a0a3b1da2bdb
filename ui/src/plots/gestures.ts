/** What hands do to a plot: wheel, drag, and one or two fingers, told as parts of the window. */

export interface Moves {
  /** Where the window lies on the screen. */
  area(): DOMRect;
  /** Makes the window longer by a factor, what is at `at` (a part of it) staying where it is. */
  zoom(factor: number, at: number): void;
  /** Moves the window by a part of its length. */
  pan(by: number): void;
  /** The same for the axis at a horizontal place left or right of the window; `at` is a part of its height from below. */
  zoomY(factor: number, at: number, x: number): void;
  panY(by: number, x: number): void;
  resetY(x: number): void;
  /** A click or a tap that moved nothing. */
  click(at: number, x: number, y: number): void;
}

const CLICK_PX = 4;

/** Listens on an element, until what it gives is called. */
export function gestures(root: HTMLElement, moves: Moves): () => void {
  const ends = new AbortController();
  const { signal } = ends;
  const fingers = new Map<number, { x: number; y: number }>();
  let down: { x: number; y: number; beside: boolean; pan: boolean; time: number } | null = null;

  const part = (x: number): number => {
    const area = moves.area();
    return (x - area.left) / area.width;
  };
  const below = (y: number): number => {
    const area = moves.area();
    return 1 - (y - area.top) / area.height;
  };
  const beside = (x: number): boolean => part(x) < 0 || part(x) > 1;
  const under = (y: number): boolean => below(y) < 0;

  root.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const scale = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 200 : 1;
      const [dx, dy] = [event.deltaX * scale, event.deltaY * scale];
      if (beside(event.clientX)) return moves.zoomY(Math.exp(dy * 0.0015), below(event.clientY), event.clientX);
      if (event.shiftKey || Math.abs(dx) > Math.abs(dy)) moves.pan((dx || dy) * 0.0012);
      else moves.zoom(Math.exp(Math.max(-400, Math.min(400, dy)) * 0.0018), part(event.clientX));
    },
    { passive: false, signal },
  );

  root.addEventListener(
    "pointerdown",
    (event) => {
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      const side = beside(event.clientX);
      const pan =
        event.pointerType === "touch" || event.shiftKey || event.button === 1 || side || under(event.clientY);
      if (event.button > 1) return;
      down = { x: event.clientX, y: event.clientY, beside: side, pan, time: event.timeStamp };
      if (pan && event.pointerType !== "touch") {
        event.preventDefault();
        root.setPointerCapture(event.pointerId);
      }
    },
    { signal },
  );
  root.addEventListener(
    "pointermove",
    (event) => {
      const before = fingers.get(event.pointerId);
      if (!before) return;
      const others = [...fingers].filter(([id]) => id !== event.pointerId);
      const area = moves.area();
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      const other = others[0]?.[1];
      if (other) {
        const [was, is] = [Math.abs(before.x - other.x), Math.abs(event.clientX - other.x)];
        if (was > 8 && is > 8) moves.zoom(was / is, part((event.clientX + other.x) / 2));
        moves.pan((before.x - event.clientX) / 2 / area.width);
        down = null;
      } else if (down?.pan) {
        if (down.beside) moves.panY((event.clientY - before.y) / area.height, event.clientX);
        else moves.pan((before.x - event.clientX) / area.width);
      }
    },
    { signal },
  );
  const up = (event: PointerEvent): void => {
    fingers.delete(event.pointerId);
    if (!down || event.type === "pointercancel") {
      down = null;
      return;
    }
    const moved = Math.hypot(event.clientX - down.x, event.clientY - down.y);
    const { beside: side } = down;
    down = null;
    if (moved <= CLICK_PX && !side && event.button === 0 && below(event.clientY) >= 0 && below(event.clientY) <= 1)
      moves.click(part(event.clientX), event.clientX, event.clientY);
  };
  root.addEventListener("pointerup", up, { signal });
  root.addEventListener("pointercancel", up, { signal });
  root.addEventListener(
    "dblclick",
    (event) => {
      if (beside(event.clientX)) moves.resetY(event.clientX);
    },
    { signal },
  );
  return () => ends.abort();
}
