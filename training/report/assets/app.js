(() => {
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const single = data.runs.length === 1, dark = matchMedia("(prefers-color-scheme: dark)");
const coarse = matchMedia("(pointer: coarse)").matches;
const dashes = ["solid", "dash", "dot"], strokes = ["", "6 3", "2 2"];
const state = Object.assign({range: null, hidden: [], raw: true, paused: false}, history.state);
const drawn = new Map();
const $ = id => document.getElementById(id);

function make(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties))
    key in made && key !== "role" ? made[key] = value : made.setAttribute(key, value);
  made.append(...children);
  return made;
}
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
// A run has a colour; of a single run, each curve of a panel has one.
const colour = (run, line) => data.colours[dark.matches ? "dark" : "light"][single ? line : run];
const remember = () => history.replaceState(state, "");

function swatch(run) {
  const made = make("span", {className: "swatch", "aria-hidden": "true"});
  made.dataset.run = run;
  made.style.background = colour(run, 0);
  return made;
}
const runHead = (name, k) => single ? make("th", {scope: "col", className: "name"}, "value")
  : make("th", {scope: "col", className: "name"}, swatch(k), name);

function cell(value, kind = "td") {
  if (typeof value === "string") return make(kind, {}, value);
  const made = make(kind, {}, value.text);
  if (value.exact !== undefined && value.exact !== value.text) made.title = value.exact;
  if (value.exact !== undefined) made.dataset.exact = value.exact;
  if (value.note) made.append(make("small", {}, value.note));
  return made;
}

function scrolling(label, table) {
  return make("div", {className: "wide", tabIndex: 0, role: "region", "aria-label": label}, table);
}

// A table with a row per key and a column per run; rows in which the runs differ are marked.
function comparison(label, rows, mark = true) {
  const body = Object.entries(rows).map(([key, values]) => {
    const text = values.map(value => value.text ?? value);
    const differs = mark && new Set(text).size > 1;
    return make("tr", {className: differs ? "differs" : ""}, make("th", {scope: "row"}, differs ? `${key} ≠` : key),
      ...values.map(value => cell(value)));
  });
  return scrolling(label, make("table", {}, make("thead", {}, make("tr", {}, make("td"), ...data.runs.map(runHead))),
    make("tbody", {}, ...body)));
}

function showHeadline() {
  const rows = Object.entries(data.headline);
  if (!single) {
    $("headline").removeAttribute("aria-label");  // the table has that name
    $("headline").append(make("div", {className: "card"}, make("h2", {}, "Headline numbers"),
      comparison("Headline numbers", data.headline, false)));
    return;
  }
  $("headline").append(make("dl", {}, ...rows.map(([label, [value]]) => {
    const shown = cell(value, "dd");
    if ((value.text ?? value).length > 13) shown.className = "long";
    if (!value.note) shown.append(make("small"));  // keeps the numbers of a row of cards on one line
    return make("div", {className: "card"}, make("dt", {}, label), shown);
  })));
}

function showWords() {
  for (const [id, title, lists, none] of [["warnings", "Warnings", data.warnings, "None."],
    ["health", "Dictionaries", data.health, "No selection has been logged yet."]]) {
    const full = lists.some(list => list.length);
    const section = make("section", {id, className: full ? "card" : "card none"}, make("h2", {}, title));
    lists.forEach((list, k) => {
      if (!list.length) return;
      if (!single) section.append(make("h3", {}, swatch(k), data.runs[k]));
      section.append(make("ul", {}, ...list.map(text => make("li", {}, text))));
    });
    if (!full) section.append(make("p", {}, none));
    $("words").append(section);
  }
}

function showTables() {
  const card = (title, ...children) => $("tables").append(make("section", {className: "card"},
    make("h2", {}, title), ...children));
  const folded = (title, rows) => $("tables").append(make("details", {className: "card"},
    make("summary", {}, title), comparison(title, rows)));
  for (const table of data.evaluations) {
    const head = [...(single ? [] : ["run"]), ...table.columns];
    const body = table.rows.map(({run, cells}) => make("tr", {},
      ...(single ? [] : [make("th", {scope: "row"}, swatch(run), data.runs[run])]), ...cells.map(text => cell(text))));
    card(`Evaluation: ${table.title}`, scrolling(table.title, make("table", {},
      make("thead", {}, make("tr", {}, ...head.map(name => make("th", {scope: "col"}, name)))),
      make("tbody", {}, ...body))), ...table.notes.map(text => make("p", {className: "note"}, text)));
  }
  if (!single) card("Settings that differ", Object.keys(data.differing).length
    ? comparison("Settings that differ", data.differing, false) : make("p", {}, "None."));
  if (Object.keys(data.environment).length) card("Machine and versions",
    comparison("Machine and versions", data.environment));
  if (Object.keys(data.settings).length) folded("All settings", data.settings);
  folded("Last value of every metric", data.last);
}

