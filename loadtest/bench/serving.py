"""A node that serves one checkpoint, asked over HTTP as an edge asks: alone, and with as many callers as share a pass."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import itertools
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edge.processes import reserve_ports, run, wait_until

START_S_MAX = 1800
# The longest deadline a node takes.
REPLY_S_MAX = 600
# A probe of passes of a real network's size takes minutes on a CPU.
SETTLED_S_MAX = 900


@dataclass(frozen=True)
class Task:
    """What is drawn: pictures that differ in seed and prompt, so that each has its text encoded, as the peer's have."""

    size: tuple[int, int]
    steps: int
    guidance: float
    prompt: str


@dataclass
class Node:
    address: str
    digest: str = ""
    # A recipe that was drawn before is answered from the store.
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def call(self, method: str, path: str, body: dict | None = None) -> bytes:
        """The body of an answer of 200."""
        connection = http.client.HTTPConnection(self.address, timeout=REPLY_S_MAX)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"content-type": "application/json"})
            reply = connection.getresponse()
            answer = reply.read()
        finally:
            connection.close()
        if reply.status != 200:
            raise SystemExit(f"the node answers {reply.status} to {path}: {answer.decode(errors='replace')}")
        return answer

    def is_ready(self) -> bool:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        finally:
            connection.close()

    def draw(self, recipe: dict, size: tuple[int, int], urgency: int = 3) -> dict:
        """The reply to a recipe of this node's checkpoint."""
        width_px, height_px = size
        recipe = {**recipe, "checkpoint": self.digest, "width_px": width_px, "height_px": height_px}
        asked = {"recipe": recipe, "urgency": urgency, "deadline_ms": REPLY_S_MAX * 1000}
        return json.loads(self.call("POST", "/v1/generations", asked))

    def draw_task(self, task: Task) -> dict:
        number = next(self.numbers)
        recipe = {"prompt": f"{task.prompt}, number {number}", "negative_prompt": "", "seed": number,
                  "steps": task.steps, "guidance": task.guidance}
        return self.draw(recipe, task.size)

    def metric(self, name: str) -> float:
        lines = self.call("GET", "/metrics").decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def settle(self) -> None:
        """Waits until the node has found out which passes may be shared."""
        until = time.monotonic() + SETTLED_S_MAX
        while self.metric("bildkante_node_probes_pending"):
            if time.monotonic() > until:
                raise SystemExit(f"the node still probes after {SETTLED_S_MAX} s")
            time.sleep(0.2)


def alone_and_loaded(node: Node, task: Task, runs: int, callers: int) -> dict:
    """Medians of `runs` pictures, one after the other; pictures per second with `callers` that ask again and again."""
    node.draw_task(task)
    node.settle()
    padding = node.metric("bildkante_node_padding_total")
    steps_s, images_s = [], []
    for _ in range(runs):
        started = time.monotonic()
        reply = node.draw_task(task)
        images_s.append(time.monotonic() - started)
        steps_s.append(reply["timings"]["denoise_ms"] / 1000 / task.steps)
    padding_alone = node.metric("bildkante_node_padding_total") - padding
    before = {name: node.metric(f"bildkante_node_{name}_total") for name in ("passes", "steps", "padding")}
    with concurrent.futures.ThreadPoolExecutor(callers) as pool:
        started = time.monotonic()
        for done in [pool.submit(lambda: [node.draw_task(task) for _ in range(runs)]) for _ in range(callers)]:
            done.result()
        seconds = time.monotonic() - started
    counted = {name: node.metric(f"bildkante_node_{name}_total") - count for name, count in before.items()}
    return {
        "step_s_median": statistics.median(steps_s), "step_s_min": min(steps_s),
        "images_per_s": 1 / statistics.median(images_s),
        "loaded_per_s": callers * runs / seconds,
        "padding_alone": padding_alone,
        "padding_loaded": counted["padding"],
        "requests_in_a_pass": counted["steps"] / counted["passes"],
    }


@contextlib.contextmanager
def serving(binary: Path, checkpoint: Path, options: dict, own_side_px: int | None = None) -> Iterator[Node]:
    """A node with this checkpoint alone, once it is ready. `own_side_px`: the size that the checkpoint says it was
    trained at, which a node tries and probes it at; that of a real one takes a CPU many minutes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        offered = folder / "models" / checkpoint.name
        offered.parent.mkdir()
        if own_side_px is None:
            offered.symlink_to(checkpoint.resolve())
        else:
            link_of_size(checkpoint, offered, own_side_px)
        (folder / "node.toml").write_text(config(folder, options))
        listen, log = f"127.0.0.1:{reserve_ports(1)[0]}", folder / "node.log"
        with run([binary, "serve", "--listen", listen, "--config", folder / "node.toml"], log) as process:
            node = Node(listen)
            wait_until(node.is_ready, process, log, START_S_MAX)
            node.digest = json.loads(node.call("GET", "/v1/checkpoints"))[0]["digest"]
            yield node


def config(folder: Path, options: dict) -> str:
    """`requests_max` and `determinism` belong to passes, everything else to the node."""
    of_passes = {key: value for key, value in options.items() if key in ("requests_max", "determinism")}
    of_node = {"models_dir": str(folder / "models"), "data_dir": str(folder / "data"), "models_poll_ms": 0}
    of_node |= {key: value for key, value in options.items() if key not in of_passes}

    def lines(table: dict) -> list[str]:
        return [f"{key} = {json.dumps(value)}" for key, value in table.items()]

    return "\n".join([*lines(of_node), "[queue]", "jobs_max = 1024", "[batch]", *lines(of_passes)]) + "\n"


def link_of_size(checkpoint: Path, offered: Path, side_px: int) -> None:
    """The same checkpoint, whose UNet says another size."""
    for path in checkpoint.resolve().rglob("*"):
        to = offered / path.relative_to(checkpoint.resolve())
        if path.is_dir():
            to.mkdir(parents=True)
            continue
        to.parent.mkdir(parents=True, exist_ok=True)
        if to.relative_to(offered) == Path("unet/config.json"):
            shutil.copy(path, to)
        else:
            to.symlink_to(path)
    said = offered / "unet/config.json"
    levels = len(json.loads((checkpoint / "vae/config.json").read_text())["block_out_channels"])
    said.write_text(json.dumps({**json.loads(said.read_text()), "sample_size": side_px >> (levels - 1)}))
