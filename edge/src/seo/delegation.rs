//! What a page says so that browsers give hints to the images of another origin, which they do not by themselves.
//!
//! Sources: RFC 8942, Permissions Policy, Client Hints Infrastructure (`Delegate-CH`).

use maud::{Markup, html};

use crate::request::hints::ACCEPT_CH;

/// See the module's documentation.
#[derive(Debug, Clone, Copy)]
pub struct Delegation<'a> {
    /// Where the images are: `https://img.example.com`.
    pub origin: &'a str,
}

impl Delegation<'_> {
    /// In the page's `<head>`: asks for the hints and delegates them in one.
    #[must_use]
    pub fn meta(&self) -> Markup {
        let hints: Vec<_> =
            ACCEPT_CH.split(", ").map(|hint| format!("{} {}", hint.to_ascii_lowercase(), self.origin)).collect();
        html! { meta http-equiv="Delegate-CH" content=(hints.join("; ")); }
    }

    /// The same as headers of the page: `Accept-CH` and `Permissions-Policy`.
    #[must_use]
    pub fn headers(&self) -> [(&'static str, String); 2] {
        let feature = |hint: &str| {
            let name = hint.to_ascii_lowercase();
            format!("{}=(self \"{}\")", name.trim_start_matches("sec-"), self.origin)
        };
        let features: Vec<_> = ACCEPT_CH.split(", ").map(feature).collect();
        [("Accept-CH", ACCEPT_CH.to_owned()), ("Permissions-Policy", features.join(", "))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_delegates_every_hint_it_is_asked_for() {
        let delegation = Delegation { origin: "https://img.example.com" };
        assert_eq!(
            delegation.meta().0,
            "<meta http-equiv=\"Delegate-CH\" content=\"sec-ch-width https://img.example.com; \
             sec-ch-dpr https://img.example.com; sec-ch-viewport-width https://img.example.com\">"
        );
        let [(_, accept_ch), (_, policy)] = delegation.headers();
        assert_eq!(accept_ch, "Sec-CH-Width, Sec-CH-DPR, Sec-CH-Viewport-Width");
        assert_eq!(
            policy,
            "ch-width=(self \"https://img.example.com\"), ch-dpr=(self \"https://img.example.com\"), \
             ch-viewport-width=(self \"https://img.example.com\")"
        );
    }
}
