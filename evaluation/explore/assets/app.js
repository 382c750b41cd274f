// The page: what is chosen, searched for and shown, in both maps and beside them.

const data = JSON.parse(document.getElementById("data").textContent);
const PALETTE = ["#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#edc948", "#76b7b2", "#ff9da7", "#9c755f", "#e15759",
  "#a0cbe8", "#d37295", "#8cd17d"];
const RELATIONS = [["Audio nearest to this video", "video-audio"], ["Videos nearest to this audio", "audio-video"],
  ["Videos nearest to this video", "video-video"], ["Audio nearest to this audio", "audio-audio"]];
const MOST_MATCHES = 24;
const $ = id => document.getElementById(id);
const stillness = matchMedia("(prefers-reduced-motion: reduce)");
const media = new Media(data);
const count = data.samples.length;
const texts = data.sources.map((source, k) => [source, `#${data.samples[k]}`,
  ...data.columns.filter(column => !column.cluster && column.codes[k] >= 0).map(column => column.values[column.codes[k]]),
].join("\n").toLowerCase());

let column = data.columns[0], colours = [], legendCode = null, matches = null;
const scene = {
  chosen: data.first, hovered: null, theme: {},
  visible: k => matches === null || matches[k] === 1,
  colour: k => colours[column.codes[k]] || scene.theme.other,
  neighbours: map => data.nearest[`${map.modality}-${map.modality}`].rows[scene.chosen],
  drawThumbnail: (...where) => media.drawThumbnail(...where),
};

function labelsOf(k) {
  return data.columns.filter(of => of.codes[k] >= 0).map(of => [of.cluster ? "" : of.name, of.values[of.codes[k]]]);
}

// ---- maps

const maps = Object.keys(data.maps).map(modality => {
  const canvas = element("canvas", {tabIndex: 0});
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", `Map of the ${modality} embeddings of ${count} clips`);
  const button = (text, label, act) => {
    const made = element("button", {type: "button"}, text);
    made.setAttribute("aria-label", `${label} the ${modality} map`);
    made.addEventListener("click", act);
    return made;
  };
  const title = modality[0].toUpperCase() + modality.slice(1);
  $("maps").append(element("figure", {}, element("figcaption", {}, element("h2", {}, title), element("span", {},
    button("−", "Zoom out of", () => map.zoomBy(1 / 1.6)), button("+", "Zoom into", () => map.zoomBy(1.6)),
    button("⤢", "Show all of", () => map.zoomBy(0)))), canvas));
  const map = new EmbeddingMap(canvas, data.maps[modality], scene,
    {onHover: hover, onChoose: k => { choose(k); play(); }});
  map.modality = modality;
  return map;
});

function readTheme() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["text", "accent", "other"]) scene.theme[name] = style.getPropertyValue(`--${name}`).trim();
}

// ---- colours, dictionaries and search

function recolour() {
  column = data.columns[$("column").value];
  const counts = new Array(column.values.length).fill(0);
  for (const code of column.codes) if (code >= 0) counts[code]++;
  const most = counts.map((_, code) => code).sort((a, b) => counts[b] - counts[a]).slice(0, PALETTE.length);
  colours = [];
  most.sort((a, b) => column.values[a].localeCompare(column.values[b], "en", {numeric: true})).forEach((code, k) => { colours[code] = PALETTE[k]; });
  legendCode = null;
  const entry = (code, text, colour) => {
    const swatch = element("i");
    swatch.style.background = colour;
    const made = element("button", {type: "button"}, swatch, text);
    made.setAttribute("aria-pressed", "false");
    made.addEventListener("click", () => {
      const pressed = made.getAttribute("aria-pressed") === "true";
      for (const other of $("legend").querySelectorAll("button")) other.setAttribute("aria-pressed", "false");
      made.setAttribute("aria-pressed", String(!pressed));
      legendCode = pressed ? null : code;
      filter();
    });
    return made;
  };
  $("legend").replaceChildren(...most.map(code => entry(code, `${column.values[code]} (${counts[code]})`, colours[code])));
  const rest = column.codes.filter(code => !colours[code]).length;
  if (rest) $("legend").append(entry("rest", `other or unknown (${rest})`, scene.theme.other));
  filter();
}

