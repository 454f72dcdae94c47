"use strict";
// What the page knows of the photos, and which of them are shown in which order. All text from files goes through
// textContent, every address through `address`. list.js and page.js follow in the same script.

const data = JSON.parse(document.getElementById("data").textContent);
const rows = data.columns;
const count = rows.photo.length;
const $ = id => document.getElementById(id);
const RANGES = ["part_iou", "landmark_nme"];
const DIGITS = { part_iou: 1, landmark_nme: 2 };
const TABLE_ROW = 112, CARD = 116, CAPTION = 52, GAP = 10, OVERSCAN = 400;

const SORTS = {
  worst: "worst first", photo: "name", status: "status", part_iou: "Part IoU", landmark_nme: "landmark error",
  seconds: "seconds",
};
const START = { status: [], text: "", part_iou: null, landmark_nme: null, sort: "worst", down: false, view: "table" };
let state = { ...START };
let shown = new Uint32Array(0);  // listed photos that pass the filters, in order
let layout = { columns: 1, height: TABLE_ROW, width: 0 };
const live = new Map();  // place in `shown` -> element
let opened = -1;  // place in `shown` of the photo in the dialog

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function drawn(tag, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

// --- values of a photo -------------------------------------------------------------------------------------------

const percent = (value, digits, unit) => value === null ? "–" : (100 * value / unit).toFixed(digits) + " %";
const measured = (row, key) => percent(rows[key][row], DIGITS[key], data.units[key]);
const seconds = row => (rows.seconds[row] / data.units.seconds).toFixed(2) + " s";
const statusOf = row => data.statuses[rows.status[row]];
const words = status => status.replace("_", " ");
// control characters are drawn as their pictures, so that a name with a line feed does not look like two
const visible = text => text.replace(/[\x00-\x1f]/g, c => String.fromCharCode(0x2400 + c.charCodeAt(0))).replace(/\x7f/g, "\u2421");

function folderOf(row) {
  const folder = rows.folder[row];
  return folder === 0 ? rows.photo[row].replace(/\.[^./]+$/, "") : folder;
}

function pictureOf(row) {
  return rows.picture[row] === 0 ? "thumbnails/" + folderOf(row) + ".jpg" : rows.picture[row];
}

/** A path in this folder as a relative address. Bytes of a name that are no UTF-8 came as lone surrogates. */
function address(path) {
  const escaped = c => {
    const code = c.codePointAt(0);
    if (code >= 0xdc80 && code <= 0xdcff) return "%" + (code - 0xdc00).toString(16).toUpperCase();
    return encodeURIComponent(code >= 0xd800 && code <= 0xdfff ? "\ufffd" : c);
  };
  return "./" + path.split("/").map(part => part.replace(/[^]/gu, escaped)).join("/");
}

function fileOf(folder, row, kind) {
  const ending = data.files[rows.options[row]][kind];
  return folder === null || ending === undefined ? null : folder + "/" + folder.split("/").pop() + ending;
}

function linksTo(folder, row) {
  const links = make("span", "links");
  if (folder === null) return links;
  const add = (text, path) => {
    const link = make("a", "", text);
    link.href = address(path);
    links.append(link);
  };
  add("folder", folder + "/");
  for (const [kind, text] of [["glb", "GLB"], ["obj", "OBJ"], ["json", "JSON"]]) {
    const file = fileOf(folder, row, kind);
    if (file !== null) add(text, file);
  }
  return links;
}

// --- order and filters -------------------------------------------------------------------------------------------

const orders = {};

/** All listed photos in ascending order, those without a value last; `known` have one. */
function order(key) {
  if (orders[key]) return orders[key];
  const values = new Float64Array(count);
  const rank = data.statuses.map(status => data.worst_first.indexOf(status));
  for (let row = 0; row < count; row++) {
    if (key === "photo") values[row] = row;  // they come in the order of their names
    else if (key === "status") values[row] = rank[rows.status[row]];
    else if (key === "worst") {
      const overlap = rows.part_iou[row] === null ? 0 : rows.part_iou[row] + 1;
      const error = Math.min(rows.landmark_nme[row] ?? 0, 1e6) / 1e6;
      values[row] = rank[rows.status[row]] * 1e5 + overlap - error;
    } else values[row] = rows[key][row] ?? Infinity;
  }
  const all = Uint32Array.from(values.keys());
  if (key !== "photo") all.sort((a, b) => values[a] === values[b] ? a - b : values[a] < values[b] ? -1 : 1);
  let known = count;
  while (known > 0 && values[all[known - 1]] === Infinity) known--;
  return orders[key] = { all, known };
}

let haystack = null;

/** For each listed photo, which of the four filters it passes: status 1, text 2, Part IoU 4, landmark error 8. */
function passed() {
  const marks = new Uint8Array(count);
  const statuses = data.statuses.map(status => !state.status.length || state.status.includes(status));
  const text = state.text.toLowerCase();
  if (text && !haystack) haystack = rows.photo.map((name, row) => (name + "\n" + rows.message[row]).toLowerCase());
  const inside = RANGES.map(key => {
    if (!state[key]) return () => true;
    const [from, below] = state[key].map(value => value === null ? null : value * data.units[key] / 100);
    const values = rows[key];
    return row => values[row] !== null && (from === null || values[row] >= from - 1e-9)
      && (below === null || values[row] < below - 1e-9);
  });
  for (let row = 0; row < count; row++) {
    marks[row] = statuses[rows.status[row]] + 2 * (!text || haystack[row].includes(text)) + 4 * inside[0](row)
      + 8 * inside[1](row);
  }
  return marks;
}

function update() {
  const marks = passed();
  const { all, known } = order(state.sort);
  let total = 0;
  const found = new Uint32Array(count);
  const take = row => { if (marks[row] === 15) found[total++] = row; };
  if (state.down) {
    for (let k = known - 1; k >= 0; k--) take(all[k]);
  } else for (let k = 0; k < known; k++) take(all[k]);
  for (let k = known; k < count; k++) take(all[k]);
  shown = found.subarray(0, total);
  drawHistogram("part_iou", marks, 4);
  drawHistogram("landmark_nme", marks, 8);
  drawTools();
  const top = $("view").getBoundingClientRect().top + scrollY - $("tools").offsetHeight;
  if (scrollY > top) scrollTo(0, top);
  arrange();
}

function drawTools() {
  for (const chip of document.querySelectorAll(".chip")) {
    chip.setAttribute("aria-pressed", state.status.includes(chip.dataset.status));
  }
  if ($("text").value !== state.text) $("text").value = state.text;
  $("sort").value = state.sort;
  $("direction").textContent = state.down ? "↓" : "↑";
  for (const view of ["table", "grid"]) $(view).setAttribute("aria-pressed", state.view === view);
  const all = !state.status.length && !state.text && !state.part_iou && !state.landmark_nme;
  $("reset").hidden = all;
  $("shown").textContent = all ? count.toLocaleString("en") + (count === 1 ? " photo" : " photos")
    : shown.length.toLocaleString("en") + " of " + count.toLocaleString("en");
  $("empty").hidden = shown.length > 0;
  for (const cell of $("head").children) {
    const on = cell.dataset.sort === state.sort;
    if (on) cell.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
    if (cell.dataset.sort) cell.firstChild.textContent = SORTS[cell.dataset.sort] + (on ? (state.down ? " ↓" : " ↑") : "");
  }
}

/** All values in grey (the others' filters left aside), those that pass them in colour; bars outside the range fade. */
function drawHistogram(key, marks, bit) {
  const { width, counts } = data.histograms[key];
  const values = rows[key];
  const passing = counts.map(() => 0);
  for (let row = 0; row < count; row++) {
    if (values[row] !== null && (marks[row] | bit) === 15) passing[Math.min(Math.floor(values[row] / width), counts.length - 1)]++;
  }
  const step = 300 / counts.length, most = Math.max(1, ...counts);
  const unit = 100 / data.units[key];
  const svg = $(key + "-histogram");
  svg.replaceChildren();
  const [from, below] = state[key] ?? [null, null];
  counts.forEach((all, k) => {
    const low = k * width * unit, high = (k + 1) * width * unit, last = k === counts.length - 1;
    const outside = (below !== null && low >= below - 1e-9) || (from !== null && !last && high <= from + 1e-9);
    const group = drawn("g", outside ? { class: "outside" } : {});
    const bar = (kind, value) => {
      // one photo among thousands is still to be seen
      const height = value ? Math.max(78 * value / most, 1.5) : 0;
      group.append(drawn("rect", { class: kind, x: k * step + 0.6, y: 84 - height, width: step - 1.2, height }));
    };
    bar("all", all);
    bar("shown", passing[k]);
    const target = drawn("rect", { class: "target", x: k * step, y: 0, width: step, height: 84 });
    const title = drawn("title", {});
    title.textContent = `${tick(low)} % ${last ? "and more" : "to " + tick(high) + " %"}: ${all} photos, ${passing[k]} shown`;
    target.append(title);
    group.append(target);
    svg.append(group);
  });
  svg.setAttribute("aria-label", "Histogram of " + SORTS[key] + "; set a range with the two fields below.");
  $(key + "-from").value = from === null ? "" : tick(from);
  $(key + "-below").value = below === null ? "" : tick(below);
  const ends = [0, 0.5, 1].map(share => tick(share * counts.length * width * unit) + " %");
  $(key + "-axis").replaceChildren(...ends.map(text => make("span", "", text)));
}

const tick = value => String(Number(value.toFixed(4)));

/** A click takes one bar, dragging takes several, a click on the one taken lets it go. */
function listenToHistogram(key) {
  const svg = $(key + "-histogram");
  const { width, counts } = data.histograms[key];
  const unit = 100 / data.units[key];
  let first = null, before = null;
  const binAt = event => {
    const box = svg.getBoundingClientRect();
    return Math.min(counts.length - 1, Math.max(0, Math.floor((event.clientX - box.left) / box.width * counts.length)));
  };
  const range = (a, b) => {
    const high = Math.max(a, b) + 1;
    return [Number(tick(Math.min(a, b) * width * unit)), high === counts.length ? null : Number(tick(high * width * unit))];
  };
  svg.addEventListener("pointerdown", event => {
    if (event.button) return;
    first = binAt(event);
    before = JSON.stringify(state[key]);
    svg.setPointerCapture(event.pointerId);
    change({ [key]: range(first, first) });
  });
  svg.addEventListener("pointermove", event => {
    if (first === null) return;
    const wanted = range(first, binAt(event));
    if (JSON.stringify(wanted) !== JSON.stringify(state[key])) change({ [key]: wanted });
  });
  svg.addEventListener("pointerup", event => {
    const again = first !== null && binAt(event) === first && before === JSON.stringify(range(first, first));
    first = null;
    if (again) change({ [key]: null });
  });
  svg.addEventListener("pointercancel", () => { first = null; });
}
