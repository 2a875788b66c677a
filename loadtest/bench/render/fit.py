"""Learns the tables of edge/src/render/quality/tables.rs from curves of the training half.

    fit.py CURVES.csv... > tables.rs

For each picture, size, format and rung the quality at which a score is reached is read off the curve; a ridge regression over the features
gives the weights of each anchor. Prints to standard error how far the predictions lie from the score on the same pictures: the honest figures
are those of `encoder_curves judge` on the other half.
"""

import csv
import sys
from collections import defaultdict

import numpy as np

ANCHORS = [20, 30, 40, 50, 60, 70, 80, 90, 95]
FEATURES = 8
KINDS = [
    "avif-hurried", "avif-quick", "avif-final", "ravif-quick", "ravif-final",
    "webp-hurried", "webp-quick", "webp-final", "jpeg-quick", "jpeg-final", "mozjpeg-final",
]
# Encoders that only an edge with a feature has, and those that take their place without it.
FEATURES_OF = {"avif": ("aom", True), "ravif": ("aom", False), "mozjpeg": ("mozjpeg", True), "jpeg-final": ("mozjpeg", False)}
# Against weights that only fit the noise of some dozens of pictures.
RIDGE = 0.05


def curves(files):
    found = defaultdict(list)
    features = {}
    for file in files:
        with open(file, newline="") as lines:
            for row in csv.reader(lines):
                key = (row[0], row[1], row[2])
                found[key].append((float(row[3]), float(row[6])))
                features[key] = [float(number) for number in row[7:7 + FEATURES]]
    return found, features


def reached(curve, score):
    """The quality that reaches the score, on a curve made never to fall; the ends where none does."""
    best, points = -1e9, []
    for native, value in sorted(curve):
        best = max(best, value)
        points.append((native, best))
    if score <= points[0][1]:
        return points[0][0], False
    for (low, low_score), (high, high_score) in zip(points, points[1:]):
        if score <= high_score:
            return low + (high - low) * (score - low_score) / max(high_score - low_score, 1e-6), True
    return points[-1][0], False


def at(curve, native):
    points = sorted(curve)
    return float(np.interp(native, [point[0] for point in points], [point[1] for point in points]))


def fit(found, features, kind):
    keys = [key for key in found if key[2] == kind]
    rows = []
    for anchor in ANCHORS:
        wanted = [(key, *reached(found[key], anchor)) for key in keys]
        # Where a picture cannot reach the score its end says only that much: it counts, but little.
        weight = np.array([1.0 if is_reached else 0.15 for _, _, is_reached in wanted])
        x = np.array([features[key] for key, _, _ in wanted])
        y = np.array([native for _, native, _ in wanted])
        mean, spread = x[:, 1:].mean(0), x[:, 1:].std(0) + 1e-6
        z = np.hstack([np.ones((len(y), 1)), (x[:, 1:] - mean) / spread])
        penalty = np.diag([0.0] + [RIDGE * weight.sum()] * (FEATURES - 1))
        solved = np.linalg.solve(z.T @ (z * weight[:, None]) + penalty, z.T @ (y * weight))
        slopes = solved[1:] / spread
        rows.append([solved[0] - float(mean @ slopes), *slopes])
    for q in (50, 60, 70, 80):
        row = rows[ANCHORS.index(q)]
        misses = [at(found[key], float(np.dot(row, features[key]))) - q for key in keys if reached(found[key], q)[1]]
        if misses:
            misses = np.abs(misses)
            print(f"{kind} q{q}: {len(misses)} curves, within 4: {np.mean(misses <= 4):.2f}, median miss {np.median(misses):.2f}",
                  file=sys.stderr)
    return rows


def main():
    found, features = curves(sys.argv[1:])
    print('''//! Made by `make encoder-tables`; see the module above. One row for each anchor of `q`, one weight for each feature.
#![allow(clippy::approx_constant, reason = "weights")]

use super::Table;
''')
    for kind in KINDS:
        name = kind.upper().replace("-", "_")
        feature, is_on = FEATURES_OF.get(kind) or FEATURES_OF.get(kind.split("-")[0]) or (None, None)
        if feature:
            print(f'#[cfg(feature = "{feature}")]' if is_on else f'#[cfg(not(feature = "{feature}"))]')
        print(f"#[rustfmt::skip]\npub(super) const {name}: Table = [")
        for row in fit(found, features, kind):
            print("    [" + ", ".join(f"{weight:.4f}" for weight in row) + "],")
        print("];")


main()
