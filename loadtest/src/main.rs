//! Command line of the load generator: parse, run, print, exit. 64 for a bad command line, 1 for a failed run.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use bildkante_loadtest::args::{Cli, Plan};
use clap::Parser;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json().map(ToOwned::to_owned);
    let plan = match Plan::try_from(cli) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("bildkante-loadtest: {error}");
            return ExitCode::from(64);
        }
    };
    match execute(&plan, json.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bildkante-loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(plan: &Plan, json: Option<&std::path::Path>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(plan.threads())
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let report = runtime.block_on(async {
        tokio::select! {
            report = bildkante_loadtest::run(plan) => report,
            _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
        }
    })?;
    // Not `print!`, which panics when the reader of a pipe has gone.
    std::io::stdout().write_all(report.to_string().as_bytes()).context("cannot print the report")?;
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    anyhow::ensure!(report.completed > 0, "no request was answered");
    Ok(())
}
