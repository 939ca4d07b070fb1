"""The configs of training on the policy's own samples: every option with its default, its range and its source."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from rlhf_jax import training
from rlhf_jax.data.config import DataConfig
from rlhf_jax.fields import check_at_least, check_fields
from rlhf_jax.losses.checks import warn_outside
from rlhf_jax.parallel import MeshConfig, MeshError
from rlhf_jax.rewards import EnsembleConfig, ShapingConfig
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages.config import (
    Offload,
    StageConfig,
    check_multiple,
    check_named,
    check_positive,
    check_reference,
    is_one_of,
    named_judges,
)
from rlhf_jax.stages.eval_tasks.rows import named_files
from rlhf_jax.training import Controller, OptimizerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class KLConfig:
    """How strongly the policy is held to the reference: the coefficient beta of the KL, and where it acts."""

    kind: Literal["adaptive", "banded", "fixed", "objective"] = "adaptive"
    """`adaptive` steers beta so that the KL meets the target (Ziegler et al. 2019); `banded` changes it only outside
    `low` to `high`; `fixed` keeps it; `objective` leaves the KL to the objective's own `kl_coef`, in its loss."""
    placement: Literal["reward", "loss"] = "reward"
    """Where beta acts: in the reward of every response, or in the loss, as GRPO has it."""
    coef: float = 0.1
    """Beta at the start; usually 0.01 to 0.1 (Ouyang et al. 2022 use 0.02)."""
    target: float = 6.0
    """adaptive: KL to aim at, nats a response."""
    horizon: float = 1000.0
    """adaptive: responses over which an error of 20% in the KL changes beta by 20%; longer runs want more, Ziegler et
    al. use 10,000."""
    low: float = 3.0
    """banded: below this KL (nats a response) beta falls."""
    high: float = 9.0
    """banded: above this KL beta rises."""
    factor: float = 1.2
    """banded: what beta is multiplied with, or divided by, in an iteration."""
    minimum: float = 0.01
    """Beta never falls below this."""
    maximum: float = 0.1
    """Beta never rises above this."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least(self, 0, "target", "horizon", "low", "high", "factor", "minimum", "maximum")
        self.controller()  # refuses what does not fit together
        if self.kind == "objective" and (self.coef, self.placement) != (KLConfig.coef, KLConfig.placement):
            raise ValueError(
                "kl.coef and kl.placement do nothing while kl.kind is objective: give the objective's own kl_coef "
                "(--hyperparameters kl_coef VALUE), or another kl.kind"
            )
        warn_outside("kl.coef", self.coef, 0.0, 0.5, "Ziegler et al. 2019; Ouyang et al. 2022")

    def controller(self) -> Controller:
        """Make the controller, which is a pair of pure functions."""
        if self.kind == "adaptive":
            return training.adaptive(
                self.coef, target=self.target, horizon=self.horizon, minimum=self.minimum, maximum=self.maximum
            )
        if self.kind == "banded":
            return training.banded(
                self.coef,
                low=self.low,
                high=self.high,
                factor=self.factor,
                minimum=self.minimum,
                maximum=self.maximum,
            )
        return training.fixed(self.coef)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PTXConfig:
    """Pretraining text mixed into every update, so that the policy keeps its language (Ouyang et al. 2022)."""

    coef: float = 0.0
    """Weight of its cross entropy beside the policy's loss; 0 is off. Usually 0.05 to 1 between two means over tokens;
    the 27.8 of Ouyang et al. 2022 stands beside a loss of another scale."""
    data: DataConfig = DataConfig()
    """Its data set: rows of `text`, which are all used, or of `prompt` and `response`, but those that would be held out
    elsewhere."""
    rows: int = 4
    """Packed rows of text in an update."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.coef >= 0:
            raise ValueError(f"ptx.coef must not be negative, found {self.coef}")
        check_positive(self, "rows")
        warn_outside("ptx.coef", self.coef, 0.0, 30.0, "27.8 in Ouyang et al. 2022")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnlineConfig(StageConfig):
    """Fields of all training on the policy's own samples: prompts, sampling, rewards, KL, updates, evaluation."""

    policy: str = "runs/sft"
    """Run folder of the SFT policy, or `RUN:preference` (or another policy stage) for that stage's; a frozen copy of it
    is the reference."""
    reference: str = ""
    """Run folder of another reference, which has the policy's shape and tokenizer: to go on with a policy that was
    trained before, held to the one that it once started from. Every KL is measured against it."""
    reward_model: str = "runs/reward"
    """Run folder of the reward model, or of an ensemble of them."""
    reward: str = ""
    """What is trained for in its place: FILE.py:function of (prompts, responses), which returns a number for each
    response, or `judge:SPEC`, an AI judge that votes among the samples of a prompt (`rlhf label --help` lists SPECs);
    with one sample a prompt, or at evaluations, between it and one of the reference's."""
    ensemble: EnsembleConfig = EnsembleConfig()
    data: DataConfig = DataConfig()
    """Prompts; in human_sentiment, a domain's instruction and the first words of a sentence."""
    max_prompt_length: int = 0
    """Longest prompt, in tokens; all are padded to it, so that one program serves all. 0 takes the longest there
    is. Longer prompts of human_sentiment are left out; in other data a longer prompt is a bad row."""
    iterations: int = 30
    """How often the stage samples, scores and updates."""
    prompts: int = 64
    """Prompts of an iteration."""
    samples: int = 1
    """Responses to each prompt."""
    epochs: int = 4
    """Passes over the responses of an iteration."""
    minibatches: int = 4
    """Updates of a pass."""
    micro_batches: int = 1
    """A minibatch is cut into parts whose gradients are added up, the same update in the memory of one part: into at
    least so many where all responses are at their longest. Packed responses are cut into blocks in any case, so this
    only makes them smaller."""
    sampling: SamplingConfig = SamplingConfig()
    shaping: ShapingConfig = ShapingConfig()
    kl: KLConfig = KLConfig()
    ptx: PTXConfig = PTXConfig()
    rollout_mesh: str = ""
    """Devices that sample beside those that train, `data=4`, with sizes as in `--mesh`: training has the first devices
    of the machine, sampling the last, and one of the two may leave `data` open for what the other leaves. If empty,
    all devices do both."""
    staleness: int = 0
    """How many updates older than the policy the weights are that sample, 0 or 1. With 1 an iteration is sampled while
    the update before it runs, on the rollout mesh, and the samples carry truncated importance weights; 0 gives what the
    same devices give without a rollout mesh."""
    importance_cap: float = 2.0
    """`staleness` 1: the largest importance weight; 2 in Yao et al. 2025, 1 in V-trace."""
    policy_optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-4, weight_decay=0.0)
    """1e-6 to 1e-5 for billions of parameters; a model of one million needs about a hundred times that."""
    offload: Offload = "none"
    """`frozen`: the reference and the reward model wait in the host's pinned memory, and are on the device only while
    they score; every iteration then copies each of them once. The trunk under adapters stays on the device."""
    checkpoint_every: int = 10
    eval_every: int = 10
    """Iterations between two evaluations on held-out prompts."""
    eval_prompts: int = 128
    """Held-out prompts of an evaluation; the best checkpoint is chosen on them."""
    test_prompts: int = 512
    """Test prompts of the final comparison with the SFT policy."""
    eval_tasks: tuple[str, ...] = ()
    """Files of tasks that every evaluation measures the policy on, FILE or NAME=FILE each, as for `rlhf evaluate
    --tasks`: how likely held-out text stays, how many questions it answers. They train nothing and choose nothing."""
    max_kl: float = 20.0
    """A checkpoint with a higher KL on held-out prompts (nats a response) is never the best one."""
    stop_kl: float = 20.0
    """The first evaluation with a higher KL (nats a response) sets beta to `kl.maximum`, a later one ends the run. With
    `kl.kind` `fixed` or `objective` nothing steers beta, and the first one ends the run. 0 is off."""
    patience: int = 0
    """Evaluations without a better held-out reward at a KL of at most `max_kl` before the run stops early; 0 never
    stops."""
    judge: tuple[str, ...] = ()
    """What gives the samples scores that training never sees: `NAME=FILE.py:function` of (prompts, responses),
    `NAME=RUN`, a run folder with a reward model, or `NAME=judge:SPEC`, an AI judge that scores a response alone;
    several with a `--judge` each. Without a name it is `gold`, the one that counts. If there are none, human_sentiment
    has judges of its own, and other data none."""
    max_logprob_gap: float = 0.0
    """Largest mean difference between the sampler's and the trainer's log-probabilities of an iteration's tokens, nats;
    more is an error. 0 takes a default: 0.001 where products are exact float32, as on a CPU, and elsewhere (bfloat16,
    `sampling.int8`) twice the rounding of the trainer's own pass, with matrices in 8 bits where the sampler has them
    so, which is measured in the first iteration."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "judge", named_judges(self.judge))
        super().__post_init__()
        check_named(self, "policy", "a run folder or a checkpoint")
        check_reference(self)
        if self.reward and self.reward_model not in ("", OnlineConfig.reward_model):
            raise ValueError(
                f"reward is {self.reward} and reward_model is {self.reward_model}: leave one of them out (a reward "
                "model can be a judge, --judge NAME=RUN)"
            )
        check_positive(self, "iterations", "prompts", "samples", "epochs", "minibatches", "micro_batches")
        check_positive(self, "eval_every", "eval_prompts", "test_prompts")
        named_files(self.eval_tasks)  # refuses two of one name
        if self.max_prompt_length < 0:
            raise ValueError(
                f"max_prompt_length must be 0 (the longest there is) or positive, found {self.max_prompt_length}"
            )
        if not self.max_kl > 0:
            raise ValueError(f"max_kl must be above 0, found {self.max_kl}")
        if not self.max_logprob_gap >= 0:
            raise ValueError(f"max_logprob_gap must be 0 (its default) or positive, found {self.max_logprob_gap}")
        if self.patience < 0:
            raise ValueError(f"patience must be 0 (never stop early) or positive, found {self.patience}")
        self._check_stop_kl()
        self._check_rollout_mesh()
        check_multiple(self, "prompts", "minibatches")
        if self.prompts // self.minibatches % self.micro_batches:
            raise ValueError(
                f"a minibatch of {self.prompts // self.minibatches} prompts must be a multiple of micro_batches "
                f"({self.micro_batches})"
            )
        if self.ptx.coef and self.ptx.rows % self.micro_batches:
            raise ValueError(f"ptx.rows ({self.ptx.rows}) must be a multiple of micro_batches ({self.micro_batches})")
        _check_sampling(self.sampling)
        if self.lora.dropout:
            raise ValueError(
                "lora.dropout must be 0 here: the policy that is updated has to be the one that sampled, or its ratio "
                "does not start at 1"
            )
        if is_one_of(self.objective, "a2c", "reinforce"):
            once = "on-policy: without a ratio, samples are good for one update"
            warn_outside("epochs times minibatches", self.epochs * self.minibatches, 1, 1, once)
        warn_outside("epochs", self.epochs, 1, 10, "1 to 4 in Ziegler et al. 2019 and Ouyang et al. 2022")

    def _check_stop_kl(self) -> None:
        if not self.stop_kl >= 0:
            raise ValueError(f"stop_kl must be 0 (off) or positive, found {self.stop_kl}")
        aims = {"adaptive": ("kl.target", self.kl.target), "banded": ("kl.high", self.kl.high)}
        name, aim = aims.get(self.kl.kind, ("", 0.0))
        if 0 < self.stop_kl <= aim:
            raise ValueError(
                f"stop_kl ({self.stop_kl:g}) must be above {name} ({aim:g}), where the controller leads the policy: "
                "raise it, or 0 for off"
            )
        if self.stop_kl:
            below = f"a run ends at stop_kl, so it has no checkpoints between it and max_kl ({self.max_kl:g})"
            warn_outside("stop_kl", self.stop_kl, self.max_kl, math.inf, below)

    def _check_rollout_mesh(self) -> None:
        if self.rollout_mesh:
            try:
                MeshConfig.parse(self.rollout_mesh)
            except MeshError as error:
                raise ValueError(f"rollout_{error}") from error
        if self.staleness not in (0, 1):
            raise ValueError(f"staleness must be 0 or 1 updates, found {self.staleness}")
        if self.staleness and not self.rollout_mesh:
            raise ValueError(
                "staleness is 1, and rollout_mesh is empty: on the same devices an update and the sampling for the "
                "next one take turns, so older weights gain nothing. Pass --rollout-mesh data=4, say, or --staleness 0"
            )
        if not self.importance_cap > 0:
            raise ValueError(f"importance_cap must be above 0, found {self.importance_cap}")
        if self.importance_cap != OnlineConfig.importance_cap and not self.staleness:
            raise ValueError(
                f"importance_cap ({self.importance_cap:g}) does nothing while staleness is 0, as the policy's own "
                "samples all weigh 1: pass --staleness 1 with it, or leave it out"
            )
        warn_outside("importance_cap", self.importance_cap, 1.0, 10.0, "Espeholt et al. 2018; Yao et al. 2025")

    @property
    def updates(self) -> int:
        """Optimiser updates of the whole run."""
        return self.iterations * self.epochs * self.minibatches


def _check_sampling(sampling: SamplingConfig) -> None:
    """Refuse what makes the policy that samples another one than the policy that is trained."""
    for name, off in (("top_k", 0), ("top_p", 1.0)):
        if getattr(sampling, name) != off:
            raise ValueError(
                f"sampling.{name} is {getattr(sampling, name)}, but training needs {off}: responses would come from a "
                "truncated distribution, while ratio, KL and entropy are of the whole one, so every ratio would be "
                f"biased. Leave sampling.{name} at {off}; rlhf sample and rlhf chat offer it for the trained policy"
            )
    if sampling.temperature == 0:
        raise ValueError(
            "sampling.temperature is 0, but training needs one above 0: greedy responses are drawn from no "
            "distribution, so they have no ratio, and the samples of a prompt are all alike. Set sampling.temperature "
            "to 1, or to another number above 0"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOLossConfig:
    """Hyperparameters of ``objectives.ppo``; its docstring explains them."""

    clip_low: float = 0.2
    """Room of the probability ratio below 1."""
    clip_high: float = 0.2
    """Room above 1; 0.28 keeps exploring (Yu et al. 2025)."""
    dual_clip: float | None = None
    """Bound for tokens with a negative advantage; 3 in Ye et al. 2020, None is off."""
    value_clip: float = 0.2
    """How far a value may move from the old one in one iteration."""
    value_coef: float = 0.1
    """Weight of the value loss. A critic of its own has its own learning rate, so the weight hardly matters to it; with
    `critic` head it is how much the policy's weights are given over to values, beside `critic_gradient`."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus; 0 to 0.01."""
    kl_coef: float = 0.0
    """Weight of the KL in the loss (k3) when `kl.kind` is `objective`; 0.01 to 0.1."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOConfig(OnlineConfig):
    """KL-penalised PPO from an SFT policy against a reward model; `objective` may be another one with a critic."""

    out: str = "runs/ppo"
    objective: str = "ppo"
    """What is minimised: an objective with a critic (`rlhf ppo --help` lists ours; `a2c` wants `epochs` and
    `minibatches` of 1), or FILE.py:function for one of your own."""
    gamma: float = 1.0
    """Discount of later rewards."""
    gae_lambda: float = 0.95
    """Trades the critic's bias for the return's variance (Schulman et al. 2016)."""
    whiten_advantages: bool = True
    """Advantages get mean 0 and variance 1 over the iteration's tokens."""
    loss: PPOLossConfig = PPOLossConfig()
    """Hyperparameters of `ppo` and `a2c`. An objective of your own with one of the same name gets it if it is set here,
    and otherwise keeps its own default."""
    critic: Literal["own", "head"] = "own"
    """What says the values: a model of its own, which starts from the reward model, or a linear head on the policy's
    hidden states, which takes no second forward pass and no memory to speak of."""
    critic_gradient: float = 1.0
    """`critic` head: how much of the value loss's gradient goes on into the policy's weights, 0 (none) to 1 (all of
    it). The policy sees the value loss with a weight of `loss.value_coef` times this, so a large `value_coef` wants
    less here."""
    critic_optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3, weight_decay=0.0)
    """For the weights that are the critic's own. In an update the values of a head move by up to about the rate times
    the model's width; 0.1 is much, so a width of 2048 wants 5e-5 or less."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.critic_gradient <= 1:
            raise ValueError(f"critic_gradient must lie between 0 and 1, found {self.critic_gradient}")
        if self.critic == "own" and self.critic_gradient != PPOConfig.critic_gradient:
            raise ValueError(
                f"critic_gradient ({self.critic_gradient}) does nothing while critic is own, as such a critic has no "
                "weights in common with the policy: pass --critic head with it, or leave it out"
            )
        if self.loss.kl_coef and self.kl.kind != "objective":
            raise ValueError(
                f"loss.kl_coef does nothing while kl.kind is {self.kl.kind}: pass --kl.kind objective, or use kl.coef "
                "with --kl.placement loss"
            )
        for name in ("gamma", "gae_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, found {getattr(self, name)}")
            warn_outside(name, getattr(self, name), 0.9, 1.0, "Schulman et al. 2016")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupConfig(OnlineConfig):
    """Objectives that compare K samples of a prompt with each other instead of asking a critic."""

    out: str = "runs/group"
    objective: str = "rloo"
    """What is minimised: an objective on samples without a critic (`rlhf group --help` lists ours), or FILE.py:function
    for one of your own."""
    prompts: int = 32
    samples: int = 4
    """Responses to each prompt, K; RLOO 2 to 4 (Ahmadian et al. 2024), GRPO 8 to 64 (Shao et al. 2024)."""
    epochs: int = 1
    minibatches: int = 2
    kl: KLConfig = KLConfig(kind="objective")
