#!/usr/bin/env python3
"""Pictures for `make bench-watermark`: `pictures.py FOLDER` writes FOLDER/textured and FOLDER/flat, each picture 640 px wide.

Photographs are those inside scikit-image's wheel, in several cuts; drawings are the samples of the built-in checkpoint; painted ones are
fields of noise with the falling spectrum of photographs (amplitude 1/f), with hard edges and lettering, and calm scenes of gradients,
discs and cards. All randomness is seeded.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy
import skimage
from PIL import Image, ImageDraw, ImageFilter

ROOT = Path(__file__).resolve().parents[3]
WIDTH = 640
HEIGHTS = (640, 480, 427, 360)
# Photographs whose larger part has texture, and how many cuts of each.
PHOTOGRAPHS = {
    "astronaut": 3, "brick": 3, "camera": 3, "cat": 2, "coffee": 2, "coins": 2, "grass": 3, "gravel": 3, "hubble_deep_field": 3,
    "immunohistochemistry": 3, "rocket": 2, "motorcycle": 4,
}
CALM_PHOTOGRAPHS = {"moon": 2, "cell": 2, "colorwheel": 1, "retina": 3}
PAINTED_TEXTURED = 24
PAINTED_FLAT = 20
SHEET = ROOT / "gpu-node/models/studio-tiny/samples.png"


def main() -> int:
    folder = Path(sys.argv[1])
    for kind, pictures in (("textured", textured()), ("flat", flat())):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for at, (name, picture) in enumerate(pictures):
            picture.convert("RGB").save(folder / kind / f"{at:03}-{name}.png", compress_level=1)
    return 0


def textured():
    yield from photographs(PHOTOGRAPHS)
    for seed in range(PAINTED_TEXTURED):
        yield f"field{seed}", field(seed, HEIGHTS[seed % len(HEIGHTS)])


def flat():
    yield from photographs(CALM_PHOTOGRAPHS)
    sheet = Image.open(SHEET).convert("RGB")
    side = sheet.width // 6
    for at in range(12):
        left, top = at % 6 * side, at // 6 * side
        yield f"drawn{at}", sheet.crop((left, top, left + side, top + side)).resize((WIDTH, WIDTH), Image.Resampling.BICUBIC)
    for seed in range(PAINTED_FLAT):
        yield f"calm{seed}", calm(seed, HEIGHTS[seed % len(HEIGHTS)])


def photographs(wanted: dict[str, int]):
    for name, cuts in wanted.items():
        picture = photograph(name)
        for cut in range(cuts):
            yield f"{name}{cut}", cut_of(picture, cut, cuts)


def photograph(name: str) -> Image.Image:
    files = {
        "cat": "chelsea.png", "immunohistochemistry": "ihc.png", "hubble_deep_field": "hubble_deep_field.jpg", "rocket": "rocket.jpg",
        "motorcycle": "motorcycle_left.png", "colorwheel": "color.png", "retina": "retina.jpg",
    }
    return Image.open(Path(skimage.__file__).parent / "data" / files.get(name, f"{name}.png")).convert("RGB")


def cut_of(picture: Image.Image, cut: int, cuts: int) -> Image.Image:
    """The largest part of a rendition's shape, each time elsewhere and a little smaller, at 640 px."""
    height = HEIGHTS[cut % len(HEIGHTS)]
    scale = min(picture.width / WIDTH, picture.height / height) * (1 - 0.15 * cut)
    width_px, height_px = round(WIDTH * scale), round(height * scale)
    share = cut / max(cuts - 1, 1)
    left, top = round((picture.width - width_px) * share), round((picture.height - height_px) * (1 - share))
    return picture.crop((left, top, left + width_px, top + height_px)).resize((WIDTH, height), Image.Resampling.LANCZOS)


def falling(random: numpy.random.Generator, height: int, steepness: float) -> numpy.ndarray:
    """Noise whose amplitude falls as frequency to the `steepness`, of deviation 1."""
    spectrum = numpy.fft.rfft2(random.standard_normal((height, WIDTH)))
    y, x = numpy.fft.fftfreq(height)[:, None], numpy.fft.rfftfreq(WIDTH)[None, :]
    frequency = numpy.hypot(x, y)
    frequency[0, 0] = 1
    noise = numpy.fft.irfft2(spectrum / frequency**steepness, s=(height, WIDTH))
    noise -= noise.mean()
    return noise / noise.std()


def field(seed: int, height: int) -> Image.Image:
    random = numpy.random.default_rng(seed)
    luma = 128 + random.uniform(25, 50) * falling(random, height, random.uniform(0.9, 1.3))
    colour = [12 * falling(random, height, 1.4) for _ in range(3)]
    picture = Image.fromarray(numpy.clip(numpy.stack([luma + part for part in colour], axis=-1), 0, 255).astype(numpy.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(random.integers(0, 6)):
        corners = [tuple(map(int, random.uniform((0, 0), (WIDTH, height)))) for _ in range(3)]
        draw.polygon(corners, outline=tuple(map(int, random.integers(0, 255, 3))), width=int(random.integers(2, 12)))
    if seed % 3 == 0:
        draw.text((20, height - 60), "Lettering 0123456789", fill=(250, 250, 240), font_size=36)
    return picture


def calm(seed: int, height: int) -> Image.Image:
    """A backdrop that changes slowly, and things without texture before it."""
    random = numpy.random.default_rng(1000 + seed)
    ends = random.uniform(60, 250, (2, 3))
    down = numpy.linspace(0, 1, height)[:, None, None] ** random.uniform(0.6, 1.6)
    backdrop = numpy.broadcast_to(ends[0] * (1 - down) + ends[1] * down, (height, WIDTH, 3))
    grain = random.uniform(0, 1.2) * random.standard_normal((height, WIDTH, 1))
    picture = Image.fromarray(numpy.clip(backdrop + grain, 0, 255).astype(numpy.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(random.integers(1, 6)):
        (x, y), size = random.uniform((0, 0), (WIDTH, height)), random.uniform(40, 180)
        colour = tuple(map(int, random.integers(10, 250, 3)))
        shape = draw.ellipse if random.integers(2) else draw.rectangle
        shape((x - size, y - size, x + size, y + size * random.uniform(0.5, 1)), fill=colour)
    picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0.4, 1.5)))
    if seed % 4 == 0:
        ImageDraw.Draw(picture).text((30, 30), "Herbst 2026", fill=(20, 20, 20), font_size=48)
    return picture


if __name__ == "__main__":
    sys.exit(main())