// Plotly reads some markup in names, so their signs are escaped.
const plain = text => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const nameOf = curve => [single ? "" : data.runs[curve.run], curve.label].filter(Boolean).join(", ");

function traces(panel) {
  const shown = panel.curves.filter(curve => !state.hidden.includes(curve.run));
  return shown.flatMap(curve => {
    const line = {color: colour(curve.run, curve.line), dash: dashes[curve.line], width: 2};
    const form = panel.percent ? ".1%" : ".5~g";
    const value = {x: curve.x, y: curve.y, type: "scatter", name: plain(nameOf(curve) || panel.title),
      hovertemplate: `%{y:${form}}`, line, mode: curve.x.length < 30 ? "lines+markers" : "lines", marker: {size: 5},
      connectgaps: false};
    if (!curve.mean_x) return [value];
    const mean = {x: curve.mean_x, y: curve.mean_y, type: "scatter", mode: "lines", hoverinfo: "skip", line};
    return [{...value, line: {...line, width: 1, dash: "solid"}, opacity: state.raw ? .3 : 0, mode: "lines"}, mean];
  });
}

function heights(panel) {
  if (!state.range) return {autorange: true, rangemode: panel.percent ? "tozero" : "normal"};
  const [from, to] = state.range;
  let low = Infinity, high = -Infinity;
  for (const trace of traces(panel)) {
    if (trace.opacity === 0) continue;
    trace.x.forEach((x, k) => {
      const y = trace.y[k];
      if (x < from || x > to || y === null || (panel.log && y <= 0)) return;
      low = Math.min(low, panel.log ? Math.log10(y) : y);
      high = Math.max(high, panel.log ? Math.log10(y) : y);
    });
  }
  if (low > high) return {autorange: true};
  const room = (high - low || Math.abs(high) || 1) * .06;
  return {autorange: false, range: [panel.percent ? Math.max(0, low - room) : low - room, high + room]};
}

const large = panel => panel.curves.some(curve => curve.y.some(y => Math.abs(y) >= 1e4));

function layout(panel) {
  const text = css("--muted"), line = css("--line"), back = css("--panel");
  const axis = {gridcolor: line, zeroline: false, linecolor: line, tickfont: {color: text, size: 11}, automargin: true};
  return {
    margin: {l: 46, r: 10, t: 8, b: 34}, paper_bgcolor: back, plot_bgcolor: back, showlegend: false,
    font: {family: getComputedStyle(document.body).fontFamily, color: css("--text"), size: 12},
    hovermode: "x unified", hoverlabel: {bgcolor: back, bordercolor: line, font: {color: css("--text")}, namelength: 40},
    dragmode: coarse ? false : "zoom",
    xaxis: {...axis, fixedrange: coarse, hoverformat: ",d", tickformat: "~s", title: {text: "step", font: {color: text, size: 11},
      standoff: 4}, ...(state.range ? {range: state.range, autorange: false} : {autorange: true}), nticks: 6},
    yaxis: {...axis, fixedrange: true, nticks: 6, type: panel.log ? "log" : "linear",
      exponentformat: "e", tickformat: panel.percent ? ".0~%" : panel.log ? "~g" : large(panel) ? "~s" : "", ...heights(panel)},
  };
}

const draw = (plot, panel) => Plotly.react(plot, traces(panel), layout(panel),
  {displayModeBar: false, responsive: true, doubleClick: false});

function redraw() {
  for (const [plot, panel] of drawn) draw(plot, panel);
  for (const made of document.querySelectorAll(".swatch")) made.style.background = colour(Number(made.dataset.run), 0);
  for (const made of document.querySelectorAll(".keys line")) made.style.stroke = colour(0, Number(made.dataset.line));
}

function zoom(range) {
  state.range = range;
  remember();
  [$("from").value, $("to").value] = range ? range.map(Math.round) : ["", ""];
  for (const [plot, panel] of drawn) {
    const y = heights(panel), x = range ? {"xaxis.range": range} : {"xaxis.autorange": true};
    Plotly.relayout(plot, {...x, ...(y.range ? {"yaxis.range": y.range} : {"yaxis.autorange": true})});
  }
}

function keys(panel) {
  const found = new Map(panel.curves.map(curve => [curve.line, curve.label]));
  return [...found].filter(([, label]) => label && found.size > 1).sort().map(([line, label]) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const stroke = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [name, value] of Object.entries({x1: 0, x2: 24, y1: 4, y2: 4, "stroke-width": 2.5,
      "stroke-dasharray": strokes[line]})) stroke.setAttribute(name, value);
    stroke.style.stroke = single ? colour(0, line) : "currentColor";
    if (single) stroke.dataset.line = line;
    svg.setAttribute("aria-hidden", "true");
    svg.append(stroke);
    return make("span", {}, svg, label);
  });
}

const digits = (panel, y) => y === null ? "not finite" : panel.percent ? `${(100 * y).toFixed(1)} %` : String(Number(y.toPrecision(5)));

