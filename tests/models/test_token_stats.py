"""Log-probabilities and entropy in chunks: the plain formulas, what is computed, and what memory it takes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import losses, models, parallel
from rlhf_jax.models import logit_chunks, output_gradient
from rlhf_jax.models.token_stats import token_stats
from rlhf_jax.parallel import compiled

B, S, V, D = 3, 10, 24, 16


@pytest.fixture(scope="module")
def setting():
    h, m, t, w = jax.random.split(jax.random.key(1), 4)
    hidden, matrix = jax.random.normal(h, (B, S, D)), jax.random.normal(m, (V, D))
    targets, mask = jax.random.randint(t, (B, S), 0, V), jax.random.bernoulli(w, 0.5, (B, S))
    return hidden, matrix, targets, mask


@pytest.fixture
def chunked(monkeypatch):
    """Set how many tokens a chunk has, and whether logits are kept; by default this little fits in one chunk."""

    def to(tokens, *, keep):
        monkeypatch.setattr(logit_chunks, "MOST_CHUNKS", 10**6)
        monkeypatch.setitem(logit_chunks.LEAST_TOKENS, "cpu", tokens)
        monkeypatch.setitem(logit_chunks.KEPT_BYTES, "cpu", 2**20 if keep else 0)
        assert logit_chunks.plan_chunks(B, S, V).keep == keep

    return to


def plain(hidden, matrix, targets, *, temperature=1.0, cap=0.0):
    """The formulas on all logits at once, differentiated by JAX."""
    z = jnp.matmul(hidden, matrix.T.astype(hidden.dtype), preferred_element_type=jnp.float32)
    z = (cap * jnp.tanh(z / cap) if cap else z) / temperature
    return losses.token_logprobs(z, targets), losses.entropy(z)


def weighted(stats, hidden, matrix, mask, *, entropy=True):
    """A loss that weighs every number differently, over the wanted targets."""
    logprobs, entropies = stats(hidden, matrix)
    weight = jnp.where(mask, jnp.linspace(0.5, 1.5, B * S).reshape(B, S), 0.0)
    return jnp.sum(weight * logprobs) + (jnp.sum(jnp.square(weight) * entropies) if entropy else 0.0)


def compare(setting, *, tied=True, mask=None, dtype=jnp.float32, atol=1e-5, **how):
    """Both results and both gradients against the plain formulas."""
    hidden, matrix, targets, _ = setting
    hidden = hidden.astype(dtype)
    wanted = jnp.ones((B, S), bool) if mask is None else mask

    def ours(h, m):
        head = models.OutputHead(m if tied else m.T, tied, how.get("cap", 0.0))
        return token_stats(h, head, targets, temperature=how.get("temperature", 1.0), mask=mask)

    for got, want in zip(ours(hidden, matrix), plain(hidden, matrix, targets, **how), strict=True):
        np.testing.assert_allclose(got, jnp.where(wanted, want, 0.0), atol=atol)
    for entropy in (True, False):
        gradients = [
            jax.jit(jax.grad(functools.partial(weighted, f, mask=wanted, entropy=entropy), argnums=(0, 1)))
            for f in (ours, lambda h, m: plain(h, m, targets, **how))
        ]
        for got, want in zip(*(g(hidden, matrix) for g in gradients), strict=True):
            assert got.dtype == want.dtype
            scale = max(1.0, float(jnp.abs(want).max()))
            np.testing.assert_allclose(got.astype(jnp.float32), want.astype(jnp.float32), atol=atol * scale)


HOWS = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "cap": {"cap": 3.0},
    "both, untied": {"temperature": 1.3, "cap": 3.0, "tied": False},
    "untied": {"tied": False},
}


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
@pytest.mark.parametrize("masked", [False, True])
def test_one_chunk_equals_the_formulas_on_all_logits(setting, how, masked):
    compare(setting, mask=setting[3] if masked else None, **how)


# One token at a time, seven (which does not divide thirty), and eight.
@pytest.mark.parametrize("tokens", [1, 7, 8])
@pytest.mark.parametrize("keep", [True, False], ids=["kept", "made again"])
@pytest.mark.parametrize("masked", [False, True])
def test_chunks_change_neither_value_nor_gradient(setting, chunked, tokens, keep, masked):
    chunked(tokens, keep=keep)
    assert logit_chunks.plan_chunks(B, S, V).count > 1
    compare(setting, mask=setting[3] if masked else None, temperature=0.7, cap=3.0)


def test_the_gradient_of_the_other_layout_that_accelerators_use_is_the_same(setting, chunked, monkeypatch):
    chunked(8, keep=False)
    monkeypatch.setattr("rlhf_jax.models.output_gradient.platform", lambda: "gpu")
    compare(setting, mask=setting[3])


def test_bfloat16_states_give_float32_numbers_as_exact_as_the_products_allow(setting, chunked):
    chunked(8, keep=False)
    hidden, matrix, targets, mask = setting
    # Both round states and matrix to bfloat16; the gradients are rounded once more.
    compare(setting, mask=mask, dtype=jnp.bfloat16, atol=2e-2)
    logprobs, _ = token_stats(hidden.astype(jnp.bfloat16), models.OutputHead(matrix, True), targets)
    rounded = [x.astype(jnp.bfloat16).astype(jnp.float32) for x in (hidden, matrix)]
    np.testing.assert_allclose(logprobs, plain(*rounded, targets)[0], atol=1e-4)


def test_what_stands_at_an_unwanted_target_is_never_read(setting, chunked):
    hidden, matrix, targets, mask = setting
    head = models.OutputHead(matrix, True)
    bad_hidden, bad_targets = jnp.where(mask[..., None], hidden, jnp.nan), jnp.where(mask, targets, -100)

    def total(h, head, t):
        logprobs, entropy = token_stats(h, head, t, mask=mask)
        return jnp.sum(logprobs) + jnp.sum(entropy)

    for tokens in (B * S, 4):
        chunked(tokens, keep=False)
        run = jax.value_and_grad(total, argnums=(0, 1))
        good, bad = run(hidden, head, targets), run(bad_hidden, head, bad_targets)
        jax.tree.map(np.testing.assert_array_equal, good, bad)
        assert np.isfinite(good[0])
        assert (np.asarray(good[1][0])[~np.asarray(mask)] == 0).all()


def test_no_wanted_target_at_all_gives_zeros(setting, chunked):
    hidden, matrix, targets, mask = setting
    chunked(4, keep=False)
    head = models.OutputHead(matrix, True)
    run = jax.value_and_grad(lambda h: jnp.sum(token_stats(h, head, targets, mask=jnp.zeros_like(mask))[0]))
    value, gradient = run(hidden)
    assert float(value) == 0
    assert not np.any(gradient)


def turns_run(monkeypatch, run, *arguments):
    """Count the chunks that a compiled program really computes, through a call back to the host from each."""
    seen = []
    chunk = logit_chunks.hidden_chunk

    def counted(chunks, order, hidden, turn):
        jax.debug.callback(lambda turn: seen.append(int(turn)), turn)
        return chunk(chunks, order, hidden, turn)

    for module in ("token_stats", "output_gradient"):
        monkeypatch.setattr(f"rlhf_jax.models.{module}.hidden_chunk", counted)
    jax.block_until_ready(jax.jit(run)(*arguments))
    jax.effects_barrier()
    return len(seen)


@pytest.mark.parametrize(("wanted", "turns"), [(30, 8), (15, 4), (1, 1), (0, 0)])
def test_prompts_cost_nothing(setting, chunked, monkeypatch, wanted, turns):
    """Thirty tokens in chunks of four; the same compiled program runs as many chunks as hold wanted tokens."""
    hidden, matrix, targets, _ = setting
    chunked(4, keep=False)
    order = np.random.default_rng(0).permutation(B * S)
    mask = jnp.asarray((order < wanted).reshape(B, S))

    def loss(hidden, head, mask):
        return jnp.sum(token_stats(hidden, head, targets, mask=mask)[0])

    run = jax.value_and_grad(loss, argnums=(0, 1))
    assert turns_run(monkeypatch, run, hidden, models.OutputHead(matrix, True), mask) == 2 * turns


def test_a_frozen_matrix_and_an_unread_entropy_cost_nothing(setting, chunked):
    hidden, matrix, targets, mask = setting
    chunked(4, keep=False)

    def loss(hidden, matrix, entropy):
        logprobs, entropies = token_stats(hidden, models.OutputHead(matrix, True), targets, mask=mask)
        return jnp.sum(logprobs) + (jnp.sum(entropies) if entropy else 0.0)

    def count(of, entropy=False):
        run = jax.grad(lambda h, m: loss(h, m, entropy), argnums=of)
        text = jax.jit(run).lower(hidden, matrix).as_text()
        return text.count("stablehlo.dot_general"), text.count("stablehlo.exponential")

    assert count((0, 1))[0] == 4  # logits, logits again, and a product for each gradient
    assert count(0)[0] == 3
    assert count(1)[0] == 3
    assert count((0, 1), entropy=True)[1] > count((0, 1))[1]


def temporary_bytes(rows, length, vocab_size, width=8):
    """Bytes that the compiled gradient of an update holds beside its inputs and outputs; nothing is run."""
    shape = jax.ShapeDtypeStruct
    inputs = (
        shape((rows, length, width), jnp.float32),
        shape((vocab_size, width), jnp.float32),
        shape((rows, length), jnp.int32),
        shape((rows, length), jnp.bool_),
    )

    def loss(hidden, matrix, targets, mask):
        logprobs, entropy = token_stats(hidden, models.OutputHead(matrix, True), targets, mask=mask)
        return jnp.sum(logprobs) - 0.01 * jnp.sum(entropy)

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(*inputs).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_an_update_with_a_vocabulary_of_128k_takes_less_than_a_sixth_of_the_memory(monkeypatch):
    chunks = temporary_bytes(8, 1024, 128_256)
    with monkeypatch.context() as patch:
        for limit in (logit_chunks.LOGIT_BYTES, logit_chunks.KEPT_BYTES, logit_chunks.LEAST_TOKENS):
            patch.setitem(limit, "cpu", 2**40)
        whole = temporary_bytes(8, 1024, 128_256)
    assert whole >= 8 * 1024 * 128_256 * 4  # the measure does see the logits
    assert chunks < whole / 6


def test_memory_is_flat_in_length_times_vocabulary():
    base = temporary_bytes(8, 1024, 65_536)
    assert temporary_bytes(8, 4096, 65_536) < 1.1 * base
    assert temporary_bytes(8, 1024, 262_144) < 1.1 * base


MESHES = {
    "data=8": parallel.MeshConfig(),
    "data=2, fsdp=2, tensor=2": parallel.MeshConfig(data=2, fsdp=2, tensor=2),
}


@pytest.mark.parametrize("config", MESHES.values(), ids=MESHES)
def test_a_chunk_is_sized_by_the_share_of_a_device(config):
    """Eight times the batch on eight devices: a device's chunk has as many tokens as it had alone, or a quarter."""
    mesh = parallel.make_mesh(config)
    rows, tensor = mesh.shape["data"] * mesh.shape["fsdp"], mesh.shape["tensor"]
    alone = logit_chunks.plan_chunks(8, 4096, 128_256)
    spread = parallel.traced_on(mesh, logit_chunks.plan_chunks)(8 * rows, 4096, 128_256 * tensor)
    assert alone.count > 8
    assert (spread.lines, spread.tokens) == (rows, alone.tokens)
    part = logit_chunks.SHARED if mesh.shape["fsdp"] > 1 else 1
    assert alone.size - 8 * part < part * spread.size < alone.size + 8 * part  # sizes are rounded to multiples of 8
    # Rows that the devices do not divide are on all of them.
    assert parallel.traced_on(mesh, logit_chunks.plan_chunks)(8 * rows + 1, 4096, 128_256).lines == 1


