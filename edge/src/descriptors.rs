//! How many files this process may have open, and what the connections leave for everything else.
//!
//! A connection is a descriptor, and so is every file that is read and every connection to a node or a store. Systems
//! give a process 1,024 of them at first and let it ask for more; where even the most is too little, connections wait
//! in the kernel's backlog, which is harmless, and files keep what they need.

use rustix::process::{Resource, getrlimit, setrlimit};

use crate::config::Config;

/// Connections of the admin listener, at least: operators, probes and scrapers.
const ADMIN_CONNECTIONS_MIN: usize = 256;
/// The same where enough files may be open: each open page of the preview holds one, on which it hears of decisions.
const ADMIN_CONNECTIONS_MAX: usize = 2_304;
/// Of these, kept from pages that only wait, so that a kill, a probe and a scrape always find one.
const ADMIN_KEPT: usize = 128;
/// Libraries, logs, databases, sockets that listen, runtimes, calls to purgers and to the sidecar.
const OWN: usize = 96;
/// Of an I/O worker's runtime.
const PER_WORKER: usize = 8;

/// Raises the soft limit of open files to the hard one; the limit that is in force then. `None`: no limit.
pub fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, soft = ?limit.current, hard = ?limit.maximum, "the limit of open files stays as it is");
            limit.current
        }
    }
}

/// The limit that is in force; `None`: no limit.
#[must_use]
pub fn limit() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Connections of the admin listener where `limit` files may be open.
#[must_use]
pub fn admin_connections(limit: Option<u64>) -> usize {
    let eighth = limit.map_or(usize::MAX, |limit| usize::try_from(limit / 8).unwrap_or(usize::MAX));
    eighth.clamp(ADMIN_CONNECTIONS_MIN, ADMIN_CONNECTIONS_MAX)
}

/// Pages of the preview and readers of batches that wait for news at a time.
#[must_use]
pub fn waiting_pages(limit: Option<u64>) -> usize {
    admin_connections(limit) - ADMIN_KEPT
}

/// What is kept for everything but the connections of the public listeners.
#[must_use]
pub fn reserved(config: &Config, workers: usize, limit: Option<u64>) -> usize {
    // Renditions and masters, reading and writing; a write has its file and its folder open.
    let files = config.cache.disk_io_concurrency.saturating_mul(2 * (1 + 2));
    let objects = config.cache.object.as_ref().map_or(0, |object| object.concurrency.saturating_mul(2 * 2));
    let admin = admin_connections(limit).min(config.limits.connections_max);
    [OWN, workers.saturating_mul(PER_WORKER), files, objects, admin].into_iter().fold(0, usize::saturating_add)
}

/// Connections that each of `listeners` may have, of `wanted`, where `limit` files may be open and `reserved` are kept.
/// A quarter of a limit that is hopelessly low goes to connections all the same.
#[must_use]
pub fn fit(wanted: usize, listeners: usize, limit: Option<u64>, reserved: usize) -> usize {
    let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { return wanted };
    let left = limit.saturating_sub(reserved).max(limit / 4);
    wanted.min((left / listeners.max(1)).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_get_what_files_leave_and_never_more_than_is_wanted() {
        assert_eq!(fit(20_000, 1, None, 500), 20_000);
        assert_eq!(fit(20_000, 1, Some(1 << 20), 500), 20_000);
        assert_eq!(fit(20_000, 1, Some(1024), 400), 624);
        assert_eq!(fit(20_000, 2, Some(1024), 400), 312);
        assert_eq!(fit(100, 2, Some(1024), 400), 100);
        assert_eq!(fit(20_000, 1, Some(256), 400), 64, "a quarter, where nothing is left");
        assert_eq!(fit(20_000, 2, Some(3), 400), 1);
        assert_eq!(fit(20_000, 1, Some(u64::MAX), 400), 20_000);
    }

    #[test]
    fn what_is_kept_grows_with_what_may_be_open_at_a_time() {
        let mut config = Config::default();
        let limit = Some(1_024);
        let before = reserved(&config, 2, limit);
        assert!(before < 600, "{before}: of 1,024 some connections are left");
        config.cache.disk_io_concurrency += 1;
        assert_eq!(reserved(&config, 3, limit), before + 6 + PER_WORKER);
        config.limits.connections_max = 10;
        assert_eq!(reserved(&config, 3, limit), before + 6 + PER_WORKER - ADMIN_CONNECTIONS_MIN + 10);
    }

    #[test]
    fn pages_that_wait_leave_connections_to_those_who_act() {
        for (limit, connections) in [(Some(1_024), 256), (Some(4_096), 512), (Some(20_000), 2_304), (None, 2_304)] {
            assert_eq!(admin_connections(limit), connections, "{limit:?}");
            assert_eq!(waiting_pages(limit), connections - ADMIN_KEPT, "{limit:?}");
        }
    }
}
