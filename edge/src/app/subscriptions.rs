//! Which parts take over which keys of a configuration file that changed; `config/edge.toml` says of each that it is reloaded.
//!
//! The parts know their own sections; only this module knows both them and the reload.

use bildkante_shared::telemetry::{self, FilterChange};

use crate::admin::AdminApi;
use crate::governance::Downstream;
use crate::listener::forwarded::Trusted;
use crate::reload::ConfigReload;
use crate::webhooks::Webhooks;
use crate::words::Epoch;

/// Keys that say which caches further down are purged, and how.
const DOWNSTREAM: &[&str] = &[
    "purge.downstream",
    "purge.confirm_deadline_ms",
    "purge.retry_backoff_ms_min",
    "purge.retry_backoff_ms_max",
    "purge.retry_for_s",
    "purge.call_timeout_ms",
];

/// `log.filter` is in force when it changes, unless the environment's `RUST_LOG` is set.
pub(super) fn log_filter(reload: &ConfigReload) {
    reload.subscribe(&["log.filter"], |config| {
        let filter = config.log.filter.clone();
        Ok(Box::new(move || match telemetry::set_filter(&filter) {
            Ok(FilterChange::InForce) => {}
            Ok(FilterChange::Overruled) => {
                tracing::warn!("`log.filter` changes nothing: RUST_LOG in the environment wins")
            }
            Err(error) => tracing::error!(%error, "`log.filter` changes nothing"),
        }))
    });
}

/// Proxies whose word about the client is taken.
pub(super) fn trusted_proxies(reload: &ConfigReload, trusted: &Trusted) {
    let trusted = trusted.clone();
    reload.subscribe(&["listen.trusted_proxies", "listen.forwarded_field"], move |config| {
        let (trusted, proxies) = (trusted.clone(), config.listen.trusted());
        Ok(Box::new(move || trusted.replace(proxies)))
    });
}

/// Tokens, the proxy that names people, lifetimes of sessions, and the bound of bodies.
pub(super) fn admin_api(reload: &ConfigReload, api: &AdminApi) {
    let api = api.clone();
    reload.subscribe(&["admin"], move |config| {
        let (api, admin) = (api.clone(), config.admin.clone());
        Ok(Box::new(move || api.reconfigure(&admin)))
    });
}

/// Caches further down. Whether there is one decides how long answers live: those that were made before lapse.
pub(crate) fn downstream(reload: &ConfigReload, downstream: &Downstream, epoch: Epoch) {
    let downstream = downstream.clone();
    reload.subscribe(DOWNSTREAM, move |config| {
        let prepared = downstream.prepare(&config.purge).map_err(|error| error.to_string())?;
        let (downstream, epoch) = (downstream.clone(), epoch.clone());
        Ok(Box::new(move || {
            downstream.put_in_force(prepared);
            epoch.advance();
        }))
    });
}

/// Endpoints that are told of decisions.
pub(super) fn webhooks(reload: &ConfigReload, webhooks: &Webhooks) {
    let webhooks = webhooks.clone();
    reload.subscribe(&["webhooks"], move |config| {
        let (webhooks, prepared) =
            (webhooks.clone(), Webhooks::prepare(&config.webhooks).map_err(|error| error.to_string())?);
        Ok(Box::new(move || webhooks.put_in_force(prepared)))
    });
}
