"""What happens in a round: the config of ``stages.rounds`` and of ``rlhf rounds``."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from rlhf_jax.fields import check_at_least, check_fields, check_seed
from rlhf_jax.parallel import MeshConfig
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.stages.config import check_named, check_positive, named_judges
from rlhf_jax.stages.online.config import PPOConfig
from rlhf_jax.stages.preference import PreferenceConfig
from rlhf_jax.stages.reward_model import RewardConfig

_LABELS = ("people", "gold", "votes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChooseConfig:
    """Which pairs of a round are labelled: so many of each kind, `--choose.random 200 --choose.disputed 400`."""

    random: int = 200
    """Pairs drawn at random, whatever any model says of them. Only figures on these are figures on the samples as they
    are."""
    disputed: int = 400
    """Pairs that the reward model disputes most: an ensemble by the standard deviation of the difference of both scores
    over its members, a single model by how near its probability is to 1/2."""
    hard: int = 0
    """Pairs in which the reward model is surest of what `judge` finds worse: hard negatives, and what the policy has
    found to please the reward model alone."""
    judge: str = ""
    """What `hard` is measured by, beside the reward model: a judge of the data set by its name (`vader`),
    FILE.py:function of (prompts, responses), or a run folder with another reward model. It labels nothing."""
    per_prompt: int = 1
    """Pairs of one prompt at most."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least(self, 0, "random", "disputed", "hard")
        check_positive(self, "per_prompt")
        if not self.pairs:
            raise ValueError("choose takes no pair: set choose.random, choose.disputed or choose.hard above 0")
        if self.hard and not self.judge:
            raise ValueError("choose.hard needs choose.judge, which says what is worse than the reward model believes")
        if self.judge and not self.hard:
            raise ValueError(f"choose.judge {self.judge} is read for choose.hard alone, which is 0")

    @property
    def pairs(self) -> int:
        """How many pairs of a round are labelled."""
        return self.random + self.disputed + self.hard


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundsConfig:
    """Sampling, choosing, labelling, retraining the reward model and training the policy on, in rounds.

    `reward`, and `ppo` or `preference`, are the configs of the stages of every round; where they start, what they write
    and the seed and mesh are the rounds' own.
    """

    out: str = "runs/rounds"
    """The folder of all rounds; each has a run folder of its own in it, `OUT/round1` and so on. The same command goes
    on where it stopped, and with more `rounds` it adds some."""
    seed: int = 0
    """Everything random comes from it; a round's stages have this seed plus the round's number."""
    mesh: MeshConfig = MeshConfig()
    """Devices, `--mesh data=2`, of all stages."""
    rounds: int = 2
    """How many rounds there are to be."""
    policy: str = "runs/sft"
    """Where the policy starts: a run folder, `RUN:STAGE` or a checkpoint."""
    reference: str = ""
    """What every KL is measured against, in all rounds: that of `policy` if empty, else the SFT policy that it comes
    from, say. Under adapters (`lora.rank`) the reference is the policy of the round before."""
    reward_model: str = "runs/reward"
    """Run folder of the reward model, or of an ensemble, that chooses the pairs of round 1. None if empty: then round 1
    can choose at random alone."""
    candidates: Literal["samples", "data"] = "samples"
    """Whose responses are compared: samples of the policies; or, to have something to hold them against, random pairs
    of the responses in `reward.data`, as many as samples would give."""
    prompts: int = 1000
    """Training prompts of `ppo.data` (or `preference.prompts`) that are answered in a round; each round has others, as
    long as there are."""
    samples: int = 2
    """Responses of each policy to a prompt, at each temperature."""
    earlier: int = 1
    """How many policies of earlier rounds answer too, the latest first; the one of `policy` is the first of all."""
    temperatures: tuple[float, ...] = (1.0,)
    """Temperatures that responses are drawn at."""
    sampling: SamplingConfig = SamplingConfig()
    """How responses to be compared are drawn; their temperature is `temperatures`."""
    choose: ChooseConfig = ChooseConfig()
    label: str = "people"
    """Who labels the pairs. `people`: it stops and says which `rlhf compare` to run, and goes on when their rows are
    there; `gold`: the data set's judge of that name, or `--judge gold=WHAT`; `votes`: what people said of them already
    (candidates `data` alone); `judge:SPEC`: an AI judge, as `rlhf label` has it."""
    gold_scale: float = 0.0
    """`gold`: the difference of scores that makes odds of e to 1 in a soft label; 0 gives the better one a whole
    vote."""
    heldout: float = 0.25
    """Share of a round's pairs that is not trained on: half of them help to choose the reward model's checkpoint, and
    its accuracy before and after is measured on the others."""
    old_pairs: int = 2000
    """Comparisons of `reward.data` that every retraining sees beside the new ones; where its rows are rated responses,
    so many pairs of them are drawn."""
    old_heldout: int = 500
    """Held-out comparisons of `reward.data` in the retraining's validation rows, and as many in its test rows."""
    window: int = 0
    """How many of the latest rounds' pairs a retraining sees; 0 sees all."""
    retrain: Literal["anew", "continue"] = "anew"
    """Whether the reward model starts from the reference's trunk (or that of `reward_init`) in every round, or goes on
    from that of the round before, which an ensemble cannot."""
    reward_init: str = ""
    """`anew`: what reward models start from, where it is not the reference: a run folder of the same tokenizer."""
    method: Literal["ppo", "preference"] = "ppo"
    """What trains the policy on, from where it is: PPO against the new reward model, or preference optimisation (DPO)
    on the union of comparisons."""
    judge: tuple[str, ...] = ()
    """What measures the policies and trains none, as in `ppo`: `NAME=FILE.py:function` or `NAME=RUN`."""
    reward: RewardConfig = RewardConfig()
    ppo: PPOConfig = PPOConfig()
    preference: PreferenceConfig = PreferenceConfig()

    def __post_init__(self) -> None:
        object.__setattr__(self, "judge", named_judges(self.judge))
        check_fields(self)
        check_named(self, "out", "a folder, runs/rounds say")
        check_named(self, "policy", "a run folder or a checkpoint")
        check_seed("seed", self.seed)
        check_positive(self, "rounds", "prompts", "samples")
        check_at_least(self, 0, "earlier", "old_pairs", "old_heldout", "window", "gold_scale")
        self._check_label()
        self._check_candidates()
        if self.reference and self.stage.lora.rank:
            raise ValueError(
                f"reference {self.reference}: with {self.method}.lora.rank the reference is the policy of the round "
                "before; leave it out"
            )
        if self.retrain == "continue" and self.reward.members > 1:
            raise ValueError("retrain continue: an ensemble cannot go on from an ensemble; use retrain anew")
        if self.retrain == "continue" and self.reward_init:
            raise ValueError("reward_init is read where retrain is anew; leave it out")
        if not self.reward_model and (self.choose.disputed or self.choose.hard or self.retrain == "continue"):
            raise ValueError(
                "reward_model is empty, so nothing disputes the pairs of round 1, or could be gone on from: name a run "
                "folder, or use choose.disputed 0, choose.hard 0 and retrain anew"
            )

    def _check_label(self) -> None:
        if self.label not in _LABELS and not self.label.startswith("judge:"):
            raise ValueError(f"label must be {', '.join(_LABELS)} or judge:SPEC, found {self.label!r}")
        if self.label == "votes" and self.candidates != "data":
            raise ValueError("label votes: nobody has voted among samples yet; use candidates data, or another label")
        if self.gold_scale and self.label != "gold":
            raise ValueError(f"gold_scale {self.gold_scale} is read where label is gold; leave it out")
        if not 0 <= self.heldout < 1:
            raise ValueError(f"heldout must be at least 0 and below 1, found {self.heldout}")

    def _check_candidates(self) -> None:
        if not self.temperatures or min(self.temperatures) < 0:
            raise ValueError(f"temperatures must be numbers of 0 or more, at least one, found {self.temperatures}")
        if len(set(self.temperatures)) < len(self.temperatures):
            raise ValueError(f"temperatures must differ, found {self.temperatures}")
        alone = self.samples * len(self.temperatures) == 1 and not self.earlier
        if self.candidates == "samples" and alone:
            raise ValueError("one response to a prompt makes no pair: take more samples, temperatures or earlier ones")

    @property
    def asked(self) -> Any:
        """The ``DataConfig`` of the prompts that are answered."""
        if self.method == "ppo":
            return self.ppo.data
        return self.preference.prompts if self.preference.prompts.source else self.reward.data

    @property
    def stage(self) -> PPOConfig | PreferenceConfig:
        """The config of the stage that trains the policy."""
        return self.ppo if self.method == "ppo" else self.preference
