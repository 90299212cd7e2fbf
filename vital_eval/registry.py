"""Where tasks, engines, tools and decoders are found by name.

The built-in ones are found exactly as a third party's: through entry points (``vital_eval.tasks``,
``vital_eval.engines``, ``vital_eval.tools``, ``vital_eval.decoders``) or a file given with ``--plugin``.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from vital_eval.errors import MissingExtraError, UnknownNameError, VitalError

#: Entry-point groups, by the word used in messages.
GROUPS = {
    "task": "vital_eval.tasks",
    "engine": "vital_eval.engines",
    "tool": "vital_eval.tools",
    "decoder": "vital_eval.decoders",
}


#: What the names of plugin files' modules begin with.
_PLUGIN = "vital_eval_plugin_"


class Registry:
    """Names of one kind and how to load what they stand for; loading happens on first use."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._loaders: dict[str, Callable[[], Any]] = {}
        for point in entry_points(group=GROUPS[kind]):
            self.add(point.name, point.load)

    def add(self, name: str, loader: Callable[[], Any]) -> None:
        """Add a name.

        Args:
            name: unique name of this kind.
            loader: returns the class or factory the name stands for.

        Raises:
            VitalError: if the name is taken; built-ins never silently win over plugins or the reverse.
        """
        if name in self._loaders:
            raise VitalError(f"{self.kind} {name!r} is registered twice", "rename one of them")
        self._loaders[name] = loader

    def names(self) -> tuple[str, ...]:
        """Return all names, sorted."""
        return tuple(sorted(self._loaders))

    def require(self, name: str) -> None:
        """Check that a name is registered, without loading what it stands for.

        Raises:
            UnknownNameError: with the nearest names.
        """
        if name not in self._loaders:
            raise UnknownNameError(f"unknown {self.kind} {name!r}", suggest(name, self.names()))

    def load(self, name: str) -> Any:
        """Return what ``name`` stands for.

        Raises:
            UnknownNameError: with the nearest names.
            MissingExtraError: if it needs a package that is not installed.
        """
        self.require(name)
        try:
            return self._loaders[name]()
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                f"{self.kind} {name!r} needs the module {error.name!r}, which is not installed",
                "run `vital-eval doctor` to see what each part needs",
            ) from error


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a hint for a name that does not exist: the nearest ones, or all."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names) or 'none'}"


class Registries:
    """One registry for each kind, plus whatever plugin files bring.

    Args:
        plugins: Python files with a function ``register(registries)``.

    Raises:
        VitalError: if a plugin file is missing or has no ``register`` function.
    """

    def __init__(self, plugins: tuple[Path, ...] = ()) -> None:
        self.tasks = Registry("task")
        self.engines = Registry("engine")
        self.tools = Registry("tool")
        self.decoders = Registry("decoder")
        for path in plugins:
            _load_plugin(path, self)


def plugin_modules() -> tuple[ModuleType, ...]:
    """Return the modules of the plugin files that this process has loaded.

    No other process can import them by name: who pickles what they define must pickle it by value.
    """
    return tuple(module for name, module in sorted(sys.modules.items()) if name.startswith(_PLUGIN))


def _load_plugin(path: Path, registries: Registries) -> None:
    if not path.is_file():
        raise VitalError(f"plugin file {path} does not exist", "check the path given with --plugin")
    spec = importlib.util.spec_from_file_location(f"{_PLUGIN}{path.stem}", path)
    if spec is None or spec.loader is None:
        raise VitalError(f"plugin file {path} is not a Python file", "give a .py file with --plugin")
    module = importlib.util.module_from_spec(spec)
    try:
        with contextlib.ExitStack() as failure:
            # Dataclasses, for one, look their module up by its name.
            sys.modules[spec.name] = module
            failure.callback(sys.modules.pop, spec.name, None)
            spec.loader.exec_module(module)
            failure.pop_all()
    except (Exception, SystemExit) as error:  # someone else's code may do anything
        problem = f"plugin file {path} cannot be imported: {type(error).__name__}: {error}"
        raise VitalError(" ".join(problem.split()), "mend the file") from error
    register = getattr(module, "register", None)
    if register is None:
        raise VitalError(f"plugin file {path} has no function register(registries)", "see CONTRIBUTING.md")
    register(registries)
