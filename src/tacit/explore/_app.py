"""The server: what the page asks for, as routes; what they mean is said where the work is done."""

from __future__ import annotations

import secrets
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from tacit.errors import ArgumentError, DataError, MissingExtra, RunError, TacitError, expect
from tacit.explore import _asking, _exports, _fragments, _papers
from tacit.explore._guard import Guard
from tacit.explore._helpers import Helper
from tacit.explore._run import Column, Explored
from tacit.explore._wire import ARROW, packed

PAGE = Path(__file__).parent / "static"
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
MOST_HITS = 1_000
TICKET_SECONDS = 120.0
STATUS: dict[type[TacitError], int] = {ArgumentError: 422, DataError: 422, RunError: 409, MissingExtra: 501}
ENDINGS = frozenset(
    ("jpg", "jpeg", "png", "gif", "webp", "bmp", "tif", "tiff", "wav", "flac", "ogg", "mp3", "oga", "txt", "md")
)
"""Of files that are asked with; the ending says how they are read."""


class Near(BaseModel):
    like: list[int] = Field([], max_length=MOST_HITS)
    unlike: list[int] = Field([], max_length=MOST_HITS)
    k: int = Field(60, ge=1, le=MOST_HITS)


class Text(BaseModel):
    text: str = Field(max_length=20_000)
    k: int = Field(60, ge=1, le=MOST_HITS)


class Fragment(BaseModel):
    text: str = Field(max_length=_fragments.LONGEST)


class Some(BaseModel):
    items: list[int] = Field(max_length=MOST_HITS)


class Labelling(BaseModel):
    name: str
    value: str | None
    items: list[int] = Field([], max_length=2_000_000)
    cluster: int | None = None


class Starring(BaseModel):
    items: list[int] = Field(min_length=1, max_length=2_000_000)
    on: bool


class Verdict(BaseModel):
    items: list[int] = Field(max_length=100_000)
    verdict: str | None


class Named(BaseModel):
    name: str = Field("", max_length=200)
    n: int = Field(24, ge=1, le=200)


class Export(BaseModel):
    format: str
    name: str = ""
    predicted: bool = True
    items: list[int] | None = Field(None, max_length=2_000_000)


@dataclass
class Ticket:
    path: Path
    name: str
    media: str
    until: float


class Desk:
    """What the routes share: the run, its labels, and the processes beside the server."""

    def __init__(self, run: Explored) -> None:
        self.run = run
        self.asker = Helper()
        self.tickets: dict[str, Ticket] = {}
        self.papers = _papers.Papers()
        self._lock = threading.Lock()

    @property
    def folder(self) -> str:
        return str(self.run.folder)

    @cached_property
    def scratch(self) -> Path:
        return Path(tempfile.mkdtemp(prefix="tacit-explore-"))

    @cached_property
    def notebook(self) -> Any:
        from tacit.explore._labels import Notebook  # it loads torch, which the first paint does not wait for

        return Notebook(self.run.folder)

    def given(self, name: str) -> Column:
        from tacit.explore._labels import given_column

        return given_column(self.run, self.notebook, name)

    @cached_property
    def teacher(self) -> Any:
        from tacit.explore._teacher import Teacher

        return Teacher(self.run, self.notebook)

    @cached_property
    def decisions(self) -> Any:
        from tacit.explore._decisions import Decisions

        return Decisions(self.run.folder)

    def ticket(self, path: Path, name: str, media: str) -> str:
        """A link that gives a file once, soon: a download is a navigation, which can set no header."""
        with self._lock:
            for old in [key for key, one in self.tickets.items() if one.until < time.monotonic()]:
                self.tickets.pop(old).path.unlink(missing_ok=True)
            word = secrets.token_urlsafe(32)
            self.tickets[word] = Ticket(path, name, media, time.monotonic() + TICKET_SECONDS)
        return f"/download/{word}"

    def redeem(self, word: str) -> Ticket | None:
        with self._lock:
            found = self.tickets.pop(word, None)
        return found if found is not None and found.until >= time.monotonic() else None

    def close(self) -> None:
        self.asker.close()
        self.papers.close()
        if "teacher" in self.__dict__:
            self.teacher.close()
        if "scratch" in self.__dict__:
            shutil.rmtree(self.scratch, ignore_errors=True)


