//! Pure. Whose log it is: what the drivers that send say of a container beside its output, its tag and its attributes.

use std::collections::BTreeMap;

use regex::Regex;

/// A container, for the drivers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// Its identifier.
    pub id: String,
    /// For people.
    pub name: String,
    /// Of its image, with the algorithm.
    pub image_id: String,
    /// As it was asked for.
    pub image_name: String,
    /// What is run, with its arguments.
    pub command: Vec<String>,
    /// Milliseconds since the Unix epoch.
    pub created_at: u64,
    /// `KEY=value`.
    pub environment: Vec<String>,
    /// The image's and its own.
    pub labels: BTreeMap<String, String>,
    /// The host's name.
    pub host: String,
}

fn short(id: &str) -> &str {
    let id = id.rsplit_once(':').map_or(id, |(_, digits)| digits);
    id.char_indices().nth(12).map_or(id, |(end, _)| &id[..end])
}

impl Subject {
    /// The first twelve characters of its identifier.
    pub fn short_id(&self) -> &str {
        short(&self.id)
    }
}

/// A tag with places for what is known of a container, such as `{{.Name}}/{{.ID}}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Id,
    FullId,
    Name,
    ImageId,
    ImageFullId,
    ImageName,
    Command,
    Host,
    Daemon,
    Label(String),
}

impl Default for Tag {
    fn default() -> Self {
        Self(vec![Part::Id])
    }
}

impl Tag {
    /// Reads a template. Of Docker's language there is what names something of the container.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once("{{") {
            let (action, next) =
                after.split_once("}}").ok_or_else(|| format!("log tag `{text}`: an action `{{{{` is not closed"))?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(Part::parse(action.trim()).ok_or_else(|| {
                format!(
                    "log tag `{text}`: `{{{{{action}}}}}` is not known: .ID, .FullID, .Name, .ImageID, .ImageFullID, .ImageName, \
                     .Command, .Hostname, .DaemonName and `index .ContainerLabels \"KEY\"` are"
                )
            })?);
            rest = next;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    /// The tag of a container.
    pub fn of(&self, subject: &Subject) -> String {
        let parts = self.0.iter().map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Id => subject.short_id().to_owned(),
            Part::FullId => subject.id.clone(),
            Part::Name => subject.name.clone(),
            Part::ImageId => short(&subject.image_id).to_owned(),
            Part::ImageFullId => subject.image_id.clone(),
            Part::ImageName => subject.image_name.clone(),
            Part::Command => subject.command.join(" "),
            Part::Host => subject.host.clone(),
            Part::Daemon => "stack".to_owned(),
            Part::Label(key) => subject.labels.get(key).cloned().unwrap_or_default(),
        });
        parts.collect()
    }
}

impl Part {
    fn parse(action: &str) -> Option<Self> {
        Some(match action {
            ".ID" => Self::Id,
            ".FullID" | ".ContainerID" => Self::FullId,
            ".Name" => Self::Name,
            ".ImageID" => Self::ImageId,
            ".ImageFullID" | ".ContainerImageID" => Self::ImageFullId,
            ".ImageName" | ".ContainerImageName" => Self::ImageName,
            ".Command" => Self::Command,
            ".Hostname" => Self::Host,
            ".DaemonName" => Self::Daemon,
            other => {
                let key = other.strip_prefix("index")?.trim().strip_prefix(".ContainerLabels")?.trim();
                Self::Label(key.strip_prefix('"')?.strip_suffix('"')?.to_owned())
            }
        })
    }
}

/// Which labels and variables of a container go with its output.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    labels: Vec<String>,
    labels_matching: Option<Regex>,
    variables: Vec<String>,
    variables_matching: Option<Regex>,
}

