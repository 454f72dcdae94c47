"use strict";
// The list of photos, and one of them large. Only what is on the screen is in the document: rows are made as they scroll
// into view.

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
