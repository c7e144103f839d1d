"use strict";
(() => {
  const PAGE_SIZE = 48;
  const WELL_RATIO = 4 / 3;
  const OUTCOMES = [
    ["all", "All"], ["protected", "Protected"], ["no_face", "No face"], ["skipped", "Done before"], ["failed", "Failed"],
    ["weak", "Weak faces"],
  ];
  const BADGES = { protected: "Protected", no_face: "No face found", skipped: "Done before", failed: "Failed" };
  const MODES = [["compare", "Compare"], ["after", "Protected"], ["difference", "Difference ×10"]];

  const { photos } = JSON.parse(byId("data").textContent);
  const state = { outcome: "all", text: "", sort: "name", page: 0, found: photos, at: -1, mode: "compare" };

  function byId(id) { return document.getElementById(id); }

  // Text only, never markup: names and reasons are anybody's.
  function element(tag, properties = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in made) made[name] = value; else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  function plural(count, noun) { return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`; }

  // ---- one photo -------------------------------------------------------------------------------------------------

  function image(photo, source, alt, className = "") {
    return element("img", { src: source, alt, className, width: photo.width, height: photo.height, loading: "lazy",
      decoding: "async", draggable: false });
  }

  function frame(photo) {
    const made = element("div", { className: "photo" });
    made.style.setProperty("--ratio", String(photo.width / photo.height));
    made.style.setProperty("--w", `${Math.min(100, (photo.width / photo.height / WELL_RATIO) * 100)}%`);
    return made;
  }

  function boxes(photo) {
    return photo.faces.map((face, index) => {
      const [left, top, width, height] = face.box;
      const box = element("span", { className: "box", "aria-hidden": "true" });
      const at = { left, top, width, height };
      for (const side of Object.keys(at)) box.style.setProperty(side, `${at[side] * 100}%`);
      const label = element("b", {}, String(index + 1));
      if (top < 0.06) label.style.bottom = "auto";
      box.append(label);
      return box;
    });
  }

  function afterAlt(photo) {
    const faces = photo.faceCount ? `, ${plural(photo.faceCount, "face")}` : "";
    return `${photo.faceCount ? "Protected photo" : "Published photo"} ${photo.name}${faces}`;
  }

  function single(photo, source, alt, withBoxes = true) {
    const made = frame(photo);
    made.append(image(photo, source, alt), ...(withBoxes ? boxes(photo) : []));
    return made;
  }

  // Through the largest face, so that both of its versions are seen before anybody moves the slider.
  function firstSplit(photo) {
    const area = ({ box }) => box[2] * box[3];
    const largest = photo.faces.reduce((best, face) => (best && area(best) >= area(face) ? best : face), null);
    return largest ? Math.round(Math.min(1, Math.max(0, largest.box[0] + largest.box[2] / 2)) * 100) : 50;
  }

  // The original lies over the protected photo, as far as the slider says.
  function comparison(photo, before, after) {
    const made = frame(photo);
    const slider = element("input", { type: "range", min: "0", max: "100", value: String(firstSplit(photo)), step: "1" });
    slider.setAttribute("aria-label", `Original and protected photo, ${photo.name}`);
    const move = () => {
      made.style.setProperty("--at", `${slider.value}%`);
      slider.setAttribute("aria-valuetext", `${slider.value} % original, ${100 - slider.value} % protected`);
    };
    slider.addEventListener("input", move);
    move();
    made.append(
      image(photo, after, afterAlt(photo)),
      image(photo, before, `Original of ${photo.name}, not protected`, "before"),
      ...boxes(photo),
      element("span", { className: "divide", "aria-hidden": "true" }),
      element("span", { className: "tag left", "aria-hidden": "true" }, "original"),
      element("span", { className: "tag right", "aria-hidden": "true" }, "protected"),
      slider,
    );
    return made;
  }

  function picture(photo, large, mode = "compare") {
    const images = photo.images;
    const after = large ? images.view : images.thumb;
    const before = large ? images.before : images["before-thumb"];
    if (!after) return element("p", { className: "empty" }, "No picture");
    if (mode === "difference" && images.difference) {
      return single(photo, images.difference, `Ten times the difference that protecting made to ${photo.name}`);
    }
    if (mode === "compare" && before) return comparison(photo, before, after);
    return single(photo, after, afterAlt(photo));
  }

  function figures(photo) {
    const parts = [];
    if (photo.faceCount) parts.push(plural(photo.faceCount, "face"));
    if (photo.psnr !== null) parts.push(`PSNR ${photo.psnr.toFixed(1)} dB`);
    if (photo.similarity !== null) parts.push(`similarity ${photo.similarity.toFixed(2)}`);
    const made = parts.map((part) => element("span", {}, part));
    if (photo.weak) made.push(element("span", { className: "weak" }, `${photo.weak.toLocaleString("en")} weak`));
    return made;
  }

  function notes(photo, { short = false } = {}) {
    const made = photo.notes.map((note) => element("p", { className: "note" }, note));
    if (photo.reason) made.push(element("p", { className: "note reason" }, photo.reason));
    if (photo.cure && !short) made.push(element("p", { className: "note" }, element("strong", {}, "What to do. "), photo.cure));
    return made;
  }

  function badge(photo) { return element("span", { className: `badge ${photo.outcome}` }, BADGES[photo.outcome]); }

  function card(photo, index) {
    const open = element("button", { type: "button", className: "open" }, element("bdi", {}, photo.name));
    open.setAttribute("aria-haspopup", "dialog");
    open.addEventListener("click", () => show(index, open));
    const text = element("div", { className: "text" }, open, badge(photo));
    const line = figures(photo);
    if (line.length) text.append(element("p", { className: "figures" }, ...line));
    text.append(...notes(photo, { short: true }));
    const well = element("div", { className: "well" }, picture(photo, false));
    if (photo.images.thumb && !photo.images["before-thumb"]) {
      well.style.cursor = "zoom-in";
      well.addEventListener("click", () => show(index, open));
    }
    return element("li", { className: "card" }, well, text);
  }

  // ---- the grid --------------------------------------------------------------------------------------------------

  // Photos without the number come last, whichever way the others run.
  function by(value, sign) {
    return (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (x - y);
    };
  }
  const ORDERS = {
    similarity: by((photo) => photo.similarity, -1),
    psnr: by((photo) => photo.psnr, 1),
    faces: by((photo) => photo.faceCount, -1),
  };

  function kinds(photo) { return photo.weak ? [photo.outcome, "weak"] : [photo.outcome]; }

  function find() {
    const text = state.text.toLowerCase();
    const fits = (photo) => (state.outcome === "all" || kinds(photo).includes(state.outcome))
      && (!text || photo.name.toLowerCase().includes(text));
    state.found = photos.filter(fits);
    if (ORDERS[state.sort]) state.found.sort(ORDERS[state.sort]);
    state.page = 0;
    draw();
  }

  function draw() {
    const pages = Math.max(1, Math.ceil(state.found.length / PAGE_SIZE));
    const first = state.page * PAGE_SIZE;
    const shown = state.found.slice(first, first + PAGE_SIZE);
    byId("grid").replaceChildren(...shown.map((photo, index) => card(photo, first + index)));
    byId("status").textContent = state.found.length
      ? `${plural(state.found.length, "photo")}${pages > 1 ? `, ${first + 1} to ${first + shown.length} shown` : ""}`
      : "No photo fits.";
    byId("pager").hidden = pages === 1;
    byId("page").textContent = `Page ${state.page + 1} of ${pages}`;
    byId("previous").disabled = state.page === 0;
    byId("next").disabled = state.page === pages - 1;
  }

  function turn(step) {
    state.page += step;
    draw();
    byId("photos").scrollIntoView();
    byId("photos").focus({ preventScroll: true });
  }

  // Arrow keys go from name to name; Tab goes everywhere, as always.
  function walk(event) {
    const open = [...byId("grid").querySelectorAll(".open")];
    const at = open.indexOf(event.target);
    if (at < 0) return;
    const columns = getComputedStyle(byId("grid")).gridTemplateColumns.split(" ").length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -at, End: open.length - 1 - at };
    const next = open[at + steps[event.key]];
    if (!next) return;
    event.preventDefault();
    next.focus();
  }

  function controls() {
    const counts = { all: photos.length };
    for (const kind of photos.flatMap(kinds)) counts[kind] = (counts[kind] || 0) + 1;
    const filters = document.querySelector(".filters");
    for (const [outcome, name] of OUTCOMES) {
      if (!counts[outcome] && outcome !== "all") continue;
      const button = element("button", { type: "button" }, name,
        element("span", { className: "number" }, counts[outcome].toLocaleString("en")));
      button.setAttribute("aria-pressed", String(outcome === "all"));
      button.addEventListener("click", () => {
        for (const other of filters.children) other.setAttribute("aria-pressed", String(other === button));
        state.outcome = outcome;
        find();
      });
      filters.append(button);
    }
    byId("search").addEventListener("input", (event) => { state.text = event.target.value; find(); });
    byId("sort").addEventListener("change", (event) => { state.sort = event.target.value; find(); });
    byId("boxes").addEventListener("change", (event) => {
      document.body.classList.toggle("no-boxes", !event.target.checked);
    });
    byId("previous").addEventListener("click", () => turn(-1));
    byId("next").addEventListener("click", () => turn(1));
    byId("grid").addEventListener("keydown", walk);
    byId("controls").hidden = false;
  }

  // ---- one photo alone -------------------------------------------------------------------------------------------

  let opener = null;

  function show(index, from) {
    opener = from;
    fill(index);
    byId("viewer").showModal();
  }

  function fill(index) {
    state.at = index;
    const photo = state.found[index];
    byId("viewer-title").replaceChildren(element("bdi", {}, photo.name));
    byId("viewer-previous").disabled = index === 0;
    byId("viewer-next").disabled = index === state.found.length - 1;
    byId("modes").hidden = !photo.images.difference;
    byId("stage").replaceChildren(picture(photo, true, state.mode));
    byId("side").replaceChildren(badge(photo), ...notes(photo), facts(photo), ...faces(photo));
  }

  function facts(photo) {
    const rows = [];
    if (photo.width) rows.push(["Size", `${photo.width.toLocaleString("en")} × ${photo.height.toLocaleString("en")}`]);
    if (photo.faceCount) rows.push(["Faces", String(photo.faceCount)]);
    if (photo.weak) rows.push(["Weak", plural(photo.weak, "face")]);
    if (photo.likenesses.length) rows.push(["Jury", `likeness ${photo.likenesses.map((one) => one.toFixed(2)).join(", ")}; known from 1 on`]);
    if (photo.psnr !== null) rows.push(["PSNR", `${photo.psnr.toFixed(1)} dB inside the faces`]);
    if (photo.faceCount && !photo.measured && !photo.notes.length) rows.push(["Measured", "no"]);
    return element("dl", { className: "facts" },
      ...rows.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
  }

  function faces(photo) {
    if (!photo.faces.length) return [];
    const rows = photo.faces.map((face, index) => {
      const crops = [["before", "original"], ["after", "protected"]].filter(([kind]) => face.images[kind]).map(([kind, when]) =>
        element("figure", {},
          element("img", { src: face.images[kind], alt: `Face ${index + 1} ${when}`, width: 112, height: 112 }),
          element("figcaption", { "aria-hidden": "true" }, when)));
      const value = face.similarity === null ? "not measured" : `similarity ${face.similarity.toFixed(2)}`;
      return element("li", {}, ...crops, element("span", {}, element("span", { className: "who" }, `Face ${index + 1}`), value));
    });
    return [element("h3", {}, "Faces"), element("ol", { className: "face-list" }, ...rows)];
  }

  function viewer() {
    const dialog = byId("viewer");
    for (const [mode, name] of MODES) {
      const radio = element("input", { type: "radio", name: "mode", value: mode, checked: mode === state.mode });
      radio.addEventListener("change", () => { state.mode = mode; fill(state.at); });
      byId("modes").append(element("label", {}, radio, name));
    }
    const go = (step) => { if (state.found[state.at + step]) fill(state.at + step); };
    byId("viewer-previous").addEventListener("click", () => go(-1));
    byId("viewer-next").addEventListener("click", () => go(1));
    byId("viewer-close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => { if (opener && opener.isConnected) opener.focus(); });
    dialog.addEventListener("keydown", (event) => {
      if (event.target.matches("input")) return;  // the slider's and the radio buttons' own keys
      if (event.key === "ArrowLeft") go(-1);
      if (event.key === "ArrowRight") go(1);
    });
  }

  controls();
  viewer();
  find();
  document.body.classList.add("ready");
})();
