//! Pure. Short volumes: `/data`, `data:/data`, `./conf:/etc/conf:ro`, also with Windows paths.

/// Why a text is not a volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("it is empty")]
    Empty,
    #[error("there is nothing between two colons")]
    EmptySection,
    #[error("it has too many colons")]
    TooManyColons,
}

/// What a short volume says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ShortVolume {
    /// A path of the host or the name of a volume.
    pub source: Option<String>,
    /// In the container.
    pub target: String,
    /// The source is a path.
    pub bind: bool,
    pub read_only: bool,
    pub no_copy: bool,
    pub propagation: Option<String>,
    pub selinux: Option<String>,
    pub consistency: Option<String>,
    /// Options that nobody knows.
    pub unknown: Vec<String>,
}

/// What a short volume says.
pub(crate) fn parse(text: &str) -> Result<ShortVolume, VolumeError> {
    if text.is_empty() {
        return Err(VolumeError::Empty);
    }
    let sections = sections(text)?;
    let mut volume = ShortVolume::default();
    match sections.as_slice() {
        [target] => volume.target.clone_from(target),
        [source, target] => {
            volume.source = Some(source.clone());
            volume.target.clone_from(target);
        }
        [source, target, options] => {
            volume.source = Some(source.clone());
            volume.target.clone_from(target);
            for option in options.split(',') {
                apply(&mut volume, option);
            }
        }
        _ => return Err(VolumeError::TooManyColons),
    }
    volume.bind = volume.source.as_deref().is_some_and(is_path);
    Ok(volume)
}

fn apply(volume: &mut ShortVolume, option: &str) {
    match option.trim() {
        "ro" | "RO" => volume.read_only = true,
        "rw" | "RW" | "rW" | "Rw" => volume.read_only = false,
        "nocopy" | "volume-nocopy" => volume.no_copy = true,
        "z" | "Z" => volume.selinux = Some(option.trim().to_owned()),
        "cached" | "delegated" | "consistent" => volume.consistency = Some(option.trim().to_owned()),
        propagation @ ("private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave") => {
            volume.propagation = Some(propagation.to_owned());
        }
        other => volume.unknown.push(other.to_owned()),
    }
}

/// The parts between colons. A colon after a single letter is a drive's, and one within `${…}` is the variable's.
fn sections(text: &str) -> Result<Vec<String>, VolumeError> {
    let mut sections = Vec::new();
    let mut current = String::new();
    let mut braces = 0usize;
    for character in text.chars() {
        match character {
            '{' if current.ends_with('$') || braces > 0 => braces += 1,
            '}' => braces = braces.saturating_sub(1),
            ':' if braces == 0 => {
                if current.len() == 1 && current.starts_with(|letter: char| letter.is_ascii_alphabetic()) {
                    current.push(':');
                } else if current.is_empty() {
                    return Err(VolumeError::EmptySection);
                } else {
                    sections.push(std::mem::take(&mut current));
                }
                continue;
            }
            _ => {}
        }
        current.push(character);
    }
    if current.is_empty() {
        return Err(VolumeError::EmptySection);
    }
    sections.push(current);
    Ok(sections)
}

/// Whether a source is a path and not the name of a volume.
pub(crate) fn is_path(source: &str) -> bool {
    source.starts_with(['.', '/', '~', '\\'])
        || (source.len() >= 2 && source.as_bytes()[0].is_ascii_alphabetic() && source.as_bytes()[1] == b':')
}
