//! The thread that writes lines, and the bounded queue before it.
//!
//! A file is opened so that no call on it can wait for a peer (a FIFO that nothing reads, or that is full): the thread
//! looks again a little later, and meanwhile the queue fills up and what does not fit is counted. A disk that is full
//! costs the lines of that time. Standard output is written as it is, because its flags are shared with other programs.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::fs::OFlags;

use super::{AccessLogError, Destination, LineCounters};

/// Longest line: a target of 2048 characters and two fields of 512, each byte escaped to four or each character to six.
#[cfg(test)]
pub(super) const LINE_BYTES_MAX: usize = 4 * 4 * (2048 + 2 * 512);
/// So much goes into one write.
const BATCH_BYTES: usize = 64 * 1024;
/// Until the thread looks again at a file that takes nothing, or that cannot be opened.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// Until the thread looks at its flags when there are no lines.
const IDLE_PAUSE: Duration = Duration::from_secs(1);

enum Message {
    Line(Vec<u8>),
    /// Look at the flags.
    Wake,
}

/// The near end of the queue.
#[derive(Debug)]
pub(super) struct Writer {
    queue: SyncSender<Message>,
    flags: Arc<Flags>,
}

#[derive(Debug, Default)]
struct Flags {
    reopen: AtomicBool,
    closing: AtomicBool,
    /// When a close stops waiting.
    deadline: Mutex<Option<Instant>>,
    ended: Mutex<bool>,
    has_ended: Condvar,
}

impl Flags {
    fn is_overdue(&self) -> bool {
        self.closing.load(Ordering::Acquire) && self.deadline.lock().is_none_or(|deadline| Instant::now() >= deadline)
    }
}

impl Writer {
    pub(super) fn start(
        destination: &Destination,
        lines_max: usize,
        counters: LineCounters,
    ) -> Result<Self, AccessLogError> {
        let sink = match destination {
            Destination::File(path) => Sink::file(path)?,
            Destination::Stdout | Destination::Off => Sink::stdout()?,
        };
        let (sender, receiver) = sync_channel(lines_max);
        let flags = Arc::new(Flags::default());
        let thread =
            Thread { receiver, flags: Arc::clone(&flags), sink, counters, batch: Batch::default(), ails: Ails::No };
        let spawned = std::thread::Builder::new().name("access-log".to_owned()).spawn(move || thread.run());
        spawned.map_err(AccessLogError::Thread)?;
        Ok(Self { queue: sender, flags })
    }

    /// Whether there was room.
    pub(super) fn queue(&self, line: Vec<u8>) -> bool {
        !self.flags.closing.load(Ordering::Acquire) && self.queue.try_send(Message::Line(line)).is_ok()
    }

    pub(super) fn reopen(&self) {
        self.flags.reopen.store(true, Ordering::Release);
        self.wake();
    }

    pub(super) fn close(&self, wait: Duration) {
        let deadline = Instant::now() + wait;
        *self.flags.deadline.lock() = Some(deadline);
        self.flags.closing.store(true, Ordering::Release);
        self.wake();
        let mut ended = self.flags.ended.lock();
        while !*ended && !self.flags.has_ended.wait_until(&mut ended, deadline).timed_out() {}
    }

    fn wake(&self) {
        // A queue that is full keeps the thread awake anyway.
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.queue.try_send(Message::Wake) {}
    }
}

/// Where lines go.
enum Sink {
    /// The descriptor, not `std::io::stdout`, whose lock a thread that prints may hold for ever.
    Stdout(File),
    File {
        path: PathBuf,
        file: Option<File>,
    },
}

impl Sink {
    fn stdout() -> Result<Self, AccessLogError> {
        let stdout = io::stdout().as_fd().try_clone_to_owned();
        let open = |source| AccessLogError::Open { path: "stdout".to_owned(), source };
        Ok(Self::Stdout(stdout.map_err(open)?.into()))
    }

