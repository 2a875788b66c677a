//! Regions against real servers that answer, refuse, hang, flood and die.

use std::collections::HashMap;

use bildkante_shared::ids::Digest;
use bildkante_shared::problem::Problem;
use bildkante_shared::shutdown;
use bildkante_shared::testing::{ReservedPort, eventually, within};
use bytes::Bytes;
use http::StatusCode;
use tokio::time::timeout;

use super::super::testing::{Behaviour, FakeNode, LONG, other_recipe_id, problem, recipe, region, region_of, reply};
use super::*;

async fn generate(region: &Regions, deadline: Duration) -> Result<GenerationReply, OriginError> {
    region.generate(&recipe(1), None, Urgency::DEFAULT, deadline, &TraceContext::start()).await
}

fn status(status: u16, body: Bytes) -> Behaviour {
    Behaviour::Status(StatusCode::from_u16(status).unwrap(), vec![], body)
}

fn json(reply: &GenerationReply) -> Bytes {
    serde_json::to_vec(reply).unwrap().into()
}

/// What comes of one node that behaves so.
async fn outcome(behaviour: Behaviour) -> Result<GenerationReply, OriginError> {
    let node = FakeNode::start(behaviour).await;
    generate(&region(&[&node]).0, LONG).await
}

#[tokio::test]
async fn an_answer_arrives_whole_and_the_deadline_travels() {
    let node = FakeNode::start(Behaviour::Draw).await;
    let (region, metrics) = region(&[&node]);
    let dedup = DedupScope { scope: "studio/hero@1".into(), variant: "mug".into() };
    let answer = region
        .generate(&recipe(1), Some(dedup), Urgency::MOST, Duration::from_millis(15_000), &TraceContext::start())
        .await;
    assert_eq!(answer, Ok(reply(&recipe(1))));
    let told = node.deadlines_ms();
    assert!(told.len() == 1 && told[0] <= 15_000 && told[0] > 5_000, "{told:?}");
    assert_eq!(metrics.succeeded(Operation::Generate), 1);
}

#[tokio::test]
async fn every_status_has_its_own_meaning() {
    let refused = outcome(status(422, problem(422, "invalid-recipe", "`steps` is 1 to 200"))).await.unwrap_err();
    assert!(matches!(&refused, OriginError::Refused { problem, .. } if problem.detail.contains("`steps`")));
    assert!(!refused.is_retryable() && !refused.is_fault_of_node());

    let missing = Problem::new(424, "missing", "missing", "no such").with_missing(vec!["blake3:00".into()]);
    let missing = outcome(status(424, missing.to_json().into())).await.unwrap_err();
    assert!(matches!(&missing, OriginError::Missing { digests, .. } if digests == &["blake3:00"]));

    let full = Behaviour::Status(StatusCode::TOO_MANY_REQUESTS, vec![("retry-after", "7".into())], Bytes::new());
    let full = outcome(full).await.unwrap_err();
    assert_eq!((full.as_str(), full.retry_after()), ("queue-full", Some(Duration::from_secs(7))));

    // One drawing was too much for it, and the node is not taken out for that.
    let memory = Problem::new(503, "out-of-memory", "no memory", "2048×2048 px").to_json();
    let memory = outcome(status(503, memory.into())).await.unwrap_err();
    assert_eq!((memory.as_str(), memory.is_retryable()), ("failed", true));

    // It has no place for what it would draw: another node may, and this one is asked no more until it is ready.
    let full = outcome(status(507, problem(507, "not-storable", "1 MiB free"))).await.unwrap_err();
    assert_eq!((full.as_str(), full.is_retryable(), full.is_fault_of_node()), ("cannot-store", true, false));

    let lost = outcome(status(503, problem(503, "device-lost", "an illegal memory access"))).await.unwrap_err();
    assert_eq!((lost.as_str(), lost.is_retryable()), ("ended", true));

    let labels = [(503, "not-ready"), (504, "deadline-passed"), (500, "failed"), (502, "failed"), (404, "refused")];
    for (code, label) in labels {
        assert_eq!(outcome(status(code, Bytes::new())).await.unwrap_err().as_str(), label, "{code}");
    }
    // Statuses that no node may answer here.
    for code in [201, 204, 302] {
        assert_eq!(outcome(status(code, json(&reply(&recipe(1))))).await.unwrap_err().as_str(), "protocol", "{code}");
    }
}

