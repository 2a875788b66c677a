//! The page in both languages: the form, a report layer by layer, a refusal. Everything it shows is in what it is given.
//!
//! It is written for people who have never heard of C2PA. It loads nothing from elsewhere and works without script.

use maud::{DOCTYPE, Markup, html};

use super::masters::KnownMaster;
use super::multipart::FIELD;
use super::report::{Conclusion, FingerprintLayer, FoundMark, Report, Stated, WatermarkLayer};
use crate::credentials::{Credentials, Failure, FailureKind, Finding, Standing};
use crate::language::Language;
use crate::provenance::Told;

/// Path of the page.
pub(crate) const PATH: &str = "/verify";

/// The form.
pub(super) fn form(language: Language, file_bytes_max: usize) -> String {
    let say = |english, german| language.say(english, german);
    let main = html! {
        h1 { (say("Where does this picture come from?", "Woher kommt dieses Bild?")) }
        p.lead {
            (say(
                "Choose a picture. You will see what it tells of its origin: a signed history, statements in the file, \
                 a watermark in its pixels, and whether it looks like a picture from here.",
                "Wählen Sie ein Bild. Sie sehen, was es über seine Herkunft sagt: eine signierte Geschichte, Angaben in der \
                 Datei, ein Wasserzeichen in den Pixeln, und ob es einem Bild von hier gleicht.",
            ))
        }
        (upload(language, file_bytes_max))
        p.lead {
            (say(
                "The picture is checked and then forgotten: it is neither stored nor logged.",
                "Das Bild wird geprüft und dann vergessen: Es wird weder gespeichert noch protokolliert.",
            ))
        }
    };
    layout(language, say("Check a picture", "Ein Bild prüfen"), &main)
}

fn upload(language: Language, file_bytes_max: usize) -> Markup {
    let say = |english, german| language.say(english, german);
    html! {
        form method="post" action={ (PATH) "?lang=" (language.code()) } enctype="multipart/form-data" data-verify {
            label for="picture" { (say("Picture", "Bild")) }
            input #picture type="file" name=(FIELD) required accept="image/avif,image/webp,image/jpeg,image/png"
                aria-describedby="kinds";
            div data-chosen aria-live="polite" {}
            div #kinds.lead {
                (say("AVIF, WebP, JPEG or PNG, up to ", "AVIF, WebP, JPEG oder PNG, bis ")) (file_bytes_max >> 20) " MiB"
            }
            button data-busy=(say("Checking …", "Wird geprüft …")) { (say("Check", "Prüfen")) }
        }
    }
}

/// A report, and the document to download: base64 of JSON.
pub(super) fn result(language: Language, report: &Report, download: &Download, file_bytes_max: usize) -> String {
    let say = |english, german| language.say(english, german);
    let file = &report.file;
    let main = html! {
        h1 { (say("What the picture tells", "Was das Bild sagt")) }
        (verdict(language, report))
        (c2pa(language, &report.c2pa))
        (watermark(language, &report.watermark))
        (metadata(language, &report.metadata))
        (fingerprint(language, &report.fingerprint))
        section {
            h2 { (say("This result", "Dieses Ergebnis")) }
            dl {
                dt { (say("File", "Datei")) }
                dd {
                    (file.format) ", " (file.bytes) " " (say("bytes", "Bytes"))
                    @if let (Some(width), Some(height)) = (file.width_px, file.height_px) { ", " (width) " × " (height) " px" }
                }
                dt { "SHA-256" } dd { code { (file.sha256) } }
                dt { (say("Checked", "Geprüft")) } dd { (report.checked_at) }
            }
            p { a.download href={ "data:application/json;base64," (download.base64) } download="bildkante-report.json" {
                (say("Download the result", "Ergebnis herunterladen"))
            } }
            p.meaning { (download_meaning(language, download)) }
        }
        h2 { (say("Another picture", "Ein anderes Bild")) }
        (upload(language, file_bytes_max))
    };
    layout(language, say("Result", "Ergebnis"), &main)
}

/// A document and who signed it.
#[derive(Debug)]
pub(super) struct Download {
    pub(super) base64: String,
    pub(super) signed_by: Option<String>,
}

fn download_meaning(language: Language, download: &Download) -> Markup {
    let say = |english, german| language.say(english, german);
    html! {
        @match &download.signed_by {
            Some(signer) => {
                (say("It is signed by ", "Es ist signiert von ")) b { (signer) } ". "
                (say(
                    "Anybody can verify it: ",
                    "Jeder kann das nachprüfen: ",
                ))
                code { "bildkante-edge inspect --result bildkante-report.json " (say("PICTURE", "BILD")) }
            }
            None => {
                (say(
                    "It is not signed, because this installation has no signer at the moment.",
                    "Es ist nicht signiert, denn diese Installation hat zurzeit keinen Unterzeichner.",
                ))
            }
        }
    }
}

