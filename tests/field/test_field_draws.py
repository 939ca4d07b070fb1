"""What was seen on other people's data, as a table of inputs and what is right for them: what is drawn, and its end."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws_checkpoint import SPECIALS, make, make_tokenizer
from jax.sharding import NamedSharding, PartitionSpec

from rlhf_jax import cli, data, evaluation, feedback, models, objectives, parallel, rollout, testing
from rlhf_jax.data import DataError, Example, RatedResponse, Tokenizer
from rlhf_jax.data.batches import MemberBatches, PackedEpochs
from rlhf_jax.data.tokenizer.gguf import build
from rlhf_jax.models.output_head import output_head
from rlhf_jax.rollout import SamplingConfig
from rlhf_jax.runs.arguments import checked_prompts
from rlhf_jax.runs.chat import Conversation
from rlhf_jax.runs.export import _generation
from rlhf_jax.runs.loading import start_from
from rlhf_jax.runs.pretrained import checkpoint_tokenizer
from rlhf_jax.runs.sampling import make_engine
from rlhf_jax.runs.scorer import scored
from rlhf_jax.stages import EncodedPrompt, GroupConfig, Policy, RewardConfig, RunError, Scorer, forward
from rlhf_jax.stages.online.loop import batch_of_prompts
from rlhf_jax.stages.opinions import _alone
from rlhf_jax.stages.reward_model import say_left_out, stacked_members, with_head
from rlhf_jax.stages.scoring import load_reward
from rlhf_jax.types import Outputs, SequenceBatch

# ---- the same prompt twice in one iteration --------------------------------------------------------------------------

KEY = jax.random.key(5)
ASKED = np.array([7, 3, 7, 7, 9, 3, 7, 1])  # ids of prompts: one comes four times, one twice
PROMPTS = {7: [4, 5, 6], 3: [8, 9], 9: [3], 1: [10, 11, 12, 13]}
FIRST = {7: 0, 3: 1, 9: 4, 1: 7}


@pytest.fixture(scope="module")
def policy():
    roles, params = testing.tiny_models()
    return roles["policy"], params["policy"]


def drawn(policy, ids, *, slots=0, **how):
    """Responses to these prompts, [B][K] lists of token ids."""
    model, params = policy
    config = SamplingConfig(max_new_tokens=8, window=4, slots=slots)
    engine = rollout.Engine(model, config, pad_id=testing.PAD, eos_id=testing.EOS)
    found = engine(params, [PROMPTS[i] for i in ids], key=KEY, step=3, prompt_ids=np.asarray(ids), samples=2, **how)
    tokens, mask = np.asarray(found.tokens), np.asarray(found.mask)
    return [[t[m].tolist() for t, m in zip(ts, ms, strict=True)] for ts, ms in zip(tokens, mask, strict=True)]


@pytest.fixture(scope="module")
def asked(policy):
    return drawn(policy, ASKED)


def test_a_prompt_that_comes_again_is_answered_again(asked):
    every = [tuple(response) for both in asked for response in both]
    assert len(set(every)) == len(every)


def test_the_first_time_it_is_answered_as_if_it_came_once(policy, asked):
    once = dict(zip(FIRST, drawn(policy, list(FIRST)), strict=True))
    assert {i: asked[at] for i, at in FIRST.items()} == once


@pytest.mark.parametrize("how", ["another order", "slots", "a mesh", "in two parts"])
def test_which_time_it_is_decides_and_nothing_else(policy, asked, how):
    if how == "another order":  # copies stay in their order among themselves
        order = np.argsort(ASKED, kind="stable")
        assert drawn(policy, ASKED[order]) == [asked[i] for i in order]
    elif how == "slots":
        assert drawn(policy, ASKED, slots=8) == asked
    elif how == "a mesh":
        mesh = parallel.make_mesh(parallel.MeshConfig())
        assert drawn(policy, ASKED, sharding=NamedSharding(mesh, PartitionSpec(("data", "fsdp")))) == asked
    else:
        times = rollout.occurrences(ASKED)
        assert times.tolist() == [0, 0, 1, 2, 0, 1, 3, 0]
        first, second = (drawn(policy, ASKED[at], occurrence=times[at]) for at in (slice(0, 3), slice(3, 8)))
        assert first + second == asked


def test_few_prompts_come_several_times_in_an_iteration():
    """Five prompts, eight an iteration: epochs end within it, and three responses are second or third ones."""
    prompts = [EncodedPrompt(str(i), np.array([3]), i) for i in range(5)]
    config = GroupConfig(prompts=8, minibatches=1, seed=1)
    for iteration in range(3):
        ids = [prompt.id for prompt in batch_of_prompts(prompts, config, iteration)]
        assert sorted(set(ids)) == [0, 1, 2, 3, 4]
        assert np.count_nonzero(rollout.occurrences(ids)) == 3


# ---- several tokens that end a response ------------------------------------------------------------------------------

TEXT_END, _, TURN_END, MESSAGE_END = range(4)  # ids of SPECIALS
WORD = 40  # an id that is a letter

ENDS = {  # name -> (files beside the tokenizer, what ends a response; the first is what trained responses end with)
    "nothing is said": ({}, (TURN_END,)),
    "one": ({"generation_config": {"eos_token_id": TEXT_END}}, (TURN_END, TEXT_END)),
    "several": ({"generation_config": {"eos_token_id": [TURN_END, TEXT_END, MESSAGE_END]}}, (2, 0, 3)),
    "in config.json": ({"config": {"eos_token_id": [MESSAGE_END, TEXT_END]}}, (2, 3, 0)),
    "in both": ({"config": {"eos_token_id": 5}, "generation_config": {"eos_token_id": [MESSAGE_END]}}, (2, 3)),
    "null": ({"config": {"eos_token_id": [MESSAGE_END]}, "generation_config": {"eos_token_id": None}}, (2, 3)),
    "ids without a token": ({"generation_config": {"eos_token_id": [MESSAGE_END, 4000, -1]}}, (2, 3)),
    "a word": ({"generation_config": {"eos_token_id": [WORD]}}, (2, WORD)),
    "another end of texts": ({"eos": SPECIALS[TEXT_END]}, (TURN_END, TEXT_END)),
}


@pytest.mark.parametrize("case", ENDS)
def test_every_end_that_a_checkpoint_names_is_one(case, tmp_path):
    files, want = ENDS[case]
    make_tokenizer(tmp_path / "model", **files)
    tokenizer = Tokenizer.load(tmp_path / "model")
    assert tokenizer.end_ids == want
    assert tokenizer.eos_id == tokenizer.encode_response("Yes.")[-1] == TURN_END
    # In a run folder, and in the files that transformers reads.
    tokenizer.save(tmp_path / "tokenizer.json")
    tokenizer.save_pretrained(tmp_path / "again")
    for path in (tmp_path / "tokenizer.json", tmp_path / "again"):
        assert Tokenizer.load(path).end_ids == want
        assert Tokenizer.load(path).to_json() == tokenizer.to_json()
    assert tokenizer.with_padding_apart().pad_id not in want
    make_tokenizer(tmp_path / "plain")
    assert tokenizer.writes_like(Tokenizer.load(tmp_path / "plain")) == (case != "another end of texts")


@pytest.mark.parametrize("value", ["2", [2, "0"], True, {"id": 2}, 2.0])
def test_what_is_no_id_is_refused_by_name(value, tmp_path):
    make_tokenizer(tmp_path, generation_config={"eos_token_id": value})
    with pytest.raises(DataError, match=r"generation_config\.json: eos_token_id: expected a token's id or a list"):
        Tokenizer.load(tmp_path)


def test_an_adapter_ends_where_its_base_does(tmp_path):
    base = tmp_path / "base"
    make_tokenizer(base, generation_config={"eos_token_id": [TURN_END, MESSAGE_END]}, config={})
    (base / "model.safetensors").touch()  # no weight is read
    make_tokenizer(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    assert checkpoint_tokenizer(tmp_path / "adapter").end_ids == (TURN_END, MESSAGE_END)


def test_a_gguf_file_names_ends_of_texts_turns_and_messages(tmp_path):
    pairs = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["a", "b", *SPECIALS],
        "tokenizer.ggml.merges": [],
    }
    ends = {"eos": 2, "eot": 4, "eom": 5}
    backend, config = build({**pairs, **{f"tokenizer.ggml.{k}_token_id": v for k, v in ends.items()}}, where="m.gguf")
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert Tokenizer.load(tmp_path).end_ids == (2, 4, 5)


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A model with three ends, one of them a letter, and 128 responses of it."""
    ends = {"eos_token_id": [TURN_END, TEXT_END, WORD]}
    loaded = Policy.load(make(tmp_path_factory.mktemp("ends") / "model", scale=4.0, generation_config=ends))
    rows = list(loaded.sample(["Hello"], n=128, sampling=SamplingConfig(max_new_tokens=48, window=48)))
    return loaded, rows


