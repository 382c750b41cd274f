// Cards of the rows, and their players, of which one plays at a time.

const seconds = time => time < 60 ? `${time.toFixed(1)} s` : `${Math.floor(time / 60)}:${String(Math.floor(time % 60)).padStart(2, "0")}`;
const span = row => row.end < 60 ? `${row.start.toFixed(1)} to ${seconds(row.end)}` : `${seconds(row.start)} to ${seconds(row.end)}`;
const UNPLAYABLE = /\.(avi|mpe?g|m2v|vob|wmv|asf|flv|f4v|3gp|3g2|ts|mts|m2ts|mxf|rm|rmvb|divx|dv|aiff?|au|amr|wma|ape|ac3|caf|wv|tta|nut|gif|mjpe?g)$/i;
let playing = null;

// Puts a player in place of the still picture; it starts at the row's first second and stops at its end. The times of a
// row count from the start of its source, which may be a part of the file.
function play(screen, row) {
  stop();
  const sound = /\.(wav|mp3|m4a|aac|ogg|oga|opus|flac)$/i.test(row.file);
  const start = row.file_start + row.start, end = row.file_start + row.end;
  const player = element(sound ? "audio" : "video", {controls: true, playsInline: true, src: `/media/${row.id}#t=${start}`});
  const kept = [...screen.childNodes];
  player.setAttribute("aria-label", `${row.source}, from ${seconds(row.start)} on`);
  player.addEventListener("loadedmetadata", () => { player.currentTime = start; });
  player.addEventListener("timeupdate", () => {
    if (!player.dataset.passed && player.currentTime >= end) { player.dataset.passed = "yes"; player.pause(); }
  });
  player.addEventListener("error", () => {
    if (playing?.player !== player) return;
    playing = null;
    screen.replaceChildren(...kept.filter(node => node.tagName === "IMG"), cannotPlay(row));
  });
  playing = {player, screen, kept};
  screen.replaceChildren(...kept.filter(node => sound && node.tagName === "IMG"), player);
  player.focus();
  player.play().catch(() => {});
}

// Stops what plays and shows its still picture again.
function stop() {
  if (!playing) return;
  const {player, screen, kept} = playing;
  playing = null;
  player.pause();
  player.removeAttribute("src");
  player.load();
  screen.replaceChildren(...kept);
}

function cannotPlay(row) {
  return element("p", {className: "note"}, "Browsers cannot play this file. ",
    element("a", {href: `/media/${row.id}?download`, download: ""}, "Download it"));
}

function screenOf(row) {
  const screen = element("div", {className: "screen"});
  if (!row.has_file) {
    screen.append(element("p", {className: "note"}, "The file is not here."));
    return screen;
  }
  const picture = element("img", {src: `/frame/${row.id}`, alt: "", loading: "lazy", decoding: "async"});
  picture.addEventListener("error", () => picture.remove());
  screen.append(picture);
  if (UNPLAYABLE.test(row.file)) {
    screen.append(cannotPlay(row));
    return screen;
  }
  const button = element("button", {type: "button", className: "play"}, element("i"));
  button.setAttribute("aria-label", `Play ${row.source} from ${seconds(row.start)}`);
  button.addEventListener("click", () => play(screen, row));
  screen.append(button);
  return screen;
}

// onMore: called with the row and the modality by which like rows are wanted.
function card(row, modalities, onMore) {
  const labels = Object.entries(row.labels).map(([name, value]) => `${name}: ${value}`).join(" · ");
  const words = element("div", {className: "words"}, element("h3", {title: row.source}, row.source),
    element("p", {className: "facts"}, row.score === undefined ? span(row) : `similarity ${row.score.toFixed(2)} · ${span(row)}`));
  if (labels) words.append(element("p", {className: "note"}, labels));
  const more = element("div", {className: "more"}, ...modalities.map(by => {
    const text = by === "video" ? "Looks alike" : "Sounds alike";
    const button = element("button", {type: "button"}, text);
    button.setAttribute("aria-label", `${text}: search by ${row.source}`);
    button.addEventListener("click", () => onMore(row, by));
    return button;
  }));
  const made = element("li", {className: "card"}, screenOf(row), words, more);
  made.dataset.id = row.id;
  return made;
}
