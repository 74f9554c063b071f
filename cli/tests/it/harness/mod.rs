//! What every story needs: a broker, a project with its lake, the binary as a child, and the truth.
//!
//! ```text
//!   Feed (what was sent, and where it went) ──────────────┐
//!      │ Broker                                           ▼
//!      └────> deltaworks stream (Child) ──> lake ──> oracle::verify
//! ```
//! [`Broker`] knows nothing of mocks.

pub mod broker;
pub mod cases;
pub mod child;
pub mod endpoint;
pub mod events;
pub mod openlineage;
pub mod oracle;
pub mod project;

pub use broker::{Broker, MockBroker};
pub use child::{Child, Ended};
pub use events::{Event, Rng};
pub use oracle::Feed;
pub use project::Project;

use std::time::{Duration, Instant};

/// How long anything may take before a test is called stuck. Generous: the machine may be loaded.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `ready`, or fails naming `what`.
pub fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !ready() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
