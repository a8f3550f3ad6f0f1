"""A study served on localhost: followed while it is written, never written by the server."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.cli import live_page
from bench.cli.live_page import LivePage
from results import Run, open_store
from results.store.leases import this_process

ROOT = Path(__file__).parents[2]
TOP1 = {"dense": [0.7, 0.72], "soft_moe": [0.8, 0.82]}


class Served:
    """A server as a user starts it: `python bench.py serve …` in its own process."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "bench.py"), "serve", *arguments, "--port", "0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.line = self.process.stdout.readline()
        self.port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", self.line)[1])

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        """Return status and text of the response to a path, which is sent verbatim."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def state(self) -> dict[str, str]:
        return json.loads(self.get("/state")[1])

    def until(self, is_so: Callable[[dict[str, str]], bool]) -> dict[str, str]:
        """Wait for the first state that meets a condition, and return it."""
        deadline = time.monotonic() + 180
        while not is_so(state := self.state()):
            assert time.monotonic() < deadline, state
            time.sleep(0.2)
        return state

    def end(self) -> tuple[int, str, str]:
        """Press Ctrl-C; return the exit status and what has been printed since."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.fixture
def home(tmp_path, make_lab) -> Path:
    """A home folder with a study, and logs of it and of other studies."""
    made = tmp_path / "home"
    with open_store(made / "bench.db") as store:
        make_lab(store, suites=("accuracy",)).study_of(TOP1)
    for name in ("logs/a.log", "logs/others.log", "secret.log"):
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text(f"in {name}\n", encoding="utf-8")
    return made


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


@pytest.mark.slow
def test_a_study_is_followed_without_touching_its_database(home, make_lab) -> None:
    before = contents(home)
    served = Served("--home", str(home))
    try:
        first = served.until(lambda state: bool(state["page"]))
        assert re.fullmatch(
            r"not running: 4 of 4 trials done, last result \d\d:\d\d:\d\d", first["line"]
        )
        status, html = served.get("/")
        assert status == 200
        assert first["line"] in html
        assert "soft_moe" in html
        assert "my_gate" not in html
        assert served.state() == first
        assert contents(home) == before, "nobody writes, so nothing must change"
        with open_store(home / "bench.db") as store:
            made = make_lab(store, suites=("accuracy",))
            made.running("my_gate", 1)
            running = served.until(lambda state: "1 running" in state["line"])
            assert running["line"].startswith("live: 4 of 5 trials done, 1 running, last result ")
            made.study_of({"my_gate": [0.9]})
            served.until(lambda state: "5 of 6 trials" in state["line"])
            served.until(lambda state: state["page"] not in (first["page"], running["page"]))
            assert "my_gate" in served.get("/")[1]
        with open_store(home / "bench.db") as store:
            assert store.find_study().name == "tiny", "the writer must not block it"
    finally:
        ended = served.end()
    assert ended == (0, "", "")


@pytest.mark.slow
def test_only_the_page_its_state_and_the_studys_logs_are_served(home) -> None:
    served = Served("tiny", "--home", str(home))
    try:
        served.until(lambda state: "4 of 4" in state["line"])
        assert served.get("/logs/a.log") == (200, "in logs/a.log\n")
        for path in (
            *("/logs/others.log", "/secret.log", "/bench.db", "/logs/", "/logs"),
            *("/../home/bench.db", "/logs/../bench.db", "/logs/../logs/a.log", "/%2e%2e/etc/hosts"),
            *("/logs/%2e%2e/secret.log", "/etc/passwd", "//etc/passwd", "/logs/a.log%00"),
        ):
            assert served.get(path)[0] == 404, path
        assert served.get("/", Host="evil.example")[0] == 403
        assert served.get("/state", Host=f"localhost:{served.port}")[0] == 200
        assert served.get("/state", method="HEAD") == (200, "")
        assert served.get("/state", method="POST")[0] == 501
        with pytest.raises(OSError):  # noqa: PT011, systems word it differently
            socket.create_connection(("127.0.0.2", served.port), 5)
    finally:
        assert served.end() == (0, "", "")


@pytest.mark.slow
def test_a_port_in_use_is_refused_and_a_free_one_suggested(home, in_process) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = in_process(home, "serve", "--home", str(home), "--port", str(port), status=2)
    assert re.fullmatch(rf"error: port {port} is in use; --port \d+ is free\n", done.stderr)
    assert not done.stdout


@pytest.mark.slow
def test_an_unknown_study_is_refused_with_the_nearest_name(home, in_process) -> None:
    done = in_process(home, "serve", "tinny", "--home", str(home), status=2)
    assert re.match(r"error: no study 'tinny' in .*; did you mean 'tiny'\?", done.stderr)
    missing = in_process(home, "serve", "--db", "none.db", status=2)
    assert missing.stderr.startswith("error: there is no database none.db")


@pytest.fixture
def page(home) -> Iterator[LivePage]:
    made = LivePage(str(home / "bench.db"), "tiny", home)
    yield made
    made.close()


def refresh(page: LivePage) -> None:
    """Read the study, and wait for the page if it is being made."""
    page.refresh()
    if page._drawing is not None:
        page._drawing.join(120)


def test_a_page_that_cannot_be_made_says_why_and_the_last_one_is_kept(home, page, monkeypatch):
    def fail(*_: object) -> str:
        raise ValueError("no such colour")

    refresh(page)
    with open_store(home / "bench.db") as store:
        store.study("tiny", {"suites": {}})
    with monkeypatch.context() as broken:
        broken.setattr(live_page, "page_of", fail)
        page._draw_again = 0
        refresh(page)
    assert page.state()["line"] == "the page cannot be made: no such colour"
    assert "soft_moe" in page.html()
    with open_store(home / "bench.db") as store:
        store.study("tiny", {"suites": {"accuracy": {}}})
    page._draw_again = 0
    refresh(page)
    assert page.state()["line"].startswith("not running: 4 of 4")


