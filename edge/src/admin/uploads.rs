//! A retouched file that a person drops on a variant's page: checked first, stored as a candidate for import when the person accepts what
//! it carries.
//!
//! Between the two steps the file lies in a folder of the edge's data. Invariants: who may not import sends nothing that is read; files are
//! bounded in size and number, and forgotten after an hour, when they are accepted, and when the edge starts; a file is accepted by the
//! person who sent it, and only for the variant that it was checked for.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bildkante_shared::ids::{Digest, RecipeId};
use bildkante_shared::import::DigitalSource;
use bytes::Bytes;
use parking_lot::Mutex;

use super::body::{Fault, fault, wrong};
use super::imports::{ImportDesk, ImportQuery, refused};
use super::login::Form;
use super::sessions::random;
use super::{Principal, campaign_of};
use crate::campaign::import::declared_source;
use crate::campaign::{ImportOrder, Statements, examine};
use crate::credentials::{Finding, Trust, verify};
use crate::provenance::Told;
use crate::render::{OriginalFacts, original_facts};
use crate::shared_state::PersonRole;

/// Files of one person that wait to be accepted: a further one takes the place of the oldest.
const HELD_BY_ONE_MAX: usize = 4;
/// Files of all people. A further one is refused: it takes no place of another person's.
const HELD_MAX: usize = 16;
/// How long each waits.
const HELD_FOR: Duration = Duration::from_secs(60 * 60);

/// Files that were checked and are not accepted yet.
#[derive(Debug)]
pub(super) struct Uploads {
    folder: PathBuf,
    /// The oldest first.
    held: Mutex<VecDeque<Held>>,
}

#[derive(Debug, Clone)]
struct Held {
    id: String,
    by: String,
    variant: String,
    until: Instant,
}

/// What a file carries.
#[derive(Debug)]
pub(super) struct Carried {
    /// By which it is accepted.
    pub(super) id: String,
    /// Whose picture it may become.
    pub(super) variant: String,
    pub(super) bytes: usize,
    pub(super) digest: Digest,
    pub(super) facts: OriginalFacts,
    /// Of the master that it would become.
    pub(super) master_px: (u32, u32),
    pub(super) told: Told,
    pub(super) finding: Finding,
    /// The digital source type that its XMP declares.
    pub(super) declared: Option<DigitalSource>,
}

