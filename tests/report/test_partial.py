"""Incomplete studies: the report shows what is there and says what is missing."""

from __future__ import annotations

import hashlib
import json
import re

import pytest

from report import STATE_FILE as STATE
from report.study import load_study
from report.write import MANIFEST, NUMBERS, write_report
from results import StoreError


def pages(paths):
    return paths.index_html.read_text(encoding="utf-8"), paths.markdown.read_text(encoding="utf-8")


def test_a_report_of_one_router_with_one_seed_and_one_suite(lab, store, tmp_path):
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.8]})
    paths = write_report(store, "tiny", tmp_path / "out")
    html, markdown = pages(paths)
    assert {path.stem for path in paths.figures} == {"accuracy", "training"}
    assert "80.0 % (n = 1)" in html
    assert "There is nothing to compare it with" in html
    assert "Overhead by router" in paths.missing
    assert all(why in html and why in markdown for why in paths.missing.values())


@pytest.mark.parametrize("suites", [(), ("accuracy",), ("accuracy", "balance", "throughput")])
def test_missing_parts_are_mentioned_once(lab, store, tmp_path, suites):
    lab(suites=suites).study_of({"soft_moe": [0.8, 0.81]})
    html, _ = pages(write_report(store, "tiny", tmp_path / "out"))
    listed = html[html.index("Not in this report") :]
    listed = listed[: listed.index("</ul>")]
    reasons = re.findall(r"</b>: (.*?)</li>", listed)
    titles = [title for each in re.findall(r"<b>(.*?)</b>", listed) for title in each.split("; ")]
    assert len(reasons) == len(set(reasons)) > 3
    assert len(titles) == len(set(titles))
    for section in html.split("<section id=")[2:]:
        said = re.findall(r'class="part absent">.*?<p>(.*?)</p>', section)
        assert len(said) == len(set(said))


def test_a_report_of_trials_that_all_failed(lab, store, tmp_path):
    lab(suites=()).study_of({"soft_moe": [None, None], "dense": [None]})
    paths = write_report(store, "tiny", tmp_path / "out")
    html, markdown = pages(paths)
    assert paths.figures == ()
    assert "No finished training" in html
    assert markdown.count("loss is not finite at step 17") == 3
    assert "0 of 2" in html


def test_a_report_of_bare_layers_without_any_training(lab, store, tmp_path):
    study = lab(suites=("throughput",))
    study.layer("soft_moe", {}, 0)
    study.layer("dense", {}, 0)
    paths = write_report(store, "tiny", tmp_path / "out")
    html, _ = pages(paths)
    assert {path.stem for path in paths.figures} == {"overhead"}
    assert "as bare layers: nothing was trained" in html


def test_a_report_of_a_study_without_any_results(lab, store, tmp_path):
    lab(suites=())
    paths = write_report(store, "tiny", tmp_path / "out")
    assert paths.tables == paths.figures == ()
    assert len(paths.missing) > 10


def test_waiting_trials_are_counted(lab, store, tmp_path):
    study = lab(suites=("accuracy",))
    study.study_of({"soft_moe": [0.8, 0.9]})
    study.waiting("soft_moe", 2)
    html, _ = pages(write_report(store, "tiny", tmp_path / "out"))
    assert "3 trials: 2 done, 1 waiting" in html
    assert "2 of 3" in html


def test_a_report_of_routers_without_dense(lab, store, tmp_path):
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.8, 0.82], "my_gate": [0.7, 0.71]})
    paths = write_report(store, "tiny", tmp_path / "out")
    assert "Paired differences to the nulls" in paths.missing
    assert (paths.folder / "tables" / "differences_best.md").exists()


def test_a_report_of_a_router_without_a_card_in_the_database(lab, store, tmp_path):
    study = lab(suites=("accuracy",))
    study.trial("soft_moe", 0, 0.8, {})
    html, _ = pages(write_report(store, "tiny", tmp_path / "out"))
    assert "The database has no card of this router." in html


def test_writing_a_report_twice_gives_the_same_bytes(lab, store, tmp_path):
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.8, 0.9]})
    folder = tmp_path / "out"

    def files():
        write_report(store, None, folder)
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert files() == files()


def test_the_manifest_names_each_file_with_the_trials_behind_it(lab, store, tmp_path):
    lab(suites=("accuracy",)).study_of({"soft_moe": [0.8, 0.9], "random": [0.7]})
    folder = tmp_path / "out"
    write_report(store, None, folder)
    listed = json.loads((folder / MANIFEST).read_text())["files"]
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert listed.keys() == there - {MANIFEST, NUMBERS, STATE}
    for name, entry in listed.items():
        content = (folder / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    everyone = sorted(load_study(store).trials["trial"])
    assert listed["tables/main.csv"]["trials"] == everyone
    assert listed["figures/accuracy.pdf"]["trials"] == everyone
    assert listed["report.md"]["trials"] == []


def test_the_study_requested_last_is_the_default(lab, store):
    lab(name="first")
    lab(name="second")
    assert load_study(store).record.name == "second"
    lab(name="first")
    assert load_study(store).record.name == "first"


def test_an_unknown_study_is_refused_with_the_nearest_name(lab, store, tmp_path):
    lab(name="overnight")
    with pytest.raises(StoreError, match=r"overnihgt.*did you mean 'overnight'"):
        write_report(store, "overnihgt", tmp_path)


def test_an_empty_database_says_how_to_fill_it(store, tmp_path):
    with pytest.raises(StoreError, match=r"no study yet; `python bench\.py run`"):
        write_report(store, None, tmp_path)
