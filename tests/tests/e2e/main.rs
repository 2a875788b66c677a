//! End to end: real edge and real node, from a URL to bytes and headers.

mod additions;
mod browser;
mod changes;
mod clock;
mod containers;
mod differential;
mod documents;
mod faults;
mod finish;
mod fleet;
mod fronts;
mod http;
mod images;
mod imports;
mod limits;
mod lint;
mod listener;
mod observing;
mod origin;
mod poisoning;
mod processes;
mod purge;
mod signing;
mod stand_ins;
mod warm;
mod wire;