def test_nothing_is_sampled_after_an_end(ended):
    loaded, rows = ended
    lasts = {row["tokens"][-1] for row in rows if len(row["tokens"]) < 48}
    assert lasts == {TURN_END, TEXT_END, WORD}  # each of them did end some
    for row in rows:
        assert not set(row["tokens"][:-1]) & lasts
    # The end is not shown, also where it is a letter.
    letter = loaded.tokenizer.decode([WORD])
    assert not any(letter in row["response"] for row in rows)


@pytest.mark.parametrize(("said", "want"), [("###", ("###",)), (["a", "b", "a"], ("a", "b")), (None, ())])
def test_texts_that_a_checkpoint_says_end_a_response_do(said, want, policy, tmp_path):
    make_tokenizer(tmp_path / "model", generation_config={"stop_strings": said, "eos_token_id": 3})
    tokenizer = Tokenizer.load(tmp_path / "model")
    tokenizer.save(tmp_path / "tokenizer.json")
    tokenizer.save_pretrained(tmp_path / "again")
    for path in (tmp_path / "model", tmp_path / "tokenizer.json", tmp_path / "again"):
        assert Tokenizer.load(path).stops == want
    engine = make_engine(policy[0], tokenizer, SamplingConfig(stop=(".",)))
    assert engine.config.stop == (".", *want)
    made = _generation(None, tokenizer, ["."])
    assert made == {"eos_token_id": [2, 3], "pad_token_id": 0, "stop_strings": [*want, "."]}


