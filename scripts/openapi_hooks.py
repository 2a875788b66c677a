"""What schemathesis is told beside the description, for `openapi-check.sh`: pictures are sent as bytes, pages are read as text, and what
is sent is HTTP."""

import schemathesis
from hypothesis import strategies

for media_type in ("image/png", "image/jpeg"):
    schemathesis.openapi.media_type(media_type, strategies.binary(max_size=2_000))


@schemathesis.deserializer("text/html")
def page(ctx, response):
    return response.text


@schemathesis.hook
def filter_headers(ctx, headers):
    """Fields with control characters are no HTTP (RFC 9110 §5.5): the connection refuses them, and no route ever sees them."""
    return not headers or all(str(value).isprintable() for value in headers.values())
