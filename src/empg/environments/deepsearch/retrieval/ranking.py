"""Select the best of many scores."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def best_rows(scores: npt.NDArray[np.float32], k: int, above: float = 0.0) -> list[int]:
    """Return the rows of the `k` highest scores over `above`, best first. Equal scores are ordered by row.

    The k-th highest maximum over blocks of rows is a bound that at least `k` rows reach, and usually few more, so that
    only a few rows are sorted. (`np.partition` takes milliseconds if most scores are equal, as for BM25.)
    """
    block = max(1, len(scores) // max(512, 8 * k))
    maxima = scores[: len(scores) // block * block].reshape(-1, block).max(axis=1)
    bound = np.sort(maxima)[-k] if len(maxima) >= k else above
    rows = np.flatnonzero(scores >= bound) if bound > above else np.flatnonzero(scores > above)
    order = np.argsort(-scores[rows], kind="stable")[:k]
    return [int(row) for row in rows[order]]
