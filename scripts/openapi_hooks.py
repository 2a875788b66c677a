"""Bodies that are no JSON, for `openapi-check.sh`: pictures are sent as bytes, pages are read as text."""

import schemathesis
from hypothesis import strategies

for media_type in ("image/png", "image/jpeg"):
    schemathesis.openapi.media_type(media_type, strategies.binary(max_size=2_000))


@schemathesis.deserializer("text/html")
def page(ctx, response):
    return response.text
