use std::fmt::Write as _;

use super::{Context, Failure, Format, Outcome, listing::Filters};
use crate::api::event::{Event, EventQuery};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Wait for more until interrupted
    #[arg(long)]
    follow: bool,
    /// Only those after this sequence number
    #[arg(long, value_name = "SEQUENCE")]
    after: Option<u64>,
    #[command(flatten)]
    filters: Filters,
    /// Lines of text or of JSON
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub async fn run(context: &mut Context, arguments: &Arguments) -> Result<Outcome, Failure> {
    let filters = &arguments.filters;
    filters.check(&["type", "event", "name"])?;
    let query = EventQuery {
        follow: arguments.follow,
        after: arguments.after,
    };
    let mut events = context.client.events(query).await?;
    let mut last: Option<u64> = None;
    loop {
        let next = tokio::select! {
            next = events.next() => next?,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                return Ok(Outcome::Good);
            }
        };
        let Some(event) = next else {
            return Ok(Outcome::Good);
        };
        let missed = last.map_or(0, |last| event.sequence.saturating_sub(last + 1));
        if missed > 0 {
            context.terminal.note(format!(
                "overlay: {missed} events came too fast and are left out"
            ))?;
        }
        last = Some(event.sequence);
        let wanted = filters.takes("type", |kind| event.kind.name() == kind)
            && filters.takes("event", |action| event.action == action)
            && filters.takes("name", |name| event.name == name);
        if wanted {
            let text = match arguments.format {
                Format::Json => serde_json::to_string(&event)?,
                Format::Table => line(&event),
            };
            context.terminal.line(text)?;
        }
    }
}

/// As `docker events` prints it.
fn line(event: &Event) -> String {
    let mut text = format!(
        "{} {} {} {}",
        event.time,
        event.kind.name(),
        event.action,
        event.name
    );
    for (number, (key, value)) in event.attributes.iter().enumerate() {
        let before = if number == 0 { " (" } else { ", " };
        let _ = write!(text, "{before}{key}={value}");
    }
    if !event.attributes.is_empty() {
        text.push(')');
    }
    text
}
