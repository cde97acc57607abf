"""Refuses, at its import, a sub-interpreter: pybind11's state belongs to the main one."""

from importlib import import_module


def require_main() -> None:
    """Raises ImportError in a sub-interpreter, where the extension module would wait for ever."""
    for name in ("_interpreters", "_xxsubinterpreters"):  # from Python 3.13 on, and before
        try:
            interpreters = import_module(name)
        except ImportError:
            continue
        if interpreters.get_current() != interpreters.get_main():
            raise ImportError(
                "refgss.native works in the main interpreter of a process only, and this is a "
                "sub-interpreter: import it in the main one, or use refgss.reference here"
            )
        return


require_main()
