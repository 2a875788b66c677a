use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use bildkante_shared::shutdown;
use bildkante_shared::testing::{eventually, write_secret};
use http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::net::TcpListener;

use super::*;
use crate::campaign::CampaignMetrics;
use crate::config::Config;
use crate::governance::desk::{PurgeDesk, PurgeOrder};
use crate::governance::marks::{PurgeKey, PurgeKind, PurgeReach};
use crate::governance::purge::{Purge, PurgeMetrics};
use crate::governance::scope::PurgeScope;
use crate::governance::testing::sources;
use crate::reload::ConfigReload;
use crate::state::testing::{Device, Mood};
use crate::words::Epoch;

/// Answers the n-th call, from 0, with a status, headers and a body; hangs on `None`.
type Script = fn(usize) -> Option<(u16, &'static [(&'static str, &'static str)], &'static str)>;

/// A cache's purge API in this process.
#[derive(Debug, Clone)]
struct Imitation {
    address: SocketAddr,
    calls: Arc<Mutex<Vec<(String, HeaderMap, Bytes)>>>,
}

impl Imitation {
    async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let (seen, count) = (Arc::clone(&calls), Arc::new(AtomicUsize::new(0)));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, count) = (Arc::clone(&seen), Arc::clone(&count));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (seen, number) = (Arc::clone(&seen), count.fetch_add(1, Ordering::SeqCst));
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        seen.lock().push((format!("{} {}", parts.method, parts.uri), parts.headers, body));
                        let Some((status, headers, body)) = script(number) else { std::future::pending().await };
                        let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
                        *response.status_mut() = StatusCode::from_u16(status).unwrap();
                        for (name, value) in headers {
                            response.headers_mut().insert(*name, value.parse().unwrap());
                        }
                        Ok::<_, Infallible>(response)
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        Self { address, calls }
    }

    fn calls(&self) -> Vec<(String, HeaderMap, Bytes)> {
        self.calls.lock().clone()
    }
}

/// Purges and those who are told of them.
struct Bench {
    purges: Purges,
    downstream: Downstream,
    _running: (bildkante_shared::shutdown::ShutdownTrigger, JoinHandle<()>),
}

const LONG: Duration = Duration::from_secs(60);

