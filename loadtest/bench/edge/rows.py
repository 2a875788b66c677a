"""What is measured: one row per kind of answer, each with its peers and its budget."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Client(Enum):
    """Who asks."""

    WRK = "wrk, HTTP/1.1 keep-alive"
    H2LOAD = "h2load, HTTP/2 over TLS"


class Asks(Enum):
    """What is asked for."""

    ONE = "one URL"
    VALIDATED = "one URL with its entity tag: 304"
    ZIPF = "a Zipf mix of URLs with six parameters"
    UNIFORM = "URLs at random"


class Tier(Enum):
    """Which of the edge's tiers has to answer, by the `detail` of its `Cache-Status`."""

    MEMORY = "memory"
    DISK = "disk"


class Peer(Enum):
    NGINX_CACHE = "nginx cache"
    NGINX_STATIC = "nginx static"
    VARNISH = "varnish"


# The peers that do what the edge does. A static server is shown as well, and decides nothing.
RIVALS = (Peer.NGINX_CACHE, Peer.VARNISH)


@dataclass(frozen=True)
class Budget:
    """The least ratio of requests per second to the better rival, and the most of p99 where one is set."""

    rate_ratio_min: float
    p99_ratio_max: float | None = None


HITS = Budget(1.3, p99_ratio_max=1.0)
OTHERS = Budget(1.0)


@dataclass(frozen=True)
class Row:
    name: str
    client: Client
    asks: Asks
    tier: Tier
    peers: tuple[Peer, ...]
    budget: Budget
    # Of the one URL; lists have sizes of their own.
    body_bytes: int | None = None

    def __str__(self) -> str:
        size = f", {self.body_bytes:,} bytes" if self.body_bytes else ""
        return f"{self.name}: {self.client.value}, {self.asks.value}{size}, from {self.tier.value}"


def _rows() -> list[Row]:
    rows = []
    for size, body_bytes in (("1k", 1_000), ("20k", 20_000), ("200k", 200_000)):
        rows.append(Row(f"h1-{size}", Client.WRK, Asks.ONE, Tier.MEMORY, tuple(Peer),
                        HITS if body_bytes <= 20_000 else OTHERS, body_bytes))
    for size, body_bytes in (("1k", 1_000), ("20k", 20_000), ("200k", 200_000)):
        rows.append(Row(f"h2-{size}", Client.H2LOAD, Asks.ONE, Tier.MEMORY, (Peer.NGINX_CACHE, Peer.NGINX_STATIC),
                        OTHERS, body_bytes))
    rows.append(Row("zipf", Client.WRK, Asks.ZIPF, Tier.MEMORY, RIVALS, OTHERS))
    rows.append(Row("304", Client.WRK, Asks.VALIDATED, Tier.MEMORY, tuple(Peer), OTHERS, 20_000))
    rows.append(Row("disk", Client.WRK, Asks.UNIFORM, Tier.DISK, (Peer.NGINX_CACHE,), OTHERS))
    return rows


ROWS = {row.name: row for row in _rows()}
