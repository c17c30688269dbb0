//! Pure. Values of log options, read as Docker reads them.

use std::time::Duration;

/// A size with units of 1000, such as `10m` or `1.5gb`.
pub fn human_size(text: &str) -> Result<u64, String> {
    size(text, 1000)
}

/// A size with units of 1024.
pub fn memory_size(text: &str) -> Result<u64, String> {
    size(text, 1024)
}

fn size(text: &str, base: u64) -> Result<u64, String> {
    let wrong = || format!("invalid size: '{text}'");
    let trimmed = text.trim();
    let split =
        trimmed.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(trimmed.len());
    let (digits, unit) = trimmed.split_at(split);
    let unit = unit.trim_start().to_ascii_lowercase();
    let unit = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(wrong()),
    };
    let factor = base.pow(power);
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(wrong);
    }
    let (whole, fraction) = digits.split_once('.').ok_or_else(wrong)?;
    if whole.is_empty() && fraction.is_empty() {
        return Err(wrong());
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().map_err(|_| wrong())? };
    let mut bytes = u128::from(whole) * u128::from(factor);
    let mut share = u128::from(factor) * 1_000_000_000_000;
    for digit in fraction.chars().take(12) {
        share /= 10;
        bytes += u128::from(digit.to_digit(10).ok_or_else(wrong)?) * share / 1_000_000_000_000;
    }
    u64::try_from(bytes).map_err(|_| wrong())
}

/// One of the words for true and false.
pub fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("\"{text}\" is neither true nor false")),
    }
}

/// A span of time such as `500ms` or `1m30s`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is no duration such as 500ms or 1m30s");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err(wrong());
    }
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let split = rest.find(|character: char| !character.is_ascii_digit() && character != '.').ok_or_else(wrong)?;
        let (digits, after) = rest.split_at(split);
        let end = after.find(|character: char| character.is_ascii_digit() || character == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let factor = match unit {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        seconds += digits.parse::<f64>().map_err(|_| wrong())? * factor;
        rest = next;
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_of_a_thousand_or_of_1024() {
        for (text, bytes) in [("10", 10), ("10k", 10_000), ("10K", 10_000), ("10kb", 10_000), ("1.5m", 1_500_000)] {
            assert_eq!(human_size(text), Ok(bytes), "{text}");
        }
        assert_eq!(human_size("2 GB"), Ok(2_000_000_000));
        assert_eq!(human_size("1kib"), Ok(1000));
        assert_eq!(memory_size("4m"), Ok(4 << 20));
        assert_eq!(memory_size("0.5k"), Ok(512));
        for text in ["", "-1", "m", "1x", "1mm", ".", "1.2.3", "99999999999999p", "ten"] {
            assert_eq!(human_size(text), Err(format!("invalid size: '{text}'")));
        }
    }

    #[test]
    fn durations_are_sums() {
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for text in ["", "5", "s", "-1s", "1d", "1e400h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,20}") {
            let _ = (human_size(&text), memory_size(&text), duration(&text), boolean(&text));
        }
    }
}
