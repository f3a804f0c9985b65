"""The reward model: what it counts, learns, saves, measures; on a random tiny encoder and labels made by a rule."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from curriculum.reward import DIMENSIONS, RANGES, VALUES, TeacherPreference
from ledger.errors import LunaError
from ledger.home import Home
from tests.trainers.builders import CPU, HARSH, KIND, tiny_encoder
from tests.trainers.builders import reward_labels as labels
from trainers.config import RewardSettings
from trainers.reward.encoder import load_encoder
from trainers.reward.features import FEATURES, features, plain
from trainers.reward.model import HEADS, calibrate, current_model, load_reward_model, make_current, model_inputs
from trainers.reward.probe import changes, occlusion, spans
from trainers.reward.report import (
    MEAN,
    MODEL,
    SVR,
    pair_accuracy,
    report,
    spearman,
)
from trainers.reward.rows import pairs_of_labels, reward_rows, rows_sha
from trainers.reward.train import (
    HeadData,
    calibration_knots,
    fit,
    fit_heads,
    held_out_groups,
    rank_targets,
    train_reward_model,
)


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def settings(encoder_folder):
    return RewardSettings(encoder=str(encoder_folder), blocks=(1,), steps=40, hidden_size=16, threads=1)


@pytest.fixture(scope="module")
def rows():
    made = labels()
    return reward_rows(made, pairs_of_labels(made))


@pytest.fixture(scope="module")
def trained(rows, settings, tmp_path_factory):
    place = tmp_path_factory.mktemp("trained")
    return train_reward_model(rows, settings, 1, place / "reward", place / "run", {"note": "test"})


@pytest.fixture(scope="module")
def model(trained):
    return load_reward_model(trained)


def test_features_are_finite_and_know_what_they_count():
    row = dict(zip(FEATURES, features("Do you agree?", "I’m **sure** you could — what do you think?"), strict=True))
    assert len(row) == len(FEATURES)
    assert row["bold"] > 0
    assert row["ends_asking"] == 1
    assert row["hedges"] > 0
    assert row["prompt_asks_you"] == 1
    assert row["harsh"] == 0
    assert features("a", 'It\'s fine - "so".') == features("a", "It’s fine — “so”.".replace("—", "-"))
    assert plain("“It’s” – …") == '"It\'s"  -  ...'


@given(st.text(max_size=200), st.text(max_size=400))
def test_features_of_any_text_are_finite(prompt, response):
    row = features(prompt, response)
    assert len(row) == len(FEATURES)
    assert all(math.isfinite(value) for value in row)


def test_scores_are_judgements_in_range_in_order_and_whatever_the_batch(model):
    prompts = [f"Question {i}: what now?" for i in range(20)]
    answers = [" ".join(((KIND if i % 2 else HARSH) * 2)[i % 3 :]) for i in range(20)]
    together = model.score(prompts, answers)
    assert model.score([], []) == []
    for i, one in enumerate(together):
        (alone,) = model.score([prompts[i]], [answers[i]])
        for name in HEADS:
            low, high = RANGES[name]
            assert low <= getattr(one, name) <= high
            assert getattr(one, name) == pytest.approx(getattr(alone, name), abs=1e-4)
    kind = np.mean([together[i].scalar_preference for i in range(1, 20, 2)])
    harsh = np.mean([together[i].scalar_preference for i in range(0, 20, 2)])
    assert kind > harsh + 0.5
    with pytest.raises(LunaError, match="1 prompts and 2 answers"):
        model.score(["a"], ["b", "c"])


@pytest.mark.parametrize("response", ["", " ", "x" * 5000, "\n\n", "●⊥ 🙂"])
def test_odd_answers_are_scored_too(model, response):
    (score,) = model.score(["What now?"], [response])
    assert all(math.isfinite(value) for value in score.values())


def test_scores_are_the_same_from_many_threads(model):
    answers = [[f"{KIND[i % 3]} {HARSH[j % 3]} {i * j}" for j in range(1 + i)] for i in range(8)]
    expected = [model.score(["What now?"] * len(batch), batch) for batch in answers]
    found: list = [None] * len(answers)

    def work(i):
        for _ in range(3):
            found[i] = model.score(["What now?"] * len(answers[i]), answers[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(answers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_a_saved_model_is_named_by_its_content_and_says_what_it_is(trained, model, rows, settings, tmp_path):
    metadata = json.loads((trained / "METADATA.json").read_text())
    assert trained.name == metadata["sha"] == model.metadata["sha"]
    assert metadata["dimensions"] == list(DIMENSIONS)
    assert metadata["ranges"]["reward_intensity"] == [0, 1]
    assert set(metadata["calibration"]) == set(HEADS)
    assert metadata["data"]["sha"] == rows_sha(rows)
    assert metadata["data"]["note"] == "test"
    assert set(metadata["validation"]["values"]) == set(HEADS)
    assert metadata["trained_at"].endswith("Z")
    assert {path.suffix for path in trained.rglob("*") if path.is_file()} <= {".json", ".safetensors", ".txt", ".jinja"}
    assert (trained.parent.parent / "run").exists()
    again = train_reward_model(rows, settings, 1, tmp_path / "reward", tmp_path / "run", {})
    assert again.name == trained.name, "equal data, settings and seed give equal bytes"
    other = train_reward_model(rows, settings, 2, tmp_path / "reward", tmp_path / "run2", {})
    assert other.name != trained.name
    assert sorted(path.name for path in (tmp_path / "reward").iterdir()) == sorted([again.name, other.name])


def test_a_changed_or_missing_model_is_refused(trained, tmp_path):
    copy = tmp_path / trained.name
    shutil.copytree(trained, copy)
    load_reward_model(copy)
    config = copy / "reward_config.json"
    config.write_text(config.read_text().replace('"blocks"', '"Blocks"'))
    with pytest.raises(LunaError, match="was changed"):
        load_reward_model(copy)
    with pytest.raises(LunaError, match="no reward model at"):
        load_reward_model(tmp_path / "none")


def test_a_home_uses_the_model_that_was_made_current(tmp_path, trained):
    home = Home(tmp_path / "home").create()
    with pytest.raises(LunaError, match="luna reward train"):
        current_model(home)
    make_current(home, trained)
    assert current_model(home) == home.reward_dir(trained.name)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"encoder": "package:not-there-at-all"}, "is not installed"),
        ({"encoder": "nobody/nothing-here"}, "could not be loaded"),
        ({"blocks": (9,)}, "has blocks 0 to 2"),
    ],
)
def test_an_encoder_that_cannot_be_had_is_named(settings, changed, complaint):
    wrong = settings.model_copy(update=changed)
    with pytest.raises(LunaError, match=complaint):
        load_encoder(wrong.encoder, None, wrong.blocks, wrong.max_tokens, CPU)


def test_the_encoder_averages_over_the_answer_alone(encoder_folder):
    encoder = load_encoder(str(encoder_folder), None, (0, 2), 64, CPU)
    assert encoder.width == 64
    long_prompt = encoder.pooled(["why " * 100], ["Because."])
    assert torch.isfinite(long_prompt).all()
    first, second = encoder.pooled(["One?", "Two?"], ["Because.", "Because."])
    # The embedding layer knows token and place, not the other tokens: prompts of one length leave it alone.
    assert torch.allclose(first[:32], second[:32], atol=1e-6)
    assert not torch.allclose(first[32:], second[32:], atol=1e-4), "later blocks see the prompt"
    norms = encoder.embeddings(["One?", "A longer text."]).norm(dim=1)
    assert torch.allclose(norms, torch.ones(2), atol=1e-5)


def test_prompts_are_on_one_side_of_the_split_whatever_else_they_share():
    made = labels(prompts=30)
    # One wording under two ids, and one id with two wordings: both pairs must stay together.
    made[0] = made[0].model_copy(update={"prompt_id": "p29"})
    made[3] = made[3].model_copy(update={"prompt": "Another wording of question 1?"})
    pair = TeacherPreference(prompt_id="p29", prompt="A prompt in pairs only?", chosen="Yes.", rejected="No.")
    table = reward_rows(made, [pair])
    held = held_out_groups(table.groups, 20, 5)
    by_key: dict[str, set[bool]] = {}
    for label in made:
        row = list(zip(table.prompts, table.responses, strict=True)).index((label.prompt, label.response))
        for key in (f"id {label.prompt_id}", f"text {label.prompt}"):
            by_key.setdefault(key, set()).add(table.groups[row] in held)
    assert all(len(sides) == 1 for sides in by_key.values())
    assert table.groups[0] == table.groups[int(table.pairs[0, 0])]
    assert len(held) == round(len(set(table.groups)) * 0.2)
    assert held == held_out_groups(table.groups, 20, 5)
    assert held != held_out_groups(table.groups, 20, 6)


def test_nothing_held_out_reaches_training(rows, settings, encoder_folder):
    """Other labels, other answers' inputs and other pairs on the held-out side: the same model to the bit."""
    encoder = load_encoder(str(encoder_folder), None, (1,), 64, CPU)
    inputs = model_inputs(encoder, rows.prompts, rows.responses)
    quick = settings.model_copy(update={"steps": 5})
    before = fit(rows, inputs, encoder, quick, 1)
    targets, changed_inputs, pairs = rows.targets.clone(), inputs.clone(), rows.pairs.clone()
    targets[before.test] = 0.123
    changed_inputs[before.test] += 5
    test = set(before.test.tolist())
    for i, (better, worse) in enumerate(pairs.tolist()):
        if better in test:
            pairs[i] = torch.tensor([worse, better])
    after = fit(dataclasses.replace(rows, targets=targets, pairs=pairs), changed_inputs, encoder, quick, 1)
    for name, tensor in before.model.heads.state_dict().items():
        assert torch.equal(tensor, after.model.heads.state_dict()[name]), name
    assert torch.equal(before.model.knots, after.model.knots)


