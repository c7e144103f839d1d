"""The pages of `apf app`, and what they ask for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from apf.errors import ApfError
from producer.app import folders, uploads, views
from producer.app.albums import Album, Albums
from producer.app.helper import Helper
from producer.app.people import SOMEBODY_ELSE
from producer.app.runner import Runner
from producer.app.words import told
from producer.app.zipping import zipped
from workers.config.settings import Settings
from workers.errors import BadRequest, NotFound, WorkerError

PAGES = Path(__file__).with_name("pages")


class Pages:
    """All that the app answers.

    Args:
        quit_: ends the server.
    """

    def __init__(self, albums: Albums, settings: Settings, places: folders.Folders, quit_: Callable[[], None]) -> None:
        self.albums, self.settings, self.places, self.quit = albums, settings, places, quit_
        self.runner, self.helper = Runner(albums, settings), Helper(albums, settings)
        self._templates = Environment(
            autoescape=True, loader=FileSystemLoader(PAGES), trim_blocks=True, lstrip_blocks=True
        )
        self._templates.filters["quoted"] = lambda text: quote(str(text), safe="")

    def start(self) -> None:
        """Begin to work, in threads that end with the process."""
        self.runner.start()
        self.helper.start()

    def app(self) -> Starlette:
        """Return the server's application."""
        get, post = ["GET"], ["POST"]
        album = "/albums/{album_id}"
        routes = [
            Route("/", self.home, methods=get),
            Route("/{name}", self.part, methods=get),
            Route("/albums", self.new, methods=post),
            Route("/quit", self.end, methods=post),
            Route("/folders/choose", self.choose, methods=get),
            Route(album, self.album, methods=get),
            Route(f"{album}/state", self.state, methods=get),
            Route(f"{album}/looks/{{name}}", self.look, methods=get),
            Route(f"{album}/photo/{{number:int}}", self.photo, methods=get),
            Route(f"{album}/photo/{{number:int}}/{{name}}", self.picture, methods=get),
            Route(f"{album}/people", self.people, methods=get),
            Route(f"{album}/faces/{{name}}", self.face, methods=get),
            Route(f"{album}/zip", self.zip, methods=get),
            Route(f"{album}/{{kind:str}}", self.upload, methods=["PUT"]),
            Route(f"{album}/{{act:str}}", self.act, methods=post),
        ]
        handlers = dict.fromkeys((WorkerError, ApfError, OSError, Exception), self._told)
        return Starlette(routes=routes, exception_handlers={**handlers, HTTPException: self._nowhere})

    def _nowhere(self, _: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101  it is registered for no other
        return self._page("error.html", status=error.status_code, error="There is no such page")

    def _told(self, request: Request, error: Exception) -> Response:
        status = 404 if isinstance(error, NotFound) else 400 if isinstance(error, (WorkerError, ApfError)) else 500
        if request.method == "PUT":
            return JSONResponse({"error": told(error)}, status)
        return self._page("error.html", status=status, error=told(error))

    def _page(self, name: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        return HTMLResponse(self._templates.get_template(name).render(**values), status)

    # Pages.

    def home(self, request: Request) -> Response:
        found = [(album, views.summary(album, self.runner.look(album))) for album in self.albums.all()]
        return self._page("home.html", albums=found)

    def part(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in ("app.css", "app.js", "icon.svg"):
            raise NotFound(f"there is no page {name!r}")
        return FileResponse(PAGES / name)

    def choose(self, request: Request) -> Response:
        album_id = request.query_params.get("album", "")
        album = self.albums.get(album_id) if album_id else None
        at = request.query_params.get("at") or views.first_place(self.places, album)
        return self._page("folders.html", folder=self.places.look(at), album=album, places=self.places)

    def album(self, request: Request) -> Response:
        album = self._album(request)
        self.helper.again(album)
        step = views.step(album, self.runner)
        values: dict[str, Any] = {"album": album, "step": step, "error": self.runner.error(album.id)}
        if step == "choose":
            values["count"] = views.count(self.albums.source(album))
        elif step == "looks":
            values |= {"choices": views.CHOICES, "count": views.count(self.albums.source(album))}
        else:
            values |= views.batch(album, self.runner)
        if step == "done":
            values |= {
                "photos": views.photos(self.helper.reports(album)),
                "others": views.count(self.albums.place(album.id, "others")),
            }
        return self._page(f"{step}.html", **values)

    def photo(self, request: Request) -> Response:
        album, number = self._album(request), request.path_params["number"]
        card, reports = self.helper.card(album, number), self.helper.reports(album)
        said = views.checked(self.helper.check(album), reports)["photos"].get(number)
        return self._page(
            "photo.html",
            album=album,
            card=card,
            number=number,
            count=len(reports),
            split=views.split(card),
            sentence=said["sentence"] if said else "",
            cure=views.plain_cure(card),
        )

    def people(self, request: Request) -> Response:
        return self._rows(self._album(request))

    def _rows(self, album: Album, *, ticked: frozenset[str] = frozenset(), told: str = "") -> Response:
        rows, left_out = self.helper.people(album)
        return self._page(
            "people.html",
            album=album,
            rows=rows,
            left_out=left_out,
            ticked=ticked,
            told=told,
            somebody_else=SOMEBODY_ELSE,
        )

    # What pages ask for.

    def state(self, request: Request) -> Response:
        album = self._album(request)
        step = views.step(album, self.runner)
        found: dict[str, Any] = {"step": step, "error": self.runner.error(album.id)}
        if step == "looks":
            found["looks"] = self.helper.looks(album)
        elif step in ("work", "done"):
            found |= views.counts(album, self.runner)
        if step == "done":
            said = self.helper.check(album)
            found["check"] = views.checked(said, self.helper.reports(album) if said["done"] else ())
        return JSONResponse(found)

    def look(self, request: Request) -> Response:
        return self._file(self._album(request), "looks", request.path_params["name"])

    def face(self, request: Request) -> Response:
        return self._file(self._album(request), "faces", request.path_params["name"])

    def picture(self, request: Request) -> Response:
        album, number, name = self._album(request), request.path_params["number"], request.path_params["name"]
        if name == "save":
            report = self.helper.reports(album)[number]
            path = self.albums.destination(album) / report.key
            return FileResponse(path, filename=path.name, content_disposition_type="attachment")
        self.helper.card(album, number)
        return self._file(album, "cards", album.batch, f"{number:05}", name)

    def zip(self, request: Request) -> Response:
        album = self._album(request)
        name = f"{album.name} protected"
        pieces = zipped(views.outputs(self.helper.reports(album)), self.albums.destination(album), name)
        header = {"content-disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}.zip"}
        return StreamingResponse(pieces, media_type="application/zip", headers=header)

    def _file(self, album: Album, *parts: str) -> Response:
        path = self.albums.place(album.id, *parts)
        if path.suffix != ".jpg" or not path.resolve().is_relative_to(self.albums.place(album.id).resolve()):
            raise NotFound(f"there is no picture {parts[-1]!r}")
        if not path.exists():
            return Response(status_code=404)
        return FileResponse(path, media_type="image/jpeg")

    # What changes something.

    async def new(self, request: Request) -> Response:
        form = await uploads.form_of(request.stream())
        return await run_in_threadpool(self._new, form)

    def _new(self, form: Mapping[str, str]) -> Response:
        if "folder" not in form:
            return _to(self.albums.new("My photos"))
        folder = self.places.inside(form["folder"])
        if self.albums.root.resolve().is_relative_to(folder):
            raise BadRequest(
                f"{folder} holds this program's own files, too: choose a folder in it that holds your photos"
            )
        if not views.count(folder):
            raise BadRequest(f"There is no photo in {folder}: choose another folder")
        album = self.albums.new(folder.name or str(folder), folder)
        return _to(self.albums.change(album.id, chosen=True))

    async def upload(self, request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind not in ("photos", "others"):
            raise NotFound(f"nothing is kept as {kind!r}")
        album = self._album(request)
        data = await uploads.body_of(request.stream(), self.settings.max_photo_bytes)
        place = self.albums.place(album.id, kind)
        key = await run_in_threadpool(uploads.keep, place, request.query_params.get("name", ""), data)
        return JSONResponse({"kept": key})

    async def act(self, request: Request) -> Response:
        form = await uploads.form_of(request.stream())
        return await run_in_threadpool(self._act, self._album(request), request.path_params["act"], form)

    def _act(self, album: Album, act: str, form: Mapping[str, str]) -> Response:  # noqa: PLR0911  one a button
        match act:
            case "chosen":
                self.helper.forget_looks(album)
                return _to(self.albums.change(album.id, chosen=True))
            case "stop":
                self.runner.stop(album)
                return _to(album)
            case "back":
                self.runner.stop(album)
                return _to(self.albums.change(album.id, chosen=bool(album.folder) or "looks" in form, batch=""))
            case "protect":
                self.runner.begin(album, views.recipe(form.get("recipe", "")))
                return _to(album)
            case "again" | "go-on":
                self.runner.add(album.id, again=act == "again")
                return _to(album)
            case "compared":
                self.helper.check_anew(album)
                return _to(self.albums.change(album.id, confirmed=False))
            case "people":
                return self._sort(album, form)
            case "save":
                return _to(self._save(album, form.get("folder", "")))
            case "remove":
                if self.runner.is_at(album.id):
                    raise BadRequest("This album is being protected: wait until that is done")
                self.albums.remove(album.id)
                return RedirectResponse("/", 303)
        raise NotFound(f"there is nothing to do named {act!r}")

    def _sort(self, album: Album, form: Mapping[str, str]) -> Response:
        ticked = frozenset(filter(None, form.get("face", "").split(",")))
        if "nothing" in form:
            return self._rows(album, ticked=ticked)
        if "row" not in form:
            if ticked:
                return self._rows(album, ticked=ticked, told="Some faces are ticked: put them into a row first.")
            return _to(self.albums.change(album.id, confirmed=True))
        if not ticked:
            return self._rows(album, told="Tick the faces first that are in the wrong row.")
        self.helper.move(album, set(ticked), form["row"])
        return RedirectResponse(f"/albums/{album.id}/people", 303)

    def _save(self, album: Album, text: str) -> Album:
        into = self.places.inside(text)
        if album.folder and into.is_relative_to(Path(album.folder).resolve()):
            raise BadRequest(
                f"{into} is the folder of your own photos: choose another one, so that the two are not mixed"
            )
        keys = views.outputs(self.helper.reports(album))
        place = folders.save(keys, self.albums.destination(album), into, f"{album.name} protected")
        return self.albums.change(album.id, saved=str(place))

    async def end(self, request: Request) -> Response:
        asyncio.get_running_loop().call_later(0.3, self.quit)
        return self._page("ended.html")

    def _album(self, request: Request) -> Album:
        return self.albums.get(request.path_params["album_id"])


def _to(album: Album) -> Response:
    return RedirectResponse(f"/albums/{album.id}", 303)
