"""Every figure that a stage logs is drawn once, and diagrams nobody can learn from are left out."""

from __future__ import annotations

import pytest

from rlhf_jax.report.panels import stage_panels


def rows_of(stage, **figures):
    return [{"stage": stage, "step": step, **{f"{stage}/{k}": v for k, v in figures.items()}} for step in (1, 2)]


def titles(panels):
    return [panel.title for panel in panels]


def test_ppo_and_the_group_methods_share_their_diagrams():
    figures = {"kl": 1.0, "heldout_kl": 1.0, "proxy_mean": 0.5, "length": 9.0, "distinct_2": 0.5}
    ppo, group = (stage_panels(stage, rows_of(stage, **figures)) for stage in ("ppo", "group"))
    assert ppo == group
    assert "KL to the start, nats a response" in titles(ppo[0])


def test_a_group_method_has_no_diagram_of_a_critic():
    main, _ = stage_panels("group", rows_of("group", kl=1.0, advantage_abs=0.8))
    assert titles(main) == ["KL to the start, nats a response", "mean size of an advantage"]


@pytest.mark.parametrize("stage", ["ppo", "group"])
def test_pretraining_text_and_an_ensembles_disagreement_have_diagrams(stage):
    main, other = stage_panels(stage, rows_of(stage, ptx_loss=4.0, disagreement=0.2))
    assert titles(main) == ["disagreement of the reward models (std)", "loss on pretraining text, nats a token"]
    assert other == []


def test_a_single_reward_model_that_agrees_with_itself_is_not_drawn():
    assert stage_panels("ppo", rows_of("ppo", disagreement=0.0)) == ([], [])


def test_an_ensembles_own_stage_draws_the_disagreement():
    main, _ = stage_panels("reward", rows_of("reward", heldout_disagreement=0.2))
    assert titles(main) == ["members' held-out disagreement (std)"]


def test_a_reward_models_scores_have_diagrams_of_their_level_and_their_spread():
    rows = rows_of("reward", reward_mean=0.1, heldout_reward_mean=0.2, heldout_reward_std=1.3)
    main, other = stage_panels("reward", rows)
    assert titles(main) == ["mean score", "spread of the held-out scores (std)"]
    assert [line.points for line in main[1].lines] == [[(1, 1.3), (2, 1.3)]]
    assert other == []


def test_preference_optimisation_draws_pairs_and_judges():
    figures = {"loss": 0.6, "heldout_loss": 0.6, "accuracy": 0.5, "chosen_reward": 0.1, "rejected_reward": 0.0}
    main, other = stage_panels("preference", rows_of("preference", **figures, heldout_gold=0.3, grad_norm=1.0))
    assert titles(main) == [
        "loss",
        "pairs the implicit reward ranks right",
        "implicit reward, training pairs",
        "gold score, held out",
    ]
    assert titles(other) == ["grad_norm"]


def test_the_reference_point_of_kto_has_a_diagram_of_its_own():
    main, _ = stage_panels("preference", rows_of("preference", reference_point=0.2, heldout_kl=1.0))
    assert titles(main) == ["held-out KL to the start, nats", "KTO's reference point, nats"]


def test_a_line_keeps_its_place_where_another_was_not_logged():
    (panel,), _ = stage_panels("preference", rows_of("preference", heldout_proxy=0.3))
    assert [(line.label, len(line.points)) for line in panel.lines] == [
        ("training prompts", 0),
        ("held-out prompts", 2),
    ]


def test_the_gap_between_sampler_and_trainer_has_a_band_and_its_tail_a_diagram_of_its_own():
    main, other = stage_panels("ppo", rows_of("ppo", logprob_gap=0.004, logprob_gap_p99=0.02, logprob_gap_max=0.1))
    mean, tail = main
    assert (mean.limits, tail.limits) == ((0.0, 0.06), None)
    assert [line.label for line in tail.lines] == ["99th percentile", "maximum"]
    assert other == []
