"""The config of PPO: every option with its default, its usual range and where it comes from."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

from rlhf_jax import objectives, training
from rlhf_jax.rewards import ShapingConfig
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages.config import DataConfig, StageConfig, check_positive
from rlhf_jax.training import Controller, OptimizerConfig
from rlhf_jax.types import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class KLConfig:
    """How strongly the policy is held to the reference: beta of ``R_t = score - beta kl_t``."""

    kind: Literal["adaptive", "fixed"] = "adaptive"
    """`adaptive` steers beta so that the KL meets the target (Ziegler et al. 2019); `fixed` keeps it."""
    coef: float = 0.1
    """Beta at the start; usually 0.01 to 0.1 (Ouyang et al. 2022 use 0.02)."""
    target: float = 6.0
    """KL to aim at, nats a response."""
    horizon: float = 1000.0
    """Responses over which an error of 20% in the KL changes beta by 20%; longer runs want more, Ziegler et al.
    use 10,000."""
    minimum: float = 0.01
    """Beta never falls below this."""
    maximum: float = 0.1
    """Beta never rises above this."""

    def controller(self) -> Controller:
        """The controller as a pair of pure functions."""
        if self.kind == "fixed":
            return training.fixed(self.coef)
        return training.adaptive(
            self.coef, target=self.target, horizon=self.horizon, minimum=self.minimum, maximum=self.maximum
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
    """Weight of the value loss; the critic has weights and a learning rate of its own."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus; 0 to 0.01."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPOConfig(StageConfig):
    """KL-penalised PPO from an SFT policy against a reward model."""

    out: str = "runs/ppo"
    policy: str = "runs/sft"
    """Run folder of the SFT policy; a frozen copy of it is the reference."""
    reward_model: str = "runs/reward"
    """Run folder of the reward model."""
    data: DataConfig = DataConfig()
    """Prompts. Of human_sentiment: the domain's instruction and the first words of a sentence."""
    max_prompt_length: int = 0
    """Longest prompt, in tokens; all are padded to it, so that one program serves all. 0 takes the longest there
    is. Longer prompts of human_sentiment are left out; a longer one of anybody else's data is a bad row."""
    iterations: int = 30
    """Times collect, prepare, update."""
    prompts: int = 64
    """Prompts of an iteration."""
    samples: int = 1
    """Responses to each prompt."""
    epochs: int = 4
    """Passes over the responses of an iteration; 4 in Ziegler et al. 2019."""
    minibatches: int = 4
    """Updates of a pass."""
    sampling: SamplingConfig = SamplingConfig()
    shaping: ShapingConfig = ShapingConfig()
    kl: KLConfig = KLConfig()
    gamma: float = 1.0
    """Discount of later rewards."""
    gae_lambda: float = 0.95
    """Trades the critic's bias for the return's variance (Schulman et al. 2016)."""
    whiten_advantages: bool = True
    """Advantages get mean 0 and variance 1 over the iteration's tokens."""
    loss: PPOLossConfig = PPOLossConfig()
    policy_optimizer: OptimizerConfig = OptimizerConfig(learning_rate=2e-4, weight_decay=0.0)
    """1e-6 to 1e-5 for billions of parameters; a model of one million needs about a hundred times that."""
    critic_optimizer: OptimizerConfig = OptimizerConfig(learning_rate=1e-3, weight_decay=0.0)
    checkpoint_every: int = 10
    eval_every: int = 10
    """Iterations between two evaluations on held-out prompts."""
    eval_prompts: int = 128
    """Held-out prompts of an evaluation; the best checkpoint is chosen on them."""
    test_prompts: int = 512
    """Test prompts of the final comparison with the SFT policy."""
    max_kl: float = 20.0
    """A checkpoint with a higher KL on held-out prompts (nats a response) is never the best one."""
    max_logprob_gap: float = 0.05
    """Largest difference between the sampler's and the trainer's log-probability of a token, nats; more is an error."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "iterations", "prompts", "samples", "epochs", "minibatches")
        check_positive(self, "eval_every", "eval_prompts", "test_prompts")
        if self.max_prompt_length < 0:
            raise ValueError(
                f"max_prompt_length must be 0 (the longest there is) or positive, found {self.max_prompt_length}"
            )
        if self.prompts % self.minibatches:
            raise ValueError(f"prompts ({self.prompts}) must be a multiple of minibatches ({self.minibatches})")

    @property
    def updates(self) -> int:
        """Optimiser updates of the whole run."""
        return self.iterations * self.epochs * self.minibatches

    def objective(self) -> Objective:
        """``objectives.ppo`` with these hyperparameters bound."""
        return functools.partial(objectives.ppo, **dataclasses.asdict(self.loss))
