//! What the preview's forms send: decisions, candidates and kills, carried out as the API carries them out.
//!
//! Invariants: a form is proven to be of one of our pages, by where the browser says it comes from and by the session's token in
//! it; it needs the role that the API's row needs; where it leads back to is a path of this listener.

use std::net::IpAddr;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use maud::html;
use serde_json::{Map, Value, json};

use super::batch_forms::BatchAim;
use super::body::{Fault, Fields, fault, wrong};
use super::gatekeeper::{Asked, Part, Source};
use super::login::{self, Form};
use super::principal::Principal;
use super::routes::{self, Found};
use super::{AdminApi, PREFIX, bulk, campaign_of, candidates, decisions, denied};
use crate::language::Language;
use crate::preview::Preview;
use crate::service::{Body, RequestBody};

/// Where forms go.
const FOLDER: &str = "/preview/";

/// What a form is about, by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim<'p> {
    Decision(&'p str),
    Candidates,
    Kill,
    /// One decision about many pictures.
    Bulk,
    Batch(BatchAim<'p>),
}

impl<'p> Aim<'p> {
    fn of(path: &'p str) -> Option<Self> {
        match path.strip_prefix(FOLDER)?.split_once('/') {
            Some(("decisions", id)) => Some(Self::Decision(id)),
            None if path == "/preview/candidates" => Some(Self::Candidates),
            None if path == "/preview/kills" => Some(Self::Kill),
            None if path == "/preview/bulk" => Some(Self::Bulk),
            _ => BatchAim::of(path).map(Self::Batch),
        }
    }

    /// The path of the API that does the same, whose row says what it takes.
    fn route(self, form: &Form) -> String {
        match self {
            Self::Bulk if form.get("decision") == Some("kill") => format!("{PREFIX}kills"),
            Self::Bulk => format!("{PREFIX}decisions/0"),
            Self::Decision(id) => format!("{PREFIX}decisions/{id}"),
            Self::Candidates => format!("{PREFIX}candidates"),
            Self::Kill => format!("{PREFIX}kills"),
            Self::Batch(aim) => aim.route(),
        }
    }
}

impl AdminApi {
    /// Carries out what a form says, and leads back to its page.
    pub(super) async fn form_of_a_page(
        &self,
        request: Request<RequestBody>,
        peer: IpAddr,
        preview: &Arc<Preview>,
    ) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let head = Request::from_parts(parts, ());
        let Some(aim) = Aim::of(head.uri().path()) else {
            return super::not_allowed(head.method(), "GET, HEAD");
        };
        let form = match Form::read(head.headers(), body).await {
            Ok(form) => form,
            Err(fault) => return super::problem(head.method(), &fault),
        };
        let asked = Asked { csrf: form.get("csrf"), ..Asked::of(&head, peer) };
        let Found::Route(route, _) = routes::find(&Method::POST, &aim.route(&form)) else {
            return super::problem(head.method(), &fault(404, "not-found", "Not found", "there is no such form"));
        };
        let back = login::path_here(form.get("back").unwrap_or_default());
        let who = match self.gatekeeper.admit(&asked, route.needs, Part::Api) {
            Ok(who) => who,
            Err(denial) if denial.status() == 401 => {
                let ended =
                    fault(401, "logged-out", "Logged out", "Nothing was done: log in, and send the form again.");
                return explained(&head, &ended, &login::leading_to(back));
            }
            Err(denial) => return denied::response(head.method(), &denial),
        };
        let done = match asked.source() {
            Source::Ours if aim == Aim::Bulk => {
                return match self.bulk(preview, &who, &form).await {
                    Ok(outcome) => told(&head, &outcome, back),
                    Err(fault) => explained(&head, &fault, back),
                };
            }
            Source::Ours if let Aim::Batch(aim) = aim => {
                let done = self.batch_form(aim, &who, &form).await;
                return done.unwrap_or_else(|fault| explained(&head, &fault, back));
            }
            Source::Ours => self.carry_out_form(aim, &who, &form, preview).await,
            Source::Foreign | Source::Untold => {
                Err(fault(403, "forbidden", "Forbidden", "the form is not from a page of this edge"))
            }
        };
        match done {
            Ok(()) => login::see_other(back),
            Err(fault) => explained(&head, &fault, back),
        }
    }

    async fn carry_out_form(
        &self,
        aim: Aim<'_>,
        who: &Principal,
        form: &Form,
        preview: &Arc<Preview>,
    ) -> Result<(), Fault> {
        match aim {
            Aim::Decision(id) => {
                let order = decisions::order(None, id, fields(form, &["decision", "why"], &["seen"])?)?;
                decisions::rule(self, who, order).await?;
            }
            Aim::Candidates => {
                candidates::begin(self, who, None, candidates::order(fields(form, &["variant"], &["count"])?)?)?;
            }
            Aim::Kill => {
                let variant = form.get("variant").unwrap_or_default();
                if campaign_of(variant) != form.get("confirm").map(str::trim) {
                    return Err(wrong("confirm", "the campaign's name confirms a kill, and this is another one", &[]));
                }
                let why = form.get("why").unwrap_or_default();
                bulk::kill_picture(self, who, preview, (variant, why)).await?;
            }
            // They have answers of their own.
            Aim::Bulk | Aim::Batch(_) => {}
        }
        Ok(())
    }
}

