"""Ways to search behind one protocol (`Retriever` in `world.py`), each in its own file, imported from there.

`bm25.py` is the default: in memory or memory-mapped. `tantivy_index.py` is another lexical one, `dense.py` searches by
embeddings (`encoder.py`), `served.py` asks a server such as `server.py`, `web.py` asks a search provider, `pages.py`
reads pages. `transport.py` is all that talks to other machines, `cache.py` keeps their answers, `stored.py` documents
on disk.
"""
