"""Each printed number knows its trials, and a written report is checked with the database."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing

import pytest

from bench.cli import main
from report import STATE_FILE as STATE
from report.numbers import FILE, from_json, numbers, row_names, trace
from report.study import load_study
from report.summary import changed
from report.table import Cell, Column, Row, Table
from report.write import MANIFEST, check, write_report
from results import StoreError, Subject, open_store

TOP1 = {"soft_moe": [0.8, 0.9], "dense": [0.7, 0.75]}


SUITES = ("accuracy", "throughput")


@pytest.fixture(scope="module")
def template(tmp_path_factory, make_lab):
    """A folder with the database of a study of two routers, and its report."""
    folder = tmp_path_factory.mktemp("small")
    with open_store(folder / "results.db") as store:
        make_lab(store, suites=SUITES).study_of(TOP1)
        write_report(store, "tiny", folder / "report", folder)
    return folder


@pytest.fixture
def small(template, lab, tmp_path):
    """A study of two routers, and its report, for one test to change."""
    with (
        closing(sqlite3.connect(template / "results.db")) as written,
        closing(sqlite3.connect(tmp_path / "results.db")) as own,
    ):
        written.backup(own)
    return lab(suites=SUITES), shutil.copytree(template / "report", tmp_path / "report")


@pytest.fixture
def opened(written):
    """The open database of the report of nine routers."""
    with open_store(written.paths.folder.parent / "results.db") as store:
        yield store


def command(tmp_path, *arguments):
    """Return the exit status of `report`."""
    with pytest.raises(SystemExit) as ended:
        main(["report", "--home", str(tmp_path), "--db", str(tmp_path / "results.db"), *arguments])
    return ended.value.code


def test_every_number_in_every_table_has_trials_of_the_study(written):
    study = written.study
    known = {*study.trials["trial"], *study.measurements["trial"]}
    every = [number for table in written.tables.values() for number in numbers(table)]
    assert len(every) > 500
    assert [number.label for number in every if not number.cell.trials] == []
    for number in every:
        assert set(number.cell.trials) <= known, number.label
        assert len(set(number.cell.trials)) == len(number.cell.trials), number.label
        assert len(number.cell.values) in (0, len(number.cell.trials)), number.label


def test_a_mean_is_the_mean_of_its_trials_values(written):
    table = written.tables["main"]
    for number in numbers(table):
        if number.column.key == "top1":
            cell = number.cell
            assert cell.value == pytest.approx(sum(cell.values) / len(cell.values))
            assert len(cell.trials) == cell.n
            assert all(f"-{number.row}-" in trial for trial in cell.trials)


def test_a_number_is_traced_to_its_trials(written, opened):
    traced = trace(opened, written.study, "main", "soft_moe", "top-1")
    assert traced.number.shown == "87.3 ± 3.8 %"
    values = {source.seed: source.value for source in traced.sources}
    assert values == {"0": "86.0", "1": "87.0", "2": "89.0"}
    source = traced.sources[0]
    assert source.trial == "tiny-soft_moe-0-{}"
    assert (source.machine, source.code, source.log) == ("node-1", "0123456789ab", "logs/a.log")


def test_a_timing_is_traced_to_its_layer(written, opened):
    traced = trace(opened, written.study, "throughput", "soft_moe model", "forward_ms")
    assert [source.trial for source in traced.sources] == ["tiny-soft_moe-{}"]
    assert [source.value for source in traced.sources] == ["17.00"]


def test_a_difference_is_traced_to_the_trials_of_both_sides(written, opened):
    traced = trace(opened, written.study, "differences_nulls", "soft_moe dense", "difference")
    assert {source.router for source in traced.sources} == {"soft_moe", "dense"}
    assert len(traced.sources) == 6


def test_a_tuning_score_is_traced_to_trials_outside_the_study(small, store):
    """They are in the database, but not in the study that uses their settings."""
    made, _ = small
    score = {"trials": 2, "done": 2, "pruned": 0, "failed": 0, "best": 0.9, "settings": {}}
    for name in "ab":
        store.trials([Subject(name, made.described("soft_moe", {}), [])])[0]
    score |= {"values": [0.8, 0.9], "training": "b", "trainings": ["a", "b", "gone"]}
    request = store.find_study("tiny").request
    store.study("tiny", request | {"tuned": {"soft_moe": score}})
    study = load_study(store, "tiny")
    best = trace(store, study, "tuning", "soft_moe", "best")
    assert [(each.trial, each.router, each.value) for each in best.sources] == [
        ("b", "soft_moe", "90.00")
    ]
    every = trace(store, study, "tuning", "soft_moe", "trials").sources
    assert [each.status for each in every] == ["waiting", "waiting", "not in this database"]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("mian", "soft_moe", "top1"), "no table 'mian' in this report; did you mean 'main'"),
        (("main", "softmoe", "top1"), "no row 'softmoe' in table main; did you mean 'soft_moe'"),
        (("main", "soft_moe", "topl"), "no number 'topl' in that row of main; did you mean 'top"),
        (("entropy", "soft_moe", "H_s"), "2 rows of table entropy have 'soft_moe': soft_moe gates"),
        (
            ("spent", "soft_moe", "training"),
            "2 columns of table spent are headed 'training': train_flops, train_seconds",
        ),
    ],
)
def test_a_number_that_does_not_exist_is_refused_with_the_nearest(written, opened, place, message):
    with pytest.raises(StoreError) as error:
        trace(opened, written.study, *place)
    assert message in str(error.value)


def test_columns_with_equal_headings_are_distinguished_by_unit(written, opened):
    for heading, key in (("training (s)", "train_seconds"), ("training (TFLOP)", "train_flops")):
        traced = trace(opened, written.study, "spent", "soft_moe", heading)
        assert traced.number.column.key == key


def test_rows_are_named_by_their_first_words_without_counts():
    columns = [Column(key, key, words=True) for key in ("router", "n", "layer")]
    columns += [Column("value", "value"), Column("verdict", "verdict", words=True)]

    def row(*names: str) -> Row:
        texts = [*names, "higher"]
        cells = [Cell(words=text) for text in texts]
        return Row((*cells[:-1], Cell(1.0), cells[-1]))

    table = Table("t", "t", "", tuple(columns), (row("a", "3", "0"), row("a", "2", "0")))
    assert row_names(table) == ["a 0", "a 0 (2)"]


def test_a_report_just_written_passes_the_check(small, store, tmp_path, capsys):
    _, folder = small
    checked = check(store, folder)
    assert checked.wrong == ()
    assert checked.numbers > 50
    assert command(tmp_path, "--check", str(folder)) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"The database supports each of the {checked.numbers} numbers of")
    assert f"Its {checked.files} files are as they were written." in printed


def _edit(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("name", "old", "new", "where"),
    [
        ("tables/main.md", "85.0 ±", "95.0 ±", ", line 6: "),
        ("tables/main.tex", "85.0{ $", "95.0{ $", ", line 14: "),
        ("tables/main.csv", "0.85", "0.95", ", line 3: "),
        ("report.md", "85.0 ±", "95.0 ±", ""),
        ("index.html", "85.0", "95.0", ""),
    ],
)
def test_an_edited_file_is_named_with_its_line(
    small, store, tmp_path, capsys, name, old, new, where
):
    _, folder = small
    _edit(folder / name, old, new)
    checked = check(store, folder)
    assert checked.wrong == (), "the database still supports what was written"
    (line,) = checked.edited
    assert line.startswith(f"{name}: the file was changed after it was written{where}")
    if where:
        assert new in line
        assert old in line
    assert command(tmp_path, "--check", str(folder)) == 1
    printed = capsys.readouterr().out
    assert line in printed
    assert f"1 of its {checked.files} files are not as they were written." in printed


@pytest.mark.slow
def test_every_file_of_a_report_is_checked(small, store):
    """A deleted file and a changed one are named, whichever it is."""
    _, folder = small
    files = {f.relative_to(folder).as_posix(): f for f in folder.rglob("*") if f.is_file()}
    shown = files.keys() - {FILE, STATE, MANIFEST}
    assert shown == from_json(folder).files.keys()
    for name in shown:
        file = files[name]
        content = file.read_bytes()
        file.write_bytes(content + b" ")
        (line,) = check(store, folder).edited
        assert line.startswith(f"{name}: the file was changed after it was written")
        file.unlink()
        assert check(store, folder).edited == (f"{name}: the file is missing",)
        file.write_bytes(content)
    assert check(store, folder).edited == ()


def test_a_report_with_an_infinite_value_can_be_checked(small, store, tmp_path):
    _, folder = small
    with sqlite3.connect(tmp_path / "results.db") as database:
        nll = "(SELECT min(id) FROM metrics WHERE name = 'nll')"
        database.execute(f"UPDATE metrics SET value = 9e999 WHERE id = {nll}")
    database.close()
    assert check(store, folder).wrong
    assert check(store, write_report(store, "tiny", folder, tmp_path).folder).wrong == ()


def test_numbers_changed_by_another_run_are_named(small, store, tmp_path, capsys):
    made, folder = small
    made.trial("soft_moe", 1, 0.6, {})
    wrong = check(store, folder).wrong
    assert "main, soft_moe, top-1: 85.0 ± 63.5 % in the report, 70.0 ± 127.1 % in the database" in (
        wrong
    )
    assert not [line for line in wrong if line.startswith("main, dense, top")]
    best = next(line for line in wrong if line.startswith("best: "))
    assert "85.0" in best, "the summary's numbers are checked too"
    assert "63.5" in best
    assert command(tmp_path, "--check", str(folder)) == 1
    printed = capsys.readouterr().out
    assert "main, soft_moe, top-1: 85.0 ± 63.5 % in the report" in printed
    assert "no longer hold" in printed


def test_numbers_whose_results_are_gone_are_named(small, tmp_path, store):
    _, folder = small
    with sqlite3.connect(tmp_path / "results.db") as database:
        database.execute("DELETE FROM metrics WHERE name = 'ece'")
    database.close()
    wrong = check(store, folder).wrong
    assert wrong
    assert {line.partition(":")[0] for line in wrong} == {
        "main, dense, ECE", "main, soft_moe, ECE",
    }  # fmt: skip
    assert all(line.endswith("the database has no such number now") for line in wrong)


def test_a_number_that_now_comes_from_other_trials_is_named(small, store, tmp_path):
    """Equal values of other runs are not the values that were printed."""
    made, folder = small
    made.protocol = "second"
    for seed, value in enumerate(TOP1["soft_moe"]):
        made.trial("soft_moe", seed, value, {})
    wrong = check(store, folder).wrong
    assert "main, soft_moe, top-1: 85.0 ± 63.5 % comes from other trials now" in wrong


def test_a_change_too_small_to_be_printed_does_not_count(small, store, tmp_path):
    _, folder = small
    for step, holds in ((1e-9, True), (0.1, False)):
        with sqlite3.connect(tmp_path / "results.db") as database:
            database.execute("UPDATE metrics SET value = value + ? WHERE name = 'nll'", (step,))
        database.close()
        assert (check(store, folder).wrong == ()) is holds


def test_the_numbers_of_a_folder_are_read_as_they_were_written(written):
    printed = from_json(written.paths.folder)
    assert printed.study == "tiny"
    assert {table.name: table for table in printed.tables}.keys() == written.tables.keys()
    assert printed.tables[0].rows == written.tables["main"].rows


def test_rewording_around_the_same_numbers_changes_no_number():
    then = {"summary": "3 seeds, −1.5 points", "gone": "n = 2", "words": "none"}
    assert changed(then, {"summary": "−1.5 points of 3 seeds"}) == [
        *("summary: numbers in the report, not in the database now",),
        *("gone: 2 in the report, not in the database now",),
    ]
    assert changed(then, then | {"summary": "with 3 seeds: −1.5"}) == []


def test_a_folder_without_a_report_is_refused(tmp_path, store, capsys):
    assert command(tmp_path, "--check", str(tmp_path)) == 2
    assert f"no {FILE} in {tmp_path}: is it the folder of a report?" in capsys.readouterr().err
    (tmp_path / FILE).write_text(json.dumps({"study": "tiny"}))
    with pytest.raises(StoreError, match=r"cannot be read .* write the report again"):
        from_json(tmp_path)


def test_a_report_of_another_version_is_refused_with_the_command_to_rewrite_it(
    small, tmp_path, capsys
):
    """Older versions identified the entry of a row by its router, as text, without a system."""
    _, folder = small
    printed = json.loads((folder / FILE).read_text())
    for table in printed["tables"]:
        for row in table["rows"]:
            for entry in filter(None, (row.get("entry"), row.get("reference"))):
                entry["router"] = entry.pop("system")["router"]
    (folder / FILE).write_text(json.dumps(printed))
    assert command(tmp_path, "--check", str(folder)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"error: {folder / FILE} cannot be read (tables.0.rows.0.entry.system: Field required): "
        "another version of the bench wrote it; write the report again: "
        f"python bench.py report --study tiny --out {folder}"
    )


def test_a_damaged_report_is_not_mistaken_for_one_of_another_version(small, tmp_path, capsys):
    _, folder = small
    (folder / FILE).write_text((folder / FILE).read_text()[:1000])
    assert command(tmp_path, "--check", str(folder)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "it is damaged; write the report again: python bench.py report --out" in line


def test_the_command_traces_a_number(small, tmp_path, capsys):
    assert command(tmp_path, "--trace", "main", "soft_moe", "top1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["main, soft_moe, top-1: 85.0 ± 63.5 %", "from 2 trials"]
    assert "tiny-soft_moe-1-{}  soft_moe, seed 1, done: 90.0" in lines
    assert "    machine node-1, code 0123456789ab, log logs/a.log" in lines
    assert command(tmp_path, "--trace", "main", "soft", "top1") == 2
