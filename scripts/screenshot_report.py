"""Take the picture of a report's step view that the README shows.

    empg train demo --run runs/demo && python scripts/screenshot_report.py runs/demo docs/figures/step-view.png

Needs Playwright (in the extra `dev`) and an installed Chromium or Chrome.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

from empg.record.runfolder import RunFolder
from empg.report.page import build_page

WIDTH = 1100  # CSS pixels


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
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, device_scale_factor=1.5)
        page.goto(page_file.absolute().as_uri())
        page.locator("#steps .episode").wait_for()
        page.locator("#steps").screenshot(path=str(arguments.picture))
        browser.close()
    print(arguments.picture)


if __name__ == "__main__":
    main()
