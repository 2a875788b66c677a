//! What the documents say is true: links lead somewhere, commands and options exist, the first SDXL picture comes out of the
//! commands of README.md, and the reference pages know every metric and only problems and keys that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bildkante_gpu_node::testing::FakeControl;
use bildkante_shared::testing::ReservedPort;
use bildkante_tests::documents::Document;
use bildkante_tests::rig::{Plan, Rig, torch};
use bildkante_tests::{judge, program, repository};

const PROGRAMS: [&str; 3] = ["bildkante-edge", "bildkante-gpu-node", "bildkante-loadtest"];
/// The bound of all commands of the first SDXL picture: a slow machine needs a minute.
const FIRST_PICTURE_MAX: Duration = Duration::from_secs(600);

#[test]
fn relative_links_lead_somewhere() -> anyhow::Result<()> {
    let documents = Document::all()?;
    let mut checked = 0;
    for document in &documents {
        for link in document.links().iter().filter(|link| !link.contains("://")) {
            let (file, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(file, anchor)| (file, Some(anchor)));
            let folder = document.path.parent().context("a folder")?;
            let target = if file.is_empty() { document.path.clone() } else { normal(&folder.join(file)) };
            let place = document.path.display();
            ensure!(repository().join(&target).exists(), "{place}: there is no {link}");
            if let Some(anchor) = anchor {
                let target = Document::read(&target).with_context(|| format!("{place}: {link}"))?;
                ensure!(
                    target.anchors().iter().any(|known| known == anchor),
                    "{place}: no heading is #{anchor} in {link}"
                );
            }
            checked += 1;
        }
    }
    ensure!(checked > 50, "{checked} links only");
    Ok(())
}

/// Without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(normal.pop()),
            part => normal.push(part),
        }
    }
    normal
}

/// The subcommands of a program, each with the words of its help and of those of the commands below it.
struct Help(BTreeMap<String, BTreeSet<String>>);

impl Help {
    fn of(name: &str) -> anyhow::Result<Self> {
        let text = help(name, &[])?;
        let mut commands = BTreeMap::new();
        for command in listed(&text).context("a list of commands")? {
            let own = help(name, &[command])?;
            let mut known = options(&own);
            for below in listed(&own).unwrap_or_default() {
                known.extend(options(&help(name, &[command, below])?));
            }
            commands.insert(command.to_owned(), known);
        }
        ensure!(commands.len() > 2, "{name}: {text}");
        Ok(Self(commands))
    }
}

/// The commands that a help lists.
fn listed(help: &str) -> Option<Vec<&str>> {
    let (_, listed) = help.split_once("Commands:")?;
    let listed = listed.split("\n\n").next().unwrap_or_default();
    Some(listed.lines().filter_map(|line| line.split_whitespace().next()).filter(|word| *word != "help").collect())
}

fn help(name: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program(name)?).args(arguments).arg("--help").output()?;
    ensure!(output.status.success(), "{name} {arguments:?} --help");
    Ok(String::from_utf8(output.stdout)?)
}

fn options(help: &str) -> BTreeSet<String> {
    let words = help.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    words.filter(|word| word.starts_with("--")).map(ToOwned::to_owned).collect()
}

fn is_name(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-') && !word.starts_with('-')
}

/// One call after the other: a pipe or a semicolon ends a call's options.
fn calls(command: &str) -> Vec<Vec<&str>> {
    let is_end = |word: &&str| matches!(*word, "|" | "||" | "&&" | "&" | ";");
    let words: Vec<&str> = command.split_whitespace().collect();
    words.split(is_end).map(<[&str]>::to_vec).collect()
}

#[test]
fn commands_and_options_exist() -> anyhow::Result<()> {
    let programs =
        PROGRAMS.into_iter().map(|name| Ok((name, Help::of(name)?))).collect::<anyhow::Result<BTreeMap<_, _>>>()?;
    let mut checked = 0;
    for document in Document::all()? {
        let place = document.path.display();
        for command in document.commands() {
            for call in calls(&command) {
                let Some(at) = call.iter().position(|word| programs.contains_key(word)) else { continue };
                let Some(name) = call.get(at + 1).filter(|word| is_name(word)) else { continue };
                let known = programs[call[at]].0.get(*name);
                let known = known.with_context(|| format!("{place}: {} has no command `{name}`", call[at]))?;
                for option in call[at + 2..].iter().filter(|word| word.starts_with("--")) {
                    let option = option.split('=').next().unwrap_or(option);
                    ensure!(known.contains(option), "{place}: {} {name} has no {option} ({command})", call[at]);
                }
                checked += 1;
            }
            if let Some(option) = command.strip_prefix("--").and_then(|rest| rest.split([' ', '=']).next()) {
                let option = format!("--{option}");
                let is_known = programs.values().flat_map(|help| help.0.values()).any(|known| known.contains(&option));
                ensure!(is_known, "{place}: no program has {option}");
                checked += 1;
            }
        }
    }
    ensure!(checked > 50, "{checked} commands only");
    Ok(())
}

