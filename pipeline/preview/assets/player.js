// Each clip is a player: one play-head moves over its frames, waveform and spectrogram.

const players = [];

function sizeCanvas(canvas) {
  const ratio = Math.min(2, devicePixelRatio || 1), {clientWidth: width, clientHeight: height} = canvas;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return {context, width, height};
}

class ClipPlayer {
  constructor(clip) {
    Object.assign(this, {clip, time: clip.begin, running: 0, refused: false});
    this.audio = clip.wave ? Object.assign(new Audio(), {src: clip.wave.sound, preload: "auto"}) : null;
    this.frame = clip.frames.length ? clip.frames[0].seconds : (clip.end - clip.begin) / 50;
    this.screens = clip.frames.map(view => ({view, canvas: element("canvas", {width: view.width, height: view.height}),
      sheet: Object.assign(new Image(), {src: view.sheet})}));
    this.ready = Promise.all(this.screens.map(({sheet}) => sheet.decode()));
    this.button = element("button", {type: "button", className: "primary"}, "Play");
    this.readout = element("output", {ariaLive: "off"});
    this.head = element("i", {className: "head"});
    this.lanes = [];
    this.element = this.build();
    this.button.addEventListener("click", () => this.toggle());
    this.listen();
    this.ready.then(() => { this.draw(); this.seek(clip.begin); });
  }

