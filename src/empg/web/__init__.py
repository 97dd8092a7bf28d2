"""What talks HTTP, for every part of the package: requests to other machines, and servers on this one.

`client.py` sends all requests, with retries and bounds; `addresses.py`, `breaker.py` and `unpacking.py` are its parts.
`endpoints.py` completes the addresses of APIs, `cache.py` keeps responses on disk, `chat.py` asks a chat model, and
`options.py` has the settings of both in a recipe. `serving.py` is what all servers share. Only the modules that send or
serve need httpx, starlette or uvicorn.
"""
