"use strict";
// The list of photos. Only what is on the screen is in the document: rows are made as they scroll into view. All text
// from files goes through textContent, every address through `address`.

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

// --- the list ----------------------------------------------------------------------------------------------------

function arrange() {
  const list = $("list");
  const width = list.clientWidth;
  const kind = state.view === "grid" ? "as-grid" : width < 900 ? "as-cards" : "as-table";
  $("view").className = kind;
  let columns = 1, height = kind === "as-table" ? TABLE_ROW : CARD, each = width;
  if (kind === "as-grid") {
    columns = Math.max(1, Math.floor((width + GAP) / ((width < 700 ? 156 : 250) + GAP)));
    each = (width - GAP * (columns - 1)) / columns;
    height = Math.round(each / 2) + CAPTION + GAP;
  }
  layout = { columns, height, width: each };
  list.style.height = Math.ceil(shown.length / columns) * height + "px";
  const table = kind !== "as-grid";
  $("view").setAttribute("role", table ? "table" : "presentation");
  $("view").setAttribute("aria-label", "Photos");
  list.setAttribute("role", table ? "rowgroup" : "list");
  if (table) $("view").setAttribute("aria-rowcount", shown.length + 1);
  else $("view").removeAttribute("aria-rowcount");
  $("head").style.top = $("tools").offsetHeight + "px";
  for (const element of live.values()) element.remove();
  live.clear();
  render();
}

function render() {
  const list = $("list");
  const top = -list.getBoundingClientRect().top;
  const { columns, height, width } = layout;
  const first = Math.max(0, Math.floor((top - OVERSCAN) / height)) * columns;
  const stop = Math.min(shown.length, Math.ceil((top + innerHeight + OVERSCAN) / height) * columns);
  const focused = [...live].find(([, element]) => element.contains(document.activeElement));
  const places = [];
  if (focused && focused[0] < first) places.push(focused[0]);
  for (let place = first; place < stop; place++) places.push(place);
  if (focused && focused[0] >= stop) places.push(focused[0]);
  const wanted = new Set(places);
  for (const [place, element] of live) {
    if (wanted.has(place)) continue;
    element.remove();
    live.delete(place);
  }
  let after = list.firstChild;  // in the order of the tabulator key
  for (const place of places) {
    let element = live.get(place);
    if (element && element === after) {
      after = after.nextSibling;
      continue;
    }
    if (!element) {
      element = item(place);
      live.set(place, element);
      element.style.width = width + "px";
      element.style.height = height - (state.view === "grid" ? GAP : 0) + "px";
      const column = place % columns;
      element.style.transform = `translate(${column * (width + GAP)}px, ${Math.floor(place / columns) * height}px)`;
    }
    list.insertBefore(element, after);
  }
}

function item(place) {
  const row = shown[place];
  const table = state.view === "table";
  const role = table ? "cell" : null;
  const status = statusOf(row);
  const element = make("div", "item " + status);
  element.dataset.place = place;
  element.setAttribute("role", table ? "row" : "listitem");
  if (table) element.setAttribute("aria-rowindex", place + 2);
  const name = visible(rows.photo[row]);

  const about = make("div", "about");
  const title = make("div", "name", name);
  title.title = name;
  title.dir = "auto";
  const message = make("div", "message", visible(rows.message[row]));
  message.title = message.textContent;
  message.dir = "auto";
  about.append(title, message);

  const facts = make("div", "facts");
  const told = make("span", "status");
  told.append(make("i"), words(status));
  if (data.faces[row]) told.append(make("small", "", data.faces[row].length + " faces"));
  facts.append(told);
  for (const key of RANGES) {
    const figure = make("span", "number " + (key === "part_iou" ? "iou" : "nme"), measured(row, key));
    if (key === "part_iou" && rows.part_iou[row] !== null) figure.append(level(rows.part_iou[row] / data.units.part_iou));
    facts.append(figure);
  }
  facts.append(make("span", "number seconds", seconds(row)), linksTo(folderOf(row), row));
  if (role) for (const cell of [about, ...facts.children]) cell.setAttribute("role", role);
  const picture = pictureLink(row, name);
  if (role) {
    const cell = make("div");
    cell.setAttribute("role", role);
    cell.append(picture);
    element.append(cell, about, facts);
  } else element.append(picture, about, facts);
  return element;
}

