"""One whole iteration of PPO, ours and that of TRL 0.23's PPOTrainer, on the same models and responses."""

import dataclasses
import functools

import golden_case as case
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_case import TOLERANCE, close

from rlhf_jax import losses, models, objectives, training
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages import KLConfig, OnlineTrainer, PPOConfig, PPOLossConfig, forward, make_loss_fn
from rlhf_jax.stages.online.prepare import response_kl

RESPONSE, EPOCHS, MINIBATCHES = 7, 3, 2
KL, PENALTY, TEMPERATURE = 0.1, 0.5, 0.8
OPTIMIZER = case.constant(2e-3)
LOSS = PPOLossConfig(clip_low=0.2, clip_high=0.2, value_clip=0.2, value_coef=0.1)


class Iteration:
    """Both sides of one iteration."""

    def __init__(self, run, folder, mesh, sizes, *, gamma, gae_lambda, lengths=None):
        self.tokenizer = case.tokenizer()
        policy = case.model(sizes, seed=0)
        reference = case.model(sizes, seed=1, like=policy)
        reward = case.model(sizes, seed=2, scalar_head=True)
        config = PPOConfig(
            policy="unused",
            reward_model="unused",
            prompts=len(case.PROMPTS),
            epochs=EPOCHS,
            minibatches=MINIBATCHES,
            sampling=SamplingConfig(max_new_tokens=RESPONSE, temperature=TEMPERATURE),
            shaping=dataclasses.replace(case.UNSHAPED, no_eos_penalty=PENALTY),
            kl=KLConfig(kind="fixed", coef=KL),
            loss=LOSS,
            gamma=gamma,
            gae_lambda=gae_lambda,
            policy_optimizer=OPTIMIZER,
            critic_optimizer=OPTIMIZER,
            iterations=1,
        )
        trainer = OnlineTrainer(
            config, policy=policy, tokenizer=self.tokenizer, reward=reward, reference=reference.params, mesh=mesh
        )
        state = trainer.init()
        # A critic's head starts at zero, where values, and what depends on them, would not be compared.
        head = jax.random.normal(jax.random.key(5), (sizes["d_model"], 1)) / 10
        critic = {**state.train.params["critic"], "head": {"kernel": jax.device_put(head, state.train.step.sharding)}}
        state = state._replace(train=state.train._replace(params={**state.train.params, "critic": critic}))
        asked = case.prompts(self.tokenizer)
        drawn = (trainer.collect(state, asked, step) for step in range(20))
        sampled = next(x for x in drawn if not x.finished.any())  # mostly none ends by itself
        if lengths is not None:
            sampled = case.ended(sampled, lengths, self.tokenizer)
        orders = trainer._order(0, len(asked))
        case.write(
            folder,
            sampled,
            orders.reshape(EPOCHS, -1),
            {
                "policy": (policy.config, state.train.params["policy"]),
                "critic": (reward.config, state.train.params["critic"]),
                "reference": (policy.config, reference.params),
                "reward": (reward.config, reward.params),
            },
            self.tokenizer,
            num_ppo_epochs=EPOCHS,
            num_mini_batches=MINIBATCHES,
            temperature=TEMPERATURE,
            kl_coef=KL,
            kl_estimator="k1",
            missing_eos_penalty=PENALTY,
            stop_token_id=self.tokenizer.eos_id,
            gamma=gamma,
            lam=gae_lambda,
            vf_coef=LOSS.value_coef,
            cliprange=LOSS.clip_low,
            cliprange_value=LOSS.value_clip,
            learning_rate=OPTIMIZER.learning_rate,
            adam_beta2=OPTIMIZER.b2,
            adam_epsilon=OPTIMIZER.eps,
        )
        run("trl_ppo.py", folder)
        self.folder, self.theirs = folder, np.load(folder / "reference.npz")

        self.batch, _ = trainer.prepare(state, sampled, asked)
        # The definitions that differ: TRL's whitening divides the variance by N - 1, ours by N.
        count = float(self.batch.mask.sum())
        self.ours = self.batch._replace(advantages=self.batch.advantages * np.float32(np.sqrt((count - 1) / count)))
        self.before = jax.device_get(state.train.params)
        self.steps = list(self._step_by_step(trainer, state.train, orders))
        after, self.metrics = trainer.update(state, self.ours, 0)
        self.after = jax.device_get(after.train.params)
        shaped = self.batch.reward + KL * response_kl(self.batch)  # before the KL was taken from it
        self.shaped = np.asarray(shaped)
        self.rewards = losses.kl_penalised_rewards(
            shaped, self.batch.old_logprobs, self.batch.ref_logprobs, self.batch.mask, kl_coef=KL
        )

    def _step_by_step(self, trainer, train, orders):
        """The same updates one at a time, by the functions that a loop of one's own would use."""
        objective = functools.partial(objectives.ppo, **dataclasses.asdict(LOSS))
        optimizer = training.by_role(dict.fromkeys(train.params, training.make_optimizer(OPTIMIZER, 6)))
        step = jax.jit(
            training.make_train_step(make_loss_fn(objective, trainer.models, temperature=TEMPERATURE), optimizer)
        )
        train = training.init_state(train.params, optimizer)
        whole = jax.tree.map(jnp.asarray, jax.device_get(self.ours))

        @jax.jit
        def ratios(params, part):
            out = forward(trainer.models, params, part, temperature=TEMPERATURE)
            return jnp.exp(out.logprobs - part.old_logprobs), out.values

        for rows in orders:
            part = jax.tree.map(lambda x, rows=rows: x[rows], whole)
            ratio, values = ratios(train.params, part)
            train, metrics = step(train, part, jax.random.key(0))
            yield jax.device_get((part, ratio, values, metrics, train.params))

    def their_params(self, update):
        """TRL's weights after so many updates, by role, read by our own loader."""
        return {role: models.load_pretrained(self.folder / f"{role}-{update}")[1] for role in ("policy", "critic")}

    def columns(self, x):
        """The response columns of an array of ours, [B, R]."""
        return case.responses_of(x, self.batch)

    def counted(self, name):
        """An array of TRL's, [B, R], 0 behind the responses."""
        return np.where(self.theirs["padding_mask"], 0, self.theirs[name])


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def full(request, trl_023, tmp_path_factory, one_device):
    """All responses as long as they may be, with a discount."""
    sizes = {"llama": case.LLAMA, "gpt2": case.GPT2}[request.param]
    return Iteration(trl_023, tmp_path_factory.mktemp(request.param), one_device, sizes, gamma=0.98, gae_lambda=0.95)


