import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from rlhf_jax.parallel import MeshConfig, batch_shardings, make_mesh, param_shardings
from rlhf_jax.training import AuxiliaryLoss, fetch, init, init_state, jit_step, make_train_step
from rlhf_jax.types import Aux

RULES = ((r"w1$", P("fsdp", "tensor")), (r"w2$", P("tensor")))


def make_params():
    w1, w2 = jax.random.split(jax.random.key(0))
    return {"policy": {"w1": 0.3 * jax.random.normal(w1, (8, 16)), "w2": 0.3 * jax.random.normal(w2, (16,))}}


def make_batch(rows, seed=0, length=6):
    """Rows whose counted parts have very different lengths, so that means of means would be wrong."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, length + 1, size=rows)
    return {
        "x": rng.normal(size=(rows, length, 8)).astype(np.float32),
        "y": rng.normal(size=(rows, length)).astype(np.float32),
        "mask": np.arange(length)[None, :] < counts[:, None],
    }


def loss_fn(params, batch, key):
    del key
    hidden = jnp.tanh(batch["x"] @ params["policy"]["w1"])
    error = jnp.where(batch["mask"], jnp.square(hidden @ params["policy"]["w2"] - batch["y"]), 0.0)
    weight = jnp.sum(batch["mask"], dtype=jnp.float32)
    return jnp.sum(error), Aux(weight, {"size": (jnp.sum(jnp.where(batch["mask"], 1.0, 0.0)), jnp.float32(1))})


def micro(batch, count):
    return jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)


def max_difference(a, b):
    return max(float(jnp.max(jnp.abs(x - y))) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_one_step_of_gradient_descent_by_hand():
    # loss = ((x - 1)^2 + (x - 5)^2) / 2 at x = 0: 13, gradient -6; half a step goes to 3, the mean.
    def square(params, batch, key):
        return jnp.sum(jnp.square(params["x"] - batch)), Aux(jnp.float32(batch.size), {})

    optimizer = optax.sgd(0.5)
    step = make_train_step(square, optimizer)
    state, metrics = step(init_state({"x": jnp.zeros(())}, optimizer), jnp.array([1.0, 5.0]), jax.random.key(0))
    assert float(state.params["x"]) == 3.0
    assert fetch(metrics) == {"loss": 13.0, "grad_norm": 6.0, "skipped": 0.0}
    assert (int(state.step), int(state.skipped)) == (1, 0)


@pytest.mark.parametrize("count", [2, 4, 8])
def test_accumulation_equals_the_single_batch(count):
    batch, optimizer = make_batch(16), optax.adam(1e-2)
    whole = jax.jit(make_train_step(loss_fn, optimizer))
    parts = jax.jit(make_train_step(loss_fn, optimizer, accumulate=count))
    a = b = init_state(make_params(), optimizer)
    for i in range(3):
        a, metrics_a = whole(a, batch, jax.random.key(i))
        b, metrics_b = parts(b, micro(batch, count), jax.random.key(i))
        found, expected = fetch(metrics_b), fetch(metrics_a)
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)
        assert found["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-6)
    assert float(metrics_b["size"][0]) == float(metrics_a["size"][0])
    assert max_difference(a.params, b.params) < 1e-6


def test_a_mean_of_means_would_have_failed_that_test():
    batch = make_batch(16)
    losses = [loss_fn(make_params(), jax.tree.map(lambda x, i=i: x[i], micro(batch, 8)), None) for i in range(8)]
    means = np.mean([n / aux.weight for n, aux in losses])
    numerator, aux = loss_fn(make_params(), batch, None)
    assert abs(means - numerator / aux.weight) > 1e-3


def test_accumulation_with_denominators_already_applied():
    def constant(params, batch, key):  # what losses.constant(4) hands over: a sum over 4, and no weight
        return jnp.sum(params["x"] * batch) / 4, Aux(jnp.float32(0), {})

    optimizer = optax.sgd(1.0)
    for accumulate, batch in ((1, jnp.arange(4.0)), (2, jnp.arange(4.0).reshape(2, 2))):
        step = make_train_step(constant, optimizer, accumulate=accumulate)
        state, metrics = step(init_state({"x": jnp.float32(2)}, optimizer), batch, jax.random.key(0))
        assert fetch(metrics)["loss"] == 3.0
        assert float(state.params["x"]) == 0.5


def test_every_member_of_an_ensemble_has_a_denominator_of_its_own():
    """Two means by gradient descent from 0: of 1, 3, 5 and of 10 alone, one update each, in two micro-batches."""

    def members(params, batch, key):
        errors = jnp.where(batch["mask"], jnp.square(params["x"][:, None] - batch["y"]), 0.0)
        return jnp.sum(errors), Aux(jnp.sum(batch["mask"], axis=1, dtype=jnp.float32), {})

    batch = {
        "y": jnp.array([[[1.0, 3.0], [10.0, 0.0]], [[5.0, 0.0], [0.0, 0.0]]]),
        "mask": jnp.array([[[True, True], [True, False]], [[True, False], [False, False]]]),
    }
    optimizer = optax.sgd(0.5)
    step = make_train_step(members, optimizer, accumulate=2)
    state, metrics = step(init_state({"x": jnp.zeros(2)}, optimizer), batch, jax.random.key(0))
    assert state.params["x"].tolist() == [3.0, 10.0]
    assert fetch(metrics)["loss"] == pytest.approx((1 + 9 + 25 + 100) / 4)


def test_micro_batches_draw_different_noise():
    def noise(params, batch, key):
        draw = jax.random.normal(key)
        return params["x"] * 0 + draw, Aux(jnp.float32(1), {"square": (jnp.square(draw), jnp.float32(1))})

    step = make_train_step(noise, optax.sgd(1.0), accumulate=2)
    _, metrics = step(init_state({"x": jnp.float32(0)}, optax.sgd(1.0)), jnp.zeros((2, 1)), jax.random.key(3))
    mean, square = float(metrics["loss"][0]) / 2, float(metrics["square"][0]) / 2
    assert square - mean**2 > 1e-3  # a variance: 0 if both were the same


def test_wrong_number_of_micro_batches_is_an_error():
    step = make_train_step(loss_fn, optax.sgd(0.1), accumulate=3)
    with pytest.raises(ValueError, match="accumulate=3 needs batches with 3 micro-batches"):
        step(init_state(make_params(), optax.sgd(0.1)), micro(make_batch(4), 2), jax.random.key(0))
    with pytest.raises(ValueError, match="at least 1, found 0"):
        make_train_step(loss_fn, optax.sgd(0.1), accumulate=0)


@pytest.mark.parametrize(
    ("mesh_config", "accumulate"),
    [(MeshConfig(), 1), (MeshConfig(data=2, fsdp=2, tensor=2), 2), (MeshConfig(data=1, fsdp=8), 1)],
)
def test_eight_devices_give_the_losses_of_one(mesh_config, accumulate):
    def losses(mesh):
        optimizer = optax.adam(1e-2)
        state, state_shardings = init(
            make_params, optimizer, shardings=lambda shapes: param_shardings(shapes, mesh, RULES)
        )
        batch = make_batch(32)
        if accumulate > 1:
            batch = micro(batch, accumulate)
        step = jit_step(
            make_train_step(loss_fn, optimizer, accumulate=accumulate),
            state_shardings,
            batch_shardings(batch, mesh, batch_axis=0 if accumulate == 1 else 1),
            mesh,
        )
        rows = []
        for i in range(4):
            state, metrics = step(state, batch, jax.random.key(i))
            rows.append(fetch(metrics))
        assert jax.tree.map(lambda x: x.sharding, state) == state_shardings
        return [(row["loss"], row["grad_norm"]) for row in rows]

    one = losses(make_mesh(MeshConfig(), jax.devices()[:1]))
    np.testing.assert_allclose(losses(make_mesh(mesh_config)), one, rtol=1e-5)
    assert one[-1][0] < one[0][0]


def test_the_step_is_traced_under_its_mesh():
    """What is sized by a device's share of the batch reads the mesh there."""
    mesh, seen = make_mesh(MeshConfig(data=4, fsdp=2)), []

    def looks(params, batch, key):
        seen.append(dict(jax.sharding.get_abstract_mesh().shape))
        return loss_fn(params, batch, key)

    optimizer, batch = optax.sgd(0.1), make_batch(8)
    state, places = init(lambda p: p, optimizer, make_params(), shardings=lambda s: param_shardings(s, mesh, RULES))
    jit_step(make_train_step(looks, optimizer), places, batch_shardings(batch, mesh), mesh)(
        state, batch, jax.random.key(0)
    )
    assert seen == [{"data": 4, "fsdp": 2, "tensor": 1}]


