//! Changes while the edge runs take effect whole, also when the client hangs up or the disk fails.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use bildkante_edge::admin::token::hash;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_shared::testing::{ReservedPort, skipped};
use bildkante_tests::client::{Http, Reply, eventually};
use bildkante_tests::rig::{Plan, Rig};
use bildkante_tests::{judge, program};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::purge::{TOKEN, with_tokens};

const IMAGE: &str = "/i/studio/thumb?product=vase&fm=webp";
const PURGES: &str = "/admin/v1/purges";

/// An edge of its own process, beside a rig whose campaigns and node it uses. Ends when dropped.
struct Program {
    child: Child,
    public: ReservedPort,
    admin: ReservedPort,
    config: PathBuf,
    log: PathBuf,
    head: String,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    async fn start(rig: &Rig, rest: &str) -> anyhow::Result<Self> {
        let (public, admin) = (ReservedPort::new()?, ReservedPort::new()?);
        let dir = rig.dir.path();
        let head = format!(
            "[listen]\nhttp = \"{}\"\nadmin = \"{}\"\n[serve]\npublic_url = \"http://{}\"\n\
             [campaigns]\ncampaigns_dir = {:?}\nprompts_dir = {:?}\n[cache]\ndisk_dir = {:?}\n\
             [origin]\nnodes = [\"http://{}\"]\nprobe_interval_ms = 100\n[config]\nreload_ms = 50\n",
            public.address(),
            admin.address(),
            public.address(),
            dir.join("campaigns"),
            dir.join("prompts"),
            dir.join("program"),
            rig.node(),
        );
        let (config, log) = (dir.join("program.toml"), dir.join("program.log"));
        std::fs::write(&config, format!("{head}{rest}"))?;
        let child = Command::new(program("bildkante-edge")?)
            .args(["serve", "--config"])
            .arg(&config)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .spawn()?;
        let this = Self { child, public, admin, config, log, head };
        let http = &rig.http;
        eventually("the program is ready", async || {
            Ok(http.get(this.admin.address(), "/readyz", &[]).await.is_ok_and(|reply| reply.status.is_success()))
        })
        .await?;
        Ok(this)
    }

    /// Replaces what follows the head of the configuration, as an editor does.
    fn configure(&self, rest: &str) -> anyhow::Result<()> {
        let fresh = self.config.with_extension("new");
        std::fs::write(&fresh, format!("{}{rest}", self.head))?;
        Ok(std::fs::rename(fresh, &self.config)?)
    }

    fn logged(&self, words: &[&str]) -> anyhow::Result<bool> {
        let text = std::fs::read_to_string(&self.log)?;
        Ok(text.lines().any(|line| words.iter().all(|word| line.contains(word))))
    }
}

async fn admin(http: &Http, to: SocketAddr, method: Method, token: &str, body: Value) -> anyhow::Result<Reply> {
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{to}{PURGES}"))
        .header(AUTHORIZATION, format!("Bearer {token}"))
        .header(CONTENT_TYPE, "application/json");
    http.send(request.body(Full::new(Bytes::from(if body.is_null() { String::new() } else { body.to_string() })))?)
        .await
}

/// Until it is answered from memory, twice: the second time from the front map.
async fn warm(http: &Http, to: SocketAddr) -> anyhow::Result<()> {
    eventually("it is in memory", async || {
        Ok(http.image(to, IMAGE).await?.outcome() == "memory" && http.image(to, IMAGE).await?.outcome() == "memory")
    })
    .await
}

fn token(name: &str, text: &str) -> String {
    format!("[[admin.tokens]]\nname = \"{name}\"\nhash = \"{}\"\nscopes = [\"read\", \"purge\"]\n", hash(text))
}

/// Confirms every call it gets.
async fn cache_in_front() -> anyhow::Result<(SocketAddr, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (address, calls) = (listener.local_addr()?, Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&calls);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = Arc::clone(&count);
            tokio::spawn(async move {
                let (mut head, mut byte) = (Vec::new(), [0]);
                while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).await.is_ok() {
                    head.push(byte[0]);
                }
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
            });
        }
    });
    Ok((address, calls))
}