@pytest.mark.parametrize("said", [7, ["a", ""], [None]])
def test_what_is_no_stop_string_is_refused_by_name(said, tmp_path):
    make_tokenizer(tmp_path, generation_config={"stop_strings": said})
    with pytest.raises(DataError, match=r"generation_config\.json: stop_strings: expected a text or a list of texts"):
        Tokenizer.load(tmp_path)


def test_a_chat_ends_there_too(ended):
    loaded, _ = ended
    letter, said = loaded.tokenizer.decode([WORD]), []
    conversation = Conversation(loaded, SamplingConfig(max_new_tokens=48, window=48))
    for _ in range(8):
        said.append("".join(conversation.ask("Hello")))
        conversation.reset()
    assert not any(letter in text for text in said)


def test_what_is_exported_ends_there_too(ended, tmp_path):
    loaded, _ = ended
    models.save_pretrained(tmp_path / "model", loaded.config, loaded.params, tokenizer=loaded.tokenizer)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["eos_token_id"] == [TURN_END, TEXT_END, WORD]
    assert Tokenizer.load(tmp_path / "model").end_ids == loaded.tokenizer.end_ids


# ---- ids that no token has -------------------------------------------------------------------------------------------

SIZES = {"d_model": 16, "n_layers": 1, "n_heads": 2, "n_kv_heads": 2, "head_dim": 8, "d_ff": 32}
TOKENLESS = ((0, 2), (20, 21), (30, 40))
KNOWN = np.array([i for i in range(40) if not any(a <= i < b for a, b in TOKENLESS)])


