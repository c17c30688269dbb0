//! Files that mean harm, and the large one that does not.

use std::fmt::Write;

/// One stack file with what it reads, and the code of a diagnostic that it must end in.
pub struct Input {
    /// What it is, for messages.
    pub what: &'static str,
    /// The stack file.
    pub text: String,
    /// Further files, by name.
    pub further: Vec<(String, String)>,
    /// Among the diagnostics.
    #[allow(dead_code, reason = "the benchmark shares these inputs and only measures them")]
    pub code: &'static str,
}

fn input(what: &'static str, code: &'static str, text: String) -> Input {
    Input { what, text, further: Vec::new(), code }
}

impl Input {
    fn with(mut self, name: &str, text: impl Into<String>) -> Self {
        self.further.push((name.to_owned(), text.into()));
        self
    }
}

/// Lines from numbers.
fn lines(from: usize, to: usize, line: impl Fn(usize) -> String) -> String {
    (from..to).fold(String::new(), |mut text, number| {
        let _ = writeln!(text, "{}", line(number));
        text
    })
}

/// All of them.
pub fn all() -> Vec<Input> {
    [alias_bombs(), large_files(), deep_files(), files_that_read_files(), extensions(), variables(), ports(), floods()]
        .into_iter()
        .flatten()
        .collect()
}

fn alias_bombs() -> Vec<Input> {
    let alias = |level: usize| format!("*x{}", level - 1);
    vec![
        input("a bomb of lists", "E0105", {
            let bomb = lines(1, 40, |level| format!("x{level}: &x{level} [{}]", vec![alias(level); 10].join(",")));
            format!("x0: &x0 [a,a,a,a,a,a,a,a,a,a]\n{bomb}")
        }),
        input("a bomb of mappings", "E0105", {
            let bomb = lines(1, 40, |level| format!("x{level}: &x{level} {{a: {0}, b: {0}, c: {0}}}", alias(level)));
            format!("x0: &x0 {{a: 1, b: 2}}\n{bomb}")
        }),
        input("a bomb of merge keys", "E0105", {
            let entries: Vec<String> = (0..1_000).map(|number| format!("k{number}: v")).collect();
            let users = lines(0, 2_000, |number| format!("x-{number}: {{<<: *base}}"));
            format!("x-base: &base {{{}}}\n{users}", entries.join(", "))
        }),
        input("an alias of a long text", "E0105", {
            let users = vec!["*long"; 149_000].join(",");
            format!("x-long: &long {}\nx-users: [{users}]\n", "x".repeat(100_000))
        }),
    ]
}

fn large_files() -> Vec<Input> {
    vec![
        input(
            "10 MB in one value",
            "E0105",
            format!("services:\n  a:\n    image: a:1\n    command: {}\n", "x".repeat(10 << 20)),
        ),
        input("10 MB of lines", "E0105", format!("services:\n{}", "  a:\n    image: a:1\n".repeat(500_000))),
        input("one key again and again", "E0103", format!("services:\n{}", "  a:\n    image: a:1\n".repeat(30_000))),
        input("4 MB of list", "E0105", format!("x: [{}]", "1,".repeat(2_000_000))),
        input("4 MB of open brackets", "E0104", "[".repeat(4 << 20)),
        input("4 MB of a line that is no YAML", "E0102", format!("services: {}", "a: ".repeat(1_300_000))),
    ]
}

fn deep_files() -> Vec<Input> {
    let staircase = lines(0, 1_500, |level| format!("{}a:", " ".repeat(level)));
    let variables = format!("services: {{a: {{image: '{}x{}'}}}}", "${A:-".repeat(10_000), "}".repeat(10_000));
    vec![
        input("lists in a row", "E0104", "[".repeat(10_000)),
        input("lists below each other", "E0104", "- ".repeat(10_000)),
        input("mappings", "E0104", "{a: ".repeat(10_000)),
        input("keys", "E0104", "? ".repeat(10_000)),
        input("an indented staircase", "E0104", staircase),
        input("variables", "E0201", variables),
    ]
}

