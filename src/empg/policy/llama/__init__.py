"""Own forward and backward passes for small Llamas on a CPU.

In a model of a few million parameters, transformers spends as much time between the matrix products as in them. These
modules compute the same function, to rounding, with fewer and larger operations:

- `weights` arranges the weights of a transformers Llama, which stays the model that is saved and loaded;
- `training` has the layers with hand-written gradients, over rows without padding;
- `decoding` has the KV cache, with attention in a compiled loop (`kernel`).
"""
