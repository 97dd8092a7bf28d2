"""What token ids say."""

from __future__ import annotations

from pathlib import Path

from empg.record.runfolder import RunFolder
from empg.report.inspector.library import InspectedRun
from empg.report.inspector.tokens import TokenTexts


def test_without_a_tokenizer_a_token_is_its_id(tmp_path: Path) -> None:
    assert TokenTexts(RunFolder(tmp_path)).text(7) == "#7 "


def test_a_damaged_tokenizer_is_none(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "start"
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab"')
    assert TokenTexts(RunFolder(tmp_path)).text(-1) == "#-1 "


def test_the_tokenizer_of_the_run_says_its_tokens(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    folder = tmp_path / "checkpoints" / "start"
    folder.mkdir(parents=True)
    Tokenizer(WordLevel({"go": 0, "[UNK]": 1}, "[UNK]")).save(str(folder / "tokenizer.json"))
    texts = TokenTexts(RunFolder(tmp_path))
    assert (texts.text(0), texts.text(99)) == ("go", "#99 ")


def test_the_tokenizer_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    run = InspectedRun(RunFolder(tmp_path), 0, "run")
    assert run.tokens.text(0) == "#0 "
    folder = tmp_path / "checkpoints" / "start"
    folder.mkdir(parents=True)
    for word in ("go", "take"):
        Tokenizer(WordLevel({word: 0, "[UNK]": 1}, "[UNK]")).save(str(folder / "tokenizer.json"))
        assert run.tokens.text(0) == word
