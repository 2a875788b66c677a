"""How long requests wait for others on one node: the cases that a fair engine is judged by.

    python fairness.py NODE [NODE ...] [--models DIR] [--threads N]     NODE: built `bildkante-gpu-node`s, each measured by itself

Each node draws with the built-in checkpoint, four requests in a pass at most, from an empty data folder.

1. *hold*: an urgent picture whose class is known comes while a picture of no urgency, of a class that is new, is being drawn. By how
   much it takes longer than alone, and how many steps of the other picture that is: one is under way when it comes.
2. *adapter*: a picture with an adapter at a weight that was not used before, beside one at a weight that was.
3. *other class*: six clients of one size ask again and again, one picture of another size comes between them, at equal urgency.
   How long it waits for its first pass, or for an error, and how many pictures of the others are drawn meanwhile.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import statistics
import struct
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

SETTLED_S = 120
NEW_SIZES = ((384, 384), (384, 320), (320, 384))
CLIENTS = 6


class Node:
    def __init__(self, address: str, checkpoint: str, adapter: str):
        self.address, self.checkpoint, self.adapter = address, checkpoint, adapter
        self.seed, self.lock = 0, threading.Lock()

    def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.address, timeout=300)
        try:
            connection.request(method, path, body, {"content-type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def draw(self, size: tuple[int, int], urgency: int, steps: int, weight: float | None = None, deadline_s: float = 240):
        """Seconds until the answer, its status and what it says. Each picture has a seed of its own."""
        with self.lock:
            self.seed += 1
            seed = self.seed
        recipe = {
            "checkpoint": self.checkpoint, "prompt": "a teal mug", "negative_prompt": "", "seed": seed,
            "width_px": size[0], "height_px": size[1], "steps": steps, "guidance": 4.0,
        }
        if weight is not None:
            recipe["loras"] = [{"digest": self.adapter, "weight": weight}]
        asked = {"recipe": recipe, "urgency": urgency, "deadline_ms": int(deadline_s * 1000)}
        began = time.perf_counter()
        status, body = self.call("POST", "/v1/generations", json.dumps(asked).encode())
        return time.perf_counter() - began, status, json.loads(body)

    def settle(self) -> None:
        """Waits until nothing is left to be found out, where the node finds things out beside its drawings."""
        until = time.monotonic() + SETTLED_S
        while time.monotonic() < until:
            text = self.call("GET", "/metrics")[1].decode()
            pending = re.findall(r"^bildkante_node_probes_pending\S* (\S+)$", text, re.M)
            if not any(float(count) for count in pending):
                return
            time.sleep(0.2)


def write_adapter(checkpoint: Path, path: Path) -> None:
    """One low-rank change of one layer, as PEFT stores it."""
    unet = (checkpoint / "unet/diffusion_pytorch_model.safetensors").read_bytes()
    header = json.loads(unet[8 : 8 + struct.unpack("<Q", unet[:8])[0]])
    layer = next(name for name in header if name.endswith("to_q.weight"))
    outputs, inputs = header[layer]["shape"]
    name = "unet." + layer.removesuffix(".weight")
    tensors = {f"{name}.lora_A.weight": (2, inputs), f"{name}.lora_B.weight": (outputs, 2)}
    entries, data = {}, b""
    for key, (rows, columns) in tensors.items():
        values = struct.pack(f"<{rows * columns}f", *(((n * 7919) % 13 - 6) / 200 for n in range(rows * columns)))
        entries[key] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@contextmanager
def started(binary: Path, checkpoint: Path, threads: int):
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        (models / "adapters").mkdir(parents=True)
        (models / checkpoint.name).symlink_to(checkpoint)
        write_adapter(checkpoint, models / "adapters/one.safetensors")
        config = Path(folder) / "gpu-node.toml"
        config.write_text(
            f'models_dir = "{models}"\ndata_dir = "{folder}/data"\nthreads = {threads}\n[batch]\nrequests_max = 4\n'
        )
        command = [binary, "serve", "--listen", "127.0.0.1:0", "--config", config, "--exit-with-parent"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            address = None
            for line in process.stderr:
                found = re.search(r"addr=(\S+)", line)
                address = found.group(1) if found else address
                if " ready device=" in line:
                    break
            threading.Thread(target=process.stderr.read, daemon=True).start()
            node = Node(address, "", "")
            node.checkpoint = json.loads(node.call("GET", "/v1/checkpoints")[1])[0]["digest"]
            node.adapter = json.loads(node.call("GET", "/v1/adapters")[1])[0]["digest"]
            node.settle()
            yield node
        finally:
            process.stdin.close()
            process.wait(60)


def hold(node: Node) -> list[str]:
    own = (192, 192)
    node.draw(own, 0, 4)
    node.settle()
    alone = statistics.median(node.draw(own, 0, 4)[0] for _ in range(3))
    held, steps = [], []
    for size in NEW_SIZES:
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(node.draw, size, 7, 4)
            time.sleep(0.25)
            held.append(node.draw(own, 0, 4)[0] - alone)
            steps.append(slow.result()[2]["timings"]["denoise_ms"] / 1e3 / 4)
        node.settle()
    waited = [f"{longer:.2f} s ({longer / step:.1f} steps of {step:.2f} s)" for longer, step in zip(held, steps, strict=True)]
    return [f"hold: alone {alone:.2f} s; longer by {', '.join(waited)}"]


def adapter(node: Node) -> list[str]:
    node.draw((192, 192), 3, 1, weight=0.70)
    node.settle()
    known = statistics.median(node.draw((192, 192), 3, 1, weight=0.70)[0] for _ in range(3))
    times = [node.draw((192, 192), 3, 1, weight=weight) for weight in (0.71, 0.72, 0.73)]
    new, text = max(seconds for seconds, *_ in times), max(reply["timings"]["text_ms"] for *_, reply in times) / 1e3
    return [f"adapter: known weight {known:.2f} s; a new one {new:.2f} s (at most of 3), of which text {text:.2f} s"]


def other_class(node: Node, urgency: int) -> list[str]:
    over, drawn = threading.Event(), []

    def client() -> None:
        while not over.is_set():
            drawn.append(node.draw((192, 192), urgency, 4)[1])

    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in clients:
        thread.start()
    time.sleep(2)
    before = len(drawn)
    seconds, status, reply = node.draw((256, 192), urgency, 4, deadline_s=20 if urgency == 1 else 60)
    others = len(drawn) - before
    over.set()
    for thread in clients:
        thread.join()
    waited = reply["timings"]["queue_ms"] / 1e3 if status == 200 else seconds
    return [f"other class at urgency {urgency}: {status} after {seconds:.2f} s, waited {waited:.2f} s, {others} others drawn"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nodes", nargs="+", type=Path)
    parser.add_argument("--models", type=Path, default=Path(__file__).parent.parent / "models/studio-tiny")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    for binary in arguments.nodes:
        print(binary, flush=True)
        # A data folder each: what one case finds out helps no other.
        for case in (hold, adapter, lambda node: other_class(node, 1), lambda node: other_class(node, 2)):
            with started(binary.resolve(), arguments.models.resolve(), arguments.threads) as node:
                for line in case(node):
                    print(f"  {line}", flush=True)


if __name__ == "__main__":
    main()
