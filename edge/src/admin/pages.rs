//! The plain pages beside the preview: the login, what became of a form, and what went wrong.
//!
//! Invariants: they load their style and nothing else, stand in no frame, and are kept by no cache; they speak the language that the
//! reader chose in the preview, else the browser's.

use bildkante_shared::problem::Problem;
use http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY, VARY};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use maud::{DOCTYPE, Markup, html};

use crate::language::Language;
use crate::preview::{Tastes, trouble};
use crate::response::{self, TextKind};
use crate::service::Body;

/// The first page.
pub(super) const HOME: &str = "/preview/";
/// A page loads its style and nothing else, sends its form here alone, and stands in no frame.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// In which language this reader is answered.
pub(super) fn language(headers: &HeaderMap) -> Language {
    Tastes::of(None, headers).language
}

pub(super) fn page(request: &HeaderMap, status: StatusCode, markup: Markup) -> Response<Body> {
    let mut response = response::text(request, TextKind::Html, markup.0, "no-store");
    if response.status() == StatusCode::OK {
        *response.status_mut() = status;
    }
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.append(VARY, HeaderValue::from_static("accept-language, cookie"));
    response
}

pub(super) fn layout(language: Language, title: &str, main: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang=(language.code()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                title { (title) " · Bildkante" }
                link rel="icon" href="/preview/icon.svg" type="image/svg+xml";
                link rel="stylesheet" href="/preview/style.css";
            }
            body {
                header.bar { a.brand href=(HOME) { "Bildkante" } }
                main { (main) }
            }
        }
    }
}

/// A problem: a page for browsers that open an address or send a form, else JSON (RFC 9457).
pub(super) fn troubled<B>(head: &Request<B>, problem: &Problem, back: &str) -> Response<Body> {
    if !trouble::wants_page(head.headers()) {
        return super::problem(head.method(), problem);
    }
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let language = language(head.headers());
    let markup = layout(language, trouble::title(problem, language), &trouble::told(problem, back, language));
    page(head.headers(), status, markup)
}

#[cfg(test)]
mod tests {
    use http::header::{ACCEPT, CONTENT_TYPE, COOKIE};

    use super::*;

    #[test]
    fn browsers_read_a_page_in_their_language_and_programs_read_json() {
        let problem = Problem::new(404, "not-found", "Not found", "there is no such form");
        let mut head = Request::new(());
        let of = |head: &Request<()>| {
            let response = troubled(head, &problem, HOME);
            assert_eq!(response.status(), StatusCode::NOT_FOUND);
            assert_eq!(response.headers()["cache-control"], "no-store");
            response.headers()[CONTENT_TYPE].to_str().unwrap().to_owned()
        };
        assert_eq!(of(&head), "application/problem+json");
        head.headers_mut().insert(ACCEPT, HeaderValue::from_static("text/html,*/*;q=0.8"));
        assert_eq!(of(&head), "text/html; charset=utf-8");
        assert_eq!(language(head.headers()), Language::English);
        head.headers_mut().insert(COOKIE, HeaderValue::from_static("bildkante-language=de"));
        assert_eq!(language(head.headers()), Language::German);
    }
}
