"""Texts of models made tidy, and the phrases that a detector looks for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ssl3d.data.captions.records import ImageCaption, clean_phrase

PHRASES_AT_ONCE = 30
"""A detector reads 256 tokens of text: more phrases are looked for in several passes."""
LONGEST_PHRASE = 4
"""Words of a phrase of the captioner that the detector still looks for."""
GROUNDING = "<grounding>"
_TAG = re.compile(r"<[^>]*>?")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def tidy_caption(text: str, prompt: str) -> str:
    """A caption without its instruction, single spaces, cut where greedy decoding begins to repeat a sentence.

    Args:
        prompt: what the model was given and has repeated; it stays where it is the beginning of the sentence
            ("An image of"), and goes where it is an instruction that ends in a colon.
    """
    text = " ".join(text.split())
    asked = " ".join(prompt.replace(GROUNDING, "").split())
    if asked.endswith(":") and text.startswith(asked):
        text = text[len(asked) :].strip()
    elif text == asked:
        return ""
    kept: list[str] = []
    seen: set[str] = set()
    for sentence in _SENTENCE.split(text):
        if sentence.lower() in seen:
            break
        seen.add(sentence.lower())
        kept.append(sentence)
    return " ".join(kept)


def is_clean(phrase: str) -> bool:
    """Whether a grounded phrase is words, without remains of the model's marks."""
    return bool(phrase.strip()) and _TAG.search(phrase) is None


def class_phrases(classes: Iterable[str]) -> list[str]:
    """Names of classes in plain English: ``traffic-sign -> traffic sign``. "Other" things cannot be looked for."""
    plain = [clean_phrase(re.sub(r"[-_]+", " ", name)) for name in classes]
    return [name for name in dict.fromkeys(plain) if name and not name.startswith("other")]


def caption_phrases(captions: Iterable[ImageCaption]) -> list[str]:
    """The grounded phrases of captions that are short enough to be looked for, each once, in order."""
    phrases = (clean_phrase(phrase.text) for caption in captions for phrase in caption.phrases)
    return [p for p in dict.fromkeys(phrases) if is_clean(p) and len(p.split()) <= LONGEST_PHRASE and "." not in p]


def in_chunks(phrases: Sequence[str]) -> list[list[str]]:
    """At most ``PHRASES_AT_ONCE`` each."""
    return [list(phrases[k : k + PHRASES_AT_ONCE]) for k in range(0, len(phrases), PHRASES_AT_ONCE)]


def match_phrase(found: str, vocabulary: Sequence[str]) -> str | None:
    """What a detector means: the phrase itself, else the one that shares the largest part of its words, else None.

    The share is |common words| / |all words| (Jaccard); of equal ones the shorter phrase, then the first.
    """
    found = clean_phrase(found)
    if found in vocabulary:
        return found
    words = set(found.split())
    best, rank = None, (0.0, 0)
    for phrase in vocabulary:
        others = set(phrase.split())
        share = len(words & others) / len(words | others) if words | others else 0.0
        if share > 0 and (share, -len(phrase)) > rank:
            best, rank = phrase, (share, -len(phrase))
    return best
