//! `/admin/login` and `/admin/logout`: a key is entered, and a session begins; or ends.
//!
//! Invariants: a key is taken over a private way alone; every form is proven to be ours twice, by where the browser says it comes
//! from and by a token in it; attempts are counted by the client's network before the key is looked at; where a login leads to is a
//! path of this listener.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bildkante_shared::problem::Problem;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, RETRY_AFTER, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::body::{Fault, fault};
use super::gatekeeper::{Asked, Denial, Gatekeeper, Part, Source};
use super::pages::{self, HOME, layout, page};
use super::principal::{Principal, Way};
use super::routes::ANY_ROLE;
use super::sessions::{is_same, random};
use super::{AdminApi, token};
use crate::access::ShownClient;
use crate::governance::audit;
use crate::language::Language;
use crate::preview::trouble;
use crate::service::{Body, RequestBody};

/// Where a key is entered.
pub(super) const LOGIN: &str = "/admin/login";
/// Where a session ends.
pub(super) const LOGOUT: &str = "/admin/logout";
/// Longest form.
const FORM_BYTES_MAX: usize = 64 << 10;
const FORM_DEADLINE: Duration = Duration::from_secs(10);
/// Longest address that a login leads back to.
const TO_BYTES_MAX: usize = 2_048;
/// How a key is given.
const KEY_ADD: &str = "bildkante-edge key add NAME --role CAMPAIGN=reviewer --why '…'";

/// What a form says: its fields by name, the first of each.
#[derive(Debug, Default)]
pub(super) struct Form(BTreeMap<String, String>);

impl AdminApi {
    /// The login page, what it sends, and the end of a session.
    pub(super) async fn login(&self, request: Request<RequestBody>, peer: IpAddr) -> Response<Body> {
        let is_logout = request.uri().path() == LOGOUT;
        let (parts, body) = request.into_parts();
        let head = Request::from_parts(parts, ());
        let asked = Asked::of(&head, peer);
        let answer = match (is_logout, head.method()) {
            (false, &Method::GET | &Method::HEAD) => Ok(self.login_page(&head, &asked)),
            (false, &Method::POST) => self.log_in(&asked, body).await,
            (true, &Method::POST) => self.log_out(&asked, body).await,
            (_, method) => {
                return super::not_allowed(method, if is_logout { "POST" } else { "GET, HEAD, POST" });
            }
        };
        answer.unwrap_or_else(|fault| pages::troubled(&head, &fault, LOGIN))
    }

