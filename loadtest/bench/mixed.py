"""A node under mixed traffic: as many recipes at once as a workload says, no two alike, timed from the first call to the last
reply. What a pipeline library has to draw one after the other the node draws in passes that several share.

The recipes differ in prompt, seed and sampler; half of them are guided, each by a scale of its own. The node does all that it
does for an edge: it takes them over HTTP, orders them by urgency, encodes and stores the masters. Its peer only draws.
"""

from __future__ import annotations

import concurrent.futures
import time
from pathlib import Path

from serving import serving

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
    """Images per second of the last of several lists; those before warm it up."""
    with serving(binary, checkpoint, options) as node:

        def draw(at: int, recipe: dict) -> None:
            rest = {key: value for key, value in recipe.items() if key != "sampler"}
            node.draw({**rest, "scheduler": {"kind": recipe["sampler"]}}, size, urgency=1 + at % 5)

        seconds = 0.0
        for listed in lists:
            with concurrent.futures.ThreadPoolExecutor(len(listed)) as pool:
                started = time.monotonic()
                for done in [pool.submit(draw, at, recipe) for at, recipe in enumerate(listed)]:
                    done.result()
                seconds = time.monotonic() - started
        counted = {name: node.metric(f"bildkante_node_{name}_total") for name in ("passes", "steps")}
    return {"images_per_s": len(lists[-1]) / seconds, "requests_in_a_pass": counted["steps"] / counted["passes"]}