def test_the_donated_state_is_gone_and_what_was_handed_in_is_not():
    mesh = make_mesh(MeshConfig())
    params, optimizer = make_params(), optax.adam(1e-2)
    before = jax.tree.map(np.array, params)
    state, shardings = init(
        lambda p: p, optimizer, params, shardings=lambda shapes: param_shardings(shapes, mesh, RULES)
    )
    batch = make_batch(8)
    step = jit_step(make_train_step(loss_fn, optimizer), shardings, batch_shardings(batch, mesh), mesh)
    step(state, batch, jax.random.key(0))
    assert all(x.is_deleted() for x in jax.tree.leaves(state))
    assert max_difference(params, before) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_non_finite_update_is_skipped_and_counted(value, accumulate):
    optimizer = optax.adam(1e-2)
    step = jax.jit(make_train_step(loss_fn, optimizer, accumulate=accumulate))
    good, bad = make_batch(8), make_batch(8)
    bad["x"][3, 0, 0] = value
    bad["y"][3, 0] = value
    if accumulate > 1:
        good, bad = micro(good, accumulate), micro(bad, accumulate)
    state, _ = step(init_state(make_params(), optimizer), good, jax.random.key(0))
    after, metrics = step(state, bad, jax.random.key(1))
    assert fetch(metrics) == {"skipped": 1.0}  # nothing else counted
    assert max_difference((state.params, state.opt_state), (after.params, after.opt_state)) == 0
    again, _ = step(after, bad, jax.random.key(2))
    assert [int(x) for x in (again.step, again.skipped, again.skipped_in_row)] == [3, 2, 2]
    well, metrics = step(again, good, jax.random.key(3))
    assert [int(x) for x in (well.step, well.skipped, well.skipped_in_row)] == [4, 2, 0]
    assert fetch(metrics)["skipped"] == 0.0
    assert max_difference(well.params, again.params) > 0