@pytest.mark.parametrize("config", MESHES.values(), ids=MESHES)
def test_eight_devices_give_the_numbers_of_one_and_talk_once(config, chunked):
    """Rows over eight (or four) devices, the matrix as the rules place it: only sums per token go through the loops."""
    mesh = parallel.make_mesh(config)
    h, m, t, w = jax.random.split(jax.random.key(5), 4)
    hidden, matrix = jax.random.normal(h, (16, 32, 16)), jax.random.normal(m, (256, 16))
    targets, mask = jax.random.randint(t, (16, 32), 0, 256), jax.random.bernoulli(w, 0.6, (16, 32))
    chunked(16, keep=False)

    def loss(hidden, params, targets, mask):
        logprobs, entropy = token_stats(hidden, models.OutputHead(params["embedding"], True), targets, mask=mask)
        return jnp.sum(logprobs) - 0.1 * jnp.sum(entropy)

    run = jax.value_and_grad(loss, argnums=(0, 1))
    inputs = (hidden, {"embedding": matrix}, targets, mask)
    want = jax.jit(run)(*inputs)
    rows = parallel.batch_shardings((hidden, targets, mask), mesh)
    places = (rows[0], parallel.param_shardings(inputs[1], mesh), *rows[1:])
    out = (parallel.replicated(mesh), (places[0], places[1]))
    compiled = (
        jax.jit(parallel.traced_on(mesh, run), in_shardings=places, out_shardings=out)
        .lower(*parallel.put(inputs, places))
        .compile()
    )
    got = compiled(*parallel.put(inputs, places))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), want, got)
    in_loops = [line for line in compiled.as_text().splitlines() if "while/body" in line]
    assert in_loops
    assert not [line for line in in_loops if " all-gather(" in line or " all-to-all(" in line]
    if mesh.shape["tensor"] == 1:
        assert not [line for line in in_loops if " all-reduce(" in line]