def test_the_page_is_not_made_while_a_layer_is_timed(home, page, make_lab) -> None:
    with open_store(home / "bench.db") as store:
        made = make_lab(store, suites=("accuracy", "throughput"))
        made.study_of({"random": [0.6]})
        run = store.start_run(made.study, Run(*this_process(), "run", 1))
        lease = store.lease(run, layer_id=1)
        refresh(page)
        assert page.state()["line"].startswith("live: 5 of 5 trials done")
        assert page.state()["page"] == ""
        store.release(lease)
        refresh(page)
        assert page.state()["page"]
        assert "random" in page.html()


def test_the_page_is_made_once_and_not_remade_while_nobody_looks(home, page, make_lab) -> None:
    refresh(page)
    first = page.state()["page"]
    page._asked -= live_page.WATCHED + 1
    page._draw_again = 0
    with open_store(home / "bench.db") as store:
        make_lab(store, suites=("accuracy",)).study_of({"random": [0.6]})
    refresh(page)
    assert page._page == first
    page.state()
    refresh(page)
    assert page._page not in ("", first)


def test_the_page_is_kept_if_the_database_disappears(home, page, monkeypatch) -> None:
    monkeypatch.setattr(live_page, "SECONDS", 0.01)
    refresh(page)
    (home / "bench.db").rename(home / "moved.db")
    watching = threading.Thread(target=page.watch, daemon=True)
    watching.start()
    deadline = time.monotonic() + 30
    while "cannot be shown now: there is no database" not in page.state()["line"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "soft_moe" in page.html()
    page.close()
    watching.join(30)
    assert not watching.is_alive()


PROBE = """<!DOCTYPE html><html><body style="height: 9000px"><p id="at">first</p>
<script>addEventListener("load", () => setTimeout(() => {
  if (sessionStorage.getItem("again")) document.getElementById("at").textContent = "at " + scrollY;
  else { sessionStorage.setItem("again", "1"); scrollTo(0, 700); }
}, 50));</script></body></html>"""


def dumped(
    chromium: str, port: int, folder: Path, milliseconds: int
) -> subprocess.CompletedProcess[str]:
    """Return the page as a browser renders it after some virtual time, and the browser's log."""
    arguments = [
        chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        "--disable-background-networking", f"--user-data-dir={folder / 'profile'}",
        f"--virtual-time-budget={milliseconds}", "--dump-dom", f"http://127.0.0.1:{port}/",
    ]  # fmt: skip
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True)


@contextmanager
def answering(page: LivePage, on_state: Callable[[], None]) -> Iterator[int]:
    """Serve a page and its state to browsers; return the port.

    `on_state` is called before each answer with the state.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/state":
                on_state()
            text = page.html() if self.path == "/" else json.dumps(page.state())
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.slow
def test_the_charts_are_drawn_under_the_servers_security_policy(home, tmp_path, chromium) -> None:
    served = Served("--home", str(home))
    try:
        served.until(lambda state: bool(state["page"]))
        done = dumped(chromium, served.port, tmp_path, milliseconds=8000)
    finally:
        assert served.end() == (0, "", "")
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not [line for line in said if "Policy" in line or "rror" in line]
    assert "vega-embed" in done.stdout
    assert 'class="marks"' in done.stdout


@pytest.mark.slow
def test_a_browser_reloads_a_new_page_and_keeps_its_position(
    tmp_path, page, monkeypatch, chromium
) -> None:
    monkeypatch.setattr(live_page, "POLL", 500)
    page._html, asked = PROBE, []

    def renew() -> None:
        asked.append(page._page)
        page._page = "second"

    with answering(page, renew) as port:
        done = dumped(chromium, port, tmp_path, milliseconds=6000)
    assert asked[:2] == ["", "second"]
    assert '<p id="at">at 700</p>' in done.stdout


@pytest.mark.slow
def test_a_new_page_keeps_the_readers_order_filter_and_routers(page, monkeypatch, browser) -> None:
    monkeypatch.setattr(live_page, "POLL", 500)
    refresh(page)
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    with answering(page, lambda: None) as port:
        tab.goto(f"http://127.0.0.1:{port}/")
        tab.wait_for_selector("body[data-drawn]", state="attached")
        tab.locator(".tabulator-col", has_text="top-1").click(position={"x": 5, "y": 5})
        tab.locator(".tabulator-col", has_text="experts").locator("input").click()
        tab.locator(".tabulator-edit-list-item", has_text="8 mlp").click()
        tab.locator(".chip", has_text="soft_moe").click()
        tab.evaluate("scrollTo({ top: 200, behavior: 'instant' }); window.isFirst = true")
        page._page = "second"
        tab.wait_for_function("!window.isFirst && document.querySelector('#leaderboard .picked')")
        tab.wait_for_function("scrollY === 200")
        assert tab.locator("#leaderboard .tabulator-row .picked").all_inner_texts() == ["soft_moe"]
        assert tab.locator("#leaderboard .tabulator-row").count() == 1, "dense has no experts"
        head = tab.locator(".tabulator-col", has_text="top-1")
        assert head.get_attribute("aria-sort") == "ascending"
        assert tab.locator(".chip[aria-pressed=true]").all_inner_texts() == ["soft_moe"]
        tab.close()
