"""A new objective, swapped in: preference learning on the policy's own log-probabilities, without a reward model.

Command:  python experiments/swap_objective.py
Hardware: 2 CPU cores, float32
Time:     98 s of processor time, 1 min 42 s beside other work
Result:   held-out pairs in which the response that people prefer gained more likelihood: 64.3% (50% is chance)

The objective is direct preference optimisation (Rafailov et al. 2023) with shares of votes as labels, in a few lines of
``losses``. Nothing in training knows about it: ``stages.lift`` runs the forward passes and ``training.make_train_step``
takes the gradient.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import evaluation, losses, stages, testing, training
from rlhf_jax.data import Example
from rlhf_jax.models import ModelConfig
from rlhf_jax.stages import DataConfig, PackedEpochs, SFTConfig
from rlhf_jax.types import Loss, Model, Params

config = SFTConfig(
    out="runs/swap-objective",
    data=DataConfig(source="human_sentiment", limit=1600),
    vocab_size=1024,
    model=ModelConfig(d_model=64, n_layers=2, n_heads=2, n_kv_heads=2, head_dim=32, d_ff=172),
    epochs=2,
)
PAIRS = DataConfig(source="human_sentiment", limit=5000)
SHAPE = {"rows": 16, "row_length": 128}


def preference(outputs, batch, *, beta=0.1):
    """Of two responses, the one that more people prefer gains more likelihood over the reference than the other."""
    gain = losses.masked_sum(outputs.logprobs - batch.ref_logprobs, batch.mask, axis=-1)  # [B, 2]
    votes = batch.votes[:, 0, 1], batch.votes[:, 1, 0]  # [B], [B]
    share = votes[0] / jnp.maximum(votes[0] + votes[1], 1e-6)
    values = losses.bradley_terry(beta * gain[:, 0], beta * gain[:, 1], preference=share)
    return Loss(values, votes[0] + votes[1] > 0, losses.token_mean)


def log_likelihoods(model: Model, params: Params, sequences: Sequence[np.ndarray], pad_id: int) -> np.ndarray:
    """Log-probability of each token sequence, float32 [n]; prompts count too, and cancel within a pair."""
    run = jax.jit(lambda batch: stages.forward({"policy": model}, params, batch).logprobs)
    batches = PackedEpochs(lambda _: [Example((t,), (1,)) for t in sequences], epochs=1, pad_id=pad_id, **SHAPE)
    sums = [losses.masked_sum(run(batches[i]), batches[i].mask, axis=-1) for i in range(len(batches))]
    return np.concatenate([np.asarray(x)[: batches.count(i), 0] for i, x in enumerate(sums)])


def main() -> None:
    """Check the objective, train the SFT policy it starts from, train on pairs, measure on pairs of the test split."""
    print("holds:", ", ".join(testing.check_objective(preference)))

    sft = stages.sft(config)
    roles, reference, pad_id = {"policy": sft.model}, sft.params, sft.tokenizer.pad_id
    pairs = stages.comparisons(PAIRS, sft.tokenizer, group_size=2, seed=0)
    batches = PackedEpochs(pairs.epoch, epochs=2, pad_id=pad_id, **SHAPE)

    optimizer = training.make_optimizer(training.OptimizerConfig(learning_rate=1e-3), len(batches))
    step = jax.jit(training.make_train_step(stages.lift(preference, roles), optimizer), donate_argnums=0)
    look_up = jax.jit(lambda batch: batch._replace(ref_logprobs=stages.forward(roles, reference, batch).logprobs))
    state = training.init_state(reference, optimizer)
    for i in range(len(batches)):
        state, metrics = step(state, look_up(batches[i]), jax.random.key(i))
        if (i + 1) % 50 == 0:
            print(f"step {i + 1} of {len(batches)}: loss {training.fetch(metrics)['loss']:.3f} nats")

    held = pairs.test(4)
    after, before = (log_likelihoods(sft.model, p, held.sequences, pad_id) for p in (state.params, reference))
    counted, correct = evaluation.pair_accuracy(after - before, held.pairs, held.share)
    print(f"people's choice gained more likelihood in {correct[counted].mean():.1%} of {counted.sum()} held-out pairs")


if __name__ == "__main__":
    main()
