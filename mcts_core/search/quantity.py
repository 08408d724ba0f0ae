"""Numbers as answers write them: exact, with thousands, fractions, percent signs and units."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import regex

_THIN = regex.compile(r"\\[!,;: ]|\{,\}|~")
_DIGITS = regex.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d{1,15})?(?:\.\d{1,15})?")
_RATIO = regex.compile(r"([-+]?)\\[dt]?frac\{(\d{1,15})\}\{(\d{1,15})\}")
_CURRENCY = regex.compile(r"([-+]?)\s*\\?\$\s*")
_UNIT = regex.compile(
    r"\s*(?:\\(?:text|textrm|mathrm|mbox)\{([^{}]{1,40})\}((?:\^\{?[23]\}?)?)|\^\{?(\\circ)\}?)$"
)


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number and what it counts."""

    value: Fraction
    percent: bool = False
    unit: str = ""

    def same(self, other: Quantity) -> bool:
        """Whether both say the same. A question often names the unit, so that one answer has it
        and another has not: a unit differs from another unit only, and 25% is 25 as well as
        0.25."""
        if self.unit and other.unit and self.unit != other.unit:
            return False
        if self.percent == other.percent:
            return self.value == other.value
        shares, plain = (self.value, other.value) if self.percent else (other.value, self.value)
        return plain in (shares, shares / 100)


def quantity(text: str) -> Quantity | None:
    r"""The number that `text` is, white space around it aside; None if it is more or less than one.

    `1,000`, `1{,}000` and `1,\!000`; `.5`, `1/2` and `\frac{1}{2}`; `\$6`; `25\%`; `48^\circ`;
    `100\text{ cm}^2`."""
    text = text.strip()
    unit = ""
    if found := _UNIT.search(text):
        unit = "".join(filter(None, found.groups())).strip().removeprefix("~").replace("{", "")
        text = text[: found.start()]
    text = _CURRENCY.sub(r"\1", _THIN.sub(_plain, text).strip(), count=1)
    percent = text.endswith("%")
    if percent:
        text = text[:-1].removesuffix("\\").strip()
    ratio = _RATIO.fullmatch(text)
    over, slash, under = (ratio[1] + ratio[2], "/", ratio[3]) if ratio else text.partition("/")
    top, bottom = _decimal(over), _decimal(under) if slash else Fraction(1)
    if top is None or not bottom:
        return None
    return Quantity(top / bottom, percent, unit.replace("}", ""))


def _plain(found: regex.Match[str]) -> str:
    return "," if found[0] == "{,}" else ""


def _decimal(text: str) -> Fraction | None:
    text = text.strip()
    if not _DIGITS.fullmatch(text) or not any(map(str.isdigit, text)) or not text.isascii():
        return None
    return Fraction(text.replace(",", ""))