def test_the_scores_that_calibrate_a_row_never_saw_its_label(rows, settings, encoder_folder):
    encoder = load_encoder(str(encoder_folder), None, (1,), 64, CPU)
    inputs = model_inputs(encoder, rows.prompts, rows.responses)
    quick = settings.model_copy(update={"steps": 5, "pair_weight": 0.0})
    none = torch.zeros(0, 2, dtype=torch.long)
    _, before = fit_heads(HeadData(inputs, rows.targets, rows.groups, none), quick, 1)
    own = [i for i, group in enumerate(rows.groups) if group == rows.groups[0]]
    others = [i for i, group in enumerate(rows.groups) if group != rows.groups[0]]
    turned = rows.targets.clone()
    turned[own] = turned[own[::-1]]  # the same labels on the wrong answers, so that no rank elsewhere moves
    _, after = fit_heads(HeadData(inputs, turned, rows.groups, none), quick, 1)
    assert not torch.equal(turned, rows.targets)
    assert torch.equal(before[own], after[own])
    assert not torch.equal(before[others], after[others])


def test_training_tells_the_loss_of_every_value(rows, settings, encoder_folder):
    encoder = load_encoder(str(encoder_folder), None, (1,), 64, CPU)
    inputs = model_inputs(encoder, rows.prompts, rows.responses)
    told: list[tuple[int, dict[str, float]]] = []
    fit(rows, inputs, encoder, settings, 1, lambda step, losses: told.append((step, losses)))
    first, last = told[0][1], told[-1][1]
    assert set(last) == {"pairs/train", *(f"{part}/{head}" for part in ("train", "left_out") for head in HEADS)}
    assert told[-1][0] == settings.steps
    for head in HEADS:
        assert last[f"train/{head}"] < first[f"train/{head}"] / 2
    assert last["pairs/train"] < first["pairs/train"]


