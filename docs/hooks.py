"""Generated pages of the site: configuration, API reference, model card, log and changelog.

A public module, class or function without a docstring raises PluginError, which ends the build.
"""

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import configuration  # noqa: E402

import captioner  # noqa: E402
from captioner.commands.command_line import Verb  # noqa: E402
from captioner.commands.main import VERBS  # noqa: E402


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Check the docstrings, and add the API reference to the navigation."""
    if missing := list(undocumented()):
        raise PluginError("without a docstring: " + ", ".join(missing))
    pages = [{name: f"reference/{name}.md"} for name in reference()]
    config.nav = [*(config.nav or []), {"API reference": pages}]
    return config


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Link names such as `captioner.search.beam.Beam` to the reference; they must exist there."""
    if page.file.src_uri.startswith(("reference/", "log", "changelog")):
        return markdown
    return re.sub(r"`(captioner(?:\.\w+)+)`", r"[`\1`][\1]", markdown)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are generated."""
    pages = {f"reference/{name}.md": text for name, text in reference().items()}
    pages["configuration.md"] = configuration.page()
    pages["log.md"] = (ROOT / "LOG.md").read_text(encoding="utf-8")
    pages["model.md"] = (ROOT / "captioner/pretrained/README.md").read_text(encoding="utf-8")
    pages["changelog.md"] = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def reference() -> dict[str, str]:
    """The pages of the API reference: one for the loose modules, one for each package."""
    pages = {"captioner": ["captioner"]}
    for module in modules():
        parts = module.__name__.split(".")
        if len(parts) > 1 and (len(parts) > 2 or hasattr(module, "__path__")):
            pages.setdefault(parts[1], []).append(module.__name__)
        elif len(parts) > 1:
            pages["captioner"].append(module.__name__)
    return {
        page: f"# {page}\n\n" + "\n\n".join(f"::: {name}" for name in names) + "\n"
        for page, names in pages.items()
    }


def modules() -> Iterator[ModuleType]:
    """All public modules of captioner, in alphabetical order."""
    yield captioner
    for info in pkgutil.walk_packages(captioner.__path__, "captioner."):
        if not info.name.split(".")[-1].startswith("_"):
            yield importlib.import_module(info.name)


def undocumented() -> Iterator[str]:
    """The public modules, classes, functions and methods without a docstring.

    A method may inherit the docstring of the method that it overrides, or be explained by name in
    the docstring of its class; and the functions of a verb are explained in the protocol Verb.
    """
    for module in modules():
        yield from _undocumented(module.__name__, module, module)


def _undocumented(name: str, thing: Any, module: ModuleType) -> Iterator[str]:
    if not thing.__doc__:
        yield name
    bases = thing.__mro__[1:] if isinstance(thing, type) else ()
    if thing in VERBS.values():
        bases = (Verb,)
    for key, value in vars(thing).items():
        value = getattr(value, "fget", None) or getattr(value, "__func__", value)
        if key.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value):
            yield from _undocumented(f"{name}.{key}", value, module)
        elif inspect.isfunction(value) and not value.__doc__:
            explained = re.search(rf"\b{key}(,|:|  )", thing.__doc__ or "")
            if not explained and not any(key in vars(base) for base in bases):
                yield f"{name}.{key}"
