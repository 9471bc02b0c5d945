"""`tacit explore`: the page on which a run is looked at, asked and labelled."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from tacit.cli import _show as show
from tacit.cli._options import scalar
from tacit.errors import expect

EXAMPLES = (
    "tacit explore run/",
    "tacit explore run/ --static to-send.html",
    'tacit explore run/ --host 0.0.0.0 --token "a long word of your own"',
)
Word = Optional[str]  # noqa: UP045


def _option(flags: str, metavar: str, says: str) -> Any:
    return typer.Option(*flags.split(), metavar=metavar, help=says)


def explore(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)],
    static: Annotated[
        Word, _option("--static", "FILE", "Write one HTML file to send to somebody, in place of serving.")
    ] = None,
    thumbnails: Annotated[
        bool,
        typer.Option("--thumbnails/--no-thumbnails", metavar="", help="Pictures and texts in that file."),
    ] = True,
    host: Annotated[
        str, _option("--host", "ADDRESS", "Where to listen; other than this machine only with --token.")
    ] = "127.0.0.1",
    port: Annotated[Word, _option("--port", "N", "Which port; a free one from 8765 on if left out.")] = None,
    token: Annotated[Word, _option("--token", "WORD", "That the link carries; a random one if left out.")] = None,
    browser: Annotated[
        bool,
        typer.Option("--browser/--no-browser", metavar="", help="Open the browser, or only print the link."),
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print one JSON object on standard output; for --static.")
    ] = False,
) -> None:
    """Open a run in the browser: its map, questions by text, file and example, near-duplicates, outliers, labels.

    It listens on this machine alone, and its link carries a random token. Labels are in labels.sqlite at once.
    """
    if static is not None:
        from tacit.explore import write_static

        with show.aside(as_json):
            place = write_static(run, static, pictures=thumbnails)
        if as_json:
            show.as_json({"static": place})
        else:
            print(place)
        return
    number = None if port is None else scalar(port)
    fits = number is None or (type(number) is int and 0 <= number < 65_536)
    expect("port", number, fits, "a whole number below 65536")
    expect("json", as_json, not as_json, "--json beside --static only")
    from tacit.explore import explore as serve

    serve(run, host=host, port=number, token=token, browse=browser, say=lambda line: print(line, flush=True))
