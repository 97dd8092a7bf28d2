"""From episodes to another policy.

    expert episodes ─ warm_start ─► policy
    episodes ─ batch ─ assign (credit/, process_reward, critic) ─► advantages of tokens ─ update ─► policy ─ checkpoint

`critic` is for GAE, `step_judge` for a process reward by a judge, `muon` for the warm start.
"""
