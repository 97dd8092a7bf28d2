"""Many episodes at once: a policy and a pool of environments, turn by turn.

    requests ─ collector, chat_collector ─► turns ─ env_pool ─► outcomes ─ rules of `turns` ─► episodes (`types`)

`demonstrations` are episodes of the expert to imitate. `baselines` are those of the expert and a random policy to
compare with.
"""
