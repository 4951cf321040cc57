// What the page can do with a script: look into directories of the treemap, and search the list of changes.
"use strict";

for (const found of document.querySelectorAll(".scripted")) found.hidden = false;

// -- the treemap: a directory is looked into by making it, and all around it, as large as the map

const map = document.getElementById("treemap");
const crumbs = document.getElementById("crumbs");

function around(box) {
  const found = [];
  for (let at = box; at && at !== map; at = at.parentElement) if (at.classList.contains("dir")) found.unshift(at);
  return found;
}

function lookInto(box) {
  for (const at of map.querySelectorAll(".open")) at.classList.remove("open", "passed");
  const path = around(box);
  for (const at of path) at.classList.add("open");
  for (const at of path.slice(0, -1)) at.classList.add("passed");
  crumbs.replaceChildren(...path.map((at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = at.querySelector("b").textContent;
    if (at === box) button.setAttribute("aria-current", "true");
    button.addEventListener("click", () => { lookInto(at); focusOn(at); });
    return button;
  }));
  // only what can be seen can be reached with the Tab key
  for (const label of map.querySelectorAll(".dir > .label")) {
    label.tabIndex = box.contains(label) && label.offsetHeight > 12 && label.offsetWidth > 24 ? 0 : -1;
  }
}

function focusOn(box) { box.querySelector(".label").focus(); }

function leave(box) {
  const path = around(box);
  const above = path[path.length - 2];
  if (above) { lookInto(above); focusOn(box); }
}

if (map && crumbs) {
  const top = map.firstElementChild;
  for (const label of map.querySelectorAll(".dir > .label")) {
    label.setAttribute("role", "button");
    label.setAttribute("aria-label", label.parentElement.title);
  }
  const here = () => { const open = map.querySelectorAll(".open"); return open[open.length - 1] || top; };
  map.addEventListener("click", (event) => {
    const box = event.target.closest(".dir");
    if (!box) return;
    if (box === here()) leave(box); else { lookInto(box); focusOn(box); }
  });
  document.addEventListener("keydown", (event) => {
    const label = event.target.closest && event.target.closest("#treemap .label");
    if (label && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      if (label.parentElement === here()) leave(here());
      else { lookInto(label.parentElement); focusOn(label.parentElement); }
    } else if (event.key === "Escape" && event.target.tagName !== "INPUT") leave(here());
  });
  lookInto(top);
  // usr.html#b12 opens at a directory, as a link to it does
  const linked = () => {
    const box = /^#b\d+$/.test(location.hash) && map.querySelector(location.hash);
    if (box && box.classList.contains("dir")) lookInto(box);
  };
  addEventListener("hashchange", linked);
  linked();
}

// -- the list of changes: rows that have the words, and the kinds that are chosen

const search = document.getElementById("search");
const list = document.getElementById("changes-list");

if (search && list) {
  const rows = [...list.tBodies[0].rows].map((row) => ({
    row, letters: row.cells[0].textContent, text: row.cells[1].textContent.toLowerCase(),
  }));
  const chosen = new Set();
  const update = () => {
    const words = search.value.toLowerCase();
    let shown = 0;
    for (const { row, letters, text } of rows) {
      const fits = text.includes(words) && (!chosen.size || [...letters].some((letter) => chosen.has(letter)));
      row.hidden = !fits;
      shown += fits;
    }
    document.getElementById("matches").value = words || chosen.size ? `${shown} of the ${rows.length} listed` : "";
  };
  search.addEventListener("input", update);
  for (const chip of document.querySelectorAll("#kinds .chip")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "chip";
    button.append(...chip.childNodes);
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => {
      const kind = chip.dataset.kind;
      if (!chosen.delete(kind)) chosen.add(kind);
      button.setAttribute("aria-pressed", String(chosen.has(kind)));
      update();
    });
    chip.replaceWith(button);
  }
}
