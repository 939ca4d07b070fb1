import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.training import OptimizerConfig, by_role, make_optimizer, make_schedule, per_member


def updates_of(optimizer, params, gradients, steps=1):
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(gradients, state, params)
    return updates


def test_a_line_falls_by_the_same_step_every_time():
    config = OptimizerConfig(learning_rate=2.0, schedule="linear", warmup_fraction=0.2, final_fraction=0.0)
    schedule = make_schedule(config, 10)
    rates = [float(schedule(step)) for step in range(11)]
    np.testing.assert_allclose(rates, [1.0, 2.0, 2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25, 0.0], atol=1e-6)


def test_schedule_rises_peaks_and_falls():
    schedule = make_schedule(OptimizerConfig(learning_rate=2.0, warmup_fraction=0.1, final_fraction=0.25), 100)
    rates = np.array([schedule(i) for i in range(101)])
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == rates.max() == 2.0
    assert rates[55] == pytest.approx(2.0 * (0.25 + 0.75 / 2))  # half way down
    assert rates[100] == pytest.approx(0.5)
    assert float(schedule(500)) == pytest.approx(0.5)
    assert np.all(np.diff(rates[:10]) > 0)
    assert np.all(np.diff(rates[11:]) < 0)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize(("steps", "warmup"), [(40, 0.0), (40, 0.1), (40, 1.0), (1, 0.0), (1, 1.0), (30, 1 / 30)])
def test_every_rate_by_the_formula(kind, steps, warmup):
    """No warm-up, one of some steps, of all, of one, and runs of a single step; past the end the rate stays."""
    config = OptimizerConfig(learning_rate=3e-4, schedule=kind, warmup_fraction=warmup, final_fraction=0.1)
    schedule = make_schedule(config, steps)
    rise = round(warmup * steps)
    for step in range(steps + 5):
        if step < rise:
            want = 3e-4 * (step + 1) / rise
        else:
            done = min((step - rise) / max(steps - rise, 1), 1.0)
            left = 1 - done if kind == "linear" else 0.5 * (1 + np.cos(np.pi * done))
            want = 3e-4 * (0.1 + 0.9 * left)
        np.testing.assert_allclose(schedule(jnp.int32(step)), want, rtol=1e-6)
    assert schedule(jnp.int32(0)) > 0


def test_final_fraction_one_is_constant():
    schedule = make_schedule(OptimizerConfig(learning_rate=0.5, warmup_fraction=0.0, final_fraction=1.0), 7)
    assert {float(schedule(i)) for i in range(8)} == {0.5}


def test_gradients_are_clipped_by_their_global_norm():
    # With plain Adam's first step every clip cancels; two different gradients in a row do show it.
    def second(max_grad_norm):
        config = OptimizerConfig(
            learning_rate=1.0, warmup_fraction=0.0, final_fraction=1.0, max_grad_norm=max_grad_norm
        )
        optimizer = make_optimizer(config, 10)
        params = {"a": jnp.zeros(2), "b": jnp.zeros(())}
        state = optimizer.init(params)
        _, state = optimizer.update({"a": jnp.array([3.0, 0.0]), "b": jnp.float32(4.0)}, state, params)
        updates, _ = optimizer.update({"a": jnp.array([0.3, 0.0]), "b": jnp.float32(0.4)}, state, params)
        return float(updates["b"])

    def adam(first, then, b1=0.9, b2=0.95):
        m = (b1 * (1 - b1) * first + (1 - b1) * then) / (1 - b1**2)
        v = (b2 * (1 - b2) * first**2 + (1 - b2) * then**2) / (1 - b2**2)
        return -m / np.sqrt(v)

    assert second(None) == pytest.approx(adam(4.0, 0.4), rel=1e-4)
    assert second(1.0) == pytest.approx(adam(0.8, 0.4), rel=1e-4)  # norm 5 -> 1; norm 0.5 stays


