"""`refgss serve`: a model behind HTTP."""

from __future__ import annotations

import math
import socket
from pathlib import Path
from typing import Any

import click

from refgss.cli.models import backend_options, model_and_rest, usable_backend
from refgss.cli.terminal import note


@click.command(short_help="Serve a model over HTTP.")
@click.argument("arguments", nargs=-1, metavar="[MODEL.safetensors]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--name", help="Name of the model in the API. Default: that of its file.")
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    help="Most tokens generated for a prompt. Default: 4096.",
)
@click.option(
    "--max-prompt",
    type=click.IntRange(1),
    help="Most prompt tokens of a request. Default: 1000000.",
)
@click.option(
    "--max-requests",
    type=click.IntRange(1),
    help="Most requests at once; further ones get status 503. Default: 256.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1),
    help="Time limit per request, in seconds. Default: 600.",
)
@click.option(
    "--grace",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Seconds that open requests have once the server is told to end.",
)
@click.option(
    "--cache",
    default=64,
    show_default=True,
    type=click.IntRange(0),
    help="Prompt states kept, so that a shared beginning is not read again.",
)
@backend_options
def serve(
    arguments: tuple[str, ...],
    host: str,
    port: int,
    name: str | None,
    max_tokens: int | None,
    max_prompt: int | None,
    max_requests: int | None,
    timeout: float | None,
    grace: float,
    cache: int,
    backend: str | None,
    threads: int | None,
) -> None:
    """Serve MODEL to clients of OpenAI's completions API.

    Routes: /v1/completions (streaming too), /v1/models, /health, /metrics.  Ctrl-C and SIGTERM end
    the server once open requests have been answered, or have had their --grace.
    """
    try:
        import uvicorn

        from refgss.serve import Limits, application
    except ImportError as e:
        raise click.UsageError(f"serving needs Starlette: pip install 'refgss[serve]' ({e})") from e
    checkpoint, rest = model_and_rest(arguments)
    if rest:
        raise click.UsageError(f"{rest[0]} is no model: name one file that ends in .safetensors")
    given: dict[str, float | None] = {
        "tokens": max_tokens,
        "prompt": max_prompt,
        "requests": max_requests,
    }
    given |= {"seconds": timeout}
    limits = Limits(**{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
    module = usable_backend(backend, threads)
    called = name or (Path(arguments[0]).stem if arguments else "bundled")
    app = application(checkpoint, name=called, limits=limits, backend=module, kept=cache)
    # a client that does not read what it is told then is left after twice the time
    config = uvicorn.Config(
        app,
        log_level="warning",
        timeout_graceful_shutdown=math.ceil(2 * grace),
        timeout_keep_alive=30,
    )

    class Server(uvicorn.Server):
        def handle_exit(self, number: int, frame: Any) -> None:
            app.state.end_within(grace)
            super().handle_exit(number, frame)

    with listening(host, port) as listener:
        note(f"serving {called} on http://{address(listener)}/v1 (Ctrl-C ends it)")
        Server(config).run(sockets=[listener])


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there.  Raises UsageError where none can."""
    try:
        return socket.create_server((host, port), family=family(host), backlog=2048)
    except (OSError, UnicodeError) as e:
        why = getattr(e, "strerror", None) or str(e)
        raise click.UsageError(
            f"{host}, port {port}, cannot be listened on ({why}): choose another --host or --port"
        ) from e


def family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
