"""A critic that is a head on the policy: its values, its share of the gradient, and one forward pass for both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from rlhf_jax import testing
from rlhf_jax.data.packing import Example, pack, pad
from rlhf_jax.models import ValueHead
from rlhf_jax.stages import forward

RNG = np.random.default_rng(5)
S = 9
LENGTHS = ((9, 4), (6, 8))
TOKENS = [[RNG.integers(3, testing.VOCAB, size=n).astype(np.int32) for n in group] for group in LENGTHS]
EXAMPLES = [Example(tuple(group), (1, 1)) for group in TOKENS]
LAYOUTS = {
    "padded": lambda: pad(EXAMPLES, length=S, pad_id=0),
    "packed": lambda: pack(EXAMPLES, rows=2, row_length=16, groups=2, responses=2, length=S, pad_id=0),
}


@pytest.fixture(scope="module")
def policy():
    roles, params = testing.tiny_models()
    return roles["policy"], params["policy"]


@pytest.fixture(scope="module")
def critic(policy):
    return {"head": {"kernel": jax.random.normal(jax.random.key(3), (policy[1]["embedding"].shape[1], 1))}}


def run(policy, critic, batch, gradient=1.0):
    roles = {"policy": policy[0], "critic": ValueHead(gradient)}
    return forward(roles, {"policy": policy[1], "critic": critic}, batch)


def values_by_hand(policy, critic):
    """The values of the padded rows, by the model and a product: entry t is of the state after token t."""
    batch = LAYOUTS["padded"]()
    tokens, positions, segments = (x.reshape(-1, S) for x in (batch.tokens, batch.positions, batch.segment_ids))
    return (policy[0].apply(policy[1], tokens, positions, segments) @ critic["head"]["kernel"])[..., 0]


def test_a_value_is_the_hidden_state_before_the_token_times_the_head(policy, critic):
    model, params = policy
    batches = {layout: make() for layout, make in LAYOUTS.items()}

    @jax.jit
    def everything(params, critic):
        found = {layout: run((model, params), critic, batch) for layout, batch in batches.items()}
        alone = forward({"policy": model}, {"policy": params}, batches["padded"])
        return found, alone, values_by_hand((model, params), critic)

    found, alone, after = everything(params, critic)
    want = np.pad(np.asarray(after)[:, :-1], ((0, 0), (1, 0))).reshape(2, 2, S)
    for layout, out in found.items():
        real = np.asarray(batches[layout].segment_ids) > 0
        assert real.sum() == sum(n for group in LENGTHS for n in group)
        np.testing.assert_allclose(out.values[real], want[real], atol=3e-5, err_msg=layout)
        assert not np.asarray(out.values)[~real].any()
    np.testing.assert_array_equal(found["padded"].logprobs, alone.logprobs)
    np.testing.assert_array_equal(found["padded"].entropy, alone.entropy)


def test_the_policy_gets_its_share_of_the_gradient_and_the_head_all_of_it(policy, critic):
    batch, shares = LAYOUTS["padded"](), (0.0, 0.5, 1.0)

    def value_loss(params, gradient):
        values = run((policy[0], params[0]), params[1], batch, gradient).values
        return jnp.sum(jnp.where(batch.mask, jnp.square(values - 1), 0)), values

    def by_hand(params):
        values = values_by_hand((policy[0], params[0]), params[1])[:, :-1]
        return jnp.sum(jnp.where(batch.mask.reshape(-1, S)[:, 1:], jnp.square(values - 1), 0))

    @jax.jit
    def gradients(params):
        return [jax.grad(value_loss, has_aux=True)(params, share) for share in shares], jax.grad(by_hand)(params)

    found, (want_policy, want_head) = gradients((policy[1], critic))
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(want_policy))
    assert largest > 0.1
    for share, ((to_policy, to_head), values) in zip(shares, found, strict=True):

        def is_shared(got, want, share=share):
            np.testing.assert_allclose(got, share * want, atol=1e-5 * largest)

        jax.tree.map(is_shared, to_policy, want_policy)
        np.testing.assert_allclose(to_head["head"]["kernel"], want_head["head"]["kernel"], rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(values, found[0][1])  # what is passed on changes no value, to the last bit


def matmuls(jaxpr):
    """How many matrix products a program asks for, those in loops and calls inside it counted once."""
    count = 0
    for equation in jaxpr.eqns:
        count += equation.primitive.name == "dot_general"
        count += sum(matmuls(inner) for inner in jaxprs_in_params(equation.params))
    return count


def test_policy_and_head_take_one_forward_pass(policy, critic):
    batch, passes = LAYOUTS["padded"](), []

    def apply(*arguments):
        passes.append(1)
        return policy[0].apply(*arguments)

    counted = policy[0]._replace(apply=apply)
    alone = jax.make_jaxpr(lambda p: forward({"policy": counted}, {"policy": p}, batch))(policy[1])
    assert len(passes) == 1
    both = jax.make_jaxpr(lambda p, c: run((counted, p), c, batch))(policy[1], critic)
    assert len(passes) == 2
    assert matmuls(both.jaxpr) - matmuls(alone.jaxpr) in (1, 2)  # the head's own, as the gradient sees it twice
    roles, params = testing.tiny_models()
    own = jax.make_jaxpr(lambda p: forward({"policy": counted, "critic": roles["critic"]}, p, batch))(params)
    assert matmuls(own.jaxpr) - matmuls(alone.jaxpr) > 8  # attention and MLP: another pass


def test_values_are_float32_whatever_the_model_computes_in(critic):
    head, hidden = ValueHead(), jnp.full((1, 16), 1.0078125, jnp.bfloat16)
    values = head.values(critic, hidden)
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, 1.0078125 * critic["head"]["kernel"].sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("roles", "says"),
    [
        (("critic",), r"critic is a ValueHead, .*beside a policy.*found critic"),
        (("policy", "reward"), r"reward is a ValueHead, .*can only be the critic"),
    ],
    ids=str,
)
def test_a_head_without_a_policy_to_read_is_an_error(policy, roles, says):
    given = {role: policy[0] if role == "policy" else ValueHead() for role in roles}
    with pytest.raises(ValueError, match=says):
        forward(given, {}, LAYOUTS["padded"]())