fn verdict(language: Language, report: &Report) -> Markup {
    let say = |english, german| language.say(english, german);
    let (short, long) = match report.verdict {
        Conclusion::Signed => (
            say("Signed, and not changed since", "Signiert und seitdem nicht verändert"),
            say(
                "A trusted authority knows who signed this picture.",
                "Eine vertrauenswürdige Stelle weiß, wer dieses Bild signiert hat.",
            ),
        ),
        Conclusion::SignedByUnknown => (
            say("Signed, by somebody who is not known here", "Signiert, von jemandem, der hier nicht bekannt ist"),
            say(
                "The picture was not changed since it was signed. But no trusted authority vouches for the signer, who can \
                 use any name.",
                "Das Bild wurde nicht verändert, seit es signiert wurde. Aber keine vertrauenswürdige Stelle bürgt für den \
                 Unterzeichner, der jeden Namen angeben kann.",
            ),
        ),
        Conclusion::Broken => (
            say("Its signed history does not hold", "Seine signierte Geschichte stimmt nicht"),
            say(
                "The picture or its history was changed after it was signed, or the signature is not valid.",
                "Das Bild oder seine Geschichte wurde nach dem Signieren verändert, oder die Signatur ist ungültig.",
            ),
        ),
        Conclusion::Marked => (
            say("Not signed, but marked", "Nicht signiert, aber gekennzeichnet"),
            say(
                "Marks tell of its origin. They are hints, not proof: marks can be removed and forged.",
                "Kennzeichen sagen etwas über die Herkunft. Sie sind Hinweise, kein Beweis: Kennzeichen lassen sich entfernen \
                 und fälschen.",
            ),
        ),
        Conclusion::Nothing => (
            say("Nothing was found", "Nichts gefunden"),
            say(
                "That proves nothing. Marks are lost when a picture is edited, and most pictures never had any.",
                "Das beweist nichts. Kennzeichen gehen beim Bearbeiten verloren, und die meisten Bilder hatten nie welche.",
            ),
        ),
    };
    html! {
        div.verdict data-verdict=(report.verdict.as_str()) role="status" {
            strong { (short) }
            p { (long) }
            @if report.made_by_a_model == Stated::Stated {
                p { b { (say(
                    "It says that an AI model made it, or had a part in it.",
                    "Es sagt, dass ein KI-Modell es gemacht oder daran mitgewirkt hat.",
                )) } }
            }
        }
    }
}

fn c2pa(language: Language, finding: &Finding) -> Markup {
    let say = |english, german| language.say(english, german);
    html! {
        section {
            h2 { (say("Signed history (C2PA)", "Signierte Geschichte (C2PA)")) }
            @match finding {
                Finding::Absent => p { (say("The file carries none.", "Die Datei enthält keine.")) },
                Finding::Elsewhere { url } => p {
                    (say("The file says that its history is at ", "Die Datei sagt, ihre Geschichte sei unter ")) code { (url) }
                    (say(". It was not fetched.", " zu finden. Sie wurde nicht abgerufen."))
                },
                Finding::Valid { credentials } => (told_credentials(language, credentials)),
                Finding::Invalid { failures, credentials } => {
                    ul { @for failure in failures { li { (why(language, failure)) } } }
                    @if let Some(credentials) = credentials {
                        p { (say("It claims, and none of this is proven:", "Sie behauptet, und nichts davon ist belegt:")) }
                        (told_credentials(language, credentials))
                    }
                }
            }
            p.meaning {
                (say(
                    "A signature shows that the picture is the one that was signed. It says nothing of whether the picture is \
                     true. A screenshot loses it.",
                    "Eine Signatur zeigt, dass das Bild das ist, das signiert wurde. Sie sagt nicht, ob das Bild wahr ist. Ein \
                     Bildschirmfoto verliert sie.",
                ))
            }
        }
    }
}

fn why(language: Language, failure: &Failure) -> Markup {
    let say = |english, german| language.say(english, german);
    let told = match failure.kind {
        FailureKind::Tampered => say(
            "The picture or its history was changed after it was signed",
            "Das Bild oder seine Geschichte wurde nach dem Signieren verändert",
        ),
        FailureKind::Expired => say(
            "The signer's certificate was not valid when it signed",
            "Das Zertifikat des Unterzeichners war beim Signieren nicht gültig",
        ),
        FailureKind::Revoked => {
            say("The signer's certificate was revoked", "Das Zertifikat des Unterzeichners wurde widerrufen")
        }
        FailureKind::Credential => {
            say("The certificate may not sign pictures", "Das Zertifikat darf keine Bilder signieren")
        }
        FailureKind::Damaged => {
            say("The history is damaged or cannot be read", "Die Geschichte ist beschädigt oder nicht lesbar")
        }
        FailureKind::Rule => {
            say("The history breaks a rule of the standard", "Die Geschichte verletzt eine Regel des Standards")
        }
    };
    html! { (told) " (" code { (failure.code) } ")" }
}