impl Bench {
    async fn start(folder: &Path, downstream: &str) -> Self {
        let text = format!(
            "retry_backoff_ms_min = 1\nretry_backoff_ms_max = 20\ncall_timeout_ms = 3000\nconfirm_deadline_ms = 1\n{downstream}"
        );
        let config: PurgeConfig = toml::from_str(&text).unwrap();
        config.check().unwrap();
        let registry = Registry::new();
        let metrics = PurgeMetrics::new(&registry).unwrap();
        // What an earlier bench had under way may hold the ledger for a moment yet.
        let purges = loop {
            match Purges::open(&config, &folder.join("purges.redb"), metrics.clone()) {
                Ok(purges) => break purges,
                Err(error) if error.to_string().contains("already open") => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        };
        let catalog = CampaignMetrics::new(&registry).unwrap();
        let catalog = CatalogHandle::open(sources(), catalog, crate::words::Epoch::default()).unwrap();
        let downstream = Downstream::new(&config, purges.clone(), catalog).unwrap();
        let (trigger, ends) = shutdown::channel();
        let running = downstream.start(ends);
        Self { purges, downstream, _running: (trigger, running) }
    }

    async fn purge(&self, campaign: &str, kind: PurgeKind) -> PurgeRecord {
        let tag = format!("campaign:{campaign}");
        let record = PurgeRecord {
            id: 0,
            at_unix_ms: unix_ms(SystemTime::now()),
            by: "test".to_owned(),
            why: String::new(),
            scope: PurgeScope::Campaign(campaign.to_owned()),
            kind,
            reach: PurgeReach::Renditions,
            tags: vec![tag],
            url: None,
            key: None,
            downstream: Default::default(),
        };
        let purge = Purge { keys: vec![PurgeKey::campaign(campaign)], campaign: None, record };
        let record = self.purges.purge(purge, &self.downstream.names()).await.unwrap();
        self.downstream.wake();
        record
    }

    async fn settled(&self, record: &PurgeRecord) -> PurgeRecord {
        self.downstream.settled(record.id, LONG).await.unwrap()
    }

    /// Ends it as a crash would, the database aside.
    async fn stop(self) {
        let (trigger, running) = self._running;
        trigger.shut_down();
        running.await.unwrap();
    }
}

fn varnish(name: &str, address: SocketAddr) -> String {
    format!("[[downstream]]\nkind = 'varnish'\nname = '{name}'\nurl = 'http://{address}/'\n")
}

#[tokio::test]
async fn every_kind_of_cache_is_told_and_confirms() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    write_secret(&token, "s3cret\n").unwrap();
    let ok = Imitation::start(|_| Some((200, &[], r#"{"success":true,"status":"ok"}"#))).await;
    let (at, token) = (ok.address, token.display());
    let text = format!(
        "{}[[downstream]]\nkind = 'fastly'\nname = 'f'\nservice_id = 'abc'\napi = 'http://{at}'\ntoken_file = '{token}'\n\
         [[downstream]]\nkind = 'cloudflare'\nname = 'c'\nzone_id = '123'\napi = 'http://{at}/client/v4'\ntoken_file = '{token}'\n\
         [[downstream]]\nkind = 'webhook'\nname = 'w'\nurl = 'http://{at}/hook'\nbody = '${{tags_json}}'\n",
        varnish("v", at)
    );
    let bench = Bench::start(dir.path(), &text).await;
    let record = bench.purge("autumn", PurgeKind::Soft).await;
    let record = bench.settled(&record).await;
    assert!(record.downstream.values().all(|delivery| delivery.state == DeliveryState::Confirmed), "{record:?}");
    let mut lines: Vec<String> = ok.calls().into_iter().map(|(line, _, _)| line).collect();
    lines.sort();
    assert_eq!(lines, ["POST /client/v4/zones/123/purge_cache", "POST /hook", "POST /service/abc/purge", "PURGE /"]);
    let fastly = ok.calls().into_iter().find(|(line, _, _)| line.contains("/service/")).unwrap().1;
    assert_eq!(
        (&fastly["fastly-key"], &fastly["surrogate-key"]),
        (&"s3cret".parse().unwrap(), &"campaign:autumn".parse().unwrap())
    );
    assert_eq!(fastly["fastly-soft-purge"], "1");
}

/// The token of a cache is as secret as a key: it is not used while every user of the machine may read it.
#[tokio::test]
async fn a_token_that_others_may_read_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "s3cret\n").unwrap();
    let mode = |mode| std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    mode(0o644);
    let well = Imitation::start(|_| Some((200, &[], ""))).await;
    let text = format!("{}token_file = '{}'\n", varnish("cdn", well.address), token.display());
    let bench = Bench::start(dir.path(), &text).await;
    let record = bench.purge("autumn", PurgeKind::Hard).await;
    let delivery = || bench.purges.record(record.id).unwrap().downstream["cdn"].clone();
    until(|| delivery().attempts > 0).await;
    let said = delivery().last_error.unwrap();
    assert!(said.contains("others than its owner") && well.calls().is_empty(), "{said}");
    mode(0o600);
    assert_eq!(bench.settled(&record).await.downstream["cdn"].state, DeliveryState::Confirmed);
    assert_eq!(well.calls()[0].1["authorization"], "Bearer s3cret");
}

#[tokio::test]
async fn limits_failures_and_silence_are_tried_again_until_it_confirms() {
    let dir = tempfile::tempdir().unwrap();
    let troubled = Imitation::start(|number| match number {
        0 => Some((429, &[("retry-after", "0")], "")),
        1 => Some((503, &[], "")),
        2 => None,
        3 => Some((401, &[], "")),
        _ => Some((200, &[], "")),
    })
    .await;
    let well = Imitation::start(|_| Some((200, &[], ""))).await;
    let bench = Bench::start(dir.path(), &(varnish("bad", troubled.address) + &varnish("good", well.address))).await;
    let record = bench.purge("autumn", PurgeKind::Hard).await;
    let record = bench.settled(&record).await;
    let bad = &record.downstream["bad"];
    assert_eq!((bad.state, bad.attempts), (DeliveryState::Confirmed, 5), "{bad:?}");
    assert_eq!(record.downstream["good"].attempts, 1, "nobody waits for another");
    assert_eq!((troubled.calls().len(), well.calls().len()), (5, 1));
    let metrics = bench.purges.metrics();
    for (outcome, count) in [("limited", 1), ("failed", 2), ("refused", 1), ("confirmed", 1)] {
        assert_eq!(metrics.calls.with_label_values(&["bad", outcome]).get(), count, "{outcome}");
    }
    assert_eq!(metrics.overdue.with_label_values(&["bad"]).get(), 1, "reported once");
}

#[tokio::test]
async fn what_is_owed_is_delivered_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let deaf = Imitation::start(|_| Some((500, &[], ""))).await;
    let bench = Bench::start(dir.path(), &varnish("cdn", deaf.address)).await;
    let record = bench.purge("autumn", PurgeKind::Hard).await;
    eventually("it is overdue", async || {
        bench.purges.record(record.id).unwrap().downstream["cdn"].state == DeliveryState::Overdue
    })
    .await;
    assert_eq!(bench.purges.unconfirmed("cdn"), 1);
    bench.stop().await;
    let well = Imitation::start(|_| Some((200, &[], ""))).await;
    let bench = Bench::start(dir.path(), &varnish("cdn", well.address)).await;
    let settled = bench.settled(&record).await;
    assert_eq!(settled.downstream["cdn"].state, DeliveryState::Confirmed);
    assert_eq!(well.calls()[0].1["xkey-purge"], "campaign:autumn");
    bench.stop().await;
    // And once confirmed it is called no more; a cache that is gone from the configuration is owed nothing.
    let bench = Bench::start(dir.path(), &varnish("other", well.address)).await;
    let next = bench.purge("spring", PurgeKind::Hard).await;
    bench.settled(&next).await;
    assert_eq!(well.calls().len(), 2);
}

