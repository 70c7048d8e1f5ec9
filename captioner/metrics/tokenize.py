"""The words of a caption, as metrics see them: by default as the official COCO evaluation does.

The official tokenizer is for English. `TOKENIZERS` has others for languages that it cannot split.
Officially, the Stanford PTBTokenizer (Penn Treebank conventions) reads all captions as one file;
lower case and a list of punctuation marks follow. This one is our own, written from what was
observed. It differs on purpose: a line separator inside a caption is a space (officially it moves
all later captions to the wrong image), and each caption is read alone, unless `official` is asked.
"""

import re
from collections.abc import Callable, Sequence

from captioner.errors import InputError

VERSION = "2"
"""Goes up when the tokens of any caption change; a model's tokenizer.json holds it."""
UNSPACED = re.compile(
    r"\S*[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u9fff\U00020000-\U0003ffff]\S*"
)
"""A text in a script without blanks (Thai, Lao, Burmese, Khmer, Japanese, Chinese), as one word."""

# Words that keep their period; that keep it with a capital only ("Miss." but not "miss."); and that
# keep it before a number only ("no. 5").
_ABBREVIATIONS = frozenset(
    """adj adm adv al ala alex apr ariz assn asst atty attys aug ave bancorp bhd bldg blvd brig
    bros calif capt cf cie cmdr co col colo conn corp cos cpl ct dak dec dept det dr drs elec
    ens esq est etc ext feb fla fri ft ga gen gov govs hon inc ind insp intl invt jan jos jr jul
    jun kan kans ky lieut lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms
    msgr mt mtg natl neb nev nov oct okla penn pfc ph ph.d plc ppte ppty pres prof profs pte
    ptes pty ptys pvt rd rep reps rev rt sen sens sep sept seq sfc sgt spc sq sr st ste supt
    supts sys tel tenn thu thurs tue tues univ va vs vt wed wis wisc wm wyo""".split()
)
_CAPITALISED = {"ark", "az", "del", "ill", "la", "mass", "miss", "ore", "pa", "tex", "wash"}
_NUMBERED = {"art", "ca", "fig", "figs", "no", "nos", "op", "pp", "prop"}
_MAY_KEEP = _ABBREVIATIONS | _CAPITALISED | _NUMBERED | set("abcdefghijklmnopqrstuvwxyz")

