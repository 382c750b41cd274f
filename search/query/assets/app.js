// Lists the results of a search.

const data = JSON.parse(document.getElementById("data").textContent);

function card(hit, place) {
  const words = element("div", {className: "words"}, element("h2", {}, hit.source),
    element("span", {className: "score"}, `${place + 1}. · ${hit.start.toFixed(1)} to ${hit.end.toFixed(1)} s · similarity ${hit.score.toFixed(3)}`));
  const labels = Object.entries(hit.labels).map(([name, value]) => `${name} ${value}`).join(" · ");
  if (labels) words.append(element("span", {className: "note"}, labels));
  const made = element("li", {});
  if (hit.picture) made.append(element("img", {src: hit.picture, alt: `Frame of ${hit.source}`}));
  made.append(words);
  return made;
}

document.getElementById("about").textContent = data.about;
document.getElementById("hits").append(...data.hits.map(card));
