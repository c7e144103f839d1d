"use strict";
(() => {
  const { album, step } = document.body.dataset;
  const byId = (id) => document.getElementById(id);
  const PHOTO = /\.(jpe?g|jpe|jfif|mpo|png|webp|hei[cf]|hif|avif|tiff?)$/i;
  const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

  // ---- handing photos over ---------------------------------------------------------------------------------------

  async function handOver(files, kind) {
    const photos = files.filter(({ name }) => PHOTO.test(name));
    const status = byId("upload-status");
    const failed = [];
    for (const [index, { file, name }] of photos.entries()) {
      status.textContent = `${index + 1} of ${plural(photos.length, "photo")}…`;
      try {
        const answer = await fetch(`/albums/${album}/${kind}?name=${encodeURIComponent(name)}`, { method: "PUT", body: file });
        if (!answer.ok) failed.push(`${name}: ${(await answer.json()).error}`);
      } catch {
        failed.push(`${name}: the program does not answer`);
      }
    }
    const other = files.length - photos.length;
    const kept = photos.length - failed.length;
    status.textContent = [
      plural(kept, "photo") + " added.",
      other ? `${plural(other, "file")} left out: no photo.` : "",
      failed.length ? `Not added: ${failed.slice(0, 5).join("; ")}` : "",
    ].filter(Boolean).join(" ");
    if (!kept) return;
    if (kind === "others") { byId("next").submit(); return; }
    byId("count").textContent = (Number(byId("count").textContent.replace(/\D/g, "")) + kept).toLocaleString("en");
    byId("next").hidden = false;
    byId("next").querySelector("button").focus();
  }

  function entries(reader) {
    return new Promise((resolve, reject) => reader.readEntries(resolve, reject));
  }

  async function below(entry) {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      return [{ file, name: entry.fullPath.replace(/^\//, "") }];
    }
    const found = [];
    const reader = entry.createReader();
    for (let some = await entries(reader); some.length; some = await entries(reader)) {
      for (const one of some) found.push(...await below(one));
    }
    return found;
  }

  for (const input of document.querySelectorAll('input[type="file"]')) {
    const take = () => {
      const files = [...input.files].map((file) => ({ file, name: file.webkitRelativePath || file.name }));
      input.value = "";
      handOver(files, input.dataset.kind);
    };
    input.addEventListener("change", take);
    if (input.files.length) take();  // chosen before this script ran
  }
  for (const drop of document.querySelectorAll(".drop")) {
    drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", async (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      const items = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry());
      const plain = [...event.dataTransfer.files].map((file) => ({ file, name: file.name }));
      const files = items.every(Boolean) ? (await Promise.all(items.map(below))).flat() : plain;
      handOver(files, drop.dataset.kind);
    });
  }
  // A photo that misses the place must not be opened instead of the page.
  for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault());

  // ---- how far it is ---------------------------------------------------------------------------------------------

  let first = null;

  function showWork({ photos, done }) {
    const bar = byId("bar");
    if (!bar || !photos) return;
    bar.max = photos;
    if (!done) return;
    bar.value = done;
    byId("far").textContent = `${done.toLocaleString("en")} of ${plural(photos, "photo")}`;
    const now = Date.now();
    if (!first || first.done > done) first = { done, now };
    if (done > first.done) {
      const left = (now - first.now) / (done - first.done) * (photos - done) / 60000;
      byId("left").textContent = left < 1 ? "Less than a minute left" : `About ${plural(Math.round(left), "minute")} left`;
    }
  }

  function showLooks({ made, done, error }) {
    for (const name of made) {
      const image = document.querySelector(`img[data-look="${name}"]`);
      if (!image || !image.hidden) continue;
      image.src = `/albums/${album}/looks/${name}.jpg`;
      image.hidden = false;
      image.nextElementSibling.hidden = true;
    }
    lookCloser();
    const status = byId("looks-status");
    if (done && error) status.textContent = `The pictures could not be made: ${error}`;
    else if (done && !made.length) status.textContent = "No face was found in the first photos. You can go on all the same.";
    else status.textContent = done ? "" : "The pictures are being made…";
    if (done) for (const wait of document.querySelectorAll(".wait")) if (!made.length || error) wait.textContent = "No picture";
    return done;
  }

  // The chosen look beside the original, as large as the page has room for.
  function lookCloser() {
    const chosen = document.querySelector('input[name="recipe"]:checked');
    const [before, after] = ["original", chosen.value].map((name) => document.querySelector(`img[data-look="${name}"]`));
    if (before.hidden || after.hidden) return;
    const set = (image, source) => { if (image.getAttribute("src") !== source) image.src = source; };
    set(document.querySelector('[data-close="before"]'), before.getAttribute("src"));
    set(document.querySelector('[data-close="after"]'), after.getAttribute("src"));
    byId("closer").hidden = false;
    if (!before.naturalWidth) { before.addEventListener("load", lookCloser, { once: true }); return; }
    shape(byId("closer").querySelector(".compare"), before.naturalWidth / before.naturalHeight);
  }
  for (const radio of document.querySelectorAll('input[name="recipe"]')) radio.addEventListener("change", lookCloser);

  function shape(compare, ratio) {
    compare.style.setProperty("--ratio", String(ratio));
    compare.style.setProperty("--w", `min(100%, ${(75 * ratio).toFixed(2)}vh)`);
  }

  function showCheck({ done, nothing, error, compared, stillMatched, confirmed, photos }) {
    if (!done) return false;
    const status = byId("check-status");
    if (error) { status.textContent = `It could not be found out: ${error}`; return true; }
    byId("check-people").hidden = false;
    if (nothing || !compared) {
      status.textContent = "Nobody is on two of these photos, so there is nothing to compare. Add other photos of these people below.";
      return true;
    }
    const hidden = compared - stillMatched;
    status.textContent = `Two programs compared ${plural(compared, "photo")} with other photos of the same people. `
      + (stillMatched ? `On ${hidden} they recognise nobody any more; on ${stillMatched} they still do.` : "They recognise nobody any more.");
    if (!confirmed) status.textContent += " The program itself found out who is who.";
    byId("check-more").hidden = false;
    for (const [number, { sentence, verdict }] of Object.entries(photos)) {
      const place = document.querySelector(`.said[data-photo="${number}"]`);
      if (!place) continue;
      place.textContent = sentence;
      place.classList.add(verdict === "hidden" ? "hidden-now" : "known");
    }
    return true;
  }

  async function look() {
    let found;
    try {
      found = await (await fetch(`/albums/${album}/state`)).json();
    } catch {
      setTimeout(look, 3000);  // the program is started again, perhaps
      return;
    }
    if (found.step !== step || (byId("bar") && (found.error || found.stopped))) { location.reload(); return; }
    let over = false;
    if (step === "looks") over = showLooks(found.looks);
    if (step === "work") showWork(found);
    if (step === "done") over = showCheck(found.check);
    if (!over) setTimeout(look, 700);
  }
  if (album && ["looks", "work", "done"].includes(step)) look();

  // ---- before and after ------------------------------------------------------------------------------------------

  for (const compare of document.querySelectorAll(".compare")) {
    const slider = compare.querySelector("input");
    const move = () => {
      compare.style.setProperty("--at", `${slider.value}%`);
      slider.setAttribute("aria-valuetext", `${slider.value} % before, ${100 - slider.value} % after`);
    };
    shape(compare, Number(compare.dataset.ratio));
    slider.addEventListener("input", move);
    move();
  }

  addEventListener("keydown", (event) => {
    if (event.target.matches("input")) return;
    const way = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
    const link = way && document.querySelector(`a[rel="${way}"]`);
    if (link) link.click();
  });

  for (const button of document.querySelectorAll("button[data-sure]")) {
    button.addEventListener("click", (event) => { if (!confirm(button.dataset.sure)) event.preventDefault(); });
  }
  document.body.dataset.ready = "";
})();
