"""A corpus served to agents on this and other machines (`empg serve-retriever`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from empg.environments.deepsearch.options import Searching
from empg.environments.deepsearch.retrievers import corpus_file, open_search
from empg.environments.options import read_options
from empg.errors import MissingExtraError


def serve_corpus(
    corpus: Path, searching: Mapping[str, Any], host: str, port: int, ready: Callable[[str], None]
) -> None:
    """Answer `POST /retrieve` as Search-R1's server does, until Ctrl-C. The corpus is indexed once.

    Args:
        corpus: a file, see `corpus.read_corpus`.
        searching: options of `options.Searching`.
        host: the address to listen on.
        port: 0 picks a free one.
        ready: called with the address as soon as it answers.

    Raises:
        UserError: an option is wrong, the format of the corpus is not read, or the port is unavailable; the message
            names it.
        MissingFileError: the corpus or the encoder is not there.
        MissingExtraError: a package that serves, or that searches, is not installed.
    """
    how = read_options(Searching, searching)
    try:
        from empg.environments.deepsearch.retrieval.server import serve
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{error.name} is not installed: pip install 'empg[server]'") from None
    searched, _ = open_search(how, corpus_file(corpus))
    serve(searched, host, port, ready=ready)
