//! Pure. What requests about images say: credentials in headers, and changes in the words of a Dockerfile.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use stack_engine::image::{Credentials, FoundImage, ImportChanges};

use super::{DecodeError, Parameters};

/// Docker's clients pad or do not.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a request about images cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageRequestError {
    /// The header with credentials. What it holds is not repeated.
    #[error(
        "the header X-Registry-Auth is no base64 of JSON such as {{\"username\":\"…\",\"password\":\"…\"}}: {problem}"
    )]
    Credentials {
        /// What is wrong.
        problem: &'static str,
    },
    /// A kind of credentials that registries are not asked with.
    #[error("identity and registry tokens are not supported: log in with a name and a password or access token")]
    Token,
    /// A parameter or filter.
    #[error(transparent)]
    Parameter(#[from] DecodeError),
    /// More results, or fewer, than can be asked for.
    #[error("limit {limit} is outside the range of [1, 100]")]
    SearchLimit {
        /// What was asked for.
        limit: i64,
    },
    /// A term with a scheme.
    #[error("invalid index name ({term}): leave the scheme out, as in `registry.example.com/busybox`")]
    SearchTerm {
        /// What was given, at most 200 characters of it.
        term: String,
    },
    /// A change.
    #[error("the change `{change}` cannot be understood: {problem}")]
    Change {
        /// What was given, at most 200 characters of it.
        change: String,
        /// What is wrong.
        problem: &'static str,
    },
}

/// What clients send of a login.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Login {
    /// The name.
    pub username: String,
    /// The password or access token.
    pub password: String,
    /// Both, as `name:password` in base64.
    pub auth: String,
    /// The registry.
    pub serveraddress: String,
    /// A token of an earlier login.
    pub identitytoken: String,
    /// A bearer token.
    pub registrytoken: String,
}

impl Login {
    /// The credentials in it; `None` for somebody without a name.
    ///
    /// # Errors
    /// When they are of a kind that is not supported, or damaged.
    pub fn credentials(&self) -> Result<Option<Credentials>, ImageRequestError> {
        if !self.identitytoken.is_empty() || !self.registrytoken.is_empty() {
            return Err(ImageRequestError::Token);
        }
        if !self.username.is_empty() {
            return Ok(Some(Credentials { username: self.username.clone(), password: self.password.clone() }));
        }
        if self.auth.is_empty() {
            return Ok(None);
        }
        let damaged = ImageRequestError::Credentials { problem: "its `auth` is no base64 of `name:password`" };
        let bytes = base64::engine::general_purpose::STANDARD.decode(&self.auth).map_err(|_| damaged.clone())?;
        let text = String::from_utf8(bytes).map_err(|_| damaged.clone())?;
        let (username, password) = text.split_once(':').ok_or(damaged)?;
        Ok(Some(Credentials { username: username.to_owned(), password: password.to_owned() }))
    }
}

/// The credentials in the header `X-Registry-Auth`; none where it is absent or empty.
///
/// # Errors
/// When it is damaged.
pub fn registry_auth(header: Option<&str>) -> Result<Option<Credentials>, ImageRequestError> {
    let Some(text) = header.filter(|text| !text.is_empty()) else { return Ok(None) };
    let problem = |problem| ImageRequestError::Credentials { problem };
    let bytes = LENIENT.decode(text.trim()).map_err(|_| problem("it is not base64"))?;
    let login: Option<Login> = serde_json::from_slice(&bytes).map_err(|_| problem("it is not JSON of that form"))?;
    login.unwrap_or_default().credentials()
}

/// A search for images.
#[derive(Debug, PartialEq, Eq)]
pub struct Search {
    /// The term, with the registry's name before it unless it is Docker Hub's.
    pub term: String,
    /// At most so many.
    pub limit: u8,
    /// Only those that are official, or that are not.
    pub is_official: Option<bool>,
    /// Only those that are built by the registry, or that are not.
    pub is_automated: Option<bool>,
    /// Only those with as many stars.
    pub stars: i64,
}

