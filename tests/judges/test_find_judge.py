"""From what names a judge to the judge, and what is said where the two do not go together."""

import dataclasses

import jax
import numpy as np
import pytest

from rlhf_jax.data.rows import Message
from rlhf_jax.feedback.judges import judged
from rlhf_jax.feedback.principles import read_principles
from rlhf_jax.feedback.rubrics import Criterion
from rlhf_jax.judges import AskingJudge, JudgeConfig, LanguageModel, find_judge, resolved
from rlhf_jax.judges.asking import BETTER
from rlhf_jax.judges.find import criteria_of
from rlhf_jax.runs.errors import RunError

PROMPTS, PAIRS = ["Hi.", "Yes?"], [["Hello there!", "No."], ["No.", "Of course."]]


@pytest.fixture
def code(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def longer(prompts, responses):\n    return [float(len(a) > len(b)) for a, b in responses]\n\n"
        "def length(prompts, responses):\n    return [len(r) for r in responses]\n"
    )
    return file


def test_functions_of_the_users_own(code):
    whole = judged(find_judge(JudgeConfig(judge=f"{code}:longer")), PROMPTS, PAIRS, called="longer")
    assert whole.votes[:, 0, 1].tolist() == [1.0, 0.0]
    scores = judged(find_judge(JudgeConfig(judge=f"scores:{code}:length")), PROMPTS, PAIRS, called="length")
    assert scores.scores.tolist() == [[12, 3], [3, 10]]
    with pytest.raises(RunError, match="did you mean 'longer'"):
        find_judge(JudgeConfig(judge=f"{code}:longr"))


def test_models_of_a_run(sft_run, reward_run, tmp_path, folder):
    judge = find_judge(JudgeConfig(judge=f"{folder}:sft", how="scores", criterion=" It is kind. "))
    assert isinstance(judge, AskingJudge)
    assert isinstance(judge.model, LanguageModel)
    assert (judge.how, judge.criteria("Hi.")) == ("scores", (Criterion("It is kind."),))
    reward = find_judge(JudgeConfig(judge=f"reward:{folder}"))
    found = judged(reward, PROMPTS, PAIRS, called="reward")
    gap = found.scores[:, 0] - found.scores[:, 1]
    np.testing.assert_allclose(found.votes[:, 0, 1], jax.nn.sigmoid(gap), rtol=1e-5)
    # A folder with nothing but a reward model is one, and RUN:reward names it as RUN:ppo names a policy.
    for name in (f"{folder}:reward", str(_reward_alone(folder, tmp_path))):
        np.testing.assert_allclose(
            judged(find_judge(JudgeConfig(judge=name)), PROMPTS, PAIRS, called=name)[0], found[0]
        )


def _reward_alone(folder, tmp_path):
    alone = tmp_path / "alone"
    (alone / "params").mkdir(parents=True)
    (alone / "params" / "reward").symlink_to(folder / "params" / "reward")
    (alone / "tokenizer.json").symlink_to(folder / "tokenizer.json")
    return alone


def test_what_does_not_go_with_a_judge_that_is_not_asked(code):
    with pytest.raises(RunError, match=r"mine.py:longer is no language model, which a criterion is shown to"):
        find_judge(JudgeConfig(judge=f"{code}:longer", criterion="It is kind."))
    with pytest.raises(RunError, match=r"is no language model, which is asked for scores: leave how out"):
        find_judge(JudgeConfig(judge=f"scores:{code}:length", how="scores"))


def test_a_judge_that_is_not_there(tmp_path):
    for name in (f"{tmp_path}/none", f"reward:{tmp_path}/none", f"{tmp_path}/none.toml", f"{tmp_path}/none.py:f"):
        with pytest.raises(RunError, match="none"):
            find_judge(JudgeConfig(judge=name))


def test_only_one_thing_says_by_what_responses_are_compared():
    with pytest.raises(ValueError, match="criterion and rubric all say by what"):
        JudgeConfig(judge="runs/mine", criterion="It is kind.", rubric="a.toml")
    with pytest.raises(ValueError, match="judge must say who judges"):
        JudgeConfig(judge=" ")


def test_criteria_of_files(tmp_path):
    rubric, principles = tmp_path / "rubric.toml", tmp_path / "principles.txt"
    rubric.write_text('[[criteria]]\nname = "tone"\ntext = "It is kind."\nquestion = "Kind? {response}"\n')
    principles.write_text("kind: It is kind.\n\nbrief: It is brief.\n")
    scored = JudgeConfig(judge="runs/mine", how="scores", rubric=str(rubric))
    assert [c.name for c in criteria_of(scored)("Hi.")] == ["tone"]
    with pytest.raises(RunError, match=r"tone has a question of its own without \{first\}, which how = pairs shows"):
        criteria_of(dataclasses.replace(scored, how="pairs"))
    endpoint = dataclasses.replace(scored, judge="http://127.0.0.1:1/v1#small")
    assert [c.name for c in criteria_of(endpoint)("Hi.")] == ["tone"]
    rubric.write_text(rubric.read_text() + 'answers = ["no", "yes"]\n')  # which an endpoint may give as well
    assert criteria_of(endpoint)("Hi.")[0].answers == ("no", "yes")
    rubric.write_text('[[criteria]]\ntext = ""\n')
    with pytest.raises(RunError, match=r"rubric .*rubric.toml: criterion 1: text must be"):
        criteria_of(scored)
    drawn = criteria_of(JudgeConfig(judge="runs/mine", principles=str(principles), seed=3))
    chat = (Message("user", "Hi."),)
    known = read_principles(principles)
    for prompt, text in (("Hi.", "Hi."), (chat, "\n\nHuman: Hi.\n\nAssistant:")):
        assert [c.text for c in drawn(prompt)] == [known.draw(3, text).text]
    principles.write_text("It is kind.\n")
    with pytest.raises(RunError, match=r"principles .*principles.txt:1: expected 'NAME"):
        criteria_of(JudgeConfig(judge="runs/mine", principles=str(principles)))
    assert criteria_of(JudgeConfig(judge="runs/mine"))("Hi.") == (BETTER,)


def test_a_file_of_the_judges_own(tmp_path):
    file = tmp_path / "judge.toml"
    file.write_text('judge = "runs/mine"\nhow = "scores"\nseed = 3\n')
    said = JudgeConfig(judge=str(file), criterion="It is kind.")
    assert resolved(said) == JudgeConfig(judge="runs/mine", how="scores", seed=3, criterion="It is kind.")
    assert resolved(resolved(said)) == resolved(said)
    assert resolved(dataclasses.replace(said, seed=3)).seed == 3  # the same is no contradiction
    with pytest.raises(RunError, match="has a seed of its own: leave it out there or here"):
        resolved(dataclasses.replace(said, seed=4))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("judge = ", "is no TOML"),
        ('how = "scores"', "says not who judges"),
        ('judge = "a"\nhwo = "scores"', "unknown field 'hwo': it may have judge, how"),
        ('judge = "a"\nhow = "score"', "how must be"),
        ('judge = "a"\nseed = "b"', "seed must be"),
        ('judge = "b.toml"', "names another file of this kind"),
        ("judge = 3", "judge must be"),
    ],
)
def test_a_file_that_says_something_else(tmp_path, text, said):
    file = tmp_path / "judge.toml"
    file.write_text(text)
    with pytest.raises(RunError, match=rf"judge\.toml.* {said}"):
        resolved(JudgeConfig(judge=str(file)))
