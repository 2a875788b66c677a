//! The edge: request URLs in, cached image renditions out.
//!
//! `handler` shows the way of a request on one screen; ARCHITECTURE.md has the map.

#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod access;
pub mod admin;
pub mod app;
pub mod batch;
pub(crate) mod bmff;
pub(crate) mod budget;
pub mod cache;
pub mod campaign;
pub mod candidates;
pub mod commands;
pub mod config;
pub mod credentials;
pub mod decoding;
pub mod descriptors;
pub mod drafts;
pub(crate) mod fields;
pub(crate) mod fill;
pub(crate) mod front;
#[doc(hidden)]
pub mod fuzzing;
pub mod governance;
pub(crate) mod handler;
pub(crate) mod language;
pub mod listener;
pub(crate) mod metrics;
pub(crate) mod octets;
#[cfg(test)]
mod one_way;
pub mod origin;
pub(crate) mod outbound;
pub mod papers;
pub(crate) mod placeholder;
pub(crate) mod preview;
pub(crate) mod program;
pub mod provenance;
pub(crate) mod reload;
pub mod render;
pub mod request;
pub mod resolve;
pub(crate) mod response;
pub(crate) mod rum;
pub(crate) mod secret;
pub mod seo;
pub(crate) mod service;
pub mod shared_state;
pub mod shares;
pub mod signing;
pub(crate) mod stand_in;
pub mod state;
mod text_file;
pub mod verify;
pub mod warm;
pub mod watermark;
pub mod webhooks;
pub mod words;
