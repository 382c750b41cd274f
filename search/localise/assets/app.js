// Draws the heat maps over the video as it plays, and the largest heat over time.

"use strict";

const $ = id => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const {rows, columns, times} = data, cells = rows * columns;
const strengths = Uint8Array.from(atob(data.strengths), letter => letter.charCodeAt(0));
const video = $("video"), screen = $("heat"), curve = $("curve");
const small = Object.assign(document.createElement("canvas"), {width: columns, height: rows});
$("notes").textContent = data.notes.join(" ");
Object.assign(video, {src: data.video, poster: data.poster});

// How strongly each place is drawn at `seconds`, interpolated between the two nearest maps, 0 to 255.
function at(seconds) {
  let after = times.findIndex(time => time >= seconds);
  if (after < 0) after = times.length - 1;
  const before = Math.max(0, after - 1), span = times[after] - times[before];
  const share = span > 0 ? Math.min(1, Math.max(0, (seconds - times[before]) / span)) : 1;
  const map = new Float32Array(cells);
  for (let k = 0; k < cells; k++) {
    map[k] = strengths[before * cells + k] * (1 - share) + strengths[after * cells + k] * share;
  }
  return map;
}

const stops = [[27, 12, 65], [120, 28, 109], [237, 105, 37], [252, 255, 164]];
function colour(value) {
  const place = value / 255 * (stops.length - 1), k = Math.min(stops.length - 2, Math.floor(place));
  return stops[k].map((low, channel) => low + (stops[k + 1][channel] - low) * (place - k));
}

function draw() {
  const map = at(video.currentTime), image = new ImageData(columns, rows), opacity = $("opacity").value / 100;
  let top = 0;
  for (let k = 0; k < cells; k++) {
    const [red, green, blue] = colour(map[k]);
    image.data.set([red, green, blue, 255 * opacity * Math.sqrt(map[k] / 255)], 4 * k);
    if (map[k] > map[top]) top = k;
  }
  small.getContext("2d").putImageData(image, 0, 0);
  screen.width = 10 * columns; screen.height = 10 * rows;
  const context = screen.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, screen.width, screen.height);
  const x = (top % columns + .5) / columns, y = (Math.floor(top / columns) + .5) / rows;
  $("now").value = `${video.currentTime.toFixed(1)} s, hottest at ${Math.round(100 * x)} % from the left, `
    + `${Math.round(100 * y)} % from the top`;
  drawCurve();
  return [x, y];
}

function drawCurve() {
  const context = curve.getContext("2d"), {width, height} = curve, style = getComputedStyle(document.body);
  context.clearRect(0, 0, width, height);
  context.beginPath();
  const low = Math.min(0, ...data.peaks), span = Math.max(...data.peaks) - low || 1;
  data.peaks.forEach((peak, s) =>
    context.lineTo(times[s] / data.seconds * width, height - 8 - (peak - low) / span * (height - 16)));
  Object.assign(context, {strokeStyle: style.getPropertyValue("--accent"), lineWidth: 3});
  context.stroke();
  context.fillStyle = style.getPropertyValue("--text");
  context.fillRect(video.currentTime / data.seconds * width - 1, 0, 2, height);
}

function follow() {
  draw();
  if (!video.paused && !video.ended) requestAnimationFrame(follow);
}
for (const name of ["loadeddata", "seeked", "timeupdate", "pause"]) video.addEventListener(name, draw);
video.addEventListener("play", follow);
$("opacity").addEventListener("input", draw);
curve.addEventListener("click", event => {
  video.currentTime = event.offsetX / curve.clientWidth * data.seconds;
});
draw();
