//! The container files, as far as no registry is needed: what they copy is there in a clean clone and out of an earlier
//! stage, what their programs load is in the image, and the rules of hadolint that concern them hold (the codes in brackets).

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use bildkante_tests::{program, repository};

/// What `debian:bookworm-slim` has because of libc6, libgcc-s1 and libstdc++6, which apt itself needs.
const LIBRARIES_OF_THE_BASE: [&str; 10] = [
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libm.so.6",
    "libdl.so.2",
    "libpthread.so.0",
    "librt.so.1",
    "libutil.so.1",
    "libgcc_s.so.1",
    "libstdc++.so.6",
    "libresolv.so.2",
];

/// `COPY`, and its arguments on one line.
struct Instruction {
    keyword: String,
    arguments: String,
}

/// From one `FROM` to the next.
struct Stage {
    base: String,
    name: Option<String>,
    instructions: Vec<Instruction>,
}

impl Stage {
    fn of(&self, keyword: &str) -> impl Iterator<Item = &str> {
        let keyword = keyword.to_owned();
        self.instructions.iter().filter(move |one| one.keyword == keyword).map(|one| one.arguments.as_str())
    }

    fn last(&self, keyword: &str) -> Option<&str> {
        self.of(keyword).last()
    }

    fn runs(&self) -> String {
        self.of("RUN").collect::<Vec<_>>().join("\n")
    }
}

fn container_file(name: &str) -> anyhow::Result<Vec<Stage>> {
    let text = std::fs::read_to_string(repository().join("config/deploy").join(name))?;
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let mut stages: Vec<Stage> = Vec::new();
    for line in lines.join("\n").replace("\\\n", " ").lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (keyword, arguments) = line.split_once(' ').with_context(|| format!("{name}: {line}"))?;
        let (keyword, arguments) = (keyword.to_ascii_uppercase(), arguments.trim().to_owned());
        if keyword == "FROM" {
            let words: Vec<&str> = arguments.split_whitespace().collect();
            let stage_name =
                words.get(2).filter(|_| words[1].eq_ignore_ascii_case("as")).map(|name| (*name).to_owned());
            stages.push(Stage { base: words[0].to_owned(), name: stage_name, instructions: Vec::new() });
        } else {
            let stage = stages.last_mut().with_context(|| format!("{name}: {line} stands before any FROM"))?;
            stage.instructions.push(Instruction { keyword, arguments });
        }
    }
    Ok(stages)
}

