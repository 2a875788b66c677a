//! What an endpoint is owed: read from the log and from the clock, and written down with how far that was read.

use std::collections::BTreeSet;
use std::time::SystemTime;

use bildkante_shared::log_limited;

use super::book::{Cursor, PENDING_MAX};
use super::config::WebhookEndpoint;
use super::event::{self, Event};
use super::{Inner, unix_ms};
use crate::campaign::RIGHTS_NOTICE_S;
use crate::shared_state::Entries;
use crate::state::StateError;

/// Entries that are read at once.
const ENTRIES_MAX: usize = 256;
/// How often the time that was looked at is written without another reason.
const CLOCK_WRITTEN_MS: u64 = 60_000;

impl Inner {
    /// Owes an endpoint what the log and the clock have for it. A follower only remembers when it began to know the endpoint.
    pub(super) async fn collect(&self, endpoint: &WebhookEndpoint, is_primary: bool) -> Result<(), StateError> {
        let (state, now) = (self.log.published().state(), unix_ms(SystemTime::now()));
        let log = state.log().to_string();
        let known = self.book.cursor(&endpoint.name).filter(|cursor| cursor.log == log);
        let Some(mut cursor) = known else {
            let begun = Cursor { log, seq: state.epoch(), clock_unix_ms: now, ..Cursor::default() };
            return self.book.edit(|draft| draft.move_to(&endpoint.name, begun)).await;
        };
        if !is_primary || self.book.counts(&endpoint.name).0 >= PENDING_MAX {
            return Ok(());
        }
        let before = cursor.clone();
        let oldest = now.saturating_sub(endpoint.retry_for_s.saturating_mul(1_000));
        let mut events = Vec::new();
        match self.log.entries(cursor.seq, ENTRIES_MAX).await {
            Ok(Entries::These(entries)) => {
                let is_full = entries.len() == ENTRIES_MAX;
                // The state tells of cases, so it must have what is told.
                for entry in entries.iter().take_while(|entry| entry.seq() <= state.epoch()) {
                    cursor.seq = entry.seq();
                    if entry.at_unix_ms() >= oldest {
                        events.extend(event::of_entry(entry, &state));
                    }
                }
                // More is there: it is read when the letters are on the device.
                if is_full {
                    self.due.notify_one();
                }
            }
            // It joined by a snapshot: what is older is at the former primary alone.
            Ok(Entries::Elsewhere) => cursor.seq = self.log.standing().begins,
            Err(error) => log_limited!(warn, %error, "the log cannot be read for webhooks"),
        }
        let looked_at = self.clocks.lock().get(&endpoint.name).copied().unwrap_or(0);
        let told = event::of_time(&state, looked_at.max(cursor.clock_unix_ms).max(oldest), now);
        if !told.is_empty() || cursor != before || now.saturating_sub(cursor.clock_unix_ms) > CLOCK_WRITTEN_MS {
            cursor.clock_unix_ms = now;
        }
        events.extend(told);
        self.look_at_rights(&mut cursor, &mut events, now);
        if cursor == before {
            self.clocks.lock().insert(endpoint.name.clone(), now);
            return Ok(());
        }
        let is_gone = self.is_gone(endpoint);
        events.retain(|event| !is_gone && endpoint.wants(event.kind, event.campaign.as_deref()));
        let edit = self.book.edit(|draft| {
            draft.move_to(&endpoint.name, cursor);
            events.iter().for_each(|event| draft.owe(&endpoint.name, event, now));
        });
        edit.await?;
        self.clocks.lock().insert(endpoint.name.clone(), now);
        Ok(())
    }

    /// Each end of a right is told once, when its notice has begun.
    fn look_at_rights(&self, cursor: &mut Cursor, events: &mut Vec<Event>, now_unix_ms: u64) {
        let mut near = BTreeSet::new();
        for campaign in self.catalog.load().campaigns() {
            for right in campaign.rights_ends() {
                if right.unix_s <= now_unix_ms / 1_000 + RIGHTS_NOTICE_S {
                    let event = Event::rights(campaign.name.as_str(), &right.of, right.unix_s, now_unix_ms);
                    near.insert(event.id.clone());
                    if !cursor.rights.contains(&event.id) {
                        events.push(event);
                    }
                }
            }
        }
        cursor.rights = near;
    }
}
