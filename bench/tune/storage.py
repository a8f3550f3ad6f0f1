"""Where Optuna keeps the trials: `tuning.db` beside a SQLite file, else the schema `tuning`."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.storages import RDBStorage
from sqlalchemy import Engine, text

from results.connect import BUSY_SECONDS

FILE, SCHEMA = "tuning.db", "tuning"


def open_tuning(engine: Engine) -> RDBStorage:
    """The tuning that belongs to a results database; made where there is none."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if engine.dialect.name == "sqlite":
        file = Path(str(engine.url.database)).parent / FILE
        wait = {"connect_args": {"timeout": BUSY_SECONDS}}
        return RDBStorage(f"sqlite:///{file}", engine_kwargs=wait)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    url = engine.url.update_query_dict({"options": f"-csearch_path={SCHEMA}"})
    return RDBStorage(url.render_as_string(hide_password=False))
