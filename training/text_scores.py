"""ROUGE and word error rate, for rewards on free text.

Written out here because the usual packages bring in much for little (rouge-score needs nltk, absl and six; jiwer needs
a compiled matcher). **Words are not stemmed**, unlike in the VITAL release, which uses rouge-score with its Porter
stemmer: "opens" and "opening" are two words here. A paraphrase that inflects its verbs otherwise earns 0.1 to 0.3 less
than in the release. Apart from that the values are rouge-score's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

_WORD = re.compile(r"[a-z0-9]+")
#: Words that are looked at; both measures cost the product of the two lengths.
_LONGEST = 1024


def mean_rouge(stated: str, right: str) -> float:
    """Return the mean of the F measures of ROUGE-1, ROUGE-2 and ROUGE-L, in [0, 1]; 0 if a text has no word.

    Words are runs of ASCII letters and digits in lower case, as in rouge-score. A text of one word has no bigram and
    scores at most 2/3, as there.
    """
    one, other = (_WORD.findall(text.lower())[:_LONGEST] for text in (stated, right))
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