def padded(**changes):
    """A model with 40 ids, of which 27 have a token; and the model whose matrix has those 27 rows alone."""
    config = models.ModelConfig(vocab_size=40, **SIZES, **changes)
    params = jax.tree.map(lambda x: 4 * x, models.build(config).init(jax.random.key(0)))
    if not config.tie_embeddings:
        small = {**params, "embedding": params["embedding"][KNOWN], "unembedding": params["unembedding"][:, KNOWN]}
    else:
        small = {**params, "embedding": params["embedding"][KNOWN]}
    fewer = dataclasses.replace(config, vocab_size=len(KNOWN))
    return dataclasses.replace(config, tokenless=TOKENLESS), params, fewer, small


def loss_of(config, tokens, temperature=0.7):
    """Log-probabilities, entropies and a loss of both, as training makes them."""
    model = models.build(config)

    def loss(params):
        hidden = model.apply(params, tokens, jnp.arange(6)[None].repeat(2, 0), jnp.ones_like(tokens))
        logprobs, entropy = model.token_stats(params, hidden, jnp.roll(tokens, -1, 1), temperature=temperature)
        return jnp.sum(logprobs) + 0.5 * jnp.sum(entropy), (logprobs, entropy)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.parametrize("changes", [{}, {"tie_embeddings": False, "logit_softcap": 3.0}], ids=["tied", "capped"])
def test_a_padded_vocabulary_is_the_one_without_the_padding(changes):
    """The same log-probabilities, entropies and gradients as a model that has only the rows with a token."""
    config, params, fewer, small = padded(**changes)
    drawn = jax.random.randint(jax.random.key(1), (2, 6), 0, len(KNOWN))
    (_, (logprobs, entropy)), gradient = loss_of(config, jnp.asarray(KNOWN)[drawn])(params)
    (_, (want_logprobs, want_entropy)), want = loss_of(fewer, drawn)(small)
    np.testing.assert_allclose(logprobs, want_logprobs, atol=1e-5)
    np.testing.assert_allclose(entropy, want_entropy, atol=1e-5)
    name, axis = ("embedding", 0) if config.tie_embeddings else ("unembedding", 1)
    matrix = np.asarray(gradient[name])
    np.testing.assert_allclose(np.take(matrix, KNOWN, axis=axis), want[name], atol=1e-4)
    assert not np.delete(matrix, KNOWN, axis=axis).any()
    for below, wanted in zip(*map(jax.tree.leaves, (gradient["blocks"], want["blocks"])), strict=True):
        np.testing.assert_allclose(below, wanted, atol=1e-4)
    # The exact KL to a teacher that knows no id is without a token: what the student never says has none there either.
    hidden = jax.random.normal(jax.random.key(2), (1, 3, 16))
    teacher = dataclasses.replace(config, tokenless=())
    heads = [output_head(c, p) for c, p in ((config, params), (teacher, jax.tree.map(lambda x: 2 * x, params)))]
    few = [output_head(fewer, p) for p in (small, jax.tree.map(lambda x: 2 * x, small))]
    for under in ("student", "teacher"):
        found = models.token_kl(hidden, heads[0], hidden, heads[1], under=under)
        np.testing.assert_allclose(found, models.token_kl(hidden, few[0], hidden, few[1], under=under), atol=1e-5)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.0}, {"top_k": 30}, {"int8": "weights"}])
def test_an_id_without_a_token_is_never_drawn(sampling):
    config, params, _, _ = padded()
    settings = SamplingConfig(max_new_tokens=8, window=8, **sampling)
    engine = rollout.Engine(models.build(config), settings, pad_id=2, eos_id=99)
    drawn = engine(params, [[3, 4]], key=KEY, samples=256)
    assert set(np.asarray(drawn.tokens[0, :, -8:]).reshape(-1).tolist()) <= set(KNOWN.tolist())
    if sampling.get("int8"):
        return  # another network, by a little
    batch = SequenceBatch(drawn.tokens, drawn.mask, drawn.segment_ids, drawn.positions)
    trained = jax.jit(lambda p, b: forward({"policy": models.build(config)}, {"policy": p}, b).logprobs)(params, batch)
    np.testing.assert_allclose(trained, drawn.logprobs, atol=1e-4)  # the ratio is 1