// The rows whose source, sample or labels contain the searched text or, if none does, all of its words.
function search(text) {
  const rows = texts.map((_, k) => k), asked = text.trim().toLowerCase(), words = asked.split(/\s+/);
  const exact = rows.filter(k => texts[k].includes(asked));
  return exact.length ? exact : rows.filter(k => words.every(word => texts[k].includes(word)));
}

// Shows only the clips that are searched for, of the pressed colour and in the dictionary; others stay as faint dots.
function filter() {
  const asked = $("search").value.trim(), [owner, kind] = $("set").value.split(" ");
  const conditions = [];
  if (asked) conditions.push(new Set(search(asked)));
  if (owner) conditions.push(new Set(data.sets[owner][kind]));
  if (legendCode !== null) {
    const fits = code => legendCode === "rest" ? !colours[code] : code === legendCode;
    conditions.push(new Set([...column.codes.keys()].filter(k => fits(column.codes[k]))));
  }
  matches = conditions.length ? Uint8Array.from({length: count}, (_, k) => conditions.every(of => of.has(k))) : null;
  const found = matches ? [...matches.keys()].filter(k => matches[k]) : [];
  const values = new Set(found.map(k => column.codes[k]).filter(code => code >= 0));
  $("found").value = matches ? `${found.length} of ${count} clips${owner ? `, values of ${column.name}: ${values.size}` : ""}` : "";
  $("matches")?.remove();
  if (asked && found.length) {
    const first = found.slice(0, MOST_MATCHES);
    $("near").prepend(group(`Found${found.length > first.length ? ` (the first ${first.length})` : ""}`,
      first.map(k => tile(k, `#${data.samples[k]}`, false)), "matches"));
  }
  for (const map of maps) map.refresh();
}

// ---- the chosen clip and its neighbours

const stage = new Player(media, $("screen"), {
  onTime: share => { $("progress").firstElementChild.style.width = `${100 * Math.min(1, Math.max(0, share))}%`; },
  onState: playing => { $("play").textContent = playing ? "Stop" : "Play"; },
});

function play() {
  if (stage.playing) stage.rest();
  else stage.play(scene.chosen, {sound: true});
}

function tile(k, note, same) {
  const canvas = element("canvas", {width: media.size, height: media.size});
  media.ready.then(() => media.drawThumbnail(canvas.getContext("2d"), k, 0, 0, media.size));
  const made = element("button", {type: "button", className: same ? "tile same" : "tile"}, canvas, note);
  made.setAttribute("aria-label", `${note} ${data.sources[k]}${same ? ", the chosen clip itself" : ""}`);
  made.dataset.row = k;
  return made;
}

function group(title, tiles, id = "") {
  return element("div", {id}, element("h3", {}, title), element("div", {className: "row"}, ...tiles));
}

function choose(k) {
  scene.chosen = k;
  hover(null);
  stage.rest(k);
  $("source").textContent = data.sources[k];
  $("screen").setAttribute("aria-label", `Frame of ${data.sources[k]}`);
  $("labels").replaceChildren(`sample ${data.samples[k]}`,
    ...labelsOf(k).flatMap(([name, value]) => [` · ${name} `, element("b", {}, value)]));
  $("play").hidden = !media.has(k);
  $("still").hidden = media.has(k);
  const kept = $("matches");
  $("near").replaceChildren(...(kept ? [kept] : []), ...RELATIONS.map(([title, key]) => group(title,
    data.nearest[key].rows[k].map((row, place) => tile(row, data.nearest[key].cosines[k][place].toFixed(2), row === k)))));
  for (const map of maps) map.reveal(k);
}

// ---- hovering

const card = $("card"), cardPlayer = new Player(media, card.querySelector("canvas"));

function hover(k, event) {
  if (event && event.pointerType === "touch") return;
  if (k !== scene.hovered) {
    scene.hovered = k;
    for (const map of maps) map.redraw(false);
    card.hidden = k === null;
    if (k === null) { cardPlayer.rest(); return; }
    card.querySelector("b").textContent = data.sources[k];
    card.querySelector("span").textContent = labelsOf(k).map(([name, value]) => `${name} ${value}`.trim()).join(" · ");
    const sound = $("sound").checked;
    if (sound) stage.rest();
    if (stillness.matches && !sound) cardPlayer.rest(k);
    else cardPlayer.play(k, {sound});
  }
  if (k !== null) {
    const box = card.getBoundingClientRect(), {clientX: x, clientY: y, leftwards} = event;
    card.style.left = `${!leftwards && x + 18 + box.width < innerWidth ? x + 18 : Math.max(4, x - 18 - box.width)}px`;
    card.style.top = `${Math.max(4, Math.min(y - box.height / 2, innerHeight - box.height - 4))}px`;
  }
}

