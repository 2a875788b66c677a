"""A node under mixed traffic: as many recipes at once as a workload says, no two alike, timed from the first call to the last
reply. What a pipeline library has to draw one after the other the node draws in passes that several share.

The recipes differ in prompt, seed and sampler; half of them are guided, each by a scale of its own. The node does all that it
does for an edge: it takes them over HTTP, orders them by urgency, encodes and stores the masters. Its peer only draws.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from edge.processes import reserve_ports, run, wait_until

START_S_MAX = 1800
# The longest deadline a node takes.
REPLY_S_MAX = 600
SAMPLERS = ("euler", "ddim", "dpmpp_2m", "unipc")
SUBJECTS = ("a teal mug", "a red vase", "a brass lamp", "a wooden chair", "a glass bottle")


def recipes(count: int, steps: int, first_seed: int) -> list[dict]:
    """The same ones for the same arguments."""
    return [
        {
            "prompt": f"{SUBJECTS[at % len(SUBJECTS)]}, studio light, number {at}",
            "negative_prompt": "blurry" if at % 4 == 1 else "",
            "seed": first_seed + at,
            "steps": steps,
            "guidance": 2.0 + at % 5 if at % 2 else 1.0,
            "sampler": SAMPLERS[at // 2 % len(SAMPLERS)],
        }
        for at in range(count)
    ]


def node(binary: Path, checkpoint: Path, size: tuple[int, int], options: dict, lists: list[list[dict]]) -> dict:
    """Seconds that a node takes for the last of several lists; those before warm it up."""
    width_px, height_px = size
    with tempfile.TemporaryDirectory() as folder, serving(binary, checkpoint, options, Path(folder)) as address:
        digest = json.loads(get(f"{address}/v1/checkpoints"))[0]["digest"]

        def draw(at: int, recipe: dict) -> None:
            sampler = {"kind": recipe["sampler"]}
            rest = {key: value for key, value in recipe.items() if key != "sampler"}
            body = {
                "recipe": {**rest, "checkpoint": digest, "width_px": width_px, "height_px": height_px, "scheduler": sampler},
                "urgency": 1 + at % 5,
                "deadline_ms": REPLY_S_MAX * 1000,
            }
            headers = {"content-type": "application/json"}
            call = urllib.request.Request(f"{address}/v1/generations", json.dumps(body).encode(), headers)
            try:
                with urllib.request.urlopen(call, timeout=REPLY_S_MAX) as reply:
                    reply.read()
            except urllib.error.HTTPError as error:
                raise SystemExit(f"the node answers {error.code}: {error.read().decode(errors='replace')}") from None

        seconds = 0.0
        for listed in lists:
            with concurrent.futures.ThreadPoolExecutor(len(listed)) as pool:
                started = time.monotonic()
                for done in [pool.submit(draw, at, recipe) for at, recipe in enumerate(listed)]:
                    done.result()
                seconds = time.monotonic() - started
        metrics = get(f"{address}/metrics").decode()
    counted = {name: metric(metrics, f"bildkante_node_{name}_total") for name in ("passes", "steps")}
    return {"images_per_s": len(lists[-1]) / seconds, "requests_in_a_pass": counted["steps"] / counted["passes"]}


@contextlib.contextmanager
def serving(binary: Path, checkpoint: Path, options: dict, folder: Path) -> Iterator[str]:
    """A node with this checkpoint alone, at its address, once it is ready."""
    models = folder / "models"
    models.mkdir()
    (models / checkpoint.name).symlink_to(checkpoint.resolve())
    lines = [f"models_dir = {json.dumps(str(models))}", f"data_dir = {json.dumps(str(folder / 'data'))}", "models_poll_ms = 0"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in options.items() if key != "requests_max"]
    lines += ["[queue]", "jobs_max = 1024", "[batch]", f"requests_max = {options['requests_max']}"]
    (folder / "node.toml").write_text("\n".join(lines) + "\n")
    listen, log = f"127.0.0.1:{reserve_ports(1)[0]}", folder / "node.log"
    with run([binary, "serve", "--listen", listen, "--config", folder / "node.toml"], log) as process:
        wait_until(lambda: get(f"http://{listen}/readyz"), process, log, START_S_MAX)
        yield f"http://{listen}"


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as reply:
        return reply.read()


def metric(text: str, name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{")))
