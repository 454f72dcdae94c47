"use strict";
// What the page does from its start on.

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
