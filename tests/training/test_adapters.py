"""What is frozen does not move, and adapters end as plain weights."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from tests.training.lessons import cot, play, stage, tool_cot, train
from tests.training.nano_policy import nano_engine
from vital_eval.engines.hf import HFEngine, load_engine
from vital_eval.errors import CheckpointError, MissingExtraError
from vital_eval.training.adapters import LoraSettings, add_lora, freeze_vision, trained_names
from vital_eval.training.collate import collate, token_losses
from vital_eval.training.sft import train_sft
from vital_eval.training.supervised import Lesson

SETTINGS = LoraSettings(rank=2, alpha=4.0)


@pytest.fixture(scope="module")
def engine() -> Iterator[HFEngine]:
    with nano_engine() as loaded:
        yield loaded


@pytest.fixture(scope="module")
def lessons(engine: HFEngine) -> tuple[Lesson, ...]:
    return play(engine, [cot("a"), tool_cot("b"), cot("c")]).kept


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def moved(model: PreTrainedModel, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in weights(model).items() if not torch.equal(value, before[name])}


def losses(engine: HFEngine, model: PreTrainedModel, lessons: tuple[Lesson, ...]) -> torch.Tensor:
    items = [engine._encoder.encode(lesson.conversation, open_turn=False) for lesson in lessons]
    with torch.no_grad():
        return token_losses(model.eval(), collate(items, 0))


def test_a_frozen_vision_tower_does_not_move(engine: HFEngine, lessons: tuple[Lesson, ...], tmp_path: Path) -> None:
    before = weights(engine._model)
    tower = {name for name in before if ".visual." in name}
    assert tower
    model, _ = train(engine, lessons, tmp_path, name="frozen", steps=2, batch=3, freeze_vision=True)
    assert moved(model, before) == before.keys() - tower
    # Afterwards everything is trained as before; the control: without freezing, the tower moves too.
    assert set(trained_names(model)) == before.keys()
    model, _ = train(engine, lessons, tmp_path, name="free", steps=2, batch=3)
    assert moved(model, before) >= tower


def test_freezing_says_what_it_froze(engine: HFEngine) -> None:
    model = copy.deepcopy(engine._model)
    frozen = freeze_vision(model)
    assert set(frozen) == {name for name in weights(model) if ".visual." in name}
    assert not set(frozen) & set(trained_names(model))
    assert freeze_vision(model) == ()
    with pytest.raises(CheckpointError, match="has 0 modules named visual"):
        freeze_vision(model.model.language_model)


def test_without_peft_the_error_says_what_to_install(engine: HFEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match="LoRA needs peft, which is not installed; pip install"):
        add_lora(copy.deepcopy(engine._model), SETTINGS, seed=0)


def test_impossible_adapters_are_refused() -> None:
    with pytest.raises(ValueError, match="impossible adapters"):
        LoraSettings(rank=0)
    with pytest.raises(ValueError, match="impossible adapters"):
        LoraSettings(targets=())


def test_adapters_start_as_nothing_train_alone_and_merge(engine: HFEngine, lessons: tuple[Lesson, ...]) -> None:
    pytest.importorskip("peft")
    model = copy.deepcopy(engine._model)
    before, untouched = weights(model), losses(engine, model, lessons)
    adapters = add_lora(model, SETTINGS, seed=0)
    assert torch.equal(losses(engine, model, lessons), untouched)
    assert trained_names(model) == adapters.trained
    assert len(adapters.trained) == 2 * 7 * len(model.model.language_model.layers)
    assert all("lora_" in name and "language_model" in name for name in adapters.trained)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    items = [engine._encoder.encode(lesson.conversation, open_turn=False) for lesson in lessons]
    for _ in range(3):
        optimiser.zero_grad()
        torch.autograd.backward(token_losses(model, collate(items, 0)).mean())
        optimiser.step()
    base = {name.replace(".base_layer", ""): value for name, value in weights(model).items() if "lora_" not in name}
    assert base.keys() == before.keys()
    assert all(torch.equal(base[name], before[name]) for name in before)
    adapted = losses(engine, model, lessons)
    assert float((adapted - untouched).abs().max()) > 0.1
    adapters.merge()
    assert weights(model).keys() == before.keys()
    assert torch.allclose(losses(engine, model, lessons), adapted, atol=1e-4)
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in moved(model, before)} == set(SETTINGS.targets)


def test_adapters_depend_on_the_seed_alone(engine: HFEngine) -> None:
    pytest.importorskip("peft")

    def drawn(seed: int) -> torch.Tensor:
        model = copy.deepcopy(engine._model)
        torch.manual_seed(7)
        names = add_lora(model, SETTINGS, seed).trained
        drawn_next = float(torch.rand(1))
        torch.manual_seed(7)
        assert drawn_next == float(torch.rand(1))  # The caller's generator is left alone.
        return weights(model)[next(name for name in names if "lora_A" in name)]

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_targets_must_exist_and_discarded_adapters_leave_nothing(engine: HFEngine, lessons: tuple[Lesson, ...]) -> None:
    pytest.importorskip("peft")
    model = copy.deepcopy(engine._model)
    before = weights(model)
    with pytest.raises(CheckpointError, match="no layer named left or right"):
        # The vision tower has a layer of the name qkv; it must not count.
        add_lora(model, LoraSettings(targets=("left", "right")), 0)
    with pytest.raises(CheckpointError, match="no layer named qkv"):
        add_lora(model, LoraSettings(targets=("qkv",)), 0)
    adapters = add_lora(model, SETTINGS, 0)
    adapters.discard()
    assert weights(model).keys() == before.keys()
    assert not moved(model, before)
    assert add_lora(model, SETTINGS, 0).trained


def test_a_lora_stage_resumes_and_leaves_a_plain_checkpoint(
    engine: HFEngine, lessons: tuple[Lesson, ...], tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    plan = {"steps": 3, "batch": 2, "lora": SETTINGS}
    whole, _ = train(engine, lessons, tmp_path / "whole", **plan)
    before = weights(engine._model)
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in moved(whole, before)} == set(SETTINGS.targets)
    assert set(trained_names(whole)) == before.keys()

    class StopError(Exception):
        pass

    def stop(line: str) -> None:
        if " step 2/" in line:
            raise StopError

    model, folder = copy.deepcopy(engine._model), tmp_path / "parts"
    with pytest.raises(StopError):
        train_sft(model, engine._encoder, lessons, stage(**plan), folder, 0, stop, save_every=1)
    # A stage that failed leaves the model as it was; the same one may go on.
    assert not moved(model, before)
    rest = train_sft(model, engine._encoder, lessons, stage(**plan), folder, 0, lambda line: None)
    assert [metrics.step for metrics in rest] == [1, 2]
    assert not moved(model, weights(whole))
    # Adapters alone are in the state, which is why it is small.
    assert (folder / "taught.safetensors").stat().st_size < sum(v.numel() for v in before.values())
    checkpoint = tmp_path / "checkpoint"
    model.save_pretrained(checkpoint)
    engine._tokenizer.save_pretrained(checkpoint)
    source = engine._encoder.checkpoint.folder / "video_preprocessor_config.json"
    (checkpoint / source.name).write_bytes(source.read_bytes())
    loaded = load_engine(checkpoint, "cpu", "float32")
    assert torch.equal(losses(loaded, loaded._model, lessons), losses(engine, model, lessons))
