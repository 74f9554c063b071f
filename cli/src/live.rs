//! The live line of a landing run: rows/s, MB/s, lag per pipeline, age of the last commit.
//!
//! On a terminal one line per pipeline moves, with a bar and an ETA in bounded runs; elsewhere the
//! same figures go out as log fields every ten seconds.

use crate::logging::Screen;
use deltaworks_jobs::clock::Clock;
use deltaworks_jobs::land::meter::Meter;
use indicatif::{HumanCount, ProgressBar};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// Shows the meters until `stop`.
pub async fn watch(meters: Vec<Arc<Meter>>, screen: Screen, bounded: bool, clock: Clock, stop: CancellationToken) {
    let mut lines: Vec<Line> = meters.into_iter().map(|meter| Line::new(meter, &screen, bounded)).collect();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(screen.every()) => {}
        }
        for line in &mut lines {
            line.show(clock.now_ms());
        }
    }
    for line in &lines {
        if let Some(bar) = &line.bar {
            bar.finish_and_clear();
        }
    }
}

struct Line {
    meter: Arc<Meter>,
    bar: Option<ProgressBar>,
    bounded: bool,
    at: Instant,
    messages: u64,
    bytes: u64,
}

impl Line {
    fn new(meter: Arc<Meter>, screen: &Screen, bounded: bool) -> Self {
        let template = if bounded {
            "{prefix:.bold} {bar:24} {percent:>3}% eta {eta} · {msg}"
        } else {
            "{prefix:.bold} {spinner} {msg}"
        };
        let bar = screen.bar(&meter.pipeline, template);
        Self { meter, bar, bounded, at: Instant::now(), messages: 0, bytes: 0 }
    }

    fn show(&mut self, now_ms: i64) {
        let seconds = self.at.elapsed().as_secs_f64().max(1e-3);
        let (messages, bytes) = (self.meter.messages.load(Relaxed), self.meter.bytes.load(Relaxed));
        let rows_s = (messages - self.messages) as f64 / seconds;
        let mb_s = (bytes - self.bytes) as f64 / seconds / 1e6;
        (self.at, self.messages, self.bytes) = (Instant::now(), messages, bytes);
        let lag: i64 = self.meter.lag().values().sum();
        let commit_age_s = (now_ms - self.meter.last_commit_ms.load(Relaxed)).max(0) as f64 / 1e3;
        let (landed, rejected) = (self.meter.landed.load(Relaxed), self.meter.rejected.load(Relaxed));
        match &self.bar {
            Some(bar) if self.meter.lag().is_empty() && messages == 0 => {
                bar.tick();
                bar.set_message("waiting for partitions");
            }
            Some(bar) => {
                if self.bounded {
                    bar.set_length(self.meter.to_read.load(Relaxed));
                    bar.set_position(messages);
                } else {
                    bar.tick();
                }
                bar.set_message(format!(
                    "{} rows/s · {mb_s:.1} MB/s · lag {} · {} landed · {} rejected · committed {commit_age_s:.0} s ago",
                    HumanCount(rows_s as u64),
                    HumanCount(lag.max(0) as u64),
                    HumanCount(landed),
                    HumanCount(rejected),
                ));
            }
            None => tracing::info!(
                pipeline = %self.meter.pipeline, rows_s = rows_s as u64, mb_s, lag, landed, rejected, commit_age_s,
                "landing"
            ),
        }
    }
}
