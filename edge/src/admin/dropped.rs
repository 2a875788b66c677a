//! The two steps of an import from a variant's page: what a file carries is shown, then a person accepts it.

use std::net::IpAddr;
use std::time::Duration;

use bildkante_shared::import::DigitalSource;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use maud::{Markup, html};

use super::body::{Fault, bounded, fault};
use super::gatekeeper::{Asked, Part, Source};
use super::login::{self, Form};
use super::routes::{ANY_ROLE, Needs};
use super::uploads::Carried;
use super::{AdminApi, pages};
use crate::credentials::{Finding, Standing};
use crate::language::Language;
use crate::render::{ORIGINAL_FILE_BYTES_MAX, ToldProfile, Turn};
use crate::service::{Body, RequestBody};
use crate::shared_state::PersonRole;
use crate::verify::multipart;

/// Where a file is sent for the first step.
pub(super) const CHECK: &str = "/preview/imports";
/// What stands beside the file in a form.
const FORM_BYTES_MAX: usize = 64 << 10;
/// Files that arrive at a time, and how long another one waits for them.
pub(super) const ARRIVING_MAX: usize = 4;
const PLACE_WAIT: Duration = Duration::from_secs(10);
/// Longest a file may take to arrive.
const DEADLINE: Duration = Duration::from_secs(60);
const FIELDS: [&str; 3] = ["csrf", "back", "variant"];

impl AdminApi {
    /// The first step: the file is looked at, and what it carries is shown.
    pub(super) async fn dropped(&self, request: Request<RequestBody>, peer: IpAddr) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let head = Request::from_parts(parts, ());
        match self.checked(&head, body, peer).await {
            Ok((carried, form)) => {
                let language = pages::language(head.headers());
                let title = language.say("Import: what the file carries", "Import: was die Datei mitbringt");
                let markup = pages::layout(language, title, &shown(language, title, &carried, &form));
                pages::page(head.headers(), StatusCode::OK, markup)
            }
            Err(fault) => pages::troubled(&head, &fault, pages::HOME),
        }
    }

    async fn checked(&self, head: &Request<()>, body: RequestBody, peer: IpAddr) -> Result<(Carried, Form), Fault> {
        let refuse =
            || fault(403, "forbidden", "Forbidden", "the form is not from a page of this edge, or its session is over");
        // Before a byte of the file is read: by who looks at pages. That the form is of the session is proven by what it carries.
        let looks = Asked { method: &Method::GET, ..Asked::of(head, peer) };
        self.gatekeeper.admit(&looks, ANY_ROLE, Part::Pages).map_err(|_| refuse())?;
        let imports = Needs { role: Some(PersonRole::Reviewer), ..ANY_ROLE };
        let no_reviewer = || fault(403, "forbidden", "Forbidden", "reviewers import pictures");
        self.gatekeeper.admit(&looks, imports, Part::Pages).map_err(|_| no_reviewer())?;
        if Asked::of(head, peer).source() != Source::Ours {
            return Err(refuse());
        }
        let media_type = head.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_form = media_type.to_ascii_lowercase().starts_with("multipart/form-data");
        let boundary = multipart::boundary(media_type).filter(|_| is_form);
        let no_form =
            || fault(415, "unsupported-media-type", "Unsupported media type", "this takes the form of its page");
        let boundary = boundary.ok_or_else(no_form)?;
        // Held until the file is looked at: so many are in memory, and no more.
        let place = tokio::time::timeout(PLACE_WAIT, self.imports.arriving.acquire()).await;
        let busy = || fault(503, "busy", "Busy", "other files are on their way: send it again in a moment");
        let _place = place.ok().and_then(Result::ok).ok_or_else(busy)?;
        let body = bounded(body, ORIGINAL_FILE_BYTES_MAX + FORM_BYTES_MAX, DEADLINE).await?;
        let mut form = Form::default();
        for name in FIELDS {
            let value = multipart::part(&body, boundary, name).filter(|value| value.len() <= FORM_BYTES_MAX);
            let value = value.and_then(|value| String::from_utf8(value.to_vec()).ok());
            value.into_iter().for_each(|value| form.put(name, value));
        }
        let asked = Asked { csrf: form.get("csrf"), ..Asked::of(head, peer) };
        let who = self.gatekeeper.admit(&asked, ANY_ROLE, Part::Api).map_err(|_| refuse())?;
        let file = multipart::picture(&body, boundary).filter(|file| !file.is_empty());
        let file = file.ok_or_else(|| fault(400, "no-picture", "Bad request", "no file was chosen"))?;
        let variant = form.get("variant").unwrap_or_default().to_owned();
        Ok((self.imports.check(&who, variant, file).await?, form))
    }
}

