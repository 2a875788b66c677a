//! What a running edge takes over from its own configuration file, without a restart.
//!
//! The file is read again when it changes and on SIGHUP. It is parsed and checked as at a start; a file that is broken
//! changes nothing, is reported once, and sets a metric. Of a valid file the keys that a part subscribed to are put in
//! force; the log names the others that changed, because they need a restart.
//!
//! To make a key reloadable, subscribe to it in `app/subscriptions.rs` (or later, through [`Edge::config`]):
//!
//! ```ignore
//! reload.subscribe(&["listen.trusted_proxies", "listen.forwarded_field"], move |config| {
//!     let trusted = config.listen.trusted();          // prepare: may fail, changes nothing
//!     let shared = Arc::clone(&shared);
//!     Ok(Box::new(move || shared.store(Arc::new(trusted)))) // put in force: cannot fail
//! });
//! ```
//!
//! and say in `config/edge.toml` that the key is. A name covers all keys below it (`admin` covers `admin.tokens`).
//!
//! Invariants: everything that changed is put in force or nothing; subscribers are called on a thread that may block, one
//! reload at a time. What can be wrong with a value belongs into [`Config::load`], so that `check` finds it, too.
//!
//! [`Edge::config`]: crate::app::Edge::config

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::ids::Digest;
use bildkante_shared::shutdown::{Shutdown, Ticks};
use parking_lot::{Mutex, RwLock};
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use serde::Deserialize;
use tokio::task::JoinHandle;
use toml::{Table, Value};

use crate::config::{Config, ReloadConfig};
use crate::text_file;
use crate::words::ReloadOutcome;

/// Puts in force what was prepared.
pub(crate) type Apply = Box<dyn FnOnce() + Send>;
type Prepare = Box<dyn Fn(&Config) -> Result<Apply, String> + Send + Sync>;

struct Subscriber {
    keys: &'static [&'static str],
    prepare: Prepare,
}

#[derive(Debug, Clone)]
struct ReloadMetrics {
    reloads: IntCounterVec,
    is_valid: IntGauge,
    restart_keys: IntGauge,
}

impl ReloadMetrics {
    fn new(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            reloads: IntCounterVec::new(
                Opts::new(
                    "bildkante_edge_config_reloads_total",
                    "Changes of the configuration file by outcome: reloaded, or refused as invalid",
                ),
                &["outcome"],
            )?,
            is_valid: IntGauge::new(
                "bildkante_edge_config_valid",
                "1 while the configuration file is valid, 0 while it is not and the last valid state stays in force",
            )?,
            restart_keys: IntGauge::new(
                "bildkante_edge_config_restart_keys",
                "Keys of the configuration file that changed and need a restart",
            )?,
        };
        for outcome in [ReloadOutcome::Reloaded, ReloadOutcome::Refused] {
            metrics.reloads.with_label_values(&[outcome.as_str()]).inc_by(0);
        }
        metrics.is_valid.set(1);
        registry.register(Box::new(metrics.reloads.clone()))?;
        registry.register(Box::new(metrics.is_valid.clone()))?;
        registry.register(Box::new(metrics.restart_keys.clone()))?;
        Ok(metrics)
    }
}

/// See the module's documentation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ConfigReload {
    inner: Arc<Inner>,
}

struct Inner {
    /// `None` where the configuration is not from a file, and nothing is ever reloaded.
    path: Option<PathBuf>,
    subscribers: RwLock<Vec<Subscriber>>,
    state: Mutex<State>,
    metrics: ReloadMetrics,
}

/// One look at a time changes it.
struct State {
    /// The text that the last look saw.
    seen: Digest,
    /// What is in force.
    running: Table,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfigReload").field("path", &self.path).finish_non_exhaustive()
    }
}

impl ConfigReload {
    /// # Errors
    /// When a metric of the same name is registered already.
    pub fn new(config: &Config, registry: &Registry) -> prometheus::Result<Self> {
        let file = config.file.as_ref();
        let text = file.map(|file| file.text.as_str()).unwrap_or_default();
        let state = State { seen: digest_of(Ok(text)), running: text.parse().unwrap_or_default() };
        let inner = Inner {
            path: file.map(|file| file.path.clone()),
            subscribers: RwLock::default(),
            state: Mutex::new(state),
            metrics: ReloadMetrics::new(registry)?,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// `prepare` is called with each valid configuration in which one of `keys` changed. It returns what puts the new
    /// state in force, or says why it cannot: then nothing of the file is put in force.
    pub fn subscribe(
        &self,
        keys: &'static [&'static str],
        prepare: impl Fn(&Config) -> Result<Apply, String> + Send + Sync + 'static,
    ) {
        self.inner.subscribers.write().push(Subscriber { keys, prepare: Box::new(prepare) });
    }

    /// Watches the file until shutdown. A task of its own; it ends at once where there is no file.
    #[must_use]
    pub fn watch(&self, config: &ReloadConfig, shutdown: Shutdown) -> JoinHandle<()> {
        let (reload, period) = (self.clone(), Duration::from_millis(config.reload_ms));
        tokio::spawn(async move {
            if reload.inner.path.is_none() {
                return;
            }
            let mut ticks = Ticks::every(period, shutdown);
            while ticks.next().await.is_some() {
                reload.reload_now().await;
            }
        })
    }

    /// Looks at the file now.
    pub async fn reload_now(&self) -> ReloadOutcome {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || inner.look()).await.unwrap_or_else(|error| {
            tracing::error!(%error, "reading the configuration failed; the last valid state stays in force");
            ReloadOutcome::Refused
        })
    }
}