    fn login_page(&self, head: &Request<()>, asked: &Asked<'_>) -> Response<Body> {
        let to = head.uri().query().unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("to="));
        let to = to.and_then(|to| percent_decode_str(to).decode_utf8().ok()).unwrap_or_default();
        if let Ok(who) = self.gatekeeper.admit(asked, ANY_ROLE, Part::Pages)
            && let Way::Session { csrf } = &who.way
        {
            return page(asked.headers, StatusCode::OK, known(pages::language(asked.headers), &who, csrf));
        }
        self.form(asked, StatusCode::OK, &to, None)
    }

    /// The form, with a token that its cookie proves to be of the same browser.
    fn form(&self, asked: &Asked<'_>, status: StatusCode, to: &str, trouble: Option<&str>) -> Response<Body> {
        let name = form_cookie(&self.gatekeeper, asked);
        let known =
            asked.cookie(name).filter(|value| value.len() == 64 && value.bytes().all(|it| it.is_ascii_hexdigit()));
        let csrf = match known.map_or_else(random, |value| Ok(value.to_owned())) {
            Ok(csrf) => csrf,
            Err(error) => return internal(asked.method, &error),
        };
        let entry = entry(pages::language(asked.headers), &csrf, path_here(to), trouble);
        let mut response = page(asked.headers, status, entry);
        set_cookie(&mut response, name, &csrf, self.gatekeeper.is_secure(asked), None);
        response
    }

    async fn log_in(&self, asked: &Asked<'_>, body: RequestBody) -> Result<Response<Body>, Fault> {
        let form = Form::read(asked.headers, body).await?;
        let gate = &self.gatekeeper;
        let is_ours = asked.cookie(form_cookie(gate, asked)).is_some_and(|cookie| is_same(cookie, form.text("csrf")));
        if asked.source() != Source::Ours || !is_ours {
            return Err(fault(
                403,
                "forbidden",
                "Forbidden",
                "the form is not from this browser: open /admin/login again",
            ));
        }
        if !gate.is_private(asked) {
            let detail = "a key is entered over TLS or on the edge's own machine: what is sent now, others can read";
            return Err(fault(403, "forbidden", "Forbidden", detail));
        }
        let config = gate.config();
        if !gate.sessions.may_try(gate.client(asked), &config.sessions, Instant::now()) {
            let trouble = pages::language(asked.headers)
                .say("Too many attempts: wait a minute.", "Zu viele Versuche: Warten Sie eine Minute.");
            let mut response = self.form(asked, StatusCode::TOO_MANY_REQUESTS, form.text("to"), Some(trouble));
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("60"));
            return Ok(response);
        }
        let credential = token::hash(form.text("key").trim());
        let who = gate.holder(&credential).and_then(|who| who.meets(ANY_ROLE).map(|()| who).map_err(Denial::Short));
        let (outcome, name) = match &who {
            Ok(who) => ("done", who.name().to_owned()),
            Err(_) => ("refused", "unknown".to_owned()),
        };
        let network = ShownClient::Network.of(gate.client(asked));
        let subject = network.map(|network| network.to_string()).unwrap_or_default();
        audit::note(&audit::Change { who: &name, what: "login", subject: &subject, why: "", outcome });
        if let Err(denial) = who {
            let trouble = unopened(&denial, pages::language(asked.headers));
            return Ok(self.form(asked, StatusCode::UNAUTHORIZED, form.text("to"), Some(trouble)));
        }
        let begun = gate.sessions.begin(credential, &config.sessions, Instant::now());
        let cookie = begun.map_err(|error| fault(500, "internal", "Internal error", error.to_string()))?;
        let mut response = see_other(path_here(form.text("to")));
        let is_secure = gate.is_secure(asked);
        set_cookie(&mut response, gate.cookie_name(asked), &cookie, is_secure, Some(config.sessions.absolute_s));
        set_cookie(&mut response, form_cookie(gate, asked), "", is_secure, Some(0));
        Ok(response)
    }

    async fn log_out(&self, asked: &Asked<'_>, body: RequestBody) -> Result<Response<Body>, Fault> {
        let form = Form::read(asked.headers, body).await?;
        let (gate, config) = (&self.gatekeeper, self.gatekeeper.config());
        let cookie = asked.cookie(gate.cookie_name(asked)).unwrap_or_default();
        if let Some(found) = gate.sessions.find(cookie, &config.sessions, Instant::now()) {
            if asked.source() != Source::Ours || !is_same(&found.csrf, form.text("csrf")) {
                return Err(fault(403, "forbidden", "Forbidden", "the form is not from a page of this session"));
            }
            gate.sessions.end(cookie);
        }
        let mut response = see_other(LOGIN);
        set_cookie(&mut response, gate.cookie_name(asked), "", gate.is_secure(asked), Some(0));
        Ok(response)
    }

    /// Who looks at a page; otherwise the answer that leads browsers to the login.
    pub(super) fn looks(&self, head: &Request<RequestBody>, peer: IpAddr) -> Result<Principal, Box<Response<Body>>> {
        let asked = Asked::of(head, peer);
        self.gatekeeper.admit(&asked, ANY_ROLE, Part::Pages).map_err(|denial| {
            let can_enter = denial.status() == 401 || denial == Denial::NotLocal;
            Box::new(if can_enter && trouble::wants_page(head.headers()) {
                let to = head.uri().path_and_query().map_or(HOME, http::uri::PathAndQuery::as_str);
                see_other(&leading_to(to))
            } else {
                super::denied::of_page(head, &denial, LOGIN)
            })
        })
    }
}