fn files_that_read_files() -> Vec<Input> {
    // Every file includes the next one thrice, under two names for one file.
    let tree = (0..40).fold(input("a tree of includes", "E0403", "include: [t0.yml]".to_owned()), |tree, level| {
        let next = level + 1;
        tree.with(&format!("t{level}.yml"), format!("include: [t{next}.yml, ./t{next}.yml, t{next}.yml]"))
    });
    vec![
        input("a circle of includes", "E0403", "include: [a.yml]".to_owned())
            .with("a.yml", "include: [b.yml]")
            .with("b.yml", "include: [a.yml]"),
        input("a file that includes itself", "E0403", "include: [app.yml]".to_owned())
            .with("app.yml", "include: [app.yml]"),
        tree,
        input("a circle of extends", "E0402", "services: {x: {extends: {file: a.yml, service: a}}}".to_owned())
            .with("a.yml", "services: {a: {extends: {file: b.yml, service: b}}}")
            .with("b.yml", "services: {b: {extends: {file: a.yml, service: a}}}"),
    ]
}

fn extensions() -> Vec<Input> {
    // From the last to the first, so that none is extended before it is needed.
    let mut chain: Vec<String> =
        (1..5_000).map(|number| format!("  s{number}: {{extends: s{}}}", number - 1)).collect();
    chain.reverse();
    let labels = lines(0, 5_000, |number| format!("      l{number}: x"));
    let users = lines(0, 5_000, |number| format!("  s{number}: {{extends: base}}"));
    vec![
        input("a chain of extends", "E0402", format!("services:\n{}\n  s0: {{image: 'a:1'}}\n", chain.join("\n"))),
        input(
            "a large service extended often",
            "E0105",
            format!("services:\n  base:\n    image: a:1\n    labels:\n{labels}{users}"),
        ),
        input(
            "a service with a long text extended often",
            "E0105",
            format!("services:\n  base:\n    image: a:1\n    labels:\n      a: {}\n{users}", "x".repeat(1 << 20)),
        ),
    ]
}

fn variables() -> Vec<Input> {
    let doubling = format!("A0=0123456789\n{}", lines(1, 60, |number| format!("A{number}=$A{0}$A{0}", number - 1)));
    let users = lines(0, 20_000, |number| format!("      l{number}: $L"));
    vec![
        input("doubling variables", "E0405", "services: {a: {image: 'a:1', env_file: [double.env]}}".to_owned())
            .with("double.env", doubling),
        input(
            "one long variable often",
            "E0105",
            "include: [{path: inner.yml, env_file: long.env}]\nservices: {b: {image: 'b:1'}}".to_owned(),
        )
        .with("inner.yml", format!("services:\n  a:\n    image: a:1\n    labels:\n{users}"))
        .with("long.env", format!("L={}\n", "x".repeat(500_000))),
    ]
}

fn ports() -> Vec<Input> {
    let ranges = vec!["\"1-65535:1-65535\""; 500].join(",");
    let addresses = lines(0, 30_000, |number| format!("      - \"[fd00::{number:x}]:80:80\""));
    vec![
        input("ranges of ports", "E0105", format!("services: {{a: {{image: 'a:1', ports: [{ranges}]}}}}")),
        input(
            "one port on many addresses",
            "E0507",
            format!("services:\n  a:\n    image: a:1\n    ports:\n{addresses}      - 80:80\n"),
        ),
    ]
}

fn floods() -> Vec<Input> {
    let unknown = lines(0, 20_000, |number| format!("  s{number}: {{imag{number}: x}}"));
    let volumes = lines(0, 20_000, |number| format!("  volume{number}:"));
    let uses = lines(0, 20_000, |number| format!("      - volumee{number}:/v{number}"));
    let all: Vec<String> = (0..300).map(|other| format!("s{other}")).collect();
    let circles = lines(0, 300, |number| format!("  s{number}: {{image: 'a:1', depends_on: [{}]}}", all.join(",")));
    vec![
        input("unknown keys", "E0199", format!("services:\n{unknown}")),
        input(
            "undefined volumes",
            "E0199",
            format!("volumes:\n{volumes}services:\n  a:\n    image: a:1\n    volumes:\n{uses}"),
        ),
        input("circles of needs", "E0506", format!("services:\n{circles}")),
    ]
}

/// A file as a generator may write it: about 1 MB and 35,000 lines, in 1,500 services.
pub fn large() -> String {
    let services = lines(0, 1_500, |number| {
        let variables = lines(0, 15, |variable| format!("      VARIABLE_{variable}: a value of {number}"));
        let port = 1_000 + number;
        format!(
            "  service-{number}:\n    image: registry.example.com/team/app-{number}:1.2.3\n    environment:\n{variables}    \
             ports:\n      - \"{port}:80\"\n    deploy:\n      replicas: 2\n      labels:\n        com.example.team: payments\n    \
             restart: unless-stopped",
        )
    });
    format!("services:\n{services}")
}
