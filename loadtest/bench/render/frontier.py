"""Tables and plots of the encoders' frontier: frontier.py CSVS TO

CSVS holds own-WIDTH.csv, peers-WIDTH.csv and judged-WIDTH.csv of `encoders.sh`. Writes TO/frontier.csv (medians), TO/frontier-WIDTH.svg and
TO/targets.csv, and prints them.
"""

import csv
import math
import statistics
import sys
from collections import defaultdict
from pathlib import Path

PEER = "sharp-e4-444"  # sharp's default
SCORES = (50, 60, 70, 80)
COLOURS = {"avif-final": "#0b7a4b", "avif-quick": "#59b98c", "webp-final": "#1f5fa8", "webp-quick": "#86aedd", "mozjpeg-final": "#8a5a00",
           "jpeg-quick": "#d3a54a", "sharp-e4-444": "#b3261e", "sharp-e4-420": "#e5736c", "sharp-e2-420": "#f0a29d",
           "sharp-e0-420": "#f6cbc8", "avifenc-s6-420": "#6d4aa3", "avifenc-svt-s6-420": "#a98fd0"}


def read(folder: Path, kind: str, width: int):
    path = folder / f"{kind}-{width}.csv"
    if not path.exists():
        return []
    with open(path, newline="") as lines:
        return list(csv.reader(lines))


def reached(points, score):
    """Bytes and milliseconds where a curve meets the score: logarithms of bytes run straight between tries."""
    points = sorted(points)
    for (low, low_bytes, low_ms), (high, high_bytes, high_ms) in zip(points, points[1:]):
        if low <= score <= high and high > low:
            share = (score - low) / (high - low)
            return math.exp(math.log(low_bytes) * (1 - share) + math.log(high_bytes) * share), low_ms * (1 - share) + high_ms * share
    return None


def frontier(folder: Path, width: int):
    """Medians over the pictures that both the encoder and the peer bring to the score."""
    curves = defaultdict(lambda: defaultdict(list))
    for row in read(folder, "own", width) + read(folder, "peers", width):
        curves[row[2]][row[0]].append((float(row[6]), float(row[4]), float(row[5])))
    rows = []
    for encoder in sorted(curves, key=lambda name: list(COLOURS).index(name) if name in COLOURS else 99):
        for score in SCORES:
            byte_ratios, time_ratios, sizes = [], [], []
            for picture, points in curves[encoder].items():
                own, peer = reached(points, score), reached(curves[PEER].get(picture, []), score)
                if own and peer:
                    byte_ratios.append(own[0] / peer[0])
                    time_ratios.append(own[1] / peer[1])
                    sizes.append(own[0])
            if byte_ratios:
                rows.append([width, encoder, score, len(byte_ratios), round(statistics.median(sizes)),
                             round(statistics.median(byte_ratios), 3), round(statistics.median(time_ratios), 3)])
    return rows


def targets(folder: Path, width: int):
    """How near `q` comes, and what finding it takes beside one encode of the peer at that score."""
    peer = defaultdict(list)
    for row in read(folder, "peers", width):
        if row[2] == PEER:
            peer[row[0]].append((float(row[6]), float(row[4]), float(row[5])))
    found, times = defaultdict(list), defaultdict(list)
    for row in read(folder, "judged", width):
        key, spent_ms = (row[2], int(row[3])), float(row[5])
        found[key].append((float(row[6]) - key[1], int(row[8]), int(row[9]), spent_ms))
        one = reached(peer[row[0]], key[1])
        if one:
            times[key].append(spent_ms / one[1])
    rows = []
    for (encoder, target), tries in sorted(found.items()):
        def within(points):
            return round(sum(abs(miss) <= points for miss, *_ in tries) / len(tries), 2)
        not_below = round(sum(miss >= -4 for miss, *_ in tries) / len(tries), 2)
        ratios = times[(encoder, target)]
        rows.append([width, encoder, target, len(tries), within(1.5), within(4), not_below,
                     round(statistics.mean(it[1] for it in tries), 2), round(statistics.mean(it[2] for it in tries), 2),
                     round(statistics.median(it[3] for it in tries), 1), round(statistics.median(ratios), 3) if ratios else ""])
    return rows