impl Inner {
    fn look(&self) -> ReloadOutcome {
        let Some(path) = &self.path else { return ReloadOutcome::Unchanged };
        let mut state = self.state.lock();
        let text = text_file::read(path).map_err(|error| format!("{}: {error}", path.display()));
        let digest = digest_of(text.as_deref());
        if digest == state.seen {
            return ReloadOutcome::Unchanged;
        }
        state.seen = digest;
        let outcome = match text.and_then(|text| self.take_over(&mut state, path, &text)) {
            Ok(()) => {
                self.metrics.is_valid.set(1);
                ReloadOutcome::Reloaded
            }
            Err(reason) => {
                self.metrics.is_valid.set(0);
                tracing::error!(%reason, "configuration refused, the last valid state stays in force");
                ReloadOutcome::Refused
            }
        };
        self.metrics.reloads.with_label_values(&[outcome.as_str()]).inc();
        outcome
    }

    fn take_over(&self, state: &mut State, path: &Path, text: &str) -> Result<(), String> {
        let config = Config::parse(path, text).map_err(|error| error.to_string())?;
        let table: Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
        let changed = changed_keys(&state.running, &table);
        let subscribers = self.subscribers.read();
        let is_taken = |key: &String| subscribers.iter().any(|subscriber| subscriber.covers(key));
        let (taken, restart): (Vec<String>, Vec<String>) = changed.into_iter().partition(is_taken);
        let concerned = subscribers.iter().filter(|it| taken.iter().any(|key| it.covers(key)));
        let prepared: Vec<Apply> = concerned.map(|it| (it.prepare)(&config)).collect::<Result<_, _>>()?;
        for apply in prepared {
            apply();
        }
        for key in &taken {
            put(&mut state.running, key, get(&table, key).cloned());
        }
        self.metrics.restart_keys.set(i64::try_from(restart.len()).unwrap_or(i64::MAX));
        if !taken.is_empty() {
            tracing::info!(keys = taken.join(", "), "configuration reloaded");
        }
        if !restart.is_empty() {
            tracing::warn!(keys = restart.join(", "), "these keys of the configuration changed and need a restart");
        }
        Ok(())
    }
}

impl Subscriber {
    fn covers(&self, key: &str) -> bool {
        let is_below = |name: &str| key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        self.keys.iter().any(|name| is_below(name))
    }
}

/// The keys, dotted, by which two configurations differ in meaning: a default that is spelt out is no difference.
fn changed_keys(running: &Table, new: &Table) -> Vec<String> {
    let mut keys = BTreeSet::new();
    leaves(running, "", &mut keys);
    leaves(new, "", &mut keys);
    let meaning = |table: &Table| Config::deserialize(Value::Table(table.clone())).ok();
    let before = meaning(running);
    let differs = |key: &String| {
        let value = get(new, key);
        if value == get(running, key) {
            return false;
        }
        let mut alone = running.clone();
        put(&mut alone, key, value.cloned());
        // What has no meaning alone (a certificate without its key) is a difference.
        meaning(&alone).is_none_or(|after| before.as_ref() != Some(&after))
    };
    keys.into_iter().filter(differs).collect()
}

fn leaves(table: &Table, prefix: &str, keys: &mut BTreeSet<String>) {
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        match value {
            Value::Table(inner) => leaves(inner, &format!("{key}."), keys),
            _ => drop(keys.insert(key)),
        }
    }
}

fn get<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => table.get(key),
        Some((first, rest)) => get(table.get(first)?.as_table()?, rest),
    }
}

fn put(table: &mut Table, key: &str, value: Option<Value>) {
    match (key.split_once('.'), value) {
        (None, Some(value)) => drop(table.insert(key.to_owned(), value)),
        (None, None) => drop(table.remove(key)),
        (Some((first, rest)), value) => {
            let inner = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                put(inner, rest, value);
                if inner.is_empty() {
                    table.remove(first);
                }
            }
        }
    }
}

