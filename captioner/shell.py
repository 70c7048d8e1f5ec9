"""Commands that are printed to go on with. They work when they are pasted into a shell."""

import re
import shlex

# What Hydra takes for a string as it is; it takes others for a number, a list or a mistake.
_PLAIN = re.compile(
    r"(?!(?:true|false|null|[+-]?(?:inf|nan|[\d_.]+(?:e[+-]?\d+)?))$)[\w./*+-]+", re.ASCII | re.I
)


def command(*words: object) -> str:
    """Words as a command line. What cannot be printed is escaped as bash and zsh read it."""
    return " ".join(map(_quote, map(str, words)))


def override(key: str, value: object) -> str:
    """KEY=VALUE for Hydra, a word of a command line that reads the string again."""
    return f"{key}={hydra_string(str(value))}"


def hydra_string(text: str) -> str:
    """A string in Hydra's quotes, if it needs them."""
    if _PLAIN.fullmatch(text):
        return text
    # Hydra halves backslashes before a quote and at the end, and leaves others alone.
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + "\\'" * bool(m[2]), text) + "'"


def _quote(word: str) -> str:
    if word.isprintable():
        simple = "'" in word and not re.search(r'["$`\\!]', word)
        return f'"{word}"' if simple else shlex.quote(word)
    shown = "".join(c if c.isprintable() and c not in "'\\" else _escaped(c) for c in word)
    return f"$'{shown}'"


def _escaped(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode(errors="surrogateescape"))
