//! The pool's threads under their rules. What holds of the queue alone is tested beside it.

use super::*;
use crate::budget::BudgetConfig;
use prometheus::Registry;
use std::sync::mpsc;

fn pool(threads: usize, pending_jobs_max: usize) -> Arc<RenderPool> {
    let metrics = RenderMetrics::new(&Registry::new()).expect("an empty registry");
    let config = RenderConfig { threads, pending_jobs_max, ..RenderConfig::default() };
    Arc::new(RenderPool::start(&config, metrics).expect("threads"))
}

fn urgency(value: u8) -> Urgency {
    Urgency::new(value).expect("0 to 7")
}

/// A job that occupies a thread until told to go on.
struct Plug {
    release: mpsc::Sender<()>,
    done: tokio::task::JoinHandle<Result<(), PoolError>>,
}

async fn plug(pool: &Arc<RenderPool>) -> Plug {
    plug_at(pool, Urgency::MOST).await
}

async fn plug_at(pool: &Arc<RenderPool>, urgency: Urgency) -> Plug {
    let (release, held) = mpsc::channel();
    let (started, has_started) = oneshot::channel();
    let pool = Arc::clone(pool);
    let done = tokio::spawn(async move {
        pool.run(urgency, move || {
            let _ = started.send(());
            let _ = held.recv();
        })
        .await
    });
    has_started.await.expect("the plug runs");
    Plug { release, done }
}

/// Submits a job and returns once it waits in the queue: polling a `run` future once submits it.
async fn enqueue<T: Send + 'static>(
    pool: &Arc<RenderPool>,
    at: impl Into<Precedence>,
    job: impl FnOnce() -> T + Send + 'static,
) -> tokio::task::JoinHandle<Result<T, PoolError>> {
    let (polled, is_polled) = oneshot::channel();
    let (pool, at) = (Arc::clone(pool), at.into());
    let handle = tokio::spawn(async move {
        let mut run = Box::pin(pool.run(at, job));
        let first = futures_util::future::poll_immediate(&mut run).await;
        let _ = polled.send(());
        match first {
            Some(result) => result,
            None => run.await,
        }
    });
    is_polled.await.expect("it was polled");
    handle
}

#[tokio::test]
async fn jobs_run_on_named_threads_and_return_values() {
    let pool = pool(1, 4);
    let name = pool.run(Urgency::DEFAULT, || std::thread::current().name().map(str::to_owned)).await;
    assert_eq!(name, Ok(Some("render-0".to_owned())));
}

#[tokio::test]
async fn the_most_urgent_goes_first_and_equals_in_order_of_arrival() {
    let pool = pool(1, 16);
    let plug = plug(&pool).await;
    let (order, ran) = mpsc::channel();
    let mut handles = Vec::new();
    for (at, tag) in [(5, 'd'), (1, 'a'), (3, 'b'), (3, 'c')] {
        let order = order.clone();
        handles.push(enqueue(&pool, urgency(at), move || order.send(tag)).await);
    }
    assert_eq!((pool.pending(), pool.running()), (4, 1));
    plug.release.send(()).expect("the plug listens");
    for handle in handles {
        handle.await.expect("no panic").expect("it ran").expect("somebody listens");
    }
    assert_eq!(ran.try_iter().collect::<String>(), "abcd");
    assert_eq!(plug.done.await.expect("no panic"), Ok(()));
}

#[tokio::test]
async fn a_full_pool_refuses_equals_and_displaces_the_less_urgent() {
    let pool = pool(1, 1);
    let plug = plug(&pool).await;
    let late = enqueue(&pool, urgency(5), || ()).await;
    assert_eq!(pool.run(urgency(5), || ()).await, Err(PoolError::Full));
    let hero = enqueue(&pool, urgency(1), || ()).await;
    assert_eq!(late.await.expect("no panic"), Err(PoolError::Full));
    assert_eq!(pool.shared.metrics.rejected_jobs.with_label_values(&["full"]).get(), 2);
    plug.release.send(()).expect("the plug listens");
    assert_eq!(hero.await.expect("no panic"), Ok(()));
}

