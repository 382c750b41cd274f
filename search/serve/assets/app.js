// The page: asks the server for what is searched, shows it, and keeps the way back.

const $ = id => document.getElementById(id);
const TOP = 24;
const files = [];  // searched for by this page, which the browser's history names by their number
const answers = new Map();
let about = null, asking = 0, shownState = null;

function say(text, {error = false} = {}) {
  $("status").textContent = text;
  $("status").className = error ? "error" : "";
}

const isBrowsing = state => state.row === undefined && state.file === undefined;
const chosen = name => $("options").elements[name].value;
const other = {video: "audio", audio: "video"};

// ---- what is searched: {row, by, to, where} or {file, by, to, where}; {where} alone for some rows

function where() {
  return Object.fromEntries([...$("filters").querySelectorAll("select")].filter(of => of.value).map(of => [of.name, of.value]));
}

function addressOf(state) {
  const values = new URLSearchParams(), browses = isBrowsing(state);
  if (browses) { /* only the labels */ } else if (state.row !== undefined) { values.set("id", state.row); values.set("by", state.by); }
  else values.set("kind", state.by === "audio" ? "sound" : state.picture ? "picture" : "video");
  if (!browses) { values.set("to", state.to); values.set("top", TOP); }
  for (const [name, value] of Object.entries(state.where)) values.append("where", `${name}=${value}`);
  return `${browses ? "/api/rows" : state.row === undefined ? "/api/search" : "/api/like"}?${values}`;
}

async function ask(address, options) {
  const response = await fetch(address, options);
  let answer = null;
  try { answer = await response.json(); } catch { /* said below */ }
  if (!response.ok || !answer) throw new Error(answer?.error ?? `the server answered with status ${response.status}`);
  return answer;
}

async function search(state, {push = true} = {}) {
  const number = ++asking, address = addressOf(state), key = `${state.file ?? ""} ${address}`;
  try {
    if (!answers.has(key)) {
      say("Searching …");
      const body = state.file === undefined ? undefined : files[state.file];
      answers.set(key, await ask(address, body ? {method: "POST", body} : {}));
    }
    if (number !== asking) return;
    if (push) history.pushState(state, "", state.file === undefined ? `/?${address.split("?")[1]}` : "/");
    show(state, answers.get(key));
  } catch (error) {
    if (number === asking) say(`${sentence(error.message)}`, {error: true});
  }
}

