//! Adapters at a node: found, asked for per request, and gone without a trace afterwards.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bildkante_gpu_node::config::NodeConfig;
use bildkante_gpu_node::engine::{Engine, EngineError};
use bildkante_gpu_node::health::Phase;
use bildkante_gpu_node::worker::torch_engine;
use bildkante_shared::ids::{Digest, MasterId};
use bildkante_shared::recipe::{
    ControlUse, DetailUse, DraftUse, EmbeddingUse, Enlarge, LoraUse, Recipe, ReferenceUse, RefinerUse, ValidRecipe,
};
use bildkante_shared::wire::{AdapterInfo, CheckpointInfo};
use support::{Wish, request};
use tempfile::TempDir;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

/// A models folder with two checkpoints and all adapters, by links; and one file that is no adapter.
fn models() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["sd1-tiny", "sdxl-tiny", "sdxl-refiner-tiny", "sd2-depth-tiny"] {
        std::os::unix::fs::symlink(fixtures().join("checkpoints").join(name), dir.path().join(name)).unwrap();
    }
    let adapters = dir.path().join("adapters");
    std::fs::create_dir(&adapters).unwrap();
    for (folder, name) in [("encoders", "image-tiny"), ("guides", "sdxl-sketch")] {
        std::os::unix::fs::symlink(fixtures().join(folder).join(name), dir.path().join(name)).unwrap();
    }
    for folder in ["adapters", "embeddings", "references"] {
        for entry in std::fs::read_dir(fixtures().join(folder)).unwrap() {
            let entry = entry.unwrap();
            std::os::unix::fs::symlink(entry.path(), adapters.join(entry.file_name())).unwrap();
        }
    }
    std::fs::write(adapters.join("broken.safetensors"), b"no adapter").unwrap();
    std::fs::write(adapters.join("notes.txt"), b"no adapter either").unwrap();
    dir
}

fn config(models: &TempDir) -> NodeConfig {
    NodeConfig { models_dir: models.path().to_owned(), threads: 1, models_poll_ms: 100, ..NodeConfig::default() }
}

fn digest(adapters: &[AdapterInfo], name: &str) -> Digest {
    adapters.iter().find(|known| known.name == name).unwrap().digest
}

struct Desk {
    engine: Box<dyn Engine>,
    _models: TempDir,
}

impl Desk {
    fn new() -> Self {
        Self::of(models())
    }

    fn of(models: TempDir) -> Self {
        let engine = torch_engine(&config(&models))().unwrap();
        Self { engine, _models: models }
    }

    fn lora(&self, name: &str, weight: f64) -> LoraUse {
        LoraUse { digest: digest(&self.engine.adapters(), name), weight }
    }

    fn recipe(&self, checkpoint: &str, loras: Vec<LoraUse>) -> Arc<ValidRecipe> {
        let known = self.engine.checkpoints();
        let checkpoint = known.iter().find(|known| known.name == checkpoint).unwrap().digest;
        let recipe = Recipe { steps: 2, seed: 7, loras, ..Recipe::new(checkpoint, "a teal mug", (32, 32)) };
        Arc::new(ValidRecipe::try_from(recipe).unwrap())
    }

    fn draw(&mut self, recipe: &Arc<ValidRecipe>) -> Result<MasterId, EngineError> {
        Ok(self.engine.draw(recipe, &mut |_, _| ControlFlow::Continue(()))?.pixels.master_id())
    }
}

