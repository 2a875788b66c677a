//! Command line of the load generator: parse, run, print, exit. 0 when every budget was kept, 2 when one was not, 64 for a
//! bad command line, 1 for a failed run.

#![warn(clippy::print_stdout, clippy::print_stderr)]

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use bildkante_loadtest::args::{Cli, NodeArgs};
use bildkante_loadtest::node::SleepingNode;
use bildkante_loadtest::{Plan, Task};
use bildkante_shared::{console, remark, say};
use clap::Parser;

const EX_USAGE: u8 = 64;
const BUDGET_MISSED: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EX_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let json = cli.json().map(ToOwned::to_owned);
    let result = match Task::try_from(cli) {
        Ok(Task::Load { plan, threads }) => load(&plan, threads, json.as_deref()),
        Ok(Task::Node(args)) => node(&args),
        Err(error) => {
            remark!("bildkante-loadtest: {error}");
            return ExitCode::from(EX_USAGE);
        }
    };
    result.unwrap_or_else(|error| {
        remark!("bildkante-loadtest: {error:#}");
        ExitCode::FAILURE
    })
}

fn load(plan: &Plan, threads: usize, json: Option<&Path>) -> anyhow::Result<ExitCode> {
    let report = runtime(threads)?.block_on(async {
        tokio::select! {
            report = bildkante_loadtest::run(plan) => report,
            signal = bildkante_shared::shutdown::signal() => Err(anyhow::anyhow!("interrupted by {}", signal?)),
        }
    })?;
    console::say(&report)?;
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    // A scenario that counts for itself has no phases, and says what failed in its verdicts.
    anyhow::ensure!(report.phases.is_empty() || report.completed() > 0, "no request was answered");
    Ok(if report.is_met() { ExitCode::SUCCESS } else { ExitCode::from(BUDGET_MISSED) })
}

/// Until it is told to stop.
fn node(args: &NodeArgs) -> anyhow::Result<ExitCode> {
    runtime(1)?.block_on(async {
        let node = SleepingNode::bind(args).await.with_context(|| format!("cannot listen on {}", args.listen))?;
        say!("listening on {}", node.address()?)?;
        tokio::select! {
            () = node.serve() => {}
            signal = bildkante_shared::shutdown::signal() => drop(signal?),
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn runtime(threads: usize) -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(threads).enable_all().build().context("cannot start the runtime")
}