#[tokio::test]
async fn nonsense_is_never_taken_for_an_answer() {
    let mut other = reply(&recipe(1));
    other.recipe_id = other_recipe_id();
    let mut size = reply(&recipe(1));
    size.master.width_px = 193;
    let mut huge = reply(&recipe(1));
    huge.master.width_px = u32::MAX;
    huge.master.height_px = u32::MAX;
    let nonsense = [
        Bytes::from_static(b"<html>"),
        Bytes::new(),
        Bytes::from_static(b"{}"),
        json(&reply(&recipe(1))).slice(..50),
        json(&other),
        json(&size),
        json(&huge),
    ];
    for body in nonsense {
        let error = outcome(status(200, body)).await.unwrap_err();
        assert_eq!(error.as_str(), "protocol", "{error}");
    }
    let error = outcome(Behaviour::Flood(2 << 20)).await.unwrap_err();
    assert!(error.to_string().contains("over 262144 bytes"), "{error}");
}

#[tokio::test]
async fn a_server_that_speaks_something_else_is_unreachable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        }
    });
    let error = generate(&region_of(vec![url]).0, LONG).await.unwrap_err();
    assert_eq!(error.as_str(), "unreachable", "{error}");
    server.abort();
}

#[tokio::test]
async fn a_node_that_hangs_costs_its_deadline_and_not_its_health() {
    for behaviour in [Behaviour::Hang, Behaviour::HangInBody] {
        let node = FakeNode::start(behaviour).await;
        let (region, metrics) = region(&[&node]);
        // A deadline that passes before the node has heard of the call tells nothing of a node that hangs.
        let mut deadline = Duration::from_millis(50);
        while node.calls() == 0 {
            let started = Instant::now();
            let error = within("the deadline ends the call", generate(&region, deadline)).await.unwrap_err();
            assert_eq!(error, OriginError::DeadlinePassed);
            assert!(started.elapsed() >= deadline);
            deadline *= 4;
        }
        assert!(metrics.failed(Operation::Generate, "deadline-passed") >= 1);
        assert_ne!(region.statuses()[0].state, NodeState::Unhealthy);
        // The call's stream is reset, so that the node knows that the edge waits no more.
        eventually("its stream is reset", async || node.abandoned() > 0).await;
    }
}

#[tokio::test]
async fn a_node_that_is_not_there_is_unreachable_at_once_and_soon_not_asked() {
    let nobody = ReservedPort::new().unwrap();
    let (region, metrics) = region_of(vec![format!("http://{}", nobody.address())]);
    for _ in 0..3 {
        assert_eq!(generate(&region, LONG).await.unwrap_err().as_str(), "unreachable");
    }
    assert_eq!(generate(&region, LONG).await.unwrap_err(), OriginError::NoHealthyNode);
    assert_eq!(metrics.failed(Operation::Generate, "unreachable"), 3);
}

#[tokio::test]
async fn a_retry_goes_to_the_other_node_once() {
    for behaviour in [
        status(503, Bytes::new()),
        status(500, Bytes::new()),
        status(429, Bytes::new()),
        status(200, Bytes::from_static(b"nonsense")),
    ] {
        let (one, two) = (FakeNode::start(behaviour.clone()).await, FakeNode::start(behaviour).await);
        let (region, metrics) = region(&[&one, &two]);
        let first = if region.candidates(recipe(1).id().as_bytes())[0].node.client.name == one.address.to_string() {
            (&one, &two)
        } else {
            (&two, &one)
        };
        first.1.behave(Behaviour::Draw);
        assert_eq!(generate(&region, LONG).await, Ok(reply(&recipe(1))));
        assert_eq!((first.0.calls(), first.1.calls()), (1, 1));
        assert_eq!(metrics.retries.get(), 1);
    }
}

