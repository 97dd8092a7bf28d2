"""The tiny policy: a Llama of about 1 M parameters and a byte-level BPE trained on text of the environment.

A tiny policy depends on copying, and it copies token by token. So a word has the same tokens everywhere: it is in lower
case, and after a bracket it is encoded as after a space. The tokenizer encodes "search[Solid wood]" as "search", "["
and a word joiner, " solid", " wood" and "]", and decodes it as "search[solid wood]".
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from empg.policy.phrases import find_phrases
from empg.recipe import TinyModel

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_CONTROL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
_JOINER = "\u2060"  # marks that the following space is not in the text
_MARKS = "\n" + "".join(sorted({*string.punctuation} - {*"_</"}))  # after these a word is encoded as after a space
# One token each, but ordinary text when decoded. Words follow the opening tags.
_TAGS = [f"<think>{_JOINER}", "</think>", f"<action>{_JOINER}", "</action>"]

_INITIAL_STD = 0.02  # standard deviation of every matrix


def make_tokenizer(texts: Iterable[str], vocab_size: int, phrases: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on `texts`. Any text can be encoded; it is decoded in lower case.

    The tags of a turn are one token each, and so are at most `phrases` frequent phrases. Phrases take at most a quarter
    of the vocabulary that remains after bytes, control tokens and tags.
    """
    glued = [(Regex(rf"{re.escape(mark)}(?=\w)"), f"{mark}{_JOINER} ") for mark in _MARKS]
    normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), *(normalizers.Replace(pattern, content) for pattern, content in glued)]
    )
    texts = [normalizer.normalize_str(text) for text in texts]
    room = vocab_size - len(_CONTROL) - len(_TAGS) - 256
    whole = [phrase for phrase in find_phrases(texts, min(phrases, room // 4)) if phrase not in _TAGS]
    one_token = re.compile("|".join(re.escape(part) for part in sorted((*_TAGS, *whole), key=len, reverse=True)))
    words = [part for text in texts for part in one_token.split(text) if part]  # the remaining text, for BPE
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # digits never merge into words: "cabinet 12" is two tokens
        [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteLevel(), decoders.Replace(f"{_JOINER} ", ""), decoders.Replace(_JOINER, "")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(_TAGS) - len(whole),
        special_tokens=_CONTROL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.add_tokens([AddedToken(part, special=False, normalized=True) for part in (*_TAGS, *whole)])
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def make_model(shape: TinyModel, vocab_size: int, end_id: int, pad_id: int, seed: int) -> LlamaForCausalLM:
    """Create a Llama with new weights; the same `seed` gives the same weights."""
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim or shape.hidden_size // shape.heads,
        max_position_embeddings=shape.max_positions,
        tie_word_embeddings=True,
        initializer_range=_INITIAL_STD,
        bos_token_id=None,
        eos_token_id=end_id,
        pad_token_id=pad_id,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(shape.embedding_std / _INITIAL_STD)
    model.generation_config.pad_token_id = pad_id
    return model