def test_a_finite_loss_with_an_infinite_gradient_is_skipped():
    def root(params, batch, key):
        return jnp.sqrt(params["x"]), Aux(jnp.float32(1), {})

    optimizer = optax.sgd(0.1)
    state, metrics = make_train_step(root, optimizer)(
        init_state({"x": jnp.float32(0)}, optimizer), jnp.zeros(1), jax.random.key(0)
    )
    assert int(state.skipped) == 1
    assert float(state.params["x"]) == 0.0
    assert "loss" not in fetch(metrics)


def test_weights_may_be_bfloat16():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), make_params())
    optimizer = optax.adam(1e-2)
    state, metrics = jax.jit(make_train_step(loss_fn, optimizer, accumulate=2))(
        init_state(params, optimizer), micro(make_batch(8), 2), jax.random.key(0)
    )
    assert {x.dtype for x in jax.tree.leaves(state.params)} == {jnp.dtype(jnp.bfloat16)}
    assert metrics["loss"][0].dtype == jnp.float32


def quartic(params, batch, key):
    """A second loss on batches of another shape, with a weight of its own."""
    del key
    error = jnp.where(batch["mask"], (jnp.sum(params["policy"]["w1"]) - batch["y"]) ** 4, 0.0)
    return jnp.sum(error), Aux(jnp.sum(batch["mask"], dtype=jnp.float32), {"unseen": (jnp.sum(error), jnp.float32(1))})


def text_batch(rows, seed=7, length=5):
    batch = make_batch(rows, seed, length)
    return {"y": batch["y"], "mask": batch["mask"]}


def recorder():
    """An optimiser that keeps the gradient it was given and moves nothing."""
    return optax.chain(optax.trace(decay=0.0), optax.scale(0.0))


def gradient_of(state):
    return state.opt_state[0].trace


def by_hand(params, batch, text, coef):
    """Both losses with their own denominators, over whole batches."""

    def total(p):
        (main, main_aux), (second, second_aux) = loss_fn(p, batch, None), quartic(p, text, None)
        return main / main_aux.weight + coef * second / second_aux.weight

    return jax.value_and_grad(total)(params)


@pytest.mark.parametrize("count", [1, 2, 8])
def test_a_term_is_added_with_its_own_denominator_over_all_micro_batches(count):
    batch, text, params = make_batch(16), text_batch(24), make_params()
    step = jax.jit(make_train_step(loss_fn, recorder(), accumulate=count, extra={"ptx": AuxiliaryLoss(quartic, 0.3)}))
    both = (batch, {"ptx": text}) if count == 1 else (micro(batch, count), {"ptx": micro(text, count)})
    state, metrics = step(init_state(params, recorder()), both, jax.random.key(0))
    want, gradient = by_hand(params, batch, text, 0.3)
    scale = max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(gradient))
    assert max_difference(gradient_of(state), gradient) < 2e-6 * scale
    found = fetch(metrics)
    main, aux = loss_fn(params, batch, None)
    second, second_aux = quartic(params, text, None)
    assert found["loss"] == pytest.approx(float(main / aux.weight), rel=1e-6)  # without the term
    assert found["ptx_loss"] == pytest.approx(float(second / second_aux.weight), rel=1e-6)
    assert float(want) == pytest.approx(found["loss"] + 0.3 * found["ptx_loss"], rel=1e-6)
    assert found["grad_norm"] == pytest.approx(float(optax.global_norm(gradient)), rel=1e-5)
    assert "unseen" not in found


