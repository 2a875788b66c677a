//! A request's query, held against its row: each parameter is known, stands there once, says something and is bounded.

use super::super::body::{Fault, wrong};
use super::{BETWEEN_EDGES, Form, Route, TEXT_CHARS_MAX};

/// A parameter that a route does not know is an error, not a default. Edges of several versions ask each other, and may know others.
pub(in super::super) fn check_query(route: &Route, query: Option<&str>) -> Result<(), Fault> {
    let mut seen = Vec::new();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let is_long = percent_encoding::percent_decode_str(value).decode_utf8_lossy().chars().count() > TEXT_CHARS_MAX;
        if is_long {
            let shown: String = name.chars().take(60).collect();
            return Err(wrong(&shown, format!("a value has at most {TEXT_CHARS_MAX} characters"), &[]));
        }
        if route.needs == BETWEEN_EDGES {
            continue;
        }
        let shown: String = name.chars().take(60).collect();
        let known: Vec<&str> = route.query.iter().map(|known| known.name).collect();
        let Some(parameter) = route.query.iter().find(|known| known.name == name) else {
            return Err(wrong(&shown, format!("there is no parameter `{shown}`"), &known));
        };
        if parameter.form == Form::Text && value.is_empty() {
            return Err(wrong(&shown, format!("`{shown}` is empty: leave it out, or say something"), &[]));
        }
        if seen.contains(&name) {
            return Err(wrong(&shown, format!("`{shown}` stands there twice"), &[]));
        }
        seen.push(name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::super::{Found, PREFIX, find};
    use super::*;

    fn refused(path: &str, query: &str) -> Option<String> {
        let Found::Route(route, _) = find(&Method::GET, &format!("{PREFIX}{path}")) else {
            panic!("there is `{path}`")
        };
        check_query(route, Some(query)).err().map(|fault| fault.detail.clone())
    }

    #[test]
    fn a_query_is_held_against_its_row() {
        let long = "x".repeat(TEXT_CHARS_MAX + 1);
        assert_eq!(refused("decisions", "variant=a%2Fb&limit=5"), None);
        for (path, query, reason) in [
            ("decisions", "variant=".to_owned(), "`variant` is empty"),
            ("decisions", "colour=red".to_owned(), "no parameter `colour`"),
            ("decisions", "limit=5&limit=6".to_owned(), "stands there twice"),
            ("decisions", format!("variant={long}"), "at most 2048 characters"),
            ("state/changes", format!("log={long}"), "at most 2048 characters"),
        ] {
            let detail = refused(path, &query).unwrap_or_default();
            assert!(detail.contains(reason), "{path}?{query}: {detail}");
        }
        assert_eq!(refused("state/changes", "log=a&after=1&of_a_newer_edge=1"), None, "edges of several versions");
    }
}
