"""Names of the version before go on working, say the new one, and are the same thing."""

import importlib
import warnings

import pytest

from rlhf_jax import data, evaluation, models, objectives, stages, testing, training
from rlhf_jax.data import batches
from rlhf_jax.stages import online, sampler
from rlhf_jax.stages.online import loop

RENAMED = [
    (training, "Term", training.AuxiliaryLoss),
    (models, "stack", models.concatenate_adapters),
    (stages, "Trunk", stages.LoadedModel),
    (stages, "Prompt", stages.EncodedPrompt),
    (sampler, "Prompt", stages.EncodedPrompt),
    (batches, "in_parts", batches.micro_batched),
    (online, "Prompt", stages.EncodedPrompt),
    (online, "batch_of_prompts", loop.batch_of_prompts),
    (stages, "run", "rlhf_jax.runs.folder"),
    (stages, "loading", "rlhf_jax.runs.loading"),
    (evaluation, "yardsticks", "rlhf_jax.evaluation.baselines"),
    (data, "jsonl", "rlhf_jax.data.readers.jsonl"),
    (data, "tfds", "rlhf_jax.data.readers.tfds"),
]


@pytest.mark.parametrize(("module", "name", "now"), RENAMED, ids=lambda x: x if isinstance(x, str) else None)
def test_an_old_name_warns_and_is_the_new_thing(module, name, now):
    with pytest.warns(DeprecationWarning, match=f"{name} is called rlhf_jax"):
        found = getattr(module, name)
    assert found is (importlib.import_module(now) if isinstance(now, str) else now)


def test_what_never_was_is_an_attribute_error():
    for module in (training, models, stages, sampler, evaluation, data):
        with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
            module.nonsense  # noqa: B018


def test_lift_makes_the_same_loss_function_and_warns():
    from rlhf_jax.stages.lift import lift

    assert stages.lift is lift
    roles, params = testing.tiny_models()
    batch = testing.tiny_batch()
    roles, params = {"policy": roles["policy"]}, {"policy": params["policy"]}
    with pytest.warns(DeprecationWarning, match="make_loss_fn"):
        old = lift(objectives.sft, roles)
    assert old(params, batch, None)[0] == stages.make_loss_fn(objectives.sft, roles)(params, batch, None)[0]


def test_new_names_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for module in (data, evaluation, models, stages, training):
            for name in module.__all__:
                getattr(module, name)