_SPLIT = {"cannot", "gimme", "gonna", "gotta", "lemme", "wanna"}  # after three letters: can|not
_REWRITE = (
    {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
    | {"&amp;": "&", "&lt;": "<", "&gt;": ">", "£": "#", "€": "$", "¤": "$", "¢": "cents"}
    | {"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
)
# Before all else: separators become spaces, soft hyphens vanish, Windows-1252 is decoded as meant.
_CHARACTERS = str.maketrans(
    "\n\r\v\f\x85\u2028\u2029\x80\x91\x92\x93\x94«»", " " * 7 + "€‘’“”“”", "\xad"
)
_ENTITIES = {"apos": "'", "quot": '"', "nbsp": " ", "mdash": "—", "ndash": "–"}
_ENTITY = re.compile(rf"&({'|'.join(_ENTITIES)});")

_NONE = r"²³¹¼-¾\u2070-\u2189①-⓿\U00010000-\U0010ffff"  # letters or digits for Python only
_L, _W = rf"[^\W\d_{_NONE}]", rf"[^\W_{_NONE}]"  # a letter; a letter or digit
_ACCENT = r"[\u0300-\u036f\u064b-\u065e\u0900-\u0903\u093a-\u094f\u0e31-\u0e3a\u0e47-\u0e4e]"
_SYMBOL = (  # a token of its own; all other marks, emoji and control characters are left out
    r"[][(){}$%&*+/<=>@#\\^_|~¡-©¬®-¹¼-¿×÷\u02b0-\u0385\u0387\u0589-\u07f8\u0964\u0965\u0e3f‖‗‚„-‣"
    r"‰-‸※‾-⁂⁄\u2070-\u208e€℀-⅏⅓-⅞\u2190-\u2bff、。〒・！-￡￥￦]"
)
_END = r"[^\s\"<>|.!?(){},-]"  # what an address ends with
_NAME = r"[A-Za-z][A-Za-z0-9_.:-]*"
_TAG = rf"""(?: <{_NAME}(?:[ ]+{_NAME}(?:=(?:"[^"\n]*"|'[^'\n]*'))?)*[ ]*/?>
    | </{_NAME}[ ]*> | <[!?][^\s<>][^<>\n]*> )"""
_CLITIC = r"(?i:s|m|d|re|ve|ll)"
# The first alternative that matches wins, so whatever holds a mark inside stands before its parts.
_TOKEN = re.compile(
    rf"""
    [A-Za-z]+ (?=[.,)"]?(?:\s|$))                               # plain words first, for speed
  | (?P<whole>                                                  # one token, with what it holds
        {_TAG}
      | \d{{1,4}}[ \xa0]\d{{1,4}}[/⁄]\d{{1,4}} | \d+-\d+/\d+(?=-) | \d+⁄\d+  # 22 3/4
      | (?: \(\d{{2,3}}\)[- \xa0]? | (?:\+?\d{{2,4}}[- \xa0])?\d{{2,4}}[- \xa0] )  # (555) 555 1234
        \d{{3,4}}[- \xa0]?\d{{3,5}}
      | [<>]?[:;=][-o*']?[]()[DdPpO@{{|\\] (?=[^A-Za-z0-9])     # a smile :-)
      | [-^=~<>']_[-^=~<>'] | \([-^=~<>'x][_.]?[-^=~<>'x]\)     # ^_^ (--)
    )
  | (?P<quotes> [“”‘’]{{2,}} | '' )                             # “‘ together
  | &(?:(?i:amp|lt|gt)|\#\d+);
  | (?i:https?://) [^\s"<>|()]* {_END}
  | (?: (?i:www\.)(?:[\w-]+\.)+[A-Za-z]{{2,4}} | (?:[^\W\d_A-Z]+\.)+(?i:com|net|org|edu) )
    /[^\s"<>|()]+ {_END}                                        # foo.com/bar
  | (?i:www\.)(?:[A-Za-z0-9-]+\.)+[A-Za-z]{{2,4}} (?!{_W}|[.-]{_W})
  | <?[A-Za-z0-9][^\s"<>|(){{}}]*@[^\s"<>|(){{}}.]+ (?:\.[^\s"<>|(){{}}.]+)* >?  # an e-mail address
  | @{_L}(?:{_W}|_)* | [#]{_L}+ | [cC](?:\+\+|\#) | [fF]\#      # @home, #tag, C++
  | (?P<company> [A-Z]+ (?:(?:&(?i:amp);|[+&])[A-Z]+)+ )        # AT&T
  | [A-Za-z]*?[A-MO-Za-mo-z] (?=[nN]['’`‘][tT])                 # do|n't
  | {_L}+? (?=['’]{_CLITIC}(?![A-Za-z]))                        # it|'s
  | (?i: c'mon | cap['’]n | li'l | nat'l | ol['’] | e'er | s'mores )
  | (?:{_L}+-)? [A-HJ-XZdlno]['’`‘]{_L}{{2,}} (?:-{_L}+)*       # o'clock, hors-d'oeuvres
  | {_L}+[aeiouyAEIOUY]['’`‘][aeiouA-Z]{_L}*                    # ma'am
  | {_L}+? (?=’(?:{_CLITIC}|[nN]))
  | (?P<clitic> '{_CLITIC}(?![A-Za-z]) | ’{_CLITIC} | [nN]['’`‘][tT] )
  | '[nN](?:['’]|(?!\S)) | ’[nN]['’]? | ['’](?i:em|till?|cause)  # rock 'n' roll
  | ['’](?:\d0[sS](?!\w)|\d\d(?=\s)) | '[tT](?=(?i:is|was))     # '90s, class of '05, 't|is
  | [dljDLJ]['’] | [yY]['’](?={_L})                             # y'|all
  | -[lrLR][rscRSC][bB]-                                        # -lrb- of tokenised text
  | [A-Za-z0-9]+(?:-[A-Za-z0-9]+)* (?:/[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*){{1,2}}  # and/or
  | (?: {_W}+ (?=[-_‐‑]) | [A-Za-z0-9][A-Za-z0-9.,]* (?=-) )    # t-shirt, and a,b-c too
    (?: [-_‐‑] (?: (?:[A-Za-z]\.){{2,}} | {_W}+ ) )+
  | {_L}{_W}* (?:[.!?]{_L}{_W}*)+                               # word.Word, J.R
  | \d+(?:\.\d+)*\.(?i:jpe?g|png|gif|bmp|pdf|docx?|html?|mp3|txt|xml|zip|py|c|h|x) (?!{_W})
  | [A-Z]*\$                                                    # US$
  | (?:[-+][.,:]?|[.,:])\d+(?:[.,:]\d+)* | \d+(?:[.,:]\d+)+     # -3.5, 12:45
  | {_W}(?:{_W}|{_ACCENT})* | (?P<mark> -+ | \.+ )
  | [?!]{{2,}} | \*+ | _+ | @+ | [#]+ | << | >> | {_SYMBOL}
    """,
    re.VERBOSE,
)
_INSIDE: dict[str | None, dict[int, str]] = {
    "whole": str.maketrans({" ": "\xa0", "(": "-lrb-", ")": "-rrb-"}),
    "quotes": str.maketrans({"“": "``", "”": "''", "‘": "`", "’": "'"}),
    "clitic": str.maketrans({"’": "'", "‘": "`"}),
}
_WORD = re.compile(r"[^\W_][\w&.,!?‐‑-]*")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)+")
_ACRONYM = re.compile(r"[A-Za-z](?:\.[A-Za-z])*")
# Observed sentence beginnings; before anything else a lone letter keeps its period.
_NEW_SENTENCE = re.compile(
    rf"""\.\s+ (?: (?=[A-Z]) (?i: m[rs]\. | (?: an?|about|according|after|as|at|but|earlier|he|her
    |here|however|if|in|it|last|many|more|now|once|one|other|our|she|since|so|some|such|that|the
    |their|then|there|these|they|this|we|what|when|while|yet|you ) (?=\s) ) | {_TAG}(?=\s) )""",
    re.VERBOSE,
)
_A_NUMBER = re.compile(r"\.\s?\d")


def tokenize(caption: str) -> list[str]:
    """The lower-cased words of one raw caption, without punctuation.

    A token may hold a no-break space ("22\\xa03/4"), where BLEU and CIDEr officially see two words
    and ROUGE-L one: give scorers the string joined by spaces.
    """
    return _words(caption, "\n")


def _characters(caption: str) -> list[str]:
    """The characters of one raw caption, punctuation included, blanks left out."""
    return [character for character in caption if not character.isspace()]


TOKENIZERS: dict[str, Callable[[str], list[str]]] = {
    "ptb": tokenize,
    "char": _characters,
    "none": str.split,
}
"""By the names of `metrics_tokenizer`: the official one, for English; characters, for languages
without blanks between words; and none, for captions whose tokens are already set apart by blanks.
"""


def check_tokenizer(tokenizer: str, official: bool = False) -> None:
    """Raise InputError for an unknown name, or one that does not go with `official`."""
    if tokenizer not in TOKENIZERS:
        known = ", ".join(TOKENIZERS)
        raise InputError(f"metrics_tokenizer={tokenizer}: give one of {known}")
    if official and tokenizer != "ptb":
        raise InputError(f"metrics_tokenizer={tokenizer}: the official tokenizer is ptb: give one")


def version_of(tokenizer: str) -> str:
    """What tells tokens apart that must not be mixed, in a table of frequencies or in scores."""
    return VERSION if tokenizer == "ptb" else tokenizer


def without_blanks(captions: Sequence[str]) -> int:
    """How many captions have no blanks between their words, in a script that has none."""
    texts = (caption.strip() for caption in captions if not caption.isascii())
    return sum(bool(UNSPACED.fullmatch(text)) for text in texts)


def token_strings(
    captions: Sequence[str], official: bool = False, tokenizer: str = "ptb"
) -> list[str]:
    """The words of each caption, joined by spaces, as scorers take them.

    official: tokenize as if the captions were lines of one file (as pycocoevalcap does, all
    references image by image, and all candidates). Then the next caption that is not blank decides
    two things: a lone letter at a caption's end loses its period before "A", "The", "It", some 40
    more words or a <tag>; and "no.", "fig." and a few others keep theirs before a digit in the very
    next line. Nothing follows the last caption: a smile or '05 at its end is no token.
    tokenizer: a name in TOKENIZERS.
    """
    check_tokenizer(tokenizer, official)
    if not official:
        split = TOKENIZERS[tokenizer]
        return [" ".join(split(caption)) for caption in captions]
    texts, after = [], ""
    for caption in reversed(captions):
        texts.append(" ".join(_words(caption, after)))
        blank = not caption.strip()
        after = "\n" + caption.translate(_CHARACTERS) + (after if blank else "\n")
    return texts[::-1]


def _words(caption: str, after: str) -> list[str]:
    """The words of a caption; `after`: the text that follows it, from its line's end on."""
    if plain := _plain(caption):
        return plain
    caption = caption.translate(_CHARACTERS)
    if "&" in caption:
        caption = _ENTITY.sub(lambda entity: _ENTITIES[entity[1]], caption)
    text = caption + after
    tokens: list[str] = []
    position = 0
    while (match := _TOKEN.search(text, position)) and match.start() < len(caption):
        position, kind, token = match.end(), match.lastgroup, match[0].lower()
        token = _REWRITE.get(token, token)
        if kind == "mark":
            continue
        if kind in _INSIDE:
            token = token.translate(_INSIDE[kind])
            if token in {"''", "``"}:
                continue
        elif kind == "company":
            token = token.replace("&amp;", "&")
        if text.startswith(".", position) and _keeps_period(match[0], text, position):
            token += "."
            position += 1
        tokens += [token[:3], token[3:]] if token in _SPLIT else [token]
    return tokens


def _plain(caption: str) -> list[str]:
    """The words of a caption that has only plain words, commas and a final period, else [].

    Most captions are so plain; `_words` would give the same, more slowly.
    """
    text = caption.rstrip()
    body = text.removesuffix(".")
    if not (body.isascii() and body.replace(" ", "").replace(",", "").isalpha()):
        return []
    if body.count(",") != body.count(", "):
        return []
    words = body.replace(",", " ").lower().split()
    kept = len(body) < len(text) and body[-1] != " " and words[-1] in _MAY_KEEP
    return [] if kept or not _SPLIT.isdisjoint(words) else words


def _keeps_period(word: str, text: str, end: int) -> bool:
    """Whether the period at text[end] belongs to the word before it."""
    lower = word.lower()
    if lower in _ABBREVIATIONS or (lower in _CAPITALISED and word[0].isupper()):
        return True
    if lower in _NUMBERED and _A_NUMBER.match(text, end):
        return True
    if _ACRONYM.fullmatch(word):
        return len(word) > 1 or not _NEW_SENTENCE.match(text, end)
    # Observed, not understood: "dog.," and "5.;" but not "5.5.,"
    return text[end + 1 : end + 2] in {",", ";", ":"} and bool(
        _WORD.fullmatch(word) and not _NUMBER.fullmatch(word)
    )
