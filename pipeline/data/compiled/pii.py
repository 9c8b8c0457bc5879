"""What may identify a person, found as regular expressions of Dolma's find it, without them.

Each of the three expressions can be followed without trying again, as the comments say; that they
find the same is tested on random text.
"""

from __future__ import annotations

import numpy as np

from pipeline.data.compiled import kernel
from pipeline.data.compiled.characters import AROUND, DECIMAL, INSIDE, SPACE, STOP


@kernel
def measure(data, kinds, bounds, most_question_marks):
    """Starts and ends of e-mail addresses, telephone numbers and IP addresses; counts of each.

    A text with more question marks than `most_question_marks` has none.
    """
    num, ats = len(bounds) - 1, 0
    for at in range(len(data)):
        ats += data[at] == 64
    emails, phones = np.empty((2, ats), np.int32), np.empty((2, len(data) // 11 + 1), np.int32)
    addresses = np.empty((2, len(data) // 7 + 1), np.int32)
    counts, sums = np.zeros((num, 3), np.int64), np.zeros(3, np.int64)
    for text in range(num):
        start, end = bounds[text], bounds[text + 1]
        asked = 0
        for at in range(start, end):
            asked += data[at] == 63
        if asked > most_question_marks:
            continue
        line, place = start, 0  # in bytes, and in characters
        while line < end:
            after = line
            some_at = some_digit = False
            characters = 0
            while after < end:
                byte, kind = data[after], kinds[after]
                characters += not kind & INSIDE
                some_at |= byte == 64
                some_digit |= kind & DECIMAL != 0
                after += 1
                if byte == 10:
                    break
            if some_at:
                found = _emails(data, kinds, line, after, place, emails[:, sums[0] :])
                counts[text, 0] += found
                sums[0] += found
            if some_digit:
                found = _phones(data, kinds, line, after, place, phones[:, sums[1] :])
                counts[text, 1] += found
                sums[1] += found
                found = _addresses(data, kinds, line, after, place, addresses[:, sums[2] :])
                counts[text, 2] += found
                sums[2] += found
            line, place = after, place + characters
    return emails[:, : sums[0]], phones[:, : sums[1]], addresses[:, : sums[2]], counts


@kernel
def _characters(kinds, start, end):
    num = 0
    for at in range(start, end):
        num += not kinds[at] & INSIDE
    return num


@kernel
def _next(kinds, at, end):
    at += 1
    while at < end and kinds[at] & INSIDE:
        at += 1
    return at


@kernel
def _emails(data, kinds, line, end, place, found):
    """`[A]*([^\\s@]+@[^\\s@,?!;:)(]+?)[A]?\\s`, where A is white space and .@,?!;:)(

    What is right of an @ depends on nothing left of it: the domain ends before the first character
    that cannot be in it, or before a full stop that white space follows. The first match begins
    with the A's before the first character that a name before a good @ may begin with; since the
    A's take all they can, the name itself begins with the last such character that they reach.
    """
    num, done, at = 0, line, line
    counted = line  # up to where characters are counted
    while at < end:
        if data[at] != 64:
            at += 1
            continue
        after, dots = _domain(data, kinds, at, end)
        first = at  # of the name
        while first > done and not _parts(data, kinds, _back(kinds, first)):
            first = _back(kinds, first)
        if after < 0 or first == at:
            at += 1
            continue
        start = first
        while start > done and kinds[_back(kinds, start)] & AROUND:
            start = _back(kinds, start)
        name, good = first, at
        reach = start
        while reach < end and kinds[reach] & AROUND:
            reach = _next(kinds, reach, end)
        sign = reach  # the white space or @ that ends a name which begins at `reach`
        while sign < end and not _parts(data, kinds, sign):
            sign = _next(kinds, sign, end)
        tried = at
        while reach > first:
            if reach == end or _parts(data, kinds, reach):
                sign = reach
            elif sign < end and data[sign] == 64 and sign != tried:
                tried = sign
                other, other_dots = _domain(data, kinds, sign, end)
                if other >= 0:
                    name, good, after, dots = reach, sign, other, other_dots
                    break
            elif sign == at:
                name = reach
                break
            reach = _back(kinds, reach)
        if dots and not (good - name == 1 and data[name] == 40):
            place += _characters(kinds, counted, start)
            found[0, num] = place
            place += _characters(kinds, start, after)
            found[1, num] = place
            counted = after
            num += 1
        done = at = after
    return num


@kernel
def _back(kinds, at):
    at -= 1
    while kinds[at] & INSIDE:
        at -= 1
    return at


@kernel
def _parts(data, kinds, at):
    """Whether a character is an @ or white space."""
    return data[at] == 64 or kinds[at] & SPACE != 0


@kernel
def _domain(data, kinds, at, end):
    """Where a match ends whose @ is here, or -1; and whether its domain has a full stop."""
    last, stop, dots = at + 1, -1, 0
    while last < end and not kinds[last] & (SPACE | STOP) and data[last] != 64:
        stop = last if data[last] == 46 else -1
        dots += data[last] == 46
        last = _next(kinds, last, end)
    if last == at + 1 or last >= end:
        return -1, False
    space = kinds[last] & SPACE != 0
    if space and stop > at + 1:  # the domain ends before its last full stop
        return _next(kinds, last, end), dots > 1
    after = _next(kinds, last, end)
    if after < end and kinds[after] & SPACE:
        return _next(kinds, after, end), dots > 0
    return (after, dots > 0) if space else (-1, False)


@kernel
def _phones(data, kinds, line, end, place, found):
    """`\\s+\\(?(\\d{3})\\)?[-. ]*(\\d{3})[-. ]?(\\d{4})`: no character may be of two parts."""
    num, at, counted = 0, line, line
    while at < end:
        if not kinds[at] & SPACE:
            at += 1
            continue
        start = at
        while at < end and kinds[at] & SPACE:
            at = _next(kinds, at, end)
        here = at + 1 if at < end and data[at] == 40 else at
        here = _digits(kinds, here, end, 3)
        if 0 <= here < end and data[here] == 41:
            here += 1
        while 0 <= here < end and (data[here] == 45 or data[here] == 46 or data[here] == 32):
            here += 1
        here = _digits(kinds, here, end, 3)
        if 0 <= here < end and (data[here] == 45 or data[here] == 46 or data[here] == 32):
            here += 1
        here = _digits(kinds, here, end, 4)
        if here < 0:
            continue
        place += _characters(kinds, counted, start)
        found[0, num] = place
        place += _characters(kinds, start, here)
        found[1, num] = place
        counted = at = here
        num += 1
    return num


@kernel
def _digits(kinds, at, end, count):
    """The place after so many digits, of whatever script, or -1."""
    for _ in range(count):
        if at < 0 or at >= end or not kinds[at] & DECIMAL:
            return -1
        at = _next(kinds, at, end)
    return at


@kernel
def _addresses(data, kinds, line, end, place, found):
    """Four numbers of 0 to 255 with full stops between, wherever they begin.

    The first three end at a full stop. The last is tried as 250 to 255, 200 to 249, up to 199, and
    takes what digits that leaves it.
    """
    num, at, counted = 0, line, line
    while at < end:
        here = at if 48 <= data[at] <= 57 else -1
        for _ in range(3):
            if here < 0:
                break
            size = _ascii_digits(data, here, end)
            stop = here + size
            if size == 0 or size > 3 or stop >= end or data[stop] != 46:
                here = -1
            elif size == 3 and not _below_256(data, here):
                here = -1
            else:
                here = stop + 1
        size = _ascii_digits(data, here, end) if here >= 0 else 0
        if size == 0:
            at += 1
            continue
        if size > 3:
            size = 3
        if size == 3 and not _below_256(data, here):
            size = 2
        place += _characters(kinds, counted, at)
        found[0, num] = place
        place += here + size - at
        found[1, num] = place
        counted = at = here + size
        num += 1
    return num


@kernel
def _ascii_digits(data, at, end):
    """How many digits begin here; 4 for more than 3."""
    size = 0
    while size < 4 and at + size < end and 48 <= data[at + size] <= 57:
        size += 1
    return size


@kernel
def _below_256(data, at):
    number = (
        (np.int64(data[at]) - 48) * 100
        + (np.int64(data[at + 1]) - 48) * 10
        + np.int64(data[at + 2])
        - 48
    )
    return number < 256
