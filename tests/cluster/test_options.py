"""``run --ray`` from the command line, as far as it goes without a cluster."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.toy_world import run_arguments
from vital_eval.cli.main import main


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, package=None: None if name == "ray" else found(name, package)
    )


@pytest.mark.usefixtures("without_ray")
def test_without_ray_installed_it_says_what_to_install(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(run_arguments(tmp_path, out, "--ray", "local")) == 1
    told = capsys.readouterr().err
    assert told == "error: --ray needs the module 'ray', which is not installed; install vital-eval[ray]\n"
    assert not out.exists()


@pytest.mark.parametrize("flag", ["--ray-workers=2", "--ray-gpus=1"])
def test_options_of_a_cluster_need_one(flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run_arguments(tmp_path, tmp_path / "run", flag)) == 1
    assert f"{flag.partition('=')[0]} without --ray" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flag", ["--ray-workers=0", "--ray-gpus=-1", "--ray-gpus=1.5", "--ray-gpus=nan", "--ray-gpus=inf", "--ray-gpus=x"]
)
def test_wrong_numbers_exit_2(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["run", flag])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.usefixtures("without_ray")
def test_the_options_may_stand_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "run.toml"
    config.write_text('ray = "local"\nray-workers = 2\nray-gpus = "0.5"\n')
    assert main(run_arguments(tmp_path, tmp_path / "run", "--config", str(config))) == 1
    assert "--ray needs the module 'ray'" in capsys.readouterr().err
