// Thumbnails, the frames of clips, and their sound.

class Media {
  constructor(data) {
    this.data = data;
    this.strips = new Map();
    const {size, sheets} = data.thumbnails;
    this.size = size;
    this.sheets = sheets.map(source => Object.assign(new Image(), {src: source}));
    this.ready = Promise.all(this.sheets.map(sheet => sheet.decode()));
  }

  has(k) { return k in this.data.media; }

  drawThumbnail(context, k, x, y, size) {
    const {columns, per_sheet: perSheet} = this.data.thumbnails, place = k % perSheet;
    const sheet = this.sheets[Math.floor(k / perSheet)], side = this.size;
    context.drawImage(sheet, place % columns * side, Math.floor(place / columns) * side, side, side, x, y, size, size);
  }

  // All frames of a clip, side by side; null if the page does not hold them.
  strip(k) {
    if (!this.has(k)) return null;
    if (!this.strips.has(k)) {
      if (this.strips.size > 60) this.strips.delete(this.strips.keys().next().value);
      this.strips.set(k, Object.assign(new Image(), {src: this.data.media[k].frames}));
    }
    return this.strips.get(k);
  }

  // Draws the frame at `seconds` after the first frame.
  drawFrame(canvas, k, seconds) {
    const context = canvas.getContext("2d"), strip = this.strip(k), {width, height} = canvas;
    if (!strip || !strip.complete || !strip.naturalWidth) {
      this.drawThumbnail(context, k, 0, 0, width);
      return;
    }
    const side = strip.naturalHeight, count = strip.naturalWidth / side;
    const frame = Math.min(count - 1, Math.max(0, Math.floor(seconds / this.data.seconds * count)));
    context.drawImage(strip, frame * side, 0, side, side, 0, 0, width, height);
  }

  get middle() { return this.data.seconds / 2; }
}

// Plays one clip at a time on a canvas, with or without sound; several players may share `media`.
class Player {
  constructor(media, canvas, {onTime = () => {}, onState = () => {}} = {}) {
    Object.assign(this, {media, canvas, onTime, onState, running: 0, row: null});
    this.audio = new Audio();
    this.audio.addEventListener("ended", () => this.rest());
  }

  get playing() { return this.running !== 0; }

  // Shows the middle frame and stops.
  rest(k = this.row) {
    cancelAnimationFrame(this.running);
    this.running = 0;
    this.row = k;
    this.audio.pause();
    this.onState(false);
    this.onTime(0);
    const draw = () => { if (this.row === k && !this.playing) this.media.drawFrame(this.canvas, k, this.media.middle); };
    draw();
    this.media.strip(k)?.decode().then(draw, () => {});
  }

  // sound: also plays the sound, once; otherwise the frames repeat until `rest`.
  play(k, {sound}) {
    this.rest(k);
    if (!this.media.has(k)) return;
    const {lead, sound: source} = this.media.data.media[k], start = performance.now();
    if (sound) {
      this.audio.src = source;
      // A browser may refuse sound before the first click; the frames play all the same.
      this.audio.play().catch(() => { if (this.playing && this.row === k) this.play(k, {sound: false}); });
    }
    const step = now => {
      const seconds = sound ? this.audio.currentTime - lead
        : Math.max(0, now - start) / 1000 % (this.media.data.seconds + .3);
      this.media.drawFrame(this.canvas, k, seconds);
      this.onTime(sound ? this.audio.currentTime / (this.audio.duration || 1) : seconds / this.media.data.seconds);
      this.running = requestAnimationFrame(step);
    };
    this.running = requestAnimationFrame(step);
    this.onState(true);
  }
}