/// An error is as much a state of the file as a text.
fn digest_of(text: Result<&str, &String>) -> Digest {
    let (mark, text) = match text {
        Ok(text) => (&b"text"[..], text),
        Err(error) => (&b"error"[..], error.as_str()),
    };
    Digest::of_bytes(&[mark, text.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        dir: tempfile::TempDir,
        reload: ConfigReload,
        registry: Registry,
        /// The purge answers' wait and the admin bodies' bound that are in force.
        in_force: Arc<Mutex<(u64, usize)>>,
    }

    impl Bench {
        fn start(text: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("edge.toml");
            std::fs::write(&path, text).unwrap();
            let registry = Registry::new();
            let config = Config::load(&path).unwrap();
            let reload = ConfigReload::new(&config, &registry).unwrap();
            let in_force = Arc::new(Mutex::new((config.purge.answer_wait_ms, config.admin.body_bytes_max)));
            let shared = Arc::clone(&in_force);
            reload.subscribe(&["purge.answer_wait_ms"], move |config| {
                let (shared, wait) = (Arc::clone(&shared), config.purge.answer_wait_ms);
                Ok(Box::new(move || shared.lock().0 = wait))
            });
            let shared = Arc::clone(&in_force);
            reload.subscribe(&["admin"], move |config| {
                let (shared, bytes) = (Arc::clone(&shared), config.admin.body_bytes_max);
                if bytes == 13 {
                    return Err("13 brings bad luck".to_owned());
                }
                Ok(Box::new(move || shared.lock().1 = bytes))
            });
            Self { dir, reload, registry, in_force }
        }

        async fn write(&self, text: &str) -> ReloadOutcome {
            std::fs::write(self.dir.path().join("edge.toml"), text).unwrap();
            self.reload.reload_now().await
        }

        fn gauge(&self, name: &str) -> f64 {
            let family = self.registry.gather().into_iter().find(|family| family.name() == name).unwrap();
            family.get_metric()[0].get_gauge().get_value()
        }
    }

    #[tokio::test]
    async fn subscribed_keys_are_taken_over_and_others_wait_for_a_restart() {
        let bench = Bench::start("[purge]\nanswer_wait_ms = 1\n[cache]\nflights_max = 7\n");
        assert_eq!(bench.reload.reload_now().await, ReloadOutcome::Unchanged);
        let text = "[purge]\nanswer_wait_ms = 2\n[cache]\nflights_max = 8\n[admin]\nbody_bytes_max = 99\n";
        assert_eq!(bench.write(text).await, ReloadOutcome::Reloaded);
        assert_eq!(*bench.in_force.lock(), (2, 99));
        assert_eq!(bench.gauge("bildkante_edge_config_restart_keys"), 1.0, "cache.flights_max");
        // Taken back, no restart is needed; a default that is spelt out is no change.
        let text = "[purge]\nanswer_wait_ms = 2\n[cache]\nflights_max = 7\ndisk_errors_max = 5\n";
        assert_eq!(bench.write(text).await, ReloadOutcome::Reloaded);
        assert_eq!(*bench.in_force.lock(), (2, 64 << 10), "a key that is gone is at its default again");
        assert_eq!(bench.gauge("bildkante_edge_config_restart_keys"), 0.0);
    }

    #[tokio::test]
    async fn a_broken_file_changes_nothing_and_says_so() {
        let bench = Bench::start("[purge]\nanswer_wait_ms = 1\n");
        let refused = [
            "[purge]\nanswer_wait_ms = 2\nunknown = 1\n",
            "[purge]\nanswer_wait_ms = 3\n[limits]\nconnections_max = 0\n",
            "[purge",
            // A subscriber that cannot: the others change nothing either.
            "[purge]\nanswer_wait_ms = 4\n[admin]\nbody_bytes_max = 13\n",
        ];
        for text in refused {
            assert_eq!(bench.write(text).await, ReloadOutcome::Refused, "{text}");
            assert_eq!(*bench.in_force.lock(), (1, 64 << 10));
            assert_eq!(bench.gauge("bildkante_edge_config_valid"), 0.0);
            assert_eq!(bench.reload.reload_now().await, ReloadOutcome::Unchanged, "reported once");
        }
        std::fs::remove_file(bench.dir.path().join("edge.toml")).unwrap();
        assert_eq!(bench.reload.reload_now().await, ReloadOutcome::Refused);
        assert_eq!(bench.write("[purge]\nanswer_wait_ms = 5\n").await, ReloadOutcome::Reloaded);
        assert_eq!((bench.in_force.lock().0, bench.gauge("bildkante_edge_config_valid")), (5, 1.0));
    }

    #[test]
    fn differences_are_named_by_their_keys() {
        let of = |running: &str, new: &str| changed_keys(&running.parse().unwrap(), &new.parse().unwrap());
        assert_eq!(
            of("", "[listen.tls]\ncertificate = 'a'\nkey = 'b'\n"),
            ["listen.tls.certificate", "listen.tls.key"]
        );
        assert_eq!(of("[limits]\nidle_ms = 1\n", ""), ["limits.idle_ms"]);
        assert_eq!(of("[limits]\nidle_ms = 60_000\n", ""), [""; 0]);
        let tokens = format!("[[admin.tokens]]\nname = 'a'\nhash = '{}'\nscopes = []\n", Digest::of_bytes(b""));
        assert_eq!(of("", &tokens), ["admin.tokens"]);
    }
}
