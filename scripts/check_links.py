"""Check that the relative links of the Markdown pages lead to files; print the others and exit with code 1."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def dead_links(page: Path) -> list[str]:
    """Return the relative link targets of a page that do not exist. Code blocks are skipped."""
    text = re.sub(r"^(```|~~~).*?^\1", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(<?([^)#\s>]+)[^)]*\)", text)
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    return [target for target in local if not (page.parent / target).exists()]


def main() -> None:
    """Check every Markdown file that git tracks."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "*.md"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    pages = [ROOT / name for name in tracked.split("\0") if name]
    dead = [f"{page.relative_to(ROOT)}: {target}" for page in pages if page.exists() for target in dead_links(page)]
    if dead:
        sys.exit("\n".join(f"dead link in {line}" for line in dead))
    print(f"the relative links of {len(pages)} pages are alive")


if __name__ == "__main__":
    main()
