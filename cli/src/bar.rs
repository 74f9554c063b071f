//! The live line of a batch run, a fill or upkeep: units, rows/s, bytes read, and an ETA by bytes, or by units where there are none.
//!
//! On a terminal one bar moves; elsewhere the same figures go out as log fields every ten seconds.

use crate::logging::Screen;
use deltaworks_jobs::batch::meter::Meter;
use indicatif::{HumanBytes, HumanCount};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// Shows the meter while `work` goes on; the line is gone before its result is given back. `noun` is what the units of this
/// job are.
pub async fn around<T>(
    job: &'static str,
    noun: &'static str,
    meter: &Arc<Meter>,
    screen: &Screen,
    work: impl Future<Output = T>,
) -> T {
    let done = CancellationToken::new();
    let watching = tokio::spawn(watch(job, noun, meter.clone(), screen.clone(), done.clone()));
    let result = work.await;
    done.cancel();
    let _ = watching.await;
    result
}

async fn watch(job: &'static str, noun: &'static str, meter: Arc<Meter>, screen: Screen, stop: CancellationToken) {
    let bar = screen.bar(job, "{prefix:.bold} {bar:24} {percent:>3}% eta {eta} · {msg}");
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
            // an empty bar, and not a full one
            Some(bar) if units == 0 => {
                bar.set_length(1);
                bar.set_message("looking at what there is to do");
            }
            Some(bar) => {
                let (all, so_far) = if bytes == 0 { (units, done) } else { (bytes, read) };
                bar.set_length(all);
                bar.set_position(so_far);
                let of_bytes = match bytes {
                    0 => String::new(),
                    _ => format!(" · {} of {}", HumanBytes(read), HumanBytes(bytes)),
                };
                bar.set_message(format!("{done} of {units} {noun} · {} rows/s{of_bytes}", HumanCount(rows_s)));
            }
            None => tracing::info!(job, units, done, rows, rows_s, bytes, read, "goes on"),
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
}