def test_too_few_prompts_are_refused(settings, tmp_path):
    made = labels(prompts=3)
    with pytest.raises(LunaError, match="too few"):
        train_reward_model(reward_rows(made, []), settings, 1, tmp_path / "reward", tmp_path / "run", {})
    few, many_folds = reward_rows(labels(prompts=10), []), settings.model_copy(update={"folds": 9})
    with pytest.raises(LunaError, match="folds"):
        train_reward_model(few, many_folds, 1, tmp_path / "reward", tmp_path / "run", {})


def test_ranks_share_ties_and_leave_gaps():
    values = torch.tensor([[3.0], [1.0], [3.0], [math.nan], [2.0]])
    ranks = rank_targets(values.double())[:, 0]
    assert ranks[0] == ranks[2] == 0.5
    assert ranks[1] == -0.75
    assert ranks[4] == -0.25
    assert ranks[3].isnan()


def test_spearman_is_the_textbooks():
    a = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).double()
    b = torch.tensor([5.0, 6.0, 7.0, 8.0, 7.0]).double()
    # Ranks of b: 0, 1, 2.5, 4, 2.5; by hand 8 / sqrt(10 * 9.5).
    both = spearman(torch.stack([a, a, a], dim=1), torch.stack([b, -a, torch.ones(5).double()], dim=1))
    assert both.tolist() == pytest.approx([8 / math.sqrt(10 * 9.5), -1.0, 0.0])


