"""What an error means for its attempt and its run, judged by types and codes, not messages."""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import create_engine, text

from bench.config import load_preset
from bench.data import Datasets
from bench.execute import jobs_of
from bench.execute.failures import is_disk_full, refuse_untrainable, rehearse, status_of
from bench.plan import Decision, make_plan, make_request
from results import StoreError
from results.connect import resolve, store_errors
from routers import RequestError


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_recognised_by_errno_even_as_the_cause_of_another_error(
    number: int,
) -> None:
    error = RuntimeError("cannot save")
    error.__cause__ = OSError(number, "in any language")
    assert is_disk_full(error)
    assert status_of(error) == "interrupted"
    assert not is_disk_full(RuntimeError("no space left on device, says a plugin"))
    assert not is_disk_full(OSError(errno.EACCES, "no space left on device"))


def test_a_full_database_is_recognised_through_the_store(tmp_path: Path) -> None:
    url = resolve(tmp_path / "full.db")
    engine = create_engine(url)
    with engine.connect() as connection:
        connection.execute(text("PRAGMA max_page_count = 2"))
        connection.execute(text("CREATE TABLE one (x)"))
        with pytest.raises(StoreError) as raised, store_errors(url, "write"):
            connection.execute(text("INSERT INTO one VALUES (zeroblob(100000))"))
    assert is_disk_full(raised.value)


def test_out_of_memory_errors_are_recognised() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(10**15)
    assert status_of(raised.value) == "out_of_memory"
    assert status_of(MemoryError()) == "out_of_memory"
    assert status_of(RuntimeError("a mistake")) == "failed"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.options.img_size", 12, "VisionTransformer does not take images of 1 x 8 x 8"),
        ("model.groups", 7, "soft_moe: model.groups = 7 does not divide"),
    ],
)
def test_a_mistake_in_the_model_is_not_blamed_on_a_router(
    path: str, value: Any, message: str
) -> None:
    datasets, preset = Datasets(), load_preset("smoke")
    request = make_request(preset, routers=["soft_moe"], seeds=1, settings={path: value})
    plan = make_plan(request, datasets)
    jobs = jobs_of(plan, [Decision(True, "new")] * len(plan.trials), [()] * len(plan.layers))
    device = torch.device("cpu")
    with pytest.raises(RequestError) as raised:
        refuse_untrainable(
            jobs, lambda specs: [partial(rehearse, s, datasets, device) for s in specs]
        )
    assert str(raised.value).startswith(message)