#[tokio::test]
async fn a_refusal_is_not_tried_again() {
    let refuse = status(422, problem(422, "invalid", "no"));
    let (one, two) = (FakeNode::start(refuse.clone()).await, FakeNode::start(refuse).await);
    let (region, _) = region(&[&one, &two]);
    assert_eq!(generate(&region, LONG).await.unwrap_err().as_str(), "refused");
    assert_eq!(one.calls() + two.calls(), 1);
}

#[tokio::test]
async fn a_region_in_trouble_is_not_asked_twice_as_much() {
    let full = status(429, Bytes::new());
    let (one, two) = (FakeNode::start(full.clone()).await, FakeNode::start(full).await);
    let (region, metrics) = region(&[&one, &two]);
    for _ in 0..100 {
        assert_eq!(generate(&region, LONG).await.unwrap_err().as_str(), "queue-full");
    }
    let retries = metrics.retries.get();
    // Ten at once and one in five after that.
    assert!((20..=30).contains(&retries), "{retries}");
    assert_eq!(one.calls() + two.calls(), 100 + usize::try_from(retries).unwrap());
}

#[tokio::test]
async fn a_node_that_dies_in_a_call_is_replaced_and_found_again_when_it_is_back() {
    let node = FakeNode::start(Behaviour::Hang).await;
    let (region, _) = region(&[&node]);
    let (_trigger, shutdown) = shutdown::channel();
    let probes = region.spawn_probes(&shutdown);
    assert!(region.wait_healthy(LONG).await);
    let call = tokio::spawn({
        let region = Arc::clone(&region);
        async move { generate(&region, LONG).await }
    });
    eventually("the node is called", async || node.calls() > 0).await;
    let port = node.kill().await;
    assert_eq!(timeout(LONG, call).await.unwrap().unwrap().unwrap_err().as_str(), "ended");
    eventually("the node is known to be gone", async || !region.is_healthy()).await;
    assert_eq!(generate(&region, LONG).await.unwrap_err(), OriginError::NoHealthyNode);
    let _again = FakeNode::start_at(port, Behaviour::Draw).await;
    assert!(region.wait_healthy(LONG).await);
    assert_eq!(generate(&region, LONG).await, Ok(reply(&recipe(1))));
    probes.abort();
}

#[tokio::test]
async fn probes_follow_readiness_and_end_with_the_shutdown() {
    let node = FakeNode::start(Behaviour::Draw).await;
    node.ready(StatusCode::SERVICE_UNAVAILABLE);
    let (region, _) = region(&[&node]);
    let (trigger, shutdown) = shutdown::channel();
    let probes = region.spawn_probes(&shutdown);
    eventually("a probe has been answered", async || region.statuses()[0].state == NodeState::Unhealthy).await;
    assert!(!region.wait_healthy(Duration::ZERO).await);
    node.ready(StatusCode::OK);
    assert!(region.wait_healthy(LONG).await);
    trigger.shut_down();
    timeout(LONG, probes).await.unwrap().unwrap();
}

