//! `bildkante-edge sign`: URLs that carry a signature, and the keys that make them.

use std::cell::Cell;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use bildkante_shared::{console, say};

use crate::campaign::Catalog;
use crate::campaign::names::is_name;
use crate::config::Config;
use crate::request::{ImageRequest, MARKUP_PATH_PREFIX, MarkupRequest, ParameterNames, Target};
use crate::signing::{moment, new_key_entry};
use crate::words::clock::Clock;

/// `bildkante-edge sign`.
#[derive(Debug, clap::Args)]
pub struct SignArgs {
    /// The configuration file, whose `signing.keys_file` signs
    #[arg(long, env = "BILDKANTE_EDGE_CONFIG", default_value = "config/edge.toml")]
    pub config: PathBuf,
    /// The key that signs; without it the first that is neither retired nor out of date
    #[arg(long, value_name = "KID")]
    pub kid: Option<String>,
    /// When the URL ends: a span such as `24h` or a date such as `2026-12-31T23:59:59Z`; without it never
    #[arg(long, value_name = "SPAN|DATE", conflicts_with = "new_key")]
    pub expires: Option<String>,
    /// Print an entry with a new random secret for the file of keys, and sign nothing
    #[arg(long)]
    pub new_key: bool,
    /// A URL of this edge; path and query suffice
    #[arg(required_unless_present = "new_key", conflicts_with = "new_key")]
    pub url: Option<String>,
}

/// Prints the URL in its canonical form with `kid`, `expires` and `s`.
///
/// # Errors
/// When there are no keys, none of them signs, or the URL is none of an image or its markup.
pub fn sign(config: &Config, args: &SignArgs) -> anyhow::Result<ExitCode> {
    let keys = super::signing_keys(config)?.context(
        "there are no keys: name a file in `signing.keys_file`, and put what `bildkante-edge sign --new-key` prints into it",
    )?;
    let now_s = Clock::System.unix_s();
    let expires_s = args.expires.as_deref().map(|text| moment::parse(text, now_s)).transpose()?;
    let url = args.url.as_deref().unwrap_or_default();
    let Target { path, query } = Target::from(url);
    let sources = config.sources()?;
    let catalog = Catalog::load(&sources);
    let is_doubtful = Cell::new(false);
    let ignored = |campaign: &str, name: &str| {
        let names: &dyn ParameterNames = catalog.as_ref().map_or(&sources.ignored, |catalog| catalog);
        let is_ignored = names.is_ignored(campaign, name);
        is_doubtful.set(is_doubtful.get() || (is_ignored && is_name(name)));
        is_ignored
    };
    let kid = args.kid.as_deref();
    let signed = if path.starts_with(MARKUP_PATH_PREFIX) {
        keys.sign(&MarkupRequest::parse(path, query, &ignored)?, kid, expires_s, now_s)?.canonical()
    } else {
        keys.sign(&ImageRequest::parse(path, query, &ignored)?, kid, expires_s, now_s)?.canonical_with_slug()
    };
    // Elsewhere than at an edge there may be keys and no campaigns; most URLs mean the same without.
    if let (Err(error), true) = (&catalog, is_doubtful.get()) {
        let reason =
            "a parameter of this URL is taken for tracking and is not signed: whether it is an axis cannot be told";
        anyhow::bail!("{reason}, because the campaigns cannot be loaded: {error}");
    }
    let origin = url.find("://").map_or("", |_| url.split_at(url.find(path).unwrap_or(0)).0);
    say!("{origin}{signed}")?;
    Ok(ExitCode::SUCCESS)
}

/// Prints an entry for the file of keys.
///
/// # Errors
/// When the system has no random bytes or the asked `kid` is none.
pub fn new_key(args: &SignArgs) -> anyhow::Result<ExitCode> {
    let named = || format!("key-{}", Clock::System.unix_s());
    console::say(new_key_entry(&args.kid.clone().unwrap_or_else(named))?)?;
    Ok(ExitCode::SUCCESS)
}