def shared_gradient(mesh, tied, dtype, words=256):
    """The compiled gradient of few tokens by a wide matrix, on a mesh, and its arguments."""
    h, m, t, w = jax.random.split(jax.random.key(6), 4)
    hidden, matrix = jax.random.normal(h, (16, 6, 64), dtype), 0.3 * jax.random.normal(m, (words, 64))
    targets, mask = jax.random.randint(t, (16, 6), 0, words), jax.random.bernoulli(w, 0.6, (16, 6))
    params = {"embedding": matrix} if tied else {"unembedding": matrix.T}

    def loss(hidden, params, targets, mask):
        (matrix,) = params.values()
        logprobs, entropy = token_stats(hidden, models.OutputHead(matrix, tied), targets, mask=mask)
        return jnp.sum(logprobs) - 0.1 * jnp.sum(entropy)

    inputs = (hidden, params, targets, mask)
    rows = parallel.batch_shardings((hidden, targets, mask), mesh)
    places = (rows[0], parallel.param_shardings(params, mesh), *rows[1:])
    run = jax.jit(
        parallel.traced_on(mesh, jax.grad(loss, argnums=(0, 1))), in_shardings=places, out_shardings=places[:2]
    )
    inputs = parallel.put(inputs, places)
    return run.lower(*inputs).compile(), inputs


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2)], ids=str)
@pytest.mark.parametrize(("tokens", "words"), [(2, 256), (12, 256), (12, 258), (12, 257)])
def test_devices_that_share_the_matrix_sum_its_gradient_in_parts(monkeypatch, chunked, sizes, tied, tokens, words):
    """A vocabulary that neither the parts nor the tensor axis divide is cut into as many parts."""
    data, fsdp, tensor = sizes
    mesh = parallel.make_mesh(parallel.MeshConfig(data=data, fsdp=fsdp, tensor=tensor))
    chunked(tokens, keep=False)
    one = parallel.make_mesh(parallel.MeshConfig(), jax.devices()[:1])
    alone, inputs = shared_gradient(one, tied, jnp.float32, words)
    want = alone(*inputs)
    whole = 4 * 64 * (words // tensor if words % tensor == 0 else words)
    cut, found = output_gradient._cut, set()
    monkeypatch.setattr(output_gradient, "_cut", lambda slope, parts: found.add(parts) or cut(slope, parts))
    monkeypatch.setattr(output_gradient, "PART_BYTES", -(-whole // 4))
    program, inputs = shared_gradient(mesh, tied, jnp.float32, words)
    assert found == {4}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), want, program(*inputs))


def test_the_sum_of_a_gradient_in_parts_is_nowhere_as_large_as_the_matrix(monkeypatch, chunked):
    mesh = parallel.make_mesh(parallel.MeshConfig(fsdp=8))
    chunked(2, keep=False)

    def sums():
        made = compiled.read(shared_gradient(mesh, False, jnp.float32)[0].as_text()).as_large_as(64 * 256)
        return [x for x in made if x.shape == (1, 64, 256)]  # of a device's one line; the matrix itself has two axes

    assert sums()
    monkeypatch.setattr(output_gradient, "PART_BYTES", 4 * 64 * 256 // 4)
    assert not sums()


STUDENT, TEACHER = (models.OutputHead(jax.random.normal(jax.random.key(s), (V, d)), True) for s, d in ((7, D), (8, 12)))


def full_kl(hidden, matrix, teacher_hidden, under, temperature):
    student, teacher = hidden @ matrix.T / temperature, teacher_hidden @ TEACHER.matrix.T / temperature
    return losses.full_kl(student, teacher) if under == "student" else losses.full_kl(teacher, student)


@pytest.mark.parametrize("under", ["student", "teacher"])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("tokens", [B * S, 4])
def test_the_kl_in_chunks_is_the_kl_of_whole_logits(setting, chunked, under, temperature, tokens):
    hidden, mask = setting[0], setting[3]
    taught = jax.random.normal(jax.random.key(9), (B, S, 12))
    chunked(tokens, keep=False)

    def ours(hidden, matrix):
        head = models.OutputHead(matrix, True)
        return models.token_kl(hidden, head, taught, TEACHER, under=under, temperature=temperature, mask=mask)

    def whole(hidden, matrix):
        return jnp.where(mask, full_kl(hidden, matrix, taught, under, temperature), 0.0)

    np.testing.assert_allclose(ours(hidden, STUDENT.matrix), whole(hidden, STUDENT.matrix), atol=1e-5)
    weight = jnp.linspace(0.5, 1.5, S)[None]
    for of in (0, 1):
        got, want = (
            jax.grad(lambda *x, f=f: jnp.sum(weight * f(*x)), of)(hidden, STUDENT.matrix) for f in (ours, whole)
        )
        np.testing.assert_allclose(got, want, atol=2e-5)


def test_the_kl_of_a_model_to_itself_is_zero_and_the_teacher_learns_nothing(setting):
    hidden = setting[0]
    np.testing.assert_allclose(models.token_kl(hidden, STUDENT, hidden, STUDENT), 0.0, atol=1e-6)
    taught = jax.random.normal(jax.random.key(9), (B, S, 12))
    kl = jax.grad(lambda h, head: jnp.sum(models.token_kl(hidden, STUDENT, h, head)), argnums=(0, 1))
    assert not any(np.any(x) for x in jax.tree.leaves(kl(taught, TEACHER)))


def test_the_kl_needs_one_vocabulary_and_a_side(setting):
    hidden = setting[0]
    with pytest.raises(ValueError, match="found 24 and 12 tokens"):
        models.token_kl(hidden, STUDENT, hidden, models.OutputHead(STUDENT.matrix[:12], True))
    with pytest.raises(ValueError, match="must be student or teacher, found 'both'"):
        models.token_kl(hidden, STUDENT, hidden, STUDENT, under="both")
