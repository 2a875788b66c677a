//! The file of ticket keys: one `{active from, Unix seconds} {64 hex digits}` a line, `#` begins a comment.
//!
//! It is replaced as a whole, under a lock beside it (`{file}.lock`), so that of several edges on one folder one rotates
//! and the others find it done.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bildkante_shared::durable;
use data_encoding::HEXLOWER_PERMISSIVE;

use super::{KEYS_MAX, KeyRing, TicketError, TicketKey, unix_s};
use crate::secret;

/// Sixteen keys are 1.4 kB.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// How a new key joins the others.
#[derive(Debug, Clone, Copy)]
pub struct Rotation {
    /// Keys whose successor has been active for this long are erased.
    pub lifetime_s: u32,
    /// How long until the new key is used; the first key of a file is used at once.
    pub lead: Duration,
}

impl TicketError {
    pub(super) fn is_absence(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Adds a key to the file, or makes the file. Returns how many keys it holds then.
///
/// # Errors
/// When the file cannot be read or replaced.
pub fn rotate(path: &Path, rotation: &Rotation, now: SystemTime) -> Result<usize, TicketError> {
    rotate_when(path, rotation, unix_s(now), |_| true).map(|ring| ring.0.len())
}

/// As [`rotate`], if `is_due` still says so under the lock.
pub(super) fn rotate_when(
    path: &Path,
    rotation: &Rotation,
    now_s: u64,
    is_due: impl FnOnce(&KeyRing) -> bool,
) -> Result<KeyRing, TicketError> {
    let failed = |source| TicketError::File { path: path.to_owned(), source };
    let mut lock_name = path.as_os_str().to_owned();
    lock_name.push(".lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(PathBuf::from(lock_name));
    let lock = lock.map_err(failed)?;
    lock.lock().map_err(failed)?;
    let ring = match read(path) {
        Ok(ring) => ring,
        Err(error) if error.is_absence() => KeyRing::default(),
        Err(error) => return Err(error),
    };
    if !is_due(&ring) {
        return Ok(ring);
    }
    let lead_s = if ring.0.is_empty() { 0 } else { rotation.lead.as_secs() };
    let key = TicketKey::random(now_s.saturating_add(lead_s))?;
    let ring = KeyRing::new(ring.0.into_iter().chain([key]).collect()).pruned(rotation.lifetime_s, now_s);
    replace(path, &ring).map_err(failed)?;
    Ok(ring)
}

pub(super) fn read(path: &Path) -> Result<KeyRing, TicketError> {
    let failed = |source| TicketError::File { path: path.to_owned(), source };
    let file = secret::open(path).map_err(failed)?;
    let mut text = String::new();
    file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(failed)?;
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let malformed = |reason| TicketError::Malformed { path: path.to_owned(), line: index + 1, reason };
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let (from, secret) =
            line.split_once(char::is_whitespace).ok_or_else(|| malformed("a line is a time and a key"))?;
        let from = from.parse().map_err(|_| malformed("the time is no whole number of seconds"))?;
        let secret =
            HEXLOWER_PERMISSIVE.decode(secret.trim().as_bytes()).ok().and_then(|secret| secret.try_into().ok());
        let secret = secret.ok_or_else(|| malformed("a key is 64 hexadecimal digits"))?;
        keys.push(TicketKey::new(from, secret));
        if keys.len() > KEYS_MAX {
            return Err(malformed("there are more than 16 keys"));
        }
    }
    if keys.is_empty() {
        return Err(TicketError::Empty { path: path.to_owned() });
    }
    Ok(KeyRing::new(keys))
}

/// Mode 0600 from its first byte on; synced, for a key that tickets were made with must not be lost.
fn replace(path: &Path, ring: &KeyRing) -> io::Result<()> {
    let mut text = String::from(
        "# Session-ticket keys of Bildkante edges. Secret. One a line: active from (Unix seconds), key.\n",
    );
    for key in &ring.0 {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {}", key.active_from_s, HEXLOWER_PERMISSIVE.encode(&key.secret));
    }
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    // Left behind by a crash; the lock is ours.
    let _ = std::fs::remove_file(&temporary);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    durable::sync_folder(folder)
}
