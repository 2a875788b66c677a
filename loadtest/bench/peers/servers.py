"""The edge and its peers as processes of their own, on the loopback, gone when their block ends; and the URLs that each understands.

All have the same originals as files on the same disk, no cache of results that could answer, and both cores. What a peer is given is
what its manual asks for on a machine of that many cores; everything else keeps its default.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterator

from edge.processes import reserve_ports, run, wait_until

from .pictures import HEIGHT_PX, WIDTH_PX

FORMATS = ("avif", "webp", "jpeg")
MEDIA_TYPES = {"avif": "image/avif", "webp": "image/webp", "jpeg": "image/jpeg", "png": "image/png"}
PEERS = ("ipx", "thumbor", "oximg")
HERE = Path(__file__).resolve().parent
REPLY_S_MAX = 60
READY_S_MAX = 180
# All at once: an edge begins no final file while readers wait.
AT_ONCE = 10
# So long that the pool never counts itself as behind.
PATIENT_MS = 600_000


@dataclass(frozen=True)
class Edge:
    """One way to run the edge: keys of its `[render]`, and the way its qualities are found where that is another one."""

    title: str
    render: dict[str, int] = field(default_factory=dict)
    calibrated: dict[str, int] | None = None
    calibration_connections: int = AT_ONCE


EDGES = {
    "edge": Edge("the edge", calibrated={"queue_delay_target_ms": PATIENT_MS}),
    "edge-hurried": Edge("the edge, always hurried", {"queue_delay_target_ms": 20}, calibration_connections=3),
    "edge-final": Edge("the edge, finals at once", {"queue_delay_target_ms": PATIENT_MS, "final_inline_px_max": WIDTH_PX * HEIGHT_PX}),
}


@dataclass
class Server:
    name: str
    port: int
    pid: int
    # Path of a picture at a width, in a format, at a quality; lossless PNG has none.
    path: Callable[[str, int, str, int | None], str]
    admin_port: int | None = None

    def metric(self, name: str) -> float:
        """Sum over its labels that `name` leaves open."""
        with_labels = (f"{name} ", f"{name}{{") if "{" not in name else (name,)
        lines = get(self.admin_port, "/metrics").body.decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(with_labels))


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def is_stand_in(self) -> bool:
        """What an edge sends, with status 200, where it does not render."""
        return self.status == 200 and not self.headers.get("cache-status", "detail=rendered").endswith("detail=rendered")

    def is_picture(self, picture_format: str) -> bool:
        """Whether it is what was asked for."""
        kind = self.headers.get("content-type", "").partition(";")[0]
        return self.status == 200 and kind == MEDIA_TYPES[picture_format] and not self.is_stand_in

    @property
    def rung(self) -> str | None:
        """What the edge says of its file."""
        for part in self.headers.get("server-timing", "").split(","):
            name, _, rest = part.strip().partition(";")
            if name == "rung":
                return rest.partition("desc=")[2].strip('"')
        return None


def ask(connection: http.client.HTTPConnection, path: str) -> Answer:
    connection.request("GET", path)
    response = connection.getresponse()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


def get(port: int, path: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REPLY_S_MAX)
    try:
        return ask(connection, path)
    finally:
        connection.close()


class Stand:
    """Where everything lies that servers are started with."""

    def __init__(self, arguments, folder: Path, pictures: list[str]):
        self.binaries, self.peers = arguments.binaries, {name: getattr(arguments, name) for name in PEERS}
        self.folder, self.pictures, self.started = folder, pictures, 0
        self.originals = folder / "originals"
        self.secret = os.urandom(32)

    def prepare_campaign(self) -> None:
        """The edge's campaign: each picture is the imported one of a variant."""
        (self.folder / "prompts").mkdir()
        campaigns = self.folder / "campaigns"
        campaigns.mkdir()
        values = "\n".join(f'values.{name} = {{ label = {{ en = "{name}" }} }}' for name in self.pictures)
        (campaigns / "misses.toml").write_text(f"""
schema   = 1
campaign = "misses"
policy   = {{ locales = ["en-GB"] }}
[generate]
source = "import"
size   = [{WIDTH_PX}, {HEIGHT_PX}]
[axes.picture]
default = "none"
values.none = {{ label = {{ en = "none" }} }}
{values}
[slots.photo]
ratio   = "16:9"
widths  = [320, 640, 1280]
on_miss = {{ policy = "wait", wait_ms = 30000, then = "placeholder" }}
alt     = {{ en = "A photograph" }}
""")
        keys = self.folder / "keys.toml"
        keys.touch(0o600)
        keys.write_text(f'[[keys]]\nkid = "bench"\nsecret = "{base64.b64encode(self.secret).decode()}"\n')
        config = self.write_config(self.folder / "import", {}, [1, 2])
        for name in self.pictures:
            command = [self.binaries / "bildkante-edge", "import", "--config", config, "--variant", f"misses/photo?picture={name}",
                       "--source", "digitalCapture", self.originals / f"{name}.jpg"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            if done.returncode != 0:
                sys.exit(f"the edge does not import {name}:\n{done.stdout}{done.stderr}")

    def write_config(self, folder: Path, render: dict[str, int], ports: list[int]) -> Path:
        folder.mkdir()
        lines = "\n".join(f"{key} = {value}" for key, value in render.items())
        config = folder / "edge.toml"
        config.write_text(f"""
[listen]
http = "127.0.0.1:{ports[0]}"
admin = "127.0.0.1:{ports[1]}"
[limits]
requests_max = 4294967295
[serve]
public_url = "http://127.0.0.1:{ports[0]}"
render_wait_ms = 30000
[campaigns]
campaigns_dir = "{self.folder / 'campaigns'}"
prompts_dir = "{self.folder / 'prompts'}"
[signing]
keys_file = "{self.folder / 'keys.toml'}"
[cache]
disk_dir = "{folder / 'cache'}"
[render]
{lines}
[budget]
# One client stands for many networks.
campaign_per_minute = 0
network_per_minute = 0
campaign_render_ms_per_minute = 0
network_render_ms_per_minute = 0
network_renders_max = 0
[log]
filter = "error"
""")
        return config

    @contextmanager
    def serve(self, name: str, calibrating: bool = False) -> Iterator[Server]:
        """A fresh process, which has answered nothing yet, and whose cache is empty."""
        self.started += 1
        folder = self.folder / f"{self.started}-{name}"
        with (self._edge(EDGES[name], name, folder, calibrating) if name in EDGES else getattr(self, f"_{name}")(folder)) as server:
            yield server

    @contextmanager
    def _edge(self, edge: Edge, name: str, folder: Path, calibrating: bool) -> Iterator[Server]:
        ports = reserve_ports(2)
        render = edge.render
        if calibrating:
            # Nothing is timed then: at the priority of everybody else.
            render = {**(render if edge.calibrated is None else edge.calibrated), "nice": 0}
        config, log = self.write_config(folder, render, ports), folder / "log"
        with run([self.binaries / "bildkante-edge", "serve", "--config", config], log) as process:
            wait_until(lambda: get(ports[1], "/livez").status == 200, process, log, READY_S_MAX)
            yield Server(name, ports[0], process.pid, self._edge_path, ports[1])

    def _edge_path(self, picture: str, width_px: int, picture_format: str, quality: int | None) -> str:
        """A signed URL: any width and any quality, as the peers take them. In the canonical order, which is what is signed."""
        written = "jpg" if picture_format == "jpeg" else picture_format
        path = f"/i/misses/photo?picture={picture}&w={width_px}&fm={written}"
        path += f"&q={quality}&kid=bench" if quality is not None else "&kid=bench"
        seal = base64.urlsafe_b64encode(hmac.digest(self.secret, path.encode(), hashlib.sha256)).decode().rstrip("=")
        return f"{path}&s={seal}"

    @contextmanager
    def _ipx(self, folder: Path) -> Iterator[Server]:
        def path(picture: str, width_px: int, picture_format: str, quality: int | None) -> str:
            wanted = f"f_{picture_format},w_{width_px}" + (f",q_{quality}" if quality is not None else "")
            return f"/{wanted}/{picture}.jpg"

        (port,) = reserve_ports(1)
        command = ["env", f"IPX_FOLDER={self.peers['ipx']}", "NODE_ENV=production", "node", HERE / "ipx" / "serve.mjs",
                   self.originals, port]
        with self._peer("ipx", folder, command, port, path) as server:
            yield server

    @contextmanager
    def _oximg(self, folder: Path) -> Iterator[Server]:
        def path(picture: str, width_px: int, picture_format: str, quality: int | None) -> str:
            wanted = f"width={width_px},format={picture_format}" + (f",quality={quality}" if quality is not None else "")
            return f"/image/{wanted}/{picture}.jpg"

        (port,) = reserve_ports(1)
        command = ["env", f"PORT={port}", "OXIMG_BIND=127.0.0.1", f"IMAGES_DIR={self.originals}", "OXIMG_OPTIONS_PREFIX=/image",
                   self.peers["oximg"] / "bin" / "oximg"]
        with self._peer("oximg", folder, command, port, path) as server:
            yield server

    @contextmanager
    def _thumbor(self, folder: Path) -> Iterator[Server]:
        def path(picture: str, width_px: int, picture_format: str, quality: int | None) -> str:
            filters = f"format({picture_format})" + (f":quality({quality})" if quality is not None else "")
            return f"/unsafe/{width_px}x0/filters:{filters}/{picture}.jpg"

        folder.mkdir()
        config = folder / "thumbor.conf"
        config.write_text(f"""
LOADER = "thumbor.loaders.file_loader"
FILE_LOADER_ROOT_PATH = "{self.originals}"
STORAGE = "thumbor.storages.no_storage"
ALLOW_UNSAFE_URL = True
""")
        (port,) = reserve_ports(1)
        command = [self.peers["thumbor"] / "bin" / "thumbor", "--ip", "127.0.0.1", "--port", port, "--conf", config,
                   "--log-level", "error", "--processes", os.cpu_count()]
        with self._peer("thumbor", folder, command, port, path) as server:
            yield server

    @contextmanager
    def _peer(self, name: str, folder: Path, command: list, port: int, path) -> Iterator[Server]:
        folder.mkdir(exist_ok=True)
        log = folder / "log"
        with run([str(word) for word in command], log) as process:
            try:
                wait_until(lambda: get(port, "/").status > 0, process, log, READY_S_MAX)  # any answer says that it listens
                yield Server(name, port, process.pid, path)
            finally:
                # thumbor leaves its children behind when it ends by itself.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
