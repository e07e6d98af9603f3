"""Names and numbers as they stand in the report's page; everything that a user wrote is escaped here."""

from __future__ import annotations

import base64
import re

from markupsafe import Markup, escape

from .report_texts import looks_like_mp_id

DASH = "–"


def material_link(material_id: str) -> Markup:
    """A material's id, with a link to the Materials Project where it is one of its ids."""
    name = escape(material_id)
    if not looks_like_mp_id(material_id):
        return name
    return Markup('<a href="https://next-gen.materialsproject.org/materials/{0}">{0}</a>').format(name)


def formula_html(formula: str | None) -> Markup:
    """A chemical formula with its numbers set low; any other text as it is."""
    if not formula:
        return Markup(DASH)
    if not re.fullmatch(r"(?:[A-Z][a-z]?|[()]|\d+(?:\.\d+)?)+", formula):
        return escape(formula)
    return Markup(re.sub(r"(\d+(?:\.\d+)?)", r"<sub>\1</sub>", formula))


def space_group_html(symbol: str) -> Markup:
    """A Hermann-Mauguin symbol with the numbers of its screw axes set low."""
    return Markup(re.sub(r"_(\d)", r"<sub>\1</sub>", str(escape(symbol))))


def scientific_html(value: float) -> Markup:
    """A number as a mantissa with one decimal and a power of ten."""
    mantissa, exponent = f"{value:.1e}".split("e")
    return Markup("{} × 10<sup>{}</sup>").format(mantissa, str(int(exponent)).replace("-", "−"))


def data_link(text: str, kind: str) -> str:
    """A link that carries a file within the page."""
    return f"data:{kind};charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


def count_text(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun: 1 candidate, 2 candidates."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
