//! Pure. Entries of `extra_hosts`.

/// `NAME=ADDRESS` or `NAME:ADDRESS`; the address may be in brackets. `None` if it is neither.
pub(crate) fn parse(text: &str) -> Option<(&str, &str)> {
    let (name, address) = text.split_once('=').or_else(|| text.split_once(':'))?;
    Some((name, unbracketed(address)))
}

/// Without the brackets that IPv6 addresses may have.
pub(crate) fn unbracketed(address: &str) -> &str {
    address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address)
}
