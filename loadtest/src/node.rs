//! A node that sleeps instead of drawing. It speaks what edges speak (ARCHITECTURE.md, "Edge and node"), needs no GPU and
//! takes no processor time, so that cores are not what a scenario runs out of.
//!
//! Equal recipes are joined and afterwards answered from memory, as a real node does. A picture is a gradient whose
//! colours follow from the recipe id: the same recipe gives the same bits, after a restart too.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bildkante_shared::ids::{MasterId, RecipeId};
use bildkante_shared::limits::GENERATION_BODY_BYTES_MAX;
use bildkante_shared::phash::PerceptualHash;
use bildkante_shared::pixels::Pixels;
use bildkante_shared::problem::Problem;
use bildkante_shared::recipe::ValidRecipe;
use bildkante_shared::wire::{Determinism, GenerationReply, GenerationRequest, GenerationSource, MasterInfo, Timings};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::{OnceCell, Semaphore};
use tokio::task::JoinSet;

use crate::args::NodeArgs;

/// Pictures remembered; a scenario asks for fewer.
const PICTURES_MAX: usize = 200_000;

/// See the module's documentation.
#[derive(Debug)]
pub struct SleepingNode {
    listener: TcpListener,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    name: String,
    draw: Duration,
    places: Semaphore,
    /// Drawing and waiting generations together.
    under_way: AtomicU64,
    under_way_max: u64,
    generations: AtomicU64,
    pictures: Mutex<HashMap<RecipeId, Arc<OnceCell<MasterInfo>>>>,
    masters: Mutex<HashMap<MasterId, Bytes>>,
}

/// Counts a generation as under way until it is dropped.
struct UnderWay<'a>(&'a AtomicU64);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SleepingNode {
    /// # Errors
    /// When the address is taken.
    pub async fn bind(args: &NodeArgs) -> std::io::Result<Self> {
        let listener = TcpListener::bind(args.listen).await?;
        let state = Arc::new(State {
            name: format!("sleeping-{}", listener.local_addr()?.port()),
            draw: Duration::from_millis(args.draw_ms),
            places: Semaphore::new(args.at_once as usize),
            under_way: AtomicU64::new(0),
            under_way_max: u64::from(args.at_once) + u64::from(args.queue),
            generations: AtomicU64::new(0),
            pictures: Mutex::default(),
            masters: Mutex::default(),
        });
        Ok(Self { listener, state })
    }

