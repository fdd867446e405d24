//! Errors of the parts, in terms of the API.

use overlay_cluster::{
    control::member::{MemberRefused, ProposeRefused},
    log::refusal::Refusal,
};

use super::RunError;
use crate::{
    api::{ApiError, Code},
    daemon::node::UpstreamError,
};

/// This host is a node, and its agent could not go on with it.
pub fn broken(why: &str) -> ApiError {
    ApiError::new(
        Code::Unavailable,
        format!("this node does not run: {why}"),
        "mend that and restart the agent, or give the membership up with `overlay leave --force`",
    )
}

pub fn run(error: &RunError) -> ApiError {
    let code = match error {
        RunError::Listen { .. } => Code::Conflict,
        RunError::Managers(crate::daemon::managers::ManagersError::Refused(refused)) => {
            return propose(refused);
        }
        _ => Code::Internal,
    };
    ApiError::from_error(code, error)
}

/// Why a command is not in the log.
pub fn propose(refused: &ProposeRefused) -> ApiError {
    let code = match refused {
        ProposeRefused::Denied(_) => return denied(refused),
        ProposeRefused::Log(refusal) => log(refusal),
        ProposeRefused::NotLeader { .. } | ProposeRefused::NoLeader(_) => Code::NoQuorum,
        ProposeRefused::Undecided(_) => Code::Timeout,
        ProposeRefused::Majority(_) => Code::Conflict,
    };
    ApiError::from_error(code, refused)
}

fn denied(refused: &ProposeRefused) -> ApiError {
    ApiError::from_error(Code::NotManager, refused)
}

const fn log(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::NotInitialised => Code::Unavailable,
        _ => Code::Conflict,
    }
}

/// Why the managers did not do what was asked.
pub fn upstream(error: &UpstreamError) -> ApiError {
    match error {
        UpstreamError::Refused(refused) => match &**refused {
            MemberRefused::Proposal(refused) => propose(refused),
            refused => ApiError::conflict(refused),
        },
        UpstreamError::PutOut(_) => ApiError::from_error(Code::NotMember, error),
        UpstreamError::NoManager | UpstreamError::Unreachable(_) => ApiError::new(
            Code::NoQuorum,
            error.to_string(),
            "traffic goes on meanwhile; see `overlay status` on a manager",
        ),
        UpstreamError::Undecided(_) => ApiError::from_error(Code::Timeout, error),
        UpstreamError::Unexpected | UpstreamError::Secrets(_) | UpstreamError::Update(_) => {
            ApiError::from_error(Code::Internal, error)
        }
    }
}

/// Something of this host failed.
pub fn host(error: &impl std::fmt::Display) -> ApiError {
    ApiError::from_error(Code::Internal, error)
}
