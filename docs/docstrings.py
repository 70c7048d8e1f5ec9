"""Docstrings as Markdown: plain text, with equations and small tables laid out by spaces."""

import inspect
import re
import textwrap

import griffe

MARKUP = re.compile(r"`[^`]*`|[*_<>\[\]#|~]")
"""Code in backticks, or a character that Markdown would read as markup."""


class PlainText(griffe.Extension):
    """Rewrites every docstring before mkdocstrings renders it."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: object) -> None:
        """Replace the docstring of a module, class, function or attribute."""
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)


CODE = re.compile(r"[^\s.!?] {2,}\S|^[\w, '{}()-]+ = ")
"""A line with columns, or an equation."""


def markdown(docstring: str) -> str:
    """A docstring's text as Markdown.

    Equations, lines with columns, and indented lines after a colon or an empty line become code
    blocks; other indented lines continue the sentence before them.
    """
    blocks: list[tuple[bool, list[str]]] = []
    before, code = "", False
    for line in inspect.cleandoc(docstring).splitlines():
        indented = line.startswith(" ")
        code = bool(CODE.search(line)) or (
            indented and (code or not before or before.endswith(":"))
        )
        if line:
            if not before or blocks[-1][0] != code:
                blocks.append((code, []))
            blocks[-1][1].append(line if code else line.strip())
        before = line
    return "\n\n".join(_block(code, lines) for code, lines in blocks)


def escape(text: str) -> str:
    """Plain text whose characters mean themselves in Markdown, except for backticks."""
    return MARKUP.sub(lambda match: match[0] if match[0][0] == "`" else "\\" + match[0], text)


def _block(code: bool, lines: list[str]) -> str:
    if code:
        return "```text\n" + textwrap.dedent("\n".join(lines)) + "\n```"
    return escape("\n".join(lines))
