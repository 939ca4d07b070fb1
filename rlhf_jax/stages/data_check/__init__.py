"""What is in a file of rows, and what is wrong with it, before anything is trained on them: ``rlhf data check``.

``finding`` has what an answer is made of, ``table`` reads the rows, and each other file looks at one thing: ``rows``,
``repeats``, ``leakage``, ``prompts``, ``preferences``, ``raters``, ``lengths``, ``shares``. ``examine`` asks them all,
and ``text`` writes the answers.
"""

from rlhf_jax.stages.data_check.examine import examine
from rlhf_jax.stages.data_check.finding import Bars, Check, Finding, Section, Table
from rlhf_jax.stages.data_check.text import as_text

__all__ = ["Bars", "Check", "Finding", "Section", "Table", "as_text", "examine"]