#[tokio::test]
async fn masters_come_from_whichever_node_has_them() {
    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and so on";
    let absent = status(404, problem(404, "unknown-master", "not here"));
    let (one, two) = (FakeNode::start(absent.clone()).await, FakeNode::start(absent.clone()).await);
    let (region, _) = region(&[&one, &two]);
    let id = MasterId::of_bytes(b"master");
    let trace = TraceContext::start();
    let fetch = || region.master(id, recipe(1).id(), LONG, &trace);
    assert_eq!(fetch().await.unwrap_err(), OriginError::MasterAbsent { id });
    assert_eq!((one.calls(), two.calls()), (1, 1), "every node was asked");
    let told = (trace.request.as_str().to_owned(), trace.parent.to_string());
    assert_eq!((one.traces(), two.traces()), (vec![told.clone()], vec![told]), "and knows for which request");
    for node in [&one, &two] {
        node.behave(status(200, Bytes::from_static(PNG)));
        let file = fetch().await.unwrap();
        assert_eq!((file.id, &file.png[..]), (id, PNG));
        // What it decodes to is another question, and the next one to be asked.
        let verdict = file.verify(|_| bildkante_shared::pixels::Pixels::new(1, 1, vec![0; 3]));
        assert!(matches!(verdict, Err(crate::cache::MasterError::Pixels { .. })));
        node.behave(absent.clone());
    }
    one.behave(status(200, Bytes::from_static(b"GIF89a")));
    two.behave(status(200, Bytes::from_static(b"GIF89a")));
    assert_eq!(fetch().await.unwrap_err().as_str(), "protocol");
    // An error is read to a smaller bound than a master, and a master to its own.
    one.behave(Behaviour::Hang);
    two.behave(Behaviour::Hang);
    let late = region.master(id, recipe(1).id(), Duration::from_millis(30), &trace).await;
    assert_eq!(late.unwrap_err(), OriginError::DeadlinePassed);
}

#[test]
fn nodes_share_the_load_and_a_lost_one_moves_only_its_own_share() {
    let url = |n: usize| format!("http://10.0.0.{n}:7070");
    let (all, _) = region_of((1..=4).map(url).collect());
    let (fewer, _) = region_of((1..=3).map(url).collect());
    let mut share: HashMap<String, usize> = HashMap::new();
    for n in 0..4000_u32 {
        let id = RecipeId::of_bytes(&n.to_le_bytes());
        let first = &all.candidates(id.as_bytes())[0].node.client.name;
        *share.entry(first.clone()).or_default() += 1;
        if first != "10.0.0.4:7070" {
            assert_eq!(&fewer.candidates(id.as_bytes())[0].node.client.name, first);
        }
    }
    assert!(share.len() == 4 && share.values().all(|count| (850..1150).contains(count)), "{share:?}");
}

#[test]
fn probed_nodes_come_before_unknown_ones_and_unhealthy_ones_not_at_all() {
    use super::super::health::Probe;
    let (region, _) = region_of((1..=3).map(|n| format!("http://10.0.0.{n}:7070")).collect());
    let id = recipe(1).id();
    let order = || -> Vec<String> {
        region.candidates(id.as_bytes()).iter().map(|candidate| candidate.node.client.name.clone()).collect()
    };
    let before = order();
    let by_name = |name: &str| region.nodes().into_iter().find(|node| node.client.name == name).unwrap();
    by_name(&before[2]).health.probed(Probe::Ready);
    by_name(&before[0]).health.probed(Probe::Down);
    assert_eq!(order(), [before[2].clone(), before[1].clone()]);
}

fn two_regions(near: &[&FakeNode], far: &[&FakeNode]) -> (Arc<Regions>, OriginMetrics) {
    let region = |name: &str, nodes: &[&FakeNode]| super::super::RegionConfig {
        name: name.into(),
        nodes: nodes.iter().map(|node| node.url()).collect(),
    };
    let config = OriginConfig {
        regions: vec![region("near", near), region("far", far)],
        probe_interval_ms: 20,
        // Three late probes in a row are silence: a second each is more than a busy machine takes.
        probe_timeout_ms: 1_000,
        connect_timeout_ms: 60_000,
        ..OriginConfig::default()
    };
    let metrics = OriginMetrics::new(&prometheus::Registry::new()).unwrap();
    (Arc::new(Regions::new(&config, metrics.clone()).unwrap()), metrics)
}

