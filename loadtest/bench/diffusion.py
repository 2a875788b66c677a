#!/usr/bin/env python3
"""Drawing beside Python diffusers, in one run: `make bench-diffusion`.

Both sides use the same checkpoint, libtorch release, device, dtype and threads, steps, guidance (two rows in a batch) and
size. Both print a line of JSON; they take turns, in an order that is reversed every other round. Workloads:

    studio   the built-in checkpoint at its native size, 20 steps
    sd15     a network of Stable Diffusion 1.5's size with random weights, 256 × 256 on a CPU, 512 × 512 else (made once, 2 GB)
    sdxl     one of Stable Diffusion XL base's size, 256 × 256 on a CPU, 1024 × 1024 else (made once, 7 GB)
    mixed    many recipes at once, no two alike, with four steps each: a node that serves, beside the pipeline drawing one
             after the other (see mixed.py); the built-in checkpoint on a CPU, Stable Diffusion XL's size at 512 × 512 else

For each but the last: seconds per denoising step; images per second with one and with several requests in a pass; from the
process's start to its first image; peak memory. One statistic throughout: a figure is the median of its rounds, and a ratio
that of the two medians. The best step is shown beside them, because other work on the machine disturbs it least.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mixed

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RUN_S_MAX = 1800
ENGINES = ("bildkante", "diffusers")


@dataclass(frozen=True)
class Workload:
    name: str
    size: str
    steps: int
    runs: int
    rounds: int
    # Requests in a pass, beside one.
    together: int
    model: str | None = None
    # How much faster than diffusers is wanted.
    wanted: float = 1.0
    # Requests at once, of a node that serves.
    mixed: int = 0


CPU = [
    Workload("studio", "192x192", 20, 5, 4, 4),
    Workload("sd15", "256x256", 2, 1, 2, 2, "sd15"),
    Workload("sdxl", "256x256", 2, 1, 2, 2, "sdxl-base"),
    Workload("mixed", "192x192", 4, 1, 3, 1, mixed=32),
]
ACCELERATOR = [
    Workload("studio", "192x192", 20, 10, 4, 8),
    Workload("sd15", "512x512", 30, 3, 2, 8, "sd15"),
    Workload("sdxl", "1024x1024", 30, 3, 2, 4, "sdxl-base", wanted=1.2),
    Workload("sdxl-4-steps", "512x512", 4, 5, 2, 8, "sdxl-base"),
    Workload("mixed", "512x512", 4, 1, 3, 8, "sdxl-base", wanted=1.5, mixed=64),
]


def main() -> None:
    arguments = parse()
    known = CPU if arguments.device == "cpu" else ACCELERATOR
    if (load := os.getloadavg()[0]) > 1:
        print(f"note: other work is running on this machine (load {load:.1f}); the figures will be noisy", flush=True)
    figures, under_traffic = [], []
    for workload in known:
        if arguments.workload and workload.name not in arguments.workload:
            continue
        checkpoint = checkpoint_of(workload, arguments)
        for dtype in arguments.dtype or dtypes(arguments.device):
            if workload.mixed:
                under_traffic.append(measure_mixed(workload, checkpoint, dtype, arguments))
            else:
                figures.append(measure(workload, checkpoint, dtype, arguments))
    print(f"\n{'workload':<14}{'dtype':<6}{'':<12}{'s a step':>10}{'best':>9}{'images/s':>10}{'in a pass of':>14}{'images/s':>10}"
          f"{'first image':>13}{'peak MiB':>10}")
    for row in figures:
        for engine in ENGINES:
            found = row["engines"][engine]
            print(f"{row['workload']:<14}{row['dtype']:<6}{engine:<12}{found['step_s']:>10.4f}{found['best_s']:>9.4f}"
                  f"{found['images_per_s']:>10.3f}{row['together']:>14}{found['together_per_s']:>10.3f}"
                  f"{found['first_image_s']:>11.2f} s{found['peak_mib']:>10.0f}")
    print()
    for row in figures:
        ratio = row["ratios"]["step"]
        verdict = "PASS" if ratio >= row["wanted"] else "FAIL"
        print(f"{verdict}: {row['workload']} {row['dtype']}, ratios of medians: {ratio:.2f}× diffusers' speed per denoising step "
              f"(wanted: {row['wanted']}×), "
              f"{row['ratios']['together']:.2f}× with {row['together']} in a pass, {row['ratios']['first_image']:.2f}× to the "
              f"first image, {row['ratios']['peak']:.2f}× the memory")
    for row in under_traffic:
        verdict = "PASS" if row["ratio"] >= row["wanted"] else "FAIL"
        ours, theirs = (row["engines"][engine]["images_per_s"] for engine in ENGINES)
        print(f"{verdict}: {row['workload']} {row['dtype']}: {row['requests']} recipes of {row['steps']} steps at once: "
              f"{row['ratio']:.2f}× diffusers' throughput, a ratio of medians (wanted: {row['wanted']}×; {ours:.3f} and {theirs:.3f} images/s; "
              f"{row['requests_in_a_pass']:.1f} requests in a pass)")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures + under_traffic, indent=2) + "\n")


def measure_mixed(workload: Workload, checkpoint: Path, dtype: str, arguments: argparse.Namespace) -> dict:
    """A node that serves beside the pipeline. The first list has one recipe of every kind; it chooses kernels."""
    lists = [mixed.recipes(count, workload.steps, seed) for count, seed in ((8, 1), (workload.mixed, 1000))]
    width, _, height = workload.size.partition("x")
    # One request a pass on a CPU, as by default.
    options = {"device": arguments.device, "dtype": dtype, "threads": arguments.threads, "requests_max": workload.together}
    peer = [arguments.python, ROOT / "gpu-node/bench/diffusers_peer.py", "--checkpoint", checkpoint, "--size", workload.size,
            "--threads", arguments.threads, "--dtype", dtype, "--device", arguments.device]
    rounds: dict[str, list[dict]] = {engine: [] for engine in ENGINES}
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "recipes.json"
        listed.write_text(json.dumps(lists))
        for number, engine in turns(arguments.rounds or workload.rounds):
            if engine == "bildkante":
                binary = arguments.binaries / "bildkante-gpu-node"
                result = mixed.node(binary, checkpoint, (int(width), int(height)), options, lists)
            else:
                result = run(engine, [*peer, "--mixed", listed], arguments)
            rounds[engine].append(result)
            print(f"{workload.name} {dtype} round {number}  {engine:<10}{result['images_per_s']:>9.3f} images/s", flush=True)
    images_per_s = {engine: statistics.median(result["images_per_s"] for result in rounds[engine]) for engine in ENGINES}
    return {
        "workload": workload.name, "dtype": dtype, "size": workload.size, "steps": workload.steps, "wanted": workload.wanted,
        "requests": workload.mixed, "device": arguments.device, "threads": arguments.threads,
        "ratio": images_per_s["bildkante"] / images_per_s["diffusers"], "ratios_are": "of medians",
        "requests_in_a_pass": statistics.median(result["requests_in_a_pass"] for result in rounds["bildkante"]),
        "engines": {engine: {"images_per_s": images_per_s[engine]} for engine in ENGINES},
        "rounds": rounds,
    }


def measure(workload: Workload, checkpoint: Path, dtype: str, arguments: argparse.Namespace) -> dict:
    common = ["--checkpoint", checkpoint, "--guidance", "4", "--size", workload.size, "--threads", arguments.threads,
              "--dtype", dtype, "--device", arguments.device, "--steps", workload.steps]
    alone = [*common, "--runs", workload.runs, "--warmup", 1]
    cold = [*common, "--runs", 1, "--warmup", 0]
    # Minutes a pass at real sizes on a CPU: kernels are chosen once in a process, and that hardly shows there.
    together = [*(alone if workload.runs > 1 else cold), "--together", workload.together]
    commands = {
        "bildkante": [arguments.binaries / "bildkante-gpu-node", "bench"],
        "diffusers": [arguments.python, ROOT / "gpu-node/bench/diffusers_peer.py"],
    }
    rounds: dict[str, list[dict]] = {engine: [] for engine in ENGINES}
    for number, engine in turns(arguments.rounds or workload.rounds):
        result = run(engine, [*commands[engine], *alone], arguments)
        started = time.monotonic()
        run(engine, [*commands[engine], *cold], arguments)
        result["first_image_s"] = time.monotonic() - started
        result["together_per_s"] = run(engine, [*commands[engine], *together], arguments)["images_per_s"]
        rounds[engine].append(result)
        print(f"{workload.name} {dtype} round {number}  {engine:<10}{result['step_s_median']:>9.4f} s a step"
              f"{result['images_per_s']:>9.3f} images/s{result['together_per_s']:>9.3f} with {workload.together} in a pass"
              f"{result['first_image_s']:>8.2f} s to the first", flush=True)

    def median(engine: str, key: str) -> float:
        return statistics.median(result[key] for result in rounds[engine])

    def ratio(key: str, better: str = "less") -> float:
        ours, theirs = (median(engine, key) for engine in ENGINES)
        return theirs / ours if better == "less" else ours / theirs

    def peak(engine: str) -> float:
        found = rounds[engine]
        return statistics.median(result.get("device_peak_mib") or result["rss_peak_mib"] for result in found)

    best = {engine: min(result["step_s_min"] for result in rounds[engine]) for engine in ENGINES}
    return {
        "workload": workload.name, "dtype": dtype, "size": workload.size, "steps": workload.steps,
        "together": workload.together, "wanted": workload.wanted, "threads": arguments.threads, "device": arguments.device,
        "engines": {
            engine: {
                "step_s": median(engine, "step_s_median"), "best_s": best[engine],
                "images_per_s": median(engine, "images_per_s"), "together_per_s": median(engine, "together_per_s"),
                "first_image_s": median(engine, "first_image_s"), "peak_mib": peak(engine),
            }
            for engine in ENGINES
        },
        "ratios": {
            "step": ratio("step_s_median"), "together": ratio("together_per_s", "more"),
            "first_image": ratio("first_image_s"), "peak": peak("bildkante") / peak("diffusers"),
        },
        "ratios_are": "of medians",
        "rounds": rounds,
    }


def turns(rounds: int) -> Iterator[tuple[int, str]]:
    """The order of turns in a round, from 1 on: the first of one round is the last of the next."""
    for number in range(rounds):
        for engine in ENGINES[:: 1 if number % 2 == 0 else -1]:
            yield number + 1, engine


def dtypes(device: str) -> list[str]:
    """Without AVX-512 a CPU has no fast kernels for bfloat16: an image of Stable Diffusion 1.5's size takes
    the peer many minutes."""
    if device != "cpu":
        return ["bf16"]
    if "avx512bw" in Path("/proc/cpuinfo").read_text():
        return ["f32", "bf16"]
    print("note: this processor has no AVX-512; bfloat16 is left out (--dtype bf16 asks for it)", flush=True)
    return ["f32"]


def checkpoint_of(workload: Workload, arguments: argparse.Namespace) -> Path:
    """The built-in one, or one of a real one's size, made beside the Python environment."""
    if workload.model is None:
        return arguments.checkpoint
    folder = arguments.full_size / workload.model
    if not (folder / ".complete").exists():
        print(f"making {folder}: {workload.model}'s size, random weights", flush=True)
        subprocess.run(["rm", "-rf", folder], check=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        script = ROOT / "gpu-node/fixtures/make_full_size.py"
        subprocess.run([arguments.python, script, workload.model, folder], check=True, cwd=ROOT, stdin=subprocess.DEVNULL)
        (folder / ".complete").touch()
    return folder


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", type=Path, required=True, help="folder of the release binaries")
    parser.add_argument("--python", type=Path, required=True, help="of the environment with torch and diffusers")
    parser.add_argument("--full-size", type=Path, required=True, help="where checkpoints of real ones' size are made")
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "gpu-node/models/studio-tiny")
    parser.add_argument("--workload", action="append", help="only this one; may be repeated")
    parser.add_argument("--rounds", type=int, help="instead of each workload's own number")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtype", action="append", choices=["f32", "bf16", "f16"], help="may be repeated")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def run(name: str, command: list, arguments: argparse.Namespace) -> dict:
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads), "HF_HUB_OFFLINE": "1"}
    command = [str(part) for part in command]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=RUN_S_MAX)
    if done.returncode != 0:
        sys.exit(f"{name} failed ({done.returncode}):\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
