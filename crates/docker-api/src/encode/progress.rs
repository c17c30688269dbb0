//! Pure. What a transfer is at, in the lines that Docker's clients draw their bars from.

use serde_json::{Value, json};
use stack_engine::content::Digest;
use stack_engine::image::{PullProgress, PushProgress};

/// A line that says something in general.
pub fn status(text: &str) -> Value {
    json!({ "status": text })
}

/// A line that says something of one thing.
pub fn status_of(id: &str, text: &str) -> Value {
    json!({ "status": text, "progressDetail": {}, "id": id })
}

/// The last line of a transfer that failed.
pub fn failure(message: &str) -> Value {
    json!({ "errorDetail": { "message": message }, "error": message })
}

/// How clients name a layer.
pub fn short(digest: &Digest) -> String {
    digest.hex().chars().take(12).collect()
}

/// The line for a step of a pull; some steps have none.
pub fn pull(step: &PullProgress) -> Option<Value> {
    Some(match step {
        PullProgress::Resolved { .. } => return None,
        PullProgress::Present { layer } => status_of(&short(layer), "Already exists"),
        PullProgress::Transferred { layer, bytes, total_bytes } if bytes < total_bytes => json!({
            "status": "Downloading",
            "progressDetail": { "current": bytes, "total": total_bytes },
            "progress": bar(*bytes, *total_bytes),
            "id": short(layer),
        }),
        PullProgress::Transferred { layer, .. } => status_of(&short(layer), "Download complete"),
        PullProgress::Unpacked { layer } => status_of(&short(layer), "Pull complete"),
    })
}

/// The line for a step of a push.
pub fn push(step: &PushProgress) -> Value {
    match step {
        PushProgress::Preparing { layer } => status_of(&short(layer), "Preparing"),
        PushProgress::Present { layer } => status_of(&short(layer), "Layer already exists"),
        PushProgress::Mounted { layer, from } => status_of(&short(layer), &format!("Mounted from {from}")),
        PushProgress::Transferred { layer, bytes, total_bytes } => json!({
            "status": "Pushing",
            "progressDetail": { "current": bytes, "total": total_bytes },
            "progress": bar(*bytes, *total_bytes),
            "id": short(layer),
        }),
        PushProgress::Pushed { layer } => status_of(&short(layer), "Pushed"),
    }
}

/// A bar as Docker draws it, for clients that print it as it is.
fn bar(bytes: u64, total: u64) -> String {
    let filled = usize::try_from(bytes.saturating_mul(50) / total.max(1)).unwrap_or(50).min(50);
    let (done, left) = ("=".repeat(filled), " ".repeat(50 - filled));
    format!("[{done}>{left}]  {}/{}", size(bytes), size(total))
}

/// A size in decimal units, with four digits at most.
pub fn size(bytes: u64) -> String {
    let mut units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"].into_iter();
    #[expect(clippy::cast_precision_loss, reason = "it is shown with four digits")]
    let mut value = bytes as f64;
    let mut unit = units.next().unwrap_or("B");
    while value >= 1000.0 {
        let Some(next) = units.next() else { break };
        (value, unit) = (value / 1000.0, next);
    }
    let digits = if unit == "B" || value >= 1000.0 { 0 } else { 3 - value.log10().floor().max(0.0) as usize };
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_bars() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1_234_567, "1.235MB"),
            (45_600_000, "45.6MB"),
            (3_000_000_000, "3GB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert!(bar(1, 2).starts_with("[=========================>  "));
        assert!(bar(0, 0).ends_with("0B/0B"));
    }
}
