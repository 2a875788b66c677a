//! The revision of a slot: a digest over everything that decides what its recipes are.
//!
//! Nodes look for duplicates within one revision (`dedup_scope` in `variant`), and keep what they found under it. So the
//! digest of an unedited slot stays what it was in every former version. Invariants: every field is written by name and in
//! a fixed order; a field added to a recipe stops the build here, and is written only where it differs from its default.

use bildkante_shared::ids::Digest;
use bildkante_shared::recipe::{SchedulerChoice, SchedulerKind, SigmaSpacing, TimestepSpacing};
use bildkante_shared::weighting::Weighting;

use super::additions::{Additions, Control, Detail, Draft, Reference, Refiner};
use super::axes::Axis;
use super::layers::ImageUse;
use super::pins::Pins;
use super::slots::Slot;
use super::template::Part;

pub(super) fn generation_digest(slot: &Slot, axes: &[Axis], pins: &Pins) -> Digest {
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    let Some(generate) = slot.drawn() else {
        // Imports have no duplicates.
        return Digest::of_bytes(b"imported");
    };
    add(pins.checkpoint(&generate.checkpoint).as_bytes());
    add(scheduler(&generate.scheduler).as_bytes());
    for number in [generate.steps, generate.width_px, generate.height_px, generate.seed.base] {
        add(&number.to_le_bytes());
    }
    add(&generate.guidance.to_bits().to_le_bytes());
    add(generate.seed.per.as_str().as_bytes());
    add(generate.negative_prompt.as_bytes());
    if generate.additions != Additions::default() {
        add(additions(&generate.additions).as_bytes());
        let additions = &generate.additions;
        additions.networks().for_each(|name| add(pins.checkpoint(name).as_bytes()));
        additions.adapters().for_each(|name| add(pins.adapter(name).as_bytes()));
        additions.images().for_each(|name| add(pins.image(name).as_bytes()));
        for picture in additions.places().flat_map(|place| place.pictures(slot, axes)) {
            add(picture.name.as_bytes());
            add(pins.image(&picture.name).as_bytes());
        }
    }
    for part in generate.prompt.parts() {
        let Part::Axis(axis) = part else {
            let Part::Literal(literal) = part else { continue };
            add(literal.as_bytes());
            continue;
        };
        let axis = &axes[*axis];
        add(axis.name.as_bytes());
        for value in &axis.values {
            add(value.name.as_bytes());
            add(value.prompt.as_bytes());
        }
    }
    Digest::from_hash(&hasher.finalize())
}

fn scheduler(choice: &SchedulerChoice) -> String {
    let SchedulerChoice { kind, timestep_spacing, sigmas, zero_terminal_snr, prediction, eta, .. } = choice;
    let kind = option(kind.map(kind_name));
    let spacing = option(timestep_spacing.map(spacing_name));
    let (sigmas, snr) = (option(sigmas.map(sigmas_name)), option(*zero_terminal_snr));
    // Fields of later versions, where they say something.
    let prediction = prediction.map(|it| format!(", prediction: {}", it.as_str())).unwrap_or_default();
    let eta = eta.map(|it| format!(", eta: {}", decimal(it))).unwrap_or_default();
    let timesteps = some_list("timesteps", choice.timesteps.iter().map(ToString::to_string));
    let values = some_list("sigma_values", choice.sigma_values.iter().map(|sigma| decimal(*sigma)));
    format!(
        "SchedulerChoice {{ kind: {kind}, timestep_spacing: {spacing}, sigmas: {sigmas}, zero_terminal_snr: \
         {snr}{prediction}{eta}{timesteps}{values} }}"
    )
}

/// A field that is a list, where it has entries.
fn some_list(field: &str, items: impl ExactSizeIterator<Item = String>) -> String {
    if items.len() == 0 { String::new() } else { format!(", {field}: {}", list(items)) }
}

/// The words of former versions; of later ones any that no other has.
const fn kind_name(kind: SchedulerKind) -> &'static str {
    match kind {
        SchedulerKind::Ddim => "Ddim",
        SchedulerKind::Pndm => "Pndm",
        SchedulerKind::Euler => "Euler",
        SchedulerKind::EulerAncestral => "EulerAncestral",
        SchedulerKind::Heun => "Heun",
        SchedulerKind::DpmPp2M => "DpmPp2M",
        SchedulerKind::DpmPp2MSde => "DpmPp2MSde",
        SchedulerKind::UniPc => "UniPc",
        SchedulerKind::Lcm => "Lcm",
        later => later.as_str(),
    }
}

