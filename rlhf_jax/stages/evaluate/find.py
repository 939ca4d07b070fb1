"""What ``RUN`` names when it is evaluated: a judge, a reward model, or a policy with its implicit reward."""

from __future__ import annotations

from pathlib import Path

from rlhf_jax.rewards import EnsembleConfig, TextReward
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.pretrained import is_checkpoint, scores_text
from rlhf_jax.runs.scorer import Scorer
from rlhf_jax.runs.stage_path import split_stage
from rlhf_jax.runs.store import local
from rlhf_jax.runs.user_code import called, load_function
from rlhf_jax.stage_names import MODEL_STAGES
from rlhf_jax.stages.evaluate.preference_run import load_implicit
from rlhf_jax.stages.evaluate.scorers import JudgeScores, ResponseScorer, RewardModelScores

_KINDS = (
    "a run folder with a reward model (RUN or RUN:reward), a run folder of preference optimisation (RUN:preference), a "
    "sequence classifier with one label, or FILE.py:function"
)


def find_scorer(
    run: str | Path | TextReward, *, ensemble: EnsembleConfig | None = None, templated: bool = False
) -> ResponseScorer:
    """Find what scores responses.

    ``FILE.py:function`` is a judge. In a run folder the reward model is meant, and where there is none the policy of
    preference optimisation, by its implicit reward; ``RUN:reward`` and ``RUN:preference`` say which.

    Args:
        run: a name as above, the folder of a sequence classifier, or a function of (prompts, responses).
        ensemble: how the members of an ensemble are combined; by their mean by default.
        templated: the texts hold the chat template already applied.

    Raises:
        RunError: when there is nothing that scores responses; it says what is there.
    """
    if not isinstance(run, str | Path):
        return JudgeScores(run, f"the judge {called(run)}")
    name = str(run)
    if ".py:" in name:
        return JudgeScores(load_function(name, f"judge {name}"), f"the judge {name}")
    if name.endswith(".py"):
        raise RunError(f"{name}: name the function in it too, FILE.py:function")
    folder, stage = split_stage(name)
    path = local(folder)
    if stage is None and is_checkpoint(path):
        if not scores_text(path):
            raise RunError(f"{name} is a language model, which has no score: expected {_KINDS}")
        return _reward_model(folder, f"the sequence classifier {name}", ensemble, templated)
    there = [x for x in MODEL_STAGES if (path / "params" / x).is_dir()]
    wanted = stage or next((x for x in ("reward", "preference") if x in there), "")
    if wanted == "reward":
        return _reward_model(folder, f"the reward model of {folder}", ensemble, templated)
    if wanted == "preference":
        return load_implicit(folder, templated=templated)
    found = f"it holds {', '.join(there)}" if there else "it holds no finished stage"
    if not path.exists():
        found = "there is no such folder"
    raise RunError(f"{name} scores no responses, {found}: expected {_KINDS}; --judge or --reward compares policies")


def _reward_model(folder: Path, what: str, ensemble: EnsembleConfig | None, templated: bool) -> RewardModelScores:
    scorer = Scorer.load(folder, ensemble)
    if templated:
        scorer = scorer.templated()
    return RewardModelScores(scorer, what, templated)
