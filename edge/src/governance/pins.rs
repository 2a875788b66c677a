//! Masters that decisions keep: how many and how large they are, by why, and which of them may go after a time.
//!
//! Invariants: what is live, awaits a decision, is scheduled or paused is never released; what was worked out for one state releases
//! nothing in a later one, so a picture that is approved anew is kept from that moment on.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bildkante_shared::ids::MasterId;
use bildkante_shared::log_limited;
use bildkante_shared::shutdown::Shutdown;
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};
use tokio::task::JoinHandle;

use crate::cache::unix_ms;
use crate::shared_state::{Entries, Log, LogId, Pin, Published, Since};

/// Between two looks, at most and at least.
const PERIOD: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(1);
/// Entries whose times are remembered.
const TIMES_MAX: usize = 100_000;

/// How many masters are kept.
#[derive(Debug, Clone)]
pub struct PinMetrics {
    masters: IntGaugeVec,
    bytes: IntGaugeVec,
}

impl PinMetrics {
    /// `bytes_max`: of the store.
    ///
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(registry: &Registry, bytes_max: u64) -> prometheus::Result<Self> {
        let masters = IntGaugeVec::new(
            Opts::new("bildkante_edge_pinned_masters", "Masters on this edge that decisions keep, by why"),
            &["why"],
        )?;
        let bytes = IntGaugeVec::new(
            Opts::new(
                "bildkante_edge_pinned_master_bytes",
                "Bytes of masters on this edge that decisions keep, by why",
            ),
            &["why"],
        )?;
        let limit = IntGauge::new("bildkante_edge_masters_bytes_limit", "`cache.masters_bytes_max`")?;
        registry.register(Box::new(masters.clone()))?;
        registry.register(Box::new(bytes.clone()))?;
        registry.register(Box::new(limit.clone()))?;
        limit.set(i64::try_from(bytes_max).unwrap_or(i64::MAX));
        Ok(Self { masters, bytes })
    }
}

/// Why a master is kept. The first that holds counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Why {
    Live,
    Awaiting,
    Decided,
    /// It is not, any more.
    Released,
}

impl Why {
    const KEPT: [Self; 3] = [Self::Live, Self::Awaiting, Self::Decided];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Awaiting => "awaiting",
            Self::Decided => "decided",
            Self::Released => "released",
        }
    }
}

/// Which masters are kept, for the store that asks under its lock. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Kept {
    published: Published,
    released: Arc<ArcSwap<Released>>,
}

/// Masters that may go, in the state of one entry.
#[derive(Debug, Default)]
struct Released {
    log: LogId,
    epoch: u64,
    masters: HashSet<MasterId>,
}

impl Kept {
    #[must_use]
    pub fn new(published: Published) -> Self {
        Self { published, released: Arc::default() }
    }

    /// Whether decisions keep it.
    #[must_use]
    pub fn keeps(&self, master: MasterId) -> bool {
        let state = self.published.load();
        let released = self.released.load();
        let is_of_now = released.epoch == state.epoch() && released.log == *state.log();
        state.reviews().needs(master) && !(is_of_now && released.masters.contains(&master))
    }
}

/// What a master takes of the store, where it is there.
pub type SizeOf = Box<dyn Fn(MasterId) -> Option<u64> + Send + Sync>;

/// See the module's documentation.
pub struct Pins {
    kept: Kept,
    log: Arc<dyn Log>,
    size_of: SizeOf,
    /// `None`: for ever.
    keep: Option<Duration>,
    metrics: PinMetrics,
    /// When entries were made, as far as that was looked up.
    times: HashMap<u64, u64>,
}

impl std::fmt::Debug for Pins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pins")
    }
}

impl Pins {
    #[must_use]
    pub fn new(kept: Kept, log: Arc<dyn Log>, size_of: SizeOf, keep_days: u32, metrics: PinMetrics) -> Self {
        let keep = (keep_days > 0).then(|| Duration::from_secs(u64::from(keep_days) * 86_400));
        Self { kept, log, size_of, keep, metrics, times: HashMap::new() }
    }

    /// Looks at each change, and now and then, until shutdown.
    #[must_use]
    pub fn start(mut self, mut shutdown: Shutdown) -> JoinHandle<()> {
        tokio::spawn(async move {
            let mut seen = self.log.published().watch();
            loop {
                seen.borrow_and_update();
                self.look(unix_ms(SystemTime::now())).await;
                let rested = async {
                    tokio::time::sleep(PAUSE).await;
                    let _ = tokio::time::timeout(PERIOD, seen.changed()).await;
                };
                tokio::select! {
                    () = shutdown.requested() => return,
                    () = rested => {}
                }
            }
        })
    }

    async fn look(&mut self, now_unix_ms: u64) {
        let state = self.log.published().state();
        let mut whys: HashMap<MasterId, Why> = HashMap::new();
        for (master, pin) in state.reviews().pins(now_unix_ms) {
            let why = match pin {
                Pin::Live => Why::Live,
                Pin::Awaiting => Why::Awaiting,
                Pin::Decided => Why::Decided,
                Pin::Over(since) => self.over(since, now_unix_ms).await,
            };
            whys.entry(master).and_modify(|before| *before = why.min(*before)).or_insert(why);
        }
        self.count(&whys);
        let released = whys.into_iter().filter(|(_, why)| *why == Why::Released).map(|(master, _)| master);
        let (log, epoch, masters) = (state.log().clone(), state.epoch(), released.collect());
        self.kept.released.store(Arc::new(Released { log, epoch, masters }));
    }

    async fn over(&mut self, since: Since, now_unix_ms: u64) -> Why {
        let Some(keep) = self.keep else { return Why::Decided };
        let since_unix_ms = match since {
            Since::Moment(at) => at,
            Since::Entry { seq, from_unix_ms } => self.time_of(seq, now_unix_ms).await.max(from_unix_ms),
        };
        let age = Duration::from_millis(now_unix_ms.saturating_sub(since_unix_ms));
        if age >= keep { Why::Released } else { Why::Decided }
    }

    /// When an entry was made. One that stands on other edges alone is older than the first that is here; where that cannot be told, now.
    async fn time_of(&mut self, seq: u64, now_unix_ms: u64) -> u64 {
        if let Some(at) = self.times.get(&seq) {
            return *at;
        }
        let first_here = seq.max(self.log.standing().begins + 1);
        let at = match self.log.entries(first_here - 1, 1).await {
            Ok(Entries::These(entries)) => entries.first().map(|entry| entry.at_unix_ms()),
            Ok(Entries::Elsewhere) => None,
            Err(error) => {
                log_limited!(warn, seq, %error, "when a picture was approved cannot be read: its master is kept");
                None
            }
        };
        let Some(at) = at else { return now_unix_ms };
        if self.times.len() >= TIMES_MAX {
            self.times.clear();
        }
        self.times.insert(seq, at);
        at
    }

    fn count(&self, whys: &HashMap<MasterId, Why>) {
        for kept in Why::KEPT {
            let own = whys.iter().filter(|(_, why)| **why == kept);
            let sizes = own.filter_map(|(master, _)| (self.size_of)(*master));
            let (count, bytes) = sizes.fold((0_i64, 0_u64), |(count, bytes), size| (count + 1, bytes + size));
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            self.metrics.masters.with_label_values(&[kept.as_str()]).set(count);
            self.metrics.bytes.with_label_values(&[kept.as_str()]).set(bytes);
        }
    }
}

#[cfg(test)]
mod tests;
