//! Open-loop load generator for Bildkante.
//!
//! A closed loop waits for an answer before it asks again, so a server that stalls is asked less while it stalls, and
//! the stall all but vanishes from the percentiles ("coordinated omission"). Here every request has an intended time
//! that no answer can move, and its latency is counted from that time, whether or not a connection was free to send it.
//!
//! - [`args`] turns a command line into a bounded [`Plan`]; only loopback is a target unless told otherwise.
//! - [`schedule`] says when request *n* is due, and wakes senders at that time.
//! - [`client`] does one exchange over HTTP/1.1 or HTTP/2 with prior knowledge.
//! - [`scenario`] holds what is asked: steady hits, a stampede on a cold variant.
//! - [`report`] counts and prints; [`outcome`] names what a cache said it did (RFC 9211).

pub mod args;
pub mod client;
pub mod outcome;
pub mod report;
pub mod scenario;
pub mod schedule;
pub mod target;

pub use args::Plan;
pub use report::Report;

/// Runs a plan to its end; it ends by itself, by count and by time.
///
/// # Errors
/// When the target cannot be reached at all, or answers the first request with something that is not an image.
pub async fn run(plan: &Plan) -> anyhow::Result<Report> {
    match plan {
        Plan::Hits(hits) => scenario::hits::run(hits).await,
        Plan::Stampede(stampede) => scenario::stampede::run(stampede).await,
    }
}