#[tokio::test]
async fn a_job_without_a_caller_is_skipped_and_frees_its_place() {
    let pool = pool(1, 1);
    let plug = plug(&pool).await;
    let (ran, has_run) = mpsc::channel();
    let gone = enqueue(&pool, urgency(0), move || ran.send(())).await;
    gone.abort();
    assert!(gone.await.is_err_and(|error| error.is_cancelled()));
    // The place is taken, by a more urgent job, and not by one that waits.
    let live = enqueue(&pool, urgency(7), || 7).await;
    plug.release.send(()).expect("the plug listens");
    assert_eq!(live.await.expect("no panic"), Ok(7));
    assert!(has_run.recv().is_err(), "the abandoned job ran");
    assert_eq!(pool.shared.metrics.skipped_jobs.get(), 1);
}

#[tokio::test]
async fn jobs_that_waited_too_long_leave_room_for_fewer() {
    let metrics = RenderMetrics::new(&Registry::new()).expect("an empty registry");
    let config = RenderConfig { threads: 1, pending_jobs_max: 8, queue_delay_target_ms: 1, ..RenderConfig::default() };
    let pool = Arc::new(RenderPool::start(&config, metrics.clone()).expect("threads"));
    assert_eq!(metrics.pending_jobs_limit.get(), 8);
    let plug_one = plug(&pool).await;
    let waits = enqueue(&pool, urgency(3), || ()).await;
    std::thread::sleep(Duration::from_millis(2));
    plug_one.release.send(()).expect("the plug listens");
    assert_eq!(waits.await.expect("no panic"), Ok(()));
    assert_eq!(metrics.pending_jobs_limit.get(), 1, "as many as there are threads, at least");
}

