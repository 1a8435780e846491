//! Slots to take the places of others: with modules that were learned, or because those have grown old.
//!
//! Only starts them; [`super::keeper`] exchanges them while no run holds a place.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::slot::{Slot, SlotError};
use super::{Shared, keeper};

/// How long runs are listened to before what they told leads to new slots.
const GATHER: Duration = Duration::from_millis(200);

/// Starts a slot beside the others and has it wait for a place.
pub(super) async fn offer_spare(shared: &Shared) -> Result<(), SlotError> {
    let Ok(_starting) = shared.starting.acquire().await else { return Ok(()) };
    let mut spare = Slot::start(&shared.setup)?;
    let process = spare.process().await?;
    spare.park(process);
    shared.keeper.offer(spare);
    Ok(())
}

/// Makes slots of what runs told, until nothing new came in. No run waits for it.
pub(super) async fn renew(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(GATHER).await;
        let probing = Arc::clone(&shared);
        let changed =
            tokio::task::spawn_blocking(move || probing.setup.preload.renew(&probing.setup)).await;
        if matches!(changed, Ok(true)) {
            for _ in 0..shared.setup.options.slots {
                if let Err(error) = offer_spare(&shared).await {
                    tracing::warn!(event = "slot_replaced", error = %keeper::text(&error), "a slot with new modules could not be started");
                    break;
                }
            }
        }
        if shared.setup.closing.load(Ordering::Relaxed) || !shared.setup.preload.goes_on() {
            return;
        }
    }
}
