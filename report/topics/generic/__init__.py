"""Any suite that no section is made for: its numbers, by the definitions that the database keeps.

A suite of a user's own gets a column of the main table (its main metric), a table with a row for
each router under each condition, a folded table with every layer, and curves of what it measured at
snapshots. The report loads no suite: names, units, directions and meanings are those of its card.
"""

from report.topics.generic.cards import Card, cards, measured_by, section
from report.topics.generic.curves import Curves, curves
from report.topics.generic.tables import Headline, headlines, tables

__all__ = [
    "Card",
    "Curves",
    "Headline",
    "cards",
    "curves",
    "headlines",
    "measured_by",
    "section",
    "tables",
]