#[tokio::test]
async fn a_cache_that_is_no_longer_configured_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let deaf = Imitation::start(|_| Some((500, &[], ""))).await;
    let bench = Bench::start(dir.path(), &varnish("cdn", deaf.address)).await;
    let record = bench.purge("autumn", PurgeKind::Hard).await;
    bench.stop().await;
    let bench = Bench::start(dir.path(), "").await;
    let settled = bench.settled(&record).await;
    assert_eq!(settled.downstream["cdn"].state, DeliveryState::GivenUp);
}

/// A client that hangs up while the device syncs: the purge is in force, counted, and told further down at once, and on
/// the device in the end.
#[tokio::test]
async fn a_purge_whose_client_hangs_up_is_carried_out_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let well = Imitation::start(|_| Some((200, &[], ""))).await;
    let (device, registry, epoch) = (Device::default(), Registry::new(), Epoch::default());
    let purges = Purges::open_on(&device, &dir.path().join("purges.redb"), &registry);
    let catalog = CampaignMetrics::new(&registry).unwrap();
    let catalog = CatalogHandle::open(sources(), catalog, epoch.clone()).unwrap();
    let config: PurgeConfig = toml::from_str(&varnish("cdn", well.address)).unwrap();
    let downstream = Downstream::new(&config, purges.clone(), catalog.clone()).unwrap();
    let (_trigger, ends) = shutdown::channel();
    let _running = downstream.start(ends);
    let log = Arc::new(crate::shared_state::Primary::open(&dir.path().join("state.redb"), epoch.clone()).unwrap());
    let desk = PurgeDesk::new(purges.clone(), downstream, log, catalog, epoch.clone(), "http://h".to_owned(), LONG);
    let (generation, answers) = (purges.generation(), epoch.current());
    device.set(Mood::Slow);
    let order = PurgeOrder {
        key: None,
        scope: PurgeScope::Campaign("studio".to_owned()),
        kind: PurgeKind::Hard,
        reach: PurgeReach::Renditions,
        why: String::new(),
    };
    tokio::select! {
        result = desk.purge("tests", order) => panic!("the device hangs: {result:?}"),
        () = until(|| device.waiting() > 0) => {}
    }
    assert!(purges.generation() > generation && epoch.current() > answers, "in force, and answers lapse");
    let id = purges.recent(1)[0].id;
    assert!(!purges.is_stored(id));
    until(|| well.calls().len() == 1).await;
    assert_eq!(purges.metrics().purges.with_label_values(&["campaign", "hard"]).get(), 1);
    device.set(Mood::Sound);
    desk.finish(LONG).await;
    assert!(purges.is_stored(id));
}

