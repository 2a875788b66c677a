//! What every width of a picture takes in every format: bytes, score and time of the files that this edge has. The script asks for the
//! others when the reader does, because asking renders.

use maud::{Markup, html};

use super::tastes::Tastes;
use crate::cache::FileFacts;
use crate::campaign::{Campaign, Catalog, Cut};
use crate::fill::{Fill, PictureFile};
use crate::language::Language;
use crate::render::{RenditionSpec, Rung};
use crate::resolve::{Operator, resolve};
use crate::seo::Picture;
use crate::words::Format;

/// Between a number and its unit, which stay on one line.
const NO_BREAK: char = '\u{a0}';
/// Formats that markup offers, the best first.
const OFFERED: [Format; 3] = [Format::Avif, Format::Webp, Format::Jpeg];

/// The files of a variant, by cut, width and format.
#[derive(Debug, Default)]
pub(super) struct Files(Vec<(FileName, PictureFile)>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct FileName {
    /// `None` of the slot's own framing.
    cut: Option<String>,
    width_px: u32,
    format: Format,
}

impl Files {
    /// Of a variant, by its combination of values.
    pub(super) async fn of(
        (catalog, fill): (&Catalog, &Fill),
        (campaign, slot_index): (&Campaign, usize),
        combination: u32,
    ) -> Self {
        let slot = &campaign.slots[slot_index];
        let mut files = Vec::new();
        for (cut, framing) in slot.framings() {
            let art = cut.map(|cut| format!("&{}={cut}", crate::campaign::ART)).unwrap_or_default();
            let url = campaign.url(slot, &format!("{}{art}", campaign.query(combination)));
            let Ok(found) = resolve(catalog, url.as_str(), &Operator).outcome else { continue };
            let sizes = framing.widths.iter().flat_map(|width_px| OFFERED.map(|format| (*width_px, format)));
            let sizes: Vec<_> = sizes.filter(|(_, format)| slot.formats.contains(*format)).collect();
            let specs = sizes.iter().map(|&(width_px, format)| RenditionSpec {
                width_px,
                height_px: framing.height_px(width_px),
                shape: framing.shape(found.want.variant.size_px, width_px),
                format,
                ..found.want.spec
            });
            let known = fill.files(&found.want, &specs.collect::<Vec<_>>()).await;
            let named = sizes.into_iter().zip(known).filter_map(|((width_px, format), file)| {
                Some((FileName { cut: cut.map(str::to_owned), width_px, format }, file?))
            });
            files.extend(named);
        }
        Self(files)
    }

    fn get(&self, cut: Option<&Cut>, width_px: u32, format: Format) -> Option<PictureFile> {
        let name = FileName { cut: cut.map(|cut| cut.name.clone()), width_px, format };
        self.0.iter().find(|(known, _)| *known == name).map(|(_, file)| *file)
    }
}

pub(super) fn files(tastes: Tastes, picture: &Picture<'_>, cuts: &[Cut], files: &Files) -> Markup {
    let say = |english, german| tastes.say(english, german);
    html! {
        section aria-labelledby="formats" {
            h2 id="formats" { (say("Widths and formats", "Breiten und Formate")) }
            div.scroll tabindex="0" role="group" aria-labelledby="formats" {
                table data-bytes {
                    thead { tr { th scope="col" { (say("Width", "Breite")) } @for format in offered(picture) { th scope="col" { (format.as_str().to_uppercase()) } } } }
                    tbody {
                        @for &width_px in picture.widths_px { (row((tastes, picture), None, width_px, files)) }
                        @for cut in cuts {
                            @for &width_px in &cut.framing.widths { (row((tastes, picture), Some(cut), width_px, files)) }
                        }
                    }
                }
            }
            p.key {
                (say("A quick file is sent at once, and the final one takes its place. Points say how near a file is to its picture \
                    (SSIMULACRA2): 100 is the same, 90 looks the same, 70 is of high quality. The time is the encoder’s.",
                    "Eine vorläufige Datei geht sofort hinaus, die endgültige ersetzt sie. Punkte sagen, wie nah eine Datei ihrem Bild ist \
                    (SSIMULACRA2): 100 ist dasselbe, 90 sieht gleich aus, 70 ist hohe Qualität. Die Zeit ist die des Kodierers."))
            }
            button type="button" data-measure hidden { (say("Measure the bytes", "Bytes messen")) }
        }
    }
}

fn row((tastes, picture): (Tastes, &Picture<'_>), cut: Option<&Cut>, width_px: u32, files: &Files) -> Markup {
    let cells: Vec<_> = offered(picture).map(|format| (format, files.get(cut, width_px, format))).collect();
    // Beside one that is not known, none is the smallest.
    let least = cells.iter().map(|(_, file)| Some(file.as_ref()?.now.bytes)).collect::<Option<Vec<_>>>();
    let least = least.and_then(|bytes| bytes.into_iter().min());
    html! {
        tr {
            th scope="row" { @if let Some(cut) = cut { (cut.name) ", " } (width_px) " px" }
            @for (format, file) in &cells {
                td data-format-url=(picture.candidate_of(cut, width_px, Some(*format)))
                    class=[file.filter(|file| least == Some(file.now.bytes)).map(|_| "least")] {
                    @match file {
                        Some(PictureFile { now, before }) => {
                            b { (kilobytes(now.bytes, tastes.language)) }
                            span.key data-rung=(now.rung.as_str()) { (told(*now, tastes.language)) }
                            @if let Some(before) = before {
                                span.key data-before { (kilobytes(before.bytes, tastes.language)) " " (told(*before, tastes.language)) }
                            }
                        },
                        None => "–",
                    }
                }
            }
        }
    }
}

/// The formats of the slot that markup offers.
fn offered(picture: &Picture<'_>) -> impl Iterator<Item = Format> + use<> {
    let formats = picture.formats;
    OFFERED.into_iter().filter(move |format| formats.contains(*format))
}

/// Rung, score and time.
fn told(facts: FileFacts, language: Language) -> String {
    let mut words = vec![match facts.rung {
        Rung::Hurried => language.say("hurried", "in Eile").to_owned(),
        Rung::Quick => language.say("quick", "vorläufig").to_owned(),
        Rung::Final => language.say("final", "endgültig").to_owned(),
    }];
    if let Some(making) = facts.making {
        let points = language.say("points", "Punkte");
        words.extend(making.score.map(|score| format!("{}{NO_BREAK}{points}", decimal(score.to_string(), language))));
        words.push(time(making.encode_ms, language));
    }
    words.join(", ")
}

/// Rounded as the script does it.
fn time(encode_ms: u32, language: Language) -> String {
    match encode_ms {
        0..1_000 => format!("{encode_ms}{NO_BREAK}ms"),
        _ => {
            let tenths = (encode_ms + 50) / 100;
            format!("{}{NO_BREAK}s", decimal(format!("{}.{}", tenths / 10, tenths % 10), language))
        }
    }
}

fn kilobytes(bytes: u64, language: Language) -> String {
    #[allow(clippy::cast_precision_loss, reason = "files are far below 2^52 bytes")]
    let kilobytes = bytes as f64 / 1e3;
    format!("{}{NO_BREAK}kB", decimal(format!("{kilobytes:.1}"), language))
}

fn decimal(number: String, language: Language) -> String {
    match language {
        Language::English => number,
        Language::German => number.replace('.', ","),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::{Making, Score};

    #[test]
    fn a_file_is_told_as_each_language_writes_it() {
        let score = Some(Score::of(71.34));
        let made = |rung, encode_ms, score| FileFacts {
            rung,
            bytes: 9_120,
            making: Some(Making { encode_ms, score }),
            generation: 0,
        };
        let (last, quick) = (made(Rung::Final, 1_640, score), made(Rung::Quick, 80, None));
        let former = FileFacts { making: None, ..last };
        let told =
            [Language::English, Language::German].map(|language| [last, quick, former].map(|it| told(it, language)));
        assert_eq!(told[0], ["final, 71.3\u{a0}points, 1.6\u{a0}s", "quick, 80\u{a0}ms", "final"]);
        assert_eq!(told[1], ["endgültig, 71,3\u{a0}Punkte, 1,6\u{a0}s", "vorläufig, 80\u{a0}ms", "endgültig"]);
        assert_eq!(
            [kilobytes(9_120, Language::English), kilobytes(12_345, Language::German)],
            ["9.1\u{a0}kB", "12,3\u{a0}kB"]
        );
    }
}
