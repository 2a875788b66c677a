"""Look-ups of near hashes beside faiss's exact binary indexes, on one thread each, in one run.

    python dedup.py BENCH [COUNT ...]     BENCH: the built example `dedup_index_bench`

Both search the same hashes (a counter through SplitMix64) for the same ones, three bits changed, within 24 bits of 256.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

import faiss
import numpy as np

ROUNDS = 21
DISTANCE_MAX = 24
COUNTS = (1_000_000, 10_000_000)
# Eight hashes of 32 bits, each tried with up to three flips: exact up to 8 * (3 + 1) - 1 = 31 bits.
HASHES, BITS, FLIPS = 8, 32, 3


def hashes(count: int) -> np.ndarray:
    state = (np.arange(1, 4 * count + 1, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed ^ (mixed >> np.uint64(31))).view(np.uint8).reshape(count, 32)


def median_ms(search, known: np.ndarray) -> tuple[float, int]:
    times, found = [], 0
    for number in range(ROUNDS):
        query = known[number * 7_919 % len(known)].copy().reshape(1, 32)
        query[0, 0] ^= 0b100101
        started = time.perf_counter()
        found += search(query)
        times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times), found


def flat(known: np.ndarray):
    index = faiss.IndexBinaryFlat(256)
    index.add(known)
    # Its radius excludes the distance itself.
    return lambda query: int(index.range_search(query, DISTANCE_MAX + 1)[0][1])


def multi_hash(known: np.ndarray):
    index = faiss.IndexBinaryMultiHash(256, HASHES, BITS)
    index.nflip = FLIPS
    index.add(known)
    return lambda query: int(index.range_search(query, DISTANCE_MAX + 1)[0][1])


def main() -> int:
    bench, counts = sys.argv[1], [int(count) for count in sys.argv[2:]] or list(COUNTS)
    faiss.omp_set_num_threads(1)
    ours = json.loads(subprocess.run([bench, *map(str, counts)], check=True, capture_output=True, text=True).stdout)
    print(f"{'hashes':>10}  {'ours':>10}  {'flat':>10}  {'multi-hash':>10}  ours ÷ the faster")
    is_slower = False
    for count in counts:
        known = hashes(count)
        own, own_found = ours[str(count)]["median_ms"], ours[str(count)]["found"]
        peers = {"flat": median_ms(flat(known), known), "multi": median_ms(multi_hash(known), known)}
        for name, (_, found) in peers.items():
            if found != own_found:
                sys.exit(f"{name} found {found} and we {own_found} of {count}")
        faster = min(ms for ms, _ in peers.values())
        is_slower |= own > faster
        print(f"{count:>10,}  {own:>7.2f} ms  {peers['flat'][0]:>7.2f} ms  {peers['multi'][0]:>7.2f} ms  {own / faster:.2f}")
    return 1 if is_slower else 0


if __name__ == "__main__":
    sys.exit(main())
