//! A disk that is full for a moment: what a node says meanwhile, and that it goes on by itself.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bildkante_shared::testing::{eventually, skipped};
use support::{TestNode, Wish, request};
use tempfile::TempDir;

/// A folder that is a file system of 6 MiB, unmounted with this value.
struct SmallDisk(Arc<TempDir>);

impl SmallDisk {
    /// `None`, and the test's name on stderr, where it cannot be mounted; a failure where CI wants every test.
    fn mount(test: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=6m,mode=0700", "bildkante-test"]).arg(folder.path());
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Self(Arc::new(folder)));
        }
        skipped(test, "no file system can be mounted here");
        None
    }

    fn filler(&self) -> std::path::PathBuf {
        self.0.path().join("filler")
    }

    /// Leaves not a byte.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).unwrap();
        for piece in [64 * 1024, 4096, 1] {
            while file.write(&vec![7; piece]).is_ok_and(|written| written > 0) {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

async fn becomes(node: &TestNode, status: u16) -> String {
    let mut body = String::new();
    eventually(&format!("/readyz becomes {status}"), async || {
        let answer = node.client.get("/readyz").await;
        body = String::from_utf8_lossy(&answer.body).into_owned();
        answer.status == status
    })
    .await;
    body
}

/// Files that were being written.
fn has_leftovers(data: &Path) -> bool {
    support::files_below(&data.join("masters")).iter().any(|path| path.to_string_lossy().contains(".tmp-"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_while_a_picture_is_drawn_is_said_and_got_over_without_a_restart() {
    // With a reserve the disk is looked at; without one a write that fails says so.
    for free_bytes_min in [1 << 20, 0] {
        let test = "a_disk_that_is_full_while_a_picture_is_drawn_is_said_and_got_over_without_a_restart";
        let Some(disk) = SmallDisk::mount(test) else { return };
        let wish = Wish::default().on(&disk.0).config(|config| config.store.free_bytes_min = free_bytes_min);
        let node = wish.start().await;
        let stored = node.client.post(&request("before")).await.reply();

        for round in 0..2 {
            let prompt = format!("drawn while the disk is filled, {round}");
            let calls = node.control.calls();
            node.control.hold();
            let (client, asked) = (node.client.clone(), request(&prompt));
            let call = tokio::spawn(async move { client.post(&asked).await });
            node.control.started(calls + 1).await;
            disk.fill();
            node.control.release();
            let full = call.await.unwrap();
            assert_eq!(full.status, 507);
            assert_eq!(full.problem().kind, "/problems/not-storable");
            assert!(becomes(&node, 503).await.contains("no master can be stored"));

            // Nothing is drawn that cannot be stored, and what is stored is answered.
            let calls = node.control.calls();
            assert_eq!(node.client.post(&request("while it is full")).await.status, 507);
            assert_eq!(node.control.calls(), calls, "it was drawn");
            assert_eq!(node.client.post(&request("before")).await.reply().master, stored.master);
            assert_eq!(node.client.get(&format!("/v1/masters/{}", stored.master.id)).await.status, 200);
            assert!(!has_leftovers(disk.0.path()));

            disk.free();
            becomes(&node, 200).await;
            let drawn = node.client.post(&request(&prompt)).await.reply();
            assert_eq!(node.client.get(&format!("/v1/masters/{}", drawn.master.id)).await.status, 200);
            assert_eq!(node.client.post(&request(&prompt)).await.reply().master, drawn.master, "it is bound");
        }
        node.node.shut_down().await;
    }
}