impl Form {
    pub(super) async fn read(headers: &HeaderMap, body: RequestBody) -> Result<Self, Fault> {
        let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !media_type.starts_with("application/x-www-form-urlencoded") {
            return Err(fault(
                415,
                "unsupported-media-type",
                "Unsupported media type",
                "this takes a form of its own page",
            ));
        }
        let read = tokio::time::timeout(FORM_DEADLINE, Limited::new(body, FORM_BYTES_MAX).collect());
        let broken = || fault(400, "broken-body", "Bad request", "the form broke off, came late or is too long");
        let body = read.await.ok().and_then(Result::ok).map(|body| body.to_bytes()).ok_or_else(broken)?;
        Ok(Self::parse(&body))
    }

    fn parse(body: &Bytes) -> Self {
        let mut form = Self::default();
        let pairs = std::str::from_utf8(body).unwrap_or_default().split('&').filter_map(|it| it.split_once('='));
        for (name, value) in pairs {
            let text = |part: &str| percent_decode_str(&part.replace('+', " ")).decode_utf8_lossy().into_owned();
            form.0.entry(text(name)).or_insert(text(value));
        }
        form
    }

    /// A form of these fields.
    pub(super) fn of<const N: usize>(fields: [(&str, &str); N]) -> Self {
        Self(fields.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    pub(super) fn put(&mut self, name: &str, value: String) {
        self.0.insert(name.to_owned(), value);
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Fields whose names begin so: what stands behind that, and the values.
    pub(super) fn named<'f>(&'f self, prefix: &'f str) -> impl Iterator<Item = (&'f str, &'f str)> {
        self.0.iter().filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value.as_str())))
    }

    /// Empty where it is not there.
    fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or_default()
    }
}

/// A path of this listener, or the first page. Browsers take `//` and `/\` for the beginning of another host.
pub(super) fn path_here(to: &str) -> &str {
    let is_here = to.starts_with('/') && !to[1..].starts_with(['/', '\\']) && to.len() <= TO_BYTES_MAX;
    if is_here && to.bytes().all(|it| it.is_ascii_graphic() && it != b'\\') { to } else { HOME }
}

/// The login that leads to a path.
pub(super) fn leading_to(path: &str) -> String {
    format!("{LOGIN}?to={}", utf8_percent_encode(path, NON_ALPHANUMERIC))
}

