"""Pictures that were not asked for before, per second over HTTP, beside ipx, thumbor and oximg at equal score: `make bench-peers`.

  1. For each server and format the quality is found at which the median SSIMULACRA2 of ten photographs at 640 px, each against the
     server's own lossless file of that size, is 70.
  2. Each server in turn, started anew with empty caches, is asked by four connections for pictures at widths that are all different,
     in the same order: every answer is decoded or cut, scaled and encoded for its request. An order that is turned round every
     other round spreads a noisy minute over all.
  3. The first answer of each picture is scored, too: what was served under load.

The edge answers with a quick file and encodes a final one behind it, when no reader waits. Further rows show it with hurried files,
and with the final file before the answer.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from .load import Loop, closed_loop
from .pictures import CALIBRATION_PX, WARM_PX, Job, originals, work
from .scores import FIRST_QUALITY, TARGET, Calibrated, Scores, calibrate, fetch, lossless
from .servers import EDGES, FORMATS, PEERS, Stand

CONNECTIONS = 4
RATIO_MIN = 1.0


@dataclass
class Cell:
    """All rounds of one server in one format."""

    calibrated: Calibrated
    loops: list[Loop] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    finals: float = 0

    @property
    def rate(self) -> float:
        return statistics.median(loop.rate(CONNECTIONS) for loop in self.loops)

    def percentile(self, percent: int) -> float:
        times = sorted(took for loop in self.loops for took in loop.took_ms)
        return times[min(len(times) - 1, len(times) * percent // 100)]

    @property
    def images(self) -> int:
        return sum(len(loop.ended_s) for loop in self.loops)

    @property
    def cpu_ms(self) -> float:
        """Processor time of an answer, with what was done behind others meanwhile."""
        return sum(loop.cpu_s for loop in self.loops) * 1000 / (self.images + sum(loop.late for loop in self.loops))

    def share(self, rung: str) -> float:
        return sum(loop.rungs[rung] for loop in self.loops) / self.images

    def as_json(self) -> dict:
        return {"calibrated": self.calibrated.as_json(), "rates": [loop.rate(CONNECTIONS) for loop in self.loops],
                "images": self.images, "p50_ms": self.percentile(50), "p99_ms": self.percentile(99), "cpu_ms": self.cpu_ms, "scores": self.scores,
                "others": sum(loop.others for loop in self.loops), "finals_meanwhile": self.finals,
                "rungs": {rung: self.share(rung) for rung in ("hurried", "quick", "final")}}


def main() -> int:
    arguments = parse()
    with tempfile.TemporaryDirectory(prefix="bildkante-peers-") as name:
        folder = Path(name)
        (folder / "originals").mkdir()
        pictures = originals(arguments.corpus, folder / "originals")
        stand = Stand(arguments, folder, pictures)
        stand.prepare_campaign()
        scores = Scores(arguments.curves, folder / "scores")
        cells = {server: qualities(stand, server, scores, arguments.qualities) for server in arguments.servers}
        if (load := os.getloadavg()[0]) > 1.5:
            print(f"note: other work may be running on this machine (load {load:.1f}); the figures will be noisy", flush=True)
        jobs = work(pictures)
        for at in range(arguments.rounds):
            for picture_format in arguments.formats:
                for server in list(cells)[:: -1 if at % 2 else 1]:
                    if picture_format in cells[server]:
                        measure(stand, server, picture_format, cells[server][picture_format], jobs, scores, arguments.seconds)
    if arguments.rounds:
        print(table(cells, arguments))
    if arguments.json:
        figures = {server: {fmt: cell.as_json() for fmt, cell in row.items() if cell.loops} for server, row in cells.items()}
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def parse() -> argparse.Namespace:
    def names(among: tuple[str, ...]):
        def read(text: str) -> list[str]:
            if unknown := set(chosen := text.split(",")) - set(among):
                raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(unknown))} among {', '.join(among)}")
            return chosen
        return read

    parser = argparse.ArgumentParser(prog="peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binaries", type=Path, required=True, help="folder of bildkante-edge and examples/encoder_curves")
    parser.add_argument("--curves", type=Path, help="encoder_curves elsewhere")
    parser.add_argument("--corpus", type=Path, required=True)
    for peer in PEERS:
        parser.add_argument(f"--{peer}", type=Path, required=True, help="where it is installed")
    parser.add_argument("--servers", type=names((*EDGES, *PEERS)), default=[*EDGES, *PEERS], help=f"of {','.join((*EDGES, *PEERS))}")
    parser.add_argument("--formats", type=names(FORMATS), default=list(FORMATS))
    parser.add_argument("--rounds", type=int, default=2, help="0 only finds the qualities")
    parser.add_argument("--seconds", type=float, default=4, help="of one server, format and round; longer where it is slow")
    parser.add_argument("--qualities", type=Path, help="a file of the qualities found: a server that is in it is not calibrated again")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    arguments.curves = arguments.curves or arguments.binaries / "examples" / "encoder_curves"
    return arguments


def qualities(stand: Stand, name: str, scores: Scores, kept: Path | None) -> dict[str, Cell]:
    """Those of a server by format, out of the file where it has them."""
    known = json.loads(kept.read_text()) if kept and kept.exists() else {}
    if name not in known:
        known[name] = {fmt: one.as_json() for fmt, one in find_qualities(stand, name, scores).items()}
        if kept:
            kept.write_text(json.dumps(known, indent=2) + "\n")
    return {picture_format: Cell(Calibrated(**one)) for picture_format, one in known[name].items()}


def find_qualities(stand: Stand, name: str, scores: Scores) -> dict[str, Calibrated]:
    """By format; one that a server cannot make is told and left out."""
    found = {}
    connections = EDGES[name].calibration_connections if name in EDGES else CONNECTIONS
    with stand.serve(name, calibrating=True) as server:
        references = lossless(server, [Job(picture, CALIBRATION_PX) for picture in stand.pictures], connections)
        for picture_format in FORMATS:
            try:
                first = round(TARGET) if name in EDGES else FIRST_QUALITY[picture_format]
                one = calibrate(server, stand.pictures, picture_format, scores, connections, first, references)
            except LookupError as error:
                print(f"{error}; left out", flush=True)
                continue
            rungs = "".join(f", {count} {rung}" for rung, count in one.rungs.items())
            print(f"{name:<13} {picture_format:<5} quality {one.quality:>3}: score {one.score:.1f}, {one.bytes_mean / 1000:.1f} kB{rungs}",
                  flush=True)
            found[picture_format] = one
    return found


def measure(stand: Stand, name: str, picture_format: str, cell: Cell, jobs: list[Job], scores: Scores, seconds: float) -> None:
    with stand.serve(name) as server:
        fetch(server, [Job(picture, WARM_PX) for picture in stand.pictures], picture_format, cell.calibrated.quality, 2)
        finals = f'bildkante_edge_encode_seconds_count{{format="{picture_format}",rung="final"}}'
        before = server.metric(finals) if server.admin_port else 0
        loop = closed_loop(server, picture_format, cell.calibrated.quality, jobs, seconds, CONNECTIONS)
        cell.finals += server.metric(finals) - before if server.admin_port else 0
        sampled = list(loop.samples.values())
        references = lossless(server, [job for job, _ in sampled], EDGES[name].calibration_connections if name in EDGES else CONNECTIONS)
    cell.loops.append(loop)
    cell.scores += scores.of([(file, reference) for (_, file), reference in zip(sampled, references)])
    others = f", {loop.others} answers were something else" if loop.others else ""
    print(f"{name:<13} {picture_format:<5} {loop.rate(CONNECTIONS):7.2f} pictures/s of {len(loop.ended_s)}{others}", flush=True)


def table(cells: dict[str, dict[str, Cell]], arguments: argparse.Namespace) -> str:
    """As it stands in docs/encoders.md."""
    lines = ["", f"{arguments.rounds} rounds of {arguments.seconds:g} s and more, {CONNECTIONS} connections, {os.cpu_count()} cores", "",
             "| format | server | quality | score at 640 px | score as served | pictures/s | beside the best peer | p50 / p99 ms | CPU ms | kB at 640 px |",
             "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"]
    verdicts, remarks = [], []
    for picture_format in arguments.formats:
        row = {server: formats[picture_format] for server, formats in cells.items() if picture_format in formats}
        best = max((row[peer] for peer in PEERS if peer in row), key=lambda cell: cell.rate, default=None)
        for server, cell in row.items():
            title = EDGES[server].title if server in EDGES else server
            ratio = f"{cell.rate / best.rate:.2f}" if best else "–"
            lines.append(f"| {picture_format} | {title} | {cell.calibrated.quality} | {cell.calibrated.score:.1f} | "
                         f"{statistics.median(cell.scores):.1f} | {cell.rate:.1f} | {ratio} | "
                         f"{cell.percentile(50):.0f} / {cell.percentile(99):.0f} | {cell.cpu_ms:.0f} | {cell.calibrated.bytes_mean / 1000:.1f} |")
            if server in EDGES:
                shares = ", ".join(f"{cell.share(rung):.0%} {rung}" for rung in ("hurried", "quick", "final") if cell.share(rung))
                remarks.append(f"{picture_format}, {title}: {shares}; {cell.finals:.0f} finals made meanwhile, {cell.images} answers")
        if best and "edge" in row:
            met = row["edge"].rate >= RATIO_MIN * best.rate
            verdicts.append(f"{'PASS' if met else 'FAIL'} {picture_format}: {row['edge'].rate / best.rate:.2f}× the pictures/s of the best peer "
                            f"(wanted: at least {RATIO_MIN}×)")
    return "\n".join([*lines, "", *remarks, "", *verdicts])


if __name__ == "__main__":
    # So that no server is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