#[test]
fn targets_of_make_exist() -> anyhow::Result<()> {
    let makefile = std::fs::read_to_string(repository().join("Makefile"))?;
    let targets: BTreeSet<&str> = makefile.lines().filter_map(|line| Some(line.split_once(':')?.0)).collect();
    let mut named = BTreeSet::new();
    for document in Document::all()? {
        for command in document.commands() {
            for call in calls(&command) {
                // Code may say "make" in words: a command begins with it, or with variables.
                let mut words = call.iter().skip_while(|word| word.contains('='));
                if words.next() != Some(&"make") {
                    continue;
                }
                let Some(target) = words.next().filter(|word| is_name(word)) else { continue };
                ensure!(targets.contains(target), "{}: `make` has no target {target}", document.path.display());
                named.insert((*target).to_owned());
            }
        }
    }
    ensure!(named.len() > 5, "{named:?}");
    Ok(())
}

/// What readers say of their own, in the first block of the section.
const OWN: [&str; 7] = ["checkpoint", "size", "device", "dtype", "port", "admin_port", "node_port"];

/// A group of processes that does not outlive its test.
struct Group(u32);

impl Drop for Group {
    fn drop(&mut self) {
        // Gone already where all went well.
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.0)]).stderr(Stdio::null()).status();
    }
}

#[tokio::test]
async fn the_first_sdxl_picture_comes_out_of_the_commands() -> anyhow::Result<()> {
    if judge::find("curl", "the_first_sdxl_picture_comes_out_of_the_commands")?.is_none() {
        return Ok(());
    }
    let programs = program("bildkante-edge")?.parent().context("a folder")?.to_owned();
    program("bildkante-gpu-node")?;
    let section =
        Document::read(Path::new("README.md"))?.section("## From a diffusers folder to your first SDXL picture");
    let blocks: Vec<_> =
        section.context("the section")?.blocks().into_iter().filter(|block| block.language == "sh").collect();
    let (own, commands) = blocks.split_first().context("blocks of commands")?;
    for name in OWN {
        let is_set = own.text.split_whitespace().any(|word| word.starts_with(&format!("{name}=")));
        ensure!(is_set, "README.md does not say that `{name}` is the reader's: {}", own.text);
    }
    ensure!(commands.len() > 4, "{commands:?}");

    let ports = [ReservedPort::new()?, ReservedPort::new()?, ReservedPort::new()?];
    let [port, admin_port, node_port] = ports.each_ref().map(|port| port.port().to_string());
    let checkpoint = repository().join("gpu-node/fixtures/checkpoints/sdxl-tiny").canonicalize()?;
    let folder = tempfile::tempdir()?;
    let mut script = "set -euo pipefail\n".to_owned();
    commands.iter().for_each(|block| script.push_str(&block.text));
    let path = std::env::join_paths(
        std::iter::once(programs).chain(std::env::split_paths(&std::env::var_os("PATH").context("PATH")?)),
    )?;
    let _device = torch().await;
    let mut shell = tokio::process::Command::new("bash");
    shell.args(["-c", &script]).current_dir(folder.path()).env("PATH", path).process_group(0);
    shell.env("checkpoint", checkpoint).envs([("size", "32"), ("device", "cpu"), ("dtype", "f32")]);
    shell.envs([("port", port), ("admin_port", admin_port), ("node_port", node_port)]);
    let shell = shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let _group = Group(shell.id().context("the shell's id")?);
    let output =
        tokio::time::timeout(FIRST_PICTURE_MAX, shell.wait_with_output()).await.context("the commands go on")??;
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap_or_default();
    let said = format!(
        "{}{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&read("first/edge.log"))
    );
    ensure!(output.status.success(), "{}: {said}", output.status);

    let drawn = image::load_from_memory(&read("mug.png")).with_context(|| said.clone())?;
    assert_eq!((drawn.width(), drawn.height()), (32, 32));
    assert_eq!(&read("first.avif")[4..12], b"ftypavif", "{said}");
    let head = String::from_utf8(read("first/head.txt"))?.to_lowercase();
    assert!(head.starts_with("http/1.1 200") && head.contains("detail=generated"), "{head}");
    Ok(())
}

