//! Pure. YAML text to trees. Aliases and merge keys are expanded here, within limits, so that nothing later sees them.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput, Tag};

use super::{Directive, Entry, Mapping, Node, Value, scalar};
use crate::code::Code;
use crate::diagnostic::{Journal, Path, Place, Problem};

/// The longest text that is read, in bytes.
const MOST_BYTES: usize = 4 << 20;
/// The deepest nesting. Real files stay below 12; the walks over the tree are recursive.
const MOST_DEPTH: usize = 64;
/// The most values of a file after its aliases are expanded.
const MOST_VALUES: usize = 150_000;
/// The most text of a file after its aliases are expanded, in bytes.
const MOST_TEXT: usize = 32 << 20;

/// The documents of a text; an empty one is `Null`. `None` when it is not readable; the journal says why.
pub(crate) fn read(text: &str, file: u32, journal: &mut Journal) -> Option<Vec<Node>> {
    let start = Place { file, line: 1, column: 1, length: 1 };
    if text.len() > MOST_BYTES {
        journal.push(
            Problem::new(
                Code::TooLarge,
                start,
                &Path::Root,
                format!("the file has {} bytes, and {MOST_BYTES} are the most that is read", text.len()),
            )
            .hint("a stack file holds definitions; put data into an image, a volume or an environment file"),
        );
        return None;
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader =
        Reader { parser: Parser::new_from_str(text), file, anchors: HashMap::new(), spent: Size::default() };
    match reader.documents(journal) {
        Ok(documents) => Some(documents),
        Err(problem) => {
            journal.push(*problem);
            None
        }
    }
}

struct Reader<'input> {
    parser: Parser<'input, StrInput<'input>>,
    file: u32,
    anchors: HashMap<usize, (Node, Size)>,
    spent: Size,
}

/// How much a node is, itself included.
#[derive(Clone, Copy, Default)]
struct Size {
    values: usize,
    /// Of its texts, in bytes.
    text: usize,
}

impl Size {
    const ONE: Self = Self { values: 1, text: 0 };

    fn add(&mut self, other: Self) {
        self.values += other.values;
        self.text += other.text;
    }
}

type Read<T> = Result<T, Box<Problem>>;

impl<'input> Reader<'input> {
    fn place(&self, span: Span) -> Place {
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let length = if span.start.line() == span.end.line() {
            span.end.col().saturating_sub(span.start.col())
        } else {
            usize::from(u16::MAX)
        };
        Place {
            file: self.file,
            line: number(span.start.line()),
            column: number(span.start.col() + 1),
            length: number(length.max(1)),
        }
    }

