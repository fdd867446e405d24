//! Rules of a network: which nodes and endpoints may attach, by their labels.
//!
//! As text: `node.zone==a`, `endpoint.tier!=db`, `node.gpu` (has the label), `!node.gpu` (has not).

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::names::{Labels, check_label, quoted};

/// Whose labels a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// The node that the endpoint is on.
    Node,
    Endpoint,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "node",
            Self::Endpoint => "endpoint",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    Is(String),
    IsNot(String),
    Present,
    Absent,
}

/// One rule; all rules of a network must hold.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    subject: Subject,
    key: String,
    condition: Condition,
}

/// A text that is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// A rule says whose label it means.
    #[error(
        "`{0}` is no rule: write `node.KEY==VALUE`, `node.KEY!=VALUE`, `node.KEY` or `!node.KEY`, or `endpoint.…`"
    )]
    Form(String),
    /// The label cannot exist.
    #[error(transparent)]
    Label(#[from] super::names::TextError),
}

impl Rule {
    pub const fn subject(&self) -> Subject {
        self.subject
    }

    pub fn holds(&self, labels: &Labels) -> bool {
        let found = labels.get(&self.key);
        match &self.condition {
            Condition::Is(value) => found == Some(value),
            Condition::IsNot(value) => found != Some(value),
            Condition::Present => found.is_some(),
            Condition::Absent => found.is_none(),
        }
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let form = || RuleError::Form(quoted(text));
        let (absent, rest) = match text.strip_prefix('!') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (subject, rest) = match rest.split_once('.').ok_or_else(form)? {
            ("node", rest) => (Subject::Node, rest),
            ("endpoint", rest) => (Subject::Endpoint, rest),
            _ => return Err(form()),
        };
        // A key has neither `=` nor `!`, so the first of either ends it.
        let end = rest.find(['=', '!']).unwrap_or(rest.len());
        let (key, rest) = rest.split_at(end);
        let condition = if absent {
            rest.is_empty().then_some(Condition::Absent)
        } else if rest.is_empty() {
            Some(Condition::Present)
        } else if let Some(value) = rest.strip_prefix("==") {
            Some(Condition::Is(value.to_owned()))
        } else {
            rest.strip_prefix("!=")
                .map(|value| Condition::IsNot(value.to_owned()))
        }
        .ok_or_else(form)?;
        let value = match &condition {
            Condition::Is(value) | Condition::IsNot(value) => value,
            Condition::Present | Condition::Absent => "",
        };
        check_label(key, value)?;
        Ok(Self {
            subject,
            key: key.to_owned(),
            condition,
        })
    }
}

impl TryFrom<String> for Rule {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Self, RuleError> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, key, .. } = self;
        match &self.condition {
            Condition::Is(value) => write!(f, "{subject}.{key}=={value}"),
            Condition::IsNot(value) => write!(f, "{subject}.{key}!={value}"),
            Condition::Present => write!(f, "{subject}.{key}"),
            Condition::Absent => write!(f, "!{subject}.{key}"),
        }
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_rule_holds_by_the_labels() {
        let labels = [("zone", "a"), ("com.example.tier", "db")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let labels = Labels::new(BTreeMap::from(labels)).expect("labels");
        for (rule, holds) in [
            ("node.zone==a", true),
            ("node.zone==b", false),
            ("node.zone!=b", true),
            ("node.rack!=b", true),
            ("node.zone", true),
            ("!node.zone", false),
            ("!node.rack", true),
            ("endpoint.com.example.tier==db", true),
        ] {
            let rule: Rule = rule.parse().expect(rule);
            assert_eq!(rule.holds(&labels), holds, "{rule}");
        }
    }

    #[test]
    fn another_text_is_refused() {
        for text in [
            "",
            "zone==a",
            "host.zone",
            "node.",
            "node.a=b",
            "!node.a==b",
            "node.a!b",
        ] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parse_noise(text in "\\PC{0,40}") {
            let _ = text.parse::<Rule>();
        }

        #[test]
        fn parse_back(text in "!?(node|endpoint)\\.[a-z.]{1,9}((==|!=)[ -~]{0,9})?") {
            if let Ok(rule) = text.parse::<Rule>() {
                prop_assert_eq!(rule.to_string(), text);
            }
        }
    }
}
