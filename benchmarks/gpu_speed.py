"""Decoding and training of a model with random weights on a GPU, beside transformers and the GPU's own limits.

python -m benchmarks.gpu_speed --size 1.5b
python -m benchmarks.gpu_speed --size 0.5b --slots 128 --json gpu.json
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers import __version__ as transformers_version

from empg.policy.contexts import ModelContexts
from empg.policy.decode import Decoder, Sampling
from empg.policy.device import choose_kernels
from empg.policy.layers import training_layers
from empg.policy.model import Policy
from empg.policy.scoring import log_softmax_and_entropy, score_tokens

DEVICE = torch.device("cuda")
SIZES = {  # hidden, intermediate, layers, heads, key heads: those of Qwen 2.5
    "0.5b": (896, 4864, 24, 14, 2),
    "1.5b": (1536, 8960, 28, 12, 2),
    "7b": (3584, 18944, 28, 28, 4),
}
VOCABULARY = 151_936


def make_policy(size: str) -> Policy:
    hidden, inner, layers, heads, key_heads = SIZES[size]
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=32_768,
        tie_word_embeddings=size != "7b",
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
    )
    with DEVICE:
        model = Qwen2ForCausalLM(config).eval()
    model.set_attn_implementation("sdpa")
    return Policy(model, None, DEVICE)


def seconds(work: Callable[[], object], repeats: int) -> list[float]:
    """Wall seconds of each call but the first."""
    times = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return times[1:]


def limits() -> tuple[float, float]:
    """Bytes per second of a copy on the device (read and written), and FLOP/s of a large bfloat16 product."""
    source = torch.randn(1 << 29, device=DEVICE)
    target = torch.empty_like(source)
    copied = 2 * 4 * source.numel() / min(seconds(lambda: target.copy_(source), 10))
    left, right = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return copied, 2 * 8192**3 / min(seconds(lambda: left @ right, 10))


@contextmanager
def peak_memory(into: dict[str, Any], name: str) -> Iterator[None]:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield
    into[name] = round(torch.cuda.max_memory_allocated() / 2**30, 2)


def prompts(slots: int, context: int) -> list[list[int]]:
    """A prompt for each slot, of half to all of `context` tokens."""
    numbers = random.Random(0)
    return [
        [numbers.randrange(5, VOCABULARY) for _ in range(numbers.randint(context // 2, context))] for _ in range(slots)
    ]


def decode(policy: Policy, slots: int, context: int, tokens: int, recorded: bool) -> Iterator[tuple[str, float]]:
    """Seconds to read all prompts, and seconds per token of all slots."""
    decoder = Decoder(policy, slots, context + 2 * tokens, Sampling(), autocast=True)
    assert isinstance(decoder.contexts, ModelContexts)
    if not recorded:
        decoder.contexts._step_graphs.recordable = False
    everyone, uniforms = list(range(slots)), torch.rand(slots, dtype=torch.float64)
    with policy.keeping_casts():
        decoder.prefill([0], [[5, 6, 7]])
        decoder.clear(0)
        torch.cuda.synchronize()
        began = time.perf_counter()
        logits = decoder.prefill(everyone, prompts(slots, context))
        torch.cuda.synchronize()
        yield "prefill", time.perf_counter() - began
        times = []
        for _ in range(tokens):
            began = time.perf_counter()
            chosen, _, _ = decoder.choose(logits, uniforms)
            logits = decoder.advance(everyone, chosen)
            times.append(time.perf_counter() - began)
        yield "token", statistics.median(times)
        yield "first tokens of a shape", max(times)
        yield "all tokens", sum(times) / tokens


def generate(policy: Policy, slots: int, context: int, tokens: int, cache: str) -> float:
    """Seconds per token of `generate` of transformers with bfloat16 weights, without its time for the prompts."""
    model = policy.model
    ids = torch.randint(5, VOCABULARY, (slots, 3 * context // 4), device=DEVICE)

    def run(count: int) -> Callable[[], object]:
        more: dict[str, Any] = {} if cache == "dynamic" else {"cache_implementation": cache, "disable_compile": True}
        return lambda: model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            min_new_tokens=count,
            max_new_tokens=count,
            top_k=0,
            **more,
        )

    with torch.no_grad():
        short, long = min(seconds(run(2), 1)), min(seconds(run(2 + tokens), 1))
    return (long - short) / tokens


def effect_of_tf32(policy: Policy, rows: Tensor) -> dict[str, float]:
    """How far log-probabilities (nats) move if the logits are computed with 11 bits of each factor, and in bfloat16."""
    row_of, columns = torch.zeros(1000, dtype=torch.long, device=DEVICE), torch.arange(1, 1001, device=DEVICE)
    scored = {}
    with torch.no_grad():
        for kind in ("ieee", "tf32", "all float32"):
            torch.backends.cuda.matmul.fp32_precision = "tf32" if kind == "tf32" else "ieee"
            with policy.autocast(kind != "all float32"):
                scored[kind] = score_tokens(policy, rows[:1], row_of, columns)[0]
    moved = {name: (scored[name] - scored["ieee"]).abs() for name in ("tf32", "all float32")}
    return {
        "tf32 moves a log-probability by, mean": float(moved["tf32"].mean()),
        "tf32 moves a log-probability by, max": float(moved["tf32"].max()),
        "bfloat16 in the layers moves one by, mean": float(moved["all float32"].mean()),
    }


def update(policy: Policy, rows: Tensor, *, recomputed: bool = False, compiled: bool = False) -> Callable[[], object]:
    """A forward and a backward pass in which every second token is trained on."""
    columns = torch.arange(1, rows.shape[1], 2, device=DEVICE).repeat(len(rows))
    row_of = torch.arange(len(rows), device=DEVICE).repeat_interleave(rows.shape[1] // 2)

    def run() -> None:
        with training_layers(policy, recomputed=recomputed, compiled=compiled):
            with policy.autocast(True):
                logprobs, entropies = score_tokens(policy, rows, row_of, columns)
            (logprobs.mean() + 0.01 * entropies.mean()).backward()
        policy.model.zero_grad(set_to_none=True)

    return run


def plain_update(policy: Policy, rows: Tensor) -> Callable[[], object]:
    """The same through transformers, with logits of all tokens (for which the memory of larger passes is too small)."""
    model = policy.model

    def run() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            logits = model(rows, use_cache=False).logits[:, :-1]
        log_probs, entropies = log_softmax_and_entropy(logits, 1.0)
        logprobs = log_probs.gather(-1, rows[:, 1:, None])
        (logprobs.mean() + 0.01 * entropies.mean()).backward()
        model.zero_grad(set_to_none=True)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="1.5b")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--context", type=int, default=2048, help="tokens of the longest prompt")
    parser.add_argument("--tokens", type=int, default=100, help="tokens written in each slot")
    parser.add_argument("--row", type=int, default=2048, help="tokens of a row of the update")
    parser.add_argument("--pass-tokens", type=int, default=16_384, help="tokens of a pass of the update")
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    slots, context, tokens = arguments.slots, arguments.context, arguments.tokens
    bytes_per_second, flops = limits()
    policy = make_policy(arguments.size)
    choose_kernels(DEVICE, autocast=True)
    weights = sum(p.numel() for p in policy.model.parameters())
    head = policy.model.get_output_embeddings().weight.numel()
    inner = sum(p.numel() for p in policy.model.model.layers.parameters())
    config = policy.model.config
    cached = 2 * 2 * config.num_hidden_layers * config.num_key_value_heads * config.hidden_size
    cached //= config.num_attention_heads  # bytes of keys and values of a token
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": transformers_version,
        "arguments": vars(arguments),
        "parameters": weights,
        "copy, GB/s": round(bytes_per_second / 1e9),
        "bfloat16 product, TFLOP/s": round(flops / 1e12),
    }
    print(json.dumps(found), flush=True)
    steps: dict[str, Any] = {}
    read = 2 * inner + 4 * head + slots * 0.75 * context * cached
    steps["limit of a token, ms"] = 1e3 * read / bytes_per_second
    for name, recorded in (("graphs", True), ("passes", False)):
        with peak_memory(steps, f"{name}: memory, GiB"):
            for part, time_ in decode(policy, slots, context, tokens, recorded):
                steps[f"{name}: {part}, ms"] = 1e3 * time_
    print(json.dumps(steps), flush=True)
    rows = torch.randint(5, VOCABULARY, (arguments.pass_tokens // arguments.row, arguments.row), device=DEVICE)
    work = 6 * inner * rows.numel() + 6 * head * rows.numel() / 2
    work += 6 * config.num_hidden_layers * config.hidden_size * arguments.row * rows.numel()  # causal: half of 12
    parts: dict[str, Any] = {"limit of a pass, ms": 1e3 * work / flops}
    parts |= effect_of_tf32(policy, rows)
    kinds: list[tuple[str, Callable[[], Callable[[], object]]]] = [
        ("kept", lambda: update(policy, rows)),
        ("recomputed", lambda: update(policy, rows, recomputed=True)),
        ("compiled", lambda: update(policy, rows, compiled=True)),
        ("compiled and recomputed", lambda: update(policy, rows, recomputed=True, compiled=True)),
        ("transformers, a quarter", lambda: plain_update(policy, rows[: max(1, len(rows) // 4)])),
    ]
    for precision in ("ieee", "tf32"):
        torch.backends.cuda.matmul.fp32_precision = precision
        for name, build in kinds:
            try:
                with peak_memory(parts, f"{name}, {precision}: memory, GiB"):
                    parts[f"{name}, {precision}: pass, ms"] = 1e3 * statistics.median(seconds(build(), 3))
            except torch.OutOfMemoryError:
                parts[f"{name}, {precision}: pass, ms"] = "out of memory"
    print(json.dumps(parts), flush=True)
    policy.model.to(torch.bfloat16)
    for cache in ("dynamic", "static"):
        steps[f"transformers, {cache}: token, ms"] = 1e3 * generate(policy, slots, context, tokens // 2, cache)
    found |= {"decoding": steps, "update": parts}
    print(json.dumps(found, indent=1))
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