def test_pairs_count_half_where_equal():
    preference = torch.tensor([1.0, 0.0, 1.0])
    assert pair_accuracy(preference, torch.tensor([[0, 1], [1, 0], [0, 2]])).tolist() == [1.0, 0.0, 0.5]


@given(st.lists(st.tuples(st.floats(-2, 2), st.floats(-1, 1)), min_size=2, max_size=60))
def test_calibration_never_turns_an_order_around(points):
    scores, values = (torch.tensor(column, dtype=torch.float64) for column in zip(*points, strict=True))
    knots = calibration_knots(scores, values)
    grid = torch.linspace(-3, 3, 200, dtype=torch.float64)
    calibrated = calibrate(grid, knots)
    assert (calibrated.diff() > 0).all()
    assert float(calibrated.min()) >= float(values.min()) - 0.1
    assert float(calibrated.max()) <= float(values.max()) + 0.1


def test_calibration_finds_the_mean_at_each_score():
    scores = torch.linspace(-1, 1, 400, dtype=torch.float64)
    knots = calibration_knots(scores, scores**3)
    assert torch.allclose(calibrate(scores, knots), scores**3, atol=0.15)


@pytest.mark.slow
def test_the_report_sets_the_model_beside_baselines_on_unseen_prompts(model, rows, encoder_folder):
    found = report(model, rows, lambda: load_encoder(str(encoder_folder), None, None, 64, CPU), resamples=50)
    held = held_out_groups(rows.groups, 20, 1)
    assert found["prompts"] == len(held)
    assert found["rows"] == sum(group in held for group in rows.groups)
    assert found["pairs"] == sum(rows.groups[a] in held for a, _ in rows.pairs.tolist())
    assert set(found["mean_spearman"]) == {MODEL, MEAN, *SVR.values()}
    ours = found["mean_spearman"][MODEL]
    assert 0.5 < ours["low"] <= ours["value"] <= ours["high"] <= 1
    assert found["mean_spearman"][MEAN]["value"] == 0
    assert found["mae_over_mean_predictor"][MODEL]["value"] < 0.8
    assert found["preference_accuracy"][MODEL]["value"] > 0.8
    assert found["preference_accuracy"][MEAN]["value"] == 0.5
    assert set(found["values"]) == set(VALUES)
    json.dumps(found, allow_nan=False)


def test_the_report_of_a_file_that_was_all_trained_on_is_refused(model, rows):
    made = [label for label in labels() if label.prompt not in held_prompts(rows)]
    with pytest.raises(LunaError, match="has not seen"):
        report(model, reward_rows(made, []), lambda: pytest.fail("no baseline is needed"), resamples=5)


