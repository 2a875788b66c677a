//! Detached single flight: of all who want the same key at the same time, one fill runs.
//!
//! Invariants: a fill is a task of its own, so that no caller that hangs up can cancel it; at most `in_flight_max`
//! run; each ends after `fill_time_max` at the latest; however it ends — a value, a panic, an abort, too late —
//! its key is free again and every caller that waited hears of it. Waiting is up to the caller and has its own limit.
//! Where the fill can be made again ([`Flights::fly_handing_over`]), a leader that dies hands over: one of those who
//! waited leads, the others wait for it, a bounded number of times.
//!
//! A fill must begin by looking for the value once more: between a caller's look-up and its call of
//! [`Flights::fly`] another fill may have landed.

use bildkante_shared::log_limited;
use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::IntGauge;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tracing::Instrument;

/// Why there is no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FlightError {
    #[error("too many fills are under way")]
    Full,
    #[error("the fill panicked")]
    Panicked,
    #[error("the fill was stopped")]
    Aborted,
    #[error("the fill took too long")]
    TookTooLong,
    #[error("the caller's time is up; the fill goes on")]
    WaitOver,
}

impl FlightError {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Panicked => "panicked",
            Self::Aborted => "aborted",
            Self::TookTooLong => "took-too-long",
            Self::WaitOver => "wait-over",
        }
    }
}

/// Leaders a caller sees die before it gives up: a fill that always panics must not be tried for ever.
pub(super) const HANDOVERS_MAX: usize = 2;

/// Who started the fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlightRole {
    Leader,
    /// Joined a fill that was under way (`collapsed` in Cache-Status).
    Follower,
}

/// Fills under way, by key.
#[derive(Debug)]
pub struct Flights<K, V> {
    board: Arc<Board<K, V>>,
}

#[derive(Debug)]
struct Board<K, V> {
    flying: Mutex<HashMap<K, watch::Receiver<Progress<V>>>>,
    in_flight_max: usize,
    fill_time_max: Duration,
    gauge: IntGauge,
    /// Where fills run: on the runtime that built this, and not on a connection's worker.
    runtime: Option<Handle>,
}

#[derive(Debug, Clone)]
enum Progress<V> {
    Flying,
    Landed(V),
    Crashed(FlightError),
}

/// A place among those who wait. Dropping it cancels nothing.
#[must_use = "the fill runs anyway, but its value is for those who wait"]
pub struct Ticket<V> {
    role: FlightRole,
    progress: watch::Receiver<Progress<V>>,
    /// After a leader died: leads the fill again, or joins the caller that was faster.
    again: Option<Again<V>>,
}

type Again<V> = Arc<dyn Fn() -> Result<Ticket<V>, FlightError> + Send + Sync>;

impl<V> Debug for Ticket<V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let can_lead = self.again.is_some();
        f.debug_struct("Ticket").field("role", &self.role).field("can_lead", &can_lead).finish_non_exhaustive()
    }
}

impl<K, V> Flights<K, V>
where
    K: Clone + Debug + Eq + Hash + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    #[must_use]
    pub fn new(in_flight_max: usize, fill_time_max: Duration, gauge: IntGauge) -> Self {
        let flying = Mutex::default();
        let runtime = Handle::try_current().ok();
        Self { board: Arc::new(Board { flying, in_flight_max, fill_time_max, gauge, runtime }) }
    }

    /// As [`Self::fly`], but when the leader's fill panics or is aborted one of those who wait makes it again.
    ///
    /// # Errors
    /// As [`Self::fly`].
    pub fn fly_handing_over<F, Fut>(&self, key: K, fill: F) -> Result<Ticket<V>, FlightError>
    where
        F: Fn() -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = V> + Send + 'static,
    {
        let ticket = self.fly(key.clone(), fill.clone())?;
        let flights = Self { board: Arc::clone(&self.board) };
        let again = move || flights.fly_handing_over(key.clone(), fill.clone());
        Ok(Ticket { again: Some(Arc::new(again)), ..ticket })
    }

    /// Whether a fill of `key` is under way.
    #[must_use]
    pub fn is_flying(&self, key: &K) -> bool {
        self.board.flying.lock().contains_key(key)
    }

    /// Joins the fill of `key`, or starts one on the runtime this was built on, else on the caller's.
    ///
    /// # Errors
    /// [`FlightError::Full`] when a new fill would be one too many, [`FlightError::Aborted`] off a runtime.
    pub fn fly<F, Fut>(&self, key: K, fill: F) -> Result<Ticket<V>, FlightError>
    where
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = V> + Send + 'static,
    {
        let here = || Handle::try_current().map_err(|_| FlightError::Aborted);
        let runtime = self.board.runtime.clone().map_or_else(here, Ok)?;
        let mut flying = self.board.flying.lock();
        if let Some(progress) = flying.get(&key) {
            return Ok(Ticket { role: FlightRole::Follower, progress: progress.clone(), again: None });
        }
        if flying.len() >= self.board.in_flight_max {
            return Err(FlightError::Full);
        }
        let (sender, progress) = watch::channel(Progress::Flying);
        flying.insert(key.clone(), progress.clone());
        self.board.gauge.inc();
        drop(flying);
        let landing = Landing { board: Arc::clone(&self.board), key, sender, result: None };
        runtime.spawn(land(landing, fill).in_current_span());
        Ok(Ticket { role: FlightRole::Leader, progress, again: None })
    }

    /// Fills under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.board.flying.lock().len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