@pytest.fixture(scope="module")
def short(trl_023, tmp_path_factory, one_device):
    """Most responses end by themselves; no discount, and lambda 1."""
    folder = tmp_path_factory.mktemp("short")
    return Iteration(
        trl_023, folder, one_device, case.LLAMA, gamma=1.0, gae_lambda=1.0, lengths=[3, 0, 1, 6, 7, 0, 2, 4]
    )


def compare_prepared(x):
    np.testing.assert_array_equal(x.columns(x.batch.mask).astype(bool), ~x.theirs["padding_mask"])
    close("scores", x.shaped.ravel(), x.theirs["scores"])
    close("log-probabilities", x.columns(x.batch.old_logprobs), x.counted("logprobs"))
    close("the reference's", x.columns(x.batch.ref_logprobs), x.counted("ref_logprobs"))
    close("values", x.columns(x.batch.old_values), x.counted("values"))
    close("returns", x.columns(x.batch.returns), x.counted("returns"))
    close("advantages", x.columns(x.ours.advantages), x.counted("advantages"))


def compare_policy_updates(x):
    moved = clipped = 0.0
    for u, (part, ratio, _, metrics, params) in enumerate(x.steps):
        kept = ~x.theirs["padding_mask"][x.theirs[f"{u}/micro_batch_inds"]]
        theirs = np.where(kept, x.theirs[f"{u}/ratio"], 0)
        close(f"update {u}: ratios", case.responses_of(ratio, part), theirs)
        clipped += (np.abs(theirs - 1) > 0.2)[kept].mean()
        loss = metrics["policy_loss"]
        close(f"update {u}: policy loss", loss[0] / loss[1], x.theirs[f"{u}/pg_loss"])
        policy = x.their_params(u)["policy"]
        off, moved = case.apart(params["policy"], policy), case.apart(x.before["policy"], policy)
        print(f"update {u}: the policy's weights moved by {moved:.1e}, off by {off:.1e}")
        assert off <= TOLERANCE
    assert clipped > 0.1, "no ratio left the clip range"
    assert moved > 500 * TOLERANCE, "weights that hardly move compare nothing"


def test_what_an_iteration_prepares(full):
    compare_prepared(full)
    close("rewards", full.columns(full.rewards), full.counted("rewards"))


def test_every_update_of_the_policy(full):
    compare_policy_updates(full)


def test_every_update_of_the_critic(full):
    for u, (part, _, values, metrics, params) in enumerate(full.steps):
        close(f"update {u}: values", case.responses_of(values, part), full.theirs[f"{u}/vpred"])
        loss, whole = metrics["value_loss"], metrics["loss"]
        close(f"update {u}: value loss", loss[0] / loss[1], full.theirs[f"{u}/vf_loss"])
        close(f"update {u}: loss", whole[0] / whole[1], full.theirs[f"{u}/loss"])
        critic = full.their_params(u)["critic"]
        off = case.apart(params["critic"], critic)
        moved = case.apart(full.before["critic"], critic)
        print(f"update {u}: the critic's weights moved by {moved:.1e}, off by {off:.1e}")
        assert off <= TOLERANCE


def test_the_program_of_a_whole_iteration(full):
    """``OnlineTrainer.update``, where responses are packed and one program does all updates."""
    last = full.their_params(int(full.theirs["updates"]) - 1)
    for role in ("policy", "critic"):
        off = case.apart(full.after[role], last[role])
        print(f"{role}: off by {off:.1e}")
        assert off <= TOLERANCE


def test_responses_that_end_by_themselves(short):
    """The critic's updates are left out: TRL's learns the state behind the last token too, which ours has not."""
    compare_prepared(short)
    np.testing.assert_allclose(short.columns(short.rewards).sum(-1), short.theirs["rewards"].sum(-1), atol=TOLERANCE)
    compare_policy_updates(short)
    last = short.their_params(int(short.theirs["updates"]) - 1)
    assert case.apart(short.after["policy"], last["policy"]) <= TOLERANCE
