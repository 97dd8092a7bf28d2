"""The commands about environments: `play`, `serve-retriever` and `serve-environment`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from empg.cli.app import app
from empg.cli.group import EnvironmentCommand


class Index(str, Enum):
    """The index of a served corpus."""

    bm25 = "bm25"
    tantivy = "tantivy"
    dense = "dense"


class Pooling(str, Enum):
    """How an encoder pools its token vectors."""

    mean = "mean"
    cls = "cls"


EnvironmentName = Annotated[
    str, typer.Argument(metavar="ENVIRONMENT", help="Registered environment, or gymnasium id of a text environment")
]
EnvironmentSettings = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Environment options, e.g. rooms=small max_steps=20")
]


@app.command(cls=EnvironmentCommand)
def play(
    environment: EnvironmentName,
    options: EnvironmentSettings = None,
    split: Annotated[str, typer.Option(help="Split of the task.")] = "train",
    task: Annotated[int | None, typer.Option(min=0, help="Task index  [default: random]")] = None,
    expert: Annotated[bool, typer.Option("--expert", help="Watch the expert play.")] = False,
    web: Annotated[bool, typer.Option("--web", help="Play in the browser, on this machine only.")] = False,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port for --web; 0 picks a free port.", show_default="8000")
    ] = None,
    record: Annotated[Path | None, typer.Option(help="File for finished episodes of --web (JSON lines).")] = None,
) -> None:
    """Play an environment yourself.

    Type ? to list the valid commands and Tab to complete one. Commands can also be read from a pipe.
    """
    from empg.play import open_environment, show_in_browser
    from empg.play import play as begin

    if web and (task is not None or expert):
        raise typer.BadParameter("--web cannot be combined with --task or --expert")
    if not web and (record is not None or port is not None):
        raise typer.BadParameter("--record and --port need --web")
    opened = open_environment(environment, split, options or ())
    try:
        if web:
            show_in_browser(opened, 8000 if port is None else port, record)
        else:
            begin(opened, task, expert=expert)
    finally:
        opened.close()


@app.command("serve-retriever")
def serve_retriever(
    corpus: Annotated[
        Path,
        typer.Argument(
            metavar="CORPUS",
            help="File of passages (id and contents, or id, title and text): JSON lines, a JSON array, CSV, TSV or "
            "Parquet.",
        ),
    ],
    retriever: Annotated[Index, typer.Option(help="Kind of index.")] = Index.bm25,
    encoder: Annotated[Path | None, typer.Option(help="Folder of a sentence-embedding model, for dense.")] = None,
    query_prefix: Annotated[
        str | None, typer.Option(help='Prefix that the encoder expects before queries: "query: " for E5.')
    ] = None,
    document_prefix: Annotated[
        str | None, typer.Option(help='Prefix that the encoder expects before documents: "passage: " for E5.')
    ] = None,
    pooling: Annotated[
        Pooling | None, typer.Option(help="Pooling of the encoder  [default: that of its folder]")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device of the encoder, in torch's notation  [default: cpu]")
    ] = None,
    faiss: Annotated[
        str | None, typer.Option(help="faiss index factory string, e.g. HNSW32  [default: exact search]")
    ] = None,
    index: Annotated[Path | None, typer.Option(help="Published faiss index of the corpus, for dense.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of the index  [default: next to the corpus]")] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 accepts connections from other machines.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free port.")] = 8000,
) -> None:
    """Serve a corpus to search agents, with Search-R1's API.

    Answer POST /retrieve {"queries": [...], "topk": 3, "return_scores": true}. The corpus is indexed once; later starts
    reuse the index.
    """
    from empg.environments.deepsearch.served_corpus import serve_corpus

    pooled = pooling and pooling.value
    said = {"query_prefix": query_prefix, "document_prefix": document_prefix, "pooling": pooled, "device": device}
    given = {name: value for name, value in said.items() if value is not None}
    if given and encoder is None:
        raise typer.BadParameter(f"--{next(iter(given)).replace('_', '-')} needs --encoder")
    model = None if encoder is None else {"folder": encoder, **given}
    searching = {"retriever": retriever.value, "encoder": model, "faiss": faiss, "index": index, "cache": cache}
    serve_corpus(
        corpus, searching, host, port, ready=lambda address: print(f"{address}  (press Ctrl-C to stop)", flush=True)
    )


@app.command("serve-environment", cls=EnvironmentCommand)
def serve_environment(
    environment: EnvironmentName,
    options: EnvironmentSettings = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Split to serve; repeatable  [default: train and the evaluated ones]")
    ] = None,
    sessions: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of concurrent sessions.")] = 64,
    idle: Annotated[float, typer.Option(min=1.0, help="Seconds after which a session without a message ends.")] = 600.0,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 accepts connections from other machines.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 picks a free port.")] = 8000,
) -> None:
    """Serve an environment to other trainers, by the OpenEnv protocol.

    Each session is a WebSocket at /ws with an episode of its own. Splits and tasks are listed over HTTP.
    """
    from empg.environments import openenv
    from empg.play import arguments_of

    chosen = arguments_of(options or ())
    max_steps = chosen.pop("max_steps", None)
    openenv.serve_environment(
        environment,
        split or [],
        chosen,
        max_steps=max_steps,
        sessions=sessions,
        idle=idle,
        host=host,
        port=port,
        ready=lambda address: print(f"{address}  (press Ctrl-C to stop)", flush=True),
    )