fn told_credentials(language: Language, credentials: &Credentials) -> Markup {
    let say = |english, german| language.say(english, german);
    let by = credentials.signed_by.as_ref().and_then(|by| by.organisation.as_deref());
    let generation = credentials.generation.as_ref();
    html! {
        dl {
            dt { (say("Signed by", "Signiert von")) }
            dd {
                (by.unwrap_or(say("nobody named", "niemand genannt")))
                @match credentials.standing {
                    Standing::Trusted => (say(" (known)", " (bekannt)")),
                    Standing::Unknown => (say(" (not known: any name can stand here)", " (nicht bekannt: hier kann jeder Name stehen)")),
                }
            }
            dt { (say("Date", "Datum")) }
            dd { (credentials.signed_at.as_deref().unwrap_or(say("not attested", "nicht bezeugt"))) }
            @if let Some(generator) = &credentials.generator { dt { (say("Made with", "Gemacht mit")) } dd { (generator) } }
            @if !credentials.actions.is_empty() {
                dt { (say("What was done", "Was geschah")) }
                dd { ul { @for action in &credentials.actions {
                    li {
                        code { (action.action) }
                        @if let Some(source) = action.source.as_deref().and_then(|uri| uri.rsplit('/').next()) { " (" (source) ")" }
                        @if let Some(at) = &action.at { ", " (at) }
                    }
                } } }
            }
            @if let Some(checkpoint) = generation.and_then(|generation| generation.checkpoint.as_deref()) {
                dt { (say("Model", "Modell")) } dd { code { (checkpoint) } }
            }
        }
    }
}

fn watermark(language: Language, layer: &WatermarkLayer) -> Markup {
    let say = |english, german| language.say(english, german);
    html! {
        section {
            h2 { (say("Watermark in the pixels", "Wasserzeichen in den Pixeln")) }
            @if layer.found.is_empty() && !layer.searched.is_empty() {
                p { (say("None was found.", "Keines gefunden.")) }
            }
            @for found in &layer.found { (told_mark(language, found)) }
            @for unsearched in &layer.unsearched {
                p { (say("Not looked for: ", "Nicht gesucht: ")) (unsearched.reason) }
            }
            p.meaning {
                (say(
                    "A watermark survives screenshots, other sizes and most editing. It is a hint, not a proof, and it can be \
                     removed. Only watermarks that this installation can read are looked for.",
                    "Ein Wasserzeichen übersteht Bildschirmfotos, andere Größen und die meisten Bearbeitungen. Es ist ein \
                     Hinweis, kein Beweis, und es kann entfernt werden. Gesucht werden nur Wasserzeichen, die diese \
                     Installation lesen kann.",
                ))
            }
        }
    }
}

fn told_mark(language: Language, found: &FoundMark) -> Markup {
    let say = |english, german| language.say(english, german);
    let mark = &found.mark;
    html! {
        dl {
            dt { (say("Found", "Gefunden")) } dd { code { (mark.value) } " · " (mark.algorithm) }
            @if let Some(chance) = mark.chance_log10 {
                dt { (say("Chance of error", "Irrtum")) }
                dd { (say("at most ", "höchstens ")) "10" sup { (format!("{chance:.0}")) } }
            }
            @if let Some(confidence) = mark.confidence {
                dt { (say("Confidence", "Sicherheit")) } dd { (format!("{:.0} %", confidence * 100.0)) }
            }
            @if let Some(key) = &mark.key {
                dt { (say("Key", "Schlüssel")) }
                dd {
                    (key.id)
                    @if key.is_published {
                        (say(", which is published: anybody can write it", ", der veröffentlicht ist: Jeder kann es schreiben"))
                    }
                }
            }
            @if let Some(agrees) = found.agrees_with_manifest {
                dt { (say("Signed history", "Signierte Geschichte")) }
                dd { @if agrees { (say("names the same mark", "nennt dasselbe Zeichen")) } @else { (say("names another mark", "nennt ein anderes Zeichen")) } }
            }
            (told_masters(language, &found.masters))
        }
    }
}

fn told_masters(language: Language, masters: &[KnownMaster]) -> Markup {
    html! {
        @for known in masters {
            dt { (language.say("Picture here", "Bild von hier")) }
            dd {
                @match &known.url {
                    Some(url) => a href=(url) rel="noopener" { (url) },
                    None => code { (known.master) },
                }
                @if let Some(bits) = known.distance_bits {
                    " (" (bits) (language.say(" of 256 bits differ", " von 256 Bit verschieden")) ")"
                }
            }
        }
    }
}

