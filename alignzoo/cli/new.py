"""`alignzoo new NAME`: a plugin of one's own, as a distribution that works from the first minute.

The templates are the files under `alignzoo/new_plugin`; what stands for the plugin's names in
them is in capitals, such as PLUGIN_ID.
"""

from __future__ import annotations

import datetime
import importlib.util
import keyword
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from alignzoo.cli.arguments import Parser
from alignzoo.errors import ConfigError
from alignzoo.plugin_registry import registry

PluginKind = Literal["algorithm", "reward", "task"]
TEMPLATES = Path(__file__).parents[1] / "new_plugin"
SUFFIX = ".template"
PREFIX = "alignzoo-"


def run(arguments: list[str]) -> int:
    """Writes ./alignzoo-NAME and says what to do next."""
    parser = Parser("new", "Writes ./alignzoo-NAME: a plugin that works, with tests, to edit.")
    parser.add_argument("name", metavar="NAME", help="what people will type, such as my_ppo")
    parser.add_argument(
        "--kind", choices=get_args(PluginKind), default="algorithm", help="default algorithm"
    )
    given = parser.parse(arguments)
    check_name(given.name)
    folder = Path(f"{PREFIX}{given.name}")
    check_free(given.name, folder)
    write_folder(folder, plugin_files(given.name, given.kind))
    print(next_steps(given.name, given.kind, folder))
    return 0


def check_name(name: str) -> None:
    """Checks that a name can be an id, a module and a distribution.

    Raises:
        ConfigError: it cannot; the message says why.
    """
    if name.lower().startswith(("alignzoo-", "alignzoo_")):
        raise ConfigError(
            f"'{name}' starts with alignzoo, which new puts before every name; give "
            f"'{name[len(PREFIX) :]}'."
        )
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*([-_][A-Za-z0-9]+)*", name):
        raise ConfigError(
            f"'{name}' can be no plugin's name; expected a letter, then letters, digits and single "
            "'-' or '_' between them, such as my_ppo."
        )
    if keyword.iskeyword(module_part(name)):
        raise ConfigError(f"'{name}' is a word of Python's own; give another name, such as my_ppo.")


def check_free(name: str, folder: Path) -> None:
    """Checks that nothing has this name yet.

    Raises:
        ConfigError: an installed plugin or a folder has it; the message says which.
    """
    found = registry()
    owners = [entry for entry in found.entries if entry.id.lower() == name.lower()]
    if owners:
        raise ConfigError(f"{owners[0].label} is installed already; give another name.")
    module = f"alignzoo_{module_part(name)}"
    if importlib.util.find_spec(module) is not None:
        raise ConfigError(f"a module {module} is installed already; give another name.")
    if folder.exists() or folder.is_symlink():
        raise ConfigError(f"./{folder} exists already; move it away, or give another name.")


def module_part(name: str) -> str:
    """Returns a name as it stands in a module's."""
    return name.replace("-", "_")


def plugin_files(name: str, kind: PluginKind) -> dict[str, str]:
    """Returns the text of every file of a new plugin, by its path inside the folder."""
    module = f"alignzoo_{module_part(name)}"
    words = placeholders(name, kind)
    sources = {
        "pyproject.toml": "pyproject.toml",
        f"{module}.py": f"{kind}/module.py",
        f"tests/test_{module_part(name)}.py": f"{kind}/test.py",
        "README.md": f"{kind}/README.md",
        "LICENSE": "LICENSE",
    }
    return {path: _fill(TEMPLATES / f"{source}{SUFFIX}", words) for path, source in sources.items()}


def placeholders(name: str, kind: PluginKind) -> dict[str, str]:
    """Returns what stands in a template for what."""
    return {
        "PLUGIN_DISTRIBUTION": f"{PREFIX}{name}",
        "PLUGIN_MODULE": f"alignzoo_{module_part(name)}",
        "PLUGIN_CLASS": class_name(name, kind),
        "PLUGIN_KIND": {"algorithm": "an algorithm", "reward": "a reward", "task": "a task"}[kind],
        "PLUGIN_YEAR": str(datetime.date.today().year),
        "PLUGIN_ID": name,
        "ALIGNZOO_REQUIREMENT": requirement(),
    }


def class_name(name: str, kind: PluginKind) -> str:
    """Returns a name as its class has it, such as MyPpo; a name the module needs gets its kind."""
    made = "".join(part[:1].upper() + part[1:] for part in re.split("[-_]", name))
    template = (TEMPLATES / kind / f"module.py{SUFFIX}").read_text(encoding="utf-8")
    return made + kind.capitalize() if re.search(rf"\b{made}\b", template) else made


def requirement() -> str:
    """Returns the releases of alignzoo that a plugin written today may count on.

    From the one that is installed to before the next that may break plugins: the next minor
    release below 1.0, the next major one from then on.
    """
    from alignzoo import __version__

    major, minor = (int(part) for part in re.findall(r"\d+", __version__)[:2])
    below = f"0.{minor + 1}" if major == 0 else str(major + 1)
    return f"alignzoo>={major}.{minor},<{below}"


def _fill(template: Path, words: Mapping[str, str]) -> str:
    text = template.read_text(encoding="utf-8")
    return re.sub("|".join(words), lambda found: words[found[0]], text)


def write_folder(folder: Path, files: Mapping[str, str]) -> None:
    """Writes a folder whole, or not at all."""
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    unfinished.mkdir()
    try:
        for path, text in files.items():
            target = unfinished / path
            target.parent.mkdir(exist_ok=True)
            target.write_text(text, encoding="utf-8")
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def next_steps(name: str, kind: PluginKind, folder: Path) -> str:
    """Returns what was written, and four commands that lead on from there."""
    uses = {
        "algorithm": f"alignzoo train {name} --policy tiny ...",
        "reward": f"alignzoo train rloo --reward {name} ...",
        "task": f"alignzoo bench rloo --task {name} ...",
    }
    steps = {
        f"pip install -e './{folder}[test]'": "once: makes it known to alignzoo",
        f"alignzoo check {name}": "holds it to the contract",
        f"pytest {folder}": "the same, and tests of your own",
        uses[kind]: f"the whole command is in {folder}/README.md",
    }
    width = max(len(step) for step in steps)
    lines = [f"  {step:{width}}  # {why}" for step, why in steps.items()]
    code = f"{folder}/alignzoo_{module_part(name)}.py"
    return "\n".join(
        [f"wrote {code}, its tests and its packaging; it works as it is. Next:", *lines]
    )