function summary(panel) {
  return `${panel.title}. ` + panel.curves.map(curve => `${nameOf(curve) || "Value"}: ${digits(panel, curve.y[0])} at step `
    + `${curve.x[0]}, ${digits(panel, curve.y.at(-1))} at step ${curve.x.at(-1)}`).join("; ");
}

// Moves the readings along the longest curve that is shown, and says them.
function read(plot, panel, event) {
  const move = {ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity}[event.key];
  if (move === undefined || !drawn.has(plot)) return;
  event.preventDefault();
  const shown = panel.curves.filter(curve => !state.hidden.includes(curve.run));
  if (!shown.length) return;
  const curve = shown.reduce((best, other) => other.x.length > best.x.length ? other : best);
  const at = Number(plot.dataset.at ?? (move > 0 ? -1 : curve.x.length));
  const k = Math.min(Math.max(at + move, 0), curve.x.length - 1);
  plot.dataset.at = k;
  Plotly.Fx.hover(plot, [{curveNumber: plot.data.findIndex(trace => trace.x === curve.x), pointNumber: k}]);
  $("said").textContent = `Step ${curve.x[k]}: ` + shown.filter(other => other.x.includes(curve.x[k])).map(other =>
    `${nameOf(other) || panel.title} ${digits(panel, other.y[other.x.indexOf(curve.x[k])])}`).join("; ");
}

function showPanels() {
  const visible = new IntersectionObserver(entries => entries.filter(entry => entry.isIntersecting).forEach(entry => {
    visible.unobserve(entry.target);
    first(entry.target);
  }), {rootMargin: "700px"});
  const panels = new Map();
  function first(plot) {
    if (drawn.has(plot)) return;
    drawn.set(plot, panels.get(plot));
    draw(plot, panels.get(plot));
    plot.on("plotly_relayout", change => {
      const range = change["xaxis.range"] ?? [change["xaxis.range[0]"], change["xaxis.range[1]"]];
      const given = state.range ?? [];
      if (range[0] !== undefined && (range[0] !== given[0] || range[1] !== given[1])) zoom([...range]);
    });
    plot.on("plotly_doubleclick", () => zoom(null));
  }
  for (const panel of data.panels) {
    const plot = make("div", {className: "plot", tabIndex: 0, role: "img", "aria-label": summary(panel)});
    panels.set(plot, panel);
    plot.addEventListener("keydown", event => read(plot, panel, event));
    plot.addEventListener("blur", () => { delete plot.dataset.at; Plotly.Fx.unhover(plot); });
    $("panels").append(make("figure", {className: "panel"}, make("figcaption", {}, make("h3", {}, panel.title),
      make("span", {className: "keys"}, ...keys(panel))), plot));
    visible.observe(plot);
  }
  addEventListener("beforeprint", () => [...panels.keys()].forEach(first));
}

function showControls() {
  if (!single) $("runs").append(...data.runs.map((name, k) => {
    const button = make("button", {type: "button", "aria-pressed": String(!state.hidden.includes(k))}, swatch(k), name);
    button.addEventListener("click", () => {
      state.hidden = state.hidden.includes(k) ? state.hidden.filter(run => run !== k) : [...state.hidden, k];
      button.setAttribute("aria-pressed", String(!state.hidden.includes(k)));
      remember();
      redraw();
    });
    return button;
  }));
  const last = Math.max(...data.panels.flatMap(panel => panel.curves.map(curve => curve.x.at(-1))));
  [$("from").placeholder, $("to").placeholder] = ["0", String(last)];
  if (state.range) [$("from").value, $("to").value] = state.range.map(Math.round);
  for (const id of ["from", "to"]) $(id).addEventListener("change", () => {
    const from = Number($("from").value), to = $("to").value === "" ? last : Number($("to").value);
    if (from < to) zoom([from, to]);
  });
  $("reset").addEventListener("click", () => zoom(null));
  $("controls").addEventListener("submit", event => event.preventDefault());
  $("logged").hidden = !data.panels.some(panel => panel.curves.some(curve => curve.mean_x));
  $("raw").checked = state.raw;
  $("raw").addEventListener("change", () => { state.raw = $("raw").checked; remember(); redraw(); });
}

// The page loads itself again, except while someone reads a value, types, or has paused it.
function follow() {
  if (!data.reload) return;
  const show = () => {
    $("pause").setAttribute("aria-pressed", String(state.paused));
    $("made").textContent = `Written ${data.made}; ` + (state.paused ? "updates are paused." : "follows the run as metrics arrive.");
  };
  $("pause").hidden = false;
  $("pause").addEventListener("click", () => { state.paused = !state.paused; remember(); show(); });
  show();
  setInterval(() => {
    const busy = state.paused || document.hidden || document.querySelector(".plot:hover, :focus-visible");
    if (!busy) location.reload();
  }, 1000 * data.reload);
}

$("made").textContent = `Written ${data.made}.`;
showHeadline();
showWords();
showControls();
showPanels();
showTables();
follow();
dark.addEventListener("change", redraw);
})();
