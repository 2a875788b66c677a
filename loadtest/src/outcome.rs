//! What a cache said it did with a request, and how long it took: `Cache-Status` (RFC 9211), reduced to a short name, and
//! `Server-Timing` (W3C).

use std::time::Duration;

/// Names the outcome that the cache nearest to this client reported: `hit`, `miss`, `miss collapsed`, `hit (memory)`, …
/// `none` where there is no readable `Cache-Status`.
///
/// The header is a list of caches, the one nearest to the origin first (RFC 9211 §2), so the last member counts.
#[must_use]
pub fn name(cache_status: Option<&str>) -> String {
    let Some(member) = cache_status.and_then(|header| split_outside_quotes(header, ',').last().map(str::trim)) else {
        return "none".to_owned();
    };
    let parameters: Vec<(&str, Option<&str>)> = split_outside_quotes(member, ';').skip(1).map(parameter).collect();
    let value = |name: &str| parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| value.unwrap_or("?1"));
    let base = match (value("hit"), value("fwd")) {
        (Some(hit), _) if hit != "?0" => "hit",
        (_, Some(reason)) => reason,
        _ => return "none".to_owned(),
    };
    let mut outcome = base.to_owned();
    if value("collapsed").is_some_and(|collapsed| collapsed != "?0") {
        outcome.push_str(" collapsed");
    }
    if let Some(detail) = value("detail") {
        outcome.push_str(&format!(" ({detail})"));
    }
    outcome
}

/// The edge's own time: `dur` of the metric `edge`, in milliseconds.
#[must_use]
pub fn edge_time(server_timing: &str) -> Option<Duration> {
    let metric = split_outside_quotes(server_timing, ',')
        .map(str::trim)
        .find(|metric| metric.split(';').next() == Some("edge"))?;
    let (_, millis) = split_outside_quotes(metric, ';').skip(1).map(parameter).find(|(name, _)| *name == "dur")?;
    Duration::try_from_secs_f64(millis?.parse::<f64>().ok()? / 1000.0).ok()
}

fn parameter(text: &str) -> (&str, Option<&str>) {
    match text.trim().split_once('=') {
        Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
        None => (text.trim(), None),
    }
}

/// Splits at `separator`, but not inside a quoted string (RFC 8941 §3.3.3, where `\` escapes).
fn split_outside_quotes(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut in_quotes = false;
    let mut escaped = false;
    text.split(move |character| {
        if escaped {
            escaped = false;
            return false;
        }
        match character {
            '\\' if in_quotes => escaped = true,
            '"' => in_quotes = !in_quotes,
            other => return other == separator && !in_quotes,
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{edge_time, name};

    #[test]
    fn the_edge_says_how_long_it_took() {
        assert_eq!(
            edge_time("edge;dur=0.25, cache;desc=memory, at;desc=\"x;dur=9\""),
            Some(Duration::from_micros(250))
        );
        assert_eq!(edge_time("cdn-cache;desc=HIT, edge;desc=\"a, b\";dur=3"), Some(Duration::from_millis(3)));
        for silent in ["", "edge", "edge;dur", "edge;dur=-1", "edge;dur=soon", "ledge;dur=1"] {
            assert_eq!(edge_time(silent), None, "{silent}");
        }
    }

    #[test]
    fn the_nearest_cache_speaks() {
        assert_eq!(name(Some("Origin; hit; ttl=30, Edge; fwd=miss; stored")), "miss");
        assert_eq!(name(Some("bildkante; hit; ttl=57; detail=memory")), "hit (memory)");
        assert_eq!(name(Some("bildkante; fwd=uri-miss; collapsed; stored")), "uri-miss collapsed");
        assert_eq!(name(Some("bildkante;fwd=stale;collapsed=?0")), "stale");
    }

    #[test]
    fn separators_inside_quotes_do_not_separate() {
        assert_eq!(
            name(Some(r#""a, b; hit"; fwd=bypass; detail="node down, queue; full""#)),
            "bypass (node down, queue; full)"
        );
        assert_eq!(name(Some(r#""a \", hit"; hit"#)), "hit");
    }

    #[test]
    fn silence_is_none() {
        assert_eq!(name(None), "none");
        assert_eq!(name(Some("")), "none");
        assert_eq!(name(Some("edge; ttl=3")), "none");
        assert_eq!(name(Some("edge; hit=?0")), "none");
    }
}
