// A map of one modality's embeddings: a canvas with dots, and thumbnails wherever there is room for them.

const PADDING = 26, LARGEST_ZOOM = 80, SMALLEST_THUMBNAIL = 20, LARGEST_THUMBNAIL = 64;

class EmbeddingMap {
  // places: [x0, y0, x1, ...] in [0, 1]. scene: what both maps share; see app.js.
  constructor(canvas, places, scene, {onHover, onChoose}) {
    Object.assign(this, {canvas, places, scene, onHover, onChoose, zoom: 1, left: 0, top: 0, pending: 0});
    this.count = places.length / 2;
    this.context = canvas.getContext("2d");
    this.pointers = new Map();
    new ResizeObserver(() => this.resize()).observe(canvas);
    canvas.addEventListener("wheel", event => this.wheel(event), {passive: false});
    canvas.addEventListener("pointerdown", event => this.press(event));
    canvas.addEventListener("pointermove", event => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, event => this.release(event));
    canvas.addEventListener("pointerleave", () => this.onHover(null));
    this.resize();
  }

  resize() {
    const ratio = Math.min(2, devicePixelRatio || 1);
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.x = new Float32Array(this.count);
    this.y = new Float32Array(this.count);
    for (let k = 0; k < this.count; k++) {
      this.x[k] = PADDING + this.places[2 * k] * (this.width - 2 * PADDING);
      this.y[k] = PADDING + (1 - this.places[2 * k + 1]) * (this.height - 2 * PADDING);
    }
    this.base = Math.sqrt(this.width * this.height / this.count);
    this.refresh();
  }

  // To be called when the colours or the clips that are shown have changed.
  refresh() {
    this.levels = [];
    this.byColour = new Map();
    for (let k = 0; k < this.count; k++) {
      const key = (this.scene.visible(k) ? "1" : "0") + this.scene.colour(k);
      if (!this.byColour.has(key)) this.byColour.set(key, []);
      this.byColour.get(key).push(k);
    }
    this.redraw();
  }

  redraw() {
    if (!this.pending) this.pending = requestAnimationFrame(() => { this.pending = 0; this.draw(); });
  }

  at(k) { return [this.x[k] * this.zoom + this.left, this.y[k] * this.zoom + this.top]; }

  get level() { return Math.floor(Math.log2(this.zoom) + 1e-9); }

  thumbnailSize(level = this.level) {
    const size = Math.min(52, Math.max(SMALLEST_THUMBNAIL, .85 * this.base));
    return Math.min(LARGEST_THUMBNAIL, size * 2 ** (level / 2));
  }

  // Chooses clips so far apart that their thumbnails hardly overlap. The choice depends on the level of zoom only, and
  // keeps those of the level before: nothing flickers when the map is moved, and zooming in only adds thumbnails.
  thumbnails(level = this.level) {
    if (this.levels[level]) return this.levels[level];
    const before = level > 0 ? this.thumbnails(level - 1) : [];
    const apart = this.thumbnailSize(level) * (this.count > 1000 ? 1.2 : .75) / 2 ** level;
    const taken = new Map(), chosen = [], here = new Uint8Array(this.count);
    const key = (column, row) => column * 65536 + row;
    const consider = k => {
      if (here[k] || !this.scene.visible(k)) return;
      const column = Math.floor(this.x[k] / apart), row = Math.floor(this.y[k] / apart);
      for (let c = column - 1; c <= column + 1; c++) {
        for (let r = row - 1; r <= row + 1; r++) {
          const other = taken.get(key(c, r));
          if (other !== undefined && Math.abs(this.x[other] - this.x[k]) < apart
            && Math.abs(this.y[other] - this.y[k]) < apart) return;
        }
      }
      taken.set(key(column, row), k);
      here[k] = 1;
      chosen.push(k);
    };
    before.forEach(consider);
    for (let k = 0; k < this.count; k++) consider(k);
    return this.levels[level] = chosen;
  }

  draw() {
    const {context, scene} = this;
    context.clearRect(0, 0, this.width, this.height);
    this.drawDots();
    const size = this.thumbnailSize();
    for (const k of this.thumbnails()) this.drawThumbnail(k, size, scene.colour(k), 1.5);
    this.drawMarks(size);
  }

  drawDots() {
    const {context, zoom, left, top} = this;
    const radius = Math.min(5, Math.max(1.5, .11 * this.base) * zoom ** .3);
    const squares = radius < 2.5, side = 2 * Math.round(radius);
    for (const [key, rows] of this.byColour) {
      context.globalAlpha = key[0] === "1" ? 1 : .16;
      context.fillStyle = key.slice(1);
      if (!squares) context.beginPath();
      for (const k of rows) {
        const x = this.x[k] * zoom + left, y = this.y[k] * zoom + top;
        if (x < -9 || y < -9 || x > this.width + 9 || y > this.height + 9) continue;
        // Small squares at whole pixels are by far the fastest, and look like dots.
        if (squares) context.fillRect((x - radius) | 0, (y - radius) | 0, side, side);
        else { context.moveTo(x + radius, y); context.arc(x, y, radius, 0, 7); }
      }
      if (!squares) context.fill();
    }
    context.globalAlpha = 1;
  }

