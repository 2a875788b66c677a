//! Headless Chromium through ChromeDriver (W3C WebDriver): pages as people see them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;

use anyhow::Context;
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::client::{Http, Reply, eventually, within};

/// Flags for a machine without display, user namespaces or a way outside.
const FLAGS: [&str; 10] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,1000",
];

/// Elements of a page that Tab may stop at.
const TABS_MAX: usize = 400;

/// What the browser shows pages on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Screen {
    Desktop,
    /// Narrow, and worked by touch.
    Phone,
}

/// How often ChromeDriver may end before it has a port.
const STARTS_MAX: usize = 5;

/// A browser window.
#[derive(Debug)]
pub struct Browser {
    _driver: Child,
    profile: tempfile::TempDir,
    address: SocketAddr,
    http: Http,
    session: String,
}

impl Browser {
    /// # Errors
    /// When ChromeDriver or Chromium does not start.
    pub async fn open(chromedriver: &Path, chromium: &Path) -> anyhow::Result<Self> {
        Self::open_as(Screen::Desktop, chromedriver, chromium).await
    }

    /// # Errors
    /// When ChromeDriver or Chromium does not start.
    pub async fn open_as(screen: Screen, chromedriver: &Path, chromium: &Path) -> anyhow::Result<Self> {
        let (driver, port) = start(chromedriver).await?;
        let profile = tempfile::tempdir()?;
        let (address, http) = (SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Http::default());
        let mut arguments: Vec<String> = FLAGS.map(str::to_owned).to_vec();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let mut options = json!({ "binary": chromium, "args": arguments });
        if screen == Screen::Phone {
            let metrics = json!({ "width": 390, "height": 844, "pixelRatio": 3.0, "touch": true, "mobile": true });
            options["mobileEmulation"] = json!({ "deviceMetrics": metrics });
        }
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let reply = http.post_json(address, "/session", &wanted).await?;
        let session = value(&reply)?["sessionId"].as_str().context("no session")?.to_owned();
        Ok(Self { _driver: driver, profile, address, http, session })
    }