const sentence = text => `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;

// ---- what is shown

function show(state, answer) {
  shownState = state;
  stop();
  const browses = isBrowsing(state), rows = answer.results;
  $("home").hidden = browses && !Object.keys(state.where).length;
  $("by").hidden = browses || state.picture || state.sound || (state.row !== undefined && about.modalities.length < 2);
  if (!browses) { setRadio("by", state.by); setRadio("to", state.to); }
  setFilters(state.where);
  showQuery(state, answer);
  $("heading").textContent = browses ? (rows.length ? "Some of the clips" : "") :
    `${state.to === "video" ? "Videos" : "Sounds"}, the most similar first`;
  $("results").replaceChildren(...rows.map(row => card(row, about.modalities, like)));
  say(about.rows === 0 ? "The index is empty. Add rows with: python -m search.index EMBEDDINGS INDEX --add" :
    rows.length ? "" : "No clip has these labels.");
}

function showQuery(state, answer) {
  const place = $("query");
  place.hidden = isBrowsing(state);
  if (place.hidden) { place.replaceChildren(); return; }
  if (state.row !== undefined) {
    const {row} = answer.query;
    place.replaceChildren(screenOf(row), wordsOf(`Like ${row.source}`, `the ${state.by === "video" ? "pictures" : "sound"} of ${span(row)}`));
    return;
  }
  const file = files[state.file];
  place.replaceChildren(preview(file, state), wordsOf(file.name, answer.query.words));
}

function wordsOf(title, text) {
  return element("div", {className: "words"}, element("h2", {}, title), element("p", {className: "note"}, text));
}

function preview(file, state) {
  file.address ??= URL.createObjectURL(file);
  if (state.picture) return element("img", {src: file.address, alt: "The picture that is searched for"});
  const player = element(state.sound ? "audio" : "video", {src: file.address, controls: true, playsInline: true});
  player.setAttribute("aria-label", "What is searched for");
  return player;
}

function setRadio(name, value) {
  for (const input of $("options").querySelectorAll(`input[name=${name}]`)) input.checked = input.value === value;
}

function setFilters(values) {
  for (const select of $("filters").querySelectorAll("select")) select.value = values[select.name] ?? "";
}

// ---- asking

function like(row, by) {
  search({row: row.id, by, to: by, where: where()}).then(() => scrollTo({top: 0}));
}

function take(file) {
  if (!file) return;
  if (!about.encodes) { say(sentence(about.no_encoder), {error: true}); return; }
  if (!file.size) { say("This file is empty.", {error: true}); return; }
  if (file.size > about.max_upload) {
    say(`This file is too large: at most ${Math.floor(about.max_upload / 2 ** 20)} MiB are taken.`, {error: true});
    return;
  }
  const picture = file.type.startsWith("image/"), sound = file.type.startsWith("audio/");
  const by = sound ? "audio" : "video";
  search({file: files.push(file) - 1, picture, sound, by, to: available(other[by]), where: where()});
}

const available = to => about.modalities.includes(to) ? to : about.modalities[0] ?? to;

// Searches again after a choice. What is found stays of the other kind than what is searched by, if it was.
function changed(event) {
  if (!shownState) return;
  if (isBrowsing(shownState)) {
    if (event.target.tagName === "SELECT") search({where: where()});
    return;
  }
  const by = chosen("by") || shownState.by, crosses = shownState.to === other[shownState.by];
  const to = event.target.name === "by" && crosses ? available(other[by]) : chosen("to");
  search({...shownState, by, to, where: where()});
}

const home = {where: {}};

// After a reload the files that were searched for are gone.
function restore(state) {
  return search(state?.file !== undefined && !files[state.file] ? home : state ?? stateOfAddress(), {push: false});
}

function stateOfAddress() {
  const values = new URLSearchParams(location.search);
  const pairs = values.getAll("where").map(text => [text.split("=")[0], text.slice(text.indexOf("=") + 1)]);
  const where = Object.fromEntries(pairs), by = values.get("by") ?? "video";
  return values.has("id") ? {row: Number(values.get("id")), by, to: values.get("to") ?? by, where} : {where};
}

// ---- start

function setUp() {
  $("title").textContent = document.title = `Search in ${about.name}`;
  $("size").textContent = `${about.rows.toLocaleString("en")} clips${about.plays ? "" : "; their files are not here, so they cannot be played"}`;
  for (const [name, values] of Object.entries(about.labels)) {
    if (!values.length) continue;
    const select = element("select", {name}, new Option("any", ""), ...values.map(value => new Option(value, value)));
    $("filters").append(element("label", {}, element("span", {}, name), select));
  }
  setRadio("to", available("video"));
  for (const input of $("options").querySelectorAll("input[name=to], input[name=by]")) {
    input.disabled = about.rows > 0 && !about.modalities.includes(input.value) && input.name === "to";
  }
  $("options").addEventListener("change", changed);
  $("options").addEventListener("submit", event => event.preventDefault());
  $("home").addEventListener("click", () => search(home));
  $("file").addEventListener("change", () => { take($("file").files[0]); $("file").value = ""; });
  for (const name of ["dragenter", "dragover"]) {
    addEventListener(name, event => { event.preventDefault(); $("drop").classList.add("over"); });
  }
  addEventListener("dragleave", event => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
  addEventListener("drop", event => {
    event.preventDefault();
    $("drop").classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
  addEventListener("popstate", event => restore(event.state));
  setUpRecording($("record"), take, text => say(text, {error: true}));
}

ask("/api/about").then(answer => {
  about = answer;
  setUp();
  return restore(history.state);
}).then(() => {
  document.documentElement.dataset.ready = "true";
}).catch(error => say(sentence(error.message), {error: true}));