// The card appears to the left of all tiles, which it must not cover.
function hoverTile(made) {
  const box = made.getBoundingClientRect();
  hover(Number(made.dataset.row), {leftwards: true, clientX: $("near").getBoundingClientRect().left, clientY: box.top + box.height / 2});
}

$("near").addEventListener("pointerover", event => {
  const made = event.target.closest(".tile");
  if (made && event.pointerType !== "touch") hoverTile(made);
});
$("near").addEventListener("pointerleave", () => hover(null));
$("near").addEventListener("focusin", event => {
  if (event.target.matches(".tile:focus-visible")) hoverTile(event.target);
});
$("near").addEventListener("focusout", () => hover(null));
$("near").addEventListener("click", event => {
  const made = event.target.closest(".tile");
  if (!made) return;
  const [row] = position(made), keyboard = event.detail === 0;
  choose(Number(made.dataset.row));
  play();
  if (keyboard) grid()[Math.min(row, grid().length - 1)][0].focus();
});

// ---- keyboard

const grid = () => [...$("near").querySelectorAll(".row")].map(row => [...row.children]);

function position(made) {
  const rows = grid(), row = rows.findIndex(tiles => tiles.includes(made));
  return [row, row < 0 ? -1 : rows[row].indexOf(made)];
}

// From a tile an arrow moves to the tile beside it; from elsewhere to the nearest clip within the map's modality.
function moveFocus(key) {
  const rows = grid(), [row, place] = position(document.activeElement);
  if (row < 0) {
    const map = maps.find(({canvas}) => canvas === document.activeElement);
    const from = rows.length - RELATIONS.length;
    rows[map ? from + RELATIONS.findIndex(([, of]) => of === `${map.modality}-${map.modality}`) : from][0].focus();
    return;
  }
  const [down, right] = {ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0]}[key];
  const tiles = rows[Math.min(rows.length - 1, Math.max(0, row + down))];
  tiles[Math.min(tiles.length - 1, Math.max(0, place + right))].focus();
}

document.addEventListener("keydown", event => {
  const typing = event.target.matches("input[type=search], select");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") { $("search").value = $("set").value = ""; recolour(); return; }
  if (event.target === $("search") && event.key === "ArrowDown") { event.preventDefault(); grid()[0][0].focus(); return; }
  if (typing) return;
  const map = maps.find(({canvas}) => canvas === event.target);
  const zoom = {"+": 1.6, "=": 1.6, "-": 1 / 1.6, "0": 0}[event.key];
  if (event.key === "/") $("search").focus();
  else if (event.key.startsWith("Arrow")) moveFocus(event.key);
  else if (map && event.key === "Enter") play();
  else if (map && zoom !== undefined) map.zoomBy(zoom);
  else return;
  event.preventDefault();
});

// ---- start

$("notes").append(...data.notes.map(text => element("p", {className: "note"}, `${text} `)));
$("column").append(...data.columns.map((of, k) => new Option(of.name, k)));
$("dictionary").hidden = !Object.keys(data.sets).length;
$("set").append(new Option("all clips", ""), ...Object.keys(data.sets).flatMap(name =>
  [new Option(`${name}: active`, `${name} active`), new Option(`${name}: random`, `${name} random`)]));
$("column").addEventListener("change", recolour);
$("set").addEventListener("change", filter);
$("search").addEventListener("input", filter);
$("play").addEventListener("click", play);
$("controls").addEventListener("submit", event => {
  event.preventDefault();
  const first = $("matches")?.querySelector(".tile");
  if (first) choose(Number(first.dataset.row));
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readTheme(); recolour(); });
readTheme();
media.ready.then(() => {
  recolour();
  choose(data.first);
  document.documentElement.dataset.ready = "true";
});