impl Search {
    /// How many are found when nothing is said.
    const USUAL_LIMIT: u8 = 25;

    /// # Errors
    /// When the limit or a filter cannot be, or the term has a scheme.
    pub fn decode(parameters: &Parameters) -> Result<Self, ImageRequestError> {
        let filters = parameters.filters()?;
        if let Some(name) = filters.names().find(|name| !["is-official", "is-automated", "stars"].contains(name)) {
            return Err(DecodeError::Filter { name: name.to_owned() }.into());
        }
        let flag = |name: &'static str| match filters.values(name) {
            [] => Ok(None),
            [value] if matches!(value.as_str(), "1" | "true") => Ok(Some(true)),
            [value] if matches!(value.as_str(), "0" | "false") => Ok(Some(false)),
            values => Err(DecodeError::FilterValue { name, value: format!("[{}]", values.join(" ")) }),
        };
        // The most stars that are asked for are decisive.
        let mut stars = 0;
        for value in filters.values("stars") {
            let wrong = || DecodeError::FilterValue { name: "stars", value: value.clone() };
            stars = stars.max(value.parse().map_err(|_| wrong())?);
        }
        let limit = match parameters.number("limit")? {
            None | Some(0) => Self::USUAL_LIMIT,
            Some(limit) => u8::try_from(limit)
                .ok()
                .filter(|limit| (1..=100).contains(limit))
                .ok_or(ImageRequestError::SearchLimit { limit })?,
        };
        let term = parameters.text("term").unwrap_or_default().to_owned();
        if term.contains("://") {
            return Err(ImageRequestError::SearchTerm { term: term.chars().take(200).collect() });
        }
        Ok(Self { term, limit, is_official: flag("is-official")?, is_automated: flag("is-automated")?, stars })
    }

    /// Whether an image is among those that are wanted.
    pub fn wants(&self, image: &FoundImage) -> bool {
        self.is_official.is_none_or(|wanted| image.is_official == wanted) && image.star_count >= self.stars
    }
}

/// Applies changes in the words of a Dockerfile, such as `CMD ["sh"]` and `ENV NAME=value`.
///
/// # Errors
/// The first that cannot be understood.
pub fn changes(all: &[String]) -> Result<ImportChanges, ImageRequestError> {
    let mut made = ImportChanges::default();
    for change in all.iter().map(|change| change.trim()).filter(|change| !change.is_empty()) {
        let fail = |problem| ImageRequestError::Change { change: change.chars().take(200).collect(), problem };
        let (word, rest) = change.split_once(char::is_whitespace).ok_or_else(|| fail("a word without a value"))?;
        let rest = rest.trim();
        let words = || -> Result<Vec<String>, ImageRequestError> {
            if rest.starts_with('[') {
                return serde_json::from_str(rest).map_err(|_| fail("no JSON list of texts"));
            }
            Ok(["/bin/sh", "-c", rest].map(str::to_owned).to_vec())
        };
        let list = || rest.split_whitespace().map(str::to_owned);
        match word.to_ascii_uppercase().as_str() {
            "CMD" => made.cmd = Some(words()?),
            "ENTRYPOINT" => made.entrypoint = Some(words()?),
            "ENV" => {
                made.env.extend(pairs(rest).map_err(fail)?.into_iter().map(|(key, value)| format!("{key}={value}")))
            }
            "LABEL" => made.labels.extend(pairs(rest).map_err(fail)?),
            "EXPOSE" => made.exposed_ports.extend(list()),
            "VOLUME" if rest.starts_with('[') => {
                made.volumes
                    .extend(serde_json::from_str::<Vec<String>>(rest).map_err(|_| fail("no JSON list of texts"))?);
            }
            "VOLUME" => made.volumes.extend(list()),
            "USER" => made.user = Some(rest.to_owned()),
            "WORKDIR" => made.working_dir = Some(rest.to_owned()),
            "STOPSIGNAL" => made.stop_signal = Some(rest.to_owned()),
            "ONBUILD" | "HEALTHCHECK" => return Err(fail("this word is not supported here")),
            _ => return Err(fail("expected CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME or WORKDIR")),
        }
    }
    Ok(made)
}

