//! Images that recipes name, by digest: a folder of files that edges fill (`PUT /v1/blobs/{digest}`).
//!
//! A file's name is the digest of its bytes. Both are compared when it is stored and when it is read; a file that does not
//! agree with its name counts as absent. Only pictures that can be used are stored, and the longest unused make room for new
//! ones.
//!
//! An upload waits for a permit before a byte of its body is read, and goes to a file as it comes. What uploads hold in
//! memory at a moment is taken from one budget: pieces on their way to disk, and a whole file while it is checked.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bildkante_shared::durable::{self, Durability, TEMPORARY_PREFIX};
use bildkante_shared::ids::Digest;
use bildkante_shared::limits::BLOB_BYTES_MAX;
use bildkante_shared::log_limited;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body;
use prometheus::IntGauge;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::diffusion::picture::{Picture, PictureError};

/// Most files. Only tiny ones reach this bound before that of their bytes.
const FILES_MAX: usize = 65_536;
/// Uploads whose bodies are read at the same time.
pub const UPLOADS_MAX: usize = 8;
/// Bytes that all uploads together hold in memory: the largest file while it is checked, and as much for pieces.
pub const UPLOAD_BYTES_MAX: usize = 2 * BLOB_BYTES_MAX;
/// A semaphore counts in 32 bits.
const UNIT_BYTES: usize = 1024;

/// Why bytes are not stored.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("the bytes have the digest {found}, not {named}")]
    Digest { named: Digest, found: Digest },
    #[error(transparent)]
    Picture(#[from] PictureError),
    #[error("the blob store failed: {0}")]
    Io(#[from] io::Error),
    #[error("the writing of an upload ended at a defect")]
    Panicked,
    #[error("it has more than {BLOB_BYTES_MAX} bytes")]
    TooLarge,
    #[error("it broke off")]
    Aborted,
    #[error("it came too slowly")]
    Slow,
}

/// A folder of images.
#[derive(Debug, Clone)]
pub struct Blobs {
    folder: PathBuf,
    bytes_max: u64,
}

impl Blobs {
    /// In `blobs` of a node's data folder, of so many bytes.
    #[must_use]
    pub fn of(data_dir: &Path, bytes_max: u64) -> Self {
        Self { folder: data_dir.join("blobs"), bytes_max }
    }

    fn path(&self, digest: Digest) -> PathBuf {
        // `blake3:` is no part of a file's name everywhere.
        self.folder.join(format!("{}.png", digest.to_string().replace(':', "-")))
    }

    /// Whether there is such a file. Asking counts as a use, so that the file is not soon removed for others.
    #[must_use]
    pub fn contains(&self, digest: Digest) -> bool {
        let path = self.path(digest);
        let is_there = path.is_file();
        if is_there {
            touch(&path);
        }
        is_there
    }

    /// Begins an upload: an empty file.
    fn begin(&self, turn: Option<OwnedSemaphorePermit>) -> io::Result<Upload> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        fs::create_dir_all(&self.folder)?;
        let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{TEMPORARY_PREFIX}upload-{}-{unique}", std::process::id()));
        let file = File::create_new(&path)?;
        Ok(Upload { path, file, hasher: blake3::Hasher::new(), bytes: 0, _turn: turn })
    }

    /// Gives an upload its name, durably, if its digest is the name and it is a picture.
    fn finish(&self, digest: Digest, upload: &Upload) -> Result<(), BlobError> {
        let found = Digest::from_hash(&upload.hasher.finalize());
        if found != digest {
            return Err(BlobError::Digest { named: digest, found });
        }
        Picture::decode(&fs::read(&upload.path)?)?;
        self.make_room(upload.bytes)?;
        upload.file.sync_all()?;
        fs::rename(&upload.path, self.path(digest))?;
        Ok(File::open(&self.folder)?.sync_all()?)
    }

    /// Stores an image that is at hand, as an upload would be.
    ///
    /// # Errors
    /// When the bytes are no picture that can be used, or the folder fails.
    pub fn store(&self, png: &[u8]) -> Result<Digest, BlobError> {
        let digest = Digest::of_bytes(png);
        if png.len() > BLOB_BYTES_MAX {
            return Err(BlobError::TooLarge);
        }
        if self.get(digest)?.is_none() {
            Picture::decode(png)?;
            fs::create_dir_all(&self.folder)?;
            self.make_room(png.len() as u64)?;
            durable::write(&self.path(digest), &[png], Durability::Synced)?;
        }
        Ok(digest)
    }

    /// The image's bytes; `None` where it is not there, or is not what its name says.
    ///
    /// # Errors
    /// When the folder fails.
    pub fn get(&self, digest: Digest) -> io::Result<Option<Vec<u8>>> {
        let path = self.path(digest);
        match fs::read(&path) {
            Ok(bytes) if Digest::of_bytes(&bytes) == digest => {
                touch(&path);
                Ok(Some(bytes))
            }
            Ok(_) => {
                log_limited!(error, %digest, "an image is not what its name says, and is not used");
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes what a former process left half-uploaded.
    pub fn sweep(&self) {
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Removes files that were not used since then: no drawing under way can want them any more.
    pub fn remove_unused_since(&self, then: SystemTime) {
        for file in self.files().unwrap_or_default() {
            if file.used < then {
                let _ = fs::remove_file(file.path);
            }
        }
    }

    /// Removes the longest unused files until `bytes` more fit.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let mut files = self.files()?;
        files.sort();
        let (mut total, mut count) = (files.iter().map(|file| file.bytes).sum::<u64>() + bytes, files.len() + 1);
        for file in files {
            if total <= self.bytes_max && count <= FILES_MAX {
                break;
            }
            fs::remove_file(file.path)?;
            total -= file.bytes;
            count -= 1;
        }
        Ok(())
    }

    /// All stored images, without uploads under way.
    fn files(&self) -> io::Result<Vec<Kept>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX) {
                continue;
            }
            // A file may be removed meanwhile.
            let Ok(metadata) = entry.metadata() else { continue };
            files.push(Kept { used: metadata.modified()?, bytes: metadata.len(), path: entry.path() });
        }
        Ok(files)
    }
}

