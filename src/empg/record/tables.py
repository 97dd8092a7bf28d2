"""The schemas of the Parquet tables of a run, `episodes/` and `evaluations/`.

Each column has a `description` and, if it has a unit, a `unit` in its Arrow field metadata, so that a file can be
understood without this package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from empg.errors import UserError, message_of
from empg.record.durable import settle


class TableError(UserError):
    """A table cannot be written or read; the message names the file and the column or the reason."""


def _column(name: str, type_: pa.DataType, description: str, unit: str = "", *, required: bool = False) -> pa.Field:
    metadata = {"description": description, **({"unit": unit} if unit else {})}
    return pa.field(name, type_, nullable=not required, metadata=metadata)


_INT, _FLOAT, _TEXT, _FLAG = pa.int32(), pa.float64(), pa.string(), pa.bool_()

EPISODES = pa.schema(
    [
        _column("iteration", _INT, "iteration that the turn was sampled for; the first is 1", required=True),
        _column("episode", _INT, "number of the episode within the iteration", required=True),
        _column("group", _INT, "episodes with the same group are compared with one another", required=True),
        _column("task_index", _INT, "position of the task in its split", required=True),
        _column("task_id", _TEXT, "name of the task", required=True),
        _column("task_type", _TEXT, "the kind of task", required=True),
        _column("split", _TEXT, "split that the task belongs to", required=True),
        _column("task", _TEXT, "the task, as given to the agent"),
        _column("turn", _INT, "index of the step within its episode, 0, 1, 2, ...", required=True),
        _column("observation", _TEXT, "the observation before the turn"),
        _column("text", _TEXT, "what the agent wrote, control tokens included"),
        _column("action_ids", pa.list_(_INT), "the sampled token ids"),
        _column(
            "token_entropies",
            pa.list_(pa.float32()),
            "full-vocabulary entropy of each sampled token, to 0.001; null if the recipe does not record it",
            "nats",
        ),
        _column("thought", _TEXT, "the reasoning part of what the agent wrote"),
        _column("action", _TEXT, "the action part of what the agent wrote"),
        _column("valid", _FLAG, "the turn could be parsed and the environment accepted its action"),
        _column(
            "rejected", _FLAG, "the environment did not accept the action; false for a malformed turn, which has none"
        ),
        _column("reward", _FLOAT, "reward of the environment for the action"),
        _column(
            "process_reward", _FLOAT, "process reward of the step, including the penalty for a turn that is not valid"
        ),
        _column("entropy", _FLOAT, "step entropy H: mean of the full-vocabulary entropies of its tokens", "nats"),
        _column(
            "action_entropy",
            _FLOAT,
            "mean of the full-vocabulary entropies of the tokens of the action; H without an action or a thought",
            "nats",
        ),
        _column("entropy_normalised", _FLOAT, "Hn: H after min-max normalisation over the batch, 0 to 1"),
        _column("scale", _FLOAT, "g: gradient scaling of the step, mean 1 over the batch"),
        _column("clarity", _FLOAT, "f: future clarity, exp(-k' Hn) of the next step; 0 without a next step"),
        _column("advantage_outcome", _FLOAT, "A: advantage of the step from the base algorithm"),
        _column("advantage_modulated", _FLOAT, "A_mod = A g + zeta f"),
        _column("advantage", _FLOAT, "the advantage that every token of the step was trained with"),
        _column("num_prompt_tokens", _INT, "tokens of the prompt read before the turn", "tokens"),
        _column("num_action_tokens", _INT, "tokens written in the turn", "tokens"),
        _column("dropped", _FLAG, "excluded: an entropy or log-probability is not finite"),
        _column("success", _FLAG, "the episode reached its goal"),
        _column("score", _FLOAT, "score of the environment for the episode, 0 to 1"),
        _column("end", _TEXT, "why the episode ended"),
    ],
    metadata={"format": "empg.episodes.1"},
)

EVALUATIONS = pa.schema(
    [
        _column("task_id", _TEXT, "name of the task", required=True),
        _column("task_index", _INT, "position of the task in its split", required=True),
        _column("task_type", _TEXT, "the kind of task", required=True),
        _column("success", _FLAG, "the episode reached its goal", required=True),
        _column("score", _FLOAT, "score of the environment for the episode, 0 to 1", required=True),
        _column("metrics", pa.map_(_TEXT, _FLOAT), "further measures of the outcome, 0 to 1, by name"),
        _column("reward", _FLOAT, "reward of the episode"),
        _column("turns", _INT, "turns played", "turns", required=True),
        _column("valid_turns", _INT, "turns that could be parsed and whose action the environment accepted", "turns"),
        _column("failed_turns", _INT, "turns that failed because an external service was unavailable", "turns"),
        _column("action_tokens", _INT, "tokens the agent wrote", "tokens"),
        _column("tokens", _INT, "tokens of the whole episode, prompts included", "tokens"),
        _column("end", _TEXT, "why the episode ended"),
    ],
    metadata={"format": "empg.evaluations.1"},
)


def write_table(path: Path, schema: pa.Schema, columns: Mapping[str, Sequence[Any]]) -> Path:
    """Write columns of equal length under a schema, as a complete file or none; a missing column is null in all rows.

    Raises:
        TableError: an unknown or a missing column, a value of another type, columns of unequal length, a full disk.
    """
    unknown = sorted(set(columns) - set(schema.names))
    if unknown:
        raise TableError(f"{path.name}: unknown column {unknown[0]!r}; the columns are {', '.join(schema.names)}")
    lengths = {name: len(values) for name, values in columns.items()}
    rows = max(lengths.values(), default=0)
    for name, length in lengths.items():
        if length != rows:
            raise TableError(f"{path.name}: column {name!r} has {length} rows, others have {rows}")
    arrays = [_array(path, field, columns.get(field.name), rows) for field in schema]
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Arrow takes a relative path such as `lr:3e-4/a.parquet` for a URI, and expands `~/a.parquet`.
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), partial.absolute(), compression="zstd")
        settle(partial, path)
    except (OSError, pa.ArrowException) as error:
        with suppress(OSError):
            partial.unlink()
        reason = error.strerror if isinstance(error, OSError) else None
        raise TableError(f"cannot write {path}: {reason or message_of(error)}") from None
    return path


# ValueError: text that is not UTF-8. OverflowError: a time out of range. KeyError: two columns of one name, an unknown
# time zone.
_UNREADABLE = (OSError, pa.ArrowException, ValueError, OverflowError, KeyError)


def read_table(path: Path, required: Sequence[pa.Field] = ()) -> dict[str, list[Any]]:
    """Return all columns of a table as Python lists.

    Raises:
        TableError: the file is missing or damaged, or a required column is missing, has another type or has a row
            without a value.
    """
    try:
        table = pq.read_table(path.absolute())  # as in `write_table`
        for field in required:
            if field.name not in table.column_names or table[field.name].null_count:
                raise TableError(f"{path}: column {field.name!r}: expected a value in each row")
            if (found := table.schema.field(field.name).type) != field.type:
                raise TableError(f"{path}: column {field.name!r}: expected the type {field.type}, got {found}")
        return table.to_pydict()  # type: ignore[no-any-return]
    except TableError:
        raise
    except FileNotFoundError:
        raise TableError(f"{path} does not exist") from None
    except _UNREADABLE as error:
        raise TableError(f"cannot read {path}: {message_of(error)}") from None


def _array(path: Path, field: pa.Field, values: Sequence[Any] | None, rows: int) -> pa.Array:
    if values is None:
        values = [None] * rows
    if not field.nullable:
        for row, value in enumerate(values):
            if value is None:
                raise TableError(f"{path.name}: column {field.name!r} is missing in row {row}")
    if field.type == _TEXT:  # hostile text may contain a lone surrogate, which UTF-8 cannot encode
        values = [v.encode("utf-8", "replace").decode("utf-8") if isinstance(v, str) else v for v in values]
    try:
        return pa.array(values, type=field.type)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise TableError(f"{path.name}: column {field.name!r}: {message_of(error)}") from None
