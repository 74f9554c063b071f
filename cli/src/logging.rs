//! Logs on stderr, kept out of the way of progress bars.

use crate::args::{Global, LogFormat};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::time::Duration;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::{EnvFilter, fmt};

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
    let default = format!("{others},deltaworks={level},deltaworks_jobs={level}");
    let filter = EnvFilter::try_from_env("DELTAWORKS_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let logs = fmt().with_env_filter(filter).with_writer(AboveBars(screen.clone()));
    match global.log_format {
        LogFormat::Text => logs.with_target(false).with_ansi(live).init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
    screen
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
