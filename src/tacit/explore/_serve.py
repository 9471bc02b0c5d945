"""Serving the explorer: on this machine alone, unless a token of the user's own is given."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import socket
import sys
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tacit.errors import ArgumentError, MissingExtra, RunError, expect
from tacit.explore._guard import LOOPBACK

PORTS = range(8765, 8785)
"""Tried one after another, so that a link to a tunnelled port stays good."""
LEAST_TOKEN = 16


def explore(
    run: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    token: str | None = None,
    browse: bool = True,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the explorer of a run until it is stopped.

    Queries are read and probes learn in processes of their own, so a script that calls this stands under
    `if __name__ == "__main__":`, as multiprocessing asks.

    Args:
        run: folder of a finished run.
        host: address to listen on; any other than loopback needs a `token`.
        port: a free one from 8765 on if None.
        token: that the link carries; a random one if None.
        browse: whether to open the browser, where there is one.
        say: told the link.

    Raises:
        ArgumentError: another host without a token, or a token that can be guessed.
        MissingExtra: fastapi or uvicorn is not installed.
        RunError: no finished run, or the port is taken.
    """
    for package in ("fastapi", "uvicorn"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, "explore", "tacit explore")
    check_access(host, token)
    import uvicorn

    from tacit.explore._app import create_app
    from tacit.explore._run import Explored

    explored = Explored(run)
    listening = listen(host, port)
    number = listening.getsockname()[1]
    word = token or secrets.token_urlsafe(32)
    link = f"http://{_shown(host)}:{number}/?token={quote(word, safe='')}"
    app = create_app(explored, token=word, host=host)
    say(f"Exploring {len(explored.items):,} items of {explored.folder}; stop with Ctrl-C.")
    say(link)
    if host in LOOPBACK:
        say(f"From another machine: ssh -L {number}:127.0.0.1:{number} THIS-MACHINE, then open the same link there.")
    if browse:
        _open(link)
    quiet: Any = {"log_level": "warning", "access_log": False, "server_header": False}
    config = uvicorn.Config(app, timeout_graceful_shutdown=2, **quiet)
    uvicorn.Server(config).run(sockets=[listening])


def check_access(host: str, token: str | None) -> None:
    """Refuse to be reached from elsewhere without a token, and a token that is short.

    >>> check_access("127.0.0.1", None)
    >>> check_access("0.0.0.0", None)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    tacit.errors.ArgumentError: host='0.0.0.0' can be reached from other machines: expected a token beside it; ...
    """
    if host not in LOOPBACK and token is None:
        raise ArgumentError(
            f"host={host!r} can be reached from other machines: expected a token beside it; give one of at least "
            f"{LEAST_TOKEN} characters: --token WORD"
        )
    short = token is not None and len(token) < LEAST_TOKEN
    expect("token", "*" * len(token or ""), not short, f"at least {LEAST_TOKEN} characters, hard to guess")


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens: on the port, or on the first of `PORTS` that is free, or on any."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    tried = (port,) if port is not None else (*PORTS, 0)
    for number in tried:
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, number))
            listening.listen()  # else another that reuses the address could take it too
        except OSError as error:
            listening.close()
            if number == tried[-1]:
                raise RunError(f"{host}:{number}: cannot be listened on: {error.strerror or error}") from error
        else:
            listening.set_inheritable(True)
            return listening
    raise AssertionError("the last one either listens or raises")


def _shown(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _open(link: str) -> None:
    """Open a browser in a window; without a screen, Python would start one in the terminal, which then waits for it."""
    if sys.platform.startswith("linux") and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
        return
    with contextlib.suppress(webbrowser.Error):
        webbrowser.open(link)
