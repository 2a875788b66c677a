#!/usr/bin/env python3
"""Seconds per denoising step beside Python diffusers, in one run: `make bench-diffusion`.

Workload: the built-in checkpoint at its native size, 20 steps, guidance 4 (two rows in a batch), the same libtorch
release, device, dtype and threads on both sides. Both print a line of JSON; they take turns, in an order that is
reversed every other round. Two ratios are given, and the smaller one counts: the median of the rounds' own ratios, and
that of the best steps, which other work on the machine disturbs least (OpenMP's barriers suffer badly from it).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET_RATIO = 1.0
ROUND_S_MAX = 900


def main() -> None:
    arguments = parse()
    workload = ["--checkpoint", arguments.checkpoint, "--steps", "20", "--guidance", "4", "--size", "192x192",
                "--threads", str(arguments.threads), "--dtype", arguments.dtype, "--device", arguments.device,
                "--runs", str(arguments.runs), "--warmup", "1"]
    commands = {
        "bildkante": [arguments.binaries / "bildkante-gpu-node", "bench", *workload],
        "diffusers": [arguments.python, ROOT / "gpu-node/bench/diffusers_peer.py", *workload],
    }
    rounds: dict[str, list[dict]] = {name: [] for name in commands}
    if (load := os.getloadavg()[0]) > 1:
        print(f"note: other work is running on this machine (load {load:.1f}); the figures will be noisy", flush=True)
    for number in range(arguments.rounds):
        for name in list(commands)[:: 1 if number % 2 == 0 else -1]:
            result = run(name, commands[name], arguments.threads)
            rounds[name].append(result)
            print(f"round {number + 1}  {name:<10}{result['step_s_median'] * 1000:>9.2f} ms a step"
                  f"{result['image_s_median']:>8.3f} s an image", flush=True)
    report(rounds, arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", type=Path, required=True, help="folder of the release binaries")
    parser.add_argument("--python", type=Path, required=True, help="of the environment with torch and diffusers")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "gpu-node/models/studio-tiny")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5, help="images in a round, after one to warm up")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtype", default="f32", choices=["f32", "bf16", "f16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def run(name: str, command: list, threads: int) -> dict:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=ROUND_S_MAX)
    if done.returncode != 0:
        sys.exit(f"{name} failed ({done.returncode}):\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def report(rounds: dict[str, list[dict]], arguments: argparse.Namespace) -> None:
    def paired(key: str) -> float:
        return statistics.median(theirs[key] / ours[key] for ours, theirs in zip(rounds["bildkante"], rounds["diffusers"]))

    def median(name: str, key: str) -> float:
        return statistics.median(result[key] for result in rounds[name])

    best = {name: min(result["step_s_min"] for result in results) for name, results in rounds.items()}
    print(f"\n{'':<12}{'ms a step':>11}{'best':>9}{'s an image':>12}{'peak MiB':>10}   medians of {arguments.rounds} rounds, "
          f"{arguments.threads} threads, {arguments.dtype}, {arguments.device}")
    for name in rounds:
        print(f"{name:<12}{median(name, 'step_s_median') * 1000:>11.2f}{best[name] * 1000:>9.2f}"
              f"{median(name, 'image_s_median'):>12.3f}{median(name, 'rss_peak_mib'):>10.0f}")
    ratios = {"paired": paired("step_s_median"), "best": best["diffusers"] / best["bildkante"]}
    ratio = min(ratios.values())
    verdict = "PASS" if ratio >= TARGET_RATIO else "FAIL"
    print(f"\n{verdict}: {ratio:.2f}× diffusers' speed per denoising step (wanted: {TARGET_RATIO}×; rounds paired "
          f"{ratios['paired']:.2f}×, best steps {ratios['best']:.2f}×)")
    if arguments.json:
        figures = {"ratios": ratios, "rounds": rounds}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
