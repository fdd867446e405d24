//! The `nft` command, JSON in and out.

use serde_json::{Value, json};

use super::{
    Error,
    command::{self, Output},
    table,
};
use crate::dataplane::objects::ForeignChain;

const NFT: &str = "nft";

/// The objects of our table; `None` if there is none.
pub(super) async fn list_table() -> Result<Option<Vec<Value>>, Error> {
    let output = run(&["-j", "list", "table", table::FAMILY, table::NAME], b"").await?;
    if !output.success && is_missing(&output) {
        return Ok(None);
    }
    objects(output, "list the overlay's table").map(Some)
}

/// Every table, and every chain of each.
pub(super) async fn list_chains() -> Result<Vec<Value>, Error> {
    let output = run(&["-j", "list tables; list chains"], b"").await?;
    objects(output, "list tables and chains")
}

/// A chain and its rules; nothing if it has just gone.
pub(super) async fn list_chain(chain: &ForeignChain) -> Result<Vec<Value>, Error> {
    let Some(family) = super::foreign::family(chain.family) else {
        return Ok(Vec::new());
    };
    let arguments = [
        "-j",
        "-a",
        "list",
        "chain",
        family,
        &chain.table,
        &chain.chain,
    ];
    let output = run(&arguments, b"").await?;
    if !output.success && is_missing(&output) {
        return Ok(Vec::new());
    }
    objects(output, "list a chain")
}

/// Executes commands in one transaction.
pub(super) async fn apply(action: &str, commands: Vec<Value>) -> Result<(), Error> {
    if commands.is_empty() {
        return Ok(());
    }
    let script = json!({ "nftables": commands }).to_string();
    let output = run(&["-j", "-f", "-"], script.as_bytes()).await?;
    succeeded(&output, action)
}

async fn run(arguments: &[&str], input: &[u8]) -> Result<Output, Error> {
    command::run(NFT, arguments, input)
        .await?
        .ok_or(Error::NftMissing)
}

fn is_missing(output: &Output) -> bool {
    output.stderr.contains("No such file or directory")
}

fn succeeded(output: &Output, action: &str) -> Result<(), Error> {
    if output.success {
        return Ok(());
    }
    Err(Error::Refused {
        program: NFT,
        action: action.to_owned(),
        said: output.stderr.clone(),
    })
}

fn objects(output: Output, action: &str) -> Result<Vec<Value>, Error> {
    succeeded(&output, action)?;
    // Nothing at all is printed where there is nothing to list, by some versions.
    if output.stdout.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let unreadable = |reason: String| Error::Output {
        program: NFT,
        reason,
    };
    // One document for each command.
    let mut all = Vec::new();
    for document in serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>() {
        let mut document = document.map_err(|error| unreadable(error.to_string()))?;
        match document.get_mut("nftables").map(Value::take) {
            Some(Value::Array(objects)) => all.extend(objects),
            _ => return Err(unreadable("it has no list `nftables`".to_owned())),
        }
    }
    Ok(all)
}