#[test]
fn an_adapter_acts_in_its_own_request_only() {
    let mut desk = Desk::new();
    for (checkpoint, first, second) in [("sd1-tiny", "sd1.kohya", "sd1.peft"), ("sdxl-tiny", "sdxl.kohya", "sdxl.peft")]
    {
        let plain = desk.recipe(checkpoint, vec![]);
        let before = desk.draw(&plain).unwrap();
        let one = desk.recipe(checkpoint, vec![desk.lora(first, 0.8)]);
        let two = desk.recipe(checkpoint, vec![desk.lora(first, 0.8), desk.lora(second, 0.5)]);
        let (with_one, with_two) = (desk.draw(&one).unwrap(), desk.draw(&two).unwrap());
        assert!(before != with_one && with_one != with_two && before != with_two, "{checkpoint}");
        assert_eq!(desk.draw(&one).unwrap(), with_one, "{checkpoint}: adapters add up");
        // More sets of networks than are kept.
        for step in 0..12 {
            let other = desk.recipe(checkpoint, vec![desk.lora(second, 0.1 * f64::from(step))]);
            desk.draw(&other).unwrap();
        }
        assert_eq!(desk.draw(&two).unwrap(), with_two, "{checkpoint}: put together again, it draws something else");
        assert_eq!(desk.draw(&plain).unwrap(), before, "{checkpoint}: an adapter stays behind");
    }
}

#[test]
fn a_word_means_its_vectors_in_its_own_request_only() {
    let mut desk = Desk::new();
    let word = |desk: &Desk, name: &str, token: &str| EmbeddingUse {
        digest: digest(&desk.engine.adapters(), name),
        token: token.to_owned(),
    };
    let of = |plain: &ValidRecipe, prompt: &str, embeddings: Vec<EmbeddingUse>| {
        let recipe = Recipe { prompt: prompt.to_owned(), embeddings, ..(**plain).clone() };
        Arc::new(ValidRecipe::try_from(recipe).unwrap())
    };
    let refiner = desk.recipe("sdxl-refiner-tiny", vec![]).checkpoint;
    let xl = desk.recipe("sdxl-tiny", vec![desk.lora("sdxl.kohya", 0.8)]);
    let refined = Recipe { refiner: Some(RefinerUse::new(refiner, 0.5)), ..(**xl).clone() };
    let refined = Arc::new(ValidRecipe::try_from(refined).unwrap());
    for (plain, file) in [(desk.recipe("sd1-tiny", vec![]), "sd1.one"), (xl, "sdxl.two"), (refined, "sdxl.two")] {
        let unknown = of(&plain, "a <teal-mug>", vec![]);
        let before = desk.draw(&unknown).unwrap();
        let known = of(&plain, "a <teal-mug>", vec![word(&desk, file, "<teal-mug>")]);
        let with = desk.draw(&known).unwrap();
        assert_ne!(before, with, "{file}");
        // A word that the prompt has not changes nothing.
        let absent = of(&plain, "a <teal-mug>", vec![word(&desk, file, "<absent>")]);
        assert_eq!(desk.draw(&absent).unwrap(), before, "{file}");
        let renamed = of(&plain, "a <absent>", vec![word(&desk, file, "<absent>")]);
        assert_eq!(desk.draw(&renamed).unwrap(), with, "{file}: only the vectors count");
        desk.engine.free_memory();
        assert_eq!((desk.draw(&known).unwrap(), desk.draw(&unknown).unwrap()), (with, before), "{file}");
    }
    let sd1 = desk.recipe("sd1-tiny", vec![]);
    for (checkpoint, embedding, reason) in [
        ("sd1-tiny", word(&desk, "sdxl.two", "<mug>"), "a second text encoder"),
        ("sdxl-tiny", word(&desk, "sd1.one", "<mug>"), "this checkpoint has another"),
        ("sd1-tiny", word(&desk, "sd1.peft", "<mug>"), "sd1.peft is a LoRA"),
        ("sd1-tiny", word(&desk, "sd1.one", "a"), "a word of CLIP's already"),
    ] {
        let recipe = of(&desk.recipe(checkpoint, vec![]), "a mug", vec![embedding]);
        let Err(EngineError::Refused { reason: said }) = desk.draw(&recipe) else { panic!("{checkpoint}: {reason}") };
        assert!(said.contains(reason), "{said}");
    }
    let lora = LoraUse { digest: word(&desk, "sd1.one", "x").digest, weight: 1.0 };
    let Err(EngineError::Refused { reason }) = desk.draw(&desk.recipe("sd1-tiny", vec![lora])) else {
        panic!("a LoRA")
    };
    assert!(reason.contains("sd1.one is textual inversion"), "{reason}");
    let elsewhere = EmbeddingUse { digest: Digest::of_bytes(b"elsewhere"), token: "<mug>".into() };
    let missing = Err(EngineError::Missing(elsewhere.digest));
    assert_eq!(desk.draw(&of(&sd1, "a mug", vec![elsewhere])), missing);
}

