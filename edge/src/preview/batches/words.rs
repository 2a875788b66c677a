//! States, amounts and lengths of time as readers of either language write them.

use std::time::Duration;

use super::super::wording::number;
use crate::batch::record::BatchState;
use crate::language::Language;
use crate::warm::Cost;

pub(super) const fn state_words(state: BatchState, language: Language) -> &'static str {
    match state {
        BatchState::Queued => language.say("Waits for its turn", "Wartet, bis es an der Reihe ist"),
        BatchState::Running => language.say("Under way", "In Arbeit"),
        BatchState::Paused => language.say("Paused", "Angehalten"),
        BatchState::Done => language.say("Done", "Fertig"),
        BatchState::Cancelled => language.say("Ended early", "Abgebrochen"),
        BatchState::Refused => language.say("Failed as a whole", "Als Ganzes gescheitert"),
    }
}

/// With one decimal, below ten.
fn decimal(value: f64, language: Language) -> String {
    if value >= 10.0 {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive amount, told in whole units"
        )]
        return number(value.round() as usize, language);
    }
    let text = format!("{value:.1}");
    match language {
        Language::English => text,
        Language::German => text.replace('.', ","),
    }
}

/// Time of devices, as it is paid.
pub(super) fn seconds(ms: f64, language: Language) -> String {
    format!("{} s", decimal(ms / 1e3, language))
}

pub(super) fn bytes(bytes: u64, language: Language) -> String {
    #[allow(clippy::cast_precision_loss, reason = "it is told with two digits")]
    let bytes = bytes as f64;
    let units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let (unit, name) = units.into_iter().find(|(unit, _)| bytes >= *unit).unwrap_or((1.0, "B"));
    if name == "B" { format!("{bytes:.0} B") } else { format!("{} {name}", decimal(bytes / unit, language)) }
}

pub(in crate::preview) fn cost(cost: &Cost, language: Language) -> String {
    let amount = match language {
        Language::English => cost.amount.clone(),
        Language::German => cost.amount.replace('.', ","),
    };
    format!("{amount} {}", cost.currency)
}

pub(super) fn duration(time: Duration, language: Language) -> String {
    let seconds = time.as_secs();
    let hours = language.say("h", "Std.");
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} {hours} {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_as_each_language_writes_them() {
        use Language::{English, German};
        assert_eq!([bytes(999, English), bytes(1_500, German)], ["999 B", "1,5 kB"]);
        assert_eq!([bytes(12_400_000, English), bytes(3_200_000_000, German)], ["12 MB", "3,2 GB"]);
        assert_eq!([seconds(1_250.0, English), seconds(4_321_000.0, German)], ["1.2 s", "4.321 s"]);
        assert_eq!(duration(Duration::from_secs(59), English), "59 s");
        assert_eq!(duration(Duration::from_secs(61), English), "1 min 1 s");
        assert_eq!(duration(Duration::from_secs(7_260), German), "2 Std. 1 min");
        let price = Cost { amount: "0.4200".into(), currency: "EUR".into() };
        assert_eq!([cost(&price, English), cost(&price, German)], ["0.4200 EUR", "0,4200 EUR"]);
    }
}
