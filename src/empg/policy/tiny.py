"""The tiny policy: a Llama of about a million parameters and a byte-level BPE of the world's own words."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from empg.policy.phrases import find_phrases
from empg.recipe import TinyModel

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_CONTROL = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
_TAGS = ["<think>", "</think>", "<action>", "</action>"]  # one token each, but ordinary text when decoded


def make_tokenizer(texts: Iterable[str], vocab_size: int, phrases: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on `texts`. Any text can be encoded.

    The tags of a turn are one token each, and so are at most `phrases` phrases that the texts repeat all the time;
    they may take a quarter of the vocabulary's room for more than bytes.
    """
    texts = list(texts)
    room = vocab_size - len(_CONTROL) - len(_TAGS) - 256
    whole = find_phrases(texts, min(phrases, room // 4))
    if whole:  # words are learned from what stands between the phrases
        phrase = re.compile("|".join(re.escape(p) for p in sorted(whole, key=len, reverse=True)))
        texts = [part for text in texts for part in phrase.split(text) if part]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # digits never merge into words: "cabinet 12" is two tokens
        [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(_TAGS) - len(whole),
        special_tokens=_CONTROL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in (*_TAGS, *whole)])
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
    """A freshly initialised Llama; the same `seed` gives the same weights."""
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
        initializer_range=0.02,
        bos_token_id=None,
        eos_token_id=end_id,
        pad_token_id=pad_id,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config.pad_token_id = pad_id
    return model
