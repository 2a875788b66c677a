//! The XMP packet (ISO 16684-1): properties by namespace and name, as attributes of a description or as elements, whatever
//! prefixes a writer chose. Of a list the first entry counts. Entities of a document's own are not resolved.

use quick_xml::NsReader;
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Namespace, ResolveResult};

use super::Field;

/// Most events that are read of a packet, and how deep elements may lie in each other.
const EVENTS_MAX: usize = 20_000;
const DEPTH_MAX: usize = 32;
/// Longest text that is gathered, in bytes.
const TEXT_BYTES_MAX: usize = 8 * 1024;

const RDF: &[u8] = b"http://www.w3.org/1999/02/22-rdf-syntax-ns#";
const DC: &[u8] = b"http://purl.org/dc/elements/1.1/";
const DC_TERMS: &[u8] = b"http://purl.org/dc/terms/";
const IPTC_EXT: &[u8] = b"http://iptc.org/std/Iptc4xmpExt/2008-02-29/";
const PHOTOSHOP: &[u8] = b"http://ns.adobe.com/photoshop/1.0/";
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/";
const XMP_RIGHTS: &[u8] = b"http://ns.adobe.com/xap/1.0/rights/";

fn field(namespace: &[u8], name: &[u8]) -> Option<Field> {
    Some(match (namespace, name) {
        (IPTC_EXT, b"DigitalSourceType") => Field::DigitalSourceType,
        (IPTC_EXT, b"AISystemUsed") => Field::AiSystem,
        (IPTC_EXT, b"AISystemVersionUsed") => Field::AiSystemVersion,
        (IPTC_EXT, b"AIPromptInformation") => Field::AiPrompt,
        (DC, b"creator") => Field::Creator,
        (DC, b"rights") => Field::Copyright,
        (PHOTOSHOP, b"Credit") => Field::Credit,
        (PHOTOSHOP, b"DateCreated") => Field::Created,
        (XMP_RIGHTS, b"WebStatement") => Field::Licence,
        (XMP, b"CreatorTool") => Field::Software,
        (DC_TERMS, b"provenance") => Field::ManifestUrl,
        _ => return None,
    })
}

/// An element whose text is gathered.
struct Open {
    field: Field,
    depth: usize,
    text: String,
}

impl Open {
    fn push(&mut self, text: &str) {
        if self.text.len() + text.len() <= TEXT_BYTES_MAX {
            self.text.push_str(text);
        }
    }
}

pub(super) fn read(packet: &[u8], learn: &mut dyn FnMut(Field, &str)) -> Result<(), String> {
    let packet = std::str::from_utf8(packet).map_err(|_| "it is no UTF-8".to_owned())?;
    let mut reader = NsReader::from_str(packet);
    let (mut depth, mut open) = (0_usize, None::<Open>);
    for _ in 0..EVENTS_MAX {
        match reader.read_event().map_err(|error| error.to_string())? {
            Event::Eof => return Ok(()),
            Event::Start(element) => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err("its elements lie too deep in each other".to_owned());
                }
                let found = begun(&reader, &element, learn);
                open = open.or(found.map(|field| Open { field, depth, text: String::new() }));
            }
            Event::Empty(element) => drop(begun(&reader, &element, learn)),
            Event::Text(text) => {
                if let (Some(open), Ok(text)) = (&mut open, text.decode()) {
                    open.push(&text);
                }
            }
            Event::CData(text) => {
                if let (Some(open), Ok(text)) = (&mut open, text.decode()) {
                    open.push(&text);
                }
            }
            Event::GeneralRef(reference) => {
                let character = reference.resolve_char_ref().ok().flatten().or_else(|| named(&reference));
                if let (Some(open), Some(character)) = (&mut open, character) {
                    open.push(character.encode_utf8(&mut [0; 4]));
                }
            }
            Event::End(_) => {
                if let Some(gathered) = &mut open {
                    // The first entry of a list that is not empty.
                    if !gathered.text.trim().is_empty() {
                        learn(gathered.field, &gathered.text);
                    }
                    gathered.text.clear();
                }
                open = open.filter(|open| open.depth < depth);
                depth = depth.saturating_sub(1);
            }
            _ => {}
        }
    }
    Err("it is longer than any packet needs to be".to_owned())
}

/// The five that XML knows without a declaration (XML 1.0 §4.6).
fn named(name: &[u8]) -> Option<char> {
    match name {
        b"amp" => Some('&'),
        b"lt" => Some('<'),
        b"gt" => Some('>'),
        b"quot" => Some('"'),
        b"apos" => Some('\''),
        _ => None,
    }
}

/// Learns what an element's attributes say. The field that its content answers, if it does.
fn begun(reader: &NsReader<&[u8]>, element: &BytesStart<'_>, learn: &mut dyn FnMut(Field, &str)) -> Option<Field> {
    let resolver = reader.resolver();
    let (namespace, name) = resolver.resolve_element(element.name());
    let content = bound(&namespace).and_then(|namespace| field(namespace, name.as_ref()));
    for attribute in element.attributes().flatten() {
        let (namespace, name) = resolver.resolve_attribute(attribute.key);
        let Some(namespace) = bound(&namespace) else { continue };
        let of =
            if namespace == RDF && name.as_ref() == b"resource" { content } else { field(namespace, name.as_ref()) };
        if let Some(of) = of
            && let Ok(value) = attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0)
            && value.len() <= TEXT_BYTES_MAX
        {
            learn(of, &value);
        }
    }
    content
}

const fn bound<'a>(resolved: &ResolveResult<'a>) -> Option<&'a [u8]> {
    match resolved {
        ResolveResult::Bound(Namespace(namespace)) => Some(namespace),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(body: &str) -> Vec<(Field, String)> {
        let packet = format!(
            "<r:RDF xmlns:r=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\" xmlns:d=\"http://purl.org/dc/elements/1.1/\" \
             xmlns:i=\"http://iptc.org/std/Iptc4xmpExt/2008-02-29/\"><r:Description>{body}</r:Description></r:RDF>"
        );
        let mut told = Vec::new();
        read(packet.as_bytes(), &mut |field, text| told.push((field, text.trim().to_owned()))).expect("a packet");
        told
    }

    #[test]
    fn prefixes_and_forms_are_a_writers_choice() {
        let source = |text: &str| vec![(Field::DigitalSourceType, text.to_owned())];
        assert_eq!(told("<i:DigitalSourceType>a&amp;b&#x21;</i:DigitalSourceType>"), source("a&b!"));
        assert_eq!(told("<i:DigitalSourceType r:resource='a'/>"), source("a"));
        assert_eq!(told("<r:Description i:DigitalSourceType='a&lt;'/>"), source("a<"));
        let list = "<d:creator><r:Seq> <r:li>one</r:li><r:li>two</r:li></r:Seq></d:creator>";
        assert_eq!(told(list)[0], (Field::Creator, "one".to_owned()));
        assert_eq!(told("<x:DigitalSourceType xmlns:x='urn:other'>a</x:DigitalSourceType>"), []);
    }

    #[test]
    fn bombs_are_errors() {
        let nothing = &mut |_: Field, _: &str| {};
        assert!(read("<a>".repeat(40).as_bytes(), nothing).is_err());
        assert!(read("<a/>".repeat(EVENTS_MAX + 1).as_bytes(), nothing).is_err());
        assert!(read(b"\xff", nothing).is_err());
        let entities = "<!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]><r>&b;</r>";
        assert_eq!(read(entities.as_bytes(), nothing), Ok(()));
    }
}