def plot(rows, width: int) -> str:
    """Bytes over time, both beside the peer's, at a score of 70; logarithmic, so that half and twice are as far."""
    points = [(row[1], row[6], row[5]) for row in rows if row[2] == 70]
    left, top, wide, high = 70, 30, 560, 380
    times, sizes = [0.005, 0.01, 0.03, 0.1, 0.3, 1, 3], [0.7, 0.85, 1, 1.25, 1.5, 2, 3, 4]

    def x(time):
        return left + wide * (math.log(max(time, times[0])) - math.log(times[0])) / (math.log(times[-1]) - math.log(times[0]))

    def y(size):
        size = min(max(size, sizes[0]), sizes[-1])
        return top + high * (1 - (math.log(size) - math.log(sizes[0])) / (math.log(sizes[-1]) - math.log(sizes[0])))

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 470" font-family="sans-serif" font-size="12">',
             '<rect width="800" height="470" fill="white"/>',
             f'<text x="{left}" y="18" font-size="14">{width} px, SSIMULACRA2 70: bytes over processor time, both beside sharp’s default (1)</text>']
    for time in times:
        parts.append(f'<line x1="{x(time):.1f}" y1="{top}" x2="{x(time):.1f}" y2="{top + high}" stroke="#ddd"/>'
                     f'<text x="{x(time):.1f}" y="{top + high + 16}" text-anchor="middle" fill="#444">{time:g}×</text>')
    for size in sizes:
        parts.append(f'<line x1="{left}" y1="{y(size):.1f}" x2="{left + wide}" y2="{y(size):.1f}" stroke="#ddd"/>'
                     f'<text x="{left - 8}" y="{y(size) + 4:.1f}" text-anchor="end" fill="#444">{size:g}×</text>')
    parts.append(f'<text x="{left + wide / 2}" y="{top + high + 36}" text-anchor="middle">time of one encode</text>')
    parts.append(f'<text x="18" y="{top + high / 2}" text-anchor="middle" transform="rotate(-90 18 {top + high / 2})">bytes</text>')
    for at, (name, time, size) in enumerate(sorted(points, key=lambda point: point[2])):
        colour = COLOURS.get(name, "#555")
        parts.append(f'<circle cx="{x(time):.1f}" cy="{y(size):.1f}" r="5" fill="{colour}"/>'
                     f'<circle cx="{left + wide + 20}" cy="{top + 8 + at * 22}" r="5" fill="{colour}"/>'
                     f'<text x="{left + wide + 32}" y="{top + 12 + at * 22}">{name}</text>')
    return "\n".join(parts) + "\n</svg>\n"


def table(path: Path, head, rows) -> None:
    with open(path, "w", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(head)
        writer.writerows(rows)
    print(f"\n{path.name}\n" + "  ".join(f"{name:>14}" for name in head))
    for row in rows:
        print("  ".join(f"{value!s:>14}" for value in row))


def main() -> None:
    folder, to = Path(sys.argv[1]), Path(sys.argv[2])
    to.mkdir(parents=True, exist_ok=True)
    all_rows, all_targets = [], []
    for width in (320, 640, 1280):
        rows = frontier(folder, width)
        if rows:
            (to / f"frontier-{width}.svg").write_text(plot(rows, width), encoding="utf-8")
        all_rows += rows
        all_targets += targets(folder, width)
    table(to / "frontier.csv", ["width", "encoder", "score", "pictures", "bytes", "bytes_ratio", "time_ratio"], all_rows)
    table(to / "targets.csv", ["width", "encoder", "target", "pictures", "within_1_5", "within_4", "not_4_below", "encodes",
                                "probes", "cpu_ms", "time_ratio"], all_targets)


main()