async fn healthy(regions: &Regions, count: usize) {
    let mut probed = regions.probed.subscribe();
    let are = || regions.statuses().iter().filter(|status| status.state.is_healthy()).count() == count;
    timeout(LONG, probed.wait_for(|_| are())).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_region_that_fails_is_replaced_by_the_next_and_asked_again_when_it_is_back() {
    let (near, far) = (FakeNode::start(Behaviour::Draw).await, FakeNode::start(Behaviour::Draw).await);
    let (regions, _) = two_regions(&[&near], &[&far]);
    let (_trigger, shutdown) = shutdown::channel();
    let probes = regions.spawn_probes(&shutdown);
    healthy(&regions, 2).await;
    assert_eq!(generate(&regions, LONG).await, Ok(reply(&recipe(1))));
    assert_eq!((near.calls(), far.calls()), (1, 0), "the nearest region draws");
    let port = near.kill().await;
    assert_eq!(generate(&regions, LONG).await, Ok(reply(&recipe(1))));
    assert_eq!(far.calls(), 1);
    healthy(&regions, 1).await;
    assert_eq!(generate(&regions, LONG).await, Ok(reply(&recipe(1))));
    let again = FakeNode::start_at(port, Behaviour::Draw).await;
    healthy(&regions, 2).await;
    assert_eq!(generate(&regions, LONG).await, Ok(reply(&recipe(1))));
    assert_eq!((again.calls(), far.calls()), (1, 2), "and back");
    probes.abort();
}

#[tokio::test]
async fn a_call_on_a_node_that_stops_answering_moves_on() {
    let (near, far) = (FakeNode::start(Behaviour::Hang).await, FakeNode::start(Behaviour::Draw).await);
    let (regions, _) = two_regions(&[&near], &[&far]);
    let (_trigger, shutdown) = shutdown::channel();
    let probes = regions.spawn_probes(&shutdown);
    healthy(&regions, 2).await;
    let call = tokio::spawn({
        let regions = Arc::clone(&regions);
        async move { generate(&regions, LONG).await }
    });
    eventually("the near node is called", async || near.calls() > 0).await;
    near.hang_probes();
    assert_eq!(timeout(LONG, call).await.unwrap().unwrap(), Ok(reply(&recipe(1))));
    assert_eq!(far.calls(), 1);
    probes.abort();
}

#[tokio::test]
async fn a_loaded_node_is_passed_over_but_its_own_recipe_still_joins_it() {
    let (one, two) = (FakeNode::start(Behaviour::Hang).await, FakeNode::start(Behaviour::Hang).await);
    let (regions, _) = region(&[&one, &two]);
    regions.nodes().iter().for_each(|node| node.health.probed(super::super::health::Probe::Ready));
    let first = |seed: u32| regions.candidates(recipe(seed).id().as_bytes())[0].node.client.name.clone();
    let home = first(1);
    let busy = regions.nodes().into_iter().find(|node| node.client.name == home).unwrap();
    let below_the_floor: Vec<_> = (0..7).map(|_| busy.enter()).collect();
    assert_eq!(first(1), home, "few calls are always uneven");
    let one_more = busy.enter();
    assert_ne!(first(1), home, "8 of 9 calls are more than 1.25 times the mean");
    let drawing = Drawing::enter(&regions.drawing, recipe(1).id(), regions.candidates(&[0; 16]).first());
    regions.drawing.lock().insert(recipe(1).id(), Arc::clone(&busy));
    let mut candidates = regions.candidates(recipe(1).id().as_bytes());
    regions.join_own(recipe(1).id(), &mut candidates);
    assert_eq!(candidates[0].node.client.name, home);
    drop((drawing, one_more, below_the_floor));
    assert_eq!(first(1), home);
    assert!(regions.drawing.lock().is_empty());
}

#[tokio::test]
async fn a_new_topology_keeps_nodes_that_stay_and_drops_no_call() {
    let (stays, leaves, comes) = (
        FakeNode::start(Behaviour::Draw).await,
        FakeNode::start(Behaviour::Draw).await,
        FakeNode::start(Behaviour::Draw).await,
    );
    let (regions, _) = two_regions(&[&stays], &[&leaves]);
    let (_trigger, shutdown) = shutdown::channel();
    let probes = regions.spawn_probes(&shutdown);
    healthy(&regions, 2).await;
    let kept = regions.nodes().into_iter().find(|node| node.client.name == stays.address.to_string()).unwrap();
    let leaving = regions.nodes().into_iter().find(|node| node.client.name == leaves.address.to_string()).unwrap();
    let under_way = regions.call(Operation::Checkpoints, &leaving, Instant::now() + LONG, async { Ok(7) });
    let config = |nodes: Vec<String>| OriginConfig { nodes, ..OriginConfig::default() };
    let topology = Topology::of_config(&config(vec![comes.url(), stays.url()])).unwrap();
    assert!(regions.apply(topology.clone()));
    assert!(!regions.apply(topology), "the same again is no change");
    assert_eq!(under_way.await, Ok(7), "what was under way ends");
    healthy(&regions, 2).await;
    let statuses = regions.statuses();
    assert!(statuses.iter().all(|status| status.region == "default"));
    assert!(!statuses.iter().any(|status| status.name == leaves.address.to_string()));
    assert!(regions.nodes().iter().any(|node| Arc::ptr_eq(node, &kept)), "its health is not forgotten");
    probes.abort();
}

#[tokio::test]
async fn a_topology_file_is_followed_and_a_broken_one_is_not() {
    let (one, two) = (FakeNode::start(Behaviour::Draw).await, FakeNode::start(Behaviour::Draw).await);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("topology.toml");
    let write = |node: &FakeNode| {
        std::fs::write(&path, format!("[[regions]]\nname = 'near'\nnodes = ['{}']\n", node.url())).unwrap();
    };
    write(&one);
    let config = OriginConfig { topology_file: Some(path.clone()), ..OriginConfig::default() };
    let metrics = OriginMetrics::new(&prometheus::Registry::new()).unwrap();
    let regions = Arc::new(Regions::new(&config, metrics).unwrap());
    assert!(!regions.reload().await.unwrap());
    std::fs::write(&path, "[[regions]]").unwrap();
    assert!(regions.reload().await.unwrap_err().to_string().contains("topology.toml"));
    assert_eq!(regions.statuses()[0].name, one.address.to_string());
    write(&two);
    assert!(regions.reload().await.unwrap());
    assert_eq!(regions.statuses()[0].name, two.address.to_string());
}

#[test]
fn of_many_candidates_three_are_asked_and_one_of_them_far_away() {
    let names = |near: usize, far: usize| -> Vec<String> {
        let url = |region: &str, n: usize| format!("http://{region}-{n}:1");
        let config = OriginConfig {
            regions: [("near", near), ("far", far)]
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(name, count)| super::super::RegionConfig {
                    name: name.into(),
                    nodes: (0..count).map(|n| url(name, n)).collect(),
                })
                .collect(),
            ..OriginConfig::default()
        };
        let metrics = OriginMetrics::new(&prometheus::Registry::new()).unwrap();
        let regions = Regions::new(&config, metrics).unwrap();
        let asked = attempts(regions.candidates(&[7; 16]));
        asked.iter().map(|candidate| candidate.region.to_string()).collect()
    };
    assert_eq!(names(4, 4), ["near", "near", "far"]);
    assert_eq!(names(1, 4), ["near", "far", "far"]);
    assert_eq!(names(4, 0), ["near", "near"]);
    assert_eq!(names(1, 0), ["near"]);
}

