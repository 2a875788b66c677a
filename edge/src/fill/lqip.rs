//! LQIPs: made when a picture is rendered, remembered in its recipe's binding.
//!
//! Invariants: one is made only where none is known of this master, finish and cut, so a second width costs nothing; markup asks what
//! is known and has nothing decoded; what people decided for is looked up under its own recipe.

use std::sync::Arc;

use bildkante_shared::log_limited;

use super::Fill;
use super::rendition::Cut;
use crate::cache::LqipKey;
use crate::render::{Lqip, LqipAsk};
use crate::resolve::Want;

fn key(cut: Cut<'_>) -> LqipKey {
    LqipKey::new(cut.master, cut.spec, cut.finish.digest())
}

impl Fill {
    /// What a page may show before the picture that is wanted; `None` until it was rendered here.
    pub(crate) fn lqip(&self, want: &Want) -> Option<Lqip> {
        let binding = self.masters.binding(want)?;
        self.known_lqip(Cut::of(want, &binding))
    }

    fn known_lqip(&self, cut: Cut<'_>) -> Option<Lqip> {
        let own = self.caches.bindings.get(cut.recipe).filter(|own| own.master == cut.master)?;
        own.lqips.get(key(cut))
    }

    /// What is asked of the rendering of this cut.
    pub(super) fn lqip_ask(&self, cut: Cut<'_>) -> LqipAsk {
        if self.known_lqip(cut).is_some() { LqipAsk::None } else { LqipAsk::Wanted }
    }

    /// Remembers it without a wait: the commit is a task of its own.
    pub(super) fn learn_lqip(&self, cut: Cut<'_>, lqip: Lqip) {
        let (recipe, master, learned) = (cut.recipe, cut.master, (key(cut), lqip));
        let caches = Arc::clone(&self.caches);
        tokio::spawn(async move {
            if let Err(error) = caches.bindings.learn_lqip(recipe, master, learned).await {
                log_limited!(warn, %recipe, %error, "the LQIP of a picture is not remembered");
            }
        });
    }
}
