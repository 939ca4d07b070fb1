"""Where a stage's model comes from: a checkpoint, an earlier stage, a frozen trunk that several models share.

A stage with adapters keeps only the adapters in its run folder, and notes the model that they were trained on. That is
their *base*: a checkpoint, or an earlier stage whose own adapters are folded in first. The reference of a policy is
therefore the policy with its adapter off, and a policy, its critic and its reward model that have the same base hold
the very same arrays.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rlhf_jax import checkpoint, models, parallel
from rlhf_jax.data import Tokenizer
from rlhf_jax.files import MachineFault
from rlhf_jax.models import LoRAConfig, ModelConfig
from rlhf_jax.models.attention import check_kernel
from rlhf_jax.models.config import AskedRemat
from rlhf_jax.models.weights import read_object
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.identity import check_identity
from rlhf_jax.runs.pretrained import (
    checkpoint_fingerprint,
    checkpoint_tokenizer,
    is_checkpoint,
    must_write_text,
    read_checkpoint,
    warn_of_unknown_tokens,
    with_tokens,
)
from rlhf_jax.runs.resultless import is_begun, warn_of_failure
from rlhf_jax.runs.stage_path import StagePath, policy_path, split_stage
from rlhf_jax.runs.store import local
from rlhf_jax.stage_names import MODEL_STAGES
from rlhf_jax.types import Params

# What stands beside the weights and has a say in what is trained.
_BESIDE = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


class Base(NamedTuple):
    """The frozen model that a stage's adapters were trained on: a checkpoint, or a stage of a run folder."""

    path: str  # absolute
    stage: str  # empty: a checkpoint
    fingerprint: str  # a hash of the checkpoint's files, or of the stage's parameters
    int8: bool  # the trunk's matrices are held in 8 bits

    def to_json(self, directory: Path) -> dict[str, Any]:
        """Make the entry in the metadata of a stage in ``directory``; a base in the same folder may move with it."""
        return self._asdict() | ({"path": "."} if Path(self.path) == directory.resolve() else {})

    @classmethod
    def from_json(cls, fields: dict[str, Any], directory: Path) -> Base:
        """Read what ``to_json`` wrote: ``.``, or the absolute path of a model that is read and never written to.

        Raises:
            RunError: when it is something else.
        """
        path, stage, fingerprint = (fields.get(name) for name in ("path", "stage", "fingerprint"))
        known = isinstance(stage, str) and stage in ("", *MODEL_STAGES) and isinstance(fingerprint, str)
        if not known or not isinstance(path, str) or not (path == "." or Path(path).is_absolute()):
            raise RunError(f"{directory}: its adapters stand on {fields!r:.200}, which names no model; copy it anew")
        return cls(str((directory / path).resolve()), str(stage), str(fingerprint), bool(fields.get("int8")))


class Start(NamedTuple):
    """The model that a stage begins with."""

    config: ModelConfig
    params: Params  # one model, with adapters where the stage trains adapters
    tokenizer: Tokenizer
    base: Base | None  # None where all weights are the stage's own
    head: Params | None = None  # the scalar head of a reward model; None where a language model is started from

    @property
    def sha256(self) -> str:
        """Hash of what the stage starts from; a frozen trunk is known by its base."""
        own = {**models.split(self.params)[0], **({} if self.head is None else {"head": self.head})}
        return checkpoint.tree_sha256(own) + (self.base.fingerprint if self.base else "")


