from __future__ import annotations

import io

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
