use std::time::Duration;

use clap::Subcommand;
use overlay_cluster::identity::Role;

use super::{
    Context, Failure, Format, Outcome, human, listing::json, membership::how_to_join, values,
};
use crate::api::{
    Time,
    cluster::{JoinToken, RotateToken},
};

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Show how to add a node
    Show(Arguments),
    /// Make a new token; the old one opens nothing any more
    Rotate(RotateArguments),
}

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// What a node becomes: worker or manager
    #[arg(value_name = "ROLE", value_parser = ["worker", "manager"])]
    role: String,
    /// Only the token
    #[arg(short, long, conflicts_with = "format")]
    quiet: bool,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub struct RotateArguments {
    #[command(flatten)]
    token: Arguments,
    /// Let it expire, such as 1h or 7d [default: never]
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    expires: Option<Duration>,
}

pub async fn run(context: &mut Context, token: &Token) -> Result<Outcome, Failure> {
    match token {
        Token::Show(arguments) => {
            let token = context.client.token(role(arguments)?).await?;
            print(context, arguments, &token, "")
        }
        Token::Rotate(rotate) => {
            let request = RotateToken {
                expires_in_seconds: rotate.expires.map(|expires| expires.as_secs()),
            };
            let role = role(&rotate.token)?;
            let token = context.client.rotate_token(role, request).await?;
            let done = format!("Rotated the {role} token.\n\n");
            print(context, &rotate.token, &token, &done)
        }
    }
}

fn role(arguments: &Arguments) -> Result<Role, Failure> {
    arguments.role.parse().map_err(Failure::input)
}

fn print(
    context: &mut Context,
    arguments: &Arguments,
    token: &JoinToken,
    done: &str,
) -> Result<Outcome, Failure> {
    let text = match arguments.format {
        _ if arguments.quiet => format!("{}\n", token.token.expose()),
        Format::Json => json(token)?,
        Format::Table => {
            let how = how_to_join(token.role, &token.token, &token.managers);
            let expires = token.expires.map_or(String::new(), |expires| {
                let left = human::about(expires.until(Time::now()));
                format!("It expires in {left} ({expires}).\n")
            });
            format!(
                "{done}{}{expires}",
                how.trim_end_matches('\n').to_owned() + "\n"
            )
        }
    };
    context.terminal.print(text)?;
    Ok(Outcome::Good)
}
