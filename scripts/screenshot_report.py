"""Take the picture of a report's step view that the README shows.

    empg train demo --run runs/demo && python scripts/screenshot_report.py runs/demo docs/figures/step-view.png

Needs Playwright (in the extra `dev`) and an installed Chromium or Chrome.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import FloatRect, sync_playwright

from empg.record.runfolder import RunFolder
from empg.report.page import build_page

WIDTH, HEIGHT, MARGIN = 1100, 900, 16  # CSS pixels; a longer episode is cut


def main() -> None:
    """Build the report of a run and write a picture of its step view."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder, e.g. runs/demo")
    parser.add_argument("picture", type=Path, help="PNG file to write")
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        parser.exit(1, "Chromium is not installed. Debian and Ubuntu: apt install chromium\n")
    page_file = build_page(RunFolder.open(arguments.run))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, device_scale_factor=1.25)
        page.goto(page_file.absolute().as_uri())
        won = page.locator("#steps .episodes button", has_text="won")
        if won.count():
            won.first.click()
        page.evaluate("window.scrollTo(0, 0)")  # the box is relative to what is in view
        steps = page.locator("#steps").bounding_box()
        assert steps is not None
        area: FloatRect = {
            "x": steps["x"] - MARGIN,
            "y": steps["y"] - MARGIN,
            "width": steps["width"] + 2 * MARGIN,
            "height": min(steps["height"] + 2 * MARGIN, HEIGHT),
        }
        page.screenshot(path=str(arguments.picture), full_page=True, clip=area)
        browser.close()
    print(arguments.picture)


if __name__ == "__main__":
    main()
