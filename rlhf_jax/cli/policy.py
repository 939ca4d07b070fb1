"""The commands that let a policy answer: samples of a prompt or of many, and a conversation in the terminal."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from rlhf_jax.cli.files import write
from rlhf_jax.cli.parsing import UsageError, one_of, parse
from rlhf_jax.data.errors import OnBadRow
from rlhf_jax.fields import check_seed
from rlhf_jax.stage_names import POLICY_STAGES
from rlhf_jax.targets import check_file

if TYPE_CHECKING:
    from rlhf_jax.runs.chat import Conversation


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """Options of sampling."""

    run: Positional[Path]
    """A run folder (`RUN:STAGE` is the same as --stage), or a pretrained checkpoint: a Hugging Face folder or a .gguf
    file."""
    prompt: Positional[str] = ""
    """One prompt; the responses are printed, one to a line where there are several."""
    prompts: Path | None = None
    """Many prompts: a .jsonl file with rows of `prompt`, or of any layout that has one."""
    n: int = 1
    """Responses to each prompt."""
    to: Path | None = None
    """The .jsonl file to write: rows of prompt, response, tokens, logprob, and score where a reward model was asked."""
    stage: Annotated[str | None, tyro.conf.arg(metavar=one_of(POLICY_STAGES))] = None
    """Whose policy; PPO's where there is one, else in this order."""
    best_of: int = 1
    """Sample this many for each response and keep the one that a reward model scores highest: the run's own, or that of
    `--reward-model`."""
    reward_model: Path | None = None
    """A run folder with a reward model, or a sequence classifier with one label as a Hugging Face folder: every
    response is given its score, `score` in the rows of `--to`, and printed before the response without it."""
    combine: Literal["mean", "min", "lower_bound"] = "mean"
    """What an ensemble of reward models says by `--best-of`: mean, the worst case, or mean - k * std."""
    k: float = 1.0
    """Standard deviations that `--combine lower_bound` takes off."""
    max_new_tokens: int = 48
    """Longest response, in tokens."""
    temperature: float = 1.0
    """Divides the logits; 0 takes the likeliest token."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of tokens with this probability; 1 keeps all."""
    stop: tuple[str, ...] = ()
    """Texts that end a response beside its end token, whichever tokens write them; they are not shown. In bash a line
    break is $'\\n'."""
    seed: int = 0
    """The same seed gives the same responses."""
    templated: bool = False
    """The prompts hold the chat template already applied: special tokens that they spell are special."""
    on_bad_row: OnBadRow = "error"
    """A bad row stops the command, or is skipped and listed."""


def sample(argv: list[str]) -> None:
    """Sample responses to one prompt, or to those of a file."""
    o = parse(SampleOptions, "sample", argv)
    if bool(o.prompt) == bool(o.prompts):
        raise UsageError('give one prompt, rlhf sample RUN "prompt", or a file, --prompts FILE.jsonl --to OUT.jsonl')
    if o.prompts and not o.to:
        raise UsageError("--prompts needs --to OUT.jsonl")
    if o.n < 1:
        raise UsageError(f"--n must be at least 1, found {o.n}")
    if o.best_of < 1:
        raise UsageError(f"--best-of must be at least 1, found {o.best_of}")
    check_seed("--seed", o.seed)
    if o.to:
        check_file(o.to, "--to")
    from rlhf_jax import data
    from rlhf_jax.data.one_file import read_rows
    from rlhf_jax.rewards import EnsembleConfig
    from rlhf_jax.runs.scorer import best_of, scored
    from rlhf_jax.runs.stage_path import split_stage
    from rlhf_jax.stages import Policy, Scorer
    from rlhf_jax.stages.sources import spelled

    sampling = _sampling(o, top_k=o.top_k)
    policy = Policy.load(o.run, o.stage)
    scorer = None
    if o.reward_model is not None or o.best_of > 1:
        how = EnsembleConfig(combine=o.combine, k=o.k)
        scorer = Scorer.load(split_stage(o.run)[0] if o.reward_model is None else o.reward_model, how)
    prompts: list[data.Prompt] = [o.prompt]
    asked = [data.PromptRow(o.prompt, "")]
    if o.prompts:
        asked = read_rows(o.prompts, data.layouts.prompt, o.on_bad_row)
        prompts = [row.prompt for row in asked]
    if o.templated:
        policy = policy.templated()
    elif said := spelled(asked, policy.tokenizer):
        print(f"warning: {said}, pass --templated", file=sys.stderr)
    made = policy.sample(prompts, n=o.n * o.best_of, sampling=sampling, seed=o.seed)
    if scorer is not None:
        apart = not scorer.tokenizer.writes_like(policy.tokenizer)
        made = best_of(made, scorer, o.best_of, as_text=apart) if o.best_of > 1 else scored(made, scorer, as_text=apart)
    if o.to:
        write(o.to, ({**row, "prompt": data.prompt_field(row["prompt"])} for row in made))
        return
    broken = False
    for row in made:
        # One response is its text as it is; several have a line each, or nobody knows where one ends.
        said = row["response"] if o.n == 1 else one_line(row["response"])
        broken = broken or "\n" in row["response"]
        print(f"{row['score']:.3f}  {said}" if o.reward_model is not None else said)
    if broken and o.n > 1:
        print(
            r"line breaks inside responses are written \n; --to OUT.jsonl keeps the texts as they are", file=sys.stderr
        )


