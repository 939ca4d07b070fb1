"""Configs that stages share, frozen and keyword-only; the command line overrides any field by its path."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Sequence
from typing import Any, Literal

from rlhf_jax.data.config import DataConfig
from rlhf_jax.fields import check_at_least, check_fields, check_seed
from rlhf_jax.models import LoRAConfig
from rlhf_jax.models.config import AskedRemat
from rlhf_jax.parallel import MeshConfig
from rlhf_jax.runs.made_of import ACCEPTABLE


def check_named(config: Any, name: str, what: str) -> None:
    """Raise a ValueError when a field that names a folder is empty: it would mean the working folder."""
    if not vars(config)[name].strip():
        raise ValueError(f"{name} must name {what}, found nothing")


def check_positive(config: Any, *names: str) -> None:
    """Raise a ValueError that names the first of these fields that is below 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name} must be at least 1, found {getattr(config, name)}")


def check_kind(config: Any, kind: type, stage: str) -> None:
    """Raise a ValueError when a stage is given another stage's config, which would run as something else."""
    if not isinstance(config, kind):
        raise ValueError(f"stages.{stage} takes {kind.__name__}(...), found {config!r:.60} ({type(config).__name__})")


def check_multiple(config: Any, name: str, divisor: str) -> None:
    """Raise a ValueError when one field does not divide the other."""
    if getattr(config, name) % getattr(config, divisor):
        raise ValueError(
            f"{name} ({getattr(config, name)}) must be a multiple of {divisor} ({getattr(config, divisor)})"
        )


def check_reference(config: Any) -> None:
    """Raise a ValueError when a reference of its own is asked for beside adapters, which have one in their trunk."""
    if config.reference and config.lora.rank:
        raise ValueError(
            f"reference {config.reference}: with lora.rank the reference is the policy's own trunk with its adapter "
            "off; leave reference out, or train all weights"
        )


def is_one_of(objective: str, *names: str) -> bool:
    """Whether a config's objective, a name or what describes a function that was passed, is one of these.

    Example:
        >>> is_one_of("rlhf_jax.objectives.a2c.a2c(value_coef=0.5)", "a2c"), is_one_of("ppo", "a2c", "reinforce")
        (True, False)
    """
    return objective.split("(")[0].rsplit(".")[-1] in names


def named_judges(judges: str | Sequence[str]) -> tuple[str, ...]:
    """Write judges in one form, ``NAME=WHAT``; a single text is one judge, and a judge without a name is ``gold``.

    Args:
        judges: ``WHAT`` or ``NAME=WHAT`` each, where ``WHAT`` is FILE.py:function or a run folder.

    Raises:
        ValueError: when two judges have one name.

    Example:
        >>> named_judges("runs/other"), named_judges(["mine.py:short", "fair=mine.py:fair"])
        (('gold=runs/other',), ('gold=mine.py:short', 'fair=mine.py:fair'))
    """
    one_form = [judges] if isinstance(judges, str) else judges
    if not isinstance(one_form, Sequence) or not all(isinstance(judge, str) for judge in one_form):
        raise ValueError(f"judge must be texts, NAME=FILE.py:function or NAME=RUN, found {judges!r:.60}")
    whole = tuple(judge if _NAMED.match(judge) else f"gold={judge}" for judge in one_form if judge)
    names = [judge.partition("=")[0] for judge in whole]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"judge: two of them are called {name}: give each a name of its own, --judge NAME=WHAT")
    return whole


def judges_by_name(judges: str | Sequence[str]) -> dict[str, str]:
    """Take what each of a config's judges is by its name; as for ``named_judges``.

    Example:
        >>> judges_by_name(["mine.py:short", "fair=runs/other"])
        {'gold': 'mine.py:short', 'fair': 'runs/other'}
    """
    return dict(judge.partition("=")[::2] for judge in named_judges(judges))


_NAMED = re.compile(r"[^=/\\:.]+=")  # no path begins so

Offload = Literal["none", "frozen"]
"""Which models wait in the host's memory while they are not used."""


