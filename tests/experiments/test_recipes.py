"""The published recipes: their configs are the papers', and each runs end to end on a few rows and a random model.

Rows have the data sets' exact columns (tests/data/samples); models are tiny ones of the recipes' families.
"""

import dataclasses
import importlib
import json
import math
import shutil
import sys
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest

from rlhf_jax import models, parallel
from rlhf_jax.data import Message, Tokenizer
from rlhf_jax.runs.folder import load_stage, read_record
from rlhf_jax.stages import DataConfig, opinions, sources
from rlhf_jax.stages.model_sizes import warn_of_rates

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "tests" / "data" / "samples"
sys.path.insert(0, str(ROOT / "experiments"))  # as `python experiments/tldr.py` has it

tldr, hh, ultrafeedback = (importlib.import_module(name) for name in ("tldr", "hh", "ultrafeedback"))
SIZES = {"d_model": 32, "n_layers": 2, "n_heads": 4, "head_dim": 8, "d_ff": 64, "max_length": 1024}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def samples(name):
    return [json.loads(line) for line in (SAMPLES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def split(folder, rows, train="train", heldout="test"):
    """The first rows to train on, the last three to hold out, in files named as the splits on the hub."""
    write(folder / f"{train}.jsonl", rows[:-3])
    write(folder / f"{heldout}.jsonl", rows[-3:])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The data sets of all recipes, as --data takes them."""
    folder = tmp_path_factory.mktemp("data")
    posts = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in samples("tldr_preference")]
    split(folder / "tldr", posts, heldout="validation")
    compared = samples("tldr_comparisons")
    split(folder / "summarize_from_feedback" / "comparisons", compared, heldout="validation")
    split(folder / "hh-rlhf", samples("hh"))
    split(folder / "ultrachat_200k", samples("messages"), "train_sft", "test_sft")
    split(folder / "ultrafeedback_binarized", samples("ultrafeedback"), "train_prefs", "test_prefs")
    return folder


def checkpoint(folder, config, specials):
    """A random model of a family and a tokenizer as its own, without a chat template."""
    import tokenizers
    from tokenizers import AddedToken, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE

    backend = tokenizers.Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    texts = [text for name in ("hh", "tldr_preference") for row in samples(name) for text in row.values()]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet))
    backend.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials.values()])
    size = backend.get_vocab_size()
    config = models.ModelConfig(**SIZES, **config, vocab_size=size + (-size) % 8)
    models.save_pretrained(folder, config, models.build(config).init(jax.random.key(0)))
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(specials), encoding="utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def pythia(tmp_path_factory):
    config = {
        "family": "gpt_neox",
        "n_kv_heads": 4,
        "norm": "layer",
        "norm_eps": 1e-5,
        "parallel_residual": True,
        "rope_fraction": 0.25,
        "gated_mlp": False,
        "activation": "gelu",
        "qkv_bias": True,
        "out_bias": True,
        "mlp_bias": True,
        "tie_embeddings": False,
    }
    end = "<|endoftext|>"
    return checkpoint(tmp_path_factory.mktemp("models") / "pythia", config, {"bos_token": end, "eos_token": end})


@pytest.fixture(scope="module")
def mistral(tmp_path_factory):
    config = {"family": "mistral", "n_kv_heads": 2, "sliding_window": 4096, "tie_embeddings": False}
    specials = {"bos_token": "<s>", "eos_token": "</s>"}
    return checkpoint(tmp_path_factory.mktemp("models") / "mistral", config, specials)


def options(kind, folder, data, model, **changes):
    return kind(model=model, out=str(folder), data=str(data), fast=True, **changes)


def figures(tree):
    """All numbers of a summary."""
    if isinstance(tree, dict | list):
        for x in tree.values() if isinstance(tree, dict) else tree:
            yield from figures(x)
    elif isinstance(tree, int | float):
        yield tree


def check_run(directory, *stages):
    """The folder holds these stages whole, and every figure in its summary is a finite number."""
    summary = read_record(directory / "summary.json")
    assert set(stages) <= set(summary)
    for stage in stages:
        assert (directory / "params" / stage).exists()
        assert all(math.isfinite(x) for x in figures(summary[stage])), stage
        assert summary[stage]["skipped_updates"] == 0
    return summary


@pytest.fixture(scope="module", autouse=True)
def one_device():
    """Programs for eight devices take several times as long to compile; tests/stages/test_meshes.py is about them."""
    made, here = parallel.make_mesh, jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "make_mesh", lambda config: made(config, devices=here))
        for module in (tldr, hh):  # the pictures of a report take seconds; ultrafeedback's are drawn
            patch.setattr(module, "write_report", lambda directory: None)
        yield


@pytest.fixture(scope="module")
def tldr_run(data, pythia, tmp_path_factory):
    return tldr.run(options(tldr.TLDR, tmp_path_factory.mktemp("tldr"), data, pythia))


def test_held_out_rows_are_spread_over_all_there_are_and_only_the_first_bad_ones_are_listed(data, capsys):
    rows = DataConfig(source=str(data / "tldr"), split="validation", heldout="train")
    held = sources.demonstrations(rows)
    some = sources.demonstrations(dataclasses.replace(rows, heldout_limit=2))
    for whole, part in ((held.validation, some.validation), (held.test, some.test)):
        assert [row.where for row in part] == [whole[0].where, whole[-1].where]
    with pytest.raises(ValueError, match="human_sentiment is always held out whole"):
        DataConfig(heldout_limit=2)
    capsys.readouterr()
    sources.list_bad([f"row {i} is too long" for i in range(100)])
    said = capsys.readouterr().err.splitlines()
    assert (said[0], said[-2], said[-1]) == ("left out 100 bad rows:", "  row 19 is too long", "  ... and 80 more")


def test_tldr_runs_from_a_pythia_to_a_policy(tldr_run):
    summary = check_run(tldr_run, "sft", "reward", "ppo")
    assert summary["sft"]["training_rows"] == 5
    assert 0 <= summary["reward"]["accuracy"] <= 1
    assert {"kl", "proxy_before", "proxy_after"} <= set(summary["ppo"])
    # Prompts of the quickstart's data set have no place in the summary of another.
    assert "prompts" not in summary
    assert load_stage(tldr_run, "ppo")[1].family == "gpt_neox"


def test_main_continues_where_a_run_is_finished_and_says_what_came_out(tldr_run, data, pythia, capsys):
    tldr.main(options(tldr.TLDR, tldr_run, data, pythia))
    said = capsys.readouterr().out
    assert str(tldr_run / "report.html") in said
    assert "reward model ranks" in said


def test_a_summary_has_the_same_tokens_for_sft_and_for_the_reward_model(data, pythia):
    config = tldr.configs(options(tldr.TLDR, "unused", data, pythia))
    tokenizer = Tokenizer.load(pythia)
    posts = sources.encode_demonstrations(sources.demonstrations(config.sft.data).train, tokenizer, config.sft.data)
    pairs = opinions.comparisons(config.reward.data, tokenizer, group_size=2, seed=0).epoch(0)
    compared = {tuple(tokens.tolist()) for pair in pairs for tokens in pair.tokens}
    assert any(tuple(post.tokens[0].tolist()) in compared for post in posts)


def test_hh_runs_with_adapters_from_a_pythia_to_a_policy(data, pythia, tmp_path):
    directory = hh.run(options(hh.HH, tmp_path / "run", data, pythia, lora_rank=2))
    summary = check_run(directory, "sft", "reward", "ppo")
    assert summary["sft"]["trained_parameters"] < summary["sft"]["parameters"] / 10
    samples = [json.loads(line) for line in (directory / "samples.jsonl").read_text().splitlines()]
    assert samples[0]["prompt"].endswith("Assistant:")


def test_ultrafeedback_runs_from_a_mistral_to_a_chat_model(data, mistral, tmp_path):
    directory = ultrafeedback.run(options(ultrafeedback.UltraFeedback, tmp_path / "run", data, mistral))
    summary = check_run(directory, "sft", "preference")
    # The one pair of the test part is the tie among the samples: it has no right answer.
    assert (summary["preference"]["pairs"], summary["preference"]["accuracy"]) == (0, None)
    assert (directory / "report.html").exists()
    # Three epochs of seven pairs, all of which fit into one batch.
    assert summary["preference"]["steps"] == 3
    tokenizer = load_stage(directory, "preference")[2]
    assert tokenizer.format == "chat"
    asked = tokenizer.decode(tokenizer.encode_prompt("Hi?"))
    assert asked == "<|user|>\nHi?\n<|assistant|>\n"  # decoding drops the end of text
    # The model's own folder is as it was.
    assert not (Path(mistral) / "chat_template.jinja").exists()


def test_zephyrs_template_ends_every_turn_and_only_the_assistants_turns_are_targets(mistral, tmp_path):
    ultrafeedback.add_template(mistral, str(tmp_path))
    tokenizer = Tokenizer.load(ultrafeedback.base(str(tmp_path)))
    chat = [
        Message("user", "Hi?"),
        Message("assistant", "Hello."),
        Message("user", "Bye."),
        Message("assistant", "Bye!"),
    ]
    tokens, mask = tokenizer.encode_dialogue(chat)
    assert (np.asarray(tokens) == tokenizer.eos_id).sum() == 4
    assert tokenizer.decode(tokens[mask]) == "Hello.Bye!"
    assert tokens[mask][-1] == tokenizer.eos_id


def test_a_chat_template_that_is_there_is_kept(mistral, tmp_path):
    own = tmp_path / "model"
    shutil.copytree(mistral, own)
    (own / "chat_template.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
    ultrafeedback.add_template(str(own), str(tmp_path / "run"))
    assert (
        ultrafeedback.base(str(tmp_path / "run")) / "chat_template.jinja"
    ).read_text() == "{{ messages[0].content }}"


@pytest.mark.parametrize(
    ("module", "kind", "name"),
    [
        (tldr, "TLDR", "EleutherAI/pythia-1b-deduped"),
        (hh, "HH", "EleutherAI/pythia-2.8b"),
        (ultrafeedback, "UltraFeedback", "mistralai/Mistral-7B-v0.1"),
    ],
    ids=["tldr", "hh", "ultrafeedback"],
)
def test_a_missing_model_is_an_error_that_says_how_to_get_it(module, kind, name, tmp_path):
    missing = str(tmp_path / "missing")
    with pytest.raises(SystemExit, match=f"hf download {name} .*--local-dir {missing}"):
        module.run(vars(module)[kind](model=missing, out=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def rate(optimizer):
    return (optimizer.learning_rate, optimizer.warmup_fraction, optimizer.final_fraction, optimizer.b2)


def test_tldr_has_the_values_of_huang_et_al():
    config = tldr.configs(tldr.TLDR())
    assert config.sft.init == "models/pythia-1b-deduped"
    assert config.sft.data.source == config.ppo.data.source == "hf:trl-lib/tldr"
    assert config.reward.data.source == "hf:openai/summarize_from_feedback:comparisons"
    optimizers = (
        config.sft.optimizer,
        config.reward.optimizer,
        config.ppo.policy_optimizer,
        config.ppo.critic_optimizer,
    )
    for optimizer in optimizers:
        assert rate(optimizer) == (3e-6, 0.0, 0.0, 0.999)
        assert (optimizer.eps, optimizer.weight_decay) == (1e-5, 0.01)
    assert config.sft.epochs == config.reward.epochs == 1
    ppo = config.ppo
    assert (ppo.kl.kind, ppo.kl.coef, ppo.kl.placement) == ("fixed", 0.05, "reward")
    assert (ppo.prompts, ppo.samples, ppo.epochs, ppo.minibatches) == (512, 1, 4, 1)
    assert 1_000_000 - 512 < ppo.iterations * ppo.prompts <= 1_000_000
    assert (ppo.gamma, ppo.gae_lambda) == (1.0, 0.95)
    loss = ppo.loss
    assert (loss.clip_low, loss.clip_high, loss.value_clip, loss.value_coef) == (0.2, 0.2, 0.2, 0.1)
    assert (ppo.max_prompt_length, ppo.sampling.max_new_tokens) == (512, 53)
    assert not ppo.shaping.normalise


def test_hh_has_the_values_of_bai_et_al():
    config = hh.configs(hh.HH())
    assert {c.data.source for c in (config.sft, config.reward, config.ppo)} == {"hf:Anthropic/hh-rlhf"}
    rates = [config.sft.optimizer, config.reward.optimizer, config.ppo.policy_optimizer]
    assert [x.learning_rate / 1.6e-4 for x in rates] == pytest.approx([0.05, 0.01, 0.01])
    assert config.reward.epochs == 1
    assert config.reward.data.max_length == 1024
    ppo = config.ppo
    assert (ppo.kl.kind, ppo.kl.coef, ppo.kl.placement) == ("fixed", 0.001, "reward")
    assert (ppo.loss.clip_low, ppo.loss.clip_high, ppo.gamma, ppo.loss.entropy_coef) == (0.2, 0.2, 1.0, 0.0)
    assert (ppo.epochs, ppo.sampling.max_new_tokens, ppo.sampling.temperature) == (1, 128, 1.0)
    shaping = ppo.shaping
    assert (shaping.normalise, shaping.no_eos_penalty, shaping.length_penalty) == (False, 0.0, 0.0)
    assert ppo.max_prompt_length + ppo.sampling.max_new_tokens == 1024
    other = hh.configs(hh.HH(pretraining_rate=3e-4))
    assert other.ppo.policy_optimizer.learning_rate == pytest.approx(3e-6)


def test_ultrafeedback_has_the_values_of_tunstall_et_al():
    config = ultrafeedback.configs(ultrafeedback.UltraFeedback())
    sft, dpo = config.sft, config.dpo
    assert (sft.data.source, sft.data.split) == ("hf:HuggingFaceH4/ultrachat_200k", "train_sft")
    assert (dpo.data.source, dpo.data.split) == ("hf:HuggingFaceH4/ultrafeedback_binarized", "train_prefs")
    assert rate(sft.optimizer) == (2e-5, 0.1, 0.0, 0.999)
    assert rate(dpo.optimizer) == (5e-7, 0.1, 0.0, 0.999)
    assert sft.optimizer.weight_decay == dpo.optimizer.weight_decay == 0.0
    assert (sft.rows, sft.row_length, sft.epochs) == (512, 2048, 1)
    assert (dpo.objective, dpo.hyperparameters, dpo.epochs, dpo.patience) == ("dpo", {"beta": 0.1}, 3, 0)
    assert (dpo.data.max_length, dpo.max_prompt_length) == (1024, 512)


@pytest.mark.parametrize(
    ("module", "kind"),
    [(tldr, "TLDR"), (hh, "HH"), (ultrafeedback, "UltraFeedback")],
    ids=["tldr", "hh", "ultrafeedback"],
)
def test_large_models_compute_in_bfloat16_split_over_all_devices_and_adapters_learn_faster(module, kind):
    options = vars(module)[kind]
    whole, adapted = (module.configs(options(lora_rank=rank)) for rank in (0, 16))
    model = whole.sft.model
    assert (model.compute_dtype, model.remat) == ("bfloat16", "block")
    assert whole.sft.mesh.sizes(8) == (1, 8, 1)
    assert adapted.sft.lora.rank == 16
    assert adapted.sft.optimizer.learning_rate == pytest.approx(10 * whole.sft.optimizer.learning_rate)


@pytest.mark.parametrize("rank", [0, 16])
def test_published_learning_rates_are_usual_for_models_of_a_billion_parameters(rank):
    """But for two of supervised fine-tuning, which are lower than most people's: a run says so."""
    billion = {"embedding": np.broadcast_to(np.float32(0), (1000, 10**6))}
    recipes = {
        "tldr": tldr.configs(tldr.TLDR(lora_rank=rank)),
        "hh": hh.configs(hh.HH(lora_rank=rank)),
        "ultrafeedback": ultrafeedback.configs(ultrafeedback.UltraFeedback(lora_rank=rank)),
    }
    unusual = []
    for recipe, configs in recipes.items():
        for name, config in vars(configs).items():
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                warn_of_rates("preference" if name == "dpo" else name, config, billion)
            unusual += [(recipe, name)] * len(seen)
    assert unusual == [("tldr", "sft"), ("hh", "sft")]


@pytest.mark.filterwarnings("error")
def test_the_learning_rates_of_smollm_are_usual_for_adapters_on_a_model_of_its_size():
    smollm = {"embedding": np.broadcast_to(np.float32(0), (1345, 10**5))}
    configs = importlib.import_module("smollm_sentiment").configs(model="unused", out="unused")
    for name, config in vars(configs).items():
        warn_of_rates(name, config, smollm)