def one_line(text: str) -> str:
    """Write a text in one line, with line breaks, and the backslashes that could be taken for theirs, as Python does.

    Example:
        >>> print(one_line("First.\\nSecond, with a \\\\n."))
        First.\\nSecond, with a \\\\n.
    """
    return text.replace("\\", r"\\").replace("\n", r"\n").replace("\r", r"\r")


def _sampling(o: SampleOptions | ChatOptions, top_k: int = 0) -> Any:
    """Make the sampling config from the options that sampling and chatting share."""
    from rlhf_jax.rollout import SamplingConfig

    try:
        return SamplingConfig(
            max_new_tokens=o.max_new_tokens, temperature=o.temperature, top_k=top_k, top_p=o.top_p, stop=o.stop
        )
    except ValueError as error:
        raise UsageError(str(error)) from error


@dataclasses.dataclass(frozen=True)
class ChatOptions:
    """Options of the chat."""

    run: Positional[Path]
    """A run folder (`RUN:STAGE` is the same as --stage), or a pretrained checkpoint: a Hugging Face folder or a .gguf
    file."""
    stage: Annotated[str | None, tyro.conf.arg(metavar=one_of(POLICY_STAGES))] = None
    """Whose policy; PPO's where there is one, else in this order."""
    system: str = ""
    """What the system says before the first turn."""
    plain: bool = False
    """Write the turns as plain text even where the tokenizer has a chat template."""
    max_new_tokens: int = 256
    """Longest answer, in tokens."""
    temperature: float = 0.7
    """Divides the logits; 0 takes the likeliest token."""
    top_p: float = 0.95
    """Keep the smallest set of tokens with this probability; 1 keeps all."""
    stop: tuple[str, ...] = ()
    """Texts that end a response beside its end token, whichever tokens write them; they are not shown. In bash a line
    break is $'\\n'."""
    seed: int = 0
    """The same seed and questions give the same answers."""


def chat(argv: list[str]) -> None:
    """Answer line by line, and remember what was said."""
    o = parse(ChatOptions, "chat", argv)
    check_seed("--seed", o.seed)
    from rlhf_jax.runs.chat import Conversation
    from rlhf_jax.stages import Policy

    sampling = dataclasses.replace(_sampling(o), window=8)  # a few tokens at a time, so that the answer streams
    policy = Policy.load(o.run, o.stage)
    if o.plain:
        policy = dataclasses.replace(policy, tokenizer=policy.tokenizer.with_format("plain"))
    conversation = Conversation(policy, sampling, system=o.system, seed=o.seed)
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no text must not end a conversation
    if sys.stdin.isatty():
        if importlib.util.find_spec("readline"):  # Windows has none, and does not need it
            importlib.import_module("readline")  # from now on input() takes the arrow keys
        print(f"The {policy.stage} policy of {o.run}.")
        print("Ctrl-C stops an answer, /reset forgets the conversation, /exit or Ctrl-D ends it.")
    while (text := _ask()) not in (None, "/exit"):
        if text == "/reset":
            conversation.reset()
        elif text:
            _answer(conversation, text)


def _ask() -> str | None:
    """Read a line from the terminal, None at its end; a prompt is shown to a person only."""
    person = sys.stdin.isatty()
    try:
        return input("> " if person else "").strip()
    except (EOFError, KeyboardInterrupt) as end:
        if not person and isinstance(end, KeyboardInterrupt):
            raise
        if person:
            print()
        return None


def _answer(conversation: Conversation, text: str) -> None:
    """Print an answer as it comes; what goes wrong with one is no reason to lose the conversation with a person."""
    from rlhf_jax.data import DataError
    from rlhf_jax.stages import RunError

    try:
        for piece in conversation.ask(text):
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
    except (DataError, RunError) as error:
        if not sys.stdin.isatty():
            raise
        print(f"rlhf chat: {error}", end="", file=sys.stderr)
    print()
