//! Logging: one line for each event, on stderr, readable as it is.
//!
//! ```text
//! 2026-11-21T09:12:01.120Z  INFO 127.0.0.1:7701 synod::node: serving clients client=127.0.0.1:7601
//! ```
//!
//! The node's name stands in every line, so that the logs of several nodes can be read together.

use std::{
    fmt,
    io::{self, IsTerminal},
};

use tracing::{Event, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

/// Starts logging what `filter` lets through, as `node`. The error says what is wrong with `filter`.
///
/// Once in a process: later calls change nothing.
pub fn start(filter: &str, node: String) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .event_format(Line { node })
        .finish();
    // Refused when there is a subscriber already, as in tests: then that one stays.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

struct Line {
    node: String,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        SystemTime.format_time(&mut writer)?;
        let metadata = event.metadata();
        write!(
            writer,
            " {:>5} {} {}: ",
            metadata.level(),
            self.node,
            metadata.target()
        )?;
        context
            .field_format()
            .format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
