"""What one of two processes does and says, for ``test_exchange``.

python exchange_task.py [fail|stop|die]
"""

import os
import signal
import sys
import time

import jax
import numpy as np

from rlhf_jax import parallel, processes
from rlhf_jax.data.encoded import in_shares
from rlhf_jax.data.errors import DataError
from rlhf_jax.data.packing import Example
from rlhf_jax.stages.scoring import score_shared
from rlhf_jax.training.signals import StopSignals

if __name__ == "__main__":
    parallel.initialize(heartbeat=10)
    index = jax.process_index()
    if sys.argv[1:] == ["fail"]:
        if index == 1:
            raise RuntimeError("this one fails")
        try:
            processes.exchange(b"")
        except jax.errors.JaxRuntimeError as error:
            raise processes.loss_of("exchange", error) from error
    if sys.argv[1:] == ["die"]:
        processes.exchange(b"all are here")
        if index == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if index == 1:
            processes.exchange(b"")
        time.sleep(60)  # at work that exchanges nothing
    if sys.argv[1:] == ["stop"]:
        with StopSignals() as signals:  # a stage whose steps are counted from 1, as the next one's are
            assert [signals.asked() for _ in range(5)] == [None] * 5
        if index == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(3)  # both hear of it while no stage trains
        with StopSignals() as signals:
            answers = [signals.asked() for _ in range(5)]
        print("stopped", answers.index(signal.SIGTERM) if signal.SIGTERM in answers else None)
        sys.exit()
    print("share", list(range(5))[processes.share(5)])
    print("exchanged", processes.exchange([b"", b"one"][index]))
    print("first says", processes.from_first(lambda: index, "asking"))

    mesh = parallel.make_mesh(parallel.MeshConfig())
    rows = jax.NamedSharding(mesh, jax.P(("data", "fsdp")))
    numbers = np.arange(16, dtype=np.int32).reshape(4, 4)
    spread = processes.put(numbers, rows)
    print("fetched", processes.fetch(spread).tolist(), not spread.is_fully_addressable)
    pieces = list(processes.slices(spread, 16))
    print("in slices", [x.nbytes for x in pieces], b"".join(x.tobytes() for x in pieces) == numbers.tobytes())
    keys = processes.put(jax.random.split(jax.random.key(3), 4), rows)
    drawn = jax.jit(jax.vmap(jax.random.bits), out_shardings=rows)(keys)
    alone = jax.vmap(jax.random.bits)(jax.random.split(jax.random.key(3), 4))
    print("the same draws as anywhere", bool((processes.fetch(drawn) == np.asarray(alone)).all()))

    seen = []

    def reward(prompts, responses):
        seen.extend(responses)
        return [float(x) for x in responses]

    print("scores", score_shared(reward, ["?"] * 5, [str(i) for i in range(5)]).tolist())
    print("scored", len(seen))

    def encode(part):
        seen[:] = part
        return list(range(len(part))), [Example((np.array([x], np.int32),), (0,)) for x in part], []

    print("tokens", [e.tokens[0].tolist() for e in in_shares(range(5), encode, "rows")[1]])
    print("encoded", len(seen))

    def refuse(part):
        if 3 in part:
            raise DataError("row 3 is bad")
        return [], [], []

    try:
        in_shares(range(5), refuse, "rows")
    except (DataError, processes.OtherProcessError) as error:
        print(f"{type(error).__name__}: {error}")
