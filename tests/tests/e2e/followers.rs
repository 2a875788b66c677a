//! Several edges that share one state: what one is told holds on all, behind a connection that is cut and healed, across restarts
//! and when the primary is lost.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bildkante_edge::app::Edge;
use bildkante_edge::config::Config;
use bildkante_edge::shared_state::FollowConfig;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_shared::testing::write_secret;
use bildkante_tests::client::{Reply, eventually};
use bildkante_tests::proxy::{Fault, Proxy};
use bildkante_tests::rig::{Plan, Rig};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::purge::{TOKEN, with_tokens};

const VASE: &str = "/i/studio/thumb?product=vase&fm=webp";
const RING: &str = "/i/studio/thumb?product=ring&fm=webp";

async fn admin(rig: &Rig, to: SocketAddr, method: Method, path: &str, body: Value) -> anyhow::Result<Reply> {
    let request = Request::builder().method(method).uri(format!("http://{to}/admin/v1/{path}"));
    let request = request.header("authorization", format!("Bearer {TOKEN}")).header("content-type", "application/json");
    rig.http.send(request.body(Full::from(body.to_string()))?).await
}

async fn kill(rig: &Rig, to: SocketAddr, product: &str) -> anyhow::Result<Reply> {
    let order = json!({ "value": format!("studio?product={product}"), "why": "a test" });
    admin(rig, to, Method::POST, "kills", order).await
}

async fn standing(rig: &Rig, to: SocketAddr) -> anyhow::Result<Value> {
    admin(rig, to, Method::GET, "state", Value::Null).await?.json()
}

async fn is_withheld(rig: &Rig, edge: SocketAddr, path: &str) -> anyhow::Result<bool> {
    Ok(rig.http.image(edge, path).await?.outcome().contains("killed, epoch"))
}

fn following(folder: &Path, primary: String) -> anyhow::Result<impl FnOnce(&mut Config)> {
    let token_file = folder.join("state.token");
    if !token_file.exists() {
        write_secret(&token_file, TOKEN)?;
    }
    Ok(move |config: &mut Config| {
        config.state.follow = Some(FollowConfig { primary, token_file: Some(token_file), tls: None });
    })
}

pub(crate) async fn follower(rig: &Rig, name: &str, primary: String) -> anyhow::Result<Edge> {
    let edge = started(rig, name, &primary).await?;
    rig.healthy_nodes(&edge, 1).await?;
    Ok(edge)
}

/// What an edge that has stopped still has under way holds its databases until it is through.
async fn started(rig: &Rig, name: &str, primary: &str) -> anyhow::Result<Edge> {
    let mut started = None;
    eventually("its databases are free", async || {
        match rig.another_edge(name, following(rig.dir.path(), primary.to_owned())?).await {
            Ok(edge) => started = Some(edge),
            Err(error) if format!("{error:#}").contains("already open") => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    })
    .await?;
    started.ok_or_else(|| anyhow::anyhow!("it runs"))
}

async fn warm(rig: &Rig, edge: SocketAddr, path: &str) -> anyhow::Result<()> {
    eventually("it is in memory", async || Ok(rig.http.image(edge, path).await?.outcome() == "memory")).await
}

/// A kill and a purge hold on every edge, whichever was asked; an edge that joins later takes all of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_edge_is_told_holds_on_all() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    let primary = format!("http://{}", rig.admin());
    let (one, two) = (follower(&rig, "one", primary.clone()).await?, follower(&rig, "two", primary.clone()).await?);
    for edge in [rig.public(), one.http, two.http] {
        warm(&rig, edge, VASE).await?;
        warm(&rig, edge, RING).await?;
    }
    // Asked of a follower.
    let killed = kill(&rig, one.admin, "vase").await?;
    assert_eq!(killed.status, StatusCode::CREATED, "{}", killed.text());
    assert!(is_withheld(&rig, one.http, VASE).await?, "where it was asked, at once");
    assert!(is_withheld(&rig, rig.public(), VASE).await?, "at the primary, before it was acknowledged");
    eventually("at the other follower", async || is_withheld(&rig, two.http, VASE).await).await?;
    let purged =
        admin(&rig, two.admin, Method::POST, "purges", json!({ "variant": "studio/thumb?product=ring" })).await?;
    assert_eq!(purged.status, StatusCode::OK, "{}", purged.text());
    for edge in [&one.http, &rig.public()] {
        eventually("it was purged there too", async || Ok(rig.http.image(*edge, RING).await?.outcome() == "rendered"))
            .await?;
    }
    // One that joins by a snapshot; what it had made before is older than every mark.
    let three = rig.another_edge("three", |_| {}).await?;
    rig.healthy_nodes(&three, 1).await?;
    warm(&rig, three.http, RING).await?;
    three.shut_down().await;
    let three = follower(&rig, "three", primary.clone()).await?;
    eventually("the one that joined withholds it", async || is_withheld(&rig, three.http, VASE).await).await?;
    eventually("and its own picture is older than the purge", async || {
        let metrics = rig.http.metric(three.admin, "bildkante_edge_purge_marks").await?;
        Ok(metrics > 0.0)
    })
    .await?;
    let heads = [rig.admin(), one.admin, two.admin, three.admin];
    eventually("all stand at the same entry", async || {
        let mut hashes = std::collections::BTreeSet::new();
        for admin in heads {
            hashes.insert(standing(&rig, admin).await?["hash"].to_string());
        }
        Ok(hashes.len() == 1)
    })
    .await?;
    for edge in [one, two, three] {
        edge.shut_down().await;
    }
    rig.stop().await;
    Ok(())
}

