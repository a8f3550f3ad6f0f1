"""Times of day are in this machine's time zone, which is named wherever one is shown."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.cli import main
from bench.cli.display import clock
from bench.execute.context import log
from results import Run, open_store
from results.store.leases import this_process

NOW = datetime(2026, 5, 6, 22, 30, tzinfo=UTC)  # it is Thursday in Tokyo


@pytest.fixture(autouse=True)
def _in_tokyo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as changed:
        changed.setenv("TZ", "JST-9")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(
    ("moment", "shown"),
    [
        (datetime(2026, 5, 6, 22, 42, tzinfo=UTC), "07:42 JST"),
        (datetime(2026, 5, 7, 7, 42), "07:42 JST"),
        (datetime(2026, 5, 4, 22, 42, tzinfo=UTC), "Tue 07:42 JST"),
        (datetime(2026, 1, 1, 22, 42, tzinfo=UTC), "2026-01-02 07:42 JST"),
    ],
)
def test_times_are_shown_in_the_machines_time_zone_and_name_it(
    moment: datetime, shown: str
) -> None:
    assert clock(moment, NOW) == shown


def test_status_and_db_info_show_the_same_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_store(tmp_path / "bench.db") as store:
        run = store.start_run(store.study("tiny", {}), Run(*this_process(), "run", 1))
        store.finish_run(run)
        (ended,) = store.runs("tiny")
    shown = []
    for command in (["status"], ["db", "info"]):
        with pytest.raises(SystemExit) as exited:
            main([*command, "--home", str(tmp_path)])
        assert exited.value.code == 0
        shown.append(set(re.findall(r"\d\d:\d\d(?: \w+)?", capsys.readouterr().out)))
    assert ended.finished_at is not None
    assert shown == [{f"{ended.finished_at.astimezone():%H:%M} JST"}] * 2


def test_log_lines_name_the_time_zone(capsys: pytest.CaptureFixture[str]) -> None:
    log("step 1")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d JST  step 1\n", capsys.readouterr().out)
