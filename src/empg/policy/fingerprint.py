"""The identity of a model's files, by which changed weights under the same name are noticed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from empg.errors import UserError

# What transformers reads of a folder besides the weights. A new README does not make another model.
_SETTINGS = (
    "config.json", "generation_config.json", "tokenizer*", "*vocab*", "merges.txt", "special_tokens_map.json",
    "added_tokens.json", "chat_template*", "additional_chat_templates/*", "*.model", "*.tiktoken",
)  # fmt: skip
_CHUNKS, _CHUNK = 64, 1 << 16  # of each file of weights, 4 MiB in total
_LONGEST_HEADER = 100 << 20  # bytes; safetensors reads no longer one


def fingerprint(model: str) -> str | None:
    """Return what identifies the files of a model (`policy.model`): two equal ones mean the same model.

    For a folder, this is a SHA-256. It covers the files of the configuration and of the tokenizer completely. Of each
    safetensors file it covers the size, the header, and 64 chunks of 64 KiB that are spread evenly from the first byte
    to the last. So tens of gigabytes take about a second, a file of up to 4 MiB is covered completely, and in a larger
    one a change is missed if all changed bytes lie between the chunks. Training changes nearly all bytes.

    For a Hugging Face name, it is the commit of the main branch that is in the local cache.

    None means unknown: `tiny`, which has no files, or a name that is not in the cache.

    Raises:
        UserError: a file cannot be read.
    """
    if model == "tiny":
        return None
    if not os.path.isdir(model):  # false also for a text that cannot be a path
        return _commit(model)
    digest, folder = hashlib.sha256(), Path(model)
    try:
        for file in sorted({file for pattern in (*_SETTINGS, "*.safetensors") for file in folder.glob(pattern)}):
            if file.is_file():
                content = hashlib.sha256()
                for part in _chunks(file) if file.suffix == ".safetensors" else _whole(file):
                    content.update(part)
                digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + content.digest())
    except OSError as error:
        raise UserError(f"policy.model={model}: cannot read {error.filename}: {error.strerror or error}") from None
    return digest.hexdigest()


def _commit(name: str) -> str | None:
    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(found).parent.name if isinstance(found, str) else None


def _whole(file: Path) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while part := stream.read(1 << 20):
            yield part


def _chunks(file: Path) -> Iterator[bytes]:
    size = file.stat().st_size
    yield size.to_bytes(8, "little")
    with file.open("rb") as stream:
        length = stream.read(8)  # of the header, which follows
        yield length
        yield stream.read(min(int.from_bytes(length, "little"), _LONGEST_HEADER))
        for number in range(_CHUNKS):
            stream.seek(max(size - _CHUNK, 0) * number // (_CHUNKS - 1))
            yield stream.read(_CHUNK)
