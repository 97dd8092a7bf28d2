"""Records of a data file that match no schema: they are skipped, and counted by reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

GIVE_UP = 1_000  # records; if the first ones are all malformed, the rest of the file is not read


@dataclass(slots=True)
class Skipped:
    """Malformed records. `counts` has their number by reason, `first` where the first one of each reason stands."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, where: str) -> None:
        """Count a record."""
        self.counts[reason] += 1
        self.first.setdefault(reason, where)

    def parts(self) -> list[str]:
        """Return a summary: one part per reason, sorted."""
        return [f"{count:,} malformed ({why}; first: {self.first[why]})" for why, count in sorted(self.counts.items())]
