"""Print what rliable computes on the scores of `test_aggregate.py`: run it in an environment with rliable installed.

python -m venv rl && rl/bin/pip install rliable==1.2.0 "pandas<3"
rl/bin/python tests/record/rliable_numbers.py > tests/record/rliable.json
"""

from __future__ import annotations

import json

import numpy as np
from rliable import library, metrics

draw = np.random.default_rng(5)
base, other = draw.beta(4, 6, size=(8, 5)).round(3), draw.beta(5, 5, size=(8, 5)).round(3)


def numbers(paired):
    return np.array([metrics.aggregate_mean(paired), metrics.aggregate_iqm(paired)])


generator = np.random.RandomState(0)
points, intervals = library.get_interval_estimates(
    {"other": other}, numbers, reps=20_000, random_state=np.random.RandomState(0)
)
probability = metrics.probability_of_improvement(other, base)
print(
    json.dumps(
        {
            "base": base.tolist(),
            "other": other.tolist(),
            "mean": points["other"][0],
            "iqm": points["other"][1],
            "mean_interval": intervals["other"][:, 0].tolist(),
            "iqm_interval": intervals["other"][:, 1].tolist(),
            "improvement": float(probability),
        }
    )
)