/// A follower that is cut off serves on what it knows, holds a kill of its own at once, and is like the others when it is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_was_cut_off_converges() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let mut rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    let proxy = Proxy::start(rig.admin()).await?;
    let cut_off = follower(&rig, "cut-off", proxy.url()).await?;
    for edge in [rig.public(), cut_off.http] {
        warm(&rig, edge, VASE).await?;
        warm(&rig, edge, RING).await?;
    }
    for fault in [Fault::Refuse, Fault::Stall] {
        proxy.set(fault);
        let held = kill(&rig, cut_off.admin, "vase").await?;
        assert_eq!(held.status, StatusCode::ACCEPTED, "{}", held.text());
        assert!(is_withheld(&rig, cut_off.http, VASE).await?, "{fault:?}");
        assert!(!is_withheld(&rig, rig.public(), VASE).await?, "{fault:?}: the primary knows nothing of it");
        let ring = kill(&rig, rig.admin(), "ring").await?.json()?;
        assert!(!is_withheld(&rig, cut_off.http, RING).await?, "{fault:?}: on its last state");
        let trouble = standing(&rig, cut_off.admin).await?;
        assert_eq!((trouble["role"].as_str(), trouble["held"].as_u64()), (Some("follower"), Some(1)), "{trouble:#}");
        let refused =
            admin(&rig, cut_off.admin, Method::DELETE, &format!("kills/{}", ring["seq"]), json!({ "why": "x" }))
                .await?;
        assert!(refused.status.is_client_error() || refused.status.is_server_error(), "{}", refused.text());

        proxy.set(Fault::None);
        eventually("the primary withholds it", async || is_withheld(&rig, rig.public(), VASE).await).await?;
        eventually("the follower withholds the other", async || is_withheld(&rig, cut_off.http, RING).await).await?;
        eventually("nothing holds there alone", async || {
            Ok(standing(&rig, cut_off.admin).await?["held"].as_u64() == Some(0))
        })
        .await?;
        let listed = admin(&rig, rig.admin(), Method::GET, "kills", Value::Null).await?.json()?;
        for kill in listed["kills"].as_array().into_iter().flatten() {
            let path = format!("kills/{}", kill["seq"]);
            let lifted = admin(&rig, rig.admin(), Method::DELETE, &path, json!({ "why": "over" })).await?;
            assert_eq!(lifted.status, StatusCode::OK, "{}", lifted.text());
        }
        for edge in [rig.public(), cut_off.http] {
            eventually("both are shown again", async || {
                Ok(!is_withheld(&rig, edge, VASE).await? && !is_withheld(&rig, edge, RING).await?)
            })
            .await?;
        }
    }
    // Across a restart of the primary.
    kill(&rig, rig.admin(), "vase").await?;
    rig.stop_edge().await;
    assert!(is_withheld(&rig, cut_off.http, VASE).await?);
    cut_off.shut_down().await;
    rig.start_edge().await?;
    assert!(is_withheld(&rig, rig.public(), VASE).await?);
    rig.stop().await;
    Ok(())
}

