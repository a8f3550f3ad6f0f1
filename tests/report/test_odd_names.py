"""Class folders and settings whose names are not UTF-8: every file of a report can be written."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from report.write import write_report
from results import Array

ODD = os.fsdecode(b"caf\xe9")
READABLE = r"caf\xe9"


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.slow
def test_every_file_of_a_report_can_be_read(lab, store, tmp_path, monkeypatch, older):
    """`older` means that the database was written before names were made readable."""
    if older:
        monkeypatch.setattr("results.columns._readable", lambda array: array)
    made = lab(suites=("accuracy",))
    made.study_of({"soft_moe": [0.8, 0.82]}, [{"note": ODD}, {"note": "plain"}])
    where = {"of": "combine", "kind": "soft"}
    store.record_measurement(
        "entropy", {}, "entropy", made.machine_ids[0], made.code,
        attempt_id=store.done_attempt(f"tiny-soft_moe-0-{ {'note': ODD} }").id,
        arrays=[
            Array("class_names", np.array([ODD, "cat", "dog"])),
            Array("class_expert", np.ones((3, 3)), 0, split="test", where=where),
        ],
    )  # fmt: skip
    monkeypatch.undo()
    paths = write_report(store, "tiny", tmp_path / "report")
    written = [file for file in paths.folder.rglob("*") if file.suffix not in (".png", ".pdf", "")]
    assert {file.suffix for file in written} >= {".md", ".tex", ".csv", ".json", ".html"}
    texts = {file.suffix: file.read_text(encoding="utf-8") for file in written}
    assert json.dumps(json.loads(texts[".json"]), ensure_ascii=False).encode()
    assert READABLE in (paths.folder / "tables" / "main.md").read_text(encoding="utf-8")
    assert r"caf\textbackslash{}xe9" in (paths.folder / "tables" / "main.tex").read_text()
    assert f"note={READABLE}" in paths.index_html.read_text(encoding="utf-8")
