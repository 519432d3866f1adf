"""Inline SVG of the page: lines, stacked columns and marks on a scale; colours come from the page's CSS."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from tspbench.page.contents import RowStyle
from tspbench.page.tables import Table

WIDTH: Final = 400
HEIGHT: Final = 276
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 30, 42


@dataclass(frozen=True)
class Figure:
    """A chart with what it says in words and in numbers.

    Args:
        title: above it.
        note: below it: what is shown, and how it is to be read.
        drawing: SVG; several for small multiples.
        table: the numbers.
        rows: whose lines or drawings there are, with their styles.
        many: whether each row has a drawing of its own.
    """

    title: str
    note: str
    drawing: Sequence[Markup]
    table: Table
    rows: Sequence[tuple[str, RowStyle]] = ()
    many: bool = False


@dataclass(frozen=True)
class Series:
    """A line.

    Args:
        name: of its row.
        style: of its row.
        points: (x, y) in the order of x; where y is nan, the line is broken.
    """

    name: str
    style: RowStyle
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Axis:
    """What an axis shows.

    Args:
        label: with its unit.
        low: first value.
        high: last value.
        names: of the values 0, 1, …, where they are categories.
    """

    label: str
    low: float
    high: float
    names: Sequence[str] = ()

    def ticks(self) -> list[tuple[float, str]]:
        """Return about five round values with their texts."""
        if self.names:
            return [(float(place), name) for place, name in enumerate(self.names)]
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(number * step, f"{number * step:g}") for number in range(first, last + 1)]


def rows_of(series: Sequence[Series]) -> list[tuple[str, RowStyle]]:
    """Return whose lines there are, for a legend."""
    return [(each.name, each.style) for each in series]


def round_up(value: float) -> float:
    """Return the end of an axis that holds ``value``: 1, 1.5, 2, 3, 4, 5, 6, 8 or 10 times a power of ten."""
    if not value > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if factor * power >= value * 0.9999)


def line_chart(title: str, series: Sequence[Series], x: Axis, y: Axis, *, dots: bool = False) -> Markup:
    """Draw lines; ``dots`` marks each point."""
    inner = [_grid(x, y)]
    for each in series:
        body = [
            Markup('<polyline points="{}" stroke-dasharray="{}"/>').format(
                " ".join(f"{_x(a, x):.1f},{_y(b, y):.1f}" for a, b in part), each.style.dash
            )
            for part in _unbroken(each.points)
        ]
        if dots:
            body += [
                Markup('<circle cx="{:.1f}" cy="{:.1f}" r="3.2"/>').format(_x(a, x), _y(b, y))
                for a, b in each.points
                if math.isfinite(b)
            ]
        inner.append(
            Markup('<g class="line" data-row="{}" style="--c:{}"><title>{}</title>{}</g>').format(
                each.style.number, each.style.colour, each.name, Markup("").join(body)
            )
        )
    lines = "; ".join(f"{each.name}: {_ends(each.points)}" for each in series)
    return svg(title, f"{y.label} over {x.label}. {lines}.", WIDTH, HEIGHT, Markup("").join(inner))


def stacked_chart(
    title: str, columns: Sequence[Sequence[float]], names: Sequence[str], kinds: Sequence[tuple[str, str]]
) -> Markup:
    """Draw columns that are cut into shares.

    Args:
        title: of the chart.
        columns: the shares of each column, fractions; nan where it has none.
        names: of the columns.
        kinds: name and colour of each share.
    """
    width, height, left, bottom = 190, 140, 30, 24
    step, span = (width - left - 4) / len(columns), height - 8 - bottom
    inner = []
    for percent in (0, 50, 100):
        y = 8 + span * (1 - percent / 100)
        inner.append(_rule(left, width - 4, y, f"{percent}"))
    for place, shares in enumerate(columns):
        below = 0.0
        for (kind, colour), share in zip(kinds, shares, strict=True):
            if not share > 0:
                continue
            below += share
            inner.append(
                Markup(
                    '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="{}"><title>{}</title></rect>'
                ).format(
                    left + place * step + 1,
                    8 + span * (1 - below),
                    step - 2,
                    span * share,
                    colour,
                    f"{names[place]}, {kind}: {100 * share:.1f} %",
                )
            )
        if place in (0, len(columns) - 1):
            inner.append(
                Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>').format(
                    left + (place + 0.5) * step, height - 7, names[place]
                )
            )
    first = ", ".join(f"{kind} {100 * share:.1f} %" for (kind, _), share in zip(kinds, columns[0], strict=True))
    return svg(title, f"Shares of the column {names[0]}: {first}.", width, height, Markup("").join(inner))


def svg(title: str, description: str, width: float, height: float, inner: Markup) -> Markup:
    """Return an SVG that is read as one picture with a title and a description."""
    return Markup('<svg role="img" viewBox="0 0 {} {}" aria-label="{}"><title>{}</title>{}</svg>').format(
        width, height, f"{title}. {description}", title, inner
    )


def _grid(x: Axis, y: Axis) -> Markup:
    parts = [_rule(LEFT, WIDTH - RIGHT, _y(value, y), text) for value, text in y.ticks()]
    parts += [
        Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(_x(value, x), HEIGHT - 24, text)
        for value, text in x.ticks()
    ]
    parts.append(Markup('<text class="label" x="0" y="13">{}</text>').format(y.label))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        Markup('<text class="label" x="{}" y="{}" text-anchor="middle">{}</text>').format(middle, HEIGHT - 6, x.label)
    )
    return Markup('<g class="grid" aria-hidden="true">{}</g>').format(Markup("").join(parts))


def _rule(left: float, right: float, y: float, text: str) -> Markup:
    return Markup(
        '<line x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/><text x="{}" y="{:.1f}" text-anchor="end">{}</text>'
    ).format(left, right, y, y, left - 7, y + 4, text)


def _x(value: float, axis: Axis) -> float:
    # Categories stand in the middle of their part.
    low, high = (-0.5, len(axis.names) - 0.5) if axis.names else (axis.low, axis.high)
    return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)


def _y(value: float, axis: Axis) -> float:
    return TOP + (1 - (value - axis.low) / (axis.high - axis.low)) * (HEIGHT - TOP - BOTTOM)


def _unbroken(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    parts: list[list[tuple[float, float]]] = [[]]
    for point in points:
        if math.isfinite(point[1]):
            parts[-1].append(point)
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]


def _ends(points: Sequence[tuple[float, float]]) -> str:
    known = [y for _, y in points if math.isfinite(y)]
    return f"from {known[0]:.3g} to {known[-1]:.3g}" if known else "no number"
