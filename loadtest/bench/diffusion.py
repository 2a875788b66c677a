#!/usr/bin/env python3
"""Drawing beside Python diffusers, in one run: `make bench-diffusion`.

Both sides use the same checkpoint, libtorch release, device, dtype and threads, steps, guidance (two rows in a batch) and
size. They take turns, in an order that is reversed every other round. Workloads:

    studio   the built-in checkpoint at its native size, 20 steps
    sd15     a network of Stable Diffusion 1.5's size with random weights, 256 × 256 on a CPU, 512 × 512 else (made once, 2 GB)
    sdxl     one of Stable Diffusion XL base's size, 256 × 256 on a CPU, 1024 × 1024 else (made once, 7 GB)
    mixed    many recipes at once, no two alike, with four steps each: a node that serves, beside the pipeline drawing one
             after the other (see mixed.py); the built-in checkpoint on a CPU, Stable Diffusion XL's size at 512 × 512 else

Ours is a node that serves (see serving.py): it takes recipes over HTTP, encodes and stores the pictures, and its passes take as
many requests as there are callers under load. Its peer only draws. For each workload but the last:

    alone    seconds of a denoising step and of a picture, one request after the other; on an accelerator the peer also draws with
             its network compiled (torch.compile), and that ratio stands beside the other
    loaded   pictures per second with several callers that ask again and again, beside the faster of the peer's two ways: one
             picture after the other, or as many in a batch as there are callers
    exact    what exactness costs: the same node with `determinism = "fast"`, and how many places of passes were filled up
    cold     from the start of a process that draws one picture to its end, and its peak memory

One statistic throughout: a figure is the median of its rounds, and a ratio that of the two medians. The best step is shown
beside them, because other work on the machine disturbs it least.
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
import serving

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RUN_S_MAX = 1800
ENGINES = ("bildkante", "diffusers")
PROMPT = "a teal mug, cream backdrop, studio light"
GUIDANCE = 4.0


@dataclass(frozen=True)
class Workload:
    name: str
    size: str
    steps: int
    runs: int
    rounds: int
    # Callers at once under load, and requests that may share a pass.
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
    Workload("sd15-4-steps", "512x512", 4, 5, 2, 8, "sd15"),
    Workload("mixed", "512x512", 4, 1, 3, 8, "sdxl-base", wanted=1.5, mixed=64),
    Workload("mixed-sd15", "512x512", 4, 1, 3, 8, "sd15", wanted=1.5, mixed=64),
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
    print(f"\n{'workload':<14}{'dtype':<6}{'':<12}{'s a step':>10}{'best':>9}{'images/s':>10}{'callers':>9}{'images/s':>10}"
          f"{'first image':>13}{'peak MiB':>10}")
    for row in figures:
        for engine in ENGINES:
            found = row["engines"][engine]
            print(f"{row['workload']:<14}{row['dtype']:<6}{engine:<12}{found['step_s']:>10.4f}{found['best_s']:>9.4f}"
                  f"{found['images_per_s']:>10.3f}{row['together']:>9}{found['loaded_per_s']:>10.3f}"
                  f"{found['first_image_s']:>11.2f} s{found['peak_mib']:>10.0f}")
    print()
    for row in figures:
        print_verdicts(row)
    for row in under_traffic:
        verdict = "PASS" if row["ratio"] >= row["wanted"] else "FAIL"
        ours, theirs = (row["engines"][engine]["images_per_s"] for engine in ENGINES)
        print(f"{verdict}: {row['workload']} {row['dtype']}: {row['requests']} recipes of {row['steps']} steps at once: "
              f"{row['ratio']:.2f}× diffusers' throughput, a ratio of medians (wanted: {row['wanted']}×; {ours:.3f} and {theirs:.3f} images/s; "
              f"{row['requests_in_a_pass']:.1f} requests in a pass)")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures + under_traffic, indent=2) + "\n")


def print_verdicts(row: dict) -> None:
    """What is wanted of a node that serves; ratios of medians."""
    ratios, exactness, name = row["ratios"], row["exactness"], f"{row['workload']} {row['dtype']}"

    def verdict(ratio: float) -> str:
        return "PASS" if ratio >= row["wanted"] else "FAIL"

    wanted = f"(wanted: {row['wanted']}×)"
    print(f"{verdict(ratios['step'])}: {name} alone, served: {ratios['step']:.2f}× diffusers' speed per denoising step {wanted}")
    print(f"{verdict(ratios['image'])}: {name} alone, served: {ratios['image']:.2f}× per picture, file and store included {wanted}")
    print(f"{verdict(ratios['loaded'])}: {name} loaded, served, {row['together']} callers: {ratios['loaded']:.2f}× diffusers' "
          f"throughput, the faster of one by one and batches {wanted}; {exactness['requests_in_a_pass']:.2f} requests in a pass")
    if "compiled_step" in ratios:
        print(f"{verdict(ratios['compiled_step'])}: {name} alone, served: {ratios['compiled_step']:.2f}× the speed per denoising step "
              f"of diffusers with torch.compile {wanted}")
    print(f"      {name}: {ratios['first_image']:.2f}× to the first image, {ratios['peak']:.2f}× the memory; exactness costs "
          f"{100 * exactness['step']:+.1f} % of a step alone, {100 * exactness['loaded']:+.1f} % of the time loaded, and "
          f"{exactness['padding_alone']:.0f} and {exactness['padding_loaded']:.0f} places of passes filled up")


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
    common = ["--checkpoint", checkpoint, "--guidance", GUIDANCE, "--size", workload.size, "--threads", arguments.threads,
              "--dtype", dtype, "--device", arguments.device, "--steps", workload.steps]
    cold = [*common, "--runs", 1, "--warmup", 0]
    commands = {
        "bildkante": [arguments.binaries / "bildkante-gpu-node", "bench"],
        "diffusers": [arguments.python, ROOT / "gpu-node/bench/diffusers_peer.py"],
    }
    rounds: dict[str, list[dict]] = {engine: [] for engine in ENGINES}
    for number, engine in turns(arguments.rounds or workload.rounds):
        if engine == "bildkante":
            result = serve(workload, checkpoint, dtype, number, arguments)
        else:
            result = pipeline(workload, [*commands[engine], *common], arguments)
        started = time.monotonic()
        result["cold"] = run(engine, [*commands[engine], *cold], arguments)
        result["first_image_s"] = time.monotonic() - started
        rounds[engine].append(result)
        print(f"{workload.name} {dtype} round {number}  {engine:<10}{result['step_s_median']:>9.4f} s a step"
              f"{result['images_per_s']:>9.3f} images/s{result['loaded_per_s']:>9.3f} loaded by {workload.together}"
              f"{result['first_image_s']:>8.2f} s to the first", flush=True)

    def median(engine: str, key: str) -> float:
        return statistics.median(result[key] for result in rounds[engine])

    def ratio(key: str, better: str = "less") -> float:
        ours, theirs = (median(engine, key) for engine in ENGINES)
        return theirs / ours if better == "less" else ours / theirs

    def peak(engine: str) -> float:
        found = [result["cold"] for result in rounds[engine]]
        return statistics.median(result.get("device_peak_mib") or result["rss_peak_mib"] for result in found)

    def fast(key: str) -> float:
        return statistics.median(result["fast"][key] for result in rounds["bildkante"])

    compiled = [result["compiled_step_s"] for result in rounds["diffusers"] if "compiled_step_s" in result]
    best = {engine: min(result["step_s_min"] for result in rounds[engine]) for engine in ENGINES}
    return {
        "workload": workload.name, "dtype": dtype, "size": workload.size, "steps": workload.steps,
        "together": workload.together, "wanted": workload.wanted, "threads": arguments.threads, "device": arguments.device,
        "engines": {
            engine: {
                "step_s": median(engine, "step_s_median"), "best_s": best[engine],
                "images_per_s": median(engine, "images_per_s"), "loaded_per_s": median(engine, "loaded_per_s"),
                "first_image_s": median(engine, "first_image_s"), "peak_mib": peak(engine),
            }
            for engine in ENGINES
        },
        "ratios": {
            "step": ratio("step_s_median"), "image": ratio("images_per_s", "more"), "loaded": ratio("loaded_per_s", "more"),
            "first_image": ratio("first_image_s"), "peak": peak("bildkante") / peak("diffusers"),
            **({"compiled_step": statistics.median(compiled) / median("bildkante", "step_s_median")} if compiled else {}),
        },
        # Shares of the time that a node without it would take.
        "exactness": {
            "step": median("bildkante", "step_s_median") / fast("step_s_median") - 1,
            "loaded": fast("loaded_per_s") / median("bildkante", "loaded_per_s") - 1,
            "padding_alone": median("bildkante", "padding_alone"), "padding_loaded": median("bildkante", "padding_loaded"),
            "requests_in_a_pass": median("bildkante", "requests_in_a_pass"),
        },
        "ratios_are": "of medians",
        "rounds": rounds,
    }


def serve(workload: Workload, checkpoint: Path, dtype: str, number: int, arguments: argparse.Namespace) -> dict:
    """A node that serves, exact as by default, and one that is not; they take turns in being the first."""
    width, _, height = workload.size.partition("x")
    task = serving.Task((int(width), int(height)), workload.steps, GUIDANCE, PROMPT)
    options = {"device": arguments.device, "dtype": dtype, "threads": arguments.threads, "requests_max": workload.together,
               "self_test_steps": 1}
    own_side_px = int(width) if workload.model and arguments.device == "cpu" else None
    found = {}
    for determinism in ("exact", "fast")[:: 1 if number % 2 else -1]:
        binary = arguments.binaries / "bildkante-gpu-node"
        with serving.serving(binary, checkpoint, {**options, "determinism": determinism}, own_side_px) as node:
            found[determinism] = serving.alone_and_loaded(node, task, workload.runs, workload.together)
    return {**found["exact"], "fast": found["fast"]}


def pipeline(workload: Workload, command: list, arguments: argparse.Namespace) -> dict:
    """The peer, one picture after the other and several in a batch."""
    alone = run("diffusers", [*command, "--runs", workload.runs, "--warmup", 1], arguments)
    # Minutes a pass at real sizes on a CPU: kernels are chosen once in a process, and that hardly shows there.
    warmup = 1 if workload.runs > 1 else 0
    together = ["--runs", workload.runs, "--warmup", warmup, "--together", workload.together]
    together_per_s = run("diffusers", [*command, *together], arguments)["images_per_s"]
    if arguments.device != "cpu" or arguments.compile:
        compiled = run("diffusers", [*command, "--compile", "--runs", workload.runs, "--warmup", 1], arguments)
        alone["compiled_step_s"] = compiled["step_s_median"]
    return {**alone, "together_per_s": together_per_s, "loaded_per_s": max(alone["images_per_s"], together_per_s)}


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
    parser.add_argument("--compile", action="store_true", help="also beside torch.compile, as on an accelerator")
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