def create_app(run: Explored, *, token: str, host: str = "127.0.0.1") -> Any:
    """The explorer of a run as an ASGI application, behind its guard.

    Args:
        run: what is explored.
        token: that every request for data has to bring, in the header `X-Tacit-Token`.
        host: the address that is listened on.
    """
    desk = Desk(run)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        desk.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    _handle_errors(app)
    _page_routes(app, desk)
    _look_routes(app, desk)
    _ask_routes(app, desk)
    _label_routes(app, desk)
    guarded = Guard(app, token=token, host=host)
    guarded.desk = desk  # type: ignore[attr-defined]
    return guarded


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(TacitError)
    async def told(request: Request, error: TacitError) -> JSONResponse:
        status = next((code for kind, code in STATUS.items() if isinstance(error, kind)), 400)
        return JSONResponse({"error": str(error)}, status)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        said = "; ".join(f"{one['loc'][-1]}: {one['msg']}" for one in error.errors()[:3])
        return JSONResponse({"error": f"the request cannot be read: {said}"}, 422)

    @app.exception_handler(sqlite3.Error)
    async def locked(request: Request, error: sqlite3.Error) -> JSONResponse:
        return JSONResponse({"error": f"it could not be written: {error}; try again"}, 409)


def _arrow(columns: Any, about: object = None) -> Response:
    return Response(packed(columns, about), media_type=ARROW)


def _column(column: Column) -> Response:
    return _arrow({"value": column.values}, column.about())


def _page_routes(app: FastAPI, desk: Desk) -> None:
    @app.get("/")
    def page() -> HTMLResponse:
        return HTMLResponse((PAGE / "index.html").read_text(encoding="utf-8"))

    @app.get("/static/{name}")
    def code(name: str) -> Response:
        place = next((one for one in PAGE.iterdir() if one.name == name and one.suffix in (".js", ".css")), None)
        if place is None:
            return JSONResponse({"error": "there is no such file"}, 404)
        return FileResponse(place, media_type=TYPES[place.suffix])

    @app.get("/download/{word}")
    def download(word: str) -> Response:
        ticket = desk.redeem(word)
        if ticket is None:
            return JSONResponse({"error": "this link was used already, or is too old; ask for the export again"}, 404)
        gone = BackgroundTask(ticket.path.unlink, missing_ok=True)
        return FileResponse(ticket.path, media_type=ticket.media, filename=ticket.name, background=gone)


def _look_routes(app: FastAPI, desk: Desk) -> None:
    run = desk.run

    @app.get("/api/run")
    def about() -> dict[str, Any]:
        return run.about() | {"papers": _papers.finder() is not None}

    @app.get("/api/points")
    def points() -> Response:
        return _arrow(run.points(), {"stamp": run.stamp})

    @app.get("/api/column")
    def column(name: str) -> Response:
        return _column(run.column(name))

    @app.post("/api/items")
    def items(asked: Some) -> Response:
        return _arrow(run.shown(asked.items))

    @app.get("/api/file/{item}")
    def file(item: int) -> Response:
        found = run.original(item)
        if found is None:
            return JSONResponse({"error": "its file is not here, or none that a browser shows"}, 404)
        return FileResponse(found[0], media_type=found[1])

    @app.get("/api/duplicates")
    def duplicates() -> dict[str, Any]:
        return {"groups": run.duplicates(), "verdicts": {str(k): v for k, v in desk.decisions.all().items()}}

    @app.post("/api/verdict")
    def verdict(given: Verdict) -> dict[str, Any]:
        run.rows_of(given.items)
        desk.decisions.put(given.items, given.verdict)
        return {"verdicts": {str(k): v for k, v in desk.decisions.all().items()}}

    @app.get("/api/skipped")
    def skipped() -> dict[str, Any]:
        return run.skipped()

    @app.get("/api/papers")
    def papers(request: Request, query: str = "") -> dict[str, Any]:
        filters = {key: value for key, value in request.query_params.items() if key != "query"}
        try:
            return {"papers": desk.papers.ask(query[:1000], filters)}
        except TypeError as error:
            raise ArgumentError(f"filters={sorted(filters)}: {error}") from error


