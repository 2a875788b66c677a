//! The XMP packet: RDF/XML as ISO 16684-1 lays it down, with the properties of the IPTC Photo Metadata Standard.
//!
//! The packet is read-only (`end="r"`) and unpadded: a rendition is a few kilobytes, and is not edited in place. What stands around the
//! statements is as short as the format allows ([`Form`]); the statements are the same in all.

use std::fmt::Write as _;

use super::{Description, Generator, Location};
use crate::words::Moment;

/// What stands around the statements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Every namespace that a statement may have. Digests are made of it, and stand in the names of stored files: it stays what it is.
    Full,
    /// The namespaces that are used, and the wrapper by which a packet is found in a file of an unknown format. Readers of JPEG and PNG look
    /// for it.
    Wrapped,
    /// Without the wrapper, which is optional where the container says what the bytes are (ISO 16684-1 §7.3.2), as items of AVIF and chunks of
    /// WebP do.
    Bare,
}

/// The packet of a picture. Infallible: what XML cannot carry becomes U+FFFD, so a marking that was never validated is
/// still embedded, legibly. What is not said leaves no trace, so packets without the later statements stay what they were.
#[must_use]
pub(super) fn packet(description: &Description, created: Option<Moment>, manifest: Option<&str>, form: Form) -> String {
    let Description { marking, source, generator } = description;
    let mut xml = String::with_capacity(1024);
    if form != Form::Bare {
        xml.push_str("<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>");
    }
    xml.push_str(concat!(
        r#"<x:xmpmeta xmlns:x="adobe:ns:meta/">"#,
        r#"<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">"#,
        r#"<rdf:Description rdf:about="""#,
    ));
    let is_owned = marking.copyright.is_some();
    for (name, namespace, is_used) in [
        ("xmlns:dc", "http://purl.org/dc/elements/1.1/", is_owned || marking.creator.is_some()),
        ("xmlns:photoshop", "http://ns.adobe.com/photoshop/1.0/", created.is_some() || marking.credit.is_some()),
        ("xmlns:xmpRights", "http://ns.adobe.com/xap/1.0/rights/", is_owned || marking.license.is_some()),
        ("xmlns:Iptc4xmpExt", "http://iptc.org/std/Iptc4xmpExt/2008-02-29/", true),
    ] {
        if is_used || form == Form::Full {
            attribute(&mut xml, name, namespace);
        }
    }
    attribute(&mut xml, "Iptc4xmpExt:DigitalSourceType", source.uri());
    if let Some(generator) = generator {
        push_generator(&mut xml, generator);
    }
    if let Some(created) = created {
        attribute(&mut xml, "photoshop:DateCreated", &created.to_string());
    }
    if let Some(credit) = &marking.credit {
        attribute(&mut xml, "photoshop:Credit", credit);
    }
    if let Some(license) = &marking.license {
        attribute(&mut xml, "xmpRights:WebStatement", license);
    }
    if is_owned {
        // True: rights-managed. Without a notice the packet claims neither that nor the public domain.
        attribute(&mut xml, "xmpRights:Marked", "True");
    }
    if let Some(manifest) = manifest {
        attribute(&mut xml, "xmlns:dcterms", "http://purl.org/dc/terms/");
        attribute(&mut xml, "dcterms:provenance", manifest);
    }
    xml.push('>');
    if let Some(creator) = &marking.creator {
        let creator = escaped(creator);
        let _ = write!(xml, "<dc:creator><rdf:Seq><rdf:li>{creator}</rdf:li></rdf:Seq></dc:creator>");
    }
    if let Some(copyright) = &marking.copyright {
        let notice = escaped(copyright);
        let _ =
            write!(xml, r#"<dc:rights><rdf:Alt><rdf:li xml:lang="x-default">{notice}</rdf:li></rdf:Alt></dc:rights>"#);
    }
    push_location(&mut xml, &marking.location);
    xml.push_str("</rdf:Description></rdf:RDF></x:xmpmeta>");
    if form != Form::Bare {
        xml.push_str("<?xpacket end=\"r\"?>");
    }
    xml
}

/// The properties that the standard has for pictures of models since 2025.1.
fn push_generator(xml: &mut String, generator: &Generator) {
    attribute(xml, "Iptc4xmpExt:AISystemUsed", &generator.system);
    attribute(xml, "Iptc4xmpExt:AISystemVersionUsed", &generator.version);
    let Some(prompt) = &generator.prompt else { return };
    attribute(xml, "Iptc4xmpExt:AIPromptInformation", &prompt.text);
    if let Some(writer) = &prompt.writer {
        attribute(xml, "Iptc4xmpExt:AIPromptWriterName", writer);
    }
}

/// What the picture shows, not where it was made: the machine's place says nothing of it.
fn push_location(xml: &mut String, location: &Location) {
    if location.is_empty() {
        return;
    }
    xml.push_str("<Iptc4xmpExt:LocationShown><rdf:Bag><rdf:li");
    for (name, text) in [
        ("Iptc4xmpExt:Sublocation", &location.sublocation),
        ("Iptc4xmpExt:City", &location.city),
        ("Iptc4xmpExt:ProvinceState", &location.region),
        ("Iptc4xmpExt:CountryName", &location.country),
        ("Iptc4xmpExt:CountryCode", &location.country_code),
    ] {
        if let Some(text) = text {
            attribute(xml, name, text);
        }
    }
    xml.push_str("/></rdf:Bag></Iptc4xmpExt:LocationShown>");
}

fn attribute(xml: &mut String, name: &str, value: &str) {
    let _ = write!(xml, r#" {name}="{}""#, escaped(value));
}

/// Text safe in content and in double-quoted attributes. White space other than a blank is written as a character
/// reference, because XML normalises it away in attributes (XML 1.0 §3.3.3).
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' | '\r' => {
                let _ = write!(out, "&#{};", u32::from(c));
            }
            c if is_xml_char(c) => out.push(c),
            _ => out.push(char::REPLACEMENT_CHARACTER),
        }
    }
    out
}