/// The fields as the API reads them.
pub(super) fn fields(form: &Form, texts: &[&'static str], numbers: &[&'static str]) -> Result<Fields, Fault> {
    let mut map = Map::new();
    for name in texts {
        map.extend(form.get(name).map(|text| ((*name).to_owned(), json!(text))));
    }
    for name in numbers {
        let number = form.get(name).map(|text| text.trim().parse::<u64>()).transpose();
        let number = number.map_err(|_| wrong(name, format!("`{name}` is a whole number"), &[]))?;
        map.extend(number.map(|number| ((*name).to_owned(), Value::from(number))));
    }
    Ok(Fields::of_map(map))
}

/// What became of a decision about many pictures.
fn told(head: &Request<()>, outcome: &bulk::Outcome, back: &str) -> Response<Body> {
    let language = Language::of(None, head.headers());
    let say = |english, german| language.say(english, german);
    let title = say("Decided", "Entschieden");
    let markup = login::layout(
        language,
        title,
        &html! {
            h1 { (title) }
            p.notice role="status" {
                (outcome.done) " " (say("decided", "entschieden"))
                @if outcome.left > 0 { ", " (outcome.left) " " (say("left: send the form again", "übrig: Senden Sie das Formular noch einmal")) }
                "."
            }
            @if !outcome.refused.is_empty() {
                h2 { (outcome.refused.len()) " " (say("refused", "abgelehnt")) }
                ul { @for (picture, why) in &outcome.refused { li { code { (picture) } ": " (why) } } }
            }
            p { a href=(back) { (say("Back", "Zurück")) } }
        },
    );
    login::page(head.headers(), StatusCode::OK, &markup)
}

/// Why it was not done, for a person.
fn explained(head: &Request<()>, fault: &Fault, back: &str) -> Response<Body> {
    let status = StatusCode::from_u16(fault.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let markup = login::layout(
        Language::English,
        &fault.title,
        &html! {
            h1 { (fault.title) }
            p.notice role="alert" { (fault.detail) }
            p { a href=(back) { "Back, to look again" } }
        },
    );
    login::page(head.headers(), status, &markup)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_what_a_form_is_about() {
        assert_eq!(Aim::of("/preview/decisions/41"), Some(Aim::Decision("41")));
        assert_eq!(Aim::of("/preview/candidates"), Some(Aim::Candidates));
        assert_eq!(Aim::of("/preview/kills"), Some(Aim::Kill));
        assert_eq!(Aim::of("/preview/bulk"), Some(Aim::Bulk));
        for path in ["/preview/", "/preview/autumn/hero", "/preview/kill", "/decisions/41", "/preview/decisions"] {
            assert_eq!(Aim::of(path), None, "{path}");
        }
    }
}
