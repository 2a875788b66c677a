//! Conditional and range requests beside nginx serving the same bytes: where the two differ, one of a few named reasons
//! explains it, and each of these reasons is still needed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::Context;
use bildkante_gpu_node::testing::FakeControl;
use bildkante_shared::testing::ReservedPort;
use bildkante_tests::client::{Reply, eventually};
use bildkante_tests::judge;
use bildkante_tests::raw::{Connection, request};
use bildkante_tests::rig::{Plan, Rig};
use bytes::Bytes;

const TEST: &str = "conditions_and_ranges_mean_what_they_mean_to_nginx";
const IMAGE: &str = "/i/studio/thumb?fm=webp";

/// Why an answer differs from nginx's: both are right, or nginx is laxer or stricter than the standard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    /// Ranges are defined for GET alone and ignored elsewhere (RFC 9110 §14.2); nginx answers HEAD as GET.
    NotGet,
    /// Several ranges: a server may answer in whole (§14.2), and images are not read in several parts.
    SeveralRanges,
    /// What is no ranges-specifier is ignored (§14.2: "MUST ignore … a unit it does not understand", and §14.1.1 for one
    /// whose last position lies before its first); nginx says 416.
    NoRange,
    /// Our images have no modification date, so `If-Range` with one never matches (§13.1.5).
    NoDate,
}

impl Reason {
    const ALL: [Self; 4] = [Self::NotGet, Self::SeveralRanges, Self::NoRange, Self::NoDate];
}

/// nginx, ended when dropped.
struct Nginx {
    child: Child,
    port: ReservedPort,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Nginx {
    fn start(binary: &Path, dir: &Path, body: &[u8]) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir.join("root"))?;
        std::fs::write(dir.join("root/image"), body)?;
        let port = ReservedPort::new()?;
        let config = format!(
            "daemon off; master_process off; worker_processes 1; pid {dir}/pid; error_log {dir}/error.log;\n\
             events {{ }}\n\
             http {{ access_log off; keepalive_requests 100000; default_type image/webp;\n\
               client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;\n\
               uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
               server {{ listen {address}; root {dir}/root; }} }}\n",
            dir = dir.display(),
            address = port.address()
        );
        let file = dir.join("nginx.conf");
        std::fs::write(&file, config)?;
        let child = Command::new(binary)
            .arg("-p")
            .arg(dir)
            .arg("-c")
            .arg(&file)
            .args(["-e", "stderr"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("nginx does not start")?;
        Ok(Self { child, port })
    }
}

/// Fields with the placeholders `{etag}`, `{other}` and `{date}`; each side fills in its own values.
#[derive(Debug, Clone)]
struct Case {
    method: &'static str,
    fields: Vec<(&'static str, &'static str)>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.method)?;
        self.fields.iter().try_for_each(|(name, value)| write!(f, " | {name}: {value}"))
    }
}

impl Case {
    fn field(&self, name: &str) -> Option<&'static str> {
        self.fields.iter().find(|(of, _)| *of == name).map(|(_, value)| *value)
    }

    /// What explains a difference here, if anything does.
    fn reason(&self) -> Option<Reason> {
        let range = self.field("range")?;
        if self.method != "GET" {
            return Some(Reason::NotGet);
        }
        if range.contains(',') {
            return Some(Reason::SeveralRanges);
        }
        if self.field("if-range") == Some("{date}") {
            return Some(Reason::NoDate);
        }
        IGNORED_RANGES.contains(&range).then_some(Reason::NoRange)
    }
}

const TAGS: [&str; 8] =
    ["*", "{etag}", "W/{etag}", "{other}", "{other}, {etag}", "{other},W/{etag} ,\"z\"", "\"a,b\", {etag}", "\"\""];
const RANGES: [&str; 12] = [
    "bytes=0-9",
    "bytes=10-",
    "bytes=-5",
    "bytes=0-0",
    "bytes=0-99999999",
    "bytes=-99999999",
    "bytes=99999999-",
    "bytes=99999999-999999999",
    "bytes=-0",
    "bytes=0-0,2-3",
    "bytes=0-,-1",
    "bytes=1-2, 4-5 , 7-",
];
/// No ranges-specifier of bytes, or an invalid one.
const IGNORED_RANGES: [&str; 11] = [
    "bytes=9-0",
    "bytes=5",
    "bytes=",
    "bytes=-",
    "bytes=a-b",
    "bytes=0-1x",
    "items=0-1",
    "bytes 0-1",
    "bytes=--1",
    "bytes=18446744073709551616-",
    "bytes=0x0-0x9",
];
const IF_RANGES: [&str; 4] = ["{etag}", "W/{etag}", "{other}", "{date}"];

