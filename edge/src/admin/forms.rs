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
use super::pages::{self, HOME};
use super::principal::Principal;
use super::routes::{self, Found};
use super::{
    AdminApi, PREFIX, bulk, campaign_of, candidates, decisions, denied, drafts, dropped, shares, splits, undo,
};
use crate::preview::selection::PICK;
use crate::preview::{Preview, Reader};
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
    Draft,
    Split,
    /// The second step of an import; the first has a body of its own.
    Import,
    /// A link that shows a selection.
    Share,
    EndShare(&'p str),
    /// A guest's comment: it is resolved, or deleted.
    Comment(&'p str),
    /// Decisions that are taken back.
    Undo,
    Batch(BatchAim<'p>),
}

impl<'p> Aim<'p> {
    fn of(path: &'p str) -> Option<Self> {
        match path.strip_prefix(FOLDER)?.split_once('/') {
            Some(("decisions", id)) => Some(Self::Decision(id)),
            Some(("shares", id)) => Some(Self::EndShare(id)),
            Some(("comments", id)) => Some(Self::Comment(id)),
            None if path == "/preview/shares" => Some(Self::Share),
            None if path == "/preview/undo" => Some(Self::Undo),
            None if path == "/preview/candidates" => Some(Self::Candidates),
            None if path == "/preview/kills" => Some(Self::Kill),
            None if path == "/preview/bulk" => Some(Self::Bulk),
            None if path == "/preview/drafts" => Some(Self::Draft),
            Some(("imports", "accept")) => Some(Self::Import),
            None if path == "/preview/splits" => Some(Self::Split),
            _ => BatchAim::of(path).map(Self::Batch),
        }
    }

    /// The path of the API that does the same, whose row says what it takes.
    fn route(self, form: &Form) -> String {
        match self {
            Self::Bulk if form.get("decision") == Some("kill") => format!("{PREFIX}kills"),
            Self::Bulk | Self::Undo => format!("{PREFIX}decisions/0"),
            // Both take the same.
            Self::Share | Self::EndShare(_) => format!("{PREFIX}shares"),
            Self::Comment(id) => format!("{PREFIX}comments/{id}"),
            Self::Decision(id) => format!("{PREFIX}decisions/{id}"),
            Self::Candidates => format!("{PREFIX}candidates"),
            Self::Kill => format!("{PREFIX}kills"),
            Self::Draft => format!("{PREFIX}drafts"),
            Self::Split => format!("{PREFIX}splits"),
            Self::Import => format!("{PREFIX}imports"),
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
        if request.uri().path() == dropped::CHECK {
            return self.dropped(request, peer).await;
        }
        let (parts, body) = request.into_parts();
        let head = Request::from_parts(parts, ());
        let Some(aim) = Aim::of(head.uri().path()) else {
            return super::not_allowed(head.method(), "GET, HEAD");
        };
        let form = match Form::read(head.headers(), body).await {
            Ok(form) => form,
            Err(fault) => return pages::troubled(&head, &fault, HOME),
        };
        let asked = Asked { csrf: form.get("csrf"), ..Asked::of(&head, peer) };
        let Found::Route(route, _) = routes::find(&Method::POST, &aim.route(&form)) else {
            return pages::troubled(&head, &fault(404, "not-found", "Not found", "there is no such form"), HOME);
        };
        let back = login::path_here(form.get("back").unwrap_or_default());
        let who = match self.gatekeeper.admit(&asked, route.needs, Part::Api) {
            Ok(who) => who,
            Err(denial) if denial.status() == 401 => {
                let ended =
                    fault(401, "logged-out", "Logged out", "Nothing was done: log in, and send the form again.");
                return pages::troubled(&head, &ended, &login::leading_to(back));
            }
            Err(denial) => return denied::of_page(&head, &denial, back),
        };
        let done = match asked.source() {
            Source::Ours if aim == Aim::Bulk => {
                return match self.bulk(preview, &who, &form).await {
                    Ok(outcome) => told(&head, (&outcome, who.csrf()), back),
                    Err(fault) => pages::troubled(&head, &fault, back),
                };
            }
            Source::Ours if aim == Aim::Import => {
                return match self.imports.accept(&who, &form).await {
                    Ok(candidate) => dropped::accepted(&head, &candidate.to_string(), back),
                    Err(fault) => pages::troubled(&head, &fault, back),
                };
            }
            Source::Ours if aim == Aim::Draft => {
                let begun = async { drafts::begin(self, &who, drafts::of_form(&form)?).await };
                return match begun.await {
                    Ok(sheet) => login::see_other(&format!("/preview/drafts/{}", sheet.id)),
                    Err(fault) => pages::troubled(&head, &fault, back),
                };
            }
            Source::Ours if aim == Aim::Share => {
                return match self.share(&who, &form).await {
                    Ok(link) => shared(&head, &link, back),
                    Err(fault) => pages::troubled(&head, &fault, back),
                };
            }
            Source::Ours if aim == Aim::Undo && undo::are_many(&form) => {
                return match self.undo(&who, &form).await {
                    Ok(outcome) => told(&head, (&outcome, who.csrf()), back),
                    Err(fault) => pages::troubled(&head, &fault, back),
                };
            }
            Source::Ours if let Aim::Batch(aim) = aim => {
                let done = self.batch_form(aim, &who, &form).await;
                return done.unwrap_or_else(|fault| pages::troubled(&head, &fault, back));
            }
            Source::Ours => self.carry_out_form(aim, &who, &form, preview).await,
            Source::Foreign | Source::Untold => {
                Err(fault(403, "forbidden", "Forbidden", "the form is not from a page of this edge"))
            }
        };
        match done {
            Ok(()) => login::see_other(&self.behind(aim, &who, (&head, preview), back)),
            Err(fault) => pages::troubled(&head, &fault, back),
        }
    }

    /// The page behind a form: a decision may lead on to the next picture.
    fn behind(&self, aim: Aim<'_>, who: &Principal, (head, preview): (&Request<()>, &Preview), back: &str) -> String {
        let Aim::Decision(id) = aim else { return back.to_owned() };
        let Ok(case) = id.parse() else { return back.to_owned() };
        let (sees, role) = (|campaign: Option<&str>| who.sees(campaign), |campaign: &str| who.role_in(campaign));
        let reader = Reader { sees: &sees, role: &role, csrf: who.csrf(), name: who.known_name() };
        preview.after_decision(head.headers(), back, case, &reader)
    }

    /// Makes a link to what the form names: its address, or its path where none signs any more.
    async fn share(&self, who: &Principal, form: &Form) -> Result<MadeLink, Fault> {
        let picked: Vec<&str> = form.named(PICK).map(|(picture, _)| picture).collect();
        let is_picked = !picked.is_empty();
        let texts: &[_] = if is_picked { &["slot", "title", "why"] } else { &["slot", "title", "why", "filter"] };
        let mut fields = fields(form, texts, &["days"])?;
        if is_picked {
            fields.set("pictures", json!(picked));
        } else if form.get("of") == Some("picked") {
            return Err(wrong("pictures", "pick the pictures that the link shows", &[]));
        }
        let (kept, _) = shares::make(self, who, shares::order(fields)?, None).await?;
        Ok(MadeLink {
            title: kept.share.title.clone(),
            pictures: kept.share.pictures.len(),
            address: self.shares.link(&kept.share).unwrap_or_default(),
        })
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
            Aim::Split => {
                let asked = splits::order(fields(form, &["variant", "how"], &[])?)?;
                splits::decide(self, who, (asked, None)).await?;
            }
            Aim::EndShare(id) => {
                let why = form.get("why").unwrap_or_default().trim().to_owned();
                if why.is_empty() {
                    return Err(wrong("why", "a reason is missing: it stands in the audit", &[]));
                }
                shares::end(self, who, id, (why, None)).await?;
            }
            Aim::Comment(id) if form.get("delete") == Some("true") => {
                shares::remove(self, who, id).await?;
            }
            Aim::Comment(id) => {
                let mut fields = Fields::of_map(Map::new());
                fields.set("resolved", json!(form.get("resolved") == Some("true")));
                shares::resolve(self, who, id, shares::resolution(fields)?).await?;
            }
            Aim::Undo => {
                if let Some((_, why)) = self.undo(who, form).await?.refused.into_iter().next() {
                    return Err(fault(409, "not-undone", "Not taken back", why));
                }
            }
            // They have answers of their own.
            Aim::Bulk | Aim::Draft | Aim::Import | Aim::Share | Aim::Batch(_) => {}
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
fn told(head: &Request<()>, (outcome, csrf): (&bulk::Outcome, Option<&str>), back: &str) -> Response<Body> {
    let language = pages::language(head.headers());
    let say = |english, german| language.say(english, german);
    let (title, done) = match outcome.deed {
        bulk::Deed::Decided => (say("Decided", "Entschieden"), say("decided", "entschieden")),
        bulk::Deed::TakenBack => (say("Taken back", "Zurückgenommen"), say("taken back", "zurückgenommen")),
    };
    let markup = pages::layout(
        language,
        title,
        &html! {
            h1 { (title) }
            p.notice role="status" {
                (outcome.done) " " (done)
                @if outcome.left > 0 { ", " (outcome.left) " " (say("left: send the form again", "übrig: Senden Sie das Formular noch einmal")) }
                "."
            }
            @if !outcome.refused.is_empty() {
                h2 { (outcome.refused.len()) " " (say("refused", "abgelehnt")) }
                ul { @for (picture, why) in &outcome.refused { li { code { (picture) } ": " (why) } } }
            }
            (undo::form(language, outcome, csrf, back))
            p { a href=(back) { (say("Back", "Zurück")) } }
        },
    );
    pages::page(head.headers(), StatusCode::OK, markup)
}

/// A link that was made, for the person who sends it on.
struct MadeLink {
    title: String,
    pictures: usize,
    address: String,
}

fn shared(head: &Request<()>, link: &MadeLink, back: &str) -> Response<Body> {
    let language = pages::language(head.headers());
    let say = |english, german| language.say(english, german);
    let title = say("The link is made", "Der Link ist erstellt");
    let markup = pages::layout(
        language,
        title,
        &html! {
            h1 { (title) }
            p.notice role="status" {
                (link.pictures) " " (if link.pictures == 1 { say("picture: ", "Bild: ") } else { say("pictures: ", "Bilder: ") })
                a href=(link.address) rel="noreferrer" { (link.title) }
            }
            p.lead {
                (say("Everyone who has this address sees the pictures until it ends or you end it. Copy it from the link, or on the page of the slot.",
                    "Alle mit dieser Adresse sehen die Bilder, bis der Link abläuft oder Sie ihn beenden. Kopieren Sie ihn von hier oder auf der Seite des Platzes."))
            }
            p { a href=(back) { (say("Back", "Zurück")) } }
        },
    );
    pages::page(head.headers(), StatusCode::OK, markup)
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
        assert_eq!(Aim::of("/preview/drafts"), Some(Aim::Draft));
        assert_eq!(Aim::of("/preview/splits"), Some(Aim::Split));
        assert_eq!(Aim::of("/preview/imports/accept"), Some(Aim::Import));
        assert_eq!(Aim::of("/preview/shares"), Some(Aim::Share));
        assert_eq!(Aim::of("/preview/shares/0a"), Some(Aim::EndShare("0a")));
        assert_eq!(Aim::of("/preview/comments/7"), Some(Aim::Comment("7")));
        assert_eq!(Aim::of("/preview/undo"), Some(Aim::Undo));
        for path in ["/preview/", "/preview/autumn/hero", "/preview/kill", "/decisions/41", "/preview/decisions"] {
            assert_eq!(Aim::of(path), None, "{path}");
        }
    }
}