fn form_cookie(gate: &Gatekeeper, asked: &Asked<'_>) -> &'static str {
    if gate.is_secure(asked) { "__Host-bildkante-login" } else { "bildkante-login" }
}

fn set_cookie(response: &mut Response<Body>, name: &str, value: &str, is_secure: bool, max_age_s: Option<u64>) {
    let secure = if is_secure { "; Secure" } else { "" };
    let max_age = max_age_s.map(|seconds| format!("; Max-Age={seconds}")).unwrap_or_default();
    let cookie = format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict{secure}{max_age}");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
}

pub(super) fn see_other(to: &str) -> Response<Body> {
    let mut response = Response::new(Body::default());
    *response.status_mut() = StatusCode::SEE_OTHER;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(to) = HeaderValue::from_str(to) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}

fn internal(method: &Method, error: &std::io::Error) -> Response<Body> {
    super::problem(method, &Problem::new(500, "internal", "Internal error", error.to_string()))
}

fn entry(language: Language, csrf: &str, to: &str, trouble: Option<&str>) -> Markup {
    layout(
        language,
        language.say("Log in", "Anmelden"),
        &html! {
            h1 { (language.say("Log in", "Anmelden")) }
            @if let Some(trouble) = trouble { p.notice role="alert" { (trouble) } }
            form method="post" action=(LOGIN) {
                input type="hidden" name="csrf" value=(csrf);
                input type="hidden" name="to" value=(to);
                p { label { (language.say("Key ", "Schlüssel ")) input type="password" name="key" required autofocus autocomplete="current-password" size="72"; } }
                p { button { (language.say("Log in", "Anmelden")) } }
            }
            (where_from(language))
        },
    )
}

/// A person without a key learns whom to ask, and that one what to type.
fn where_from(language: Language) -> Markup {
    let whom = language.say(
        "No key yet? The operators of this edge give you one, with your roles:",
        "Noch kein Schlüssel? Die Betreiber dieses Servers geben Ihnen einen, mit Ihren Rollen:",
    );
    let once = language.say(
        "It is shown once. If you have lost it, ask for another one.",
        "Er wird einmal angezeigt. Haben Sie ihn verloren, lassen Sie sich einen neuen geben.",
    );
    html! {
        p { (whom) }
        pre { code { (KEY_ADD) } }
        p { (once) }
    }
}

/// Why a key opens nothing.
const fn unopened(denial: &Denial, language: Language) -> &'static str {
    match denial {
        Denial::Expired => language.say(
            "This key has expired. An operator gives you another one.",
            "Dieser Schlüssel ist abgelaufen. Die Betreiber geben Ihnen einen neuen.",
        ),
        Denial::WithoutRole { .. } | Denial::Short(_) => language.say(
            "This key has no role in any campaign. An operator gives roles.",
            "Dieser Schlüssel hat in keiner Kampagne eine Rolle. Rollen vergeben die Betreiber.",
        ),
        _ => language.say("There is no such key.", "Diesen Schlüssel gibt es nicht."),
    }
}

fn known(language: Language, who: &Principal, csrf: &str) -> Markup {
    let say = |english, german| language.say(english, german);
    layout(
        language,
        say("You", "Sie"),
        &html! {
            h1 { (say("You are ", "Sie sind ")) (who.name()) }
            @if let Some(roles) = who.roles() { p { (say("Your roles: ", "Ihre Rollen: ")) (roles) } }
            p { a href=(HOME) { (say("To the preview", "Zur Vorschau")) } }
            form method="post" action=(LOGOUT) {
                input type="hidden" name="csrf" value=(csrf);
                p { button { (say("Log out", "Abmelden")) } }
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_leads_to_a_path_of_this_listener() {
        assert_eq!(path_here("/preview/autumn/hero?page=2"), "/preview/autumn/hero?page=2");
        for elsewhere in ["", "//evil.example", "/\\evil.example", "https://evil.example", "/a\r\nb", "/a b", "preview"]
        {
            assert_eq!(path_here(elsewhere), HOME, "{elsewhere:?}");
        }
    }

    #[test]
    fn who_has_no_key_is_told_where_it_comes_from_in_the_language_of_the_browser() {
        let of = |language| entry(language, "ab", HOME, None).into_string();
        let (english, german) = (of(Language::English), of(Language::German));
        assert!(english.contains("No key yet?") && english.contains("lang=\"en\""), "{english}");
        assert!(german.contains("Noch kein Schlüssel?") && german.contains("lang=\"de\""), "{german}");
        for page in [english, german] {
            assert!(page.contains("bildkante-edge key add NAME"), "{page}");
        }
    }

    #[test]
    fn a_form_is_read_as_browsers_write_it() {
        let form = Form::parse(&Bytes::from_static(
            b"csrf=ab&to=%2Fpreview%2F&key=bk_1+%C3%BC&more=x&pick%2Fa%2Fb%3Fc%3Dd=7.9",
        ));
        assert_eq!(form.named("pick/").collect::<Vec<_>>(), [("a/b?c=d", "7.9")]);
        assert_eq!((form.text("key"), form.text("csrf"), form.text("to")), ("bk_1 ü", "ab", "/preview/"));
        assert_eq!(form.get("none"), None);
    }
}