/// XML 1.0 §2.2, production `Char`.
pub(super) const fn is_xml_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
}

#[cfg(test)]
mod tests {
    use super::super::{DigitalSource, Marking, Prompt};
    use super::*;

    fn packet_of(marking: Marking) -> String {
        packet(&Description::new(marking, DigitalSource::TrainedAlgorithmicMedia), None, None, Form::Wrapped)
    }

    #[test]
    fn markup_in_a_statement_stays_text() {
        let marking = Marking {
            creator: Some(r#"</rdf:li><script>&"x""#.into()),
            credit: Some("a\"b' & <c>\n".into()),
            ..Marking::default()
        };
        let xml = packet_of(marking);
        assert!(xml.contains("<rdf:li>&lt;/rdf:li&gt;&lt;script&gt;&amp;&quot;x&quot;</rdf:li>"), "{xml}");
        assert!(xml.contains(r#"photoshop:Credit="a&quot;b' &amp; &lt;c&gt;&#10;""#), "{xml}");
    }

    #[test]
    fn what_xml_cannot_carry_is_replaced() {
        assert_eq!(escaped("a\u{0}b\u{b}c\u{ffff}"), "a\u{fffd}b\u{fffd}c\u{fffd}");
        assert_eq!(escaped("© äöü 🫖"), "© äöü 🫖");
    }

    #[test]
    fn an_empty_marking_still_says_generated_and_claims_no_rights() {
        let xml = packet_of(Marking::default());
        assert!(xml.contains("digitalsourcetype/trainedAlgorithmicMedia"));
        assert!(!xml.contains("Marked") && !xml.contains("dc:creator") && !xml.contains("WebStatement"));
    }

    #[test]
    fn the_generator_the_date_and_the_place_are_told_where_they_are_known() {
        let marking = Marking {
            location: Location { city: Some("Ulm".into()), country_code: Some("DE".into()), ..Location::default() },
            ..Marking::default()
        };
        let prompt = Prompt { text: "a \"red\" mug".into(), writer: Some("A. B.".into()) };
        let generator = Generator { system: "sdxl".into(), version: "0123abcd".into(), prompt: Some(prompt) };
        let description = Description {
            generator: Some(generator),
            ..Description::new(marking, DigitalSource::TrainedAlgorithmicMedia)
        };
        let manifest = Some("https://img.example/m?a&b");
        let xml = packet(&description, Moment::from_unix_s(1_800_000_000), manifest, Form::Wrapped);
        for part in [
            r#" Iptc4xmpExt:AISystemUsed="sdxl" Iptc4xmpExt:AISystemVersionUsed="0123abcd""#,
            r#" Iptc4xmpExt:AIPromptInformation="a &quot;red&quot; mug" Iptc4xmpExt:AIPromptWriterName="A. B.""#,
            r#" photoshop:DateCreated="2027-01-15T08:00:00Z""#,
            r#" dcterms:provenance="https://img.example/m?a&amp;b""#,
            r#"<rdf:li Iptc4xmpExt:City="Ulm" Iptc4xmpExt:CountryCode="DE"/>"#,
        ] {
            assert!(xml.contains(part), "{part}: {xml}");
        }
    }

    /// A namespace that is used and not declared makes the whole packet unreadable.
    #[test]
    fn every_form_declares_what_it_uses_and_says_the_same() {
        let text = || Some("x".to_owned());
        let markings = [
            Marking::default(),
            Marking { creator: text(), ..Marking::default() },
            Marking { credit: text(), ..Marking::default() },
            Marking { copyright: text(), ..Marking::default() },
            Marking { license: text(), ..Marking::default() },
        ];
        for (marking, created) in markings.iter().flat_map(|marking| [(marking, None), (marking, Some(1))]) {
            let description = Description::new(marking.clone(), DigitalSource::TrainedAlgorithmicMedia);
            let of = |form| packet(&description, created.and_then(Moment::from_unix_s), None, form);
            let (full, wrapped, bare) = (of(Form::Full), of(Form::Wrapped), of(Form::Bare));
            for prefix in ["dc", "photoshop", "xmpRights", "Iptc4xmpExt"] {
                let is_used = bare.contains(&format!(" {prefix}:")) || bare.contains(&format!("<{prefix}:"));
                assert_eq!(bare.contains(&format!("xmlns:{prefix}=")), is_used, "{prefix}: {bare}");
            }
            assert!(wrapped.starts_with("<?xpacket") && wrapped.contains(&bare) && wrapped.len() <= full.len());
            let undeclared = |xml: &str| {
                let mut parts = xml.split(" xmlns:");
                let first = parts.next().unwrap_or_default().to_owned();
                // A name, an equals sign and a value in quotes.
                parts.fold(first, |all, part| all + part.splitn(3, '"').nth(2).unwrap_or_default())
            };
            assert!(undeclared(&full).contains(&undeclared(&bare)), "{full}: {bare}");
        }
    }
}