    /// # Errors
    /// When the socket is gone.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until it is dropped.
    pub async fn serve(self) {
        let mut connections = JoinSet::new();
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(50)).await; // out of files: neither spin nor end
                continue;
            };
            let state = Arc::clone(&self.state);
            connections.spawn(async move {
                let service = service_fn(move |request| {
                    let state = Arc::clone(&state);
                    async move { Ok::<_, Infallible>(state.answer(request).await) }
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
            while connections.try_join_next().is_some() {}
        }
    }
}

impl State {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::POST, "/v1/generations") => self.generate(request).await,
            (&Method::GET, "/livez" | "/readyz") => json(StatusCode::OK, &serde_json::json!({ "ready": true })),
            (&Method::GET, "/v1/checkpoints") => json(StatusCode::OK, &serde_json::json!([])),
            (&Method::GET, "/metrics") => self.metrics(),
            (&Method::GET, path) => match path.strip_prefix("/v1/masters/").and_then(|id| id.parse().ok()) {
                Some(id) => self.master(id),
                None => problem(404, "not-found", "nothing is here"),
            },
            _ => problem(405, "method-not-allowed", "this is not done here"),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let generations = self.generations.load(Ordering::Relaxed);
        Response::new(Full::from(format!("bildkante_loadtest_node_generations_total {generations}\n")))
    }

    fn master(&self, id: MasterId) -> Response<Full<Bytes>> {
        let found = self.masters.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        let Some(png) = found else { return problem(404, "not-found", "this master was not drawn here") };
        let mut response = Response::new(Full::from(png));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("image/png"));
        response
    }

    async fn generate(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let Ok(body) = Limited::new(request.into_body(), GENERATION_BODY_BYTES_MAX).collect().await else {
            return problem(413, "too-large", "the body is too long or broke off");
        };
        let recipe = serde_json::from_slice::<GenerationRequest>(&body.to_bytes())
            .map_err(|error| error.to_string())
            .and_then(|request| ValidRecipe::try_from(request.recipe).map_err(|error| error.to_string()));
        let recipe = match recipe {
            Ok(recipe) => recipe,
            Err(reason) => return problem(422, "invalid-recipe", &reason),
        };
        let Some(cell) = self.cell(recipe.id()) else { return problem(503, "full", "no room for further pictures") };
        if let Some(master) = cell.get() {
            return self.reply(&recipe, master, GenerationSource::Stored);
        }
        let _under_way = UnderWay(&self.under_way);
        if self.under_way.fetch_add(1, Ordering::Relaxed) >= self.under_way_max {
            let mut response = problem(429, "queue-full", "the queue is full");
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            return response;
        }
        let mut source = GenerationSource::Joined;
        match cell.get_or_try_init(|| self.draw(&recipe, &mut source)).await {
            Ok(master) => self.reply(&recipe, master, source),
            Err(reason) => problem(500, "failed", &reason),
        }
    }

    fn cell(&self, recipe: RecipeId) -> Option<Arc<OnceCell<MasterInfo>>> {
        let mut pictures = self.pictures.lock().unwrap_or_else(PoisonError::into_inner);
        if pictures.len() >= PICTURES_MAX && !pictures.contains_key(&recipe) {
            return None;
        }
        Some(Arc::clone(pictures.entry(recipe).or_default()))
    }

    /// One caller at a time is here for a recipe; when it goes away, the next one begins anew.
    async fn draw(&self, recipe: &ValidRecipe, source: &mut GenerationSource) -> Result<MasterInfo, String> {
        let _place = self.places.acquire().await.map_err(|error| error.to_string())?;
        self.generations.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(self.draw).await;
        let pixels = paint(recipe)?;
        let png = encode(&pixels)?;
        let master = MasterInfo {
            id: pixels.master_id(),
            width_px: pixels.width_px(),
            height_px: pixels.height_px(),
            phash: PerceptualHash::from_bytes([0; 32]),
            bytes: png.len() as u64,
            created_unix_ms: None,
        };
        self.masters.lock().unwrap_or_else(PoisonError::into_inner).insert(master.id, png.into());
        *source = GenerationSource::Generated;
        Ok(master)
    }

    fn reply(&self, recipe: &ValidRecipe, master: &MasterInfo, source: GenerationSource) -> Response<Full<Bytes>> {
        let reply = GenerationReply {
            recipe_id: recipe.id(),
            master: master.clone(),
            duplicate: None,
            timings: Timings::default(),
            gpu_ms: 0.0,
            determinism: Determinism { class: "sleeping".into(), device: "none".into(), runtime: "none".into() },
            node: self.name.clone(),
            source,
        };
        json(StatusCode::OK, &reply)
    }
}

/// From one colour at the top left to another at the bottom right.
fn paint(recipe: &ValidRecipe) -> Result<Pixels, String> {
    let (width, height) = (recipe.width_px, recipe.height_px);
    let id = recipe.id();
    let [r0, g0, b0, r1, g1, b1, ..] = *id.as_bytes();
    let mix = |from: u8, to: u8, at: u32, of: u32| ((u32::from(from) * (of - at) + u32::from(to) * at) / of) as u8;
    let mut rgb = Vec::with_capacity(width as usize * height as usize * 3);
    let of = (width + height).max(1);
    for y in 0..height {
        for x in 0..width {
            rgb.extend([mix(r0, r1, x + y, of), mix(g0, g1, x + y, of), mix(b0, b1, x + y, of)]);
        }
    }
    Pixels::new(width, height, rgb).map_err(|error| error.to_string())
}

fn encode(pixels: &Pixels) -> Result<Vec<u8>, String> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, pixels.width_px(), pixels.height_px());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header().map_err(|error| error.to_string())?;
    writer.write_image_data(pixels.rgb()).map_err(|error| error.to_string())?;
    writer.finish().map_err(|error| error.to_string())?;
    Ok(file)
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(serde_json::to_vec(value).unwrap_or_default()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn problem(status: u16, kind: &str, detail: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(Problem::new(status, kind, "Not done", detail).to_json()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}

#[cfg(test)]
mod tests {
    use bildkante_shared::ids::Digest;
    use bildkante_shared::recipe::Recipe;

    use super::*;

    #[test]
    fn a_recipe_gives_the_same_bits_each_time_and_another_gives_others() {
        let recipe = |seed| {
            ValidRecipe::try_from(Recipe {
                seed,
                steps: 2,
                guidance: 1.0,
                ..Recipe::new(Digest::of_bytes(b"any"), "a mug", (64, 32))
            })
            .expect("a recipe")
        };
        let id = |seed| paint(&recipe(seed)).expect("painted").master_id();
        assert_eq!(id(1), id(1));
        assert_ne!(id(1), id(2));
        let file = encode(&paint(&recipe(1)).expect("painted")).expect("encoded");
        assert!(file.starts_with(b"\x89PNG\r\n\x1a\n"));
    }
}
