"""ROUGE and word error rate, for rewards on free text.

Written out here because the usual packages bring in much for little (rouge-score needs nltk, absl and six; jiwer needs
a compiled matcher). Words are stemmed, as in the VITAL release, which uses rouge-score with nltk's Porter stemmer:
"opens" and "opening" are one word. The stemmer here is Snowball's English one (Porter's second), which is nearer to
nltk's extended Porter than the plain Porter is: of 4,000 pairs of captions (ActivityNet, ReXTime), 5 score otherwise
than with rouge-score 0.1.2, by at most 0.09; with the plain Porter 16, without a stemmer 775. What differs is mostly
"-ly": "quickly" is "quick" here and another word there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from vital_eval.errors import MissingExtraError

_WORD = re.compile(r"[a-z0-9]+")
#: Words that are looked at; both measures cost the product of the two lengths.
_LONGEST = 1024
#: Shorter words are not stemmed, as in rouge-score.
_STEMMED = 4


def mean_rouge(stated: str, right: str) -> float:
    """Return the mean of the F measures of ROUGE-1, ROUGE-2 and ROUGE-L, in [0, 1]; 0 if a text has no word.

    Words are runs of ASCII letters and digits in lower case, as in rouge-score; those of more than three are stemmed.
    A text of one word has no bigram and scores at most 2/3, as there.

    Raises:
        MissingExtraError: if the stemmer is not installed.
    """
    one, other = (_words(text) for text in (stated, right))
    longest = _f_measure(_longest_common(one, other), len(one), len(other))
    return (_ngram_f(one, other, 1) + _ngram_f(one, other, 2) + longest) / 3


def word_error_rate(stated: str, right: str) -> float:
    """Return the edits that turn one text into the other, in words, over the words of ``right``; not below 0.

    Words are what white space separates; case and punctuation count, as in Video-R1's reward. A ``right`` without
    words has rate 1: there is nothing to be right about.
    """
    one, other = (text.split()[:_LONGEST] for text in (stated, right))
    if not other:
        return 1.0
    row = list(range(len(other) + 1))
    for count, word in enumerate(one, 1):
        above, row[0] = row[0], count
        for place, wanted in enumerate(other, 1):
            above, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, above + (word != wanted))
    return row[-1] / len(other)


def _words(text: str) -> list[str]:
    words = _WORD.findall(text.lower())[:_LONGEST]
    return [_stem(word) if len(word) >= _STEMMED else word for word in words]


@lru_cache(maxsize=1 << 16)
def _stem(word: str) -> str:
    try:
        from snowballstemmer import stemmer
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "ROUGE rewards need snowballstemmer, which is not installed", "pip install 'snowballstemmer>=3,<4'"
        ) from error
    # A new one each time, because a stemmer holds the word it is at and threads may share this function.
    return str(stemmer("english").stemWord(word))


def _ngram_f(one: Sequence[str], other: Sequence[str], size: int) -> float:
    left, right = (Counter(zip(*(words[place:] for place in range(size)), strict=False)) for words in (one, other))
    return _f_measure((left & right).total(), left.total(), right.total())


def _longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    row = [0] * (len(other) + 1)
    for word in one:
        before = 0
        for place, wanted in enumerate(other, 1):
            before, row[place] = row[place], before + 1 if word == wanted else max(row[place], row[place - 1])
    return row[-1]


def _f_measure(shared: int, one: int, other: int) -> float:
    return 2 * shared / (one + other) if shared else 0.0
