"""Who may ask what: the wall between the explorer and every other page, program and machine.

The page listens on an address that any page in the same browser can send requests to, so each request is judged:

- *Host* names this machine: else a stranger's name that was made to point here (DNS rebinding) would do.
- *Origin*, where the browser says it, is this explorer's own; requests that another site began are refused.
- The *token* stands in the link to the page, and in a header of each request for data: a link, a form or an image on
  another page can set no header. It is compared in constant time.
- Bodies are bounded, and are JSON or a raw file: no form of another page can send either.
- Answers carry a content-security policy under which the page runs no code but its own and reaches no other place.
"""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

TOKEN_HEADER = "x-tacit-token"
UPLOAD = "/api/ask/file"
UPLOAD_BYTES = 64 * 2**20
"""Of a file that is asked with."""
BODY_BYTES = 16 * 2**20
"""Of anything else: a million item numbers."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """ASGI middleware that judges every request before the application sees it.

    Args:
        app: what answers.
        token: that requests have to bring.
        host: the address that is listened on; other names than this machine's are refused.
    """

    def __init__(self, app: Any, *, token: str, host: str = "127.0.0.1") -> None:
        self.app, self.token, self.host = app, token, host.lower()
        self.names = set() if host in LOOPBACK else {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return  # a web socket is never answered: there are none
        headed = _with_headers(send)
        refused = self._refusal(scope)
        if refused is not None:
            return await _answer(headed, *refused)
        limit = UPLOAD_BYTES if scope["path"] == UPLOAD else BODY_BYTES
        if _length(scope) > limit:
            return await _answer(headed, 413, _too_large(limit))
        bounded = _Bounded(receive, limit)
        started = False

        async def answered(message: Message) -> None:
            nonlocal started
            if bounded.passed and not started:
                return
            started = True
            await headed(message)

        with contextlib.suppress(_TooLarge):
            await self.app(scope, bounded, answered)
        if bounded.passed and not started:
            await _answer(headed, 413, _too_large(limit))

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason where a request is not to be answered."""
        headers = scope["headers"]
        method, path = scope["method"], scope["path"]
        if method not in ("GET", "HEAD", "POST"):
            return 405, f"{method}: expected GET or POST"
        hosts = _all(headers, b"host")
        if len(hosts) != 1 or not self._is_here(hosts[0]):
            return 421, "this explorer does not answer to that host name; open the link that it printed"
        if (refused := self._foreign(scope, hosts[0])) is not None:
            return refused
        if method == "POST" and path != UPLOAD and _first(headers, b"content-type").split(";")[0] != "application/json":
            return 415, "expected application/json"
        if path.startswith("/static/") or path.startswith("/download/"):
            return None  # the page's own code; or a ticket, which is judged where it is handed out
        if path == "/":
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        else:
            given = _first(headers, TOKEN_HEADER.encode())
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            return 401, "the link has no valid token; open the link that `tacit explore` printed"
        return None

    def _is_here(self, host: str) -> bool:
        """Whether a Host header names this machine. The port is not compared: an SSH tunnel has another."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in LOOPBACK or name == self.host:
            return True
        return self.host not in LOOPBACK and (_is_address(name) or name in self.names)

    @staticmethod
    def _foreign(scope: Scope, host: str) -> tuple[int, str] | None:
        """A refusal where another site began the request."""
        headers = scope["headers"]
        origins = _all(headers, b"origin")
        if origins and (len(origins) > 1 or urlsplit(origins[0]).netloc.lower() != host.lower()):
            return 403, "requests from another page are not answered"
        site = _first(headers, b"sec-fetch-site")
        opened = scope["path"] == "/" and _first(headers, b"sec-fetch-mode") == "navigate"  # a link that was clicked
        if site not in ("", "same-origin", "none") and not opened:
            return 403, "requests from another page are not answered"
        return None


class _TooLarge(Exception):
    pass


class _Bounded:
    """A request's body, up to a number of bytes."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._left, self.passed = receive, limit, False

    async def __call__(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            self.passed = True
            raise _TooLarge
        return message


def _with_headers(send: Send) -> Send:
    async def headed(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {name for name, _ in message.get("headers", [])}
            more = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in own]
            message = {**message, "headers": [*message.get("headers", []), *more]}
        await send(message)

    return headed


async def _answer(send: Send, status: int, text: str) -> None:
    kind = (b"content-type", b"text/plain; charset=utf-8")
    await send({"type": "http.response.start", "status": status, "headers": [kind, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": f"{text}\n".encode()})


def _all(headers: list[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key.lower() == name]


def _first(headers: list[tuple[bytes, bytes]], name: bytes) -> str:
    return next(iter(_all(headers, name)), "")


def _length(scope: Scope) -> int:
    said = _first(scope["headers"], b"content-length")
    return int(said) if said.isdecimal() else 0


def _too_large(limit: int) -> str:
    return f"too large: expected at most {limit // 2**20} MB"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
