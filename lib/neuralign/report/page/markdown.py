"""Tables and text of the report as Markdown."""

import re
import textwrap

from neuralign.report.page.formatting import Rows, Table


def markdown_table(table: Table) -> str:
    """The table as a Markdown table for each of its groups, under the group's title; the caption follows."""
    parts = []
    for title, rows in table.groups:
        parts += [*([wrapped(f"**{title}**")] if title else []), rows_as_markdown(table.head, rows)]
    return "\n\n".join([*parts, wrapped(table.caption)])


def wrapped(text: str) -> str:
    """A paragraph in lines of at most 100 characters."""
    return textwrap.fill(re.sub(r"\s+", " ", text), 100, break_on_hyphens=False)


def list_item(text: str) -> str:
    """An entry of a Markdown list, in lines of at most 100 characters."""
    return textwrap.fill(f"- {text}", 100, subsequent_indent="  ", break_on_hyphens=False)


def rows_as_markdown(head: list[str], rows: Rows) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
