"""Helper: what takes image libraries, which are loaded by name, one thing after the other in a thread."""

from __future__ import annotations

import importlib
import json
import logging
import queue
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apf.errors import ApfError
from producer.app import people as who
from producer.app.albums import Album, Albums
from producer.app.words import CHOICES, told
from workers.batches.create import find_ledger
from workers.config.settings import Settings
from workers.core.records import PhotoReport
from workers.errors import BadRequest, WorkerError
from workers.status.batch_status import BatchMonitor

log = logging.getLogger(__name__)


class Helper:
    """Makes first looks, pictures to compare, and checks; each is kept in the album's folder."""

    def __init__(self, albums: Albums, settings: Settings) -> None:
        self._albums, self._settings = albums, settings
        self._jobs: queue.Queue[tuple[str, Callable[[], None]]] = queue.Queue()
        self._busy: set[str] = set()
        #: Why jobs ended early, on a full disk or with the user's folder away, say: no look begins them again.
        self._failed: dict[str, str] = {}
        self._viewing = threading.Lock()
        self._sorting = threading.Lock()
        self._viewers: dict[str, Any] = {}
        #: The faces of the album that was checked last, which its confirmation judges anew.
        self._seen: tuple[tuple[str, str], Any] | None = None

    def start(self) -> None:
        threading.Thread(target=self._run, name="helper", daemon=True).start()

    def _run(self) -> None:
        while True:
            name, job = self._jobs.get()
            try:
                job()
            except Exception as problem:  # the next job has to be done all the same
                self._failed[name] = _told(problem)
            finally:
                self._busy.discard(name)

    def _add(self, name: str, job: Callable[[], None]) -> None:
        if name not in self._busy:
            self._busy.add(name)
            self._jobs.put((name, job))

    def again(self, album: Album) -> None:
        """Have what failed made once more when it is next looked at."""
        self._failed.pop(f"looks {album.id}", None)
        self._failed.pop(f"check {album.id} {album.batch}", None)

    # First looks.

    def looks(self, album: Album) -> dict[str, Any]:
        """Return which looks there are: `made`, by recipe with "original" first, `done`, and `error`."""
        kept = _read(self._albums.place(album.id, "looks", "looks.json"))
        job = f"looks {album.id}"
        if not kept.get("done") and job in self._failed:
            kept |= {"done": True, "error": self._failed[job]}
        elif not kept.get("done"):
            self._add(job, lambda: self._make_looks(album))
        return {"made": [], "done": False, "error": "", **kept}

    def forget_looks(self, album: Album) -> None:
        """Have the first looks made anew, of other photos."""
        self._albums.place(album.id, "looks", "looks.json").unlink(missing_ok=True)

    def _make_looks(self, album: Album) -> None:
        folder = self._albums.place(album.id, "looks")
        folder.mkdir(exist_ok=True)
        made: list[str] = []
        preview: Any = importlib.import_module("workers.preview")
        recipes = [choice.recipe for choice in CHOICES]
        for look in preview.face_previews(str(self._albums.source(album)), recipes, self._settings):
            name = look.recipe or "original"
            (folder / f"{name}.jpg").write_bytes(look.picture)
            made.append(name)
            _write(folder / "looks.json", {"made": made})
        _write(folder / "looks.json", {"made": made, "done": True})

    # Pictures to compare.

    def reports(self, album: Album) -> list[PhotoReport]:
        """Return what became of each photo, by key."""
        return BatchMonitor(self._ledger(album), album.batch).photos()

    def card(self, album: Album, number: int) -> dict[str, Any]:
        """Return what the page shows of one photo; its pictures lie beside it, in `folder`.

        Raises:
            BadRequest: there is no such photo.
        """
        folder = self._albums.place(album.id, "cards", album.batch, f"{number:05}")
        with self._viewing:
            record = _read(folder / "card.json") or self._make_card(album, number, folder)
        return {**record, "folder": str(folder)}

    def _make_card(self, album: Album, number: int, folder: Path) -> dict[str, Any]:
        reports = self.reports(album)
        if not 0 <= number < len(reports):
            raise BadRequest(f"there is no photo {number} in this album")
        card = self._viewer(album).card(reports[number], measure=True)
        folder.mkdir(parents=True, exist_ok=True)
        record: dict[str, Any] = card.record(number, lambda name, data: _kept(folder, name, data))
        if "before" in record["images"] or not record["faceCount"]:
            _write(folder / "card.json", record)
        else:  # the user's own folder is away, and may come back
            self._viewers.clear()
        return record

    def _viewer(self, album: Album) -> Any:
        if album.batch not in self._viewers:
            for older in self._albums.place(album.id, "cards").glob("*"):
                if older.name != album.batch:
                    shutil.rmtree(older, ignore_errors=True)
            build: Any = importlib.import_module("workers.report.build")
            batch = self._ledger(album).read_batch(album.batch)
            self._viewers = {
                album.batch: build.make_viewer(
                    batch, build.ReportOptions(with_originals=True), self._settings, look=True
                )
            }
        return self._viewers[album.batch]

    # The check.

    def check(self, album: Album) -> dict[str, Any]:
        """Return what the check said, with `done`; where it is not done, it begins."""
        kept = _read(self._albums.place(album.id, "check.json"))
        now = self._people(album)
        if (kept.get("batch"), kept.get("confirmed")) == (album.batch, album.confirmed) and kept.get("of", now) == now:
            return {**kept, "done": True}
        job = f"check {album.id} {album.batch}"
        if job in self._failed:
            return {"done": True, "error": self._failed[job]}
        self._add(job, lambda: self._check(self._albums.get(album.id)))
        return {"done": False}

    def check_anew(self, album: Album) -> None:
        """Forget what the check said: there are other photos to compare with."""
        self._albums.place(album.id, "check.json").unlink(missing_ok=True)
        self._seen = None

    def move(self, album: Album, faces: set[str], row: str) -> None:
        """Put faces into another row. Where the user has confirmed the rows, the check judges by the new ones."""
        with self._sorting:
            self._keep_people(album, who.moved(self._people(album), faces, row))

    def people(self, album: Album) -> tuple[dict[str, list[str]], list[str]]:
        """Return the faces in each person's row, and those left out, by the names of their pictures."""
        found = self._people(album)
        return who.rows(found), who.left_out(found)

    def _people(self, album: Album) -> dict[str, str]:
        return _read(self._albums.place(album.id, "people.json"))

    def _keep_people(self, album: Album, found: who.Rows) -> None:
        _write(self._albums.place(album.id, "people.json"), found)

    def _check(self, album: Album) -> None:
        run: Any = importlib.import_module("workers.check.run")
        others = self._albums.place(album.id, "others")
        question = run.CheckOptions(
            protected=str(self._albums.destination(album)), others=str(others) if others.is_dir() else None
        )
        answer: dict[str, Any] = {"batch": album.batch, "confirmed": album.confirmed}
        try:
            known, seen = self._seen or (None, None)
            if known != (album.id, album.batch):
                seen = run.look(question, self._settings)
                self._seen = (album.id, album.batch), seen
            answer["of"] = rows = self._people(album) if album.confirmed else self._keep_faces(album, seen)
            answer |= run.judge(run.sorted_by(seen, who.counted(rows), confirmed=album.confirmed)).as_json()
        except BadRequest as problem:
            answer["nothing"] = str(problem)
        _write(self._albums.place(album.id, "check.json"), answer)

    def _keep_faces(self, album: Album, seen: Any) -> dict[str, str]:
        """Keep the faces' pictures, and the program's groups within what the user has sorted before; returns these."""
        folder = self._albums.place(album.id, "faces")
        folder.mkdir(exist_ok=True)
        for face in seen.looked.faces:
            if face.before_jpeg and face.id in seen.people:
                (folder / f"{face.id}.jpg").write_bytes(face.before_jpeg)
        with self._sorting:
            found = who.merged(seen.people, self._people(album))
            self._keep_people(album, found)
        return found

    def _ledger(self, album: Album) -> Any:
        return find_ledger(str(self._albums.destination(album)), self._settings)


def _told(problem: Exception) -> str:
    if not isinstance(problem, (WorkerError, ApfError, OSError)):
        log.error("the helper met what nobody foresaw", exc_info=problem)
    return told(problem)


def _kept(folder: Path, name: str, data: bytes) -> str:
    """Keep a picture under its kind alone; returns that."""
    kind = name.partition("-")[2]
    (folder / kind).write_bytes(data)
    return kind


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError):  # not yet, or a kill cut it short
        return {}


def _write(path: Path, value: object) -> None:
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(value))
    draft.replace(path)