    fn file(path: &Path) -> Result<Self, AccessLogError> {
        let open = |source| AccessLogError::Open { path: path.display().to_string(), source };
        let file = match append_to(path) {
            Ok(file) => Some(file),
            // A FIFO whose reader is yet to come.
            Err(error) if is_without_reader(&error) => None,
            Err(error) => return Err(open(error)),
        };
        Ok(Self::File { path: path.to_owned(), file })
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Self::File { path, file } = self {
            *file = Some(append_to(path)?);
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(file) | Self::File { file: Some(file), .. } => file.write(bytes),
            Self::File { path, file } => {
                let mut opened = append_to(path)?;
                let wrote = opened.write(bytes);
                *file = Some(opened);
                wrote
            }
        }
    }

    /// What is open is of no use any more.
    fn let_go(&mut self) {
        if let Self::File { file, .. } = self {
            *file = None;
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(flags).open(path)
}

/// ENXIO: a FIFO that nothing reads.
fn is_without_reader(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error())
}

/// Whether lines get lost now: said once, and once more when it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ails {
    No,
    Yes,
}

/// Whole lines on their way.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    lines: u64,
    /// The last write ended within a line: the next one begins on a line of its own.
    is_torn: bool,
}

struct Thread {
    receiver: Receiver<Message>,
    flags: Arc<Flags>,
    sink: Sink,
    counters: LineCounters,
    batch: Batch,
    ails: Ails,
}

