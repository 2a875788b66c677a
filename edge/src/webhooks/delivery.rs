//! Letters on their way: which one is sent next, and what becomes of it.

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime};

use bildkante_shared::log_limited;

use super::book::{Cursor, Letter};
use super::call::Answer;
use super::config::WebhookEndpoint;
use super::{Inner, PERIOD, Setup, unix_ms};
use crate::state::StateError;

/// Calls of one endpoint at a time.
const CALLS_MAX: usize = 4;
/// Longest pause between two attempts.
const BACKOFF_MAX: Duration = Duration::from_secs(3_600);

impl Inner {
    /// What may be sent now: of each subject the oldest, unless it is under way or pauses.
    pub(super) fn due(&self, endpoint: &WebhookEndpoint, under_way: &HashSet<u64>) -> Vec<(u64, Letter)> {
        if self.is_gone(endpoint) {
            return Vec::new();
        }
        let (now, pauses) = (Instant::now(), self.pauses.lock());
        let (mut subjects, mut due) = (HashSet::new(), Vec::new());
        let letters = self.book.of(&endpoint.name);
        let calls = letters.iter().filter(|(number, _)| under_way.contains(number)).count();
        for (number, letter) in letters.into_iter().filter(|(_, letter)| !letter.is_dead) {
            let is_first = subjects.insert(letter.subject.clone());
            let is_free = !under_way.contains(&number) && pauses.get(&number).is_none_or(|until| *until <= now);
            if is_first && is_free && calls + due.len() < CALLS_MAX {
                due.push((number, letter));
            }
        }
        due
    }

    pub(super) async fn attempt(
        &self,
        setup: &Setup,
        endpoint: &WebhookEndpoint,
        number: u64,
        mut letter: Letter,
    ) -> (u64, String) {
        let at_unix_s = unix_ms(SystemTime::now()) / 1_000;
        let answer = setup.caller.call(endpoint, &letter.id, &letter.body, at_unix_s).await;
        self.metrics.calls.with_label_values(&[endpoint.name.as_str(), answer.as_str()]).inc();
        letter.attempts = letter.attempts.saturating_add(1);
        let written = match answer {
            Answer::Delivered => self.book.edit(|draft| draft.remove(number)).await,
            Answer::Gone => self.gone(endpoint).await,
            Answer::Failed { reason, pause } => self.failed(endpoint, (number, letter), reason, pause).await,
        };
        if let Err(error) = written {
            // It is sent again, with the same id.
            self.pauses.lock().insert(number, Instant::now() + PERIOD);
            log_limited!(error, endpoint = endpoint.name, %error, "what became of a webhook is not on the device");
        }
        (number, endpoint.name.clone())
    }

    async fn failed(
        &self,
        endpoint: &WebhookEndpoint,
        (number, mut letter): (u64, Letter),
        reason: String,
        pause: Duration,
    ) -> Result<(), StateError> {
        let age_ms = unix_ms(SystemTime::now()).saturating_sub(letter.since_unix_ms);
        letter.is_dead = age_ms >= endpoint.retry_for_s.saturating_mul(1_000);
        if letter.is_dead {
            tracing::error!(endpoint = endpoint.name, id = letter.id, reason, "a webhook is given up");
        } else {
            log_limited!(warn, endpoint = endpoint.name, id = letter.id, reason, "a webhook was not delivered");
        }
        let next = backoff(endpoint.retry_backoff_ms_min, letter.attempts, jitter()).max(pause);
        self.pauses.lock().insert(number, Instant::now() + next);
        letter.last_error = Some(reason);
        self.book.edit(|draft| draft.put(number, letter)).await
    }

    /// 410: nothing is sent there any more, and what waits is dead.
    async fn gone(&self, endpoint: &WebhookEndpoint) -> Result<(), StateError> {
        tracing::error!(endpoint = endpoint.name, "a webhook's endpoint is gone (410): it is called no more");
        let edit = self.book.edit(|draft| {
            for (number, letter) in draft.waiting_of(&endpoint.name) {
                let last_error = Some("it answers 410".to_owned());
                draft.put(number, Letter { is_dead: true, last_error, ..letter });
            }
            if let Some(cursor) = draft.cursor(&endpoint.name) {
                draft.move_to(&endpoint.name, Cursor { gone: Some(endpoint.url.clone()), ..cursor });
            }
        });
        edit.await
    }
}

/// Between the `attempts`-th call and the next: doubling, and anywhere in the upper half of it.
fn backoff(min_ms: u64, attempts: u32, jitter: f64) -> Duration {
    let doubled = Duration::from_millis(min_ms).saturating_mul(1_u32 << attempts.saturating_sub(1).min(20));
    doubled.min(BACKOFF_MAX).mul_f64(jitter.mul_add(0.5, 0.5))
}

fn jitter() -> f64 {
    let mut byte = [128_u8];
    let _ = getrandom::fill(&mut byte);
    f64::from(byte[0]) / 256.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_hour_and_are_jittered() {
        let of = |attempts, jitter| backoff(1_000, attempts, jitter).as_millis();
        assert_eq!((of(1, 0.0), of(1, 1.0)), (500, 1_000));
        assert_eq!((of(4, 0.0), of(4, 1.0)), (4_000, 8_000));
        assert_eq!((of(30, 0.0), of(u32::MAX, 1.0)), (1_800_000, 3_600_000));
    }
}
