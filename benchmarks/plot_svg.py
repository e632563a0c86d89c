# SPDX-License-Identifier: BSD-3-Clause
"""Writes SVG by hand: a line an element and rounded coordinates, so that equal figures give equal bytes."""

from xml.sax.saxutils import escape, quoteattr

WIDTH = 800
MARGIN = 24
INK, MUTED, GRID = "#1f2328", "#59636e", "#e4e8ec"
FONTS = "Helvetica, Arial, 'Liberation Sans', sans-serif"


def number(value):
    return f"{value:.1f}".removesuffix(".0")


def element(name, text=None, **attributes):
    """`stroke_width` becomes stroke-width; attributes that are None are left out."""
    parts = [name]
    for key, value in attributes.items():
        if value is not None:
            shown = number(value) if isinstance(value, (int, float)) else value
            parts.append(f"{key.replace('_', '-')}={quoteattr(shown)}")
    head = " ".join(parts)
    return f"<{head}/>" if text is None else f"<{head}>{escape(text)}</{name}>"


class Picture:
    """An opaque card, which pages with a light or a dark ground show alike."""

    def __init__(self, title, description):
        self.title, self.description = title, description
        self.elements = []

    def add(self, name, content=None, **attributes):
        self.elements.append(element(name, content, **attributes))

    def text(self, x, y, content, size=13, fill=INK, anchor=None, weight=None):
        self.add("text", content, x=x, y=y, font_size=size, fill=fill, text_anchor=anchor, font_weight=weight)

    def line(self, x1, y1, x2, y2, stroke=GRID, width=1):
        self.add("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=stroke, stroke_width=width)

    def heading(self, title, subtitle):
        """Returns where the next thing may begin."""
        self.text(MARGIN, 36, title, size=19, weight="bold")
        self.text(MARGIN, 58, subtitle, fill=MUTED)
        return 84

    def foot(self, y, lines):
        """Small print; returns the height of the picture that ends with it."""
        for line in lines:
            self.text(MARGIN, y, line, size=12, fill=MUTED)
            y += 17
        return y

    def finish(self, height):
        shown = number(height)
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="title desc" viewBox="0 0 {WIDTH} {shown}"'
            f' width="{WIDTH}" height="{shown}" font-family="{FONTS}">',
            "<!-- Drawn by benchmarks/plot; not to be changed by hand. -->",
            element("title", self.title, id="title"),
            element("desc", self.description, id="desc"),
            element("rect", x=0.5, y=0.5, width=WIDTH - 1, height=height - 1, rx=8, fill="#ffffff", stroke="#d0d7de"),
            *self.elements,
            "</svg>",
        ]
        return "\n".join(lines) + "\n"
