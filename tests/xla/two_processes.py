"""One of two processes that share a sequence over loopback: two_processes.py RANK PORT."""

import sys
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

sys.path.insert(0, str(Path(__file__).parents[1]))
from refgss import config, xla
from xla.examples import layer_parameters, normal, worst

rank, port = int(sys.argv[1]), sys.argv[2]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=rank)
mesh = Mesh(np.array(jax.devices()), ("length",))
assert mesh.size == 2 and jax.process_count() == 2

p, x = layer_parameters(config.PAPER), normal(np.random.default_rng(0), 2, 40, 8)
pieces = NamedSharding(mesh, PartitionSpec(None, "length"))
mine = np.split(x, 2, axis=1)[rank]  # each process holds only its half
shared = jax.make_array_from_process_local_data(pieces, mine, x.shape)
f = jax.jit(xla.sequence_parallel(mesh, config=config.PAPER, length_axis="length"))
y, state = f(p, shared)
y1, state1 = xla.gss_layer(p, x, config=config.PAPER)
half = np.asarray(y.addressable_shards[0].data)
assert worst(half, np.split(np.asarray(y1), 2, axis=1)[rank]) < 2.0**-19
assert worst(state.addressable_shards[0].data, state1) < 2.0**-19
print("agrees")
jax.distributed.shutdown()
