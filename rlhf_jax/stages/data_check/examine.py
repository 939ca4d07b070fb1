"""All questions about a file of rows, one after the other."""

from __future__ import annotations

from rlhf_jax.data import Tokenizer
from rlhf_jax.data.config import DataConfig
from rlhf_jax.stages.data_check.finding import Check
from rlhf_jax.stages.data_check.leakage import look_at_leakage
from rlhf_jax.stages.data_check.lengths import look_at_lengths
from rlhf_jax.stages.data_check.preferences import look_at_preferences
from rlhf_jax.stages.data_check.prompts import look_at_prompts
from rlhf_jax.stages.data_check.raters import look_at_raters
from rlhf_jax.stages.data_check.repeats import look_at_repeats
from rlhf_jax.stages.data_check.rows import look_at_rows
from rlhf_jax.stages.data_check.shares import look_at_shares
from rlhf_jax.stages.data_check.table import read
from rlhf_jax.stages.data_check.tokens import Lengths


def examine(config: DataConfig, *, tokenizer: Tokenizer | None = None, show: int = 10) -> Check:
    """Read the rows of a source and look for what would harm what is trained on them.

    Args:
        config: names the source and what is held out; ``max_length`` counts where there is a tokenizer.
        tokenizer: counts tokens; without one, lengths are in characters.
        show: how many rows are listed for each finding.

    Returns:
        What was found; nothing is written.

    Raises:
        DataError: when the source cannot be read at all.
        RunError: when a task of one's own cannot be loaded.

    Example:
        >>> import tempfile
        >>> from rlhf_jax.data import write_jsonl
        >>> rows = [{"prompt": "Hi.", "response": "Hello!"}, {"prompt": "Hi.", "response": 3}]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_jsonl(f"{folder}/a.jsonl", rows)
        ...     check = examine(DataConfig(source=f"{folder}/a.jsonl"))
        >>> check.rows, check.bad, [finding.name for finding in check.findings]
        (1, 1, ['bad_rows'])
    """
    data = read(config)
    lengths = Lengths(tokenizer)
    sections = (
        look_at_rows(data, show),
        look_at_repeats(data, show),
        look_at_leakage(data, show),
        look_at_prompts(data, show),
        look_at_preferences(data, lengths),
        look_at_raters(data, show),
        look_at_lengths(data, lengths, config.max_length, show),
        look_at_shares(data, show),
    )
    there = tuple(section for section in sections if section is not None)
    return Check(data.source, len(data.rows), len(data.bad), there)