#[tokio::test]
async fn a_pool_that_is_behind_with_what_readers_wait_for_says_so() {
    let metrics = RenderMetrics::new(&Registry::new()).expect("an empty registry");
    let config =
        RenderConfig { threads: 1, pending_jobs_max: 8, queue_delay_target_ms: 1000, ..RenderConfig::default() };
    let pool = Arc::new(RenderPool::start(&config, metrics.clone()).expect("threads"));
    let plug_one = plug(&pool).await;
    let behind = enqueue(&pool, Urgency::LEAST, || ()).await;
    std::thread::sleep(Duration::from_millis(300));
    // The plug may have waited for its thread.
    while pool.load() > Load::Light {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let reader = enqueue(&pool, urgency(3), || ()).await;
    while pool.load() < Load::Extreme {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(pool.puts_off_finals(), "a reader waits for half of the target");
    assert_eq!((metrics.load.get(), metrics.finals_put_off.get()), (2, 1));
    plug_one.release.send(()).expect("the plug listens");
    for job in [reader, behind] {
        assert_eq!(job.await.expect("no panic"), Ok(()));
    }
    while metrics.load.get() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(pool.load(), Load::Light, "it has faded, and the gauge with it");
}

#[tokio::test]
async fn render_threads_yield_to_those_that_answer() {
    let pool = pool(1, 4);
    let nice = || rustix::process::getpriority_process(None).expect("a priority");
    let (here, there) = (nice(), pool.run(Urgency::DEFAULT, nice).await.expect("it ran"));
    assert!(there > here || here == 19, "{there} there, {here} here");
}

#[tokio::test]
async fn a_panic_fails_its_job_only() {
    let pool = pool(1, 4);
    let failed = pool.run(Urgency::DEFAULT, || -> u8 { panic!("a bug in a codec") }).await;
    assert_eq!(failed, Err(PoolError::Panicked { reason: "a bug in a codec".to_owned() }));
    assert_eq!(pool.run(Urgency::DEFAULT, || 2).await, Ok(2));
    assert_eq!(pool.shared.metrics.panicked_jobs.get(), 1);
}

#[tokio::test]
async fn closing_refuses_the_waiting_finishes_the_running_and_ends_the_threads() {
    let pool = pool(2, 4);
    let (one, two) = (plug(&pool).await, plug(&pool).await);
    let waiting = enqueue(&pool, Urgency::MOST, || ()).await;
    assert!(!pool.shutdown(Duration::from_millis(20)).await, "two jobs still run");
    assert_eq!(waiting.await.expect("no panic"), Err(PoolError::Closed));
    assert_eq!(pool.run(Urgency::MOST, || ()).await, Err(PoolError::Closed));
    for plug in [one, two] {
        plug.release.send(()).expect("the plug listens");
        assert_eq!(plug.done.await.expect("no panic"), Ok(()));
    }
    assert!(pool.shutdown(Duration::from_secs(10)).await);
    assert_eq!((pool.pending(), pool.running()), (0, 0));
}

/// Of this thread alone: what answers requests keeps its own.
#[tokio::test]
async fn idle_threads_are_idle_to_the_kernel_and_others_are_not() {
    for (scheduling, expected) in [(RenderScheduling::Idle, "5"), (RenderScheduling::Normal, "0")] {
        let config = RenderConfig { threads: 1, scheduling, ..RenderConfig::default() };
        let pool = RenderPool::start(&config, RenderMetrics::new(&Registry::new()).expect("metrics")).expect("threads");
        // proc(5): the 41st field of stat is the policy, the 39th behind the name in parentheses.
        let policy = || -> String {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("proc");
            stat.rsplit_once(") ").expect("a name").1.split(' ').nth(38).expect("a policy").to_owned()
        };
        assert_eq!(pool.run(Urgency::DEFAULT, policy).await.expect("a job"), expected);
        assert_eq!(policy(), "0");
    }
}

/// With the default places: an owner of hundreds of jobs gets many of them, and the others still find one and wait.
#[tokio::test]
async fn one_network_leaves_places_and_turns_to_the_others() {
    let pool = patient_pool(1, RenderConfig::default().pending_jobs_max);
    let plug = plug(&pool).await;
    let network = |text: &str| Network::of(text.parse().unwrap(), &BudgetConfig::default());
    let (greedy, other) = (network("192.0.2.1"), network("198.51.100.1"));
    let of = |owner| Precedence { owner: Some(owner), ..urgency(1).into() };
    let order = Arc::new(Mutex::new(Vec::new()));
    let note = |owner: &'static str| {
        let order = Arc::clone(&order);
        move || order.lock().push(owner)
    };
    let mut jobs = Vec::new();
    for _ in 0..400 {
        jobs.push(enqueue(&pool, of(greedy), note("greedy")).await);
    }
    let mut others = Vec::new();
    for _ in 0..3 {
        others.push(enqueue(&pool, of(other), note("other")).await);
    }
    let unowned = enqueue(&pool, urgency(1), note("unowned")).await;
    assert_eq!(pool.pending(), RenderConfig::default().pending_jobs_max);
    plug.release.send(()).unwrap();
    for job in others {
        assert_eq!(job.await.unwrap(), Ok(()), "another network's job has a place");
    }
    assert_eq!(unowned.await.unwrap(), Ok(()));
    let mut refused = 0;
    for job in jobs {
        refused += usize::from(job.await.unwrap() == Err(PoolError::Full));
    }
    assert_eq!(refused, 400 + 4 - RenderConfig::default().pending_jobs_max);
    let last = order.lock().iter().rposition(|owner| *owner != "greedy").unwrap();
    assert!(last < 8, "they take turns: {last}");
    assert_eq!(pool.shared.state.lock().queue.owners(), 0, "who has nothing waiting is not remembered");
}

/// A thread that a busy machine holds up for a second is no wait to it.
fn patient_pool(threads: usize, pending_jobs_max: usize) -> Arc<RenderPool> {
    let metrics = RenderMetrics::new(&Registry::new()).expect("an empty registry");
    let config = RenderConfig { threads, pending_jobs_max, queue_delay_target_ms: 600_000, ..RenderConfig::default() };
    Arc::new(RenderPool::start(&config, metrics).expect("threads"))
}

/// Longer than any machine takes for jobs that do nothing: a job that is forgotten fails its test.
async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), work).await.expect("the job runs")
}

