"""The routes: completions, models, health, metrics."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from refgss.model.checkpoint import Checkpoint
from refgss.model.generation import Token
from refgss.model.session import Session
from refgss.model.tokenizer import load_tokenizer
from refgss.serve.completions import Answer, Request, RequestError, request_of
from refgss.serve.limits import Limits
from refgss.serve.scheduler import Scheduler, Work
from refgss.tensors import ModelError


class Server:
    """The state of an application."""

    def __init__(self, checkpoint: Checkpoint, name: str, limits: Limits, backend: Any, kept: int):
        self.name, self.limits, self.began = name, limits, time.time()
        self.tokenizer = load_tokenizer(checkpoint.tokenizer)
        empty = Session(checkpoint, backend=backend)
        self.scheduler = Scheduler(empty, self.tokenizer, limits.unread, kept)
        self.open = 0  # requests that are being answered
        self.answered: Counter[int] = Counter()  # by status

    async def completions(self, http: HttpRequest) -> Response:
        if self.open >= self.limits.requests:
            raise RequestError(503, "the server is busy: come again later")
        self.open += 1
        try:
            request = request_of(
                await body_of(http, self.limits), self.tokenizer, self.name, self.limits
            )
            running = Running(self, request)
            if request.stream:
                self.open += 1  # until the stream has ended
                return EventStream(running)
            return await running.answered(http)
        finally:
            self.open -= 1

    async def models(self, http: HttpRequest) -> Response:
        model = {"id": self.name, "object": "model", "created": int(self.began)}
        return JSONResponse({"object": "list", "data": [{**model, "owned_by": "refgss"}]})

    async def health(self, http: HttpRequest) -> Response:
        return JSONResponse({"status": "ok", "model": self.name, "streams": len(self.scheduler)})

    async def metrics(self, http: HttpRequest) -> Response:
        """In the text format of Prometheus."""
        cache = self.scheduler.cache
        lines = [
            "# TYPE refgss_requests_total counter",
            *(
                f'refgss_requests_total{{status="{status}"}} {count}'
                for status, count in sorted(self.answered.items())
            ),
            "# TYPE refgss_requests_open gauge",
            f"refgss_requests_open {self.open}",
            "# TYPE refgss_streams gauge",
            f"refgss_streams {len(self.scheduler)}",
            "# TYPE refgss_generated_tokens_total counter",
            f"refgss_generated_tokens_total {self.scheduler.tokens}",
            "# TYPE refgss_prompt_tokens_total counter",
            f'refgss_prompt_tokens_total{{from="model"}} {cache.misses}',
            f'refgss_prompt_tokens_total{{from="cache"}} {cache.hits}',
            "# TYPE refgss_cached_states gauge",
            f"refgss_cached_states {len(cache)}",
        ]
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


async def body_of(http: HttpRequest, limits: Limits) -> bytes:
    """Raises RequestError where it is too long, or does not come."""
    found = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            async for piece in http.stream():
                found += piece
                if len(found) > limits.body:
                    raise RequestError(413, f"the body has more than {limits.body} bytes")
    except TimeoutError as e:
        raise RequestError(408, "the body did not come in time") from e
    return bytes(found)


class Running:
    """A request that is being answered: tokens of its prompts as they come."""

    def __init__(self, server: Server, request: Request):
        self.server, self.request = server, request
        self.answer = Answer(request, server.name, server.tokenizer)
        self.queue: asyncio.Queue[tuple[int, Token | Exception]] = asyncio.Queue()
        loop, deadline = asyncio.get_running_loop(), time.monotonic() + server.limits.seconds
        self.works = []
        for i, prompt in enumerate(request.prompts):

            def take(token: Token | Exception, i: int = i) -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(self.queue.put_nowait, (i, token))

            self.works.append(Work(request, prompt, take, deadline))
        for work in self.works:
            server.scheduler.add(work)

    async def pieces(self) -> AsyncIterator[tuple[int, list[Token]]]:
        """A prompt's number and tokens that have come since.  Raises what ends the request."""
        left = len(self.works)
        while left:
            came = [await self.queue.get()]
            while not self.queue.empty():
                came.append(self.queue.get_nowait())
            by_prompt: dict[int, list[Token]] = {}
            for i, token in came:
                if isinstance(token, Exception):
                    raise token
                by_prompt.setdefault(i, []).append(token)
            for i, tokens in by_prompt.items():
                left -= tokens[-1].end != ""
                yield i, tokens
                self.server.scheduler.read(self.works[i], len(tokens))

    async def answered(self, http: HttpRequest) -> Response:
        """The whole answer at once; nothing more is computed once the client has gone."""
        found: dict[int, list[Token]] = {i: [] for i in range(len(self.works))}

        async def collect() -> None:
            async for i, tokens in self.pieces():
                found[i] += tokens

        work = asyncio.ensure_future(collect())
        try:
            while not work.done():
                await asyncio.wait([work], timeout=0.5)
                if not work.done() and await http.is_disconnected():
                    return Response(status_code=499)
            work.result()
        finally:
            work.cancel()
            self.cancel()
        choices = [self.answer.choice(i, tokens) for i, tokens in found.items()]
        return JSONResponse(self.answer.whole(choices, True))

    def cancel(self) -> None:
        for work in self.works:
            self.server.scheduler.cancel(work)


