//! Open-loop load generator for Bildkante.
//!
//! A closed loop waits for an answer before it asks again, so a server that stalls is asked less while it stalls, and
//! the stall all but vanishes from the percentiles ("coordinated omission"). Here every request has an intended time
//! that no answer can move, and its latency is counted from that time, whether or not a connection was free to send it.
//!
//! - [`args`] is the command line, [`plan`] makes something bounded of it; only loopback is a target unless told otherwise.
//! - [`campaign`], [`pick`] and [`target`] say which URLs are asked, in which order, and where.
//! - [`schedule`] says when request *n* is due, and wakes senders at that time; [`drive`] sends them.
//! - [`client`] does one exchange over HTTP/1.1 or HTTP/2, in the clear or over [`tls`]; [`fetch`] asks single questions.
//! - [`fleet`] starts edges and nodes as processes; [`node`] is a node that sleeps instead of drawing.
//! - [`scenario`] holds what is asked when.
//! - [`report`] counts and prints; [`outcome`] names what a cache said it did (RFC 9211); [`budget`] says what was promised.

#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod args;
pub mod budget;
pub mod campaign;
pub mod client;
pub mod drive;
pub mod fetch;
pub mod fleet;
pub mod lean;
pub mod node;
pub mod outcome;
pub mod pick;
pub mod plan;
mod process;
pub mod report;
pub mod scenario;
pub mod schedule;
pub mod target;
pub mod tls;

pub use plan::{Plan, Task};
pub use report::Report;

use scenario::fault::Fault;

/// Runs a plan to its end; it ends by itself, by count and by time.
///
/// # Errors
/// When the target cannot be reached at all, answers the first request with something that is not an image, or a server
/// of the scenario's own does not start.
pub async fn run(plan: &Plan) -> anyhow::Result<Report> {
    match plan {
        Plan::Hits(plan) => scenario::hits::run(plan).await,
        Plan::Stampede(plan) => scenario::stampede::run(plan).await,
        Plan::OwnStampede(plan) => scenario::stampede::run_own(plan).await,
        Plan::Mixed(plan) => scenario::mixed::run(plan).await,
        Plan::SlowNode(plan) => scenario::fault::run(plan, Fault::Hang).await,
        Plan::Failover(plan) => scenario::fault::run(plan, Fault::Kill).await,
        Plan::RollingRestart(plan) => scenario::restart::run(plan).await,
        Plan::Reload(plan) => scenario::reload::run(plan).await,
        Plan::Overload(plan) => scenario::overload::run(plan).await,
        Plan::Idle(plan) => scenario::idle::run(plan).await,
        Plan::Kill(plan) => scenario::kill::run(plan).await,
        Plan::Browse(plan) => scenario::browse::run(plan).await,
    }
}
