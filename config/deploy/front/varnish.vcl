# Varnish in front of an edge. Varnish keeps one copy per Accept (Vary), so Accept is reduced to three spellings first;
# for shared caches the edge states its own lifetime in CDN-Cache-Control (RFC 9213), which Varnish must be told to read.
vcl 4.1;

import std;

backend edge {
  .host = "127.0.0.1";
  .port = "8080";
  .first_byte_timeout = 30s;
}

# Who may purge by tag: list your own.
acl purgers { "127.0.0.1"; "::1"; }

sub vcl_recv {
  if (req.method == "BAN") {
    if (client.ip !~ purgers) { return (synth(403)); }
    # BAN with a `Surrogate-Key: studio` header removes everything that carries that key.
    ban("obj.http.Surrogate-Key ~ (^|\s)" + req.http.Surrogate-Key + "(\s|$)");
    return (synth(200, "Banned"));
  }
  if (req.url ~ "^/i/") {
    if (req.http.Accept ~ "image/avif") { set req.http.Accept = "image/avif,image/webp,image/jpeg,image/png"; }
    elsif (req.http.Accept ~ "image/webp") { set req.http.Accept = "image/webp,image/jpeg,image/png"; }
    else { set req.http.Accept = "image/jpeg,image/png"; }
  }
}

sub vcl_backend_response {
  if (beresp.http.CDN-Cache-Control ~ "max-age=[0-9]+") {
    set beresp.ttl = std.duration(regsub(beresp.http.CDN-Cache-Control, ".*max-age=([0-9]+).*", "\1") + "s", beresp.ttl);
    if (beresp.http.CDN-Cache-Control ~ "stale-while-revalidate=[0-9]+") {
      set beresp.grace = std.duration(
        regsub(beresp.http.CDN-Cache-Control, ".*stale-while-revalidate=([0-9]+).*", "\1") + "s", 0s);
    }
  }
}
