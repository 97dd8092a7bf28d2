"""Chat templates and tokenizers of model families, in short equivalent form.

A template here writes what the family's own writes for texts of user, assistant and system. Tokenizers are trained on
a few sentences, of the kinds that families use: byte-level BPE, SentencePiece's Metaspace (a word mark at the very
beginning, or at the beginning of every piece), and its legacy form (a word mark put before every piece of text).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    f"You are in a room. You see a {thing} {number} on the desk. go to {place} {number}, look, take {thing} {number}."
    for thing in ("mug", "apple", "book")
    for place in ("cabinet", "fridge", "drawer")
    for number in range(1, 4)
] * 3


@dataclass(frozen=True)
class Family:
    """A template, the control tokens it needs, the one that ends the assistant's message, and what the prompt opens."""

    template: str
    tokens: tuple[str, ...]
    end: str
    opened: str = ""
    unmarked: tuple[str, ...] = ()  # control tokens that its tokenizer does not mark as special
    appends: bool = True  # rendered whole, a conversation continues as it was at every turn


def _chatml(opening: str, said: str = "m['content']", start: str = "") -> str:
    return (
        start + "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + (" + said + ") + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n" + opening + "' }}{% endif %}"
    )


_WITHOUT_THOUGHT = "m['content'].split('</think>')[-1].lstrip('\n') if m['role'] == 'assistant' else m['content']"
_R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}{{ '<|User|>' + m['content'] }}"
    "{% else %}{{ '<|Assistant|>' + m['content'].split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|>OPENED' }}{% endif %}"
)
_LLAMA3 = (
    "{{ bos_token }}{% if not date_string is defined %}{% if strftime_now is defined %}"
    '{% set date_string = strftime_now("%d %b %Y") %}{% else %}{% set date_string = "26 Jul 2024" %}{% endif %}'
    "{% endif %}{% set ns = namespace(said=messages, system='') %}"
    "{% if messages[0]['role'] == 'system' %}{% set ns.system = messages[0]['content'] | trim %}"
    "{% set ns.said = messages[1:] %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' + ns.system }}"
    "{{ '<|eot_id|>' }}"
    "{% for m in ns.said %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim }}"
    "{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
_SMOLLM3 = (
    "{% set enable_thinking = enable_thinking | default(true) %}{% set ns = namespace(said=messages, system='') %}"
    "{% if messages[0]['role'] == 'system' %}{% set ns.system = messages[0]['content'] %}"
    "{% set ns.said = messages[1:] %}{% endif %}"
    "{% if '/no_think' in ns.system %}{% set enable_thinking = false %}{% endif %}"
    "{{ '<|im_start|>system\nToday Date: ' + strftime_now('%d %B %Y') + '\n' + ns.system + '<|im_end|>\n' }}"
    "{% for m in ns.said %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if not enable_thinking %}{{ '<think>\n\n</think>\n' }}{% endif %}{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' }}"
    "{{ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# The system text stands before the last user message.
_MISTRAL = (
    "{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"
    "{% set said = messages[1:] if system else messages %}{{ bos_token }}{% for m in said %}"
    "{% if m['role'] == 'user' %}{{ '[INST]' + (system + '\n\n' if system and loop.last else '') + m['content'] }}"
    "{{ '[/INST]' }}{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
_LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
_GLM = (
    "[gMASK]<sop>{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
_PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
_ZEPHYR = _PHI3.replace("'<|end|>\n'", "eos_token + '\n'")

_IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_HEADERS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>")
_DEEPSEEK = ("<|begin|>", "<|end|>", "<|User|>", "<|Assistant|>")
_PHI_TOKENS = ("<s>", "<|endoftext|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>")
_SP = ("<unk>", "<s>", "</s>")

FAMILIES = {
    "qwen2.5": Family(_chatml(""), _IM, "<|im_end|>"),
    "qwen3": Family(_chatml("", _WITHOUT_THOUGHT), _IM, "<|im_end|>", appends=False),
    "qwen3.5-think": Family(_chatml("<think>\n", _WITHOUT_THOUGHT), _IM, "<|im_end|>", "<think>\n", appends=False),
    "qwq-closed": Family(
        _chatml("<think>\n</think>", _WITHOUT_THOUGHT), _IM, "<|im_end|>", "<think>\n</think>", appends=False
    ),
    "r1-distill": Family(
        _R1.replace("OPENED", "<think>\n"), _DEEPSEEK, "<|end|>", "<think>\n", _DEEPSEEK[2:], appends=False
    ),
    "r1-older": Family(_R1.replace("OPENED", ""), _DEEPSEEK, "<|end|>", "", _DEEPSEEK[2:], appends=False),
    "llama3": Family(_LLAMA3, _HEADERS, "<|eot_id|>"),
    "smollm3": Family(_SMOLLM3, _IM, "<|im_end|>"),
    "gemma": Family(_GEMMA, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<end_of_turn>"),
    "mistral-nemo": Family(_MISTRAL, ("<unk>", "<s>", "</s>", "[INST]", "[/INST]"), "</s>"),
    "llama2": Family(_LLAMA2, _SP, "</s>"),
    "glm4": Family(_GLM, ("<|endoftext|>", "[gMASK]", "<sop>", *_PHI_TOKENS[3:]), "<|user|>"),
    "phi3": Family(_PHI3, _PHI_TOKENS, "<|end|>"),
    "zephyr": Family(_ZEPHYR, _SP, "</s>"),
}
# As Llama 3 and Qwen 2 cut text into words: line ends stay together.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _byte_level() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_WORDS), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    return made


def _metaspace(scheme: str) -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return made


def _legacy() -> Tokenizer:
    made = _metaspace("never")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.pre_tokenizer = None
    return made


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "byte_level": _byte_level,
    "metaspace_first": lambda: _metaspace("first"),
    "metaspace_always": lambda: _metaspace("always"),
    "legacy": _legacy,
}


@lru_cache(maxsize=8)
def _trained(kind: str) -> str:
    made = KINDS[kind]()
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind == "byte_level" else []
    first = ["<unk>"] if kind == "byte_level" else ["<unk>", *bytes_]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=first, initial_alphabet=alphabet, show_progress=False, max_token_length=16
    )
    texts = TEXT if kind == "byte_level" else [word for text in TEXT for word in text.split()]
    texts = texts + ["<think>why</think><action>look</action>\n\n"] * 3
    made.train_from_iterator(texts, trainer)
    return str(made.to_str())


def tokenizer(
    family: Family, kind: str = "byte_level", extra: tuple[str, ...] = (), *, rstrip: bool = False
) -> PreTrainedTokenizerFast:
    """A tokenizer of a kind with the family's template; `extra` are more special tokens."""
    made = Tokenizer.from_str(_trained(kind))
    special = [*family.tokens, *extra]
    made.add_tokens([AddedToken(t, special=t not in family.unmarked, normalized=False, rstrip=rstrip) for t in special])
    begin = next((t for t in family.tokens if t in ("<s>", "<bos>", "<|begin|>", "<|begin_of_text|>")), None)
    ends = ("</s>", "<eos>", "<|end|>" if family.tokens == _DEEPSEEK else "<|endoftext|>", "<|im_end|>", "<|eot_id|>")
    end = next(t for t in ends if t in family.tokens)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=begin, eos_token=end, clean_up_tokenization_spaces=False
    )
    wrapped.chat_template = family.template
    return wrapped