impl Uploads {
    /// Forgets what a former process held.
    pub(super) fn new(data_dir: &Path) -> Self {
        let folder = data_dir.join("uploads");
        let _ = std::fs::remove_dir_all(&folder);
        Self { folder, held: Mutex::default() }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    /// Blocks on the device.
    fn hold(&self, by: &str, variant: &str, file: &[u8]) -> Result<String, Fault> {
        let unstored =
            |error: std::io::Error| fault(507, "upload-not-stored", "Insufficient storage", error.to_string());
        let id = random().map_err(unstored)?;
        self.make_room(by)?;
        std::fs::create_dir_all(&self.folder).and_then(|()| std::fs::write(self.path(&id), file)).map_err(unstored)?;
        let until = Instant::now() + HELD_FOR;
        self.held.lock().push_back(Held { id: id.clone(), by: by.to_owned(), variant: variant.to_owned(), until });
        Ok(id)
    }

    /// Forgets what is over, and the oldest of a person who holds too many. Files are looked at one at a time, so that the room is
    /// still there when the file is.
    fn make_room(&self, by: &str) -> Result<(), Fault> {
        let mut held = self.held.lock();
        let now = Instant::now();
        let own = held.iter().filter(|it| it.by == by && it.until > now).count();
        let mut too_many = (own + 1).saturating_sub(HELD_BY_ONE_MAX);
        held.retain(|it| {
            let is_displaced = it.by == by && it.until > now && too_many > 0;
            too_many -= usize::from(is_displaced);
            let stays = it.until > now && !is_displaced;
            if !stays {
                let _ = std::fs::remove_file(self.path(&it.id));
            }
            stays
        });
        if held.len() < HELD_MAX {
            return Ok(());
        }
        let detail = format!("{HELD_MAX} files wait to be accepted: accept some of them, or wait for an hour");
        Err(fault(409, "too-many-uploads", "Too many uploads", detail))
    }

    /// A file, for the person who sent it. Blocks on the device.
    fn read(&self, by: &str, id: &str) -> Result<(String, Vec<u8>), Fault> {
        let ended = || {
            let detail = "this file waits no more: send it again";
            fault(404, "not-found", "Not found", detail)
        };
        let now = Instant::now();
        let is_it = |it: &&Held| it.id == id && it.by == by && it.until > now;
        let found = self.held.lock().iter().find(is_it).cloned().ok_or_else(ended)?;
        Ok((found.variant, std::fs::read(self.path(&found.id)).map_err(|_| ended())?))
    }

    /// It is stored, or no longer wanted. Blocks on the device.
    fn forget(&self, id: &str) {
        let mut held = self.held.lock();
        if let Some(at) = held.iter().position(|it| it.id == id) {
            held.remove(at);
            let _ = std::fs::remove_file(self.path(id));
        }
    }
}

impl ImportDesk {
    /// Looks at a file and holds it. What it carries is told also where nothing vouches for it.
    pub(super) async fn check(
        self: &Arc<Self>,
        who: &Principal,
        variant: String,
        file: Bytes,
    ) -> Result<Carried, Fault> {
        who.demand(PersonRole::Reviewer, campaign_of(&variant))?;
        let (desk, who) = (Arc::clone(self), who.clone());
        let turn = self.turn().await?;
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let _share = desk.share(&file)?;
            desk.look(&who, &variant, &file)
        });
        work.await.unwrap_or_else(|_| Err(fault(500, "import", "Internal error", "the picture broke its decoder")))
    }

    fn look(&self, who: &Principal, variant: &str, file: &[u8]) -> Result<Carried, Fault> {
        let unusable = |reason: String| fault(422, "unusable-picture", "Unusable picture", reason);
        let facts = original_facts(file).map_err(|error| unusable(format!("the picture: {error}")))?;
        let format = facts.format.format();
        // Any source will do: the person says which one, in the second step.
        let declared = declared_source(file, facts.format);
        let source = declared.or(Some(DigitalSource::HumanEdits));
        let order = ImportOrder { variant, bytes: file, source, statements: Statements::default() };
        let examined = examine(&self.sources, &order).map_err(refused)?;
        who.demand(PersonRole::Reviewer, campaign_of(&examined.variant))?;
        Ok(Carried {
            id: self.uploads.hold(who.name(), &examined.variant, file)?,
            variant: examined.variant,
            bytes: file.len(),
            digest: Digest::of_bytes(file),
            master_px: (examined.import.width_px, examined.import.height_px),
            told: Told::of(format, file),
            finding: verify(format, file, None, &Trust::none()),
            declared,
            facts,
        })
    }

    /// Stores a file that was checked as a candidate for import; its id.
    pub(super) async fn accept(self: &Arc<Self>, who: &Principal, form: &Form) -> Result<RecipeId, Fault> {
        let text = |name: &str| form.get(name).map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
        let source = text("source").map(|term| {
            let terms = DigitalSource::ALL.map(DigitalSource::term);
            term.parse::<DigitalSource>().map_err(|error| wrong("source", error.to_string(), &terms))
        });
        let source = source.transpose()?;
        let statements = Statements {
            origin: text("origin"),
            creator: text("creator"),
            credit: text("credit"),
            copyright: text("copyright"),
            license: text("license"),
        };
        let why = text("why").unwrap_or_default();
        let (desk, who, id) = (Arc::clone(self), who.clone(), text("upload").unwrap_or_default());
        let turn = self.turn().await?;
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let (variant, file) = desk.uploads.read(who.name(), &id)?;
            who.demand(PersonRole::Reviewer, campaign_of(&variant))?;
            let _share = desk.share(&file)?;
            // What cannot be stored now waits on, for a further attempt.
            let stored = desk.store(ImportQuery { variant, source, statements, why }, &file, (&who, None))?;
            desk.uploads.forget(&id);
            Ok(stored)
        });
        let (candidate, _) =
            work.await.unwrap_or_else(|_| Err(fault(500, "import", "Internal error", "the file broke its decoder")))?;
        Ok(candidate.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_waits_for_its_sender_and_is_taken_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let uploads = Uploads::new(dir.path());
        let id = uploads.hold("anna", "a/hero", b"file").expect("held");
        assert!(uploads.read("ben", &id).is_err(), "it is another's");
        for _ in 0..2 {
            let read = uploads.read("anna", &id).expect("it waits until it is stored");
            assert_eq!(read, ("a/hero".to_owned(), b"file".to_vec()));
        }
        uploads.forget(&id);
        assert!(uploads.read("anna", &id).is_err() && uploads.read("anna", "../x").is_err());
    }

    #[test]
    fn files_are_bounded_and_end_with_the_process() {
        let dir = tempfile::tempdir().expect("a folder");
        let uploads = Uploads::new(dir.path());
        let hold = |by: &str| uploads.hold(by, "a/hero", b"file");
        let bens = hold("ben").expect("held");
        let ids: Vec<String> = (0..=HELD_BY_ONE_MAX).map(|_| hold("anna").expect("held")).collect();
        let files = || std::fs::read_dir(dir.path().join("uploads")).expect("a folder").count();
        assert_eq!(files(), HELD_BY_ONE_MAX + 1);
        assert!(uploads.read("anna", &ids[0]).is_err() && uploads.read("anna", &ids[1]).is_ok());
        for at in 0..HELD_MAX - files() {
            hold(&format!("person {at}")).expect("held");
        }
        let refused = hold("otto").expect_err("there is no room");
        assert_eq!(refused.status, 409);
        assert!(uploads.read("ben", &bens).is_ok(), "nobody takes another person's place");
        assert!(hold("ben").is_err(), "the edge is full for all who hold few");
        Uploads::new(dir.path());
        assert!(!dir.path().join("uploads").exists());
    }
}