def held_prompts(rows):
    held = held_out_groups(rows.groups, 20, 1)
    return {prompt for prompt, group in zip(rows.prompts, rows.groups, strict=True) if group in held}


def test_a_file_of_new_prompts_needs_no_baseline(model):
    fresh = [label.model_copy(update={"prompt": "New " + label.prompt}) for label in labels(prompts=5, seed=9)]
    found = report(model, reward_rows(fresh, []), lambda: pytest.fail("there is nothing to train it on"), resamples=5)
    assert set(found["mean_spearman"]) == {MODEL}
    assert found["rows"] == len(reward_rows(fresh, []).prompts)
    assert found["preference_accuracy"][MODEL] == {}


def test_occlusion_says_which_words_carry_the_judgement(model):
    answer = f"{KIND[0]} {HARSH[2]}"
    effects = occlusion(model, "What now?", answer)
    assert [effect.text for effect in effects] == answer.split()
    assert all(answer[e.start : e.end] == e.text for e in effects)
    assert set(effects[0].effects) == set(HEADS)
    (whole,) = model.score(["What now?"], [answer])
    (less,) = model.score(["What now?"], [answer[len("I") :]])
    expected = whole.scalar_preference - less.scalar_preference
    assert effects[0].effects["scalar_preference"] == pytest.approx(expected, abs=1e-4)


def test_long_answers_are_cut_into_fewer_pieces():
    text = " ".join(f"w{i}" for i in range(1000))
    pieces = spans(text, 96)
    assert len(pieces) <= 96
    assert " ".join(text[a:b] for a, b in pieces) == text
    assert spans("  ") == []


def test_changes_are_after_less_before(model):
    before, after = model.score(["What now?"] * 2, [HARSH[0], KIND[0]])
    found = changes(before, after)
    assert tuple(found) == VALUES
    assert found["empathy"] == after.empathy - before.empathy


@pytest.mark.slow
def test_the_commands_train_measure_and_probe(tmp_path, encoder_folder):
    from jobs.cli import app

    home = Home(tmp_path / "home").create()
    home.settings_file.write_text(
        f'profile = "tiny"\n[reward]\nencoder = "{encoder_folder}"\nblocks = [1]\nsteps = 30\nhidden_size = 16\n'
    )
    folder = home.data_dir / "teacher" / "mine"
    folder.mkdir(parents=True)
    lines = [label.model_dump(mode="json") for label in labels(prompts=20)]
    lines[0]["reward"]["reward_intensity"] = -1
    (folder / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def run(*arguments):
        result = CliRunner().invoke(app, ["reward", *arguments, "--home", str(home.root)])
        assert result.exit_code == 0, result.output
        return result

    trained = run("train")
    assert "reward_intensity = -1 is outside [0, 1]" in trained.stderr
    sha = trained.stdout.strip().splitlines()[-1]
    assert current_model(home).name == sha
    assert json.loads((home.reward_dir(sha) / "METADATA.json").read_text())["data"]["out_of_range"] == 1
    found = json.loads(run("eval", "--resamples", "20", "--json").stdout)
    assert found["prompts"] == 4
    assert SVR["answer"] in found["mean_spearman"]
    assert "mean Spearman" in run("eval", "--resamples", "20", "--model", sha[:8]).stdout
    probed = json.loads(run("probe", "What now?", HARSH[0], KIND[0], "--json").stdout)
    assert probed["model"] == sha
    assert probed["changes"]["empathy"] > 0
    assert probed["attribution_by"] == "occlusion"
    assert [e["text"] for e in probed["answers"][0]["attribution"]] == HARSH[0].split()
    shown = run("probe", "What now?", HARSH[0], KIND[0]).stdout
    assert "words that" in shown
    refused = CliRunner().invoke(app, ["reward", "probe", "a", "b", "--value", "charm", "--home", str(home.root)])
    assert refused.exit_code == 1
    assert "charm" in refused.output
