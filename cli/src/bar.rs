//! The live line of a batch run: units, rows/s, bytes read, and an ETA by bytes.
//!
//! On a terminal one bar moves; elsewhere the same figures go out as log fields every ten seconds.

use crate::logging::Screen;
use deltaworks_jobs::batch::meter::Meter;
use indicatif::{HumanBytes, HumanCount};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// Shows the meter until `stop`.
pub async fn watch(meter: Arc<Meter>, screen: Screen, stop: CancellationToken) {
    let bar = screen.bar("batch", "{prefix:.bold} {bar:24} {percent:>3}% eta {eta} · {msg}");
    let (mut at, mut rows_before) = (Instant::now(), 0);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(screen.every()) => {}
        }
        let [units, done, bytes, read, rows] =
            [&meter.units, &meter.units_done, &meter.bytes, &meter.bytes_read, &meter.rows].map(|n| n.load(Relaxed));
        let rows_s = (rows.saturating_sub(rows_before) as f64 / at.elapsed().as_secs_f64().max(1e-3)) as u64;
        (at, rows_before) = (Instant::now(), rows);
        match &bar {
            Some(bar) => {
                bar.set_length(bytes);
                bar.set_position(read);
                bar.set_message(format!(
                    "{done} of {units} units · {} rows/s · {} of {}",
                    HumanCount(rows_s),
                    HumanBytes(read),
                    HumanBytes(bytes)
                ));
            }
            None => tracing::info!(units, done, rows, rows_s, bytes, read, "computing"),
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
}
