use std::fmt;

use serde::{Deserialize, Serialize};

/// What kind of error it is. Each has one HTTP status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// 400: what was asked for makes no sense.
    BadRequest,
    /// 403: the caller may not use the API, or a policy forbids it.
    Forbidden,
    /// 404: no such network, node, endpoint or path.
    NotFound,
    /// 405: the path takes another method.
    MethodNotAllowed,
    /// 408: the request did not come in time.
    RequestTimeout,
    /// 409: it does not fit the present state: a name is taken, subnets overlap, endpoints are left.
    Conflict,
    /// 413: the body is longer than any that is needed.
    TooLarge,
    /// 429: too many connections.
    Busy,
    /// 409: this node belongs to no cluster.
    NotMember,
    /// 409: only a manager can do it.
    NotManager,
    /// 423: the managers' state is locked.
    Locked,
    /// 500: this host could not.
    Internal,
    /// 501: not in this release.
    Unsupported,
    /// 503: no manager, or no quorum of them, can be reached.
    NoQuorum,
    /// 503: the agent is starting or stopping.
    Unavailable,
    /// 504: the answer was not found in time. What was asked for may still happen.
    Timeout,
    /// A code of a later release.
    #[serde(other)]
    Unknown,
}

impl Code {
    pub const ALL: [Self; 17] = [
        Self::BadRequest,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::Conflict,
        Self::TooLarge,
        Self::Busy,
        Self::NotMember,
        Self::NotManager,
        Self::Locked,
        Self::Internal,
        Self::Unsupported,
        Self::NoQuorum,
        Self::Unavailable,
        Self::Timeout,
        Self::Unknown,
    ];

    /// HTTP status (RFC 9110 section 15; 423 is of RFC 4918, 429 of RFC 6585).
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::Conflict | Self::NotMember | Self::NotManager => 409,
            Self::TooLarge => 413,
            Self::Locked => 423,
            Self::Busy => 429,
            Self::Internal | Self::Unknown => 500,
            Self::Unsupported => 501,
            Self::NoQuorum | Self::Unavailable => 503,
            Self::Timeout => 504,
        }
    }

    /// Whether the request itself is at fault, whatever the state of agent and cluster.
    pub const fn is_input(self) -> bool {
        matches!(
            self,
            Self::BadRequest | Self::TooLarge | Self::MethodNotAllowed
        )
    }
}

/// Why a request has no answer. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    pub code: Code,
    /// What went wrong, on what.
    pub message: String,
    /// What the operator can do; empty if the message says all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

impl ApiError {
    pub fn new(code: Code, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    /// An error of this project's own: its text ends with a colon and the remedy, if it has one.
    pub fn from_error(code: Code, error: &impl fmt::Display) -> Self {
        let text = error.to_string();
        let parts = text
            .split_once("; remedy: ")
            .or_else(|| text.rsplit_once(": "));
        match parts {
            Some((message, remedy)) if !message.is_empty() && !remedy.is_empty() => {
                Self::new(code, message, remedy)
            }
            _ => Self::new(code, text, ""),
        }
    }

    pub fn bad_request(error: &impl fmt::Display) -> Self {
        Self::from_error(Code::BadRequest, error)
    }

    pub fn conflict(error: &impl fmt::Display) -> Self {
        Self::from_error(Code::Conflict, error)
    }

    pub fn not_found(error: &impl fmt::Display) -> Self {
        Self::from_error(Code::NotFound, error)
    }

    /// This node belongs to no cluster.
    pub fn not_member() -> Self {
        Self::new(
            Code::NotMember,
            "this node is not part of a cluster",
            "make one with `overlay init`, or join one with `overlay join`",
        )
    }

    /// The managers' state cannot be read before an operator unlocks it.
    pub fn locked() -> Self {
        Self::new(
            Code::Locked,
            "the managers' state on this node is locked",
            "unlock it with `overlay unlock`",
        )
    }

    /// Only a manager can do it.
    pub fn not_manager() -> Self {
        Self::new(
            Code::NotManager,
            "this node is not a manager",
            "run the command on a manager, or promote this node with `overlay node promote` there",
        )
    }

    pub fn unavailable(what: impl Into<String>) -> Self {
        Self::new(Code::Unavailable, what, "try again in a moment")
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.remedy.is_empty() {
            Ok(())
        } else {
            write!(f, ": {}", self.remedy)
        }
    }
}

impl std::error::Error for ApiError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_project_is_parted_into_message_and_remedy() {
        let error =
            ApiError::conflict(&"subnet fd00::/64 overlaps fd00::/48 of network a: choose another");
        assert_eq!(
            error.message,
            "subnet fd00::/64 overlaps fd00::/48 of network a"
        );
        assert_eq!(error.remedy, "choose another");
        assert_eq!(
            error.to_string(),
            "subnet fd00::/64 overlaps fd00::/48 of network a: choose another"
        );
        let error =
            ApiError::conflict(&"network a: closed: no IPsec; remedy: `overlay doctor` says: more");
        assert_eq!(error.message, "network a: closed: no IPsec");
        assert_eq!(error.remedy, "`overlay doctor` says: more");
        let error = ApiError::conflict(&"no more");
        assert_eq!(
            (error.message.as_str(), error.remedy.as_str()),
            ("no more", "")
        );
    }

    #[test]
    fn codes_are_words_that_stay_and_unknown_ones_are_read() {
        for (code, word) in [
            (Code::NotFound, "not_found"),
            (Code::NoQuorum, "no_quorum"),
            (Code::NotMember, "not_member"),
        ] {
            assert_eq!(serde_json::to_value(code).unwrap(), word);
        }
        let error: ApiError =
            serde_json::from_str(r#"{"code":"of_next_year","message":"m","more":1}"#).unwrap();
        assert_eq!(error, ApiError::new(Code::Unknown, "m", ""));
        for code in Code::ALL {
            assert!((400..600).contains(&code.status()), "{code:?}");
        }
    }
}
