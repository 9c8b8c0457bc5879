"""The measures of Gopher, C4, PII and lengths in plain Python, a text at a time: what is meant.

Dolma's own definitions, said as briefly as Python can say them; the taggers must say the same.
"""

import re
from collections import Counter
from statistics import median

from pipeline.data.text import paragraphs

REQUIRED = ("the", "be", "to", "of", "and", "that", "have", "with")
AROUND = r".\s@,?!;:)("
OCTET = r"(?:25[0-5]|2[0-4][0-9]|[01]?[0-9]{1,2})"
EMAIL = re.compile(rf"[{AROUND}]*([^\s@]+@[^\s@,?!;:)(]+?)[{AROUND}]?\s")
PHONE = re.compile(r"\s+\(?(\d{3})\)?[-. ]*(\d{3})[-. ]?(\d{4})")
IP = re.compile(rf"(?:{OCTET}\.){{3}}{OCTET}")


def gopher(text, variant="v1"):
    words = text.split()
    sizes = list(map(len, words))
    num, characters = len(words) or 1, sum(sizes)
    lines = re.split(r"\n+" if variant == "v2" else r"\n", text) if text else []
    repeated = [(line, n) for line, n in Counter(lines).items() if n > 1]
    made = {
        "character_count": len(text),
        "word_count": len(words),
        "median_word_length": median(sizes) if sizes else 0,
        "symbol_to_word_ratio": sum("#" in w or "\u2026" in w for w in words) / num,
        "fraction_of_words_with_alpha_character": sum(any(map(str.isalpha, w)) for w in words)
        / num,
        "required_word_count": sum(w in REQUIRED for w in words),
        "fraction_of_lines_starting_with_bullet_point": sum(
            line.startswith(("*", "-")) for line in lines
        )
        / (len(lines) or 1),
        "fraction_of_lines_ending_with_ellipsis": sum(line.endswith("\u2026") for line in lines)
        / (len(lines) or 1),
        "fraction_of_duplicate_lines": sum(n for _, n in repeated) / (len(lines) or 1),
        "fraction_of_characters_in_duplicate_lines": sum(len(line) * n for line, n in repeated)
        / (characters or 1),
    }
    for n in range(2, 11):
        grams = Counter(zip(*(words[i:] for i in range(n)), strict=False))  # first ones first
        size = {gram: sum(map(len, gram)) for gram in grams}
        if n <= 4:
            (best, times), *_ = grams.most_common(1) or [(None, 0)]
            value = times * size[best] / characters if grams else None
            made[f"fraction_of_characters_in_most_common_{n}grams"] = value
        else:
            inside = sum(size[gram] * times for gram, times in grams.items() if times > 1)
            every = sum(size[gram] * times for gram, times in grams.items())
            value = inside / every if grams else None
            made[f"fraction_of_characters_in_duplicate_{n}grams"] = value
    return {name: None if v is None else round(float(v), 5) for name, v in made.items()}


def c4(text, variant="v1", listed=None):
    unended, short, javascript, at = [], [], False, 0
    lines = text.split("\n")
    for number, line in enumerate(lines):
        end = at + len(line) + (number < len(lines) - 1)
        stripped = line.strip().lower()
        if not stripped.endswith((".", "?", "!", '"')):
            unended.append((at, end, 1.0))
        if len(stripped.split()) < 3:
            short.append((at, end, 1.0))
        javascript |= "javascript" in (stripped if variant == "v2" else stripped.split())
        at = end
    lower = text.lower()
    naughty = None
    if listed is not None:
        words = {each for each in listed if " " not in each}
        naughty = not words.isdisjoint(lower.split()) or any(
            each in lower for each in listed if " " in each
        )
    return {
        "lines_with_no_ending_punctuation": unended,
        "lines_with_too_few_words": short,
        "has_naughty_word": naughty,
        "has_javascript": javascript,
        "has_lorem_ipsum": "lorem ipsum" in lower,
        "has_curly_brace": "{" in text,
        "line_count": len(lines),
    }


def pii(text):
    found = {"email_address": [], "phone_number": [], "ip_address": []}
    for start, end in paragraphs(text) if text.count("?") <= 10_000 else ():
        for name, pattern in zip(found, (EMAIL, PHONE, IP), strict=True):
            for match in pattern.finditer(text[start:end]):
                if pattern is EMAIL:
                    local, domain = match.group(1).split("@", 1)
                    if local == "(" or "." not in domain:
                        continue
                found[name].append((start + match.start(), start + match.end(), 1.0))
    spans = [span for each in found.values() for span in each]
    covered = sum(end - start for start, end, _ in spans)
    fraction = round((covered + len(text)) / len(text), 5) if text else -1.0
    return {**found, "doc_count": len(spans), "doc_frac": fraction}


def lengths(text):
    return {
        "num_characters": len(text),
        "num_bytes": len(text.encode()),
        "num_words": len(text.split()),
        "num_lines": text.count("\n") + (bool(text) and not text.endswith("\n")),
    }
