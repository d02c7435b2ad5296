"""Decides how a report becomes one HTML file that opens without a network and asks for nothing."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from importlib import resources
from string import Template

from gnvideo.comparison.report.blocks import (
    Block,
    Bullets,
    Code,
    Columns,
    Details,
    Panel,
    Panels,
    Paragraph,
    Report,
    Table,
)


def render_page(report: Report) -> str:
    """Returns the report as a complete HTML page with its style, scripts and data inside."""
    # Here, since it takes longer to import than all the rest of a comparison.
    from plotly.offline import get_plotlyjs

    sections = [
        f'<section id="{_make_anchor(section.title)}">\n<h2>{_escape(section.title)}</h2>\n'
        + _render_all(section.blocks)
        + "\n</section>"
        for section in report.sections
    ]
    links = [
        f'<a href="#{_make_anchor(section.title)}">{_escape(section.title)}</a>'
        for section in report.sections
    ]
    warnings = [
        f'<aside class="warning" role="note"><strong>Warning.</strong> {_escape(warning)}</aside>'
        for warning in report.warnings
    ]
    files = resources.files("gnvideo.comparison.report")
    return Template(files.joinpath("page.html").read_text(encoding="utf-8")).substitute(
        finding=_escape(report.finding),
        summary="\n".join(f"<li>{_escape(item)}</li>" for item in report.summary),
        lede=_escape(report.lede),
        warnings="\n".join(warnings),
        links="\n".join(links),
        sections="\n".join(sections),
        style=files.joinpath("page.css").read_text(encoding="utf-8"),
        script=files.joinpath("page.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
    )


def _render_all(blocks: Sequence[Block]) -> str:
    return "\n".join(_render(block) for block in blocks)


def _render(block: Block) -> str:
    match block:
        case Paragraph(text):
            return f"<p>{_escape(text)}</p>"
        case Bullets(items):
            return "<ul>" + "".join(f"<li>{_escape(item)}</li>" for item in items) + "</ul>"
        case Code(text):
            return f'<pre tabindex="0"><code>{html.escape(text)}</code></pre>'
        case Table():
            return _render_table(block)
        case Columns(tables):
            return f'<div class="columns">{"".join(_render_table(table) for table in tables)}</div>'
        case Details(summary, blocks):
            return f"<details><summary>{_escape(summary)}</summary>{_render_all(blocks)}</details>"
        case Panels(panels, small):
            kind = "small panels" if small else "panels"
            return f'<div class="{kind}">{"".join(_render_panel(panel) for panel in panels)}</div>'


def _render_panel(panel: Panel) -> str:
    title = f"<figcaption>{_escape(panel.title)}</figcaption>" if panel.title else ""
    # Inside a script nothing is markup but "<", which JSON can write in another way.
    figure = json.dumps(panel.figure).replace("<", "\\u003c")
    return (
        f'<figure>{title}<div class="plot" role="img" aria-label="{_escape(panel.description)}">'
        f'<script type="application/json">{figure}</script></div></figure>'
    )


def _render_table(table: Table) -> str:
    words = {0, *table.text_columns}
    head = "".join(
        f'<th scope="col"{_text_class(index in words)}>'
        + (f'<button type="button">{_escape(name)}</button>' if table.sortable else _escape(name))
        + "</th>"
        for index, name in enumerate(table.columns)
    )
    body = "\n".join(
        f"<tr{_make_row_class(table, number)}>"
        + f'<th scope="row">{_escape(row[0])}</th>'
        + "".join(
            f"<td{_text_class(index in words)}>{_escape(cell)}</td>"
            for index, cell in enumerate(row[1:], start=1)
        )
        + "</tr>"
        for number, row in enumerate(table.rows)
    )
    return (
        f'<div class="table" tabindex="0" role="region" aria-label="{_escape(table.caption)}">'
        f"<table{' class=sortable' if table.sortable else ''}>"
        f"<caption><span>{_escape(table.caption)}</span></caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _make_row_class(table: Table, number: int) -> str:
    classes = {
        "marked": table.marked_rows,
        "warned": table.warned_rows,
        "start": table.group_starts,
    }
    present = [name for name, rows in classes.items() if number in rows]
    return f' class="{" ".join(present)}"' if present else ""


def _text_class(is_text: bool) -> str:
    return " class=text" if is_text else ""


def _escape(text: str) -> str:
    """Returns `text` as HTML, with `code` in backticks as such; a % stays with its number."""
    escaped = html.escape(text).replace(" %", "&nbsp;%")
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escaped)


def _make_anchor(title: str) -> str:
    return "-".join(re.findall(r"[a-z0-9]+", title.lower()))
