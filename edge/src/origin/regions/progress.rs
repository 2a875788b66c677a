//! How far a drawing is, as the node tells that has it: for pages that show people what they wait for.

use std::sync::Arc;
use std::time::Duration;

use bildkante_shared::ids::RecipeId;
use bildkante_shared::wire::GenerationStatus;

use super::Regions;

impl Regions {
    /// Asks the node that draws a recipe for this edge, else the one that would. `None` where that one does not know it, or does not
    /// answer in time: this tells people something and decides nothing, so no other node is asked, and no node counts as failed.
    pub async fn progress(&self, recipe: RecipeId, wait: Duration) -> Option<GenerationStatus> {
        let own = self.drawing.lock().get(&recipe).map(Arc::clone);
        let node = own.or_else(|| Some(self.candidates(recipe.as_bytes()).into_iter().next()?.node))?;
        let status = tokio::time::timeout(wait, node.client.status(recipe)).await.ok()?;
        status.ok().flatten().filter(|status| status.recipe_id == recipe)
    }
}
