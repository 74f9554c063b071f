//! The live line of a batch run: units, rows/s, bytes read, and an ETA by bytes.
//!
//! On a terminal one bar moves; elsewhere the same figures go out as log fields every ten seconds.

use crate::logging::Screen;
use deltaworks_jobs::batch::meter::Meter;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const TICK: Duration = Duration::from_millis(250);
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Shows the meter until `stop`.
pub async fn watch(meter: Arc<Meter>, screen: Screen, stop: CancellationToken) {
    let bar = screen.live.then(|| {
        let bar = screen.bars.add(ProgressBar::new(0));
        let style = ProgressStyle::with_template("{prefix:.bold} {bar:24} {percent:>3}% eta {eta} · {msg}");
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
        }
        bar.set_prefix("batch");
        bar
    });
    let (mut at, mut rows_before) = (Instant::now(), 0);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(if screen.live { TICK } else { LOG_EVERY }) => {}
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
