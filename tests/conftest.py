"""What all tests share.

One hypothesis profile: the same examples on every run, none against the clock.  Eight devices on
one processor, asked for before JAX starts its backend.  Ctrl-C as a terminal delivers it: what runs
in the background may have been told to ignore it, and so would the processes that tests interrupt.
"""

import os
import signal

from hypothesis import HealthCheck, settings

settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")

signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