class EventStream(StreamingResponse):
    """Server-sent events; what is computed ends with the connection."""

    def __init__(self, running: Running):
        self.running = running
        super().__init__(self.events(), media_type="text/event-stream")
        self.headers["cache-control"] = "no-cache"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        except asyncio.CancelledError:  # the server is stopped, and the client has not read
            pass
        finally:
            self.running.cancel()
            self.running.server.open -= 1

    async def events(self) -> AsyncIterator[str]:
        answer = self.running.answer
        try:
            async for i, tokens in self.running.pieces():
                yield event(answer.whole([answer.choice(i, tokens)], False))
            if self.running.request.usage:
                yield event(answer.whole([], True))
        except (ModelError, TimeoutError) as e:
            yield event(error_body(503, str(e)))
        yield "data: [DONE]\n\n"


def event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"


def error_body(status: int, sentence: str) -> dict[str, Any]:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": sentence, "type": kind, "param": None, "code": status}}


def application(
    checkpoint: Checkpoint,
    *,
    name: str = "refgss",
    limits: Limits | None = None,
    backend: Any = None,
    kept: int = 64,
) -> Starlette:
    """The application of a model.

    name     of the model, as clients ask for it.
    backend  a module with `lm_logits`; None chooses refgss.native where it is built.
    kept     states of prompts that are kept, so that a beginning that comes again is not read
             again.
    """
    server = Server(checkpoint, name, limits or Limits(), backend, kept)

    async def refused(http: HttpRequest, e: Exception) -> Response:
        status = e.status if isinstance(e, RequestError) else 503
        return JSONResponse(error_body(status, str(e)), status)

    async def no_route(http: HttpRequest, e: Exception) -> Response:
        assert isinstance(e, HTTPException)
        return JSONResponse(error_body(e.status_code, e.detail), e.status_code, e.headers)

    async def defect(http: HttpRequest, e: Exception) -> Response:
        return JSONResponse(error_body(500, "a defect of the server: see its log"), 500)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(server.scheduler.close)

    app = Starlette(
        routes=[
            Route("/v1/completions", server.completions, methods=["POST"]),
            Route("/v1/models", server.models),
            Route("/health", server.health),
            Route("/metrics", server.metrics),
        ],
        exception_handlers={
            RequestError: refused,
            ModelError: refused,
            TimeoutError: refused,
            HTTPException: no_route,
            Exception: defect,
        },
        lifespan=lifespan,
    )
    app.add_middleware(Counted, answered=server.answered)
    app.state.end_within = server.scheduler.end_within
    return app


class Counted:
    """Counts answers by their status."""

    def __init__(self, app: Any, answered: Counter[int]):
        self.app, self.answered = app, answered

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.answered[message["status"]] += 1
            await send(message)

        await self.app(scope, receive, counted if scope["type"] == "http" else send)
