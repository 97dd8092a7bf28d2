"""What the model reads and writes: an observation becomes a prompt, and sampled ids become an action.

    observation, info ─ wording, prompts ─► messages ─ chat, template ─► prompt ids
    sampled ids ─ chat ─► text ─ parsing ─► thought, action

`dialogue` does both for a model with a tokenizer, `messages` for one behind an API.
"""