/// `KEY=value KEY2="a value"`, or, as of old, `KEY value`.
fn pairs(text: &str) -> Result<BTreeMap<String, String>, &'static str> {
    let mut found = BTreeMap::new();
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (key, value) = text.split_once(char::is_whitespace).ok_or("a key without a value")?;
        found.insert(key.to_owned(), value.trim().to_owned());
        return Ok(found);
    }
    let mut characters = text.chars().peekable();
    loop {
        while characters.next_if(|next| next.is_whitespace()).is_some() {}
        if characters.peek().is_none() {
            return Ok(found);
        }
        let (mut key, mut value, mut in_value, mut quote) = (String::new(), String::new(), false, None);
        while let Some(&next) = characters.peek() {
            if quote.is_none() && next.is_whitespace() {
                break;
            }
            characters.next();
            let part = if in_value { &mut value } else { &mut key };
            match (next, quote) {
                ('=', None) if !in_value => in_value = true,
                ('\\', None | Some('"')) => part.extend(characters.next()),
                (mark @ ('"' | '\''), None) => quote = Some(mark),
                (mark, Some(open)) if mark == open => quote = None,
                (other, _) => part.push(other),
            }
        }
        if quote.is_some() {
            return Err("a quotation that is not closed");
        }
        if key.is_empty() || !in_value {
            return Err("expected KEY=value");
        }
        found.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_a_header() {
        let encode = |text: &str| base64::engine::general_purpose::URL_SAFE.encode(text);
        let found = registry_auth(Some(&encode(r#"{"username":"a","password":"b","serveraddress":"x"}"#)));
        assert_eq!(found, Ok(Some(Credentials { username: "a".to_owned(), password: "b".to_owned() })));
        let both = encode(r#"{"auth":"YTpiOmM="}"#);
        let found = registry_auth(Some(both.trim_end_matches('='))).unwrap().unwrap();
        assert_eq!((found.username.as_str(), found.password.as_str()), ("a", "b:c"));
        assert_eq!(registry_auth(None), Ok(None));
        assert_eq!(registry_auth(Some(&encode("{}"))), Ok(None));
        assert_eq!(registry_auth(Some(&encode("null"))), Ok(None));
        assert!(registry_auth(Some("%%%")).is_err());
        let secret = registry_auth(Some(&encode("hunter2"))).unwrap_err();
        assert!(!secret.to_string().contains("hunter2"));
        assert_eq!(registry_auth(Some(&encode(r#"{"identitytoken":"x"}"#))), Err(ImageRequestError::Token));
    }

    #[test]
    fn changes_in_the_words_of_a_dockerfile() {
        let all = [
            "CMD [\"sh\", \"-c\", \"x\"]",
            "entrypoint run it",
            "ENV A=1 B=\"two words\" C=it\\ is",
            "ENV OLD a b",
            "LABEL x=y",
            "EXPOSE 80 53/udp",
            "VOLUME /a /b",
            "VOLUME [\"/c\"]",
            "USER 7",
            "WORKDIR /w",
            "STOPSIGNAL INT",
        ];
        let made = changes(&all.map(str::to_owned)).unwrap();
        assert_eq!(made.cmd.unwrap(), ["sh", "-c", "x"]);
        assert_eq!(made.entrypoint.unwrap(), ["/bin/sh", "-c", "run it"]);
        assert_eq!(made.env, ["A=1", "B=two words", "C=it is", "OLD=a b"]);
        assert_eq!(made.exposed_ports, ["80", "53/udp"]);
        assert_eq!(made.volumes, ["/a", "/b", "/c"]);
        for wrong in ["CMD", "COPY a b", "ENV \"A=b", "LABEL =x", "CMD [1]", "HEALTHCHECK NONE"] {
            assert!(changes(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
