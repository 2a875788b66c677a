# Varnish in front of an edge. Varnish keeps one copy per Accept (Vary), so Accept is reduced to three spellings first;
# for shared caches the edge states its own lifetime in CDN-Cache-Control (RFC 9213), which Varnish must be told to read.
#
# It takes the purges that the edge sends by default; this is all that `edge.toml` needs:
#
#   [[purge.downstream]]
#   kind = "varnish"
#   name = "varnish-1"
#   url = "http://127.0.0.1:6081/"
#
# Varnish appends the client to X-Forwarded-For by itself. Name Varnish in the edge's `listen.trusted_proxies` (here
# "127.0.0.1"): else all its readers are one client network, with one budget and one share of connections.
#
# vmod-xkey finds images by tag; Debian has it in the package varnish-modules.
vcl 4.1;

import std;
import xkey;

backend edge {
  .host = "127.0.0.1";
  .port = "8080";
  .first_byte_timeout = 30s;
}

# Edges that may purge: list your own.
acl purgers { "127.0.0.1"; "::1"; }

sub vcl_recv {
  if (req.method == "PURGE") {
    if (client.ip !~ purgers) { return (synth(403)); }
    # `xkey-purge` and `xkey-softpurge` hold tags with spaces between them. A call without either does not come from an edge,
    # and its answer must not read like that of a purge.
    if (req.http.xkey-purge) {
      set req.http.n = xkey.purge(req.http.xkey-purge);
    } elsif (req.http.xkey-softpurge) {
      set req.http.n = xkey.softpurge(req.http.xkey-softpurge);
    } else {
      return (synth(400, "No tags"));
    }
    return (synth(200, "Purged " + req.http.n));
  }
  # This VCL purges by tag only: a ban is refused.
  if (req.method == "BAN") { return (synth(405)); }
  if (req.url ~ "^/i/") {
    if (req.http.Accept ~ "image/avif") { set req.http.Accept = "image/avif,image/webp,image/jpeg,image/png"; }
    elsif (req.http.Accept ~ "image/webp") { set req.http.Accept = "image/webp,image/jpeg,image/png"; }
    else { set req.http.Accept = "image/jpeg,image/png"; }
  }
}

sub vcl_backend_response {
  # Where vmod-xkey looks for tags.
  set beresp.http.xkey = beresp.http.Surrogate-Key;
  if (beresp.http.CDN-Cache-Control ~ "max-age=[0-9]+") {
    set beresp.ttl = std.duration(regsub(beresp.http.CDN-Cache-Control, ".*max-age=([0-9]+).*", "\1") + "s", beresp.ttl);
    if (beresp.http.CDN-Cache-Control ~ "stale-while-revalidate=[0-9]+") {
      set beresp.grace = std.duration(
        regsub(beresp.http.CDN-Cache-Control, ".*stale-while-revalidate=([0-9]+).*", "\1") + "s", 0s);
    }
  }
}

sub vcl_deliver {
  unset resp.http.xkey;
}
