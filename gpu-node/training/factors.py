"""What a picture shows, and the sentences that say so.

A picture is five factors. Captions are made anew whenever one is needed, from templates and synonyms, so that the text
encoder never sees one factor always worded the same way. The words here are the model's whole vocabulary; the model card
repeats them.
"""

from __future__ import annotations

import random
from dataclasses import astuple, dataclass

PRODUCTS: dict[str, tuple[str, ...]] = {
    "ball": ("ball", "sphere", "orb"),
    "cube": ("cube", "block"),
    "bottle": ("bottle", "perfume bottle", "flask"),
    "mug": ("mug", "cup", "coffee mug"),
    "vase": ("vase",),
    "ring": ("ring", "diamond ring"),
    "gift box": ("gift box", "gift", "present"),
    "lamp": ("lamp", "table lamp"),
}
COLOURS: dict[str, tuple[str, ...]] = {
    "red": ("red",),
    "orange": ("orange",),
    "yellow": ("yellow",),
    "green": ("green",),
    "teal": ("teal", "turquoise"),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "pink": ("pink",),
    "white": ("white",),
    "black": ("black",),
}
MATERIALS: dict[str, tuple[str, ...]] = {
    "matte": ("matte",),
    "glossy": ("glossy", "shiny"),
    "metallic": ("metallic", "metal"),
}
BACKDROPS: dict[str, tuple[str, ...]] = {
    "white": ("white",),
    "gray": ("gray", "grey"),
    "cream": ("cream", "beige"),
    "pink": ("pink",),
    "orange": ("orange",),
    "yellow": ("yellow",),
    "green": ("green",),
    "teal": ("teal", "turquoise"),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
}
SETTINGS: dict[str, tuple[str, ...]] = {
    "studio": ("studio", "in a plain studio", "studio light"),
    "podium": ("on a podium", "on a pedestal"),
    "sunset": ("at sunset", "sunset horizon"),
    "neon": ("neon glow at night", "neon lights", "neon night"),
}
# Words that are a colour and the material metallic at once.
METALS: dict[str, tuple[str, ...]] = {
    "yellow": ("gold", "golden"),
    "white": ("silver", "chrome"),
    "orange": ("copper",),
}
PREFIXES = (
    "product photo of",
    "studio product shot of",
    "a photo of",
    "photograph of",
    "an image of",
    "advertising shot of",
)
FILLERS = (
    "high quality",
    "soft shadow",
    "cinematic",
    "4k",
    "detailed",
    "sharp focus",
    "soft light",
    "professional",
    "minimal",
    "elegant",
)

FACTOR_TABLES = (PRODUCTS, COLOURS, MATERIALS, BACKDROPS, SETTINGS)
FACTOR_NAMES = ("product", "colour", "material", "backdrop", "setting")


@dataclass(frozen=True)
class Factors:
    """One value of each factor."""

    product: str
    colour: str
    material: str
    backdrop: str
    setting: str

    def indices(self) -> list[int]:
        """As small integers, in the order of `FACTOR_TABLES`."""
        return [list(table).index(value) for table, value in zip(FACTOR_TABLES, astuple(self), strict=True)]

    @staticmethod
    def from_indices(indices: list[int]) -> Factors:
        return Factors(*(list(table)[index] for table, index in zip(FACTOR_TABLES, indices, strict=True)))


def caption(factors: Factors, rng: random.Random) -> str:
    """A sentence for the picture; every factor but at least one is left out now and then.

    The empty caption (10 %) is what classifier-free guidance starts from.
    """
    if rng.random() < 0.10:
        return ""
    parts = [noun_phrase(factors, rng)]
    if rng.random() >= 0.12:
        parts.append(backdrop_phrase(factors, rng))
    if factors.setting != "podium" and rng.random() >= 0.12:
        parts.append(rng.choice(SETTINGS[factors.setting]))
    if rng.random() < 0.25:
        rng.shuffle(parts)
    parts += [filler for filler in rng.sample(FILLERS, 2) if rng.random() < 0.22]
    text = parts[0]
    for part in parts[1:]:
        text += (" " if rng.random() < 0.15 else ", ") + part
    return f"{rng.choice(PREFIXES)} {text}" if rng.random() < 0.15 else text


def noun_phrase(factors: Factors, rng: random.Random) -> str:
    """`a matte teal mug on a podium`, with parts left out."""
    words = [rng.choice(("a", "the", ""))]
    metal = METALS.get(factors.colour, ()) if factors.material == "metallic" else ()
    if metal and rng.random() < 0.5:
        words.append(rng.choice(metal))
    else:
        if rng.random() >= 0.12:
            words.append(rng.choice(MATERIALS[factors.material]))
        if rng.random() >= 0.06:
            words.append(rng.choice(COLOURS[factors.colour]))
    words.append("product" if rng.random() < 0.05 else rng.choice(PRODUCTS[factors.product]))
    if factors.setting == "podium" and rng.random() >= 0.12:
        words.append(rng.choice(SETTINGS["podium"]))
    return " ".join(word for word in words if word)


def backdrop_phrase(factors: Factors, rng: random.Random) -> str:
    """`cream backdrop`; at night its colour is the neon's."""
    colour = rng.choice(BACKDROPS[factors.backdrop])
    if factors.setting == "neon" and rng.random() < 0.5:
        return f"{colour} {rng.choice(SETTINGS['neon'])}"
    return f"{colour} {rng.choice(('backdrop', 'background', 'wall'))}"


def prompt(factors: Factors) -> str:
    """The plain wording of a picture, as a person would ask for it."""
    noun = f"a {factors.material} {factors.colour} {factors.product}"
    match factors.setting:
        case "podium":
            return f"{noun} on a podium, {factors.backdrop} backdrop"
        case "neon":
            return f"{noun}, {factors.backdrop} neon glow at night"
        case "sunset":
            return f"{noun} at sunset, {factors.backdrop} backdrop"
        case _:
            return f"{noun}, {factors.backdrop} backdrop, studio light"