/// A desk with the images of the fixtures.
fn desk_with_images() -> (Desk, TempDir) {
    let (models, data) = (models(), tempfile::tempdir().unwrap());
    let config = NodeConfig { data_dir: data.path().to_owned(), ..config(&models) };
    let blobs = data.path().join("blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    for entry in std::fs::read_dir(fixtures().join("images")).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let name = format!("{}.png", Digest::of_bytes(&bytes).to_string().replace(':', "-"));
        std::fs::write(blobs.join(name), bytes).unwrap();
    }
    let engine = torch_engine(&config)().unwrap();
    (Desk { engine, _models: models }, data)
}

fn image(name: &str) -> Digest {
    Digest::of_bytes(&std::fs::read(fixtures().join("images").join(name)).unwrap())
}

#[test]
fn a_reference_image_acts_in_its_own_request_only_and_by_weight_span_and_mask() {
    let (mut desk, _data) = desk_with_images();
    let encoder = desk.engine.checkpoints().into_iter().find(|known| known.name == "image-tiny").unwrap().digest;
    let used = |desk: &Desk, file: &str| ReferenceUse {
        adapter: digest(&desk.engine.adapters(), file),
        encoder,
        image: image("wide.png"),
        weight: 0.8,
        start: 0.0,
        end: 1.0,
        mask: None,
    };
    let of = |plain: &ValidRecipe, references: Vec<ReferenceUse>| {
        Arc::new(ValidRecipe::try_from(Recipe { references, ..(**plain).clone() }).unwrap())
    };
    for (checkpoint, files) in [("sd1-tiny", ["sd1.plain", "sd1.plus"]), ("sdxl-tiny", ["sdxl.plain", "sdxl.plus"])] {
        let plain = desk.recipe(checkpoint, vec![]);
        let before = desk.draw(&plain).unwrap();
        for file in files {
            let base = used(&desk, file);
            let with = desk.draw(&of(&plain, vec![base.clone()])).unwrap();
            assert_ne!(before, with, "{file}");
            for (other, what) in [
                (ReferenceUse { weight: 0.4, ..base.clone() }, "weight"),
                (ReferenceUse { image: image("picture.png"), ..base.clone() }, "image"),
                (ReferenceUse { start: 0.5, ..base.clone() }, "start"),
                (ReferenceUse { end: 0.5, ..base.clone() }, "end"),
                (ReferenceUse { mask: Some(image("mask.png")), ..base.clone() }, "mask"),
            ] {
                let drawn = desk.draw(&of(&plain, vec![other])).unwrap();
                assert!(drawn != with && drawn != before, "{file}: {what} has no effect");
            }
            let nothing = ReferenceUse { weight: 0.0, ..base.clone() };
            assert_eq!(desk.draw(&of(&plain, vec![nothing])).unwrap(), before, "{file}");
            desk.engine.free_memory();
            assert_eq!(desk.draw(&of(&plain, vec![base])).unwrap(), with, "{file}: read again it is another");
        }
        assert_eq!(desk.draw(&plain).unwrap(), before, "{checkpoint}: a reference stays behind");
    }
    let plain = desk.recipe("sd1-tiny", vec![]);
    // A mask of another size covers the picture.
    let wide = ReferenceUse { mask: Some(image("wide.png")), ..used(&desk, "sd1.plain") };
    desk.draw(&of(&plain, vec![wide])).unwrap();
    for (other, reason) in [
        (used(&desk, "sd1.one"), "sd1.one is textual inversion, and the recipe wants an IP-Adapter"),
        (used(&desk, "sdxl.plain"), "sdxl.plain"),
    ] {
        let Err(EngineError::Refused { reason: said }) = desk.draw(&of(&plain, vec![other])) else {
            panic!("{reason}")
        };
        assert!(said.contains(reason), "{said}");
    }
    let missing = Digest::of_bytes(b"elsewhere");
    let elsewhere = ReferenceUse { encoder: missing, ..used(&desk, "sd1.plain") };
    assert_eq!(desk.draw(&of(&plain, vec![elsewhere])), Err(EngineError::Missing(missing)));
}

