//! The edge's rooms have an order, and no room uses one that stands above it.

use std::path::Path;

use bildkante_shared::testing::rooms::rooms;

/// From the top to the bottom: a room may use those behind it. ARCHITECTURE.md says what each is for.
const ROOMS: &[&str] = &[
    "fuzzing",
    "app",
    "commands",
    "reload",
    "descriptors",
    "config",
    "admin",
    "preview",
    "papers",
    "batch",
    "candidates",
    "drafts",
    "shares",
    "warm",
    "webhooks",
    "handler",
    "access",
    "stand_in",
    "placeholder",
    "front",
    "rum",
    "seo",
    "verify",
    "fill",
    "response",
    "metrics",
    "governance",
    "resolve",
    "origin",
    "cache",
    "shared_state",
    "state",
    "campaign",
    "signing",
    "request",
    "render",
    "decoding",
    "credentials",
    "watermark",
    "provenance",
    "bmff",
    "octets",
    "listener",
    "service",
    "budget",
    "outbound",
    "program",
    "text_file",
    "language",
    "fields",
    "secret",
    "words",
];

#[test]
fn no_room_uses_one_above_it() {
    let faults = rooms(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), ROOMS);
    let listed: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert!(faults.is_empty(), "{}", listed.join("\n"));
}