/// A follower takes the place of a primary that is lost; the former one, back again, writes no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_fences_the_former_primary() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let mut rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    let proxy = Proxy::start(rig.admin()).await?;
    let heir = follower(&rig, "heir", proxy.url()).await?;
    kill(&rig, rig.admin(), "vase").await?;
    eventually("the follower has it", async || is_withheld(&rig, heir.http, VASE).await).await?;
    proxy.set(Fault::Refuse);
    rig.stop_edge().await;
    let promoted = admin(&rig, heir.admin, Method::POST, "state/promote", Value::Null).await?;
    assert_eq!(promoted.status, StatusCode::OK, "{}", promoted.text());
    let promoted = promoted.json()?;
    assert_eq!(promoted["term"], 2, "{promoted:#}");
    assert_eq!(promoted["seq"].as_u64(), promoted["taken_over"].as_u64().map(|seq| seq + 1), "{promoted:#}");
    let killed = kill(&rig, heir.admin, "ring").await?;
    assert_eq!(killed.status, StatusCode::CREATED, "{}", killed.text());

    // The former primary is back, and meets an edge that knows the later term.
    rig.start_edge().await?;
    assert_eq!(standing(&rig, rig.admin()).await?["role"], "primary");
    let head = standing(&rig, heir.admin).await?;
    let word = |name: &str| head[name].as_str().unwrap_or_default().to_owned();
    let ask = format!("state/changes?log={}&after={}&hash={}&term=2&wait_ms=0", word("log"), head["seq"], word("hash"));
    let refused = admin(&rig, rig.admin(), Method::GET, &ask, Value::Null).await?;
    assert_eq!(refused.status, StatusCode::CONFLICT, "{}", refused.text());
    let fenced = kill(&rig, rig.admin(), "cube").await?;
    assert_eq!(fenced.status, StatusCode::CONFLICT, "{}", fenced.text());
    assert_eq!(standing(&rig, rig.admin()).await?["role"], "fenced");

    // It follows the new primary then, and takes what it missed.
    rig.stop_edge().await;
    let back = started(&rig, "edge", &format!("http://{}", heir.admin)).await?;
    eventually("it withholds what was killed meanwhile", async || is_withheld(&rig, back.http, RING).await).await?;
    assert!(is_withheld(&rig, back.http, VASE).await?);
    assert_eq!(standing(&rig, back.admin).await?["role"], "follower");
    back.shut_down().await;
    heir.shut_down().await;
    rig.stop().await;
    Ok(())
}

/// What a primary does not know, or what is none, is refused by name.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_followed_says_why() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan { edge: with_tokens, ..Plan::painted(&control) }).await?;
    let primary = format!("http://{}", rig.admin());
    let trouble = async |edge: &Edge, says: &str| {
        let mut last = Value::Null;
        let found = eventually("it says what is wrong", async || {
            last = standing(&rig, edge.admin).await?;
            Ok(last["trouble"].as_str().is_some_and(|trouble| trouble.contains(says)))
        });
        found.await.map_err(|error| error.context(format!("{says}: {last:#}")))
    };
    let wrong = rig.dir.path().join("wrong.token");
    write_secret(&wrong, "bk_wrong")?;
    let stranger = rig
        .another_edge("stranger", |config| {
            config.state.follow = Some(FollowConfig { primary: primary.clone(), token_file: Some(wrong), tls: None });
        })
        .await?;
    trouble(&stranger, "this token is not known").await?;
    let chained = rig.another_edge("chained", following(rig.dir.path(), format!("http://{}", stranger.admin))?).await?;
    trouble(&chained, "follows another one").await?;
    // An edge that decided something by itself does not lose that without a word.
    let own = rig.another_edge("own", |_| {}).await?;
    assert_eq!(kill(&rig, own.admin, "vase").await?.status, StatusCode::CREATED);
    kill(&rig, rig.admin(), "ring").await?;
    own.shut_down().await;
    let own = started(&rig, "own", &primary).await?;
    trouble(&own, "has a log of its own with 2 entries").await?;
    assert!(is_withheld(&rig, own.http, VASE).await?);
    for edge in [own, chained, stranger] {
        edge.shut_down().await;
    }
    rig.stop().await;
    Ok(())
}