  build() {
    const {clip} = this, [name, ...details] = clip.title.split("   ");
    this.button.setAttribute("aria-label", `Play ${name}`);
    this.axis = element("div", {className: "axis", tabIndex: 0});
    const limits = {role: "slider", "aria-label": `Time of ${name}`, "aria-valuemin": clip.begin.toFixed(2),
      "aria-valuemax": clip.end.toFixed(2)};
    for (const [key, value] of Object.entries(limits)) this.axis.setAttribute(key, value);
    const track = (kind, label, note, ...content) => {
      const lane = element("div", {className: "lane"}, ...content);
      this.axis.append(element("div", {className: `track ${kind}`},
        element("span", {}, element("b", {}, label), ` ${note}`), lane));
    };
    const drawn = draw => {
      const canvas = element("canvas");
      this.lanes.push([canvas, draw]);
      return canvas;
    };
    for (const screen of this.screens) {
      track("frames", screen.view.label, screen.view.note, drawn(canvas => this.drawStrip(canvas, screen)));
    }
    if (clip.wave) track("wave", "waveform", clip.wave.note, drawn(canvas => this.drawWave(canvas)));
    for (const of of clip.spectrograms) {
      const picture = element("img", {src: of.picture, alt: "", draggable: false});
      picture.style.left = `${100 * this.share(of.start)}%`;
      picture.style.width = `${100 * (this.share(of.end) - this.share(of.start))}%`;
      track("spectrogram", of.label, of.note, picture);
    }
    this.axis.append(this.ticks(), element("div", {className: "over"}, this.head));
    const screens = this.screens.map(({view, canvas}) => {
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `${view.label} of ${name} at the play-head`);
      return element("figure", {}, canvas, this.screens.length > 1 ? element("figcaption", {}, view.label) : "");
    });
    return element("article", {}, element("h2", {}, name), element("p", {className: "note details"}, details.join(" · ")),
      element("div", {className: "player"}, element("div", {}, element("div", {className: "screens"}, ...screens),
        element("div", {className: "buttons"}, this.button, this.readout)), this.axis));
  }

  // Place of a time on the axis, from 0 to 1.
  share(time) { return (time - this.clip.begin) / (this.clip.end - this.clip.begin); }

  ticks() {
    const {begin, end} = this.clip, row = element("div", {className: "ticks"});
    const step = [.05, .1, .2, .5, 1, 2, 5, 10, 20, 60].find(size => (end - begin) / size <= 9) || 300;
    for (let k = Math.ceil(begin / step - 1e-6); k * step <= end + 1e-6; k++) {
      const place = this.share(k * step);
      if (place < .02 || place > .98) continue;
      const tick = element("span", {}, (k * step).toFixed(step < .1 ? 2 : step < 1 ? 1 : 0));
      tick.style.left = `${100 * place}%`;
      row.append(tick);
    }
    return row;
  }

  // ---- drawing

  draw() { for (const [canvas, draw] of this.lanes) draw(canvas); }

  drawFrame(context, {view, sheet}, frame, ...where) {
    context.drawImage(sheet, frame % view.columns * view.width, Math.floor(frame / view.columns) * view.height,
      view.width, view.height, ...where);
  }

  frameAt(view, time) {
    // A little later, so that the time at which a frame starts shows this frame despite rounding.
    return Math.min(view.count - 1, Math.max(0, Math.floor((time - view.start) / view.seconds + 1e-3)));
  }

  drawStrip(canvas, screen) {
    const {context, width, height} = sizeCanvas(canvas), {view} = screen;
    const from = this.share(view.start) * width, to = this.share(view.start + view.count * view.seconds) * width;
    const cells = Math.max(1, Math.min(view.count, Math.round((to - from) / (height * view.width / view.height))));
    const cell = (to - from) / cells, scale = Math.max(cell / view.width, height / view.height);
    for (let k = 0; k < cells; k++) {
      const frame = Math.floor((k + .5) * view.count / cells), x = from + k * cell;
      context.save();
      context.beginPath();
      context.rect(x, 0, cell - 1, height);
      context.clip();
      this.drawFrame(context, screen, frame, x + (cell - view.width * scale) / 2, (height - view.height * scale) / 2,
        view.width * scale, view.height * scale);
      context.restore();
    }
  }

  drawWave(canvas) {
    const {context, width, height} = sizeCanvas(canvas), {low, high, start, end} = this.clip.wave;
    const peak = Math.max(.001, ...high, ...low.map(value => -value));
    const from = this.share(start) * width, step = (this.share(end) - this.share(start)) * width / low.length;
    context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent");
    low.forEach((value, k) => {
      const top = (1 - high[k] / peak) / 2 * height, bottom = (1 - value / peak) / 2 * height;
      context.fillRect(from + k * step, top, Math.max(1, step), Math.max(1, bottom - top));
    });
  }

  // ---- time

  // Moves the play-head, and shows the frames under it.
  seek(time) {
    const {clip} = this;
    this.time = Math.min(clip.end, Math.max(clip.begin, time));
    this.head.style.left = `${100 * this.share(this.time)}%`;
    for (const screen of this.screens) {
      const {canvas, view} = screen;
      this.drawFrame(canvas.getContext("2d"), screen, this.frameAt(view, this.time), 0, 0, view.width, view.height);
    }
    const view = clip.frames[0];
    const text = `${this.time.toFixed(2)} s${view ? ` · frame ${this.frameAt(view, this.time) + 1} of ${view.count}` : ""}`;
    this.readout.value = text;
    this.axis.setAttribute("aria-valuenow", this.time.toFixed(2));
    this.axis.setAttribute("aria-valuetext", text);
  }

  jump(time) {
    this.seek(time);
    if (this.audio) this.audio.pause();
    this.last = performance.now();
  }

  toggle() {
    if (this.running) { this.stop(); return; }
    for (const other of players) other.stop();
    if (this.time > this.clip.end - 1e-3) this.seek(this.clip.begin);
    this.refused = false;
    this.last = performance.now();
    this.running = requestAnimationFrame(now => this.step(now));
    this.button.textContent = "Pause";
  }

  stop() {
    cancelAnimationFrame(this.running);
    this.running = 0;
    if (this.audio) this.audio.pause();
    this.button.textContent = "Play";
  }

  // The sound is the clock while it plays; before and after it, and without sound, the time of the browser is.
  step(now) {
    const speed = Number(document.getElementById("speed").value), {audio, clip} = this;
    let time = this.time + Math.max(0, now - this.last) / 1000 * speed;
    this.last = now;
    if (audio && !this.refused && time >= clip.wave.start && time < clip.wave.end - .02) {
      audio.playbackRate = speed;
      if (audio.paused && !audio.ended) {
        audio.currentTime = this.time - clip.wave.start;
        audio.play().catch(() => { this.refused = true; });
      }
      time = Math.max(clip.begin, clip.wave.start + audio.currentTime);
    }
    this.seek(time);
    if (this.time >= clip.end) { this.stop(); return; }
    this.running = requestAnimationFrame(next => this.step(next));
  }

  listen() {
    const {axis, clip} = this;
    const drag = event => {
      const box = this.head.parentElement.getBoundingClientRect();
      this.jump(clip.begin + (event.clientX - box.left) / box.width * (clip.end - clip.begin));
    };
    axis.addEventListener("pointerdown", event => { axis.setPointerCapture(event.pointerId); drag(event); });
    axis.addEventListener("pointermove", event => { if (event.buttons) drag(event); });
    axis.addEventListener("keydown", event => {
      const to = {ArrowLeft: this.time - this.frame, ArrowRight: this.time + this.frame, ArrowDown: this.time - this.frame,
        ArrowUp: this.time + this.frame, Home: clip.begin, End: clip.end}[event.key];
      if (to !== undefined) this.jump(to);
      else if (event.key === " " || event.key === "Enter") this.toggle();
      else return;
      event.preventDefault();
    });
    new ResizeObserver(() => this.ready.then(() => this.draw())).observe(axis);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }
}

for (const clip of JSON.parse(document.getElementById("data").textContent)) {
  const player = new ClipPlayer(clip);
  players.push(player);
  document.getElementById("clips").append(player.element);
}
Promise.all(players.map(player => player.ready)).then(() => { document.documentElement.dataset.ready = "true"; });
