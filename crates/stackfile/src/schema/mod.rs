//! Pure. Every key of the Compose Specification: what it takes, what becomes of it here, and one line that says what it is
//! for. The type check, the refusals, "did you mean", the table in the documentation and the JSON Schema for editors are
//! all made from these tables, so that none of them can forget a key.

pub(crate) mod check;
mod deploy;
pub(crate) mod resources;
mod service;

pub(crate) use resources::STACK;
pub(crate) use service::SERVICE;

/// What a key takes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// Anything.
    Any,
    /// A text; a number or boolean without quotes is none.
    Text,
    /// A whole number, also as a text.
    Integer,
    /// A number, also as a text.
    Number,
    /// A boolean, also as a text.
    Boolean,
    /// `true` or `false` and nothing else.
    StrictBoolean,
    /// A text such as `64m`, or a number of bytes.
    Size,
    /// A text such as `1m30s`.
    Duration,
    /// A text or a number.
    TextOrNumber,
    /// A text, a number or a boolean.
    Scalar,
    /// Nothing.
    Null,
    /// One of some texts.
    Choice(&'static [&'static str]),
    /// A list.
    List(&'static Self),
    /// A list that has nothing twice.
    UniqueList(&'static Self),
    /// A mapping from names of the user's to values.
    Entries(&'static Self),
    /// A mapping from names of services, networks and the like to values.
    Named(&'static Self),
    /// A mapping with known keys.
    Object(&'static Object),
    /// Whichever of these fits.
    Either(&'static [Self]),
}

/// A mapping with known keys.
#[derive(Debug)]
pub(crate) struct Object {
    /// `a service`, for messages.
    pub noun: &'static str,
    /// Its keys.
    pub fields: &'static [Field],
    /// Those that must be there.
    pub required: &'static [&'static str],
    /// Whether keys of the user's own may begin with `x-`.
    pub extensions: bool,
}

/// One key.
#[derive(Debug)]
pub(crate) struct Field {
    /// As it is written.
    pub name: &'static str,
    /// What it takes.
    pub shape: Shape,
    /// What becomes of it.
    pub support: Support,
    /// One line that says what it is for.
    pub description: &'static str,
}

/// What becomes of a key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Support {
    /// It does what the specification says.
    Applied,
    /// Accepted, but it does not do all that it does on one host: the text says what not. The reader is told.
    Noted(&'static str),
    /// Refused: the first text says why, the second what to do instead.
    Refused(&'static str, &'static str),
}

pub(crate) const fn field(name: &'static str, shape: Shape, support: Support, description: &'static str) -> Field {
    Field { name, shape, support, description }
}

impl Object {
    pub fn field(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

impl Shape {
    /// What is expected, for messages: `a text`, `a list or a mapping`.
    pub fn expected(&self) -> String {
        match self {
            Self::Any => "anything".to_owned(),
            Self::Text => "a text".to_owned(),
            Self::Integer => "a whole number".to_owned(),
            Self::Number => "a number".to_owned(),
            Self::Boolean | Self::StrictBoolean => "`true` or `false`".to_owned(),
            Self::Size => "a size such as `64m`".to_owned(),
            Self::Duration => "a duration such as `1m30s`".to_owned(),
            Self::TextOrNumber => "a text or a number".to_owned(),
            Self::Scalar => "a text, a number or a boolean".to_owned(),
            Self::Null => "nothing".to_owned(),
            Self::Choice(choices) => match choices {
                [only] => format!("`{only}`"),
                choices => format!("one of `{}`", choices.join("`, `")),
            },
            Self::List(item) | Self::UniqueList(item) => match item {
                Self::Text => "a list of texts".to_owned(),
                _ => "a list".to_owned(),
            },
            Self::Entries(_) | Self::Named(_) | Self::Object(_) => "a mapping".to_owned(),
            Self::Either(shapes) => {
                let mut names: Vec<String> = Vec::new();
                for name in shapes.iter().filter(|shape| !matches!(shape, Self::Null)).map(Self::expected) {
                    if !names.contains(&name) {
                        names.push(name);
                    }
                }
                names.join(" or ")
            }
        }
    }
}

/// A text, or a list of texts.
pub(crate) const TEXT_OR_LIST: Shape = Shape::Either(&[Shape::Text, Shape::UniqueList(&Shape::Text)]);
/// A list of texts, none twice.
pub(crate) const TEXTS: Shape = Shape::UniqueList(&Shape::Text);
/// `KEY: value` or a list of `KEY=value`.
pub(crate) const LIST_OR_MAPPING: Shape =
    Shape::Either(&[Shape::Entries(&Shape::Either(&[Shape::Scalar, Shape::Null])), Shape::UniqueList(&Shape::Text)]);
/// A command line or a list of its words.
pub(crate) const COMMAND: Shape = Shape::Either(&[Shape::Null, Shape::Text, Shape::List(&Shape::Text)]);
/// Options of a driver.
pub(crate) const DRIVER_OPTIONS: Shape = Shape::Entries(&Shape::TextOrNumber);
