//! TLS of the public and of the admin listener.

use std::sync::Arc;

use anyhow::Context;
use prometheus::Registry;

use crate::config::Config;
use crate::listener::tls::{ReloadableTls, TlsError, TlsMetrics};

/// What speaks TLS.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) public: Option<Arc<ReloadableTls>>,
    pub(super) admin: Option<Arc<ReloadableTls>>,
}

impl Tls {
    pub(super) fn each(&self) -> impl Iterator<Item = &Arc<ReloadableTls>> {
        self.public.iter().chain(&self.admin)
    }
}

pub(super) async fn open_tls(config: &Config, registry: &Registry) -> anyhow::Result<Tls> {
    let (public, admin) = (config.listen.tls.clone(), config.listen.admin_tls.clone());
    let metrics = TlsMetrics::new(registry)?;
    let opened = tokio::task::spawn_blocking(move || {
        let public = public.map(|config| ReloadableTls::load(&config, &metrics)).transpose()?.map(Arc::new);
        let admin = admin.map(|config| ReloadableTls::load_admin(&config, &metrics)).transpose()?.map(Arc::new);
        Ok::<_, TlsError>(Tls { public, admin })
    });
    opened.await?.context("TLS cannot be served")
}