def test_norms_and_biases_do_not_decay():
    names = {
        "blocks": {"mlp": {"up": {"kernel": 0, "bias": 0}}, "mlp_norm": {"scale": 0}},
        "final_norm": {"scale": 0},
        "head": {"kernel": 0},
        "embedding": 0,
    }
    params = {"policy": jax.tree.map(lambda _: jnp.ones((2, 2)), names)}
    config = OptimizerConfig(learning_rate=0.1, warmup_fraction=0.0, final_fraction=1.0, weight_decay=0.5)
    updates = updates_of(make_optimizer(config, 10), params, jax.tree.map(jnp.zeros_like, params))
    moved = {
        jax.tree_util.keystr(path, simple=True, separator="/"): float(leaf[0, 0])
        for path, leaf in jax.tree_util.tree_flatten_with_path(updates)[0]
    }
    decay = pytest.approx(-0.05)
    assert moved == {
        "policy/blocks/mlp/up/kernel": decay,
        "policy/blocks/mlp/up/bias": 0.0,
        "policy/blocks/mlp_norm/scale": 0.0,
        "policy/final_norm/scale": 0.0,
        "policy/head/kernel": decay,
        "policy/embedding": decay,
    }


def test_roles_are_clipped_apart():
    optimizer = by_role({"policy": optax.clip_by_global_norm(1.0), "critic": optax.clip_by_global_norm(2.0)})
    params = {"policy": {"x": jnp.zeros(2)}, "critic": {"x": jnp.zeros(2)}}
    gradient = {"policy": {"x": jnp.array([3.0, 4.0])}, "critic": {"x": jnp.array([30.0, 40.0])}}
    updates = updates_of(optimizer, params, gradient)
    np.testing.assert_allclose(updates["policy"]["x"], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(updates["critic"]["x"], [1.2, 1.6], rtol=1e-6)


def test_roles_must_agree():
    with pytest.raises(ValueError, match=r"roles \['policy'\], optimisers were given for \['critic'\]"):
        by_role({"critic": optax.sgd(0.1)}).init({"policy": {"x": jnp.zeros(2)}})


@pytest.mark.parametrize("max_grad_norm", [None, 1.0], ids=["unclipped", "clipped"])
def test_members_are_updated_as_if_each_were_alone(max_grad_norm):
    """AdamW with decay, a schedule and clipping: three members whose gradients differ a hundredfold in norm."""
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.1, warmup_fraction=0.5, max_grad_norm=max_grad_norm)
    single = make_optimizer(config, 6)
    together = per_member(single)
    rng = np.random.default_rng(0)

    def tree():
        return {"w": rng.normal(size=(3, 4, 2)).astype(np.float32), "norm": rng.normal(size=(3, 4)).astype(np.float32)}

    def member(tree, m):
        return jax.tree.map(lambda x: x[m], tree)

    stacked = tree()
    alone = [member(stacked, m) for m in range(3)]
    state, states = together.init(stacked), [single.init(p) for p in alone]
    for _ in range(5):
        scale = np.array([0.1, 1.0, 10.0], np.float32)
        own = jax.tree.map(lambda g, s=scale: g * s.reshape(3, *(1,) * (g.ndim - 1)), tree())
        updates, state = together.update(own, state, stacked)
        stacked = optax.apply_updates(stacked, updates)
        for m in range(3):
            mine, states[m] = single.update(member(own, m), states[m], alone[m])
            alone[m] = optax.apply_updates(alone[m], mine)
    for m in range(3):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), member(stacked, m), alone[m])


def test_clipping_of_one_member_leaves_the_others_alone():
    optimizer = per_member(optax.clip_by_global_norm(1.0))
    params = {"a": jnp.zeros((2, 2)), "b": jnp.zeros((2,))}
    # The first has norm 0.5 over its leaves and the second 50.
    gradient = {"a": jnp.array([[0.3, 0.0], [30.0, 0.0]]), "b": jnp.array([0.4, 40.0])}
    updates = updates_of(optimizer, params, gradient)
    np.testing.assert_allclose(updates["a"], [[0.3, 0.0], [0.6, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [0.4, 0.8], rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [("learning_rate", 0.0), ("warmup_fraction", 1.5), ("final_fraction", -0.1), ("b2", 1.0), ("max_grad_norm", 0.0)],
)
def test_nonsense_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field} must.*found {value}"):
        OptimizerConfig(**{"learning_rate": 1e-3, field: value})
    with pytest.raises(ValueError, match="schedule must be cosine or linear, found 'step'"):
        OptimizerConfig(learning_rate=1e-3, schedule="step")
    with pytest.raises(ValueError, match="steps must be at least 1"):
        make_optimizer(OptimizerConfig(learning_rate=1e-3), 0)
