"""The language model: loaded from a folder or a Hugging Face name, sampled from, scored.

    source, tiny ─ load ─► Policy (`model`) ─┬─ decode, with contexts in a KV cache ─► sampled ids
                                             └─ scoring ─► log-probabilities, entropies

`llama/` has this package's own float32 passes of small Llamas. `device` and `context_length` have what a machine and a
model support.
"""
