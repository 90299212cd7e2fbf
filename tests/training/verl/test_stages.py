"""The four stages as verl composes and validates them, the command, and the launcher."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from vital_eval.errors import ProtocolError
from vital_eval.presets import preset
from vital_eval.protocol import Mode, protocol_from_json
from vital_eval.training.verl_plugin.stages import STAGES, hydra_text, read_extra

from .support import make_job


def test_stage_4_asks_as_evaluation_does_with_fewer_frames() -> None:
    from vital_eval.protocol import differing_fields

    unlike = differing_fields(STAGES[4].protocol(), preset("vital", Mode.TOOL, "charades_sta"))
    assert set(unlike) == {
        "view.max_frames",
        "view.max_pixels",
        "sampling.temperature",
        "sampling.repetition_penalty",
    }
    assert STAGES[4].protocol().view.max_frames == 64
    assert STAGES[4].protocol().max_turns == 3


def test_the_files_of_a_job_are_read_back(tmp_path: Path) -> None:
    job = make_job(4, tmp_path, tmp_path, tmp_path)
    files = job.files()
    assert protocol_from_json(json.loads(files[job.protocol_file])) == STAGES[4].protocol()
    tool = json.loads(files[job.tools_file])["tools"][0]
    assert tool["config"]["media_root"] == str(tmp_path)
    assert list(make_job(2, tmp_path, tmp_path, tmp_path).files()) == [job.protocol_file]


def test_settings_of_the_command_line_need_a_name() -> None:
    assert read_extra(["a.b=1=2", "+c=[x]"]) == {"a.b": "1=2", "+c": "[x]"}
    with pytest.raises(ProtocolError, match="name=value"):
        read_extra(["novalue"])


@pytest.mark.parametrize(
    "value",
    [
        "/a b/c,d.parquet",
        "it's",
        "back\\slash'",
        "end\\",
        "a\\'b",
        "true",
        "1e5",
        "${oc.env:HOME}",
        "ünï",
        None,
        True,
        7,
        1e-6,
    ],
)
def test_hydra_reads_back_what_is_written(value: object) -> None:
    pytest.importorskip("hydra", reason="verl is installed in an environment of its own (tox -e verl)")
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert OverridesParser.create().parse_override(f"key={hydra_text(value)}").value() == value
    assert OverridesParser.create().parse_override(f"key={hydra_text([value, 'x'])}").value() == [value, "x"]


@pytest.mark.parametrize("number", [2, 4])
def test_verl_accepts_the_reinforced_stages_with_the_papers_settings(
    tmp_path: Path, checkpoint_or_skip: Path, number: int
) -> None:
    from vital_eval.training.verl_plugin.launch import composed

    config = composed(make_job(number, checkpoint_or_skip, tmp_path, tmp_path / "out, of 'it'"))
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert (config.algorithm.adv_estimator, config.algorithm.difficulty) == ("dgrpo", "released")
    assert (config.data.train_batch_size, actor.ppo_mini_batch_size, rollout.n) == (64, 64, 8)
    assert (actor.ppo_micro_batch_size_per_gpu, rollout.log_prob_micro_batch_size_per_gpu) == (2, 4)
    assert (actor.optim.lr, actor.kl_loss_coef, actor.kl_loss_type, actor.entropy_coeff) == (
        1e-6,
        0.01,
        "low_var_kl",
        0,
    )
    assert actor.use_kl_loss
    assert not config.algorithm.use_kl_in_reward
    assert config.data.max_prompt_length == 3072
    assert config.data.max_response_length == {2: 1024, 4: 7168}[number]
    assert rollout.max_num_batched_tokens == 2 * (rollout.prompt_length + rollout.response_length)
    assert rollout.multi_turn.max_assistant_turns == {2: 1, 4: 3}[number]
    assert (rollout.multi_turn.tool_config_path is None) == (number == 2)
    assert config.trainer.save_freq == {2: 200, 4: 25}[number]
    assert (config.trainer.nnodes, config.trainer.n_gpus_per_node, config.trainer.total_epochs) == (2, 8, 1)
    assert (rollout.temperature, rollout.top_p, rollout.gpu_memory_utilization) == (1.0, 1.0, 0.7)
    assert actor.strategy == "fsdp2"
    assert config.data.vital.protocol == str(tmp_path / "out, of 'it'" / "protocol.json")


@pytest.mark.parametrize("number", [1, 3])
def test_verl_composes_the_supervised_stages(tmp_path: Path, checkpoint_or_skip: Path, number: int) -> None:
    from vital_eval.training.verl_plugin.launch import composed

    config = composed(make_job(number, checkpoint_or_skip, tmp_path, tmp_path))
    assert (config.data.train_batch_size, config.optim.lr) == (256, 1e-5)
    assert config.data.micro_batch_size_per_gpu == {1: 4, 3: 2}[number]
    assert config.data.custom_cls.name == "VitalSFTDataset"
    assert config.data.vital.checkpoint == str(checkpoint_or_skip)


def test_a_setting_that_verl_does_not_know_is_refused(tmp_path: Path, checkpoint_or_skip: Path) -> None:
    from hydra.errors import ConfigCompositionException

    from vital_eval.training.verl_plugin.launch import composed

    with pytest.raises(ConfigCompositionException):
        composed(make_job(4, checkpoint_or_skip, tmp_path, tmp_path, {"algorithm.dificulty": "none"}))


def test_a_dry_run_prints_everything_and_writes_nothing(
    tmp_path: Path, checkpoint_or_skip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vital_eval.training.verl_plugin.launch import main

    out = tmp_path / "out"
    given = ["--stage", "4", "--model", str(checkpoint_or_skip), "--train", "a.parquet", "--validation", "b.parquet"]
    given += ["--media-root", str(tmp_path), "--output", str(out), "--dry-run", "--set", "algorithm.gamma=0.5"]
    assert main(given) == 0
    shown = capsys.readouterr().out
    assert f"{sys.executable} -P -m verl.trainer.main_ppo" in shown
    assert "gamma: 0.5" in shown
    assert "adv_estimator: dgrpo" in shown
    assert "get_video_clip_frame" not in shown.partition("# configuration")[2]
    assert not out.exists()
    assert main([*given[:3], str(tmp_path / "gone"), *given[4:]]) == 2
    assert "gone does not exist" in capsys.readouterr().err
