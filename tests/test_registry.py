"""Names: found, suggested, never silently replaced; plugins are as good as built-ins."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vital_eval.errors import MissingExtraError, UnknownNameError, VitalError
from vital_eval.registry import Registries, plugin_modules, suggest
from vital_eval.task import Task

BUILT_IN = {
    "activitynet_mr",
    "charades_sta",
    "longvideo_reason",
    "mmvu",
    "next_gqa",
    "rextime",
    "vidchapters",
    "video_mme",
    "videommmu",
    "vsi_bench",
    "vue_tr",
}


def test_the_eleven_tasks_come_through_entry_points() -> None:
    registries = Registries()
    assert set(registries.tasks.names()) >= BUILT_IN
    for name in BUILT_IN:
        task = registries.tasks.load(name)()
        assert isinstance(task, Task)
        assert task.name == name
        assert task.primary in {metric.name for metric in task.metrics}


def test_unknown_names_suggest_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="did you mean charades_sta"):
        Registries().tasks.load("charades-sta")
    with pytest.raises(UnknownNameError, match="known: "):
        Registries().decoders.load("zzz")
    assert suggest("x", []) == "known: none"


def test_a_name_taken_twice_is_an_error() -> None:
    registries = Registries()
    with pytest.raises(VitalError, match="registered twice"):
        registries.tasks.add("mmvu", lambda: None)


def test_a_missing_module_says_which() -> None:
    registries = Registries()

    def load() -> None:
        raise ModuleNotFoundError("No module named 'vllm'", name="vllm")

    registries.engines.add("fast", load)
    with pytest.raises(MissingExtraError, match="engine 'fast' needs the module 'vllm'"):
        registries.engines.load("fast")


def plugin(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "plugin.py"
    path.write_text(text)
    return path


def test_a_plugin_registers(tmp_path: Path) -> None:
    path = plugin(tmp_path, "def register(registries):\n    registries.tools.add('mine', lambda: dict)\n")
    assert Registries((path,)).tools.load("mine") is dict
    assert "mine" not in Registries().tools.names()


#: Dataclasses with postponed annotations look their own module up by its name, some of them only when they are made.
WITH_DATACLASSES = """
from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Settings:
    size: int = 3

def make():
    @dataclass
    class Late:
        size: int = 4
    return Late

def register(registries):
    registries.tools.add("mine", lambda: Settings)
    registries.tools.add("late", make)
"""


def test_a_plugin_may_use_dataclasses_with_postponed_annotations(tmp_path: Path) -> None:
    tools = Registries((plugin(tmp_path, WITH_DATACLASSES),)).tools
    made = tools.load("mine")
    assert made().size == 3
    assert tools.load("late")().size == 4
    assert sys.modules[made.__module__].Settings is made
    assert sys.modules[made.__module__] in plugin_modules()


def test_a_plugin_that_fails_leaves_no_module_behind(tmp_path: Path) -> None:
    path = tmp_path / "half_a_plugin.py"
    path.write_text("import sys\nassert __name__ in sys.modules\n1 / 0\n")
    with pytest.raises(VitalError, match="ZeroDivisionError"):
        Registries((path,))
    assert not [name for name in sys.modules if "half_a_plugin" in name]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no function register"),
        ("def register(:\n", "cannot be imported"),
        ("import no_such_module_here\n", "no_such_module_here"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("import sys; sys.exit(7)\n", "SystemExit"),
        ("def register(r):\n    r.tasks.add('mmvu', dict)\n", "registered twice"),
    ],
)
def test_broken_plugins_are_one_clear_error(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(VitalError, match=words):
        Registries((plugin(tmp_path, text),))


def test_a_missing_plugin_is_named(tmp_path: Path) -> None:
    with pytest.raises(VitalError, match="does not exist"):
        Registries((tmp_path / "none.py",))
