"""What `doctor` says, line by line."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Finding(NamedTuple):
    """One line of the table: what was looked at, how it is, and what to do about it."""

    subject: str
    state: Literal["ok", "note", "broken"]
    text: str