async fn land<K, V, F, Fut>(mut landing: Landing<K, V>, fill: F)
where
    K: Debug + Eq + Hash,
    F: FnOnce() -> Fut,
    Fut: Future<Output = V>,
{
    let time_max = landing.board.fill_time_max;
    // `fill` itself is called inside, so that a panic in it counts as one of the fill.
    let result = tokio::time::timeout(time_max, async { fill().await }).await;
    landing.result = Some(result.map_err(|_| FlightError::TookTooLong));
}

/// Ends a flight when dropped: after the fill, in its unwinding, or with its aborted task.
struct Landing<K: Debug + Eq + Hash, V> {
    board: Arc<Board<K, V>>,
    key: K,
    sender: watch::Sender<Progress<V>>,
    result: Option<Result<V, FlightError>>,
}

impl<K: Debug + Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or_else(|| {
            Err(if std::thread::panicking() { FlightError::Panicked } else { FlightError::Aborted })
        });
        if let Err(error) = &result {
            log_limited!(warn, key = ?self.key, %error, "a fill ended without a value");
        }
        // First free the key, then wake the waiters: one that tries again then starts afresh.
        self.board.flying.lock().remove(&self.key);
        self.board.gauge.dec();
        self.sender.send_replace(match result {
            Ok(value) => Progress::Landed(value),
            Err(error) => Progress::Crashed(error),
        });
    }
}

impl<V: Clone> Ticket<V> {
    #[must_use]
    pub const fn role(&self) -> FlightRole {
        self.role
    }

    /// Waits for the end of the fill, and of the next one where a leader that dies hands over.
    ///
    /// # Errors
    /// When the fill ended without a value.
    pub async fn landed(self) -> Result<V, FlightError> {
        let mut ticket = self;
        for _ in 0..HANDOVERS_MAX {
            let again = ticket.again.clone();
            match (ticket.ended().await, again) {
                (Err(FlightError::Panicked | FlightError::Aborted), Some(again)) => ticket = again()?,
                (result, _) => return result,
            }
        }
        ticket.ended().await
    }

    async fn ended(mut self) -> Result<V, FlightError> {
        let progress = self.progress.wait_for(|progress| !matches!(progress, Progress::Flying)).await;
        match progress.as_deref() {
            Ok(Progress::Landed(value)) => Ok(value.clone()),
            Ok(Progress::Crashed(error)) => Err(*error),
            Ok(Progress::Flying) | Err(_) => Err(FlightError::Aborted),
        }
    }

