//! Pure. Durations: `10s`, `1m30s`, `1.5h`.

use std::time::Duration;

/// Why a text is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DurationError {
    #[error("it is empty")]
    Empty,
    #[error("a number is missing")]
    NoNumber,
    #[error("a unit (`us`, `ms`, `s`, `m`, `h`) is missing after a number")]
    NoUnit,
    #[error("a unit is not one of `ns`, `us`, `ms`, `s`, `m`, `h`, `d`, `w`")]
    Unit,
    #[error("it is negative")]
    Negative,
    #[error("it is too long")]
    TooLong,
}

/// Numbers with units, added up. `0` needs no unit.
pub(crate) fn parse(text: &str) -> Result<Duration, DurationError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(DurationError::Empty);
    }
    if text.starts_with('-') {
        return Err(DurationError::Negative);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total: f64 = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|character: char| !(character.is_ascii_digit() || character == '.')).unwrap_or(rest.len());
        let (number, after) = rest.split_at(end);
        let number: f64 = number.parse().map_err(|_| DurationError::NoNumber)?;
        let end = after.find(|character: char| character.is_ascii_digit() || character == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let nanoseconds = match unit {
            "" => return Err(DurationError::NoUnit),
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            "d" => 86_400e9,
            "w" => 604_800e9,
            _ => return Err(DurationError::Unit),
        };
        total += number * nanoseconds;
        rest = after;
    }
    if total >= 9.2e18 {
        return Err(DurationError::TooLong);
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and its size was checked")]
    Ok(Duration::from_nanos(total.round() as u64))
}

/// As Go prints it: `1m30s`, `2h0m0s`, `250ms`.
pub(crate) fn print(duration: Duration) -> String {
    let nanoseconds = duration.as_nanos();
    if nanoseconds == 0 {
        return "0s".to_owned();
    }
    let decimal = |unit: u128, name: &str| {
        let whole = nanoseconds / unit;
        let fraction = nanoseconds % unit;
        if fraction == 0 {
            return format!("{whole}{name}");
        }
        let digits = unit.to_string().len() - 1;
        let fraction = format!("{fraction:0digits$}");
        format!("{whole}.{}{name}", fraction.trim_end_matches('0'))
    };
    match nanoseconds {
        ..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => decimal(1_000, "µs"),
        1_000_000..1_000_000_000 => decimal(1_000_000, "ms"),
        _ => {
            let (minutes, rest) = (nanoseconds / 60_000_000_000, nanoseconds % 60_000_000_000);
            let mut seconds = format!("{}", rest / 1_000_000_000);
            if rest % 1_000_000_000 != 0 {
                let fraction = format!("{:09}", rest % 1_000_000_000);
                seconds = format!("{seconds}.{}", fraction.trim_end_matches('0'));
            }
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, minutes) => format!("{minutes}m{seconds}s"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_and_printed() {
        for (text, milliseconds, printed) in [
            ("10s", 10_000, "10s"),
            ("1m30s", 90_000, "1m30s"),
            ("1.5h", 5_400_000, "1h30m0s"),
            ("250ms", 250, "250ms"),
            ("2m", 120_000, "2m0s"),
            ("0", 0, "0s"),
            ("1d", 86_400_000, "24h0m0s"),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
            assert_eq!(print(Duration::from_millis(milliseconds)), printed);
        }
        assert_eq!(parse("10"), Err(DurationError::NoUnit));
        assert_eq!(parse("10 s"), Err(DurationError::Unit));
        assert_eq!(parse("-1s"), Err(DurationError::Negative));
        assert_eq!(parse("s"), Err(DurationError::NoNumber));
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(milliseconds in 0u64..1_000_000_000) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse(&print(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in ".{0,20}") {
            let _ = parse(&text);
        }
    }
}
