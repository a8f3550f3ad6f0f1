"""`serve`: the page of a study, for this machine only, kept up to date during a run."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import sys
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote, urlsplit

import typer

from bench.cli.context import Place

if TYPE_CHECKING:
    from bench.cli.live_page import LivePage

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
"""Host names that a browser may use for this server; with others, a foreign page could read it."""
NICENESS = 10
"""Added to the niceness of this process, so that a run has precedence."""
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
"""Content security policy of the page, which compiles its charts and contacts no other server."""

StudyName = Annotated[
    str | None,
    typer.Argument(
        metavar="STUDY", help="The study to show.", show_default="the last one requested"
    ),
]
Port = Annotated[
    int, typer.Option(min=0, max=65535, metavar="N", help="The port; 0 chooses a free one.")
]


def serve(place: Place, study: StudyName = None, port: Port = 8765) -> None:
    """Serve the page of a study to browsers on this machine, and update it as results arrive.

    The page is the one that `report` writes. It is updated while it is open, but not while a layer
    is timed. The database is opened read-only. Ctrl-C ends the server. From another machine,
    forward the port: ssh -L 8765:localhost:8765 HOST.

    \b
    Examples:
      python bench.py serve
      python bench.py serve tiny --port 8080
    """
    from results import open_store

    with open_store(place.database, create=False, read_only=True) as store:
        name = store.find_study(study).name
    from bench.cli.live_page import LivePage  # slow to import

    page = LivePage(place.database, name, place.home)
    with suppress(KeyboardInterrupt), listen(port, page) as server:
        os.nice(NICENESS)
        threading.Thread(target=page.watch, daemon=True).start()
        print(f"study {name}: http://{HOST}:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        server.serve_forever()
    page.close()
    # A thread may be drawing in C++ code, which would abort at exit; it has nothing to save.
    sys.stdout.flush()
    os._exit(0)


def listen(port: int, page: LivePage) -> Server:
    """Open a port for browsers on this machine.

    Raises:
        RequestError: the port is in use or cannot be opened; the message names a free one.
    """
    from routers.errors import RequestError

    try:
        return Server(port, page)
    except OSError as error:
        with socket.create_server((HOST, 0)) as other:
            free = other.getsockname()[1]
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error})"
        raise RequestError(f"port {port} {why}; --port {free} is free") from error


class Server(ThreadingHTTPServer):
    """A server of one page, its state, and the logs of its study."""

    daemon_threads = True

    def __init__(self, port: int, page: LivePage) -> None:
        self.page = page
        super().__init__((HOST, port), Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing when a browser goes away."""


class Handler(BaseHTTPRequestHandler):
    """The handler of GET and HEAD requests."""

    server: Server
    server_version = "moe-router-bench"

    def do_GET(self) -> None:
        page, path = self.server.page, unquote(urlsplit(self.path).path)
        if self.headers.get("Host", "").partition(":")[0] not in NAMES:
            self.send_error(HTTPStatus.FORBIDDEN)
        elif path == "/":
            self._answer("text/html", page.html())
        elif path == "/state":
            self._answer("application/json", json.dumps(page.state()))
        elif log := page.log(path.removeprefix("/")):
            with log.open("rb") as file:
                self._head("text/plain", os.fstat(file.fileno()).st_size)
                if self.command == "GET":
                    shutil.copyfileobj(file, self.wfile)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET

    def _answer(self, kind: str, text: str) -> None:
        content = text.encode("utf-8", errors="replace")
        self._head(kind, len(content))
        if self.command == "GET":
            self.wfile.write(content)

    def _head(self, kind: str, length: int) -> None:
        self.send_response(HTTPStatus.OK)
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(length),
            "Content-Security-Policy": POLICY,
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing for a request."""
