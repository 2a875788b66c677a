//! A report for people who read terminals.

use std::fmt::Write as _;

use serde_json::Value;

use crate::credentials::{Credentials, Finding, Standing};
use crate::provenance::Told;
use crate::verify::{FingerprintLayer, KnownMaster, Report, Verdict, WatermarkLayer};

pub(super) fn of(report: &Report) -> String {
    let file = &report.file;
    let mut out = format!("format    {}, {} bytes", file.format, file.bytes);
    if let (Some(width_px), Some(height_px)) = (file.width_px, file.height_px) {
        let _ = write!(out, ", {width_px}×{height_px} px");
    }
    let _ = writeln!(out, "\nsha-256   {}", file.sha256);
    push_c2pa(&mut out, &report.c2pa);
    push_metadata(&mut out, &report.metadata);
    push_watermark(&mut out, &report.watermark);
    push_fingerprint(&mut out, &report.fingerprint);
    let _ = writeln!(out, "in short  {}", said(report.verdict));
    out
}

const fn said(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Signed => "signed by somebody whom a trusted authority knows, and not changed since",
        Verdict::SignedByUnknown => "signed, and not changed since; whoever signed can call itself anything",
        Verdict::Broken => "it carries a signed history that does not hold",
        Verdict::Marked => "it is not signed, and other marks tell of its origin; marks can be removed and forged",
        Verdict::Nothing => "nothing was found, which proves nothing: marks can be removed",
    }
}

fn push_c2pa(out: &mut String, finding: &Finding) {
    match finding {
        Finding::Absent => out.push_str("c2pa      no manifest\n"),
        Finding::Elsewhere { url } => {
            let _ = writeln!(out, "c2pa      the manifest is at {url}: fetch it and name it with --manifest");
        }
        Finding::Valid { credentials } => {
            out.push_str("c2pa      valid: the picture is the one that was signed\n");
            push_credentials(out, credentials);
        }
        Finding::Invalid { failures, credentials } => {
            out.push_str("c2pa      INVALID\n");
            for failure in failures {
                let _ =
                    writeln!(out, "          {}: {} ({})", failure.kind.as_str(), failure.explanation, failure.code);
            }
            if let Some(credentials) = credentials {
                out.push_str("          what it claims, none of which is proven:\n");
                push_credentials(out, credentials);
            }
        }
    }
}

fn push_credentials(out: &mut String, credentials: &Credentials) {
    let by = credentials.signed_by.as_ref();
    let organisation = by.and_then(|by| by.organisation.as_deref()).unwrap_or("nobody named");
    let _ = writeln!(out, "  signer  {organisation}: {}", vouched(credentials.standing));
    let _ = writeln!(out, "  signed  {}", credentials.signed_at.as_deref().unwrap_or("at a time that nobody attests"));
    for action in &credentials.actions {
        let at = action.at.as_deref().map(|at| format!(", {at}")).unwrap_or_default();
        let source = action.source.as_deref().and_then(|uri| uri.rsplit('/').next());
        let source = source.map(|source| format!(" ({source})")).unwrap_or_default();
        let _ = writeln!(out, "  action  {}{source}{at}", action.action);
    }
    if let Some(generation) = &credentials.generation {
        let _ = writeln!(out, "  recipe  {}", generation.recipe);
        let _ = writeln!(out, "  master  {}", generation.master);
        if let Some(checkpoint) = &generation.checkpoint {
            let _ = writeln!(out, "  drawn by {checkpoint}");
        }
    }
}

const fn vouched(standing: Standing) -> &'static str {
    match standing {
        Standing::Trusted => "a trusted authority vouches for it",
        Standing::Unknown => "no trusted authority vouches for it",
    }
}

fn push_metadata(out: &mut String, told: &Told) {
    let _ = writeln!(out, "metadata  {}", told.source_term().unwrap_or("no digital source type"));
    for (name, value) in [
        ("model", &told.ai_system),
        ("creator", &told.creator),
        ("credit", &told.credit),
        ("rights", &told.copyright),
        ("licence", &told.licence),
        ("created", &told.created),
        ("software", &told.software),
    ] {
        if let Some(value) = value {
            let _ = writeln!(out, "  {name:<8}{value}");
        }
    }
    for unread in &told.unread {
        let _ = writeln!(out, "          {:?} cannot be read: {}", unread.block, unread.reason);
    }
}

fn push_watermark(out: &mut String, layer: &WatermarkLayer) {
    if layer.found.is_empty() && layer.unsearched.is_empty() {
        let _ = writeln!(out, "watermark none of {}", layer.searched.join(", "));
    }
    for found in &layer.found {
        let mark = &found.mark;
        let _ = write!(out, "watermark {} of {}", mark.value, mark.algorithm);
        if let Some(chance) = mark.chance_log10 {
            let _ = write!(out, "; the chance that it is none is at most 10^{chance:.1}");
        }
        out.push('\n');
        if let Some(key) = &mark.key {
            let forgeable = if key.is_published { ", which is published: anybody can write it" } else { "" };
            let _ = writeln!(out, "  key     {}{forgeable}", key.id);
        }
        if let Some(prefix) = &mark.master_prefix {
            let _ = writeln!(out, "  master  begins with {prefix}");
        }
        push_masters(out, &found.masters);
    }
    for unsearched in &layer.unsearched {
        let algorithm = unsearched.algorithm.as_deref().unwrap_or("any");
        let _ = writeln!(out, "watermark {algorithm} was not looked for: {}", unsearched.reason);
    }
}

fn push_fingerprint(out: &mut String, layer: &FingerprintLayer) {
    if let Some(value) = &layer.value {
        let _ = writeln!(out, "looks     {value}");
    }
    if layer.among.is_some() {
        let _ = writeln!(out, "          like {} of {} masters", layer.found.len(), layer.compared);
    }
    push_masters(out, &layer.found);
}

fn push_masters(out: &mut String, masters: &[KnownMaster]) {
    for known in masters {
        let distance = known.distance_bits.map(|bits| format!(", {bits} of 256 bits away")).unwrap_or_default();
        let url = known.url.as_deref().map(|url| format!(", at {url}")).unwrap_or_default();
        let _ = writeln!(out, "  master  {}{distance}{url}", known.master);
    }
}

/// A signed report, as far as it is told in words.
pub(super) fn of_result(report: &Value, organisation: &str, standing: Standing, is_of_picture: Option<bool>) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("not said").to_owned();
    let mut out = String::from("report    holds: it was not changed since it was signed\n");
    let _ = writeln!(out, "  signer  {organisation}: {}", vouched(standing));
    let _ = writeln!(out, "  checked {}, says the signer", text(&report["checked_at"]));
    let _ = writeln!(out, "  by      {}", text(&report["checked_by"]["software"]));
    let _ = writeln!(out, "  picture {}", text(&report["file"]["sha256"]));
    let same = match is_of_picture {
        None => "name the picture, and it is compared",
        Some(true) => "it is the picture that is named",
        Some(false) => "it is ANOTHER picture than the one that is named",
    };
    let _ = writeln!(out, "          {same}");
    let _ = writeln!(out, "  verdict {}", text(&report["verdict"]));
    let _ = writeln!(out, "  c2pa    {}", text(&report["c2pa"]["finding"]));
    let marks = report["watermark"]["found"].as_array().map_or(0, Vec::len);
    let _ = writeln!(out, "  marks   {marks}");
    out
}
