#!/usr/bin/env python3
"""invisible-watermark on the pictures of `make bench-watermark`: `peer.py PICTURES BENCH WORK` marks, attacks and decodes.

PICTURES has textured/ and flat/, BENCH is the program that applies the attacks, WORK is an empty folder. 64 bits are written by `dwtDct`
and `dwtDctSvd`; a picture counts when all 64 come back. Its third method, `rivaGan`, needs PyTorch of several hundred MB and writes 32 bits: it is
left out.
"""

from __future__ import annotations

import subprocess
import sys
import time
import types
from pathlib import Path

import cv2

# The package imports its network when it is imported. It is not used here, so PyTorch need not be there.
for name in ("torch", "onnxruntime"):
    sys.modules.setdefault(name, types.ModuleType(name))
from imwatermark import WatermarkDecoder, WatermarkEncoder  # noqa: E402

PAYLOAD = bytes.fromhex("1a57c0ffee15600d")


def main() -> int:
    pictures, bench, work = (Path(argument).resolve() for argument in sys.argv[1:4])
    for kind in ("textured", "flat"):
        for method in ("dwtDct", "dwtDctSvd"):
            measure(pictures / kind, method, bench, work / f"{kind}-{method}")
    return 0


def measure(originals: Path, method: str, bench: Path, work: Path) -> None:
    marked, attacked = work / "marked", work / "attacked"
    marked.mkdir(parents=True)
    attacked.mkdir()
    paths = sorted(originals.iterdir())
    encoder = WatermarkEncoder()
    encoder.set_watermark("bytes", PAYLOAD)
    seconds, megapixels = 0.0, 0.0
    for path in paths:
        picture = cv2.imread(str(path))
        started = time.process_time()
        out = encoder.encode(picture, method)
        seconds += time.process_time() - started
        megapixels += picture.shape[0] * picture.shape[1] / 1e6
        cv2.imwrite(str(marked / path.name), out)
    print(f"## {originals.name}, {method}: {len(paths)} pictures, {1e3 * seconds / megapixels:.0f} ms a megapixel", flush=True)
    subprocess.run([bench, "attack", marked, originals, attacked], check=True)
    for at, name in enumerate((attacked / "names").read_text().splitlines()):
        found = sum(decoded(attacked / f"{at:02}" / path.name, method) for path in paths)
        print(f"{name}\t{found}/{len(paths)}", flush=True)


def decoded(path: Path, method: str) -> bool:
    picture = cv2.imread(str(path))
    # Below this area the package refuses to decode.
    if picture.shape[0] * picture.shape[1] < 256 * 256:
        return False
    return WatermarkDecoder("bytes", 8 * len(PAYLOAD)).decode(picture, method) == PAYLOAD


if __name__ == "__main__":
    sys.exit(main())