fn front(address: SocketAddr) -> String {
    format!("[[purge.downstream]]\nkind = \"varnish\"\nname = \"front\"\nurl = \"http://{address}/\"\n")
}

/// Tokens and caches in front follow the file. Lines of the audit log pass a filter that stops every other line.
#[tokio::test]
async fn tokens_and_caches_in_front_are_taken_over_while_the_edge_runs() -> anyhow::Result<()> {
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let quiet = "[log]\nfilter = \"off\"\n";
    let edge = Program::start(&rig, &format!("{quiet}{}", token("old", "first"))).await?;
    let (http, to) = (&rig.http, edge.admin.address());
    let everything = || json!({ "everything": true, "why": "because" });
    assert_eq!(admin(http, to, Method::POST, "first", everything()).await?.status, StatusCode::OK);
    eventually("its line", async || edge.logged(&["old", "purge", "because", "done"])).await?;
    let lifetime = async || {
        let image = http.image(edge.public.address(), IMAGE).await?;
        Ok::<_, anyhow::Error>(image.header("cdn-cache-control").contains("max-age=86400"))
    };
    warm(http, edge.public.address()).await?;
    assert!(!lifetime().await?);

    let (address, calls) = cache_in_front().await?;
    edge.configure(&format!("{quiet}{}{}", token("new", "second"), front(address)))?;
    eventually("the new token counts", async || {
        Ok(admin(http, to, Method::GET, "second", Value::Null).await?.status == StatusCode::OK)
    })
    .await?;
    assert_eq!(admin(http, to, Method::POST, "first", everything()).await?.status, StatusCode::UNAUTHORIZED);
    // Finished answers from before the change are gone too.
    eventually("answers live as long as a cache that is purged may keep them", lifetime).await?;
    assert_eq!(admin(http, to, Method::POST, "second", everything()).await?.status, StatusCode::OK);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    eventually("its line", async || edge.logged(&["new", "purge", "because", "done"])).await?;

    // A broken file changes nothing, and a metric says so.
    edge.configure("[admin]\ntokens = 7\n")?;
    eventually("the file is refused", async || Ok(http.metric(to, "bildkante_edge_config_valid").await? == 0.0))
        .await?;
    assert_eq!(admin(http, to, Method::GET, "second", Value::Null).await?.status, StatusCode::OK);
    Ok(())
}

/// strace on a running process: every sync hangs until it is dropped.
struct SlowSync(Child);

