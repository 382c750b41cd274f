// A map of one modality's embeddings: a canvas with dots, and thumbnails wherever there is room for them.

const LARGEST_ZOOM = 80, MANY = 2000, SMALLEST_THUMBNAIL = 20, LARGEST_THUMBNAIL = 64;

class EmbeddingMap {
  // places: [x0, y0, x1, ...] in [0, 1]. scene: what both maps share; see app.js.
  constructor(canvas, places, scene, {onHover, onChoose}) {
    Object.assign(this, {canvas, places, scene, onHover, onChoose, zoom: 1, left: 0, top: 0, pending: 0});
    this.count = places.length / 2;
    this.context = canvas.getContext("2d");
    // Dots and thumbnails are kept, so that moving the pointer draws only the marks again.
    this.kept = document.createElement("canvas");
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
    this.ratio = ratio;
    for (const canvas of [this.canvas, this.kept]) {
      canvas.width = Math.max(1, Math.round(this.width * ratio));
      canvas.height = Math.max(1, Math.round(this.height * ratio));
      canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    }
    this.image = this.context.createImageData(this.canvas.width, this.canvas.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.x = new Float32Array(this.count);
    this.y = new Float32Array(this.count);
    this.base = Math.sqrt(this.width * this.height / this.count);
    const edge = this.thumbnailSize(0) / 2 + 8;
    for (let k = 0; k < this.count; k++) {
      this.x[k] = edge + this.places[2 * k] * (this.width - 2 * edge);
      this.y[k] = edge + (1 - this.places[2 * k + 1]) * (this.height - 2 * edge);
    }
    this.refresh();
  }

  // To be called when the colours or the clips that are shown have changed.
  refresh() {
    this.levels = [];
    this.shown = Uint8Array.from({length: this.count}, (_, k) => this.scene.visible(k));
    this.colours = Array.from({length: this.count}, (_, k) => this.scene.colour(k));
    // The same colours as bytes of an image: alpha, blue, green, red.
    this.paint = Uint32Array.from(this.colours, (colour, k) => {
      const rgb = parseInt((colour || "#000000").slice(1), 16), alpha = this.shown[k] ? 255 : 40;
      return (alpha << 24 | (rgb & 255) << 16 | (rgb & 0xff00) | rgb >> 16) >>> 0;
    });
    this.redraw();
  }

  // all: false if only the marks have changed.
  redraw(all = true) {
    this.stale ||= all;
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
      if (here[k] || !this.shown[k]) return;
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
    const size = this.thumbnailSize();
    if (this.stale) {
      this.stale = false;
      const context = this.kept.getContext("2d");
      if (this.count > MANY) this.paintDots(context);
      else this.drawDots(context);
      for (const k of this.thumbnails()) this.drawThumbnail(context, k, size, this.colours[k], size < 24 ? 1.5 : 2.5);
    }
    this.context.clearRect(0, 0, this.width, this.height);
    this.context.drawImage(this.kept, 0, 0, this.width, this.height);
    this.drawMarks(size);
  }

  get radius() { return Math.min(5, Math.max(1.4, .11 * this.base) * this.zoom ** .3); }

  drawDots(context) {
    const {radius} = this;
    context.clearRect(0, 0, this.width, this.height);
    for (const shown of [0, 1]) {
      context.globalAlpha = shown ? 1 : .16;
      for (let k = 0; k < this.count; k++) {
        if (this.shown[k] !== shown) continue;
        context.fillStyle = this.colours[k];
        context.beginPath();
        context.arc(...this.at(k), radius, 0, 7);
        context.fill();
      }
    }
    context.globalAlpha = 1;
  }

  // For many clips: writes small rounded squares into an image, which takes a tenth of the time of drawing 20,000 dots.
  paintDots(context) {
    const {pixels, paint, x, y} = this, {width, height} = this.image;
    const side = Math.max(2, Math.round(2 * this.radius * this.ratio)), scale = this.zoom * this.ratio;
    const left = this.left * this.ratio - side / 2, top = this.top * this.ratio - side / 2;
    pixels.fill(0);
    for (const shown of [0, 1]) {
      for (let k = 0; k < this.count; k++) {
        if (this.shown[k] !== shown) continue;
        const column = Math.round(x[k] * scale + left), row = Math.round(y[k] * scale + top);
        if (column < 0 || row < 0 || column + side > width || row + side > height) continue;
        for (let r = 0; r < side; r++) {
          const inset = side > 2 && (r === 0 || r === side - 1) ? 1 : 0, start = (row + r) * width + column;
          for (let c = inset; c < side - inset; c++) pixels[start + c] = paint[k];
        }
      }
    }
    context.putImageData(this.image, 0, 0);
  }

  drawThumbnail(context, k, size, colour, border) {
    const [x, y] = this.at(k), half = size / 2;
    if (x < -half || y < -half || x > this.width + half || y > this.height + half) return;
    context.fillStyle = colour;
    context.fillRect(x - half - border, y - half - border, size + 2 * border, size + 2 * border);
    this.scene.drawThumbnail(context, k, x - half, y - half, size);
  }

  // Lines to the nearest neighbours, the clip under the pointer and the chosen one.
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
    for (const k of near) this.drawThumbnail(context, k, marked, scene.theme.text, 1.5);
    this.drawThumbnail(context, chosen, marked + 12, scene.theme.accent, 4);
    if (hovered !== null && hovered !== chosen) this.drawThumbnail(context, hovered, marked + 12, scene.theme.text, 3);
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
    if (best === null) for (let k = 0; k < this.count; k++) if (this.shown[k]) consider(k, 7);
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
    this.redraw(false);
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
