//! What of a URL is read: path and query, as they stand in a request line.

use http::Uri;

/// Path and query of a URL. Scheme, host and fragment are no part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target<'u> {
    pub path: &'u str,
    pub query: Option<&'u str>,
}

/// Of a request that was received.
impl<'u> From<&'u Uri> for Target<'u> {
    fn from(uri: &'u Uri) -> Self {
        Self { path: uri.path(), query: uri.query() }
    }
}

/// Of a URL as people paste it: with scheme and host or without, with a fragment or without.
impl<'u> From<&'u str> for Target<'u> {
    fn from(url: &'u str) -> Self {
        let target = after_host(url).split('#').next().unwrap_or_default();
        match target.split_once('?') {
            Some((path, query)) => Self { path, query: Some(query) },
            None => Self { path: target, query: None },
        }
    }
}

/// A URL without its scheme and host; all of it where it has none.
#[must_use]
pub(crate) fn after_host(url: &str) -> &str {
    let rest = url.split_once("://").map(|(_, rest)| rest.find('/').map_or("", |at| &rest[at..]));
    rest.unwrap_or(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_s_host_and_fragment_are_no_part_of_its_target() {
        let target = |path, query| Target { path, query };
        for (url, expected) in [
            ("/i/studio/hero?w=640", target("/i/studio/hero", Some("w=640"))),
            ("https://img.example.com/i/studio/hero?w=640#top", target("/i/studio/hero", Some("w=640"))),
            ("https://img.example.com/i/studio/hero#a?b", target("/i/studio/hero", None)),
            ("https://img.example.com", target("", None)),
            ("/i/studio/hero?", target("/i/studio/hero", Some(""))),
            ("", target("", None)),
        ] {
            assert_eq!(Target::from(url), expected, "{url}");
        }
        let uri: Uri = "https://img.example.com/i/studio/hero?w=640".parse().expect("a URL");
        assert_eq!(Target::from(&uri), target("/i/studio/hero", Some("w=640")));
    }
}
