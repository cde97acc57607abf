"""One of two processes that share a sequence over loopback: two_processes.py RANK PORT."""

import sys
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

sys.path.insert(0, str(Path(__file__).parents[1]))
from refgss import xla
from refgss.conformance.candidates.calling import ModuleCandidate
from refgss.conformance.judging.runner import Question, ask
from refgss.conformance.vectors.format import read_vectors
from refgss.standard import spec_folder
from xla.collectives import shapes_moved

rank, port = int(sys.argv[1]), sys.argv[2]
jax.distributed.initialize(f"localhost:{port}", num_processes=2, process_id=rank)
mesh = Mesh(np.array(jax.devices()), ("length",))
assert mesh.size == 2 and jax.process_count() == 2
pieces = NamedSharding(mesh, PartitionSpec(None, "length"))


class OverProcesses:
    """The layer with half of x on each process: a candidate for the vectors."""

    def gss_layer(self, params, x, state=None, *, config):
        mine = np.split(x, 2, axis=1)[rank]  # all that this process would hold
        shared = jax.make_array_from_process_local_data(pieces, mine, x.shape)
        f = jax.jit(xla.sequence_parallel(mesh, config=config, length_axis="length"))
        compiled = f.lower(params, shared, state).compile()
        moved = shapes_moved(compiled)
        assert moved and all(shape == (2, *state.shape) for shape in moved), moved
        y, end = compiled(params, shared, state)
        return multihost_utils.process_allgather(y, tiled=True), end.addressable_data(0)


vectors = {v.id: v for v in read_vectors(spec_folder() / "vectors").vectors}
for name in ("gss_layer/paper-random", "gss_layer/paper-slow"):
    line = ask(ModuleCandidate(OverProcesses()), Question(vectors[name], "f32"))
    assert line["outcome"] == "pass", line
    print(f"{name}: within the budget, worst error/budget {line['ratio']:.2g}")
jax.distributed.shutdown()
