//! Logs on stderr, kept out of the way of progress bars.

use crate::args::{Global, LogFormat};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{DynFilterFn, FilterExt, dynamic_filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt, registry};

/// Who says that a request to the store failed and is sent again. A store that does not answer holds a command up for
/// minutes: whoever waits must hear why.
const RETRIES: &str = "object_store::client::retry";
/// How often it is heard.
const RETRIES_EVERY: Duration = Duration::from_secs(10);

/// The terminal, if stderr is one and the user wants to see something move.
#[derive(Debug, Clone)]
pub struct Screen {
    /// Bars and live lines go here.
    pub bars: MultiProgress,
    /// Whether there is anybody to look at them.
    pub live: bool,
}

impl Screen {
    /// A new bar, if anybody looks.
    pub fn bar(&self, prefix: &str, template: &str) -> Option<ProgressBar> {
        self.live.then(|| {
            let bar = self.bars.add(ProgressBar::new(0));
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
            }
            bar.set_prefix(prefix.to_owned());
            bar
        })
    }

    /// How often figures are shown: on a bar, or else as log fields.
    pub const fn every(&self) -> Duration {
        if self.live { Duration::from_millis(250) } else { Duration::from_secs(10) }
    }
}

/// Starts logging. `DELTAWORKS_LOG` sets the filter, in the syntax of `RUST_LOG`.
pub fn start(global: &Global) -> Screen {
    let live = io::stderr().is_terminal() && !global.quiet && global.log_format == LogFormat::Text;
    let screen = Screen { bars: MultiProgress::new(), live };
    // on a terminal the live line says what the info logs say elsewhere
    let level = if global.quiet {
        "error"
    } else if live {
        "warn"
    } else {
        "info"
    };
    let others = if global.quiet { "error" } else { "warn" };
    let retries = if global.quiet { "error" } else { "info" };
    let default = format!("{others},deltaworks={level},deltaworks_jobs={level},{RETRIES}={retries}");
    let asked = EnvFilter::try_from_env("DELTAWORKS_LOG");
    let now_and_then = asked.is_err();
    let filter = asked.unwrap_or_else(|_| EnvFilter::new(default));
    let lines = fmt::layer().with_writer(AboveBars(screen.clone()));
    let lines = match global.log_format {
        LogFormat::Text => lines.with_target(false).with_ansi(live).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    if now_and_then {
        registry().with(lines.with_filter(filter.and(retries_now_and_then()))).init();
    } else {
        registry().with(lines.with_filter(filter)).init();
    }
    screen
}

/// Lets everything through but most of the store's retries.
fn retries_now_and_then<S: tracing::Subscriber + for<'a> LookupSpan<'a>>()
-> DynFilterFn<S, impl Fn(&tracing::Metadata<'_>, &tracing_subscriber::layer::Context<'_, S>) -> bool> {
    let heard = Mutex::new(None::<Instant>);
    dynamic_filter_fn(move |metadata, _| {
        if metadata.target() != RETRIES {
            return true;
        }
        let Ok(mut heard) = heard.lock() else { return true };
        let due = heard.is_none_or(|heard| heard.elapsed() >= RETRIES_EVERY);
        if due {
            *heard = Some(Instant::now());
        }
        due
    })
    // the other filter's limit holds
    .with_max_level_hint(LevelFilter::TRACE)
}

/// Writes log lines above the bars.
#[derive(Debug, Clone)]
struct AboveBars(Screen);

impl Write for AboveBars {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.live {
            self.0.bars.suspend(|| io::stderr().lock().write_all(bytes))?;
        } else {
            io::stderr().lock().write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

impl<'a> MakeWriter<'a> for AboveBars {
    type Writer = Self;
    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<u8>>>);

    impl Write for Heard {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_of_many_retries_is_heard_and_all_else() {
        let heard = Heard::default();
        let writer = heard.clone();
        let lines = fmt::layer().with_writer(move || writer.clone());
        tracing::subscriber::with_default(registry().with(lines.with_filter(retries_now_and_then())), || {
            for _ in 0..3 {
                tracing::info!(target: RETRIES, "again");
                tracing::info!("other");
            }
        });
        let heard = String::from_utf8(heard.0.lock().unwrap().clone()).unwrap();
        let count = |what: &str| heard.lines().filter(|line| line.ends_with(what)).count();
        assert_eq!((count("again"), count("other")), (1, 3), "{heard}");
    }
}