def test_without_padding_the_programs_are_the_same_to_the_letter():
    config, params, _, _ = padded()
    every = dataclasses.replace(config, tokenless=())
    tokens = jnp.full((2, 6), 5)
    texts = [jax.jit(loss_of(c, tokens)).lower(params).as_text() for c in (every, config)]
    assert ["1.000000e+20" in text for text in texts] == [False, True]  # NEVER is nowhere


@pytest.mark.parametrize("more", [0, 150])
def test_a_checkpoints_padding_is_found_and_kept(more, tmp_path):
    folder = make(tmp_path / "model")
    tokenizer = Tokenizer.load(folder)
    if more:
        folder = make(tmp_path / "padded", vocab_size=tokenizer.vocab_size + more, scale=4.0)
    loaded = Policy.load(folder)
    first = tokenizer.vocab_size
    assert loaded.config.tokenless == (((first, first + more),) if more else ())
    rows = loaded.sample(["Hello"], n=64, sampling=SamplingConfig(max_new_tokens=16, window=16))
    assert max(max(row["tokens"]) for row in rows) < first
    again = models.ModelConfig.from_json(json.loads(json.dumps(dataclasses.asdict(loaded.config))))
    assert again == loaded.config
    models.save_pretrained(
        tmp_path / "out", loaded.config, loaded.params, tokenizer=tokenizer
    )  # what is stored is whole
    assert models.load_pretrained(tmp_path / "out")[0].vocab_size == first + more


# ---- a sequence classifier where a language model is meant, and the other way round ---------------------------------


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return make(tmp_path_factory.mktemp("classifier") / "model", classifier=True)


TRAINS = {"lora": models.LoRAConfig(), "seed": 0}


def test_a_classifier_is_no_policy(classifier, capsys):
    with pytest.raises(RunError, match="a sequence classifier: it scores text and writes none, so it is no model to"):
        Policy.load(classifier)
    with pytest.raises(RunError, match=r"no model to train a policy from.*can be a --reward-model"):
        start_from(str(classifier), mesh=one_mesh(), **TRAINS)
    assert cli.run(["sample", str(classifier), "Hello"]) != 0
    assert "scores text and writes none" in capsys.readouterr().err


def test_a_classifier_scores(classifier):
    """At the token that ends the response, as transformers finds it: the last that is no padding."""
    scorer = Scorer.load(classifier)
    asked, said = ["Hello", "Hello there"], ["Paris.", "today"]
    tokens = [
        np.append(scorer.tokenizer.encode_prompt(prompt), scorer.tokenizer.encode_response(response))
        for prompt, response in zip(asked, said, strict=True)
    ]
    config, params = models.load_pretrained(classifier)
    model = models.build(config)
    for row, found in zip(tokens, scorer(asked, said), strict=True):
        there = jnp.ones((1, len(row)), jnp.int32)
        hidden = model.apply(params, jnp.asarray(row)[None], jnp.arange(len(row))[None], there)
        assert found == pytest.approx(float(model.scores(params, hidden, jnp.array([len(row) - 1]))[0]), abs=1e-5)
    loaded = load_reward(str(classifier), scorer.tokenizer)
    assert loaded.config.scalar_head
    # Exported, a reward model pads with another token: what it reads is the same.
    exported = scorer.tokenizer.with_ends([TEXT_END]).with_padding_apart()
    assert exported.pad_id != scorer.tokenizer.pad_id
    load_reward(str(classifier), exported)
    with pytest.raises(RunError, match="different tokenizers"):
        load_reward(str(classifier), scorer.tokenizer.with_format("plain"))


def test_a_language_model_scores_nothing(ended, tmp_path):
    loaded, _ = ended
    models.save_pretrained(tmp_path / "model", loaded.config, loaded.params, tokenizer=loaded.tokenizer)
    with pytest.raises(RunError, match=r"is a language model, which has no score.*rlhf reward --init trains one"):
        Scorer.load(tmp_path / "model")
    assert start_from(str(tmp_path / "model"), mesh=one_mesh(), scores=True, **TRAINS).head is None