/// Whether the files of a clean clone, less what `.dockerignore` leaves out, have this path.
fn is_in_a_clone(path: &str) -> anyhow::Result<bool> {
    let ignored = std::fs::read_to_string(repository().join(".dockerignore"))?;
    let is_ignored = |path: &str| {
        let mut roots = ignored.lines().filter_map(|line| line.trim().strip_prefix('/'));
        roots.any(|root| path == root || path.starts_with(&format!("{root}/")))
    };
    let listed = Command::new("git").args(["ls-files", "--", path]).current_dir(repository()).output()?;
    ensure!(listed.status.success(), "git: {}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout)?;
    Ok(listed.lines().any(|file| !is_ignored(file)))
}

/// Whether a path of a stage was made there: by `cargo build` of the package whose program it is, or by a command that
/// names it.
fn is_made_in(stage: &Stage, path: &str) -> bool {
    match path.strip_prefix("/src/target/release/") {
        Some(package) => {
            let manifest = repository().join(package.trim_start_matches("bildkante-")).join("Cargo.toml");
            let names_it =
                std::fs::read_to_string(manifest).is_ok_and(|text| text.contains(&format!("name = \"{package}\"")));
            let mut builds = stage.of("RUN").filter(|run| run.contains("cargo build") && run.contains("--release"));
            names_it && builds.any(|run| run.split_whitespace().any(|word| word == package))
        }
        None => stage.runs().split_whitespace().any(|word| word.trim_start_matches("LIBTORCH=") == path),
    }
}

const FILES: [(&str, &str); 2] = [("Dockerfile.edge", "bildkante-edge"), ("Dockerfile.gpu-node", "bildkante-gpu-node")];

#[test]
fn what_container_files_copy_is_there() -> anyhow::Result<()> {
    for (name, _) in FILES {
        let stages = container_file(name)?;
        for (index, stage) in stages.iter().enumerate() {
            for copy in stage.of("COPY") {
                let mut words: Vec<&str> = copy.split_whitespace().collect();
                let from = words.iter().find_map(|word| word.strip_prefix("--from="));
                words.retain(|word| !word.starts_with("--"));
                let (_, sources) = words.split_last().context("a destination")?;
                ensure!(!sources.is_empty(), "{name}: COPY {copy}");
                for source in sources {
                    let is_there = match from {
                        None => is_in_a_clone(source)?,
                        Some(from) => {
                            let earlier = stages[..index].iter().find(|earlier| earlier.name.as_deref() == Some(from));
                            is_made_in(earlier.with_context(|| format!("{name}: no earlier stage `{from}`"))?, source)
                        }
                    };
                    ensure!(is_there, "{name}: COPY {copy}: nothing makes `{source}`");
                }
            }
        }
    }
    ensure!(!is_in_a_clone("target")? && !is_in_a_clone("no/such/folder")?);
    Ok(())
}

#[test]
fn container_files_keep_the_rules() -> anyhow::Result<()> {
    for (name, binary) in FILES {
        let stages = container_file(name)?;
        for stage in &stages {
            let tag = stage.base.rsplit_once(':').map(|(_, tag)| tag);
            ensure!(tag.is_some_and(|tag| tag != "latest"), "{name}: {} has no tag (DL3006, DL3007)", stage.base);
            ensure!(stage.of("ADD").next().is_none(), "{name}: COPY, not ADD (DL3020)");
            for workdir in stage.of("WORKDIR") {
                ensure!(workdir.starts_with('/'), "{name}: WORKDIR {workdir} (DL3000)");
            }
            for run in stage.of("RUN") {
                ensure!(!run.contains("sudo "), "{name}: {run} (DL3004)");
                ensure!(!run.starts_with("cd "), "{name}: {run} (DL3003)");
                if run.contains("apt-get install") {
                    for needed in ["apt-get update &&", "-y", "--no-install-recommends", "rm -rf /var/lib/apt/lists/*"]
                    {
                        ensure!(run.contains(needed), "{name}: {run}: no {needed} (DL3009, DL3014, DL3015)");
                    }
                }
                ensure!(
                    !run.contains("cargo build") || run.contains("--locked"),
                    "{name}: {run}: not the versions of Cargo.lock"
                );
            }
        }
        let image = stages.last().context("a stage")?;
        let user = image.last("USER").with_context(|| format!("{name}: runs as root (DL3002)"))?;
        ensure!(user != "root" && image.runs().contains(&format!(" {user}")), "{name}: USER {user} (DL3002)");
        for (keyword, first) in [("ENTRYPOINT", binary), ("CMD", "serve")] {
            ensure!(image.of(keyword).count() == 1, "{name}: one {keyword} (DL4003, DL4004)");
            let words: Vec<String> = serde_json::from_str(image.last(keyword).context("there")?)
                .with_context(|| format!("{name}: {keyword} is a JSON array (DL3025)"))?;
            ensure!(words.first().map(String::as_str) == Some(first), "{name}: {keyword} {words:?}");
        }
        let copies: Vec<&str> = image.of("COPY").collect();
        ensure!(copies.iter().any(|copy| copy.ends_with(&format!("/{binary} /usr/local/bin/"))), "{name}: {copies:?}");
        for port in image.of("EXPOSE").flat_map(str::split_whitespace) {
            ensure!(port.parse::<u16>().is_ok_and(|port| port > 0), "{name}: EXPOSE {port} (DL3011)");
        }
    }
    Ok(())
}

fn sections(file: &Path) -> anyhow::Result<String> {
    let output = Command::new("readelf").args(["-SW"]).arg(file).output().context("readelf, of binutils")?;
    ensure!(output.status.success(), "readelf: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a stage's commands after the build on a small program in the same place.
#[test]
fn programs_in_images_have_no_debug_information() -> anyhow::Result<()> {
    for (name, binary) in FILES {
        let stages = container_file(name)?;
        let build = stages.iter().flat_map(|stage| stage.of("RUN")).find(|run| run.contains("cargo build"));
        let build = build.with_context(|| format!("{name} builds nothing"))?;
        let (_, behind) = build.split_once("&&").with_context(|| format!("{name}: {build}: nothing strips it"))?;

        let source = tempfile::tempdir()?;
        let (scripts, release) = (source.path().join("scripts"), source.path().join("target/release"));
        std::os::unix::fs::symlink(repository().join("scripts"), scripts)?;
        std::fs::create_dir_all(&release)?;
        let (program, code) = (release.join(binary), source.path().join("main.c"));
        std::fs::write(&code, "int main(void) { return 0; }")?;
        ensure!(Command::new("cc").arg("-g").arg("-o").arg(&program).arg(&code).status()?.success(), "cc");
        ensure!(sections(&program)?.contains(".debug_line"), "there is something to strip");
        let stripped = Command::new("sh").args(["-c", behind.trim()]).current_dir(source.path()).output()?;
        ensure!(stripped.status.success(), "{name}: {behind}: {}", String::from_utf8_lossy(&stripped.stderr));
        ensure!(!sections(&program)?.contains(".debug_line"), "{name}: {behind} leaves the debug information");
        ensure!(Command::new(&program).status()?.success(), "{name}: it runs no more");
    }
    ensure!(is_in_a_clone("scripts/debug-files.sh")?);
    Ok(())
}

/// Names of the shared libraries that a file asks for.
fn needed(file: &Path) -> anyhow::Result<BTreeSet<String>> {
    let output = Command::new("readelf").arg("-d").arg(file).output().context("readelf, of binutils")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = text.lines().filter(|line| line.contains("(NEEDED)"));
    Ok(names.filter_map(|line| Some(line.rsplit_once('[')?.1.trim_end_matches(']').to_owned())).collect())
}

/// Fails where a program gains a library that the image lacks, or the system's certificates, which are a package.
#[test]
fn what_programs_load_is_in_their_images() -> anyhow::Result<()> {
    let base: BTreeSet<&str> = LIBRARIES_OF_THE_BASE.into();
    let edge = needed(&program("bildkante-edge")?)?;
    ensure!(edge.contains("libc.so.6"), "readelf told nothing: {edge:?}");
    let foreign: Vec<&String> = edge.iter().filter(|name| !base.contains(name.as_str())).collect();
    ensure!(foreign.is_empty(), "bildkante-edge needs {foreign:?}");

    let node = needed(&program("bildkante-gpu-node")?)?;
    let libtorch = std::env::var("LIBTORCH").context("LIBTORCH")?;
    let own: BTreeSet<String> = std::fs::read_dir(Path::new(&libtorch).join("lib"))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<std::io::Result<_>>()?;
    let mut asked = node;
    for name in &own {
        asked.extend(needed(&Path::new(&libtorch).join("lib").join(name))?);
    }
    // An image with CUDA takes the driver's library from its runtime.
    let foreign: Vec<&String> = asked
        .iter()
        .filter(|name| !base.contains(name.as_str()) && !own.contains(*name) && *name != "libcuda.so.1")
        .collect();
    ensure!(foreign.is_empty() || own.contains("libtorch_cuda.so"), "bildkante-gpu-node needs {foreign:?}");

    let stages = container_file("Dockerfile.edge")?;
    let image = stages.last().context("a stage")?;
    ensure!(
        image.runs().contains("ca-certificates"),
        "the edge calls caches and stores over TLS by the system's certificates"
    );
    Ok(())
}
