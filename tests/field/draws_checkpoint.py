"""A small random model as a Hugging Face folder, with whatever files somebody may have beside it."""

import json
from pathlib import Path

import jax
import tokenizers

from rlhf_jax import models

TEXT = "Hello there, how are you today? Paris is the capital of France."
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|eom|>")  # ids 0 to 3
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES = {"d_model": 16, "n_layers": 1, "n_heads": 2, "n_kv_heads": 2, "head_dim": 8, "d_ff": 32, "max_length": 256}


def make_tokenizer(folder, *, eos="<|im_end|>", **beside):
    """tokenizer.json, tokenizer_config.json, and further JSON files by their names without the suffix."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=letters, special_tokens=list(SPECIALS), show_progress=False
    )
    made.train_from_iterator([TEXT] * 9, trainer)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    config = {"eos_token": eos, "pad_token": SPECIALS[0], "chat_template": CHATML}
    for name, fields in {"tokenizer_config": config, **beside}.items():
        (folder / f"{name}.json").write_text(json.dumps(fields))
    return made.get_vocab_size()


def make(folder, *, vocab_size=0, classifier=False, seed=0, scale=1.0, **beside):
    """A model with its tokenizer; ``vocab_size`` may be more than there are tokens."""
    folder = Path(folder)
    size = make_tokenizer(folder.with_name(folder.name + "-tokenizer"), **beside)
    config = models.ModelConfig(
        vocab_size=vocab_size or size, tie_embeddings=not classifier, scalar_head=classifier, **SIZES
    )
    params = jax.jit(models.build(config).init)(jax.random.key(seed))
    if classifier:
        params["head"]["kernel"] = jax.random.normal(jax.random.key(seed + 1), (config.d_model, 1))
    params = jax.tree.map(lambda x: x * scale, params)
    models.save_pretrained(folder, config, params)
    for file in folder.with_name(folder.name + "-tokenizer").iterdir():
        if file.name == "config.json":
            fields = json.loads((folder / file.name).read_text()) | json.loads(file.read_text())
            (folder / file.name).write_text(json.dumps(fields))
        else:
            (folder / file.name).write_bytes(file.read_bytes())
    return folder
