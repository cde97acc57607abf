"""Skipped as a whole where PyTorch is not installed; two threads, as others run beside."""

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'refgss[torch]'")
