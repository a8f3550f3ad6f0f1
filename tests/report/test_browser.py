"""The page in a real browser, where one is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
PROBE = """<script>
  const table = document.querySelector("#table-main table");
  const head = [...table.querySelectorAll("th")].find((th) => th.innerText.startsWith("top-1"));
  const order = () => [...table.tBodies[0].rows].map((row) => row.cells[0].innerText.trim());
  head.querySelector("button").click();
  const up = order();
  head.querySelector("button").click();
  const down = order();
  const best = table.tBodies[0].rows[0].cells[head.cellIndex].querySelector("a.from");
  best.click();
  const list = document.querySelector("#table-trials");
  const left = [...list.querySelectorAll("tbody tr")].filter((row) => row.checkVisibility());
  const behind = left.map((row) => row.cells[0].innerText.trim());
  const note = list.querySelector(".chosen").innerText;
  list.querySelector(".chosen button").click();
  document.querySelector(".figure-number a.from").click();
  const first = list.querySelector(".chosen").innerText;
  list.querySelector(".chosen button").click();
  const all = list.querySelectorAll("tbody tr:not([hidden])").length;
  const page = document.documentElement;
  const wide = page.scrollWidth - page.clientWidth;
  const told = { up, down, behind, note, first, all, wide, width: innerWidth };
  document.body.innerHTML = `<pre id="told">${JSON.stringify(told)}</pre>`;
</script></body>"""


if BROWSER:

    @pytest.mark.parametrize("width", [1280, 520])
    def test_the_page_fits_and_its_tables_sort(written, tmp_path, width):
        probed = tmp_path / "page.html"
        probed.write_text(written.html.replace("</body>", PROBE), encoding="utf-8")
        reported = _in_browser(probed, tmp_path, width)
        assert reported["width"] == width
        assert reported["wide"] <= 0, "the page itself scrolls sideways"
        assert reported["up"][0] == "random"
        assert reported["down"][0].startswith("soft_moe")
        assert reported["up"][-1] == reported["down"][-1] == "my_gate", (
            "what has no number stays below"
        )
        assert reported["behind"] == ["soft_moe"] * 3, "a number shows its trials"
        assert reported["note"].startswith("Behind 87.3 ± 3.8≈ (soft_moe")
        assert reported["first"].startswith("Behind soft_moe 87.3 ± 3.8 % (n = 3).")
        assert reported["all"] == len(written.tables["trials"].rows)


def _in_browser(page, folder, width):
    arguments = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", "--dump-dom",
        page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(re.search(r'<pre id="told">(.*?)</pre>', done.stdout)[1])