  drawThumbnail(k, size, colour, border) {
    const [x, y] = this.at(k), half = size / 2, {context} = this;
    if (x < -half || y < -half || x > this.width + half || y > this.height + half) return;
    context.fillStyle = colour;
    context.fillRect(x - half - border, y - half - border, size + 2 * border, size + 2 * border);
    this.scene.drawThumbnail(context, k, x - half, y - half, size);
  }

  // Lines to the nearest neighbours, rings of the dictionary, the clip under the pointer and the chosen one.
  drawMarks(size) {
    const {context, scene} = this, {chosen, hovered} = scene;
    const near = scene.neighbours(this), [x, y] = this.at(chosen), marked = Math.max(size, 26);
    context.strokeStyle = scene.theme.text;
    context.lineWidth = 1.25;
    context.globalAlpha = .55;
    context.beginPath();
    for (const k of near) { context.moveTo(x, y); context.lineTo(...this.at(k)); }
    context.stroke();
    context.globalAlpha = 1;
    for (const k of near) this.drawThumbnail(k, marked, scene.theme.text, 1.5);
    for (const k of scene.ringed) {
      const [cx, cy] = this.at(k);
      context.strokeStyle = scene.ringColour;
      context.lineWidth = 2.5;
      context.beginPath();
      context.arc(cx, cy, marked * .62, 0, 7);
      context.stroke();
    }
    this.drawThumbnail(chosen, marked + 12, scene.theme.accent, 4);
    if (hovered !== null && hovered !== chosen) this.drawThumbnail(hovered, marked + 12, scene.theme.text, 3);
  }

  // The clip whose thumbnail or dot is drawn at a point, or null.
  find(x, y) {
    const half = this.thumbnailSize() / 2;
    let best = null, nearest = Infinity;
    const consider = (k, reach) => {
      const [px, py] = this.at(k), distance = Math.max(Math.abs(px - x), Math.abs(py - y));
      if (distance <= reach && distance < nearest) { best = k; nearest = distance; }
    };
    consider(this.scene.chosen, half + 6);
    for (const k of this.scene.neighbours(this)) consider(k, half);
    for (const k of this.thumbnails()) consider(k, half);
    if (best === null) for (let k = 0; k < this.count; k++) if (this.scene.visible(k)) consider(k, 7);
    return best;
  }

  zoomAt(x, y, factor) {
    const zoom = Math.min(LARGEST_ZOOM, Math.max(1, this.zoom * factor)), by = zoom / this.zoom;
    this.zoom = zoom;
    this.moveTo(x - (x - this.left) * by, y - (y - this.top) * by);
  }

  zoomBy(factor) { this.zoomAt(this.width / 2, this.height / 2, factor); }

  moveTo(left, top) {
    this.left = Math.min(0, Math.max(this.width * (1 - this.zoom), left));
    this.top = Math.min(0, Math.max(this.height * (1 - this.zoom), top));
    // With the whole map in view, a finger scrolls the page instead.
    this.canvas.style.touchAction = this.zoom > 1 ? "none" : "pan-y";
    this.redraw();
  }

  // Brings a clip into view if it is not.
  reveal(k) {
    const [x, y] = this.at(k), edge = 20;
    if (x < edge || y < edge || x > this.width - edge || y > this.height - edge) {
      this.moveTo(this.left + this.width / 2 - x, this.top + this.height / 2 - y);
    }
    this.redraw();
  }

  wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode ? 16 : 1;
    this.zoomAt(event.offsetX, event.offsetY, Math.exp(-lines * event.deltaY / 400));
  }

  press(event) {
    this.pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
    this.dragged = this.pointers.size > 1;
    this.pressed = [event.offsetX, event.offsetY];
    this.canvas.setPointerCapture(event.pointerId);
  }

  move(event) {
    const to = [event.offsetX, event.offsetY], from = this.pointers.get(event.pointerId);
    if (!from) {
      const found = this.find(...to);
      this.canvas.classList.toggle("pointing", found !== null);
      this.onHover(found, event);
      return;
    }
    if (Math.hypot(to[0] - this.pressed[0], to[1] - this.pressed[1]) > 4) this.dragged = true;
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const spread = Math.hypot(to[0] - other[0], to[1] - other[1]);
      this.zoomAt(...other, spread / Math.max(1, Math.hypot(from[0] - other[0], from[1] - other[1])));
    } else if (this.dragged) {
      this.canvas.classList.add("dragging");
      this.onHover(null);
      this.moveTo(this.left + to[0] - from[0], this.top + to[1] - from[1]);
    }
    this.pointers.set(event.pointerId, to);
  }

  release(event) {
    this.pointers.delete(event.pointerId);
    this.canvas.classList.remove("dragging");
    if (event.type === "pointercancel" || this.dragged) return;
    const found = this.find(event.offsetX, event.offsetY);
    if (found !== null) this.onChoose(found);
  }
}