    /// Loads a page and waits for its `load` event.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub async fn visit(&self, url: &str) -> anyhow::Result<()> {
        self.command("/url", &json!({ "url": url })).await.map(drop)
    }

    /// Runs `script` as a function body and returns what it returns.
    ///
    /// # Errors
    /// When it throws.
    pub async fn run(&self, script: &str) -> anyhow::Result<Value> {
        self.command("/execute/sync", &json!({ "script": script, "args": [] })).await
    }

    /// The same for a script that calls its last argument with what it returns.
    ///
    /// # Errors
    /// When it throws or never calls.
    pub async fn run_async(&self, script: &str) -> anyhow::Result<Value> {
        self.command("/execute/async", &json!({ "script": script, "args": [] })).await
    }

    /// Chooses a file in a form, as a person would.
    ///
    /// # Errors
    /// When there is no such field.
    pub async fn choose(&self, selector: &str, file: &str) -> anyhow::Result<()> {
        let found = self.command("/element", &json!({ "using": "css selector", "value": selector })).await?;
        let element = found.as_object().and_then(|found| found.values().next()?.as_str()).context("no element")?;
        self.command(&format!("/element/{element}/value"), &json!({ "text": file })).await.map(drop)
    }

    /// Types on the page, one key after the other, as a person without a mouse would. `\u{e007}` is Enter, `\u{e004}` Tab and
    /// `\u{e014}` the arrow to the right (W3C WebDriver, "Keyboard actions").
    ///
    /// # Errors
    /// When the browser takes no keys.
    pub async fn press(&self, keys: &str) -> anyhow::Result<()> {
        let strokes =
            keys.chars().flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key })));
        let actions = json!([{ "type": "key", "id": "keyboard", "actions": strokes.collect::<Vec<_>>() }]);
        self.command("/actions", &json!({ "actions": actions })).await.map(drop)
    }

    /// Presses Tab until the element of this selector has the focus, as a person without a mouse reaches it.
    ///
    /// # Errors
    /// When it is not reached in [`TABS_MAX`] presses.
    pub async fn tab_to(&self, selector: &str) -> anyhow::Result<()> {
        let has_focus = format!("return document.activeElement.matches({})", json!(selector));
        for _ in 0..TABS_MAX {
            self.press("\u{e004}").await?;
            if self.run(&has_focus).await? == true {
                return Ok(());
            }
        }
        anyhow::bail!("`{selector}` is not reached by Tab")
    }

    /// Touches the first element of this selector in its middle (W3C WebDriver, "Pointer actions").
    ///
    /// # Errors
    /// When there is none, or another element lies over it.
    pub async fn tap(&self, selector: &str) -> anyhow::Result<()> {
        let middle = format!(
            "const it = document.querySelector({}); if (!it) return null;
            it.scrollIntoView({{ block: 'center', behavior: 'instant' }});
            const {{ left, top, width, height }} = it.getBoundingClientRect();
            const [x, y] = [Math.round(left + width / 2), Math.round(top + height / 2)];
            const hit = document.elementFromPoint(x, y);
            return [x, y, it === hit || it.contains(hit) || hit?.closest('label')?.control === it]",
            json!(selector)
        );
        let found = self.run(&middle).await?;
        let (x, y) = (found[0].as_i64(), found[1].as_i64());
        let (x, y) = x.zip(y).with_context(|| format!("`{selector}` is not on the page"))?;
        anyhow::ensure!(found[2] == true, "another element lies over `{selector}` at {x}, {y}");
        let actions = json!([{ "type": "pointer", "id": "finger", "parameters": { "pointerType": "touch" }, "actions": [
            { "type": "pointerMove", "duration": 0, "x": x, "y": y },
            { "type": "pointerDown", "button": 0 }, { "type": "pointerUp", "button": 0 },
        ] }]);
        self.command("/actions", &json!({ "actions": actions })).await.map(drop)
    }

    /// What the page wrote to the console since this was asked last, warnings and errors alone.
    ///
    /// # Errors
    /// When the browser keeps no log.
    pub async fn complaints(&self) -> anyhow::Result<Vec<String>> {
        let lines = self.command("/se/log", &json!({ "type": "browser" })).await?;
        let is_bad = |line: &&Value| matches!(line["level"].as_str(), Some("SEVERE" | "WARNING"));
        let told = lines.as_array().into_iter().flatten().filter(is_bad);
        Ok(told.filter_map(|line| line["message"].as_str().map(str::to_owned)).collect())
    }

    /// Holds that pages wrote nothing bad to the console. The browser's own search for `/favicon.ico`, before it knew a page's icon,
    /// is none of theirs.
    ///
    /// # Errors
    /// With what was written.
    pub async fn hold_quiet(&self) -> anyhow::Result<()> {
        let complaints = self.complaints().await?;
        anyhow::ensure!(complaints.iter().all(|line| line.contains("favicon.ico")), "{complaints:?}");
        Ok(())
    }

    /// Makes the window as wide as a phone or a desktop.
    ///
    /// # Errors
    /// When the window cannot be changed.
    pub async fn resize(&self, width_px: u32, height_px: u32) -> anyhow::Result<()> {
        self.command("/window/rect", &json!({ "width": width_px, "height": height_px })).await.map(drop)
    }

    /// Visits a page anew in a window of that width, and gives what the script returns once that says `loaded`.
    ///
    /// # Errors
    /// When it does not come to that.
    pub async fn seen_at(&self, width_px: u32, url: &str, script: &str) -> anyhow::Result<Value> {
        self.visit("about:blank").await?;
        self.resize(width_px, 900).await?;
        self.visit(url).await?;
        let mut seen = Value::Null;
        eventually("the page is loaded", async || {
            seen = self.run_async(script).await?;
            Ok(seen["loaded"] == true)
        })
        .await?;
        Ok(seen)
    }

    /// Ends Chromium and ChromeDriver.
    ///
    /// # Errors
    /// When the session does not end.
    pub async fn close(self) -> anyhow::Result<()> {
        self.http.ask(Method::DELETE, self.address, &format!("/session/{}", self.session), &[]).await?;
        drop(self.profile);
        Ok(())
    }

    async fn command(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let reply = self.http.post_json(self.address, &format!("/session/{}{path}", self.session), body).await?;
        value(&reply)
    }
}

fn value(reply: &Reply) -> anyhow::Result<Value> {
    let value = reply.json()?["value"].take();
    anyhow::ensure!(reply.status.is_success(), "WebDriver: {value}");
    Ok(value)
}

/// ChromeDriver and its port.
///
/// ChromeDriver takes a free port of one address family and wants the same one of the other. It ends where that is taken, as it may
/// be beside tests with many connections, so it is started again.
async fn start(chromedriver: &Path) -> anyhow::Result<(Child, u16)> {
    let mut said = String::new();
    for _ in 0..STARTS_MAX {
        let mut driver = Command::new(chromedriver)
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("chromedriver")?;
        let stdout = driver.stdout.take().context("chromedriver's output")?;
        match within("chromedriver says its port", port_of(stdout, &mut said)).await?? {
            Some(port) => return Ok((driver, port)),
            None => drop(driver),
        }
    }
    anyhow::bail!("chromedriver ended {STARTS_MAX} times, and said:\n{said}")
}

/// ChromeDriver prints the port it chose; `None` where it ends instead.
async fn port_of(stdout: ChildStdout, said: &mut String) -> anyhow::Result<Option<u16>> {
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some((_, port)) = line.split_once("successfully on port ") {
            return Ok(Some(port.trim_end_matches('.').parse()?));
        }
        said.push_str(&line);
        said.push('\n');
    }
    Ok(None)
}
