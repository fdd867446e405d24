use super::{
    Context, Failure, Outcome, human,
    listing::{Filters, Listing},
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    listing: Listing,
}

pub async fn run(context: &mut Context, arguments: &Arguments) -> Result<Outcome, Failure> {
    let filters = &arguments.filters;
    filters.check(&["name", "status"])?;
    let mut peers = context.client.peers().await?;
    peers.retain(|peer| {
        filters.takes("name", |part| peer.name.contains(part))
            && filters.takes("status", |status| peer.status.name() == status)
    });
    arguments.listing.print(
        context,
        &peers,
        |peer| peer.name.clone(),
        [
            "PEER",
            "STATUS",
            "ADDRESS",
            "DEVICE",
            "MTU",
            "ENCRYPTION",
            "EPOCH",
            "SENT",
            "RECEIVED",
        ],
        |peer| {
            let optional = |number: Option<u32>| number.map_or("–".into(), |n| n.to_string());
            let encryption = match (&peer.closed, peer.epoch) {
                (Some(_), _) => "closed".to_owned(),
                (None, Some(_)) => {
                    format!(
                        "{} SA{}",
                        peer.lanes,
                        if peer.lanes == 1 { "" } else { "s" }
                    )
                }
                (None, None) => "–".to_owned(),
            };
            [
                peer.name.clone(),
                peer.status.name().into(),
                peer.vtep.to_string(),
                peer.device.clone().unwrap_or_else(|| "–".into()),
                optional(peer.path_mtu),
                encryption,
                optional(peer.epoch),
                human::bytes(peer.tx_bytes),
                human::bytes(peer.rx_bytes),
            ]
        },
    )?;
    let mut outcome = Outcome::Good;
    for peer in &peers {
        if let Some(why) = &peer.closed {
            outcome = Outcome::Problem;
            context
                .terminal
                .note(format!("overlay: {} is closed: {why}", peer.name))?;
        }
    }
    Ok(outcome)
}