/// A device that hangs for good: caches are told and called again, and what became of a purge is known.
#[tokio::test]
async fn a_device_that_hangs_keeps_no_cache_from_being_told() {
    let dir = tempfile::tempdir().unwrap();
    let well = Imitation::start(|_| Some((200, &[], ""))).await;
    let deaf = Imitation::start(|_| Some((500, &[], ""))).await;
    let (device, registry) = (Device::default(), Registry::new());
    let purges = Purges::open_on(&device, &dir.path().join("purges.redb"), &registry);
    let catalog = CampaignMetrics::new(&registry).unwrap();
    let catalog = CatalogHandle::open(sources(), catalog, Epoch::default()).unwrap();
    let text = "retry_backoff_ms_min = 1\nretry_backoff_ms_max = 20\nconfirm_deadline_ms = 1\n";
    let text = format!("{text}{}{}", varnish("cdn", well.address), varnish("deaf", deaf.address));
    let downstream = Downstream::new(&toml::from_str(&text).unwrap(), purges.clone(), catalog).unwrap();
    let record = PurgeRecord {
        id: 0,
        at_unix_ms: unix_ms(SystemTime::now()),
        by: "test".to_owned(),
        why: String::new(),
        scope: PurgeScope::Everything,
        kind: PurgeKind::Hard,
        reach: PurgeReach::Renditions,
        tags: Vec::new(),
        url: None,
        key: None,
        downstream: Default::default(),
    };
    let purge = Purge { keys: vec![PurgeKey::Everything], campaign: None, record };
    // One of them is no longer configured.
    let names = ["cdn", "deaf", "gone"].map(str::to_owned);
    let id = purges.purge(purge, &names).await.unwrap().id;
    device.set(Mood::Slow);
    let (_trigger, ends) = shutdown::channel();
    let _running = downstream.start(ends);
    let is = |name: &str, state| purges.record(id).unwrap().downstream[name].state == state;
    until(|| is("gone", DeliveryState::GivenUp) && is("cdn", DeliveryState::Confirmed)).await;
    until(|| is("deaf", DeliveryState::Overdue) && deaf.calls().len() > 3).await;
    until(|| device.waiting() > 0).await;
    device.set(Mood::Sound);
}

async fn until(is: impl Fn() -> bool) {
    let met = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, met).await.expect("the condition is met in time");
}

/// Caches that are added, moved and taken away while the edge runs.
#[tokio::test]
async fn caches_are_taken_over_from_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("edge.toml");
    let deaf = Imitation::start(|_| Some((401, &[], ""))).await;
    let well = Imitation::start(|_| Some((200, &[], ""))).await;
    let purgers = |at: &[(&str, SocketAddr)]| {
        let texts = at.iter().map(|(name, at)| varnish(name, *at).replace("[[downstream]]", "[[purge.downstream]]"));
        std::fs::write(&file, texts.collect::<String>()).unwrap();
    };
    // A minute between two calls of a cache that refuses: to wait for that is to wait too long.
    let bench = Bench::start(dir.path(), "").await;
    purgers(&[]);
    let epoch = Epoch::default();
    let reload = ConfigReload::new(&Config::load(&file).unwrap(), &Registry::new()).unwrap();
    crate::app::subscriptions::downstream(&reload, &bench.downstream, epoch.clone());
    purgers(&[("cdn", deaf.address), ("gone", deaf.address)]);
    reload.reload_now().await;
    assert!(!bench.downstream.is_empty() && epoch.current() > 0, "answers from before lapse");
    let record = bench.purge("autumn", PurgeKind::Hard).await;
    until(|| deaf.calls().len() >= 2).await;
    purgers(&[("cdn", well.address)]);
    reload.reload_now().await;
    let settled = bench.settled(&record).await;
    assert_eq!(settled.downstream["cdn"].state, DeliveryState::Confirmed);
    assert_eq!(settled.downstream["gone"].state, DeliveryState::GivenUp);
    assert_eq!(well.calls().len(), 1);
}

