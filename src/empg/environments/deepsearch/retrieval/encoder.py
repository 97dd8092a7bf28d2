"""A sentence-embedding model from a Hugging Face folder in the format of `sentence-transformers`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from empg.environments.deepsearch.options import Pooling
from empg.environments.deepsearch.retrieval.dense import Vectors
from empg.errors import MissingFileError, UserError

_CHUNK = 1 << 24  # bytes per read


class HuggingFaceEncoder:
    """Encodes texts with a transformer: last hidden states, pooled over tokens (mean or first token), length 1.

    Needs torch and transformers, which are imported when an encoder is created.

    Args:
        folder: contains `config.json`, `model.safetensors` and the tokenizer. Nothing in it is executed or unpickled.
        query_prefix: prefix that the model expects before queries ("query: " for E5).
        document_prefix: prefix that the model expects before documents ("passage: " for E5).
        pooling: None uses the folder's `1_Pooling/config.json`, or the mean if it is missing.
        max_tokens: longer texts are cut; None uses the folder's `sentence_bert_config.json`, or 512 if it is missing.
        device: torch device.

    Raises:
        MissingFileError: the folder is not a model folder.
        UserError: the model has another pooling than these two, or further layers.
    """

    def __init__(
        self,
        folder: Path,
        *,
        query_prefix: str = "",
        document_prefix: str = "",
        pooling: Pooling | None = None,
        max_tokens: int | None = None,
        device: str = "cpu",
    ) -> None:
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                raise MissingFileError(f"{folder} is not the folder of a sentence-embedding model: {name} not found")
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # the one for weight shards
        self._pooling = pooling or _pooling_of(folder)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, trust_remote_code=False)
        self._model: Any = model.to(device).eval()
        self._max_tokens = max_tokens or _max_tokens_of(folder, model.config)
        self.dimensions = int(model.config.hidden_size)
        self._prefixes = {"queries": query_prefix, "documents": document_prefix}
        about = (_digest(folder), self._pooling, self._max_tokens, query_prefix, document_prefix)
        self.name = "-".join(map(str, (folder.name, *about)))

    def documents(self, texts: Sequence[str]) -> Vectors:
        """Encode documents to `(texts, dimensions)`."""
        return self._encode([self._prefixes["documents"] + text for text in texts])

    def queries(self, texts: Sequence[str]) -> Vectors:
        """Encode queries to `(texts, dimensions)`."""
        return self._encode([self._prefixes["queries"] + text for text in texts])

    def _encode(self, texts: list[str]) -> Vectors:
        import torch

        batch = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        ).to(self._model.device)
        with torch.inference_mode():
            hidden = self._model(**batch).last_hidden_state  # (texts, tokens, dimensions)
            if self._pooling == "cls":
                pooled = hidden[:, 0]
            else:
                real = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
                pooled = (hidden * real).sum(1) / real.sum(1).clamp(min=1)
            vectors = torch.nn.functional.normalize(pooled.float(), dim=-1)
        return np.asarray(vectors.cpu().numpy(), dtype=np.float32)


def _pooling_of(folder: Path) -> Pooling:
    modules = _read(folder / "modules.json") or []
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules if isinstance(module, dict)]
    unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if unknown:
        raise UserError(f"{folder}: unsupported layer: expected Transformer, Pooling or Normalize, got {unknown[0]!r}")
    config = _read(folder / "1_Pooling" / "config.json") or {}
    chosen = [key.removeprefix("pooling_mode_") for key in sorted(config) if config[key] is True and "mode" in key]
    if chosen in ([], ["mean_tokens"]):
        return "mean"
    if chosen == ["cls_token"]:
        return "cls"
    raise UserError(f"{folder}: unsupported pooling: expected mean_tokens or cls_token, got {', '.join(chosen)}")


def _max_tokens_of(folder: Path, config: Any) -> int:
    limit = (_read(folder / "sentence_bert_config.json") or {}).get("max_seq_length") or 512
    # The number of position embeddings is a hard limit. RoBERTa models reserve two of them for padding.
    positions = getattr(config, "max_position_embeddings", limit) - (2 if "roberta" in config.model_type else 0)
    return int(min(limit, positions))


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _digest(folder: Path) -> str:
    """Hash the weights, so that another model in a folder of the same name does not use old vectors."""
    digest = hashlib.sha256()
    with (folder / "model.safetensors").open("rb") as file:
        while part := file.read(_CHUNK):
            digest.update(part)
    return digest.hexdigest()[:12]