const fn spacing_name(spacing: TimestepSpacing) -> &'static str {
    match spacing {
        TimestepSpacing::Leading => "Leading",
        TimestepSpacing::Trailing => "Trailing",
        TimestepSpacing::Linspace => "Linspace",
    }
}

const fn sigmas_name(sigmas: SigmaSpacing) -> &'static str {
    match sigmas {
        SigmaSpacing::Trained => "Trained",
        SigmaSpacing::Karras => "Karras",
        SigmaSpacing::Exponential => "Exponential",
        later => later.as_str(),
    }
}

fn additions(additions: &Additions) -> String {
    let Additions {
        loras,
        embeddings,
        refiner: second,
        controls,
        references,
        draft,
        details,
        init,
        mask,
        depth,
        guidance_rescale,
        weighting,
        clip_skip,
    } = additions;
    let named = |(name, number): &(String, f64)| format!("({}, {})", quoted(name), decimal(*number));
    let loras = list(loras.iter().map(named));
    let refiner = option(second.as_ref().map(refiner));
    let controls = list(controls.iter().map(control));
    let (init, mask) = (option(init.as_ref().map(named)), option(mask.as_ref().map(image_use)));
    let rescale = decimal(*guidance_rescale);
    // Fields of later versions, where they say something.
    let weighting = match weighting {
        Weighting::Plain => "",
        Weighting::Brackets => ", weighting: Brackets",
    };
    let clip_skip = if *clip_skip == 0 { String::new() } else { format!(", clip_skip: {clip_skip}") };
    let word = |(name, token): &(String, String)| format!("({}, {})", quoted(name), quoted(token));
    let embeddings = some_list("embeddings", embeddings.iter().map(word));
    let depth = depth.as_ref().map(|image| format!(", depth: {}", image_use(image))).unwrap_or_default();
    let references = some_list("references", references.iter().map(reference));
    let draft = draft.as_ref().map(|draft| format!(", draft: {}", self::draft(draft))).unwrap_or_default();
    let details = some_list("details", details.iter().map(detail));
    format!(
        "Additions {{ loras: {loras}, refiner: {refiner}, controls: {controls}, init: {init}, mask: {mask}, \
         guidance_rescale: {rescale}{weighting}{clip_skip}{depth}{embeddings}{references}{draft}{details} }}"
    )
}

fn refiner(refiner: &Refiner) -> String {
    let Refiner { checkpoint, start, aesthetic_score, negative_aesthetic_score } = refiner;
    format!(
        "Refiner {{ checkpoint: {}, start: {}, aesthetic_score: {}, negative_aesthetic_score: {} }}",
        quoted(checkpoint),
        decimal(*start),
        decimal(*aesthetic_score),
        decimal(*negative_aesthetic_score)
    )
}

fn control(control: &Control) -> String {
    let Control { network, image, weight, start, end } = control;
    format!(
        "Control {{ network: {}, image: {}, weight: {}, start: {}, end: {} }}",
        quoted(network),
        image_use(image),
        decimal(*weight),
        decimal(*start),
        decimal(*end)
    )
}

fn reference(reference: &Reference) -> String {
    let Reference { adapter, encoder, image, weight, start, end, mask } = reference;
    format!(
        "Reference {{ adapter: {}, encoder: {}, image: {}, weight: {}, start: {}, end: {}, mask: {} }}",
        quoted(adapter),
        quoted(encoder),
        quoted(image),
        decimal(*weight),
        decimal(*start),
        decimal(*end),
        option(mask.as_ref().map(image_use))
    )
}

fn draft(draft: &Draft) -> String {
    let Draft { scale, strength, enlarge, steps, guidance, loras, controls } = draft;
    format!(
        "Draft {{ scale: {}, strength: {}, enlarge: {}, steps: {}, guidance: {}, loras: {}, controls: {} }}",
        decimal(*scale),
        decimal(*strength),
        enlarge.as_str(),
        option(*steps),
        option(guidance.map(decimal)),
        option(loras.as_deref().map(named_list)),
        list(controls.iter().map(control))
    )
}