def _ask_routes(app: FastAPI, desk: Desk) -> None:
    run = desk.run

    @app.post("/api/near")
    def near(asked: Near) -> Response:
        run.rows_of([*asked.like, *asked.unlike])
        question = asked.like, asked.unlike, asked.k
        if run.is_heavy(*question):
            return _arrow(desk.asker.ask(_asking.near, desk.folder, run.stamp, *question))
        return _arrow(run.near(*question))

    @app.post("/api/find")
    def find(asked: Fragment) -> Response:
        fragment = asked.text.strip()
        expect("text", asked.text, bool(fragment), "a piece of a name or of a text")
        found, n = _fragments.find(run.store, fragment)
        return _arrow({"item": found.astype(np.int32)}, {"n": n})

    @app.post("/api/warm")
    def warm() -> dict[str, Any]:
        if run.asks()["text"] or run.asks()["file"]:
            desk.asker.submit(_asking.warm, desk.folder)
        return {}

    @app.post("/api/ask/text")
    def text(asked: Text) -> Response:
        expect("query", "", bool(asked.text.strip()), "a text to look for")
        expect("query", "a text", run.asks()["text"], "an item, since this run has learned from no texts")
        return _arrow(desk.asker.ask(_asking.search_text, desk.folder, asked.text, asked.k))

    @app.post("/api/ask/file")
    async def file(request: Request, ending: str = "", k: int = 60) -> Response:
        expect("query", "a file", run.asks()["file"], "an item, since this run's encoder reads no files")
        expect("k", k, 1 <= k <= MOST_HITS, f"a number from 1 to {MOST_HITS}")
        expect("file", ending, ending.lower() in ENDINGS, "a picture, a sound or a text file, by its ending")
        place = Path(desk.scratch) / f"{secrets.token_hex(16)}.{ending.lower()}"
        try:
            with place.open("xb") as out:
                async for piece in request.stream():
                    out.write(piece)
            hits = await run_in_threadpool(desk.asker.ask, _asking.search_file, desk.folder, str(place), k)
        finally:
            place.unlink(missing_ok=True)
        return _arrow(hits)


def _label_routes(app: FastAPI, desk: Desk) -> None:
    run = desk.run

    @app.get("/api/state")
    def state() -> dict[str, Any]:
        desk.papers.prepare()  # now that the page is painted, which does not wait for it
        taught = desk.teacher.state() if "teacher" in desk.__dict__ else {"teaching": None, "told": {}, "errors": {}}
        return {"stamp": run.stamp, "labels": desk.notebook.stamp, **taught}

    @app.get("/api/labels")
    def labels() -> dict[str, Any]:
        return {"stamp": desk.notebook.stamp, "labels": desk.notebook.names()}

    @app.get("/api/given")
    def given(name: str) -> Response:
        return _column(desk.given(name))

    @app.post("/api/label")
    def label(said: Labelling) -> dict[str, Any]:
        items: Any = said.items
        if said.cluster is not None:
            items = run.items[np.flatnonzero(run.column("cluster").values == said.cluster)]
        expect("items", "none", len(items) > 0, "at least one item to label")
        run.rows_of(items)
        step = desk.notebook.put(said.name, said.value, run.keys(items))
        return {"name": step.name, "n": len(items), "stamp": desk.notebook.stamp}

    @app.post("/api/star")
    def star(said: Starring) -> dict[str, Any]:
        run.rows_of(said.items)
        desk.notebook.star(run.keys(said.items), said.on)
        return {"stamp": desk.notebook.stamp}

    @app.post("/api/undo")
    def undo() -> dict[str, Any]:
        return _stepped(desk.notebook.undo(), desk)

    @app.post("/api/redo")
    def redo() -> dict[str, Any]:
        return _stepped(desk.notebook.redo(), desk)

    @app.post("/api/teach")
    def teach(asked: Named) -> dict[str, Any]:
        desk.teacher.teach(asked.name)
        return desk.teacher.state()

    @app.get("/api/told")
    def told(name: str) -> Response:
        found = desk.teacher.told(name)
        if found is None:
            return JSONResponse({"error": f"{name}: nothing was learned yet"}, 404)
        about = {key: value for key, value in found.items() if key not in ("values", "probability")}
        return _arrow({"value": found["values"], "probability": found["probability"]}, about)

    @app.post("/api/suggest")
    def suggest(asked: Named) -> dict[str, Any]:
        return {"items": desk.teacher.suggest(asked.name, asked.n)}

    @app.post("/api/export")
    def export(asked: Export) -> dict[str, Any]:
        expect("format", asked.format, asked.format in _exports.FORMATS, f"one of {', '.join(_exports.FORMATS)}")
        place = desk.scratch / secrets.token_hex(16)
        n = _exports.write_export(
            run,
            place,
            asked.format,
            name=asked.name,
            given=desk.notebook.given(asked.name) if asked.name else None,
            told=desk.teacher.told(asked.name) if asked.name and asked.predicted else None,
            verdicts=desk.decisions.all(),
            only=None if asked.items is None else run.rows_of(asked.items),
        )
        stem = "-".join(filter(None, (_exports.folder_name(run.folder.resolve().name), asked.name[:40])))
        name = f"{_exports.folder_name(stem)}.{_exports.ENDINGS[asked.format]}"
        return {"url": desk.ticket(place, name, _exports.FORMATS[asked.format]), "n": n, "name": name}


def _stepped(step: Any, desk: Desk) -> dict[str, Any]:
    return {"name": step.name if step else None, "n": len(step.before) if step else 0, "stamp": desk.notebook.stamp}
