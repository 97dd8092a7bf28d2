"""Take the pictures of the step view and of the inspector that the README and the docs show.

    empg train demo --run runs/demo && python scripts/screenshot_pages.py runs/demo docs/figures

Needs Playwright (in the extra `dev`) and an installed Chromium or Chrome.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

from playwright.sync_api import sync_playwright

from empg.record.loading import load
from empg.record.runfolder import RunFolder
from empg.report.inspector.app import serve
from empg.report.page import build_page

WIDTH, HEIGHT, MARGIN = 1100, 1250, 16  # CSS pixels; a longer episode is cut between two steps
ZETA = 0.4  # in the picture of the inspector, so that the panel shows a change


def main() -> None:
    """Write both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder, e.g. runs/demo")
    parser.add_argument("folder", type=Path, help="folder for step-view.png and inspector.png")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        parser.exit(1, "Chromium is not installed. Debian and Ubuntu: apt install chromium\n")
    run = RunFolder.open(arguments.run)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, device_scale_factor=1.25)
        step_view(page, run, arguments.folder / "step-view.png")
        inspector(page, run, arguments.folder / "inspector.png")
        browser.close()


def step_view(page: Any, run: RunFolder, picture: Path) -> None:
    """Take the picture of an episode that was won, in the report."""
    page.goto(build_page(run).absolute().as_uri())
    won = page.locator("#steps .episodes button", has_text="won")
    if won.count():
        won.first.click()
    shot(page, "#steps", "#steps .turns > li", picture)


def inspector(page: Any, run: RunFolder, picture: Path) -> None:
    """Take the picture of the won episode with the largest spread of A in the last kept iteration."""
    addresses: Queue[str] = Queue()
    Thread(target=serve, args=([run], 0, addresses.put), daemon=True).start()
    episodes = load(run).episodes.to_pylist()
    last = [e for e in episodes if e["iteration"] == episodes[-1]["iteration"]]
    chosen = max(last, key=lambda e: (e["success"], e["spread"] or 0.0))
    place = f"iteration={chosen['iteration']}&episode={chosen['episode']}"
    page.goto(f"{addresses.get(timeout=60)}/episode?{place}&zeta={ZETA}&beside=1")
    page.wait_for_selector("#what-if .sliders input")
    shot(page, "body", ".talk > li", picture)


def shot(page: Any, whole: str, steps: str, picture: Path) -> None:
    """Write the picture of an element as far as the last of its steps that ends within the height."""
    page.evaluate("window.scrollTo(0, 0)")  # boxes are relative to what is in view
    box = page.locator(whole).bounding_box()
    left, top = max(0, box["x"] - MARGIN), max(0, box["y"] - MARGIN)
    ends = page.locator(steps).evaluate_all("items => items.map((item) => item.getBoundingClientRect().bottom)")
    bottom = max([ends[0], *(end for end in ends if end - top <= HEIGHT)])
    area = {"x": left, "y": top, "width": min(WIDTH - left, box["width"] + 2 * MARGIN), "height": bottom - top}
    page.screenshot(path=str(picture), full_page=True, clip=area)
    print(picture)


if __name__ == "__main__":
    main()