    fn next(&mut self) -> Read<(Event<'input>, Place)> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => {
                let place = self.place(span);
                Ok((event, place))
            }
            Some(Err(error)) => {
                let place = self.place(Span::empty(*error.marker()));
                if error.info().contains("recursion limit") {
                    return Err(Box::new(too_deep(place)));
                }
                let hint = syntax_hint(error.info());
                let problem =
                    Problem::new(Code::Syntax, place, &Path::Root, format!("this is not valid YAML: {}", error.info()));
                Err(Box::new(match hint {
                    Some(hint) => problem.hint(hint),
                    None => problem,
                }))
            }
            None => Ok((Event::StreamEnd, Place { file: self.file, line: 1, column: 1, length: 1 })),
        }
    }

    fn documents(&mut self, journal: &mut Journal) -> Read<Vec<Node>> {
        let mut documents = Vec::new();
        loop {
            match self.next()? {
                (Event::StreamEnd, place) => {
                    if documents.is_empty() {
                        documents.push(Node::null(place));
                    }
                    return Ok(documents);
                }
                (Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing, _) => {
                    self.anchors.clear();
                }
                (event, place) => documents.push(self.node(event, place, 0, journal)?.0),
            }
        }
    }

    /// The node that begins with `event`, and how much it is.
    fn node(&mut self, event: Event<'input>, place: Place, depth: usize, journal: &mut Journal) -> Read<(Node, Size)> {
        if depth > MOST_DEPTH {
            return Err(Box::new(too_deep(place)));
        }
        self.count(Size::ONE, place)?;
        let (anchor, node, size) = match event {
            Event::Alias(id) => {
                let Some(size) = self.anchors.get(&id).map(|(_, size)| *size) else {
                    return Err(Box::new(
                        Problem::new(Code::Syntax, place, &Path::Root, "this alias stands inside of its own anchor")
                            .hint("an alias can only repeat what is complete before it"),
                    ));
                };
                // Before it is copied.
                self.count(size, place)?;
                let node = self.anchors.get(&id).map_or_else(|| Node::null(place), |(node, _)| node.clone());
                return Ok((node, size));
            }
            Event::Scalar(text, style, anchor, tag) => {
                let size = Size { values: 1, text: text.len() };
                (anchor, self.scalar(&text, style, tag.as_deref(), place, journal), size)
            }
            Event::SequenceStart(anchor, tag) => {
                let mut items = Vec::new();
                let mut size = Size::ONE;
                loop {
                    let (event, place) = self.next()?;
                    if matches!(event, Event::SequenceEnd) {
                        break;
                    }
                    let (item, item_size) = self.node(event, place, depth + 1, journal)?;
                    items.push(item);
                    size.add(item_size);
                }
                let mut node = Node::sequence(items, place);
                node.directive = self.collection_tag(tag.as_deref(), "seq", place, journal);
                (anchor, node, size)
            }
            Event::MappingStart(anchor, tag) => {
                let (mapping, size) = self.mapping(depth, journal)?;
                let mut node = Node::mapping(mapping, place);
                node.directive = self.collection_tag(tag.as_deref(), "map", place, journal);
                (anchor, node, size)
            }
            _ => (0, Node::null(place), Size::ONE),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), size));
            self.count(size, place)?;
        }
        Ok((node, size))
    }

    fn count(&mut self, size: Size, place: Place) -> Read<()> {
        self.spent.add(size);
        let message = if self.spent.values > MOST_VALUES {
            format!("the file expands to more than {MOST_VALUES} values here")
        } else if self.spent.text > MOST_TEXT {
            format!("the file expands to more than {MOST_TEXT} bytes of text here")
        } else {
            return Ok(());
        };
        Err(Box::new(
            Problem::new(Code::TooLarge, place, &Path::Root, message)
                .hint("aliases of aliases multiply; write the repeated part once"),
        ))
    }

    fn mapping(&mut self, depth: usize, journal: &mut Journal) -> Read<(Mapping, Size)> {
        let mut mapping = Mapping::new();
        let mut merged: Vec<Node> = Vec::new();
        let mut size = Size::ONE;
        loop {
            let (event, key_place) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                break;
            }
            let is_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let (key, key_size) = self.node(event, key_place, depth + 1, journal)?;
            let (event, place) = self.next()?;
            let (node, node_size) = self.node(event, place, depth + 1, journal)?;
            size.add(key_size);
            size.add(node_size);
            if is_merge {
                Self::collect_merged(node, &mut merged, journal);
                continue;
            }
            let Some(name) = key_name(&key) else {
                journal.push(
                    Problem::new(
                        Code::KeyNotText,
                        key_place,
                        &Path::Root,
                        format!("a key is a text, and this one is {}", key.described()),
                    )
                    .hint("put the key in quotes if it is meant as a name"),
                );
                continue;
            };
            if let Some(first) = mapping.get(&name) {
                journal.push(
                    Problem::new(
                        Code::DuplicateKey,
                        key_place,
                        &Path::Root,
                        format!("the key `{}` is here a second time", super::shortened(&name)),
                    )
                    .hint(format!("it is first in line {}; keep one of them", first.key_place.line)),
                );
                continue;
            }
            mapping.insert(name, Entry { key_place, node });
        }
        for source in merged {
            if let Value::Mapping(source) = source.value {
                for (key, entry) in source {
                    mapping.entry(key).or_insert(entry);
                }
            }
        }
        Ok((mapping, size))
    }

    /// The mappings that a `<<` names, the first of which wins.
    fn collect_merged(node: Node, merged: &mut Vec<Node>, journal: &mut Journal) {
        let place = node.place;
        match node.value {
            Value::Mapping(_) => merged.push(node),
            Value::Sequence(items) if items.iter().all(|item| item.as_mapping().is_some()) => merged.extend(items),
            Value::Null => {}
            _ => journal.push(
                Problem::new(Code::BadMergeKey, place, &Path::Root, "`<<` merges mappings, and this is none")
                    .hint("write `<<: *name`, or `<<: [*first, *second]`, where each name is the anchor of a mapping"),
            ),
        }
    }

    fn scalar(&self, text: &str, style: ScalarStyle, tag: Option<&Tag>, place: Place, journal: &mut Journal) -> Node {
        let plain = style == ScalarStyle::Plain;
        let mut directive = None;
        let value = match tag {
            None if plain => scalar::resolve(text),
            None => Value::Text(text.to_owned()),
            Some(tag) => match own_directive(tag) {
                Some(own) => {
                    directive = Some(own);
                    if plain { scalar::resolve(text) } else { Value::Text(text.to_owned()) }
                }
                None => tagged_scalar(text, plain, tag, place, journal),
            },
        };
        let mut node = Node::new(value, place);
        node.directive = directive;
        node.plain = plain;
        if !matches!(node.value, Value::Text(_) | Value::Null) && node.scalar_text().as_deref() != Some(text) {
            node.written = Some(text.into());
        }
        node
    }

    fn collection_tag(
        &self,
        tag: Option<&Tag>,
        expected: &str,
        place: Place,
        journal: &mut Journal,
    ) -> Option<Directive> {
        let tag = tag?;
        let own = own_directive(tag);
        if own.is_none() && !(tag.is_yaml_core_schema() && tag.suffix == expected) {
            unknown_tag(tag, place, journal);
        }
        own
    }
}