impl Thread {
    fn run(mut self) {
        loop {
            self.mind_reopen();
            match self.receiver.recv_timeout(IDLE_PAUSE) {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.write();
            if self.flags.closing.load(Ordering::Acquire) {
                break;
            }
        }
        while let Ok(message) = self.receiver.try_recv() {
            self.take(message);
            self.write();
        }
        *self.flags.ended.lock() = true;
        self.flags.has_ended.notify_all();
    }

    /// The message and those behind it, as far as they make one write.
    fn take(&mut self, message: Message) {
        let mut next = Some(message);
        while let Some(message) = next {
            if let Message::Line(line) = message {
                self.batch.bytes.extend_from_slice(&line);
                self.batch.lines += 1;
            }
            next = if self.batch.bytes.len() < BATCH_BYTES { self.receiver.try_recv().ok() } else { None };
        }
    }

    fn mind_reopen(&mut self) {
        if !self.flags.reopen.swap(false, Ordering::AcqRel) {
            return;
        }
        match self.sink.reopen() {
            Ok(()) => tracing::info!("access log opened anew"),
            Err(error) => tracing::error!(%error, "the access log cannot be opened anew, the old file goes on"),
        }
    }

    /// Writes the batch; what cannot be written is dropped and counted.
    fn write(&mut self) {
        if self.batch.lines == 0 {
            return;
        }
        let mut bytes = std::mem::take(&mut self.batch.bytes);
        if self.batch.is_torn {
            bytes.insert(0, b'\n');
        }
        let mut written = 0;
        let result = loop {
            match self.sink.write(&bytes[written..]) {
                Ok(0) => break Err(ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if self.is_worth_waiting(&error) => std::thread::sleep(RETRY_PAUSE),
                Err(error) => break Err(error),
            }
            if written == bytes.len() {
                break Ok(());
            }
        };
        self.count(&bytes[..written], result.as_ref().err());
        bytes.clear();
        self.batch = Batch { bytes, lines: 0, is_torn: self.is_torn_by(written, result.is_err()) };
    }

    fn is_torn_by(&self, written: usize, has_failed: bool) -> bool {
        has_failed && (written > 0 || self.batch.is_torn)
    }

    /// A pipe whose reader is slow or yet to come; a rotation and the end of the program go before.
    fn is_worth_waiting(&mut self, error: &io::Error) -> bool {
        let is_pipe = error.kind() == ErrorKind::WouldBlock || is_without_reader(error);
        self.mind_reopen();
        is_pipe && !self.flags.is_overdue()
    }

    fn count(&mut self, written: &[u8], error: Option<&io::Error>) {
        let ends = written.iter().filter(|byte| **byte == b'\n').count() as u64;
        let whole = ends.saturating_sub(u64::from(self.batch.is_torn)).min(self.batch.lines);
        let lost = self.batch.lines - whole;
        self.counters.written.inc_by(whole);
        self.counters.write_failed.inc_by(lost);
        match (error, self.ails) {
            (Some(error), Ails::No) => {
                tracing::warn!(%error, lost, "the access log takes no lines: they are dropped and counted");
                self.ails = Ails::Yes;
            }
            (None, Ails::Yes) => {
                tracing::info!("the access log takes lines again");
                self.ails = Ails::No;
            }
            _ => {}
        }
        // A full disk may have room again; anything else is another file.
        if error.is_some_and(|error| !matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)) {
            self.sink.let_go();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use prometheus::Registry;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn counters() -> LineCounters {
        LineCounters::new(&Registry::new()).unwrap()
    }

    fn start(path: &Path, lines_max: usize) -> (Writer, LineCounters) {
        let counters = counters();
        let writer = Writer::start(&Destination::File(path.to_owned()), lines_max, counters.clone()).unwrap();
        (writer, counters)
    }

    fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + LONG;
        while !condition() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn lines_are_appended_and_a_rotation_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
        std::fs::write(&path, "before\n").unwrap();
        let (writer, counters) = start(&path, 100);
        assert!(writer.queue(b"one\n".to_vec()));
        eventually("the first line", || read(&path) == "before\none\n");
        std::fs::rename(&path, &old).unwrap();
        writer.reopen();
        eventually("the new file", || path.exists());
        assert!(writer.queue(b"two\n".to_vec()));
        writer.close(LONG);
        assert_eq!((read(&old).as_str(), read(&path).as_str()), ("before\none\n", "two\n"));
        assert_eq!((counters.written.get(), counters.write_failed.get()), (2, 0));
        assert!(!writer.queue(b"three\n".to_vec()), "closed");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_told_at_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nowhere/access.log");
        let error = Writer::start(&Destination::File(path), 10, counters()).err().unwrap().to_string();
        assert!(error.contains("access_log.to") && error.contains("nowhere"), "{error}");
    }

    #[test]
    fn a_full_disk_costs_its_lines_and_nothing_else() {
        // Every write to it says ENOSPC.
        let (writer, counters) = start(Path::new("/dev/full"), 100);
        for _ in 0..10 {
            assert!(writer.queue(b"line\n".to_vec()));
        }
        eventually("they are counted", || counters.write_failed.get() == 10);
        writer.close(LONG);
        assert_eq!(counters.written.get(), 0);
    }

    #[test]
    fn a_pipe_that_nothing_reads_fills_the_queue_and_blocks_no_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
        let (writer, counters) = start(&path, 10);
        let (taken, refused): (Vec<_>, Vec<_>) =
            (0..200_000).map(|_| writer.queue(b"line\n".to_vec())).partition(|took| *took);
        assert!(!taken.is_empty() && !refused.is_empty());
        // A reader that comes late gets what waits.
        let reader = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(&path);
        let mut reader = reader.unwrap();
        let mut text = Vec::new();
        eventually("the lines that wait", || {
            // Ends with EAGAIN; what came before it is kept.
            let _ = reader.read_to_end(&mut text);
            counters.written.get() == taken.len() as u64
        });
        assert!(text.starts_with(b"line\n"));
        let before = Instant::now();
        drop(reader);
        writer.queue(b"line\n".to_vec());
        writer.close(Duration::from_millis(200));
        assert!(before.elapsed() < LONG, "the end waits for no reader");
    }

    #[test]
    fn a_line_that_was_torn_stays_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let counters = counters();
        let (_sender, receiver) = sync_channel(1);
        let sink = Sink::file(&path).unwrap();
        let batch = Batch { bytes: b"two\n".to_vec(), lines: 1, is_torn: true };
        let flags = Arc::new(Flags::default());
        let mut thread = Thread { receiver, flags, sink, counters: counters.clone(), batch, ails: Ails::Yes };
        thread.sink.write(b"on").unwrap();
        thread.write();
        assert_eq!((read(&path).as_str(), counters.written.get(), thread.batch.is_torn), ("on\ntwo\n", 1, false));
    }
}