def parks_policy(offload: Offload, lora: LoRAConfig) -> bool:
    """Whether the reference waits in the host's memory; under adapters it is the trunk that the policy stands on."""
    if offload == "frozen" and lora.rank:
        warnings.warn(
            "offload frozen: with lora.rank the reference is the policy's own trunk with its adapter off, so it stays "
            "on the device; of the frozen models only a reward model that was trained whole is parked",
            stacklevel=2,
        )
    return offload == "frozen" and not lora.rank


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageConfig:
    """Fields that the config of every stage has."""

    out: str
    """The run folder, or its URL in an object store, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER. The same command with
    the same folder continues where it stopped."""
    seed: int = 0
    """Everything random comes from it."""
    mesh: MeshConfig = MeshConfig()
    """Devices, `--mesh data=2,fsdp=2,tensor=2` or an axis at a time; all of them share the batch by default."""
    checkpoint_every: int = 50
    """Steps between two checkpoints to continue from."""
    keep_checkpoints: int = 2
    """How many of them stay on disk."""
    objective: str
    """What is minimised: a name in rlhf_jax.objectives, or FILE.py:function for one of your own."""
    hyperparameters: dict[str, float] = dataclasses.field(default_factory=dict)
    """Keyword arguments of the objective, `--hyperparameters beta 0.05`: names as in its docstring, numbers as values
    (a switch is 1 or 0)."""
    check: bool = True
    """Look at an objective of your own before training, in the short form of `testing.check_objective`: whether it
    depends on padding, on what is masked or on how a batch is cut, and the like. `--no-check` skips that."""
    tracker: str = ""
    """Where rows of metrics go beside `metrics.jsonl`: wandb, mlflow (each an extra), or FILE.py:function, which is
    called with every row, `{"stage": "sft", "step": 3, "sft/loss": 2.5, ...}`."""
    lora: LoRAConfig = LoRAConfig()
    """Adapters to train in place of all weights, `--lora.rank 16`. Those of the stage before are folded into the
    trunk, and a policy's reference is the policy with its adapter off."""
    remat: AskedRemat = "model"
    """What the backward pass computes again: nothing, all but matrix products (`dots`), or whole blocks (`block`), each
    slower than the one before and with less memory; `model` as the model's own config says."""
    max_skipped: int = 20
    """Updates in a row that may be skipped because they are not finite, before the run writes its state to
    `dumps/STAGE` and gives up."""
    watchdog_seconds: float = 1800.0
    """Report a run whose step and phase have not changed for so long, with the stacks of its threads; 0 never does.
    The first step may have to compile."""
    watchdog_exit: bool = False
    """End such a process with exit status 75 after the report, so that whatever started it can start it again."""

    accept_changed: tuple[str, ...] = ()
    """What may be other than it was when the run was begun: `data`, `prompts`, `ptx`, `objective`, `reward`, `judge`,
    `tasks`, `optimizer`. The rest of the run is then made of what is there now, as after a fault in a reward was
    mended."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_named(self, "out", "a folder, runs/mine say")
        check_seed("seed", self.seed)
        unknown = [name for name in self.accept_changed if name not in ACCEPTABLE]
        if unknown:
            raise ValueError(f"accept_changed takes {', '.join(ACCEPTABLE)}; found {unknown[0]!r}")
        check_positive(self, "checkpoint_every", "keep_checkpoints", "max_skipped")
        if not self.watchdog_seconds >= 0:
            raise ValueError(f"watchdog_seconds must be 0 (off) or more, found {self.watchdog_seconds}")
        if self.watchdog_exit and not self.watchdog_seconds:
            raise ValueError("watchdog_exit needs watchdog_seconds above 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedConfig(StageConfig):
    """Fields of the stages that train on packed rows of a data set."""

    data: DataConfig = DataConfig()
    epochs: int = 3
    """Passes over the training rows."""
    rows: int = 16
    """Packed rows of a batch; one batch makes one update of the weights."""
    micro_batches: int = 1
    """Parts that a batch is cut into, whose gradients are added up: the same update in the memory of one part. The
    rows of a part are a multiple of the devices that share them."""
    row_length: int = 128
    """Tokens of a packed row."""
    eval_every: int = 200
    """Steps between two evaluations on what is held out."""
    patience: int = 5
    """Evaluations without improvement before training stops early; 0 never stops."""
    keep: Literal["best", "last"] = "best"
    """The parameters that the stage leaves: those with the best held-out loss, or those of the last step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "epochs", "rows", "micro_batches", "row_length", "eval_every")
        check_at_least(self, 0, "patience")
        check_multiple(self, "rows", "micro_batches")
        if self.row_length < self.data.max_length:
            raise ValueError(f"row_length {self.row_length} has no room for data.max_length {self.data.max_length}")

    def packing(self, pad_id: int) -> dict[str, int]:
        """Arguments of ``PackedEpochs`` for what one forward pass sees, which is a part of a batch."""
        return {"rows": self.rows // self.micro_batches, "row_length": self.row_length, "pad_id": pad_id}