def one_mesh():
    return parallel.make_mesh(parallel.MeshConfig(), jax.devices()[:1])


@pytest.mark.parametrize("layers", [0, 1])
def test_a_reward_model_that_goes_on_keeps_its_head(classifier, layers):
    start = start_from(str(classifier), mesh=one_mesh(), scores=True, layers=layers, **TRAINS)
    config, params = models.load_pretrained(classifier)
    begun = with_head(start.params, config, start.head)
    jax.tree.map(np.testing.assert_array_equal, begun, params)
    assert start.sha256 != start._replace(head=None).sha256
    members = stacked_members(start.params, config, RewardConfig(members=2, layers=layers), start.head)
    assert members["head"]["kernel"].shape == (2, 16, 1)


def test_samples_are_scored(classifier, ended, tmp_path, capsys):
    loaded, _ = ended
    models.save_pretrained(tmp_path / "model", loaded.config, loaded.params, tokenizer=loaded.tokenizer)
    words = ["sample", str(tmp_path / "model"), "Hello", "--n", "3", "--max-new-tokens", "4"]
    assert cli.run([*words, "--reward-model", str(classifier)]) == 0
    shown = capsys.readouterr().out
    rows = list(loaded.sample(["Hello"], n=3, sampling=SamplingConfig(max_new_tokens=4)))
    scorer = Scorer.load(classifier)
    prompt = scorer.tokenizer.encode_prompt("Hello")
    want = scorer.score_tokens([np.append(prompt, row["tokens"]) for row in rows])
    assert shown == "".join(f"{score:.3f}  {row['response']}\n" for score, row in zip(want, rows, strict=True))
    as_text = [row["score"] for row in scored(rows, scorer, as_text=True)]
    np.testing.assert_allclose(as_text, scorer(["Hello"] * 3, [row["response"] for row in rows]))


# ---- rated responses that do not fill a group ------------------------------------------------------------------------

GROUPS = {  # responses of one prompt, group_size -> the sizes of an epoch's groups
    (8, 8): [8],
    (5, 8): [5],
    (2, 8): [2],
    (12, 8): [8, 4],
    (17, 8): [8, 7, 2],
    (3, 2): [2],
    (4, 3): [2, 2],
    (1, 8): [],
}


@pytest.mark.parametrize(("count", "size"), GROUPS)
def test_every_rated_response_is_in_a_group(count, size):
    """But for one that is alone, and for the odd one of pairs, whose turn comes in another epoch."""
    sentences = [Example((np.array([1, n, 2], np.int32),), (1,)) for n in range(count)]
    histograms = feedback.histograms([np.array([n % 3, 2]) for n in range(count)])
    used = set()
    for epoch in range(8):
        groups = data.rated_groups(
            sentences,
            ["x"] * count,
            histograms,
            group_size=size,
            votes=feedback.votes_from_histograms,
            seed=0,
            epoch=epoch,
        )
        assert [len(group.tokens) for group in groups] == GROUPS[count, size]
        for group in groups:
            members = [int(tokens[1]) for tokens in group.tokens]
            used |= set(members)
            np.testing.assert_allclose(group.votes, feedback.votes_from_histograms(histograms[members]))
    assert used == (set(range(count)) if count > 1 else set())


