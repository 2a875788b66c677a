-- One line of JSON from a wrk run, for hits.py. Latencies are wrk's own: a closed loop, from sending to the last byte.
function done(summary, latency, _)
  local failed = summary.errors
  io.write(string.format(
    '{"requests": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, "bytes": %d, "not_2xx": %d, "failed": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), summary.bytes, failed.status,
    failed.connect + failed.read + failed.write + failed.timeout))
end