/// Texts are told by their digests: they may hold anything.
fn detail(detail: &Detail) -> String {
    let Detail { mask, strength, steps, guidance, prompt, negative, loras } = detail;
    let text = |text: &Option<String>| option(text.as_ref().map(|text| Digest::of_bytes(text.as_bytes())));
    format!(
        "Detail {{ mask: {}, strength: {}, steps: {}, guidance: {}, prompt: {}, negative: {}, loras: {} }}",
        image_use(mask),
        decimal(*strength),
        option(*steps),
        option(guidance.map(decimal)),
        text(prompt),
        text(negative),
        option(loras.as_deref().map(named_list))
    )
}

fn named_list(names: &[(String, f64)]) -> String {
    list(names.iter().map(|(name, number)| format!("({}, {})", quoted(name), decimal(*number))))
}

fn option(value: Option<impl std::fmt::Display>) -> String {
    value.map_or_else(|| "None".to_owned(), |value| format!("Some({value})"))
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

/// A place is told by the names of its pictures beside this.
fn image_use(image: &ImageUse) -> String {
    match image {
        ImageUse::File(name) => quoted(name),
        ImageUse::Place(place) => format!("Place({})", place.told()),
    }
}

/// A name needs no escapes: it has letters, digits, `.`, `_` and `-` only.
fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

/// The shortest decimal that reads back as the same number, with at least one digit behind the point.
fn decimal(number: f64) -> String {
    format!("{number:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_are_those_of_former_versions() {
        let all = SchedulerChoice {
            kind: Some(SchedulerKind::DpmPp2MSde),
            timestep_spacing: Some(TimestepSpacing::Trailing),
            sigmas: Some(SigmaSpacing::Karras),
            zero_terminal_snr: Some(true),
            ..SchedulerChoice::default()
        };
        assert_eq!(
            scheduler(&all),
            "SchedulerChoice { kind: Some(DpmPp2MSde), timestep_spacing: Some(Trailing), sigmas: Some(Karras), \
             zero_terminal_snr: Some(true) }"
        );
        assert_eq!(
            scheduler(&SchedulerChoice::default()),
            "SchedulerChoice { kind: None, timestep_spacing: None, sigmas: None, zero_terminal_snr: None }"
        );
        let later = SchedulerChoice { eta: Some(0.5), timesteps: vec![800, 3], ..SchedulerChoice::default() };
        assert!(scheduler(&later).ends_with("zero_terminal_snr: None, eta: 0.5, timesteps: [800, 3] }"));
        let control = |image: &str| Control {
            network: "edges-1.0".into(),
            image: ImageUse::File(image.into()),
            weight: 0.5,
            start: 0.0,
            end: 1e-6,
        };
        let everything = Additions {
            loras: vec![("soft.v2".into(), 0.7), ("grain".into(), -1.0)],
            refiner: Some(Refiner {
                checkpoint: "refiner-1.0".into(),
                start: 0.8,
                aesthetic_score: 6.0,
                negative_aesthetic_score: 2.5,
            }),
            controls: vec![control("a.png"), control("b.png")],
            init: Some(("begin.png".into(), 0.6)),
            mask: Some(ImageUse::File("where.png".into())),
            guidance_rescale: 0.7,
            ..Additions::default()
        };
        assert_eq!(
            additions(&everything),
            "Additions { loras: [(\"soft.v2\", 0.7), (\"grain\", -1.0)], refiner: Some(Refiner { checkpoint: \
             \"refiner-1.0\", start: 0.8, aesthetic_score: 6.0, negative_aesthetic_score: 2.5 }), controls: [Control { \
             network: \"edges-1.0\", image: \"a.png\", weight: 0.5, start: 0.0, end: 1e-6 }, Control { network: \
             \"edges-1.0\", image: \"b.png\", weight: 0.5, start: 0.0, end: 1e-6 }], init: Some((\"begin.png\", 0.6)), \
             mask: Some(\"where.png\"), guidance_rescale: 0.7 }"
        );
        let read = Additions { weighting: Weighting::Brackets, clip_skip: 1, ..Additions::default() };
        assert!(additions(&read).ends_with("guidance_rescale: 0.0, weighting: Brackets, clip_skip: 1 }"));
        let taught = Additions { embeddings: vec![("teal.v1".into(), "<teal>".into())], ..Additions::default() };
        assert!(additions(&taught).ends_with("guidance_rescale: 0.0, embeddings: [(\"teal.v1\", \"<teal>\")] }"));
    }
}
