"""Retrievers with one protocol (`Retriever` in `world.py`), one per file.

`bm25.py` is the default, in memory or memory-mapped. `tantivy_index.py` is another lexical retriever. `dense.py`
searches by embeddings (`encoder.py`). `served.py` queries a server such as `server.py`, `web.py` queries a search
provider, and `page_reader.py` reads web pages, all through the client of `empg.web`. `stored.py` stores documents on
disk.
"""