/// `bildkante_edge_…` and the like, as they stand in a table.
fn metrics_documented() -> anyhow::Result<BTreeSet<String>> {
    let page = Document::read(Path::new("docs/reference/metrics.md"))?;
    let is_metric = |span: &String| ["bildkante_", "process_"].iter().any(|prefix| span.starts_with(prefix));
    Ok(page.spans().into_iter().filter(is_metric).collect())
}

#[tokio::test]
async fn every_metric_is_documented_and_none_that_is_not_there() -> anyhow::Result<()> {
    let documented = metrics_documented()?;
    let rig = Rig::start(Plan::painted(&Arc::new(FakeControl::default()))).await?;
    let mut shown = BTreeSet::new();
    for listener in [rig.admin(), rig.node()] {
        let text = rig.http.get(listener, "/metrics", &[]).await?.text();
        let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
        shown.extend(names.map(ToOwned::to_owned));
    }
    rig.stop().await;
    ensure!(shown.len() > 80, "{shown:?}");
    let missing: Vec<_> = shown.difference(&documented).collect();
    assert!(missing.is_empty(), "docs/reference/metrics.md lacks {missing:?}");

    // A family whose labels have no value yet is not shown: then its name stands in the sources.
    let sources = sources()?;
    for name in documented.difference(&shown) {
        let own = ["bildkante_edge_", "bildkante_node_"].iter().find_map(|prefix| name.strip_prefix(prefix));
        let is_there =
            [Some(name.as_str()), own].into_iter().flatten().any(|name| sources.contains(&format!("\"{name}\"")));
        assert!(is_there, "docs/reference/metrics.md: there is no metric {name}");
    }
    Ok(())
}

/// All Rust of the edge, the node and their words.
/// Rules that are handed out name metrics that there are.
#[test]
fn alerts_name_metrics_that_are_documented() -> anyhow::Result<()> {
    let documented = metrics_documented()?;
    for entry in std::fs::read_dir(repository().join("config/alerts"))? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path)?;
        let rules = text.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
        let words = rules.flat_map(|rule| rule.split(|it: char| !it.is_ascii_alphanumeric() && it != '_'));
        let named: BTreeSet<&str> = words.filter(|word| word.starts_with("bildkante_")).collect();
        anyhow::ensure!(!named.is_empty(), "{}: no rule", path.display());
        let unknown: Vec<_> = named.into_iter().filter(|name| !documented.contains(*name)).collect();
        assert!(unknown.is_empty(), "{}: {unknown:?}", path.display());
    }
    Ok(())
}

fn sources() -> anyhow::Result<String> {
    let mut text = String::new();
    let mut folders = ["edge/src", "gpu-node/src", "shared/src"].map(|folder| repository().join(folder)).to_vec();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text.push_str(&std::fs::read_to_string(path)?);
            }
        }
    }
    Ok(text)
}

#[test]
fn documented_problems_exist() -> anyhow::Result<()> {
    let page = std::fs::read_to_string(repository().join("docs/reference/errors.md"))?;
    let sources = sources()?;
    let mut checked = 0;
    for row in page.lines().filter(|line| line.starts_with("| ") && line.as_bytes()[2].is_ascii_digit()) {
        let kinds = row.split('|').nth(2).context("a column of types")?;
        for kind in kinds.split('`').skip(1).step_by(2) {
            ensure!(sources.contains(&format!("\"{kind}\"")), "docs/reference/errors.md: there is no problem `{kind}`");
            checked += 1;
        }
    }
    ensure!(checked > 40, "{checked} problems only");
    Ok(())
}

/// Keys by section, those in comments included.
fn keys(file: &str) -> anyhow::Result<BTreeMap<String, BTreeSet<String>>> {
    let text = std::fs::read_to_string(repository().join("config").join(file))?;
    let mut sections: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut section = String::new();
    for line in text.lines().map(|line| line.trim_start_matches(['#', ' '])) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| key.bytes().all(is_of_a_key)) {
            sections.entry(section.clone()).or_default().insert(key.to_owned());
        }
    }
    Ok(sections)
}