function level(share) {
  const svg = drawn("svg", { class: "bar", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" });
  svg.append(drawn("rect", { class: "track", width: 100, height: 4 }));
  svg.append(drawn("rect", { class: "level", width: (100 * share).toFixed(1), height: 4 }));
  return svg;
}

function pictureLink(row, name) {
  const link = make("a", "picture");
  const picture = pictureOf(row);
  link.href = address(fileOf(folderOf(row), row, "overlay") ?? picture ?? "");
  link.setAttribute("aria-label", "Look at " + name);
  if (picture === null) link.textContent = "no picture";
  else link.append(image(picture, ""));
  return link;
}

function image(path, alt) {
  const element = make("img");
  element.loading = "lazy";
  element.decoding = "async";
  element.alt = alt;
  element.addEventListener("error", () => element.replaceWith("no picture"));
  element.src = address(path);
  return element;
}

// --- one photo, large --------------------------------------------------------------------------------------------

function open(place) {
  opened = place;
  const row = shown[place];
  const folder = folderOf(row), name = visible(rows.photo[row]);
  $("dialog-name").textContent = name;
  $("dialog-name").dir = "auto";
  $("previous").disabled = place === 0;
  $("next").disabled = place === shown.length - 1;
  const faces = data.faces[row] ?? [];
  const sheets = (faces.length ? faces.map(face => face.folder) : [folder]).filter(each => each !== null);
  const body = [];
  for (const each of sheets.length ? sheets : [null]) {
    const file = fileOf(each, row, "overlay") ?? (each === folder ? pictureOf(row) : each && "thumbnails/" + each + ".jpg");
    const sheet = make("div", "sheet");
    if (file) sheet.append(image(file, "Overlay of " + name));
    if (file) body.push(sheet);
  }
  const told = make("div", "told " + statusOf(row));
  const status = make("span", "status");
  status.append(make("i"), words(statusOf(row)));
  told.append(status);
  for (const key of RANGES) told.append(make("span", "", `${SORTS[key]} ${measured(row, key)}`));
  told.append(make("span", "", seconds(row)), linksTo(folder, row));
  body.push(told);
  if (rows.message[row]) {
    const message = make("p", "", visible(rows.message[row]));
    message.dir = "auto";
    body.push(message);
  }
  if (faces.length) body.push(listOfFaces(faces, row));
  else if (rows.part_iou[row] !== null) body.push(listOfParts(row));
  $("dialog-body").replaceChildren(...body);
  $("dialog-body").scrollTop = 0;
  if (!$("dialog").open) $("dialog").showModal();
}

function listOfFaces(faces, row) {
  const list = make("ol", "faces");
  for (const face of faces) {
    const line = make("li", data.statuses[face.status]);
    const overlap = percent(face.part_iou, 1, data.units.part_iou);
    line.append(`${words(data.statuses[face.status])}, Part IoU ${overlap} `, linksTo(face.folder, row));
    if (face.message) line.append(make("div", "message", visible(face.message)));
    list.append(line);
  }
  return list;
}

function listOfParts(row) {
  const list = make("ul", "bars");
  data.parts.forEach((part, k) => {
    const value = data.part_columns[k][row];
    if (value === null) return;
    const line = make("li");
    const bar = level(value / data.units.part_iou);
    bar.lastChild.setAttribute("fill", part.colour);
    line.append(make("span", "", part.name), bar, make("b", "", percent(value, 1, data.units.part_iou)));
    list.append(line);
  });
  return list;
}

function step(by) {
  const place = opened + by;
  if (place >= 0 && place < shown.length) open(place);
}

/** Scrolls to a place of the list and gives its picture the focus. */
function focusOn(place) {
  if (place < 0 || place >= shown.length) return;
  const { columns, height } = layout;
  const above = $("tools").offsetHeight + $("head").offsetHeight;
  const top = $("list").getBoundingClientRect().top + Math.floor(place / columns) * height;
  if (top < above) scrollBy(0, top - above);
  else if (top + height > innerHeight) scrollBy(0, top + height - innerHeight);
  render();
  live.get(place)?.querySelector(".picture").focus({ preventScroll: true });
}

// --- the address holds the view ----------------------------------------------------------------------------------

const isRange = text => /^[0-9.]*-[0-9.]*$/.test(text ?? "") && text !== "-";

function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  const range = text => isRange(text) ? text.split("-").map(each => each === "" ? null : Number(each)) : null;
  state = {
    status: (given.get("status") ?? "").split(",").filter(each => data.statuses.includes(each)),
    text: given.get("text") ?? "",
    part_iou: range(given.get("part_iou")),
    landmark_nme: range(given.get("landmark_nme")),
    sort: Object.hasOwn(SORTS, given.get("sort")) ? given.get("sort") : START.sort,
    down: given.get("down") === "1",
    view: given.get("view") === "grid" ? "grid" : "table",
  };
}

function write() {
  const wanted = new URLSearchParams();
  if (state.status.length) wanted.set("status", state.status.join(","));
  if (state.text) wanted.set("text", state.text);
  for (const key of RANGES) if (state[key]) wanted.set(key, state[key].map(each => each ?? "").join("-"));
  if (state.sort !== START.sort) wanted.set("sort", state.sort);
  if (state.down) wanted.set("down", "1");
  if (state.view !== START.view) wanted.set("view", state.view);
  history.replaceState(null, "", "#" + wanted);
}

function change(what) {
  state = { ...state, ...what };
  write();
  update();
}

// --- start -------------------------------------------------------------------------------------------------------

function start() {
  for (const [key, text] of Object.entries(SORTS)) {
    const option = make("option", "", text);
    option.value = key;
    $("sort").append(option);
  }
  for (const key of [null, "photo", "status", "part_iou", "landmark_nme", "seconds", null]) {
    const cell = make("div", ["part_iou", "landmark_nme", "seconds"].includes(key) ? "right" : "");
    cell.setAttribute("role", "columnheader");
    if (key) {
      const button = make("button");
      button.type = "button";
      cell.dataset.sort = key;
      button.addEventListener("click", () => change({ sort: key, down: state.sort === key && !state.down }));
      cell.append(button);
    } else cell.setAttribute("aria-label", $("head").children.length ? "files" : "picture");
    $("head").append(cell);
  }
  for (const chip of document.querySelectorAll(".chip")) {
    chip.addEventListener("click", () => {
      const name = chip.dataset.status;
      change({ status: state.status.includes(name) ? state.status.filter(each => each !== name) : [...state.status, name] });
    });
  }
  let typing = 0;
  $("text").addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => change({ text: $("text").value }), count > 20000 ? 150 : 0);
  });
  $("sort").addEventListener("change", () => change({ sort: $("sort").value, down: false }));
  $("direction").addEventListener("click", () => change({ down: !state.down }));
  for (const view of ["table", "grid"]) $(view).addEventListener("click", () => change({ view }));
  $("reset").addEventListener("click", () => change({ status: [], text: "", part_iou: null, landmark_nme: null }));
  for (const key of RANGES) {
    listenToHistogram(key);
    const field = name => {
      const value = $(`${key}-${name}`).valueAsNumber;
      return Number.isFinite(value) && value >= 0 ? value : null;
    };
    for (const name of ["from", "below"]) {
      $(`${key}-${name}`).addEventListener("change", () => {
        const range = [field("from"), field("below")];
        change({ [key]: range.every(each => each === null) ? null : range });
      });
    }
  }
  $("list").addEventListener("click", event => {
    const picture = event.target.closest(".picture");
    if (!picture || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    open(Number(picture.closest(".item").dataset.place));
  });
  $("list").addEventListener("keydown", event => {
    const by = { ArrowDown: layout.columns, ArrowUp: -layout.columns, ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by || !event.target.matches(".picture")) return;
    event.preventDefault();
    focusOn(Number(event.target.closest(".item").dataset.place) + by);
  });
  $("dialog").addEventListener("keydown", event => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  $("dialog").addEventListener("click", event => { if (event.target === $("dialog")) $("dialog").close(); });
  $("dialog").addEventListener("close", () => focusOn(opened));
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => $("dialog").close());
  let drawing = false;
  addEventListener("scroll", () => {
    if (drawing) return;
    drawing = true;
    requestAnimationFrame(() => { drawing = false; render(); });
  }, { passive: true });
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) arrange();  // a phone's address bar changes the height alone
    else render();
    width = innerWidth;
  });
  addEventListener("hashchange", () => { read(); update(); });
  read();
  update();
}

start();