#[test]
fn pauses_double_are_jittered_and_bounded() {
    let pace = Pace {
        backoff_min: Duration::from_millis(100),
        backoff_max: Duration::from_secs(10),
        confirm_deadline: LONG,
        give_up: LONG,
        call_timeout: LONG,
    };
    assert_eq!(pace.backoff(1, 0.0), Duration::from_millis(50));
    assert_eq!(pace.backoff(2, 1.0), Duration::from_millis(200));
    assert_eq!(pace.backoff(u32::MAX, 1.0), Duration::from_secs(10));
    assert!((0.0..1.0).contains(&jitter()));
}

/// A kill is told by its recipes, beyond many by its campaign; one that was committed by a process that ended before it told of it,
/// and one of another edge's, are told at the next start.
#[tokio::test]
async fn a_kill_is_told_to_the_caches_further_down() {
    use crate::cache::{Bindings, CacheMetrics};
    use crate::governance::kills::{KillDesk, KillMetrics, KillOrder};
    use crate::governance::replay::Replay;
    use crate::shared_state::{Change, Kill, Log, Primary, Proposal, TargetKind};

    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let well = Imitation::start(|_| Some((200, &[], ""))).await;
    let (registry, epoch) = (Registry::new(), Epoch::default());
    let config: PurgeConfig = toml::from_str(&varnish("cdn", well.address)).unwrap();
    let purges = Purges::open(&config, &path("purges.redb"), PurgeMetrics::new(&registry).unwrap()).unwrap();
    let catalog = CatalogHandle::open(sources(), CampaignMetrics::new(&registry).unwrap(), epoch.clone()).unwrap();
    let metrics = CacheMetrics::new(&registry).unwrap();
    let bindings = Bindings::open(&path("bindings.redb"), 100, metrics.bindings).unwrap();
    let log: Arc<dyn Log> = Arc::new(Primary::open(&path("state.redb"), epoch.clone()).unwrap());
    let change = Change::Kill(Kill { target: "slot:studio/hero".parse().unwrap() });
    let (who, why) = ("anna".to_owned(), "before".to_owned());
    log.propose(Proposal { change, who, why, key: None, edge: None }).await.unwrap();

    let downstream = Downstream::new(&config, purges.clone(), catalog.clone()).unwrap();
    let known = (catalog.clone(), bindings);
    let replay = Replay::new(Arc::clone(&log), purges.clone(), downstream.clone(), known.clone(), epoch);
    let (_trigger, ends) = shutdown::channel();
    let _running = (downstream.start(ends.clone()), replay.start(ends));
    let told = |tags: &str| {
        let is_told = well.calls().iter().any(|(_, headers, _)| headers["xkey-purge"] == *tags);
        std::future::ready(is_told)
    };
    eventually("the kill from before is told", async || told("slot:studio/hero").await).await;

    let desk = KillDesk::new(log, replay, known, LONG, KillMetrics::new(&registry).unwrap());
    let kill = async |kind, name: &str| {
        let order = KillOrder { kind, name: name.to_owned(), why: "a test".to_owned(), key: None };
        desk.kill("anna", order).await.unwrap()
    };
    let one = kill(TargetKind::Variant, "studio/hero?product=vase").await;
    let [tag] = &one.covered.tags[..] else { panic!("{:?}", one.covered) };
    assert!(tag.starts_with("recipe:") && one.covered.recipes == Some(1), "{:?}", one.covered);
    assert!(told(tag).await);
    let record = one.purge.unwrap();
    assert_eq!(record.downstream["cdn"].state, DeliveryState::Confirmed);
    assert_eq!((record.scope.as_str(), &record.tags), ("kill", &one.covered.tags));
    // Of a product there are more than a few hundred pictures, in each slot and colour.
    let many = kill(TargetKind::Value, "studio?product=mug").await;
    assert_eq!((&many.covered.tags[..], many.covered.recipes), (&["campaign:studio".to_owned()][..], None));
    assert!(told("campaign:studio").await);
    let part = kill(TargetKind::Checkpoint, "studio-tiny").await;
    assert_eq!(part.covered.campaigns, ["autumn", "kiosk", "studio"]);
    assert_eq!(well.calls().len(), 4, "each is told once");
    assert_eq!(purges.reached().seq, desk.log().published().load().epoch());
}