/// SIGKILL in the middle of many kills, again and again: whatever was acknowledged is in force at the next start, and the chain of the
/// audit holds from its first entry.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_sigkill() -> anyhow::Result<()> {
    const ROUNDS: usize = 4;
    const AT_ONCE: usize = 4;
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let folder = tempfile::tempdir()?;
    let (config, log) = (folder.path().join("edge.toml"), folder.path().join("log"));
    let hash = bildkante_edge::admin::token::hash(TOKEN);
    std::fs::write(
        &config,
        format!(
            "[listen]\nhttp = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n\
             [cache]\ndisk_dir = {:?}\n[campaigns]\ncampaigns_dir = {:?}\nprompts_dir = {:?}\n[origin]\nnodes = [\"http://{}\"]\n\
             [admin]\ntokens = [{{ name = \"tests\", hash = \"{hash}\", scopes = [\"read\", \"kill\", \"audit\"] }}]\n",
            folder.path().join("cache"),
            rig.dir.path().join("campaigns"),
            rig.dir.path().join("prompts"),
            rig.node(),
        ),
    )?;
    let acknowledged = Arc::new(parking_lot::Mutex::new(std::collections::BTreeSet::new()));
    for round in 0..=ROUNDS {
        let mut process = tokio::process::Command::new(bildkante_tests::program("bildkante-edge")?)
            .args(["serve", "--config"])
            .arg(&config)
            .env("RUST_LOG", "info")
            .stderr(std::fs::File::create(&log)?)
            .kill_on_drop(true)
            .spawn()?;
        eventually("the edge says where it serves", async || Ok(crate::processes::serves(&log).is_ok())).await?;
        let (_, address) = crate::processes::serves(&log)?;
        let mut in_force = std::collections::BTreeSet::new();
        let mut after = 0;
        loop {
            let page = admin(&rig, address, Method::GET, &format!("kills?limit=1000&after={after}"), Value::Null)
                .await?
                .json()?;
            let kills = page["kills"].as_array().cloned().unwrap_or_default();
            in_force.extend(kills.iter().filter_map(|kill| kill["target"].as_str().map(str::to_owned)));
            match page["next"].as_u64() {
                Some(next) => after = next,
                None => break,
            }
        }
        let lost: Vec<String> =
            acknowledged.lock().iter().filter(|target| !in_force.contains(*target)).cloned().collect();
        assert!(lost.is_empty(), "round {round}: acknowledged and not in force: {lost:?}");
        if round == ROUNDS {
            let verified = tokio::process::Command::new(bildkante_tests::program("bildkante-edge")?)
                .args(["audit", "verify", "--admin", &format!("http://{address}")])
                .env("BILDKANTE_ADMIN_TOKEN", TOKEN)
                .output()
                .await?;
            let said = String::from_utf8_lossy(&[verified.stdout, verified.stderr].concat()).into_owned();
            assert!(verified.status.success() && said.contains("entries from 1 to"), "{said}");
        }
        let before = acknowledged.lock().len();
        let mut killers = tokio::task::JoinSet::new();
        for killer in 0..AT_ONCE {
            let (http, acknowledged) = (rig.http.clone(), Arc::clone(&acknowledged));
            killers.spawn(async move {
                for number in 0.. {
                    let name = format!("{round}/{killer}/{number}");
                    let recipe = bildkante_shared::ids::RecipeId::of_bytes(name.as_bytes()).to_string();
                    let order = json!({ "recipe": recipe, "why": name }).to_string();
                    let request =
                        Request::builder().method(Method::POST).uri(format!("http://{address}/admin/v1/kills"));
                    let request = request.header("authorization", format!("Bearer {TOKEN}"));
                    let Ok(request) = request.header("content-type", "application/json").body(Full::from(order)) else {
                        return;
                    };
                    match http.send(request).await {
                        Ok(reply) if reply.status == StatusCode::CREATED => {
                            acknowledged.lock().insert(format!("recipe:{recipe}"))
                        }
                        _ => return,
                    };
                }
            });
        }
        eventually("some are acknowledged", async || Ok(acknowledged.lock().len() >= before + 10 + 7 * round)).await?;
        process.start_kill()?;
        process.wait().await?;
        killers.shutdown().await;
    }
    rig.stop().await;
    Ok(())
}
