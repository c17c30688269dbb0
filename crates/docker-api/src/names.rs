//! Pure. Names of containers: which ones there can be, and those that a container gets when nobody gave it one.

const FIRST: [&str; 48] = [
    "able", "brave", "bright", "brisk", "calm", "clever", "cosy", "crisp", "daring", "deft", "eager", "early", "fair",
    "fond", "frank", "gentle", "glad", "golden", "handy", "happy", "honest", "jolly", "keen", "kind", "lively",
    "loyal", "lucid", "mellow", "merry", "mild", "modest", "neat", "noble", "open", "plain", "proud", "quick", "quiet",
    "ready", "sharp", "silent", "steady", "sunny", "swift", "tidy", "warm", "wise", "witty",
];
const SECOND: [&str; 48] = [
    "alder", "anchor", "aspen", "badger", "beacon", "birch", "bison", "bridge", "canyon", "cedar", "comet", "coral",
    "crane", "delta", "ember", "falcon", "fern", "finch", "fjord", "harbor", "hazel", "heron", "island", "juniper",
    "kestrel", "lagoon", "lantern", "larch", "lynx", "maple", "meadow", "meteor", "moose", "nebula", "oak", "otter",
    "pebble", "pine", "plover", "prairie", "raven", "reef", "river", "spruce", "summit", "tundra", "walnut", "willow",
];

/// A name made of two words, from a random number. With `more` it has a digit behind it, for when the plain ones are taken.
pub fn drawn(random: u64, more: bool) -> String {
    let pick = |words: &[&'static str; 48], shift: u32| words[usize::try_from((random >> shift) % 48).unwrap_or(0)];
    let digit = if more { format!("{}", (random >> 40) % 1000) } else { String::new() };
    format!("{}_{}{digit}", pick(&FIRST, 0), pick(&SECOND, 20))
}

/// Whether a container can have this name, by Docker's rule.
pub fn is_valid(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.len() >= 2
        && characters.all(|character| character.is_ascii_alphanumeric() || matches!(character, '_' | '.' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_names_are_valid_and_differ() {
        let names: std::collections::BTreeSet<String> =
            (0..200).map(|step: u64| drawn(step.wrapping_mul(0x9e37_79b9_7f4a_7c15), step > 100)).collect();
        assert!(names.len() > 150 && names.iter().all(|name| is_valid(name)), "{names:?}");
    }

    #[test]
    fn what_a_name_can_be() {
        for (name, expected) in
            [("web", true), ("a1.b-c_d", true), ("x", false), ("", false), ("-a", false), ("a b", false), ("ä1", false)]
        {
            assert_eq!(is_valid(name), expected, "{name}");
        }
    }
}