impl SlowSync {
    /// `None`, after saying which test is skipped, where it is not allowed.
    async fn attach(strace: &Path, pid: u32, dir: &Path, test: &str) -> anyhow::Result<Option<Self>> {
        let log = dir.join("strace.log");
        let child = Command::new(strace)
            .args(["-f", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"])
            .args(["-e", "inject=fsync,fdatasync:delay_enter=300000000", "-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .spawn()?;
        let mut this = Self(child);
        let mut is_attached = false;
        eventually("strace is attached or refused", async || {
            is_attached = std::fs::read_to_string(&log)?.contains("attached");
            Ok(is_attached || this.0.try_wait()?.is_some())
        })
        .await?;
        if is_attached {
            Ok(Some(this))
        } else {
            skipped(test, "strace may not attach to a process");
            Ok(None)
        }
    }
}

impl Drop for SlowSync {
    fn drop(&mut self) {
        // In order, so that it lets go of the process.
        let _ = crate::processes::kill(self.0.id(), "-TERM");
        let _ = self.0.wait();
    }
}

/// A purge whose client leaves while the disk hangs is in force at once. Caches in front are told, it is counted, and in the
/// end it is on the disk and in the audit log.
#[tokio::test]
async fn a_client_that_hangs_up_leaves_no_purge_half_done() -> anyhow::Result<()> {
    const TEST: &str = "a_client_that_hangs_up_leaves_no_purge_half_done";
    let Some(strace) = judge::find("strace", TEST)? else { return Ok(()) };
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let (address, calls) = cache_in_front().await?;
    let rest = format!("[log]\nfilter = \"warn\"\n{}{}", token("tests", TOKEN), front(address));
    let edge = Program::start(&rig, &rest).await?;
    let (http, public, to) = (&rig.http, edge.public.address(), edge.admin.address());
    warm(http, public).await?;
    let Some(slow) = SlowSync::attach(&strace, edge.child.id(), rig.dir.path(), TEST).await? else { return Ok(()) };

    let mut client = TcpStream::connect(to).await?;
    let body = json!({ "campaign": "studio" }).to_string();
    let request = format!(
        "POST {PURGES} HTTP/1.1\r\nhost: edge\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    client.write_all(request.as_bytes()).await?;
    let listed = async || {
        let purges = admin(http, to, Method::GET, TOKEN, Value::Null).await?.json()?;
        Ok::<_, anyhow::Error>(purges["purges"].as_array().and_then(|purges| purges.first().cloned()))
    };
    eventually("the purge is listed", async || Ok(listed().await?.is_some())).await?;
    assert_ne!(http.image(public, IMAGE).await?.outcome(), "memory", "in force while the disk hangs");
    drop(client);
    eventually("the cache in front is told", async || Ok(calls.load(Ordering::SeqCst) > 0)).await?;
    let metric = "bildkante_edge_purges_total{kind=\"hard\",scope=\"campaign\"}";
    assert_eq!(http.metric(to, metric).await?, 1.0);
    assert_eq!(listed().await?.context("a purge")?["stored"], false);
    drop(slow);
    eventually("the purge is on the disk", async || Ok(listed().await?.context("a purge")?["stored"] == true)).await?;
    eventually("its line", async || edge.logged(&["tests", "purge", "campaign studio", "done"])).await?;
    Ok(())
}

/// A file system of its own; gone when dropped.
struct Mount(PathBuf);

impl Mount {
    /// `None`, after saying which test is skipped, where it is not allowed.
    fn small(at: &Path, test: &str) -> anyhow::Result<Option<Self>> {
        std::fs::create_dir_all(at)?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=32m", "tmpfs"])
            .arg(at)
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|status| status.success()) {
            return Ok(Some(Self(at.to_owned())));
        }
        skipped(test, "mounting is not allowed");
        Ok(None)
    }

    fn fill(&self) -> anyhow::Result<()> {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(self.0.join("filler"))?;
        for size in [1 << 20, 1 << 12, 1] {
            while file.write(&vec![0; size]).is_ok_and(|written| written > 0) {}
        }
        Ok(())
    }

    fn free(&self) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// While the disk is full, a purge's answer says that it is in force and not on disk. Once there is room again, the edge stores
/// it by itself.
#[tokio::test]
async fn a_disk_that_was_full_for_a_moment_takes_purges_again() -> anyhow::Result<()> {
    const TEST: &str = "a_disk_that_was_full_for_a_moment_takes_purges_again";
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    let Some(mount) = Mount::small(&rig.dir.path().join("small"), TEST)? else { return Ok(()) };
    let edge = rig.another_edge("small", with_tokens).await?;
    let (http, to) = (&rig.http, edge.admin);
    warm(http, edge.http).await?;
    mount.fill()?;
    let purge = async || admin(http, to, Method::POST, TOKEN, json!({ "campaign": "studio" })).await;
    eventually("a purge is refused by the disk", async || {
        let reply = purge().await?;
        anyhow::ensure!(matches!(reply.status.as_u16(), 200 | 500), "{} {}", reply.status, reply.text());
        Ok(reply.status == StatusCode::INTERNAL_SERVER_ERROR && reply.text().contains("in force on this edge"))
    })
    .await?;
    assert_ne!(http.image(edge.http, IMAGE).await?.outcome(), "memory", "it is in force all the same");
    mount.free()?;
    eventually("what was refused is on the disk", async || {
        let purges = admin(http, to, Method::GET, TOKEN, Value::Null).await?.json()?;
        Ok(purges["purges"].as_array().context("purges")?.iter().all(|purge| purge["stored"] == true))
    })
    .await?;
    let reply = purge().await?;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    edge.shut_down().await;
    Ok(())
}
