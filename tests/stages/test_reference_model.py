"""A reference that is not where the policy starts: what fits, and what a run remembers of it."""

import numpy as np
import pytest

from rlhf_jax import parallel
from rlhf_jax.data import train_tokenizer
from rlhf_jax.models import LoRAConfig, ModelConfig
from rlhf_jax.runs.errors import RunError
from rlhf_jax.runs.fingerprint import fingerprint
from rlhf_jax.runs.loading import Start
from rlhf_jax.stages import GroupConfig, PPOConfig, PreferenceConfig, reference


@pytest.mark.parametrize("kind", [PPOConfig, GroupConfig, PreferenceConfig])
def test_adapters_have_their_reference_in_their_trunk(kind):
    with pytest.raises(
        ValueError, match=r"reference runs/sft: with lora\.rank the reference is the policy's own trunk"
    ):
        kind(reference="runs/sft", lora=LoRAConfig(rank=2))


def test_a_run_knows_whether_it_has_a_reference_of_its_own_and_not_where_it_lies():
    without, one, other = (fingerprint(PPOConfig(reference=path)) for path in ("", "runs/a", "runs/b"))
    assert one == other != without


def test_a_reference_has_the_policys_shape_and_tokenizer(monkeypatch):
    mesh, tokenizer = parallel.make_mesh(parallel.MeshConfig()), train_tokenizer(["a text"], 300)
    held = Start(ModelConfig(), {"embed": np.ones((4, 2), np.float32)}, tokenizer, None)
    monkeypatch.setattr(reference, "start_from", lambda *_, **__: held)
    assert reference.start_of_reference("", held, mesh=mesh, parked=False) is None
    smaller = held._replace(params={"embed": np.ones((4, 1), np.float32)})
    with pytest.raises(RunError, match="expected a model of the policy's shape and tokenizer"):
        reference.start_of_reference("runs/sft", smaller, mesh=mesh, parked=False)