const fn is_of_a_key(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'
}

#[test]
fn documented_keys_of_the_configuration_exist() -> anyhow::Result<()> {
    let files = [keys("edge.toml")?, keys("gpu-node.toml")?];
    let mut checked = 0;
    for document in Document::all()? {
        for span in document.spans() {
            // `section.key`, and `[section] key`.
            let named = span.split_once("] ").and_then(|(section, key)| Some((section.strip_prefix('[')?, key)));
            let Some((section, key)) = named.or_else(|| span.rsplit_once('.')) else { continue };
            let known: Vec<_> = files.iter().filter_map(|sections| sections.get(section)).collect();
            let key = key.split(" = ").next().unwrap_or(key);
            // The last is a file's name, such as `listen.rs`.
            if section.is_empty() || known.is_empty() || !key.bytes().all(is_of_a_key) || key == "rs" {
                continue;
            }
            ensure!(known.iter().any(|keys| keys.contains(key)), "{}: there is no key {span}", document.path.display());
            checked += 1;
        }
    }
    ensure!(checked > 20, "{checked} keys only");
    Ok(())
}

#[test]
fn the_manifest_with_every_key_is_valid() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (campaigns, models) = (folder.path().join("campaigns"), folder.path().join("models"));
    std::fs::create_dir_all(campaigns.join("images"))?;
    std::fs::create_dir_all(models.join("adapters"))?;
    let fixtures = repository().join("gpu-node/fixtures").canonicalize()?;
    for (name, fixture) in [
        ("sdxl", "checkpoints/sdxl-tiny"),
        ("sdxl-refiner", "checkpoints/sdxl-refiner-tiny"),
        ("sdxl-edges", "controlnets/sdxl-edges"),
        ("image-encoder", "encoders/image-tiny"),
        ("adapters/soft-light.safetensors", "adapters/sdxl.kohya.safetensors"),
        ("adapters/teal-mug.safetensors", "embeddings/sdxl.two.safetensors"),
        ("adapters/brand-style.safetensors", "references/sdxl.plain.safetensors"),
    ] {
        symlink(fixtures.join(fixture), models.join(name))?;
    }
    for image in ["edges.png", "photo.png", "where.png", "style.png", "near.png", "face.png"] {
        image::RgbImage::new(8, 8).save(campaigns.join("images").join(image))?;
    }
    let layers = campaigns.join("layers");
    std::fs::create_dir_all(layers.join("fonts"))?;
    std::fs::create_dir_all(layers.join("packshots"))?;
    let fonts = repository().join("config/campaigns/layers/fonts");
    for font in ["Sans", "Sans-Bold"] {
        std::fs::copy(fonts.join("NotoSans-Bold-Latin.ttf"), layers.join(format!("fonts/{font}.ttf")))?;
    }
    std::fs::write(campaigns.join("every-key-copy.csv"), "key,de,en\nclaim,Jeden Tag,Every day\n")?;
    for product in ["mug", "vase"] {
        image::RgbImage::new(8, 8).save(layers.join(format!("packshots/{product}.png")))?;
    }
    std::fs::create_dir_all(campaigns.join("looks"))?;
    let grade = "LUT_3D_SIZE 2\n0 0 0\n1 0 0\n0 1 0\n1 1 0\n0 0 1\n1 0 1\n0 1 1\n1 1 1\n";
    std::fs::write(campaigns.join("looks/warm.cube"), grade)?;
    let page = Document::read(Path::new("docs/reference/manifests.md"))?;
    let manifest = page.blocks().into_iter().find(|block| block.language == "toml").context("a manifest")?;
    std::fs::write(campaigns.join("every-key.toml"), manifest.text)?;
    let prompts = repository().join("config/prompts").canonicalize()?;
    let config = format!("[campaigns]\ncampaigns_dir = \"campaigns\"\nprompts_dir = {prompts:?}\n");
    std::fs::write(folder.path().join("edge.toml"), config)?;
    for command in ["lock", "check"] {
        let output = Command::new(program("bildkante-edge")?)
            .args([command, "--config", "edge.toml", "--models", "models"])
            .current_dir(folder.path())
            .output()?;
        ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