def test_a_smaller_group_says_what_it_says_alone():
    """Beside a larger one it is filled up with empty responses, which count for nothing in any objective on groups."""
    pair, three = (
        Example(
            tuple(np.array([1, 5 + n, 2], np.int32) for n in range(k)),
            (1,) * k,
            np.triu(np.arange(1.0, k * k + 1).reshape(k, k), 1).astype(np.float32),
            np.arange(k, dtype=np.float32),
        )
        for k in (2, 3)
    )
    shape = {"rows": 2, "row_length": 12, "pad_id": 0}
    batch = PackedEpochs(lambda _: [pair, three], epochs=1, **shape)[0]
    alone = PackedEpochs(lambda _: [pair], epochs=1, **shape)[0]
    assert batch.tokens.shape[:2] == (2, 3)
    assert batch.mask.any(-1).tolist() == [[True, True, False], [True] * 3]
    assert batch.votes[0].tolist() == [[0, 2, 0], [0, 0, 0], [0, 0, 0]]
    packed = batch.packing.tokens.reshape(-1)
    assert [packed[places[:3]].tolist() for places in batch.packing.places[0, :2]] == [[1, 5, 2], [1, 6, 2]]
    scores = jnp.array([[0.5, -0.25, 7.0]])
    for objective in (objectives.reward_model, objectives.plackett_luce):
        whole = jax.tree.map(lambda x: jnp.asarray(x[:1]), batch._replace(packing=None))
        found = objective(Outputs(scores=scores), whole, center=0.01)
        beside = jax.tree.map(jnp.asarray, alone._replace(packing=None))
        want = objective(Outputs(scores=scores[:, :2]), beside, center=0.01)
        for a, b in zip(found.reduction(found.values, found.mask), want.reduction(want.values, want.mask), strict=True):
            assert float(a) == pytest.approx(float(b), rel=1e-6)


def test_what_is_left_out_is_counted(capsys):
    rows = [RatedResponse(prompt, str(i), np.array([1.0]), "") for i, prompt in enumerate("aaabbcd")]
    (said,) = _alone(rows, 8, "f.jsonl")
    assert said.startswith("f.jsonl: 2 of 7 rated responses are the only ones to their prompts")
    assert _alone(rows, 2, "f.jsonl")[1].startswith("f.jsonl: 1 prompts have an odd number of rated responses")
    assert said in capsys.readouterr().err
    # Members of an ensemble take steps side by side: the batches that one has more are in no step.
    one = Example((np.array([1, 5, 2], np.int32),), (1,))
    members = MemberBatches([lambda _: [one] * 6, lambda _: [one] * 8], epochs=1, rows=1, row_length=6, pad_id=0)
    assert (len(members), members.left_out, members.examples) == (3, 2, 14)
    assert "2 of 14 groups" in say_left_out(members)[0]


# ---- what Python callers pass ----------------------------------------------------------------------------------------

