"""Ratios of medians, verdicts, the table and the JSON.

One statistic throughout: a figure is the median of its rounds, and a ratio that of two such medians, so that a reader who divides
the figures of a table gets the ratio beside them. Servers take turns, which spreads a noisy minute over all of them."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from clients import Result
from rows import RIVALS, Row

EDGE = "edge"


@dataclass
class Measured:
    """All rounds of one row: by server, one result a round."""

    row: Row
    threads: int
    rounds: dict[str, list[Result]]

    def median(self, server: str, key: str) -> float | None:
        values = [value for result in self.rounds[server] if (value := getattr(result, key)) is not None]
        return statistics.median(values) if values else None

    def ratio(self, key: str, other: str) -> float | None:
        """The edge's median by the other's."""
        ours, theirs = self.median(EDGE, key), self.median(other, key)
        return None if ours is None or theirs is None else ours / max(theirs, 1e-9)

    @property
    def rivals(self) -> list[str]:
        return [peer.value for peer in RIVALS if peer.value in self.rounds]

    @property
    def better(self) -> str:
        """The rival that answers more a second."""
        return max(self.rivals, key=lambda name: self.median(name, "rate"))

    @property
    def rate_ratio(self) -> float:
        return self.ratio("rate", self.better)

    @property
    def p99_ratio(self) -> float | None:
        """Beside the rival that answers more a second: a rival that answers less has shorter queues."""
        return self.ratio("p99_ms", self.better)

    @property
    def is_met(self) -> bool:
        budget = self.row.budget
        p99_met = budget.p99_ratio_max is None or (self.p99_ratio is not None and self.p99_ratio <= budget.p99_ratio_max)
        return self.rate_ratio >= budget.rate_ratio_min and p99_met

    def verdict(self) -> str:
        budget = self.row.budget
        text = f"{'PASS' if self.is_met else 'FAIL'} {self.row.name}: {self.rate_ratio:.2f}× the requests/s of {self.better}"
        text += f" (wanted: at least {budget.rate_ratio_min}×)"
        if self.p99_ratio is not None:
            wanted = f" (wanted: at most {budget.p99_ratio_max}×)" if budget.p99_ratio_max is not None else ""
            text += f", p99 {self.p99_ratio:.2f}×{wanted}"
        return text

    def table(self) -> str:
        lines = [f"\n{self.row}; {self.threads} client thread(s), medians of {len(self.rounds[EDGE])} rounds and their ratios",
                 f"  {'':<14}{'requests/s':>11}{'p50 ms':>9}{'p75 ms':>9}{'p99 ms':>9}{'edge is':>9}{'its p99':>9}"
                 f"{'server µs':>11}{'client µs':>11}"]
        for name in self.rounds:
            def shown(key: str, width: int, digits: int) -> str:
                value = self.median(name, key)
                return f"{value:>{width}.{digits}f}" if value is not None else f"{'–':>{width}}"
            p99 = self.ratio("p99_ms", name)
            lines.append(f"  {name:<14}{shown('rate', 11, 0)}{shown('p50_ms', 9, 2)}{shown('p75_ms', 9, 2)}{shown('p99_ms', 9, 2)}"
                         f"{self.ratio('rate', name):>8.2f}×" + (f"{p99:>8.2f}×" if p99 is not None else f"{'–':>9}")
                         + f"{shown('server_us', 11, 1)}{shown('client_us', 11, 1)}")
        return "\n".join(lines)

    def as_json(self) -> dict:
        servers = {
            name: {"requests_per_s": self.median(name, "rate"), "p50_ms": self.median(name, "p50_ms"),
                   "p75_ms": self.median(name, "p75_ms"), "p99_ms": self.median(name, "p99_ms"),
                   "server_us_per_request": self.median(name, "server_us"),
                   "client_us_per_request": self.median(name, "client_us"),
                   "edge_rate_ratio": self.ratio("rate", name), "edge_p99_ratio": self.ratio("p99_ms", name),
                   "rounds": [result.as_json() for result in results]}
            for name, results in self.rounds.items()
        }
        budget = {"rate_ratio_min": self.row.budget.rate_ratio_min, "p99_ratio_max": self.row.budget.p99_ratio_max}
        return {"row": self.row.name, "ratios_are": "of medians", "what": str(self.row), "client_threads": self.threads, "budget": budget,
                "better_rival": self.better, "rate_ratio": self.rate_ratio, "p99_ratio": self.p99_ratio,
                "met": self.is_met, "servers": servers}


def summary(measured: list[Measured]) -> str:
    note = ("server µs and client µs: processor time a request. Two cores have 2,000,000 µs a second for both together: where\n"
            "the client takes the larger part, a faster server shows less than it gained.")
    return "\n".join(["", note, "", *(one.verdict() for one in measured)])


def write(path: Path, measured: list[Measured], facts: dict) -> None:
    path.write_text(json.dumps(facts | {"rows": [one.as_json() for one in measured]}, indent=2) + "\n")
