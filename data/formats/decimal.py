"""Decimal numbers to float64 in compiled code.

Up to 19 digits times a power of ten, calculated with twice the bits of a float64 (T. J. Dekker, "A floating-point
technique for extending the available precision", 1971). Numbers of at most 15 digits are correctly rounded, as Python
and numpy read them; of longer ones one in some 10**13 is off by one unit in the last place, and so are numbers beyond
10**260 and below 10**-260. Digits behind the 19th significant one are dropped.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from ssl3d.data.formats.digits import at, digits_in, number_of, word

_FAR = 280
"""Powers of ten up to which both halves of a product are exact."""
_POWERS = np.array([(float(10**q), float(10**q - int(float(10**q)))) for q in range(_FAR + 1)])
_TENS = np.array([10**k for k in range(9)], np.uint64)
_TEN, _ZERO, _EXACT = np.uint64(10), np.uint64(0), np.uint64(2**53)
_MOST = 19
"""Digits that fit into 64 bits."""


@njit(cache=True, nogil=True)
def _lost(a: float, b: float, product: float) -> float:
    """What rounding took from a * b (Dekker, equation 5.14)."""
    big_a, big_b = 134217729.0 * a, 134217729.0 * b  # 2**27 + 1: splits 53 bits in two halves
    high_a, high_b = big_a - (big_a - a), big_b - (big_b - b)
    low_a, low_b = a - high_a, b - high_b
    return ((high_a * high_b - product) + high_a * low_b + low_a * high_b) + low_a * low_b


@njit(cache=True, nogil=True)
def _scaled(digits: np.uint64, q: int) -> float:
    """digits * 10**q."""
    near = min(abs(q), _FAR)
    ten, ten_low = _POWERS[near, 0], _POWERS[near, 1]
    high = np.float64(digits)
    if q == 0 and digits <= _EXACT:
        return high
    if digits <= _EXACT and near <= 22:  # both are exact, and so one rounding is all (W. D. Clinger, 1990)
        return high * ten if q >= 0 else high / ten
    low = np.float64(np.int64(digits - np.uint64(high)))
    if q >= 0:
        value = high * ten
        value += _lost(high, ten, value) + (high * ten_low + low * ten)
    else:
        value = high / ten
        product = value * ten
        value += ((high - product) - _lost(value, ten, product) + low - value * ten_low) / ten
    if abs(q) > near:
        far = _POWERS[min(abs(q) - near, _FAR), 0]
        value = value * far if q > 0 else value / far
    return value


@njit(cache=True, nogil=True)
def _letters(text: int, i: int) -> tuple[float, int]:
    """nan, inf or infinity at byte i, in any case, and the byte behind it; i itself when there is none of them."""
    a, b, c = at(text, i) | 32, 0, 0
    if a == 110 or a == 105:
        b = at(text, i + 1) | 32
        if b == 97 or b == 110:
            c = at(text, i + 2) | 32
    if a == 110 and b == 97 and c == 110:
        return np.nan, i + 3
    if a == 105 and b == 110 and c == 102:
        i += 3
        rest = (105, 110, 105, 116, 121)
        for k in range(5):
            if at(text, i + k) | 32 != rest[k]:
                return np.inf, i
        return np.inf, i + 5
    return 0.0, i


@njit(cache=True, nogil=True)
def number(text: int, i: int, point: int) -> tuple[float, int]:
    """The number at byte i and the byte behind it; i itself when no number begins there.

    The caller puts a line feed behind the text, at which every scan ends, and ``digits.PADDING`` bytes.

    Args:
        text: its address.
        i: where to begin.
        point: the decimal point.
    """
    k = i
    negative = at(text, k) == 45
    k += negative or at(text, k) == 43
    eight = word(text, k)
    whole = digits_in(eight)
    digits, parts = number_of(eight, whole), 0
    k += whole
    if whole < 8 and at(text, k) == point:
        k += 1
        more = 8
        while more == 8 and whole + parts < _MOST:
            eight = word(text, k)
            more = digits_in(eight)
            digits = digits * _TENS[more] + number_of(eight, more)
            k += more
            parts += more
    if whole == 8 or whole + parts > _MOST or whole + parts == 0:
        return _careful(text, i, point)  # digits may have overflown
    q = -parts
    if at(text, k) | 32 == 101:
        power, k = _exponent(text, k)
        q += power
    value = _scaled(digits, q)
    return (-value if negative else value), k


@njit(cache=True, nogil=True)
def _exponent(text: int, i: int) -> tuple[int, int]:
    """The exponent whose e is at byte i, and the byte behind it; 0 and i when no digits follow."""
    k = i + 1
    minus = at(text, k) == 45
    if minus or at(text, k) == 43:
        k += 1
    if not 48 <= at(text, k) <= 57:
        return 0, i
    power = 0
    while 48 <= at(text, k) <= 57:
        if power < 100_000:
            power = power * 10 + at(text, k) - 48
        k += 1
    return (-power if minus else power), k


@njit(cache=True, nogil=True)
def _careful(text: int, i: int, point: int) -> tuple[float, int]:
    """As ``number``, digit by digit: numbers of any length, and what is none."""
    begin = i
    negative = at(text, i) == 45
    if negative or at(text, i) == 43:
        i += 1
    unsigned = i
    digits, used, q, seen = _ZERO, 0, 0, False
    while 48 <= at(text, i) <= 57:
        if used < 19:
            digits = digits * _TEN + np.uint64(at(text, i) - 48)
            used += digits != _ZERO
        else:
            q += 1
        seen = True
        i += 1
    if at(text, i) == point:
        i += 1
        while 48 <= at(text, i) <= 57:
            if used < 19:
                digits = digits * _TEN + np.uint64(at(text, i) - 48)
                used += digits != _ZERO
                q -= 1
            seen = True
            i += 1
    if not seen:
        value, end = _letters(text, unsigned)
        return (-value if negative else value), (end if end > unsigned else begin)
    if at(text, i) | 32 == 101:
        power, i = _exponent(text, i)
        q += power
    value = _scaled(digits, q)
    return (-value if negative else value), i
