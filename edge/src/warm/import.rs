//! Job files of former versions: `warm/{id}.json`, brought into the table once.
//!
//! A crash at any point loses no job and brings none back that has gone on since:
//! 1. One commit takes the jobs over and writes down the names of their files.
//! 2. The files are removed, and their folder is synced.
//! 3. A second commit forgets the names.
//!
//! A file whose name is written down is never read again, only removed. After a crash before 1 nothing has changed. After a
//! crash before 3, or where a file could not be removed, the next start goes on with 2.
//!
//! A file that holds no job is named in the log and set aside as `{name}.broken`. A file that cannot be read is named and
//! left: the next start tries it again.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use bildkante_shared::durable::{self, TEMPORARY_PREFIX};

use super::job::JobRecord;
use super::stored::StoredJobs;
use crate::state::StateError;

const JSON: &str = ".json";
const BROKEN: &str = "broken";

/// A job file and what it holds.
#[derive(Debug)]
pub(super) struct JobFile {
    pub(super) name: String,
    pub(super) record: JobRecord,
}

/// Brings in the jobs of `folder`, where there is one.
///
/// # Errors
/// When the folder cannot be listed or synced, or the device refuses the commit. What could not be removed is reported only.
pub(super) fn bring_in(folder: &Path, jobs: &StoredJobs) -> Result<(), StateError> {
    let unusable = |source| StateError::Folder { path: folder.to_owned(), source };
    let Some(names) = names(folder).map_err(unusable)? else { return Ok(()) };
    let imported = jobs.imported()?;
    let files = read(folder, &names, &imported);
    if !files.is_empty() {
        tracing::info!(jobs = files.len(), folder = %folder.display(), "job files are brought into the database");
        jobs.take_over(&files)?;
    }
    let names = files.into_iter().map(|file| file.name).chain(imported.into_keys());
    let gone: Vec<String> = names.filter(|name| remove(&folder.join(name))).collect();
    if !gone.is_empty() {
        durable::sync_folder(folder).map_err(unusable)?;
        jobs.removed(&gone)?;
    }
    // Only where nothing is left in it.
    let _ = fs::remove_dir(folder);
    Ok(())
}

/// The folder's files, without what a crash left half written; `None` where there is no folder.
fn names(folder: &Path) -> io::Result<Option<Vec<String>>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let Ok(name) = entry?.file_name().into_string() else { continue };
        if name.starts_with(TEMPORARY_PREFIX) {
            remove(&folder.join(&name));
        } else {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(Some(names))
}

/// The jobs of those files that are not imported yet.
fn read(folder: &Path, names: &[String], imported: &BTreeMap<String, u64>) -> Vec<JobFile> {
    let new = names.iter().filter(|name| name.ends_with(JSON) && !imported.contains_key(*name));
    new.filter_map(|name| Some(JobFile { name: name.clone(), record: read_one(&folder.join(name))? })).collect()
}

fn read_one(path: &Path) -> Option<JobRecord> {
    match fs::read(path) {
        Ok(json) => match serde_json::from_slice(&json) {
            Ok(record) => return Some(record),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "this warming cannot be read: its file is set aside");
                set_aside(path);
            }
        },
        Err(error) => tracing::warn!(path = %path.display(), %error, "this warming cannot be read"),
    }
    None
}

fn set_aside(path: &Path) {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".");
    aside.push(BROKEN);
    if let Err(error) = fs::rename(path, &aside) {
        tracing::warn!(path = %path.display(), %error, "this file cannot be set aside");
    }
}