def test_two_terms_are_both_added():
    batch, text, params = make_batch(8), text_batch(8), make_params()
    terms = {"a": AuxiliaryLoss(quartic, 0.25), "b": AuxiliaryLoss(quartic, 0.5)}
    other = text_batch(8, seed=9)
    step = make_train_step(loss_fn, recorder(), extra=terms)
    state, metrics = step(init_state(params, recorder()), (batch, {"a": text, "b": other}), jax.random.key(0))
    first, second = by_hand(params, batch, text, 0.25)[1], by_hand(params, batch, other, 0.5)[1]
    main = by_hand(params, batch, text, 0.0)[1]
    want = jax.tree.map(lambda x, y, z: x + y - z, first, second, main)
    scale = max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(want))
    assert max_difference(gradient_of(state), want) < 2e-6 * scale
    assert fetch(metrics)["a_loss"] != fetch(metrics)["b_loss"]


def test_no_terms_are_no_change():
    batch, params = make_batch(8), make_params()
    plain, metrics = make_train_step(loss_fn, recorder())(init_state(params, recorder()), batch, jax.random.key(0))
    empty, same = make_train_step(loss_fn, recorder(), extra={})(
        init_state(params, recorder()), (batch, {}), jax.random.key(0)
    )
    assert max_difference(gradient_of(plain), gradient_of(empty)) == 0
    assert fetch(metrics) == fetch(same)


def test_a_term_that_is_not_finite_skips_the_update():
    batch, text = make_batch(8), text_batch(8)
    text["y"][2, 0] = np.nan
    optimizer = optax.adam(1e-2)
    step = make_train_step(loss_fn, optimizer, extra={"ptx": AuxiliaryLoss(quartic, 0.3)})
    before = init_state(make_params(), optimizer)
    after, metrics = step(before, (batch, {"ptx": text}), jax.random.key(0))
    assert fetch(metrics) == {"skipped": 1.0}
    assert max_difference(before.params, after.params) == 0
    assert int(after.skipped) == 1


def test_a_term_draws_noise_of_its_own_and_leaves_that_of_the_loss_alone():
    def noise(params, batch, key):
        draw = jax.random.normal(key)
        return params["x"] * 0 + draw, Aux(jnp.float32(1), {})

    def losses(extra):
        step = make_train_step(noise, optax.sgd(1.0), extra=extra)
        batch = 0.0 if extra is None else (0.0, dict.fromkeys(extra, 0.0))
        return fetch(step(init_state({"x": jnp.float32(0)}, optax.sgd(1.0)), batch, jax.random.key(3))[1])

    alone, one, two = (
        losses(None),
        losses({"a": AuxiliaryLoss(noise, 1.0)}),
        losses({n: AuxiliaryLoss(noise, 1.0) for n in "ba"}),
    )
    assert alone["loss"] == one["loss"] == two["loss"]
    assert one["a_loss"] == two["a_loss"]
    assert len({two["loss"], two["a_loss"], two["b_loss"]}) == 3


def test_micro_batches_of_a_term_are_counted_too():
    step = make_train_step(loss_fn, optax.sgd(0.1), accumulate=2, extra={"ptx": AuxiliaryLoss(quartic, 1.0)})
    both = (micro(make_batch(4), 2), {"ptx": micro(text_batch(4), 4)})
    with pytest.raises(ValueError, match="accumulate=2 needs batches with 2 micro-batches"):
        step(init_state(make_params(), optax.sgd(0.1)), both, jax.random.key(0))


def wide(params, batch, key):
    """A chain of matrices, so that weights and moments are nearly all there is in memory."""
    del key
    x = batch
    for name in sorted(params):
        x = jnp.tanh(x @ params[name])
    return jnp.sum(jnp.square(x)), Aux(jnp.float32(x.size), {})


def peak_bytes(step, state, batch):
    """What the compiled step holds at most: arguments, results and everything between, the donated state once."""
    used = jax.jit(step, donate_argnums=0).lower(state, batch, jax.random.key(0)).compile().memory_analysis()
    held = used.argument_size_in_bytes + used.output_size_in_bytes - used.alias_size_in_bytes
    return held + used.temp_size_in_bytes


@pytest.mark.parametrize("loop", [False, True], ids=["a step", "a scan of steps"])
def test_the_guard_against_non_finite_updates_holds_no_second_state(loop):
    """The state of AdamW is three times the weights; a guard that chose between two states would hold one more."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2))
    params = {f"w{i}": jnp.ones((256, 256)) for i in range(6)}

    def unguarded(state, batch, key):
        gradients = jax.grad(lambda p: wide(p, batch, key)[0] / batch.size)(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        new = state._replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)
        return new, optax.global_norm(gradients)

    def peak(step):
        def several(state, batches, key):
            return jax.lax.scan(lambda state, batch: step(state, batch, key), state, batches)

        batch = jnp.ones((4, 256))
        return peak_bytes(several if loop else step, init_state(params, optimizer), batch[None] if loop else batch)

    assert peak(make_train_step(wide, optimizer)) < 1.03 * peak(unguarded)
