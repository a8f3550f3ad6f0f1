"""The best of each condition is bold, in whatever format a table is written."""

from __future__ import annotations

import re

import pytest

from report.latex import latex_heading, to_latex
from report.page import make_page
from report.render import to_markdown
from report.study import load_study
from report.table import TIED
from report.topics import accuracy, compute, specialization
from report.topics.traces import explorer
from report.topics.trials import Logs

CONDITIONS = [{"capacity_factor": 1.0}, {"capacity_factor": 2.0}]
COLUMNS = {
    accuracy.table: "top1",
    compute.rankings_table: "top1_end",
    specialization.table: "polysemanticity",
}


@pytest.fixture
def study(lab, store):
    """`soft_moe` leads under both conditions, by 1 point more under the second."""
    made = lab(suites=("accuracy", "specialization"))
    made.study_of({"soft_moe": [0.8, 0.81, 0.83], "my_gate": [0.6, 0.62, 0.61]}, CONDITIONS)
    made.study_of({"dense": [0.4, 0.41, 0.4]})
    return load_study(store)


def conditions_in_bold(rows):
    """Return the condition of each row whose cell in a column is bold."""
    return [re.search(r"factor=([\d.]+)", row.replace("\\", ""))[1] for row in rows]


@pytest.mark.parametrize("make", COLUMNS)
def test_each_condition_has_its_own_best(study, make):
    table = make(study)
    place = [column.key for column in table.columns].index(COLUMNS[make])

    markdown = [line for line in to_markdown(table).splitlines() if line.startswith("| ")][2:]
    bold = [row for row in markdown if row.split(" | ")[place].startswith("**")]
    assert conditions_in_bold(bold) == ["1.0", "2.0"]

    heading = latex_heading(table.columns[place].heading)
    (part,) = (each for each in to_latex(table).split(r"\toprule")[1:] if heading in each)
    latex = [line.split(" & ") for line in part.splitlines() if line.endswith(r" \\")]
    (own,) = (number for number, head in enumerate(latex[0]) if heading in head)
    bold = [" & ".join(row) for row in latex[1:] if row[own].startswith(r"\bfseries")]
    assert conditions_in_bold(bold) == ["1.0", "2.0"]

    page = make_page(study, [table], [], Logs(None, "."), explorer(study))
    body = page[page.index(f'id="table-{table.name}"') :].partition("</table>")[0]
    rows = [row.replace("<wbr>", "") for row in body.split("<tr")[2:]]
    bold = [
        row for row in rows if re.findall(r'<td(?: class="([^"]*)")?', row)[place].endswith("best")
    ]
    assert conditions_in_bold(bold) == ["1.0", "2.0"]


def test_a_row_may_be_the_best_under_only_one_of_its_conditions(lab, store):
    made = lab(suites=("accuracy",))
    made.study_of({"soft_moe": [0.5, 0.51, 0.53]}, CONDITIONS[:1])
    made.study_of({"my_gate": [0.4, 0.42, 0.41]}, CONDITIONS)
    for seed, value in enumerate([0.9, 0.91, 0.89]):
        made.trial("soft_moe", seed, value, CONDITIONS[1])
    made.study_of({"dense": [0.7, 0.72, 0.7]})
    table = accuracy.table(load_study(store))
    place = [column.key for column in table.columns].index("top1")
    bold = {(row.entry.label, len(row.under)) for row in table.rows if row.cells[place].best}
    assert bold == {("dense", 2), ("soft_moe", 1)}


def test_an_unresolved_lead_is_not_bold(lab, store):
    lab(suites=("accuracy",)).study_of(
        {"soft_moe": [0.8, 0.9, 0.7], "my_gate": [0.82, 0.7, 0.83], "dense": [0.2, 0.25, 0.21]}
    )
    table = accuracy.table(load_study(store))
    place = [column.key for column in table.columns].index("top1")
    cells = {row.entry.label: row.cells[place] for row in table.rows}
    assert not any(cell.best for cell in cells.values())
    assert {label for label, c in cells.items() if TIED in c.marks} == {"soft_moe", "my_gate"}
    assert f"{TIED}: the best mean under a condition, or not resolved from it." in table.notes
