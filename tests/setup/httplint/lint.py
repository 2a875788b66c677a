"""Lints recorded HTTP/1.1 exchanges with httplint.

    lint.py FOLDER

For each `NAME.request` in FOLDER there is a `NAME.response`, both as they were on the wire. Every note worse than
information is printed as one JSON object a line; the exit status says only whether the linting itself worked.
"""

import json
import sys
from pathlib import Path

from httplint import HttpRequestLinter, HttpResponseLinter, levels


def split(message: bytes):
    """Start line, fields as (name, value) and body of a message."""
    head, _, body = message.partition(b"\r\n\r\n")
    start, *lines = head.split(b"\r\n")
    fields = []
    for line in lines:
        name, _, value = line.partition(b":")
        fields.append((name, value.strip()))
    return start, fields, body


def lint(request_path: Path):
    """The linter of a response, with its request beside it."""
    # When it was recorded: `Date` is judged by it.
    now = request_path.with_suffix(".response").stat().st_mtime
    start, fields, body = split(request_path.read_bytes())
    method, target, version = start.split(b" ")
    request = HttpRequestLinter(start_time=now)
    request.process_request_topline(method, b"http://localhost" + target, version.rpartition(b"/")[2])
    request.process_headers(fields)
    if body:
        request.feed_content(body)
    request.finish_content(True)

    start, fields, body = split(request_path.with_suffix(".response").read_bytes())
    version, status, phrase = start.split(b" ", 2)
    response = HttpResponseLinter(start_time=now, _related=request)
    response.is_head_response = method == b"HEAD"
    response.process_response_topline(version.rpartition(b"/")[2], status, phrase)
    response.process_headers(fields)
    if body:
        response.feed_content(body)
    response.finish_content(True)
    return response


def flat(notes):
    """Notes and the notes below them."""
    for note in notes:
        yield note
        yield from flat(note.subnotes)


def main():
    """See the module."""
    requests = sorted(Path(sys.argv[1]).glob("*.request"))
    for path in requests:
        response = lint(path)
        print(json.dumps({"name": path.stem, "status": response.status_code, "notes": len(response.notes)}))
        for note in flat(response.notes):
            if note.level in (levels.BAD, levels.WARN):
                named = {"name": path.stem, "level": note.level.value, "note": type(note).__name__}
                print(json.dumps(named | {"subject": note.subject, "summary": str(note.summary)}))


main()