fn metadata(language: Language, told: &Told) -> Markup {
    let say = |english, german| language.say(english, german);
    let facts = [
        (say("Source", "Quelle"), told.source_term()),
        (say("AI system", "KI-System"), told.ai_system.as_deref()),
        (say("Version", "Version"), told.ai_system_version.as_deref()),
        (say("Prompt", "Prompt"), told.ai_prompt.as_deref()),
        (say("Creator", "Urheber"), told.creator.as_deref()),
        (say("Credit", "Bildnachweis"), told.credit.as_deref()),
        (say("Copyright", "Urheberrecht"), told.copyright.as_deref()),
        (say("Licence", "Lizenz"), told.licence.as_deref()),
        (say("Created", "Entstanden"), told.created.as_deref()),
        (say("Software", "Software"), told.software.as_deref()),
    ];
    let facts: Vec<_> = facts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    html! {
        section {
            h2 { (say("Statements in the file", "Angaben in der Datei")) }
            @if facts.is_empty() { p { (say("There are none.", "Es gibt keine.")) } }
            @else { dl { @for (name, value) in &facts { dt { (name) } dd { (value) } } } }
            @for unread in &told.unread { p { (say("A part cannot be read: ", "Ein Teil ist nicht lesbar: ")) (unread.reason) } }
            p.meaning {
                (say(
                    "Anybody can write and remove such statements (XMP, IPTC, EXIF). They are claims.",
                    "Jeder kann solche Angaben (XMP, IPTC, EXIF) schreiben und entfernen. Sie sind Behauptungen.",
                ))
            }
        }
    }
}

fn fingerprint(language: Language, layer: &FingerprintLayer) -> Markup {
    let say = |english, german| language.say(english, german);
    html! {
        section {
            h2 { (say("Looks like", "Sieht aus wie")) }
            @if layer.found.is_empty() {
                p {
                    @if layer.value.is_none() { (say("The picture could not be decoded.", "Das Bild ließ sich nicht lesen.")) }
                    @else { (say("No picture that is served here.", "Kein Bild, das hier ausgeliefert wird.")) }
                }
            } @else {
                dl { (told_masters(language, &layer.found)) }
            }
            p.meaning {
                (say(
                    "Compared were ",
                    "Verglichen wurde mit ",
                )) (layer.compared) (say(
                    " pictures, in their lightness and as a whole: two things of different colours look alike, and a cut does \
                     not.",
                    " Bildern, nach ihrer Helligkeit und im Ganzen: Zwei Dinge verschiedener Farbe gleichen einander, ein \
                     Ausschnitt nicht.",
                ))
            }
        }
    }
}

/// Why there is no result.
pub(super) fn refusal(language: Language, status: u16, detail: &str, file_bytes_max: usize) -> String {
    let say = |english, german| language.say(english, german);
    let told = match status {
        413 => say("The picture is too large.", "Das Bild ist zu groß."),
        415 | 422 => {
            say("This is no picture that can be checked here.", "Das ist kein Bild, das hier geprüft werden kann.")
        }
        429 => say(
            "Too many pictures from your network. Please wait a little.",
            "Zu viele Bilder aus Ihrem Netz. Bitte warten Sie etwas.",
        ),
        503 => say(
            "Many pictures are being checked. Please try again.",
            "Es werden gerade viele Bilder geprüft. Bitte versuchen Sie es noch einmal.",
        ),
        _ => say("The picture did not arrive.", "Das Bild ist nicht angekommen."),
    };
    let main = html! {
        h1 { (say("No result", "Kein Ergebnis")) }
        div.verdict role="alert" { strong { (told) } p lang="en" { (detail) } }
        (upload(language, file_bytes_max))
    };
    layout(language, say("No result", "Kein Ergebnis"), &main)
}

fn layout(language: Language, title: &str, main: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang=(language.code()) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                title { (title) " · Bildkante" }
                link rel="stylesheet" href={ (PATH) "/verify.css" };
                script src={ (PATH) "/verify.js" } defer {}
            }
            body {
                header {
                    a href={ (PATH) "?lang=" (language.code()) } { "Bildkante" }
                    nav aria-label=(language.say("Language", "Sprache")) {
                        @for other in Language::ALL {
                            a href={ (PATH) "?lang=" (other.code()) } lang=(other.code()) hreflang=(other.code())
                                aria-current=[(other == language).then_some("true")] { (other.name()) }
                        }
                    }
                }
                main { (main) }
            }
        }
    };
    page.into_string()
}