def start_from(
    init: str,
    lora: LoRAConfig,
    *,
    mesh: Mesh,
    seed: int,
    layers: int = 0,
    remat: AskedRemat = "model",
    scores: bool = False,
) -> Start:
    """Load the model that a stage trains, from a run folder or a pretrained checkpoint.

    Args:
        init: a run folder, whose SFT policy is meant, or ``RUN:STAGE`` for the policy of another stage; a Hugging Face
            folder, a .gguf file, or a folder of PEFT's adapter.
        lora: fresh adapters on a frozen trunk where its rank is not 0; all weights are trained otherwise.
        mesh: where the weights go.
        seed: draws the adapters.
        layers: how many of the model's blocks are used, from the first; 0 uses all.
        remat: what the backward pass computes again (``ModelConfig.remat``); ``model`` as the model's config says.
        scores: a reward model is trained, which may go on from another one and its head: from ``RUN:reward``, or from
            a checkpoint that is a sequence classifier. Elsewhere these are refused.

    Returns:
        The model; adapters of the earlier stage are folded into its matrices.

    Raises:
        RunError: when there is neither a finished policy stage nor a checkpoint, the model is of the wrong kind,
            ``layers`` are more than there are, or ``lora.targets`` match no matrix.
    """
    if Path(init).is_file() and not init.lower().endswith(".gguf"):
        raise RunError(f"{init}: is a file; name a run folder, a checkpoint's folder, or a .gguf file")
    at = policy_path(init, or_reward=scores)
    if not at.stage and not scores:
        must_write_text(at.path, "train a policy from")
    base = _base(at, lora.int8_trunk and lora.rank > 0)
    if at.stage:
        warn_of_failure(at.path, at.stage)
    tokenizer = _tokenizer(base)
    config, params, head = _shared_trunk(base, mesh) if lora.rank else _read_trunk(base, mesh)
    if layers and layers < config.n_layers:
        head = None  # it reads what the last block says
    warn_of_unknown_tokens(Path(base.path), config, tokenizer)
    config = with_remat(with_tokens(config, tokenizer), remat)
    try:
        config = models.first_layers(config, layers or config.n_layers)
        if lora.rank:
            return Start(*models.add_adapters(config, params, lora, jax.random.key(seed)), tokenizer, base, head)
    except ValueError as error:  # targets that match nothing, more layers than there are
        raise RunError(f"{init}: {error}") from error
    # Trained weights are float32, whatever the checkpoint's type is: small updates vanish in 16 bits.
    params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    if layers:
        params = {**params, "blocks": jax.tree.map(lambda x: x[:layers], params["blocks"])}
    return Start(config, params, tokenizer, None, head)


def with_remat(config: ModelConfig, asked: AskedRemat) -> ModelConfig:
    """Let a stage say what the backward pass computes again; ``model`` leaves it to the model's own config.

    Example:
        >>> with_remat(ModelConfig(remat="dots"), "block").remat, with_remat(ModelConfig(remat="dots"), "model").remat
        ('block', 'dots')
    """
    return config if asked == "model" else dataclasses.replace(config, remat=asked)


def check_length(config: ModelConfig, tokens: int, what: str) -> None:
    """Raise a RunError when sequences may become longer than the model can read."""
    if 0 < config.max_length < tokens:
        raise RunError(f"{what} allows sequences of {tokens} tokens, and the model reads {config.max_length}: lower it")


def check_attention(config: ModelConfig, mesh: Mesh) -> None:
    """Raise a RunError when attention is to be computed by a kernel that these devices have not."""
    try:
        check_kernel(config, mesh.devices.flat[0].platform)
    except ValueError as error:
        raise RunError(f"model.{error}") from error


def _for_this_device(config: ModelConfig) -> ModelConfig:
    """Leave the choice of a kernel open where the one that a run asked for is not there."""
    try:
        check_kernel(config, jax.default_backend())
    except ValueError:
        return dataclasses.replace(config, attention="auto")
    return config


def load_stage(directory: Path | str, stage: str, mesh: Mesh | None = None) -> tuple[Params, ModelConfig, Tokenizer]:
    """Load parameters by role, model config and tokenizer of a finished stage.

    Adapters are returned on the trunk that they stand on; those of a critic are returned without it.

    Raises:
        RunError: when the folder, the stage, the tokenizer or the trunk is missing; the message lists what is there.
    """
    directory = local(directory)
    _check_finished(directory, stage)
    on_mesh = None if mesh is None else functools.partial(_placed_by_role, mesh=mesh)
    check_identity(directory, stage, checkpoint.load_metadata(directory / "params" / stage))
    params, metadata = checkpoint.load_params(directory / "params" / stage, on_mesh)
    tokenizer = Tokenizer.load(directory / "tokenizer.json")
    base = _noted(metadata, directory)
    if base is not None:
        try:
            now = _fingerprint(base)
        except MachineFault:
            raise
        except (models.CheckpointError, checkpoint.CheckpointError) as error:
            raise RunError(
                f"the {stage} stage of {directory} holds adapters for {base.path}, which is gone or damaged ({error}): "
                "bring it back to where it was"
            ) from error
        if now != base.fingerprint:
            raise RunError(
                f"the {stage} stage of {directory} holds adapters for {base.path}, which has changed since: "
                "restore it, or run the stage again"
            )
        trunk = _shared_trunk(base, mesh)[1]
        params = {role: x if role == "critic" else models.join(x, trunk) for role, x in params.items()}
    config = with_tokens(_described(metadata, directory, stage), tokenizer)
    return params, _for_this_device(config), tokenizer


