"""The words of a caption, as the official COCO evaluation sees them.

The official code runs the Stanford PTBTokenizer (Penn Treebank conventions) over all captions as
one file, lower-cases, and removes a list of punctuation marks. This is a tokenizer of our own,
written from how the official one was seen to behave, with one difference on purpose: each caption
is read alone. A line separator inside it is a space like any other, and whether "St." at its end
keeps its period (it does) cannot depend on the caption that happens to follow.

Rewards, scores and vocabularies all use this tokenizer; a model's tokenizer.json holds its VERSION.
"""

import re

VERSION = "1"
"""Goes up when the tokens of any caption change."""

# Words that keep their period, and those that keep it only with a capital ("Miss." but not "miss.")
_ABBREVIATIONS = frozenset(
    """adj adm adv al ala alex apr ariz assn asst attys atty aug ave bancorp bhd bldg blvd brig bros
    calif capt cf cie cmdr co col colo conn corp cos cpl ct dak dec dept det dr drs elec ens esq est
    etc ext feb fla fri ft ga gen gov govs hon inc ind insp intl invt jan jos jr jul jun kan kans ky
    lieut lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt mtg natl neb
    nev nov oct okla penn pfc ph plc ppte ppty pres prof profs pte ptes pty ptys pvt rd rep reps rev
    rt sen sens sep sept seq sfc sgt spc sq sr st ste supt supts sys tel tenn thu thurs tue tues
    univ va vs vt wed wis wisc wm wyo""".split()  # noqa: SIM905 (a list would take 150 lines)
)
_CAPITALISED = {"ark", "az", "del", "ill", "la", "mass", "miss", "ore", "pa", "tex", "wash"}

_SPLIT = {"cannot", "gimme", "gonna", "gotta", "lemme", "wanna"}  # after three letters: can|not
_REWRITE = (
    {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
    | {"&amp;": "&", "&AMP;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'"}
    | {"£": "#", "€": "$", "¼": "1/4", "½": "1/2", "¾": "3/4"}
)
_PUNCTUATION = re.compile(r"""[.,:;?!'"`‘’“”…–—]|-+|\.+""")

# Most captions: plain words, commas, a period at the end. _TOKEN would find the same, slower.
_PLAIN = re.compile(r"((?:[A-Za-z]+,? +)*[A-Za-z]+)(\.?)\s*")

_L, _W = r"[^\W\d_]", r"[^\W_]"  # a letter; a letter or digit
_CLITIC = rf"['’](?i:s|m|d|re|ve|ll)(?!{_L})"
# The first alternative that matches wins, so whatever holds a mark inside stands before its parts.
_TOKEN = re.compile(
    rf"""
    [A-Za-z]+ (?!\S)                                            # plain words first, for speed
  | </?[A-Za-z][\w:-]*/?>                                       # <b>
  | &(?i:amp|lt|gt|quot|apos);
  | (?:https?://|www\.) [^\s"<>|()]* [^\s"<>|.!?(){{}},-]
  | [A-Za-z0-9][^\s"<>|()]*@[^\s"<>|().]+ (?:\.[^\s"<>|().]+)*  # an e-mail address
  | @{_L}{_W}* | [#]{_L}+                                       # @home, #tag
  | (?P<company> [A-Z]+ (?:(?:&(?:amp|AMP);|[+&])[A-Z]+)+ )     # AT&T
  | {_W}+(?:-{_W}+)* (?:/{_W}+(?:-{_W}+)*)+                     # and/or
  | {_W}(?:{_W}|[.,])* (?:[-_]{_W}+)+                           # t-shirt, and a,b-c too
  | {_L}*?[^\W\d_nN] (?=n['’]t|N['’]T)                          # do|n't
  | {_L}+? (?={_CLITIC})                                        # it|'s
  | (?:[A-HJ-XZdlno]['’`]{_L}{{2}} | {_L}+[aeiouyAEIOUY]['’`][aeiouA-Z]){_L}*    # o'clock
  | (?P<clitic> {_CLITIC} | ’[sS] | n['’]t | N['’]T )
  | ['’][nN](?!{_L}) | ['’](?:em|\d0s)(?!{_W}) | [dlDL]['’]     # rock 'n roll, '90s
  | {_L}{_W}* (?:[.!?]{_L}{_W}*)+                               # word.Word, J.R
  | (?P<fraction> \d+[ ]\d+/\d+ )                               # 22 3/4
  | [A-Z]*\$                                                    # US$
  | [:;=]-?[dDpP] (?!{_W})                                      # a smile
  | (?:[-+][.,:]?|[.,:])\d+(?:[.,:]\d+)* | \d+(?:[.,:]\d+)+     # -3.5, 12:45
  | {_W}+ | -+ | \.+ | [?!]+ | \S
    """,
    re.VERBOSE,
)
_INSIDE = {"company": ("&amp;", "&"), "clitic": ("’", "'"), "fraction": (" ", "\xa0")}
_ACRONYM = re.compile(rf"{_L}(?:\.{_L})*")
_NEW_SENTENCE = re.compile(r"\.\s+(?:An?|The)\b")


def tokenize(caption: str) -> list[str]:
    """The lower-cased words of one raw caption, without punctuation.

    " ".join of them is the official token string. A token may hold a no-break space ("22\xa03/4"),
    where BLEU and CIDEr officially see two words and ROUGE-L one: give scorers the joined string.
    """
    if plain := _PLAIN.fullmatch(caption):
        words = plain[1].replace(",", " ").lower().split()
        if _SPLIT.isdisjoint(words) and not (plain[2] and _keeps_period(words[-1].title(), ".", 0)):
            return words
    tokens = []
    for match in _TOKEN.finditer(caption):
        token = _REWRITE.get(match[0], match[0].lower())
        if _PUNCTUATION.fullmatch(token):
            continue
        if match.lastgroup:
            token = token.replace(*_INSIDE[match.lastgroup])
        if caption.startswith(".", match.end()) and _keeps_period(match[0], caption, match.end()):
            token += "."
        tokens += [token[:3], token[3:]] if token in _SPLIT else [token]
    return tokens


def _keeps_period(word: str, caption: str, end: int) -> bool:
    """Whether the period at caption[end] belongs to the word before it."""
    lower = word.lower()
    if lower in _ABBREVIATIONS or (lower in _CAPITALISED and word[0].isupper()):
        return True
    if _ACRONYM.fullmatch(word):
        return len(word) > 1 or not _NEW_SENTENCE.match(caption, end)
    return word.isalpha() and caption[end + 1 : end + 2] in {",", ";", ":"}  # seen, not understood
