"""What avifenc (libavif with libaom) makes of a folder of PNG files: avifenc.py FOLDER QUALITIES

Writes NAME@SETTING-420@QUALITY@MILLISECONDS.avif beside each NAME.png: the processor time of one encode on one thread, reading
the PNG included.
"""

import resource
import subprocess
import sys
from pathlib import Path

# Its default speed, with the codec it takes by itself and with SVT-AV1.
SETTINGS = (("avifenc-s6", ["--speed", "6", "--codec", "aom"]), ("avifenc-svt-s6", ["--speed", "6", "--codec", "svt"]))


def main() -> None:
    folder = Path(sys.argv[1])
    for picture in sorted(folder.glob("*.png")):
        for name, options in SETTINGS:
            for quality in sys.argv[2].split(","):
                part = folder / "part.avif"
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                # libavif 0.11 has quantizers and no quality: 63 is the worst.
                quantizer = str(63 - int(quality) * 63 // 100)
                subprocess.run(
                    ["avifenc", "--jobs", "1", *options, "--yuv", "420", "--min", quantizer, "--max", quantizer,
                     str(picture), str(part)],
                    check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                spent_ms = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000
                part.rename(folder / f"{picture.stem}@{name}-420@{quality}@{spent_ms:.1f}.avif")


main()
