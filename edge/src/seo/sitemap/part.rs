//! One file of a sitemap: XML, gzipped while it is written, within the limits of a file.
//!
//! Sources: sitemaps.org protocol 0.9 (50,000 entries and 50 MB a file), Google's image sitemaps 1.1: `image:loc` alone, because
//! captions, titles and licences were taken out of it in 2022.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use bildkante_shared::ids::Digest;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::words::Moment;

/// Most entries of a file: a fifth of what the protocol allows, so that a file is small enough to be answered in one piece.
pub(super) const ENTRIES_MAX: u32 = 10_000;
/// Most bytes of a file before it is gzipped. An entry is under 500 kB: 64 pictures and a page of 2 kB.
const BYTES_MAX: u64 = 48_000_000;

const HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
    <urlset xmlns=\"http://www.sitemaps.org/schemas/sitemap/0.9\" xmlns:image=\"http://www.google.com/schemas/sitemap-image/1.1\">\n";
const TAIL: &str = "</urlset>\n";

/// An address, and the pictures that are found there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) location: String,
    /// When what is there last changed, where that is known.
    pub(super) changed: Option<Moment>,
    pub(super) images: Vec<String>,
}

impl Entry {
    fn xml(&self) -> String {
        let mut xml = format!("<url><loc>{}</loc>", escaped(&self.location));
        if let Some(changed) = self.changed {
            xml.push_str(&format!("<lastmod>{changed}</lastmod>"));
        }
        for image in &self.images {
            xml.push_str(&format!("<image:image><image:loc>{}</image:loc></image:image>", escaped(image)));
        }
        xml.push_str("</url>\n");
        xml
    }
}

/// A file that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// `autumn-1.xml.gz`
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) entries: u32,
    pub(super) digest: Digest,
}

/// Writes the files of one campaign, the next one where one is full.
pub(super) struct Parts<'f> {
    folder: &'f Path,
    campaign: &'f str,
    open: Option<OpenPart>,
    written: Vec<Part>,
}

struct OpenPart {
    name: String,
    path: PathBuf,
    file: GzEncoder<BufWriter<File>>,
    digest: blake3::Hasher,
    entries: u32,
    bytes: u64,
}

impl<'f> Parts<'f> {
    pub(super) const fn new(folder: &'f Path, campaign: &'f str) -> Self {
        Self { folder, campaign, open: None, written: Vec::new() }
    }

    pub(super) fn add(&mut self, entry: &Entry) -> io::Result<()> {
        let is_full = |part: &OpenPart| part.entries >= ENTRIES_MAX || part.bytes >= BYTES_MAX;
        if let Some(full) = self.open.take_if(|part| is_full(part)) {
            self.written.push(full.close()?);
        }
        if self.open.is_none() {
            let name = format!("{}-{}.xml.gz", self.campaign, self.written.len() + 1);
            self.open = Some(OpenPart::new(self.folder, name)?);
        }
        let Some(part) = &mut self.open else { return Ok(()) };
        part.entries += 1;
        part.write(&entry.xml())
    }

    pub(super) fn close(mut self) -> io::Result<Vec<Part>> {
        if let Some(last) = self.open.take() {
            self.written.push(last.close()?);
        }
        Ok(self.written)
    }
}

impl OpenPart {
    fn new(folder: &Path, name: String) -> io::Result<Self> {
        let path = folder.join(&name);
        let file = GzEncoder::new(BufWriter::new(File::create(&path)?), Compression::default());
        let mut part = Self { name, path, file, digest: blake3::Hasher::new(), entries: 0, bytes: 0 };
        part.write(HEAD)?;
        Ok(part)
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        self.bytes += text.len() as u64;
        self.digest.update(text.as_bytes());
        self.file.write_all(text.as_bytes())
    }

    fn close(mut self) -> io::Result<Part> {
        self.write(TAIL)?;
        self.file.finish()?.flush()?;
        let digest = Digest::from_hash(&self.digest.finalize());
        Ok(Part { name: self.name, path: self.path, entries: self.entries, digest })
    }
}

/// The five characters that XML takes for its own.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn a_full_file_is_followed_by_the_next() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut parts = Parts::new(dir.path(), "autumn");
        for number in 0..=ENTRIES_MAX {
            let location = format!("https://shop.example/?a={number}&b='<>\"");
            parts
                .add(&Entry { location, changed: None, images: vec!["https://img.example/i/a/b?c=d&e=f".into()] })
                .expect("written");
        }
        let parts = parts.close().expect("written");
        let entries: Vec<_> = parts.iter().map(|part| (part.name.as_str(), part.entries)).collect();
        assert_eq!(entries, [("autumn-1.xml.gz", ENTRIES_MAX), ("autumn-2.xml.gz", 1)]);
        let mut xml = String::new();
        GzDecoder::new(File::open(&parts[1].path).expect("a file")).read_to_string(&mut xml).expect("gzip");
        let expected = "<url><loc>https://shop.example/?a=10000&amp;b=&apos;&lt;&gt;&quot;</loc><image:image>\
            <image:loc>https://img.example/i/a/b?c=d&amp;e=f</image:loc></image:image></url>\n";
        assert_eq!(xml, format!("{HEAD}{expected}{TAIL}"));
        assert_eq!(parts[1].digest, Digest::of_bytes(xml.as_bytes()));
    }

    #[test]
    fn nothing_makes_no_file_and_a_date_stands_before_the_pictures() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(Parts::new(dir.path(), "autumn").close().expect("nothing"), []);
        let changed = Moment::from_unix_s(0);
        let entry = Entry { location: "https://a/".into(), changed, images: vec![] };
        assert_eq!(entry.xml(), "<url><loc>https://a/</loc><lastmod>1970-01-01T00:00:00Z</lastmod></url>\n");
    }
}