impl Attributes {
    /// Reads the options `labels`, `labels-regex`, `env` and `env-regex`.
    pub fn parse(options: &BTreeMap<String, String>) -> Result<Self, String> {
        let list = |key: &str| -> Vec<String> {
            let text = options.get(key).map_or("", String::as_str);
            text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
        };
        let pattern = |key: &str| {
            let text = options.get(key).filter(|text| !text.is_empty());
            text.map(|text| Regex::new(text).map_err(|error| format!("log opt '{key}': {error}"))).transpose()
        };
        Ok(Self {
            labels: list("labels"),
            labels_matching: pattern("labels-regex")?,
            variables: list("env"),
            variables_matching: pattern("env-regex")?,
        })
    }

    /// Those of a container, under names as `name` makes them.
    pub fn of(&self, subject: &Subject, name: impl Fn(&str) -> String) -> BTreeMap<String, String> {
        let variables: BTreeMap<&str, &str> =
            subject.environment.iter().filter_map(|entry| entry.split_once('=')).collect();
        let labels = subject.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let matching = |pattern: &Option<Regex>, key: &str| pattern.as_ref().is_some_and(|regex| regex.is_match(key));
        let wanted_labels = labels
            .filter(|(key, _)| self.labels.iter().any(|wanted| wanted == key) || matching(&self.labels_matching, key));
        let wanted_variables = variables.into_iter().filter(|(key, _)| {
            self.variables.iter().any(|wanted| wanted == key) || matching(&self.variables_matching, key)
        });
        // A variable goes over a label of the same name.
        wanted_labels.chain(wanted_variables).map(|(key, value)| (name(key), value.to_owned())).collect()
    }
}

#[cfg(test)]
pub(super) fn example() -> Subject {
    let labels = [("team", "blue"), ("com.example.a", "1"), ("com.example.b", "2")];
    Subject {
        id: "0123456789abcdef0123".to_owned(),
        name: "web".to_owned(),
        image_id: "sha256:fedcba9876543210".to_owned(),
        image_name: "nginx:1".to_owned(),
        command: vec!["nginx".to_owned(), "-g".to_owned()],
        created_at: 1_700_000_000_123,
        environment: vec!["LANG=C".to_owned(), "team=red".to_owned(), "EMPTY=".to_owned()],
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        host: "host-1".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_name_the_container() {
        let tag = |text: &str| Tag::parse(text).unwrap().of(&example());
        assert_eq!(Tag::default().of(&example()), "0123456789ab");
        assert_eq!(tag("{{.ImageName}}/{{ .Name }}/{{.ID}}"), "nginx:1/web/0123456789ab");
        assert_eq!(
            tag("{{.FullID}} {{.ImageID}} {{.ImageFullID}}"),
            "0123456789abcdef0123 fedcba987654 sha256:fedcba9876543210"
        );
        assert_eq!(tag("{{.Command}}@{{.Hostname}} by {{.DaemonName}}"), "nginx -g@host-1 by stack");
        assert_eq!(tag("{{index .ContainerLabels \"team\"}}-{{index .ContainerLabels \"none\"}}"), "blue-");
        assert_eq!(tag("plain"), "plain");
        assert!(Tag::parse("{{.ID").unwrap_err().contains("not closed"));
        assert!(Tag::parse("{{.Port}}").unwrap_err().contains("`{{.Port}}` is not known"));
    }

    #[test]
    fn attributes_are_chosen_by_name_and_by_pattern() {
        let options = |pairs: &[(&str, &str)]| {
            let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            Attributes::parse(&pairs.collect())
        };
        let of = |pairs: &[(&str, &str)]| -> String {
            let all = options(pairs).unwrap().of(&example(), str::to_owned);
            all.iter().map(|(key, value)| format!("{key}={value} ")).collect()
        };
        assert_eq!(of(&[]), "");
        assert_eq!(of(&[("labels", "team,none"), ("env", "LANG,EMPTY")]), "EMPTY= LANG=C team=blue ");
        assert_eq!(of(&[("labels-regex", "^com[.]")]), "com.example.a=1 com.example.b=2 ");
        assert_eq!(of(&[("labels", "team"), ("env-regex", "t.*m")]), "team=red ");
        assert!(options(&[("env-regex", "(")]).unwrap_err().starts_with("log opt 'env-regex': "));
    }
}
