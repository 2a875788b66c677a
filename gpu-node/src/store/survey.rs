//! What a store holds, read without changing it: for reports.
//!
//! Unlike [`Store::open`](super::Store::open) it sweeps nothing and takes no lock that keeps a node out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bildkante_shared::ids::MasterId;
use bildkante_shared::limits::MASTER_FILE_BYTES_MAX;
use bildkante_shared::pixels::Pixels;
use bildkante_shared::wire::Duplicate;

use super::{MasterRow, StoreError, database_path, decode_png, files, tables};
use crate::dedup::Fingerprint;
use crate::index::{ScopeKey, VariantKey};

/// A master that may be found as a duplicate in a scope.
#[derive(Debug, Clone)]
pub struct Surveyed {
    pub master: MasterId,
    pub variant: VariantKey,
    pub print: Fingerprint,
    pub row: MasterRow,
}

/// What a store holds for duplicates.
#[derive(Debug)]
pub struct Survey {
    /// The masters of each scope.
    pub scopes: HashMap<ScopeKey, Vec<Surveyed>>,
    /// What recipes were merged for, in any scope.
    pub merges: Vec<Duplicate>,
    masters: PathBuf,
}

impl Survey {
    /// Reads a data folder's database. Blocks: one pass over its rows.
    ///
    /// # Errors
    /// When there is none, or it cannot be read: one that a node left behind at its death is mended by the next start of a node.
    pub fn read(data_dir: &Path) -> Result<Self, StoreError> {
        let path = database_path(data_dir);
        let database = tables::open_to_read(&path)?;
        let mut survey = Self { scopes: HashMap::new(), merges: Vec::new(), masters: data_dir.join("masters") };
        tables::each_surveyed(&database, |scope, entry, row, chroma| {
            let print = Fingerprint { phash: row.phash, chroma };
            let surveyed = Surveyed { master: entry.master, variant: entry.variant, print, row };
            survey.scopes.entry(scope).or_default().push(surveyed);
        })?;
        tables::each_merge(&database, |duplicate| survey.merges.push(duplicate))?;
        Ok(survey)
    }

    /// A master's pixels; `None` where its file is gone or damaged.
    #[must_use]
    pub fn pixels(&self, master: &Surveyed) -> Option<Pixels> {
        let path = files::path(&self.masters, master.master);
        let bytes_max = master.row.file_bytes.min(MASTER_FILE_BYTES_MAX as u64);
        let png = files::read_checked(&path, bytes_max, master.row.file_digest).ok()?;
        decode_png(&png).ok()
    }
}
