r"""A report as one LaTeX document, `report.tex`, with its tables and figures.

Those that the page folds away, such as the list of all trials, are only in the folder `tables`.
`pdflatex report`, run in the report's folder, compiles the document; `bibtex report` adds the
references.
"""

from collections.abc import Sequence

from report.latex import PACKAGES, latex_heading, latex_text
from report.study import StudyData
from report.style import Drawing
from report.summary import compared, findings, remarks
from report.table import Absent, Table, missing, parted, said_once
from report.topics import chosen, sections

HEAD = rf"""\documentclass[10pt]{{article}}
\usepackage[textwidth=6.75in, textheight=9.4in]{{geometry}}
\usepackage{{graphicx}}
{PACKAGES}
\usepackage[hidelinks]{{hyperref}}
\setlength{{\parindent}}{{0pt}}\setlength{{\parskip}}{{4pt}}\setlength{{\emergencystretch}}{{3em}}
\renewcommand{{\topfraction}}{{0.95}}\renewcommand{{\textfraction}}{{0.02}}
\renewcommand{{\floatpagefraction}}{{0.6}}"""
NOTES = r"\section{Notes on the tables and figures}"


def to_paper(
    study: StudyData,
    tables: Sequence[Table | Absent],
    figures: Sequence[Drawing | Absent],
    cites: bool,
) -> str:
    """Return the document; `cites` tells whether there is a `references.bib`."""
    body, notes = [], []
    for section in sections(study):
        shown, _ = chosen(section, tables, figures)
        there = [part for part in shown if not isinstance(part, Absent)]
        if there:
            heading = rf"\section{{{latex_text(section.title)}}}"
            body.append("\n\n".join([heading, *map(_shown, there)]))
        notes += [_note(part) for part in there if parted(part.caption)[1]]
    if absent := said_once(missing([*tables, *figures])):
        named = "; ".join(f"{part.title} ({part.why})" for part in absent)
        body.append(latex_text(f"Not shown: {named}."))
    references = [r"\nocite{*}", r"\bibliographystyle{plain}", r"\bibliography{references}"]
    blocks = [
        HEAD,
        rf"\title{{{latex_text(study.name)}}}\date{{}}\author{{}}",
        r"\begin{document}",
        r"\maketitle",
        *_opening(study),
        r"\section{Methods}",
        r"\input{methods}",
        "\n\n\\clearpage\n".join(body),
        *([NOTES, *notes] if notes else []),
        *(references if cites else []),
        r"\end{document}",
    ]
    return "\n\n".join(blocks) + "\n"


def _note(part: Table | Drawing) -> str:
    """Return the details that the caption of a table or figure leaves out."""
    kind, prefix = ("Table", "tab") if isinstance(part, Table) else ("Figure", "fig")
    name = rf"{kind}~\ref{{{prefix}:{part.name}}}"
    return rf"\paragraph{{{name}}} {latex_heading(parted(part.caption)[1])}"


def _opening(study: StudyData) -> list[str]:
    """Return the summary as paragraphs."""
    paragraphs = [latex_heading(compared(study))]
    for finding in findings(study):
        best, sentences = map(latex_heading, (finding.headline, " ".join(finding.sentences)))
        paragraphs.append(rf"\textbf{{{best}}} {sentences}")
    return [*paragraphs, *map(latex_heading, remarks(study))]


def _shown(part: Table | Drawing) -> str:
    if isinstance(part, Table):
        return rf"\input{{tables/{part.name}.tex}}"
    return "\n".join([
        r"\begin{figure}[htbp]",
        r"\centering",
        rf"\includegraphics{{{{figures/{part.name}}}.pdf}}",
        rf"\caption{{{latex_heading(f'{part.title}. {parted(part.caption)[0]}')}}}",
        rf"\label{{fig:{part.name}}}",
        r"\end{figure}",
    ])  # fmt: skip
