"""Colours of the heat map: one hue from pale to deep, which survives colour blindness and a grey print."""

from itertools import pairwise

LIGHT = ((0.0, (241, 244, 247)), (0.5, (134, 178, 219)), (1.0, (13, 72, 138)))
DARK = ((0.0, (30, 37, 46)), (0.5, (32, 78, 125)), (1.0, (96, 170, 240)))
Colour = tuple[int, int, int]


def style(value: float) -> str:
    """CSS variables of a cell: background and text for the light and for the dark page. `value` is in [0, 1]."""
    light, dark = (mix(stops, value) for stops in (LIGHT, DARK))
    return f"--l:{hexed(light)};--lt:{ink(light)};--d:{hexed(dark)};--dt:{ink(dark)}"


def scale(stops) -> str:
    """The stops as a CSS gradient, for the legend."""
    return f"linear-gradient(90deg,{','.join(hexed(colour) for _, colour in stops)})"


def mix(stops, value: float) -> Colour:
    value = min(1.0, max(0.0, value))
    for (low, a), (high, b) in pairwise(stops):
        if value <= high:
            part = (value - low) / (high - low)
            return tuple(round(x + part * (y - x)) for x, y in zip(a, b, strict=True))
    raise AssertionError("the stops end at 1")


def hexed(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def ink(background: Colour) -> str:
    """Black or white, whichever has more contrast (WCAG 2): at least 4.5 on any background."""
    black, white = (0, 0, 0), (255, 255, 255)
    return hexed(max(black, white, key=lambda colour: contrast(colour, background)))


def contrast(a: Colour, b: Colour) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour: Colour) -> float:
    parts = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