/// Removes a file that may be gone already, and says whether it is gone.
fn remove(path: &Path) -> bool {
    match fs::remove_file(path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "this file cannot be removed: the next start tries again");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::job::{JobState, testing};
    use super::*;
    use crate::state::testing::fixture;

    /// A data folder as the former version left it.
    fn former() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("warm");
        fs::create_dir(&folder).unwrap();
        for entry in fs::read_dir(fixture::path("warm")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
        (dir, folder)
    }

    fn left(folder: &Path) -> Vec<String> {
        names(folder).unwrap().unwrap_or_default()
    }

    #[test]
    fn job_files_are_imported_once_and_their_folder_goes() {
        let (dir, folder) = former();
        fs::write(folder.join(".tmp-17-0"), b"{\"id\":").unwrap();
        let jobs = StoredJobs::open(dir.path()).unwrap();
        assert_eq!(jobs.all().unwrap(), testing::of_each_state());
        assert!(!folder.exists() && jobs.imported().unwrap().is_empty());
        drop(jobs);
        assert_eq!(StoredJobs::open(dir.path()).unwrap().all().unwrap(), testing::of_each_state());
    }

    /// A database without an import, as of a start that died before it.
    fn opened_without(dir: &Path) -> StoredJobs {
        let jobs = StoredJobs::open(&dir.join("elsewhere")).unwrap();
        drop(jobs);
        fs::rename(dir.join("elsewhere/jobs.redb"), dir.join("jobs.redb")).unwrap();
        fs::rename(dir.join("warm"), dir.join("hidden")).unwrap();
        let jobs = StoredJobs::open(dir).unwrap();
        fs::rename(dir.join("hidden"), dir.join("warm")).unwrap();
        jobs
    }

    #[test]
    fn a_crash_between_two_steps_loses_no_job_and_brings_none_back() {
        let (dir, folder) = former();
        let jobs = opened_without(dir.path());
        let (names, before) = (left(&folder), testing::of_each_state());
        let files = read(&folder, &names, &BTreeMap::new());
        assert_eq!(files.len(), before.len());
        // It died behind the first commit: one file is removed, one job has gone on, one is forgotten.
        jobs.take_over(&files).unwrap();
        fs::remove_file(folder.join(&names[0])).unwrap();
        jobs.put(&JobRecord { state: JobState::Done, ..before[1].clone() }).unwrap();
        jobs.forget(&[before[2].id]).unwrap();
        assert_eq!(jobs.imported().unwrap().len(), names.len());
        drop(jobs);
        let jobs = StoredJobs::open(dir.path()).unwrap();
        let mut expected = before.clone();
        expected[1].state = JobState::Done;
        expected.remove(2);
        assert_eq!(jobs.all().unwrap(), expected);
        assert!(!folder.exists() && jobs.imported().unwrap().is_empty());
        // The former version ran again in between: its new file is another one's.
        drop(jobs);
        fs::create_dir(&folder).unwrap();
        let new = JobRecord { id: 1_800_000_000_000, ..before[2].clone() };
        fs::write(folder.join("1800000000000.json"), serde_json::to_vec(&new).unwrap()).unwrap();
        expected.push(new);
        assert_eq!(StoredJobs::open(dir.path()).unwrap().all().unwrap(), expected);
    }

    #[test]
    fn a_job_that_has_gone_on_is_not_set_back_by_its_file() {
        let (dir, folder) = former();
        let jobs = opened_without(dir.path());
        let first = testing::of_each_state().remove(0);
        let gone_on = JobRecord { state: JobState::Cancelled, ..first };
        jobs.put(&gone_on).unwrap();
        bring_in(&folder, &jobs).unwrap();
        assert_eq!(jobs.all().unwrap()[0], gone_on);
        assert_eq!(jobs.all().unwrap().len(), testing::of_each_state().len());
    }

    #[test]
    fn a_broken_file_is_set_aside_and_the_others_are_imported() {
        let (dir, folder) = former();
        fs::write(folder.join("7.json"), b"{\"id\": 7, \"by\"").unwrap();
        fs::write(folder.join("notes.txt"), b"not ours").unwrap();
        let jobs = StoredJobs::open(dir.path()).unwrap();
        assert_eq!(jobs.all().unwrap(), testing::of_each_state());
        assert_eq!(left(&folder), ["7.json.broken", "notes.txt"]);
        assert_eq!(fs::read(folder.join("7.json.broken")).unwrap(), b"{\"id\": 7, \"by\"");
        drop(jobs);
        assert_eq!(StoredJobs::open(dir.path()).unwrap().all().unwrap().len(), testing::of_each_state().len());
    }
}