/// A thread counts its job as ended behind the reply.
async fn until_running(pool: &RenderPool, jobs: usize) {
    let settled = async {
        while pool.running() != jobs {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    in_time(settled).await;
}

#[tokio::test]
async fn a_reader_has_a_thread_at_once_beside_jobs_that_no_reader_waits_for() {
    for threads in [2, 3, 5] {
        let pool = patient_pool(threads, 8);
        let mut long = Vec::new();
        for _ in 1..threads {
            long.push(in_time(plug_at(&pool, Urgency::LEAST)).await);
        }
        let (one_more, another) = (enqueue(&pool, Urgency::LEAST, || ()), enqueue(&pool, Urgency::LEAST, || ()));
        let kept_back = [one_more.await, another.await];
        for urgency in [Urgency::MOST, Urgency::LAST_OF_READERS] {
            assert_eq!(in_time(pool.run(urgency, || 1)).await, Ok(1), "{threads} threads");
        }
        until_running(&pool, threads - 1).await;
        assert_eq!(pool.pending(), 2, "{threads} threads");
        assert_eq!((pool.load(), pool.puts_off_finals()), (Load::Light, false));
        // The kept thread is the reader's while the others' jobs end, and what waited has their threads.
        let reader = in_time(plug(&pool)).await;
        for plug in long {
            plug.release.send(()).expect("the plug listens");
            assert_eq!(in_time(plug.done).await.expect("no panic"), Ok(()));
        }
        for job in kept_back {
            assert_eq!(in_time(job).await.expect("no panic"), Ok(()));
        }
        reader.release.send(()).expect("the plug listens");
        assert_eq!(in_time(reader.done).await.expect("no panic"), Ok(()));
        assert_eq!(pool.shared.metrics.pending_jobs.get(), 0);
    }
}

#[tokio::test]
async fn a_single_thread_is_not_kept_for_readers() {
    let pool = pool(1, 8);
    let plug = in_time(plug_at(&pool, Urgency::LEAST)).await;
    let behind = enqueue(&pool, Urgency::LEAST, || ()).await;
    let reader = enqueue(&pool, Urgency::MOST, || ()).await;
    assert_eq!((pool.pending(), pool.running()), (2, 1));
    plug.release.send(()).expect("the plug listens");
    for job in [reader, behind] {
        assert_eq!(in_time(job).await.expect("no panic"), Ok(()));
    }
}

/// Hundreds of jobs of both kinds from several threads: each runs, and never more of the least urgent than may.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn none_is_lost_when_more_wait_than_may_run() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    const THREADS: usize = 3;
    let pool = patient_pool(THREADS, 1_000);
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut jobs = tokio::task::JoinSet::new();
    for number in 0..600_u32 {
        let (pool, running, most) = (Arc::clone(&pool), Arc::clone(&running), Arc::clone(&most));
        jobs.spawn(async move {
            if number % 3 == 0 {
                return pool.run(urgency(3), move || number).await;
            }
            let job = move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::yield_now();
                running.fetch_sub(1, Ordering::SeqCst);
                number
            };
            pool.run(Urgency::LEAST, job).await
        });
    }
    let mut sum = 0;
    while let Some(done) = in_time(jobs.join_next()).await {
        sum += u64::from(done.expect("no panic").expect("it ran"));
    }
    assert_eq!(sum, 600 * 599 / 2);
    assert!(most.load(Ordering::SeqCst) < THREADS, "{most:?}");
    until_running(&pool, 0).await;
    assert_eq!(pool.pending(), 0);
}
