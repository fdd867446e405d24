//! Refusals of the cluster core, as errors of the API.

use overlay_cluster::log::{networks::NetworkRefusal, refusal::Refusal, roster::RosterRefusal};

use super::{ApiError, Code};
use crate::member::attach::{AttachError, NoEndpoint};

impl From<&Refusal> for ApiError {
    fn from(refusal: &Refusal) -> Self {
        let code = match refusal {
            Refusal::NotInitialised => Code::NotMember,
            Refusal::Roster(refusal) => of_roster(refusal),
            Refusal::Network(refusal) => of_network(refusal),
            Refusal::Settings(_) => Code::BadRequest,
            _ => Code::Conflict,
        };
        Self::from_error(code, refusal)
    }
}

fn of_roster(refusal: &RosterRefusal) -> Code {
    match refusal {
        RosterRefusal::Unknown(_) => Code::NotFound,
        RosterRefusal::Contact(_) => Code::BadRequest,
        RosterRefusal::Evicted { .. } => Code::Forbidden,
        _ => Code::Conflict,
    }
}

fn of_network(refusal: &NetworkRefusal) -> Code {
    match refusal {
        NetworkRefusal::Unknown(_) => Code::NotFound,
        NetworkRefusal::Subnet(_)
        | NetworkRefusal::Subnets { .. }
        | NetworkRefusal::Mtu(_)
        | NetworkRefusal::TooManyRules { .. } => Code::BadRequest,
        NetworkRefusal::Attach(_) => Code::Forbidden,
        _ => Code::Conflict,
    }
}

impl From<&AttachError> for ApiError {
    fn from(error: &AttachError) -> Self {
        let code = match error {
            AttachError::UnknownNetwork(_) => Code::NotFound,
            AttachError::Refused(_) => Code::Forbidden,
            AttachError::Name(_)
            | AttachError::BadMac(_)
            | AttachError::Family { .. }
            | AttachError::TooMany(_) => Code::BadRequest,
            AttachError::NameTaken { .. }
            | AttachError::MacTaken { .. }
            | AttachError::Address(_)
            | AttachError::Lease { .. } => Code::Conflict,
        };
        Self::from_error(code, error)
    }
}

impl From<&NoEndpoint> for ApiError {
    fn from(error: &NoEndpoint) -> Self {
        Self::not_found(error)
    }
}

#[cfg(test)]
mod tests {
    use overlay_cluster::{id::NodeId, log::networks::AttachRefusal};

    use super::*;

    #[test]
    fn refusals_keep_their_words_and_get_a_code() {
        let unknown = RosterRefusal::Unknown(NodeId::from_bytes([1; 16]));
        let error = ApiError::from(&Refusal::Roster(unknown));
        assert_eq!(error.code, Code::NotFound);
        assert_eq!(error.remedy, "`overlay node ls` lists them");
        let managed = AttachRefusal::Managed {
            network: "n".parse().unwrap(),
        };
        let error = ApiError::from(&AttachError::Refused(managed));
        assert_eq!(error.code, Code::Forbidden);
        assert!(error.remedy.contains("--attachable"), "{error}");
        let error = ApiError::from(&Refusal::NotInitialised);
        assert_eq!(error.code, Code::NotMember);
    }
}
