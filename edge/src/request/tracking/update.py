#!/usr/bin/env python3
"""Writes public.txt: the tracking parameters that two maintained public lists name.

    npm pack tidy-url && tar xzf tidy-url-*.tgz       # the rules that tidy-url applies to every site; MIT
    git clone https://github.com/mpchadwick/tracking-query-params-registry     # a registry for caches; ISC
    python3 update.py --tidy-url package --registry tracking-query-params-registry

`--registry-commit` names the commit where the folder is no clone. Only names are taken. Systems that name a whole family
of parameters are kept in ours.txt, where a name may end in `*`.
"""

import argparse
import csv
import datetime
import json
import pathlib
import re
import subprocess

HERE = pathlib.Path(__file__).parent


def of_tidy_url(package: pathlib.Path) -> tuple[str, set[str]]:
    version = json.loads((package / "package.json").read_text())["version"]
    rules = re.sub(r"//.*", "", (package / "data" / "rules.js").read_text())
    block = re.search(r"name:\s*'Global'.*?rules:\s*\[(.*?)\]", rules, re.DOTALL)
    if block is None:
        raise SystemExit("tidy-url has no rules called 'Global'")
    return f"tidy-url {version}", set(re.findall(r"'([^']+)'", block.group(1)))


def of_registry(folder: pathlib.Path, commit: str | None) -> tuple[str, set[str]]:
    if commit is None:
        command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
        commit = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    with (folder / "_data" / "params.csv").open(newline="") as file:
        names = {row["name"].strip() for row in csv.DictReader(file)}
    return f"tracking-query-params-registry {commit[:12]}", names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tidy-url", type=pathlib.Path, required=True)
    parser.add_argument("--registry", type=pathlib.Path, required=True)
    parser.add_argument("--registry-commit")
    arguments = parser.parse_args()
    sources = [of_tidy_url(arguments.tidy_url), of_registry(arguments.registry, arguments.registry_commit)]
    names = sorted({name.lower() for _, found in sources for name in found})
    odd = [name for name in names if not re.fullmatch(r"[a-z0-9_.-]+", name)]
    if odd:
        raise SystemExit(f"no parameter is called {odd}")
    heading = f"# {' and '.join(source for source, _ in sources)}, read on {datetime.date.today()} by update.py.\n"
    (HERE / "public.txt").write_text(heading + "".join(f"{name}\n" for name in names))
    print(f"{len(names)} names")


if __name__ == "__main__":
    main()