#[test]
fn a_sketch_and_a_map_of_depth_act_in_their_own_request_only() {
    let (mut desk, _data) = desk_with_images();
    let sketch = desk.engine.checkpoints().into_iter().find(|known| known.name == "sdxl-sketch").unwrap();
    let of = |recipe: Recipe| Arc::new(ValidRecipe::try_from(recipe).unwrap());
    let plain = desk.recipe("sdxl-tiny", vec![]);
    let before = desk.draw(&plain).unwrap();
    let control =
        |file: &str, weight| ControlUse { network: sketch.digest, image: image(file), weight, start: 0.0, end: 1.0 };
    let held = |controls: Vec<ControlUse>| of(Recipe { controls, ..(**plain).clone() });
    let [one, other, weaker, twice] = [
        held(vec![control("edges.png", 1.0)]),
        held(vec![control("picture.png", 1.0)]),
        held(vec![control("edges.png", 0.5)]),
        held(vec![control("edges.png", 0.5), control("edges.png", 0.5)]),
    ]
    .map(|recipe| desk.draw(&recipe).unwrap());
    assert!(before != one && one != other && one != weaker && weaker != twice);
    desk.engine.free_memory();
    assert_eq!(desk.draw(&held(vec![control("edges.png", 1.0)])).unwrap(), one);
    assert_eq!(desk.draw(&plain).unwrap(), before);
    let depth = desk.recipe("sd2-depth-tiny", vec![]);
    let Err(EngineError::Refused { reason }) = desk.draw(&depth) else { panic!("it needs a map") };
    assert!(reason.contains("it needs `depth`"), "{reason}");
    let told = |file: &str| of(Recipe { depth: Some(image(file)), ..(**depth).clone() });
    let [near, far] = ["depth.png", "wide.png"].map(|file| desk.draw(&told(file)).unwrap());
    assert_ne!(near, far);
    let foreign = Recipe { controls: vec![control("edges.png", 1.0)], ..(**told("depth.png")).clone() };
    let error = desk.draw(&of(foreign)).map_or_else(|error| error.to_string(), |_| "drawn".into());
    assert!(error.contains("T2I-Adapter's feature of shape"), "{error}");
    let Err(EngineError::Refused { reason }) =
        desk.draw(&of(Recipe { depth: Some(image("depth.png")), ..(**plain).clone() }))
    else {
        panic!("no other checkpoint is told depth")
    };
    assert!(reason.contains("`depth` is for checkpoints that are told it"), "{reason}");
}

const DRAFT: DraftUse = DraftUse {
    width_px: 16,
    height_px: 16,
    strength: 0.6,
    enlarge: Enlarge::Pixels,
    steps: Some(4),
    guidance: None,
    loras: None,
    controls: Vec::new(),
};