    /// Waits at most `wait`; the fill goes on without this caller.
    ///
    /// # Errors
    /// [`FlightError::WaitOver`] when the time is up, or as [`Self::landed`].
    pub async fn landed_within(self, wait: Duration) -> Result<V, FlightError> {
        tokio::time::timeout(wait, self.landed()).await.unwrap_or(Err(FlightError::WaitOver))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::{Notify, Semaphore};
    use tokio::task::JoinSet;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn flights(in_flight_max: usize) -> Flights<u64, usize> {
        Flights::new(in_flight_max, MINUTE, IntGauge::new("flights", "flights").unwrap())
    }

    async fn all_landed(tickets: Vec<Ticket<usize>>) -> Vec<Result<usize, FlightError>> {
        let mut waiting = JoinSet::new();
        for ticket in tickets {
            waiting.spawn(ticket.landed());
        }
        waiting.join_all().await
    }

    #[tokio::test]
    async fn one_leads_and_all_get_the_same() {
        let flights = flights(8);
        let gate = Arc::new(Notify::new());
        let opened = Arc::clone(&gate);
        let leader = flights.fly(1, move || async move {
            opened.notified().await;
            42
        });
        let leader = leader.unwrap();
        assert_eq!(leader.role(), FlightRole::Leader);
        let followers: Vec<_> = (0..100).map(|_| flights.fly(1, || async { unreachable!() }).unwrap()).collect();
        assert!(followers.iter().all(|ticket| ticket.role() == FlightRole::Follower));
        gate.notify_one();
        assert_eq!(leader.landed().await, Ok(42));
        for follower in followers {
            assert_eq!(follower.landed().await, Ok(42));
        }
        assert!(flights.is_empty());
        assert_eq!(flights.board.gauge.get(), 0);
    }

    #[tokio::test]
    async fn callers_who_leave_cancel_nothing() {
        let flights = flights(8);
        let (permits, done) = (Arc::new(Semaphore::new(0)), Arc::new(Notify::new()));
        let (permit, finished) = (Arc::clone(&permits), Arc::clone(&done));
        let fill = move || async move {
            let _ = permit.acquire().await;
            finished.notify_one();
            7
        };
        drop(flights.fly(1, fill).unwrap());
        // More than the two hundred at which other implementations give up.
        for _ in 0..500 {
            let ticket = flights.fly(1, || async { unreachable!() }).unwrap();
            assert_eq!(ticket.landed_within(Duration::ZERO).await, Err(FlightError::WaitOver));
        }
        let last = flights.fly(1, || async { unreachable!() }).unwrap();
        permits.add_permits(1);
        assert_eq!(last.landed().await, Ok(7));
        done.notified().await;
    }

    #[tokio::test]
    async fn a_panic_reaches_every_follower_and_frees_the_key() {
        let flights = flights(8);
        let gate = Arc::new(Notify::new());
        let opened = Arc::clone(&gate);
        let leader = flights.fly(1, move || async move {
            opened.notified().await;
            panic!("in a fill, on purpose")
        });
        let follower = flights.fly(1, || async { unreachable!() }).unwrap();
        gate.notify_one();
        assert_eq!(leader.unwrap().landed().await, Err(FlightError::Panicked));
        assert_eq!(follower.landed().await, Err(FlightError::Panicked));
        assert_eq!(flights.fly(1, || async { 9 }).unwrap().landed().await, Ok(9));
        // Also one that panics before it returns its future.
        let early = flights.fly(2, || -> std::future::Ready<usize> { panic!("early, on purpose") });
        assert_eq!(early.unwrap().landed().await, Err(FlightError::Panicked));
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn a_leader_that_dies_hands_over_to_one_of_those_who_wait() {
        let flights = flights(8);
        let (gate, fills) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let fill = || {
            let (gate, fills) = (Arc::clone(&gate), Arc::clone(&fills));
            move || {
                let (gate, fills) = (Arc::clone(&gate), Arc::clone(&fills));
                async move {
                    let _ = gate.acquire().await;
                    assert!(fills.fetch_add(1, Ordering::SeqCst) > 0, "the first leader dies, on purpose");
                    5
                }
            }
        };
        let tickets: Vec<_> = (0..300).map(|_| flights.fly_handing_over(1, fill()).unwrap()).collect();
        assert!(flights.is_flying(&1));
        gate.add_permits(1);
        for landed in all_landed(tickets).await {
            assert_eq!(landed, Ok(5));
        }
        assert_eq!(fills.load(Ordering::SeqCst), 2, "one death, one hand-over");
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn a_fill_that_always_dies_is_tried_a_bounded_number_of_times() {
        let flights = flights(8);
        let fills = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&fills);
        let fill = move || -> std::future::Ready<usize> {
            counted.fetch_add(1, Ordering::SeqCst);
            panic!("always, on purpose")
        };
        let tickets: Vec<_> = (0..50).map(|_| flights.fly_handing_over(1, fill.clone()).unwrap()).collect();
        for landed in all_landed(tickets).await {
            assert_eq!(landed, Err(FlightError::Panicked));
        }
        // Callers of one key see the same leaders die; one that comes late to a hand-over may lead once more.
        assert!((1 + HANDOVERS_MAX..50).contains(&fills.load(Ordering::SeqCst)), "{fills:?}");
        assert!(flights.is_empty());
    }

    #[test]
    fn a_runtime_that_stops_aborts_its_fills_and_says_so() {
        let flights = flights(8);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let ticket = runtime.block_on(async { flights.fly(1, std::future::pending).unwrap() });
        drop(runtime);
        let other = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert_eq!(other.block_on(ticket.landed()), Err(FlightError::Aborted));
        assert!(flights.is_empty());
        assert_eq!(flights.fly(1, || async { 1 }).unwrap_err(), FlightError::Aborted, "off a runtime");
    }

    #[tokio::test]
    async fn a_fill_that_never_ends_is_stopped() {
        let gauge = IntGauge::new("flights", "flights").unwrap();
        let flights: Flights<u64, usize> = Flights::new(8, Duration::from_millis(10), gauge);
        let ticket = flights.fly(1, std::future::pending).unwrap();
        assert_eq!(ticket.landed().await, Err(FlightError::TookTooLong));
        assert!(flights.is_empty());
    }

    #[tokio::test]
    async fn fills_are_bounded_and_joining_is_not() {
        let flights = flights(2);
        let gate = Arc::new(Semaphore::new(0));
        let wait = |n: usize| {
            let gate = Arc::clone(&gate);
            move || async move {
                let _ = gate.acquire().await;
                n
            }
        };
        let (one, two) = (flights.fly(1, wait(1)).unwrap(), flights.fly(2, wait(2)).unwrap());
        assert_eq!(flights.fly(3, wait(3)).unwrap_err(), FlightError::Full);
        let joined = flights.fly(2, wait(4)).unwrap();
        gate.add_permits(3);
        assert_eq!((one.landed().await, two.landed().await, joined.landed().await), (Ok(1), Ok(2), Ok(2)));
        assert_eq!(flights.fly(3, wait(3)).unwrap().landed().await, Ok(3));
    }

    /// A cheap generator, so that a failing run can be repeated by its seed.
    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn a_thousand_callers_leaving_at_random_cause_one_fill_per_generation() {
        const CALLERS: u64 = 1000;
        for generation in 0..20_u64 {
            let flights = Arc::new(flights(8));
            let fills = Arc::new(AtomicUsize::new(0));
            let asked = Arc::new(AtomicUsize::new(0));
            let all_asked = Arc::new(Notify::new());
            let callers: Vec<_> = (0..CALLERS)
                .map(|caller| {
                    let (flights, fills) = (Arc::clone(&flights), Arc::clone(&fills));
                    let (asked, all_asked) = (Arc::clone(&asked), Arc::clone(&all_asked));
                    tokio::spawn(async move {
                        let fill_asked = Arc::clone(&all_asked);
                        let ticket = flights.fly(generation, move || async move {
                            // Lands only when all have asked, so that one generation is what is under test.
                            fill_asked.notified().await;
                            fills.fetch_add(1, Ordering::SeqCst) + 1
                        });
                        if asked.fetch_add(1, Ordering::SeqCst) + 1 == CALLERS as usize {
                            all_asked.notify_one();
                        }
                        let mut seed = generation * CALLERS + caller + 1;
                        match random(&mut seed) % 3 {
                            0 => None,
                            1 => {
                                ticket.unwrap().landed_within(Duration::from_micros(random(&mut seed) % 500)).await.ok()
                            }
                            _ => Some(ticket.unwrap().landed().await.unwrap()),
                        }
                    })
                })
                .collect();
            let mut values = 0;
            for caller in callers {
                if let Some(value) = caller.await.unwrap() {
                    assert_eq!(value, 1);
                    values += 1;
                }
            }
            assert!(values > 200, "{values}");
            assert_eq!(fills.load(Ordering::SeqCst), 1);
            assert!(flights.is_empty());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn fills_of_one_key_never_overlap() {
        let flights = Arc::new(flights(8));
        let (running, total) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let callers: Vec<_> = (0..200)
            .map(|_| {
                let (flights, running, total) = (Arc::clone(&flights), Arc::clone(&running), Arc::clone(&total));
                tokio::spawn(async move {
                    for _ in 0..20 {
                        let (running, total) = (Arc::clone(&running), Arc::clone(&total));
                        let ticket = flights.fly(1, move || async move {
                            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0);
                            tokio::task::yield_now().await;
                            running.fetch_sub(1, Ordering::SeqCst);
                            total.fetch_add(1, Ordering::SeqCst)
                        });
                        ticket.unwrap().landed().await.unwrap();
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
        let total = total.load(Ordering::SeqCst);
        assert!((20..4000).contains(&total), "{total} fills for 4000 calls");
    }
}
