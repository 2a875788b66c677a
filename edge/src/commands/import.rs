//! `bildkante-edge import`: a picture that a person brings becomes a variant's.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use bildkante_shared::ids::Digest;
use bildkante_shared::import::DigitalSource;
use bildkante_shared::{remark, say};

use crate::campaign::originals::read_bounded;
use crate::campaign::{Candidates, ImportOrder, Statements, import as run};
use crate::config::Config;

/// `bildkante-edge import`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("picture").required(true).args(["file", "candidate"]))]
pub struct ImportArgs {
    /// The configuration file
    #[arg(long, env = "BILDKANTE_EDGE_CONFIG", default_value = "config/edge.toml")]
    pub config: PathBuf,
    /// Whose picture it becomes: `campaign/slot?axis=value&…`; an axis left out is at its default
    #[arg(long, required_unless_present = "candidate")]
    pub variant: Option<String>,
    /// How the picture came to be, a term of IPTC's digital source types such as `digitalCapture`; without it what the
    /// file's own XMP says
    #[arg(long, value_name = "TERM")]
    pub source: Option<DigitalSource>,
    /// Where the file comes from, in your words
    #[arg(long, value_name = "TEXT")]
    pub origin: Option<String>,
    /// Takes the place of the campaign's `rights.creator` for this picture
    #[arg(long, value_name = "TEXT")]
    pub creator: Option<String>,
    /// Takes the place of `rights.credit`
    #[arg(long, value_name = "TEXT")]
    pub credit: Option<String>,
    /// Takes the place of `rights.copyright`
    #[arg(long, value_name = "TEXT")]
    pub copyright: Option<String>,
    /// Takes the place of `rights.license`: the URL of the licence
    #[arg(long, value_name = "URL")]
    pub license: Option<String>,
    /// A candidate that was posted to the admin API, with all that was said of it there
    #[arg(long, value_name = "ID", conflicts_with_all = ["variant", "source", "origin", "creator", "credit", "copyright", "license"])]
    pub candidate: Option<String>,
    /// A PNG, JPEG, WebP or AVIF file
    pub file: Option<PathBuf>,
}

/// Keeps the original beside the manifests and writes its recipe into the campaign's lock.
///
/// # Errors
/// When the variant does not exist, the file is no usable picture, or something cannot be written.
pub fn import(config: &Config, args: &ImportArgs) -> anyhow::Result<ExitCode> {
    let sources = config.sources()?;
    let imported = match (&args.candidate, &args.file) {
        (Some(id), _) => {
            let candidates = Candidates::new(&config.cache.disk_dir);
            let (candidate, file) = candidates.find(id).with_context(|| format!("there is no candidate `{id}`"))?;
            let recipe = candidate.recipe;
            let statements = Statements {
                origin: recipe.origin,
                creator: recipe.creator,
                credit: recipe.credit,
                copyright: recipe.copyright,
                license: recipe.license,
            };
            let bytes = read(&file)?;
            let is_posted = Digest::of_bytes(&bytes) == recipe.import;
            anyhow::ensure!(is_posted, "{} is not the file that was posted", file.display());
            let (variant, source) = (candidate.variant.as_str(), Some(recipe.source));
            run(&sources, &ImportOrder { variant, bytes: &bytes, source, statements })?
        }
        (None, Some(file)) => {
            let statements = Statements {
                origin: args.origin.clone(),
                creator: args.creator.clone(),
                credit: args.credit.clone(),
                copyright: args.copyright.clone(),
                license: args.license.clone(),
            };
            let variant = args.variant.as_deref().unwrap_or_default();
            let order = ImportOrder { variant, bytes: &read(file)?, source: args.source, statements };
            run(&sources, &order).with_context(|| file.display().to_string())?
        }
        (None, None) => anyhow::bail!("neither a file nor a candidate is named"),
    };
    say!("{}", imported.variant)?;
    say!("  recipe    {}", imported.recipe)?;
    say!("  master    {} ({}×{} px)", imported.master, imported.width_px, imported.height_px)?;
    say!("  source    {}", imported.source)?;
    say!("  original  {}", imported.original.display())?;
    say!("  lock      {}", imported.lock.display())?;
    remark!(
        "commit the original and the lock with the manifest; a running edge serves the picture once it has read the lock"
    );
    Ok(ExitCode::SUCCESS)
}

/// One byte more than is taken tells a file that is too large.
fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    read_bounded(file).with_context(|| format!("{} cannot be read", file.display()))
}
