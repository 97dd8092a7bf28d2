"""One episode as a conversation, and the numbers of its iteration from which the page recomputes the credit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from empg.record.fields import finite
from empg.record.loading import finished_before
from empg.report.inspector.library import InspectedRun
from empg.report.inspector.tokens import TokenTexts
from empg.report.markup import short
from empg.report.turns import Row, shown_turn

MAX_TEXT = 20_000  # characters of one text on a page
MAX_TOKENS = 4_000  # shaded tokens of one turn on a page
SHADES = 10  # levels of shading

_COLUMNS = {"entropy": "entropy", "base": "advantage_outcome", "process": "process_reward", "advantage": "advantage"}
_RECORDED = {"normalised": "entropy_normalised", "scale": "scale", "clarity": "clarity"}
_SHOWN = (
    "entropy", "entropy_normalised", "scale", "clarity", "advantage_outcome", "process_reward", "advantage", "reward",
)  # fmt: skip


def conversation(run: InspectedRun, turns: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the steps of an episode as the page shows them; texts are bounded."""
    most = max((e for t in turns for e in _token_entropies(t)), default=0.0)
    return [
        {
            **shown_turn(turn, MAX_TEXT),
            "written": short(turn["text"], MAX_TEXT) if turn["valid"] is False else "",
            "counted": finite(turn["advantage"]) is not None,
            "tokens": _shaded(turn, run.tokens, most),
            "darkest": most,
            "written_tokens": len(turn["action_ids"] or []),
            "action_entropy": finite(turn.get("action_entropy")),
            **{name: finite(turn[name]) for name in _SHOWN},
        }
        for turn in turns
    ]


def credit_inputs(run: InspectedRun, episodes: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """Return the columns of an iteration that a modulation sees, one value per step, for the page's script.

    The reward of an episode is the sum of the environment's rewards, None if it is too large for a number. A table has
    no column for the penalty for long episodes (`credit.overlong_penalty`), and it is not recomputed here, so a rule
    that reads rewards (gtpo, grpo_s) is recomputed without it. `recorded` has what the run's own rule made of them.
    `action_entropy` is None unless each step that counts has one.
    """
    rule, options = run.modulation
    steps = [turn for turns in episodes for turn in turns]
    iteration = steps[0]["iteration"] if steps else 1
    counted = [finite(turn["advantage"]) is not None for turn in steps]
    of_action = [finite(turn.get("action_entropy")) for turn in steps]
    whole = all(h is not None for h, c in zip(of_action, counted, strict=True) if c)
    rewards = [finite(sum(finite(t["reward"]) or 0.0 for t in turns)) for turns in episodes]
    return {
        "rule": rule,
        "options": options,
        "episode": [turn["episode"] for turn in steps],
        "turn": [turn["turn"] for turn in steps],
        "group": [turn["group"] for turn in steps],
        "reward": [reward for reward, turns in zip(rewards, episodes, strict=True) for _ in turns],
        "counted": counted,
        "action_entropy": of_action if whole and any(counted) else None,
        "finished": finished_before(iteration, run.recipe),
        **{name: [finite(turn[column]) for turn in steps] for name, column in _COLUMNS.items()},
        "recorded": {name: [finite(turn[column]) for turn in steps] for name, column in _RECORDED.items()},
    }


def _token_entropies(turn: Row) -> list[float]:
    ids, recorded = turn["action_ids"] or [], turn.get("token_entropies") or []
    return [finite(e) or 0.0 for e in recorded] if len(ids) == len(recorded) else []


def _shaded(turn: Row, texts: TokenTexts, most: float) -> list[tuple[str, float, int]]:
    """Return the text, the entropy and the shade (0 to SHADES - 1) of each token; none if none were recorded."""
    entropies = _token_entropies(turn)[:MAX_TOKENS]
    ids = (turn["action_ids"] or [])[: len(entropies)]
    return [
        (short(texts.text(token), MAX_TEXT), entropy, min(SHADES - 1, int(SHADES * entropy / most)) if most > 0 else 0)
        for token, entropy in zip(ids, entropies, strict=True)
    ]
