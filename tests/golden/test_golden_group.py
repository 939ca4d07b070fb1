"""One whole iteration of GRPO and of RLOO, ours and that of TRL 1.16's trainers, on the same models and responses."""

import functools

import golden_case as case
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_case import TOLERANCE, close

from rlhf_jax import losses, models, objectives, training
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages import GroupConfig, OnlineTrainer, make_loss_fn

K, EPOCHS, MINIBATCHES, RESPONSE, TEMPERATURE = 4, 2, 2, 7, 0.8
LENGTHS = (3, 0, 1, 6, 7, 0, 2, 4, 0, 5, 5, 0, 2, 0, 0, 1)  # 0: not ended
OPTIMIZER = case.constant(3e-3)
COEFFICIENTS = {"grpo": 0.04, "rloo": 0.05}


@pytest.fixture(scope="module", params=["grpo", "rloo"])
def iteration(request, trl_116, tmp_path_factory, one_device):
    """Both sides: our trainer, batch, state before, and what TRL left in its folder."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    kl_coef = COEFFICIENTS[name]
    own = case.tokenizer()
    policy = case.model(case.LLAMA, seed=0)
    reference = case.model(case.LLAMA, seed=1, like=policy)
    reward = case.model(case.LLAMA, seed=2, scalar_head=True)
    config = GroupConfig(
        policy="unused",
        reward_model="unused",
        objective=name,
        hyperparameters={"kl_coef": kl_coef},
        prompts=4,
        samples=K,
        epochs=EPOCHS,
        minibatches=MINIBATCHES,
        iterations=1,
        sampling=SamplingConfig(max_new_tokens=RESPONSE, temperature=TEMPERATURE),
        shaping=case.UNSHAPED,
        policy_optimizer=OPTIMIZER,
    )
    trainer = OnlineTrainer(
        config, policy=policy, tokenizer=own, reward=reward, reference=reference.params, mesh=one_device
    )
    state, asked = trainer.init(), case.prompts(own, case.PROMPTS[:4])
    drawn = (trainer.collect(state, asked, step) for step in range(20))
    sampled = case.ended(next(x for x in drawn if not x.finished.any()), LENGTHS, own)
    # TRL goes over its minibatches in the same order in every epoch; ours would draw one an epoch.
    order = np.tile(trainer._order(0, 4)[:MINIBATCHES], (EPOCHS, 1))
    trainer._order = lambda step, groups: order
    batch, _ = trainer.prepare(state, sampled, asked)
    case.write(
        folder,
        sampled,
        (order[:MINIBATCHES].reshape(-1, 1) * K + np.arange(K)).reshape(1, -1),  # of responses
        {"policy": (policy.config, policy.params), "reference": (policy.config, reference.params)},
        own,
        extra={"rewards": np.asarray(batch.reward).ravel(), "lengths": np.asarray(sampled.mask).sum(-1).ravel()},
        kind=name,
        num_generations=K,
        minibatches=MINIBATCHES,
        num_iterations=EPOCHS,
        max_completion_length=RESPONSE,
        temperature=TEMPERATURE,
        beta=kl_coef,
        epsilon=0.2,
        learning_rate=OPTIMIZER.learning_rate,
        adam_beta2=OPTIMIZER.b2,
        adam_epsilon=OPTIMIZER.eps,
        **({"loss_type": "grpo", "use_bias_correction_kl": False} if name == "grpo" else {}),
    )
    trl_116("trl_group.py", folder)
    return name, trainer, state, batch, order, folder, np.load(folder / "reference.npz")


def test_a_whole_iteration_step_by_step(iteration):
    name, trainer, state, batch, order, folder, theirs = iteration
    columns = functools.partial(case.responses_of, batch=batch)
    mask = columns(batch.mask).astype(bool)
    if name == "grpo":
        close("log-probabilities", columns(batch.old_logprobs), theirs["old_per_token_logps"] * mask)
        close("the reference's", columns(batch.ref_logprobs), theirs["ref_per_token_logps"] * mask)
        close("advantages", np.ravel(losses.grpo_advantages(batch.reward)), theirs["advantages"])
    else:
        close("log-probabilities", columns(batch.old_logprobs).sum(-1), theirs["old_logps"])
        kl = losses.masked_sum(batch.old_logprobs - batch.ref_logprobs, batch.mask, axis=-1)
        penalised = batch.reward - COEFFICIENTS["rloo"] * kl
        close("advantages", np.ravel(losses.rloo_advantages(penalised)), theirs["advantages"])
    objective = functools.partial(getattr(objectives, name), kl_coef=COEFFICIENTS[name])
    optimizer = training.by_role({"policy": training.make_optimizer(OPTIMIZER, len(order))})
    step = jax.jit(
        training.make_train_step(make_loss_fn(objective, trainer.models, temperature=TEMPERATURE), optimizer)
    )
    before = jax.device_get(state.train.params)
    train, whole = training.init_state(before, optimizer), jax.tree.map(jnp.asarray, jax.device_get(batch))
    clipped = 0.0
    for u, groups in enumerate(order):
        part = jax.tree.map(lambda x, groups=groups: x[groups], whole)
        train, metrics = step(train, part, jax.random.key(0))
        close(f"update {u}: loss", metrics["loss"][0] / metrics["loss"][1], theirs[f"{u}/loss"])
        clipped += float(metrics["clip_fraction"][0] / metrics["clip_fraction"][1])
        _, policy = models.load_pretrained(folder / f"policy-{u}")
        off, moved = case.apart(train.params["policy"], policy), case.apart(before["policy"], policy)
        print(f"update {u}: the weights moved by {moved:.1e}, off by {off:.1e}")
        assert off <= TOLERANCE
    assert moved > 300 * TOLERANCE
    assert clipped > 0.05, "no ratio left the clip range"
    assert int(theirs["updates"]) == len(order)


def test_the_program_of_a_whole_iteration(iteration):
    _, trainer, state, batch, order, folder, _ = iteration
    after, _ = trainer.update(state, batch, 0)
    _, policy = models.load_pretrained(folder / f"policy-{len(order) - 1}")
    off = case.apart(jax.device_get(after.train.params["policy"]), policy)
    print(f"off by {off:.1e}")
    assert off <= TOLERANCE
