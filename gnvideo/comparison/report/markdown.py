"""Decides how a report reads as Markdown: everything but the plots, whose numbers are tables."""

from __future__ import annotations

from gnvideo.comparison.report.blocks import (
    Block,
    Bullets,
    Code,
    Columns,
    Details,
    Panels,
    Paragraph,
    Report,
    Table,
)


def render_markdown(report: Report) -> str:
    """Returns the report as GitHub-flavoured Markdown."""
    parts = [f"# {_escape(report.finding)}", _escape(report.lede)]
    parts.append(_escape("; ".join(report.summary)) + ".")
    parts += [f"> **Warning.** {_escape(warning)}" for warning in report.warnings]
    for section in report.sections:
        parts.append(f"## {_escape(section.title)}")
        parts += [text for block in section.blocks if (text := _render(block))]
    return "\n\n".join(parts) + "\n"


def _render(block: Block) -> str:
    match block:
        case Paragraph(text):
            return _escape(text)
        case Bullets(items):
            return "\n".join(f"- {_escape(item)}" for item in items)
        case Code(text):
            return f"```\n{text}\n```"
        case Table():
            return _render_table(block)
        case Columns(tables):
            return "\n\n".join(_render_table(table) for table in tables)
        case Details(summary, blocks):
            return "\n\n".join([f"**{_escape(summary)}**", *(_render(inner) for inner in blocks)])
        case Panels():
            return ""


def _render_table(table: Table) -> str:
    left = {0, *table.text_columns}
    rules = ["---" if index in left else "---:" for index in range(len(table.columns))]
    marked = {*table.marked_rows, *table.warned_rows}
    rows = [
        [f"**{cell}**" for cell in row] if index in marked else row
        for index, row in enumerate([[_escape(cell) for cell in row] for row in table.rows])
    ]
    lines = [[_escape(column) for column in table.columns], rules, *rows]
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{_escape(table.caption)}:\n\n{body}"


def _escape(text: str) -> str:
    """Returns `text` on one line, with nothing that Markdown or HTML would read as markup."""
    flat = " ".join(text.split())
    for character, escaped in (("\\", "\\\\"), ("<", "&lt;"), ("|", "\\|"), ("[", "\\[")):
        flat = flat.replace(character, escaped)
    return flat