/// What the file carries, and the second step.
fn shown(language: Language, title: &str, carried: &Carried, form: &Form) -> Markup {
    let say = |english, german| language.say(english, german);
    let facts = &carried.facts;
    let unsaid = || say("nothing", "nichts").to_owned();
    let profile = match &facts.profile {
        ToldProfile::None => say("none: taken for sRGB", "keines: gilt als sRGB").to_owned(),
        ToldProfile::NoneOfInks => say(
            "none: inks become light as in browsers; saved with its profile it has the colours of print",
            "keines: Druckfarben werden wie in Browsern zu Licht; mit Profil gespeichert hat es die Farben des Drucks",
        )
        .to_owned(),
        ToldProfile::Named(name) => name.clone(),
        ToldProfile::Damaged => say("damaged", "beschädigt").to_owned(),
    };
    let turn = match facts.turn {
        Turn::AsItIs => say("as it is", "wie es ist").to_owned(),
        Turn::Turned(value) => {
            format!("{} (Exif {value})", say("turned; the import applies it", "gedreht; der Import wendet es an"))
        }
    };
    let told = &carried.told;
    let rows = [
        (say("For", "Für"), carried.variant.clone()),
        (
            say("Size", "Größe"),
            format!(
                "{} × {} px, {}, {} kB",
                facts.width_px,
                facts.height_px,
                facts.samples,
                carried.bytes.div_ceil(1_000)
            ),
        ),
        (say("As a master", "Als Master"), format!("{} × {} px", carried.master_px.0, carried.master_px.1)),
        (say("Colour profile", "Farbprofil"), profile),
        (say("Orientation", "Ausrichtung"), turn),
        (
            say("Digital source type (IPTC)", "Digitaler Quelltyp (IPTC)"),
            told.digital_source_type.clone().unwrap_or_else(unsaid),
        ),
        (say("Creator", "Urheber"), told.creator.clone().unwrap_or_else(unsaid)),
        (say("Credit", "Nachweis"), told.credit.clone().unwrap_or_else(unsaid)),
        (say("Copyright", "Copyright"), told.copyright.clone().unwrap_or_else(unsaid)),
        (say("Software", "Software"), told.software.clone().unwrap_or_else(unsaid)),
        ("Content Credentials (C2PA)", finding(language, &carried.finding)),
        (say("Digest", "Prüfsumme"), carried.digest.to_string()),
    ];
    let back = login::path_here(form.get("back").unwrap_or_default());
    html! {
        h1 { (title) }
        dl.facts { @for (name, text) in &rows { dt { (name) } dd { (text) } } }
        h2 { (say("Accept it", "Annehmen")) }
        p.lead {
            (say("It becomes a candidate for import and is shown to no reader yet.",
                "Sie wird Kandidat für den Import und noch keinem Leser gezeigt."))
        }
        form method="post" action="/preview/imports/accept" {
            @if let Some(csrf) = form.get("csrf") { input type="hidden" name="csrf" value=(csrf); }
            input type="hidden" name="back" value=(back);
            input type="hidden" name="upload" value=(carried.id);
            p { label {
                (say("How it came to be", "Wie sie entstanden ist")) " "
                select name="source" required {
                    @for source in DigitalSource::ALL {
                        option value=(source.term()) selected[carried.declared == Some(source)] { (source.term()) }
                    }
                }
            } }
            @for (name, label) in [("creator", say("Creator", "Urheber")), ("credit", say("Credit", "Nachweis")), ("copyright", "Copyright"), ("why", say("Why", "Warum"))] {
                p { label { (label) " " input name=(name) maxlength="400"; } }
            }
            p { button.primary { (say("Accept", "Annehmen")) } }
        }
        p { a href=(back) { (say("Back, without it", "Zurück, ohne sie")) } }
    }
}

fn finding(language: Language, finding: &Finding) -> String {
    let say = |english, german| language.say(english, german);
    match finding {
        Finding::Absent => say("none", "keine").to_owned(),
        Finding::Elsewhere { url } => format!("{} {url}", say("said to be at", "angeblich unter")),
        Finding::Valid { credentials } => {
            let signer = credentials
                .signed_by
                .as_ref()
                .and_then(|it| it.organisation.clone().or_else(|| it.common_name.clone()));
            let signer = signer.unwrap_or_else(|| say("an unnamed signer", "ungenannt").to_owned());
            let known = match credentials.standing {
                Standing::Trusted => "",
                Standing::Unknown => say(", whom no authority vouches for here", ", hier von keiner Stelle bestätigt"),
            };
            format!("{} {signer}{known}", say("valid, signed by", "gültig, signiert von"))
        }
        Finding::Invalid { failures, .. } => {
            let codes: Vec<&str> = failures.iter().map(|failure| failure.code.as_str()).collect();
            format!("{}: {}", say("do not hold", "ungültig"), codes.join(", "))
        }
    }
}

/// It is stored: what a person does next.
pub(super) fn accepted(head: &Request<()>, candidate: &str, back: &str) -> Response<Body> {
    let language = pages::language(head.headers());
    let say = |english, german| language.say(english, german);
    let title = say("Accepted", "Angenommen");
    let markup = pages::layout(
        language,
        title,
        &html! {
            h1 { (title) }
            p.notice role="status" { (say("The file is a candidate for import: ", "Die Datei ist Kandidat für den Import: ")) code { (candidate) } }
            p { (say("It becomes the variant's picture with ", "Sie wird das Bild der Variante mit ")) code { "bildkante-edge import --candidate " (candidate) } "." }
            p { a href=(back) { (say("Back", "Zurück")) } }
        },
    );
    pages::page(head.headers(), StatusCode::OK, markup)
}
