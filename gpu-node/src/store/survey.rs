//! What a report on duplicates is made from: the database as it is, of a node that does not run.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bildkante_shared::ids::MasterId;
use bildkante_shared::phash::PerceptualHash;
use bildkante_shared::pixels::Pixels;
use bildkante_shared::wire::Duplicate;

use super::tables::Tables;
use super::{StoreError, database_path, decode_png, files};
use crate::dedup::{Fingerprint, Likeness, is_averaged};
use crate::index::{ScopeKey, VariantKey};

/// Masters that may be found as duplicates, and the merges so far.
#[derive(Debug)]
pub struct Survey {
    folder: PathBuf,
    pub masters: usize,
    pub findable: Vec<Findable>,
    /// One for each recipe and scope that has another's master.
    pub merged: Vec<Merge>,
}

/// A picture that has another's master.
#[derive(Debug, Clone)]
pub struct Merge {
    pub duplicate: Duplicate,
    pub likeness: Likeness,
}

/// A master as one variant's own in a scope.
#[derive(Debug, Clone)]
pub struct Findable {
    pub scope: ScopeKey,
    pub variant: VariantKey,
    pub master: MasterId,
    pub print: Fingerprint,
}

impl Survey {
    /// Reads all rows. Blocks.
    ///
    /// # Errors
    /// When a node uses the folder, or there is no database, or it cannot be read.
    pub fn of(data_dir: &Path) -> Result<Self, StoreError> {
        let database = database_path(data_dir);
        fs::metadata(&database).map_err(StoreError::io(&database))?;
        let tables = Tables::open(&database)?;
        let mut sizes = HashMap::new();
        tables.each_master(|id, row| {
            sizes.insert(id, (row.width_px, row.height_px));
        })?;
        let mut found: Vec<(ScopeKey, VariantKey, MasterId, PerceptualHash)> = Vec::new();
        tables.each_entry(|scope, entry, phash| found.push((scope, entry.variant, entry.master, phash)))?;
        let mut findable = Vec::with_capacity(found.len());
        for (scope, variant, master, phash) in found {
            let Some(chroma) = tables.chroma(master)? else { continue };
            findable.push(Findable { scope, variant, master, print: Fingerprint { phash, chroma } });
        }
        let mut merged = Vec::new();
        tables.each_binding(|binding| {
            let Some((duplicate, size)) = binding.duplicate.zip(sizes.get(&binding.master)) else { return };
            let likeness = Likeness { score: duplicate.ssimulacra2, is_averaged: is_averaged(*size) };
            merged.push(Merge { duplicate, likeness });
        })?;
        Ok(Self { folder: data_dir.join("masters"), masters: sizes.len(), findable, merged })
    }

    /// What a test has read.
    #[cfg(test)]
    pub(crate) fn of_rows(masters: usize, findable: Vec<Findable>, merged: Vec<Merge>) -> Self {
        Self { folder: PathBuf::new(), masters, findable, merged }
    }

    /// A master's pixels.
    ///
    /// # Errors
    /// When its file is gone or no picture.
    pub fn pixels(&self, id: MasterId) -> Result<Pixels, StoreError> {
        let path = files::path(&self.folder, id);
        let png = fs::read(&path).map_err(StoreError::io(&path))?;
        decode_png(&png).map_err(|error| StoreError::Io { path, source: io::Error::other(error) })
    }
}
