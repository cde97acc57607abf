"""What a server allows."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """prompt     tokens of all prompts of a request.
    tokens     tokens generated for each prompt.
    prompts    prompts of a request.
    logprobs   likeliest tokens told for each token.
    body       bytes of a request.
    requests   that are answered or wait at the same time; more are told to come again.
    seconds    a request may take, from its arrival.
    unread     pieces of a stream that its client has not taken: it is not decoded further until
               some are.
    """

    prompt: int = 1_000_000
    tokens: int = 4096
    prompts: int = 16
    logprobs: int = 20
    body: int = 8 * 2**20
    requests: int = 256
    seconds: float = 600.0
    unread: int = 64
