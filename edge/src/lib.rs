//! The edge: request URLs in, cached image renditions out.
//!
//! `handler` shows the way of a request on one screen; ARCHITECTURE.md has the map.

#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod access;
pub mod admin;
pub mod app;
pub mod budget;
pub mod cache;
pub mod campaign;
pub mod commands;
pub mod config;
pub mod descriptors;
pub mod fields;
pub mod fill;
pub mod front;
#[doc(hidden)]
pub mod fuzzing;
pub mod governance;
pub mod handler;
pub mod listener;
pub mod metrics;
#[cfg(test)]
mod one_way;
pub mod origin;
pub(crate) mod outbound;
pub mod placeholder;
pub mod preview;
pub mod provenance;
pub mod reload;
pub mod render;
pub mod request;
pub mod resolve;
pub mod response;
pub mod rum;
pub mod secret;
pub mod seo;
pub mod service;
pub mod signing;
pub mod stand_in;
pub mod state;
mod text_file;
pub mod warm;
pub mod words;