/// In the order of use.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kept {
    used: SystemTime,
    bytes: u64,
    path: PathBuf,
}

/// Records a use; only the order of removals depends on it.
fn touch(path: &Path) {
    let _ = File::options().write(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

/// A file without its name yet. It is removed with this value unless it got one.
#[derive(Debug)]
struct Upload {
    path: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    bytes: u64,
    /// The permit belongs to the upload: work that a client began goes on after the client has left.
    _turn: Option<OwnedSemaphorePermit>,
}

impl Upload {
    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.hasher.update(piece);
        self.bytes += piece.len() as u64;
        self.file.write_all(piece)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// How much uploads take at a time.
#[derive(Debug)]
pub struct Uploads {
    blobs: Blobs,
    permits: Arc<Semaphore>,
    budget: Arc<Semaphore>,
    held: IntGauge,
    /// One file is checked at a time: decoding takes several times its bytes.
    looking: Arc<Mutex<()>>,
}

impl Uploads {
    /// `held` shows the bytes that are held in memory.
    #[must_use]
    pub fn new(blobs: Blobs, held: IntGauge) -> Self {
        let (permits, budget) = (Semaphore::new(UPLOADS_MAX), Semaphore::new(UPLOAD_BYTES_MAX / UNIT_BYTES));
        Self { blobs, permits: Arc::new(permits), budget: Arc::new(budget), held, looking: Arc::default() }
    }

    /// Waits for its turn: before a byte of the body is read.
    pub async fn turn(&self) -> OwnedSemaphorePermit {
        match Arc::clone(&self.permits).acquire_owned().await {
            Ok(turn) => turn,
            // Never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// Stores a body under its name as it comes, up to `deadline`; one that is there already is replaced by its equal.
    ///
    /// The disk's work goes on where the caller leaves, so it owns the permit and the memory it occupies.
    ///
    /// # Errors
    /// When the body breaks off, is too large or too slow, when its bytes are other ones than their name says or no picture
    /// that can be used, or the folder fails.
    pub async fn put<B>(
        &self,
        turn: OwnedSemaphorePermit,
        digest: Digest,
        body: B,
        deadline: Instant,
    ) -> Result<(), BlobError>
    where
        B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
    {
        let mut body = std::pin::pin!(Limited::new(body, BLOB_BYTES_MAX));
        let blobs = self.blobs.clone();
        let mut upload = blocking(move || Ok(blobs.begin(Some(turn))?)).await?;
        loop {
            let frame = tokio::time::timeout_at(deadline, body.as_mut().frame()).await;
            let Some(frame) = frame.map_err(|_| BlobError::Slow)? else { break };
            let frame =
                frame.map_err(
                    |error| {
                        if error.is::<LengthLimitError>() { BlobError::TooLarge } else { BlobError::Aborted }
                    },
                )?;
            let Ok(piece) = frame.into_data() else { continue };
            let held = self.hold(piece.len()).await;
            upload = blocking(move || {
                let _held = held;
                upload.write(&piece)?;
                Ok(upload)
            })
            .await?;
        }
        let looking = Arc::clone(&self.looking).lock_owned().await;
        let held = self.hold(usize::try_from(upload.bytes).unwrap_or(usize::MAX)).await;
        let blobs = self.blobs.clone();
        blocking(move || {
            let _looking = (looking, held);
            blobs.finish(digest, &upload)
        })
        .await
    }

    async fn hold(&self, bytes: usize) -> Held {
        let units = bytes.div_ceil(UNIT_BYTES).min(UPLOAD_BYTES_MAX / UNIT_BYTES);
        let permit = Arc::clone(&self.budget).acquire_many_owned(u32::try_from(units).unwrap_or(u32::MAX)).await;
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        self.held.add(bytes);
        Held { _permit: permit.ok(), bytes, held: self.held.clone() }
    }
}

/// Part of the budget.
struct Held {
    _permit: Option<OwnedSemaphorePermit>,
    bytes: i64,
    held: IntGauge,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.held.sub(self.bytes);
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(BlobError::Panicked))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn png(value: u8) -> Vec<u8> {
        let mut out = io::Cursor::new(Vec::new());
        let color = image::ExtendedColorType::Rgb8;
        image::write_buffer_with_format(&mut out, &[value; 12], 2, 2, color, image::ImageFormat::Png).expect("a PNG");
        out.into_inner()
    }

    fn put(blobs: &Blobs, digest: Digest, bytes: &[u8]) -> Result<(), BlobError> {
        let mut upload = blobs.begin(None)?;
        bytes.chunks(7).try_for_each(|piece| upload.write(piece))?;
        blobs.finish(digest, &upload)
    }

    #[test]
    fn only_pictures_under_their_own_name_are_stored_and_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let (blobs, png) = (Blobs::of(dir.path(), 1 << 20), png(1));
        let digest = Digest::of_bytes(&png);
        assert!(!blobs.contains(digest) && blobs.get(digest).expect("readable").is_none());
        assert!(matches!(put(&blobs, Digest::of_bytes(b"x"), &png), Err(BlobError::Digest { .. })));
        assert!(matches!(put(&blobs, Digest::of_bytes(b"x"), b"x"), Err(BlobError::Picture(_))));
        put(&blobs, digest, &png).expect("stored");
        put(&blobs, digest, &png).expect("stored twice");
        assert!(blobs.contains(digest));
        assert_eq!(blobs.get(digest).expect("readable"), Some(png));
        assert_eq!(fs::read_dir(&blobs.folder).expect("readable").count(), 1, "what was refused is gone");
        fs::write(blobs.path(digest), b"damaged").expect("written");
        assert!(blobs.get(digest).expect("readable").is_none());
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let dir = tempfile::tempdir().expect("a folder");
        let pictures = [png(1), png(2), png(3)];
        let digests = pictures.each_ref().map(|png| Digest::of_bytes(png));
        let bytes = pictures.iter().map(|png| png.len() as u64).max().expect("three");
        let blobs = Blobs::of(dir.path(), 2 * bytes);
        for at in [0, 1] {
            put(&blobs, digests[at], &pictures[at]).expect("stored");
            let age = Duration::from_secs(100 - at as u64);
            let file = File::options().write(true).open(blobs.path(digests[at])).expect("there");
            file.set_modified(SystemTime::now() - age).expect("set");
        }
        // The older one is used.
        assert!(blobs.get(digests[0]).expect("readable").is_some());
        put(&blobs, digests[2], &pictures[2]).expect("stored");
        assert_eq!(digests.map(|digest| blobs.path(digest).is_file()), [true, false, true]);
        fs::write(blobs.folder.join(".tmp-upload-1-1"), "half").expect("written");
        blobs.sweep();
        blobs.remove_unused_since(SystemTime::now() + Duration::from_secs(1));
        assert_eq!(fs::read_dir(&blobs.folder).expect("readable").count(), 0);
    }

    /// A body that ends with its sender.
    struct Pieces(tokio::sync::mpsc::Receiver<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<io::Result<hyper::body::Frame<Bytes>>>> {
            self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(hyper::body::Frame::data(piece))))
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_client_that_leaves_frees_nothing_that_is_still_worked_at() {
        use std::os::unix::fs::OpenOptionsExt;

        use bildkante_shared::testing::eventually;
        use tokio::sync::mpsc;

        let dir = tempfile::tempdir().expect("a folder");
        let blobs = Blobs::of(dir.path(), 1 << 20);
        let held = IntGauge::new("held", "held").expect("a gauge");
        let uploads = Arc::new(Uploads::new(blobs.clone(), held.clone()));
        let png = png(1);
        let digest = Digest::of_bytes(&png);
        let start = || {
            let (uploads, (sender, pieces)) = (Arc::clone(&uploads), mpsc::channel(1));
            let body = Pieces(pieces);
            let deadline = Instant::now() + Duration::from_secs(600);
            let call = async move { uploads.put(uploads.turn().await, digest, body, deadline).await };
            (tokio::spawn(call), sender)
        };
        let (first, sender) = start();
        sender.send(Bytes::from(png.clone())).await.expect("read");
        let whole = || {
            let mut files = fs::read_dir(&blobs.folder).into_iter().flatten().flatten().map(|entry| entry.path());
            files.find(|path| fs::metadata(path).is_ok_and(|file| file.len() == png.len() as u64))
        };
        eventually("its bytes are in a file", async || whole().is_some()).await;
        // The checked file is a pipe: the check lasts until its writer is gone.
        let file = whole().expect("a file");
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
        fs::rename(&pipe, &file).expect("in its place");
        drop(sender);
        let mut writer = None;
        eventually("it is looked at", async || {
            writer =
                writer.take().or_else(|| File::options().write(true).custom_flags(libc::O_NONBLOCK).open(&file).ok());
            writer.is_some()
        })
        .await;
        first.abort();
        assert!(first.await.is_err_and(|error| error.is_cancelled()));
        let free = || uploads.permits.available_permits();
        assert_eq!((free(), held.get()), (UPLOADS_MAX - 1, i64::try_from(png.len()).expect("small")));

        // Others come, and none of them is checked beside it.
        let others: Vec<_> = (1..UPLOADS_MAX).map(|_| start()).collect();
        let mut calls = Vec::new();
        for (call, sender) in others {
            sender.send(Bytes::from(png.clone())).await.expect("read");
            calls.push(call);
        }
        eventually("there is no turn left", async || free() == 0).await;
        assert!(uploads.looking.try_lock().is_err() && !blobs.contains(digest));
        drop(writer);
        for call in calls {
            call.await.expect("no defect").expect("stored");
        }
        eventually("all is given back", async || free() == UPLOADS_MAX && held.get() == 0).await;
    }
}
