"""An HTTP server of one model: completions as OpenAI's clients ask for them.

`application` is a Starlette application; `scheduler` decodes all requests, token by token in turn;
`completions` says what a request may ask and what an answer looks like.
"""

try:
    import starlette
except ImportError as e:
    raise ImportError("refgss.serve needs Starlette: pip install 'refgss[serve]'") from e

from refgss.serve.application import application
from refgss.serve.limits import Limits

__all__ = ["Limits", "application"]