CHAT = [data.Message("user", "Hi.")]
WRONG = {  # what is passed -> what the error says
    "one text": ("hello", {}, TypeError, r"prompts is one text, 'hello'.*pass a list, \['hello'\]"),
    "one chat": (CHAT, {}, TypeError, r"prompts is one chat.*pass a list, \[chat\]"),
    "a number": ([7], {}, TypeError, r"prompts\[0\] is 7: expected a text, or a chat as a list of data\.Message"),
    "dictionaries": ([[{"role": "user"}]], {}, TypeError, r"prompts\[0\] is .*: expected a text, or a chat"),
    "no turns": (["Hi.", ()], {}, ValueError, r"prompts\[1\] is a chat without turns"),
    "nothing": (None, {}, TypeError, "prompts is None: expected a list"),
    "none of each": (["Hi."], {"n": 0}, ValueError, "n must be at least 1, found 0"),
    "half of one": (["Hi."], {"n": 0.5}, TypeError, r"n must be a whole number, found 0\.5"),
    "20,000 words": (
        ["word " * 20_000],
        {},
        RunError,
        r"prompt 0 has \d+ tokens, and the model reads 256, which leaves",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_sampled_from_is_said_at_the_door(case, ended):
    """At the call, before the first row is asked for."""
    prompts, others, kind, says = WRONG[case]
    with pytest.raises(kind, match=says):
        ended[0].sample(prompts, **others)


def test_a_chat_is_a_prompt_and_no_prompts_are_no_rows(ended):
    assert checked_prompts([CHAT, "Hi."]) == [CHAT, "Hi."]
    assert list(ended[0].sample([])) == []


def test_a_model_that_does_not_say_how_much_it_reads_is_given_a_limit(ended, classifier):
    unsaid = dataclasses.replace(ended[0], config=dataclasses.replace(ended[0].config, max_length=0))
    long = "word " * 20_000
    with pytest.raises(RunError, match=r"prompt 0 has \d+ tokens, and the model reads 8192 at most, as its"):
        unsaid.sample([long])
    with pytest.raises(RunError, match=r"the question has \d+ tokens, and the model's context of 8192 leaves"):
        list(Conversation(unsaid).ask(long))
    scorer = Scorer.load(classifier)
    scorer = dataclasses.replace(scorer, config=dataclasses.replace(scorer.config, max_length=0))
    with pytest.raises(RunError, match=r"prompt and response 1 have \d+ tokens: the reward model reads 8192 at most"):
        scorer(["Hi.", long], ["Yes.", "No."])
    for prompts, responses, says in (
        ("Hi.", ["Yes."], "prompts is one text"),
        (["Hi."], "Yes.", "responses is one text"),
        (["Hi."], [None], r"responses\[0\] is None: expected a text"),
    ):
        with pytest.raises(TypeError, match=says):
            scorer(prompts, responses)
    with pytest.raises(ValueError, match="2 prompts have 1 responses: pass one for each"):
        scorer(["Hi.", "Hello."], ["Yes."])


def test_an_engine_takes_token_ids(policy):
    model, params = policy
    engine = rollout.Engine(model, SamplingConfig(max_new_tokens=4), pad_id=testing.PAD, eos_id=testing.EOS)
    for wrong in ("hello", ["hello"], [[0.5, 1.0]], [3, 4]):
        with pytest.raises(TypeError, match="token ids"):
            engine(params, wrong, key=KEY)
    with pytest.raises(ValueError, match="samples must be at least 1, found 0"):
        engine(params, [[3]], key=KEY, samples=0)
    with pytest.raises(ValueError, match=r"prompt 0 has 8189 tokens, and the model reads 8192 at most"):
        engine(params, [[3] * 8189], key=KEY)


# ---- samples that nothing can be learnt from -------------------------------------------------------------------------

LOGS = {  # figures of the iterations -> the alarm and the step where it is raised
    "nothing ends": ({"eos_rate": [0.0, 0.0, 0.0]}, ("no_response_ends", 2)),
    "nothing ends any more": ({"eos_rate": [0.5, 0.0, 0.0]}, ("no_response_ends", 3)),
    "one batch without an end": ({"eos_rate": [0.0, 0.1, 0.0]}, None),
    "nothing ends on a few held-out prompts": ({"eos_rate": [0.1, 0.1, 0.0], "heldout_eos": [0.0, None, 0.0]}, None),
    "nothing ends on held-out prompts": ({"heldout_eos": [0.0, None, 0.0]}, ("no_response_ends", 3)),
    "one reward": ({"proxy_std": [0.0, 0.0, 0.0], "proxy_mean": [1.0, 1.0, 1.0]}, ("constant_reward", 2)),
    "one large reward": ({"proxy_std": [1e-4, 1e-4], "proxy_mean": [9e5, 9e5]}, ("constant_reward", 2)),
    "a narrow reward": ({"proxy_std": [1e-3, 1e-3], "proxy_mean": [0.5, 0.5]}, None),
    "one reward by chance": ({"proxy_std": [0.0, 0.2, 0.0], "proxy_mean": [0.0, 0.1, 0.0]}, None),
}


@pytest.mark.parametrize("case", LOGS)
@pytest.mark.parametrize("stage", ["ppo", "group"])
def test_an_alarm_says_that_there_is_nothing_to_learn_and_where_to_look(case, stage):
    figures, want = LOGS[case]
    count = max(map(len, figures.values()))
    rows = [{"step": i + 1, **{f"{stage}/{name}": values[i] for name, values in figures.items()}} for i in range(count)]
    found = evaluation.alarms(rows, stage=stage)
    assert [(alarm.name, alarm.step) for alarm in found] == ([want] if want else [])
    for alarm in found:
        assert (
            "Raise max_new_tokens" if alarm.name == "no_response_ends" else "Look whether the reward"
        ) in alarm.message
