import pytest

pytest.importorskip("optax")