#[test]
fn a_picture_in_parts_is_one_drawing_and_each_part_has_its_own_adapters() {
    let (mut desk, _data) = desk_with_images();
    let detail = || DetailUse {
        mask: image("mask.png"),
        strength: 0.5,
        steps: Some(4),
        guidance: None,
        prompt: None,
        negative_prompt: None,
        loras: None,
    };
    let plain = Recipe { steps: 5, ..(**desk.recipe("sd1-tiny", vec![])).clone() };
    let of = |recipe: Recipe| Arc::new(ValidRecipe::try_from(recipe).unwrap());
    let drafted = |draft: DraftUse| Recipe { draft: Some(draft), ..plain.clone() };
    let lora = desk.lora("sd1.kohya", 0.8);
    let recipes = [
        of(plain.clone()),
        of(drafted(DRAFT)),
        of(drafted(DraftUse { enlarge: Enlarge::Latents, ..DRAFT })),
        of(drafted(DraftUse { strength: 1.0, ..DRAFT })),
        of(drafted(DraftUse { loras: Some(vec![lora.clone()]), ..DRAFT })),
        of(Recipe { loras: vec![lora.clone()], ..drafted(DRAFT) }),
        of(Recipe { loras: vec![lora.clone()], ..drafted(DraftUse { loras: Some(vec![]), ..DRAFT }) }),
        of(Recipe { details: vec![detail()], ..plain.clone() }),
        of(Recipe { details: vec![DetailUse { prompt: Some("a rim".into()), ..detail() }], ..plain.clone() }),
        of(Recipe { details: vec![DetailUse { loras: Some(vec![lora]), ..detail() }], ..plain.clone() }),
        of(Recipe { details: vec![detail(), detail()], ..drafted(DRAFT) }),
    ];
    let masters: Vec<MasterId> = recipes.iter().map(|recipe| desk.draw(recipe).unwrap()).collect();
    let distinct: std::collections::HashSet<_> = masters.iter().collect();
    assert_eq!(distinct.len(), masters.len(), "a field has no effect: {masters:?}");

    // Step by step beside others, its progress counts over all parts, and nothing changes its bits.
    let begun: Vec<_> = recipes[1..].iter().map(|recipe| desk.engine.begin(recipe).unwrap()).collect();
    let mut progress = vec![(0, 0); begun.len()];
    while begun.iter().any(|drawing| !desk.engine.is_done(*drawing)) {
        for (drawing, before) in begun.iter().zip(&mut progress) {
            if desk.engine.is_done(*drawing) {
                continue;
            }
            if desk.engine.is_between_parts(*drawing) {
                desk.engine.go_on(*drawing).unwrap();
            }
            desk.engine.step(&[*drawing]).unwrap().remove(0).unwrap();
            let (done, of) = desk.engine.progress(*drawing);
            assert!(done == before.0 + 1 && (before.1 == 0 || of == before.1), "{before:?}, then {done} of {of}");
            *before = (done, of);
        }
        desk.engine.free_memory();
    }
    for (drawing, master) in begun.into_iter().zip(&masters[1..]) {
        assert_eq!(desk.engine.finish(drawing).unwrap().pixels.master_id(), *master);
    }
    // It stops after any step, between parts as well, and leaves nothing behind.
    for stop in 1..=9 {
        let stopped = desk.engine.draw(&recipes[10], &mut |done, _| match done {
            done if done == stop => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        assert_eq!(stopped.map(|finished| finished.pixels.master_id()), Err(EngineError::Stopped), "step {stop}");
    }
    assert_eq!(desk.draw(&recipes[10]).unwrap(), masters[10]);
    let unknown = DetailUse { mask: Digest::of_bytes(b"elsewhere"), ..detail() };
    let missing = of(Recipe { details: vec![unknown], ..plain });
    assert_eq!(desk.draw(&missing), Err(EngineError::Missing(Digest::of_bytes(b"elsewhere"))));
}

/// Waits until the engine has taken over a change after which `is_so`.
fn refreshed(desk: &mut Desk, what: &str, is_so: impl Fn(&dyn Engine) -> bool) {
    let since = Instant::now();
    loop {
        let _ = desk.engine.refresh();
        if is_so(desk.engine.as_ref()) {
            return;
        }
        assert!(since.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_adapter_that_goes_and_a_checkpoint_that_is_replaced_stay_for_the_drawings_that_have_begun_with_them() {
    let mut desk = Desk::new();
    desk.engine.watch(Arc::new(|| ()));
    let recipe = desk.recipe("sd1-tiny", vec![desk.lora("sd1.kohya", 0.8)]);
    let expected = desk.draw(&recipe).unwrap();
    let drawing = desk.engine.begin(&recipe).unwrap();
    desk.engine.step(&[drawing]).unwrap().remove(0).unwrap();

    let models = desk._models.path().to_owned();
    std::fs::remove_file(models.join("adapters/sd1.kohya.safetensors")).unwrap();
    let offered = desk.engine.adapters().len();
    refreshed(&mut desk, "the adapter is gone", |engine| engine.adapters().len() < offered);
    // Neither a device that is short of memory nor as many other networks as are kept take it from under the drawing.
    desk.engine.free_memory();
    for step in 0..12 {
        let other = desk.recipe("sd1-tiny", vec![desk.lora("sd1.peft", 0.1 * f64::from(step))]);
        desk.draw(&other).unwrap();
    }
    while !desk.engine.is_done(drawing) {
        desk.engine.step(&[drawing]).unwrap().remove(0).unwrap();
    }

    // Its checkpoint is replaced by another one of the same name: both are there until the drawing is over.
    let before = desk.engine.capacity().footprints.len();
    let link = models.join("sd1-tiny");
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(fixtures().join("checkpoints/sd2-tiny"), &link).unwrap();
    let old = recipe.checkpoint;
    refreshed(&mut desk, "the checkpoint is replaced", |engine| {
        let known = engine.checkpoints();
        known.len() == 6 && known.iter().all(|known| known.digest != old)
    });
    assert_eq!(desk.engine.capacity().footprints.len(), before + 1, "one more is resident");
    assert!(desk.engine.refresh().is_none(), "nothing has changed since");
    let finished = desk.engine.finish(drawing).unwrap();
    assert_eq!(finished.pixels.master_id(), expected);
    // Only now is it gone, and what there is for drawings was measured without it; that is reported.
    assert_eq!(desk.engine.capacity().footprints.len(), before);
    assert!(desk.engine.refresh().is_some(), "the change is told");
    assert_eq!(desk.draw(&recipe), Err(EngineError::Missing(old)));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}

#[test]
fn an_adapter_that_goes_stays_for_a_drawing_that_names_its_checkpoint_by_a_former_digest() {
    let models = models();
    let folder = models.path().join("sd1-tiny");
    std::fs::remove_file(&folder).unwrap();
    copy(&fixtures().join("checkpoints/sd1-tiny"), &folder);
    // It counted once, and counts no more.
    std::fs::write(folder.join("notes.txt"), b"from last spring").unwrap();
    let mut desk = Desk::of(models);
    desk.engine.watch(Arc::new(|| ()));
    let known = desk.engine.checkpoints().into_iter().find(|known| known.name == "sd1-tiny").unwrap();
    let former = *known.formers.first().unwrap();
    assert_ne!(former, known.digest);
    let now = desk.recipe("sd1-tiny", vec![desk.lora("sd1.kohya", 0.8)]);
    let then = Recipe { checkpoint: former, ..(**now).clone() };
    let then = Arc::new(ValidRecipe::try_from(then).unwrap());
    let expected = desk.draw(&then).unwrap();
    let drawing = desk.engine.begin(&then).unwrap();
    desk.engine.step(&[drawing]).unwrap().remove(0).unwrap();
    std::fs::remove_file(desk._models.path().join("adapters/sd1.kohya.safetensors")).unwrap();
    let offered = desk.engine.adapters().len();
    refreshed(&mut desk, "the adapter is gone", |engine| engine.adapters().len() < offered);
    desk.engine.free_memory();
    while !desk.engine.is_done(drawing) {
        desk.engine.step(&[drawing]).unwrap().remove(0).unwrap();
    }
    assert_eq!(desk.engine.finish(drawing).unwrap().pixels.master_id(), expected);
    // Behind the last drawing its networks go.
    assert!(matches!(desk.draw(&then), Err(EngineError::Missing(_))));
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let mut desk = Desk::new();
    for (checkpoint, adapter) in [("sd1-tiny", "sdxl.kohya"), ("sdxl-tiny", "sd1.kohya"), ("sd1-tiny", "sdxl.peft")] {
        let recipe = desk.recipe(checkpoint, vec![desk.lora(adapter, 1.0)]);
        let Err(EngineError::Refused { reason }) = desk.draw(&recipe) else { panic!("{checkpoint} took {adapter}") };
        assert!(reason.contains(adapter), "{reason}");
    }
    let unknown = Digest::of_bytes(b"elsewhere");
    let recipe = desk.recipe("sd1-tiny", vec![LoraUse { digest: unknown, weight: 1.0 }]);
    assert_eq!(desk.draw(&recipe), Err(EngineError::Missing(unknown)));
    assert!(desk.engine.rejected().iter().any(|reason| reason.contains("broken.safetensors")));
    // Nothing of that keeps the engine from drawing.
    desk.draw(&desk.recipe("sd1-tiny", vec![desk.lora("sd1.peft", 1.0)])).unwrap();
}

#[tokio::test]
async fn a_node_lists_its_adapters_and_says_which_are_missing() {
    let models = models();
    let wish = Wish::default().config(|edited| {
        let NodeConfig { models_dir, threads, .. } = config(&models);
        (edited.models_dir, edited.threads) = (models_dir, threads);
    });
    let factory = torch_engine(&wish.config);
    let node = wish.start_with(factory, Arc::default()).await;
    assert_eq!(node.node.settled().await, Phase::Ready);
    let listed: Vec<AdapterInfo> = serde_json::from_slice(&node.client.get("/v1/adapters").await.body).unwrap();
    assert_eq!(listed.len(), 15);
    let checkpoints = node.client.get("/v1/checkpoints").await;
    let checkpoints: Vec<CheckpointInfo> = serde_json::from_slice(&checkpoints.body).unwrap();
    let families: Vec<&str> = checkpoints.iter().map(|known| known.family.as_str()).collect();
    assert_eq!(families, ["image-encoder", "sd1", "sd2", "sdxl-refiner", "t2i-adapter", "sdxl"]);
    let mut asked = request("a teal mug");
    asked.recipe.checkpoint = checkpoints[5].digest;
    (asked.recipe.width_px, asked.recipe.height_px, asked.deadline_ms) = (32, 32, 60_000);
    asked.recipe.loras = vec![LoraUse { digest: digest(&listed, "sdxl.peft"), weight: 0.5 }];
    let drawn = node.client.post(&asked).await.reply();
    assert_eq!((drawn.master.width_px, drawn.master.height_px), (32, 32));
    let elsewhere = Digest::of_bytes(b"elsewhere");
    asked.recipe.loras.push(LoraUse { digest: elsewhere, weight: 0.5 });
    let response = node.client.post(&asked).await;
    assert_eq!((response.status.as_u16(), response.problem().missing), (424, vec![elsewhere.to_string()]));
    asked.recipe.loras.pop();
    asked.recipe.embeddings = vec![EmbeddingUse { digest: elsewhere, token: "<mug>".into() }];
    let response = node.client.post(&asked).await;
    assert_eq!((response.status.as_u16(), response.problem().missing), (424, vec![elsewhere.to_string()]));
    asked.recipe.embeddings.clear();
    asked.recipe.references = vec![ReferenceUse {
        adapter: elsewhere,
        encoder: Digest::of_bytes(b"encoder"),
        image: image("wide.png"),
        weight: 1.0,
        start: 0.0,
        end: 1.0,
        mask: None,
    }];
    let response = node.client.post(&asked).await;
    let missing = [Digest::of_bytes(b"encoder"), elsewhere, image("wide.png")].map(|digest| digest.to_string());
    assert_eq!((response.status.as_u16(), response.problem().missing), (424, missing.to_vec()));
    asked.recipe.references.clear();
    asked.recipe.prompt = "a <jug>".into();
    let without = node.client.post(&asked).await.reply();
    asked.recipe.embeddings = vec![EmbeddingUse { digest: digest(&listed, "sdxl.two"), token: "<jug>".into() }];
    assert_ne!(node.client.post(&asked).await.reply().master.id, without.master.id);
    asked.recipe.embeddings.clear();
    // A checkpoint of another family: the caller's fault, and the node serves on.
    asked.recipe.loras = vec![LoraUse { digest: digest(&listed, "sd1.kohya"), weight: 0.5 }];
    let response = node.client.post(&asked).await;
    assert_eq!(response.status.as_u16(), 422);
    assert!(response.problem().detail.contains("sd1.kohya"), "{}", response.problem().detail);
    asked.recipe.loras.clear();
    node.client.post(&asked).await.reply();
}