def _described(metadata: dict[str, Any], directory: Path, stage: str) -> ModelConfig:
    try:
        return ModelConfig.from_json(metadata["model"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # whatever stands in place of a field
        raise RunError(
            f"{directory / 'params' / stage} describes no model ({error}); it is of another version, or damaged"
        ) from error


def open_stage(directory: Path | str, stage: str) -> tuple[Params, ModelConfig, Tokenizer]:
    """Open the parameters of a finished stage without reading them into memory; adapters and their trunk are loaded.

    Args:
        directory: the run folder.
        stage: the stage's name.

    Returns:
        Parameters by role, where all weights are the stage's own as ``checkpoint.StoredLeaf``; model config, tokenizer.

    Raises:
        RunError: when the folder, the stage or the tokenizer is missing.
    """
    directory = local(directory)
    _check_finished(directory, stage)
    if base_of(directory, stage) is not None:
        return load_stage(directory, stage)
    params, metadata = checkpoint.stored_params(directory / "params" / stage)
    check_identity(directory, stage, metadata)
    tokenizer = Tokenizer.load(directory / "tokenizer.json")
    return params, _for_this_device(ModelConfig.from_json(metadata["model"])), tokenizer


def model_digest(path: str, stage: str = "") -> str:
    """Hash a model that others are built on, with its tokenizer and its generation config, without reading it all.

    Args:
        path: as for ``start_from``, or a checkpoint that is a sequence classifier.
        stage: the stage that is meant where the path names a run folder alone; by default "sft".
    """
    at = policy_path(path, default=stage or "sft", or_reward=True)
    if at.stage:
        _check_finished(at.path, at.stage)
    digest = hashlib.sha256(_fingerprint(Base(str(at.path), at.stage, "", int8=False)).encode())
    for file in (at.path / name for name in _BESIDE):
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()


def base_of(directory: Path | str, stage: str) -> Base | None:
    """Read which base the adapters of a finished stage stand on; None where it trained all weights."""
    return _noted(checkpoint.load_metadata(Path(directory) / "params" / stage), Path(directory))


def origin(directory: Path | str, stage: str) -> Path | None:
    """Find the pretrained checkpoint that a stage goes back to; None where there is none, or it is gone."""
    at, seen = StagePath(Path(directory), stage), set[StagePath]()
    while at not in seen:
        seen.add(at)
        file = at.path / "config.json"
        fields = read_object(file).get(at.stage) if file.exists() else None
        start = (fields.get("init") or fields.get("policy")) if isinstance(fields, dict) else None
        if not start or not isinstance(start, str) or not split_stage(start)[0].exists():
            return None
        at = policy_path(start, or_reward=True)
        if not at.stage:
            return at.path
    return None


def first_finished(directory: Path | str, stages: Sequence[str]) -> str:
    """Find the first of these stages that a run folder holds; ``sft`` where it holds none, for the error to name.

    Where one before it was begun and is not finished, a warning says whose model is taken in its place.
    """
    run, named = split_stage(directory)
    directory = local(run)
    found = next((stage for stage in stages if (directory / "params" / stage).exists()), "")
    before = stages[: stages.index(found)] if found and named is None else ()
    if unfinished := next((stage for stage in before if is_begun(directory, stage)), ""):
        warnings.warn(
            f"the {unfinished} stage of {directory} is not finished, so the model of its {found} stage is taken: the "
            f"command that began {unfinished} goes on with it",
            stacklevel=3,
        )
    return found or "sft"


def load_merged(directory: Path | str, stage: str, mesh: Mesh | None = None) -> tuple[ModelConfig, Params, Tokenizer]:
    """Load the model of a finished stage with its adapters folded in, to be exported or built upon."""
    params, config, tokenizer = load_stage(directory, stage, mesh)
    return *models.merge(config, params["reward" if stage == "reward" else "policy"]), tokenizer


def place(params: Params, mesh: Mesh, *, parked: bool = False) -> Params:
    """Place a model's parameters on a mesh; an ensemble's stacked axis stays whole, and a shared trunk stays shared.

    With ``parked`` they wait in the host's memory until ``parallel.bring``; not so a trunk under adapters, on which the
    policy may stand as well.
    """
    (trained, frozen), (own, trunk) = models.split(params), _places(params, mesh)
    return models.join(parallel.put(trained, parallel.parked(own) if parked else own), parallel.put(frozen, trunk))


def _places(params: Params, mesh: Mesh) -> tuple[Any, Any]:
    """Find where a model's parameters go, or their shapes: what is trained, and the trunk under it."""
    leading = 1 if "head" in params and models.members(params) else 0
    trained, frozen = models.split(params)
    return parallel.param_shardings(trained, mesh, leading=leading), parallel.param_shardings(frozen, mesh)


def _placed_by_role(shapes: Params, mesh: Mesh) -> Params:
    """Find where what a stage has left goes, so that every process reads its own part of it."""
    return {role: models.join(*_places(x, mesh)) for role, x in shapes.items()}


def _check_finished(directory: Path, stage: str) -> None:
    parent = directory / "params"
    if stage in MODEL_STAGES and (parent / stage).exists():
        return
    there = sorted(p.name for p in parent.iterdir()) if parent.is_dir() else []
    if is_begun(directory, stage):
        found = "it was begun and is not finished: the command that began it goes on with it"
    elif there:
        found = f"it holds {', '.join(there)}"
    elif not directory.exists():
        where = "" if directory.is_absolute() else f" in {Path.cwd()}"
        found = f"there is no such folder{where}; a model on a hub has to be downloaded into one first"
    elif is_checkpoint(directory):
        found = "it is a pretrained checkpoint, no run folder"
    else:
        found = "it holds no finished stage, and is no checkpoint"
    raise RunError(f"no finished {stage} stage in {directory}: {found}")


def _noted(metadata: dict[str, Any], directory: Path) -> Base | None:
    return Base.from_json(metadata["base"], directory) if "base" in metadata else None


def _base(at: StagePath, int8: bool) -> Base:
    if at.stage:
        _check_finished(at.path, at.stage)
    base = Base(str(at.path.resolve()), at.stage, "", int8)
    return base._replace(fingerprint=_fingerprint(base))


def _fingerprint(base: Base) -> str:
    if not base.stage:
        return checkpoint_fingerprint(Path(base.path))
    return checkpoint.params_digest(Path(base.path) / "params" / base.stage)


def _tokenizer(base: Base) -> Tokenizer:
    path = Path(base.path)
    return Tokenizer.load(path / "tokenizer.json") if base.stage else checkpoint_tokenizer(path)


@functools.lru_cache(maxsize=1)
def _shared_trunk(base: Base, mesh: Mesh | None) -> tuple[ModelConfig, Params, Params | None]:
    """Load the trunk that adapters stand on; the last one is kept, so that all who ask for it hold the same arrays."""
    return _read_trunk(base, mesh)


def _read_trunk(base: Base, mesh: Mesh | None) -> tuple[ModelConfig, Params, Params | None]:
    """Load a base as one plain model without adapters, on the mesh, and its scalar head apart, if it has one."""
    if base.stage:
        config, params, _ = load_merged(base.path, base.stage, mesh)
    else:
        shardings = None if mesh is None else functools.partial(parallel.param_shardings, mesh=mesh)
        config, params = read_checkpoint(Path(base.path), shardings)
    if models.members(params) if "head" in params else 0:
        raise RunError(f"{base.path} holds an ensemble of reward models: start from a single one, or from their policy")
    head = params.get("head")
    params = {name: x for name, x in params.items() if name != "head"}
    config = dataclasses.replace(config, scalar_head=False)
    if base.int8:
        config, params = models.quantise(config, params)
    return config, params if mesh is None else place(params, mesh), head
