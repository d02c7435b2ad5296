from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from contextlib import suppress

from gnvideo.data.preparation_progress import show_progress


def test_a_log_gets_a_last_line_and_no_flood() -> None:
    log = io.StringIO()
    with show_progress("videos", log) as on_progress:
        for done in range(1001):
            on_progress(done, 1000)
    assert log.getvalue().startswith("1000/1000 videos, ")
    assert log.getvalue().count("\n") == 1


def test_no_work_is_no_line() -> None:
    log = io.StringIO()
    with show_progress("videos", log) as on_progress:
        on_progress(0, 0)
    assert log.getvalue() == ""


def test_a_terminal_gets_a_bar_with_rate_and_estimate() -> None:
    code = """
import time
from gnvideo.data.preparation_progress import show_progress
with show_progress("videos") as on_progress:
    for done in range(41):
        on_progress(done, 40)
        time.sleep(0.03)
"""
    reader, terminal = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    environment.pop("NO_COLOR", None)
    subprocess.run(
        [sys.executable, "-c", code], stderr=terminal, env=environment, check=True, timeout=60
    )
    os.close(terminal)
    shown = b""
    # Closed by all others, a terminal ends with an error.
    with suppress(OSError):
        while some := os.read(reader, 2**16):
            shown += some
    os.close(reader)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    # One line, drawn again and again.
    lines = re.findall(r"videos \u2501+\S* +(\d+)/40 +(?:([\d.]+)/s +)?([\d:-]+)", text)
    counts, rates, estimates = zip(*lines, strict=True)
    assert len(set(counts)) > 3
    assert list(map(int, counts)) == sorted(map(int, counts))
    assert counts[-1] == "40"
    # At most 33, as it sleeps between them.
    assert all(0.1 < float(rate) < 34 for rate in rates if rate)
    assert "0:00:01" in estimates
    assert estimates[-1] == "0:00:00"
