//! What the program calls things, in the words of those who look at pictures: steps of a history, reasons, answers to a miss.

use crate::campaign::{MissPolicy, Stopgap};
use crate::language::Language;
use crate::shared_state::Reason;

/// A step of a history; one that has no words here keeps its own.
pub(super) fn step(step: &str, language: Language) -> String {
    let say = |english, german| language.say(english, german);
    let words = match step {
        "submit" => say("put before reviewers", "vorgelegt"),
        "report" => say("reported by a gate", "von einer Prüfung gemeldet"),
        "approve" => say("approved", "freigegeben"),
        "reject" => say("rejected", "abgelehnt"),
        "request_changes" => say("changes requested", "Änderung gewünscht"),
        "undo" => say("taken back", "zurückgenommen"),
        "pause" => say("paused", "angehalten"),
        "resume" => say("resumed", "fortgesetzt"),
        "escalate" => say("passed on", "weitergegeben"),
        "kill" => say("killed", "gesperrt"),
        "lift" => say("kill lifted", "Sperre aufgehoben"),
        other => return other.replace('_', " "),
    };
    words.to_owned()
}

/// Why readers are not shown a picture.
pub(super) const fn reason(reason: Reason, language: Language) -> &'static str {
    match reason {
        Reason::Killed(_) => language.say("it is killed", "es ist gesperrt"),
        Reason::PartsUnknown => language.say(
            "a part of some recipe is killed, and it is not known whether this picture has it",
            "ein Teil eines Rezepts ist gesperrt, und ob dieses Bild ihn hat, ist nicht bekannt",
        ),
        Reason::Stale => language.say(
            "this edge has long heard nothing of its fleet",
            "dieser Server hat lange nichts von den anderen gehört",
        ),
        Reason::Awaiting => language.say("it awaits a decision", "es wartet auf eine Entscheidung"),
        Reason::RightsEnded => language.say("a right has ended", "ein Recht ist abgelaufen"),
    }
}

/// How a miss is answered.
pub(super) fn miss_policy(policy: MissPolicy, language: Language) -> String {
    match policy {
        MissPolicy::Wait { wait_ms, then } => {
            let seconds = f64::from(wait_ms) / 1_000.0;
            let stopgap = stopgap(then, language);
            match language {
                Language::English => format!("readers wait up to {seconds} s for it, then get {stopgap}"),
                Language::German => {
                    let seconds = seconds.to_string().replace('.', ",");
                    format!("Leser warten bis zu {seconds} s darauf, danach bekommen sie {stopgap}")
                }
            }
        }
        MissPolicy::Fallback | MissPolicy::Placeholder => {
            let stopgap = stopgap(policy.stopgap(), language);
            format!("{} {stopgap}", language.say("readers get", "Leser bekommen"))
        }
    }
}

const fn stopgap(stopgap: Stopgap, language: Language) -> &'static str {
    match stopgap {
        Stopgap::Fallback => language.say("the slot's default picture", "das Standardbild des Platzes"),
        Stopgap::Placeholder => language.say("a placeholder", "einen Platzhalter"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_the_readers() {
        assert_eq!(step("request_changes", Language::German), "Änderung gewünscht");
        assert_eq!(step("some_later_step", Language::English), "some later step");
        let wait = MissPolicy::Wait { wait_ms: 1_500, then: Stopgap::Placeholder };
        let german = "Leser warten bis zu 1,5 s darauf, danach bekommen sie einen Platzhalter";
        assert_eq!(miss_policy(wait, Language::German), german);
        assert_eq!(miss_policy(MissPolicy::Fallback, Language::English), "readers get the slot's default picture");
    }
}