#[tokio::test]
async fn a_node_that_cannot_store_is_passed_over() {
    let (full, other) = (FakeNode::start(Behaviour::Draw).await, FakeNode::start(Behaviour::Draw).await);
    let behaviour = status(507, problem(507, "not-storable", "1 MiB free"));
    full.behave(behaviour.clone());
    other.behave(behaviour);
    let (region, _) = region(&[&full, &other]);
    let error = generate(&region, LONG).await.unwrap_err();
    assert_eq!((error.as_str(), full.calls(), other.calls()), ("cannot-store", 1, 1));
}

#[tokio::test]
async fn a_recipe_that_ends_nodes_is_given_to_no_third_and_others_go_on() {
    let ends = || status(503, problem(503, "device-lost", "an illegal memory access"));
    let nodes = [FakeNode::start(ends()).await, FakeNode::start(ends()).await, FakeNode::start(ends()).await];
    let (region, _) = region(&[&nodes[0], &nodes[1], &nodes[2]]);
    let calls = || nodes.iter().map(FakeNode::calls).sum::<usize>();
    let error = generate(&region, LONG).await.unwrap_err();
    assert_eq!((error.as_str(), calls()), ("ends-devices", 2), "{error}");
    nodes.iter().for_each(|node| node.behave(Behaviour::Draw));
    let again = generate(&region, LONG).await.unwrap_err();
    assert_eq!((again.as_str(), calls()), ("ends-devices", 2), "it is not even asked for");
    region.generate(&recipe(2), None, Urgency::DEFAULT, LONG, &TraceContext::start()).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_broke_is_an_ending_only_where_the_node_is_gone_and_is_not_remembered() {
    // It hangs up on every call and answers its probes: the network's fault, for all the edge can tell.
    let nodes = [
        FakeNode::start(Behaviour::HangUp).await,
        FakeNode::start(Behaviour::HangUp).await,
        FakeNode::start(Behaviour::HangUp).await,
    ];
    let (here, _) = region(&[&nodes[0]]);
    assert_eq!(generate(&here, LONG).await.unwrap_err().as_str(), "unreachable");
    nodes.iter().for_each(|node| node.ready(StatusCode::SERVICE_UNAVAILABLE));
    let (all, _) = region(&[&nodes[0], &nodes[1], &nodes[2]]);
    let calls = || nodes.iter().map(FakeNode::calls).sum::<usize>();
    let before = calls();
    assert_eq!(generate(&all, LONG).await.unwrap_err().as_str(), "ended");
    assert_eq!(calls() - before, 2, "no third node within the call");
    // They were killed, and come back.
    nodes.iter().for_each(|node| {
        node.ready(StatusCode::OK);
        node.behave(Behaviour::Draw);
    });
    generate(&all, LONG).await.unwrap();
    assert!(nodes.iter().all(|node| node.asked_alone() == 0));
}

#[tokio::test]
async fn what_shared_a_lost_device_is_not_counted_and_asked_for_alone() {
    let lost = || status(503, problem(503, "device-lost-in-company", "an illegal memory access"));
    let nodes = [FakeNode::start(lost()).await, FakeNode::start(lost()).await, FakeNode::start(lost()).await];
    let (region, _) = region(&[&nodes[0], &nodes[1], &nodes[2]]);
    let total = |of: fn(&FakeNode) -> usize| nodes.iter().map(of).sum::<usize>();
    assert_eq!(generate(&region, LONG).await.unwrap_err().as_str(), "ended");
    assert_eq!((total(FakeNode::calls), total(FakeNode::asked_alone)), (2, 1));
    nodes.iter().for_each(|node| node.behave(Behaviour::Draw));
    generate(&region, LONG).await.unwrap();
    assert_eq!(total(FakeNode::asked_alone), 2, "the next call, too");
    generate(&region, LONG).await.unwrap();
    assert_eq!(total(FakeNode::asked_alone), 2, "it was drawn, so it may share passes again");
}

#[tokio::test]
async fn an_image_is_lent_for_the_request_that_wants_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("edges.png"), "edges").unwrap();
    let missing = Problem::new(424, "missing", "missing", "no such");
    let missing = missing.with_missing(vec![Digest::of_bytes(b"edges").to_string()]);
    let node = FakeNode::start(status(424, missing.to_json().into())).await;
    let region = Arc::into_inner(region(&[&node]).0).unwrap().lending(Images::of(folder.path().to_owned()));
    let trace = TraceContext::start();
    let answer = region.generate(&recipe(1), None, Urgency::DEFAULT, LONG, &trace).await;
    assert!(answer.is_err(), "the node takes no image: {answer:?}");
    let told = (trace.request.as_str().to_owned(), trace.parent.to_string());
    assert_eq!(node.traces(), [told.clone(), told], "a recipe and an image");
}
