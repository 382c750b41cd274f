// Sections of clips; a press plays a clip with its sound.

const $ = id => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const media = new Media(data);
$("notes").textContent = data.notes.join(" ");
let playing = null;

function clip(row) {
  const canvas = element("canvas", {width: 224, height: 224});
  const button = element("button", {type: "button", className: "clip", title: "Play"}, canvas,
    data.sources[row], element("span", {textContent: data.captions[row]}));
  const player = new Player(media, canvas, {onState: on => button.classList.toggle("playing", on)});
  media.ready.then(() => player.rest(row));
  button.addEventListener("click", () => {
    const again = playing === player && player.playing;
    playing?.rest();
    playing = player;
    if (!again) player.play(row, {sound: true});
  });
  return button;
}

for (const {title, note, rows, copies} of data.sections) {
  const grid = element("div", {className: copies ? "clips copies" : "clips"});
  if (copies) {
    for (const [first, second, text] of copies)
      grid.append(element("div", {className: "pair"}, clip(first), clip(second),
        element("p", {className: "note", textContent: text})));
  } else grid.append(...rows.map(clip));
  $("sections").append(element("section", {}, element("h2", {textContent: title}),
    element("p", {className: "note", textContent: note}), grid));
}
