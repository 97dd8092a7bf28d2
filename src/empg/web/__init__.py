"""What talks HTTP, for every part of the package: requests to other machines, and servers on this one.

`client.py` sends requests with retries and bounds; `addresses.py`, `breaker.py` and `unpacking.py` are its parts.
`cache.py` keeps responses on disk, and `chat.py` asks a chat model. `serving.py` is what all servers share.
"""