fn cases() -> Vec<Case> {
    let optional = |name: &'static str, values: &[&'static str]| -> Vec<Option<(&'static str, &'static str)>> {
        std::iter::once(None).chain(values.iter().map(|value| Some((name, *value)))).collect()
    };
    let ranges = [&RANGES[..], &IGNORED_RANGES].concat();
    let mut cases = Vec::new();
    for method in ["GET", "HEAD"] {
        let mut add = |fields: &[Option<(&'static str, &'static str)>]| {
            cases.push(Case { method, fields: fields.iter().flatten().copied().collect() });
        };
        for must in optional("if-match", &TAGS) {
            for none in optional("if-none-match", &TAGS) {
                for range in optional("range", &["bytes=0-9", "bytes=99999999-"]) {
                    add(&[must, none, range]);
                }
            }
        }
        for range in optional("range", &ranges) {
            for condition in optional("if-range", &IF_RANGES) {
                for none in optional("if-none-match", &["{etag}", "{other}"]) {
                    add(&[range, condition, none]);
                }
            }
        }
    }
    cases
}

/// What is compared. An error's body is each server's own.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    content_range: String,
    length: String,
    body: Bytes,
}

impl Answer {
    fn of(reply: &Reply) -> Self {
        let status = reply.status.as_u16();
        let carries_image = matches!(status, 200 | 206);
        let of_image = |text: &str| if carries_image { text.to_owned() } else { String::new() };
        Self {
            status,
            content_range: reply.header("content-range").to_owned(),
            length: of_image(reply.header("content-length")),
            body: if carries_image { reply.body.clone() } else { Bytes::new() },
        }
    }
}

struct Side {
    address: SocketAddr,
    connection: Connection,
    target: &'static str,
    etag: String,
    date: String,
}

impl Side {
    async fn ask(&mut self, case: &Case) -> anyhow::Result<Answer> {
        let fill = |value: &str| {
            value.replace("{etag}", &self.etag).replace("{other}", "\"other\"").replace("{date}", &self.date)
        };
        let fields: Vec<_> = case.fields.iter().map(|(name, value)| (*name, fill(value))).collect();
        let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let text = request(case.method, self.target, &fields);
        let reply = match self.connection.send(&text).await {
            Ok(reply) => reply,
            // A server may close a connection that rests (RFC 9112 §9.5).
            Err(_) => {
                self.connection = Connection::open(self.address).await?;
                self.connection.send(&text).await.with_context(|| case.to_string())?
            }
        };
        Ok(Answer::of(&reply.reply))
    }
}

#[tokio::test]
async fn conditions_and_ranges_mean_what_they_mean_to_nginx() -> anyhow::Result<()> {
    let Some(nginx) = judge::named("BILDKANTE_NGINX", "nginx", TEST)? else { return Ok(()) };
    let control = Arc::new(FakeControl::default());
    let rig = Rig::start(Plan::painted(&control)).await?;
    eventually("the image is in memory", async || Ok(rig.http.image(rig.public(), IMAGE).await?.outcome() == "memory"))
        .await?;
    let image = rig.http.image(rig.public(), IMAGE).await?;
    let nginx = Nginx::start(&nginx, &rig.dir.path().join("nginx"), &image.body)?;
    let address = nginx.port.address();
    eventually("nginx answers", async || Ok(rig.http.get(address, "/image", &[]).await.is_ok())).await?;
    let same = rig.http.get(address, "/image", &[]).await?;
    assert_eq!(same.body, image.body);
    let side = async |to, target, reply: &Reply| -> anyhow::Result<Side> {
        let (etag, date) = (reply.header("etag").to_owned(), same.header("last-modified").to_owned());
        Ok(Side { address: to, connection: Connection::open(to).await?, target, etag, date })
    };
    let mut ours = side(rig.public(), IMAGE, &image).await?;
    let mut theirs = side(address, "/image", &same).await?;

    let (mut unexplained, mut explained) = (Vec::new(), BTreeMap::new());
    let cases = cases();
    for case in &cases {
        let (our, their) = (ours.ask(case).await?, theirs.ask(case).await?);
        if our == their {
            continue;
        }
        match case.reason() {
            Some(reason) => *explained.entry(reason).or_insert(0) += 1,
            None => unexplained.push(format!(
                "{case}: {} {:?} {} bytes, nginx {} {:?} {} bytes",
                our.status,
                our.content_range,
                our.body.len(),
                their.status,
                their.content_range,
                their.body.len()
            )),
        }
    }
    assert!(cases.len() > 900, "{} cases", cases.len());
    assert!(unexplained.is_empty(), "{} of {}:\n{}", unexplained.len(), cases.len(), unexplained.join("\n"));
    assert_eq!(explained.keys().copied().collect::<Vec<_>>(), Reason::ALL, "a reason that explains nothing");
    drop(nginx);
    rig.stop().await;
    Ok(())
}
