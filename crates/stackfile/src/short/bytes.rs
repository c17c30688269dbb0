//! Pure. Sizes: `512k`, `64m`, `1.5g`, `1 GiB`. Every unit is a power of 1024, as for Docker.

/// Why a text is not a size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SizeError {
    #[error("it does not begin with a number")]
    NoNumber,
    #[error("its unit is not one of b, k, m, g, t, p")]
    Unit,
    #[error("it is too large")]
    TooLarge,
}

/// A size in bytes; -1, which means no limit for some keys, is the only negative one.
pub(crate) fn parse(text: &str) -> Result<i64, SizeError> {
    let text = text.trim();
    if text == "-1" {
        return Ok(-1);
    }
    let end = text.find(|character: char| !(character.is_ascii_digit() || character == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ if number.is_empty() => return Err(SizeError::NoNumber),
        _ => return Err(SizeError::Unit),
    };
    if let Ok(whole) = number.parse::<i64>() {
        return whole.checked_mul(1 << shift).ok_or(SizeError::TooLarge);
    }
    let number: f64 = number.parse().map_err(|_| SizeError::NoNumber)?;
    #[allow(clippy::cast_precision_loss, reason = "a power of two is exact")]
    let value = number * (1i64 << shift) as f64;
    if value >= 9e18 {
        return Err(SizeError::TooLarge);
    }
    #[allow(clippy::cast_possible_truncation, reason = "checked above; a fraction of a byte is dropped, as Docker does")]
    Ok(value as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, size) in [
            ("0", 0),
            ("655360", 655_360),
            ("640k", 655_360),
            ("1.5m", 1_572_864),
            ("1 GB", 1 << 30),
            ("2GiB", 2 << 30),
            ("-1", -1),
        ] {
            assert_eq!(parse(text), Ok(size), "{text}");
        }
        assert_eq!(parse("invalid"), Err(SizeError::NoNumber));
        assert_eq!(parse("5x"), Err(SizeError::Unit));
        assert_eq!(parse("99999999p"), Err(SizeError::TooLarge));
        assert_eq!(parse("-5m"), Err(SizeError::NoNumber));
    }
}