fn too_deep(place: Place) -> Problem {
    Problem::new(Code::TooDeep, place, &Path::Root, format!("this is nested more than {MOST_DEPTH} levels deep"))
        .hint("a stack file needs about ten levels")
}

fn own_directive(tag: &Tag) -> Option<Directive> {
    if tag.handle != "!" {
        return None;
    }
    match tag.suffix.as_str() {
        "reset" => Some(Directive::Reset),
        "override" => Some(Directive::Override),
        _ => None,
    }
}

fn tagged_scalar(text: &str, plain: bool, tag: &Tag, place: Place, journal: &mut Journal) -> Value {
    let resolved = scalar::resolve(text);
    if tag.handle == "!" && tag.suffix.is_empty() {
        return Value::Text(text.to_owned());
    }
    if tag.is_yaml_core_schema() {
        let fitting = match (tag.suffix.as_str(), &resolved) {
            ("str", _) => return Value::Text(text.to_owned()),
            ("int", Value::Integer(_)) | ("bool", Value::Boolean(_)) | ("null", Value::Null) => Some(resolved),
            #[allow(clippy::cast_precision_loss, reason = "a number that is asked for as floating point")]
            ("float", Value::Integer(number)) => Some(Value::Float(*number as f64)),
            ("float", Value::Float(_)) => Some(resolved),
            _ => None,
        };
        if let Some(value) = fitting {
            return value;
        }
    }
    unknown_tag(tag, place, journal);
    if plain { scalar::resolve(text) } else { Value::Text(text.to_owned()) }
}

fn unknown_tag(tag: &Tag, place: Place, journal: &mut Journal) {
    let name = if tag.is_yaml_core_schema() { format!("!!{}", tag.suffix) } else { tag.to_string() };
    journal.push(
        Problem::new(
            Code::UnknownTag,
            place,
            &Path::Root,
            format!("the tag `{}` means nothing for this value", super::shortened(&name)),
        )
        .hint(
            "known tags are `!reset`, `!override` and YAML's own, such as `!!str`; quote a text that begins with `!`",
        ),
    );
}

/// The name that a key is, if it is one. Booleans and numbers are none, as for Docker Compose.
fn key_name(key: &Node) -> Option<String> {
    key.as_text().map(str::to_owned)
}

fn syntax_hint(info: &str) -> Option<&'static str> {
    let info = info.to_ascii_lowercase();
    if info.contains("tab") {
        Some("indent with spaces; YAML allows no tabs there")
    } else if info.contains("indent") || info.contains("block mapping") || info.contains("block collection") {
        Some("keys of one mapping begin in the same column, and a key is followed by a colon and a space")
    } else if info.contains("simple key") || info.contains("':'") || info.contains("mapping values") {
        Some("a key is followed by a colon and a space; put a text that contains `: ` in quotes")
    } else if info.contains("quoted") || info.contains("eof") || info.contains("end of stream") {
        Some("a quote or a bracket that was opened before is not closed")
    } else if info.contains("anchor") || info.contains("alias") {
        Some(
            "an alias `*name` repeats what was marked with `&name` before it; quote a text that begins with `*` or `&`",
        )
    } else if info.contains("cannot start") || info.contains("unexpected character") {
        Some("a text that begins with a special character needs quotes")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_json(text: &str) -> Result<serde_json::Value, Vec<String>> {
        let mut journal = Journal::default();
        let file = journal.add_file("a.yml", text, true);
        let documents = read(text, file, &mut journal);
        if journal.has_errors() {
            return Err(journal.finish().iter().map(ToString::to_string).collect());
        }
        Ok(documents.unwrap_or_default().iter().map(Node::to_json).collect())
    }

    #[test]
    fn merge_keys_give_way_to_own_keys() {
        let text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc: {<<: [*a, *b], x: 9}\n";
        let read = read_json(text).unwrap();
        assert_eq!(read[0]["c"], serde_json::json!({"x": 9, "y": 2, "z": 4}));
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for level in 1..30 {
            let alias = format!("*a{}", level - 1);
            text.push_str(&format!("a{level}: &a{level} [{}]\n", vec![alias; 10].join(",")));
        }
        assert!(read_json(&text).unwrap_err()[0].contains("E0105"));
    }

    #[test]
    fn deep_nesting_is_refused() {
        for text in ["[".repeat(10_000), "{a: ".repeat(10_000), "- ".repeat(10_000)] {
            let error = read_json(&text).unwrap_err();
            assert!(error[0].contains("E0104"), "{} {error:?}", &text[..4]);
        }
    }

    #[test]
    fn an_alias_within_its_anchor_is_refused() {
        assert!(read_json("a: &a [*a]\n").is_err());
    }

    #[test]
    fn a_key_twice_and_a_key_that_is_a_number_are_refused() {
        let errors = read_json("a: 1\na: 2\n3: 4\n").unwrap_err();
        assert!(errors[0].contains("a.yml:2:1: error E0103"), "{errors:?}");
        assert!(errors[1].contains("a.yml:3:1: error E0106"), "{errors:?}");
    }
}
