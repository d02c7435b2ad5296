from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from gnvideo.comparison import read_results, write_report

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")

# Says what the page's own script found; the page allows scripts inside it, and nothing else.
PROBE = """<script>
addEventListener("load", () => setTimeout(() => {
  const root = document.documentElement;
  document.querySelectorAll("table.sortable button")[2].click();
  const cells = [...document.querySelectorAll("table.sortable tbody tr")];
  document.body.dataset.overflow = root.scrollWidth - root.clientWidth;
  document.body.dataset.sorted = cells.map((row) => row.cells[2].textContent).join(" ");
  document.body.dataset.requests = performance.getEntriesByType("resource").length;
}, 500));
</script></body>"""


def open_page(path: Path, width: int) -> tuple[str, str]:
    """Returns the page after its scripts ran, and what the browser logged."""
    assert BROWSER is not None
    probed = path.with_name(f"probed_{width}.html")
    probed.write_text(path.read_text().replace("</body>", PROBE))
    finished = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={path.parent / 'browser'}",
            "--enable-logging=stderr",
            "--v=0",
            f"--window-size={width},900",
            "--virtual-time-budget=3000",
            "--dump-dom",
            probed.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return finished.stdout, finished.stderr


@needs_browser
def test_the_page_draws_its_plots_without_errors_or_requests(make_comparison, write_comparison):
    config = make_comparison()
    write_comparison(config)
    page, log = open_page(write_report(read_results(config.output)), width=500)
    body = page[page.index("<main>") :]
    # Plotly draws each plot in three layers of SVG.
    assert len(re.findall(r'<svg class="main-svg"', body)) == 3 * 3
    # Three series of means and seeds; two panels of two means and six seeds.
    assert len(re.findall(r'<g class="trace scatter', body)) == 6 + 2 * 8
    assert not re.search(r"Uncaught|CONSOLE.*(rror|efused)", log)
    assert 'data-requests="0"' in page
    # Tables scroll inside themselves, the page does not.
    assert 'data-overflow="0"' in page
    found = re.search(r'data-sorted="([^"]*)"', page)
    assert found is not None
    values = [float(value) for value in found[1].split()]
    assert len(values) == 12
    assert values == sorted(values)


@needs_browser
def test_a_page_of_many_series_fits_a_phone(make_comparison, write_comparison):
    names = ", ".join(f"{{name: group, num_groups: {2**power}}}" for power in range(7))
    config = make_comparison(
        f"grid.normalizers=[batch, sync_batch, sub_batch, batch_renorm, layer, group_ws, {names}]",
        "grid.clips_per_batch=[2]",
    )
    write_comparison(config)
    page, log = open_page(write_report(read_results(config.output)), width=500)
    body = page[page.index("<main>") :]
    # One plot of dots, and one panel of curves for each of 13 normalizers.
    assert len(re.findall(r'<svg class="main-svg"', body)) == 3 * (1 + 13)
    # A row for each of the 13, and one more for each of four with running statistics.
    assert len(re.findall(r'<g class="ytick">', body[: body.index("</figure>")])) == 17
    assert not re.search(r"Uncaught|CONSOLE.*(rror|efused)", log)
    assert 'data-overflow="0"' in page
